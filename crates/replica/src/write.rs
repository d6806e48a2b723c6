//! Writing the base rows of a table, for an apply.

mod bury;
mod large;

use self::large::Large;
use crate::apply::Target;
use crate::buried::{Buried, Values};
use crate::capture::MAY_DELETE;
use crate::clocks;
use crate::error::{Error, Result};
use crate::foreign_keys::{Reference, foreign_keys, orphan_query, references};
use crate::guard::{Guard, Verb};
use crate::storage::{self, quote_identifier};
use crate::table::Table;
use crate::value::{from_sqlite, to_sqlite};
use cloudsync_core::clock::{ColumnNumber, ColumnSet, RowClock};
use cloudsync_core::merge::{Action, Algorithm};
use cloudsync_core::value::{Value as Owned, ValueRef};
use cloudsync_protocol::payload::{Group, SetId};
use cloudsync_sqlite_ffi::{Connection, Statement, Value, bindings};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Why a row could not be written.
pub(crate) enum Refused {
    /// A constraint, in SQLite's words.
    Constraint(String),
    /// Only a part of the row came.
    Part,
    /// The file cannot be written, or the payload breaks the rules.
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<cloudsync_sqlite_ffi::Error> for Refused {
    fn from(error: cloudsync_sqlite_ffi::Error) -> Self {
        // A value beyond the length that this connection allows is no reason to stop the others.
        let is_of_row = error.is_constraint() || error.primary_code() == bindings::SQLITE_TOOBIG;
        if is_of_row { Self::Constraint(error.message) } else { Self::Error(error.into()) }
    }
}

impl Refused {
    /// Of a failed step that writes one row.
    fn of_row(error: cloudsync_sqlite_ffi::Error) -> Self {
        if error.is_of_values() { Self::Constraint(error.message) } else { Self::Error(error.into()) }
    }
}

/// One row of a payload on its way in.
pub(crate) struct Row<'p> {
    pub(crate) group: &'p Group<'p>,
    pub(crate) target: &'p Target,
    pub(crate) packed: &'p [u8],
    pub(crate) at: usize,
    /// What travels in pieces before it.
    large: Vec<Large>,
}

impl<'p> Row<'p> {
    pub(crate) fn new(
        db: Connection,
        group: &'p Group<'p>,
        target: &'p Target,
        packed: &'p [u8],
        at: usize,
    ) -> Self {
        Self { group, target, packed, at, large: Row::references(db, group, &target.columns, at) }
    }

    /// The value that comes for a column; NULL for a large one that is not whole in memory.
    pub(crate) fn value(&self, column: ColumnNumber) -> Option<ValueRef<'_>> {
        if let Some(large) = self.large(column) {
            return Some(large.loaded().unwrap_or(ValueRef::Null));
        }
        // Mostly the sender's columns are ours, in our order.
        let near = usize::from(column.0);
        let columns = &self.target.columns;
        let at = match columns.get(near) {
            Some(known) if *known == Some(column) => near,
            _ => columns.iter().position(|known| *known == Some(column))?,
        };
        Some(self.group.value(self.at, at))
    }
}

/// Writes base rows of one table, with statements prepared once per set of columns.
pub(crate) struct Writer {
    db: Connection,
    inserts: HashMap<ColumnSet, Statement>,
    updates: HashMap<ColumnSet, Statement>,
    delete: Statement,
    /// Rows that were taken out for a while, with their cells: see [`Writer::lift`].
    lifted: HashMap<Vec<u8>, Vec<Owned>>,
    /// Reads the cells of the row at hand, for ties.
    stored: Option<StoredRow>,
    /// Keeps the app's triggers from writing to synced tables, where there are any.
    guard: Option<Rc<Guard>>,
    /// Finds a parent that is missing, where the app enforces foreign keys.
    orphan: Option<Statement>,
    /// The columns that name parents, found when that is first asked.
    referring: Option<ColumnSet>,
    /// Our triggers let no row go.
    grows_only: bool,
    /// Where the values of dead rows are kept, in a table that keeps them.
    buried: Option<Buried>,
    /// What is kept of the row at hand, read for ties.
    at_hand: Option<Values>,
    /// The foreign keys that refer to the table, read when they are first needed.
    references: Option<Vec<Reference>>,
    /// The columns whose BLOBs can be written in parts, found when that is first asked.
    in_parts: Option<ColumnSet>,
    /// Sets that were found to be what their names say.
    verified: HashSet<SetId>,
}

