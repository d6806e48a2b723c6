use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use cloudsync_protocol::message::{Answer, MEDIA_TYPE};
use cloudsync_server::auth::User;
use cloudsync_server::config::Config;
use cloudsync_server::control::{Control, NewKey, NewToken};
use cloudsync_server::file_limit::FileLimit;
use cloudsync_server::folder::{DatabaseName, Folder};
use cloudsync_server::http::{Server, in_process};
use cloudsync_server::registry::{Registry, open_store};
use cloudsync_server::store::sqlite::enable_table;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

use crate::{device, host, input, memory, scratch};

/// The routes that take a body. What else the server serves is in [`WITHOUT_BODY`].
pub(crate) const ROUTES: [(&str, &str); 5] = [
    ("POST", "/v1/databases/{db}/sync"),
    ("POST", "/v1/databases/{db}/tokens"),
    ("PUT", "/v1/databases/{db}/policies/{table}"),
    ("POST", "/v1/databases/{db}/policies/{table}/test"),
    ("POST", "/v1/databases/{db}/policies/{table}/plan"),
];
/// What one body of at most 16 KiB may hold beside SQLite's own memory.
const HELD_BYTES_MAX: usize = 96 << 20;
/// Longest answer that is read; most are shorter by far.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Requests to one server before it is judged and another one takes its place.
const REQUESTS: u32 = 500;
const TABLES: [&str; 4] = ["notes", "tags", "missing", "no%22te%00s"];

struct Used {
    router: Router,
    runtime: Runtime,
    key: String,
    token: String,
    folder: TempDir,
    requests: u32,
}

thread_local! {
    static USED: RefCell<Option<Used>> = const { RefCell::new(None) };
}

impl Used {
    fn new() -> Self {
        let temp = scratch::folder();
        let folder = Folder::create(temp.path()).unwrap();
        let control = Control::open(&folder).unwrap();
        let database = DatabaseName::new("db").unwrap();
        let now_ms = now_ms();
        control.create_database(&database, now_ms).unwrap();
        let path = folder.database_path(&database);
        Connection::open(&path).unwrap().execute_batch(device::TABLES).unwrap();
        for (table, algorithm) in [("notes", "cls"), ("tags", "dws"), ("kept", "aws")] {
            enable_table(&path, table, algorithm).unwrap();
        }
        let (_, key) = control.create_key(NewKey::for_all("fuzz"), now_ms).unwrap();
        let user = User { id: "alice".to_owned(), claims: serde_json::Map::new() };
        let token = NewToken { database: &database, user, expires_ms: now_ms + 86_400_000 };
        let (_, token) = control.mint_token(&token, now_ms).unwrap();
        let mut config = Config::of_defaults().unwrap();
        config.user.requests_per_s = 0;
        let registry = Registry::new(folder.clone(), Box::new(open_store));
        let server = Server::new(folder, control, registry, FileLimit::look(), &config).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (key, token) = (key.reveal().to_owned(), token.reveal().to_owned());
        let router = in_process(server, IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self { router, runtime, key, token, folder: temp, requests: 0 }
    }

    /// Sends one request; its answer must be one that a client can deal with.
    fn ask(&mut self, choices: u8, more: u8, body: Vec<u8>) {
        let (method, path) = ROUTES[usize::from(choices & 7) % ROUTES.len()];
        let is_sync = path.ends_with("/sync");
        let table = TABLES[usize::from(more >> 4 & 3)];
        let uri = path.replace("{db}", "db").replace("{table}", table);
        let media_type = if (more & 8 == 0) == is_sync { MEDIA_TYPE } else { "application/json" };
        let method = if more & 0xc0 == 0xc0 { Method::DELETE } else { method.parse().unwrap() };
        let mut request = Request::builder().method(method).uri(uri).header("content-type", media_type);
        match more & 7 {
            0..=4 => request = request.header("authorization", format!("Bearer {}", self.key)),
            5 => request = request.header("authorization", format!("Bearer {}", self.token)),
            6 => request = request.header("authorization", "Bearer csk_wrong"),
            _ => {}
        }
        let request = request.body(Body::from(body)).unwrap();
        let (status, answer) = self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            assert!(answer.headers().contains_key("cloudsync-protocol"));
            let status = answer.status();
            (status, to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.unwrap())
        });
        judge_answer(status, &answer, is_sync);
        self.requests += 1;
    }
}

fn judge_answer(status: StatusCode, answer: &[u8], is_sync: bool) {
    let shown = || String::from_utf8_lossy(answer);
    if status.is_success() && is_sync {
        Answer::decode(answer).unwrap();
        return;
    }
    let json: Value = serde_json::from_slice(answer).unwrap_or_else(|_| panic!("{status}: {}", shown()));
    assert!(status.is_success() || status.is_client_error(), "{status}: {}", shown());
    if status.is_client_error() {
        let part = |name: &str| json["error"][name].as_str().unwrap_or_default().to_owned();
        assert!(
            part("code").starts_with("CLOUDSYNC_") && !part("message").is_empty(),
            "{status}: {}",
            shown()
        );
    }
}

/// The first byte chooses the route, the second one who asks, of which table and by which media type.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let Some((more, rest)) = input::split(rest) else { return };
    let body = if usize::from(choices & 7) % ROUTES.len() == 0 {
        input::request(choices, rest)
    } else {
        rest.to_vec()
    };
    USED.with_borrow_mut(|used| {
        let asked = used.get_or_insert_with(Used::new);
        memory::within(HELD_BYTES_MAX, || asked.ask(choices, more, body));
        if asked.requests >= REQUESTS {
            judge(used.take().unwrap());
        }
    });
}

fn judge(used: Used) {
    let Used { router, runtime, folder, .. } = used;
    drop((router, runtime));
    let there = Connection::open(folder.path().join("databases/db.db")).unwrap();
    assert_eq!(host::show(&there, "PRAGMA integrity_check"), "ok");
    let control = Connection::open(folder.path().join("control.db")).unwrap();
    assert_eq!(host::show(&control, "PRAGMA integrity_check"), "ok");
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths at which nothing takes a body.
    const WITHOUT_BODY: [&str; 8] = [
        "/v1/databases/{db}/events",
        "/health",
        "/ready",
        "/v1/databases/{db}/tokens/{token}",
        "/v1/databases/{db}/status",
        "/v1/databases/{db}/policies",
        "/v1/databases/{db}/policies/{table}/history",
        "/metrics",
    ];

    #[test]
    fn every_route_with_a_body_is_asked() {
        for path in cloudsync_server::http::paths() {
            let is_known = ROUTES.iter().any(|(_, route)| *route == path) || WITHOUT_BODY.contains(&path);
            assert!(is_known, "{path} is neither in ROUTES nor without a body");
        }
    }
}
