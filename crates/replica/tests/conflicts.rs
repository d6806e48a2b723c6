//! The journal of conflicts: what was written here and lost against a change whose author had not seen it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, NOW, assert_same, pair, sync_by_payload};
use cloudsync_replica::{CONFLICT_AGE_MS_MAX, CONFLICTS_MAX};
use hub::{BOTH, Hub, PULL, PUSH};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body)";
/// When things happen; well after what is there at the beginning.
const T: u64 = NOW - 1_000_000;

/// What the journal holds: kind, column and value, in order.
fn journal(device: &Device) -> Vec<String> {
    device.rows("SELECT kind, col_name, col_value FROM cloudsync_conflicts ORDER BY id")
}

/// A server and devices that all have the row `n`, written by the first of them, and nothing in the journal.
fn world(devices: u64) -> (Hub, Vec<Device>) {
    let mut hub = Hub::new(NOTES);
    let mut devices: Vec<_> = (1..=devices).map(|seed| Device::new(seed, NOTES)).collect();
    devices[0].run_at(T, "INSERT INTO notes VALUES('n', 'title', 'body')");
    for device in &mut devices {
        hub.sync(device);
    }
    (hub, devices)
}

fn world_of_two() -> (Hub, Device, Device) {
    let (hub, mut devices) = world(2);
    let (b, a) = (devices.pop().unwrap(), devices.pop().unwrap());
    (hub, a, b)
}

#[track_caller]
fn assert_in_step(hub: &mut Hub, devices: &mut [&mut Device]) {
    for _ in 0..2 {
        devices.iter_mut().for_each(|device| hub.sync(device));
    }
    for device in devices {
        assert_same(device, &mut hub.server, "notes");
    }
}

#[test]
fn an_unsent_value_that_loses_is_in_the_journal() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(&mut a);
    hub.turn(&mut b, PULL);
    assert_eq!(journal(&b), ["'overwritten','title','by b'"]);
    let sites =
        "SELECT time, site_id = ?1, winner_time, winner_site_id = ?2, tbl, at FROM cloudsync_conflicts";
    let (a_site, b_site) = (a.replica.site_id().unwrap(), b.replica.site_id().unwrap());
    let found: (i64, bool, i64, bool, String, i64) = b
        .sql
        .query_row(sites, (b_site.0, a_site.0), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })
        .unwrap();
    assert_eq!(found, (T as i64 + 1, true, T as i64 + 2, true, "notes".to_owned(), NOW as i64));
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!((journal(&a).len(), journal(&b).len(), journal(&hub.server).len()), (0, 1, 0));
}

#[test]
fn a_value_that_loses_in_the_round_that_brings_it_is_in_the_journal_once() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'by b', body = x'00ff'");
    a.run_at(T + 2, "UPDATE notes SET title = 'by a', body = 1.0");
    hub.sync(&mut a);
    hub.turn(&mut b, BOTH);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(journal(&b), ["'overwritten','title','by b'", "'overwritten','body',x[00, ff]"]);
    assert_eq!(journal(&a), [""; 0]);
}

#[test]
fn a_value_that_was_sent_and_not_seen_by_the_winner_is_in_the_journal() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
    hub.sync(&mut b);
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(journal(&b), ["'overwritten','title','by b'"]);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!((journal(&a).len(), journal(&b).len()), (0, 1));
}

#[test]
fn a_value_that_the_winner_had_seen_is_no_conflict() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
    hub.sync(&mut b);
    hub.sync(&mut a);
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(&mut a);
    // Something of b's own is unsent, and elsewhere.
    b.run_at(T + 3, "UPDATE notes SET body = 'by b'");
    hub.sync(&mut b);
    b.run_at(T + 4, "UPDATE notes SET title = 'again'; INSERT INTO notes(id) VALUES('m')");
    hub.sync(&mut b);
    hub.sync(&mut a);
    a.run_at(T + 5, "DELETE FROM notes");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(b.dump("notes"), [""; 0]);
    assert_eq!((journal(&a).len(), journal(&b).len()), (0, 0));
}

