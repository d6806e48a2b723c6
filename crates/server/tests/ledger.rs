//! What users receive: rows come when they may be seen and go when they may not, whatever made that so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "ledger/checks.rs"]
mod checks;
#[path = "ledger/chunks.rs"]
mod chunks;
#[path = "ledger/columns.rs"]
mod columns;
#[path = "ledger/copies.rs"]
mod copies;
#[path = "ledger/damage.rs"]
mod damage;
#[path = "ledger/large.rs"]
mod large;
#[path = "ledger/news.rs"]
mod news;
#[path = "ledger/plan.rs"]
mod plan;
#[path = "ledger/random.rs"]
mod random;
#[path = "ledger/renames.rs"]
mod renames;
#[path = "constraints/server.rs"]
mod server;
#[path = "ledger/team.rs"]
mod team;

use bench::{Device, NOW};
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_server::policy::Verb;
use cloudsync_server::store::Store;
use server::BOTH;
use team::{Fate, Team};

// language=SQLite
const NOTES: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT);";

// language=SQLite
const PROJECTS: &str = "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, user TEXT);
    CREATE INDEX members_of ON members(user, project);
    CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);
    CREATE INDEX tasks_of ON tasks(project);";
const MEMBERS: &str =
    "EXISTS (SELECT 1 FROM members AS m WHERE m.project = tasks.project AND m.user = auth_userid())";

/// Private journals.
fn journals() -> Team {
    let mut team = Team::new(NOTES);
    team.sees("notes", "owner = auth_userid()");
    team
}

/// A project tool with memberships.
fn projects() -> Team {
    let mut team = Team::new(PROJECTS);
    team.sees("tasks", MEMBERS);
    team.sees("members", "user = auth_userid()");
    team
}

#[test]
fn nobody_sees_anything_without_a_policy() {
    let mut team = Team::new(NOTES);
    team.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    let mut alice = team.member(1, "alice");
    team.sync(&mut alice);
    assert_eq!(alice.rows("SELECT * FROM notes"), [""; 0]);
    team.sees("notes", "owner = auth_userid()");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'a'"]);
}

#[test]
fn each_receives_their_own_and_changes_travel_as_cells() {
    let team = journals();
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    let mut second = team.member(3, "alice");
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'x'), ('a2', 'alice', 'y')");
    bob.run("INSERT INTO notes VALUES('b', 'bob', 'z')");
    team.assert_settled(&mut [&mut alice, &mut bob, &mut second]);
    assert_eq!(second.rows("SELECT id FROM notes"), ["'a'", "'a2'"]);
    second.run("UPDATE notes SET body = 'new' WHERE id = 'a'; DELETE FROM notes WHERE id = 'a2'");
    team.sync(&mut second);
    assert_eq!(second.got, [0; 3], "nothing of its own comes back");
    team.sync(&mut alice);
    assert_eq!(alice.got, [1, 1, 0]);
    team.sync(&mut bob);
    assert_eq!(bob.got, [0; 3], "a deletion of others is not told of");
    team.assert_settled(&mut [&mut alice, &mut bob, &mut second]);
}

#[test]
fn a_row_moves_from_one_user_to_another_and_back() {
    let team = journals();
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    let mut second = team.member(3, "alice");
    alice.run("INSERT INTO notes VALUES('n', 'alice', 'text')");
    team.assert_settled(&mut [&mut alice, &mut second, &mut bob]);
    // She gives it away herself, and loses it in the same turn.
    alice.run("UPDATE notes SET owner = 'bob'");
    team.assert_settled(&mut [&mut alice, &mut second, &mut bob]);
    assert_eq!((alice.device.dump("notes").len(), second.device.dump("notes").len()), (0, 0));
    assert_eq!(bob.rows("SELECT * FROM notes"), ["'n','bob','text'"]);
    bob.run("UPDATE notes SET body = 'secret'");
    team.sync(&mut bob);
    bob.run("UPDATE notes SET owner = 'alice', body = 'back'");
    team.assert_settled(&mut [&mut bob, &mut alice, &mut second]);
    assert_eq!(alice.rows("SELECT * FROM notes"), ["'n','alice','back'"]);
    assert_eq!(bob.device.dump("notes").len(), 0);
    // Away and back between two syncs of a device.
    team.run("UPDATE notes SET owner = 'bob', body = 'between'");
    team.sync(&mut bob);
    team.run("UPDATE notes SET owner = 'alice', body = 'again'");
    team.assert_settled(&mut [&mut alice, &mut second, &mut bob]);
}

