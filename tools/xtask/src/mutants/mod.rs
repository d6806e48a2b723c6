//! `cargo xtask mutants`: plants mistakes in merge, fold and ledger, one by one, and looks whether a test fails.
//!
//! cargo-mutants makes and tries the mutants; here is which files, which tests, and what was tried already. It works in a
//! copy of the source below the build folder. Outcomes are kept there in `mutants/results.jsonl`: a run goes on where the last
//! one stopped, and a mutant is tried again only when the lines around it change, or with `--survivors`.

mod areas;
mod results;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::progress::format_seconds;
use crate::project::Project;
use crate::trust::Totals;
use areas::{AREAS, Area, Stage};
use results::{Mutant, Outcome, Results};

const CARGO_MUTANTS_VERSION: &str = "27.1.0";
/// Mutants whose outcomes are noted together: what a run that is ended loses at most.
const BATCH: usize = 4;
/// Of the time that the tests take without a mistake; beyond it they do not end.
const TIMEOUT_FACTOR: u64 = 8;
const TIMEOUT_SECONDS_MIN: u64 = 60;
const BUILD_SECONDS_MAX: u64 = 900;
const EQUIVALENT: &str = "tools/xtask/src/mutants/equivalent.txt";

/// What was asked for.
#[derive(Default)]
struct Wanted {
    minutes: Option<u64>,
    areas: Vec<String>,
    survivors: bool,
    list: bool,
}

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let wanted = parse(args)?;
    let work = Work::open(project)?;
    let mut results = Results::open(work.folder.join("results.jsonl"))?;
    let mut planted = Vec::new();
    for area in AREAS {
        planted.push((area, work.list(area)?));
    }
    if wanted.list {
        list(&planted, &results, &work.equivalent);
        return Ok(());
    }
    let start = Instant::now();
    let deadline = wanted.minutes.map(|minutes| start + Duration::from_secs(minutes * 60));
    let mut totals = Totals::begin("mutants", args);
    let mut outcome = Ok(());
    for (area, mutants) in &planted {
        let is_wanted = wanted.areas.is_empty() || wanted.areas.iter().any(|name| name == area.name);
        if is_wanted && outcome.is_ok() {
            outcome = work.try_area(area, mutants, &mut results, wanted.survivors, deadline);
        }
    }
    report(&planted, &results, &work.equivalent, &mut totals);
    totals.end(project, outcome)
}

fn parse(args: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    let mut args = args.iter();
    while let Some(argument) = args.next() {
        match argument.as_str() {
            "--minutes" => {
                let minutes = args.next().context("--minutes wants a number")?;
                wanted.minutes =
                    Some(minutes.parse().with_context(|| format!("{minutes} is no number of minutes"))?);
            }
            "--survivors" => wanted.survivors = true,
            "--list" => wanted.list = true,
            name if AREAS.iter().any(|area| area.name == name) => wanted.areas.push(name.to_owned()),
            other => bail!("`{other}` is not --minutes, --survivors, --list, merge, fold or ledger"),
        }
    }
    Ok(wanted)
}

/// The tool, and where it works.
struct Work {
    program: PathBuf,
    folder: PathBuf,
    tree: PathBuf,
    equivalent: BTreeMap<String, String>,
}

impl Work {
    fn open(project: &Project) -> Result<Self> {
        let folder = project.target().join("mutants");
        let tree = folder.join("tree");
        fs::create_dir_all(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
        tree::copy(project, &tree)?;
        let equivalent = results::read_equivalent(&project.root().join(EQUIVALENT))?;
        Ok(Self { program: install(project)?, folder, tree, equivalent })
    }

    /// A command of cargo-mutants in the copy.
    fn mutants(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["mutants", "--no-config", "--dir"]).arg(&self.tree);
        self.set(&mut command);
        command
    }

    /// Settings of every build.
    fn set(&self, command: &mut Command) {
        command.env("CARGO_TARGET_DIR", self.folder.join("build")).stdin(Stdio::null());
        // What a test leaves behind on a failure, and cases that are kept, belong to the copy.
        command.env("PROPTEST_FAILURE_PERSISTENCE", "off");
    }

    /// All mutants of an area, in an order by chance that stays the same: what was tried of them is a fair sample.
    fn list(&self, area: &Area) -> Result<Vec<Mutant>> {
        let mut command = self.mutants();
        command.args(["--list", "--json"]);
        area.files.iter().for_each(|file| _ = command.args(["--file", file]));
        let printed: Value = serde_json::from_str(&process::capture(&mut command)?)
            .context("cargo mutants printed no JSON")?;
        let mut mutants: Vec<_> =
            printed.as_array().into_iter().flatten().filter_map(Mutant::parse).collect();
        mutants.sort_by(|one, other| one.key.cmp(&other.key));
        mutants.dedup_by(|one, other| one.key == other.key);
        Ok(mutants)
    }

