//! SQL functions written in Rust.

use std::ffi::{c_int, c_uchar, c_void};
use std::marker::PhantomData;

use crate::api::Api;
use crate::bindings::{self, sqlite3_context, sqlite3_value};
use crate::connection::{Connection, c_text};
use crate::error::{Error, Result};
use crate::trampoline::{Registered, destroy, trampoline};
use crate::value::{self, Source, Value};

/// What SQLite may assume of a function and where it may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionFlags {
    /// Same arguments, same result within one statement: may be used in indexes and computed once.
    pub deterministic: bool,
    /// Harmless even in a schema written by an attacker: may be used in triggers and views where the host trusts no
    /// schema. For functions that trigger programs call.
    pub innocuous: bool,
    /// Only in SQL that the host runs, never in triggers, views or the schema. For whatever writes or goes to the
    /// network.
    pub direct_only: bool,
}

impl FunctionFlags {
    /// Deterministic only.
    pub const DETERMINISTIC: FunctionFlags =
        FunctionFlags { deterministic: true, innocuous: false, direct_only: false };
    /// Innocuous only.
    pub const INNOCUOUS: FunctionFlags =
        FunctionFlags { deterministic: false, innocuous: true, direct_only: false };
    /// Direct only.
    pub const DIRECT_ONLY: FunctionFlags =
        FunctionFlags { deterministic: false, innocuous: false, direct_only: true };

    fn bits(self) -> c_int {
        let mut bits = bindings::SQLITE_UTF8;
        for (set, bit) in [
            (self.deterministic, bindings::SQLITE_DETERMINISTIC),
            (self.innocuous, bindings::SQLITE_INNOCUOUS),
            (self.direct_only, bindings::SQLITE_DIRECTONLY),
        ] {
            if set {
                bits |= bit;
            }
        }
        bits
    }
}

/// What a function gives back, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A double; NaN becomes NULL.
    Real(f64),
    /// Text in UTF-8.
    Text(String),
    /// Bytes; up to 2 GiB and the connection's limit, beyond which SQLite reports `SQLITE_TOOBIG`.
    Blob(Vec<u8>),
}

impl From<i64> for Output {
    fn from(integer: i64) -> Self {
        Output::Integer(integer)
    }
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Output::Text(text)
    }
}

impl From<&str> for Output {
    fn from(text: &str) -> Self {
        Output::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Output {
    fn from(blob: Vec<u8>) -> Self {
        Output::Blob(blob)
    }
}

impl<T: Into<Output>> From<Option<T>> for Output {
    fn from(value: Option<T>) -> Self {
        value.map_or(Output::Null, Into::into)
    }
}

/// A function's failure: it becomes the failure of the SQL statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FunctionError {
    /// The result code of the statement, extended or not; 0 counts as `SQLITE_ERROR`.
    pub code: i32,
    /// What `sqlite3_errmsg` will say.
    pub message: String,
}

impl FunctionError {
    /// Makes an error with a result code from [`bindings`].
    pub fn new(code: i32, message: impl Into<String>) -> FunctionError {
        FunctionError { code, message: message.into() }
    }
}

impl From<Error> for FunctionError {
    fn from(error: Error) -> Self {
        FunctionError { code: error.code, message: error.message }
    }
}

impl From<String> for FunctionError {
    fn from(message: String) -> Self {
        FunctionError { code: bindings::SQLITE_ERROR, message }
    }
}

impl From<&str> for FunctionError {
    fn from(message: &str) -> Self {
        FunctionError::from(message.to_owned())
    }
}

/// One call of a function.
pub struct Context<'c> {
    raw: *mut sqlite3_context,
    api: Api,
    _call: PhantomData<&'c ()>,
}

impl Context<'_> {
    pub(crate) fn new(raw: *mut sqlite3_context, api: Api) -> Self {
        Context { raw, api, _call: PhantomData }
    }

    /// Gives the connection that the function was called on.
    pub fn connection(&self) -> Connection {
        // SAFETY: SQLite runs the function on an open connection. What `Connection::from_raw` demands was promised by
        // whoever registered the function on that connection.
        let connection = unsafe {
            let db = call!(self.api, context_db_handle(self.raw));
            Connection::from_raw(db, self.api)
        };
        match connection {
            Some(connection) => connection,
            None => unreachable!("a running function has a connection"),
        }
    }
}

