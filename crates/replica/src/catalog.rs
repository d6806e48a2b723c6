//! The catalog: which tables sync, and how they are defined now.
//!
//! A change of the schema behind our back is found by SQLite's schema version. Then every synced table is looked at:
//! a column that was added gets a number and the triggers a new layout; lost triggers are made again and the table
//! is looked through for rows that came or went meanwhile.

use crate::capture::{self, Triggers};
use crate::error::{Error, Result};
use crate::storage;
use crate::table::{Cell, Column, Definition, Table, created_tables, define};
use cloudsync_core::bytes::{Reader, put_varint};
use cloudsync_core::clock::{COLUMNS_MAX, ColumnNumber, RowClock};
use cloudsync_protocol::schema::Schema;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// The synced tables that exist, loaded at one schema version.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    tables: HashMap<i64, Rc<Table>>,
    layouts: HashMap<i64, Rc<Vec<ColumnNumber>>>,
    /// `PRAGMA schema_version` and the catalog's own generation when `tables` was loaded.
    loaded_at: Option<(i64, i64)>,
}

impl Catalog {
    /// Loads the tables anew if anything was changed since, by whomever.
    pub(crate) fn load(&mut self, db: &Connection) -> Result<()> {
        let now = (schema_version(db)?, storage::get_i64(db, "catalog")?.unwrap_or(0));
        if self.loaded_at == Some(now) {
            return Ok(());
        }
        self.clear();
        let created = created_tables(db)?;
        for row in read_rows(db)? {
            // One that was made again without a key cannot sync, and must not hold up the others.
            let found = created.get(&row.name.to_ascii_lowercase());
            let definition = found.map(|(name, sql)| define(db, name, sql)).transpose()?;
            if let Some(definition) = definition.filter(|it| !Table::key_columns(it).is_empty()) {
                let table = build(db, row, definition)?;
                self.tables.insert(table.id, Rc::new(table));
            }
        }
        self.loaded_at = Some(now);
        Ok(())
    }

    /// Forgets everything, after a rollback.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Follows changes of the schema: numbers for added columns, triggers that were lost. Writes only if there are any.
    /// Gives true when columns were added.
    pub(crate) fn follow_schema(&mut self, db: &Connection) -> Result<bool> {
        self.load(db)?;
        if storage::get_i64(db, "schema_version")? == Some(schema_version(db)?) {
            return Ok(false);
        }
        // A schema version that was rolled back comes again with other definitions.
        self.clear();
        self.load(db)?;
        let mut grown = false;
        for table in self.tables.values() {
            grown |= follow_table(db, table)?;
        }
        bump(db)?;
        storage::set(db, "schema_version", Value::Integer(schema_version(db)?))?;
        self.load(db)?;
        Ok(grown)
    }

    /// The table with that id, if it exists.
    pub(crate) fn table(&self, id: i64) -> Option<Rc<Table>> {
        self.tables.get(&id).cloned()
    }

    /// The table of that name, if it exists and syncs.
    pub(crate) fn table_named(&self, name: &str) -> Option<Rc<Table>> {
        self.tables.values().find(|table| table.name.eq_ignore_ascii_case(name)).cloned()
    }

    /// All tables, in order of their ids.
    pub(crate) fn tables(&self) -> Vec<Rc<Table>> {
        let mut tables: Vec<_> = self.tables.values().cloned().collect();
        tables.sort_by_key(|table| table.id);
        tables
    }

    /// What the bits of a layout's masks mean.
    pub(crate) fn layout(&mut self, db: &Connection, id: i64) -> Result<Option<Rc<Vec<ColumnNumber>>>> {
        if let Some(columns) = self.layouts.get(&id) {
            return Ok(Some(Rc::clone(columns)));
        }
        let sql = "SELECT columns FROM main.cloudsync_layouts WHERE id = ?1";
        let Some(blob) = db.query_blob(sql, &[Value::Integer(id)])? else { return Ok(None) };
        let mut reader = Reader::new(&blob);
        let mut columns = Vec::new();
        while !reader.is_empty() {
            columns.push(ColumnNumber(reader.varint_max(COLUMNS_MAX, "column")? as u16));
        }
        let columns = Rc::new(columns);
        self.layouts.insert(id, Rc::clone(&columns));
        Ok(Some(columns))
    }

    /// The table that a layout belongs to.
    pub(crate) fn layout_table(&self, db: &Connection, id: i64) -> Result<Option<Rc<Table>>> {
        if let Some(table) = self.tables.values().find(|table| table.layout == id) {
            return Ok(Some(Rc::clone(table)));
        }
        let sql = "SELECT table_id FROM main.cloudsync_layouts WHERE id = ?1";
        Ok(db.query_i64(sql, &[Value::Integer(id)])?.and_then(|table| self.table(table)))
    }

