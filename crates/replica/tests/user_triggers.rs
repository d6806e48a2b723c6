//! The app's own triggers and remote changes: what they do outside of synced tables happens, what they would write to
//! synced tables does not.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;

use bench::{Device, Folder, NOW, assert_same, exchange, pair, sync_by_payload};
use cloudsync_replica::ForeignKeys;
use rusqlite::config::DbConfig;

/// A table with a trigger for each verb that writes a counter, a trail with random ids and a plain log.
const EFFECTS: &str = "CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, v TEXT, changed INT DEFAULT 0);
    CREATE TABLE totals(id TEXT PRIMARY KEY NOT NULL, n INT NOT NULL DEFAULT 0);
    CREATE TABLE audit(id TEXT PRIMARY KEY NOT NULL, what TEXT);
    CREATE TABLE trash(id TEXT PRIMARY KEY NOT NULL, v TEXT);
    CREATE TABLE log(what);
    CREATE TRIGGER came AFTER INSERT ON items BEGIN
        UPDATE totals SET n = n + 1 WHERE id = 'items';
        INSERT INTO audit VALUES(lower(hex(randomblob(16))), 'came ' || NEW.id);
        INSERT INTO log VALUES('came ' || NEW.id); END;
    CREATE TRIGGER changed AFTER UPDATE OF v ON items BEGIN
        UPDATE items SET changed = changed + 1 WHERE id = NEW.id;
        INSERT OR REPLACE INTO audit VALUES(lower(hex(randomblob(16))), 'changed ' || NEW.id);
        INSERT INTO log VALUES('changed ' || NEW.id); END;
    CREATE TRIGGER went BEFORE DELETE ON items BEGIN
        UPDATE totals SET n = n - 1 WHERE id = 'items';
        INSERT INTO trash VALUES(OLD.id, OLD.v) ON CONFLICT(id) DO UPDATE SET v = v || excluded.v;
        INSERT INTO log VALUES('went ' || OLD.id); END";
const SYNCED: [&str; 4] = ["items", "totals", "audit", "trash"];

fn assert_all_same(a: &mut Device, b: &mut Device) {
    SYNCED.iter().for_each(|table| assert_same(a, b, table));
}

/// Nothing of ours is left on the connection, and nothing counts as written here.
fn assert_clean(device: &mut Device) {
    assert_eq!(device.rows("SELECT name FROM temp.sqlite_master WHERE name LIKE 'cloudsync%'"), [""; 0]);
    assert_eq!(device.replica.fold().unwrap().rows, 0);
}

#[test]
fn effects_on_synced_tables_are_the_authors_alone_and_others_happen_everywhere() {
    for recursive in ["OFF", "ON"] {
        let (mut a, mut b) = pair(EFFECTS);
        let mut c = Device::new(3, EFFECTS);
        for device in [&a, &b, &c] {
            device.run(&format!("PRAGMA recursive_triggers = {recursive}"));
        }
        a.run("INSERT INTO totals VALUES('items', 0); INSERT INTO items(id, v) VALUES('1', 'a'), ('2', 'b'), ('3', 'c')");
        sync_by_payload(&mut a, &mut b);
        assert_clean(&mut b);
        assert_eq!(b.get::<i64>("SELECT n FROM totals"), 3);
        assert_eq!(b.get::<i64>("SELECT count(*) FROM audit"), 3);
        assert_eq!(b.dump("log"), ["'came 1'", "'came 2'", "'came 3'"]);
        b.run("UPDATE items SET v = 'x' WHERE id < '3'; DELETE FROM items WHERE id = '1'");
        for _ in 0..2 {
            exchange(&mut b, &mut c);
            exchange(&mut b, &mut a);
        }
        assert_all_same(&mut a, &mut b);
        assert_all_same(&mut a, &mut c);
        assert_clean(&mut c);
        assert_eq!(c.dump("items"), ["'2','x',1", "'3','c',0"]);
        assert_eq!(c.dump("totals"), ["'items',2"]);
        assert_eq!(c.dump("trash"), ["'1','x'"]);
        assert_eq!(c.get::<i64>("SELECT count(*) FROM audit"), 5);
        // What came and went between two syncs came nowhere else.
        assert_eq!(c.dump("log"), ["'came 2'", "'came 3'"]);
        assert_eq!(a.dump("log"), ["'came 1'", "'came 2'", "'came 3'", "'changed 2'", "'went 1'"]);
    }
}

