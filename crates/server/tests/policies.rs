//! Policies as SQLite compiles them: what they may say, what they read, and that they stay in their place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use cloudsync_server::auth::User;
use cloudsync_server::policy::{
    Change, Identity, Policies, Policy, PolicyError, Verb, attach, change, history,
};
use rusqlite::Connection;

// language=SQLite
const SCHEMA: &str = "
CREATE TABLE tasks(id TEXT PRIMARY KEY, owner TEXT COLLATE NOCASE, n INTEGER, note, twice AS (n * 2), team INT);
CREATE TABLE members(team INT, user TEXT, role TEXT, PRIMARY KEY(team, user));
CREATE TABLE \"odd \"\" name)\"(\"a ) b\" TEXT PRIMARY KEY, [select] INT);
CREATE TABLE new(id TEXT PRIMARY KEY, old INT);
CREATE VIEW admins AS SELECT * FROM members WHERE role = 'admin';
CREATE VIEW clock AS SELECT random() AS r;
CREATE VIRTUAL TABLE words USING fts5(text);
CREATE TABLE cloudsync_settings(key TEXT PRIMARY KEY, value);
";

struct Place {
    connection: Connection,
    identity: Identity,
}

fn place() -> Place {
    let connection = Connection::open_in_memory().unwrap();
    attach(&connection).unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    let identity = Identity::register(&connection).unwrap();
    Place { connection, identity }
}

fn user(id: &str) -> User {
    let claims = serde_json::json!({ "teams": [1, 3], "role": "x" });
    User { id: id.to_owned(), claims: claims.as_object().unwrap().clone() }
}

impl Place {
    fn set(&mut self, table: &str, verb: Verb, text: &str) -> Result<Policy, String> {
        let wanted = Change { table, verb, text: Some(text), by: "test", now_ms: 1_000 };
        change(&mut self.connection, &wanted).map(Option::unwrap).map_err(|error| error.to_string())
    }

