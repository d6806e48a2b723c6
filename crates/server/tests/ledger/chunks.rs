//! Downloads of several chunks, and how much of the rest one of them may look at.

use crate::team::{Fate, Member, Team};
use crate::{MEMBERS, PROJECTS, journals, projects};
use cloudsync_server::store::Store as _;

/// The members' table is seen by nobody.
fn hidden_members() -> Team {
    let mut team = Team::new(PROJECTS);
    team.sees("tasks", MEMBERS);
    team
}

/// Tasks of a project whose bodies are 120,000 bytes long: nine fill a chunk.
fn fill(team: &Team, project: &str, count: usize) {
    team.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO tasks SELECT '{project}' || i, '{project}', hex(randomblob(60000)) FROM n"
    ));
}

/// Syncs without taking in what a check finds.
fn sync_unchecked(team: &Team, member: &mut Member, turns: usize) {
    team.sync_with(member, &mut |turn| if turn == turns { Fate::Ends } else { Fate::Arrives });
}

/// Else rows would come whole where a cell changed, for as long as they are there.
#[test]
fn what_the_first_chunk_granted_is_sure_though_the_last_one_grants_nothing() {
    let team = projects();
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12)
         INSERT INTO tasks SELECT 't' || i, 'p', 'small' FROM n;
         INSERT INTO tasks VALUES('granted', 'q', 'x'); INSERT INTO members VALUES('m', 'p', 'alice')",
    );
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run(
        "INSERT INTO members VALUES('n', 'q', 'alice');
         UPDATE tasks SET body = hex(randomblob(60000)) WHERE project = 'p'",
    );
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.whole, alice.turns), ([14, 0, 0], 2, 2));
    for granted in ["r", "s"] {
        team.run("UPDATE tasks SET body = body || '.' WHERE id IN ('granted', 't1')");
        team.sync(&mut alice);
        assert_eq!((alice.got, alice.whole), ([2, 0, 0], 0), "{granted}");
        team.run(&format!("INSERT INTO members VALUES('{granted}', '{granted}', 'alice')"));
        team.sync(&mut alice);
        assert_eq!((alice.got, alice.whole), ([1, 0, 0], 1), "{granted}");
    }
    // Nor is what the download before it granted forgotten, where the first of several chunks grants nothing.
    team.run("UPDATE tasks SET body = hex(randomblob(60000)) WHERE project = 'p'");
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.whole, alice.turns), ([12, 0, 0], 0, 2));
    team.run("UPDATE members SET project = 'x' WHERE id = 's'");
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.whole), ([1, 0, 0], 0));
    team.assert_settled(&mut [&mut alice]);
}

/// Of the rows of the later chunks nothing is sure either.
#[test]
fn a_device_of_whose_downloads_nothing_is_known_gets_everything_however_many_chunks_that_takes() {
    let team = hidden_members();
    fill(&team, "p", 20);
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    let before: i64 = alice.device.get("SELECT value FROM cloudsync_settings WHERE key = 'cursor'");
    team.run("INSERT INTO members VALUES('m', 'p', 'alice')");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO tasks VALUES('later', 'p', 'x')");
    team.assert_settled(&mut [&mut alice]);
    alice.run(&format!("UPDATE cloudsync_settings SET value = {before} WHERE key = 'cursor'"));
    team.run("DELETE FROM cloudsync_server_downloads");
    // An answer that is lost makes nothing sure.
    team.sync_with(&mut alice, &mut |_| Fate::Ends);
    assert_eq!(alice.whole, 10);
    // Since `later` did change, it comes by that as well.
    sync_unchecked(&team, &mut alice, 3);
    assert_eq!((alice.got, alice.whole, alice.turns), ([22, 0, 0], 22, 3));
    team.run("UPDATE tasks SET body = 'small'");
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.whole), ([21, 0, 0], 0), "it is all sure again");
    team.assert_settled(&mut [&mut alice]);
}

