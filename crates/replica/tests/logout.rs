//! Logout: everything of the user goes, nothing is deleted for anybody else, and the next user begins anew.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, Folder, NOW};
use cloudsync_sqlite_ffi::Value;
use hub::{BOTH, Hub, PULL, PUSH};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, body TEXT)";

/// What a file must not hold any more.
fn bytes_of(folder: &Folder, name: &str) -> Vec<u8> {
    let files = ["", "-wal", "-journal"].map(|end| folder.file(&format!("{name}{end}")));
    files.iter().filter_map(|file| std::fs::read(file).ok()).flatten().collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Syncs, logs out, and makes sure that nobody else notices.
#[track_caller]
fn log_out(device: &mut Device, hub: &mut Hub, tables: &[&str]) -> u64 {
    hub.sync(device);
    let before: Vec<_> = tables.iter().map(|table| hub.server.dump(table)).collect();
    let site = device.replica.site_id().unwrap();
    let rows = device.replica.logout(false).unwrap();
    assert_ne!(device.replica.site_id().unwrap(), site);
    for table in tables {
        assert_eq!(device.dump(table), [""; 0], "{table}");
    }
    for journal in [
        "log",
        "clocks",
        "private",
        "versions",
        "entries",
        "inbox",
        "kept",
        "quarantine",
        "conflicts",
        "rejected",
    ] {
        assert_eq!(device.get::<i64>(&format!("SELECT count(*) FROM cloudsync_{journal}")), 0, "{journal}");
    }
    assert!(!device.replica.has_unsent().unwrap());
    assert_eq!(device.replica.fold().unwrap().rows, 0);
    assert_eq!(device.get::<i64>("SELECT count(*) FROM temp.sqlite_master"), 0);
    let absorbed = hub.turn(device, PUSH);
    assert_eq!((absorbed.rows_sent, absorbed.more), (0, false));
    for (table, before) in tables.iter().zip(before) {
        assert_eq!(hub.server.dump(table), before, "{table}");
    }
    device.check();
    rows
}

#[test]
fn rows_go_here_stay_everywhere_else_and_come_again_at_the_next_sync() {
    let mut hub = Hub::new(NOTES);
    let (mut a, mut b) = bench::pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one'), ('2', 'two')");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(log_out(&mut a, &mut hub, &["notes"]), 2);
    hub.sync(&mut b);
    assert_eq!(b.dump("notes").len(), 2);
    assert_eq!(hub.turn(&mut a, PULL).rows_received, 2);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    // The table goes on syncing, under the new site.
    a.run("UPDATE notes SET body = 'new' WHERE id = '1'; DELETE FROM notes WHERE id = '2'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(b.dump("notes"), ["'1','new'"]);
}

#[test]
fn unsent_changes_refuse_unless_they_are_given_up() {
    let mut hub = Hub::new(NOTES);
    let mut a = Device::new(1, &format!("{NOTES}; CREATE TABLE tags(id TEXT PRIMARY KEY NOT NULL)"));
    a.run("INSERT INTO notes VALUES('1', 'one')");
    let error = a.replica.logout(false).unwrap_err().to_string();
    assert!(
        error.contains("1 table has unsent changes") && error.contains("cloudsync_network_logout(1)"),
        "{error}"
    );
    a.run("INSERT INTO tags VALUES('t')");
    let error = a.replica.logout(false).unwrap_err().to_string();
    assert!(error.contains("2 tables have unsent changes"), "{error}");
    assert_eq!(a.dump("notes").len(), 1);
    assert_eq!(a.replica.logout(true).unwrap(), 2);
    assert_eq!(a.dump("notes"), [""; 0]);
    hub.sync(&mut a);
    assert_eq!(hub.server.dump("notes"), [""; 0]);
    assert!(a.replica.logout(false).is_ok());
}

#[test]
fn a_transaction_refuses_and_a_server_too() {
    let mut a = Device::new(1, NOTES);
    a.run("BEGIN");
    let error = a.replica.logout(true).unwrap_err().to_string();
    assert!(error.contains("commit first"), "{error}");
    a.run("COMMIT");
    let mut hub = Hub::new(NOTES);
    hub.server.run("INSERT INTO notes VALUES('1', 'one')");
    let error = hub.server.replica.logout(true).unwrap_err().to_string();
    assert!(error.contains("server"), "{error}");
    assert_eq!(hub.server.dump("notes").len(), 1);
}

#[test]
fn every_kind_of_table_is_emptied() {
    let schema = "CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL, v) WITHOUT ROWID;
        CREATE TABLE child(a INT NOT NULL, b TEXT NOT NULL, up REFERENCES parent ON DELETE RESTRICT,
            PRIMARY KEY(b, a)) WITHOUT ROWID;
        CREATE TABLE \"it's odd\"(id INTEGER PRIMARY KEY, v UNIQUE)";
    for algorithm in ["cls", "dws", "aws", "gos"] {
        let device = |seed| {
            let mut device = Device::empty(seed);
            device.run(schema);
            device.init_all_as(algorithm);
            device
        };
        let mut hub = Hub::on(device(200));
        let (mut a, mut b) = (device(1), device(2));
        a.run("PRAGMA foreign_keys = ON");
        a.run(
            "INSERT INTO parent VALUES('p', 1); INSERT INTO child VALUES(1, 'x', 'p'), (2, 'x', NULL);
            INSERT INTO \"it's odd\" VALUES(1, 'v')",
        );
        if algorithm == "aws" {
            a.replica.fold().unwrap();
            a.run("DELETE FROM child WHERE a = 2");
        }
        let tables = ["parent", "child", "it's odd"];
        let rows = log_out(&mut a, &mut hub, &tables);
        assert_eq!(rows, if algorithm == "aws" { 3 } else { 4 });
        assert_eq!(a.get::<i64>("PRAGMA foreign_keys"), 1);
        if algorithm == "aws" {
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_buried"), 0);
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_dropped"), 0);
        }
        hub.sync(&mut b);
        hub.sync(&mut a);
        for table in tables {
            assert_eq!(a.dump(table), b.dump(table), "{algorithm}");
            assert!(!b.dump(table).is_empty());
        }
        if algorithm == "gos" {
            // What logout may do the app still may not.
            assert!(a.sql.execute("DELETE FROM parent", ()).is_err());
        }
    }
}

#[test]
fn rows_outside_of_a_filter_and_rows_that_never_sync_go_as_well() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY, public INT)";
    let mut hub = Hub::new(schema);
    let mut a = Device::new(1, schema);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 1), ('2', 0), (NULL, 1)");
    assert_eq!(log_out(&mut a, &mut hub, &["notes"]), 3);
    assert_eq!(hub.server.dump("notes"), ["'1',1"]);
    // The filter stays.
    hub.sync(&mut a);
    a.run("INSERT INTO notes VALUES('3', 0), ('4', 1)");
    hub.sync(&mut a);
    assert_eq!(hub.server.dump("notes"), ["'1',1", "'4',1"]);
}

