//! What can go wrong in a function, and the result code that it becomes.

use crate::connection_string::ConnectionStringError;
use crate::net::NetError;
use cloudsync_replica as replica;
use cloudsync_replica::Class;
use cloudsync_sqlite_ffi::{self as ffi, bindings};

/// The result of a function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call. The text names the thing and what to do; the function's name is put before it when it reaches SQL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database or what came from a peer.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] ffi::Error),
    /// A wrong argument, or the right one at the wrong moment.
    #[error("{0}")]
    Usage(String),
    /// A connection string that cannot be read.
    #[error(transparent)]
    ConnectionString(#[from] ConnectionStringError),
    /// The sync with the server did not succeed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A file cannot be read or written.
    #[error("cannot {act} the file {path}: {reason}")]
    File {
        /// `read` or `write`.
        act: &'static str,
        /// The path as given.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// Something is larger than may be.
    #[error("{0}")]
    Limit(String),
}

impl Error {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// The SQLite result code of the failed statement.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Sqlite(error) | Self::Replica(replica::Error::Sqlite(error)) => {
                match error.primary_code() {
                    // SQLite would compile the statement again and repeat the call.
                    bindings::SQLITE_SCHEMA => bindings::SQLITE_ERROR,
                    _ => error.code,
                }
            }
            Self::Replica(error) => match error.class() {
                Class::Transient => bindings::SQLITE_BUSY,
                Class::Corrupt => bindings::SQLITE_CORRUPT,
                Class::Limit => bindings::SQLITE_TOOBIG,
                Class::Usage | Class::State | Class::Protocol | Class::Storage => bindings::SQLITE_ERROR,
            },
            Self::Limit(_) => bindings::SQLITE_TOOBIG,
            Self::Net(NetError::Interrupted) => bindings::SQLITE_INTERRUPT,
            Self::Net(_) | Self::Usage(_) | Self::ConnectionString(_) => bindings::SQLITE_ERROR,
            Self::File { .. } => bindings::SQLITE_ERROR,
        }
    }
}