#[test]
fn a_value_that_lost_on_its_arrival_is_in_the_journal_when_that_is_known() {
    let (mut hub, mut a, mut b) = world_of_two();
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(&mut a);
    b.run_at(T + 1, "UPDATE notes SET title = 'by b', body = 'by b'");
    hub.turn(&mut b, PUSH);
    assert!(!b.replica.has_unsent().unwrap());
    hub.turn(&mut b, PULL);
    assert_eq!(journal(&b), ["'overwritten','title','by b'"]);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!((journal(&a).len(), journal(&b).len()), (0, 1));
    // The same with a deletion.
    a.run_at(T + 12, "DELETE FROM notes");
    hub.sync(&mut a);
    b.run_at(T + 11, "UPDATE notes SET title = 'too late'");
    hub.turn(&mut b, PUSH);
    hub.turn(&mut b, PULL);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(journal(&b)[1..], ["'deleted','title','too late'", "'deleted','body','by b'"]);
}

#[test]
fn of_three_writers_each_loser_keeps_its_own_value() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
        let (mut hub, mut devices) = world(3);
        for (at, device) in devices.iter().enumerate() {
            device.run_at(T + 1 + at as u64, &format!("UPDATE notes SET title = 'by {at}'"));
        }
        for at in order {
            hub.sync(&mut devices[at]);
        }
        let [a, b, c] = &mut devices[..] else { unreachable!() };
        assert_in_step(&mut hub, &mut [a, b, c]);
        assert_eq!(journal(a), ["'overwritten','title','by 0'"], "{order:?}");
        assert_eq!(journal(b), ["'overwritten','title','by 1'"], "{order:?}");
        assert_eq!(journal(c), [""; 0], "{order:?}");
    }
}

#[test]
fn a_winner_that_was_overwritten_by_one_who_saw_it_still_beat_an_unseen_value() {
    let (mut hub, mut devices) = world(3);
    let [a, b, c] = &mut devices[..] else { unreachable!() };
    b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
    hub.sync(b);
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(a);
    hub.sync(c);
    c.run_at(T + 3, "UPDATE notes SET title = 'by c'");
    hub.sync(c);
    hub.sync(b);
    assert_eq!(journal(b), ["'overwritten','title','by b'"]);
    // A change that had seen everything comes first, the concurrent one behind it in the list.
    let (mut hub, mut devices) = world(3);
    let [a, b, c] = &mut devices[..] else { unreachable!() };
    b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
    hub.sync(b);
    hub.sync(c);
    c.run_at(T + 2, "UPDATE notes SET title = 'by c'");
    hub.sync(c);
    a.run_at(T + 3, "UPDATE notes SET title = 'by a'");
    hub.sync(a);
    hub.sync(b);
    assert_eq!(journal(b), ["'overwritten','title','by b'"]);
    hub.sync(c);
    assert_eq!(journal(c), ["'overwritten','title','by c'"]);
}

#[test]
fn only_the_cells_that_were_not_seen_are_conflicts() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'seen'");
    hub.sync(&mut b);
    hub.sync(&mut a);
    b.run_at(T + 2, "UPDATE notes SET body = 'not seen'");
    hub.sync(&mut b);
    a.run_at(T + 3, "UPDATE notes SET title = 'by a', body = 'by a'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(journal(&b), ["'overwritten','body','not seen'"]);
}

#[test]
fn equal_bytes_are_no_conflict() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'same', body = 1");
    a.run_at(T + 2, "UPDATE notes SET title = 'same', body = 1.0");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(journal(&b), ["'overwritten','body',1"]);
}

