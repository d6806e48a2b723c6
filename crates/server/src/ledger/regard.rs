//! Which rows are to be looked at because their visibility may have changed, though they did not.
//!
//! After changes of what policies read, the lines of `cloudsync_server_watched` say which rows those were. Where a policy
//! can be asked about single rows of what it reads ([`monotone`](super::monotone)), it is asked about each of them, put in
//! the place of its table by a WITH clause, and the rows of its own table for which it is then true are looked at. Where
//! it cannot, where two tables of one policy changed, or where there are too many lines, all rows of its table are.
//!
//! A row stands in that place with the affinity and collation of its columns: values that are bound as parameters
//! would have neither, and `n = '5'` is true for 5 in an INTEGER column, and false for the parameter 5.

use super::monotone;
use super::place::Walk;
use super::watch;
use crate::policy::{Policies, Policy, twin};
use cloudsync_replica::{Error, KnownKeys, Replica, RowKeys, TableRows, quote_identifier};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Lines that are asked about one by one.
const LINES_MAX: i64 = 256;
/// Chunks after which a question is given up whose rows do not fit them: going through the whole table does not begin
/// again with every chunk.
const TRIES_MAX: u64 = 8;

/// A row as it was or is, in a table that policies read.
struct Line {
    table: String,
    columns: Vec<String>,
    values: Vec<cloudsync_core::value::Value>,
}

/// A question: the rows of `table` for which the condition is true while `line` alone is in its place.
struct Question {
    /// Its place among the tables.
    table: usize,
    condition: String,
    line: usize,
}

/// The rows that are to be looked at.
pub(super) struct Regard {
    db: Connection,
    lines: Vec<Line>,
    questions: Vec<Question>,
    asked: Option<RowKeys>,
    at: usize,
    walk: Option<Walk>,
    /// As it was found, for a chunk that is made anew.
    begun: Option<Walk>,
    /// Where it stood before the row that it gave last.
    before: Option<Walk>,
    known: KnownKeys,
    head: u64,
}

/// Why all rows are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is none: what changed since a version is asked about.
    Since(u64),
    /// Policies or claims are others than before, or the device went back.
    Everything,
}

impl Regard {
    /// Finds out what is to be looked at up to the version `head`, going on with `walk` if there is one.
    pub(super) fn of(
        replica: &Replica,
        tables: &[TableRows],
        policies: &Policies,
        reason: Reason,
        head: u64,
        tries: u64,
        walk: Option<Walk>,
    ) -> Result<Self, Error> {
        let db = replica.connection();
        let mut regard = Self {
            db,
            lines: Vec::new(),
            questions: Vec::new(),
            asked: None,
            at: 0,
            walk: walk.clone(),
            begun: walk,
            before: None,
            known: replica.known_keys()?,
            head,
        };
        if regard.walk.is_some() {
            return Ok(regard);
        }
        let concerned = match reason {
            Reason::Everything => Some(tables.iter().map(TableRows::id).collect()),
            Reason::Since(seen) => regard.ask(replica, policies, tables, (seen, head), tries)?,
        };
        if let Some(tables) = concerned {
            regard.walk_through(tables);
        }
        regard.begun.clone_from(&regard.walk);
        Ok(regard)
    }

    fn walk_through(&mut self, mut tables: Vec<i64>) {
        self.asked = None;
        self.questions.clear();
        tables.sort_unstable();
        tables.dedup();
        let Some(first) = tables.first() else { return };
        let after = (*first, Vec::new());
        self.walk = Some(Walk { head: self.head, tables, after });
    }

    /// Begins again.
    pub(super) fn restart(&mut self) {
        (self.asked, self.at) = (None, 0);
        self.walk.clone_from(&self.begun);
        self.known.restart();
    }

