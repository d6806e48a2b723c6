//! SQLite's session extension: it records and applies, and does not merge.

use super::{Subject, Wins};
use crate::database::Database;
use anyhow::{Result, bail};
use rusqlite::ffi::sqlite3;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// Opaque to us.
#[repr(C)]
struct RawSession {
    _private: [u8; 0],
}

type Filter = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;
type OnConflict = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int;

// As sqlite3.h declares them. The bindings that come with the bundled SQLite leave the session extension out.
unsafe extern "C" {
    fn sqlite3session_create(db: *mut sqlite3, schema: *const c_char, session: *mut *mut RawSession)
    -> c_int;
    fn sqlite3session_attach(session: *mut RawSession, table: *const c_char) -> c_int;
    fn sqlite3session_changeset(
        session: *mut RawSession,
        bytes: *mut c_int,
        buffer: *mut *mut c_void,
    ) -> c_int;
    fn sqlite3session_delete(session: *mut RawSession);
    fn sqlite3changeset_apply(
        db: *mut sqlite3,
        bytes: c_int,
        buffer: *mut c_void,
        filter: Option<Filter>,
        on_conflict: OnConflict,
        context: *mut c_void,
    ) -> c_int;
}

const CHANGESET_DATA: c_int = 1;
const CHANGESET_CONFLICT: c_int = 3;
const CHANGESET_OMIT: c_int = 0;
const CHANGESET_REPLACE: c_int = 1;

pub(crate) struct Session {
    raw: *mut RawSession,
}

impl Session {
    pub(crate) fn attach(database: &Database) -> Result<Self> {
        let mut session = Self { raw: ptr::null_mut() };
        session.begin(database)?;
        Ok(session)
    }

    fn begin(&mut self, database: &Database) -> Result<()> {
        self.end();
        // SAFETY: the handle is open; the names are terminated; the session is given out only on success.
        let rc = unsafe {
            let rc = sqlite3session_create(database.owner().handle(), c"main".as_ptr(), &raw mut self.raw);
            if rc == 0 { sqlite3session_attach(self.raw, c"t".as_ptr()) } else { rc }
        };
        check("a session cannot begin", rc)
    }

    fn end(&mut self) {
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        if !raw.is_null() {
            // SAFETY: made by `begin`, deleted once, before its connection closes.
            unsafe { sqlite3session_delete(raw) };
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl Subject for Session {
    fn mark(&mut self, database: &Database) -> Result<()> {
        self.begin(database)
    }

    fn extract(&mut self, _database: &Database, take: &mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let (mut bytes, mut buffer) = (0, ptr::null_mut());
        // SAFETY: the session lives; on success the buffer holds that many bytes and is ours to free.
        let rc = unsafe { sqlite3session_changeset(self.raw, &raw mut bytes, &raw mut buffer) };
        check("no changeset", rc)?;
        if buffer.is_null() {
            return Ok(());
        }
        // SAFETY: as above; copied before it is freed.
        let changeset = unsafe {
            let copy = std::slice::from_raw_parts(buffer.cast::<u8>(), usize::try_from(bytes)?).to_vec();
            rusqlite::ffi::sqlite3_free(buffer);
            copy
        };
        take(changeset)
    }

    fn apply(&mut self, database: &Database, piece: &[u8], wins: Wins) -> Result<()> {
        // What is applied is no change of its own.
        self.end();
        let mut wins = wins;
        // SAFETY: SQLite reads the buffer only; the context outlives the call.
        let rc = unsafe {
            sqlite3changeset_apply(
                database.owner().handle(),
                c_int::try_from(piece.len())?,
                piece.as_ptr().cast_mut().cast(),
                None,
                on_conflict,
                (&raw mut wins).cast(),
            )
        };
        check("the changeset was not applied", rc)?;
        self.begin(database)
    }
}

unsafe extern "C" fn on_conflict(context: *mut c_void, kind: c_int, _iterator: *mut c_void) -> c_int {
    // SAFETY: `apply` gives a `Wins` as the context.
    let wins = unsafe { *context.cast::<Wins>() };
    match (wins, kind) {
        (Wins::Remote, CHANGESET_DATA | CHANGESET_CONFLICT) => CHANGESET_REPLACE,
        _ => CHANGESET_OMIT,
    }
}

fn check(what: &str, rc: c_int) -> Result<()> {
    if rc == 0 { Ok(()) } else { bail!("{what}: SQLite says {rc}") }
}
