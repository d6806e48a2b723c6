//! The door through which SQLite comes to the disks: a file system of ours, which all connections of this program use.
#![allow(unsafe_code)]

use super::{Disks, disks};
use rusqlite::ffi;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::Ordering;

/// Longest path, in bytes.
const PATH_BYTES_MAX: c_int = 512;
/// Milliseconds from the beginning of Julian days to 1970.
const JULIAN_MS_1970: i64 = 210_866_760_000_000;
const MS_PER_DAY: f64 = 86_400_000.0;
/// The store of quick blocks of each connection. With SQLite's own size most of what a statement is compiled in comes from the
/// heap.
const LOOKASIDE_BYTES: c_int = 1_200;
const LOOKASIDE_SLOTS: c_int = 200;

/// What SQLite allocates for an open file; the first field is SQLite's own.
#[repr(C)]
struct Open {
    base: ffi::sqlite3_file,
    handle: u64,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // With shared memory, without mapped files.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Makes the disks the file system that SQLite uses unless told otherwise.
pub(crate) fn register() {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        crate::memory::register();
        // SAFETY: nothing has used SQLite yet, and the arguments are of the types that this option has.
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, LOOKASIDE_BYTES, LOOKASIDE_SLOTS) };
        let vfs = ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<Open>() as c_int,
            mxPathname: PATH_BYTES_MAX,
            pNext: ptr::null_mut(),
            zName: c"disks".as_ptr(),
            pAppData: ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        };
        // SAFETY: the struct lives for ever, as SQLite asks of a registered file system.
        unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 1) };
    });
}

/// Has SQLite draw its random numbers anew, from the dice of the disks.
pub(super) fn reseed() {
    // SAFETY: no buffer is written for no bytes; SQLite then forgets its state.
    unsafe { ffi::sqlite3_randomness(0, ptr::null_mut()) };
}

/// Runs one call on the disks. A panic becomes an I/O error, for it must not reach C.
fn call(act: impl FnOnce(&mut Disks) -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(|| act(&mut disks()))).unwrap_or(ffi::SQLITE_IOERR)
}

fn code(outcome: Result<(), c_int>) -> c_int {
    outcome.err().unwrap_or(ffi::SQLITE_OK)
}

/// The handle of a file that SQLite hands in.
unsafe fn handle(file: *mut ffi::sqlite3_file) -> u64 {
    // SAFETY: SQLite hands in what `open` filled in.
    unsafe { (*file.cast::<Open>()).handle }
}

unsafe fn text<'t>(name: *const c_char) -> Option<&'t str> {
    if name.is_null() {
        return None;
    }
    // SAFETY: SQLite's names end with zero and outlive the call.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite has allocated `szOsFile` bytes; without methods it does not close what did not open.
    unsafe { (*file).pMethods = ptr::null() };
    // SAFETY: a name of SQLite's.
    let path = unsafe { text(name) };
    call(|disks| match disks.open(path, flags) {
        Ok(handle) => {
            // SAFETY: as above, and `out_flags` is null or a place for the flags.
            unsafe {
                (*file.cast::<Open>()).handle = handle;
                (*file).pMethods = &METHODS;
                if !out_flags.is_null() {
                    *out_flags = flags;
                }
            }
            ffi::SQLITE_OK
        }
        Err(code) => code,
    })
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| {
        disks.close(handle);
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buffer: *mut c_void, count: c_int, at: i64) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    // SAFETY: SQLite gives a buffer of so many bytes.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), count as usize) };
    call(|disks| match disks.read(handle, buffer, at as usize) {
        Ok(true) => ffi::SQLITE_OK,
        Ok(false) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(code) => code,
    })
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    at: i64,
) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    // SAFETY: SQLite gives so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count as usize) };
    call(|disks| code(disks.write(handle, bytes, at as usize)))
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| code(disks.truncate(handle, size as usize)))
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| code(disks.sync(handle)))
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| match disks.size(handle) {
        Ok(length) => {
            // SAFETY: a place for the size.
            unsafe { *size = length as i64 };
            ffi::SQLITE_OK
        }
        Err(code) => code,
    })
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| disks.lock(handle, level))
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| {
        disks.unlock(handle, level);
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| {
        // SAFETY: a place for the answer.
        unsafe { *out = c_int::from(disks.is_reserved(handle)) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn file_control(_file: *mut ffi::sqlite3_file, _op: c_int, _arg: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| if disks.is_safe(handle) { ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE } else { 0 })
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extends: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| match disks.map(handle, region as usize, bytes as usize, extends != 0) {
        Ok(memory) => {
            // SAFETY: a place for the pointer.
            unsafe { *out = memory.cast() };
            ffi::SQLITE_OK
        }
        Err(code) => code,
    })
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| disks.lock_memory(handle, offset, count, flags))
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _deletes: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    call(|disks| {
        disks.unmap(handle);
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, syncs_folder: c_int) -> c_int {
    // SAFETY: a name of SQLite's.
    let Some(path) = (unsafe { text(name) }) else { return ffi::SQLITE_IOERR_DELETE };
    call(|disks| code(disks.delete(path, syncs_folder != 0)))
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: a name of SQLite's.
    let path = unsafe { text(name) }.unwrap_or_default();
    call(|disks| {
        // SAFETY: a place for the answer.
        unsafe { *out = c_int::from(disks.exists(path)) };
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    count: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: a name that ends with zero.
    let length = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul().len();
    if length > count as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: SQLite gives room for `count` bytes, elsewhere than the name.
    unsafe { ptr::copy_nonoverlapping(name, out, length) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite gives room for so many bytes.
    let buffer = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), count as usize) };
    call(|disks| {
        disks.random(buffer);
        count
    })
}

/// Nobody else runs meanwhile, so nothing is waited for; the world's clock goes on.
unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    super::WORLD_MS.fetch_add((microseconds as u64).div_ceil(1_000), Ordering::Relaxed);
    microseconds
}

fn machine_ms() -> i64 {
    super::now_ms() as i64 + super::SKEW_MS.load(Ordering::Relaxed)
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: a place for the time.
    unsafe { *out = (machine_ms() + JULIAN_MS_1970) as f64 / MS_PER_DAY };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_int64(_vfs: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: a place for the time.
    unsafe { *out = machine_ms() + JULIAN_MS_1970 };
    ffi::SQLITE_OK
}
