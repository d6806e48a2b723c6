//! How SQLite reaches us: the entry point of an extension, and the API table for hosts that link SQLite themselves.

use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, addr_of};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::api::{Api, Refusal, terminated};
use crate::bindings::{self, Sqlite3ApiRoutines, sqlite3};
use crate::connection::Connection;
use crate::trampoline::panic_text;

/// How the extension came into the process; it decides what a successful entry point answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosting {
    /// By `load_extension`: the library is kept in memory when the connection closes, because threads and
    /// thread-local destructors may still need its code.
    Loadable,
    /// By `sqlite3_auto_extension`, where any answer but `SQLITE_OK` makes opening fail.
    Automatic,
}

/// Does what an extension's entry point has to do: checks the version of SQLite before anything else is called, runs
/// `register`, turns an error or a panic into SQLite's error message, and gives the result code to return.
///
/// # Safety
/// The pointers are those that SQLite passed to the entry point. Copies of the connection are used as
/// [`Connection::from_raw`] demands: only while the host keeps it open, which registered functions may rely on.
pub unsafe fn entry_point(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    api: *const Sqlite3ApiRoutines,
    hosting: Hosting,
    register: impl FnOnce(Connection) -> Result<(), String>,
) -> c_int {
    // SAFETY: the caller passes SQLite's own pointers on.
    let checked = unsafe { Api::check(api) };
    let outcome = checked.map_err(describe).and_then(|api| {
        // SAFETY: as above.
        let connection = unsafe { Connection::from_raw(db, api) }.ok_or("SQLite passed no connection")?;
        // Unwind safety: nothing of ours is seen again after a panic.
        catch_unwind(AssertUnwindSafe(|| register(connection))).unwrap_or_else(|panic| Err(panic_text(panic)))
    });
    match (outcome, hosting) {
        (Ok(()), Hosting::Loadable) => bindings::SQLITE_OK_LOAD_PERMANENTLY,
        (Ok(()), Hosting::Automatic) => bindings::SQLITE_OK,
        (Err(text), _) => {
            // SAFETY: as above.
            unsafe { report(message, api, &text) };
            bindings::SQLITE_ERROR
        }
    }
}

/// Keeps the API table of this process for [`captured_api`]. An entry point for `sqlite3_auto_extension`, which calls
/// it whenever a connection is opened.
///
/// Only for hosts with exactly one SQLite, linked into the program (the server, tests); a loadable extension meets
/// several and must use [`entry_point`].
///
/// # Safety
/// The pointers are those that SQLite passes to an entry point.
pub unsafe extern "C" fn capture_api(
    _db: *mut sqlite3,
    message: *mut *mut c_char,
    api: *const Sqlite3ApiRoutines,
) -> c_int {
    // SAFETY: the pointers are SQLite's own.
    match unsafe { Api::check(api) } {
        Ok(api) => {
            CAPTURED.store(api.as_ptr(), Ordering::Release);
            bindings::SQLITE_OK
        }
        Err(refusal) => {
            // SAFETY: as above.
            unsafe { report(message, api, &describe(refusal)) };
            bindings::SQLITE_ERROR
        }
    }
}

/// Gives the API kept by [`capture_api`]; `None` before the first connection was opened.
pub fn captured_api() -> Option<Api> {
    // SAFETY: null, or a table that `capture_api` checked, of a library linked into the program.
    unsafe { Api::from_raw(CAPTURED.load(Ordering::Acquire)) }
}

static CAPTURED: AtomicPtr<Sqlite3ApiRoutines> = AtomicPtr::new(ptr::null_mut());

fn describe(refusal: Refusal) -> String {
    match refusal {
        Refusal::NoTable => "cloudsync needs a SQLite that was built with extension loading".to_owned(),
        Refusal::TooOld(version) => format!("cloudsync needs SQLite 3.35.0 or newer, this is {version}"),
        Refusal::Missing(name) => {
            format!("cloudsync needs sqlite3_{name}, which this build of SQLite leaves out")
        }
    }
}

/// Hands an error text to SQLite, which frees it.
///
/// # Safety
/// `message` and `table` are SQLite's own pointers; either may be null. The version is not yet known.
unsafe fn report(message: *mut *mut c_char, table: *const Sqlite3ApiRoutines, text: &str) {
    if message.is_null() || table.is_null() {
        return;
    }
    let text = terminated(text);
    // SAFETY: mprintf stands early in the table, in every version 3; the constant format has one %s, and one
    // terminated string follows. SQLite frees what mprintf allocated.
    unsafe {
        if let Some(mprintf) = addr_of!((*table).mprintf).read() {
            *message = mprintf(c"%s".as_ptr(), text.as_ptr().cast::<c_char>());
        }
    }
}