    /// Puts questions. Gives the tables that must be gone through instead, if there are any.
    fn ask(
        &mut self,
        replica: &Replica,
        policies: &Policies,
        tables: &[TableRows],
        (seen, head): (u64, u64),
        tries: u64,
    ) -> Result<Option<Vec<i64>>, Error> {
        if seen < replica.state_number(watch::FORGOTTEN)?.unwrap_or(0) as u64 {
            return Ok(Some(tables.iter().map(TableRows::id).collect()));
        }
        let changed = changed_tables(&self.db, seen, head)?;
        if changed.is_empty() {
            return Ok(None);
        }
        let few = changed.values().map(|(lines, _)| lines).sum::<i64>() <= LINES_MAX;
        let askable = few && tries < TRIES_MAX;
        let mut all = Vec::new();
        for (at, rows) in tables.iter().enumerate() {
            let Some(policy) = policies.select_of(rows.name()) else { continue };
            let id = rows.id();
            let read: BTreeSet<_> =
                policy.reads().iter().map(|(table, _)| table.to_ascii_lowercase()).collect();
            let read: Vec<_> = read.into_iter().filter(|table| changed.contains_key(table)).collect();
            match &read[..] {
                [] => {}
                [table] if askable && changed[table].1 => {
                    let Some(part) = monotone::part_of(policy.condition(), table) else {
                        all.push(id);
                        continue;
                    };
                    self.read_lines(table, seen, head)?;
                    let lines = self.lines.iter().enumerate().filter(|(_, line)| line.table == *table);
                    let questions =
                        lines.map(|(line, _)| Question { table: at, condition: part.clone(), line });
                    self.questions.extend(questions);
                }
                _ => all.push(id),
            }
        }
        if all.is_empty() {
            return Ok(None);
        }
        // What can be asked for the others is gone through as well: one way at a time.
        all.extend(self.questions.iter().map(|question| tables[question.table].id()));
        Ok(Some(all))
    }

    fn read_lines(&mut self, table: &str, seen: u64, head: u64) -> Result<(), Error> {
        if self.lines.iter().any(|line| line.table == table) {
            return Ok(());
        }
        // language=SQLite
        let sql = "SELECT * FROM main.cloudsync_server_watched WHERE version > ?1 AND version <= ?2 AND lower(tbl) = ?3 ORDER BY seq";
        let mut select = self.db.prepare(sql)?;
        select.bind(1, Value::Integer(seen as i64))?;
        select.bind(2, Value::Integer(head as i64))?;
        select.bind(3, Value::from(table))?;
        let mut known = BTreeSet::new();
        while select.step()? {
            let columns: Vec<String> = select
                .column(3)
                .as_str()
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            let values: Vec<_> = (0..columns.len()).map(|at| owned(select.column(4 + at))).collect();
            if known.insert(format!("{columns:?}{values:?}")) {
                self.lines.push(Line { table: table.to_owned(), columns, values });
            }
        }
        Ok(())
    }