#[test]
fn a_membership_grants_and_takes_rows_that_did_not_change() {
    let team = projects();
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO tasks SELECT printf('t%d', i), 'p' || (i % 5), 'body ' || i FROM n",
    );
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    team.assert_settled(&mut [&mut alice, &mut bob]);
    for _ in 0..2 {
        team.run("INSERT INTO members VALUES('m', 'p1', 'alice')");
        team.sync(&mut alice);
        assert_eq!(alice.got, [101, 0, 0]);
        team.sync(&mut bob);
        assert_eq!(bob.got, [0; 3]);
        team.run("UPDATE tasks SET body = body || '!' WHERE id = 't1'");
        team.sync(&mut alice);
        assert_eq!(alice.got, [1, 0, 0]);
        // The membership goes to another project, and then to another user.
        team.run("UPDATE members SET project = 'p2'");
        team.sync(&mut alice);
        assert_eq!(alice.got, [101, 0, 100]);
        team.run("UPDATE members SET user = 'bob'");
        team.sync(&mut alice);
        assert_eq!(alice.got, [0, 0, 101]);
        team.assert_settled(&mut [&mut alice, &mut bob]);
        assert_eq!((alice.device.dump("tasks").len(), bob.device.dump("tasks").len()), (0, 100));
        team.run("INSERT OR REPLACE INTO members VALUES('m', 'p3', 'alice')");
        team.assert_settled(&mut [&mut alice, &mut bob]);
        assert_eq!((alice.device.dump("tasks").len(), bob.device.dump("tasks").len()), (100, 0));
        team.run("DELETE FROM members");
        team.assert_settled(&mut [&mut alice, &mut bob]);
    }
}

/// REPLACE runs no trigger for the rows that it removes.
#[test]
fn whoever_loses_a_membership_to_a_replace_loses_its_rows_and_nobody_looks_at_everything() {
    let mut team = Team::new(
        "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, seat INTEGER UNIQUE, user TEXT);
         CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT)",
    );
    team.sees("tasks", MEMBERS);
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'), ('b', 'q', '2')");
    team.run("INSERT INTO members VALUES('m', 'p', 1, 'alice'), ('n', 'q', 2, 'bob')");
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    team.assert_settled(&mut [&mut alice, &mut bob]);
    let before = team.server.store.recomputations();
    team.run("INSERT OR REPLACE INTO members VALUES('o', 'p', 1, 'bob')");
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    assert_eq!(alice.got, [0, 0, 1]);
    team.run("UPDATE OR REPLACE members SET seat = 2 WHERE id = 'o'");
    team.sync_with(&mut bob, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    assert_eq!(bob.got, [1, 0, 1]);
    assert_eq!(team.server.store.recomputations(), before);
    team.assert_settled(&mut [&mut alice, &mut bob]);
}

#[test]
fn a_membership_in_the_same_batch_counts_when_it_is_in() {
    let mut team = projects();
    team.sees("members", "user = auth_userid() OR user = 'everybody'");
    team.policies.insert("tasks".to_owned(), MEMBERS.to_owned());
    team.run("INSERT INTO tasks VALUES('t', 'p', 'old')");
    let mut alice = team.member(1, "alice");
    team.sync(&mut alice);
    alice.run("INSERT INTO members VALUES('m', 'p', 'alice'); INSERT INTO tasks VALUES('mine', 'p', 'new')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM tasks ORDER BY id"), ["'mine'", "'t'"]);
    // She leaves, and what she saw by it goes in the same sync.
    alice.run("DELETE FROM members; INSERT INTO tasks VALUES('late', 'p', 'new')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks"), [""; 0]);
}

