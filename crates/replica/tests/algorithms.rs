//! The algorithms `dws`, `aws` and `gos` between replicas.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "algorithms/grow_only.rs"]
mod grow_only;

use bench::{Device, assert_same, exchange, sync_by_payload};
use cloudsync_protocol::client::Goal;

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body)";

fn device(seed: u64, algorithm: &str, schema: &str) -> Device {
    let mut device = Device::empty(seed);
    device.run(schema);
    device.init_all_as(algorithm);
    device
}

/// Devices that all have what the first one wrote at 100.
fn devices(algorithm: &str, schema: &str, sql: &str) -> [Device; 3] {
    let mut devices = [1, 2, 3].map(|seed| device(seed, algorithm, schema));
    devices[0].run_at(100, sql);
    let payload = devices[0].encode();
    devices[1].apply(&payload).unwrap();
    devices[2].apply(&payload).unwrap();
    devices
}

/// Sends what each device had at first to all others, in every order of senders; all must end the same. Gives the rows.
fn deliver_in_all_orders(make: &dyn Fn() -> [Device; 3], table: &str) -> Vec<String> {
    let mut results = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut devices = make();
        let payloads = [0, 1, 2].map(|at| devices[at].encode());
        for (to, device) in devices.iter_mut().enumerate() {
            for from in order {
                device.apply(&payloads[from]).unwrap();
                if to != from {
                    // Once more changes nothing.
                    assert_eq!(device.apply(&payloads[from]).unwrap(), 0);
                }
            }
        }
        let [a, b, c] = &mut devices;
        assert_same(a, b, table);
        assert_same(a, c, table);
        a.check();
        results.push((a.dump(table), a.clocks(table)));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    results.remove(0).0
}

const ROW: &str = "INSERT INTO notes VALUES('1', 'title', 'body')";

#[test]
fn dws_keeps_a_row_deleted_until_an_insertion_that_has_seen_the_deletion() {
    // X writes, Y deletes, neither has seen the other: gone.
    let deleted = || {
        let [a, b, c] = devices("dws", NOTES, ROW);
        a.run_at(300, "UPDATE notes SET title = 'later'");
        b.run_at(200, "DELETE FROM notes");
        [a, b, c]
    };
    assert!(deliver_in_all_orders(&deleted, "notes").is_empty());
    // Z has seen a deletion at 200 and inserts again; X deleted at 250, which Z has not seen: gone.
    let later_deletion = || {
        let [a, mut b, mut c] = devices("dws", NOTES, ROW);
        b.run_at(200, "DELETE FROM notes");
        a.run_at(250, "DELETE FROM notes");
        sync_by_payload(&mut b, &mut c);
        c.run_at(400, "INSERT INTO notes VALUES('1', 'again', NULL)");
        [a, b, c]
    };
    assert!(deliver_in_all_orders(&later_deletion, "notes").is_empty());
    // The same with a deletion before the one that Z has seen: it counts as seen.
    let earlier_deletion = || {
        let [a, mut b, mut c] = devices("dws", NOTES, ROW);
        b.run_at(200, "DELETE FROM notes");
        a.run_at(150, "DELETE FROM notes");
        sync_by_payload(&mut b, &mut c);
        c.run_at(400, "INSERT INTO notes VALUES('1', 'again', NULL)");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&earlier_deletion, "notes"), ["'1','again',NULL"]);
}

#[test]
fn dws_rows_that_came_back_merge_their_cells() {
    let make = || {
        let [mut a, mut b, c] = devices("dws", NOTES, ROW);
        a.run_at(200, "DELETE FROM notes");
        sync_by_payload(&mut a, &mut b);
        b.run_at(300, "INSERT INTO notes VALUES('1', 'back', 'b')");
        sync_by_payload(&mut b, &mut a);
        a.run_at(400, "UPDATE notes SET title = 'A'");
        b.run_at(350, "UPDATE notes SET body = 'B'");
        // Of the life that is over.
        c.run_at(900, "UPDATE notes SET title = 'old', body = 'old'");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&make, "notes"), ["'1','A','B'"]);
}

