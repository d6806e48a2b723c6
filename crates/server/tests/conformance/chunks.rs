//! Uploads and downloads in several turns, and payloads that cannot be taken.

use crate::device::{Device, TITLE, assert_converged, snapshot};
use crate::subject::{Subject, Took, ask};
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::message::{Reason, Request, RoundId, Upload};

for_every_store!(
    chunks_are_seen_together_at_the_last_one,
    missing_chunks_are_noticed,
    a_chunk_may_come_twice,
    another_round_takes_the_place_of_an_unfinished_one,
    rounds_of_two_sites_do_not_mix,
    a_change_from_the_future_undoes_its_round,
    what_was_accepted_may_be_replaced,
    damaged_payloads_are_refused,
    a_long_download_can_be_resumed_and_misses_nothing,
);

fn part(round: RoundId, chunk: u32, is_final: bool, payload: &[u8]) -> Upload<'_> {
    Upload { round, chunk, is_final, continues: false, base: 0, payload }
}

fn send(subject: &dyn Subject, device: &Device, upload: Upload<'_>) -> Took {
    ask(subject.store(), &Request { upload: Some(upload), ..device.request() }).took()
}

fn send_refused(subject: &dyn Subject, device: &Device, upload: Upload<'_>, reason: Reason) -> String {
    ask(subject.store(), &Request { upload: Some(upload), ..device.request() }).refused(reason).text
}

/// A device that has synced, and payloads with one new row each.
fn device_with_chunks(subject: &dyn Subject, number: u8, count: usize) -> (Device, Vec<Vec<u8>>) {
    let mut device = Device::new(number);
    device.sync(subject);
    let chunk = |at| {
        device.insert(&format!("{number}-{at}"), "title", "body");
        device.take_payload()
    };
    let chunks = (0..count).map(chunk).collect();
    (device, chunks)
}

fn chunks_are_seen_together_at_the_last_one(subject: &dyn Subject) {
    let (mut a, chunks) = device_with_chunks(subject, 1, 3);
    let (round, before) = (a.new_round(), snapshot(subject));
    for (chunk, payload) in (0..).zip(&chunks[..2]) {
        let took = send(subject, &a, part(round, chunk, false, payload));
        let accepted = took.accepted.unwrap();
        assert!(accepted.round == round && !accepted.committed);
        assert_eq!((took.nonce, accepted.quarantined), (0, 0));
        assert_eq!(snapshot(subject), before);
    }
    let took = send(subject, &a, part(round, 2, true, &chunks[2]));
    assert!(took.accepted.unwrap().committed && took.nonce == 1);
    a.absorb(&took);
    assert_eq!(snapshot(subject).0, a.show());
    let (_, after) = snapshot(subject);
    let repeated = Request { nonce: 0, upload: Some(part(round, 2, true, &chunks[2])), ..a.request() };
    let again = ask(subject.store(), &repeated).took();
    assert!(again.is_repeated() && again.upload() == took.upload() && again.cursor == after);
}

fn missing_chunks_are_noticed(subject: &dyn Subject) {
    let (mut a, chunks) = device_with_chunks(subject, 1, 3);
    let (round, before) = (a.new_round(), snapshot(subject));
    send_refused(subject, &a, part(round, 1, true, &chunks[1]), Reason::LostChunks);
    send(subject, &a, part(round, 0, false, &chunks[0]));
    send_refused(subject, &a, part(round, 2, true, &chunks[2]), Reason::LostChunks);
    assert_eq!(snapshot(subject), before);
    send(subject, &a, part(round, 1, false, &chunks[1]));
    a.absorb(&send(subject, &a, part(round, 2, true, &chunks[2])));
    assert_eq!(snapshot(subject).0, a.show());
}

fn a_chunk_may_come_twice(subject: &dyn Subject) {
    let (mut a, chunks) = device_with_chunks(subject, 1, 3);
    let round = a.new_round();
    for chunk in [0, 0, 1, 1] {
        let took = send(subject, &a, part(round, chunk, false, &chunks[chunk as usize]));
        assert!(!took.accepted.unwrap().committed);
    }
    let first = send(subject, &a, part(round, 2, true, &chunks[2]));
    let again = send(subject, &a, part(round, 2, true, &chunks[2]));
    assert!(again.is_repeated() && again.upload() == first.upload());
    a.absorb(&first);
    assert_eq!(snapshot(subject).0, a.show());
    // A device that begins a round again may cut it otherwise: what was behind the chunk counts no more.
    let (a, chunks) = (&mut a, [b"", b""]);
    let round = a.new_round();
    let empty = Device::new(1).payload();
    send(subject, a, part(round, 0, false, &empty));
    send(subject, a, part(round, 1, false, &empty));
    send(subject, a, part(round, 0, false, &empty));
    send_refused(subject, a, part(round, 2, true, chunks[0]), Reason::LostChunks);
}

