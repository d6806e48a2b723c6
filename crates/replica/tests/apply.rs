//! What a payload does to a database with constraints and triggers of its own, and what a bad one does not do.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, NOW, assert_same, exchange, pair, sync_by_payload};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)";

#[test]
fn a_payload_twice_changes_nothing_more() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b')");
    a.replica.fold().unwrap();
    a.run("DELETE FROM notes WHERE id = '2'; UPDATE notes SET title = 'x'");
    let payload = a.encode();
    assert_eq!(b.apply(&payload).unwrap(), 2);
    let version = b.replica.version().unwrap();
    assert_eq!(b.apply(&payload).unwrap(), 0);
    assert_eq!(a.apply(&payload).unwrap(), 0);
    assert_eq!(b.replica.version().unwrap(), version);
}

#[test]
fn nothing_to_send_is_a_payload_too() {
    let (mut a, mut b) = pair(NOTES);
    let payload = a.encode();
    assert_eq!(b.apply(&payload).unwrap(), 0);
}

#[test]
fn damage_anywhere_changes_nothing() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'title', 'body'), ('2', 't', 'b')");
    let payload = a.encode();
    b.run("INSERT INTO notes VALUES('3', 't', 'b')");
    let (before, version) = (b.clocks("notes"), b.replica.version().unwrap());
    for at in 0..payload.len() {
        let mut damaged = payload.clone();
        damaged[at] ^= 0x11;
        assert!(b.apply(&damaged).is_err(), "byte {at}");
        assert!(b.apply(&payload[..at]).is_err(), "cut at {at}");
    }
    assert_eq!((b.clocks("notes"), b.replica.version().unwrap()), (before, version));
    assert_eq!(b.dump("notes").len(), 1);
    assert_eq!(b.quarantine(), 0);
}

#[test]
fn a_clock_ahead_is_refused_whole_and_leaves_the_floor_alone() {
    let (mut a, mut b) = pair(NOTES);
    let floor = "SELECT coalesce((SELECT value FROM cloudsync_settings WHERE key = 'floor'), 0)";
    a.run("INSERT INTO notes VALUES('1', 'fine', 'b')");
    a.run_at(NOW + 3_600_000, "INSERT INTO notes VALUES('2', 'ahead', 'b')");
    let payload = a.encode();
    b.run_at(1_000, "INSERT INTO notes VALUES('3', 't', 'b')");
    b.replica.fold().unwrap();
    let before: i64 = b.get(floor);
    let error = b.apply(&payload).unwrap_err().to_string();
    assert!(error.contains("clock_ahead") && error.contains("notes"), "{error}");
    assert_eq!(b.dump("notes").len(), 1);
    assert_eq!(b.get::<i64>(floor), before);
    b.run_at(2_000, "UPDATE notes SET title = 'x'");
    assert!(b.clocks("notes").values().all(|clock| clock.contains("title 2000@")));
    // When the time has come it is welcome.
    b.world.now.set(NOW + 3_600_000);
    assert_eq!(b.apply(&payload).unwrap(), 2);
    assert_eq!(b.get::<i64>(floor), 2_000);
}

#[test]
fn rows_of_one_payload_do_not_raise_the_bound_for_one_another() {
    let (mut a, mut b) = pair(NOTES);
    for step in 0..100 {
        a.run_at(NOW + 60_000 + step * 900, &format!("INSERT INTO notes VALUES('{step:03}', 't', 'b')"));
    }
    let payload = a.encode();
    assert!(b.apply(&payload).unwrap_err().to_string().contains("clock_ahead"));
}

#[test]
fn a_row_that_waits_never_blocks_later_payloads_when_the_clock_goes_back() {
    let (mut a, mut b) = (
        Device::new(1, NOTES),
        Device::new(2, "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL, body TEXT)"),
    );
    a.run_at(NOW, "INSERT INTO notes VALUES('1', NULL, 'b')");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.quarantine(), 1);
    b.world.now.set(NOW - 3_600_000_000);
    let mut c = Device::new(3, NOTES);
    c.run_at(1_000, "INSERT INTO notes VALUES('2', 't', 'b')");
    assert_eq!(sync_by_payload(&mut c, &mut b), 1);
}