#[test]
fn a_device_that_was_away_while_rows_came_and_went() {
    let team = projects();
    let (mut alice, mut second) = (team.member(1, "alice"), team.member(2, "alice"));
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'), ('b', 'p', '2'), ('c', 'q', '3')");
    team.run("INSERT INTO members VALUES('m', 'p', 'alice')");
    team.assert_settled(&mut [&mut alice, &mut second]);
    team.run("INSERT INTO members VALUES('n', 'q', 'alice')");
    team.sync(&mut second);
    team.run("DELETE FROM members WHERE id = 'm'; DELETE FROM tasks WHERE id = 'b'");
    team.sync(&mut second);
    team.run("DELETE FROM members WHERE id = 'n'; UPDATE tasks SET body = 'unseen'");
    team.sync(&mut alice);
    // Of what came and went meanwhile nothing is told.
    assert_eq!(alice.got[0], 0);
    team.assert_settled(&mut [&mut alice, &mut second]);
    assert_eq!(alice.device.dump("tasks"), [""; 0]);
}

#[test]
fn edits_of_a_row_that_was_taken_away_are_refused_and_kept() {
    let team = journals();
    let mut alice = team.member(1, "alice");
    alice.run("INSERT INTO notes VALUES('n', 'alice', 'text'), ('d', 'alice', 'text')");
    team.sync(&mut alice);
    team.run("UPDATE notes SET owner = 'bob'");
    alice.run("UPDATE notes SET body = 'mine' WHERE id = 'n'; DELETE FROM notes WHERE id = 'd'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("notes"), [""; 0]);
    let kept = alice.rows("SELECT tbl, \"row\" FROM cloudsync_rejected WHERE \"row\" IS NOT NULL");
    assert!(kept.len() == 1 && kept[0].contains("mine"), "{kept:?}");
    assert_eq!(team.server.rows("SELECT body FROM notes"), ["'text'", "'text'"]);
}

#[test]
fn a_row_that_came_with_a_verdict_is_taken_away_like_any_other() {
    for (was_held, fate) in
        [(false, Fate::Arrives), (false, Fate::Lost), (true, Fate::Arrives), (true, Fate::Lost)]
    {
        let team = journals();
        team.set("notes", Verb::Update, None);
        let mut alice = team.member(1, "alice");
        team.assert_settled(&mut [&mut alice]);
        if was_held {
            team.run("INSERT INTO notes VALUES('n', 'alice', 'first')");
            team.assert_settled(&mut [&mut alice]);
            team.run("UPDATE notes SET owner = 'bob'");
            team.assert_settled(&mut [&mut alice]);
            assert_eq!(alice.device.dump("notes"), [""; 0]);
        }
        team.run("INSERT INTO notes VALUES('n', 'alice', 'of the server') ON CONFLICT DO UPDATE SET owner = 'alice', body = 'of the server'");
        alice.device.run_at(NOW, "INSERT INTO notes VALUES('n', 'alice', 'of the device')");
        team.send(&mut alice, &mut |turn| if turn == 0 { fate } else { Fate::Arrives });
        assert_eq!(alice.rows("SELECT * FROM notes"), ["'n','alice','of the server'"]);
        team.run("UPDATE notes SET owner = 'bob'");
        // Without its check, which would find what the ledger has wrong.
        team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
        assert_eq!(alice.got, [0, 0, 1], "{was_held}, {fate:?}");
        team.assert_settled(&mut [&mut alice]);
        assert_eq!(alice.device.dump("notes"), [""; 0]);
    }
}

#[test]
fn a_row_that_its_author_may_write_and_not_see_goes_though_it_went_before() {
    let team = journals();
    team.set("notes", Verb::Insert, Some("1"));
    let mut alice = team.member(1, "alice");
    team.run("INSERT INTO notes VALUES('n', 'alice', 'first')");
    team.assert_settled(&mut [&mut alice]);
    team.run("UPDATE notes SET owner = 'bob'");
    team.assert_settled(&mut [&mut alice]);
    team.run("DELETE FROM notes");
    alice.run("INSERT INTO notes VALUES('n', 'bob', 'for bob')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(team.server.rows("SELECT * FROM notes"), ["'n','bob','for bob'"]);
    assert_eq!(alice.device.dump("notes"), [""; 0]);
}

#[test]
fn claims_and_policies_decide_anew() {
    let mut team = Team::new("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, team INTEGER, body TEXT);");
    team.sees("notes", "team = auth_json() ->> '$.team'");
    team.run("INSERT INTO notes VALUES('a', 1, 'x'), ('b', 2, 'y'), ('c', 3, 'z')");
    let mut alice = team.member(1, "alice");
    alice.claims = serde_json::json!({ "team": 1 });
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'a'"]);
    alice.claims = serde_json::json!({ "team": 2 });
    assert!(team.concerns(&alice));
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.turns), ([1, 0, 1], 1));
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'b'"]);
    assert!(!team.concerns(&alice));
    team.sees("notes", "team > auth_json() ->> '$.team'");
    assert!(team.concerns(&alice));
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'c'"]);
    // An expression that fails shows nothing, and stops nobody.
    team.run("INSERT INTO notes VALUES('d', 3, 'no json')");
    team.policies.insert("notes".to_owned(), "id = 'a'".to_owned());
    team.sees("notes", "CASE WHEN id = 'a' THEN 1 ELSE json_extract(body, '$') END");
    team.policies.insert("notes".to_owned(), "id = 'a'".to_owned());
    team.assert_settled(&mut [&mut alice]);
}

