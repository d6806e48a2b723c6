//! A connection that rusqlite owns and a replica uses.

use anyhow::{Context, Result, bail};
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, capture_api, captured_api};
use rusqlite::ffi;
use std::ffi::{c_char, c_int};
use std::path::Path;
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
        bail!("SQLite refused the registration of its API: code {rc}");
    }
    rusqlite::Connection::open_in_memory()?;
    captured_api().context("SQLite did not hand out its API")
}

/// Opens a file for an app: nothing waits, since nothing else runs meanwhile.
pub(crate) fn open(path: &Path) -> Result<rusqlite::Connection> {
    api()?;
    let owner = rusqlite::Connection::open(path)?;
    owner.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;")?;
    Ok(owner)
}

/// Makes compactions of the change list frequent, so that a short run sees many of them.
pub(crate) fn compact_often(db: &rusqlite::Connection) -> Result<()> {
    let sql = "INSERT INTO cloudsync_settings VALUES('history_ms', 3000), ('compaction_entries_min', 8)";
    Ok(db.execute_batch(sql)?)
}

/// Our handle of a connection.
///
/// # Safety
/// `owner` outlives the handle and everything made from it.
pub(crate) unsafe fn wrap(owner: &rusqlite::Connection) -> Result<Connection> {
    // SAFETY: open, of the only SQLite in the process; the caller keeps it open, in one thread.
    unsafe { Connection::from_raw(owner.handle().cast(), api()?) }.context("no connection")
}
