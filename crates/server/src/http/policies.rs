//! `/v1/databases/{db}/policies`: policies, for whoever administers the database by a program.
//!
//! `GET` lists them, `GET .../{table}/history` every change of a table, `PUT .../{table}` sets some (null takes one away),
//! `POST .../{table}/test` tries them as a user, `POST .../{table}/plan` says what another SELECT policy would change.
//! All of it wants a key with the scope `admin`.

use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::administer::{Body, Named, NamedWithin, Place, administer, read};
use super::client::Presented;
use super::error::HttpError;
use super::sync::store_error;
use super::{Server, now_ms};
use crate::auth::{User, check_user};
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

pub(super) async fn list(
    State(server): State<Arc<Server>>,
    path: Named,
    presented: Presented,
) -> Result<Response, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let listed =
        administer(&server, name, presented, |place| on_file(place, |path| sqlite::policies(path, None)));
    Ok(Json(json!({ "policies": listed.await? })).into_response())
}

pub(super) async fn history(
    State(server): State<Arc<Server>>,
    path: NamedWithin,
    presented: Presented,
) -> Result<Response, HttpError> {
    let (name, table) = path.map(|Path(both)| both).unwrap_or_default();
    let told = administer(&server, name, presented, move |place| {
        on_file(place, |path| sqlite::policy_history(path, Some(&table)))
    });
    Ok(Json(json!({ "changes": told.await? })).into_response())
}

pub(super) async fn set(
    State(server): State<Arc<Server>>,
    path: NamedWithin,
    presented: Presented,
    wanted: Body<Wanted>,
) -> Result<Response, HttpError> {
    with_body(&server, path, presented, wanted, |place, (path, table), wanted| {
        let Wanted { select, insert, update, delete } = &wanted;
        let by = place.by.to_string();
        let named = Verb::ALL.into_iter().zip([select, insert, update, delete]);
        let changes: Vec<_> = named
            .filter_map(|(verb, text)| {
                let text = text.as_ref()?.as_deref();
                Some(Change { table, verb, text, by: &by, now_ms: now_ms() })
            })
            .collect();
        sqlite::change_policies(path, &changes)
    })
    .await
}

pub(super) async fn test(
    State(server): State<Arc<Server>>,
    path: NamedWithin,
    presented: Presented,
    trial: Body<Trial>,
) -> Result<Response, HttpError> {
    with_body(&server, path, presented, trial, |_, (path, table), trial| {
        let Trial { user, claims, rows, attempt } = trial;
        let user = User { id: user, claims };
        check_user(&user).map_err(|error| PolicyError::Usage(error.to_line()))?;
        let probe = Probe { table, user: &user, rows, attempt: attempt.as_ref() };
        sqlite::probe_policies(path, &probe)
    })
    .await
}

pub(super) async fn plan(
    State(server): State<Arc<Server>>,
    path: NamedWithin,
    presented: Presented,
    planned: Body<Planned>,
) -> Result<Response, HttpError> {
    with_body(&server, path, presented, planned, |place, (path, table), planned| {
        let users = place.control.known_users(place.database);
        let users = users.map_err(|error| PolicyError::Store(StoreError::Failed(error.to_line())))?;
        sqlite::plan_policy(path, (table, planned.select.as_deref()), users)
    })
    .await
}

async fn with_body<B, T>(
    server: &Arc<Server>,
    path: NamedWithin,
    presented: Presented,
    body: Body<B>,
    wanted: impl FnOnce(&Place<'_>, (&FilePath, &str), B) -> Result<T, PolicyError> + Send + 'static,
) -> Result<Response, HttpError>
where
    B: DeserializeOwned + Send + 'static,
    T: Serialize + Send + 'static,
{
    let (name, table) = path.map(|Path(both)| both).unwrap_or_default();
    let done = administer(server, name, presented, move |place| {
        let body = read(body)?;
        on_file(place, |path| wanted(place, (path, &table), body))
    });
    Ok(Json(done.await?).into_response())
}

/// Acts on the file of the database. What the caller is told of an error of the server's own files is for its log.
fn on_file<T>(
    place: &Place<'_>,
    act: impl FnOnce(&FilePath) -> Result<T, PolicyError>,
) -> Result<T, HttpError> {
    act(&place.folder.database_path(place.database)).map_err(|error| match error {
        PolicyError::Refused { .. } | PolicyError::Usage(_) => HttpError::BadRequest(error.to_string()),
        PolicyError::Store(error) => store_error(place.database, &error),
        PolicyError::Sqlite(error) => store_error(place.database, &error.into()),
    })
}
