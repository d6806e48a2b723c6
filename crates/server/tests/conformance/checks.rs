//! Range checks: the store says what is the same, and gives what is not.

use crate::device::{Device, TITLE, key};
use crate::principals::user;
use crate::subject::{READER, Subject, Took, WRITER, ask, ask_as};
use cloudsync_core::value::Value;
use cloudsync_protocol::limits::{CHECK_RANGES_MAX, CHECK_ROWS_MAX};
use cloudsync_protocol::message::Request;
use cloudsync_protocol::payload::Opened;
use cloudsync_protocol::range::{Check, Checked, Digester, Finding, Range, RangeDigest, column_order, shape};
use cloudsync_replica::Zstd;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::change_policies;

for_every_store!(
    what_is_the_same_is_found_equal_in_every_range,
    what_differs_is_given_whole_and_only_that,
    findings_tell_of_the_server_at_the_cursor_that_comes_with_them,
    what_cannot_be_compared_is_not_told,
    a_table_of_which_nothing_is_known_is_wanted_from_who_may_write,
    a_check_changes_nothing,
);

/// The device's rows from behind a key up to another one, as a range.
fn range<'d>(device: &'d Device, after: &'d [u8], until: &'d [u8]) -> Range<'d> {
    let table = &device.schema.tables[0];
    let mut digest = RangeDigest::default();
    for (key, row) in &device.rows {
        if key.as_slice() > after && (until.is_empty() || key.as_slice() <= until) {
            let cells = column_order(table).into_iter().enumerate().map(|(at, place)| {
                let number = cloudsync_core::clock::ColumnNumber(place as u16);
                let value = row.values.get(&number).filter(|_| row.clock.is_alive());
                (at, number, value.map(Value::borrow))
            });
            digest.push(Digester::default().row(key, &row.clock, &device.sites, cells));
        }
    }
    Range { table: &table.name, shape: shape(table), after, until, rows: digest.rows, digest: digest.digest }
}

fn request<'d>(device: &'d Device, ranges: Vec<Range<'d>>) -> Request<'d> {
    Request { check: Check { ranges }, ..device.request() }
}

/// What is said of the ranges, and the keys of the rows that come with it.
fn findings(took: &Took) -> (Vec<Finding<'_>>, Vec<Vec<u8>>) {
    let checked = Checked::decode(&took.checked).unwrap();
    if checked.payload.is_empty() {
        return (checked.findings, Vec::new());
    }
    let opened = Opened::open(checked.payload, &Zstd).unwrap();
    let payload = opened.payload().unwrap();
    let mut keys = Vec::new();
    for group in payload.groups() {
        assert!(group.whole());
        keys.extend((0..group.rows()).map(|row| group.key(row).to_vec()));
    }
    keys.sort();
    (checked.findings, keys)
}

/// Two devices that hold what the store does: rows that live, that were deleted, and that several wrote.
fn two(subject: &dyn Subject) -> (Device, Device) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    for id in ["a", "b", "c", "d", "e"] {
        a.insert(id, id, "body");
    }
    a.sync(subject);
    b.sync(subject);
    b.update("b", TITLE, "of the other one");
    b.delete("d");
    for device in [&mut b, &mut a] {
        device.sync(subject);
    }
    (a, b)
}

fn what_is_the_same_is_found_equal_in_every_range(subject: &dyn Subject) {
    let (a, b) = two(subject);
    let keys: Vec<_> = ["a", "b", "c", "d", "e"].map(key).to_vec();
    for device in [&a, &b] {
        let mut ranges = vec![range(device, b"", b""), range(device, &keys[4], b"")];
        for (at, key) in keys.iter().enumerate() {
            ranges.extend([range(device, b"", key), range(device, key, b"")]);
            ranges.extend(keys[at..].iter().map(|until| range(device, key, until)));
        }
        let count = ranges.len();
        let took = ask(subject.store(), &request(device, ranges)).took();
        assert_eq!(findings(&took), (vec![Finding::Equal; count], Vec::new()));
    }
}

