//! The connection on which a server tells that there is something new: server-sent events over a held HTTP request.

use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use ureq::{Agent, BodyReader};

use crate::connection_string::{Address, Secret};
use crate::net::NetError;
use crate::net::http::way_to;

const CONNECT_WAIT: Duration = Duration::from_secs(10);
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long the server may be silent: two of its heartbeats, and some.
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 1024;

/// A connection that is being made, or listened to.
pub(crate) struct Events {
    agent: Agent,
    url: String,
    authorization: String,
    reader: Option<BufReader<BodyReader<'static>>>,
}

/// Ends an [`Events`] from another thread, whatever it waits for.
pub(crate) struct EventStop(Agent);

impl EventStop {
    pub(crate) fn stop(self) {
        self.0.shutdown();
    }
}

/// Why there is nothing to listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotListening {
    /// The server has no events, or does not take the key: trying again at once is no use.
    Refused,
    /// The server could not be reached, or is busy.
    Lost,
}

impl Events {
    /// A connection that is not open yet.
    ///
    /// # Errors
    /// As [`Http::new`](crate::net::Http::new), for the same reasons.
    pub(crate) fn new(address: &Address, secret: &Secret, authority: Option<&str>) -> Result<Self, NetError> {
        let agent = way_to(address, authority)?
            .timeout_connect(Some(CONNECT_WAIT))
            .timeout_recv_response(Some(ANSWER_WAIT))
            .timeout_per_read(Some(SILENCE_MAX))
            .build()
            .new_agent();
        let authorization = format!("Bearer {}", secret.expose());
        Ok(Self { agent, url: address.events_url(), authorization, reader: None })
    }

    pub(crate) fn stopper(&self) -> EventStop {
        EventStop(self.agent.clone())
    }

    /// Asks for the events of a site that has everything up to `cursor`.
    pub(crate) fn open(&mut self, site: &str, cursor: u64) -> Result<(), NotListening> {
        let url = format!("{}?site={site}&cursor={cursor}", self.url);
        let request = self.agent.get(&url).header("authorization", &self.authorization);
        let response =
            request.header("accept", "text/event-stream").call().map_err(|_| NotListening::Lost)?;
        match response.status().as_u16() {
            200 if is_event_stream(&response) => {}
            200 | 400..=499 => return Err(NotListening::Refused),
            _ => return Err(NotListening::Lost),
        }
        self.reader = Some(BufReader::new(response.into_body().into_reader()));
        Ok(())
    }

    /// Waits for the next line: a version that the server tells, or a sign of life. `None` when the connection ended.
    pub(crate) fn next(&mut self) -> Option<Option<u64>> {
        let mut line = Vec::new();
        let read = self.reader.as_mut()?.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if !line.ends_with(b"\n") || read.is_err() {
            return None;
        }
        let text = std::str::from_utf8(&line).ok()?.trim_end();
        Some(text.strip_prefix("data:").and_then(|version| version.trim().parse().ok()))
    }
}

fn is_event_stream<T>(response: &ureq::http::Response<T>) -> bool {
    let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| media_type.starts_with("text/event-stream"))
}
