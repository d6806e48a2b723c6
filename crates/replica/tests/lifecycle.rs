//! Tables begin to sync, pause, change their schema, and stop.

mod bench;

use bench::{Device, assert_same, exchange, pair, sync_by_payload};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)";

#[test]
fn rows_from_before_yield_to_real_edits_and_to_deletions_of_others() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'edited', 'x'), ('2', 'deleted', 'x')");
    a.replica.fold().unwrap();
    a.run_at(2_000, "DELETE FROM notes WHERE id = '2'");
    let mut c = Device::empty(3);
    c.run(NOTES);
    c.run("INSERT INTO notes VALUES('1', 'stale', 'x'), ('2', 'stale', 'x'), ('3', 'only here', 'x')");
    c.init_all();
    exchange(&mut a, &mut b);
    exchange(&mut c, &mut a);
    exchange(&mut a, &mut b);
    exchange(&mut c, &mut b);
    assert_same(&mut a, &mut c, "notes");
    assert_same(&mut a, &mut b, "notes");
    // Life 2 is a deletion of life 1, which everybody's first insert is.
    assert_eq!(c.dump("notes"), ["'1','edited','x'", "'3','only here','x'"]);
}

#[test]
fn a_later_edit_of_a_row_from_before_wins() {
    let (mut a, mut b) = pair(NOTES);
    let mut c = Device::empty(3);
    c.run(NOTES);
    c.run("INSERT INTO notes VALUES('1', 'old', 'old')");
    c.init_all();
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'a', 'a')");
    c.run_at(2_000, "UPDATE notes SET title = 'c'");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut c);
    assert_same(&mut a, &mut c, "notes");
    assert_eq!(a.dump("notes"), ["'1','c','a'"]);
}

#[test]
fn init_again_changes_nothing() {
    let (mut a, _) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    a.replica.fold().unwrap();
    let (site, clocks, version) =
        (a.replica.site_id().unwrap(), a.clocks("notes"), a.replica.version().unwrap());
    for name in ["notes", "NOTES", "*"] {
        assert_eq!(a.replica.init(name, "cls", 0).unwrap(), site);
    }
    assert_eq!((a.clocks("notes"), a.replica.version().unwrap()), (clocks, version));
}

#[test]
fn a_rolled_back_init_can_be_done_again() {
    let mut a = Device::empty(1);
    a.run(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    for _ in 0..2 {
        a.run("BEGIN");
        let lost = a.replica.init("notes", "cls", 0).unwrap();
        assert_eq!(a.replica.site_id().unwrap(), lost);
        a.replica.fold().unwrap();
        a.run("ROLLBACK");
        assert!(!a.replica.exists().unwrap());
        assert!(a.replica.payload_encode(0, None).unwrap_err().to_string().contains("cloudsync_init"));
    }
    let site = a.replica.init("notes", "cls", 0).unwrap();
    assert_eq!(a.replica.site_id().unwrap(), site);
    let stored: Vec<u8> = a.get("SELECT site_id FROM cloudsync_sites");
    assert_eq!(stored, site.0);
    let mut b = Device::new(2, NOTES);
    a.run("UPDATE notes SET title = 'sent'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','sent','b'"]);
}

#[test]
fn a_rolled_back_apply_leaves_no_site_behind() {
    let (mut a, mut b) = pair(NOTES);
    let mut c = Device::new(3, NOTES);
    a.run("INSERT INTO notes VALUES('a', 'a', 'a')");
    c.run("INSERT INTO notes VALUES('c', 'c', 'c')");
    let (from_a, from_c) = (a.encode(), c.encode());
    b.run("BEGIN");
    b.apply(&from_a).unwrap();
    b.run("ROLLBACK");
    // What the second connection to the file would do.
    b.run("BEGIN");
    b.apply(&from_c).unwrap();
    b.run("COMMIT");
    exchange(&mut b, &mut c);
    assert_same(&mut b, &mut c, "notes");
}

