//! Evictions: rows that may no longer be here go without a trace, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
#[path = "bench/hub.rs"]
mod hub;

use bench::{Device, Folder, NOW};
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::client::Absorbed;
use cloudsync_protocol::message::{Request, Turn};
use cloudsync_protocol::payload::{Encoder, Header};
use cloudsync_replica::{Result, Zstd};
use hub::{BOTH, Hub, PULL};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, body TEXT)";

fn key(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    pack_part(&mut key, ValueRef::Text(text.as_bytes()), KeyCollation::Binary, true).unwrap();
    key
}

fn payload(rows: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    rows.iter().for_each(|(table, id)| encoder.evict(table, &key(id)));
    encoder.finish(Header { first_version: 0, last_version: 1, is_final: true }, &Zstd)
}

/// Gives the device an answer that says which rows it may no longer hold.
fn try_evict(device: &mut Device, rows: &[(&str, &str)]) -> Result<Absorbed> {
    let bytes = device.replica.prepare(PULL, false).unwrap();
    let cursor = Request::decode(&bytes).unwrap().cursor.max(1);
    device.replica.absorb(&Turn {
        epoch: 1,
        nonce: 1,
        now: NOW,
        accepted: None,
        drained: true,
        cursor,
        position: b"",
        rows_total: 0,
        verdicts: &[],
        checked: b"",
        payload: &payload(rows),
    })
}

#[track_caller]
fn evict(device: &mut Device, rows: &[(&str, &str)]) -> u64 {
    try_evict(device, rows).unwrap().rows_received
}

fn clocks(device: &Device) -> i64 {
    device.get("SELECT count(*) FROM cloudsync_clocks")
}

/// Everything that is on disk of a file.
fn bytes_of(folder: &Folder, name: &str) -> Vec<u8> {
    let files = ["", "-wal", "-journal"].map(|end| folder.file(&format!("{name}{end}")));
    files.iter().filter_map(|file| std::fs::read(file).ok()).flatten().collect()
}

