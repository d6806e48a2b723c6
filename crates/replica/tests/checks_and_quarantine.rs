//! Range checks of a replica where rows wait for a UNIQUE value.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, NOW, assert_same};
use cloudsync_protocol::message::{Reason, Refusal};
use hub::{BOTH, Hub};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, rank INTEGER)";

/// A server and a device on which row `b` waits, because `a` has the same title.
fn waiting() -> (Hub, Device) {
    let (mut hub, mut a, mut b) = (Hub::new(NOTES), Device::new(1, NOTES), Device::new(2, NOTES));
    b.run("CREATE UNIQUE INDEX one_title ON notes(title)");
    a.run("INSERT INTO notes VALUES('a', 'same', 1), ('b', 'same', 2), ('c', 'other', 3), ('d', 'more', 4)");
    for device in [&mut a, &mut b] {
        hub.sync(device);
    }
    assert_eq!(b.quarantine(), 1);
    (hub, b)
}

#[test]
fn rows_that_wait_in_the_quarantine_are_left_out() {
    let (mut hub, mut b) = waiting();
    for _ in 0..2 {
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    }
    b.run_unseen("UPDATE notes SET rank = 9 WHERE id IN ('c', 'd')");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 2, "the rest is checked");
    assert_eq!((hub.check_idle(&mut b).rows_repaired, b.quarantine()), (0, 1));
}

#[test]
fn what_waits_for_a_row_that_a_repair_takes_away_comes_in() {
    let (mut hub, mut b) = waiting();
    hub.server
        .run_unseen("DELETE FROM notes WHERE id = 'a'; DELETE FROM cloudsync_clocks WHERE pk LIKE '%a'");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 1);
    assert_eq!(b.quarantine(), 0);
    assert_eq!(b.column::<String>("SELECT id FROM notes ORDER BY id"), ["b", "c", "d"]);
}

#[test]
fn a_row_whose_clock_was_lost_is_not_in_its_own_way() {
    let slots = "CREATE TABLE slots(id TEXT PRIMARY KEY NOT NULL, slot INTEGER UNIQUE, body TEXT)";
    let (mut hub, mut a, mut b) = (Hub::new(slots), Device::new(1, slots), Device::new(2, slots));
    a.run("INSERT INTO slots VALUES('a', 1, 'old'), ('b', 2, 'old')");
    hub.sync(&mut a);
    hub.sync(&mut b);
    b.run_unseen("DELETE FROM cloudsync_clocks WHERE pk LIKE '%a'");
    // A part of it comes before the check does, and then the whole row.
    a.run("UPDATE slots SET body = 'new' WHERE id = 'a'");
    hub.sync(&mut a);
    hub.sync(&mut b);
    hub.sync(&mut b);
    assert_same(&mut b, &mut hub.server, "slots");
}

/// Tells a device that the server was restored from a backup.
fn tell_of_restore(device: &mut Device) {
    device.replica.prepare(BOTH, false).unwrap();
    let refusal = Refusal { reason: Reason::Restored, epoch: 1, nonce: 0, now: NOW, text: String::new() };
    device.replica.mend(&refusal).unwrap();
}

#[test]
fn what_waits_of_a_server_that_lost_it_goes_back_to_it() {
    let (mut hub, mut b) = waiting();
    hub.server
        .run_unseen("DELETE FROM notes WHERE id = 'b'; DELETE FROM cloudsync_clocks WHERE pk LIKE '%b'");
    tell_of_restore(&mut b);
    hub.sync(&mut b);
    assert_eq!((hub.check_idle(&mut b).rows_repaired, b.quarantine()), (0, 1));
    b.run("UPDATE notes SET title = 'free' WHERE id = 'a'");
    hub.sync(&mut b);
    assert_eq!(b.quarantine(), 0);
    assert_eq!(hub.server.dump("notes"), ["'a','free',1", "'b','same',2", "'c','other',3", "'d','more',4"]);
    assert_eq!(b.dump("notes"), hub.server.dump("notes"));
}

#[test]
fn what_waits_of_a_server_that_was_restored_and_has_it_is_the_servers() {
    let (mut hub, mut b) = waiting();
    tell_of_restore(&mut b);
    hub.sync(&mut b);
    for _ in 0..2 {
        assert_eq!((hub.check_idle(&mut b).rows_repaired, b.quarantine()), (0, 1));
    }
    assert_eq!(b.column::<i64>("SELECT origin FROM cloudsync_quarantine"), [-3]);
}

/// A server, a device on which a change of row `b` waits that came by file, and the device that made it and never synced
/// since.
fn waiting_by_file() -> (Hub, Device, Device) {
    let (mut hub, mut a, mut b) = (Hub::new(NOTES), Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("CREATE UNIQUE INDEX one_title ON notes(title)");
    a.run("INSERT INTO notes VALUES('a', 'one', 1), ('b', 'two', 2)");
    hub.sync(&mut a);
    hub.sync(&mut b);
    b.run_at(NOW + 1, "UPDATE notes SET title = 'one' WHERE id = 'b'");
    bench::sync_by_payload(&mut b, &mut a);
    assert_eq!(a.quarantine(), 1);
    (hub, a, b)
}

#[test]
fn a_row_of_which_a_change_by_file_waits_is_repaired() {
    let (mut hub, mut a, _) = waiting_by_file();
    for damage in ["UPDATE notes SET rank = 9 WHERE id = 'b'", "DELETE FROM notes WHERE id = 'b'"] {
        a.run_unseen(damage);
        assert_eq!(hub.check_idle(&mut a).rows_repaired, 1, "{damage}");
        assert_eq!(a.dump("notes"), hub.server.dump("notes"));
        assert_eq!((hub.check_idle(&mut a).rows_repaired, a.quarantine()), (0, 1));
    }
    // It comes in as soon as it can, and goes on to the server.
    a.run("UPDATE notes SET title = 'free' WHERE id = 'a'");
    hub.sync(&mut a);
    assert_eq!(a.quarantine(), 0);
    assert_eq!(hub.server.dump("notes"), ["'a','free',1", "'b','one',2"]);
}

#[test]
fn a_change_that_waits_and_came_by_file_first_is_the_servers_once_it_has_it() {
    let (mut hub, mut a, mut b) = waiting_by_file();
    hub.sync(&mut b);
    // Whole rows come, as by file.
    a.run("INSERT INTO cloudsync_settings VALUES('refetch', 1)");
    hub.sync(&mut a);
    assert_eq!(a.quarantine(), 1, "it is the same");
    for _ in 0..2 {
        assert_eq!(hub.check_idle(&mut a).rows_repaired, 0);
    }
    assert_eq!(a.dump("notes"), ["'a','one',1", "'b','two',2"]);
    a.run("UPDATE notes SET title = 'free' WHERE id = 'a'");
    hub.sync(&mut a);
    assert_eq!(a.dump("notes"), hub.server.dump("notes"));
}

#[test]
fn what_waits_by_file_stays_where_the_server_lost_the_row() {
    let (mut hub, mut a, _) = waiting_by_file();
    hub.server
        .run_unseen("DELETE FROM notes WHERE id = 'b'; DELETE FROM cloudsync_clocks WHERE pk LIKE '%b'");
    assert_eq!(hub.check_idle(&mut a).rows_repaired, 0);
    assert_eq!((a.dump("notes").len(), a.quarantine()), (2, 1));
}
