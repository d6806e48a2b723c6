//! Clocks: when a cell was last written, by whom, and which life of its row it belongs to.
//!
//! A cell's [`Clock`] is a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): milliseconds
//! that are never behind what the replica has seen, and the site that wrote. A row's [`RowClock`] packs the clocks
//! of all its cells: the one that most cells share, the set of columns that it covers, and the exceptions. Columns
//! outside that set were never written by anybody who knew them; they lose to anything.
//!
//! The stored form of a row clock (integers are varints, see [`crate::bytes`]):
//!
//! ```text
//! flags        1 byte: 1 = columns as a bitmap, 2 = exceptions follow, 4 = the life follows (else it is 1)
//! time, site   of the common clock; the site as this replica's ordinal for it
//! life         if flagged
//! columns      their count n (columns 0..n), or a length and a bitmap, least significant bit first
//! exceptions   if flagged: count, then for each: column, time minus common time (zigzag), site
//! marks        if flagged, see [`crate::marks`]: 8 = a boundary, 16 = a write, 32 = a deletion
//! ```
//! Other flags are refused.

use crate::bytes::{BytesError, Reader, put_varint, put_zigzag};
use crate::id::SiteId;
use crate::marks::{self, Marks};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Largest time that any clock may show: the year 10889. Leaves room to count on from it.
pub const TIME_MAX: Time = Time((1 << 48) - 1);
/// The stamp of rows that were there before their table synced: any real edit and any deletion wins over it.
pub const TIME_INITIAL: Time = Time(1);
/// Largest causal length that is taken from outside.
pub const LIFE_MAX: u64 = 1 << 40;
/// Largest step by which one change may raise a row's causal length, so that no peer can use it up.
pub const LIFE_JUMP_MAX: u64 = 1 << 16;
/// Most columns a table may have: SQLite's own upper limit.
pub const COLUMNS_MAX: u64 = 32_767;

const FLAG_BITMAP: u8 = 1;
const FLAG_EXCEPTIONS: u8 = 2;
const FLAG_LIFE: u8 = 4;

/// Hybrid logical time in milliseconds since 1970. Zero belongs to no write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

/// A replica's own small number for a site, an index into its table of sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SiteOrdinal(pub u32);

/// A table's own number for a column; it is never given to another column of that table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnNumber(pub u16);

/// When a cell was written, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Clock {
    /// Hybrid logical time of the write.
    pub time: Time,
    /// The site that wrote.
    pub site: SiteOrdinal,
}

impl Clock {
    /// A write at `time` by `site`.
    #[must_use]
    pub const fn new(time: Time, site: SiteOrdinal) -> Self {
        Self { time, site }
    }

    /// The same write, or if it is not later than `replaced`, one right after that.
    #[must_use]
    pub fn after(self, replaced: Option<Self>) -> Self {
        let after = replaced.map_or(Time(0), |clock| Time(clock.time.0 + 1));
        Self { time: self.time.max(after), ..self }
    }

    /// The later of two writes.
    #[must_use]
    pub fn latest(self, other: Self, sites: &[SiteId]) -> Self {
        if other.order(&self, sites) == Ordering::Greater { other } else { self }
    }

    /// The order of two writes: the later one is greater, and of two at one time that of the larger site id.
    /// `sites` is indexed by [`SiteOrdinal`]; an ordinal beyond it counts as the smallest site.
    #[must_use]
    pub fn order(&self, other: &Self, sites: &[SiteId]) -> Ordering {
        self.time.cmp(&other.time).then_with(|| {
            if self.site == other.site {
                return Ordering::Equal;
            }
            let id = |site: SiteOrdinal| sites.get(site.0 as usize);
            id(self.site).cmp(&id(other.site))
        })
    }
}

/// A set of column numbers; free of allocation up to 64 columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ColumnSet {
    low: u64,
    // Never ends in a zero word, so that equal sets are equal values.
    high: Vec<u64>,
}