#[test]
fn evicted_rows_go_without_a_tombstone_and_nothing_is_sent() {
    let mut hub = Hub::new(NOTES);
    let mut a = Device::new(1, NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one'), ('2', 'two')");
    hub.sync(&mut a);
    assert_eq!(evict(&mut a, &[("notes", "1"), ("notes", "unknown"), ("unknown", "1")]), 1);
    assert_eq!(a.dump("notes"), ["'2','two'"]);
    assert_eq!(clocks(&a), 1);
    assert!(!a.replica.has_unsent().unwrap());
    assert_eq!(hub.turn(&mut a, BOTH).rows_sent, 0);
    assert_eq!(hub.server.dump("notes").len(), 2);
    // Again is harmless, and a row that may be seen again comes as any other.
    assert_eq!(evict(&mut a, &[("notes", "1")]), 0);
    a.replica.reset_sync().unwrap();
    hub.sync(&mut a);
    assert_eq!(a.dump("notes"), ["'1','one'", "'2','two'"]);
    a.check();
}

#[test]
fn only_a_server_evicts() {
    let mut a = Device::new(1, NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one')");
    let error = a.apply(&payload(&[("notes", "1")])).unwrap_err().to_string();
    assert!(error.contains("only a server says"), "{error}");
    assert_eq!(a.dump("notes").len(), 1);
    let damaged = |key: &[u8]| {
        let mut encoder = Encoder::new();
        encoder.evict("notes", key);
        encoder.finish(Header::default(), &Zstd)
    };
    assert!(a.apply(&damaged(&[0xff, 1])).is_err());
}

#[test]
fn unsent_edits_are_kept_aside_as_a_whole_row() {
    let mut hub = Hub::new("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, body TEXT, tag TEXT)");
    let mut a = Device::new(1, "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, body TEXT, tag TEXT)");
    a.run("INSERT INTO notes VALUES('1', 'one', 'x'), ('2', 'two', 'y')");
    hub.sync(&mut a);
    a.run("UPDATE notes SET tag = 'mine' WHERE id = '1'");
    evict(&mut a, &[("notes", "1"), ("notes", "2")]);
    let rejected = a.rows("SELECT tbl, reason, \"row\" FROM cloudsync_rejected");
    let row = "{\\\"body\\\":\\\"one\\\",\\\"id\\\":\\\"1\\\",\\\"tag\\\":\\\"mine\\\"}";
    assert_eq!(rejected, [format!("'notes','the row may no longer be seen here','{row}'")]);
    hub.sync(&mut a);
    assert_eq!(hub.server.dump("notes"), ["'1','one','x'", "'2','two','y'"]);
    assert_eq!(a.dump("notes"), [""; 0]);
    // The key can be taken anew.
    a.run("INSERT INTO notes VALUES('1', 'anew', 'z')");
    assert!(a.replica.has_unsent().unwrap());
}

/// Nobody edited it here: no key of it may stay.
#[test]
fn a_row_of_others_that_is_offered_again_is_evicted_without_a_trace() {
    for sees_part in [false, true] {
        for offer in ["ALTER TABLE notes RENAME COLUMN body TO text", ""] {
            let mut hub = Hub::new(NOTES);
            let mut a = Device::new(1, NOTES);
            a.replica.set_sees_part(sees_part).unwrap();
            hub.server.run("INSERT INTO notes VALUES('1', 'one')");
            hub.sync(&mut a);
            a.run(offer);
            if offer.is_empty() {
                a.replica.set_filter("notes", "body = ''").unwrap();
                a.replica.clear_filter("notes").unwrap();
            }
            a.replica.fold().unwrap();
            assert!(a.replica.has_unsent().unwrap());
            evict(&mut a, &[("notes", "1")]);
            assert_eq!(a.dump("notes"), [""; 0]);
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_rejected"), 0, "{offer}");
        }
    }
}

/// The server was restored, and may have lost what it acknowledged: what was written here is kept until it was sent again.
#[test]
fn what_a_restored_server_did_not_get_again_is_kept_aside() {
    let resend = "INSERT INTO cloudsync_settings VALUES('resend', 1)";
    for filter in [None, Some("body = ''")] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, NOTES);
        a.replica.set_sees_part(true).unwrap();
        hub.server.run("INSERT INTO notes VALUES('2', 'theirs')");
        a.run("INSERT INTO notes VALUES('1', 'mine'), ('3', 'mine')");
        hub.sync(&mut a);
        if let Some(filter) = filter {
            a.replica.set_filter("notes", filter).unwrap();
        }
        a.run(resend);
        if filter.is_some() {
            // Outside of the filter it is passed over.
            hub.sync(&mut a);
        }
        evict(&mut a, &[("notes", "1"), ("notes", "2")]);
        assert_eq!(a.dump("notes"), ["'3','mine'"]);
        let rejected = a.rows("SELECT reason, \"row\" FROM cloudsync_rejected");
        let row = "{\\\"body\\\":\\\"mine\\\",\\\"id\\\":\\\"1\\\"}";
        assert_eq!(rejected, [format!("'the row may no longer be seen here','{row}'")]);
        if filter.is_none() {
            hub.sync(&mut a);
            evict(&mut a, &[("notes", "3")]);
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_rejected"), 1);
        }
    }
}

