//! The control database: which databases there are, and who may open them.
//!
//! Every request asks it, so that a command in another process takes effect at once. It is a SQLite file in WAL mode:
//! readers never wait for the commands that write.

mod credentials;
mod databases;
mod issuers;
mod keys;
mod schema;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Params, Row};

use crate::error::{Error, Result};
use crate::folder::Folder;

pub use self::databases::DatabaseRecord;
pub use self::issuers::{Issuer, IssuerId, IssuerRecord, NewIssuer, Secret, Trust};
pub use self::keys::{KeyId, KeyRecord, NewKey};
pub use self::tokens::{NewToken, TOKEN_S_MAX, TokenId, TokenRecord};

const BUSY_MS: u64 = 5000;

/// The SQL of a stored time as lists show it: ISO 8601 in UTC.
macro_rules! iso {
    ($column:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%SZ', ", $column, " / 1000, 'unixepoch')")
    };
}
use iso;

/// The open control database.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Never used for writing, so that whoever asks it waits for no disk.
    observer: Mutex<Observer>,
}

#[derive(Debug)]
struct Observer {
    connection: Connection,
    /// What was seen, and when.
    seen: Option<(Instant, i64)>,
}

impl Control {
    /// Opens the control database of a folder, creating it when missing.
    ///
    /// # Errors
    /// [`Error::NewerFormat`], [`Error::NotControl`], or [`Error::Control`] when SQLite fails.
    pub fn open(folder: &Folder) -> Result<Self> {
        Self::open_at(folder.control_path())
    }

    /// The same, but a control database of an older format is left as it is: `None`.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn open_as_it_is(folder: &Folder) -> Result<Option<Self>> {
        let path = folder.control_path();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let found =
            Connection::open_with_flags(&path, flags).and_then(|connection| schema::format_of(&connection));
        match found {
            Ok(found) if (1..schema::FORMAT).contains(&found) => Ok(None),
            _ => Self::open_at(path).map(Some),
        }
    }

    /// Whether there is a control database of some format at a path.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // language=SQLite
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('databases', 'keys')";
        let count = Connection::open_with_flags(path, flags)
            .and_then(|connection| connection.query_row(sql, [], |row| row.get::<_, i64>(0)));
        count == Ok(2)
    }

    /// Opens the control database at a path, as [`Control::open`].
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn open_at(path: PathBuf) -> Result<Self> {
        let fail = |source| Error::Control { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(fail)?;
        connection.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(fail)?;
        let found = schema::format_of(&connection).map_err(fail)?;
        if found > schema::FORMAT {
            return Err(Error::NewerFormat { path, found, known: schema::FORMAT });
        }
        connection.pragma_update(None, "journal_mode", "wal").map_err(fail)?;
        connection.pragma_update(None, "synchronous", "full").map_err(fail)?;
        if found < schema::FORMAT && !schema::bring_up_to_date(&mut connection).map_err(fail)? {
            return Err(Error::NotControl(path));
        }
        let observer = Connection::open(&path).map_err(fail)?;
        observer.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(fail)?;
        Ok(Self {
            path,
            connection: Mutex::new(connection),
            observer: Mutex::new(Observer { connection: observer, seen: None }),
        })
    }

    /// A number that changes with every commit to the control database, by whatever process. It means something only
    /// beside another one of the same `Control`.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn state(&self) -> Result<i64> {
        self.state_not_older_than(Duration::ZERO)
    }

    /// As [`Control::state`], seen at most `age` ago: for the many listeners that ask at one time.
    ///
    /// # Errors
    /// As [`Control::state`].
    pub fn state_not_older_than(&self, age: Duration) -> Result<i64> {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((at, state)) = observer.seen
            && now.duration_since(at) < age
        {
            return Ok(state);
        }
        let state = observer
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(|source| self.fail(source))?;
        observer.seen = Some((now, state));
        Ok(state)
    }

    fn select<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.with(|connection| connection.prepare_cached(sql)?.query_map(values, read)?.collect())
    }

    fn with<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        act(&self.lock()).map_err(|source| self.fail(source))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic cannot leave the connection half changed: SQLite rolls back what was not committed.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, source: rusqlite::Error) -> Error {
        Error::Control { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::DatabaseName;

    pub(super) fn control() -> (tempfile::TempDir, Folder, Control) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        let control = Control::open(&folder).unwrap();
        (temp, folder, control)
    }

    pub(super) fn name(name: &str) -> DatabaseName {
        DatabaseName::new(name).unwrap()
    }

    #[test]
    fn the_state_tells_of_what_other_processes_did() {
        let (_temp, folder, control) = control();
        let (_, key) = control.create_key(NewKey::for_all(""), 5).unwrap();
        let before = control.state().unwrap();
        assert_eq!(control.state().unwrap(), before);
        Control::open(&folder).unwrap().revoke_key(key.prefix(), 10).unwrap();
        assert_ne!(control.state().unwrap(), before);
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let (_temp, folder, control) = control();
        let newer = schema::FORMAT + 1;
        control.lock().pragma_update(None, "user_version", newer).unwrap();
        assert!(matches!(Control::open(&folder), Err(Error::NewerFormat { found, .. }) if found == newer));
        control.lock().execute_batch("PRAGMA user_version = 0").unwrap();
        assert!(matches!(Control::open(&folder), Err(Error::NotControl(_))));
        drop(control);
        std::fs::write(folder.control_path(), vec![7; 4096]).unwrap();
        assert!(matches!(Control::open(&folder), Err(Error::Control { .. })));
    }
}
