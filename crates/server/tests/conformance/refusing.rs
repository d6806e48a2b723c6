//! What a constraint of the server does not let in is refused row by row.

use crate::device::{BODY, Device, TITLE, assert_converged, key, notes, snapshot};
use crate::subject::{Subject, ask};
use cloudsync_protocol::verdict::{State, Verdicts};

for_every_store!(
    a_row_that_a_constraint_refuses_is_told_and_all_others_go_on,
    a_refused_edit_gives_way_to_the_stores_row,
    a_round_without_an_answer_gets_the_same_verdicts_again,
    what_was_refused_can_be_mended_by_its_author,
    a_value_that_becomes_free_in_the_same_round_may_be_taken,
);

/// Devices whose titles must differ.
fn devices_with_unique_titles<const N: usize>(subject: &dyn Subject) -> [Device; N] {
    let mut table = notes();
    table.uniques = vec![vec!["title".into()]];
    std::array::from_fn(|at| {
        let mut device = Device::new(at as u8 + 1);
        device.schema.tables = vec![table.clone()];
        device.sync(subject);
        device
    })
}

fn refused(id: &str) -> (Vec<u8>, String) {
    (key(id), "UNIQUE constraint failed: notes.title".to_owned())
}

fn a_row_that_a_constraint_refuses_is_told_and_all_others_go_on(subject: &dyn Subject) {
    let [mut a, mut b, mut c] = devices_with_unique_titles(subject);
    a.insert("first", "taken", "by a");
    a.sync(subject);
    b.insert("before", "free", "by b");
    b.insert("second", "taken", "by b");
    b.insert("third", "free too", "by b");
    let synced = b.sync(subject);
    assert_eq!((synced.quarantined, synced.turns), (0, 1));
    assert_eq!(b.rejected, [refused("second")]);
    assert!(!b.is_alive("second"));
    c.sync(subject);
    assert!(c.is_alive("before") && c.is_alive("third") && c.is_alive("first") && !c.is_alive("second"));
    assert_converged(subject, &mut [&mut a, &mut b, &mut c]);
    assert_eq!(a.rows(), 3);
}

fn a_refused_edit_gives_way_to_the_stores_row(subject: &dyn Subject) {
    let [mut a, mut b] = devices_with_unique_titles(subject);
    a.insert("first", "taken", "by a");
    a.insert("second", "own", "by a");
    a.sync(subject);
    b.sync(subject);
    a.update("second", BODY, "newer");
    a.sync(subject);
    // Later than all that the store has, and void all the same.
    b.time += 1_000;
    b.update("second", TITLE, "taken");
    b.sync(subject);
    assert_eq!(b.rejected, [refused("second")]);
    assert_eq!((b.text("second", TITLE), b.text("second", BODY)), ("own".into(), "newer".into()));
    assert_converged(subject, &mut [&mut a, &mut b]);
    a.update("second", TITLE, "older than what was refused");
    assert_converged(subject, &mut [&mut a, &mut b]);
}

fn a_round_without_an_answer_gets_the_same_verdicts_again(subject: &dyn Subject) {
    let [mut a, mut b] = devices_with_unique_titles(subject);
    a.insert("first", "taken", "by a");
    a.insert("second", "own", "by a");
    a.sync(subject);
    b.sync(subject);
    b.update("second", TITLE, "taken");
    b.insert("third", "taken", "by b");
    let first = ask(subject.store(), &b.round()).took();
    a.update("second", BODY, "changed meanwhile");
    a.sync(subject);
    let again = ask(subject.store(), &b.round()).took();
    assert_eq!(again.upload(), first.upload());
    let verdicts = Verdicts::decode(&again.verdicts).unwrap();
    let mut states: Vec<_> =
        verdicts.list.iter().map(|verdict| (verdict.key.to_vec(), verdict.state)).collect();
    states.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(states, [(key("second"), State::Given), (key("third"), State::Absent)]);
    assert!(!verdicts.more);
    b.absorb(&again);
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!(b.text("second", BODY), "changed meanwhile");
    // The next round forgets them.
    b.update("first", BODY, "by b");
    assert!(ask(subject.store(), &b.round()).took().verdicts.is_empty());
}

fn what_was_refused_can_be_mended_by_its_author(subject: &dyn Subject) {
    let [mut a, mut b] = devices_with_unique_titles(subject);
    a.insert("first", "taken", "by a");
    a.sync(subject);
    b.insert("second", "taken", "by b");
    b.sync(subject);
    b.insert("second", "another", "by b");
    b.sync(subject);
    assert_eq!(b.rejected.len(), 1);
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!(a.text("second", TITLE), "another");
    a.delete("first");
    a.update("second", TITLE, "taken");
    a.sync(subject);
    assert!(a.rejected.is_empty());
    assert_converged(subject, &mut [&mut a, &mut b]);
}

fn a_value_that_becomes_free_in_the_same_round_may_be_taken(subject: &dyn Subject) {
    let [mut a, mut b] = devices_with_unique_titles(subject);
    for id in ["a", "b", "c"] {
        a.insert(id, id, "");
    }
    a.sync(subject);
    b.sync(subject);
    for (id, title) in [("c", "d"), ("b", "c"), ("a", "b")] {
        b.update(id, TITLE, title);
    }
    b.sync(subject);
    assert!(b.rejected.is_empty());
    assert_eq!(snapshot(subject).0, b.show());
    assert_converged(subject, &mut [&mut a, &mut b]);
}
