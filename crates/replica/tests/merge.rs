//! What two devices agree on after they exchanged payloads.

mod bench;

use bench::{Device, assert_same, exchange, pair, sync_by_payload};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)";

#[test]
fn insert_update_delete_and_reinsert_converge_both_ways() {
    let (mut a, mut b) = pair(NOTES);
    for (step, sql) in [
        "INSERT INTO notes VALUES('1', 'one', 'x'), ('2', 'two', NULL)",
        "UPDATE notes SET title = 'ONE' WHERE id = '1'",
        "DELETE FROM notes WHERE id = '1'",
        "INSERT INTO notes VALUES('1', 'again', NULL)",
        "UPDATE notes SET body = 'b' WHERE id = '1'; DELETE FROM notes WHERE id = '2'",
    ]
    .iter()
    .enumerate()
    {
        let (from, to) = if step % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        from.run(sql);
        assert!(sync_by_payload(from, to) > 0, "{sql}");
        assert_same(from, to, "notes");
        assert_eq!(sync_by_payload(to, from), 0, "nothing comes back after {sql}");
    }
    assert_eq!(a.dump("notes"), ["'1','again','b'"]);
}

#[test]
fn different_columns_of_one_row_edited_on_two_devices_both_stay() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET title = 'A'");
    b.run("UPDATE notes SET body = 'B'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','A','B'"]);
}

#[test]
fn of_two_edits_of_one_column_the_later_wins_in_both_orders() {
    for (first, second) in [(1_000, 2_000), (2_000, 1_000)] {
        let (mut a, mut b) = pair(NOTES);
        a.run_at(500, "INSERT INTO notes VALUES('1', 't', 'b')");
        exchange(&mut a, &mut b);
        a.run_at(first, "UPDATE notes SET title = 'from a'");
        b.run_at(second, "UPDATE notes SET title = 'from b'");
        let (from_a, from_b) = (a.encode(), b.encode());
        a.apply(&from_b).unwrap();
        b.apply(&from_a).unwrap();
        assert_same(&mut a, &mut b, "notes");
        let winner = if first > second { "'1','from a','b'" } else { "'1','from b','b'" };
        assert_eq!(a.dump("notes"), [winner]);
    }
}

#[test]
fn equal_times_go_to_the_larger_site_and_values_do_not_matter() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(500, "INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run_at(1_000, "UPDATE notes SET title = 'zzz'");
    b.run_at(1_000, "UPDATE notes SET title = NULL");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    let winner = if a.replica.site_id().unwrap() > b.replica.site_id().unwrap() { "'zzz'" } else { "NULL" };
    assert_eq!(a.dump("notes"), [format!("'1',{winner},'b'")]);
}

#[test]
fn an_equal_value_takes_the_later_clock_on() {
    // a@1, b@2, a@3 in all orders: the clock always becomes the maximum.
    let (mut a, mut b) = pair(NOTES);
    let mut c = Device::new(3, NOTES);
    a.run_at(500, "INSERT INTO notes VALUES('1', 'o', NULL)");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut c);
    a.run_at(1_000, "UPDATE notes SET title = 'a'");
    b.run_at(2_000, "UPDATE notes SET title = 'b'");
    c.run_at(3_000, "UPDATE notes SET title = 'a'");
    let (from_a, from_b, from_c) = (a.encode(), b.encode(), c.encode());
    let orders = [[&from_a, &from_b, &from_c], [&from_a, &from_c, &from_b], [&from_c, &from_b, &from_a]];
    for order in orders {
        let mut d = Device::new(4, NOTES);
        order.iter().for_each(|payload| assert!(d.apply(payload).is_ok()));
        assert_eq!(d.dump("notes"), ["'1','a',NULL"]);
        let clocks = d.clocks("notes");
        assert!(clocks.values().all(|clock| clock.contains("title 3000@")), "{clocks:?}");
    }
}

#[test]
fn a_delete_beats_a_concurrent_update() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run_at(1_000, "DELETE FROM notes");
    b.run_at(9_000_000, "UPDATE notes SET title = 'later'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert!(a.dump("notes").is_empty());
}

#[test]
fn two_deletes_and_two_reinserts_converge() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(500, "INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run_at(3_000, "DELETE FROM notes");
    b.run_at(2_000, "DELETE FROM notes");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    a.run_at(4_000, "INSERT INTO notes VALUES('1', 'from a', NULL)");
    b.run_at(5_000, "INSERT INTO notes VALUES('1', 'from b', NULL)");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','from b',NULL"]);
}

#[test]
fn concurrent_inserts_under_one_key_give_one_row() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'a', 'a')");
    b.run_at(2_000, "INSERT INTO notes VALUES('1', 'b', 'b')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','b','b'"]);
}

#[test]
fn a_changed_key_moves_the_row() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET id = '2'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'2','t','b'"]);
    b.run("UPDATE notes SET id = '1', title = 'back'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','back','b'"]);
}

#[test]
fn a_local_edit_after_a_later_remote_one_wins() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(500, "INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run_at(9_000, "UPDATE notes SET title = 'clock ahead'");
    exchange(&mut a, &mut b);
    b.run_at(1_000, "UPDATE notes SET title = 'seen and replaced'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','seen and replaced','b'"]);
}

#[test]
fn a_relay_passes_changes_on_unchanged() {
    let (mut a, mut b) = pair(NOTES);
    let mut c = Device::new(3, NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 'x', 'y')");
    a.run("DELETE FROM notes WHERE id = '2'");
    sync_by_payload(&mut a, &mut b);
    b.run("UPDATE notes SET body = 'by b'");
    sync_by_payload(&mut b, &mut c);
    sync_by_payload(&mut c, &mut a);
    assert_same(&mut a, &mut b, "notes");
    assert_same(&mut a, &mut c, "notes");
}
