//! Judging what a user wants to do with a row: the policies as statements, prepared once per table and kind.
//!
//! An expression that fails denies, and so does one that takes more work than a round may cause.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use cloudsync_replica::{Deed, Error, Result, RowJudge, Sight, bind_key, quote_identifier};
use cloudsync_sqlite_ffi::bindings::{SQLITE_ERROR, SQLITE_MISMATCH, SQLITE_TOOBIG};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};

use super::compile::{Policy, inner_name};
use super::{Policies, Verb, Work, twin};

/// What a statement asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Is the row in the table one that they see?
    Seen,
    /// Would they see the row in the twin?
    WouldBeSeen,
    May(Deed),
}

/// Judges by the policies of a connection, for the user whom its functions speak of.
pub struct Judge<'p> {
    connection: &'p rusqlite::Connection,
    db: Connection,
    policies: &'p Policies,
    work: &'p Work,
    /// Work that is left.
    looks: i64,
    prepared: &'p mut Prepared,
    /// Tables whose twin is there.
    ready: HashSet<String>,
}

/// What outlasts a round, as long as neither policies nor the schema change.
#[derive(Default)]
pub(super) struct Prepared(HashMap<String, OfTable>);

#[derive(Default)]
struct OfTable {
    /// Names of the key's columns.
    keys: Vec<String>,
    statements: HashMap<Question, Statement>,
}

impl<'p> Judge<'p> {
    /// A judge for the connection for which the policies were compiled, of which `db` is the handle.
    pub(super) fn new(
        connection: &'p rusqlite::Connection,
        db: Connection,
        policies: &'p Policies,
        work: &'p Work,
        prepared: &'p mut Prepared,
    ) -> Self {
        let looks = work.of_round();
        Self { connection, db, policies, work, looks, prepared, ready: HashSet::new() }
    }

    /// What a question gives: `None` if there is no row to ask about. An expression that fails says no.
    fn ask(&mut self, table: &str, question: Question, key: &[u8]) -> Result<Option<bool>> {
        match self.step(table, question, key)? {
            Ok(found) => Ok(found),
            Err(_) => Ok(Some(false)),
        }
    }

    /// The same, with the error of an expression that fails.
    fn step(
        &mut self,
        table: &str,
        question: Question,
        key: &[u8],
    ) -> Result<std::result::Result<Option<bool>, cloudsync_sqlite_ffi::Error>> {
        if !self.prepared.0.contains_key(table) {
            let of_table = OfTable { keys: key_columns(&self.db, table)?, ..OfTable::default() };
            self.prepared.0.insert(table.to_owned(), of_table);
        }
        let Some(OfTable { keys, statements }) = self.prepared.0.get_mut(table) else { return Ok(Ok(None)) };
        let statement = match statements.entry(question) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let sql = sql(self.policies, table, question, keys);
                place.insert(self.db.prepare_persistent(&sql)?)
            }
        };
        if statement.parameter_count() > 0 {
            bind_key(statement, 1, key)?;
        }
        let stepped = self.work.within(&mut self.looks, || statement.step());
        let found = stepped.map(|found| found.then(|| statement.column_i64(0) != 0));
        // It gives the error of the step once more.
        let reset = statement.reset();
        match found {
            Ok(found) => reset.map(|()| Ok(found)).map_err(Error::from),
            Err(error) if error.is_interrupt() => Err(Error::Limit(format!(
                "the policies of table \"{table}\" take more work than one round may cause: the tables that they read want indexes"
            ))),
            Err(error) if is_of_expression(&error) => Ok(Err(error)),
            Err(error) => Err(error.into()),
        }
    }
}

/// The names of the columns of a table's key, in its order.
fn key_columns(db: &Connection, table: &str) -> Result<Vec<String>> {
    // language=SQLite
    let sql = "SELECT name FROM pragma_table_info(?1, 'main') WHERE pk > 0 ORDER BY pk";
    let mut names = Vec::new();
    db.prepare(sql)?.for_each(&[Value::from(table)], |row| -> Result<()> {
        names.push(row.column(0).as_str().unwrap_or_default().to_owned());
        Ok(())
    })?;
    Ok(names)
}

