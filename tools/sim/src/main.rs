//! Runs the real replica, session and store from one seed over a hostile network and hostile disks, and checks what is left.
//!
//! Time, randomness, disks and the network come from the seed, so a failure happens again under the same seed.

mod checker;
mod damage;
mod device;
mod disk;
mod family;
mod filters;
mod host;
mod likings;
mod marks;
mod memory;
mod mishaps;
mod network;
mod options;
mod oracle;
mod pace;
mod plan;
mod random;
mod renames;
mod rest;
mod rights;
mod server;
mod settle;
mod shrink;
mod sound;
mod stats;
mod switches;
mod telling;
mod users;
mod workload;
mod world;

use anyhow::{Result, bail};
use options::{Case, HELP, Options};
use stats::Stats;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};
use telling::Telling;
use world::World;

/// Also what SQLite takes, since the crate puts itself in the place of the C library's functions.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Failures after which a run ends early.
const FAILURES_MAX: u64 = 5;
/// What SQLite may take for all files of a world together.
const SQLITE_BYTES_MAX: i64 = 512 << 20;
/// What SQLite may keep for the process: the list of extensions, and what it made at its first use.
const SQLITE_BYTES_KEPT_MAX: i64 = 64 << 10;
/// How long a shorter history of a failure is looked for.
const SHRINKING: Duration = Duration::from_secs(90);

/// Runs one case; gives the hash of its history, or what went wrong.
fn run(case: &Case, stats: &mut Stats) -> Result<u64, String> {
    tell(case, stats, if case.trace { Telling::Print } else { Telling::Nobody })
}

/// The same for whoever listens.
fn tell(case: &Case, stats: &mut Stats, telling: Telling) -> Result<u64, String> {
    let act = move || {
        let (before, _) = memory::of_sqlite();
        let hash = {
            let mut world = World::new(case, telling)?;
            let hash = world.run()?;
            stats.add(&world.stats);
            hash
        };
        check_memory(before)?;
        anyhow::Ok(hash)
    };
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(hash)) => Ok(hash),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("it panicked".to_owned()),
    }
}

/// SQLite has given back what a world took of memory, and that was not without bounds.
fn check_memory(before: i64) -> Result<()> {
    // The store's threads may be at their last step.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (used, most) = memory::of_sqlite();
        if most > SQLITE_BYTES_MAX {
            bail!("SQLite took {most} bytes");
        }
        if used <= before + SQLITE_BYTES_KEPT_MAX {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("SQLite keeps {} bytes after everything is closed", used - before);
        }
        std::thread::yield_now();
    }
}

fn main() -> Result<ExitCode> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    println!("first seed: {}", options.case.seed);
    let mut stats = Stats::default();
    let (mut passed, mut failed) = (0, 0);
    while options.goes_on(passed + failed) && failed < FAILURES_MAX {
        let mut case = options.case.clone();
        case.seed = case.seed.wrapping_add(passed + failed);
        match run(&case, &mut stats) {
            Ok(hash) => {
                passed += 1;
                if case.hashes {
                    println!("seed {}: {hash:016x}", case.seed);
                }
            }
            Err(what) => {
                failed += 1;
                println!("seed {} failed: {what}\nreplay: cargo xtask sim {case}", case.seed);
                if options.shrinks {
                    let shorter =
                        shrink::shrink(&case, &what, SHRINKING, &mut |case| run(case, &mut Stats::default()));
                    println!("shortened: cargo xtask sim {shorter}");
                    let lines = Rc::default();
                    let telling = Telling::Keep(Rc::clone(&lines));
                    if let Err(what) = tell(&shorter, &mut Stats::default(), telling) {
                        print!("what happens in it:\n{}and then: {what}\n", lines.borrow());
                    }
                }
            }
        }
    }
    print!("{stats}");
    if options.totals {
        let mut more = vec![("seeds", passed + failed), ("seeds failed", failed)];
        if options.marks {
            let counts = marks::counts()?;
            more.push(("marks", counts.len() as u64));
            more.push(("marks reached", counts.values().filter(|count| **count > 0).count() as u64));
        }
        println!("{}", stats.totals(&more));
    }
    if options.busy
        && let Some(why) = stats.idleness()
    {
        println!("{why}");
        failed += 1;
    }
    if options.marks
        && let Err(error) = marks::report()
    {
        println!("{error}");
        failed += 1;
    }
    if options.common
        && let Err(error) = marks::check_common()
    {
        println!("{error}");
        failed += 1;
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same binary in the same process and in another one.
    #[test]
    fn one_seed_is_one_history() {
        let case = Case { seed: 3, until: Some(80), hashes: true, ..Case::default() };
        let _guard = disk::alone();
        let first = run(&case, &mut Stats::default()).unwrap();
        run(&Case { seed: 4, ..case.clone() }, &mut Stats::default()).unwrap();
        let lines = Rc::default();
        let telling = Telling::Keep(Rc::clone(&lines));
        assert_eq!(tell(&case, &mut Stats::default(), telling), Ok(first), "whoever listens");
        assert!(lines.borrow().to_string().contains("d1 "));
        if std::env::var_os("SIM_PRINTS_ONLY").is_none() {
            let test = std::env::current_exe().unwrap();
            let mut command = std::process::Command::new(test);
            command.args(["one_seed_is_one_history", "--nocapture"]).env("SIM_PRINTS_ONLY", "1");
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            assert!(output.contains(&format!("history {first:016x}")), "{output}");
        }
        println!("history {first:016x}");
    }
}
