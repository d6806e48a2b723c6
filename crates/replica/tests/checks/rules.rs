//! Questions and findings that break the rules.

use crate::bench::{Device, NOW, assert_same};
use crate::hub::{BOTH, Hub};
use crate::{NOTES, three};
use cloudsync_protocol::client::Absorbed;
use cloudsync_protocol::limits::CHECK_RANGES_MAX;
use cloudsync_protocol::message::{Request, Turn};
use cloudsync_protocol::range::{Check, Checked, Finding, Range};

/// What the server finds in ranges, of somebody who may not write.
fn found(hub: &mut Hub, ranges: Vec<Range<'_>>) -> Vec<String> {
    let answer = hub.server.replica.answer_check(&Check { ranges }, false).unwrap();
    let checked = Checked::decode(&answer.checked).unwrap();
    checked.findings.iter().map(|finding| format!("{finding:?}")).collect()
}

#[test]
fn a_check_of_what_is_not_here_tells_nothing_and_the_others_are_answered() {
    let (mut hub, _, mut b) = three();
    let bytes = b.replica.prepare_check(BOTH).unwrap().unwrap();
    let range = Request::decode(&bytes).unwrap().check.ranges[0];
    for odd in [
        Range { table: "others", ..range },
        Range { shape: range.shape ^ 1, ..range },
        Range { after: b"\xff\xff", ..range },
        Range { until: b"\xff\xff", ..range },
    ] {
        assert_eq!(found(&mut hub, vec![odd, range]), ["Unknown", "Equal"], "{odd:?}");
    }
    hub.server.replica.set_enabled("notes", false).unwrap();
    assert_eq!(found(&mut hub, vec![range]), ["Unknown"]);
    hub.server.replica.set_enabled("notes", true).unwrap();
    hub.server.replica.set_filter("notes", "rank > 0").unwrap();
    assert_eq!(found(&mut hub, vec![range]), ["Unknown"]);
}

#[test]
fn one_request_looks_at_a_bounded_number_of_rows_however_often_it_names_them() {
    let (mut hub, mut b) = (Hub::new(NOTES), Device::new(2, NOTES));
    hub.server.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) INSERT INTO notes SELECT i, i, i FROM n",
    );
    hub.sync(&mut b);
    let bytes = b.replica.prepare_check(BOTH).unwrap().unwrap();
    let request = Request::decode(&bytes).unwrap();
    let range = Range { after: b"", until: b"", rows: 600, digest: 0, ..request.check.ranges[0] };
    let same: Vec<_> = request.check.ranges.to_vec();
    assert!(found(&mut hub, same).iter().all(|finding| finding == "Equal"));
    let found = found(&mut hub, vec![range; CHECK_RANGES_MAX]);
    let later = found.iter().position(|finding| *finding == format!("{:?}", Finding::Later)).unwrap();
    assert!(found[later..].iter().all(|finding| finding == "Later") && later > 0, "{found:?}");
}

/// Answers a check with what is found of so many ranges.
fn answer_check(
    device: &mut Device,
    found: impl FnOnce(usize) -> Vec<u8>,
) -> cloudsync_replica::Result<Absorbed> {
    let bytes = device.replica.prepare_check(BOTH).unwrap().unwrap();
    let request = Request::decode(&bytes).unwrap();
    let findings = found(request.check.ranges.len());
    device.replica.absorb(&Turn {
        epoch: 1,
        nonce: request.nonce,
        now: NOW,
        accepted: None,
        drained: true,
        cursor: request.cursor,
        position: b"",
        rows_total: 0,
        verdicts: &[],
        checked: &findings,
        payload: &[],
    })
}

#[test]
fn findings_that_break_the_rules_take_nothing_for_good() {
    let (mut hub, _, mut b) = three();
    let before = b.dump("notes");
    let odd = [0xff; 9];
    let all = |finding: Finding<'_>, ranges, payload: &[u8]| {
        Checked { findings: vec![finding; ranges], payload }.encode()
    };
    assert!(answer_check(&mut b, |_| vec![9]).is_err());
    assert!(answer_check(&mut b, |ranges| all(Finding::Empty, ranges + 1, &[])).is_err());
    assert!(answer_check(&mut b, |ranges| all(Finding::Empty, ranges, b"no payload")).is_err());
    assert_eq!(b.dump("notes"), before);
    // The next check would begin behind a key that is none.
    for finding in [Finding::Differs { until: &odd }, Finding::Large { key: &odd, digest: 1 }] {
        assert!(answer_check(&mut b, |ranges| all(finding, ranges, &[])).is_err());
        assert_eq!(b.dump("notes"), before);
    }
    assert_eq!(hub.check_idle(&mut b).rows_repaired, 0);
    // What the server says it has not is taken out, and is here again when it answers as it should.
    assert!(answer_check(&mut b, |ranges| all(Finding::Differs { until: &[] }, ranges, &[])).is_ok());
    assert_eq!(b.dump("notes"), [""; 0]);
    while hub.check_idle(&mut b).rows_repaired > 0 {}
    assert_eq!(b.dump("notes"), before);
    assert_same(&mut hub.server, &mut b, "notes");
}
