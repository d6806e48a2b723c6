//! The doors: the sync endpoint, the events, tokens and policies, and the health endpoints, on plain HTTP/1.1.
//!
//! Every answer bears the header `cloudsync-protocol`, errors too, so that a device can tell a cloudsync server that
//! refuses from something else that happens to listen there.

mod administer;
mod allowance;
mod bodies;
mod client;
pub mod error;
mod events;
mod health;
mod idle;
mod metrics;
mod policies;
mod status;
mod sync;
mod tls;
mod tokens;

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Extension, Router};
use cloudsync_protocol::message::PROTOCOL_VERSION;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;

use self::allowance::Allowances;
use self::bodies::Bodies;
use self::client::Client;
use self::error::{ErrorCode, HttpError};
use self::idle::{Activity, IdleListener};
use self::tls::{Door, Tls};
use crate::auth::jwks::{self, KeySets};
use crate::config::{Config, Network};
use crate::control::Control;
use crate::events::Hub;
use crate::file_limit::FileLimit;
use crate::folder::{DatabaseName, Folder};
use crate::registry::Registry;
use crate::store::{Store, StoreError};

/// How often it is looked whether a command has taken a database.
const OBEY: Duration = Duration::from_millis(250);
/// Largest body of JSON.
const JSON_BYTES_MAX: usize = 256 << 10;
/// How long a request with JSON may take, unless its body has less time.
const JSON_WAIT: Duration = Duration::from_secs(30);
const PROTOCOL_HEADER: &str = "cloudsync-protocol";
const REQUEST_ID_HEADER: &str = "cloudsync-request-id";

/// How long the server waits for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Patience {
    /// For a caller on whose connection nothing moves while the server does not work for him, and for a whole head.
    idle: Duration,
    /// For the body of a request to arrive as a whole. What has arrived of it holds room that others wait for.
    body: Duration,
    /// For requests that run when the server is told to stop, before their callers are cut off. A turn that a store has
    /// begun is always finished.
    stop: Duration,
}

/// What all requests share.
pub struct Server {
    folder: Folder,
    control: Control,
    key_sets: KeySets,
    registry: Registry,
    bodies: Bodies,
    hub: Hub,
    file_limit: FileLimit,
    patience: Patience,
    allowances: Allowances,
    /// Who is believed when saying for whom they ask.
    trusted_proxies: Vec<Network>,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// A server on a folder, which the caller has locked, with as many listeners as the limit on files allows.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when its certificate cannot be used.
    pub fn new(
        folder: Folder,
        control: Control,
        registry: Registry,
        file_limit: FileLimit,
        config: &Config,
    ) -> crate::Result<Self> {
        let hub = Hub::new(file_limit.listeners_max());
        let tls = config.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        Ok(Self {
            folder,
            control,
            key_sets: KeySets::new(Box::new(jwks::fetch)),
            registry,
            bodies: Bodies::new(config.request_bytes),
            hub,
            file_limit,
            patience: Patience { idle: config.idle, body: config.body, stop: config.stop },
            allowances: Allowances::new(config),
            trusted_proxies: config.trusted_proxies.clone(),
            tls,
        })
    }

    /// The store of a database that the caller has seen to be served.
    fn store(&self, name: &DatabaseName) -> Result<Arc<dyn Store>, StoreError> {
        // Between that look and the opening a command may have taken the database.
        self.registry.store(name, &|| matches!(self.control.is_paused(name), Ok(Some(false))))
    }

    /// Closes the stores of databases that a command has taken or deleted.
    fn let_go(&self) {
        for name in self.registry.open_names() {
            match self.control.is_paused(&name) {
                Ok(Some(false)) => {}
                Ok(_) => {
                    tracing::info!(db = %name, "let go");
                    self.registry.close(&name);
                }
                Err(error) => tracing::error!(error = error.to_line(), "databases cannot be looked at"),
            }
        }
    }
}

/// Obeys what commands do to databases, for as long as the server runs.
async fn obey(server: Arc<Server>) {
    let mut seen = None;
    loop {
        let looking = Arc::clone(&server);
        let looked = tokio::task::spawn_blocking(move || {
            let state = looking.control.state_not_older_than(OBEY / 2).ok();
            if state != seen {
                looking.let_go();
            }
            state
        });
        // Its panic is in the log already.
        seen = looked.await.unwrap_or(seen);
        tokio::time::sleep(OBEY).await;
    }
}

/// Serves until `stop` is ready, then finishes the requests that run. Metrics are told at `metrics`.
pub async fn serve(
    server: Server,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let server = Arc::new(server);
    if let Some(listener) = metrics {
        tokio::spawn(metrics::serve(Arc::clone(&server), listener));
    }
    let (file_limit, Patience { idle, stop: stop_max, .. }) = (server.file_limit, server.patience);
    tokio::spawn(obey(Arc::clone(&server)));
    let tls = server.tls.clone();
    if let Some(tls) = tls.clone() {
        tokio::spawn(tls.watch());
    }
    let door = Door::new(IdleListener::new(listener, idle, file_limit), tls);
    let router = router(Arc::clone(&server)).into_make_service_with_connect_info::<Activity>();
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let stop = async move {
        stop.await;
        server.hub.stop();
        drop(stopping);
    };
    let served = axum::serve(door, router).with_graceful_shutdown(stop);
    let too_late = async {
        // An error here only says that the other end was dropped, which is the signal.
        let _ = stopped.await;
        tokio::time::sleep(stop_max).await;
    };
    tokio::select! {
        // Serving ends only by stopping; errors of single connections are theirs alone.
        _ = served => {}
        () = too_late => tracing::warn!(waited_ms = stop_max.as_millis() as u64, "requests still ran: their callers are cut off"),
    }
}

