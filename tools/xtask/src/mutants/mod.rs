//! `cargo xtask mutants`: plants mistakes in merge, fold and ledger, one by one, and looks whether a test fails.
//!
//! cargo-mutants lists the mutants; here is which files, which tests, and what was tried already. All mutants of an area are
//! [planted](plant) into one copy of the source, below the build folder, compiled once, and chosen one by one; each is shown
//! to the tests that enter its function, until one fails. Outcomes are kept in `mutants/results.jsonl`:
//! a run goes on where the last one stopped, and a mutant is tried again only when the lines around it change, or with
//! `--survivors`. With `--quick` tests that take long are not asked, so that what survives is soon known; whether they mind it,
//! a run with `--survivors` finds out.

mod areas;
mod asked;
mod plant;
mod results;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::process;
use crate::progress::format_seconds;
use crate::project::Project;
use crate::trust::Totals;
use areas::{AREAS, Area};
use asked::{Said, Tests};
use results::{Mutant, Outcome, Results};

const CARGO_MUTANTS_VERSION: &str = "27.1.0";
/// Mutants between two lines that say how far it is.
const LINE_EACH: usize = 20;
const EQUIVALENT: &str = "tools/xtask/src/mutants/equivalent.txt";

/// What was asked for.
#[derive(Default)]
struct Wanted {
    minutes: Option<u64>,
    areas: Vec<String>,
    survivors: bool,
    quick: bool,
    list: bool,
    /// Tests that run at once; as many as there are cores.
    jobs: Option<usize>,
}

/// How mutants are tried.
struct How {
    survivors: bool,
    quick: bool,
    deadline: Option<Instant>,
    at_once: usize,
}

impl How {
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let how = How {
        survivors: wanted.survivors,
        quick: wanted.quick,
        deadline,
        at_once: wanted.jobs.unwrap_or(cores),
    };
    let mut totals = Totals::begin("mutants", args);
    let mut outcome = Ok(());
    for (area, mutants) in &planted {
        let is_wanted = wanted.areas.is_empty() || wanted.areas.iter().any(|name| name == area.name);
        if is_wanted && outcome.is_ok() {
            outcome = work.try_area(area, mutants, &mut results, &how);
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
            "--jobs" => {
                let jobs = args.next().and_then(|jobs| jobs.parse().ok()).filter(|jobs| *jobs > 0);
                wanted.jobs = Some(jobs.context("--jobs wants a number")?);
            }
            "--survivors" => wanted.survivors = true,
            "--quick" => wanted.quick = true,
            "--list" => wanted.list = true,
            name if AREAS.iter().any(|area| area.name == name) => wanted.areas.push(name.to_owned()),
            other => bail!(
                "`{other}` is not --minutes, --jobs, --survivors, --quick, --list, merge, fold or ledger"
            ),
        }
    }
    Ok(wanted)
}

/// Which lines of which file are of which mistake.
type PlantedLines = BTreeMap<String, Vec<(Range<usize>, u32)>>;

/// The tool, and where it works.
struct Work<'w> {
    project: &'w Project,
    program: PathBuf,
    folder: PathBuf,
    tree: PathBuf,
    equivalent: BTreeMap<String, String>,
}

impl<'w> Work<'w> {
    fn open(project: &'w Project) -> Result<Self> {
        let folder = project.target().join("mutants");
        let tree = folder.join("tree");
        fs::create_dir_all(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
        tree::copy(project, &tree)?;
        let equivalent = results::read_equivalent(&project.root().join(EQUIVALENT))?;
        Ok(Self { project, program: install(project)?, folder, tree, equivalent })
    }

    /// A command of cargo-mutants in the copy.
    fn mutants(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["mutants", "--no-config", "--dir"]).arg(&self.tree);
        self.set(&mut command);
        command
    }

    /// A command of cargo in the copy, of one package, that prints messages for programs to read.
    fn cargo(&self, words: &[&str], area: &Area) -> Command {
        let mut command = self.project.cargo();
        command
            .args(words)
            .args(["--message-format=json", "--package", area.package])
            .current_dir(&self.tree);
        self.set(&mut command);
        command
    }

