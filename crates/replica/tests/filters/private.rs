//! Rows that were written outside of a filter: what others know of them, and what becomes of both.

use super::*;

#[test]
fn private_edits_are_sent_when_the_filter_goes() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run_at(9_000, "UPDATE notes SET title = 'private'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','private',0"]);
    a.replica.clear_filter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','private',0"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn a_row_that_left_comes_back_by_a_new_filter() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1)");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET public = 0");
    exchange(&mut a, &mut b);
    assert!(b.dump("notes").is_empty());
    a.replica.set_filter("notes", "public IN (0, 1)").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','one',0"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn deleting_a_row_that_a_later_filter_left_outside_is_local() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("DELETE FROM notes");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes").len(), 2);
    assert!(a.dump("notes").is_empty());
    // Whoever writes it again sends it here again.
    b.run("UPDATE notes SET title = 'again' WHERE id = '2'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'2','again',0"]);
    a.run("INSERT INTO notes VALUES('1', 'new', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','new',1", "'2','again',0"]);
}

#[test]
fn the_mark_of_a_private_row_goes_with_it() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    let marks = "SELECT count(*) FROM cloudsync_private";
    a.run("UPDATE notes SET title = 'mine'");
    a.replica.fold().unwrap();
    assert_eq!(a.rows(marks), ["2"]);
    a.run("UPDATE notes SET title = 'once more'; DELETE FROM notes WHERE id = '2'");
    a.replica.fold().unwrap();
    assert_eq!(a.rows(marks), ["1"]);
}

#[test]
fn rows_deleted_outside_come_again_when_the_filter_goes() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private'");
    a.replica.fold().unwrap();
    a.run("DELETE FROM notes WHERE id = '2'");
    a.replica.clear_filter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','private',0", "'2','two',0"]);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
}

#[test]
fn what_comes_in_is_applied_and_what_it_overwrites_of_a_private_row_is_journaled() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    b.run("INSERT INTO notes VALUES('3', 'three', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private ' || id WHERE id < '3'");
    b.run("UPDATE notes SET title = 'public'; DELETE FROM notes WHERE id = '2'");
    b.run("INSERT INTO notes VALUES('4', 'outside here', 0)");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','public',0", "'3','public',0", "'4','outside here',0"]);
    let journal = "SELECT tbl, col_name, col_value FROM cloudsync_conflicts ORDER BY id";
    assert_eq!(a.rows(journal)[..2], ["'notes','title','private 1'", "'notes','title','private 2'"]);
    let by_b = format!("winner_site_id = x'{}'", b.replica.site_id().unwrap());
    let won =
        a.rows(&format!("SELECT kind, {by_b} AND winner_time > 0 FROM cloudsync_conflicts ORDER BY id"));
    assert_eq!(won[..2], ["'overwritten',1", "'deleted',1"]);
    // Nothing was ever private of these.
    assert!(!a.rows(journal).iter().any(|row| row.contains("three")));
    // The same changes again bring nothing.
    let journaled = a.rows(journal).len();
    assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    assert_eq!(a.rows(journal).len(), journaled);
}

#[test]
fn known_values_that_come_again_leave_private_ones_alone() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'zzz', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'aaa'");
    assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    assert_eq!(a.dump("notes"), ["'1','aaa',0"]);
}

#[test]
fn a_private_row_makes_way_for_the_row_of_another() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'mine', 0)");
    b.run("INSERT INTO notes VALUES('1', 'theirs', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','theirs',1"]);
    assert_eq!(a.rows("SELECT col_value FROM cloudsync_conflicts"), ["'mine'", "0"]);
    assert_eq!(a.quarantine(), 0);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn a_life_that_others_revive_takes_the_place_of_the_row_that_left() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1)");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET public = 0, title = 'kept'");
    exchange(&mut a, &mut b);
    b.run("INSERT INTO notes VALUES('1', 'revived', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','revived',1"]);
    assert_eq!(a.rows("SELECT col_value FROM cloudsync_conflicts"), ["'kept'", "0"]);
    assert_eq!((a.quarantine(), b.quarantine()), (0, 0));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
    // A deletion by others leaves a row alone that nobody else has.
    a.run("UPDATE notes SET public = 0, title = 'kept again'");
    exchange(&mut a, &mut b);
    b.run("INSERT INTO notes VALUES('1', 'short', 0); ");
    b.replica.fold().unwrap();
    b.run("DELETE FROM notes");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','kept again',0"]);
}

#[test]
fn a_remote_edit_that_brings_a_private_row_inside_brings_its_private_part_along() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private'");
    exchange(&mut a, &mut b);
    b.run_at(2_000, "UPDATE notes SET public = 1");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','private',1"]);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
}

