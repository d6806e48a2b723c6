//! What row-level security costs: `cargo xtask bench rls` runs it, `docs/bench.md` explains it.
//!
//! Server and devices are in this one process, without HTTP between them, so that only what row-level security does is
//! measured. Exits with 1, after the table, when a promised figure is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, dead_code)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;

use bench::Device;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_server::auth::User;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::{SqliteStore, change_policies, enable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BOTH: Goal = Goal { push: true, pull: true };
// language=SQLite
const SCHEMA: &str = "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, user TEXT);
    CREATE INDEX members_of ON members(user, project);
    CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, title TEXT);
    CREATE INDEX tasks_of ON tasks(project)";
const MEMBERS: &str =
    "EXISTS (SELECT 1 FROM members AS m WHERE m.project = tasks.project AND m.user = auth_userid())";
struct Server {
    store: SqliteStore,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With so many tasks, spread over projects of which each has so many.
    fn new(tasks: usize, per_project: usize, policies: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let shell = rusqlite::Connection::open(&path).unwrap();
        shell.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        shell.execute_batch(SCHEMA).unwrap();
        let projects = (tasks / per_project).max(1);
        shell
            .execute_batch(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {tasks})
                 INSERT INTO tasks SELECT printf('018bcfe5-6800-7005-%04x-%012x', i / 65536, i), 'p' || (i % {projects}),
                     'title of the task ' || i FROM n"
            ))
            .unwrap();
        for table in ["members", "tasks"] {
            enable_table(&path, table, "cls").unwrap();
        }
        if policies {
            let set = |table, verb, text| {
                let wanted = Change { table, verb, text: Some(text), by: "bench", now_ms: 1 };
                change_policies(&path, &[wanted]).unwrap();
            };
            for verb in [Verb::Select, Verb::Insert] {
                set("tasks", verb, MEMBERS);
                set("members", verb, "user = auth_userid()");
            }
            set("tasks", Verb::Update, "OLD.id = NEW.id");
        }
        let store = SqliteStore::open(&path).unwrap();
        store.refresh().unwrap();
        Self { store, path, _folder: folder }
    }

    fn shell(&self) -> rusqlite::Connection {
        let shell = rusqlite::Connection::open(&self.path).unwrap();
        shell.busy_timeout(Duration::from_secs(10)).unwrap();
        shell
    }

    /// Writes as the owner's backend does, and has it noticed.
    fn run(&self, sql: &str) {
        self.shell().execute_batch(sql).unwrap();
        self.store.refresh().unwrap();
    }
}

fn user(name: &str) -> Asker {
    let user = Some(Arc::new(User { id: name.to_owned(), claims: serde_json::Map::new() }));
    Asker { rights: Rights { read: true, write: true, schema: false }, user }
}

fn key() -> Asker {
    Asker { rights: Rights { read: true, write: true, schema: false }, user: None }
}

/// What a sync took, by the clock and in CPU time, until the first rows were at the device and until all were in its file.
struct Synced {
    first: (Duration, Duration),
    all: (Duration, Duration),
    /// Rows that came.
    rows: u64,
}

fn sync(device: &mut Device, server: &Server, asker: &Asker) -> Synced {
    let (begun, begun_cpu) = (Instant::now(), cpu());
    let spent = || (begun.elapsed(), cpu().saturating_sub(begun_cpu));
    let (mut first, mut rows, mut schema) = (None, 0, false);
    loop {
        let bytes = device.replica.prepare(BOTH, schema).unwrap();
        let request = Request::decode(&bytes).unwrap();
        let answer = server.store.turn(&request, asker, device.world.now.get()).unwrap();
        match Answer::decode(&answer).unwrap() {
            Answer::Turn(turn) => {
                if !turn.payload.is_empty() {
                    first.get_or_insert_with(spent);
                }
                let absorbed = device.replica.absorb(&turn).unwrap();
                rows += absorbed.rows_received;
                schema = false;
                if !absorbed.more {
                    return Synced { first: first.unwrap_or_default(), all: spent(), rows };
                }
            }
            Answer::Refusal(refusal) => {
                schema = refusal.reason == Reason::NeedSchema;
                if !schema {
                    device.replica.mend(&refusal).unwrap();
                }
            }
        }
    }
}

