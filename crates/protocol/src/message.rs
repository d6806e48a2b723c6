//! The request and the answer of one turn, as values and as bytes.
//!
//! ```text
//! request  magic C5 52, version 1, flags, site 16, epoch, nonce, now, cursor, position (bytes), schema
//!          fingerprint 8, [schema], [upload: round id 8, chunk, flags, base, payload (bytes)], [check (bytes)]
//! answer   magic C5 41, version 1, kind 0, epoch, nonce, now, flags, cursor, position (bytes), total rows,
//!          [accepted: round id 8, rows in quarantine], [verdicts (bytes)], [checked (bytes)], payload (bytes)
//! refusal  magic C5 41, version 1, kind 1, code, epoch, nonce, now, text (bytes)
//! ```
//! Integers are varints of at most 63 bits, `(bytes)` have their length before them. The last 4 bytes of each are the low half of xxh3-64
//! over all before them, little-endian: what was damaged on the way is not acted upon.

use crate::limits::{
    CHECK_BYTES_MAX, ERROR_TEXT_BYTES_MAX, MESSAGE_BYTES_MAX, POSITION_BYTES_MAX, UPLOAD_CHUNKS_MAX,
};
use crate::range::Check;
use crate::schema::Schema;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use cloudsync_core::bytes::{BytesError, Reader, put_bytes, put_varint};
use cloudsync_core::clock::TIME_MAX;
use cloudsync_core::id::SiteId;

/// The version of the protocol that this code speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// The media type of requests and answers.
pub const MEDIA_TYPE: &str = "application/vnd.cloudsync";

const MAGIC_REQUEST: [u8; 2] = [0xC5, 0x52];
const MAGIC_ANSWER: [u8; 2] = [0xC5, 0x41];
const CHECKSUM_BYTES: usize = 4;

/// A message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The first bytes are not those of such a message.
    #[error("not a cloudsync message")]
    NotCloudsync,
    /// The other side speaks another version of the protocol.
    #[error("protocol version {0} is spoken there, {PROTOCOL_VERSION} here: update the older side")]
    Version(u8),
    /// The bytes are not those that were sent.
    #[error("damaged message: the checksum does not fit")]
    Checksum,
    /// The bytes do not have the form of a message.
    #[error("damaged message: {0}")]
    Bytes(#[from] BytesError),
}

/// The random id of one round; retries bear the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoundId(pub [u8; 8]);

/// What a device sends in one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Who sends.
    pub site: SiteId,
    /// The server's epoch as the device knows it, 0 if it knows none.
    pub epoch: u64,
    /// The nonce of the last answer to an upload, 0 before the first.
    pub nonce: u64,
    /// The device's clock, milliseconds since 1970.
    pub now: u64,
    /// Up to which of the server's versions the device has everything.
    pub cursor: u64,
    /// Where an unfinished download stands, as the last answer put it; empty at the start of one.
    pub position: &'a [u8],
    /// True when the answer shall carry what is new.
    pub pull: bool,
    /// True when the answer shall also carry rows that the device itself wrote: it fetches everything again.
    pub echo: bool,
    /// Fingerprint of the device's schema.
    pub fingerprint: u64,
    /// The schema, when the server may not know the fingerprint.
    pub schema: Option<Schema>,
    /// Changes of the device.
    pub upload: Option<Upload<'a>>,
    /// Ranges to be checked, if any. They are answered only with a download that is complete.
    pub check: Check<'a>,
}

/// One chunk of the changes of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload<'a> {
    /// The round.
    pub round: RoundId,
    /// The chunk's number in the round, from 0.
    pub chunk: u32,
    /// True for the round's last chunk: the round is committed now.
    pub is_final: bool,
    /// True when more rounds of the same batch follow: a parent that is missing may be in them. Only for a last chunk.
    pub continues: bool,
    /// The smallest cursor at which any of the changes was made (S8 of the design: what their author had seen).
    pub base: u64,
    /// The payload.
    pub payload: &'a [u8],
}

