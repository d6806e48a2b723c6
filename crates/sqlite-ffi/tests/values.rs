//! Values go in and come out unchanged, bound, read, passed to functions and returned.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync_sqlite_ffi::{
    Args, Connection, Context, Error, FunctionError, FunctionFlags, Output, Value, bindings,
};
use host::memory;

const VALUES: &[(Value<'static>, &str)] = &[
    (Value::Null, "null"),
    (Value::Integer(0), "integer"),
    (Value::Integer(i64::MIN), "integer"),
    (Value::Integer(i64::MAX), "integer"),
    (Value::Real(-0.0), "real"),
    (Value::Real(f64::MAX), "real"),
    (Value::Real(f64::MIN_POSITIVE), "real"),
    (Value::Real(f64::NEG_INFINITY), "real"),
    (Value::Text(b""), "text"),
    (Value::Text(b"abc"), "text"),
    (Value::Text(b"a\0b\0"), "text"),
    (Value::Text(b"\xff\xfe"), "text"),
    (Value::Text("gr\u{fc}\u{df} \u{1f600}".as_bytes()), "text"),
    (Value::Blob(b""), "blob"),
    (Value::Blob(b"\0\xff"), "blob"),
];

fn assert_same(found: Value<'_>, expected: Value<'_>) {
    match (found, expected) {
        (Value::Real(found), Value::Real(expected)) => assert_eq!(found.to_bits(), expected.to_bits()),
        _ => assert_eq!(found, expected),
    }
}

#[test]
fn bound_and_read() {
    let host = memory();
    let mut statement = host.ours.prepare("SELECT ?1, typeof(?1), hex(?1)").unwrap();
    for (value, kind) in VALUES {
        statement.bind(1, *value).unwrap();
        assert!(statement.step().unwrap());
        assert_same(statement.column(0), *value);
        assert_eq!(statement.column(1).as_str(), Some(*kind));
        assert!(!statement.step().unwrap());
        statement.reset().unwrap();

        let found = statement.query_row::<_, Error>(&[*value], |row| {
            assert_same(row.column(0), *value);
            Ok(row.column(1).as_str().unwrap().to_owned())
        });
        assert_eq!(found.unwrap().as_deref(), Some(*kind));
    }
}

#[test]
fn stored_and_read() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)").unwrap();
    let mut insert = host.ours.prepare_persistent("INSERT INTO t(v) VALUES (?)").unwrap();
    for (value, _) in VALUES {
        insert.run(&[*value]).unwrap();
    }
    assert_eq!(host.ours.last_insert_rowid(), VALUES.len() as i64);
    let mut position = 0;
    let mut select = host.ours.prepare("SELECT v FROM t ORDER BY id").unwrap();
    select
        .for_each::<Error>(&[], |row| {
            assert_same(row.column(0), VALUES[position].0);
            position += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(position, VALUES.len());
}

#[test]
fn passed_to_functions_and_returned() {
    let host = memory();
    let echo = |_: &Context<'_>, args: &Args<'_>| {
        Ok::<_, FunctionError>(match args.get(0) {
            Value::Null => Output::Null,
            Value::Integer(integer) => Output::Integer(integer),
            Value::Real(real) => Output::Real(real),
            Value::Text(text) => match String::from_utf8(text.to_vec()) {
                Ok(text) => Output::Text(text),
                Err(error) => Output::Blob(error.into_bytes()),
            },
            Value::Blob(blob) => Output::Blob(blob.to_vec()),
        })
    };
    host.ours.create_function("echo", 1, FunctionFlags::INNOCUOUS, echo).unwrap();
    let mut statement = host.ours.prepare("SELECT echo(?)").unwrap();
    for (value, _) in VALUES {
        let expected = match *value {
            Value::Text(text) if std::str::from_utf8(text).is_err() => Value::Blob(text),
            value => value,
        };
        let found = statement.query_row::<_, Error>(&[*value], |row| {
            assert_same(row.column(0), expected);
            Ok(())
        });
        assert_eq!(found.unwrap(), Some(()));
    }
}

#[test]
fn utf16_database() {
    let host = memory();
    host.ours.execute("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(v)").unwrap();
    let text = Value::from("gr\u{fc}n\0\u{1f600}");
    host.ours.prepare("INSERT INTO t VALUES (?)").unwrap().run(&[text]).unwrap();
    let same = host.ours.query_row::<_, Error>("SELECT v FROM t", &[], |row| {
        assert_eq!(row.column(0), text);
        // Read twice: the first conversion must not spoil the second.
        assert_eq!(row.column(0), text);
        Ok(())
    });
    assert_eq!(same.unwrap(), Some(()));
}

#[test]
fn nan_becomes_null() {
    let host = memory();
    assert_eq!(host.ours.query_i64("SELECT ?1 IS NULL", &[Value::Real(f64::NAN)]).unwrap(), Some(1));
}

#[test]
fn a_borrowed_value_is_unbound_afterwards() {
    let host = memory();
    let mut statement = host.ours.prepare("SELECT ?1 IS NULL").unwrap();
    for fails in [false, true] {
        let text = String::from("gone soon");
        let outcome = statement.query_row(&[Value::from(text.as_str())], |row| {
            assert_eq!(row.column_i64(0), 0);
            if fails { Err(Error::new(bindings::SQLITE_ERROR, "no")) } else { Ok(()) }
        });
        assert_eq!(outcome.is_err(), fails);
        drop(text);
        assert!(statement.step().unwrap());
        assert_eq!(statement.column_i64(0), 1);
    }
}

#[test]
fn columns_out_of_range_are_null() {
    let host = memory();
    let mut statement = host.ours.prepare("SELECT 7 AS seven, '12x'").unwrap();
    assert_eq!(statement.column(0), Value::Null);
    assert!(statement.step().unwrap());
    assert_eq!((statement.column_count(), statement.parameter_count()), (2, 0));
    assert_eq!(statement.column(0), Value::Integer(7));
    assert_eq!((statement.column_i64(0), statement.column_i64(1)), (7, 12));
    assert_eq!(statement.column(2), Value::Null);
    assert_eq!(statement.column(usize::MAX), Value::Null);
    assert_eq!(statement.column_name(0).as_deref(), Some("seven"));
    assert_eq!(statement.column_name(2), None);
    assert!(statement.read_only());
}

#[test]
fn parameters_are_counted() {
    let host = memory();
    let mut statement = host.ours.prepare("SELECT ?1, ?2").unwrap();
    assert_eq!(statement.bind(3, Value::Null).unwrap_err().primary_code(), bindings::SQLITE_RANGE);
    assert_eq!(statement.bind(0, Value::Null).unwrap_err().primary_code(), bindings::SQLITE_RANGE);
    let error = statement.run(&[Value::Null]).unwrap_err();
    assert_eq!(error.primary_code(), bindings::SQLITE_RANGE);
    assert!(error.message.contains("2 parameters"), "{error}");
}

#[test]
fn conveniences() {
    let host = memory();
    let db: Connection = host.ours;
    assert_eq!(db.query_i64("SELECT 1 WHERE 0", &[]).unwrap(), None);
    assert_eq!(db.query_i64("SELECT NULL", &[]).unwrap(), None);
    assert_eq!(db.query_text("SELECT ?", &["x".into()]).unwrap().as_deref(), Some("x"));
    assert_eq!(db.query_text("SELECT NULL", &[]).unwrap(), None);
    assert_eq!(db.query_text("SELECT 1", &[]).unwrap_err().primary_code(), bindings::SQLITE_MISMATCH);
    assert_eq!(db.query_blob("SELECT x'00ff'", &[]).unwrap(), Some(vec![0, 255]));
    assert_eq!(db.query_blob("SELECT x''", &[]).unwrap(), Some(vec![]));
    assert_eq!(db.query_blob("SELECT 1.5", &[]).unwrap_err().primary_code(), bindings::SQLITE_MISMATCH);
}
