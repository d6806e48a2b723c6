//! `/v1/databases/{db}/tokens`: tokens for the users of an app, minted by the app's own backend.
//!
//! `POST` mints one, `GET` lists them, `DELETE .../{id}` revokes one. All of it wants a key with the scope `admin`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::HttpError;
use super::sync::{Admitted, Caller, admit, bearer};
use super::{JSON_BYTES_MAX, Server, in_background, now_ms};
use crate::auth::{By, Scope, User};
use crate::control::{Control, NewToken, TOKEN_S_MAX};
use crate::error::Error;
use crate::folder::DatabaseName;

/// How long a token is good unless its request says otherwise, in seconds.
const EXPIRES_IN_S: u64 = 3_600;

/// What a token shall be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    user: String,
    #[serde(default)]
    claims: Map<String, Value>,
    expires_in_s: Option<u64>,
}

pub(super) async fn mint(
    State(server): State<Arc<Server>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let minted = administer(&server, name, &headers, move |control, database, _| {
        let Json(wanted) = wanted.map_err(rejected)?;
        let expires_in_s = wanted.expires_in_s.unwrap_or(EXPIRES_IN_S);
        if expires_in_s == 0 || expires_in_s > TOKEN_S_MAX {
            return Err(HttpError::BadRequest(format!("expires_in_s must be from 1 to {TOKEN_S_MAX}")));
        }
        let now_ms = now_ms();
        let expires_ms = now_ms + expires_in_s * 1000;
        let user = User { id: wanted.user, claims: wanted.claims };
        let (id, token) =
            control.mint_token(&NewToken { database, user, expires_ms }, now_ms).map_err(http_error)?;
        Ok(json!({ "id": id, "token": token.reveal(), "expires_ms": expires_ms }))
    });
    Ok((StatusCode::CREATED, Json(minted.await?)).into_response())
}

/// What is wrong with a body of JSON.
pub(super) fn rejected(rejection: JsonRejection) -> HttpError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => HttpError::TooLarge(JSON_BYTES_MAX),
        _ => HttpError::BadRequest(rejection.body_text()),
    }
}

pub(super) async fn list(
    State(server): State<Arc<Server>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let listed = administer(&server, name, &headers, |control, database, _| {
        control.tokens(Some(database)).map_err(http_error)
    });
    Ok(Json(json!({ "tokens": listed.await? })).into_response())
}

pub(super) async fn revoke(
    State(server): State<Arc<Server>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let (name, token) = path.map(|Path(both)| both).unwrap_or_default();
    let revoked = administer(&server, name, &headers, move |control, database, _| {
        control.revoke_token(Some(database), &token, now_ms()).map_err(http_error)
    });
    Ok(Json(json!({ "id": revoked.await?, "revoked": true })).into_response())
}

/// Acts for an administrator of the database, who is told apart by what let him in.
pub(super) async fn administer<T: Send + 'static>(
    server: &Arc<Server>,
    name: String,
    headers: &HeaderMap,
    act: impl FnOnce(&Control, &DatabaseName, By) -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    let caller = Caller { bearer: bearer(headers).ok_or(HttpError::RefusedKey)?, name };
    let Admitted { principal, database, .. } = admit(server, caller).await?;
    if !principal.scopes.has(Scope::Admin) {
        return Err(HttpError::Forbidden("this wants a key with the scope admin"));
    }
    let server = Arc::clone(server);
    in_background(move || act(&server.control, &database, principal.by)).await?
}

/// What the caller is told of an error; those of the server's own files are for its log.
fn http_error(error: Error) -> HttpError {
    match error {
        Error::User(_) => HttpError::BadRequest(error.to_line()),
        Error::NoCredential(_) | Error::AmbiguousCredential(_) => HttpError::NoToken,
        _ => {
            tracing::error!(error = error.to_line(), "tokens cannot be administered");
            HttpError::Internal
        }
    }
}
