//! Policies as they are stored: every change is a row that stays, and the last one for a table and a verb holds.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{PolicyError, Verb, compile, compile::Policy};

// language=SQLite
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS main.cloudsync_server_policies(
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL COLLATE NOCASE, verb TEXT NOT NULL, expression TEXT,
    set_at INTEGER NOT NULL, set_by TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS main.cloudsync_server_policies_tbl ON cloudsync_server_policies(tbl, verb, id);
";

/// A change of a policy that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Change<'c> {
    /// The table.
    pub table: &'c str,
    /// The policy.
    pub verb: Verb,
    /// The expression; `None` takes the policy away.
    pub text: Option<&'c str>,
    /// Who wants it, for the history.
    pub by: &'c str,
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number; later ones are greater.
    pub id: i64,
    /// The table.
    pub table: String,
    /// The policy.
    #[serde(rename = "policy")]
    pub verb: Verb,
    /// The expression from then on; `None` if the policy was taken away.
    pub expression: Option<String>,
    /// When, as ISO 8601 in UTC.
    pub set: String,
    /// Who made it.
    pub set_by: String,
}

/// Makes the table in which policies are stored.
///
/// # Errors
/// When SQLite fails.
pub fn prepare_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(CREATE)
}

/// Makes a change and gives the policy, which is checked first. The caller holds the transaction.
///
/// # Errors
/// [`PolicyError`] when the expression is refused, there is no such table, or SQLite fails.
pub fn change(connection: &mut Connection, change: &Change<'_>) -> Result<Option<Policy>, PolicyError> {
    let Change { table, verb, text, by, now_ms } = *change;
    let policy = match text {
        None => None,
        Some(text) => {
            let policy = compile::compile(connection, table, verb, text)?;
            match policy.fault() {
                None => Some(policy),
                Some(why) => {
                    return Err(PolicyError::Refused { table: table.to_owned(), verb, why: why.to_owned() });
                }
            }
        }
    };
    prepare_file(connection)?;
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_server_policies(tbl, verb, expression, set_at, set_by) VALUES(?1, ?2, ?3, ?4, ?5)";
    let name = policy.as_ref().map_or(table, |policy| policy.table());
    connection.execute(sql, params![name, verb.name(), text, now_ms as i64, by])?;
    Ok(policy)
}

/// All changes of a table, the latest first.
///
/// # Errors
/// When SQLite fails.
pub fn history(connection: &Connection, table: Option<&str>) -> rusqlite::Result<Vec<Entry>> {
    if !exists(connection)? {
        return Ok(Vec::new());
    }
    // language=SQLite
    let sql = "SELECT id, tbl, verb, expression, strftime('%Y-%m-%dT%H:%M:%SZ', set_at / 1000, 'unixepoch'), set_by FROM main.cloudsync_server_policies \
               WHERE ?1 IS NULL OR tbl = ?1 ORDER BY id DESC";
    let mut select = connection.prepare(sql)?;
    let entries = select.query_map([table], |row| {
        let verb: String = row.get(2)?;
        Ok(Verb::named(&verb).map(|verb| {
            Ok(Entry {
                id: row.get(0)?,
                table: row.get(1)?,
                verb,
                expression: row.get(3)?,
                set: row.get(4)?,
                set_by: row.get(5)?,
            })
        }))
    })?;
    entries.filter_map(|entry| entry.and_then(Option::transpose).transpose()).collect()
}

/// The policies that hold: table, verb and expression.
pub(super) fn present(connection: &Connection) -> rusqlite::Result<Vec<(String, Verb, String)>> {
    if !exists(connection)? {
        return Ok(Vec::new());
    }
    // language=SQLite
    let sql = "SELECT tbl, verb, expression FROM main.cloudsync_server_policies AS p WHERE expression IS NOT NULL \
               AND id = (SELECT max(id) FROM main.cloudsync_server_policies AS q WHERE q.tbl = p.tbl AND q.verb = p.verb)";
    let mut select = connection.prepare(sql)?;
    let rows = select.query_map([], |row| {
        let verb: String = row.get(1)?;
        Ok(Verb::named(&verb).map(|verb| Ok((row.get(0)?, verb, row.get(2)?))))
    })?;
    rows.filter_map(|row| row.and_then(Option::transpose).transpose()).collect()
}

/// The number of the last change.
pub(super) fn last(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT max(id) FROM main.cloudsync_server_policies";
    if !exists(connection)? {
        return Ok(0);
    }
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0))
}

fn exists(connection: &Connection) -> rusqlite::Result<bool> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_server_policies'";
    Ok(connection.prepare_cached(sql)?.query_row([], |_| Ok(())).optional()?.is_some())
}