/// Else each chunk would begin with all the rows that came before.
#[test]
fn a_question_whose_rows_fill_eight_chunks_is_asked_no_more() {
    let team = projects();
    fill(&team, "eight", 71);
    fill(&team, "nine", 80);
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    for (project, rows, chunks, looked_at_all) in [("eight", 71, 8, 0), ("nine", 80, 9, 1)] {
        let before = team.server.store.recomputations();
        team.run(&format!("INSERT INTO members VALUES('{project}', '{project}', 'alice')"));
        team.sync(&mut alice);
        assert_eq!((alice.got, alice.turns), ([rows + 1, 0, 0], chunks), "{project}");
        assert_eq!(team.server.store.recomputations() - before, looked_at_all, "{project}");
    }
    team.assert_settled(&mut [&mut alice]);
}

/// The time that others wait is bounded, too, where few rows are seen of many.
#[test]
fn a_chunk_ends_when_it_has_looked_at_very_many_rows_that_are_not_seen() {
    let team = journals();
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100001)
         INSERT INTO notes SELECT i, 'bob', 'x' FROM n; INSERT INTO notes VALUES('z', 'alice', 'x')",
    );
    let mut alice = team.member(1, "alice");
    sync_unchecked(&team, &mut alice, 2);
    assert_eq!((alice.got, alice.turns), ([1, 0, 0], 2));
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'z'"]);
}

/// Who is told may ask in vain; who is not told misses something.
#[test]
fn a_question_with_more_rows_than_are_looked_at_wakes() {
    let team = hidden_members();
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO tasks SELECT i, CASE WHEN i <= 200 THEN 'few' ELSE 'many' END, 'x' FROM n;
         INSERT INTO tasks SELECT 'more' || id, 'many', body FROM tasks;
         INSERT INTO members VALUES('f', 'few', 'alice'), ('m', 'many', 'alice')",
    );
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    for (project, wakes) in [("few", false), ("many", true)] {
        // All of what it shows is there by another one.
        team.run(&format!("INSERT INTO members VALUES('{project}', '{project}', 'alice')"));
        assert_eq!(team.concerns(&alice), wakes, "{project}");
        team.sync(&mut alice);
        assert_eq!(alice.got, [0; 3], "{project}");
    }
    team.run("INSERT INTO tasks VALUES('new', 'new', 'x')");
    assert!(!team.concerns(&alice));
    team.run("INSERT INTO members VALUES('n', 'new', 'alice')");
    assert!(team.concerns(&alice));
}

/// What the server lost is brought back by who holds it, also where nothing but the place in a download tells of it.
#[test]
fn a_server_that_is_restored_amid_the_first_download_of_a_user_gets_back_what_came() {
    let mut team = journals();
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
         INSERT INTO notes SELECT 'n' || i, 'alice', hex(randomblob(60000)) FROM n",
    );
    team.server.store.refresh().unwrap();
    let path = team.server.path.clone();
    let backup = path.with_extension("backup");
    team.run(&format!("VACUUM INTO '{}'", backup.display()));
    team.run("INSERT INTO notes VALUES('a', 'alice', 'lost')");
    let mut alice = team.member(1, "alice");
    sync_unchecked(&team, &mut alice, 1);
    team.restart_with(|| {
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
        std::fs::rename(&backup, &path).unwrap();
    });
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(team.server.rows("SELECT body FROM notes WHERE id = 'a'"), ["'lost'"]);
    assert_eq!(alice.device.dump("notes").len(), 21);
}

/// A restored ledger does not know what the device got since the backup. It sends that, of which nothing is new to the server.
#[test]
fn what_a_device_sends_again_to_a_restored_server_is_taken_from_it_later() {
    let mut team = journals();
    team.run("INSERT INTO notes VALUES('a', 'alice', '1'), ('b', 'alice', '2'), ('c', 'alice', '3')");
    team.server.store.refresh().unwrap();
    let path = team.server.path.clone();
    let backup = path.with_extension("backup");
    team.run(&format!("VACUUM INTO '{}'", backup.display()));
    team.run("INSERT INTO notes VALUES('d', 'alice', 'came later')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.restart_with(|| {
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
        std::fs::rename(&backup, &path).unwrap();
    });
    team.send(&mut alice, &mut |_| Fate::Arrives);
    team.run("DELETE FROM notes WHERE id = 'a'; UPDATE notes SET owner = 'bob' WHERE id = 'b'");
    team.sync(&mut alice);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'c'", "'d'"]);
    // Both rows that stay come once more, for everything is fetched.
    assert_eq!((alice.got, alice.repaired), ([2, 1, 1], 0));
    team.assert_settled(&mut [&mut alice]);
}
