//! Private rows: those of filtered tables that were written here while they were outside, though others know them.
//!
//! `cloudsync_private` has their keys as the tree of clocks has them. A row without a living clock needs no mark: if it
//! exists, all of it is private.
//!
//! `cloudsync_owed` has the rows outside of which others may lack what nobody here edited since: it was to be sent, once more
//! or to a server that has lost it, when the filter left them outside. Should others bring one inside, it is sent whole under
//! the clocks that it has.

use crate::capture;
use crate::catalog;
use crate::clocks;
use crate::error::Result;
use crate::table::Table;
use crate::write::{Row, Writer};
use cloudsync_core::merge::Action;
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::rc::Rc;

// language=SQLite
const CREATE_OWED: &str = "CREATE TABLE main.cloudsync_owed(pk BLOB PRIMARY KEY) WITHOUT ROWID";

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

/// The marks of rows that are owed to others; their table is made with the first.
pub(crate) struct OwedRows {
    statements: Option<[Statement; 2]>,
}

impl OwedRows {
    pub(crate) fn open(db: &Connection) -> Result<Self> {
        if !has_owed(db)? {
            return Ok(Self { statements: None });
        }
        let find = db.prepare("SELECT 1 FROM main.cloudsync_owed WHERE pk = ?1")?;
        let delete = db.prepare("DELETE FROM main.cloudsync_owed WHERE pk = ?1")?;
        Ok(Self { statements: Some([find, delete]) })
    }

    pub(crate) fn contains(&mut self, pk: &[u8]) -> Result<bool> {
        let Some([find, _]) = &mut self.statements else { return Ok(false) };
        find.bind(1, Value::Blob(pk))?;
        let found = find.step()?;
        find.reset()?;
        Ok(found)
    }

    /// Removes the mark of a row; true if it had one.
    pub(crate) fn remove(&mut self, pk: &[u8]) -> Result<bool> {
        let Some([_, delete]) = &mut self.statements else { return Ok(false) };
        delete.run(&[Value::Blob(pk)])?;
        Ok(delete.connection().changes() > 0)
    }
}

/// Whether there is a table of such marks.
pub(crate) fn has_owed(db: &Connection) -> Result<bool> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_owed'";
    Ok(db.query_i64(sql, &[])?.is_some())
}

/// Marks a row outside of its filter as owed to others.
pub(crate) fn owe(db: &Connection, pk: &[u8]) -> Result<()> {
    if !has_owed(db)? {
        catalog::create_own(db, CREATE_OWED)?;
    }
    let sql = "INSERT OR IGNORE INTO main.cloudsync_owed(pk) VALUES(?1)";
    Ok(db.prepare(sql)?.run(&[Value::Blob(pk)])?)
}

/// Marks a row of a filtered table that exists outside, and that others are to keep; false if it is none.
pub(crate) fn stays_private(db: &Connection, table: &Table, key: &[u8], pk: &[u8]) -> Result<bool> {
    let outside = is_outside(db, table, key)?;
    if outside {
        PrivateRows::open(db)?.add(pk)?;
    }
    Ok(outside)
}

/// True for a row of a filtered table that exists outside.
pub(crate) fn is_outside(db: &Connection, table: &Table, key: &[u8]) -> Result<bool> {
    let Some(filter) = &table.filter else { return Ok(false) };
    let (condition, inside) = (table.key_condition(1), filter.condition());
    let sql =
        format!("SELECT CASE WHEN {inside} THEN 0 ELSE 1 END FROM {} WHERE {condition}", table.quoted());
    let mut select = db.prepare(&sql)?;
    clocks::bind_key(&mut select, 1, key)?;
    Ok(select.step()? && select.column_i64(0) == 1)
}

/// Removes all marks of a table.
pub(crate) fn forget_marks(db: &Connection, table: i64) -> Result<()> {
    let (first, beyond) = clocks::pk_range(table);
    let range = [Value::Blob(&first), Value::Blob(&beyond)];
    db.prepare("DELETE FROM main.cloudsync_private WHERE pk >= ?1 AND pk < ?2")?.run(&range)?;
    if has_owed(db)? {
        db.prepare("DELETE FROM main.cloudsync_owed WHERE pk >= ?1 AND pk < ?2")?.run(&range)?;
    }
    Ok(())
}

/// What an apply does with private rows.
pub(crate) struct Privacy {
    db: Connection,
    marks: PrivateRows,
    owed: OwedRows,
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
            unset => unset.insert(Self {
                db,
                marks: PrivateRows::open(&db)?,
                owed: OwedRows::open(&db)?,
                overwritten: Vec::new(),
            }),
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
            self.forget(pk)?;
        }
        Ok(())
    }

    /// Notes that a change was written over a row of a filtered table of which nothing is private. What is owed of it is sent if
    /// it came inside.
    pub(crate) fn written(&mut self, row: &Row<'_>, pk: &[u8], action: &Action) -> Result<()> {
        match action {
            Action::Keep | Action::NeedWhole | Action::RefuseJump => {}
            Action::Update(_) if self.owed.contains(pk)? => {
                self.overwritten.push((Rc::clone(&row.target.table), row.packed.to_vec()));
            }
            Action::Update(_) => {}
            // It is another one, which whoever sent it has.
            Action::Insert | Action::Replace | Action::Revive(_) | Action::Delete | Action::Bury(_) => {
                self.owed.remove(pk)?;
            }
        }
        Ok(())
    }

    /// Takes the marks from a row that was gone, and came again: nothing of it is private, or owed.
    pub(crate) fn forget(&mut self, pk: &[u8]) -> Result<()> {
        self.owed.remove(pk)?;
        self.marks.remove(pk).map(drop)
    }

    /// Has the next fold look at rows that were overwritten in part: what is private of those that came inside by it, or owed,
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
