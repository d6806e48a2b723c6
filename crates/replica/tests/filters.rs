//! Row filters: what crosses them, what stays here, and what never leaves.

#![allow(clippy::unwrap_used)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, NOW, exchange, pair, sync_by_payload};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;
use hub::{BOTH, Hub, PULL};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER)";

fn filtered() -> (Device, Device) {
    let (mut a, b) = pair(NOTES);
    a.replica.set_filter("notes", "public = 1").unwrap();
    (a, b)
}

/// Every text value of a payload, keys included.
fn texts(payload: &[u8]) -> Vec<String> {
    let opened = Opened::open(payload, &Zstd).unwrap();
    let decoded = opened.payload().unwrap();
    let mut texts = Vec::new();
    for group in decoded.groups() {
        for row in 0..group.rows() {
            texts.push(String::from_utf8_lossy(group.key(row)).into_owned());
            for column in 0..group.columns().len() {
                if let cloudsync_core::value::ValueRef::Text(text) = group.value(row, column) {
                    texts.push(String::from_utf8_lossy(text).into_owned());
                }
            }
        }
    }
    texts
}

/// Nothing that leaves the device in any way holds the text.
#[track_caller]
fn assert_kept(device: &mut Device, secret: &str) {
    let payload = device.encode();
    let leaks = texts(&payload).into_iter().any(|text| text.contains(secret));
    assert!(!leaks, "{secret} is in a payload");
    let mut chunks = device.replica.chunks_after(0).unwrap();
    while let Some(chunk) = chunks.next(&mut device.replica).unwrap() {
        assert!(!texts(&chunk.payload).iter().any(|text| text.contains(secret)), "{secret} is in a chunk");
    }
    let query =
        cloudsync_replica::ChangesQuery { after: 0, last: u64::MAX, table: None, site: None, values: true };
    let mut changes = device.replica.changes(&query).unwrap();
    while changes.advance().unwrap() {
        let value = format!("{:?}", changes.current().unwrap().value());
        let hex: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        assert!(!value.contains(&hex.join(", ")), "{secret} is in cloudsync_changes");
    }
}

#[test]
fn rows_outside_stay_here() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'shared', 1), ('2', 'private', 0), ('3', 'nothing', NULL)");
    a.run("UPDATE notes SET title = 'private too' WHERE id = '2'");
    assert_kept(&mut a, "private");
    assert_kept(&mut a, "nothing");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','shared',1"]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0, "nobody else knows them");
    a.run("DELETE FROM notes WHERE id > '1'");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_clocks"), 1);
}

#[test]
fn an_update_that_crosses_the_filter_is_a_change() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'draft', 0)");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET public = 1");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','draft',1"]);
    a.run("UPDATE notes SET public = 0, title = 'withdrawn'");
    assert_kept(&mut a, "withdrawn");
    exchange(&mut a, &mut b);
    assert!(b.dump("notes").is_empty());
    assert_eq!(a.dump("notes"), ["'1','withdrawn',0"]);
    a.run("UPDATE notes SET title = 'silent'");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    a.run("UPDATE notes SET public = 1");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','silent',1"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

