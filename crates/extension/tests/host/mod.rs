//! A program that links SQLite and the library, as rusqlite users do.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::missing_transmute_annotations)]

use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use rusqlite::{Connection, ffi};
use std::ffi::{c_char, c_int};
use std::path::Path;
use std::sync::Once;

type Entry = unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int;

fn register() {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        for entry in [cloudsync::auto_init as Entry, cloudsync_sqlite_ffi::capture_api as Entry] {
            // SAFETY: a valid entry point. Versions of rusqlite declare its type differently, hence the inferred one.
            let rc = unsafe { ffi::sqlite3_auto_extension(Some(std::mem::transmute(entry))) };
            assert_eq!(rc, ffi::SQLITE_OK);
        }
    });
}

pub(crate) fn memory() -> Connection {
    register();
    Connection::open_in_memory().unwrap()
}

pub(crate) fn open(path: &Path) -> Connection {
    register();
    Connection::open(path).unwrap()
}

/// The first column of the first row as the `sqlite3` shell shows it; `NULL` for NULL, hex for BLOBs.
pub(crate) fn show(db: &Connection, sql: &str) -> String {
    match try_show(db, sql) {
        Ok(text) => text,
        Err(error) => panic!("{sql}: {error}"),
    }
}

pub(crate) fn try_show(db: &Connection, sql: &str) -> rusqlite::Result<String> {
    use rusqlite::types::ValueRef;
    db.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            ValueRef::Null => "NULL".to_owned(),
            ValueRef::Integer(integer) => integer.to_string(),
            ValueRef::Real(real) => real.to_string(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Blob(blob) => blob.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    })
}

/// The text of the error that a statement must give.
pub(crate) fn error(db: &Connection, sql: &str) -> String {
    match try_show(db, sql) {
        Ok(value) => panic!("{sql} gave {value}"),
        Err(error) => error.to_string(),
    }
}

/// The result code of the error that a statement must give.
pub(crate) fn code(db: &Connection, sql: &str) -> c_int {
    match try_show(db, sql).unwrap_err() {
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code,
        rusqlite::Error::SqlInputError { error, .. } => error.extended_code,
        other => panic!("{sql}: {other}"),
    }
}

pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS my_data (id TEXT PRIMARY KEY NOT NULL, \
     value TEXT NOT NULL DEFAULT '', created_at TEXT DEFAULT CURRENT_TIMESTAMP)";

/// A connection with the table of the walkthrough, synced.
pub(crate) fn walkthrough(db: Connection) -> Connection {
    db.execute_batch(TABLE).unwrap();
    assert_eq!(show(&db, "SELECT cloudsync_init('my_data')").len(), 32);
    db
}

/// All rows of the table, in order.
pub(crate) fn rows(db: &Connection) -> String {
    show(
        db,
        "SELECT coalesce(group_concat(id || '|' || value || '|' || created_at, ';'), '') FROM \
         (SELECT * FROM my_data ORDER BY id)",
    )
}

/// Closes, which SQLite refuses while a statement is open.
pub(crate) fn close(db: Connection) {
    db.close().map_err(|(_, error)| error).unwrap();
}