#[test]
fn a_row_that_goes_leaves_enough_to_put_it_back() {
    for sent in [false, true] {
        let (mut hub, mut a, mut b) = world_of_two();
        b.run_at(T + 3, "UPDATE notes SET title = 'worked on'");
        if sent {
            hub.sync(&mut b);
        }
        a.run_at(T + 1, "DELETE FROM notes");
        hub.sync(&mut a);
        hub.sync(&mut b);
        assert_eq!(journal(&b), ["'deleted','title','worked on'", "'deleted','body','body'"], "sent: {sent}");
        // The cell of another site bears that site's name.
        let own = b.replica.site_id().unwrap();
        let count = "SELECT count(*) FROM cloudsync_conflicts WHERE site_id = ?1";
        assert_eq!(b.sql.query_row(count, [own.0], |row| row.get::<_, i64>(0)).unwrap(), 1);
        let pk: Vec<u8> = b.get("SELECT DISTINCT pk FROM cloudsync_conflicts");
        let key = cloudsync_replica::pk_decode(&pk, 0).unwrap();
        assert_eq!(key, Some("n".into()));
        b.run(
            "INSERT INTO notes SELECT 'n', max(col_value) FILTER (WHERE col_name = 'title'),
             max(col_value) FILTER (WHERE col_name = 'body') FROM cloudsync_conflicts",
        );
        assert_in_step(&mut hub, &mut [&mut a, &mut b]);
        assert_eq!(a.dump("notes"), ["'n','worked on','body'"]);
    }
}

#[test]
fn a_row_without_cells_is_noted() {
    let schema = "CREATE TABLE notes(a INT NOT NULL, b TEXT NOT NULL, PRIMARY KEY(a, b)) WITHOUT ROWID";
    let mut hub = Hub::new(schema);
    let (mut a, mut b) = pair(schema);
    b.run_at(T, "INSERT INTO notes VALUES(1, 'x')");
    hub.sync(&mut b);
    hub.sync(&mut a);
    a.run_at(T + 1, "DELETE FROM notes");
    hub.sync(&mut a);
    // It knew the row, and never heard of the deletion.
    b.run_at(T + 2, "REPLACE INTO notes VALUES(1, 'x')");
    hub.sync(&mut b);
    assert_eq!(b.dump("notes"), [""; 0]);
    assert_eq!(journal(&b), ["'deleted',NULL,NULL"]);
}

#[test]
fn an_insertion_under_a_deleted_key_lives_and_nothing_is_noted() {
    for hears_first in [false, true] {
        for order in [1, 3] {
            let mut hub = Hub::new(NOTES);
            let (mut a, mut b) = pair(NOTES);
            a.run_at(T, "INSERT INTO notes VALUES('n', 'first', 'body')");
            hub.sync(&mut a);
            a.run_at(T + 2, "DELETE FROM notes");
            hub.sync(&mut a);
            b.run_at(T + order, "INSERT INTO notes VALUES('n', 'late', 'body')");
            if hears_first {
                hub.turn(&mut b, PULL);
                assert_eq!(b.dump("notes"), ["'n','late','body'"]);
            }
            hub.sync(&mut b);
            assert_eq!(b.dump("notes"), ["'n','late','body'"]);
            // In step: an edit does not get lost in an older life.
            b.run_at(T + 4, "UPDATE notes SET title = 'edited'");
            assert_in_step(&mut hub, &mut [&mut a, &mut b]);
            assert_eq!(a.dump("notes"), ["'n','edited','body'"]);
            assert_eq!(journal(&b), [""; 0]);
            assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_rejected"), 0);
        }
    }
}

#[test]
fn an_insertion_that_was_given_away_by_hand_may_have_been_deleted_knowingly() {
    let mut hub = Hub::new(NOTES);
    let (mut a, mut b) = pair(NOTES);
    b.run_at(T, "INSERT INTO notes VALUES('n', 'b', 'body')");
    let payload = b.encode();
    a.apply(&payload).unwrap();
    a.run_at(T + 1, "DELETE FROM notes");
    hub.sync(&mut a);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(b.dump("notes"), [""; 0]);
    // Whoever deleted this one cannot have seen the insertion, which is later.
    a.run_at(T + 2, "INSERT INTO notes VALUES('m', 'a', 'body')");
    hub.sync(&mut a);
    a.run_at(T + 3, "DELETE FROM notes");
    hub.sync(&mut a);
    b.run_at(T + 4, "INSERT INTO notes VALUES('m', 'b', 'body')");
    b.encode();
    assert_in_step(&mut hub, &mut [&mut b, &mut a]);
    assert_eq!(a.dump("notes"), ["'m','b','body'"]);
}

