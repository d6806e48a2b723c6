//! A bench of devices: databases in memory or in files, each with a replica, whose changes travel as payloads.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::missing_transmute_annotations)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Once;

use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{Clock, RowClock};
use cloudsync_replica::{Environment, Replica, Result};
use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
use cloudsync_sqlite_ffi::{Api, Connection, capture_api, captured_api};
use rusqlite::ffi;

/// A time beyond the real one, in milliseconds: notes of SQLite's own clock are never ahead of it.
pub(crate) const NOW: u64 = 2_000_000_000_000;

type EntryPoint =
    unsafe extern "C" fn(*mut ffi::sqlite3, *mut *mut c_char, *const ffi::sqlite3_api_routines) -> c_int;

fn api() -> Api {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        let entry: unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const Sqlite3ApiRoutines) -> c_int =
            capture_api;
        // SAFETY: a valid entry point. Versions of rusqlite declare its type differently, hence the inferred one.
        let rc = unsafe { ffi::sqlite3_auto_extension(Some(std::mem::transmute(entry))) };
        assert_eq!(rc, ffi::SQLITE_OK);
        rusqlite::Connection::open_in_memory().unwrap();
    });
    captured_api().unwrap()
}

/// Time, randomness and waiting under the test's control.
pub(crate) struct World {
    pub(crate) now: Cell<u64>,
    seed: Cell<u64>,
    pub(crate) pauses: Cell<u64>,
    /// What the file system says of the file.
    pub(crate) identity: Cell<Option<u64>>,
    /// Runs at every pause, for example to let another connection go.
    pub(crate) at_pause: RefCell<Option<Box<dyn FnMut()>>>,
}

impl Environment for World {
    fn now_ms(&self) -> u64 {
        self.now.get()
    }

    fn random(&self, buffer: &mut [u8]) {
        for byte in buffer {
            let seed = self
                .seed
                .get()
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.seed.set(seed);
            *byte = (seed >> 56) as u8;
        }
    }

    fn pause(&self, _pause_ms: u64) {
        self.pauses.set(self.pauses.get() + 1);
        if let Some(act) = self.at_pause.borrow_mut().as_mut() {
            act();
        }
    }

    fn file_identity(&self, _path: &str) -> Option<u64> {
        self.identity.get()
    }
}

/// One database that syncs.
pub(crate) struct Device {
    pub(crate) replica: Replica,
    pub(crate) world: Rc<World>,
    // Closed last.
    pub(crate) sql: rusqlite::Connection,
}

impl Device {
    pub(crate) fn on(sql: rusqlite::Connection, seed: u64) -> Self {
        let api = api();
        sql.busy_timeout(std::time::Duration::ZERO).unwrap();
        // Like most hosts: rusqlite alone switches them on.
        sql.pragma_update(None, "foreign_keys", false).unwrap();
        // SAFETY: open, of the only library in the process, and kept open by the device.
        let connection = unsafe { Connection::from_raw(sql.handle().cast(), api) }.unwrap();
        let world = Rc::new(World {
            now: Cell::new(NOW),
            seed: Cell::new(seed),
            pauses: Cell::new(0),
            identity: Cell::new(None),
            at_pause: RefCell::new(None),
        });
        let replica = Replica::open(connection, Rc::clone(&world) as Rc<dyn Environment>).unwrap();
        Self { replica, world, sql }
    }

    /// In memory, without tables.
    pub(crate) fn empty(seed: u64) -> Self {
        Self::on(rusqlite::Connection::open_in_memory().unwrap(), seed)
    }

    /// In memory, with these tables, all of which sync.
    pub(crate) fn new(seed: u64, schema: &str) -> Self {
        let mut device = Self::empty(seed);
        device.run(schema);
        device.init_all();
        device
    }

    pub(crate) fn open(path: &Path, seed: u64) -> Self {
        Self::on(rusqlite::Connection::open(path).unwrap(), seed)
    }

    /// Makes every table sync that has a primary key.
    pub(crate) fn init_all(&mut self) {
        self.init_all_as("cls");
    }

    /// The same, by this algorithm.
    pub(crate) fn init_all_as(&mut self, algorithm: &str) {
        let names: Vec<String> = self.column(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'cloudsync%' \
             AND sql LIKE '%primary key%' ORDER BY name",
        );
        for name in names {
            if let Err(error) = self.replica.init(&name, algorithm, 1) {
                assert!(error.to_string().contains("virtual table"), "{error}");
            }
        }
    }

    pub(crate) fn run(&self, sql: &str) {
        if let Err(error) = self.sql.execute_batch(sql) {
            panic!("{sql}: {error}");
        }
    }

    /// Runs SQL without its triggers noticing.
    pub(crate) fn run_unseen(&self, sql: &str) {
        let off = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
        assert!(!self.sql.set_db_config(off, false).unwrap());
        self.run(sql);
        assert!(self.sql.set_db_config(off, true).unwrap());
    }

    /// Runs SQL and dates its notes.
    pub(crate) fn run_at(&self, time: u64, sql: &str) {
        let before: i64 = self.get("SELECT coalesce(max(rowid), 0) FROM cloudsync_log");
        self.run(sql);
        self.sql.execute("UPDATE cloudsync_log SET at = ?1 WHERE rowid > ?2", (time as i64, before)).unwrap();
    }

