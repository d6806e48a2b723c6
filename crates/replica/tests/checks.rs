//! Range checks: damage of every kind is found and repaired, says so, and nothing is repaired that is not damaged.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "checks/filters.rs"]
mod filters;
#[path = "bench/hub.rs"]
mod hub;
#[path = "checks/rules.rs"]
mod rules;

use bench::{Device, Folder, NOW, assert_same};
use hub::{BOTH, Hub};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, rank INTEGER)";
const ROWS: &str = "INSERT INTO notes VALUES('a', 'one', 1), ('b', 'two', 2), ('c', 'three', 3)";

/// A server and two devices with the same three rows.
fn three() -> (Hub, Device, Device) {
    let (mut hub, mut a, mut b) = (Hub::new(NOTES), Device::new(1, NOTES), Device::new(2, NOTES));
    a.run(ROWS);
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    (hub, a, b)
}

/// What a device says of its repairs: the number of rows, and what was wrong with them.
fn repairs(device: &mut Device) -> (u64, String) {
    let status = device.replica.status().unwrap();
    let repairs = &status["repairs"];
    let what =
        |damage: &serde_json::Value| format!("{} {}", damage["rows"], damage["what"].as_str().unwrap());
    let mut what: Vec<_> =
        repairs["damages"].as_array().map(|all| all.iter().map(what).collect()).unwrap_or_default();
    what.sort();
    (repairs["rows"].as_u64().unwrap_or(0), what.join(", "))
}

/// Damages a device, and checks until nothing is found any more: all are the same, and one check repaired it.
#[track_caller]
fn is_repaired(damage: &str, what: &str) -> Device {
    let (mut hub, mut a, mut b) = three();
    b.run_unseen(damage);
    let found = hub.check_idle(&mut b);
    assert!(found.rows_repaired > 0);
    assert_eq!(b.replica.has_unsent().unwrap(), found.more, "a list of repairs is nothing to send");
    hub.sync(&mut b);
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    hub.sync(&mut a);
    assert_same(&mut a, &mut b, "notes");
    assert_same(&mut hub.server, &mut b, "notes");
    assert_eq!(repairs(&mut b).1, what);
    b
}

#[test]
fn equal_replicas_are_found_equal_and_nothing_is_written() {
    let (mut hub, _, mut b) = three();
    let (before, server_before) = (b.sql.total_changes(), hub.server.sql.total_changes());
    for _ in 0..3 {
        let checked = hub.check_idle(&mut b);
        assert_eq!((checked.rows_repaired, checked.more, checked.unchecked), (0, false, false));
    }
    assert_eq!((b.sql.total_changes(), hub.server.sql.total_changes()), (before, server_before));
    assert_eq!(repairs(&mut b), (0, String::new()));
    assert_eq!(hub.looked_at, 9);
}

#[test]
fn a_value_that_was_changed_behind_the_triggers_is_put_right_and_kept_aside() {
    let b = is_repaired("UPDATE notes SET title = 'X' WHERE id = 'b'", "1 changed behind the triggers");
    assert_eq!(b.get::<String>("SELECT title FROM notes WHERE id = 'b'"), "two");
    let kept = "SELECT tbl, col_name, col_value, kind FROM cloudsync_conflicts";
    assert_eq!(b.rows(kept), ["'notes','title','X','repaired'"]);
}

#[test]
fn what_stands_before_a_large_row_is_found() {
    let (mut hub, mut a, mut b) = (Hub::new(NOTES), Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES('lost', 'one', 1), ('m-large', hex(randomblob(400000)), 2)");
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    hub.server.run_unseen(
        "DELETE FROM notes WHERE id = 'lost'; DELETE FROM cloudsync_clocks WHERE pk LIKE '%lost'",
    );
    b.run_unseen("INSERT INTO notes VALUES('behind', 'two', 3)");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 2);
    hub.sync(&mut b);
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    assert_same(&mut hub.server, &mut b, "notes");
    assert_eq!(b.column::<String>("SELECT id FROM notes ORDER BY id"), ["behind", "m-large"]);
}

