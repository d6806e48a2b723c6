//! Keys with scopes, tokens that were minted here and tokens that others have signed, at the doors of the running program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use program::{Place, Serving};
use ring::hmac;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const SECRET: &str = "a secret of at least 32 bytes, really";

/// What a good bearer gets for a body that is no request, and what a bad one gets for any.
fn good() -> (u16, String) {
    (400, "CLOUDSYNC_BAD_REQUEST".into())
}

fn refused() -> (u16, String) {
    (401, "CLOUDSYNC_REFUSED_KEY".into())
}

fn judge(server: &Serving, database: &str, bearer: &str) -> (u16, String) {
    server.sync(database, bearer, b"rubbish").error()
}

fn begin() -> (Place, Serving) {
    let place = Place::new();
    let server = place.serve(&[]);
    place.run(&["db", "create", "one"]);
    place.run(&["db", "create", "two"]);
    (place, server)
}

fn line(text: &str) -> &str {
    text.trim_end()
}

#[test]
fn tokens_of_the_command_line_open_their_database_until_they_are_revoked() {
    let (place, server) = begin();
    let token = place.run(&["token", "create", "one", "alice", "--claims", r#"{"team":7}"#]);
    let token = line(&token);
    assert!(token.starts_with("cst_"), "{token}");
    assert_eq!(judge(&server, "one", token), good());
    assert_eq!(judge(&server, "two", token), refused());
    let listed = place.run(&["token", "list", "one", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["user"], &listed[0]["claims"]["team"]), (&json!("alice"), &json!(7)));
    assert!(!listed.to_string().contains(&token[12..]));
    assert_eq!(line(&place.run(&["token", "list", "two", "--json"])), "[]");
    place.run(&["token", "revoke", &token[..12]]);
    assert_eq!(judge(&server, "one", token), refused());
}

#[test]
fn wrong_tokens_are_not_minted() {
    let (place, _server) = begin();
    for (arguments, expected) in [
        (vec!["token", "create", "none", "alice"], "there is no database none"),
        (vec!["token", "create", "one", ""], "1 to 255 bytes"),
        (vec!["token", "create", "one", "alice", "--claims", "[]"], "no JSON object"),
        (vec!["token", "create", "one", "alice", "--expires-in", "400d"], "at most 366 days"),
        (vec!["token", "revoke", "cst_"], "there is no \"cst_\""),
    ] {
        let error = place.fail(&arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_backend_mints_and_revokes_tokens_over_http() {
    let (place, server) = begin();
    let admin = place.run(&["key", "create", "--database", "one"]);
    let admin = line(&admin);
    let minted = server.ask("POST", "/v1/databases/one/tokens", admin, r#"{"user":"bob","expires_in_s":60}"#);
    assert_eq!(minted.status, 201);
    let (id, token) = (minted.json()["id"].to_string(), minted.json()["token"].as_str().unwrap().to_owned());
    assert_eq!(judge(&server, "one", &token), good());
    let listed = server.ask("GET", "/v1/databases/one/tokens", admin, "").json();
    assert_eq!(listed["tokens"][0]["user"], "bob");
    assert!(!listed.to_string().contains(&token[12..]));
    assert_eq!(server.ask("DELETE", &format!("/v1/databases/one/tokens/{id}"), admin, "").status, 200);
    assert_eq!(judge(&server, "one", &token), refused());
    for (body, code) in [
        ("", "CLOUDSYNC_BAD_REQUEST"),
        (r#"{"user":""}"#, "CLOUDSYNC_BAD_REQUEST"),
        (r#"{"user":"a","expires_in_s":0}"#, "CLOUDSYNC_BAD_REQUEST"),
        (r#"{"user":"a","expires_in_s":99999999999}"#, "CLOUDSYNC_BAD_REQUEST"),
        (r#"{"user":"a","admin":true}"#, "CLOUDSYNC_BAD_REQUEST"),
    ] {
        assert_eq!(server.ask("POST", "/v1/databases/one/tokens", admin, body).error().1, code, "{body}");
    }
    let unknown = server.ask("DELETE", "/v1/databases/one/tokens/77", admin, "");
    assert_eq!(unknown.error(), (404, "CLOUDSYNC_UNKNOWN_TOKEN".into()));
}

#[test]
fn only_an_administrator_of_the_database_mints_tokens() {
    let (place, server) = begin();
    let keys: Vec<_> = ["read,write,schema", "admin"]
        .iter()
        .map(|scopes| place.run(&["key", "create", "--database", "two", "--scopes", scopes]))
        .collect();
    let token = place.run(&["token", "create", "one", "alice"]);
    let mint = |bearer: &str, database: &str| {
        server
            .ask("POST", &format!("/v1/databases/{database}/tokens"), line(bearer), r#"{"user":"eve"}"#)
            .error()
    };
    assert_eq!(mint(&keys[0], "two"), (403, "CLOUDSYNC_FORBIDDEN".into()));
    assert_eq!(mint(&keys[1], "one"), refused());
    assert_eq!(mint(&token, "one"), (403, "CLOUDSYNC_FORBIDDEN".into()));
    assert_eq!(mint("csk_nonsense", "one"), refused());
    assert_eq!(line(&place.run(&["token", "list", "two", "--json"])), "[]");
}

#[test]
fn keys_say_what_they_may_do_and_for_how_long() {
    let (place, server) = begin();
    let sender = place.run(&["key", "create", "--scopes", "write", "--expires-in", "1h"]);
    let listed: Value = serde_json::from_str(&place.run(&["key", "list", "--json"])).unwrap();
    assert_eq!(listed[0]["scopes"], "write");
    assert!(listed[0]["expires"].is_string());
    assert_eq!(judge(&server, "one", line(&sender)), good());
    let events = server.ask("GET", "/v1/databases/one/events", line(&sender), "");
    assert_eq!(events.error(), (403, "CLOUDSYNC_FORBIDDEN".into()));
    // Clap refuses these with a usage text and another exit code.
    for arguments in [["--scopes", "root"], ["--scopes", ""], ["--expires-in", "soon"]] {
        let output = place.command(["key", "create"].iter().chain(&arguments)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_token_that_is_over_ends_its_listener() {
    use std::io::{Read as _, Write as _};
    let (place, server) = begin();
    let key = place.run(&["key", "create", "--scopes", "read", "--expires-in", "2s"]);
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "GET /v1/databases/one/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        line(&key)
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(15))).unwrap();
    let mut heard = Vec::new();
    // Heartbeats come every twenty seconds: only the end of the key ends this sooner.
    stream.read_to_end(&mut heard).unwrap();
    assert!(program::text(&heard).starts_with("HTTP/1.1 200"), "{}", program::text(&heard));
    assert_eq!(judge(&server, "one", line(&key)), refused());
}

fn signed(claims: &Value) -> String {
    let [header, claims] =
        [&json!({"alg": "HS256"}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

#[test]
fn tokens_of_an_issuer_are_good_as_long_as_it_is_trusted() {
    let (place, server) = begin();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": "me", "aud": "notes", "sub": "alice", "exp": now_s + 600});
    let token = signed(&claims);
    assert_eq!(judge(&server, "one", &token), refused());
    let file = place.data.join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.to_str().unwrap();
    place.run(&["issuer", "add", "one", "me", "--audience", "notes", "--secret-file", file]);
    assert_eq!(judge(&server, "one", &token), good());
    assert_eq!(judge(&server, "two", &token), refused());
    let refusal = server.sync("one", "csk_nonsense", b"").body;
    for (name, value) in [("iss", json!("you")), ("aud", json!("other")), ("exp", json!(now_s - 600))] {
        let mut wrong = claims.clone();
        wrong[name] = value;
        let answer = server.sync("one", &signed(&wrong), b"");
        // One text for all: it tells nobody what is wrong.
        assert_eq!((answer.status, &answer.body), (401, &refusal), "{name}");
    }
    let huge = signed(
        &json!({"iss": "me", "aud": "notes", "sub": "alice", "exp": now_s + 600, "x": "x".repeat(9000)}),
    );
    assert_eq!(server.sync("one", &huge, b"").body, refusal);
    assert!(!place.run(&["issuer", "list", "--json"]).contains("secret of"));
    place.run(&["issuer", "remove", "1"]);
    assert_eq!(judge(&server, "one", &token), refused());
}

#[test]
fn public_keys_of_an_issuer_are_fetched() {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use std::io::{BufRead as _, BufReader, Write as _};
    let (place, server) = begin();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "first"}]}).to_string();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
    let issuer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while !lines.next().unwrap().unwrap().is_empty() {}
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", set.len());
        stream.write_all(format!("{head}{set}").as_bytes()).unwrap();
    });
    place.run(&["issuer", "add", "one", "me", "--audience", "notes", "--keys-url", &url]);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sign = |kid: &str| {
        let claims = json!({"iss": "me", "aud": "notes", "sub": "alice", "exp": now_s + 600});
        let parts = [json!({"alg": "EdDSA", "kid": kid}), claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = parts.join(".");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())))
    };
    assert_eq!(judge(&server, "one", &sign("first")), good());
    issuer.join().unwrap();
    // The issuer is away by now, and need not be asked again.
    assert_eq!(judge(&server, "one", &sign("first")), good());
    assert_eq!(judge(&server, "one", &sign("second")), refused());
}
