//! The doors of the running program: keys, bodies, health, and a stop that finishes what runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use program::{MEDIA_TYPE, Place};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

#[test]
fn health_and_ready_and_nothing_else() {
    let place = Place::new();
    let server = place.serve(&[]);
    let health = server.get("/health");
    assert_eq!((health.status, health.header("cloudsync-protocol")), (200, Some("1")));
    assert_eq!(health.json()["status"], "ok");
    assert_eq!(server.get("/ready").status, 200);
    assert_eq!(server.get("/").error(), (404, "CLOUDSYNC_NOT_FOUND".into()));
    assert_eq!(server.get("/v1/databases/d/sync").error(), (405, "CLOUDSYNC_BAD_METHOD".into()));
    std::fs::remove_dir(place.data.join("databases")).unwrap();
    assert_eq!(server.get("/ready").error(), (503, "CLOUDSYNC_NOT_READY".into()));
}

#[test]
fn keys_made_and_revoked_elsewhere_are_obeyed_at_once() {
    let place = Place::new();
    let server = place.serve(&[]);
    place.run(&["db", "create", "one"]);
    place.run(&["db", "create", "two"]);
    let key = place.run(&["key", "create", "--database", "one"]);
    let all = place.run(&["key", "create"]);
    let (key, all) = (key.trim_end(), all.trim_end());
    let ask = |database: &str, key: &str| server.sync(database, key, b"rubbish").error();
    let (good, refused) = ((400, "CLOUDSYNC_BAD_REQUEST".into()), (401, "CLOUDSYNC_REFUSED_KEY".into()));
    assert_eq!(ask("one", key), good);
    assert_eq!(ask("two", all), good);
    assert_eq!(ask("none", all), (404, "CLOUDSYNC_UNKNOWN_DATABASE".into()));
    assert_eq!(ask("a%20b", all), (404, "CLOUDSYNC_UNKNOWN_DATABASE".into()));
    assert_eq!(ask("%ff", key), refused);

    place.run(&["key", "revoke", &key[..12]]);
    assert_eq!(ask("one", key), refused);
    // A caller without a good key learns nothing: neither which part is wrong nor which databases exist.
    let unknown = format!("csk_{}", "A".repeat(43));
    let text = server.sync("one", key, b"").body;
    for (database, key) in
        [("one", &*unknown), ("none", &unknown), ("none", key), ("one", ""), ("one", "\u{e4}")]
    {
        assert_eq!(ask(database, key), refused);
        assert_eq!(server.sync(database, key, b"").body, text, "{database} {key}");
    }
    assert_eq!(server.post("one", "Content-Length: 0\r\n", b"").error(), refused);
    assert_eq!(server.sync("one", key, b"").header("www-authenticate"), Some("Bearer"));
    assert_eq!(ask("one", all), good);
}

#[test]
fn a_key_that_is_revoked_while_its_body_travels_is_refused() {
    let place = Place::new();
    let server = place.serve(&[]);
    place.run(&["db", "create", "d"]);
    let key = place.run(&["key", "create"]);
    let key = key.trim_end();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /v1/databases/d/sync HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n\
         Authorization: Bearer {key}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 7\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n", "the key was good when the body was asked for");
    place.run(&["key", "revoke", &key[..12]]);
    stream.write_all(b"rubbish").unwrap();
    assert_eq!(program::read_answer(&mut stream).error(), (401, "CLOUDSYNC_REFUSED_KEY".into()));
}

