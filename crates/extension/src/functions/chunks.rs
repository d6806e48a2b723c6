//! The table `cloudsync_payload_chunks`: changes as payloads of bounded size.

use crate::error::{Error, Result};
use crate::functions::Function;
use crate::state::State;
use cloudsync_replica::{Chunks, PayloadChunk, Replica};
use cloudsync_sqlite_ffi::{
    self as ffi, Args, Connection, FunctionError, Operator, Plan, Query, Sink, TableCursor, TableFunction,
    Use, Value,
};
use std::ffi::CStr;
use std::rc::Rc;

const SINCE_VERSION: usize = 4;

struct ChunksTable {
    function: &'static Function,
    state: Rc<State>,
}

struct Cursor {
    function: &'static Function,
    replica: Replica,
    since: u64,
    chunks: Option<Chunks>,
    chunk: Option<PayloadChunk>,
    number: i64,
}

pub(super) fn register(
    function: &'static Function,
    connection: Connection,
    state: Rc<State>,
) -> ffi::Result<()> {
    let table = ChunksTable { function, state };
    connection.create_table_function(function.name, function.flags(), table)
}

impl TableFunction for ChunksTable {
    type Cursor = Cursor;

    const SCHEMA: &'static CStr =
        c"CREATE TABLE x(payload BLOB, first_version INTEGER, last_version INTEGER, final INTEGER, since_version HIDDEN)";

    fn plan(&self, query: &Query<'_>) -> Result<Option<Plan>, FunctionError> {
        let is_since = |(_, constraint): &(usize, ffi::Constraint)| {
            constraint.column == Some(SINCE_VERSION) && constraint.operator == Operator::Equal
        };
        let given: Vec<_> = query.constraints().enumerate().filter(is_since).collect();
        if given.is_empty() {
            let text = format!("takes 1 argument, not 0: {}", self.function.signature());
            return Err(self.function.failure(&Error::usage(text)));
        }
        let Some((constraint, _)) = given.iter().find(|(_, constraint)| constraint.usable) else {
            return Ok(None);
        };
        let uses = vec![Use { constraint: *constraint, exact: true }];
        let text = "since_version=".to_owned();
        Ok(Some(Plan { number: 0, text, uses, cost: 1e6, rows: 10, ordered: query.order().count() == 0 }))
    }

    fn open(&self, connection: Connection) -> Result<Cursor, FunctionError> {
        let opened = Replica::open(connection, Rc::clone(&self.state.environment));
        let replica = opened.map_err(|error| self.function.failure(&error.into()))?;
        Ok(Cursor { function: self.function, replica, since: 0, chunks: None, chunk: None, number: 0 })
    }
}

impl Cursor {
    fn begin(&mut self, args: &Args<'_>) -> Result<()> {
        let (given, wanted) = (args.get(0), "an integer from 0");
        let since = given.as_i64().and_then(|since| u64::try_from(since).ok());
        self.since = since.ok_or_else(|| self.function.wrong_argument(0, wanted, given))?;
        self.number = 0;
        self.chunk = None;
        self.chunks = Some(self.replica.chunks_after(self.since)?);
        self.advance()
    }

    fn advance(&mut self) -> Result<()> {
        // Freed first: only one chunk is ever in memory.
        self.chunk = None;
        self.number += 1;
        if let Some(chunks) = &mut self.chunks {
            self.chunk = chunks.next(&mut self.replica)?;
        }
        Ok(())
    }
}

impl TableCursor for Cursor {
    fn filter(&mut self, _plan: i32, args: &Args<'_>) -> Result<(), FunctionError> {
        self.begin(args).map_err(|error| self.function.failure(&error))
    }

    fn next(&mut self) -> Result<(), FunctionError> {
        self.advance().map_err(|error| self.function.failure(&error))
    }

    fn is_at_end(&self) -> bool {
        self.chunk.is_none()
    }

    fn column(&self, index: usize, sink: Sink<'_>) -> Result<(), FunctionError> {
        let Some(chunk) = &self.chunk else { return Ok(()) };
        let integer = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        sink.set(match index {
            0 => Value::Blob(&chunk.payload),
            1 => integer(chunk.first_version),
            2 => integer(chunk.last_version),
            3 => Value::Integer(i64::from(chunk.is_final)),
            _ => integer(self.since),
        });
        Ok(())
    }

    fn rowid(&self) -> Result<i64, FunctionError> {
        Ok(self.number)
    }
}
