//! A device with three synced tables of different kinds, and what must be true of it after anything.

use std::cell::RefCell;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;
use rusqlite::types::{Value, ValueRef};

use crate::host;

/// Tables with a UNIQUE index, without rowids, with other collations and with an integer key.
pub(crate) const TABLES: &str = "
    PRAGMA foreign_keys = OFF;
    CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, place INT UNIQUE, body BLOB);
    CREATE TABLE tags(note TEXT COLLATE NOCASE, tag, n REAL, PRIMARY KEY(tag, note)) WITHOUT ROWID;
    CREATE TABLE kept(id INTEGER PRIMARY KEY, v);";
const INIT: &str =
    "SELECT cloudsync_init('notes'), cloudsync_init('tags', 'dws'), cloudsync_init('kept', 'aws', 1)";
/// Rows of a device that has written for a while.
pub(crate) const ROWS: &str = "
    INSERT INTO notes VALUES('1', 'one', 1, x'00ff'), ('2', 'two', 2, NULL), ('0190163d-8694-739b-aea5-966c26f8ad91', '', 3, '');
    INSERT INTO tags VALUES('1', 'x', 0.5), ('2', x'01', 1e300), ('Ab', 7, NULL);
    INSERT INTO kept VALUES(1, 'a'), (2, NULL), (-3, 9223372036854775807);
    DELETE FROM kept WHERE id = 2; DELETE FROM tags WHERE tag = 7; UPDATE notes SET title = 'edited' WHERE id = '2';";
/// What makes rows of others wait: a trigger that raises, and a column that wants a value.
const STRICTER: &str = "
    CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.place = 2 BEGIN SELECT RAISE(ABORT, 'no'); END;
    CREATE UNIQUE INDEX titles ON notes(title) WHERE place > 1;";
/// Kinds of devices.
const KINDS: usize = 3;
const PAGES: i32 = 10_000;

thread_local! {
    static TEMPLATES: RefCell<Vec<Connection>> = const { RefCell::new(Vec::new()) };
}

/// A device without rows.
pub(crate) fn empty() -> Connection {
    let db = host::memory();
    db.execute_batch(TABLES).unwrap();
    host::show(&db, INIT);
    db
}

/// A new device of one of the kinds: without rows, with some, or with some and with rules of its own. All devices of a kind
/// are copies of one.
pub(crate) fn of_kind(kind: u8) -> Connection {
    TEMPLATES.with_borrow_mut(|templates| {
        if templates.is_empty() {
            templates.extend((0..KINDS).map(template));
        }
        let mut db = host::memory();
        let copy = Backup::new(&templates[usize::from(kind) % KINDS], &mut db).unwrap();
        copy.run_to_completion(PAGES, Duration::ZERO, None).unwrap();
        drop(copy);
        db
    })
}

fn template(kind: usize) -> Connection {
    let db = empty();
    if kind > 0 {
        db.execute_batch(ROWS).unwrap();
    }
    if kind > 1 {
        db.execute_batch(STRICTER).unwrap();
    }
    // Notes are folded, so that nothing is left to do before the first change of others.
    host::show(&db, "SELECT count(*) FROM cloudsync_changes");
    encoded(&db);
    db
}

/// Everything that the device would send.
pub(crate) fn encoded(db: &Connection) -> Option<Vec<u8>> {
    db.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap()
}

/// All rows of all tables, those of the library too.
pub(crate) fn all_rows(db: &Connection) -> Vec<(String, Vec<Vec<Value>>)> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
    let mut select = db.prepare(sql).unwrap();
    let names = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    names.map(|name| rows_of(db, name.unwrap())).collect()
}

/// The rows of the app.
pub(crate) fn own_rows(db: &Connection) -> Vec<(String, Vec<Vec<Value>>)> {
    ["notes", "tags", "kept"].map(|name| rows_of(db, name.to_owned())).into()
}

fn rows_of(db: &Connection, name: String) -> (String, Vec<Vec<Value>>) {
    let sql = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
    let mut select = db.prepare(&sql).unwrap();
    let columns = select.column_count();
    let rows =
        select.query_map([], |row| (0..columns).map(|at| Ok(exact(row.get_ref(at)?))).collect()).unwrap();
    let rows = rows.map(Result::unwrap).collect();
    (name, rows)
}

/// A value; a text of any bytes, as SQLite takes it, is told from all others.
fn exact(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        ValueRef::Text(bytes) => Value::Text(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("the text of {bytes:?}"),
        }),
    }
}

/// Runs SQL with one parameter; an error must say something, and nothing of a panic. Gives its text.
pub(crate) fn call(db: &Connection, sql: &str, parameter: &dyn rusqlite::ToSql) -> Result<(), String> {
    let Err(error) = db.query_row(sql, [parameter], |_| Ok(())) else { return Ok(()) };
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains("internal error"), "{text}");
    Err(text)
}

/// The file is whole, no transaction is open, and everything can still be asked.
pub(crate) fn judge(db: &Connection) {
    assert_eq!(host::show(db, "PRAGMA integrity_check"), "ok");
    assert!(db.is_autocommit());
    host::show(db, "SELECT length(cloudsync_status()) + (SELECT count(*) FROM cloudsync_changes)");
    encoded(db);
}

/// The device takes what is right: the row of a stranger is there afterwards.
pub(crate) fn takes_what_is_right(db: &Connection) {
    thread_local! {
        static RIGHT: Vec<u8> = {
            let db = empty();
            db.execute_batch("INSERT INTO kept VALUES(4711, 'right')").unwrap();
            encoded(&db).unwrap()
        };
    }
    RIGHT.with(|right| call(db, "SELECT cloudsync_payload_apply(?1)", right)).unwrap();
    assert_eq!(host::show(db, "SELECT count(*) FROM kept WHERE id = 4711"), "1");
}
