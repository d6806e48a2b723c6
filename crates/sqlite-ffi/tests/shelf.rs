//! Statements that are kept between their uses.

#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

mod host;

use cloudsync_sqlite_ffi::{Connection, Shelf, Value};
use host::memory;

#[test]
fn kept_statements_give_what_new_ones_would() {
    let host = memory();
    let db = host.ours;
    db.execute("CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 2), (3, 4)").unwrap();
    let shelf = Shelf::new(db);
    let open = shelf.open();
    let star = |db: &Connection| {
        db.prepare("SELECT * FROM t WHERE a = ?1")
            .unwrap()
            .query_row::<_, cloudsync_sqlite_ffi::Error>(&[Value::Integer(1)], |row| {
                Ok((row.column_count(), row.column_i64(1)))
            })
    };
    assert_eq!(star(&db).unwrap(), Some((2, 2)));
    // One that stopped at a row, with something bound that stays.
    let mut stopped = db.prepare("SELECT a, ?1 FROM t ORDER BY a").unwrap();
    stopped.bind(1, Value::Integer(7)).unwrap();
    assert!(stopped.step().unwrap());
    drop(stopped);
    let mut again = db.prepare("SELECT a, ?1 FROM t ORDER BY a").unwrap();
    assert!(again.step().unwrap());
    assert_eq!((again.column_i64(0), again.column(1)), (1, Value::Null));
    // The same text twice at one time.
    let mut other = db.prepare("SELECT a, ?1 FROM t ORDER BY a").unwrap();
    assert!(other.step().unwrap() && again.step().unwrap());
    assert_eq!((other.column_i64(0), again.column_i64(0)), (1, 3));
    drop((other, again));
    // Nothing is locked by what is kept, and a change of the schema is seen.
    db.execute("ALTER TABLE t ADD COLUMN c; UPDATE t SET b = 5 WHERE a = 1").unwrap();
    assert_eq!(star(&db).unwrap(), Some((3, 5)));
    db.execute("DROP TABLE t").unwrap();
    assert!(db.prepare("SELECT * FROM t WHERE a = ?1").unwrap().run(&[Value::Integer(1)]).is_err());
    db.execute("CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 6)").unwrap();
    assert_eq!(star(&db).unwrap(), Some((2, 6)));
    drop(open);
}

#[test]
fn settings_are_set_each_time() {
    let host = memory();
    let db = host.ours;
    let _open = Shelf::new(db).open();
    for on in [1, 0, 1, 0] {
        db.prepare(&format!("PRAGMA foreign_keys = {on}")).unwrap().run(&[]).unwrap();
        assert_eq!(db.query_i64("PRAGMA foreign_keys", &[]).unwrap(), Some(on));
    }
}

#[test]
fn a_connection_closes_once_its_shelf_is_gone() {
    let host = memory();
    let shelf = Shelf::new(host.ours);
    let count = || host.ours.query_i64("SELECT count(*) FROM sqlite_master", &[]).unwrap();
    let open = shelf.open();
    // A shelf in the place of one that is open keeps nothing.
    drop((Shelf::new(host.ours).open(), count()));
    drop(open);
    let owner = host.owner.close().unwrap_err().0;
    // A statement that outlives the guard is finalized.
    let open = shelf.open();
    let outliving = host.ours.prepare("SELECT 1").unwrap();
    drop((open, outliving));
    drop(shelf);
    owner.close().unwrap();
}

/// The texts of the statements that a connection has.
fn texts(owner: &rusqlite::Connection) -> Vec<String> {
    let (mut texts, mut statement) = (Vec::new(), std::ptr::null_mut());
    loop {
        // SAFETY: an open connection, and a statement that it has.
        statement = unsafe { rusqlite::ffi::sqlite3_next_stmt(owner.handle(), statement) };
        if statement.is_null() {
            return texts;
        }
        // SAFETY: the text lives as long as the statement.
        let text = unsafe { std::ffi::CStr::from_ptr(rusqlite::ffi::sqlite3_sql(statement)) };
        texts.push(text.to_str().unwrap().to_owned());
    }
}

#[test]
fn a_shelf_has_bounds_and_keeps_what_is_used() {
    let host = memory();
    let _open = Shelf::new(host.ours).open();
    for number in 0..2_000 {
        host.ours.query_i64("SELECT 7", &[]).unwrap();
        host.ours.query_i64(&format!("SELECT {number} + 0"), &[]).unwrap();
        let texts = texts(&host.owner);
        assert!(texts.len() <= 256 && texts.iter().any(|text| text == "SELECT 7"), "{}", texts.len());
    }
    assert!(texts(&host.owner).len() >= 128);
}