#[test]
fn edits_that_were_acknowledged_need_no_journal() {
    let mut hub = Hub::new(NOTES);
    let mut a = Device::new(1, NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one')");
    hub.sync(&mut a);
    a.run("UPDATE notes SET body = 'uno'");
    hub.sync(&mut a);
    evict(&mut a, &[("notes", "1")]);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_rejected"), 0);
}

#[test]
fn children_stay_as_orphans_and_no_foreign_key_keeps_a_row() {
    let schema = "CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE kept(id TEXT PRIMARY KEY NOT NULL, up TEXT REFERENCES parent ON DELETE RESTRICT);
        CREATE TABLE gone(id TEXT PRIMARY KEY NOT NULL, up TEXT REFERENCES parent ON DELETE CASCADE);
        CREATE TABLE local(up TEXT REFERENCES parent ON DELETE SET NULL)";
    let mut hub = Hub::new(schema);
    let mut a = Device::new(1, schema);
    a.run(
        "PRAGMA foreign_keys = ON; INSERT INTO parent VALUES('p'); INSERT INTO kept VALUES('k', 'p');
           INSERT INTO gone VALUES('g', 'p'); INSERT INTO local VALUES('p')",
    );
    hub.sync(&mut a);
    evict(&mut a, &[("parent", "p")]);
    assert_eq!(a.dump("parent"), [""; 0]);
    assert_eq!(a.dump("kept"), ["'k','p'"]);
    assert_eq!(a.dump("gone"), ["'g','p'"]);
    assert_eq!(a.dump("local"), ["'p'"]);
    hub.sync(&mut a);
    assert_eq!(hub.server.dump("gone"), ["'g','p'"]);
    assert_eq!(hub.server.dump("parent"), ["'p'"]);
}

#[test]
fn triggers_of_the_app_see_rows_go_and_cannot_keep_them() {
    for keeps in ["SELECT RAISE(ABORT, 'no')", "SELECT RAISE(IGNORE)", "SELECT RAISE(ROLLBACK, 'no')"] {
        let mut hub = Hub::new(NOTES);
        let mut a = Device::new(1, &format!("{NOTES}; CREATE TABLE seen(id)"));
        a.run("INSERT INTO notes VALUES('1', 'one'), ('2', 'two')");
        hub.sync(&mut a);
        a.run(&format!(
            "CREATE TRIGGER sees AFTER DELETE ON notes BEGIN
                INSERT INTO seen VALUES(OLD.id); UPDATE notes SET body = 'touched'; END;
             CREATE TRIGGER keeps BEFORE DELETE ON notes WHEN OLD.id = '2' BEGIN {keeps}; END"
        ));
        evict(&mut a, &[("notes", "1"), ("notes", "2")]);
        assert_eq!(a.dump("notes"), [""; 0], "{keeps}");
        assert_eq!(a.dump("seen"), ["'1'"], "{keeps}");
        assert_eq!(clocks(&a), 0);
        assert!(!a.replica.has_unsent().unwrap(), "{keeps}");
        assert_eq!(a.get::<i64>("SELECT count(*) FROM temp.sqlite_master"), 0);
    }
}

#[test]
fn tables_that_only_grow_and_dead_rows_are_evicted_too() {
    for algorithm in ["gos", "aws", "dws"] {
        let mut hub = Hub::on({
            let mut server = Device::empty(200);
            server.run(NOTES);
            server.init_all_as(algorithm);
            server
        });
        let mut a = Device::empty(1);
        a.run(NOTES);
        a.init_all_as(algorithm);
        a.run("INSERT INTO notes VALUES('1', 'one'), ('2', 'two')");
        if algorithm != "gos" {
            a.run("DELETE FROM notes WHERE id = '2'");
        }
        hub.sync(&mut a);
        evict(&mut a, &[("notes", "1"), ("notes", "2")]);
        assert_eq!((a.dump("notes").len(), clocks(&a)), (0, 0), "{algorithm}");
        if algorithm == "aws" {
            assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_buried"), 0);
        }
    }
}

#[test]
fn a_staged_eviction_waits_for_its_download() {
    let mut hub = Hub::new(NOTES);
    let mut a = Device::new(1, NOTES);
    a.run("INSERT INTO notes VALUES('1', 'one')");
    hub.sync(&mut a);
    a.replica.prepare(PULL, false).unwrap();
    let evicted = payload(&[("notes", "1")]);
    let turn = Turn {
        epoch: 1,
        nonce: 1,
        now: NOW,
        accepted: None,
        drained: false,
        cursor: 0,
        position: b"on",
        rows_total: 0,
        verdicts: &[],
        checked: b"",
        payload: &evicted,
    };
    a.replica.absorb(&turn).unwrap();
    assert_eq!(a.dump("notes").len(), 1);
    a.replica.prepare(PULL, false).unwrap();
    a.replica.absorb(&Turn { drained: true, cursor: 5, position: b"", payload: b"", ..turn }).unwrap();
    assert_eq!(a.dump("notes").len(), 0);
}

#[test]
fn nothing_is_left_in_the_file_after_the_scrub() {
    for mode in ["WAL", "DELETE", "PERSIST"] {
        let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
        let mut a = Device::open(&folder.file("a.db"), 1);
        a.run(&format!("PRAGMA journal_mode = {mode}; PRAGMA page_size = 1024; {NOTES}"));
        a.init_all();
        a.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO notes SELECT printf('key-%d-%s', i % 7, hex(randomblob(6))), printf('secret of row %d', i) FROM n",
        );
        hub.sync(&mut a);
        a.run("UPDATE notes SET body = body || ' and more'");
        hub.sync(&mut a);
        let ids: Vec<String> = a.column("SELECT id FROM notes WHERE id LIKE 'key-3-%'");
        let texts: Vec<String> = a.column("SELECT body FROM notes WHERE id LIKE 'key-3-%'");
        let rows: Vec<_> = ids.iter().map(|id| ("notes", id.as_str())).collect();
        assert!(!a.replica.is_scrub_due().unwrap());
        evict(&mut a, &rows);
        assert!(a.replica.is_scrub_due().unwrap());
        assert_eq!(a.replica.status().unwrap()["scrub_due"], true);
        assert!(!a.replica.has_unsent().unwrap());
        assert!(a.replica.scrub().unwrap(), "{mode}");
        assert!(!a.replica.has_unsent().unwrap(), "a scrub is nothing to send");
        assert!(!a.replica.is_scrub_due().unwrap());
        let bytes = bytes_of(&folder, "a.db");
        let found = String::from_utf8_lossy(&bytes);
        assert!(found.contains("secret of row"), "others stay");
        for text in ids.iter().chain(&texts) {
            assert!(!found.contains(text.as_str()), "{mode}: {text}");
        }
        assert!(!a.replica.scrub().unwrap(), "once is enough");
        a.run("UPDATE notes SET body = 'after'");
        hub.sync(&mut a);
        a.check();
    }
}

