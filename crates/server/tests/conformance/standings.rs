//! Rounds are taken exactly once, and clones and restored files are told apart.

use crate::device::{BODY, Device, TITLE, assert_converged, snapshot};
use crate::subject::{NOW, READER, Subject, ask, ask_as};
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::message::{Reason, Request};

for_every_store!(
    a_repeated_round_gets_the_same_answer,
    a_repeated_round_with_something_else_in_it_is_told_so,
    a_copy_that_goes_on_is_told_from_the_original,
    a_server_that_lost_turns_says_so,
    an_unknown_site_with_a_past_is_restored,
    a_cursor_from_a_lost_time_shows_a_restored_server,
    a_key_that_may_not_write_begins_no_epoch,
    another_epoch_is_refused,
    clocks_too_far_apart_are_refused,
    a_key_that_may_not_write_may_read,
);

fn a_repeated_round_gets_the_same_answer(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    // A part of a row that the store does not know, so that the answer has something to tell.
    a.insert("waits", "title", "body");
    a.take_payload();
    a.update("waits", TITLE, "part");
    a.insert("k", "title", "body");
    let first = ask(subject.store(), &a.round()).took();
    assert_eq!(first.accepted.unwrap().quarantined, 1);
    let before = snapshot(subject);
    let again = ask(subject.store(), &a.round()).took();
    assert!(!first.is_repeated() && again.is_repeated());
    assert_eq!(again.upload(), first.upload());
    // A copy may have sent the round with values of its own: what was taken comes back.
    assert!(first.payload.is_empty() && !again.payload.is_empty());
    assert_eq!(snapshot(subject), before);
    a.absorb(&first);
    b.sync(subject);
    b.update("k", BODY, "by b");
    b.sync(subject);
    // The second round brings the whole of the row that waits.
    assert_eq!((a.sync(subject).rows, a.nonce), (1, 2));
    assert_eq!(a.text("k", BODY), "by b");
}

fn a_repeated_round_with_something_else_in_it_is_told_so(subject: &dyn Subject) {
    let mut original = Device::new(1);
    original.insert("k", "title", "body");
    let mut copy = original.clone();
    // The copy has the round that is on its way, under the same id, and another row in it.
    copy.insert("l", "title", "of the copy");
    let first = ask(subject.store(), &original.round()).took();
    let before = snapshot(subject);
    let again = ask(subject.store(), &copy.round()).took();
    let accepted = again.accepted.unwrap();
    assert!(accepted.committed && accepted.repeated && accepted.differs);
    assert!(again.verdicts.is_empty() && again.nonce == first.nonce);
    assert_eq!(snapshot(subject), before);
    let again = ask(subject.store(), &original.round()).took();
    assert!(again.is_repeated() && !again.accepted.unwrap().differs);
}

fn a_copy_that_goes_on_is_told_from_the_original(subject: &dyn Subject) {
    let mut original = Device::new(1);
    original.insert("k", "title", "body");
    original.sync(subject);
    let mut copy = original.clone();
    let mut older = original.clone();
    older.nonce = 0;
    original.update("k", TITLE, "original");
    original.sync(subject);
    assert_eq!(original.nonce, 2);
    // Each round id is new, unlike those of a copy made by cloning a test device.
    copy.new_round();
    copy.new_round();
    copy.update("k", TITLE, "copy");
    let before = snapshot(subject);
    let refusal = ask(subject.store(), &copy.round()).refused(Reason::Clone);
    assert_eq!((refusal.epoch, refusal.nonce), (original.epoch, 2));
    ask(subject.store(), &copy.request()).refused(Reason::Clone);
    ask(subject.store(), &older.request()).refused(Reason::Clone);
    assert_eq!(snapshot(subject), before);
    original.update("k", BODY, "goes on");
    assert_converged(subject, &mut [&mut original]);
    assert_eq!((original.text("k", TITLE), original.nonce), ("original".into(), 3));
}

