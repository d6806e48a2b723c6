//! The tables in which a replica keeps what it knows, in the database itself.
//!
//! | table | holds |
//! | --- | --- |
//! | `cloudsync_settings` | settings and the state of syncing, by name |
//! | `cloudsync_sites` | site ids by their local ordinal |
//! | `cloudsync_tables`, `cloudsync_columns` | the synced tables and the numbers of their columns |
//! | `cloudsync_alters`, `cloudsync_alter_rows` | open alterations: how the table was, and the hashes of its values |
//! | `cloudsync_layouts` | which bit of a logged mask meant which column |
//! | `cloudsync_log` | notes of local writes, not folded yet |
//! | `cloudsync_clocks` | one packed clock per row, alive or deleted |
//! | `cloudsync_private` | rows that others know and that were written here outside of their table's filter |
//! | `cloudsync_owed` | rows outside of their table's filter of which others may lack what was not edited here; made with the first |
//! | `cloudsync_versions`, `cloudsync_entries` | the change list: version, then keys with column masks |
//! | `cloudsync_inbox` | chunks of a download that is not complete |
//! | `cloudsync_pieces`, `cloudsync_held` | pieces of large values, and which changes in the quarantine need them |
//! | `cloudsync_kept` | what came for tables and columns that do not exist here yet |
//! | `cloudsync_quarantine` | changes that the schema's constraints do not let in yet |
//! | `cloudsync_conflicts`, `cloudsync_rejected` | what was overwritten or refused |
//!
//! The log has no constraint that an `OR IGNORE` of the app could make drop a note, and no typed column that could
//! change a key.

use crate::error::{Error, Result};
use cloudsync_sqlite_ffi::{Connection, Value};

/// Version of the stored format; a newer one is refused.
pub(crate) const FORMAT: i64 = 1;

