//! The engines of this process, one for each file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, Instant};

use cloudsync_sqlite_ffi::{Api, Connection};

use crate::auto::engine::{Engine, Handle};
use crate::auto::{listener, worker};
use crate::error::{Error, Result};

static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::new(Vec::new());

/// How long the list is waited for. In a process that was forked while it was held, it is held for ever.
const LIST_WAIT: Duration = Duration::from_secs(1);

/// A file, as one SQLite library of this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileKey {
    pub(crate) api: Api,
    /// As SQLite names it.
    pub(crate) path: PathBuf,
    identity: Identity,
}

/// What makes two paths one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    /// Device and inode.
    number: Option<(u64, u64)>,
}

impl FileKey {
    /// The file of a connection.
    ///
    /// # Errors
    /// When it has none, or the file is gone.
    pub(crate) fn of(connection: Connection) -> Result<Self> {
        let path = connection.filename("main").ok_or_else(|| {
            Error::usage(
                "a database in memory or a temporary one cannot sync by itself: call cloudsync_network_sync(), or \
                 use a file",
            )
        })?;
        let path = PathBuf::from(path);
        let identity = Identity::of(&path).map_err(|error| Error::File {
            act: "read",
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        Ok(Self { api: connection.api(), path, identity })
    }

    /// Whether the file is still at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        Identity::of(&self.path).is_ok_and(|identity| identity == self.identity)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.api == other.api && self.identity == other.identity
    }
}

impl Identity {
    /// By the names and numbers of the file alone: opening it would end the locks of this process.
    fn of(path: &std::path::Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        #[cfg(unix)]
        let number = {
            use std::os::unix::fs::MetadataExt as _;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let number = { (!metadata.is_file()).then_some((0, 0)) };
        Ok(Self { path: path.canonicalize()?, number })
    }
}

/// Joins the engine of a file, or starts it.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn attach(file: &FileKey, foreign_keys: bool) -> Result<Handle> {
    let mut engines = list()?;
    engines.retain(|engine| engine.upgrade().is_some_and(|engine| engine.is_running()));
    let running = engines.iter().filter_map(Weak::upgrade).find(|engine| engine.file.is_same(file));
    if let Some(engine) = running {
        return Ok(engine.ask());
    }
    let engine = Arc::new(Engine::new(file.clone()));
    let handle = engine.ask();
    let failed = |error| Error::usage(format!("no thread can be started: {error}"));
    worker::start(Arc::clone(&engine), foreign_keys).map_err(failed)?;
    // Should this fail, the handle is dropped and ends the first.
    listener::start(Arc::clone(&engine)).map_err(failed)?;
    engines.push(Arc::downgrade(&engine));
    Ok(handle)
}

/// The engine of a file in this process, if it runs.
pub(crate) fn find(file: &FileKey) -> Option<Arc<Engine>> {
    let engines = list().ok()?;
    engines.iter().filter_map(Weak::upgrade).find(|engine| engine.is_running() && engine.file.is_same(file))
}

fn list() -> Result<MutexGuard<'static, Vec<Weak<Engine>>>> {
    let begun = Instant::now();
    loop {
        match ENGINES.try_lock() {
            Ok(engines) => return Ok(engines),
            Err(TryLockError::Poisoned(engines)) => return Ok(engines.into_inner()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LIST_WAIT => {
                return Err(Error::usage(
                    "this process was forked while automatic sync was being switched: exec, or fork before",
                ));
            }
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
}
