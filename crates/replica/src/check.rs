//! Checking whether this replica holds what the server does, range by range of keys: which ranges a request names.
//!
//! There are two occasions. A device that finds nothing to do checks a *slice* of what it holds, from one place to the
//! next, so that what was changed behind the triggers' back is found in time; the place is kept in memory only, and
//! begins anywhere. And a replica that cannot be sure of what it holds *reconciles*: it checks everything, and goes on
//! where it stopped, because that place is in the file.
//!
//! What the server cannot have as it is here is left out: rows with unsent changes, those of which a change of the server's
//! waits in the quarantine, rows outside of their table's filter, tables in doubt, and tables that were written while they
//! were disabled. A range ends before such a row, and the next one begins behind it. A change that came by file and waits
//! makes no difference: without it the row is what the server has.
//!
//! Of somebody who may not see everything the living rows alone are compared: of deletions they hear only where they held
//! the row, and nobody knows what became of the others.

use crate::changes::{EntryReader, Origin};
use crate::clocks::{self, pk_range, split_pk};
use crate::error::{Error, Result};
use crate::kept;
use crate::ranges::{ClockWalk, Filled, Held, RowReader, Unclocked};
use crate::rebuilt::doubtful_tables;
use crate::repair::exhausted;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::limits::{CHECK_BYTES_MAX, CHECK_RANGES_MAX, CHECK_ROW_BYTES_TARGET, RANGE_ROWS_MAX};
use cloudsync_protocol::range::{Check, Range, RangeDigest, shape};
use cloudsync_sqlite_ffi::{Shelf, Value};
use std::collections::{BTreeSet, HashSet};
use std::ops::Bound::{Excluded, Included};
use std::rc::Rc;

/// Set while everything must be checked: the key in the tree of clocks behind which that goes on.
const RECONCILE: &str = "reconcile";
/// Set as well if everything was fetched before: what the server cannot check is as good as it can be.
const FETCHED: &str = "reconcile_fetched";
/// Begins the names of the settings that say which tables were disabled for a while; the id follows.
const UNWATCHED: &str = "unwatched ";
/// Rows of one slice.
const SLICE_ROWS_MAX: u64 = 2_048;
/// Bytes of rows after which a slice ends.
const SLICE_BYTES_TARGET: usize = 1 << 20;
/// Rows of one request while everything is checked.
const RECONCILE_ROWS_MAX: u64 = RANGE_ROWS_MAX * 56;
/// Bytes of names and keys after which no further range is added.
const NAMES_BYTES_TARGET: usize = CHECK_BYTES_MAX / 4;
/// Rows of the table that are looked at for one range, to find those without a clock.
const LOOKED_AT_MAX: usize = 4_096;

/// Where the next slice begins, as long as a process remembers it.
#[derive(Debug, Clone, Default)]
pub struct Rolling {
    pub(crate) place: Option<Vec<u8>>,
}

/// The ranges of a request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) ranges: Vec<AskedRange>,
    /// The place behind them; `None` at the end of all tables.
    pub(crate) next: Option<Vec<u8>>,
    /// Set if everything is checked, and not a slice only.
    pub(crate) reconciles: bool,
    /// The place from which it went, as it is in the file.
    pub(crate) from: Vec<u8>,
}

/// A range, with the keys at its ends; empty ones stand for the table's.
#[derive(Debug, Clone)]
pub(crate) struct AskedRange {
    pub(crate) table: Rc<Table>,
    pub(crate) after: Vec<u8>,
    pub(crate) until: Vec<u8>,
    held: RangeDigest,
}

