//! The SQL functions as a host calls them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync::functions::{Availability, FUNCTIONS};
use host::{TABLE, close, code, error, memory, open, rows, show, try_show, walkthrough};
use rusqlite::ffi;

/// Arguments of every kind that no function may fall over.
const ODD: &[&str] = &[
    "NULL",
    "''",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "1.5",
    "9e999",
    "x''",
    "x'00'",
    "x'ff00ff'",
    "zeroblob(100000)",
    "'*'",
    "'my_data'",
    "'no such table'",
    "'a' || char(0) || 'b'",
    "CAST(x'ff' AS TEXT)",
    "char(34)",
    "'''; DROP TABLE my_data; --'",
];

/// To `cloudsync_payload_save` a text is a path, and it would write files into the folder that the test runs in.
fn is_harmless(db: &rusqlite::Connection, name: &str, argument: &str) -> bool {
    name != "cloudsync_payload_save" || show(db, &format!("SELECT typeof({argument})")) != "text"
}

#[test]
fn no_call_takes_the_host_down() {
    let folder = tempfile::tempdir().unwrap();
    for synced in [false, true] {
        let db = open(&folder.path().join(format!("{synced}.db")));
        if synced {
            let _ = walkthrough(open(&folder.path().join("true.db")));
        }
        for function in FUNCTIONS {
            let name = function.name;
            let _ = try_show(&db, &format!("SELECT {name}()"));
            let _ = try_show(&db, &format!("SELECT count(*) FROM {name}"));
            for one in ODD.iter().filter(|argument| is_harmless(&db, name, argument)) {
                let _ = try_show(&db, &format!("SELECT {name}({one})"));
                let _ = try_show(&db, &format!("SELECT * FROM {name}({one})"));
                for two in ODD {
                    let _ = try_show(&db, &format!("SELECT {name}({one}, {two})"));
                    let _ = try_show(&db, &format!("SELECT {name}({one}, {two}, NULL)"));
                }
            }
            let many = vec!["1"; 100].join(", ");
            let _ = try_show(&db, &format!("SELECT {name}({many})"));
        }
        assert_eq!(show(&db, "PRAGMA integrity_check"), "ok");
        close(db);
    }
}

#[test]
fn wrong_numbers_of_arguments_name_the_right_ones() {
    let db = memory();
    for function in FUNCTIONS {
        let name = function.name;
        if matches!(function.availability, Availability::Table(_)) {
            let text = error(&db, &format!("SELECT {name}(1)"));
            assert!(text.contains(&format!("{name}: it is read as a table: {}", function.example)), "{text}");
            continue;
        }
        for given in 0..5 {
            let arguments = vec!["NULL"; given].join(", ");
            let outcome = try_show(&db, &format!("SELECT {name}({arguments})"));
            let text = outcome.map_or_else(|error| error.to_string(), |_| String::new());
            assert_eq!(
                text.contains(": takes "),
                !function.arity().contains(&given),
                "{name} {given}: {text}"
            );
            if text.contains(": takes ") {
                assert!(text.contains(&function.signature()), "{text}");
            }
        }
    }
    let text = error(&db, "SELECT cloudsync_init()");
    assert!(
        text.contains(
            "cloudsync_init: takes 1 to 3 arguments, not 0: cloudsync_init(table [, algorithm [, flags]])"
        ),
        "{text}"
    );
}

