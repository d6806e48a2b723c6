//! Whether this file is still the one that it was, or a copy.
//!
//! Two files that go on under one site id would give one clock to two values. A copy is therefore recognised as soon as
//! the file alone shows it, and takes a site id of its own before it stamps anything:
//!
//! - The file system gives each file an identity (`Environment::file_identity`), which is stored. In a copy, or a backup
//!   that was put in the file's place, the stored one is another file's. VACUUM, other journal modes and another name
//!   in the same file system leave it as it is.
//! - A payload may bring a cell of this very site that is later than anything stamped here: then a copy wrote it, or this
//!   file before it was restored from a backup.
//!
//! Where neither shows it, the server does: its nonces tell which of two files asks.
//!
//! What the server gave up to its cursor is in the copy as it was in the other file. So the cursor stays, and all that is here
//! is compared with the server instead of being fetched once more (`check`).

use crate::clocks::NEXT_ORDINAL;
use crate::error::Result;
use crate::given::{GIVEN_TIME, GIVEN_VERSION};
use crate::replica::Replica;
use crate::storage;
use cloudsync_core::clock::{Clock, TIME_INITIAL, TIME_MAX, Time};
use cloudsync_sqlite_ffi::Value;

/// The setting that holds the identity of the file as it was last seen.
const FILE: &str = "file";
/// The setting that says that a change of this site came that was not made in this file.
const CLONE_SEEN: &str = "clone_seen";
/// The settings that say when and why this replica last took another site id.
const PARTED_AT: &str = "parted_at";
const PARTED_WHY: &str = "parted_why";
/// What was noted before parting is folded within this time, in milliseconds.
const PARTING_MS: u64 = 60_000;

impl Replica {
    /// Takes another site id if this file is a copy, or a copy of it is known. The caller holds a transaction of ours.
    pub(crate) fn part_from_copies(&mut self) -> Result<()> {
        // A server is told from its copies by its epoch.
        if storage::is_set(&self.db, NEXT_ORDINAL)? || !storage::is_set(&self.db, "site")? {
            return Ok(());
        }
        let stored = storage::get_i64(&self.db, FILE)?;
        let present = self.file_identity();
        if present.is_some_and(|present| stored.is_some_and(|stored| stored != present)) {
            self.part("the file was copied, or restored from a backup")?;
        } else if storage::is_set(&self.db, CLONE_SEEN)? {
            self.part("a copy of the file went on under the same site id")?;
        }
        self.remember_file()
    }

    /// Stores which file this is, where that is known.
    pub(crate) fn remember_file(&self) -> Result<()> {
        match self.file_identity() {
            Some(present) => storage::set(&self.db, FILE, Value::Integer(present)),
            None => Ok(()),
        }
    }

    /// True when a transaction of ours would find a copy.
    pub(crate) fn is_copy(&self) -> Result<bool> {
        let stored = storage::get_i64(&self.db, FILE)?;
        let present = self.file_identity();
        let copied = present.is_some_and(|present| stored.is_some_and(|stored| stored != present));
        Ok((copied || storage::is_set(&self.db, CLONE_SEEN)?) && !storage::is_set(&self.db, NEXT_ORDINAL)?)
    }

    /// Has the next transaction of ours take another site id: somebody else writes under this one.
    pub(crate) fn note_clone(&self) -> Result<()> {
        if storage::is_set(&self.db, NEXT_ORDINAL)? {
            return Ok(());
        }
        cloudsync_core::reached!("identity: a payload tells of a copy");
        storage::set(&self.db, CLONE_SEEN, Value::Integer(1))
    }

    /// Takes another site id, also for what was not sent; all is compared with the server, or fetched again.
    pub(crate) fn part(&mut self, why: &str) -> Result<()> {
        cloudsync_core::reached!("identity: a copy takes a site of its own");
        storage::unset(&self.db, CLONE_SEEN)?;
        let old = self.own_site()?;
        let given = if self.can_reconcile()? {
            Some((storage::get_u64(&self.db, "cursor")?, storage::get_u64(&self.db, "epoch")?))
        } else {
            None
        };
        self.take_new_site()?;
        self.doubt_rows()?;
        if let Some((cursor, epoch)) = given {
            storage::set_u64(&self.db, "cursor", cursor)?;
            storage::set_u64(&self.db, "epoch", epoch)?;
            self.begin_reconciling(false)?;
        } else if !self.is_empty()? {
            self.begin_reconciling(true)?;
        }
        let new = self.own_site()?;
        // Later ones of the old id came by file, and are the copy's.
        let floor = storage::get_u64(&self.db, "floor")?;
        let is_ours = |clock: &Clock| clock.site == old && clock.time.0 <= floor;
        // Others may have such a cell under its old stamp. If the new one were earlier, a deletion here would not count
        // as having seen the cell there.
        let later = u64::from(self.sites.id(new)? < self.sites.id(old)?);
        let again = |clock: Clock| match clock.time {
            TIME_INITIAL => Clock::new(TIME_INITIAL, new),
            time => Clock::new(Time((time.0 + later).min(TIME_MAX.0)), new),
        };
        self.restamp_unsent(old, None, |_, clock| if is_ours(&clock) { again(clock) } else { clock })?;
        storage::set_u64(&self.db, "floor", floor + later)?;
        storage::set_u64(&self.db, PARTED_AT, self.server_now_ms()?)?;
        storage::set_u64(&self.db, GIVEN_TIME, floor)?;
        storage::set_u64(&self.db, GIVEN_VERSION, self.now_ms().saturating_add(PARTING_MS))?;
        storage::set(&self.db, PARTED_WHY, Value::from(why))
    }

    /// When this replica last took another site id because of a copy, in milliseconds since 1970, and why.
    pub(crate) fn parted(&self) -> Result<Option<(u64, String)>> {
        let Some(why) = storage::get_text(&self.db, PARTED_WHY)? else { return Ok(None) };
        Ok(Some((storage::get_u64(&self.db, PARTED_AT)?, why)))
    }

    fn file_identity(&self) -> Option<i64> {
        let path = self.db.filename("main")?;
        Some(self.environment.file_identity(&path)? as i64)
    }
}
