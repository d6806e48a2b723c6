//! What the endpoints of JSON share: all of them want a key with the scope `admin`, and say to nobody else whether a body
//! makes sense.

use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::http::StatusCode;

use super::client::Presented;
use super::error::HttpError;
use super::sync::{Admitted, admit};
use super::{JSON_BYTES_MAX, Server, in_background};
use crate::auth::{By, Scope};
use crate::control::Control;
use crate::folder::{DatabaseName, Folder};

/// The database in the path.
pub(super) type Named = Result<Path<String>, PathRejection>;
/// The database and a thing in it.
pub(super) type NamedWithin = Result<Path<(String, String)>, PathRejection>;
/// What came as JSON.
pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

/// Where an administrator acts, and by what they were let in.
pub(super) struct Place<'p> {
    pub(super) server: &'p Server,
    pub(super) control: &'p Control,
    pub(super) folder: &'p Folder,
    pub(super) database: &'p DatabaseName,
    pub(super) by: By,
}

/// Acts for an administrator of a database. A path that cannot be read names no database.
pub(super) async fn administer<T: Send + 'static>(
    server: &Arc<Server>,
    database: String,
    presented: Presented,
    act: impl FnOnce(&Place<'_>) -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    let Admitted { principal, database, .. } = admit(server, presented, database).await?;
    if !principal.scopes.has(Scope::Admin) {
        return Err(HttpError::Forbidden("this wants a key with the scope admin"));
    }
    let server = Arc::clone(server);
    in_background(move || {
        let Server { control, folder, .. } = &*server;
        act(&Place { server: &server, control, folder, database: &database, by: principal.by })
    })
    .await?
}

/// The body, for whoever was let in.
pub(super) fn read<T>(body: Body<T>) -> Result<T, HttpError> {
    body.map(|Json(body)| body).map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => HttpError::TooLarge(JSON_BYTES_MAX),
        _ => HttpError::BadRequest(rejection.body_text()),
    })
}