#[test]
fn aws_brings_a_row_back_whole_by_a_write_that_the_deletion_had_not_seen() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body, real REAL, gone, made AS (title || '!'))";
    let row = "INSERT INTO notes(id, title, body, real, gone) VALUES('1', 'ti' || char(0) || 'tle', x'00ff', -0.5, NULL)";
    let make = || {
        let [a, b, c] = devices("aws", schema, row);
        a.run_at(300, "UPDATE notes SET title = 'kept'");
        b.run_at(400, "DELETE FROM notes");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&make, "notes"), ["'1','kept',x[00, ff],-0.5,NULL,'kept!'"]);
    // Who deleted it gets it back by one cell.
    let [mut a, mut b, _] = make();
    let since = a.replica.version().unwrap();
    let part = a.replica.payload_encode(since, None).unwrap();
    assert_eq!(b.apply(&part).unwrap(), 1);
    assert_eq!(b.dump("notes"), ["'1','kept',x[00, ff],-0.5,NULL,'kept!'"]);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_buried"), 0);
    // And so does whoever has the row only as a deleted one.
    let [_, mut b, _] = make();
    let mut d = device(4, "aws", schema);
    sync_by_payload(&mut b, &mut d);
    assert!(d.dump("notes").is_empty());
    assert_eq!(d.apply(&part).unwrap(), 1);
    assert_eq!(d.dump("notes"), ["'1','kept',x[00, ff],-0.5,NULL,'kept!'"]);
}

#[test]
fn aws_deletes_what_the_deletion_had_seen() {
    let make = || {
        let [mut a, mut b, c] = devices("aws", NOTES, ROW);
        a.run_at(300, "UPDATE notes SET title = 'seen'");
        sync_by_payload(&mut a, &mut b);
        b.run_at(400, "DELETE FROM notes");
        // Earlier than what the deletion had seen: it counts as seen.
        c.run_at(200, "UPDATE notes SET body = 'early'");
        [a, b, c]
    };
    assert!(deliver_in_all_orders(&make, "notes").is_empty());
    let [mut a, mut b, mut c] = make();
    for _ in 0..2 {
        exchange(&mut a, &mut b);
        exchange(&mut b, &mut c);
    }
    // Inserted again it is a row of all its new values, everywhere.
    c.run_at(500, "INSERT INTO notes(id, body) VALUES('1', 'new')");
    exchange(&mut b, &mut c);
    exchange(&mut a, &mut c);
    assert_same(&mut a, &mut b, "notes");
    assert_same(&mut a, &mut c, "notes");
    assert_eq!(a.dump("notes"), ["'1',NULL,'new'"]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_buried"), 0);
}

#[test]
fn aws_merges_cells_while_the_row_is_dead() {
    let make = || {
        let [a, b, mut c] = devices("aws", NOTES, ROW);
        let mut d = device(4, "aws", NOTES);
        sync_by_payload(&mut c, &mut d);
        // The deletion has seen 500, but neither 200 nor 600.
        c.run_at(500, "UPDATE notes SET body = 'seen'");
        c.run_at(550, "DELETE FROM notes");
        a.run_at(200, "UPDATE notes SET title = 'early'");
        b.run_at(600, "UPDATE notes SET body = 'late'");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&make, "notes"), ["'1','early','late'"]);
}

