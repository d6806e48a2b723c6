//! Values in parts, and the bound on values that are read whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync_sqlite_ffi::{Value, bindings};
use host::memory;

#[test]
fn a_value_is_read_and_written_in_parts() {
    let host = memory();
    host.ours
        .execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); INSERT INTO t VALUES(7, zeroblob(100000), '\u{e4}b')")
        .unwrap();
    {
        let mut blob = host.ours.open_blob("main", "t", "v", 7, true).unwrap();
        assert_eq!(blob.size(), 100_000);
        blob.write(&[1, 2, 3], 99_997).unwrap();
        assert_eq!(blob.write(&[1, 2, 3], 99_998).unwrap_err().code, bindings::SQLITE_ERROR);
        let mut buffer = [9; 4];
        blob.read(&mut buffer, 99_996).unwrap();
        assert_eq!(buffer, [0, 1, 2, 3]);
        assert!(blob.read(&mut buffer, 99_997).is_err());
        assert!(blob.read(&mut buffer, usize::MAX).is_err());
    }
    let sum = host.ours.query_i64("SELECT length(v) + (substr(v, -3) = x'010203') FROM t", &[]).unwrap();
    assert_eq!(sum, Some(100_001));
    let text = host.ours.open_blob("main", "t", "w", 7, false).unwrap();
    assert_eq!(text.size(), 3);
    let mut buffer = [0; 3];
    text.read(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, "\u{e4}b".as_bytes());
}

#[test]
fn zeros_are_bound_by_their_number() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)").unwrap();
    let mut insert = host.ours.prepare("INSERT INTO t VALUES(1, ?1)").unwrap();
    insert.bind_zeros(1, 70_000).unwrap();
    assert!(!insert.step().unwrap());
    let sum = host.ours.query_i64("SELECT length(v) + (v = zeroblob(70000)) FROM t", &[]).unwrap();
    assert_eq!(sum, Some(70_001));
    insert.reset().unwrap();
    assert_eq!(insert.bind_zeros(2, 1).unwrap_err().primary_code(), bindings::SQLITE_RANGE);
    assert_eq!(insert.bind_zeros(1, 1 << 40).unwrap_err().primary_code(), bindings::SQLITE_TOOBIG);
}

#[test]
fn what_cannot_be_read_in_parts_says_so() {
    let host = memory();
    host.ours
        .execute(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE, n); INSERT INTO t VALUES(1, x'01', 5);
             CREATE TABLE k(id TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO k VALUES('a', x'01')",
        )
        .unwrap();
    let open = |table: &str, column: &str, rowid, writes| {
        host.ours.open_blob("main", table, column, rowid, writes).map(drop).map_err(|it| it.primary_code())
    };
    assert_eq!(open("t", "v", 1, false), Ok(()));
    for (table, column, rowid, writes) in [
        ("t", "v", 1, true),
        ("t", "v", 2, false),
        ("t", "n", 1, false),
        ("t", "x", 1, false),
        ("k", "v", 1, false),
    ] {
        assert_eq!(
            open(table, column, rowid, writes),
            Err(bindings::SQLITE_ERROR),
            "{table}.{column} {rowid}"
        );
    }
    assert_eq!(open("t\0", "v", 1, false), Err(bindings::SQLITE_MISUSE));
}

#[test]
fn a_bound_makes_large_values_errors_and_nothing_else() {
    let host = memory();
    host.ours
        .execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); INSERT INTO t VALUES(1, zeroblob(9000), 2), (2, 'x', 3)")
        .unwrap();
    let before = host.ours.set_length_limit(5_000);
    let sum = "SELECT sum(id + w + (typeof(v) = 'blob')) FROM t";
    assert_eq!(host.ours.query_i64(sum, &[]).unwrap(), Some(9), "its other columns, and its kind");
    let mut select = host.ours.prepare("SELECT v FROM t WHERE id >= ?1 ORDER BY id").unwrap();
    select.bind(1, Value::Integer(1)).unwrap();
    assert_eq!(select.step().unwrap_err().primary_code(), bindings::SQLITE_TOOBIG);
    select.reset().unwrap();
    select.bind(1, Value::Integer(2)).unwrap();
    assert!(select.step().unwrap(), "the row behind it");
    drop(select);
    assert_eq!(host.ours.set_length_limit(before), 5_000);
    assert_eq!(host.ours.query_i64("SELECT length(hex(v)) FROM t WHERE id = 1", &[]).unwrap(), Some(18_000));
}
