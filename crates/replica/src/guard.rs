//! Guards: while an apply writes the rows of others the app's triggers run, so that a search index stays right, but what
//! they write to synced tables is cancelled. What the trigger did there at the author's comes by sync; done again here,
//! a counter would count twice, and a random id would make a row that nobody else has.
//!
//! Each synced table that a trigger of the app may write gets three temporary triggers which ask a function of ours about
//! every write. The function lets pass the one statement that the apply announced, once, and what is no write of a
//! trigger: a cascade, found by its parent being gone. All else is ignored, and the statement around it goes on. Temporary
//! triggers fire before those of the file, so a write that is cancelled fires none of them. Rows with NULL in their key,
//! which never sync, are no exception: such a row could take a UNIQUE value that the arriving row has.
//!
//! The triggers are made and dropped outside of transactions of our own: a change of the schema within one would make
//! each ROLLBACK TO load the schema anew and break off the host's open cursors. If they cannot be dropped, which takes an
//! interrupted host or one without memory, they let everything pass and the next transaction of ours drops them. A crash
//! leaves nothing. On a connection that is ours alone they stay between applies, and let everything pass there, until the
//! tables or triggers of the file change: with each change of the temporary schema SQLite compiles all statements anew.
//! Whether they still stand is not remembered but asked of SQLite, by its count of changes of the temporary schema: another
//! replica on the same connection may have dropped them, or made others of the same names.

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::foreign_keys::foreign_keys;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_sqlite_ffi::{Args, Connection, FunctionError, FunctionFlags, Output, Value, bindings};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

const FUNCTION: &str = "cloudsync_guard";

/// Triggers that are not ours, of the file.
// language=SQLite
const USER_TRIGGERS_IN_FILE: &str = "SELECT tbl_name, sql FROM main.sqlite_master WHERE type = 'trigger' AND name NOT LIKE 'cloudsync\\_%' ESCAPE '\\'";

/// Triggers that are not ours, of the connection.
// language=SQLite
const TEMPORARY_USER_TRIGGERS: &str = "SELECT tbl_name, sql FROM temp.sqlite_master WHERE type = 'trigger' AND name NOT LIKE 'cloudsync\\_%' ESCAPE '\\'";

// language=SQLite
const LEFT_BEHIND: &str = "SELECT name FROM temp.sqlite_master WHERE type = 'trigger' AND name LIKE 'cloudsync\\_guard\\_%' ESCAPE '\\'";

thread_local! {
    /// The guards that are set, by their connections. A replica may live for one SQL call only, and SQLite refuses to
    /// replace a function while that call runs; so the function is registered once and finds its guard here.
    static SET: RefCell<Vec<(Connection, Rc<Guard>)>> = const { RefCell::new(Vec::new()) };
    /// Connections on which guards could not be dropped.
    static LEFT: RefCell<Vec<Connection>> = const { RefCell::new(Vec::new()) };
}

/// What a statement does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Insert,
    Update,
    Delete,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Insert, Self::Update, Self::Delete];

    const fn sql(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// Tells the writes of the apply from those of triggers.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    tables: HashMap<i64, Rc<Table>>,
    announced: RefCell<Announced>,
    /// Everything may pass: temporary triggers run even where triggers are switched off.
    open: Cell<bool>,
    /// Rows without a whole key may pass.
    keyless: Cell<bool>,
}

#[derive(Debug, Default)]
struct Announced {
    /// Table and verb of the statement that may pass; `None` once it has.
    write: Option<(i64, Verb)>,
    /// Its packed key.
    key: Vec<u8>,
    /// The key that is asked about.
    scratch: Vec<u8>,
}

impl Guard {
    /// As if nothing had been announced or let pass before: an apply may have ended anywhere.
    fn renew(&self) {
        self.open.set(false);
        self.keyless.set(false);
        self.announced.borrow_mut().write = None;
    }

    /// True when the writes of a table are guarded.
    pub(crate) fn covers(&self, table: i64) -> bool {
        self.tables.contains_key(&table)
    }

