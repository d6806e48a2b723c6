//! The stored clocks: one row of `cloudsync_clocks` per row of a synced table, alive or deleted.
//!
//! All tables share one tree. Its key is the table's id as a varint and the packed key of the row, so a table is one
//! range, and a thousand tables cost no thousand trees. On the server each row also gets an ordinal that is never
//! reused; it stands for the row in the bitmaps of what devices hold.

use crate::error::{Error, Result};
use crate::storage;
use crate::value::to_sqlite;
use cloudsync_core::bytes::{Reader, put_varint};
use cloudsync_core::clock::RowClock;
use cloudsync_core::key;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};

/// The setting that makes a replica give ordinals to rows.
pub(crate) const NEXT_ORDINAL: &str = "next_ordinal";

/// A row's key in the tree.
pub(crate) fn pk(table: i64, key: &[u8]) -> Vec<u8> {
    let mut pk = Vec::with_capacity(key.len() + 2);
    put_varint(&mut pk, table as u64);
    pk.extend_from_slice(key);
    pk
}

/// The range of a table's keys: the first key, and the first that is beyond. Varints of equal length sort like their
/// last byte, and the last byte of a varint is never 0xff.
pub(crate) fn pk_range(table: i64) -> (Vec<u8>, Vec<u8>) {
    let first = pk(table, &[]);
    let mut beyond = first.clone();
    if let Some(last) = beyond.last_mut() {
        *last += 1;
    }
    (first, beyond)
}

/// Splits a key of the tree into the table's id and the packed key.
pub(crate) fn split_pk(pk: &[u8]) -> Result<(i64, &[u8])> {
    let mut reader = Reader::new(pk);
    let table = reader.varint_max(i64::MAX as u64, "table id")?;
    Ok((table as i64, reader.take(reader.remaining())?))
}

/// Binds the parts of a packed key to consecutive parameters.
///
/// # Errors
/// When the key is damaged.
pub fn bind_key(statement: &mut Statement, first: usize, packed: &[u8]) -> Result<()> {
    for (i, part) in key::unpack(packed).enumerate() {
        let mut buffer = [0; 36];
        statement.bind(first + i, to_sqlite(part?.value(&mut buffer)))?;
    }
    Ok(())
}

/// Reads and writes clocks with statements prepared once.
pub(crate) struct ClockStore {
    read: Statement,
    insert: Statement,
    update: Statement,
    bytes: Vec<u8>,
    next_ordinal: Option<u64>,
}

impl ClockStore {
    pub(crate) fn open(db: &Connection) -> Result<Self> {
        // language=SQLite
        let insert = "INSERT INTO main.cloudsync_clocks(pk, clock, ordinal) VALUES(?1, ?2, ?3)";
        Ok(Self {
            read: db.prepare_persistent("SELECT clock FROM main.cloudsync_clocks WHERE pk = ?1")?,
            insert: db.prepare_persistent(insert)?,
            update: db.prepare_persistent("UPDATE main.cloudsync_clocks SET clock = ?2 WHERE pk = ?1")?,
            bytes: Vec::new(),
            next_ordinal: match storage::get_i64(db, NEXT_ORDINAL)? {
                Some(next) => Some(u64::try_from(next).map_err(|_| Error::corrupt(NEXT_ORDINAL))?),
                None => None,
            },
        })
    }

    /// The clock of a row.
    pub(crate) fn read(&mut self, pk: &[u8]) -> Result<Option<RowClock>> {
        self.read.query_row(&[Value::Blob(pk)], |row| {
            let bytes = row.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            Ok(RowClock::decode(bytes)?)
        })
    }

    /// Writes the clock of a row; `is_new` says that the row has none yet.
    pub(crate) fn write(&mut self, pk: &[u8], clock: &RowClock, is_new: bool) -> Result<()> {
        self.bytes.clear();
        clock.encode(&mut self.bytes);
        if !is_new {
            return Ok(self.update.run(&[Value::Blob(pk), Value::Blob(&self.bytes)])?);
        }
        let ordinal = match &mut self.next_ordinal {
            Some(next) => {
                *next += 1;
                Value::Integer(*next as i64 - 1)
            }
            None => Value::Null,
        };
        Ok(self.insert.run(&[Value::Blob(pk), Value::Blob(&self.bytes), ordinal])?)
    }

    /// Forgets the clock of a row.
    pub(crate) fn remove(&mut self, pk: &[u8]) -> Result<()> {
        let db = self.update.connection();
        Ok(db.prepare("DELETE FROM main.cloudsync_clocks WHERE pk = ?1")?.run(&[Value::Blob(pk)])?)
    }

    /// Stores what the next run must know; without this call given ordinals would be given again.
    pub(crate) fn finish(self, db: &Connection) -> Result<()> {
        match self.next_ordinal {
            Some(next) => storage::set_u64(db, NEXT_ORDINAL, next),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_range_holds_its_keys_and_no_others() {
        for table in [1, 127, 128, 300, 16_383, 16_384] {
            let (first, beyond) = pk_range(table);
            let key = pk(table, &[0xff; 20]);
            assert!(first <= key && key < beyond);
            for other in [table - 1, table + 1, table * 128] {
                let other = pk(other, &[0x31]);
                assert!(other < first || other >= beyond);
            }
            assert_eq!(split_pk(&key).unwrap(), (table, &[0xff; 20][..]));
        }
    }
}
