//! Row filters: what crosses them, what stays here, and what never leaves.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;
#[path = "filters/owed.rs"]
mod owed;
#[path = "filters/private.rs"]
mod private;
#[path = "filters/schema.rs"]
mod schema;

use bench::{Device, NOW, exchange, pair, sync_by_payload};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;
use hub::{BOTH, Hub, PULL, PUSH};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER)";

fn filtered() -> (Device, Device) {
    let (mut a, b) = pair(NOTES);
    a.replica.set_filter("notes", "public = 1").unwrap();
    (a, b)
}

/// Every text value of a payload, keys included.
fn texts(payload: &[u8]) -> Vec<String> {
    let opened = Opened::open(payload, &Zstd).unwrap();
    let decoded = opened.payload().unwrap();
    let mut texts = Vec::new();
    for group in decoded.groups() {
        for row in 0..group.rows() {
            texts.push(String::from_utf8_lossy(group.key(row)).into_owned());
            for column in 0..group.columns().len() {
                if let cloudsync_core::value::ValueRef::Text(text) = group.value(row, column) {
                    texts.push(String::from_utf8_lossy(text).into_owned());
                }
            }
        }
    }
    texts
}

/// Nothing that leaves the device in any way holds the text.
#[track_caller]
fn assert_kept(device: &mut Device, secret: &str) {
    let payload = device.encode();
    let leaks = texts(&payload).into_iter().any(|text| text.contains(secret));
    assert!(!leaks, "{secret} is in a payload");
    let mut chunks = device.replica.chunks_after(0).unwrap();
    while let Some(chunk) = chunks.next(&mut device.replica).unwrap() {
        assert!(!texts(&chunk.payload).iter().any(|text| text.contains(secret)), "{secret} is in a chunk");
    }
    let query =
        cloudsync_replica::ChangesQuery { after: 0, last: u64::MAX, table: None, site: None, values: true };
    let mut changes = device.replica.changes(&query).unwrap();
    while changes.advance().unwrap() {
        let value = format!("{:?}", changes.current().unwrap().value());
        let hex: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        assert!(!value.contains(&hex.join(", ")), "{secret} is in cloudsync_changes");
    }
}

#[test]
fn rows_outside_stay_here() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'shared', 1), ('2', 'private', 0), ('3', 'nothing', NULL)");
    a.run("UPDATE notes SET title = 'private too' WHERE id = '2'");
    assert_kept(&mut a, "private");
    assert_kept(&mut a, "nothing");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','shared',1"]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0, "nobody else knows them");
    a.run("DELETE FROM notes WHERE id > '1'");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_clocks"), 1);
}

#[test]
fn an_update_that_crosses_the_filter_is_a_change() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'draft', 0)");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET public = 1");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','draft',1"]);
    a.run("UPDATE notes SET public = 0, title = 'withdrawn'");
    assert_kept(&mut a, "withdrawn");
    exchange(&mut a, &mut b);
    assert!(b.dump("notes").is_empty());
    assert_eq!(a.dump("notes"), ["'1','withdrawn',0"]);
    a.run("UPDATE notes SET title = 'silent'");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    a.run("UPDATE notes SET public = 1");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','silent',1"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

