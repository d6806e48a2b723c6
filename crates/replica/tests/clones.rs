//! Copies of a file, and files that were restored from a backup, as far as the file alone and payloads show them.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, Folder, assert_same, exchange};

const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT)";

/// A file of that identity, with one row that was taken in and one that was not.
fn original(folder: &Folder) -> Device {
    let mut device = Device::open(&folder.file("a.db"), 1);
    device.world.identity.set(Some(11));
    device.run(NOTES);
    device.init_all();
    device.run("INSERT INTO notes VALUES('1', 'taken in')");
    device.replica.fold().unwrap();
    device.run("INSERT INTO notes VALUES('2', 'noted')");
    device
}

fn copy(folder: &Folder, from: &str, to: &str, identity: Option<u64>) -> Device {
    std::fs::copy(folder.file(from), folder.file(to)).unwrap();
    let device = Device::open(&folder.file(to), u64::from(to.as_bytes()[0]));
    device.world.identity.set(identity);
    device
}

fn parted(device: &mut Device) -> String {
    device.replica.status().unwrap()["parted"]["why"].to_string()
}

#[test]
fn a_copy_takes_a_site_of_its_own_before_it_stamps_anything() {
    let folder = Folder::new();
    let mut a = original(&folder);
    let site = a.replica.site_id().unwrap();
    let mut b = copy(&folder, "a.db", "b.db", Some(22));
    assert_ne!(b.replica.site_id().unwrap(), site);
    assert_eq!(a.replica.site_id().unwrap(), site);
    assert!(parted(&mut b).contains("copied"));
    assert_eq!(parted(&mut a), "null");
    // At one moment both write one cell, and rows of their own.
    a.run_at(5_000, "UPDATE notes SET title = 'a' WHERE id = '1'; INSERT INTO notes VALUES('a', 'a')");
    b.run_at(5_000, "UPDATE notes SET title = 'b' WHERE id = '1'; INSERT INTO notes VALUES('b', 'b')");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes").len(), 4);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_sites"), 2);
    // Only once.
    let site = b.replica.site_id().unwrap();
    b.replica.fold().unwrap();
    assert_eq!(b.replica.site_id().unwrap(), site);
}

#[test]
fn the_same_file_keeps_its_site_whatever_is_done_to_it() {
    let folder = Folder::new();
    let mut a = original(&folder);
    let site = a.replica.site_id().unwrap();
    a.run("PRAGMA journal_mode = WAL");
    a.run("VACUUM; PRAGMA journal_mode = DELETE; VACUUM");
    a.replica.fold().unwrap();
    assert_eq!(a.replica.site_id().unwrap(), site);
    drop(a);
    std::fs::rename(folder.file("a.db"), folder.file("c.db")).unwrap();
    let mut a = Device::open(&folder.file("c.db"), 3);
    a.world.identity.set(Some(11));
    a.run("UPDATE notes SET title = 'x'");
    assert_eq!(a.replica.site_id().unwrap(), site);
    // Where the file system tells nothing, nothing is concluded, and nothing forgotten.
    a.world.identity.set(None);
    a.replica.fold().unwrap();
    assert_eq!(a.replica.site_id().unwrap(), site);
    a.world.identity.set(Some(12));
    a.replica.fold().unwrap();
    assert_ne!(a.replica.site_id().unwrap(), site);
}

#[test]
fn a_first_identity_is_stored_and_means_nothing() {
    let folder = Folder::new();
    let mut a = Device::open(&folder.file("a.db"), 1);
    a.run(NOTES);
    a.init_all();
    let site = a.replica.site_id().unwrap();
    for _ in 0..2 {
        a.world.identity.set(Some(11));
        a.replica.fold().unwrap();
        assert_eq!(a.replica.site_id().unwrap(), site);
    }
    a.world.identity.set(Some(12));
    assert_ne!(a.replica.site_id().unwrap(), site);
}

#[test]
fn a_copy_is_left_alone_in_a_transaction_of_the_app_and_read_only() {
    let folder = Folder::new();
    let mut a = original(&folder);
    let site = a.replica.site_id().unwrap();
    let mut b = copy(&folder, "a.db", "b.db", Some(22));
    b.run("BEGIN; INSERT INTO notes VALUES('b', 'b')");
    assert_eq!(b.replica.site_id().unwrap(), site);
    b.replica.fold().unwrap();
    b.run("COMMIT; PRAGMA query_only = ON");
    let payload = a.encode();
    assert!(b.apply(&payload).is_err());
    b.run("PRAGMA query_only = OFF");
    assert_ne!(b.replica.site_id().unwrap(), site);
    // What was stamped under the old id in the transaction goes under the new one.
    let clocks = b.clocks("notes");
    let old = format!("@{:02x?}", &site.0[..4]);
    assert!(!clocks["[31, 62]"].contains(&old), "{clocks:?}");
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    drop(a);
    let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let sql = rusqlite::Connection::open_with_flags(folder.file("a.db"), read_only).unwrap();
    let mut reader = Device::on(sql, 9);
    reader.world.identity.set(Some(33));
    assert_eq!(reader.replica.site_id().unwrap(), site);
}

