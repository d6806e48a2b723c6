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
