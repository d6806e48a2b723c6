//! One call of a function: its arguments, checked, and what it works on.

use crate::error::{Error, Result};
use crate::functions::Function;
use crate::state::State;
use cloudsync_replica::Replica;
use cloudsync_sqlite_ffi::{Args, Connection, Value};
use std::rc::Rc;

/// One call. Arguments are counted from 0; their errors name function, argument and what is wanted.
pub struct Call<'c> {
    function: &'static Function,
    connection: Connection,
    args: Args<'c>,
    state: &'c State,
}

impl<'c> Call<'c> {
    pub(crate) fn new(
        function: &'static Function,
        connection: Connection,
        args: Args<'c>,
        state: &'c State,
    ) -> Self {
        Self { function, connection, args, state }
    }

    pub(crate) fn connection(&self) -> Connection {
        self.connection
    }

    pub(crate) fn state(&self) -> &'c State {
        self.state
    }

    /// Opens the database as a replica, for the time of the call.
    pub(crate) fn replica(&self) -> Result<Replica> {
        Ok(Replica::open(self.connection, Rc::clone(&self.state.environment))?)
    }

    /// The argument, whatever it is.
    pub(crate) fn any(&self, index: usize) -> Value<'c> {
        self.args.get(index)
    }

    /// True when the argument is NULL or was not given.
    pub(crate) fn is_null(&self, index: usize) -> bool {
        matches!(self.args.get(index), Value::Null)
    }

    /// The argument, not NULL.
    pub(crate) fn value(&self, index: usize, wanted: &str) -> Result<Value<'c>> {
        match self.args.get(index) {
            Value::Null => Err(self.wrong(index, wanted)),
            value => Ok(value),
        }
    }

    pub(crate) fn text(&self, index: usize, wanted: &str) -> Result<&'c str> {
        let text = self.args.get(index).as_str().ok_or_else(|| self.wrong(index, wanted))?;
        if text.contains('\0') {
            return Err(self.wrong(index, &format!("{wanted}, without NUL characters")));
        }
        Ok(text)
    }

    pub(crate) fn blob(&self, index: usize, wanted: &str) -> Result<&'c [u8]> {
        self.args.get(index).as_blob().ok_or_else(|| self.wrong(index, wanted))
    }

    pub(crate) fn integer(&self, index: usize, wanted: &str) -> Result<i64> {
        self.args.get(index).as_i64().ok_or_else(|| self.wrong(index, wanted))
    }

    /// An integer from 0 to `most`.
    pub(crate) fn count(&self, index: usize, most: u64) -> Result<u64> {
        let wanted = || match most == i64::MAX as u64 {
            true => "an integer from 0".to_owned(),
            false => format!("an integer from 0 to {most}"),
        };
        let count = self.args.get(index).as_i64().and_then(|integer| u64::try_from(integer).ok());
        count.filter(|count| *count <= most).ok_or_else(|| self.wrong(index, &wanted()))
    }

    /// True when the argument was given.
    pub(crate) fn has(&self, index: usize) -> bool {
        index < self.args.len()
    }

    /// The error of an argument that is not what it has to be. Its value is not repeated: it may be a secret, or long.
    pub(crate) fn wrong(&self, index: usize, wanted: &str) -> Error {
        self.function.wrong_argument(index, wanted, self.args.get(index))
    }
}

impl Function {
    /// See [`Call::wrong`].
    pub(super) fn wrong_argument(&self, index: usize, wanted: &str, given: Value<'_>) -> Error {
        let mut names = self.required.iter().chain(self.optional);
        let name = names.nth(index).copied().unwrap_or("?");
        let given = match given {
            Value::Null => "NULL".to_owned(),
            Value::Text(text) if std::str::from_utf8(text).is_err() => "text that is not UTF-8".to_owned(),
            value => value.kind().to_owned(),
        };
        Error::usage(format!("argument {} ({name}) must be {wanted}, not {given}", index + 1))
    }
}
