//! What is kept of deleted rows in tables of the algorithm `aws`, so that a write which the deletion had not seen can
//! bring them back whole.
//!
//! `cloudsync_buried` has, by the row's key in the tree of clocks, the values of a dead row: for each column its number as a
//! varint, a byte for the kind (0 NULL, 1 integer, 2 real, 3 text, 4 BLOB) and the content: a zigzag, 8 bytes, or bytes with
//! their length.
//!
//! When the app deletes a row its values are gone before the fold. The triggers of such a table therefore copy them into
//! `cloudsync_dropped(note, layout, k0, ..., v0, ...)`: the rowid of the last note, the key, and a value for each column of
//! the layout. It has no constraint, like the log, and is emptied with it. Neither table exists before the first table of
//! that algorithm does.

use crate::clocks;
use crate::error::{Error, Result};
use crate::storage::quote_identifier;
use crate::table::{Column, Definition, Table};
use crate::value::from_sqlite;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint, put_zigzag};
use cloudsync_core::clock::{COLUMNS_MAX, ColumnNumber};
use cloudsync_core::merge::Algorithm;
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// The values of a row, by column.
pub(crate) type Values = BTreeMap<ColumnNumber, Owned>;

// language=SQLite
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS main.cloudsync_buried(pk BLOB PRIMARY KEY, cells BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main.cloudsync_dropped(note, layout);
";

/// Makes room for a table with so many columns in its key and cells.
pub(crate) fn prepare(db: &Connection, key_columns: usize, cells: usize) -> Result<()> {
    db.execute(CREATE)?;
    for (prefix, wanted) in [("k", key_columns), ("v", cells)] {
        let sql = format!(
            "SELECT count(*) FROM pragma_table_info('cloudsync_dropped', 'main') WHERE name GLOB '{prefix}[0-9]*'"
        );
        let present = db.query_i64(&sql, &[])?.unwrap_or(0) as usize;
        for i in present..wanted {
            db.execute(&format!("ALTER TABLE main.cloudsync_dropped ADD COLUMN {prefix}{i}"))?;
        }
    }
    Ok(())
}

/// Whether anything can be kept in this file.
pub(crate) fn exists(db: &Connection) -> Result<bool> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_buried'";
    Ok(db.query_i64(sql, &[])?.is_some())
}

/// Forgets what is kept of a table.
pub(crate) fn forget(db: &Connection, table: i64) -> Result<()> {
    if !exists(db)? {
        return Ok(());
    }
    let (first, beyond) = clocks::pk_range(table);
    let sql = "DELETE FROM main.cloudsync_buried WHERE pk >= ?1 AND pk < ?2";
    db.prepare(sql)?.run(&[Value::Blob(&first), Value::Blob(&beyond)])?;
    // language=SQLite
    let sql = "DELETE FROM main.cloudsync_dropped WHERE layout IN (SELECT id FROM main.cloudsync_layouts WHERE table_id = ?1)";
    Ok(db.prepare(sql)?.run(&[Value::Integer(table)])?)
}

/// The statement of a trigger that copies the values of a row; `row` stands before the columns' names, and `tail` is
/// what follows the SELECT's list.
pub(crate) fn copy_sql(
    definition: &Definition,
    layout: i64,
    cells: &[&Column],
    row: &str,
    tail: &str,
) -> String {
    let key = Table::key_columns(definition);
    let names = (0..key.len()).map(|i| format!(", k{i}")).chain((0..cells.len()).map(|i| format!(", v{i}")));
    let columns =
        key.iter().chain(cells).map(|column| format!(", {row}.{}", quote_identifier(column.name())));
    format!(
        "INSERT INTO cloudsync_dropped(note, layout{}) SELECT (SELECT max(rowid) FROM cloudsync_log), {layout}{}{tail}; ",
        names.collect::<String>(),
        columns.collect::<String>(),
    )
}

/// Reads and writes the values of dead rows.
pub(crate) struct Buried {
    select: Statement,
    upsert: Statement,
    delete: Statement,
}

impl Buried {
    /// For a table that merges by `algorithm`: `None` where nothing is kept.
    pub(crate) fn of(db: &Connection, algorithm: Algorithm) -> Result<Option<Self>> {
        if algorithm != Algorithm::Aws {
            return Ok(None);
        }
        // language=SQLite
        let upsert = "INSERT INTO main.cloudsync_buried(pk, cells) VALUES(?1, ?2) \
                      ON CONFLICT(pk) DO UPDATE SET cells = excluded.cells";
        Ok(Some(Self {
            select: db.prepare("SELECT cells FROM main.cloudsync_buried WHERE pk = ?1")?,
            upsert: db.prepare(upsert)?,
            delete: db.prepare("DELETE FROM main.cloudsync_buried WHERE pk = ?1")?,
        }))
    }

