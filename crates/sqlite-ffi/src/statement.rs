//! A prepared statement.

use std::ffi::{CStr, c_int, c_uchar, c_void};
use std::fmt;
use std::ptr::NonNull;

use crate::bindings::{self, Ownership, sqlite3_stmt};
use crate::connection::Connection;
use crate::error::{Error, Result, c_index};
use crate::shelf;
use crate::value::{self, Source, Value};

/// A prepared statement, finalized on drop unless it goes back to a [`Shelf`](crate::Shelf).
///
/// It has no lifetime, so that it can be kept in a cache next to its [`Connection`]. A host cannot close a connection
/// that still has statements (`sqlite3_close` answers `SQLITE_BUSY`): drop cached ones before.
///
/// [`run`](Statement::run), [`query_row`](Statement::query_row) and [`for_each`](Statement::for_each) bind without
/// copying and leave nothing bound; [`bind`](Statement::bind) and [`step`](Statement::step) are for the rest.
pub struct Statement {
    raw: NonNull<sqlite3_stmt>,
    connection: Connection,
    /// The last step failed and said so; resetting repeats the error.
    failed: bool,
    /// It stands before its first row, so that there is nothing to reset.
    at_start: bool,
    /// The text under which it goes back to the shelf of its connection.
    sql: Option<Box<str>>,
}

impl Statement {
    /// # Safety
    /// `raw` is a statement of `connection` that nobody else finalizes.
    pub(crate) unsafe fn from_raw(raw: NonNull<sqlite3_stmt>, connection: Connection) -> Statement {
        Statement { raw, connection, failed: false, at_start: true, sql: None }
    }

    /// Puts the statement on the shelf when it is dropped.
    pub(crate) fn kept_as(mut self, sql: &str) -> Statement {
        self.sql = Some(sql.into());
        self
    }

    /// Gives the connection that the statement was prepared on.
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// Binds a copy of a value to a parameter; the first has index 1. Bindings stay over [`reset`](Self::reset).
    /// An empty blob stays a blob and empty text stays text; NaN becomes NULL.
    ///
    /// # Errors
    /// `SQLITE_RANGE` for an unknown parameter, `SQLITE_TOOBIG` for a value beyond the connection's limit,
    /// `SQLITE_MISUSE` while rows are being read.
    pub fn bind(&mut self, index: usize, value: Value<'_>) -> Result<()> {
        // SAFETY: SQLite copies the bytes before it returns.
        unsafe { self.bind_as(index, value, bindings::SQLITE_TRANSIENT) }
    }

