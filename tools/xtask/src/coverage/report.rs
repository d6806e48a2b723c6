//! What `llvm-cov export` counted, by file and crate. Tests at the bottom of a file are not part of it.

use std::collections::BTreeMap;
use std::fs;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What stands before a module of tests.
const TESTS: &str = "#[cfg(test)]";
/// What is listed branch by branch, each with a name of its own.
const CLOSELY: &[(&str, &[&str])] =
    &[("merge", &["core/src/merge/"]), ("fold", &["replica/src/fold.rs", "replica/src/fold/"])];

/// So many, of so many.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Part {
    covered: u64,
    all: u64,
}

/// Lines, regions and branches.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Counts {
    lines: Part,
    regions: Part,
    branches: Part,
}

/// One file.
struct File {
    /// From the folder `crates` on.
    path: String,
    counts: Counts,
    /// Line, column, and which outcome never was.
    uncovered: Vec<(u64, u64, bool)>,
}

pub(super) struct Report(Vec<File>);

impl Part {
    fn of(outcomes: impl Iterator<Item = bool>) -> Self {
        outcomes.fold(Self::default(), |part, covered| Self {
            covered: part.covered + u64::from(covered),
            all: part.all + 1,
        })
    }

    /// In percent, rounded down: what is not whole never looks so.
    fn percent(self) -> String {
        let tenths = (self.covered * 1000).checked_div(self.all).unwrap_or(1000);
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (part, more) in [
            (&mut self.lines, other.lines),
            (&mut self.regions, other.regions),
            (&mut self.branches, other.branches),
        ] {
            part.covered += more.covered;
            part.all += more.all;
        }
    }
}

impl Report {
    pub(super) fn read(root: &Path, exported: &Value) -> Result<Self> {
        let files = exported["data"][0]["files"].as_array().context("llvm-cov told of no files")?;
        let crates = root.join("crates");
        let mut sources = Vec::new();
        for file in files {
            let name = file["filename"].as_str().context("a file without a name")?;
            let text = fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
            sources.push((name, text, file));
        }
        let of_tests: Vec<_> =
            sources.iter().flat_map(|(name, text, _)| files_of_tests(name, text)).collect();
        let mut read = Vec::new();
        for (name, text, file) in sources {
            if of_tests.iter().any(|path| path == Path::new(name)) {
                continue;
            }
            let path = Path::new(name).strip_prefix(&crates).unwrap_or(Path::new(name));
            read.push(File::read(path.to_string_lossy().into_owned(), &text, file));
        }
        Ok(Self(read))
    }

    /// A line for each crate, then what is looked at closely: merge, fold, and the files that were asked for. Gives the
    /// counts by name.
    pub(super) fn print(&self, crates: &[&str], listed: &[String]) -> Vec<(String, u64)> {
        println!("{:<36}{:>18}{:>18}{:>18}", "", "lines", "regions", "branches");
        let mut totals = Vec::new();
        for name in crates {
            self.sum(name, &[&format!("{name}/src/")], &mut totals);
        }
        for (name, paths) in CLOSELY {
            self.sum(name, paths, &mut totals);
        }
        println!();
        let closely = CLOSELY.iter().flat_map(|(_, paths)| paths.iter().copied());
        let wanted: Vec<&str> = closely.chain(listed.iter().map(String::as_str)).collect();
        for file in &self.0 {
            if wanted.iter().any(|path| file.path.starts_with(path) || file.path.ends_with(path)) {
                file.print();
            }
        }
        totals
    }

    fn sum(&self, name: &str, paths: &[&str], totals: &mut Vec<(String, u64)>) {
        let mut counts = Counts::default();
        let chosen = self.0.iter().filter(|file| paths.iter().any(|path| file.path.starts_with(path)));
        chosen.for_each(|file| counts += file.counts);
        print_row(name, counts);
        for (what, part) in
            [("lines", counts.lines), ("regions", counts.regions), ("branches", counts.branches)]
        {
            totals.push((format!("{name} {what}"), part.all));
            totals.push((format!("{name} {what} covered"), part.covered));
        }
    }
}

fn print_row(name: &str, counts: Counts) {
    let cell = |part: Part| format!("{}/{} {}%", part.covered, part.all, part.percent());
    let [lines, regions, branches] = [counts.lines, counts.regions, counts.branches].map(cell);
    println!("{name:<36}{lines:>18}{regions:>18}{branches:>18}");
}

impl File {
    fn read(path: String, text: &str, file: &Value) -> Self {
        let tests = first_test(text).unwrap_or(u64::MAX);
        let segments: Vec<Segment> = entries(&file["segments"]).filter_map(Segment::read).collect();
        let segments: Vec<_> = segments.into_iter().filter(|segment| segment.line < tests).collect();
        let regions = Part::of(segments.iter().filter(|it| it.begins()).map(|it| it.count > 0));
        let lines = Part::of(lines(&segments));
        // One place is there once for each program and each instance of a generic function.
        let mut outcomes: BTreeMap<(u64, u64, bool), u64> = BTreeMap::new();
        for branch in entries(&file["branches"]) {
            let number = |at: usize| branch[at].as_u64().unwrap_or(0);
            if number(0) < tests {
                for (at, outcome) in [(4, true), (5, false)] {
                    *outcomes.entry((number(0), number(1), outcome)).or_default() += number(at);
                }
            }
        }
        let branches = Part::of(outcomes.values().map(|count| *count > 0));
        let uncovered =
            outcomes.into_iter().filter(|(_, count)| *count == 0).map(|(place, _)| place).collect();
        Self { path, counts: Counts { lines, regions, branches }, uncovered }
    }