fn device(folder: &Path, seed: u64) -> Device {
    let mut device = Device::open(&folder.join(format!("{seed}.db")), seed);
    device.run("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
    device.run(SCHEMA);
    device.init_all();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    device.world.now.set(now.as_millis() as u64);
    device
}

/// CPU time of this process, where it is known.
#[cfg(unix)]
fn cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

#[cfg(not(unix))]
fn cpu() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The figures, as a table that reads well in a terminal and in Markdown.
#[derive(Default)]
struct Report {
    rows: Vec<[String; 4]>,
    missed: Vec<String>,
    /// Counts are too small for any target.
    is_smoke: bool,
}

impl Report {
    fn add(&mut self, figure: &str, set_up: &str, (found, unit): (f64, &str), target: Option<f64>) {
        let text = |value: f64| format!("{value:.2} {unit}");
        let target = target.filter(|_| !self.is_smoke);
        let is_missed = target.is_some_and(|target| found.is_nan() || found > target);
        let mut bound = target.map_or_else(String::new, |target| format!("<= {}", text(target)));
        if is_missed {
            bound += " MISSED";
            self.missed.push(format!("missed: {figure} ({set_up}): {}, and should be {bound}", text(found)));
        }
        eprintln!("{figure} ({set_up}): {} {bound}", text(found));
        self.rows.push([figure.to_owned(), set_up.to_owned(), text(found), bound]);
    }

    fn print(&self) {
        let titles = ["figure", "set-up", "value", "target"].map(str::to_owned);
        let all = || std::iter::once(&titles).chain(&self.rows);
        let width = |at: usize| all().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3].map(width);
        for (number, row) in all().enumerate() {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                println!("| {} |", widths.map(|width| "-".repeat(width)).join(" | "));
            }
        }
        self.missed.iter().for_each(|line| println!("{line}"));
    }
}

type Step = fn(&mut Report, &Counts);

/// Counts of a run.
struct Counts {
    rows: usize,
    /// Rows that one membership grants.
    granted: usize,
    users: u64,
    /// Grants and evictions each.
    rounds: usize,
    syncs: usize,
    devices: u64,
    /// Rows in the table of those devices.
    shared: usize,
}

