//! The bracket around renames, drops and rebuilds of a synced table: `cloudsync_begin_alter` and
//! `cloudsync_commit_alter`.
//!
//! The beginning folds, remembers the table's definition and a hash of each value, and takes our triggers away, so that
//! nothing of ours stands in the way of any change. One trigger that does nothing stays: SQLite lets it follow the
//! table to another name, and it goes with a table that is dropped. All of that is stored, so the bracket may span
//! transactions, connections and crashes; while it is open nothing is sent or received.
//!
//! The end finds out which column became which (`pairing`), gives the columns their old numbers, and compares: rows
//! that came are inserted, those that went are deleted, values that changed are edits. What did not change stamps
//! nothing. What a new column was filled with counts as old as rows from before `init`: every device that is altered
//! fills it, and none of that may win over a real edit.

use crate::capture::{self, Noting};
use crate::catalog;
use crate::changes::offer_again;
use crate::clocks;
use crate::columns::{Numbers, number_columns};
use crate::definitions::read_definition;
use crate::error::{Error, Result};
use crate::filter::{self, RowFilter};
use crate::follow::{rename_columns, rename_table};
use crate::pairing::{self, Pair};
use crate::quarantine;
use crate::rebuilt;
use crate::replica::Replica;
use crate::snapshot::{self, Scan, Snapshot};
use crate::storage::{self, quote_identifier};
use crate::table::{Definition, Table};
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::ColumnSet;
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::schema::{Schema, TableSchema};
use cloudsync_sqlite_ffi::{Connection, Value};

/// Ids of the tables whose alteration is open.
pub(crate) fn open_alters(db: &Connection) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    db.prepare("SELECT table_id FROM main.cloudsync_alters")?.for_each(&[], |row| -> Result<()> {
        ids.push(row.column_i64(0));
        Ok(())
    })?;
    Ok(ids)
}

/// Forgets the open alteration of a table that is to sync no more.
pub(crate) fn forget(db: &Connection, table: i64) -> Result<()> {
    db.execute(&format!("DROP TRIGGER IF EXISTS main.{}", quote_identifier(&marker(table))))?;
    db.prepare("DELETE FROM main.cloudsync_alters WHERE table_id = ?1")?.run(&[Value::Integer(table)])?;
    snapshot::forget(db, table)
}

/// The trigger that follows a table while it is altered.
fn marker(table: i64) -> String {
    format!("cloudsync_altering_{table}")
}

/// An alteration that is open.
struct Alter {
    table: i64,
    /// The name under which the table syncs.
    name: String,
    layout: i64,
    algorithm: Algorithm,
    enabled: bool,
    before: TableSchema,
    /// The table that bears the marker; `None` when it was dropped.
    marked: Option<String>,
}

impl Replica {
    /// Opens the bracket for changes of a synced table that SQLite's ALTER TABLE ADD COLUMN does not do. Gives a warning
    /// if there is a reason for one.
    ///
    /// # Errors
    /// When the table does not sync, or its bracket is open already.
    pub fn begin_alter(&mut self, table: &str) -> Result<Option<String>> {
        self.require()?;
        self.transact(|replica| {
            replica.fold_in_transaction()?;
            let table = replica.synced_table(table)?;
            let (db, before) = (replica.db, table.schema());
            let columns: Vec<_> = before.columns.iter().map(|column| &column.name[..]).collect();
            if table.enabled {
                snapshot::take(&db, &table, &columns)?;
            }
            let mut definition = Vec::new();
            Schema { tables: vec![before.clone()] }.encode(&mut definition);
            // language=SQLite
            let sql = "INSERT INTO main.cloudsync_alters(table_id, begun_at, definition) VALUES(?1, ?2, ?3)";
            let now = Value::Integer(replica.now_ms() as i64);
            db.prepare(sql)?.run(&[Value::Integer(table.id), now, Value::Blob(&definition)])?;
            capture::drop_triggers(&db, &table.name)?;
            let (marker, quoted) = (quote_identifier(&marker(table.id)), quote_identifier(&table.name));
            db.execute(&format!(
                "CREATE TRIGGER main.{marker} AFTER INSERT ON {quoted} WHEN 0 BEGIN SELECT 1; END"
            ))?;
            replica.catalog_changed()?;
            cascade_warning(&db, &table.name)
        })
    }

    /// Closes the bracket: finds out what changed, and goes on syncing. `table` is the name before or after.
    ///
    /// # Errors
    /// When no bracket is open for the table, its key became another one, or it is in doubt which column became which;
    /// then nothing is changed.
    pub fn commit_alter(&mut self, table: &str) -> Result<()> {
        self.require()?;
        self.transact(|replica| {
            let alter = find(&replica.db, table)?;
            let definition = alter.present(&replica.db, table)?;
            replica.close(&alter, definition)?;
            replica.fold_in_transaction()?;
            Ok(())
        })?;
        self.apply_ready_pieces()
    }