#[test]
fn a_new_life_takes_unseen_values_with_it() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 5, "UPDATE notes SET title = 'in the old life', body = 'same'");
    a.run_at(T + 1, "DELETE FROM notes");
    hub.sync(&mut a);
    a.run_at(T + 2, "INSERT INTO notes VALUES('n', 'in the new life', 'same')");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(b.dump("notes"), ["'n','in the new life','same'"]);
    assert_eq!(journal(&b), ["'overwritten','title','in the old life'"]);
}

#[test]
fn of_two_insertions_under_one_key_each_keeps_what_it_lost() {
    let (mut hub, mut a, mut b) = world_of_two();
    a.run_at(T + 1, "INSERT INTO notes VALUES('k', 'by a', 'by a')");
    b.run_at(T + 2, "INSERT INTO notes VALUES('k', 'by b', 'by b')");
    b.replica.fold().unwrap();
    a.replica.fold().unwrap();
    a.run_at(T + 3, "UPDATE notes SET body = 'later by a' WHERE id = 'k'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(b.get::<String>("SELECT title || body FROM notes WHERE id = 'k'"), "by blater by a");
    assert_eq!(journal(&a), ["'overwritten','title','by a'"]);
    assert_eq!(journal(&b), ["'overwritten','body','by b'"]);
}

#[test]
fn a_payload_by_hand_makes_conflicts_of_unsent_values_only() {
    let (mut hub, mut a, mut b) = world_of_two();
    b.run_at(T + 1, "UPDATE notes SET title = 'sent'");
    hub.sync(&mut b);
    b.run_at(T + 2, "UPDATE notes SET body = 'unsent'");
    a.run_at(T + 3, "UPDATE notes SET title = 'by a', body = 'by a'");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'n','by a','by a'"]);
    assert_eq!(journal(&b), ["'overwritten','body','unsent'"]);
}

#[test]
fn what_is_refused_loses_nothing_before_it_gets_in() {
    for sent in [false, true] {
        let (mut hub, mut a, mut b) = world_of_two();
        b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
        if sent {
            hub.sync(&mut b);
        }
        b.run("CREATE TRIGGER no BEFORE UPDATE ON notes WHEN NEW.title = 'by a' BEGIN SELECT RAISE(ABORT, 'no'); END");
        a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
        hub.sync(&mut a);
        hub.sync(&mut b);
        assert_eq!((b.quarantine(), journal(&b).len()), (1, 0), "sent: {sent}");
        b.run("DROP TRIGGER no");
        // What was unsent then has been sent meanwhile, so only the mark can tell; and of that which was marked, it does.
        a.run_at(T + 3, "INSERT INTO notes(id) VALUES('any')");
        hub.sync(&mut a);
        hub.sync(&mut b);
        assert_eq!(b.quarantine(), 0);
        assert_eq!(journal(&b), ["'overwritten','title','by b'"], "sent: {sent}");
    }
}

#[test]
fn rows_that_exchange_values_lose_what_they_had() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, pos INT UNIQUE)";
    let mut hub = Hub::new(schema);
    let (mut a, mut b) = pair(schema);
    a.run_at(T, "INSERT INTO notes VALUES('1', 1), ('2', 2)");
    hub.sync(&mut a);
    hub.sync(&mut b);
    b.run_at(
        T + 1,
        "UPDATE notes SET pos = -pos; UPDATE notes SET pos = pos + 10; UPDATE notes SET pos = 10 - pos",
    );
    b.run_at(T + 1, "UPDATE notes SET pos = -pos; UPDATE notes SET pos = 3 + pos");
    assert_eq!(b.dump("notes"), ["'1',2", "'2',1"]);
    a.run_at(T + 2, "UPDATE notes SET pos = -pos; UPDATE notes SET pos = -pos");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(b.dump("notes"), ["'1',1", "'2',2"]);
    let mut lost = journal(&b);
    lost.sort();
    assert_eq!(lost, ["'overwritten','pos',1", "'overwritten','pos',2"]);
}

