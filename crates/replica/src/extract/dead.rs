//! Rows with marks: dead ones that keep their cells, and what travels of the marks of living ones.

use super::large::{self, Outline};
use super::{Builder, Filter, Shape};
use crate::buried::Buried;
use crate::clocks;
use crate::error::Result;
use crate::parts::Parts;
use crate::table::Table;
use cloudsync_core::clock::{Clock, ColumnSet, RowClock};
use cloudsync_core::marks::{Deletion, Marks};
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::limits::CHUNK_BYTES_MAX;
use std::rc::Rc;

impl Builder<'_> {
    /// The marks of a row as they travel: the last write must be told where no cell that travels shows it.
    pub(super) fn wire_marks(&mut self, table: &Table, clock: &RowClock) -> Result<Option<Marks>> {
        let mut marks = clock.marks.as_deref().copied().unwrap_or_default();
        if table.algorithm == Algorithm::Aws && !clock.columns.is_subset(&table.numbers) {
            marks.write = Some(clock.last_write(self.replica.sites.ids()));
        }
        let wire =
            |builder: &mut Self, clock: Option<Clock>| clock.map(|it| builder.wire_clock(it)).transpose();
        let marks = Marks {
            boundary: wire(self, marks.boundary)?,
            write: wire(self, marks.write)?,
            deletion: match marks.deletion {
                None => None,
                Some(Deletion { seen, clock }) => {
                    Some(Deletion { seen: self.wire_clock(seen)?, clock: self.wire_clock(clock)? })
                }
            },
        };
        Ok((!marks.is_empty()).then_some(marks))
    }

    /// Sends a dead row with all that is kept of it, so that whoever has it can bring it back alone.
    pub(super) fn dead(
        &mut self,
        table: &Rc<Table>,
        key: &[u8],
        clock: &RowClock,
        deletion: Deletion,
    ) -> Result<()> {
        let by_site = |site| deletion.clock.site == site || clock.cells().any(|(_, cell)| cell.site == site);
        if matches!(self.extraction.filter, Filter::BySite(site) if !by_site(site)) {
            return Ok(());
        }
        let values = match &mut self.buried {
            Some(buried) => buried.read(&clocks::pk(table.id, key))?,
            None => match Buried::of(&self.db, table.algorithm)? {
                Some(buried) => self.buried.insert(buried).read(&clocks::pk(table.id, key))?,
                None => return Ok(()),
            },
        };
        let columns: ColumnSet = clock
            .columns
            .iter()
            .filter(|column| table.numbers.contains(*column) && values.contains_key(column))
            .collect();
        let cells: Vec<_> = columns.iter().filter_map(|column| Some((column, clock.cell(column)?))).collect();
        let sites = self.replica.sites.ids();
        // A value that is not kept does not travel, and neither does its clock; that there was a write does.
        let sent = RowClock::from_writes(&cells, clock.last_write(sites), Some(deletion), sites);
        let common = self.wire_clock(sent.common)?;
        let mut exceptions = Vec::new();
        for (at, (_, cell)) in cells.iter().enumerate().filter(|(_, (_, cell))| *cell != sent.common) {
            exceptions.push((at as u16, self.wire_clock(*cell)?));
        }
        let Some(marks) = self.wire_marks(table, &sent)? else { return Ok(()) };
        let (marks_of, concurrent) = (marks.kinds(), self.concurrent);
        let bytes = |(column, _): &(_, _)| values.get(column).map_or(0, |value| value.borrow().size_bytes());
        if !self.splits && cells.iter().map(bytes).sum::<usize>() > CHUNK_BYTES_MAX / 2 {
            return Ok(());
        }
        if self.splits && self.set.is_none() {
            let parts = |(column, _): &(_, _)| Some((*column, Parts::of(values.get(column)?)?));
            let large = large::large(cells.iter().filter_map(parts).collect(), cells.len());
            if !self.send_set(table, key, clock, large)? {
                return Ok(());
            }
        }
        let shape = Shape {
            table: table.id,
            columns: columns.clone(),
            whole: true,
            alive: false,
            marks: marks_of,
            concurrent,
            inserted: false,
        };
        let group = self.group(table, shape, Some(&marks))?;
        let row = Outline {
            group: self.groups[group].id,
            key,
            life: sent.life,
            clock: common,
            marks: Some(&marks),
            exceptions: &exceptions,
        };
        let values = cells.iter().filter_map(|(column, _)| values.get(column)).map(|value| value.borrow());
        self.push_with_references(&row, &columns, values);
        Ok(())
    }
}
