//! [`Replica`]: one SQLite database that syncs.

use crate::catalog::Catalog;
use crate::changes::Origin;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::kept;
use crate::scrub;
use crate::sites::Sites;
use crate::storage;
use crate::upload::send_everything_again;
use cloudsync_core::clock::{SiteOrdinal, TIME_MAX};
use cloudsync_core::id::SiteId;
use cloudsync_sqlite_ffi::{Connection, Savepoint, Shelf, Transaction, TransactionState, Value};
use std::rc::Rc;

/// How long a locked file is retried, in milliseconds, unless the setting `busy_ms` says otherwise.
pub(crate) const BUSY_MS_DEFAULT: u64 = 5_000;
/// How often an apply begins that finds the schema changed once it has the lock.
const APPLY_BEGINNINGS_MAX: u32 = 10;

/// One SQLite database that syncs, through one connection.
///
/// The connection stays the host's: nothing is left open in it between calls, no hook is taken, and no setting of
/// it remains changed, unless the replica was told that it [has it for itself](Self::own_connection).
pub struct Replica {
    pub(crate) db: Connection,
    pub(crate) environment: Rc<dyn Environment>,
    pub(crate) catalog: Catalog,
    pub(crate) sites: Sites,
    pub(crate) sent: Option<crate::device::Sent>,
    /// Where the next slice of rows is checked.
    pub(crate) rolling: crate::check::Rolling,
    /// Set while `transact` runs.
    transacting: bool,
    /// What the applies of the transaction at hand leave to its end.
    pub(crate) unsettled: crate::settle::Unsettled,
    /// Set while an apply runs for an app that enforces foreign keys.
    pub(crate) checks_parents: bool,
    /// Set while an apply runs in the file of somebody who may not see everything: parents may be invisible.
    pub(crate) sees_part: bool,
    /// Set while an answer is taken in: where the own writes begin that were not sent before its request.
    pub(crate) unseen_from: Option<crate::conflicts::UnseenFrom>,
    /// The last version in the round that the answer which is taken in belongs to.
    pub(crate) offered_version: u64,
    /// How large slices are.
    pub(crate) fold_pace: crate::slices::Pace,
    pub(crate) apply_pace: crate::slices::Pace,
    /// Rows that the apply at hand leaves out.
    pub(crate) rolling_back: crate::rollback::RollingBack,
    /// Set while an apply runs.
    pub(crate) applying: Option<crate::apply::Applying>,
    /// Set while an apply runs beside triggers of the app.
    pub(crate) guard: Option<Rc<crate::guard::Guard>>,
    /// Guards of the last apply, on a connection that nobody else uses.
    pub(crate) kept_guards: crate::guard::KeptGuards,
    /// On a connection that nobody else uses: whether foreign keys are enforced there.
    pub(crate) owns: Option<ForeignKeys>,
}

/// Whether foreign keys are enforced where a replica has a connection for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignKeys {
    /// Parents of rows that come are looked up.
    Enforced,
    /// They are not.
    Ignored,
}

/// A transaction of our own, or a savepoint inside the app's.
pub(crate) enum Scope {
    Own(Transaction),
    Inner(Savepoint),
}

impl Replica {
    /// Looks at the database behind `connection`. Nothing is created or written.
    ///
    /// # Errors
    /// When a newer version wrote the file.
    pub fn open(connection: Connection, environment: Rc<dyn Environment>) -> Result<Self> {
        let replica = Self {
            db: connection,
            environment,
            catalog: Catalog::default(),
            sites: Sites::default(),
            sent: None,
            rolling: crate::check::Rolling::default(),
            transacting: false,
            unsettled: crate::settle::Unsettled::default(),
            checks_parents: false,
            sees_part: false,
            unseen_from: None,
            offered_version: 0,
            fold_pace: crate::slices::Pace::default(),
            apply_pace: crate::slices::Pace::default(),
            rolling_back: crate::rollback::RollingBack::default(),
            applying: None,
            guard: None,
            kept_guards: crate::guard::KeptGuards::default(),
            owns: None,
        };
        if storage::exists(&replica.db)? {
            storage::check_format(&replica.db)?;
        }
        Ok(replica)
    }

    /// Says that nobody else uses the connection. What an apply sets there stays set then: after each change of a setting SQLite
    /// compiles all statements anew.
    pub const fn own_connection(&mut self, foreign_keys: ForeignKeys) {
        self.owns = Some(foreign_keys);
    }