/// Grants and evictions by one membership row, and a change of one row.
fn grants(report: &mut Report, counts: &Counts) {
    let Counts { rows, granted, users, rounds, .. } = *counts;
    // Those who only listen come while the table is empty: the first sync of a user looks at every row.
    let server = Server::new(1, granted, true);
    let others: Vec<_> = (1..users)
        .map(|at| {
            let (mut other, name) = (device_in_memory(100 + at), format!("user {at}"));
            sync(&mut other, &server, &user(&name));
            let user = User { id: name, claims: serde_json::Map::new() };
            (site(&other), user)
        })
        .collect();
    let projects = (rows / granted).max(1);
    server.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT OR IGNORE INTO tasks SELECT printf('018bcfe5-6800-7005-%04x-%012x', i / 65536, i), 'p' || (i % {projects}),
             'title of the task ' || i FROM n"
    ));
    let folder = tempfile::tempdir().unwrap();
    let mut alice = device(folder.path(), 1);
    sync(&mut alice, &server, &user("alice"));
    let of = format!("{granted} of {rows} rows, median of {rounds}");
    let (mut for_one, mut for_others) = (Vec::new(), Vec::new());
    let acts = [
        ("granting", "INSERT INTO members VALUES('m', 'p0', 'alice')", granted),
        (
            "one row changes",
            "UPDATE tasks SET title = title || '.' WHERE id = (SELECT max(id) FROM tasks WHERE project = 'p0')",
            1,
        ),
        ("evicting", "DELETE FROM members", granted),
    ];
    let mut times: [[Vec<f64>; 4]; 3] = Default::default();
    for _ in 0..rounds {
        for (act, (what, sql, least)) in acts.into_iter().enumerate() {
            let told = server.store.feed().newest();
            let (begun, begun_cpu) = (Instant::now(), cpu());
            server.run(sql);
            let (noticed, noticed_cpu) = (begun.elapsed(), cpu().saturating_sub(begun_cpu));
            let Synced { first, all, rows } = sync(&mut alice, &server, &user("alice"));
            let alone = noticed_cpu + all.1;
            assert!(rows as usize >= least, "{what}: {rows}");
            // The same news for those who listen and are not concerned.
            let begun = cpu();
            let woken =
                others.iter().filter(|(site, user)| server.store.concerns(user, *site, told).unwrap());
            assert_eq!(woken.count(), 0, "{what}");
            let looks = cpu().saturating_sub(begun);
            if act != 1 {
                for_one.push(ms(alone));
                for_others.push(ms(looks));
            }
            for (list, time) in
                times[act].iter_mut().zip([noticed + first.0, noticed_cpu + first.1, noticed + all.0, looks])
            {
                list.push(ms(time));
            }
        }
    }
    for (act, [first, first_cpu, all, looks]) in times.into_iter().enumerate() {
        if act != 1 {
            let what = acts[act].0;
            report.add(&format!("{what}, first row at the device"), &of, (median(first), "ms"), Some(300.0));
            report.add(&format!("{what}, CPU until then"), &of, (median(first_cpu), "ms"), None);
            report.add(&format!("{what}, all in its file"), &of, (median(all), "ms"), Some(2_000.0));
        }
        let look = median(looks) * 1e3 / (users - 1) as f64;
        report.add("CPU to find that news are not for a listener", acts[act].0, (look, "us"), None);
    }
    let (one, others): (f64, f64) = (for_one.iter().sum(), for_others.iter().sum());
    let set_up = format!("{users} users, one is granted and loses {granted} of {rows} rows");
    let ratio = (one + others) / one;
    report.add("CPU with many listeners, to that for the one alone", &set_up, (ratio, "x"), Some(2.0));
    let spent = one / for_one.len() as f64;
    report.add("CPU for the one alone, server and device", "a grant or an eviction", (spent, "ms"), None);
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn site(device: &Device) -> SiteId {
    let site: Vec<u8> = device.get(
        "SELECT site_id FROM cloudsync_sites WHERE ordinal = (SELECT value FROM cloudsync_settings WHERE key = 'site')",
    );
    SiteId(site.try_into().unwrap())
}

fn device_in_memory(seed: u64) -> Device {
    let device = Device::new(seed, SCHEMA);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    device.world.now.set(now.as_millis() as u64);
    device
}

/// One changed cell goes up, and the answer is taken in: by turns with policies and without.
fn small_syncs(report: &mut Report, counts: &Counts) {
    let rows = counts.shared;
    let mut sides: Vec<_> = [(false, key()), (true, user("alice"))]
        .into_iter()
        .map(|(policies, asker)| {
            let server = Server::new(rows, 100, policies);
            server.run("INSERT INTO members VALUES('m', 'p1', 'alice')");
            let mut alice = device_in_memory(1);
            sync(&mut alice, &server, &asker);
            (server, alice, asker, Vec::new())
        })
        .collect();
    for round in 0..counts.syncs {
        for (server, alice, asker, times) in &mut sides {
            alice.run(&format!("UPDATE tasks SET title = 'title {round}' WHERE id = (SELECT id FROM tasks WHERE project = 'p1' LIMIT 1)"));
            let begun = cpu();
            sync(alice, server, asker);
            times.push(ms(cpu().saturating_sub(begun)));
        }
    }
    let medians: Vec<_> = sides.into_iter().map(|(.., times)| median(times)).collect();
    let set_up = format!("median of {}, {rows} rows", counts.syncs);
    report.add("CPU of a small sync by key", &set_up, (medians[0], "ms"), None);
    let ratio = medians[1] / medians[0];
    report.add("CPU of a small sync under policies, to that by key", &set_up, (ratio, "x"), Some(1.5));
}

