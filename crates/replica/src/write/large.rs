//! Values of a row that came in pieces: written without ever being whole in memory, where SQLite can do that.
//!
//! It can in a table with rowids, for a BLOB that nothing else is made of: no index, foreign key, CHECK, generated column or
//! filter, and no trigger of the app, all of which would see the zeros that stand in its place at first. Elsewhere, and for
//! texts, the value is put together in memory.

use super::{Refused, Row, Writer};
use crate::clocks;
use crate::error::{Error, Result};
use crate::guard;
use crate::parts::{self, Found, PartsReader};
use crate::pieces;
use crate::storage::quote_identifier;
use crate::table::Table;
use cloudsync_core::clock::{ColumnNumber, ColumnSet};
use cloudsync_core::value::{Value as Owned, ValueRef};
use cloudsync_protocol::limits::JUDGED_ROW_BYTES_MAX;
use cloudsync_protocol::payload::Reference;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::cell::OnceCell;
use std::cmp::Ordering;

/// A value of which a row has a reference.
pub(crate) struct Large {
    db: Connection,
    column: ColumnNumber,
    reference: Reference,
    /// The value, once it was needed whole.
    value: OnceCell<Owned>,
}

impl Large {
    /// The value where it was loaded.
    pub(super) fn loaded(&self) -> Option<ValueRef<'_>> {
        self.value.get().map(Owned::borrow)
    }

    fn each(&self, each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Reference { set, start, bytes, .. } = self.reference;
        pieces::each(&self.db, set, start..start + bytes, each)
    }

    fn load(&self) -> Result<()> {
        if self.value.get().is_none() {
            let bytes = pieces::read(&self.db, &self.reference)?;
            let value = if self.reference.is_text { Owned::Text(bytes) } else { Owned::Blob(bytes) };
            // Empty until here.
            let _ = self.value.set(value);
        }
        Ok(())
    }

    fn compare(&self, stored: Option<&Found>) -> Result<Ordering> {
        parts::tie_order(self.reference.is_text, stored, |each| self.each(each))
    }
}

impl Row<'_> {
    /// The references of the row.
    pub(super) fn references(
        db: Connection,
        group: &cloudsync_protocol::payload::Group<'_>,
        columns: &[Option<ColumnNumber>],
        at: usize,
    ) -> Vec<Large> {
        if !group.has_references() {
            return Vec::new();
        }
        let large = |(place, column): (usize, &Option<ColumnNumber>)| {
            let (column, reference) = ((*column)?, group.reference(at, place)?);
            Some(Large { db, column, reference, value: OnceCell::new() })
        };
        columns.iter().enumerate().filter_map(large).collect()
    }

    pub(super) fn large(&self, column: ColumnNumber) -> Option<&Large> {
        self.large.iter().find(|large| large.column == column)
    }

    /// Makes the large values among `columns` whole, for expressions that may look at them.
    pub(crate) fn load_to_be_judged(&self, columns: &ColumnSet) -> Result<(), Refused> {
        let mut verified = None;
        for large in self.large.iter().filter(|large| columns.contains(large.column)) {
            let reference = &large.reference;
            if reference.set_bytes > JUDGED_ROW_BYTES_MAX {
                return Err(Refused::Constraint(format!(
                    "the row's large values have more than {JUDGED_ROW_BYTES_MAX} bytes, which policies do not judge"
                )));
            }
            if verified != Some(reference.set) {
                pieces::verify(&large.db, reference)?;
                verified = Some(reference.set);
            }
            large.load()?;
        }
        Ok(())
    }

    /// Whether the row brings another value than `old`; none at all is another one.
    pub(crate) fn differs(&self, column: ColumnNumber, old: &Owned) -> bool {
        let Some(large) = self.large(column) else {
            return self.value(column).is_none_or(|new| new != old.borrow());
        };
        let (is_text, bytes) = match old {
            Owned::Text(text) => (true, text.len()),
            Owned::Blob(blob) => (false, blob.len()),
            Owned::Null | Owned::Integer(_) | Owned::Real(_) => return true,
        };
        if (is_text, bytes as u64) != (large.reference.is_text, large.reference.bytes) {
            return true;
        }
        let old = parts::Parts::of(old).map(Found::Parts);
        large.compare(old.as_ref()).is_ok_and(|order| order != Ordering::Equal)
    }
}

impl Writer {
    /// Makes sure that the row's large values among `columns` can be written: those that must be whole are then in memory.
    pub(super) fn load(&mut self, row: &Row<'_>, columns: &ColumnSet, in_parts: bool) -> Result<()> {
        for large in row.large.iter().filter(|large| columns.contains(large.column)) {
            let in_parts = in_parts
                && !large.reference.is_text
                && self.writes_in_parts(&row.target.table, large.column)?;
            if !in_parts {
                self.verify(&large.reference)?;
                large.load()?;
            }
        }
        Ok(())
    }

