//! What a connection tells and does: statements, errors, transactions, options.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync_sqlite_ffi::{ColumnMetadata, Error, TransactionState, Value, bindings};
use host::{TempFile, memory};

#[test]
fn one_statement_only() {
    let host = memory();
    let prepare = |sql: &str| host.ours.prepare(sql).map(drop).map_err(|error| error.primary_code());
    assert_eq!(prepare("SELECT 1"), Ok(()));
    assert_eq!(prepare("SELECT 1; \n ; -- and a comment\n /* more */"), Ok(()));
    assert_eq!(prepare("SELECT 1; SELECT 2"), Err(bindings::SQLITE_MISUSE));
    assert_eq!(prepare("SELECT 1; nonsense"), Err(bindings::SQLITE_ERROR));
    assert_eq!(prepare(""), Err(bindings::SQLITE_MISUSE));
    assert_eq!(prepare(" -- nothing"), Err(bindings::SQLITE_MISUSE));
    assert_eq!(prepare("SELECT '\0'"), Err(bindings::SQLITE_MISUSE));
    assert_eq!(prepare("SELECT nothing"), Err(bindings::SQLITE_ERROR));
}

#[test]
fn many_statements() {
    let host = memory();
    host.ours
        .execute("; CREATE TABLE t(v); /* \u{fc} */ INSERT INTO t VALUES ('\u{fc}');;\nSELECT * FROM t; INSERT INTO t VALUES (2); -- end")
        .unwrap();
    assert_eq!(host.ours.query_i64("SELECT count(*) FROM t", &[]).unwrap(), Some(2));
    assert_eq!(host.ours.changes(), 1);
    assert_eq!(host.ours.total_changes(), 2);
    let error =
        host.ours.execute("INSERT INTO t VALUES (3); nonsense; INSERT INTO t VALUES (4)").unwrap_err();
    assert!(error.message.contains("nonsense"), "{error}");
    assert_eq!(host.ours.query_i64("SELECT count(*) FROM t", &[]).unwrap(), Some(3));
    host.ours.execute("").unwrap();
}

#[test]
fn errors_are_classified() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(a UNIQUE, b NOT NULL); INSERT INTO t VALUES (1, 1)").unwrap();
    let error = host.ours.execute("INSERT INTO t VALUES (1, 1)").unwrap_err();
    assert_eq!(error.code, bindings::SQLITE_CONSTRAINT_UNIQUE);
    assert_eq!(error.primary_code(), bindings::SQLITE_CONSTRAINT);
    assert!(error.is_constraint() && !error.is_busy());
    assert_eq!(error.message, "UNIQUE constraint failed: t.a");
    let error = host.ours.execute("INSERT INTO t VALUES (2, NULL)").unwrap_err();
    assert_eq!(error.code, bindings::SQLITE_CONSTRAINT_NOTNULL);
    assert_eq!(host.ours.last_error(), error);

    host.ours.execute("PRAGMA query_only = ON").unwrap();
    assert!(host.ours.execute("INSERT INTO t VALUES (2, 2)").unwrap_err().is_readonly());
}

#[test]
fn a_reported_error_is_not_repeated_by_reset() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1)").unwrap();
    let mut insert = host.ours.prepare("INSERT INTO t VALUES (?)").unwrap();
    insert.bind(1, Value::Integer(1)).unwrap();
    assert!(insert.step().is_err());
    insert.reset().unwrap();
    insert.bind(1, Value::Integer(2)).unwrap();
    assert!(!insert.step().unwrap());
    assert!(insert.run(&[Value::Integer(2)]).is_err());
    insert.run(&[Value::Integer(3)]).unwrap();
}

#[test]
fn finishing_a_write_between_its_rows_reports_errors() {
    let host = memory();
    host.ours
        .execute(
            "PRAGMA foreign_keys = ON; CREATE TABLE p(id PRIMARY KEY);
             CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
        )
        .unwrap();
    let mut insert = host.ours.prepare("INSERT INTO c VALUES (?) RETURNING p").unwrap();
    // The row is given before the implicit transaction commits, and the commit fails.
    let outcome = insert.query_row::<_, Error>(&[Value::Integer(1)], |row| Ok(row.column_i64(0)));
    assert_eq!(outcome.unwrap_err().code, bindings::SQLITE_CONSTRAINT_FOREIGNKEY);
    assert_eq!(host.ours.query_i64("SELECT count(*) FROM c", &[]).unwrap(), Some(0));
}

#[test]
fn a_second_writer_is_busy() {
    let file = TempFile::new();
    let (first, second) = (file.open(), file.open());
    first.ours.execute("CREATE TABLE t(v)").unwrap();
    let transaction = first.ours.begin_immediate().unwrap();
    let error = second.ours.begin_immediate().unwrap_err();
    assert!(error.is_busy(), "{error}");
    transaction.commit().unwrap();
    second.ours.begin_immediate().unwrap().rollback().unwrap();
}

