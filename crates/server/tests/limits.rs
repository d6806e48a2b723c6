//! What one caller may ask of the running program: so many requests, so many listeners, bodies of such a size.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use program::{Place, Serving};

fn too_many() -> (u16, String) {
    (429, "CLOUDSYNC_TOO_MANY".into())
}

/// A database, a token of each of two users and one more of the first, and a key.
fn begin(options: &[&str]) -> (Place, Serving, [String; 4]) {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let token = |user: &str| place.run(&["token", "create", "d", user]).trim_end().to_owned();
    let bearers = [token("alice"), token("alice"), token("bob"), place.run(&["key", "create"])];
    let server = place.serve(options);
    (place, server, bearers.map(|bearer| bearer.trim_end().to_owned()))
}

#[test]
fn a_user_who_asks_too_often_waits_and_nobody_else_does() {
    let (_place, server, [alice, other, bob, key]) = begin(&["--user-requests-per-s", "1"]);
    let ask = |bearer: &str| server.sync("d", bearer, b"rubbish");
    let good = (400, "CLOUDSYNC_BAD_REQUEST".to_owned());
    let answers: Vec<_> = (0..40).map(|_| ask(&alice)).collect();
    let served = answers.iter().filter(|answer| answer.status == 400).count();
    assert!((10..20).contains(&served), "{served}");
    let refused = answers.last().unwrap();
    assert_eq!((refused.error(), refused.header("retry-after")), (too_many(), Some("1")));
    assert_eq!(ask(&other).error(), too_many(), "another token of the same user");
    assert_eq!(ask(&bob).error(), good);
    assert!((0..40).all(|_| ask(&key).error() == good), "keys have no limit unless one is set");
    assert_eq!(server.ask("GET", "/v1/databases/d/events", &alice, "").error(), too_many());
}

#[test]
fn listeners_of_one_key_are_bounded() {
    let (_place, server, [.., key]) = begin(&["--key-listeners", "2"]);
    let listen = || {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let head =
            format!("GET /v1/databases/d/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (stream, status[9..] == *b"200")
    };
    let (first, _second) = (listen(), listen());
    assert!(first.1 && _second.1);
    let refused = server.ask("GET", "/v1/databases/d/events", &key, "");
    assert_eq!((refused.error(), refused.header("retry-after")), (too_many(), Some("30")));
    drop(first);
    while !listen().1 {}
}

#[test]
fn bodies_are_as_large_as_is_set_and_json_is_small() {
    let (_place, server, [.., key]) = begin(&["--request-bytes", "5000"]);
    let large = server.sync("d", &key, &vec![0; 5001]);
    assert_eq!(large.error(), (413, "CLOUDSYNC_TOO_LARGE".into()));
    assert!(String::from_utf8_lossy(&large.body).contains("5000 bytes"));
    assert_eq!(server.sync("d", &key, &vec![0; 5000]).status, 400);
    // Without a length, the bytes themselves tell.
    let head = format!(
        "Authorization: Bearer {key}\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n",
        program::MEDIA_TYPE
    );
    let mut body = b"1389\r\n".to_vec();
    body.extend_from_slice(&[0; 0x1389]);
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(server.post("d", &head, &body).error(), (413, "CLOUDSYNC_TOO_LARGE".into()));
    let user = format!("{{\"user\":\"{}\"}}", "x".repeat(300 << 10));
    assert_eq!(server.ask("POST", "/v1/databases/d/tokens", &key, &user).error().0, 413);
}

fn bad_media() -> (u16, String) {
    (415, "CLOUDSYNC_BAD_MEDIA_TYPE".into())
}

#[test]
fn who_is_refused_too_often_waits_and_no_header_of_his_helps() {
    let (_place, server, [.., key]) = begin(&["--refusals-per-s", "1"]);
    let unknown = format!("csk_{}", "A".repeat(43));
    let ask = |bearer: &str, forged: &str| server.ask_through(bearer, &[forged]).error();
    let (mut refused, mut at) = (0, 0);
    while ask(&unknown, &format!("5.6.7.{}", at % 250)) != too_many() {
        refused += 1;
        at += 1;
        assert!(at < 100, "forged addresses are believed");
    }
    assert!((10..40).contains(&refused), "{refused}");
    // Nothing is judged, so nothing can be found out by trying.
    while ask(&key, "5.6.7.8") != too_many() {
        assert_ne!(ask(&unknown, ""), bad_media());
    }
    let answer = server.ask_through(&key, &[]);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    while ask(&key, "") == too_many() {
        std::thread::yield_now();
    }
    assert_eq!(ask(&key, ""), bad_media(), "a second later");
}

#[test]
fn a_trusted_proxy_says_for_whom_it_asks() {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let key = place.run(&["key", "create"]).trim_end().to_owned();
    let unknown = format!("csk_{}", "A".repeat(43));
    let log = place.data.with_file_name("log");
    let options = ["--refusals-per-s", "1", "--trusted-proxies", "127.0.0.1, 10.0.0.0/8"];
    let server = place.serve_with_log(&options, &log);
    let mut tries = 0;
    while server.ask_through(&unknown, &["6.6.6.6, 5.6.7.8, 10.0.0.1"]).status != 429 {
        tries += 1;
        assert!(tries < 100);
    }
    // A forged beginning is the same caller; somebody else is not.
    while server.ask_through(&key, &["1.1.1.1", "5.6.7.8, 10.0.0.1"]).status != 429 {
        server.ask_through(&unknown, &["9.9.9.9", "5.6.7.8"]);
    }
    assert_eq!(server.ask_through(&key, &["5.6.7.8, 5.6.7.9"]).error(), bad_media());
    assert_eq!(server.ask_through(&key, &[]).error(), bad_media());
    drop(server);
    let told = std::fs::read_to_string(&log).unwrap();
    let refused: Vec<_> = told.lines().filter(|line| line.contains("refused")).collect();
    assert!(refused.iter().any(|line| line.contains("client=5.6.7.8 ")), "{told}");
    assert!(refused.iter().any(|line| line.contains("client=127.0.0.1 ")), "{told}");
    assert!(!told.contains("6.6.6.6") && !told.contains("1.1.1.1") && !told.contains("9.9.9.9"), "{told}");
    // Nobody is trusted unless the owner says so.
    let server = place.serve_with_log(&[], &log);
    server.ask_through(&unknown, &["5.6.7.8"]);
    drop(server);
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("client=127.0.0.1 ") && !told.contains("5.6.7.8"), "{told}");
}

#[test]
fn a_key_that_asks_too_often_waits_where_a_limit_is_set() {
    let (place, server, [alice, .., key]) = begin(&["--key-requests-per-s", "1"]);
    let other = place.run(&["key", "create", "--database", "d"]).trim_end().to_owned();
    let ask = |bearer: &str| server.sync("d", bearer, b"rubbish");
    let mut answers = (0..40).map(|_| ask(&key)).skip_while(|answer| answer.status == 400);
    let refused = answers.next().expect("forty requests are too many");
    assert_eq!((refused.error(), refused.header("retry-after")), (too_many(), Some("1")));
    assert_eq!((ask(&other).status, ask(&alice).status), (400, 400), "each has their own");
    // What is taken from one is taken at every door.
    while server.ask("GET", "/v1/databases/d/tokens", &key, "").status != 429 {}
}