#[test]
fn a_scrub_waits_while_others_use_the_file_or_it_is_too_large() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(&format!("PRAGMA journal_mode = WAL; {NOTES}"));
    a.init_all();
    a.run("INSERT INTO notes VALUES('1', 'one')");
    hub.sync(&mut a);
    evict(&mut a, &[("notes", "1")]);
    let reader = rusqlite::Connection::open(folder.file("a.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM notes").unwrap();
    assert!(!a.replica.scrub().unwrap());
    reader.execute_batch("COMMIT").unwrap();
    a.run("BEGIN");
    assert!(!a.replica.scrub().unwrap(), "inside of a transaction of the app");
    a.run("COMMIT");
    a.replica.set_setting("scrub_bytes_max", 4_096.into()).unwrap();
    assert!(!a.replica.scrub().unwrap());
    a.replica.set_setting("scrub_bytes_max", 1_000_000.into()).unwrap();
    // VACUUM would give the rows of such a table other numbers.
    a.run("CREATE TABLE bare(x)");
    assert!(!a.replica.scrub().unwrap());
    a.run("CREATE INDEX known ON bare(x)");
    assert!(a.replica.scrub().unwrap());
}

const SERIES: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)";

/// True when the file or what belongs to it has a text.
fn has(folder: &Folder, text: &str) -> bool {
    String::from_utf8_lossy(&bytes_of(folder, "a.db")).contains(text)
}

#[test]
fn deletions_make_a_scrub_due_on_a_users_device_and_wait_for_a_day_after_the_last_one() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    let mut a = Device::open(&folder.file("a.db"), 1);
    let mut b = Device::open(&folder.file("b.db"), 2);
    let mut trusted = Device::open(&folder.file("c.db"), 3);
    for device in [&mut a, &mut b, &mut trusted] {
        device.run(NOTES);
        device.init_all();
    }
    a.replica.set_sees_part(true).unwrap();
    a.replica.scrub().unwrap();
    b.run(&format!("{SERIES} INSERT INTO notes SELECT i, printf('secret %d of them', i) FROM n"));
    for device in [&mut b, &mut a, &mut trusted] {
        hub.sync(device);
    }
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), None);
    a.run("DELETE FROM notes WHERE id = '9'");
    hub.sync(&mut a);
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), None, "the app's own deletion");
    b.run("DELETE FROM notes WHERE id = '1'");
    for device in [&mut b, &mut a, &mut trusted] {
        hub.sync(device);
    }
    assert_eq!(trusted.replica.scrub_wait_ms().unwrap(), None, "who sees all has nothing to hide");
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(0), "the first one need not wait");
    assert!(has(&folder, "secret 1 of them"));
    assert!(a.replica.scrub().unwrap());
    assert!(!has(&folder, "secret 1 of them"));
    assert!(has(&folder, "secret 2 of them"));
    assert!(!a.replica.is_scrub_due().unwrap());
    b.run("DELETE FROM notes WHERE id = '2'");
    hub.sync(&mut b);
    a.world.now.set(NOW + 60_000);
    hub.sync(&mut a);
    let day = 24 * 3_600_000;
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(day - 60_000));
    assert_eq!(a.replica.status().unwrap()["scrub_due"], true);
    a.world.now.set(NOW - 2 * day);
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(0), "whatever the clock was");
    a.world.now.set(NOW + 60_000);
    evict(&mut a, &[("notes", "3")]);
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(0), "an eviction does not wait");
    assert!(a.replica.scrub().unwrap());
    assert!(!has(&folder, "secret 2 of them"));
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), None);
}

