//! Following changes of the schema that were made by other means than ours.
//!
//! SQLite's schema version says that anything was changed. Then every synced table is looked at, and what happened is
//! read off the triggers, because SQLite puts the new names of columns and tables into them:
//!
//! | triggers | means |
//! | --- | --- |
//! | are those of the present columns | a column may have come; one with another name was renamed |
//! | watch a table of another name, and the old one is gone | the table was renamed |
//! | are older than one of the app with RAISE(IGNORE) | they may not have run: it is put behind them |
//! | are those of other columns | one was dropped, or renamed under `legacy_alter_table` |
//! | are gone | the table was dropped, and perhaps made again: `rebuilt` |
//!
//! What was renamed is offered to the others once more, under its new name and its old clocks: names are what travels.

use crate::capture::{self, Triggers};
use crate::catalog::{bump, schema_version};
use crate::changes::offer_again;
use crate::columns::{self, Numbers, number_columns};
use crate::definitions::SchemaTexts;
use crate::error::{Error, Result};
use crate::filter;
use crate::quarantine;
use crate::rebuilt;
use crate::replica::Replica;
use crate::storage::{self, quote_identifier};
use crate::table::Table;
use cloudsync_core::clock::{ColumnNumber, ColumnSet};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashMap;

impl Replica {
    /// True when the schema is as it was when it was followed last.
    pub(crate) fn has_followed(&self) -> Result<bool> {
        Ok(storage::get_i64(&self.db, "schema_version")? == Some(schema_version(&self.db)?))
    }

    /// Follows changes of the schema, with all that hangs on them: what waits for new names is tried. The caller holds the
    /// transaction.
    pub(crate) fn follow_in_transaction(&mut self) -> Result<()> {
        let has_followed = self.has_followed()?;
        let grown = self.follow_schema()?;
        self.names_came(grown)?;
        if has_followed { Ok(()) } else { quarantine::call(&self.db) }
    }

    /// Follows changes of the schema, and writes only if there are any. Gives true when there are names now that
    /// others may have sent changes of before.
    pub(crate) fn follow_schema(&mut self) -> Result<bool> {
        self.catalog.load(&self.db)?;
        if self.has_followed()? {
            return Ok(false);
        }
        let owners = take_table_names(&self.db)?;
        // A schema version that was rolled back comes again with other definitions.
        self.catalog.clear();
        self.catalog.load(&self.db)?;
        let mut grown = !owners.is_empty();
        for table in self.catalog.tables() {
            grown |= self.follow_table(&table, owners.get(&table.id).unwrap_or(&table.name))?;
        }
        bump(&self.db)?;
        storage::set(&self.db, "schema_version", Value::Integer(schema_version(&self.db)?))?;
        self.catalog.load(&self.db)?;
        Ok(grown)
    }

