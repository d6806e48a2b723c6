//! Range checks: whether device and server hold the same, told by digests of ranges of keys.
//!
//! A device names ranges of the keys of its tables, with the number of rows that it holds there and a digest of them.
//! The server works out the same over what it holds, and says of each range whether it is equal; of one that is not it
//! sends the rows, whole and with their clocks, as far as they fit, and says up to which key they reach.
//!
//! ```text
//! check    count, then for each range: table (bytes), shape 8, after (bytes), until (bytes), rows, digest 8
//! checked  count, then for each range a finding: 1 byte and what belongs to it; payload (bytes)
//!          0 equal, 1 differs: until (bytes), 2 unknown, 3 later, 4 large: key (bytes), digest 8, 5 empty
//! ```
//! A range begins behind the key `after`, at the table's first one if that is empty, and ends with `until`, with the
//! table's last one if that is empty. A row whose values are not known to be what the clock says (one that is gone
//! without a deletion, or has a value where the clock knows none) is given as a range that cannot be equal.
//!
//! # What a digest covers
//!
//! Of each row, alive or deleted: the packed key, the life, the clock of each cell with the id of its site, the marks
//! but the last write (which others may know by a cell), and of a living row the values: their kind and their bytes,
//! reals by their bits. Values beyond [`ROW_BYTES_MAX`] count by their length. Cells without a clock do not count. For
//! users, who may not see everything, deleted rows do not count on either side. Cells are numbered in the order of
//! their columns' names, so that two tables of one *shape* agree on it: the algorithm, and the names of columns and
//! key, in small letters.

use crate::limits::{CHECK_RANGES_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX, VERDICT_PAYLOAD_BYTES_MAX};
use crate::schema::TableSchema;
use alloc::string::String;
use alloc::vec::Vec;
use cloudsync_core::bytes::{BytesError, Reader, put_bytes, put_varint};
use cloudsync_core::clock::{Clock, ColumnNumber, RowClock};
use cloudsync_core::id::SiteId;
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_core::value::ValueRef;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A range of a table's keys, and what the device holds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<'a> {
    /// The table.
    pub table: &'a str,
    /// Its [`shape`] on the device.
    pub shape: u64,
    /// The range begins behind this packed key; empty for the table's beginning.
    pub after: &'a [u8],
    /// The last packed key of the range; empty for the table's end.
    pub until: &'a [u8],
    /// Rows that the device holds there, deleted ones included.
    pub rows: u64,
    /// Their digest.
    pub digest: u64,
}

/// What the server finds in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding<'a> {
    /// The same.
    Equal,
    /// Something else: what it holds from the range's beginning up to this key is in the payload. Empty if that is the
    /// whole range.
    Differs {
        /// The last key that is covered.
        until: &'a [u8],
    },
    /// It cannot tell: the table has another shape there or does not sync, finding out what the asker sees of it takes
    /// too much work, or the server's own rows are damaged.
    Unknown,
    /// Not now: it has too much to do, or the answer is full. The device may ask again.
    Later,
    /// Something else, and the first row is too large to be sent so.
    Large {
        /// The row's key: the range is covered up to it.
        key: &'a [u8],
        /// The digest of the row.
        digest: u64,
    },
    /// It holds nothing at all of the table, not even deletions.
    Empty,
}

/// The ranges that a device wants to have checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check<'a> {
    /// In the order in which they shall be looked at.
    pub ranges: Vec<Range<'a>>,
}

/// What the server says of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked<'a> {
    /// One for each range.
    pub findings: Vec<Finding<'a>>,
    /// The rows of ranges that differ, as a payload; empty when there are none.
    pub payload: &'a [u8],
}

