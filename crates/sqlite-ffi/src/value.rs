//! SQLite's five kinds of value, borrowed.

use std::ffi::{c_int, c_uchar, c_void};
use std::slice;

use crate::bindings;

/// A value that is bound, read or passed to a function; it borrows its bytes.
///
/// TEXT is bytes, not `str`: SQLite stores whatever it is given, also NUL and invalid UTF-8, and what is synced must
/// come through unchanged. Comparison is Rust's: `Real(0.0) == Real(-0.0)`, and NaN equals nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A double. SQLite has no NaN: bound or returned, it becomes NULL.
    Real(f64),
    /// Text in UTF-8, as far as SQLite guarantees it: not at all.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Gives the integer; `None` for every other kind.
    pub fn as_i64(self) -> Option<i64> {
        match self {
            Value::Integer(integer) => Some(integer),
            Value::Null | Value::Real(_) | Value::Text(_) | Value::Blob(_) => None,
        }
    }

    /// Gives the text; `None` for every other kind and for text that is not UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            Value::Null | Value::Integer(_) | Value::Real(_) | Value::Blob(_) => None,
        }
    }

    /// Gives the bytes of a blob; `None` for every other kind.
    pub fn as_blob(self) -> Option<&'a [u8]> {
        match self {
            Value::Blob(blob) => Some(blob),
            Value::Null | Value::Integer(_) | Value::Real(_) | Value::Text(_) => None,
        }
    }

    /// Tells whether this is NULL.
    pub fn is_null(self) -> bool {
        matches!(self, Value::Null)
    }

    /// Gives SQLite's name of the kind, as `typeof()` does.
    pub fn kind(self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Integer(_) => "integer",
            Value::Real(_) => "real",
            Value::Text(_) => "text",
            Value::Blob(_) => "blob",
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(integer: i64) -> Self {
        Value::Integer(integer)
    }
}

impl From<f64> for Value<'_> {
    fn from(real: f64) -> Self {
        Value::Real(real)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(blob: &'a [u8]) -> Self {
        Value::Blob(blob)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// The accessors of one value, of a row's column or a function's argument, which C spells differently.
pub(crate) trait Source {
    fn kind(&self) -> c_int;
    fn integer(&self) -> i64;
    fn real(&self) -> f64;
    fn text(&self) -> *const c_uchar;
    fn blob(&self) -> *const c_void;
    /// Length in bytes of what `text` or `blob` just gave; called after it, as SQLite asks.
    fn length(&self) -> c_int;
}

/// Reads a value. It is read as the kind it is, so SQLite converts nothing but UTF-16 to UTF-8, and the pointers
/// stay good. If memory runs out over that, the value reads as NULL and SQLite fails the statement.
///
/// # Safety
/// The bytes given by `source` must live, unchanged, for `'a`.
pub(crate) unsafe fn read<'a>(source: &impl Source) -> Value<'a> {
    match source.kind() {
        bindings::SQLITE_INTEGER => Value::Integer(source.integer()),
        bindings::SQLITE_FLOAT => Value::Real(source.real()),
        bindings::SQLITE_TEXT => {
            let start = source.text();
            // SAFETY: SQLite gives as many bytes as it says; the caller promises their lifetime.
            unsafe { bytes(start, source.length()) }.map_or(Value::Null, Value::Text)
        }
        bindings::SQLITE_BLOB => {
            let start = source.blob().cast();
            // SAFETY: as for text.
            unsafe { bytes(start, source.length()) }.map_or(Value::Null, Value::Blob)
        }
        _ => Value::Null,
    }
}

/// Gives the slice; empty for length zero, where SQLite may give no pointer; `None` if memory ran out.
///
/// # Safety
/// `start` is null or points to `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    if length == 0 {
        return Some(&[]);
    }
    if start.is_null() {
        return None;
    }
    // SAFETY: checked for null; the rest is the caller's promise. SQLite's lengths are below 2^31.
    Some(unsafe { slice::from_raw_parts(start, length) })
}
