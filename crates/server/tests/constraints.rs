//! Rows that the server's own table does not let in: refused one by one, told to their device, undone there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;

use bench::Device;
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_protocol::server::MAY_NOT_WRITE;
use cloudsync_protocol::verdict::{State, Verdicts};
use cloudsync_server::store::sqlite::{disable_table, enable_table};
use cloudsync_server::store::{Asker, Rights, Store};
use server::{BOTH, KEY, Server, assert_settled, sync, sync_as, sync_losing};

fn rejected(device: &Device) -> Vec<String> {
    device.rows("SELECT tbl, reason, \"row\" FROM cloudsync_rejected ORDER BY id")
}

const PLAIN: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, w);";

#[test]
fn one_bad_row_is_refused_with_its_reason_and_all_others_go_on() {
    let constraints = [
        ("v UNIQUE, w", "", "UNIQUE constraint failed: t.v", "'taken'"),
        ("v CHECK(v <> 'bad'), w", "", "CHECK constraint failed", "'bad'"),
        ("v NOT NULL, w", "", "NOT NULL constraint failed: t.v", "NULL"),
        (
            "v REFERENCES parents, w",
            "CREATE TABLE parents(id PRIMARY KEY NOT NULL);",
            "FOREIGN KEY",
            "'none'",
        ),
        (
            "v, w",
            "CREATE TRIGGER guard BEFORE INSERT ON t WHEN NEW.v = 'bad' BEGIN SELECT RAISE(ABORT, 'not today'); END;",
            "not today",
            "'bad'",
        ),
        ("v CHECK(v <> 'bad' OR json(v) IS NOT NULL), w", "", "malformed JSON", "'bad'"),
        (
            "v, w",
            "CREATE TRIGGER guard AFTER INSERT ON t WHEN NEW.v = 'bad' BEGIN SELECT abs(-9223372036854775807 - 1); END;",
            "integer overflow",
            "'bad'",
        ),
    ];
    for (columns, more, reason, bad) in constraints {
        let schema = format!("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, {columns});");
        let server = Server::new(&format!("{schema} {more}"));
        if more.contains("parents") {
            server.run("INSERT INTO parents VALUES('a'), ('b'), ('taken'), ('mended')");
        }
        let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
        b.run("INSERT INTO t VALUES('own', 'taken', 0)");
        sync(&mut b, &server);
        a.run(&format!("INSERT INTO t VALUES('1', 'a', 1), ('2', {bad}, 2), ('3', 'b', 3)"));
        let synced = sync(&mut a, &server);
        assert_eq!((synced.rejected, synced.turns), (1, 1), "{reason}");
        assert_eq!(rejected(&a).len(), 1);
        assert!(rejected(&a)[0].contains(reason), "{:?}", rejected(&a));
        assert_eq!(a.dump("t").len(), 3, "the refused row is gone, the other device's came");
        assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
        // The same row, mended, is as good as any other.
        a.run("INSERT INTO t VALUES('2', 'mended', 2); UPDATE t SET w = 4 WHERE id = '1'");
        assert_eq!(sync(&mut a, &server).rejected, 0);
        assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
        assert_eq!(b.dump("t").len(), 4);
        assert_eq!(rejected(&a).len(), 1);
    }
}

#[test]
fn what_is_kept_aside_can_be_read_and_applied_elsewhere() {
    let server = Server::new("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v <> 'bad'), w);");
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 'bad', x'00ff')");
    sync(&mut a, &server);
    assert_eq!(
        a.rows("SELECT tbl, cast(pk AS TEXT) <> '', reason, \"row\" FROM cloudsync_rejected"),
        [
            r#"'t',1,'CHECK constraint failed: v <> \'bad\'','{\"id\":\"k\",\"v\":\"bad\",\"w\":\"x\'00ff\'\"}'"#
        ]
    );
    let change: Vec<u8> = a.get("SELECT change FROM cloudsync_rejected");
    assert_eq!(b.apply(&change).unwrap(), 1);
    assert_eq!(b.dump("t"), ["'k','bad',x[00, ff]"]);
}

