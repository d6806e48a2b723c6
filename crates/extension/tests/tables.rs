//! The tables that are computed when they are read: `cloudsync_changes` and `cloudsync_payload_chunks`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use host::{close, error, memory, open, rows, show, try_show, walkthrough};
use rusqlite::{Connection, OpenFlags, ffi};
use std::cell::Cell;
use std::ffi::{c_int, c_void};

const CHANGES: &str = "SELECT coalesce(group_concat(line, ' '), '') FROM (SELECT \
     cloudsync_pk_decode(pk, 0) || '.' || coalesce(col_name || '=' || coalesce(col_value, 'NULL'), 'row' || cl) AS line \
     FROM $ WHERE tbl = 'my_data' AND ";

/// The changes for which a condition is true, in their order: `key.column=value`, or `key.row` and the causal length.
fn changes(db: &Connection, condition: &str) -> String {
    let select = CHANGES.replace('$', "cloudsync_changes");
    show(db, &format!("{select} {condition} ORDER BY version, seq)"))
}

/// The same from a copy of all changes in an ordinary table.
fn copied(db: &Connection, condition: &str) -> String {
    let select = CHANGES.replace('$', "copy");
    show(db, &format!("{select} {condition} ORDER BY version, seq)"))
}

fn version(db: &Connection) -> i64 {
    show(db, "SELECT cloudsync_db_version()").parse().unwrap()
}

/// Writes, takes in, and gives the version.
fn write(db: &Connection, sql: &str) -> i64 {
    db.execute_batch(sql).unwrap();
    show(db, "SELECT count(*) FROM cloudsync_changes LIMIT 1");
    version(db)
}