#[test]
fn bodies_are_judged_before_they_are_read() {
    let place = Place::new();
    let mut server = place.serve(&["--dev", "d"]);
    let key = (0..3).map(|_| server.next_line()).last().unwrap();
    let key = key.split('\'').nth(1).unwrap();
    let (key, media_type) =
        (format!("Authorization: bearer {key}\r\n"), format!("Content-Type: {MEDIA_TYPE}\r\n"));
    let too_large = (413, "CLOUDSYNC_TOO_LARGE".into());
    for length in ["71303169", "99999999999999999999999999"] {
        let answer = server.post("d", &format!("{key}{media_type}Content-Length: {length}\r\n"), b"");
        if length.len() < 20 {
            assert_eq!(answer.error(), too_large);
        } else {
            assert_eq!(answer.status, 400);
        }
    }
    let empty = "Content-Length: 0\r\n";
    assert_eq!(
        server.post("d", &format!("{key}{empty}"), b"").error(),
        (415, "CLOUDSYNC_BAD_MEDIA_TYPE".into())
    );
    let answer = server.post("d", &format!("{key}{media_type}{empty}"), b"");
    assert_eq!(answer.error(), (400, "CLOUDSYNC_BAD_REQUEST".into()));
    let newer = server.post("d", &format!("{key}{media_type}Content-Length: 3\r\n"), b"\xC5\x52\x09");
    assert_eq!(newer.error().0, 400);
    assert!(newer.json()["error"]["message"].as_str().unwrap().contains("protocol version 9"));
    // The refusal does not wait for a body that the caller has only announced.
    let refused = server.post("d", &format!("{media_type}Content-Length: 1000\r\n"), b"");
    assert_eq!(refused.error(), (401, "CLOUDSYNC_REFUSED_KEY".into()));
}

#[cfg(unix)]
#[test]
fn the_server_stops_when_told_and_lets_the_folder_go() {
    let place = Place::new();
    let server = place.serve(&[]);
    // An idle connection must not hold the server up.
    let _idle = std::net::TcpStream::connect(&server.address).unwrap();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(place.serve(&[]).stop(), Some(0));
}

/// A caller who is in the middle of a body that he does not finish.
#[cfg(unix)]
fn hanging(server: &program::Serving, key: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /v1/databases/d/sync HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: {MEDIA_TYPE}\r\nContent-Length: 7\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 25]).unwrap();
    stream
}

#[cfg(unix)]
#[test]
fn a_stop_is_bounded_and_closes_the_files() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let key = place.run(&["key", "create"]);
    let key = key.trim_end();
    let server = place.serve(&["--stop-ms", "300"]);
    // What opens the store.
    let opened = server.ask("GET", "/v1/databases/d/events?cursor=x", key, "");
    assert_eq!(opened.status, 400);
    let listener = TcpStream::connect(&server.address).unwrap();
    let head =
        format!("GET /v1/databases/d/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
    (&listener).write_all(head.as_bytes()).unwrap();
    (&listener).read_exact(&mut [0; 12]).unwrap();
    let wal = place.data.join("databases/d.db-wal");
    assert!(wal.exists());
    let _hanging = hanging(&server, key);
    let begun = std::time::Instant::now();
    assert_eq!(server.stop(), Some(0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    assert!(!wal.exists() && !place.data.join("control.db-wal").exists());
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_at_once_and_what_was_asked_before_is_answered() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let key = place.run(&["key", "create"]);
    let key = key.trim_end();
    let mut server = place.serve(&["--stop-ms", "600000"]);
    let mut answered = hanging(&server, key);
    let _hanging = hanging(&server, key);
    server.signal("-TERM");
    // It takes no new connections, and finishes the one that it has.
    while TcpStream::connect(&server.address).is_ok() {
        std::thread::yield_now();
    }
    answered.write_all(b"rubbish").unwrap();
    assert_eq!(program::read_answer(&mut answered).error(), (400, "CLOUDSYNC_BAD_REQUEST".into()));
    server.signal("-INT");
    assert_eq!(server.wait(), Some(1));
}

#[test]
fn metrics_are_told_at_an_address_of_their_own() {
    let place = Place::new();
    let mut server = place.serve(&["--metrics-addr", "127.0.0.1:0"]);
    let line = server.next_line();
    let address =
        line.strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    assert_eq!(server.get("/metrics").error(), (404, "CLOUDSYNC_NOT_FOUND".into()));
    server.get("/health");
    server.get("/v1/databases/secret_name/sync");
    let head = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = program::exchange(&address, head, b"");
    let text = program::text(&answer.body);
    assert_eq!(
        (answer.status, answer.header("content-type").unwrap().starts_with("text/plain")),
        (200, true)
    );
    for line in [
        "cloudsync_requests_total{route=\"/health\",status=\"200\"} 1",
        "cloudsync_requests_total{route=\"/v1/databases/{db}/sync\",status=\"405\"} 1",
        "cloudsync_requests_total{route=\"none\",status=\"404\"} 1",
        "cloudsync_listeners 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains("secret_name"));
}