    /// The connection.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.db
    }

    /// Creates the replica's tables and its site id where they are missing.
    ///
    /// # Errors
    /// When the file cannot be written, or a newer version wrote it.
    pub fn create(&mut self) -> Result<SiteId> {
        self.transact(|replica| {
            storage::create(&replica.db)?;
            storage::check_format(&replica.db)?;
            replica.sites.refresh(&replica.db)?;
            if storage::get_i64(&replica.db, "site")?.is_none() {
                replica.take_new_site()?;
                replica.remember_file()?;
            }
            replica.site_id()
        })
    }

    /// True when the database has the tables of a replica.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn exists(&self) -> Result<bool> {
        storage::exists(&self.db)
    }

    /// The id of this replica.
    ///
    /// # Errors
    /// When no table was ever synced here.
    pub fn site_id(&mut self) -> Result<SiteId> {
        self.require()?;
        if self.db.is_autocommit() && self.is_copy()? && !self.db.is_readonly("main")? {
            // The transaction itself takes another id.
            self.transact(|_| Ok(()))?;
        }
        self.sites.refresh(&self.db)?;
        self.sites.id(self.own_site()?)
    }

    /// The last version of this replica: of folds and applies, 0 before the first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn version(&self) -> Result<u64> {
        if self.exists()? { crate::changes::last_version(&self.db) } else { Ok(0) }
    }

    /// Turns the notes of local writes into clocks and a version.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn fold(&mut self) -> Result<crate::fold::Folded> {
        self.require()?;
        self.transact(Self::fold_in_transaction)
    }

    /// True when the app wrote what has not been folded yet, or the schema changed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn needs_fold(&self) -> Result<bool> {
        let noted = self.db.query_i64("SELECT 1 FROM main.cloudsync_log LIMIT 1", &[])?.is_some();
        Ok(noted || !self.has_followed()?)
    }

    /// The schema of all enabled tables.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn schema(&mut self) -> Result<cloudsync_protocol::schema::Schema> {
        self.catalog.load(&self.db)?;
        Ok(self.catalog.schema())
    }

    /// Says that the calling function is of no use before a table syncs.
    pub(crate) fn require(&self) -> Result<()> {
        if self.exists()? {
            storage::check_format(&self.db)
        } else {
            Err(Error::state("no table of this database syncs yet: call cloudsync_init('<table>') first"))
        }
    }

    /// The ordinal of this replica's own site.
    pub(crate) fn own_site(&self) -> Result<SiteOrdinal> {
        let own = storage::get_i64(&self.db, "site")?.and_then(|own| u32::try_from(own).ok());
        own.map(SiteOrdinal).ok_or_else(|| Error::corrupt("setting site"))
    }

    /// Takes a new random site id; what was agreed with a server under the old one is void.
    pub(crate) fn take_new_site(&mut self) -> Result<()> {
        let mut id = [0; 16];
        self.environment.random(&mut id);
        self.sites.refresh(&self.db)?;
        let ordinal = self.sites.ordinal(&self.db, SiteId(id))?;
        storage::set(&self.db, "site", Value::Integer(i64::from(ordinal.0)))?;
        if self.is_part()? {
            scrub::call(&self.db)?;
        }
        self.forget_agreement()
    }

    /// Begins from nothing with a server of which is not known what it has: another one than before, or one that lost turns.
    /// It gets everything that is known here, whoever wrote it.
    pub(crate) fn meet_as_stranger(&self) -> Result<()> {
        // What waits here, or is kept for names to come, may be lost there: it counts as brought by hand. So it goes to the
        // server once it gets in, and until then its row is compared. What the server still has comes from it once more.
        // But of what is kept by somebody who may not see everything nobody tells any more that it must go.
        let (servers, by_hand) = (Origin::Server.code(), Origin::File.code());
        let waiting: &[_] = if self.is_part()? {
            &["cloudsync_quarantine"]
        } else {
            &["cloudsync_quarantine", "cloudsync_kept"]
        };
        for waiting in waiting {
            let sql = format!("UPDATE main.{waiting} SET origin = ?2 WHERE origin = ?1");
            self.db.prepare(&sql)?.run(&[Value::Integer(servers), Value::Integer(by_hand)])?;
        }
        self.forget_agreement()?;
        send_everything_again(&self.db)
    }

    /// Forgets nonce, cursor, open rounds and downloads: the next round begins from nothing.
    pub(crate) fn forget_agreement(&self) -> Result<()> {
        for key in ["nonce", "cursor", "position", "round", "epoch", "fingerprint", "verdicts_left"] {
            storage::unset(&self.db, key)?;
        }
        self.db.execute("DELETE FROM main.cloudsync_inbox")?;
        kept::begin_again(&self.db)
    }

    /// The local clock, in bounds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.now_ms().min(TIME_MAX.0 / 2)
    }

    /// The server's clock as far as it is known: the local one and the offset that the last answers showed.
    pub(crate) fn server_now_ms(&self) -> Result<u64> {
        let offset = storage::get_i64(&self.db, "clock_offset")?.unwrap_or(0);
        Ok(self.now_ms().saturating_add_signed(offset))
    }

    /// Runs `act` in a transaction of our own, or in a savepoint if the app has one open. Any error undoes it all.
    pub fn transact<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _open = Shelf::new(self.db).open();
        let nested = self.transacting;
        let scope = self.begin().map_err(|error| self.explain(error))?;
        let in_apps = !nested && matches!(scope, Scope::Inner(_));
        self.transacting = true;
        let outcome = act(self).and_then(|value| self.commit(scope).map(|()| value));
        self.transacting = nested;
        if outcome.is_err() {
            self.unsettled = crate::settle::Unsettled::default();
        }
        // The app may yet roll back what was read or made in its transaction.
        if outcome.is_err() || in_apps {
            self.catalog.clear();
            self.sites.clear();
        }
        outcome.map_err(|error| self.explain(error))
    }

    fn begin(&mut self) -> Result<Scope> {
        let scope = if self.db.is_autocommit() {
            Scope::Own(self.begin_own()?)
        } else {
            Scope::Inner(self.db.savepoint("cloudsync")?)
        };
        if self.exists()? {
            self.sites.refresh(&self.db)?;
            if matches!(scope, Scope::Own(_)) {
                self.part_from_copies()?;
            }
        }
        Ok(scope)
    }

    /// Takes the lock. What an apply has set before fits the schema that nobody else can change from here on.
    fn begin_own(&mut self) -> Result<Transaction> {
        for _ in 0..APPLY_BEGINNINGS_MAX {
            // An apply that runs has its own guards.
            if self.applying.is_none() {
                crate::guard::drop_left(&self.db)?;
            }
            let transaction = self.while_busy(|db| db.begin_immediate())?;
            if self.applies_as_set()? {
                return Ok(transaction);
            }
            drop(transaction);
            self.begin_applying_again()?;
        }
        Err(Error::Busy("its tables or triggers change all the time".to_owned()))
    }

    fn commit(&self, scope: Scope) -> Result<()> {
        match scope {
            // Without a WAL a reader can hold up a commit, which may be tried again; its guard then finds it done.
            Scope::Own(_guard) => self.while_busy(|db| db.execute("COMMIT")),
            Scope::Inner(savepoint) => Ok(savepoint.commit()?),
        }
    }

    /// The host's busy handler stays as it is, and the many hosts that have none still wait their turn.
    fn while_busy<T>(&self, act: impl Fn(&Connection) -> cloudsync_sqlite_ffi::Result<T>) -> Result<T> {
        let mut waited_ms = 0;
        let mut pause_ms = 1;
        loop {
            let error = match act(&self.db) {
                Ok(value) => return Ok(value),
                Err(error) if error.is_busy() => error,
                Err(error) => return Err(error.into()),
            };
            if waited_ms >= self.busy_ms() {
                return Err(Error::Busy(error.message));
            }
            self.environment.pause(pause_ms);
            waited_ms += pause_ms;
            pause_ms = (pause_ms * 2).min(50);
        }
    }

    fn busy_ms(&self) -> u64 {
        // A file that is locked outright cannot tell its setting either.
        storage::get_u64(&self.db, "busy_ms").ok().filter(|ms| *ms > 0).unwrap_or(BUSY_MS_DEFAULT)
    }

    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Sqlite(error) if error.is_readonly() => {
                Error::State(format!("the database is read-only: {}", error.message))
            }
            Error::Sqlite(error) if error.is_busy() => Error::Busy(error.message),
            error => error,
        }
    }

    /// Refuses a call that must see and make durable states only.
    ///
    /// # Errors
    /// Inside an open transaction.
    pub fn require_no_transaction(&self) -> Result<()> {
        let writing = self.db.transaction_state(Some("main"))? == TransactionState::Write;
        if writing || !self.db.is_autocommit() {
            return Err(Error::state("commit first: this does not run inside a transaction"));
        }
        Ok(())
    }
}

