//! Everybody at rest by plain syncs alone: no check of what is held may have helped. And what may differ nevertheless.

use crate::oracle::{self, RowName};
use crate::renames;
use crate::workload;
use crate::world::World;
use anyhow::{Result, bail};
use std::collections::BTreeSet;

/// Sweeps of plain syncs in which everybody must come to rest.
const SWEEPS_MAX: usize = 12;

/// What a device need not have as others have it.
pub(crate) struct Excuses {
    rows: BTreeSet<RowName>,
    /// Rows as clocks are named: table and packed key in hexadecimal.
    clocks: BTreeSet<String>,
    /// Tables whose clocks are not compared.
    tables: BTreeSet<String>,
}

impl Excuses {
    pub(crate) fn row(&self, name: &RowName) -> bool {
        self.rows.contains(name)
    }

    pub(crate) fn clock(&self, name: &str) -> bool {
        let table = name.split(':').next().unwrap_or_default();
        self.clocks.contains(name) || self.tables.contains(table)
    }
}

impl World {
    /// Lets everybody sync without checks until nothing moves any more, with the filters that there are and then without any,
    /// and compares.
    pub(crate) fn rest(&mut self) -> Result<()> {
        let has_filters = self.devices.iter().any(|device| device.own.is_filtered);
        if self.plan.checks && !has_filters {
            return Ok(());
        }
        self.checks = false;
        if has_filters {
            self.sweep_until_rest()?;
            self.compare("with filters")?;
            if self.clear_filters()? {
                self.note(|| "all filters are cleared".to_owned());
            }
        }
        self.sweep_until_rest()?;
        self.compare("by plain syncs")?;
        self.checks = true;
        Ok(())
    }

    pub(crate) fn sweep_until_rest(&mut self) -> Result<()> {
        for _ in 0..SWEEPS_MAX {
            if self.sweep()? == 0 {
                return Ok(());
            }
        }
        bail!("still moving after {SWEEPS_MAX} sweeps");
    }

    fn compare(&mut self, how: &str) -> Result<()> {
        for at in 0..self.devices.len() {
            if let Some(difference) = self.difference(at)? {
                bail!("{how} server and {} differ {difference}", self.devices[at].name);
            }
        }
        Ok(())
    }

    /// What a device need not have as the server has it: what its filters keep apart, what a row that they keep apart stands in
    /// the way of, and, where foreign keys are enforced, what waits for them.
    pub(crate) fn excuses(&self, at: usize) -> Result<Excuses> {
        let (mut rows, mut tables) = self.apart(at)?;
        let mut clocks = BTreeSet::new();
        let has_filters = !tables.is_empty();
        tables.extend(renames::NAMES.map(str::to_owned));
        if self.plan.families || has_filters {
            let sql = "SELECT tbl, pk FROM cloudsync_quarantine WHERE ?1 OR reason LIKE '%FOREIGN KEY%'";
            let db = &self.devices[at].processes[0].db;
            let mut select = db.prepare(sql)?;
            let mut waiting = select.query([has_filters])?;
            while let Some(row) = waiting.next()? {
                let (table, pk): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
                let hex: String = pk.iter().map(|byte| format!("{byte:02x}")).collect();
                clocks.insert(format!("{table}:{hex}"));
                let table = workload::tables().find(|known| known.name == table);
                // A tag stands before the text.
                if let (Some(table), Some(text)) = (table, pk.get(1..)) {
                    rows.insert((table.name, format!("'{}'", String::from_utf8_lossy(text))));
                }
            }
        }
        Ok(Excuses { rows, clocks, tables })
    }

    /// A row as two files have it, with its clocks.
    pub(crate) fn explain(&self, at: usize, name: &RowName) -> Result<String> {
        let text = name.1.split('\'').nth(1).unwrap_or(&name.1);
        let mut shown = String::new();
        let device = &self.devices[at];
        for (whose, db) in [("server", self.server.eye()?), (device.name.as_str(), &device.processes[0].db)] {
            let row = oracle::rows_where(db, |table| (table.name == name.0).then_some("1"))?.remove(name);
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            let clocks = oracle::clocks(db)?;
            let clocks = clocks.iter().filter(|(key, _)| {
                key.strip_prefix(name.0).is_some_and(|key| key.starts_with(':') && key.contains(&hex))
            });
            shown += &format!("\n  {whose} has {row:?} under {:?}", clocks.collect::<Vec<_>>());
        }
        Ok(shown)
    }
}
