//! `POST /v1/databases/{db}/sync`: one turn.
//!
//! The key is judged before the body is read, and before anything is said about the database: a caller without a good
//! key or token learns the same whether the database exists or not. It is judged again when the body is there, which may take
//! minutes: a key that was revoked meanwhile writes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Extension, Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::{MEDIA_TYPE, Request as TurnRequest};

use super::administer::Named;
use super::bodies::Body;
use super::client::Presented;
use super::error::HttpError;
use super::idle::Activity;
use super::{RequestId, Server, in_background, now_ms};
use crate::auth::{self, Bearer, Principal};
use crate::folder::DatabaseName;
use crate::metrics::METRICS;
use crate::store::{Asker, StoreError};

pub(super) async fn sync(
    State(server): State<Arc<Server>>,
    ConnectInfo(activity): ConnectInfo<Activity>,
    Extension(request_id): Extension<RequestId>,
    path: Named,
    presented: Presented,
    request: Request,
) -> Result<Response, HttpError> {
    let begun = Instant::now();
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let client = presented.client;
    let Admitted { caller, .. } = admit(&server, presented, name).await?;
    check_head(&server, request.headers())?;
    let body = server.bodies.read(request.into_body().into_data_stream());
    let body_wait = server.patience.body;
    let body = tokio::time::timeout(body_wait, body).await.map_err(|_| too_slow(body_wait))??;
    let bytes = body.bytes.len();
    // The caller is silent while the turn is taken, and must not be taken for gone.
    let _busy = activity.busy();
    let turn = Turn { server, caller, body };
    let Taken { database, principal, site, answer } = in_background(move || turn.take(request_id)).await??;
    tracing::debug!(
        db = %database, %site, principal = %principal.by, request_id = %request_id, %client, bytes,
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
        let unknown = || HttpError::UnknownDatabase(self.name.clone());
        let database = database.ok_or_else(unknown)?;
        match control.is_paused(&database).map_err(failed)? {
            Some(false) => Ok((principal, database)),
            Some(true) => Err(HttpError::NotReady("the database is being worked on: try again".to_owned())),
            None => Err(unknown()),
        }
    }
}

/// Judges a caller, and takes this request from what he has left. Who is refused too often is not judged at all.
pub(super) async fn admit(
    server: &Arc<Server>,
    presented: Presented,
    name: String,
) -> Result<Admitted, HttpError> {
    let Presented { bearer, client } = presented;
    server.allowances.may_try(client, Instant::now())?;
    let judged = match bearer {
        Some(bearer) => judge(server, Caller { bearer, name }).await,
        None => Err(HttpError::RefusedKey),
    };
    if judged.as_ref().err() == Some(&HttpError::RefusedKey) {
        server.allowances.note_refused(client, Instant::now());
    }
    let admitted = judged?;
    server.allowances.take(&admitted.principal, &admitted.database, Instant::now())?;
    Ok(admitted)
}

/// Judges a caller without holding up other requests.
pub(super) async fn judge(server: &Arc<Server>, caller: Caller) -> Result<Admitted, HttpError> {
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
fn check_head(server: &Server, headers: &HeaderMap) -> Result<(), HttpError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(HttpError::MediaType);
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length.map_or(Ok(()), |length| server.bodies.check_announced(length))
}

fn too_slow(body_wait: Duration) -> HttpError {
    let seconds = body_wait.as_secs_f32();
    HttpError::BadRequest(format!("the body did not arrive within {seconds} s: send smaller chunks"))
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
    /// Keeps its room until the end: the turn goes on when its caller has gone away.
    body: Body,
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
        let request = TurnRequest::decode(&self.body.bytes)?;
        let (db, site) = (&database, request.site);
        let store = self.server.store(db);
        let asker = Asker { rights: principal.rights(), user: principal.user.clone() };
        let begun = Instant::now();
        let answer = store.and_then(|store| store.turn(&request, &asker, now_ms()));
        let told = answer.as_ref().map(Vec::as_slice);
        METRICS.turn(db, &request, self.body.bytes.len(), told, begun.elapsed());
        match answer {
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
