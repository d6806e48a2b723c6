//! The control database: which databases there are, and which keys open them.
//!
//! Every request asks it, so that a command in another process takes effect at once. It is a SQLite file in WAL mode:
//! readers never wait for the commands that write.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, TransactionBehavior, params};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::folder::{DatabaseName, Folder};
use crate::key::Key;
use crate::store::Rights;

/// The format that this version writes, and the newest that it reads.
const FORMAT: i64 = 1;
const BUSY_MS: u64 = 5000;
/// How old the time of last use may become before it is written again. Each write is an `fsync`, and a poll that
/// finds nothing must not cause one.
const LAST_USED_STALE_MS: u64 = 3_600_000;
/// The scope of a key that may do everything.
const SCOPE_ADMIN: &str = "admin";

// language=SQLite
const SCHEMA: &str = "
CREATE TABLE databases (name TEXT PRIMARY KEY NOT NULL, created_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX databases_file ON databases (name COLLATE NOCASE);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    database TEXT REFERENCES databases (name),
    scopes TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    last_used_ms INTEGER,
    revoked_ms INTEGER
) STRICT;
PRAGMA user_version = 1;
";

// language=SQLite
const SELECT_DATABASES: &str = "SELECT name, strftime('%Y-%m-%dT%H:%M:%SZ', created_ms / 1000, 'unixepoch') FROM databases ORDER BY name";

// language=SQLite
const SELECT_KEYS: &str = "
SELECT id, prefix, name, database, scopes,
    strftime('%Y-%m-%dT%H:%M:%SZ', created_ms / 1000, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%SZ', last_used_ms / 1000, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%SZ', revoked_ms / 1000, 'unixepoch')
FROM keys ORDER BY id";

// language=SQLite
const SELECT_PRINCIPAL: &str = "
SELECT hash, id, database, scopes, last_used_ms FROM keys WHERE hash = ?1 AND revoked_ms IS NULL";

// language=SQLite
const INSERT_KEY: &str =
    "INSERT INTO keys (prefix, name, hash, database, scopes, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// The number by which commands name a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct KeyId(pub i64);

/// One database of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseRecord {
    /// Its name.
    pub name: String,
    /// When it was created, as ISO 8601 in UTC.
    pub created: String,
}

