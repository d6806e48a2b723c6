//! Tables change while they sync: by our bracket, and behind our back.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "schema_changes/unseen.rs"]
mod unseen;

use bench::{assert_same, exchange, pair};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)";

#[test]
fn a_column_that_is_dropped_without_the_bracket_is_refused_with_the_remedy() {
    let (a, _) = pair(NOTES);
    let error = a.sql.execute_batch("ALTER TABLE notes DROP COLUMN body").unwrap_err().to_string();
    assert!(error.contains("call cloudsync_begin_alter first"), "{error}");
}

#[test]
fn victims_of_indexes_on_expressions_and_on_some_rows_are_found() {
    let (mut a, mut b) = pair(
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, email, at, alive DEFAULT 1);
         CREATE UNIQUE INDEX by_email ON t(lower(email) COLLATE RTRIM DESC, (at || ',')) WHERE t.alive = 1;
         CREATE UNIQUE INDEX by_at ON t(at) WHERE alive -- the living",
    );
    a.run("INSERT INTO t VALUES('1', 'A', 1, 1), ('2', 'B', 2, 1), ('3', 'c', 3, 0), ('4', 'D', 4, 1)");
    exchange(&mut a, &mut b);
    a.run(
        "REPLACE INTO t VALUES('5', 'a  ', 1, 1); UPDATE OR REPLACE t SET at = 4, email = 'd' WHERE id = '2';
           REPLACE INTO t VALUES('6', 'C', 3, 1)",
    );
    assert_eq!(a.column::<String>("SELECT id FROM t ORDER BY id"), ["2", "3", "5", "6"]);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    a.run("UPDATE OR REPLACE t SET alive = 1 WHERE id = '3'");
    assert_eq!(a.column::<String>("SELECT id FROM t ORDER BY id"), ["2", "3", "5"]);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    let plan = "EXPLAIN QUERY PLAN SELECT id FROM t WHERE t.at = 1 AND (alive -- the living\n)";
    let used: String = a.sql.query_row(plan, [], |row| row.get(3)).unwrap();
    assert!(used.contains("by_at"), "{used}");
}

/// What the columns of a table were numbered.
fn numbers(device: &bench::Device) -> Vec<String> {
    device.rows("SELECT name, number FROM cloudsync_columns WHERE NOT dropped ORDER BY name")
}

#[test]
fn a_column_renamed_in_the_bracket_keeps_number_clocks_and_values() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 'u', 'c')");
    exchange(&mut a, &mut b);
    let before: Vec<String> = a.clocks("notes").into_values().collect();
    for device in [&mut a, &mut b] {
        assert_eq!(device.replica.begin_alter("notes").unwrap(), None);
        device
            .run("ALTER TABLE notes RENAME COLUMN title TO headline; ALTER TABLE notes RENAME body TO title");
        assert!(device.replica.commit_alter("notes").unwrap_err().to_string().contains("two brackets"));
        device.run("ALTER TABLE notes RENAME COLUMN title TO body");
        device.replica.commit_alter("notes").unwrap();
        device.replica.begin_alter("notes").unwrap();
        device.run("ALTER TABLE notes RENAME COLUMN body TO title");
        device.replica.commit_alter("notes").unwrap();
        assert_eq!(numbers(device), ["'headline',0", "'title',1"]);
        assert_eq!(device.get::<i64>("SELECT count(*) FROM cloudsync_alter_rows"), 0);
    }
    let after: Vec<String> = a.clocks("notes").into_values().collect();
    // Both cells of a row have one clock, and the cells stand in the order of their names.
    let renamed = before.iter().map(|clock| clock.replace("body ", "headline "));
    assert_eq!(after, renamed.collect::<Vec<_>>());
    b.run("UPDATE notes SET headline = 'edited' WHERE id = '1'; UPDATE notes SET title = 'edited' WHERE id = '2'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','edited','b'", "'2','u','edited'"]);
}

