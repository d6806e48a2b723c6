//! `POST /v1/databases/{db}/sync`: one turn.
//!
//! The key is judged before the body is read, and before anything is said about the database: a caller without a good
//! key learns the same whether the database exists or not.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, PathRejection};
use axum::extract::{ConnectInfo, Extension, FromRequest as _, Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use cloudsync_protocol::message::{MEDIA_TYPE, Request as TurnRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::HttpError;
use super::idle::Activity;
use super::{RequestId, Server, in_background, now_ms};
use crate::control::Principal;
use crate::folder::DatabaseName;
use crate::key::Key;
use crate::store::{Rights, StoreError};

/// Most bytes of bodies that are in memory at once; further requests wait for their turn.
const BODIES_BYTES_MAX: usize = 8 * MESSAGE_BYTES_MAX;
/// How long a request waits for room for its body.
const ROOM_WAIT: Duration = Duration::from_secs(10);
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
    let (principal, database) = admit(&server, request.headers(), name).await?;
    let room = check_head(request.headers())?;
    let room = take_room(&server.bodies, room).await?;
    let body = Bytes::from_request(request, &()).await.map_err(|error| body_error(&error))?;
    let bytes = body.len();
    // The caller is silent while the turn is taken, and must not be taken for gone.
    let _busy = activity.busy();
    let turn = Turn { server, database: database.clone(), rights: principal.rights, body, _room: room };
    let (site, answer) = in_background(move || turn.take(request_id)).await??;
    tracing::debug!(
        db = %database, site = hex(site), principal = principal.key.0, request_id = %request_id, bytes,
        bytes_sent = answer.len(), elapsed_ms = begun.elapsed().as_millis() as u64, "turn"
    );
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], answer).into_response())
}

/// Lets a good key in, and only then says whether the database exists.
async fn admit(
    server: &Arc<Server>,
    headers: &HeaderMap,
    name: String,
) -> Result<(Principal, DatabaseName), HttpError> {
    let key = bearer(headers).and_then(Key::parse).ok_or(HttpError::RefusedKey)?;
    let server = Arc::clone(server);
    let admitted = in_background(move || {
        let database = DatabaseName::new(&name).ok();
        let Some(principal) = server.control.principal(&key, database.as_ref(), now_ms())? else {
            return Ok(Err(HttpError::RefusedKey));
        };
        match database {
            Some(database) if server.control.has_database(&database)? => Ok(Ok((principal, database))),
            _ => Ok(Err(HttpError::UnknownDatabase(name))),
        }
    });
    admitted.await?.unwrap_or_else(|error: crate::Error| {
        tracing::error!(error = error.to_line(), "a key could not be checked");
        Err(HttpError::Internal)
    })
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Checks what the headers say of the body, and gives the bytes that it may take.
fn check_head(headers: &HeaderMap) -> Result<usize, HttpError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(HttpError::MediaType);
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length.map(usize::try_from) {
        None => Ok(MESSAGE_BYTES_MAX),
        Some(Ok(length)) if length <= MESSAGE_BYTES_MAX => Ok(length),
        Some(_) => Err(HttpError::TooLarge),
    }
}

async fn take_room(bodies: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, HttpError> {
    let units = bytes.div_ceil(ROOM_UNIT_BYTES) as u32;
    match tokio::time::timeout(ROOM_WAIT, Arc::clone(bodies).acquire_many_owned(units)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(HttpError::Busy),
    }
}

fn body_error(error: &BytesRejection) -> HttpError {
    match error {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => HttpError::TooLarge,
        _ => HttpError::BadRequest("the body did not arrive whole: send the request again".into()),
    }
}

/// What one turn needs, on its way to a thread that may wait for the disk.
struct Turn {
    server: Arc<Server>,
    database: DatabaseName,
    rights: Rights,
    body: Bytes,
    /// Given back with the body: the turn goes on when its caller has gone away.
    _room: OwnedSemaphorePermit,
}

impl Turn {
    fn take(self, request_id: RequestId) -> Result<(SiteId, Vec<u8>), HttpError> {
        let request = TurnRequest::decode(&self.body)?;
        let store = self.server.registry.store(&self.database);
        let answer = store.and_then(|store| store.turn(&request, self.rights, now_ms()));
        let (db, site) = (&self.database, hex(request.site));
        match answer {
            Ok(answer) => Ok((request.site, answer)),
            Err(StoreError::Busy(why)) => {
                tracing::warn!(%db, site, %request_id, why, "busy");
                Err(HttpError::Busy)
            }
            Err(StoreError::Failed(why)) => {
                tracing::error!(%db, site, %request_id, why, "the turn failed");
                Err(HttpError::Internal)
            }
        }
    }
}

fn hex(site: SiteId) -> String {
    site.0.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing into a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
