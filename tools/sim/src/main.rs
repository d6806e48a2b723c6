//! Runs the real replica, session and store from one seed over a hostile network, and checks what is left.
//!
//! Time, randomness and the network come from the seed, so a failure happens again under the same seed.

mod device;
mod host;
mod network;
mod oracle;
mod random;
mod server;
mod settle;
mod workload;
mod world;

use anyhow::{Context, Result, bail};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use world::World;

const HELP: &str = "usage: cloudsync-sim [--seed N] [--seconds S | --runs N] [--devices D] [--trace] [--watch ROW]
  --seed N     the first seed, and the only one unless --seconds or --runs is given
  --seconds S  runs seed after seed for that long; 10 without any option
  --runs N     runs that many seeds
  --devices D  devices at the start; the seed decides otherwise
  --trace      prints what happens
  --watch ROW  prints the clock of a row whenever it changes; ROW is table:key, the packed key in hexadecimal";
/// Failures after which a run ends early.
const FAILURES_MAX: u64 = 5;

struct Options {
    seed: u64,
    devices: Option<usize>,
    trace: bool,
    watched: Option<String>,
    limit: Limit,
}

enum Limit {
    Runs(u64),
    Until(Instant),
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let (mut seed, mut runs, mut seconds, mut devices, mut trace) = (None, None, None, None, false);
        let mut watched = None;
        while let Some(arg) = args.next() {
            let mut number = || -> Result<u64> {
                let value = args.next().with_context(|| format!("{arg} wants a number\n{HELP}"))?;
                value.parse().with_context(|| format!("{arg} wants a number, not {value}"))
            };
            match arg.as_str() {
                "--seed" => seed = Some(number()?),
                "--runs" => runs = Some(number()?),
                "--seconds" => seconds = Some(number()?),
                "--devices" => devices = Some(number()?.clamp(1, 100) as usize),
                "--trace" => trace = true,
                "--watch" => watched = Some(args.next().context("--watch wants table:key")?),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n{HELP}"),
            }
        }
        let limit = match (runs, seconds, seed) {
            (Some(runs), ..) => Limit::Runs(runs),
            (None, None, Some(_)) => Limit::Runs(1),
            (None, seconds, _) => Limit::Until(Instant::now() + Duration::from_secs(seconds.unwrap_or(10))),
        };
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = seed.unwrap_or(elapsed.as_millis() as u64 % 1_000_000_000_000);
        Ok(Some(Self { seed, devices, trace, watched, limit }))
    }

    fn goes_on(&self, done: u64) -> bool {
        match self.limit {
            Limit::Runs(runs) => done < runs,
            Limit::Until(end) => Instant::now() < end,
        }
    }

    /// Runs one seed; gives what went wrong.
    fn run(&self, seed: u64) -> Option<String> {
        let run = || {
            let mut world = World::new(seed, self.devices, self.trace)?;
            world.watch(self.watched.clone());
            world.run()
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("it panicked".to_owned()),
        }
    }
}

fn main() -> Result<ExitCode> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    println!("first seed: {}", options.seed);
    let (mut passed, mut failed) = (0, 0);
    while options.goes_on(passed + failed) && failed < FAILURES_MAX {
        let seed = options.seed.wrapping_add(passed + failed);
        match options.run(seed) {
            None => passed += 1,
            Some(what) => {
                failed += 1;
                let devices =
                    options.devices.map_or_else(String::new, |devices| format!(" --devices {devices}"));
                println!(
                    "seed {seed} failed: {what}\nreplay: cargo run -p cloudsync-sim -- --seed {seed}{devices}"
                );
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