#[test]
fn aws_keeps_what_was_written_right_before_the_deletion() {
    // An update and the deletion in one fold: the values that are kept are those of the update.
    let make = || {
        let [a, b, c] = devices("aws", NOTES, ROW);
        b.run_at(300, "UPDATE notes SET title = 'last'");
        b.run_at(310, "DELETE FROM notes");
        a.run_at(400, "UPDATE notes SET body = 'A'");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&make, "notes"), ["'1','last','A'"]);
    // A row that came and went again within one fold leaves what is kept of the dead one alone.
    let make = || {
        let [a, mut b, c] = devices("aws", NOTES, ROW);
        b.run_at(300, "DELETE FROM notes");
        b.replica.fold().unwrap();
        b.run_at(400, "INSERT INTO notes VALUES('1', 'short', 'life'); DELETE FROM notes");
        a.run_at(500, "UPDATE notes SET body = 'A'");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&make, "notes"), ["'1','title','A'"]);
    // Deleted and inserted within one fold it was never dead.
    let make = || {
        let [a, b, c] = devices("aws", NOTES, ROW);
        b.run_at(300, "DELETE FROM notes; INSERT INTO notes VALUES('1', 'new', 'new')");
        a.run_at(200, "UPDATE notes SET body = 'A'");
        [a, b, c]
    };
    assert_eq!(deliver_in_all_orders(&make, "notes"), ["'1','new','new'"]);
}

#[test]
fn aws_victims_of_replace_and_of_changed_keys_come_back_whole() {
    let schema = "CREATE TABLE t(a TEXT NOT NULL, b INTEGER NOT NULL, u TEXT UNIQUE COLLATE NOCASE, v, PRIMARY KEY(b, a)) WITHOUT ROWID; \
                  CREATE UNIQUE INDEX t_v ON t(v) WHERE v > 0";
    let rows = "INSERT INTO t VALUES('x', 1, 'one', 1), ('y', 2, 'two', 2)";
    for sql in [
        "INSERT OR REPLACE INTO t VALUES('z', 3, 'ONE', 3)",
        "UPDATE OR REPLACE t SET u = 'One' WHERE b = 2",
        "REPLACE INTO t VALUES('z', 3, 'three', 1)",
        "UPDATE t SET b = 9, v = 7 WHERE a = 'x'",
        "UPDATE OR IGNORE t SET b = 9, u = NULL WHERE a = 'x'",
    ] {
        let [mut a, mut b, _] = devices("aws", schema, rows);
        b.run_at(200, sql);
        a.run_at(300, "UPDATE t SET u = 'another', v = -v WHERE a = 'x'");
        exchange(&mut a, &mut b);
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
        assert!(a.dump("t").contains(&"'x',1,'another',-1".to_owned()), "{sql}: {:?}", a.dump("t"));
        let kept: i64 = a.get("SELECT count(*) FROM cloudsync_dropped");
        assert_eq!(kept, 0);
    }
}

#[test]
fn aws_rows_die_and_come_back_beside_triggers_of_the_app() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body); \
                  CREATE TABLE log(what); \
                  CREATE TRIGGER put AFTER INSERT ON notes BEGIN INSERT INTO log VALUES('+' || NEW.title); END; \
                  CREATE TRIGGER took AFTER DELETE ON notes BEGIN INSERT INTO log VALUES('-' || OLD.title); END";
    let [mut a, mut b, _] = devices("aws", schema, ROW);
    a.run_at(200, "DELETE FROM notes");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_dropped"), 0);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_buried"), 1);
    a.run_at(300, "INSERT INTO notes VALUES('1', 'again', 'b')");
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.column::<String>("SELECT what FROM log"), ["+title", "-title", "+again"]);
}