#[test]
fn cleanup_and_init_take_a_new_site_and_resurrect_nothing() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 'x'), ('2', 'two', 'x'), ('3', 'three', 'x')");
    exchange(&mut a, &mut b);
    let site = a.replica.site_id().unwrap();
    a.replica.cleanup("notes").unwrap();
    assert_eq!(a.get::<i64>("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_clocks"), 0);
    a.run("UPDATE notes SET title = 'untracked'");
    b.run_at(2_000, "DELETE FROM notes WHERE id = '1'");
    b.run_at(2_000, "UPDATE notes SET title = 'newer' WHERE id = '2'");
    assert_ne!(a.replica.init("notes", "cls", 0).unwrap(), site);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'2','newer','x'", "'3','three','x'"]);
    a.run("UPDATE notes SET title = 'tracked again'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert!(b.replica.cleanup("nothing").unwrap_err().to_string().contains("\"nothing\""));
}

#[test]
fn what_is_written_while_disabled_stays_local_until_it_is_written_again() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b')");
    exchange(&mut a, &mut b);
    a.replica.set_enabled("notes", false).unwrap();
    assert!(!a.replica.is_enabled("notes").unwrap());
    a.run("UPDATE notes SET title = 'hidden'; INSERT INTO notes VALUES('3', 'hidden', 'x'); DELETE FROM notes WHERE id = '2'");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    a.replica.set_enabled("notes", true).unwrap();
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    a.run("UPDATE notes SET body = 'seen' WHERE id IN ('1', '3')");
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','t','seen'", "'2','t','b'", "'3','hidden','seen'"]);
}

#[test]
fn a_change_of_a_row_that_went_while_disabled_waits_for_the_whole_row() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL, w TEXT)");
    a.run("INSERT INTO t VALUES('1', 'v', 'w')");
    exchange(&mut a, &mut b);
    a.replica.set_enabled("t", false).unwrap();
    a.run("DELETE FROM t");
    a.replica.set_enabled("t", true).unwrap();
    let since = b.replica.version().unwrap();
    b.run("UPDATE t SET w = 'new'");
    let part = b.replica.payload_encode(since, None).unwrap();
    assert_eq!(a.apply(&part).unwrap(), 0);
    assert_eq!(a.quarantine(), 1);
    sync_by_payload(&mut b, &mut a);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn a_column_added_behind_our_back_syncs_with_its_next_writes() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b'), ('3', 't', 'b')");
    exchange(&mut a, &mut b);
    for device in [&mut a, &mut b] {
        device.run("ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'd' COLLATE NOCASE; ALTER TABLE notes ADD COLUMN n INT");
    }
    a.run("UPDATE notes SET extra = 'new alone' WHERE id = '1'; UPDATE notes SET n = 5, title = 'both' WHERE id = '2';
           UPDATE notes SET extra = 'D' WHERE id = '3'; INSERT INTO notes VALUES('4', 't', 'b', 'e', 6)");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(
        b.dump("notes"),
        ["'1','t','b','new alone',NULL", "'2','both','b','d',5", "'3','t','b','D',NULL", "'4','t','b','e',6"]
    );
    b.run("UPDATE notes SET n = 7 WHERE id = '1'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
}

#[test]
fn a_column_added_before_another_tables_init_is_found() {
    let (mut a, mut b) = pair(NOTES);
    for device in [&mut a, &mut b] {
        device.run("ALTER TABLE notes ADD COLUMN extra; CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL)");
    }
    a.run("INSERT INTO notes VALUES('1', 't', 'b', 'e'); UPDATE notes SET extra = 'f'");
    for device in [&mut a, &mut b] {
        device.replica.init("other", "cls", 0).unwrap();
    }
    a.run("UPDATE notes SET extra = 'g'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','t','b','g'"]);
}

#[test]
fn replicas_with_different_columns_sync_what_they_share() {
    let (mut a, mut b) = pair(NOTES);
    a.run("ALTER TABLE notes ADD COLUMN only_a; INSERT INTO notes VALUES('1', 't', 'b', 'x')");
    exchange(&mut a, &mut b);
    b.run_at(bench::NOW, "UPDATE notes SET title = 'by b', body = 'by b'");
    exchange(&mut b, &mut a);
    assert_eq!(b.dump("notes"), ["'1','by b','by b'"]);
    assert_eq!(a.dump("notes"), ["'1','by b','by b','x'"]);
    // A clock of all columns that b knows says nothing of the one that it does not know.
    let mut c =
        Device::new(3, "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, only_a, title TEXT, body TEXT)");
    sync_by_payload(&mut b, &mut c);
    sync_by_payload(&mut a, &mut c);
    assert_eq!(c.rows("SELECT id, title, body, only_a FROM notes"), a.dump("notes"));
    assert_eq!(c.clocks("notes"), a.clocks("notes"));
    b.run("ALTER TABLE notes ADD COLUMN only_a");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
}