#[test]
fn a_dropped_transaction_is_rolled_back() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(v)").unwrap();
    let count = || host.ours.query_i64("SELECT count(*) FROM t", &[]).unwrap();
    {
        let _transaction = host.ours.begin_immediate().unwrap();
        host.ours.execute("INSERT INTO t VALUES (1)").unwrap();
        assert!(!host.ours.is_autocommit());
        assert!(host.ours.begin_immediate().is_err(), "no nesting");
        assert!(!host.ours.is_autocommit(), "the failed one must not end the first");
    }
    assert!(host.ours.is_autocommit());
    assert_eq!(count(), Some(0));
    let transaction = host.ours.begin_immediate().unwrap();
    host.ours.execute("INSERT INTO t VALUES (1)").unwrap();
    transaction.commit().unwrap();
    assert!(host.ours.is_autocommit());
    assert_eq!(count(), Some(1));
}

#[test]
fn a_failed_commit_is_rolled_back() {
    let host = memory();
    host.ours
        .execute(
            "PRAGMA foreign_keys = ON; CREATE TABLE p(id PRIMARY KEY);
             CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
        )
        .unwrap();
    let transaction = host.ours.begin_immediate().unwrap();
    host.ours.execute("INSERT INTO c VALUES (1)").unwrap();
    assert_eq!(transaction.commit().unwrap_err().code, bindings::SQLITE_CONSTRAINT_FOREIGNKEY);
    assert!(host.ours.is_autocommit());
    // SQLite ends the transaction by itself here; the guard must cope.
    let transaction = host.ours.begin_immediate().unwrap();
    assert!(host.ours.execute("INSERT OR ROLLBACK INTO p VALUES (1), (1)").is_err());
    assert!(host.ours.is_autocommit());
    transaction.rollback().unwrap();
}

#[test]
fn savepoints_nest() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(v)").unwrap();
    let insert = |value: i64| {
        host.ours.prepare("INSERT INTO t VALUES (?)").unwrap().run(&[value.into()]).unwrap();
    };
    let sum = || host.ours.query_i64("SELECT sum(v) FROM t", &[]).unwrap().unwrap_or(0);
    for name in ["plain", "with \"quotes\""] {
        let outer = host.ours.savepoint(name).unwrap();
        insert(1);
        {
            let _inner = host.ours.savepoint(name).unwrap();
            insert(10);
            assert_eq!(sum(), 11);
        }
        assert_eq!(sum(), 1, "inner dropped");
        let inner = host.ours.savepoint(name).unwrap();
        insert(100);
        inner.commit().unwrap();
        assert_eq!(sum(), 101);
        outer.rollback().unwrap();
        assert_eq!(sum(), 0);
        assert!(host.ours.is_autocommit());
    }
    let transaction = host.ours.begin_immediate().unwrap();
    let savepoint = host.ours.savepoint("s").unwrap();
    insert(5);
    savepoint.commit().unwrap();
    drop(host.ours.savepoint("s").unwrap());
    assert!(!host.ours.is_autocommit());
    transaction.commit().unwrap();
    assert_eq!(sum(), 5);
}

#[test]
fn transaction_states() {
    let host = memory();
    host.ours.execute("CREATE TABLE t(v); INSERT INTO t VALUES (1)").unwrap();
    let state = || host.ours.transaction_state(Some("main")).unwrap();
    assert_eq!(state(), TransactionState::None);
    host.ours.execute("BEGIN").unwrap();
    assert_eq!(state(), TransactionState::None);
    host.ours.execute("SELECT * FROM t").unwrap();
    assert_eq!(state(), TransactionState::Read);
    host.ours.execute("DELETE FROM t").unwrap();
    assert_eq!(state(), TransactionState::Write);
    assert_eq!(host.ours.transaction_state(None).unwrap(), TransactionState::Write);
    assert_eq!(host.ours.transaction_state(Some("temp")).unwrap(), TransactionState::None);
    host.ours.execute("COMMIT").unwrap();
    assert_eq!(state(), TransactionState::None);
}