#[test]
fn a_dropped_column_does_no_harm_and_comes_back_as_another() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.replica.begin_alter("notes").unwrap();
    a.run("ALTER TABLE notes DROP COLUMN title");
    a.replica.commit_alter("notes").unwrap();
    a.run("UPDATE notes SET body = 'a'");
    b.run("UPDATE notes SET title = 'b'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','a'"]);
    assert_eq!(b.dump("notes"), ["'1','b','a'"]);
    a.run("ALTER TABLE notes ADD COLUMN title TEXT DEFAULT 'none'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','a','b'"]);
    assert_eq!(numbers(&a), ["'body',1", "'title',2"]);
}

#[test]
fn a_rebuild_in_the_bracket_stamps_what_changed_and_nothing_else() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b'), ('3', 't', 'b'), ('4', 't', 'b')");
    exchange(&mut a, &mut b);
    let clocks = a.clocks("notes");
    let rebuild = |a: &mut bench::Device, more: &str| {
        a.replica.begin_alter("notes").unwrap();
        a.run(&format!(
            "BEGIN; CREATE TABLE new_notes(body TEXT NOT NULL, extra TEXT DEFAULT 'd', id TEXT PRIMARY KEY NOT NULL, \
             title TEXT); INSERT INTO new_notes SELECT body, 'd', id, title FROM notes; DROP TABLE notes; \
             ALTER TABLE new_notes RENAME TO notes; {more}; COMMIT"
        ));
        a.replica.commit_alter("notes").unwrap();
    };
    rebuild(&mut a, "");
    assert_eq!(a.clocks("notes"), clocks);
    a.run("ALTER TABLE notes RENAME TO old; CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
           INSERT INTO notes SELECT id, title, body FROM old; DROP TABLE old");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    rebuild(
        &mut a,
        "UPDATE notes SET title = 'edited' WHERE id = '1'; DELETE FROM notes WHERE id = '2'; \
         INSERT INTO notes VALUES('b', 'e', '5', 't'); UPDATE notes SET extra = 'filled' WHERE id = '3'",
    );
    // The bracket's edit is of column title alone.
    b.run("UPDATE notes SET body = 'by b'");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','edited','by b'", "'3','t','by b'", "'4','t','by b'", "'5','t','b'"]);
    b.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'd'");
    exchange(&mut a, &mut b);
    assert_eq!(
        b.rows("SELECT id, extra FROM notes ORDER BY id"),
        ["'1','d'", "'3','filled'", "'4','d'", "'5','e'"]
    );
    let sql = "SELECT id, title, body, extra FROM notes ORDER BY id";
    assert_eq!(a.rows(sql), b.rows(sql));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn what_a_migration_fills_in_yields_to_real_edits() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'T', 'b'), ('2', 'U', 'b')");
    exchange(&mut a, &mut b);
    let migrate = |device: &mut bench::Device| {
        device.replica.begin_alter("notes").unwrap();
        device.run("ALTER TABLE notes ADD COLUMN slug TEXT; UPDATE notes SET slug = lower(title)");
        device.replica.commit_alter("notes").unwrap();
    };
    migrate(&mut a);
    a.run("UPDATE notes SET slug = 'chosen' WHERE id = '1'");
    migrate(&mut b);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.column::<String>("SELECT slug FROM notes ORDER BY id"), ["chosen", "u"]);
}

#[test]
fn a_table_renamed_in_the_bracket_syncs_under_its_new_name() {
    for rebuilt in [false, true] {
        let (mut a, mut b) = pair(NOTES);
        a.run("INSERT INTO notes VALUES('1', 't', 'b')");
        exchange(&mut a, &mut b);
        b.run("DELETE FROM notes; INSERT INTO notes VALUES('2', 'by b', 'b')");
        for device in [&mut a, &mut b] {
            device.replica.begin_alter("notes").unwrap();
            device.run(match rebuilt {
                false => "ALTER TABLE notes RENAME TO articles",
                true => {
                    "CREATE TABLE articles(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
                         INSERT INTO articles SELECT * FROM notes; DROP TABLE notes"
                }
            });
            device.replica.commit_alter(if rebuilt { "articles" } else { "notes" }).unwrap();
        }
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "articles");
        assert_eq!(a.dump("articles"), ["'2','by b','b'"]);
        a.run("UPDATE articles SET title = 'noted'");
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "articles");
    }
}

