//! What can go wrong in a replica, and of which kind it is.

use cloudsync_core::bytes::BytesError;
use cloudsync_protocol::message::MessageError;
use cloudsync_protocol::payload::PayloadError;
use cloudsync_sqlite_ffi as ffi;

/// The result of a call into a replica.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call. The text names the thing and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] ffi::Error),
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The right call at the wrong moment.
    #[error("{0}")]
    State(String),
    /// A table is being altered: nothing of it can be sent or received.
    #[error("{0}")]
    Altering(String),
    /// A trigger rolled back the transaction of an apply.
    #[error("{0}")]
    RolledBack(String),
    /// Another connection holds the file.
    #[error("database is busy: {0}; try again, or raise the setting busy_ms")]
    Busy(String),
    /// Our own stored data cannot be read.
    #[error(
        "stored data is damaged: {0}; restore the file from a backup, or remove the table with cloudsync_cleanup and sync again"
    )]
    Corrupt(String),
    /// Something is larger than may be.
    #[error("{0}")]
    Limit(String),
    /// A payload cannot be read.
    #[error("payload refused: {0}")]
    Payload(#[from] PayloadError),
    /// A message of the peer cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Changes are stamped too far ahead of the clock here.
    #[error("clock_ahead: {0}")]
    ClockAhead(String),
    /// The peer broke the rules of the protocol.
    #[error("{0}")]
    Protocol(String),
    /// Pieces of large values are missing or damaged.
    #[error("{0}")]
    Incomplete(String),
}

/// What kind of failure an error is; it alone decides on result codes and on retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The caller's mistake.
    Usage,
    /// The right call, the wrong moment.
    State,
    /// The peer broke the rules.
    Protocol,
    /// Our stored data is damaged.
    Corrupt,
    /// Too large.
    Limit,
    /// Trying again may help.
    Transient,
    /// SQLite or the disk failed.
    Storage,
}

impl Error {
    /// The class of the error.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Sqlite(error) if error.is_busy() => Class::Transient,
            Self::Sqlite(error) if error.is_readonly() => Class::State,
            Self::Sqlite(_) => Class::Storage,
            Self::Usage(_) => Class::Usage,
            Self::State(_) | Self::Altering(_) | Self::RolledBack(_) => Class::State,
            Self::Busy(_) => Class::Transient,
            Self::Corrupt(_) => Class::Corrupt,
            Self::Limit(_) => Class::Limit,
            Self::Payload(_)
            | Self::Message(_)
            | Self::ClockAhead(_)
            | Self::Protocol(_)
            | Self::Incomplete(_) => Class::Protocol,
        }
    }

    /// True when the same call may succeed later.
    #[must_use]
    pub fn can_retry(&self) -> bool {
        self.class() == Class::Transient
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn state(text: impl Into<String>) -> Self {
        Self::State(text.into())
    }

    pub(crate) fn corrupt(text: impl Into<String>) -> Self {
        Self::Corrupt(text.into())
    }
}

/// Bytes that this replica stored itself do not decode: damage, never the peer's fault.
impl From<BytesError> for Error {
    fn from(error: BytesError) -> Self {
        Self::Corrupt(error.to_string())
    }
}