    /// The next row to be looked at.
    pub(super) fn next(&mut self, tables: &[TableRows]) -> Result<Option<(i64, Vec<u8>)>, Error> {
        loop {
            if let Some(walk) = &mut self.walk {
                self.before = Some(walk.clone());
                return walk_on(walk, &mut self.known);
            }
            let Some(question) = self.questions.get(self.at) else { return Ok(None) };
            let table = &tables[question.table];
            match self.answer(table) {
                Ok(Some(key)) => return Ok(Some((table.id(), key))),
                Ok(None) => self.at += 1,
                Err(error) if is_wrong(&error) => {
                    // It can be asked of the rows of its table, and not so.
                    let tables = self.questions.iter().map(|question| tables[question.table].id());
                    self.walk_through(tables.collect());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next key that answers the present question.
    fn answer(&mut self, table: &TableRows) -> Result<Option<Vec<u8>>, Error> {
        let question = &self.questions[self.at];
        let asked = match &mut self.asked {
            Some(asked) => asked,
            None => {
                let with = put_in_place(&self.db, &self.lines[question.line])?;
                self.asked.insert(table.keys(&with, &question.condition)?)
            }
        };
        let next = asked.next_key()?;
        if next.is_none() {
            self.asked = None;
        }
        Ok(next)
    }

    /// The row that was given last comes again with the next chunk. Questions are put anew then anyway.
    pub(super) fn step_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.walk = Some(before);
        }
    }

    /// Where a walk stands.
    pub(super) const fn walk(&self) -> Option<&Walk> {
        self.walk.as_ref()
    }
}

/// Whether an expression is at fault, and not the file.
pub(super) fn is_wrong(error: &Error) -> bool {
    matches!(error, Error::Sqlite(error) if error.code & 0xff == 1)
}

fn walk_on(walk: &mut Walk, known: &mut KnownKeys) -> Result<Option<(i64, Vec<u8>)>, Error> {
    loop {
        let (table, after) = &walk.after;
        if let Some(key) = known.next_key(*table, after)? {
            walk.after.1.clone_from(&key);
            return Ok(Some((walk.after.0, key)));
        }
        let Some(next) = walk.tables.iter().find(|next| *next > table) else { return Ok(None) };
        walk.after = (*next, Vec::new());
    }
}

/// For each table that policies read and that changed: how many lines there are, and whether all say what changed.
fn changed_tables(db: &Connection, seen: u64, head: u64) -> Result<BTreeMap<String, (i64, bool)>, Error> {
    // language=SQLite
    let newest = "SELECT version FROM main.cloudsync_server_watched ORDER BY seq DESC LIMIT 1";
    if db.query_i64(newest, &[])?.unwrap_or(0) as u64 <= seen {
        return Ok(BTreeMap::new());
    }
    // language=SQLite
    let sql = "SELECT lower(tbl), count(*), min(columns IS NOT NULL) FROM main.cloudsync_server_watched \
               WHERE seq > coalesce((SELECT max(seq) FROM main.cloudsync_server_watched WHERE version <= ?1), 0) \
               AND version <= ?2 GROUP BY 1";
    let mut changed = BTreeMap::new();
    db.prepare(sql)?.for_each(
        &[Value::Integer(seen as i64), Value::Integer(head as i64)],
        |row| -> Result<(), Error> {
            let table = row.column(0).as_str().unwrap_or_default().to_owned();
            changed.insert(table, (row.column_i64(1), row.column_i64(2) != 0));
            Ok(())
        },
    )?;
    Ok(changed)
}

/// Puts a line where a WITH clause finds it under the name of its table, and gives the clause.
fn put_in_place(db: &Connection, line: &Line) -> Result<String, Error> {
    let place =
        format!("{}.{}", twin::SCHEMA, quote_identifier(&format!("cloudsync_watched_{}", line.table)));
    let mut definitions = Vec::new();
    for column in &line.columns {
        let known = db.column_metadata("main", &line.table, column)?;
        let declared = known.declared_type.unwrap_or_default();
        // As a type name that is quoted the declared one says the same of the affinity.
        let declared = if declared.is_empty() { String::new() } else { quote_identifier(&declared) };
        let (name, collation) = (quote_identifier(column), quote_identifier(&known.collation));
        definitions.push(format!("{name} {declared} COLLATE {collation}"));
    }
    let names: Vec<_> = line.columns.iter().map(|column| quote_identifier(column)).collect();
    if definitions.is_empty() {
        definitions.push("cloudsync_row".to_owned());
    }
    db.execute(&format!("DROP TABLE IF EXISTS {place}"))?;
    db.execute(&format!("CREATE TABLE {place}({})", definitions.join(", ")))?;
    let table = quote_identifier(&line.table);
    if names.is_empty() {
        db.execute(&format!("INSERT INTO {place} VALUES(1)"))?;
        return Ok(format!("WITH {table} AS (SELECT cloudsync_row FROM {place})"));
    }
    let marks: Vec<_> = (1..=names.len()).map(|at| format!("?{at}")).collect();
    let mut insert = db.prepare(&format!("INSERT INTO {place} VALUES({})", marks.join(", ")))?;
    let values: Vec<_> = line.values.iter().map(bound).collect();
    insert.run(&values)?;
    let names = names.join(", ");
    Ok(format!("WITH {table}({names}) AS (SELECT {names} FROM {place})"))
}

fn owned(value: Value<'_>) -> cloudsync_core::value::Value {
    use cloudsync_core::value::Value as Owned;
    match value {
        Value::Null => Owned::Null,
        Value::Integer(integer) => Owned::Integer(integer),
        Value::Real(real) => Owned::Real(real),
        Value::Text(text) => Owned::Text(text.to_vec()),
        Value::Blob(blob) => Owned::Blob(blob.to_vec()),
    }
}

fn bound(value: &cloudsync_core::value::Value) -> Value<'_> {
    use cloudsync_core::value::Value as Owned;
    match value {
        Owned::Null => Value::Null,
        Owned::Integer(integer) => Value::Integer(*integer),
        Owned::Real(real) => Value::Real(*real),
        Owned::Text(text) => Value::Text(text),
        Owned::Blob(blob) => Value::Blob(blob),
    }
}

/// What a policy that allows nothing says.
pub(super) fn condition(policy: Option<&Policy>) -> &str {
    policy.map_or("0", Policy::condition)
}
