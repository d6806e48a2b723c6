//! What comes for tables and columns that a replica does not have yet is kept aside.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, NOW, assert_same, exchange};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Reason, Refusal, Request};
use hub::{BOTH, Hub};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT)";
const TAGS: &str = "CREATE TABLE tags(id TEXT PRIMARY KEY NOT NULL, name TEXT)";

/// A device that has a column and a table more than the other one.
fn newer_and_older() -> (Device, Device) {
    let newer = format!("{NOTES}; {TAGS}; ALTER TABLE notes ADD COLUMN body TEXT DEFAULT 'none'");
    (Device::new(1, &newer), Device::new(2, NOTES))
}

/// Sends what changed since a version; gives the next one.
fn send(from: &mut Device, to: &mut Device, since: u64) -> u64 {
    let payload = from.replica.payload_encode(since, None).unwrap();
    to.apply(&payload).unwrap();
    from.replica.version().unwrap()
}

#[test]
fn what_came_is_there_once_its_names_are() {
    let (mut a, mut b) = newer_and_older();
    a.run("INSERT INTO notes VALUES('1', 't', 'first'), ('2', 't', 'first'), ('3', 't', 'first')");
    a.run("INSERT INTO tags VALUES('1', 'red'), ('2', 'blue')");
    let mut since = send(&mut a, &mut b, 0);
    a.run("UPDATE notes SET body = 'second' WHERE id = '1'; UPDATE notes SET title = 'u', body = 'u' WHERE id = '2'");
    a.run("DELETE FROM notes WHERE id = '3'; DELETE FROM tags WHERE id = '1'");
    since = send(&mut a, &mut b, since);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 2, "a piece for each payload");
    assert!(b.replica.status().unwrap()["kept_bytes"].as_u64().unwrap() > 100);
    assert_eq!(b.dump("notes"), ["'1','t'", "'2','u'"]);
    // A row with another life and another author.
    b.run("UPDATE notes SET title = 'by b' WHERE id = '1'");
    b.run("ALTER TABLE notes ADD COLUMN body TEXT DEFAULT 'none'; INSERT INTO notes VALUES('4', 't', 'b')");
    send(&mut a, &mut b, since);
    assert_eq!(b.dump("notes"), ["'1','by b','second'", "'2','u','u'", "'4','t','b'"]);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 2, "of the table that is still unknown");
    b.run(TAGS);
    b.run("BEGIN");
    b.replica.init("tags", "cls", 0).unwrap();
    assert_eq!(b.dump("tags"), ["'2','blue'"]);
    b.run("ROLLBACK");
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 2);
    b.replica.init("tags", "cls", 0).unwrap();
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 0);
    let kept = b.clocks("tags");
    assert_eq!(kept, a.clocks("tags"));
    send(&mut b, &mut a, 0);
    assert_same(&mut a, &mut b, "notes");
    assert_same(&mut a, &mut b, "tags");
}

#[test]
fn what_came_under_the_next_name_of_a_table_is_there_once_it_is_renamed() {
    for (in_bracket, is_lost) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut a, mut b) = (
            Device::new(1, TAGS),
            Device::new(2, "CREATE TABLE labels(id TEXT PRIMARY KEY NOT NULL, name TEXT)"),
        );
        let mut hub = Hub::new(TAGS);
        a.run("INSERT INTO tags VALUES('1', 'red'), ('2', 'blue')");
        hub.sync(&mut a);
        hub.sync(&mut b);
        a.run("DELETE FROM tags WHERE id = '1'");
        hub.sync(&mut a);
        hub.sync(&mut b);
        if is_lost {
            b.run_unseen("DELETE FROM cloudsync_kept; INSERT INTO cloudsync_settings VALUES('kept_lost', 1)");
        }
        if in_bracket {
            b.replica.begin_alter("labels").unwrap();
        }
        b.run("ALTER TABLE labels RENAME TO tags");
        if in_bracket {
            b.replica.commit_alter("tags").unwrap();
        }
        hub.sync(&mut b);
        assert_eq!(b.dump("tags"), ["'2','blue'"], "in the bracket: {in_bracket}, lost: {is_lost}");
        // With the clock of what is deleted.
        assert_same(&mut b, &mut hub.server, "tags");
        assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 0);
    }
}

#[test]
fn pieces_go_on_to_others_as_what_they_were() {
    let (mut a, mut b) = newer_and_older();
    a.run("INSERT INTO notes VALUES('1', 't', 'first'); INSERT INTO tags VALUES('1', 'red')");
    send(&mut a, &mut b, 0);
    b.run(TAGS);
    b.replica.init("tags", "cls", 0).unwrap();
    // What came by file counts as unsent, and goes to the server whole.
    let bytes = b.replica.prepare(Goal { push: true, pull: true }, false).unwrap();
    let upload = Request::decode(&bytes).unwrap().upload.unwrap();
    let opened = cloudsync_protocol::payload::Opened::open(upload.payload, &cloudsync_replica::Zstd).unwrap();
    let payload = opened.payload().unwrap();
    let tables: Vec<_> = payload.groups().iter().map(|group| group.table()).collect();
    assert_eq!(tables, ["notes", "tags"]);
}

