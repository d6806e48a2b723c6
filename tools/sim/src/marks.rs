//! Which rare branches the simulator reaches: the names of `reached!` in the source, and how often each was met.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// How often each branch was reached, by name.
pub(crate) fn counts() -> Result<BTreeMap<String, u64>> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates");
    let mut names = Vec::new();
    collect(&crates, &mut names)?;
    let mut places = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for name in names {
        if let Some(other) = places.insert(place(&name), name.clone()) {
            bail!("{name:?} and {other:?} share one place: rename one of them, or say each once");
        }
        let count = reached(&name);
        counts.insert(name, count);
    }
    Ok(counts)
}

/// Prints the counts; fails when a branch was never reached.
pub(crate) fn report() -> Result<()> {
    if !cfg!(feature = "coverage") {
        bail!("built without counts: use cargo xtask sim --marks");
    }
    let counts = counts()?;
    for (name, count) in &counts {
        println!("{count:>9}  {name}");
    }
    let never: Vec<_> =
        counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name.as_str()).collect();
    if !never.is_empty() {
        bail!("{} of {} marks were never reached: {}", never.len(), counts.len(), never.join("; "));
    }
    Ok(())
}

/// The names in the Rust files below a folder.
fn collect(folder: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("coverage.rs")
        {
            let text = std::fs::read_to_string(&path)?;
            let marks = text.split("reached!(\"").skip(1).filter_map(|rest| rest.split_once('"'));
            names.extend(marks.map(|(name, _)| name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(feature = "coverage")]
fn place(name: &str) -> usize {
    cloudsync_core::coverage::place(name)
}

#[cfg(feature = "coverage")]
fn reached(name: &str) -> u64 {
    cloudsync_core::coverage::REACHED[place(name)].load(std::sync::atomic::Ordering::Relaxed)
}

/// Without counts each name has a place of its own.
#[cfg(not(feature = "coverage"))]
fn place(name: &str) -> String {
    name.to_owned()
}

#[cfg(not(feature = "coverage"))]
const fn reached(_name: &str) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_mark_has_a_place_of_its_own() {
        assert!(super::counts().unwrap().len() > 20);
    }
}
