//! What a store, and whoever acts on its file beside it, needs of the world: time, randomness, and which file it is. A simulation
//! brings its own.

use crate::policy::PolicySteps;
use cloudsync_replica::{Environment, SystemEnvironment};
use cloudsync_sqlite_ffi::Connection;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Device and number of a file. The number is not given again while the file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(pub u64, pub u64);

/// The world around a store.
pub trait Host: Send + Sync {
    /// Clock and randomness for a replica on this connection, in one thread.
    fn environment(&self, db: Connection) -> Rc<dyn Environment>;
    /// Which file lies at a path.
    ///
    /// # Errors
    /// When there is none, or it cannot be looked up.
    fn file_id(&self, path: &Path) -> io::Result<FileId>;
    /// How much work policies may cause.
    fn policy_steps(&self) -> PolicySteps {
        PolicySteps::default()
    }
}

/// A file and the world around it; made of a path alone, a file of this machine.
#[derive(Clone)]
pub struct Located {
    pub(super) path: PathBuf,
    pub(super) host: Arc<dyn Host>,
}

impl Located {
    /// A file in a world of the caller's: a path that its SQLite understands, and its own time and chance.
    #[must_use]
    pub fn on(path: &Path, host: Arc<dyn Host>) -> Self {
        Self { path: path.to_owned(), host }
    }

    /// A file of this machine.
    pub(super) fn here(path: &Path) -> Self {
        Self::on(path, Arc::new(SystemHost))
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Located {
    fn from(path: &P) -> Self {
        Self::here(path.as_ref())
    }
}

impl From<&Self> for Located {
    fn from(file: &Self) -> Self {
        file.clone()
    }
}

/// The operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemHost;

impl Host for SystemHost {
    fn environment(&self, db: Connection) -> Rc<dyn Environment> {
        Rc::new(SystemEnvironment::new(move |buffer: &mut [u8]| {
            // The system's generator fails on no platform that this server runs on; SQLite's is the second best.
            if getrandom::fill(buffer).is_err() {
                db.randomness(buffer);
            }
        }))
    }

    #[cfg(unix)]
    fn file_id(&self, path: &Path) -> io::Result<FileId> {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map(|metadata| FileId(metadata.dev(), metadata.ino()))
    }

    /// Elsewhere an open file can be neither removed nor replaced.
    #[cfg(not(unix))]
    fn file_id(&self, path: &Path) -> io::Result<FileId> {
        std::fs::metadata(path).map(|_| FileId(0, 0))
    }
}