impl Replica {
    /// Makes a request that has ranges checked; `None` where there is nothing to check just now.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn prepare_check(&mut self, goal: Goal) -> Result<Option<Vec<u8>>> {
        let _open = Shelf::new(self.db).open();
        self.require()?;
        self.transact(|replica| {
            replica.fold_in_transaction()?;
            replica.catalog.require_settled()?;
            if !replica.may_check()? {
                return Ok(None);
            }
            let asked = match storage::get_blob(&replica.db, RECONCILE)? {
                Some(place) => replica.ranges_of_all(place)?,
                None => replica.ranges_of_slice()?,
            };
            if asked.ranges.is_empty() {
                if asked.reconciles && asked.next.is_none() {
                    end_reconciling(replica)?;
                }
                return Ok(None);
            }
            let shapes: Vec<_> = asked.ranges.iter().map(|range| shape(&range.table.schema())).collect();
            let ranges = asked.ranges.iter().zip(shapes).map(|(range, shape)| Range {
                table: &range.table.name,
                shape,
                after: &range.after,
                until: &range.until,
                rows: range.held.rows,
                digest: range.held.digest,
            });
            let check = Check { ranges: ranges.collect() };
            let goal = Goal { push: false, ..goal };
            let request = replica.request(goal, false, check)?;
            if let Some(sent) = &mut replica.sent {
                sent.asked = Some(asked);
            }
            Ok(Some(request))
        })
    }

    /// What the process remembers of the last slice, for a host that opens the replica anew.
    pub fn take_rolling(&mut self) -> Rolling {
        std::mem::take(&mut self.rolling)
    }

    /// Takes back what [`Replica::take_rolling`] gave.
    pub fn put_rolling(&mut self, rolling: Rolling) {
        self.rolling = rolling;
    }

    /// Whether what is here is what the server has given, and nothing is on its way.
    fn may_check(&self) -> Result<bool> {
        let open = storage::is_set(&self.db, "refetch")?
            || storage::get_blob(&self.db, "position")?.is_some()
            || storage::get_u64(&self.db, "cursor")? == 0;
        Ok(!open && !self.is_upload_open()? && !self.is_anything_unsent()? && !self.has_ready_pieces()?)
    }

    /// True while everything must be checked, and can be.
    pub(crate) fn must_check(&self) -> Result<bool> {
        Ok(storage::get_blob(&self.db, RECONCILE)?.is_some() && self.may_check()?)
    }

    /// True while everything must be checked.
    pub(crate) fn is_reconciling(&self) -> Result<bool> {
        Ok(storage::get_blob(&self.db, RECONCILE)?.is_some())
    }

    /// Has everything checked from now on. `fetched` says that everything is fetched before.
    pub(crate) fn begin_reconciling(&self, fetched: bool) -> Result<()> {
        storage::set(&self.db, RECONCILE, Value::Blob(&[]))?;
        if fetched {
            storage::set(&self.db, FETCHED, Value::Integer(1))
        } else {
            storage::unset(&self.db, FETCHED)
        }
    }

    /// Whether checking everything can take the place of fetching everything: the server has given what is here, and
    /// each row can be checked. Beside a row that is not compared, as behind a filter, there may be some that are not here,
    /// between it and the end of the range before.
    pub(crate) fn can_reconcile(&mut self) -> Result<bool> {
        self.catalog.load(&self.db)?;
        if storage::get_u64(&self.db, "cursor")? == 0 || self.is_empty()? {
            return Ok(false);
        }
        for table in self.catalog.tables() {
            if !self.is_checked(&table)? || table.filter.is_some() {
                return Ok(false);
            }
        }
        if !self.uncomparable()?.is_empty() {
            return Ok(false);
        }
        // What is kept aside came with what was given, and does not come again.
        let kept = kept::bytes(&self.db)? > 0 || kept::is_lost(&self.db)?;
        Ok(!kept && doubtful_tables(&self.db)?.is_empty())
    }

    /// Whether a table is checked at all.
    pub(crate) fn is_checked(&self, table: &Table) -> Result<bool> {
        Ok(table.enabled && !table.is_withheld() && !storage::is_set(&self.db, &unwatched(table.id))?)
    }

    /// Takes note of how far the check got. Gives true if everything is checked and it got on.
    pub(crate) fn note_checked(&mut self, asked: &Asked, place: Option<Vec<u8>>) -> Result<bool> {
        if !asked.reconciles {
            self.rolling.place = place;
            return Ok(false);
        }
        if storage::get_blob(&self.db, RECONCILE)?.as_ref() != Some(&asked.from) {
            // Another process checks, or it has to begin anew.
            return Ok(false);
        }
        match place {
            Some(place) => {
                storage::set(&self.db, RECONCILE, Value::Blob(&place))?;
                Ok(place != asked.from)
            }
            None => end_reconciling(self).map(|()| false),
        }
    }

    /// The server cannot check what must be checked: all is fetched, unless it was.
    pub(crate) fn fetch_unchecked(&self) -> Result<()> {
        if storage::is_set(&self.db, FETCHED)? {
            return Ok(());
        }
        storage::unset(&self.db, RECONCILE)?;
        storage::set(&self.db, "refetch", Value::Integer(1))
    }

    fn ranges_of_all(&mut self, place: Vec<u8>) -> Result<Asked> {
        let mut slicing = Slicing::new(self, RECONCILE_ROWS_MAX, CHECK_ROW_BYTES_TARGET)?;
        let next = slicing.tables(&place, None)?;
        Ok(Asked { ranges: slicing.ranges, next, reconciles: true, from: place })
    }

    fn ranges_of_slice(&mut self) -> Result<Asked> {
        let from = match self.rolling.place.take() {
            Some(place) => place,
            None => self.any_place()?,
        };
        let mut slicing = Slicing::new(self, SLICE_ROWS_MAX, SLICE_BYTES_TARGET)?;
        let next = match slicing.tables(&from, None)? {
            Some(next) => Some(next),
            // Once round: a small database is checked whole each time.
            None if !from.is_empty() => slicing.tables(&[], Some(&from))?,
            None => None,
        };
        Ok(Asked { ranges: slicing.ranges, next: next.or(Some(Vec::new())), reconciles: false, from })
    }

    /// A place to begin with: anywhere, so that processes that live for one sync come by everything in time.
    fn any_place(&self) -> Result<Vec<u8>> {
        let tables = self.catalog.tables();
        let mut draw = [0; 16];
        self.environment.random(&mut draw);
        let (first, second) = draw.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let table = &tables[(number(first) % tables.len() as u64) as usize];
        let end = |order: &str| -> Result<Option<Vec<u8>>> {
            let (first, beyond) = pk_range(table.id);
            let sql = format!(
                "SELECT pk FROM main.cloudsync_clocks WHERE pk > ?1 AND pk < ?2 ORDER BY pk {order} LIMIT 1"
            );
            Ok(self.db.query_blob(&sql, &[Value::Blob(&first), Value::Blob(&beyond)])?)
        };
        let (Some(least), Some(greatest)) = (end("ASC")?, end("DESC")?) else { return Ok(Vec::new()) };
        let between = between(&least, &greatest, number(second));
        // Only a key that exists can be named.
        // language=SQLite
        let sql = "SELECT pk FROM main.cloudsync_clocks WHERE pk >= ?1 ORDER BY pk LIMIT 1";
        Ok(self.db.query_blob(sql, &[Value::Blob(&between)])?.unwrap_or_default())
    }

    /// Keys of rows that are not compared, as the tree of clocks has them.
    pub(crate) fn uncomparable(&self) -> Result<BTreeSet<Vec<u8>>> {
        // Without what waits of the server's a row is not what the server has.
        let mut keys = self.waiting_keys("origin <> ?1")?;
        self.db.prepare("SELECT pk FROM main.cloudsync_private")?.for_each(&[], |row| -> Result<()> {
            keys.extend(row.column(0).as_blob().map(<[u8]>::to_vec));
            Ok(())
        })?;
        for (table, key) in exhausted(&self.db, self.server_now_ms()?)? {
            keys.extend(self.catalog.table_named(&table).map(|table| clocks::pk(table.id, &key)));
        }
        Ok(keys)
    }

    /// Keys of rows of which a change waits that came by file, as the tree of clocks has them.
    pub(crate) fn waiting_by_file(&self) -> Result<BTreeSet<Vec<u8>>> {
        self.waiting_keys("origin = ?1")
    }

    fn waiting_keys(&self, condition: &str) -> Result<BTreeSet<Vec<u8>>> {
        let mut keys = BTreeSet::new();
        let sql = format!("SELECT tbl, pk FROM main.cloudsync_quarantine WHERE {condition}");
        self.db.prepare(&sql)?.for_each(&[Value::Integer(Origin::File.code())], |row| -> Result<()> {
            let table = row.column(0).as_str().and_then(|name| self.catalog.table_named(name));
            if let (Some(table), Some(key)) = (table, row.column(1).as_blob()) {
                keys.insert(clocks::pk(table.id, key));
            }
            Ok(())
        })?;
        Ok(keys)
    }

    /// Keys of rows with unsent changes, as the tree of clocks has them.
    pub(crate) fn unsent_keys(&self) -> Result<HashSet<Vec<u8>>> {
        let mut keys = HashSet::new();
        let (after, mut skip) = self.first_unsent()?.entry(&self.db)?;
        let mut entries = EntryReader::open(&self.db, after, i64::MAX as u64)?;
        while let Some(entry) = entries.next()? {
            let sent = std::mem::take(&mut skip);
            if ![Origin::Local.code(), Origin::File.code()].contains(&entry.origin) {
                continue;
            }
            for row in entry.rows().skip(sent as usize) {
                keys.insert(clocks::pk(entry.table, row?.0));
            }
        }
        Ok(keys)
    }
}

