//! Copies of a user's file and files that went back: nobody tells them by the ledger what is to go.

use crate::bench::{Device, Folder};
use crate::checks::{make_slow, notes};
use crate::team::{Member, Team};

/// A copy of somebody's file.
pub(crate) fn copy(team: &Team, member: &Member, folder: &Folder, name: &str, seed: u64) -> Member {
    let path = folder.file(name);
    member.run(&format!("VACUUM INTO '{}'", path.display()));
    let mut copy = team.member_on(Device::open(&path, seed), &member.user);
    copy.is_copy_of(member);
    copy
}

#[test]
fn a_copy_of_a_users_device_loses_what_it_may_not_have_and_keeps_nothing_of_it() {
    for writes in [false, true] {
        let folder = Folder::new();
        let (team, mut alice) = notes();
        let mut other = copy(&team, &alice, &folder, "copy.db", 7);
        // What is taken away is told to the first one alone.
        team.run("UPDATE notes SET owner = 'bob', body = 'of bob' WHERE id = 'n04'; DELETE FROM notes WHERE id = 'n07'");
        team.assert_mended(&mut [&mut alice]);
        if writes {
            alice.run("INSERT INTO notes VALUES('from the first', 'alice', '1')");
            team.assert_mended(&mut [&mut alice]);
            other.run("INSERT INTO notes VALUES('from the copy', 'alice', '2')");
        }
        // Nobody tells the copy what it does not hold any more by the ledger.
        for _ in 0..2 {
            team.sync(&mut other);
            team.sync(&mut alice);
        }
        team.assert_mended(&mut [&mut other, &mut alice]);
        assert_eq!(other.rows("SELECT * FROM cloudsync_rejected"), [""; 0]);
        assert!(other.device.replica.is_scrub_due().unwrap());
        assert_eq!(other.device.dump("notes").len(), if writes { 4 } else { 2 });
    }
}

#[test]
fn a_file_that_went_back_and_only_reads_loses_at_once_what_its_user_may_not_see() {
    for fetches_again in [false, true] {
        let folder = Folder::new();
        let (team, mut alice) = notes();
        // More than an idle device looks through at once.
        team.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
             INSERT INTO notes(id, owner, body) SELECT printf('many%04d', i), 'alice', i FROM n",
        );
        team.sync(&mut alice);
        let mut before = copy(&team, &alice, &folder, "before.db", 7);
        team.run("UPDATE notes SET owner = 'bob' WHERE id LIKE 'many%7'");
        team.run("DELETE FROM notes WHERE id LIKE 'many%8'");
        team.sync(&mut alice);
        // Only now the ledger is sure that they are gone.
        team.run("INSERT INTO notes(id, owner, body) VALUES('news', 'alice', 'x')");
        team.sync(&mut alice);
        if fetches_again {
            alice.run("INSERT INTO cloudsync_settings VALUES('refetch', 1)");
            team.sync(&mut alice);
        }
        team.sync(&mut before);
        let gone = "SELECT count(*) FROM notes WHERE id LIKE 'many%7' OR id LIKE 'many%8'";
        assert_eq!(before.rows(gone), ["0"], "{fetches_again}");
        team.assert_mended(&mut [&mut before, &mut alice]);
    }
}

/// A copy of alice's file that cannot be compared with the server as it is by `harm`, after rows went out of her sight and
/// were changed.
fn copy_under(harm: impl FnOnce(&mut Team)) {
    let folder = Folder::new();
    let (mut team, mut alice) = notes();
    harm(&mut team);
    team.sync(&mut alice);
    let mut other = copy(&team, &alice, &folder, "copy.db", 7);
    team.run("UPDATE notes SET owner = 'bob', body = 'of bob' WHERE id = 'n04'; DELETE FROM notes WHERE id = 'n07';
        UPDATE notes SET body = 'newer' WHERE id = 'n10'; INSERT INTO notes(id, owner, body) VALUES('n20', 'alice', 'x'), ('n21', 'bob', 'y')");
    // The first one takes part, so that the copy has to take a site of its own, and nobody tells it anything by the ledger.
    alice.run("INSERT INTO notes(id, owner, body) VALUES('from the first', 'alice', '1')");
    for _ in 0..2 {
        team.sync(&mut alice);
    }
    // What the copy writes goes up, also of rows that it must give back.
    other.run("INSERT INTO notes(id, owner, body) VALUES('from the copy', 'alice', '2'); UPDATE notes SET body = 'late' WHERE id IN ('own', 'n04')");
    for _ in 0..3 {
        team.sync(&mut other);
        team.sync(&mut alice);
    }
    let held = "SELECT id, owner, body FROM notes ORDER BY id";
    let expected = [
        "'from the copy','alice','2'",
        "'from the first','alice','1'",
        "'n10','alice','newer'",
        "'n20','alice','x'",
        "'own','alice','late'",
    ];
    assert_eq!(other.rows(held), expected);
    assert_eq!(alice.rows(held), expected);
    assert_eq!(other.rows("SELECT key FROM cloudsync_settings WHERE key = 'unconfirmed'"), [""; 0]);
    assert!(other.device.replica.is_scrub_due().unwrap());
    let changes = other.device.sql.total_changes();
    team.sync(&mut other);
    assert_eq!((other.got, other.repaired, other.device.sql.total_changes()), ([0; 3], 0, changes));
    // The edit of a row that may not be seen any more.
    assert_eq!(other.rows("SELECT tbl FROM cloudsync_rejected"), ["'notes'"]);
}

#[test]
fn a_copy_of_a_users_device_that_cannot_be_compared_holds_what_a_download_of_everything_brings() {
    copy_under(|team| team.run("ALTER TABLE notes ADD COLUMN later"));
    copy_under(make_slow);
}

#[test]
fn a_restored_device_of_a_user_loses_what_went_meanwhile() {
    let folder = Folder::new();
    let (team, mut alice) = notes();
    let backup = copy(&team, &alice, &folder, "backup.db", 1);
    team.run("UPDATE notes SET owner = 'bob' WHERE id IN ('n04', 'n07')");
    team.assert_mended(&mut [&mut alice]);
    team.run(
        "UPDATE notes SET owner = 'alice' WHERE id = 'n07'; INSERT INTO notes VALUES('late', 'alice', 'x')",
    );
    alice.run("UPDATE notes SET body = 'later' WHERE id = 'own'");
    team.assert_mended(&mut [&mut alice]);
    drop(alice);
    let mut alice = backup;
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes ORDER BY id"), ["'late'", "'n07'", "'n10'", "'own'"]);
}
