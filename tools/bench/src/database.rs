//! A database under test: a fresh file, plain or with a replica.

use crate::data::{Rows, column_type};
use crate::report::Implementation;
use anyhow::{Context, Result, anyhow};
use cloudsync_protocol::limits::CHUNK_BYTES_TARGET;
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::{Extraction, Filter, Origin, Replica, Source, SystemEnvironment, Zstd};
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, Statement, Value, capture_api, captured_api};
use rusqlite::ffi;
use std::ffi::{c_char, c_int};
use std::rc::Rc;
use std::sync::OnceLock;

type EntryPoint = unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int;

/// Gives the API of the SQLite that is linked into this program.
fn api() -> Result<Api> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let rc = *REGISTERED.get_or_init(|| {
        let entry: EntryPoint = capture_api;
        // SAFETY: a valid entry point. The two crates declare the same C types under their own names, hence the
        // inferred target type.
        #[allow(clippy::missing_transmute_annotations)]
        unsafe {
            ffi::sqlite3_auto_extension(Some(std::mem::transmute(entry)))
        }
    });
    if rc != ffi::SQLITE_OK {
        return Err(anyhow!("SQLite refused the registration of its API: code {rc}"));
    }
    rusqlite::Connection::open_in_memory()?;
    captured_api().context("SQLite did not hand out its API")
}

/// A fresh database with the empty table `t`.
pub(crate) struct Database {
    replica: Option<Replica>,
    connection: Connection,
    // Closed and removed last.
    _owner: rusqlite::Connection,
    _folder: tempfile::TempDir,
}

impl Database {
    /// Creates the file, and makes the table sync unless it is a plain one.
    pub(crate) fn create(columns: usize, implementation: Implementation) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let api = api()?;
        let owner = rusqlite::Connection::open(folder.path().join("bench.db"))?;
        // SAFETY: the handle is open, of the only SQLite in the process, and kept open by `owner`, which is dropped
        // after everything made from the connection.
        let connection =
            unsafe { Connection::from_raw(owner.handle().cast(), api) }.context("no connection")?;
        connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")?;
        let list: String =
            (0..columns).map(|column| format!(", c{column} {}", column_type(column))).collect();
        connection.execute(&format!("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL{list})"))?;
        let replica = match implementation {
            Implementation::Plain => None,
            Implementation::Cloudsync => {
                let environment =
                    SystemEnvironment::new(move |buffer: &mut [u8]| connection.randomness(buffer));
                let mut replica = Replica::open(connection, Rc::new(environment))?;
                replica.init("t", "cls", 0)?;
                replica.fold()?;
                Some(replica)
            }
        };
        let database = Self { replica, connection, _owner: owner, _folder: folder };
        database.checkpoint()?;
        Ok(database)
    }

    /// Empties the WAL into the file, so that one work does not pay for the one before.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        Ok(self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")?)
    }

    /// Folds, where there is a replica.
    pub(crate) fn fold(&mut self) -> Result<()> {
        if let Some(replica) = &mut self.replica {
            replica.fold()?;
        }
        Ok(())
    }

    /// The replica of a database that has one.
    pub(crate) fn replica(&mut self) -> Result<&mut Replica> {
        self.replica.as_mut().context("a plain database has no replica")
    }

    /// Runs SQL.
    pub(crate) fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.connection.execute(sql)?)
    }

    /// Bytes of the file, and of its pages that are in use.
    pub(crate) fn size(&self) -> Result<(i64, i64)> {
        self.checkpoint()?;
        let pragma = |name: &str| -> Result<i64> {
            self.connection.query_i64(&format!("PRAGMA {name}"), &[])?.with_context(|| format!("no {name}"))
        };
        let (pages, free, size) = (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
        Ok((pages * size, (pages - free) * size))
    }

    /// Prepares a statement that is run many times.
    pub(crate) fn prepare(&self, sql: &str) -> Result<Statement> {
        Ok(self.connection.prepare_persistent(sql)?)
    }

    /// Runs `act` in one transaction.
    pub(crate) fn in_transaction(&self, act: impl FnOnce() -> Result<()>) -> Result<()> {
        self.execute("BEGIN")?;
        act()?;
        self.execute("COMMIT")
    }

    /// Runs `sql` once per row, with key and all values as parameters.
    pub(crate) fn run_per_row(&self, sql: &str, rows: &Rows) -> Result<()> {
        let mut statement = self.prepare(sql)?;
        let mut buffer = Vec::with_capacity(rows.columns + 1);
        for row in 0..rows.count() {
            rows.fill(row, &mut buffer);
            statement.run(&buffer)?;
        }
        Ok(())
    }

    /// Reads every row of a query.
    pub(crate) fn read(&self, sql: &str, values: &[Value<'_>]) -> Result<usize> {
        let mut bytes = 0;
        self.prepare(sql)?.for_each(values, |row| -> Result<()> {
            bytes += (0..row.column_count()).map(|column| size_of_value(row.column(column))).sum::<usize>();
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Extracts what changed after `version`, in chunks.
    pub(crate) fn extract(&mut self, version: u64) -> Result<Vec<Vec<u8>>> {
        let replica = self.replica()?;
        let last = replica.version()?;
        let mut from = Some(replica.position_after(version)?);
        let mut chunks = Vec::new();
        while let Some(position) = from {
            let wanted = Extraction {
                from: position,
                last,
                filter: Filter::Everything,
                bytes_target: CHUNK_BYTES_TARGET,
            };
            let chunk = replica.transact(|replica| replica.extract_in_transaction(&wanted))?;
            chunks.extend((chunk.rows > 0).then_some(chunk.payload));
            from = chunk.next;
        }
        Ok(chunks)
    }

    /// Applies chunks as those of a server: each in a transaction of its own.
    pub(crate) fn apply(&mut self, chunks: &[Vec<u8>]) -> Result<()> {
        let source = Source { origin: Origin::Server, time_max: None, base: 0 };
        let replica = self.replica()?;
        for chunk in chunks {
            let opened = Opened::open(chunk, &Zstd).map_err(|error| anyhow!("{error}"))?;
            let payload = opened.payload().map_err(|error| anyhow!("{error}"))?;
            let apply = |replica: &mut Replica| replica.apply_in_transaction(&[payload], source);
            let applied = replica.with_apply_settings(|replica| replica.transact(apply))?;
            if applied.quarantined > 0 {
                return Err(anyhow!("{} rows were put into the quarantine", applied.quarantined));
            }
        }
        Ok(())
    }
}

fn size_of_value(value: Value<'_>) -> usize {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
    }
}

/// `INSERT INTO t` with a parameter for each column.
pub(crate) fn insert_sql(columns: usize) -> String {
    let values: String = (0..columns).map(|column| format!(", ?{}", column + 2)).collect();
    format!("INSERT INTO t VALUES(?1{values})")
}

/// An insertion that updates every column of a row that is there already.
pub(crate) fn upsert_sql(columns: usize) -> String {
    let sets: Vec<_> = (0..columns).map(|column| format!("c{column} = excluded.c{column}")).collect();
    format!("{} ON CONFLICT(id) DO UPDATE SET {}", insert_sql(columns), sets.join(", "))
}

/// An update of every column.
pub(crate) fn update_all_sql(columns: usize) -> String {
    let sets: Vec<_> = (0..columns).map(|column| format!("c{column} = ?{}", column + 2)).collect();
    format!("UPDATE t SET {} WHERE id = ?1", sets.join(", "))
}