impl Writer {
    pub(crate) fn new(
        db: Connection,
        table: &Table,
        parents: bool,
        guard: Option<&Rc<Guard>>,
    ) -> Result<Self> {
        let sql = format!("DELETE FROM {} WHERE {}", table.quoted(), table.key_condition(1));
        Ok(Self {
            db,
            inserts: HashMap::new(),
            updates: HashMap::new(),
            delete: db.prepare_persistent(&sql)?,
            lifted: HashMap::new(),
            stored: None,
            guard: guard.filter(|guard| guard.covers(table.id)).map(Rc::clone),
            orphan: if parents { orphan_query(&db, table)? } else { None },
            referring: None,
            grows_only: table.algorithm == Algorithm::Gos,
            buried: Buried::of(&db, table.algorithm)?,
            at_hand: None,
            references: None,
            in_parts: None,
            verified: HashSet::new(),
        })
    }

    /// Does what was decided; `clock` is what the row has then, `None` if that stays what it is.
    pub(crate) fn carry_out(
        &mut self,
        row: &Row<'_>,
        action: &Action,
        clock: Option<&RowClock>,
    ) -> Result<(), Refused> {
        match action {
            Action::Keep => Ok(()),
            Action::NeedWhole => Err(Refused::Part),
            Action::RefuseJump => {
                Err(Refused::Constraint("the row's causal length leaps beyond its bound".into()))
            }
            Action::Delete => self.delete(row),
            Action::Bury(columns) => self.bury(row, columns),
            Action::Revive(columns) => {
                let savepoint = self.db.savepoint("cloudsync_row")?;
                self.revive(row, columns, clock)?;
                Ok(savepoint.commit()?)
            }
            Action::Insert | Action::Update(_) if self.orphan.is_none() => self.write(row, action),
            Action::Insert | Action::Update(_) | Action::Replace => {
                let savepoint = self.db.savepoint("cloudsync_row")?;
                if *action == Action::Replace {
                    self.delete(row)?;
                    self.write(row, &Action::Insert)?;
                } else {
                    self.write(row, action)?;
                }
                self.check_parents(row)?;
                Ok(savepoint.commit()?)
            }
        }
    }

    fn write(&mut self, row: &Row<'_>, action: &Action) -> Result<(), Refused> {
        match action {
            Action::Update(columns) => {
                if let Some(cells) = self.lifted.get(row.packed).cloned() {
                    return self.put_back(row, columns, &cells);
                }
                if self.update(row, columns)? {
                    return Ok(());
                }
                // The clock says alive and the row is gone: it was removed while nobody tracked.
                if row.group.whole() { self.insert(row) } else { Err(Refused::Part) }
            }
            _ => self.insert(row),
        }
    }

    fn delete(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        self.remove(row.target.table.id, row.packed)
    }

    /// Deletes the row with that packed key, if there is one.
    pub(crate) fn remove(&mut self, table: i64, packed: &[u8]) -> Result<(), Refused> {
        if !self.grows_only {
            return self.remove_any(table, packed);
        }
        storage::set(&self.db, MAY_DELETE, Value::Integer(1))?;
        let outcome = self.remove_any(table, packed);
        storage::unset(&self.db, MAY_DELETE)?;
        outcome
    }

    fn remove_any(&mut self, table: i64, packed: &[u8]) -> Result<(), Refused> {
        clocks::bind_key(&mut self.delete, 1, packed)?;
        if let Some(guard) = &self.guard {
            guard.announce(table, Verb::Delete, packed);
        }
        let outcome = self.delete.step();
        self.delete.reset()?;
        outcome.map_err(Refused::of_row)?;
        if self.settle() && self.db.changes() == 0 { Err(ignored()) } else { Ok(()) }
    }