fn end_reconciling(replica: &Replica) -> Result<()> {
    storage::unset(&replica.db, RECONCILE)?;
    storage::unset(&replica.db, FETCHED)?;
    replica.trust_rows()
}

fn unwatched(table: i64) -> String {
    format!("{UNWATCHED}{table}")
}

/// Takes note that a table is written without being tracked: what it holds from now on may be meant for this file only.
pub(crate) fn note_unwatched(db: &cloudsync_sqlite_ffi::Connection, table: i64) -> Result<()> {
    storage::set(db, &unwatched(table), Value::Integer(1))
}

/// A key between two others, at about that part of the way.
fn between(least: &[u8], greatest: &[u8], part: u64) -> Vec<u8> {
    let common = least.iter().zip(greatest).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let byte = |i: usize| u64::from(key.get(common + i).copied().unwrap_or(0));
        (0..8).fold(0, |number, i| number << 8 | byte(i))
    };
    let (least_number, greatest_number) = (number(least), number(greatest));
    let width = u128::from(greatest_number.saturating_sub(least_number));
    let at = least_number + ((width * u128::from(part)) >> 64) as u64;
    [&least[..common], &at.to_be_bytes()].concat()
}

/// Puts ranges together.
struct Slicing<'r> {
    replica: &'r Replica,
    ranges: Vec<AskedRange>,
    skipped: BTreeSet<Vec<u8>>,
    doubtful: HashSet<i64>,
    /// Deleted rows do not count.
    living_only: bool,
    rows_left: u64,
    bytes_left: usize,
    names_left: usize,
}

