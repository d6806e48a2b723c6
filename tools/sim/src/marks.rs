//! Which rare branches the simulator reaches: the names of `reached!` in the source, and how often each was met.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// Branches that the seeds which everybody runs (`cargo xtask test`) reach many times. One that they reach no longer is one that
/// a change has made unreachable, or a world that has grown too calm.
const COMMON: &[&str] = &[
    "compaction: a run goes on",
    "conflicts: a value that lost is kept",
    "device: a download waits for its last chunk",
    "family: a row keeps its parents until it is known who stays",
    "family: an orphan is taken out",
    "filter: an unsent edit is outside",
    "judged: the rest of a round is judged again",
    "kept: cells of an unknown column",
    "kept: what was kept comes in",
    "ledger: nothing is sure",
    "merge: a later life replaces a living row",
    "merge: two deletions of one life",
    "merge: two values under one clock",
    "pieces: a large value is put together",
    "quarantine: a row waits",
    "server: a chunk is staged",
    "server: a copy asks",
    "server: a key or token that is over comes",
    "server: a round comes again",
    "server: a table is switched off",
    "server: who may not write sends changes",
    "settle: a refused row is tried at the end",
    "verdicts: refused rows are undone",
];

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
    if !cfg!(any(feature = "coverage", debug_assertions)) {
        bail!("built without counts: use cargo xtask sim");
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

/// Fails when one of the common branches was never reached.
pub(crate) fn check_common() -> Result<()> {
    let counts = counts()?;
    let never: Vec<_> =
        COMMON.iter().filter(|name| counts.get(**name).is_none_or(|count| *count == 0)).copied().collect();
    if !never.is_empty() {
        bail!(
            "{} of {} common marks were never reached: {}; whether they can be: cargo xtask sim --marks --seed 1 --runs 60",
            never.len(),
            COMMON.len(),
            never.join("; ")
        );
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

#[cfg(any(feature = "coverage", debug_assertions))]
fn place(name: &str) -> usize {
    cloudsync_core::coverage::place(name)
}

#[cfg(any(feature = "coverage", debug_assertions))]
fn reached(name: &str) -> u64 {
    cloudsync_core::coverage::REACHED[place(name)].load(std::sync::atomic::Ordering::Relaxed)
}

/// Without counts each name has a place of its own.
#[cfg(not(any(feature = "coverage", debug_assertions)))]
fn place(name: &str) -> String {
    name.to_owned()
}

#[cfg(not(any(feature = "coverage", debug_assertions)))]
const fn reached(_name: &str) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_mark_has_a_place_of_its_own_and_the_common_ones_exist() {
        let counts = super::counts().unwrap();
        assert!(counts.len() > 20);
        let missing: Vec<_> = super::COMMON.iter().filter(|name| !counts.contains_key(**name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