impl ColumnSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { low: 0, high: Vec::new() }
    }

    /// The columns numbered `0..count`.
    #[must_use]
    pub fn first(count: u16) -> Self {
        let full = |bits: u16| if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let high = (1..count.div_ceil(64)).map(|word| full(count - word * 64));
        Self { low: full(count), high: high.collect() }
    }

    /// Adds a column.
    pub fn insert(&mut self, column: ColumnNumber) {
        let (word, bit) = (usize::from(column.0 / 64), 1 << (column.0 % 64));
        if word == 0 {
            self.low |= bit;
            return;
        }
        if self.high.len() < word {
            self.high.resize(word, 0);
        }
        self.high[word - 1] |= bit;
    }

    /// True when the column is in the set.
    #[must_use]
    pub fn contains(&self, column: ColumnNumber) -> bool {
        self.word(usize::from(column.0 / 64)) & (1 << (column.0 % 64)) != 0
    }

    /// True when no column is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_empty()
    }

    /// Number of columns in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        (0..=self.high.len()).map(|word| self.word(word).count_ones() as usize).sum()
    }

    /// Adds all columns of `other`.
    pub fn union_with(&mut self, other: &Self) {
        self.low |= other.low;
        if self.high.len() < other.high.len() {
            self.high.resize(other.high.len(), 0);
        }
        for (word, more) in self.high.iter_mut().zip(&other.high) {
            *word |= more;
        }
    }

    /// Removes every column that is not in `other`.
    pub fn intersect_with(&mut self, other: &Self) {
        self.low &= other.low;
        self.high.truncate(other.high.len());
        for (word, more) in self.high.iter_mut().zip(&other.high) {
            *word &= more;
        }
        while self.high.last() == Some(&0) {
            self.high.pop();
        }
    }

    /// True when every column of `self` is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        (0..=self.high.len()).all(|word| self.word(word) & !other.word(word) == 0)
    }

    /// The columns in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = ColumnNumber> + '_ {
        (0..=self.high.len()).flat_map(move |index| {
            let mut word = self.word(index);
            core::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros();
                word &= word - 1;
                Some(ColumnNumber((index as u32 * 64 + bit) as u16))
            })
        })
    }

    /// The count n when the set is exactly `0..n`.
    #[must_use]
    pub fn as_first(&self) -> Option<u16> {
        let count = self.len() as u16;
        (*self == Self::first(count)).then_some(count)
    }

    fn word(&self, index: usize) -> u64 {
        if index == 0 { self.low } else { self.high.get(index - 1).copied().unwrap_or(0) }
    }

    /// Appends the set as a length and a bitmap, least significant bit first.
    pub fn encode_bitmap(&self, out: &mut Vec<u8>) {
        let start = out.len();
        for index in 0..=self.high.len() {
            out.extend_from_slice(&self.word(index).to_le_bytes());
        }
        while out.len() > start && out.last() == Some(&0) {
            out.pop();
        }
        let bytes = out.split_off(start);
        crate::bytes::put_bytes(out, &bytes);
    }

    /// Reads what [`ColumnSet::encode_bitmap`] wrote.
    ///
    /// # Errors
    /// [`BytesError`] when the bytes end early, name columns beyond [`COLUMNS_MAX`], or end in a zero byte.
    pub fn decode_bitmap(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let bytes = reader.bytes(COLUMNS_MAX / 8 + 1, "column bitmap")?;
        if bytes.last() == Some(&0) {
            return Err(BytesError::OutOfBounds("column bitmap"));
        }
        let mut set = Self::new();
        for (i, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                set.insert(ColumnNumber((i * 8 + bit) as u16));
            }
        }
        Ok(set)
    }
}

impl FromIterator<ColumnNumber> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = ColumnNumber>>(columns: I) -> Self {
        let mut set = Self::new();
        columns.into_iter().for_each(|column| set.insert(column));
        set
    }
}

/// What a row knows of its last writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowClock {
    /// Causal length (Yu and Rostad, "A low-cost set CRDT based on causal lengths", 2020): odd while the row is
    /// alive, even when it is deleted. Only `cls` counts; elsewhere it is 1 or 2.
    pub life: u64,
    /// The clock that most cells share; of a tombstone without cells, that of the deletion; of a row without cells, its
    /// own.
    pub common: Clock,
    /// The columns that have a clock in this life.
    pub columns: ColumnSet,
    /// Columns of the set whose clock is another than `common`, in ascending order.
    pub exceptions: Vec<(ColumnNumber, Clock)>,
    /// What `dws` and `aws` know beside the cells; `None` if nothing.
    pub marks: Option<Box<Marks>>,
}

