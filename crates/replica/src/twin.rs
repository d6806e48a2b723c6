//! Twins: rows as they would be, put into an empty table of the same definition in another schema.

use crate::buried::Buried;
use crate::clocks;
use crate::error::Result;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::to_sqlite;
use crate::write::{Refused, Row};
use cloudsync_core::clock::{ColumnNumber, ColumnSet};
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Puts rows into the twins of their tables, one at a time, with statements prepared once per shape.
pub(crate) struct Twins {
    db: Connection,
    schema: &'static str,
    clears: HashMap<i64, Statement>,
    /// By table, columns, and whether the others are taken from the table's row.
    puts: HashMap<(i64, ColumnSet, bool), Statement>,
}

impl Twins {
    pub(crate) fn new(db: Connection, schema: &'static str) -> Self {
        Self { db, schema, clears: HashMap::new(), puts: HashMap::new() }
    }

    /// Makes a twin empty.
    pub(crate) fn clear(&mut self, table: &Table) -> Result<(), Refused> {
        let clear = match self.clears.entry(table.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let sql = format!("DELETE FROM {}.{}", self.schema, quote_identifier(&table.name));
                place.insert(self.db.prepare(&sql)?)
            }
        };
        Ok(clear.run(&[])?)
    }

    /// Makes all twins empty that were used.
    pub(crate) fn clear_all(&mut self) -> Result<()> {
        self.clears.values_mut().try_for_each(|clear| Ok(clear.run(&[])?))
    }

    /// Puts in what came of a row; columns that did not come have their defaults.
    pub(crate) fn put(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        let columns = &row.target.numbers;
        row.load_to_be_judged(columns)?;
        self.put_values(row, columns, false, |column| row.value(column).map_or(Value::Null, to_sqlite))
    }

    /// Puts in the row as it is in the table, but for `columns`, which come in.
    pub(crate) fn put_changed(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<(), Refused> {
        row.load_to_be_judged(columns)?;
        self.put_values(row, columns, true, |column| row.value(column).map_or(Value::Null, to_sqlite))
    }

    /// Puts in what is kept of a dead row, but for `columns`, which come in.
    pub(crate) fn put_buried(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<(), Refused> {
        row.load_to_be_judged(columns)?;
        let table = &row.target.table;
        let kept = Buried::of(&self.db, table.algorithm)?;
        let mut values = kept
            .map(|mut kept| kept.read(&clocks::pk(table.id, row.packed)))
            .transpose()?
            .unwrap_or_default();
        values.retain(|column, _| table.numbers.contains(*column));
        values.extend(columns.iter().filter_map(|column| Some((column, row.value(column)?.to_value()))));
        let present: ColumnSet = values.keys().copied().collect();
        self.put_values(row, &present, false, |column| {
            values.get(&column).map_or(Value::Null, |value: &Owned| to_sqlite(value.borrow()))
        })
    }

    fn put_values<'v>(
        &mut self,
        row: &Row<'_>,
        columns: &ColumnSet,
        merged: bool,
        value: impl Fn(ColumnNumber) -> Value<'v>,
    ) -> Result<(), Refused> {
        let table = &row.target.table;
        self.clear(table)?;
        let put = match self.puts.entry((table.id, columns.clone(), merged)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                place.insert(self.db.prepare(&put_sql(self.schema, table, columns, merged))?)
            }
        };
        clocks::bind_key(put, 1, row.packed)?;
        for (i, column) in columns.iter().enumerate() {
            put.bind(table.key.len() + 1 + i, value(column))?;
        }
        let outcome = put.step();
        put.reset()?;
        outcome?;
        Ok(())
    }
}

/// Inserts into the twin: the key's parts are the first parameters, the columns the next ones. Constraints never resolve
/// a conflict themselves.
fn put_sql(schema: &str, table: &Table, columns: &ColumnSet, merged: bool) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let comes = |cell: usize| columns.contains(table.cells[cell].number);
    for (i, key) in table.key.iter().enumerate() {
        if key.cell.is_none_or(|cell| !merged && !comes(cell)) {
            names.push(quote_identifier(&key.name));
            values.push(format!("?{}", i + 1));
        }
    }
    for cell in &table.cells {
        let place = columns.iter().position(|column| column == cell.number);
        let name = quote_identifier(cell.column.name());
        match place {
            Some(place) => values.push(format!("?{}", table.key.len() + 1 + place)),
            None if merged => values.push(name.clone()),
            None => continue,
        }
        names.push(name);
    }
    // The last parameter may be unused when a key column travels as a cell; naming all keeps the numbers fixed.
    let twin = quote_identifier(&table.name);
    let (names, values) = (names.join(", "), values.join(", "));
    if merged {
        let (from, found) = (table.quoted(), table.key_condition(1));
        return format!(
            "INSERT OR ABORT INTO {schema}.{twin}({names}) SELECT {values} FROM {from} WHERE {found}"
        );
    }
    format!("INSERT OR ABORT INTO {schema}.{twin}({names}) VALUES({values})")
}
