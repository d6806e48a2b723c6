//! What a connection's functions share: nothing that SQLite would have to close.

use crate::connection_string::{Address, Secret};
use crate::functions::HostSession;
use cloudsync_replica::{Environment, Rolling, SystemEnvironment, UuidSource};
use cloudsync_sqlite_ffi::Api;
use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;
use std::time::SystemTime;

/// The state of one connection, shared by its functions and dropped with them when it closes.
///
/// Prepared statements are not kept here: one that is left open would keep the host from closing its connection.
pub(crate) struct State {
    pub(crate) environment: Rc<dyn Environment>,
    uuids: RefCell<UuidSource>,
    secret: RefCell<Option<Kept>>,
    /// The report of this connection's last sync. One that moved nothing is kept only here, so that polling writes
    /// nothing to the disk.
    last_report: RefCell<Option<String>>,
    /// The session of a host that brings its own network.
    pub(crate) session: RefCell<Option<HostSession>>,
    /// Where the next sync of this connection checks a slice of the rows.
    pub(crate) rolling: RefCell<Rolling>,
    /// True once it was looked whether the file holds its key and is to sync by itself.
    pub(crate) woken: Cell<bool>,
    /// The wish that the file be synced by itself; given up when the connection closes.
    #[cfg(feature = "net")]
    pub(crate) auto: RefCell<Option<crate::auto::Handle>>,
}

/// The key or token, and the server that it is meant for.
struct Kept {
    secret: Secret,
    /// `None` until a server is known: the first one then.
    server: Option<String>,
}

impl State {
    /// The state of a new connection of the library `api`.
    pub(crate) fn new(api: Api) -> Self {
        let environment: Rc<dyn Environment> = Rc::new(SystemEnvironment::new(move |buffer: &mut [u8]| {
            fill_random(api, buffer);
        }));
        let uuids = RefCell::new(UuidSource::new(Rc::clone(&environment)));
        Self {
            environment,
            uuids,
            secret: RefCell::new(None),
            last_report: RefCell::new(None),
            session: RefCell::new(None),
            rolling: RefCell::default(),
            woken: Cell::new(false),
            #[cfg(feature = "net")]
            auto: RefCell::new(None),
        }
    }

    /// The next UUID of this connection.
    pub(crate) fn next_uuid(&self) -> String {
        self.uuids.borrow_mut().next()
    }

    /// Keeps a secret in memory. Without `server` it is for the server that is named next.
    pub(crate) fn keep_secret(&self, secret: Secret, server: Option<&Address>) {
        *self.secret.borrow_mut() = Some(Kept { secret, server: server.map(Address::origin) });
    }

    /// Gives the secret for a server. A secret that was meant for another one is not given away: the server that a
    /// file remembers may have been changed since by someone else.
    pub(crate) fn secret_for(&self, server: &Address) -> Option<Secret> {
        let mut kept = self.secret.borrow_mut();
        let kept = kept.as_mut()?;
        let origin = server.origin();
        let meant_for = kept.server.get_or_insert_with(|| origin.clone());
        (*meant_for == origin).then(|| kept.secret.clone())
    }

    /// Keeps the report of a sync.
    pub(crate) fn keep_report(&self, report: String) {
        *self.last_report.borrow_mut() = Some(report);
    }

    /// The report of this connection's last sync.
    pub(crate) fn last_report(&self) -> Option<String> {
        self.last_report.borrow().clone()
    }

    /// Forgets what belongs to the user of this connection.
    pub(crate) fn log_out(&self) {
        self.forget_secret();
        *self.last_report.borrow_mut() = None;
        *self.session.borrow_mut() = None;
    }

    /// Forgets the secret.
    pub(crate) fn forget_secret(&self) {
        *self.secret.borrow_mut() = None;
    }
}

/// SQLite's generator, stirred with process and time: after a `fork` both processes hold the same generator, and
/// would name two devices alike.
pub(crate) fn fill_random(api: Api, buffer: &mut [u8]) {
    api.randomness(buffer);
    for (number, block) in buffer.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (std::process::id(), SystemTime::now(), number).hash(&mut hasher);
        for (byte, stir) in block.iter_mut().zip(hasher.finish().to_le_bytes()) {
            *byte ^= stir;
        }
    }
}
