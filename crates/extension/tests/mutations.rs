//! Bytes and texts from outside, changed at random from seeds, on real databases: nothing panics, hangs or damages a file,
//! and what is right is taken afterwards.
//!
//! A fixed number of executions runs as a test. `cargo xtask fuzz` goes on by `CLOUDSYNC_FUZZ_SECONDS` for each target, from
//! `CLOUDSYNC_FUZZ_SEED`. What once failed is kept in `crashers/` and tried first.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod host;
mod mutator;

use cloudsync_protocol::message::{Answer, Request};
use cloudsync_server::store::sqlite::{SqliteStore, enable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use mutator::{Checksum, Fuzz, vectors};
use rusqlite::Connection;

const TABLES: &str = "
    PRAGMA foreign_keys = OFF;
    CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, place INT UNIQUE, body BLOB);
    CREATE TABLE tags(note TEXT COLLATE NOCASE, tag, n REAL, PRIMARY KEY(tag, note)) WITHOUT ROWID;
    CREATE TABLE kept(id INTEGER PRIMARY KEY, v);";
const INIT: &str =
    "SELECT cloudsync_init('notes'), cloudsync_init('tags', 'dws'), cloudsync_init('kept', 'aws', 1)";
const ROWS: &str = "
    INSERT INTO notes VALUES('1', 'one', 1, x'00ff'), ('2', 'two', 2, NULL), ('0190163d-8694-739b-aea5-966c26f8ad91', '', 3, '');
    INSERT INTO tags VALUES('1', 'x', 0.5), ('2', x'01', 1e300), ('Ab', 7, NULL);
    INSERT INTO kept VALUES(1, 'a'), (2, NULL), (-3, 9223372036854775807);
    DELETE FROM kept WHERE id = 2; DELETE FROM tags WHERE tag = 7; UPDATE notes SET title = 'edited' WHERE id = '2';";

fn device() -> Connection {
    let db = host::memory();
    db.execute_batch(TABLES).unwrap();
    host::show(&db, INIT);
    db
}

fn payloads() -> Vec<Vec<u8>> {
    let db = device();
    let mut corpus = vectors();
    for rows in ROWS.split(';').filter(|sql| !sql.trim().is_empty()) {
        db.execute_batch(rows).unwrap();
        corpus.push(db.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap());
    }
    corpus
}

/// The file is whole, and takes what is right.
fn judge(db: &Connection, right: &[u8]) {
    assert_eq!(host::show(db, "PRAGMA integrity_check"), "ok");
    assert!(db.is_autocommit());
    db.query_row("SELECT cloudsync_payload_apply(?1)", [right], |_| Ok(())).unwrap();
    host::show(db, "SELECT length(cloudsync_status()) + (SELECT count(*) FROM cloudsync_changes)");
}

/// Runs SQL with one parameter; an error must say something, and nothing of a panic.
fn call(db: &Connection, sql: &str, parameter: &dyn rusqlite::ToSql) {
    let Err(error) = db.query_row(sql, [parameter], |_| Ok(())) else { return };
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains("internal error"), "{text}");
}

#[test]
fn payloads_that_were_changed_at_random() {
    let corpus = payloads();
    let right = corpus.last().unwrap().clone();
    let mut db = device();
    Fuzz::new("payload", corpus, Checksum::Payload).run(|number, bytes| {
        if number % 500 == 0 {
            judge(&db, &right);
            db = device();
            db.execute_batch(ROWS).unwrap();
        }
        call(&db, "SELECT cloudsync_payload_apply(?1)", &bytes);
    });
    judge(&db, &right);
}

#[test]
fn requests_that_were_changed_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    Connection::open(&path).unwrap().execute_batch(TABLES).unwrap();
    for (table, algorithm) in [("notes", "cls"), ("tags", "dws"), ("kept", "aws")] {
        enable_table(&path, table, algorithm).unwrap();
    }
    let store = SqliteStore::open(&path).unwrap();
    let asker = Asker { rights: Rights { read: true, write: true, schema: true }, user: None };
    let mut corpus = Vec::new();
    for rows in ["SELECT 1", ROWS, "UPDATE notes SET title = 'later'; DELETE FROM tags"] {
        let db = device();
        db.execute_batch(rows).unwrap();
        sync(&db, &store, &asker, &mut corpus, &mut Vec::new());
    }
    Fuzz::new("request", corpus, Checksum::Message).run(|_, bytes| {
        if let Ok(request) = Request::decode(bytes) {
            let _ = store.turn(&request, &asker, now());
        }
    });
    let db = device();
    db.execute_batch("INSERT INTO notes VALUES('right', 'right', 1000000, NULL)").unwrap();
    sync(&db, &store, &asker, &mut Vec::new(), &mut Vec::new());
    let there = Connection::open(&path).unwrap();
    assert_eq!(host::show(&there, "PRAGMA integrity_check"), "ok");
    assert_eq!(host::show(&there, "SELECT title FROM notes WHERE id = 'right'"), "right");
}