/// What the device brought is not all that there is of the row.
#[test]
fn a_row_that_two_wrote_comes_whole_to_the_one_who_had_not_seen_it() {
    let team = projects();
    let server = Device::on(team.server.shell(), 0);
    server.run_at(NOW - 3_000, "INSERT INTO tasks VALUES('t', 'q', 'first')");
    server.run_at(NOW - 1_000, "UPDATE tasks SET body = 'last'");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('m', 'q', 'alice')");
    alice.device.run_at(NOW - 2_000, "INSERT INTO tasks VALUES('t', 'q', 'her own')");
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    assert_eq!((alice.got, alice.whole), ([2, 0, 0], 2));
    assert_eq!(alice.rows("SELECT * FROM tasks"), ["'t','q','last'"]);
    team.assert_settled(&mut [&mut alice]);
}

#[test]
fn foreign_keys_across_visibility_keep_nothing_and_hold_up_nothing() {
    let schema = "CREATE TABLE lists(id TEXT PRIMARY KEY NOT NULL, owner TEXT);
        CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists ON DELETE CASCADE, owner TEXT);";
    let mut team = Team::new(schema);
    team.sees("lists", "owner = auth_userid()");
    team.sees("items", "owner = auth_userid()");
    team.run("INSERT INTO lists VALUES('l', 'alice'); INSERT INTO items VALUES('i', 'l', 'alice'), ('j', 'l', 'bob')");
    let mut alice = team.member(1, "alice");
    alice.run("PRAGMA foreign_keys = ON");
    alice.device.replica.set_sees_part(true).unwrap();
    team.assert_settled(&mut [&mut alice]);
    // The parent goes out of sight, the child stays.
    team.run("UPDATE lists SET owner = 'bob'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM items"), ["'i'"]);
    // A child comes whose parent is out of sight, and moves to another one.
    team.run("INSERT INTO lists VALUES('m', 'bob'); INSERT INTO items VALUES('k', 'l', 'alice'); UPDATE items SET list = 'm' WHERE id = 'i'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM items ORDER BY id"), ["'i'", "'k'"]);
    team.run("UPDATE lists SET owner = 'alice'");
    team.assert_settled(&mut [&mut alice]);
    // A parent that is deleted takes its children along as ever.
    team.run("DELETE FROM lists WHERE id = 'm'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM items"), ["'k'"]);
}

