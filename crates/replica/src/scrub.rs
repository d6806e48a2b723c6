//! Scrubbing: what is left in the file of rows that went.
//!
//! After a logout only the WAL is left to be emptied. Evicted rows leave more: their keys in the list of changes, their
//! values on free pages and in the gaps of pages in use, because SQLite copies cells when it splits a page. Only VACUUM
//! removes those, and it writes the whole file. So an eviction makes a scrub *due*, and one is made when the device is
//! idle, by a connection that has nothing else to do, in a file up to a size that the app may set. What is promised is
//! therefore eventual; the status says whether a scrub is due.
//!
//! What a file forgot may be left in it as well: after a loss of power the WAL ends where its frames no longer fit
//! together, and what is behind that stays until SQLite writes over it, as do free pages that a transaction filled which was
//! then rolled back. Nothing in SQLite tells of either. But the server knows what it sent to a site, and tells the site when a
//! row is to go, known or not; that makes a scrub due. Where the site is another one than before, nobody knows, so a user's
//! file that takes a new site is scrubbed whole, and of one that begins the WAL is emptied: a file that lost all that was
//! agreed with the server has lost it with its whole WAL.
//!
//! A row that went out of sight and was then deleted reaches those who hold it as any deletion. So deletions make a scrub due
//! on a user's device, too. They are common, so those alone wait until the last scrub is a day old. Evictions may be common, too,
//! where rows change hands all day: of a file that is not small at most 64 MiB are cleaned in an hour.

use crate::apply::SEES_PART;
use crate::catalog::schema_version;
use crate::changes::read_row;
use crate::clocks;
use crate::compaction::COMPACTIONS;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::status::number_setting;
use crate::storage;
use cloudsync_core::bytes::{Reader, put_bytes};
use cloudsync_sqlite_ffi::{Connection, Value};

/// The setting that says that the WAL may hold values of a user who logged out.
pub(crate) const SCRUB_DUE: &str = "scrub_due";
/// The setting that counts the evictions since the last scrub.
const EVICTIONS: &str = "scrub_evictions";
/// The setting that counts the applies with deletions since the last scrub.
const DELETIONS: &str = "scrub_deletions";
/// The setting: when the last scrub was, in milliseconds since 1970.
const SCRUBBED_AT: &str = "scrubbed_at";
/// Deletions alone have the file written anew once in this time, in milliseconds.
const DELETIONS_WAIT_MS: u64 = 24 * 3_600_000;
/// Files up to this size are written anew after each eviction, in bytes.
const FREELY_BYTES_MAX: u64 = 1 << 20;
/// Of larger ones evictions have no more than this cleaned in an hour, in bytes.
const HOURLY_BYTES: u64 = 64 << 20;
const HOUR_MS: u64 = 3_600_000;
/// The setting: the largest file that is cleaned, in bytes.
pub(crate) const SCRUB_BYTES_MAX: &str = "scrub_bytes_max";

/// Entries of the list of changes that are looked through in one transaction; bounds how long it holds the lock.
const ENTRIES_AT_ONCE: i64 = 256;

/// Tables without any index and without a key of integers: VACUUM gives their rows other numbers, which something of
/// the app's may refer to. Our own log is empty when it runs.
// language=SQLite
const RENUMBERED: &str = "SELECT count(*) FROM main.sqlite_master AS t WHERE t.type = 'table' \
    AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND t.name NOT IN ('cloudsync_log', 'cloudsync_dropped') \
    AND t.sql NOT LIKE 'CREATE VIRTUAL%' \
    AND NOT EXISTS(SELECT 1 FROM main.sqlite_master AS i WHERE i.type = 'index' AND i.tbl_name = t.name) \
    AND NOT EXISTS(SELECT 1 FROM pragma_table_info(t.name) WHERE pk > 0)";

/// Says that rows were evicted, or that rows may be in the file of which neither it nor the server knows.
pub(crate) fn call(db: &Connection) -> Result<()> {
    storage::count_up(db, EVICTIONS, 1)
}

/// Says that the server told of deletions, which matters where it may have told of rows that had gone out of sight.
pub(crate) fn note_deletions(db: &Connection) -> Result<()> {
    if storage::is_set(db, SEES_PART)? { storage::count_up(db, DELETIONS, 1) } else { Ok(()) }
}

