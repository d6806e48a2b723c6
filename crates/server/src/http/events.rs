//! `GET /v1/databases/{db}/events`: tells a device that there is something new for it, as server-sent events.
//!
//! An event holds a version and nothing of the content: whoever hears it syncs. The key is judged as for a turn, again
//! before each event and heartbeat, and whenever the control database changes: a revoked one ends its listeners.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse as _, Response};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::server::MAY_NOT_READ;
use futures_util::stream;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::administer::Named;
use super::allowance::Counted;
use super::client::Presented;
use super::error::HttpError;
use super::sync::{Admitted, Caller, admit, judge, store_error};
use super::{Server, in_background, now_ms};
use crate::auth::Principal;
use crate::events::{Listening, News, ReadControl};
use crate::store::Store;

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";
/// How often a listener hears that the connection lives, unless it asks for something else.
const HEARTBEAT_MS: u64 = 20_000;
/// How often it may ask for. The longest is well below what ends an idle connection here, and usually on the way.
const HEARTBEAT_MS_RANGE: std::ops::RangeInclusive<u64> = 1_000..=30_000;
/// How old what is known of the keys may be when an event is told: ten thousand listeners hear it at one time.
const STATE_AGE: Duration = Duration::from_millis(5);
/// A comment, which every reader of events passes over.
const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

#[derive(serde::Deserialize)]
pub(super) struct Question {
    /// The device's site id, 32 hex digits: it is not told of its own uploads.
    site: Option<String>,
    /// The version up to which the device has everything; what is newer is told at once.
    cursor: Option<u64>,
    heartbeat_ms: Option<u64>,
}

pub(super) async fn events(
    State(server): State<Arc<Server>>,
    path: Named,
    presented: Presented,
    question: Result<Query<Question>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let control = control_state(&server).await?;
    let Admitted { caller, principal, database } = admit(&server, presented, name).await?;
    may_listen(&principal)?;
    let Query(question) = question.map_err(|rejection| HttpError::BadRequest(rejection.body_text()))?;
    let asked = Asked::read(question, &headers)?;
    let counted = server.allowances.listen(&principal, &database, std::time::Instant::now())?;
    let opening = Arc::clone(&server);
    let store = {
        let database = database.clone();
        in_background(move || opening.store(&database).map_err(|error| store_error(&database, &error)))
            .await??
    };
    let read_control: ReadControl = {
        let server = Arc::clone(&server);
        Arc::new(move || server.control.state())
    };
    let Some(listening) = server.hub.listen(&database, &store, &read_control) else {
        tracing::warn!("no room for one more listener: {}", server.file_limit);
        return Err(HttpError::Busy);
    };
    let news = store.feed().listen();
    let told = asked.cursor.unwrap_or_else(|| news.borrow().version_for(asked.site));
    // A connection on which nothing moves is ended.
    let heartbeat = asked.heartbeat.min(server.patience.idle / 2);
    let listener = Listener {
        store,
        server,
        caller,
        principal,
        control,
        site: asked.site,
        told,
        news,
        listening,
        _counted: counted,
        heartbeat,
        // At once: it shows that the events come through whatever is on the way.
        next_heartbeat: Instant::now(),
    };
    let body = Body::from_stream(stream::unfold(listener, Listener::next));
    // nginx would hold events back until there are some kilobytes of them.
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    Ok(([(CONTENT_TYPE, EVENT_STREAM), (CACHE_CONTROL, "no-store"), (unbuffered, "no")], body)
        .into_response())
}

/// A question that was checked.
struct Asked {
    site: Option<SiteId>,
    cursor: Option<u64>,
    heartbeat: Duration,
}

impl Asked {
    fn read(question: Question, headers: &HeaderMap) -> Result<Self, HttpError> {
        let bad = |text: &str| HttpError::BadRequest(text.to_owned());
        let site = question.site.map(|hex| read_site(&hex).ok_or_else(|| bad("site must be 32 hex digits")));
        let heartbeat_ms = question.heartbeat_ms.unwrap_or(HEARTBEAT_MS);
        if !HEARTBEAT_MS_RANGE.contains(&heartbeat_ms) {
            let (least, most) = HEARTBEAT_MS_RANGE.into_inner();
            return Err(HttpError::BadRequest(format!("heartbeat_ms must be from {least} to {most}")));
        }
        // What readers of events send by themselves when they connect again.
        let last = headers.get("last-event-id").map(|value| {
            let version = value.to_str().ok().and_then(|text| text.parse().ok());
            version.ok_or_else(|| bad("last-event-id must be the id of an event"))
        });
        let cursor = last.transpose()?.or(question.cursor);
        Ok(Self { site: site.transpose()?, cursor, heartbeat: Duration::from_millis(heartbeat_ms) })
    }
}