#[test]
fn pieces_of_a_server_that_lost_them_go_back_to_it() {
    let column = "ALTER TABLE notes ADD COLUMN body TEXT DEFAULT 'none'";
    let (mut a, mut b) = newer_and_older();
    let mut hub = Hub::new(&format!("{NOTES}; {column}"));
    a.run("INSERT INTO notes VALUES('1', 't', 'first')");
    hub.sync(&mut a);
    hub.sync(&mut b);
    hub.server.run_unseen("DELETE FROM notes; DELETE FROM cloudsync_clocks");
    b.replica.prepare(BOTH, false).unwrap();
    let refusal = Refusal { reason: Reason::Restored, epoch: 1, nonce: 0, now: NOW, text: String::new() };
    b.replica.mend(&refusal).unwrap();
    hub.sync(&mut b);
    assert_eq!(hub.server.dump("notes"), ["'1','t','none'"]);
    b.run(column);
    hub.sync(&mut b);
    assert_eq!(hub.server.dump("notes"), ["'1','t','first'"]);
    assert_same(&mut b, &mut hub.server, "notes");
}

#[test]
fn stale_pieces_are_harmless() {
    let (mut a, mut b) = newer_and_older();
    a.run("INSERT INTO notes VALUES('1', 't', 'old'), ('2', 't', 'old'), ('3', 't', 'old')");
    send(&mut a, &mut b, 0);
    let mut c = Device::new(3, &format!("{NOTES}; ALTER TABLE notes ADD COLUMN body TEXT DEFAULT 'none'"));
    exchange(&mut a, &mut c);
    c.run_at(bench::NOW, "UPDATE notes SET body = 'new' WHERE id = '1'; DELETE FROM notes WHERE id = '2'; DELETE FROM notes WHERE id = '3'");
    c.replica.fold().unwrap();
    c.run_at(bench::NOW, "INSERT INTO notes VALUES('3', 'again', 'new life')");
    b.run("ALTER TABLE notes ADD COLUMN body TEXT DEFAULT 'none'");
    // The newer changes come before the pieces are looked at.
    exchange(&mut c, &mut b);
    assert_same(&mut c, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','t','new'", "'3','again','new life'"]);
}

#[test]
fn beyond_the_bound_all_is_dropped_and_fetched_again() {
    let (mut a, mut b) = newer_and_older();
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 26)
         INSERT INTO tags SELECT i, randomblob(400000) FROM n",
    );
    let since = send(&mut a, &mut b, 0);
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 27 UNION ALL SELECT i + 1 FROM n WHERE i < 52)
         INSERT INTO tags SELECT i, randomblob(400000) FROM n",
    );
    let before = b.get::<i64>("SELECT sum(length(payload)) FROM cloudsync_kept");
    assert!(before > 10_000_000);
    send(&mut a, &mut b, since);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 0);
    assert_eq!(b.replica.status().unwrap()["kept_lost"], true);
    a.run("INSERT INTO tags VALUES('small', 'small')");
    send(&mut a, &mut b, since);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 0);
    b.run("INSERT INTO cloudsync_settings VALUES('cursor', 5)");
    let request = |b: &mut Device| {
        let bytes = b.replica.prepare(Goal { push: false, pull: true }, false).unwrap();
        let request = Request::decode(&bytes).unwrap();
        (request.cursor, request.echo)
    };
    assert_eq!(request(&mut b), (5, false));
    b.run(TAGS);
    b.replica.init("tags", "cls", 0).unwrap();
    assert_eq!(request(&mut b), (0, true));
    assert_eq!(b.replica.status().unwrap()["kept_lost"], false);
}

#[test]
fn large_values_for_unknown_names_are_fetched_when_the_names_come() {
    let (mut a, mut b) = newer_and_older();
    a.run("INSERT INTO tags VALUES('1', randomblob(2000000))");
    send(&mut a, &mut b, 0);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 0);
    assert_eq!(b.replica.status().unwrap()["kept_lost"], true);
}

#[test]
fn cleanup_leaves_nothing_that_was_kept() {
    let (mut a, mut b) = newer_and_older();
    a.run("INSERT INTO notes VALUES('1', 't', 'secret')");
    send(&mut a, &mut b, 0);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 1);
    b.replica.cleanup("notes").unwrap();
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_kept"), 0);
}
