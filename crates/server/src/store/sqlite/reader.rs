//! Reading beside the writer: what is new for a device.

use super::checks::Checks;
use super::connection::{UnderPolicies, Wrapped};
use super::host::Located;
use super::{schema, standing};
use crate::auth::User;
use crate::ledger::{self, Commit, Device, Given, Posting};
use crate::metrics::METRICS;
use crate::store::{Asker, StoreError};
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::CHUNK_BYTES_TARGET;
use cloudsync_protocol::message::Request;
use cloudsync_protocol::server::{self, Standing, is_skewed};
use cloudsync_replica::{Extraction, Position};
use cloudsync_sqlite_ffi::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Readers that work at one time; each has a connection with its own page cache.
const READERS_MAX: usize = 4;

/// A pool of connections that read.
pub(super) struct Readers {
    file: Located,
    pool: Mutex<Pool>,
    returned: Condvar,
    checks: Checks,
    recomputations: AtomicU64,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Parked>,
    /// Permits that are given out.
    busy: usize,
}

/// The right to use a connection; it goes back when dropped, also when the use ends in a panic.
struct Permit<'r>(&'r Readers);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.pool().busy -= 1;
        self.0.returned.notify_one();
    }
}

/// A connection between two uses, on its way between threads.
struct Parked(Wrapped);

#[allow(unsafe_code)]
// SAFETY: SQLite is built with its mutexes and lets a connection move between threads; the pool hands it to one thread
// at a time. The replica's shared parts (`Rc`) are all inside this one value and move with it.
unsafe impl Send for Parked {}

/// What a device receives in one turn.
pub(super) struct Pulled {
    pub(super) payload: Vec<u8>,
    pub(super) next: Option<Vec<u8>>,
    pub(super) cursor: u64,
    pub(super) rows_total: u64,
    /// What must be on disk before it leaves.
    pub(super) posting: Option<Posting>,
    /// What became of the check, encoded; empty if there was none.
    pub(super) checked: Vec<u8>,
    /// It began to look at all rows of tables.
    recomputes: bool,
}

/// A turn that can be answered.
pub(super) struct Ready {
    pub(super) epoch: u64,
    pub(super) nonce: u64,
    pub(super) pulled: Pulled,
}

impl Readers {
    pub(super) fn new(file: Located) -> Self {
        Self {
            file,
            pool: Mutex::default(),
            returned: Condvar::new(),
            checks: Checks::default(),
            recomputations: AtomicU64::new(0),
        }
    }

    /// What a turn that brings nothing is answered with; `None` if the writer must see it.
    pub(super) fn turn(
        &self,
        request: &Request<'_>,
        asker: &Asker,
        now_ms: u64,
    ) -> Result<Option<Ready>, StoreError> {
        self.read(|file| {
            let may_read = asker.rights.read && standing::is_same_user(&file.db, request.site, asker)?;
            if !may_read || needs_fold(file)? || is_skewed(request, now_ms) {
                return Ok(None);
            }
            let known = standing::knowledge(&file.db, request)?;
            let goes_on = matches!(server::standing(&known, request), Standing::New | Standing::Current);
            let must_be_bound = asker.user.is_some() && known.record.is_none();
            if !goes_on || must_be_bound || !schema::fits(&mut file.replica, request.fingerprint)? {
                return Ok(None);
            }
            let nonce = known.record.map_or(0, |record| record.nonce);
            let pulled = self.pulled(file, request, asker)?;
            Ok(pulled.map(|pulled| Ready { epoch: known.epoch, nonce, pulled }))
        })
    }

    /// How often a turn began to look at all rows of tables.
    pub(super) fn recomputations(&self) -> u64 {
        self.recomputations.load(Ordering::Relaxed)
    }

    /// Whether others have written what no version holds yet.
    pub(super) fn needs_fold(&self) -> Result<bool, StoreError> {
        self.read(needs_fold)
    }

    /// What is new for a device whose upload was taken; `None` if something must be folded first.
    pub(super) fn pull(&self, request: &Request<'_>, asker: &Asker) -> Result<Option<Pulled>, StoreError> {
        self.read(|file| {
            if needs_fold(file)? {
                return Ok(None);
            }
            // Its upload was taken a moment ago; what it does with this it is told by the turn that follows.
            if request.pull && schema::may_hide(&mut file.replica, request)? {
                return Err(StoreError::Busy("a table was switched off just now".to_owned()));
            }
            self.pulled(file, request, asker)
        })
    }

    fn pulled(
        &self,
        file: &mut Wrapped,
        request: &Request<'_>,
        asker: &Asker,
    ) -> Result<Option<Pulled>, StoreError> {
        let Some(mut pulled) = pull(file, request, asker)? else { return Ok(None) };
        if pulled.recomputes {
            METRICS.recomputations.add(1);
            self.recomputations.fetch_add(1, Ordering::Relaxed);
        }
        // Before the end of a download the two sides stand at no common cursor.
        let checks = request.pull && pulled.next.is_none() && !request.check.ranges.is_empty();
        if checks {
            pulled.checked = self.checks.answer(file, request, asker, &mut pulled.posting)?;
        }
        Ok(Some(pulled))
    }

