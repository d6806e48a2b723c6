//! The server: the real store on a file, and somebody who works on that file with plain SQL.

use crate::device::Machine;
use crate::host;
use anyhow::{Context, Result, anyhow};
use cloudsync_protocol::message::Request;
use cloudsync_replica::{Environment, Replica};
use cloudsync_server::store::sqlite::SqliteStore;
use cloudsync_server::store::{Rights, Store};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The server of one run.
pub(crate) struct Server {
    store: Option<SqliteStore>,
    path: PathBuf,
    /// A connection without any library of ours.
    pub(crate) db: rusqlite::Connection,
}

impl Server {
    /// A server without tables: the first device brings them.
    pub(crate) fn create(folder: &Path, machine: Rc<Machine>) -> Result<Self> {
        let path = folder.join("server.db");
        let db = host::open(&path)?;
        {
            // SAFETY: the replica ends with this block, the connection later.
            let connection = unsafe { host::wrap(&db)? };
            // So the server's site id comes from the seed.
            Replica::open(connection, machine as Rc<dyn Environment>)?.create()?;
        }
        host::compact_often(&db)?;
        let store = Some(open_store(&path)?);
        Ok(Self { store, path, db })
    }

    /// Takes one request and gives the answer.
    pub(crate) fn turn(&self, request: &[u8], now_ms: u64) -> Result<Vec<u8>> {
        let request = Request::decode(request)?;
        let store = self.store.as_ref().context("no store")?;
        store
            .turn(&request, &Rights { read: true, write: true, schema: true }.into(), now_ms)
            .context("the store")
    }

    /// Ends the server and starts it again on its file.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.store = None;
        self.store = Some(open_store(&self.path)?);
        Ok(())
    }

    /// True once a device has brought the tables.
    pub(crate) fn has_tables(&self) -> Result<bool> {
        let sql = "SELECT count(*) FROM cloudsync_tables";
        let count: i64 = self.db.query_row(sql, [], |row| row.get(0))?;
        Ok(count == crate::workload::TABLES.len() as i64)
    }
}

fn open_store(path: &Path) -> Result<SqliteStore> {
    SqliteStore::open(path).map_err(|error| anyhow!("the store does not open: {error}"))
}
