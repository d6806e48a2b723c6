//! Tables that are computed when they are read: read-only, and there without CREATE, under the name of their module.
//!
//! Such a table appears in FROM like any other. Columns that its schema declares HIDDEN are its arguments:
//! `SELECT value FROM series(1, 5)` is short for `... WHERE start = 1 AND stop = 5`.
//!
//! SQLite first asks for a plan ([`TableFunction::plan`]), perhaps several times for one statement. Then it opens a
//! cursor, and may filter it again and again: once for every row of an outer loop.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};
use std::marker::PhantomData;
use std::slice;

use crate::api::Api;
use crate::bindings::{self, sqlite3_context, sqlite3_index_constraint, sqlite3_index_info};
use crate::connection::{Connection, c_text};
use crate::error::Result;
use crate::function::{Args, FunctionError, FunctionFlags};
use crate::value::Value;

mod callbacks;

/// A table that is computed when it is read.
pub trait TableFunction: 'static {
    /// The state of one scan.
    type Cursor: TableCursor;

    /// The columns, as CREATE TABLE declares them; SQLite ignores the name there.
    const SCHEMA: &'static CStr;

    /// Says which conditions a scan will make use of, and what it will cost. `None` when an argument is needed whose
    /// value is not known yet in this order of loops; SQLite then tries another order.
    ///
    /// # Errors
    /// When no plan is possible at all, for example for want of an argument.
    fn plan(&self, query: &Query<'_>) -> Result<Option<Plan>, FunctionError>;

    /// Makes a cursor. The connection stays open, and is used by one thread at a time, while the cursor lives.
    ///
    /// # Errors
    /// Whatever prevents it.
    fn open(&self, connection: Connection) -> Result<Self::Cursor, FunctionError>;
}

/// One scan of a table. It is dropped when its statement is reset or finalized, so it may hold statements of its own.
pub trait TableCursor {
    /// Goes to the first row of a new scan. `plan` is [`Plan::number`]; the arguments are the right-hand sides of the
    /// conditions in [`Plan::uses`], in that order.
    ///
    /// # Errors
    /// The failure of the SQL statement, as for the other calls.
    fn filter(&mut self, plan: i32, args: &Args<'_>) -> Result<(), FunctionError>;

    /// Goes to the next row.
    ///
    /// # Errors
    /// As [`TableCursor::filter`].
    fn next(&mut self) -> Result<(), FunctionError>;

    /// Tells whether there is no current row any more.
    fn is_at_end(&self) -> bool;

    /// Gives a column of the current row, the first having index 0; NULL if `sink` is left alone.
    ///
    /// # Errors
    /// As [`TableCursor::filter`].
    fn column(&self, index: usize, sink: Sink<'_>) -> Result<(), FunctionError>;

    /// Gives a number that no other row of the table has in this statement, whatever the conditions: SQLite tells
    /// rows apart by it when conditions are joined by OR.
    ///
    /// # Errors
    /// As [`TableCursor::filter`].
    fn rowid(&self) -> Result<i64, FunctionError>;
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// Anything else; which column it is about means nothing.
    Other,
}

/// A condition of a WHERE clause: column, operator, and a value that [`TableCursor::filter`] may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The column, the first having index 0; `None` for the rowid.
    pub column: Option<usize>,
    /// How it compares.
    pub operator: Operator,
    /// False when the value is not known in this order of loops: the condition cannot be used.
    pub usable: bool,
}

/// A term of ORDER BY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The column, the first having index 0; `None` for the rowid.
    pub column: Option<usize>,
    /// Whether the greatest comes first.
    pub descending: bool,
}

/// What SQLite wants to read.
pub struct Query<'q> {
    info: *mut sqlite3_index_info,
    api: Api,
    _call: PhantomData<&'q ()>,
}

impl Query<'_> {
    /// Gives the conditions; a [`Use`] names them by their place here.
    pub fn constraints(&self) -> impl Iterator<Item = Constraint> + '_ {
        self.raw_constraints().iter().map(|raw| Constraint {
            column: usize::try_from(raw.column).ok(),
            operator: match raw.operator {
                bindings::SQLITE_INDEX_CONSTRAINT_EQ => Operator::Equal,
                bindings::SQLITE_INDEX_CONSTRAINT_GT => Operator::Greater,
                bindings::SQLITE_INDEX_CONSTRAINT_GE => Operator::GreaterOrEqual,
                bindings::SQLITE_INDEX_CONSTRAINT_LT => Operator::Less,
                bindings::SQLITE_INDEX_CONSTRAINT_LE => Operator::LessOrEqual,
                _ => Operator::Other,
            },
            usable: raw.usable != 0,
        })
    }

    /// Tells whether a condition compares text byte by byte (collation BINARY).
    pub fn compares_bytes(&self, constraint: usize) -> bool {
        let Some(index) =
            c_int::try_from(constraint).ok().filter(|_| constraint < self.raw_constraints().len())
        else {
            return false;
        };
        // SAFETY: `info` is what the running xBestIndex was given, the index is in bounds; the name is terminated and
        // lives as long as the statement is prepared.
        let name = unsafe {
            let name = call!(self.api, vtab_collation(self.info, index));
            if name.is_null() {
                return false;
            }
            CStr::from_ptr(name)
        };
        name.to_bytes().eq_ignore_ascii_case(b"BINARY")
    }

    /// Gives the terms of ORDER BY.
    pub fn order(&self) -> impl Iterator<Item = Order> + '_ {
        // SAFETY: as for `raw_constraints`.
        let terms = unsafe { array((*self.info).order, (*self.info).order_count) };
        terms
            .iter()
            .map(|raw| Order { column: usize::try_from(raw.column).ok(), descending: raw.descending != 0 })
    }

    /// Tells whether the statement may read a column. Those from the 64th on share one answer.
    pub fn reads_column(&self, index: usize) -> bool {
        // SAFETY: SQLite passes its own, complete struct.
        let columns = unsafe { (*self.info).columns_used };
        columns & (1 << index.min(63)) != 0
    }

    fn raw_constraints(&self) -> &[sqlite3_index_constraint] {
        // SAFETY: SQLite passes as many conditions as it says, valid and unchanged for the time of the call.
        unsafe { array((*self.info).constraints, (*self.info).constraint_count) }
    }
}