impl RowJudge for Judge<'_> {
    fn twins(&self) -> &'static str {
        twin::SCHEMA
    }

    fn prepare(&mut self, table: &str) -> Result<()> {
        if self.ready.contains(table) {
            return Ok(());
        }
        let failed = |error: rusqlite::Error| Error::State(format!("table \"{table}\" has no twin: {error}"));
        if twin::ensure(self.connection, table).map_err(failed)?.is_none() {
            return Err(Error::State(format!("there is no table \"{table}\"")));
        }
        self.ready.insert(table.to_owned());
        Ok(())
    }

    fn sight(&mut self, table: &str, key: &[u8]) -> Result<Sight> {
        Ok(match self.ask(table, Question::Seen, key)? {
            None => Sight::Absent,
            Some(false) => Sight::Hidden,
            Some(true) => Sight::Seen,
        })
    }

    fn sees_twin(&mut self, table: &str) -> Result<bool> {
        Ok(self.ask(table, Question::WouldBeSeen, &[])?.unwrap_or(false))
    }

    fn allows(&mut self, deed: Deed, table: &str, key: &[u8]) -> Result<bool> {
        if !self.ask(table, Question::May(deed), key)?.unwrap_or(false) {
            return Ok(false);
        }
        // A row on which the SELECT policy fails would make it fail for everybody.
        let may_fail = self.policies.select_of(table).is_some_and(Policy::may_fail);
        Ok(deed == Deed::Delete || !may_fail || self.step(table, Question::WouldBeSeen, &[])?.is_ok())
    }
}

/// Whether the expression itself failed on this row, and not the file.
pub(crate) fn is_of_expression(error: &cloudsync_sqlite_ffi::Error) -> bool {
    matches!(error.primary_code(), SQLITE_ERROR | SQLITE_TOOBIG | SQLITE_MISMATCH)
}

/// The statement of a question. The key's parts are its parameters.
pub(super) fn sql(policies: &Policies, table: &str, question: Question, keys: &[String]) -> String {
    let name = quote_identifier(table);
    let (base, twin) = (format!("main.{name}"), format!("{}.{name}", twin::SCHEMA));
    let row = inner_name(table);
    let has_key = |alias: &str| {
        let equal = keys.iter().enumerate();
        let equal = equal.map(|(i, key)| format!("{alias}.{} = ?{}", quote_identifier(key), i + 1));
        equal.collect::<Vec<_>>().join(" AND ")
    };
    let condition = |verb| policies.of(table, verb).map_or("0", Policy::condition);
    // The condition over a row that its bare columns mean.
    let over_base = |verb| {
        format!("EXISTS(SELECT 1 FROM {base} AS {row} WHERE {} AND {})", has_key(&row), condition(verb))
    };
    let over_twin = |verb| format!("EXISTS(SELECT 1 FROM {twin} AS {row} WHERE {})", condition(verb));
    match question {
        Question::Seen => {
            format!("SELECT {} IS TRUE FROM {base} WHERE {}", condition(Verb::Select), has_key(&name))
        }
        Question::WouldBeSeen => format!("SELECT {} IS TRUE FROM {twin}", condition(Verb::Select)),
        Question::May(Deed::Insert) => format!("SELECT {} FROM {twin} AS NEW", over_twin(Verb::Insert)),
        Question::May(Deed::Delete) => {
            format!("SELECT {} FROM {base} AS OLD WHERE {}", over_base(Verb::Delete), has_key("OLD"))
        }
        Question::May(Deed::Update) => {
            let is_bare = policies.of(table, Verb::Update).is_some_and(Policy::is_bare);
            let both = if is_bare {
                format!("{} AND {}", over_base(Verb::Update), over_twin(Verb::Update))
            } else {
                format!("EXISTS(SELECT 1 WHERE {})", condition(Verb::Update))
            };
            format!("SELECT {both} FROM {base} AS OLD, {twin} AS NEW WHERE {}", has_key("OLD"))
        }
    }
}
