//! Machines, and connections that rusqlite owns and a replica uses.
#![allow(unsafe_code)]

use crate::disk;
use crate::random::Dice;
use anyhow::{Context, Result, bail};
use cloudsync_replica::Environment;
use cloudsync_server::store::sqlite::{FileId, Host};
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, capture_api, captured_api};
use rusqlite::ffi;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type EntryPoint = unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int;

/// A machine's clock and randomness; both come from the seed.
pub(crate) struct Machine {
    /// How far this clock is ahead of the world's, in milliseconds.
    pub(crate) skew_ms: Cell<i64>,
    dice: RefCell<Dice>,
    /// Whether this machine's file system tells files apart, so that copies of them need no server to be found.
    tells_files: bool,
}

impl Machine {
    pub(crate) fn new(skew_ms: i64, dice: Dice) -> Rc<Self> {
        Self::with_files(skew_ms, dice, true)
    }

    /// The same; its file system does not tell files apart where it may not.
    pub(crate) fn with_files(skew_ms: i64, mut dice: Dice, may_tell_files: bool) -> Rc<Self> {
        let tells_files = dice.chance(600) && may_tell_files;
        Rc::new(Self { skew_ms: Cell::new(skew_ms), dice: RefCell::new(dice), tells_files })
    }

    /// This machine runs from here on, as far as SQLite's clock goes.
    pub(crate) fn enter(&self) {
        disk::run_with_skew(self.skew_ms.get());
    }
}

impl Environment for Machine {
    fn now_ms(&self) -> u64 {
        disk::now_ms().saturating_add_signed(self.skew_ms.get())
    }

    fn random(&self, buffer: &mut [u8]) {
        self.dice.borrow_mut().fill(buffer);
    }

    fn pause(&self, pause_ms: u64) {
        disk::set_now_ms(disk::now_ms() + pause_ms);
    }

    fn file_identity(&self, path: &str) -> Option<u64> {
        if self.tells_files { disk::disks().number(path) } else { None }
    }
}

/// The machine of the server, whose clock is the world's.
pub(crate) struct ServerHost {
    dice: Arc<Mutex<Dice>>,
}

impl ServerHost {
    pub(crate) fn new(dice: Dice) -> Arc<Self> {
        Arc::new(Self { dice: Arc::new(Mutex::new(dice)) })
    }
}

impl Host for ServerHost {
    fn environment(&self, _db: Connection) -> Rc<dyn Environment> {
        Rc::new(ServerEnvironment { dice: Arc::clone(&self.dice) })
    }

    fn file_id(&self, path: &Path) -> io::Result<FileId> {
        // The shared memory of our disks has no name of its own.
        let path = path.to_str().map(|path| path.trim_end_matches("-shm"));
        let number = path.and_then(|path| disk::disks().number(path));
        number.map(|number| FileId(0, number)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct ServerEnvironment {
    dice: Arc<Mutex<Dice>>,
}

impl Environment for ServerEnvironment {
    fn now_ms(&self) -> u64 {
        disk::now_ms()
    }

    fn random(&self, buffer: &mut [u8]) {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).fill(buffer);
    }

    fn pause(&self, pause_ms: u64) {
        disk::set_now_ms(disk::now_ms() + pause_ms);
    }
}

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
    if let Some(api) = captured_api() {
        return Ok(api);
    }
    rusqlite::Connection::open_in_memory()?;
    captured_api().context("SQLite did not hand out its API")
}

/// Opens a file for an app. Nothing waits, since nothing else runs meanwhile.
pub(crate) fn open(path: &str, settings: &str) -> Result<rusqlite::Connection> {
    api()?;
    let owner = rusqlite::Connection::open(path)?;
    owner.execute_batch(settings)?;
    owner.set_prepared_statement_cache_capacity(KEPT_BY_APPS);
    Ok(owner)
}

/// For how long changes are listed one by one.
pub(crate) const HISTORY_MS: u64 = 3_000;

/// Makes compactions of the change list frequent, so that a short run sees many of them, and in some worlds small.
pub(crate) fn compact_often(db: &rusqlite::Connection) -> Result<()> {
    let window = if crate::family::tables().is_empty() { 0 } else { 12 };
    let sql = format!(
        "INSERT OR REPLACE INTO cloudsync_settings VALUES('history_ms', {HISTORY_MS}), \
         ('compaction_entries_min', 8), ('compaction_window_changes', {window})"
    );
    Ok(db.execute_batch(&sql)?)
}

/// Our handle of a connection.
///
/// # Safety
/// `owner` outlives the handle and everything made from it.
pub(crate) unsafe fn wrap(owner: &rusqlite::Connection) -> Result<Connection> {
    // SAFETY: open, of the only SQLite in the process; the caller keeps it open, in one thread.
    unsafe { Connection::from_raw(owner.handle().cast(), api()?) }.context("no connection")
}

/// Begins the texts of statements that apps keep.
const OF_APP: &CStr = c"/* app */";
/// So many statements of an app are kept.
const KEPT_BY_APPS: usize = 256;

/// A statement that an app keeps, as most do: what changes the schema meets statements that are compiled.
pub(crate) fn kept<'c>(
    db: &'c rusqlite::Connection,
    sql: &str,
) -> rusqlite::Result<rusqlite::CachedStatement<'c>> {
    db.prepare_cached(&format!("{} {sql}", OF_APP.to_str().unwrap_or_default()))
}

/// Whether a statement is one that the app keeps.
///
/// # Safety
/// The statement was not finalized.
unsafe fn is_of_app(statement: *mut ffi::sqlite3_stmt) -> bool {
    // SAFETY: the caller's promise; both texts end with a zero.
    unsafe {
        let text = ffi::sqlite3_sql(statement);
        !text.is_null() && ffi::sqlite3_strnicmp(text, OF_APP.as_ptr(), OF_APP.count_bytes() as c_int) == 0
    }
}

/// Nothing of the library may be open in a connection between two calls; statements that are kept stand before their first row.
pub(crate) fn check_closed(db: &rusqlite::Connection, keeps_statements: bool) -> Result<()> {
    let mut statement = std::ptr::null_mut();
    loop {
        // SAFETY: an open connection; a null statement asks for the first one.
        statement = unsafe { ffi::sqlite3_next_stmt(db.handle(), statement) };
        if statement.is_null() {
            break;
        }
        // SAFETY: a statement that was not finalized.
        let (is_kept, is_busy) =
            unsafe { (keeps_statements || is_of_app(statement), ffi::sqlite3_stmt_busy(statement) != 0) };
        if !is_kept || is_busy {
            bail!("a statement was left open");
        }
    }
    if !db.is_autocommit() {
        bail!("a transaction was left open");
    }
    Ok(())
}
