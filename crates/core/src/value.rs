//! The five kinds of value that SQLite stores, borrowed and owned.

use alloc::vec::Vec;
use core::cmp::Ordering;

/// A value as it lies in a SQLite column. Text is bytes: SQLite text may hold NUL or invalid UTF-8.
///
/// Equality is by stored bytes, so `1` differs from `1.0`, `0.0` from `-0.0`, and a NaN equals itself.
#[derive(Debug, Clone, Copy)]
pub enum ValueRef<'a> {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Real(f64),
    /// Text in UTF-8, usually.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl ValueRef<'_> {
    /// Owns a copy of the value.
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Integer(integer) => Value::Integer(integer),
            Self::Real(real) => Value::Real(real),
            Self::Text(text) => Value::Text(text.to_vec()),
            Self::Blob(blob) => Value::Blob(blob.to_vec()),
        }
    }

    /// Length of the text or blob in bytes; 8 for numbers, 0 for NULL.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Integer(_) => 1,
            Self::Real(_) => 2,
            Self::Text(_) => 3,
            Self::Blob(_) => 4,
        }
    }

    /// Total order that breaks ties between values under equal clocks (`docs/merge.md`): by kind, then numbers by
    /// their bits in order, text and blobs by their bytes.
    #[must_use]
    pub fn tie_order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialEq for ValueRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.tie_order(other) == Ordering::Equal
    }
}

impl Eq for ValueRef<'_> {}

/// An owned [`ValueRef`].
#[derive(Debug, Clone)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Real(f64),
    /// Text in UTF-8, usually.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Borrows the value.
    #[must_use]
    pub fn borrow(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for Value {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_by_stored_bytes() {
        assert_ne!(ValueRef::Real(0.0), ValueRef::Real(-0.0));
        assert_ne!(ValueRef::Real(1.0), ValueRef::Integer(1));
        assert_ne!(ValueRef::Text(b"a"), ValueRef::Blob(b"a"));
        assert_eq!(ValueRef::Real(f64::NAN), ValueRef::Real(f64::NAN));
    }
}
