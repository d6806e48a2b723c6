//! Policies from the command line and over HTTP, of the running program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod program;

use program::Place;
use serde_json::{Value, json};

// language=SQLite
const SCHEMA: &str = "
CREATE TABLE teams(id TEXT PRIMARY KEY NOT NULL);
CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, mail TEXT UNIQUE, n INTEGER CHECK(n > 0), team TEXT REFERENCES teams);
CREATE TABLE numbered(id INTEGER PRIMARY KEY NOT NULL, owner TEXT);
CREATE TABLE secrets(word TEXT PRIMARY KEY NOT NULL);
INSERT INTO notes VALUES('a', 'alice', '1', 5, NULL), ('a2', 'alice', '2', 5, NULL), ('b', 'bob', '3', 5, NULL);
";

fn begin() -> Place {
    let place = Place::new();
    place.run(&["db", "create", "one"]);
    let schema = place.data.join("schema.sql");
    std::fs::write(&schema, SCHEMA).unwrap();
    place.run(&["db", "sql", "one", schema.to_str().unwrap()]);
    for table in ["notes", "teams", "numbered"] {
        place.run(&["table", "enable", "one", table]);
    }
    place
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.run(&[arguments, &["--json"]].concat())).unwrap()
}

const OWN: &str = "owner = auth_userid()";

