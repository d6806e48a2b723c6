//! Guards from the app's triggers where they are not made for each apply, or the schema changes around them: on connections of
//! our own, and beside other connections.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;

use bench::{Device, Folder, assert_same, pair, sync_by_payload};
use cloudsync_replica::{Environment, ForeignKeys, KeptGuards, Replica};
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::rc::Rc;

/// A trigger whose effects differ on each device.
const TRAIL: &str = "CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, v);
    CREATE TABLE trail(id TEXT PRIMARY KEY NOT NULL, what);
    CREATE TRIGGER came AFTER INSERT ON items BEGIN INSERT INTO trail VALUES(hex(randomblob(16)), NEW.id); END";
/// Three for each of the tables that its text names.
const GUARDS: usize = 6;

/// The same, in a file, whose connection is the replica's own.
fn own(path: &Path) -> Device {
    let mut device = Device::open(path, 2);
    device.run(TRAIL);
    device.init_all();
    device.replica.own_connection(ForeignKeys::Ignored);
    device
}

/// What another replica on the connection of `device` does.
fn beside(device: &Device, act: impl FnOnce(&mut Replica)) {
    let environment = Rc::clone(&device.world) as Rc<dyn Environment>;
    act(&mut Replica::open(device.replica.connection(), environment).unwrap());
}

fn next(from: &mut Device, id: &str) -> Vec<u8> {
    from.run(&format!("INSERT INTO items VALUES('{id}', 1)"));
    from.encode()
}

fn guards(device: &Device) -> Vec<String> {
    device.rows("SELECT name FROM temp.sqlite_master WHERE name LIKE 'cloudsync\\_guard%' ESCAPE '\\'")
}

fn assert_equal(a: &mut Device, b: &mut Device) {
    assert_same(a, b, "items");
    assert_same(a, b, "trail");
}

/// Forbids a connection to drop temporary triggers, or no longer.
fn forbid_drops(device: &Device, forbid: bool) {
    unsafe extern "C" fn ask(
        _: *mut c_void,
        action: c_int,
        _: *const c_char,
        _: *const c_char,
        _: *const c_char,
        _: *const c_char,
    ) -> c_int {
        if action == ffi::SQLITE_DROP_TEMP_TRIGGER { ffi::SQLITE_DENY } else { ffi::SQLITE_OK }
    }
    let authorizer: Option<unsafe extern "C" fn(_, _, _, _, _, _) -> _> = forbid.then_some(ask as _);
    // SAFETY: the connection is open, and the function needs nothing.
    let rc = unsafe { ffi::sqlite3_set_authorizer(device.sql.handle(), authorizer, std::ptr::null_mut()) };
    assert_eq!(rc, ffi::SQLITE_OK);
}

#[test]
fn kept_guards_that_another_replica_dropped_are_made_anew() {
    let (mut a, mut b) = pair(TRAIL);
    b.replica.own_connection(ForeignKeys::Ignored);
    b.apply(&next(&mut a, "1")).unwrap();
    // One that applies makes guards of its own, and drops them.
    let payload = next(&mut a, "2");
    beside(&b, |other| assert_eq!(other.payload_apply(&payload).unwrap(), 2));
    assert!(guards(&b).is_empty());
    b.apply(&next(&mut a, "3")).unwrap();
    assert_equal(&mut a, &mut b);
    // One that keeps its own goes in the middle: those have the same names.
    let payload = next(&mut a, "4");
    let mut kept = KeptGuards::default();
    beside(&b, |other| {
        other.own_connection(ForeignKeys::Ignored);
        other.payload_apply(&payload).unwrap();
        kept = other.take_guards();
    });
    b.apply(&next(&mut a, "5")).unwrap();
    drop(kept);
    assert!(guards(&b).is_empty());
    b.apply(&next(&mut a, "6")).unwrap();
    assert_equal(&mut a, &mut b);
}

#[test]
fn guards_that_were_left_behind_once_take_no_others_with_them() {
    let (mut a, mut b) = pair(TRAIL);
    b.replica.own_connection(ForeignKeys::Ignored);
    b.apply(&next(&mut a, "1")).unwrap();
    forbid_drops(&b, true);
    drop(b.replica.take_guards());
    assert_eq!(guards(&b).len(), GUARDS);
    forbid_drops(&b, false);
    b.apply(&next(&mut a, "2")).unwrap();
    // What they made way for is handed on, as a host does that opens the replica for each sync.
    let kept = b.replica.take_guards();
    beside(&b, |other| other.transact(|_| Ok(())).unwrap());
    assert_eq!(guards(&b).len(), GUARDS);
    b.replica.put_guards(kept);
    b.apply(&next(&mut a, "3")).unwrap();
    assert_equal(&mut a, &mut b);
}

