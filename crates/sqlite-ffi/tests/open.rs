//! Connections of our own, opened through the host's library.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync_sqlite_ffi::bindings;
use host::{TempFile, api};

#[test]
fn a_second_connection_sees_the_file_and_is_closed() {
    let file = TempFile::new();
    let owner = rusqlite::Connection::open(file.path()).unwrap();
    owner.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t(v); INSERT INTO t VALUES (7)").unwrap();
    let path = file.path().to_owned();
    let read = api().with_connection(&path, |connection| {
        connection.execute("INSERT INTO t VALUES (8)").unwrap();
        connection.query_i64("SELECT sum(v) FROM t", &[]).unwrap()
    });
    assert_eq!(read, Ok(Some(15)));
    // Only the last connection can leave WAL mode: the second one is gone, also after a panic.
    let panicked = std::panic::catch_unwind(|| api().with_connection(&path, |_| panic!("in the middle")));
    assert!(panicked.is_err());
    let mode: String = owner.query_row("PRAGMA journal_mode = delete", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

#[test]
fn a_file_is_never_created() {
    let file = TempFile::new();
    let path = file.path();
    let error = api().with_connection(path, |_| ()).unwrap_err();
    assert_eq!(error.primary_code(), bindings::SQLITE_CANTOPEN);
    assert!(!std::path::Path::new(path).exists());
    assert_eq!(api().with_connection("a\0b", |_| ()).unwrap_err().primary_code(), bindings::SQLITE_MISUSE);
}