impl RowClock {
    /// A row all of whose `columns` were written at once; `life` is odd.
    #[must_use]
    pub const fn alive(life: u64, clock: Clock, columns: ColumnSet) -> Self {
        Self { life, common: clock, columns, exceptions: Vec::new(), marks: None }
    }

    /// A deleted row; `life` is even.
    #[must_use]
    pub const fn tombstone(life: u64, clock: Clock) -> Self {
        Self { life, common: clock, columns: ColumnSet::new(), exceptions: Vec::new(), marks: None }
    }

    /// Makes the canonical clock of a row from those of its cells, given in ascending order of columns; `row` is
    /// the clock of a row without cells. The common clock is the most frequent one, and of equally frequent ones
    /// the latest, so that replicas that know the same have the same.
    #[must_use]
    pub fn from_cells(life: u64, row: Clock, cells: &[(ColumnNumber, Clock)], sites: &[SiteId]) -> Self {
        let mut counts: Vec<(Clock, usize)> = Vec::new();
        for (_, clock) in cells {
            match counts.iter_mut().find(|(known, _)| known == clock) {
                Some((_, count)) => *count += 1,
                None => counts.push((*clock, 1)),
            }
        }
        let common = counts
            .iter()
            .max_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.order(&b.0, sites)))
            .map_or(row, |(clock, _)| *clock);
        Self {
            life,
            common,
            columns: cells.iter().map(|(column, _)| *column).collect(),
            exceptions: cells.iter().filter(|(_, clock)| *clock != common).copied().collect(),
            marks: None,
        }
    }

    /// The same row with these marks.
    #[must_use]
    pub fn with_marks(self, marks: Marks) -> Self {
        Self { marks: (!marks.is_empty()).then(|| Box::new(marks)), ..self }
    }

    /// The deletion of a dead row that keeps its cells.
    #[must_use]
    pub fn deletion(&self) -> Option<marks::Deletion> {
        self.marks.as_ref().and_then(|marks| marks.deletion)
    }

    /// The deletion that a living row came back from, or a dead one is bounded by, where the algorithm knows of it (`dws`).
    #[must_use]
    pub fn boundary(&self) -> Option<Clock> {
        self.marks.as_ref().and_then(|marks| marks.boundary)
    }

    /// The clock of the row as such: of a deletion, or the common one.
    #[must_use]
    pub fn row(&self) -> Clock {
        self.deletion().map_or(self.common, |deletion| deletion.clock)
    }

    /// Every clock that the row shows, some more than once.
    pub fn clocks(&self) -> impl Iterator<Item = Clock> + '_ {
        let marks = self.marks.iter().flat_map(|marks| marks.clocks());
        core::iter::once(self.common).chain(self.exceptions.iter().map(|(_, clock)| *clock)).chain(marks)
    }

    /// True while the row exists.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        self.life % 2 == 1
    }

    /// The clock of a cell, `None` when nobody wrote it in this life.
    #[must_use]
    pub fn cell(&self, column: ColumnNumber) -> Option<Clock> {
        if let Ok(at) = self.exceptions.binary_search_by_key(&column, |(c, _)| *c) {
            return Some(self.exceptions[at].1);
        }
        self.columns.contains(column).then_some(self.common)
    }

    /// Every cell that has a clock, in ascending order of columns.
    pub fn cells(&self) -> impl Iterator<Item = (ColumnNumber, Clock)> + '_ {
        let mut exceptions = self.exceptions.iter().peekable();
        self.columns.iter().map(move |column| match exceptions.next_if(|(c, _)| *c == column) {
            Some((_, clock)) => (column, *clock),
            None => (column, self.common),
        })
    }

    /// The largest time that the row shows.
    #[must_use]
    pub fn time_max(&self) -> Time {
        let time = self.exceptions.iter().fold(self.common.time, |max, (_, clock)| max.max(clock.time));
        let Some(marks) = &self.marks else { return time };
        marks.clocks().fold(time, |max, clock| max.max(clock.time))
    }

    /// The same row with the clocks of its cells mapped by `map`, in canonical form again; a row without cells gives
    /// `None` for the column. Marks stay what they are: see [`crate::merge::local::restamp`].
    #[must_use]
    pub fn map_clocks(
        &self,
        sites: &[SiteId],
        mut map: impl FnMut(Option<ColumnNumber>, Clock) -> Clock,
    ) -> Self {
        if self.columns.is_empty() {
            return Self { common: map(None, self.common), ..self.clone() };
        }
        let cells: Vec<_> = self.cells().map(|(column, clock)| (column, map(Some(column), clock))).collect();
        Self { marks: self.marks.clone(), ..Self::from_cells(self.life, self.common, &cells, sites) }
    }

    /// Appends the stored form; the module's documentation draws it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let first = self.columns.as_first();
        let mut flags = 0;
        flags |= if first.is_none() { FLAG_BITMAP } else { 0 };
        flags |= if self.exceptions.is_empty() { 0 } else { FLAG_EXCEPTIONS };
        flags |= if self.life == 1 { 0 } else { FLAG_LIFE };
        flags |= self.marks.as_ref().map_or(0, |marks| marks.flags());
        out.push(flags);
        put_varint(out, self.common.time.0);
        put_varint(out, u64::from(self.common.site.0));
        if self.life != 1 {
            put_varint(out, self.life);
        }
        match first {
            Some(count) => put_varint(out, u64::from(count)),
            None => self.columns.encode_bitmap(out),
        }
        if !self.exceptions.is_empty() {
            put_varint(out, self.exceptions.len() as u64);
        }
        for (column, clock) in &self.exceptions {
            put_varint(out, u64::from(column.0));
            put_zigzag(out, clock.time.0 as i64 - self.common.time.0 as i64);
            put_varint(out, u64::from(clock.site.0));
        }
        if let Some(marks) = &self.marks {
            marks.encode(out, self.common.time);
        }
    }

    /// Reads a stored form whole.
    ///
    /// # Errors
    /// [`BytesError`] when the bytes are not exactly one row clock.
    pub fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.byte()?;
        if flags & !(FLAG_BITMAP | FLAG_EXCEPTIONS | FLAG_LIFE | marks::FLAGS) != 0 {
            return Err(BytesError::OutOfBounds("clock flags"));
        }
        let common = Clock::new(
            Time(reader.varint_max(TIME_MAX.0, "clock time")?),
            SiteOrdinal(reader.varint_max(u64::from(u32::MAX), "clock site")? as u32),
        );
        let life = if flags & FLAG_LIFE == 0 { 1 } else { reader.varint_max(u64::MAX, "life")? };
        let columns = if flags & FLAG_BITMAP == 0 {
            ColumnSet::first(reader.varint_max(COLUMNS_MAX, "column count")? as u16)
        } else {
            ColumnSet::decode_bitmap(&mut reader)?
        };
        let mut exceptions = Vec::new();
        if flags & FLAG_EXCEPTIONS != 0 {
            let count = reader.varint_max(columns.len() as u64, "exception count")?;
            for _ in 0..count {
                let column = ColumnNumber(reader.varint_max(COLUMNS_MAX, "column")? as u16);
                exceptions.push((column, marks::decode_clock(&mut reader, common.time)?));
            }
        }
        let mut marks = None;
        if flags & marks::FLAGS != 0 {
            marks = Some(Box::new(Marks::decode(&mut reader, flags, common.time)?));
        }
        let ascending = exceptions.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !reader.is_empty() || !ascending || !exceptions.iter().all(|(c, _)| columns.contains(*c)) {
            return Err(BytesError::OutOfBounds("row clock"));
        }
        let row = Self { life, common, columns, exceptions, marks };
        if row.marks.is_none() || row.has_fitting_marks() {
            Ok(row)
        } else {
            Err(BytesError::OutOfBounds("clock marks"))
        }
    }

    /// Whether marks say what the life and the columns say: nothing is stored in two ways.
    fn has_fitting_marks(&self) -> bool {
        let Some(marks) = &self.marks else { return true };
        let life = if marks.deletion.is_some() { 2 } else { 1 };
        self.life == life && (marks.write.is_none() || !self.columns.is_empty())
    }
}

#[cfg(test)]
pub(crate) mod tests;
