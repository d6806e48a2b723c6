//! An insertion under a key that was deleted elsewhere, by a device that never heard of it, begins the next life.

use crate::device::{BODY, Device, TITLE, assert_converged, key, snapshot, snapshot_by};
use crate::subject::{Subject, Took, ask};
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::message::{Request, Upload};

for_every_store!(
    an_insertion_under_a_key_that_was_deleted_elsewhere_lives,
    an_insertion_from_before_the_deletion_lives_too,
    a_device_that_hears_of_the_deletion_before_it_sends_keeps_its_insertion,
    what_a_device_writes_before_it_hears_of_the_move_is_not_lost,
    a_deletion_that_is_sent_before_the_device_hears_of_the_move_holds,
    a_deletion_that_is_unsent_when_the_device_hears_of_the_move_holds,
    a_repeated_round_of_a_moved_insertion_changes_nothing,
    a_copy_of_an_old_insertion_brings_nothing_back,
    two_devices_that_insert_a_deleted_key_merge,
    whoever_knew_the_row_loses_to_its_deletion,
    an_insertion_that_knows_of_the_deletion_begins_the_next_life_by_itself,
    other_algorithms_go_by_their_own_rules,
);

fn life(device: &Device, id: &str) -> u64 {
    device.show()[&key(id)].0
}

/// A store in which a device has inserted and deleted a row, and that device.
fn deleted(subject: &dyn Subject) -> Device {
    let mut first = Device::new(1);
    first.insert("k", "first", "first");
    first.sync(subject);
    first.delete("k");
    first.sync(subject);
    first
}

/// Sends without asking for anything.
fn push(subject: &dyn Subject, device: &mut Device) -> Took {
    let took = ask(subject.store(), &Request { pull: false, ..device.round() }).took();
    let cursor = device.cursor;
    device.absorb(&took);
    device.cursor = cursor;
    took
}

fn an_insertion_under_a_key_that_was_deleted_elsewhere_lives(subject: &dyn Subject) {
    let mut first = deleted(subject);
    let mut late = Device::new(2);
    late.time += 100;
    late.insert("k", "late", "late");
    // The answer to the very round tells the author in which life its row is.
    late.sync(subject);
    assert_eq!((life(&late, "k"), late.text("k", TITLE)), (3, "late".into()));
    assert!(late.rejected.is_empty());
    late.update("k", BODY, "edited");
    assert_converged(subject, &mut [&mut first, &mut late]);
    assert_eq!((first.text("k", TITLE), first.text("k", BODY)), ("late".into(), "edited".into()));
    first.delete("k");
    assert_converged(subject, &mut [&mut first, &mut late]);
    assert!(!late.is_alive("k"));
}

fn an_insertion_from_before_the_deletion_lives_too(subject: &dyn Subject) {
    let mut offline = Device::new(2);
    offline.sync(subject);
    offline.insert("k", "offline", "offline");
    let mut first = Device::new(1);
    first.time += 1_000;
    first.insert("k", "first", "first");
    first.sync(subject);
    first.delete("k");
    first.sync(subject);
    assert_converged(subject, &mut [&mut offline, &mut first]);
    assert_eq!((life(&first, "k"), first.text("k", TITLE)), (3, "offline".into()));
}

fn a_device_that_hears_of_the_deletion_before_it_sends_keeps_its_insertion(subject: &dyn Subject) {
    let mut late = Device::new(2);
    late.sync(subject);
    let mut first = deleted(subject);
    late.insert("k", "late", "late");
    let took = ask(subject.store(), &late.request()).took();
    late.absorb(&took);
    assert_eq!((life(&late, "k"), late.text("k", TITLE)), (3, "late".into()));
    assert_converged(subject, &mut [&mut late, &mut first]);
    assert_eq!(first.text("k", TITLE), "late");
}

fn what_a_device_writes_before_it_hears_of_the_move_is_not_lost(subject: &dyn Subject) {
    let mut first = deleted(subject);
    let mut late = Device::new(2);
    late.insert("k", "late", "late");
    ask(subject.store(), &late.introduction()).took();
    push(subject, &mut late);
    assert_eq!(life(&late, "k"), 1, "nobody told it");
    // One edit is sent before it hears, and one is not.
    late.update("k", TITLE, "sent");
    push(subject, &mut late);
    late.update("k", BODY, "unsent");
    let took = ask(subject.store(), &late.request()).took();
    late.absorb(&took);
    assert_eq!((life(&late, "k"), late.text("k", BODY)), (3, "unsent".into()));
    assert_converged(subject, &mut [&mut first, &mut late]);
    assert_eq!((first.text("k", TITLE), first.text("k", BODY)), ("sent".into(), "unsent".into()));
}

fn a_deletion_that_is_sent_before_the_device_hears_of_the_move_holds(subject: &dyn Subject) {
    delete_before_hearing(subject, true);
}

fn a_deletion_that_is_unsent_when_the_device_hears_of_the_move_holds(subject: &dyn Subject) {
    delete_before_hearing(subject, false);
}

