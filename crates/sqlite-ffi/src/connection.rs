//! A database connection of the host.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::fmt;
use std::ptr::{self, NonNull};

use crate::api::Api;
use crate::bindings::{self, sqlite3, sqlite3_stmt};
use crate::error::{Error, Result, misuse};
use crate::shelf;
use crate::statement::Statement;
use crate::value::Value;

/// An open connection that belongs to the host: a pointer and the API of its library. Dropping it closes nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    raw: NonNull<sqlite3>,
    api: Api,
}

impl Connection {
    /// Wraps a connection, or gives `None` if the pointer is null.
    ///
    /// The same-named pointer of another crate fits by `.cast()`, for example `conn.handle().cast()` of rusqlite.
    ///
    /// # Safety
    /// `db` is an open connection of the library that `api` came from. While it, any copy of it, or anything made
    /// from it (statements, guards, what registered functions captured) is used, the connection stays open, and only
    /// one thread at a time uses it.
    pub unsafe fn from_raw(db: *mut sqlite3, api: Api) -> Option<Connection> {
        NonNull::new(db).map(|raw| Connection { raw, api })
    }

    /// Gives the API of the library that this connection belongs to.
    pub fn api(self) -> Api {
        self.api
    }

    /// Gives the pointer, for identity or for another layer over the same library.
    pub fn as_ptr(self) -> *mut sqlite3 {
        self.raw.as_ptr()
    }

    /// Compiles one statement, or takes it from the open [`Shelf`](crate::Shelf) of this connection.
    ///
    /// # Errors
    /// SQLite's own; `SQLITE_MISUSE` if the text holds no statement, more than one, or a NUL.
    pub fn prepare(&self, sql: &str) -> Result<Statement> {
        self.prepare_or_take(sql, 0)
    }

    /// Like [`Connection::prepare`], for a statement that is run many times: SQLite then takes its memory from the
    /// heap, and not from the connection's small store of quick blocks, which each run needs.
    ///
    /// # Errors
    /// As [`Connection::prepare`].
    pub fn prepare_persistent(&self, sql: &str) -> Result<Statement> {
        self.prepare_or_take(sql, bindings::SQLITE_PREPARE_PERSISTENT)
    }

    fn prepare_or_take(&self, sql: &str, flags: c_uint) -> Result<Statement> {
        if !shelf::can_keep(*self, sql) {
            return self.prepare_only(sql, flags);
        }
        let prepare = || self.prepare_only(sql, bindings::SQLITE_PREPARE_PERSISTENT);
        Ok(shelf::take(*self, sql).map_or_else(prepare, Ok)?.kept_as(sql))
    }

    /// Runs any number of statements and drops the rows they give. Stops at the first failure; what ran before it
    /// stays done, unless a transaction takes it back.
    ///
    /// # Errors
    /// SQLite's own; `SQLITE_MISUSE` if the text holds a NUL.
    pub fn execute(&self, sql: &str) -> Result<()> {
        let mut rest = sql;
        while !rest.is_empty() {
            let (statement, tail) = self.prepare_next(rest, 0)?;
            if let Some(mut statement) = statement {
                statement.run(&[])?;
            }
            rest = tail;
        }
        Ok(())
    }

