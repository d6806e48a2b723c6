use std::cell::RefCell;
use std::sync::Arc;

use cloudsync_protocol::message::{Answer, Request};
use cloudsync_server::auth::User;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::{SqliteStore, change_policies, enable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{device, host, input, memory, scratch};

/// What one request of at most 64 KiB may hold beside SQLite's own memory.
const HELD_BYTES_MAX: usize = 96 << 20;
/// Requests that one store takes before it is judged and another one takes its place.
const REQUESTS: u32 = 200;
/// When all of this happens.
pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

/// A store that has taken some requests.
struct Used {
    store: SqliteStore,
    folder: TempDir,
    requests: u32,
}

thread_local! {
    static USED: RefCell<Option<Used>> = const { RefCell::new(None) };
}

/// A store with the tables of the devices, and policies for users.
pub(crate) fn store(folder: &TempDir) -> SqliteStore {
    let path = folder.path().join("server.db");
    Connection::open(&path).unwrap().execute_batch(device::TABLES).unwrap();
    for (table, algorithm) in [("notes", "cls"), ("tags", "dws"), ("kept", "aws")] {
        enable_table(&path, table, algorithm).unwrap();
    }
    let text = Some("title <> 'secret' OR title IS NULL");
    let changes = Verb::ALL.map(|verb| Change { table: "notes", verb, text, by: "", now_ms: NOW_MS });
    change_policies(&path, &changes).unwrap();
    SqliteStore::open(&path).unwrap()
}

/// The choices: bit 0 asks as a user, bit 1 with the device's own time instead of the right one.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let bytes = input::request(choices, rest);
    let Ok(request) = Request::decode(&bytes) else { return };
    let user =
        (choices & 1 != 0).then(|| Arc::new(User { id: "alice".to_owned(), claims: serde_json::Map::new() }));
    let asker = Asker { rights: Rights { read: true, write: true, schema: user.is_none() }, user };
    let request = if choices & 2 == 0 { Request { now: NOW_MS, ..request } } else { request };
    USED.with_borrow_mut(|used| {
        let used = used.get_or_insert_with(|| {
            let folder = scratch::folder();
            Used { store: store(&folder), folder, requests: 0 }
        });
        let answer = memory::within(HELD_BYTES_MAX, || used.store.turn(&request, &asker, NOW_MS));
        let answer = answer.unwrap_or_else(|error| panic!("a store that fails: {error:?}"));
        Answer::decode(&answer).unwrap();
        used.requests += 1;
    });
    USED.with_borrow_mut(|used| {
        if used.as_ref().is_some_and(|used| used.requests >= REQUESTS) {
            judge(used.take().unwrap());
        }
    });
}

/// The file is whole, and takes what is right.
fn judge(used: Used) {
    let db = device::empty();
    db.execute_batch("INSERT INTO kept VALUES(4711, 'right')").unwrap();
    let asker = Asker { rights: Rights { read: true, write: true, schema: true }, user: None };
    sync(&db, &used.store, &asker, NOW_MS, &mut Vec::new(), &mut Vec::new());
    drop(used.store);
    let there = Connection::open(used.folder.path().join("server.db")).unwrap();
    assert_eq!(host::show(&there, "PRAGMA integrity_check"), "ok");
    assert_eq!(host::show(&there, "SELECT v FROM kept WHERE id = 4711"), "right");
}

/// A sync by the session's own functions; keeps what went there and back.
pub(crate) fn sync(
    db: &Connection,
    store: &SqliteStore,
    asker: &Asker,
    now_ms: u64,
    sent: &mut Vec<Vec<u8>>,
    received: &mut Vec<Vec<u8>>,
) {
    host::show(db, "SELECT cloudsync_session_start()");
    loop {
        let request: Option<Vec<u8>> =
            db.query_row("SELECT cloudsync_session_request()", [], |row| row.get(0)).unwrap();
        let Some(request) = request else { return };
        let answer = store.turn(&Request::decode(&request).unwrap(), asker, now_ms).unwrap();
        sent.push(request);
        received.push(answer.clone());
        let wait: Option<i64> =
            db.query_row("SELECT cloudsync_session_answer(200, ?1)", [answer], |row| row.get(0)).unwrap();
        if wait.is_none() {
            return;
        }
    }
}
