//! Pieces of large values that came before their rows, and how a value is put together from them.
//!
//! `cloudsync_pieces(set_id, start, at, bytes)` has them until their row is applied. Those of a download or of a round
//! come and go within one transaction, or stay while a first download goes on; of payloads that travel by hand each may be
//! applied at another time, so their pieces wait, up to a bound, for their row: `at` says since when, and is 0 for the
//! others. `cloudsync_held(set_id, change_id)` says which changes in the quarantine need which set.
//!
//! Nothing is taken from a set before all of it is there and has the name that was made from its bytes. So values of two
//! versions are never mixed, whatever arrived, and how often.

use crate::catalog;
use crate::error::{Error, Result};
use crate::replica::Replica;
use cloudsync_protocol::limits::{HELD_BYTES_MAX, PIECES_MS_MAX};
use cloudsync_protocol::payload::{Group, Payload, Reference, SetHasher, SetId};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::ops::Range;

// language=SQLite
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS main.cloudsync_pieces(
    id INTEGER PRIMARY KEY, set_id BLOB NOT NULL, start INTEGER NOT NULL, at INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS main.cloudsync_pieces_set ON cloudsync_pieces(set_id, start);
CREATE TABLE IF NOT EXISTS main.cloudsync_held(
    set_id BLOB NOT NULL, change_id INTEGER NOT NULL, PRIMARY KEY(set_id, change_id)) WITHOUT ROWID;
";

/// Makes room for pieces.
pub(crate) fn prepare(db: &Connection) -> Result<()> {
    catalog::create_own(db, CREATE)
}

fn exists(db: &Connection) -> Result<bool> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_pieces'";
    Ok(db.query_i64(sql, &[])?.is_some())
}

/// Keeps the pieces of a payload. `at` is when one came that travelled by hand, in milliseconds, and 0 for all others.
pub(crate) fn keep(db: &Connection, payload: &Payload<'_>, at: u64) -> Result<()> {
    if payload.pieces().is_empty() {
        return Ok(());
    }
    if !exists(db)? {
        prepare(db)?;
    }
    if at > 0 {
        let bytes = db.query_i64("SELECT sum(length(bytes)) FROM main.cloudsync_pieces", &[])?.unwrap_or(0);
        if bytes as u64 > HELD_BYTES_MAX {
            return Err(Error::Limit(format!(
                "large values wait here for their rows with more than {HELD_BYTES_MAX} bytes: apply the payloads that follow them first"
            )));
        }
    }
    // A set may come once more, cut at other places.
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_pieces(set_id, start, at, bytes) VALUES(?1, ?2, ?3, ?4) \
               ON CONFLICT(set_id, start) DO UPDATE SET bytes = excluded.bytes \
               WHERE length(excluded.bytes) > length(bytes)";
    let mut insert = db.prepare(sql)?;
    for piece in payload.pieces() {
        let (start, at) = (Value::Integer(piece.start as i64), Value::Integer(at as i64));
        insert.run(&[Value::Blob(&piece.set.0), start, at, Value::Blob(piece.bytes)])?;
    }
    Ok(())
}

/// Hands over the bytes of a part of a set, in order.
pub(crate) fn each(
    db: &Connection,
    set: SetId,
    range: Range<u64>,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut at = range.start;
    if exists(db)? {
        // language=SQLite
        let sql = "SELECT start, length(bytes), id FROM main.cloudsync_pieces WHERE set_id = ?1 AND start < ?2 ORDER BY start";
        let mut pieces = db.prepare(sql)?;
        pieces.bind(1, Value::Blob(&set.0))?;
        pieces.bind(2, Value::Integer(range.end as i64))?;
        let mut read = db.prepare("SELECT bytes FROM main.cloudsync_pieces WHERE id = ?1")?;
        while at < range.end && pieces.step()? {
            let (start, bytes) = (pieces.column_i64(0) as u64, pieces.column_i64(1) as u64);
            if start > at || start + bytes <= at {
                if start > at {
                    break;
                }
                continue;
            }
            let until = (start + bytes).min(range.end);
            read.query_row(&[Value::Integer(pieces.column_i64(2))], |row| -> Result<()> {
                let bytes = row.column(0).as_blob().unwrap_or_default();
                let part = bytes.get((at - start) as usize..(until - start) as usize);
                each(part.ok_or_else(|| Error::corrupt("cloudsync_pieces"))?)
            })?;
            at = until;
        }
    }
    if at < range.end { Err(incomplete()) } else { Ok(()) }
}

fn incomplete() -> Error {
    Error::Incomplete(
        "payload refused: pieces of its large values are missing: apply all chunks, in the order in which they were made"
            .to_owned(),
    )
}