#[test]
fn what_was_repaired_is_forgotten_with_its_user() {
    let mut b = is_repaired("UPDATE notes SET title = 'X' WHERE id = 'b'", "1 changed behind the triggers");
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_repairs"), 1);
    b.replica.logout(true).unwrap();
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_repairs"), 0);
    assert_eq!(repairs(&mut b), (0, String::new()));
}

#[test]
fn kinds_and_bits_of_values_count() {
    for value in ["2.0", "'2'", "-0.0", "NULL", "x'32'"] {
        let table = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, rank)";
        let (mut hub, mut a, mut b) = (Hub::new(table), Device::new(1, table), Device::new(2, table));
        a.run("INSERT INTO notes VALUES('a', 'one', 2), ('z', 'zero', 0.0)");
        for device in [&mut a, &mut b] {
            hub.sync(device);
        }
        b.run_unseen(&format!("UPDATE notes SET rank = {value}"));
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 2, "{value}");
        assert_same(&mut a, &mut b, "notes");
    }
}

/// Digests leave cells without a clock out, and the server's row does not bring them.
#[test]
fn a_value_without_a_clock_is_an_edit_that_was_not_noted() {
    for default in [
        "",
        " DEFAULT 'x'",
        " NOT NULL DEFAULT 7",
        " REAL DEFAULT 0",
        " TEXT DEFAULT 5",
        " INTEGER DEFAULT '7'",
        " BOOLEAN DEFAULT true",
    ] {
        let (mut hub, mut a, mut b) = three();
        for device in [&mut hub.server, &mut a, &mut b] {
            device.run(&format!("ALTER TABLE notes ADD COLUMN later{default}"));
        }
        for device in [&mut a, &mut b] {
            hub.sync(device);
        }
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0, "what nobody wrote is the default");
        b.run_unseen("UPDATE notes SET later = 'mine' WHERE id = 'b'");
        let checked = hub.check_idle(&mut b);
        assert_eq!((checked.rows_repaired, checked.more), (1, true), "{default}");
        hub.sync(&mut b);
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0, "{default}");
        hub.sync(&mut a);
        assert_eq!(a.get::<String>("SELECT later FROM notes WHERE id = 'b'"), "mine");
        assert_same(&mut a, &mut b, "notes");
        assert_same(&mut hub.server, &mut b, "notes");
        assert_eq!(repairs(&mut b).1, "1 written behind the triggers");
    }
}

/// Such a default is another one for each row, and nobody's edit.
#[test]
fn a_default_that_is_a_time_is_no_edit() {
    let (mut hub, mut a, mut b) = three();
    for device in [&mut hub.server, &mut b] {
        // Unlike ADD COLUMN, a table that is made anew may have such a default.
        device.replica.begin_alter("notes").unwrap();
        device.run(
            "CREATE TABLE new(id TEXT PRIMARY KEY NOT NULL, title TEXT, rank INTEGER, made TEXT DEFAULT CURRENT_TIMESTAMP);
            INSERT INTO new(id, title, rank) SELECT * FROM notes; DROP TABLE notes; ALTER TABLE new RENAME TO notes",
        );
        device.replica.commit_alter("notes").unwrap();
    }
    a.run("INSERT INTO notes VALUES('d', 'of an app that knows no such column', 4)");
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    b.run_unseen("UPDATE notes SET made = '2001-01-01 00:00:00' WHERE id = 'd'");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
}

#[test]
fn a_row_that_was_deleted_behind_the_triggers_comes_back() {
    is_repaired("DELETE FROM notes WHERE id = 'a'", "1 deleted behind the triggers");
    is_repaired("DELETE FROM notes", "3 deleted behind the triggers");
}

#[test]
fn a_row_that_was_inserted_behind_the_triggers_is_noted_and_sent() {
    let b = is_repaired("INSERT INTO notes VALUES('d', 'four', 4)", "1 inserted behind the triggers");
    assert_eq!(b.get::<i64>("SELECT count(*) FROM notes"), 4);
}

