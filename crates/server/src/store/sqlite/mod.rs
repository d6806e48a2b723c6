//! The embedded store: a database is one ordinary SQLite file, and the server is one more replica of it.
//!
//! One thread writes (`writer`); turns that wait while it commits are taken together in its next transaction, so that
//! many devices share one flush to disk. `turn` is what it does with one of them: `standing` has what a request is
//! judged by, `staging` the chunks of incomplete rounds, `schema` the tables of devices. What a device receives is read beside it (`reader`), on connections of their
//! own. Whatever a plain `sqlite3` shell wrote to the file is folded before anything is read.
//!
//! Beside the replica's own tables the file holds:
//!
//! | table | holds |
//! | --- | --- |
//! | `cloudsync_server_sites` | the nonce and last round of every site that uploaded |
//! | `cloudsync_server_verdicts` | what a site was told of rows of its last round that were not let in |
//! | `cloudsync_server_staging` | chunks of rounds that are not complete |
//! | `cloudsync_server_policies` | every change of a policy |
//! | `cloudsync_server_schemas` | fingerprints of device schemas that were found to fit |
//! | `cloudsync_server_ledger` | which rows each device of a user may hold and surely holds |
//! | `cloudsync_server_downloads` | what was sent to such a device since its ledger was last sure |
//! | `cloudsync_server_watched` | rows that changed in tables that policies read |

mod checks;
mod connection;
mod host;
mod observer;
mod place;
mod policies;
mod reader;
mod schema;
mod staging;
mod standing;
mod turn;
mod writer;

use self::connection::Wrapped;
pub use self::host::{FileId, Host, Located, SystemHost};
use self::observer::Observer;
use self::place::Place;
pub use self::policies::{
    Changed, Shown, change_policies, plan_policy, policies, policy_history, probe_policies,
};
use self::reader::{Pulled, Readers, Ready};
use self::turn::{Outcome, Taken};
use self::writer::Writer;
use super::{Asker, Store, StoreError};
use crate::auth::User;
use crate::events::Feed;
use crate::schema_check::{self, Finding, Subject};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::{Answer, Refusal, Request, Turn};
use cloudsync_replica::{Checkup, FLAG_INTEGER_KEY};
use rusqlite::OpenFlags;
use std::path::Path;
use std::sync::Arc;

// language=SQLite
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS cloudsync_server_sites(
    site_id BLOB PRIMARY KEY, nonce INTEGER NOT NULL, round BLOB NOT NULL, quarantined INTEGER NOT NULL,
    seen_at INTEGER NOT NULL, user TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cloudsync_server_verdicts(
    site_id BLOB PRIMARY KEY, verdicts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_server_staging(
    site_id BLOB NOT NULL, round BLOB NOT NULL, chunk INTEGER NOT NULL, staged_at INTEGER NOT NULL,
    payload BLOB NOT NULL, PRIMARY KEY(site_id, chunk));
CREATE TABLE IF NOT EXISTS cloudsync_server_schemas(
    device INTEGER NOT NULL, server INTEGER NOT NULL, PRIMARY KEY(device, server)) WITHOUT ROWID;
";

/// A table that syncs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SyncedTable {
    /// Its name.
    pub name: String,
    /// How its rows merge.
    pub algorithm: String,
}

/// A store in a SQLite file.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    observer: Observer,
    feed: Arc<Feed>,
    place: Place,
}

impl SqliteStore {
    /// Opens the file, creating what is missing in it, and starts the writer.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be opened or was written by a newer version.
    pub fn open(file: impl Into<Located>) -> Result<Self, StoreError> {
        let file = file.into();
        let feed = Arc::new(Feed::default());
        let writer = Writer::start(&file, Arc::clone(&feed))?;
        let place = Place::remember(&file)?;
        let observer = Observer::new(file.path.clone());
        Ok(Self { writer, readers: Readers::new(file), observer, feed, place })
    }

