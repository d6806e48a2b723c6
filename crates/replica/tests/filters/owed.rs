//! Rows that are offered to others though nobody edited them, and that a filter leaves outside before they are sent.

use super::*;

/// What a device notes when its server was restored.
const RESTORED: &str =
    "DELETE FROM cloudsync_settings WHERE key = 'cursor'; INSERT INTO cloudsync_settings VALUES('resend', 1)";

/// A hub whose table is empty, as if the server had lost it.
fn lost() -> Hub {
    Hub::on(Device::new(201, NOTES))
}

/// The device `a` has a later title of the row than `c`, and the server had both.
fn later_and_earlier() -> (Device, Device) {
    let mut hub = Hub::new(NOTES);
    let (mut a, mut c) = pair(NOTES);
    hub.server.run_at(NOW + 1, "INSERT INTO notes VALUES('1', 'first', 1)");
    hub.turn(&mut a, BOTH);
    hub.turn(&mut c, BOTH);
    a.run_at(NOW + 2, "UPDATE notes SET title = 'later'");
    hub.turn(&mut a, BOTH);
    assert_eq!(hub.server.dump("notes"), ["'1','later',1"]);
    (a, c)
}

/// How many rows are marked as private, and as owed.
fn marks(device: &Device) -> [i64; 2] {
    ["cloudsync_private", "cloudsync_owed"].map(|table| {
        let sql = format!("SELECT count(*) FROM sqlite_master WHERE name = '{table}'");
        if device.get::<i64>(&sql) == 0 { 0 } else { device.get(&format!("SELECT count(*) FROM {table}")) }
    })
}

/// Others bring the row inside: what the server acknowledged once is sent again, under the clocks that it had.
#[track_caller]
fn bring_inside(hub: &mut Hub, a: &mut Device) {
    assert_eq!(marks(a), [0, 1]);
    let before = hub.server.dump("notes");
    assert_eq!(before, ["'1','first',1"]);
    hub.server.run_at(NOW + 9, "UPDATE notes SET public = 2");
    hub.turn(a, BOTH);
    hub.turn(a, BOTH);
    assert_eq!(hub.server.dump("notes"), ["'1','later',2"]);
    assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
    assert!(a.clocks("notes").values().all(|clock| clock.contains(&format!("title {}@", NOW + 2))));
    assert_eq!(marks(a), [0, 0]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts"), 0);
}

#[test]
fn a_row_that_the_server_lost_and_that_left_unsent_is_sent_when_others_bring_it_inside() {
    let (mut a, mut c) = later_and_earlier();
    let mut hub = lost();
    assert!(hub.check_idle(&mut a).more, "the server has lost the table");
    a.replica.set_filter("notes", "public = 2").unwrap();
    hub.turn(&mut a, PUSH);
    assert!(hub.server.dump("notes").is_empty());
    hub.check_idle(&mut c);
    hub.turn(&mut c, BOTH);
    bring_inside(&mut hub, &mut a);
}

#[test]
fn a_row_outside_that_a_restored_server_lacks_is_sent_when_others_bring_it_inside() {
    let (mut a, mut c) = later_and_earlier();
    let mut hub = lost();
    c.run(RESTORED);
    hub.turn(&mut c, PUSH);
    a.replica.set_filter("notes", "public = 2").unwrap();
    a.run(RESTORED);
    hub.turn(&mut a, PUSH);
    bring_inside(&mut hub, &mut a);
}

#[test]
fn a_row_under_another_name_that_left_unsent_is_not_private() {
    for (rename, table) in [
        ("ALTER TABLE notes RENAME COLUMN title TO name", "notes"),
        ("ALTER TABLE notes RENAME TO texts", "texts"),
    ] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, NOTES);
        hub.server.run("INSERT INTO notes VALUES('1', 'first', 0)");
        hub.turn(&mut a, BOTH);
        a.run(rename);
        hub.server.run(rename);
        a.replica.fold().unwrap();
        a.replica.set_filter(table, "public = 1").unwrap();
        hub.turn(&mut a, PUSH);
        assert_eq!(marks(&a), [0, 1], "{rename}");
        a.replica.clear_filter(table).unwrap();
        assert_eq!(marks(&a), [0, 0], "{rename}");
        assert_eq!(a.clocks(table), hub.server.clocks(table), "{rename}");
    }
}