#[test]
fn a_refused_update_takes_the_servers_values_and_clocks_back() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v < 10), w);";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 1, 1)");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    a.run("UPDATE t SET v = 11");
    assert_eq!(sync(&mut a, &server).rejected, 1);
    assert_eq!(a.dump("t"), ["'k',1,1"]);
    // An edit of b that is older than the refused one wins, as if that had never been.
    b.run("UPDATE t SET v = 5");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(a.dump("t"), ["'k',5,1"]);
    assert_eq!(a.clocks("t"), b.clocks("t"));
}

#[test]
fn a_refused_delete_brings_the_row_back() {
    let server = Server::new(
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, w);
         CREATE TRIGGER keep BEFORE DELETE ON t BEGIN SELECT RAISE(ABORT, 'rows are kept'); END;",
    );
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 1, 1)");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    a.run("DELETE FROM t");
    assert_eq!(sync(&mut a, &server).rejected, 1);
    assert_eq!(a.dump("t"), ["'k',1,1"]);
    assert!(rejected(&a)[0].contains("rows are kept") && rejected(&a)[0].ends_with("NULL"));
    a.run("UPDATE t SET v = 2");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(b.dump("t"), ["'k',2,1"]);
}

/// Prepares a round, lets the app write, and only then brings the answer.
fn sync_with_edit_meanwhile(device: &mut Device, server: &Server, edit: &str) -> u64 {
    let request = device.replica.prepare(BOTH, true).unwrap();
    let request = Request::decode(&request).unwrap();
    device.run(edit);
    let answer = server.store.turn(&request, &KEY, device.world.now.get()).unwrap();
    let Answer::Turn(turn) = Answer::decode(&answer).unwrap() else { panic!("refused") };
    device.replica.absorb(&turn).unwrap().rows_rejected
}

#[test]
fn edits_made_after_the_round_stay_above_the_servers_row_and_are_sent() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v < 10), w);";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 1, 1)");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    b.run("UPDATE t SET w = 'by b'");
    sync(&mut b, &server);
    a.run("UPDATE t SET v = 11");
    assert_eq!(sync_with_edit_meanwhile(&mut a, &server, "UPDATE t SET w = 'later'"), 1);
    assert_eq!(a.dump("t"), ["'k',1,'later'"]);
    assert!(a.replica.has_unsent().unwrap());
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(b.dump("t"), ["'k',1,'later'"]);
    assert_eq!(a.clocks("t"), b.clocks("t"));
    // A deletion, and a row written anew, are such edits too.
    a.run("UPDATE t SET v = 12");
    assert_eq!(sync_with_edit_meanwhile(&mut a, &server, "INSERT OR REPLACE INTO t VALUES('k', 3, 3)"), 1);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(b.dump("t"), ["'k',3,3"]);
    a.run("UPDATE t SET v = 12");
    assert_eq!(sync_with_edit_meanwhile(&mut a, &server, "DELETE FROM t"), 1);
    assert_eq!(a.dump("t").len(), 0);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(b.dump("t").len(), 0);
}

#[test]
fn an_update_on_top_of_a_refused_insert_goes_with_it() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v < 10), w);";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 11, 1)");
    assert_eq!(sync_with_edit_meanwhile(&mut a, &server, "UPDATE t SET w = 'later'"), 1);
    assert_eq!(a.dump("t").len(), 0);
    assert!(rejected(&a)[0].contains("later"), "{:?}", rejected(&a));
    assert!(!a.replica.has_unsent().unwrap() || sync(&mut a, &server).rejected == 0);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_clocks"), 0);
    // But a row that was written anew is a row of its own.
    a.run("INSERT INTO t VALUES('k', 11, 1)");
    assert_eq!(sync_with_edit_meanwhile(&mut a, &server, "REPLACE INTO t VALUES('k', 1, 'anew')"), 1);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(b.dump("t"), ["'k',1,'anew'"]);
}

