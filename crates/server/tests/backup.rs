//! Copies of databases and of the register, taken and put back beside a running server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::net::TcpStream;
use std::path::Path;

use program::{Place, Serving};

/// A database with a server that has it open, since somebody listens.
fn begin() -> (Place, Serving, String, TcpStream) {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let key = place.run(&["key", "create"]).trim_end().to_owned();
    let server = place.serve(&[]);
    let listener = server.listen("d", &key);
    (place, server, key, listener)
}

fn sql(place: &Place, database: &str, text: &str) -> String {
    let file = place.data.join("some.sql");
    std::fs::write(&file, text).unwrap();
    place.run(&["db", "sql", database, file.to_str().unwrap()])
}

#[test]
fn a_copy_becomes_a_database_of_another_name_beside_a_running_server() {
    let (place, server, key, _listener) = begin();
    sql(&place, "d", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v); INSERT INTO t VALUES ('1', 'x')");
    let copy = place.data.join("copy.db");
    let copy = copy.to_str().unwrap();
    let told: serde_json::Value =
        serde_json::from_str(&place.run(&["db", "backup", "d", copy, "--json"])).unwrap();
    assert_eq!(
        (&told["integrity"], told["bytes"].as_u64()),
        (&"ok".into(), Some(std::fs::metadata(copy).unwrap().len()))
    );
    assert!(place.fail(&["db", "backup", "d", copy]).contains("it exists: name another file"));
    assert!(place.fail(&["db", "backup", "none", copy]).contains("there is no database none"));
    let refused = place.fail(&["db", "restore", "other", copy]);
    assert!(refused.contains("--while-serving"), "{refused}");
    place.run(&["db", "restore", "other", copy, "--while-serving"]);
    assert_eq!(sql(&place, "other", "SELECT v FROM t"), "x\n");
    assert_eq!(server.sync("other", &key, b"rubbish").status, 400);
}

#[test]
fn a_database_in_use_is_let_go_and_served_again() {
    let (place, server, key, mut listener) = begin();
    let copy = place.data.join("copy.db");
    let copy = copy.to_str().unwrap();
    sql(&place, "d", "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL); INSERT INTO t VALUES ('before')");
    place.run(&["db", "backup", "d", copy]);
    sql(&place, "d", "INSERT INTO t VALUES ('after')");
    assert_eq!(server.sync("d", &key, b"rubbish").status, 400);
    assert!(place.fail(&["db", "restore", "d", copy]).contains("--while-serving"));
    let told: serde_json::Value =
        serde_json::from_str(&place.run(&["db", "restore", "d", copy, "--while-serving", "--json"])).unwrap();
    assert_eq!(sql(&place, "d", "SELECT id FROM t"), "before\n");
    program::read_end(&mut listener);
    let aside = rusqlite::Connection::open(Path::new(told["before"].as_str().unwrap())).unwrap();
    let rows: i64 = aside.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2, "what was there is kept");
    assert_eq!(server.sync("d", &key, b"rubbish").status, 400);
    assert!(!place.run(&["db", "list", "--json"]).contains("\"paused\":\"2"));
    // What is no database, and what is damaged, changes nothing.
    let rubbish = place.data.join("rubbish");
    std::fs::write(&rubbish, vec![7; 10_000]).unwrap();
    let error = place.fail(&["db", "restore", "d", rubbish.to_str().unwrap(), "--while-serving"]);
    assert!(error.contains("not a database"), "{error}");
    assert_eq!(sql(&place, "d", "SELECT id FROM t"), "before\n");
    drop(server);
    place.run(&["db", "restore", "d", copy]);
}

#[test]
fn a_paused_database_is_refused_and_a_deleted_one_is_gone() {
    let (place, server, key, mut listener) = begin();
    let of_d = place.run(&["key", "create", "--database", "d"]);
    place.run(&["token", "create", "d", "alice"]);
    place.run(&["db", "pause", "d"]);
    let refused = server.sync("d", &key, b"rubbish");
    assert_eq!(
        (refused.error(), refused.header("retry-after")),
        ((503, "CLOUDSYNC_NOT_READY".into()), Some("1"))
    );
    assert_eq!(server.sync("d", "csk_x", b"").status, 401, "others learn nothing");
    assert!(place.run(&["db", "list", "--json"]).contains("\"paused\":\"2"));
    program::read_end(&mut listener);
    place.run(&["db", "resume", "d"]);
    assert_eq!(server.sync("d", &key, b"rubbish").status, 400);
    let mut again = server.listen("d", &key);
    assert!(place.fail(&["db", "delete", "d"]).contains("--yes"));
    place.run(&["db", "delete", "d", "--yes"]);
    program::read_end(&mut again);
    assert!(!place.data.join("databases/d.db").exists() && !place.data.join("databases/d.db-wal").exists());
    assert_eq!(server.sync("d", &key, b"rubbish").error(), (404, "CLOUDSYNC_UNKNOWN_DATABASE".into()));
    assert_eq!(server.sync("d", of_d.trim_end(), b"rubbish").status, 401);
    assert_eq!(place.run(&["token", "list", "--json"]).trim_end(), "[]");
    place.run(&["db", "create", "d"]);
    assert_eq!(server.sync("d", of_d.trim_end(), b"rubbish").status, 401, "old keys stay dead");
}

#[test]
fn the_register_is_copied_beside_a_server_and_restored_without_one() {
    let (place, server, key, _listener) = begin();
    let copy = place.data.join("control-copy.db");
    let copy = copy.to_str().unwrap();
    place.run(&["control", "backup", copy]);
    place.run(&["key", "create", "--name", "later"]);
    assert!(place.fail(&["control", "restore", copy]).contains("another server uses"));
    drop(server);
    let database = place.data.join("databases/d.db");
    assert!(
        place.fail(&["control", "restore", database.to_str().unwrap()]).contains("not a cloudsync control")
    );
    place.run(&["control", "restore", copy]);
    assert!(!place.run(&["key", "list"]).contains("later"));
    assert_eq!(place.serve(&[]).sync("d", &key, b"rubbish").status, 400);
}