/// An edit of such a row is one, whichever came first.
#[test]
fn an_edit_of_a_row_under_another_name_stays_private_when_it_is_passed_over() {
    let rename = "ALTER TABLE notes RENAME TO texts";
    for (before, after) in [(true, false), (false, true)] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, NOTES);
        hub.server.run("INSERT INTO notes VALUES('1', 'first', 0)");
        hub.turn(&mut a, BOTH);
        hub.server.run(rename);
        if before {
            a.run_at(NOW + 2, "UPDATE notes SET title = 'mine'");
            a.replica.fold().unwrap();
        }
        a.run(rename);
        a.replica.fold().unwrap();
        if after {
            a.run_at(NOW + 2, "UPDATE texts SET title = 'mine'");
        }
        a.replica.set_filter("texts", "public = 1").unwrap();
        hub.turn(&mut a, PUSH);
        assert_eq!(hub.server.dump("texts"), ["'1','first',0"]);
        assert_eq!(marks(&a)[0], 1);
        hub.server.run_at(NOW + 3, "UPDATE texts SET public = 1");
        hub.turn(&mut a, BOTH);
        hub.turn(&mut a, BOTH);
        assert_eq!(hub.server.dump("texts"), ["'1','mine',1"]);
        assert_eq!(a.clocks("texts"), hub.server.clocks("texts"));
        assert_eq!(marks(&a), [0, 0]);
    }
}

/// What others wrote and handed over by file keeps their stamps, also while nobody brings it inside.
#[test]
fn a_row_that_came_by_file_and_left_unsent_is_not_private() {
    for is_resent in [false, true] {
        let mut hub = Hub::new(NOTES);
        let (mut a, mut c) = pair(NOTES);
        hub.server.run_at(NOW + 1, "INSERT INTO notes VALUES('1', 'first', 1)");
        hub.turn(&mut a, BOTH);
        hub.turn(&mut c, BOTH);
        a.replica.set_filter("notes", "public = 2").unwrap();
        c.run_at(NOW + 2, "UPDATE notes SET title = 'later'");
        sync_by_payload(&mut c, &mut a);
        if is_resent {
            a.run("INSERT INTO cloudsync_settings VALUES('resend', 1)");
        }
        hub.turn(&mut a, PUSH);
        assert_eq!(a.clocks("notes"), c.clocks("notes"));
        bring_inside(&mut hub, &mut a);
    }
}

/// What goes with a row goes with its mark.
#[test]
fn the_mark_of_what_is_owed_goes_with_its_row() {
    let owing = || {
        let (mut a, _) = later_and_earlier();
        a.replica.set_filter("notes", "public = 2").unwrap();
        a.run(RESTORED);
        lost().turn(&mut a, PUSH);
        assert_eq!(marks(&a), [0, 1]);
        a
    };
    let mut a = owing();
    a.run("UPDATE notes SET title = 'again', public = 2");
    a.replica.fold().unwrap();
    assert_eq!(marks(&a), [0, 0]);
    let (mut a, mut hub) = (owing(), lost());
    hub.server.run_at(NOW + 5, "INSERT INTO notes VALUES('1', 'theirs', 3)");
    hub.server.replica.fold().unwrap();
    hub.server.run_at(NOW + 6, "DELETE FROM notes");
    hub.turn(&mut a, PULL);
    assert!(a.dump("notes").is_empty());
    assert_eq!(marks(&a), [0, 0]);
    let mut a = owing();
    a.replica.logout(true).unwrap();
    assert_eq!(marks(&a), [0, 0]);
}
