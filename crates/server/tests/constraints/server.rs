//! A server with tables of its owner's, and devices that sync with it.
#![allow(dead_code)]

use crate::bench::Device;
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_server::store::sqlite::{SqliteStore, enable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use std::path::PathBuf;

pub(crate) const BOTH: Goal = Goal { push: true, pull: true };
pub(crate) const KEY: Asker = Asker { rights: Rights { read: true, write: true, schema: false }, user: None };
const TURNS_MAX: usize = 1_000;

/// A server whose tables were made by its owner.
pub(crate) struct Server {
    pub(crate) store: SqliteStore,
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn new(schema: &str) -> Self {
        Self::with(schema, "cls")
    }

    /// Its tables merge by this algorithm.
    pub(crate) fn with(schema: &str, algorithm: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), schema, algorithm)
    }

    /// Its file is in memory where the system has a folder for that, for tests that move much.
    #[allow(dead_code)]
    pub(crate) fn in_memory(schema: &str) -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(), schema, "cls")
    }

    fn at(folder: tempfile::TempDir, schema: &str, algorithm: &str) -> Self {
        let path = folder.path().join("store.db");
        let shell = rusqlite::Connection::open(&path).unwrap();
        shell.execute_batch(schema).unwrap();
        let sql = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid";
        let names: Vec<String> = shell
            .prepare(sql)
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for name in names {
            enable_table(&path, &name, algorithm).unwrap();
        }
        Self { store: SqliteStore::open(&path).unwrap(), path, _folder: folder }
    }

    pub(crate) fn run(&self, sql: &str) {
        rusqlite::Connection::open(&self.path).unwrap().execute_batch(sql).unwrap();
    }

    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let device = Device::on(rusqlite::Connection::open(&self.path).unwrap(), 0);
        let mut rows = device.rows(sql);
        rows.sort();
        rows
    }

    /// Another connection to its file.
    pub(crate) fn shell(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).unwrap()
    }

    /// The server is killed and started again.
    pub(crate) fn restart(&mut self) {
        self.store = SqliteStore::open(&self.path).unwrap();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.rows("SELECT * FROM cloudsync_quarantine").len()
    }
}

/// What a sync brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Synced {
    pub(crate) turns: usize,
    pub(crate) received: u64,
    pub(crate) rejected: u64,
}

/// Syncs until nothing is left to do; the last `lost` answers of it do not arrive the first time.
pub(crate) fn sync(device: &mut Device, server: &Server) -> Synced {
    sync_losing(device, server, &mut |_| false)
}

pub(crate) fn sync_losing(
    device: &mut Device,
    server: &Server,
    loses: &mut dyn FnMut(usize) -> bool,
) -> Synced {
    sync_as(device, server, &KEY, BOTH, loses)
}

/// The same with another key or token, and in one direction only.
pub(crate) fn sync_as(
    device: &mut Device,
    server: &Server,
    asker: &Asker,
    goal: Goal,
    loses: &mut dyn FnMut(usize) -> bool,
) -> Synced {
    let (mut synced, mut schema) = (Synced::default(), false);
    for turn in 0..TURNS_MAX {
        let request = device.replica.prepare(goal, schema).unwrap();
        let request = Request::decode(&request).unwrap();
        let answer = server.store.turn(&request, asker, device.world.now.get()).unwrap();
        if loses(turn) {
            continue;
        }
        match Answer::decode(&answer).unwrap() {
            Answer::Turn(turn) => {
                let absorbed = device.replica.absorb(&turn).unwrap();
                synced.turns += 1;
                synced.received += absorbed.rows_received;
                synced.rejected += absorbed.rows_rejected;
                if !absorbed.more {
                    return synced;
                }
                schema = false;
            }
            Answer::Refusal(refusal) => {
                schema = refusal.reason == Reason::NeedSchema;
                if !schema {
                    device.replica.mend(&refusal).unwrap();
                }
            }
        }
    }
    panic!("the sync does not come to an end");
}

/// All hold the same rows, and nothing waits or is unsent anywhere.
#[track_caller]
pub(crate) fn assert_settled(server: &Server, devices: &mut [&mut Device], tables: &[&str]) {
    for _ in 0..2 {
        for device in &mut *devices {
            sync(device, server);
        }
    }
    for device in devices {
        assert!(!device.replica.has_unsent().unwrap());
        assert_eq!(
            device.quarantine(),
            0,
            "{:?}",
            device.rows("SELECT tbl, reason FROM cloudsync_quarantine")
        );
        for table in tables {
            assert_eq!(device.dump(table), server.rows(&format!("SELECT * FROM {table}")), "{table}");
        }
        device.check();
    }
    assert_eq!(server.waiting(), 0);
}
