//! Golden bytes: what a version once wrote, every later one reads, and format version 1 is still written so.
//!
//! Files are only ever added. After adding a case, write its file with
//! `CLOUDSYNC_WRITE_VECTORS=1 cargo test -p cloudsync-protocol --test payload write_missing_vectors`.

use super::model::{Chunk, Row, Rows, clock};
use super::round_trip::integer_key;
use cloudsync_core::clock::{Clock, LIFE_MAX, TIME_MAX};
use cloudsync_core::id::{SiteId, hex, uuid_text, uuid_v7};
use cloudsync_core::marks::{Deletion, Marks};
use cloudsync_core::value::Value;
use cloudsync_protocol::payload::{Header, Reference, SetId, Stored};
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn site(byte: u8) -> SiteId {
    SiteId([byte; 16])
}

fn row(key: Vec<u8>, clock: Clock, values: Vec<Value>) -> Row {
    Row { key, life: 1, clock, exceptions: vec![], marks: None, values, references: vec![] }
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into().into_bytes())
}

fn rows(table: &str, columns: &[&str], whole: bool, rows: Vec<Row>) -> Rows {
    Rows {
        table: table.into(),
        columns: columns.iter().map(|name| (*name).into()).collect(),
        whole,
        concurrent: false,
        inserted: false,
        rows,
    }
}

fn one_update() -> Chunk {
    let mut key = vec![0x30];
    key.extend_from_slice(&uuid_v7(1_700_000_000_000, 5, [7; 8]));
    let update = row(key, clock(1_700_000_001_000, 0), vec![text("buy milk")]);
    Chunk {
        header: Header { first_version: 12, last_version: 12, is_final: true },
        sites: vec![site(0xa1)],
        groups: vec![rows("notes", &["body"], false, vec![update])],
        pieces: vec![],
        evicted: vec![],
    }
}

fn tombstones() -> Chunk {
    let dead = |index: u64| Row {
        life: if index == 2 { LIFE_MAX } else { 2 },
        ..row(integer_key(index as i64), clock(TIME_MAX.0 - index, (index % 2) as u32), vec![])
    };
    Chunk {
        header: Header { first_version: 1, last_version: u64::MAX, is_final: false },
        sites: vec![site(1), site(2)],
        groups: vec![rows("t", &[], true, (0..5).map(dead).collect())],
        pieces: vec![],
        evicted: vec![],
    }
}

/// Every kind of value in one column, and the values that are easily lost.
fn every_kind() -> Chunk {
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Integer(0),
        Value::Real(-0.0),
        Value::Real(f64::from_bits(0x7ff8_dead_beef_0001)),
        Value::Real(f64::NEG_INFINITY),
        Value::Text(vec![]),
        Value::Text(b"a\0b".to_vec()),
        Value::Text(vec![0xff, 0xfe]),
        Value::Blob(vec![]),
        Value::Blob(vec![0, 1, 2]),
    ];
    let row = |(index, value): (usize, Value)| row(vec![0x31, b'a' + index as u8], clock(5, 0), vec![value]);
    Chunk {
        pieces: vec![],
        evicted: vec![],
        header: Header::default(),
        sites: vec![site(3)],
        groups: vec![rows("t", &["c"], true, values.into_iter().enumerate().map(row).collect())],
    }
}