    /// Lets every write pass, or no longer.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.set(open);
    }

    /// Lets writes of rows pass that have NULL in their key, or no longer.
    pub(crate) fn let_keyless_pass(&self, pass: bool) {
        self.keyless.set(pass);
    }

    /// Says what the next statement writes.
    pub(crate) fn announce(&self, table: i64, verb: Verb, packed: &[u8]) {
        let mut announced = self.announced.borrow_mut();
        announced.write = Some((table, verb));
        announced.key.clear();
        announced.key.extend_from_slice(packed);
    }

    /// Ends the announcement. True when the statement found its row.
    pub(crate) fn settle(&self) -> bool {
        self.announced.borrow_mut().write.take().is_none()
    }

    fn cancels(&self, args: &Args<'_>) -> bool {
        if self.open.get() {
            return false;
        }
        let (Value::Integer(id), Value::Integer(verb)) = (args.get(0), args.get(1)) else { return false };
        let Some(table) = self.tables.get(&id) else { return false };
        let Announced { write, key, scratch } = &mut *self.announced.borrow_mut();
        scratch.clear();
        if table.pack_key(scratch, |i| from_sqlite(args.get(2 + i))).is_err() {
            return !self.keyless.get();
        }
        let announced = write.is_some_and(|(table, write)| table == id && write as i64 == verb);
        if announced && scratch == key {
            *write = None;
            return false;
        }
        true
    }
}

/// The guards of a connection, gone when dropped.
#[derive(Debug)]
pub(crate) struct Guards {
    db: Connection,
    pub(crate) guard: Rc<Guard>,
    names: Vec<String>,
    /// What they were made for, once all of them stood.
    made_at: Option<MadeAt>,
}

/// The state of a connection in which guards stand and fit.
#[derive(Debug, PartialEq, Eq)]
struct MadeAt {
    /// What the catalog was.
    loaded_at: (i64, i64),
    /// The temporary schema, in which they are.
    temporary: i64,
}

impl MadeAt {
    /// That of now; `None` if the catalog is not loaded.
    fn read(db: &Connection, catalog: &Catalog) -> Result<Option<Self>> {
        let Some(loaded_at) = catalog.loaded_at() else { return Ok(None) };
        let temporary = db.query_i64("PRAGMA temp.schema_version", &[])?.unwrap_or(0);
        Ok(Some(Self { loaded_at, temporary }))
    }
}

/// Guards between two applies, for a host that opens the replica anew. They go before the connection does.
#[derive(Debug, Default)]
pub struct KeptGuards(pub(crate) Option<Guards>);

/// Guards that ask; gone when dropped, and all writes pass.
pub(crate) struct OnGuard(Rc<Guard>);

impl Drop for OnGuard {
    fn drop(&mut self) {
        SET.with_borrow_mut(|set| set.retain(|(_, guard)| !Rc::ptr_eq(guard, &self.0)));
    }
}

impl Guards {
    /// Guards the synced tables that triggers of the app may write; `None` if no trigger is there to be guarded from.
    ///
    /// # Errors
    /// When the connection allows no temporary triggers.
    pub(crate) fn set(db: Connection, catalog: &Catalog) -> Result<Option<Self>> {
        drop_all(&db)?;
        let tables = reached(&db, catalog)?;
        if tables.is_empty() {
            return Ok(None);
        }
        let guard = Guard {
            tables: tables.iter().map(|table| (table.id, Rc::clone(table))).collect(),
            ..Guard::default()
        };
        let mut guards = Self { db, guard: Rc::new(guard), names: Vec::new(), made_at: None };
        guards.create(&tables).map_err(explain)?;
        guards.made_at = MadeAt::read(&db, catalog)?;
        Ok(Some(guards))
    }

    fn create(&mut self, tables: &[Rc<Table>]) -> Result<()> {
        register(&self.db)?;
        let cascades = self.db.query_i64("PRAGMA foreign_keys", &[])? == Some(1);
        for table in tables {
            let orphaned = if cascades { orphaned(&self.db, table)? } else { None };
            for verb in Verb::ALL {
                let name = format!("cloudsync_guard_{}_{}", verb.sql().to_ascii_lowercase(), table.id);
                self.names.push(name.clone());
                self.db.execute(&trigger(&name, table, verb, orphaned.as_deref()))?;
            }
        }
        Ok(())
    }

