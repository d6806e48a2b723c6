//! Uploads of users, judged by policies row by row.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "judged/documented.rs"]
mod documented;
mod evenly;
#[path = "judged/fixed_point.rs"]
mod fixed_point;
#[path = "judged/model.rs"]
mod model;
#[path = "judged/place.rs"]
mod place;
#[path = "constraints/server.rs"]
mod server;
#[path = "judged/timing.rs"]
mod timing;
#[path = "judged/usecases.rs"]
mod usecases;

use bench::Device;
use cloudsync_server::metrics::{Gauges, METRICS};
use cloudsync_server::policy::Verb::{Delete, Insert, Select, Update};
use place::{NOT_ALLOWED, Place};

// language=SQLite
const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT);";

/// Private journals: each sees and writes only their own.
fn journals() -> Place {
    let place = Place::new(NOTES);
    for verb in [Select, Insert, Delete] {
        place.set("notes", verb, "owner = auth_userid()");
    }
    place.set("notes", Update, "OLD.owner = auth_userid() AND NEW.owner = auth_userid()");
    place
}

#[test]
fn without_policies_users_write_nothing() {
    let place = Place::new(NOTES);
    let mut alice = place.device(1);
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 1);
    assert_eq!(place.rejected(&alice), ["notes a: not allowed, or no such row"]);
    assert!(
        place.server.rows("SELECT * FROM notes").is_empty() && alice.rows("SELECT * FROM notes").is_empty()
    );
    // What lies beside it goes on, and keys may do everything.
    let mut owner = place.device(2);
    owner.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    server::sync(&mut owner, &place.server);
    assert_eq!(place.server.rows("SELECT * FROM notes").len(), 1);
}

#[test]
fn refused_rows_that_stand_twice_in_what_is_unsent_are_not_sent_for_ever() {
    let place = Place::new(NOTES);
    let mut alice = place.device(1);
    // More than one round takes, so that verdicts come while the second copy of a row is unsent.
    let write = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12)
        INSERT INTO notes SELECT 'n' || i, 'alice', printf('%.*c', 700000, 'x') FROM n";
    for sql in [write, "DELETE FROM notes", write] {
        alice.run(sql);
        alice.replica.fold().unwrap();
    }
    let sent = place.send(&mut alice, "alice");
    assert!(sent.turns < 60, "{} turns", sent.turns);
    assert!(alice.rows("SELECT id FROM notes").is_empty() && !alice.replica.has_unsent().unwrap());
    assert_eq!(alice.get::<i64>("SELECT count(DISTINCT pk) FROM cloudsync_rejected"), 12);
}

#[test]
fn each_writes_their_own() {
    let place = journals();
    let (mut alice, mut bob) = (place.device(1), place.device(2));
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x'), ('f', 'bob', 'forged'), ('n', NULL, 'nobody')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 2);
    assert_eq!(
        place.rejected(&alice),
        ["notes f: not allowed, or no such row", "notes n: not allowed, or no such row"]
    );
    bob.run("INSERT INTO notes VALUES('b', 'bob', 'y')");
    assert_eq!(place.send(&mut bob, "bob").rejected, 0);
    alice.run("UPDATE notes SET body = 'z'; INSERT INTO notes VALUES('a2', 'alice', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    assert_eq!(
        place.server.rows("SELECT id, owner, body FROM notes"),
        ["'a','alice','z'", "'a2','alice','x'", "'b','bob','y'"]
    );
    // A row cannot be given away, and comes back as it is.
    alice.run("UPDATE notes SET owner = 'bob' WHERE id = 'a'; DELETE FROM notes WHERE id = 'a2'");
    assert_eq!(place.send(&mut alice, "alice").rejected, 1);
    assert_eq!(alice.rows("SELECT * FROM notes"), ["'a','alice','z'"]);
    assert_eq!(place.server.rows("SELECT id FROM notes"), ["'a'", "'b'"]);
}

