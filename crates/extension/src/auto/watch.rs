//! Whether anybody has committed to the file, found out by looking.
//!
//! In WAL mode SQLite itself is asked, which takes no lock that stands in anybody's way. Without a WAL even a reader can
//! make a COMMIT of the app fail, so there the file's size and time of change are looked at from outside. The file is
//! never opened by anything but SQLite: closing it again would drop the locks that this process holds on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cloudsync_sqlite_ffi::Connection;

use crate::error::Result;

/// Changes of a file within this time may bear the same time stamp.
const TIME_GRAIN: Duration = Duration::from_millis(20);

/// What was seen last.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    wal_path: PathBuf,
    is_wal: bool,
    /// SQLite's number of the last commit of another connection.
    commit: Option<i64>,
    files: Option<Files>,
}

/// Sizes and times of change of the file and its WAL, which is there once the mode has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Files([Option<(SystemTime, u64)>; 2]);

impl Watch {
    /// A watch that finds a change at its first look.
    pub(super) fn new(path: &Path) -> Self {
        let mut wal_path = path.as_os_str().to_owned();
        wal_path.push("-wal");
        Self { path: path.to_owned(), wal_path: wal_path.into(), is_wal: false, commit: None, files: None }
    }

    /// Whether there were commits since the last look, possibly our own.
    pub(super) fn changed(&mut self, connection: Connection) -> Result<bool> {
        if self.is_wal {
            let commit = connection.query_i64("PRAGMA main.data_version", &[])?;
            return Ok(std::mem::replace(&mut self.commit, commit) != commit);
        }
        let files = Files([stamp(&self.path), stamp(&self.wal_path)]);
        if self.files == Some(files) {
            return Ok(false);
        }
        self.files = (!files.is_fresh(SystemTime::now())).then_some(files);
        let mode = connection.query_text("PRAGMA main.journal_mode", &[])?;
        self.is_wal = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("wal"));
        if self.is_wal {
            self.commit = connection.query_i64("PRAGMA main.data_version", &[])?;
        }
        Ok(true)
    }

    /// Makes the next look find a change: the last one could not be followed.
    pub(super) fn forget(&mut self) {
        (self.commit, self.files) = (None, None);
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

impl Files {
    /// Whether a further change may leave no trace in these.
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.0.iter().flatten().any(|(changed, _)| {
            let apart = now.duration_since(*changed).unwrap_or_else(|error| error.duration());
            apart < TIME_GRAIN
        })
    }
}
