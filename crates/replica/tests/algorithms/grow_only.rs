//! Tables of the algorithm `gos`.

use super::*;

#[test]
fn gos_refuses_deletions_and_changes_of_keys() {
    let [mut a, mut b, _] = devices("gos", NOTES, ROW);
    let error = |sql: &str| a.sql.execute_batch(sql).unwrap_err().to_string();
    for sql in ["DELETE FROM notes", "DELETE FROM notes WHERE id = '1'"] {
        let text = error(sql);
        assert!(text.contains("grow-only table \"notes\"") && text.contains("cannot be deleted"), "{text}");
    }
    for sql in [
        "UPDATE notes SET id = '2'",
        "UPDATE OR IGNORE notes SET id = '2'",
        "UPDATE OR REPLACE notes SET id = '2'",
    ] {
        let text = error(sql);
        assert!(text.contains("the key of a row of the grow-only table \"notes\""), "{text}");
    }
    assert_eq!(a.dump("notes"), ["'1','title','body'"]);
    a.run_at(200, "UPDATE notes SET id = '1', title = 'updated'");
    a.run_at(300, "INSERT OR REPLACE INTO notes VALUES('1', 'replaced', NULL)");
    a.run_at(400, "INSERT INTO notes VALUES('1', 'x', 'y') ON CONFLICT DO UPDATE SET body = 'upserted'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','replaced','upserted'"]);
    a.replica.cleanup("notes").unwrap();
    a.run("DELETE FROM notes");
}

#[test]
fn gos_takes_no_deletion_from_outside() {
    let [mut a, _, _] = devices("gos", NOTES, ROW);
    let mut other = device(9, "cls", NOTES);
    other.run_at(300, ROW);
    other.replica.fold().unwrap();
    other.run_at(400, "DELETE FROM notes");
    sync_by_payload(&mut other, &mut a);
    assert_eq!(a.dump("notes"), ["'1','title','body'"]);
    assert!(other.replica.fold().is_ok());
}

#[test]
fn gos_rows_thrown_out_by_replace_are_fetched_again_and_deleted_for_nobody() {
    let schema = "CREATE TABLE users(id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE)";
    let [mut a, mut b, mut c] = devices("gos", schema, "INSERT INTO users VALUES('1', 'x@y')");
    b.run_at(200, "INSERT OR REPLACE INTO users VALUES('2', 'x@y')");
    b.replica.fold().unwrap();
    assert_eq!(b.get::<i64>("SELECT value FROM cloudsync_settings WHERE key = 'refetch'"), 1);
    assert_eq!(b.dump("users"), ["'2','x@y'"]);
    // Everybody keeps what it has, and what collides waits; nothing moves to and fro.
    for _ in 0..3 {
        exchange(&mut a, &mut b);
        exchange(&mut b, &mut c);
    }
    assert_eq!((a.dump("users"), a.quarantine()), (vec!["'1','x@y'".to_owned()], 1));
    assert_eq!((b.dump("users"), b.quarantine()), (vec!["'2','x@y'".to_owned()], 1));
    assert_eq!(sync_by_payload(&mut a, &mut b) + sync_by_payload(&mut b, &mut a), 0);
    // Once the value is another one, all rows are everywhere.
    b.run_at(300, "UPDATE users SET mail = 'z@y' WHERE id = '2'");
    for _ in 0..2 {
        exchange(&mut b, &mut a);
        exchange(&mut b, &mut c);
    }
    assert_same(&mut a, &mut b, "users");
    assert_same(&mut a, &mut c, "users");
    assert_eq!(c.dump("users"), ["'1','x@y'", "'2','z@y'"]);
}

#[test]
fn gos_rows_swap_unique_values_beside_triggers_of_the_app() {
    let schema = "CREATE TABLE list(id TEXT PRIMARY KEY NOT NULL, place INTEGER UNIQUE); CREATE TABLE log(what); \
                  CREATE TRIGGER seen AFTER UPDATE ON list BEGIN INSERT INTO log VALUES(NEW.id); END";
    let [mut a, mut b, _] = devices("gos", schema, "INSERT INTO list VALUES('1', 1), ('2', 2)");
    a.run_at(200, "UPDATE list SET place = -place; UPDATE list SET place = 3 + place");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "list");
    assert_eq!(b.dump("list"), ["'1',2", "'2',1"]);
    assert!(b.sql.execute_batch("DELETE FROM list").is_err(), "the way is closed again");
}