/// `a` sends rows of which `b` refuses the first by the constraint; the other comes in, and the first one later.
#[track_caller]
fn waits(theirs: &str, ours: &str, rows: &str, reason: &str, way: &str) {
    let (mut a, mut b) = (Device::new(1, theirs), Device::new(2, ours));
    b.run("INSERT INTO t(id, v) VALUES('own', 'taken')");
    a.run(rows);
    let (site, later) = (a.replica.site_id().unwrap(), "INSERT INTO t(id, v) VALUES('later', 'l')");
    assert!(sync_by_payload(&mut a, &mut b) > 0);
    assert_eq!(b.quarantine(), 1, "{:?}", b.rows("SELECT tbl, reason FROM cloudsync_quarantine"));
    let stored: String = b.get("SELECT reason FROM cloudsync_quarantine");
    assert!(stored.contains(reason), "{stored}");
    assert_eq!(b.get::<i64>("SELECT count(*) FROM t WHERE id = 'good'"), 1);
    // It goes on waiting without growing.
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    assert_eq!(b.quarantine(), 1);
    b.run(way);
    a.run(later);
    assert!(sync_by_payload(&mut a, &mut b) >= 2, "after {way}");
    assert_eq!(b.quarantine(), 0);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM t WHERE id = 'bad'"), 1);
    assert_eq!(a.replica.site_id().unwrap(), site);
    b.check();
}

const PLAIN: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT)";

#[test]
fn what_not_null_refuses_waits() {
    waits(
        PLAIN,
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL)",
        "INSERT INTO t VALUES('bad', NULL), ('good', 'g')",
        "NOT NULL",
        "CREATE TABLE s(id TEXT PRIMARY KEY NOT NULL, v TEXT); INSERT INTO s SELECT * FROM t; DROP TABLE t;
         ALTER TABLE s RENAME TO t",
    );
}

#[test]
fn what_a_check_refuses_waits() {
    waits(
        PLAIN,
        "CREATE TABLE lax(x); CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT CHECK(length(v) < 6))",
        "INSERT INTO t VALUES('bad', 'longer'), ('good', 'g')",
        "CHECK",
        "CREATE TABLE s(id TEXT PRIMARY KEY NOT NULL, v TEXT); INSERT INTO s SELECT * FROM t; DROP TABLE t;
         ALTER TABLE s RENAME TO t",
    );
}

#[test]
fn what_unique_refuses_waits_and_the_other_row_stays() {
    waits(
        PLAIN,
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT UNIQUE)",
        "INSERT INTO t VALUES('bad', 'taken'), ('good', 'g')",
        "UNIQUE",
        "UPDATE t SET v = 'free' WHERE id = 'own'",
    );
}

#[test]
fn what_a_trigger_refuses_or_ignores_waits() {
    for (verb, reason) in
        [("RAISE(ABORT, 'no such luck')", "no such luck"), ("RAISE(IGNORE)", "a trigger ignored")]
    {
        waits(
            PLAIN,
            &format!(
                "{PLAIN}; CREATE TRIGGER guard BEFORE INSERT ON t WHEN NEW.v = 'x' BEGIN SELECT {verb}; END"
            ),
            "INSERT INTO t VALUES('bad', 'x'), ('good', 'g')",
            reason,
            "DROP TRIGGER guard",
        );
    }
}

#[test]
fn a_child_waits_for_its_parent_where_foreign_keys_are_on() {
    let schema = "CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT, p REFERENCES parent)";
    waits(
        schema,
        &format!("PRAGMA foreign_keys = ON; {schema}"),
        "INSERT INTO t VALUES('bad', 'b', 'p'), ('good', 'g', NULL)",
        "FOREIGN KEY",
        "INSERT INTO parent VALUES('p')",
    );
}

#[test]
fn parents_are_found_by_their_own_type_and_collation() {
    // As SQLite finds them: the parent's affinity and collation count, not the child's.
    for (parent, child, pairs) in [
        ("TEXT", "", "(3, 3)"),
        ("TEXT", "INTEGER", "('3', 3)"),
        ("INTEGER", "TEXT", "(3, '3.0')"),
        ("REAL", "BLOB", "(3, '3')"),
        ("TEXT COLLATE NOCASE", "TEXT", "('Ab', 'aB')"),
        ("TEXT COLLATE RTRIM", "BLOB COLLATE NOCASE", "('3 ', 3)"),
    ] {
        let schema = format!(
            "CREATE TABLE a_child(id TEXT PRIMARY KEY NOT NULL, p {child} REFERENCES z_parent(v));
            CREATE TABLE z_parent(id TEXT PRIMARY KEY NOT NULL, v {parent} UNIQUE);"
        );
        let (mut a, mut b) = pair(&schema);
        let inserted = format!("WITH pair(v, p) AS (VALUES{pairs})");
        for device in [&a, &b] {
            device.run("PRAGMA foreign_keys = ON");
        }
        a.run(&format!(
            "{inserted} INSERT INTO z_parent SELECT 1, v FROM pair; {inserted} INSERT INTO a_child SELECT 1, p FROM pair"
        ));
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "a_child");
        assert_eq!((b.dump("a_child").len(), b.quarantine()), (1, 0), "{parent} and {child}");
    }
}

