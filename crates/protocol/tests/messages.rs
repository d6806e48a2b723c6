//! Golden bytes of the messages of protocol version 1: what was once sent is still read, and still sent, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, Time};
use cloudsync_core::id::{SiteId, hex};
use cloudsync_core::marks::{Deletion, Marks};
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::message::{Accepted, Answer, Reason, Refusal, Request, RoundId, Turn, Upload};
use cloudsync_protocol::range::{Check, Checked, Digester, Finding, Range, RangeDigest, shape};
use cloudsync_protocol::schema::{ColumnSchema, Schema, TableSchema};
use cloudsync_protocol::verdict::{State, Verdict, Verdicts};

fn schema() -> Schema {
    let column = |name: &str, declared_type: &str, key_place, default: Option<&str>| ColumnSchema {
        name: name.into(),
        declared_type: declared_type.into(),
        not_null: key_place > 0,
        key_place,
        collation: "BINARY".into(),
        default: default.map(Into::into),
    };
    let table = TableSchema {
        name: "notes".into(),
        algorithm: "cls".into(),
        strict: false,
        without_rowid: true,
        columns: vec![column("id", "TEXT", 1, None), column("body", "TEXT", 0, Some("''"))],
        uniques: vec![vec!["body".into()]],
    };
    Schema { tables: vec![table] }
}

fn poll() -> Request<'static> {
    Request {
        site: SiteId([0xa1; 16]),
        epoch: 1_700_000_000_000,
        nonce: 7,
        now: 1_700_000_001_000,
        cursor: 1_700_000_000_900,
        position: b"",
        pull: true,
        echo: false,
        fingerprint: 0x0123_4567_89ab_cdef,
        schema: None,
        upload: None,
        check: Check::default(),
    }
}

fn upload() -> Request<'static> {
    let upload = Upload {
        round: RoundId(*b"round id"),
        chunk: 3,
        is_final: true,
        continues: false,
        base: 9,
        payload: b"payload",
    };
    Request { position: b"here", echo: true, schema: Some(schema()), upload: Some(upload), ..poll() }
}

fn turn() -> Answer<'static> {
    Answer::Turn(Turn {
        epoch: 1_700_000_000_000,
        nonce: 8,
        now: 1_700_000_001_001,
        accepted: Some(Accepted {
            round: RoundId(*b"round id"),
            committed: true,
            repeated: false,
            differs: false,
            quarantined: 2,
        }),
        drained: false,
        cursor: 0,
        position: b"here",
        rows_total: 300,
        verdicts: &[],
        checked: &[],
        payload: b"payload",
    })
}

/// A round of a batch that goes on.
fn upload_that_goes_on() -> Request<'static> {
    let upload = upload().upload.map(|upload| Upload { continues: true, ..upload });
    Request { upload, ..poll() }
}

fn verdicts() -> Verdicts<'static> {
    let verdict = |key, reason, state| Verdict { table: "notes", key, reason, state };
    Verdicts {
        list: vec![
            verdict(b"\x32a" as &[u8], "UNIQUE constraint failed: notes.body", State::Absent),
            verdict(b"\x32b", "CHECK constraint failed: body <> ''", State::Given),
            verdict(b"\x32c", "too large", State::Fetch),
            verdict(b"\x32d", "waits for the rest of the row", State::Wanted),
        ],
        payload: b"rows",
        more: true,
    }
}

fn refusal() -> Answer<'static> {
    let text = "a copy of this file has synced under its site id".into();
    Answer::Refusal(Refusal { reason: Reason::Clone, epoch: 5, nonce: 8, now: 1_700_000_001_001, text })
}

#[test]
fn requests_are_written_and_read_as_ever() {
    for (request, bytes) in [(poll(), POLL), (upload(), UPLOAD), (upload_that_goes_on(), UPLOAD_THAT_GOES_ON)]
    {
        let encoded = request.encode();
        assert_eq!(hex(&encoded), bytes);
        assert_eq!(Request::decode(&encoded), Ok(request));
    }
    assert_eq!(schema().fingerprint(), FINGERPRINT);
}

#[test]
fn answers_are_written_and_read_as_ever() {
    for (answer, bytes) in [(turn(), TURN), (refusal(), REFUSAL)] {
        let encoded = answer.encode();
        assert_eq!(hex(&encoded), bytes);
        assert_eq!(Answer::decode(&encoded), Ok(answer));
    }
}

#[test]
fn verdicts_are_written_and_read_as_ever() {
    let section = verdicts().encode();
    assert_eq!(Verdicts::decode(&section), Ok(verdicts()));
    let Answer::Turn(turn) = turn() else { unreachable!() };
    let answer = Answer::Turn(Turn { verdicts: &section, ..turn });
    let encoded = answer.encode();
    assert_eq!(hex(&encoded), TURN_WITH_VERDICTS);
    assert_eq!(Answer::decode(&encoded), Ok(answer));
}

