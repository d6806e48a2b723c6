//! Reading a payload: everything is checked here, so that rows can be taken from it without errors.

use super::column::Column;
use super::encode::{FLAG_CONCURRENT, FLAG_INSERTED, FLAG_WHOLE};
use super::evicted::{Evicted, FLAG_EVICTED};
use super::frame::{self, Codec, Header};
use super::ints::Ints;
use super::marks::{self, MarkColumns};
use super::pieces::{self, Piece, Reference};
use super::strings::{Strings, Use};
use super::{PayloadError, malformed};
use crate::limits::{
    CHUNK_BYTES_MAX, CHUNK_CELLS_MAX, CHUNK_COLUMNS_MAX, CHUNK_EXCEPTIONS_MAX, CHUNK_GROUPS_MAX,
    CHUNK_ROWS_MAX, CHUNK_SITES_MAX, NAME_BYTES_MAX,
};
use alloc::vec;
use alloc::vec::Vec;
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{COLUMNS_MAX, Clock, LIFE_MAX, SiteOrdinal, TIME_MAX, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_core::marks::Marks;
use cloudsync_core::value::ValueRef;

/// A payload out of its frame: the checksum fits, and the body is uncompressed and in memory.
#[derive(Debug, Clone)]
pub struct Opened {
    header: Header,
    raw: Vec<u8>,
}

impl Opened {
    /// Takes the frame off `bytes`. Holds a copy of the body, at most
    /// [`CHUNK_BYTES_MAX`](crate::limits::CHUNK_BYTES_MAX) bytes.
    ///
    /// # Errors
    /// [`PayloadError`] when `bytes` are no payload, too new, damaged, or compressed by a method that `codec` cannot
    /// read.
    pub fn open(bytes: &[u8], codec: &dyn Codec) -> Result<Self, PayloadError> {
        Self::open_within(bytes, codec, CHUNK_BYTES_MAX)
    }

    /// The same with another bound of the body than `CHUNK_BYTES_MAX`, in bytes.
    ///
    /// # Errors
    /// As [`Opened::open`].
    pub fn open_within(bytes: &[u8], codec: &dyn Codec, bytes_max: usize) -> Result<Self, PayloadError> {
        let (header, raw) = frame::unseal(bytes, codec, bytes_max)?;
        Ok(Self { header, raw })
    }

    /// What the chunk says about itself.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// Bytes of the uncompressed body.
    #[must_use]
    pub const fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Reads and checks the body. The payload borrows from it; its own memory is bounded by about 9 times the body
    /// and by what the bounds in [`limits`](crate::limits) allow once, however little the body is: 64 MiB of texts, 9
    /// bytes a cell.
    ///
    /// # Errors
    /// [`PayloadError::Malformed`] when the body breaks the format.
    pub fn payload(&self) -> Result<Payload<'_>, PayloadError> {
        Payload::read(self.header, &self.raw)
    }
}

/// A payload that has been read and checked.
#[derive(Debug)]
pub struct Payload<'a> {
    header: Header,
    sites: Vec<SiteId>,
    groups: Vec<Group<'a>>,
    evicted: Vec<Evicted<'a>>,
    pieces: Vec<Piece<'a>>,
}

impl<'a> Payload<'a> {
    /// What the chunk says about itself.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The sites that clocks in this payload name by [`SiteOrdinal`]: all such ordinals are within it.
    #[must_use]
    pub fn sites(&self) -> &[SiteId] {
        &self.sites
    }

    /// The groups, none of them without rows, in the order in which they were opened.
    #[must_use]
    pub fn groups(&self) -> &[Group<'a>] {
        &self.groups
    }

    /// Rows that the receiver may no longer hold; they go before any row of the groups comes.
    #[must_use]
    pub fn evicted(&self) -> &[Evicted<'a>] {
        &self.evicted
    }

    /// Pieces of large values of rows of this chunk, or of chunks that follow.
    #[must_use]
    pub fn pieces(&self) -> &[Piece<'a>] {
        &self.pieces
    }

    /// True when there is a reference to pieces in the place of any value.
    #[must_use]
    pub fn has_references(&self) -> bool {
        self.groups.iter().any(Group::has_references)
    }

