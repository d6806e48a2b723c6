//! `cloudsync table`: which tables of a database sync.

use clap::Subcommand;
use serde_json::json;

use super::Place;
use crate::error::{Error, Result};
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
                let enabled = json!({ "table": table, "algorithm": algorithm, "syncs": true });
                place.print(&enabled, |_| format!("{table} syncs ({algorithm})"))
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
