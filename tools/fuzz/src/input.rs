//! How inputs are meant: a byte of choices, then what comes from outside.
//!
//! Checksums would keep all but the rarest change from being looked at. So they, and the length in the frame of a payload, are
//! put right before the bytes are used, unless [`RAW`] is set in the first byte.

use cloudsync_protocol::message::{Answer, Request, Turn, Upload};
use cloudsync_protocol::payload::Header;
use xxhash_rust::xxh3::xxh3_64;

/// Set in the first byte: the rest is used as it is.
pub const RAW: u8 = 0x80;

/// The choices of an input, and the rest; `None` for an empty one.
#[must_use]
pub fn split(input: &[u8]) -> Option<(u8, &[u8])> {
    input.split_first().map(|(choices, rest)| (*choices, rest))
}

/// A payload with its length and checksum put right.
#[must_use]
pub fn payload(choices: u8, bytes: &[u8]) -> Vec<u8> {
    if choices & RAW != 0 { bytes.to_vec() } else { mend_payload(bytes) }
}

/// A request with its checksum put right, and that of the payload in it.
#[must_use]
pub fn request(choices: u8, bytes: &[u8]) -> Vec<u8> {
    if choices & RAW != 0 {
        return bytes.to_vec();
    }
    let sealed = seal(bytes, 4);
    let Ok(request) = Request::decode(&sealed) else { return sealed };
    let Some(upload) = &request.upload else { return sealed };
    let payload = mend_payload(upload.payload);
    let upload = Some(Upload { payload: &payload, ..upload.clone() });
    Request { upload, ..request.clone() }.encode()
}

/// An answer with its checksum put right, and that of the payload in it.
#[must_use]
pub fn answer(choices: u8, bytes: &[u8]) -> Vec<u8> {
    if choices & RAW != 0 {
        return bytes.to_vec();
    }
    let sealed = seal(bytes, 4);
    let Ok(Answer::Turn(turn)) = Answer::decode(&sealed) else { return sealed };
    if turn.payload.is_empty() {
        return sealed;
    }
    let payload = mend_payload(turn.payload);
    Answer::Turn(Turn { payload: &payload, ..turn.clone() }).encode()
}

/// The same payload with its body as it is before compression, where changes reach what they aim at.
#[must_use]
pub fn unfolded(payload: &[u8]) -> Vec<u8> {
    let Ok(chunk) = crate::chunk::Chunk::decode(payload, &cloudsync_replica::Zstd) else {
        return payload.to_vec();
    };
    chunk.encode(&cloudsync_protocol::payload::Stored)
}

/// Puts the length of a stored body right, and the checksum of any.
fn mend_payload(bytes: &[u8]) -> Vec<u8> {
    const CHECKSUM_BYTES: usize = 8;
    let content = &bytes[..bytes.len().saturating_sub(CHECKSUM_BYTES)];
    let mended = mend_length(content).unwrap_or_else(|| content.to_vec());
    seal(&[&mended[..], &[0; CHECKSUM_BYTES]].concat(), CHECKSUM_BYTES)
}

/// The frame's fields are magic, version, flags, method, then the numbers of two versions and of the body's length.
fn mend_length(content: &[u8]) -> Option<Vec<u8>> {
    const FIXED_BYTES: usize = 5;
    let mut reader = cloudsync_core::bytes::Reader::new(content);
    let fixed = reader.take(FIXED_BYTES).ok()?;
    let header =
        Header { first_version: reader.varint().ok()?, last_version: reader.varint().ok()?, is_final: false };
    reader.varint().ok()?;
    let body = reader.take(reader.remaining()).ok()?;
    if fixed[4] != 0 {
        return None;
    }
    let mut out = fixed.to_vec();
    for number in [header.first_version, header.last_version, body.len() as u64] {
        cloudsync_core::bytes::put_varint(&mut out, number);
    }
    out.extend_from_slice(body);
    Some(out)
}

/// Puts the first bytes of the hash of what is before them in the place of the last ones.
fn seal(bytes: &[u8], checksum_bytes: usize) -> Vec<u8> {
    let content = &bytes[..bytes.len().saturating_sub(checksum_bytes)];
    [content, &xxh3_64(content).to_le_bytes()[..checksum_bytes]].concat()
}
