//! The stores under test, and asking them.

use cloudsync_protocol::message::{Accepted, Answer, Reason, Refusal, Request};
use cloudsync_server::store::memory::MemoryStore;
use cloudsync_server::store::sqlite::{SqliteStore, disable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use std::path::PathBuf;
use tempfile::TempDir;

/// The server's clock in all cases, milliseconds since 1970.
pub(crate) const NOW: u64 = 1_790_000_000_000;
/// A key that may do everything.
pub(crate) const ADMIN: Rights = Rights { read: true, write: true, schema: true };
/// A key that may not bring tables.
pub(crate) const WRITER: Rights = Rights { read: true, write: true, schema: false };
/// A key that may only read.
pub(crate) const READER: Rights = Rights { read: true, write: false, schema: false };

/// A store, and what the suite must know of its kind.
pub(crate) trait Subject: Sync {
    fn store(&self) -> &dyn Store;
    /// Switches a table off, as the server's owner does.
    fn disable(&self, table: &str);
    /// Whether large downloads come in several turns.
    fn sends_chunks(&self) -> bool;
}

pub(crate) struct Memory(MemoryStore);

impl Memory {
    pub(crate) fn new() -> Self {
        Self(MemoryStore::new())
    }
}

impl Subject for Memory {
    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn disable(&self, table: &str) {
        self.0.disable_table(table);
    }

    fn sends_chunks(&self) -> bool {
        false
    }
}

/// A store in a file in a folder of its own.
pub(crate) struct Sqlite {
    store: SqliteStore,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Sqlite {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        Self { store: SqliteStore::open(&path).unwrap(), path, _folder: folder }
    }

    /// The same file after a restart of the server.
    pub(crate) fn reopen(self) -> Self {
        let Self { store, path, _folder } = self;
        drop(store);
        Self { store: SqliteStore::open(&path).unwrap(), path, _folder }
    }

    /// A plain connection to the file, as the `sqlite3` shell has.
    pub(crate) fn shell(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).unwrap()
    }
}

impl Subject for Sqlite {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn disable(&self, table: &str) {
        disable_table(&self.path, table).unwrap();
    }

    fn sends_chunks(&self) -> bool {
        true
    }
}

/// A turn that was taken, owned.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Took {
    pub(crate) epoch: u64,
    pub(crate) nonce: u64,
    pub(crate) accepted: Option<Accepted>,
    pub(crate) drained: bool,
    pub(crate) cursor: u64,
    pub(crate) position: Vec<u8>,
    pub(crate) rows_total: u64,
    pub(crate) verdicts: Vec<u8>,
    pub(crate) checked: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Took {
    /// What the answer says of the upload: the same, however often the round is repeated. The download of a repeated
    /// one carries more.
    pub(crate) fn upload(&self) -> (u64, u64, Option<Accepted>, &[u8]) {
        let accepted = self.accepted.map(|accepted| Accepted { repeated: false, ..accepted });
        (self.epoch, self.nonce, accepted, &self.verdicts)
    }

    pub(crate) fn is_repeated(&self) -> bool {
        self.accepted.is_some_and(|accepted| accepted.repeated)
    }
}

/// An answer, owned.
#[derive(Debug)]
pub(crate) enum Reply {
    Took(Took),
    Refused(Refusal),
}

impl Reply {
    pub(crate) fn took(self) -> Took {
        match self {
            Self::Took(took) => took,
            Self::Refused(refusal) => panic!("the turn was refused: {refusal:?}"),
        }
    }

    /// The refusal, which must be for that reason.
    pub(crate) fn refused(self, reason: Reason) -> Refusal {
        match self {
            Self::Refused(refusal) if refusal.reason == reason => refusal,
            other => panic!("no refusal for {reason:?} but {other:?}"),
        }
    }
}

pub(crate) fn ask(store: &dyn Store, request: &Request<'_>) -> Reply {
    ask_as(store, request, ADMIN)
}

pub(crate) fn ask_as(store: &dyn Store, request: &Request<'_>, asker: impl Into<Asker>) -> Reply {
    let bytes = store.turn(request, &asker.into(), NOW).unwrap();
    match Answer::decode(&bytes).unwrap() {
        Answer::Turn(turn) => {
            assert_eq!(turn.now, NOW);
            assert_eq!(
                turn.position.is_empty(),
                turn.drained,
                "a position belongs to an unfinished download"
            );
            Reply::Took(Took {
                epoch: turn.epoch,
                nonce: turn.nonce,
                accepted: turn.accepted,
                drained: turn.drained,
                cursor: turn.cursor,
                position: turn.position.to_vec(),
                rows_total: turn.rows_total,
                verdicts: turn.verdicts.to_vec(),
                checked: turn.checked.to_vec(),
                payload: turn.payload.to_vec(),
            })
        }
        Answer::Refusal(refusal) => {
            assert_eq!(refusal.now, NOW);
            Reply::Refused(refusal)
        }
    }
}