    fn answer(&self, request: &Request<'_>, asker: &Asker, now_ms: u64) -> Result<Vec<u8>, StoreError> {
        // Most turns of most devices bring nothing and are answered without the writer.
        if request.upload.is_none()
            && request.schema.is_none()
            && let Some(Ready { epoch, nonce, pulled }) = self.readers.turn(request, asker, now_ms)?
        {
            let taken = Taken { epoch, nonce, accepted: None, verdicts: Vec::new() };
            return self.hand_over(&taken, pulled, now_ms);
        }
        match self.writer.turn(request, asker, now_ms)? {
            Outcome::Refused(refusal) => Ok(Answer::Refusal(refusal).encode()),
            Outcome::Taken(taken) => {
                // What was committed under the site's name before may be a copy's: it must come back.
                let repeated = taken.accepted.is_some_and(|accepted| accepted.repeated);
                let request = &Request { echo: request.echo || repeated, ..request.clone() };
                // Another process may write the file all the while; the writer folds that too.
                for _ in 0..8 {
                    if let Some(pulled) = self.readers.pull(request, asker)? {
                        return self.hand_over(&taken, pulled, now_ms);
                    }
                    self.writer.fold()?;
                }
                Err(StoreError::Busy("another process writes to the database all the time".to_owned()))
            }
        }
    }

    /// The answer, once the ledger has on disk what it brings.
    fn hand_over(&self, taken: &Taken, pulled: Pulled, now_ms: u64) -> Result<Vec<u8>, StoreError> {
        if let Some(posting) = pulled.posting {
            self.writer.post(posting)?;
        }
        Ok(Answer::Turn(Turn {
            epoch: taken.epoch,
            nonce: taken.nonce,
            now: now_ms,
            accepted: taken.accepted,
            drained: pulled.next.is_none(),
            cursor: pulled.cursor,
            position: pulled.next.as_deref().unwrap_or_default(),
            rows_total: pulled.rows_total,
            verdicts: &taken.verdicts,
            checked: &pulled.checked,
            payload: &pulled.payload,
        })
        .encode())
    }
}

impl Store for SqliteStore {
    fn turn(&self, request: &Request<'_>, asker: &Asker, now_ms: u64) -> Result<Vec<u8>, StoreError> {
        self.place.check()?;
        let answer = self.answer(request, asker, now_ms)?;
        // What was committed to a file without a name is not acknowledged.
        self.place.check()?;
        Ok(answer)
    }

    fn concerns(&self, user: &User, site: SiteId, version: u64) -> Result<bool, StoreError> {
        self.readers.concerns(user, site, version)
    }

    fn recomputations(&self) -> u64 {
        self.readers.recomputations()
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        self.place.check()?;
        self.observer.on_change(|| if self.readers.needs_fold()? { self.writer.fold() } else { Ok(()) })
    }
}

/// Begins a new epoch in a file that was restored, later than `after`: all devices send what they hold that is newer, and
/// fetch the rest. A file that never synced is left as it is.
///
/// # Errors
/// [`StoreError`] when the file cannot be written, or is of a newer version.
pub fn begin_epoch(file: impl Into<Located>, after: u64) -> Result<(), StoreError> {
    let mut file = Wrapped::open(&file.into())?;
    if !file.replica.exists()? {
        return Ok(());
    }
    file.replica.transact(|replica| {
        let epoch = replica.state_number("epoch")?.unwrap_or(0) as u64;
        replica.set_state_number("epoch", replica.now().max(epoch.max(after) + 1))
    })?;
    Ok(())
}

/// The epoch of a file, 0 if it never synced.
///
/// # Errors
/// [`StoreError`] when the file cannot be read.
pub fn epoch(file: impl Into<Located>) -> Result<u64, StoreError> {
    let file = Wrapped::open(&file.into())?;
    Ok(if file.replica.exists()? { file.replica.state_number("epoch")?.unwrap_or(0) as u64 } else { 0 })
}

/// Makes a table of the database in a file sync. A server that has the file open obeys at its next turn.
///
/// # Errors
/// [`StoreError`] when the table cannot sync; the text has the remedy.
pub fn enable_table(file: impl Into<Located>, table: &str, algorithm: &str) -> Result<(), StoreError> {
    let mut file = Wrapped::open(&file.into())?;
    let known = file.replica.is_enabled(table);
    match known {
        Ok(true) => Ok(()),
        // Who has no such table yet, or joined meanwhile, has a cursor beyond its changes.
        Ok(false) => Ok(file.replica.enable_and_offer(table)?),
        Err(_) => Ok(file.replica.init(table, algorithm, FLAG_INTEGER_KEY).map(drop)?),
    }
}

