//! Damaged and hostile bytes give errors: no panic, and no memory out of proportion.

use super::model::{Chunk, Row, Rows, clock, raw_body, seal_raw};
use super::round_trip::{any_chunk, integer_key};
use cloudsync_core::bytes::put_varint;
use cloudsync_core::id::SiteId;
use cloudsync_core::value::Value;
use cloudsync_protocol::limits::{
    CHUNK_BYTES_MAX, CHUNK_CELLS_MAX, CHUNK_PIECES_MAX, CHUNK_ROWS_MAX, SET_BYTES_MAX,
};
use cloudsync_protocol::payload::{Codec, Header, Opened, PayloadError, Stored};
use proptest::prelude::*;

fn small_chunk() -> Chunk {
    let row = |index: u64| Row {
        key: integer_key(index as i64 * 300),
        life: 1,
        clock: clock(1_000 + index, 0),
        exceptions: if index == 1 { vec![(1, clock(900, 0))] } else { vec![] },
        marks: None,
        references: vec![],
        values: vec![Value::Text(format!("note {index}").into_bytes()), Value::Real(index as f64 / 4.0)],
    };
    let rows = Rows {
        table: "notes".into(),
        columns: vec!["body".into(), "weight".into()],
        whole: false,
        concurrent: false,
        inserted: false,
        rows: (0..3).map(row).collect(),
    };
    let header = Header { first_version: 7, last_version: 9, is_final: true };
    Chunk { header, sites: vec![SiteId([9; 16])], groups: vec![rows], evicted: vec![], pieces: vec![] }
}

