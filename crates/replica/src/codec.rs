//! The compressor behind payloads: zstd, at its default level.

use cloudsync_protocol::payload::Codec;

/// Number of the codec in a payload's header.
const ZSTD: u8 = 2;
/// The level at which columns of realistic rows stop getting smaller for their time.
const LEVEL: i32 = 3;

/// Compresses payload bodies with zstd.
#[derive(Debug, Clone, Copy, Default)]
pub struct Zstd;

impl Codec for Zstd {
    fn id(&self) -> u8 {
        ZSTD
    }

    fn compress(&self, raw: &[u8]) -> Option<Vec<u8>> {
        zstd::bulk::compress(raw, LEVEL).ok()
    }

    fn decompress(&self, id: u8, bytes: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        if id != ZSTD {
            return None;
        }
        zstd::bulk::decompress(bytes, raw_len).ok().filter(|raw| raw.len() == raw_len)
    }
}