#[test]
fn lost_answers_and_restarts_leave_no_hole() {
    let mut team = projects();
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'), ('b', 'p', '2')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    for round in 0..4 {
        team.run("INSERT INTO members VALUES('m', 'p', 'alice')");
        team.sync_with(&mut alice, &mut |_| Fate::Ends);
        if round % 2 == 1 {
            team.restart();
        }
        if round > 1 {
            // What was on its way is taken back before it came.
            team.run("DELETE FROM members");
            team.sync_with(&mut alice, &mut |turn| if turn == 0 { Fate::Lost } else { Fate::Arrives });
            assert_eq!(alice.device.dump("tasks").len(), 0);
            team.run("INSERT INTO members VALUES('m', 'p', 'alice')");
        }
        team.assert_settled(&mut [&mut alice]);
        assert_eq!(alice.device.dump("tasks").len(), 2);
        team.run("DELETE FROM members");
        team.sync_with(&mut alice, &mut |_| Fate::Ends);
        team.run("INSERT INTO members VALUES('m', 'p', 'alice')");
        team.assert_settled(&mut [&mut alice]);
        team.run("DELETE FROM members");
        team.assert_settled(&mut [&mut alice]);
    }
}

/// The server must not take the policies of an answer that was lost for those under which the device has its rows.
#[test]
fn an_answer_under_new_policies_that_was_lost_is_made_up_for() {
    for (back, change) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut team = journals();
        team.run("INSERT INTO notes VALUES('a', 'alice', 'x'), ('b', 'bob', 'x'), ('c', 'carol', 'x')");
        let mut alice = team.member(1, "alice");
        team.assert_settled(&mut [&mut alice]);
        team.sees("notes", "owner = 'bob'");
        team.sync_with(&mut alice, &mut |_| Fate::Ends);
        assert_eq!(alice.got, [1, 0, 1]);
        if back {
            team.sees("notes", "owner = auth_userid()");
        }
        if change {
            team.run("UPDATE notes SET body = 'y'");
        }
        // Without its check, which would find what is wrong.
        team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
        assert_eq!(
            alice.rows("SELECT id FROM notes"),
            [if back { "'a'" } else { "'b'" }],
            "{back}, {change}"
        );
        for owner in ["bob", "alice"] {
            team.sees("notes", &format!("owner = '{owner}'"));
            team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
            team.assert_settled(&mut [&mut alice]);
            assert_eq!(alice.repaired, 0);
        }
        assert_eq!(alice.rows("SELECT value FROM cloudsync_settings WHERE key = 'repaired_rows'"), [""; 0]);
    }
}

#[test]
fn large_grants_come_in_chunks_and_may_be_begun_again() {
    let team = projects();
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO tasks SELECT printf('t%d', i), 'p' || (i % 2), hex(randomblob(60000)) FROM n",
    );
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('m', 'p1', 'alice')");
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    assert_eq!(alice.device.dump("tasks").len(), 0, "a part of a download shows");
    // The device forgets what it had got of it.
    alice.device.replica.reset_sync().unwrap();
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    team.run("UPDATE tasks SET body = 'small' WHERE id IN ('t1', 't3'); INSERT INTO members VALUES('n', 'p0', 'alice')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks").len(), 40);
    team.run("DELETE FROM members WHERE id = 'm'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks").len(), 20);
}

#[test]
fn what_changes_while_a_table_is_gone_through_is_not_missed() {
    let mut team = projects();
    team.sees("tasks", &format!("coalesce({MEMBERS}, 0)"));
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO tasks SELECT printf('t%d', i), 'p' || (i % 3), hex(randomblob(CASE i % 3 WHEN 1 THEN 60000 ELSE 9 END)) FROM n",
    );
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('a', 'p1', 'alice')");
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    // Of rows that were passed already, too.
    team.run("INSERT INTO members VALUES('b', 'p0', 'alice'), ('c', 'p2', 'alice')");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks").len(), 40);
    team.run("DELETE FROM members WHERE id = 'b'");
    team.assert_settled(&mut [&mut alice]);
}

