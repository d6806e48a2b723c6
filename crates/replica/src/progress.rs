//! How far a transfer of several turns has come, for other connections to read. It is written with the chunks, in their
//! own transactions, and goes with the last one: a sync of one turn, and an idle one, write nothing of it.

use crate::codec::Zstd;
use crate::device::Sent;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::storage;
use cloudsync_core::bytes::{Reader, put_varint};
use cloudsync_protocol::client::Absorbed;
use cloudsync_protocol::message::Turn;
use cloudsync_protocol::payload::Opened;
use cloudsync_sqlite_ffi::Value;

const PROGRESS: &str = "progress";
const WAITING: &str = "waiting";

/// How far a transfer of several turns has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Rows that the server has acknowledged.
    pub rows_sent: u64,
    /// Bytes of their payloads.
    pub bytes_sent: u64,
    /// Rows that came, applied or staged.
    pub rows_received: u64,
    /// Bytes of their payloads.
    pub bytes_received: u64,
    /// Rows that the whole download may bring; 0 if that is not known.
    pub rows_total: u64,
    /// When the last turn was taken in, milliseconds since 1970.
    pub at_ms: u64,
}

impl Progress {
    fn fields(&mut self) -> [&mut u64; 6] {
        let Self { rows_sent, bytes_sent, rows_received, bytes_received, rows_total, at_ms } = self;
        [rows_sent, bytes_sent, rows_received, bytes_received, rows_total, at_ms]
    }
}

impl Replica {
    /// How far the transfer has come that is on its way, or that broke off and will go on; `None` if there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn progress(&self) -> Result<Option<Progress>> {
        let stored = if self.exists()? { storage::get_blob(&self.db, PROGRESS)? } else { None };
        let Some(bytes) = stored else { return Ok(None) };
        let (mut reader, mut progress) = (Reader::new(&bytes), Progress::default());
        for field in progress.fields() {
            *field = reader.varint().map_err(|_| Error::corrupt("setting progress"))?;
        }
        Ok(Some(progress))
    }

    /// Stores how far the transfer has come with this answer, or that it is over.
    pub(crate) fn note_progress(&self, sent: &Sent, turn: &Turn<'_>, absorbed: &Absorbed) -> Result<()> {
        if !absorbed.more {
            return storage::unset(&self.db, PROGRESS);
        }
        let mut progress = self.progress()?.unwrap_or_default();
        if let (Some((_, _, rows)), Some(_)) = (&sent.round, turn.accepted) {
            progress.rows_sent += rows;
            progress.bytes_sent += sent.upload_bytes;
        }
        if !turn.payload.is_empty() {
            let opened = Opened::open(turn.payload, &Zstd)?;
            progress.rows_received += opened.payload()?.rows() as u64;
            progress.bytes_received += turn.payload.len() as u64;
        }
        if turn.rows_total > 0 {
            progress.rows_total = turn.rows_total;
        }
        progress.at_ms = self.now_ms();
        let mut bytes = Vec::new();
        for field in progress.fields() {
            put_varint(&mut bytes, *field);
        }
        storage::set(&self.db, PROGRESS, Value::Blob(&bytes))
    }

    /// Stores what a sync waits for between two attempts, as text that [`Replica::waiting`] gives back; `None` when it
    /// waits no longer.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_waiting(&mut self, text: Option<&str>) -> Result<()> {
        self.transact(|replica| match text {
            Some(text) => storage::set(&replica.db, WAITING, Value::from(text)),
            None => storage::unset(&replica.db, WAITING),
        })
    }

    /// What a sync waits for between two attempts; `None` if none does.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn waiting(&self) -> Result<Option<String>> {
        if self.exists()? { storage::get_text(&self.db, WAITING) } else { Ok(None) }
    }
}