/// The arguments of one call.
#[derive(Clone, Copy)]
pub struct Args<'c> {
    values: &'c [*mut sqlite3_value],
    api: Api,
}

impl<'c> Args<'c> {
    pub(crate) fn new(values: &'c [*mut sqlite3_value], api: Api) -> Self {
        Args { values, api }
    }

    /// Gives the number of arguments.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Gives an argument, the first having index 0; NULL if there is no such argument.
    pub fn get(&self, index: usize) -> Value<'c> {
        let Some(raw) = self.values.get(index) else {
            return Value::Null;
        };
        // SAFETY: SQLite keeps arguments for the time of the call, which `'c` does not outlive; read as their own
        // kind, they are not converted.
        unsafe { value::read(&Argument { raw: *raw, api: self.api }) }
    }

    /// Gives all arguments in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'c>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// A function's closure, its own types erased.
pub(crate) type Function = dyn Fn(&Context<'_>, &Args<'_>) -> Result<Output, FunctionError>;

impl Connection {
    /// Registers a function under a name and number of arguments (-1: any number), replacing an earlier one.
    ///
    /// The closure may be called again while it runs, if its own SQL calls it. A panic in it becomes an SQL error
    /// `internal error: ...`. It is dropped when the function is replaced or the connection closes, and at once if
    /// registering fails.
    ///
    /// # Errors
    /// SQLite's own, for example `SQLITE_MISUSE` for a name over 255 bytes, `SQLITE_BUSY` when replacing a function
    /// while statements run; `SQLITE_ERROR` when more than 16 SQLite libraries in the process have asked.
    pub fn create_function<F, E>(
        &self,
        name: &str,
        argument_count: i32,
        flags: FunctionFlags,
        function: F,
    ) -> Result<()>
    where
        F: Fn(&Context<'_>, &Args<'_>) -> Result<Output, E> + 'static,
        E: Into<FunctionError>,
    {
        let function =
            move |context: &Context<'_>, args: &Args<'_>| function(context, args).map_err(Into::into);
        self.create_boxed(name, argument_count, flags, Box::new(function))
    }

    fn create_boxed(
        &self,
        name: &str,
        argument_count: i32,
        flags: FunctionFlags,
        function: Box<Function>,
    ) -> Result<()> {
        let name = c_text(name)?;
        let Some(trampoline) = trampoline(self.api()) else {
            return Err(Error::new(bindings::SQLITE_ERROR, "too many SQLite libraries in one process"));
        };
        let data = Box::into_raw(Box::new(Registered { function }));
        // SAFETY: the connection is open, the name terminated; SQLite owns `data` and frees it with `destroy`, also
        // if this call fails.
        let rc = unsafe {
            call!(
                self.api(),
                create_function_v2(
                    self.as_ptr(),
                    name.as_ptr(),
                    argument_count,
                    flags.bits(),
                    data.cast::<c_void>(),
                    Some(trampoline),
                    None,
                    None,
                    Some(destroy),
                )
            )
        };
        self.check(rc)
    }
}

/// One argument.
struct Argument {
    raw: *mut sqlite3_value,
    api: Api,
}

/// Calls an accessor of the argument.
macro_rules! argument {
    ($self:ident, $name:ident) => {
        // SAFETY: the value is an argument of the running call.
        unsafe { call!($self.api, $name($self.raw)) }
    };
}

impl Source for Argument {
    fn kind(&self) -> c_int {
        argument!(self, value_type)
    }
    fn integer(&self) -> i64 {
        argument!(self, value_int64)
    }
    fn real(&self) -> f64 {
        argument!(self, value_double)
    }
    fn text(&self) -> *const c_uchar {
        argument!(self, value_text)
    }
    fn blob(&self) -> *const c_void {
        argument!(self, value_blob)
    }
    fn length(&self) -> c_int {
        argument!(self, value_bytes)
    }
}
