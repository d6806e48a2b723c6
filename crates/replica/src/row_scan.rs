//! Reading a table's rows in the order of their keys, for an extraction of all of them.
//!
//! The tree of clocks is read in the order of packed keys, which mostly is that of the table's own index. So one
//! statement walks beside it and mostly stands on the wanted row already; a search for each row costs twice as much.
//! Where the orders differ, or rows in between are not wanted, it seeks the row instead, so what it finds is right
//! whatever the order is.

use crate::clocks;
use crate::error::Result;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::value::ValueRef;
use cloudsync_sqlite_ffi::{Connection, Statement};
use std::cmp::Ordering;
use std::rc::Rc;

/// Rows that are passed on the way to the wanted one; beyond it a seek is cheaper.
const STEPS_MAX: usize = 8;

/// A walk through one table.
pub(crate) struct RowScan {
    table: Rc<Table>,
    select: Statement,
    /// The packed key of the row on which the statement stands, if it does.
    key: Vec<u8>,
    stands: bool,
}

impl RowScan {
    /// `None` where SQLite would sort the table instead of walking along an index, and for filtered tables: to find
    /// that a row is outside, it would walk to the next one inside.
    pub(crate) fn open(db: &Connection, table: &Rc<Table>) -> Result<Option<Self>> {
        if table.filter.is_some() {
            return Ok(None);
        }
        let sql = sql(table);
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
        while plan.step()? {
            if plan.column(3).as_str().is_some_and(|step| step.contains("TEMP B-TREE")) {
                return Ok(None);
            }
        }
        let select = db.prepare(&sql)?;
        Ok(Some(Self { table: Rc::clone(table), select, key: Vec::new(), stands: false }))
    }

    /// The table that is walked through.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Goes to the row with that packed key; false if there is none.
    pub(crate) fn find(&mut self, key: &[u8]) -> Result<bool> {
        for _ in 0..STEPS_MAX {
            match self.key.as_slice().cmp(key) {
                Ordering::Equal if self.stands => return Ok(true),
                Ordering::Less if self.stands => self.step()?,
                _ => break,
            }
        }
        self.select.reset()?;
        clocks::bind_key(&mut self.select, 1, key)?;
        self.step()?;
        Ok(self.stands && self.key == key)
    }

    /// The value of a cell of the row, by its place among the table's cells.
    pub(crate) fn cell(&self, place: usize) -> ValueRef<'_> {
        from_sqlite(self.select.column(self.table.key.len() + place))
    }

    /// Goes to the next row that has a key which others could name.
    fn step(&mut self) -> Result<()> {
        loop {
            self.stands = false;
            self.stands = self.select.step()?;
            self.key.clear();
            let select = &self.select;
            if !self.stands || self.table.pack_key(&mut self.key, |i| from_sqlite(select.column(i))).is_ok() {
                return Ok(());
            }
        }
    }
}

fn sql(table: &Table) -> String {
    let list = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
    let key = list(&mut table.key.iter().map(|key| quote_identifier(&key.name)));
    let cells = table.cells.iter().map(|cell| quote_identifier(cell.column.name()));
    let selected = list(&mut table.key.iter().map(|key| quote_identifier(&key.name)).chain(cells));
    let places = list(&mut (1..=table.key.len()).map(|i| format!("?{i}")));
    format!("SELECT {selected} FROM {} WHERE ({key}) >= ({places}) ORDER BY {key}", table.quoted())
}
