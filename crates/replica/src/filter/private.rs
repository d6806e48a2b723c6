//! Private rows: those of filtered tables that were written here while they were outside, though others know them.
//!
//! `cloudsync_private` has their keys as the tree of clocks has them. A row without a living clock needs no mark: if it
//! exists, all of it is private.

use crate::capture;
use crate::clocks;
use crate::error::Result;
use crate::table::Table;
use crate::write::{Row, Writer};
use cloudsync_core::merge::Action;
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
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

/// What an apply does with private rows.
pub(crate) struct Privacy {
    db: Connection,
    marks: PrivateRows,
    /// Marked rows that were overwritten in part: the change may have brought the rest inside.
    overwritten: Vec<(Rc<Table>, Vec<u8>)>,
}

/// How a change is written over a private row.
pub(crate) struct Yielded {
    pub(crate) action: Action,
    /// The cells of the row as it is stored.
    pub(crate) cells: Vec<Owned>,
}

impl Privacy {
    /// That of an apply, opened once it is needed.
    pub(crate) fn of(place: &mut Option<Self>, db: Connection) -> Result<&mut Self> {
        Ok(match place {
            Some(privacy) => privacy,
            unset => unset.insert(Self { db, marks: PrivateRows::open(&db)?, overwritten: Vec::new() }),
        })
    }

    /// True for a row that was written here while it was outside, though others know it.
    pub(crate) fn is_marked(&mut self, pk: &[u8]) -> Result<bool> {
        self.marks.contains(pk)
    }

    /// Notes that a change was written over a private row.
    pub(crate) fn yielded(&mut self, row: &Row<'_>, pk: &[u8], action: &Action) -> Result<()> {
        if matches!(action, Action::Update(_)) {
            self.overwritten.push((Rc::clone(&row.target.table), row.packed.to_vec()));
        } else {
            self.marks.remove(pk)?;
        }
        Ok(())
    }

    /// Takes the mark from a row that was gone, and came again: nothing of it is private.
    pub(crate) fn forget(&mut self, pk: &[u8]) -> Result<()> {
        self.marks.remove(pk).map(drop)
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

/// How a change of a filtered table's row is written over a private one; `None` if it meets nothing private.
pub(crate) fn make_way(
    row: &Row<'_>,
    marked: bool,
    action: &Action,
    writer: &mut Writer,
) -> Result<Option<Yielded>> {
    let action = match action {
        Action::Keep | Action::NeedWhole | Action::RefuseJump => return Ok(None),
        // A row that nobody else knows may stand where the new one comes.
        Action::Insert => Action::Replace,
        _ if !marked => return Ok(None),
        action => action.clone(),
    };
    Ok(writer.cells(row)?.map(|cells| Yielded { action, cells }))
}