    fn try_area(
        &self,
        area: &Area,
        mutants: &[Mutant],
        results: &mut Results,
        survivors: bool,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let is_due = |mutant: &&Mutant| {
            !self.equivalent.contains_key(&mutant.key)
                && match results.of(mutant) {
                    None => true,
                    Some(outcome) => survivors && outcome == Outcome::Survived,
                }
        };
        let due: Vec<Mutant> = mutants.iter().filter(is_due).cloned().collect();
        println!("{}: {} of {} mutants are to be tried", area.name, due.len(), mutants.len());
        let mut timeouts = vec![None; area.stages.len()];
        let (start, mut done) = (Instant::now(), 0);
        for batch in due.chunks(BATCH) {
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                println!("{}: the time is over; the same command goes on", area.name);
                return Ok(());
            }
            let mut left = batch.to_vec();
            for (stage, timeout) in area.stages.iter().zip(&mut timeouts) {
                if left.is_empty() {
                    break;
                }
                let seconds = match *timeout {
                    Some(seconds) => seconds,
                    None => *timeout.insert(self.measure(stage)?),
                };
                left = self.try_batch(stage, &left, seconds, results)?;
            }
            for mutant in &left {
                println!("survived: {} {}", mutant.key, mutant.name);
                results.note(mutant, Outcome::Survived)?;
            }
            done += batch.len();
            let elapsed = format_seconds(start.elapsed().as_secs());
            println!("[{done}/{} {} {elapsed}]", due.len(), area.name);
        }
        Ok(())
    }

    /// The tests pass without a mistake; gives the seconds after which they hang.
    fn measure(&self, stage: &Stage) -> Result<u64> {
        let mut command = Command::new("cargo");
        command.args(["test", "--quiet", "--package", stage.package]).args(stage.args.split_whitespace());
        command.current_dir(&self.tree).stdout(Stdio::null()).stderr(Stdio::null());
        self.set(&mut command);
        let text = process::display(&command);
        // The first run compiles.
        let mut seconds = 0;
        for _ in 0..2 {
            let start = Instant::now();
            let status = command.status().with_context(|| format!("cannot run {text}"))?;
            if !status.success() {
                bail!("the tests fail without a mistake, in {}: {text}", self.tree.display());
            }
            seconds = start.elapsed().as_secs();
        }
        Ok((seconds * TIMEOUT_FACTOR).max(TIMEOUT_SECONDS_MIN))
    }

    /// Asks the tests of a stage; gives those that survive.
    fn try_batch(
        &self,
        stage: &Stage,
        batch: &[Mutant],
        seconds: u64,
        results: &mut Results,
    ) -> Result<Vec<Mutant>> {
        let output = self.folder.join("output");
        let _ = fs::remove_dir_all(&output);
        fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
        let mut command = self.mutants();
        command.args(["--in-place", "--baseline", "skip", "--no-shuffle", "--annotations", "none"]);
        command.args(["--caught", "--unviable", "--colors", "never", "--test-package", stage.package]);
        command.arg("--timeout").arg(seconds.to_string());
        command.arg("--build-timeout").arg(BUILD_SECONDS_MAX.to_string());
        command.arg("--output").arg(&output);
        for mutant in batch {
            command.arg("--re").arg(format!("^{}$", escape(&mutant.name)));
        }
        let files: BTreeSet<&str> = batch.iter().filter_map(|mutant| mutant.name.split(':').next()).collect();
        files.iter().for_each(|file| _ = command.args(["--file", file]));
        // For building and testing alike; what stands behind `--` is left out when the tests are built.
        stage.args.split_whitespace().for_each(|word| _ = command.arg(format!("--cargo-arg={word}")));
        // The exit status tells whether any survived, and so does the file.
        let status = command.status().with_context(|| format!("cannot run {}", self.program.display()))?;
        let path = output.join("mutants.out").join("outcomes.json");
        let outcomes = fs::read_to_string(&path)
            .ok()
            .and_then(|text| serde_json::from_str::<Value>(&text).ok())
            .with_context(|| format!("cargo mutants left no outcomes: {status}"))?;
        let mut left = Vec::new();
        for mutant in batch {
            match outcome_of(&outcomes, &mutant.name)? {
                Outcome::Survived => left.push(mutant.clone()),
                outcome => results.note(mutant, outcome)?,
            }
        }
        Ok(left)
    }
}