fn send(from: &Connection, to: &Connection, since: i64) -> Vec<(Vec<u8>, i64, i64, bool)> {
    let mut statement = from
        .prepare("SELECT payload, first_version, last_version, final FROM cloudsync_payload_chunks(?1)")
        .unwrap();
    let chunks: Vec<(Vec<u8>, i64, i64, bool)> = statement
        .query_map([since], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for (payload, ..) in &chunks {
        to.query_row("SELECT cloudsync_payload_apply(?1)", [payload], |row| row.get::<_, i64>(0)).unwrap();
    }
    chunks
}

/// All changes but for versions, which each replica has of its own.
fn state(db: &Connection) -> String {
    show(
        db,
        "SELECT group_concat(line, x'0a') FROM (SELECT hex(pk) || coalesce(col_name, '') || \
         coalesce(hex(col_value), 'NULL') || time || hex(site_id) || cl AS line FROM cloudsync_changes ORDER BY line)",
    )
}

#[test]
fn each_cell_stands_under_its_last_version() {
    let db = walkthrough(memory());
    assert_eq!(changes(&db, "1"), "");
    let first = write(&db, "INSERT INTO my_data VALUES ('1', 'one', 'x'), ('2', 'two', NULL)");
    assert_eq!(
        changes(&db, "1"),
        "1.row1 1.value=one 1.created_at=x 2.row1 2.value=two 2.created_at=NULL",
        "what was written is there at once"
    );
    let second = write(&db, "UPDATE my_data SET value = 'uno' WHERE id = '1'");
    let third = write(&db, "UPDATE my_data SET value = 'eins' WHERE id = '1'");
    assert!(first < second && second < third);
    let of = |version: i64| changes(&db, &format!("version = {version}"));
    assert_eq!(of(first), "1.row1 1.created_at=x 2.row1 2.value=two 2.created_at=NULL");
    assert_eq!(of(second), "", "its cell changed again later");
    assert_eq!(of(third), "1.value=eins");
    let fourth = write(&db, "DELETE FROM my_data WHERE id = '2'");
    assert_eq!(of(fourth), "2.row2", "a deleted row has nothing but its sentinel");
    assert_eq!(of(first), "1.row1 1.created_at=x");
    let fifth = write(&db, "INSERT INTO my_data VALUES ('2', 'back', 'y')");
    assert_eq!(of(fourth), "");
    assert_eq!(of(fifth), "2.row3 2.value=back 2.created_at=y");
    assert_eq!(show(&db, "SELECT count(*) = count(DISTINCT rowid) FROM cloudsync_changes"), "1");
    assert_eq!(show(&db, "SELECT count(DISTINCT version || '.' || seq) FROM cloudsync_changes"), "6");
    assert_eq!(
        show(&db, "SELECT group_concat(DISTINCT site_id = cloudsync_siteid()) FROM cloudsync_changes"),
        "1"
    );
    assert_eq!(
        show(&db, "SELECT min(time) > 1700000000000 AND max(time) < 5000000000000 FROM cloudsync_changes"),
        "1"
    );
    close(db);
}

#[test]
fn bounds_of_every_kind_select_what_sql_would() {
    let db = walkthrough(memory());
    let mut versions = vec![write(&db, "INSERT INTO my_data VALUES ('1', 'a', 'x')")];
    for i in 2..6 {
        versions.push(write(&db, &format!("INSERT INTO my_data VALUES ('{i}', 'a', 'x')")));
    }
    db.execute_batch(
        "CREATE TEMP TABLE copy(tbl TEXT, pk BLOB, col_name TEXT, col_value, version INTEGER, time INTEGER, \
         site_id BLOB, cl INTEGER, seq INTEGER); INSERT INTO copy SELECT * FROM cloudsync_changes",
    )
    .unwrap();
    for version in versions.iter().flat_map(|v| [*v - 1, *v, *v + 1]).chain([0, -5, i64::MAX, i64::MIN]) {
        for operator in ["=", ">", ">=", "<", "<=", "IS", "<>"] {
            for value in
                [format!("{version}"), format!("{version}.0"), format!("{version}.5"), format!("'{version}'")]
            {
                let condition = format!("version {operator} {value}");
                assert_eq!(changes(&db, &condition), copied(&db, &condition), "{condition}");
            }
        }
    }
    let (a, b) = (versions[1], versions[3]);
    for condition in [
        format!("version > {a} AND version <= {b}"),
        format!("version BETWEEN {a} AND {b}"),
        format!("version IN ({a}, {b}, 7)"),
        format!("(version = {a} OR version > {b} OR version >= {b})"),
        format!("version > {a} AND version > {b} AND version >= 0"),
        "version > NULL".to_owned(),
        "version = x'00'".to_owned(),
        "version < x'00'".to_owned(),
        "version < 'text'".to_owned(),
        "version > 9e999".to_owned(),
        "version < 9e999".to_owned(),
    ] {
        assert_eq!(changes(&db, &condition), copied(&db, &condition), "{condition}");
    }
    assert_eq!(changes(&db, &format!("version IN ({a}, {b})")).matches("row1").count(), 2);
}

#[test]
fn conditions_on_tables_and_sites_are_handed_over() {
    let a = walkthrough(memory());
    let b = walkthrough(memory());
    for db in [&a, &b] {
        db.execute_batch("CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL, v)").unwrap();
        show(db, "SELECT cloudsync_init('other')");
    }
    a.execute_batch("INSERT INTO my_data VALUES ('1', 'a', 'x'); INSERT INTO other VALUES ('o', 1.5)")
        .unwrap();
    send(&a, &b, 0);
    b.execute_batch("UPDATE my_data SET value = 'b'").unwrap();
    let count =
        |condition: &str| show(&b, &format!("SELECT count(*) FROM cloudsync_changes WHERE {condition}"));
    let (mine, theirs) =
        (show(&b, "SELECT hex(cloudsync_siteid())"), show(&a, "SELECT hex(cloudsync_siteid())"));
    for (condition, expected) in [
        ("tbl = 'my_data'", "3"),
        ("tbl = 'MY_DATA'", "0"),
        ("tbl = 'MY_DATA' COLLATE NOCASE", "3"),
        ("tbl = 'my_data  ' COLLATE RTRIM", "3"),
        ("tbl = 'other'", "2"),
        ("tbl IN ('other', 'my_data')", "5"),
        ("tbl = 'nowhere'", "0"),
        ("tbl = NULL", "0"),
        ("tbl = 7", "0"),
        ("tbl = 'other' OR col_name = 'value'", "3"),
        ("site_id = x'00'", "0"),
        ("site_id = 'text'", "0"),
        ("site_id = NULL", "0"),
        ("site_id = zeroblob(16)", "0"),
        (&format!("site_id = x'{mine}'"), "2"),
        (&format!("site_id = x'{theirs}'"), "3"),
        (&format!("site_id = x'{theirs}' AND tbl = 'other' AND col_value = 1.5"), "1"),
        (&format!("site_id IN (x'{mine}', x'{theirs}')"), "5"),
    ] {
        assert_eq!(count(condition), expected, "{condition}");
    }
    for (condition, words) in [
        ("version > 5 AND tbl = 'other' AND site_id = x'00'", "version> tbl= site_id="),
        ("version >= 5 AND version < 7", "version>= version<"),
        ("version = 5", "version="),
        ("tbl = 'x' COLLATE NOCASE", ":"),
        ("col_name = 'x'", ":"),
    ] {
        let plan = show_plan(&b, &format!("SELECT tbl FROM cloudsync_changes WHERE {condition}"));
        assert!(plan.trim_end().ends_with(words), "{condition}: {plan}");
    }
    let plan = show_plan(&b, "SELECT tbl FROM cloudsync_changes ORDER BY version DESC");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

fn show_plan(db: &Connection, sql: &str) -> String {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let lines = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
    lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
}

/// Counts an operation of SQLite's virtual machine.
unsafe extern "C" fn count_step(counter: *mut c_void) -> c_int {
    // SAFETY: the counter of the test that set the handler.
    let counter = unsafe { &*counter.cast::<Cell<u64>>() };
    counter.set(counter.get() + 1);
    0
}

#[test]
fn a_lower_bound_costs_what_changed_since() {
    let db = walkthrough(memory());
    let before = write(
        &db,
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 50000)
         INSERT INTO my_data SELECT i, 'v' || i, 'x' FROM c",
    );
    write(&db, "UPDATE my_data SET value = 'new' WHERE id = '7'");
    let steps = |sql: &str| {
        let count = Cell::new(0_u64);
        let counter = (&raw const count).cast_mut().cast();
        // SAFETY: the connection is open, and the handler is gone before the counter is.
        unsafe { ffi::sqlite3_progress_handler(db.handle(), 1, Some(count_step), counter) };
        let shown = show(&db, sql);
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_progress_handler(db.handle(), 0, None, std::ptr::null_mut()) };
        (shown, count.get())
    };
    let (found, few) =
        steps(&format!("SELECT group_concat(col_value) FROM cloudsync_changes WHERE version > {before}"));
    assert_eq!(found, "new");
    let (found, many) = steps("SELECT count(*) FROM cloudsync_changes");
    assert_eq!(found, "150000");
    let (_, limited) = steps("SELECT tbl FROM cloudsync_changes LIMIT 1");
    let join = format!(
        "SELECT m.value FROM cloudsync_changes c JOIN my_data m ON m.id = cloudsync_pk_decode(c.pk, 0) \
         WHERE c.version > {before} AND c.tbl = 'my_data'"
    );
    let (found, joined) = steps(&join);
    assert_eq!(found, "new");
    assert!(
        few < 2_000 && limited < 2_000 && joined < 2_000 && many > 1_000_000,
        "{few} {limited} {joined} {many}"
    );
}

