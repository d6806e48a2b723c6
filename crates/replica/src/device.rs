//! The device's side of a sync, as steps on the database: make the next request, take in an answer, do what a refusal
//! asks for. No write lock is held between them.
//!
//! What is being sent is stored before it is sent: a round has an id, the version up to which it goes, and the place
//! reached in it. Whoever opens the file next, after a crash or in another process, goes on from there under the same
//! id. Before anything of an answer is stored, round and place are compared with the file again, so that of two
//! processes that sync one file the slower one's answer is void and harmless.

use crate::apply::Source;
use crate::changes::{self, Origin};
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::extract::{Extraction, Filter, Position};
use crate::replica::Replica;
use crate::storage;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use cloudsync_protocol::client::{Absorbed, Goal};
use cloudsync_protocol::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_TARGET, CLOCK_AHEAD_MS_MAX, UPLOAD_CHUNKS_MAX,
};
use cloudsync_protocol::message::{Reason, Refusal, Request, RoundId, Turn, Upload};
use cloudsync_protocol::payload::Opened;
use cloudsync_sqlite_ffi::Value;

/// Chunks of one download that are staged at most; more of them come only from a server that goes round in circles.
const INBOX_CHUNKS_MAX: i64 = 1 << 16;

/// A round on its way, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    id: RoundId,
    /// The last version that the round takes.
    last: u64,
    /// Number of the next chunk.
    chunk: u32,
    /// Rows in the chunks before.
    rows: u64,
    /// True when the round sends all there is, not only what is unsent.
    everything: bool,
    position: Position,
    /// Where the chunk ends, once it was sent and another one follows: however the rows change, and whichever of its
    /// copies arrives, it brings the same rows.
    end: Option<Position>,
}

impl Round {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.id.0.to_vec();
        put_varint(&mut out, self.last);
        put_varint(&mut out, u64::from(self.chunk));
        put_varint(&mut out, self.rows);
        out.push(u8::from(self.everything));
        put_bytes(&mut out, &self.position.encode());
        if let Some(end) = &self.end {
            put_bytes(&mut out, &end.encode());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let position = |reader: &mut Reader<'_>| {
            Position::decode(reader.bytes(1 << 20, "position")?)
                .ok_or_else(|| Error::corrupt("setting round"))
        };
        Ok(Self {
            id: RoundId(reader.array()?),
            last: reader.varint()?,
            chunk: reader.varint_max(u64::from(u32::MAX), "chunk")? as u32,
            rows: reader.varint()?,
            everything: reader.byte()? == 1,
            position: position(&mut reader)?,
            end: if reader.is_empty() { None } else { Some(position(&mut reader)?) },
        })
    }
}

/// What the last request said, for the comparison with the file when its answer comes.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    epoch: u64,
    pub(crate) nonce: u64,
    cursor: u64,
    position: Vec<u8>,
    fingerprint: u64,
    /// The round as it was sent, and where it goes on after this chunk; `None` at its end.
    pub(crate) round: Option<(Round, Option<Position>, u64)>,
    goal: Goal,
    pub(crate) sent_at_ms: u64,
    /// How far the local clock was thought to be off, in milliseconds.
    pub(crate) offset: i64,
    /// No clock in the request is later.
    floor: u64,
    /// No clock in the requests before it is later that were not answered and may have been taken.
    pub(crate) offered: u64,
}

