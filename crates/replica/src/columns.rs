//! The numbers of a table's columns, and the layouts that say what the bits of logged masks mean.
//!
//! A column keeps its number for life, under whatever name. The number of one that was dropped is never given again,
//! also not to a later column of the same name: old clocks must not speak of other values.

use crate::error::{Error, Result};
use crate::storage;
use crate::table::{Column, Definition, Table};
use cloudsync_core::bytes::put_varint;
use cloudsync_core::clock::{COLUMNS_MAX, ColumnNumber};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::HashMap;

/// The numbers that a table has given.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Of columns that exist, by name.
    live: Vec<(String, ColumnNumber)>,
    /// Names of columns that were dropped.
    dropped: Vec<String>,
}

impl Numbers {
    pub(crate) fn read(db: &Connection, table: i64) -> Result<Self> {
        let sql =
            "SELECT name, number, dropped FROM main.cloudsync_columns WHERE table_id = ?1 ORDER BY number";
        let mut numbers = Self::default();
        db.prepare(sql)?.for_each(&[Value::Integer(table)], |row| numbers.take(row))?;
        Ok(numbers)
    }

    /// The numbers of all tables, by their ids.
    pub(crate) fn read_all(db: &Connection) -> Result<HashMap<i64, Self>> {
        let sql =
            "SELECT name, number, dropped, table_id FROM main.cloudsync_columns ORDER BY table_id, number";
        let mut all = HashMap::<_, Self>::new();
        db.prepare(sql)?.for_each(&[], |row| all.entry(row.column_i64(3)).or_default().take(row))?;
        Ok(all)
    }

    /// Takes over a row of name, number, and whether the column was dropped.
    fn take(&mut self, row: &Statement) -> Result<()> {
        let corrupt = || Error::corrupt("cloudsync_columns");
        let number = u16::try_from(row.column_i64(1)).map_err(|_| corrupt())?;
        let name = row.column(0).as_str().ok_or_else(corrupt)?.to_owned();
        match row.column_i64(2) {
            0 => self.live.push((name, ColumnNumber(number))),
            _ => self.dropped.push(name),
        }
        Ok(())
    }

    /// The number of the column of that name; SQLite's names do not distinguish ASCII case.
    pub(crate) fn named(&self, name: &str) -> Option<ColumnNumber> {
        self.live.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
    }

    /// The name of the column with that number.
    pub(crate) fn name(&self, number: ColumnNumber) -> Option<&str> {
        self.live.iter().find(|(_, known)| *known == number).map(|(name, _)| &name[..])
    }
}

/// Outcome of [`number_columns`].
pub(crate) struct Numbered {
    /// The layout made now, if the present one does not fit any more.
    pub(crate) layout: Option<i64>,
    /// True when a column got a number.
    pub(crate) grown: bool,
    /// True when one of them bears the name of a column that was dropped before.
    pub(crate) returned: bool,
}

/// Gives numbers to columns that have none, takes note of those that are gone, and makes a layout if `present` is not
/// that of the definition's columns.
pub(crate) fn number_columns(
    db: &Connection,
    table: i64,
    present: i64,
    definition: &Definition,
) -> Result<Numbered> {
    let mut numbers = Numbers::read(db, table)?;
    let mut numbered = Numbered { layout: None, grown: false, returned: false };
    for (name, number) in &numbers.live {
        if !Table::cell_columns(definition).any(|column| column.name().eq_ignore_ascii_case(name)) {
            drop_column(db, table, *number)?;
            numbers.dropped.push(name.clone());
        }
    }
    // Every number that was ever given has its row.
    let sql = "SELECT count(*) FROM main.cloudsync_columns WHERE table_id = ?1";
    let mut next = db.query_i64(sql, &[Value::Integer(table)])?.unwrap_or(0) as usize;
    let mut bits = Vec::new();
    for column in Table::cell_columns(definition) {
        let number = match numbers.named(column.name()) {
            Some(number) => number,
            None => {
                numbered.grown = true;
                numbered.returned |=
                    numbers.dropped.iter().any(|name| name.eq_ignore_ascii_case(column.name()));
                next += 1;
                add_number(db, table, next - 1, column)?
            }
        };
        put_varint(&mut bits, u64::from(number.0));
    }
    let sql = "SELECT columns FROM main.cloudsync_layouts WHERE id = ?1";
    if db.query_blob(sql, &[Value::Integer(present)])?.as_ref() != Some(&bits) {
        let layout = storage::next_number(db, "layouts")?;
        let sql = "INSERT INTO main.cloudsync_layouts(id, table_id, columns) VALUES(?1, ?2, ?3)";
        db.prepare(sql)?.run(&[Value::Integer(layout), Value::Integer(table), Value::Blob(&bits)])?;
        numbered.layout = Some(layout);
    }
    Ok(numbered)
}

fn add_number(db: &Connection, table: i64, number: usize, column: &Column) -> Result<ColumnNumber> {
    let number = u16::try_from(number).ok().filter(|number| u64::from(*number) < COLUMNS_MAX);
    let number =
        number.ok_or_else(|| Error::Limit("a table had more columns than SQLite allows".to_owned()))?;
    let sql = "INSERT INTO main.cloudsync_columns(table_id, number, name) VALUES(?1, ?2, ?3)";
    let row = [Value::Integer(table), Value::Integer(i64::from(number)), Value::from(column.name())];
    db.prepare(sql)?.run(&row)?;
    Ok(ColumnNumber(number))
}

/// Gives a column another name.
pub(crate) fn rename_column(db: &Connection, table: i64, number: ColumnNumber, name: &str) -> Result<()> {
    let sql = "UPDATE main.cloudsync_columns SET name = ?3 WHERE table_id = ?1 AND number = ?2";
    let row = [Value::Integer(table), Value::Integer(i64::from(number.0)), Value::from(name)];
    Ok(db.prepare(sql)?.run(&row)?)
}

/// Takes note that a column is gone.
pub(crate) fn drop_column(db: &Connection, table: i64, number: ColumnNumber) -> Result<()> {
    let sql = "UPDATE main.cloudsync_columns SET dropped = 1 WHERE table_id = ?1 AND number = ?2";
    Ok(db.prepare(sql)?.run(&[Value::Integer(table), Value::Integer(i64::from(number.0))])?)
}