    /// Ends what was announced; true when it is known that the statement found its row.
    fn settle(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.settle())
    }

    fn insert(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        let columns = &row.target.numbers;
        self.load(row, columns, true)?;
        if !self.inserts.contains_key(columns) {
            let sql = insert_sql(&row.target.table, columns);
            self.inserts.insert(columns.clone(), self.db.prepare_persistent(&sql)?);
        }
        let Some(insert) = self.inserts.get_mut(columns) else { return Ok(()) };
        bind_row(insert, row, columns)?;
        announce(self.guard.as_ref(), row, Verb::Insert);
        let outcome = insert.step();
        insert.reset()?;
        self.settle();
        match outcome {
            Ok(_) if self.db.changes() == 0 => Err(ignored()),
            Ok(_) => self.fill(row, columns),
            Err(error) if is_key_taken(&error) => {
                // The row exists without a clock: it was written while nobody tracked.
                self.update(row, columns)?;
                Ok(())
            }
            // SQLite may name another index in which the row is in its own way.
            Err(error)
                if error.code == bindings::SQLITE_CONSTRAINT_UNIQUE
                    && !columns.is_empty()
                    && self.update(row, columns)? =>
            {
                Ok(())
            }
            Err(error) => Err(Refused::of_row(error)),
        }
    }

    /// Takes a row out, so that another one can have its UNIQUE values; its next update puts it back. The caller holds
    /// a savepoint, and undoes all if one does not come back.
    pub(crate) fn lift(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        let mut select = self.db.prepare(&row_sql(&row.target.table))?;
        clocks::bind_key(&mut select, 1, row.packed)?;
        if !select.step()? {
            return Ok(());
        }
        let cells =
            (0..row.target.table.cells.len()).map(|i| from_sqlite(select.column(i)).to_value()).collect();
        drop(select);
        cloudsync_core::reached!("write: a row makes room for others");
        self.lifted.insert(row.packed.to_vec(), cells);
        self.delete(row)
    }

    /// Forgets what was lifted; it is back, or undone.
    pub(crate) fn forget_lifted(&mut self) {
        self.lifted.clear();
    }

    fn put_back(&mut self, row: &Row<'_>, columns: &ColumnSet, cells: &[Owned]) -> Result<(), Refused> {
        self.load(row, columns, false)?;
        let table = &row.target.table;
        let mut insert = self.db.prepare(&insert_sql(table, &table.numbers))?;
        clocks::bind_key(&mut insert, 1, row.packed)?;
        for (i, column) in table.numbers.iter().enumerate() {
            let old = table
                .cells
                .iter()
                .zip(cells)
                .find(|(cell, _)| cell.number == column)
                .map(|(_, old)| old.borrow());
            let new = if columns.contains(column) { row.value(column) } else { None };
            insert.bind(table.key.len() + 1 + i, new.or(old).map_or(Value::Null, to_sqlite))?;
        }
        announce(self.guard.as_ref(), row, Verb::Insert);
        let outcome = insert.step();
        self.settle();
        outcome.map_err(Refused::of_row)?;
        if self.db.changes() == 0 { Err(ignored()) } else { Ok(()) }
    }

    /// False when there is no such row.
    fn update(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<bool, Refused> {
        if columns.is_empty() {
            return Ok(true);
        }
        self.load(row, columns, true)?;
        if !self.updates.contains_key(columns) {
            let sql = update_sql(&row.target.table, columns);
            self.updates.insert(columns.clone(), self.db.prepare_persistent(&sql)?);
        }
        let Some(update) = self.updates.get_mut(columns) else { return Ok(true) };
        bind_row(update, row, columns)?;
        announce(self.guard.as_ref(), row, Verb::Update);
        let outcome = update.step();
        update.reset()?;
        let found = self.settle();
        outcome.map_err(Refused::of_row)?;
        let changed = self.db.changes() > 0;
        if found && !changed {
            return Err(ignored());
        }
        if changed {
            self.fill(row, columns)?;
        }
        Ok(changed)
    }

    fn check_parents(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        match self.missing_parent(row.packed)? {
            None => Ok(()),
            Some(reason) => Err(Refused::Constraint(reason)),
        }
    }

    /// Why the row with that packed key is an orphan; `None` if it is not.
    pub(crate) fn missing_parent(&mut self, packed: &[u8]) -> Result<Option<String>> {
        let Some(orphan) = &mut self.orphan else { return Ok(None) };
        clocks::bind_key(orphan, 1, packed)?;
        let missing = orphan.step()?.then(|| orphan.column(0).as_str().unwrap_or_default().to_owned());
        orphan.reset()?;
        Ok(missing
            .map(|parent| format!("FOREIGN KEY constraint failed: the parent in \"{parent}\" is missing")))
    }

    /// Inserts a row whose parent may yet come; true while it is missing.
    pub(crate) fn insert_orphan(&mut self, row: &Row<'_>) -> Result<bool, Refused> {
        self.write(row, &Action::Insert)?;
        Ok(self.missing_parent(row.packed)?.is_some())
    }

    /// True when this gives a row that exists other parents, or makes another row of it, where parents are looked up.
    pub(crate) fn gives_parents(&mut self, table: &Table, action: &Action) -> Result<bool> {
        let columns = match action {
            _ if self.orphan.is_none() => return Ok(false),
            Action::Replace | Action::Revive(_) => return Ok(true),
            Action::Update(columns) => columns,
            _ => return Ok(false),
        };
        let referring = match self.referring.take() {
            Some(known) => known,
            None => {
                let mut referring = ColumnSet::new();
                for key in foreign_keys(&self.db, &table.name)? {
                    let cells = key.columns().filter_map(|name| table.cell_named(name));
                    cells.for_each(|cell| referring.insert(cell.number));
                }
                referring
            }
        };
        let gives =
            table.cells.iter().any(|cell| referring.contains(cell.number) && columns.contains(cell.number));
        self.referring = Some(referring);
        Ok(gives)
    }

    /// The foreign keys that refer to the table.
    pub(crate) fn references(&mut self, table: &Table) -> Result<&mut [Reference]> {
        let references = match self.references.take() {
            Some(known) => known,
            None => references(&self.db, table)?,
        };
        Ok(self.references.insert(references))
    }

    /// How the incoming value of a cell compares with the stored one, for clocks that are equal. The row is read at the
    /// first question; [`Writer::end_ties`] must follow the last one.
    pub(crate) fn compare(&mut self, row: &Row<'_>, column: ColumnNumber) -> Result<Ordering> {
        let (Some(incoming), Some(place)) = (row.value(column), row.target.table.cell_place(column)) else {
            return Ok(Ordering::Equal);
        };
        if !row.large.is_empty() {
            return self.compare_in_parts(row, column);
        }
        let stored = self.stored_row(&row.target.table)?;
        let exists = match stored.read {
            Some(exists) => exists,
            None => {
                clocks::bind_key(&mut stored.select, 1, row.packed)?;
                *stored.read.insert(stored.select.step()?)
            }
        };
        if exists {
            return Ok(incoming.tie_order(&from_sqlite(stored.select.column(place))));
        }
        // Without a row there is nothing to compare with, unless its values are kept: it was removed while nobody
        // tracked.
        self.compare_with_buried(row, column, incoming)
    }

    /// True if there is such a row, also while it is lifted.
    pub(crate) fn has(&mut self, row: &Row<'_>) -> Result<bool> {
        if self.lifted.contains_key(row.packed) {
            return Ok(true);
        }
        let stored = self.stored_row(&row.target.table)?;
        clocks::bind_key(&mut stored.select, 1, row.packed)?;
        let found = stored.select.step()?;
        stored.select.reset()?;
        Ok(found)
    }

    fn stored_row(&mut self, table: &Table) -> Result<&mut StoredRow> {
        Ok(match &mut self.stored {
            Some(stored) => stored,
            unset => {
                unset.insert(StoredRow { select: self.db.prepare_persistent(&row_sql(table))?, read: None })
            }
        })
    }

    /// The cells of a row as they are stored, in the table's order; `None` if there is no such row.
    pub(crate) fn cells(&mut self, row: &Row<'_>) -> Result<Option<Vec<Owned>>> {
        if let Some(lifted) = self.lifted.get(row.packed) {
            return Ok(Some(lifted.clone()));
        }
        let stored = self.stored_row(&row.target.table)?;
        clocks::bind_key(&mut stored.select, 1, row.packed)?;
        let found = stored.select.step()?;
        let count = row.target.table.cells.len();
        let cells =
            found.then(|| (0..count).map(|i| from_sqlite(stored.select.column(i)).to_value()).collect());
        stored.select.reset()?;
        Ok(cells)
    }

    /// Forgets the row that was read for ties.
    pub(crate) fn end_ties(&mut self) -> Result<()> {
        if let Some(stored) = &mut self.stored
            && stored.read.take().is_some()
        {
            stored.select.reset()?;
        }
        self.at_hand = None;
        Ok(())
    }
}

