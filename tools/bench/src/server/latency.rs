//! From a commit on one device with automatic sync to the row on another one, both on one machine, alone and among many
//! who listen; and what automatic sync costs when nothing happens.

use super::app::{self, Done, Order};
use super::child::{Child, hear_all};
use super::figure::{Figures, Limit, Unit};
use super::listeners::{self, Heard};
use super::usage::{Usage, cpu_ns_of_threads};
use super::{Bench, Served};
use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// Most milliseconds between a commit and the row elsewhere: half of all, and 99 of 100.
const ROW_MS_MAX: [f64; 2] = [25.0, 100.0];
/// Most milliseconds between a commit and those who are told of it, when there are many: 99 of 100.
const AMONG_MANY_MS_MAX: f64 = 250.0;
/// Most memory of the server then, in bytes.
const MEMORY_MAX: f64 = 1_073_741_824.0;
/// Most CPU time of automatic sync when nothing happens, in percent of a core.
const IDLE_PERCENT_MAX: f64 = 0.5;
/// Pauses between commits, in milliseconds: they go round, so that commits come at any place of an app's looks.
const PAUSES_MS: [u64; 7] = [53, 127, 71, 190, 89, 31, 163];
/// After so long an app looks less often.
const QUIET: Duration = Duration::from_secs(6);

/// Two apps that sync by themselves.
struct Pair {
    writer: Child,
    reader: Child,
    written: usize,
}

impl Pair {
    fn start(bench: &Bench<'_>, server: &Served) -> Result<Self> {
        let [writer, reader] = ["writer", "reader"].map(|name| app::start(bench, server, name));
        let mut pair = Self { writer: writer?, reader: reader?, written: 0 };
        app::order(&mut pair.writer, Order::Auto)?;
        app::order(&mut pair.reader, Order::Auto)?;
        // The first one brings the schema.
        pair.sample(Duration::ZERO)?;
        Ok(pair)
    }

    /// Commits after a pause: when, and milliseconds until the row was seen on the other side.
    fn sample(&mut self, pause: Duration) -> Result<(u64, f64)> {
        thread::sleep(pause);
        let number = self.written;
        self.written += 1;
        self.reader.order(&Order::Await(number))?;
        let committed: Done = app::order(&mut self.writer, Order::Write(number))?;
        let seen: Done = self.reader.hear()?;
        Ok((committed.at_ns, ms_between(committed.at_ns, seen.at_ns)))
    }
}

fn ms_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

fn pause(sample: usize) -> Duration {
    Duration::from_millis(PAUSES_MS[sample % PAUSES_MS.len()])
}

/// Two apps and nobody else.
pub(super) fn run(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let server = Served::start(bench.server, bench.custody, 1)?;
    let mut pair = Pair::start(bench, &server)?;
    let samples = bench.extent.pick([3, 100, 500, 2_000]);
    let times = (0..samples).map(|sample| Ok(pair.sample(pause(sample))?.1)).collect::<Result<Vec<_>>>()?;
    let limits = ROW_MS_MAX.map(|max| bench.judged(Limit::Max(max)).map(|_| max));
    figures.add_times("commit to row", "two devices in use", times, limits);
    let samples = bench.extent.pick([0, 0, 5, 20]);
    if samples > 0 {
        let times = (0..samples).map(|_| Ok(pair.sample(QUIET)?.1)).collect::<Result<Vec<_>>>()?;
        figures.add_times("commit to row", "the first after 6 s of quiet", times, [None, None]);
    }
    Ok(())
}

/// Two apps among many listeners of the same database, who are told of each commit.
pub(super) fn run_among_many(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let count = bench.extent.pick([20, 10_000, 10_000, 10_000]);
    listeners::require_files(count)?;
    let server = Served::start(bench.server, bench.custody, 1)?;
    let mut pair = Pair::start(bench, &server)?;
    let mut crowds = listeners::start(&server, count)?;
    let (before, begun) = (server.usage()?, Instant::now());
    thread::sleep(Duration::from_secs(bench.extent.pick([0, 5, 20, 60])));
    let (idle, idle_s) = (server.usage()?, begun.elapsed().as_secs_f64());
    let (mut rows_ms, mut events_ms) = (Vec::new(), Vec::new());
    let samples = bench.extent.pick([2, 20, 50, 200]);
    for sample in 0..samples {
        crowds.iter_mut().try_for_each(|crowd| crowd.order(&listeners::Order::Event))?;
        let (committed_ns, row_ms) = pair.sample(pause(sample) * 2)?;
        rows_ms.push(row_ms);
        for heard in hear_all::<Heard>(&mut crowds)? {
            if heard.lost > 0 {
                bail!("{} listeners lost their connection", heard.lost);
            }
            events_ms.extend(heard.at_ns.iter().map(|at_ns| ms_between(committed_ns, *at_ns)));
        }
    }
    let used = server.usage()?;
    let set_up = format!("{count} listeners of one database");
    let p99_max = bench.judged(Limit::Max(AMONG_MANY_MS_MAX)).map(|_| AMONG_MANY_MS_MAX);
    figures.add_times("commit to row", &set_up, rows_ms, [None, p99_max]);
    figures.add_times("commit to event", &format!("each of {set_up}"), events_ms, [None, p99_max]);
    let limit = bench.judged(Limit::Max(MEMORY_MAX));
    figures.add("server memory, peak", &set_up, (used.peak as f64, Unit::Bytes), limit);
    let told_s = (used.cpu_s - idle.cpu_s) / samples as f64;
    figures.add("server CPU for a commit", &set_up, (told_s * 1e3, Unit::Milliseconds), None);
    let idle_percent = (idle.cpu_s - before.cpu_s) / idle_s * 100.0;
    figures.add("server CPU, idle", set_up, (idle_percent, Unit::Percent), None);
    Ok(())
}

/// One app with automatic sync, which nobody uses.
pub(super) fn run_idle(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let server = Served::start(bench.server, bench.custody, 1)?;
    let mut app = app::start(bench, &server, "idle")?;
    app::order(&mut app, Order::Auto)?;
    app::order(&mut app, Order::Write(0))?;
    let (quiet_s, watched_s) = bench.extent.pick([(0, 1), (6, 8), (6, 30), (310, 60)]);
    thread::sleep(Duration::from_secs(quiet_s));
    let look = || Ok::<_, anyhow::Error>((Usage::of(app.id())?.written, cpu_ns_of_threads(app.id())?));
    let (before, begun) = (look()?, Instant::now());
    thread::sleep(Duration::from_secs(watched_s));
    let (after, watched) = (look()?, begun.elapsed().as_secs_f64());
    let percent = after.1.saturating_sub(before.1) as f64 / 1e9 / watched * 100.0;
    let set_up = format!("one file, {quiet_s} s after its last write");
    let limit = bench.judged(Limit::Max(IDLE_PERCENT_MAX));
    figures.add("CPU of automatic sync", &set_up, (percent, Unit::Percent), limit);
    let written = after.0 - before.0;
    let limit = bench.judged(Limit::Max(0.0));
    figures.add("disk writes of automatic sync", set_up, (written as f64, Unit::Bytes), limit);
    Ok(())
}