#[test]
fn answers_that_were_changed_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let shell = Connection::open(&path).unwrap();
    shell.execute_batch(TABLES).unwrap();
    shell.execute_batch("CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.place = 2 BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
    for (table, algorithm) in [("notes", "cls"), ("tags", "dws"), ("kept", "aws")] {
        enable_table(&path, table, algorithm).unwrap();
    }
    let store = SqliteStore::open(&path).unwrap();
    let asker = Asker { rights: Rights { read: true, write: true, schema: false }, user: None };
    let mut corpus = Vec::new();
    for rows in [ROWS, "INSERT INTO notes VALUES('other', 'x', 1, NULL)", "SELECT 1"] {
        let db = device();
        db.execute_batch(rows).unwrap();
        sync(&db, &store, &asker, &mut Vec::new(), &mut corpus);
    }
    let right = payloads().pop().unwrap();
    let mut db = device();
    Fuzz::new("answer", corpus, Checksum::Message).run(|number, bytes| {
        if number % 200 == 0 {
            judge(&db, &right);
            db = device();
            db.execute_batch(ROWS).unwrap();
        }
        let _ = Answer::decode(bytes);
        host::show(&db, "SELECT cloudsync_session_start()");
        let _ = host::try_show(&db, "SELECT length(cloudsync_session_request())");
        call(&db, "SELECT cloudsync_session_answer(200, ?1)", &bytes);
        call(
            &db,
            "SELECT cloudsync_session_answer(?1, x'00')",
            &u16::from(bytes.first().copied().unwrap_or(0)),
        );
    });
    judge(&db, &right);
}

#[test]
fn texts_that_were_changed_at_random() {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let filters = [
        "place > 1 AND title <> 'x'",
        "id IN ('a', \"b\") OR (body IS NULL AND length(title) BETWEEN 1 AND 9)",
        "CASE WHEN place THEN title ELSE NOT (body) END COLLATE NOCASE = lower('A') -- end",
        "[title] || `id` LIKE '%a_' ESCAPE '\\' /* note */",
        "cast(place AS TEXT) = x'00' AND -place + 1.5e3 % 2 << 1",
    ];
    let connections = [
        "cloudsync://localhost:8484/my_database",
        "cloudsyncs://user@example.com/db?x=1",
        "https://example.com:443/db?apikey=abc&token=d%20e",
        "cloudsync://[::1]:8484/a-b.c_d",
    ];
    let settings = [
        "5000",
        "0",
        "-1",
        "315360000000",
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
        "NULL",
    ];
    let right = payloads().pop().unwrap();
    let db = device();
    db.execute_batch(ROWS).unwrap();
    Fuzz::new("filter", texts(&filters), Checksum::None).run(|_, bytes| {
        call(&db, "SELECT cloudsync_set_filter('notes', ?1)", &String::from_utf8_lossy(bytes));
        db.execute_batch("UPDATE notes SET place = place + 10 WHERE id = '2'").unwrap();
    });
    Fuzz::new("connection", texts(&connections), Checksum::None).run(|_, bytes| {
        call(&db, "SELECT cloudsync_network_init(?1)", &String::from_utf8_lossy(bytes));
        call(&db, "SELECT cloudsync_network_set_apikey(?1)", &String::from_utf8_lossy(bytes));
        call(&db, "SELECT cloudsync_session_start(?1)", &String::from_utf8_lossy(bytes));
    });
    Fuzz::new("setting", texts(&settings), Checksum::None).run(|_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        for key in ["busy_ms", "history_ms", "network_total_ms", "network_ca", "network_keep_key"] {
            call(&db, &format!("SELECT cloudsync_set('{key}', ?1)"), &text);
        }
        call(&db, "SELECT cloudsync_set(?1, 1)", &text);
        call(&db, "SELECT cloudsync_get(?1)", &text);
        call(&db, "SELECT cloudsync_pk_decode(?1, 0)", &bytes);
    });
    host::show(&db, "SELECT cloudsync_set('busy_ms', 100), cloudsync_clear_filter('notes')");
    judge(&db, &right);
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A sync by the session's own functions; keeps what went there and back.
fn sync(
    db: &Connection,
    store: &SqliteStore,
    asker: &Asker,
    sent: &mut Vec<Vec<u8>>,
    received: &mut Vec<Vec<u8>>,
) {
    host::show(db, "SELECT cloudsync_session_start()");
    loop {
        let request: Option<Vec<u8>> =
            db.query_row("SELECT cloudsync_session_request()", [], |row| row.get(0)).unwrap();
        let Some(request) = request else { return };
        let answer = store.turn(&Request::decode(&request).unwrap(), asker, now()).unwrap();
        sent.push(request);
        received.push(answer.clone());
        let wait: Option<i64> =
            db.query_row("SELECT cloudsync_session_answer(200, ?1)", [answer], |row| row.get(0)).unwrap();
        if wait.is_none() {
            return;
        }
    }
}
