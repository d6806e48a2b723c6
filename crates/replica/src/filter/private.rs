//! Private rows: those of filtered tables that were written here while they were outside, though others know them.
//!
//! `cloudsync_private` has their keys as the tree of clocks has them. A row without a living clock needs no mark: if it
//! exists, all of it is private.

use crate::capture;
use crate::clocks;
use crate::conflicts::{self, Kind, Loss};
use crate::error::Result;
use crate::replica::Replica;
use crate::table::Table;
use crate::value::from_sqlite;
use crate::write::{Row, row_sql};
use cloudsync_core::clock::Time;
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::Action;
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Savepoint, Statement, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// The marks of private rows, with statements prepared once.
pub(crate) struct PrivateRows {
    find: Statement,
    insert: Statement,
    delete: Statement,
}

impl PrivateRows {
    pub(crate) fn open(db: &Connection) -> Result<Self> {
        Ok(Self {
            find: db.prepare("SELECT 1 FROM main.cloudsync_private WHERE pk = ?1")?,
            insert: db.prepare("INSERT OR IGNORE INTO main.cloudsync_private(pk) VALUES(?1)")?,
            delete: db.prepare("DELETE FROM main.cloudsync_private WHERE pk = ?1")?,
        })
    }

    pub(crate) fn contains(&mut self, pk: &[u8]) -> Result<bool> {
        self.find.bind(1, Value::Blob(pk))?;
        let found = self.find.step()?;
        self.find.reset()?;
        Ok(found)
    }

    pub(crate) fn add(&mut self, pk: &[u8]) -> Result<()> {
        Ok(self.insert.run(&[Value::Blob(pk)])?)
    }

    /// Removes the mark of a row; true if it had one.
    pub(crate) fn remove(&mut self, pk: &[u8]) -> Result<bool> {
        self.delete.run(&[Value::Blob(pk)])?;
        Ok(self.delete.connection().changes() > 0)
    }
}

/// Marks a row of a filtered table that exists outside, and that others are to keep; false if it is none.
pub(crate) fn stays_private(db: &Connection, table: &Table, key: &[u8], pk: &[u8]) -> Result<bool> {
    let Some(filter) = &table.filter else { return Ok(false) };
    let (condition, inside) = (table.key_condition(1), filter.condition());
    let sql =
        format!("SELECT CASE WHEN {inside} THEN 0 ELSE 1 END FROM {} WHERE {condition}", table.quoted());
    let mut select = db.prepare(&sql)?;
    clocks::bind_key(&mut select, 1, key)?;
    let outside = select.step()? && select.column_i64(0) == 1;
    if outside {
        PrivateRows::open(db)?.add(pk)?;
    }
    Ok(outside)
}

/// Removes all marks of a table.
pub(crate) fn forget_private(db: &Connection, table: i64) -> Result<()> {
    let (first, beyond) = clocks::pk_range(table);
    let sql = "DELETE FROM main.cloudsync_private WHERE pk >= ?1 AND pk < ?2";
    Ok(db.prepare(sql)?.run(&[Value::Blob(&first), Value::Blob(&beyond)])?)
}

/// What an apply does with private rows: it journals what it overwrites of them.
pub(crate) struct Privacy {
    db: Connection,
    marks: PrivateRows,
    /// This site, under which lost values are journaled, and the time of the apply.
    site: SiteId,
    now_ms: u64,
    /// Reads the cells of a row, by table.
    stored: HashMap<i64, Statement>,
    /// Marked rows that were overwritten in part: the change may have brought the rest inside.
    overwritten: Vec<(Rc<Table>, Vec<u8>)>,
}

/// How a change is written over a private row; dropped, it takes back what was journaled.
pub(crate) struct Yielded {
    pub(crate) action: Action,
    savepoint: Savepoint,
}

impl Yielded {
    pub(crate) fn commit(self) -> Result<()> {
        Ok(self.savepoint.commit()?)
    }
}