#[test]
fn null_and_wrong_types_name_the_argument() {
    let db = walkthrough(memory());
    for function in FUNCTIONS {
        if !matches!(function.availability, Availability::Now(_)) {
            continue;
        }
        let names: Vec<_> = function.required.iter().chain(function.optional).collect();
        for given in 1..=names.len() {
            if given < function.required.len() {
                continue;
            }
            let arguments = vec!["NULL"; given].join(", ");
            let text = error(&db, &format!("SELECT {}({arguments})", function.name));
            let wanted = format!("{}: argument 1 ({}) must be ", function.name, names[0]);
            assert!(text.contains(&wanted) && text.contains(", not NULL"), "{text}");
        }
    }
    for (call, part) in [
        ("cloudsync_init(7)", "argument 1 (table) must be the name of a table, or '*', as text, not integer"),
        ("cloudsync_init('my_data', x'00')", "argument 2 (algorithm) must be 'cls'"),
        ("cloudsync_init('my_data', 'cls', '1')", "argument 3 (flags) must be"),
        ("cloudsync_init('my_data', 'nonsense')", "nonsense"),
        ("cloudsync_init('nowhere')", "nowhere"),
        ("cloudsync_init('my' || char(0))", "without NUL characters"),
        ("cloudsync_init(CAST(x'ff' AS TEXT))", "not text that is not UTF-8"),
        ("cloudsync_set('busy_ms', NULL)", "argument 2 (value) must be the new value, not NULL"),
        ("cloudsync_set('nonsense', 1)", "nonsense"),
        ("cloudsync_get('nonsense')", "nonsense"),
        ("cloudsync_pk_decode('a', 0)", "argument 1 (pk) must be a key as BLOB"),
        ("cloudsync_pk_decode(x'ffff', -1)", "argument 2 (index) must be an integer from 0 to"),
        ("cloudsync_payload_encode(-1)", "argument 1 (since_version) must be an integer from 0, not integer"),
        ("cloudsync_payload_encode(0, x'00')", "argument 2 (site) must be a site id"),
        ("cloudsync_payload_encode(0, 'xyz')", "argument 2 (site) must be a site id"),
        ("cloudsync_payload_apply('text')", "argument 1 (payload) must be a payload as BLOB, not text"),
        ("cloudsync_payload_apply(x'0102')", "cloudsync_payload_apply: "),
        ("cloudsync_network_sync('a')", "argument 1 (wait_ms) must be an integer from 0 to"),
        ("cloudsync_network_sync(1, -1)", "argument 2 (max_retries) must be an integer from 0 to"),
    ] {
        let text = error(&db, &format!("SELECT {call}"));
        assert!(text.contains(part), "{call}: {text}");
    }
}

#[test]
fn result_codes_follow_the_kind_of_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let db = walkthrough(open(&path));
    assert_eq!(code(&db, "SELECT cloudsync_init('nowhere')"), ffi::SQLITE_ERROR);
    assert_eq!(show(&db, "SELECT cloudsync_set('busy_ms', 1)"), "NULL");
    let other = open(&path);
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(code(&other, "SELECT cloudsync_disable('my_data')"), ffi::SQLITE_BUSY);
    assert!(error(&other, "SELECT cloudsync_disable('my_data')").contains("database is busy"));
    db.execute_batch("ROLLBACK").unwrap();
    let only_read =
        rusqlite::Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert_eq!(show(&only_read, "SELECT cloudsync_is_enabled('my_data')"), "1");
    assert_eq!(show(&only_read, "SELECT cloudsync_siteid() IS NOT NULL"), "1");
    assert!(show(&only_read, "SELECT cloudsync_status()").contains("my_data"));
    let text = error(&only_read, "SELECT cloudsync_disable('my_data')");
    assert!(text.contains("read-only"), "{text}");
}