/// A condition that a scan makes use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Its place in [`Query::constraints`].
    pub constraint: usize,
    /// True when the scan gives no row for which it is false: SQLite then does not look again.
    pub exact: bool,
}

/// How a scan will go.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What [`TableCursor::filter`] is told.
    pub number: i32,
    /// The plan in words, for EXPLAIN QUERY PLAN; a NUL ends it.
    pub text: String,
    /// The conditions whose values [`TableCursor::filter`] gets.
    pub uses: Vec<Use>,
    /// What it will cost; a row of a table that is read through costs about 1.
    pub cost: f64,
    /// How many rows it will give.
    pub rows: i64,
    /// True when they come in the order of the whole ORDER BY.
    pub ordered: bool,
}

/// The place for a column's value.
pub struct Sink<'s> {
    context: *mut sqlite3_context,
    api: Api,
    _call: PhantomData<&'s ()>,
}

impl Sink<'_> {
    /// Gives the value to SQLite, which copies it; one beyond the connection's limit fails the statement with
    /// `SQLITE_TOOBIG`.
    pub fn set(self, value: Value<'_>) {
        let (api, raw, copy) = (self.api, self.context, bindings::SQLITE_TRANSIENT);
        // SAFETY: the context is that of the running xColumn; SQLite copies text and bytes before it returns, and the
        // 64-bit forms check its limits. Slices are never null, so empty ones are not taken for NULL.
        unsafe {
            match value {
                Value::Null => call!(api, result_null(raw)),
                Value::Integer(integer) => call!(api, result_int64(raw, integer)),
                Value::Real(real) => call!(api, result_double(raw, real)),
                Value::Text(text) if c_int::try_from(text.len()).is_ok() => {
                    let encoding = bindings::SQLITE_UTF8 as c_uchar;
                    call!(api, result_text64(raw, text.as_ptr().cast(), text.len() as u64, copy, encoding));
                }
                Value::Blob(blob) if c_int::try_from(blob.len()).is_ok() => {
                    call!(api, result_blob64(raw, blob.as_ptr().cast(), blob.len() as u64, copy));
                }
                Value::Text(_) | Value::Blob(_) => call!(api, result_error_toobig(raw)),
            }
        }
    }
}

impl Connection {
    /// Registers a table under a name, replacing an earlier one. The table is only read, and needs no CREATE.
    ///
    /// Of the flags `innocuous` and `direct_only` count. A panic in the table or its cursor becomes an SQL error
    /// `internal error: ...`. The table is dropped when it is replaced or the connection closes, and at once if
    /// registering fails.
    ///
    /// # Errors
    /// SQLite's own; `SQLITE_MISUSE` if the name holds a NUL.
    pub fn create_table_function<T: TableFunction>(
        &self,
        name: &str,
        flags: FunctionFlags,
        table: T,
    ) -> Result<()> {
        let name = c_text(name)?;
        let data = Box::into_raw(Box::new(callbacks::Registered { table, flags, api: self.api() }));
        // SAFETY: the connection is open, the name terminated, the module constant; SQLite owns `data` and frees it
        // with the destructor, also if this call fails.
        let rc = unsafe {
            call!(
                self.api(),
                create_module_v2(
                    self.as_ptr(),
                    name.as_ptr().cast::<c_char>(),
                    callbacks::module::<T>(),
                    data.cast::<c_void>(),
                    Some(callbacks::destroy::<T>),
                )
            )
        };
        self.check(rc)
    }
}

/// Gives an array of SQLite's; empty for length zero, where it may give no pointer.
///
/// # Safety
/// `start` is null or points to `length` values that live, unchanged, for `'a`.
unsafe fn array<'a, V>(start: *const V, length: c_int) -> &'a [V] {
    match usize::try_from(length) {
        // SAFETY: the caller's promise.
        Ok(length) if length > 0 && !start.is_null() => unsafe { slice::from_raw_parts(start, length) },
        _ => &[],
    }
}
