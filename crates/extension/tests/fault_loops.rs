//! Everything that a device does, with memory or files that fail at the first call, the second, and so on, until a run
//! completes. The error is an SQL error, the file is whole, and afterwards the same run gives what it always gives.
//!
//! `CLOUDSYNC_FAULTS_EVERY=1` tries each call instead of a share of them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod faults;
mod host;

use cloudsync_protocol::message::Request;
use cloudsync_server::store::sqlite::{SqliteStore, enable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use faults::Kind;
use rusqlite::Connection;
use std::path::Path;

type Outcome = rusqlite::Result<()>;
type Act<'a> = &'a dyn Fn(&Connection) -> Outcome;

const TABLES: &str = "
    CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, place INT UNIQUE, body BLOB);
    CREATE TABLE tags(note TEXT NOT NULL REFERENCES notes ON DELETE CASCADE, tag TEXT NOT NULL, n REAL, PRIMARY KEY(note, tag))
        WITHOUT ROWID;
    CREATE TABLE kept(id TEXT PRIMARY KEY NOT NULL, v);
    CREATE TABLE log(what);
    CREATE TRIGGER came AFTER INSERT ON notes BEGIN
        INSERT INTO log VALUES(NEW.id);
        INSERT OR IGNORE INTO tags VALUES(NEW.id, 'new', 1); END;";
const INIT: &[&str] = &[
    "SELECT cloudsync_init('notes')",
    "SELECT cloudsync_init('tags', 'dws')",
    "SELECT cloudsync_init('kept', 'aws')",
];
const WRITES: &[&str] = &[
    "BEGIN",
    "INSERT OR REPLACE INTO notes(id, title, place) VALUES('1', 'one', 1), ('2', 'two', 2), ('3', 'three', 3)",
    "UPDATE notes SET title = 'edited', body = zeroblob(5000) WHERE id = '2'",
    "UPDATE OR REPLACE notes SET place = 1 WHERE id = '3'",
    "SAVEPOINT s",
    "DELETE FROM notes",
    "ROLLBACK TO s",
    "RELEASE s",
    "INSERT OR REPLACE INTO kept VALUES('k', 1), ('l', 2)",
    "DELETE FROM kept WHERE id = 'l'",
    "COMMIT",
];