impl Replica {
    /// Makes the next request: folds, and puts into it what is to be sent. Gives its bytes.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn prepare(&mut self, goal: Goal, schema: bool) -> Result<Vec<u8>> {
        self.require()?;
        self.transact(|replica| {
            replica.fold_in_transaction()?;
            replica.request(goal, schema)
        })
    }

    fn request(&mut self, goal: Goal, schema: bool) -> Result<Vec<u8>> {
        if storage::get_i64(&self.db, "refetch")?.is_some() {
            storage::unset(&self.db, "refetch")?;
            self.restart_download()?;
        }
        let (nonce, cursor) = (storage::get_u64(&self.db, "nonce")?, storage::get_u64(&self.db, "cursor")?);
        let epoch = storage::get_u64(&self.db, "epoch")?;
        let position = storage::get_blob(&self.db, "position")?.unwrap_or_default();
        let definition = self.catalog.schema();
        let fingerprint = definition.fingerprint();
        let tell = schema || storage::get_u64(&self.db, "fingerprint")? != fingerprint & i64::MAX as u64;
        let offered = self.offered()?;
        if offered > 0 {
            // An upload may have been taken without our knowing it, and if this file was copied meanwhile, then with
            // the copy's values under our name: what this site uploaded must come back.
            storage::set(&self.db, "echo", Value::Integer(1))?;
        }
        let round = if goal.push { self.round()? } else { None };
        let floor = storage::get_u64(&self.db, "floor")?;
        if round.is_some() {
            storage::set_u64(&self.db, "offered", floor)?;
        }
        let mut upload = None;
        let mut sent_round = None;
        if let Some(mut round) = round {
            let extraction = Extraction {
                from: round.position.clone(),
                last: round.last,
                filter: if round.everything { Filter::Everything } else { Filter::Unsent },
                bytes_target: CHUNK_BYTES_TARGET,
            };
            let chunk = self.extract_until(&extraction, round.end.as_ref())?;
            match (&round.end, &chunk.next) {
                (None, None) => {}
                (None, Some(next)) => {
                    round.end = Some(next.clone());
                    storage::set(&self.db, "round", Value::Blob(&round.encode()))?;
                }
                (Some(end), next) => {
                    if next.as_ref().is_some_and(|next| !next.reaches(end)) {
                        // Its rows have grown beyond what one chunk holds.
                        storage::unset(&self.db, "round")?;
                        return self.request(goal, schema);
                    }
                }
            }
            let next = round.end.clone();
            self.note_oversized(&chunk.oversized)?;
            // A round that is too long for one commit ends here; what is left begins the next one.
            let is_final = next.is_none() || round.chunk + 1 >= UPLOAD_CHUNKS_MAX;
            sent_round = Some((round.clone(), next, chunk.rows));
            upload = Some((round, is_final, chunk.base, chunk.payload));
        }
        let request = Request {
            site: self.site_id()?,
            epoch,
            nonce,
            now: self.server_now_ms()?,
            cursor,
            position: &position,
            pull: goal.pull,
            echo: storage::is_set(&self.db, "echo")?,
            fingerprint,
            schema: tell.then_some(definition),
            upload: upload.as_ref().map(|(round, is_final, base, payload)| Upload {
                round: round.id,
                chunk: round.chunk,
                is_final: *is_final,
                base: *base,
                payload,
            }),
        };
        let bytes = request.encode();
        self.sent = Some(Sent {
            epoch,
            nonce,
            cursor,
            position,
            fingerprint,
            round: sent_round,
            goal,
            sent_at_ms: self.now_ms(),
            offset: self.clock_offset()?,
            floor,
            offered,
        });
        Ok(bytes)
    }

    /// Says of rows that cannot be sent, because they are too large, that they stay here only.
    fn note_oversized(&self, rows: &[(String, Vec<u8>)]) -> Result<()> {
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_rejected(tbl, pk, reason, at, change) SELECT ?1, ?2, ?3, ?4, x'' \
                   WHERE NOT EXISTS(SELECT 1 FROM main.cloudsync_rejected WHERE tbl = ?1 AND pk = ?2 AND reason = ?3)";
        let reason = format!("too large to be sent: a row has at most {CHUNK_BYTES_MAX} bytes");
        let now = self.server_now_ms()? as i64;
        rows.iter().try_for_each(|(table, key)| {
            let values =
                [Value::from(table.as_str()), Value::Blob(key), Value::from(reason.as_str()), now.into()];
            Ok(self.db.prepare(sql)?.run(&values)?)
        })
    }

    /// The round on its way, or a new one if there is something to send.
    fn round(&mut self) -> Result<Option<Round>> {
        if let Some(bytes) = storage::get_blob(&self.db, "round")? {
            return Round::decode(&bytes).map(Some);
        }
        let everything = storage::get_i64(&self.db, "resend")?.is_some();
        if !everything && !self.is_anything_unsent()? {
            return Ok(None);
        }
        let mut id = [0; 8];
        self.environment.random(&mut id);
        let position = match storage::get_blob(&self.db, "unsent_position")? {
            Some(bytes) => {
                Position::decode(&bytes).ok_or_else(|| Error::corrupt("setting unsent_position"))?
            }
            None if everything => {
                Position::Scan { head: changes::last_version(&self.db)?, after: Vec::new() }
            }
            None => self.unsent_position()?,
        };
        let last = changes::last_version(&self.db)?;
        let round = Round { id: RoundId(id), last, chunk: 0, rows: 0, everything, position, end: None };
        storage::set(&self.db, "round", Value::Blob(&round.encode()))?;
        Ok(Some(round))
    }

    /// Where the unsent changes begin. The list is read from there even if it is the beginning: a scan would send
    /// what came from the server as well.
    fn unsent_position(&self) -> Result<Position> {
        let sent = storage::get_u64(&self.db, "sent_version")?;
        Ok(Position::List { after: changes::entry_before(&self.db, sent)?, skip: 0 })
    }

    fn is_anything_unsent(&self) -> Result<bool> {
        // language=SQLite
        let sql = "SELECT 1 FROM main.cloudsync_versions WHERE version > ?1 AND origin IN (-1, -2) LIMIT 1";
        let sent = storage::get_u64(&self.db, "sent_version")?;
        Ok(self.db.query_i64(sql, &[Value::Integer(sent as i64)])?.is_some())
    }

    /// True while there are changes that the server has not acknowledged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has_unsent(&mut self) -> Result<bool> {
        self.require()?;
        Ok(self.is_upload_open()? || self.needs_fold()? || self.is_anything_unsent()?)
    }

    /// Takes in the answer to the last request.
    ///
    /// # Errors
    /// When the payload breaks the rules or the file cannot be written; then nothing of the answer is taken in.
    pub fn absorb(&mut self, turn: &Turn<'_>) -> Result<Absorbed> {
        let Some(sent) = self.sent.take() else {
            return Err(Error::state("there is no request to be answered"));
        };
        self.with_apply_settings(|replica| {
            replica.transact(|replica| {
                replica.fold_in_transaction()?;
                replica.take_answer(&sent, turn)
            })
        })
    }

    fn take_answer(&mut self, sent: &Sent, turn: &Turn<'_>) -> Result<Absorbed> {
        let mut absorbed = Absorbed::default();
        self.learn_offset(turn.now, sent.sent_at_ms)?;
        if storage::get_u64(&self.db, "epoch")? == sent.epoch {
            storage::set_u64(&self.db, "epoch", turn.epoch)?;
        }
        storage::set_u64(&self.db, "fingerprint", sent.fingerprint & i64::MAX as u64)?;
        let mut more = self.take_acceptance(sent, turn, &mut absorbed)?;
        if sent.goal.pull {
            more |= self.take_download(sent, turn, &mut absorbed)?;
        }
        let unsent = self.is_upload_open()? || self.is_anything_unsent()?;
        if !unsent {
            // What the server sent need not be looked through for unsent changes ever again.
            storage::set_u64(&self.db, "sent_version", changes::last_version(&self.db)?)?;
        }
        absorbed.more = more || sent.goal.push && unsent;
        Ok(absorbed)
    }

    /// True while a round is on its way, or must be begun whatever the change list says.
    fn is_upload_open(&self) -> Result<bool> {
        let keys = ["round", "resend", "unsent_position"].iter();
        let set = keys.map(|key| storage::is_set(&self.db, key)).collect::<Result<Vec<_>>>()?;
        Ok(set.into_iter().any(|set| set))
    }

    /// Stores how far the upload got. Gives true when there is more to send.
    fn take_acceptance(&mut self, sent: &Sent, turn: &Turn<'_>, absorbed: &mut Absorbed) -> Result<bool> {
        let (Some((round, next, rows)), Some(accepted)) = (&sent.round, turn.accepted) else {
            return Ok(false);
        };
        let stored = storage::get_blob(&self.db, "round")?;
        if accepted.round != round.id || stored.as_deref() != Some(&round.encode()[..]) {
            // Another process took this round further meanwhile.
            return Ok(true);
        }
        if !accepted.committed {
            let Some(position) = next.clone() else {
                return Err(Error::Protocol("the server did not commit a complete round".into()));
            };
            let onward = Round {
                chunk: round.chunk + 1,
                rows: round.rows + rows,
                position,
                end: None,
                ..round.clone()
            };
            storage::set(&self.db, "round", Value::Blob(&onward.encode()))?;
            return Ok(true);
        }
        absorbed.rows_sent = round.rows + rows;
        if accepted.quarantined > 0 {
            let waiting = storage::get_u64(&self.db, "waiting_on_server")?;
            storage::set_u64(&self.db, "waiting_on_server", waiting + accepted.quarantined)?;
        }
        storage::unset(&self.db, "round")?;
        storage::unset(&self.db, "offered")?;
        // What the server took was in its bounds; a later floor is that of notes which it has not seen.
        self.raise_settled(sent.floor.min(turn.now.saturating_add(CLOCK_AHEAD_MS_MAX - 1)))?;
        storage::set_u64(&self.db, "nonce", turn.nonce)?;
        match next {
            Some(position) => storage::set(&self.db, "unsent_position", Value::Blob(&position.encode()))?,
            None => {
                storage::unset(&self.db, "unsent_position")?;
                storage::unset(&self.db, "resend")?;
                storage::set_u64(&self.db, "sent_version", round.last)?;
            }
        }
        Ok(next.is_some())
    }

    /// Applies or stages what came. Gives true when there is more to receive.
    fn take_download(&mut self, sent: &Sent, turn: &Turn<'_>, absorbed: &mut Absorbed) -> Result<bool> {
        let position = storage::get_blob(&self.db, "position")?.unwrap_or_default();
        if position != sent.position || storage::get_u64(&self.db, "cursor")? != sent.cursor {
            // Another process received this meanwhile.
            return Ok(true);
        }
        if sent.cursor == 0 && sent.position.is_empty() && !turn.drained && self.is_empty()? {
            // Nobody reads rows that make no sense yet: the first sync may show its progress.
            storage::set(&self.db, "progressive", Value::Integer(1))?;
        }
        if turn.drained || storage::is_set(&self.db, "progressive")? {
            absorbed.rows_received = self.apply_download(turn.payload)?;
        } else if !turn.payload.is_empty() {
            let sql = "INSERT INTO main.cloudsync_inbox(payload) VALUES(?1)";
            self.db.prepare(sql)?.run(&[Value::Blob(turn.payload)])?;
            if self.db.last_insert_rowid() > INBOX_CHUNKS_MAX {
                return Err(Error::Protocol("the server's download does not end".into()));
            }
        }
        if !turn.drained {
            if turn.position == sent.position {
                return Err(Error::Protocol("the server's download does not get on".into()));
            }
            storage::set(&self.db, "position", Value::Blob(turn.position))?;
            return Ok(true);
        }
        storage::unset(&self.db, "position")?;
        storage::unset(&self.db, "echo")?;
        storage::set_u64(&self.db, "cursor", turn.cursor)?;
        storage::unset(&self.db, "progressive")?;
        Ok(false)
    }

    /// True when no row of a synced table was ever known here.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.db.query_i64("SELECT 1 FROM main.cloudsync_clocks LIMIT 1", &[])?.is_none())
    }

    /// Applies the staged chunks and the last one.
    fn apply_download(&mut self, payload: &[u8]) -> Result<u64> {
        let mut rows = 0;
        let mut select = self.db.prepare("SELECT payload FROM main.cloudsync_inbox ORDER BY seq")?;
        let mut staged = false;
        while select.step()? {
            staged = true;
            let chunk = select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_inbox"))?.to_vec();
            rows += self.apply_chunk(&chunk)?;
        }
        drop(select);
        if staged {
            self.db.execute("DELETE FROM main.cloudsync_inbox")?;
        }
        Ok(if payload.is_empty() { rows } else { rows + self.apply_chunk(payload)? })
    }

    fn apply_chunk(&mut self, payload: &[u8]) -> Result<u64> {
        let opened = Opened::open(payload, &Zstd)?;
        let base = storage::get_u64(&self.db, "cursor")?;
        let source = Source { origin: Origin::Server, time_max: None, base };
        let applied = self.apply_in_transaction(&[opened.payload()?], source)?;
        self.raise_settled(applied.time_max.0)?;
        if applied.parts > 0 {
            storage::set(&self.db, "refetch", Value::Integer(1))?;
        }
        Ok(applied.rows)
    }

    /// Does what a refusal asks for, so that the next request can be taken.
    ///
    /// # Errors
    /// When nothing that this side does can help, or the file cannot be written.
    pub fn mend(&mut self, refusal: &Refusal) -> Result<()> {
        let Some(sent) = self.sent.take() else {
            return Err(Error::state("there is no request to be answered"));
        };
        self.transact(|replica| match refusal.reason {
            Reason::ClockSkew => replica.correct_clock(refusal.now, &sent),
            Reason::Clone => replica.part_from_clone(&sent),
            Reason::Restored => {
                // The server lost turns: it gets everything that is known here, whoever wrote it.
                replica.forget_agreement()?;
                storage::unset(&replica.db, "unsent_position")?;
                storage::set_u64(&replica.db, "epoch", refusal.epoch)?;
                storage::set_u64(&replica.db, "nonce", refusal.nonce)?;
                storage::set(&replica.db, "resend", Value::Integer(1))
            }
            Reason::LostChunks => {
                storage::unset(&replica.db, "round")?;
                storage::unset(&replica.db, "position")?;
                replica.db.execute("DELETE FROM main.cloudsync_inbox").map_err(Error::from)
            }
            Reason::NeedSchema | Reason::SchemaConflict | Reason::BadPayload | Reason::Denied => {
                Err(Error::Protocol(refusal.text.clone()))
            }
        })
    }

    fn restart_download(&self) -> Result<()> {
        storage::unset(&self.db, "cursor")?;
        storage::unset(&self.db, "position")?;
        storage::set(&self.db, "echo", Value::Integer(1))?;
        self.db.execute("DELETE FROM main.cloudsync_inbox")?;
        Ok(())
    }

    /// Makes the next round fetch everything again. Harmless: what is here already changes nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reset_sync(&mut self) -> Result<()> {
        self.require()?;
        self.transact(|replica| replica.restart_download())
    }

    /// Remembers the server's address, without secrets. Another server than before is met as a stranger.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_server(&mut self, url: &str) -> Result<()> {
        self.create()?;
        self.transact(|replica| {
            let known = storage::get_text(&replica.db, "server")?;
            if known.as_deref() == Some(url) {
                return Ok(());
            }
            if known.is_some() || storage::get_i64(&replica.db, "met_server")?.is_some() {
                replica.forget_agreement()?;
                storage::unset(&replica.db, "unsent_position")?;
                storage::set(&replica.db, "resend", Value::Integer(1))?;
            }
            storage::set(&replica.db, "met_server", Value::Integer(1))?;
            storage::set(&replica.db, "server", Value::from(url))
        })
    }

    /// The server's address.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn server(&self) -> Result<Option<String>> {
        if self.exists()? { storage::get_text(&self.db, "server") } else { Ok(None) }
    }

    /// Forgets the server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_server(&mut self) -> Result<()> {
        self.require()?;
        self.transact(|replica| storage::unset(&replica.db, "server"))
    }

    /// Stores the report of a sync.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record_round(&mut self, report: &str) -> Result<()> {
        self.transact(|replica| storage::set(&replica.db, "last_round", Value::from(report)))
    }

    /// The report of the last sync.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn last_round(&self) -> Result<Option<String>> {
        if self.exists()? { storage::get_text(&self.db, "last_round") } else { Ok(None) }
    }
}