/// What stands in the way of a table's syncing, and what will surprise its owner. Nothing is changed. That it cannot sync
/// at all is a finding too.
///
/// # Errors
/// [`StoreError`] when the file cannot be read.
pub fn check_table(file: impl Into<Located>, table: &str) -> Result<Vec<Finding>, StoreError> {
    let mut file = Wrapped::open(&file.into())?;
    let (name, columns) = match file.replica.check_table(table, FLAG_INTEGER_KEY) {
        Ok(found) => found,
        Err(cloudsync_replica::Error::Usage(text)) => return Ok(vec![Finding::cannot_sync(table, text)]),
        Err(error) => return Err(error.into()),
    };
    let synced = if file.replica.exists()? { file.replica.schema()?.tables } else { Vec::new() };
    let synced: Vec<_> = synced.into_iter().map(|table| table.name).collect();
    let (policies, _, connection) = file.law.now()?;
    let (columns, synced) = (columns.as_slice(), synced.as_slice());
    Ok(schema_check::check(&mut Subject { connection, table: &name, columns, synced, policies })?)
}

/// Looks at the synced tables of a file without changing it, as [`Replica::checkup`](cloudsync_replica::Replica::checkup),
/// and whether what was evicted is still in it.
///
/// # Errors
/// [`StoreError`] when the file cannot be read.
pub fn checkup(
    path: &Path,
    rows_max: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<(Vec<Checkup>, bool), StoreError> {
    let mut file = Wrapped::open_as_it_is(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    file.db.execute("BEGIN")?;
    let looked = file.replica.checkup(rows_max, progress)?;
    Ok((looked, file.replica.is_scrub_due()?))
}

/// What is wrong with what is stored beside the app's tables; `None` if nothing is.
///
/// # Errors
/// [`StoreError`] when the file cannot be read.
pub fn internal_faults(path: &Path, rows_max: u64) -> Result<Option<Vec<String>>, StoreError> {
    connection::with_bare(path, |db| {
        db.execute("BEGIN")?;
        if !cloudsync_replica::has_internals(db)? {
            return Ok(None);
        }
        Ok(Some(cloudsync_replica::internal_faults(db, rows_max)?))
    })
}

/// Mends what is safe to mend in a file, and says what that was.
///
/// # Errors
/// [`StoreError`] when the file cannot be written.
pub fn mend(path: &Path) -> Result<Vec<&'static str>, StoreError> {
    let (before, scrub_due) = checkup(path, 0, &mut |_| {})?;
    let mut mended = Vec::new();
    let mut file = Wrapped::open_as_it_is(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    if before.iter().any(|checkup| checkup.triggers.is_some()) {
        file.replica.mend_triggers()?;
        mended.push("triggers were made anew");
    }
    if scrub_due {
        file.replica.scrub()?;
        if !file.replica.is_scrub_due()? {
            mended.push("what was evicted is gone from the file");
        }
    }
    Ok(mended)
}

/// Switches a table off: its rows stay, and devices are told that it does not sync.
///
/// # Errors
/// [`StoreError`] when the table does not sync.
pub fn disable_table(file: impl Into<Located>, table: &str) -> Result<(), StoreError> {
    Ok(Wrapped::open(&file.into())?.replica.set_enabled(table, false)?)
}

/// The tables that sync, by name.
///
/// # Errors
/// [`StoreError`] when the file cannot be read.
pub fn list_tables(file: impl Into<Located>) -> Result<Vec<SyncedTable>, StoreError> {
    let mut file = Wrapped::open(&file.into())?;
    if !file.replica.exists()? {
        return Ok(Vec::new());
    }
    let tables = file.replica.schema()?.tables.into_iter();
    Ok(tables.map(|table| SyncedTable { name: table.name, algorithm: table.algorithm }).collect())
}

impl From<cloudsync_replica::Error> for StoreError {
    fn from(error: cloudsync_replica::Error) -> Self {
        let is_altering = matches!(error, cloudsync_replica::Error::Altering(_));
        if is_altering || error.can_retry() {
            Self::Busy(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<cloudsync_sqlite_ffi::Error> for StoreError {
    fn from(error: cloudsync_sqlite_ffi::Error) -> Self {
        cloudsync_replica::Error::from(error).into()
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Busy(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<crate::policy::PolicyError> for StoreError {
    fn from(error: crate::policy::PolicyError) -> Self {
        match error {
            crate::policy::PolicyError::Sqlite(error) => error.into(),
            crate::policy::PolicyError::Store(error) => error,
            refused => Self::Failed(refused.to_string()),
        }
    }
}

fn refusal(reason: cloudsync_protocol::message::Reason, text: impl Into<String>) -> Refusal {
    Refusal { reason, epoch: 0, nonce: 0, now: 0, text: text.into() }
}
