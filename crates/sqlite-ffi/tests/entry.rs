//! The entry point: versions, errors, panics, the answer to each way of loading.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_transmute_annotations)]

mod host;

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use cloudsync_sqlite_ffi::bindings::{self, Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, FunctionError, FunctionFlags, Hosting, Output, entry_point};
use host::memory;
use rusqlite::ffi;

static TABLE: AtomicPtr<Sqlite3ApiRoutines> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" fn keep(_: *mut sqlite3, _: *mut *mut c_char, api: *const Sqlite3ApiRoutines) -> c_int {
    TABLE.store(api.cast_mut(), Ordering::Release);
    ffi::SQLITE_OK
}

/// Gives a copy of the table, for tests that change it. Kept for ever, as `Api` demands.
fn table() -> &'static mut Sqlite3ApiRoutines {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        let entry: unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int =
            keep;
        // SAFETY: a valid entry point. Versions of rusqlite declare its type differently, hence the inferred one.
        let rc = unsafe { ffi::sqlite3_auto_extension(Some(std::mem::transmute(entry))) };
        assert_eq!(rc, ffi::SQLITE_OK);
        rusqlite::Connection::open_in_memory().unwrap();
    });
    // SAFETY: the table is plain pointers.
    Box::leak(Box::new(unsafe { TABLE.load(Ordering::Acquire).read() }))
}

/// Calls the entry point and gives its answer and message.
fn enter(
    table: Option<&'static mut Sqlite3ApiRoutines>,
    hosting: Hosting,
    register: impl FnOnce(Connection) -> Result<(), String>,
) -> (c_int, Option<String>) {
    let host = memory();
    let mut message: *mut c_char = ptr::null_mut();
    let table = table.map_or(ptr::null(), |table| ptr::from_mut(table).cast_const());
    // SAFETY: an open connection, a table of its library.
    let rc = unsafe { entry_point(host.ours.as_ptr(), &mut message, table, hosting, register) };
    if message.is_null() {
        return (rc, None);
    }
    // SAFETY: the entry point sets a terminated text, which the caller frees.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_str().unwrap().to_owned();
        ffi::sqlite3_free(message.cast());
        text
    };
    (rc, Some(text))
}

fn never(_: Connection) -> Result<(), String> {
    unreachable!("registered in spite of a refusal")
}

#[test]
fn success_is_answered_as_the_host_wants() {
    let ok = |_| Ok(());
    assert_eq!(enter(Some(table()), Hosting::Loadable, ok), (bindings::SQLITE_OK_LOAD_PERMANENTLY, None));
    assert_eq!(enter(Some(table()), Hosting::Automatic, ok), (bindings::SQLITE_OK, None));
}

#[test]
fn an_old_library_is_refused_before_anything_else() {
    unsafe extern "C" fn number() -> c_int {
        3_034_001
    }
    unsafe extern "C" fn text() -> *const c_char {
        c"3.34.1".as_ptr()
    }
    let old = table();
    old.libversion_number = Some(number);
    old.libversion = Some(text);
    // SAFETY: kept for ever.
    assert_eq!(unsafe { Api::from_raw(old) }, None);
    let (rc, message) = enter(Some(old), Hosting::Loadable, never);
    assert_eq!(rc, bindings::SQLITE_ERROR);
    assert_eq!(message.as_deref(), Some("cloudsync needs SQLite 3.35.0 or newer, this is 3.34.1"));
}

#[test]
fn a_missing_function_is_refused() {
    let crippled = table();
    crippled.txn_state = None;
    let (rc, message) = enter(Some(crippled), Hosting::Loadable, never);
    assert_eq!(rc, bindings::SQLITE_ERROR);
    assert!(message.unwrap().contains("sqlite3_txn_state"));
}

#[test]
fn a_missing_table_is_refused() {
    // SAFETY: null is allowed.
    assert_eq!(unsafe { Api::from_raw(ptr::null()) }, None);
    assert_eq!(enter(None, Hosting::Loadable, never), (bindings::SQLITE_ERROR, None));
}

#[test]
fn errors_and_panics_become_messages() {
    let (rc, message) = enter(Some(table()), Hosting::Loadable, |_| Err("100 %s sure".to_owned()));
    assert_eq!((rc, message.as_deref()), (bindings::SQLITE_ERROR, Some("100 %s sure")));
    let (rc, message) = enter(Some(table()), Hosting::Automatic, |_| panic!("oh"));
    assert_eq!((rc, message.as_deref()), (bindings::SQLITE_ERROR, Some("internal error: oh")));
}

/// Every table gets its own trampoline, and running out of them is an error, not a mix-up.
#[test]
fn several_libraries_share_the_process() {
    let host = memory();
    let mut refused = 0;
    for number in 0..20_i64 {
        // SAFETY: a copy of the table, kept for ever, and an open connection.
        let connection = unsafe {
            let api = Api::from_raw(table()).unwrap();
            Connection::from_raw(host.ours.as_ptr(), api).unwrap()
        };
        let name = format!("f{number}");
        let registered = connection.create_function(&name, 0, FunctionFlags::default(), move |context, _| {
            assert_eq!(context.connection().api(), connection.api());
            Ok::<_, FunctionError>(Output::Integer(number))
        });
        match registered {
            Ok(()) => {
                let sql = format!("SELECT {name}()");
                assert_eq!(host.ours.query_i64(&sql, &[]).unwrap(), Some(number));
            }
            Err(error) => {
                assert!(error.message.contains("too many SQLite libraries"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 4);
}
