//! `/v1/databases/{db}/policies`: policies, for whoever administers the database by a program.
//!
//! `GET` lists them, `GET .../{table}/history` every change of a table, `PUT .../{table}` sets some (null takes one away),
//! `POST .../{table}/test` tries them as a user, `POST .../{table}/plan` says what another SELECT policy would change.
//! All of it wants a key with the scope `admin`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::error::HttpError;
use super::sync::store_error;
use super::tokens::{administer, rejected};
use super::{Server, now_ms};
use crate::auth::{By, User, check_user};
use crate::control::Control;
use crate::folder::DatabaseName;
use crate::policy::{Attempt, Change, PolicyError, Probe, Verb};
use crate::store::StoreError;
use crate::store::sqlite;

/// Policies to be set. What is not named stays; null takes a policy away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default, deserialize_with = "named")]
    select: Option<Option<String>>,
    #[serde(default, deserialize_with = "named")]
    insert: Option<Option<String>>,
    #[serde(default, deserialize_with = "named")]
    update: Option<Option<String>>,
    #[serde(default, deserialize_with = "named")]
    delete: Option<Option<String>>,
}

/// Tells null from a field that is not there.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What is to be tried.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    user: String,
    #[serde(default)]
    claims: Map<String, Value>,
    #[serde(default)]
    rows: usize,
    #[serde(default)]
    attempt: Option<Attempt>,
}

/// What is to be planned.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Planned {
    select: Option<String>,
}

type Named = Result<Path<(String, String)>, PathRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) async fn list(
    State(server): State<Arc<Server>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let listed = act(&server, name, &headers, |place| sqlite::policies(&place.path, None));
    Ok(Json(json!({ "policies": listed.await? })).into_response())
}

pub(super) async fn history(
    State(server): State<Arc<Server>>,
    path: Named,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let (name, table) = path.map(|Path(both)| both).unwrap_or_default();
    let told = act(&server, name, &headers, move |place| sqlite::policy_history(&place.path, Some(&table)));
    Ok(Json(json!({ "changes": told.await? })).into_response())
}

pub(super) async fn set(
    State(server): State<Arc<Server>>,
    path: Named,
    headers: HeaderMap,
    wanted: Body<Wanted>,
) -> Result<Response, HttpError> {
    with_body(&server, path, &headers, wanted, |place, table, wanted| {
        let Wanted { select, insert, update, delete } = &wanted;
        let by = place.by.to_string();
        let named = Verb::ALL.into_iter().zip([select, insert, update, delete]);
        let changes: Vec<_> = named
            .filter_map(|(verb, text)| {
                let text = text.as_ref()?.as_deref();
                Some(Change { table, verb, text, by: &by, now_ms: now_ms() })
            })
            .collect();
        sqlite::change_policies(&place.path, &changes)
    })
    .await
}

pub(super) async fn test(
    State(server): State<Arc<Server>>,
    path: Named,
    headers: HeaderMap,
    trial: Body<Trial>,
) -> Result<Response, HttpError> {
    with_body(&server, path, &headers, trial, |place, table, trial| {
        let Trial { user, claims, rows, attempt } = trial;
        let user = User { id: user, claims };
        check_user(&user).map_err(|error| PolicyError::Usage(error.to_line()))?;
        let probe = Probe { table, user: &user, rows, attempt: attempt.as_ref() };
        sqlite::probe_policies(&place.path, &probe)
    })
    .await
}

pub(super) async fn plan(
    State(server): State<Arc<Server>>,
    path: Named,
    headers: HeaderMap,
    planned: Body<Planned>,
) -> Result<Response, HttpError> {
    with_body(&server, path, &headers, planned, |place, table, planned| {
        let users = place.control.known_users(&place.database);
        let users = users.map_err(|error| PolicyError::Store(StoreError::Failed(error.to_line())))?;
        sqlite::plan_policy(&place.path, (table, planned.select.as_deref()), users)
    })
    .await
}

/// Where an administrator acts, and by what he was let in.
struct Place<'p> {
    control: &'p Control,
    database: DatabaseName,
    path: PathBuf,
    by: By,
}

async fn with_body<B, T>(
    server: &Arc<Server>,
    path: Named,
    headers: &HeaderMap,
    body: Body<B>,
    wanted: impl FnOnce(&Place<'_>, &str, B) -> Result<T, PolicyError> + Send + 'static,
) -> Result<Response, HttpError>
where
    B: DeserializeOwned + Send + 'static,
    T: Serialize + Send + 'static,
{
    let (name, table) = path.map(|Path(both)| both).unwrap_or_default();
    // Whether the body makes sense is said to administrators only.
    let (body, refused) = match body {
        Ok(Json(body)) => (Some(body), None),
        Err(rejection) => (None, Some(rejected(rejection))),
    };
    let done =
        act(server, name, headers, move |place| body.map(|body| wanted(place, &table, body)).transpose());
    match (done.await?, refused) {
        (Some(done), _) => Ok(Json(done).into_response()),
        (None, Some(refused)) => Err(refused),
        (None, None) => Err(HttpError::Internal),
    }
}

/// Acts on the policies of a database for an administrator of it.
async fn act<T: Send + 'static>(
    server: &Arc<Server>,
    name: String,
    headers: &HeaderMap,
    act: impl FnOnce(&Place<'_>) -> Result<T, PolicyError> + Send + 'static,
) -> Result<T, HttpError> {
    let folder = server.folder.clone();
    administer(server, name, headers, move |control, database, by| {
        let path = folder.database_path(database);
        let place = Place { control, database: database.clone(), path, by };
        act(&place).map_err(|error| match error {
            PolicyError::Refused { .. } | PolicyError::Usage(_) => HttpError::BadRequest(error.to_string()),
            PolicyError::Store(error) => store_error(database, &error),
            PolicyError::Sqlite(error) => store_error(database, &error.into()),
        })
    })
    .await
}
