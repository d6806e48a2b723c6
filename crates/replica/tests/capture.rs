//! Every way in which an app may write is noted, and a rollback takes the notes back.

mod bench;

use bench::{Device, assert_same, exchange, pair, sync_by_payload};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::Request;
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;

const ITEMS: &str = "CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, a TEXT, u TEXT UNIQUE, v INT);
    CREATE UNIQUE INDEX items_v ON items(v) WHERE v > 10;
    CREATE UNIQUE INDEX items_a ON items(a COLLATE NOCASE, lower(u))";
const FOUR: &str =
    "INSERT INTO items VALUES('1', 'a', 'x', 1), ('2', 'b', 'y', 2), ('3', 'c', 'z', 30), ('4', 'd', 'w', 4)";

/// Runs the statement with REPLACE's delete triggers off and on; the rows that it threw out go elsewhere too.
#[track_caller]
fn replaces(sql: &str, left: &[&str]) {
    for recursive in ["OFF", "ON"] {
        let (mut a, mut b) = pair(ITEMS);
        a.run(FOUR);
        exchange(&mut a, &mut b);
        a.run(&format!("PRAGMA recursive_triggers = {recursive}; {sql}"));
        sync_by_payload(&mut a, &mut b);
        assert_same(&mut a, &mut b, "items");
        assert_eq!(b.dump("items"), left, "recursive_triggers {recursive}");
        assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    }
}

#[test]
fn update_or_replace_onto_an_existing_key() {
    replaces(
        "UPDATE OR REPLACE items SET id = '2' WHERE id = '1'",
        &["'2','a','x',1", "'3','c','z',30", "'4','d','w',4"],
    );
}

#[test]
fn insert_or_replace_of_the_same_key_stays_in_its_life() {
    replaces(
        "INSERT OR REPLACE INTO items VALUES('1', 'new', 'x', NULL)",
        &["'1','new','x',NULL", "'2','b','y',2", "'3','c','z',30", "'4','d','w',4"],
    );
    let (mut a, _) = pair(ITEMS);
    a.run(FOUR);
    a.replica.fold().unwrap();
    a.run(
        "REPLACE INTO items VALUES('1', 'new', 'x', NULL); DELETE FROM items WHERE id = '2';
           INSERT INTO items VALUES('2', 'again', 'y', 2)",
    );
    assert!(a.clocks("items").values().all(|clock| clock.starts_with("life 1 ")));
}

#[test]
fn victims_of_other_unique_indexes_go_everywhere() {
    // Of three indexes at once.
    replaces(
        "REPLACE INTO items VALUES('9', 'q', 'x', 30)",
        &["'2','b','y',2", "'4','d','w',4", "'9','q','x',30"],
    );
    replaces(
        "UPDATE OR REPLACE items SET u = 'y' WHERE id = '1'",
        &["'1','a','y',1", "'3','c','z',30", "'4','d','w',4"],
    );
    replaces(
        "UPDATE OR REPLACE items SET v = 30 WHERE id = '1'",
        &["'1','a','x',30", "'2','b','y',2", "'4','d','w',4"],
    );
    // By the index's collation, not the column's.
    replaces(
        "REPLACE INTO items VALUES('9', 'A', 'X', 5); REPLACE INTO items VALUES('8', 'B', 'Y', 5)",
        &["'3','c','z',30", "'4','d','w',4", "'8','B','Y',5", "'9','A','X',5"],
    );
}

#[test]
fn conflict_clauses_of_the_table_itself_throw_out_rows_too() {
    let schema =
        "CREATE TABLE t(id TEXT PRIMARY KEY ON CONFLICT REPLACE NOT NULL, u UNIQUE ON CONFLICT REPLACE, v)";
    let (mut a, mut b) = pair(schema);
    a.run("INSERT INTO t VALUES('1', 'x', 1), ('2', 'y', 2)");
    exchange(&mut a, &mut b);
    a.run("INSERT INTO t VALUES('3', 'x', 3); INSERT INTO t VALUES('2', 'z', 4)");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.dump("t"), ["'2','z',4", "'3','x',3"]);
    // Concurrent rows of one UNIQUE value: the later arrival waits, and the other stays.
    a.run("INSERT INTO t VALUES('a', 'same', 1)");
    b.run("INSERT INTO t VALUES('b', 'same', 2)");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id FROM t WHERE u = 'same'"), ["'b'"]);
    assert_eq!(b.quarantine(), 1);
}

#[test]
fn no_conflict_clause_of_a_statement_drops_a_note() {
    for clause in ["OR IGNORE", "OR REPLACE", "OR FAIL", "OR ABORT", "OR ROLLBACK"] {
        let (mut a, mut b) = pair(ITEMS);
        a.run(FOUR);
        exchange(&mut a, &mut b);
        a.run(&format!(
            "INSERT {clause} INTO items VALUES('5', 'e', 'v', 5);
             UPDATE {clause} items SET a = 'new' || id WHERE id IN ('1', '2');
             DELETE FROM items WHERE id = '4'"
        ));
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "items");
        assert_eq!(b.dump("items").len(), 4);
    }
}

