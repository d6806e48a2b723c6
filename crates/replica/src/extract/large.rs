//! Rows whose values are too large for a chunk: the large ones travel in pieces before the row, and are read in parts.
//!
//! A position may stand inside such a row. Where an extraction goes on from there, key, life and clocks tell whether the
//! values are still those of which the first pieces were sent; if not, they make another set, which begins anew. Before
//! the last piece of a set that was begun in another chunk all of it is read once more: a value that changed under an
//! equal clock would make a set that nobody can put together.

use super::Builder;
use crate::clocks;
use crate::error::Result;
use crate::parts::{Found, Parts, PartsReader};
use crate::position::{Inside, Position};
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock};
use cloudsync_core::marks::Marks;
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::limits::{
    CHUNK_BYTES_TARGET, ROW_BYTES_MAX, ROW_REST_BYTES_MAX, TURN_CHUNK_BYTES_MAX,
};
use cloudsync_protocol::payload::{GroupId, Reference, SetHasher, SetId};
use cloudsync_sqlite_ffi::{Connection, Value, bindings};

/// A chunk with less room than this, in bytes, takes no further piece.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// A row on its way into the encoder, but for its values.
pub(super) struct Outline<'r> {
    pub(super) group: GroupId,
    pub(super) key: &'r [u8],
    pub(super) life: u64,
    pub(super) clock: Clock,
    pub(super) marks: Option<&'r Marks>,
    pub(super) exceptions: &'r [(u16, Clock)],
}

/// The large values of one row.
pub(crate) struct Set {
    id: SetId,
    bytes: u64,
    values: Vec<Part>,
}

struct Part {
    column: ColumnNumber,
    start: u64,
    parts: Parts,
}

impl Part {
    fn end(&self) -> u64 {
        self.start + self.parts.len() as u64
    }
}

impl Set {
    /// What stands in the row for the value of a column that is in the set.
    pub(super) fn reference(&self, column: ColumnNumber) -> Option<Reference> {
        let part = self.values.iter().find(|part| part.column == column)?;
        Some(Reference {
            is_text: part.parts.is_text,
            set: self.id,
            set_bytes: self.bytes,
            start: part.start,
            bytes: part.parts.len() as u64,
        })
    }

