//! The quarantine: changes that a constraint of this database does not let in yet, or of which only a part came.
//!
//! Each is kept as a payload of one row, with its reason, and tried again after every apply, and at the next turn after
//! rows or the schema changed here, until it gets in or a later change of the row makes it void.

use crate::apply::Source;
use crate::changes::Origin;
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::kept;
use crate::replica::Replica;
use crate::rollback;
use crate::settle::Gathered;
use crate::storage;
use cloudsync_protocol::payload::{Group, Opened, Payload};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};

/// Rows that may wait on a device at most; the oldest go first. On the server rows leave it by verdicts instead.
pub(crate) const QUARANTINE_ROWS_MAX: u64 = 100_000;
/// How long a row may wait, in milliseconds: a year.
const QUARANTINE_AGE_MS_MAX: u64 = 365 * 24 * 3_600_000;
/// The setting that counts rows which the quarantine had no room for any more.
pub(crate) const QUARANTINE_DROPPED: &str = "quarantine_dropped";
/// Rows that one apply tries again at once; further ones only after one of them got in.
pub(crate) const RETRY_ROWS_MAX: i64 = 1_000;

/// The reason of rows that miss a parent which may come with a later round of their batch, and that must be judged then.
/// It begins like all reasons of rows that miss a parent.
pub(crate) const HELD: &str = "FOREIGN KEY: waits for the next round";

/// The setting that says which change was tried last, when there are too many for one apply.
const LAST_TRIED: &str = "quarantine_tried";

/// The setting that says that something changed here which may let in rows that wait.
const CALLED: &str = "quarantine_called";

/// Has the rows that wait tried again at the next turn, because something changed here: rows, or the schema.
pub(crate) fn call(db: &Connection) -> Result<()> {
    if db.query_i64("SELECT 1 FROM main.cloudsync_quarantine LIMIT 1", &[])?.is_some() {
        storage::set(db, CALLED, Value::Integer(1))?;
    }
    Ok(())
}

/// True when the rows that wait are to be tried again.
pub(crate) fn is_called(db: &Connection) -> Result<bool> {
    storage::is_set(db, CALLED)
}

/// True when no row waits.
pub(crate) fn is_empty(db: &Connection) -> Result<bool> {
    Ok(db.query_i64("SELECT 1 FROM main.cloudsync_quarantine LIMIT 1", &[])?.is_none())
}

/// The rows that wait were tried.
pub(crate) fn answer(db: &Connection) -> Result<()> {
    storage::unset(db, CALLED)
}

impl Replica {
    /// Tries the rows that wait if something changed here since they were tried. Gives the rows that changed. The caller
    /// holds the transaction, in which everything is folded.
    ///
    /// # Errors
    /// When the file cannot be written; the transaction must then be undone.
    pub fn retry_waiting(&mut self) -> Result<u64> {
        if !is_called(&self.db)? {
            return Ok(0);
        }
        let base = storage::get_u64(&self.db, "cursor")?;
        let source = Source { origin: Origin::Server, time_max: None, base };
        let applied = self.apply_in_transaction(&[], source)?;
        Ok(applied.rows)
    }
}

/// A change that waits.
pub(crate) struct Waiting {
    pub(crate) id: i64,
    pub(crate) change: Vec<u8>,
    pub(crate) origin: i64,
    pub(crate) reason: String,
    /// It is not tried again this time.
    pub(crate) rests: bool,
}

pub(crate) struct Quarantine {
    db: Connection,
    insert: Statement,
}

impl Quarantine {
    pub(crate) fn open(db: &Connection) -> Result<Self> {
        // language=SQLite
        let insert = "INSERT INTO main.cloudsync_quarantine(tbl, pk, reason, at, origin, change) VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
        Ok(Self { db: *db, insert: db.prepare(insert)? })
    }

    pub(crate) fn count(&self) -> Result<u64> {
        Ok(self.db.query_i64("SELECT count(*) FROM main.cloudsync_quarantine", &[])?.unwrap_or(0) as u64)
    }

