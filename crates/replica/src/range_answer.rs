//! The server's side of a range check: comparing what a device holds with what is here.

use crate::audience::{OrdinalReader, TableRows};
use crate::error::Result;
use crate::pick::{Picked, RowKey};
use crate::ranges::{ClockWalk, Held, RowReader};
use crate::replica::Replica;
use crate::table::Table;
use crate::{clocks, rebuilt};
use cloudsync_core::clock::RowClock;
use cloudsync_protocol::limits::{CHECK_ROW_BYTES_TARGET, CHECK_ROWS_MAX, CHUNK_BYTES_TARGET, ROW_BYTES_MAX};
use cloudsync_protocol::range::{Check, Checked, Finding, Range, RangeDigest, shape};
use cloudsync_sqlite_ffi::Connection;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

/// Keys of ranges that differ which one answer looks at most at; a range that has more is covered in part.
const ANSWER_KEYS_MAX: usize = 4_096;
/// Clocks that are looked through for rows that are gone, where somebody sees a part of a table.
const ANSWER_CLOCKS_MAX: usize = 1 << 18;
/// Bytes of keys of rows that somebody sees, of one table, beyond which it is not told what differs.
const SEEN_BYTES_MAX: usize = 32 << 20;

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
    /// The numbers of the rows that go with the findings, where they are for somebody who sees a part.
    pub given: Vec<u64>,
}

/// Somebody who may not see all, for whom a check is answered: of the rows that they see and of no others.
pub trait Viewer {
    /// Hands over the packed keys of the rows of a table that they see, in any order.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn each_seen(&mut self, rows: &TableRows, each: &mut dyn FnMut(Vec<u8>)) -> Result<Sight>;

    /// Whether they may hold the row of that number.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn may_hold(&mut self, ordinal: u64) -> Result<bool>;
}

/// Whether it can be told what somebody sees of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// All of it was told.
    Told,
    /// Not with this check, which has taken too much work already.
    Later,
    /// It takes too much work.
    Unknown,
}

/// For whom a check is answered.
enum Asker<'v> {
    /// They see everything; and may write, or not.
    Trusted { may_write: bool },
    /// They see a part of it, by the numbers of the tables.
    Viewer { viewer: &'v mut dyn Viewer, seen: HashMap<i64, std::result::Result<Seen, Sight>> },
}

/// What is left of the work that one check may cost.
struct Budget {
    rows: u64,
    bytes: usize,
    /// Keys of ranges that differ.
    keys: usize,
    /// Clocks that are looked through for damaged rows of somebody who sees a part.
    clocks: usize,
}

/// What was found in a range, before the rows are picked that go with it.
enum Found {
    Is(Finding<'static>),
    /// The keys that it has here, and whether these are all.
    Differs(Vec<RowKey>, bool),
}

/// How the rows of a range here are like those of the device.
enum Likeness {
    Same,
    Different,
    /// There was too much work to find out.
    Later,
    /// A row is gone here: what is damaged is no measure for others.
    Damaged,
}

impl Replica {
    /// Compares ranges with what is here. `may_write` says that the device could send what is missing here. The caller
    /// holds a transaction in which everything is folded.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn answer_check(&mut self, check: &Check<'_>, may_write: bool) -> Result<CheckAnswer> {
        self.answer_check_of(check, Asker::Trusted { may_write })
    }

