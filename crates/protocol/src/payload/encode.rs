//! Gathering rows and writing them as a payload.

use super::column::ColumnList;
use super::evicted::EvictedList;
use super::frame::{self, Codec, Header};
use super::ints;
use super::marks::MarkLists;
use super::pieces::{PieceList, Reference, SetId};
use super::string_list::StringList;
use super::strings::Use;
use crate::limits::{
    CHUNK_BYTES_TARGET, CHUNK_CELLS_MAX, CHUNK_COLUMNS_MAX, CHUNK_EXCEPTIONS_MAX, CHUNK_GROUPS_MAX,
    CHUNK_PIECES_MAX, CHUNK_ROWS_MAX, CHUNK_SITES_MAX,
};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use cloudsync_core::bytes::{put_bytes, put_varint, zigzag};
use cloudsync_core::clock::{COLUMNS_MAX, Clock, SiteOrdinal};
use cloudsync_core::id::SiteId;
use cloudsync_core::marks::Marks;
use cloudsync_core::value::ValueRef;

/// Set in a group's flags: its rows carry every cell that the sender knows.
pub(super) const FLAG_WHOLE: u8 = 1;
/// Set in a group's flags: the authors of its rows had not seen what the receiver wrote there.
pub(super) const FLAG_CONCURRENT: u8 = 16;
/// Set in a group's flags beside `FLAG_WHOLE`: the sender inserted its rows, knowing nothing of them.
pub(super) const FLAG_INSERTED: u8 = 64;

/// A group of an [`Encoder`], valid for that encoder only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u32);

/// Gathers the rows of one chunk and writes them as a payload.
///
/// What it takes is trusted to be within the bounds of the format: keys not empty and at most
/// [`KEY_BYTES_MAX`](cloudsync_core::key::KEY_BYTES_MAX) bytes, names not empty and at most
/// [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX) bytes, times and lives within those of clocks. A receiver
/// refuses anything else. Close a chunk when [`Encoder::is_full`] says so; a single row whose
/// [`Encoder::size_bytes`] exceeds [`CHUNK_BYTES_MAX`](crate::limits::CHUNK_BYTES_MAX) cannot travel.
#[derive(Debug, Default)]
pub struct Encoder {
    sites: Vec<SiteId>,
    site_ordinals: BTreeMap<[u8; 16], u32>,
    names: Vec<String>,
    name_indexes: BTreeMap<String, u32>,
    groups: Vec<GroupList>,
    evicted: Vec<EvictedList>,
    rows: usize,
    cells: usize,
    columns: usize,
    exceptions: usize,
    size_bytes: usize,
    /// What the last row added to `size_bytes`.
    last_row_bytes: usize,
    pieces: PieceList,
}

#[derive(Debug, Default)]
struct GroupList {
    table: u32,
    flags: u8,
    names: Vec<u32>,
    keys: StringList,
    lives: Vec<i64>,
    times: Vec<i64>,
    sites: Vec<i64>,
    exception_rows: Vec<i64>,
    exception_columns: Vec<i64>,
    exception_times: Vec<i64>,
    exception_sites: Vec<i64>,
    marks: MarkLists,
    columns: Vec<ColumnList>,
}

impl Encoder {
    /// An encoder without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The ordinal that stands for site `id` in this payload; the same id always has the same one.
    pub fn site(&mut self, id: &SiteId) -> SiteOrdinal {
        // Writes come in runs of one site.
        if self.sites.last() == Some(id) {
            return SiteOrdinal(self.sites.len() as u32 - 1);
        }
        let next = self.sites.len() as u32;
        let ordinal = *self.site_ordinals.entry(id.0).or_insert(next);
        if ordinal == next {
            self.sites.push(*id);
            self.size_bytes += id.0.len();
        }
        SiteOrdinal(ordinal)
    }

    /// Opens a group for rows of `table` of which `columns` travel, in this order; they must differ. `whole`: the
    /// rows carry every cell that the sender knows. Each call opens another group; one without rows is not sent.
    pub fn group(&mut self, table: &str, columns: &[&str], whole: bool) -> GroupId {
        let table = self.name(table);
        let names: Vec<_> = columns.iter().map(|name| self.name(name)).collect();
        self.size_bytes += 16 + names.len() * 3;
        self.columns += names.len();
        self.groups.push(GroupList {
            table,
            flags: if whole { FLAG_WHOLE } else { 0 },
            columns: names.iter().map(|_| ColumnList::default()).collect(),
            names,
            ..GroupList::default()
        });
        GroupId(self.groups.len() as u32 - 1)
    }

    /// Opens a group for rows that all have the same kinds of marks as `like`: see [`Encoder::push_marked`].
    pub fn marked_group(
        &mut self,
        table: &str,
        columns: &[&str],
        whole: bool,
        like: Option<&Marks>,
    ) -> GroupId {
        let id = self.group(table, columns, whole);
        if let Some(like) = like {
            let group = &mut self.groups[id.0 as usize];
            group.marks = MarkLists::new(like);
            group.flags |= group.marks.flags();
        }
        id
    }

