//! Stored values that are read in parts, so that a large one need not be in memory.
//!
//! SQLite does that for values of tables with rowids. In tables without, and for texts of databases in UTF-16, a value is
//! read whole, and memory is what it takes.

use crate::clocks;
use crate::error::{Error, Result};
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::value::{Value as Owned, ValueRef};
use cloudsync_sqlite_ffi::{Blob, Connection};
use std::cmp::Ordering;

/// Bytes that are read or compared at once.
pub(crate) const PART_BYTES: usize = 256 << 10;

/// The bytes of one text or BLOB.
pub(crate) struct Parts {
    pub(crate) is_text: bool,
    bytes: Bytes,
}

enum Bytes {
    Stored(Blob),
    Whole(Vec<u8>),
}

impl Parts {
    /// A value that is in memory already; `None` if it is neither text nor a BLOB.
    pub(crate) fn of(value: &Owned) -> Option<Self> {
        let (is_text, bytes) = match value {
            Owned::Text(text) => (true, text),
            Owned::Blob(blob) => (false, blob),
            Owned::Null | Owned::Integer(_) | Owned::Real(_) => return None,
        };
        Some(Self { is_text, bytes: Bytes::Whole(bytes.clone()) })
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Stored(blob) => blob.size(),
            Bytes::Whole(bytes) => bytes.len(),
        }
    }

    /// Fills the buffer with the bytes from `offset` on.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        match &self.bytes {
            Bytes::Stored(blob) => Ok(blob.read(buffer, offset)?),
            Bytes::Whole(bytes) => {
                let part = bytes.get(offset..offset + buffer.len());
                buffer.copy_from_slice(part.ok_or_else(|| Error::state("a value became shorter"))?);
                Ok(())
            }
        }
    }

    /// Hands over all bytes, one part after another.
    pub(crate) fn each(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; PART_BYTES.min(self.len())];
        let mut offset = 0;
        while offset < self.len() {
            let part = buffer.len().min(self.len() - offset);
            self.read(&mut buffer[..part], offset)?;
            each(&buffer[..part])?;
            offset += part;
        }
        Ok(())
    }
}

/// Opens values of one row after another.
pub(crate) struct PartsReader<'t> {
    db: Connection,
    table: &'t Table,
    /// The name under which the rowid can be read; `None` if there is none.
    rowid: Option<&'static str>,
    is_utf16: bool,
}

/// A value of a row.
pub(crate) enum Found {
    /// A text or a BLOB.
    Parts(Parts),
    /// Anything else.
    Other(Owned),
}

impl<'t> PartsReader<'t> {
    pub(crate) fn open(db: Connection, table: &'t Table) -> Result<Self> {
        let encoding = db.query_text("PRAGMA main.encoding", &[])?;
        let is_utf16 = encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("UTF-8"));
        Ok(Self { db, table, rowid: rowid_name(table), is_utf16 })
    }

    /// The value of `column` in the row with that packed key; `None` if there is no such row.
    pub(crate) fn find(&self, packed: &[u8], column: &str) -> Result<Option<Found>> {
        let (table, name) = (self.table, quote_identifier(column));
        let condition = table.key_condition(1);
        let rowid = self.rowid.unwrap_or("NULL");
        // A value that is read in parts is not touched by this statement.
        let in_parts = match (self.rowid, self.is_utf16) {
            (None, _) => "0".to_owned(),
            (Some(_), true) => format!("typeof({name}) = 'blob'"),
            (Some(_), false) => format!("typeof({name}) IN ('text', 'blob')"),
        };
        let sql = format!(
            "SELECT {rowid}, {in_parts}, typeof({name}) = 'text', CASE WHEN NOT {in_parts} THEN {name} END FROM {} WHERE {condition}",
            table.quoted()
        );
        let mut select = self.db.prepare(&sql)?;
        clocks::bind_key(&mut select, 1, packed)?;
        if !select.step()? {
            return Ok(None);
        }
        if select.column_i64(1) == 0 {
            let value = from_sqlite(select.column(3)).to_value();
            return Ok(Some(match value {
                Owned::Text(text) => Found::Parts(Parts { is_text: true, bytes: Bytes::Whole(text) }),
                Owned::Blob(blob) => Found::Parts(Parts { is_text: false, bytes: Bytes::Whole(blob) }),
                other => Found::Other(other),
            }));
        }
        let (rowid, is_text) = (select.column_i64(0), select.column_i64(2) != 0);
        drop(select);
        let blob = self.db.open_blob("main", &table.name, column, rowid, false)?;
        Ok(Some(Found::Parts(Parts { is_text, bytes: Bytes::Stored(blob) })))
    }
}

/// A name by which the rowid of a table can be read; `None` if it has none, its columns have taken all of them, or SQLite
/// does not open values of it in parts.
pub(crate) fn rowid_name(table: &Table) -> Option<&'static str> {
    let definition = &table.definition;
    let is_free =
        |name: &&str| !definition.columns.iter().any(|column| column.name().eq_ignore_ascii_case(name));
    let names = ["rowid", "_rowid_", "oid"].into_iter();
    let generates = definition.columns.iter().any(|column| column.generated);
    names.filter(|_| !definition.without_rowid && !generates).find(is_free)
}

/// How the bytes of `incoming`, handed over by `each_incoming` part by part, compare with those of `stored`, as
/// [`ValueRef::tie_order`] would say.
pub(crate) fn tie_order(
    is_text: bool,
    stored: Option<&Found>,
    each_incoming: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<Ordering> {
    let of_kind = if is_text { ValueRef::Text(&[]) } else { ValueRef::Blob(&[]) };
    let stored = match stored {
        None => return Ok(of_kind.tie_order(&ValueRef::Null)),
        Some(Found::Other(value)) => return Ok(of_kind.tie_order(&value.borrow())),
        Some(Found::Parts(parts)) if parts.is_text != is_text => {
            let other = if parts.is_text { ValueRef::Text(&[]) } else { ValueRef::Blob(&[]) };
            return Ok(of_kind.tie_order(&other));
        }
        Some(Found::Parts(parts)) => parts,
    };
    let (mut order, mut offset, mut buffer) = (Ordering::Equal, 0, Vec::new());
    each_incoming(&mut |incoming| {
        if order != Ordering::Equal {
            return Ok(());
        }
        let common = incoming.len().min(stored.len().saturating_sub(offset));
        buffer.resize(common, 0);
        stored.read(&mut buffer, offset)?;
        // Where the stored value ends before, the incoming one is larger.
        order = incoming.cmp(&buffer);
        offset += common;
        Ok(())
    })?;
    if order == Ordering::Equal && offset < stored.len() {
        return Ok(Ordering::Less);
    }
    Ok(order)
}
