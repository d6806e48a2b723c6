//! Filters of tables that change.

use super::*;

#[test]
fn filters_follow_added_columns_and_new_names() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'secret', 0)");
    exchange(&mut a, &mut b);
    for device in [&a, &b] {
        device.run("ALTER TABLE notes ADD COLUMN extra TEXT");
    }
    a.run("UPDATE notes SET extra = 'e'");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET extra = 'f'");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','one',1,'f'"]);
    // SQLite puts new names into triggers, and the filter follows.
    for device in [&a, &b] {
        device.run(
            "ALTER TABLE notes RENAME COLUMN public TO \"now shared\"; ALTER TABLE notes ADD COLUMN public",
        );
        device.run("ALTER TABLE notes RENAME COLUMN id TO key; ALTER TABLE notes RENAME TO texts");
    }
    a.run("UPDATE texts SET title = 'renamed', public = 0 WHERE key = '1'; UPDATE texts SET public = 1 WHERE key = '2'");
    assert_kept(&mut a, "secret");
    assert_eq!(a.replica.status().unwrap()["tables"][0]["filter"], "\"now shared\" = 1");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT key, title, public FROM texts"), ["'1','renamed',0"]);
    a.run("UPDATE texts SET \"now shared\" = 0");
    exchange(&mut a, &mut b);
    assert!(b.dump("texts").is_empty());
}

#[test]
fn nothing_is_sent_while_the_filter_cannot_be_evaluated() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 1), ('3', 'secret', 0)");
    exchange(&mut a, &mut b);
    a.replica.begin_alter("notes").unwrap();
    a.run("ALTER TABLE notes DROP COLUMN public; ALTER TABLE notes ADD COLUMN shared NUMERIC");
    a.run("UPDATE notes SET shared = 1 WHERE id < '3'; UPDATE notes SET title = title || '!'");
    a.replica.commit_alter("notes").unwrap();
    a.run("UPDATE notes SET title = 'held back' WHERE id = '1'; DELETE FROM notes WHERE id = '2'");
    a.run("INSERT INTO notes VALUES('4', 'secret', 0), ('5', 'five', 1)");
    let payload = a.encode();
    assert_eq!(texts(&payload), Vec::<String>::new());
    let advice = a.replica.status().unwrap()["tables"][0]["advice"].to_string();
    assert!(advice.contains("nothing of the table is sent"), "{advice}");
    assert!(advice.contains("no column \\\"public\\\""), "{advice}");
    a.replica.set_filter("notes", "shared = 1").unwrap();
    assert!(a.replica.has_unsent().unwrap());
    assert_kept(&mut a, "secret");
    b.run("ALTER TABLE notes ADD COLUMN shared NUMERIC");
    exchange(&mut a, &mut b);
    assert_eq!(
        b.rows("SELECT id, title, shared FROM notes ORDER BY id"),
        ["'1','held back',1", "'5','five',1"]
    );
    // The name comes back, and the filter with it.
    a.replica.begin_alter("notes").unwrap();
    a.run("ALTER TABLE notes RENAME COLUMN shared TO other");
    a.replica.commit_alter("notes").unwrap();
    a.run("UPDATE notes SET title = 'again' WHERE id = '1'; DELETE FROM notes WHERE id = '5'");
    assert_eq!(texts(&a.encode()), Vec::<String>::new());
    a.run("ALTER TABLE notes RENAME COLUMN other TO shared");
    assert_kept(&mut a, "secret");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id, title FROM notes ORDER BY id"), ["'1','again'"]);
}

#[test]
fn what_left_before_the_filter_failed_is_taken_from_the_others() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 1)");
    exchange(&mut a, &mut b);
    // Before anything is folded the table is another one, without the column that the filter names.
    a.run("UPDATE notes SET public = 0 WHERE id = '1'");
    a.run(
        "CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL, title TEXT, shared INTEGER);
         INSERT INTO other SELECT * FROM notes; DROP TABLE notes; ALTER TABLE other RENAME TO notes",
    );
    assert_eq!(texts(&a.encode()), Vec::<String>::new());
    a.replica.set_filter("notes", "shared = 1").unwrap();
    b.run("ALTER TABLE notes ADD COLUMN shared INTEGER");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id FROM notes"), ["'2'"]);
}

