//! Packed keys: the primary key of a row as one byte string.
//!
//! Two key values that SQLite calls equal pack to equal bytes (`1` and `1.0`, `'Ab'` and `'ab'` under NOCASE), so a
//! packed key identifies a row on every replica. Where that loses the literal value, the key column also travels
//! as a cell. Each part is a tag byte and its content:
//!
//! | tag | content |
//! | --- | --- |
//! | `0x08..=0x18` | integer: `0x10` is zero, further tags count the bytes of the magnitude; ordered like the integers |
//! | `0x20` | real that is no integer: 8 bytes, big-endian |
//! | `0x30` | text that is a canonical lower-case UUID: 16 bytes |
//! | `0x31` / `0x41` | the last part, text / blob: the bytes up to the end |
//! | `0x32` / `0x42` | an earlier part, text / blob: length varint, bytes |
//!
//! Integers keep their order so that a table keyed by integers is written from left to right.

use crate::bytes::{BytesError, Reader, put_bytes};
use crate::id::{uuid_parse, uuid_text};
use crate::value::{Value, ValueRef};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// Longest packed key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// Most columns in a key.
pub const KEY_COLUMNS_MAX: usize = 64;

const TAG_ZERO: u8 = 0x10;
const TAG_REAL: u8 = 0x20;
const TAG_UUID: u8 = 0x30;
const TAG_TEXT_LAST: u8 = 0x31;
const TAG_TEXT: u8 = 0x32;
const TAG_BLOB_LAST: u8 = 0x41;
const TAG_BLOB: u8 = 0x42;

/// How SQLite compares the text of a key column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCollation {
    /// By bytes.
    Binary,
    /// ASCII letters without case.
    NoCase,
    /// Without trailing spaces.
    RTrim,
}

/// A key that cannot be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A part is NULL, or NaN, which SQLite stores as NULL; such a row has no identity that other replicas could share.
    #[error("the primary key contains NULL")]
    Null,
    /// The key is longer than [`KEY_BYTES_MAX`] bytes.
    #[error("the primary key is longer than {KEY_BYTES_MAX} bytes")]
    TooLong,
}

/// Appends one key part to `out`; `last` says that no further part follows.
///
/// # Errors
/// [`KeyError::Null`] for NULL, [`KeyError::TooLong`] when `out` grows beyond [`KEY_BYTES_MAX`].
pub fn pack_part(
    out: &mut Vec<u8>,
    value: ValueRef<'_>,
    collation: KeyCollation,
    last: bool,
) -> Result<(), KeyError> {
    match value {
        ValueRef::Null => return Err(KeyError::Null),
        ValueRef::Real(real) if real.is_nan() => return Err(KeyError::Null),
        ValueRef::Integer(integer) => pack_integer(out, integer),
        ValueRef::Real(real) => match integral(real) {
            Some(integer) => pack_integer(out, integer),
            None => {
                out.push(TAG_REAL);
                out.extend_from_slice(&real.to_bits().to_be_bytes());
            }
        },
        ValueRef::Text(text) => {
            let text = normal_text(text, collation);
            if let Some(uuid) = uuid_parse(&text) {
                out.push(TAG_UUID);
                out.extend_from_slice(&uuid);
            } else {
                pack_bytes(out, &text, last, TAG_TEXT_LAST, TAG_TEXT);
            }
        }
        ValueRef::Blob(blob) => pack_bytes(out, blob, last, TAG_BLOB_LAST, TAG_BLOB),
    }
    if out.len() > KEY_BYTES_MAX { Err(KeyError::TooLong) } else { Ok(()) }
}

fn pack_bytes(out: &mut Vec<u8>, bytes: &[u8], last: bool, tag_last: u8, tag: u8) {
    if last {
        out.push(tag_last);
        out.extend_from_slice(bytes);
    } else {
        out.push(tag);
        put_bytes(out, bytes);
    }
}

/// An integer's magnitude has 0 to 8 bytes, and -9223372036854775808 has the magnitude of its complement, so tags
/// span `0x08..=0x18`. Complementing negative magnitudes makes byte order equal integer order.
fn pack_integer(out: &mut Vec<u8>, integer: i64) {
    let magnitude = if integer < 0 { !integer as u64 } else { integer as u64 };
    let length = 8 - magnitude.leading_zeros() as usize / 8;
    // -1 has the magnitude 0 and still needs a tag of its own, so negatives count one byte at least.
    let length = if integer < 0 { length.max(1) } else { length };
    let bytes = if integer < 0 { !magnitude } else { magnitude }.to_be_bytes();
    out.push(if integer < 0 { TAG_ZERO - length as u8 } else { TAG_ZERO + length as u8 });
    out.extend_from_slice(&bytes[8 - length..]);
}