    /// Puts one row of a payload into the quarantine; gives the number of the change there.
    pub(crate) fn add(
        &mut self,
        now_ms: u64,
        payload: &Payload<'_>,
        group: &Group<'_>,
        row: usize,
        reason: &str,
        origin: i64,
    ) -> Result<i64> {
        cloudsync_core::reached!("quarantine: a row waits");
        let mut change = Gathered::default();
        change.push(payload, group, row);
        let change = change.finish();
        // The same change may come again while it waits.
        // language=SQLite
        let known = "SELECT id FROM main.cloudsync_quarantine WHERE tbl = ?1 AND pk = ?2 AND change = ?3";
        let (table, key) = (Value::from(group.table()), Value::Blob(group.key(row)));
        match self.db.query_i64(known, &[table, key, Value::Blob(&change)])? {
            Some(id) => {
                self.keep(id, reason)?;
                if origin == Origin::Server.code() {
                    // Whoever brought it first, the server has it.
                    let sql =
                        "UPDATE main.cloudsync_quarantine SET origin = ?2 WHERE id = ?1 AND origin <> ?2";
                    self.db.prepare(sql)?.run(&[Value::Integer(id), Value::Integer(origin)])?;
                }
                Ok(id)
            }
            None => {
                self.insert.run(&[
                    table,
                    key,
                    Value::from(reason),
                    Value::Integer(now_ms as i64),
                    Value::Integer(origin),
                    Value::Blob(&change),
                ])?;
                Ok(self.db.last_insert_rowid())
            }
        }
    }

    /// Notes that a row was refused, of which nothing is kept but that.
    pub(crate) fn refuse(
        &self,
        now_ms: u64,
        table: &str,
        key: &[u8],
        reason: &str,
        origin: i64,
    ) -> Result<()> {
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_quarantine(tbl, pk, reason, at, origin, change) \
                   SELECT ?1, ?2, ?3, ?4, ?5, x'' WHERE NOT EXISTS(SELECT 1 FROM main.cloudsync_quarantine \
                   WHERE tbl = ?1 AND pk = ?2 AND origin = ?5 AND change = x'')";
        let values = [
            Value::from(table),
            Value::Blob(key),
            Value::from(reason),
            Value::Integer(now_ms as i64),
            Value::Integer(origin),
        ];
        Ok(self.db.prepare(sql)?.run(&values)?)
    }

    /// The changes that are tried again now, oldest first. Of more than can be tried at once each has its turn.
    pub(crate) fn read(&self) -> Result<Vec<Waiting>> {
        let mut waiting: Vec<Waiting> = Vec::new();
        let after = storage::get_i64(&self.db, LAST_TRIED)?;
        // A limit that is bound would have SQLite compile the statement anew for each use.
        // language=SQLite
        let sql = format!(
            "SELECT * FROM (SELECT id, change, origin, reason FROM main.cloudsync_quarantine WHERE id > ?1 ORDER BY id) \
             WHERE change <> x'' AND reason <> ?2 \
             UNION ALL \
             SELECT * FROM (SELECT id, change, origin, reason FROM main.cloudsync_quarantine WHERE id <= ?1 ORDER BY id) \
             WHERE change <> x'' AND reason <> ?2 LIMIT {RETRY_ROWS_MAX}"
        );
        let values = [Value::Integer(after.unwrap_or(0)), Value::from(HELD)];
        let called = is_called(&self.db)?;
        self.db.prepare(&sql)?.for_each(&values, |row| -> Result<()> {
            let change = row.column(1).as_blob().ok_or_else(|| Error::corrupt("cloudsync_quarantine"))?;
            let reason = row.column(3).as_str().unwrap_or_default().to_owned();
            let rolls_back = reason.starts_with(rollback::REASON);
            waiting.push(Waiting {
                id: row.column_i64(0),
                change: change.to_vec(),
                origin: row.column_i64(2),
                rests: rolls_back && !called,
                reason,
            });
            Ok(())
        })?;
        match waiting.last() {
            Some(last) if waiting.len() as i64 == RETRY_ROWS_MAX => {
                storage::set(&self.db, LAST_TRIED, Value::Integer(last.id))?;
            }
            _ if after.is_some() => storage::unset(&self.db, LAST_TRIED)?,
            _ => {}
        }
        Ok(waiting)
    }

