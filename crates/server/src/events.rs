//! What listeners wait for: that a database has something new for them.
//!
//! A [`Feed`] belongs to one store and holds no more than two versions, however many listeners there are and however
//! slow they are: the newest version with the site that brought it, and the newest that another site brought. That is
//! all it takes to tell each listener of what is new without telling any site of its own uploads alone.
//!
//! A hub belongs to the server. It counts the listeners, looks after what other processes write while somebody
//! listens, and ends listeners when the server stops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cloudsync_core::id::SiteId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::folder::DatabaseName;
use crate::store::Store;

/// How often a file is looked at for what other processes write: just after something was written, ...
const LOOK_MS_MIN: u64 = 10;
/// ... and when nothing was written for some seconds.
const LOOK_MS_MAX: u64 = 500;
/// Listeners of one database who are looked up at one time, whether news concern them: a thousand wake at once, and a
/// thread for each would cost more than its look.
const LOOKS_MAX: usize = 2;
/// How often the control database is looked at for keys that were revoked.
const KEYS_LOOK: Duration = Duration::from_millis(250);

/// The newest versions of one database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    newest: u64,
    /// Who brought the newest; `None` for what was written in the server's own file.
    site: Option<SiteId>,
    /// The newest version that somebody else brought.
    newest_of_others: u64,
}

impl News {
    /// The newest version that holds something for a site: one that it did not upload itself. 0 if there is none.
    #[must_use]
    pub fn version_for(&self, site: Option<SiteId>) -> u64 {
        if site.is_some() && site == self.site { self.newest_of_others } else { self.newest }
    }

    fn add(&mut self, site: Option<SiteId>, version: u64) {
        if site != self.site {
            self.newest_of_others = self.newest;
        }
        (self.newest, self.site) = (version, site);
    }
}

/// Tells whoever listens to one database of each commit.
#[derive(Debug)]
pub struct Feed {
    news: watch::Sender<News>,
    looks: Semaphore,
}

impl Default for Feed {
    fn default() -> Self {
        Self { news: watch::Sender::new(News::default()), looks: Semaphore::new(LOOKS_MAX) }
    }
}

impl Feed {
    /// Tells that a version was committed; `site` uploaded it, or nobody.
    pub fn tell(&self, site: Option<SiteId>, version: u64) {
        self.news.send_if_modified(|news| {
            let is_new = version > news.newest;
            if is_new {
                news.add(site, version);
            }
            is_new
        });
    }

    /// The newest version that was told.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.news.borrow().newest
    }

    /// Waits for one's turn to look whether news concern somebody.
    pub(crate) async fn turn_to_look(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.looks.acquire().await.ok()
    }

    /// How many wait for news.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.news.receiver_count()
    }

    /// Something to wait on for news.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }
}

/// What concerns all listeners of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    /// The server stops.
    pub(crate) stopping: bool,
    /// The state of the control database: when it changes, keys may have been revoked.
    pub(crate) control: i64,
}

/// The listeners of a server.
pub(crate) struct Hub {
    signal: watch::Sender<Signal>,
    room_max: usize,
    room: Arc<Semaphore>,
    looked_at: Mutex<HashMap<DatabaseName, Weak<()>>>,
    keys_looked_at: Mutex<Weak<()>>,
}

/// One listener: while it lives, the database's file and the keys are looked at.
pub(crate) struct Listening {
    pub(crate) signal: watch::Receiver<Signal>,
    _file: Arc<()>,
    _keys: Arc<()>,
    _room: OwnedSemaphorePermit,
}

/// Reads the state of the control database.
pub(crate) type ReadControl = Arc<dyn Fn() -> crate::Result<i64> + Send + Sync>;

impl Hub {
    /// A hub with room for so many listeners.
    pub(crate) fn new(listeners_max: usize) -> Self {
        let room_max = listeners_max.min(Semaphore::MAX_PERMITS);
        Self {
            signal: watch::Sender::default(),
            room_max,
            room: Arc::new(Semaphore::new(room_max)),
            looked_at: Mutex::default(),
            keys_looked_at: Mutex::default(),
        }
    }