#[test]
fn upserts_and_returning_are_noted() {
    let (mut a, mut b) = pair(ITEMS);
    a.run(FOUR);
    exchange(&mut a, &mut b);
    a.run(
        "INSERT INTO items VALUES('1', 'ups', 'x', 7) ON CONFLICT(id) DO UPDATE SET a = excluded.a;
         INSERT INTO items VALUES('7', 'q', 'y', 8) ON CONFLICT(u) DO UPDATE SET v = 99",
    );
    assert_eq!(a.rows("UPDATE items SET a = 'r' WHERE id = '3' RETURNING a"), ["'r'"]);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "items");
}

#[test]
fn rollbacks_and_savepoints_take_their_notes_back() {
    let (mut a, mut b) = pair(ITEMS);
    a.run(FOUR);
    exchange(&mut a, &mut b);
    a.run("BEGIN; DELETE FROM items; ROLLBACK");
    assert_eq!(a.replica.fold().unwrap().rows, 0);
    a.run(
        "BEGIN; UPDATE items SET a = 'kept' WHERE id = '1'; SAVEPOINT s; DELETE FROM items WHERE id = '2';
         UPDATE items SET a = 'lost' WHERE id = '1'; ROLLBACK TO s; RELEASE s; COMMIT",
    );
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "items");
    assert_eq!(b.rows("SELECT a FROM items WHERE id < '3'"), ["'kept'", "'b'"]);
}

#[test]
fn a_row_that_a_trigger_of_the_app_removes_at_once_never_was() {
    let (mut a, mut b) = pair(ITEMS);
    a.run("CREATE TRIGGER vanish AFTER INSERT ON items WHEN NEW.a = 'gone' BEGIN DELETE FROM items WHERE id = NEW.id; END;
           INSERT INTO items VALUES('1', 'gone', NULL, NULL), ('2', 'stays', NULL, NULL)");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "items");
    assert_eq!(b.dump("items").len(), 1);
    assert_eq!(a.clocks("items").len(), 1);
}

#[test]
fn cascades_of_foreign_keys_are_noted() {
    let (mut a, mut b) = pair(
        "CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL);
         CREATE TABLE child(id TEXT PRIMARY KEY NOT NULL, p REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
    );
    a.run("PRAGMA foreign_keys = ON; INSERT INTO parent VALUES('p'), ('q'); INSERT INTO child VALUES('c', 'p'), ('d', 'q')");
    exchange(&mut a, &mut b);
    a.run("DELETE FROM parent WHERE id = 'p'; UPDATE parent SET id = 'r'");
    exchange(&mut a, &mut b);
    for table in ["parent", "child"] {
        assert_same(&mut a, &mut b, table);
    }
    assert_eq!(b.dump("child"), ["'d','r'"]);
}

#[test]
fn a_fold_of_several_slices_finds_everything() {
    let (mut a, mut b) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)");
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 140000)
         INSERT INTO t SELECT i, i FROM n;
         UPDATE t SET v = -1 WHERE id % 7 = 0; DELETE FROM t WHERE id % 10 = 0; INSERT INTO t VALUES(10, 10)",
    );
    assert!(a.replica.fold().unwrap().rows > 140_000 - 14_000);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_log"), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_versions"), 2);
    sync_by_payload(&mut a, &mut b);
    assert_eq!(a.get::<i64>("SELECT sum(v) FROM t"), b.get::<i64>("SELECT sum(v) FROM t"));
    assert_eq!(a.clocks("t"), b.clocks("t"));
}

#[test]
fn a_row_that_was_noted_often_is_folded_once() {
    let (mut a, _) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)");
    a.run("INSERT INTO t VALUES(1, 1), (2, 2); UPDATE t SET v = 3 WHERE id = 1; UPDATE t SET v = 4 WHERE id = 2");
    let folded = a.replica.fold().unwrap();
    assert_eq!((folded.notes, folded.rows), (4, 2));
}

#[test]
fn each_cell_has_the_time_of_its_own_last_write() {
    let (mut a, _) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT, w INT)");
    a.run_at(100, "INSERT INTO t VALUES(1, 1, 1)");
    a.run_at(300, "UPDATE t SET v = 2");
    a.run_at(500, "UPDATE t SET w = 2");
    a.run_at(500, "UPDATE t SET v = v");
    let clocks = a.clocks("t");
    assert!(clocks.values().all(|clock| clock.contains("v 300@") && clock.contains("w 500@")), "{clocks:?}");
}

#[test]
fn rows_that_were_there_before_are_not_listed_as_new() {
    let mut a = Device::empty(1);
    a.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT); INSERT INTO t VALUES(1, 1), (2, 2)");
    a.init_all();
    // Also by a clock that has just begun.
    a.run_at(1, "INSERT INTO t VALUES(3, 3)");
    let request = a.replica.prepare(Goal { push: true, pull: false }, false).unwrap();
    let request = Request::decode(&request).unwrap();
    let opened = Opened::open(request.upload.unwrap().payload, &Zstd).unwrap();
    let payload = opened.payload().unwrap();
    let mut groups: Vec<_> = payload.groups().iter().map(|group| (group.inserted(), group.rows())).collect();
    groups.sort_unstable();
    assert_eq!(groups, [(false, 2), (true, 1)]);
}

