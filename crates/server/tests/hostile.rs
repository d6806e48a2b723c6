//! Callers who mean no good, at every door of the running program: whatever they send, it answers or hangs up, goes on,
//! and tells them nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use cloudsync_server::http;
use program::{MEDIA_TYPE, Place, Serving};

const SEED: u64 = 0x5eed_0f05_711e;
const REQUESTS: usize = 1500;
/// A request that is no HTTP is hung up on without an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What stands behind a path, or is none.
const MORE: [&str; 6] = ["?site={}", "?cursor={}", "?heartbeat_ms={}&site={}", "/{}", "/", "?{}"];
const METHODS: [&str; 10] =
    ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get"];
const NAMES: [&str; 24] = [
    "one",
    "two",
    "none",
    "ONE",
    "",
    ".",
    "..",
    "%2e%2e",
    "..%2f..%2fcontrol",
    "..%5c..%5ccontrol",
    "%00",
    "one%00",
    "one.db",
    "one/../two",
    "%2Fetc%2Fpasswd",
    "one'--",
    "%27%3BDROP%20TABLE%20databases%3B--",
    "%22%20OR%201%3D1",
    "%ff%fe",
    "%F0%9F%92%A9",
    "%",
    "%zz",
    "csk_AAAAAAAAAAAA",
    "9223372036854775808",
];
const MEDIA_TYPES: [&str; 5] =
    [MEDIA_TYPE, "application/json", "text/plain", "application/vnd.cloudsync; q=\"", "\u{e4}"];

/// A stream of numbers that is the same for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'t, T>(&mut self, things: &'t [T]) -> &'t T {
        &things[self.below(things.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }
}

struct Doors {
    place: Place,
    server: Serving,
    /// Where metrics are told.
    metrics: String,
    /// For all databases, for one of them, and of a user of that one.
    bearers: [String; 3],
}

fn begin() -> Doors {
    let place = Place::new();
    place.run(&["db", "create", "one"]);
    place.run(&["db", "create", "two"]);
    let bearers = [
        place.run(&["key", "create"]),
        place.run(&["key", "create", "--database", "one"]),
        place.run(&["token", "create", "one", "alice"]),
    ];
    // More than any test asks for, so that no answer is one about limits.
    let mut server =
        place.serve(&["--user-requests-per-s", "0", "--body-ms", "2000", "--metrics-addr", "127.0.0.1:0"]);
    let metrics = server.next_line();
    let metrics = metrics.strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap();
    let metrics = metrics.to_owned();
    Doors { place, server, metrics, bearers: bearers.map(|bearer| bearer.trim_end().to_owned()) }
}

/// A path of one of the doors, or of none, with a name of a database and one of something in it.
fn path(random: &mut Random, name: &str, other: &str) -> String {
    let mut paths = http::paths();
    paths.extend(["/{db}", "/v1/databases/{db}/{other}", "/v1/{db}/{other}"]);
    let mut path = String::new();
    for (at, part) in random.pick(&paths).split('/').enumerate() {
        path.push_str(if at > 0 { "/" } else { "" });
        path.push_str(match part {
            "{db}" => name,
            part if part.starts_with('{') => other,
            part => part,
        });
    }
    if random.below(3) == 0 {
        path.push_str(&random.pick(&MORE).replacen("{}", other, 1).replacen("{}", name, 1));
    }
    path
}

fn request(random: &mut Random, bearers: &[String]) -> Vec<u8> {
    let mut name = (*random.pick(&NAMES)).to_owned();
    if random.below(20) == 0 {
        name = "x".repeat(random.below(20_000));
    }
    let other = *random.pick(&NAMES);
    let path = path(random, &name, other);
    let version = if random.below(30) == 0 { "HTTP/9.9" } else { "HTTP/1.1" };
    let mut head = format!("{} {path} {version}\r\n", random.pick(&METHODS)).into_bytes();
    head.extend_from_slice(b"Host: x\r\nConnection: close\r\n");
    let mut bearer = random.pick(bearers).clone().into_bytes();
    match random.below(6) {
        0 => bearer.clear(),
        1 => {
            let at = random.below(bearer.len());
            bearer[at] = random.next() as u8;
        }
        2 => bearer = random.bytes(200),
        _ => {}
    }
    bearer.retain(|byte| !b"\r\n\0".contains(byte));
    head.extend_from_slice(b"Authorization: Bearer ");
    head.extend_from_slice(&bearer);
    head.extend_from_slice(format!("\r\nContent-Type: {}\r\n", random.pick(&MEDIA_TYPES)).as_bytes());
    if random.below(25) == 0 {
        head.extend_from_slice(format!("X-Large: {}\r\n", "y".repeat(random.below(600_000))).as_bytes());
    }
    let body = body(random);
    match random.below(8) {
        0 => head.extend_from_slice(b"Content-Length: 18446744073709551616\r\n"),
        1 => head.extend_from_slice(b"Content-Length: 5\r\nContent-Length: 6\r\n"),
        2 => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        3 => {}
        _ => head.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes()),
    }
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(&body);
    head
}

