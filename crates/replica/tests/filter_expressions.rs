//! What the expression of a row filter may say, and what it means.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, pair, sync_by_payload};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER)";

#[test]
fn expressions_mean_what_they_mean_in_a_query() {
    let schema = "CREATE TABLE odd(\"a b\" TEXT COLLATE NOCASE, n INTEGER, r REAL, \"end\" NUMERIC, x, \
                  g AS (n + 1), PRIMARY KEY(n, \"a b\")) WITHOUT ROWID";
    for filter in [
        "\"a b\" = 'ABC'",
        "n = '5'",
        "'5' = n",
        "r = '2.5'",
        "\"end\" IN ('7')",
        "x = '5'",
        "x = 5",
        "n BETWEEN '4' AND '6'",
        "CASE n WHEN '5' THEN 'yes' END",
        "[a b] = 5",
        "g = '6'",
        "n",
        "\"a b\"",
        "NULL",
        "typeof(x) = 'blob'",
        "x IS NOT NULL AND NOT n > 5",
        "`a b` LIKE 'AB%'",
        "coalesce(x, 1)",
    ] {
        let (mut a, mut b) = pair(schema);
        a.replica.set_filter("odd", filter).unwrap();
        let values = "INSERT INTO odd(\"a b\", n, r, \"end\", x) VALUES('abc', 5, 2.5, '7', '5'), ('Abd', 6, 2, 7.5, 5), \
                      ('5', 5, NULL, NULL, NULL), ('', 0, '2.5', 'q', x'35'), ('z', '5', 1, 1, '5')";
        a.run(values);
        sync_by_payload(&mut a, &mut b);
        let inside = format!("SELECT \"a b\", n, r, \"end\", x FROM odd WHERE {filter} ORDER BY 1, 2");
        let all = "SELECT \"a b\", n, r, \"end\", x FROM odd ORDER BY 1, 2";
        assert_eq!(b.rows(all), a.rows(&inside), "{filter}");
        a.run("UPDATE odd SET n = 11 - n, \"a b\" = upper(\"a b\"), r = r / 2, x = n, \"end\" = '7'");
        sync_by_payload(&mut a, &mut b);
        assert_eq!(b.rows(all), a.rows(&inside), "{filter}, after an update");
        a.run("DELETE FROM odd WHERE n > 5");
        sync_by_payload(&mut a, &mut b);
        assert_eq!(b.rows(all), a.rows(&inside), "{filter}, after a deletion");
    }
}

#[test]
fn the_expression_is_checked_when_it_is_set() {
    let (mut a, _) = pair(NOTES);
    for (expression, reason) in [
        ("", "empty"),
        ("stranger = 1", "no column \"stranger\""),
        ("public = ", "syntax error"),
        ("public = 1 ORDER", "no column \"ORDER\""),
        ("random() > 0", "random()"),
        ("max(public) = 1", "misuse of aggregate"),
        ("id IN (SELECT id FROM notes)", "subquery"),
        ("public = ?1", "parameters"),
        ("(public, title)", "row value"),
    ] {
        let error = a.replica.set_filter("notes", expression).unwrap_err().to_string();
        assert!(
            error.contains(reason) && error.contains("filter of table \"notes\""),
            "{expression}: {error}"
        );
    }
    assert!(a.replica.set_filter("other", "1").unwrap_err().to_string().contains("\"other\" does not sync"));
    assert!(a.replica.clear_filter("other").unwrap_err().to_string().contains("\"other\" does not sync"));
    a.replica.clear_filter("notes").unwrap();
}

#[test]
fn tables_of_other_algorithms_have_no_filters() {
    for algorithm in ["dws", "aws", "gos"] {
        let mut a = Device::empty(1);
        a.run(NOTES);
        a.replica.init("notes", algorithm, 0).unwrap();
        let error = a.replica.set_filter("notes", "public = 1").unwrap_err().to_string();
        assert!(error.contains(algorithm) && error.contains("cls"), "{error}");
    }
}
