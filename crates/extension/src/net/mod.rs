//! Syncing with a server: [`sync`] drives the session of `cloudsync_protocol::client` over a replica and a
//! [`Transport`].
//!
//! [`Http`] is the transport of the extension; `http` and `events` are the modules that open sockets. Tests and the simulator
//! bring their own.

#[cfg(feature = "net")]
mod events;
#[cfg(feature = "net")]
mod http;
#[cfg(feature = "net")]
mod proxy;
mod reply;
mod retry_after;
mod sync;
#[cfg(feature = "net")]
mod trust;

#[cfg(feature = "net")]
pub(crate) use events::{EventStop, Events, NotListening};
#[cfg(feature = "net")]
pub use http::{Http, Timeouts};
pub(crate) use reply::Judged;
pub use reply::{RETRY_AFTER_MS_MAX, Reply, Status};
pub(crate) use retry_after::retry_after_ms;
pub(crate) use sync::moment;
pub use sync::{Round, drive, sync};
#[cfg(feature = "net")]
pub(crate) use trust::read as read_trust;

use crate::connection_string::Address;
use cloudsync_protocol::message::Reason;

/// How long an exchange may take, and when it must end before.
#[derive(Clone, Copy)]
pub struct Patience<'p> {
    /// Milliseconds until the sync gives up; the transport's own limits may be shorter.
    pub left_ms: u64,
    /// Whether the host wishes to stop waiting; to be asked several times a second.
    pub is_interrupted: &'p dyn Fn() -> bool,
}

impl Patience<'static> {
    /// Waits as long as the transport does.
    #[must_use]
    pub const fn endless() -> Self {
        Self { left_ms: u64::MAX, is_interrupted: &|| false }
    }
}

/// Carries a request to the server and its answer back.
pub trait Transport {
    /// Where requests go, for the texts of errors.
    fn address(&self) -> &Address;

    /// Sends a request and waits for what comes back. Blocks; the transport bounds for how long, and how much it
    /// reads.
    fn exchange(&mut self, request: &[u8], patience: Patience<'_>) -> Reply;
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
    /// Something else answers there, and sends to another place.
    #[error(
        "not a cloudsync server at {server}: it redirects to {place}, where neither key nor data are sent. Sign in to \
         this network if it asks for that, or name the server that is meant with cloudsync_network_init"
    )]
    Moved {
        /// `HOST:PORT`.
        server: String,
        /// The place that it names.
        place: String,
    },
    /// The time of the sync was over before it was complete.
    #[error(
        "the sync with the server at {0} is not complete after its whole time: what was taken stays, sync again to go \
         on, or raise the setting network_total_ms"
    )]
    OutOfTime(String),
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
    /// The certificates of the setting `network_ca` cannot be used.
    #[error("setting network_ca: {0}")]
    Authority(String),
    /// The proxy of the environment cannot be used.
    #[error("{0}")]
    Proxy(String),
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
        Reason::PrincipalChanged => format!(
            "what is in this file was synced with the server at {server} as another user: go on with that user's token, \
             or call cloudsync_network_logout() first"
        ),
        Reason::BadPayload => format!("the server at {server} cannot read what was sent: {text}"),
        Reason::NeedSchema | Reason::ClockSkew | Reason::Clone | Reason::Restored | Reason::LostChunks => {
            format!("the server at {server} refused the sync again and again: {text}")
        }
    }
}
