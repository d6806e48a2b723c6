//! Marks of the rows of a group: all rows of a group have the same kinds of them.

use super::decode::clock;
use super::ints::{self, Ints};
use super::{PayloadError, malformed};
use alloc::vec::Vec;
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{Clock, TIME_MAX, Time};
use cloudsync_core::marks::{Deletion, Marks};

const FLAG_BOUNDARIES: u8 = 2;
const FLAG_WRITES: u8 = 4;
pub(super) const FLAG_DELETIONS: u8 = 8;

/// Whether a group may say by its flags, without that for whole rows, that such marks follow.
pub(super) const fn may_follow(flags: u8, whole: bool) -> bool {
    match flags {
        FLAG_BOUNDARIES | FLAG_WRITES => true,
        FLAG_DELETIONS => whole,
        flags => flags == FLAG_WRITES | FLAG_DELETIONS && whole,
    }
}

const fn flags_of(marks: &Marks) -> u8 {
    let boundaries = if marks.boundary.is_some() { FLAG_BOUNDARIES } else { 0 };
    let writes = if marks.write.is_some() { FLAG_WRITES } else { 0 };
    let deletions = if marks.deletion.is_some() { FLAG_DELETIONS } else { 0 };
    boundaries | writes | deletions
}

/// One kind of clock, for each row: its time minus that of the row's clock, and its site.
#[derive(Debug, Default)]
struct ClockList {
    times: Vec<i64>,
    sites: Vec<i64>,
}

/// The marks of the rows that were gathered for a group.
#[derive(Debug, Default)]
pub(super) struct MarkLists {
    flags: u8,
    clocks: [ClockList; 4],
}

impl MarkLists {
    pub(super) fn new(like: &Marks) -> Self {
        Self { flags: flags_of(like), ..Self::default() }
    }

    pub(super) const fn flags(&self) -> u8 {
        self.flags
    }

    /// Adds the marks of the next row; gives about how many bytes they take, from above.
    pub(super) fn push(&mut self, marks: &Marks, base: Time) -> usize {
        assert!(self.flags == flags_of(marks), "a row has other marks than its group");
        let mut size_bytes = 0;
        for (list, clock) in self.clocks.iter_mut().zip(marks.clocks()) {
            list.times.push(clock.time.0.wrapping_sub(base.0) as i64);
            list.sites.push(i64::from(clock.site.0));
            size_bytes += 12;
        }
        size_bytes
    }

    /// Forgets the rows from `rows` on.
    pub(super) fn truncate(&mut self, rows: usize) {
        for list in &mut self.clocks {
            list.times.truncate(rows);
            list.sites.truncate(rows);
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, rows: usize) {
        if self.flags == 0 {
            return;
        }
        for list in self.clocks.iter().filter(|list| !list.times.is_empty()) {
            assert!(list.times.len() == rows, "a row of a marked group has no marks");
            ints::put(out, &list.times);
            ints::put(out, &list.sites);
        }
    }
}

/// The marks of the rows of a group that was read.
#[derive(Debug)]
pub(super) struct MarkColumns<'a> {
    flags: u8,
    clocks: Vec<(Ints<'a>, Ints<'a>)>,
}

impl<'a> MarkColumns<'a> {
    pub(super) fn read(
        reader: &mut Reader<'a>,
        flags: u8,
        rows: usize,
        base: &Ints<'_>,
        sites_count: i64,
    ) -> Result<Self, PayloadError> {
        let count =
            (flags & !FLAG_DELETIONS).count_ones() as usize + if flags & FLAG_DELETIONS == 0 { 0 } else { 2 };
        let mut clocks = Vec::with_capacity(count);
        for _ in 0..count {
            let times = Ints::read(reader, rows)?;
            let in_bounds =
                |row| (1..=TIME_MAX.0 as i64).contains(&base.get(row).wrapping_add(times.get(row)));
            if !(0..rows).all(in_bounds) {
                return Err(malformed("time"));
            }
            let sites = Ints::read(reader, rows)?;
            sites.check(rows, 0, sites_count - 1, "site")?;
            clocks.push((times, sites));
        }
        Ok(Self { flags, clocks })
    }

    /// The marks of a row; `base` is the time of its clock.
    pub(super) fn get(&self, row: usize, base: i64) -> Marks {
        let mut clocks = self
            .clocks
            .iter()
            .map(|(times, sites)| -> Clock { clock(base.wrapping_add(times.get(row)), sites.get(row)) });
        let mut next = |flag| if self.flags & flag == 0 { None } else { clocks.next() };
        let (boundary, write) = (next(FLAG_BOUNDARIES), next(FLAG_WRITES));
        let seen = next(FLAG_DELETIONS);
        let deletion = seen.zip(next(FLAG_DELETIONS)).map(|(seen, clock)| Deletion { seen, clock });
        Marks { boundary, write, deletion }
    }
}