fn what_differs_is_given_whole_and_only_that(subject: &dyn Subject) {
    let (mut a, _) = two(subject);
    let keys: Vec<_> = ["a", "b", "c", "d", "e"].map(key).to_vec();
    // A value under the clock of another one; a row that is gone; one that the store does not have.
    a.rows.get_mut(&keys[0]).unwrap().values.insert(TITLE, Value::Null);
    a.rows.remove(&keys[2]);
    let surplus = a.rows[&keys[4]].clone();
    a.rows.insert(key("f"), surplus);
    let ranges = vec![
        range(&a, b"", &keys[0]),
        range(&a, &keys[0], &keys[1]),
        range(&a, &keys[1], &keys[2]),
        range(&a, &keys[2], &keys[3]),
        range(&a, &keys[4], b""),
    ];
    let took = ask(subject.store(), &request(&a, ranges)).took();
    let differs = Finding::Differs { until: b"" };
    let (said, given) = findings(&took);
    assert_eq!(said, [differs, Finding::Equal, differs, Finding::Equal, differs]);
    assert_eq!(given, [keys[0].clone(), keys[2].clone()]);
}

fn findings_tell_of_the_server_at_the_cursor_that_comes_with_them(subject: &dyn Subject) {
    let (a, mut b) = two(subject);
    b.insert("new", "title", "body");
    b.sync(subject);
    let took = ask(subject.store(), &request(&a, vec![range(&a, b"", b"")])).took();
    assert!(took.drained && !took.payload.is_empty());
    assert_eq!(findings(&took).0, [Finding::Differs { until: b"" }]);
    let mut after = a;
    after.absorb(&took);
    let took = ask(subject.store(), &request(&after, vec![range(&after, b"", b"")])).took();
    assert_eq!(findings(&took).0, [Finding::Equal]);
    // Who receives nothing is told nothing.
    let silent = Request { pull: false, ..request(&after, vec![range(&after, b"", b"")]) };
    assert!(ask(subject.store(), &silent).took().checked.is_empty());
}

fn what_cannot_be_compared_is_not_told(subject: &dyn Subject) {
    let (a, _) = two(subject);
    let good = range(&a, b"", b"");
    let ranges = vec![
        Range { shape: good.shape + 1, ..good },
        Range { table: "nothing", ..good },
        Range { rows: good.rows + 1, ..good },
    ];
    let took = ask(subject.store(), &request(&a, ranges)).took();
    assert_eq!(findings(&took).0, [Finding::Unknown, Finding::Unknown, Finding::Differs { until: b"" }]);
    subject.disable("notes");
    let took = ask(subject.store(), &Request { fingerprint: 0, ..request(&a, vec![good]) });
    assert!(!matches!(took, crate::subject::Reply::Took(took) if !took.checked.is_empty()));
}

fn a_table_of_which_nothing_is_known_is_wanted_from_who_may_write(subject: &dyn Subject) {
    let mut a = Device::new(1);
    ask(subject.store(), &a.introduction()).took();
    a.insert("a", "title", "body");
    let check = || request(&a, vec![range(&a, b"", b"")]);
    let took = ask_as(subject.store(), &check(), WRITER).took();
    assert_eq!(findings(&took).0, [Finding::Empty]);
    let took = ask_as(subject.store(), &check(), READER).took();
    assert_eq!(findings(&took).0, [Finding::Unknown]);
}

fn a_check_changes_nothing(subject: &dyn Subject) {
    let (mut a, _) = two(subject);
    let before = crate::device::snapshot(subject);
    subject.store().refresh().unwrap();
    let newest = subject.store().feed().newest();
    a.rows.clear();
    ask(subject.store(), &request(&a, vec![range(&a, b"", b"")])).took();
    assert_eq!(crate::device::snapshot(subject), before);
    assert_eq!(subject.store().feed().newest(), newest);
    assert!(!subject.store().refresh().unwrap());
}

