//! One stored value, read or written in parts.

use std::ffi::c_int;
use std::fmt;
use std::ptr::{self, NonNull};

use crate::bindings::{self, sqlite3_blob};
use crate::connection::{Connection, c_text};
use crate::error::{Error, Result};

/// The bytes of one TEXT or BLOB of a table with rowids, read and written in parts, so that they are never in memory as
/// a whole. Closed on drop; it holds its transaction open meanwhile, like a statement between two rows.
///
/// TEXT is in the encoding of the database. A write to the row by other means makes all further calls fail with
/// `SQLITE_ABORT`.
pub struct Blob {
    raw: NonNull<sqlite3_blob>,
    connection: Connection,
}

impl Connection {
    /// Opens the value of `column` in the row `rowid` of a table.
    ///
    /// # Errors
    /// `SQLITE_ERROR` if there is no such row, the value is neither text nor a BLOB, or the table has no rowids; when
    /// it is opened for writing also if the column is part of an index or a foreign key. `SQLITE_MISUSE` if a name holds
    /// a NUL.
    pub fn open_blob(
        &self,
        schema: &str,
        table: &str,
        column: &str,
        rowid: i64,
        for_writing: bool,
    ) -> Result<Blob> {
        let (schema, table, column) = (c_text(schema)?, c_text(table)?, c_text(column)?);
        let mut raw: *mut sqlite3_blob = ptr::null_mut();
        // SAFETY: the connection is open, the names are terminated, the output is ours.
        let rc = unsafe {
            call!(
                self.api(),
                blob_open(
                    self.as_ptr(),
                    schema.as_ptr(),
                    table.as_ptr(),
                    column.as_ptr(),
                    rowid,
                    c_int::from(for_writing),
                    &mut raw
                )
            )
        };
        self.check(rc)?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::new(bindings::SQLITE_NOMEM, "out of memory"))?;
        Ok(Blob { raw, connection: *self })
    }
}

impl Blob {
    /// Gives the number of bytes, which never changes.
    pub fn size(&self) -> usize {
        // SAFETY: the handle is open.
        let bytes = unsafe { call!(self.connection.api(), blob_bytes(self.raw.as_ptr())) };
        usize::try_from(bytes).unwrap_or(0)
    }

    /// Fills the buffer with the bytes from `offset` on.
    ///
    /// # Errors
    /// `SQLITE_ERROR` if the value ends before the buffer is full; SQLite's own.
    pub fn read(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        let (count, offset) = (int(buffer.len())?, int(offset)?);
        // SAFETY: the handle is open, and SQLite writes `count` bytes, the length of the buffer.
        let rc = unsafe {
            let start = buffer.as_mut_ptr().cast();
            call!(self.connection.api(), blob_read(self.raw.as_ptr(), start, count, offset))
        };
        self.connection.check(rc)
    }

    /// Writes bytes in the place of those from `offset` on.
    ///
    /// # Errors
    /// `SQLITE_ERROR` if the value ends before; `SQLITE_READONLY` if it was not opened for writing; SQLite's own.
    pub fn write(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        let (count, offset) = (int(bytes.len())?, int(offset)?);
        // SAFETY: the handle is open, and SQLite reads `count` bytes, the length of the slice.
        let rc = unsafe {
            let start = bytes.as_ptr().cast();
            call!(self.connection.api(), blob_write(self.raw.as_ptr(), start, count, offset))
        };
        self.connection.check(rc)
    }
}

fn int(number: usize) -> Result<c_int> {
    c_int::try_from(number).map_err(|_| Error::new(bindings::SQLITE_TOOBIG, "beyond the largest value"))
}

impl Drop for Blob {
    fn drop(&mut self) {
        // SAFETY: the handle is open and ours. It is closed whatever the result, which repeats an error that was told.
        unsafe { call!(self.connection.api(), blob_close(self.raw.as_ptr())) };
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Blob").field(&self.raw).finish()
    }
}
