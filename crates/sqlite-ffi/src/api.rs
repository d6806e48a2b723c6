//! The table of SQLite's functions, checked once and carried as a value.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{NonNull, addr_of};

use crate::bindings::Sqlite3ApiRoutines;

/// The oldest SQLite this crate works with, as `sqlite3_libversion_number()` counts: 3.35.0.
pub const MIN_VERSION: i32 = 3_035_000;

/// One SQLite library: a pointer to its table of functions.
///
/// Several SQLite libraries may live in one process and share one loaded extension (Python's own and apsw's, say).
/// Every connection, statement and context therefore carries the `Api` it belongs to; there is no global one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Api(NonNull<Sqlite3ApiRoutines>);

// SAFETY: the table is constant data of the SQLite library; SQLite's functions may be called from any thread, what
// they may not share (connections) is guarded by `Connection`, which is not `Send`.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// Why a table cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// SQLite passed no table: it was built with `SQLITE_OMIT_LOAD_EXTENSION`.
    NoTable,
    /// The library's version text.
    TooOld(String),
    /// The name of a function that this build of SQLite leaves out.
    Missing(&'static str),
}

impl Api {
    /// Gives the API behind a table, or `None` if the pointer is null, the library is older than [`MIN_VERSION`],
    /// or it was built without a function that this crate calls.
    ///
    /// # Safety
    /// `table` is null or was passed by SQLite to an extension's entry point, and the SQLite library stays loaded
    /// as long as the `Api` or anything made with it is used.
    pub unsafe fn from_raw(table: *const Sqlite3ApiRoutines) -> Option<Api> {
        // SAFETY: the caller's promise is the same.
        unsafe { Api::check(table) }.ok()
    }

    /// Like [`Api::from_raw`], with the reason of a refusal.
    ///
    /// # Safety
    /// As [`Api::from_raw`].
    pub(crate) unsafe fn check(table: *const Sqlite3ApiRoutines) -> Result<Api, Refusal> {
        let pointer = NonNull::new(table.cast_mut()).ok_or(Refusal::NoTable)?;
        // SAFETY: SQLite only ever appends to the table, so the early entries exist in every version 3. The entry is
        // read through the raw pointer because the table of an old library is shorter than our struct.
        let number = unsafe { addr_of!((*table).libversion_number).read() };
        // SAFETY: sqlite3_libversion_number takes nothing and has no precondition.
        let number = number.map_or(0, |function| unsafe { function() });
        if number < MIN_VERSION {
            // SAFETY: as for libversion_number.
            return Err(Refusal::TooOld(unsafe { version_text(table) }));
        }
        let api = Api(pointer);
        match api.table().first_missing() {
            Some(name) => Err(Refusal::Missing(name)),
            None => Ok(api),
        }
    }

    /// Gives the version of the SQLite library as a number, for example `3_045_001` for 3.45.1.
    pub fn version_number(self) -> i32 {
        // SAFETY: sqlite3_libversion_number has no precondition.
        unsafe { call!(self, libversion_number()) }
    }

    /// Gives the version of the SQLite library as text, for example `"3.45.1"`.
    pub fn version(&self) -> &str {
        // SAFETY: sqlite3_libversion gives a constant, terminated string of the library.
        unsafe { CStr::from_ptr(call!(self, libversion())) }.to_str().unwrap_or("unknown")
    }

    /// Fills `buffer` with bytes of SQLite's random number generator, which is seeded by the operating system
    /// through the VFS (and so works in the browser as well). Not for keys or secrets.
    pub fn randomness(self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(1 << 20) {
            let length = c_int::try_from(chunk.len()).unwrap_or(0);
            // SAFETY: sqlite3_randomness writes `length` bytes, the length of the chunk.
            unsafe { call!(self, randomness(length, chunk.as_mut_ptr().cast())) }
        }
    }

    /// Writes one line to the error log that the host installed with `SQLITE_CONFIG_LOG`, if it did.
    ///
    /// `code` is a result code such as [`SQLITE_WARNING`](crate::bindings::SQLITE_WARNING). NUL bytes in the text
    /// become spaces. SQLite cuts long lines (at about 200 bytes).
    pub fn log(self, code: i32, text: &str) {
        let text = terminated(text);
        // SAFETY: sqlite3_log is variadic: the constant format has one %s, and one terminated string follows.
        unsafe { call!(self, log(code, c"%s".as_ptr(), text.as_ptr().cast::<c_char>())) }
    }

    pub(crate) fn table(&self) -> &'static Sqlite3ApiRoutines {
        // SAFETY: `check` saw a version whose table has all entries of our struct; `from_raw`'s contract keeps the
        // library, and with it the constant table, loaded.
        unsafe { self.0.as_ref() }
    }

    /// Gives the API of a table that was checked before; `None` for null.
    ///
    /// # Safety
    /// `table` is null or came from [`Api::as_ptr`].
    pub(crate) unsafe fn from_slot(table: *mut Sqlite3ApiRoutines) -> Option<Api> {
        NonNull::new(table).map(Api)
    }

    pub(crate) fn as_ptr(self) -> *mut Sqlite3ApiRoutines {
        self.0.as_ptr()
    }
}

/// Gives the text with NUL bytes replaced and a NUL at its end.
pub(crate) fn terminated(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = text.bytes().map(|byte| if byte == 0 { b' ' } else { byte }).collect();
    bytes.push(0);
    bytes
}

/// # Safety
/// `table` is a table passed by any SQLite 3.
unsafe fn version_text(table: *const Sqlite3ApiRoutines) -> String {
    // SAFETY: an early entry, read through the raw pointer as in `check`.
    let Some(function) = (unsafe { addr_of!((*table).libversion).read() }) else {
        return "unknown".to_owned();
    };
    // SAFETY: sqlite3_libversion gives a constant, terminated string.
    unsafe { CStr::from_ptr(function()) }.to_string_lossy().into_owned()
}

#[cold]
pub(crate) fn missing(name: &str) -> ! {
    // `check` refuses such a table, so this is only reached if our own invariant is broken.
    panic!("SQLite function {name} was present when the table was checked")
}