#[test]
fn changes_join_with_the_data() {
    let db = walkthrough(memory());
    let since = write(&db, "INSERT INTO my_data VALUES ('1', 'a', 'x'), ('2', 'b', 'y'), ('3', 'c', 'z')");
    write(&db, "UPDATE my_data SET value = 'B' WHERE id = '2'; DELETE FROM my_data WHERE id = '3'");
    let joined = format!(
        "SELECT group_concat(m.id || m.value || c.col_name) FROM my_data AS m JOIN cloudsync_changes AS c \
         ON cloudsync_pk_decode(c.pk, 0) = m.id AND c.tbl = 'my_data' WHERE c.version > {since}"
    );
    assert_eq!(show(&db, &joined), "2Bvalue");
    let gone = format!(
        "SELECT group_concat(cloudsync_pk_decode(c.pk, 0)) FROM cloudsync_changes AS c LEFT JOIN my_data AS m \
         ON m.id = cloudsync_pk_decode(c.pk, 0) WHERE m.id IS NULL AND c.version > {since}"
    );
    assert_eq!(show(&db, &gone), "3");
    let pairs =
        "SELECT count(*) FROM cloudsync_changes AS a JOIN cloudsync_changes AS b ON b.version = a.version";
    assert_eq!(show(&db, pairs), "29", "5 and 2 of equal versions");
    db.execute_batch("CREATE VIEW v AS SELECT col_name FROM cloudsync_changes; CREATE TABLE copy AS SELECT * FROM cloudsync_changes")
        .unwrap();
    assert_eq!(show(&db, "SELECT count(*) FROM v"), "7");
    assert_eq!(show(&db, "SELECT count(*) FROM copy"), "7");
    close(db);
}

