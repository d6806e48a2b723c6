//! A device: a real file with a replica, which syncs through the extension's own driver and HTTP.

use crate::data::{Rows, Shape};
use crate::database::Database;
use anyhow::{Result, anyhow};
use cloudsync::connection_string::{ConnectionString, Secret};
use cloudsync::net::{Http, Round, Timeouts, sync};
use cloudsync_protocol::client::{Goal, Retry};
use cloudsync_replica::{Environment, Replica, SystemEnvironment};
use std::path::Path;
use std::rc::Rc;

/// Value columns of the devices' table.
pub(super) const COLUMNS: usize = 10;
/// What a device does when the server is busy or away.
const RETRY: Retry = Retry { attempts_max: 8, pause_ms: 500, awaits_news: false, total_ms: u64::MAX };

/// The devices' table with so many rows.
pub(super) fn shape(rows: usize) -> Shape {
    Shape::new(rows, COLUMNS)
}

/// One device with its connection to the server, which it keeps as automatic sync does.
pub(super) struct Device {
    replica: Replica,
    http: Http,
    environment: Rc<dyn Environment>,
    /// Numbers of its own rows, which nobody else writes.
    own: std::ops::Range<usize>,
    shape: Shape,
    changes: u64,
    // Closed last.
    database: Database,
}

impl Device {
    /// Makes the file, with the device's own rows in it.
    pub(super) fn create(
        path: &Path,
        connection: &str,
        key: &str,
        shape: Shape,
        own: std::ops::Range<usize>,
    ) -> Result<Self> {
        let database = Database::open(path, false)?;
        database.execute(&shape.create_sql())?;
        let raw = database.connection();
        let environment: Rc<dyn Environment> =
            Rc::new(SystemEnvironment::new(move |buffer: &mut [u8]| raw.randomness(buffer)));
        let mut replica = Replica::open(raw, Rc::clone(&environment))?;
        replica.init("t", "cls", 0)?;
        let rows = Rows::part(shape, own.clone(), 0);
        database.in_transaction(|| database.run_with_rows(&shape.insert_sql(), &rows))?;
        let address = ConnectionString::parse(connection)?.address;
        let http = Http::new(address, Some(Secret::new(key)?), Timeouts::default(), None)
            .map_err(|error| anyhow!("{error}"))?;
        Ok(Self { replica, http, environment, own, shape, changes: 0, database })
    }

    /// Changes all its rows in one transaction: every cell, or one of each row.
    pub(super) fn change(&mut self, whole_rows: bool) -> Result<()> {
        self.changes += 1;
        let rows = Rows::part(self.shape, self.own.clone(), self.changes);
        let (database, all) = (&self.database, 0..rows.count());
        database.in_transaction(|| match whole_rows {
            true => database.run_with_rows(&self.shape.update_all_sql(), &rows),
            false => database
                .run_per_row(&self.shape.update_one_sql(), all, |row, buffer| rows.fill_one(row, buffer)),
        })
    }

    /// Syncs: sends, and receives if it shall.
    pub(super) fn sync(&mut self, pull: bool) -> (Round, Result<()>) {
        let goal = Goal { push: true, pull };
        let (round, outcome) = sync(&mut self.replica, &mut self.http, &*self.environment, goal, RETRY);
        (round, outcome.map_err(|error| anyhow!("{error}")))
    }

    /// Number of rows and the sum of their first cells.
    pub(super) fn state(&self) -> Result<(i64, i64)> {
        let mut select = self.database.prepare(STATE)?;
        let state =
            select.query_row(&[], |row| -> Result<_> { Ok((row.column_i64(0), row.column_i64(1))) })?;
        state.ok_or_else(|| anyhow!("count(*) gave no row"))
    }
}

// language=SQLite
pub(super) const STATE: &str = "SELECT count(*), coalesce(sum(c0), 0) FROM t";
