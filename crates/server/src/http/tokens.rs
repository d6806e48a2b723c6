//! `/v1/databases/{db}/tokens`: tokens for the users of an app, minted by the app's own backend.
//!
//! `POST` mints one, `GET` lists them, `DELETE .../{id}` revokes one. All of it wants a key with the scope `admin`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::administer::{Body, Named, NamedWithin, administer, read};
use super::client::Presented;
use super::error::HttpError;
use super::{Server, now_ms};
use crate::auth::User;
use crate::control::{NewToken, TOKEN_S_MAX};
use crate::error::Error;

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
    path: Named,
    presented: Presented,
    wanted: Body<Wanted>,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let minted = administer(&server, name, presented, move |place| {
        let wanted = read(wanted)?;
        let expires_in_s = wanted.expires_in_s.unwrap_or(EXPIRES_IN_S);
        if expires_in_s == 0 || expires_in_s > TOKEN_S_MAX {
            return Err(HttpError::BadRequest(format!("expires_in_s must be from 1 to {TOKEN_S_MAX}")));
        }
        let now_ms = now_ms();
        let expires_ms = now_ms + expires_in_s * 1000;
        let user = User { id: wanted.user, claims: wanted.claims };
        let token = NewToken { database: place.database, user, expires_ms };
        let (id, token) = place.control.mint_token(&token, now_ms).map_err(http_error)?;
        Ok(json!({ "id": id, "token": token.reveal(), "expires_ms": expires_ms }))
    });
    Ok((StatusCode::CREATED, Json(minted.await?)).into_response())
}

pub(super) async fn list(
    State(server): State<Arc<Server>>,
    path: Named,
    presented: Presented,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let listed = administer(&server, name, presented, |place| {
        place.control.tokens(Some(place.database)).map_err(http_error)
    });
    Ok(Json(json!({ "tokens": listed.await? })).into_response())
}

pub(super) async fn revoke(
    State(server): State<Arc<Server>>,
    path: NamedWithin,
    presented: Presented,
) -> Result<Response, HttpError> {
    let (name, token) = path.map(|Path(both)| both).unwrap_or_default();
    let revoked = administer(&server, name, presented, move |place| {
        place.control.revoke_token(Some(place.database), &token, now_ms()).map_err(http_error)
    });
    Ok(Json(json!({ "id": revoked.await?, "revoked": true })).into_response())
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