#[test]
fn checks_are_written_and_read_as_ever() {
    let shape = shape(&schema().tables[0]);
    let range = Range {
        table: "notes",
        shape,
        after: b"",
        until: b"\x32a",
        rows: 300,
        digest: 0x0123_4567_89ab_cdef,
    };
    let check =
        Check { ranges: vec![range, Range { after: b"\x32a", until: b"", rows: 0, digest: 0, ..range }] };
    let request = Request { check, ..poll() };
    let encoded = request.encode();
    assert_eq!(hex(&encoded), POLL_WITH_CHECK);
    assert_eq!(Request::decode(&encoded), Ok(request));

    let findings = vec![
        Finding::Equal,
        Finding::Differs { until: b"\x32a" },
        Finding::Unknown,
        Finding::Later,
        Finding::Large { key: b"\x32b", digest: 0x0123_4567_89ab_cdef },
        Finding::Empty,
    ];
    let checked = Checked { findings, payload: b"rows" }.encode();
    let Answer::Turn(turn) = turn() else { unreachable!() };
    let answer = Answer::Turn(Turn { checked: &checked, ..turn });
    let encoded = answer.encode();
    assert_eq!(hex(&encoded), TURN_WITH_CHECKED);
    assert_eq!(Answer::decode(&encoded), Ok(answer));
}

#[test]
fn digests_are_what_they_ever_were() {
    let sites = [SiteId([0xa1; 16]), SiteId([0xb2; 16])];
    let clock = |time, site| Clock::new(Time(time), SiteOrdinal(site));
    let columns = ColumnSet::first(5);
    let values = [
        ValueRef::Null,
        ValueRef::Integer(-7),
        ValueRef::Real(0.5),
        ValueRef::Text(b"text"),
        ValueRef::Blob(b"blob"),
    ];
    let cells =
        || values.iter().zip(0..).map(|(value, at)| (usize::from(at), ColumnNumber(at), Some(*value)));
    let mut digester = Digester::default();
    let alive =
        digester.row(b"\x32a", &RowClock::alive(1, clock(1_700_000_000_000, 1), columns), &sites, cells());
    let none = || core::iter::empty();
    let tombstone =
        digester.row(b"\x32b", &RowClock::tombstone(2, clock(1_700_000_000_000, 0)), &sites, none());
    let deletion = Some(Deletion { seen: clock(5, 0), clock: clock(6, 1) });
    let marked = RowClock::tombstone(2, clock(5, 0)).with_marks(Marks { deletion, ..Marks::default() });
    let marked = digester.row(b"\x32c", &marked, &sites, none());
    assert_eq!([alive, tombstone, marked].map(|digest| format!("{digest:016x}")), DIGESTS);
    let mut range = RangeDigest::default();
    [alive, tombstone, marked].into_iter().for_each(|digest| range.push(digest));
    assert_eq!((range.rows, format!("{:016x}", range.digest).as_str()), (3, RANGE_DIGEST));
    assert_eq!(format!("{:016x}", shape(&schema().tables[0])), SHAPE);
}

const DIGESTS: [&str; 3] = ["9fcbac7cbaf2e303", "4a75f5a535e7ba59", "497010e0328c5e86"];
const RANGE_DIGEST: &str = "1520dacede1ec6b0";
const SHAPE: &str = "0877a53267b69132";
const POLL_WITH_CHECK: &str = "\
    c5520111a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a180d095ffbc3107e8d795ffbc3184d795ffbc3100efcdab8967452301\
    3802056e6f7465733291b66732a5770800023261ac02efcdab8967452301056e6f7465733291b66732a5770802326100\
    0000000000000000008e26b49e";
const TURN_WITH_CHECKED: &str = "\
    c541010080d095ffbc3108e9d795ffbc3126000468657265ac02726f756e64206964021a060001023261020304023262\
    efcdab89674523010504726f7773077061796c6f6164363760be";
const FINGERPRINT: u64 = 0xa559_5134_3e28_9765;
const POLL: &str = "\
    c5520101a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a180d095ffbc3107e8d795ffbc3184d795ffbc3100efcdab8967452301\
    5968271a";
const UPLOAD: &str = "\
    c552010fa1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a180d095ffbc3107e8d795ffbc3184d795ffbc310468657265efcdab89\
    6745230101056e6f74657303636c730202026964045445585401010642494e41525904626f6479045445585402000642\
    494e415259022727010104626f6479726f756e64206964030109077061796c6f6164ee046b02";
const TURN: &str = "\
    c541010080d095ffbc3108e9d795ffbc3106000468657265ac02726f756e6420696402077061796c6f616408d58745";
const REFUSAL: &str = "\
    c5410101040508e9d795ffbc31306120636f7079206f6620746869732066696c65206861732073796e63656420756e64\
    6572206974732073697465206964369d9c5b";
const UPLOAD_THAT_GOES_ON: &str = "\
    c5520105a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a180d095ffbc3107e8d795ffbc3184d795ffbc3100efcdab8967452301\
    726f756e64206964030309077061796c6f6164e8f505da";
const TURN_WITH_VERDICTS: &str = "\
    c541010080d095ffbc3108e9d795ffbc3116000468657265ac02726f756e6420696402a001010400056e6f7465730232\
    6124554e4951554520636f6e73747261696e74206661696c65643a206e6f7465732e626f647901056e6f746573023262\
    23434845434b20636f6e73747261696e74206661696c65643a20626f6479203c3e20272702056e6f7465730232630974\
    6f6f206c6172676503056e6f7465730232641d776169747320666f72207468652072657374206f662074686520726f77\
    04726f7773077061796c6f616499c9802d";