#[test]
fn cells_of_this_site_that_were_not_stamped_here_tell_of_a_copy() {
    let folder = Folder::new();
    let mut a = original(&folder);
    a.replica.fold().unwrap();
    let site = a.replica.site_id().unwrap();
    // A file system that tells nothing: both go on under one id.
    let mut b = copy(&folder, "a.db", "b.db", None);
    b.world.identity.set(None);
    assert_eq!(b.replica.site_id().unwrap(), site);
    a.run("UPDATE notes SET title = 'a' WHERE id = '1'");
    a.replica.fold().unwrap();
    b.run("UPDATE notes SET title = 'b' WHERE id = '2'");
    let later = "UPDATE cloudsync_log SET at = (SELECT max(at) + 1000.0 / 86400000 FROM cloudsync_log)";
    b.run(later);
    let payload = b.encode();
    a.apply(&payload).unwrap();
    assert_ne!(a.replica.site_id().unwrap(), site);
    assert!(parted(&mut a).contains("a copy of the file"));

    let site = a.replica.site_id().unwrap();
    // The other one may keep the id: it is the only one by now.
    let payload = a.encode();
    b.apply(&payload).unwrap();
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "notes");
    assert_eq!(a.dump("notes"), ["'1','a'", "'2','b'"]);
    assert_eq!(a.replica.site_id().unwrap(), site);
}

#[test]
fn a_backup_laid_over_the_file_meets_its_own_future() {
    let folder = Folder::new();
    let mut a = original(&folder);
    let mut peer = Device::new(7, NOTES);
    exchange(&mut a, &mut peer);
    let site = a.replica.site_id().unwrap();
    drop(a);
    std::fs::copy(folder.file("a.db"), folder.file("backup.db")).unwrap();
    let mut a = Device::open(&folder.file("a.db"), 2);
    a.world.identity.set(Some(11));
    a.run("INSERT INTO notes VALUES('3', 'after the backup')");
    exchange(&mut a, &mut peer);
    drop(a);
    // The same file, with what it held before.
    std::fs::copy(folder.file("backup.db"), folder.file("a.db")).unwrap();
    let mut a = Device::open(&folder.file("a.db"), 4);
    a.world.identity.set(Some(11));
    assert_eq!(a.replica.site_id().unwrap(), site);
    exchange(&mut peer, &mut a);
    assert_ne!(a.replica.site_id().unwrap(), site);
    a.run("INSERT INTO notes VALUES('4', 'of the restored one')");
    exchange(&mut a, &mut peer);
    assert_same(&mut a, &mut peer, "notes");
    assert_eq!(a.dump("notes").len(), 4);
}

#[test]
fn payloads_that_bring_nothing_unknown_of_this_site_change_nothing() {
    let folder = Folder::new();
    let mut a = original(&folder);
    let mut peer = Device::new(7, NOTES);
    let site = a.replica.site_id().unwrap();
    for _ in 0..3 {
        a.run("UPDATE notes SET title = title || '!'");
        exchange(&mut a, &mut peer);
        peer.run("UPDATE notes SET title = title || '?'");
        exchange(&mut a, &mut peer);
    }
    assert_eq!(a.replica.site_id().unwrap(), site);
}

#[test]
fn a_copy_that_deletes_what_the_original_had_handed_out_deletes_it_for_others() {
    // Site ids are drawn, and either may be the greater one.
    for seed in 0..8 {
        let folder = Folder::new();
        let mut a = Device::open(&folder.file("a.db"), 100 + seed);
        a.world.identity.set(Some(11));
        let mut other = Device::empty(200);
        for device in [&mut a, &mut other] {
            device.run(NOTES);
            device.init_all_as("aws");
        }
        a.run("INSERT INTO notes VALUES('1', 'handed out')");
        exchange(&mut a, &mut other);
        assert_eq!(other.dump("notes").len(), 1);
        drop(a);
        std::fs::copy(folder.file("a.db"), folder.file("b.db")).unwrap();
        let mut b = Device::open(&folder.file("b.db"), 300 + seed);
        b.world.identity.set(Some(22));
        b.run("DELETE FROM notes");
        exchange(&mut b, &mut other);
        assert_eq!(other.dump("notes"), [""; 0], "seed {seed}");
    }
}

#[test]
fn a_copy_sends_rows_whole_whose_boundary_is_another_one_by_its_new_site() {
    for seed in 0..8 {
        let folder = Folder::new();
        let mut a = Device::open(&folder.file("a.db"), 100 + seed);
        a.world.identity.set(Some(11));
        let mut other = Device::empty(200);
        for device in [&mut a, &mut other] {
            device.run(NOTES.replace("title", "body, title").as_str());
            device.init_all_as("dws");
        }
        a.run("INSERT INTO notes VALUES('1', 'b', 'first')");
        a.replica.fold().unwrap();
        a.run("DELETE FROM notes");
        a.replica.fold().unwrap();
        a.run("INSERT INTO notes VALUES('1', 'b', 'again')");
        exchange(&mut a, &mut other);
        let handed_out = a.replica.version().unwrap();
        drop(a);
        std::fs::copy(folder.file("a.db"), folder.file("b.db")).unwrap();
        let mut b = Device::open(&folder.file("b.db"), 300 + seed);
        b.world.identity.set(Some(22));
        b.run("UPDATE notes SET title = 'edited'");
        let payload = b.replica.payload_encode(handed_out, None).unwrap();
        other.apply(&payload).unwrap();
        assert_eq!((other.dump("notes"), other.quarantine()), (b.dump("notes"), 0), "seed {seed}");
    }
}