#[test]
fn other_algorithms_lose_rows_and_cells_as_well() {
    let with = |seed, algorithm| {
        let mut device = Device::empty(seed);
        device.run(NOTES);
        device.replica.init("notes", algorithm, 0).unwrap();
        device
    };
    for algorithm in ["dws", "aws", "gos"] {
        let mut hub = Hub::on(with(200, algorithm));
        let (mut a, mut b) = (with(1, algorithm), with(2, algorithm));
        a.run_at(T, "INSERT INTO notes VALUES('n', 'title', 'body')");
        hub.sync(&mut a);
        hub.sync(&mut b);
        b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
        a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
        hub.sync(&mut a);
        hub.sync(&mut b);
        assert_eq!(journal(&b), ["'overwritten','title','by b'"], "{algorithm}");
        if algorithm == "gos" {
            continue;
        }
        // The deletion has seen a later write than b's, which so counts as seen.
        hub.sync(&mut a);
        b.run_at(T + 3, "UPDATE notes SET title = 'worked on'");
        a.run_at(T + 4, "UPDATE notes SET body = 'by a'");
        a.replica.fold().unwrap();
        a.run_at(T + 5, "DELETE FROM notes");
        hub.sync(&mut a);
        hub.sync(&mut b);
        assert_eq!(b.dump("notes"), [""; 0], "{algorithm}");
        assert_eq!(
            journal(&b)[1..],
            ["'deleted','title','worked on'", "'deleted','body','body'"],
            "{algorithm}"
        );
        assert_eq!(journal(&a), [""; 0], "{algorithm}");
        assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    }
}

#[test]
fn what_the_owner_wrote_on_the_server_is_journaled_there() {
    let (mut hub, mut a, mut b) = world_of_two();
    hub.server.run_at(T + 1, "UPDATE notes SET title = 'by the owner', body = 'by the owner'");
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(&mut a);
    assert_eq!(journal(&hub.server), ["'overwritten','title','by the owner'"]);
    // Who has seen it replaces it rightly; whom the owner replaces is told.
    hub.sync(&mut b);
    b.run_at(T + 3, "UPDATE notes SET body = 'by b'");
    hub.sync(&mut b);
    assert_eq!(journal(&hub.server).len(), 1);
    hub.server.run_at(T + 4, "UPDATE notes SET body = 'final'");
    hub.server.replica.fold().unwrap();
    hub.sync(&mut b);
    assert_eq!(journal(&b), [""; 0]);
    b.run_at(T + 5, "UPDATE notes SET body = 'unseen'");
    hub.server.run_at(T + 6, "UPDATE notes SET body = 'by the owner again'");
    hub.sync(&mut b);
    assert_eq!(journal(&b), ["'overwritten','body','unseen'"]);
}

#[test]
fn the_journal_is_bounded_by_count_and_age_and_goes_with_its_table() {
    let (mut hub, mut a, mut b) = world_of_two();
    let fill = |at: u64, count: u64| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO cloudsync_conflicts(tbl, pk, col_name, col_value, time, site_id, at, kind, winner_time, winner_site_id)
             SELECT 'notes', x'31', 'title', i, 1, x'00', {at}, 'overwritten', 2, x'01' FROM n"
        )
    };
    b.run(&fill(NOW - 100_000, CONFLICTS_MAX));
    b.run_at(T + 1, "UPDATE notes SET title = 'by b'");
    a.run_at(T + 2, "UPDATE notes SET title = 'by a'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_conflicts"), CONFLICTS_MAX as i64);
    assert_eq!(b.get::<i64>("SELECT min(col_value) FROM cloudsync_conflicts"), 2);
    assert_eq!(b.get::<String>("SELECT col_value FROM cloudsync_conflicts ORDER BY id DESC LIMIT 1"), "by b");
    b.run("DELETE FROM cloudsync_conflicts");
    b.run(&fill(NOW - CONFLICT_AGE_MS_MAX - 1, 3));
    b.run(&fill(NOW - CONFLICT_AGE_MS_MAX, 2));
    a.run("INSERT INTO notes(id) VALUES('any')");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM cloudsync_conflicts"), 2);
    let status = b.replica.status().unwrap();
    assert_eq!((&status["conflicts"], &status["dropped_from_conflicts"]), (&2.into(), &4.into()));
    b.replica.cleanup("notes").unwrap();
    assert_eq!(b.dump("cloudsync_conflicts"), [""; 0]);
}