#[test]
fn a_device_that_goes_back_or_begins_again_gets_everything() {
    let team = journals();
    let mut alice = team.member(1, "alice");
    team.run("INSERT INTO notes VALUES('a', 'alice', 'x'), ('b', 'bob', 'y')");
    team.assert_settled(&mut [&mut alice]);
    let before: i64 = alice.device.get("SELECT value FROM cloudsync_settings WHERE key = 'cursor'");
    for id in ["c", "d"] {
        team.run(&format!("INSERT INTO notes VALUES('{id}', 'alice', 'z')"));
        team.assert_settled(&mut [&mut alice]);
    }
    // As a file does that comes from a backup.
    let looked = team.server.store.recomputations();
    alice.run(&format!("UPDATE cloudsync_settings SET value = {before} WHERE key = 'cursor'"));
    team.sync(&mut alice);
    assert_eq!((alice.got[0], team.server.store.recomputations() - looked), (3, 1));
    alice.run("DELETE FROM cloudsync_settings WHERE key = 'cursor'; INSERT INTO cloudsync_settings VALUES('echo', 1)");
    team.sync(&mut alice);
    assert_eq!((alice.got[0], team.server.store.recomputations() - looked), (3, 1), "all is sent anyway");
    team.assert_settled(&mut [&mut alice]);
}

#[test]
fn a_device_gets_back_what_it_gave_away_and_lost() {
    let team = journals();
    let (mut lost, mut other) = (team.member(1, "alice"), team.member(2, "alice"));
    lost.run("INSERT INTO notes VALUES('a', 'alice', 'x')");
    other.device.apply(&lost.device.encode()).unwrap();
    team.sync(&mut other);
    // With its power went all since before its first sync.
    let mut back = team.member(1, "alice");
    assert_eq!(back.device.replica.site_id().unwrap(), lost.device.replica.site_id().unwrap());
    team.assert_settled(&mut [&mut back, &mut other]);
    assert_eq!(back.device.dump("notes"), ["'a','alice','x'"]);
}

