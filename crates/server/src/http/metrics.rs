//! `GET /metrics`, on an address of its own.
//!
//! Whoever scrapes stands on the inside. An address of its own keeps the numbers off the door that devices use without a
//! key that would have to be handed to the scraper, and answers when that door has too much to do.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::error::HttpError;
use super::idle::{Activity, IdleListener};
use super::tls::Door;
use super::{Server, health};
use crate::metrics::{Gauges, METRICS};

/// The media type of the text format of Prometheus.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers for as long as the server runs.
pub(super) async fn serve(server: Arc<Server>, listener: TcpListener) {
    let door = Door::new(IdleListener::new(listener, server.patience.idle, server.file_limit), None);
    let router = super::with_routes(doors())
        .fallback(async || HttpError::NotFound)
        .method_not_allowed_fallback(async || HttpError::Method)
        .with_state(server);
    // It ends with the server only.
    let _ = axum::serve(door, router.into_make_service_with_connect_info::<Activity>()).await;
}

/// What is answered there.
pub(super) fn doors() -> super::Routes {
    vec![("/metrics", get(metrics)), ("/health", get(health::health)), ("/ready", get(health::ready))]
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let gauges = Gauges {
        listeners: server.hub.listeners() as u64,
        open_databases: server.registry.open_names().len() as u64,
    };
    ([(CONTENT_TYPE, MEDIA_TYPE)], METRICS.to_text(gauges)).into_response()
}

/// Counts an answer under the route that took the request.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    METRICS.request(route, response.status().as_u16());
    response
}
