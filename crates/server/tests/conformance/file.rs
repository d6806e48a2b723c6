//! What only a store in a SQLite file does: it keeps constraints, shares the file with other programs, and lasts.

use crate::device::{BODY, Device, TITLE, assert_converged, column, key, notes, snapshot};
use crate::subject::{ADMIN, NOW, READER, Sqlite, Subject as _, ask, ask_as};
use cloudsync_protocol::limits::STAGED_MS_MAX;
use cloudsync_protocol::message::{Reason, Request, Upload};
use cloudsync_protocol::schema::TableSchema;
use cloudsync_server::store::StoreError;
use cloudsync_server::store::sqlite::{enable_table, list_tables};

#[test]
fn idle_turns_write_nothing() {
    let store = Sqlite::new();
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(&store);
    b.sync(&store);
    a.sync(&store);
    let shell = store.shell();
    let state = || {
        let size = |suffix: &str| {
            let path = format!("{}{suffix}", store.path.display());
            std::fs::metadata(path).map_or(0, |file| file.len())
        };
        let version: i64 = shell.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
        (version, size(""), size("-wal"))
    };
    let before = state();
    for _ in 0..3 {
        for device in [&mut a, &mut b] {
            assert_eq!(device.sync(&store).rows, 0);
            ask(store.store(), &device.introduction()).took();
            ask(store.store(), &Request { nonce: 9, epoch: 1, ..device.request() }).refused(Reason::Restored);
            ask(store.store(), &Request { fingerprint: 1, ..device.request() }).refused(Reason::NeedSchema);
            ask(store.store(), &Request { now: 0, ..device.request() }).refused(Reason::ClockSkew);
        }
        ask_as(store.store(), &Device::new(7).request(), READER).took();
    }
    assert_eq!(state(), before);
}

#[test]
fn what_other_programs_write_reaches_devices_at_their_next_turn() {
    let store = Sqlite::new();
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    for id in ["stays", "edited", "deleted"] {
        a.insert(id, "title", "body");
    }
    a.sync(&store);
    b.sync(&store);
    let shell = store.shell();
    shell
        .execute_batch(
            "INSERT INTO notes VALUES('new', 'from', 'the shell');
             UPDATE notes SET title = 'by the shell' WHERE id = 'edited';
             DELETE FROM notes WHERE id = 'deleted';",
        )
        .unwrap();
    assert_eq!(a.sync(&store).rows, 3);
    assert_eq!((a.text("new", BODY), a.text("edited", TITLE)), ("the shell".into(), "by the shell".into()));
    assert!(!a.is_alive("deleted"));
    // A turn that uploads sees it as well.
    shell.execute_batch("UPDATE notes SET body = 'again' WHERE id = 'new'").unwrap();
    b.update("stays", TITLE, "by b");
    b.sync(&store);
    assert_eq!(b.text("new", BODY), "again");
    b.update("new", BODY, "by b");
    assert_converged(&store, &mut [&mut a, &mut b]);
    let body: String =
        shell.query_row("SELECT body FROM notes WHERE id = 'new'", [], |row| row.get(0)).unwrap();
    assert_eq!(body, "by b");
}

#[test]
fn a_reopened_store_has_everything() {
    let store = Sqlite::new();
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(&store);
    let staged = {
        b.insert("l", "title", "body");
        b.take_payload()
    };
    let round = b.new_round();
    b.sync(&store);
    let upload = Upload { round, chunk: 0, is_final: false, continues: false, base: 0, payload: &staged };
    ask(store.store(), &Request { upload: Some(upload), ..b.request() }).took();
    a.update("k", TITLE, "answer lost");
    let lost = ask(store.store(), &a.round()).took();
    let before = snapshot(&store);
    let store = store.reopen();
    assert_eq!(snapshot(&store), before);
    assert_eq!(ask(store.store(), &a.round()).took().upload(), lost.upload());
    ask(store.store(), &Request { nonce: 0, ..a.request() }).refused(Reason::Clone);
    a.absorb(&lost);
    assert_eq!((a.sync(&store).rows, a.nonce), (0, 2));
    let upload = Upload { round, chunk: 1, is_final: true, continues: false, base: 0, payload: &[] };
    b.absorb(&ask(store.store(), &Request { upload: Some(upload), ..b.request() }).took());
    assert_converged(&store, &mut [&mut a, &mut b]);
    assert!(a.is_alive("l"));
}