/// One key as lists show it, which is not enough to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Its number.
    pub id: KeyId,
    /// Its first characters.
    pub prefix: String,
    /// What its owner calls it, or nothing.
    pub name: String,
    /// The one database that it opens; `None` if it opens all.
    pub database: Option<String>,
    /// What it may do, as words.
    pub scopes: String,
    /// When it was created, as ISO 8601 in UTC.
    pub created: String,
    /// When it was last used, at most an hour too early.
    pub last_used: Option<String>,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// Who asks, once the key has been found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key.
    pub key: KeyId,
    /// True when the key opens every database, so that its owner may learn which ones exist.
    pub is_for_all: bool,
    /// What the key may do.
    pub rights: Rights,
}

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
        let path = folder.control_path();
        let fail = |source| Error::Control { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(fail)?;
        connection.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(fail)?;
        let found = format_of(&connection).map_err(fail)?;
        if found > FORMAT {
            return Err(Error::NewerFormat { path, found, known: FORMAT });
        }
        connection.pragma_update(None, "journal_mode", "wal").map_err(fail)?;
        connection.pragma_update(None, "synchronous", "full").map_err(fail)?;
        if found == 0 && !create(&mut connection).map_err(fail)? {
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

    /// All databases, by name.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn databases(&self) -> Result<Vec<DatabaseRecord>> {
        self.select(SELECT_DATABASES, |row| Ok(DatabaseRecord { name: row.get(0)?, created: row.get(1)? }))
    }

    /// Whether there is such a database.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn has_database(&self, name: &DatabaseName) -> Result<bool> {
        // language=SQLite
        let sql = "SELECT EXISTS (SELECT 1 FROM databases WHERE name = ?1)";
        self.with(|connection| connection.prepare_cached(sql)?.query_row([name.as_str()], |row| row.get(0)))
    }

    /// Registers a database, whose file must exist. False if it was registered already.
    ///
    /// # Errors
    /// [`Error::DatabaseExists`] when another one differs by case only; their files would be one on some systems.
    pub fn create_database(&self, name: &DatabaseName, now_ms: u64) -> Result<bool> {
        if self.has_database(name)? {
            return Ok(false);
        }
        // language=SQLite
        let sql = "INSERT INTO databases (name, created_ms) VALUES (?1, ?2)";
        let inserted = self.lock().execute(sql, params![name.as_str(), now_ms.cast_signed()]);
        match inserted {
            Ok(_) => Ok(true),
            Err(source) if source.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(Error::DatabaseExists(name.to_string()))
            }
            Err(source) => Err(self.fail(source)),
        }
    }

    /// Makes a key that may do everything, in one database or in all. This is the only time that the key is known.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], [`Error::Random`], or [`Error::Control`] when SQLite fails.
    pub fn create_key(
        &self,
        database: Option<&DatabaseName>,
        name: &str,
        now_ms: u64,
    ) -> Result<(KeyId, Key)> {
        if let Some(database) = database
            && !self.has_database(database)?
        {
            return Err(Error::NoDatabase(database.to_string()));
        }
        let key = Key::generate()?;
        let database = database.map(DatabaseName::as_str);
        let (hash, now_ms) = (key.hash().0, now_ms.cast_signed());
        let id = self.with(|connection| {
            connection
                .execute(INSERT_KEY, params![key.prefix(), name, hash, database, SCOPE_ADMIN, now_ms])?;
            Ok(KeyId(connection.last_insert_rowid()))
        })?;
        Ok((id, key))
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn keys(&self) -> Result<Vec<KeyRecord>> {
        self.select(SELECT_KEYS, |row| {
            Ok(KeyRecord {
                id: KeyId(row.get(0)?),
                prefix: row.get(1)?,
                name: row.get(2)?,
                database: row.get(3)?,
                scopes: row.get(4)?,
                created: row.get(5)?,
                last_used: row.get(6)?,
                revoked: row.get(7)?,
            })
        })
    }

    /// Revokes the key of this id, of this whole text or with this beginning, and gives its id. Revoking again is no
    /// error.
    ///
    /// # Errors
    /// [`Error::NoKey`], [`Error::AmbiguousKey`], or [`Error::Control`] when SQLite fails.
    pub fn revoke_key(&self, which: &str, now_ms: u64) -> Result<KeyId> {
        let whole = Key::parse(which);
        let start = whole.as_ref().map_or(which, Key::prefix);
        let fits = |key: &KeyRecord| match which.parse() {
            Ok(id) => key.id == KeyId(id),
            Err(_) => which.starts_with("csk_") && key.prefix.starts_with(start),
        };
        let mut found = self.keys()?.into_iter().filter(fits);
        let key = found.next().ok_or_else(|| Error::NoKey(start.to_owned()))?;
        if found.next().is_some() {
            return Err(Error::AmbiguousKey(start.to_owned()));
        }
        // language=SQLite
        let sql = "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1";
        self.with(|connection| connection.execute(sql, params![key.id.0, now_ms.cast_signed()]))?;
        Ok(key.id)
    }

    /// Who presents this key for this database; `None` for an unknown or revoked key and for one of another database.
    /// With no database only a key for all of them is good.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn principal(
        &self,
        key: &Key,
        database: Option<&DatabaseName>,
        now_ms: u64,
    ) -> Result<Option<Principal>> {
        let hash = key.hash();
        let connection = self.lock();
        let row = connection.prepare_cached(SELECT_PRINCIPAL).and_then(|mut statement| {
            let row = statement.query_row([hash.0], |row| {
                let (stored, id): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
                let (of, scopes): (Option<String>, String) = (row.get(2)?, row.get(3)?);
                Ok((stored, KeyId(id), of, scopes, row.get::<_, Option<i64>>(4)?))
            });
            row.optional()
        });
        let Some((stored, key, of, scopes, last_used_ms)) = row.map_err(|source| self.fail(source))? else {
            return Ok(None);
        };
        let is_good = of.as_deref().is_none_or(|of| database.is_some_and(|name| name.as_str() == of));
        if !hash.is(&stored) || !is_good {
            return Ok(None);
        }
        let age_ms = now_ms.saturating_sub(last_used_ms.unwrap_or(0).max(0).cast_unsigned());
        if last_used_ms.is_none() || age_ms >= LAST_USED_STALE_MS {
            note_use(&connection, key, now_ms);
        }
        let is_admin = scopes.split(' ').any(|scope| scope == SCOPE_ADMIN);
        let rights = Rights { write: is_admin, schema: is_admin };
        Ok(Some(Principal { key, is_for_all: of.is_none(), rights }))
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

    fn select<T>(&self, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>> {
        self.with(|connection| connection.prepare_cached(sql)?.query_map([], read)?.collect())
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

/// Creates the tables unless another process has just done so; false if the file holds something else.
fn create(connection: &mut Connection) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if format_of(&transaction)? == 0 {
        // language=SQLite
        let sql = "SELECT count(*) FROM sqlite_master";
        if transaction.query_row(sql, [], |row| row.get::<_, i64>(0))? != 0 {
            return Ok(false);
        }
        transaction.execute_batch(SCHEMA)?;
    }
    transaction.commit()?;
    Ok(true)
}

fn format_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Notes that a key was used, unless another process writes just then: the request must not wait for a statistic.
fn note_use(connection: &Connection, key: KeyId, now_ms: u64) {
    // language=SQLite
    let sql = "UPDATE keys SET last_used_ms = ?2 WHERE id = ?1";
    let noted = connection
        .busy_timeout(Duration::ZERO)
        .and_then(|()| connection.execute(sql, params![key.0, now_ms.cast_signed()]));
    if let Err(error) = noted.and(connection.busy_timeout(Duration::from_millis(BUSY_MS))) {
        tracing::debug!(key = key.0, %error, "the time of last use was not noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> (tempfile::TempDir, Folder, Control) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        let control = Control::open(&folder).unwrap();
        (temp, folder, control)
    }

    fn name(name: &str) -> DatabaseName {
        DatabaseName::new(name).unwrap()
    }

    #[test]
    fn databases_are_unique_also_by_case() {
        let (_temp, folder, control) = control();
        assert!(control.create_database(&name("one"), 0).unwrap());
        assert!(!control.create_database(&name("one"), 1).unwrap());
        assert!(matches!(control.create_database(&name("One"), 1), Err(Error::DatabaseExists(_))));
        let other = Control::open(&folder).unwrap();
        assert!(other.has_database(&name("one")).unwrap());
        assert_eq!(
            other.databases().unwrap(),
            [DatabaseRecord { name: "one".into(), created: "1970-01-01T00:00:00Z".into() }]
        );
    }

    #[test]
    fn a_key_opens_its_database_until_another_process_revokes_it() {
        let (_temp, folder, control) = control();
        control.create_database(&name("one"), 0).unwrap();
        let (id, key) = control.create_key(Some(&name("one")), "mine", 5).unwrap();
        let (_, all) = control.create_key(None, "", 5).unwrap();
        let is_good = |key: &Key, database: Option<&str>| {
            let database = database.map(name);
            control.principal(key, database.as_ref(), 9).unwrap().is_some()
        };
        assert!(is_good(&key, Some("one")) && !is_good(&key, Some("two")) && !is_good(&key, None));
        assert!(is_good(&all, Some("one")) && is_good(&all, Some("two")) && is_good(&all, None));
        assert!(!is_good(&Key::generate().unwrap(), Some("one")));
        assert_eq!(Control::open(&folder).unwrap().revoke_key(key.prefix(), 10).unwrap(), id);
        assert!(!is_good(&key, Some("one")) && is_good(&all, Some("one")));
        assert!(matches!(control.create_key(Some(&name("two")), "", 0), Err(Error::NoDatabase(_))));
    }

    #[test]
    fn the_state_tells_of_what_other_processes_did() {
        let (_temp, folder, control) = control();
        let (_, key) = control.create_key(None, "", 5).unwrap();
        let before = control.state().unwrap();
        assert_eq!(control.state().unwrap(), before);
        Control::open(&folder).unwrap().revoke_key(key.prefix(), 10).unwrap();
        assert_ne!(control.state().unwrap(), before);
    }

    #[test]
    fn keys_are_named_by_id_beginning_or_whole() {
        let (_temp, _folder, control) = control();
        let (one, key) = control.create_key(None, "", 5).unwrap();
        let (two, _) = control.create_key(None, "", 5).unwrap();
        assert_eq!(control.revoke_key(key.reveal(), 7_000).unwrap(), one);
        assert_eq!(control.revoke_key(&two.0.to_string(), 7_000).unwrap(), two);
        assert_eq!(control.revoke_key(&two.0.to_string(), 9_000).unwrap(), two);
        assert!(matches!(control.revoke_key("csk_", 7), Err(Error::AmbiguousKey(_))));
        for unknown in ["", "9", "-1", "csk_?", "x"] {
            assert!(matches!(control.revoke_key(unknown, 7), Err(Error::NoKey(_))), "{unknown:?}");
        }
        let revoked: Vec<_> = control.keys().unwrap().into_iter().filter_map(|key| key.revoked).collect();
        assert_eq!(revoked, ["1970-01-01T00:00:07Z", "1970-01-01T00:00:07Z"]);
    }

    #[test]
    fn use_is_noted_once_an_hour_and_the_secret_never() {
        let (_temp, folder, control) = control();
        let (_, key) = control.create_key(None, "", 0).unwrap();
        let used = |now_ms| {
            control.principal(&key, None, now_ms).unwrap().unwrap();
            control.keys().unwrap().remove(0).last_used.unwrap()
        };
        assert_eq!(used(1_000), "1970-01-01T00:00:01Z");
        assert_eq!(used(3_600_000), "1970-01-01T00:00:01Z");
        assert_eq!(used(3_601_000), "1970-01-01T01:00:01Z");
        control.lock().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let stored = std::fs::read(folder.control_path()).unwrap();
        let secret = &key.reveal().as_bytes()[12..];
        assert!(!stored.windows(secret.len()).any(|bytes| bytes == secret));
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let (_temp, folder, control) = control();
        control.lock().execute_batch("PRAGMA user_version = 2").unwrap();
        assert!(matches!(Control::open(&folder), Err(Error::NewerFormat { found: 2, known: 1, .. })));
        control.lock().execute_batch("PRAGMA user_version = 0").unwrap();
        assert!(matches!(Control::open(&folder), Err(Error::NotControl(_))));
        drop(control);
        std::fs::write(folder.control_path(), vec![7; 4096]).unwrap();
        assert!(matches!(Control::open(&folder), Err(Error::Control { .. })));
    }
}