/// What happens within one fold counts by where the row stood before and where it stands after.
#[test]
fn crossings_within_one_fold() {
    let begins = ["public = 1", "public = 0"];
    for (sql, wanted) in [
        (
            "UPDATE notes SET public = 0; UPDATE notes SET title = 'x', public = 1",
            [Some("'1','x',1"), Some("'1','x',1")],
        ),
        ("UPDATE notes SET public = 1; UPDATE notes SET public = 0", [None, None]),
        ("UPDATE notes SET public = 0; DELETE FROM notes", [None, None]),
        ("UPDATE notes SET public = 1; DELETE FROM notes", [None, None]),
        ("DELETE FROM notes; INSERT INTO notes VALUES('1', 'y', 0)", [None, None]),
        ("DELETE FROM notes; INSERT INTO notes VALUES('1', 'y', 1)", [Some("'1','y',1"), Some("'1','y',1")]),
        ("INSERT OR REPLACE INTO notes VALUES('1', 'y', 0)", [None, None]),
        ("INSERT OR REPLACE INTO notes VALUES('1', 'y', 1)", [Some("'1','y',1"), Some("'1','y',1")]),
        ("INSERT OR IGNORE INTO notes VALUES('1', 'y', 0)", [Some("'1','t',1"), None]),
        (
            "INSERT INTO notes VALUES('1', 'y', 0) ON CONFLICT(id) DO UPDATE SET public = 1 - public",
            [None, Some("'1','t',1")],
        ),
        ("UPDATE notes SET id = '2'", [Some("'2','t',1"), None]),
        ("UPDATE notes SET id = '2', public = 0", [None, None]),
        ("UPDATE notes SET id = '2', public = 1", [Some("'2','t',1"), Some("'2','t',1")]),
        (
            "UPDATE notes SET id = '2', public = 0; UPDATE notes SET id = '1', public = 1",
            [Some("'1','t',1"), Some("'1','t',1")],
        ),
        (
            "INSERT INTO notes VALUES('2', 'o', 1); UPDATE OR REPLACE notes SET id = '2' WHERE id = '1'",
            [Some("'2','t',1"), None],
        ),
        (
            "INSERT INTO notes VALUES('2', 'o', 0); UPDATE OR REPLACE notes SET id = '1' WHERE id = '2'",
            [None, None],
        ),
    ] {
        for (begin, wanted) in begins.iter().zip(wanted) {
            let (mut a, mut b) = filtered();
            a.run("INSERT INTO notes VALUES('1', 't', 0)");
            a.run(&format!("UPDATE notes SET {begin}"));
            exchange(&mut a, &mut b);
            a.run(sql);
            exchange(&mut a, &mut b);
            let wanted: Vec<_> = wanted.into_iter().collect();
            assert_eq!(b.dump("notes"), wanted, "{begin}, {sql}");
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts"), 0);
            assert_eq!(a.rows("SELECT * FROM notes WHERE public = 1"), b.dump("notes"), "{begin}, {sql}");
        }
    }
}

#[test]
fn what_replace_throws_out_goes_from_the_others_only_if_it_was_inside() {
    let schema =
        "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, slug TEXT UNIQUE COLLATE NOCASE, public INTEGER)";
    let (mut a, mut b) = pair(schema);
    a.replica.set_filter("notes", "public").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'in', 1), ('2', 'out', 0)");
    exchange(&mut a, &mut b);
    a.run("INSERT OR REPLACE INTO notes VALUES('3', 'IN', 0), ('4', 'OUT', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'4','OUT',1"]);
    assert_eq!(a.dump("notes"), ["'3','IN',0", "'4','OUT',1"]);
}

#[test]
fn setting_a_filter_removes_nothing_and_keeps_all_clocks() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 0), ('3', 'three', 0), ('4', 'gone', 0)");
    exchange(&mut a, &mut b);
    a.run("DELETE FROM notes WHERE id = '4'");
    exchange(&mut a, &mut b);
    let clocks = a.clocks("notes");
    for filter in [Some("public = 1"), Some("title > 'o'"), None] {
        match filter {
            Some(filter) => a.replica.set_filter("notes", filter).unwrap(),
            None => a.replica.clear_filter("notes").unwrap(),
        }
        assert_eq!(a.clocks("notes"), clocks);
        exchange(&mut a, &mut b);
        assert_eq!(a.dump("notes"), b.dump("notes"));
        assert_eq!(b.clocks("notes"), clocks);
    }
}

#[test]
fn rows_that_come_inside_by_the_setting_yield_to_real_edits() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    // The first stays what all know; of the second there is a private edit, the third is private altogether.
    a.run_at(9_000, "UPDATE notes SET title = 'private' WHERE id = '2'");
    a.run_at(9_000, "INSERT INTO notes VALUES('3', 'three', 0)");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    b.run_at(2_000, "UPDATE notes SET title = 'newest'");
    b.replica.fold().unwrap();
    let before = a.clocks("notes");
    a.replica.clear_filter("notes").unwrap();
    let after = a.clocks("notes");
    assert_eq!(before.iter().filter(|(key, clock)| after.get(*key) == Some(*clock)).count(), 1);
    assert!(after.values().any(|clock| clock.contains("common 1@")));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','newest',0", "'2','newest',0", "'3','three',0"]);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn a_filter_rolls_back_with_its_transaction() {
    let (mut a, mut b) = pair(NOTES);
    let triggers = a.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name");
    a.run("BEGIN");
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'lost', 0); ROLLBACK");
    assert_eq!(a.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
    a.run("INSERT INTO notes VALUES('2', 'all sync', 0)");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'2','all sync',0"]);
    a.run("BEGIN");
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('3', 'kept', 0); COMMIT");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'2','all sync',0"]);
    a.replica.clear_filter("notes").unwrap();
    assert_eq!(a.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
}