    /// What the other side is told of all enabled tables.
    pub(crate) fn schema(&self) -> Schema {
        let mut tables: Vec<_> =
            self.tables.values().filter(|table| table.enabled).map(|table| table.schema()).collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Schema { tables }
    }
}

struct TableRow {
    id: i64,
    name: String,
    algorithm: String,
    enabled: bool,
    layout: i64,
}

fn read_rows(db: &Connection) -> Result<Vec<TableRow>> {
    let sql = "SELECT id, name, algorithm, enabled, layout FROM main.cloudsync_tables";
    let mut rows = Vec::new();
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        let text =
            |i| row.column(i).as_str().map(str::to_owned).ok_or_else(|| Error::corrupt("cloudsync_tables"));
        rows.push(TableRow {
            id: row.column_i64(0),
            name: text(1)?,
            algorithm: text(2)?,
            enabled: row.column_i64(3) != 0,
            layout: row.column_i64(4),
        });
        Ok(())
    })?;
    Ok(rows)
}

fn build(db: &Connection, row: TableRow, definition: Definition) -> Result<Table> {
    let numbers = read_numbers(db, row.id)?;
    let numbered = |column: &Column| {
        let number = numbers.iter().find(|(name, _)| name.eq_ignore_ascii_case(column.name()))?.1;
        Some(Cell { number, column: column.clone() })
    };
    // A column without a number was added behind our back; `follow_schema` gives it one.
    let cells: Vec<_> = Table::cell_columns(&definition).filter_map(numbered).collect();
    let key = Table::build_key(&definition, &cells)?;
    if key.is_empty() {
        return Err(Error::state(format!("table \"{}\" has lost its primary key", row.name)));
    }
    Ok(Table {
        id: row.id,
        name: definition.name.clone(),
        algorithm: row.algorithm,
        enabled: row.enabled,
        layout: row.layout,
        key,
        numbers: cells.iter().map(|cell| cell.number).collect(),
        cells,
        definition,
    })
}

fn read_numbers(db: &Connection, table: i64) -> Result<Vec<(String, ColumnNumber)>> {
    let sql = "SELECT name, number FROM main.cloudsync_columns WHERE table_id = ?1 ORDER BY number";
    let mut numbers = Vec::new();
    db.prepare(sql)?.for_each(&[Value::Integer(table)], |row| -> Result<()> {
        let number = u16::try_from(row.column_i64(1)).map_err(|_| Error::corrupt("cloudsync_columns"))?;
        let name = row.column(0).as_str().ok_or_else(|| Error::corrupt("cloudsync_columns"))?;
        numbers.push((name.to_owned(), ColumnNumber(number)));
        Ok(())
    })?;
    Ok(numbers)
}

/// Outcome of [`number_columns`].
pub(crate) struct Numbered {
    /// The layout made now, if the present one does not fit any more.
    pub(crate) layout: Option<i64>,
    /// True when a column got a number.
    pub(crate) grown: bool,
}

