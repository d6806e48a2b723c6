//! The one module that opens sockets: a blocking HTTP(S) client for one sync.

use crate::connection_string::{Address, Secret};
use crate::net::{Reply, Status, Transport};
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use cloudsync_protocol::message::MEDIA_TYPE;
use std::io::ErrorKind;
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Error, Proxy, Timeout};

/// The header that every answer of a cloudsync server bears.
const PROTOCOL_HEADER: &str = "cloudsync-protocol";
/// Bytes of a request from which on the server is asked first whether it wants them: a refused key then costs nothing,
/// and the refusal is not lost behind a connection that the server closes.
const ASK_FIRST_BYTES: usize = 64 * 1024;
/// Most bytes that are read of an error's body.
const ERROR_BODY_BYTES_MAX: u64 = 64 * 1024;
/// Most characters that are shown of the server's words.
const ERROR_TEXT_CHARS_MAX: usize = 4096;

/// How long to wait for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, names and TLS included.
    pub connect: Duration,
    /// For the beginning of the answer, once the request is sent.
    pub answer: Duration,
    /// For one request and its answer as a whole.
    pub whole: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(120),
            whole: Duration::from_secs(600),
        }
    }
}

/// HTTP to one server. Connections are kept for the next turn and closed on drop.
///
/// Redirects are not followed: the key is for this server alone. Proxies of the environment (`HTTPS_PROXY`,
/// `NO_PROXY`, ...) are used except to this machine. Certificates are judged by the system's store.
pub struct Http {
    agent: Agent,
    address: Address,
    secret: Option<Secret>,
    timeouts: Timeouts,
}

impl Http {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(address: Address, secret: Option<Secret>, timeouts: Timeouts) -> Self {
        let proxy = if address.is_loopback() { None } else { Proxy::try_from_env() };
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(!address.is_plain())
            .proxy(proxy)
            .tls_config(tls)
            .user_agent(concat!("cloudsync/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.answer))
            .timeout_global(Some(timeouts.whole))
            .build()
            .new_agent();
        Self { agent, address, secret, timeouts }
    }

    fn read(&self, mut response: Response<Body>) -> Reply {
        let status = response.status().as_u16();
        let ours = response.headers().contains_key(PROTOCOL_HEADER);
        // A gateway before the server answers these in its own name.
        let gateway = matches!(status, 429 | 502..=504);
        if !ours && !gateway {
            return Reply::Foreign;
        }
        if response.status().is_success() {
            let body = response.body_mut().with_config().limit(MESSAGE_BYTES_MAX as u64).read_to_vec();
            return body.map_or_else(|error| self.fail(error), Reply::Answered);
        }
        let retry_after_ms = retry_after_ms(response.headers());
        let body = if ours {
            response.body_mut().with_config().limit(ERROR_BODY_BYTES_MAX).read_to_vec().unwrap_or_default()
        } else {
            Vec::new()
        };
        let (code, message) = read_error(&body);
        let (code, message) = (self.redact(&code), self.redact(&message));
        Reply::Status(Status { status, code, message, retry_after_ms, had_key: self.secret.is_some() })
    }

    fn fail(&self, error: Error) -> Reply {
        let waited = |limit: Duration| format!("no answer within {} seconds", limit.as_secs_f32());
        match error {
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Reply::Unreachable(waited(self.timeouts.connect))
            }
            Error::Timeout(Timeout::RecvResponse) => Reply::Broken(waited(self.timeouts.answer)),
            Error::Timeout(_) => Reply::Broken(waited(self.timeouts.whole)),
            Error::Protocol(_) | Error::LargeResponseHeader(..) => Reply::Foreign,
            Error::BodyExceedsLimit(limit) => {
                Reply::Broken(format!("the answer is larger than {limit} bytes"))
            }
            Error::Io(error) => match error.kind() {
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::WriteZero => Reply::Broken(self.redact(&error.to_string())),
                _ => Reply::Unreachable(self.redact(&explain_tls(error.to_string()))),
            },
            Error::HostNotFound => Reply::Unreachable("no host of this name is known".to_owned()),
            other => Reply::Unreachable(self.redact(&explain_tls(other.to_string()))),
        }
    }

    /// A text of the server's or the system's, fit to be shown: bounded, in one line, without the key.
    fn redact(&self, text: &str) -> String {
        let text = match &self.secret {
            Some(secret) => text.replace(secret.expose(), "(the key)"),
            None => text.to_owned(),
        };
        let shown = text.chars().take(ERROR_TEXT_CHARS_MAX);
        shown.map(|char| if char.is_control() { ' ' } else { char }).collect()
    }
}

impl Transport for Http {
    fn address(&self) -> &Address {
        &self.address
    }

    fn exchange(&mut self, request: &[u8]) -> Reply {
        let url = self.address.sync_url();
        let mut builder =
            self.agent.post(&url).header("content-type", MEDIA_TYPE).header("accept", MEDIA_TYPE);
        if let Some(secret) = &self.secret {
            builder = builder.header("authorization", format!("Bearer {}", secret.expose()));
        }
        if request.len() >= ASK_FIRST_BYTES {
            builder = builder.header("expect", "100-continue");
        }
        match builder.send(request) {
            Ok(response) => self.read(response),
            Err(error) => self.fail(error),
        }
    }
}

/// Says what the two usual failures of TLS mean. The texts are those of rustls, which is not ours to match by type.
fn explain_tls(text: String) -> String {
    if text.contains("InvalidContentType") {
        return "it does not speak TLS; plain HTTP to another machine needs http:// and ?insecure=1"
            .to_owned();
    }
    if text.contains("invalid peer certificate") {
        return format!("its certificate is not trusted by this system: {text}");
    }
    text
}

/// Seconds, as our server sends them; dates are not understood.
fn retry_after_ms(headers: &HeaderMap) -> u64 {
    let seconds =
        headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    seconds.unwrap_or(0).saturating_mul(1000)
}

/// Code and message of `{"error":{"code":"...","message":"..."}}`; empty where there are none.
fn read_error(body: &[u8]) -> (String, String) {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"))
}
