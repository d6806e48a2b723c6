//! Evictions: rows that their receiver may no longer hold, by their keys alone.

use super::decode::Budget;
use super::string_list::StringList;
use super::strings::{Strings, Use};
use super::{PayloadError, malformed};
use crate::limits::CHUNK_ROWS_MAX;
use alloc::vec::Vec;
use cloudsync_core::bytes::{Reader, put_varint};
use cloudsync_core::key::KEY_BYTES_MAX;

/// The flags of a group of evictions; it has no others.
pub(super) const FLAG_EVICTED: u8 = 32;

/// Rows of one table that the receiver may no longer hold. Rows are numbered from 0 to below [`Evicted::rows`].
///
/// They are no [`Group`](super::Group), so that nothing that takes in rows mistakes them for any.
#[derive(Debug)]
pub struct Evicted<'a> {
    table: &'a str,
    rows: usize,
    keys: Strings<'a>,
}

impl<'a> Evicted<'a> {
    /// Name of the table.
    #[must_use]
    pub const fn table(&self) -> &'a str {
        self.table
    }

    /// Number of rows, at least 1.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The packed key of `row`: 1 to [`KEY_BYTES_MAX`] bytes, not checked further.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn key(&self, row: usize) -> &[u8] {
        self.keys.get(row)
    }

    /// Reads what follows the flags.
    pub(super) fn read(
        reader: &mut Reader<'a>,
        table: &'a str,
        budget: &mut Budget,
    ) -> Result<Self, PayloadError> {
        let rows = reader.varint_max(CHUNK_ROWS_MAX as u64, "number of rows")? as usize;
        if rows == 0 {
            return Err(malformed("number of rows"));
        }
        budget.take_rows(rows)?;
        let keys = Strings::read(reader, rows, Use::Keys, &mut budget.unfolded_bytes)?;
        if (0..rows).any(|row| !(1..=KEY_BYTES_MAX).contains(&keys.get(row).len())) {
            return Err(malformed("key length"));
        }
        Ok(Self { table, rows, keys })
    }
}

/// Rows of one table to be evicted, gathered.
#[derive(Debug)]
pub(super) struct EvictedList {
    pub(super) table: u32,
    pub(super) keys: StringList,
}

impl EvictedList {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.table));
        out.push(FLAG_EVICTED);
        put_varint(out, self.keys.len() as u64);
        self.keys.put(out, Use::Keys);
    }
}
