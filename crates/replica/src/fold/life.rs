//! What becomes of a row's clock when the row comes or goes.

use super::{Folder, Touch};
use crate::error::Result;
use crate::table::Table;
use cloudsync_core::clock::{Clock, ColumnSet, RowClock};
use cloudsync_core::merge::{Algorithm, local, overlay};
use cloudsync_sqlite_ffi::Value;

impl Folder {
    /// The clock of a row that is gone; the values of one that is kept are put aside.
    pub(super) fn deleted(
        &mut self,
        table: &Table,
        pk: &[u8],
        stored: &RowClock,
        at: Clock,
        touch: &Touch,
    ) -> Result<RowClock> {
        if table.algorithm != Algorithm::Aws {
            return Ok(local::delete(table.algorithm, stored, at, &self.sites));
        }
        let mut kept: Option<ColumnSet> = None;
        let values = self.dropped.as_ref().map(|dropped| dropped.values(pk)).transpose()?.flatten();
        if let (Some(values), Some(buried)) = (values, &mut self.buried) {
            buried.write(pk, &values)?;
            kept = Some(values.keys().copied().collect());
        }
        // The values that are kept are those of the last write before the deletion. A column that was added between the
        // two and now has none: nobody wrote it, and a clock without a value could not be sent.
        let seen = local::seen(table.algorithm, Some(stored), &self.sites);
        let mut later = self.updated(stored, &touch.buried, seen);
        later.retain(|(column, _)| kept.as_ref().is_none_or(|kept| kept.contains(*column)));
        let written = if later.is_empty() { stored.clone() } else { overlay(stored, &later, &self.sites) };
        Ok(local::delete(table.algorithm, &written, at, &self.sites))
    }

    /// The clock of a row that came, or came back.
    pub(super) fn inserted(
        &mut self,
        table: &Table,
        pk: &[u8],
        stored: Option<&RowClock>,
        touch: &Touch,
    ) -> Result<RowClock> {
        let first = touch.whole_at.or(touch.updates.first().map(|(at, _)| *at)).unwrap_or(0);
        let at = Clock::new(self.time(first), self.own);
        if let (Some(buried), Some(_), Algorithm::Aws) = (&mut self.buried, stored, table.algorithm) {
            buried.remove(pk)?;
        }
        let whole = local::insert(table.algorithm, stored, at, table.numbers.clone(), &self.sites);
        let later = self.updated(&whole, &touch.updates, None);
        Ok(if later.is_empty() { whole } else { overlay(&whole, &later, &self.sites) })
    }

    /// Forgets a row that may not be deleted, and asks for it.
    pub(super) fn lose(&mut self, pk: &[u8]) -> Result<()> {
        self.db.prepare("DELETE FROM main.cloudsync_clocks WHERE pk = ?1")?.run(&[Value::Blob(pk)])?;
        crate::rebuilt::fetch_again(&self.db)
    }
}
