//! The loadable extension: SQL functions, network, entry point.
//!
//! [`functions::FUNCTIONS`] lists every SQL function; registering, checking of arguments and `docs/sql.md` all come
//! from that one table. [`net`] syncs with a server,
//! `auto` does so in the background. The work itself is `cloudsync_replica`'s: a call opens a
//! [`Replica`](cloudsync_replica::Replica) on the connection that it came through and drops it at its end, so nothing
//! stays open between calls and a connection can always be closed.
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "net")]
mod auto;
mod calendar;
pub mod connection_string;
mod entry;
mod error;
pub mod functions;
pub mod net;
mod state;

pub use entry::{auto_init, sqlite3_cloudsync_init};
pub use error::{Error, Result};