#[test]
fn a_unique_index_created_later_has_its_victims_noted() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, u UNIQUE, w)");
    a.run("INSERT INTO t VALUES('1', 1, 'x'), ('2', 2, 'y'), ('3', 3, 'z')");
    exchange(&mut a, &mut b);
    // Before and after the index is known to us.
    a.run("CREATE UNIQUE INDEX later ON t(w); REPLACE INTO t VALUES('4', 4, 'x')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    a.run("REPLACE INTO t VALUES('5', 5, 'y')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.dump("t"), ["'3',3,'z'", "'4',4,'x'", "'5',5,'y'"]);
}

#[test]
fn dropping_and_making_a_table_again_deletes_nothing_elsewhere() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b'), ('2', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run("DROP TABLE notes");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    a.run(NOTES);
    a.run("INSERT INTO notes VALUES('3', 'new', 'b')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes").len(), 3);
}

#[test]
fn a_table_made_again_without_a_key_holds_up_no_other() {
    let more = "CREATE TABLE more(id TEXT PRIMARY KEY NOT NULL)";
    let (mut a, mut b) = pair(&format!("{NOTES}; {more}"));
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run("DROP TABLE notes; CREATE TABLE notes(id, title); INSERT INTO more VALUES('m')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "more");
    assert_eq!(b.dump("notes").len(), 1);
}

#[test]
fn lost_triggers_come_back_and_new_rows_are_found() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 't', 'b')");
    exchange(&mut a, &mut b);
    a.run(
        "CREATE TABLE copy(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
         INSERT INTO copy SELECT * FROM notes; DROP TABLE notes; ALTER TABLE copy RENAME TO notes;
         INSERT INTO notes VALUES('2', 'unnoted', 'b')",
    );
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    a.run("UPDATE notes SET title = 'noted'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(b.dump("notes"), ["'1','noted','b'", "'2','noted','b'"]);
}

#[test]
fn tables_that_cannot_sync_are_refused_with_the_remedy() {
    let mut a = Device::empty(1);
    a.run(
        "CREATE TABLE bare(x); CREATE TABLE numbered(id INTEGER PRIMARY KEY); CREATE VIEW seen AS SELECT 1;
         CREATE VIRTUAL TABLE found USING fts5(x); CREATE TEMP TABLE passing(id TEXT PRIMARY KEY);
         CREATE TABLE fine(id TEXT PRIMARY KEY)",
    );
    for (table, words) in [
        ("bare", "no primary key"),
        ("numbered", "flag 1"),
        ("seen", "a view"),
        ("found", "a virtual table"),
        ("passing", "temporary"),
        ("found_idx", "virtual table \"found\""),
        ("missing", "no such table"),
        ("cloudsync_log", "belongs to the system"),
        ("", "no such table"),
    ] {
        let error = a.replica.init(table, "cls", 0).unwrap_err().to_string();
        assert!(error.contains(words), "{table}: {error}");
        assert!(!a.replica.exists().unwrap(), "nothing is left behind by {table}");
    }
    assert!(a.replica.init("fine", "best", 0).is_err());
    assert!(a.replica.init("fine", "cls", 8).is_err());
    a.replica.init("*", "cls", 0).unwrap();
    assert_eq!(a.column::<String>("SELECT name FROM cloudsync_tables"), ["fine"]);
}

#[test]
fn flags_silence_the_advice_that_they_stand_for() {
    let mut a = Device::empty(1);
    a.run("CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT NOT NULL)");
    let mut advice = |flags| {
        a.replica.init("t", "cls", flags).unwrap();
        let status = a.replica.status().unwrap();
        let advice = status["tables"][0]["advice"].as_array().unwrap().clone();
        advice.iter().map(|text| text.as_str().unwrap().contains("may be NULL")).collect::<Vec<_>>()
    };
    assert_eq!(advice(0), [true, false]);
    assert_eq!(advice(2), [true]);
    assert_eq!(advice(0), [true]);
    assert_eq!(advice(4), [false; 0]);
}