#[test]
fn a_clock_that_was_lost_comes_back() {
    let clock = "DELETE FROM cloudsync_clocks WHERE pk LIKE '%b'";
    is_repaired(clock, "1 its clock was missing");
    // With the row, or with all of them: then nothing is left that could be damaged.
    let sql = format!("{clock}; DELETE FROM notes WHERE id = 'b'");
    is_repaired(&sql, "1 missing here");
    is_repaired("DELETE FROM cloudsync_clocks", "3 its clock was missing");
    let changed = format!("{clock}; UPDATE notes SET title = 'X' WHERE id = 'b'");
    let b = is_repaired(&changed, "1 its clock was missing");
    assert_eq!(b.rows("SELECT col_value, kind FROM cloudsync_conflicts"), ["'X','repaired'"]);
}

#[test]
fn a_row_that_is_all_key_comes_back() {
    let table = "CREATE TABLE marks(a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY(a, b))";
    let (mut hub, mut a, mut b) = (Hub::new(table), Device::new(1, table), Device::new(2, table));
    a.run("INSERT INTO marks VALUES('a', 1), ('a', 2), ('b', 1)");
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    b.run_unseen("DELETE FROM marks WHERE a = 'a'; INSERT INTO marks VALUES('c', 1)");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 3);
    for device in [&mut b, &mut a] {
        hub.sync(device);
    }
    assert_same(&mut a, &mut b, "marks");
    assert_eq!(b.dump("marks").len(), 4);
}

#[test]
fn a_deleted_row_that_lost_its_clock_or_came_back_unseen() {
    for (damage, rows) in [
        ("DELETE FROM cloudsync_clocks WHERE pk LIKE '%b'", 2),
        ("INSERT INTO notes VALUES('b', 'again', 5)", 3),
        ("DELETE FROM cloudsync_clocks WHERE pk LIKE '%b'; INSERT INTO notes VALUES('b', 'again', 5)", 3),
    ] {
        let (mut hub, mut a, mut b) = three();
        a.run("DELETE FROM notes WHERE id = 'b'");
        for device in [&mut a, &mut b] {
            hub.sync(device);
        }
        b.run_unseen(damage);
        assert!(hub.check_idle(&mut b).rows_repaired > 0, "{damage}");
        for device in [&mut b, &mut a] {
            hub.sync(device);
        }
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
        assert_eq!(a.dump("notes").len(), rows, "{damage}");
        assert_same(&mut a, &mut b, "notes");
        assert_same(&mut hub.server, &mut b, "notes");
    }
}

#[test]
fn a_row_that_the_server_does_not_have_goes_without_a_tombstone_and_is_kept_aside() {
    let (mut hub, _, mut b) = three();
    // The server was damaged whole: neither row nor clock is left.
    hub.server
        .run_unseen("DELETE FROM notes WHERE id = 'b'; DELETE FROM cloudsync_clocks WHERE pk LIKE '%b'");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 1);
    assert_eq!(b.dump("notes").len(), 2);
    assert_same(&mut hub.server, &mut b, "notes");
    assert!(!b.replica.has_unsent().unwrap());
    let kept =
        "SELECT tbl, json_extract(\"row\", '$.title'), reason LIKE 'repaired:%' FROM cloudsync_rejected";
    assert_eq!(b.rows(kept), ["'notes','two',1"]);
    // What is kept is enough to bring it back.
    let change: Vec<u8> = b.get("SELECT change FROM cloudsync_rejected");
    b.apply(&change).unwrap();
    hub.sync(&mut b);
    assert_eq!(hub.server.dump("notes").len(), 3);
}

#[test]
fn a_row_that_is_gone_on_the_server_without_a_deletion_is_no_measure() {
    let (mut hub, _, mut b) = three();
    hub.server.run_unseen("DELETE FROM notes WHERE id = 'b'");
    for _ in 0..2 {
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    }
    assert_eq!(b.dump("notes").len(), 3);
}

#[test]
fn a_table_that_the_server_lost_is_sent_again_not_deleted() {
    let (mut hub, _, mut b) = three();
    hub.server.run_unseen("DELETE FROM notes; DELETE FROM cloudsync_clocks");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 3);
    hub.sync(&mut b);
    assert_same(&mut hub.server, &mut b, "notes");
    assert_eq!(b.dump("notes").len(), 3);
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
}