#[test]
fn the_answer_that_was_lost_brings_the_same_verdicts_again() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v < 10), w);";
    let server = Server::new(schema);
    let mut a = Device::new(1, PLAIN);
    a.run("INSERT INTO t VALUES('k', 1, 1), ('l', 11, 1)");
    sync_losing(&mut a, &server, &mut |turn| turn < 3);
    assert_eq!(a.dump("t"), ["'k',1,1"]);
    assert_eq!(rejected(&a).len(), 1);
    assert_settled(&server, &mut [&mut a], &["t"]);
    a.run("UPDATE t SET w = 2");
    sync(&mut a, &server);
    assert_eq!(server.rows("SELECT * FROM cloudsync_server_verdicts").len(), 0, "kept for one round only");
}

#[test]
fn children_of_a_refused_parent_are_refused_with_it() {
    let device = "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES parents);";
    let server = Server::new(
        "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL, v CHECK(v > 0));
         CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES parents);",
    );
    let (mut a, mut b) = (Device::new(1, device), Device::new(2, device));
    a.run(
        "PRAGMA foreign_keys = ON; INSERT INTO parents VALUES('good', 1), ('bad', -1);
           INSERT INTO children VALUES('1', 'good'), ('2', 'bad'), ('3', 'bad'), ('4', NULL)",
    );
    assert_eq!(sync(&mut a, &server).rejected, 3);
    assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children"]);
    assert_eq!(a.dump("children"), ["'1','good'", "'4',NULL"]);
    assert_eq!(a.rows("PRAGMA foreign_key_check").len(), 0);
}

/// Sends everything. Gives for each round whether the batch goes on and how many changes wait, and the rows refused.
fn send_all(device: &mut Device, server: &Server) -> (Vec<(bool, u64)>, u64) {
    let mut rounds = Vec::new();
    let (mut refused, mut schema) = (0, true);
    loop {
        let request = device.replica.prepare(BOTH, schema).unwrap();
        let request = Request::decode(&request).unwrap();
        schema = false;
        let Some(upload) = request.upload.clone() else { break };
        let answer = server.store.turn(&request, &KEY, device.world.now.get()).unwrap();
        let Answer::Turn(turn) = Answer::decode(&answer).unwrap() else { panic!("refused") };
        if upload.is_final {
            rounds.push((upload.continues, turn.accepted.unwrap().quarantined));
        }
        refused += device.replica.absorb(&turn).unwrap().rows_rejected;
    }
    (rounds, refused)
}

#[test]
fn a_unique_value_is_waited_for_that_a_later_round_of_the_batch_frees() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v UNIQUE, w);";
    let server = Server::in_memory(schema);
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES('first', 1, NULL), ('last', 2, NULL)");
    sync(&mut a, &server);
    // More than the chunks of one round hold; what stands in the way goes with the last chunk.
    a.run(
        "UPDATE t SET v = 3 WHERE id = 'last'; UPDATE t SET v = 2 WHERE id = 'first';
           WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 16)
           INSERT INTO t SELECT 'g filler ' || i, NULL, zeroblob(400000) FROM n",
    );
    assert_eq!(send_all(&mut a, &server), (vec![(true, 1), (false, 0)], 0));
    sync(&mut b, &server);
    assert_eq!(b.rows("SELECT id, v FROM t WHERE w IS NULL"), ["'first',2", "'last',3"]);
}