impl Replica {
    /// True when the file may still hold values of rows that went: in its WAL after a logout, anywhere after evictions and
    /// deletions.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_scrub_due(&self) -> Result<bool> {
        Ok(self.scrub_wait_ms()?.is_some())
    }

    /// How long a scrub that is due may wait, in milliseconds, so that it does not write the file too often; `None` when none
    /// is due.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn scrub_wait_ms(&self) -> Result<Option<u64>> {
        if !self.exists()? {
            return Ok(None);
        }
        if storage::is_set(&self.db, SCRUB_DUE)? {
            return Ok(Some(0));
        }
        let apart_ms = match (storage::is_set(&self.db, EVICTIONS)?, storage::is_set(&self.db, DELETIONS)?) {
            (true, _) => match self.bytes()? {
                ..=FREELY_BYTES_MAX => return Ok(Some(0)),
                bytes => (bytes.saturating_mul(HOUR_MS) / HOURLY_BYTES).min(DELETIONS_WAIT_MS),
            },
            (false, true) => DELETIONS_WAIT_MS,
            (false, false) => return Ok(None),
        };
        // The clock may have been set back.
        let elapsed = self.now_ms().abs_diff(storage::get_u64(&self.db, SCRUBBED_AT)?);
        Ok(Some(apart_ms.saturating_sub(elapsed)))
    }

    /// How large the file is, in bytes.
    fn bytes(&self) -> Result<u64> {
        let number = |sql| self.db.query_i64(sql, &[]).map(|number| number.unwrap_or(0) as u64);
        Ok(number("PRAGMA main.page_size")?.saturating_mul(number("PRAGMA main.page_count")?))
    }

    /// How much there is that only VACUUM removes.
    fn gone(&self) -> Result<(u64, u64)> {
        Ok((storage::get_u64(&self.db, EVICTIONS)?, storage::get_u64(&self.db, DELETIONS)?))
    }

    /// Empties the WAL, or a journal that is kept, after a logout. Where another connection reads, it stays due.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn scrub_if_due(&mut self) -> Result<()> {
        if !self.exists()? || !storage::is_set(&self.db, SCRUB_DUE)? || !empties_journals(&self.db) {
            return Ok(());
        }
        self.transact(|replica| storage::unset(&replica.db, SCRUB_DUE))
    }

    /// Removes what is left of rows that went, if anything is due, also where it could wait. Takes as long as it takes to
    /// write the file once, and gives true if it did. Must be called on a connection on which no statement runs, outside of
    /// transactions; where another connection is in the way it stays due.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn scrub(&mut self) -> Result<bool> {
        self.scrub_if_due()?;
        if !self.exists()? {
            return Ok(false);
        }
        let gone = self.gone()?;
        if gone == (0, 0) || !self.may_vacuum()? {
            return Ok(false);
        }
        self.transact(|replica| replica.fold_in_transaction().map(drop))?;
        if !self.forget_entries()?
            || self.db.query_i64("SELECT 1 FROM main.cloudsync_log LIMIT 1", &[])?.is_some()
        {
            return Ok(false);
        }
        match self.db.execute("VACUUM main") {
            Ok(()) => {}
            // Somebody reads or writes, or a statement runs here.
            Err(_) => return Ok(false),
        }
        self.catalog.clear();
        if !empties_journals(&self.db) {
            return Ok(false);
        }
        self.transact(|replica| {
            // More may have gone meanwhile, by another process.
            if replica.gone()? == gone {
                storage::unset(&replica.db, EVICTIONS)?;
                storage::unset(&replica.db, DELETIONS)?;
            }
            storage::set_u64(&replica.db, SCRUBBED_AT, replica.now_ms())?;
            // VACUUM counts as one change of the schema, and no other one may go unseen.
            let seen = storage::get_i64(&replica.db, "schema_version")?;
            let now = schema_version(&replica.db)?;
            if seen == Some(now - 1) {
                storage::set(&replica.db, "schema_version", Value::Integer(now))?;
            }
            Ok(true)
        })
    }

    /// Whether the file may be written anew: it is not too large, not in use by us, and no rows are known by numbers that
    /// would change.
    fn may_vacuum(&self) -> Result<bool> {
        let is_open = ["round", "unsent_position", "position"].iter();
        let is_open = is_open.map(|key| storage::is_set(&self.db, key)).collect::<Result<Vec<_>>>()?;
        Ok(self.db.is_autocommit()
            && !is_open.contains(&true)
            && self.bytes()? <= number_setting(&self.db, SCRUB_BYTES_MAX)?
            && self.db.query_i64(RENUMBERED, &[])? == Some(0))
    }

    /// Takes keys out of the list of changes of which nothing else is known. Gives true when it has gone through the list.
    fn forget_entries(&mut self) -> Result<bool> {
        let mut after = 0;
        loop {
            let (last, changed) = self.foreign_entries(after)?;
            if !changed.is_empty() {
                self.transact(|replica| replica.rewrite_entries(&changed))?;
            }
            match last {
                Some(last) => after = last,
                None => return Ok(true),
            }
        }
    }

    /// The next entries that name rows without a clock: id, keys, and the keys that stay. `None` at the end of the list.
    #[expect(clippy::type_complexity, reason = "a stretch of the list")]
    fn foreign_entries(&self, after: i64) -> Result<(Option<i64>, Vec<(i64, Vec<u8>, Vec<u8>)>)> {
        // language=SQLite
        let sql = "SELECT id, table_id, keys FROM main.cloudsync_entries WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut find = self.db.prepare("SELECT 1 FROM main.cloudsync_clocks WHERE pk = ?1")?;
        let (mut last, mut changed) = (None, Vec::new());
        self.db.prepare(sql)?.for_each(
            &[Value::Integer(after), Value::Integer(ENTRIES_AT_ONCE)],
            |row| -> Result<()> {
                let (id, table) = (row.column_i64(0), row.column_i64(1));
                let keys = row.column(2).as_blob().ok_or_else(|| Error::corrupt("cloudsync_entries"))?;
                let (mut stay, mut reader) = (Vec::with_capacity(keys.len()), Reader::new(keys));
                while !reader.is_empty() {
                    let (key, mask) = read_row(&mut reader)?;
                    find.bind(1, Value::Blob(&clocks::pk(table, key)))?;
                    if find.step()? {
                        put_bytes(&mut stay, key);
                        mask.encode(&mut stay);
                    }
                    find.reset()?;
                }
                if stay != keys {
                    changed.push((id, keys.to_vec(), stay));
                }
                last = Some(id);
                Ok(())
            },
        )?;
        Ok((last, changed))
    }

    fn rewrite_entries(&mut self, changed: &[(i64, Vec<u8>, Vec<u8>)]) -> Result<()> {
        let db = self.db;
        let mut delete = db.prepare("DELETE FROM main.cloudsync_entries WHERE id = ?1 AND keys = ?2")?;
        let mut update =
            db.prepare("UPDATE main.cloudsync_entries SET keys = ?3 WHERE id = ?1 AND keys = ?2")?;
        for (id, before, stay) in changed {
            let (id, before) = (Value::Integer(*id), Value::Blob(before));
            if stay.is_empty() {
                delete.run(&[id, before])?;
            } else {
                update.run(&[id, before, Value::Blob(stay)])?;
            }
        }
        // Keys that were passed inside an entry can be counted no more.
        storage::next_number(&db, COMPACTIONS).map(drop)
    }
}

/// Takes away what the journals hold. False where another connection, or a statement of the host, is in the way.
fn empties_journals(db: &Connection) -> bool {
    let Ok(mode) = db.query_text("PRAGMA main.journal_mode", &[]) else { return false };
    match mode.as_deref() {
        Some("wal") => matches!(db.query_i64("PRAGMA main.wal_checkpoint(TRUNCATE)", &[]), Ok(Some(0))),
        // Only its beginning is overwritten at a commit.
        Some("persist") => {
            let removed = db.query_text("PRAGMA main.journal_mode = DELETE", &[]);
            let back = db.execute("PRAGMA main.journal_mode = PERSIST");
            back.is_ok() && removed.is_ok_and(|mode| mode.as_deref() == Some("delete"))
        }
        _ => true,
    }
}
