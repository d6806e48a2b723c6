//! Columns of values: what is NULL, what kind the others are, and each kind in its own form.

use super::ints::{self, Ints};
use super::pieces::Reference;
use super::string_list::StringList;
use super::strings::{Strings, Use};
use super::{PayloadError, malformed};
use alloc::boxed::Box;
use alloc::vec::Vec;
use cloudsync_core::bytes::Reader;
use cloudsync_core::value::ValueRef;

const KIND_NULL: u8 = 0;
const KIND_INTEGER: u8 = 1;
const KIND_REAL: u8 = 2;
const KIND_TEXT: u8 = 3;
const KIND_BLOB: u8 = 4;
/// In mixed columns only.
const KIND_REFERENCE: u8 = 5;
/// Added to a kind: some rows are NULL.
const MODE_NULLS: u8 = 4;
const MODE_MIXED: u8 = 9;

const REALS_BITS: u8 = 0;
const REALS_DECIMAL: u8 = 1;
/// Exact as `f64`, so that a division by them is rounded once.
const POWERS_OF_TEN: [f64; 10] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Integers up to this magnitude are exact as `f64`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The values of one column being gathered, each kind apart.
#[derive(Debug, Default)]
pub(super) struct ColumnList {
    kinds: Vec<u8>,
    integers: Vec<i64>,
    reals: Vec<f64>,
    texts: StringList,
    blobs: StringList,
    references: StringList,
}

impl ColumnList {
    pub(super) fn push(&mut self, value: ValueRef<'_>) {
        self.kinds.push(match value {
            ValueRef::Null => KIND_NULL,
            ValueRef::Integer(integer) => {
                self.integers.push(integer);
                KIND_INTEGER
            }
            ValueRef::Real(real) => {
                self.reals.push(real);
                KIND_REAL
            }
            ValueRef::Text(text) => {
                self.texts.push(text);
                KIND_TEXT
            }
            ValueRef::Blob(blob) => {
                self.blobs.push(blob);
                KIND_BLOB
            }
        });
    }

    /// Puts a reference in the place of the last value, a NULL.
    pub(super) fn refer(&mut self, reference: &Reference) {
        let last = self.kinds.last_mut().filter(|kind| **kind == KIND_NULL);
        let Some(kind) = last else { panic!("a reference takes the place of a value that is not NULL") };
        *kind = KIND_REFERENCE;
        let mut bytes = Vec::with_capacity(32);
        reference.put(&mut bytes);
        self.references.push(&bytes);
    }

    /// Takes the last value back.
    pub(super) fn pop(&mut self) {
        match self.kinds.pop() {
            Some(KIND_INTEGER) => drop(self.integers.pop()),
            Some(KIND_REAL) => drop(self.reals.pop()),
            Some(KIND_TEXT) => self.texts.pop(),
            Some(KIND_BLOB) => self.blobs.pop(),
            Some(KIND_REFERENCE) => self.references.pop(),
            _ => {}
        }
    }

    /// Appends the column; the reader must know its number of rows.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let counts = [self.integers.len(), self.reals.len(), self.texts.len(), self.blobs.len()];
        let mut kinds = (KIND_INTEGER..).zip(counts).filter(|(_, count)| *count > 0);
        match (kinds.next(), kinds.next()) {
            _ if !self.references.is_empty() => {
                out.push(MODE_MIXED);
                out.extend_from_slice(&self.kinds);
            }
            (None, _) => out.push(KIND_NULL),
            (Some((kind, count)), None) if count == self.kinds.len() => out.push(kind),
            (Some((kind, _)), None) => {
                out.push(kind + MODE_NULLS);
                for rows in self.kinds.chunks(8) {
                    let bit = |(i, kind): (usize, &u8)| u8::from(*kind == KIND_NULL) << i;
                    out.push(rows.iter().enumerate().map(bit).fold(0, |byte, bit| byte | bit));
                }
            }
            (Some(_), Some(_)) => {
                out.push(MODE_MIXED);
                out.extend_from_slice(&self.kinds);
            }
        }
        ints::put(out, &self.integers);
        put_reals(out, &self.reals);
        self.texts.put(out, Use::Values);
        self.blobs.put(out, Use::Values);
        self.references.put(out, Use::Values);
    }
}