#[test]
fn triggers_of_the_app_see_the_rows_go_and_change_no_synced_table() {
    let plain = "CREATE TABLE notes(id TEXT PRIMARY KEY, body TEXT);
        CREATE TABLE totals(id TEXT PRIMARY KEY NOT NULL, n INT)";
    let triggers = "CREATE VIRTUAL TABLE search USING fts5(body, content = 'notes');
        CREATE TABLE seen(id);
        CREATE TRIGGER i AFTER INSERT ON notes BEGIN
            INSERT INTO search(rowid, body) VALUES(NEW.rowid, NEW.body); END;
        CREATE TRIGGER d AFTER DELETE ON notes BEGIN
            INSERT INTO search(search, rowid, body) VALUES('delete', OLD.rowid, OLD.body);
            INSERT INTO totals VALUES(hex(randomblob(8)), 1);
            INSERT INTO seen VALUES(1); END";
    let mut hub = Hub::new(plain);
    let mut a = Device::new(1, plain);
    a.run(triggers);
    a.run("INSERT INTO notes VALUES('1', 'alpha'), ('2', 'beta'), (NULL, 'gamma'); INSERT INTO totals VALUES('t', 2)");
    assert_eq!(log_out(&mut a, &mut hub, &["notes", "totals"]), 4);
    a.run("INSERT INTO search(search, rank) VALUES('integrity-check', 1)");
    assert_eq!(a.get::<i64>("SELECT count(*) FROM search('alpha OR beta OR gamma')"), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM seen"), 3);
    hub.sync(&mut a);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM search('alpha')"), 1);
}

#[test]
fn no_trigger_keeps_a_row() {
    for refusal in ["ABORT, 'no'", "ROLLBACK, 'no'", "FAIL, 'no'", "IGNORE"] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, NOTES);
        a.run("INSERT INTO notes VALUES('1', 'one'), ('2', 'two')");
        a.run(&format!("CREATE TRIGGER t BEFORE DELETE ON notes BEGIN SELECT RAISE({refusal}); END"));
        assert_eq!(log_out(&mut a, &mut hub, &["notes"]), 2, "{refusal}");
        assert_eq!(a.get::<i64>("SELECT count(*) FROM sqlite_master WHERE name = 't'"), 1);
    }
}

#[test]
fn no_value_stays_in_the_file() {
    for mode in ["DELETE", "PERSIST", "WAL"] {
        let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
        let mut a = Device::open(&folder.file("a.db"), 1);
        a.run(&format!("PRAGMA journal_mode = {mode}; PRAGMA secure_delete = OFF; {NOTES}"));
        a.init_all();
        // Freed before, in use, and in the journals of conflicts.
        a.run(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
            INSERT INTO notes SELECT 'my-key-' || i, 'my-secret-' || i || hex(zeroblob(i * 7)) FROM n",
        );
        a.replica.fold().unwrap();
        a.run("DELETE FROM notes WHERE CAST(substr(id, 8) AS INT) > 200");
        hub.sync(&mut a);
        a.replica.record_round("{\"error\": \"my-error\"}").unwrap();
        assert!(a.get::<i64>("PRAGMA freelist_count") > 10);
        assert!(holds(&bytes_of(&folder, "a.db"), "my-secret-399"));
        assert_eq!(a.replica.logout(false).unwrap(), 200);
        let bytes = bytes_of(&folder, "a.db");
        for value in ["my-secret", "my-key", "my-error"] {
            assert!(!holds(&bytes, value), "{mode}: {value}");
        }
        assert!(!a.replica.is_scrub_due().unwrap());
        assert_eq!(a.get::<String>("PRAGMA journal_mode"), mode.to_lowercase());
        assert_eq!(a.get::<i64>("PRAGMA secure_delete"), 0);
        a.check();
    }
}