fn body(random: &mut Random) -> Vec<u8> {
    match random.below(7) {
        0 => Vec::new(),
        1 => random.bytes(2000),
        // The beginning of a real request of a device, and then anything.
        2 => [b"\xC5\x52\x01".as_slice(), &random.bytes(500)].concat(),
        3 => br#"{"user":"' OR 1=1 --","claims":{"a":[[[[[[]]]]]]},"expires_in_s":1}"#.to_vec(),
        4 => format!("{{\"user\":{}}}", "[".repeat(random.below(5000))).into_bytes(),
        5 => br#"{"select":"1) OR (1","insert":"1; DROP TABLE x; --","user":"x","rows":9}"#.to_vec(),
        _ => format!("{:x}\r\n", random.next()).into_bytes(),
    }
}

/// The beginning of the answer; nothing if the server hung up.
fn answer(address: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // It may hang up before it has all of it.
    let _ = stream.write_all(request);
    // What is announced and does not come is not waited for.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let (mut seen, mut part) = (Vec::new(), [0; 4096]);
    while seen.len() < ANSWER_BYTES_MAX {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => seen.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no answer: {error}: {}", String::from_utf8_lossy(request)),
        }
        // A stream of events has no end.
        if seen.windows(13).any(|window| window == b"event-stream\r") {
            break;
        }
    }
    seen
}

