//! What row-level security costs: `cargo xtask bench rls` runs it, `docs/bench.md` explains it.
//!
//! Server and devices are in this one process, without HTTP between them, so that only what row-level security does is
//! measured. Exits with 1 when a promised figure is missed.
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
/// Rows that one membership grants.
const GRANTED: usize = 10_000;

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

/// How long it took until the first rows were at the device, and all were in its file; and how many came.
fn sync(device: &mut Device, server: &Server, asker: &Asker) -> (Duration, Duration, u64) {
    let (begun, mut first, mut rows, mut schema) = (Instant::now(), None, 0, false);
    loop {
        let bytes = device.replica.prepare(BOTH, schema).unwrap();
        let request = Request::decode(&bytes).unwrap();
        let answer = server.store.turn(&request, asker, device.world.now.get()).unwrap();
        match Answer::decode(&answer).unwrap() {
            Answer::Turn(turn) => {
                if !turn.payload.is_empty() {
                    first.get_or_insert_with(|| begun.elapsed());
                }
                let absorbed = device.replica.absorb(&turn).unwrap();
                rows += absorbed.rows_received;
                schema = false;
                if !absorbed.more {
                    return (first.unwrap_or_default(), begun.elapsed(), rows);
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

struct Report {
    missed: bool,
}

impl Report {
    fn line(&mut self, what: &str, found: f64, target: f64, unit: &str) {
        let verdict = if found <= target { "" } else { "  MISSED" };
        self.missed |= found > target;
        println!("{what:<72} {found:>9.2} {unit:<6} at most {target}{verdict}");
    }
}

/// Grants and evictions by one membership row.
fn grants(report: &mut Report, rows: usize, folder: &Path) {
    // Those who only listen come while the table is empty: the first sync of a user looks at every row.
    let server = Server::new(1, GRANTED, true);
    let others: Vec<_> = (0..999)
        .map(|at| {
            let mut other = device_in_memory(100 + at);
            let name = format!("user {at}");
            sync(&mut other, &server, &user(&name));
            (other, name)
        })
        .collect();
    let projects = (rows / GRANTED).max(1);
    server.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT OR IGNORE INTO tasks SELECT printf('018bcfe5-6800-7005-%04x-%012x', i / 65536, i), 'p' || (i % {projects}),
             'title of the task ' || i FROM n"
    ));
    let mut alice = device(folder, 1);
    sync(&mut alice, &server, &user("alice"));
    let mut spent = Vec::new();
    for (what, sql) in
        [("granting", "INSERT INTO members VALUES('m', 'p1', 'alice')"), ("evicting", "DELETE FROM members")]
    {
        let told = server.store.feed().newest();
        let (begun, begun_cpu) = (Instant::now(), cpu());
        server.run(sql);
        let noticed = begun.elapsed();
        let (first, all, received) = sync(&mut alice, &server, &user("alice"));
        let alone = cpu().saturating_sub(begun_cpu);
        assert!(received as usize >= GRANTED, "{received}");
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        report.line(
            &format!("{what} {GRANTED} of {rows} rows: first row at the device"),
            ms(noticed + first),
            300.0,
            "ms",
        );
        report.line(
            &format!("{what} {GRANTED} of {rows} rows: all in its file"),
            ms(noticed + all),
            2_000.0,
            "ms",
        );
        // The same news for those who listen and are not concerned.
        let begun = cpu();
        let mut woken = 0;
        for (other, name) in &others {
            let user = User { id: name.clone(), claims: serde_json::Map::new() };
            woken += usize::from(server.store.concerns(&user, site(other), told).unwrap());
        }
        assert_eq!(woken, 0);
        spent.push((alone, cpu().saturating_sub(begun)));
    }
    let alone: Duration = spent.iter().map(|(alone, _)| *alone).sum();
    let others: Duration = spent.iter().map(|(_, others)| *others).sum();
    let ratio = (alone + others).as_secs_f64() / alone.as_secs_f64();
    report.line("CPU with 1,000 users connected and one concerned, to that for one", ratio, 2.0, "x");
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

/// One changed cell there, another one here, with policies and without.
fn small_syncs(report: &mut Report, rows: usize) {
    let mut medians = Vec::new();
    for policies in [false, true] {
        let server = Server::new(rows, 100, policies);
        server.run("INSERT INTO members VALUES('m', 'p1', 'alice')");
        let asker = if policies { user("alice") } else { key() };
        let mut alice = device_in_memory(1);
        sync(&mut alice, &server, &asker);
        let mut times = Vec::new();
        for round in 0..200 {
            alice.run(&format!("UPDATE tasks SET title = 'title {round}' WHERE id = (SELECT id FROM tasks WHERE project = 'p1' LIMIT 1)"));
            let begun = cpu();
            sync(&mut alice, &server, &asker);
            times.push(cpu().saturating_sub(begun));
        }
        medians.push(median(times).as_secs_f64());
    }
    report.line("CPU of a small sync under policies, to the same without", medians[1] / medians[0], 1.5, "x");
}

/// What the ledger takes.
fn ledger(report: &mut Report, rows: usize, devices: u64) {
    let server = Server::new(rows, 1_000, true);
    let projects = (rows / 1_000).max(1) as u64;
    let mut sql = String::new();
    for at in 0..devices {
        for part in 0..1 + at % 3 {
            sql += &format!(
                "INSERT INTO members VALUES('{at}-{part}', 'p{}', 'user {at}');",
                (at * 7 + part * 31) % projects
            );
        }
    }
    server.run(&sql);
    for at in 0..devices {
        let mut device = device_in_memory(1_000 + at);
        sync(&mut device, &server, &user(&format!("user {at}")));
        sync(&mut device, &server, &user(&format!("user {at}")));
    }
    // One more change makes what was sent sure.
    let shell = server.shell();
    let number = |sql: &str| shell.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as f64;
    let held =
        number("SELECT sum((SELECT count(*) FROM tasks WHERE tasks.project = m.project)) FROM members AS m");
    let bytes = number(
        "SELECT sum(pgsize) FROM dbstat WHERE name IN ('cloudsync_server_ledger', 'cloudsync_server_downloads')",
    );
    report.line(&format!("ledger of {devices} devices, per held row"), bytes / held, 6.0, "bytes");
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let (rows, devices) = if quick { (100_000, 100) } else { (1_000_000, 1_000) };
    let folder = tempfile::tempdir().unwrap();
    let mut report = Report { missed: false };
    small_syncs(&mut report, rows.min(100_000));
    grants(&mut report, rows, folder.path());
    ledger(&mut report, 100_000, devices);
    if report.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
