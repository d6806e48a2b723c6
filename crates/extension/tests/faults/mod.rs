//! Memory and files that fail: at the n-th call of this thread, once or from then on.

#![allow(clippy::unwrap_used, clippy::missing_transmute_annotations)]

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_mem_methods, sqlite3_vfs};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    File,
}

thread_local! {
    /// What fails, after how many calls, and whether it goes on failing.
    static ARMED: Cell<Option<(Kind, u64, bool)>> = const { Cell::new(None) };
    static FAILED: Cell<u64> = const { Cell::new(0) };
    /// Pieces of memory that this thread took and did not give back.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// The addresses of SQLite's own methods.
static MEMORY: OnceLock<usize> = OnceLock::new();
static FILES: OnceLock<usize> = OnceLock::new();

/// Puts the failing ones in the place of SQLite's own. Before anything else is asked of SQLite.
pub(crate) fn install() {
    static INSTALL: OnceLock<()> = OnceLock::new();
    INSTALL.get_or_init(|| {
        // SAFETY: SQLite is not initialised yet; the structures live for ever, the functions are those of SQLite's
        // interfaces.
        unsafe {
            let mut methods: sqlite3_mem_methods = std::mem::zeroed();
            assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods), ffi::SQLITE_OK);
            MEMORY.set(&raw const *Box::leak(Box::new(methods)) as usize).ok();
            let failing = sqlite3_mem_methods {
                xMalloc: Some(malloc),
                xRealloc: Some(realloc),
                xFree: Some(free),
                ..methods
            };
            let failing: &'static mut _ = Box::leak(Box::new(failing));
            assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut *failing), ffi::SQLITE_OK);
            let real = ffi::sqlite3_vfs_find(std::ptr::null());
            FILES.set(real as usize).ok();
            let vfs =
                sqlite3_vfs { zName: c"faulty".as_ptr(), xOpen: Some(open), xDelete: Some(delete), ..*real };
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1), ffi::SQLITE_OK);
        }
    });
}

/// Runs `act` with the `nth` call failing, from 1 on; gives what it gave, and how many calls failed.
pub(crate) fn failing<T>(kind: Kind, nth: u64, for_good: bool, act: impl FnOnce() -> T) -> (T, u64) {
    FAILED.set(0);
    ARMED.set(Some((kind, nth, for_good)));
    let outcome = act();
    ARMED.set(None);
    (outcome, FAILED.get())
}

/// How many calls `act` makes.
pub(crate) fn calls(kind: Kind, act: impl FnOnce()) -> u64 {
    ARMED.set(Some((kind, u64::MAX, true)));
    act();
    ARMED.take().map_or(0, |(_, left, _)| u64::MAX - left)
}

/// Runs what is somebody else's, with nothing failing.
pub(crate) fn paused<T>(act: impl FnOnce() -> T) -> T {
    let armed = ARMED.take();
    let outcome = act();
    ARMED.set(armed);
    outcome
}

/// True when this call is to fail.
fn fails(kind: Kind) -> bool {
    match ARMED.get() {
        Some((armed, left, for_good)) if armed == kind => {
            let now = left <= 1;
            ARMED.set(if now && !for_good { None } else { Some((armed, left.saturating_sub(1), for_good)) });
            FAILED.set(FAILED.get() + u64::from(now));
            now
        }
        _ => false,
    }
}

fn real_memory() -> Option<&'static sqlite3_mem_methods> {
    // SAFETY: the address of a leaked value.
    MEMORY.get().map(|at| unsafe { &*(*at as *const sqlite3_mem_methods) })
}

/// How many pieces of memory this thread holds.
pub(crate) fn held() -> i64 {
    HELD.get()
}

