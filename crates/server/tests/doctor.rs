//! What the doctor says of folders and files, and what he mends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use std::path::Path;

use program::Place;
use rusqlite::Connection;
use serde_json::Value;

/// The codes of what is wrong, and the exit code.
fn found(place: &Place, arguments: &[&str]) -> (Vec<String>, Option<i32>, Value) {
    let output = place.command([&["doctor", "--json"], arguments].concat()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let codes = findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned());
    (codes.collect(), output.status.code(), report)
}

fn database() -> (Place, String) {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let path = place.run(&["db", "path", "d"]).trim_end().to_owned();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v, u UNIQUE); CREATE TABLE plain (a);
             INSERT INTO t (id, v) VALUES ('1', 'a'), ('2', 'b'), ('3', 'c')",
        )
        .unwrap();
    place.run(&["table", "enable", "d", "t"]);
    (place, path)
}

/// Takes what was noted as a server does that runs.
fn fold(place: &Place, path: &str) {
    let key = place.run(&["key", "create"]);
    let server = place.serve(&[]);
    let _listening = server.listen("d", key.trim_end());
    let connection = Connection::open(path).unwrap();
    let notes = || -> i64 {
        connection.query_row("SELECT count(*) FROM cloudsync_log", [], |row| row.get(0)).unwrap()
    };
    while notes() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_healthy_folder_and_its_files_have_nothing_wrong() {
    let (place, path) = database();
    assert_eq!(found(&place, &[]).1, Some(0));
    let (codes, exit, report) = found(&place, &[&path]);
    assert_eq!((codes.as_slice(), exit), (&[][..], Some(0)), "{report}");
    assert!(report["facts"][&path]["bytes"].as_u64().unwrap() > 0);
    let _server = place.serve(&[]);
    let (_, exit, report) = found(&place, &[]);
    assert_eq!((exit, &report["facts"]["folder"]["server_runs"]), (Some(0), &Value::Bool(true)), "{report}");
    let nothing = place.fail(&["doctor", "none"]);
    assert!(nothing.contains("neither a data folder nor a database file"), "{nothing}");
    assert!(
        place.fail(&["doctor", place.data.join("databases").to_str().unwrap()]).contains("no data folder")
    );
}

#[test]
fn triggers_that_are_gone_or_broken_are_found_and_mended() {
    let (place, path) = database();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("DROP TRIGGER cloudsync_insert_t").unwrap();
    let version = || -> i64 { connection.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap() };
    let before = version();
    assert_eq!(found(&place, &[&path]).0, ["triggers"]);
    assert!(version() == before, "looking changes nothing");
    assert_eq!(found(&place, &["--fix", &path]).1, Some(0));
    assert_eq!(found(&place, &[&path]).1, Some(0));
    // What SQLite lets happen to a column that a trigger names.
    connection
        .execute_batch(
            "PRAGMA legacy_alter_table = on; DROP INDEX IF EXISTS none; ALTER TABLE t DROP COLUMN v",
        )
        .unwrap();
    assert!(connection.execute_batch("UPDATE t SET u = 7").is_err());
    assert!(found(&place, &[&path]).0.contains(&"triggers".to_owned()));
    let fixed = found(&place, &["--fix", &path]).2;
    assert_eq!(fixed["fixed"].as_array().unwrap().len(), 1, "{fixed}");
    // A connection that knows the old triggers notices only at its next look at the schema.
    Connection::open(&path).unwrap().execute_batch("UPDATE t SET u = id").unwrap();
}

#[test]
fn rows_and_clocks_that_do_not_belong_together_are_found() {
    let (place, path) = database();
    fold(&place, &path);
    assert_eq!(found(&place, &[&path]).1, Some(0));
    let connection = Connection::open(&path).unwrap();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    connection.execute_batch("DELETE FROM t WHERE id = '2'; INSERT INTO t (id) VALUES ('9')").unwrap();
    let (codes, exit, report) = found(&place, &[&path]);
    assert_eq!(
        (codes.as_slice(), exit),
        (&["rows_missing".to_owned(), "rows_unknown".to_owned()][..], Some(1))
    );
    assert!(report["findings"][0]["text"].as_str().unwrap().contains(", 1 row is"), "{report}");
}

#[test]
fn what_is_wrong_with_a_folder() {
    let (place, path) = database();
    place.run(&["db", "create", "lost"]);
    place.run(&["db", "create", "idle"]);
    place.run(&["db", "pause", "idle"]);
    std::fs::remove_file(place.data.join("databases/lost.db")).unwrap();
    std::fs::copy(&path, place.data.join("databases/stranger.db")).unwrap();
    std::fs::write(place.data.join("cloudsync.toml"), "adr = 1").unwrap();
    std::fs::write(place.data.join("dev-key"), "csk_").unwrap();
    std::fs::write(place.data.join("control.db.before-restore"), "").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&place.data, open).unwrap();
    }
    let (codes, exit, report) = found(&place, &[]);
    assert_eq!(exit, Some(1));
    assert_helpful(&report);
    for code in [
        "file_missing",
        "paused",
        "stranger",
        "before_restore",
        "config",
        #[cfg(unix)]
        "rights",
    ] {
        assert!(codes.iter().any(|found| found == code), "{code}: {codes:?}");
    }
    let text = place.command(["doctor"]).output().unwrap();
    let text = program::text(&text.stdout);
    assert!(text.contains("did you mean addr?") && text.starts_with("error: "), "{text}");
}