fn a_server_that_lost_turns_says_so(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    let epoch = a.epoch;
    a.nonce = 7;
    a.update("k", TITLE, "remembered");
    let before = snapshot(subject);
    let refusal = ask(subject.store(), &a.round()).refused(Reason::Restored);
    assert!(refusal.epoch > epoch);
    assert_eq!(refusal.nonce, 1);
    assert_eq!(snapshot(subject), before);
    let again = ask(subject.store(), &a.request()).refused(Reason::Restored);
    assert_eq!(again.epoch, refusal.epoch, "one loss begins one epoch");
    // Every other device must bring what it holds as well.
    let other = ask(subject.store(), &b.request()).refused(Reason::Restored);
    assert_eq!((other.epoch, other.nonce), (refusal.epoch, 0));
    (a.epoch, a.nonce, a.cursor) = (refusal.epoch, refusal.nonce, 0);
    (b.epoch, b.nonce, b.cursor) = (refusal.epoch, 0, 0);
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!((b.text("k", TITLE), a.nonce), ("remembered".into(), 2));
}

fn an_unknown_site_with_a_past_is_restored(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.sync(subject);
    let epoch = a.epoch;
    a.nonce = 3;
    let refusal = ask(subject.store(), &a.request()).refused(Reason::Restored);
    assert!(refusal.epoch > epoch && refusal.nonce == 0);
    (a.epoch, a.nonce) = (refusal.epoch, refusal.nonce);
    a.insert("k", "title", "body");
    assert_converged(subject, &mut [&mut a]);
}

fn a_cursor_from_a_lost_time_shows_a_restored_server(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    // A device that only reads has no nonce that could tell.
    assert_eq!(b.nonce, 0);
    let before = snapshot(subject);
    for cursor in [b.cursor + 1, i64::MAX as u64] {
        let lost = Request { cursor, epoch: b.epoch, ..b.request() };
        let refusal = ask(subject.store(), &lost).refused(Reason::Restored);
        assert!(refusal.epoch > b.epoch && refusal.nonce == 0);
        b.epoch = refusal.epoch;
    }
    assert_eq!(snapshot(subject), before);
    (a.epoch, a.cursor, b.cursor) = (b.epoch, 0, 0);
    assert_converged(subject, &mut [&mut a, &mut b]);
}

fn a_key_that_may_not_write_begins_no_epoch(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    let (stranger, reader) = (Device::new(2), Device::new(3));
    let (epoch, cursor) = (a.epoch, a.cursor + 1);
    let lost =
        [Request { epoch, nonce: 7, ..stranger.request() }, Request { epoch, cursor, ..reader.request() }];
    for request in lost {
        let refusal = ask_as(subject.store(), &request, READER).refused(Reason::Restored);
        assert_eq!((refusal.epoch, refusal.nonce), (epoch, 0));
    }
    assert_eq!(a.sync(subject).rows, 0);
}

fn another_epoch_is_refused(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    for epoch in [a.epoch - 1, a.epoch + 1] {
        if epoch == 0 {
            continue;
        }
        let refusal = ask(subject.store(), &Request { epoch, ..a.request() }).refused(Reason::Restored);
        assert_eq!((refusal.epoch, refusal.nonce), (a.epoch, 1));
    }
    assert_eq!(a.sync(subject).rows, 0);
}

fn clocks_too_far_apart_are_refused(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.sync(subject);
    a.insert("k", "title", "body");
    let before = snapshot(subject);
    for now in [NOW + CLOCK_AHEAD_MS_MAX + 1, NOW - CLOCK_AHEAD_MS_MAX - 1, 0] {
        ask(subject.store(), &Request { now, ..a.round() }).refused(Reason::ClockSkew);
        ask(subject.store(), &Request { now, ..a.request() }).refused(Reason::ClockSkew);
    }
    assert_eq!(snapshot(subject), before);
    for now in [NOW + CLOCK_AHEAD_MS_MAX, NOW - CLOCK_AHEAD_MS_MAX] {
        ask(subject.store(), &Request { now, ..a.request() }).took();
    }
    let took = ask(subject.store(), &Request { now: NOW + CLOCK_AHEAD_MS_MAX, ..a.round() }).took();
    assert!(took.accepted.unwrap().committed);
}

fn a_key_that_may_not_write_may_read(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.absorb(&ask_as(subject.store(), &b.introduction(), READER).took());
    assert_eq!(b.show(), a.show());
    b.update("k", TITLE, "not mine");
    let before = snapshot(subject);
    ask_as(subject.store(), &b.round(), READER).refused(Reason::Denied);
    assert_eq!(snapshot(subject), before);
    assert_eq!(ask_as(subject.store(), &b.request(), READER).took().nonce, 0);
}