#[cfg(target_os = "linux")]
fn most_memory_kb(server: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn whatever_is_sent_the_server_answers_and_goes_on() {
    let Doors { place, server, metrics, bearers } = begin();
    let files = || {
        let mut names: Vec<_> = [place.data.clone(), place.data.join("databases")]
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm") && !name.starts_with(".ready"))
            .collect();
        names.sort();
        names
    };
    let before = files();
    let mut random = Random(SEED);
    let mut answered = [0; 6];
    for number in 0..REQUESTS {
        let request = request(&mut random, &bearers);
        let address = if random.below(8) == 0 { &metrics } else { &server.address };
        let answer = answer(address, &request);
        let status =
            answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let shown = || String::from_utf8_lossy(&request[..request.len().min(500)]).into_owned();
        assert!(
            status.is_none_or(|status| status < 500 || [503, 505].contains(&status)),
            "request {number} of seed {SEED:#x}: {status:?}: {}",
            shown()
        );
        answered[status.map_or(0, |status| status / 100)] += 1;
    }
    assert!(answered[2] > 10 && answered[4] > REQUESTS / 2, "{answered:?}");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.sync("one", &bearers[0], b"rubbish").status, 400);
    assert_eq!(files(), before);
    let list: serde_json::Value = serde_json::from_str(&place.run(&["db", "list", "--json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    #[cfg(target_os = "linux")]
    assert!(most_memory_kb(&server) < 400_000, "{} kB", most_memory_kb(&server));
}

#[test]
fn a_body_that_does_not_come_is_given_up_at_every_door() {
    let place = Place::new();
    place.run(&["db", "create", "one"]);
    let key = place.run(&["key", "create"]).trim_end().to_owned();
    let mut server = place.serve(&["--body-ms", "200", "--metrics-addr", "127.0.0.1:0"]);
    let metrics = server.next_line();
    let metrics =
        metrics.strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    let mut open = Vec::new();
    for path in http::paths() {
        let path = path.replace("{db}", "one").replace("{token}", "1").replace("{table}", "t");
        let address = if path == "/metrics" { &metrics } else { &server.address };
        for method in ["POST", "PUT", "GET", "DELETE"] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let kind = if path.ends_with("sync") { MEDIA_TYPE } else { "application/json" };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n{{\"user"
            );
            stream.write_all(head.as_bytes()).unwrap();
            open.push((format!("{method} {path}"), stream));
        }
    }
    // All of them wait at one time, and each is answered though nothing more comes.
    for (asked, mut stream) in open {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap_or_else(|error| panic!("{asked}: {error}"));
        let status: u16 = std::str::from_utf8(&status[9..]).unwrap().parse().unwrap();
        assert!([200, 400, 404, 405].contains(&status), "{asked}: {status}");
    }
    assert_eq!(server.sync("one", &key, b"rubbish").status, 400);
}

#[test]
fn what_is_taken_back_ends_its_listeners_at_once_though_nothing_happens() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let secret = "a secret of at least 32 bytes, really";
    let file = place.data.with_file_name("secret");
    std::fs::write(&file, secret).unwrap();
    place.run(&["issuer", "add", "d", "me", "--audience", "a", "--secret-file", file.to_str().unwrap()]);
    let admin = place.run(&["key", "create", "--database", "d"]).trim_end().to_owned();
    let bearers = [
        place.run(&["key", "create", "--database", "d"]),
        place.run(&["token", "create", "d", "alice"]),
        place.run(&["token", "create", "d", "alice"]),
        signed(secret),
    ];
    let bearers = bearers.map(|bearer| bearer.trim_end().to_owned());
    let server = place.serve(&[]);
    let mut listening = bearers.each_ref().map(|bearer| server.listen("d", bearer));
    let mut stays = server.listen("d", &admin);
    place.run(&["key", "revoke", &bearers[0][..12]]);
    let id = place.run(&["token", "list", "--json"]);
    let id: serde_json::Value = serde_json::from_str(&id).unwrap();
    let id =
        id.as_array().unwrap().iter().find(|token| bearers[1].starts_with(token["prefix"].as_str().unwrap()));
    let id = id.unwrap()["id"].as_i64().unwrap();
    let path = format!("/v1/databases/d/tokens/{id}");
    assert_eq!(server.ask("DELETE", &path, &admin, "").status, 200);
    place.run(&["token", "revoke", &bearers[2][..12]]);
    place.run(&["issuer", "remove", "1"]);
    for (stream, bearer) in listening.iter_mut().zip(&bearers) {
        // Heartbeats come every twenty seconds, so nothing but the end of the bearer ends this sooner.
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        program::read_end(stream);
        assert_eq!(server.sync("d", bearer, b"rubbish").status, 401);
    }
    stays.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let open = stays.read(&mut [0]).unwrap_err();
    assert!([std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&open.kind()), "{open}");
}

/// A token of the issuer `me`.
fn signed(secret: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({"iss": "me", "aud": "a", "sub": "bob", "exp": now + 600});
    let parts =
        [serde_json::json!({"alg": "HS256"}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = parts.join(".");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
}

#[test]
fn nobody_learns_which_databases_exist_or_opens_that_of_another() {
    let Doors { place: _place, server, bearers: [_, key, token], .. } = begin();
    // What differs from answer to answer without telling anything.
    let plain = |answer: &program::Answer| {
        let head = answer.head.lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !["date", "cloudsync-request-id"].contains(&name.as_str())
        });
        (head.map(str::to_owned).collect::<Vec<_>>(), answer.body.clone())
    };
    let unknown = format!("csk_{}", "A".repeat(43));
    // Every method on every path that names a database.
    let mut paths = http::paths();
    paths.retain(|path| path.contains("{db}"));
    let doors = paths.len();
    let within = |path: &str| path.replace("{token}", "1").replace("{table}", "t");
    let methods = ["GET", "POST", "PUT", "DELETE", "PATCH"];
    let asked: Vec<_> =
        paths.into_iter().flat_map(|path| methods.map(|method| (method, within(path)))).collect();
    let mut refused = 0;
    for bearer in [&key, &token, &unknown] {
        for (method, path) in &asked {
            let ask =
                |database: &str| plain(&server.ask(method, &path.replace("{db}", database), bearer, "{}"));
            let existing = ask("two");
            assert!(
                [" 401 ", " 405 "].iter().any(|status| existing.0[0].contains(status)),
                "{method} {path}: {existing:?}"
            );
            refused += usize::from(existing.0[0].contains(" 401 "));
            for database in ["none", "TWO", "two.db", "%2e%2e", "two%00", "one%2f..%2ftwo", &"x".repeat(300)]
            {
                assert_eq!(ask(database), existing, "{method} {path} {database}");
            }
        }
    }
    assert!(refused >= 3 * doors, "each door has a method that asks for a key: {refused} of {doors}");
}

#[test]
fn a_bearer_that_is_not_exact_is_refused() {
    let Doors { place, server, bearers, .. } = begin();
    let expired = place.run(&["token", "create", "one", "bob", "--expires-in", "1s"]);
    let judge = |bearer: &str| server.sync("one", bearer, b"rubbish").status;
    for bearer in &bearers {
        assert_eq!(judge(bearer), 400);
        for at in 0..bearer.len() {
            let mut forged = bearer.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(judge(&String::from_utf8(forged).unwrap()), 401, "{at}");
        }
        for forged in [format!("{bearer}A"), bearer[..bearer.len() - 1].to_owned(), bearer.to_uppercase()] {
            assert_eq!(judge(&forged), 401, "{forged}");
        }
    }
    while judge(expired.trim_end()) == 400 {
        std::thread::yield_now();
    }
    // What was good once and is sent again is not.
    place.run(&["token", "revoke", &bearers[2][..12]]);
    assert_eq!((judge(expired.trim_end()), judge(&bearers[2])), (401, 401));
}

#[test]
fn sql_in_a_name_is_a_name() {
    let Doors { place, server, bearers: [key, ..], .. } = begin();
    let evil = "x'); DROP TABLE tokens; --";
    let body = serde_json::json!({ "user": evil, "claims": { "\"; DROP": "'" } }).to_string();
    let minted = server.ask("POST", "/v1/databases/one/tokens", &key, &body);
    assert_eq!(minted.status, 201);
    let listed = server.ask("GET", "/v1/databases/one/tokens", &key, "").json();
    assert!(listed["tokens"].as_array().unwrap().iter().any(|token| token["user"] == evil));
    for id in ["1%20OR%201=1", "%27%20OR%20%271%27=%271", "%25", "_", "*"] {
        assert_eq!(
            server.ask("DELETE", &format!("/v1/databases/one/tokens/{id}"), &key, "").status,
            404,
            "{id}"
        );
    }
    place.run(&["key", "create", "--name", evil]);
    assert!(place.run(&["key", "list"]).contains(evil));
    // Tables and columns, up to the commands that look at them.
    let sql = place.data.join("evil.sql");
    let table = "t\"; DROP TABLE keep; --";
    let quoted = format!("\"{}\"", table.replace('"', "\"\""));
    let text = format!(
        "CREATE TABLE keep (id TEXT PRIMARY KEY NOT NULL); CREATE TABLE {quoted} (\"a'b\"\"c\" TEXT PRIMARY KEY NOT NULL, \
         \"'); --\" TEXT UNIQUE, up REFERENCES {quoted}); CREATE TRIGGER \"' r\" AFTER INSERT ON {quoted} BEGIN SELECT 1; END"
    );
    std::fs::write(&sql, text).unwrap();
    place.run(&["db", "sql", "one", sql.to_str().unwrap()]);
    place.run(&["table", "check", "one", table]);
    place.run(&["table", "enable", "one", table]);
    drop(server.listen("one", &key));
    let copy = place.data.join("copy.db");
    place.run(&["db", "backup", "one", copy.to_str().unwrap()]);
    place.run(&["doctor", copy.to_str().unwrap()]);
    place.run(&["table", "disable", "one", table]);
    let tables: serde_json::Value =
        serde_json::from_str(&place.run(&["table", "list", "one", "--json"])).unwrap();
    assert_eq!(tables, serde_json::json!([]));
    let copied = rusqlite::Connection::open(copy).unwrap();
    copied.query_row("SELECT count(*) FROM keep", [], |_| Ok(())).unwrap();
}