    fn verify(&mut self, reference: &Reference) -> Result<()> {
        if !self.verified.contains(&reference.set) {
            pieces::verify(&self.db, reference)?;
            self.verified.insert(reference.set);
        }
        Ok(())
    }

    fn writes_in_parts(&mut self, table: &Table, column: ColumnNumber) -> Result<bool> {
        let columns = match self.in_parts.take() {
            Some(known) => known,
            None => columns_in_parts(&self.db, table)?,
        };
        Ok(self.in_parts.insert(columns).contains(column))
    }

    /// Writes the values for which zeros were bound.
    pub(super) fn fill(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<(), Refused> {
        let table = &row.target.table;
        for large in row.large.iter() {
            if large.loaded().is_some() || !columns.contains(large.column) {
                continue;
            }
            let (Some(cell), Some(rowid)) = (table.cell(large.column), parts::rowid_name(table)) else {
                continue;
            };
            self.verify(&large.reference)?;
            let sql = format!("SELECT {rowid} FROM {} WHERE {}", table.quoted(), table.key_condition(1));
            let mut select = self.db.prepare(&sql)?;
            clocks::bind_key(&mut select, 1, row.packed)?;
            if !select.step()? {
                return Err(Refused::Error(Error::state("a row is gone that was just written")));
            }
            let rowid = select.column_i64(0);
            drop(select);
            let mut blob = self.db.open_blob("main", &table.name, cell.column.name(), rowid, true)?;
            let mut offset = 0;
            large.each(|bytes| {
                blob.write(bytes, offset)?;
                offset += bytes.len();
                Ok(())
            })?;
        }
        Ok(())
    }

    /// [`Writer::compare`] for a row with large values: each column is looked at alone, and in parts.
    pub(super) fn compare_in_parts(&mut self, row: &Row<'_>, column: ColumnNumber) -> Result<Ordering> {
        let table = &row.target.table;
        let Some(cell) = table.cell(column) else { return Ok(Ordering::Equal) };
        let stored = PartsReader::open(self.db, table)?.find(row.packed, cell.column.name())?;
        let large = row.large(column);
        if stored.is_none() {
            if let Some(large) = large {
                self.verify(&large.reference)?;
                large.load()?;
            }
            let incoming = row.value(column).map(|value| value.to_value());
            return incoming
                .map_or(Ok(Ordering::Equal), |value| self.compare_with_buried(row, column, value.borrow()));
        }
        if let Some(large) = large {
            return large.compare(stored.as_ref());
        }
        let (is_text, bytes) = match row.value(column) {
            None => return Ok(Ordering::Equal),
            Some(ValueRef::Text(text)) => (true, text),
            Some(ValueRef::Blob(blob)) => (false, blob),
            Some(other) => {
                return Ok(match &stored {
                    Some(Found::Other(value)) => other.tie_order(&value.borrow()),
                    // Texts and BLOBs are larger than anything else.
                    _ => Ordering::Less,
                });
            }
        };
        parts::tie_order(is_text, stored.as_ref(), |each| each(bytes))
    }
}

/// Binds a value of the row: zeros for one that is written afterwards.
pub(super) fn bind(
    statement: &mut cloudsync_sqlite_ffi::Statement,
    index: usize,
    row: &Row<'_>,
    column: ColumnNumber,
) -> Result<()> {
    match row.large(column) {
        Some(large) if large.loaded().is_none() => Ok(statement.bind_zeros(index, large.reference.bytes)?),
        _ => {
            let value = row.value(column).map_or(Value::Null, crate::value::to_sqlite);
            Ok(statement.bind(index, value)?)
        }
    }
}

/// The columns of a table whose BLOBs can be written in parts.
fn columns_in_parts(db: &Connection, table: &Table) -> Result<ColumnSet> {
    // language=SQLite
    let checks = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND sql LIKE '%check%'";
    if parts::rowid_name(table).is_none()
        || table.filter.is_some()
        || guard::watches(db, &table.name)?
        || db.query_i64(checks, &[Value::from(table.name.as_str())])?.is_some()
    {
        return Ok(ColumnSet::new());
    }
    // A term without a name is an expression, and a partial index has one as well.
    // language=SQLite
    let sql = "SELECT x.name, i.partial OR x.name IS NULL FROM pragma_index_list(?1, 'main') AS i, \
               pragma_index_xinfo(i.name, 'main') AS x WHERE x.key \
               UNION ALL SELECT \"from\", 0 FROM pragma_foreign_key_list(?1, 'main')";
    let (mut used, mut any) = (Vec::new(), false);
    db.prepare(sql)?.for_each(&[Value::from(table.name.as_str())], |row| -> Result<()> {
        used.push(quote_identifier(row.column(0).as_str().unwrap_or_default()).to_ascii_lowercase());
        any |= row.column_i64(1) != 0;
        Ok(())
    })?;
    let is_free = |name: &str| !any && !used.contains(&quote_identifier(name).to_ascii_lowercase());
    Ok(table.cells.iter().filter(|cell| is_free(cell.column.name())).map(|cell| cell.number).collect())
}