#[test]
fn aws_rows_come_back_where_a_column_was_added() {
    let [mut a, mut b, mut c] = devices("aws", NOTES, ROW);
    b.run_at(200, "DELETE FROM notes");
    b.replica.fold().unwrap();
    a.run("ALTER TABLE notes ADD COLUMN extra DEFAULT 'd'");
    a.run_at(300, "UPDATE notes SET extra = 'mine'");
    // b and c do not know the column, but that there was a write.
    exchange(&mut a, &mut b);
    sync_by_payload(&mut b, &mut c);
    assert_eq!(b.dump("notes"), ["'1','title','body'"]);
    assert_eq!(c.dump("notes"), b.dump("notes"));
    assert_eq!(b.clocks("notes"), c.clocks("notes"));
    b.run_at(400, "DELETE FROM notes");
    b.replica.fold().unwrap();
    b.run("ALTER TABLE notes ADD COLUMN extra DEFAULT 'd'");
    c.run("ALTER TABLE notes ADD COLUMN extra DEFAULT 'd'");
    a.run_at(500, "UPDATE notes SET title = 'last'");
    for _ in 0..2 {
        exchange(&mut a, &mut b);
        exchange(&mut a, &mut c);
    }
    assert_same(&mut a, &mut b, "notes");
    assert_same(&mut a, &mut c, "notes");
    assert_eq!(b.dump("notes"), ["'1','last','body','mine'"]);
    // The triggers of the table as it is now copy the new column, too.
    a.run_at(600, "DELETE FROM notes");
    b.run_at(700, "UPDATE notes SET body = 'back'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','last','back','mine'"]);
}

#[test]
fn columns_of_dead_rows_that_come_later_are_there_when_the_row_comes_back() {
    let wide = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body, extra)";
    for algorithm in ["aws", "dws"] {
        let mut a = device(1, algorithm, wide);
        let mut b = device(2, algorithm, NOTES);
        a.run_at(100, "INSERT INTO notes VALUES('1', 't', 'b', x'01')");
        a.replica.fold().unwrap();
        a.run_at(200, "DELETE FROM notes");
        a.replica.fold().unwrap();
        if algorithm == "dws" {
            a.run_at(250, "INSERT INTO notes VALUES('1', 't', 'b', x'01')");
        }
        sync_by_payload(&mut a, &mut b);
        b.run("ALTER TABLE notes ADD COLUMN extra");
        b.replica.fold().unwrap();
        let mut c = device(3, algorithm, wide);
        if algorithm == "aws" {
            c.run_at(300, "INSERT INTO notes VALUES('1', 'new', 'new', 'new')");
            c.replica.fold().unwrap();
            let since = c.replica.version().unwrap();
            c.run_at(400, "UPDATE notes SET title = 'T'");
            let part = c.replica.payload_encode(since, None).unwrap();
            b.apply(&part).unwrap();
            assert_eq!(b.dump("notes"), ["'1','T','b',x[01]"]);
        }
        exchange(&mut a, &mut b);
        exchange(&mut b, &mut c);
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "notes");
        assert_same(&mut a, &mut c, "notes");
        assert_eq!(a.dump("notes").len(), 1);
    }
}

#[test]
fn aws_rows_whose_values_went_unnoted_are_asked_for_whole() {
    let [mut a, mut b, mut c] = devices("aws", NOTES, ROW);
    b.run_at(200, "DELETE FROM notes");
    b.replica.fold().unwrap();
    b.run("DELETE FROM cloudsync_buried");
    let since = a.replica.version().unwrap();
    a.run_at(300, "UPDATE notes SET title = 'kept'");
    let part = a.replica.payload_encode(since, None).unwrap();
    assert_eq!(b.apply(&part).unwrap(), 0);
    assert_eq!(b.quarantine(), 1);
    // What it sends of the row is that it is dead.
    sync_by_payload(&mut b, &mut c);
    assert!(c.dump("notes").is_empty());
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','kept','body'"]);
}

#[test]
fn aws_rows_from_before_stay_deleted_when_their_table_begins_again() {
    let mut a = Device::empty(1);
    a.run(NOTES);
    a.run(ROW);
    a.init_all_as("aws");
    let mut b = device(2, "aws", NOTES);
    exchange(&mut a, &mut b);
    b.run_at(500, "DELETE FROM notes");
    b.replica.fold().unwrap();
    a.replica.cleanup("notes").unwrap();
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_buried"), 0);
    a.init_all_as("aws");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert!(a.dump("notes").is_empty());
}

