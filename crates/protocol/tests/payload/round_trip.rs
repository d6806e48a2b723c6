//! What goes in comes out, bit for bit, and small.

use super::model::{Chunk, Row, Rows, clock};
use cloudsync_core::clock::{LIFE_MAX, TIME_MAX};
use cloudsync_core::id::{SiteId, uuid_text, uuid_v7};
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::marks::{Deletion, Marks};
use cloudsync_core::value::{Value, ValueRef};
use cloudsync_protocol::payload::{Codec, Encoder, Header, Opened, Reference, SetHasher, SetId, Stored};
use proptest::prelude::*;

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), Just(0)].prop_map(Value::Integer),
        any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits))),
        prop_oneof![Just(-0.0), Just(0.0), Just(f64::INFINITY), Just(f64::MIN_POSITIVE / 4.0)]
            .prop_map(Value::Real),
        any::<Vec<u8>>().prop_map(Value::Text),
        any::<Vec<u8>>().prop_map(Value::Blob),
    ]
}

/// Texts of a pattern. An interpreter takes minutes to read one, and gets some of its texts instead.
fn any_text(pattern: &'static str, some: &'static [&'static str]) -> BoxedStrategy<String> {
    if cfg!(miri) { prop::sample::select(some).prop_map(str::to_owned).boxed() } else { pattern.boxed() }
}

/// Values of one column: one of the shapes that columns have, or none of them.
fn any_column(rows: usize) -> BoxedStrategy<Vec<Value>> {
    let column = |value: BoxedStrategy<Value>| prop::collection::vec(value, rows).boxed();
    let texts = |pattern, some| {
        column(any_text(pattern, some).prop_map(|text| Value::Text(text.into_bytes())).boxed())
    };
    let integers = (any::<i64>(), 0u32..64).prop_flat_map(move |(base, shift)| {
        let value = move |v: u64| Value::Integer(base.wrapping_add((v >> shift) as i64));
        prop::collection::vec(any::<u64>().prop_map(value), rows)
    });
    let decimals = (0i32..12).prop_flat_map(move |places| {
        let value = move |n: i32| Value::Real(f64::from(n) / 10f64.powi(places));
        prop::collection::vec(any::<i32>().prop_map(value), rows)
    });
    let uuid = |bytes: [u8; 16]| Value::Text(uuid_text(&bytes).to_vec());
    let few = prop::collection::vec(any::<Vec<u8>>(), 1..6).prop_flat_map(move |words| {
        prop::collection::vec(prop::sample::select(words).prop_map(Value::Text), rows)
    });
    let fixed = (1usize..70).prop_flat_map(move |width| {
        let value = prop::collection::vec(prop_oneof![Just(7u8), any::<u8>()], width).prop_map(Value::Blob);
        prop::collection::vec(value, rows)
    });
    let one_kind = prop_oneof![
        integers,
        decimals,
        few,
        fixed,
        column(any::<[u8; 16]>().prop_map(uuid).boxed()),
        column(
            any::<[u8; 3]>()
                .prop_map(move |b| uuid(uuid_v7(9, 0, [b[0], 0, b[1], 0, 0, 0, 0, b[2]])))
                .boxed()
        ),
        column(any::<f64>().prop_map(Value::Real).boxed()),
        texts("a7b(0|[1-9][0-9]{0,17})c", &["a7b0c", "a7b1c", "a7b90071992547c"]),
        texts("[0-9]{1,20}", &["0", "007", "18446744073709551616"]),
        texts("[a-z]{0,20}", &["", "a", "abcdefghij"]),
    ]
    .boxed();
    let nulls = (one_kind.clone(), prop::collection::vec(any::<bool>(), rows)).prop_map(|(values, nulls)| {
        values.into_iter().zip(nulls).map(|(v, null)| if null { Value::Null } else { v }).collect()
    });
    prop_oneof![4 => one_kind, 2 => nulls, 2 => column(any_value().boxed())].boxed()
}

/// Marks of the kinds that the bits say: 1 = boundary, 2 = write, 4 = deletion.
fn any_marks(kinds: u8, sites: u32) -> impl Strategy<Value = Option<Marks>> {
    let any_clock = move || (1..=TIME_MAX.0, 0..sites).prop_map(|(time, site)| clock(time, site));
    [(); 4].map(|()| any_clock()).prop_map(move |[boundary, write, seen, clock]| {
        (kinds > 0).then(|| Marks {
            boundary: (kinds & 1 > 0).then_some(boundary),
            write: (kinds & 2 > 0).then_some(write),
            deletion: (kinds & 4 > 0).then_some(Deletion { seen, clock }),
        })
    })
}

/// Most groups and columns, exclusive. An interpreter takes seconds to draw one of them, and for each row.
const GROUPS: usize = if cfg!(miri) { 2 } else { 4 };
const COLUMNS: usize = if cfg!(miri) { 3 } else { 5 };

/// Rows of a group: few, or more than small forms of lists have room for.
fn any_rows_count() -> BoxedStrategy<usize> {
    if cfg!(miri) { (1usize..4).boxed() } else { prop_oneof![4 => 1usize..20, 1 => 60usize..140].boxed() }
}

fn any_group(sites: u32) -> impl Strategy<Value = Rows> {
    let kinds = prop_oneof![4 => Just(0), 4 => prop::sample::select(vec![1u8, 2, 4, 6])];
    let rows_count = any_rows_count();
    (0..COLUMNS, rows_count, any::<bool>(), 0u8..4, kinds).prop_flat_map(
        move |(columns_count, rows_count, whole, keys, kinds)| {
            let whole = whole || kinds & 4 > 0;
            let may_be_dead = whole && columns_count == 0 && kinds == 0;
            let life = prop_oneof![Just(0), 0..LIFE_MAX / 2 - 1].prop_flat_map(move |n| {
                match (may_be_dead, kinds & 4 > 0) {
                    (true, _) => n * 2 + 1..n * 2 + 3,
                    (false, false) => n * 2 + 1..n * 2 + 2,
                    (false, true) => n * 2 + 2..n * 2 + 3,
                }
            });
            let any_clock = || (1..=TIME_MAX.0, 0..sites).prop_map(|(time, site)| clock(time, site));
            let exceptions = prop::collection::btree_map(0..columns_count.max(1) as u16, any_clock(), 0..4)
                .prop_map(move |map| if columns_count == 0 { vec![] } else { map.into_iter().collect() });
            let key = match keys {
                0 => any::<i64>().prop_map(integer_key).boxed(),
                1 => (0u64..1 << 60).prop_map(|n| format!("1key{}", n >> (n % 61)).into_bytes()).boxed(),
                2 => any::<[u8; 16]>().prop_map(|bytes| [&[0x30], &bytes[..]].concat()).boxed(),
                _ => prop::collection::vec(any::<u8>(), 1..30).boxed(),
            };
            let exceptions = prop_oneof![3 => Just(vec![]), 1 => exceptions];
            let row = (key, life, any_clock(), exceptions, any_marks(kinds, sites));
            (
                prop::collection::vec(row, rows_count),
                (0..columns_count).map(|_| any_column(rows_count)).collect::<Vec<_>>(),
                any_text("[a-z]{1,8}", &["t", "another"]),
            )
                .prop_map(move |(rows, columns, table)| Rows {
                    table,
                    columns: (0..columns_count).map(|column| format!("column {column}")).collect(),
                    whole,
                    concurrent: keys == 2,
                    inserted: whole && kinds == 0 && keys == 1,
                    rows: rows
                        .into_iter()
                        .enumerate()
                        .map(|(index, (key, life, clock, exceptions, marks))| Row {
                            key,
                            life,
                            clock,
                            exceptions,
                            marks,
                            values: columns.iter().map(|values| values[index].clone()).collect(),
                            references: vec![],
                        })
                        .collect(),
                })
        },
    )
}

fn any_reference() -> impl Strategy<Value = Reference> {
    (any::<bool>(), any::<[u8; 16]>(), any::<[u32; 3]>()).prop_map(|(is_text, set, [start, bytes, rest])| {
        let (start, bytes) = (u64::from(start >> 4), u64::from(bytes >> 4) + 1);
        let set_bytes = start + bytes + u64::from(rest >> 4);
        Reference { is_text, set: SetId(set), set_bytes, start, bytes }
    })
}

/// Puts references in the place of some NULLs.
fn refer(group: &mut Rows, reference: Option<Reference>) {
    let Some(reference) = reference else { return };
    for (at, row) in group.rows.iter_mut().enumerate() {
        for (column, _) in row.values.iter().enumerate().filter(|(_, value)| **value == Value::Null) {
            if (at + column) % 3 > 0 {
                let start = reference.start.saturating_sub(at as u64);
                row.references.push((column as u16, Reference { start, ..reference }));
            }
        }
    }
}

pub(crate) fn any_chunk() -> impl Strategy<Value = Chunk> {
    (prop::collection::btree_set(any::<[u8; 16]>(), 1..5), any::<[u64; 2]>(), any::<bool>()).prop_flat_map(
        |(sites, [first_version, last_version], is_final)| {
            let sites: Vec<_> = sites.into_iter().map(SiteId).collect();
            let groups = prop::collection::vec(any_group(sites.len() as u32), 0..GROUPS);
            let piece = (any::<[u8; 16]>(), 0..1u64 << 30, prop::collection::vec(any::<u8>(), 1..40));
            let pieces = prop::collection::vec(piece, 0..3);
            let keys = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..5);
            let evicted = prop::collection::btree_map(any_text("[a-z]{1,3}", &["t", "u", "v"]), keys, 0..3);
            (groups, evicted, pieces, prop::option::of(any_reference())).prop_map(
                move |(mut groups, evicted, pieces, reference)| {
                    groups.iter_mut().for_each(|group| refer(group, reference));
                    Chunk {
                        header: Header { first_version, last_version, is_final },
                        sites: sites.clone(),
                        groups,
                        evicted: evicted.into_iter().collect(),
                        pieces: pieces
                            .into_iter()
                            .map(|(set, start, bytes)| (SetId(set), start, bytes))
                            .collect(),
                    }
                },
            )
        },
    )
}

