//! Compaction of the change list, which would grow for ever otherwise.
//!
//! Beyond a horizon ([`HISTORY`]) only the last change of each row is kept, with the masks of all earlier ones. Whoever
//! asks from a place before it gets a few cells more than he needs, and never one less. A row keeps one change for each
//! origin, since a site is not sent what it uploaded itself.
//!
//! Entries keep their numbers, so places in the list stay valid; only keys that were passed inside an entry can be
//! counted no more. Versions without entries are forgotten: the server takes a cursor from before the horizon on trust.
//!
//! A run begins when as many entries have come since the last one as that left over. So each change is moved a few
//! times in its life, however long the list is.

use crate::changes::{Mask, read_row};
use crate::clocks::NEXT_ORDINAL;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::status::number_setting;
use crate::storage;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint, put_zigzag};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashMap;

/// The setting: for how long changes are listed one by one, in milliseconds.
pub(crate) const HISTORY: &str = "history_ms";
/// How often entries were rewritten; places inside of entries that are older than the last time cannot be counted.
pub(crate) const COMPACTIONS: &str = "compactions";
/// The last entry that was rewritten; any one up to it may be gone.
pub(crate) const COMPACTED_ENTRY: &str = "compacted_entry";
/// The last version that was forgotten.
pub(crate) const FORGOTTEN_VERSION: &str = "forgotten_version";

/// The last entry of the last complete run, and how many entries it left over.
const COMPACTED_TO: &str = "compacted_to";
const LEFT_OVER: &str = "compaction_left";
/// Where an unfinished run goes on.
const NEXT: &str = "compaction_next";

/// Entries that are worth a run, unless the setting says otherwise; tests do, to see more runs.
const ENTRIES_MIN: i64 = 256;
pub(crate) const ENTRIES_MIN_SETTING: &str = "compaction_entries_min";
/// Changes that are compared at once; bounds the memory.
const WINDOW_CHANGES: u64 = 100_000;
/// The setting that makes windows smaller, for tests.
pub(crate) const WINDOW_SETTING: &str = "compaction_window_changes";
/// Windows in one fold; bounds the time that it takes.
const WINDOWS_MAX: usize = 4;

impl Replica {
    /// Goes on compacting if enough has come together. The caller holds the transaction.
    pub(crate) fn compact_in_transaction(&mut self) -> Result<()> {
        let Some((horizon, last)) = self.compactable()? else { return Ok(()) };
        let db = self.db;
        let mut next = storage::get_i64(&db, NEXT)?.unwrap_or(0);
        let mut left = storage::get_i64(&db, LEFT_OVER)?.unwrap_or(0);
        if next != 0 {
            cloudsync_core::reached!("compaction: a run goes on");
        }
        if next == 0 {
            let done = storage::get_i64(&db, COMPACTED_TO)?.unwrap_or(0);
            let least = storage::get_i64(&db, ENTRIES_MIN_SETTING)?.unwrap_or(ENTRIES_MIN);
            if last - done < left.max(least) {
                return Ok(());
            }
            left = 0;
        }
        let most = storage::get_u64(&db, WINDOW_SETTING)?;
        let most = if most == 0 { WINDOW_CHANGES } else { most.min(WINDOW_CHANGES) };
        for _ in 0..WINDOWS_MAX {
            let window = Window::read(&db, next, last, most as usize)?;
            left += window.write(&db, next)?;
            forget_versions(&db, next, window.last, horizon)?;
            next = window.last;
            if next >= last {
                storage::set(&db, COMPACTED_TO, Value::Integer(last))?;
                next = 0;
                break;
            }
        }
        storage::next_number(&db, COMPACTIONS)?;
        storage::set(&db, LEFT_OVER, Value::Integer(left))?;
        storage::set(&db, NEXT, Value::Integer(next))?;
        let rewritten = if next == 0 { last } else { next };
        if storage::get_i64(&db, COMPACTED_ENTRY)?.unwrap_or(0) < rewritten {
            storage::set(&db, COMPACTED_ENTRY, Value::Integer(rewritten))?;
        }
        Ok(())
    }

    /// The last version that may be compacted, and its last entry; `None` while an upload counts on the list.
    fn compactable(&self) -> Result<Option<(u64, i64)>> {
        let db = &self.db;
        if storage::is_set(db, "round")? || storage::is_set(db, "unsent_position")? {
            return Ok(None);
        }
        let mut horizon = self.now_ms().saturating_sub(number_setting(db, HISTORY)?);
        let sent = storage::get_u64(db, "sent_version")?;
        // The first upload of all reads the tree of clocks, not the list.
        if sent > 0 && !storage::is_set(db, NEXT_ORDINAL)? {
            horizon = horizon.min(sent);
        }
        let last = crate::changes::entry_before(db, horizon)?;
        Ok((last > 0).then_some((horizon, last)))
    }
}

/// A stretch of the list, and the last change of each row in it.
struct Window {
    rows: HashMap<Vec<u8>, Last>,
    /// The window's last entry.
    last: i64,
}

struct Last {
    mask: Mask,
    entry: i64,
}

