//! Devices that change a little and sync, all the time, against one server.

use super::Bench;
use super::child::{Child, hear_all, order_all};
use super::device::{COLUMNS, STATE};
use super::figure::{Figures, Limit, Unit, quantile};
use super::fleet::{self, Order, Tally, Task};
use super::served::Served;
use crate::report::bytes_text;
use anyhow::{Context, Result, bail};
use rusqlite::OpenFlags;
use serde_json::{Value as Json, json};
use std::time::Instant;

/// Processes that play devices.
const FLEETS: usize = 2;
/// Devices that sync at one time, in each of them.
const THREADS_MAX: usize = 16;
/// Cells of uploads that the server takes in for a second of CPU time, at least.
const INGEST_MIN: f64 = 60_000.0;

/// A number of devices and what they do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) devices: usize,
    pub(super) databases: usize,
    /// Rows of its own that a device changes in each round.
    pub(super) rows: usize,
    /// All cells of a row, or one.
    pub(super) whole_rows: bool,
    pub(super) pull: bool,
    /// Rounds before it is measured.
    pub(super) warm_up: usize,
    pub(super) rounds: usize,
}

impl Plan {
    fn cells_per_row(&self) -> usize {
        if self.whole_rows { COLUMNS } else { 1 }
    }

    fn change(&self) -> String {
        format!("{} x {}", self.rows, self.cells_per_row())
    }

    pub(super) fn name(&self) -> String {
        let Self { devices, databases, pull, .. } = self;
        let what = if *pull { "sync" } else { "send" };
        format!("{what}: {devices} devices, {databases} databases, {} cells a round", self.change())
    }
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Load {
    plan: Plan,
    rounds_per_s: f64,
    rows_up_per_s: f64,
    rows_down_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the server, in cores.
    cores: f64,
    cells_per_cpu_s: f64,
    peak: u64,
    retries: u64,
    errors: u64,
}

impl Load {
    pub(super) const TITLES: [&'static str; 13] = [
        "load",
        "devices",
        "databases",
        "rows x cells",
        "rounds/s",
        "rows/s up",
        "rows/s down",
        "p50 ms",
        "p99 ms",
        "server cores",
        "cells up/CPU s",
        "server memory",
        "retries, errors",
    ];

    pub(super) fn cells(&self) -> [String; 13] {
        let Plan { devices, databases, pull, .. } = self.plan;
        let whole = |number: f64| format!("{number:.0}");
        [
            if pull { "sync" } else { "send" }.to_owned(),
            devices.to_string(),
            databases.to_string(),
            self.plan.change(),
            whole(self.rounds_per_s),
            whole(self.rows_up_per_s),
            whole(self.rows_down_per_s),
            format!("{:.1}", self.p50_ms),
            format!("{:.1}", self.p99_ms),
            format!("{:.2}", self.cores),
            whole(self.cells_per_cpu_s),
            bytes_text(self.peak as f64),
            format!("{}, {}", self.retries, self.errors),
        ]
    }

    /// Syncs that ended with an error.
    pub(super) fn errors(&self) -> u64 {
        self.errors
    }

