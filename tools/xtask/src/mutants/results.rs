//! What became of each mutant, kept in a file so that a run goes on where the last one stopped.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// One mistake that can be planted.
#[derive(Clone, Debug)]
pub(super) struct Mutant {
    /// Stays the same as long as the lines around it do, wherever they are in their file.
    pub(super) key: String,
    /// As cargo-mutants names it, with line and column.
    pub(super) name: String,
    pub(super) file: String,
    /// What is replaced, and by what.
    pub(super) place: Place,
    pub(super) replacement: String,
    pub(super) function: Option<Function>,
}

/// The function that a mistake is in.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) place: Place,
    /// It gives an `impl Trait`.
    pub(super) is_opaque: bool,
}

/// From and to where, as lines and columns from 1.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) start: (usize, usize),
    pub(super) end: (usize, usize),
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A test failed.
    Caught,
    /// A test did not end.
    Time,
    /// The compiler refused it.
    Unviable,
    /// No test minded.
    Survived,
}

const NAMES: &[(&str, Outcome)] = &[
    ("caught", Outcome::Caught),
    ("time", Outcome::Time),
    ("unviable", Outcome::Unviable),
    ("survived", Outcome::Survived),
];

impl Mutant {
    /// Reads one that `cargo mutants --list --json` gives.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let (name, diff) = (value["name"].as_str()?, value["diff"].as_str()?);
        let lines = diff.lines().filter(|line| !line.starts_with("@@"));
        // The file, the lines around, the change.
        let key = lines.fold(0xcbf2_9ce4_8422_2325, |hash, line| fnv(fnv(hash, line.as_bytes()), b"\n"));
        let function = |function: &Value| {
            let is_opaque = function["return_type"].as_str()?.contains("impl ");
            Some(Function { place: Place::parse(&function["span"])?, is_opaque })
        };
        Some(Self {
            key: format!("{key:016x}"),
            name: name.to_owned(),
            file: value["file"].as_str()?.to_owned(),
            place: Place::parse(&value["span"])?,
            replacement: value["replacement"].as_str()?.to_owned(),
            function: function(&value["function"]),
        })
    }
}

impl Place {
    fn parse(span: &Value) -> Option<Self> {
        let number = |end: &str, name: &str| Some(span[end][name].as_u64()? as usize);
        let point = |end| Some((number(end, "line")?, number(end, "column")?));
        Some(Self { start: point("start")?, end: point("end")? })
    }
}

/// FNV-1a: the same for ever, unlike the hashes of the standard library.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// All outcomes by key.
pub(super) struct Results {
    path: PathBuf,
    outcomes: BTreeMap<String, Outcome>,
}

impl Results {
    /// Reads the file, if there is one; of several lines for a mutant the last counts.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let text = if path.is_file() {
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?
        } else {
            String::new()
        };
        let mut outcomes = BTreeMap::new();
        for line in text.lines() {
            // The last line of a run that was killed may be half of one: that mutant is tried again.
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let outcome = NAMES.iter().find(|(name, _)| value["outcome"] == **name);
            if let (Some(key), Some((_, outcome))) = (value["key"].as_str(), outcome) {
                outcomes.insert(key.to_owned(), *outcome);
            }
        }
        Ok(Self { path, outcomes })
    }

    pub(super) fn of(&self, mutant: &Mutant) -> Option<Outcome> {
        self.outcomes.get(&mutant.key).copied()
    }

    /// Notes what became of a mutant, and by which test.
    pub(super) fn note(&mut self, mutant: &Mutant, outcome: Outcome, test: Option<&str>) -> Result<()> {
        let name = NAMES.iter().find(|(_, other)| *other == outcome).map_or("", |(name, _)| name);
        let line = json!({"key": mutant.key, "name": mutant.name, "outcome": name, "test": test});
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.outcomes.insert(mutant.key.clone(), outcome);
        Ok(())
    }
}

/// Mutants that no test can tell from the original, by key, with the reason.
pub(super) fn read_equivalent(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let (key, rest) = line.split_once(' ')?;
        let (_, reason) = rest.split_once(" -- ")?;
        (key.len() == 16 && reason.len() > 10).then(|| (key.to_owned(), rest.to_owned()))
    };
    lines
        .map(|line| {
            entry(line).with_context(|| format!("not `KEY NAME -- REASON` in {}: {line}", path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mutant(line: u32, context: &str) -> Mutant {
        let diff = format!(
            "--- a.rs\n+++ replace < with <=\n@@ -{line},3 +{line},3 @@\n {context}\n-a < b\n+a <= b\n"
        );
        let span = json!({"start": {"line": line, "column": 3}, "end": {"line": line, "column": 4}});
        let name = format!("a.rs:{line}: replace");
        let function = json!({"return_type": "", "span": span});
        Mutant::parse(&json!({"name": name, "diff": diff, "file": "a.rs", "span": span, "replacement": "<=",
            "function": function}))
        .unwrap()
    }

    #[test]
    fn a_mutant_is_the_same_wherever_its_lines_are() {
        assert_eq!(mutant(1, "x").key, mutant(2, "x").key);
        assert_ne!(mutant(1, "x").key, mutant(1, "y").key);
    }

    #[test]
    fn outcomes_are_kept_and_the_last_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let mut results = Results::open(path.clone()).unwrap();
        results.note(&mutant(1, "x"), Outcome::Survived, None).unwrap();
        results.note(&mutant(9, "x"), Outcome::Caught, Some("t")).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"key\":\"half").unwrap();
        let results = Results::open(path).unwrap();
        assert_eq!(results.of(&mutant(5, "x")), Some(Outcome::Caught));
        assert_eq!(results.of(&mutant(5, "y")), None);
    }

    #[test]
    fn the_list_of_equivalent_mutants_can_be_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mutants/equivalent.txt");
        read_equivalent(&path).unwrap();
    }
}
