//! A blocking HTTP(S) client for turns.

use crate::connection_string::{Address, Secret};
use crate::net::reply::is_passing;
use crate::net::{NetError, Patience, Reply, Status, Transport, proxy, retry_after_ms};
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use cloudsync_protocol::message::MEDIA_TYPE;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ureq::config::ConfigBuilder;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body, Error, Timeout};

/// The header that every answer of a cloudsync server bears.
const PROTOCOL_HEADER: &str = "cloudsync-protocol";
/// Bytes of a request from which on the server is asked first whether it wants them: a refused key then costs nothing,
/// and the refusal is not lost behind a connection that the server closes.
const ASK_FIRST_BYTES: usize = 64 * 1024;
/// Most bytes that are read of an error's body.
const ERROR_BODY_BYTES_MAX: u64 = 64 * 1024;
/// Most characters that are shown of the server's words.
const ERROR_TEXT_CHARS_MAX: usize = 4096;
/// Redirects of one exchange that are followed, all of them within the server.
const REDIRECTS_MAX: u32 = 3;
/// How often the host's wish to interrupt is looked for.
const WAIT_SLICE: Duration = Duration::from_millis(50);

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
/// Redirects are followed only within the server, that is to the same scheme, host and port, and only with 307 and 308,
/// which keep the request as it is: neither key nor data go to any other place. Proxies of the environment
/// (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) are used except to this machine. Certificates are judged by
/// the system's store, or by a private one.
///
/// A request runs on a thread of its own, so that a host that interrupts is not held up by a server that hangs: its
/// connection is shut then, which ends the thread.
pub struct Http {
    client: Arc<Client>,
}

struct Client {
    agent: Agent,
    address: Address,
    secret: Option<Secret>,
    timeouts: Timeouts,
}

impl Http {
    /// A client that has not connected yet. `authority` is the value of the setting `network_ca`.
    ///
    /// # Errors
    /// When the certificates cannot be read, or the environment names a proxy of an unknown kind.
    pub fn new(
        address: Address,
        secret: Option<Secret>,
        timeouts: Timeouts,
        authority: Option<&str>,
    ) -> Result<Self, NetError> {
        let agent = way_to(&address, authority)?
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.answer))
            .timeout_global(Some(timeouts.whole))
            .build()
            .new_agent();
        Ok(Self { client: Arc::new(Client { agent, address, secret, timeouts }) })
    }
}

/// How connections to a server are made: by which proxy, and by whose word it is trusted.
///
/// # Errors
/// As [`Http::new`].
pub(super) fn way_to(
    address: &Address,
    authority: Option<&str>,
) -> Result<ConfigBuilder<AgentScope>, NetError> {
    let read = |name: &str| std::env::var(name).ok();
    let proxy = match address.is_loopback() {
        true => None,
        false => proxy::choose(address.host(), address.port(), address.is_plain(), read)
            .map_err(NetError::Proxy)?,
    };
    let roots = match authority {
        Some(setting) => crate::net::read_trust(setting).map_err(NetError::Authority)?,
        None => RootCerts::PlatformVerifier,
    };
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .https_only(!address.is_plain())
        .proxy(proxy)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .user_agent(concat!("cloudsync/", env!("CARGO_PKG_VERSION"))))
}

impl Transport for Http {
    fn address(&self) -> &Address {
        &self.client.address
    }

    fn exchange(&mut self, request: &[u8], patience: Patience<'_>) -> Reply {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (client, sent) = (Arc::clone(&self.client), request.to_vec());
        let left = Duration::from_millis(patience.left_ms);
        let act = move || {
            // Nobody listens any more when the host has interrupted.
            let _ = sender.send(client.exchange(&sent, left));
        };
        if thread::Builder::new().name("cloudsync-http".into()).spawn(act).is_err() {
            // Without a thread it works as well, only not to be interrupted.
            return self.client.exchange(request, left);
        }
        loop {
            match receiver.recv_timeout(WAIT_SLICE) {
                Ok(reply) => return reply,
                Err(RecvTimeoutError::Timeout) if (patience.is_interrupted)() => {
                    self.client.agent.clone().shutdown();
                    return Reply::Interrupted;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Reply::Broken("the request ended without a result".into());
                }
            }
        }
    }
}