#[test]
fn a_table_made_again_empty_in_the_bracket_is_fetched_again() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.replica.begin_alter("notes").unwrap();
    a.run(&format!("DROP TABLE notes; {NOTES}"));
    a.replica.commit_alter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes").len(), 1);
    // Rows that are deleted where the table stays are meant to go.
    a.replica.begin_alter("notes").unwrap();
    a.run("DELETE FROM notes");
    a.replica.commit_alter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert!(b.dump("notes").is_empty());
}

#[test]
fn an_open_bracket_is_kept_and_told_and_holds_back_syncing() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    let payload = b.encode();
    assert!(a.replica.commit_alter("notes").unwrap_err().to_string().contains("cloudsync_begin_alter"));
    a.replica.begin_alter("notes").unwrap();
    a.run("ALTER TABLE notes DROP COLUMN body");
    for error in [
        a.replica.begin_alter("notes").unwrap_err(),
        a.replica.payload_encode(0, None).unwrap_err(),
        a.apply(&payload).unwrap_err(),
        a.replica.set_enabled("notes", false).unwrap_err(),
    ] {
        assert!(error.to_string().contains("cloudsync_commit_alter('notes')"), "{error}");
    }
    assert_eq!(a.replica.status().unwrap()["altering"], serde_json::json!(["notes"]));
    a.replica.fold().unwrap();
    // What another connection does that was opened later.
    let environment = std::rc::Rc::clone(&a.world) as std::rc::Rc<dyn cloudsync_replica::Environment>;
    let mut other = cloudsync_replica::Replica::open(a.replica.connection(), environment).unwrap();
    other.commit_alter("NOTES").unwrap();
    a.run("INSERT INTO notes VALUES('2', 'u')");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','t','b'", "'2','u',NULL"]);
}

#[test]
fn the_bracket_rolls_back_and_can_be_done_again() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    let state = |a: &bench::Device| {
        a.rows("SELECT type, name, sql FROM sqlite_master UNION ALL SELECT name, number, dropped FROM cloudsync_columns
                UNION ALL SELECT id, name, layout FROM cloudsync_tables")
    };
    let before = state(&a);
    for (begin, back) in [("BEGIN", "ROLLBACK"), ("SAVEPOINT s", "ROLLBACK TO s; RELEASE s")] {
        for committed in [false, true] {
            a.run(begin);
            a.replica.begin_alter("notes").unwrap();
            a.run("ALTER TABLE notes RENAME COLUMN title TO headline");
            if committed {
                a.replica.commit_alter("notes").unwrap();
                a.run("UPDATE notes SET headline = 'undone'");
            }
            a.run(back);
            assert_eq!(state(&a), before);
            a.run("UPDATE notes SET title = title || '!'");
            exchange(&mut a, &mut b);
            assert_same(&mut a, &mut b, "notes");
        }
    }
    a.replica.begin_alter("notes").unwrap();
    a.run("BEGIN; ALTER TABLE notes RENAME COLUMN title TO headline");
    a.replica.commit_alter("notes").unwrap();
    a.run("ROLLBACK");
    a.replica.commit_alter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','t!!!!','b'"]);
}