fn read_site(hex: &str) -> Option<SiteId> {
    if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(hex, 16).ok().map(|number| SiteId(number.to_be_bytes()))
}

/// Who may not read has nothing to be told.
fn may_listen(principal: &Principal) -> Result<(), HttpError> {
    if principal.rights().read { Ok(()) } else { Err(HttpError::Forbidden(MAY_NOT_READ)) }
}

async fn control_state(server: &Arc<Server>) -> Result<i64, HttpError> {
    let server = Arc::clone(server);
    in_background(move || server.control.state()).await?.map_err(|error| {
        tracing::error!(error = error.to_line(), "keys cannot be looked at");
        HttpError::Internal
    })
}

/// One device that listens. What it is told comes from the feed when it has taken what it was told before, so a slow
/// one costs no more than any other.
struct Listener {
    server: Arc<Server>,
    store: Arc<dyn Store>,
    caller: Caller,
    principal: Principal,
    /// The state of the control database in which the key was good.
    control: i64,
    site: Option<SiteId>,
    told: u64,
    news: watch::Receiver<News>,
    listening: Listening,
    _counted: Counted,
    heartbeat: Duration,
    next_heartbeat: Instant,
}

impl Listener {
    /// The next piece of the stream; `None` ends it.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let piece = self.piece().await;
            if self.listening.signal.borrow_and_update().stopping || !self.is_let_in().await {
                return None;
            }
            if let Some(piece) = piece {
                self.next_heartbeat = Instant::now() + self.heartbeat;
                return Some((Ok(piece), self));
            }
            let left = self.left();
            select! {
                // Both senders live as long as this listener.
                _ = self.news.changed() => {}
                _ = self.listening.signal.changed() => {}
                () = sleep_until(self.next_heartbeat) => {}
                () = sleep(left) => {}
            }
        }
    }

    /// What there is to say now.
    async fn piece(&mut self) -> Option<Bytes> {
        let version = self.news.borrow_and_update().version_for(self.site);
        if version > self.told {
            let told = std::mem::replace(&mut self.told, version);
            if self.is_concerned(told).await {
                return Some(Bytes::from(format!("id: {version}\nevent: new\ndata: {version}\n\n")));
            }
        }
        (Instant::now() >= self.next_heartbeat).then_some(HEARTBEAT)
    }

    /// Whether what came after a version is for this listener. A key sees everything; a user is not woken for what they may
    /// not see.
    async fn is_concerned(&self, told: u64) -> bool {
        let (Some(user), Some(site)) = (self.principal.user.clone(), self.site) else { return true };
        let _turn = self.store.feed().turn_to_look().await;
        let store = Arc::clone(&self.store);
        let found = in_background(move || store.concerns(&user, site, told)).await;
        // Asking in vain is better than waiting for ever.
        !matches!(found, Ok(Ok(false)))
    }

    /// How long the key or token is still good, at most as long as anybody waits here.
    fn left(&self) -> Duration {
        let left_ms = self.principal.expires_ms.map(|expires_ms| expires_ms.saturating_sub(now_ms()));
        left_ms.map_or(self.heartbeat, |left_ms| Duration::from_millis(left_ms).min(self.heartbeat))
    }

    /// Whether the key is still good. It is judged again only if the control database has changed.
    async fn is_let_in(&mut self) -> bool {
        // No disk is touched by this: the state is a number in memory that processes share.
        let Ok(control) = self.server.control.state_not_older_than(STATE_AGE) else { return false };
        if !self.principal.is_good_at(now_ms()) {
            return false;
        }
        if control == self.control {
            return true;
        }
        let Ok(judged) = judge(&self.server, self.caller.clone()).await else { return false };
        (self.control, self.principal) = (control, judged.principal);
        may_listen(&self.principal).is_ok()
    }
}