impl Upload<'_> {
    /// What tells a chunk from another one that may come in its place: XXH3-64 of the payload, with the chunk's number as
    /// its seed.
    #[must_use]
    pub fn content(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(self.payload, self.chunk.into())
    }

    /// What its device is told once it is taken, for the first time and with nothing of it in the quarantine.
    #[must_use]
    pub const fn acceptance(&self) -> Accepted {
        Accepted {
            round: self.round,
            committed: self.is_final,
            repeated: false,
            differs: false,
            quarantined: 0,
        }
    }
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The turn was taken.
    Turn(Turn<'a>),
    /// The turn was refused and changed nothing.
    Refusal(Refusal),
}

/// The answer to a turn that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<'a> {
    /// The server's epoch.
    pub epoch: u64,
    /// The nonce to send next time.
    pub nonce: u64,
    /// The server's clock, milliseconds since 1970.
    pub now: u64,
    /// What became of the upload, if there was one.
    pub accepted: Option<Accepted>,
    /// True when `payload` ends the download: everything up to `cursor` has been sent.
    pub drained: bool,
    /// The cursor to store once the download is applied; 0 before that.
    pub cursor: u64,
    /// Where to go on, when not drained.
    pub position: &'a [u8],
    /// Rows that the whole download will bring, as far as known; for progress only.
    pub rows_total: u64,
    /// What became of rows that were not let in: encoded [`Verdicts`](crate::verdict::Verdicts), empty when there are
    /// none. They are laid before the payload.
    pub verdicts: &'a [u8],
    /// What became of the check: encoded [`Checked`](crate::range::Checked), empty when there was none or the download is
    /// not complete. It tells of the server as it was at `cursor`.
    pub checked: &'a [u8],
    /// Changes for the device; empty when there are none.
    pub payload: &'a [u8],
}

/// An upload that the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The round it belongs to.
    pub round: RoundId,
    /// True once the round is committed and on disk; false while chunks are staged.
    pub committed: bool,
    /// True when the round had been committed before this request, by one whose answer was lost, or by a copy of the
    /// device's file. The download then carries what came under the device's name since its cursor, too.
    pub repeated: bool,
    /// True when such a round was committed with something else in its last chunk: an edit was made since, or a copy of
    /// the file had other rows in it. What this device holds of it was not taken.
    pub differs: bool,
    /// Changes of the site that wait in the server's quarantine: for the rest of a row, or for later rounds of a batch.
    pub quarantined: u64,
}

/// Why a turn was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The server's epoch.
    pub epoch: u64,
    /// The nonce that the server holds for the site.
    pub nonce: u64,
    /// The server's clock, milliseconds since 1970.
    pub now: u64,
    /// The reason in words, for people.
    pub text: String,
}

/// The reasons for which a turn is refused. Each tells the device what to do before it tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The server does not know the schema's fingerprint: send the schema.
    NeedSchema,
    /// The schemas differ in a way that changes stored bytes: only people can mend it.
    SchemaConflict,
    /// The two clocks are too far apart, or changes are stamped too far ahead: correct the stamps of what is unsent.
    ClockSkew,
    /// Another replica has gone on under this site id: take a new one.
    Clone,
    /// The server has lost turns that the device remembers: upload everything again.
    Restored,
    /// Chunks of the round are missing here: begin the round again.
    LostChunks,
    /// The payload is damaged or breaks the format.
    BadPayload,
    /// The key may not do this.
    Denied,
    /// The device has synced as another user: it must log out first.
    PrincipalChanged,
}

const REASONS: [Reason; 9] = [
    Reason::NeedSchema,
    Reason::SchemaConflict,
    Reason::ClockSkew,
    Reason::Clone,
    Reason::Restored,
    Reason::LostChunks,
    Reason::BadPayload,
    Reason::Denied,
    Reason::PrincipalChanged,
];

impl Reason {
    fn code(self) -> u64 {
        REASONS.iter().position(|reason| *reason == self).map_or(0, |at| at as u64 + 1)
    }

    fn from_code(code: u64) -> Option<Self> {
        REASONS.get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
    }
}