#[test]
fn an_idle_poll_writes_nothing() {
    let team = projects();
    team.run("INSERT INTO tasks VALUES('a', 'p', '1'); INSERT INTO members VALUES('m', 'p', 'alice')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    let shell = rusqlite::Connection::open(&team.server.path).unwrap();
    let commits = || shell.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = commits();
    for _ in 0..3 {
        team.sync(&mut alice);
    }
    assert_eq!(commits(), before);
    // Nor does the first one after news.
    team.run("UPDATE tasks SET body = '2'; INSERT INTO tasks VALUES('b', 'p', '1')");
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    let before = commits();
    team.sync(&mut alice);
    assert_eq!((alice.got, commits()), ([0; 3], before));
}

#[test]
fn rows_go_and_come_with_columns_that_a_join_names() {
    // SQLite does not tell that USING and NATURAL read the columns that they compare.
    for seen in [
        "EXISTS(SELECT 1 FROM tasks JOIN teaching AS t USING(class) WHERE tasks.id = work.task AND t.user = auth_userid())",
        "EXISTS(SELECT 1 FROM tasks JOIN pupils AS t USING(class) WHERE tasks.id = work.task AND t.user = auth_userid())",
        "EXISTS(SELECT 1 FROM tasks NATURAL JOIN lessons WHERE tasks.id = work.task AND lessons.user = auth_userid())",
        "EXISTS(SELECT 1 FROM taught AS t WHERE t.id = work.task AND t.user = auth_userid())",
        "student = auth_userid() OR task IN (SELECT id FROM teaching LEFT JOIN tasks USING(class) WHERE user = auth_userid())",
    ] {
        let mut team = Team::new(
            "CREATE TABLE pupils(id TEXT PRIMARY KEY NOT NULL, class TEXT, user TEXT, role TEXT);
             CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, class TEXT, title TEXT);
             CREATE TABLE work(id TEXT PRIMARY KEY NOT NULL, task TEXT, student TEXT);
             CREATE VIEW teaching AS SELECT class, user FROM pupils WHERE role = 'teacher';
             CREATE VIEW lessons AS SELECT class, user FROM pupils WHERE role = 'teacher';
             CREATE VIEW taught AS SELECT tasks.id AS id, pupils.user AS user FROM tasks JOIN pupils USING(class);",
        );
        team.sees("work", seen);
        team.run(
            "INSERT INTO pupils VALUES('1', 'y', 'bob', 'teacher'), ('2', 'x', 'carol', 'teacher');
             INSERT INTO tasks VALUES('t', 'y', 'one'); INSERT INTO work VALUES('w', 't', 'dan')",
        );
        let (mut bob, mut carol) = (team.member(1, "bob"), team.member(2, "carol"));
        team.assert_settled(&mut [&mut bob, &mut carol]);
        assert_eq!(bob.rows("SELECT id FROM work"), ["'w'"], "{seen}");
        for class in ["x", "y", "z"] {
            team.run(&format!("UPDATE tasks SET class = '{class}'"));
            let concerned = [team.concerns(&bob), team.concerns(&carol)];
            assert!(class == "z" || concerned == [true; 2], "{seen}: {class}");
            team.assert_settled(&mut [&mut bob, &mut carol]);
        }
        assert_eq!(bob.rows("SELECT id FROM work"), [""; 0], "{seen}");
        team.run("UPDATE pupils SET class = 'z' WHERE user = 'bob'");
        team.assert_settled(&mut [&mut bob, &mut carol]);
        assert_eq!(bob.rows("SELECT id FROM work"), ["'w'"], "{seen}");
    }
}

#[test]
fn an_app_that_has_a_column_before_the_server_loses_nothing_and_goes_on_when_the_server_has_it() {
    let team = journals();
    team.run("INSERT INTO notes VALUES('a', 'alice', 'old')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    alice.run("ALTER TABLE notes ADD COLUMN mood TEXT; UPDATE notes SET body = 'edited', mood = 'good'");
    alice.run("INSERT INTO notes VALUES('b', 'alice', 'new', 'better')");
    team.run("INSERT INTO notes VALUES('c', 'alice', 'elsewhere')");
    for _ in 0..2 {
        let request = alice.device.replica.prepare(BOTH, false).unwrap();
        let (request, now) = (Request::decode(&request).unwrap(), alice.device.world.now.get());
        let answer = team.server.store.turn(&request, &alice.asker(), now).unwrap();
        let Answer::Refusal(refusal) = Answer::decode(&answer).unwrap() else { panic!("it was taken") };
        assert_eq!(refusal.reason, Reason::Denied);
        assert!(refusal.text.contains("\"mood\" of table \"notes\""), "{}", refusal.text);
        let told = alice.device.replica.mend(&refusal).unwrap_err();
        assert!(told.to_string().contains("add it there"), "{told}");
        assert_eq!(
            alice.rows("SELECT * FROM notes"),
            ["'a','alice','edited','good'", "'b','alice','new','better'"]
        );
        assert!(alice.device.replica.has_unsent().unwrap());
    }
    // The server's migration.
    team.run("ALTER TABLE notes ADD COLUMN mood TEXT");
    team.assert_settled(&mut [&mut alice]);
    let all = ["'a','alice','edited','good'", "'b','alice','new','better'", "'c','alice','elsewhere',NULL"];
    assert_eq!(alice.rows("SELECT * FROM notes ORDER BY id"), all);
    assert_eq!(alice.rows("SELECT * FROM cloudsync_rejected"), [""; 0]);
}
