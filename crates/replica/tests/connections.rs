//! Several connections to one file, locked and read-only files.
#![allow(clippy::unwrap_used)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::rc::Rc;

use bench::{Device, Folder, NOW, assert_same, exchange, sync_by_payload};
use cloudsync_protocol::message::Turn;
use hub::{BOTH, Hub};
use rusqlite::{OpenFlags, ffi};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)";

#[test]
fn two_connections_on_one_file_are_one_replica() {
    for journal in ["DELETE", "WAL"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut first = Device::open(&path, 1);
        first.run(&format!("PRAGMA journal_mode = {journal}; {NOTES}"));
        first.init_all();
        let mut second = Device::open(&path, 2);
        assert_eq!(second.replica.site_id().unwrap(), first.replica.site_id().unwrap());
        let mut b = Device::new(3, NOTES);
        b.run("INSERT INTO notes VALUES('b', 't', 'b')");
        first.run("INSERT INTO notes VALUES('1', 't', 'b')");
        second.run("INSERT INTO notes VALUES('2', 't', 'b'); ALTER TABLE notes ADD COLUMN extra");
        exchange(&mut first, &mut b);
        // The other one knows neither the site that came nor the column, and must find out.
        second.run("UPDATE notes SET title = 'second', extra = 'x' WHERE id = 'b'");
        first.run("CREATE TABLE more(id TEXT PRIMARY KEY NOT NULL)");
        first.init_all();
        second.run("INSERT INTO more VALUES('m')");
        sync_by_payload(&mut second, &mut b);
        assert_eq!(b.rows("SELECT title FROM notes WHERE id = 'b'"), ["'second'"]);
        b.run("ALTER TABLE notes ADD COLUMN extra");
        b.run("CREATE TABLE more(id TEXT PRIMARY KEY NOT NULL)");
        b.init_all();
        exchange(&mut b, &mut second);
        for table in ["notes", "more"] {
            assert_same(&mut first, &mut b, table);
            assert_same(&mut second, &mut b, table);
        }
        first.check();
    }
}

#[test]
fn sites_that_were_rolled_back_do_not_come_to_mean_others() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut first = Device::open(&path, 1);
    first.run(NOTES);
    first.init_all();
    let mut second = Device::open(&path, 2);
    let (mut x, mut y) = (Device::new(3, NOTES), Device::new(4, NOTES));
    x.run("INSERT INTO notes VALUES('x', 'x', 'x')");
    y.run("INSERT INTO notes VALUES('y', 'y', 'y')");
    first.run("BEGIN");
    first.apply(&x.encode()).unwrap();
    first.run("ROLLBACK");
    second.apply(&y.encode()).unwrap();
    exchange(&mut first, &mut y);
    assert_same(&mut first, &mut y, "notes");
}

/// Counts the statements of a connection that store that others brought values of a site.
fn count_relayed(device: &Device) -> Rc<Cell<usize>> {
    unsafe extern "C" fn trace(
        _: c_uint,
        count: *mut c_void,
        statement: *mut c_void,
        _: *mut c_void,
    ) -> c_int {
        // SAFETY: SQLite tells of a statement that begins, and `count` is never freed.
        unsafe {
            let text = ffi::sqlite3_expanded_sql(statement.cast());
            let cell = &*count.cast::<Cell<usize>>();
            let shown = CStr::from_ptr(text).to_string_lossy();
            let writes = shown.starts_with("INSERT") && shown.contains("'relayed ");
            cell.set(cell.get() + usize::from(writes));
            ffi::sqlite3_free(text.cast());
        }
        0
    }
    let count = Rc::new(Cell::new(0));
    let pointer = Rc::into_raw(Rc::clone(&count)).cast_mut().cast();
    // SAFETY: the connection is open, and the count outlives it.
    let rc =
        unsafe { ffi::sqlite3_trace_v2(device.sql.handle(), ffi::SQLITE_TRACE_STMT, Some(trace), pointer) };
    assert_eq!(rc, ffi::SQLITE_OK);
    count
}