#[test]
fn a_flood_of_conflicts_fills_the_journal_once() {
    let (mut hub, mut a, mut b) = world_of_two();
    let rows = CONFLICTS_MAX / 2 + 100;
    for (device, at, title) in [(&mut a, T + 2, "by a"), (&mut b, T + 1, "by b")] {
        device.run_at(
            at,
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 INSERT INTO notes(id, title, body) SELECT 'row ' || i, '{title}', '{title}' FROM n"
            ),
        );
    }
    hub.sync(&mut a);
    hub.sync(&mut b);
    let count = "SELECT count(*) FROM cloudsync_conflicts";
    assert_eq!(b.get::<i64>(count), CONFLICTS_MAX as i64);
    assert_eq!(b.replica.status().unwrap()["dropped_from_conflicts"], 200);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM notes WHERE title = 'by b'"), 0);
    // A minute later there is room again.
    b.world.now.set(NOW + 61_000);
    b.run_at(T + 3, "UPDATE notes SET title = 'again' WHERE id = 'row 1'");
    a.run_at(T + 4, "UPDATE notes SET title = 'last' WHERE id = 'row 1'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    assert_eq!(
        b.get::<String>("SELECT col_value FROM cloudsync_conflicts ORDER BY id DESC LIMIT 1"),
        "again"
    );
    assert_eq!(b.get::<i64>(count), CONFLICTS_MAX as i64);
}

/// Rebuilds the table outside of the bracket, so that nobody sees what is written meanwhile.
fn write_unseen(device: &mut Device, title: &str) {
    device.run(&format!(
        "CREATE TABLE copy(id TEXT PRIMARY KEY NOT NULL, title TEXT, body);
         INSERT INTO copy SELECT id, {title}, body FROM notes; DROP TABLE notes; ALTER TABLE copy RENAME TO notes"
    ));
}

#[test]
fn a_value_that_was_written_unseen_and_loses_is_in_the_journal() {
    for edit in ["UPDATE notes SET title = 'by a'", "DELETE FROM notes"] {
        let (mut hub, mut a, mut b) = world_of_two();
        write_unseen(&mut b, "'unseen'");
        a.run_at(T + 2, edit);
        hub.sync(&mut a);
        hub.sync(&mut b);
        let sql = "SELECT time, site_id FROM cloudsync_conflicts WHERE col_value = 'unseen'";
        let found: (i64, [u8; 16]) = b.sql.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(found, (NOW as i64, b.replica.site_id().unwrap().0), "{edit}");
        assert_in_step(&mut hub, &mut [&mut a, &mut b]);
        assert_eq!((journal(&a).len(), journal(&hub.server).len()), (0, 0));
    }
}

#[test]
fn a_table_that_is_out_of_doubt_loses_nothing_unseen() {
    let (mut hub, mut a, mut b) = world_of_two();
    write_unseen(&mut b, "title");
    a.run_at(T + 2, "UPDATE notes SET body = 'body'");
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    a.run_at(T + 3, "UPDATE notes SET title = 'by a'");
    assert_in_step(&mut hub, &mut [&mut a, &mut b]);
    assert_eq!(b.get::<String>("SELECT title FROM notes"), "by a");
    assert_eq!(journal(&b), [""; 0]);
}
