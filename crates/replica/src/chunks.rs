//! The changes after a version as payloads of bounded size, one after another.

use crate::changes;
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::extract::{Extraction, Filter};
use crate::position::Position;
use crate::replica::Replica;
use cloudsync_protocol::limits::CHUNK_BYTES_TARGET;
use cloudsync_protocol::payload::{Encoder, Header};
use cloudsync_sqlite_ffi::TransactionState;

/// One of several payloads that belong together.
#[derive(Debug)]
pub struct PayloadChunk {
    /// The bytes; a payload without rows when nothing changed.
    pub payload: Vec<u8>,
    /// The first version whose changes are in the chunks.
    pub first_version: u64,
    /// The last one: the next series goes on after it.
    pub last_version: u64,
    /// True when no chunk follows.
    pub is_final: bool,
}

/// A series of chunks, each made when it is asked for; only one is in memory.
#[derive(Debug)]
pub struct Chunks {
    first_version: u64,
    last_version: u64,
    next: Option<Position>,
}

impl Replica {
    /// Begins the chunks of what changed after `since`, local writes included. There is at least one chunk.
    ///
    /// # Errors
    /// Inside a transaction; when no table syncs; when local writes cannot be taken in because the file is locked
    /// or read-only.
    pub fn chunks_after(&mut self, since: u64) -> Result<Chunks> {
        self.require()?;
        self.fold_for_chunks()?;
        let last_version = changes::last_version(&self.db)?;
        // In a file that is read-only nothing can be noted, and nothing is sent.
        if !self.is_given(last_version)? && !self.db.is_readonly("main")? {
            self.transact(|replica| replica.note_given(last_version))?;
        }
        Ok(Chunks {
            first_version: since.saturating_add(1),
            last_version,
            next: Some(self.position_after(since)?),
        })
    }

    /// A row must not be sent with a value that its clock does not speak of, so whatever was written since the last
    /// chunk is taken in, and what may yet be rolled back is not read at all.
    fn fold_for_chunks(&mut self) -> Result<()> {
        self.require_no_transaction()?;
        if self.fold_if_free()? {
            return Ok(());
        }
        if self.db.is_readonly("main")? {
            return Err(Error::state(
                "the database is read-only, and holds local writes that were not taken in yet: open it for writing",
            ));
        }
        Err(Error::Busy("another connection writes".to_owned()))
    }

    /// Folds what is noted where that disturbs nobody: outside of transactions, in a file that can be written, and
    /// without waiting for its lock. Gives true when nothing is left to fold.
    ///
    /// It may run inside of a statement that reads: SQLite commits beside open reads of the same connection, and
    /// refuses to begin if these see an older state of the file.
    ///
    /// # Errors
    /// When the file cannot be read, or the fold fails.
    pub fn fold_if_free(&mut self) -> Result<bool> {
        if !self.exists()? || !self.needs_fold()? {
            return Ok(true);
        }
        let writing = self.db.transaction_state(Some("main"))? == TransactionState::Write;
        if writing || !self.db.is_autocommit() || self.db.is_readonly("main")? {
            return Ok(false);
        }
        let rowid = self.db.last_insert_rowid();
        let outcome = self.fold_unless_locked();
        self.db.set_last_insert_rowid(rowid);
        match outcome {
            Ok(()) => return Ok(true),
            Err(Error::Sqlite(error)) if error.is_busy() || error.is_readonly() => {}
            Err(error) => return Err(error),
        }
        self.catalog.clear();
        self.sites.clear();
        Ok(false)
    }

    fn fold_unless_locked(&mut self) -> Result<()> {
        let transaction = self.db.begin_immediate()?;
        self.sites.refresh(&self.db)?;
        self.part_from_copies()?;
        self.fold_in_transaction()?;
        Ok(transaction.commit()?)
    }
}

impl Chunks {
    /// Makes the next chunk; `None` after the final one.
    ///
    /// # Errors
    /// As [`Replica::chunks_after`].
    pub fn next(&mut self, replica: &mut Replica) -> Result<Option<PayloadChunk>> {
        let Some(from) = self.next.take() else { return Ok(None) };
        replica.fold_for_chunks()?;
        let (last, filter) = (self.last_version, Filter::Everything);
        let extraction = Extraction { from, last, filter, bytes_target: CHUNK_BYTES_TARGET };
        let chunk = replica.extract_in_transaction(&extraction)?;
        let is_final = chunk.next.is_none();
        self.next = chunk.next;
        let payload = if chunk.payload.is_empty() {
            // No bytes at all could not be told from a chunk that was lost.
            Encoder::new().finish(Header { first_version: 0, last_version: last, is_final }, &Zstd)
        } else {
            chunk.payload
        };
        Ok(Some(PayloadChunk { payload, first_version: self.first_version, last_version: last, is_final }))
    }
}
