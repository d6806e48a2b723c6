//! `cargo xtask fuzz`: the targets of `tools/fuzz`, driven by libFuzzer, or by changes from a seed.
//!
//! libFuzzer wants everything compiled with counters at each branch and with AddressSanitizer. Flags and folders are those of
//! `cargo fuzz`, which works too; this command needs the project's own compiler only.

mod keep;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::project::Project;
use crate::trust::Totals;

const MANIFEST: &str = "fuzz/Cargo.toml";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];
/// Longest input, in bytes.
const INPUT_BYTES_MAX: u64 = 16 << 10;
/// What `cargo xtask fuzz` was asked for.
struct Wanted {
    minutes: f64,
    seed: u32,
    targets: Vec<String>,
    /// Without libFuzzer.
    seeded: bool,
    keep: bool,
}

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut wanted = parse(args)?;
    if wanted.targets.is_empty() {
        wanted.targets = targets(project)?;
    }
    println!("seed {}", wanted.seed);
    let mut totals = Totals::begin("fuzz", args);
    let outcome = if wanted.seeded {
        totals.run(&mut seeded(project, &wanted))
    } else {
        guided(project, &wanted, &mut totals)
    };
    totals.end(project, outcome)
}

fn parse(args: &[String]) -> Result<Wanted> {
    let seed = std::process::id();
    let mut wanted = Wanted { minutes: 1.0, seed, targets: Vec::new(), seeded: false, keep: false };
    let mut args = args.iter();
    while let Some(argument) = args.next() {
        let mut value = || args.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--minutes" => wanted.minutes = value()?.parse().context("--minutes wants a number")?,
            "--seed" => wanted.seed = value()?.parse().context("--seed wants a number")?,
            "--target" => wanted.targets.push(value()?.clone()),
            "--seeded" => wanted.seeded = true,
            "--keep" => wanted.keep = true,
            other => bail!("`{other}` is not --minutes, --seed, --target, --seeded or --keep"),
        }
    }
    Ok(wanted)
}

/// The names of all targets: the programs of the manifest.
fn targets(project: &Project) -> Result<Vec<String>> {
    let mut list = project.cargo();
    let printed =
        process::capture(list.args(["run", "--quiet", "--package", "cloudsync-fuzz", "--", "list"]))?;
    Ok(printed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Changes from a seed, by a program as everybody compiles it.
fn seeded(project: &Project, wanted: &Wanted) -> Command {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-fuzz", "--", "run"]);
    let at_once = at_once().min(wanted.targets.len());
    let seconds = seconds_each(wanted.minutes, wanted.targets.len(), at_once);
    command.args(["--seconds", &seconds.to_string(), "--seed", &wanted.seed.to_string()]);
    command.args(wanted.targets.iter().flat_map(|target| ["--target", target]));
    command
}

fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whole seconds of each target, so that all of them take so many minutes.
fn seconds_each(minutes: f64, targets: usize, at_once: usize) -> u64 {
    let turns = targets.div_ceil(at_once.max(1)).max(1);
    (minutes * 60.0 / turns as f64).round().max(1.0) as u64
}

/// libFuzzer, on as many targets at a time as there are cores.
fn guided(project: &Project, wanted: &Wanted, totals: &mut Totals) -> Result<()> {
    let programs = build(project, &wanted.targets)?;
    let waiting = Mutex::new(programs.iter().zip(&wanted.targets).rev().collect::<Vec<_>>());
    let at_once = at_once().min(wanted.targets.len());
    let seconds = seconds_each(wanted.minutes, wanted.targets.len(), at_once);
    let ended = Mutex::new(Vec::new());
    let take_turns = || {
        loop {
            let next = waiting.lock().ok().and_then(|mut waiting| waiting.pop());
            let Some((program, target)) = next else { return };
            let outcome = Guided { project, program, target }.run(seconds, wanted);
            if let Ok(mut ended) = ended.lock() {
                ended.push((target, outcome));
            }
        }
    };
    std::thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(take_turns))));
    let mut failed = 0;
    for (target, outcome) in ended.into_inner().unwrap_or_default() {
        match outcome {
            Ok(Outcome { executions, crashers }) => {
                totals.add(&format!("executions: {target}"), executions);
                totals.add("crashers", crashers);
                failed += u64::from(crashers > 0);
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                failed += 1;
            }
        }
    }
    totals.add_failed(failed);
    if failed == 0 { Ok(()) } else { bail!("{failed} targets failed") }
}

/// Compiles the targets; gives their programs.
fn build(project: &Project, targets: &[String]) -> Result<Vec<PathBuf>> {
    let folder = project.target().join("fuzz");
    let mut build = project.cargo();
    build.args(["build", "--release", "--locked", "--target", TARGET, "--manifest-path", MANIFEST]);
    build.args(targets.iter().flat_map(|target| ["--bin", target]));
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS.join(" ")).env("CARGO_TARGET_DIR", &folder);
    process::run(&mut build)?;
    Ok(targets.iter().map(|target| folder.join(TARGET).join("release").join(target)).collect())
}