/// What a server needs beside a device: it is a replica that others ask.
impl Replica {
    /// Makes this replica number its rows, with ordinals that are never given twice.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn give_ordinals(&self) -> Result<()> {
        if storage::is_set(&self.db, crate::clocks::NEXT_ORDINAL)? {
            return Ok(());
        }
        storage::set(&self.db, crate::clocks::NEXT_ORDINAL, Value::Integer(0))
    }

    /// Folds within the caller's transaction.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn fold_here(&mut self) -> Result<crate::fold::Folded> {
        self.fold_in_transaction()
    }

    /// Refuses to go on while a table is being altered.
    ///
    /// # Errors
    /// Then, and when the file cannot be read.
    pub fn require_settled(&mut self) -> Result<()> {
        self.catalog.load(&self.db)?;
        self.catalog.require_settled()
    }

    /// A number stored under a name of the server's.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn state_number(&self, name: &str) -> Result<Option<i64>> {
        storage::get_i64(&self.db, name)
    }

    /// Stores a number under a name of the server's.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_state_number(&self, name: &str, number: u64) -> Result<()> {
        storage::set_u64(&self.db, name, number)
    }

    /// The local clock, in milliseconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now_ms()
    }

    /// A table or column of the payload that does not sync here, for people to read; `None` if all do.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn unknown_name(
        &mut self,
        payload: &cloudsync_protocol::payload::Payload<'_>,
    ) -> Result<Option<String>> {
        self.catalog.load(&self.db)?;
        for group in payload.groups() {
            let Some(table) = self.catalog.table_named(group.table()).filter(|table| table.enabled) else {
                return Ok(Some(format!("table \"{}\"", group.table())));
            };
            if let Some(column) = group.columns().iter().find(|name| table.cell_named(name).is_none()) {
                return Ok(Some(format!("column \"{column}\" of table \"{}\"", table.name)));
            }
        }
        Ok(None)
    }
}