    /// Compares ranges with the living rows that somebody sees. Nothing in the answer depends on any other row.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn answer_check_for(&mut self, check: &Check<'_>, viewer: &mut dyn Viewer) -> Result<CheckAnswer> {
        self.answer_check_of(check, Asker::Viewer { viewer, seen: HashMap::new() })
    }

    fn answer_check_of(&mut self, check: &Check<'_>, mut asker: Asker<'_>) -> Result<CheckAnswer> {
        self.catalog.load(&self.db)?;
        self.sites.refresh(&self.db)?;
        let mut answer = CheckAnswer::default();
        let mut budget = Budget {
            rows: CHECK_ROWS_MAX,
            bytes: CHECK_ROW_BYTES_TARGET,
            keys: ANSWER_KEYS_MAX,
            clocks: ANSWER_CLOCKS_MAX,
        };
        let mut found = Vec::new();
        for range in &check.ranges {
            let spent = budget.rows == 0 || budget.bytes == 0 || budget.keys == 0;
            found.push(if spent {
                Found::Is(Finding::Later)
            } else {
                self.compare(range, check, &mut asker, &mut budget, &mut answer.damaged)?
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
        if let Asker::Viewer { .. } = asker {
            let mut ordinals = OrdinalReader::open(&self.db)?;
            for ((table, key), _) in
                keys.iter().zip(&picking.found).filter(|(_, picked)| **picked == Picked::Given)
            {
                answer.given.extend(ordinals.read(&clocks::pk(table.id, key))?.map(|(_, ordinal)| ordinal));
            }
        }
        Ok(answer)
    }

    /// What of a range is here.
    fn compare(
        &mut self,
        range: &Range<'_>,
        check: &Check<'_>,
        asker: &mut Asker<'_>,
        budget: &mut Budget,
        damaged: &mut Option<String>,
    ) -> Result<Found> {
        let unknown = Ok(Found::Is(Finding::Unknown));
        let Some(table) = self.comparable(range) else { return unknown };
        match asker {
            Asker::Trusted { may_write } if range.rows > 0 && !self.knows_any(&table)? => {
                return Ok(Found::Is(if *may_write { Finding::Empty } else { Finding::Unknown }));
            }
            Asker::Viewer { viewer, seen } if !seen.contains_key(&table.id) => {
                seen.insert(table.id, Seen::of(self.db, &table, check, *viewer)?);
            }
            Asker::Trusted { .. } | Asker::Viewer { .. } => {}
        }
        let seen = match asker {
            Asker::Trusted { .. } => None,
            Asker::Viewer { seen, .. } => match seen.get(&table.id) {
                Some(Ok(seen)) => Some(seen),
                Some(Err(Sight::Later)) => return Ok(Found::Is(Finding::Later)),
                Some(Err(Sight::Told | Sight::Unknown)) | None => return unknown,
            },
        };
        match self.likeness(range, &table, seen, budget)? {
            Likeness::Same => return Ok(Found::Is(Finding::Equal)),
            Likeness::Different => {}
            Likeness::Later => return Ok(Found::Is(Finding::Later)),
            Likeness::Damaged => {
                *damaged = Some(table.name.clone());
                return unknown;
            }
        }
        let found = self.keys_here(range, &table, seen, budget)?;
        if let Asker::Viewer { viewer, .. } = asker
            && self.misses_any(&table, range, *viewer, &mut budget.clocks)?
        {
            *damaged = Some(table.name.clone());
            return unknown;
        }
        Ok(found)
    }

    /// The table of a range, if it is here what it is on the device: rows of two shapes have no digests that could be compared.
    fn comparable(&self, range: &Range<'_>) -> Option<Rc<Table>> {
        let table = self.catalog.table_named(range.table)?;
        let is_end = |key: &[u8]| key.is_empty() || table.is_key(key);
        let fits = table.enabled
            && table.filter.is_none()
            && shape(&table.schema()) == range.shape
            && is_end(range.after)
            && is_end(range.until);
        fits.then_some(table)
    }

    /// Compares the digest of a range. One row more than the device has says enough, so no more are read.
    fn likeness(
        &self,
        range: &Range<'_>,
        table: &Rc<Table>,
        seen: Option<&Seen>,
        budget: &mut Budget,
    ) -> Result<Likeness> {
        let mut reader = RowReader::open(&self.db, table)?;
        let mut walk = Walk::open(self.db, table, range, seen)?;
        let mut here = RangeDigest::default();
        while here.rows <= range.rows {
            let (key, clock) = match walk.next()? {
                Next::Row(key, clock) => (key, clock),
                Next::End => break,
                Next::Cut => return Ok(Likeness::Later),
            };
            if budget.rows == 0 {
                return Ok(Likeness::Later);
            }
            budget.rows -= 1;
            match reader.row(&key, &clock, self.sites.ids())? {
                Held::Row(digest) => here.push(digest),
                Held::Missing | Held::Outside => return Ok(Likeness::Damaged),
            }
            budget.bytes = budget.bytes.saturating_sub(reader.row_bytes());
        }
        let is_same = here == RangeDigest { rows: range.rows, digest: range.digest };
        Ok(if is_same { Likeness::Same } else { Likeness::Different })
    }

    /// The keys that a range has here, from its beginning as far as they fit into one answer.
    fn keys_here(
        &self,
        range: &Range<'_>,
        table: &Rc<Table>,
        seen: Option<&Seen>,
        budget: &mut Budget,
    ) -> Result<Found> {
        let mut walk = Walk::open(self.db, table, range, seen)?;
        let (mut keys, mut all) = (Vec::new(), false);
        while budget.keys > 0 {
            match walk.next()? {
                Next::Row(key, _) => keys.push((Rc::clone(table), key)),
                Next::End => {
                    all = true;
                    break;
                }
                Next::Cut => break,
            }
            budget.keys -= 1;
        }
        Ok(Found::Differs(keys, all))
    }

    /// Whether a row is gone here without a deletion that somebody may hold: no policy could show it.
    fn misses_any(
        &self,
        table: &Table,
        range: &Range<'_>,
        viewer: &mut dyn Viewer,
        clocks_left: &mut usize,
    ) -> Result<bool> {
        let sql = format!("SELECT 1 FROM {} WHERE {}", table.quoted(), table.key_condition(1));
        let mut select = self.db.prepare(&sql)?;
        let mut walk = ClockWalk::open(&self.db, table.id, range.after, range.until)?;
        while *clocks_left > 0
            && let Some((pk, clock)) = walk.next()?
        {
            *clocks_left -= 1;
            let alive = clock.is_alive();
            let (_, key) = clocks::split_pk(pk)?;
            clocks::bind_key(&mut select, 1, key)?;
            let ordinal = walk.ordinal();
            if alive && viewer.may_hold(ordinal)? {
                let exists = select.step()?;
                select.reset()?;
                if !exists {
                    return Ok(true);
                }
            }
        }
        Ok(false)
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

/// The keys of a table's rows that somebody sees, within the ranges that they ask about.
struct Seen {
    /// Ascending and apart.
    spans: Vec<Span>,
}

/// A part of a table's keys, from behind one up to another.
struct Span {
    after: Vec<u8>,
    until: Vec<u8>,
    /// Ascending.
    keys: Vec<Vec<u8>>,
    /// There are more from this key on.
    end: Option<Vec<u8>>,
}

impl Seen {
    /// What they see, where that can be told.
    fn of(
        db: Connection,
        table: &Rc<Table>,
        check: &Check<'_>,
        viewer: &mut dyn Viewer,
    ) -> Result<std::result::Result<Self, Sight>> {
        let is_here = |range: &&Range<'_>| range.table.eq_ignore_ascii_case(&table.name);
        let mut ranges: Vec<_> = check.ranges.iter().filter(is_here).collect();
        ranges.sort_unstable_by_key(|range| range.after);
        let mut spans: Vec<(Span, usize, BinaryHeap<Vec<u8>>)> = Vec::new();
        for range in ranges {
            let rows = usize::try_from(range.rows.min(CHECK_ROWS_MAX)).unwrap_or(usize::MAX);
            match spans.last_mut().filter(|(span, ..)| {
                // The next one begins within it, or where it ends.
                span.until.is_empty() || range.after < span.until.as_slice()
            }) {
                Some((span, most, _)) => {
                    *most += rows;
                    if range.until.is_empty() || range.until > span.until.as_slice() && !span.until.is_empty()
                    {
                        span.until = range.until.to_vec();
                    }
                }
                None => {
                    let (after, until) = (range.after.to_vec(), range.until.to_vec());
                    let span = Span { after, until, keys: Vec::new(), end: None };
                    spans.push((span, rows + ANSWER_KEYS_MAX + 1, BinaryHeap::new()));
                }
            }
        }
        let (mut bytes, mut is_too_much) = (0, false);
        let sight = viewer.each_seen(&TableRows::new(db, Rc::clone(table)), &mut |key| {
            let at = spans.partition_point(|(span, ..)| span.after < key);
            let Some((span, most, keys)) = at.checked_sub(1).and_then(|at| spans.get_mut(at)) else { return };
            if !span.until.is_empty() && span.until < key || span.end.as_ref().is_some_and(|end| *end <= key)
            {
                return;
            }
            bytes += key.len();
            is_too_much |= bytes > SEEN_BYTES_MAX;
            if is_too_much {
                return;
            }
            keys.push(key);
            if keys.len() > *most
                && let Some(last) = keys.pop()
            {
                bytes -= last.len();
                span.end = Some(last);
            }
        })?;
        if sight != Sight::Told || is_too_much {
            return Ok(Err(if is_too_much { Sight::Unknown } else { sight }));
        }
        let spans = spans.into_iter().map(|(span, _, keys)| Span { keys: keys.into_sorted_vec(), ..span });
        Ok(Ok(Self { spans: spans.collect() }))
    }

    /// The span in which a range lies.
    fn span(&self, range: &Range<'_>) -> Option<&Span> {
        let at = self.spans.partition_point(|span| span.after.as_slice() <= range.after);
        at.checked_sub(1).and_then(|at| self.spans.get(at))
    }
}

/// Goes through the rows of a range that whoever asks is to hold.
enum Walk<'s> {
    Clocks(ClockWalk),
    Seen {
        table: i64,
        keys: &'s [Vec<u8>],
        until: Vec<u8>,
        end: Option<&'s [u8]>,
        clocks: clocks::ClockStore,
    },
}

enum Next {
    Row(Vec<u8>, RowClock),
    End,
    /// There are more of which the keys are not known.
    Cut,
}

impl<'s> Walk<'s> {
    fn open(db: Connection, table: &Table, range: &Range<'_>, seen: Option<&'s Seen>) -> Result<Self> {
        let Some(seen) = seen else {
            return Ok(Self::Clocks(ClockWalk::open(&db, table.id, range.after, range.until)?));
        };
        let span = seen.span(range);
        let keys = span.map_or(&[][..], |span| {
            &span.keys[span.keys.partition_point(|key| key.as_slice() <= range.after)..]
        });
        Ok(Self::Seen {
            table: table.id,
            keys,
            until: range.until.to_vec(),
            end: span.and_then(|span| span.end.as_deref()),
            clocks: clocks::ClockStore::open(&db)?,
        })
    }

    fn next(&mut self) -> Result<Next> {
        match self {
            Self::Clocks(walk) => Ok(match walk.next()? {
                Some((pk, clock)) => Next::Row(clocks::split_pk(pk)?.1.to_vec(), clock),
                None => Next::End,
            }),
            Self::Seen { table, keys, until, end, clocks } => loop {
                let Some((key, rest)) = keys.split_first() else {
                    let is_cut = end.is_some_and(|end| until.is_empty() || end <= until.as_slice());
                    return Ok(if is_cut { Next::Cut } else { Next::End });
                };
                if !until.is_empty() && key > until {
                    return Ok(Next::End);
                }
                *keys = rest;
                // What has no living clock is not told of yet.
                if let Some(clock) = clocks.read(&clocks::pk(*table, key))?.filter(RowClock::is_alive) {
                    return Ok(Next::Row(key.clone(), clock));
                }
            },
        }
    }
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