fn put_reals(out: &mut Vec<u8>, reals: &[f64]) {
    if reals.is_empty() {
        return;
    }
    if let Some((exponent, integers)) = decimals(reals) {
        out.extend_from_slice(&[REALS_DECIMAL, exponent]);
        ints::put(out, &integers);
    } else {
        out.push(REALS_BITS);
        let bits: Vec<_> = reals.iter().map(|real| real.to_bits() as i64).collect();
        ints::put(out, &bits);
    }
}

/// The exponent and the integers that give all of `reals` bit for bit as `integer / 10^exponent`.
fn decimals(reals: &[f64]) -> Option<(u8, Vec<i64>)> {
    // What is a decimal of few places is one of more places too, so the largest need is found in one pass.
    let mut exponent = 0;
    for &real in reals {
        while decimal(real, POWERS_OF_TEN[exponent]).is_none() {
            exponent += 1;
            if exponent == POWERS_OF_TEN.len() {
                return None;
            }
        }
    }
    let power = POWERS_OF_TEN[exponent];
    let integers: Option<Vec<_>> = reals.iter().map(|real| decimal(*real, power)).collect();
    Some((exponent as u8, integers?))
}

fn decimal(real: f64, power: f64) -> Option<i64> {
    let scaled = real * power;
    if scaled.is_nan() || scaled.abs() > EXACT_MAX {
        return None;
    }
    let integer = if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 } as i64;
    ((integer as f64 / power).to_bits() == real.to_bits()).then_some(integer)
}