/// What the ledger takes, of devices that hold some projects each, small and large ones, and rows of their own that are
/// scattered over the table.
fn ledger(report: &mut Report, counts: &Counts) {
    let (rows, devices) = (counts.shared, counts.devices);
    let server = Server::new(1, rows, true);
    let change = |table, text| {
        let wanted = Change { table, verb: Verb::Select, text: Some(text), by: "bench", now_ms: 2 };
        change_policies(&server.path, &[wanted]).unwrap();
    };
    change("tasks", &format!("{MEMBERS} OR title = 'of ' || auth_userid()"));
    // A multiplicative hash: projects and owners lie scattered, as rows come in.
    let (projects, owners) = ((rows / 500).max(2), devices * 2);
    server.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}),
         r(i, u) AS (SELECT i, ((i * 2654435761) % 4294967296) / 4294967296.0 FROM n)
         INSERT OR IGNORE INTO tasks SELECT printf('018bcfe5-6800-7005-%04x-%012x', i / 65536, i),
             'p' || CAST(u * u * {projects} AS INTEGER), 'of user ' || (i * 7919 % {owners}) FROM r;"
    ));
    let mut sql = String::new();
    for at in 0..devices {
        for part in 0..1 + at % 4 {
            let project = (at * 7 + part * 31) % projects as u64;
            sql += &format!("INSERT INTO members VALUES('{at}-{part}', 'p{project}', 'user {at}');");
        }
    }
    server.run(&sql);
    // On both of two cores: each looks at all rows.
    let half = |first| {
        let server = &server;
        move || {
            (first..devices).step_by(2).fold(0, |held, at| {
                let (mut device, asker) = (device_in_memory(1_000 + at), user(&format!("user {at}")));
                sync(&mut device, server, &asker);
                let rows = "SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM members)";
                held + device.get::<i64>(rows)
            })
        }
    };
    let held = std::thread::scope(|scope| {
        let halves = [0, 1].map(|first| scope.spawn(half(first)));
        halves.map(|half| half.join().unwrap()).iter().sum::<i64>()
    });
    let pages = "SELECT sum(pgsize) FROM dbstat WHERE name IN ('cloudsync_server_ledger', 'cloudsync_server_downloads')";
    let bytes: i64 = server.shell().query_row(pages, [], |row| row.get(0)).unwrap();
    let set_up = format!("{devices} devices, {} rows each of {rows}", held / devices as i64);
    report.add(
        "ledger, for each row that a device holds",
        &set_up,
        (bytes as f64 / held as f64, "bytes"),
        Some(6.0),
    );
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| args.iter().any(|arg| arg == wanted);
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    let steps: [(&str, Step); 3] = [("syncs", small_syncs), ("grants", grants), ("ledger", ledger)];
    let is_known =
        |arg: &String| ["--quick", "--smoke", "--only"].contains(&arg.as_str()) || Some(arg) == only;
    let is_step = |name: &String| steps.iter().any(|(step, _)| step == name);
    if has("--help") || !args.iter().all(is_known) || has("--only") != only.is_some_and(is_step) {
        println!("usage: cargo xtask bench rls [--quick | --smoke] [--only syncs | grants | ledger]");
        return if has("--help") { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let full = Counts {
        rows: 1_000_000,
        granted: 10_000,
        users: 1_000,
        rounds: 5,
        syncs: 500,
        devices: 1_000,
        shared: 100_000,
    };
    let counts = if has("--smoke") {
        Counts { rows: 200, granted: 20, users: 5, rounds: 1, syncs: 3, devices: 4, shared: 500 }
    } else if has("--quick") {
        Counts { rows: 100_000, rounds: 3, syncs: 200, devices: 100, ..full }
    } else {
        full
    };
    let mut report = Report { is_smoke: has("--smoke"), ..Report::default() };
    for (_, act) in steps.iter().filter(|(name, _)| only.is_none_or(|only| only == name)) {
        act(&mut report, &counts);
    }
    report.print();
    if report.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
