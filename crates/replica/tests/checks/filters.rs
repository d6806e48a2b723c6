//! Checks of tables with filters: what is outside belongs to this file.

use crate::three;

#[test]
fn rows_outside_of_the_filter_stay_and_those_inside_are_checked() {
    let (mut hub, _, mut b) = three();
    b.replica.set_filter("notes", "rank < 10").unwrap();
    b.run("INSERT INTO notes VALUES('p', 'private', 11); UPDATE notes SET rank = 12, title = 'mine' WHERE id = 'a'");
    hub.sync(&mut b);
    let before = b.dump("notes");
    for _ in 0..2 {
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    }
    assert_eq!(b.dump("notes"), before);
    b.run_unseen("UPDATE notes SET title = title || '!'");
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 2, "b and c");
    assert_eq!(
        b.rows("SELECT id, title FROM notes ORDER BY id"),
        ["'a','mine!'", "'b','two'", "'c','three'", "'p','private!'"]
    );
}

#[test]
fn rows_deleted_outside_of_the_filter_stay_deleted() {
    let (mut hub, _, mut b) = three();
    b.replica.set_filter("notes", "rank < 2").unwrap();
    hub.sync(&mut b);
    b.run("DELETE FROM notes WHERE rank > 2");
    let before = b.dump("notes");
    for _ in 0..2 {
        assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    }
    assert_eq!(b.dump("notes"), before);
    // They come again when the filter goes.
    b.replica.clear_filter("notes").unwrap();
    hub.sync(&mut b);
    assert_eq!(b.dump("notes"), hub.server.dump("notes"));
}

/// A range ends at the last row here that is compared, and the next one begins behind the one that is not.
#[test]
fn what_is_missing_beside_a_row_that_is_not_compared_comes_when_everything_is_asked_for() {
    for (filter, lost) in [("id <> 'c'", "b"), ("id <> 'b'", "a")] {
        let (mut hub, _, mut b) = three();
        b.replica.set_filter("notes", filter).unwrap();
        hub.sync(&mut b);
        b.run_unseen(&format!(
            "DELETE FROM notes WHERE id = '{lost}'; DELETE FROM cloudsync_clocks WHERE pk LIKE '%{lost}'"
        ));
        b.replica.reset_sync().unwrap();
        hub.sync(&mut b);
        assert_eq!(b.get::<i64>(&format!("SELECT count(*) FROM notes WHERE id = '{lost}'")), 1, "{filter}");
    }
}