#[test]
fn what_a_transaction_makes_or_drops_and_takes_back_is_noticed() {
    let (mut a, mut b) = pair(TRAIL);
    b.replica.own_connection(ForeignKeys::Ignored);
    for (id, [begin, end]) in [["BEGIN", "ROLLBACK"], ["SAVEPOINT s", "ROLLBACK TO s; RELEASE s"]]
        .into_iter()
        .chain([
            ["BEGIN; DROP TABLE trail; CREATE TABLE trail(id TEXT PRIMARY KEY NOT NULL, what)", "ROLLBACK"],
            ["BEGIN", "DROP TRIGGER came; ROLLBACK"],
        ])
        .enumerate()
    {
        let payload = next(&mut a, &id.to_string());
        b.run(begin);
        b.apply(&payload).unwrap();
        b.run(end);
        b.apply(&payload).unwrap();
        assert_equal(&mut a, &mut b);
        assert_eq!(guards(&b).len(), GUARDS);
    }
}

#[test]
fn triggers_that_come_while_an_apply_waits_for_the_lock_are_guarded_and_run() {
    let plain = "CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE trail(id TEXT PRIMARY KEY NOT NULL, what); CREATE TABLE log(what)";
    let migration = "CREATE TRIGGER came AFTER INSERT ON items BEGIN
            INSERT INTO trail VALUES(hex(randomblob(16)), NEW.id); INSERT INTO log VALUES(NEW.id); END;
        COMMIT";
    for is_own in [false, true] {
        let folder = Folder::new();
        let mut a = Device::new(1, plain);
        let mut b = Device::open(&folder.file("b.db"), 2);
        b.run(plain);
        b.init_all();
        if is_own {
            b.replica.own_connection(ForeignKeys::Ignored);
        }
        a.run("INSERT INTO items VALUES('1', 1)");
        sync_by_payload(&mut a, &mut b);
        let app = rusqlite::Connection::open(folder.file("b.db")).unwrap();
        app.execute_batch("BEGIN IMMEDIATE").unwrap();
        *b.world.at_pause.borrow_mut() = Some(Box::new(move || {
            if !app.is_autocommit() {
                app.execute_batch(migration).unwrap();
            }
        }));
        b.apply(&next(&mut a, "2")).unwrap();
        assert_eq!(b.world.pauses.get(), 1);
        assert_equal(&mut a, &mut b);
        assert_eq!(b.dump("log"), ["'2'"]);
        assert_eq!(guards(&b).len(), if is_own { GUARDS } else { 0 });
        assert_eq!(b.replica.fold().unwrap().rows, 0);
    }
}

#[test]
fn a_table_that_was_renamed_is_guarded_by_its_new_name() {
    let (mut a, mut b) = pair(TRAIL);
    a.run("INSERT INTO items VALUES('1', 1)");
    sync_by_payload(&mut a, &mut b);
    for begin in ["SELECT 1", "BEGIN"] {
        let name = format!("trail_{}", begin.len());
        let rename = format!("ALTER TABLE trail RENAME TO {name}");
        a.run(&rename);
        let payload = next(&mut a, begin);
        b.run(&rename);
        b.run(begin);
        b.apply(&payload).unwrap();
        b.run(if begin == "BEGIN" { "COMMIT" } else { begin });
        assert_same(&mut a, &mut b, &name);
        for device in [&a, &b] {
            device.run(&format!("ALTER TABLE {name} RENAME TO trail"));
        }
        assert_equal(&mut a, &mut b);
    }
}

#[test]
fn guards_of_a_table_that_another_connection_renamed_are_not_in_the_way_of_its_name() {
    let folder = Folder::new();
    let mut a = Device::new(1, TRAIL);
    let mut b = own(&folder.file("b.db"));
    let app = rusqlite::Connection::open(folder.file("b.db")).unwrap();
    b.apply(&next(&mut a, "1")).unwrap();
    let rename = "ALTER TABLE trail RENAME TO path";
    a.run(rename);
    app.execute_batch(rename).unwrap();
    b.apply(&next(&mut a, "2")).unwrap();
    assert_eq!(guards(&b).len(), GUARDS);
    // SQLite would read two triggers of one name.
    app.execute_batch("CREATE TABLE trail(other PRIMARY KEY)").unwrap();
    b.apply(&next(&mut a, "3")).unwrap();
    b.run("INSERT INTO trail VALUES(1)");
    assert_same(&mut a, &mut b, "items");
    assert_same(&mut a, &mut b, "path");
    // Nor do they come back with it.
    app.execute_batch("DROP TABLE path; DROP TRIGGER came").unwrap();
    b.apply(&next(&mut a, "4")).unwrap();
    assert!(guards(&b).is_empty());
}
