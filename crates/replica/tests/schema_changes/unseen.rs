//! What was written or defined while nobody looked: rebuilds outside of the bracket, and values without clocks.

use super::*;

#[test]
fn values_that_changed_while_nobody_looked_are_edits_where_the_others_have_the_old_ones() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b'), ('3', 't', 'b'), ('4', 't', 'b')");
    exchange(&mut a, &mut b);
    b.run_at(bench::NOW, "UPDATE notes SET title = 'by b' WHERE id IN ('2', '4')");
    a.run(
        "CREATE TABLE copy(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
         INSERT INTO copy SELECT id, title, iif(id = '3', body, 'a' || body) FROM notes; DROP TABLE notes;
         ALTER TABLE copy RENAME TO notes; UPDATE notes SET title = 'unseen' WHERE id = '4'",
    );
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','t','b'", "'2','by b','b'", "'3','t','b'", "'4','by b','b'"]);
    // Found while the others' values came.
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','t','ab'", "'2','by b','ab'", "'3','t','b'", "'4','by b','ab'"]);
    let clock = a.clocks("notes").into_values().nth(2).unwrap();
    assert!(!clock.contains(&bench::NOW.to_string()), "what did not change is not stamped: {clock}");
}

#[test]
fn what_waits_in_the_quarantine_follows_to_new_names() {
    let notes = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)";
    for bracket in [false, true] {
        let mut a = bench::Device::new(1, notes);
        let mut b = bench::Device::new(2, &notes.replace("title TEXT", "title TEXT CHECK(title <> 'odd')"));
        a.run("INSERT INTO notes VALUES('1', 'odd', 'b'), ('2', 't', 'b')");
        exchange(&mut a, &mut b);
        assert_eq!(b.quarantine(), 1);
        if bracket {
            b.replica.begin_alter("notes").unwrap();
        }
        b.run("ALTER TABLE notes RENAME COLUMN body TO content; ALTER TABLE notes RENAME TO articles");
        if bracket {
            b.run("CREATE TABLE copy(id TEXT PRIMARY KEY NOT NULL, title TEXT, content TEXT); INSERT INTO copy SELECT * FROM articles;
                   DROP TABLE articles; ALTER TABLE copy RENAME TO articles");
            b.replica.commit_alter("articles").unwrap();
        } else {
            b.run("PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'CHECK(title <> ''odd'')', '') WHERE name = 'articles';
                   PRAGMA writable_schema = RESET; ALTER TABLE articles ADD COLUMN more");
        }
        // Any apply tries what waits.
        let nothing = bench::Device::new(3, notes).encode();
        b.apply(&nothing).unwrap();
        assert_eq!(b.quarantine(), 0);
        assert_eq!(
            b.rows("SELECT id, title, content FROM articles ORDER BY id"),
            ["'1','odd','b'", "'2','t','b'"]
        );
    }
}

#[test]
fn a_cell_without_a_clock_that_was_filled_unseen_is_found() {
    let (mut a, mut b) = pair(NOTES);
    b.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b')");
    a.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'd'");
    exchange(&mut a, &mut b);
    // The columns change places, so the bits of masks do, too.
    a.run(
        "CREATE TABLE copy(extra TEXT DEFAULT 'd', body TEXT, title TEXT, id TEXT PRIMARY KEY NOT NULL);
         INSERT INTO copy SELECT extra, body, title, id FROM notes; DROP TABLE notes;
         ALTER TABLE copy RENAME TO notes; UPDATE notes SET extra = 'filled' WHERE id = '1'",
    );
    exchange(&mut a, &mut b);
    b.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'd'");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id, extra FROM notes ORDER BY id"), ["'1','filled'", "'2','d'"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

/// Stored in its column a default has another kind than it is written with; nobody edited it.
#[test]
fn a_default_that_its_column_converts_is_no_edit() {
    for column in ["later REAL DEFAULT 0", "later TEXT DEFAULT 5", "later NUMERIC DEFAULT '7'"] {
        let (mut a, mut b) = pair(NOTES);
        a.run("INSERT INTO notes VALUES('1', 't', 'b')");
        exchange(&mut a, &mut b);
        b.run(&format!("ALTER TABLE notes ADD COLUMN {column}; UPDATE notes SET later = 9"));
        b.replica.fold().unwrap();
        b.world.now.set(bench::NOW + 5_000);
        a.world.now.set(bench::NOW + 5_000);
        // Noted by triggers that do not know the column yet.
        a.run(&format!("ALTER TABLE notes ADD COLUMN {column}; UPDATE notes SET title = 'later'"));
        exchange(&mut a, &mut b);
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "notes");
        assert_eq!(
            a.rows("SELECT id, title, CAST(later AS INTEGER) FROM notes"),
            ["'1','later',9"],
            "{column}"
        );
    }
}

#[test]
fn what_was_deleted_before_a_rebuild_outside_the_bracket_stays_deleted() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v INT)");
    a.run("INSERT INTO t VALUES('1', 1), ('2', 2), ('3', 3), ('4', 4), ('5', 5)");
    exchange(&mut a, &mut b);
    // All of it before anything is folded. The last row goes with the old table, and nobody deleted it.
    a.run("DELETE FROM t WHERE id IN ('1', '2'); INSERT INTO t VALUES('2', 22); UPDATE t SET id = '6' WHERE id = '3'");
    a.run(
        "CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL, v INT); INSERT INTO other SELECT * FROM t WHERE id <> '5';
         DROP TABLE t; ALTER TABLE other RENAME TO t",
    );
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.dump("t"), ["'2',22", "'4',4", "'5',5", "'6',3"]);
}