    /// The values of a dead row, of which there may be none.
    pub(crate) fn read(&mut self, pk: &[u8]) -> Result<Values> {
        self.select.bind(1, Value::Blob(pk))?;
        let found = if self.select.step()? {
            let cells = self.select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_buried"))?;
            decode(cells)
        } else {
            Ok(Values::new())
        };
        self.select.reset()?;
        found
    }

    pub(crate) fn write(&mut self, pk: &[u8], values: &Values) -> Result<()> {
        Ok(self.upsert.run(&[Value::Blob(pk), Value::Blob(&encode(values))])?)
    }

    /// The row is alive again.
    pub(crate) fn remove(&mut self, pk: &[u8]) -> Result<()> {
        Ok(self.delete.run(&[Value::Blob(pk)])?)
    }
}

fn encode(values: &Values) -> Vec<u8> {
    let mut out = Vec::new();
    for (column, value) in values {
        put_varint(&mut out, u64::from(column.0));
        match value {
            Owned::Null => out.push(0),
            Owned::Integer(integer) => {
                out.push(1);
                put_zigzag(&mut out, *integer);
            }
            Owned::Real(real) => {
                out.push(2);
                out.extend_from_slice(&real.to_bits().to_le_bytes());
            }
            Owned::Text(text) => {
                out.push(3);
                put_bytes(&mut out, text);
            }
            Owned::Blob(blob) => {
                out.push(4);
                put_bytes(&mut out, blob);
            }
        }
    }
    out
}

fn decode(cells: &[u8]) -> Result<Values> {
    let mut reader = Reader::new(cells);
    let mut values = Values::new();
    while !reader.is_empty() {
        let column = ColumnNumber(reader.varint_max(COLUMNS_MAX, "column")? as u16);
        let bytes_max = cells.len() as u64;
        let value = match reader.byte()? {
            0 => Owned::Null,
            1 => Owned::Integer(reader.zigzag()?),
            2 => Owned::Real(f64::from_bits(u64::from_le_bytes(reader.array()?))),
            3 => Owned::Text(reader.bytes(bytes_max, "buried text")?.to_vec()),
            4 => Owned::Blob(reader.bytes(bytes_max, "buried blob")?.to_vec()),
            _ => return Err(Error::corrupt("cloudsync_buried")),
        };
        values.insert(column, value);
    }
    Ok(values)
}

/// What triggers copied of rows that the app deleted, found again by the fold.
pub(crate) struct Dropped {
    db: Connection,
    /// By the row's key in the tree of clocks: the place of its last copy, and the columns that it has.
    places: HashMap<Vec<u8>, (i64, Rc<Vec<ColumnNumber>>)>,
    /// The last note of this slice; `None` when there are no later ones.
    last_note: Option<i64>,
}

