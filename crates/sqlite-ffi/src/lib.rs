//! A thin, safe layer over the table of functions (`sqlite3_api_routines`) that SQLite hands to an extension.
//!
//! It works with SQLite 3.35 and newer, as a loadable extension and in-process, and with several SQLite libraries in
//! one process: there is no global pointer, every [`Connection`] carries the [`Api`] of its library.
//!
//! A loadable extension's entry point is one call:
//!
//! ```no_run
//! use std::ffi::{c_char, c_int};
//! use cloudsync_sqlite_ffi::bindings::{Sqlite3ApiRoutines, sqlite3};
//! use cloudsync_sqlite_ffi::{Connection, FunctionError, FunctionFlags, Hosting, Output, entry_point};
//!
//! # fn main() {}
//! fn register(connection: Connection) -> Result<(), String> {
//!     connection
//!         .create_function("double", 1, FunctionFlags::DETERMINISTIC, |_context, args| {
//!             match args.get(0).as_i64() {
//!                 Some(number) => Ok(Output::Integer(number.wrapping_mul(2))),
//!                 None => Err(FunctionError::from("double() wants an integer")),
//!             }
//!         })
//!         .map_err(|error| error.to_string())
//! }
//!
//! #[unsafe(no_mangle)]
//! pub unsafe extern "C" fn sqlite3_double_init(
//!     db: *mut sqlite3,
//!     message: *mut *mut c_char,
//!     api: *const Sqlite3ApiRoutines,
//! ) -> c_int {
//!     // SAFETY: SQLite calls the entry point with an open connection and its own table.
//!     unsafe { entry_point(db, message, api, Hosting::Loadable, register) }
//! }
//! ```
//!
//! A host with its own SQLite (the server, tests) registers [`capture_api`] through `sqlite3_auto_extension` once,
//! opens a connection, and wraps its handle with [`Connection::from_raw`].
//!
//! # Threads
//! SQLite allows a connection to move between threads; the types here are not `Send`, and functions registered with
//! [`Connection::create_function`] run on whatever thread uses the connection. The promise given to
//! [`Connection::from_raw`] is that this is one thread at a time.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

/// Calls an entry of the API table: `call!(api, step(statement))`. The caller says why that is safe.
macro_rules! call {
    ($api:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match $api.table().$name {
            Some(function) => function($($argument),*),
            None => $crate::api::missing(stringify!($name)),
        }
    };
}

mod api;
pub mod bindings;
mod blob;
mod connection;
mod entry;
mod error;
mod function;
mod open;
mod shelf;
mod state;
mod statement;
mod trampoline;
mod transaction;
mod value;
mod vtab;

pub use api::{Api, MIN_VERSION};
pub use blob::Blob;
pub use connection::Connection;
pub use entry::{Hosting, capture_api, captured_api, entry_point};
pub use error::{Error, Result};
pub use function::{Args, Context, FunctionError, FunctionFlags, Output};
pub use shelf::{OpenShelf, Shelf};
pub use state::{ColumnMetadata, TransactionState};
pub use statement::Statement;
pub use transaction::{Savepoint, Transaction};
pub use value::Value;
pub use vtab::{Constraint, Operator, Order, Plan, Query, Sink, TableCursor, TableFunction, Use};