fn outcome_of(outcomes: &Value, name: &str) -> Result<Outcome> {
    let all = outcomes["outcomes"].as_array().into_iter().flatten();
    let mut found = all.filter(|outcome| outcome["scenario"]["Mutant"]["name"] == name);
    let found = found.next().with_context(|| format!("cargo mutants did not try {name}"))?;
    Ok(match found["summary"].as_str() {
        Some("CaughtMutant") => Outcome::Caught,
        Some("Timeout") => Outcome::Time,
        Some("Unviable") => Outcome::Unviable,
        Some("MissedMutant") => Outcome::Survived,
        other => bail!("cargo mutants says {other:?} of {name}"),
    })
}

/// A text as a regular expression that matches it alone. With a backslash, < and > would be ends of words.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if !character.is_ascii_alphanumeric() && !" _/:<>".contains(character) && character.is_ascii() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Fetches cargo-mutants unless it is there.
fn install(project: &Project) -> Result<PathBuf> {
    let root = project.target().join("tools");
    let program = root.join("bin").join("cargo-mutants");
    if !process::succeeds(Command::new(&program).args(["mutants", "--version"])) {
        let mut install = project.cargo();
        install.args(["install", "--locked", "--version", CARGO_MUTANTS_VERSION, "cargo-mutants", "--root"]);
        process::run(install.arg(&root))?;
    }
    Ok(program)
}

/// Survivors, and entries of the list that speak of no mutant any more.
fn list(planted: &[(&Area, Vec<Mutant>)], results: &Results, equivalent: &BTreeMap<String, String>) {
    let all = || planted.iter().flat_map(|(_, mutants)| mutants);
    for mutant in all().filter(|mutant| results.of(mutant) == Some(Outcome::Survived)) {
        let known = if equivalent.contains_key(&mutant.key) { "equivalent" } else { "survived" };
        println!("{known}: {} {}", mutant.key, mutant.name);
    }
    let keys: BTreeSet<&str> = all().map(|mutant| mutant.key.as_str()).collect();
    for (key, name) in equivalent.iter().filter(|(key, _)| !keys.contains(key.as_str())) {
        println!("not there any more: {key} {name}");
    }
}

/// The score, and the counts for the page: of all that is known, not of this run alone.
fn report(
    planted: &[(&Area, Vec<Mutant>)],
    results: &Results,
    equivalent: &BTreeMap<String, String>,
    totals: &mut Totals,
) {
    // Also what there is none of: the page shows the last count of each.
    for name in ["caught by a test", "caught by time", "unviable", "equivalent", "survived"] {
        totals.add(name, 0);
    }
    for (area, mutants) in planted {
        let (mut caught, mut counted, mut left) = (0, 0, 0);
        for mutant in mutants {
            let (name, counts) = match results.of(mutant) {
                _ if equivalent.contains_key(&mutant.key) => ("equivalent", false),
                None => {
                    left += 1;
                    continue;
                }
                Some(Outcome::Caught) => ("caught by a test", true),
                Some(Outcome::Time) => ("caught by time", true),
                Some(Outcome::Unviable) => ("unviable", false),
                Some(Outcome::Survived) => ("survived", true),
            };
            totals.add("tried", 1);
            totals.add(name, 1);
            counted += u64::from(counts);
            caught += u64::from(name.starts_with("caught"));
        }
        totals.add("left", left);
        totals.add(&format!("{} left", area.name), left);
        totals.add("caught", caught);
        totals.add("counted", counted);
        totals.add(&format!("{} caught", area.name), caught);
        totals.add(&format!("{} counted", area.name), counted);
        let score = if counted == 0 {
            String::new()
        } else {
            format!(" ({:.1} %)", caught as f64 / counted as f64 * 100.0)
        };
        println!("{}: {caught} of {counted} caught{score}, {left} not tried yet", area.name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_become_regular_expressions_that_mean_themselves() {
        let name = "crates/core/src/a.rs:3:5: replace f -> Option<(u8, &str)> with None in x";
        let escaped = r"crates/core/src/a\.rs:3:5: replace f \-> Option<\(u8\, \&str\)> with None in x";
        assert_eq!(escape(name), escaped);
    }

    #[test]
    fn outcomes_are_those_of_cargo_mutants() {
        let outcomes: Value = serde_json::from_str(
            r#"{"outcomes":[{"scenario":"Baseline","summary":"Success"},
                {"scenario":{"Mutant":{"name":"a"}},"summary":"MissedMutant"},
                {"scenario":{"Mutant":{"name":"b"}},"summary":"CaughtMutant"}]}"#,
        )
        .unwrap();
        assert_eq!(outcome_of(&outcomes, "a").unwrap(), Outcome::Survived);
        assert_eq!(outcome_of(&outcomes, "b").unwrap(), Outcome::Caught);
        assert!(outcome_of(&outcomes, "c").is_err());
    }
}