fn another_round_takes_the_place_of_an_unfinished_one(subject: &dyn Subject) {
    let (mut a, chunks) = device_with_chunks(subject, 1, 2);
    let (given_up, round) = (a.new_round(), a.new_round());
    send(subject, &a, part(given_up, 0, false, &chunks[0]));
    send_refused(subject, &a, part(round, 1, true, &chunks[1]), Reason::LostChunks);
    a.nonce = send(subject, &a, part(round, 0, true, &chunks[1])).nonce;
    assert_eq!(snapshot(subject).0.len(), 1);
    send_refused(subject, &a, part(given_up, 1, true, &[]), Reason::LostChunks);
    let last = a.new_round();
    a.nonce = send(subject, &a, part(last, 0, false, &chunks[0])).nonce;
    a.nonce = send(subject, &a, part(last, 1, true, &[])).nonce;
    assert_eq!(a.nonce, 2);
    assert_converged(subject, &mut [&mut a]);
}

fn rounds_of_two_sites_do_not_mix(subject: &dyn Subject) {
    let (mut a, of_a) = device_with_chunks(subject, 1, 2);
    let (mut b, of_b) = device_with_chunks(subject, 2, 2);
    let round = a.new_round();
    send(subject, &a, part(round, 0, false, &of_a[0]));
    send(subject, &b, part(round, 0, false, &of_b[0]));
    b.absorb(&send(subject, &b, part(round, 1, true, &of_b[1])));
    assert_eq!(snapshot(subject).0, b.show());
    a.absorb(&send(subject, &a, part(round, 1, true, &of_a[1])));
    assert_converged(subject, &mut [&mut a, &mut b]);
}

fn a_change_from_the_future_undoes_its_round(subject: &dyn Subject) {
    let (mut a, chunks) = device_with_chunks(subject, 1, 1);
    let (round, before) = (a.new_round(), snapshot(subject));
    send(subject, &a, part(round, 0, false, &chunks[0]));
    let mut ahead = Device::new(1);
    ahead.insert("in time", "title", "body");
    ahead.time += CLOCK_AHEAD_MS_MAX;
    ahead.insert("too far", "title", "body");
    let text = send_refused(subject, &a, part(round, 1, true, &ahead.payload()), Reason::ClockSkew);
    assert!(text.contains("clock_ahead"), "{text}");
    assert_eq!(snapshot(subject), before);
    let round = a.new_round();
    a.absorb(&send(subject, &a, part(round, 0, true, &chunks[0])));
    assert_eq!(snapshot(subject).0, a.show());
}

fn what_was_accepted_may_be_replaced(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.time += CLOCK_AHEAD_MS_MAX - 1;
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    b.update("k", TITLE, "one millisecond later");
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!(a.text("k", TITLE), "one millisecond later");
}

fn damaged_payloads_are_refused(subject: &dyn Subject) {
    let (mut a, chunks) = device_with_chunks(subject, 1, 1);
    let (round, before) = (a.new_round(), snapshot(subject));
    for at in 0..chunks[0].len() {
        let mut damaged = chunks[0].clone();
        damaged[at] ^= 0x10;
        send_refused(subject, &a, part(round, 0, true, &damaged), Reason::BadPayload);
        send_refused(subject, &a, part(round, 0, true, &chunks[0][..at.max(1)]), Reason::BadPayload);
        send_refused(subject, &a, part(round, 0, false, &damaged), Reason::BadPayload);
    }
    assert_eq!(snapshot(subject), before);
    a.absorb(&send(subject, &a, part(round, 0, true, &chunks[0])));
    assert_eq!(snapshot(subject).0, a.show());
}

fn a_long_download_can_be_resumed_and_misses_nothing(subject: &dyn Subject) {
    const ROWS: usize = 4_000;
    let (mut a, mut late) = (Device::new(1), Device::new(2));
    let body = "x".repeat(900);
    (0..ROWS).for_each(|at| a.insert(&format!("{at:05}"), "title", &body));
    a.sync(subject);
    let mut turns = 0;
    loop {
        let request = if turns == 0 { late.introduction() } else { late.request() };
        let took = ask(subject.store(), &request).took();
        if turns == 0 && subject.sends_chunks() {
            assert_eq!(took.rows_total, ROWS as u64);
        }
        assert_eq!(ask(subject.store(), &request).took(), took, "a lost answer is given again");
        late.absorb(&took);
        if took.drained {
            break;
        }
        turns += 1;
        assert_eq!((took.cursor, late.cursor), (0, 0), "there is no cursor before the end");
        // In what was sent already, in what comes, and a row of each kind.
        a.update("00000", TITLE, &format!("turn {turns}"));
        a.update(&format!("{:05}", ROWS - turns), TITLE, "changed meanwhile");
        a.delete(&format!("{turns:05}"));
        a.insert(&format!("new {turns}"), "title", "body");
        a.sync(subject);
    }
    assert_eq!(turns >= 3, subject.sends_chunks());
    assert_eq!(late.show(), a.show());
    assert_eq!(late.sync(subject).rows, 0);
}