#[test]
fn reading_takes_in_only_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    for journal in ["DELETE", "WAL"] {
        let path = folder.path().join(format!("{journal}.db"));
        let db = open(&path);
        db.pragma_update(None, "journal_mode", journal).unwrap();
        let db = walkthrough(db);
        write(&db, "INSERT INTO my_data VALUES ('1', 'a', 'x')");
        let count = |db: &Connection| show(db, "SELECT count(*) FROM cloudsync_changes");
        // In a transaction nothing is taken in, and nothing of it stays open.
        db.execute_batch("BEGIN; INSERT INTO my_data VALUES ('2', 'b', 'y')").unwrap();
        assert_eq!(count(&db), "3");
        db.execute_batch(
            "ROLLBACK; BEGIN; INSERT INTO my_data VALUES ('3', 'c', 'z'); DELETE FROM my_data WHERE id = '1'",
        )
        .unwrap();
        assert_eq!(count(&db), "0", "what is deleted and not yet taken in has no cells");
        db.execute_batch("COMMIT").unwrap();
        // Nor in a file that is read only, nor while another connection writes.
        let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        assert_eq!(count(&reader), "0");
        let writer = open(&path);
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(count(&db), "0");
        writer.execute_batch("ROLLBACK").unwrap();
        db.execute_batch("PRAGMA query_only = ON").unwrap();
        assert_eq!(count(&db), "0");
        db.execute_batch("PRAGMA query_only = OFF").unwrap();
        // A write that reads is a transaction too.
        db.execute_batch("CREATE TABLE n(c); INSERT INTO n SELECT count(*) FROM cloudsync_changes").unwrap();
        assert_eq!(show(&db, "SELECT c FROM n"), "0");
        let rowid = db.last_insert_rowid();
        // While other statements of the connection stand between rows, it works, and they go on.
        let mut other = db.prepare("SELECT id FROM my_data UNION ALL SELECT 'z'").unwrap();
        let mut standing = other.query([]).unwrap();
        standing.next().unwrap().unwrap();
        assert_eq!(count(&db), "4", "{journal}: a sentinel of the deletion, and a row of three");
        assert_eq!(standing.next().unwrap().unwrap().get::<_, String>(0).unwrap(), "z");
        drop(standing);
        drop(other);
        assert_eq!(db.last_insert_rowid(), rowid);
        assert_eq!(show(&db, "SELECT count(*) FROM cloudsync_log"), "0");
        assert_eq!(count(&reader), "4");
        for db in [reader, writer, db] {
            close(db);
        }
    }
}

#[test]
fn before_the_first_table_there_are_no_changes() {
    let db = memory();
    assert_eq!(show(&db, "SELECT count(*) FROM cloudsync_changes"), "0");
    assert_eq!(show(&db, "SELECT count(*) FROM cloudsync_changes WHERE version > 1 AND tbl = 'x'"), "0");
    assert!(error(&db, "SELECT * FROM cloudsync_payload_chunks(0)").contains("cloudsync_init"));
    assert!(error(&db, "DELETE FROM cloudsync_changes").contains("may not be modified"));
    let db = walkthrough(db);
    assert_eq!(show(&db, "SELECT count(*) FROM cloudsync_changes"), "0");
    write(&db, "INSERT INTO my_data VALUES ('1', 'a', 'x')");
    show(&db, "SELECT cloudsync_cleanup('my_data')");
    assert_eq!(show(&db, "SELECT count(*) FROM cloudsync_changes"), "0");
    close(db);
}