#[test]
fn on_a_connection_of_our_own_guards_stay_until_tables_or_triggers_change() {
    let (mut a, mut b) = pair(EFFECTS);
    b.replica.own_connection(ForeignKeys::Ignored);
    let guards = |b: &Device| b.rows("SELECT name FROM temp.sqlite_master WHERE name LIKE 'cloudsync%'");
    let version = |b: &Device| b.get::<i64>("PRAGMA temp.schema_version");
    let next = |a: &mut Device, id: &str| {
        a.run(&format!("INSERT INTO items(id, v) VALUES('{id}', 'a')"));
        a.encode()
    };
    a.run("INSERT INTO totals VALUES('items', 0)");
    b.apply(&next(&mut a, "1")).unwrap();
    let (kept, made) = (guards(&b), version(&b));
    assert!(!kept.is_empty());
    b.apply(&next(&mut a, "2")).unwrap();
    assert_eq!((guards(&b), version(&b)), (kept, made));
    assert_all_same(&mut a, &mut b);
    // Between applies everything passes.
    b.run("INSERT INTO totals VALUES('own', 1); DELETE FROM totals WHERE id = 'own'");
    assert_eq!(b.get::<i64>("SELECT changes()"), 1);
    b.replica.fold().unwrap();
    // Another replica on the connection is handed them, or begins anew.
    let handed = b.replica.take_guards();
    assert_eq!(version(&b), made);
    drop(handed);
    assert!(guards(&b).is_empty());
    b.apply(&next(&mut a, "3")).unwrap();

    b.run(
        "CREATE TABLE copies(id TEXT PRIMARY KEY NOT NULL);
        CREATE TRIGGER copied AFTER INSERT ON items BEGIN INSERT INTO copies VALUES(NEW.id); END",
    );
    b.replica.init("copies", "cls", 0).unwrap();
    b.apply(&next(&mut a, "4")).unwrap();
    assert_eq!(b.get::<i64>("SELECT count(*) FROM copies"), 0);
    b.run("DROP TRIGGER copied; DROP TRIGGER came; DROP TRIGGER changed; DROP TRIGGER went");
    b.apply(&next(&mut a, "5")).unwrap();
    assert!(guards(&b).is_empty());
    assert_eq!(b.dump("totals"), ["'items',5"]);
}

#[test]
fn a_search_index_is_right_after_every_kind_of_change() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT COLLATE NOCASE UNIQUE, body TEXT);
        CREATE VIRTUAL TABLE search USING fts5(title, body, content = 'notes');
        CREATE TRIGGER i AFTER INSERT ON notes BEGIN
            INSERT INTO search(rowid, title, body) VALUES(NEW.rowid, NEW.title, NEW.body); END;
        CREATE TRIGGER d AFTER DELETE ON notes BEGIN
            INSERT INTO search(search, rowid, title, body) VALUES('delete', OLD.rowid, OLD.title, OLD.body); END;
        CREATE TRIGGER u AFTER UPDATE ON notes BEGIN
            INSERT INTO search(search, rowid, title, body) VALUES('delete', OLD.rowid, OLD.title, OLD.body);
            INSERT INTO search(rowid, title, body) VALUES(NEW.rowid, NEW.title, NEW.body); END";
    let (mut a, mut b) = pair(schema);
    let check = |b: &mut Device, hits: &[(&str, i64)]| {
        b.run("INSERT INTO search(search, rank) VALUES('integrity-check', 1)");
        for (word, count) in hits {
            assert_eq!(b.get::<i64>(&format!("SELECT count(*) FROM search('{word}')")), *count, "{word}");
        }
        assert_clean(b);
    };
    a.run("INSERT INTO notes VALUES('1', 'alpha', 'one'), ('2', 'beta', 'two'), ('3', 'gamma', 'three')");
    exchange(&mut a, &mut b);
    check(&mut b, &[("alpha", 1), ("two", 1), ("three", 1)]);
    a.run("UPDATE notes SET title = 'delta' WHERE id = '1'; DELETE FROM notes WHERE id = '2'");
    exchange(&mut a, &mut b);
    check(&mut b, &[("alpha", 0), ("delta", 1), ("beta", 0)]);
    // Titles that change places are taken out and put back.
    a.run(
        "UPDATE notes SET title = 'x' WHERE id = '1'; UPDATE notes SET title = 'delta' WHERE id = '3';
        UPDATE notes SET title = 'gamma' WHERE id = '1'",
    );
    assert_eq!(sync_by_payload(&mut a, &mut b), 2);
    check(&mut b, &[("gamma", 1), ("delta", 1)]);
    // A new life, seen at once.
    a.run("DELETE FROM notes WHERE id = '1'");
    a.replica.fold().unwrap();
    a.run("INSERT INTO notes VALUES('1', 'again', 'new')");
    exchange(&mut a, &mut b);
    check(&mut b, &[("again", 1), ("gamma", 0), ("one", 0)]);
    assert_same(&mut a, &mut b, "notes");
}