impl<'a> Check<'a> {
    /// The check as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.ranges.len() as u64);
        for range in &self.ranges {
            put_bytes(&mut out, range.table.as_bytes());
            out.extend_from_slice(&range.shape.to_le_bytes());
            put_bytes(&mut out, range.after);
            put_bytes(&mut out, range.until);
            put_varint(&mut out, range.rows);
            out.extend_from_slice(&range.digest.to_le_bytes());
        }
        out
    }

    /// Reads a check.
    ///
    /// # Errors
    /// [`BytesError`] when the bytes are none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let count = reader.varint_max(CHECK_RANGES_MAX as u64, "number of ranges")? as usize;
        let mut ranges = Vec::new();
        for _ in 0..count {
            let table = reader.bytes(NAME_BYTES_MAX as u64, "table")?;
            ranges.push(Range {
                table: core::str::from_utf8(table).map_err(|_| BytesError::OutOfBounds("table"))?,
                shape: u64::from_le_bytes(reader.array()?),
                after: key(&mut reader)?,
                until: key(&mut reader)?,
                rows: reader.varint_max(i64::MAX as u64, "number of rows")?,
                digest: u64::from_le_bytes(reader.array()?),
            });
        }
        end(&reader, Self { ranges })
    }
}

impl<'a> Checked<'a> {
    /// The findings as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.findings.len() as u64);
        for finding in &self.findings {
            match finding {
                Finding::Equal => out.push(0),
                Finding::Differs { until } => {
                    out.push(1);
                    put_bytes(&mut out, until);
                }
                Finding::Unknown => out.push(2),
                Finding::Later => out.push(3),
                Finding::Large { key, digest } => {
                    out.push(4);
                    put_bytes(&mut out, key);
                    out.extend_from_slice(&digest.to_le_bytes());
                }
                Finding::Empty => out.push(5),
            }
        }
        put_bytes(&mut out, self.payload);
        out
    }

    /// Reads findings.
    ///
    /// # Errors
    /// [`BytesError`] when the bytes are none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let count = reader.varint_max(CHECK_RANGES_MAX as u64, "number of findings")? as usize;
        let mut findings = Vec::new();
        for _ in 0..count {
            findings.push(match reader.byte()? {
                0 => Finding::Equal,
                1 => Finding::Differs { until: key(&mut reader)? },
                2 => Finding::Unknown,
                3 => Finding::Later,
                4 => Finding::Large { key: key(&mut reader)?, digest: u64::from_le_bytes(reader.array()?) },
                5 => Finding::Empty,
                _ => return Err(BytesError::OutOfBounds("finding")),
            });
        }
        let payload = reader.bytes(VERDICT_PAYLOAD_BYTES_MAX as u64, "payload")?;
        end(&reader, Self { findings, payload })
    }
}

fn key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], BytesError> {
    reader.bytes(KEY_BYTES_MAX as u64, "key")
}

fn end<T>(reader: &Reader<'_>, value: T) -> Result<T, BytesError> {
    if reader.is_empty() { Ok(value) } else { Err(BytesError::OutOfBounds("end of the ranges")) }
}

/// The places of a table's columns in the order in which digests number them.
#[must_use]
pub fn column_order(table: &TableSchema) -> Vec<usize> {
    let mut names: Vec<(String, usize)> =
        table.columns.iter().map(|column| column.name.to_ascii_lowercase()).zip(0..).collect();
    names.sort_unstable();
    names.into_iter().map(|(_, place)| place).collect()
}

/// What two tables must have in common for their digests to be compared.
#[must_use]
pub fn shape(table: &TableSchema) -> u64 {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, table.algorithm.as_bytes());
    for place in column_order(table) {
        let column = &table.columns[place];
        put_bytes(&mut bytes, column.name.to_ascii_lowercase().as_bytes());
        put_varint(&mut bytes, u64::from(column.key_place));
    }
    xxh3_64(&bytes)
}

/// Works out the digests of rows; one buffer serves them all.
#[derive(Debug, Default)]
pub struct Digester {
    bytes: Vec<u8>,
}