    fn hash(&self) -> Result<SetId> {
        let mut hasher = SetHasher::new();
        for part in &self.values {
            part.parts.each(|bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
        }
        Ok(hasher.id())
    }

    /// The bytes from `start` on.
    fn read(&self, start: u64, bytes: usize) -> Result<Vec<u8>> {
        let (mut buffer, end) = (vec![0; bytes], start + bytes as u64);
        for part in self.values.iter().filter(|part| part.start < end && part.end() > start) {
            let (from, to) = (part.start.max(start), part.end().min(end));
            let range = (from - start) as usize..(to - start) as usize;
            part.parts.read(&mut buffer[range], (from - part.start) as usize)?;
        }
        Ok(buffer)
    }
}

/// Makes values beyond [`ROW_BYTES_MAX`] errors while it lives.
pub(crate) struct LengthLimit {
    db: Connection,
    before: usize,
}

impl LengthLimit {
    pub(crate) fn set(db: Connection, bytes: usize) -> Self {
        let before = db.set_length_limit(bytes);
        if before < bytes {
            db.set_length_limit(before);
        }
        Self { db, before }
    }
}

impl Drop for LengthLimit {
    fn drop(&mut self) {
        self.db.set_length_limit(self.before);
    }
}

/// True for SQLite's complaint about a value beyond the limit.
pub(crate) fn is_too_long(error: &cloudsync_sqlite_ffi::Error) -> bool {
    error.primary_code() == bindings::SQLITE_TOOBIG
}

impl Builder<'_> {
    /// Adds a row that may be too large for a chunk. Where its pieces fill the chunk, nothing but them is added, and
    /// `inside` says where they end.
    pub(super) fn push_large(
        &mut self,
        table: &Table,
        row: &Outline<'_>,
        clock: &RowClock,
        columns: &ColumnSet,
    ) -> Result<()> {
        let (condition, inside) = (table.key_condition(1), table.and_inside());
        let mut select =
            self.db.prepare(&format!("SELECT 1 FROM {} WHERE {condition}{inside}", table.quoted()))?;
        clocks::bind_key(&mut select, 1, row.key)?;
        if !select.step()? {
            return Ok(());
        }
        drop(select);
        if self.set.is_none() {
            // What an entry says of the row may travel in two parts, which share one set.
            let columns = self.entry_columns(clock, table).unwrap_or_else(|| columns.clone());
            let values = self.large_values(table, row.key, &columns)?;
            if !self.send_set(table, row.key, clock, values)? {
                return Ok(());
            }
        }
        let is_in_set = |number| self.set.as_ref().is_some_and(|set| set.reference(number).is_some());
        let names: Vec<_> = columns
            .iter()
            .filter_map(|number| Some((number, table.cell(number)?)))
            .map(|(number, cell)| match is_in_set(number) {
                true => "NULL".to_owned(),
                false => quote_identifier(cell.column.name()),
            })
            .chain(["1".to_owned()])
            .collect();
        let sql = format!("SELECT {} FROM {} WHERE {condition}", names.join(", "), table.quoted());
        let mut select = self.db.prepare(&sql)?;
        clocks::bind_key(&mut select, 1, row.key)?;
        if select.step()? {
            let values = (0..names.len() - 1).map(|i| from_sqlite(select.column(i)));
            self.push_with_references(row, columns, values);
        }
        Ok(())
    }