#[test]
fn a_filter_holds_for_every_connection_and_survives_disable_and_enable() {
    let folder = bench::Folder::new();
    let path = folder.file("a.db");
    let mut a = Device::open(&path, 1);
    a.run(NOTES);
    a.init_all();
    let mut other = Device::open(&path, 2);
    assert_eq!(other.replica.status().unwrap()["tables"][0]["filter"], serde_json::Value::Null);
    a.replica.set_filter("NOTES", " public = 1 ").unwrap();
    assert_eq!(other.replica.status().unwrap()["tables"][0]["filter"], "public = 1");
    other.run("INSERT INTO notes VALUES('1', 'private', 0)");
    other.replica.set_enabled("notes", false).unwrap();
    a.replica.set_enabled("notes", true).unwrap();
    other.run("INSERT INTO notes VALUES('2', 'private', 0), ('3', 'shared', 1)");
    assert_kept(&mut other, "private");
    let mut b = Device::new(3, NOTES);
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'3','shared',1"]);
    a.replica.cleanup("notes").unwrap();
    a.init_all();
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("notes").len(), 3);
}

#[test]
fn wide_tables_have_filters_too() {
    let names: Vec<_> = (0..70).map(|i| format!("c{i}")).collect();
    let schema = format!("CREATE TABLE wide(id TEXT PRIMARY KEY NOT NULL, {})", names.join(", "));
    let (mut a, mut b) = pair(&schema);
    a.replica.set_filter("wide", "c69 = 1").unwrap();
    a.run("INSERT INTO wide(id, c0, c69) VALUES('in', 'x', 1), ('out', 'private', 0)");
    exchange(&mut a, &mut b);
    a.run("UPDATE wide SET c62 = 'changed', c1 = 'changed'");
    assert_kept(&mut a, "private");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id, c1, c62 FROM wide"), ["'in','changed','changed'"]);
    assert_eq!(a.clocks("wide"), b.clocks("wide"));
}

#[test]
fn devices_may_filter_differently() {
    let (mut a, mut b) = pair(NOTES);
    a.replica.set_filter("notes", "public = 1").unwrap();
    b.replica.set_filter("notes", "title LIKE 'b%'").unwrap();
    a.run("INSERT INTO notes VALUES('a1', 'b from a', 1), ('a2', 'x', 1), ('a3', 'b', 0)");
    b.run("INSERT INTO notes VALUES('b1', 'b from b', 0), ('b2', 'x', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(a.rows("SELECT id FROM notes ORDER BY id"), ["'a1'", "'a2'", "'a3'", "'b1'"]);
    assert_eq!(b.rows("SELECT id FROM notes ORDER BY id"), ["'a1'", "'a2'", "'b1'", "'b2'"]);
    // Each lets go of what its own filter says, for the other too.
    a.run("UPDATE notes SET public = 0 WHERE id = 'a1'");
    b.run("UPDATE notes SET title = 'c' WHERE id = 'b1'");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(a.rows("SELECT id FROM notes ORDER BY id"), ["'a1'", "'a2'", "'a3'"]);
    assert_eq!(b.rows("SELECT id FROM notes ORDER BY id"), ["'a2'", "'b1'", "'b2'"]);
}

#[test]
fn tables_without_a_filter_keep_their_triggers() {
    let (mut a, _) = pair(NOTES);
    let triggers = a.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name");
    assert!(!triggers.iter().any(|sql| sql.contains("EXISTS")));
    a.replica.set_filter("notes", "public = 1").unwrap();
    assert_ne!(a.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
    a.replica.clear_filter("notes").unwrap();
    assert_eq!(a.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
}
