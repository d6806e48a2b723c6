//! UNIQUE values that move between rows, and such that two rows want.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, assert_same, exchange, pair, sync_by_payload};

/// A list of five with places, known to both; `a` moves it and `b` takes that in.
fn moved(columns: &str, move_it: &str) -> (Device, Device) {
    let (mut a, mut b) = pair(&format!("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, {columns}, v)"));
    a.run("INSERT INTO t SELECT char(96 + value), value, 0 FROM json_each('[1, 2, 3, 4, 5]')");
    exchange(&mut a, &mut b);
    a.run(move_it);
    sync_by_payload(&mut a, &mut b);
    (a, b)
}

/// The same by way of places that nobody holds, in one transaction.
fn places(places: [i64; 5]) -> String {
    let ids = ['a', 'b', 'c', 'd', 'e'].into_iter().zip(places);
    let steps = ids.map(|(id, place)| format!("UPDATE t SET pos = {place} WHERE id = '{id}';"));
    format!("BEGIN; UPDATE t SET pos = -pos; {} COMMIT", steps.collect::<String>())
}

const UNIQUE: [&str; 4] = [
    "pos INT UNIQUE",
    "pos INT NOT NULL UNIQUE",
    "pos INT UNIQUE ON CONFLICT REPLACE",
    "pos INT NOT NULL UNIQUE ON CONFLICT IGNORE CHECK(pos > -100)",
];

#[test]
fn cycles_and_chains_of_unique_values_arrive() {
    let orders = [
        // A swap, and three rows that have nothing to do with it.
        [2, 1, 3, 4, 5],
        // A cycle of three beside a swap.
        [2, 3, 1, 5, 4],
        // A cycle of all.
        [2, 3, 4, 5, 1],
        // Chains up and down, into places that were free.
        [2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4],
        // A chain that ends in a cycle's neighbourhood: 1 goes away, 2 takes its place, the others swap.
        [9, 1, 2, 5, 4],
        [5, 4, 3, 2, 1],
    ];
    for columns in UNIQUE {
        for order in orders {
            let (mut a, mut b) = moved(columns, &places(order));
            assert_eq!(b.column::<i64>("SELECT pos FROM t ORDER BY id"), order, "{columns}");
            assert_same(&mut a, &mut b, "t");
            assert_eq!(b.replica.fold().unwrap().rows, 0, "nothing of it is a write of b");
        }
    }
}

#[test]
fn a_swap_across_two_unique_columns_arrives() {
    let (mut a, mut b) =
        pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, x UNIQUE, y UNIQUE, UNIQUE(x, y))");
    a.run("INSERT INTO t VALUES('a', 1, 2), ('b', 2, 1), ('c', 3, 3)");
    exchange(&mut a, &mut b);
    a.run(
        "BEGIN; UPDATE t SET x = -x, y = -y; UPDATE t SET x = 2, y = 3 WHERE id = 'a';
           UPDATE t SET x = 3, y = 1 WHERE id = 'b'; UPDATE t SET x = 1, y = 2 WHERE id = 'c'; COMMIT",
    );
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.dump("t"), ["'a',2,3", "'b',3,1", "'c',1,2"]);
}

#[test]
fn rows_that_collide_overwrite_nothing_whatever_the_table_declares() {
    for columns in UNIQUE {
        let (mut a, mut b) = pair(&format!("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, {columns}, v)"));
        a.run("INSERT INTO t VALUES('a', 1, 'a'), ('b', 2, 'b'), ('c', 3, 'c')");
        exchange(&mut a, &mut b);
        // A swap of two, one of which is wanted by a row of b's own: neither that nor the innocent third moves.
        b.run("INSERT INTO t VALUES('own', 9, 'own')");
        a.run(
            "BEGIN; UPDATE t SET pos = -pos WHERE id < 'c'; UPDATE t SET pos = 9, v = 'later' WHERE id = 'a';
               UPDATE t SET pos = 1 WHERE id = 'b'; COMMIT; INSERT INTO t VALUES('new', 3.0 + 7, 'new')",
        );
        let before = b.dump("t");
        sync_by_payload(&mut a, &mut b);
        assert!(b.dump("t").contains(&"'own',9,'own'".to_owned()), "{columns}: {:?}", b.dump("t"));
        assert!(b.dump("t").contains(&"'c',3,'c'".to_owned()));
        assert_eq!(b.dump("t").len(), before.len() + 1, "{columns}");
        // `a` wants 9, and `b` wants the 1 that `a` cannot leave.
        assert_eq!(
            b.quarantine(),
            2,
            "{columns}: {:?}",
            b.rows("SELECT pk, reason FROM cloudsync_quarantine")
        );
        assert!(b.dump("t").contains(&"'a',1,'a'".to_owned()));
        b.run("UPDATE t SET pos = 99 WHERE id = 'own'");
        exchange(&mut b, &mut a);
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
        assert_eq!(b.column::<i64>("SELECT pos FROM t ORDER BY id"), [9, 1, 3, 10, 99]);
    }
}

#[test]
fn a_collision_under_an_index_on_an_expression_overwrites_nothing() {
    let (mut a, mut b) = pair(
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, mail TEXT, gone INT);
         CREATE UNIQUE INDEX mails ON t(lower(mail)) WHERE gone IS NULL",
    );
    a.run("INSERT INTO t VALUES('a', 'X@y', NULL), ('gone', 'x@Y', 1)");
    b.run("INSERT INTO t VALUES('b', 'x@y', NULL)");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("t"), ["'b','x@y',NULL", "'gone','x@Y',1"]);
    assert_eq!(b.quarantine(), 1);
}