    fn close(&mut self, alter: &Alter, definition: Definition) -> Result<()> {
        let db = self.db;
        let in_place = alter.marked.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&definition.name));
        let keyed = Table::without_cells(alter.table, definition.clone())?;
        let pairs = pairing::pair(&db, &keyed, &alter.before, in_place)?;
        let renamed = alter.take_names(&db, &definition, &pairs)?;
        let numbered = number_columns(&db, alter.table, alter.layout, &definition)?;
        let layout = numbered.layout.unwrap_or(alter.layout);
        let sql = "UPDATE main.cloudsync_tables SET layout = ?2 WHERE id = ?1";
        db.prepare(sql)?.run(&[Value::Integer(alter.table), Value::Integer(layout)])?;
        if alter.enabled {
            let cells: Vec<_> = Table::cell_columns(&definition).collect();
            let filter = RowFilter::stored(&db, alter.table, &definition)?;
            capture::create_triggers(&db, alter.algorithm, &definition, layout, &cells, filter.as_ref())?;
        }
        db.prepare("DELETE FROM main.cloudsync_alters WHERE table_id = ?1")?
            .run(&[Value::Integer(alter.table)])?;
        db.execute(&format!("DROP TRIGGER IF EXISTS main.{}", quote_identifier(&marker(alter.table))))?;
        self.catalog_changed()?;
        if let Some(table) = self.catalog.table(alter.table) {
            filter::follow_fault(&db, &table, table.filter.as_ref(), layout)?;
        }
        if alter.enabled {
            self.note_differences(alter, &pairs, in_place)?;
        }
        snapshot::forget(&db, alter.table)?;
        if numbered.returned {
            storage::set(&db, "refetch", Value::Integer(1))?;
        }
        let moved = !alter.name.eq_ignore_ascii_case(&definition.name);
        if moved {
            offer_again(&db, self.now_ms(), alter.table, None)?;
        } else if !renamed.is_empty() {
            offer_again(&db, self.now_ms(), alter.table, Some(&renamed))?;
        }
        // Nobody follows this change any more, and it may let in rows that wait.
        quarantine::call(&db)?;
        self.names_came(moved || numbered.grown || !renamed.is_empty())
    }

    /// Writes notes of what the table holds in place of what it held.
    fn note_differences(&mut self, alter: &Alter, pairs: &[Pair], in_place: bool) -> Result<()> {
        let (db, now) = (self.db, self.now_ms());
        let table = self.catalog.table(alter.table).ok_or_else(|| Error::corrupt("cloudsync_tables"))?;
        let layout: Vec<_> = table.cells.iter().map(|cell| cell.number).collect();
        let before: Vec<_> = table
            .cells
            .iter()
            .map(|cell| pairs.iter().find(|pair| pair.after == cell.column.name()).map(|pair| pair.before))
            .collect();
        let expressions: Vec<_> = table
            .cells
            .iter()
            .zip(&before)
            .map(|(cell, before)| match before {
                Some(_) => quote_identifier(cell.column.name()),
                None => cell.column.differs_from_default(),
            })
            .collect();
        let mut scan = Scan::open(&db, &table, &expressions)?;
        let mut snapshot = Snapshot::open(&db)?;
        let mut noting = Noting::open(&db, &table.definition, table.layout)?;
        let mut stayed = false;
        while let Some(pk) = scan.next(&table)? {
            let key = clocks::split_pk(&pk)?.1;
            let Some(hashes) = snapshot.read(&pk)? else {
                noting.write(now, Value::Integer(capture::NOTE_INSERT), key)?;
                continue;
            };
            stayed = true;
            let (mut changed, mut filled) = (ColumnSet::new(), ColumnSet::new());
            for (i, number) in layout.iter().enumerate() {
                match before[i] {
                    Some(before) if !hashes.holds(before, scan.value(i)) => changed.insert(*number),
                    None if scan.value(i) == cloudsync_core::value::ValueRef::Integer(1) => {
                        filled.insert(*number);
                    }
                    Some(_) | None => {}
                }
            }
            if table.filter.is_some() && !(filled.is_empty() && changed.is_empty()) {
                noting.write(now, Value::Integer(capture::NOTE_ALTERED), key)?;
            }
            for (at, columns) in [(0, &filled), (now, &changed)] {
                if !columns.is_empty() {
                    noting.write(at, capture::mask_of(&layout, columns).value(), key)?;
                }
            }
        }
        drop(scan);
        if !stayed && !in_place {
            // Made again without its rows: they come again, and are not deleted for everybody.
            return rebuilt::forget_vanished(&db, &table);
        }
        let mut exists = rebuilt::exists_statement(&db, &table)?;
        let mut keys = Snapshot::keys(&db, &table)?;
        while keys.step()? {
            let pk = keys.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_alter_rows"))?;
            if !rebuilt::is_there(&mut exists, pk)? {
                noting.write(now, Value::Integer(capture::NOTE_DELETE), clocks::split_pk(pk)?.1)?;
            }
        }
        Ok(())
    }

    /// Lets every connection know that the synced tables changed, by our own doing.
    fn catalog_changed(&mut self) -> Result<()> {
        catalog::bump(&self.db)?;
        storage::set(&self.db, "schema_version", Value::Integer(catalog::schema_version(&self.db)?))?;
        self.catalog.clear();
        self.catalog.load(&self.db)
    }
}