    pub(super) fn json(&self) -> Json {
        let Plan { devices, databases, rows, pull, rounds, .. } = self.plan;
        json!({
            "load": if pull { "sync" } else { "send" }, "devices": devices, "databases": databases,
            "rows_a_round": rows, "cells_a_row": self.plan.cells_per_row(), "rounds_a_device": rounds,
            "rounds_per_s": self.rounds_per_s, "rows_up_per_s": self.rows_up_per_s,
            "rows_down_per_s": self.rows_down_per_s, "p50_ms": self.p50_ms, "p99_ms": self.p99_ms,
            "server_cores": self.cores, "cells_up_per_cpu_s": self.cells_per_cpu_s, "server_peak_bytes": self.peak,
            "retries": self.retries, "errors": self.errors,
        })
    }
}

/// Runs one plan on a server of its own.
pub(super) fn run(bench: &Bench<'_>, figures: &mut Figures, plan: Plan) -> Result<()> {
    let server = Served::start(bench.server, bench.custody, plan.databases)?;
    let mut fleets = start_fleets(&server, plan, THREADS_MAX)?;
    let mut all = sum(hear_all(&mut fleets)?);
    all.add(sum(order_all(&mut fleets, &Order::Rounds(plan.warm_up))?));
    let (before, begun) = (server.usage()?, Instant::now());
    let mut measured = sum(order_all(&mut fleets, &Order::Rounds(plan.rounds))?);
    let (wall_s, after) = (begun.elapsed().as_secs_f64(), server.usage()?);
    let settled = sum(order_all(&mut fleets, &Order::Settle)?);
    let (rows_up, rows_down) = (measured.rows_up as f64, measured.rows_down as f64);
    measured.latencies_ms.sort_by(f64::total_cmp);
    let times_ms = std::mem::take(&mut measured.latencies_ms);
    all.add(measured);
    compare(&server, plan, &settled)?;
    all.add(settled);
    for (error, count) in &all.errors {
        eprintln!("  {count} times: {error}");
    }
    let cpu_s = after.cpu_s - before.cpu_s;
    let cells_per_cpu_s = rows_up * plan.cells_per_row() as f64 / cpu_s;
    let errors = all.errors.values().sum();
    figures.loads.push(Load {
        plan,
        rounds_per_s: (plan.devices * plan.rounds) as f64 / wall_s,
        rows_up_per_s: rows_up / wall_s,
        rows_down_per_s: rows_down / wall_s,
        p50_ms: quantile(&times_ms, 0.5),
        p99_ms: quantile(&times_ms, 0.99),
        cores: cpu_s / wall_s,
        cells_per_cpu_s,
        peak: after.peak,
        retries: all.retries,
        errors,
    });
    if !plan.pull {
        let limit = bench.judged(Limit::Min(INGEST_MIN));
        figures.add("ingest", plan.name(), (cells_per_cpu_s, Unit::CellsPerCpuSecond), limit);
    }
    Ok(())
}

/// Starts the processes of the devices, with at most so many threads each.
pub(super) fn start_fleets(server: &Served, plan: Plan, threads_max: usize) -> Result<Vec<Child>> {
    let count = plan.devices.min(FLEETS);
    (0..count)
        .map(|fleet| {
            let devices = plan.devices * fleet / count..plan.devices * (fleet + 1) / count;
            let task = Task {
                connections: (0..plan.databases).map(|number| server.connection(number)).collect(),
                key: server.key.clone(),
                folder: server.devices().to_owned(),
                threads: devices.len().min(threads_max),
                devices,
                devices_total: plan.devices,
                rows_per_device: plan.rows,
                whole_rows: plan.whole_rows,
                pull: plan.pull,
            };
            Child::start(fleet::KIND, &task)
        })
        .collect()
}

/// All of them together.
pub(super) fn sum(tallies: Vec<Tally>) -> Tally {
    tallies.into_iter().fold(Tally::default(), |mut sum, tally| {
        sum.add(tally);
        sum
    })
}

/// Says that the server has what the devices wrote, and that they have what it has: a load that was not moved costs
/// nothing.
fn compare(server: &Served, plan: Plan, settled: &Tally) -> Result<()> {
    for database in 0..plan.databases {
        let file =
            rusqlite::Connection::open_with_flags(server.file(database), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let on_server: (i64, i64) =
            file.query_row(STATE, [], |row| Ok((row.get(0)?, row.get(1)?))).context("the server's file")?;
        let held =
            settled.states.iter().filter(|(of, ..)| *of == database).map(|(_, rows, sum)| (*rows, *sum));
        let differs = match plan.pull {
            true => held.clone().find(|held| *held != on_server),
            // Each holds its own rows.
            false => Some(held.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))).filter(|held| *held != on_server),
        };
        if let Some(held) = differs {
            bail!("database {database}: the server has {on_server:?} rows and sum, a device has {held:?}");
        }
    }
    Ok(())
}