    /// Number of rows of all groups together, without those that are evicted.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.groups.iter().map(Group::rows).sum()
    }

    fn read(header: Header, raw: &'a [u8]) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(raw);
        let sites_count = reader.varint_max(CHUNK_SITES_MAX as u64, "number of sites")? as usize;
        let sites = reader.take(sites_count * 16)?;
        let sites: Vec<_> = sites.as_chunks::<16>().0.iter().copied().map(SiteId).collect();
        let names = read_names(&mut reader)?;
        let groups_count = reader.varint_max(CHUNK_GROUPS_MAX as u64, "number of groups")? as usize;
        if groups_count > reader.remaining() {
            return Err(malformed("number of groups"));
        }
        let mut budget = Budget {
            sites: sites_count as i64,
            rows: CHUNK_ROWS_MAX,
            columns: CHUNK_COLUMNS_MAX,
            cells: CHUNK_CELLS_MAX,
            exceptions: CHUNK_EXCEPTIONS_MAX,
            unfolded_bytes: CHUNK_BYTES_MAX,
            last_use: vec![0; names.len()],
        };
        let (mut groups, mut evicted) = (Vec::new(), Vec::new());
        for _ in 0..groups_count {
            let table = reader.varint_max(u64::from(u32::MAX), "name index")?;
            let table = names.get(table as usize).copied().ok_or(malformed("name index"))?;
            match reader.byte()? {
                FLAG_EVICTED => evicted.push(Evicted::read(&mut reader, table, &mut budget)?),
                flags => groups.push(Group::read(&mut reader, table, flags, &names, &mut budget)?),
            }
        }
        let pieces = pieces::read(&mut reader)?;
        Ok(Self { header, sites, groups, evicted, pieces })
    }
}

/// The names of tables and columns, checked: valid, within bounds, each there once.
fn read_names<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, PayloadError> {
    let count = reader.varint_max(CHUNK_COLUMNS_MAX as u64, "number of names")? as usize;
    if count > reader.remaining() {
        return Err(malformed("number of names"));
    }
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        let name = core::str::from_utf8(reader.bytes(NAME_BYTES_MAX as u64, "name length")?);
        names.push(name.ok().filter(|name| !name.is_empty()).ok_or(malformed("name"))?);
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let is_unique = sorted.windows(2).all(|pair| pair[0] != pair[1]);
    if is_unique { Ok(names) } else { Err(malformed("name")) }
}

/// What is left of the bounds of a chunk, so that little data never unfolds to much.
pub(super) struct Budget {
    sites: i64,
    rows: usize,
    columns: usize,
    cells: usize,
    exceptions: usize,
    /// Bytes of texts of which only the numbers in them travel. An honest chunk counts them in its size.
    pub(super) unfolded_bytes: usize,
    /// For each name: one more than the `columns` left when a group last used it; finds names used twice.
    last_use: Vec<usize>,
}

impl Budget {
    pub(super) fn take_rows(&mut self, rows: usize) -> Result<(), PayloadError> {
        Self::take(&mut self.rows, rows, "number of rows")
    }

    fn take(left: &mut usize, count: usize, what: &'static str) -> Result<(), PayloadError> {
        *left = left.checked_sub(count).ok_or(malformed(what))?;
        Ok(())
    }
}

/// Rows of one table of which one set of columns travels. Rows are numbered from 0 to below [`Group::rows`];
/// methods that take a row or a column panic beyond their number.
#[derive(Debug)]
pub struct Group<'a> {
    table: &'a str,
    names: Vec<&'a str>,
    whole: bool,
    concurrent: bool,
    inserted: bool,
    rows: usize,
    keys: Strings<'a>,
    lives: Ints<'a>,
    times: Ints<'a>,
    sites: Ints<'a>,
    exceptions: Vec<(u16, Clock)>,
    /// Where each row's exceptions end; empty when there are none at all.
    exception_ends: Vec<u32>,
    marks: Option<MarkColumns<'a>>,
    columns: Vec<Column<'a>>,
}