    /// Says that the authors of the group's rows had not seen what the receiver of this chunk wrote there.
    ///
    /// # Panics
    /// When `group` is of another encoder.
    pub fn mark_concurrent(&mut self, group: GroupId) {
        self.groups[group.0 as usize].flags |= FLAG_CONCURRENT;
    }

    /// Adds a row of `table` that the receiver may no longer hold. It counts as a row.
    pub fn evict(&mut self, table: &str, key: &[u8]) {
        let name = self.name(table);
        let at = match self.evicted.iter().position(|list| list.table == name) {
            Some(at) => at,
            None => {
                self.evicted.push(EvictedList { table: name, keys: StringList::default() });
                self.size_bytes += 16;
                self.evicted.len() - 1
            }
        };
        self.evicted[at].keys.push(key);
        self.size_bytes += key.len() + 2;
        self.rows += 1;
    }

    /// Says that the sender inserted the group's rows, which are whole, without knowing anything of them.
    ///
    /// # Panics
    /// When `group` is of another encoder.
    pub fn mark_inserted(&mut self, group: GroupId) {
        self.groups[group.0 as usize].flags |= FLAG_INSERTED;
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(index) = self.name_indexes.get(name) {
            return *index;
        }
        let index = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.name_indexes.insert(name.to_owned(), index);
        self.size_bytes += name.len() + 2;
        index
    }

