//! `POST /v1/databases/{db}/sync`: one turn.
//!
//! The key is judged before the body is read, and before anything is said about the database: a caller without a good
//! key or token learns the same whether the database exists or not. It is judged again when the body is there, which may take
//! minutes: a key that was revoked meanwhile writes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Extension, Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use cloudsync_protocol::message::{MEDIA_TYPE, Request as TurnRequest};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::HttpError;
use super::idle::Activity;
use super::{RequestId, Server, in_background, now_ms};
use crate::auth::{self, Bearer, Principal};
use crate::folder::DatabaseName;
use crate::store::{Asker, StoreError};

/// Most bytes of bodies that are in memory at once; further requests wait for their turn.
const BODIES_BYTES_MAX: usize = 8 * MESSAGE_BYTES_MAX;
/// How long a request waits for room for its body.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How long a body may take to arrive. What has arrived of it holds room that others wait for.
const BODY_WAIT: Duration = Duration::from_secs(600);
/// Bodies are counted in units of this many bytes, because a semaphore counts to 2^32 at one go.
const ROOM_UNIT_BYTES: usize = 1024;

/// Room for the bodies of requests.
pub(super) fn bodies_room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BODIES_BYTES_MAX / ROOM_UNIT_BYTES))
}

pub(super) async fn sync(
    State(server): State<Arc<Server>>,
    ConnectInfo(activity): ConnectInfo<Activity>,
    Extension(request_id): Extension<RequestId>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, HttpError> {
    let begun = Instant::now();
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let caller = Caller { bearer: bearer(request.headers()).ok_or(HttpError::RefusedKey)?, name };
    let Admitted { caller, .. } = admit(&server, caller).await?;
    check_head(request.headers())?;
    let body = tokio::time::timeout(BODY_WAIT, read_body(&server.bodies, request));
    let (body, room) = body.await.map_err(|_| HttpError::BadRequest(too_slow()))??;
    let bytes = body.len();
    // The caller is silent while the turn is taken, and must not be taken for gone.
    let _busy = activity.busy();
    let turn = Turn { server, caller, body, _room: room };
    let Taken { database, principal, site, answer } = in_background(move || turn.take(request_id)).await??;
    tracing::debug!(
        db = %database, %site, by = %principal.by, request_id = %request_id, bytes,
        bytes_sent = answer.len(), elapsed_ms = begun.elapsed().as_millis() as u64, "turn"
    );
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], answer).into_response())
}

/// Who asks, and for which database.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) bearer: Bearer,
    pub(super) name: String,
}

/// A caller who was let in.
pub(super) struct Admitted {
    pub(super) caller: Caller,
    pub(super) principal: Principal,
    pub(super) database: DatabaseName,
}

impl Caller {
    /// Lets a good key or token in, and only then says whether the database exists.
    fn judge(&self, server: &Server) -> Result<(Principal, DatabaseName), HttpError> {
        let failed = |error: crate::Error| {
            tracing::error!(error = error.to_line(), "a key could not be checked");
            HttpError::Internal
        };
        let database = DatabaseName::new(&self.name).ok();
        let Server { control, key_sets, .. } = server;
        let principal = auth::admit(control, key_sets, &self.bearer, database.as_ref(), now_ms());
        let principal = principal.map_err(failed)?;
        let principal = principal.ok_or(HttpError::RefusedKey)?;
        match database {
            Some(database) if control.has_database(&database).map_err(failed)? => Ok((principal, database)),
            _ => Err(HttpError::UnknownDatabase(self.name.clone())),
        }
    }
}

/// Judges a caller without holding up other requests.
pub(super) async fn admit(server: &Arc<Server>, caller: Caller) -> Result<Admitted, HttpError> {
    let server = Arc::clone(server);
    in_background(move || {
        let (principal, database) = caller.judge(&server)?;
        Ok(Admitted { caller, principal, database })
    })
    .await?
}

/// The key or token in `Authorization: Bearer ...`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<Bearer> {
    let (scheme, text) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") { Bearer::parse(text.trim()) } else { None }
}

/// Checks what the headers say of the body.
fn check_head(headers: &HeaderMap) -> Result<(), HttpError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(HttpError::MediaType);
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MESSAGE_BYTES_MAX as u64) {
        return Err(HttpError::TooLarge);
    }
    Ok(())
}

/// Reads the body and takes room for it as it arrives: a caller who announces much and sends little must not keep others
/// out.
async fn read_body(
    bodies: &Arc<Semaphore>,
    request: Request,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), HttpError> {
    let mut parts = request.into_body().into_data_stream();
    let (mut body, mut room): (Vec<u8>, Option<OwnedSemaphorePermit>) = (Vec::new(), None);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| {
            HttpError::BadRequest("the body did not arrive whole: send the request again".into())
        })?;
        let bytes = body.len() + part.len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(HttpError::TooLarge);
        }
        let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(ROOM_UNIT_BYTES).saturating_sub(held);
        if missing > 0 {
            let more = take_room(bodies, missing).await?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        body.extend_from_slice(&part);
    }
    Ok((body, room))
}

async fn take_room(bodies: &Arc<Semaphore>, units: usize) -> Result<OwnedSemaphorePermit, HttpError> {
    let units = u32::try_from(units).map_err(|_| HttpError::TooLarge)?;
    match tokio::time::timeout(ROOM_WAIT, Arc::clone(bodies).acquire_many_owned(units)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(HttpError::Busy),
    }
}

fn too_slow() -> String {
    format!("the body did not arrive within {} s: send smaller chunks", BODY_WAIT.as_secs())
}

/// What the caller is told of a store's failure, whose details are for the log.
pub(super) fn store_error(db: &DatabaseName, error: &StoreError) -> HttpError {
    match error {
        StoreError::Busy(why) => {
            tracing::warn!(%db, why, "busy");
            HttpError::Busy
        }
        StoreError::Failed(why) => {
            tracing::error!(%db, why, "the store failed");
            HttpError::Internal
        }
    }
}

/// What one turn needs, on its way to a thread that may wait for the disk.
struct Turn {
    server: Arc<Server>,
    caller: Caller,
    body: Vec<u8>,
    /// Given back with the body: the turn goes on when its caller has gone away.
    _room: Option<OwnedSemaphorePermit>,
}

/// A turn that a store answered.
struct Taken {
    database: DatabaseName,
    principal: Principal,
    site: SiteId,
    answer: Vec<u8>,
}

impl Turn {
    fn take(self, request_id: RequestId) -> Result<Taken, HttpError> {
        let (principal, database) = self.caller.judge(&self.server)?;
        let request = TurnRequest::decode(&self.body)?;
        let (db, site) = (&database, request.site);
        let store = self.server.registry.store(db);
        let asker = Asker { rights: principal.rights(), user: principal.user.clone() };
        match store.and_then(|store| store.turn(&request, &asker, now_ms())) {
            Ok(answer) => Ok(Taken { database, principal, site, answer }),
            Err(StoreError::Busy(why)) => {
                tracing::warn!(%db, %site, %request_id, why, "busy");
                Err(HttpError::Busy)
            }
            Err(StoreError::Failed(why)) => {
                tracing::error!(%db, %site, %request_id, why, "the turn failed");
                Err(HttpError::Internal)
            }
        }
    }
}