    /// One more listener of a database; `None` if there is no room.
    pub(crate) fn listen(
        &self,
        name: &DatabaseName,
        store: &Arc<dyn Store>,
        read_control: &ReadControl,
    ) -> Option<Listening> {
        let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let file = looked_at.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let file = Arc::new(());
            looked_at.retain(|_, listeners| listeners.strong_count() > 0);
            looked_at.insert(name.clone(), Arc::downgrade(&file));
            tokio::spawn(look_at_file(name.clone(), Arc::clone(store), Arc::downgrade(&file)));
            file
        });
        drop(looked_at);
        let mut keys_looked_at = self.keys_looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys_looked_at.upgrade().unwrap_or_else(|| {
            let keys = Arc::new(());
            *keys_looked_at = Arc::downgrade(&keys);
            tokio::spawn(look_at_keys(self.signal.clone(), Arc::clone(read_control), Arc::downgrade(&keys)));
            keys
        });
        Some(Listening { signal: self.signal.subscribe(), _file: file, _keys: keys, _room: room })
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.room_max - self.room.available_permits()
    }

    /// Ends all listeners, and those that come later.
    pub(crate) fn stop(&self) {
        self.signal.send_modify(|signal| signal.stopping = true);
    }
}

/// Looks for what other processes write, the more often the less time has passed since the last write.
async fn look_at_file(name: DatabaseName, store: Arc<dyn Store>, listeners: Weak<()>) {
    let (mut look_ms, mut failed) = (LOOK_MS_MIN, false);
    while listeners.strong_count() > 0 {
        let looking = Arc::clone(&store);
        look_ms = match spawn_blocking(move || looking.refresh()).await {
            Ok(Ok(changed)) => {
                failed = false;
                if changed { LOOK_MS_MIN } else { (look_ms * 5 / 4 + 1).min(LOOK_MS_MAX) }
            }
            outcome => {
                if !failed && let Ok(Err(error)) = outcome {
                    tracing::warn!(db = %name, %error, "what other processes write cannot be taken in");
                }
                failed = true;
                LOOK_MS_MAX
            }
        };
        sleep(Duration::from_millis(look_ms)).await;
    }
}

/// Tells all listeners when the control database has changed.
async fn look_at_keys(signal: watch::Sender<Signal>, read_control: ReadControl, listeners: Weak<()>) {
    while listeners.strong_count() > 0 {
        let read_control = Arc::clone(&read_control);
        match spawn_blocking(move || read_control()).await {
            Ok(Ok(control)) => drop(signal.send_if_modified(|signal| {
                let changed = signal.control != control;
                signal.control = control;
                changed
            })),
            Ok(Err(error)) => tracing::error!(error = error.to_line(), "keys cannot be looked at"),
            // Its panic is in the log already.
            Err(_) => {}
        }
        sleep(KEYS_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<SiteId> = Some(SiteId([1; 16]));
    const B: Option<SiteId> = Some(SiteId([2; 16]));

    #[tokio::test]
    async fn only_few_look_at_one_time() {
        let feed = Feed::default();
        let mut turns = Vec::new();
        for _ in 0..LOOKS_MAX {
            turns.push(feed.turn_to_look().await.unwrap());
        }
        let another = || tokio::time::timeout(Duration::ZERO, feed.turn_to_look());
        assert!(another().await.is_err());
        turns.pop();
        assert!(another().await.unwrap().is_some());
    }

    #[test]
    fn nobody_is_told_of_what_he_alone_uploaded() {
        let feed = Feed::default();
        let versions = || {
            let news = *feed.listen().borrow();
            [news.version_for(A), news.version_for(B), news.version_for(None)]
        };
        feed.tell(None, 5);
        assert_eq!(versions(), [5, 5, 5]);
        feed.tell(A, 6);
        feed.tell(A, 7);
        assert_eq!(versions(), [5, 7, 7]);
        feed.tell(B, 8);
        assert_eq!(versions(), [8, 7, 8]);
        feed.tell(A, 9);
        assert_eq!(versions(), [8, 9, 9]);
        feed.tell(None, 10);
        feed.tell(None, 11);
        assert_eq!(versions(), [11, 11, 11]);
        feed.tell(A, 12);
        assert_eq!(versions(), [11, 12, 12]);
    }

    #[test]
    fn a_version_is_told_once_and_never_goes_back() {
        let feed = Feed::default();
        feed.tell(A, 6);
        let mut listener = feed.listen();
        listener.mark_unchanged();
        feed.tell(B, 6);
        feed.tell(B, 2);
        assert!(!listener.has_changed().unwrap());
        assert_eq!((listener.borrow().version_for(A), feed.newest()), (0, 6));
    }
}