    fn print(&self) {
        print_row(&self.path, self.counts);
        for (line, column, outcome) in &self.uncovered {
            println!("    {}:{line}:{column} is never {outcome}", self.path);
        }
    }
}

/// The line at which tests at the bottom of a file begin.
fn first_test(text: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    let is_module = |pair: &[&str]| matches!(pair, [TESTS, next] if next.ends_with('{'));
    lines.windows(2).position(is_module).map(|at| at as u64 + 1)
}

/// The files in which tests of this one lie.
fn files_of_tests(name: &str, text: &str) -> Vec<PathBuf> {
    let path = Path::new(name);
    let is_root = path.file_stem().is_some_and(|stem| stem == "mod" || stem == "lib");
    let folder = if is_root { path.with_file_name("") } else { path.with_extension("") };
    let lines: Vec<&str> = text.lines().collect();
    let modules = lines.windows(2).filter(|pair| pair[0] == TESTS);
    let modules = modules.filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'));
    modules.map(|module| folder.join(format!("{module}.rs"))).collect()
}

fn entries(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Where another count begins to hold.
struct Segment {
    line: u64,
    count: u64,
    has_count: bool,
    is_entry: bool,
    is_gap: bool,
}

impl Segment {
    fn read(fields: &Value) -> Option<Self> {
        Some(Self {
            line: fields[0].as_u64()?,
            count: fields[2].as_u64()?,
            has_count: fields[3].as_bool()?,
            is_entry: fields[4].as_bool()?,
            is_gap: fields[5].as_bool()?,
        })
    }

    fn begins(&self) -> bool {
        self.has_count && self.is_entry && !self.is_gap
    }
}

/// For each line that can be run, whether it was: by the most that began in it or reached into it, as `llvm-cov` does.
fn lines(segments: &[Segment]) -> impl Iterator<Item = bool> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Vec::new().into_iter();
    };
    let mut found = Vec::new();
    let (mut at, mut wrapped): (usize, Option<&Segment>) = (0, None);
    for line in first.line..=last.line {
        let begin = at;
        while segments.get(at).is_some_and(|segment| segment.line == line) {
            at += 1;
        }
        let own = &segments[begin..at];
        let skipped = own.first().is_some_and(|segment| segment.is_entry && !segment.has_count);
        let around = wrapped.filter(|segment| segment.has_count);
        let mapped = own.iter().any(|segment| segment.is_entry && segment.has_count);
        if mapped || (!skipped && around.is_some()) {
            let begun = own.iter().filter(|segment| segment.begins()).map(|segment| segment.count);
            found.push(begun.chain(around.map(|segment| segment.count)).max().unwrap_or(0) > 0);
        }
        wrapped = own.last().or(wrapped);
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_place_counts_once_and_tests_do_not() {
        let text = "fn f() {\n    if a { b }\n}\n\n#[cfg(test)]\nmod tests {\n    if c { d }\n}\n";
        let exported = json!({
            "segments": [
                [1, 1, 3, true, true, false], [2, 12, 0, true, true, false], [2, 15, 3, true, false, false],
                [3, 2, 0, false, false, false], [7, 1, 1, true, true, false], [8, 2, 0, false, false, false],
            ],
            "branches": [
                [2, 8, 2, 9, 0, 2, 0, 0, 4], [2, 8, 2, 9, 0, 1, 0, 0, 4], [7, 8, 7, 9, 1, 0, 0, 0, 4],
            ],
        });
        let file = File::read("f.rs".to_owned(), text, &exported);
        assert_eq!(file.counts.branches, Part { covered: 1, all: 2 });
        assert_eq!(file.uncovered, [(2, 8, true)]);
        assert_eq!(file.counts.regions, Part { covered: 1, all: 2 });
        assert_eq!(file.counts.lines, Part { covered: 3, all: 3 });
    }

    #[test]
    fn modules_of_tests_in_files_of_their_own_are_left_out() {
        let text = "mod a;\n#[cfg(test)]\nmod properties;\n\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(files_of_tests("/c/merge/mod.rs", text), [Path::new("/c/merge/properties.rs")]);
        assert_eq!(files_of_tests("/c/merge.rs", text), [Path::new("/c/merge/properties.rs")]);
        assert_eq!(first_test(text), Some(7));
    }

    #[test]
    fn what_is_not_whole_never_looks_so() {
        assert_eq!(Part { covered: 9_999, all: 10_000 }.percent(), "99.9");
        assert_eq!(Part { covered: 2, all: 2 }.percent(), "100.0");
    }
}
