//! The HTTP client and the network functions, against servers that misbehave.

#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync::connection_string::{ConnectionString, Secret};
use cloudsync::net::{Http, Patience, Reply, Timeouts, Transport};
use host::{error, memory, open, rows, show, walkthrough};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

const KEY: &str = "cs_test_0123456789";

/// Serves one connection after another, as often as asked.
fn serve(times: usize, act: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for _ in 0..times {
            let Ok((mut stream, _)) = listener.accept() else { return };
            act(&mut stream);
        }
    });
    address
}

/// Reads one request, head and body, as its head says.
fn read_request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    if head.to_ascii_lowercase().contains("expect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }
    let length = head
        .to_ascii_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

fn answer(stream: &mut TcpStream, bytes: &[u8]) {
    read_request(stream);
    let _ = stream.write_all(bytes);
}

fn http(address: SocketAddr) -> Http {
    with(address, Timeouts::default())
}

/// One that soon gives up, for servers that say nothing.
fn impatient(address: SocketAddr) -> Http {
    let timeouts = Timeouts {
        connect: Duration::from_secs(5),
        answer: Duration::from_millis(300),
        whole: Duration::from_millis(600),
    };
    with(address, timeouts)
}

fn with(address: SocketAddr, timeouts: Timeouts) -> Http {
    let text = format!("cloudsync://{address}/db");
    let address = ConnectionString::parse(&text).unwrap().address;
    Http::new(address, Some(Secret::new(KEY).unwrap()), timeouts, None).unwrap()
}

fn exchange(bytes: &'static [u8]) -> Reply {
    http(serve(1, move |stream| answer(stream, bytes))).exchange(b"request", Patience::endless())
}

#[test]
fn a_request_bears_key_and_media_type() {
    let address = serve(1, |stream| {
        let (head, body) = read_request(stream);
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /v1/databases/db/sync http/1.1\r\n"), "{head}");
        for line in [
            &format!("authorization: bearer {KEY}")[..],
            "content-type: application/vnd.cloudsync",
            "content-length: 7",
        ] {
            assert!(head.contains(&format!("{line}\r\n")), "{head}");
        }
        assert_eq!(body, b"request");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ncontent-length: 2\r\n\r\nok").unwrap();
    });
    assert_eq!(http(address).exchange(b"request", Patience::endless()), Reply::Answered(b"ok".to_vec()));
}

#[test]
fn a_refused_key_costs_no_upload() {
    let address = serve(1, |stream| {
        let mut head = [0; 1024];
        let length = stream.read(&mut head).unwrap();
        assert!(
            String::from_utf8_lossy(&head[..length]).to_ascii_lowercase().contains("expect: 100-continue")
        );
        // The answer comes instead of the permission to go on, and the connection ends.
        let refusal = "HTTP/1.1 401 Unauthorized\r\ncloudsync-protocol: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal.as_bytes()).unwrap();
    });
    let reply = http(address).exchange(&vec![1; 8 << 20], Patience::endless());
    assert!(matches!(&reply, Reply::Status(status) if status.status == 401 && status.had_key), "{reply:?}");
}

#[test]
fn large_requests_arrive_whole() {
    let address = serve(1, |stream| {
        let (_, body) = read_request(stream);
        assert!(body.len() == 8 << 20 && body.iter().all(|byte| *byte == 1));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let text = format!("cloudsync://{address}/db");
    let address = ConnectionString::parse(&text).unwrap().address;
    let reply = Http::new(address, None, Timeouts::default(), None)
        .unwrap()
        .exchange(&vec![1; 8 << 20], Patience::endless());
    assert_eq!(reply, Reply::Answered(Vec::new()));
}

#[test]
fn errors_are_read_and_hide_the_key() {
    let reply = exchange(
        b"HTTP/1.1 503 Busy\r\ncloudsync-protocol: 1\r\nretry-after: 7\r\nconnection: close\r\n\r\n\
          {\"error\":{\"code\":\"CLOUDSYNC_BUSY\",\"message\":\"not now\\nfor cs_test_0123456789\"}}",
    );
    let Reply::Status(status) = reply else { panic!("{reply:?}") };
    assert_eq!((status.status, status.code.as_str(), status.retry_after_ms), (503, "CLOUDSYNC_BUSY", 7_000));
    assert_eq!(status.message, "not now for (the key)");
}

#[test]
fn strangers_are_recognized() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..],
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"220 mail ready\r\n",
    ] {
        assert_eq!(exchange(bytes), Reply::Foreign, "{}", String::from_utf8_lossy(bytes));
    }
    let gateway = exchange(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nbusy");
    assert!(matches!(&gateway, Reply::Status(status) if status.status == 502), "{gateway:?}");
}

#[test]
fn redirects_to_other_places_are_not_followed() {
    for (status, location) in [
        (307, "http://example.com/"),
        (308, "https://127.0.0.1/v1"),
        (301, "/elsewhere"),
        (302, "/login"),
        (303, "/elsewhere"),
        (307, "//example.com/v1"),
        (307, "elsewhere"),
        (307, "http://user@127.0.0.1/"),
        (307, ""),
    ] {
        let head = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        // Whoever came a second time would be told so by this server.
        let address = serve(2, move |stream| answer(stream, head.as_bytes()));
        let reply = http(address).exchange(b"request", Patience::endless());
        let shown = if location.is_empty() { "nowhere" } else { location };
        assert_eq!(reply, Reply::Moved(shown.to_owned()), "{status} {location}");
    }
}

#[test]
fn redirects_within_the_server_are_followed_with_the_whole_request() {
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (head, body) = read_request(&mut stream);
            *count.lock().unwrap() += 1;
            assert_eq!(body, b"request");
            assert!(head.to_ascii_lowercase().contains(&format!("authorization: bearer {KEY}")));
            let reply = match head.split(' ').nth(1).unwrap() {
                "/v1/databases/db/sync" => {
                    format!("HTTP/1.1 308 Moved\r\nlocation: http://127.0.0.1:{}/two?x=1\r\n", address.port())
                }
                "/two?x=1" => "HTTP/1.1 307 Moved\r\nlocation: /three\r\n".to_owned(),
                "/three" => "HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\n".to_owned(),
                other => panic!("{other}"),
            };
            let _ = write!(stream, "{reply}connection: close\r\ncontent-length: 0\r\n\r\n");
        }
    });
    assert_eq!(http(address).exchange(b"request", Patience::endless()), Reply::Answered(Vec::new()));
    assert_eq!(*seen.lock().unwrap(), 3);
    let endless = serve(9, |stream| {
        answer(
            stream,
            b"HTTP/1.1 307 Moved\r\nlocation: /x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
    });
    let reply = http(endless).exchange(b"request", Patience::endless());
    assert!(matches!(&reply, Reply::Moved(place) if place.contains("again and again")), "{reply:?}");
}

