//! `cloudsync-bench server`: what one server process does for many devices, and how fast a change gets around.
//!
//! The server is the program that users get, in a process of its own (`served`). Devices are in processes of their own
//! as well (`child`), so that `usage` of the server is the server's alone. A step starts a server, lets its children do
//! their work at its word, and adds to the `figure`s; `custody` sees to it that nothing is left behind.

mod app;
mod child;
mod custody;
mod device;
mod figure;
mod first_sync;
mod fleet;
mod latency;
mod listeners;
mod load;
mod options;
mod retries;
mod served;
mod usage;

pub(crate) use self::child::COMMAND as CHILD_COMMAND;
use self::custody::Custody;
use self::figure::{Figures, Limit, Unit};
use self::load::Plan;
use self::options::{Extent, HELP, Options};
use self::served::Served;
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

type Act = dyn Fn(&Bench<'_>, &mut Figures) -> Result<()>;

/// One part of a run.
struct Step {
    group: &'static str,
    name: String,
    act: Box<Act>,
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
        app::KIND => app::main(task),
        fleet::KIND => fleet::main(task),
        listeners::KIND => listeners::main(task),
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
    if !figures.loads.is_empty() {
        let errors: u64 = figures.loads.iter().map(load::Load::errors).sum();
        figures.add("errors", "all loads", (errors as f64, Unit::Count), Some(Limit::Max(0.0)));
    }
    eprintln!("done in {}", clock(begun.elapsed().as_secs_f64()));
    Ok(figures)
}

fn steps(extent: Extent) -> Vec<Step> {
    let step = |group, name: &str, act: fn(&Bench<'_>, &mut Figures) -> Result<()>| Step {
        group,
        name: name.to_owned(),
        act: Box::new(act),
    };
    let mut steps = vec![
        step("latency", "a commit on one device, the row on another", latency::run),
        step("listeners", "the same among many listeners", latency::run_among_many),
        step("idle", "automatic sync when nothing happens", latency::run_idle),
        step("first-sync", "all rows to a new device", first_sync::run),
    ];
    steps.extend(load_plans(extent).into_iter().map(|plan| Step {
        group: if plan.pull { "load" } else { "ingest" },
        name: plan.name(),
        act: Box::new(move |bench, figures| load::run(bench, figures, plan)),
    }));
    steps.push(step("retries", "devices whose server goes away", retries::run));
    steps
}

/// Devices over one database and over many; then devices that only send.
fn load_plans(extent: Extent) -> Vec<Plan> {
    let [ten, hundred, thousand] =
        extent.pick([[2, 4, 10], [10, 100, 1_000], [10, 100, 1_000], [10, 100, 1_000]]);
    // Each of them hears of everybody's changes, so they change little.
    let (in_one, little) = (extent.pick([10, 300, 1_000, 1_000]), (1, false));
    let plan = |devices, databases, (rows, whole_rows), rounds| {
        let warm_up = if devices > hundred { 1 } else { 3 };
        Plan { devices, databases, rows, whole_rows, pull: true, warm_up, rounds: extent.pick(rounds) }
    };
    let sends = |databases, change, rounds| Plan { pull: false, ..plan(hundred, databases, change, rounds) };
    let (whole, cells) = ((10, true), (100, false));
    vec![
        plan(1, 1, whole, [5, 100, 500, 2_000]),
        plan(ten, 1, whole, [3, 20, 100, 400]),
        plan(hundred, 1, whole, [2, 5, 20, 60]),
        plan(in_one, 1, little, [2, 2, 6, 20]),
        plan(hundred, hundred / 2, whole, [2, 10, 40, 100]),
        plan(thousand, thousand / 10, whole, [2, 2, 10, 30]),
        sends(1, whole, [2, 40, 100, 200]),
        sends(1, cells, [2, 15, 50, 100]),
        sends(hundred / 4, whole, [2, 20, 100, 200]),
    ]
}