    /// Settings of every build.
    fn set(&self, command: &mut Command) {
        self.project.for_many_runs(command).stdin(Stdio::null());
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

    fn try_area(&self, area: &Area, mutants: &[Mutant], results: &mut Results, how: &How) -> Result<()> {
        let is_due = |mutant: &&Mutant| {
            !self.equivalent.contains_key(&mutant.key)
                && match results.of(mutant) {
                    None => true,
                    Some(outcome) => how.survivors && outcome == Outcome::Survived,
                }
        };
        let due: Vec<Mutant> = mutants.iter().filter(is_due).cloned().collect();
        println!("{}: {} of {} mutants are to be tried", area.name, due.len(), mutants.len());
        if due.is_empty() {
            return Ok(());
        }
        let (chosen, alone): (Vec<_>, Vec<_>) = due.iter().partition(|mutant| plant::can_be_chosen(mutant));
        let functions = self.plant_viable(area, (1..).zip(chosen).collect(), results)?;
        let start = Instant::now();
        let tests = self.measure(area, how)?;
        println!("{}: {} tests, {}", area.name, tests.len(), format_seconds(start.elapsed().as_secs()));
        let tried =
            Tried { area, results: Mutex::new(results), done: AtomicUsize::new(0), start: Instant::now() };
        let (next, count) = (AtomicUsize::new(0), functions.len() + alone.len());
        asked::at_once_each(how.at_once, |worker| {
            while let Some((mutant, number)) = functions.get(next.fetch_add(1, Ordering::Relaxed)) {
                if how.is_over() {
                    break;
                }
                tried.note(mutant, tests.ask(Some(*number), worker)?, count)?;
            }
            Ok(())
        })?;
        for mutant in alone {
            if how.is_over() {
                break;
            }
            if self.compile_alone(area, mutant)? {
                tried.note(mutant, tests.ask(None, 0)?, count)?;
            } else {
                tried.results()?.note(mutant, Outcome::Unviable, None)?;
            }
        }
        if how.is_over() {
            println!("{}: the time is over; the same command goes on", area.name);
        }
        Ok(())
    }

    /// Plants those that the compiler takes, and notes the others. Gives each with the number of its function and its own.
    fn plant_viable<'m>(
        &self,
        area: &Area,
        mut chosen: Vec<(u32, &'m Mutant)>,
        results: &mut Results,
    ) -> Result<Vec<(&'m Mutant, (u32, u32))>> {
        loop {
            let (lines, functions) = self.plant(area, &chosen)?;
            let refused = self.refused(area, &lines)?;
            if refused.is_empty() {
                let of = |number: u32| functions.get(&number).map(|function| (*function, number));
                return Ok(chosen
                    .iter()
                    .filter_map(|(number, mutant)| Some((*mutant, of(*number)?)))
                    .collect());
            }
            println!("{}: the compiler refuses {}", area.name, refused.len());
            for (_, mutant) in chosen.extract_if(.., |(number, _)| refused.contains(number)) {
                results.note(mutant, Outcome::Unviable, None)?;
            }
        }
    }

    /// Writes source with mistakes into the copy. Gives which lines of which file are of which mistake, and in which function
    /// each is.
    fn plant(&self, area: &Area, chosen: &[(u32, &Mutant)]) -> Result<(PlantedLines, BTreeMap<u32, u32>)> {
        tree::copy(self.project, &self.tree)?;
        let mut files: BTreeMap<&str, Vec<(u32, &Mutant)>> = BTreeMap::new();
        for (number, mutant) in chosen {
            files.entry(&mutant.file).or_default().push((*number, mutant));
        }
        let (mut lines, mut functions, mut count) = (PlantedLines::new(), BTreeMap::new(), 0);
        for (file, mutants) in files {
            let planted = plant::plant(&self.read(file)?, &mutants, count);
            self.write(file, &planted.text)?;
            count += planted.functions.len() as u32;
            for (function, numbers) in planted.functions {
                functions.extend(numbers.into_iter().map(|number| (number, function)));
            }
            lines.insert(file.to_owned(), planted.lines);
        }
        let root = format!("{}/src/lib.rs", area.folder);
        self.write(&root, &format!("{}{}{}", plant::ALLOWED, self.read(&root)?, plant::chooser(count)))?;
        Ok((lines, functions))
    }

    /// The mistakes that the compiler refuses; of some it tells only when others are gone.
    fn refused(&self, area: &Area, lines: &PlantedLines) -> Result<BTreeSet<u32>> {
        let output = self.cargo(&["check", "--quiet", "--lib"], area).output().context("cannot run cargo")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let refused = refused(&said, lines)?;
        if refused.is_empty() && !output.status.success() {
            bail!("cargo check failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(refused)
    }

    /// Makes the programs of the tests and runs each test once.
    fn measure(&self, area: &Area, how: &How) -> Result<Tests> {
        let mut build = self.cargo(&["test", "--quiet", "--no-run"], area);
        let programs = asked::programs(&process::capture(build.args(area.tests.split_whitespace()))?);
        let (folder, scratch) = (self.tree.join(area.folder), self.folder.join("scratch"));
        Tests::measure(&programs, (&folder, &scratch), how.at_once, how.quick)
    }

    /// Makes the programs of the tests with one mistake; whether the compiler takes it.
    fn compile_alone(&self, area: &Area, mutant: &Mutant) -> Result<bool> {
        tree::copy(self.project, &self.tree)?;
        self.write(&mutant.file, &plant::plant_alone(&self.read(&mutant.file)?, mutant))?;
        let mut build = self.cargo(&["test", "--quiet", "--no-run"], area);
        Ok(process::succeeds(build.args(area.tests.split_whitespace())))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.project.root().join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Into the copy.
    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.tree.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What was tried of an area, by several at once.
struct Tried<'t> {
    area: &'t Area,
    results: Mutex<&'t mut Results>,
    done: AtomicUsize,
    start: Instant,
}

impl<'t> Tried<'t> {
    fn results(&self) -> Result<MutexGuard<'_, &'t mut Results>> {
        self.results.lock().map_err(|_| anyhow!("a worker panicked"))
    }

    /// Notes what the tests say of one, of so many that are tried.
    fn note(&self, mutant: &Mutant, said: Option<(&str, Said)>, count: usize) -> Result<()> {
        let (outcome, test) = match said {
            None => (Outcome::Survived, None),
            Some((test, Said::Endless)) => (Outcome::Time, Some(test)),
            Some((test, _)) => (Outcome::Caught, Some(test)),
        };
        self.results()?.note(mutant, outcome, test)?;
        match outcome {
            Outcome::Survived => println!("survived: {} {}", mutant.key, mutant.name),
            Outcome::Time => println!("{} did not end: {}", test.unwrap_or_default(), mutant.name),
            Outcome::Caught | Outcome::Unviable => {}
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(LINE_EACH) {
            let elapsed = format_seconds(self.start.elapsed().as_secs());
            println!("[{done}/{count} {} {elapsed}]", self.area.name);
        }
        Ok(())
    }
}

/// The mistakes that the compiler's messages speak of.
fn refused(messages: &str, lines: &PlantedLines) -> Result<BTreeSet<u32>> {
    let mut refused = BTreeSet::new();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for message in messages.filter(|message| message["message"]["level"] == "error") {
        let spans = message["message"]["spans"].as_array().into_iter().flatten();
        let primary: Vec<_> = spans.filter(|span| span["is_primary"] == true).collect();
        let of = |span: &&Value| {
            let (file, line) = (span["file_name"].as_str()?, span["line_start"].as_u64()? as usize);
            let planted = lines.get(file)?.iter().find(|(range, _)| range.contains(&line))?;
            Some(planted.1)
        };
        let before = refused.len();
        refused.extend(primary.iter().filter_map(of));
        // What is no error of a place only says how many there are.
        if refused.len() == before && !primary.is_empty() && primary.iter().find_map(of).is_none() {
            bail!(
                "not because of a mistake: {}",
                message["message"]["rendered"].as_str().unwrap_or_default()
            );
        }
    }
    Ok(refused)
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
    fn what_the_compiler_refuses_is_told_by_its_line() {
        let lines = BTreeMap::from([("a.rs".to_owned(), vec![(1..5, 7), (5..9, 8)])]);
        let message = |level: &str, file: &str, line: u32| {
            let span = format!(r#"{{"is_primary":true,"file_name":"{file}","line_start":{line}}}"#);
            format!(r#"{{"message":{{"level":"{level}","spans":[{span}],"rendered":"why"}}}}"#)
        };
        let said = [message("warning", "a.rs", 1), message("error", "a.rs", 5)].join("\n");
        assert_eq!(refused(&said, &lines).unwrap(), BTreeSet::from([8]));
        let said = [message("error", "a.rs", 5), message("error", "a.rs", 6)].join("\n");
        assert_eq!(refused(&said, &lines).unwrap(), BTreeSet::from([8]));
        assert!(refused(&message("error", "b.rs", 5), &lines).is_err());
        assert!(refused(&message("error", "a.rs", 9), &lines).is_err());
    }
}