#[test]
fn triggers_over_views_other_tables_and_odd_names_are_guarded() {
    // From an unsynced table on, through a view, into a table whose name needs quotes; keys of several columns.
    let odd = "CREATE TABLE items(a INT NOT NULL, b TEXT COLLATE NOCASE NOT NULL, v, PRIMARY KEY(b, a)) WITHOUT ROWID;
        CREATE TABLE log(what);
        CREATE TABLE \"it's \"\"odd\"\"\"(id TEXT PRIMARY KEY NOT NULL, n INT);
        CREATE VIEW door AS SELECT id, n FROM \"it's \"\"odd\"\"\";
        CREATE TRIGGER on_log AFTER INSERT ON log BEGIN INSERT INTO door VALUES(NEW.what, 1); END;
        CREATE TRIGGER on_door INSTEAD OF INSERT ON door BEGIN
            INSERT INTO \"it's \"\"odd\"\"\" VALUES(lower(hex(randomblob(8))), NEW.n);
            UPDATE OR REPLACE 'it''s \"odd\"' SET n = n + 1; END;
        CREATE TRIGGER on_items AFTER INSERT ON items BEGIN INSERT INTO log VALUES(NEW.a); END;
        CREATE TRIGGER on_update AFTER UPDATE ON items BEGIN INSERT INTO log VALUES(NEW.a);
            UPDATE items SET a = a + 100 WHERE a = NEW.a; END";
    let (mut a, mut b) = pair(odd);
    a.run("INSERT INTO items VALUES(1, 'Ab', x'00'), (2, 'x', 1.5)");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "items");
    assert_same(&mut a, &mut b, "it's \"odd\"");
    assert_eq!(b.get::<i64>("SELECT count(*) FROM door"), 2);
    assert_eq!(b.dump("log"), ["1", "2"]);
    // A key that changes only its letters' case, and one that becomes another row.
    a.run("UPDATE items SET b = 'aB' WHERE a = 1; UPDATE items SET a = 3 WHERE b = 'x'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "items");
    assert_same(&mut a, &mut b, "it's \"odd\"");
    assert_clean(&mut b);
}

#[test]
fn inside_the_apps_transaction_cascades_happen_and_triggers_are_guarded() {
    let schema = "CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE child(id TEXT PRIMARY KEY NOT NULL, up REFERENCES parent ON DELETE CASCADE);
        CREATE TABLE grandchild(id TEXT PRIMARY KEY NOT NULL, up REFERENCES child ON DELETE SET NULL);
        CREATE TABLE audit(id TEXT PRIMARY KEY NOT NULL, what);
        CREATE TABLE log(what);
        CREATE TRIGGER p AFTER DELETE ON parent BEGIN
            INSERT INTO audit VALUES(hex(randomblob(8)), OLD.id); DELETE FROM child WHERE id = 'kept'; END;
        CREATE TRIGGER c AFTER DELETE ON child BEGIN
            INSERT INTO audit VALUES(hex(randomblob(8)), OLD.id); INSERT INTO log VALUES(OLD.id); END";
    let (mut a, mut b) = pair(schema);
    a.run("INSERT INTO parent VALUES('p', 1), ('q', 1)");
    exchange(&mut a, &mut b);
    b.run("PRAGMA foreign_keys = ON");
    b.run("INSERT INTO child VALUES('gone', 'p'), ('kept', 'q'); INSERT INTO grandchild VALUES('g', 'gone')");
    b.replica.fold().unwrap();
    a.run("DELETE FROM parent WHERE id = 'p'");
    let payload = a.encode();
    b.run("BEGIN");
    b.apply(&payload).unwrap();
    assert_eq!(b.rows("SELECT name FROM temp.sqlite_master"), [""; 0]);
    b.run("COMMIT");
    assert_eq!(b.dump("child"), ["'kept','q'"]);
    assert_eq!(b.dump("grandchild"), ["'g',NULL"]);
    assert_eq!(b.dump("log"), ["'gone'"]);
    assert_eq!(b.dump("audit"), a.dump("audit"));
    // The cascades are writes of this device, and travel on.
    assert_eq!(b.replica.fold().unwrap().rows, 2);
    exchange(&mut b, &mut a);
    for table in ["parent", "child", "grandchild", "audit"] {
        assert_same(&mut a, &mut b, table);
    }
}