#[test]
fn a_definition_that_was_rolled_back_is_not_taken_for_the_one_that_came() {
    let (mut a, _) = pair(NOTES);
    let declared = |device: &mut bench::Device| {
        let schema = device.replica.schema().unwrap();
        let columns = schema.tables[0].columns.iter();
        columns.map(|column| format!("{} {}", column.name, column.declared_type)).collect::<Vec<_>>()
    };
    // The first one is rolled back; the second one has its schema version.
    for (kind, end) in [("INTEGER", "ROLLBACK"), ("TEXT", "COMMIT"), ("TEXT", "COMMIT")] {
        if !declared(&mut a).contains(&"later TEXT".to_owned()) {
            a.sql.execute_batch(&format!("BEGIN; ALTER TABLE notes ADD COLUMN later {kind}")).unwrap();
            a.replica.fold().unwrap();
            assert!(declared(&mut a).contains(&format!("later {kind}")));
            a.sql.execute_batch(end).unwrap();
        }
    }
    assert!(declared(&mut a).contains(&"later TEXT".to_owned()));
    a.sql.execute_batch("DROP TABLE notes; CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, other)").unwrap();
    a.replica.fold().unwrap();
    assert_eq!(declared(&mut a), ["id TEXT", "other "]);
}

/// All noted before the table is rebuilt, and nothing is folded. A deletion inside of a filter is noted as a REPLACE is that may
/// not have happened, so such a row is rather fetched again than deleted for everybody.
#[test]
fn what_left_a_filter_before_a_rebuild_outside_the_bracket_stays_away() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v INT)");
    a.replica.set_filter("t", "v < 100").unwrap();
    a.run("INSERT INTO t VALUES('1', 1), ('2', 2), ('3', 3), ('4', 4), ('5', 5), ('6', 6), ('7', 7), ('8', 8), ('9', 9)");
    exchange(&mut a, &mut b);
    a.run("DELETE FROM t WHERE id IN ('1', '2'); INSERT INTO t VALUES('2', 22); UPDATE t SET id = '3b' WHERE id = '3'");
    a.run("UPDATE t SET v = 600 WHERE id = '6'; UPDATE t SET v = 700 WHERE id = '7'; DELETE FROM t WHERE id = '7'");
    a.run("UPDATE t SET v = 800 WHERE id = '8'; UPDATE t SET id = '9b', v = 900 WHERE id = '9'");
    a.run(
        "CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL, v INT); INSERT INTO other SELECT * FROM t WHERE id NOT IN ('5', '8');
         DROP TABLE t; ALTER TABLE other RENAME TO t",
    );
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("t"), ["'1',1", "'2',22", "'3b',3", "'4',4", "'5',5"]);
    assert_eq!(a.dump("t"), ["'1',1", "'2',22", "'3b',3", "'4',4", "'5',5", "'6',600", "'9b',900"]);
}
