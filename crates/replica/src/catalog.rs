//! The catalog: which tables sync, and how they are defined now.
//!
//! It is loaded anew when SQLite's schema version says that anything was changed; `follow` does what such a change asks
//! for.

use crate::alter;
use crate::columns::Numbers;
use crate::definitions::SchemaTexts;
use crate::error::{Error, Result};
use crate::filter::RowFilter;
use crate::foreign_keys::Relations;
use crate::guard;
use crate::storage;
use crate::table::{Cell, Column, Definition, Table};
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{COLUMNS_MAX, ColumnNumber};
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::schema::Schema;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// The synced tables that exist, loaded at one schema version.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    tables: HashMap<i64, Rc<Table>>,
    layouts: HashMap<i64, Rc<Vec<ColumnNumber>>>,
    /// Names of the tables whose alteration is open: they are neither read nor written until it is committed.
    altering: Vec<String>,
    /// `PRAGMA schema_version` and the catalog's own generation when `tables` was loaded.
    loaded_at: Option<(i64, i64)>,
    /// Whether a trigger in the file watches a synced table, once that was asked.
    is_watched: Option<bool>,
}

impl Catalog {
    /// Loads the tables anew if anything was changed since, by whomever.
    pub(crate) fn load(&mut self, db: &Connection) -> Result<()> {
        let now = (schema_version(db)?, storage::get_i64(db, "catalog")?.unwrap_or(0));
        if self.loaded_at == Some(now) {
            return Ok(());
        }
        self.clear();
        let mut texts = SchemaTexts::of(db)?;
        let mut numbers = Numbers::read_all(db)?;
        let altering = alter::open_alters(db)?;
        for row in read_rows(db)? {
            if altering.contains(&row.id) {
                self.altering.push(row.name);
                continue;
            }
            // One that was made again with a key that cannot sync must not hold up the others.
            let definition = texts.definition(db, &row.name)?;
            let definition = definition.filter(|it| !Table::key_columns(it).is_empty());
            let numbers = numbers.remove(&row.id).unwrap_or_default();
            match definition.map(|definition| build(row, &numbers, definition)) {
                Some(Ok(table)) => {
                    self.tables.insert(table.id, Rc::new(table));
                }
                None | Some(Err(Error::Usage(_) | Error::Limit(_))) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        if schema_version(db)? == now.0 {
            texts.keep(db);
        }
        self.loaded_at = Some(now);
        Ok(())
    }

    /// At what schema version and generation the tables were loaded; `None` if they are not.
    pub(crate) const fn loaded_at(&self) -> Option<(i64, i64)> {
        self.loaded_at
    }

    /// True when a trigger in the file watches a synced table that must run when others change it. The catalog is loaded.
    pub(crate) fn is_watched(&mut self, db: &Connection) -> Result<bool> {
        if let Some(is_watched) = self.is_watched {
            return Ok(is_watched);
        }
        let is_watched = guard::has_triggers_in_file(db)?;
        self.is_watched = Some(is_watched);
        Ok(is_watched)
    }

    /// Forgets everything, after a rollback.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Refuses what would read or write a table whose alteration is open.
    pub(crate) fn require_settled(&self) -> Result<()> {
        match self.altering.first() {
            None => Ok(()),
            Some(name) => Err(Error::Altering(format!(
                "table \"{name}\" is being altered, and nothing is sent or received until that is done: call cloudsync_commit_alter('{name}')"
            ))),
        }
    }

    /// The names of the tables whose alteration is open.
    pub(crate) fn altering(&self) -> &[String] {
        &self.altering
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
    algorithm: Algorithm,
    enabled: bool,
    layout: i64,
    filter: Option<String>,
}

fn read_rows(db: &Connection) -> Result<Vec<TableRow>> {
    let sql = "SELECT id, name, algorithm, enabled, layout, filter FROM main.cloudsync_tables";
    let mut rows = Vec::new();
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        let text =
            |i| row.column(i).as_str().map(str::to_owned).ok_or_else(|| Error::corrupt("cloudsync_tables"));
        rows.push(TableRow {
            id: row.column_i64(0),
            name: text(1)?,
            algorithm: Algorithm::named(&text(2)?).ok_or_else(|| Error::corrupt("cloudsync_tables"))?,
            enabled: row.column_i64(3) != 0,
            layout: row.column_i64(4),
            filter: row.column(5).as_str().map(str::to_owned),
        });
        Ok(())
    })?;
    Ok(rows)
}

fn build(row: TableRow, numbers: &Numbers, definition: Rc<Definition>) -> Result<Table> {
    let numbered =
        |column: &Column| Some(Cell { number: numbers.named(column.name())?, column: column.clone() });
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
        relations: Relations::default(),
        filter: row.filter.map(|text| RowFilter::new(&definition, text)),
        definition,
    })
}

/// Tells every other catalog of this file that the synced tables changed.
pub(crate) fn bump(db: &Connection) -> Result<()> {
    storage::next_number(db, "catalog")?;
    Ok(())
}

/// Makes tables of ours. That is no change of the app's schema that must be followed.
pub(crate) fn create_own(db: &Connection, sql: &str) -> Result<()> {
    let followed = storage::get_i64(db, "schema_version")? == Some(schema_version(db)?);
    db.execute(sql)?;
    if followed { storage::set(db, "schema_version", Value::Integer(schema_version(db)?)) } else { Ok(()) }
}

/// SQLite's own count of schema changes.
pub(crate) fn schema_version(db: &Connection) -> Result<i64> {
    Ok(db.query_i64("PRAGMA main.schema_version", &[])?.unwrap_or(0))
}
