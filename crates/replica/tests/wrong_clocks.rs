//! A device whose clock is set while edits wait: they are neither lost nor refused for ever.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, NOW};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::message::{Accepted, Reason, Refusal, Request, RoundId, Turn};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;

const BOTH: Goal = Goal { push: true, pull: true };
const HOUR_MS: u64 = 3_600_000;

/// What a request says: its clock, its round, and the latest stamp of its changes.
fn prepare(device: &mut Device) -> (u64, Option<RoundId>, u64) {
    let bytes = device.replica.prepare(BOTH, false).unwrap();
    let request = Request::decode(&bytes).unwrap();
    let Some(upload) = &request.upload else { return (request.now, None, 0) };
    let opened = Opened::open(upload.payload, &Zstd).unwrap();
    let payload = opened.payload().unwrap();
    let clocks =
        payload.groups().iter().flat_map(|group| (0..group.rows()).map(|row| group.clock(row).time.0));
    (request.now, Some(upload.round), clocks.max().unwrap())
}

fn accept(device: &mut Device, server_now: u64, round: Option<RoundId>, nonce: u64) {
    let accepted = round.map(|round| Accepted { round, committed: true, repeated: false, quarantined: 0 });
    let turn = Turn {
        epoch: 1,
        nonce,
        now: server_now,
        accepted,
        drained: true,
        cursor: nonce,
        position: &[],
        rows_total: 0,
        verdicts: &[],
        checked: &[],
        payload: &[],
    };
    device.replica.absorb(&turn).unwrap();
}

fn refuse_for_skew(device: &mut Device, server_now: u64) {
    let refusal =
        Refusal { reason: Reason::ClockSkew, epoch: 1, nonce: 1, now: server_now, text: String::new() };
    device.replica.mend(&refusal).unwrap();
}

fn device() -> Device {
    Device::new(1, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)")
}

#[test]
fn an_edit_before_the_clock_went_ahead_still_beats_what_it_replaced() {
    let mut device = device();
    device.run_at(NOW, "INSERT INTO t VALUES('a', 1)");
    let (_, round, sent) = prepare(&mut device);
    accept(&mut device, NOW, round, 1);

    device.run_at(NOW + 5_000, "UPDATE t SET v = 2");
    device.world.now.set(NOW + HOUR_MS);
    let (_, refused, _) = prepare(&mut device);
    refuse_for_skew(&mut device, NOW + 6_000);
    let (now, round, stamp) = prepare(&mut device);
    assert_eq!(now, NOW + 6_000);
    assert!(stamp > sent, "{stamp} lies behind {sent}");
    // The server may have the old stamps under the old id, and would then not look at the new ones.
    assert_ne!(round, refused);
}

#[test]
fn an_edit_beats_what_the_server_may_have_taken_though_its_answer_was_lost() {
    let mut device = device();
    device.run_at(NOW, "INSERT INTO t VALUES('a', 1)");
    let (_, _, sent) = prepare(&mut device);
    // The server took that, and its answer was lost.
    device.run_at(NOW + 5_000, "UPDATE t SET v = 2");
    device.world.now.set(NOW + HOUR_MS);
    prepare(&mut device);
    refuse_for_skew(&mut device, NOW + 6_000);
    let (_, _, stamp) = prepare(&mut device);
    assert!(stamp > sent, "{stamp} lies behind {sent}");
}

#[test]
fn an_edit_before_the_clock_went_back_is_not_put_into_the_future() {
    let mut device = device();
    device.run_at(NOW, "INSERT INTO t VALUES('a', 1)");
    device.world.now.set(NOW - HOUR_MS);
    prepare(&mut device);
    refuse_for_skew(&mut device, NOW + 1_000);
    let (now, _, stamp) = prepare(&mut device);
    assert_eq!(now, NOW + 1_000);
    assert!(stamp <= NOW + 1_000, "{stamp}");
}

#[test]
fn an_edit_under_a_clock_that_was_ahead_for_a_while_is_accepted() {
    let mut device = device();
    device.run_at(NOW + HOUR_MS, "INSERT INTO t VALUES('a', 1)");
    let (now, _, stamp) = prepare(&mut device);
    assert!(stamp > now + CLOCK_AHEAD_MS_MAX, "{stamp}");
    refuse_for_skew(&mut device, now);
    let (_, _, stamp) = prepare(&mut device);
    assert!(stamp <= now, "{stamp}");
}

#[test]
fn two_processes_correct_a_clock_once() {
    let folder = bench::Folder::new();
    let path = folder.file("two.db");
    let mut one = Device::open(&path, 1);
    one.run("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    one.replica.init("t", "cls", 0).unwrap();
    one.run_at(NOW, "INSERT INTO t VALUES('a', 1)");
    let mut other = Device::open(&path, 2);
    prepare(&mut one);
    prepare(&mut other);
    refuse_for_skew(&mut one, NOW - HOUR_MS);
    let (_, _, stamp) = prepare(&mut one);
    refuse_for_skew(&mut other, NOW - HOUR_MS + 9_000);
    assert_eq!(prepare(&mut other).2, stamp);
}
