//! An app in a process of its own: a connection to a file, with the loadable extension that users get.

use super::child::{Child, next_order, report, until};
use super::device::shape;
use super::usage::Usage;
use super::{Bench, Served};
use crate::data::{Rows, Shape};
use crate::database::Database;
use crate::writes::BATCH;
use anyhow::{Context, Result, bail};
use cloudsync_sqlite_ffi::Value;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kind of child.
pub(super) const KIND: &str = "app";
/// How often an app looks whether a row has come.
const LOOK: Duration = Duration::from_micros(250);
/// How long it looks.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// How often automatic sync asks the server when nothing tells it to: more seldom than any change here takes.
const INTERVAL_MS: i64 = 600_000;

#[derive(Debug, Serialize, Deserialize)]
struct Task {
    library: PathBuf,
    file: PathBuf,
    connection: String,
    key: String,
}

/// What the app does next.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Order {
    /// Switches automatic sync on, and waits until the server's events are listened to.
    Auto,
    /// Inserts the row of this number, in a transaction of its own.
    Write(usize),
    /// Waits for the row of this number.
    Await(usize),
    /// Inserts rows up to this number.
    Fill(usize),
    /// Syncs once, and has so many rows then.
    Sync(usize),
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Done {
    /// When it was done, by the clock that all processes of the machine share.
    pub(super) at_ns: u64,
    /// How long it took.
    pub(super) seconds: f64,
    /// Most bytes of memory until now.
    pub(super) peak: u64,
}

/// Starts an app on a file of its own; the table is there and syncs.
pub(super) fn start(bench: &Bench<'_>, server: &Served, name: &str) -> Result<Child> {
    let task = Task {
        library: bench.library.to_owned(),
        file: server.devices().join(format!("{name}.db")),
        connection: server.connection(0),
        key: server.key.clone(),
    };
    let mut child = Child::start(KIND, &task)?;
    child.hear::<Done>()?;
    Ok(child)
}

/// Gives one order and waits for it.
pub(super) fn order(app: &mut Child, order: Order) -> Result<Done> {
    app.order(&order)?;
    app.hear()
}

/// Nanoseconds of a clock that all processes of the machine share.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What the process does.
pub(super) fn main(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task)?;
    let database = open(&task)?;
    report(&Done { at_ns: now_ns(), seconds: 0.0, peak: 0 })?;
    while let Some(order) = next_order()? {
        let begun = Instant::now();
        carry_out(&database, order).with_context(|| format!("{order:?}"))?;
        let (at_ns, seconds) = (now_ns(), begun.elapsed().as_secs_f64());
        report(&Done { at_ns, seconds, peak: Usage::of(std::process::id())?.peak })?;
    }
    Ok(())
}

fn open(task: &Task) -> Result<Database> {
    let database = Database::open(&task.file, false)?;
    load(&database, &task.library)?;
    let owner = database.owner();
    owner.busy_timeout(Duration::from_secs(10))?;
    database.execute(&table().create_sql())?;
    owner.query_row("SELECT cloudsync_init('t')", [], |_| Ok(()))?;
    owner.query_row("SELECT cloudsync_network_init(?1)", [&task.connection], |_| Ok(()))?;
    owner.query_row("SELECT cloudsync_network_set_apikey(?1)", [&task.key], |_| Ok(()))?;
    Ok(database)
}

#[allow(unsafe_code)]
fn load(database: &Database, library: &Path) -> Result<()> {
    let owner = database.owner();
    // SAFETY: the library is the one that was built for this run.
    unsafe {
        let _allowed = rusqlite::LoadExtensionGuard::new(owner)?;
        owner
            .load_extension(library, None::<&str>)
            .with_context(|| format!("cannot load {}", library.display()))
    }
}

/// The table, whatever number of rows it gets.
fn table() -> Shape {
    shape(0)
}

fn carry_out(database: &Database, order: Order) -> Result<()> {
    let owner = database.owner();
    match order {
        Order::Auto => {
            owner.query_row("SELECT cloudsync_network_auto(?1)", [INTERVAL_MS], |_| Ok(()))?;
            until("listening", Duration::from_millis(20), LOOK_MAX, || {
                let text: String =
                    owner.query_row("SELECT cloudsync_network_status()", [], |row| row.get(0))?;
                let status: Json = serde_json::from_str(&text)?;
                Ok((status["auto"]["state"] == "listening").then_some(()))
            })
        }
        Order::Write(number) => fill(database, number..number + 1),
        Order::Await(number) => {
            let row = Rows::part(table(), number..number + 1, 0);
            let mut key: Vec<Value<'_>> = Vec::new();
            row.fill_key(0, &mut key);
            // language=SQLite
            let mut select = database.prepare("SELECT 1 FROM t WHERE id = ?1")?;
            until("a row of another device", LOOK, LOOK_MAX, || {
                select.query_row(&key, |_| Ok::<_, anyhow::Error>(()))
            })
        }
        Order::Fill(rows) => fill(database, 0..rows),
        Order::Sync(rows) => {
            owner.query_row("SELECT cloudsync_network_sync()", [], |_| Ok(()))?;
            let held: i64 = owner.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
            if held != rows as i64 { bail!("it has {held} rows, and should have {rows}") } else { Ok(()) }
        }
    }
}

/// Inserts rows, all in one transaction.
fn fill(database: &Database, rows: std::ops::Range<usize>) -> Result<()> {
    database.in_transaction(|| {
        rows.clone().step_by(BATCH).try_for_each(|first| {
            let rows = Rows::part(table(), first..rows.end.min(first + BATCH), 0);
            database.run_with_rows(&table().insert_sql(), &rows)
        })
    })
}
