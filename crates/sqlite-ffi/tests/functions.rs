//! SQL functions: errors, panics, flags, life of the closure.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use std::cell::Cell;
use std::rc::Rc;

use cloudsync_sqlite_ffi::{FunctionError, FunctionFlags, Output, Value, bindings};
use host::memory;

const PLAIN: FunctionFlags = FunctionFlags { deterministic: false, innocuous: false, direct_only: false };

#[test]
fn an_error_keeps_its_code_and_text() {
    let host = memory();
    host.ours
        .create_function("refuse", -1, PLAIN, |_, args| -> Result<Output, FunctionError> {
            Err(FunctionError::new(bindings::SQLITE_CONSTRAINT_CHECK, format!("{} arguments", args.len())))
        })
        .unwrap();
    let error = host.ours.query_i64("SELECT refuse(1, 2)", &[]).unwrap_err();
    assert_eq!(error.code, bindings::SQLITE_CONSTRAINT_CHECK);
    assert!(error.is_constraint());
    assert_eq!(error.message, "2 arguments");
}

#[test]
fn an_error_without_code_is_an_error() {
    let host = memory();
    host.ours
        .create_function("refuse", 0, PLAIN, |_, _| Err::<Output, _>(FunctionError::new(0, "no")))
        .unwrap();
    let error = host.ours.query_i64("SELECT refuse()", &[]).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (bindings::SQLITE_ERROR, "no"));
}

#[test]
fn a_panic_becomes_an_error() {
    let host = memory();
    host.ours
        .create_function("fall", 1, PLAIN, |_, args| -> Result<Output, FunctionError> {
            assert!(args.get(0).is_null(), "argument {:?}", args.get(0));
            Ok(Output::Null)
        })
        .unwrap();
    let error = host.ours.query_i64("SELECT fall(5)", &[]).unwrap_err();
    assert_eq!(error.code, bindings::SQLITE_ERROR);
    assert_eq!(error.message, "internal error: argument Integer(5)");
    // The connection goes on.
    assert_eq!(host.ours.query_i64("SELECT fall(NULL) IS NULL", &[]).unwrap(), Some(1));
}

#[test]
fn a_function_may_use_its_connection() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(v); INSERT INTO t VALUES (41)").unwrap();
    host.ours
        .create_function("next", 0, FunctionFlags::DIRECT_ONLY, |context, args| {
            assert!(args.is_empty());
            assert_eq!(args.get(0), Value::Null);
            let found = context.connection().query_i64("SELECT v + 1 FROM t", &[])?;
            found.map(Output::Integer).ok_or_else(|| FunctionError::from("empty"))
        })
        .unwrap();
    assert_eq!(host.ours.query_i64("SELECT next()", &[]).unwrap(), Some(42));
}

#[test]
fn flags_are_kept() {
    let host = memory();
    for (name, flags) in [
        ("plain", PLAIN),
        ("pure", FunctionFlags::DETERMINISTIC),
        ("direct", FunctionFlags::DIRECT_ONLY),
        ("harmless", FunctionFlags::INNOCUOUS),
    ] {
        host.ours.create_function(name, 0, flags, |_, _| Ok::<_, FunctionError>(Output::Integer(1))).unwrap();
    }
    host.ours.execute("PRAGMA trusted_schema = OFF; CREATE TABLE t(v)").unwrap();
    let run = |sql: &str| host.ours.execute(sql);
    assert!(run("CREATE INDEX i ON t(v) WHERE plain()").is_err());
    for (view, allowed) in [("direct", false), ("plain", false), ("harmless", true)] {
        run(&format!("CREATE VIEW {view}_view AS SELECT {view}() AS v")).unwrap();
        assert_eq!(run(&format!("SELECT * FROM {view}_view")).is_ok(), allowed, "{view}");
    }
    run("PRAGMA trusted_schema = ON; CREATE INDEX i ON t(v) WHERE pure()").unwrap();
    run("SELECT * FROM plain_view").unwrap();
    assert!(run("SELECT * FROM direct_view").is_err());
}

#[test]
fn the_closure_is_dropped_once() {
    struct Count(Rc<Cell<u32>>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let register = |host: &host::Host, name: &str| {
        let count = Count(Rc::clone(&dropped));
        host.ours.create_function(name, 0, PLAIN, move |_, _| {
            Ok::<_, FunctionError>(Output::Integer(i64::from(count.0.get())))
        })
    };
    let host = memory();
    register(&host, "f").unwrap();
    assert_eq!(dropped.get(), 0);
    register(&host, "f").unwrap();
    assert_eq!(dropped.get(), 1, "replaced");
    assert!(register(&host, &"x".repeat(300)).is_err());
    assert_eq!(dropped.get(), 2, "refused");
    assert!(register(&host, "nul\0").is_err());
    assert_eq!(dropped.get(), 3, "refused before SQLite saw it");
    drop(host);
    assert_eq!(dropped.get(), 4, "closed");
}

#[test]
fn a_panicking_destructor_stays_inside() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("bomb");
        }
    }
    let host = memory();
    let bomb = Bomb;
    host.ours
        .create_function("f", 0, PLAIN, move |_, _| {
            let _ = &bomb;
            Ok::<_, FunctionError>(Output::Null)
        })
        .unwrap();
    drop(host);
}

#[test]
fn a_result_beyond_the_limit_is_refused() {
    let host = memory();
    // SAFETY: the connection is open.
    unsafe { rusqlite::ffi::sqlite3_limit(host.owner.handle(), rusqlite::ffi::SQLITE_LIMIT_LENGTH, 1000) };
    host.ours
        .create_function("large", 1, PLAIN, |_, args| {
            let length = usize::try_from(args.get(0).as_i64().unwrap_or(0)).unwrap_or(0);
            Ok::<_, FunctionError>(Output::Blob(vec![7; length]))
        })
        .unwrap();
    assert_eq!(host.ours.query_i64("SELECT length(large(1000))", &[]).unwrap(), Some(1000));
    let error = host.ours.query_i64("SELECT length(large(1001))", &[]).unwrap_err();
    assert_eq!(error.primary_code(), bindings::SQLITE_TOOBIG);
}