    /// Runs one statement and reads its first row with `read`; `None` if there is no row. See
    /// [`Statement::query_row`].
    ///
    /// # Errors
    /// SQLite's own, and what `read` gives.
    pub fn query_row<T, E: From<Error>>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnOnce(&Statement) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.prepare(sql)?.query_row(values, read)
    }

    /// Gives the first column of the first row, converted to an integer by SQLite's rules; `None` if there is no row
    /// or it is NULL.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn query_i64(&self, sql: &str, values: &[Value<'_>]) -> Result<Option<i64>> {
        let found: Option<Option<i64>> = self.query_row::<_, Error>(sql, values, |row| {
            Ok((!row.column(0).is_null()).then(|| row.column_i64(0)))
        })?;
        Ok(found.flatten())
    }

    /// Gives the first column of the first row; `None` if there is no row or it is NULL.
    ///
    /// # Errors
    /// SQLite's own; `SQLITE_MISMATCH` if the value is not text in UTF-8.
    pub fn query_text(&self, sql: &str, values: &[Value<'_>]) -> Result<Option<String>> {
        let found: Option<Option<String>> = self.query_row(sql, values, |row| match row.column(0) {
            Value::Null => Ok(None),
            value => match value.as_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(mismatch("text in UTF-8", value)),
            },
        })?;
        Ok(found.flatten())
    }

    /// Gives the first column of the first row, the bytes of a BLOB or TEXT; `None` if there is no row or it is NULL.
    ///
    /// # Errors
    /// SQLite's own; `SQLITE_MISMATCH` if the value is a number.
    pub fn query_blob(&self, sql: &str, values: &[Value<'_>]) -> Result<Option<Vec<u8>>> {
        let found: Option<Option<Vec<u8>>> = self.query_row(sql, values, |row| match row.column(0) {
            Value::Null => Ok(None),
            Value::Blob(bytes) | Value::Text(bytes) => Ok(Some(bytes.to_vec())),
            value @ (Value::Integer(_) | Value::Real(_)) => Err(mismatch("a blob", value)),
        })?;
        Ok(found.flatten())
    }

    /// Stops what this connection runs, at the next opportunity; it then fails with `SQLITE_INTERRUPT`.
    pub fn interrupt(&self) {
        // SAFETY: the connection is open.
        unsafe { call!(self.api, interruptx(self.as_ptr())) }
    }

    /// See [`Api::randomness`].
    pub fn randomness(&self, buffer: &mut [u8]) {
        self.api.randomness(buffer);
    }

    /// See [`Api::log`].
    pub fn log(&self, code: i32, text: &str) {
        self.api.log(code, text);
    }

    /// Gives the code and message of the last call on this connection that failed; if the last call did not fail,
    /// the code means nothing.
    pub fn last_error(&self) -> Error {
        // SAFETY: the connection is open; the message lives until the next call and is copied at once.
        let (code, message) = unsafe {
            (
                call!(self.api, extended_errcode(self.as_ptr())),
                text(call!(self.api, errmsg(self.as_ptr()))).unwrap_or_default(),
            )
        };
        Error { code, message }
    }

    /// Makes the error of a call that has just returned `rc`. Some failures (misuse, out of memory) are not recorded
    /// in the connection, whose last error is then another one.
    pub(crate) fn error(&self, rc: c_int) -> Error {
        let last = self.last_error();
        if last.primary_code() == rc & 0xff {
            return last;
        }
        // SAFETY: sqlite3_errstr gives a constant string for any code.
        let message = unsafe { text(call!(self.api, errstr(rc))) }.unwrap_or_default();
        Error { code: rc, message }
    }

    pub(crate) fn check(&self, rc: c_int) -> Result<()> {
        if rc == bindings::SQLITE_OK { Ok(()) } else { Err(self.error(rc)) }
    }

    fn prepare_only(&self, sql: &str, flags: c_uint) -> Result<Statement> {
        let (statement, mut tail) = self.prepare_next(sql, flags)?;
        // What follows may still be a comment, which SQLite knows best.
        while !tail.trim_ascii().is_empty() {
            let (further, rest) = self.prepare_next(tail, flags)?;
            if further.is_some() {
                return Err(misuse("more than one statement where one is expected"));
            }
            tail = rest;
        }
        statement.ok_or_else(|| misuse("an empty statement where one is expected"))
    }

    /// Compiles the first statement of a text and gives it with the rest; no statement if there is only a comment or
    /// blank. The rest is always shorter than the text.
    fn prepare_next<'s>(&self, sql: &'s str, flags: c_uint) -> Result<(Option<Statement>, &'s str)> {
        if sql.as_bytes().contains(&0) {
            return Err(misuse("the SQL text holds a NUL"));
        }
        let length = c_int::try_from(sql.len())
            .map_err(|_| Error::new(bindings::SQLITE_TOOBIG, "the SQL text is longer than 2 GiB"))?;
        let start = sql.as_ptr().cast::<c_char>();
        let mut raw: *mut sqlite3_stmt = ptr::null_mut();
        let mut tail: *const c_char = ptr::null();
        // SAFETY: the connection is open; SQLite reads at most `length` bytes; the outputs are ours.
        let rc =
            unsafe { call!(self.api, prepare_v3(self.as_ptr(), start, length, flags, &mut raw, &mut tail)) };
        self.check(rc)?;
        // SAFETY: a fresh statement of this connection, owned by nobody else.
        let statement = NonNull::new(raw).map(|raw| unsafe { Statement::from_raw(raw, *self) });
        // The tail points into the text, behind the statement.
        let used = (tail as usize).checked_sub(start as usize).filter(|used| *used > 0);
        Ok((statement, used.and_then(|used| sql.get(used..)).unwrap_or("")))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Connection").field(&self.raw).finish()
    }
}

/// Gives a terminated copy of a name.
pub(crate) fn c_text(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| misuse(format!("the name {name:?} holds a NUL")))
}

/// Copies a text of SQLite's; `None` for a null pointer.
///
/// # Safety
/// `start` is null or a terminated string.
pub(crate) unsafe fn text(start: *const c_char) -> Option<String> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned())
}

fn mismatch(wanted: &str, value: Value<'_>) -> Error {
    Error::new(bindings::SQLITE_MISMATCH, format!("expected {wanted}, found {}", value.kind()))
}
