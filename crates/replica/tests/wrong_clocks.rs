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
    let accepted = round.map(|round| Accepted {
        round,
        committed: true,
        repeated: false,
        differs: false,
        quarantined: 0,
    });
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
fn an_edit_before_the_clock_went_ahead_still_beats_what_was_given_by_file() {
    for (algorithm, parted) in [("cls", false), ("cls", true), ("dws", false), ("aws", false)] {
        let (mut device, mut other) = (device_as(algorithm, 1), device_as(algorithm, 2));
        if parted {
            // Everything counts as given for a while, whatever time it bears.
            device.replica.set_state_number("given_version", NOW + HOUR_MS).unwrap();
        }
        device.run_at(NOW, "INSERT INTO t VALUES('a', 1), ('gone', 1)");
        other.world.now.set(NOW);
        other.apply(&device.encode()).unwrap();

        device.run_at(NOW + 5_000, "UPDATE t SET v = 2 WHERE id = 'a'; DELETE FROM t WHERE id = 'gone'");
        device.world.now.set(NOW + HOUR_MS);
        prepare(&mut device);
        refuse_for_skew(&mut device, NOW + 6_000);
        let (_, _, stamp) = prepare(&mut device);
        assert!((NOW + 1..=NOW + 6_000).contains(&stamp), "{algorithm}: {stamp}");
        other.apply(&device.encode()).unwrap();
        for device in [&device, &other] {
            assert_eq!(device.rows("SELECT * FROM t"), ["'a',2"], "{algorithm}");
        }
    }
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

fn device_as(algorithm: &str, seed: u64) -> Device {
    let mut device = Device::empty(seed);
    device.run("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    device.init_all_as(algorithm);
    device
}

#[test]
fn a_file_that_is_stamped_ahead_keeps_nobody_from_syncing() {
    for algorithm in ["cls", "dws", "aws"] {
        let mut author = device_as(algorithm, 1);
        author.run_at(NOW + HOUR_MS, "INSERT INTO t VALUES('kept', 1), ('gone', 1), ('edited', 1)");
        author.replica.fold().unwrap();
        author.world.now.set(NOW + HOUR_MS + 1_000);
        author.run_at(NOW + HOUR_MS + 1_000, "DELETE FROM t WHERE id = 'gone'");
        let file = author.encode();

        let mut device = device_as(algorithm, 2);
        device.run_at(NOW, "INSERT INTO t VALUES('settled', 1), ('gone', 0)");
        let (_, round, settled) = prepare(&mut device);
        accept(&mut device, NOW, round, 1);
        // The clock here goes ahead as well, so that nothing seems wrong with the file.
        device.world.now.set(NOW + 2 * HOUR_MS);
        device.apply(&file).unwrap();
        device.run_at(NOW + 2 * HOUR_MS, "UPDATE t SET v = 2 WHERE id = 'edited'");
        prepare(&mut device);
        refuse_for_skew(&mut device, NOW + 5_000);

        let (_, _, latest) = prepare(&mut device);
        // What the server gave and what lost to the file comes again.
        let again = "SELECT count(*) FROM cloudsync_settings WHERE key IN ('reconcile', 'refetch')";
        assert_eq!(device.get::<i64>(again), 1, "{algorithm}");
        // The edit here was made on top of what came by file.
        assert!((settled + 1..=NOW + 5_000).contains(&latest), "{algorithm}: {latest}");
        let mut other = device_as(algorithm, 3);
        other.world.now.set(NOW + 5_000);
        other.apply(&device.encode()).unwrap();
        for device in [&device, &other] {
            let rows = device.rows("SELECT id, v FROM t ORDER BY id");
            assert_eq!(rows, ["'edited',2", "'kept',1", "'settled',1"], "{algorithm}");
        }
    }
}

#[test]
fn what_came_by_file_and_waited_is_not_taken_for_the_servers() {
    const UNIQUE: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v UNIQUE)";
    let mut author = Device::new(1, UNIQUE);
    author.run_at(NOW + HOUR_MS, "INSERT INTO t VALUES('b', 1)");
    let file = author.encode();

    let mut device = Device::new(2, UNIQUE);
    device.run_at(NOW, "INSERT INTO t VALUES('a', 1)");
    let (_, round, settled) = prepare(&mut device);
    accept(&mut device, NOW, round, 1);
    device.world.now.set(NOW + 2 * HOUR_MS);
    device.apply(&file).unwrap();
    assert_eq!(device.quarantine(), 1);
    device.run_at(NOW + 2 * HOUR_MS, "DELETE FROM t WHERE id = 'a'");
    prepare(&mut device);
    // Nothing of the server comes with this answer, but what waited comes in.
    accept(&mut device, NOW + 5_000, None, 2);
    assert_eq!(device.quarantine(), 0);
    assert_eq!(
        device.get::<i64>("SELECT value FROM cloudsync_settings WHERE key = 'settled'"),
        settled as i64
    );
    prepare(&mut device);
    refuse_for_skew(&mut device, NOW + 6_000);
    let (_, _, latest) = prepare(&mut device);
    assert!(latest <= NOW + 6_000 + CLOCK_AHEAD_MS_MAX, "{latest}");
}

#[test]
fn what_is_stamped_ahead_goes_before_all_that_is_known() {
    for algorithm in ["cls", "dws", "aws"] {
        // The row is known, and another edit of it comes by file from a clock that is ahead.
        let mut author = device_as(algorithm, 1);
        author.run_at(NOW, "INSERT INTO t VALUES('a', 'known')");
        let known = author.encode();
        author.world.now.set(NOW + HOUR_MS);
        author.run_at(NOW + HOUR_MS, "UPDATE t SET v = 'ahead'");
        let ahead = author.encode();

        let mut device = device_as(algorithm, 2);
        device.apply(&known).unwrap();
        device.world.now.set(NOW + 2 * HOUR_MS);
        device.apply(&ahead).unwrap();
        prepare(&mut device);
        refuse_for_skew(&mut device, NOW + 5_000);
        let (_, _, latest) = prepare(&mut device);
        assert!(latest <= NOW, "{algorithm}: {latest}");
        let taken_over = device.encode();
        // Whoever has the known value keeps it.
        let mut other = device_as(algorithm, 3);
        other.apply(&known).unwrap();
        other.apply(&taken_over).unwrap();
        assert_eq!(other.rows("SELECT v FROM t"), ["'known'"], "{algorithm}");
    }
}

#[test]
fn a_deletion_that_saw_a_write_ahead_is_not_refused_for_ever() {
    let mut author = device_as("aws", 1);
    author.run_at(NOW + HOUR_MS, "INSERT INTO t VALUES('a', 1)");
    author.replica.fold().unwrap();
    // The clock is right again, and the deletion bears its time.
    author.run_at(NOW, "DELETE FROM t");
    let file = author.encode();

    let mut device = device_as("aws", 2);
    device.world.now.set(NOW + 2 * HOUR_MS);
    device.apply(&file).unwrap();
    let marks = "SELECT hex(clock) FROM cloudsync_clocks";
    let before = device.rows(marks);
    prepare(&mut device);
    refuse_for_skew(&mut device, NOW + 5_000);
    assert_ne!(device.rows(marks), before);
    let mut other = device_as("aws", 3);
    other.apply(&device.encode()).unwrap();
    assert_eq!(other.rows("SELECT v FROM t"), [""; 0]);
}

/// What was sent long ago and is offered once more keeps its stamps: moved, it would win over what others wrote since.
#[test]
fn stamps_of_what_is_only_offered_again_are_not_moved() {
    let mut device = Device::new(1, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, w)");
    device.run_at(NOW, "INSERT INTO t VALUES('a', 1, 1), ('b', 1, 1)");
    let (_, round, _) = prepare(&mut device);
    accept(&mut device, NOW, round, 1);
    let before = device.clocks("t");
    device.replica.set_filter("t", "v > 100").unwrap();
    device.replica.set_filter("t", "v < 100").unwrap();
    device.run_at(NOW + 1_000, "UPDATE t SET w = 2 WHERE id = 'b'");
    prepare(&mut device);
    refuse_for_skew(&mut device, NOW + HOUR_MS);
    let (_, _, stamp) = prepare(&mut device);
    assert!(stamp >= NOW + HOUR_MS - 1_000, "the edit is moved");
    let after = device.clocks("t");
    assert_eq!(after.values().next(), before.values().next());
    let of_b = after.values().nth(1).unwrap();
    assert!(of_b.contains(&format!("v {NOW}@")), "{of_b}");
    assert!(!of_b.contains(&format!("w {}@", NOW + 1_000)), "{of_b}");
}