#[test]
fn what_the_app_writes_meanwhile_is_left_alone() {
    let (mut hub, mut a, mut b) = three();
    b.run_unseen("UPDATE notes SET title = 'X'");
    assert!(hub.turn(&mut b, BOTH).idle);
    let absorbed = hub.check_while(&mut b, |b| b.run("UPDATE notes SET rank = 9 WHERE id = 'b'")).unwrap();
    assert_eq!((absorbed.rows_repaired, absorbed.more), (2, true));
    assert_eq!(b.get::<String>("SELECT title FROM notes WHERE id = 'b'"), "X");
    hub.sync(&mut b);
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 1, "once it is sent, its other cell is put right");
    hub.sync(&mut a);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.rows("SELECT title, rank FROM notes WHERE id = 'b'"), ["'two',9"]);
}

#[test]
fn what_comes_with_the_findings_is_compared_as_it_is_then() {
    let (mut hub, mut a, mut b) = three();
    a.run("UPDATE notes SET title = 'new' WHERE id = 'a'; DELETE FROM notes WHERE id = 'c'; INSERT INTO notes VALUES('d', 'four', 4)");
    hub.sync(&mut a);
    // The request was made before b knew anything of it.
    assert_eq!(hub.check(&mut b).unwrap().rows_repaired, 0);
    assert_same(&mut a, &mut b, "notes");
}

#[test]
fn another_process_that_synced_meanwhile_makes_the_findings_void() {
    let folder = Folder::new();
    let mut hub = Hub::new(NOTES);
    let (mut a, mut b) = (Device::new(1, NOTES), Device::open(&folder.file("b.db"), 2));
    b.run(NOTES);
    b.init_all();
    a.run(ROWS);
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    let mut other = Device::open(&folder.file("b.db"), 3);
    let absorbed = hub
        .check_while(&mut b, |_| {
            // The server gives the other process what came after the findings were made.
            other.run("INSERT INTO notes VALUES('d', 'four', 4)");
            let request = other.replica.prepare(BOTH, false).unwrap();
            let request = cloudsync_protocol::message::Request::decode(&request).unwrap();
            let round = request.upload.unwrap().round;
            let accepted = cloudsync_protocol::message::Accepted {
                round,
                committed: true,
                repeated: false,
                differs: false,
                quarantined: 0,
            };
            let turn = cloudsync_protocol::message::Turn {
                epoch: 1,
                nonce: 1_000,
                now: NOW,
                accepted: Some(accepted),
                drained: true,
                cursor: request.cursor + 1,
                position: b"",
                rows_total: 0,
                verdicts: &[],
                checked: &[],
                payload: &[],
            };
            other.replica.absorb(&turn).unwrap();
        })
        .unwrap();
    // The row would be one that the server does not have.
    assert_eq!(absorbed.rows_repaired, 0);
    assert_eq!(b.dump("notes").len(), 4);
}

#[test]
fn what_was_written_while_a_table_was_disabled_stays_as_it_is() {
    let (mut hub, _, mut b) = three();
    b.replica.set_enabled("notes", false).unwrap();
    b.run("INSERT INTO notes VALUES('d', 'here only', 4); UPDATE notes SET title = 'here only' WHERE id = 'a'; DELETE FROM notes WHERE id = 'b'");
    let written = b.dump("notes");
    assert!(hub.turn(&mut b, BOTH).idle && hub.check(&mut b).is_none());
    b.replica.set_enabled("notes", true).unwrap();
    assert!(hub.turn(&mut b, BOTH).idle && hub.check(&mut b).is_none());
    assert_eq!(b.dump("notes"), written);
}

#[test]
fn tables_of_another_shape_are_not_compared() {
    let (mut hub, mut a, mut b) = three();
    b.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'x'");
    hub.sync(&mut b);
    b.run_unseen("UPDATE notes SET title = 'X' WHERE id = 'b'");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    hub.server.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'x'");
    a.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'x'");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 1, "until they are alike again");
    hub.sync(&mut a);
    assert_same(&mut a, &mut b, "notes");
}

