//! `cloudsync_repairs` lists what was repaired. A row that is repaired again and again, because something here changes
//! it each time, is left alone for a day: a repair must never go on for ever.

use crate::catalog;
use crate::error::Result;
use crate::pick::RowKey;
use crate::replica::Replica;
use crate::storage;
use cloudsync_sqlite_ffi::{Connection, Value};
use serde_json::{Value as Json, json};

/// Repairs that are listed at most; the oldest go.
const LISTED_MAX: u64 = 1_000;
/// How long they are listed, in milliseconds: 90 days.
const LISTED_AGE_MS_MAX: u64 = 90 * 24 * 3_600_000;
/// Repairs of one row after which it is left alone, and for how long, in milliseconds.
const ROW_REPAIRS_MAX: i64 = 3;
const ROW_REST_MS: u64 = 24 * 3_600_000;
/// The settings that say how many rows were ever repaired, and when the last one was.
const REPAIRED_ROWS: &str = "repaired_rows";
const REPAIRED_AT: &str = "repaired_at";

// language=SQLite
const CREATE: &str = "CREATE TABLE IF NOT EXISTS main.cloudsync_repairs(id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, \
    pk BLOB NOT NULL, what TEXT NOT NULL, at INTEGER NOT NULL)";

/// What was found to be wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    /// Its values or its clock are others.
    Changed,
    /// It has no clock.
    Unclocked,
    /// It is gone, and its clock says that it is alive.
    Gone,
    /// Neither row nor clock are here.
    Missing,
    /// The server does not have it.
    Surplus,
    /// A deletion that the server has forgotten, or never knew. Nobody misses it.
    Forgotten,
    /// It was never noted.
    Unnoted,
    /// It has a value of which no clock says who wrote it.
    Filled,
    /// It is too large for a repair: everything is fetched.
    Large,
    /// The server has lost its table.
    Lost,
}

impl Damage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed behind the triggers",
            Self::Unclocked => "its clock was missing",
            Self::Gone => "deleted behind the triggers",
            Self::Missing => "missing here",
            Self::Surplus | Self::Forgotten => "not on the server",
            Self::Unnoted => "inserted behind the triggers",
            Self::Filled => "written behind the triggers",
            Self::Large => "too large to be repaired by itself: everything was fetched",
            Self::Lost => "its table was lost on the server",
        }
    }
}

fn exists(db: &Connection) -> Result<bool> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_repairs'";
    Ok(db.query_i64(sql, &[])?.is_some())
}

/// The rows that were repaired too often of late, by table and packed key.
pub(crate) fn exhausted(db: &Connection, now_ms: u64) -> Result<Vec<(String, Vec<u8>)>> {
    let mut rows = Vec::new();
    if !exists(db)? {
        return Ok(rows);
    }
    // language=SQLite
    let sql = "SELECT tbl, pk FROM main.cloudsync_repairs WHERE at > ?1 GROUP BY 1, 2 HAVING count(*) >= ?2";
    let since = Value::Integer(now_ms.saturating_sub(ROW_REST_MS) as i64);
    db.prepare(sql)?.for_each(&[since, Value::Integer(ROW_REPAIRS_MAX)], |row| -> Result<()> {
        if let (Some(table), Some(key)) = (row.column(0).as_str(), row.column(1).as_blob()) {
            rows.push((table.to_owned(), key.to_vec()));
        }
        Ok(())
    })?;
    Ok(rows)
}

/// Forgets which rows were repaired too often.
pub(crate) fn forget(db: &Connection) -> Result<()> {
    if exists(db)? { Ok(db.execute("DELETE FROM main.cloudsync_repairs")?) } else { Ok(()) }
}

/// Forgets what was repaired of a row that may no longer be known here.
pub(crate) fn forget_row(db: &Connection, (table, key): &RowKey) -> Result<()> {
    if !exists(db)? {
        return Ok(());
    }
    let sql = "DELETE FROM main.cloudsync_repairs WHERE tbl = ?1 COLLATE NOCASE AND pk = ?2";
    Ok(db.prepare(sql)?.run(&[Value::from(table.name.as_str()), Value::Blob(key)])?)
}

/// What was repaired, for people: how many rows ever, when last, and of what the listed ones.
fn describe(db: &Connection, now_ms: u64) -> Result<Json> {
    let rows = storage::get_u64(db, REPAIRED_ROWS)?;
    if rows == 0 || !exists(db)? {
        return Ok(Json::Null);
    }
    let mut damages = Vec::new();
    // language=SQLite
    let sql = "SELECT tbl, what, count(*), max(at) FROM main.cloudsync_repairs GROUP BY 1, 2 ORDER BY 4 DESC LIMIT 20";
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        damages.push(json!({
            "table": row.column(0).as_str(), "what": row.column(1).as_str(),
            "rows": row.column_i64(2), "at": row.column_i64(3),
        }));
        Ok(())
    })?;
    Ok(json!({
        "rows": rows,
        "at": storage::get_u64(db, REPAIRED_AT)?,
        "damages": damages,
        "given_up": exhausted(db, now_ms)?.len(),
    }))
}

impl Replica {
    /// What was repaired here, as a JSON object: rows ever, when last, and what it was; null if nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn repairs(&self) -> Result<Json> {
        if self.exists()? { describe(&self.db, self.server_now_ms()?) } else { Ok(Json::Null) }
    }

    /// Counts rows that went, of which nothing is listed.
    pub(crate) fn count_repairs(&self, rows: u64) -> Result<()> {
        self.list_repairs(&[], rows)
    }

    /// Lists what was repaired, beside rows of which not even the key may stay.
    pub(super) fn list_repairs(&self, list: &[(RowKey, Damage)], unlisted: u64) -> Result<()> {
        if list.is_empty() && unlisted == 0 {
            return Ok(());
        }
        catalog::create_own(&self.db, CREATE)?;
        let now_ms = self.server_now_ms()?;
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_repairs(tbl, pk, what, at) VALUES(?1, ?2, ?3, ?4)";
        let mut insert = self.db.prepare(sql)?;
        for ((table, key), damage) in list {
            let (name, what) = (Value::from(table.name.as_str()), Value::from(damage.as_str()));
            insert.run(&[name, Value::Blob(key), what, Value::Integer(now_ms as i64)])?;
        }
        storage::trim_journal(
            &self.db,
            "cloudsync_repairs",
            LISTED_MAX,
            now_ms.saturating_sub(LISTED_AGE_MS_MAX),
        )?;
        storage::set_u64(&self.db, REPAIRED_AT, now_ms)?;
        storage::count_up(&self.db, REPAIRED_ROWS, list.len() as u64 + unlisted)
    }
}
