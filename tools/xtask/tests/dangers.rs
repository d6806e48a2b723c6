//! `docs/dangers.md` names tests; each of them must exist.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

/// The names of all functions in the files below a folder that hold tests.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| {
                let line = line.trim_start();
                let line = ["fn ", "async fn ", "def "].iter().find_map(|word| line.strip_prefix(word))?;
                line.split_once('(').map(|(name, _)| name.to_owned())
            });
            found.extend(names);
        }
    }
}

#[test]
fn every_test_that_the_page_of_dangers_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut known = BTreeSet::new();
    for folder in ["crates", "tests/py", "tools/sim", "tools/fuzz"] {
        functions(&root.join(folder), &mut known);
    }
    let page = std::fs::read_to_string(root.join("docs/dangers.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let cells = rows.filter_map(|row| row.rsplit_once(" | ").map(|(_, tests)| tests));
    let named: Vec<_> = cells.flat_map(|tests| tests.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 100, "{} tests are named", named.len());
    let missing: Vec<_> = named.into_iter().filter(|name| !known.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/dangers.md names tests that do not exist: {missing:?}");
}
