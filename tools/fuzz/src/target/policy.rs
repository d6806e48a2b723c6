use std::cell::RefCell;

use cloudsync_server::auth::User;
use cloudsync_server::policy::{Change, Law, PolicyError, Verb, change, prepare_file};
use rusqlite::Connection;

use crate::{device, input};

thread_local! {
    static LAW: RefCell<Option<Law>> = const { RefCell::new(None) };
}

const MEMBERS: &str = "
    CREATE TABLE members(user TEXT, team INTEGER, role TEXT COLLATE NOCASE, PRIMARY KEY(user, team));
    INSERT INTO members VALUES('alice', 1, 'owner'), ('bob', 1, 'reader'), ('alice', 2, NULL);";

fn law() -> Law {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(device::TABLES).unwrap();
    connection.execute_batch(device::ROWS).unwrap();
    connection.execute_batch(MEMBERS).unwrap();
    prepare_file(&connection).unwrap();
    Law::new(connection).unwrap()
}

/// The choices: bits 0 and 1 the verb, bit 2 the table.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let text = String::from_utf8_lossy(rest);
    let verb = Verb::ALL[usize::from(choices & 3)];
    let table = if choices & 4 == 0 { "notes" } else { "TAGS" };
    LAW.with_borrow_mut(|law| {
        let law = law.get_or_insert_with(self::law);
        let (_, _, connection) = law.now().unwrap();
        connection.execute_batch("BEGIN").unwrap();
        let before = device::own_rows(connection);
        let wanted = Change { table, verb, text: Some(&text), by: "fuzz", now_ms: 0 };
        match change(connection, &wanted) {
            Err(PolicyError::Refused { why, .. }) => assert!(!why.is_empty()),
            Err(error) => panic!("{text:?}: neither taken nor refused: {error}"),
            Ok(None) => panic!("{text:?} was taken for nothing"),
            Ok(Some(_)) => judge(law, table, verb, &text),
        }
        assert_eq!(device::own_rows(law.connection()), before);
        law.connection().execute_batch("ROLLBACK").unwrap();
        law.forget();
    });
}

/// What is taken is a condition and nothing else.
fn judge(law: &mut Law, table: &str, verb: Verb, text: &str) {
    let (policies, identity, connection) = law.now().unwrap();
    let policy = policies.of(table, verb).unwrap_or_else(|| panic!("{text:?} was taken and does not hold"));
    assert_eq!(policy.text(), text);
    for (read, _) in policy.reads() {
        assert!(
            ["notes", "tags", "kept", "members"].contains(&&*read.to_ascii_lowercase()),
            "{text:?} reads {read}"
        );
    }
    if verb != Verb::Select {
        return;
    }
    let _assumed = identity.assume(&User { id: "alice".to_owned(), claims: serde_json::Map::new() });
    let condition = policy.condition();
    for (sql, expected) in [
        // It stays in its parentheses: what stands around it holds.
        (format!("SELECT count(*) FROM main.{table} WHERE 0 AND {condition}"), Some(0)),
        (
            format!("SELECT count(*) FROM main.{table} WHERE 1 OR {condition}"),
            Some(3 - i64::from(table == "TAGS")),
        ),
        (format!("SELECT count(*) FROM main.{table} WHERE {condition}"), None),
    ] {
        let select = connection.prepare(&sql);
        let mut select = select.unwrap_or_else(|error| panic!("{text:?}: {sql}: {error}"));
        assert!(select.readonly() && select.parameter_count() == 0 && select.column_count() == 1, "{text:?}");
        match (select.query_row([], |row| row.get::<_, i64>(0)), expected) {
            (Ok(count), Some(expected)) => assert_eq!(count, expected, "{text:?}: {sql}"),
            (Ok(count), None) => assert!((0..=3).contains(&count)),
            (Err(error), _) => assert!(policy.may_fail(), "{text:?} fails: {error}"),
        }
    }
}
