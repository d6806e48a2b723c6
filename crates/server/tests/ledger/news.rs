//! Whom news concern: what policies read is watched, and of the rest nobody hears.

use crate::team::Team;
use crate::{MEMBERS, NOTES, PROJECTS, journals, projects};
use cloudsync_server::store::Store as _;
use cloudsync_server::store::sqlite::checkup;

#[test]
fn a_row_for_which_a_policy_fails_is_not_shown_and_stops_nobody() {
    for (fails, value) in
        [("json_extract(body, '$')", "no json"), ("printf('%.*c', body, 'x')", "2000000000")]
    {
        let mut team = journals();
        team.sees("notes", &format!("owner = auth_userid() AND length({fails}) < 9"));
        team.policies.insert("notes".to_owned(), "owner = auth_userid() AND body = '1'".to_owned());
        let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
        team.run("INSERT INTO notes VALUES('a', 'alice', '1'), ('b', 'bob', '1')");
        team.assert_settled(&mut [&mut alice, &mut bob]);
        team.run(&format!("INSERT INTO notes VALUES('c', 'alice', '{value}')"));
        assert!(!team.concerns(&alice), "{fails}");
        team.assert_settled(&mut [&mut alice, &mut bob]);
        team.run(&format!("UPDATE notes SET body = '{value}' WHERE id = 'a'"));
        assert!(team.concerns(&alice), "{fails}");
        team.assert_settled(&mut [&mut alice, &mut bob]);
        assert_eq!(alice.device.dump("notes"), [""; 0]);
    }
}

#[test]
fn a_membership_for_which_a_policy_fails_wakes_and_stops_nobody() {
    let mut team = projects();
    let to = "json_extract(m.user, '$.to') = auth_userid()";
    team.sees(
        "tasks",
        &format!("EXISTS (SELECT 1 FROM members AS m WHERE m.project = tasks.project AND {to})"),
    );
    team.policies.insert(
        "tasks".to_owned(),
        "project IN (SELECT project FROM members WHERE user LIKE '%' || auth_userid() || '%')".to_owned(),
    );
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'), ('b', 'q', '2')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('m', 'p', '{\"to\":\"alice\"}')");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('n', 'q', 'no json')");
    assert!(!team.concerns(&alice));
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM tasks"), ["'a'"]);
}

#[test]
fn more_news_than_are_looked_at_wake_everybody() {
    let team = journals();
    let mut alice = team.member(1, "alice");
    team.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    team.assert_settled(&mut [&mut alice]);
    for (count, wakes) in [(255, false), (300, true)] {
        team.run(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO notes SELECT {count} || '-' || i, 'bob', 'x' FROM n"
        ));
        assert_eq!(team.concerns(&alice), wakes, "{count}");
        team.assert_settled(&mut [&mut alice]);
    }
}

#[test]
fn policies_that_read_other_tables_are_asked_about_each_of_them() {
    let mut team = Team::new(&format!(
        "{PROJECTS} {NOTES} CREATE TABLE friends(id TEXT PRIMARY KEY NOT NULL, of TEXT);"
    ));
    team.sees("tasks", MEMBERS);
    team.sees("notes", "owner IN (SELECT of FROM friends WHERE id = auth_userid())");
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'); INSERT INTO notes VALUES('n', 'bob', '1')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    let looked = team.server.store.recomputations();
    team.run("INSERT INTO members VALUES('m', 'p', 'alice'); INSERT INTO friends VALUES('alice', 'bob')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!((alice.device.dump("tasks").len(), alice.device.dump("notes").len()), (1, 1));
    assert_eq!(team.server.store.recomputations(), looked);
}

#[test]
fn a_table_that_a_view_reads_again_is_not_asked_about_row_by_row() {
    let mut team = projects();
    team.run("CREATE VIEW open_projects AS SELECT project FROM members WHERE user = 'everybody'");
    team.sees(
        "tasks",
        "EXISTS (SELECT 1 FROM members AS m JOIN open_projects AS o ON o.project = tasks.project WHERE m.user = auth_userid())",
    );
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'); INSERT INTO members VALUES('m', 'other', 'alice')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('n', 'p', 'everybody')");
    assert!(team.concerns(&alice));
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks").len(), 1);
    team.run("DELETE FROM members WHERE id = 'n'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks").len(), 0);
}