#[test]
fn a_child_waits_for_a_parent_that_a_later_round_of_the_batch_brings() {
    let device = "CREATE TABLE a_children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES z_parents, v);
        CREATE TABLE z_parents(id TEXT PRIMARY KEY NOT NULL);";
    let server = Server::in_memory(device);
    let (mut a, mut b) = (Device::new(1, device), Device::new(2, device));
    // More than the chunks of one round hold; the parent comes in the last chunk.
    a.run(
        "INSERT INTO a_children VALUES('child', 'parent', NULL), ('an orphan', 'nobody', NULL);
           WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 16)
           INSERT INTO a_children SELECT 'filler ' || i, NULL, zeroblob(400000) FROM n;
           INSERT INTO z_parents VALUES('parent')",
    );
    let (rounds, refused) = send_all(&mut a, &server);
    assert_eq!(rounds, [(true, 2), (false, 0)]);
    assert_eq!(refused, 1);
    assert_eq!(server.rows("SELECT id FROM a_children WHERE p IS NOT NULL"), ["'child'"]);
    assert_eq!(server.rows("SELECT count(*) FROM a_children WHERE length(v) = 400000"), ["16"]);
    // The fillers have done their part.
    server.run("DELETE FROM a_children WHERE p IS NULL");
    b.run("PRAGMA foreign_keys = ON");
    sync(&mut b, &server);
    assert_eq!((b.dump("a_children"), b.quarantine()), (vec!["'child','parent',NULL".to_owned()], 0));
}

#[test]
fn more_verdicts_than_one_answer_holds_come_with_further_rounds() {
    let server = Server::new("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v < 10), w);");
    let mut a = Device::new(1, PLAIN);
    a.run(
        "INSERT INTO t SELECT 'good', 1, 1;
           WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
           INSERT INTO t SELECT 'row ' || i, 11, i FROM n",
    );
    let synced = sync(&mut a, &server);
    assert_eq!((synced.rejected, synced.turns), (10_000, 3));
    assert_settled(&server, &mut [&mut a], &["t"]);
    // The rows in the server's possession count by their size.
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
           INSERT INTO t SELECT 'large ' || i, 1, randomblob(100000) FROM n",
    );
    sync(&mut a, &server);
    a.run("UPDATE t SET v = 11 WHERE id LIKE 'large%'");
    let synced = sync(&mut a, &server);
    assert_eq!(synced.rejected, 20);
    assert!(synced.turns >= 4, "{synced:?}");
    // The journal holds the last 10,000 and counts the others.
    assert_eq!(rejected(&a).len(), 10_000);
    assert_eq!(a.replica.status().unwrap()["dropped_from_rejected"], 20);
    assert_settled(&server, &mut [&mut a], &["t"]);
}

#[test]
fn a_server_row_too_large_for_verdicts_is_fetched() {
    let server = Server::new("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v CHECK(v < 10), w);");
    let mut a = Device::new(1, PLAIN);
    a.run("INSERT INTO t VALUES('k', 1, randomblob(3000000)), ('l', 1, 1)");
    sync(&mut a, &server);
    a.run("UPDATE t SET v = 11");
    let synced = sync(&mut a, &server);
    assert_eq!(synced.rejected, 2);
    assert_settled(&server, &mut [&mut a], &["t"]);
    assert_eq!(a.get::<i64>("SELECT length(w) FROM t WHERE id = 'k'"), 3_000_000);
}

#[test]
fn rows_that_exchanged_unique_values_across_chunks_get_in_together() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, pos INT UNIQUE, v);";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t SELECT value, value, zeroblob(600000) FROM json_each('[1, 2, 3, 4, 5]')");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    // Each row is more than half a chunk: they travel in several, up and down.
    a.run("UPDATE t SET pos = -pos, v = zeroblob(600001); UPDATE t SET pos = -pos % 5 + 1");
    assert_eq!(sync(&mut a, &server).rejected, 0);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(b.column::<i64>("SELECT pos FROM t ORDER BY id"), [2, 3, 4, 5, 1]);
}