#[test]
fn patience_is_asked_for_in_seconds_or_as_a_date() {
    for (headers, expected_ms) in [
        ("retry-after: 7\r\n", 7_000),
        ("date: Sun, 06 Nov 1994 08:49:30 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 7_000),
        ("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 0),
        ("retry-after: tomorrow\r\n", 0),
        ("", 0),
    ] {
        for status in [408, 429, 500, 502, 503, 504, 511] {
            let head = format!("HTTP/1.1 {status} Later\r\n{headers}content-length: 0\r\n\r\n");
            let address = serve(1, move |stream| answer(stream, head.as_bytes()));
            let reply = http(address).exchange(b"request", Patience::endless());
            let Reply::Status(answered) = reply else { panic!("{reply:?}") };
            assert_eq!((answered.status, answered.retry_after_ms), (status, expected_ms), "{headers}");
        }
    }
}

/// A server that takes the connection and then says nothing, for as long as the client stays.
fn silent(part: &'static [u8]) -> (SocketAddr, mpsc::Receiver<usize>) {
    let (sender, gone) = mpsc::channel();
    let address = serve(1, move |stream| {
        read_request(stream);
        let _ = stream.write_all(part);
        let _ = sender.send(stream.read(&mut [0]).unwrap_or(0));
    });
    (address, gone)
}

#[test]
fn the_host_can_interrupt_a_request_that_hangs() {
    for part in [&b""[..], b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ncontent-length: 100\r\n\r\nhalf"] {
        let (address, gone) = silent(part);
        let text = format!("cloudsync://{address}/db");
        let address = ConnectionString::parse(&text).unwrap().address;
        let mut http = Http::new(address, None, Timeouts::default(), None).unwrap();
        let asked = Cell::new(0);
        let is_interrupted = || {
            asked.set(asked.get() + 1);
            asked.get() > 3
        };
        let patience = Patience { left_ms: u64::MAX, is_interrupted: &is_interrupted };
        // Nothing else ends it: the answer would be waited for much longer than whoever runs tests has patience.
        assert_eq!(http.exchange(b"request", patience), Reply::Interrupted);
        // The connection is shut at once, and with it ends the thread that held it.
        assert_eq!(gone.recv_timeout(Duration::from_secs(30)), Ok(0));
    }
}

#[test]
fn a_request_takes_no_longer_than_the_sync_has_left() {
    let (address, _gone) = silent(b"");
    let text = format!("cloudsync://{address}/db");
    let address = ConnectionString::parse(&text).unwrap().address;
    let mut http = Http::new(address, None, Timeouts::default(), None).unwrap();
    let reply = http.exchange(b"request", Patience { left_ms: 200, ..Patience::endless() });
    assert_eq!(reply, Reply::Broken("no answer within 0.2 seconds".into()));
}

#[test]
fn half_an_answer_and_silence_are_no_answer() {
    for bytes in [
        &b""[..],
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\n",
        b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal",
    ] {
        let reply = exchange(bytes);
        assert!(matches!(reply, Reply::Broken(_)), "{}: {reply:?}", String::from_utf8_lossy(bytes));
    }
    // Silence before and inside the answer: the stream stays open until the client has gone.
    for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ncontent-length: 100\r\n\r\nhalf"] {
        let reply = impatient(serve(1, move |stream| {
            answer(stream, bytes);
            let _ = stream.read(&mut [0]);
        }))
        .exchange(b"request", Patience::endless());
        assert!(matches!(&reply, Reply::Broken(why) if why.contains("no answer within")), "{reply:?}");
    }
}

#[test]
fn endless_answers_are_cut() {
    let address = serve(1, |stream| {
        let head = "HTTP/1.1 200 OK\r\ncloudsync-protocol: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        answer(stream, head.as_bytes());
        let mut chunk = b"100000\r\n".to_vec();
        chunk.resize(chunk.len() + (1 << 20), 7);
        chunk.extend_from_slice(b"\r\n");
        while stream.write_all(&chunk).is_ok() {}
    });
    let text = format!("cloudsync://{address}/db");
    let address = ConnectionString::parse(&text).unwrap().address;
    let reply = Http::new(address, None, Timeouts::default(), None)
        .unwrap()
        .exchange(b"request", Patience::endless());
    assert!(matches!(&reply, Reply::Broken(why) if why.contains("larger than")), "{reply:?}");
}

/// A device that is to sync with the server at `address`.
fn device(address: SocketAddr) -> rusqlite::Connection {
    let db = walkthrough(memory());
    db.execute_batch("INSERT INTO my_data VALUES ('1', 'one', 'x')").unwrap();
    assert_eq!(
        show(&db, &format!("SELECT cloudsync_network_init('cloudsync://{address}/db?apikey={KEY}')")),
        "NULL"
    );
    db
}

#[test]
fn network_functions_report_failures_and_keep_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let refusing = serve(2, |stream| {
        answer(stream, b"HTTP/1.1 401 No\r\ncloudsync-protocol: 1\r\ncontent-length: 0\r\n\r\n");
    });
    let stranger = serve(2, |stream| answer(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"));
    for (address, expected) in [
        (gone, format!("cannot reach the server at {gone}: ")),
        (refusing, format!("the server at {refusing} refused the key")),
        (stranger, format!("not a cloudsync server at {stranger}")),
    ] {
        let db = device(address);
        let before = rows(&db);
        for call in ["network_sync", "network_send_changes"] {
            let text = error(&db, &format!("SELECT cloudsync_{call}()"));
            assert!(text.contains(&format!("cloudsync_{call}: {expected}")), "{text}");
        }
        let report = show(&db, "SELECT cloudsync_network_status()");
        let field =
            |name: &str| show(&db, &format!("SELECT json_extract(cloudsync_network_status(), '$.{name}')"));
        assert!(field("error").starts_with(&expected), "{report}");
        assert_eq!(field("server"), format!("cloudsync://{address}/db"));
        assert_eq!((field("received").as_str(), field("sent").as_str()), ("0", "0"));
        assert_eq!(field("bytes_sent") == "0", address == gone, "{report}");
        assert!(field("finished_at").ends_with('Z') && field("started_at").len() == 24, "{report}");
        assert_eq!(rows(&db), before);
        assert_eq!(show(&db, "SELECT cloudsync_network_has_unsent_changes()"), "1");
    }
}

#[test]
fn the_key_stays_in_memory_and_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let keyless = |stream: &mut TcpStream| {
        let (head, _) = read_request(stream);
        assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
        stream.write_all(b"HTTP/1.1 401 No\r\ncloudsync-protocol: 1\r\ncontent-length: 0\r\n\r\n").unwrap();
    };
    let (first, second) = (serve(9, keyless), serve(9, keyless));
    let db = walkthrough(open(&path));
    show(&db, &format!("SELECT cloudsync_network_init('cloudsync://{first}/db?apikey={KEY}')"));
    // Another connection names another server: the key is not for that one.
    let other = open(&path);
    show(&other, &format!("SELECT cloudsync_network_init('cloudsync://{second}/db')"));
    assert!(
        error(&db, "SELECT cloudsync_network_sync()")
            .contains(&format!("the server at {second} wants a key"))
    );
    // A connection that was not told the key does not have it.
    show(&db, &format!("SELECT cloudsync_network_init('cloudsync://{first}/db')"));
    assert!(error(&other, "SELECT cloudsync_network_sync()").contains("wants a key"));
    assert_eq!(show(&db, "SELECT cloudsync_terminate()"), "NULL");
    assert!(error(&db, "SELECT cloudsync_network_sync()").contains("wants a key"));
    for text in [show(&db, "SELECT cloudsync_status()"), show(&db, "SELECT cloudsync_network_status()")] {
        assert!(!text.contains(KEY), "{text}");
    }
    drop((db, other));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
    }
}

#[test]
fn bad_connection_strings_and_keys_are_refused_without_repeating_them() {
    let db = walkthrough(memory());
    for call in [
        "network_init('http://example.com/db?apikey=SECRET')",
        "network_init('SECRET')",
        "network_set_apikey('SE CRET')",
        "network_set_apikey('SECRET' || char(10))",
        "network_set_token('')",
    ] {
        let text = error(&db, &format!("SELECT cloudsync_{call}"));
        assert!(text.contains("cloudsync_network_") && !text.contains(": SECRET"), "{text}");
    }
    show(&db, "SELECT cloudsync_network_init('cloudsync://192.0.2.1/db?insecure=1')");
    assert!(show(&db, "SELECT cloudsync_status()").contains("plain HTTP to 192.0.2.1:8484"));
    assert!(show(&db, "SELECT cloudsync_network_status()").contains("plain HTTP to 192.0.2.1:8484"));
    show(&db, "SELECT cloudsync_network_cleanup()");
    assert!(error(&db, "SELECT cloudsync_network_sync()").contains("no server is known"));
}