#[test]
fn odd_tables_show_their_changes() {
    let db = memory();
    db.execute_batch(
        "CREATE TABLE \"o'd \"\"d\"(a, \"b c\" INTEGER, g AS (a || 'x'), PRIMARY KEY(\"b c\", a)) WITHOUT ROWID;
         CREATE TABLE bare(id TEXT PRIMARY KEY NOT NULL);",
    )
    .unwrap();
    show(&db, "SELECT cloudsync_init('*', 'cls', 1)");
    let wide: Vec<_> = (0..200).map(|i| format!("c{i} DEFAULT {i}")).collect();
    db.execute_batch(&format!("CREATE TABLE wide(id TEXT PRIMARY KEY NOT NULL, {})", wide.join(", ")))
        .unwrap();
    show(&db, "SELECT cloudsync_init('wide')");
    let since = write(
        &db,
        "INSERT INTO \"o'd \"\"d\" VALUES (x'00', 2); INSERT INTO bare VALUES ('k'); INSERT INTO wide(id) VALUES ('w')",
    );
    assert_eq!(show(&db, "SELECT count(*) FROM cloudsync_changes WHERE tbl = 'bare'"), "1");
    assert_eq!(
        show(&db, "SELECT count(*) FROM cloudsync_changes WHERE tbl = 'o''d \"d' AND col_name IS NULL"),
        "1"
    );
    assert_eq!(show(&db, "SELECT sum(col_value) FROM cloudsync_changes WHERE tbl = 'wide'"), "19900");
    for i in 0..200 {
        db.execute_batch(&format!("UPDATE wide SET c{i} = -1, c{} = -1", (i + 7) % 200)).unwrap();
    }
    write(&db, "ALTER TABLE bare ADD COLUMN n DEFAULT 5; UPDATE bare SET n = 6");
    let later = format!(
        "SELECT count(*) || ' ' || sum(col_value) FROM cloudsync_changes WHERE version > {since} AND tbl = "
    );
    assert_eq!(show(&db, &format!("{later} 'wide'")), "200 -200");
    assert_eq!(show(&db, &format!("{later} 'bare'")), "1 6");
}

#[test]
fn chunks_in_order_make_databases_equal() {
    let folder = tempfile::tempdir().unwrap();
    let a = walkthrough(open(&folder.path().join("a.db")));
    let b = walkthrough(memory());
    a.execute_batch(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 40000)
         INSERT INTO my_data SELECT printf('%08d', i), hex(randomblob(40)), 'x' FROM c;
         DELETE FROM my_data WHERE id % 10 = 0; UPDATE my_data SET value = 'changed' WHERE id % 7 = 0",
    )
    .unwrap();
    let chunks = send(&a, &b, 0);
    assert!(chunks.len() > 2, "{}", chunks.len());
    let (last, others) = chunks.split_last().unwrap();
    assert!(last.3 && others.iter().all(|chunk| !chunk.3), "one is final, the last");
    let until = version(&a);
    assert!(chunks.iter().all(|chunk| (chunk.1, chunk.2) == (1, until) && chunk.0.len() < 4 << 20));
    assert_eq!(rows(&a), rows(&b));
    assert_eq!(state(&a), state(&b));
    a.execute_batch("UPDATE my_data SET value = value || 'y'; INSERT INTO my_data VALUES ('new', 'n', NULL)")
        .unwrap();
    let more = send(&a, &b, until);
    assert!(more.len() > 1 && more[0].1 == until + 1 && more[0].2 > until);
    assert_eq!(state(&a), state(&b));
    let nothing = send(&a, &b, version(&a));
    assert!(nothing.len() == 1 && nothing[0].3 && !nothing[0].0.is_empty(), "there always is a final one");
    assert_eq!(show(&b, "SELECT count(*) FROM cloudsync_quarantine"), "0");
    assert_eq!(send(&walkthrough(memory()), &b, 0).len(), 1);
    close(a);
    close(b);
}