/// A statement that reads all cells of a row, and whether it stands on one.
struct StoredRow {
    select: Statement,
    read: Option<bool>,
}

/// Key parts first, then the cells; a key column that travels as a cell takes the cell's value.
fn bind_row(statement: &mut Statement, row: &Row<'_>, columns: &ColumnSet) -> Result<(), Refused> {
    clocks::bind_key(statement, 1, row.packed)?;
    let first = row.target.table.key.len() + 1;
    for (i, column) in columns.iter().enumerate() {
        large::bind(statement, first + i, row, column)?;
    }
    Ok(())
}

fn insert_sql(table: &Table, columns: &ColumnSet) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let literal = |cell: Option<usize>| cell.is_some_and(|cell| columns.contains(table.cells[cell].number));
    for (i, key) in table.key.iter().enumerate().filter(|(_, key)| !literal(key.cell)) {
        names.push(quote_identifier(&key.name));
        values.push(format!("?{}", i + 1));
    }
    for (i, cell) in columns.iter().filter_map(|number| table.cell(number)).enumerate() {
        names.push(quote_identifier(cell.column.name()));
        values.push(format!("?{}", table.key.len() + 1 + i));
    }
    // The last parameter may be unused when a key column travels as a cell; naming all keeps the numbers fixed.
    format!(
        "INSERT{} INTO {}({}) VALUES({})",
        or_abort(table),
        table.quoted(),
        names.join(", "),
        values.join(", ")
    )
}