#[test]
fn children_of_a_deleted_parent_are_found_by_its_collation() {
    let schema = "CREATE TABLE parent(id TEXT COLLATE NOCASE PRIMARY KEY NOT NULL);
        CREATE TABLE child(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES parent ON DELETE CASCADE);
        CREATE TABLE local(p TEXT REFERENCES parent ON DELETE SET NULL)";
    let (mut a, mut b) = pair(schema);
    a.run("INSERT INTO parent VALUES('Ab')");
    exchange(&mut a, &mut b);
    b.run("PRAGMA foreign_keys = ON; INSERT INTO child VALUES('1', 'aB'); INSERT INTO local VALUES('aB')");
    a.run("DELETE FROM parent");
    exchange(&mut a, &mut b);
    assert_eq!((b.dump("child"), b.dump("local")), (vec![], vec!["NULL".to_owned()]));
}

#[test]
fn parents_and_children_of_one_payload_come_in_in_any_order() {
    // Tables travel in the order in which they began to sync.
    let schema =
        "CREATE TABLE a_child(id TEXT PRIMARY KEY NOT NULL, p REFERENCES z_parent, up REFERENCES a_child);
        CREATE TABLE z_parent(id TEXT PRIMARY KEY NOT NULL)";
    let (mut a, mut b) = pair(schema);
    b.run("PRAGMA foreign_keys = ON");
    a.run("INSERT INTO a_child VALUES('1', 'p', '2'), ('2', 'p', '3'), ('3', 'p', NULL); INSERT INTO z_parent VALUES('p')");
    sync_by_payload(&mut a, &mut b);
    for table in ["a_child", "z_parent"] {
        assert_same(&mut a, &mut b, table);
    }
    a.run("DELETE FROM z_parent; DELETE FROM a_child");
    sync_by_payload(&mut a, &mut b);
    for table in ["a_child", "z_parent"] {
        assert_same(&mut a, &mut b, table);
    }
}

#[test]
fn a_chain_of_unique_values_is_ordered() {
    let (mut a, mut b) = pair("CREATE TABLE t(id INTEGER PRIMARY KEY, pos INT UNIQUE)");
    a.run("INSERT INTO t VALUES(1, 1), (2, 2), (3, 3), (4, 4)");
    exchange(&mut a, &mut b);
    a.run("UPDATE t SET pos = pos + 10; UPDATE t SET pos = id + 1");
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn a_list_put_into_another_order_arrives() {
    for place in ["UNIQUE", "NOT NULL UNIQUE", "NOT NULL UNIQUE CHECK(pos > -100)"] {
        let (mut a, mut b) = pair(&format!(
            "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, pos INT {place}, v TEXT COLLATE NOCASE)"
        ));
        a.run(
            "INSERT INTO t VALUES('1', 1, 'a'), ('2', 2, 'b'), ('3', 3, 'c'), ('4', 4, 'd'), ('5', 5, 'e')",
        );
        exchange(&mut a, &mut b);
        // A swap, a cycle of three, and beside them a row that really collides.
        a.run("UPDATE t SET pos = -pos; UPDATE t SET pos = 3 - -pos WHERE id < '3'; UPDATE t SET pos = (-pos - 2) % 3 + 3 WHERE id > '2'");
        b.run("UPDATE t SET v = 'by b'; INSERT INTO t VALUES('b', 9, 'b')");
        a.run("INSERT INTO t VALUES('a', 9, 'a')");
        assert_eq!(sync_by_payload(&mut a, &mut b), 5);
        assert_eq!(b.quarantine(), 1);
        b.run("DELETE FROM t WHERE id = 'b'");
        exchange(&mut b, &mut a);
        exchange(&mut b, &mut a);
        assert_same(&mut a, &mut b, "t");
        assert_eq!(b.column::<i64>("SELECT pos FROM t ORDER BY id"), [2, 1, 4, 5, 3, 9]);
        assert_eq!(b.get::<i64>("SELECT count(*) FROM t WHERE v = 'by b'"), 5);
    }
}

#[test]
fn a_part_of_an_unknown_row_waits_until_the_whole_comes() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL, w TEXT)");
    a.run("INSERT INTO t VALUES('1', 'v', 'w')");
    a.replica.fold().unwrap();
    let since = a.replica.version().unwrap();
    a.run("UPDATE t SET w = 'new'");
    let part = a.replica.payload_encode(since, None).unwrap();
    assert_eq!(b.apply(&part).unwrap(), 0);
    assert_eq!((b.quarantine(), b.dump("t").len()), (1, 0));
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn what_waited_and_came_by_file_is_still_unsent() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT UNIQUE)");
    b.run("INSERT INTO t VALUES('own', 'taken')");
    a.run("INSERT INTO t VALUES('1', 'taken')");
    sync_by_payload(&mut a, &mut b);
    b.run("DELETE FROM t");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.column::<i64>("SELECT DISTINCT origin FROM cloudsync_versions ORDER BY 1"), [-2, -1]);
    assert_eq!(b.dump("t"), ["'1','taken'"]);
}

