//! Reading the notes of triggers.

use super::strays::{self, Stray};
use crate::capture::{
    MASK_BITS, NOTE_ALTERED, NOTE_DELETE, NOTE_ENTER, NOTE_INSERT, NOTE_LEAVE, NOTE_LEAVE_REKEY, NOTE_LOCAL,
    NOTE_LOOK, NOTE_REKEY, note_time_ms,
};
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::bytes::put_varint;
use cloudsync_core::clock::{ColumnSet, TIME_MAX};
use cloudsync_core::key::KeyError;
use cloudsync_core::value::ValueRef;
use cloudsync_sqlite_ffi::{Statement, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// One note, with its key in the arena.
pub(super) struct Note {
    key: (u32, u32),
    pub(super) at: u64,
    pub(super) layout: i64,
    pub(super) what: What,
}

#[derive(Clone)]
pub(super) enum What {
    Insert,
    Delete,
    Look,
    Update(ColumnSet),
    /// A write to a row that was or is outside of the filter.
    Local,
    /// An update took the row out of the filter.
    Leave,
    /// A change of the filter brought the row inside.
    Enter,
    /// The row was altered in a bracket, with its table.
    Altered,
}

/// The notes of a slice, their keys packed in one arena.
pub(super) struct NoteReader {
    arena: Vec<u8>,
    /// The key of one note, while it is packed.
    packed: Vec<u8>,
    pub(super) notes: Vec<Note>,
    /// Rows of the log that were read, and the last of them.
    pub(super) read: i64,
    pub(super) last: i64,
    pub(super) null_keys: u64,
    strays: Vec<Stray>,
    /// The local clock, for notes that do not say when.
    now_ms: u64,
}

impl NoteReader {
    pub(super) fn read(replica: &mut Replica, limit: i64) -> Result<Self> {
        let mut select =
            replica.db.prepare_persistent("SELECT rowid, * FROM main.cloudsync_log ORDER BY rowid")?;
        let now_ms = replica.now_ms();
        let mut reader = Self {
            arena: Vec::new(),
            packed: Vec::new(),
            notes: Vec::new(),
            read: 0,
            last: 0,
            null_keys: 0,
            strays: Vec::new(),
            now_ms,
        };
        let mut tables: HashMap<i64, Option<Rc<Table>>> = HashMap::new();
        // Notes of one table stand in rows, as a rule.
        let mut last: (i64, Option<Rc<Table>>) = (0, None);
        // Not by a limit that is bound: SQLite would compile the statement anew for each fold.
        while reader.read < limit && select.step()? {
            reader.read += 1;
            reader.last = select.column_i64(0);
            let layout = select.column_i64(2);
            if layout != last.0 {
                let table = match tables.entry(layout) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(place) => {
                        place.insert(replica.catalog.layout_table(&replica.db, layout)?).clone()
                    }
                };
                last = (layout, table);
            }
            // Else a note of a table that does not sync any more.
            if let Some(table) = &last.1 {
                reader.note(replica, &select, layout, table)?;
            }
        }
        let strays = std::mem::take(&mut reader.strays);
        strays::find(replica, strays, |pk, note| reader.add(pk, note))?;
        Ok(reader)
    }

    fn note(&mut self, replica: &mut Replica, row: &Statement, layout: i64, table: &Table) -> Result<()> {
        let at = note_time_ms(row.column(1), self.now_ms).min(TIME_MAX.0 / 2);
        let what = match row.column(3) {
            Value::Integer(NOTE_INSERT) => What::Insert,
            Value::Integer(NOTE_DELETE) => What::Delete,
            Value::Integer(NOTE_LOOK) => What::Look,
            Value::Integer(NOTE_REKEY) => {
                self.push(table, |i| from_sqlite(row.column(old_key_column(i))), at, layout, What::Delete)?;
                What::Insert
            }
            Value::Integer(NOTE_LOCAL) => What::Local,
            Value::Integer(NOTE_LEAVE) => What::Leave,
            Value::Integer(NOTE_ENTER) => What::Enter,
            Value::Integer(NOTE_ALTERED) => What::Altered,
            Value::Integer(NOTE_LEAVE_REKEY) => {
                self.push(table, |i| from_sqlite(row.column(old_key_column(i))), at, layout, What::Delete)?;
                What::Local
            }
            mask => What::Update(read_mask(replica, layout, mask)?),
        };
        self.push(table, |i| from_sqlite(row.column(key_column(i))), at, layout, what)
    }

    fn push<'v>(
        &mut self,
        table: &Table,
        value: impl FnMut(usize) -> ValueRef<'v>,
        at: u64,
        layout: i64,
        what: What,
    ) -> Result<()> {
        let start = self.arena.len();
        put_varint(&mut self.arena, table.id as u64);
        self.packed.clear();
        match table.pack_key(&mut self.packed, value) {
            Ok(()) if table.has_kinds(&self.packed) => self.arena.extend_from_slice(&self.packed),
            Ok(()) => {
                let key = self.packed.clone();
                self.arena.truncate(start);
                self.strays.push(Stray { table: table.id, key, at, layout, what });
                return Ok(());
            }
            // No other replica could name such a row; the others must not wait for it.
            Err(KeyError::Null | KeyError::TooLong) => {
                self.arena.truncate(start);
                self.null_keys += 1;
                return Ok(());
            }
            Err(error) => return Err(Error::Limit(format!("table \"{}\": {error}", table.name))),
        }
        self.end_note(start, at, layout, what)
    }

    /// Adds what a stray note says of the row that was meant.
    fn add(&mut self, pk: &[u8], stray: &Stray) -> Result<()> {
        let start = self.arena.len();
        self.arena.extend_from_slice(pk);
        self.end_note(start, stray.at, stray.layout, stray.what.clone())
    }

    fn end_note(&mut self, start: usize, at: u64, layout: i64, what: What) -> Result<()> {
        let range =
            |offset: usize| u32::try_from(offset).map_err(|_| Error::Limit("too many notes at once".into()));
        let key = (range(start)?, range(self.arena.len())?);
        self.notes.push(Note { key, at, layout, what });
        Ok(())
    }

    fn key_of(&self, note: &Note) -> &[u8] {
        &self.arena[note.key.0 as usize..note.key.1 as usize]
    }

    pub(super) fn key(&self, at: usize) -> &[u8] {
        self.key_of(&self.notes[at])
    }

    /// By key, and within a row in the order of the log.
    pub(super) fn sort(&mut self) {
        let arena = std::mem::take(&mut self.arena);
        let slice = |note: &Note| &arena[note.key.0 as usize..note.key.1 as usize];
        self.notes.sort_by(|a, b| slice(a).cmp(slice(b)));
        self.arena = arena;
    }

    pub(super) fn same_row(&self, from: usize) -> usize {
        let key = self.key(from);
        let same = self.notes[from..].iter().take_while(|note| self.key_of(note) == key).count();
        from + same
    }
}

/// Where a key part stands in `SELECT rowid, * FROM cloudsync_log`: each is followed by its old value.
pub(crate) const fn key_column(part: usize) -> usize {
    4 + 2 * part
}

const fn old_key_column(part: usize) -> usize {
    key_column(part) + 1
}

fn read_mask(replica: &mut Replica, layout: i64, mask: Value<'_>) -> Result<ColumnSet> {
    let columns =
        replica.catalog.layout(&replica.db, layout)?.ok_or_else(|| Error::corrupt("cloudsync_layouts"))?;
    let words: Vec<i64> = match mask {
        Value::Integer(word) => vec![word],
        Value::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| Error::corrupt("cloudsync_log"))?;
            text.split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| Error::corrupt("cloudsync_log"))?
        }
        Value::Null | Value::Real(_) | Value::Blob(_) => return Err(Error::corrupt("cloudsync_log")),
    };
    let bit = |at: usize| words.get(at / MASK_BITS).is_some_and(|word| word & (1 << (at % MASK_BITS)) != 0);
    Ok(columns.iter().enumerate().filter(|(at, _)| bit(*at)).map(|(_, column)| *column).collect())
}