#[test]
fn refused_rows_that_stand_in_one_anothers_way_are_undone_together() {
    let plain = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, pos INT UNIQUE, v);";
    let server =
        Server::new("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, pos INT UNIQUE CHECK(v <> 'bad'), v);");
    let (mut a, mut b) = (Device::new(1, plain), Device::new(2, plain));
    a.run("INSERT INTO t VALUES('1', 1, 0), ('2', 2, 0), ('3', 3, 0)");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    a.run("UPDATE t SET pos = -pos, v = 'bad'; UPDATE t SET pos = -pos % 3 + 1");
    assert_eq!(sync(&mut a, &server).rejected, 3);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(a.column::<i64>("SELECT pos FROM t ORDER BY id"), [1, 2, 3]);
    // Where a row of this device has taken the value meanwhile, the server's row waits until it is free.
    a.run("UPDATE t SET pos = 9, v = 'bad' WHERE id = '1'");
    let refused = sync_with_edit_meanwhile(&mut a, &server, "INSERT INTO t VALUES('new', 1, 0)");
    assert_eq!((refused, a.quarantine()), (1, 1));
    assert_eq!(sync(&mut a, &server).rejected, 1, "the server has that value already");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    assert_eq!(a.dump("t"), ["'1',1,0", "'2',2,0", "'3',3,0"]);
}

#[test]
fn of_a_row_of_which_only_a_part_came_the_device_sends_the_whole() {
    let server = Server::new(PLAIN);
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 1, 1)");
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
    // Somebody takes row and clock away by hand.
    server.run("DELETE FROM t; DELETE FROM cloudsync_log; DELETE FROM cloudsync_clocks");
    a.run("UPDATE t SET w = 2");
    sync(&mut a, &server);
    assert_eq!(server.rows("SELECT * FROM t"), ["'k',1,2"]);
    assert_settled(&server, &mut [&mut a, &mut b], &["t"]);
}

#[test]
fn verdicts_of_state_wanted_refuse_nothing() {
    let server = Server::new(PLAIN);
    let mut a = Device::new(1, PLAIN);
    a.run("INSERT INTO t VALUES('k', 1, 1)");
    sync(&mut a, &server);
    server.run("DELETE FROM t; DELETE FROM cloudsync_log; DELETE FROM cloudsync_clocks");
    a.run("UPDATE t SET w = 2");
    let request = a.replica.prepare(BOTH, false).unwrap();
    let request = Request::decode(&request).unwrap();
    let answer = server.store.turn(&request, &KEY, a.world.now.get()).unwrap();
    let Answer::Turn(turn) = Answer::decode(&answer).unwrap() else { panic!("refused") };
    let verdicts = Verdicts::decode(turn.verdicts).unwrap();
    assert_eq!(verdicts.list.iter().map(|verdict| verdict.state).collect::<Vec<_>>(), [State::Wanted]);
    assert_eq!(turn.accepted.unwrap().quarantined, 1);
    let absorbed = a.replica.absorb(&turn).unwrap();
    assert!(absorbed.more && absorbed.rows_rejected == 0);
    assert_eq!(rejected(&a).len(), 0);
}

#[test]
fn a_lost_answer_and_a_table_that_is_switched_off_for_a_while_cost_nobody_a_change() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v); CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL, v);";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES('k', 1)");
    assert_settled(&server, &mut [&mut a, &mut b], &["t", "other"]);
    a.run("UPDATE t SET v = 2");
    sync(&mut a, &server);
    b.run("INSERT INTO other VALUES('mine', 1)");
    let ask = |b: &mut Device, schema| {
        let request = b.replica.prepare(BOTH, schema).unwrap();
        server.store.turn(&Request::decode(&request).unwrap(), &KEY, b.world.now.get()).unwrap()
    };
    // The answer to this round is lost. It comes again, and the answer would bring a download as well.
    let lost = b.replica.prepare(Goal { push: true, pull: false }, false).unwrap();
    server.store.turn(&Request::decode(&lost).unwrap(), &KEY, b.world.now.get()).unwrap();
    disable_table(&server.path, "t").unwrap();
    for (schema, reason, says) in
        [(false, Reason::NeedSchema, "schema"), (true, Reason::Denied, "\"t\" is switched off")]
    {
        match Answer::decode(&ask(&mut b, schema)).unwrap() {
            Answer::Refusal(refusal) if refusal.reason == reason => assert!(refusal.text.contains(says)),
            other => panic!("{other:?}"),
        }
    }
    assert!(b.replica.has_unsent().unwrap());
    enable_table(&server.path, "t", "cls").unwrap();
    assert_settled(&server, &mut [&mut b, &mut a], &["t", "other"]);
    assert_eq!(b.dump("t"), ["'k',2"]);
}