impl<'a> Request<'a> {
    /// The request as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.upload.as_ref().map_or(0, |upload| upload.payload.len()));
        out.extend_from_slice(&MAGIC_REQUEST);
        out.push(PROTOCOL_VERSION);
        let (schema, upload) = (self.schema.is_some(), self.upload.is_some());
        let flags = [self.pull, schema, upload, self.echo, !self.check.ranges.is_empty()];
        out.push((0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum());
        out.extend_from_slice(&self.site.0);
        for number in [self.epoch, self.nonce, self.now, self.cursor] {
            put_varint(&mut out, number);
        }
        put_bytes(&mut out, self.position);
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        if let Some(schema) = &self.schema {
            schema.encode(&mut out);
        }
        if let Some(upload) = &self.upload {
            out.extend_from_slice(&upload.round.0);
            put_varint(&mut out, u64::from(upload.chunk));
            out.push(u8::from(upload.is_final) | u8::from(upload.continues) << 1);
            put_varint(&mut out, upload.base);
            put_bytes(&mut out, upload.payload);
        }
        if !self.check.ranges.is_empty() {
            put_bytes(&mut out, &self.check.encode());
        }
        seal(out)
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`MessageError`] when the bytes are no request of this version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = open(bytes, MAGIC_REQUEST)?;
        let flags = flags(&mut reader, 0b1_1111)?;
        let site = SiteId(reader.array()?);
        let [epoch, nonce, now, cursor] = numbers(&mut reader)?;
        let position = reader.bytes(POSITION_BYTES_MAX as u64, "position")?;
        let fingerprint = u64::from_le_bytes(reader.array()?);
        let schema = if flags & 2 == 0 { None } else { Some(Schema::decode(&mut reader)?) };
        let upload = if flags & 4 == 0 { None } else { Some(Upload::decode(&mut reader)?) };
        let check = if flags & 16 == 0 {
            Check::default()
        } else {
            Check::decode(reader.bytes(CHECK_BYTES_MAX as u64, "check")?)?
        };
        end(&reader)?;
        let (pull, echo) = (flags & 1 != 0, flags & 8 != 0);
        Ok(Self { site, epoch, nonce, now, cursor, position, pull, echo, fingerprint, schema, upload, check })
    }
}

impl<'a> Upload<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let round = RoundId(reader.array()?);
        let chunk = reader.varint_max(u64::from(UPLOAD_CHUNKS_MAX) - 1, "chunk number")? as u32;
        let (is_final, continues) = match flags(reader, 0b11)? {
            0b10 => return Err(BytesError::OutOfBounds("flags").into()),
            flags => (flags & 1 != 0, flags & 2 != 0),
        };
        Ok(Self {
            round,
            chunk,
            is_final,
            continues,
            base: number(reader)?,
            payload: reader.bytes(MESSAGE_BYTES_MAX as u64, "payload")?,
        })
    }
}