#[test]
fn a_version_that_was_never_given_is_no_cursor_though_later_ones_were() {
    let store = Sqlite::new();
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(&store);
    b.sync(&store);
    let lost = Request { cursor: b.cursor - 1, ..b.request() };
    let epoch = ask(store.store(), &lost).refused(Reason::Restored).epoch;
    assert!(epoch > b.epoch);
    // A place in the list of changes that the list has not reached.
    let position = [2, 0x7f, 0, 0];
    let lost = Request { epoch, cursor: 0, position: &position, ..b.request() };
    assert!(ask(store.store(), &lost).refused(Reason::Restored).epoch > epoch);
}

#[test]
fn abandoned_rounds_are_forgotten_and_others_are_not() {
    let store = Sqlite::new();
    let mut devices: Vec<_> = (1..=3).map(Device::new).collect();
    let chunk = Device::new(9).payload();
    let mut rounds = Vec::new();
    for device in &mut devices {
        device.sync(&store);
        let round = device.new_round();
        let upload = Upload { round, chunk: 0, is_final: false, continues: false, base: 0, payload: &chunk };
        ask(store.store(), &Request { upload: Some(upload), ..device.request() }).took();
        rounds.push(round);
    }
    let age = |store: &Sqlite, site: u8, ms: u64| {
        let sql = "UPDATE cloudsync_server_staging SET staged_at = staged_at - ?1 WHERE hex(site_id) LIKE ?2";
        store.shell().execute(sql, (ms as i64, format!("0{site}%"))).unwrap();
    };
    let staged = |store: &Sqlite| -> Vec<u8> {
        let shell = store.shell();
        let mut select = shell.prepare("SELECT site_id FROM cloudsync_server_staging ORDER BY 1").unwrap();
        let sites = select.query_map([], |row| Ok(row.get::<_, Vec<u8>>(0)?[0])).unwrap();
        sites.map(Result::unwrap).collect()
    };
    age(&store, 1, STAGED_MS_MAX + 1);
    age(&store, 2, STAGED_MS_MAX - 1);
    let mut other = Device::new(4);
    other.insert("k", "title", "body");
    other.sync(&store);
    assert_eq!(staged(&store), [2, 3]);
    let upload =
        Upload { round: rounds[0], chunk: 1, is_final: true, continues: false, base: 0, payload: &[] };
    ask(store.store(), &Request { upload: Some(upload), ..devices[0].request() }).refused(Reason::LostChunks);
}

#[test]
fn a_table_with_rows_is_taken_over_and_the_devices_edit_wins() {
    let store = Sqlite::new();
    let shell = store.shell();
    shell
        .execute_batch(
            "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
             INSERT INTO notes VALUES('k', 'was here', 'before'), ('l', 'was here', 'before');",
        )
        .unwrap();
    let mut a = Device::new(1);
    ask_as(store.store(), &a.introduction(), READER).refused(Reason::Denied);
    a.insert("k", "by a", "today");
    let shown = a.show()[&key("k")].clone();
    assert_eq!(a.sync(&store).rows, 1);
    assert_eq!(a.show()[&key("k")], shown, "rows without a history count as older than any edit");
    assert_eq!(a.text("l", TITLE), "was here");
    assert_converged(&store, &mut [&mut a]);
    let title: String =
        shell.query_row("SELECT title FROM notes WHERE id = 'k'", [], |row| row.get(0)).unwrap();
    assert_eq!(title, "by a");
}

#[test]
fn a_locked_file_is_busy_and_loses_nothing() {
    let store = Sqlite::new();
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(&store);
    let shell = store.shell();
    shell.execute_batch("INSERT INTO cloudsync_settings VALUES('busy_ms', 20); BEGIN IMMEDIATE").unwrap();
    a.update("k", TITLE, "waits");
    let error = store.store().turn(&a.round(), &ADMIN.into(), NOW).unwrap_err();
    assert!(matches!(error, StoreError::Busy(_)), "{error}");
    // Who only reads is not held up.
    ask(store.store(), &a.request()).took();
    shell.execute_batch("ROLLBACK").unwrap();
    assert_converged(&store, &mut [&mut a]);
    assert_eq!((a.text("k", TITLE), a.nonce), ("waits".into(), 2));
}

