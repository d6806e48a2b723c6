//! Rounds of several chunks.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "rounds/verdicts.rs"]
mod verdicts;

use bench::{Device, NOW};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Accepted, Request, RoundId, Turn};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;

const BOTH: Goal = Goal { push: true, pull: true };

/// The keys in the next chunk, and whether it is the last one.
fn prepare(device: &mut Device) -> (Vec<Vec<u8>>, bool) {
    let bytes = device.replica.prepare(BOTH, false).unwrap();
    let upload = Request::decode(&bytes).unwrap().upload.unwrap();
    let opened = Opened::open(upload.payload, &Zstd).unwrap();
    let payload = opened.payload().unwrap();
    let rows = payload.groups().iter().flat_map(|group| (0..group.rows()).map(|row| group.key(row).to_vec()));
    let mut keys: Vec<_> = rows.collect();
    keys.sort();
    (keys, upload.is_final)
}

#[test]
fn a_chunk_that_is_sent_again_brings_the_same_rows_though_they_changed() {
    let mut device = Device::new(1, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    device.run_at(
        NOW,
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 19) \
         INSERT INTO t SELECT 'row ' || i, randomblob(300000) FROM n",
    );
    let (first, is_final) = prepare(&mut device);
    assert!(!is_final && first.len() < 10, "{}", first.len());
    // A copy of the first request may be what the server stages: the next chunk must begin where that ended.
    device.run_at(NOW + 1, "UPDATE t SET v = 'small'");
    assert_eq!(prepare(&mut device), (first.clone(), false));
    device.run_at(NOW + 2, "UPDATE t SET v = randomblob(450000)");
    assert_eq!(prepare(&mut device), (first, false));
}

/// Answers the request, with a download that is not complete. Gives the round, and the rows that count as sent.
fn answer(device: &mut Device, repeated: bool, differs: bool) -> (RoundId, u64) {
    let bytes = device.replica.prepare(BOTH, false).unwrap();
    let round = Request::decode(&bytes).unwrap().upload.unwrap().round;
    let accepted = Accepted { round, committed: true, repeated, differs, quarantined: 0 };
    let turn = Turn {
        epoch: 1,
        nonce: 1,
        now: NOW,
        accepted: Some(accepted),
        drained: false,
        cursor: 0,
        position: b"on",
        rows_total: 0,
        verdicts: &[],
        checked: &[],
        payload: &[],
    };
    let absorbed = device.replica.absorb(&turn).unwrap();
    assert!(absorbed.more);
    (round, absorbed.rows_sent)
}

fn with_one_row() -> Device {
    Device::new(1, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v); INSERT INTO t VALUES('a', 1)")
}

#[test]
fn a_round_that_was_taken_before_asks_for_what_was_taken_under_its_name() {
    for repeated in [false, true] {
        let mut device = with_one_row();
        // A copy of the file may have sent the round, with values of its own.
        answer(&mut device, repeated, false);
        let bytes = device.replica.prepare(BOTH, false).unwrap();
        assert_eq!(Request::decode(&bytes).unwrap().echo, repeated);
    }
}

#[test]
fn what_a_round_had_that_was_taken_with_something_else_is_sent_in_another_one() {
    let mut device = with_one_row();
    let (keys, _) = prepare(&mut device);
    let (round, rows_sent) = answer(&mut device, true, true);
    assert_eq!(rows_sent, 0);
    assert_eq!(prepare(&mut device), (keys, true));
    let bytes = device.replica.prepare(BOTH, false).unwrap();
    let next = Request::decode(&bytes).unwrap();
    assert_eq!(next.nonce, 1);
    assert_ne!(next.upload.unwrap().round, round);
}

#[test]
fn a_chunk_whose_rows_grew_beyond_all_bounds_begins_the_round_again() {
    let mut device = Device::new(1, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    device.run_at(
        NOW,
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 19) \
         INSERT INTO t SELECT 'row ' || i, zeroblob(200000) FROM n",
    );
    let (first, _) = prepare(&mut device);
    device.run_at(NOW + 1, "UPDATE t SET v = zeroblob(20000000)");
    let (again, is_final) = prepare(&mut device);
    assert!(!is_final && again.len() < first.len(), "{}", again.len());
}

/// What a chunk held may be outside of a filter when it is sent again, and the server takes no chunk that is empty.
#[test]
fn a_chunk_that_became_empty_begins_the_round_again() {
    let mut device = Device::new(1, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v)");
    device.run_at(
        NOW,
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 19) \
         INSERT INTO t SELECT 'row ' || i, i, randomblob(300000) FROM n",
    );
    let (first, is_final) = prepare(&mut device);
    assert!(!is_final && first.len() < 9, "{}", first.len());
    device.replica.set_filter("t", "n = 19").unwrap();
    let (again, is_final) = prepare(&mut device);
    assert!(is_final && again.len() == 1 && again[0].ends_with(b"row 19"), "{again:?}");
}