impl Dropped {
    /// Reads where the copies are that belong to the notes up to `last_note`. `layout` gives the table and the columns of
    /// a layout.
    pub(crate) fn read(
        db: Connection,
        last_note: Option<i64>,
        mut layout: impl FnMut(i64) -> Result<Option<(Rc<Table>, Rc<Vec<ColumnNumber>>)>>,
    ) -> Result<Self> {
        let mut dropped = Self { db, places: HashMap::new(), last_note };
        // language=SQLite
        let sql = "SELECT DISTINCT layout FROM main.cloudsync_dropped";
        let mut layouts = Vec::new();
        db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
            layouts.push(row.column_i64(0));
            Ok(())
        })?;
        for id in layouts {
            if let Some((table, columns)) = layout(id)? {
                dropped.read_layout(id, &table, &columns)?;
            }
        }
        Ok(dropped)
    }

    fn read_layout(&mut self, id: i64, table: &Table, columns: &Rc<Vec<ColumnNumber>>) -> Result<()> {
        let keys = (0..table.key.len()).map(|i| format!(", k{i}")).collect::<String>();
        let sql = format!(
            "SELECT rowid{keys} FROM main.cloudsync_dropped WHERE layout = ?1 AND note <= ?2 ORDER BY rowid"
        );
        let mut select = self.db.prepare(&sql)?;
        select.bind(1, Value::Integer(id))?;
        select.bind(2, Value::Integer(self.last_note.unwrap_or(i64::MAX)))?;
        while select.step()? {
            let mut pk = clocks::pk(table.id, &[]);
            let mut key = Vec::new();
            if table.pack_key(&mut key, |i| from_sqlite(select.column(1 + i))).is_err() {
                continue;
            }
            pk.extend_from_slice(&key);
            let place = (select.column_i64(0), Rc::clone(columns));
            match self.places.get_mut(&pk) {
                // A layout is read after an older one; its copies may yet be older.
                Some(known) if known.0 > place.0 => {}
                Some(known) => *known = place,
                None => drop(self.places.insert(pk, place)),
            }
        }
        Ok(())
    }

    /// The values of a row when it was deleted; `None` if no trigger copied them.
    pub(crate) fn values(&self, pk: &[u8]) -> Result<Option<Values>> {
        let Some((rowid, columns)) = self.places.get(pk) else { return Ok(None) };
        let names: Vec<_> = (0..columns.len()).map(|i| format!("v{i}")).chain(["1".to_owned()]).collect();
        let sql = format!("SELECT {} FROM main.cloudsync_dropped WHERE rowid = ?1", names.join(", "));
        let mut select = self.db.prepare(&sql)?;
        select.bind(1, Value::Integer(*rowid))?;
        if !select.step()? {
            return Ok(None);
        }
        let value = |(i, column): (usize, &ColumnNumber)| (*column, from_sqlite(select.column(i)).to_value());
        Ok(Some(columns.iter().enumerate().map(value).collect()))
    }

    /// Empties the table as far as it was read.
    pub(crate) fn clear(self) -> Result<()> {
        match self.last_note {
            None => Ok(self.db.execute("DELETE FROM main.cloudsync_dropped")?),
            Some(last) => {
                let sql = "DELETE FROM main.cloudsync_dropped WHERE note <= ?1";
                Ok(self.db.prepare(sql)?.run(&[Value::Integer(last)])?)
            }
        }
    }
}

/// The last copy that a trigger made; 0 if there are none.
pub(crate) fn last_copy(db: &Connection) -> Result<i64> {
    if !exists(db)? {
        return Ok(0);
    }
    Ok(db.query_i64("SELECT max(rowid) FROM main.cloudsync_dropped", &[])?.unwrap_or(0))
}

/// Removes the copies after `after` of rows that an apply itself deleted, given by their keys in the tree of clocks.
pub(crate) fn take_back(
    db: Connection,
    tables: &[Rc<Table>],
    after: i64,
    written: &HashSet<Vec<u8>>,
) -> Result<()> {
    if !exists(&db)? {
        return Ok(());
    }
    let mut own = Vec::new();
    for table in tables.iter().filter(|table| table.algorithm == Algorithm::Aws) {
        let keys = (0..table.key.len()).map(|i| format!(", k{i}")).collect::<String>();
        // language=SQLite
        let sql = format!(
            "SELECT rowid{keys} FROM main.cloudsync_dropped WHERE rowid > ?1 \
             AND layout IN (SELECT id FROM main.cloudsync_layouts WHERE table_id = ?2)"
        );
        db.prepare(&sql)?.for_each(
            &[Value::Integer(after), Value::Integer(table.id)],
            |row| -> Result<()> {
                let mut key = Vec::new();
                if table.pack_key(&mut key, |i| from_sqlite(row.column(1 + i))).is_ok()
                    && written.contains(&clocks::pk(table.id, &key))
                {
                    own.push(row.column_i64(0));
                }
                Ok(())
            },
        )?;
    }
    let mut delete = db.prepare("DELETE FROM main.cloudsync_dropped WHERE rowid = ?1")?;
    own.into_iter().try_for_each(|rowid| Ok(delete.run(&[Value::Integer(rowid)])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_bit_for_bit() {
        let values: Values = [
            Owned::Null,
            Owned::Integer(i64::MIN),
            Owned::Real(-0.0),
            Owned::Text(b"a\0b\xff".to_vec()),
            Owned::Blob(vec![]),
        ]
        .into_iter()
        .enumerate()
        .map(|(i, value)| (ColumnNumber(i as u16 * 100), value))
        .collect();
        let bytes = encode(&values);
        assert_eq!(decode(&bytes).unwrap(), values);
        assert!(
            (1..bytes.len()).filter(|end| decode(&bytes[..*end]).is_ok_and(|part| part == values)).count()
                == 0
        );
        assert!(decode(&[0, 9]).is_err() && decode(&[0, 4, 200, 1]).is_err());
    }
}