#[test]
fn rows_of_others_are_neither_changed_nor_told_of() {
    let place = journals();
    place.server.run("INSERT INTO notes VALUES('b', 'bob', 'secret')");
    let mut eve = place.device(1);
    // She has the row from a time when she saw it, say.
    server::sync(&mut eve, &place.server);
    eve.run("UPDATE notes SET body = 'hacked'");
    let told = place.verdicts(&mut eve, "eve");
    assert_eq!(told, [(NOT_ALLOWED.to_owned(), None)]);
    assert!(eve.rows("SELECT * FROM notes").is_empty());
    // The same key as an insertion, and one that nobody has: nothing differs.
    eve.run("INSERT INTO notes VALUES('b', 'eve', 'x'), ('free', 'bob', 'x')");
    let told = place.verdicts(&mut eve, "eve");
    assert_eq!(told, [(NOT_ALLOWED.to_owned(), None), (NOT_ALLOWED.to_owned(), None)]);
    assert_eq!(place.server.rows("SELECT * FROM notes"), ["'b','bob','secret'"]);
    // Taking it over by deleting and inserting, or by a whole row with her as its owner.
    let mut eve = place.device(3);
    server::sync(&mut eve, &place.server);
    eve.run("DELETE FROM notes");
    assert_eq!(place.verdicts(&mut eve, "eve"), [(NOT_ALLOWED.to_owned(), None)]);
    let mut eve = place.device(4);
    server::sync(&mut eve, &place.server);
    eve.run("UPDATE notes SET owner = 'eve', body = 'mine'");
    place.send(&mut eve, "eve");
    assert_eq!(place.server.rows("SELECT * FROM notes"), ["'b','bob','secret'"]);
}

#[test]
fn a_deletion_that_was_refused_without_a_row_leaves_no_trace_on_its_device() {
    let place = journals();
    let mut alice = place.device(1);
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    // It comes and goes between two folds, unseen by the server.
    alice.replica.fold().unwrap();
    alice.run("DELETE FROM notes");
    let synced = place.send(&mut alice, "alice");
    assert_eq!((synced.rejected, place.rejected(&alice).len()), (0, 0));
    assert!(!alice.replica.has_unsent().unwrap());
    // The key can be used again.
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'y')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    assert_eq!(place.server.rows("SELECT * FROM notes"), ["'a','alice','y'"]);
}

#[test]
fn seen_rows_that_may_not_be_written_come_back() {
    let place = Place::new(NOTES);
    place.set("notes", Select, "1");
    place.server.run("INSERT INTO notes VALUES('b', 'bob', 'y'), ('c', 'bob', 'z')");
    let mut eve = place.device(1);
    server::sync(&mut eve, &place.server);
    eve.run("UPDATE notes SET body = 'hacked' WHERE id = 'b'; DELETE FROM notes WHERE id = 'c'");
    let told = place.verdicts(&mut eve, "eve");
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(reason, given)| reason == NOT_ALLOWED && given.is_some()), "{told:?}");
    assert_eq!(eve.rows("SELECT * FROM notes"), ["'b','bob','y'", "'c','bob','z'"]);
    assert_eq!(place.rejected(&eve).len(), 2);
}

#[test]
fn values_are_judged_as_their_columns_store_them() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n INTEGER, name TEXT COLLATE NOCASE, any,
        twice INT AS (n * 2), kind TEXT DEFAULT 'plain');";
    for (policy, granted) in [
        ("n = '5'", true),
        ("NEW.n = '5'", true),
        ("n IN ('5')", true),
        ("any = '5'", false),
        ("name = 'ALICE'", true),
        ("NEW.name = 'ALICE'", true),
        ("name = 'ALICE' COLLATE BINARY", false),
        ("twice = 10", true),
        ("NEW.twice = '10'", true),
        ("2 * n = twice", true),
        ("kind = 'plain' AND typeof(n) = 'integer' AND typeof(any) = 'integer'", true),
        ("EXISTS(SELECT 1 FROM t AS other WHERE other.id = t.id)", false),
        ("NOT EXISTS(SELECT 1 FROM t)", true),
        ("NULL", false),
        ("json_extract(name, '$')", false),
        ("t.n = 5", true),
    ] {
        let place = Place::new(schema);
        place.set("t", Insert, policy);
        let mut device = place.device(1);
        device.run("INSERT INTO t(id, n, name, any) VALUES('a', 5, 'alice', 5)");
        assert_eq!(place.send(&mut device, "alice").rejected, u64::from(!granted), "{policy}");
    }
}

#[test]
fn an_update_is_judged_on_both_rows() {
    let schema =
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n INTEGER, name TEXT COLLATE NOCASE, state TEXT);";
    for (policy, update, granted) in [
        ("OLD.state = 'draft' AND NEW.n = OLD.n", "state = 'done'", true),
        ("OLD.state = 'draft' AND NEW.n = OLD.n", "n = 6", false),
        // Bare columns: both.
        ("state = 'draft'", "n = 6", true),
        ("state = 'draft'", "state = 'done'", false),
        ("state = 'done'", "state = 'done'", false),
        ("state = 'draft' AND NEW.n > OLD.n", "n = 6", true),
        ("NEW.name = 'X' AND NEW.n = '5'", "name = 'x'", true),
        ("t.n = 5", "name = 'x'", true),
        ("NEW.n = 5", "n = 6", false),
    ] {
        let place = Place::new(schema);
        place.set("t", Select, "1");
        place.set("t", Update, policy);
        place.server.run("INSERT INTO t VALUES('a', 5, 'alice', 'draft')");
        let mut device = place.device(1);
        server::sync(&mut device, &place.server);
        device.run(&format!("UPDATE t SET {update}"));
        assert_eq!(place.send(&mut device, "alice").rejected, u64::from(!granted), "{policy}: {update}");
    }
}

