//! The memory that SQLite takes, counted without its own counters: those take a lock at each call, which cost a thirtieth of a run.
#![allow(unsafe_code)]

use rusqlite::ffi;
use std::alloc::{Layout, alloc, dealloc, realloc};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI64, Ordering};

/// Before each block stands how long it is. SQLite wants 8 bytes of alignment; more than that is what the machine likes.
const HEAD: usize = 16;

/// Bytes that SQLite holds, as it asked for them.
static USED: AtomicI64 = AtomicI64::new(0);
/// At most, since that was last asked.
static MOST: AtomicI64 = AtomicI64::new(0);

/// Has SQLite take its memory here. Before anything else is done with it.
pub(crate) fn register() {
    let methods = ffi::sqlite3_mem_methods {
        xMalloc: Some(take),
        xFree: Some(give_back),
        xRealloc: Some(resize),
        xSize: Some(size),
        xRoundup: Some(round_up),
        xInit: Some(init),
        xShutdown: Some(shut_down),
        pAppData: ptr::null_mut(),
    };
    // SAFETY: the arguments are of the types that these options have; SQLite copies the methods.
    unsafe {
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods);
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0);
    }
}

/// Memory that SQLite holds just now, and held at most since this was last asked, in bytes.
pub(crate) fn of_sqlite() -> (i64, i64) {
    let used = USED.load(Ordering::Relaxed);
    (used, MOST.swap(used, Ordering::Relaxed).max(used))
}

fn count(bytes: i64) {
    let used = USED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if used > MOST.load(Ordering::Relaxed) {
        MOST.fetch_max(used, Ordering::Relaxed);
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.checked_add(HEAD)?, HEAD).ok()
}

/// # Safety
/// `start` is null or the start of an allocation of `bytes` and the head.
unsafe fn open(start: *mut u8, bytes: usize) -> *mut c_void {
    if start.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the head is part of the allocation, and aligned.
    unsafe {
        start.cast::<usize>().write(bytes);
        start.add(HEAD).cast()
    }
}

/// # Safety
/// `block` came from [`open`].
unsafe fn head(block: *mut c_void) -> (*mut u8, usize) {
    // SAFETY: the head stands before the block.
    unsafe {
        let start = block.cast::<u8>().sub(HEAD);
        (start, start.cast::<usize>().read())
    }
}

unsafe extern "C" fn take(bytes: c_int) -> *mut c_void {
    let Some(layout) = usize::try_from(bytes).ok().and_then(layout) else { return ptr::null_mut() };
    // SAFETY: the layout is not empty; the head is in it.
    let block = unsafe { open(alloc(layout), bytes as usize) };
    if !block.is_null() {
        count(i64::from(bytes));
    }
    block
}

unsafe extern "C" fn give_back(block: *mut c_void) {
    if block.is_null() {
        return;
    }
    // SAFETY: SQLite gives back what it took here, once, and its layout was one.
    unsafe {
        let (start, bytes) = head(block);
        if let Some(layout) = layout(bytes) {
            dealloc(start, layout);
        }
        count(-(bytes as i64));
    }
}

unsafe extern "C" fn resize(block: *mut c_void, bytes: c_int) -> *mut c_void {
    // SAFETY: SQLite hands in a block that it took here; what cannot grow stays as it is.
    unsafe {
        let (start, before) = head(block);
        let Some((old, new)) = layout(before).zip(usize::try_from(bytes).ok().and_then(layout)) else {
            return ptr::null_mut();
        };
        let grown = open(realloc(start, old, new.size()), bytes as usize);
        if !grown.is_null() {
            count(i64::from(bytes) - before as i64);
        }
        grown
    }
}

unsafe extern "C" fn size(block: *mut c_void) -> c_int {
    if block.is_null() {
        return 0;
    }
    // SAFETY: SQLite asks of what it took here, which is no longer than it can say.
    unsafe { head(block).1 as c_int }
}

unsafe extern "C" fn round_up(bytes: c_int) -> c_int {
    bytes.saturating_add(7) & !7
}

unsafe extern "C" fn init(_: *mut c_void) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn shut_down(_: *mut c_void) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_until_it_is_given_back() {
        let _alone = crate::disk::alone();
        crate::disk::register();
        let (before, _) = of_sqlite();
        // SAFETY: sizes that SQLite could ask for; each block is given back once.
        unsafe {
            let block = take(1_000);
            assert_eq!((of_sqlite().0 - before, size(block), block as usize % HEAD), (1_000, 1_000, 0));
            block.cast::<u8>().add(999).write(7);
            let block = resize(block, 3_000);
            assert_eq!((block.cast::<u8>().add(999).read(), of_sqlite().0 - before), (7, 3_000));
            let block = resize(block, 8);
            assert_eq!(of_sqlite(), (before + 8, before + 3_000));
            give_back(block);
            assert!(take(-1).is_null());
        }
        assert_eq!(of_sqlite(), (before, before + 8));
    }
}