/// What libFuzzer did.
struct Outcome {
    executions: u64,
    crashers: u64,
}

/// One target that libFuzzer drives.
struct Guided<'g> {
    project: &'g Project,
    program: &'g Path,
    target: &'g str,
}

impl Guided<'_> {
    fn run(&self, seconds: u64, wanted: &Wanted) -> Result<Outcome> {
        let (target, kept) = (self.target, self.kept());
        let found = self.project.target().join("fuzz").join("corpus").join(target);
        let crashers = self.project.root().join("fuzz").join("crashers").join(target);
        for folder in [&kept, &found, &crashers] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let before = count_files(&crashers)?;
        let mut fuzz = self.command();
        fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-seed={}", wanted.seed));
        fuzz.arg(format!("-max_len={INPUT_BYTES_MAX}")).args(["-timeout=30", "-rss_limit_mb=3072"]);
        fuzz.arg(format!("-artifact_prefix={}/", crashers.display())).arg("-print_final_stats=1");
        fuzz.args([&found, &kept, &crashers]);
        let log = self.project.target().join("fuzz").join(format!("{target}.log"));
        let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let status = fuzz.stdout(Stdio::null()).stderr(output).status();
        let status = status.with_context(|| format!("cannot run {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let executions = stat(&said, "stat::number_of_executed_units:").unwrap_or(0);
        let coverage = said.lines().rev().find_map(|line| stat(line, " cov: ")).unwrap_or(0);
        let crashers_found = count_files(&crashers)?.saturating_sub(before);
        println!(
            "{target:<12}{executions:>10} executions, {coverage:>6} edges covered, {crashers_found} crashers"
        );
        if !status.success() {
            eprintln!(
                "{target}: {status}; inputs are in {}, the report is {}",
                crashers.display(),
                log.display()
            );
            // Also where it fails without an input of its own.
            return Ok(Outcome { executions, crashers: crashers_found.max(1) });
        }
        if wanted.keep {
            self.keep(&found)?;
        }
        Ok(Outcome { executions, crashers: crashers_found })
    }

    fn kept(&self) -> PathBuf {
        self.project.root().join("fuzz").join("corpus").join(self.target)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.stdin(Stdio::null()).current_dir(self.project.target().join("fuzz"));
        // What a target keeps between executions is no leak; leaks are looked for by the tests of opens and closes.
        command.env("ASAN_OPTIONS", "detect_leaks=0:detect_odr_violation=0");
        command
    }

    /// Makes of the inputs in the repository and of what was found those that are worth keeping.
    fn keep(&self, found: &Path) -> Result<()> {
        let folder = self.project.target().join("fuzz");
        let (kept, merged) = (self.kept(), folder.join("merged").join(self.target));
        let _ = fs::remove_dir_all(&merged);
        fs::create_dir_all(&merged).with_context(|| format!("cannot make {}", merged.display()))?;
        // What is in the folder already counts as covered: nothing is kept that reaches no more than they do.
        let made = keep::copy_made(&kept, &merged)?;
        let mut merge = self.command();
        // As few as reach all of it. How often they do is not asked: a corpus of loops that ran once more has no end.
        merge.args(["-set_cover_merge=1", "-use_counters=0"]).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        merge.args([&merged, &kept, found]);
        let log = folder.join(format!("{}.merge.log", self.target));
        let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let status = merge.stdout(Stdio::null()).stderr(output).status().context("cannot merge")?;
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        if !status.success() || !keep::is_whole(&said) {
            bail!("{}: what was found cannot be merged, the report is {}", self.target, log.display());
        }
        let count = keep::rewrite(&kept, &merged)?;
        println!("{:<12}{made:>10} made by hand and {count} found ones are kept", self.target);
        Ok(())
    }
}

fn count_files(folder: &Path) -> Result<u64> {
    Ok(fs::read_dir(folder).with_context(|| folder.display().to_string())?.count() as u64)
}

/// The number behind a word, in a text that says it.
fn stat(text: &str, word: &str) -> Option<u64> {
    let rest = &text[text.rfind(word)? + word.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shared_by_targets_that_run_side_by_side() {
        assert_eq!(seconds_each(6.0, 12, 2), 60);
        assert_eq!(seconds_each(1.0, 1, 1), 60);
        assert_eq!(seconds_each(0.0, 3, 2), 1);
    }

    #[test]
    fn numbers_are_found_in_what_libfuzzer_says() {
        let said =
            "#2\tINITED cov: 5 ft: 6\n#9\tNEW    cov: 17 ft: 20\nstat::number_of_executed_units: 1234\n";
        assert_eq!(stat(said, "stat::number_of_executed_units:"), Some(1234));
        assert_eq!(said.lines().rev().find_map(|line| stat(line, " cov: ")), Some(17));
    }
}