/// What happens within one fold counts by where the row stood before and where it stands after.
#[test]
fn crossings_within_one_fold() {
    let begins = ["public = 1", "public = 0"];
    for (sql, wanted) in [
        (
            "UPDATE notes SET public = 0; UPDATE notes SET title = 'x', public = 1",
            [Some("'1','x',1"), Some("'1','x',1")],
        ),
        ("UPDATE notes SET public = 1; UPDATE notes SET public = 0", [None, None]),
        ("UPDATE notes SET public = 0; DELETE FROM notes", [None, None]),
        ("UPDATE notes SET public = 1; DELETE FROM notes", [None, None]),
        ("DELETE FROM notes; INSERT INTO notes VALUES('1', 'y', 0)", [None, None]),
        ("DELETE FROM notes; INSERT INTO notes VALUES('1', 'y', 1)", [Some("'1','y',1"), Some("'1','y',1")]),
        ("INSERT OR REPLACE INTO notes VALUES('1', 'y', 0)", [None, None]),
        ("INSERT OR REPLACE INTO notes VALUES('1', 'y', 1)", [Some("'1','y',1"), Some("'1','y',1")]),
        ("INSERT OR IGNORE INTO notes VALUES('1', 'y', 0)", [Some("'1','t',1"), None]),
        (
            "INSERT INTO notes VALUES('1', 'y', 0) ON CONFLICT(id) DO UPDATE SET public = 1 - public",
            [None, Some("'1','t',1")],
        ),
        ("UPDATE notes SET id = '2'", [Some("'2','t',1"), None]),
        ("UPDATE notes SET id = '2', public = 0", [None, None]),
        ("UPDATE notes SET id = '2', public = 1", [Some("'2','t',1"), Some("'2','t',1")]),
        (
            "UPDATE notes SET id = '2', public = 0; UPDATE notes SET id = '1', public = 1",
            [Some("'1','t',1"), Some("'1','t',1")],
        ),
        (
            "INSERT INTO notes VALUES('2', 'o', 1); UPDATE OR REPLACE notes SET id = '2' WHERE id = '1'",
            [Some("'2','t',1"), None],
        ),
        (
            "INSERT INTO notes VALUES('2', 'o', 0); UPDATE OR REPLACE notes SET id = '1' WHERE id = '2'",
            [None, None],
        ),
    ] {
        for (begin, wanted) in begins.iter().zip(wanted) {
            let (mut a, mut b) = filtered();
            a.run("INSERT INTO notes VALUES('1', 't', 0)");
            a.run(&format!("UPDATE notes SET {begin}"));
            exchange(&mut a, &mut b);
            a.run(sql);
            exchange(&mut a, &mut b);
            let wanted: Vec<_> = wanted.into_iter().collect();
            assert_eq!(b.dump("notes"), wanted, "{begin}, {sql}");
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts"), 0);
            assert_eq!(a.rows("SELECT * FROM notes WHERE public = 1"), b.dump("notes"), "{begin}, {sql}");
        }
    }
}

#[test]
fn what_replace_throws_out_goes_from_the_others_only_if_it_was_inside() {
    let schema =
        "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, slug TEXT UNIQUE COLLATE NOCASE, public INTEGER)";
    let (mut a, mut b) = pair(schema);
    a.replica.set_filter("notes", "public").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'in', 1), ('2', 'out', 0)");
    exchange(&mut a, &mut b);
    a.run("INSERT OR REPLACE INTO notes VALUES('3', 'IN', 0), ('4', 'OUT', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'4','OUT',1"]);
    assert_eq!(a.dump("notes"), ["'3','IN',0", "'4','OUT',1"]);
}

#[test]
fn setting_a_filter_removes_nothing_and_keeps_all_clocks() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 1), ('2', 'two', 0), ('3', 'three', 0), ('4', 'gone', 0)");
    exchange(&mut a, &mut b);
    a.run("DELETE FROM notes WHERE id = '4'");
    exchange(&mut a, &mut b);
    let clocks = a.clocks("notes");
    for filter in [Some("public = 1"), Some("title > 'o'"), None] {
        match filter {
            Some(filter) => a.replica.set_filter("notes", filter).unwrap(),
            None => a.replica.clear_filter("notes").unwrap(),
        }
        assert_eq!(a.clocks("notes"), clocks);
        exchange(&mut a, &mut b);
        assert_eq!(a.dump("notes"), b.dump("notes"));
        assert_eq!(b.clocks("notes"), clocks);
    }
}

