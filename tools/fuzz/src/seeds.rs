//! The first inputs of each target. They were written once into `fuzz/corpus`, and what libFuzzer found was added.

use std::path::Path;

use cloudsync_protocol::message::{Answer, Request};
use cloudsync_server::store::{Asker, Rights};
use rusqlite::Connection;

use crate::target::{http_routes, store, sync};
use crate::{device, host, input, scratch};

/// Each of them behind the choices, and as it is.
fn with_choices(inputs: Vec<Vec<u8>>, choices: &[u8]) -> Vec<Vec<u8>> {
    let pairs = inputs.into_iter().enumerate();
    pairs.map(|(at, input)| [&[choices[at % choices.len()]][..], &input].concat()).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn payloads() -> Vec<Vec<u8>> {
    let db = device::empty();
    let mut found = golden();
    for rows in device::ROWS.split(';').filter(|sql| !sql.trim().is_empty()) {
        db.execute_batch(rows).unwrap();
        found.extend(device::encoded(&db));
    }
    let unfolded = found.iter().map(|payload| input::unfolded(payload)).collect::<Vec<_>>();
    let mut inputs = with_choices(unfolded, &[0, 1, 2, 4, 5]);
    inputs.extend(with_choices(found.pop().into_iter().collect(), &[input::RAW]));
    inputs
}

/// The golden payloads of the format, which are never changed.
fn golden() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/protocol/tests/vectors");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hex = files.filter(|path| path.extension().is_some_and(|end| end == "hex"));
    let mut found: Vec<_> = hex.map(|path| from_hex(&std::fs::read_to_string(path).unwrap())).collect();
    found.retain(|bytes| bytes.starts_with(&[0xc5, 0x5c]));
    found.sort();
    assert!(!found.is_empty());
    found
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(pair).collect()
}

/// What goes to a server and back when devices sync that wrote this and that.
fn talk() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let folder = scratch::folder();
    let store = store(&folder);
    let shell = Connection::open(folder.path().join("server.db")).unwrap();
    shell.execute_batch("CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.place = 2 BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
    let asker = Asker { rights: Rights { read: true, write: true, schema: false }, user: None };
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    let taken = "INSERT INTO notes VALUES('other', 'x', 1, NULL)";
    for rows in
        ["SELECT 1", device::ROWS, taken, "UPDATE notes SET title = 'later'; DELETE FROM tags", "SELECT 1"]
    {
        let db = device::empty();
        db.execute_batch(rows).unwrap();
        for _ in 0..3 {
            // The later ones have ranges checked.
            sync(&db, &store, &asker, host_now(&db), &mut sent, &mut received);
        }
    }
    (sent, received)
}

fn host_now(db: &Connection) -> u64 {
    host::show(db, "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)").parse().unwrap()
}

/// The same with the payload's body as it is before compression.
fn unfolded_request(bytes: &[u8]) -> Vec<u8> {
    let request = Request::decode(bytes).unwrap();
    let Some(upload) = request.upload.clone() else { return bytes.to_vec() };
    let payload = input::unfolded(upload.payload);
    let upload = Some(cloudsync_protocol::message::Upload { payload: &payload, ..upload });
    Request { upload, ..request.clone() }.encode()
}

fn unfolded_answer(bytes: &[u8]) -> Vec<u8> {
    let Ok(Answer::Turn(turn)) = Answer::decode(bytes) else { return bytes.to_vec() };
    let payload = input::unfolded(turn.payload);
    Answer::Turn(cloudsync_protocol::message::Turn { payload: &payload, ..turn.clone() }).encode()
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    with_choices(talk().0.iter().map(|bytes| unfolded_request(bytes)).collect(), &[0, 1, 0])
}

pub(crate) fn answers() -> Vec<Vec<u8>> {
    with_choices(talk().1.iter().map(|bytes| unfolded_answer(bytes)).collect(), &[4, 5, 6, 0, 14])
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    let (sent, received) = talk();
    let mut inputs = with_choices(sent.iter().map(|bytes| unfolded_request(bytes)).collect(), &[0]);
    inputs.extend(with_choices(received.iter().map(|bytes| unfolded_answer(bytes)).collect(), &[1]));
    for bytes in &received {
        let Ok(Answer::Turn(turn)) = Answer::decode(bytes) else { continue };
        inputs.extend([(2, turn.verdicts), (4, turn.checked)].map(|(kind, part)| [&[kind], part].concat()));
    }
    for bytes in &sent {
        let request = Request::decode(bytes).unwrap();
        if !request.check.ranges.is_empty() {
            inputs.push([&[3][..], &request.check.encode()].concat());
        }
        if let Some(schema) = &request.schema {
            let mut encoded = vec![5];
            schema.encode(&mut encoded);
            inputs.push(encoded);
        }
    }
    inputs
}

pub(crate) fn sessions() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> =
        (0..64).map(|choices| vec![choices, 3, 0, 100, 0, 0, 9, 255, 1, 0]).collect();
    inputs.extend(talk().1.iter().map(|answer| {
        let head =
            [8, 3, 0, 100, 0, 0, 9, 255, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, answer.len().min(255) as u8];
        [&head[..], answer].concat()
    }));
    inputs
}

