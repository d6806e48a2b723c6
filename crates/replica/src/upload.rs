//! What a device sends: rounds, and the chunks of which they are made.

use crate::changes;
use crate::device::Sent;
use crate::error::{Error, Result};
use crate::extract::{Extraction, Filter};
use crate::position::Position;
use crate::replica::Replica;
use crate::storage;
use crate::verdicts::VERDICTS_LEFT;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use cloudsync_protocol::client::Absorbed;
use cloudsync_protocol::limits::{
    CHUNK_BYTES_TARGET, CLOCK_AHEAD_MS_MAX, UPLOAD_CHUNKS_MAX, UPLOAD_CHUNKS_TARGET,
};
use cloudsync_protocol::message::{RoundId, Turn, Upload};
use cloudsync_sqlite_ffi::{Connection, Value};

/// Names the setting that says that everything is sent again.
const RESEND: &str = "resend";
/// Its value until the first round of that is made.
const WANTED: i64 = 1;
/// Its value from then on: `unsent_position` is a place in what is sent again.
const BEGUN: i64 = 2;

/// Has everything that is known here sent, from its beginning: also what an open batch has gone past, or a round on its way. That
/// round goes on, since the server may have taken it already.
pub(crate) fn send_everything_again(db: &Connection) -> Result<()> {
    storage::set(db, RESEND, Value::Integer(WANTED))
}

/// A round on its way, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) id: RoundId,
    /// The last version that the round takes.
    pub(crate) last: u64,
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

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
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

/// A chunk on its way.
pub(crate) struct Outgoing {
    /// The round as it stands with this chunk.
    pub(crate) round: Round,
    /// Where the round goes on after it; `None` at its end.
    pub(crate) next: Option<Position>,
    pub(crate) rows: u64,
    is_final: bool,
    base: u64,
    payload: Vec<u8>,
}

impl Outgoing {
    /// The chunk as a part of a request.
    pub(crate) fn upload(&self) -> Upload<'_> {
        let Self { round, is_final, base, payload, .. } = self;
        Upload {
            round: round.id,
            chunk: round.chunk,
            is_final: *is_final,
            continues: *is_final && self.next.is_some(),
            base: *base,
            payload,
        }
    }
}

