//! A process with many devices, each of which changes its rows and syncs in turn, driven by a bounded pool of threads.

use super::child::{next_order, report};
use super::device::{Device, shape};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

/// The kind of child.
pub(super) const KIND: &str = "fleet";
/// Turns after which a device that still receives something is not going to come to rest.
const SETTLE_MAX: usize = 20;
/// Kinds of errors that are told apart.
const ERROR_KINDS_MAX: usize = 20;

/// What a fleet is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    /// Connection strings; device n is in the n-th of them, round and round.
    pub(super) connections: Vec<String>,
    pub(super) key: String,
    pub(super) folder: PathBuf,
    /// Numbers of the devices.
    pub(super) devices: Range<usize>,
    /// Devices in all fleets.
    pub(super) devices_total: usize,
    pub(super) rows_per_device: usize,
    /// All cells of a row change in each round, or one.
    pub(super) whole_rows: bool,
    /// They receive, too.
    pub(super) pull: bool,
    pub(super) threads: usize,
}

/// What all devices do next.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Order {
    /// So many rounds each.
    Rounds(usize),
    /// They sync without changes until nothing comes any more, and say what they hold.
    Settle,
}

/// What came of an order, or of making the devices.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Of each sync, in milliseconds.
    pub(super) latencies_ms: Vec<f64>,
    pub(super) rows_up: u64,
    pub(super) rows_down: u64,
    /// Requests that had to be repeated.
    pub(super) retries: u64,
    /// How often each error ended a sync.
    pub(super) errors: BTreeMap<String, u64>,
    /// What devices hold: database, rows, sum of the first cells.
    pub(super) states: Vec<(usize, i64, i64)>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.latencies_ms.extend(other.latencies_ms);
        self.rows_up += other.rows_up;
        self.rows_down += other.rows_down;
        self.retries += other.retries;
        for (error, count) in other.errors {
            let room = self.errors.len() < ERROR_KINDS_MAX;
            *self.errors.entry(if room { error } else { "others".to_owned() }).or_default() += count;
        }
        self.states.extend(other.states);
    }

    fn sync(&mut self, device: &mut Device, pull: bool) -> u64 {
        let begun = Instant::now();
        let (round, outcome) = device.sync(pull);
        self.latencies_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        self.rows_up += round.totals.rows_sent;
        self.rows_down += round.totals.rows_received;
        // A request that is refused with a remedy, as the first one of a schema, was answered as well; what is repeated
        // because of a failure is what the session counts.
        self.retries += round.attempts.saturating_sub(round.totals.turns);
        if let Err(error) = outcome {
            *self.errors.entry(format!("{error:#}")).or_default() += 1;
        }
        round.totals.rows_received
    }
}

/// One thread and its end of the channel.
struct Crew {
    orders: Sender<Order>,
    tallies: Receiver<Result<Tally>>,
}

/// What the process does.
pub(super) fn main(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task)?;
    thread::scope(|scope| {
        let crews: Vec<_> = (0..task.threads)
            .map(|thread| {
                let ((orders, ordered), (told, tallies)) = (channel(), channel());
                let task = &task;
                scope.spawn(move || crew(task, thread, &ordered, &told));
                Crew { orders, tallies }
            })
            .collect();
        report(&gather(&crews)?)?;
        while let Some(order) = next_order()? {
            crews.iter().try_for_each(|crew| crew.orders.send(order)).context("a thread has ended")?;
            report(&gather(&crews)?)?;
        }
        // The channels close, and the threads end.
        Ok(())
    })
}

fn gather(crews: &[Crew]) -> Result<Tally> {
    let mut sum = Tally::default();
    for crew in crews {
        sum.add(crew.tallies.recv().context("a thread has ended")??);
    }
    Ok(sum)
}

fn crew(task: &Task, thread: usize, orders: &Receiver<Order>, told: &Sender<Result<Tally>>) {
    let numbers = task.devices.clone().skip(thread).step_by(task.threads);
    let mut devices = Vec::new();
    // Whoever does not listen any more has failed already.
    let tell = |tally: Result<Tally>| told.send(tally).is_ok();
    let made = numbers.map(|number| make(task, number)).collect::<Result<Vec<_>>>();
    let opened = made.map(|made| {
        devices = made;
        let mut tally = Tally::default();
        for (_, device) in &mut devices {
            tally.sync(device, task.pull);
        }
        tally
    });
    if !tell(opened) {
        return;
    }
    for order in orders {
        let done = match order {
            Order::Rounds(rounds) => run(task, &mut devices, rounds),
            Order::Settle => settle(task, &mut devices),
        };
        if !tell(done) {
            return;
        }
    }
}

/// A device with the number of its database.
fn make(task: &Task, number: usize) -> Result<(usize, Device)> {
    let database = number % task.connections.len();
    let rows = task.rows_per_device;
    let device = Device::create(
        &task.folder.join(format!("device{number}.db")),
        &task.connections[database],
        &task.key,
        shape(task.devices_total * rows),
        number * rows..(number + 1) * rows,
    );
    Ok((database, device.with_context(|| format!("device {number}"))?))
}

fn run(task: &Task, devices: &mut [(usize, Device)], rounds: usize) -> Result<Tally> {
    let mut tally = Tally::default();
    for _ in 0..rounds {
        for (_, device) in devices.iter_mut() {
            device.change(task.whole_rows)?;
            tally.sync(device, task.pull);
        }
    }
    Ok(tally)
}

fn settle(task: &Task, devices: &mut [(usize, Device)]) -> Result<Tally> {
    let mut tally = Tally::default();
    for (database, device) in devices {
        let mut turns = 0;
        while tally.sync(device, task.pull) > 0 {
            turns += 1;
            if turns > SETTLE_MAX {
                bail!("a device goes on receiving although nobody writes");
            }
        }
        let (rows, sum) = device.state()?;
        tally.states.push((*database, rows, sum));
    }
    Ok(tally)
}
