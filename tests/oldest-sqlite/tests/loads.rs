//! The shipped extension, loaded into SQLite 3.35.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, LoadExtensionGuard};

const TASKS: &str = "CREATE TABLE tasks (
    id TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT '', priority INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now')), photo BLOB)";

/// The extension: the variable `CLOUDSYNC_LIB`, or what `cargo xtask build` leaves.
fn library() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/lib/cloudsync.so");
    let path = std::env::var_os("CLOUDSYNC_LIB").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run `cargo xtask build`", path.display());
    path
}

fn load(conn: &Connection) {
    let _guard = LoadExtensionGuard::new(conn).unwrap();
    conn.load_extension(library(), None).unwrap();
}

/// A new database file with the table, syncing.
fn open(file: &Path) -> Connection {
    let conn = Connection::open(file).unwrap();
    load(&conn);
    conn.execute_batch(TASKS).unwrap();
    let site_id: String = conn.query_row("SELECT cloudsync_init('tasks')", [], |row| row.get(0)).unwrap();
    assert_eq!(site_id.len(), 32, "the site id is hex text: {site_id}");
    conn
}

fn payload(conn: &Connection) -> Vec<u8> {
    conn.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap()
}

fn apply(conn: &Connection, payload: &[u8]) -> i64 {
    conn.query_row("SELECT cloudsync_payload_apply(?)", [payload], |row| row.get(0)).unwrap()
}

/// Every row, with every bit of every value.
fn rows(conn: &Connection) -> Vec<String> {
    let sql = "SELECT quote(id) || quote(hex(title)) || quote(priority) || quote(created_at) || quote(photo)
        || typeof(photo) FROM tasks ORDER BY id";
    let mut stmt = conn.prepare(sql).unwrap();
    let rows = stmt.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn this_is_the_oldest_supported_sqlite() {
    assert_eq!(rusqlite::version(), "3.35.4");
}

#[test]
fn the_extension_loads_and_answers() {
    let conn = Connection::open_in_memory().unwrap();
    load(&conn);
    let version: String = conn.query_row("SELECT cloudsync_version()", [], |row| row.get(0)).unwrap();
    assert!(!version.is_empty());
    let ids: (String, String) = conn
        .query_row("SELECT cloudsync_uuid(), cloudsync_uuid()", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(ids.0.len() == 36 && ids.0 < ids.1, "{ids:?} should be UUIDs that increase");
}

#[test]
fn rows_go_from_one_file_to_another_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (open(&folder.path().join("a.db")), open(&folder.path().join("b.db")));
    a.execute_batch(
        "INSERT INTO tasks (id, title) VALUES (cloudsync_uuid(), 'one'), (cloudsync_uuid(), 'two');
         INSERT INTO tasks VALUES ('big', 'a' || char(0) || 'b', 9223372036854775807, -1, x'00ff');",
    )
    .unwrap();
    assert_eq!(apply(&b, &payload(&a)), 3);
    assert_eq!(rows(&a), rows(&b));

    b.execute_batch(
        "UPDATE tasks SET title = 'TWO' WHERE title = 'two'; DELETE FROM tasks WHERE title = 'one';",
    )
    .unwrap();
    assert!(apply(&a, &payload(&b)) > 0);
    assert_eq!(rows(&a).len(), 2);
    assert_eq!(rows(&a), rows(&b));
}

#[test]
fn tables_that_are_computed_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (open(&folder.path().join("a.db")), open(&folder.path().join("b.db")));
    a.execute_batch("INSERT INTO tasks (id, title) VALUES ('x', 'one'), ('y', 'two')").unwrap();
    let count = |conn: &Connection, condition: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM cloudsync_changes WHERE {condition}");
        conn.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count(&a, "tbl = 'tasks'"), 10);
    assert_eq!(count(&a, "version > 0 AND site_id = cloudsync_siteid() AND col_name = 'title'"), 2);
    let mut stmt = a.prepare("SELECT payload FROM cloudsync_payload_chunks(0)").unwrap();
    let chunks: Vec<Vec<u8>> =
        stmt.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    for chunk in &chunks {
        apply(&b, chunk);
    }
    assert_eq!(rows(&a), rows(&b));
    assert_eq!(count(&b, "1"), 10);
    let result = a.query_row("SELECT * FROM cloudsync_payload_chunks(NULL)", [], |_| Ok(()));
    assert!(result.unwrap_err().to_string().contains("must be an integer from 0, not NULL"));
}

#[test]
fn damaged_bytes_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("a.db"));
    conn.execute("INSERT INTO tasks (id) VALUES ('x')", []).unwrap();
    let mut bytes = payload(&conn);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    for damaged in [&bytes[..], &bytes[..last], &[][..]] {
        let result =
            conn.query_row("SELECT cloudsync_payload_apply(?)", [damaged], |row| row.get::<_, i64>(0));
        assert!(result.is_err(), "{} bytes were taken", damaged.len());
    }
}

#[test]
fn a_file_closes_without_terminate_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.db");
    let conn = open(&file);
    conn.execute("INSERT INTO tasks (id) VALUES ('x')", []).unwrap();
    payload(&conn);
    conn.close().map_err(|(_, error)| error).unwrap();
    let conn = Connection::open(&file).unwrap();
    conn.execute("UPDATE tasks SET title = 'without the extension'", []).unwrap();
    load(&conn);
    assert!(!payload(&conn).is_empty());
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