fn update_sql(table: &Table, columns: &ColumnSet) -> String {
    let cells = columns.iter().filter_map(|number| table.cell(number)).enumerate();
    let sets: Vec<_> = cells
        .map(|(i, cell)| format!("{} = ?{}", quote_identifier(cell.column.name()), table.key.len() + 1 + i))
        .collect();
    format!(
        "UPDATE{} {} SET {} WHERE {}",
        or_abort(table),
        table.quoted(),
        sets.join(", "),
        table.key_condition(1)
    )
}

/// Gives the cells of a row, in the table's order.
pub(crate) fn row_sql(table: &Table) -> String {
    let mut names: Vec<_> = table.cells.iter().map(|cell| quote_identifier(cell.column.name())).collect();
    names.push("1".to_owned());
    format!("SELECT {} FROM {} WHERE {}", names.join(", "), table.quoted(), table.key_condition(1))
}

/// Tells the guard of the app's triggers that the next statement is ours.
fn announce(guard: Option<&Rc<Guard>>, row: &Row<'_>, verb: Verb) {
    if let Some(guard) = guard {
        guard.announce(row.target.table.id, verb, row.packed);
    }
}

fn ignored() -> Refused {
    Refused::Constraint("a trigger ignored the row".to_owned())
}

/// A constraint that resolves its conflicts itself would throw out or drop rows behind the clocks' back. Elsewhere the
/// words are left out: they would also reach into the app's triggers and overrule an OR REPLACE there.
fn or_abort(table: &Table) -> &'static str {
    if table.definition.resolves_conflicts { " OR ABORT" } else { "" }
}

fn is_key_taken(error: &cloudsync_sqlite_ffi::Error) -> bool {
    matches!(error.code, bindings::SQLITE_CONSTRAINT_PRIMARYKEY | bindings::SQLITE_CONSTRAINT_ROWID)
}