/// Twenty rows whose columns take each of the forms.
fn every_form() -> Chunk {
    let words = ["draft", "sent", "paid"];
    let column_names: Vec<_> = (0..17).map(|column| format!("c{column}")).collect();
    let values = |n: u64| {
        let i = n as i64;
        let uuid = |seed: u64| uuid_text(&uuid_v7(1_700_000_000_000 + seed, seed as u16, [seed as u8; 8]));
        vec![
            Value::Null,
            Value::Integer(42),
            Value::Integer(i * 5 - 3),
            Value::Integer(if n == 9 { 1 << 50 } else { i % 3 }),
            Value::Integer(i * 1_000_000 + i * i),
            Value::Integer(i * i % 2),
            Value::Integer(1_000_000 + i * 7919 % 40_000),
            Value::Real(i as f64 * 19.99),
            Value::Real(1.0 / (i as f64 + 3.0)),
            text("same"),
            text(words[n as usize % 3]),
            text("x".repeat(n as usize)),
            text(format!("user{}@example.com", n * n)),
            Value::Text(uuid(n).to_vec()),
            Value::Text(uuid(n % 3).to_vec()),
            Value::Blob(vec![1, 2, n as u8 * 11, 4]),
            if n % 7 == 2 { Value::Null } else { Value::Integer(i % 2) },
        ]
    };
    let row = |n: u64| Row {
        life: 1 + 2 * (n % 3),
        exceptions: if n % 6 == 1 { vec![(0, clock(n + 50, 1)), (16, clock(7, 0))] } else { vec![] },
        ..row(
            [&[0x30], &uuid_v7(n, 0, [n as u8 * 5; 8])[..]].concat(),
            clock(100 + n * n, (n % 2) as u32),
            values(n),
        )
    };
    let names: Vec<_> = column_names.iter().map(String::as_str).collect();
    Chunk {
        pieces: vec![],
        evicted: vec![],
        header: Header { first_version: 3, last_version: 400, is_final: true },
        sites: vec![site(0x11), site(0x22)],
        groups: vec![rows("t", &names, false, (0..20).map(row).collect()), one_update().groups.remove(0)],
    }
}

/// Rows of `dws` and `aws` tables with every combination of marks that there is.
fn marks() -> Chunk {
    let boundary = |n: u64| Marks { boundary: Some(clock(900 + n, 1)), ..Marks::default() };
    let write = |n: u64| Some(clock(2_000 + n * n, (n % 2) as u32));
    let deletion = |n: u64| Some(Deletion { seen: clock(1_000 - n, 0), clock: clock(TIME_MAX.0 - n, 1) });
    let row = |n: u64, life: u64, marks: Marks| Row {
        life,
        exceptions: if n == 1 { vec![(1, clock(800, 1))] } else { vec![] },
        marks: Some(marks),
        ..row(integer_key(n as i64), clock(1_000, 0), vec![Value::Integer(n as i64), text("kept")])
    };
    let group = |table: &str, whole: bool, life: u64, marks: &dyn Fn(u64) -> Marks| {
        rows(table, &["a", "b"], whole, (0..3).map(|n| row(n, life, marks(n))).collect())
    };
    let mut keys_only = group("keys", true, 2, &|n| Marks { deletion: deletion(n), ..Marks::default() });
    keys_only.columns.clear();
    for row in &mut keys_only.rows {
        (row.exceptions, row.values) = (vec![], vec![]);
    }
    Chunk {
        pieces: vec![],
        evicted: vec![],
        header: Header { first_version: 5, last_version: 6, is_final: true },
        sites: vec![site(0x31), site(0x32)],
        groups: vec![
            group("dws", true, 1, &boundary),
            group("dws", false, 1, &boundary),
            group("aws", false, 1, &|n| Marks { write: write(n), ..Marks::default() }),
            group("aws", true, 2, &|n| Marks { deletion: deletion(n), ..Marks::default() }),
            group("aws", true, 2, &|n| Marks { write: write(n), deletion: deletion(n), boundary: None }),
            keys_only,
        ],
    }
}

/// The same update for a device that wrote there too, and a deletion that had not seen its edit.
fn concurrent() -> Chunk {
    let (mut update, mut deletion) = (one_update(), tombstones().groups.remove(0));
    deletion.rows.truncate(2);
    update.sites.push(site(0xb2));
    update.groups.push(deletion);
    update.groups.iter_mut().for_each(|group| group.concurrent = true);
    update
}

