//! Whether the process runs, and whether it can serve.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::error::HttpError;
use super::{Server, in_background};

/// `GET /health`: the process answers.
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /ready`: the control database can be read and the folder written.
pub(super) async fn ready(State(server): State<Arc<Server>>) -> Result<Json<Value>, HttpError> {
    in_background(move || {
        let checked = server.control.databases().and_then(|_| server.folder.check_writable());
        // The error names files, for whoever runs the server; a probe is told which part fails.
        checked.map_err(|error| {
            tracing::error!(error = error.to_line(), "not ready");
            let part = match error {
                crate::Error::Folder { .. } => "the data folder cannot be written",
                _ => "the control database cannot be read",
            };
            HttpError::NotReady(format!("{part}: the server's log says why"))
        })
    })
    .await??;
    Ok(Json(json!({ "status": "ready" })))
}