/// The doors without sockets, for callers in the same process; all of them come from one address.
pub fn in_process(server: Server, peer: IpAddr) -> Router {
    router(Arc::new(server)).layer(Extension(ConnectInfo(Activity::new(peer))))
}

fn router(server: Arc<Server>) -> Router {
    let frame = from_fn_with_state(Arc::clone(&server), frame);
    with_routes(doors())
        .merge(
            with_routes(administration())
                .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
                .layer(from_fn_with_state(Arc::clone(&server), in_time)),
        )
        .fallback(async || HttpError::NotFound)
        .method_not_allowed_fallback(async || HttpError::Method)
        .with_state(server)
        .layer(from_fn(metrics::count))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(frame)
}

/// Paths, and what takes their requests.
type Routes = Vec<(&'static str, MethodRouter<Arc<Server>>)>;

/// What devices and probes ask.
fn doors() -> Routes {
    vec![
        ("/v1/databases/{db}/sync", post(sync::sync)),
        ("/v1/databases/{db}/events", get(events::events)),
        ("/health", get(health::health)),
        ("/ready", get(health::ready)),
    ]
}

/// What takes and gives JSON. Its bodies are read before anything is judged, so they are small and come at once.
fn administration() -> Routes {
    vec![
        ("/v1/databases/{db}/tokens", get(tokens::list).post(tokens::mint)),
        ("/v1/databases/{db}/tokens/{token}", delete(tokens::revoke)),
        ("/v1/databases/{db}/status", get(status::status)),
        ("/v1/databases/{db}/policies", get(policies::list)),
        ("/v1/databases/{db}/policies/{table}", put(policies::set)),
        ("/v1/databases/{db}/policies/{table}/history", get(policies::history)),
        ("/v1/databases/{db}/policies/{table}/test", post(policies::test)),
        ("/v1/databases/{db}/policies/{table}/plan", post(policies::plan)),
    ]
}

fn with_routes(routes: Routes) -> Router<Arc<Server>> {
    routes.into_iter().fold(Router::new(), |router, (path, taker)| router.route(path, taker))
}

/// The paths of all doors, with their parameters in braces.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    doors().into_iter().chain(administration()).chain(metrics::doors()).map(|(path, _)| path).collect()
}

/// Ends a request whose body does not come, or whose answer is not made, in time.
async fn in_time(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let wait = server.patience.body.min(JSON_WAIT);
    match tokio::time::timeout(wait, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = wait.as_secs_f32();
            HttpError::BadRequest(format!("the request did not end within {seconds} s")).into_response()
        }
    }
}

/// The id of one request, by which an answer and the lines of the log are brought together.
#[derive(Debug, Clone, Copy)]
struct RequestId(u64);

impl RequestId {
    /// The next id. Ids of two runs differ because they begin with the time of the start.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let begun = now_ms() << 20;
        // Only the first request finds 0.
        let _ = NEXT.compare_exchange(0, begun, Ordering::Relaxed, Ordering::Relaxed);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Gives every request its id, every answer the headers of this protocol, and every error its line in the log.
async fn frame(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let (begun, id) = (Instant::now(), RequestId::next());
    request.extensions_mut().insert(id);
    let activity = request.extensions().get::<ConnectInfo<Activity>>();
    let _in_hand = activity.map(|ConnectInfo(activity)| activity.request());
    let client = activity.map_or(Client::UNKNOWN, |ConnectInfo(activity)| {
        Client::of(activity.peer(), request.headers(), &server.trusted_proxies)
    });
    request.extensions_mut().insert(client);
    let mut response = next.run(request).await;
    if let Some(ErrorCode(code)) = response.extensions().get() {
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        tracing::info!(request_id = %id, status = response.status().as_u16(), code, %client, elapsed_ms, "refused");
    }
    let headers = response.headers_mut();
    headers.insert(PROTOCOL_HEADER, HeaderValue::from(u16::from(PROTOCOL_VERSION)));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// A panic is our bug; it must cost one request, not the server.
fn after_panic(_panic: Box<dyn Any + Send>) -> Response {
    tracing::error!("a request panicked");
    HttpError::Internal.into_response()
}

/// Runs what waits for the disk on a thread made for waiting.
async fn in_background<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, HttpError> {
    tokio::task::spawn_blocking(act).await.map_err(|error| {
        tracing::error!(panicked = error.is_panic(), "a request's work did not end well");
        HttpError::Internal
    })
}

/// The wall clock, milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Whether an address can be reached from this machine only.
pub(crate) fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