#[test]
fn news_wake_only_those_whom_they_concern() {
    let team = projects();
    team.run("INSERT INTO tasks VALUES('a', 'p', '1')");
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    team.assert_settled(&mut [&mut alice, &mut bob]);
    for (sql, expected) in [
        ("INSERT INTO members VALUES('m', 'p', 'alice')", [true, false]),
        ("UPDATE tasks SET body = '2'", [true, false]),
        ("INSERT INTO tasks VALUES('b', 'q', '1')", [false, false]),
        ("INSERT INTO members VALUES('n', 'q', 'bob')", [false, true]),
        ("UPDATE members SET user = 'bob' WHERE id = 'm'", [true, true]),
        ("INSERT INTO tasks VALUES('c', 'q', '1')", [false, true]),
        ("DELETE FROM tasks WHERE id = 'a'", [false, true]),
        ("UPDATE tasks SET project = 'z' WHERE id = 'b'", [false, true]),
    ] {
        team.run(sql);
        assert_eq!([team.concerns(&alice), team.concerns(&bob)], expected, "{sql}");
        team.assert_settled(&mut [&mut alice, &mut bob]);
        assert!(!team.concerns(&alice) && !team.concerns(&bob), "{sql}");
    }
}

#[test]
fn up_to_a_bound_memberships_are_asked_about_one_by_one() {
    let team = projects();
    team.run("INSERT INTO tasks VALUES('t', 'p256', 'x'), ('u', 'q257', 'x')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    let before = team.server.store.recomputations();
    for (prefix, count, looked_at_all) in [("p", 256, 0), ("q", 257, 1)] {
        team.run(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO members SELECT '{prefix}' || i, '{prefix}' || i, 'alice' FROM n"
        ));
        team.sync(&mut alice);
        assert_eq!(alice.got, [count + 1, 0, 0]);
        assert_eq!(team.server.store.recomputations() - before, looked_at_all, "{count}");
    }
}

/// Also where all of what was forgotten is of one table, and all that is left of another.
#[test]
fn of_very_many_changes_of_what_policies_read_the_oldest_are_forgotten_and_looked_for() {
    let mut team = Team::new(&format!("{PROJECTS} {NOTES}"));
    team.run("CREATE TABLE friends(user TEXT, of TEXT)");
    team.sees("tasks", MEMBERS);
    team.sees("notes", "owner IN (SELECT of FROM friends WHERE user = auth_userid())");
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'), ('b', 'q', '2')");
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    team.assert_settled(&mut [&mut alice, &mut bob]);
    let kept = || team.server.rows("SELECT count(*) FROM cloudsync_server_watched")[0].clone();
    team.run("INSERT INTO members VALUES('b', 'p', 'bob')");
    for kept_then in ["9001", "27001", "18000"] {
        team.run(
            "DELETE FROM friends;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
             INSERT INTO friends SELECT 'nobody', 'p' || i FROM n",
        );
        team.sync(&mut alice);
        assert_eq!((alice.got, kept()), ([0; 3], kept_then.to_owned()));
    }
    // What he has not seen is not there any more.
    assert!(team.concerns(&bob));
    team.sync(&mut bob);
    assert_eq!(bob.got, [1, 0, 0]);
    team.assert_settled(&mut [&mut alice, &mut bob]);
}

#[test]
fn triggers_that_watch_a_synced_table_are_nothing_wrong_with_it() {
    let team = projects();
    let mut alice = team.member(1, "alice");
    team.run("INSERT INTO members VALUES('m', 'p', 'alice')");
    team.assert_settled(&mut [&mut alice]);
    let watched =
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'cloudsync_watch_%members'";
    assert_ne!(team.server.rows(watched), ["0"]);
    let (found, _) = checkup(&team.server.path, 100, &mut |_| {}).unwrap();
    assert!(found.iter().all(|table| table.triggers.is_none()), "{found:?}");
}

#[test]
fn tables_that_do_not_sync_are_watched_too() {
    let mut team = Team::new(NOTES);
    team.run(
        "CREATE TABLE friends(a TEXT, b TEXT COLLATE NOCASE, UNIQUE(a, b)); CREATE TABLE bans(user TEXT)",
    );
    team.run("INSERT INTO notes VALUES('n', 'bob', 'x'), ('o', 'carol', 'y')");
    team.sees(
        "notes",
        "EXISTS (SELECT 1 FROM friends WHERE a = notes.owner AND b = auth_userid()) \
         AND NOT EXISTS (SELECT 1 FROM bans WHERE user = auth_userid())",
    );
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO friends VALUES('bob', 'ALICE')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'n'"]);
    team.run("INSERT OR REPLACE INTO friends VALUES('bob', 'Alice'); UPDATE friends SET a = 'carol'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'o'"]);
    team.run("INSERT INTO bans VALUES('alice')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("notes"), [""; 0]);
    team.run("DELETE FROM bans");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'o'"]);
}