// language=SQLite
const ENTRIES: &str = "SELECT e.id, e.table_id, v.origin, e.keys FROM main.cloudsync_entries AS e \
                       JOIN main.cloudsync_versions AS v ON v.version = e.version \
                       WHERE e.id > ?1 AND e.id <= ?2 ORDER BY e.id";

impl Window {
    /// Reads the window that begins after the entry `after` and has so many changes at most, or one entry.
    fn read(db: &Connection, after: i64, last: i64, most: usize) -> Result<Self> {
        let mut window = Self { rows: HashMap::new(), last };
        let mut select = db.prepare(ENTRIES)?;
        select.bind(1, Value::Integer(after))?;
        select.bind(2, Value::Integer(last))?;
        while select.step()? {
            let entry = select.column_i64(0);
            let prefix = prefix(select.column_i64(1), select.column_i64(2));
            let mut reader = Reader::new(keys(select.column(3))?);
            while !reader.is_empty() {
                let (key, mask) = read_row(&mut reader)?;
                let row = window.rows.entry([&prefix, key].concat());
                row.and_modify(|known| {
                    known.mask.union_with(&mask);
                    known.entry = entry;
                })
                .or_insert(Last { mask, entry });
            }
            if window.rows.len() >= most {
                window.last = entry;
                break;
            }
        }
        Ok(window)
    }

    /// Takes out what comes again later in the window. Gives how many entries are left.
    fn write(&self, db: &Connection, after: i64) -> Result<i64> {
        let mut select = db.prepare(ENTRIES)?;
        select.bind(1, Value::Integer(after))?;
        select.bind(2, Value::Integer(self.last))?;
        let (mut left, mut changed) = (0, Vec::new());
        while select.step()? {
            let entry = select.column_i64(0);
            let prefix = prefix(select.column_i64(1), select.column_i64(2));
            let old = keys(select.column(3))?;
            let new = self.remaining(entry, &prefix, old)?;
            left += i64::from(!new.is_empty());
            if new != old {
                changed.push((entry, new));
            }
        }
        drop(select);
        let mut delete = db.prepare("DELETE FROM main.cloudsync_entries WHERE id = ?1")?;
        let mut update = db.prepare("UPDATE main.cloudsync_entries SET keys = ?2 WHERE id = ?1")?;
        for (entry, keys) in changed {
            if keys.is_empty() {
                delete.run(&[Value::Integer(entry)])?;
            } else {
                update.run(&[Value::Integer(entry), Value::Blob(&keys)])?;
            }
        }
        Ok(left)
    }

    /// The keys that an entry keeps, with their masks.
    fn remaining(&self, entry: i64, prefix: &[u8], keys: &[u8]) -> Result<Vec<u8>> {
        let (mut remaining, mut reader) = (Vec::with_capacity(keys.len()), Reader::new(keys));
        let mut previous: Option<&[u8]> = None;
        while !reader.is_empty() {
            let (key, _) = read_row(&mut reader)?;
            let last = self.rows.get(&[prefix, key].concat());
            if let Some(last) = last.filter(|last| last.entry == entry && previous != Some(key)) {
                put_bytes(&mut remaining, key);
                last.mask.encode(&mut remaining);
            }
            previous = Some(key);
        }
        Ok(remaining)
    }
}

fn prefix(table: i64, origin: i64) -> Vec<u8> {
    let mut prefix = Vec::new();
    put_varint(&mut prefix, table as u64);
    put_zigzag(&mut prefix, origin);
    prefix
}

fn keys(value: Value<'_>) -> Result<&[u8]> {
    value.as_blob().ok_or_else(|| Error::corrupt("cloudsync_entries"))
}

/// Forgets the versions up to the horizon of which no entry is left.
fn forget_versions(db: &Connection, after: i64, last: i64, horizon: u64) -> Result<()> {
    // language=SQLite
    let empty = "version IN (SELECT v.version FROM main.cloudsync_versions AS v \
                 WHERE v.version <= ?3 AND v.first_entry > ?1 AND v.first_entry <= ?2 AND NOT EXISTS( \
                     SELECT 1 FROM main.cloudsync_entries AS e WHERE e.version = v.version AND e.id >= v.first_entry \
                     AND e.id < coalesce((SELECT n.first_entry FROM main.cloudsync_versions AS n \
                         WHERE n.version > v.version ORDER BY n.version LIMIT 1), 9223372036854775807)))";
    let values = [
        Value::Integer(after),
        Value::Integer(last),
        Value::Integer(i64::try_from(horizon).unwrap_or(i64::MAX)),
    ];
    let sql = format!("SELECT max(version) FROM main.cloudsync_versions WHERE {empty}");
    let Some(newest) = db.query_i64(&sql, &values)?.filter(|version| *version > 0) else { return Ok(()) };
    db.prepare(&format!("DELETE FROM main.cloudsync_versions WHERE {empty}"))?.run(&values)?;
    if storage::get_i64(db, FORGOTTEN_VERSION)?.unwrap_or(0) < newest {
        storage::set(db, FORGOTTEN_VERSION, Value::Integer(newest))?;
    }
    Ok(())
}
