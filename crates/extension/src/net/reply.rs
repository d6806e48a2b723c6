//! What came back from the server, and what it means for the sync.

use crate::net::NetError;
use cloudsync_protocol::message::{Answer, MessageError, Refusal};
use serde_json::Value as Json;

/// Longest pause that a server may ask for, in milliseconds.
pub const RETRY_AFTER_MS_MAX: u64 = 60_000;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A cloudsync server answered; the bytes should be an answer of the protocol.
    Answered(Vec<u8>),
    /// A server answered with another HTTP status than success.
    Status(Status),
    /// What answered does not speak our protocol.
    Foreign,
    /// What answered sends to another place, which is named here. The request did not go there.
    Moved(String),
    /// The connection broke off or fell silent after the request was sent, with the reason. Whether the server took
    /// it is unknown.
    Broken(String),
    /// No connection was made, with the reason.
    Unreachable(String),
    /// The host wished to stop waiting.
    Interrupted,
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

/// A reply as the session takes it.
#[derive(Debug)]
pub(crate) enum Judged {
    /// The bytes are a turn.
    Turn(Vec<u8>),
    /// The server refused the turn.
    Refusal(Refusal),
    /// This may pass, and is worth another attempt.
    Passing {
        /// What happened.
        failure: NetError,
        /// Milliseconds that the server asks to wait.
        retry_after_ms: u64,
    },
}

impl Reply {
    /// Says what a reply of the server `server` (`HOST:PORT`) for its database means, or that no other attempt helps.
    pub(crate) fn judge(self, server: String, database: &str) -> Result<Judged, NetError> {
        let passing = |failure| Ok(Judged::Passing { failure, retry_after_ms: 0 });
        match self {
            Self::Answered(bytes) => judge_answer(bytes, server),
            Self::Status(status) => judge_status(status, server, database),
            Self::Foreign => Err(NetError::Foreign(server)),
            Self::Moved(place) => Err(NetError::Moved { server, place }),
            Self::Broken(reason) => passing(NetError::Broken { server, reason }),
            Self::Unreachable(reason) => passing(NetError::Unreachable { server, reason }),
            Self::Interrupted => Err(NetError::Interrupted),
        }
    }
}

impl Status {
    /// The status with code and message of a body `{"error":{"code":"...","message":"..."}}`; empty where it has none.
    pub(crate) fn read(status: u16, body: &[u8], retry_after_ms: u64, had_key: bool) -> Self {
        let body: Json = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        Self { status, code: text("code"), message: text("message"), retry_after_ms, had_key }
    }
}

/// True for a status that gateways and proxies before the server answer in their own name, and that may pass.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..)
}

/// Tells turns and refusals apart. Bytes that are damaged may come whole the next time.
fn judge_answer(bytes: Vec<u8>, server: String) -> Result<Judged, NetError> {
    let error = match Answer::decode(&bytes) {
        Ok(Answer::Turn(_)) => return Ok(Judged::Turn(bytes)),
        Ok(Answer::Refusal(refusal)) => return Ok(Judged::Refusal(refusal)),
        Err(error) => error,
    };
    match error {
        MessageError::NotCloudsync => Err(NetError::Foreign(server)),
        MessageError::Version(_) => Err(NetError::Version { server, reason: error.to_string() }),
        error => {
            let failure = NetError::Broken { server, reason: error.to_string() };
            Ok(Judged::Passing { failure, retry_after_ms: 0 })
        }
    }
}

fn judge_status(answer: Status, server: String, database: &str) -> Result<Judged, NetError> {
    let Status { status, code, message, retry_after_ms, had_key } = answer;
    let retry_after_ms = retry_after_ms.min(RETRY_AFTER_MS_MAX);
    match (status, code.as_str()) {
        (401 | 403, _) if !had_key => Err(NetError::NoKey(server)),
        (401 | 403, _) => Err(NetError::RefusedKey(server)),
        (404, "CLOUDSYNC_UNKNOWN_DATABASE") => {
            Err(NetError::UnknownDatabase { server, database: database.to_owned() })
        }
        (429, _) | (503, "CLOUDSYNC_BUSY") => {
            Ok(Judged::Passing { failure: NetError::Busy(server), retry_after_ms })
        }
        (status, _) if is_passing(status) => {
            Ok(Judged::Passing { failure: NetError::Status { server, status, message }, retry_after_ms })
        }
        (status, _) => Err(NetError::Status { server, status, message }),
    }
}