pub(crate) fn integer_key(integer: i64) -> Vec<u8> {
    let mut key = Vec::new();
    pack_part(&mut key, ValueRef::Integer(integer), KeyCollation::Binary, true).unwrap();
    key
}

/// Run lengths in place of a real compressor.
struct RunLengths;

impl Codec for RunLengths {
    fn id(&self) -> u8 {
        2
    }

    fn compress(&self, raw: &[u8]) -> Option<Vec<u8>> {
        Some(
            raw.chunk_by(|a, b| a == b)
                .flat_map(|run| run.chunks(255))
                .flat_map(|r| [r.len() as u8, r[0]])
                .collect(),
        )
    }

    fn decompress(&self, id: u8, bytes: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        let length: usize = bytes.chunks(2).map(|run| usize::from(run[0])).sum();
        if id != 2 || length != raw_len || !bytes.len().is_multiple_of(2) {
            return None;
        }
        Some(bytes.chunks(2).flat_map(|run| std::iter::repeat_n(run[1], usize::from(run[0]))).collect())
    }
}

proptest! {
    #[test]
    fn any_chunk_round_trips(chunk in any_chunk()) {
        for codec in [&Stored as &dyn Codec, &RunLengths] {
            let bytes = chunk.encode(codec);
            let again = Chunk::decode(&bytes, codec).unwrap();
            prop_assert_eq!(&again, &chunk);
            prop_assert_eq!(again.encode(codec), bytes);
        }
    }
}