#[test]
fn tables_with_nothing_but_a_key_live_and_die() {
    for algorithm in ["dws", "aws", "gos"] {
        let schema = "CREATE TABLE k(a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY(a, b))";
        let make = || {
            let [mut a, mut b, c] = devices(algorithm, schema, "INSERT INTO k VALUES('x', 1), ('y', 2)");
            if algorithm != "gos" {
                a.run_at(200, "DELETE FROM k WHERE a = 'x'");
                sync_by_payload(&mut a, &mut b);
                b.run_at(300, "INSERT INTO k VALUES('x', 1)");
                c.run_at(250, "DELETE FROM k");
            }
            [a, b, c]
        };
        let rows = deliver_in_all_orders(&make, "k");
        match algorithm {
            // The insertion has not seen the second deletion.
            "dws" => assert!(rows.is_empty()),
            // The deletion has not seen the second insertion.
            "aws" => assert_eq!(rows, ["'x',1"]),
            _ => assert_eq!(rows, ["'x',1", "'y',2"]),
        }
    }
}

#[test]
fn a_payload_of_another_algorithm_is_refused_or_harmless() {
    let [mut a, _, _] = devices("aws", NOTES, ROW);
    a.run_at(200, "DELETE FROM notes");
    let dead = a.encode();
    for algorithm in ["cls", "dws", "gos"] {
        let mut other = device(5, algorithm, NOTES);
        other.run_at(300, "INSERT INTO notes VALUES('1', 'own', NULL)");
        let text = other.apply(&dead).unwrap_err().to_string();
        assert!(text.contains("\"notes\" does not merge by the algorithm"), "{text}");
        assert_eq!(other.dump("notes"), ["'1','own',NULL"]);
    }
    let mut other = device(5, "cls", NOTES);
    other.run_at(300, ROW);
    other.replica.fold().unwrap();
    other.run_at(400, "DELETE FROM notes");
    let tombstone = other.encode();
    assert!(device(6, "aws", NOTES).apply(&tombstone).is_err());
}

#[test]
fn marks_may_not_lie_ahead_of_the_clock_either() {
    let [mut a, mut b, _] = devices("aws", NOTES, ROW);
    a.run_at(200, "DELETE FROM notes");
    a.replica.fold().unwrap();
    a.world.now.set(bench::NOW + 10_000_000);
    a.run_at(bench::NOW + 10_000_000, "INSERT INTO notes VALUES('2', 't', 'b')");
    a.replica.fold().unwrap();
    a.run_at(300, "DELETE FROM notes");
    let text = b.apply(&a.encode()).unwrap_err().to_string();
    assert!(text.contains("clock_ahead"), "{text}");
}

#[test]
fn the_list_of_changes_shows_a_dead_row_as_deleted() {
    let [mut a, _, _] = devices("aws", NOTES, ROW);
    a.run_at(200, "DELETE FROM notes");
    a.replica.fold().unwrap();
    let query =
        cloudsync_replica::ChangesQuery { after: 0, last: u64::MAX, table: None, site: None, values: true };
    let mut changes = a.replica.changes(&query).unwrap();
    assert!(changes.advance().unwrap());
    let change = changes.current().unwrap();
    assert_eq!((change.column(), change.life()), (None, 2));
    assert!(change.time() > 100);
    assert!(!changes.advance().unwrap());
}

#[test]
fn only_cls_tables_have_filters() {
    for algorithm in ["dws", "aws", "gos"] {
        let [mut a, ..] = devices(algorithm, NOTES, ROW);
        let text = a.replica.set_filter("notes", "title <> 'private'").unwrap_err().to_string();
        assert!(text.contains("\"notes\"") && text.contains(algorithm), "{text}");
        a.replica.clear_filter("notes").unwrap();
    }
}

#[test]
fn an_unknown_algorithm_is_an_error_that_names_the_known_ones() {
    let mut a = Device::empty(1);
    a.run(NOTES);
    let text = a.replica.init("notes", "xyz", 0).unwrap_err().to_string();
    assert!(text.contains("'xyz'") && text.contains("cls, dws, aws, gos"), "{text}");
    a.replica.init("notes", "aws", 0).unwrap();
    let text = a.replica.init("notes", "dws", 0).unwrap_err().to_string();
    assert!(text.contains("already syncs with the algorithm aws"), "{text}");
}