#[test]
fn tables_are_switched_on_beside_a_running_store() {
    let store = Sqlite::new();
    store
        .shell()
        .execute_batch("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)")
        .unwrap();
    let mut a = Device::new(1);
    assert!(list_tables(&store.path).unwrap().is_empty());
    enable_table(&store.path, "notes", "cls").unwrap();
    assert_eq!(list_tables(&store.path).unwrap()[0].name, "notes");
    a.absorb(&ask_as(store.store(), &a.introduction(), READER).took());
    a.insert("k", "title", "body");
    a.sync(&store);
    store.disable("notes");
    ask(store.store(), &a.introduction()).refused(Reason::Denied);
    a.update("k", TITLE, "meanwhile");
    enable_table(&store.path, "notes", "cls").unwrap();
    assert_converged(&store, &mut [&mut a]);
    assert!(enable_table(&store.path, "absent", "cls").is_err());
}

#[test]
fn a_table_that_sqlite_does_not_take_is_the_devices_to_change() {
    let store = Sqlite::new();
    store.shell().execute_batch("CREATE VIEW a_view AS SELECT 1 AS id").unwrap();
    let named = |name: &str| TableSchema { name: name.into(), ..notes() };
    let with = |change: fn(&mut TableSchema)| {
        let mut table = notes();
        change(&mut table);
        table
    };
    let wrong = [
        named("sqlite_notes"),
        named("cloudsync_notes"),
        named("a_view"),
        with(|table| table.columns.push(column("title", "TEXT", 0))),
        with(|table| table.columns[0].key_place = 0),
        with(|table| table.uniques = vec![vec!["absent".into()]]),
        with(|table| table.uniques = vec![Vec::new()]),
        with(|table| (table.strict, table.columns[1].declared_type) = (true, "VARCHAR(9)".into())),
        with(|table| table.columns[1].collation = "GERMAN".into()),
        with(|table| table.columns[1].declared_type = "TEXT); DROP TABLE x; --".into()),
        with(|table| table.algorithm = "unknown".into()),
        with(|table| table.columns.truncate(0)),
    ];
    for table in wrong {
        let mut device = Device::new(1);
        device.schema.tables = vec![table.clone()];
        let refusal = ask_as(store.store(), &device.introduction(), ADMIN).refused(Reason::SchemaConflict);
        assert!(!refusal.text.is_empty(), "{table:?}");
    }
    let tables = "SELECT count(*) FROM sqlite_master WHERE name LIKE '%notes%'";
    assert_eq!(store.shell().query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn a_cursor_of_before_the_horizon_gets_everything_since() {
    let store = Sqlite::new();
    let (mut a, mut b, mut c) = (Device::new(1), Device::new(2), Device::new(3));
    a.insert("k", "title", "body");
    a.insert("gone", "title", "body");
    a.sync(&store);
    for device in [&mut b, &mut c] {
        device.sync(&store);
    }
    store
        .shell()
        .execute_batch(
            "INSERT INTO cloudsync_settings VALUES('history_ms', 1), ('compaction_entries_min', 4)",
        )
        .unwrap();
    let entries = || -> i64 {
        store.shell().query_row("SELECT count(*) FROM cloudsync_entries", [], |row| row.get(0)).unwrap()
    };
    for number in 0..40 {
        let (device, column) = if number % 2 == 0 { (&mut a, TITLE) } else { (&mut b, BODY) };
        device.update("k", column, &format!("number {number}"));
        if number == 7 {
            device.delete("gone");
        }
        device.sync(&store);
    }
    assert!(entries() < 15, "{} entries", entries());
    let epoch = c.epoch;
    c.sync(&store);
    assert_eq!(c.epoch, epoch, "no restored server");
    assert_eq!((c.text("k", TITLE), c.text("k", BODY)), ("number 38".into(), "number 39".into()));
    assert!(!c.is_alive("gone"));
    assert_converged(&store, &mut [&mut a, &mut b, &mut c]);
}