#[test]
fn a_table_that_is_switched_on_again_comes_whole_to_who_synced_without_it() {
    let (table, other) = (
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v);",
        "CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL, v);",
    );
    let server = Server::new(&[table, other].concat());
    let (mut a, mut new, mut old) =
        (Device::new(1, &[table, other].concat()), Device::new(2, other), Device::new(3, other));
    a.run("INSERT INTO t VALUES('gone', 1), ('early', 1); INSERT INTO other VALUES('k', 1)");
    sync(&mut a, &server);
    sync(&mut old, &server);
    a.run("DELETE FROM t WHERE id = 'gone'; INSERT INTO t VALUES('late', 1)");
    sync(&mut a, &server);
    disable_table(&server.path, "t").unwrap();
    // The apps of these are of a version that does not have the table yet.
    sync(&mut old, &server);
    sync(&mut new, &server);
    enable_table(&server.path, "t", "cls").unwrap();
    for device in [&mut old, &mut new] {
        device.run(table);
        device.replica.init("t", "cls", 0).unwrap();
    }
    assert_settled(&server, &mut [&mut a, &mut old, &mut new], &["t", "other"]);
    assert_eq!(new.dump("t"), ["'early',1", "'late',1"]);
}

#[test]
fn what_was_written_under_a_key_that_may_only_read_is_sent_under_one_that_may_write() {
    let reader = Asker { rights: Rights { write: false, ..KEY.rights }, user: None };
    let server = Server::new(PLAIN);
    let (mut a, mut b) = (Device::new(1, PLAIN), Device::new(2, PLAIN));
    a.run("INSERT INTO t VALUES('k', 1, 1)");
    sync(&mut a, &server);
    b.run("INSERT INTO t VALUES('mine', 1, 1)");
    let before = server.rows("SELECT * FROM cloudsync_clocks");
    for _ in 0..2 {
        let mut schema = false;
        let refusal = loop {
            let request = b.replica.prepare(BOTH, schema).unwrap();
            let request = Request::decode(&request).unwrap();
            let answer = server.store.turn(&request, &reader, b.world.now.get()).unwrap();
            match Answer::decode(&answer).unwrap() {
                Answer::Refusal(refusal) if refusal.reason == Reason::NeedSchema => schema = true,
                Answer::Refusal(refusal) => break refusal,
                Answer::Turn(turn) => panic!("{turn:?}"),
            }
        };
        assert_eq!((refusal.reason, &*refusal.text), (Reason::Denied, MAY_NOT_WRITE));
        assert!(b.replica.has_unsent().unwrap());
        // What is new comes all the same to who asks for nothing else.
        sync_as(&mut b, &server, &reader, Goal { push: false, pull: true }, &mut |_| false);
        assert_eq!(b.dump("t"), ["'k',1,1", "'mine',1,1"]);
        b.run("UPDATE t SET v = v + 1 WHERE id = 'mine'; UPDATE t SET v = v - 1 WHERE id = 'mine'");
    }
    assert_eq!(server.rows("SELECT * FROM cloudsync_clocks"), before);
    assert_eq!(server.rows("SELECT count(*) FROM cloudsync_server_sites"), ["1"]);
    assert_settled(&server, &mut [&mut b, &mut a], &["t"]);
    assert_eq!(a.dump("t"), ["'k',1,1", "'mine',1,1"]);
}
