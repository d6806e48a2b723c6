//! Syncing with a server: [`sync`] drives the session of `cloudsync_protocol::client` over a replica and a
//! [`Transport`].
//!
//! [`Http`] is the transport of the extension, and `http` the one module that opens sockets. Tests and the simulator
//! bring their own.

#[cfg(feature = "net")]
mod http;
mod sync;

#[cfg(feature = "net")]
pub use http::{Http, Timeouts};
pub use sync::{Round, sync};

use crate::connection_string::Address;
use cloudsync_protocol::message::Reason;

/// Longest pause that a server may ask for, in milliseconds.
pub const RETRY_AFTER_MS_MAX: u64 = 60_000;

/// Carries a request to the server and its answer back.
pub trait Transport {
    /// Where requests go, for the texts of errors.
    fn address(&self) -> &Address;

    /// Sends a request and waits for what comes back. Blocks; the transport bounds for how long, and how much it
    /// reads.
    fn exchange(&mut self, request: &[u8]) -> Reply;
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A cloudsync server answered; the bytes should be an answer of the protocol.
    Answered(Vec<u8>),
    /// A server answered with another HTTP status than success.
    Status(Status),
    /// What answered does not speak our protocol.
    Foreign,
    /// The connection broke off or fell silent after the request was sent, with the reason. Whether the server took
    /// it is unknown.
    Broken(String),
    /// No connection was made, with the reason.
    Unreachable(String),
}

/// An HTTP answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The HTTP status.
    pub status: u16,
    /// The code for programs, `CLOUDSYNC_...`; empty if the answer had none.
    pub code: String,
    /// The text for people; empty if the answer had none.
    pub message: String,
    /// How long the server asks to wait, in milliseconds; 0 if it does not.
    pub retry_after_ms: u64,
    /// True when the request bore a key.
    pub had_key: bool,
}

/// A sync that did not succeed. Data and unsent changes are untouched, and the next one goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// No connection was made.
    #[error("cannot reach the server at {server}: {reason}")]
    Unreachable {
        /// `HOST:PORT`.
        server: String,
        /// Why.
        reason: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to the server at {server} broke off: {reason}; sync again")]
    Broken {
        /// `HOST:PORT`.
        server: String,
        /// Why.
        reason: String,
    },
    /// Something else answers there.
    #[error("not a cloudsync server at {0}")]
    Foreign(String),
    /// The server wants a key and got none.
    #[error("the server at {0} wants a key: call cloudsync_network_set_apikey with it")]
    NoKey(String),
    /// The server does not take the key.
    #[error("the server at {0} refused the key: call cloudsync_network_set_apikey with a valid one")]
    RefusedKey(String),
    /// The server has no such database.
    #[error(
        "the server at {server} has no database \"{database}\": create it there with `cloudsync db create {database}`"
    )]
    UnknownDatabase {
        /// `HOST:PORT`.
        server: String,
        /// The name.
        database: String,
    },
    /// The server has too much to do.
    #[error("the server at {0} is busy: sync again later")]
    Busy(String),
    /// The server answered with a failure.
    #[error("the server at {server} answered HTTP {status}{}", behind_colon(.message))]
    Status {
        /// `HOST:PORT`.
        server: String,
        /// The HTTP status.
        status: u16,
        /// The server's words; may be empty.
        message: String,
    },
    /// The server speaks another version of the protocol.
    #[error("the server at {server} cannot sync with this library: {reason}")]
    Version {
        /// `HOST:PORT`.
        server: String,
        /// Which versions.
        reason: String,
    },
    /// The server refused the turn.
    #[error("{}", refusal(*.reason, .server, .text))]
    Refused {
        /// `HOST:PORT`.
        server: String,
        /// Why.
        reason: Reason,
        /// The server's words.
        text: String,
    },
    /// The host interrupted the statement.
    #[error("interrupted")]
    Interrupted,
    /// The library was built without its own network.
    #[error(
        "this library was built without network: exchange payloads with cloudsync_payload_encode and cloudsync_payload_apply"
    )]
    NotBuilt,
}

fn behind_colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn refusal(reason: Reason, server: &str, text: &str) -> String {
    match reason {
        Reason::SchemaConflict => format!("the tables here and on the server at {server} differ: {text}"),
        Reason::Denied => format!("the server at {server} denies it: {text}"),
        Reason::BadPayload => format!("the server at {server} cannot read what was sent: {text}"),
        Reason::NeedSchema | Reason::ClockSkew | Reason::Clone | Reason::Restored | Reason::LostChunks => {
            format!("the server at {server} refused the sync again and again: {text}")
        }
    }
}