#[test]
fn what_is_undone_or_fails_leaves_no_guard() {
    let (mut a, mut b) = pair(EFFECTS);
    a.run("INSERT INTO items(id, v) VALUES('1', 'a')");
    let payload = a.encode();
    b.run("BEGIN");
    b.apply(&payload).unwrap();
    b.run("ROLLBACK");
    assert_clean(&mut b);
    b.apply(&payload[1..]).unwrap_err();
    a.run_at(NOW + 1_000_000, "INSERT INTO items(id, v) VALUES('2', 'ahead')");
    let ahead = a.encode();
    for begin in ["SELECT 1", "BEGIN"] {
        b.run(begin);
        b.apply(&ahead).unwrap_err();
        assert_eq!(b.rows("SELECT name FROM temp.sqlite_master"), [""; 0]);
        b.run(if begin == "BEGIN" { "COMMIT" } else { begin });
    }
    // The app's own triggers do all they do.
    b.run("INSERT INTO totals VALUES('items', 0); INSERT INTO items(id, v) VALUES('own', 'b')");
    assert_eq!(b.dump("totals"), ["'items',1"]);
    assert_eq!(b.dump("audit").len(), 1);
    b.apply(&payload).unwrap();
    assert_eq!(b.dump("totals"), ["'items',1"]);
    assert_eq!(b.dump("audit").len(), 2);
}

#[test]
fn a_row_at_which_a_trigger_rolls_back_waits_and_the_others_come() {
    let plain = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)";
    let mut a = Device::new(1, plain);
    let mut b = Device::new(
        2,
        &format!(
            "{plain}; CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.v = 'x' BEGIN SELECT RAISE(ROLLBACK, 'never'); END"
        ),
    );
    a.run("INSERT INTO t VALUES('1', 'a'), ('2', 'x'), ('3', 'c'), ('4', 'x')");
    let payload = a.encode();
    // Inside the app's transaction nothing can be done again: the trigger has ended it.
    b.run("BEGIN");
    let error = b.apply(&payload).unwrap_err().to_string();
    assert!(error.contains("never"), "{error}");
    assert!(b.sql.is_autocommit());
    assert_eq!((b.dump("t").len(), b.dump("cloudsync_clocks").len(), b.quarantine()), (0, 0, 0));
    assert_clean(&mut b);
    assert_eq!(b.apply(&payload).unwrap(), 2);
    assert_eq!(b.dump("t"), ["'1','a'", "'3','c'"]);
    let reasons: Vec<String> = b.column("SELECT reason FROM cloudsync_quarantine");
    assert_eq!(reasons.len(), 2);
    assert!(reasons.iter().all(|reason| reason.contains("rolls back") && reason.contains("never")));
    assert_clean(&mut b);
    // They rest until something changes here.
    a.run("INSERT INTO t VALUES('5', 'e')");
    assert_eq!(sync_by_payload(&mut a, &mut b), 1);
    b.run("INSERT INTO t VALUES('own', 'b')");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    b.run("DROP TRIGGER no");
    sync_by_payload(&mut a, &mut b);
    sync_by_payload(&mut b, &mut a);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn what_a_trigger_ignores_waits_whatever_the_verb() {
    let plain = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)";
    for (verb, sql) in [("UPDATE", "UPDATE t SET v = 'new'"), ("DELETE", "DELETE FROM t")] {
        let (mut a, mut b) = pair(plain);
        a.run("INSERT INTO t VALUES('1', 'old')");
        exchange(&mut a, &mut b);
        b.run(&format!("CREATE TRIGGER no BEFORE {verb} ON t BEGIN SELECT RAISE(IGNORE); END"));
        a.run(sql);
        sync_by_payload(&mut a, &mut b);
        assert_eq!(
            b.column::<String>("SELECT reason FROM cloudsync_quarantine"),
            ["a trigger ignored the row"]
        );
        assert_eq!(b.dump("t"), ["'1','old'"]);
        b.run("DROP TRIGGER no");
        sync_by_payload(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
    }
}

