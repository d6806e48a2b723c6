//! The use cases of `docs/policies.md`, as they stand there.

use crate::place::asker_with;
use crate::server::Server;
use cloudsync_server::policy::{Attempt, Change, Identity, Law, Policies, Policy, Probe, Verb, probe};
use cloudsync_server::store::Asker;
use cloudsync_server::store::sqlite::change_policies;
use rusqlite::Connection;
use serde_json::{Map, Value, json};

/// A use case: its title, schema, and policies by table and verb.
pub(crate) struct UseCase {
    pub(crate) title: String,
    pub(crate) schema: String,
    pub(crate) policies: Vec<(String, Verb, String)>,
}

/// The use cases of the documentation.
pub(crate) fn use_cases() -> Vec<UseCase> {
    let page = include_str!("../../../../docs/policies.md");
    let sections = page.split("\n## ").filter(|section| section.contains("```sql"));
    sections
        .map(|section| {
            let block = |kind: &str| section.split(kind).nth(1).unwrap().split("```").next().unwrap();
            let commands = block("```sh\n").lines().filter(|line| !line.is_empty());
            let policies = commands.flat_map(|line| {
                let words: Vec<_> = line.split('"').collect();
                let table = words[0].split_whitespace().nth(4).unwrap().to_owned();
                let pairs = words.chunks(2).filter(|pair| pair.len() == 2);
                let policies: Vec<_> = pairs
                    .map(|pair| {
                        let name = pair[0].trim().rsplit("--").next().unwrap();
                        let verb = Verb::ALL.into_iter().find(|verb| verb.name().eq_ignore_ascii_case(name));
                        (table.clone(), verb.unwrap(), pair[1].to_owned())
                    })
                    .collect();
                policies
            });
            UseCase {
                title: section.lines().next().unwrap().to_owned(),
                schema: block("```sql\n").to_owned(),
                policies: policies.collect(),
            }
        })
        .collect()
}

impl UseCase {
    /// A server of it.
    pub(crate) fn server(&self) -> Server {
        let server = Server::in_memory(&self.schema);
        let wanted: Vec<_> = self
            .policies
            .iter()
            .map(|(table, verb, text)| Change {
                table,
                verb: *verb,
                text: Some(text),
                by: "the page",
                now_ms: 1,
            })
            .collect();
        change_policies(&server.path, &wanted).unwrap();
        server
    }
}

/// Users with all kinds of claims.
pub(crate) fn users() -> Vec<Asker> {
    let claims = [
        ("alice", json!({ "team": "x", "tenant": "x", "lead": true, "role": "admin" })),
        ("bob", json!({ "team": "x", "tenant": "y" })),
        ("carol", json!({ "team": "y", "tenant": "x", "lead": false })),
        ("dan", json!({})),
        ("o'brien \"; --", json!({ "team": "'x", "tenant": null })),
    ];
    claims.into_iter().map(|(user, claims)| asker_with(user, claims)).collect()
}

/// Rows of few values, so that everything meets.
fn fill(connection: &Connection, tables: &[String]) {
    for table in tables {
        let columns: Vec<String> =
            names(connection, &format!("SELECT name FROM pragma_table_info('{table}')"));
        let value = |column: &String| {
            let few = match column.as_str() {
                "owner" | "author" | "user" | "student" => {
                    "'alice', 'bob', 'carol', 'dan', 'ALICE', 'o''brien \"; --'"
                }
                "role" => "'admin', 'member', 'teacher', 'student'",
                "done" => "0, 1",
                "day" | "grade" | "stock" | "price" => "NULL, 1, '2', 3.0, x'04'",
                "id" if !columns.contains(&"tenant".to_owned()) => return "'k' || n".to_owned(),
                _ => "'x', 'y', 'z', 'k1', 'k2', 'k3'",
            };
            let values: Vec<_> = few.split(", ").collect();
            let whens = values.iter().enumerate().map(|(at, value)| format!("WHEN {at} THEN {value} "));
            format!("CASE abs(random()) % {} {}END", values.len(), whens.collect::<String>())
        };
        let values: Vec<_> = columns.iter().map(value).collect();
        let sql = format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 60) \
             INSERT OR IGNORE INTO \"{table}\" SELECT {} FROM n",
            values.join(", ")
        );
        connection.execute_batch(&sql).unwrap();
    }
}

pub(crate) fn names(connection: &Connection, sql: &str) -> Vec<String> {
    let mut select = connection.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// The text with the user written into it, as the naive way to evaluate it.
pub(crate) fn written(text: &str, asker: &Asker) -> String {
    let user = asker.user.as_ref().unwrap();
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let claims = Value::Object(user.claims.clone()).to_string();
    text.replace("auth_userid()", &literal(&user.id)).replace("auth_json()", &literal(&claims))
}

fn rows(connection: &Connection, table: &str, condition: &str) -> Vec<i64> {
    let sql = format!("SELECT rowid FROM \"{table}\" WHERE {condition} ORDER BY rowid");
    let mut select = connection.prepare(&sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_policy_of_the_documentation_is_what_sqlite_says_of_the_whole_table() {
    let mut compared = 0;
    let cases = use_cases();
    assert_eq!(cases.len(), 5);
    for case in &cases {
        let server = case.server();
        let mut law = Law::new(Connection::open(&server.path).unwrap()).unwrap();
        let (policies, identity, connection) = law.now().unwrap();
        let tables: std::collections::BTreeSet<_> =
            case.policies.iter().map(|(table, ..)| table.clone()).collect();
        fill(connection, &tables.into_iter().collect::<Vec<_>>());
        for asker in users() {
            for (table, verb, text) in &case.policies {
                let place = format!("{}: {verb:?} of {table} for {:?}", case.title, asker.user_id());
                assert!(policies.of(table, *verb).is_some(), "{place}");
                let naive = written(text, &asker).replace("OLD.", &format!("{table}."));
                match verb {
                    Verb::Select => {
                        let expected = rows(connection, table, &naive);
                        let condition = policies.select_of(table).map_or("0", Policy::condition);
                        let _assumed = identity.assume(asker.user.as_ref().unwrap());
                        assert_eq!(rows(connection, table, condition), expected, "{place}");
                        compared += expected.len();
                    }
                    Verb::Delete => {
                        let seen = &case
                            .policies
                            .iter()
                            .find(|(of, verb, _)| of == table && *verb == Verb::Select)
                            .unwrap()
                            .2;
                        let both = format!("({naive}) AND ({})", written(seen, &asker));
                        let expected = rows(connection, table, &both);
                        assert_eq!(
                            deletable(connection, policies, identity, table, &asker),
                            expected,
                            "{place}"
                        );
                        compared += expected.len();
                    }
                    Verb::Insert | Verb::Update => {}
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

/// The rows of which a user is said to be let to delete them.
fn deletable(
    connection: &Connection,
    policies: &Policies,
    identity: &Identity,
    table: &str,
    asker: &Asker,
) -> Vec<i64> {
    let keys =
        names(connection, &format!("SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk"));
    rows(connection, table, "1")
        .into_iter()
        .filter(|rowid| {
            let key: Map<String, Value> = keys
                .iter()
                .map(|key| {
                    let sql = format!("SELECT \"{key}\" FROM \"{table}\" WHERE rowid = {rowid}");
                    (key.clone(), names(connection, &sql).remove(0).into())
                })
                .collect();
            let attempt = Attempt::Delete(key);
            let user = asker.user.as_ref().unwrap();
            let wanted = Probe { table, user, rows: 0, attempt: Some(&attempt) };
            probe(connection, policies, identity, &wanted).unwrap().allowed == Some(true)
        })
        .collect()
}