#[test]
fn aws_a_row_written_and_deleted_before_a_column_came_says_nothing_of_it() {
    let [mut a, mut b, mut c] = devices("aws", NOTES, ROW);
    a.run_at(200, "DELETE FROM notes; INSERT INTO notes(id, title) VALUES('1', 'again')");
    a.run_at(300, "DELETE FROM notes");
    for device in [&mut a, &mut b, &mut c] {
        device.run("ALTER TABLE notes ADD COLUMN extra DEFAULT 'd'");
    }
    for _ in 0..2 {
        exchange(&mut a, &mut b);
        exchange(&mut a, &mut c);
    }
    assert_same(&mut a, &mut b, "notes");
    assert_same(&mut a, &mut c, "notes");
    assert!(a.dump("notes").is_empty());
}

#[test]
fn a_deletion_whose_values_nobody_can_read_is_a_deletion() {
    let [mut a, mut b, _] = devices("aws", NOTES, ROW);
    a.run("DELETE FROM notes");
    // As it comes with a file whose tables were copied by hand.
    a.run("UPDATE cloudsync_dropped SET layout = 4711");
    sync_by_payload(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), [""; 0]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_dropped"), 0);
}

#[test]
fn a_row_that_came_back_stays_so_when_it_is_replaced() {
    let [mut a, mut b, _] = devices("dws", NOTES, ROW);
    b.run_at(150, "UPDATE notes SET title = 'unseen'");
    a.run_at(200, "DELETE FROM notes");
    a.replica.fold().unwrap();
    a.run_at(300, "INSERT INTO notes VALUES('1', 'again', 'again')");
    a.replica.fold().unwrap();
    a.run_at(400, "REPLACE INTO notes VALUES('1', 'third', NULL)");
    let clocks = a.clocks("notes");
    assert!(clocks.values().all(|clock| !clock.ends_with("marks []")), "{clocks:?}");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','third',NULL"]);
}

#[test]
fn values_of_deleted_rows_are_kept_wherever_a_fold_is_cut() {
    let fold = |in_slices: bool| {
        let mut a = device(1, "aws", "CREATE TABLE t(id INTEGER PRIMARY KEY, v INT, w INT)");
        a.run_at(
            100,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
             INSERT INTO t SELECT i, i, i FROM n",
        );
        a.replica.fold().unwrap();
        // A slice ends after the deletion of one row, among the writes of the first ones, and before those of the last one.
        a.run_at(150, "DELETE FROM t WHERE id = 5");
        a.run_at(200, "UPDATE t SET v = -id");
        a.run_at(300, "UPDATE t SET w = 0 WHERE id = 1; DELETE FROM t WHERE id IN (1, 2, 9000)");
        a.run_at(400, "INSERT INTO t VALUES(2, 2, 2)");
        if in_slices {
            a.replica.prepare(Goal { push: true, pull: true }, false).unwrap();
        }
        let clocks = a.clocks("t");
        (clocks, a.rows("SELECT hex(pk), hex(cells) FROM cloudsync_buried ORDER BY pk"))
    };
    let (clocks, buried) = fold(true);
    assert_eq!(buried.len(), 3);
    assert!((clocks, buried) == fold(false), "slices make a difference");
}

#[test]
fn a_row_that_went_unseen_after_a_write_is_found_deleted() {
    let [mut a, ..] = devices("aws", NOTES, ROW);
    a.run("UPDATE notes SET title = 'later'");
    a.run_unseen("DELETE FROM notes");
    a.replica.fold().unwrap();
    assert!(a.clocks("notes").values().all(|clock| clock.starts_with("life 2 ")), "{:?}", a.clocks("notes"));
}