#[test]
fn the_local_part_of_the_walkthrough() {
    let db = memory();
    db.execute_batch(TABLE).unwrap();
    let site = show(&db, "SELECT cloudsync_init('my_data')");
    assert_eq!(show(&db, "SELECT cloudsync_init('my_data')"), site, "again it changes nothing");
    assert_eq!(show(&db, "SELECT cloudsync_siteid()"), site);
    assert_eq!(show(&db, "SELECT typeof(cloudsync_siteid()) || length(cloudsync_siteid())"), "blob16");
    db.execute_batch(
        "INSERT INTO my_data (id, value) VALUES (cloudsync_uuid(), 'Hello from device A!'),
                                                (cloudsync_uuid(), 'Working offline is seamless!');
         UPDATE my_data SET value = 'Updated: Hello from device A!' WHERE value LIKE 'Hello from device A!';",
    )
    .unwrap();
    assert_eq!(show(&db, "SELECT cloudsync_network_has_unsent_changes()"), "1");
    assert_eq!(show(&db, "SELECT length(min(id)) FROM my_data"), "36");
    assert_eq!(show(&db, "SELECT cloudsync_is_enabled('my_data')"), "1");
    assert_eq!(show(&db, "SELECT cloudsync_disable('my_data')"), "0");
    assert_eq!(show(&db, "SELECT cloudsync_is_enabled('my_data')"), "0");
    assert_eq!(show(&db, "SELECT cloudsync_enable('my_data')"), "1");
    assert_eq!(show(&db, "SELECT cloudsync_set('busy_ms', 250)"), "NULL");
    assert_eq!(show(&db, "SELECT cloudsync_get('busy_ms')"), "250");
    assert_eq!(show(&db, "SELECT cloudsync_version()"), env!("CARGO_PKG_VERSION"));
    assert_eq!(show(&db, "SELECT typeof(cloudsync_db_version())"), "integer");
    let status = show(&db, "SELECT cloudsync_status()");
    assert_eq!(
        show(&db, "SELECT json_extract(cloudsync_status(), '$.tables[0].name')"),
        "my_data",
        "{status}"
    );
    assert_eq!(show(&db, "SELECT json_extract(cloudsync_network_status(), '$.note')"), "no sync yet");
    assert!(error(&db, "SELECT cloudsync_network_sync()").contains("cloudsync_network_init"));
    assert_eq!(show(&db, "SELECT cloudsync_terminate()"), "NULL");
    assert_eq!(show(&db, "SELECT cloudsync_cleanup('my_data')"), "NULL");
    assert_eq!(show(&db, "SELECT count(*) FROM my_data"), "2");
    close(db);
}

#[test]
fn uuids_grow_also_in_defaults_of_untrusted_schemas() {
    let db = memory();
    db.execute_batch(
        "PRAGMA trusted_schema = OFF;
         CREATE TABLE t(n INTEGER PRIMARY KEY, id TEXT DEFAULT (cloudsync_uuid()));
         WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 5000)
         INSERT INTO t(n) SELECT i FROM c;",
    )
    .unwrap();
    assert_eq!(show(&db, "SELECT count(DISTINCT id) FROM t"), "5000");
    let sorted =
        "SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM t) WHERE id <= before";
    assert_eq!(show(&db, sorted), "0");
    // What writes is out of a schema's reach.
    db.execute_batch("CREATE VIEW v AS SELECT cloudsync_cleanup('*')").unwrap();
    assert!(error(&db, "SELECT * FROM v").contains("unsafe use"));
}

#[test]
fn payloads_make_databases_equal() {
    let folder = tempfile::tempdir().unwrap();
    let a = walkthrough(open(&folder.path().join("a.db")));
    let b = walkthrough(memory());
    a.execute_batch("INSERT INTO my_data VALUES ('1', 'one', 'x'), ('2', 'two', 'y'), ('3', 'three', NULL)")
        .unwrap();
    b.execute_batch("INSERT INTO my_data VALUES ('4', 'four', 'z')").unwrap();
    let exchange = || {
        for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
            let payload: Vec<u8> =
                from.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap();
            to.query_row("SELECT cloudsync_payload_apply(?1)", [payload], |row| row.get::<_, i64>(0))
                .unwrap();
        }
        assert_eq!(rows(&a), rows(&b));
    };
    exchange();
    assert_eq!(show(&b, "SELECT count(*) FROM my_data"), "4");
    a.execute_batch("UPDATE my_data SET value = 'uno' WHERE id = '1'; DELETE FROM my_data WHERE id = '2'")
        .unwrap();
    b.execute_batch("UPDATE my_data SET created_at = 'later' WHERE id = '1'").unwrap();
    exchange();
    assert_eq!(show(&b, "SELECT value || created_at FROM my_data WHERE id = '1'"), "unolater");
    assert_eq!(show(&a, "SELECT count(*) FROM my_data"), "3");
    let nothing = "SELECT cloudsync_payload_apply(cloudsync_payload_encode())";
    assert_eq!(show(&a, nothing), "0");
    let empty = walkthrough(memory());
    assert_eq!(show(&empty, nothing), "0", "what has nothing to say says so");
    let site = show(&a, "SELECT hex(cloudsync_siteid())");
    for site in [format!("x'{site}'"), format!("'{site}'")] {
        assert!(
            show(&a, &format!("SELECT length(cloudsync_payload_encode(0, {site}))")).parse::<u32>().unwrap()
                > 0
        );
    }
    close(a);
    close(b);
}

