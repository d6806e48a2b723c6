//! `cloudsync table`: which tables of a database sync.

use clap::Subcommand;
use serde_json::json;

use super::Place;
use crate::error::{Error, Result};
use crate::schema_check::{Finding, Severity};
use crate::store::sqlite;

#[derive(Debug, Subcommand)]
pub(super) enum Table {
    /// Make a table sync; it may have rows already
    Enable {
        /// The database
        database: String,
        /// The table, which must exist in it
        table: String,
        /// How its rows merge: cls, dws, aws or gos
        #[arg(long, default_value = "cls")]
        algorithm: String,
    },
    /// Say what stands in the way of a table's syncing, or will surprise later, with the remedies; nothing is changed
    Check {
        /// The database
        database: String,
        /// The table; without it, all that sync
        table: Option<String>,
    },
    /// Make a table sync no more; its rows stay
    Disable {
        /// The database
        database: String,
        /// The table
        table: String,
    },
    /// List the tables that sync
    List {
        /// The database
        database: String,
    },
}

impl Table {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let fail = |database: &str| {
            let database = database.to_owned();
            |source| Error::Store { database, source }
        };
        match self {
            Self::Enable { database, table, algorithm } => {
                let path = place.database(&database)?;
                sqlite::enable_table(&path, &table, &algorithm).map_err(fail(&database))?;
                let findings = sqlite::check_table(&path, &table).map_err(fail(&database))?;
                let enabled =
                    json!({ "table": table, "algorithm": algorithm, "syncs": true, "findings": findings });
                place.print(&enabled, |_| {
                    let lines = findings.iter().map(Finding::to_line);
                    let said = std::iter::once(format!("{table} syncs ({algorithm})")).chain(lines);
                    said.collect::<Vec<_>>().join("\n")
                })
            }
            Self::Check { database, table } => {
                let path = place.database(&database)?;
                let tables = match table {
                    Some(table) => vec![table],
                    None => {
                        let synced = sqlite::list_tables(&path).map_err(fail(&database))?;
                        synced.into_iter().map(|table| table.name).collect()
                    }
                };
                let mut findings = Vec::new();
                for table in &tables {
                    findings.extend(sqlite::check_table(&path, table).map_err(fail(&database))?);
                }
                place.print(&findings, |findings| match findings.as_slice() {
                    [] => "nothing stands in the way".to_owned(),
                    _ => findings.iter().map(Finding::to_line).collect::<Vec<_>>().join("\n"),
                })?;
                match findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
                    0 => Ok(()),
                    count => Err(Error::Found { database, count }),
                }
            }
            Self::Disable { database, table } => {
                let path = place.database(&database)?;
                sqlite::disable_table(&path, &table).map_err(fail(&database))?;
                place.print(&json!({ "table": table, "syncs": false }), |_| format!("{table} syncs no more"))
            }
            Self::List { database } => {
                let tables = sqlite::list_tables(&place.database(&database)?).map_err(fail(&database))?;
                place.print_list(&tables, ["TABLE", "ALGORITHM"], |table| {
                    [table.name.clone(), table.algorithm.clone()]
                })
            }
        }
    }
}