#[test]
fn rows_that_come_inside_by_the_setting_yield_to_real_edits() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    // The first stays what all know; of the second there is a private edit, the third is private altogether.
    a.run_at(9_000, "UPDATE notes SET title = 'private' WHERE id = '2'");
    a.run_at(9_000, "INSERT INTO notes VALUES('3', 'three', 0)");
    assert_eq!(sync_by_payload(&mut a, &mut b), 0);
    b.run_at(2_000, "UPDATE notes SET title = 'newest'");
    b.replica.fold().unwrap();
    let before = a.clocks("notes");
    a.replica.clear_filter("notes").unwrap();
    let after = a.clocks("notes");
    assert_eq!(before.iter().filter(|(key, clock)| after.get(*key) == Some(*clock)).count(), 1);
    assert!(after.values().any(|clock| clock.contains("common 1@")));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','newest',0", "'2','newest',0", "'3','three',0"]);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn private_edits_are_sent_when_the_filter_goes() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run_at(9_000, "UPDATE notes SET title = 'private'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','private',0"]);
    a.replica.clear_filter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','private',0"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn a_row_that_left_comes_back_by_a_new_filter() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1)");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET public = 0");
    exchange(&mut a, &mut b);
    assert!(b.dump("notes").is_empty());
    a.replica.set_filter("notes", "public IN (0, 1)").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','one',0"]);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn deleting_a_row_that_a_later_filter_left_outside_is_local() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("DELETE FROM notes");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes").len(), 2);
    assert!(a.dump("notes").is_empty());
    // Whoever writes it again sends it here again.
    b.run("UPDATE notes SET title = 'again' WHERE id = '2'");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'2','again',0"]);
    a.run("INSERT INTO notes VALUES('1', 'new', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','new',1", "'2','again',0"]);
}

#[test]
fn the_mark_of_a_private_row_goes_with_it() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    let marks = "SELECT count(*) FROM cloudsync_private";
    a.run("UPDATE notes SET title = 'mine'");
    a.replica.fold().unwrap();
    assert_eq!(a.rows(marks), ["2"]);
    a.run("UPDATE notes SET title = 'once more'; DELETE FROM notes WHERE id = '2'");
    a.replica.fold().unwrap();
    assert_eq!(a.rows(marks), ["1"]);
}

#[test]
fn rows_deleted_outside_come_again_when_the_filter_goes() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private'");
    a.replica.fold().unwrap();
    a.run("DELETE FROM notes WHERE id = '2'");
    a.replica.clear_filter("notes").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','private',0", "'2','two',0"]);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
}

#[test]
fn what_comes_in_is_applied_and_what_it_overwrites_of_a_private_row_is_journaled() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one', 0), ('2', 'two', 0)");
    b.run("INSERT INTO notes VALUES('3', 'three', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private ' || id WHERE id < '3'");
    b.run("UPDATE notes SET title = 'public'; DELETE FROM notes WHERE id = '2'");
    b.run("INSERT INTO notes VALUES('4', 'outside here', 0)");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','public',0", "'3','public',0", "'4','outside here',0"]);
    let journal = "SELECT tbl, col_name, col_value FROM cloudsync_conflicts ORDER BY id";
    assert_eq!(a.rows(journal)[..2], ["'notes','title','private 1'", "'notes','title','private 2'"]);
    let by_b = format!("winner_site_id = x'{}'", b.replica.site_id().unwrap());
    let won =
        a.rows(&format!("SELECT kind, {by_b} AND winner_time > 0 FROM cloudsync_conflicts ORDER BY id"));
    assert_eq!(won[..2], ["'overwritten',1", "'deleted',1"]);
    // Nothing was ever private of these.
    assert!(!a.rows(journal).iter().any(|row| row.contains("three")));
    // The same changes again bring nothing.
    let journaled = a.rows(journal).len();
    assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    assert_eq!(a.rows(journal).len(), journaled);
}

#[test]
fn known_values_that_come_again_leave_private_ones_alone() {
    let (mut a, mut b) = pair(NOTES);
    a.run("INSERT INTO notes VALUES('1', 'zzz', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'aaa'");
    assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    assert_eq!(a.dump("notes"), ["'1','aaa',0"]);
}

#[test]
fn a_private_row_makes_way_for_the_row_of_another() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'mine', 0)");
    b.run("INSERT INTO notes VALUES('1', 'theirs', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','theirs',1"]);
    assert_eq!(a.rows("SELECT col_value FROM cloudsync_conflicts"), ["'mine'", "0"]);
    assert_eq!(a.quarantine(), 0);
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
}