fn unpack_integer(tag: u8, reader: &mut Reader<'_>) -> Result<i64, BytesError> {
    let negative = tag < TAG_ZERO;
    let length = usize::from(if negative { TAG_ZERO - tag } else { tag - TAG_ZERO });
    let mut bytes = if negative { [0xff; 8] } else { [0; 8] };
    bytes[8 - length..].copy_from_slice(reader.take(length)?);
    Ok(i64::from_be_bytes(bytes))
}

/// The integer that SQLite holds equal to `real`, if there is one.
fn integral(real: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let integer = real as i64;
    ((-LIMIT..LIMIT).contains(&real) && integer as f64 == real).then_some(integer)
}

fn normal_text(text: &[u8], collation: KeyCollation) -> Cow<'_, [u8]> {
    match collation {
        KeyCollation::Binary => Cow::Borrowed(text),
        KeyCollation::NoCase => Cow::Owned(text.to_ascii_lowercase()),
        KeyCollation::RTrim => {
            let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
            Cow::Borrowed(&text[..end])
        }
    }
}

/// One part of a packed key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KeyPart<'a> {
    /// An integer, or a real without a fraction.
    Integer(i64),
    /// A real with a fraction.
    Real(f64),
    /// The 16 bytes of a UUID that is stored as canonical text.
    Uuid([u8; 16]),
    /// Text in the normal form of its collation.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl<'a> KeyPart<'a> {
    /// The value, with `buffer` as the place for the text of a UUID.
    pub fn value<'b>(&self, buffer: &'b mut [u8; 36]) -> ValueRef<'b>
    where
        'a: 'b,
    {
        match *self {
            Self::Integer(integer) => ValueRef::Integer(integer),
            Self::Real(real) => ValueRef::Real(real),
            Self::Uuid(uuid) => {
                *buffer = uuid_text(&uuid);
                ValueRef::Text(buffer)
            }
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }
    }

    /// The value, owned.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.value(&mut [0; 36]).to_value()
    }
}

/// The parts of a packed key, in order of the key's columns.
#[derive(Debug, Clone)]
pub struct KeyParts<'a> {
    reader: Reader<'a>,
}

/// Opens a packed key. Any bytes give parts or an error.
#[must_use]
pub const fn unpack(packed: &[u8]) -> KeyParts<'_> {
    KeyParts { reader: Reader::new(packed) }
}

impl<'a> Iterator for KeyParts<'a> {
    type Item = Result<KeyPart<'a>, BytesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(part)
    }
}

impl<'a> KeyParts<'a> {
    fn part(&mut self) -> Result<KeyPart<'a>, BytesError> {
        let reader = &mut self.reader;
        let bytes_max = KEY_BYTES_MAX as u64;
        match reader.byte()? {
            tag @ 0x08..=0x18 => unpack_integer(tag, reader).map(KeyPart::Integer),
            TAG_REAL => Ok(KeyPart::Real(f64::from_bits(u64::from_be_bytes(reader.array()?)))),
            TAG_UUID => reader.array().map(KeyPart::Uuid),
            TAG_TEXT_LAST => reader.take(reader.remaining()).map(KeyPart::Text),
            TAG_TEXT => reader.bytes(bytes_max, "key text").map(KeyPart::Text),
            TAG_BLOB_LAST => reader.take(reader.remaining()).map(KeyPart::Blob),
            TAG_BLOB => reader.bytes(bytes_max, "key blob").map(KeyPart::Blob),
            _ => Err(BytesError::OutOfBounds("key tag")),
        }
    }
}