#[test]
fn of_more_rows_than_are_tried_at_once_each_has_its_turn() {
    let (mut a, mut b) = (
        Device::new(1, PLAIN),
        Device::new(2, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT UNIQUE)"),
    );
    b.run("INSERT INTO t VALUES('own', 'taken'), ('other', 'free soon')");
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
         INSERT INTO t SELECT printf('%05d', i), 'taken' FROM n; INSERT INTO t VALUES('99999', 'free soon')",
    );
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.quarantine(), 1_501);
    b.run("UPDATE t SET v = 'given free' WHERE id = 'other'");
    let nothing = Device::new(3, PLAIN).encode();
    let came: u64 = (0..3).map(|_| b.apply(&nothing).unwrap()).sum();
    assert_eq!(came, 1);
    assert_eq!(b.quarantine(), 1_500);
}

#[test]
fn the_apps_triggers_run_and_its_search_index_stays_right() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
        CREATE VIRTUAL TABLE search USING fts5(title, body, content = 'notes');
        CREATE TABLE seen(what);
        CREATE TRIGGER i AFTER INSERT ON notes BEGIN
            INSERT INTO search(rowid, title, body) VALUES(NEW.rowid, NEW.title, NEW.body);
            INSERT OR REPLACE INTO seen VALUES('i'); END;
        CREATE TRIGGER d AFTER DELETE ON notes BEGIN
            INSERT INTO search(search, rowid, title, body) VALUES('delete', OLD.rowid, OLD.title, OLD.body); END;
        CREATE TRIGGER u AFTER UPDATE ON notes BEGIN
            INSERT INTO search(search, rowid, title, body) VALUES('delete', OLD.rowid, OLD.title, OLD.body);
            INSERT INTO search(rowid, title, body) VALUES(NEW.rowid, NEW.title, NEW.body); END";
    let (mut a, mut b) = pair(schema);
    a.run("INSERT INTO notes VALUES('1', 'alpha', 'one'), ('2', 'beta', 'two')");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET title = 'gamma' WHERE id = '1'; DELETE FROM notes WHERE id = '2'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    for (word, hits) in [("alpha", 0), ("gamma", 1), ("beta", 0)] {
        assert_eq!(b.get::<i64>(&format!("SELECT count(*) FROM search('{word}')")), hits, "{word}");
    }
    b.run("INSERT INTO search(search, rank) VALUES('integrity-check', 1)");
    assert_eq!(b.dump("seen").len(), 2);
    // Nothing of it is noted as a write of this device.
    assert_eq!(b.replica.fold().unwrap().rows, 0);
}

#[test]
fn a_trigger_that_touches_the_row_it_watches_makes_no_change_of_its_own() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, changed INT DEFAULT 0);
        CREATE TRIGGER touch AFTER UPDATE OF v ON t BEGIN UPDATE t SET changed = changed + 1 WHERE id = NEW.id; END";
    let (mut a, mut b) = pair(schema);
    a.run("INSERT INTO t(id, v) VALUES('1', 'x')");
    exchange(&mut a, &mut b);
    a.run("UPDATE t SET v = 'y'");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.replica.fold().unwrap().rows, 0);
    assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    assert_same(&mut a, &mut b, "t");
    // Also where the trigger knows no limits, and the cell that it writes is not among those that came.
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, w, n INT DEFAULT 0)");
    a.run_at(1_000, "INSERT INTO t(id) VALUES('1')");
    exchange(&mut a, &mut b);
    b.run("CREATE TRIGGER touch AFTER UPDATE ON t BEGIN UPDATE t SET n = n + 1, w = 'touched' WHERE id = NEW.id; END");
    a.run_at(2_000, "UPDATE t SET v = 'y'");
    b.run_at(3_000, "UPDATE t SET w = 'w'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.dump("t"), ["'1','y','touched',1"]);
}

