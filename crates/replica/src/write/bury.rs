//! Rows of `aws` tables that die and come back with what was kept of them.

use super::{Refused, Row, Writer, announce, ignored, insert_sql, is_key_taken, row_sql, update_sql};
use crate::buried::Values;
use crate::clocks;
use crate::error::Result;
use crate::guard::Verb;
use crate::value::{from_sqlite, to_sqlite};
use cloudsync_core::clock::{ColumnNumber, ColumnSet, RowClock};
use cloudsync_core::value::ValueRef;
use std::cmp::Ordering;

impl Writer {
    /// Takes the row out, if it is there, and keeps its values; those of `columns` come in.
    pub(super) fn bury(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<(), Refused> {
        self.load(row, columns, false)?;
        let pk = clocks::pk(row.target.table.id, row.packed);
        let mut values = match self.base_values(row)? {
            Some(values) => {
                self.delete(row)?;
                values
            }
            None => self.buried_values(&pk)?,
        };
        let incoming = columns.iter().filter_map(|column| Some((column, row.value(column)?.to_value())));
        values.extend(incoming);
        if let Some(buried) = &mut self.buried {
            buried.write(&pk, &values)?;
        }
        Ok(())
    }

    /// Puts the row back with the values that were kept; those of `columns` come in. `clock` is what it has then.
    pub(super) fn revive(
        &mut self,
        row: &Row<'_>,
        columns: &ColumnSet,
        clock: Option<&RowClock>,
    ) -> Result<(), Refused> {
        self.load(row, columns, false)?;
        let table = &row.target.table;
        let pk = clocks::pk(table.id, row.packed);
        let mut values = self.buried_values(&pk)?;
        values.retain(|column, _| table.numbers.contains(*column));
        values.extend(columns.iter().filter_map(|column| Some((column, row.value(column)?.to_value()))));
        let is_missing =
            |column: ColumnNumber| table.numbers.contains(column) && !values.contains_key(&column);
        if clock.is_some_and(|clock| clock.columns.iter().any(is_missing)) {
            return Err(Refused::Part);
        }
        let present: ColumnSet = values.keys().copied().collect();
        let mut insert = self.db.prepare(&insert_sql(table, &present))?;
        clocks::bind_key(&mut insert, 1, row.packed)?;
        for (i, value) in values.values().enumerate() {
            insert.bind(table.key.len() + 1 + i, to_sqlite(value.borrow()))?;
        }
        announce(self.guard.as_ref(), row, Verb::Insert);
        let mut outcome = insert.step();
        self.settle();
        if outcome.as_ref().is_err_and(is_key_taken) && !present.is_empty() {
            // The row exists, unknown to its clock: it was written while nobody tracked.
            let mut update = self.db.prepare(&update_sql(table, &present))?;
            clocks::bind_key(&mut update, 1, row.packed)?;
            for (i, value) in values.values().enumerate() {
                update.bind(table.key.len() + 1 + i, to_sqlite(value.borrow()))?;
            }
            announce(self.guard.as_ref(), row, Verb::Update);
            outcome = update.step();
            self.settle();
        }
        outcome.map_err(Refused::of_row)?;
        if self.db.changes() == 0 {
            return Err(ignored());
        }
        self.check_parents(row)?;
        if let Some(buried) = &mut self.buried {
            buried.remove(&pk)?;
        }
        Ok(())
    }

    /// Forgets what is kept of a row that is not dead any more.
    pub(crate) fn forget_buried(&mut self, pk: &[u8]) -> Result<()> {
        self.buried.as_mut().map_or(Ok(()), |buried| buried.remove(pk))
    }

    fn base_values(&self, row: &Row<'_>) -> Result<Option<Values>> {
        let cells = &row.target.table.cells;
        let mut select = self.db.prepare(&row_sql(&row.target.table))?;
        clocks::bind_key(&mut select, 1, row.packed)?;
        if !select.step()? {
            return Ok(None);
        }
        let value =
            |(i, cell): (usize, &crate::table::Cell)| (cell.number, from_sqlite(select.column(i)).to_value());
        Ok(Some(cells.iter().enumerate().map(value).collect()))
    }

    fn buried_values(&mut self, pk: &[u8]) -> Result<Values> {
        self.buried.as_mut().map_or_else(|| Ok(Values::new()), |buried| buried.read(pk))
    }

    /// [`Writer::compare`] for a row that is not there: a value that is not kept is smaller than any.
    pub(super) fn compare_with_buried(
        &mut self,
        row: &Row<'_>,
        column: ColumnNumber,
        incoming: ValueRef<'_>,
    ) -> Result<Ordering> {
        if self.buried.is_none() {
            return Ok(Ordering::Equal);
        }
        let kept = match self.at_hand.take() {
            Some(kept) => kept,
            None => self.buried_values(&clocks::pk(row.target.table.id, row.packed))?,
        };
        let order = kept.get(&column).map_or(Ordering::Greater, |value| incoming.tie_order(&value.borrow()));
        self.at_hand = Some(kept);
        Ok(order)
    }
}