fn delete_before_hearing(subject: &dyn Subject, is_sent: bool) {
    let mut first = deleted(subject);
    let mut late = Device::new(2);
    late.time += 1_000;
    late.insert("k", "late", "late");
    ask(subject.store(), &late.introduction()).took();
    push(subject, &mut late);
    late.delete("k");
    if is_sent {
        push(subject, &mut late);
    }
    assert_converged(subject, &mut [&mut late, &mut first]);
    assert!(!first.is_alive("k") && !late.is_alive("k"));
}

fn a_repeated_round_of_a_moved_insertion_changes_nothing(subject: &dyn Subject) {
    let mut first = deleted(subject);
    let mut late = Device::new(2);
    late.insert("k", "late", "late");
    let lost = ask(subject.store(), &late.round()).took();
    let (moved, _) = snapshot(subject);
    let again = ask(subject.store(), &late.round()).took();
    assert!(again.is_repeated());
    assert_eq!((again.upload(), snapshot(subject).0), (lost.upload(), moved));
    late.absorb(&again);
    assert_eq!((life(&late, "k"), late.text("k", TITLE)), (3, "late".into()));
    // Somebody deletes the row before the author has the answer.
    first.sync(subject);
    let mut third = Device::new(3);
    third.insert("l", "third", "third");
    first.delete("k");
    first.sync(subject);
    third.sync(subject);
    assert_converged(subject, &mut [&mut late, &mut first, &mut third]);
    assert!(!late.is_alive("k"));
}

fn a_copy_of_an_old_insertion_brings_nothing_back(subject: &dyn Subject) {
    let mut author = Device::new(1);
    author.insert("k", "title", "body");
    let payload = author.payload();
    let request = author.round();
    let Some(Upload { round, .. }) = request.upload else { panic!("nothing was sent") };
    let took = ask(subject.store(), &request).took();
    author.absorb(&took);
    let mut other = Device::new(2);
    other.sync(subject);
    other.delete("k");
    other.sync(subject);
    let (gone, _) = snapshot(subject);
    let copy = Upload { round, chunk: 0, is_final: true, continues: false, base: 0, payload: &payload };
    // The round once more, late.
    ask(subject.store(), &Request { nonce: 0, upload: Some(copy.clone()), ..author.request() }).took();
    // The same bytes from somebody who did not write them.
    let mut relay = Device::new(3);
    relay.sync(subject);
    ask(subject.store(), &Request { upload: Some(copy), ..relay.request() }).took();
    assert_eq!(snapshot(subject).0, gone);
    assert_converged(subject, &mut [&mut author, &mut other]);
    assert!(!author.is_alive("k"));
}

fn two_devices_that_insert_a_deleted_key_merge(subject: &dyn Subject) {
    let mut first = deleted(subject);
    let (mut b, mut c) = (Device::new(2), Device::new(3));
    b.insert("k", "b", "b");
    c.time += 10;
    c.insert("k", "c", "c");
    b.time += 20;
    b.update("k", BODY, "b, later");
    b.sync(subject);
    c.sync(subject);
    assert_converged(subject, &mut [&mut b, &mut c, &mut first]);
    assert_eq!((first.text("k", TITLE), first.text("k", BODY)), ("c".into(), "b, later".into()));
}

fn whoever_knew_the_row_loses_to_its_deletion(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    b.delete("k");
    b.sync(subject);
    a.time += 100;
    a.update("k", TITLE, "too late");
    a.update("k", BODY, "too late");
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert!(!a.is_alive("k"));
}

fn an_insertion_that_knows_of_the_deletion_begins_the_next_life_by_itself(subject: &dyn Subject) {
    let mut first = deleted(subject);
    first.insert("k", "again", "again");
    first.sync(subject);
    let (rows, cursor) = snapshot(subject);
    assert_eq!(rows[&key("k")].0, 3);
    assert_eq!((first.sync(subject).rows, first.cursor), (0, cursor), "nothing to tell its author");
}

fn other_algorithms_go_by_their_own_rules(subject: &dyn Subject) {
    for (algorithm, lives) in [(Algorithm::Dws, false), (Algorithm::Aws, true)] {
        // One table in each store: the second algorithm has a store of its own.
        let store: Box<dyn Subject> = match subject.sends_chunks() {
            true => Box::new(crate::subject::Sqlite::new()),
            false => Box::new(crate::subject::Memory::new()),
        };
        let mut first = Device::merging_by(algorithm, 1);
        first.insert("k", "first", "first");
        first.sync(&*store);
        first.delete("k");
        first.sync(&*store);
        let mut late = Device::merging_by(algorithm, 2);
        late.time += 100;
        late.insert("k", "late", "late");
        late.sync(&*store);
        assert_converged(&*store, &mut [&mut late, &mut first]);
        assert_eq!(first.is_alive("k"), lives, "{algorithm:?}");
        assert_eq!(snapshot_by(algorithm, &*store).0, first.show());
    }
}
