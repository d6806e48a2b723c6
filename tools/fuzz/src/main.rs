//! The driver that needs nothing but the project's own compiler: kept inputs, then seeded changes of them.
//!
//! Each target runs in a process of its own, which leaves the input that it is at in a file: so an input is kept whether it
//! makes the process panic, abort or hang. The last line counts the targets.

mod kept;
mod mutate;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use cloudsync_fuzz::{TARGETS, Target, target};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use mutate::Mutator;

/// One execution may take so long; a hang takes longer.
const SECONDS_MAX: u64 = 30;
/// What a process of one target may hold at most, SQLite's memory among it.
const PROCESS_BYTES_MAX: u64 = 1 << 30;
const LOOK: Duration = Duration::from_millis(50);

#[derive(Parser)]
#[command(about = "Bytes from outside, changed at random: nothing panics, hangs, leaks or damages a file")]
struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Lists the targets
    List,
    /// Runs targets side by side: all of them, each as often as in the tests
    Run {
        /// Only this target; may be repeated
        #[arg(long)]
        target: Vec<String>,
        #[command(flatten)]
        effort: Effort,
    },
    /// Runs inputs of a target once
    Try {
        /// The target
        target: String,
        /// Files
        inputs: Vec<PathBuf>,
    },
    /// Writes the first inputs of all targets into fuzz/corpus
    Plant,
    /// One target, in this process
    #[command(hide = true)]
    One {
        target: String,
        current: PathBuf,
        #[command(flatten)]
        effort: Effort,
    },
}

/// How much is tried.
#[derive(clap::Args, Clone, Copy)]
struct Effort {
    /// Seconds for each target in place of its number of executions
    #[arg(long)]
    seconds: Option<u64>,
    /// From which changes are drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the inputs that are kept, none that are drawn
    #[arg(long)]
    kept: bool,
}

impl Effort {
    /// The same as arguments.
    fn arguments(&self) -> Vec<String> {
        let seconds = self.seconds.map(|seconds| format!("--seconds={seconds}"));
        let kept = self.kept.then(|| "--kept".to_owned());
        seconds.into_iter().chain(kept).chain([format!("--seed={}", self.seed)]).collect()
    }
}

fn main() -> Result<()> {
    match Arguments::parse().act {
        Act::List => {
            for Target { name, about, .. } in TARGETS {
                println!("{name:<12}{about}");
            }
            Ok(())
        }
        Act::Run { target, effort } => run(&target, effort),
        Act::Try { target, inputs } => {
            let target = named(&target)?;
            for input in inputs {
                let bytes = std::fs::read(&input).with_context(|| input.display().to_string())?;
                (target.run)(&bytes);
                println!("{}: holds", input.display());
            }
            Ok(())
        }
        Act::Plant => {
            for target in TARGETS {
                println!("{:<12}{}", target.name, kept::plant(target)?);
            }
            Ok(())
        }
        Act::One { target, current, effort } => one(named(&target)?, effort, &current),
    }
}

fn named(name: &str) -> Result<&'static Target> {
    target(name).with_context(|| format!("`{name}` is not a target: `list` lists them"))
}

/// A target that is running.
struct Running {
    target: &'static Target,
    child: Child,
    current: PathBuf,
    begun: Instant,
    /// When the input that it is at was first seen, and what it was.
    seen: (Instant, u64),
}

fn run(names: &[String], effort: Effort) -> Result<()> {
    let mut waiting: Vec<&Target> = if names.is_empty() {
        TARGETS.iter().rev().collect()
    } else {
        names.iter().rev().map(|name| named(name)).collect::<Result<_>>()?
    };
    let (total, folder) = (waiting.len(), tempfile::tempdir()?);
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut running, mut failed) = (Vec::new(), 0);
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < at_once
            && let Some(target) = waiting.pop()
        {
            running.push(Running::start(target, effort, folder.path())?);
        }
        std::thread::sleep(LOOK);
        let mut still = Vec::new();
        for mut one in running {
            match one.ended()? {
                None => still.push(one),
                Some(well) => {
                    failed += usize::from(!well);
                    one.conclude(well)?;
                }
            }
        }
        running = still;
    }
    println!("{} passed, {failed} failed", total - failed);
    if failed > 0 {
        bail!("{failed} targets failed");
    }
    Ok(())
}

impl Running {
    fn start(target: &'static Target, effort: Effort, folder: &Path) -> Result<Self> {
        let current = folder.join(target.name);
        std::fs::write(&current, [])?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["one", target.name]).arg(&current).args(effort.arguments());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { target, child, current, begun: Instant::now(), seen: (Instant::now(), 0) })
    }

    /// Whether it ended, and how. One that hangs is ended.
    fn ended(&mut self) -> Result<Option<bool>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status.success()));
        }
        let hash = xxh3_64(&std::fs::read(&self.current)?);
        if hash != self.seen.1 {
            self.seen = (Instant::now(), hash);
        } else if self.seen.0.elapsed().as_secs() > SECONDS_MAX {
            eprintln!("{}: one execution takes more than {SECONDS_MAX} s", self.target.name);
            self.child.kill()?;
        }
        Ok(None)
    }

    /// Says what came of it, for people and as counts; keeps the input at which it failed.
    fn conclude(self, well: bool) -> Result<()> {
        let Self { target, child, current, begun, .. } = self;
        let printed = child.wait_with_output()?.stdout;
        let executions: u64 = String::from_utf8_lossy(&printed).trim().parse().unwrap_or(0);
        let seconds = begun.elapsed().as_secs_f64();
        println!("{:<12}{executions:>9} executions{seconds:>8.1} s  {}", target.name, target.about);
        let name = format!("executions: {}", target.name);
        println!("totals {}", json!({ name: executions, "crashers": u64::from(!well) }));
        if !well {
            let kept = kept::keep(target, &std::fs::read(&current)?)?;
            eprintln!("{} failed; the input is {}", target.name, kept.display());
        }
        Ok(())
    }
}

/// Tries what once failed, what is kept, and then what is drawn.
fn one(target: &Target, effort: Effort, current: &Path) -> Result<()> {
    let corpus = kept::corpus(target)?;
    let mut first = corpus.clone();
    first.extend(kept::crashers(target)?);
    let seed = effort.seed ^ xxh3_64(target.name.as_bytes());
    let mut mutator = Mutator::new(corpus, target.bytes_max, seed);
    let end = Instant::now() + Duration::from_secs(effort.seconds.unwrap_or(0));
    let drawn = if effort.kept { 0 } else { target.executions };
    let (mut executions, most) = (0, first.len() as u64 + drawn);
    let goes_on = |executions, left: &Vec<_>| match effort.seconds {
        Some(_) => Instant::now() < end || !left.is_empty(),
        None => executions < most,
    };
    while goes_on(executions, &first) {
        let bytes = first.pop().unwrap_or_else(|| mutator.draw());
        std::fs::write(current, &bytes)?;
        let begun = Instant::now();
        (target.run)(&bytes);
        if begun.elapsed().as_secs() >= SECONDS_MAX {
            bail!("one execution takes more than {SECONDS_MAX} s");
        }
        executions += 1;
    }
    if let Some(bytes) = process_bytes_max()
        && bytes > PROCESS_BYTES_MAX
    {
        bail!("{bytes} bytes of memory in one process, more than {PROCESS_BYTES_MAX}");
    }
    println!("{executions}");
    Ok(())
}

/// The most memory that this process ever held, where the system tells.
fn process_bytes_max() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
