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
    /// What tells the file at a path from all copies of it, for as long as it exists: it stays when the file is written or
    /// renamed. `None` where that is not known, as it is unless the environment says otherwise.
    fn file_identity(&self, _path: &str) -> Option<u64> {
        None
    }
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

    /// Of the inode and the time at which it was made. The file is only looked up: to open and close it beside SQLite
    /// would drop SQLite's locks.
    fn file_identity(&self, path: &str) -> Option<u64> {
        let metadata = std::fs::metadata(path).ok()?;
        let born = metadata.created().ok()?;
        let since = born.duration_since(UNIX_EPOCH).unwrap_or_else(|before| before.duration());
        // FNV-1a: stored, so it must give the same in every version.
        let bytes = since.as_nanos().to_le_bytes().into_iter().chain(file_number(&metadata).to_le_bytes());
        Some(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }
}

#[cfg(unix)]
fn file_number(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// Elsewhere the time at which the file was made must do.
#[cfg(not(unix))]
fn file_number(_metadata: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_identity_and_a_copy_has_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let environment = SystemEnvironment::new(|_: &mut [u8]| {});
        std::fs::write(path("a"), "a").unwrap();
        let Some(identity) = environment.file_identity(&path("a")) else {
            // This file system does not say when a file was made.
            assert!(std::fs::metadata(path("a")).unwrap().created().is_err());
            return;
        };
        std::fs::write(path("a"), "another text").unwrap();
        std::fs::copy(path("a"), path("b")).unwrap();
        std::fs::rename(path("a"), path("c")).unwrap();
        assert_eq!(environment.file_identity(&path("c")), Some(identity));
        assert_ne!(environment.file_identity(&path("b")), Some(identity));
        assert_eq!(environment.file_identity(&path("a")), None);
    }
}