#[test]
fn damage_and_what_is_no_database() {
    let (place, path) = database();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA foreign_keys = OFF; CREATE TABLE child(id INTEGER PRIMARY KEY, of BLOB REFERENCES plain(a));
             INSERT INTO plain SELECT randomblob(900) FROM t, t, t, t, t; PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .unwrap();
    drop(connection);
    damage(Path::new(&path));
    let (codes, _, report) = found(&place, &[&path]);
    assert!(codes.contains(&"damaged".to_owned()) && !codes.contains(&"foreign_keys".to_owned()), "{report}");
    assert!(report.to_string().contains("a device may also begin with a new file"), "{report}");
    assert!(!found(&place, &["--quick", &path]).0.contains(&"damaged".to_owned()));
    let rubbish = place.data.join("rubbish");
    std::fs::write(&rubbish, vec![7; 5000]).unwrap();
    assert_eq!(found(&place, &[rubbish.to_str().unwrap()]).0, ["cannot_open"]);
}

/// Each finding says what is so; and what to do, or the text does.
fn assert_helpful(report: &Value) {
    for finding in report["findings"].as_array().unwrap() {
        let words = |part: &str| finding[part].as_str().unwrap().split_whitespace().count();
        assert!(words("subject") > 0 && words("text") > 2, "{finding}");
        assert!(words("remedy") > 1 || finding["text"].as_str().unwrap().contains(": "), "{finding}");
    }
}

#[test]
fn damaged_internals_are_found_one_by_one() {
    let (place, path) = database();
    fold(&place, &path);
    let whole = Connection::open(&path).unwrap();
    whole.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let copy = place.data.join("a device's.db");
    let copy = copy.to_str().unwrap();
    for (damage, code, told) in [
        ("DROP TABLE cloudsync_clocks", "internals", "cloudsync_clocks is missing"),
        ("DROP TABLE cloudsync_settings", "internals", "cloudsync_settings is missing"),
        (
            "DROP TABLE cloudsync_log; DROP TABLE cloudsync_entries",
            "internals",
            "cloudsync_log, cloudsync_entries",
        ),
        (
            "UPDATE cloudsync_clocks SET clock = x'ff' WHERE rowid_is(1)",
            "internals",
            "1 clocks cannot be read",
        ),
        ("DELETE FROM cloudsync_sites", "internals", "site id is missing"),
        ("UPDATE cloudsync_sites SET site_id = x'00'", "internals", "not 16 bytes"),
        ("DELETE FROM cloudsync_settings", "internals", "format"),
        ("UPDATE cloudsync_settings SET value = 'x' WHERE key = 'format'", "internals", "format"),
        ("UPDATE cloudsync_settings SET value = 0 WHERE key = 'format'", "internals", "format"),
        ("UPDATE cloudsync_settings SET value = 99 WHERE key = 'format'", "cannot_read", "update cloudsync"),
        ("UPDATE cloudsync_entries SET keys = x'ffff'", "internals", "entries in the list of changes"),
        ("DELETE FROM cloudsync_versions", "internals", "version that is not known"),
        ("DELETE FROM cloudsync_columns", "internals", "the columns of a table"),
        ("DELETE FROM cloudsync_layouts", "internals", "the columns of a table"),
        ("DELETE FROM cloudsync_tables", "internals", "3 clocks"),
        ("DROP TABLE t", "table_gone", "is not there"),
    ] {
        std::fs::copy(&path, copy).unwrap();
        let connection = Connection::open(copy).unwrap();
        let damage = damage.replace("rowid_is(1)", "pk = (SELECT min(pk) FROM cloudsync_clocks)");
        connection.execute_batch(&damage).unwrap();
        drop(connection);
        let (codes, exit, report) = found(&place, &[copy]);
        assert!(codes.iter().any(|found| found == code), "{damage}: {report}");
        assert!(report.to_string().contains(told), "{damage}: {report}");
        assert_eq!(exit, Some(i32::from(code != "table_gone")), "{damage}: {report}");
        assert_helpful(&report);
    }
}

#[test]
fn an_older_register_is_left_as_it_is_and_what_is_none_is_told() {
    let (place, _) = database();
    let control = place.data.join("control.db");
    let format = |format: i64| {
        let connection = Connection::open(&control).unwrap();
        connection.pragma_update(None, "user_version", format).unwrap();
    };
    format(2);
    let (codes, exit, report) = found(&place, &[]);
    assert_eq!((codes.as_slice(), exit), (&["older_format".to_owned()][..], Some(0)), "{report}");
    assert_helpful(&report);
    assert!(report["facts"]["d"]["bytes"].as_u64().unwrap() > 0, "its databases are looked at: {report}");
    let connection = Connection::open(&control).unwrap();
    let found_format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(found_format, 2);
    drop(connection);
    format(99);
    let (codes, exit, report) = found(&place, &[]);
    assert_eq!((codes.as_slice(), exit), (&["control".to_owned()][..], Some(1)), "{report}");
    assert!(report.to_string().contains("use a newer cloudsync"), "{report}");
    assert_helpful(&report);
    std::fs::write(&control, vec![7; 8192]).unwrap();
    let (codes, exit, report) = found(&place, &[]);
    assert!(codes.contains(&"control".to_owned()) && codes.contains(&"cannot_open".to_owned()), "{report}");
    assert_eq!(exit, Some(1));
    assert_helpful(&report);
}

/// Overwrites the head of the last page.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 4096;
    bytes[last..last + 64].fill(0x5a);
    std::fs::write(path, bytes).unwrap();
}
