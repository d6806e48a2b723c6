//! What SQLite answers when it refuses.

use std::ffi::c_int;

use crate::bindings;

/// The result of a call into SQLite.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: SQLite's extended result code and its message, both read right after the failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLite result code {code})")]
pub struct Error {
    /// The extended result code, for example 2067 (`SQLITE_CONSTRAINT_UNIQUE`).
    pub code: i32,
    /// SQLite's words, for example `UNIQUE constraint failed: t.a`.
    pub message: String,
}

impl Error {
    /// Makes an error of this layer's or the caller's own, with a result code from [`bindings`].
    pub fn new(code: i32, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// Gives the primary result code: the lowest eight bits, for example 19 (`SQLITE_CONSTRAINT`).
    pub fn primary_code(&self) -> i32 {
        self.code & 0xff
    }

    /// Tells whether another connection is in the way (`SQLITE_BUSY`, `SQLITE_LOCKED`), so that retrying may help.
    pub fn is_busy(&self) -> bool {
        matches!(self.primary_code(), bindings::SQLITE_BUSY | bindings::SQLITE_LOCKED)
    }

    /// Tells whether a constraint of the schema was violated, or a trigger raised an error.
    pub fn is_constraint(&self) -> bool {
        self.primary_code() == bindings::SQLITE_CONSTRAINT
    }

    /// Tells whether the values that were to be written made the statement fail: a constraint, or an expression of the
    /// schema that cannot be computed from them (`malformed JSON` in a CHECK, `integer overflow` in a trigger). Other
    /// values may succeed. Only of a failed step: a statement that cannot be prepared fails with every value.
    pub fn is_of_values(&self) -> bool {
        use bindings::{SQLITE_CONSTRAINT, SQLITE_ERROR, SQLITE_MISMATCH, SQLITE_TOOBIG};
        matches!(self.primary_code(), SQLITE_CONSTRAINT | SQLITE_ERROR | SQLITE_MISMATCH | SQLITE_TOOBIG)
    }

    /// Tells whether the statement was stopped by `sqlite3_interrupt` or a progress handler.
    pub fn is_interrupt(&self) -> bool {
        self.primary_code() == bindings::SQLITE_INTERRUPT
    }

    /// Tells whether the database cannot be written through this connection.
    pub fn is_readonly(&self) -> bool {
        self.primary_code() == bindings::SQLITE_READONLY
    }

    /// Tells whether the file is damaged or no database.
    pub fn is_corrupt(&self) -> bool {
        matches!(self.primary_code(), bindings::SQLITE_CORRUPT | bindings::SQLITE_NOTADB)
    }

    /// Tells whether the disk is full or failed (`SQLITE_FULL`, `SQLITE_IOERR`).
    pub fn is_disk(&self) -> bool {
        matches!(self.primary_code(), bindings::SQLITE_FULL | bindings::SQLITE_IOERR)
    }
}

pub(crate) fn misuse(message: impl Into<String>) -> Error {
    Error::new(bindings::SQLITE_MISUSE, message)
}

/// Gives a 32-bit C index or length, or an error that names what is out of range.
pub(crate) fn c_index(index: usize, what: &str) -> Result<c_int> {
    c_int::try_from(index)
        .map_err(|_| Error::new(bindings::SQLITE_RANGE, format!("{what} {index} is out of range")))
}
