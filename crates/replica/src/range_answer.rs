//! The server's side of a range check: comparing what a device holds with what is here.

use crate::error::Result;
use crate::pick::{Picked, RowKey};
use crate::ranges::{ClockWalk, Held, RowReader};
use crate::replica::Replica;
use crate::table::Table;
use crate::{clocks, rebuilt};
use cloudsync_core::clock::RowClock;
use cloudsync_protocol::limits::{CHECK_ROW_BYTES_TARGET, CHECK_ROWS_MAX, CHUNK_BYTES_TARGET, ROW_BYTES_MAX};
use cloudsync_protocol::range::{Check, Checked, Finding, Range, RangeDigest, shape};
use std::rc::Rc;

/// Keys of ranges that differ which one answer looks at most at; a range that has more is covered in part.
const ANSWER_KEYS_MAX: usize = 4_096;

/// What a check found and cost, for whoever watches the server.
#[derive(Debug, Clone, Default)]
pub struct CheckAnswer {
    /// The encoded findings.
    pub checked: Vec<u8>,
    /// Rows that were looked at.
    pub rows: u64,
    /// Ranges that are not the same.
    pub different: usize,
    /// A table of which a row is gone here without a deletion, if any was met.
    pub damaged: Option<String>,
}

/// What is left of the work that one check may cost.
struct Budget {
    rows: u64,
    bytes: usize,
}

/// What was found in a range, before the rows are picked that go with it.
enum Found {
    Is(Finding<'static>),
    /// The keys that it has here, and whether these are all.
    Differs(Vec<RowKey>, bool),
}

impl Replica {
    /// Compares ranges with what is here. `may_write` says that the device could send what is missing here. The caller
    /// holds a transaction in which everything is folded.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn answer_check(&mut self, check: &Check<'_>, may_write: bool) -> Result<CheckAnswer> {
        self.catalog.load(&self.db)?;
        self.sites.refresh(&self.db)?;
        let mut answer = CheckAnswer::default();
        let mut budget = Budget { rows: CHECK_ROWS_MAX, bytes: CHECK_ROW_BYTES_TARGET };
        let mut keys_left = ANSWER_KEYS_MAX;
        let mut found = Vec::new();
        for range in &check.ranges {
            let spent = budget.rows == 0 || budget.bytes == 0;
            found.push(if spent || keys_left == 0 {
                Found::Is(Finding::Later)
            } else {
                self.compare(range, may_write, &mut budget, &mut keys_left, &mut answer.damaged)?
            });
        }
        answer.rows = CHECK_ROWS_MAX - budget.rows;
        let keys: Vec<RowKey> = found
            .iter()
            .flat_map(|found| match found {
                Found::Differs(keys, _) => keys.as_slice(),
                Found::Is(_) => &[],
            })
            .cloned()
            .collect();
        let picking = self.pick(&keys, ROW_BYTES_MAX, CHUNK_BYTES_TARGET)?;
        let mut digests = Vec::new();
        for (row, picked) in keys.iter().zip(&picking.found) {
            digests.push(if *picked == Picked::Large { self.digest_of(row)? } else { 0 });
        }
        let mut at = 0;
        let mut findings = Vec::new();
        for found in &found {
            findings.push(match found {
                Found::Is(finding) => *finding,
                Found::Differs(keys, all) => {
                    answer.different += 1;
                    let picked = picking.found.get(at..).unwrap_or_default();
                    let digests = digests.get(at..).unwrap_or_default();
                    at += keys.len();
                    covered(keys, *all, &picked[..picked.len().min(keys.len())], digests)
                }
            });
        }
        answer.checked = Checked { findings, payload: &picking.payload }.encode();
        Ok(answer)
    }