impl<'a> Group<'a> {
    /// Name of the table.
    #[must_use]
    pub const fn table(&self) -> &'a str {
        self.table
    }

    /// Names of the columns that travel, all different.
    #[must_use]
    pub fn columns(&self) -> &[&'a str] {
        &self.names
    }

    /// True when the rows carry every cell that the sender knows.
    #[must_use]
    pub const fn whole(&self) -> bool {
        self.whole
    }

    /// True when the authors of the rows had not seen what the receiver wrote there, by the sender's knowledge.
    #[must_use]
    pub const fn concurrent(&self) -> bool {
        self.concurrent
    }

    /// True when the sender inserted the rows without knowing anything of them.
    #[must_use]
    pub const fn inserted(&self) -> bool {
        self.inserted
    }

    /// Number of rows, at least 1.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The packed key of `row`: 1 to [`KEY_BYTES_MAX`] bytes, not checked further.
    #[must_use]
    pub fn key(&self, row: usize) -> &[u8] {
        self.keys.get(row)
    }

    /// The causal length of `row`, 1 to [`LIFE_MAX`]; even in tombstones, which only a whole group without columns
    /// has, or one of deletions.
    #[must_use]
    pub fn life(&self, row: usize) -> u64 {
        self.lives.get(row) as u64
    }

    /// The clock of all cells of `row` without an exception; the site is an index into [`Payload::sites`].
    #[must_use]
    pub fn clock(&self, row: usize) -> Clock {
        clock(self.times.get(row), self.sites.get(row))
    }

    /// The columns of `row` with another clock, ascending, as indexes into [`Group::columns`].
    #[must_use]
    pub fn exceptions(&self, row: usize) -> &[(u16, Clock)] {
        let Some(&end) = self.exception_ends.get(row) else { return &[] };
        let start = if row == 0 { 0 } else { self.exception_ends[row - 1] };
        &self.exceptions[start as usize..end as usize]
    }

    /// The marks of `row`, if the rows of this group have any; sites as in [`Group::clock`].
    #[must_use]
    pub fn marks(&self, row: usize) -> Option<Marks> {
        self.marks.as_ref().map(|marks| marks.get(row, self.times.get(row)))
    }

    /// The value of `row` in the column with index `column`.
    #[must_use]
    #[inline]
    pub fn value(&self, row: usize, column: usize) -> ValueRef<'_> {
        self.columns[column].get(row)
    }

    /// What stands for the value of `row` in the column with index `column` if the value itself travels in pieces; what
    /// [`Group::value`] gives for it is NULL.
    #[must_use]
    pub fn reference(&self, row: usize, column: usize) -> Option<Reference> {
        self.columns[column].reference(row)
    }

    /// True when there is a reference in the place of any value.
    #[must_use]
    pub fn has_references(&self) -> bool {
        self.columns.iter().any(Column::has_references)
    }

    /// Reads what follows the flags.
    fn read(
        reader: &mut Reader<'a>,
        table: &'a str,
        flags: u8,
        names: &[&'a str],
        budget: &mut Budget,
    ) -> Result<Self, PayloadError> {
        let name = |index: u64| names.get(index as usize).copied().ok_or(malformed("name index"));
        let (concurrent, flags) = (flags & FLAG_CONCURRENT != 0, flags & !FLAG_CONCURRENT);
        let (inserted, flags) = (flags & FLAG_INSERTED != 0, flags & !FLAG_INSERTED);
        if inserted && flags != FLAG_WHOLE {
            return Err(malformed("group flags"));
        }
        if flags & !FLAG_WHOLE != 0 && !marks::may_follow(flags & !FLAG_WHOLE, flags & FLAG_WHOLE != 0) {
            return Err(malformed("group flags"));
        }
        let columns_count = reader.varint_max(COLUMNS_MAX, "number of columns")? as usize;
        let stamp = budget.columns + 1;
        Budget::take(&mut budget.columns, columns_count, "number of columns")?;
        if columns_count > reader.remaining() {
            return Err(malformed("number of columns"));
        }
        let mut column_names = Vec::with_capacity(columns_count);
        for _ in 0..columns_count {
            let index = reader.varint_max(u64::from(u32::MAX), "name index")?;
            column_names.push(name(index)?);
            let last_use = &mut budget.last_use[index as usize];
            if core::mem::replace(last_use, stamp) == stamp {
                return Err(malformed("column name"));
            }
        }
        let rows = reader.varint_max(CHUNK_ROWS_MAX as u64, "number of rows")? as usize;
        if rows == 0 {
            return Err(malformed("number of rows"));
        }
        budget.take_rows(rows)?;
        Budget::take(&mut budget.cells, rows * columns_count, "number of cells")?;
        let mut group = Self::read_rows(reader, rows, columns_count, flags, budget)?;
        group.table = table;
        group.names = column_names;
        (group.concurrent, group.inserted) = (concurrent, inserted);
        Ok(group)
    }

    /// All after the names, which are left empty, as are the flags for concurrent and inserted rows.
    fn read_rows(
        reader: &mut Reader<'a>,
        rows: usize,
        columns_count: usize,
        flags: u8,
        budget: &mut Budget,
    ) -> Result<Self, PayloadError> {
        let (whole, marked) = (flags & FLAG_WHOLE != 0, flags & !FLAG_WHOLE);
        let keys = Strings::read(reader, rows, Use::Keys, &mut budget.unfolded_bytes)?;
        if (0..rows).any(|row| !(1..=KEY_BYTES_MAX).contains(&keys.get(row).len())) {
            return Err(malformed("key length"));
        }
        let lives = Ints::read(reader, rows)?;
        lives.check(rows, 1, LIFE_MAX as i64, "life")?;
        let may_hold_tombstones = whole && columns_count == 0 && marked == 0;
        let dead = i64::from(marked & marks::FLAG_DELETIONS == 0);
        if !may_hold_tombstones && (0..rows).any(|row| lives.get(row) % 2 != dead) {
            return Err(malformed("life"));
        }
        let times = Ints::read(reader, rows)?;
        times.check(rows, 1, TIME_MAX.0 as i64, "time")?;
        let sites = Ints::read(reader, rows)?;
        sites.check(rows, 0, budget.sites - 1, "site")?;
        let (exceptions, exception_ends) = read_exceptions(reader, rows, columns_count, &times, budget)?;
        let marks = match marked {
            0 => None,
            marked => Some(MarkColumns::read(reader, marked, rows, &times, budget.sites)?),
        };
        if columns_count > reader.remaining() {
            return Err(malformed("number of columns"));
        }
        let mut columns = Vec::with_capacity(columns_count);
        for _ in 0..columns_count {
            columns.push(Column::read(reader, rows, &mut budget.unfolded_bytes)?);
        }
        let (table, names, concurrent, inserted) = ("", Vec::new(), false, false);
        Ok(Self {
            table,
            names,
            whole,
            concurrent,
            inserted,
            rows,
            keys,
            lives,
            times,
            sites,
            exceptions,
            exception_ends,
            marks,
            columns,
        })
    }
}