#[test]
fn a_life_that_others_revive_takes_the_place_of_the_row_that_left() {
    let (mut a, mut b) = filtered();
    a.run("INSERT INTO notes VALUES('1', 'one', 1)");
    exchange(&mut a, &mut b);
    a.run("UPDATE notes SET public = 0, title = 'kept'");
    exchange(&mut a, &mut b);
    b.run("INSERT INTO notes VALUES('1', 'revived', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','revived',1"]);
    assert_eq!(a.rows("SELECT col_value FROM cloudsync_conflicts"), ["'kept'", "0"]);
    assert_eq!((a.quarantine(), b.quarantine()), (0, 0));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
    // A deletion by others leaves a row alone that nobody else has.
    a.run("UPDATE notes SET public = 0, title = 'kept again'");
    exchange(&mut a, &mut b);
    b.run("INSERT INTO notes VALUES('1', 'short', 0); ");
    b.replica.fold().unwrap();
    b.run("DELETE FROM notes");
    exchange(&mut a, &mut b);
    assert_eq!(a.dump("notes"), ["'1','kept again',0"]);
}

#[test]
fn a_remote_edit_that_brings_a_private_row_inside_brings_its_private_part_along() {
    let (mut a, mut b) = pair(NOTES);
    a.run_at(1_000, "INSERT INTO notes VALUES('1', 'one', 0)");
    exchange(&mut a, &mut b);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("UPDATE notes SET title = 'private'");
    exchange(&mut a, &mut b);
    b.run_at(2_000, "UPDATE notes SET public = 1");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'1','private',1"]);
    assert_eq!(a.dump("notes"), b.dump("notes"));
    assert_eq!(a.clocks("notes"), b.clocks("notes"));
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_private"), 0);
}

#[test]
fn a_refused_change_journals_nothing() {
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER)";
    let mut a = Device::new(
        1,
        "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT CHECK(title <> 'bad'), public INTEGER)",
    );
    let mut b = Device::new(2, schema);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'mine', 0)");
    b.run("INSERT INTO notes VALUES('1', 'bad', 1)");
    sync_by_payload(&mut b, &mut a);
    assert_eq!(a.dump("notes"), ["'1','mine',0"]);
    assert_eq!((a.quarantine(), a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts")), (1, 0));
    b.run("UPDATE notes SET title = 'good'");
    sync_by_payload(&mut b, &mut a);
    assert_eq!(a.dump("notes"), ["'1','good',1"]);
    assert_eq!((a.quarantine(), a.get::<i64>("SELECT count(*) FROM cloudsync_conflicts")), (0, 2));
}

#[test]
fn a_filter_rolls_back_with_its_transaction() {
    let (mut a, mut b) = pair(NOTES);
    let triggers = a.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name");
    a.run("BEGIN");
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'lost', 0); ROLLBACK");
    assert_eq!(a.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
    a.run("INSERT INTO notes VALUES('2', 'all sync', 0)");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'2','all sync',0"]);
    a.run("BEGIN");
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('3', 'kept', 0); COMMIT");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'2','all sync',0"]);
    a.replica.clear_filter("notes").unwrap();
    assert_eq!(a.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
}

#[test]
fn a_filter_holds_for_every_connection_and_survives_disable_and_enable() {
    let folder = bench::Folder::new();
    let path = folder.file("a.db");
    let mut a = Device::open(&path, 1);
    a.run(NOTES);
    a.init_all();
    let mut other = Device::open(&path, 2);
    assert_eq!(other.replica.status().unwrap()["tables"][0]["filter"], serde_json::Value::Null);
    a.replica.set_filter("NOTES", " public = 1 ").unwrap();
    assert_eq!(other.replica.status().unwrap()["tables"][0]["filter"], "public = 1");
    other.run("INSERT INTO notes VALUES('1', 'private', 0)");
    other.replica.set_enabled("notes", false).unwrap();
    a.replica.set_enabled("notes", true).unwrap();
    other.run("INSERT INTO notes VALUES('2', 'private', 0), ('3', 'shared', 1)");
    assert_kept(&mut other, "private");
    let mut b = Device::new(3, NOTES);
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("notes"), ["'3','shared',1"]);
    a.replica.cleanup("notes").unwrap();
    a.init_all();
    sync_by_payload(&mut a, &mut b);
    assert_eq!(b.dump("notes").len(), 3);
}

