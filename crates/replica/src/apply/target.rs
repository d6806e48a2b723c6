//! What a group of a payload means here: its table and columns by our numbers, its clocks by our ordinals.

use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::table::Table;
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal};
use cloudsync_core::merge::{Algorithm, Travelled, received};
use cloudsync_protocol::payload::Group;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// What a group of the payload means here.
pub(crate) struct Target {
    pub(crate) table: Rc<Table>,
    /// The group's columns by our numbers; `None` for those that this table does not have.
    pub(crate) columns: Vec<Option<ColumnNumber>>,
    pub(crate) numbers: ColumnSet,
    sites: Vec<SiteOrdinal>,
}

impl Target {
    /// `None` for a table that does not sync here: its rows come when it does.
    pub(crate) fn of(replica: &Replica, group: &Group<'_>, sites: &[SiteOrdinal]) -> Option<Self> {
        let table = replica.catalog.table_named(group.table())?;
        let columns: Vec<_> =
            group.columns().iter().map(|name| table.cell_named(name).map(|cell| cell.number)).collect();
        let numbers = columns.iter().flatten().copied().collect();
        Some(Self { table, columns, numbers, sites: sites.to_vec() })
    }

    /// The clock of a row, by our numbers and ordinals.
    pub(crate) fn clock(&self, group: &Group<'_>, row: usize, replica: &Replica) -> Result<RowClock> {
        let map = |clock: Clock| -> Result<Clock> {
            let site = self.sites.get(clock.site.0 as usize).copied();
            let site =
                site.ok_or_else(|| Error::Protocol("payload refused: a clock names an unknown site".into()))?;
            Ok(Clock::new(clock.time, site))
        };
        let (life, common) = (group.life(row), map(group.clock(row))?);
        if self.table.algorithm != Algorithm::Cls {
            return self.marked_clock(group, row, common, replica, map);
        }
        if group.marks(row).is_some() {
            return Err(self.foreign_marks());
        }
        if life % 2 == 0 {
            return Ok(RowClock::tombstone(life, common));
        }
        let wire = group.exceptions(row);
        if wire.is_empty() {
            return Ok(RowClock::alive(life, common, self.numbers.clone()));
        }
        let mut exceptions: HashMap<ColumnNumber, Clock> = HashMap::new();
        for (at, clock) in wire {
            if let Some(Some(column)) = self.columns.get(usize::from(*at)) {
                exceptions.insert(*column, map(*clock)?);
            }
        }
        let cells: Vec<_> = self
            .numbers
            .iter()
            .map(|column| (column, exceptions.get(&column).copied().unwrap_or(common)))
            .collect();
        Ok(RowClock::from_cells(life, common, &cells, replica.sites.ids()))
    }

    /// The same in a table whose rows may have marks.
    fn marked_clock(
        &self,
        group: &Group<'_>,
        row: usize,
        common: Clock,
        replica: &Replica,
        map: impl Fn(Clock) -> Result<Clock>,
    ) -> Result<RowClock> {
        let sites = replica.sites.ids();
        let mut cells: BTreeMap<ColumnNumber, Clock> =
            self.numbers.iter().map(|column| (column, common)).collect();
        let mut last = common;
        for (at, clock) in group.exceptions(row) {
            let clock = map(*clock)?;
            last = last.latest(clock, sites);
            if let Some(Some(column)) = self.columns.get(usize::from(*at)) {
                cells.insert(*column, clock);
            }
        }
        let cells: Vec<_> = cells.into_iter().collect();
        let marks = group.marks(row).map(|marks| marks.try_map(&map)).transpose()?;
        let life = group.life(row);
        let travelled = Travelled { life, row: common, cells: &cells, last, marks };
        received(self.table.algorithm, &travelled, sites).ok_or_else(|| self.foreign_marks())
    }

    fn foreign_marks(&self) -> Error {
        let Table { name, algorithm, .. } = &*self.table;
        Error::Protocol(format!(
            "payload refused: a row of table \"{name}\" does not merge by the algorithm {algorithm}"
        ))
    }
}
