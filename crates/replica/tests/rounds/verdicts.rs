//! What a device makes of verdicts, good and bad.

use super::{BOTH, NOW};
use crate::bench::Device;
use cloudsync_core::clock::{Clock, SiteOrdinal, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::client::Absorbed;
use cloudsync_protocol::message::{Accepted, Request, Turn};
use cloudsync_protocol::payload::{Encoder, Header, Reference, SetHasher};
use cloudsync_protocol::verdict::{State, Verdict, Verdicts};
use cloudsync_replica::{Error, Zstd};

const TABLE: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)";

fn key(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    pack_part(&mut key, ValueRef::Text(text.as_bytes()), KeyCollation::Binary, true).unwrap();
    key
}

/// A device that has sent two rows.
fn sent() -> (Device, Accepted) {
    let mut device = Device::new(1, TABLE);
    device.run_at(NOW, "INSERT INTO t VALUES('a', 1), ('b', 2)");
    let bytes = device.replica.prepare(BOTH, false).unwrap();
    let round = Request::decode(&bytes).unwrap().upload.unwrap().round;
    (device, Accepted { round, committed: true, repeated: false, differs: false, quarantined: 0 })
}

fn answer(device: &mut Device, accepted: Accepted, verdicts: &[u8]) -> Result<Absorbed, Error> {
    device.replica.absorb(&Turn {
        epoch: 1,
        nonce: 1,
        now: NOW,
        accepted: Some(accepted),
        drained: true,
        cursor: 1,
        position: b"",
        rows_total: 0,
        verdicts,
        checked: &[],
        payload: &[],
    })
}

fn verdict<'v>(table: &'v str, key: &'v [u8], state: State) -> Verdict<'v> {
    Verdict { table, key, reason: "no", state }
}

/// The row 'a' as a server may have it; with a value that is elsewhere.
fn payload(refers: bool) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let site: SiteOrdinal = encoder.site(&SiteId([9; 16]));
    let group = encoder.group("t", &["v"], true);
    let value = if refers { ValueRef::Null } else { ValueRef::Integer(7) };
    encoder.push(group, &key("a"), 1, Clock { time: Time(5), site }, &[], [value]);
    if refers {
        let set = SetHasher::new().id();
        let reference = Reference { set, start: 0, bytes: 600_000, set_bytes: 600_000, is_text: false };
        encoder.refer(group, 0, &reference);
    }
    encoder.finish(Header::default(), &Zstd)
}

#[test]
fn verdicts_that_break_the_rules_change_nothing_and_are_asked_for_again() {
    let (a, odd) = (key("a"), [0xff, 0xff]);
    let (given, refers) = (payload(false), payload(true));
    let one = |verdict: Verdict<'_>, payload: &[u8]| {
        Verdicts { list: vec![verdict], payload, more: false }.encode()
    };
    for (bytes, told) in [
        (vec![9], "damaged"),
        (one(verdict("t", &odd, State::Absent), &[]), "key of table \"t\""),
        (one(verdict("t", &a, State::Given), &[]), "missing"),
        (one(verdict("t", &a, State::Absent), &given), "not announced"),
        (one(verdict("t", &a, State::Given), &refers), "not with it"),
    ] {
        let (mut device, accepted) = sent();
        let error = answer(&mut device, accepted, &bytes).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert_eq!(device.rows("SELECT * FROM t"), ["'a',1", "'b',2"]);
        assert!(device.replica.has_unsent().unwrap());
        // It asks under the same round, and this answer is a good one.
        let bytes = device.replica.prepare(BOTH, false).unwrap();
        assert_eq!(Request::decode(&bytes).unwrap().upload.unwrap().round, accepted.round);
        answer(&mut device, accepted, &one(verdict("t", &a, State::Given), &given)).unwrap();
        assert_eq!(device.rows("SELECT * FROM t"), ["'a',7", "'b',2"]);
        assert_eq!(device.rows("SELECT tbl, reason FROM cloudsync_rejected"), ["'t','no'"]);
    }
}

#[test]
fn verdicts_on_what_is_not_here_any_more_are_passed_over() {
    let (mut device, accepted) = sent();
    let (a, b, never) = (key("a"), key("b"), key("never"));
    device.run_at(NOW + 1, "DELETE FROM t WHERE id = 'b'");
    let list = vec![
        verdict("gone", &a, State::Absent),
        verdict("t", &never, State::Wanted),
        verdict("t", &a, State::Wanted),
        verdict("t", &b, State::Wanted),
    ];
    let absorbed =
        answer(&mut device, accepted, &Verdicts { list, payload: &[], more: false }.encode()).unwrap();
    assert!(absorbed.more);
    assert_eq!(device.rows("SELECT * FROM cloudsync_rejected"), [""; 0]);
    let bytes = device.replica.prepare(BOTH, false).unwrap();
    let request = Request::decode(&bytes).unwrap();
    let opened = cloudsync_protocol::payload::Opened::open(request.upload.unwrap().payload, &Zstd).unwrap();
    let payload = opened.payload().unwrap();
    let rows = payload.groups().iter().flat_map(|group| {
        (0..group.rows()).map(|row| (group.key(row).to_vec(), group.life(row), group.whole()))
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    assert_eq!(rows, [(a, 1, true), (b, 2, true)]);
}

/// The values of an edit that was made since are gone with a row that was deleted outside of a filter. What the server has
/// must not stand there under the clock of that edit.
#[test]
fn a_refused_row_that_was_deleted_outside_since_is_the_servers() {
    let (mut device, accepted) = sent();
    device.run_at(NOW + 1, "UPDATE t SET v = 5 WHERE id = 'a'");
    device.replica.fold().unwrap();
    device.replica.set_filter("t", "v > 100").unwrap();
    device.run("DELETE FROM t WHERE id = 'a'");
    let (a, given) = (key("a"), payload(false));
    let list = vec![verdict("t", &a, State::Given)];
    answer(&mut device, accepted, &Verdicts { list, payload: &given, more: false }.encode()).unwrap();
    let mut other = Device::new(2, TABLE);
    other.apply(&given).unwrap();
    assert_eq!(device.dump("t"), ["'a',7", "'b',2"]);
    let clocks = other.clocks("t");
    let (name, clock) = clocks.iter().next().unwrap();
    assert_eq!(device.clocks("t").get(name), Some(clock));
}

/// A change of the filter is no edit: the server's row is laid, whatever was offered of ours since.
#[test]
fn what_is_offered_again_after_a_round_is_no_later_edit() {
    let (mut device, accepted) = sent();
    device.replica.set_filter("t", "v > 100").unwrap();
    device.replica.clear_filter("t").unwrap();
    let (a, given) = (key("a"), payload(false));
    let list = vec![verdict("t", &a, State::Given)];
    answer(&mut device, accepted, &Verdicts { list, payload: &given, more: false }.encode()).unwrap();
    let mut other = Device::new(2, TABLE);
    other.apply(&given).unwrap();
    assert_eq!(device.dump("t"), ["'a',7", "'b',2"]);
    let clocks = other.clocks("t");
    let (name, clock) = clocks.iter().next().unwrap();
    assert_eq!(device.clocks("t").get(name), Some(clock));
    assert_eq!(device.rows("SELECT tbl, reason FROM cloudsync_rejected"), ["'t','no'"]);
}