    /// Has them ask about every write, until the result is dropped.
    pub(crate) fn stand(&self) -> OnGuard {
        self.guard.renew();
        SET.with_borrow_mut(|set| set.push((self.db, Rc::clone(&self.guard))));
        OnGuard(Rc::clone(&self.guard))
    }

    /// True when they stand on this connection, and the tables and triggers are those for which they were made.
    pub(crate) fn fit(&self, db: &Connection, catalog: &Catalog) -> Result<bool> {
        Ok(self.db == *db && self.made_at.is_some() && self.made_at == MadeAt::read(db, catalog)?)
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        drop_triggers(&self.db, &self.names);
    }
}

/// Drops guards that could not be dropped when they should have been. The caller holds no transaction.
pub(crate) fn drop_left(db: &Connection) -> Result<()> {
    if LEFT.with_borrow(|left| left.contains(db)) { drop_all(db) } else { Ok(()) }
}

/// Drops all guards of a connection, whoever made them.
fn drop_all(db: &Connection) -> Result<()> {
    let names = left_behind(db)?;
    LEFT.with_borrow_mut(|left| left.retain(|other| other != db));
    drop_triggers(db, &names);
    Ok(())
}

/// Drops triggers. One that stays lets everything pass, and is left to the next transaction.
fn drop_triggers(db: &Connection, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let mut all = true;
    for name in names {
        all &= db.execute(&format!("DROP TRIGGER IF EXISTS temp.{}", quote_identifier(name))).is_ok();
    }
    let stranded = left_behind(db).map(|left| left.into_iter().filter(|name| names.contains(name)));
    all &= stranded.is_ok_and(|mut names| names.all(|name| drop_stranded(db, &name).is_ok()));
    if !all {
        LEFT.with_borrow_mut(|left| left.push(*db));
    }
}

/// Drops a trigger whose table another connection renamed or dropped: SQLite does not find it any more, but has it in the
/// temporary schema. With another one of its name beside it, a new table of the old name would make that schema unreadable,
/// and with it the connection useless. DROP TRIGGER takes all of one name, so it is given a namesake that can be found.
fn drop_stranded(db: &Connection, name: &str) -> Result<()> {
    let name = quote_identifier(name);
    let namesake = db.savepoint("cloudsync_guard")?;
    db.execute(&format!(
        "CREATE TEMP TRIGGER {name} BEFORE DELETE ON main.cloudsync_log BEGIN SELECT 1; END;
        DROP TRIGGER temp.{name}"
    ))?;
    Ok(namesake.commit()?)
}

/// Triggers of ours by which a server notes what policies depend on; they must run for every change.
// language=SQLite
const WATCHES: &str = "SELECT tbl_name FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE 'cloudsync\\_watch\\_%' ESCAPE '\\'";

/// True when a trigger in the file watches a synced table that must run when others change it: one that is not ours, or one by
/// which a server notes what policies depend on.
pub(crate) fn has_triggers_in_file(db: &Connection) -> Result<bool> {
    is_any_on_synced(db, &format!("SELECT tbl_name FROM ({USER_TRIGGERS_IN_FILE}) UNION ALL {WATCHES}"))
}

/// True when a trigger of the connection that is not ours watches a synced table.
pub(crate) fn has_temporary_triggers(db: &Connection) -> Result<bool> {
    is_any_on_synced(db, TEMPORARY_USER_TRIGGERS)
}

fn is_any_on_synced(db: &Connection, triggers: &str) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM ({triggers}) AS m JOIN main.cloudsync_tables AS t ON m.tbl_name = t.name COLLATE NOCASE LIMIT 1"
    );
    Ok(db.query_i64(&sql, &[])?.is_some())
}

