//! Whether the files of a database are still those that were opened.
//!
//! A file that is removed or replaced while it is open goes on existing without a name: what is committed to it is gone
//! when the process ends, and readers that open the path anew see something else. So the path is looked up before a turn
//! and again before its answer is given: a few microseconds.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use std::sync::{Arc, Mutex};

use super::host::{FileId, Host, Located};
use crate::store::StoreError;

/// What SQLite appends to the names of the files that belong to a database in WAL mode.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The files of an open database, as they were found.
pub(super) struct Place {
    files: Vec<(PathBuf, FileId)>,
    host: Arc<dyn Host>,
    lost: AtomicBool,
    /// Keeps the WAL where it is when the writer's connection is opened anew.
    _anchor: Mutex<Connection>,
}

impl Place {
    /// Remembers the files of a database that is open and in WAL mode.
    pub(super) fn remember(file: &Located) -> Result<Self, StoreError> {
        let anchor = Connection::open(&file.path)?;
        // Opens the WAL.
        // language=SQLite
        anchor.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let files = SUFFIXES.iter().map(|suffix| {
            let mut name = file.path.as_os_str().to_owned();
            name.push(suffix);
            let path = PathBuf::from(name);
            let id = file
                .host
                .file_id(&path)
                .map_err(|error| StoreError::Failed(format!("{}: {error}", path.display())))?;
            Ok((path, id))
        });
        let files = files.collect::<Result<_, StoreError>>()?;
        Ok(Self {
            files,
            host: Arc::clone(&file.host),
            lost: AtomicBool::new(false),
            _anchor: Mutex::new(anchor),
        })
    }

    /// Refuses when a file was removed or replaced; from then on for ever, since nobody knows what is in which.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (path, id) in &self.files {
            match self.host.file_id(path) {
                Ok(found) if found == *id => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Busy(format!("{}: {error}", path.display())));
                }
                Ok(_) | Err(_) => self.lost.store(true, Ordering::Relaxed),
            }
        }
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = self.files.first().map(|(path, _)| path.display().to_string()).unwrap_or_default();
        Err(StoreError::Failed(format!(
            "the file {path}, or its -wal or -shm, was removed, moved or replaced while the server had it open, so nothing \
             more is taken: stop the server, put the file in its place or restore it from a backup, and start again"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store as _;
    use crate::store::sqlite::SqliteStore;
    use std::fs;

    #[test]
    fn files_that_went_or_were_replaced_are_noticed_for_good() {
        for suffix in SUFFIXES {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("d.db");
            let store = SqliteStore::open(&path).unwrap();
            store.refresh().unwrap();
            let name = temp.path().join(format!("d.db{suffix}"));
            let aside = temp.path().join("aside");
            fs::rename(&name, &aside).unwrap();
            let error = store.refresh().unwrap_err().to_string();
            assert!(error.contains("d.db") && error.contains("stop the server"), "{error}");
            fs::copy(&aside, &name).unwrap();
            assert!(store.refresh().is_err());
            fs::rename(&aside, &name).unwrap();
            assert!(store.refresh().is_err(), "what was read meanwhile may have been something else");
        }
    }
}