/// A clock of checked parts.
pub(super) const fn clock(time: i64, site: i64) -> Clock {
    Clock::new(Time(time as u64), SiteOrdinal(site as u32))
}

type Exceptions = (Vec<(u16, Clock)>, Vec<u32>);

fn read_exceptions(
    reader: &mut Reader<'_>,
    rows: usize,
    columns_count: usize,
    times: &Ints<'_>,
    budget: &mut Budget,
) -> Result<Exceptions, PayloadError> {
    const WHAT: &str = "clock exception";
    let count = reader.varint_max((rows * columns_count) as u64, "number of clock exceptions")? as usize;
    Budget::take(&mut budget.exceptions, count, "number of clock exceptions")?;
    if count == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let at_rows = Ints::read(reader, count)?;
    at_rows.check(count, 0, rows as i64 - 1, WHAT)?;
    let at_columns = Ints::read(reader, count)?;
    at_columns.check(count, 0, columns_count as i64 - 1, WHAT)?;
    let time_steps = Ints::read(reader, count)?;
    let sites = Ints::read(reader, count)?;
    sites.check(count, 0, budget.sites - 1, WHAT)?;
    let mut exceptions = Vec::with_capacity(count);
    let mut ends = vec![0; rows];
    let mut last = None;
    for index in 0..count {
        let (row, column) = (at_rows.get(index) as usize, at_columns.get(index) as u16);
        if last.replace((row, column)).is_some_and(|last| last >= (row, column)) {
            return Err(malformed(WHAT));
        }
        let time = times.get(row).wrapping_add(time_steps.get(index));
        if !(1..=TIME_MAX.0 as i64).contains(&time) {
            return Err(malformed("time"));
        }
        exceptions.push((column, clock(time, sites.get(index))));
        ends[row] = exceptions.len() as u32;
    }
    let mut end = 0;
    for row_end in &mut ends {
        end = end.max(*row_end);
        *row_end = end;
    }
    Ok((exceptions, ends))
}