#[test]
fn triggers_toggle() {
    let host = memory();
    host.ours
        .execute(
            "CREATE TABLE t(v); CREATE TABLE log(v);
             CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (NEW.v); END",
        )
        .unwrap();
    let mut insert = host.ours.prepare("INSERT INTO t VALUES (1)").unwrap();
    let log = || host.ours.query_i64("SELECT count(*) FROM log", &[]).unwrap().unwrap();
    insert.run(&[]).unwrap();
    assert_eq!(log(), 1);
    let transaction = host.ours.begin_immediate().unwrap();
    assert!(host.ours.triggers_enabled().unwrap());
    assert!(host.ours.set_triggers_enabled(false).unwrap());
    assert!(!host.ours.triggers_enabled().unwrap());
    assert!(!host.ours.set_triggers_enabled(false).unwrap());
    insert.run(&[]).unwrap();
    assert_eq!(log(), 1);
    assert!(!host.ours.set_triggers_enabled(true).unwrap());
    insert.run(&[]).unwrap();
    assert_eq!(log(), 2);
    transaction.commit().unwrap();
}

#[test]
fn foreign_keys_toggle_inside_a_transaction() {
    let host = memory();
    host.ours
        .execute("PRAGMA foreign_keys = ON; CREATE TABLE p(id PRIMARY KEY); CREATE TABLE c(p REFERENCES p)")
        .unwrap();
    let transaction = host.ours.begin_immediate().unwrap();
    assert!(host.ours.execute("INSERT INTO c VALUES (1)").unwrap_err().is_constraint());
    assert!(host.ours.set_foreign_keys_enabled(false).unwrap());
    host.ours.execute("INSERT INTO c VALUES (1)").unwrap();
    assert!(!host.ours.set_foreign_keys_enabled(true).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn columns_are_described() {
    let host = memory();
    host.ours
        .execute(
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a VARCHAR(20) NOT NULL COLLATE NOCASE, b);
             CREATE TEMP TABLE t(id TEXT)",
        )
        .unwrap();
    let column = |name: &str| host.ours.column_metadata("main", "t", name);
    let expected = |declared: Option<&str>, collation: &str| ColumnMetadata {
        declared_type: declared.map(str::to_owned),
        collation: collation.to_owned(),
        not_null: false,
        primary_key: false,
        autoincrement: false,
    };
    let id = column("id").unwrap();
    let wanted = expected(Some("INTEGER"), "BINARY");
    assert_eq!(id, ColumnMetadata { primary_key: true, autoincrement: true, ..wanted });
    let a = column("a").unwrap();
    assert_eq!(a, ColumnMetadata { not_null: true, ..expected(Some("VARCHAR(20)"), "NOCASE") });
    assert_eq!(column("b").unwrap(), expected(None, "BINARY"));
    let error = column("nothing").unwrap_err();
    assert_eq!(error.message, "no such table column: t.nothing");
    let temporary = host.ours.column_metadata("temp", "t", "id").unwrap();
    assert_eq!(temporary.declared_type.as_deref(), Some("TEXT"));
}

#[test]
fn files_and_access() {
    let file = TempFile::new();
    let host = file.open();
    assert!(host.ours.filename("main").unwrap().ends_with(file.path().rsplit('/').next().unwrap()));
    assert_eq!(host.ours.filename("temp"), None);
    assert_eq!(host.ours.filename("nothing"), None);
    assert_eq!(memory().ours.filename("main"), None);
    assert!(!host.ours.is_readonly("main").unwrap());
    assert_eq!(host.ours.is_readonly("nothing").unwrap_err().code, bindings::SQLITE_NOTFOUND);
    host.ours.execute("ATTACH 'file::memory:?mode=memory' AS other; CREATE TABLE t(v)").unwrap();
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = host::wrap(rusqlite::Connection::open_with_flags(file.path(), flags).unwrap());
    assert!(reader.ours.is_readonly("main").unwrap());
    assert!(reader.ours.execute("DROP TABLE t").unwrap_err().is_readonly());
}

#[test]
fn the_rest_of_the_table() {
    let host = memory();
    let api = host.ours.api();
    assert_eq!(api.version_number(), rusqlite::version_number());
    assert_eq!(api.version(), rusqlite::version());
    let (mut first, mut second) = ([0_u8; 32], [0_u8; 32]);
    host.ours.randomness(&mut first);
    host.ours.randomness(&mut second);
    assert_ne!(first, second);
    host.ours.randomness(&mut []);
    host.ours.log(bindings::SQLITE_WARNING, "100 %s sure\0, %d times");
    // Nothing runs, so nothing is interrupted.
    host.ours.interrupt();
    assert_eq!(host.ours.query_i64("SELECT 1", &[]).unwrap(), Some(1));
}

#[test]
fn a_kept_statement_blocks_closing_and_survives_it() {
    let host = memory();
    let mut kept = host.ours.prepare("SELECT 1").unwrap();
    let (owner, error) = host.owner.close().unwrap_err();
    assert!(error.to_string().contains("unfinalized"), "{error}");
    assert!(kept.step().unwrap());
    drop(kept);
    owner.close().unwrap();
}
