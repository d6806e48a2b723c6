//! What the threads of one file and the connections that asked for them share.

use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auto::FileKey;
use crate::connection_string::{Address, Secret};
use crate::net::EventStop;

/// How long a connection that closes waits for the threads: enough for them to close theirs when they only sleep.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// A file that this process syncs by itself.
pub(crate) struct Engine {
    pub(crate) file: FileKey,
    /// Threads do not go with a fork: in the child this is another process's engine, of which nothing may be touched.
    process: u32,
    /// Connections that asked.
    asked: AtomicUsize,
    shared: Mutex<Shared>,
    /// Something was said to the worker, or to the listener, or one of them has ended.
    said: Condvar,
}

/// What is said from one to another.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) stop: bool,
    pub(super) ended: bool,
    /// The key, and the server that it is meant for. In memory only.
    pub(super) secret: Option<(Secret, String)>,
    /// Counts what the worker must not sleep over: keys, what the server told, a connection that came to be.
    pub(super) calls: u64,
    /// Counts keys that were set.
    pub(super) secrets: u64,
    /// The newest version that the server told of.
    pub(super) told: u64,
    /// Whether the server's events are being listened to.
    pub(super) listening: bool,
    /// What to listen to; the number changes with it.
    pub(super) target: Option<Target>,
    pub(super) targets: u64,
    /// Ends the listener's wait.
    pub(super) event_stop: Option<EventStop>,
    pub(super) progress: Progress,
}

/// What the listener listens to.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    /// The setting `network_ca`.
    pub(super) authority: Option<String>,
    pub(super) secret: Secret,
    /// The site id as hex digits.
    pub(super) site: String,
    pub(super) cursor: u64,
}

impl Target {
    /// Whether a listener of the one is as good as a listener of the other.
    fn fits(&self, other: &Self) -> bool {
        let same_way = (&self.address, &self.authority) == (&other.address, &other.authority);
        same_way && (&self.secret, &self.site) == (&other.secret, &other.site)
    }
}

/// What people are told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) doing: Doing,
    pub(crate) last_error: Option<String>,
    /// The report of the last sync, as JSON.
    pub(crate) report: Option<String>,
    /// Syncs that succeeded.
    pub(crate) syncs: u64,
}

/// What the worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Doing {
    #[default]
    Starting,
    /// In step, as far as it knows.
    Idle,
    Syncing,
    /// There is no key, or the server refused it.
    WaitingForCredentials,
    /// The server cannot be reached; the time of the next try, milliseconds since 1970.
    Offline {
        until_ms: u64,
    },
    /// Something is wrong that time may not mend.
    Failing {
        until_ms: u64,
    },
}

/// One connection's wish that its file be synced. The threads end with the last one.
pub(crate) struct Handle(pub(super) Arc<Engine>);

impl Engine {
    pub(super) fn new(file: FileKey) -> Self {
        Self {
            file,
            process: process::id(),
            asked: AtomicUsize::new(0),
            shared: Mutex::default(),
            said: Condvar::new(),
        }
    }

    /// Whether the threads are of this process.
    pub(crate) fn is_ours(&self) -> bool {
        self.process == process::id()
    }

    /// Whether it can be joined: ours, and not about to end.
    pub(super) fn is_running(&self) -> bool {
        self.is_ours() && {
            let shared = self.shared();
            !shared.stop && !shared.ended
        }
    }

    pub(super) fn ask(self: &Arc<Self>) -> Handle {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Handle(Arc::clone(self))
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        // Every change of it is whole: a panic elsewhere leaves nothing half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is shared, and wakes whoever waits.
    pub(super) fn say<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        let result = change(&mut self.shared());
        self.said.notify_all();
        result
    }

    /// Waits until `until`, or until `ready` gives something.
    pub(super) fn wait<T>(
        &self,
        until: Option<Instant>,
        mut ready: impl FnMut(&mut Shared) -> Option<T>,
    ) -> Option<T> {
        let mut shared = self.shared();
        loop {
            if let Some(found) = ready(&mut shared) {
                return Some(found);
            }
            shared = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return None,
                Some(left) => self.said.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.said.wait(shared).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn set_secret(&self, secret: Secret, server: String) {
        self.say(|shared| {
            shared.secret = Some((secret, server));
            shared.secrets += 1;
            shared.calls += 1;
        });
    }

    /// Names what to listen to. A connection that fits stays.
    pub(super) fn set_target(&self, target: Option<Target>) {
        self.say(|shared| {
            let fits = match (&shared.target, &target) {
                (Some(old), Some(new)) => old.fits(new),
                (old, new) => old.is_none() && new.is_none(),
            };
            shared.target = target;
            if !fits {
                shared.targets += 1;
                shared.end_listening();
            }
        });
    }

    /// Ends the threads, and waits a little for them.
    pub(crate) fn stop(&self) {
        if !self.is_ours() {
            return;
        }
        self.say(|shared| {
            shared.stop = true;
            shared.end_listening();
        });
        self.wait(Some(Instant::now() + STOP_WAIT), |shared| shared.ended.then_some(()));
    }

    /// Whether the threads shall end.
    pub(super) fn is_stopping(&self) -> bool {
        self.shared().stop
    }

    /// What people are told, and whether the server's events are listened to.
    pub(crate) fn progress(&self) -> (Progress, bool) {
        let shared = self.shared();
        (shared.progress.clone(), shared.listening)
    }
}

impl Shared {
    /// Makes a waiting listener look up.
    pub(super) fn end_listening(&mut self) {
        self.listening = false;
        if let Some(stop) = self.event_stop.take() {
            stop.stop();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A child that closes the connection of its parent must leave the parent's threads alone, and their locks.
        if self.0.is_ours() && self.0.asked.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.stop();
        }
    }
}

impl Handle {
    /// Whether the threads still run, in this process.
    pub(crate) fn is_good(&self) -> bool {
        self.0.is_running()
    }

    /// Gives the key for a server to the threads.
    pub(crate) fn set_secret(&self, secret: Secret, server: String) {
        self.0.set_secret(secret, server);
    }
}