/// Reads everything there is to read.
fn read_all(bytes: &[u8]) -> Result<Chunk, PayloadError> {
    Chunk::decode(bytes, &Stored)
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small_chunk().encode(&Stored);
    for length in 0..bytes.len() {
        assert!(read_all(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(read_all(&[&bytes[..], &[0]].concat()), Err(PayloadError::Checksum));
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = small_chunk().encode(&Stored);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read_all(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn errors_say_what_to_do() {
    let bytes = small_chunk().encode(&Stored);
    assert_eq!(read_all(b"SQLite format 3").unwrap_err().to_string(), "not a cloudsync payload");
    assert_eq!(read_all(b"").unwrap_err(), PayloadError::NotPayload);
    let mut newer = bytes.clone();
    newer[2] = 2;
    let error = read_all(&newer).unwrap_err().to_string();
    assert!(
        error.starts_with("payload format version 2 is newer than this version of cloudsync reads"),
        "{error}"
    );
    let mut damaged = bytes;
    damaged[20] ^= 1;
    assert!(read_all(&damaged).unwrap_err().to_string().contains("damaged: checksum"));
}

/// A codec that must not be asked.
struct Unasked;

impl Codec for Unasked {
    fn id(&self) -> u8 {
        2
    }

    fn compress(&self, _raw: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decompress(&self, _id: u8, _bytes: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        panic!("asked for {raw_len} bytes")
    }
}

#[test]
fn a_body_beyond_the_bound_is_refused_before_it_is_unfolded() {
    let mut bytes = vec![0xc5, 0x5c, 1, 0, 2, 0, 0];
    put_varint(&mut bytes, CHUNK_BYTES_MAX as u64 + 1);
    bytes.extend_from_slice(&[1, 2, 3]);
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    let error = Opened::open(&bytes, &Unasked).unwrap_err();
    assert_eq!(error, PayloadError::TooLarge(CHUNK_BYTES_MAX as u64 + 1));
}

#[test]
fn texts_unfold_to_no_more_than_a_chunk() {
    let column = |prefix: usize| {
        let mut column = vec![3, 6];
        put_varint(&mut column, prefix as u64);
        column.extend(std::iter::repeat_n(b'x', prefix));
        column.extend_from_slice(&[0, 1, 0, 2]);
        column
    };
    let rows = CHUNK_ROWS_MAX as u64;
    let read = |columns: &[Vec<u8>]| {
        let raw = [group_start(columns.len(), rows), PLAIN_ROWS.to_vec(), columns.concat()].concat();
        Opened::open(&seal_raw(&raw), &Stored).unwrap().payload().map(|payload| payload.rows())
    };
    assert_eq!(read(&[column(5)]), Ok(CHUNK_ROWS_MAX));
    assert!(read(&[column(CHUNK_BYTES_MAX / CHUNK_ROWS_MAX)]).is_err());
    let half = column(CHUNK_BYTES_MAX / CHUNK_ROWS_MAX / 2);
    assert!(read(&[half.clone(), half]).is_err());
}

/// A body with one site, the names "t" and "c0".."c{columns}", and the beginning of one group up to its row count.
fn group_start(columns: usize, rows: u64) -> Vec<u8> {
    let mut raw = vec![1];
    raw.extend_from_slice(&[5; 16]);
    put_varint(&mut raw, columns as u64 + 1);
    raw.extend_from_slice(b"\x01t");
    for column in 0..columns {
        cloudsync_core::bytes::put_bytes(&mut raw, format!("c{column}").as_bytes());
    }
    raw.extend_from_slice(&[1, 0, 1]);
    put_varint(&mut raw, columns as u64);
    (0..columns).for_each(|column| put_varint(&mut raw, column as u64 + 1));
    put_varint(&mut raw, rows);
    raw
}

/// The same key for all rows, life 1, time 1, site 0, no exceptions.
const PLAIN_ROWS: &[u8] = &[1, 1, 0x10, 0, 2, 0, 2, 0, 0, 0];

#[test]
fn counts_are_bounded() {
    let read = |raw: &[u8]| read_all(&seal_raw(raw)).map(|chunk| chunk.groups.len());
    let with_rows = |columns, rows| [&group_start(columns, rows), PLAIN_ROWS, &vec![0; columns]].concat();
    assert_eq!(read(&with_rows(2, 3)), Ok(1));
    assert!(read(&with_rows(0, 1 << 60)).is_err());
    assert!(read(&with_rows(0, CHUNK_ROWS_MAX as u64 + 1)).is_err());
    assert!(read(&with_rows(0, 0)).is_err(), "a group without rows");
    let columns = 1 + CHUNK_CELLS_MAX / CHUNK_ROWS_MAX;
    assert!(read(&with_rows(columns, CHUNK_ROWS_MAX as u64)).is_err(), "too many cells");
    for claim in [&[0xff; 9][..], &[0xff, 0xff, 0x7f]] {
        for before in [&[][..], &[0], &[0, 0]] {
            assert!(read(&[before, claim, &[1]].concat()).is_err(), "sites, names, groups");
        }
    }
}

#[test]
fn a_lot_of_rows_from_few_bytes_costs_little() {
    let raw = [&group_start(30, CHUNK_ROWS_MAX as u64), PLAIN_ROWS, &[0; 30]].concat();
    let opened = Opened::open(&seal_raw(&raw), &Stored).unwrap();
    let payload = opened.payload().unwrap();
    assert_eq!(payload.rows(), CHUNK_ROWS_MAX);
    assert_eq!(payload.groups()[0].key(CHUNK_ROWS_MAX - 1), [0x10]);
}

#[test]
fn content_outside_its_bounds_is_refused() {
    let group = group_start(1, 1);
    let read = |rows: &[u8], column: &[u8]| read_all(&seal_raw(&[&group, rows, column].concat()));
    assert!(read(PLAIN_ROWS, &[0]).is_ok());
    let rows = |at: usize, byte: u8| {
        let mut rows = PLAIN_ROWS.to_vec();
        rows[at] = byte;
        rows
    };
    assert!(read(&rows(4, 4), &[0]).is_err(), "even life outside a whole group without columns");
    assert!(read(&rows(4, 0), &[0]).is_err(), "life 0");
    assert!(read(&rows(6, 0), &[0]).is_err(), "time 0");
    assert!(read(&rows(6, 1), &[0]).is_err(), "negative time");
    assert!(read(&rows(8, 2), &[0]).is_err(), "a site that is not there");
    assert!(read(&[&[1, 0], &PLAIN_ROWS[3..]].concat(), &[0]).is_err(), "an empty key");
    let exception = |column: u8, step: u8| [&PLAIN_ROWS[..9], &[1, 0, 0, 0, column, 0, step, 0, 0]].concat();
    assert!(read(&exception(0, 2), &[0]).is_ok());
    assert!(read(&exception(2, 2), &[0]).is_err(), "an exception for a column that is not there");
    assert!(read(&exception(0, 1), &[0]).is_err(), "an exception at time 0");
    assert!(read(PLAIN_ROWS, &[0, 0]).is_err(), "bytes after the end");
    assert!(read(PLAIN_ROWS, &[5, 1, 0, 0]).is_err(), "only NULL in a column that has a kind");
    assert!(read(PLAIN_ROWS, &[3, 4, 1, 1, 1, b'x', 0, 2]).is_err(), "a dictionary index that is not there");
}

#[test]
fn marks_outside_their_bounds_are_refused() {
    // The group of `content_outside_its_bounds_is_refused`, with other flags and these marks.
    let read = |flags: u8, life: u8, marks: &[u8]| {
        let mut group = group_start(1, 1);
        let at = group.len() - 4;
        group[at] = flags;
        let mut rows = PLAIN_ROWS.to_vec();
        rows[4] = life * 2;
        read_all(&seal_raw(&[&group, &rows, marks, &[0]].concat())).is_ok()
    };
    let (alive, dead) = (1, 2);
    const CLOCK: [u8; 4] = [0, 0, 0, 0];
    let two = [CLOCK, CLOCK].concat();
    let three = [&two[..], &CLOCK].concat();
    assert!(read(1, alive, &[]));
    assert!(read(2, alive, &CLOCK) && read(3, alive, &CLOCK), "a boundary");
    assert!(!read(3, dead, &CLOCK), "a boundary of a dead row");
    assert!(read(4, alive, &CLOCK) && read(5, alive, &CLOCK), "a write");
    assert!(!read(6, alive, &two), "a boundary and a write");
    assert!(read(9, dead, &two) && read(13, dead, &three), "deletions");
    assert!(!read(9, alive, &two), "a deletion of a living row");
    assert!(!read(8, dead, &two) && !read(12, dead, &three), "a part of a dead row");
    assert!(read(65, alive, &[]) && read(81, alive, &[]), "inserted rows");
    assert!(
        !read(67, alive, &CLOCK) && !read(73, dead, &two) && !read(64, alive, &[]),
        "inserted rows that are not whole, or with marks"
    );
    assert!(!read(11, dead, &three) && !read(32, alive, &[]) && !read(128, alive, &[]), "unknown flags");
    assert!(!read(2, alive, &CLOCK[..3]) && !read(9, dead, &two[..6]), "cut short");
    assert!(!read(2, alive, &[0, 1, 0, 0]), "time 0");
    assert!(!read(2, alive, &[0, 0, 0, 2]), "a site that is not there");
    assert!(!read(9, dead, &[0, 0, 0, 0, 0, 3, 0, 0]), "a deletion at a negative time");
}

#[test]
fn references_and_pieces_outside_their_bounds_are_refused() {
    let reference = |kind: u8, numbers: [u64; 3], rest: &[u8]| {
        let mut bytes = [&[kind][..], &[7; 16]].concat();
        numbers.iter().for_each(|number| put_varint(&mut bytes, *number));
        bytes.extend_from_slice(rest);
        let mut column = vec![9, 5, 1];
        cloudsync_core::bytes::put_bytes(&mut column, &bytes);
        read_all(&seal_raw(&[&group_start(1, 1), PLAIN_ROWS, &column].concat())).is_ok()
    };
    assert!(reference(3, [10, 0, 10], &[]) && reference(4, [SET_BYTES_MAX, 9, 1], &[]));
    assert!(!reference(2, [10, 0, 10], &[]), "no kind of large value");
    assert!(!reference(3, [10, 0, 0], &[]), "a value without bytes");
    assert!(!reference(3, [10, 11, 1], &[]) && !reference(3, [10, 4, 7], &[]), "beyond the set");
    assert!(!reference(3, [SET_BYTES_MAX + 1, 0, 1], &[]), "a set that nothing can hold");
    assert!(!reference(3, [u64::MAX, u64::MAX, 1], &[]));
    assert!(!reference(3, [10, 0, 10], &[0]), "bytes after the end");
    let pieces = |count: u64, start: u64, length: u64, bytes: &[u8]| {
        let mut raw = vec![0, 0, 0];
        put_varint(&mut raw, count);
        raw.extend_from_slice(&[7; 16]);
        put_varint(&mut raw, start);
        put_varint(&mut raw, length);
        raw.extend_from_slice(bytes);
        read_all(&seal_raw(&raw)).map(|chunk| chunk.pieces.len())
    };
    assert_eq!(pieces(1, 5, 2, b"ab"), Ok(1));
    assert!(pieces(0, 5, 2, b"ab").is_err() && pieces(2, 5, 2, b"ab").is_err(), "another count");
    assert!(pieces(1 << 40, 5, 2, b"ab").is_err() && pieces(1, 5, 3, b"ab").is_err());
    assert!(pieces(1, 5, 0, b"").is_err(), "a piece without bytes");
    assert!(pieces(1, SET_BYTES_MAX - 1, 2, b"ab").is_err(), "a piece beyond any set");
    assert!(pieces(1, 5, 2, b"abc").is_err(), "bytes after the end");
    let many = |count: usize| {
        let mut raw = vec![0, 0, 0];
        put_varint(&mut raw, count as u64);
        (0..count).for_each(|_| raw.extend_from_slice(&[&[7; 16][..], &[0, 1, b'x']].concat()));
        read_all(&seal_raw(&raw)).map(|chunk| chunk.pieces.len())
    };
    assert_eq!(many(CHUNK_PIECES_MAX), Ok(CHUNK_PIECES_MAX));
    assert!(many(CHUNK_PIECES_MAX + 1).is_err());
}

#[test]
fn evictions_are_keys_and_nothing_else() {
    let read = |flags: u8, rest: &[u8]| {
        let raw = [&[0, 1, 1, b't', 1, 0, flags][..], rest].concat();
        read_all(&seal_raw(&raw)).map(|chunk| chunk.evicted)
    };
    assert_eq!(read(32, &[1, 5, 0, 2]), Ok(vec![("t".to_owned(), vec![integer_key(1)])]));
    assert!(read(32, &[0]).is_err() && read(32, &[]).is_err() && read(32, &[1]).is_err(), "no rows");
    assert!(read(32, &[1, 1, 0]).is_err(), "an empty key");
    assert!(read(32, &[1, 5, 0, 2, 0, 0]).is_err(), "a life");
    for other in [1, 2, 16, 64] {
        assert!(read(32 | other, &[1, 5, 0, 2]).is_err(), "another flag beside");
    }
    let mut many = Vec::new();
    put_varint(&mut many, CHUNK_ROWS_MAX as u64 + 1);
    assert!(read(32, &[&many[..], &[5, 0, 2]].concat()).is_err(), "more rows than a chunk has");
}

#[test]
fn names_are_checked() {
    let read = |names: &[u8]| read_all(&seal_raw(&[&[0, 1][..], names, &[0]].concat())).is_ok();
    assert!(read(b"\x01t"));
    assert!(!read(b"\x00"), "empty");
    assert!(!read(b"\x01\xff"), "not UTF-8");
    let long = [&[0x81, 0x08][..], &[b'n'; 1025]].concat();
    assert!(!read(&long), "too long");
    assert!(read_all(&seal_raw(b"\x00\x02\x01t\x01t\x00")).is_err(), "twice");
    let twice =
        [&[1][..], &[5; 16], b"\x02\x01t\x01c\x01\x00\x01\x02\x01\x01\x01", PLAIN_ROWS, &[0, 0]].concat();
    assert!(read_all(&seal_raw(&twice)).is_err(), "a column twice");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(read_all(&bytes).is_err());
        let _ = read_all(&seal_raw(&bytes));
        let _ = read_all(&seal_raw(&[group_start(2, 3), bytes].concat()));
    }

    #[test]
    fn random_rows_never_panic(rows in 1u64..20, bytes in prop::collection::vec(0u8..10, 0..200)) {
        let _ = read_all(&seal_raw(&[&group_start(3, rows), PLAIN_ROWS, &bytes].concat()));
    }

    #[test]
    fn hostile_bodies_never_panic(
        chunk in any_chunk(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let mut raw = raw_body(&chunk);
        for (at, byte, edit) in edits {
            let at = at.index(raw.len());
            match edit {
                0 => raw[at] = byte,
                1 => raw[at] ^= 1 << (byte % 8),
                2 => raw.insert(at, byte),
                _ => { raw.remove(at); raw.push(byte); }
            }
        }
        let _ = read_all(&seal_raw(&raw));
    }
}