/// Checks that `packed` is what [`pack_part`] makes of a key with `columns` parts, of which each has the collation
/// that `collation` gives for its place.
///
/// # Errors
/// [`BytesError`] when it is not: another number of parts, a form that is not the normal one, or damage.
pub fn check(
    packed: &[u8],
    columns: usize,
    collation: impl Fn(usize) -> KeyCollation,
) -> Result<(), BytesError> {
    let mut count = 0;
    let mut again = Vec::with_capacity(packed.len());
    for part in unpack(packed) {
        count += 1;
        if count > columns {
            return Err(BytesError::OutOfBounds("key"));
        }
        let mut buffer = [0; 36];
        pack_part(&mut again, part?.value(&mut buffer), collation(count - 1), count == columns)
            .map_err(|_| BytesError::OutOfBounds("key"))?;
    }
    if count == columns && again == packed { Ok(()) } else { Err(BytesError::OutOfBounds("key")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn pack(values: &[ValueRef<'_>], collation: KeyCollation) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, value) in values.iter().enumerate() {
            pack_part(&mut out, *value, collation, i + 1 == values.len()).unwrap();
        }
        out
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is NULL in SQLite", |r| !r.is_nan()).prop_map(Value::Real),
            any::<Vec<u8>>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
            any::<[u8; 16]>().prop_map(|uuid| Value::Text(uuid_text(&uuid).to_vec())),
        ]
    }

    proptest! {
        #[test]
        fn round_trips_up_to_sqlite_equality(values in prop::collection::vec(any_value(), 1..4)) {
            let refs: Vec<_> = values.iter().map(Value::borrow).collect();
            let packed = pack(&refs, KeyCollation::Binary);
            check(&packed, values.len(), |_| KeyCollation::Binary).unwrap();
            for (value, part) in values.iter().zip(unpack(&packed)) {
                let part = part.unwrap().to_value();
                match (value, &part) {
                    (Value::Real(a), Value::Integer(b)) => prop_assert_eq!(*a, *b as f64),
                    _ => prop_assert_eq!(value, &part),
                }
            }
        }

        #[test]
        fn integers_keep_their_order(a: i64, b: i64) {
            let pack = |i| pack(&[ValueRef::Integer(i)], KeyCollation::Binary);
            prop_assert_eq!(pack(a).cmp(&pack(b)), a.cmp(&b));
        }

        #[test]
        fn any_bytes_open_or_fail(bytes: Vec<u8>) {
            let _ = unpack(&bytes).count();
            let _ = check(&bytes, 2, |_| KeyCollation::NoCase);
        }
    }

    #[test]
    fn values_that_sqlite_calls_equal_pack_alike() {
        let binary = |value| pack(&[value], KeyCollation::Binary);
        assert_eq!(binary(ValueRef::Real(1.0)), binary(ValueRef::Integer(1)));
        assert_eq!(binary(ValueRef::Real(-0.0)), binary(ValueRef::Integer(0)));
        assert_ne!(binary(ValueRef::Real(1.5)), binary(ValueRef::Integer(1)));
        assert_ne!(binary(ValueRef::Text(b"a")), binary(ValueRef::Blob(b"a")));
        let no_case = |text| pack(&[ValueRef::Text(text)], KeyCollation::NoCase);
        assert_eq!(no_case(b"Ab"), no_case(b"aB"));
        assert!(check(&binary(ValueRef::Text(b"Ab")), 1, |_| KeyCollation::NoCase).is_err());
        let trimmed = |text| pack(&[ValueRef::Text(text)], KeyCollation::RTrim);
        assert_eq!(trimmed(b"a  "), trimmed(b"a"));
        assert_eq!(trimmed(b"   "), trimmed(b""));
    }

    #[test]
    fn a_key_of_a_peer_cannot_be_null_in_disguise() {
        let nan = [&[TAG_REAL][..], &f64::NAN.to_bits().to_be_bytes()].concat();
        assert!(check(&nan, 1, |_| KeyCollation::Binary).is_err());
        let half = [&[TAG_REAL][..], &0.5f64.to_bits().to_be_bytes()].concat();
        assert_eq!(check(&half, 1, |_| KeyCollation::Binary), Ok(()));
    }

    #[test]
    fn null_and_endless_keys_are_refused() {
        let mut out = vec![];
        for null in [ValueRef::Null, ValueRef::Real(f64::NAN)] {
            assert_eq!(pack_part(&mut out, null, KeyCollation::Binary, true), Err(KeyError::Null));
        }
        let long = vec![0; KEY_BYTES_MAX];
        assert_eq!(
            pack_part(&mut out, ValueRef::Blob(&long), KeyCollation::Binary, true),
            Err(KeyError::TooLong)
        );
    }
}