impl Client {
    fn exchange(&self, request: &[u8], left: Duration) -> Reply {
        let mut url = self.address.sync_url();
        for _ in 0..=REDIRECTS_MAX {
            let response = match self.send(&url, request, left) {
                Ok(response) => response,
                Err(error) => return self.fail(error, left),
            };
            if !response.status().is_redirection() {
                return self.read(response, left);
            }
            let location = header(response.headers(), "location").unwrap_or_default();
            match self.within(location).filter(|_| matches!(response.status().as_u16(), 307 | 308)) {
                Some(next) => url = next,
                None => {
                    return Reply::Moved(self.redact(if location.is_empty() { "nowhere" } else { location }));
                }
            }
        }
        Reply::Moved("itself, again and again".into())
    }

    fn send(&self, url: &str, request: &[u8], left: Duration) -> Result<Response<Body>, Error> {
        let mut builder =
            self.agent.post(url).header("content-type", MEDIA_TYPE).header("accept", MEDIA_TYPE);
        if let Some(secret) = &self.secret {
            builder = builder.header("authorization", format!("Bearer {}", secret.expose()));
        }
        if request.len() >= ASK_FIRST_BYTES {
            builder = builder.header("expect", "100-continue");
        }
        if left < self.timeouts.whole {
            builder = builder.config().timeout_global(Some(left)).build();
        }
        builder.send(request)
    }

    /// The URL of a redirect, if it leads to the same scheme, host and port.
    fn within(&self, location: &str) -> Option<String> {
        let origin = self.address.origin();
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(format!("{origin}{location}"));
        }
        let uri: Uri = location.parse().ok()?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default_port);
        let its_origin = format!("{}://{}:{port}", uri.scheme_str()?, authority.host().to_ascii_lowercase());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        (its_origin == origin).then(|| format!("{origin}{path}"))
    }

    fn read(&self, mut response: Response<Body>, left: Duration) -> Reply {
        let status = response.status().as_u16();
        let ours = response.headers().contains_key(PROTOCOL_HEADER);
        if !ours && !is_passing(status) {
            return Reply::Foreign;
        }
        if response.status().is_success() {
            let body = response.body_mut().with_config().limit(MESSAGE_BYTES_MAX as u64).read_to_vec();
            return body.map_or_else(|error| self.fail(error, left), Reply::Answered);
        }
        let headers = response.headers();
        let asked_ms = header(headers, "retry-after")
            .map_or(0, |text| retry_after_ms(text, header(headers, "date"), now_ms()));
        let body = if ours {
            response.body_mut().with_config().limit(ERROR_BODY_BYTES_MAX).read_to_vec().unwrap_or_default()
        } else {
            Vec::new()
        };
        let status = Status::read(status, &body, asked_ms, self.secret.is_some());
        let (code, message) = (self.redact(&status.code), self.redact(&status.message));
        Reply::Status(Status { code, message, ..status })
    }

    fn fail(&self, error: Error, left: Duration) -> Reply {
        let waited = |limit: Duration| format!("no answer within {} seconds", limit.as_secs_f32());
        match error {
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Reply::Unreachable(waited(self.timeouts.connect))
            }
            Error::Timeout(Timeout::RecvResponse) => Reply::Broken(waited(self.timeouts.answer)),
            Error::Timeout(_) => Reply::Broken(waited(self.timeouts.whole.min(left))),
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
            Error::ConnectProxyFailed(reason) => Reply::Unreachable(
                self.redact(&format!("the proxy of the environment does not help: {reason}")),
            ),
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

/// Says what the two usual failures of TLS mean. The texts are those of rustls, which is not ours to match by type.
fn explain_tls(text: String) -> String {
    if text.contains("InvalidContentType") {
        return "it does not speak TLS; plain HTTP to another machine needs http:// and ?insecure=1"
            .to_owned();
    }
    if text.contains("invalid peer certificate") {
        return format!(
            "its certificate is not trusted here: {text}. For one of a private authority set its certificate with \
             cloudsync_set('network_ca', '<path of a PEM file>')"
        );
    }
    text
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The wall clock, milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