#[test]
fn evictions_have_at_most_64_mib_of_a_large_file_cleaned_in_an_hour() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(NOTES);
    a.init_all();
    a.replica.set_sees_part(true).unwrap();
    a.run(&format!("{SERIES} INSERT INTO notes SELECT i, 'small' FROM n"));
    hub.sync(&mut a);
    for id in ["1", "2"] {
        evict(&mut a, &[("notes", id)]);
        assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(0), "a small file at once");
        assert!(a.replica.scrub().unwrap());
    }
    a.run("CREATE TABLE own(id INTEGER PRIMARY KEY, blob); INSERT INTO own VALUES(1, zeroblob(8 << 20))");
    evict(&mut a, &[("notes", "3")]);
    // An eighth of what may be written in an hour, or a page more.
    let wait_ms = a.replica.scrub_wait_ms().unwrap().unwrap();
    assert!((450_000..460_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(a.replica.status().unwrap()["scrub_due"], true);
    a.world.now.set(NOW + wait_ms);
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(0));
    assert!(a.replica.scrub().unwrap());
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), None);
}

/// The power goes: the first bytes of the WAL are lost, and with them all that was committed since the last checkpoint.
fn lose_the_wal(folder: &Folder, from: &str, to: &str) {
    let path = |name: &str| folder.file(name);
    std::fs::copy(path(from), path(to)).unwrap();
    let mut wal = std::fs::read(path(&format!("{from}-wal"))).unwrap();
    wal[..512].fill(0);
    std::fs::write(path(&format!("{to}-wal")), wal).unwrap();
}

/// A device that loses its file, but for the frames that nobody reads any more, begins as another site, and the server
/// knows of nothing to be taken out there.
#[test]
fn a_users_file_that_begins_anew_keeps_nothing_of_what_its_wal_was() {
    let folder = Folder::new();
    let mut before = Device::open(&folder.file("before.db"), 1);
    before.run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0");
    before.run(NOTES);
    before.init_all();
    before.run(&format!("{SERIES} INSERT INTO notes SELECT i, 'secret ' || i || hex(zeroblob(2000)) FROM n"));
    lose_the_wal(&folder, "before.db", "a.db");
    let mut a = Device::open(&folder.file("a.db"), 2);
    a.run(NOTES);
    a.init_all();
    assert!(
        a.dump("notes").is_empty() && has(&folder, "secret 20"),
        "the file is lost and the frames are not"
    );
    a.replica.set_sees_part(true).unwrap();
    assert_eq!(a.replica.scrub_wait_ms().unwrap(), Some(0));
    a.replica.scrub().unwrap();
    assert!(!has(&folder, "secret "));
    assert!(!a.replica.is_scrub_due().unwrap());
    a.replica.set_sees_part(true).unwrap();
    assert!(!a.replica.is_scrub_due().unwrap(), "once for a file");
}

/// The server knows what it sent, also where the file has lost it.
#[test]
fn an_eviction_of_a_row_that_the_file_forgot_cleans_what_is_left_of_it() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    let mut before = Device::open(&folder.file("before.db"), 1);
    before.run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0");
    before.run(NOTES);
    before.init_all();
    before.replica.set_sees_part(true).unwrap();
    before.replica.scrub().unwrap();
    before.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut b = Device::open(&folder.file("b.db"), 2);
    b.run(NOTES);
    b.init_all();
    b.run(&format!("{SERIES} INSERT INTO notes SELECT i, 'secret ' || i || hex(zeroblob(2000)) FROM n"));
    hub.sync(&mut b);
    hub.sync(&mut before);
    lose_the_wal(&folder, "before.db", "a.db");
    let mut a = Device::open(&folder.file("a.db"), 3);
    assert!(a.dump("notes").is_empty() && has(&folder, "secret 20"));
    assert!(!a.replica.is_scrub_due().unwrap());
    assert_eq!(evict(&mut a, &[("notes", "20")]), 0);
    assert!(a.replica.scrub().unwrap());
    assert!(!has(&folder, "secret "));
}

#[test]
fn a_users_file_that_takes_another_site_is_scrubbed() {
    let (folder, mut hub) = (Folder::new(), Hub::new(NOTES));
    for sees_part in [false, true] {
        let name = format!("{sees_part}.db");
        let mut a = Device::open(&folder.file(&name), 1);
        a.world.identity.set(Some(1));
        a.run(NOTES);
        a.init_all();
        a.replica.set_sees_part(sees_part).unwrap();
        a.replica.scrub().unwrap();
        hub.sync(&mut a);
        assert!(!a.replica.is_scrub_due().unwrap());
        a.world.identity.set(Some(2));
        hub.sync(&mut a);
        assert!(a.replica.status().unwrap()["parted"].is_object());
        assert_eq!(a.replica.is_scrub_due().unwrap(), sees_part);
    }
}
