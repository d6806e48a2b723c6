//! The inputs that are kept in the repository: those from which others are drawn, and those that once failed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cloudsync_fuzz::Target;
use xxhash_rust::xxh3::xxh3_64;

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join(target.name)
}

/// Inputs from which others are drawn.
pub(crate) fn corpus(target: &Target) -> Result<Vec<Vec<u8>>> {
    read(&folder("corpus", target))
}

/// Inputs that once failed.
pub(crate) fn crashers(target: &Target) -> Result<Vec<Vec<u8>>> {
    read(&folder("crashers", target))
}

/// Keeps an input that failed, under a name that it alone has; gives its path.
pub(crate) fn keep(target: &Target, bytes: &[u8]) -> Result<PathBuf> {
    write(&folder("crashers", target), bytes)
}

/// Writes the first inputs of a target, as far as they are missing; gives their number.
pub(crate) fn plant(target: &Target) -> Result<usize> {
    let inputs = (target.seeds)();
    for input in &inputs {
        write(&folder("corpus", target), input)?;
    }
    Ok(inputs.len())
}

fn read(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).with_context(|| path.display().to_string())).collect()
}

fn write(folder: &Path, bytes: &[u8]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("{:016x}", xxh3_64(bytes)));
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(path)
}
