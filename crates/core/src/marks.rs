//! Marks: what the algorithms `dws` and `aws` know of a row beside the clocks of its cells.
//!
//! Most rows have none: they were never deleted. `docs/merge.md` says what they mean, [`crate::merge`] how they join.
//! In the stored form of a row clock each mark has a flag, and is written behind the exceptions, in this order; a clock
//! is its time minus that of the common clock (zigzag), and its site.
//!
//! ```text
//!  8  boundary   a clock: of the deletion that a living row came back from (dws)
//! 16  write      a clock: of the last write, where it is later than all cells (aws)
//! 32  deletion   two clocks: of the last write that the deletion knew, and its own (aws; the row is dead)
//! ```

use crate::bytes::{BytesError, Reader, put_varint, put_zigzag};
use crate::clock::{Clock, SiteOrdinal, TIME_MAX, Time};
use crate::id::SiteId;
use core::cmp::Ordering;

const FLAG_BOUNDARY: u8 = 8;
const FLAG_WRITE: u8 = 16;
const FLAG_DELETION: u8 = 32;
/// All flags of marks in the stored form of a row clock.
pub(crate) const FLAGS: u8 = FLAG_BOUNDARY | FLAG_WRITE | FLAG_DELETION;

/// A deletion of a row that keeps its cells (`aws`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Deletion {
    /// The last write that whoever deleted the row knew.
    pub seen: Clock,
    /// The deletion's own clock.
    pub clock: Clock,
}

impl Deletion {
    /// The order of two deletions: by what they had seen, then by their own clocks.
    #[must_use]
    pub fn order(&self, other: &Self, sites: &[SiteId]) -> Ordering {
        self.seen.order(&other.seen, sites).then_with(|| self.clock.order(&other.clock, sites))
    }
}

/// The marks of one row. A boundary stands alone; there is at least one mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Marks {
    /// `dws`: the row is alive, and this is the deletion that it came back from.
    pub boundary: Option<Clock>,
    /// `aws`: the last write, where it is later than that of every cell.
    pub write: Option<Clock>,
    /// `aws`: the row is dead, and this is why.
    pub deletion: Option<Deletion>,
}

impl Marks {
    /// The clocks of all marks.
    pub fn clocks(&self) -> impl Iterator<Item = Clock> + use<> {
        let deletion = self.deletion.map(|deletion| [deletion.seen, deletion.clock]);
        self.boundary.into_iter().chain(self.write).chain(deletion.into_iter().flatten())
    }

    /// The same marks with every clock mapped by `map`.
    #[must_use]
    pub fn map(self, mut map: impl FnMut(Clock) -> Clock) -> Self {
        Self {
            boundary: self.boundary.map(&mut map),
            write: self.write.map(&mut map),
            deletion: self.deletion.map(|it| Deletion { seen: map(it.seen), clock: map(it.clock) }),
        }
    }

    /// The same, where `map` may fail.
    ///
    /// # Errors
    /// Those of `map`.
    pub fn try_map<E>(self, map: impl Fn(Clock) -> Result<Clock, E>) -> Result<Self, E> {
        let deletion = |it: Deletion| Ok(Deletion { seen: map(it.seen)?, clock: map(it.clock)? });
        Ok(Self {
            boundary: self.boundary.map(&map).transpose()?,
            write: self.write.map(&map).transpose()?,
            deletion: self.deletion.map(deletion).transpose()?,
        })
    }

    /// Which marks there are.
    #[must_use]
    pub const fn kinds(&self) -> [bool; 3] {
        [self.boundary.is_some(), self.write.is_some(), self.deletion.is_some()]
    }

    /// True without any mark.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.boundary.is_none() && self.write.is_none() && self.deletion.is_none()
    }

    /// The flags that announce these marks in a stored row clock.
    pub(crate) const fn flags(&self) -> u8 {
        let boundary = if self.boundary.is_some() { FLAG_BOUNDARY } else { 0 };
        let write = if self.write.is_some() { FLAG_WRITE } else { 0 };
        let deletion = if self.deletion.is_some() { FLAG_DELETION } else { 0 };
        boundary | write | deletion
    }

    pub(crate) fn encode(&self, out: &mut alloc::vec::Vec<u8>, base: Time) {
        for clock in self.clocks() {
            put_zigzag(out, clock.time.0 as i64 - base.0 as i64);
            put_varint(out, u64::from(clock.site.0));
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, flags: u8, base: Time) -> Result<Self, BytesError> {
        let mut marks = Self::default();
        if flags & FLAG_BOUNDARY != 0 {
            marks.boundary = Some(decode_clock(reader, base)?);
        }
        if flags & FLAG_WRITE != 0 {
            marks.write = Some(decode_clock(reader, base)?);
        }
        if flags & FLAG_DELETION != 0 {
            let seen = decode_clock(reader, base)?;
            marks.deletion = Some(Deletion { seen, clock: decode_clock(reader, base)? });
        }
        if marks.boundary.is_some() && (marks.write.is_some() || marks.deletion.is_some()) {
            return Err(BytesError::OutOfBounds("clock marks"));
        }
        Ok(marks)
    }
}

/// Reads a clock whose time is written as its distance to `base`.
pub(crate) fn decode_clock(reader: &mut Reader<'_>, base: Time) -> Result<Clock, BytesError> {
    let time = (base.0 as i64).checked_add(reader.zigzag()?).and_then(|time| u64::try_from(time).ok());
    let time = time.filter(|time| *time <= TIME_MAX.0).ok_or(BytesError::OutOfBounds("clock time"))?;
    let site = SiteOrdinal(reader.varint_max(u64::from(u32::MAX), "clock site")? as u32);
    Ok(Clock::new(Time(time), site))
}