#[test]
fn a_refused_change_journals_nothing() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER)";
    let mut a = Device::new(
        1,
        "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT CHECK(title <> 'bad'), public INTEGER)",
    );
    let mut b = Device::new(2, schema);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'mine', 0)");
    b.run("INSERT INTO notes VALUES('1', 'bad', 1)");
    sync_by_payload(&mut b, &mut a);
    assert_eq!(a.dump("notes"), ["'1','mine',0"]);
    assert_eq!((a.quarantine(), a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts")), (1, 0));
    b.run("UPDATE notes SET title = 'good'");
    sync_by_payload(&mut b, &mut a);
    assert_eq!(a.dump("notes"), ["'1','good',1"]);
    assert_eq!((a.quarantine(), a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts")), (0, 2));
}

/// An edit that was not sent yet is passed over while somebody else's change keeps the row outside, and sent when another one
/// brings it back.
#[test]
fn an_edit_that_was_passed_over_is_sent_when_others_bring_its_row_inside() {
    pass_over_and_bring_inside("");
    // A restored server is sent everything.
    pass_over_and_bring_inside("INSERT INTO cloudsync_settings VALUES('resend', 1)");
}

fn pass_over_and_bring_inside(meanwhile: &str) {
    let mut hub = Hub::new(NOTES);
    let mut a = Device::new(1, NOTES);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'first', 1)");
    hub.turn(&mut a, BOTH);
    a.run_at(NOW + 2, "UPDATE notes SET title = 'mine'");
    hub.server.run_at(NOW + 1, "UPDATE notes SET public = 0");
    hub.turn(&mut a, PULL);
    assert_eq!(a.dump("notes"), ["'1','mine',0"]);
    a.run(meanwhile);
    hub.turn(&mut a, BOTH);
    hub.turn(&mut a, BOTH);
    assert_eq!(hub.server.dump("notes"), ["'1','first',0"]);
    hub.server.run_at(NOW + 3, "UPDATE notes SET public = 1");
    hub.turn(&mut a, BOTH);
    hub.turn(&mut a, BOTH);
    assert_eq!(hub.server.dump("notes"), ["'1','mine',1"]);
    assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
}

/// Nobody edited it here: stamped anew by the next filter it would win over what others have, or will send.
#[test]
fn a_row_that_entered_and_left_unsent_is_not_private() {
    for meanwhile in ["", "INSERT INTO cloudsync_settings VALUES('resend', 1)"] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, NOTES);
        hub.server.run("INSERT INTO notes VALUES('1', 'first', 0)");
        hub.turn(&mut a, BOTH);
        a.replica.set_filter("notes", "public = 1").unwrap();
        for _ in 0..2 {
            a.replica.clear_filter("notes").unwrap();
            a.replica.set_filter("notes", "public = 1").unwrap();
        }
        a.run(meanwhile);
        hub.turn(&mut a, PUSH);
        assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
        a.replica.clear_filter("notes").unwrap();
        assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
    }
}

#[test]
fn an_edit_of_a_row_that_entered_stays_private_when_it_is_passed_over() {
    let edit = |a: &mut Device| a.run_at(NOW + 2, "UPDATE notes SET title = 'mine'");
    for is_before in [true, false] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, NOTES);
        hub.server.run("INSERT INTO notes VALUES('1', 'first', 0)");
        hub.turn(&mut a, BOTH);
        if is_before {
            edit(&mut a);
        }
        a.replica.set_filter("notes", "public = 1").unwrap();
        a.replica.clear_filter("notes").unwrap();
        if !is_before {
            a.replica.fold().unwrap();
            edit(&mut a);
        }
        a.replica.set_filter("notes", "public = 1").unwrap();
        hub.turn(&mut a, PUSH);
        assert_eq!(hub.server.dump("notes"), ["'1','first',0"]);
        assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 1);
        hub.server.run_at(NOW + 3, "UPDATE notes SET public = 1");
        hub.turn(&mut a, BOTH);
        hub.turn(&mut a, BOTH);
        assert_eq!(hub.server.dump("notes"), ["'1','mine',1"]);
        assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
    }
}

/// A row that was deleted outside of a filter has a clock and no values. Where it comes again in part older than that clock,
/// the older values must not take the place of the later ones under it.
#[test]
fn a_row_deleted_outside_comes_again_under_the_clocks_of_what_comes() {
    let (mut a, mut b) = pair(NOTES);
    let mut c = Device::new(3, NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'older', 0)");
    sync_by_payload(&mut a, &mut b);
    sync_by_payload(&mut a, &mut c);
    b.run_at(2_000, "UPDATE notes SET title = 'later'");
    sync_by_payload(&mut b, &mut a);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private'");
    a.replica.fold().unwrap();
    a.run("DELETE FROM notes");
    c.run_at(3_000, "UPDATE notes SET public = 1");
    sync_by_payload(&mut c, &mut a);
    assert_eq!(a.dump("notes"), ["'1','older',1"]);
    assert_eq!(a.clocks("notes"), c.clocks("notes"));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
    exchange(&mut b, &mut a);
    assert_eq!(a.dump("notes"), ["'1','later',1"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

/// The same where the server has the later value, and would not send it again.
#[test]
fn what_was_known_of_a_row_deleted_outside_is_fetched_when_it_comes_by_hand() {
    let mut hub = Hub::new(NOTES);
    let (mut a, mut c) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'older', 0)");
    hub.turn(&mut a, BOTH);
    hub.turn(&mut c, BOTH);
    hub.server.run_at(NOW + 2, "UPDATE notes SET title = 'later'");
    hub.turn(&mut a, BOTH);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("DELETE FROM notes");
    c.run_at(NOW + 3, "UPDATE notes SET public = 1");
    sync_by_payload(&mut c, &mut a);
    assert_eq!(a.dump("notes"), ["'1','older',1"]);
    hub.turn(&mut a, BOTH);
    hub.turn(&mut a, BOTH);
    assert_eq!(a.dump("notes"), ["'1','later',1"]);
    assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
}