#[test]
fn what_a_sync_finds_noted_is_folded_in_slices() {
    let (mut a, mut b) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)");
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT i, i FROM n; UPDATE t SET v = 0 WHERE id % 2 = 0",
    );
    a.replica.prepare(Goal { push: true, pull: true }, false).unwrap();
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_log"), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_versions"), 3);
    assert_eq!(a.world.pauses.get(), 2, "the lock is free between them");
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn versions_never_go_back_after_a_rollback() {
    let (mut a, _) = pair(ITEMS);
    a.run(FOUR);
    a.replica.fold().unwrap();
    let version = a.replica.version().unwrap();
    a.run("BEGIN; DELETE FROM items");
    assert!(a.replica.payload_encode(0, None).unwrap_err().to_string().contains("commit first"));
    assert_eq!(a.replica.fold().unwrap().rows, 4);
    a.run("ROLLBACK");
    a.world.now.set(1_000);
    a.run("UPDATE items SET a = 'x' WHERE id = '1'");
    a.replica.fold().unwrap();
    assert!(a.replica.version().unwrap() > version);
    assert!(a.clocks("items").values().all(|clock| clock.starts_with("life 1 ")));
}

#[test]
fn notes_in_a_layout_that_nobody_knows_are_dropped() {
    let (mut a, mut b) = pair(ITEMS);
    a.run(FOUR);
    // As they come with a log that was copied by hand.
    a.run("INSERT INTO cloudsync_log SELECT at, 4711, what, k0, o0 FROM cloudsync_log LIMIT 2");
    assert_eq!(a.replica.fold().unwrap().rows, 4);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_log"), 0);
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "items");
}

#[test]
fn a_key_that_a_foreign_key_turned_into_a_number_is_found_again() {
    let (mut a, mut b) = pair("CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL, v)");
    a.run("INSERT INTO parent VALUES('07', 1), ('7', 1), ('7.0', 1), ('x', 1), ('1e1', 1), ('8', 1)");
    exchange(&mut a, &mut b);
    // As some versions of SQLite note it after a look for children by an index of an INTEGER column.
    let notes = |from: &str, to: &str| format!("UPDATE cloudsync_log SET k0 = {to} WHERE k0 = {from}");
    a.run("DELETE FROM parent WHERE id IN ('07', '1e1')");
    a.run("INSERT INTO parent VALUES('9.0', 1); UPDATE parent SET v = 2 WHERE id = '8'");
    for (from, to) in [("'07'", "7"), ("'1e1'", "10"), ("'9.0'", "9"), ("'8'", "8")] {
        a.run(&notes(from, to));
    }
    a.replica.fold().unwrap();
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "parent");
    assert_eq!(b.dump("parent"), ["'7',1", "'7.0',1", "'8',2", "'9.0',1", "'x',1"]);
    assert!(a.clocks("parent").len() == 7);
}

#[test]
fn a_key_that_became_a_number_means_those_that_look_like_it_and_no_others() {
    let (mut a, _) =
        pair("CREATE TABLE t(p TEXT NOT NULL, q TEXT NOT NULL, id TEXT NOT NULL, v, PRIMARY KEY(p, q, id))");
    // A packed text begins with the byte of a 1.
    a.run(
        "INSERT INTO t VALUES('x', 'y1z', '0', 1), ('x', 'y1z', '00', 1), ('x1y', 'z', '0', 1), ('x', 'y1z', 'x', 1),
         ('x', 'y1z', '1', 1)",
    );
    a.replica.fold().unwrap();
    a.run("UPDATE t SET v = 2 WHERE p = 'x' AND id = '0'; UPDATE cloudsync_log SET k2 = 0");
    assert_eq!(a.replica.fold().unwrap().rows, 2);
}

#[test]
fn a_note_from_the_end_of_time_leaves_room_for_later_ones() {
    let (mut a, _) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)");
    a.run_at(i64::MAX as u64, "INSERT INTO t VALUES(1, 1)");
    let first = a.clocks("t");
    a.run("UPDATE t SET v = 2");
    let second = a.clocks("t");
    assert_ne!(first, second);
    a.run("UPDATE t SET v = 3");
    assert_ne!(second, a.clocks("t"));
}

#[test]
fn what_went_unseen_is_found_by_any_slice_that_has_a_note_of_it() {
    let (mut a, _) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)");
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
         INSERT INTO t SELECT i, i FROM n",
    );
    a.replica.fold().unwrap();
    a.run("UPDATE t SET v = 0");
    a.run_unseen("DELETE FROM t WHERE id IN (1, 9000)");
    a.replica.prepare(Goal { push: true, pull: true }, false).unwrap();
    assert_eq!(a.clocks("t").values().filter(|clock| clock.starts_with("life 2 ")).count(), 2);
}