#[test]
fn policies_are_set_shown_and_cleared_with_their_history() {
    let place = begin();
    let set = json(&place, &["policy", "set", "one", "Notes", "--select", OWN, "--delete", OWN]);
    assert_eq!(set["policies"][0]["table"], "notes");
    assert_eq!(set["policies"].as_array().unwrap().len(), 2);
    place.run(&[
        "policy",
        "set",
        "one",
        "notes",
        "--select",
        "EXISTS(SELECT 1 FROM teams WHERE id = notes.team)",
    ]);
    let shown = json(&place, &["policy", "show", "one", "notes"]);
    assert_eq!(shown.as_array().unwrap().len(), 2);
    assert_eq!((&shown[1]["policy"], &shown[1]["reads"]), (&json!("SELECT"), &json!(["teams"])));
    assert!(place.run(&["policy", "show", "one"]).contains("EXISTS(SELECT 1 FROM teams"));
    let cleared = json(&place, &["policy", "clear", "one", "notes", "delete"]);
    assert_eq!(cleared["cleared"], json!(["DELETE"]));
    place.run(&["policy", "clear", "one", "notes"]);
    assert_eq!(json(&place, &["policy", "show", "one"]), json!([]));
    let history = json(&place, &["policy", "show", "one", "notes", "--history"]);
    let texts: Vec<_> = history.as_array().unwrap().iter().map(|entry| &entry["expression"]).collect();
    let teams = json!("EXISTS(SELECT 1 FROM teams WHERE id = notes.team)");
    assert_eq!(texts, [&Value::Null, &Value::Null, &teams, &json!(OWN), &json!(OWN)]);
    assert!(history[0]["set_by"].as_str().unwrap().contains("command line"));
    assert!(history[0]["set"].as_str().unwrap().starts_with("20"));
    // All or nothing.
    let error = place.fail(&["policy", "set", "one", "notes", "--select", OWN, "--insert", "random() > 0"]);
    assert!(error.contains("INSERT policy of table \"notes\"") && error.contains("random()"), "{error}");
    assert_eq!(json(&place, &["policy", "show", "one"]), json!([]));
    for (arguments, expected) in [
        (vec!["policy", "set", "none", "notes", "--select", "1"], "no database none"),
        (vec!["policy", "set", "one", "nothing", "--select", "1"], "no table"),
        (vec!["policy", "set", "one", "n'; DROP TABLE notes; --", "--select", "1"], "no table"),
        (vec!["policy", "test", "one", "notes", "--user", "a", "--claims", "[]"], "no JSON object"),
        (vec!["policy", "test", "one", "none", "--user", "a"], "no table"),
        (vec!["policy", "plan", "one", "notes", "--select", "1; 2"], "semicolon"),
    ] {
        let error = place.fail(&arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn setting_a_policy_warns_of_what_surprises() {
    let place = begin();
    let warnings = |arguments: &[&str]| {
        let set = json(&place, arguments);
        set["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let told = warnings(&["policy", "set", "one", "notes", "--select", OWN]);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("warning: notes UNIQUE (mail): "), "{told:#?}");
    assert!(told[1].starts_with("advice: notes.team: rows of teams may be invisible"), "{told:#?}");
    // The same that is said of the table.
    let checked = place.command(["table", "check", "one", "notes"]).output().unwrap();
    let checked = program::text(&checked.stdout);
    assert!(told.iter().all(|line| checked.lines().any(|found| found == line)), "{told:#?} {checked}");
    // Nothing of it where all see the parents, and the constraint has the tenant.
    let told = warnings(&["policy", "set", "one", "teams", "--select", "1"]);
    assert!(told.is_empty(), "{told:#?}");
    let told = warnings(&["policy", "set", "one", "notes", "--select", "mail = auth_userid()"]);
    assert!(told.is_empty(), "{told:#?}");
    let told = warnings(&["policy", "set", "one", "numbered", "--select", OWN]);
    assert!(told[0].starts_with("warning: numbered.id: a lone INTEGER key"), "{told:#?}");
    let told =
        warnings(&["policy", "set", "one", "teams", "--insert", "NEW.id IN (SELECT word FROM secrets)"]);
    assert!(told[0].contains("reads secrets, which does not sync"), "{told:#?}");
    assert!(warnings(&["policy", "set", "one", "secrets", "--select", "1"])[0].contains("does not sync"));
    assert!(
        place.run(&["policy", "set", "one", "numbered", "--select", OWN]).contains("warning: numbered.id")
    );
}

#[test]
fn policies_are_tried_as_a_user() {
    let place = begin();
    let test = |more: &[&str]| {
        json(&place, &[&["policy", "test", "one", "notes", "--user", "alice"], more].concat())
    };
    assert_eq!(test(&[]), json!({ "sees": 0, "of": 3, "rows": [] }));
    let changes = "OLD.owner = auth_userid() AND NEW.owner = OLD.owner AND NEW.n < auth_json() ->> '$.most'";
    place.run(&["policy", "set", "one", "notes", "--select", OWN, "--insert", OWN, "--update", changes]);
    let seen = test(&["--rows", "1"]);
    assert_eq!(
        (&seen["sees"], &seen["of"], seen["rows"].as_array().unwrap().len()),
        (&json!(2), &json!(3), 1)
    );
    assert_eq!(seen["rows"][0]["owner"], "alice");
    for (attempt, row, allowed, why) in [
        ("--insert", r#"{"id": "c", "owner": "alice", "n": 1}"#, true, ""),
        ("--insert", r#"{"id": "c", "OWNER": "bob", "n": 1}"#, false, "INSERT policy does not allow"),
        ("--insert", r#"{"id": "b", "owner": "alice", "n": 1}"#, false, "of this key exists"),
        ("--insert", r#"{"id": "c", "owner": "alice", "n": -1}"#, false, "CHECK constraint"),
        ("--update", r#"{"id": "a", "n": 9}"#, true, ""),
        ("--update", r#"{"id": "a", "n": 10}"#, false, "UPDATE policy does not allow"),
        ("--update", r#"{"id": "a", "owner": "bob"}"#, false, "UPDATE policy does not allow"),
        ("--update", r#"{"id": "b", "n": 1}"#, false, "does not see"),
        ("--update", r#"{"id": "c", "n": 1}"#, false, "no row of this key"),
        ("--delete", r#"{"id": "a"}"#, false, "no DELETE policy"),
    ] {
        let told = test(&["--claims", r#"{"most": 10}"#, attempt, row]);
        assert_eq!(told["allowed"], allowed, "{attempt} {row}: {told}");
        assert!(told["why"].as_str().unwrap_or_default().contains(why), "{attempt} {row}: {told}");
    }
    let error = place.fail(&["policy", "test", "one", "notes", "--user", "a", "--insert", r#"{"x": 1}"#]);
    assert!(error.contains("no column \"x\""), "{error}");
    let error = place.fail(&["policy", "test", "one", "notes", "--user", "a", "--delete", "{}"]);
    assert!(error.contains("the key \"id\""), "{error}");
    // Nothing was written.
    assert_eq!(test(&[])["of"], 3);
}

#[test]
fn a_plan_says_who_would_gain_and_lose_what() {
    let place = begin();
    place.run(&["policy", "set", "one", "notes", "--select", OWN]);
    for (user, claims) in [("alice", "{}"), ("bob", r#"{"admin": true}"#), ("carol", "{}")] {
        place.run(&["token", "create", "one", user, "--claims", claims]);
    }
    let admins = "owner = auth_userid() AND id <> 'a2' OR auth_json() ->> '$.admin'";
    let plan = json(&place, &["policy", "plan", "one", "notes", "--select", admins]);
    assert_eq!(
        (&plan["users"], &plan["gains"], &plan["loses"], &plan["looked_at"]),
        (&json!(2), &json!(2), &json!(1), &json!(3))
    );
    assert_eq!(
        plan["shifts"][0],
        json!({ "user": "bob", "devices": 0, "gains": 2, "loses": 0, "claims_known": true })
    );
    let plan = json(&place, &["policy", "plan", "one", "notes"]);
    assert_eq!((&plan["users"], &plan["gains"], &plan["loses"]), (&json!(2), &json!(0), &json!(3)));
    assert!(
        place
            .run(&["policy", "plan", "one", "notes"])
            .contains("2 of 3 users with 0 devices would gain 0 rows and lose 3")
    );
    // Nothing was set by it.
    assert_eq!(json(&place, &["policy", "show", "one"])[0]["expression"], OWN);
}

#[test]
fn the_status_of_a_database_is_for_its_administrators() {
    let place = begin();
    let server = place.serve(&[]);
    let key = |scopes: &str| {
        place.run(&["key", "create", "--database", "one", "--scopes", scopes]).trim_end().to_owned()
    };
    let ask = |key: &str| server.ask("GET", "/v1/databases/one/status", key, "");
    let found = ask(&key("admin"));
    assert_eq!(found.status, 200);
    let found = found.json();
    assert!(found["version"].as_u64().is_some(), "{found}");
    assert_eq!((&found["listeners"], &found["visibility_recomputations"]), (&json!(0), &json!(0)));
    let token = place.run(&["token", "create", "one", "alice"]).trim_end().to_owned();
    for (key, status) in [(&*key("read,write,schema"), 403), (&*token, 403), ("csk_none", 401)] {
        assert_eq!(ask(key).status, status);
    }
}

#[test]
fn policies_are_administered_over_http_by_administrators_only() {
    let place = begin();
    let server = place.serve(&[]);
    let key = |scopes: &str| {
        place.run(&["key", "create", "--database", "one", "--scopes", scopes]).trim_end().to_owned()
    };
    let (admin, writer) = (key("admin"), key("read,write,schema"));
    let token = place.run(&["token", "create", "one", "alice"]).trim_end().to_owned();
    let ask = |method: &str, path: &str, key: &str, body: &str| {
        server.ask(method, &format!("/v1/databases/one/policies{path}"), key, body)
    };
    let set = ask("PUT", "/notes", &admin, &json!({ "select": OWN, "insert": OWN }).to_string());
    assert_eq!((set.status, set.json()["policies"].as_array().unwrap().len()), (200, 2));
    let taken = ask("PUT", "/notes", &admin, r#"{"insert": null}"#);
    assert_eq!((taken.status, taken.json()["policies"].as_array().unwrap().len()), (200, 1));
    let listed = ask("GET", "", &admin, "").json();
    assert_eq!(listed["policies"][0]["expression"], OWN);
    let history = ask("GET", "/notes/history", &admin, "").json();
    assert!(history["changes"][0]["set_by"].as_str().unwrap().starts_with("key "), "{history}");
    let trial = json!({ "user": "alice", "attempt": { "insert": { "id": "x" } } }).to_string();
    let tried = ask("POST", "/notes/test", &admin, &trial).json();
    assert_eq!((&tried["sees"], &tried["allowed"]), (&json!(2), &json!(false)));
    let plan = ask("POST", "/notes/plan", &admin, r#"{"select": "1"}"#).json();
    assert_eq!((&plan["users"], &plan["gains"]), (&json!(1), &json!(1)));

    let bad = |answer: program::Answer| answer.error();
    let refused = (400, "CLOUDSYNC_BAD_REQUEST".to_owned());
    assert_eq!(bad(ask("PUT", "/notes", &admin, r#"{"select": "1) OR (1"}"#)), refused);
    assert_eq!(bad(ask("PUT", "/notes", &admin, r#"{"selekt": "1"}"#)), refused);
    assert_eq!(bad(ask("PUT", "/none", &admin, r#"{"select": "1"}"#)), refused);
    assert_eq!(bad(ask("PUT", "/..%2f..%2fx%00", &admin, r#"{"select": "1"}"#)), refused);
    for (method, path, body) in [
        ("GET", "", ""),
        ("GET", "/notes/history", ""),
        ("PUT", "/notes", r#"{"select": "1"}"#),
        ("PUT", "/notes", "rubbish"),
        ("POST", "/notes/test", &*trial),
        ("POST", "/notes/plan", "{}"),
    ] {
        for key in [&writer, &token] {
            assert_eq!(
                bad(ask(method, path, key, body)),
                (403, "CLOUDSYNC_FORBIDDEN".to_owned()),
                "{method} {path}"
            );
        }
        assert_eq!(
            bad(ask(method, path, "csk_none", body)),
            (401, "CLOUDSYNC_REFUSED_KEY".to_owned()),
            "{method} {path}"
        );
    }
    assert_eq!(ask("GET", "", &admin, "").json()["policies"][0]["expression"], OWN);
}