    /// Adds a row with references in the place of the values that are in the set at hand.
    pub(super) fn push_with_references<'v>(
        &mut self,
        row: &Outline<'_>,
        columns: &ColumnSet,
        values: impl Iterator<Item = ValueRef<'v>>,
    ) {
        let set = self.set.as_ref();
        let references: Vec<_> =
            columns.iter().map(|column| set.and_then(|set| set.reference(column))).collect();
        let values = values.zip(&references).map(|(value, reference)| match reference {
            Some(_) => ValueRef::Null,
            None => value,
        });
        let Outline { group, key, life, clock, marks, exceptions } = *row;
        self.encoder.push_marked(group, key, life, clock, marks, exceptions, values);
        for (at, reference) in references.iter().enumerate() {
            if let Some(reference) = reference {
                self.encoder.refer(group, at as u16, reference);
            }
        }
    }

    /// Sends the pieces of these values, if there are any; false where the chunk was full before their end.
    pub(super) fn send_set(
        &mut self,
        table: &Table,
        key: &[u8],
        clock: &RowClock,
        values: Vec<(ColumnNumber, Parts)>,
    ) -> Result<bool> {
        let values = at_their_places(values);
        let bytes = values.last().map_or(0, Part::end);
        if bytes == 0 {
            return Ok(true);
        }
        let pk = clocks::pk(table.id, key);
        let made_of = made_of(&pk, clock, &values);
        let mut set = Set { id: SetId([0; 16]), bytes, values };
        let mut sent = 0;
        // Of somebody's rows those come first that they name: the one that goes on may come behind them.
        match self.resume.take_if(|resume| resume.made_of == made_of && resume.sent < bytes) {
            None => set.id = set.hash()?,
            Some(resume) => {
                (set.id, sent) = (resume.set, resume.sent);
                if bytes - sent <= self.room() as u64 {
                    let id = set.hash()?;
                    if id != set.id {
                        (set.id, sent) = (id, 0);
                    }
                }
            }
        }
        let stop = self.stop(&pk, set.id)?;
        while sent < bytes {
            let room = self.room();
            let is_full = room < PIECE_BYTES_MIN && !self.encoder.is_empty();
            if is_full || self.encoder.is_full_of_pieces() || stop == Some(sent) {
                let row = self.place_before(&pk)?;
                self.inside = Some(Inside { row, set: set.id, made_of, sent });
                return Ok(false);
            }
            let until = stop.filter(|stop| *stop > sent).unwrap_or(bytes);
            let most = room.clamp(PIECE_BYTES_MIN, CHUNK_BYTES_TARGET) as u64;
            let piece = set.read(sent, most.min(until - sent) as usize)?;
            self.encoder.push_piece(set.id, sent, piece);
            sent += most.min(until - sent);
        }
        self.set = Some(set);
        Ok(true)
    }

    /// Bytes until the chunk is full.
    fn room(&self) -> usize {
        let target =
            if self.until.is_some() { TURN_CHUNK_BYTES_MAX / 2 } else { self.extraction.bytes_target };
        target.saturating_sub(self.encoder.size_bytes())
    }

    /// Where in this set of this row an earlier extraction of the same chunk ended.
    fn stop(&self, pk: &[u8], set: SetId) -> Result<Option<u64>> {
        let Some(Position::Inside(inside)) = self.until else { return Ok(None) };
        let is_here = inside.set == set && inside.row == self.place_before(pk)?;
        Ok(is_here.then_some(inside.sent))
    }

    /// The place before the row at hand.
    fn place_before(&self, pk: &[u8]) -> Result<Position> {
        if self.names {
            return Ok(self.extraction.from.place().clone());
        }
        let Some(head) = self.scans else { return Ok(self.place(self.listed_at.0, self.listed_at.1)) };
        let sql = "SELECT max(pk) FROM main.cloudsync_clocks WHERE pk < ?1";
        let after = self.db.query_blob(sql, &[Value::Blob(pk)])?.unwrap_or_default();
        Ok(Position::Scan { head, after })
    }

    /// The values of the row that do not fit the chunk; none if together they do.
    fn large_values(
        &self,
        table: &Table,
        key: &[u8],
        columns: &ColumnSet,
    ) -> Result<Vec<(ColumnNumber, Parts)>> {
        let reader = PartsReader::open(self.db, table)?;
        let mut values = Vec::new();
        for (number, cell) in columns.iter().filter_map(|number| Some((number, table.cell(number)?))) {
            if let Some(Found::Parts(parts)) = reader.find(key, cell.column.name())? {
                values.push((number, parts));
            }
        }
        Ok(large(values, columns.len()))
    }
}

/// Of the values of a row with so many columns those that travel in pieces; none if all of them fit a chunk.
pub(super) fn large(mut values: Vec<(ColumnNumber, Parts)>, columns: usize) -> Vec<(ColumnNumber, Parts)> {
    if values.iter().map(|(_, parts)| parts.len()).sum::<usize>() <= ROW_BYTES_MAX {
        return Vec::new();
    }
    let share = ROW_REST_BYTES_MAX / columns.max(1);
    values.retain(|(_, parts)| parts.len() > share);
    values
}

fn at_their_places(values: Vec<(ColumnNumber, Parts)>) -> Vec<Part> {
    let mut start = 0;
    let place = |(column, parts): (ColumnNumber, Parts)| {
        let part = Part { column, start, parts };
        start = part.end();
        part
    };
    values.into_iter().map(place).collect()
}

/// What tells whether a row still has the values of which a set was made.
fn made_of(pk: &[u8], clock: &RowClock, values: &[Part]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(pk);
    hasher.update(&clock.life.to_le_bytes());
    for part in values {
        let cell = clock.cell(part.column).unwrap_or(clock.common);
        hasher.update(&part.column.0.to_le_bytes());
        hasher.update(&cell.time.0.to_le_bytes());
        hasher.update(&cell.site.0.to_le_bytes());
        hasher.update(&part.end().to_le_bytes());
    }
    hasher.digest()
}