/// Gives numbers to columns that have none, and a layout if `present` is not that of the definition's columns.
pub(crate) fn number_columns(
    db: &Connection,
    table: i64,
    present: i64,
    definition: &Definition,
) -> Result<Numbered> {
    let mut numbers = read_numbers(db, table)?;
    let known = numbers.len();
    let mut bits = Vec::new();
    for column in Table::cell_columns(definition) {
        let found = numbers.iter().find(|(name, _)| name.eq_ignore_ascii_case(column.name()));
        let number = match found {
            Some((_, number)) => *number,
            None => add_number(db, table, numbers.len(), column)?,
        };
        if found.is_none() {
            numbers.push((column.name().to_owned(), number));
        }
        put_varint(&mut bits, u64::from(number.0));
    }
    let grown = numbers.len() > known;
    let sql = "SELECT columns FROM main.cloudsync_layouts WHERE id = ?1";
    if db.query_blob(sql, &[Value::Integer(present)])?.as_ref() == Some(&bits) {
        return Ok(Numbered { layout: None, grown });
    }
    let layout = storage::next_number(db, "layouts")?;
    let sql = "INSERT INTO main.cloudsync_layouts(id, table_id, columns) VALUES(?1, ?2, ?3)";
    db.prepare(sql)?.run(&[Value::Integer(layout), Value::Integer(table), Value::Blob(&bits)])?;
    Ok(Numbered { layout: Some(layout), grown })
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

fn follow_table(db: &Connection, table: &Table) -> Result<bool> {
    let numbered = number_columns(db, table.id, table.layout, &table.definition)?;
    let layout = numbered.layout.unwrap_or(table.layout);
    let triggers = if table.enabled { capture::find_triggers(db, table)? } else { Triggers::Fit };
    if table.enabled && (triggers != Triggers::Fit || numbered.layout.is_some()) {
        let columns: Vec<_> = Table::cell_columns(&table.definition).collect();
        capture::create_triggers(db, &table.definition, layout, &columns)?;
    }
    match triggers {
        Triggers::Fit => {}
        Triggers::Outdated => note_vanished(db, table, layout)?,
        Triggers::Lost => {
            capture::note_all(db, &table.definition, layout, "0", capture::NOTE_LOOK)?;
            forget_vanished(db, table)?;
        }
    }
    let sql = "UPDATE main.cloudsync_tables SET layout = ?2 WHERE id = ?1 AND layout <> ?2";
    db.prepare(sql)?.run(&[Value::Integer(table.id), Value::Integer(layout)])?;
    Ok(numbered.grown)
}

/// Forgets the rows that went while there were no triggers: the table may have been dropped and made again, which
/// must not delete its rows for everybody. They come again.
fn forget_vanished(db: &Connection, table: &Table) -> Result<()> {
    let (first, beyond) = crate::clocks::pk_range(table.id);
    let prefix = crate::clocks::pk(table.id, &[]).len();
    let mut exists =
        db.prepare(&format!("SELECT 1 FROM {} WHERE {}", table.quoted(), table.key_condition(1)))?;
    let mut select = db.prepare("SELECT pk, clock FROM main.cloudsync_clocks WHERE pk >= ?1 AND pk < ?2")?;
    select.bind(1, Value::Blob(&first))?;
    select.bind(2, Value::Blob(&beyond))?;
    let mut vanished = Vec::new();
    while select.step()? {
        let (Some(pk), Some(clock)) = (select.column(0).as_blob(), select.column(1).as_blob()) else {
            continue;
        };
        crate::clocks::bind_key(&mut exists, 1, &pk[prefix..])?;
        if RowClock::decode(clock)?.is_alive() && !exists.step()? {
            vanished.push(pk.to_vec());
        }
        exists.reset()?;
    }
    drop(select);
    if vanished.is_empty() {
        return Ok(());
    }
    let mut delete = db.prepare("DELETE FROM main.cloudsync_clocks WHERE pk = ?1")?;
    vanished.iter().try_for_each(|pk| delete.run(&[Value::Blob(pk)]))?;
    // A server has nobody to fetch them from: it asks its devices.
    let is_server = storage::is_set(db, crate::clocks::NEXT_ORDINAL)?;
    storage::set(db, if is_server { "lost_rows" } else { "refetch" }, Value::Integer(1))
}

/// Notes for a look every row that has a clock: some may have been thrown out by REPLACE, unseen.
fn note_vanished(db: &Connection, table: &Table, layout: i64) -> Result<()> {
    let pk = crate::clocks::pk_range(table.id);
    let sql = "SELECT pk FROM main.cloudsync_clocks WHERE pk >= ?1 AND pk < ?2";
    let mut statement = db.prepare(sql)?;
    statement.bind(1, Value::Blob(&pk.0))?;
    statement.bind(2, Value::Blob(&pk.1))?;
    let columns = capture::log_columns(&table.definition);
    let values: Vec<_> = (0..table.key.len()).map(|i| format!("?{}", i + 3)).collect();
    let prefix = crate::clocks::pk(table.id, &[]).len();
    let mut note = db.prepare(&format!(
        "INSERT INTO main.cloudsync_log(at, layout, what, {columns}) VALUES(0, ?1, ?2, {})",
        values.join(", ")
    ))?;
    while statement.step()? {
        let Some(pk) = statement.column(0).as_blob() else { continue };
        note.bind(1, Value::Integer(layout))?;
        note.bind(2, Value::Integer(capture::NOTE_LOOK))?;
        crate::clocks::bind_key(&mut note, 3, &pk[prefix..])?;
        note.step()?;
        note.reset()?;
    }
    Ok(())
}

/// Tells every other catalog of this file that the synced tables changed.
pub(crate) fn bump(db: &Connection) -> Result<()> {
    storage::next_number(db, "catalog")?;
    Ok(())
}

/// SQLite's own count of schema changes.
pub(crate) fn schema_version(db: &Connection) -> Result<i64> {
    Ok(db.query_i64("PRAGMA main.schema_version", &[])?.unwrap_or(0))
}
