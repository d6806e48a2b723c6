//! Time, randomness and waiting, handed in by the host so that every run can be repeated from a seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a replica needs of the world beside its database.
pub trait Environment {
    /// Milliseconds since 1970 by the local clock.
    fn now_ms(&self) -> u64;
    /// Fills the buffer with random bytes that nobody can guess.
    fn random(&self, buffer: &mut [u8]);
    /// Waits, while another connection holds the file.
    fn pause(&self, pause_ms: u64);
}

/// The environment of a real process: the system's clock, and randomness of a source that the host chooses.
pub struct SystemEnvironment<R> {
    random: R,
}

impl<R: Fn(&mut [u8])> SystemEnvironment<R> {
    /// An environment that draws from `random`, for example SQLite's own generator.
    pub const fn new(random: R) -> Self {
        Self { random }
    }
}

impl<R: Fn(&mut [u8])> Environment for SystemEnvironment<R> {
    fn now_ms(&self) -> u64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self, buffer: &mut [u8]) {
        (self.random)(buffer);
    }

    fn pause(&self, pause_ms: u64) {
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
}
