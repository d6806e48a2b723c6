//! Row filters: of a filtered table only the rows for which an expression is true sync from here.
//!
//! A row is *inside* when the expression is true for it; NULL counts as false. The fold compares where a row stood
//! before the noted writes with where it stands now: one that came in is sent whole, one that went out is deleted for
//! the others, and stays here. What is written to rows outside is local. If such a row has a living clock, because
//! others know it, it is marked as *private* (`private`): a change that comes in and overwrites it is journaled, and
//! should the row come inside by a change of the filter, it is sent whole.
//!
//! Setting a filter removes nothing from anybody and keeps all clocks: rows that are outside by it become local, rows
//! that come inside by it are sent whole. Those that are private are noted at time 0, as at `init`, so that every real edit
//! of others wins; the others keep their stamps.
//!
//! What comes in is applied whatever the filter.

mod expression;
mod private;
mod triggers;

pub(crate) use private::{
    OwedRows, Privacy, PrivateRows, Yielded, forget_marks, has_owed, is_outside, make_way, owe, stays_private,
};
pub(crate) use triggers::filtered_triggers;

use crate::capture;
use crate::catalog;
use crate::clocks::ClockStore;
use crate::error::{Error, Result};
use crate::rebuilt;
use crate::replica::Replica;
use crate::storage;
use crate::table::{Column, Definition, Table};
use crate::upload::send_everything_again;
use cloudsync_core::clock::ColumnSet;
use cloudsync_core::merge::Algorithm;
use cloudsync_sqlite_ffi::{Connection, Value};

/// The filter of a table.
#[derive(Debug, Clone)]
pub(crate) struct RowFilter {
    expression: String,
    /// Why it cannot be evaluated, since the table was changed; then no row is inside.
    pub(crate) fault: Option<String>,
}

impl RowFilter {
    /// The stored filter of a table as it is defined now.
    pub(crate) fn new(definition: &Definition, expression: String) -> Self {
        let names = definition.columns.iter().map(|column| column.name());
        let fault = expression::check(&expression, &names.collect::<Vec<_>>()).err();
        Self { expression, fault }
    }

    fn unchecked(expression: &str) -> Self {
        Self { expression: expression.to_owned(), fault: None }
    }

    /// The filter that is stored for a table, as that is defined now.
    pub(crate) fn stored(db: &Connection, table: i64, definition: &Definition) -> Result<Option<Self>> {
        let sql = "SELECT filter FROM main.cloudsync_tables WHERE id = ?1";
        let text = db.query_text(sql, &[Value::Integer(table)])?;
        Ok(text.map(|text| Self::new(definition, text)))
    }

    /// The expression as it was set.
    pub(crate) fn text(&self) -> &str {
        &self.expression
    }

    /// The condition that is true for a row inside; its column names stand for those of the only table in FROM.
    pub(crate) fn condition(&self) -> String {
        if self.fault.is_some() { "0".to_owned() } else { format!("({})", self.expression) }
    }

    /// Asks SQLite whether it can evaluate the expression.
    fn prepare(&self, db: &Connection, table: &str) -> Result<()> {
        let fault = match &self.fault {
            Some(fault) => fault.clone(),
            None => {
                let table = storage::quote_identifier(table);
                match db.prepare(&format!("SELECT 1 FROM main.{table} WHERE {}", self.condition())) {
                    Ok(_) => return Ok(()),
                    Err(error) => error.message,
                }
            }
        };
        Err(Error::usage(format!("the filter of table \"{table}\" is refused: {fault}")))
    }
}

impl Table {
    /// ` AND` and the condition that a row is inside; nothing for tables without a filter.
    pub(crate) fn and_inside(&self) -> String {
        self.filter.as_ref().map_or_else(String::new, |filter| format!(" AND {}", filter.condition()))
    }

    /// True when its rows cannot be told apart, so that nothing of it may be sent.
    pub(crate) fn is_withheld(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.fault.is_some())
    }
}

impl Replica {
    /// Lets only those rows of a table sync from here for which `expression` is true. For all connections; it stays on
    /// this device.
    ///
    /// # Errors
    /// When the table does not sync, or not by the algorithm cls, or the expression is not one of this table's columns, literals, operators and
    /// simple built-in functions.
    pub fn set_filter(&mut self, table: &str, expression: &str) -> Result<()> {
        self.require()?;
        self.transact(|replica| replica.change_filter(table, Some(expression)))
    }

    /// Lets all rows of a table sync again.
    ///
    /// # Errors
    /// When the table does not sync.
    pub fn clear_filter(&mut self, table: &str) -> Result<()> {
        self.require()?;
        self.transact(|replica| replica.change_filter(table, None))
    }