#[test]
fn the_size_is_known_from_above_while_encoding() {
    let mut encoder = Encoder::new();
    let site = encoder.site(&SiteId([1; 16]));
    assert_eq!(encoder.site(&SiteId([2; 16])).0, 1);
    assert_eq!(encoder.site(&SiteId([1; 16])), site);
    let group = encoder.group("t", &["a", "b"], true);
    let mut rows = 0;
    while !encoder.is_full() {
        rows += 1;
        let text = format!("{:x}", xxhash_rust::xxh3::xxh3_128(&[rows as u8, (rows >> 8) as u8]));
        let values = [ValueRef::Text(text.as_bytes()), ValueRef::Integer(i64::MAX / rows)];
        encoder.push(group, &integer_key(rows), 1, clock(rows as u64, 0), &[], values);
    }
    assert_eq!(encoder.rows() as i64, rows);
    let estimate = encoder.size_bytes();
    let bytes = encoder.finish(Header::default(), &Stored).len();
    assert!(bytes <= estimate && bytes > estimate / 2, "{bytes} of {estimate}");
}

#[test]
fn a_codec_is_asked_only_where_it_can_win() {
    let row = |text: &[u8]| Row {
        key: vec![0x11, 1],
        life: 1,
        clock: clock(1, 0),
        exceptions: vec![],
        marks: None,
        values: vec![Value::Text(text.to_vec())],
        references: vec![],
    };
    let chunk = |text: &[u8]| Chunk {
        header: Header::default(),
        sites: vec![SiteId([3; 16])],
        groups: vec![Rows {
            table: "t".into(),
            columns: vec!["c".into()],
            whole: true,
            concurrent: false,
            inserted: false,
            rows: vec![row(text)],
        }],
        evicted: vec![],
        pieces: vec![],
    };
    let small = chunk(&[b'x'; 100]);
    assert_eq!(small.encode(&RunLengths), small.encode(&Stored), "tiny bodies are stored");
    let noise: Vec<u8> = (0..500).map(|i| (i * 37) as u8).collect();
    assert_eq!(chunk(&noise).encode(&RunLengths), chunk(&noise).encode(&Stored), "so is what would grow");
    let long = chunk(&[b'x'; 10_000]);
    let bytes = long.encode(&RunLengths);
    assert!(bytes.len() < 300);
    assert_eq!(Chunk::decode(&bytes, &RunLengths).unwrap(), long);
    let error = Opened::open(&bytes, &Stored).unwrap_err();
    assert!(error.to_string().contains("method 2"), "{error}");
}

