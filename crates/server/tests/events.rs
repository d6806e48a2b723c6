//! Listening at the doors of a server: what is told, to whom, and what ends it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::Request;
use cloudsync_server::config::Config;
use cloudsync_server::control::{Control, NewKey};
use cloudsync_server::events::Feed;
use cloudsync_server::file_limit::FileLimit;
use cloudsync_server::folder::{DatabaseName, Folder};
use cloudsync_server::http::{self, Server};
use cloudsync_server::registry::Registry;
use cloudsync_server::store::{Asker, Store, StoreError};
use program::{Place, Serving};
use tokio::sync::oneshot;

/// A store of which only the feed matters.
#[derive(Default)]
struct FeedOnly(Feed);

impl Store for FeedOnly {
    fn turn(&self, _: &Request<'_>, _: &Asker, _: u64) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::Busy("no turns here".into()))
    }

    fn feed(&self) -> &Feed {
        &self.0
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// A server in this process on such a store.
struct Running {
    _temp: tempfile::TempDir,
    address: String,
    key: String,
    store: Arc<FeedOnly>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(file_limit: FileLimit) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        let control = Control::open(&folder).unwrap();
        control.create_database(&DatabaseName::new("d").unwrap(), 0).unwrap();
        let (_, key) = control.create_key(NewKey::for_all(""), 0).unwrap();
        let store = Arc::new(FeedOnly::default());
        let opened: Arc<dyn Store> = Arc::<FeedOnly>::clone(&store);
        let registry = Registry::new(folder.clone(), Box::new(move |_: &Path| Ok(Arc::clone(&opened))));
        let server =
            Server::new(folder, control, registry, file_limit, &Config::of_defaults().unwrap()).unwrap();
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
        Self { _temp: temp, address, key, store, stop: Some(stop), thread: Some(thread) }
    }

    fn listen(&self, query: &str) -> Listener {
        Listener::open(&self.address, &self.key, query, "")
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

/// A device that listens.
struct Listener {
    head: String,
    reader: BufReader<TcpStream>,
}

impl Listener {
    fn open(address: &str, key: &str, query: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = format!(
            "GET /v1/databases/d/events{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut listener = Self { head: String::new(), reader: BufReader::new(stream) };
        while let Some(line) = listener.line().filter(|line| !line.is_empty()) {
            listener.head = listener.head + &line + "\n";
        }
        listener
    }

    /// The next line as HTTP frames it, chunk sizes included; `None` at the end of the stream.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).expect("a line, or the end, in time");
        (length > 0).then(|| line.trim_end().to_owned())
    }

    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// The next line of an event or a comment, over what HTTP puts between them.
    fn next(&mut self) -> Option<String> {
        loop {
            // The last chunk is empty.
            let line = self.line().filter(|line| line != "0")?;
            if line == ":" || line.contains(": ") {
                return Some(line);
            }
        }
    }

    /// The version that the next event tells, over heartbeats.
    fn version(&mut self) -> Option<u64> {
        let mut first = self.next()?;
        while first == ":" {
            first = self.next()?;
        }
        let id = first.strip_prefix("id: ").expect(&first).to_owned();
        assert_eq!(self.next().as_deref(), Some("event: new"));
        assert_eq!(self.next(), Some(format!("data: {id}")));
        Some(id.parse().unwrap())
    }
}

fn site(number: u8) -> Option<SiteId> {
    Some(SiteId([number; 16]))
}

fn query(number: u8) -> String {
    format!("?site={}", format!("{number:02x}").repeat(16))
}

#[test]
fn listeners_are_told_of_what_others_brought() {
    let server = Running::start(FileLimit::raise());
    let feed = &server.store.0;
    let (mut one, mut two) = (server.listen(&query(1)), server.listen(&query(2)));
    for header in
        ["200", "content-type: text/event-stream", "cache-control: no-store", "cloudsync-protocol: 1"]
    {
        assert!(one.head.contains(header), "{header}: {}", one.head);
    }
    assert_eq!(one.next().as_deref(), Some(":"), "something comes at once");
    feed.tell(site(1), 5);
    assert_eq!(two.version(), Some(5));
    feed.tell(site(2), 6);
    assert_eq!(one.version(), Some(6), "its own version 5 was not told");
    feed.tell(None, 7);
    assert_eq!((one.version(), two.version()), (Some(7), Some(7)));
}

#[test]
fn a_slow_listener_is_told_of_the_newest_only() {
    let server = Running::start(FileLimit::raise());
    let mut listener = server.listen(&query(1));
    // It reads nothing meanwhile; the socket takes some events, and what follows is kept as one number.
    for version in 1..=200_000 {
        server.store.0.tell(site(2), version);
    }
    let mut told = Vec::new();
    while told.last() != Some(&200_000) {
        told.push(listener.version().unwrap());
    }
    assert!(told.is_sorted());
    assert!(told.len() < 100_000, "{} events", told.len());
}

#[test]
fn what_was_missed_is_told_at_once() {
    let server = Running::start(FileLimit::raise());
    server.store.0.tell(site(2), 9);
    assert_eq!(server.listen(&(query(1) + "&cursor=8")).version(), Some(9));
    let mut again = Listener::open(&server.address, &server.key, &query(1), "Last-Event-ID: 8\r\n");
    assert_eq!(again.version(), Some(9));
    let mut current = server.listen(&(query(1) + "&cursor=9"));
    server.store.0.tell(site(2), 10);
    assert_eq!(current.version(), Some(10));
}

#[test]
fn silence_is_broken_by_heartbeats() {
    let server = Running::start(FileLimit::raise());
    let mut listener = server.listen("?heartbeat_ms=1000");
    assert_eq!((listener.next().as_deref(), listener.next().as_deref()), (Some(":"), Some(":")));
}

#[test]
fn questions_are_checked() {
    let server = Running::start(FileLimit::raise());
    for query in ["?site=12", "?site=zz", "?cursor=x", "?cursor=-1", "?heartbeat_ms=1", "?heartbeat_ms=99999"]
    {
        assert_eq!(server.listen(query).status(), "400", "{query}");
    }
    let bad = Listener::open(&server.address, &server.key, "", "Last-Event-ID: x\r\n");
    assert_eq!(bad.status(), "400");
    assert_eq!(Listener::open(&server.address, "csk_no", "", "").status(), "401");
}

#[test]
fn more_listeners_than_files_allow_are_refused() {
    // A quarter of the files is kept for requests.
    let server = Running::start(FileLimit::new(Some(4)));
    let mut listeners: Vec<_> = (0..3).map(|_| server.listen("")).collect();
    let refused = server.listen("");
    assert_eq!(refused.status(), "503");
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    drop(listeners.pop());
    // The server notices the closed connection in its own time.
    let begun = Instant::now();
    while server.listen("").status() != "200" {
        assert!(begun.elapsed() < Duration::from_secs(30), "its room was not given back");
    }
    server.store.0.tell(site(2), 1);
    assert_eq!(listeners[0].version(), Some(1), "the others went on");
}

/// A server program with a database `d` of one table.
fn serve(place: &Place) -> (Serving, String, rusqlite::Connection) {
    let mut server = place.serve(&["--dev", "d"]);
    let key = (0..3).map(|_| server.next_line()).last().unwrap();
    let key = key.split('\'').nth(1).unwrap().to_owned();
    let shell = rusqlite::Connection::open(place.data.join("databases/d.db")).unwrap();
    shell.busy_timeout(Duration::from_secs(10)).unwrap();
    shell.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT)").unwrap();
    place.run(&["table", "enable", "d", "notes"]);
    (server, key, shell)
}

#[test]
fn plain_sql_in_the_servers_file_is_told() {
    let place = Place::new();
    let (server, key, shell) = serve(&place);
    let mut listener = Listener::open(&server.address, &key, &query(1), "");
    assert_eq!(listener.status(), "200");
    shell.execute("INSERT INTO notes VALUES ('a', 'x')", []).unwrap();
    let first = listener.version().unwrap();
    shell.execute("UPDATE notes SET body = 'y'", []).unwrap();
    assert!(listener.version().unwrap() > first);
}

#[test]
fn a_revoked_key_ends_its_listeners_and_no_others() {
    let place = Place::new();
    let (server, key, shell) = serve(&place);
    let lost = place.run(&["key", "create", "--database", "d"]);
    let mut loser = Listener::open(&server.address, lost.trim_end(), &query(1), "");
    let mut other = Listener::open(&server.address, &key, &query(2), "");
    assert_eq!(loser.status(), "200");
    assert_eq!(loser.next().as_deref(), Some(":"));
    place.run(&["key", "revoke", &lost[..12]]);
    shell.execute("INSERT INTO notes VALUES ('a', 'x')", []).unwrap();
    assert_eq!(loser.version(), None, "not even this event");
    assert!(other.version().is_some());
    assert_eq!(Listener::open(&server.address, lost.trim_end(), "", "").status(), "401");
}

#[cfg(unix)]
#[test]
fn a_stop_ends_the_streams() {
    let place = Place::new();
    let (server, key, _) = serve(&place);
    let mut listener = Listener::open(&server.address, &key, "", "");
    assert_eq!(server.stop(), Some(0));
    assert_eq!(listener.version(), None);
}
