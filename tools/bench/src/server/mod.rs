//! `cloudsync-bench server`: what one server process does for many devices, and how fast a change gets around.
//!
//! The server is the program that users get, in a process of its own (`served`). Devices are in processes of their own
//! as well (`child`), so that `usage` of the server is the server's alone. A step starts a server, lets its children do
//! their work at its word, and adds to the `figure`s; `custody` sees to it that nothing is left behind.

mod child;
mod custody;
mod device;
mod figure;
mod fleet;
mod load;
mod options;
mod served;
mod usage;

pub(crate) use self::child::COMMAND as CHILD_COMMAND;
use self::custody::Custody;
use self::figure::{Figures, Limit};
use self::load::Plan;
use self::options::{Extent, HELP, Options};
use crate::document;
use crate::plan::clock;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// The name of the command.
pub(crate) const COMMAND: &str = "server";

/// What all steps need.
struct Bench<'b> {
    server: &'b Path,
    library: &'b Path,
    custody: &'b Custody,
    extent: Extent,
}

impl Bench<'_> {
    /// A limit, unless counts are too small for any.
    fn judged(&self, limit: Limit) -> Option<Limit> {
        (self.extent > Extent::Smoke).then_some(limit)
    }
}

/// One part of a run.
struct Step<'b> {
    group: &'static str,
    name: String,
    act: Box<dyn Fn(&Bench<'b>, &mut Figures) -> Result<()>>,
}

/// Measures what the arguments ask for.
pub(crate) fn main(args: &[String]) -> Result<ExitCode> {
    let Some(options) = Options::parse(args)? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let figures = run(&options)?;
    let table = figures.table();
    print!("{table}");
    if let Some(path) = &options.json {
        std::fs::write(path, figures.json()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.docs {
        let heading = document::server_heading(options.extent.argument());
        document::SERVER.write(path, &(heading + &table))?;
    }
    let missed = figures.missed();
    missed.iter().for_each(|line| println!("{line}"));
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a process that this program started does.
pub(crate) fn child(args: &[String]) -> Result<()> {
    let [kind, task] = args else { bail!("{CHILD_COMMAND} wants a kind and a task") };
    match kind.as_str() {
        fleet::KIND => fleet::main(task),
        other => bail!("there is no child {other}"),
    }
}

fn run(options: &Options) -> Result<Figures> {
    let custody = Custody::begin()?;
    let bench = Bench {
        server: &options.server,
        library: &options.library,
        custody: &custody,
        extent: options.extent,
    };
    let mut steps = steps(options.extent);
    if let Some(only) = &options.only {
        steps.retain(|step| step.group == only);
        if steps.is_empty() {
            bail!("--only {only}: there is no such group");
        }
    }
    let (mut figures, begun) = (Figures::default(), Instant::now());
    for (number, step) in steps.iter().enumerate() {
        let elapsed = clock(begun.elapsed().as_secs_f64());
        eprintln!("[{}/{}  {elapsed}] {} ({})", number + 1, steps.len(), step.name, step.group);
        (step.act)(&bench, &mut figures).with_context(|| step.name.clone())?;
    }
    eprintln!("done in {}", clock(begun.elapsed().as_secs_f64()));
    Ok(figures)
}

fn steps<'b>(extent: Extent) -> Vec<Step<'b>> {
    let loads = load_plans(extent).into_iter().map(|plan| Step {
        group: if plan.pull { "load" } else { "ingest" },
        name: plan.name(),
        act: Box::new(move |bench, figures| load::run(bench, figures, plan)),
    });
    loads.collect()
}

/// Devices over one database and over many; then devices that only send.
fn load_plans(extent: Extent) -> Vec<Plan> {
    let rounds = |counts| extent.pick(counts);
    let one =
        Plan { devices: 1, databases: 1, rows: 10, whole_rows: true, pull: true, warm_up: 5, rounds: 0 };
    let hundred = extent.pick([4, 100, 100, 100]);
    let thousand = extent.pick([10, 1_000, 1_000, 1_000]);
    let sends = Plan { devices: hundred, pull: false, rounds: rounds([2, 40, 100, 200]), ..one };
    vec![
        Plan { rounds: rounds([5, 100, 500, 2_000]), ..one },
        Plan { devices: hundred / 10 + 1, rounds: rounds([3, 20, 100, 400]), ..one },
        Plan { devices: hundred, warm_up: 2, rounds: rounds([2, 5, 20, 60]), ..one },
        // Each hears of everybody's changes, so they change little.
        Plan {
            devices: thousand,
            rows: 1,
            whole_rows: false,
            warm_up: 1,
            rounds: rounds([2, 2, 6, 20]),
            ..one
        },
        Plan {
            devices: hundred,
            databases: hundred / 2,
            warm_up: 2,
            rounds: rounds([2, 10, 40, 100]),
            ..one
        },
        Plan {
            devices: thousand,
            databases: thousand / 10,
            warm_up: 1,
            rounds: rounds([2, 3, 10, 30]),
            ..one
        },
        sends,
        Plan { rows: 100, whole_rows: false, ..sends },
        Plan { databases: hundred / 4, ..sends },
    ]
}
