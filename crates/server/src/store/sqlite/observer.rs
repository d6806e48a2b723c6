//! Notices that somebody has written to the file, without reading any of it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};

use crate::store::StoreError;

/// A connection that only compares SQLite's number of the file's last commit.
pub(super) struct Observer {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Opened when first asked.
    connection: Option<Connection>,
    /// The last commit that was dealt with.
    commit: Option<i64>,
}

impl Observer {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    /// Runs `act` if anything was committed since the last time that it succeeded, and tells whether that was so.
    pub(super) fn on_change(&self, act: impl FnOnce() -> Result<(), StoreError>) -> Result<bool, StoreError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match seen.connection.take() {
            Some(connection) => connection,
            None => {
                // The number means nothing to another connection.
                seen.commit = None;
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(&self.path, flags)?
            }
        };
        // Kept only when it works: a connection that fails is opened anew.
        let commit = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))?;
        seen.connection = Some(connection);
        if seen.commit == Some(commit) {
            return Ok(false);
        }
        act()?;
        seen.commit = Some(commit);
        Ok(true)
    }
}