impl Digester {
    /// The digest of one row. `cells` are its columns with their numbers in [`column_order`], the numbers by which the
    /// clock knows them, and the values, `None` in a dead row. `sites` is indexed by the ordinals in the clock.
    pub fn row<'v>(
        &mut self,
        key: &[u8],
        clock: &RowClock,
        sites: &[SiteId],
        cells: impl Iterator<Item = (usize, ColumnNumber, Option<ValueRef<'v>>)>,
    ) -> u64 {
        let out = &mut self.bytes;
        out.clear();
        put_bytes(out, key);
        put_varint(out, clock.life);
        let mut any = false;
        for (at, number, value) in cells {
            let Some(cell) = clock.cell(number) else { continue };
            any = true;
            put_varint(out, at as u64);
            put_clock(out, cell, sites);
            if let Some(value) = value {
                put_value(out, value);
            }
        }
        if !any {
            put_clock(out, clock.common, sites);
        }
        if let Some(marks) = &clock.marks {
            let deletion = marks.deletion;
            let marks = [marks.boundary, deletion.map(|it| it.seen), deletion.map(|it| it.clock)];
            for (at, mark) in marks.into_iter().enumerate() {
                if let Some(mark) = mark {
                    put_varint(out, at as u64);
                    put_clock(out, mark, sites);
                }
            }
        }
        xxh3_64(out)
    }

    /// Bytes that the last row took.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The digest of rows in the order of their keys, from their own digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangeDigest {
    /// Rows so far.
    pub rows: u64,
    /// Their digest.
    pub digest: u64,
}

impl RangeDigest {
    /// Adds the next row.
    pub fn push(&mut self, row: u64) {
        self.rows += 1;
        self.digest = xxh3_64_with_seed(&row.to_le_bytes(), self.digest);
    }
}

fn put_clock(out: &mut Vec<u8>, clock: Clock, sites: &[SiteId]) {
    put_varint(out, clock.time.0);
    // Only a damaged clock names a site that is not there; it differs from all others.
    let site = sites.get(clock.site.0 as usize).map_or([0xff; 16], |site| site.0);
    out.extend_from_slice(&site);
}

fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.push(0),
        ValueRef::Integer(integer) => {
            out.push(1);
            out.extend_from_slice(&integer.to_le_bytes());
        }
        ValueRef::Real(real) => {
            out.push(2);
            out.extend_from_slice(&real.to_bits().to_le_bytes());
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            let kind = if matches!(value, ValueRef::Text(_)) { 3 } else { 4 };
            if bytes.len() > ROW_BYTES_MAX {
                out.push(kind + 2);
                put_varint(out, bytes.len() as u64);
            } else {
                out.push(kind);
                put_bytes(out, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ColumnSchema;
    use alloc::vec;
    use cloudsync_core::clock::{ColumnSet, SiteOrdinal, Time};
    use proptest::prelude::*;

    const RANGE: Range<'static> =
        Range { table: "notes", shape: 7, after: b"\x31a", until: b"", rows: 9, digest: u64::MAX };

    #[test]
    fn checks_round_trip_and_every_truncation_fails() {
        let check = Check { ranges: vec![RANGE, Range { after: b"", until: b"\x31b", ..RANGE }] };
        let bytes = check.encode();
        assert_eq!(Check::decode(&bytes), Ok(check));
        assert!((0..bytes.len()).all(|end| Check::decode(&bytes[..end]).is_err()));
        assert!(Check::decode(&[&bytes[..], &[0]].concat()).is_err());
        let many = |count| Check { ranges: vec![RANGE; count] }.encode();
        assert!(Check::decode(&many(CHECK_RANGES_MAX)).is_ok());
        assert!(Check::decode(&many(CHECK_RANGES_MAX + 1)).is_err());
        let long = vec![1; KEY_BYTES_MAX + 1];
        assert!(Check::decode(&Check { ranges: vec![Range { until: &long, ..RANGE }] }.encode()).is_err());
    }

    #[test]
    fn findings_round_trip_and_every_truncation_fails() {
        let findings = vec![
            Finding::Equal,
            Finding::Differs { until: b"" },
            Finding::Differs { until: b"key" },
            Finding::Unknown,
            Finding::Later,
            Finding::Large { key: b"key", digest: 5 },
            Finding::Empty,
        ];
        let checked = Checked { findings, payload: b"payload" };
        let bytes = checked.encode();
        assert_eq!(Checked::decode(&bytes), Ok(checked));
        assert!((0..bytes.len()).all(|end| Checked::decode(&bytes[..end]).is_err()));
        assert!(Checked::decode(&[1, 6, 0]).is_err());
        let many = |count| Checked { findings: vec![Finding::Equal; count], payload: b"" }.encode();
        assert!(Checked::decode(&many(CHECK_RANGES_MAX + 1)).is_err());
    }

    fn clock(time: u64, site: u32) -> Clock {
        Clock::new(Time(time), SiteOrdinal(site))
    }

    fn digest(clock: &RowClock, sites: &[SiteId], values: &[ValueRef<'_>]) -> u64 {
        let cells = values.iter().zip(0..).map(|(value, i)| (usize::from(i), ColumnNumber(i), Some(*value)));
        Digester::default().row(b"key", clock, sites, cells)
    }

    #[test]
    fn a_digest_tells_kinds_bits_clocks_and_sites_apart_but_not_local_numbers() {
        let sites = [SiteId([1; 16]), SiteId([2; 16])];
        let row = RowClock::alive(1, clock(5, 0), ColumnSet::first(1));
        let base = digest(&row, &sites, &[ValueRef::Integer(0)]);
        let others = [
            ValueRef::Null,
            ValueRef::Real(0.0),
            ValueRef::Real(-0.0),
            ValueRef::Text(b"0"),
            ValueRef::Blob(b"0"),
            ValueRef::Integer(1),
        ];
        let mut seen = vec![base];
        for other in others {
            seen.push(digest(&row, &sites, &[other]));
        }
        for clock in [clock(6, 0), clock(5, 1)] {
            let row = RowClock::alive(1, clock, ColumnSet::first(1));
            seen.push(digest(&row, &sites, &[ValueRef::Integer(0)]));
        }
        seen.push(digest(&RowClock { life: 3, ..row.clone() }, &sites, &[ValueRef::Integer(0)]));
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        // Another replica knows the site by another number.
        let there = RowClock::alive(1, clock(5, 1), ColumnSet::first(1));
        let swapped = [sites[1], sites[0]];
        assert_eq!(digest(&there, &swapped, &[ValueRef::Integer(0)]), base);
        // Cells without a clock do not count.
        assert_eq!(digest(&row, &sites, &[ValueRef::Integer(0), ValueRef::Text(b"default")]), base);
    }

    #[test]
    fn the_digest_of_a_range_depends_on_rows_and_their_order() {
        let of = |rows: &[u64]| {
            let mut range = RangeDigest::default();
            rows.iter().for_each(|row| range.push(*row));
            range
        };
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[1, 2]), of(&[1, 2, 2]));
    }

    #[test]
    fn a_shape_is_that_of_names_in_any_order_and_case() {
        let column = |name: &str, key_place| ColumnSchema {
            name: name.into(),
            declared_type: String::new(),
            not_null: false,
            key_place,
            collation: String::new(),
            default: None,
        };
        let table = |columns| TableSchema {
            name: "t".into(),
            algorithm: "cls".into(),
            strict: false,
            without_rowid: false,
            columns,
            uniques: Vec::new(),
        };
        let one = table(vec![column("id", 1), column("B", 0), column("a", 0)]);
        let other = table(vec![column("A", 0), column("ID", 1), column("b", 0)]);
        assert_eq!(shape(&one), shape(&other));
        assert_ne!(shape(&one), shape(&table(vec![column("id", 1), column("b", 0)])));
        let order = |table: &TableSchema| {
            column_order(table)
                .iter()
                .map(|at| table.columns[*at].name.to_ascii_lowercase())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&one), order(&other));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
            let _ = Check::decode(&bytes);
            let _ = Checked::decode(&bytes);
        }
    }
}