/// A column of 10,000 values that people have in their tables.
fn column_bytes_per_row(value: impl Fn(u64) -> Value) -> f64 {
    const ROWS: u64 = 10_000;
    let rows = |values: bool| {
        let columns = if values { vec!["c".to_owned()] } else { vec![] };
        let rows = (0..ROWS).map(|row| Row {
            key: integer_key(row as i64),
            life: 1,
            clock: clock(1_700_000_000_000, 0),
            exceptions: vec![],
            marks: None,
            values: if values { vec![value(row)] } else { vec![] },
            references: vec![],
        });
        Rows {
            table: "t".into(),
            columns,
            whole: true,
            concurrent: false,
            inserted: false,
            rows: rows.collect(),
        }
    };
    let bytes = |values| {
        let sites = vec![SiteId([1; 16])];
        let chunk = Chunk {
            header: Header::default(),
            sites,
            groups: vec![rows(values)],
            evicted: vec![],
            pieces: vec![],
        };
        chunk.encode(&Stored).len() as f64
    };
    (bytes(true) - bytes(false)) / ROWS as f64
}

fn noise(row: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&row.to_le_bytes())
}

#[test]
fn columns_are_small_even_stored() {
    let text = |text: String| Value::Text(text.into_bytes());
    let at_most = |bound: f64, what: &str, value: &dyn Fn(u64) -> Value| {
        let bytes = column_bytes_per_row(value);
        assert!(bytes <= bound, "{what}: {bytes} bytes a row");
    };
    at_most(0.002, "all NULL", &|_| Value::Null);
    at_most(0.002, "all equal", &|_| text("active".into()));
    at_most(0.002, "numbered", &|row| Value::Integer(row as i64 * 10));
    at_most(0.13, "booleans", &|row| Value::Integer((noise(row) & 1) as i64));
    at_most(0.26, "booleans and NULL", &|row| match noise(row) % 3 {
        2 => Value::Null,
        bit => Value::Integer(bit as i64),
    });
    at_most(2.01, "prices", &|row| Value::Real((noise(row) % 60_000) as f64 / 100.0));
    at_most(8.01, "measurements", &|row| Value::Real((noise(row) as f64).sqrt()));
    at_most(16.01, "random UUIDs", &|row| {
        text(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&row.to_le_bytes()))).uuid_dashes()
    });
    at_most(2.5, "references to 300 UUIDs", &|row| {
        let user = noise(row) % 300;
        text(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&user.to_le_bytes()))).uuid_dashes()
    });
    at_most(0.6, "one of five words", &|row| {
        text(["draft", "sent", "paid", "late", "void"][(noise(row) % 5) as usize].into())
    });
    at_most(3.01, "addresses with a number", &|row| {
        text(format!("user{}@example.com", noise(row) % 9_000_000))
    });
    at_most(2.01, "times in order", &|row| {
        Value::Integer(1_700_000_000_000 + row as i64 * 5000 + (noise(row) % 3000) as i64)
    });
}

