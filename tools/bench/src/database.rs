//! A database under test: a file, the table `t`, and the loops that a program in C would write.

use crate::data::Rows;
use anyhow::{Context, Result, anyhow};
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, Statement, Value, capture_api, captured_api};
use rusqlite::ffi;
use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};
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

/// An open database: WAL, `synchronous=NORMAL`.
pub(crate) struct Database {
    connection: Connection,
    owner: rusqlite::Connection,
    path: PathBuf,
}

impl Database {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path, temp_store_memory: bool) -> Result<Self> {
        let api = api()?;
        let owner = rusqlite::Connection::open(path)?;
        // SAFETY: the handle is open, of the only SQLite in the process, and kept open by `owner`, which is dropped
        // after everything made from the connection.
        let connection =
            unsafe { Connection::from_raw(owner.handle().cast(), api) }.context("no connection")?;
        connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")?;
        if temp_store_memory {
            connection.execute("PRAGMA temp_store=MEMORY")?;
        }
        Ok(Self { connection, owner, path: path.to_owned() })
    }

    /// The connection, for what works on it; it must not outlive this.
    pub(crate) fn connection(&self) -> Connection {
        self.connection
    }

    /// The owner of the connection.
    pub(crate) fn owner(&self) -> &rusqlite::Connection {
        &self.owner
    }

    /// Empties the WAL into the file, so that one work does not pay for the one before.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// Bytes of the WAL: what was written since the last checkpoint, if none came by itself.
    pub(crate) fn wal_bytes(&self) -> u64 {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        std::fs::metadata(name).map_or(0, |metadata| metadata.len())
    }

    /// Bytes of the file, the WAL checkpointed.
    pub(crate) fn file_bytes(&self) -> Result<u64> {
        self.checkpoint()?;
        Ok(std::fs::metadata(&self.path)?.len())
    }

    /// Runs SQL.
    pub(crate) fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.connection.execute(sql)?)
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

    /// Runs `sql` once per row, with what `fill` puts into the buffer as parameters.
    pub(crate) fn run_per_row<'r>(
        &self,
        sql: &str,
        numbers: impl IntoIterator<Item = usize>,
        mut fill: impl FnMut(usize, &mut Vec<Value<'r>>),
    ) -> Result<()> {
        let mut statement = self.prepare(sql)?;
        let mut buffer = Vec::new();
        for row in numbers {
            fill(row, &mut buffer);
            statement.run(&buffer)?;
        }
        Ok(())
    }

    /// Runs `sql` once per row, with key and all values as parameters.
    pub(crate) fn run_with_rows(&self, sql: &str, rows: &Rows) -> Result<()> {
        self.run_per_row(sql, 0..rows.count(), |row, buffer| rows.fill(row, buffer))
    }

    /// Reads every value of a query and gives their bytes.
    pub(crate) fn read(&self, sql: &str) -> Result<usize> {
        let mut bytes = 0;
        self.prepare(sql)?.for_each(&[], |row| -> Result<()> {
            bytes += row_bytes(row);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Looks one cell of each of these rows up by key, and gives the bytes of keys and values.
    pub(crate) fn read_by_key(&self, rows: &Rows, numbers: &[usize]) -> Result<usize> {
        let (mut bytes, mut buffer) = (0, Vec::new());
        let mut select = self.prepare(&rows.shape.select_one_sql())?;
        for &row in numbers {
            rows.fill_key(row, &mut buffer);
            bytes += select.query_row(&buffer, |row| -> Result<usize> { Ok(row_bytes(row)) })?.unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Says that the table holds exactly these rows, or fails: a work that was not done costs nothing.
    pub(crate) fn expect(&self, rows: &Rows) -> Result<()> {
        let mut select = self.prepare("SELECT count(*), total(length(c0)) FROM t")?;
        let found = select.query_row(&[], |row| -> Result<_> {
            Ok((row.column_i64(0) as usize, row.column_i64(1) as usize))
        })?;
        let mut buffer = Vec::new();
        let mut length = 0;
        for row in 0..rows.count() {
            rows.fill_one(row, &mut buffer);
            length += buffer.last().map_or(0, |value| length_of(*value));
        }
        let wanted = Some((rows.count(), length));
        if found == wanted { Ok(()) } else { Err(anyhow!("t holds {found:?}, and should hold {wanted:?}")) }
    }
}

fn row_bytes(row: &Statement) -> usize {
    (0..row.column_count()).map(|column| value_bytes(row.column(column))).sum()
}

/// Bytes of a value as a reader gets it: numbers have eight.
fn value_bytes(value: Value<'_>) -> usize {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
    }
}

/// What `length()` gives for the values that the first column can have.
fn length_of(value: Value<'_>) -> usize {
    match value {
        Value::Integer(integer) => integer.to_string().len(),
        Value::Null | Value::Real(_) => 0,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
    }
}
