//! Changes bytes at random, from a seed, and puts the checksum right again so that they get past it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// Executions of each target in a run of the tests.
const EXECUTIONS: u64 = 1_500;
/// One of them may take so long; a hang takes longer.
const SECONDS_MAX: u64 = 20;

/// Which bytes at the end guard those before.
#[derive(Clone, Copy)]
pub(crate) enum Checksum {
    None,
    /// Eight bytes.
    Payload,
    /// Four bytes.
    Message,
}

/// One target.
pub(crate) struct Fuzz {
    name: &'static str,
    corpus: Vec<Vec<u8>>,
    checksum: Checksum,
    state: u64,
}

impl Fuzz {
    pub(crate) fn new(name: &'static str, corpus: Vec<Vec<u8>>, checksum: Checksum) -> Self {
        let seed = number("CLOUDSYNC_FUZZ_SEED").unwrap_or(1);
        Self { name, corpus, checksum, state: seed ^ xxh3_64(name.as_bytes()) }
    }

    /// Tries what once failed, and then what is drawn. Bytes at which `act` panics are kept.
    pub(crate) fn run(mut self, mut act: impl FnMut(u64, &[u8])) {
        let seconds = number("CLOUDSYNC_FUZZ_SECONDS");
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(u64::MAX >> 32));
        let mut crashers = crashers(self.name);
        let mut executions = 0;
        while if seconds.is_some() { Instant::now() < end } else { executions < EXECUTIONS } {
            let bytes = crashers.pop().unwrap_or_else(|| self.draw());
            let keeper = Keeper { name: self.name, bytes: &bytes };
            let start = Instant::now();
            act(executions, &bytes);
            assert!(start.elapsed().as_secs() < SECONDS_MAX, "{}: one execution takes too long", self.name);
            std::mem::forget(keeper);
            executions += 1;
        }
        println!("fuzz: {}: {executions} executions", self.name);
    }

    fn draw(&mut self) -> Vec<u8> {
        let mut bytes = self.seed();
        let guard = match self.checksum {
            Checksum::None => 0,
            Checksum::Payload => 8,
            Checksum::Message => 4,
        };
        // A share keeps a wrong checksum.
        let mends = self.below(20) > 0 && bytes.len() > guard;
        if mends {
            bytes.truncate(bytes.len() - guard);
        }
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        if mends {
            let sum = xxh3_64(&bytes).to_le_bytes();
            bytes.extend_from_slice(&sum[..guard]);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 9] = [0, 1, 2, 0x3f, 0x7f, 0x80, 0x81, 0xfe, 0xff];
        let at = self.below(bytes.len() + 1);
        let length = self.below(1 + 8.min(bytes.len() - at));
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = TELLING[self.below(TELLING.len())],
            2 => drop(bytes.drain(at..at + length)),
            3 => drop(bytes.splice(at..at, vec![TELLING[self.below(TELLING.len())]; 1 + self.below(10)])),
            4 => {
                let part = bytes[at..at + length].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                // The beginning of one and the end of another.
                let other = self.seed();
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
            6 => bytes.truncate(at),
            _ if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1 + self.below(255) as u8),
            _ => bytes.push(self.below(256) as u8),
        }
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        self.corpus[at].clone()
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Writes the bytes into the folder of crashers when it is dropped by a panic.
struct Keeper<'b> {
    name: &'static str,
    bytes: &'b [u8],
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        let path = folder().join(format!("{}-{:016x}.bin", self.name, xxh3_64(self.bytes)));
        let _ = std::fs::write(&path, self.bytes);
        eprintln!("kept as {}", path.display());
    }
}

/// The golden payloads.
pub(crate) fn vectors() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/vectors");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hex = files.filter(|path| path.extension().is_some_and(|end| end == "hex"));
    let mut vectors: Vec<_> = hex.map(|path| from_hex(&std::fs::read_to_string(path).unwrap())).collect();
    vectors.retain(|bytes| bytes.starts_with(&[0xc5, 0x5c]));
    vectors.sort();
    assert!(!vectors.is_empty());
    vectors
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(pair).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crashers")
}

fn crashers(name: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder()) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let own =
        files.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)));
    own.map(|path| std::fs::read(path).unwrap()).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