impl<'a> Answer<'a> {
    /// The answer as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC_ANSWER);
        out.push(PROTOCOL_VERSION);
        match self {
            Self::Turn(turn) => turn.encode(&mut out),
            Self::Refusal(refusal) => refusal.encode(&mut out),
        }
        seal(out)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MessageError`] when the bytes are no answer of this version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = open(bytes, MAGIC_ANSWER)?;
        let answer = match reader.byte()? {
            0 => Self::Turn(Turn::decode(&mut reader)?),
            1 => Self::Refusal(Refusal::decode(&mut reader)?),
            _ => return Err(BytesError::OutOfBounds("answer kind").into()),
        };
        end(&reader)?;
        Ok(answer)
    }
}

impl<'a> Turn<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(0);
        for number in [self.epoch, self.nonce, self.now] {
            put_varint(out, number);
        }
        let accepted = |fact: fn(&Accepted) -> bool| self.accepted.as_ref().is_some_and(fact);
        let flags = [
            self.drained,
            accepted(|_| true),
            accepted(|it| it.committed),
            accepted(|it| it.repeated),
            !self.verdicts.is_empty(),
            !self.checked.is_empty(),
            accepted(|it| it.differs),
        ];
        out.push((0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum());
        put_varint(out, self.cursor);
        put_bytes(out, self.position);
        put_varint(out, self.rows_total);
        if let Some(accepted) = &self.accepted {
            out.extend_from_slice(&accepted.round.0);
            put_varint(out, accepted.quarantined);
        }
        if !self.verdicts.is_empty() {
            put_bytes(out, self.verdicts);
        }
        if !self.checked.is_empty() {
            put_bytes(out, self.checked);
        }
        put_bytes(out, self.payload);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let [epoch, nonce] = numbers(reader)?;
        let now = server_time(reader)?;
        let flags = flags(reader, 0b111_1111)?;
        let cursor = number(reader)?;
        let position = reader.bytes(POSITION_BYTES_MAX as u64, "position")?;
        let rows_total = number(reader)?;
        let accepted = if flags & 2 == 0 {
            None
        } else {
            let round = RoundId(reader.array()?);
            let (committed, repeated, differs) = (flags & 4 != 0, flags & 8 != 0, flags & 64 != 0);
            Some(Accepted { round, committed, repeated, differs, quarantined: number(reader)? })
        };
        let verdicts =
            if flags & 16 == 0 { &[][..] } else { reader.bytes(MESSAGE_BYTES_MAX as u64, "verdicts")? };
        let checked =
            if flags & 32 == 0 { &[][..] } else { reader.bytes(MESSAGE_BYTES_MAX as u64, "checked")? };
        let payload = reader.bytes(MESSAGE_BYTES_MAX as u64, "payload")?;
        let drained = flags & 1 != 0;
        Ok(Self {
            epoch,
            nonce,
            now,
            accepted,
            drained,
            cursor,
            position,
            rows_total,
            verdicts,
            checked,
            payload,
        })
    }
}

impl Refusal {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(1);
        for number in [self.reason.code(), self.epoch, self.nonce, self.now] {
            put_varint(out, number);
        }
        put_bytes(out, bounded_text(&self.text, ERROR_TEXT_BYTES_MAX).as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let [code, epoch, nonce] = numbers(reader)?;
        let now = server_time(reader)?;
        let reason = Reason::from_code(code).ok_or(BytesError::OutOfBounds("refusal code"))?;
        let text = reader.bytes(ERROR_TEXT_BYTES_MAX as u64, "refusal text")?;
        let text =
            core::str::from_utf8(text).map_err(|_| BytesError::OutOfBounds("refusal text"))?.to_owned();
        Ok(Self { reason, epoch, nonce, now, text })
    }
}

fn open(bytes: &[u8], magic: [u8; 2]) -> Result<Reader<'_>, MessageError> {
    let mut reader = Reader::new(bytes);
    if reader.array() != Ok(magic) {
        return Err(MessageError::NotCloudsync);
    }
    match reader.byte()? {
        PROTOCOL_VERSION => {}
        other => return Err(MessageError::Version(other)),
    }
    let content = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(BytesError::Truncated)?;
    if checksum(&bytes[..content]) != bytes[content..] {
        return Err(MessageError::Checksum);
    }
    let mut reader = Reader::new(&bytes[..content]);
    reader.take(magic.len() + 1)?;
    Ok(reader)
}

fn seal(mut message: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(&message);
    message.extend_from_slice(&checksum);
    message
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    (xxhash_rust::xxh3::xxh3_64(bytes) as u32).to_le_bytes()
}

/// The text, cut at a character if it is longer than that.
pub(crate) fn bounded_text(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn numbers<const N: usize>(reader: &mut Reader<'_>) -> Result<[u64; N], BytesError> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = self::number(reader)?;
    }
    Ok(numbers)
}

/// A number that SQLite can store, and that a sum of two does not overflow.
fn number(reader: &mut Reader<'_>) -> Result<u64, BytesError> {
    reader.varint_max(i64::MAX as u64, "number")
}

/// The server's clock: a device moves its own stamps by it, so it must be a time that stamps can bear.
fn server_time(reader: &mut Reader<'_>) -> Result<u64, BytesError> {
    reader.varint_max(TIME_MAX.0, "time")
}

fn flags(reader: &mut Reader<'_>, known: u8) -> Result<u8, BytesError> {
    let flags = reader.byte()?;
    if flags & !known == 0 { Ok(flags) } else { Err(BytesError::OutOfBounds("flags")) }
}

fn end(reader: &Reader<'_>) -> Result<(), BytesError> {
    if reader.is_empty() { Ok(()) } else { Err(BytesError::OutOfBounds("message length")) }
}

#[cfg(test)]
mod tests;