#[test]
fn the_connections_settings_are_as_before_also_after_errors() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    a.run_at(NOW + 1_000_000, "INSERT INTO notes VALUES('2', 't', 'b')");
    let payload = a.encode();
    for foreign_keys in [0, 1] {
        for triggers in [false, true] {
            b.run(&format!("PRAGMA foreign_keys = {foreign_keys}"));
            let option = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
            b.sql.set_db_config(option, triggers).unwrap();
            b.apply(&payload).unwrap_err();
            b.apply(&payload[1..]).unwrap_err();
            b.world.now.set(NOW + 1_000_000);
            b.apply(&payload).unwrap();
            b.world.now.set(NOW);
            assert_eq!(b.get::<i64>("PRAGMA foreign_keys"), foreign_keys);
            assert_eq!(b.sql.db_config(option).unwrap(), triggers);
            b.run("DELETE FROM cloudsync_clocks; DELETE FROM notes; DELETE FROM cloudsync_log");
        }
    }
}

#[test]
fn what_an_apply_sets_stays_on_a_connection_of_its_own_and_follows_the_triggers_of_the_app() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, parent TEXT REFERENCES notes)";
    let (mut a, mut b) = pair(schema);
    let option = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    let next = |a: &mut Device, id: &str, parent: &str| {
        a.run(&format!("PRAGMA foreign_keys = OFF; INSERT INTO notes VALUES('{id}', {parent})"));
        a.encode()
    };
    b.run("PRAGMA foreign_keys = OFF");
    b.replica.own_connection(cloudsync_replica::ForeignKeys::Enforced);
    b.apply(&next(&mut a, "1", "NULL")).unwrap();
    assert_eq!(b.get::<i64>("PRAGMA foreign_keys"), 0);
    assert!(!b.sql.db_config(option).unwrap());
    // Parents are looked up as the app has it, whatever the connection says.
    b.apply(&next(&mut a, "2", "'none'")).unwrap();
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_quarantine"), 1);
    // Triggers run from the time that there are some, and no longer.
    b.run("CREATE TABLE came(id); CREATE TRIGGER came AFTER INSERT ON notes BEGIN INSERT INTO came VALUES(NEW.id); END");
    b.apply(&next(&mut a, "3", "'1'")).unwrap();
    assert_eq!(b.get::<i64>("SELECT count(*) FROM came WHERE id = '3'"), 1);
    assert!(b.sql.db_config(option).unwrap());
    b.run("DROP TRIGGER came");
    b.apply(&next(&mut a, "4", "'3'")).unwrap();
    assert!(!b.sql.db_config(option).unwrap());
    assert_eq!(b.get::<i64>("SELECT count(*) FROM notes"), 3);
}

#[test]
fn encode_since_a_version_gives_later_changes_only_and_cells_not_rows() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', printf('%10000d', 1)), ('2', 't', hex(randomblob(5000)))");
    exchange(&mut a, &mut b);
    let since = a.replica.version().unwrap();
    a.run("UPDATE notes SET title = 'small' WHERE id = '2'");
    let payload = a.replica.payload_encode(since, None).unwrap();
    assert!(payload.len() < 120, "{} bytes", payload.len());
    assert_eq!(b.apply(&payload).unwrap(), 1);
    assert_same(&mut a, &mut b, "notes");
    let head = a.replica.version().unwrap();
    let nothing = a.replica.payload_encode(head, None).unwrap();
    assert!(nothing.len() < 40, "{} bytes", nothing.len());
    assert_eq!(b.apply(&nothing).unwrap(), 0);
    let beyond = a.replica.payload_encode(u64::MAX, None).unwrap();
    assert_eq!(b.apply(&beyond).unwrap(), 0);
}

#[test]
fn encode_by_site_gives_the_cells_of_that_site() {
    let (mut a, mut b) = pair(NOTES);
    let mut c = Device::new(3, NOTES);
    a.run("INSERT INTO notes VALUES('1', 'by a', 'by a')");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut c);
    a.run("UPDATE notes SET title = 'newer by a'");
    b.run("UPDATE notes SET body = 'newer by b'; INSERT INTO notes VALUES('2', 'by b', 'by b')");
    exchange(&mut a, &mut b);
    let site_b = b.replica.site_id().unwrap();
    let by_b = a.replica.payload_encode(0, Some(site_b)).unwrap();
    assert_eq!(c.apply(&by_b).unwrap(), 2);
    assert_eq!(c.dump("notes"), ["'1','by a','newer by b'", "'2','by b','by b'"]);
    let stranger = cloudsync_replica::SiteId([9; 16]);
    assert!(a.replica.payload_encode(0, Some(stranger)).is_err());
}
