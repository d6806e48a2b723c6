//! The frame around a chunk: header, compression, checksum.

use super::{FORMAT_VERSION, PayloadError, malformed};
use alloc::vec::Vec;
use cloudsync_core::bytes::{Reader, put_varint};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 2] = [0xc5, 0x5c];
const FLAG_FINAL: u8 = 1;
const CODEC_STORED: u8 = 0;
const CHECKSUM_BYTES: usize = 8;
/// Bodies up to this size are stored: a compressor's own header eats what it wins.
const STORED_BYTES_MAX: usize = 200;

/// What a chunk says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// First version of the sender that the chunk covers; 0 if it covers none.
    pub first_version: u64,
    /// Last version of the sender that the chunk covers; 0 if it covers none.
    pub last_version: u64,
    /// True when no chunk of the same stream follows.
    pub is_final: bool,
}

/// A compression method, handed in by the caller: this crate holds none.
pub trait Codec {
    /// The id of the method that [`Codec::compress`] uses: 0 stores, 1 is reserved for lz4, 2 is zstd.
    fn id(&self) -> u8;

    /// `raw` compressed; `None` to store it.
    fn compress(&self, raw: &[u8]) -> Option<Vec<u8>>;

    /// The `raw_len` bytes that method `id` compressed to `bytes`; takes no more memory than a small multiple of
    /// both. `None` when the method is unknown, or the bytes are damaged or unfold to another length.
    fn decompress(&self, id: u8, bytes: &[u8], raw_len: usize) -> Option<Vec<u8>>;
}

/// A [`Codec`] that stores and can only read what is stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored;

impl Codec for Stored {
    fn id(&self) -> u8 {
        CODEC_STORED
    }

    fn compress(&self, _raw: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decompress(&self, _id: u8, _bytes: &[u8], _raw_len: usize) -> Option<Vec<u8>> {
        None
    }
}

/// Puts the frame around `raw`.
pub(super) fn seal(header: Header, raw: &[u8], codec: &dyn Codec) -> Vec<u8> {
    let compressed = if raw.len() > STORED_BYTES_MAX && codec.id() != CODEC_STORED {
        codec.compress(raw).filter(|bytes| bytes.len() < raw.len())
    } else {
        None
    };
    let (id, body) = compressed.as_deref().map_or((CODEC_STORED, raw), |bytes| (codec.id(), bytes));
    let mut out = Vec::with_capacity(body.len() + 48);
    out.extend_from_slice(&MAGIC);
    out.push(FORMAT_VERSION);
    out.push(if header.is_final { FLAG_FINAL } else { 0 });
    out.push(id);
    put_varint(&mut out, header.first_version);
    put_varint(&mut out, header.last_version);
    put_varint(&mut out, raw.len() as u64);
    out.extend_from_slice(body);
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Takes the frame off, checked: the header and the raw body.
pub(super) fn unseal(
    bytes: &[u8],
    codec: &dyn Codec,
    bytes_max: usize,
) -> Result<(Header, Vec<u8>), PayloadError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(PayloadError::NotPayload);
    }
    match bytes.get(MAGIC.len()) {
        None | Some(0) => return Err(PayloadError::NotPayload),
        Some(&version) if version > FORMAT_VERSION => return Err(PayloadError::TooNew(version)),
        Some(_) => {}
    }
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(PayloadError::Checksum)?;
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err(PayloadError::Checksum);
    }
    let mut reader = Reader::new(content);
    reader.take(MAGIC.len() + 1)?;
    let flags = reader.byte()?;
    if flags & !FLAG_FINAL != 0 {
        return Err(malformed("header flags"));
    }
    let id = reader.byte()?;
    let header = Header {
        first_version: reader.varint()?,
        last_version: reader.varint()?,
        is_final: flags & FLAG_FINAL != 0,
    };
    let raw_len = reader.varint()?;
    if raw_len > bytes_max as u64 {
        return Err(PayloadError::TooLarge(raw_len));
    }
    let raw_len = raw_len as usize;
    let body = reader.take(reader.remaining())?;
    let raw = if id == CODEC_STORED {
        body.to_vec()
    } else {
        codec.decompress(id, body, raw_len).ok_or(PayloadError::Compression(id))?
    };
    if raw.len() == raw_len { Ok((header, raw)) } else { Err(malformed("body length")) }
}