#[test]
fn a_bracket_takes_nothing_away_that_was_outside_before() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 0), ('3', 'three', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.replica.begin_alter("notes").unwrap();
    a.run(
        "ALTER TABLE notes ADD COLUMN extra DEFAULT 'x'; UPDATE notes SET title = upper(title), extra = id",
    );
    a.run("UPDATE notes SET public = 1 WHERE id = '3'");
    a.replica.commit_alter("notes").unwrap();
    b.run("ALTER TABLE notes ADD COLUMN extra DEFAULT 'x'");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id, title FROM notes ORDER BY id"), ["'1','ONE'", "'2','two'", "'3','THREE'"]);
    // Made again, with all its rows: those outside are not taken away either.
    a.run("CREATE TABLE made(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER, extra DEFAULT 'x')");
    a.run("INSERT INTO made SELECT * FROM notes; DROP TABLE notes; ALTER TABLE made RENAME TO notes");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id, title FROM notes ORDER BY id"), ["'1','ONE'", "'2','two'", "'3','THREE'"]);
    assert_eq!(a.rows("SELECT id, title FROM notes ORDER BY id"), ["'1','ONE'", "'2','TWO'", "'3','THREE'"]);
}

#[test]
fn what_a_rebuild_changed_outside_stays_here() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("CREATE TABLE made(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER)");
    a.run("INSERT INTO made SELECT id, title || '?', public FROM notes");
    a.run("DROP TABLE notes; ALTER TABLE made RENAME TO notes");
    exchange(&mut b, &mut a);
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','one?',1", "'2','two',0"]);
    assert_eq!(a.dump("notes"), ["'1','one?',1", "'2','two?',0"]);
    a.replica.clear_filter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','one?',1", "'2','two?',0"]);
}

/// What was deleted while the filter could not be evaluated reaches the server once it can be, whatever was on its way then.
#[test]
fn what_was_withheld_is_sent_though_a_batch_of_several_rounds_was_open() {
    let of_round = |set: &str| format!("SELECT count(*) FROM cloudsync_settings WHERE key = '{set}'");
    let (within, between) = (of_round("round"), of_round("unsent_position"));
    let within_the_last = format!("SELECT ({within}) + ({between}) = 2");
    for meanwhile in ["", "INSERT INTO cloudsync_settings VALUES('resend', 1)"] {
        for until in [&within, &between, &within_the_last] {
            let mut hub = Hub::new(WITH_PAGES);
            let mut a = Device::new(1, WITH_PAGES);
            a.replica.set_filter("notes", "public = 1").unwrap();
            a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 1)");
            hub.sync(&mut a);
            assert_eq!(hub.server.dump("notes"), ["'1','one',1", "'2','two',1"]);
            a.replica.begin_alter("notes").unwrap();
            a.run("ALTER TABLE notes RENAME COLUMN public TO other");
            a.replica.commit_alter("notes").unwrap();
            a.run("DELETE FROM notes WHERE id = '2'");
            hub.sync(&mut a);
            a.run(meanwhile);
            a.run(
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 30) \
                 INSERT INTO pages SELECT 'row ' || i, zeroblob(300000) FROM n",
            );
            while a.get::<i64>(until) == 0 {
                assert!(hub.turn(&mut a, PUSH).more);
            }
            a.run("ALTER TABLE notes RENAME COLUMN other TO public");
            hub.sync(&mut a);
            assert_eq!(hub.server.dump("notes"), ["'1','one',1"], "{meanwhile}, {until}");
            assert_eq!(hub.server.get::<i64>("SELECT count(*) FROM pages"), 21);
            assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
            assert!(hub.turn(&mut a, BOTH).idle);
        }
    }
}

const WITH_PAGES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER);
     CREATE TABLE pages(id TEXT PRIMARY KEY NOT NULL, v)";