    /// Makes the oldest changes go that there is no room for.
    pub(crate) fn trim(&self, now_ms: u64) -> Result<()> {
        let oldest = now_ms.saturating_sub(QUARANTINE_AGE_MS_MAX);
        let dropped = storage::trim_journal(&self.db, "cloudsync_quarantine", QUARANTINE_ROWS_MAX, oldest)?;
        storage::count_up(&self.db, QUARANTINE_DROPPED, dropped)
    }

    /// The change got in.
    pub(crate) fn remove(&self, id: i64) -> Result<()> {
        Ok(self
            .db
            .prepare("DELETE FROM main.cloudsync_quarantine WHERE id = ?1")?
            .run(&[Value::Integer(id)])?)
    }

    /// The change must go on waiting.
    pub(crate) fn keep(&self, id: i64, reason: &str) -> Result<()> {
        let sql = "UPDATE main.cloudsync_quarantine SET reason = ?2 WHERE id = ?1 AND reason <> ?2";
        Ok(self.db.prepare(sql)?.run(&[Value::Integer(id), Value::from(reason)])?)
    }
}

/// Takes the rows out that are held for an origin, as one payload; those for which there is no room stay.
pub(crate) fn take_held(db: &Connection, origin: i64) -> Result<Vec<u8>> {
    let (mut held, mut taken) = (Gathered::default(), Vec::new());
    // language=SQLite
    let sql =
        "SELECT id, change FROM main.cloudsync_quarantine WHERE origin = ?1 AND reason = ?2 ORDER BY id";
    let mut select = db.prepare(sql)?;
    select.bind(1, Value::Integer(origin))?;
    select.bind(2, Value::from(HELD))?;
    while !held.is_full() && select.step()? {
        let change = select.column(1).as_blob().ok_or_else(|| Error::corrupt("cloudsync_quarantine"))?;
        let opened = Opened::open(change, &Zstd)?;
        let payload = opened.payload()?;
        for group in payload.groups() {
            (0..group.rows()).for_each(|row| held.push(&payload, group, row));
        }
        taken.push(select.column_i64(0));
    }
    drop(select);
    let mut delete = db.prepare("DELETE FROM main.cloudsync_quarantine WHERE id = ?1")?;
    taken.iter().try_for_each(|id| delete.run(&[Value::Integer(*id)]))?;
    Ok(if taken.is_empty() { Vec::new() } else { held.finish() })
}

/// Puts the waiting changes of a table under the names that it and its columns, by their names before, have now.
pub(crate) fn rename(db: &Connection, from: &str, to: &str, columns: &[(String, String)]) -> Result<()> {
    let mut waiting = Vec::new();
    let sql =
        "SELECT id, change FROM main.cloudsync_quarantine WHERE tbl = ?1 COLLATE NOCASE AND change <> x''";
    db.prepare(sql)?.for_each(&[Value::from(from)], |row| -> Result<()> {
        let change = row.column(1).as_blob().ok_or_else(|| Error::corrupt("cloudsync_quarantine"))?;
        waiting.push((row.column_i64(0), change.to_vec()));
        Ok(())
    })?;
    let mut update =
        db.prepare("UPDATE main.cloudsync_quarantine SET tbl = ?2, change = ?3 WHERE id = ?1")?;
    for (id, change) in waiting {
        let opened = Opened::open(&change, &Zstd)?;
        let change = kept::renamed(&opened.payload()?, to, columns);
        update.run(&[Value::Integer(id), Value::from(to), Value::Blob(&change)])?;
    }
    Ok(())
}