    pub(crate) fn get<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        match self.sql.query_row(sql, [], |row| row.get(0)) {
            Ok(value) => value,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    pub(crate) fn column<T: rusqlite::types::FromSql>(&self, sql: &str) -> Vec<T> {
        let mut statement = self.sql.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(|value| value.unwrap()).collect()
    }

    /// The rows of a query, each as its values quoted and joined by commas.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.sql.prepare(sql).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            Ok((0..columns).map(|i| shown(row.get_ref(i).unwrap())).collect::<Vec<_>>().join(","))
        };
        statement.query_map([], row).unwrap().map(|row| row.unwrap()).collect()
    }

    pub(crate) fn encode(&mut self) -> Vec<u8> {
        self.replica.payload_encode(0, None).unwrap()
    }

    pub(crate) fn apply(&mut self, payload: &[u8]) -> Result<u64> {
        self.replica.payload_apply(payload)
    }

    pub(crate) fn quarantine(&self) -> i64 {
        self.get("SELECT count(*) FROM cloudsync_quarantine")
    }

    /// Every row of a table, byte for byte, in a form that can be compared.
    pub(crate) fn dump(&self, table: &str) -> Vec<String> {
        let quoted = table.replace('"', "\"\"");
        let mut rows = self.rows(&format!("SELECT * FROM \"{quoted}\""));
        rows.sort();
        rows
    }

    /// The clocks of a table: by packed key, with sites by their ids and columns by their names.
    pub(crate) fn clocks(&mut self, table: &str) -> BTreeMap<String, String> {
        self.replica.fold().unwrap();
        let sql = "SELECT id FROM cloudsync_tables WHERE name = ?1";
        let id: i64 = self.sql.query_row(sql, [table], |row| row.get(0)).unwrap();
        let sites: Vec<Vec<u8>> = self.column("SELECT site_id FROM cloudsync_sites ORDER BY ordinal");
        let names: Vec<String> =
            self.column(&format!("SELECT name FROM cloudsync_columns WHERE table_id = {id} ORDER BY number"));
        let mut statement = self.sql.prepare("SELECT pk, clock FROM cloudsync_clocks").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut clocks = BTreeMap::new();
        for row in rows {
            let (pk, clock): (Vec<u8>, Vec<u8>) = row.unwrap();
            let mut reader = Reader::new(&pk);
            if reader.varint().unwrap() as i64 != id {
                continue;
            }
            let key = reader.take(reader.remaining()).unwrap();
            let clock = RowClock::decode(&clock).unwrap();
            let one = |clock: Clock| format!("{}@{:02x?}", clock.time.0, &sites[clock.site.0 as usize][..4]);
            let mut cells: Vec<_> =
                clock.cells().map(|(c, at)| format!("{} {}", names[usize::from(c.0)], one(at))).collect();
            cells.sort();
            let marks = clock.marks.iter().flat_map(|marks| marks.clocks()).map(one).collect::<Vec<_>>();
            let text = format!(
                "life {} common {}: {} marks {marks:?}",
                clock.life,
                one(clock.common),
                cells.join(", ")
            );
            clocks.insert(format!("{key:02x?}"), text);
        }
        clocks
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.get::<String>("PRAGMA integrity_check"), "ok");
    }
}

impl Drop for Device {
    /// Whatever a test did, what is stored beside the app's tables can be read.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: the connection of the device, which is still open.
        let connection = unsafe { Connection::from_raw(self.sql.handle().cast(), api()) }.unwrap();
        if cloudsync_replica::has_internals(&connection).unwrap_or(false) {
            let faults = cloudsync_replica::internal_faults(&connection, 10_000).unwrap_or_default();
            assert!(faults.is_empty(), "the doctor would say of a device of this test: {faults:?}");
        }
    }
}

fn shown(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(integer) => integer.to_string(),
        // Debug tells 1.0 from 1, and -0.0 from 0.0.
        ValueRef::Real(real) => format!("{real:?}"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => format!("'{}'", text.escape_debug()),
            Err(_) => format!("text {text:02x?}"),
        },
        ValueRef::Blob(blob) => format!("x{blob:02x?}"),
    }
}

/// Sends everything that `from` has to `to`; gives the number of rows that changed.
pub(crate) fn sync_by_payload(from: &mut Device, to: &mut Device) -> u64 {
    let payload = from.encode();
    to.apply(&payload).unwrap()
}

/// Both ways.
pub(crate) fn exchange(a: &mut Device, b: &mut Device) {
    sync_by_payload(a, b);
    sync_by_payload(b, a);
}

/// Equal in every byte of the data and in all clocks.
#[track_caller]
pub(crate) fn assert_same(a: &mut Device, b: &mut Device, table: &str) {
    assert_eq!(a.dump(table), b.dump(table), "data of {table}");
    assert_eq!(a.clocks(table), b.clocks(table), "clocks of {table}");
    let waiting = "SELECT tbl, reason FROM cloudsync_quarantine";
    assert_eq!(a.rows(waiting).as_slice(), b.rows(waiting).as_slice());
    assert!(a.rows(waiting).is_empty(), "{:?}", a.rows(waiting));
}

/// Two devices with the same tables, all of which sync.
pub(crate) fn pair(schema: &str) -> (Device, Device) {
    (Device::new(1, schema), Device::new(2, schema))
}

/// A folder that goes away with the value.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