    fn follow_table(&mut self, table: &Table, owner: &str) -> Result<bool> {
        let db = self.db;
        let layout = self.catalog.layout(&db, table.layout)?;
        let layout = layout.ok_or_else(|| Error::corrupt("cloudsync_layouts"))?;
        let cells: Vec<_> = Table::cell_columns(&table.definition).collect();
        let noted = &cells[..layout.len().min(cells.len())];
        let filter = filter::follow_names(&db, table, owner, noted)?;
        let triggers = match table.enabled {
            true => capture::find_triggers(
                &db,
                table.algorithm,
                &table.definition,
                owner,
                table.layout,
                noted,
                filter.as_ref(),
            )?,
            false => Triggers::Strange,
        };
        let renamed = match triggers {
            Triggers::Lost => ColumnSet::new(),
            _ => take_column_names(&db, table, &layout, triggers == Triggers::Strange)?,
        };
        let numbered = number_columns(&db, table.id, table.layout, &table.definition)?;
        let present = numbered.layout.unwrap_or(table.layout);
        if table.enabled && (triggers != Triggers::Fit || numbered.layout.is_some() || owner != table.name) {
            capture::drop_triggers(&db, owner)?;
            capture::create_triggers(
                &db,
                table.algorithm,
                &table.definition,
                present,
                &cells,
                filter.as_ref(),
            )?;
        }
        if table.enabled {
            match triggers {
                Triggers::Fit => {}
                Triggers::Outdated | Triggers::Strange => rebuilt::note_vanished(&db, table, present)?,
                Triggers::Preceded => rebuilt::note_strangers(&db, table, present)?,
                Triggers::Lost => rebuilt::look_through(&db, table, &layout)?,
            }
        }
        filter::follow_fault(&db, table, filter.as_ref(), present)?;
        let sql = "UPDATE main.cloudsync_tables SET layout = ?2 WHERE id = ?1 AND layout <> ?2";
        db.prepare(sql)?.run(&[Value::Integer(table.id), Value::Integer(present)])?;
        if numbered.returned {
            // What others wrote before it was dropped comes only if it is asked for.
            storage::set(&db, "refetch", Value::Integer(1))?;
        }
        if owner != table.name {
            offer_again(&db, self.now_ms(), table.id, None)?;
        } else if !renamed.is_empty() {
            offer_again(&db, self.now_ms(), table.id, Some(&renamed))?;
        }
        Ok(numbered.grown || !renamed.is_empty())
    }
}

/// Registers tables under the names to which their triggers followed them. Gives the names under which the triggers
/// were made, by the tables' ids.
fn take_table_names(db: &Connection) -> Result<HashMap<i64, String>> {
    let created = SchemaTexts::of(db)?;
    let mut registered: Vec<(i64, String)> = Vec::new();
    // language=SQLite
    let sql = "SELECT id, name FROM main.cloudsync_tables WHERE id NOT IN (SELECT table_id FROM main.cloudsync_alters)";
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        registered.push((row.column_i64(0), row.column(1).as_str().unwrap_or_default().to_owned()));
        Ok(())
    })?;
    let mut owners = HashMap::new();
    for (id, name) in registered.iter().filter(|(_, name)| !created.has(name)) {
        let Some(now) = capture::watched_table(db, name)? else { continue };
        if registered.iter().any(|(_, other)| other.eq_ignore_ascii_case(&now)) {
            continue;
        }
        rename_table(db, *id, name, &now)?;
        owners.insert(*id, name.clone());
    }
    Ok(owners)
}

/// Registers a table under another name.
pub(crate) fn rename_table(db: &Connection, id: i64, from: &str, to: &str) -> Result<()> {
    let sql = "UPDATE main.cloudsync_tables SET name = ?2 WHERE id = ?1";
    db.prepare(sql)?.run(&[Value::Integer(id), Value::from(to)])?;
    quarantine::rename(db, from, to, &[])?;
    for journal in ["cloudsync_conflicts", "cloudsync_rejected"] {
        let sql = format!("UPDATE main.{journal} SET tbl = ?2 WHERE tbl = ?1 COLLATE NOCASE");
        db.prepare(&sql)?.run(&[Value::from(from), Value::from(to)])?;
    }
    Ok(())
}

/// Registers columns under the names that they have now. Gives their numbers.
fn take_column_names(
    db: &Connection,
    table: &Table,
    layout: &[ColumnNumber],
    in_doubt: bool,
) -> Result<ColumnSet> {
    let numbers = Numbers::read(db, table.id)?;
    let old: Vec<_> = layout.iter().map(|number| numbers.name(*number).unwrap_or_default()).collect();
    let new: Vec<_> = Table::cell_columns(&table.definition).map(|column| column.name()).collect();
    let mut renamed = Vec::new();
    let pair = |at: usize| (layout[at], old[at].to_owned(), new[at].to_owned());
    if !in_doubt {
        let places = 0..old.len().min(new.len());
        renamed.extend(places.filter(|at| !old[*at].eq_ignore_ascii_case(new[*at])).map(pair));
        return rename_columns(db, table.id, &table.name, &renamed);
    }
    for name in returned(&old, &new) {
        if let Some(number) = numbers.named(name) {
            columns::drop_column(db, table.id, number)?;
        }
    }
    for at in renamed_in_place(&old, &new) {
        // Only at the end of the table it could be another column: dropped there, and added.
        let is_last = old[at..].iter().zip(&new[at..]).all(|(old, new)| !old.eq_ignore_ascii_case(new));
        if !is_last || is_filled(db, table, new[at])? {
            renamed.push(pair(at));
        }
    }
    rename_columns(db, table.id, &table.name, &renamed)
}

