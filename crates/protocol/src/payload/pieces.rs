//! Values that travel in pieces: the large values of a row, one after the other, are a *set*, of which pieces travel
//! before the row does; the row itself has references to it.

use super::{PayloadError, malformed};
use crate::limits::{CHUNK_PIECES_MAX, SET_BYTES_MAX};
use alloc::vec::Vec;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use xxhash_rust::xxh3::Xxh3;

const KIND_TEXT: u8 = 3;
const KIND_BLOB: u8 = 4;

/// The id of a set: the XXH3-128 (seed 0, big-endian) of all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub [u8; 16]);

/// Makes the id of a set from its bytes, in whatever parts they come.
#[derive(Clone, Default)]
pub struct SetHasher(Xxh3);

impl core::fmt::Debug for SetHasher {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SetHasher")
    }
}

impl SetHasher {
    /// A hasher that has seen no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of a set of the bytes so far.
    #[must_use]
    pub fn id(&self) -> SetId {
        SetId(self.0.digest128().to_be_bytes())
    }
}

/// Where the bytes of a value stand in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Text, or else a BLOB.
    pub is_text: bool,
    /// The set.
    pub set: SetId,
    /// Bytes of the whole set, at most [`SET_BYTES_MAX`].
    pub set_bytes: u64,
    /// Where the value begins in the set.
    pub start: u64,
    /// Bytes of the value, at least 1; it ends within the set.
    pub bytes: u64,
}

impl Reference {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(if self.is_text { KIND_TEXT } else { KIND_BLOB });
        out.extend_from_slice(&self.set.0);
        for number in [self.set_bytes, self.start, self.bytes] {
            put_varint(out, number);
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, PayloadError> {
        const WHAT: &str = "reference";
        let mut reader = Reader::new(bytes);
        let is_text = match reader.byte()? {
            KIND_TEXT => true,
            KIND_BLOB => false,
            _ => return Err(malformed(WHAT)),
        };
        let set = SetId(reader.array()?);
        let set_bytes = reader.varint_max(SET_BYTES_MAX, WHAT)?;
        let start = reader.varint_max(set_bytes, WHAT)?;
        let bytes = reader.varint_max(set_bytes - start, WHAT)?;
        if bytes == 0 || !reader.is_empty() {
            return Err(malformed(WHAT));
        }
        Ok(Self { is_text, set, set_bytes, start, bytes })
    }
}

/// A part of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The set.
    pub set: SetId,
    /// Where the piece begins in it.
    pub start: u64,
    /// At least one byte; the piece ends within [`SET_BYTES_MAX`].
    pub bytes: &'a [u8],
}

/// Pieces being gathered.
#[derive(Debug, Default)]
pub(super) struct PieceList(Vec<(SetId, u64, Vec<u8>)>);

impl PieceList {
    pub(super) fn push(&mut self, set: SetId, start: u64, bytes: Vec<u8>) {
        self.0.push((set, start, bytes));
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends the pieces; nothing for none.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        if self.0.is_empty() {
            return;
        }
        put_varint(out, self.0.len() as u64);
        for (set, start, bytes) in &self.0 {
            out.extend_from_slice(&set.0);
            put_varint(out, *start);
            put_bytes(out, bytes);
        }
    }
}

/// Reads the pieces at the end of a body, if there are any.
pub(super) fn read<'a>(reader: &mut Reader<'a>) -> Result<Vec<Piece<'a>>, PayloadError> {
    const WHAT: &str = "piece";
    if reader.is_empty() {
        return Ok(Vec::new());
    }
    let count = reader.varint_max(CHUNK_PIECES_MAX as u64, "number of pieces")?;
    if count == 0 {
        return Err(malformed("number of pieces"));
    }
    let mut pieces = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let set = SetId(reader.array()?);
        let start = reader.varint_max(SET_BYTES_MAX, WHAT)?;
        let bytes = reader.bytes(SET_BYTES_MAX - start, WHAT)?;
        if bytes.is_empty() {
            return Err(malformed(WHAT));
        }
        pieces.push(Piece { set, start, bytes });
    }
    if reader.is_empty() { Ok(pieces) } else { Err(malformed("end of the body")) }
}
