//! The endpoint over a store that does what the test says: answers, overload, failure, panic, and a slow turn.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::Request;
use cloudsync_protocol::range::Check;
use cloudsync_server::config::Config;
use cloudsync_server::control::{Control, NewKey};
use cloudsync_server::events::Feed;
use cloudsync_server::file_limit::FileLimit;
use cloudsync_server::folder::{DatabaseName, Folder};
use cloudsync_server::http::{self, Server};
use cloudsync_server::registry::Registry;
use cloudsync_server::store::{Asker, Rights, Store, StoreError};
use program::{Answer, MEDIA_TYPE};
use tokio::sync::oneshot;

/// A store whose turn is the given function, of the first byte of the request's site.
struct Scripted(Box<dyn Fn(u8, Rights) -> Result<Vec<u8>, StoreError> + Send + Sync>, Feed);

impl Store for Scripted {
    fn turn(&self, request: &Request<'_>, asker: &Asker, now_ms: u64) -> Result<Vec<u8>, StoreError> {
        assert!(now_ms > 1_700_000_000_000);
        self.0(request.site.0[0], asker.rights)
    }

    fn feed(&self) -> &Feed {
        &self.1
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// A server in this process on a store of our own.
struct Running {
    _temp: tempfile::TempDir,
    address: String,
    key: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(turn: impl Fn(u8, Rights) -> Result<Vec<u8>, StoreError> + Send + Sync + 'static) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        let control = Control::open(&folder).unwrap();
        control.create_database(&DatabaseName::new("d").unwrap(), 0).unwrap();
        let (_, key) = control.create_key(NewKey::for_all(""), 0).unwrap();
        let store: Arc<dyn Store> = Arc::new(Scripted(Box::new(turn), Feed::default()));
        let open_store = move |_: &Path| Ok(Arc::clone(&store));
        let registry = Registry::new(folder.clone(), Box::new(open_store));
        let server =
            Server::new(folder, control, registry, FileLimit::raise(), &Config::of_defaults().unwrap())
                .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (address_out, address) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_out.send(listener.local_addr().unwrap().to_string()).unwrap();
                http::serve(server, listener, None, async move { drop(stopped.await) }).await;
            });
        });
        let (address, key) = (address.recv().unwrap(), key.reveal().to_owned());
        Self { _temp: temp, address, key, stop: Some(stop), thread: Some(thread) }
    }

    fn sync(&self, site: u8) -> Answer {
        program::exchange(&self.address, &self.head(site), &body(site))
    }

    fn head(&self, site: u8) -> String {
        let (key, length) = (&self.key, body(site).len());
        format!(
            "POST /v1/databases/d/sync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {key}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {length}\r\n\r\n"
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn body(site: u8) -> Vec<u8> {
    let request = Request {
        site: SiteId([site; 16]),
        epoch: 0,
        nonce: 0,
        now: 0,
        cursor: 0,
        position: b"",
        pull: true,
        echo: false,
        fingerprint: 0,
        schema: None,
        upload: None,
        check: Check::default(),
    };
    request.encode()
}

#[test]
fn each_outcome_has_its_status() {
    let server = Running::start(|site, rights| match site {
        1 => Ok(vec![u8::from(rights.write), u8::from(rights.schema)]),
        2 => Err(StoreError::Busy("the secret reason".into())),
        3 => Err(StoreError::Failed("the secret reason".into())),
        _ => panic!("a store that panics"),
    });
    let answer = server.sync(1);
    assert_eq!((answer.status, answer.body.as_slice()), (200, [1, 1].as_slice()));
    assert_eq!(answer.header("content-type"), Some(MEDIA_TYPE));
    assert_eq!(answer.header("cloudsync-protocol"), Some("1"));
    let busy = server.sync(2);
    assert_eq!(busy.error(), (503, "CLOUDSYNC_BUSY".into()));
    assert_eq!(busy.header("retry-after"), Some("1"));
    let failed = server.sync(3);
    assert_eq!(failed.error(), (500, "CLOUDSYNC_INTERNAL".into()));
    assert!(failed.header("cloudsync-request-id").is_some());
    assert_eq!(server.sync(4).error(), (500, "CLOUDSYNC_INTERNAL".into()));
    for answer in [busy, failed] {
        assert!(!program::text(&answer.body).contains("secret"));
    }
    assert_eq!(server.sync(1).status, 200, "a panic costs one request only");
}

#[test]
fn a_running_turn_is_finished_before_the_server_stops() {
    let (entered_in, entered): (Sender<()>, Receiver<()>) = channel();
    let (leave, leave_out): (Sender<()>, Receiver<()>) = channel();
    let doors = Mutex::new((entered_in, leave_out));
    let mut server = Running::start(move |_, _| {
        let doors = doors.lock().unwrap();
        doors.0.send(()).unwrap();
        doors.1.recv().unwrap();
        Ok(b"done".to_vec())
    });
    let (address, head) = (server.address.clone(), server.head(1));
    let asking = std::thread::spawn(move || program::exchange(&address, &head, &body(1)));
    entered.recv().unwrap();
    drop(server.stop.take());
    // The listener is closed at once, which shows that stopping has begun while the turn still runs.
    while std::net::TcpStream::connect(&server.address).is_ok() {
        std::thread::yield_now();
    }
    leave.send(()).unwrap();
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"done".as_slice()));
}
