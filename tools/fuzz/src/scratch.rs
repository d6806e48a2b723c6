//! Folders that are gone with their user, in memory where the system has such.

use std::path::Path;

use tempfile::TempDir;

/// A new empty folder.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { builder.tempdir() };
    made.unwrap()
}