/// A trigger of the app that changes what comes in is damage that comes back each time.
#[test]
fn a_row_that_is_damaged_again_and_again_is_left_alone() {
    let (mut hub, _, mut b) = three();
    for round in 1..=5 {
        b.run_unseen("UPDATE notes SET title = 'X' WHERE id = 'b'");
        assert_eq!(hub.check_idle(&mut b).rows_repaired, u64::from(round <= 3), "round {round}");
    }
    let status = b.replica.status().unwrap();
    assert_eq!((&status["repairs"]["rows"], &status["repairs"]["given_up"]), (&3.into(), &1.into()));
    // Tomorrow, or when it is asked for, that is tried again.
    b.world.now.set(NOW + 25 * 3_600_000);
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 1);
    b.run_unseen("UPDATE notes SET title = 'X' WHERE id = 'b'");
    b.replica.reset_sync().unwrap();
    hub.sync(&mut b);
    assert_eq!(b.get::<String>("SELECT title FROM notes WHERE id = 'b'"), "two");
}

#[test]
fn triggers_that_were_dropped_and_put_back() {
    let (mut hub, mut a, mut b) = three();
    let triggers: Vec<String> =
        b.column("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'notes'");
    let names: Vec<String> =
        b.column("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'notes'");
    for name in names {
        b.run(&format!("DROP TRIGGER \"{name}\""));
    }
    b.run("UPDATE notes SET title = 'X' WHERE id = 'a'; DELETE FROM notes WHERE id = 'b'; INSERT INTO notes VALUES('d', 'four', 4)");
    for sql in triggers {
        b.run(&sql);
    }
    hub.sync(&mut b);
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 3);
    for device in [&mut b, &mut a] {
        hub.sync(device);
    }
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(
        b.rows("SELECT id, title FROM notes ORDER BY id"),
        ["'a','one'", "'b','two'", "'c','three'", "'d','four'"]
    );
}

const LARGE: &str = "CREATE TABLE one(id INTEGER PRIMARY KEY NOT NULL, v TEXT);
    CREATE TABLE two(k TEXT NOT NULL, n INTEGER NOT NULL, v TEXT, PRIMARY KEY(k, n));
    CREATE TABLE few(id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, v TEXT)";

fn large() -> (Hub, Device, Device) {
    let (mut hub, mut a, mut b) = (Hub::new(LARGE), Device::new(1, LARGE), Device::new(2, LARGE));
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
         INSERT INTO one SELECT i * 3, 'v' || i FROM n;
         INSERT INTO two SELECT printf('%.*c', 1 + id % 7, 'k'), id, v FROM one;
         INSERT INTO few SELECT 'Row' || id, v FROM one LIMIT 100",
    );
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    (hub, a, b)
}

/// Slices go through everything, whichever place they begin at, in one process or in many that live for one sync.
#[test]
fn slices_come_by_everything_in_time() {
    for short_lived in [false, true] {
        let (mut hub, mut a, mut b) = large();
        b.run_unseen(
            "UPDATE one SET v = 'X' WHERE id IN (3, 3750, 7500); DELETE FROM two WHERE n = 4500;
             INSERT INTO two VALUES('zzzzzzzz', 1, 'new'); INSERT INTO one VALUES(1, 'first'), (8000, 'last');
             DELETE FROM cloudsync_clocks WHERE pk IN (SELECT pk FROM cloudsync_clocks LIMIT 3 OFFSET 2000)",
        );
        let mut repaired = 0;
        let mut checks = 0;
        while repaired < 10 {
            checks += 1;
            assert!(checks < if short_lived { 60 } else { 6 }, "{repaired} rows after {checks} checks");
            hub.sync(&mut b);
            let before = hub.looked_at;
            repaired += hub.check(&mut b).unwrap().rows_repaired;
            assert!(hub.looked_at - before <= 2_048 + 64);
            if short_lived {
                b.replica.take_rolling();
            }
        }
        assert_eq!(repaired, 10);
        for device in [&mut b, &mut a] {
            hub.sync(device);
        }
        for table in ["one", "two", "few"] {
            assert_same(&mut a, &mut b, table);
            assert_same(&mut hub.server, &mut b, table);
        }
    }
}