#[test]
fn what_is_in_doubt_or_impossible_is_refused_and_can_be_put_right() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 'u', 'c')");
    exchange(&mut a, &mut b);
    a.replica.begin_alter("notes").unwrap();
    a.run("ALTER TABLE notes RENAME body TO content; UPDATE notes SET content = 'new' WHERE id = '1'");
    let error = a.replica.commit_alter("notes").unwrap_err().to_string();
    assert!(
        error.contains("\"content\"") && error.contains("\"body\"") && error.contains("bracket"),
        "{error}"
    );
    a.run("UPDATE notes SET content = 'b' WHERE id = '1'");
    a.replica.commit_alter("notes").unwrap();
    assert_eq!(numbers(&a), ["'content',1", "'title',0"]);
    a.replica.begin_alter("notes").unwrap();
    a.run("DROP TABLE notes");
    let error = a.replica.commit_alter("notes").unwrap_err().to_string();
    assert!(error.contains("cloudsync_cleanup('notes')"), "{error}");
    a.run("CREATE TABLE notes(title TEXT PRIMARY KEY, content TEXT, id TEXT)");
    let error = a.replica.commit_alter("notes").unwrap_err().to_string();
    assert!(error.contains("primary key"), "{error}");
    a.replica.cleanup("notes").unwrap();
    assert_eq!(a.get::<i64>("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_alters"), 0);
}

#[test]
fn a_last_column_dropped_and_another_added_are_two() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.replica.begin_alter("notes").unwrap();
    a.run("ALTER TABLE notes DROP COLUMN body; ALTER TABLE notes ADD COLUMN other TEXT");
    a.replica.commit_alter("notes").unwrap();
    assert_eq!(numbers(&a), ["'other',2", "'title',0"]);
    a.run("UPDATE notes SET other = 'o'");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','t','b'"]);
}

#[test]
fn tables_with_one_column_and_with_many_are_altered_alike() {
    let (mut a, mut b) = pair("CREATE TABLE tags(tag TEXT PRIMARY KEY NOT NULL)");
    a.run("INSERT INTO tags VALUES('red'), ('blue')");
    exchange(&mut a, &mut b);
    for device in [&mut a, &mut b] {
        device.replica.begin_alter("tags").unwrap();
        device.run("ALTER TABLE tags RENAME COLUMN tag TO name; INSERT INTO tags VALUES('green'); DELETE FROM tags WHERE name = 'red'");
        device.replica.commit_alter("tags").unwrap();
    }
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "tags");
    assert_eq!(a.dump("tags"), ["'blue'", "'green'"]);

    let columns: Vec<_> = (0..500).map(|i| format!("c{i} TEXT")).collect();
    let wide = format!("CREATE TABLE wide(id TEXT PRIMARY KEY NOT NULL, {})", columns.join(", "));
    let (mut a, mut b) = pair(&wide);
    a.run("INSERT INTO wide(id, c0, c70, c499) VALUES('1', 'a', 'b', 'c')");
    exchange(&mut a, &mut b);
    for device in [&mut a, &mut b] {
        device.replica.begin_alter("wide").unwrap();
        device.run("ALTER TABLE wide RENAME COLUMN c70 TO seventy; ALTER TABLE wide DROP COLUMN c10");
        device.replica.commit_alter("wide").unwrap();
        device.run(
            "ALTER TABLE wide RENAME COLUMN c200 TO plain; ALTER TABLE wide ADD COLUMN c500 TEXT DEFAULT 'd'",
        );
    }
    a.run("UPDATE wide SET seventy = 'x', c499 = 'y', c500 = 'z', plain = 'p'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "wide");
    a.replica.begin_alter("wide").unwrap();
    a.run("UPDATE wide SET seventy = 'in the bracket', c500 = 'too'");
    a.replica.commit_alter("wide").unwrap();
    b.run("UPDATE wide SET c499 = 'by b'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "wide");
    let shown = b.rows("SELECT c0, seventy, plain, c499, c500 FROM wide");
    assert_eq!(shown, ["'a','in the bracket','p','by b','too'"]);
}

#[test]
fn a_plain_rename_by_any_tool_is_found_and_healed() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 'u', 'c')");
    exchange(&mut a, &mut b);
    for device in [&mut a, &mut b] {
        // Names are exchanged, which only the triggers' text can tell.
        device.run(
            "ALTER TABLE notes RENAME COLUMN title TO x; ALTER TABLE notes RENAME COLUMN body TO title;
             ALTER TABLE notes RENAME COLUMN x TO body; ALTER TABLE notes ADD COLUMN extra; UPDATE notes SET extra = 'e' WHERE id = '2'",
        );
        device.replica.fold().unwrap();
        assert_eq!(numbers(device), ["'body',0", "'extra',2", "'title',1"]);
    }
    assert_eq!(a.dump("notes"), ["'1','t','b',NULL", "'2','u','c','e'"]);
    a.run("UPDATE notes SET body = 'edited' WHERE id = '1'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.rows("SELECT body, title FROM notes WHERE id = '1'"), ["'edited','b'"]);
}