impl<'r> Slicing<'r> {
    fn new(replica: &'r Replica, rows: u64, bytes: usize) -> Result<Self> {
        Ok(Self {
            replica,
            ranges: Vec::new(),
            skipped: replica.uncomparable()?,
            doubtful: doubtful_tables(&replica.db)?,
            living_only: replica.is_part()?,
            rows_left: rows,
            bytes_left: bytes,
            names_left: NAMES_BYTES_TARGET,
        })
    }

    fn is_full(&self) -> bool {
        self.rows_left == 0
            || self.bytes_left == 0
            || self.names_left == 0
            || self.ranges.len() >= CHECK_RANGES_MAX
    }

    /// Adds ranges behind a place, up to another one or the end of all tables. Gives the place where to go on.
    fn tables(&mut self, from: &[u8], stop: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        let mut tables = self.replica.catalog.tables();
        // As the tree of clocks has them.
        tables.sort_by_key(|table| pk_range(table.id).0);
        for table in tables {
            let (first, beyond) = pk_range(table.id);
            if from >= beyond.as_slice() || self.doubtful.contains(&table.id) {
                continue;
            }
            if !self.replica.is_checked(&table)? {
                continue;
            }
            if stop.is_some_and(|stop| stop <= first.as_slice()) {
                return Ok(None);
            }
            if self.is_full() {
                return Ok(Some(first));
            }
            let after = if from > first.as_slice() { split_pk(from)?.1 } else { &[] };
            let until = match stop {
                Some(stop) if stop < beyond.as_slice() => split_pk(stop)?.1,
                _ => &[],
            };
            if let Some(place) = self.table(&table, after, until)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Adds ranges of one table; gives the place where to go on if not all fit.
    fn table(&mut self, table: &Rc<Table>, after: &[u8], until: &[u8]) -> Result<Option<Vec<u8>>> {
        let db = &self.replica.db;
        let mut open = OpenRange {
            reader: RowReader::open(db, table)?,
            unclocked: Unclocked::open(db, table)?,
            filled: Filled::open(db, table)?,
            table,
            after: after.to_vec(),
            last: after.to_vec(),
            held: RangeDigest::default(),
            damaged: false,
        };
        let mut walk = ClockWalk::open(db, table.id, after, until)?;
        while let Some((pk, clock)) = walk.next()? {
            if self.is_full() {
                // What of a range was looked at without ending it is looked at again.
                return Ok(Some(clocks::pk(table.id, &open.after)));
            }
            let (_, key) = split_pk(pk)?;
            self.part_before(&mut open, pk)?;
            if self.skipped.contains(pk) {
                continue;
            }
            let counts = clock.is_alive() || !self.living_only;
            let held = open.reader.row(key, &clock, self.replica.sites.ids())?;
            match held {
                Held::Row(_) if !counts => {}
                Held::Row(digest) => {
                    open.held.push(digest);
                    open.damaged |= !open.filled.find(key, &clock)?.is_empty();
                }
                Held::Missing if table.filter.is_none() => {
                    open.held.push(0);
                    open.damaged = true;
                }
                // Behind a filter it may have been deleted here only.
                Held::Outside | Held::Missing => {
                    self.part_at(&mut open, key)?;
                    continue;
                }
            }
            open.last = key.to_vec();
            self.rows_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(open.reader.row_bytes());
            let full = self.rows_left == 0 || self.bytes_left == 0;
            if full || open.held.rows >= RANGE_ROWS_MAX {
                self.close(&mut open, key)?;
            }
        }
        let end = if until.is_empty() { pk_range(table.id).1 } else { clocks::pk(table.id, until) };
        self.part_before(&mut open, &end)?;
        if self.is_full() {
            // What is behind the last row here is asked for next time.
            let left = until.is_empty() || open.after != until;
            return Ok(left.then(|| clocks::pk(table.id, &open.after)));
        }
        self.close(&mut open, until)?;
        Ok(None)
    }

    /// Ends the range before a row that is not compared and would be next, and begins another one behind it.
    fn part_before(&mut self, open: &mut OpenRange<'_>, pk: &[u8]) -> Result<()> {
        let last = clocks::pk(open.table.id, &open.last);
        if last.as_slice() >= pk {
            return Ok(());
        }
        let skipped = self.skipped.range::<[u8], _>((Excluded(last.as_slice()), Included(pk))).next_back();
        let Some(skipped) = skipped.cloned() else { return Ok(()) };
        let (table, key) = split_pk(&skipped)?;
        if table != open.table.id {
            return Err(Error::corrupt("cloudsync_clocks"));
        }
        self.part_at(open, key)
    }

    /// Ends the range before a row, and begins another one behind it.
    fn part_at(&mut self, open: &mut OpenRange<'_>, key: &[u8]) -> Result<()> {
        let end = open.last.clone();
        if open.held.rows > 0 {
            self.close(open, &end)?;
        }
        open.skip(key);
        Ok(())
    }

    /// Adds the open range and begins the next one behind it.
    fn close(&mut self, open: &mut OpenRange<'_>, until: &[u8]) -> Result<()> {
        if open.held.rows == 0 && !until.is_empty() && until == open.after.as_slice() {
            return Ok(());
        }
        let OpenRange { table, after, held, damaged, unclocked, .. } = open;
        let mut held = *held;
        if *damaged || !unclocked.find(after, until, LOOKED_AT_MAX, 1)?.is_empty() {
            // Nothing is equal to it.
            held.rows += 1;
            held.digest = !held.digest;
        }
        let names = table.name.len() + after.len() + until.len() + 32;
        self.names_left = self.names_left.saturating_sub(names);
        let (after, until) = (std::mem::take(after), until.to_vec());
        open.skip(&until);
        self.ranges.push(AskedRange { table: Rc::clone(open.table), after, until, held });
        Ok(())
    }
}

/// A range that is being put together.
struct OpenRange<'t> {
    table: &'t Rc<Table>,
    reader: RowReader,
    filled: Filled,
    unclocked: Unclocked,
    after: Vec<u8>,
    /// The last key that was looked at.
    last: Vec<u8>,
    held: RangeDigest,
    /// A row is gone without a deletion, or has a value without a clock.
    damaged: bool,
}

impl OpenRange<'_> {
    /// Begins anew behind a key.
    fn skip(&mut self, key: &[u8]) {
        self.after = key.to_vec();
        self.last = key.to_vec();
        self.held = RangeDigest::default();
        self.damaged = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_between_two_keys_is_between_them() {
        for (least, greatest) in
            [(&b"\x01\x30ab"[..], &b"\x01\x30zz"[..]), (b"\x01\x10", b"\x01\x12\xff\xff")]
        {
            let mut last = least.to_vec();
            for part in [0, 1 << 62, 1 << 63, u64::MAX] {
                let place = between(least, greatest, part);
                assert!(
                    place.as_slice() >= least
                        && place.as_slice() <= [greatest, &[0xff; 8]].concat().as_slice()
                );
                assert!(place >= last || part == 0);
                last = place;
            }
        }
    }
}
