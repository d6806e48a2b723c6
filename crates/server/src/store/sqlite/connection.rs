//! A connection of rusqlite with a replica on it.
#![allow(unsafe_code)]

use super::StoreError;
use super::host::Located;
use crate::ledger::{Glance, Watched};
use crate::policy::{self, Identity, Law, Policies};
use cloudsync_replica::Replica;
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, Shelf, capture_api, captured_api};
use rusqlite::OpenFlags;
use std::ffi::{c_char, c_int};
use std::path::Path;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

/// An open file: rusqlite owns the connection, the replica works on it.
pub(super) struct Wrapped {
    pub(super) replica: Replica,
    pub(super) db: Connection,
    /// What the last look at news found.
    pub(super) glance: Option<Glance>,
    /// Statements between two uses.
    pub(super) shelf: Rc<Shelf>,
    /// The owner of the connection. Closed last: fields are dropped in order, and the replica holds its handle.
    pub(super) law: Law,
    /// What the policies read, and whether it is watched.
    pub(super) watch: Watch,
}

/// A replica, and what says who may see what of it.
pub(super) struct UnderPolicies<'w> {
    pub(super) replica: &'w mut Replica,
    pub(super) glance: &'w mut Option<Glance>,
    pub(super) policies: &'w Policies,
    pub(super) identity: &'w Identity,
}

/// What the policies of a connection read.
#[derive(Default)]
pub(super) struct Watch {
    watched: Watched,
    is_in_place: bool,
    /// Of which compilation it is that.
    compiled: Option<u64>,
}

impl Wrapped {
    /// Opens a file for reading and writing, with what is committed flushed to disk, and a replica on it. Foreign keys
    /// are on: those that the owner declared are kept.
    pub(super) fn open(file: &Located) -> Result<Self, StoreError> {
        let owner = rusqlite::Connection::open(&file.path)?;
        owner.busy_timeout(Duration::from_secs(10))?;
        // language=SQLite
        owner.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384;",
        )?;
        Self::wrap(owner, file)
    }

    /// Opens a file that exists, of a device perhaps, without changing any of its modes.
    pub(super) fn open_as_it_is(path: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let owner = rusqlite::Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        owner.busy_timeout(Duration::from_secs(10))?;
        Self::wrap(owner, &Located::here(path))
    }

    fn wrap(owner: rusqlite::Connection, file: &Located) -> Result<Self, StoreError> {
        let db = handle(&owner)?;
        let environment = file.host.environment(db);
        let replica = Replica::open(db, environment)?;
        let law = Law::within(owner, file.host.policy_steps())?;
        Ok(Self { replica, db, glance: None, shelf: Shelf::new(db), law, watch: Watch::default() })
    }

    /// Makes the table in which policies are stored.
    pub(super) fn prepare_policies(&self) -> Result<(), StoreError> {
        Ok(policy::prepare_file(self.law.connection())?)
    }

    /// The policies as they are now beside the replica; `None` while what they read is not watched yet.
    pub(super) fn watched(&mut self) -> Result<Option<UnderPolicies<'_>>, StoreError> {
        let Self { replica, db, glance, law, watch, .. } = self;
        watch.look(db, law)?;
        let (policies, identity, _) = law.now()?;
        Ok(watch.is_in_place.then_some(UnderPolicies { replica, glance, policies, identity }))
    }

    /// Makes a locked file an error at once. The replica waits and tries again by itself; if SQLite waited as well, both
    /// times would multiply.
    pub(super) fn set_impatient(&self) -> Result<(), StoreError> {
        Ok(self.law.connection().busy_timeout(Duration::ZERO)?)
    }
}

/// Acts on a file of which nothing need be in order.
pub(super) fn with_bare<T>(
    path: &Path,
    act: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let owner = rusqlite::Connection::open_with_flags(path, flags)?;
    owner.busy_timeout(Duration::from_secs(10))?;
    act(&handle(&owner)?)
}

/// The handle of a connection, which must live longer.
fn handle(owner: &rusqlite::Connection) -> Result<Connection, StoreError> {
    let api = api()?;
    // SAFETY: the handle is open and belongs to the one SQLite that is linked into this program. Whoever holds the
    // result holds the owner, too, and is used by one thread at a time because it is not Sync.
    let db = unsafe { Connection::from_raw(owner.handle().cast::<sqlite3>(), api) };
    db.ok_or_else(|| StoreError::Failed("no database handle".to_owned()))
}

impl Watch {
    fn look(&mut self, db: &Connection, law: &mut Law) -> Result<(), StoreError> {
        let (policies, ..) = law.now()?;
        if self.compiled != Some(policies.compiled()) || !self.is_in_place {
            self.watched = Watched::of(db, policies)?;
            self.is_in_place = self.watched.is_in_place(db)?;
            self.compiled = Some(policies.compiled());
        }
        Ok(())
    }

    /// Makes sure that what policies read is watched. Not within a transaction.
    pub(super) fn put_in_place(&mut self, replica: &mut Replica, law: &mut Law) -> Result<(), StoreError> {
        let db = replica.connection();
        self.look(&db, law)?;
        if !self.is_in_place {
            let watched = &self.watched;
            replica.transact(|replica| watched.put_in_place(&replica.connection()))?;
            self.look(&db, law)?;
        }
        Ok(())
    }
}

/// The table of the SQLite that is linked into the program, taken from it by its own door for extensions.
fn api() -> Result<Api, StoreError> {
    type Ours = unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int;
    type Theirs = unsafe extern "C" fn(
        *mut rusqlite::ffi::sqlite3,
        *mut *mut c_char,
        *const rusqlite::ffi::sqlite3_api_routines,
    ) -> c_int;
    static REGISTER: Once = Once::new();
    let mut registered = Ok(());
    REGISTER.call_once(|| {
        // SAFETY: both are C functions with the same parameters; the structs behind the pointers are SQLite's own in
        // both declarations.
        let theirs = unsafe { std::mem::transmute::<Ours, Theirs>(capture_api) };
        // SAFETY: a valid entry point, registered once.
        unsafe { rusqlite::ffi::sqlite3_auto_extension(Some(theirs)) };
        registered = rusqlite::Connection::open_in_memory().map(drop);
    });
    registered?;
    captured_api().ok_or_else(|| StoreError::Failed("SQLite gave no table of its functions".to_owned()))
}
