//! Tables change while they sync: by our bracket, and behind our back.

#![allow(clippy::unwrap_used)]

mod bench;

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
