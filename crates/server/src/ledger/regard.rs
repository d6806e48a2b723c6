//! Which rows are to be looked at because their visibility may have changed, though they did not.
//!
//! After changes of what policies read, the lines of `cloudsync_server_watched` say which rows those were. Where a policy
//! can be asked about single rows of what it reads ([`monotone`](super::monotone)), it is asked about each of them, put in
//! the place of its table by a WITH clause, and the rows of its own table for which it is then true are looked at. Where
//! it cannot, where two tables of one policy changed, or where there are too many lines, all rows of its table are.
//! How a line comes to stand in the place of its table is in [`line`](super::line), and how it is the first that SQLite
//! looks at in [`join`](super::join).

use super::join::{Join, join};
use super::line::Line;
use super::monotone;
use super::place::Walk;
use super::watch;
use crate::policy::{Policies, Policy, is_of_expression};
use cloudsync_replica::{Error, KnownKeys, Replica, RowKeys, Rows, TableRows};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Lines that are asked about one by one.
const LINES_MAX: i64 = 256;
/// Chunks after which a question is given up whose rows do not fit them: going through the whole table does not begin
/// again with every chunk.
const TRIES_MAX: u64 = 8;

/// A question: the rows of `table` for which the condition is true while `line` alone is in its place.
struct Question {
    /// Its place among the tables.
    table: usize,
    condition: String,
    /// The same, found from the line.
    join: Option<Join>,
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
    /// Where it stood before the row that it gave last.
    before: Option<Walk>,
    begun_walk: bool,
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
            walk,
            before: None,
            begun_walk: false,
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
        Ok(regard)
    }

    fn walk_through(&mut self, mut tables: Vec<i64>) {
        self.asked = None;
        self.questions.clear();
        tables.sort_unstable();
        tables.dedup();
        let Some(first) = tables.first() else { return };
        self.begun_walk = true;
        let after = (*first, Vec::new());
        self.walk = Some(Walk { head: self.head, tables, after });
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
        let views = views(&self.db)?;
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
                    let part = monotone::part_of(policy.condition(), table);
                    let Some(part) = part.filter(|part| !monotone::names_any(part, &views)) else {
                        all.push(id);
                        continue;
                    };
                    if !self.lines.iter().any(|line| line.table == **table) {
                        self.lines.extend(Line::read(&self.db, table, (seen, head))?);
                    }
                    let lines = self.lines.iter().enumerate().filter(|(_, line)| line.table == **table);
                    self.questions.extend(lines.map(|(at_line, line)| Question {
                        table: at,
                        condition: part.clone(),
                        join: join(&part, table, &line.columns),
                        line: at_line,
                    }));
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
        let asked = match &mut self.asked {
            Some(asked) => asked,
            None => {
                let asked = self.prepared(&self.questions[self.at], table)?;
                self.asked.insert(asked)
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

    fn prepared(&self, question: &Question, table: &TableRows) -> Result<RowKeys, Error> {
        let with = self.lines[question.line].put_in_place(&self.db)?;
        if let Some(Join { beside, condition, repeats }) = &question.join {
            match table.keys(&Rows { with: &with, beside, condition, repeats: *repeats }) {
                // A name that is clear in the subquery may not be in the join.
                Err(error) if is_wrong(&error) => {}
                prepared => return prepared,
            }
        }
        table.keys(&Rows { with: &with, beside: "", condition: &question.condition, repeats: false })
    }

    /// All questions, prepared; `None` where all rows of a table are to be looked at.
    pub(super) fn into_questions(self, tables: &[TableRows]) -> Result<Option<Vec<RowKeys>>, Error> {
        if self.walk.is_some() {
            return Ok(None);
        }
        let prepared = self.questions.iter().map(|question| self.prepared(question, &tables[question.table]));
        match prepared.collect() {
            Err(error) if is_wrong(&error) => Ok(None),
            questions => questions.map(Some),
        }
    }

    /// Whether it was found here that all rows of a table are to be looked at.
    pub(super) const fn has_begun_walk(&self) -> bool {
        self.begun_walk
    }

    /// Where a walk stands.
    pub(super) const fn walk(&self) -> Option<&Walk> {
        self.walk.as_ref()
    }
}

/// Whether an expression is at fault, and not the file.
pub(super) fn is_wrong(error: &Error) -> bool {
    matches!(error, Error::Sqlite(error) if is_of_expression(error))
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

/// The names of all views, in small letters.
fn views(db: &Connection) -> Result<BTreeSet<String>, Error> {
    let mut views = BTreeSet::new();
    // language=SQLite
    let sql = "SELECT lower(name) FROM main.sqlite_master WHERE type = 'view'";
    db.prepare(sql)?.for_each(&[], |row| -> Result<(), Error> {
        views.extend(row.column(0).as_str().map(str::to_owned));
        Ok(())
    })?;
    Ok(views)
}

/// What a policy that allows nothing says.
pub(super) fn condition(policy: Option<&Policy>) -> &str {
    policy.map_or("0", Policy::condition)
}