/// Rows that their sender inserted, knowing nothing of them: with cells, and with a key only.
fn inserted() -> Chunk {
    let cells = row(integer_key(4), clock(1_700_000_001_000, 0), vec![text("new")]);
    let key = row(integer_key(5), clock(1_700_000_001_001, 0), vec![]);
    let mut groups = vec![rows("notes", &["body"], true, vec![cells]), rows("tags", &[], true, vec![key])];
    groups.iter_mut().for_each(|group| group.inserted = true);
    let header = Header { first_version: 0, last_version: 7, is_final: true };
    Chunk { header, sites: vec![site(0xa1)], evicted: vec![], groups, pieces: vec![] }
}

/// A chunk that holds nothing but the beginning of a large value.
fn first_pieces() -> Chunk {
    let header = Header { first_version: 0, last_version: 9, is_final: false };
    let pieces = vec![(SetId([0xe5; 16]), 0, b"once upon".to_vec())];
    Chunk { header, sites: vec![], groups: vec![], evicted: vec![], pieces }
}

/// Its end, the row that it belongs to, another large value of that row, and a row beside it.
fn last_pieces() -> Chunk {
    let set = SetId([0xe5; 16]);
    let reference = |is_text, start, bytes| Reference { is_text, set, set_bytes: 12, start, bytes };
    let large = Row {
        references: vec![(1, reference(true, 0, 10)), (2, reference(false, 10, 2))],
        ..row(integer_key(4), clock(5, 0), vec![Value::Integer(7), Value::Null, Value::Null])
    };
    let small = row(integer_key(5), clock(5, 0), vec![Value::Null, text("end"), Value::Null]);
    Chunk {
        header: Header { first_version: 0, last_version: 9, is_final: true },
        sites: vec![site(0x41)],
        groups: vec![rows("files", &["size", "name", "body"], true, vec![large, small])],
        evicted: vec![],
        pieces: vec![(set, 9, b" a".to_vec()), (set, 11, vec![0xff])],
    }
}

/// Rows of two tables that go, and one that comes.
fn evicted() -> Chunk {
    let keys = |rows: std::ops::Range<i64>| rows.map(integer_key).collect();
    let evicted = vec![("notes".to_owned(), keys(3..4)), ("tasks".to_owned(), keys(10..300))];
    Chunk { evicted, ..one_update() }
}

fn cases() -> Vec<(&'static str, Chunk)> {
    let header = Header { first_version: 4, last_version: 9, is_final: true };
    vec![
        ("v1-empty", Chunk { header, sites: vec![], groups: vec![], evicted: vec![], pieces: vec![] }),
        ("v1-one-update", one_update()),
        ("v1-tombstones", tombstones()),
        ("v1-every-kind", every_kind()),
        ("v1-every-form", every_form()),
        ("v1-marks", marks()),
        ("v1-concurrent", concurrent()),
        ("v1-inserted", inserted()),
        ("v1-first-pieces", first_pieces()),
        ("v1-last-pieces", last_pieces()),
        ("v1-evicted", evicted()),
    ]
}

fn parse_hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn golden_bytes_are_read_and_written() {
    for (name, chunk) in cases() {
        let path = folder().join(name).with_extension("hex");
        let bytes = parse_hex(&std::fs::read_to_string(&path).expect(name));
        assert_eq!(Chunk::decode(&bytes, &Stored).expect(name), chunk, "{name}");
        assert_eq!(hex(&chunk.encode(&Stored)), hex(&bytes), "{name}");
    }
}

#[test]
fn every_file_belongs_to_a_case() {
    let cases = cases();
    for file in std::fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "hex") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let is_other = !name.starts_with("v1-");
            assert!(is_other || cases.iter().any(|(case, _)| *case == name), "{name}");
        }
    }
}

/// Does nothing unless it is asked to write into the source tree.
#[test]
fn write_missing_vectors() {
    if std::env::var_os("CLOUDSYNC_WRITE_VECTORS").is_none() {
        return;
    }
    for (name, chunk) in cases() {
        let path = folder().join(name).with_extension("hex");
        if !path.exists() {
            let digits = hex(&chunk.encode(&Stored)).into_bytes();
            let lines: Vec<_> = digits.chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            std::fs::write(path, lines.join("\n") + "\n").unwrap();
        }
    }
}