/// Everything is checked at once after a reset, at the price of what differs.
#[test]
fn a_reset_compares_everything_and_transfers_what_differs() {
    let (mut hub, mut a, mut b) = large();
    b.run_unseen("UPDATE one SET v = 'X' WHERE id = 3750");
    b.replica.reset_sync().unwrap();
    assert_eq!(b.replica.status().unwrap()["reconciling"], true);
    hub.sync(&mut b);
    assert_eq!(b.replica.status().unwrap()["reconciling"], false);
    assert_same(&mut a, &mut b, "one");
    assert_eq!(repairs(&mut b), (1, "1 changed behind the triggers".to_owned()));
    assert!(hub.looked_at >= 5_100, "all rows: {}", hub.looked_at);
    assert!(hub.checked_bytes < 12_000, "{} bytes", hub.checked_bytes);
}

#[test]
fn a_check_of_everything_goes_on_where_it_stopped() {
    let (mut hub, _, mut b) = large();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 15000)
               INSERT INTO few SELECT 'More' || i, 'v' FROM n";
    b.run(sql);
    hub.sync(&mut b);
    b.run_unseen("UPDATE few SET v = 'X' WHERE id = 'More1'; UPDATE one SET v = 'X' WHERE id = 3");
    b.replica.reset_sync().unwrap();
    assert!(hub.turn(&mut b, BOTH).unchecked);
    let first = hub.check(&mut b).unwrap();
    assert_eq!((first.rows_repaired, first.unchecked), (1, true));
    // The process ends here.
    let looked_at = hub.looked_at;
    hub.sync(&mut b);
    assert_eq!(repairs(&mut b).0, 2);
    assert!(hub.looked_at - looked_at < 20_100 - looked_at + 256, "nothing is looked at twice");
}

#[test]
fn a_row_too_large_for_an_answer_is_fetched() {
    let table = "CREATE TABLE files(id INTEGER PRIMARY KEY NOT NULL, content BLOB, name TEXT)";
    let (mut hub, mut a, mut b) = (Hub::new(table), Device::new(1, table), Device::new(2, table));
    a.run(
        "INSERT INTO files VALUES(1, zeroblob(10), 'a'), (2, zeroblob(600000), 'b'), (3, zeroblob(10), 'c')",
    );
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    b.run_unseen("DELETE FROM files WHERE id IN (2, 3)");
    for _ in 0..3 {
        hub.check_idle(&mut b);
        hub.sync(&mut b);
    }
    assert_same(&mut a, &mut b, "files");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
}

/// Rows in every state of the algorithms that keep marks and values of dead rows are found equal, too.
#[test]
fn rows_with_marks_are_found_equal() {
    for algorithm in ["dws", "aws", "gos", "cls"] {
        let device = |seed| {
            let mut device = Device::empty(seed);
            device.run(NOTES);
            device.init_all_as(algorithm);
            device
        };
        let mut hub = Hub::on(device(200));
        let (mut a, mut b) = (device(1), device(2));
        a.run(ROWS);
        for device in [&mut a, &mut b] {
            hub.sync(device);
        }
        if algorithm != "gos" {
            a.run("DELETE FROM notes WHERE id = 'a'; DELETE FROM notes WHERE id = 'b'");
            a.replica.fold().unwrap();
            a.run("INSERT INTO notes VALUES('b', 'again', 2)");
        }
        b.run("UPDATE notes SET rank = 7");
        for _ in 0..2 {
            hub.sync(&mut a);
            hub.sync(&mut b);
        }
        assert_same(&mut a, &mut b, "notes");
        for device in [&mut a, &mut b] {
            assert_eq!(hub.check_idle(device).rows_repaired, 0, "{algorithm}");
        }
        b.run_unseen("UPDATE notes SET title = 'X' WHERE id = 'c'");
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 1, "{algorithm}");
        assert_same(&mut a, &mut b, "notes");
    }
}