impl Privacy {
    /// That of an apply, opened once it is needed.
    pub(crate) fn of<'p>(
        place: &'p mut Option<Self>,
        db: Connection,
        replica: &mut Replica,
    ) -> Result<&'p mut Self> {
        match place {
            Some(privacy) => Ok(privacy),
            unset => Ok(unset.insert(Self::open(db, replica.site_id()?, replica.server_now_ms()?)?)),
        }
    }

    fn open(db: Connection, site: SiteId, now_ms: u64) -> Result<Self> {
        Ok(Self {
            db,
            marks: PrivateRows::open(&db)?,
            site,
            now_ms,
            stored: HashMap::new(),
            overwritten: Vec::new(),
        })
    }

    /// True for a row that was written here while it was outside, though others know it.
    pub(crate) fn is_marked(&mut self, pk: &[u8]) -> Result<bool> {
        self.marks.contains(pk)
    }

    /// Makes way for a change of a filtered table's row; `None` if it meets nothing private.
    pub(crate) fn make_way(
        &mut self,
        row: &Row<'_>,
        pk: &[u8],
        marked: bool,
        action: &Action,
        winner: (Time, SiteId),
    ) -> Result<Option<Yielded>> {
        let action = match action {
            Action::Keep | Action::NeedWhole | Action::RefuseJump => return Ok(None),
            // A row that nobody else knows may stand where the new one comes.
            Action::Insert => Action::Replace,
            _ if !marked => return Ok(None),
            action => action.clone(),
        };
        let Some(cells) = self.stored(row)? else { return Ok(None) };
        let savepoint = self.db.savepoint("cloudsync_private")?;
        self.journal(row, &action, &cells, winner)?;
        if matches!(action, Action::Update(_)) {
            self.overwritten.push((Rc::clone(&row.target.table), row.packed.to_vec()));
        } else {
            self.marks.remove(pk)?;
        }
        Ok(Some(Yielded { action, savepoint }))
    }

    /// The cells of the row as it is stored, if it exists.
    fn stored(&mut self, row: &Row<'_>) -> Result<Option<Vec<Owned>>> {
        let table = &row.target.table;
        let select = match self.stored.entry(table.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.db.prepare(&row_sql(table))?),
        };
        clocks::bind_key(select, 1, row.packed)?;
        let exists = select.step()?;
        let cells = (0..table.cells.len()).map(|i| from_sqlite(select.column(i)).to_value());
        let cells = exists.then(|| cells.collect());
        select.reset()?;
        Ok(cells)
    }

    /// Keeps the values that the change takes away or replaces by others.
    fn journal(&self, row: &Row<'_>, action: &Action, cells: &[Owned], winner: (Time, SiteId)) -> Result<()> {
        let mut insert = self.db.prepare(conflicts::INSERT)?;
        let kind = if *action == Action::Delete { Kind::Deleted } else { Kind::Overwritten };
        let table = &row.target.table;
        for (cell, value) in table.cells.iter().zip(cells) {
            let stays = match action {
                Action::Update(columns) if !columns.contains(cell.number) => true,
                Action::Delete => false,
                _ => row.value(cell.number).is_some_and(|incoming| incoming.to_value() == *value),
            };
            if !stays {
                let column = Some((cell.column.name(), value.borrow()));
                let loser = (Time(self.now_ms), self.site);
                let loss = Loss { kind, column, loser, winner, now_ms: self.now_ms };
                loss.write(&mut insert, row)?;
            }
        }
        Ok(())
    }

    /// Has the next fold look at rows that were overwritten in part: what is private of those that came inside by it
    /// must be sent.
    pub(crate) fn finish(self) -> Result<()> {
        for (table, key) in &self.overwritten {
            let columns = capture::log_columns(&table.definition);
            let values: Vec<_> = (0..table.key.len()).map(|i| format!("?{}", i + 3)).collect();
            let sql = format!(
                "INSERT INTO main.cloudsync_log(at, layout, what, {columns}) VALUES(0, ?1, ?2, {})",
                values.join(", ")
            );
            let mut note = self.db.prepare(&sql)?;
            note.bind(1, Value::Integer(table.layout))?;
            note.bind(2, Value::Integer(capture::NOTE_LOOK))?;
            clocks::bind_key(&mut note, 3, key)?;
            note.step()?;
        }
        Ok(())
    }
}
