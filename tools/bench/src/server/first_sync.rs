//! The first sync of a large table to a new device, over loopback.

use super::app::{self, Order};
use super::device::COLUMNS;
use super::figure::{Figures, Limit, Unit};
use super::{Bench, Served};
use anyhow::Result;

/// The stated number of rows, and the seconds that a new device may take to have them.
const STATED: (f64, f64) = (1_000_000.0, 15.0);

pub(super) fn run(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let rows = bench.extent.pick([1_000, 100_000, 1_000_000, 1_000_000]);
    let server = Served::start(bench.server, bench.custody, 1)?;
    let set_up = format!("{rows} rows x {COLUMNS} columns");
    let mut sender = app::start(bench, &server, "sender")?;
    app::order(&mut sender, Order::Fill(rows))?;
    let sent = app::order(&mut sender, Order::Sync(rows))?;
    drop(sender);
    let (before, taken_in) = (server.usage()?, "while it took the rows in");
    figures.add(
        "server memory, peak",
        format!("{taken_in}, {set_up}"),
        (before.peak as f64, Unit::Bytes),
        None,
    );
    let mut receiver = app::start(bench, &server, "receiver")?;
    let received = app::order(&mut receiver, Order::Sync(rows))?;
    let after = server.usage()?;
    // Of fewer rows in proportion.
    let limit = bench.judged(Limit::Max(STATED.1 * rows as f64 / STATED.0));
    figures.add("first sync, receiving", &set_up, (received.seconds, Unit::Seconds), limit);
    figures.add("first sync, sending", &set_up, (sent.seconds, Unit::Seconds), None);
    let server_s = after.cpu_s - before.cpu_s;
    figures.add(
        "first sync, CPU of the server",
        format!("to one device, {set_up}"),
        (server_s, Unit::Seconds),
        None,
    );
    figures.add("memory of the sender, peak", &set_up, (sent.peak as f64, Unit::Bytes), None);
    figures.add("memory of the receiver, peak", set_up, (received.peak as f64, Unit::Bytes), None);
    Ok(())
}