#[test]
fn what_waits_too_long_goes_and_is_counted() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v UNIQUE)";
    let ((mut a, mut b), mut c) = (pair(schema), Device::new(3, schema));
    b.run("INSERT INTO t VALUES('own', 'taken')");
    a.run("INSERT INTO t VALUES('1', 'taken')");
    c.run("INSERT INTO t VALUES('2', 'taken')");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.quarantine(), 1);
    b.run("UPDATE cloudsync_quarantine SET at = at - 366 * 24 * 3600000");
    sync_by_payload(&mut c, &mut b);
    assert_eq!(b.quarantine(), 1);
    assert_eq!(b.replica.status().unwrap()["dropped_from_quarantine"], 1);
}

#[test]
fn victims_that_only_the_row_as_it_is_stored_shows_are_found() {
    // The schema, rows, and the statement that throws one out.
    let cases = [
        // REPLACE puts the default in the place of a NULL.
        (
            "u INT NOT NULL DEFAULT 7 UNIQUE, v",
            "('1', 7, 0)",
            "INSERT OR REPLACE INTO t VALUES('2', NULL, 0)",
        ),
        (
            "u INT NOT NULL DEFAULT (3 + 4) UNIQUE, v",
            "('1', 7, 0), ('2', 8, 0)",
            "UPDATE OR REPLACE t SET u = NULL WHERE id = '2'",
        ),
        (
            "u TEXT NOT NULL DEFAULT 'X(', v",
            "('1', 'X(', 0)",
            "CREATE UNIQUE INDEX i ON t(lower(u)); REPLACE INTO t VALUES('2', NULL, 0)",
        ),
        // Only the part of an index that is an expression changes.
        (
            "u, v",
            "('1', 1, 'a'), ('2', 1, 'b')",
            "CREATE UNIQUE INDEX i ON t(u, lower(v)); UPDATE OR REPLACE t SET v = 'A' WHERE id = '2'",
        ),
    ];
    for (columns, rows, replace) in cases {
        let (index, replace) = replace.rsplit_once("; ").unwrap_or(("SELECT 1", replace));
        let (mut a, mut b) =
            pair(&format!("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, {columns}); {index}"));
        a.run(&format!("INSERT INTO t VALUES{rows}"));
        exchange(&mut a, &mut b);
        a.run(replace);
        assert_eq!(a.column::<String>("SELECT id FROM t"), ["2"], "{replace}");
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
    }
}

#[test]
fn the_row_with_the_key_that_stands_for_none_is_a_victim_too() {
    let (mut a, mut b) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)");
    a.run("INSERT INTO t VALUES(-1, 'x')");
    exchange(&mut a, &mut b);
    a.run("INSERT OR REPLACE INTO t(u) VALUES('x')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn a_row_that_waits_is_tried_again_after_a_write_of_this_device() {
    let (mut a, mut b) = pair("CREATE TABLE users(id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE)");
    a.run("INSERT INTO users VALUES('a', 'x')");
    b.run("INSERT INTO users VALUES('b', 'x')");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.quarantine(), 1);
    // Without anything new it is not tried again; a change of the schema may let it in.
    let called = "SELECT count(*) FROM cloudsync_settings WHERE key = 'quarantine_called'";
    b.replica.fold().unwrap();
    assert_eq!(b.rows(called), ["0"]);
    b.run("ALTER TABLE users ADD COLUMN name TEXT");
    b.replica.fold().unwrap();
    assert_eq!(b.rows(called), ["1"]);
    let mut retry = |sql: &str| {
        b.run(&format!("BEGIN; {sql}"));
        b.replica.fold().unwrap();
        let rows = b.replica.retry_waiting().unwrap();
        b.run("COMMIT");
        (rows, b.quarantine())
    };
    assert_eq!(retry(""), (0, 1));
    assert_eq!(retry("UPDATE users SET mail = 'y'"), (1, 0));
    assert_eq!(b.rows("SELECT id, mail FROM users ORDER BY id"), ["'a','x'", "'b','y'"]);
}

#[test]
fn a_row_that_waits_is_tried_again_after_the_bracket() {
    let users = "(id TEXT PRIMARY KEY NOT NULL, mail TEXT";
    let (mut a, mut b) = pair(&format!("CREATE TABLE users{users} UNIQUE)"));
    a.run("INSERT INTO users VALUES('a', 'x')");
    b.run("INSERT INTO users VALUES('b', 'x')");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.quarantine(), 1);
    b.replica.begin_alter("users").unwrap();
    b.run(&format!(
        "CREATE TABLE copy{users}); INSERT INTO copy SELECT * FROM users; DROP TABLE users; ALTER TABLE copy RENAME TO users"
    ));
    b.replica.commit_alter("users").unwrap();
    b.run("BEGIN");
    b.replica.fold().unwrap();
    assert_eq!(b.replica.retry_waiting().unwrap(), 1);
    b.run("COMMIT");
    assert_eq!(b.rows("SELECT id, mail FROM users ORDER BY id"), ["'a','x'", "'b','x'"]);
}