/// Registers columns under other names: each with its number, its name before and the one now. Gives the numbers.
pub(crate) fn rename_columns(
    db: &Connection,
    table: i64,
    table_name: &str,
    renamed: &[(ColumnNumber, String, String)],
) -> Result<ColumnSet> {
    for (number, _, now) in renamed {
        columns::rename_column(db, table, *number, now)?;
    }
    let pairs: Vec<_> = renamed.iter().map(|(_, before, now)| (before.clone(), now.clone())).collect();
    if !pairs.is_empty() {
        quarantine::rename(db, table_name, table_name, &pairs)?;
    }
    Ok(renamed.iter().map(|(number, _, _)| *number).collect())
}

/// Places of the columns that have another name while all others kept theirs.
fn renamed_in_place(old: &[&str], new: &[&str]) -> Vec<usize> {
    let has = |names: &[&str], name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    let pairs = || old.iter().zip(new).enumerate();
    let differ = |old: &str, new: &str| !old.eq_ignore_ascii_case(new);
    let all =
        new.len() >= old.len() && pairs().all(|(_, (o, n))| !differ(o, n) || !has(new, o) && !has(old, n));
    if all { pairs().filter(|(_, (o, n))| differ(o, n)).map(|(at, _)| at).collect() } else { Vec::new() }
}

/// Names of columns that stand behind others that they stood before: they were dropped, and added again.
fn returned<'n>(old: &[&str], new: &[&'n str]) -> Vec<&'n str> {
    let mut last = 0;
    let mut returned = Vec::new();
    for name in new {
        let Some(at) = old.iter().position(|known| known.eq_ignore_ascii_case(name)) else { continue };
        if at < last {
            returned.push(*name);
        }
        last = last.max(at);
    }
    returned
}

/// True when a row has something else than the default in a column.
fn is_filled(db: &Connection, table: &Table, column: &str) -> Result<bool> {
    let schema = table.definition.columns.iter().find(|known| known.name() == column);
    let default = schema.and_then(|column| column.schema.default.as_deref()).unwrap_or("NULL");
    let (name, table) = (quote_identifier(column), table.quoted());
    let sql = format!("SELECT 1 FROM {table} WHERE {name} IS NOT ({default}) LIMIT 1");
    Ok(db.query_i64(&sql, &[])?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_changed_in_place_are_told_from_dropped_ones() {
        assert_eq!(renamed_in_place(&["a", "b", "c"], &["a", "x", "c"]), [1]);
        assert_eq!(renamed_in_place(&["a", "b", "c"], &["A", "b", "c", "d"]), [0; 0]);
        assert_eq!(renamed_in_place(&["a", "b", "c"], &["a", "c"]), [0; 0]);
        assert_eq!(renamed_in_place(&["a", "b", "c"], &["a", "c", "x"]), [0; 0]);
        assert_eq!(renamed_in_place(&["a", "b"], &["b", "a"]), [0; 0]);
    }

    #[test]
    fn columns_that_came_back_stand_behind() {
        assert_eq!(returned(&["a", "x", "b"], &["a", "b", "X"]), ["X"]);
        assert_eq!(returned(&["a", "x", "b"], &["a", "b", "y"]), [""; 0]);
    }
}
