//! Every refusal and failure as an HTTP answer: `{"error":{"code":"CLOUDSYNC_...","message":"..."}}`.

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use cloudsync_protocol::message::{MEDIA_TYPE, MessageError};

/// Why a request is not answered as it asked. The texts tell the caller what to do, and never what only the server's
/// owner may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// The key or token is missing, unknown, expired, revoked, or opens another database.
    RefusedKey,
    /// The key or token is good, but not for this.
    Forbidden(&'static str),
    /// There is no such database; said only to keys that open all of them.
    UnknownDatabase(String),
    /// The body is no request, or did not arrive whole.
    BadRequest(String),
    /// The body is not declared as a request.
    MediaType,
    /// The body is larger than a request may be. With the most bytes that it may have.
    TooLarge(usize),
    /// The caller asks for more than its share. With the seconds after which it may ask again.
    TooMany(u64),
    /// The server has too much to do; the details are in its log.
    Busy,
    /// The server failed; the details are in its log.
    Internal,
    /// The server runs, but cannot serve. With the reason.
    NotReady(String),
    /// There is no such token in the database.
    NoToken,
    /// There is nothing at this path.
    NotFound,
    /// The path exists, but not for this method.
    Method,
}

/// The code of an error, beside the answer that says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorCode(pub(super) &'static str);

impl HttpError {
    /// The status, and the code that programs look at.
    #[must_use]
    pub fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::RefusedKey => (StatusCode::UNAUTHORIZED, "CLOUDSYNC_REFUSED_KEY"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "CLOUDSYNC_FORBIDDEN"),
            Self::UnknownDatabase(_) => (StatusCode::NOT_FOUND, "CLOUDSYNC_UNKNOWN_DATABASE"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "CLOUDSYNC_BAD_REQUEST"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "CLOUDSYNC_BAD_MEDIA_TYPE"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "CLOUDSYNC_TOO_LARGE"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "CLOUDSYNC_TOO_MANY"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "CLOUDSYNC_BUSY"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "CLOUDSYNC_INTERNAL"),
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "CLOUDSYNC_NOT_READY"),
            Self::NoToken => (StatusCode::NOT_FOUND, "CLOUDSYNC_UNKNOWN_TOKEN"),
            Self::NotFound => (StatusCode::NOT_FOUND, "CLOUDSYNC_NOT_FOUND"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "CLOUDSYNC_BAD_METHOD"),
        }
    }

    /// The text for people.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::RefusedKey => {
                "the API key or token is missing, unknown, expired, revoked or not for this database: see \
                 `cloudsync key list` and `cloudsync token list`"
                    .into()
            }
            Self::UnknownDatabase(name) => {
                format!("there is no database {name:?}: create it with `cloudsync db create`")
            }
            Self::Forbidden(text) => (*text).to_owned(),
            Self::BadRequest(text) | Self::NotReady(text) => text.clone(),
            Self::MediaType => format!("the body must be {MEDIA_TYPE}"),
            Self::TooLarge(most) => format!("the body is larger than {most} bytes: send smaller chunks"),
            Self::TooMany(seconds) => format!("too many requests or listeners: try again after {seconds} s"),
            Self::Busy => "the server is busy: try again".into(),
            Self::Internal => "the server failed: its log says why, under the id of this request".into(),
            Self::NoToken => "there is no such token in this database: GET .../tokens lists them".into(),
            Self::NotFound => {
                "there is nothing here: POST /v1/databases/{database}/sync syncs, GET .../events listens"
                    .into()
            }
            Self::Method => "this path takes another method".into(),
        }
    }
}

impl From<MessageError> for HttpError {
    fn from(error: MessageError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let (status, code) = self.code();
        let body = Json(json!({ "error": { "code": code, "message": self.message() } }));
        let mut response = (status, body).into_response();
        // For the log line of the request.
        response.extensions_mut().insert(ErrorCode(code));
        let header = match self {
            Self::RefusedKey => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::Busy | Self::NotReady(_) => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::TooMany(seconds) => Some((RETRY_AFTER, HeaderValue::from(seconds))),
            // What is left of the body would be read as the next request.
            Self::TooLarge(_) => Some((CONNECTION, HeaderValue::from_static("close"))),
            Self::UnknownDatabase(_) | Self::BadRequest(_) | Self::MediaType | Self::Forbidden(_) => None,
            Self::Internal | Self::NoToken | Self::NotFound | Self::Method => None,
        };
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