/// Values of the kind real.
#[derive(Debug)]
pub(super) enum Reals<'a> {
    Bits(Ints<'a>),
    Decimal { power: f64, integers: Ints<'a> },
}

impl<'a> Reals<'a> {
    fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self, PayloadError> {
        if count == 0 {
            return Ok(Self::Bits(Ints::read(reader, 0)?));
        }
        match reader.byte()? {
            REALS_BITS => Ok(Self::Bits(Ints::read(reader, count)?)),
            REALS_DECIMAL => {
                let power = POWERS_OF_TEN.get(usize::from(reader.byte()?));
                let power = *power.ok_or(malformed("decimal exponent"))?;
                Ok(Self::Decimal { power, integers: Ints::read(reader, count)? })
            }
            _ => Err(malformed("real mode")),
        }
    }

    #[inline]
    fn get(&self, index: usize) -> f64 {
        match self {
            Self::Bits(bits) => f64::from_bits(bits.get(index) as u64),
            Self::Decimal { power, integers } => integers.get(index) as f64 / power,
        }
    }
}

/// Values of one kind.
#[derive(Debug)]
pub(super) enum Stream<'a> {
    Integers(Ints<'a>),
    Reals(Reals<'a>),
    Texts(Strings<'a>),
    Blobs(Strings<'a>),
}

impl<'a> Stream<'a> {
    fn read(
        reader: &mut Reader<'a>,
        kind: u8,
        count: usize,
        unfolded_left: &mut usize,
    ) -> Result<Self, PayloadError> {
        match kind {
            KIND_INTEGER => Ints::read(reader, count).map(Self::Integers),
            KIND_REAL => Reals::read(reader, count).map(Self::Reals),
            KIND_TEXT => Strings::read(reader, count, Use::Values, unfolded_left).map(Self::Texts),
            _ => Strings::read(reader, count, Use::Values, unfolded_left).map(Self::Blobs),
        }
    }

    #[inline]
    fn get(&self, index: usize) -> ValueRef<'_> {
        match self {
            Self::Integers(integers) => ValueRef::Integer(integers.get(index)),
            Self::Reals(reals) => ValueRef::Real(reals.get(index)),
            Self::Texts(texts) => ValueRef::Text(texts.get(index)),
            Self::Blobs(blobs) => ValueRef::Blob(blobs.get(index)),
        }
    }
}

/// A column of values that lies in a body; gives any of them at once.
#[derive(Debug)]
pub(super) enum Column<'a> {
    Null,
    One(Stream<'a>),
    /// A set bit is a NULL; `ranks` counts the other values before each 64 rows.
    Nulls {
        bitmap: &'a [u8],
        ranks: Vec<u32>,
        stream: Stream<'a>,
    },
    /// `ranks` is each value's index among those of its kind.
    Mixed {
        kinds: &'a [u8],
        ranks: Vec<u32>,
        streams: Box<[Stream<'a>; 4]>,
        /// `None` without any.
        references: Option<Strings<'a>>,
    },
}

impl<'a> Column<'a> {
    /// Reads a column of `rows` rows, at least one; `unfolded_left` as in [`Strings::read`].
    pub(super) fn read(
        reader: &mut Reader<'a>,
        rows: usize,
        unfolded_left: &mut usize,
    ) -> Result<Self, PayloadError> {
        match reader.byte()? {
            KIND_NULL => Ok(Self::Null),
            kind @ KIND_INTEGER..=KIND_BLOB => {
                Ok(Self::One(Stream::read(reader, kind, rows, unfolded_left)?))
            }
            mode if mode < MODE_MIXED => Self::read_nulls(reader, rows, mode - MODE_NULLS, unfolded_left),
            MODE_MIXED => Self::read_mixed(reader, rows, unfolded_left),
            _ => Err(malformed("column mode")),
        }
    }

    fn read_nulls(
        reader: &mut Reader<'a>,
        rows: usize,
        kind: u8,
        unfolded_left: &mut usize,
    ) -> Result<Self, PayloadError> {
        let bitmap = reader.take(rows.div_ceil(8))?;
        let mut values = 0;
        let mut ranks = Vec::with_capacity(bitmap.len().div_ceil(8));
        for (block, bytes) in bitmap.chunks(8).enumerate() {
            ranks.push(values);
            let nulls: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
            let rows_here = (rows - block * 64).min(64) as u32;
            values += rows_here.checked_sub(nulls).ok_or(malformed("NULL bitmap"))?;
        }
        let padding_ok = rows.is_multiple_of(8) || bitmap.last().is_none_or(|last| last >> (rows % 8) == 0);
        if !padding_ok || values == 0 {
            return Err(malformed("NULL bitmap"));
        }
        let stream = Stream::read(reader, kind, values as usize, unfolded_left)?;
        Ok(Self::Nulls { bitmap, ranks, stream })
    }

    fn read_mixed(
        reader: &mut Reader<'a>,
        rows: usize,
        unfolded_left: &mut usize,
    ) -> Result<Self, PayloadError> {
        let kinds = reader.take(rows)?;
        let mut counts = [0u32; 6];
        let mut ranks = Vec::with_capacity(rows);
        for kind in kinds {
            let count = counts.get_mut(usize::from(*kind)).ok_or(malformed("value kind"))?;
            ranks.push(*count);
            *count += 1;
        }
        let [_, integers, reals, texts, blobs, references] = counts;
        let mut stream = |kind, count: u32| Stream::read(reader, kind, count as usize, unfolded_left);
        let streams = [
            stream(KIND_INTEGER, integers)?,
            stream(KIND_REAL, reals)?,
            stream(KIND_TEXT, texts)?,
            stream(KIND_BLOB, blobs)?,
        ];
        let list = Strings::read(reader, references as usize, Use::Values, unfolded_left)?;
        (0..references as usize).try_for_each(|at| Reference::read(list.get(at)).map(drop))?;
        let references = (references > 0).then_some(list);
        Ok(Self::Mixed { kinds, ranks, streams: Box::new(streams), references })
    }

    /// The value in `row`, which must be below the number of rows.
    #[inline]
    pub(super) fn get(&self, row: usize) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::One(stream) => stream.get(row),
            Self::Nulls { bitmap, ranks, stream } => {
                if bitmap[row / 8] >> (row % 8) & 1 == 1 {
                    return ValueRef::Null;
                }
                let block = row / 64;
                let before = &bitmap[block * 8..row / 8];
                let nulls: u32 = before.iter().map(|byte| byte.count_ones()).sum();
                let nulls = nulls + (bitmap[row / 8] & ((1 << (row % 8)) - 1)).count_ones();
                stream.get((ranks[block] + (row % 64) as u32 - nulls) as usize)
            }
            Self::Mixed { kinds, ranks, streams, .. } => match kinds[row] {
                KIND_NULL | KIND_REFERENCE => ValueRef::Null,
                kind => streams[usize::from(kind) - 1].get(ranks[row] as usize),
            },
        }
    }

    /// The reference in the place of the value in `row`, if there is one.
    pub(super) fn reference(&self, row: usize) -> Option<Reference> {
        match self {
            Self::Mixed { kinds, ranks, references: Some(references), .. }
                if kinds[row] == KIND_REFERENCE =>
            {
                Reference::read(references.get(ranks[row] as usize)).ok()
            }
            _ => None,
        }
    }

    /// True when there is a reference in any row.
    pub(super) const fn has_references(&self) -> bool {
        matches!(self, Self::Mixed { references: Some(_), .. })
    }
}