#[test]
fn a_whole_is_one_chunk_of_the_same_content() {
    let a = walkthrough(memory());
    a.execute_batch("INSERT INTO my_data VALUES ('1', 'a', 'x')").unwrap();
    let (b, c) = (walkthrough(memory()), walkthrough(memory()));
    assert_eq!(send(&a, &b, 0).len(), 1);
    let payload: Vec<u8> = a.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap();
    c.query_row("SELECT cloudsync_payload_apply(?1)", [payload], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(state(&b), state(&c));
    assert_eq!(show(&a, "SELECT count(*) FROM cloudsync_payload_chunks WHERE since_version = 0"), "1");
    assert_eq!(show(&a, "SELECT since_version FROM cloudsync_payload_chunks(7)"), "7");
    let joined =
        "SELECT group_concat(final) FROM (VALUES (0), (5)) AS v, cloudsync_payload_chunks(v.column1)";
    assert_eq!(show(&a, joined), "1,1");
}

#[test]
fn chunks_refuse_what_they_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let db = walkthrough(open(&path));
    for (sql, text) in [
        ("cloudsync_payload_chunks", "takes 1 argument, not 0: cloudsync_payload_chunks(since_version)"),
        ("cloudsync_payload_chunks()", "takes 1 argument, not 0"),
        ("cloudsync_payload_chunks(1, 2)", "too many arguments"),
        ("cloudsync_payload_chunks(NULL)", "argument 1 (since_version) must be an integer from 0, not NULL"),
        ("cloudsync_payload_chunks(-1)", "must be an integer from 0, not integer"),
        ("cloudsync_payload_chunks('1')", "must be an integer from 0, not text"),
    ] {
        let text_given = error(&db, &format!("SELECT * FROM {sql}"));
        assert!(text_given.contains(text), "{sql}: {text_given}");
    }
    let read = "SELECT count(*) FROM cloudsync_payload_chunks(0)";
    db.execute_batch("BEGIN").unwrap();
    assert!(error(&db, read).contains("cloudsync_payload_chunks: commit first"));
    db.execute_batch("ROLLBACK; CREATE TABLE n(c)").unwrap();
    let inside = db.execute(&format!("INSERT INTO n {read}"), []).unwrap_err().to_string();
    assert!(inside.contains("commit first"), "{inside}");
    db.execute_batch(&format!("CREATE VIEW v AS {read}")).unwrap();
    assert!(error(&db, "SELECT * FROM v").contains("unsafe use"));
    db.execute_batch("DROP VIEW v; INSERT INTO my_data VALUES ('1', 'a', 'x')").unwrap();
    let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert!(error(&reader, read).contains("read-only"));
    let writer = open(&path);
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(error(&db, read).contains("database is busy"));
    writer.execute_batch("ROLLBACK").unwrap();
    assert_eq!(show(&db, read), "1");
    assert_eq!(show(&reader, read), "1", "nothing is left to take in");
}

#[test]
fn what_is_written_between_chunks_is_not_sent_under_an_old_clock() {
    let a = walkthrough(memory());
    let b = walkthrough(memory());
    let fill = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 30000)
                INSERT INTO my_data SELECT printf('%08d', i), hex(randomblob(40)), 'x' FROM c";
    a.execute_batch(fill).unwrap();
    let mut statement = a.prepare("SELECT payload, last_version FROM cloudsync_payload_chunks(0)").unwrap();
    let mut chunks = statement.query([]).unwrap();
    let apply = |row: &rusqlite::Row<'_>| {
        let payload: Vec<u8> = row.get(0).unwrap();
        b.query_row("SELECT cloudsync_payload_apply(?1)", [payload], |row| row.get::<_, i64>(0)).unwrap();
        row.get::<_, i64>(1).unwrap()
    };
    apply(chunks.next().unwrap().unwrap());
    a.execute_batch("UPDATE my_data SET value = 'between'; DELETE FROM my_data WHERE id % 3 = 0").unwrap();
    let mut last = 0;
    while let Some(row) = chunks.next().unwrap() {
        last = apply(row);
    }
    drop(chunks);
    send(&a, &b, last);
    assert_eq!(state(&a), state(&b));
    // One that may yet be rolled back ends the series.
    a.execute_batch("UPDATE my_data SET value = hex(randomblob(60))").unwrap();
    let mut chunks = statement.query([]).unwrap();
    chunks.next().unwrap().unwrap();
    a.execute_batch("BEGIN; UPDATE my_data SET value = 'never'").unwrap();
    let text = chunks.next().map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("commit first"), "{text}");
    drop(chunks);
    a.execute_batch("ROLLBACK").unwrap();
    drop(statement);
    assert!(try_show(&a, "SELECT count(*) FROM cloudsync_payload_chunks(0)").is_ok());
    close(a);
    close(b);
}