impl Alter {
    /// The table as it is defined now. `wanted` is the name that the caller gave.
    fn present(&self, db: &Connection, wanted: &str) -> Result<Definition> {
        let names = [Some(&self.name[..]), self.marked.as_deref(), Some(wanted)];
        for name in names.into_iter().flatten() {
            if let Some(definition) = read_definition(db, name)? {
                let sql = "SELECT 1 FROM main.cloudsync_tables WHERE name = ?1 COLLATE NOCASE AND id <> ?2";
                let other = [Value::from(&definition.name[..]), Value::Integer(self.table)];
                if db.query_i64(sql, &other)?.is_none() {
                    return Ok(definition);
                }
            }
        }
        Err(Error::usage(format!(
            "table \"{0}\" is gone: call cloudsync_commit_alter with its new name, or cloudsync_cleanup('{0}') if it shall sync no more",
            self.name
        )))
    }

    /// Registers table and columns under the names that they have now. Gives the numbers of renamed columns.
    fn take_names(&self, db: &Connection, definition: &Definition, pairs: &[Pair]) -> Result<ColumnSet> {
        if self.name != definition.name {
            rename_table(db, self.table, &self.name, &definition.name)?;
        }
        let numbers = Numbers::read(db, self.table)?;
        let mut renamed = Vec::new();
        for pair in pairs {
            let before = &self.before.columns[pair.before].name;
            if let Some(number) = numbers.named(before).filter(|_| !before.eq_ignore_ascii_case(&pair.after))
            {
                renamed.push((number, before.clone(), pair.after.clone()));
            }
        }
        rename_columns(db, self.table, &definition.name, &renamed)
    }
}

/// The open alteration of a table, by its name before or after.
fn find(db: &Connection, name: &str) -> Result<Alter> {
    // language=SQLite
    let sql = "SELECT t.id, t.name, t.layout, t.enabled, a.definition FROM main.cloudsync_alters AS a \
               JOIN main.cloudsync_tables AS t ON t.id = a.table_id";
    let mut alters = Vec::new();
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        let corrupt = || Error::corrupt("cloudsync_alters");
        let definition = row.column(4).as_blob().ok_or_else(corrupt)?;
        let before = Schema::decode(&mut Reader::new(definition))?.tables.pop().ok_or_else(corrupt)?;
        let algorithm = Algorithm::named(&before.algorithm).ok_or_else(corrupt)?;
        let marker = marker(row.column_i64(0));
        let sql = "SELECT tbl_name FROM main.sqlite_master WHERE type = 'trigger' AND name = ?1";
        alters.push(Alter {
            table: row.column_i64(0),
            name: row.column(1).as_str().ok_or_else(corrupt)?.to_owned(),
            layout: row.column_i64(2),
            enabled: row.column_i64(3) != 0,
            before,
            algorithm,
            marked: db.query_text(sql, &[Value::from(&marker[..])])?,
        });
        Ok(())
    })?;
    let named = |alter: &Alter| {
        let marked = alter.marked.as_deref().unwrap_or_default();
        alter.name.eq_ignore_ascii_case(name) || marked.eq_ignore_ascii_case(name)
    };
    if let Some(at) = alters.iter().position(named) {
        return Ok(alters.swap_remove(at));
    }
    // Rebuilt under another name, which nothing ties to the old one but that it is gone.
    let mut gone = Vec::new();
    for (at, alter) in alters.iter().enumerate() {
        if alter.marked.is_none() && read_definition(db, &alter.name)?.is_none() {
            gone.push(at);
        }
    }
    match gone[..] {
        [at] if read_definition(db, name)?.is_some() => Ok(alters.swap_remove(at)),
        _ => Err(Error::state(format!(
            "no alteration of table \"{name}\" is open: call cloudsync_begin_alter('{name}') first"
        ))),
    }
}

/// With foreign keys on, dropping a table deletes its rows first, and whatever hangs on them.
fn cascade_warning(db: &Connection, table: &str) -> Result<Option<String>> {
    if db.query_i64("PRAGMA foreign_keys", &[])? != Some(1) {
        return Ok(None);
    }
    // language=SQLite
    let sql = "SELECT m.name FROM main.sqlite_master AS m JOIN pragma_foreign_key_list(m.name, 'main') AS f \
               WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE LIMIT 1";
    Ok(db.query_text(sql, &[Value::from(table)])?.map(|child| {
        format!(
            "foreign_keys is ON: if \"{table}\" is dropped, SQLite deletes its rows first and does to those of \"{child}\" what the foreign key says, for everybody; to rebuild it, run PRAGMA foreign_keys = OFF before the transaction"
        )
    }))
}
