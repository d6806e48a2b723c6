//! Reading and writing the few primitive encodings that stored and sent bytes are made of.
//!
//! Integers are LEB128 (DWARF 5, section 7.6), signed ones in zigzag form. A [`Reader`] never reads past its end
//! and never panics.

use alloc::vec::Vec;

/// Bytes that do not have the form they should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BytesError {
    /// The bytes end inside a value.
    #[error("the data ends too early")]
    Truncated,
    /// A value is outside its bounds; the text names the value.
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
}

/// Appends `value` as a LEB128 varint of one to ten bytes.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed `value` as a zigzag varint.
pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// Appends `bytes` with its length before it.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Maps signed integers of small magnitude to small unsigned ones.
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Reads primitive values from the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Number of bytes not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True when everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`BytesError::Truncated`] when fewer remain.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], BytesError> {
        if count > self.rest.len() {
            return Err(BytesError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`BytesError::Truncated`] at the end.
    pub fn byte(&mut self) -> Result<u8, BytesError> {
        let (first, rest) = self.rest.split_first().ok_or(BytesError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`BytesError::Truncated`] when fewer remain.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BytesError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next LEB128 varint; encodings longer than needed are refused, so that equal values have equal bytes.
    ///
    /// # Errors
    /// [`BytesError::Truncated`] at the end, [`BytesError::OutOfBounds`] beyond 64 bits or when padded.
    pub fn varint(&mut self) -> Result<u64, BytesError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(BytesError::OutOfBounds("varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(BytesError::OutOfBounds("varint"));
                }
                return Ok(value);
            }
        }
        Err(BytesError::OutOfBounds("varint"))
    }

    /// The next varint, refused when above `max`; `what` names it in the error.
    ///
    /// # Errors
    /// As [`Reader::varint`], and [`BytesError::OutOfBounds`] with `what` above `max`.
    pub fn varint_max(&mut self, max: u64, what: &'static str) -> Result<u64, BytesError> {
        let value = self.varint()?;
        if value > max { Err(BytesError::OutOfBounds(what)) } else { Ok(value) }
    }

    /// The next zigzag varint.
    ///
    /// # Errors
    /// As [`Reader::varint`].
    pub fn zigzag(&mut self) -> Result<i64, BytesError> {
        self.varint().map(unzigzag)
    }

    /// The next length-prefixed bytes, at most `max` long.
    ///
    /// # Errors
    /// As [`Reader::varint_max`], and [`BytesError::Truncated`].
    pub fn bytes(&mut self, max: u64, what: &'static str) -> Result<&'a [u8], BytesError> {
        let length = self.varint_max(max, what)?;
        self.take(usize::try_from(length).map_err(|_| BytesError::OutOfBounds(what))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varint_round_trips(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn zigzag_round_trips(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn padded_and_overlong_varints_are_refused() {
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), Err(BytesError::OutOfBounds("varint")));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(BytesError::OutOfBounds("varint")));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(BytesError::Truncated));
    }
}