#[test]
fn that_others_brought_values_of_a_site_is_stored_once_and_again_after_a_rollback() {
    let mut hub = Hub::new(NOTES);
    let (mut a, mut b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    let count = count_relayed(&hub.server);
    let stored = "SELECT count(*) FROM cloudsync_settings WHERE key LIKE 'relayed%'";
    let mut relay = |hub: &mut Hub, v: i64| {
        a.run(&format!("INSERT INTO notes VALUES('{v}', 't', 'b')"));
        b.apply(&a.encode()).unwrap();
        hub.turn(&mut b, BOTH);
        count.replace(0)
    };
    hub.server.run("BEGIN");
    assert_eq!(relay(&mut hub, 1), 1);
    assert_eq!(hub.server.get::<i64>(stored), 1);
    hub.server.run("ROLLBACK");
    assert_eq!(hub.server.get::<i64>(stored), 0);
    assert_eq!((relay(&mut hub, 2), relay(&mut hub, 3), relay(&mut hub, 4)), (1, 0, 0));
    assert_eq!(hub.server.get::<i64>(stored), 1);
}

#[test]
fn a_reader_that_stays_open_is_no_hindrance_in_wal() {
    let folder = Folder::new();
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(&format!("PRAGMA journal_mode = WAL; {NOTES}"));
    a.init_all();
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b')");
    let reader = rusqlite::Connection::open(folder.file("a.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM notes").unwrap();
    let mut b = Device::new(2, NOTES);
    exchange(&mut a, &mut b);
    b.run("UPDATE notes SET title = 'by b'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(reader.query_row("SELECT title FROM notes", [], |row| row.get::<_, String>(0)).unwrap(), "t");
    assert_eq!(a.world.pauses.get(), 0);
}

#[test]
fn an_open_cursor_of_the_same_connection_is_no_hindrance() {
    let mut a = Device::new(1, NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b')");
    let mut b = Device::new(2, NOTES);
    b.run("INSERT INTO notes VALUES('3', 't', 'b')");
    let from_b = b.encode();
    let replica = &mut a.replica;
    let mut cursor = a.sql.prepare("SELECT id FROM notes").unwrap();
    let mut rows = cursor.query([]).unwrap();
    assert!(rows.next().unwrap().is_some());
    assert_eq!(replica.payload_apply(&from_b).unwrap(), 1);
    assert!(!replica.payload_encode(0, None).unwrap().is_empty());
    while rows.next().unwrap().is_some() {}
}

#[test]
fn inside_the_apps_transaction_apply_and_fold_work_and_encode_says_commit_first() {
    let (mut a, mut b) = bench::pair(NOTES);
    b.run("INSERT INTO notes VALUES('1', 't', 'b')");
    let from_b = b.encode();
    a.run("BEGIN; INSERT INTO notes VALUES('2', 't', 'b')");
    assert_eq!(a.apply(&from_b).unwrap(), 1);
    a.replica.fold().unwrap();
    assert!(a.replica.payload_encode(0, None).unwrap_err().to_string().contains("commit first"));
    a.run("COMMIT");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
}

#[test]
fn a_read_only_file_tells_its_status_and_refuses_the_rest_clearly() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let payload = {
        let mut a = Device::open(&path, 1);
        a.run(NOTES);
        a.init_all();
        a.run("INSERT INTO notes VALUES('1', 't', 'b')");
        let payload = a.encode();
        a.run(
            "CREATE TABLE more(id TEXT PRIMARY KEY NOT NULL); INSERT INTO notes VALUES('2', 'unfolded', 'b')",
        );
        payload
    };
    let sql = rusqlite::Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut a = Device::on(sql, 2);
    assert_eq!(a.replica.status().unwrap()["tables"][0]["name"], "notes");
    assert!(a.replica.version().unwrap() > 0);
    assert!(a.replica.setting("busy_ms").is_ok());
    assert!(a.replica.is_enabled("notes").unwrap());
    a.replica.site_id().unwrap();
    for error in [
        a.apply(&payload).unwrap_err(),
        a.replica.fold().unwrap_err(),
        a.replica.init("more", "cls", 0).unwrap_err(),
        a.replica.cleanup("notes").unwrap_err(),
        a.replica.set_enabled("notes", false).unwrap_err(),
        a.replica.payload_encode(0, None).unwrap_err(),
    ] {
        assert!(error.to_string().contains("read-only"), "{error}");
    }
}

#[test]
fn a_locked_file_is_tried_again_until_busy_ms_have_passed() {
    for journal in ["DELETE", "WAL"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut a = Device::open(&path, 1);
        a.run(&format!("PRAGMA journal_mode = {journal}; {NOTES}"));
        a.init_all();
        a.replica.set_setting("busy_ms", 200_i64.into()).unwrap();
        let other = Rc::new(rusqlite::Connection::open(&path).unwrap());
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = a.replica.fold().unwrap_err();
        assert!(error.to_string().starts_with("database is busy"), "{error}");
        assert!(error.can_retry());
        assert!(a.world.pauses.get() >= 4 && a.world.pauses.get() < 300, "{} pauses", a.world.pauses.get());

        let (holder, left) = (Rc::clone(&other), Cell::new(3));
        *a.world.at_pause.borrow_mut() = Some(Box::new(move || {
            left.set(left.get() - 1);
            if left.get() == 0 {
                holder.execute_batch("COMMIT").unwrap();
            }
        }));
        a.replica.fold().unwrap();
        *a.world.at_pause.borrow_mut() = None;
    }
}

#[test]
fn a_commit_held_up_by_a_reader_is_tried_again() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut a = Device::open(&path, 1);
    a.run(NOTES);
    a.init_all();
    let reader = Rc::new(rusqlite::Connection::open(&path).unwrap());
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    reader.execute_batch("BEGIN; SELECT * FROM notes").unwrap();
    a.replica.fold().unwrap_err();
    let holder = Rc::clone(&reader);
    *a.world.at_pause.borrow_mut() = Some(Box::new(move || {
        if !holder.is_autocommit() {
            holder.execute_batch("COMMIT").unwrap();
        }
    }));
    assert_eq!(a.replica.fold().unwrap().rows, 1);
    a.check();
}

/// Has an app write at every pause, as one that does not wait for locks; gives how often it did.
fn hasty_app(path: &std::path::Path, device: &Device) -> Rc<Cell<usize>> {
    let written = Rc::new(Cell::new(0));
    let (app, count) = (rusqlite::Connection::open(path).unwrap(), Rc::clone(&written));
    app.busy_timeout(std::time::Duration::ZERO).unwrap();
    *device.world.at_pause.borrow_mut() = Some(Box::new(move || {
        let id = format!("app {}", count.get());
        app.execute("INSERT INTO notes VALUES(?1, 'by the app', '')", [id]).unwrap();
        count.set(count.get() + 1);
    }));
    written
}

#[test]
fn a_long_fold_leaves_the_lock_alone_between_its_slices() {
    for journal in ["DELETE", "WAL"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut device = Device::open(&path, 1);
        device.run(&format!("PRAGMA journal_mode = {journal}; {NOTES}"));
        device.init_all();
        device.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
             INSERT INTO notes SELECT 'row ' || i, 'title', 'body' FROM n",
        );
        let written = hasty_app(&path, &device);
        device.replica.prepare(BOTH, false).unwrap();
        // The clock of the test stands still, so each slice is twice as large as the one before.
        assert_eq!(written.get(), 3, "{journal}");
        let mut other = Device::new(2, NOTES);
        sync_by_payload(&mut device, &mut other);
        assert_same(&mut device, &mut other, "notes");
        assert_eq!(other.rows("SELECT count(*) FROM notes"), ["60003"]);
    }
}

#[test]
fn a_first_download_leaves_the_lock_alone_between_its_slices() {
    for journal in ["DELETE", "WAL"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut device = Device::open(&path, 1);
        device.run(&format!("PRAGMA journal_mode = {journal}; {NOTES}"));
        device.init_all();
        let mut author = Device::new(2, NOTES);
        author.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) \
             INSERT INTO notes SELECT 'row ' || i, 'title', 'body' FROM n",
        );
        let payload = author.encode();
        let turn = Turn {
            epoch: 1,
            nonce: 0,
            now: NOW,
            accepted: None,
            drained: false,
            cursor: 0,
            position: b"on",
            rows_total: 30_000,
            verdicts: &[],
            checked: &[],
            payload: &payload,
        };
        device.replica.prepare(BOTH, false).unwrap();
        let written = hasty_app(&path, &device);
        assert_eq!(device.replica.absorb(&turn).unwrap().rows_received, 30_000);
        assert_eq!(written.get(), 2, "{journal}");
        // What is behind the first slice is not lost when the download goes on elsewhere.
        device.replica.prepare(BOTH, false).unwrap();
        device.replica.reset_sync().unwrap();
        assert_eq!(device.replica.absorb(&turn).unwrap().rows_received, 0);
        assert_eq!(device.rows("SELECT count(*) FROM notes WHERE title = 'title'"), ["30000"]);
        device.check();
    }
}