    /// What of a range is here.
    fn compare(
        &mut self,
        range: &Range<'_>,
        may_write: bool,
        budget: &mut Budget,
        keys_left: &mut usize,
        damaged: &mut Option<String>,
    ) -> Result<Found> {
        let unknown = Ok(Found::Is(Finding::Unknown));
        let table = self.catalog.table_named(range.table);
        let Some(table) = table.filter(|table| table.enabled && table.filter.is_none()) else {
            return unknown;
        };
        let is_end = |key: &[u8]| key.is_empty() || table.is_key(key);
        if shape(&table.schema()) != range.shape || !is_end(range.after) || !is_end(range.until) {
            return unknown;
        }
        if range.rows > 0 && !self.knows_any(&table)? {
            return Ok(Found::Is(if may_write { Finding::Empty } else { Finding::Unknown }));
        }
        let mut reader = RowReader::open(&self.db, &table)?;
        let mut walk = ClockWalk::open(&self.db, table.id, range.after, range.until)?;
        let mut here = RangeDigest::default();
        while here.rows <= range.rows
            && let Some((pk, clock)) = walk.next()?
        {
            let (_, key) = clocks::split_pk(pk)?;
            if !is_visible(&table, key, &clock) {
                continue;
            }
            if budget.rows == 0 {
                return Ok(Found::Is(Finding::Later));
            }
            budget.rows -= 1;
            match reader.row(key, &clock, self.sites.ids())? {
                Held::Row(digest) => here.push(digest),
                Held::Missing | Held::Outside => {
                    // What is damaged here is no measure for others.
                    *damaged = Some(table.name.clone());
                    return unknown;
                }
            }
            budget.bytes = budget.bytes.saturating_sub(reader.row_bytes());
        }
        if here == (RangeDigest { rows: range.rows, digest: range.digest }) {
            return Ok(Found::Is(Finding::Equal));
        }
        let mut walk = ClockWalk::open(&self.db, table.id, range.after, range.until)?;
        let mut keys = Vec::new();
        while let Some((pk, clock)) = walk.next()? {
            let (_, key) = clocks::split_pk(pk)?;
            if !is_visible(&table, key, &clock) {
                continue;
            }
            if *keys_left == 0 {
                return Ok(Found::Differs(keys, false));
            }
            *keys_left -= 1;
            keys.push((Rc::clone(&table), key.to_vec()));
        }
        Ok(Found::Differs(keys, true))
    }

    /// Whether any row of a table was ever known here.
    fn knows_any(&self, table: &Table) -> Result<bool> {
        rebuilt::select_range(&self.db, table, "SELECT 1 FROM main.cloudsync_clocks")?
            .step()
            .map_err(Into::into)
    }

    fn digest_of(&self, (table, key): &RowKey) -> Result<u64> {
        let Some(clock) = clocks::ClockStore::open(&self.db)?.read(&clocks::pk(table.id, key))? else {
            return Ok(0);
        };
        match RowReader::open(&self.db, table)?.row(key, &clock, self.sites.ids())? {
            Held::Row(digest) => Ok(digest),
            Held::Missing | Held::Outside => Ok(0),
        }
    }
}

/// Whether the device that asks is to hold a row. Everybody whose checks are answered may see all.
const fn is_visible(_table: &Table, _key: &[u8], _clock: &RowClock) -> bool {
    true
}

/// How far the rows that were picked reach in a range that differs.
fn covered<'k>(keys: &'k [RowKey], all: bool, picked: &[Picked], digests: &[u64]) -> Finding<'k> {
    let given = picked.iter().take_while(|picked| **picked == Picked::Given).count();
    if given == keys.len() && all {
        return Finding::Differs { until: &[] };
    }
    if given > 0 {
        return Finding::Differs { until: &keys[given - 1].1 };
    }
    match (picked.first(), keys.first(), digests.first()) {
        (Some(Picked::Large), Some((_, key)), Some(digest)) => Finding::Large { key, digest: *digest },
        (Some(_), ..) => Finding::Unknown,
        (None, ..) => Finding::Later,
    }
}