#[test]
fn temporary_triggers_of_the_app_are_guarded_too() {
    let plain = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v); CREATE TABLE n(id TEXT PRIMARY KEY NOT NULL, n INT)";
    let (mut a, mut b) = pair(plain);
    b.run("CREATE TEMP TABLE seen(what);
        CREATE TEMP TRIGGER before_t BEFORE INSERT ON main.t BEGIN UPDATE n SET n = n + 1; INSERT INTO seen VALUES(NEW.id); END;
        CREATE TEMP TRIGGER after_t AFTER INSERT ON main.t BEGIN UPDATE n SET n = n + 1; INSERT INTO seen VALUES(NEW.id); END");
    a.run("INSERT INTO n VALUES('n', 0); INSERT INTO t VALUES('1', 1), ('2', 2)");
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_same(&mut a, &mut b, "n");
    assert_eq!(b.column::<String>("SELECT what FROM seen ORDER BY 1"), ["1", "1", "2", "2"]);
    assert_eq!(
        b.column::<String>("SELECT name FROM temp.sqlite_master WHERE type = 'trigger' ORDER BY 1"),
        ["after_t", "before_t"]
    );
}

#[test]
fn a_host_that_trusts_no_schema_or_switched_triggers_off_gets_the_same_rows() {
    let (mut a, mut b) = pair(EFFECTS);
    a.run("INSERT INTO totals VALUES('items', 0); INSERT INTO items(id, v) VALUES('1', 'a')");
    b.sql.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).unwrap();
    sync_by_payload(&mut a, &mut b);
    assert_all_same(&mut a, &mut b);
    assert_eq!(b.dump("log"), ["'came 1'"]);
    a.run("INSERT INTO items(id, v) VALUES('2', 'a')");
    b.sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    sync_by_payload(&mut a, &mut b);
    b.sql.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
    assert_all_same(&mut a, &mut b);
    assert_eq!(b.dump("log"), ["'came 1'"]);
}

#[test]
fn a_second_connection_and_an_attached_file_know_nothing_of_the_guards() {
    let folder = Folder::new();
    let mut a = Device::new(1, EFFECTS);
    let mut b = Device::open(&folder.file("b.db"), 2);
    b.run(EFFECTS);
    b.init_all();
    let other = Device::open(&folder.file("b.db"), 3);
    b.run(
        "ATTACH ':memory:' AS far; CREATE TABLE far.items(id, v); CREATE TABLE far.audit(id, what);
        CREATE TRIGGER far.t AFTER INSERT ON items BEGIN INSERT INTO audit VALUES(NEW.id, 'far'); END;
        CREATE TEMP TRIGGER copies AFTER INSERT ON main.items BEGIN INSERT INTO far_copy VALUES(NEW.id); END;
        CREATE TABLE far.far_copy(id)",
    );
    a.run("INSERT INTO items(id, v) VALUES('1', 'a')");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("far_copy"), ["'1'"]);
    other.run("INSERT INTO items(id, v) VALUES('2', 'b')");
    b.run("INSERT INTO far.items VALUES('1', 'b')");
    assert_eq!(b.get::<i64>("SELECT count(*) FROM far.audit"), 1);
    exchange(&mut b, &mut a);
    assert_all_same(&mut a, &mut b);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM audit"), 2);
}