    /// Whether anything after a version concerns a site of a user.
    pub(super) fn concerns(&self, user: &User, site: SiteId, version: u64) -> Result<bool, StoreError> {
        self.read(|file| {
            let ordinal = file.replica.site_ordinal(site)?;
            // language=SQLite
            let whose = "SELECT user = ?2 FROM main.cloudsync_server_sites WHERE site_id = ?1";
            let whose = file.db.query_i64(whose, &[Value::Blob(&site.0), Value::from(user.id.as_str())])?;
            let (Some(ordinal), Some(1)) = (ordinal, whose) else { return Ok(true) };
            let commit = Commit::read(&file.db)?;
            let is_known = file.glance.as_ref().is_some_and(|glance| glance.is_of(commit, version));
            if !is_known && needs_fold(file)? {
                return Ok(true);
            }
            let Some(UnderPolicies { replica, glance, policies, identity }) = file.watched()? else {
                return Ok(true);
            };
            let _assumed = identity.assume(user);
            let device = Device { id: site, ordinal, user };
            Ok(ledger::concerns(glance, commit, replica, policies, &device, version)?)
        })
    }

    /// Runs `act` on a connection of the pool, in one read transaction.
    fn read<T>(&self, act: impl FnOnce(&mut Wrapped) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _permit = self.permit();
        let idle = self.pool().idle.pop();
        let mut file = match idle {
            Some(Parked(file)) => file,
            None => Wrapped::open(&self.file)?,
        };
        let open = file.shelf.open();
        let outcome = file.db.execute("BEGIN").map_err(StoreError::from).and_then(|()| act(&mut file));
        drop(open);
        // A connection in an unknown state is closed.
        if file.db.execute("COMMIT").is_ok() {
            self.pool().idle.push(Parked(file));
        }
        outcome
    }

    fn permit(&self) -> Permit<'_> {
        let pool = self.returned.wait_while(self.pool(), |pool| pool.busy >= READERS_MAX);
        pool.unwrap_or_else(PoisonError::into_inner).busy += 1;
        Permit(self)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn needs_fold(file: &mut Wrapped) -> Result<bool, StoreError> {
    Ok(file.replica.needs_fold()? || ledger::has_unstamped(&file.db)?)
}

/// What is new for whoever asks; `None` if the writer must prepare something first.
fn pull(file: &mut Wrapped, request: &Request<'_>, asker: &Asker) -> Result<Option<Pulled>, StoreError> {
    if !request.pull {
        let cursor = request.cursor;
        return Ok(Some(Pulled {
            payload: Vec::new(),
            next: None,
            cursor,
            rows_total: 0,
            posting: None,
            checked: Vec::new(),
            recomputes: false,
        }));
    }
    match &asker.user {
        Some(user) => pull_for(file, request, user),
        None => pull_all(file, request).map(Some),
    }
}

/// What is new for a device of a user.
fn pull_for(file: &mut Wrapped, request: &Request<'_>, user: &User) -> Result<Option<Pulled>, StoreError> {
    let Some(site) = file.replica.site_ordinal(request.site)? else { return Ok(None) };
    let Some(UnderPolicies { replica, policies, identity, .. }) = file.watched()? else { return Ok(None) };
    let _assumed = identity.assume(user);
    let given = ledger::pull(replica, policies, request, site, user)?;
    let Given { payload, rows, position: next, cursor, posting, recomputes } = given;
    METRICS.pull_rows.add(rows);
    Ok(Some(Pulled { payload, next, cursor, rows_total: 0, posting, checked: Vec::new(), recomputes }))
}

/// What is new for a device with a key, which sees everything.
fn pull_all(file: &mut Wrapped, request: &Request<'_>) -> Result<Pulled, StoreError> {
    let head = file.replica.version()?;
    let from = match Position::decode(request.position) {
        Some(position) => position,
        None => file.replica.position_after(request.cursor)?,
    };
    let first = request.position.is_empty();
    let rows_total = if first { file.replica.rows_after(request.cursor)? } else { 0 };
    // A site that never uploaded has no ordinal; none of the changes is from it.
    let site = file.replica.site_ordinal(request.site)?.unwrap_or(SiteOrdinal(u32::MAX));
    let filter = file.replica.filter_for(site, request.cursor, request.echo)?;
    let extraction = Extraction { from, last: head, filter, bytes_target: CHUNK_BYTES_TARGET };
    let chunk = file.replica.extract_in_transaction(&extraction)?;
    METRICS.pull_rows.add(chunk.rows);
    let next = chunk.next.map(|position| position.encode());
    // Before the end of a download there is no cursor: what was sent so far has no end that a version names.
    // A cursor of 0 would ask for everything again, also where there was nothing yet.
    let cursor = if next.is_none() { head.max(1) } else { 0 };
    Ok(Pulled {
        payload: chunk.payload,
        next,
        cursor,
        rows_total,
        posting: None,
        checked: Vec::new(),
        recomputes: false,
    })
}