/// Refuses a set of which anything is missing, or which is not what its name says.
pub(crate) fn verify(db: &Connection, reference: &Reference) -> Result<()> {
    let mut hasher = SetHasher::new();
    each(db, reference.set, 0..reference.set_bytes, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    if hasher.id() == reference.set {
        return Ok(());
    }
    // What is there is of no use: the pieces are to come anew.
    Err(Error::Incomplete(
        "payload refused: its large values are damaged; fetch or export them again".to_owned(),
    ))
}

/// The bytes of a value, once its set is verified.
pub(crate) fn read(db: &Connection, reference: &Reference) -> Result<Vec<u8>> {
    cloudsync_core::reached!("pieces: a large value is put together");
    // The reader of the payload has bounded the length; memory is taken as pieces are there.
    let mut value = Vec::new();
    each(db, reference.set, reference.start..reference.start + reference.bytes, |bytes| {
        value.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(value)
}

/// The references of a row, one for each set.
pub(crate) fn sets(group: &Group<'_>, row: usize) -> Vec<Reference> {
    let mut sets: Vec<Reference> = Vec::new();
    if group.has_references() {
        for reference in (0..group.columns().len()).filter_map(|column| group.reference(row, column)) {
            if sets.iter().all(|known| known.set != reference.set) {
                sets.push(reference);
            }
        }
    }
    sets
}

/// True when nothing of the sets is missing.
pub(crate) fn are_complete(db: &Connection, sets: &[Reference]) -> Result<bool> {
    for reference in sets {
        if !exists(db)? {
            return Ok(false);
        }
        // language=SQLite
        let sql = "SELECT sum(length(bytes)) FROM main.cloudsync_pieces WHERE set_id = ?1";
        let bytes = db.query_i64(sql, &[Value::Blob(&reference.set.0)])?.unwrap_or(0);
        if (bytes as u64) < reference.set_bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Keeps the pieces that a change in the quarantine needs. False where there is no room for them.
pub(crate) fn hold(db: &Connection, sets: &[Reference], change: i64) -> Result<bool> {
    for reference in sets {
        verify(db, reference)?;
        // language=SQLite
        let sql = "SELECT sum(length(bytes)) FROM main.cloudsync_pieces \
                   WHERE set_id = ?1 OR set_id IN (SELECT set_id FROM main.cloudsync_held)";
        let bytes = db.query_i64(sql, &[Value::Blob(&reference.set.0)])?.unwrap_or(0);
        if bytes as u64 > HELD_BYTES_MAX {
            return Ok(false);
        }
        let sql = "INSERT OR IGNORE INTO main.cloudsync_held(set_id, change_id) VALUES(?1, ?2)";
        db.prepare(sql)?.run(&[Value::Blob(&reference.set.0), Value::Integer(change)])?;
    }
    Ok(true)
}

/// The sets of rows in a payload that need nothing of a later one: the row goes with the last piece of its set, and an
/// equal set of a later row begins anew.
pub(crate) fn used(payload: &Payload<'_>) -> Vec<SetId> {
    let mut used = Vec::new();
    for group in payload.groups().iter().filter(|group| group.has_references()) {
        for row in 0..group.rows() {
            for reference in sets(group, row) {
                let last = payload.pieces().iter().rfind(|piece| piece.set == reference.set);
                let ends = |end| end == reference.set_bytes;
                if last.is_none_or(|piece| ends(piece.start + piece.bytes.len() as u64)) {
                    used.push(reference.set);
                }
            }
        }
    }
    used
}

impl Replica {
    /// Forgets the pieces of rows that were applied since, but for those that a change in the quarantine needs. Those that came
    /// `by_hand` and others have nothing to do with each other: the same row may be half here in a download that goes on.
    pub(crate) fn forget_used_pieces(&mut self, by_hand: bool) -> Result<()> {
        let used = std::mem::take(&mut self.unsettled.used);
        if used.is_empty() || !exists(&self.db)? {
            return Ok(());
        }
        // language=SQLite
        let sql = "DELETE FROM main.cloudsync_pieces WHERE set_id = ?1 AND (at > 0) = ?2 \
                   AND NOT EXISTS(SELECT 1 FROM main.cloudsync_held AS h WHERE h.set_id = ?1)";
        let mut delete = self.db.prepare(sql)?;
        let by_hand = Value::Integer(i64::from(by_hand));
        used.iter().try_for_each(|set| Ok(delete.run(&[Value::Blob(&set.0), by_hand])?))
    }

    /// Forgets all pieces that no row will ask for: at the end of a download or a round, those that no change in the
    /// quarantine needs, and of those that travelled by hand the old ones.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_pieces(&mut self) -> Result<()> {
        self.unsettled.used.clear();
        if !exists(&self.db)?
            || self.db.query_i64("SELECT 1 FROM main.cloudsync_pieces LIMIT 1", &[])?.is_none()
        {
            return Ok(());
        }
        // language=SQLite
        let gone = "DELETE FROM main.cloudsync_held WHERE change_id NOT IN (SELECT id FROM main.cloudsync_quarantine)";
        self.db.execute(gone)?;
        // language=SQLite
        let sql = "DELETE FROM main.cloudsync_pieces WHERE (at = 0 OR at < ?1) \
                   AND set_id NOT IN (SELECT set_id FROM main.cloudsync_held)";
        let oldest = self.now_ms().saturating_sub(PIECES_MS_MAX);
        Ok(self.db.prepare(sql)?.run(&[Value::Integer(oldest as i64)])?)
    }
}
