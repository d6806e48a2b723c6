//! What an insertion under a key that somebody else has tells over HTTP, against one under a free key: nothing. Neither by
//! what is answered, byte for byte, nor by the time that it takes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
mod evenly;
mod program;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench::Device;
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, MEDIA_TYPE, Reason, Turn};
use cloudsync_protocol::verdict::Verdicts;
use evenly::assert_equally_long;
use program::{Place, Serving};

const SEND: Goal = Goal { push: true, pull: false };
const SAMPLES: usize = 1_000;

// language=SQLite
const SCHEMA: &str =
    "CREATE TABLE members(project TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY(user, project));
    CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);";
// language=SQLite
const ROWS: &str = "INSERT INTO notes VALUES('taken', 'p2', 'secret');
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 500)
    INSERT INTO members SELECT 'p' || n, 'user' || n FROM n";
/// Each look at the members is a scan.
const MEMBER: &str =
    "EXISTS(SELECT 1 FROM members AS m WHERE m.project = notes.project AND m.user = auth_userid())";

/// A device of eve's on a connection of its own.
struct Line {
    device: Device,
    stream: TcpStream,
    token: String,
}

/// An answer of HTTP: its head without what no two answers share, and its body.
struct Told {
    head: Vec<String>,
    body: Vec<u8>,
    took: Duration,
}

impl Line {
    fn new(seed: u64, server: &Serving, token: &str) -> Self {
        let stream = TcpStream::connect(&server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { device: Device::new(seed, SCHEMA), stream, token: token.to_owned() }
    }

    fn ask(&mut self, body: &[u8]) -> Told {
        let mut request = format!(
            "POST /v1/databases/d/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let begun = Instant::now();
        self.stream.write_all(&request).unwrap();
        let mut seen = Vec::new();
        let mut part = [0; 4096];
        loop {
            let length = self.stream.read(&mut part).unwrap();
            assert!(length > 0, "the server hung up");
            seen.extend_from_slice(&part[..length]);
            let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(seen[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if seen.len() >= end + 4 + length.parse::<usize>().unwrap() {
                let took = begun.elapsed();
                let own =
                    |line: &&str| !line.starts_with("date:") && !line.starts_with("cloudsync-request-id:");
                let head = head.lines().filter(own).map(str::to_owned).collect();
                return Told { head, body: seen.split_off(end + 4), took };
            }
        }
    }

    /// Inserts a row that is refused, and gives the answer that says so.
    fn insert(&mut self, key: &str) -> Told {
        self.device.run(&format!("INSERT INTO notes VALUES('{key}', 'p1', 'x')"));
        let mut schema = false;
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            self.device.world.now.set(now.as_millis() as u64 + 1);
            let request = self.device.replica.prepare(SEND, schema).unwrap();
            let told = self.ask(&request);
            match Answer::decode(&told.body).unwrap() {
                Answer::Refusal(refusal) => {
                    assert_eq!(refusal.reason, Reason::NeedSchema, "{refusal:?}");
                    schema = true;
                }
                Answer::Turn(turn) => {
                    self.device.replica.absorb(&turn).unwrap();
                    return told;
                }
            }
        }
    }
}

fn begin() -> (Place, Serving, String) {
    let place = Place::in_memory();
    place.run(&["db", "create", "d"]);
    let file = place.data.with_file_name("rows.sql");
    for sql in [SCHEMA, ROWS] {
        std::fs::write(&file, sql).unwrap();
        place.run(&["db", "sql", "d", file.to_str().unwrap()]);
        if sql == SCHEMA {
            place.run(&["table", "enable", "d", "members"]);
            place.run(&["table", "enable", "d", "notes"]);
        }
    }
    place.run(&["policy", "set", "d", "notes", "--select", MEMBER, "--insert", MEMBER]);
    let token = place.run(&["token", "create", "d", "eve"]).trim_end().to_owned();
    let server = place.serve(&["--user-requests-per-s", "0"]);
    (place, server, token)
}

#[test]
fn a_taken_key_and_a_free_one_are_answered_byte_for_byte_alike() {
    let (_place, server, token) = begin();
    let (mut taken, mut free) = (Line::new(1, &server, &token), Line::new(2, &server, &token));
    for _ in 0..3 {
        let (one, other) = (taken.insert("taken"), free.insert("free_"));
        assert_eq!((one.head, one.body.len()), (other.head, other.body.len()));
        let [one, other] = [&one.body, &other.body].map(|body| {
            let Answer::Turn(turn) = Answer::decode(body).unwrap() else { panic!("a refusal") };
            let verdicts = Verdicts::decode(turn.verdicts).unwrap();
            let [only] = verdicts.list[..] else { panic!("{verdicts:?}") };
            // The clock and the id of the round are the device's own, and so is the key; nothing else may differ.
            let accepted =
                turn.accepted.map(|accepted| (accepted.committed, accepted.repeated, accepted.quarantined));
            let rest = Turn { now: 0, accepted: None, verdicts: b"", ..turn };
            let verdict = (only.state, only.table.to_owned(), only.reason.to_owned(), only.key.len());
            format!("{accepted:?} {rest:?} {verdict:?} {:?} {}", verdicts.payload, verdicts.more)
        });
        assert_eq!(one, other);
        assert!(one.contains("not allowed, or no such row"), "{one}");
    }
}

#[test]
fn a_taken_key_and_a_free_one_are_answered_equally_fast_over_http() {
    let (_place, server, token) = begin();
    assert_equally_long(|at| {
        let (mut taken, mut free) =
            (Line::new(10 + 2 * at, &server, &token), Line::new(11 + 2 * at, &server, &token));
        let mut samples = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            samples.0.push(taken.insert("taken").took);
            samples.1.push(free.insert("free_").took);
        }
        samples
    });
}
