//! What `table check` and `table enable` say of tables.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite;
use program::Place;
use serde_json::Value;

fn database(schema: &str) -> Place {
    let place = Place::new();
    place.run(&["db", "create", "d"]);
    let file = place.data.join("schema.sql");
    std::fs::write(&file, schema).unwrap();
    place.run(&["db", "sql", "d", file.to_str().unwrap()]);
    place
}

/// The codes of what is found, with what they are about.
fn found(place: &Place, table: &str) -> Vec<(String, String)> {
    let output = place.command(["table", "check", "d", table, "--json"]).output().unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings: Vec<_> = findings.as_array().unwrap().iter().collect();
    for finding in &findings {
        assert!(!text(finding, "text").is_empty());
        assert!(finding["severity"] == "error" || !text(finding, "remedy").is_empty(), "{finding}");
    }
    findings.iter().map(|finding| (text(finding, "code"), text(finding, "subject"))).collect()
}

fn codes(place: &Place, table: &str) -> Vec<String> {
    found(place, table).into_iter().map(|(code, _)| code).collect()
}

#[test]
fn a_good_table_has_nothing_in_its_way() {
    let place = database(
        "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL DEFAULT '', n INTEGER);
         CREATE TABLE w (a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
         CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, v REAL) STRICT;
         CREATE TRIGGER search AFTER INSERT ON t BEGIN DELETE FROM notes WHERE id = NEW.id; END;
         CREATE TABLE notes (id, v);",
    );
    for table in ["t", "w", "s"] {
        assert_eq!(found(&place, table), [], "{table}");
    }
    assert_eq!(place.run(&["table", "check", "d", "t"]), "nothing stands in the way\n");
    assert_eq!(place.run(&["table", "enable", "d", "t"]), "t syncs (cls)\n");
    assert_eq!(place.run(&["table", "check", "d"]), "nothing stands in the way\n");
}

#[test]
fn what_cannot_sync_is_an_error_with_its_remedy() {
    let place = database(
        "CREATE TABLE bare (a, b); CREATE VIEW view1 AS SELECT 1; CREATE VIRTUAL TABLE fts USING fts5(a);",
    );
    for (table, expected) in [
        ("bare", "has no primary key"),
        ("view1", "is a view"),
        ("fts", "is a virtual table"),
        ("fts_data", "belongs to the virtual table"),
        ("none", "no such table"),
        ("sqlite_schema", "belongs to the system"),
    ] {
        let output = place.command(["table", "check", "d", table]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = program::text(&output.stdout);
        assert!(text.starts_with("error: ") && text.contains(expected), "{table}: {text}");
        assert!(place.fail(&["table", "enable", "d", table]).contains(expected));
    }
}

#[test]
fn keys_columns_and_collations() {
    let place = database(
        "CREATE TABLE i (id INTEGER PRIMARY KEY, v);
         CREATE TABLE n (id TEXT PRIMARY KEY, v TEXT NOT NULL, g AS (v || 'x'));
         INSERT INTO n (id, v) VALUES (NULL, 'a'), ('1', 'b');",
    );
    assert_eq!(found(&place, "i"), [("integer_key".into(), "i.id".into())]);
    let expected = [("nullable_key", "n.id"), ("bare_not_null", "n.v"), ("generated", "n.g")]
        .map(|(a, b)| (a.into(), b.into()));
    assert_eq!(found(&place, "n"), expected);
    let text = place.run(&["table", "check", "d", "n"]);
    assert!(
        text.contains("1 rows have one now") && text.contains("advice: n.v: NOT NULL without a DEFAULT"),
        "{text}"
    );
    // Findings do not keep a table from syncing.
    assert!(place.run(&["table", "enable", "d", "i"]).contains("warning: i.id: a lone INTEGER key"));
}

#[test]
fn foreign_keys_uniques_and_policies() {
    let place = database(
        "PRAGMA foreign_keys = off; CREATE TABLE parent (id TEXT PRIMARY KEY NOT NULL, owner TEXT);
         CREATE TABLE child (id TEXT PRIMARY KEY NOT NULL, parent_id TEXT REFERENCES parent (id) ON DELETE CASCADE,
             gone REFERENCES missing (id), owner TEXT, email TEXT UNIQUE, up TEXT REFERENCES child (id));
         INSERT INTO child (id, parent_id) VALUES ('1', 'nobody');",
    );
    let child = codes(&place, "child");
    for code in ["parent_not_synced", "parent_missing", "unique"] {
        assert!(child.iter().any(|found| found == code), "{code}: {child:?}");
    }
    let sql = place.data.join("more.sql");
    std::fs::write(&sql, "CREATE TABLE missing (id TEXT PRIMARY KEY NOT NULL)").unwrap();
    place.run(&["db", "sql", "d", sql.to_str().unwrap()]);
    assert!(codes(&place, "child").contains(&"orphans".to_owned()));
    for table in ["parent", "missing", "child"] {
        place.run(&["table", "enable", "d", table]);
    }
    let child = codes(&place, "child");
    assert!(!child.contains(&"parent_not_synced".to_owned()), "{child:?}");
    let changes = ["parent", "child"].map(|table| Change {
        table,
        verb: Verb::Select,
        text: Some("owner = auth_userid()"),
        by: "test",
        now_ms: 1,
    });
    sqlite::change_policies(&place.data.join("databases/d.db"), &changes).unwrap();
    let child = codes(&place, "child");
    assert!(child.contains(&"parent_policy".to_owned()), "{child:?}");
    assert!(child.contains(&"unique_without_tenant".to_owned()), "{child:?}");
    let text = place.run(&["table", "check", "d", "child"]);
    assert!(text.contains("UNIQUE (owner, email)") && text.contains("ON DELETE CASCADE"), "{text}");
    std::fs::write(&sql, "CREATE UNIQUE INDEX good ON parent (owner, id)").unwrap();
    place.run(&["db", "sql", "d", sql.to_str().unwrap()]);
    assert_eq!(codes(&place, "parent"), ["unique"]);
}

#[test]
fn triggers_that_raise_write_or_cannot_run() {
    let place = database(
        "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v); CREATE TABLE sums (id TEXT PRIMARY KEY NOT NULL, n);
         CREATE TABLE plain (n);
         CREATE TRIGGER guards BEFORE INSERT ON t WHEN NEW.v < 0 BEGIN SELECT RAISE(ABORT, 'negative'); END;
         CREATE TRIGGER adds AFTER UPDATE OF v ON t BEGIN UPDATE sums SET n = n + 1; INSERT INTO plain VALUES (1); END;",
    );
    place.run(&["table", "enable", "d", "sums"]);
    let guards: (String, String) = ("trigger_raises".into(), "trigger guards".into());
    assert_eq!(found(&place, "t"), [guards.clone(), ("trigger_writes".into(), "trigger adds".into())]);
    place.run(&["table", "enable", "d", "t"]);
    assert_eq!(codes(&place, "t").len(), 2, "our own triggers are none of the app's");
    let sql = place.data.join("more.sql");
    let text = "CREATE TRIGGER calls AFTER DELETE ON t BEGIN SELECT function_of_the_app(OLD.v); END";
    std::fs::write(&sql, text).unwrap();
    place.run(&["db", "sql", "d", sql.to_str().unwrap()]);
    assert!(codes(&place, "t").contains(&"trigger_broken".to_owned()));
    assert!(place.run(&["table", "check", "d", "t"]).contains("no such function: function_of_the_app"));
}