#[test]
fn rows_with_null_in_their_key_are_the_authors_alone() {
    let schema =
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v); CREATE TABLE local(id TEXT PRIMARY KEY, what);
        CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO local(what) VALUES(NEW.id); END;
        CREATE TRIGGER u AFTER UPDATE ON t BEGIN UPDATE local SET what = NEW.v; END;
        CREATE TRIGGER d AFTER DELETE ON t BEGIN DELETE FROM local; END";
    let (mut a, mut b) = pair(schema);
    a.run("INSERT INTO t VALUES('1', 1)");
    exchange(&mut a, &mut b);
    assert_eq!((a.dump("local"), b.dump("local")), (vec!["NULL,'1'".to_owned()], vec![]));
    b.run("INSERT INTO local(what) VALUES('mine')");
    a.run("UPDATE t SET v = 2");
    exchange(&mut a, &mut b);
    a.run("DELETE FROM t");
    exchange(&mut a, &mut b);
    assert_eq!((a.dump("local"), b.dump("local")), (vec![], vec!["NULL,'mine'".to_owned()]));
    assert_eq!(b.dump("t"), [""; 0]);
}

#[test]
fn rows_without_a_whole_key_do_not_keep_others_out() {
    // The second one cannot be, for want of a key; the third has none, and takes the value of the row that comes.
    let cases = [
        ("INSERT", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v UNIQUE ON CONFLICT REPLACE);
        CREATE TABLE u(id TEXT PRIMARY KEY, v) WITHOUT ROWID;
        CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO t(v) VALUES(9); INSERT OR IGNORE INTO u(v) VALUES(9); END"),
        ("REPLACE", "CREATE TABLE t(id TEXT PRIMARY KEY, v UNIQUE ON CONFLICT FAIL);
        CREATE TABLE u(id TEXT PRIMARY KEY);
        CREATE TRIGGER i BEFORE INSERT ON t BEGIN INSERT OR REPLACE INTO t(v) VALUES(NEW.v); END"),
    ];
    for (verb, schema) in cases {
        let (mut a, mut b) = pair(schema);
        a.run(&format!("{verb} INTO t VALUES('1', 1)"));
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
        assert_eq!((b.dump("t"), b.quarantine()), (vec!["'1',1".to_owned()], 0), "{schema}");
    }
}

#[test]
fn a_row_that_an_expression_of_the_schema_cannot_take_waits_and_the_others_come() {
    let (mut a, _) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    let schemas = [
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v = 1 OR json(v) IS NOT NULL))",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v); CREATE TABLE seen(n INTEGER PRIMARY KEY);
         CREATE TRIGGER came BEFORE INSERT ON t BEGIN SELECT json(NEW.v); END",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v); CREATE INDEX i ON t(json_extract(v, '$.a'))",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, g AS (json(v)) STORED)",
    ];
    a.run("INSERT INTO t VALUES('1', 1), ('2', '{'), ('3', '[]')");
    for schema in schemas {
        let mut b = Device::new(2, schema);
        sync_by_payload(&mut a, &mut b);
        assert_eq!(b.column::<String>("SELECT id FROM t ORDER BY id"), ["1", "3"], "{schema}");
        assert_eq!(b.rows("SELECT reason FROM cloudsync_quarantine"), ["'malformed JSON'"], "{schema}");
        // It is tried again, and waits on.
        sync_by_payload(&mut a, &mut b);
        assert_eq!(b.quarantine(), 1, "{schema}");
    }
}

#[test]
fn a_trigger_that_ignores_the_other_triggers_of_its_row_is_put_behind_ours() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    a.run("INSERT INTO t VALUES('gone', 0), ('kept', 0)");
    exchange(&mut a, &mut b);
    let verbs = ["INSERT", "UPDATE", "DELETE"];
    for verb in verbs {
        a.run(&format!("CREATE TRIGGER quiet_{verb} AFTER {verb} ON t BEGIN SELECT Raise(ignore); END"));
    }
    // Nothing of ours runs until the library is used again.
    a.run("INSERT INTO t VALUES('early', 1); DELETE FROM t WHERE id = 'gone'");
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_log"), 0);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    a.run("INSERT INTO t VALUES('late', 2); UPDATE t SET v = 3 WHERE id = 'kept'; DELETE FROM t WHERE id = 'early'");
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_log"), 3);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.dump("t").len(), 2);
    // What is put right once stays so.
    a.run("CREATE INDEX i ON t(v)");
    assert_eq!(a.replica.fold().unwrap().rows, 0);
}