#[test]
fn payloads_travel_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let a = walkthrough(open(folder.path().join("a.db").as_path()));
    a.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO my_data VALUES ('1', 'one', 'x')").unwrap();
    let b = walkthrough(memory());
    let file = path("changes.bin");
    std::fs::write(&file, "old").unwrap();
    let bytes = show(&a, &format!("SELECT cloudsync_payload_save('{file}')"));
    assert_eq!(bytes, std::fs::metadata(&file).unwrap().len().to_string());
    assert_eq!(show(&b, &format!("SELECT cloudsync_payload_load('{file}')")), "1");
    assert_eq!(rows(&a), rows(&b));
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_str().unwrap().ends_with(".part")), "{names:?}");
    for name in ["a.db", "a.db-wal", "./a.db", "../no such folder/x", "", "nothing/"] {
        for call in ["save", "load"] {
            let text = error(&a, &format!("SELECT cloudsync_payload_{call}('{}')", path(name)));
            assert!(text.contains("file") || text.contains("folder"), "{text}");
        }
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(path("a.db"), path("link")).unwrap();
    #[cfg(unix)]
    assert!(
        error(&a, &format!("SELECT cloudsync_payload_load('{}')", path("link"))).contains("belongs to this")
    );
    // Damage is seen, and nothing is applied.
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let fresh = walkthrough(memory());
    assert!(error(&fresh, &format!("SELECT cloudsync_payload_load('{file}')")).contains("payload"));
    assert_eq!(rows(&fresh), "");
    assert_eq!(show(&a, "PRAGMA integrity_check"), "ok");
}

#[test]
fn what_must_see_committed_changes_refuses_transactions() {
    let db = walkthrough(memory());
    show(&db, "SELECT cloudsync_network_init('cloudsync://127.0.0.1:1/db')");
    let calls = [
        "cloudsync_payload_encode()",
        "cloudsync_payload_save('never-written')",
        "cloudsync_network_sync()",
        "cloudsync_network_send_changes()",
        "cloudsync_network_check_changes()",
    ];
    for call in calls {
        db.execute_batch("BEGIN; INSERT INTO my_data(id) VALUES ('1')").unwrap();
        assert!(error(&db, &format!("SELECT {call}")).contains("commit first"), "{call}");
        db.execute_batch("ROLLBACK").unwrap();
        let error =
            db.execute(&format!("INSERT INTO my_data(id) SELECT {call}"), []).unwrap_err().to_string();
        assert!(error.contains("commit first"), "{call}: {error}");
    }
    db.execute_batch("BEGIN").unwrap();
    db.execute_batch("CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL)").unwrap();
    show(&db, "SELECT cloudsync_init('other')");
    db.execute_batch("ROLLBACK").unwrap();
    assert!(error(&db, "SELECT cloudsync_is_enabled('other')").contains("other"));
}

#[test]
fn the_host_closes_without_terminate() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let db = walkthrough(open(&folder.path().join("a.db")));
        db.execute_batch(&format!("INSERT INTO my_data(id) VALUES ('{round}')")).unwrap();
        show(&db, "SELECT length(cloudsync_payload_encode())");
        show(&db, "SELECT cloudsync_status()");
        let _ = try_show(&db, "SELECT cloudsync_payload_apply(x'00')");
        close(db);
    }
}