/// A text of 32 hex digits as the text of a UUID.
trait UuidDashes {
    fn uuid_dashes(self) -> Self;
}

impl UuidDashes for Value {
    fn uuid_dashes(self) -> Self {
        let Self::Text(hex) = self else { return self };
        let bytes: Vec<_> =
            hex.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect();
        Self::Text(uuid_text(&bytes.try_into().unwrap()).to_vec())
    }
}

/// Bytes a row of 10,000 tombstones with such keys.
fn row_bytes(key: impl Fn(u64) -> Vec<u8>, time: impl Fn(u64) -> u64) -> f64 {
    let rows = (0..10_000).map(|row| Row {
        key: key(row),
        life: 2,
        clock: clock(time(row), 0),
        exceptions: vec![],
        marks: None,
        values: vec![],
        references: vec![],
    });
    let group = Rows {
        table: "t".into(),
        columns: vec![],
        whole: true,
        concurrent: false,
        inserted: false,
        rows: rows.collect(),
    };
    let sites = vec![SiteId([1; 16])];
    let chunk =
        Chunk { header: Header::default(), sites, groups: vec![group], evicted: vec![], pieces: vec![] };
    chunk.encode(&Stored).len() as f64 / 10_000.0
}

#[test]
fn keys_and_clocks_are_small_even_stored() {
    let uuid_key = |row: u64| {
        let uuid = uuid_v7(1_700_000_000_000 + row / 4, (row % 4096) as u16, noise(row).to_le_bytes());
        [&[0x30], &uuid[..]].concat()
    };
    let bytes = row_bytes(uuid_key, |_| 1_700_000_000_000);
    assert!(bytes <= 12.5, "version 7 UUIDs: {bytes}");
    let bytes = row_bytes(|row| integer_key(row as i64), |_| 1_700_000_000_000);
    assert!(bytes <= 0.02, "row numbers written at once: {bytes}");
    let bytes = row_bytes(|row| integer_key(row as i64), |row| 1_700_000_000_000 + row * 7 + noise(row) % 5);
    assert!(bytes <= 1.02, "row numbers written one by one: {bytes}");
    let bytes = row_bytes(|row| format!("1order-{row:05}").into_bytes(), |_| 1);
    assert!(bytes <= 6.02, "texts with a number of fixed length: {bytes}");
    let bytes = row_bytes(|row| format!("1order-{row}").into_bytes(), |_| 1);
    assert!(bytes <= 0.02, "numbered texts: {bytes}");
}

#[test]
fn a_row_that_was_taken_back_leaves_nothing() {
    proptest!(|(chunk in any_chunk())| {
        let mut twice = chunk.clone();
        // The rows that are taken back bear values of every kind, whatever the columns hold.
        for group in &mut twice.groups {
            group.rows.push(group.rows[0].clone());
        }
        prop_assert_eq!(twice.encode_without_last_rows(&Stored), chunk.encode(&Stored));
    });
}

#[test]
fn the_name_of_a_set_does_not_depend_on_its_parts() {
    let bytes: Vec<u8> = (0..5_000u32).map(|i| ((i * i) >> 3) as u8).collect();
    let mut whole = SetHasher::new();
    whole.update(&bytes);
    assert_eq!(whole.id(), SetId(xxhash_rust::xxh3::xxh3_128(&bytes).to_be_bytes()));
    for size in [1, 7, 256, 1_000] {
        let mut parts = SetHasher::new();
        bytes.chunks(size).for_each(|part| parts.update(part));
        assert_eq!(parts.id(), whole.id());
    }
}