fn run_all(db: &Connection, statements: &[&str]) -> Outcome {
    for sql in statements {
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// The app's tables, and how many rows wait or lost.
fn contents(db: &Connection) -> Vec<String> {
    let mut lines = Vec::new();
    for table in ["notes", "tags", "kept"] {
        let sql = format!("SELECT '{table}', t.* FROM {table} AS t ORDER BY 2, 3");
        let mut statement = db.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells = (0..columns).map(|i| format!("{:?}", row.get_ref(i).unwrap()));
            lines.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

struct Loop {
    folder: tempfile::TempDir,
    template: std::path::PathBuf,
    name: &'static str,
    /// Somebody else in this process uses SQLite as well.
    is_shared: bool,
}

impl Loop {
    /// A file on which `prepare` has run.
    fn new(name: &'static str, prepare: Act<'_>) -> Self {
        faults::install();
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let template = folder.path().join("template.db");
        let db = host::open(&template);
        db.execute_batch(TABLES).unwrap();
        prepare(&db).unwrap();
        host::close(db);
        Self { folder, template, name, is_shared: false }
    }

    fn copy(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("run.db");
        for ending in ["", "-journal", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
        }
        std::fs::copy(&self.template, &path).unwrap();
        path
    }

    /// Runs `act` with each call failing, and compares. Gives how many faults there were.
    fn run(&self, act: Act<'_>) -> u64 {
        let expected = {
            let db = host::open(&self.copy());
            act(&db).unwrap_or_else(|error| panic!("{}: {error}", self.name));
            contents(&db)
        };
        let kinds = [(Kind::Memory, false), (Kind::Memory, true), (Kind::File, false), (Kind::File, true)];
        let (mut faults, mut calls) = (0, 0);
        for (kind, for_good) in kinds {
            let (failed, last) = self.run_kind(act, kind, for_good, &expected);
            faults += failed;
            calls += last;
        }
        println!("{}: {faults} faults at {calls} calls", self.name);
        faults
    }

    /// Runs `act` without memory from each of its last calls on.
    fn run_last(&self, act: Act<'_>, last: u64) {
        let db = host::open(&self.copy());
        let calls = faults::calls(Kind::Memory, || act(&db).unwrap());
        let expected = contents(&db);
        host::close(db);
        for nth in calls.saturating_sub(last)..=calls {
            let path = self.copy();
            let db = host::open(&path);
            let (outcome, _) = faults::failing(Kind::Memory, nth, true, || act(&db));
            self.judge(
                &format!("{}: call {nth} of {calls}, {outcome:?}", self.name),
                db,
                &path,
                act,
                &expected,
            );
        }
    }

    /// How many faults there were, and at which call the run completed.
    fn run_kind(&self, act: Act<'_>, kind: Kind, for_good: bool, expected: &[String]) -> (u64, u64) {
        let step = std::env::var("CLOUDSYNC_FAULTS_EVERY").ok().and_then(|step| step.parse().ok());
        // Steps that grow visit all early calls, and a share of the later ones.
        let next = |nth: u64| nth + step.unwrap_or(1 + nth / 5);
        let (mut nth, mut faults) = (1, 0);
        loop {
            let path = self.copy();
            let held = faults::held();
            let db = host::open(&path);
            let (outcome, failed) = faults::failing(kind, nth, for_good, || act(&db));
            let when = format!("{}: {kind:?} call {nth}, for good: {for_good}, {outcome:?}", self.name);
            assert!(failed > 0 || outcome.is_ok(), "{when}");
            if let Err(rusqlite::Error::SqliteFailure(error, text)) = &outcome {
                assert!(error.extended_code != 0 && text.as_deref() != Some(""), "{when}");
            }
            self.judge(&when, db, &path, act, expected);
            assert!(self.is_shared || faults::held() == held, "{when}: memory is lost");
            if failed == 0 {
                return (faults, nth);
            }
            faults += 1;
            nth = next(nth);
        }
    }

    /// The file is whole, for others too, and the same run gives what it always gives, on this connection.
    fn judge(&self, when: &str, db: Connection, path: &Path, act: Act<'_>, expected: &[String]) {
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK").unwrap_or_else(|error| panic!("{when}: {error}"));
        }
        assert_eq!(host::show(&db, "PRAGMA integrity_check"), "ok", "{when}");
        act(&db).unwrap_or_else(|error| panic!("{when}, and then {error}"));
        assert_eq!(contents(&db), expected, "{when}");
        assert_eq!(
            host::show(&db, "SELECT count(*) FROM temp.sqlite_master"),
            "0",
            "{when}: guards are left"
        );
        host::close(db);
        let other = Connection::open(path).unwrap();
        assert_eq!(host::show(&other, "PRAGMA integrity_check"), "ok", "{when}");
        host::close(other);
    }
}

/// A payload of another device.
fn payload(writes: &[&str]) -> Vec<u8> {
    faults::install();
    let db = host::memory();
    // This library alone switches them on.
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    db.execute_batch(TABLES).unwrap();
    run_all(&db, INIT).unwrap();
    run_all(&db, writes).unwrap();
    db.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap()
}

fn apply(db: &Connection, payload: &[u8]) -> Outcome {
    db.query_row("SELECT cloudsync_payload_apply(?1)", [payload], |_| Ok(()))
}

fn tracked(db: &Connection) -> Outcome {
    run_all(db, INIT)?;
    run_all(db, WRITES)
}

#[test]
fn init_and_cleanup() {
    let rows = |db: &Connection| run_all(db, WRITES);
    Loop::new("init", &rows).run(&|db| run_all(db, INIT));
    Loop::new("cleanup", &tracked).run(&|db| {
        run_all(db, &["SELECT cloudsync_cleanup('*')"])?;
        run_all(db, INIT)
    });
}

#[test]
fn writes_with_triggers_and_their_fold() {
    let init = |db: &Connection| run_all(db, INIT);
    Loop::new("writes", &init).run(&|db| run_all(db, WRITES));
    Loop::new("fold", &tracked).run(&|db| {
        let sql = "SELECT cloudsync_payload_encode() IS NOT NULL, (SELECT sum(length(payload)) FROM cloudsync_payload_chunks(0)), \
                   cloudsync_status(), (SELECT count(*) FROM cloudsync_changes)";
        let sent: (bool, Option<i64>, String, i64) =
            db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        assert!(sent.0 && sent.1.is_some_and(|bytes| bytes > 100) && sent.3 > 5, "{sent:?}");
        Ok(())
    });
}

#[test]
fn applies_with_conflicts_a_quarantine_and_triggers_of_the_app() {
    let theirs = payload(&[
        "INSERT INTO notes(id, title, place) VALUES('1', 'theirs', 7), ('9', 'nine', 1), ('8', 'eight', 8)",
        "INSERT INTO tags VALUES('none', 'orphan', 2), ('8', 'child', 3)",
        "INSERT INTO kept VALUES('k', 'theirs')",
        "DELETE FROM kept",
    ]);
    Loop::new("apply", &tracked).run(&|db| {
        run_all(db, &["PRAGMA foreign_keys = ON"])?;
        apply(db, &theirs)
    });
    Loop::new("apply in the app's transaction", &tracked).run(&|db| {
        run_all(db, &["BEGIN"])?;
        apply(db, &theirs)?;
        run_all(db, &["COMMIT"])
    });
    let waiting = |db: &Connection| {
        tracked(db)?;
        apply(db, &theirs)
    };
    Loop::new("quarantine", &waiting).run(&|db| {
        run_all(db, &["UPDATE notes SET place = 100 WHERE place = 1 AND id = '3'"])?;
        apply(db, &theirs)
    });
}

/// The last calls of an apply are those that take the guards off. Where memory fails there, whatever comes next does it.
#[test]
fn no_guard_is_left_once_there_is_memory_again() {
    let theirs = payload(&["INSERT INTO notes(id, title) VALUES('8', 'eight')"]);
    let at = Loop::new("guards", &tracked);
    let apply = |db: &Connection| apply(db, &theirs);
    let db = host::open(&at.copy());
    let calls = faults::calls(Kind::Memory, || apply(&db).unwrap());
    host::close(db);
    let mut failed = 0;
    for nth in calls.saturating_sub(150)..=calls {
        let db = host::open(&at.copy());
        let (outcome, faults) = faults::failing(Kind::Memory, nth, false, || apply(&db));
        failed += faults;
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK").unwrap();
        }
        run_all(&db, &["SELECT cloudsync_payload_encode()"]).unwrap();
        let left = host::show(&db, "SELECT count(*) FROM temp.sqlite_master");
        assert_eq!(left, "0", "call {nth} of {calls}: {outcome:?}");
        host::close(db);
    }
    assert!(failed > 100, "{failed} of the last {calls} calls failed");
}

#[test]
fn filters_alterations_and_logout() {
    Loop::new("filter", &tracked).run(&|db| {
        run_all(
            db,
            &[
                "SELECT cloudsync_set_filter('notes', 'place > 1')",
                "UPDATE notes SET place = place + 10 WHERE place < 10",
            ],
        )?;
        run_all(db, &["SELECT cloudsync_payload_encode()", "SELECT cloudsync_clear_filter('notes')"])
    });
    Loop::new("alter", &tracked).run(&|db| {
        let altering = "SELECT count(*) FROM cloudsync_alters";
        let named = "SELECT count(*) FROM pragma_table_info('kept') WHERE name = 'w'";
        let get = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
        if get(named)? == 0 {
            if get(altering)? == 0 {
                run_all(db, &["SELECT cloudsync_begin_alter('kept')"])?;
            }
            run_all(db, &["ALTER TABLE kept RENAME COLUMN v TO w"])?;
        }
        if get(altering)? == 1 {
            run_all(db, &["SELECT cloudsync_commit_alter('kept')"])?;
        }
        run_all(db, &["UPDATE kept SET w = 'x'", "SELECT cloudsync_payload_encode()"])
    });
    Loop::new("logout", &tracked).run(&|db| run_all(db, &["SELECT cloudsync_network_logout(1)"]));
}

/// Both directions, with verdicts, through the server's own store.
#[test]
fn a_whole_sync_of_a_host_with_its_own_network() {
    let folder = tempfile::tempdir().unwrap();
    faults::install();
    let path = folder.path().join("server.db");
    let shell = Connection::open(&path).unwrap();
    shell.execute_batch(TABLES).unwrap();
    shell.execute_batch("DROP TRIGGER came; CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.id = '2' BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
    for (table, algorithm) in [("notes", "cls"), ("tags", "dws"), ("kept", "aws")] {
        enable_table(&path, table, algorithm).unwrap();
    }
    shell
        .execute_batch(
            "INSERT INTO notes VALUES('s', 'of the server', 50, x'00'); INSERT INTO kept VALUES('s', 1)",
        )
        .unwrap();
    let asker = Asker { rights: Rights { read: true, write: true, schema: false }, user: None };
    let store = SqliteStore::open(&path).unwrap();
    let sync = |db: &Connection| -> Outcome {
        let _url: Option<String> = db.query_row("SELECT cloudsync_session_start()", [], |row| row.get(0))?;
        loop {
            let request: Option<Vec<u8>> =
                db.query_row("SELECT cloudsync_session_request()", [], |row| row.get(0))?;
            let Some(request) = request else { return Ok(()) };
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
                as u64;
            let request = Request::decode(&request).unwrap();
            let answer = faults::paused(|| store.turn(&request, &asker, now)).unwrap();
            let wait: Option<i64> =
                db.query_row("SELECT cloudsync_session_answer(200, ?1)", [answer], |row| row.get(0))?;
            if wait.is_none() {
                return Ok(());
            }
        }
    };
    let syncs = Loop { is_shared: true, ..Loop::new("sync", &tracked) };
    syncs.run(&sync);
    // There an apply has ended, its guards come off, and transactions of the session follow in the same call.
    syncs.run_last(&sync, 40);
}