    fn change_filter(&mut self, table: &str, expression: Option<&str>) -> Result<()> {
        // What was written so far is judged by the filter under which it was written.
        self.fold_in_transaction()?;
        let table = self.synced_table(table)?;
        if expression.is_some() && table.algorithm != Algorithm::Cls {
            // A row that leaves the filter goes through a deletion which keeps nothing and comes back by no edit.
            return Err(Error::usage(format!(
                "table \"{}\" merges by the algorithm {}, and only tables of the algorithm cls can have a filter: call cloudsync_cleanup('{0}') and cloudsync_init('{0}') to change it",
                table.name, table.algorithm
            )));
        }
        let wanted = expression.map(|text| RowFilter::new(&table.definition, text.trim().to_owned()));
        if let Some(filter) = &wanted {
            filter.prepare(&self.db, &table.name)?;
        }
        if table.filter.as_ref().map(RowFilter::text) == wanted.as_ref().map(RowFilter::text) {
            return Ok(());
        }
        storage::create(&self.db)?;
        // All rows are inside of a filter that is always true; after the fold none is private any more.
        let all = RowFilter::unchecked("1");
        let filter = wanted.as_ref().unwrap_or(&all);
        self.store_filter(&table, Some(filter))?;
        note_entering(&self.db, &table, filter)?;
        if table.is_withheld() {
            release(&self.db, &table)?;
        }
        if wanted.is_none() {
            self.fold_in_transaction()?;
            fetch_deleted(&self.db, &table)?;
            forget_marks(&self.db, table.id)?;
            self.store_filter(&table, None)?;
        }
        if table.enabled {
            let cells: Vec<_> = table.cells.iter().map(|cell| &cell.column).collect();
            let db = &self.db;
            capture::create_triggers(
                db,
                table.algorithm,
                &table.definition,
                table.layout,
                &cells,
                wanted.as_ref(),
            )?;
        }
        storage::set(&self.db, "schema_version", Value::Integer(catalog::schema_version(&self.db)?))?;
        self.catalog.load(&self.db)
    }

    fn store_filter(&mut self, table: &Table, filter: Option<&RowFilter>) -> Result<()> {
        store(&self.db, table.id, filter)?;
        catalog::bump(&self.db)
    }
}

/// Others may have the rows that were deleted here while they were outside: they come again. Their lives are kept, or a
/// new row of that key would lose; without cells in the clock whatever comes is later.
fn fetch_deleted(db: &Connection, table: &Table) -> Result<()> {
    let mut clocks = ClockStore::open(db)?;
    for (pk, mut clock) in rebuilt::vanished(db, table)? {
        clock.columns = ColumnSet::new();
        clock.exceptions.clear();
        clocks.write(&pk, &clock, false)?;
        storage::set(db, "refetch", Value::Integer(1))?;
    }
    clocks.finish(db)
}

/// Follows the names of columns: SQLite itself puts new ones into the expression, as the triggers have it. Gives the
/// filter for the table as it is defined now.
pub(crate) fn follow_names(
    db: &Connection,
    table: &Table,
    owner: &str,
    cells: &[&Column],
) -> Result<Option<RowFilter>> {
    let Some(filter) = &table.filter else { return Ok(None) };
    let followed = match triggers::stored_expression(db, &table.definition, owner, table.layout, cells)? {
        Some(text) if text != filter.text() => RowFilter::new(&table.definition, text),
        _ => return Ok(Some(filter.clone())),
    };
    store(db, table.id, Some(&followed))?;
    Ok(Some(followed))
}

/// Remembers that nothing of a table is sent, because its filter cannot be evaluated, until it can be again.
pub(crate) fn follow_fault(
    db: &Connection,
    table: &Table,
    filter: Option<&RowFilter>,
    layout: i64,
) -> Result<()> {
    let Some(filter) = filter else { return Ok(()) };
    if filter.fault.is_some() {
        return storage::set(db, &withheld(table), Value::Integer(1));
    }
    if !storage::is_set(db, &withheld(table))? {
        return Ok(());
    }
    release(db, table)?;
    let rows = format!(" WHERE {}", filter.condition());
    capture::note_all(db, &table.definition, layout, "0", capture::NOTE_ENTER, &rows)
}

fn store(db: &Connection, table: i64, filter: Option<&RowFilter>) -> Result<()> {
    let sql = "UPDATE main.cloudsync_tables SET filter = ?2 WHERE id = ?1";
    let text = filter.map_or(Value::Null, |filter| Value::from(filter.text()));
    Ok(db.prepare(sql)?.run(&[Value::Integer(table), text])?)
}

/// What changed while a table was withheld counts as sent, and was not.
fn release(db: &Connection, table: &Table) -> Result<()> {
    storage::unset(db, &withheld(table))?;
    send_everything_again(db)
}

/// Begins the names of the settings that say that nothing of a table was sent; the id follows.
pub(crate) const WITHHELD: &str = "withheld:";

fn withheld(table: &Table) -> String {
    format!("{WITHHELD}{}", table.id)
}

/// Notes the rows that a change of the filter brings inside. They are sent whole, since nobody knows whether they were
/// before; the fold looks which of them need a new stamp for that.
fn note_entering(db: &Connection, table: &Table, wanted: &RowFilter) -> Result<()> {
    let Some(before) = &table.filter else { return Ok(()) };
    let rows =
        format!(" WHERE CASE WHEN {} THEN 0 ELSE 1 END AND {}", before.condition(), wanted.condition());
    capture::note_all(db, &table.definition, table.layout, "0", capture::NOTE_ENTER, &rows)
}
