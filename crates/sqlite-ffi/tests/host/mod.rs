//! A host as the server and other tests are: SQLite linked in, connections opened by rusqlite.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::missing_transmute_annotations)]

use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, capture_api, captured_api};
use rusqlite::ffi;

type EntryPoint =
    unsafe extern "C" fn(*mut ffi::sqlite3, *mut *mut c_char, *const ffi::sqlite3_api_routines) -> c_int;

/// Gives the API of the SQLite that is linked into the test.
pub(crate) fn api() -> Api {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        let entry: unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int =
            capture_api;
        // SAFETY: a valid entry point. Versions of rusqlite declare its type differently, hence the inferred one.
        let rc = unsafe { ffi::sqlite3_auto_extension(Some(std::mem::transmute(entry))) };
        assert_eq!(rc, ffi::SQLITE_OK);
        rusqlite::Connection::open_in_memory().unwrap();
    });
    captured_api().unwrap()
}

/// An open connection: rusqlite's, which owns it, and ours.
pub(crate) struct Host {
    pub(crate) ours: Connection,
    // Closed last.
    pub(crate) owner: rusqlite::Connection,
}

pub(crate) fn wrap(owner: rusqlite::Connection) -> Host {
    let api = api();
    // SAFETY: open, of the only library in the process, and kept open by `Host`.
    let ours = unsafe { Connection::from_raw(owner.handle().cast(), api) }.unwrap();
    Host { ours, owner }
}

pub(crate) fn memory() -> Host {
    wrap(rusqlite::Connection::open_in_memory().unwrap())
}

/// A file that goes away with the value.
pub(crate) struct TempFile(PathBuf);

impl TempFile {
    pub(crate) fn new() -> TempFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        TempFile(std::env::temp_dir().join(format!("cloudsync-ffi-{}-{count}.db", std::process::id())))
    }

    pub(crate) fn open(&self) -> Host {
        let owner = rusqlite::Connection::open(&self.0).unwrap();
        owner.busy_timeout(std::time::Duration::ZERO).unwrap();
        wrap(owner)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
