//! The entry points that SQLite calls. The only unsafe code of this crate: they pass SQLite's pointers on.
#![allow(unsafe_code)]

use crate::functions;
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Hosting, entry_point};
use std::ffi::{c_char, c_int};

/// The entry point of the loadable extension: `.load ./cloudsync`, `load_extension('./cloudsync')`.
///
/// Gives `SQLITE_OK_LOAD_PERMANENTLY`, or `SQLITE_ERROR` with a message that SQLite frees.
///
/// # Safety
/// The pointers are those that SQLite passes to an entry point.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_cloudsync_init(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    api: *const Sqlite3ApiRoutines,
) -> c_int {
    // SAFETY: the caller passes SQLite's own pointers.
    unsafe { entry_point(db, message, api, Hosting::Loadable, functions::register) }
}

/// The entry point for programs that link SQLite and this library and call `sqlite3_auto_extension`: every connection
/// opened afterwards has the functions.
///
/// Gives `SQLITE_OK`, or `SQLITE_ERROR` with a message that SQLite frees.
///
/// # Safety
/// The pointers are those that SQLite passes to an entry point.
pub unsafe extern "C" fn auto_init(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    api: *const Sqlite3ApiRoutines,
) -> c_int {
    // SAFETY: the caller passes SQLite's own pointers.
    unsafe { entry_point(db, message, api, Hosting::Automatic, functions::register) }
}