impl Replica {
    /// The next chunk to send, of the round on its way or of a new one; `None` when nothing is unsent.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Outgoing>> {
        while let Some(mut round) = self.round()? {
            let extraction = Extraction {
                from: round.position.clone(),
                last: round.last,
                filter: if round.everything { Filter::Resend } else { Filter::Unsent },
                bytes_target: CHUNK_BYTES_TARGET,
            };
            // A round that is too long for one commit ends behind the row that is on its way; what is left begins the
            // next one.
            let is_long = round.chunk + 1 >= UPLOAD_CHUNKS_TARGET;
            let chunk = self.extract_until(&extraction, round.end.as_ref(), is_long)?;
            let was_begun = round.end.is_some();
            match (&round.end, chunk.next) {
                (Some(end), Some(next)) if !next.reaches(end) => {
                    // Its rows have grown beyond what one chunk holds: a round of another id takes them.
                    storage::unset(&self.db, "round")?;
                    continue;
                }
                (None, Some(next)) => {
                    round.end = Some(next);
                    storage::set(&self.db, "round", Value::Blob(&round.encode()))?;
                }
                (_, _) => {}
            }
            let next = round.end.clone();
            let ends_row = is_long && !matches!(next, Some(Position::Inside(_)));
            let is_final = next.is_none() || ends_row || round.chunk + 1 >= UPLOAD_CHUNKS_MAX;
            if was_begun && chunk.payload.is_empty() && !is_final {
                // What it held is outside of a filter by now, and only the last chunk may be empty. The server may have its
                // first form staged, or get that later: a round of another id takes what is left.
                cloudsync_core::reached!("upload: a chunk became empty");
                storage::unset(&self.db, "round")?;
                continue;
            }
            // The last chunk's base counts for the whole round.
            let base = if round.chunk == 0 { chunk.base } else { chunk.base.min(self.first_unsent_base()?) };
            let (rows, payload) = (chunk.rows, chunk.payload);
            return Ok(Some(Outgoing { round, next, rows, is_final, base, payload }));
        }
        Ok(None)
    }

    /// The round on its way, or a new one if there is something to send.
    fn round(&mut self) -> Result<Option<Round>> {
        if let Some(bytes) = storage::get_blob(&self.db, "round")? {
            return Round::decode(&bytes).map(Some);
        }
        let resend = storage::get_i64(&self.db, RESEND)?;
        let everything = resend.is_some();
        // A round without rows asks for the verdicts that the last answer had no room for.
        if !everything && !self.is_anything_unsent()? && !storage::is_set(&self.db, VERDICTS_LEFT)? {
            return Ok(None);
        }
        if resend == Some(WANTED) {
            storage::unset(&self.db, "unsent_position")?;
            storage::set(&self.db, RESEND, Value::Integer(BEGUN))?;
        }
        let mut id = [0; 8];
        self.environment.random(&mut id);
        let position = match storage::get_blob(&self.db, "unsent_position")? {
            // A round that had arrived before its rows grew may end inside of one. The server keeps no pieces from one round to
            // the next, so that row is sent from its beginning.
            Some(bytes) => {
                let position = Position::decode(&bytes);
                position.ok_or_else(|| Error::corrupt("setting unsent_position"))?.place().clone()
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

    /// While everything is sent again to a server that lost what it had: the key in the tree of clocks behind which it was not
    /// told yet. What is on its way counts as untold.
    pub(crate) fn resent_behind(&self) -> Result<Option<Vec<u8>>> {
        match storage::get_i64(&self.db, RESEND)? {
            None => return Ok(None),
            Some(WANTED) => return Ok(Some(Vec::new())),
            Some(_) => {}
        }
        let begun = storage::get_blob(&self.db, "unsent_position")?;
        Ok(match begun.as_deref().and_then(Position::decode).as_ref().map(Position::place) {
            None => Some(Vec::new()),
            Some(Position::Scan { after, .. }) => Some(after.clone()),
            Some(Position::List { .. } | Position::Inside(_)) => None,
        })
    }

    /// Where the unsent changes begin. The list is read from there even if it is the beginning: a scan would send
    /// what came from the server as well.
    fn unsent_position(&self) -> Result<Position> {
        let sent = storage::get_u64(&self.db, "sent_version")?;
        Ok(Position::List { after: changes::entry_before(&self.db, sent)?, skip: 0, compactions: 0 })
    }

    /// The smallest cursor at which any unsent change was made.
    fn first_unsent_base(&self) -> Result<u64> {
        // language=SQLite
        let sql = "SELECT min(base) FROM main.cloudsync_versions WHERE version > ?1 AND origin IN (-1, -2)";
        let sent = storage::get_u64(&self.db, "sent_version")?;
        Ok(self.db.query_i64(sql, &[Value::Integer(sent as i64)])?.unwrap_or(0) as u64)
    }

    pub(crate) fn is_anything_unsent(&self) -> Result<bool> {
        // language=SQLite
        let sql = "SELECT 1 FROM main.cloudsync_versions WHERE version > ?1 AND origin IN (-1, -2) LIMIT 1";
        let sent = storage::get_u64(&self.db, "sent_version")?;
        Ok(self.db.query_i64(sql, &[Value::Integer(sent as i64)])?.is_some())
    }

    /// True while a round is on its way, or must be begun whatever the change list says.
    pub(crate) fn is_upload_open(&self) -> Result<bool> {
        let keys = ["round", RESEND, "unsent_position", VERDICTS_LEFT].iter();
        let set = keys.map(|key| storage::is_set(&self.db, key)).collect::<Result<Vec<_>>>()?;
        Ok(set.into_iter().any(|set| set))
    }

    /// Stores how far the upload got. Gives true when there is more to send.
    pub(crate) fn take_acceptance(
        &mut self,
        sent: &Sent,
        turn: &Turn<'_>,
        absorbed: &mut Absorbed,
    ) -> Result<bool> {
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
        if accepted.repeated {
            // If this file was copied meanwhile, the round was taken with the copy's values under our name: what this
            // site uploaded comes back, with this download.
            storage::set(&self.db, "echo", Value::Integer(1))?;
        }
        storage::unset(&self.db, "round")?;
        if accepted.differs {
            // Some of what this file has may never have been sent: a round of another id takes it.
            cloudsync_core::reached!("upload: a round was taken with something else in it");
            storage::set_u64(&self.db, "nonce", turn.nonce)?;
            return Ok(true);
        }
        absorbed.rows_sent = round.rows + rows;
        storage::unset(&self.db, "offered")?;
        // What the server took was in its bounds; a later floor is that of notes which it has not seen.
        self.raise_settled(sent.floor.min(turn.now.saturating_add(CLOCK_AHEAD_MS_MAX - 1)))?;
        storage::set_u64(&self.db, "nonce", turn.nonce)?;
        match next {
            Some(position) => storage::set(&self.db, "unsent_position", Value::Blob(&position.encode()))?,
            None => {
                storage::unset(&self.db, "unsent_position")?;
                if storage::get_i64(&self.db, RESEND)? != Some(WANTED) {
                    storage::unset(&self.db, RESEND)?;
                }
                storage::set_u64(&self.db, "sent_version", round.last)?;
            }
        }
        // What is unsent by now was changed after the round was made.
        absorbed.rows_rejected = self.lay_verdicts(turn.verdicts)?;
        Ok(next.is_some())
    }
}