#[test]
fn a_table_renamed_by_any_tool_goes_on_under_its_new_name() {
    let (mut a, mut b) =
        pair("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT UNIQUE, body TEXT)");
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    for device in [&mut a, &mut b] {
        device.run("ALTER TABLE notes RENAME TO articles; ALTER TABLE articles RENAME body TO content");
    }
    a.run("REPLACE INTO articles VALUES('2', 't', 'new')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "articles");
    assert_eq!(b.dump("articles"), ["'2','t','new'"]);
    assert!(
        a.column::<String>("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%notes%'")
            .is_empty()
    );
    a.run(NOTES);
    a.replica.init("notes", "cls", 0).unwrap();
    a.run("INSERT INTO notes VALUES('1', 'another', 'table'); UPDATE articles SET content = 'edited'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "articles");
}

#[test]
fn what_legacy_alter_table_breaks_is_healed_at_the_next_use() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 'u', 'c')");
    exchange(&mut a, &mut b);
    a.run("PRAGMA legacy_alter_table = ON; ALTER TABLE notes DROP COLUMN body");
    assert!(a.sql.execute_batch("UPDATE notes SET title = 'fails'").is_err());
    a.replica.fold().unwrap();
    a.run("UPDATE notes SET title = 'works'");
    assert_eq!(numbers(&a), ["'title',0"]);
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','works','b'", "'2','works','c'"]);
    // It came back behind the others; what it had is fetched again.
    a.run("ALTER TABLE notes ADD COLUMN body TEXT DEFAULT 'zzz'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','works','b'", "'2','works','c'"]);
    for device in [&mut a, &mut b] {
        device.run("PRAGMA legacy_alter_table = ON; ALTER TABLE notes RENAME TO articles");
    }
    a.run("UPDATE articles SET title = 'after'");
    exchange(&mut a, &mut b);
    assert_eq!(b.column::<String>("SELECT title FROM articles"), ["after", "after"]);
}

#[test]
fn a_column_dropped_and_added_again_under_legacy_alter_table_is_another() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run(
        "PRAGMA legacy_alter_table = ON; ALTER TABLE notes DROP COLUMN title;
           ALTER TABLE notes ADD COLUMN title TEXT DEFAULT 'zzz'",
    );
    exchange(&mut a, &mut b);
    assert_eq!(a.rows("SELECT id, title, body FROM notes"), ["'1','t','b'"]);
    assert_eq!(b.dump("notes"), ["'1','t','b'"]);
}

#[test]
fn one_replica_renames_before_the_other_and_nothing_is_lost() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 'u', 'c')");
    exchange(&mut a, &mut b);
    a.run("ALTER TABLE notes RENAME COLUMN title TO headline");
    let since = a.replica.version().unwrap();
    a.run("UPDATE notes SET headline = 'by a' WHERE id = '1'");
    b.run("UPDATE notes SET title = 'by b' WHERE id = '2'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','by a','b'", "'2','u','c'"]);
    assert_eq!(b.dump("notes"), ["'1','t','b'", "'2','by b','c'"]);
    // What was renamed is offered once more under its new name.
    let offered = a.replica.payload_encode(since, None).unwrap();
    let opened = cloudsync_protocol::payload::Opened::open(&offered, &cloudsync_replica::Zstd).unwrap();
    assert_eq!(opened.payload().unwrap().rows(), 2);
    b.run("ALTER TABLE notes RENAME COLUMN title TO headline");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','by a','b'", "'2','by b','c'"]);
}
