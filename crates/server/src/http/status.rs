//! What a database does just now, for administrators.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Server;
use super::administer::{Named, administer};
use super::client::Presented;
use super::error::HttpError;
use super::sync::store_error;

/// `GET /v1/databases/{db}/status`: its newest version, who listens, and how often what a device may see was found by looking
/// at all rows, since the database was opened.
pub(super) async fn status(
    State(server): State<Arc<Server>>,
    path: Named,
    presented: Presented,
) -> Result<Json<Value>, HttpError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let found = administer(&server, name, presented, |place| {
        let database = place.database;
        let store = place.server.store(database).map_err(|error| store_error(database, &error))?;
        Ok(json!({
            "version": store.feed().newest(),
            "listeners": store.feed().listeners(),
            "visibility_recomputations": store.recomputations(),
        }))
    });
    Ok(Json(found.await?))
}