pub(crate) fn http() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for (at, request) in requests().iter().enumerate() {
        inputs.push([&[0, if at % 3 == 0 { 5 } else { 0 }][..], &request[1..]].concat());
    }
    let bodies: [(usize, &[&str]); 4] = [
        (
            1,
            &[
                r#"{"user":"alice","claims":{"team":1},"expires_in_s":60}"#,
                r#"{"user":"bob"}"#,
                r#"{"user":"","x":1}"#,
            ],
        ),
        (
            2,
            &[
                r#"{"select":"title = auth_userid()","insert":null}"#,
                r#"{"update":"OLD.place < NEW.place","delete":"0"}"#,
                r#"{"select":"EXISTS (SELECT 1 FROM tags WHERE note = id)"}"#,
                "{}",
            ],
        ),
        (
            3,
            &[
                r#"{"user":"alice","rows":3}"#,
                r#"{"user":"alice","attempt":{"insert":{"id":"9","title":"t","place":1.5}}}"#,
                r#"{"user":"alice","claims":{"a":[1]},"attempt":{"update":{"id":"1","body":null}}}"#,
                r#"{"user":"alice","attempt":{"delete":{"id":"1"}}}"#,
            ],
        ),
        (4, &[r#"{"select":"place > 1"}"#, r#"{"select":null}"#]),
    ];
    for (route, bodies) in bodies {
        assert!(route < http_routes());
        inputs.extend(bodies.iter().map(|body| [&[route as u8, 0][..], body.as_bytes()].concat()));
    }
    inputs
}

pub(crate) fn connections() -> Vec<Vec<u8>> {
    texts(&[
        "cloudsync://localhost:8484/my_database",
        "cloudsync://10.0.0.7/db?insecure=1",
        "https://example.com:443/db?apikey=csk_abcdefghijkl%20e",
        "cloudsync://[::1]:8484/a-b.c_d?apikey=abcdefghijklmnop&insecure=0",
        "sqlitecloud://user@example.com/db?x=1",
        "http://127.0.0.1/db",
    ])
}

pub(crate) fn policies() -> Vec<Vec<u8>> {
    let found = texts(&[
        "title = auth_userid()",
        "NEW.place > OLD.place AND [title] <> 'x' -- end",
        "EXISTS (SELECT 1 FROM members AS m WHERE m.user = auth_userid() AND m.team = notes.place)",
        "place IN (SELECT team FROM members WHERE user = auth_userid() AND role <> 'reader')",
        "auth_json() ->> '$.team' = place OR json_valid(body) /* note */",
        "CASE WHEN place THEN title ELSE NOT (body) END COLLATE NOCASE = lower('A')",
        "title LIKE '%a_' ESCAPE '\\' AND cast(place AS TEXT) = x'00' AND -place + 1.5e3 % 2 << 1",
        "count(*) OVER () > 1",
        "tag GLOB '*x' AND n BETWEEN 0 AND 1e300",
        "(SELECT sum(value) FROM json_each('[1,2]')) = 3",
        "1) OR (1",
    ]);
    with_choices(found, &[0, 2, 0, 0, 1, 3, 0, 0, 4])
}

pub(crate) fn settings() -> Vec<Vec<u8>> {
    let files = texts(&[
        "addr = \"127.0.0.1:0\"\nidle_ms = 7000\nlog_format = \"json\"\n",
        "tls_cert = \"c.pem\"\ntls_key = '/abs/k.pem'\nmetrics_by_db = true",
        "trusted_proxies = \"10.0.0.0/8, ::1\"\nuser_requests_per_s = 50\nrequest_bytes = 71303168",
        "data_dir = \"x\"\nlog = \"warn\" # note\n[limits]\na = [1, 2.5, 1979-05-27]",
    ]);
    let mut inputs = with_choices(files, &[0, 2]);
    let values = texts(&[
        "127.0.0.1:8484",
        "true",
        "debug",
        "json",
        "5000",
        "0",
        "-1",
        "10.0.0.0/8,::1/64",
        "1e9",
        "",
    ]);
    for variable in 0..18_u8 {
        inputs.extend(values.iter().map(|value| [&[variable << 1 | 1][..], value].concat()));
    }
    inputs
}

pub(crate) fn filters() -> Vec<Vec<u8>> {
    texts(&[
        "place > 1 AND title <> 'x'",
        "id IN ('a', \"b\") OR (body IS NULL AND length(title) BETWEEN 1 AND 9)",
        "CASE WHEN place THEN title ELSE NOT (body) END COLLATE NOCASE = lower('A') -- end",
        "[title] || `id` LIKE '%a_' ESCAPE '\\' /* note */",
        "cast(place AS TEXT) = x'00' AND -place + 1.5e3 % 2 << 1",
    ])
}

pub(crate) fn device_settings() -> Vec<Vec<u8>> {
    let values = texts(&[
        "5000",
        "0",
        "-1",
        "315360000000",
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
        "NULL",
        "aws",
    ]);
    (0..16_u8).flat_map(|choices| values.iter().map(move |value| [&[choices][..], value].concat())).collect()
}