    /// The keys that a user sees.
    fn seen(&mut self, table: &str, id: &str) -> Vec<String> {
        let policies = Policies::load(&mut self.connection).unwrap();
        let _assumed = self.identity.assume(&user(id));
        let condition = policies.select_of(table).unwrap().condition();
        let sql = format!("SELECT id FROM main.\"{table}\" WHERE {condition} ORDER BY id");
        let mut select = self.connection.prepare(&sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn pairs(policy: &Policy) -> Vec<(&str, &str)> {
    policy.reads().iter().map(|(table, column)| (&**table, &**column)).collect()
}

#[test]
fn a_policy_says_what_it_reads() {
    let mut place = place();
    let text = "owner = auth_userid() OR EXISTS(SELECT 1 FROM members AS m WHERE m.team = tasks.team AND m.user = auth_userid())";
    let policy = place.set("TASKS", Verb::Select, text).unwrap();
    assert_eq!(policy.table(), "tasks");
    assert_eq!(policy.own_columns().iter().collect::<Vec<_>>(), ["owner", "team"]);
    assert_eq!(pairs(&policy), [("members", "team"), ("members", "user")]);
    // Its own table is read where a subquery does.
    let policy =
        place.set("tasks", Verb::Insert, "(SELECT count(*) FROM tasks) < 10 AND NEW.owner = auth_userid()");
    let policy = policy.unwrap();
    assert_eq!(pairs(&policy), [("tasks", "")]);
    assert_eq!(policy.own_columns().iter().collect::<Vec<_>>(), ["owner"]);
    // What lies behind a view.
    let text = "NEW.team IN (SELECT team FROM admins WHERE user = auth_userid()) AND OLD.id = NEW.id";
    let policy = place.set("tasks", Verb::Update, text).unwrap();
    assert_eq!(pairs(&policy), [("members", "role"), ("members", "team"), ("members", "user")]);
    // Claims may hold lists.
    let text = "team IN (SELECT value FROM json_each(auth_json(), '$.teams'))";
    assert_eq!(pairs(&place.set("tasks", Verb::Select, text).unwrap()), []);
    // A chain of any length.
    let text = "auth_userid() IN (WITH RECURSIVE up(u) AS (SELECT tasks.owner UNION SELECT role FROM members JOIN up ON user = u) SELECT u FROM up)";
    place.set("tasks", Verb::Select, text).unwrap();
}

#[test]
fn hostile_expressions_are_refused() {
    let (mut place, mut wrong) = (place(), Vec::new());
    for (text, reason) in [
        ("1) OR (1", "closes a parenthesis"),
        ("1) UNION SELECT (1", "closes a parenthesis"),
        ("1; DROP TABLE tasks", "semicolon"),
        ("1 /*", "comment"),
        ("owner = \"alice\"", "no such column"),
        ("stranger = 1", "no such column"),
        ("nobody.id = 1", "no such column"),
        ("EXISTS(SELECT 1 FROM unknown)", "no such table"),
        ("main.tasks.owner = 'a'", "no such column"),
        ("random() > 0", "random()"),
        ("owner < datetime('now')", "datetime()"),
        ("owner < CURRENT_TIMESTAMP", "current_timestamp()"),
        ("date() > owner", "date()"),
        ("julianday(owner) > 1", "julianday()"),
        ("changes() = 0", "changes()"),
        ("last_insert_rowid() = 0", "last_insert_rowid()"),
        ("sqlite_version() = '3'", "sqlite_version()"),
        ("load_extension('x')", "load_extension"),
        ("cloudsync_uuid() = owner", "cloudsync_uuid"),
        ("(SELECT group_concat(user) FROM members) = 'a'", "group_concat()"),
        ("(SELECT row_number() OVER () FROM members) = 1", "row_number()"),
        ("EXISTS(SELECT 1 FROM pragma_table_info('tasks'))", "pragma_table_info"),
        ("EXISTS(SELECT 1 FROM words WHERE words MATCH 'a')", "match()"),
        ("EXISTS(SELECT 1 FROM words)", "cannot be watched"),
        ("EXISTS(SELECT 1 FROM clock WHERE r > 0)", "random()"),
        ("EXISTS(SELECT 1 FROM sqlite_master)", "sqlite_master"),
        ("EXISTS(SELECT 1 FROM cloudsync_settings)", "cloudsync_settings"),
        ("EXISTS(SELECT 1 FROM cloudsync_twins.tasks)", "cloudsync_twins"),
        ("EXISTS(SELECT 1 FROM temp.sqlite_master)", "sqlite_"),
        ("rowid = 1", "ROWID"),
        ("EXISTS(SELECT 1 FROM members WHERE _rowid_ = 1)", "ROWID"),
        ("RAISE(ABORT, 'x')", "RAISE"),
        ("count(*) > 0", "misuse of aggregate"),
        ("owner = ?1", "parameter"),
        ("DELETE FROM tasks", "syntax error"),
        ("EXISTS(DELETE FROM tasks RETURNING 1)", "syntax error"),
        ("PRAGMA foreign_keys", "syntax error"),
        ("owner COLLATE mine = 'a'", "no such collation"),
        ("", "empty"),
        ("1, 2", "row value misused"),
        ("*", "syntax error"),
    ] {
        let refused = place.set("tasks", Verb::Select, text).map_or_else(|why| why, |_| "taken".to_owned());
        if !refused.to_lowercase().contains(&reason.to_lowercase()) {
            wrong.push((text, refused));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let long = format!("owner = '{}'", "x".repeat(8 << 10));
    assert!(place.set("tasks", Verb::Select, &long).unwrap_err().contains("bytes"));
    assert!(place.set("none", Verb::Select, "1").unwrap_err().contains("no table"));
    for (verb, text) in [(Verb::Insert, "OLD.n = 1"), (Verb::Delete, "NEW.n = 1")] {
        assert!(place.set("tasks", verb, text).unwrap_err().contains("no such column"), "{text}");
    }
    // Nothing was stored, and the connection is as it was.
    assert_eq!(history(&place.connection, None).unwrap(), []);
    place.connection.execute_batch("CREATE TABLE still(works); DROP TABLE still").unwrap();
}

#[test]
fn the_row_is_meant_in_every_way_of_naming_it() {
    let mut place = place();
    place
        .connection
        .execute_batch("INSERT INTO tasks(id, owner, n, team) VALUES('a', 'ALICE', 5, 1), ('b', 'bob', 6, 2)")
        .unwrap();
    for text in [
        "owner = auth_userid()",
        "tasks.owner = auth_userid()",
        "OLD.owner = auth_userid()",
        "NEW.owner = auth_userid() AND OLD.n = '5' AND n = '5' AND OLD.twice = 10",
        "EXISTS(SELECT 1 FROM tasks WHERE tasks.id = OLD.id AND OLD.owner = auth_userid())",
        "n = '5' -- an integer column",
        "team IN (SELECT value FROM json_each(auth_json(), '$.teams'))",
        "[owner] = auth_userid() AND \"n\" IN ('5')",
    ] {
        place.set("tasks", Verb::Select, text).unwrap();
        assert_eq!(place.seen("tasks", "alice"), ["a"], "{text}");
    }
    // NULL is not true.
    place.set("tasks", Verb::Select, "note = 1").unwrap();
    assert!(place.seen("tasks", "alice").is_empty());
    // Names that seem to end what they stand in.
    let odd = "odd \" name)";
    place.set(odd, Verb::Select, "\"a ) b\" = auth_userid() AND [select] > 0 AND OLD.[select] > 0").unwrap();
    let policies = Policies::load(&mut place.connection).unwrap();
    let policy = policies.select_of(odd).unwrap();
    assert_eq!(policy.own_columns().iter().collect::<Vec<_>>(), ["a ) b", "select"]);
    place.connection.execute_batch("INSERT INTO new VALUES('x', 1)").unwrap();
    place.set("new", Verb::Select, "new.old = 1 AND old = 1").unwrap();
    assert_eq!(place.seen("new", "alice"), ["x"]);
}

#[test]
fn the_last_change_holds_and_all_are_kept() {
    let mut place = place();
    place.set("tasks", Verb::Select, "n = 1").unwrap();
    place.set("tasks", Verb::Select, "n = 2").unwrap();
    place.set("tasks", Verb::Insert, "n = 3").unwrap();
    let mut policies = Policies::load(&mut place.connection).unwrap();
    assert_eq!(policies.select_of("Tasks").unwrap().text(), "n = 2");
    assert!(!policies.refresh(&mut place.connection).unwrap());
    let clear = Change { table: "tasks", verb: Verb::Select, text: None, by: "owner", now_ms: 9_000 };
    change(&mut place.connection, &clear).unwrap();
    assert!(policies.refresh(&mut place.connection).unwrap());
    assert!(policies.select_of("tasks").is_none() && policies.of("tasks", Verb::Insert).is_some());
    let told: Vec<_> = history(&place.connection, Some("TASKS")).unwrap();
    let told: Vec<_> =
        told.iter().map(|entry| (entry.verb, entry.expression.as_deref(), entry.set.as_str())).collect();
    assert_eq!(
        told,
        [
            (Verb::Select, None, "1970-01-01T00:00:09Z"),
            (Verb::Insert, Some("n = 3"), "1970-01-01T00:00:01Z"),
            (Verb::Select, Some("n = 2"), "1970-01-01T00:00:01Z"),
            (Verb::Select, Some("n = 1"), "1970-01-01T00:00:01Z")
        ]
    );
}

#[test]
fn a_policy_that_the_schema_has_left_behind_denies() {
    let mut place = place();
    place.set("tasks", Verb::Select, "team = 1").unwrap();
    place.set("tasks", Verb::Insert, "n = 1").unwrap();
    let mut policies = Policies::load(&mut place.connection).unwrap();
    place.connection.execute_batch("ALTER TABLE tasks DROP COLUMN team").unwrap();
    assert!(policies.refresh(&mut place.connection).unwrap());
    assert!(policies.select_of("tasks").is_none());
    let fault = policies.of_table("tasks").find_map(Policy::fault).unwrap();
    assert!(fault.contains("no such column: team"), "{fault}");
    // The other one still fits, also a table that has become another one.
    assert!(policies.of("tasks", Verb::Insert).is_some());
    place.connection.execute_batch("DROP TABLE tasks").unwrap();
    policies.refresh(&mut place.connection).unwrap();
    assert!(policies.of("tasks", Verb::Insert).is_none());
    place.connection.execute_batch("CREATE TABLE tasks(id TEXT PRIMARY KEY, team, n)").unwrap();
    policies.refresh(&mut place.connection).unwrap();
    assert!(policies.select_of("tasks").is_some());
}

#[test]
fn refused_text_names_the_policy() {
    let mut place = place();
    let wanted = Change { table: "tasks", verb: Verb::Update, text: Some("x"), by: "test", now_ms: 1 };
    let error = change(&mut place.connection, &wanted).unwrap_err();
    assert!(matches!(error, PolicyError::Refused { verb: Verb::Update, .. }), "{error}");
    assert_eq!(error.to_string(), "the UPDATE policy of table \"tasks\" is refused: no such column: x");
}

#[test]
fn every_way_of_reading_a_column_is_seen() {
    let mut place = place();
    place
        .connection
        .execute_batch(
            "CREATE TABLE roles(role TEXT PRIMARY KEY, may INT);
             CREATE VIEW joined AS SELECT user FROM members JOIN roles USING(role);
             CREATE VIEW bare AS SELECT * FROM members; CREATE VIEW twice_over AS SELECT user FROM joined;",
        )
        .unwrap();
    for text in [
        "EXISTS(SELECT 1 FROM members WHERE role = 'x')",
        "EXISTS(SELECT 1 FROM members JOIN roles USING(role))",
        "EXISTS(SELECT 1 FROM roles JOIN members USING(role))",
        "EXISTS(SELECT 1 FROM members NATURAL JOIN roles)",
        "EXISTS(SELECT 1 FROM members LEFT JOIN roles USING(role))",
        "EXISTS(SELECT 1 FROM roles RIGHT JOIN members USING(role))",
        "EXISTS(SELECT 1 FROM roles FULL JOIN members USING(role))",
        "owner IN (SELECT user FROM joined)",
        "owner IN (SELECT user FROM twice_over)",
        "(n, owner, note) IN (SELECT * FROM members)",
        "(n, owner, note) IN members",
        "(n, owner, note) IN bare",
        "EXISTS(WITH m AS (SELECT * FROM members) SELECT 1 FROM m)",
        "EXISTS(SELECT 1 FROM (SELECT * FROM members) AS m)",
        "EXISTS(SELECT team FROM members ORDER BY role)",
        "EXISTS(SELECT count(*) FROM members GROUP BY role)",
        "EXISTS(SELECT 1 FROM members GROUP BY team HAVING max(role) > 'a')",
        "EXISTS(SELECT role FROM members INTERSECT SELECT role FROM roles)",
        "EXISTS(SELECT 1 FROM members AS m WHERE EXISTS(SELECT 1 FROM roles WHERE roles.role = m.role))",
        "EXISTS(SELECT 1 FROM members, json_each(members.role))",
    ] {
        let policy = place.set("tasks", Verb::Select, text).unwrap();
        assert_eq!(policy.fault(), None, "{text}");
        assert!(pairs(&policy).contains(&("members", "role")), "{text}: {:?}", policy.reads());
    }
    for text in [
        "EXISTS(SELECT 1 FROM cloudsync_settings NATURAL JOIN (SELECT 'key' AS key))",
        "EXISTS(SELECT 1 FROM cloudsync_settings AS a JOIN cloudsync_settings AS b USING(key))",
        "EXISTS(SELECT 1 FROM sqlite_schema AS a JOIN sqlite_schema AS b USING(name))",
    ] {
        assert!(
            place.set("tasks", Verb::Select, text).unwrap_err().contains("not a table of the app"),
            "{text}"
        );
    }
}