// language=SQLite
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS cloudsync_settings(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cloudsync_sites(ordinal INTEGER PRIMARY KEY, site_id BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS cloudsync_tables(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, algorithm TEXT NOT NULL,
    flags INTEGER NOT NULL, enabled INTEGER NOT NULL, layout INTEGER NOT NULL, filter TEXT);
CREATE TABLE IF NOT EXISTS cloudsync_columns(
    table_id INTEGER, number INTEGER, name TEXT NOT NULL, dropped INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(table_id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cloudsync_alters(
    table_id INTEGER PRIMARY KEY, begun_at INTEGER NOT NULL, definition BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_alter_rows(pk BLOB PRIMARY KEY, hashes BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cloudsync_layouts(
    id INTEGER PRIMARY KEY, table_id INTEGER NOT NULL, columns BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_log(at, layout, what, k0, o0);
CREATE TABLE IF NOT EXISTS cloudsync_clocks(
    pk BLOB PRIMARY KEY, clock BLOB NOT NULL, ordinal INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cloudsync_private(pk BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cloudsync_versions(
    version INTEGER PRIMARY KEY, origin INTEGER NOT NULL, base INTEGER NOT NULL, first_entry INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_entries(
    id INTEGER PRIMARY KEY, version INTEGER NOT NULL, table_id INTEGER NOT NULL, keys BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_inbox(seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_kept(
    id INTEGER PRIMARY KEY, origin INTEGER NOT NULL, base INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_quarantine(
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, pk BLOB NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL,
    origin INTEGER NOT NULL, change BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS cloudsync_quarantine_pk ON cloudsync_quarantine(tbl, pk);
CREATE TABLE IF NOT EXISTS cloudsync_conflicts(
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, pk BLOB NOT NULL, col_name TEXT, col_value, time INTEGER NOT NULL,
    site_id BLOB NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, winner_time INTEGER NOT NULL,
    winner_site_id BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_rejected(
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, pk BLOB NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL,
    change BLOB NOT NULL, \"row\" TEXT);
";

/// True when the database holds a replica's tables.
pub(crate) fn exists(db: &Connection) -> Result<bool> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_settings'";
    Ok(db.query_i64(sql, &[])?.is_some())
}

/// Creates whatever table is missing.
pub(crate) fn create(db: &Connection) -> Result<()> {
    db.execute(CREATE)?;
    crate::pieces::prepare(db)?;
    if get_i64(db, "format")?.is_none() {
        set(db, "format", Value::Integer(FORMAT))?;
    }
    Ok(())
}

/// Refuses a database that a newer version wrote.
pub(crate) fn check_format(db: &Connection) -> Result<()> {
    match get_i64(db, "format")? {
        Some(format) if format > FORMAT => Err(Error::state(format!(
            "the file was written by a newer cloudsync (format {format}, this version reads {FORMAT}): update cloudsync"
        ))),
        Some(_) => Ok(()),
        None => Err(Error::corrupt("cloudsync_settings has no format")),
    }
}

const GET: &str = "SELECT value FROM main.cloudsync_settings WHERE key = ?1";

/// The integer stored under `key`.
pub(crate) fn get_i64(db: &Connection, key: &str) -> Result<Option<i64>> {
    Ok(db.query_i64(GET, &[Value::from(key)])?)
}

/// The unsigned integer stored under `key`, 0 if there is none.
pub(crate) fn get_u64(db: &Connection, key: &str) -> Result<u64> {
    let stored = get_i64(db, key)?.unwrap_or(0);
    u64::try_from(stored).map_err(|_| Error::corrupt(format!("setting {key}")))
}

/// The text stored under `key`.
pub(crate) fn get_text(db: &Connection, key: &str) -> Result<Option<String>> {
    Ok(db.query_text(GET, &[Value::from(key)])?)
}

/// The bytes stored under `key`.
pub(crate) fn get_blob(db: &Connection, key: &str) -> Result<Option<Vec<u8>>> {
    Ok(db.query_blob(GET, &[Value::from(key)])?)
}

/// Stores a value; an equal one is not written again, so that an idle sync writes nothing.
pub(crate) fn set(db: &Connection, key: &str, value: Value<'_>) -> Result<()> {
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_settings(key, value) VALUES(?1, ?2) \
               ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value";
    db.prepare(sql)?.run(&[Value::from(key), value])?;
    Ok(())
}

/// Stores an unsigned integer.
pub(crate) fn set_u64(db: &Connection, key: &str, value: u64) -> Result<()> {
    let value = i64::try_from(value).map_err(|_| Error::Limit(format!("setting {key} is out of bounds")))?;
    set(db, key, Value::Integer(value))
}

/// Forgets what is stored under `key`.
pub(crate) fn unset(db: &Connection, key: &str) -> Result<()> {
    db.prepare("DELETE FROM main.cloudsync_settings WHERE key = ?1")?.run(&[Value::from(key)])?;
    Ok(())
}

/// Counts up a number that is never given twice, and gives it; the first is 1.
pub(crate) fn next_number(db: &Connection, key: &str) -> Result<i64> {
    let next = get_i64(db, key)?.unwrap_or(0) + 1;
    set(db, key, Value::Integer(next))?;
    Ok(next)
}

/// Adds to a number; adding nothing writes nothing.
pub(crate) fn count_up(db: &Connection, key: &str, by: u64) -> Result<()> {
    if by == 0 {
        return Ok(());
    }
    set_u64(db, key, get_u64(db, key)? + by)
}

/// Deletes the rows of a journal that were written before `oldest_ms`, and the oldest beyond `rows_max`. Gives how many.
pub(crate) fn trim_journal(db: &Connection, journal: &str, rows_max: u64, oldest_ms: u64) -> Result<u64> {
    let aged = format!("DELETE FROM main.{journal} WHERE at < ?1");
    db.prepare(&aged)?.run(&[Value::Integer(oldest_ms as i64)])?;
    let mut gone = db.changes() as u64;
    let beyond = format!(
        "DELETE FROM main.{journal} WHERE id <= (SELECT id FROM main.{journal} ORDER BY id DESC LIMIT 1 OFFSET ?1)"
    );
    db.prepare(&beyond)?.run(&[Value::Integer(rows_max as i64)])?;
    gone += db.changes() as u64;
    Ok(gone)
}

/// An SQL identifier in double quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL text literal.
pub(crate) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// True when anything is stored under `key`.
pub(crate) fn is_set(db: &Connection, key: &str) -> Result<bool> {
    Ok(db.query_row(GET, &[Value::from(key)], |_| -> Result<()> { Ok(()) })?.is_some())
}
