//! Range checks of a replica where rows wait for a UNIQUE value.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, NOW};
use hub::Hub;

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
