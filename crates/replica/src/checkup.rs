//! Looking whether what is stored about synced tables fits them, without changing anything.

use crate::capture::{self, Triggers};
use crate::clocks::{ClockStore, bind_key, pk, pk_range};
use crate::error::Result;
use crate::replica::Replica;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::clock::RowClock;
use cloudsync_sqlite_ffi::Value;
use std::collections::HashSet;

/// What was found of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkup {
    /// The table.
    pub table: String,
    /// What is wrong with its triggers, if anything.
    pub triggers: Option<&'static str>,
    /// Rows and clocks that were looked at.
    pub looked_at: u64,
    /// Rows of which nothing is known: no note, no clock.
    pub rows_without_clock: u64,
    /// Clocks of living rows that are not there.
    pub clocks_without_row: u64,
}

impl Replica {
    /// Looks at the synced tables: at their triggers, and at up to `rows_max` rows and as many clocks of each, one half
    /// from either end. Rows are compared only while no local write waits to be folded. `progress` is told of each table.
    /// Run it within one read transaction.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn checkup(&mut self, rows_max: u64, progress: &mut dyn FnMut(&str)) -> Result<Vec<Checkup>> {
        self.require()?;
        self.catalog.load(&self.db)?;
        let folded = self.db.query_i64("SELECT 1 FROM main.cloudsync_log LIMIT 1", &[])?.is_none();
        let mut checkups = Vec::new();
        for table in self.catalog.tables().into_iter().filter(|table| table.enabled) {
            progress(&table.name);
            let mut checkup = Checkup {
                table: table.name.clone(),
                triggers: self.trigger_fault(&table)?,
                looked_at: 0,
                rows_without_clock: 0,
                clocks_without_row: 0,
            };
            if folded {
                self.compare_ends(&table, rows_max, &mut checkup)?;
            }
            checkups.push(checkup);
        }
        Ok(checkups)
    }

    fn trigger_fault(&mut self, table: &Table) -> Result<Option<&'static str>> {
        let db = self.db;
        let layout = self.catalog.layout(&db, table.layout)?.map_or(0, |layout| layout.len());
        let cells: Vec<_> = Table::cell_columns(&table.definition).collect();
        let noted = &cells[..layout.min(cells.len())];
        let (algorithm, filter) = (table.algorithm, table.filter.as_ref());
        let definition = &table.definition;
        let found =
            capture::find_triggers(&db, algorithm, definition, &table.name, table.layout, noted, filter)?;
        Ok(match found {
            Triggers::Fit => None,
            Triggers::Outdated => Some("are not those of its present indexes"),
            Triggers::Preceded => {
                Some("run after a trigger of the app that may stop them: writes may go unnoted")
            }
            Triggers::Strange => Some("are not those of its present columns"),
            Triggers::Lost => Some("are missing, so that writes are not noted"),
        })
    }

    fn compare_ends(&self, table: &Table, rows_max: u64, checkup: &mut Checkup) -> Result<()> {
        let half = Value::Integer(i64::try_from(rows_max.div_ceil(2)).unwrap_or(i64::MAX));
        let (first, beyond) = pk_range(table.id);
        let key: Vec<_> = table.key.iter().map(|key| quote_identifier(&key.name)).collect();
        let mut exists =
            self.db.prepare(&format!("SELECT 1 FROM {} WHERE {}", table.quoted(), table.key_condition(1)))?;
        let mut store = ClockStore::open(&self.db)?;
        // The two ends may overlap.
        let (mut clocks_seen, mut rows_seen) = (HashSet::new(), HashSet::new());
        for order in ["ASC", "DESC"] {
            // language=SQLite
            let sql = format!(
                "SELECT pk, clock FROM main.cloudsync_clocks WHERE pk >= ?1 AND pk < ?2 ORDER BY pk {order} LIMIT ?3"
            );
            let mut clocks = self.db.prepare(&sql)?;
            clocks.bind(1, Value::Blob(&first))?;
            clocks.bind(2, Value::Blob(&beyond))?;
            clocks.bind(3, half)?;
            while clocks.step()? {
                let packed = clocks.column(0).as_blob().unwrap_or_default();
                let packed = packed.get(first.len()..).unwrap_or_default();
                if !clocks_seen.insert(packed.to_vec()) {
                    continue;
                }
                checkup.looked_at += 1;
                let stored = clocks.column(1).as_blob().unwrap_or_default();
                let is_alive = RowClock::decode(stored).is_ok_and(|clock| clock.is_alive());
                exists.reset()?;
                bind_key(&mut exists, 1, packed)?;
                checkup.clocks_without_row += u64::from(is_alive && !exists.step()?);
            }
            if table.filter.is_some() {
                // Rows outside have no clocks.
                continue;
            }
            let by: Vec<_> = key.iter().map(|name| format!("{name} {order}")).collect();
            let sql = format!(
                "SELECT {} FROM {} ORDER BY {} LIMIT ?1",
                key.join(", "),
                table.quoted(),
                by.join(", ")
            );
            let mut rows = self.db.prepare(&sql)?;
            rows.bind(1, half)?;
            while rows.step()? {
                let mut packed = Vec::new();
                // A row with NULL in its key stays local.
                let is_known = table.pack_key(&mut packed, |i| from_sqlite(rows.column(i))).is_ok();
                let pk = pk(table.id, &packed);
                if is_known && rows_seen.insert(packed) {
                    checkup.looked_at += 1;
                    let clock = store.read(&pk)?;
                    checkup.rows_without_clock += u64::from(!clock.is_some_and(|clock| clock.is_alive()));
                }
            }
        }
        Ok(())
    }
}

impl Replica {
    /// Does at once what the next use of the file would do: makes the triggers of the synced tables those of their
    /// definitions, and finds rows that came or went while they were missing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn mend_triggers(&mut self) -> Result<()> {
        self.require()?;
        self.transact(|replica| {
            // Else it would see that nothing has changed, and look no further.
            crate::storage::unset(&replica.db, "schema_version")?;
            let grown = replica.follow_schema()?;
            replica.names_came(grown)
        })
    }
}