unsafe extern "C" fn malloc(bytes: c_int) -> *mut c_void {
    match real_memory().and_then(|methods| methods.xMalloc) {
        Some(real) if !fails(Kind::Memory) => {
            HELD.set(HELD.get() + 1);
            // SAFETY: as SQLite calls it.
            unsafe { real(bytes) }
        }
        _ => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn free(old: *mut c_void) {
    if let Some(real) = real_memory().and_then(|methods| methods.xFree) {
        HELD.set(HELD.get() - i64::from(!old.is_null()));
        // SAFETY: as SQLite calls it.
        unsafe { real(old) }
    }
}

unsafe extern "C" fn realloc(old: *mut c_void, bytes: c_int) -> *mut c_void {
    match real_memory().and_then(|methods| methods.xRealloc) {
        // SAFETY: as SQLite calls it.
        Some(real) if !fails(Kind::Memory) => unsafe { real(old, bytes) },
        _ => std::ptr::null_mut(),
    }
}

/// The methods of a file, and those that they stand for.
#[repr(C)]
struct Methods {
    failing: sqlite3_io_methods,
    real: *const sqlite3_io_methods,
}

/// Calls the real method of a file, unless it is to fail with `code`.
macro_rules! unless {
    ($code:expr, $file:expr, $method:ident, $($argument:expr),*) => {{
        if fails(Kind::File) {
            return $code;
        }
        // SAFETY: the file's methods are a `Methods`, put there by `open`; the arguments are SQLite's.
        unsafe {
            let methods = &*(*$file).pMethods.cast::<Methods>();
            match (*methods.real).$method {
                Some(real) => real($file, $($argument),*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

unsafe extern "C" fn read(file: *mut sqlite3_file, out: *mut c_void, bytes: c_int, from: i64) -> c_int {
    unless!(ffi::SQLITE_IOERR_READ, file, xRead, out, bytes, from)
}

unsafe extern "C" fn write(file: *mut sqlite3_file, data: *const c_void, bytes: c_int, from: i64) -> c_int {
    unless!(ffi::SQLITE_IOERR_WRITE, file, xWrite, data, bytes, from)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, bytes: i64) -> c_int {
    unless!(ffi::SQLITE_IOERR_TRUNCATE, file, xTruncate, bytes)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    unless!(ffi::SQLITE_IOERR_FSYNC, file, xSync, flags)
}

unsafe extern "C" fn size(file: *mut sqlite3_file, out: *mut i64) -> c_int {
    unless!(ffi::SQLITE_IOERR_FSTAT, file, xFileSize, out)
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the file's memory is as large as the real one asks for; the name is SQLite's.
    unsafe {
        (*file).pMethods = std::ptr::null();
        if fails(Kind::File) {
            return ffi::SQLITE_CANTOPEN;
        }
        let real = real_vfs();
        let code = (*real).xOpen.map_or(ffi::SQLITE_CANTOPEN, |open| open(real, name, file, flags, out));
        if !(*file).pMethods.is_null() {
            (*file).pMethods = failing_methods((*file).pMethods);
        }
        code
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    if fails(Kind::File) {
        return ffi::SQLITE_IOERR_DELETE;
    }
    let real = real_vfs();
    // SAFETY: as SQLite calls it.
    unsafe { (*real).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(real, name, sync)) }
}

fn real_vfs() -> *mut sqlite3_vfs {
    FILES.get().map_or(std::ptr::null_mut(), |real| *real as *mut sqlite3_vfs)
}

/// SQLite has few tables of methods; each is wrapped once and kept.
fn failing_methods(real: *const sqlite3_io_methods) -> *const sqlite3_io_methods {
    static WRAPPED: std::sync::Mutex<Vec<(usize, usize)>> = std::sync::Mutex::new(Vec::new());
    let mut wrapped = WRAPPED.lock().unwrap();
    if let Some((_, known)) = wrapped.iter().find(|(of, _)| *of == real as usize) {
        return *known as *const sqlite3_io_methods;
    }
    // SAFETY: the table is SQLite's and lives for ever.
    let failing = sqlite3_io_methods {
        xRead: Some(read),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xFileSize: Some(size),
        ..unsafe { *real }
    };
    let methods: *const Methods = Box::leak(Box::new(Methods { failing, real }));
    wrapped.push((real as usize, methods as usize));
    methods.cast()
}