/// True when a trigger that is not ours watches this table.
pub(crate) fn watches(db: &Connection, table: &str) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM ({USER_TRIGGERS_IN_FILE} UNION ALL {TEMPORARY_USER_TRIGGERS}) WHERE tbl_name = ?1 COLLATE NOCASE LIMIT 1"
    );
    Ok(db.query_i64(&sql, &[Value::from(table)])?.is_some())
}

/// The synced tables that a trigger of the app may write: those that its text names, however they are quoted there.
fn reached(db: &Connection, catalog: &Catalog) -> Result<Vec<Rc<Table>>> {
    let mut texts = Vec::new();
    let sql = format!("{USER_TRIGGERS_IN_FILE} UNION ALL {TEMPORARY_USER_TRIGGERS}");
    db.prepare(&sql)?.for_each(&[], |row| -> Result<()> {
        texts.extend(row.column(1).as_str().map(str::to_ascii_lowercase));
        Ok(())
    })?;
    let named = |table: &Rc<Table>| {
        let name = table.name.to_ascii_lowercase();
        let quoted = ['"', '\'', '`'].map(|quote| name.replace(quote, &String::from_iter([quote, quote])));
        texts.iter().any(|text| text.contains(&name) || quoted.iter().any(|name| text.contains(name)))
    };
    let tables = if texts.is_empty() { Vec::new() } else { catalog.tables() };
    Ok(tables.into_iter().filter(named).collect())
}

fn left_behind(db: &Connection) -> Result<Vec<String>> {
    let mut names = Vec::new();
    db.prepare(LEFT_BEHIND)?.for_each(&[], |row| -> Result<()> {
        names.extend(row.column(0).as_str().map(str::to_owned));
        Ok(())
    })?;
    Ok(names)
}

fn register(db: &Connection) -> Result<()> {
    if db.prepare(&format!("SELECT {FUNCTION}()")).is_ok() {
        return Ok(());
    }
    let ask = |context: &cloudsync_sqlite_ffi::Context<'_>, args: &Args<'_>| -> Result<_, FunctionError> {
        let here = context.connection();
        let guard =
            SET.with_borrow(|set| set.iter().find(|(db, _)| *db == here).map(|(_, it)| Rc::clone(it)));
        Ok(Output::Integer(i64::from(guard.is_some_and(|guard| guard.cancels(args)))))
    };
    Ok(db.create_function(FUNCTION, -1, FunctionFlags::INNOCUOUS, ask)?)
}

fn trigger(name: &str, table: &Table, verb: Verb, orphaned: Option<&str>) -> String {
    let row = if verb == Verb::Insert { "NEW" } else { "OLD" };
    let key = table.key.iter().map(|key| format!(", {row}.{}", quote_identifier(&key.name)));
    let asks = format!("{FUNCTION}({}, {}{})", table.id, verb as i64, key.collect::<String>());
    let when = match orphaned.filter(|_| verb != Verb::Insert) {
        // AND could leave out the question.
        Some(orphaned) => format!("CASE WHEN {asks} THEN NOT ({orphaned}) ELSE 0 END"),
        None => asks,
    };
    format!(
        "CREATE TEMP TRIGGER {} BEFORE {} ON {} WHEN {when} BEGIN SELECT RAISE(IGNORE); END",
        quote_identifier(name),
        verb.sql(),
        table.quoted()
    )
}

/// The condition under which SQLite's own foreign key actions write a row: its parent is gone. `None` where there are no
/// such actions.
fn orphaned(db: &Connection, table: &Table) -> Result<Option<String>> {
    if !table.definition.has_foreign_keys {
        return Ok(None);
    }
    let mut terms = Vec::new();
    for key in foreign_keys(db, &table.name)?.into_iter().filter(|key| key.acts) {
        terms.extend(key.missing(db, "OLD")?.map(|missing| missing.condition));
    }
    Ok((!terms.is_empty()).then(|| terms.join(" OR ")))
}

fn explain(error: Error) -> Error {
    match error {
        Error::Sqlite(error) if error.primary_code() == bindings::SQLITE_AUTH => Error::State(format!(
            "{}: the authorizer of this connection must allow temporary triggers and the function {FUNCTION}, because the app has triggers on synced tables",
            error.message
        )),
        error => error,
    }
}
