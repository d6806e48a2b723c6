//! Lists of byte strings: keys, texts and blobs. This is the reading side; [`super::string_list`] writes.

use super::ints::Ints;
use super::{PayloadError, malformed, planes};
use alloc::boxed::Box;
use alloc::vec::Vec;
use cloudsync_core::bytes::Reader;
use cloudsync_core::id::uuid_text;
use cloudsync_core::key::{self, KeyCollation};
use cloudsync_core::value::ValueRef;

pub(super) const MODE_PLAIN: u8 = 0;
pub(super) const MODE_CONSTANT: u8 = 1;
pub(super) const MODE_PLANES: u8 = 2;
pub(super) const MODE_UUIDS: u8 = 3;
pub(super) const MODE_DICTIONARY: u8 = 4;
pub(super) const MODE_INTEGER_KEYS: u8 = 5;
pub(super) const MODE_NUMBERED: u8 = 6;

pub(super) const UUID_BYTES: usize = 16;
pub(super) const UUID_TEXT_BYTES: usize = 36;

/// What a list of strings is for, which decides on the forms it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Keys,
    Values,
    /// The entries of a dictionary.
    Entries,
}

/// Number of decimal digits of `number`, which is not negative.
const fn digits_of(number: i64) -> usize {
    match number.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

/// Appends the decimal digits of `number`.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

/// `integer` as a packed key of one part, in `buffer`.
pub(super) fn pack_integer(buffer: &mut Vec<u8>, integer: i64) -> &[u8] {
    buffer.clear();
    // An integer is never NULL nor too long.
    let _ = key::pack_part(buffer, ValueRef::Integer(integer), KeyCollation::Binary, true);
    buffer
}

/// Bytes in the body, or made from it.
#[derive(Debug)]
pub(super) enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl Bytes<'_> {
    #[inline]
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A list of strings that lies in a body; gives any of them at once.
#[derive(Debug)]
pub(super) enum Strings<'a> {
    Constant(&'a [u8]),
    /// Strings of one length, one after the other.
    Fixed {
        width: usize,
        bytes: Bytes<'a>,
    },
    /// `ends[i]` is where string `i` ends.
    Varied {
        ends: Vec<u32>,
        bytes: Bytes<'a>,
    },
    Dictionary {
        entries: Box<Strings<'a>>,
        indexes: Ints<'a>,
    },
}

impl<'a> Strings<'a> {
    /// Reads a list of `count` strings. Takes memory for at most about 9 bytes for each byte read, 13 for each string,
    /// and what it takes from `unfolded_left`: the bytes that may yet come from forms that know no such bound.
    pub(super) fn read(
        reader: &mut Reader<'a>,
        count: usize,
        purpose: Use,
        unfolded_left: &mut usize,
    ) -> Result<Self, PayloadError> {
        if count == 0 {
            return Ok(Self::Constant(&[]));
        }
        match (reader.byte()?, purpose) {
            (MODE_PLAIN, _) => Self::read_plain(reader, count),
            (MODE_CONSTANT, _) => Ok(Self::Constant(reader.bytes(u64::MAX, "string length")?)),
            (MODE_PLANES, _) => {
                let width = reader.varint_max(planes::WIDTH_MAX as u64, "string length")? as usize;
                if width == 0 {
                    return Err(malformed("string length"));
                }
                Ok(Self::Fixed { width, bytes: Bytes::Owned(planes::read(reader, count, width)?) })
            }
            (MODE_UUIDS, Use::Values | Use::Entries) => {
                let uuids = planes::read(reader, count, UUID_BYTES)?;
                let mut texts = Vec::with_capacity(count * UUID_TEXT_BYTES);
                for uuid in uuids.as_chunks::<UUID_BYTES>().0 {
                    texts.extend_from_slice(&uuid_text(uuid));
                }
                Ok(Self::Fixed { width: UUID_TEXT_BYTES, bytes: Bytes::Owned(texts) })
            }
            (MODE_DICTIONARY, Use::Values) => {
                let entries_count = reader.varint_max(count as u64, "dictionary size")? as usize;
                let entries = Box::new(Self::read(reader, entries_count, Use::Entries, unfolded_left)?);
                let indexes = Ints::read(reader, count)?;
                indexes.check(count, 0, entries_count as i64 - 1, "dictionary index")?;
                Ok(Self::Dictionary { entries, indexes })
            }
            (MODE_NUMBERED, _) => Self::read_numbered(reader, count, unfolded_left),
            (MODE_INTEGER_KEYS, Use::Keys) => Self::read_integer_keys(reader, count),
            _ => Err(malformed("string mode")),
        }
    }

    fn read_plain(reader: &mut Reader<'a>, count: usize) -> Result<Self, PayloadError> {
        const WHAT: &str = "string length";
        let lengths = Ints::read(reader, count)?;
        if let Some(width) = lengths.constant() {
            let width = usize::try_from(width).map_err(|_| malformed(WHAT))?;
            let total = width.checked_mul(count).ok_or(malformed(WHAT))?;
            return Ok(Self::Fixed { width, bytes: Bytes::Borrowed(reader.take(total)?) });
        }
        let mut ends = Vec::with_capacity(count);
        let mut end = 0u32;
        for index in 0..count {
            let length = u32::try_from(lengths.get(index)).map_err(|_| malformed(WHAT))?;
            end = end.checked_add(length).ok_or(malformed(WHAT))?;
            ends.push(end);
        }
        Ok(Self::Varied { ends, bytes: Bytes::Borrowed(reader.take(end as usize)?) })
    }

    fn read_integer_keys(reader: &mut Reader<'a>, count: usize) -> Result<Self, PayloadError> {
        let integers = Ints::read(reader, count)?;
        let mut ends = Vec::with_capacity(count);
        let mut bytes = Vec::with_capacity(count * 4);
        let mut packed = Vec::with_capacity(9);
        for index in 0..count {
            bytes.extend_from_slice(pack_integer(&mut packed, integers.get(index)));
            ends.push(bytes.len() as u32);
        }
        Ok(Self::Varied { ends, bytes: Bytes::Owned(bytes) })
    }

    fn read_numbered(
        reader: &mut Reader<'a>,
        count: usize,
        unfolded_left: &mut usize,
    ) -> Result<Self, PayloadError> {
        let prefix = reader.bytes(u64::MAX, "string length")?;
        let suffix = reader.bytes(u64::MAX, "string length")?;
        let numbers = Ints::read(reader, count)?;
        numbers.check(count, 0, i64::MAX, "number in a text")?;
        let digits: usize = (0..count).map(|i| digits_of(numbers.get(i))).sum();
        let around = (prefix.len() + suffix.len()).checked_mul(count);
        let total = around.and_then(|around| around.checked_add(digits));
        let total = total.filter(|total| total <= unfolded_left).ok_or(malformed("size of the texts"))?;
        *unfolded_left -= total;
        let mut ends = Vec::with_capacity(count);
        let mut bytes = Vec::with_capacity(total);
        for index in 0..count {
            bytes.extend_from_slice(prefix);
            put_number(&mut bytes, numbers.get(index) as u64);
            bytes.extend_from_slice(suffix);
            ends.push(bytes.len() as u32);
        }
        Ok(Self::Varied { ends, bytes: Bytes::Owned(bytes) })
    }

    /// The string at `index`, which must be below the count.
    #[inline]
    pub(super) fn get(&self, index: usize) -> &[u8] {
        match self {
            Self::Constant(string) => string,
            Self::Fixed { width, bytes } => &bytes.as_slice()[index * width..][..*width],
            Self::Varied { ends, bytes } => {
                let start = if index == 0 { 0 } else { ends[index - 1] };
                &bytes.as_slice()[start as usize..ends[index] as usize]
            }
            Self::Dictionary { entries, indexes } => entries.get(indexes.get(index) as usize),
        }
    }
}