#[test]
fn a_reader_in_the_way_makes_the_rest_due() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(&format!("PRAGMA journal_mode = WAL; {NOTES}"));
    a.init_all();
    a.run("INSERT INTO notes VALUES('1', 'my-secret')");
    hub.sync(&mut a);
    let reader = rusqlite::Connection::open(folder.file("a.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM notes").unwrap();
    reader.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0)).unwrap();
    a.replica.logout(false).unwrap();
    assert!(a.replica.is_scrub_due().unwrap());
    assert_eq!(a.replica.status().unwrap()["scrub_due"], true);
    reader.execute_batch("COMMIT").unwrap();
    a.replica.scrub_if_due().unwrap();
    assert_eq!(a.replica.status().unwrap()["scrub_due"], false);
    assert!(!holds(&bytes_of(&folder, "a.db"), "my-secret"));
}

#[test]
fn an_answer_to_the_user_before_is_void() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    hub.server.run("INSERT INTO notes VALUES('1', 'one')");
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(NOTES);
    a.init_all();
    let mut other = Device::open(&folder.file("a.db"), 2);
    a.replica.prepare(BOTH, false).unwrap();
    let sent = a.replica.take_sent().unwrap();
    assert_eq!(other.replica.logout(false).unwrap(), 0);
    let refusal = cloudsync_protocol::message::Refusal {
        reason: cloudsync_protocol::message::Reason::LostChunks,
        now: NOW,
        epoch: 1,
        nonce: 1,
        text: String::new(),
    };
    a.replica.put_sent(sent.clone());
    let error = a.replica.mend(&refusal).unwrap_err().to_string();
    assert!(error.contains("logged out"), "{error}");
    a.replica.put_sent(sent);
    let turn = cloudsync_protocol::message::Turn {
        epoch: 1,
        nonce: 1,
        now: NOW,
        accepted: None,
        drained: true,
        cursor: 7,
        position: b"",
        rows_total: 0,
        verdicts: &[],
        checked: &[],
        payload: b"",
    };
    let error = a.replica.absorb(&turn).unwrap_err().to_string();
    assert!(error.contains("logged out"), "{error}");
    assert_eq!(other.get::<i64>("SELECT count(*) FROM cloudsync_settings WHERE key = 'cursor'"), 0);
    hub.sync(&mut a);
    assert_eq!(a.dump("notes").len(), 1);
}

#[test]
fn tables_that_do_not_sync_any_more_are_not_counted_as_unsent() {
    let mut a = Device::new(1, &format!("{NOTES}; CREATE TABLE gone(id TEXT PRIMARY KEY NOT NULL)"));
    a.run("INSERT INTO notes VALUES('1', 'x'); INSERT INTO gone VALUES('1')");
    a.replica.fold().unwrap();
    a.replica.cleanup("gone").unwrap();
    let error = a.replica.logout(false).unwrap_err().to_string();
    assert!(error.contains("1 table has unsent changes"), "{error}");
}

#[test]
fn a_key_is_in_the_file_only_while_the_app_wants_it_and_leaves_no_byte() {
    let folder = Folder::new();
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(NOTES);
    a.init_all();
    let server = "https://sync.example.org";
    let keep = |a: &mut Device, secret: &str| a.replica.keep_credential(server, secret).unwrap();
    let credential = |a: &Device, server: &str| a.replica.credential(server).unwrap();
    let set =
        |a: &mut Device, number| a.replica.set_setting("network_keep_key", Value::Integer(number)).unwrap();
    keep(&mut a, "first-secret");
    assert_eq!(credential(&a, server), None, "nobody asked for it");
    set(&mut a, 1);
    for secret in ["first-secret", "first-secret", "second-secret"] {
        keep(&mut a, secret);
        assert_eq!(credential(&a, server).as_deref(), Some(secret));
        assert_eq!(credential(&a, "https://elsewhere.example.org"), None);
    }
    let bytes = bytes_of(&folder, "a.db");
    assert!(holds(&bytes, "second-secret") && !holds(&bytes, "first-secret"));
    set(&mut a, 0);
    assert_eq!(credential(&a, server), None);
    assert!(!holds(&bytes_of(&folder, "a.db"), "second-secret"));
    // It is the user's who logs out.
    set(&mut a, 1);
    keep(&mut a, "third-secret");
    a.replica.logout(true).unwrap();
    assert_eq!(credential(&a, server), None);
    assert!(!holds(&bytes_of(&folder, "a.db"), "third-secret"));
}