    /// Adds a row. The sites of `clock` and `exceptions` are ordinals from [`Encoder::site`]; `exceptions` are
    /// ascending indexes into the group's columns with the clocks that differ from `clock`; `values` are those of
    /// the group's columns, in order. A tombstone has an even `life` and lies in a whole group without columns.
    ///
    /// # Panics
    /// When `group` is of another encoder or `values` are not as many as the group's columns.
    pub fn push<'v>(
        &mut self,
        group: GroupId,
        key: &[u8],
        life: u64,
        clock: Clock,
        exceptions: &[(u16, Clock)],
        values: impl IntoIterator<Item = ValueRef<'v>>,
    ) {
        let group = &mut self.groups[group.0 as usize];
        let row = group.keys.len() as i64;
        group.keys.push(key);
        group.lives.push(life as i64);
        group.times.push(clock.time.0 as i64);
        group.sites.push(i64::from(clock.site.0));
        for (column, exception) in exceptions {
            group.exception_rows.push(row);
            group.exception_columns.push(i64::from(*column));
            group.exception_times.push(exception.time.0.wrapping_sub(clock.time.0) as i64);
            group.exception_sites.push(i64::from(exception.site.0));
        }
        let mut size_bytes = key.len() + 8 + exceptions.len() * 8;
        let mut columns = group.columns.iter_mut();
        for value in values {
            let Some(column) = columns.next() else {
                panic!("a row has more values than its group has columns")
            };
            column.push(value);
            size_bytes += value_bytes(value);
        }
        assert!(columns.next().is_none(), "a row has fewer values than its group has columns");
        self.size_bytes += size_bytes;
        self.last_row_bytes = size_bytes;
        self.cells += group.columns.len();
        self.exceptions += exceptions.len();
        self.rows += 1;
    }

    /// Adds a row with `marks`, of the kinds that the group was opened for; for the rest see [`Encoder::push`]. A dead
    /// row has an even `life`, a deletion, and lies in a whole group, with the cells that it keeps.
    ///
    /// # Panics
    /// As [`Encoder::push`], and when the marks are of other kinds.
    #[expect(clippy::too_many_arguments, reason = "a row as it travels")]
    pub fn push_marked<'v>(
        &mut self,
        group: GroupId,
        key: &[u8],
        life: u64,
        clock: Clock,
        marks: Option<&Marks>,
        exceptions: &[(u16, Clock)],
        values: impl IntoIterator<Item = ValueRef<'v>>,
    ) {
        let mut marks_bytes = 0;
        if let Some(marks) = marks {
            marks_bytes = self.groups[group.0 as usize].marks.push(marks, clock.time);
        }
        self.push(group, key, life, clock, exceptions, values);
        self.size_bytes += marks_bytes;
        self.last_row_bytes += marks_bytes;
    }

    /// Takes the row back that was added last, which is the last one of `group`. What else was opened for it stays, and
    /// so does what [`Encoder::refer`] added to [`Encoder::size_bytes`].
    ///
    /// # Panics
    /// When `group` is of another encoder.
    pub fn pop(&mut self, group: GroupId) {
        let group = &mut self.groups[group.0 as usize];
        let Some(row) = group.keys.len().checked_sub(1) else { return };
        group.keys.pop();
        group.lives.truncate(row);
        group.times.truncate(row);
        group.sites.truncate(row);
        let kept = group.exception_rows.partition_point(|at| *at < row as i64);
        self.exceptions -= group.exception_rows.len() - kept;
        group.exception_rows.truncate(kept);
        group.exception_columns.truncate(kept);
        group.exception_times.truncate(kept);
        group.exception_sites.truncate(kept);
        group.marks.truncate(row);
        group.columns.iter_mut().for_each(ColumnList::pop);
        self.cells -= group.columns.len();
        self.rows -= 1;
        self.size_bytes -= core::mem::take(&mut self.last_row_bytes);
    }

    /// Puts a reference in the place of a value of the last row of `group`, which was pushed as NULL; `column` is an
    /// index into the group's columns. The pieces of its set travel in this chunk or in chunks before.
    ///
    /// # Panics
    /// When `group` is of another encoder, or there is no such value that is NULL.
    pub fn refer(&mut self, group: GroupId, column: u16, reference: &Reference) {
        self.groups[group.0 as usize].columns[usize::from(column)].refer(reference);
        self.size_bytes += 40;
    }

    /// Adds a piece of a set, at least one byte.
    pub fn push_piece(&mut self, set: SetId, start: u64, bytes: Vec<u8>) {
        self.size_bytes += bytes.len() + 32;
        self.pieces.push(set, start, bytes);
    }

    /// True when no further piece may be added.
    #[must_use]
    pub const fn is_full_of_pieces(&self) -> bool {
        self.pieces.len() >= CHUNK_PIECES_MAX
    }

    /// About the bytes of values that the last row has, from above.
    #[must_use]
    pub const fn last_row_bytes(&self) -> usize {
        self.last_row_bytes
    }

    /// Number of rows added.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// About the bytes of the uncompressed body so far, from above; costs nothing.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// True without rows, keys of evicted ones, and pieces.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0 && self.evicted.is_empty() && self.pieces.len() == 0
    }

    /// True when the chunk should be closed: it has reached [`CHUNK_BYTES_TARGET`], or one more row might exceed
    /// another bound of the format.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.is_full_at(CHUNK_BYTES_TARGET)
    }

    /// The same with another size of the uncompressed body, in bytes, in place of [`CHUNK_BYTES_TARGET`].
    #[must_use]
    pub const fn is_full_at(&self, bytes_target: usize) -> bool {
        const ROW_COLUMNS_MAX: usize = COLUMNS_MAX as usize;
        self.size_bytes >= bytes_target
            || self.rows >= CHUNK_ROWS_MAX
            || self.groups.len() + self.evicted.len() >= CHUNK_GROUPS_MAX
            || self.sites.len() + ROW_COLUMNS_MAX >= CHUNK_SITES_MAX
            || self.columns + ROW_COLUMNS_MAX >= CHUNK_COLUMNS_MAX
            || self.cells + ROW_COLUMNS_MAX >= CHUNK_CELLS_MAX
            || self.exceptions + ROW_COLUMNS_MAX >= CHUNK_EXCEPTIONS_MAX
    }

    /// Writes the payload. Equal calls give equal bytes, given the same `codec`.
    #[must_use]
    pub fn finish(self, header: Header, codec: &dyn Codec) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.size_bytes + 64);
        put_varint(&mut body, self.sites.len() as u64);
        for site in &self.sites {
            body.extend_from_slice(&site.0);
        }
        put_varint(&mut body, self.names.len() as u64);
        for name in &self.names {
            put_bytes(&mut body, name.as_bytes());
        }
        let groups = || self.groups.iter().filter(|group| !group.keys.is_empty());
        put_varint(&mut body, (self.evicted.len() + groups().count()) as u64);
        self.evicted.iter().for_each(|list| list.put(&mut body));
        for group in groups() {
            group.put(&mut body);
        }
        self.pieces.put(&mut body);
        frame::seal(header, &body, codec)
    }
}

/// Bytes that a value takes at most, but for the length of a long text.
const fn value_bytes(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Integer(integer) => 1 + ints::varint_bytes(zigzag(integer)),
        _ => 2 + value.size_bytes(),
    }
}

impl GroupList {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.table));
        out.push(self.flags);
        put_varint(out, self.names.len() as u64);
        self.names.iter().for_each(|name| put_varint(out, u64::from(*name)));
        put_varint(out, self.keys.len() as u64);
        self.keys.put(out, Use::Keys);
        ints::put(out, &self.lives);
        ints::put(out, &self.times);
        ints::put(out, &self.sites);
        put_varint(out, self.exception_rows.len() as u64);
        ints::put(out, &self.exception_rows);
        ints::put(out, &self.exception_columns);
        ints::put(out, &self.exception_times);
        ints::put(out, &self.exception_sites);
        self.marks.put(out, self.keys.len());
        self.columns.iter().for_each(|column| column.put(out));
    }
}