#[test]
fn a_row_written_anew_is_an_update_or_a_deletion_and_an_insertion() {
    for (granted, policies) in [
        (true, vec![(Update, "1")]),
        (true, vec![(Delete, "1"), (Insert, "1")]),
        (false, vec![(Delete, "1")]),
        (false, vec![(Insert, "1")]),
    ] {
        let place = Place::new(NOTES);
        place.set("notes", Select, "1");
        policies.iter().for_each(|(verb, text)| place.set("notes", *verb, text));
        place.server.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
        let mut device = place.device(1);
        server::sync(&mut device, &place.server);
        device.run("DELETE FROM notes");
        device.replica.fold().unwrap();
        device.run("INSERT INTO notes VALUES('a', 'alice', 'y')");
        assert_eq!(place.send(&mut device, "alice").rejected, u64::from(!granted), "{policies:?}");
    }
}

#[test]
fn a_policy_that_changes_holds_at_once() {
    let place = journals();
    let mut alice = place.device(1);
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    place.set("notes", Insert, "0");
    alice.run("INSERT INTO notes VALUES('b', 'alice', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 1);
    place.set("notes", Insert, "owner = auth_userid()");
    // Also when the table changes.
    place.server.run("ALTER TABLE notes ADD COLUMN more");
    alice.run("INSERT INTO notes VALUES('c', 'alice', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
}

#[test]
fn constraints_on_other_rows_are_not_told() {
    let schema = "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE, n INTEGER CHECK(n > 0), p TEXT REFERENCES p);";
    let place = Place::new(schema);
    place.set("t", Insert, "1");
    place.server.run("INSERT INTO t VALUES('x', 'a@b', 1, NULL)");
    let mut device = place.device_with(1, &schema.replace("CHECK(n > 0)", "").replace("UNIQUE", ""));
    device.run("INSERT INTO t VALUES('a', 'a@b', 1, NULL), ('b', 'b@b', -1, NULL), ('c', 'c@b', 1, 'none'), ('d', 'd@b', 1, NULL)");
    assert_eq!(place.send(&mut device, "alice").rejected, 3);
    assert_eq!(
        place.rejected(&device),
        [
            "t a: not allowed, or no such row",
            "t b: CHECK constraint failed: n > 0",
            "t c: not allowed, or no such row"
        ]
    );
}

#[test]
fn refusals_are_counted_by_their_true_reasons_and_once() {
    let schema = "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE counted(id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE, n INTEGER CHECK(n > 0) NOT NULL, p TEXT REFERENCES p);";
    let place = Place::new(schema);
    place.set("counted", Insert, "id <> 'e'");
    place.server.run("INSERT INTO counted VALUES('x', 'a@b', 1, NULL); CREATE TRIGGER no BEFORE INSERT ON counted WHEN NEW.id = 'f' BEGIN SELECT raise(ABORT, 'no f'); END");
    let mut device = place.device_with(1, &schema.replace("CHECK(n > 0) NOT NULL", "").replace("UNIQUE", ""));
    device.run("INSERT INTO counted VALUES('a', 'a@b', 1, NULL), ('b', 'b', -1, NULL), ('c', 'c', 1, 'none'), ('d', 'd', 1, NULL), ('e', 'e', 1, NULL), ('f', 'f', 1, NULL), ('g', 'g', NULL, NULL)");
    let mut lost = 0;
    let synced = place.send_losing(&mut device, "alice", &mut |_| {
        lost += 1;
        lost == 2
    });
    assert_eq!(synced.rejected, 6);
    let text = METRICS.to_text(Gauges { listeners: 0, open_databases: 0 });
    let counted = |line: &&str| line.contains("denials_total") && line.contains("counted");
    let expected = ["check", "foreign_key", "not_null", "other", "policy", "unique"]
        .map(|reason| format!("cloudsync_denials_total{{table=\"counted\",reason=\"{reason}\"}} 1"));
    assert_eq!(text.lines().filter(counted).collect::<Vec<_>>(), expected);
    // Its sender learns no more than before.
    let told: Vec<_> =
        place.rejected(&device).iter().map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect();
    let not_allowed = NOT_ALLOWED.to_owned();
    assert_eq!([&told[0], &told[2], &told[3]], [&not_allowed; 3], "{told:?}");
}

#[test]
fn a_round_that_is_repeated_is_judged_once() {
    let place = journals();
    let mut alice = place.device(1);
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x'), ('f', 'bob', 'forged')");
    // The answer is lost, and meanwhile the policy would allow everything.
    let mut lost = 0;
    let synced = place.send_losing(&mut alice, "alice", &mut |_| {
        place.set("notes", Insert, "1");
        lost += 1;
        lost == 2
    });
    assert_eq!(synced.rejected, 1);
    assert_eq!(place.server.rows("SELECT id FROM notes"), ["'a'"]);
    assert_eq!(place.server.waiting(), 0);
}

#[test]
fn a_row_on_which_the_select_policy_fails_does_not_get_in() {
    let place = Place::new(NOTES);
    place.set("notes", Select, "json_extract(body, '$.to') = auth_userid() OR owner = auth_userid()");
    for verb in [Insert, Update] {
        place.set("notes", verb, "owner = auth_userid()");
    }
    let mut eve = place.device(1);
    eve.run(r#"INSERT INTO notes VALUES('a', 'eve', '{'), ('b', 'eve', '{"to": "bob"}')"#);
    assert_eq!(place.send(&mut eve, "eve").rejected, 1);
    eve.run("UPDATE notes SET body = '}' WHERE id = 'b'");
    assert_eq!(place.send(&mut eve, "eve").rejected, 1);
    assert_eq!(place.server.rows("SELECT id, json_extract(body, '$.to') FROM notes"), ["'b','bob'"]);
}

#[test]
fn policies_that_take_too_much_work_stop_nobody_else() {
    let place = journals();
    place.server.run("CREATE TABLE heap(n INTEGER PRIMARY KEY); WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000) INSERT INTO heap SELECT n FROM n");
    place.set("notes", Insert, "owner <> 'eve' OR (SELECT count(*) FROM heap AS a, heap AS b, heap AS c WHERE a.n + b.n + c.n = 1) > 0");
    let mut eve = place.device(1);
    eve.run("INSERT INTO notes VALUES('e', 'eve', 'x')");
    assert!(place.refusal(&mut eve, "eve").contains("more work than one round may cause"));
    // It is not lost, and others go on, on the same connection.
    assert!(eve.replica.has_unsent().unwrap());
    let mut alice = place.device(2);
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    place.set("notes", Insert, "owner = auth_userid()");
    assert_eq!(place.send(&mut eve, "eve").rejected, 0);
    assert_eq!(place.server.rows("SELECT id FROM notes"), ["'a'", "'e'"]);
}

#[test]
fn the_key_of_a_deleted_row_is_like_a_free_one() {
    let place = journals();
    place.server.run("INSERT INTO notes VALUES('b', 'bob', 'x')");
    let mut eve = place.device(1);
    eve.run("INSERT INTO notes VALUES('other', 'eve', 'x')");
    assert_eq!(place.send(&mut eve, "eve").rejected, 0);
    place.server.run("DELETE FROM notes WHERE id = 'b'");
    eve.run("INSERT INTO notes VALUES('b', 'eve', 'mine')");
    assert_eq!(place.send(&mut eve, "eve").rejected, 0);
    assert_eq!(place.server.rows("SELECT * FROM notes"), ["'b','eve','mine'", "'other','eve','x'"]);
}

#[test]
fn a_dead_row_comes_back_only_for_who_saw_it() {
    for (sender, change, granted) in [("bob", "body = 'again'", true), ("eve", "owner = 'eve'", false)] {
        let place = Place::with(NOTES, "aws");
        for verb in [Select, Insert] {
            place.set("notes", verb, "owner = auth_userid()");
        }
        place.set("notes", Update, "NEW.owner = auth_userid()");
        place.server.run("INSERT INTO notes VALUES('b', 'bob', 'secret')");
        let mut device = Device::empty(1);
        device.run(NOTES);
        device.init_all_as("aws");
        server::sync(&mut device, &place.server);
        place.server.run("DELETE FROM notes");
        // A write that the deletion has not seen brings the row back whole, with all its other values.
        device.world.now.set(device.world.now.get() + 1_000);
        device.run(&format!("UPDATE notes SET {change}"));
        assert_eq!(place.send(&mut device, sender).rejected, u64::from(!granted), "{sender}");
        assert_eq!(place.server.rows("SELECT * FROM notes").len(), usize::from(granted));
    }
}