    /// Binds a BLOB of so many zeros, whose content [`Connection::open_blob`] can write later. SQLite takes no memory for
    /// them where they end the row.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_zeros(&mut self, index: usize, bytes: u64) -> Result<()> {
        let index = c_index(index, "parameter")?;
        // SAFETY: the statement is live.
        let rc = unsafe { call!(self.connection.api(), bind_zeroblob64(self.as_ptr(), index, bytes)) };
        self.connection.check(rc)
    }

    /// Goes to the next row: `true` if there is one, `false` when the statement is done. A step after the end starts
    /// anew.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn step(&mut self) -> Result<bool> {
        self.at_start = false;
        // SAFETY: the statement is live; `&mut` proves that no column is still borrowed.
        match unsafe { call!(self.connection.api(), step(self.as_ptr())) } {
            bindings::SQLITE_ROW => Ok(true),
            bindings::SQLITE_DONE => {
                self.failed = false;
                Ok(false)
            }
            rc => {
                self.failed = true;
                Err(self.connection.error(rc))
            }
        }
    }

    /// Goes back to before the first row; bindings stay. Ends what the statement holds open, so a write that was left
    /// between its rows (`RETURNING`) is finished here.
    ///
    /// # Errors
    /// SQLite's own, if finishing fails. An error that [`step`](Self::step) already reported is not repeated.
    pub fn reset(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.at_start, true) {
            return Ok(());
        }
        let reported = std::mem::take(&mut self.failed);
        // SAFETY: the statement is live, no column is borrowed.
        let rc = unsafe { call!(self.connection.api(), reset(self.as_ptr())) };
        if reported { Ok(()) } else { self.connection.check(rc) }
    }

    /// Sets all parameters to NULL.
    pub fn clear_bindings(&mut self) {
        // SAFETY: the statement is live. The function always succeeds.
        unsafe { call!(self.connection.api(), clear_bindings(self.as_ptr())) };
    }

    /// Runs the statement to its end with these values, one for each parameter, and drops the rows. Nothing is copied
    /// to bind them, and nothing stays bound.
    ///
    /// # Errors
    /// SQLite's own; `SQLITE_RANGE` if the number of values is wrong.
    pub fn run(&mut self, values: &[Value<'_>]) -> Result<()> {
        self.with_bound(values, |statement| {
            while statement.step()? {}
            Ok(())
        })
    }

    /// Runs the statement with these values and reads its first row with `read`; `None` if there is no row. Further
    /// rows are not computed. Nothing is copied to bind the values, and nothing stays bound.
    ///
    /// # Errors
    /// SQLite's own, what `read` gives, and `SQLITE_RANGE` if the number of values is wrong.
    pub fn query_row<T, E: From<Error>>(
        &mut self,
        values: &[Value<'_>],
        read: impl FnOnce(&Statement) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.with_bound(
            values,
            |statement| {
                if statement.step()? { read(statement).map(Some) } else { Ok(None) }
            },
        )
    }

    /// Runs the statement with these values and hands every row to `read`, until it fails. Nothing is copied to bind
    /// the values, and nothing stays bound.
    ///
    /// # Errors
    /// SQLite's own, what `read` gives, and `SQLITE_RANGE` if the number of values is wrong.
    pub fn for_each<E: From<Error>>(
        &mut self,
        values: &[Value<'_>],
        mut read: impl FnMut(&Statement) -> Result<(), E>,
    ) -> Result<(), E> {
        self.with_bound(values, |statement| {
            while statement.step()? {
                read(statement)?;
            }
            Ok(())
        })
    }

    /// Gives the number of parameters, the highest index that can be bound.
    pub fn parameter_count(&self) -> usize {
        // SAFETY: the statement is live.
        count(unsafe { call!(self.connection.api(), bind_parameter_count(self.as_ptr())) })
    }

    /// Gives the number of columns of a row, 0 for a statement that gives none. May change when the schema does.
    pub fn column_count(&self) -> usize {
        // SAFETY: the statement is live.
        count(unsafe { call!(self.connection.api(), column_count(self.as_ptr())) })
    }

    /// Gives the name of a column, the first having index 0; `None` if there is no such column. Bytes that are not
    /// UTF-8 are replaced.
    pub fn column_name(&self, index: usize) -> Option<String> {
        let index = c_int::try_from(index).ok()?;
        // SAFETY: the statement is live; SQLite answers null for an index out of range.
        let name = unsafe { call!(self.connection.api(), column_name(self.as_ptr(), index)) };
        if name.is_null() {
            return None;
        }
        // SAFETY: a terminated string that lives until the next call for this column; copied at once.
        Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Gives a column of the current row, the first having index 0. NULL if there is no such column or no current
    /// row. If memory runs out while SQLite prepares a value, it reads as NULL and the next
    /// [`step`](Self::step) or [`reset`](Self::reset) fails with `SQLITE_NOMEM`; so do the closure forms.
    pub fn column(&self, index: usize) -> Value<'_> {
        let Some(column) = self.current(index) else {
            return Value::Null;
        };
        // SAFETY: SQLite keeps the bytes until the next step, reset or finalize, all of which need the statement
        // mutably; they are read as their own kind, so that no conversion moves them.
        unsafe { value::read(&column) }
    }

    /// Gives a column of the current row converted to an integer by SQLite's rules (as CAST does); 0 for NULL.
    pub fn column_i64(&self, index: usize) -> i64 {
        self.current(index).map_or(0, |column| column.integer())
    }

    /// Tells whether the statement writes nothing to a database directly (functions it calls may).
    pub fn read_only(&self) -> bool {
        // SAFETY: the statement is live.
        unsafe { call!(self.connection.api(), stmt_readonly(self.as_ptr())) != 0 }
    }

    fn as_ptr(&self) -> *mut sqlite3_stmt {
        self.raw.as_ptr()
    }

    fn current(&self, index: usize) -> Option<Column<'_>> {
        // SAFETY: the statement is live; the count is 0 when there is no current row.
        let columns = unsafe { call!(self.connection.api(), data_count(self.as_ptr())) };
        let index = c_int::try_from(index).ok().filter(|index| *index < columns)?;
        Some(Column { statement: self, index })
    }

    /// Binds without copying, lets `act` step and read, then resets and unbinds whatever happened. The values cannot
    /// be reached from the statement afterwards, which makes borrowing them sound.
    fn with_bound<T, E: From<Error>>(
        &mut self,
        values: &[Value<'_>],
        act: impl FnOnce(&mut Statement) -> Result<T, E>,
    ) -> Result<T, E> {
        // A statement left between rows refuses to bind.
        self.reset()?;
        let expected = self.parameter_count();
        if values.len() != expected {
            let message =
                format!("the statement has {expected} parameters, {} values are given", values.len());
            return Err(Error::new(bindings::SQLITE_RANGE, message).into());
        }
        let bound = Bound(self);
        for (position, value) in values.iter().enumerate() {
            // SAFETY: `bound` unbinds before this call returns or unwinds, while `values` is still borrowed; it
            // never leaves this frame, so it cannot be forgotten.
            unsafe { bound.0.bind_as(position + 1, *value, bindings::SQLITE_STATIC)? };
        }
        let outcome = act(&mut *bound.0)?;
        // Not only after writes: running out of memory while a column was read is reported here.
        bound.0.reset()?;
        Ok(outcome)
    }

    /// # Safety
    /// With `SQLITE_STATIC` the bytes must live until the parameter is bound anew or the statement is finalized.
    unsafe fn bind_as(&mut self, index: usize, value: Value<'_>, ownership: Ownership) -> Result<()> {
        let index = c_index(index, "parameter")?;
        let (api, raw) = (self.connection.api(), self.as_ptr());
        // SAFETY: the statement is live. Slices are never null, so empty ones are not taken for NULL; SQLite reads as
        // many bytes as it is told; their lifetime is the caller's promise.
        let rc = unsafe {
            match value {
                Value::Null => call!(api, bind_null(raw, index)),
                Value::Integer(integer) => call!(api, bind_int64(raw, index, integer)),
                Value::Real(real) => call!(api, bind_double(raw, index, real)),
                Value::Text(text) => {
                    let (start, length) = (text.as_ptr().cast(), text.len() as u64);
                    let encoding = bindings::SQLITE_UTF8 as c_uchar;
                    call!(api, bind_text64(raw, index, start, length, ownership, encoding))
                }
                Value::Blob(blob) => {
                    let (start, length) = (blob.as_ptr().cast(), blob.len() as u64);
                    call!(api, bind_blob64(raw, index, start, length, ownership))
                }
            }
        };
        self.connection.check(rc)
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        if let Some(sql) = self.sql.take() {
            // An error that it repeats was reported by its last step.
            let _ = self.reset();
            self.clear_bindings();
            // SAFETY: the statement is live, and from here on the other value's.
            shelf::put(sql, unsafe { Statement::from_raw(self.raw, self.connection) });
            return;
        }
        // SAFETY: the statement is live and ours. The result repeats the last step's error.
        unsafe { call!(self.connection.api(), finalize(self.as_ptr())) };
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Statement").field(&self.raw).finish()
    }
}

/// Resets and unbinds a statement whose parameters borrow.
struct Bound<'s>(&'s mut Statement);

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        // Only reached with an unreported error when another one is already on its way to the caller.
        let _ = self.0.reset();
        self.0.clear_bindings();
    }
}

/// One column of the current row.
struct Column<'s> {
    statement: &'s Statement,
    index: c_int,
}

/// Calls an accessor of the column.
macro_rules! column {
    ($self:ident, $name:ident) => {
        // SAFETY: the statement is live; `current` saw that there is a row with this column.
        unsafe { call!($self.statement.connection.api(), $name($self.statement.as_ptr(), $self.index)) }
    };
}

impl Source for Column<'_> {
    fn kind(&self) -> c_int {
        column!(self, column_type)
    }
    fn integer(&self) -> i64 {
        column!(self, column_int64)
    }
    fn real(&self) -> f64 {
        column!(self, column_double)
    }
    fn text(&self) -> *const c_uchar {
        column!(self, column_text)
    }
    fn blob(&self) -> *const c_void {
        column!(self, column_blob)
    }
    fn length(&self) -> c_int {
        column!(self, column_bytes)
    }
}

fn count(number: c_int) -> usize {
    usize::try_from(number).unwrap_or(0)
}