#[test]
fn wide_tables_have_filters_too() {
    let names: Vec<_> = (0..70).map(|i| format!("c{i}")).collect();
    let schema = format!("CREATE TABLE wide(id TEXT PRIMARY KEY NOT NULL, {})", names.join(", "));
    let (mut a, mut b) = pair(&schema);
    a.replica.set_filter("wide", "c69 = 1").unwrap();
    a.run("INSERT INTO wide(id, c0, c69) VALUES('in', 'x', 1), ('out', 'private', 0)");
    exchange(&mut a, &mut b);
    a.run("UPDATE wide SET c62 = 'changed', c1 = 'changed'");
    assert_kept(&mut a, "private");
    exchange(&mut a, &mut b);
    assert_eq!(b.rows("SELECT id, c1, c62 FROM wide"), ["'in','changed','changed'"]);
    assert_eq!(a.clocks("wide"), b.clocks("wide"));
}

#[test]
fn devices_may_filter_differently() {
    let (mut a, mut b) = pair(NOTES);
    a.replica.set_filter("notes", "public = 1").unwrap();
    b.replica.set_filter("notes", "title LIKE 'b%'").unwrap();
    a.run("INSERT INTO notes VALUES('a1', 'b from a', 1), ('a2', 'x', 1), ('a3', 'b', 0)");
    b.run("INSERT INTO notes VALUES('b1', 'b from b', 0), ('b2', 'x', 1)");
    exchange(&mut a, &mut b);
    assert_eq!(a.rows("SELECT id FROM notes ORDER BY id"), ["'a1'", "'a2'", "'a3'", "'b1'"]);
    assert_eq!(b.rows("SELECT id FROM notes ORDER BY id"), ["'a1'", "'a2'", "'b1'", "'b2'"]);
    // Each lets go of what its own filter says, for the other too.
    a.run("UPDATE notes SET public = 0 WHERE id = 'a1'");
    b.run("UPDATE notes SET title = 'c' WHERE id = 'b1'");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_eq!(a.rows("SELECT id FROM notes ORDER BY id"), ["'a1'", "'a2'", "'a3'"]);
    assert_eq!(b.rows("SELECT id FROM notes ORDER BY id"), ["'a2'", "'b1'", "'b2'"]);
}

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

#[test]
fn tables_without_a_filter_keep_their_triggers() {
    let (mut a, _) = pair(NOTES);
    let triggers = a.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name");
    assert!(!triggers.iter().any(|sql| sql.contains("EXISTS")));
    a.replica.set_filter("notes", "public = 1").unwrap();
    assert_ne!(a.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
    a.replica.clear_filter("notes").unwrap();
    assert_eq!(a.rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"), triggers);
}

/// An edit that was not sent yet is passed over while somebody else's change keeps the row outside, and sent when another one
/// brings it back.
#[test]
fn an_edit_that_was_passed_over_is_sent_when_others_bring_its_row_inside() {
    pass_over_and_bring_inside("");
    // A restored server is sent everything.
    pass_over_and_bring_inside("INSERT INTO cloudsync_settings VALUES('resend', 1)");
}

fn pass_over_and_bring_inside(meanwhile: &str) {
    let mut hub = Hub::new(NOTES);
    let mut a = Device::new(1, NOTES);
    a.replica.set_filter("notes", "public = 1").unwrap();
    a.run("INSERT INTO notes VALUES('1', 'first', 1)");
    hub.turn(&mut a, BOTH);
    a.run_at(NOW + 2, "UPDATE notes SET title = 'mine'");
    hub.server.run_at(NOW + 1, "UPDATE notes SET public = 0");
    hub.turn(&mut a, PULL);
    assert_eq!(a.dump("notes"), ["'1','mine',0"]);
    a.run(meanwhile);
    hub.turn(&mut a, BOTH);
    hub.turn(&mut a, BOTH);
    assert_eq!(hub.server.dump("notes"), ["'1','first',0"]);
    hub.server.run_at(NOW + 3, "UPDATE notes SET public = 1");
    hub.turn(&mut a, BOTH);
    hub.turn(&mut a, BOTH);
    assert_eq!(hub.server.dump("notes"), ["'1','mine',1"]);
    assert_eq!(a.clocks("notes"), hub.server.clocks("notes"));
}
