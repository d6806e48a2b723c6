//! Where a database's rows, clocks and sites live, behind one trait: one call is one turn of the protocol.
//!
//! [`memory`] is a naive model that is obviously right, [`sqlite`] the embedded store; `tests/conformance.rs` is the
//! suite that every store passes.

pub mod memory;
pub mod sqlite;

use std::sync::Arc;

use crate::auth::User;
use crate::events::Feed;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::Request;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// What they may do.
    pub rights: Rights,
    /// The user whose token came; `None` if it was a key, which is trusted.
    pub user: Option<Arc<User>>,
}

impl Asker {
    /// The id of the user.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.id.as_str())
    }
}

impl From<Rights> for Asker {
    /// A trusted key.
    fn from(rights: Rights) -> Self {
        Self { rights, user: None }
    }
}

/// What somebody may do in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// May receive rows.
    pub read: bool,
    /// May upload changes.
    pub write: bool,
    /// May bring tables and columns that the server does not have.
    pub schema: bool,
}

/// A failure of the store itself. What the protocol can express, a refusal say, is an answer and not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store is overloaded or its file is locked; trying again helps.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// The stored data cannot be read or written.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// One synced database.
pub trait Store: Send + Sync {
    /// Takes one turn at `now_ms`, milliseconds since 1970, and gives the encoded answer. When it returns, what the
    /// answer acknowledges is on disk.
    ///
    /// # Errors
    /// [`StoreError`] when the turn could not be taken; then nothing was changed.
    fn turn(&self, request: &Request<'_>, asker: &Asker, now_ms: u64) -> Result<Vec<u8>, StoreError>;

    /// Whether a site of this user would receive anything that is newer than `version`. May say so where it would not.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be found out.
    fn concerns(&self, user: &User, site: SiteId, version: u64) -> Result<bool, StoreError> {
        let _ = (user, site, version);
        Ok(true)
    }

    /// How often all rows of tables were looked at anew to find what a device may see, since the store was opened.
    fn recomputations(&self) -> u64 {
        0
    }

    /// Tells of each commit, once it is on disk.
    fn feed(&self) -> &Feed;

    /// Takes in what others wrote to the file without a turn, so that the feed tells of it. True if anything was
    /// written since the last call, turns included. Cheap when not.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be found out or taken in.
    fn refresh(&self) -> Result<bool, StoreError>;
}