/// To a user a table of which they see nothing is like one that is empty.
#[test]
fn a_user_is_told_of_what_they_see_and_of_nothing_else() {
    let store = crate::subject::Sqlite::new();
    let mut owner = Device::new(2);
    ask(store.store(), &owner.introduction()).took();
    let text = Some("title = 'of alice'");
    let shown = Change { table: "notes", verb: Verb::Select, text, by: "test", now_ms: 1 };
    change_policies(&store.path, &[shown]).unwrap();
    let ask_alice = |request: &Request<'_>| ask_as(store.store(), request, user("alice")).took();
    let mut alice = Device::new(3);
    alice.absorb(&ask_alice(&alice.introduction()));
    // Rows that she made up.
    let mut fake = alice.clone();
    fake.insert("a", "title", "body");
    fake.insert("c", "title", "body");
    let check = |device: &Device| ask_alice(&request(device, vec![range(device, b"", b"")]));
    let empty = check(&fake);
    assert_eq!(findings(&empty), (vec![Finding::Differs { until: b"" }], Vec::new()));
    for id in ["a", "b", "c", "d"] {
        owner.insert(id, "of the owner", "body");
    }
    owner.sync(&store);
    owner.delete("d");
    owner.sync(&store);
    assert_eq!(check(&fake).checked, empty.checked);
    owner.update("b", TITLE, "of alice");
    owner.sync(&store);
    alice.absorb(&ask_alice(&alice.request()));
    assert_eq!(alice.rows.keys().collect::<Vec<_>>(), [&key("b")]);
    assert_eq!(findings(&check(&alice)).0, [Finding::Equal]);
    let mut damaged = alice.clone();
    damaged.rows.get_mut(&key("b")).unwrap().values.insert(TITLE, Value::Null);
    let took = check(&damaged);
    assert_eq!(findings(&took), (vec![Finding::Differs { until: b"" }], vec![key("b")]));
    // A row that she may not hold.
    alice.rows.insert(key("c"), owner.rows[&key("c")].clone());
    let took = check(&alice);
    assert_eq!(findings(&took), (vec![Finding::Differs { until: b"" }], vec![key("b")]));
}

/// Work is bounded: what is beyond it is answered another time, and an answer covers what fits.
#[test]
fn a_check_costs_no_more_than_it_may() {
    let store = crate::subject::Sqlite::new();
    let mut a = Device::new(1);
    let count = 2_500;
    for number in 0..count {
        a.insert(&format!("row-{number:05}"), "title", &"body ".repeat(200));
    }
    a.sync(&store);
    let mut empty = Device::new(2);
    empty.cursor = a.cursor;
    empty.epoch = a.epoch;
    let took = ask(store.store(), &request(&empty, vec![range(&empty, b"", b"")])).took();
    let (said, given) = findings(&took);
    let [Finding::Differs { until }] = said.as_slice() else { panic!("{said:?}") };
    assert!(given.len() > 500 && given.len() < count, "{} rows", given.len());
    assert_eq!(given.last().map(Vec::as_slice), Some(*until));
    // From there it goes on.
    let until = until.to_vec();
    let took = ask(store.store(), &request(&empty, vec![range(&empty, &until, b"")])).took();
    assert!(findings(&took).1[0] > until);
    // Ranges beyond what one check may look through.
    let all = range(&a, b"", b"");
    let took = ask(store.store(), &request(&a, vec![all; CHECK_RANGES_MAX])).took();
    let said = findings(&took).0;
    let equal = said.iter().filter(|finding| **finding == Finding::Equal).count();
    let later = said.iter().filter(|finding| **finding == Finding::Later).count();
    assert_eq!((equal > 0, equal + later), (true, CHECK_RANGES_MAX), "{said:?}");
    assert!(equal * count <= CHECK_ROWS_MAX as usize + count);
}
