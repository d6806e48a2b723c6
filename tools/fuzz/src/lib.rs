//! What must hold for any bytes from outside.
//!
//! Each [`Target`] takes bytes and panics when something does not hold. There is one body and two drivers: libFuzzer, which is
//! guided by coverage (the folder `fuzz` of the repository, `cargo fuzz run NAME`), and the program of this crate, which
//! changes what is in `fuzz/corpus` at random from a seed and needs no other compiler than the project does.
//!
//! The first byte of an input says how the rest is meant ([`input`]), so that both drivers get past checksums. Inputs that
//! once failed stay in `fuzz/crashers` and are tried first.
#![deny(unsafe_code)]
#![warn(missing_docs)]
// A panic is how a target says what it found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../crates/protocol/tests/payload/model.rs"]
#[allow(dead_code)]
mod chunk;
mod device;
#[path = "../../../crates/extension/tests/host/mod.rs"]
#[allow(unsafe_code)]
mod host;
pub mod input;
pub mod memory;
mod scratch;
mod seeds;
mod target;

pub use target::TARGETS;

/// Something that takes bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folders of inputs.
    pub name: &'static str,
    /// What takes the bytes, and what must hold.
    pub about: &'static str,
    /// Takes one input, and panics when something does not hold.
    pub run: fn(&[u8]),
    /// Makes the first inputs, from which others are found.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is drawn, in bytes.
    pub bytes_max: usize,
    /// Executions in a run of the tests, beside those of all inputs that are kept.
    pub executions: u64,
}

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
