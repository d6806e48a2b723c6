//! Values larger than a chunk: pieces go to whom their row may be seen by, at each piece.

use crate::MEMBERS;
use crate::team::{Fate, Member, Team};

// language=SQLite
const SCHEMA: &str = "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, user TEXT);
    CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, body BLOB);
    CREATE INDEX tasks_of ON tasks(project);";
const MIB: usize = 1 << 20;

/// A project tool of which policies can be asked about single rows, or not.
fn projects(is_askable: bool) -> Team {
    let mut team = Team::new(SCHEMA);
    let policy = if is_askable { MEMBERS.to_owned() } else { format!("coalesce({MEMBERS}, 0)") };
    team.sees("tasks", &policy);
    team.sees("members", "user = auth_userid()");
    team
}

fn put(team: &Team, id: &str, project: &str, bytes: usize) {
    team.run(&format!("INSERT INTO tasks VALUES('{id}', '{project}', randomblob({bytes})) ON CONFLICT(id) DO UPDATE SET body = excluded.body"));
}

fn join(team: &Team, project: &str) {
    team.run(&format!("INSERT INTO members VALUES('m-{project}', '{project}', 'alice')"));
}

fn leave(team: &Team, project: &str) {
    team.run(&format!("DELETE FROM members WHERE project = '{project}'"));
}

/// Takes in so many answers, and no more.
fn answers(team: &Team, member: &mut Member, count: usize) {
    team.sync_with(member, &mut |turn| if turn == count { Fate::Ends } else { Fate::Arrives });
}

/// How a device comes to be in the middle of a large value.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// It receives everything.
    Scan,
    /// The value changes of a row that it holds.
    Change,
    /// The row changes and comes into sight.
    Arrival,
    /// A membership shows the row.
    Grant,
}
const WAYS: [Way; 4] = [Way::Scan, Way::Change, Way::Arrival, Way::Grant];

/// A server with one large row among small ones of others, of which a device of alice's has got two pieces.
fn amid(way: Way, is_askable: bool) -> (Team, Member) {
    let team = projects(is_askable);
    for id in ["a-small-row-of-q", "y-small-row-of-q"] {
        put(&team, id, "q", 10);
    }
    let mut alice = team.member(1, "alice");
    if way != Way::Scan {
        team.assert_settled(&mut [&mut alice]);
    }
    match way {
        Way::Scan => {
            join(&team, "p");
            put(&team, "large-row", "p", 4 * MIB);
        }
        Way::Change => {
            join(&team, "p");
            put(&team, "large-row", "p", 10);
            team.assert_settled(&mut [&mut alice]);
            put(&team, "large-row", "p", 4 * MIB);
        }
        Way::Arrival => {
            join(&team, "p");
            put(&team, "large-row", "q", 4 * MIB);
            team.assert_settled(&mut [&mut alice]);
            team.run("UPDATE tasks SET project = 'p' WHERE id = 'large-row'");
        }
        Way::Grant => {
            put(&team, "large-row", "p", 4 * MIB);
            team.assert_settled(&mut [&mut alice]);
            join(&team, "p");
        }
    }
    answers(&team, &mut alice, 2);
    assert_eq!(alice.pieces, 3, "the third answer was made and did not arrive: {way:?}");
    assert_eq!(alice.rows("SELECT id FROM tasks WHERE length(body) > 10"), [""; 0]);
    (team, alice)
}

#[test]
fn large_values_come_in_pieces_to_those_who_see_them() {
    for (way, is_askable) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let (mut team, mut alice) = amid(way, is_askable);
        let (mut bob, mut second) = (team.member(2, "bob"), team.member(3, "alice"));
        team.restart();
        team.sync(&mut alice);
        assert!(alice.pieces <= 3, "{way:?}: {} pieces though two were there", alice.pieces);
        assert_eq!(alice.rows("SELECT id FROM tasks"), ["'large-row'"]);
        team.assert_settled(&mut [&mut alice, &mut second, &mut bob]);
        assert_eq!(bob.device.dump("tasks"), [""; 0]);
        // Of a row that is held changed cells travel.
        team.run("UPDATE tasks SET id = id, project = 'p' WHERE id = 'large-row'; UPDATE tasks SET project = 'pp' WHERE id = 'large-row'");
        join(&team, "pp");
        team.sync(&mut alice);
        assert_eq!((alice.pieces, alice.got[0]), (0, 2), "{way:?}");
        team.assert_settled(&mut [&mut alice, &mut second, &mut bob]);
    }
}

#[test]
fn a_row_that_goes_out_of_sight_between_its_pieces_stops_and_comes_anew() {
    for (way, is_askable) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        for by_policy in [false, true] {
            let (mut team, mut alice) = amid(way, is_askable);
            let before = team.policies["tasks"].clone();
            if by_policy {
                team.sees("tasks", "project = 'q' AND id > 'b' AND auth_userid() = 'alice'");
            } else {
                leave(&team, "p");
            }
            team.sync(&mut alice);
            assert_eq!(alice.pieces, 0, "{way:?}");
            assert_eq!(alice.rows("SELECT id FROM tasks WHERE id LIKE 'large%'"), [""; 0]);
            // What came of it lies on free pages.
            assert!(alice.device.replica.is_scrub_due().unwrap(), "{way:?}");
            team.assert_settled(&mut [&mut alice]);
            // What was begun is not gone on with.
            if by_policy {
                team.sees("tasks", &before);
            } else {
                join(&team, "p");
            }
            team.sync(&mut alice);
            assert!(alice.pieces >= 4, "{way:?}: {} pieces", alice.pieces);
            team.assert_settled(&mut [&mut alice]);
            assert_eq!(alice.rows("SELECT id FROM tasks"), ["'large-row'"]);
        }
    }
}

#[test]
fn a_row_that_was_hidden_and_shown_between_two_pieces_comes_whole() {
    for (way, is_askable) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let (team, mut alice) = amid(way, is_askable);
        leave(&team, "p");
        if way == Way::Change {
            put(&team, "large-row", "p", 3 * MIB);
        }
        // The answer that takes it away is lost.
        team.sync_with(&mut alice, &mut |_| Fate::Ends);
        join(&team, "p");
        team.assert_settled(&mut [&mut alice]);
        assert_eq!(alice.rows("SELECT id FROM tasks"), ["'large-row'"]);
        // It dies between its pieces.
        put(&team, "large-row", "p", 3 * MIB);
        answers(&team, &mut alice, 2);
        team.run("DELETE FROM tasks WHERE id = 'large-row'");
        team.assert_settled(&mut [&mut alice]);
    }
}

#[test]
fn several_large_rows_lost_answers_and_resets_leave_no_hole() {
    for is_askable in [true, false] {
        let mut team = projects(is_askable);
        for number in 0..6 {
            put(&team, &format!("row-{number}-of-the-project"), "p", 2 * MIB + number);
            put(&team, &format!("row-{number}-of-another-one"), "q", 2 * MIB + number);
        }
        let mut alice = team.member(1, "alice");
        team.assert_settled(&mut [&mut alice]);
        join(&team, "p");
        for stop in [1, 3, 4] {
            team.sync_with(&mut alice, &mut |turn| match turn {
                _ if turn == stop + 2 => Fate::Ends,
                _ if turn == stop => Fate::Lost,
                _ => Fate::Arrives,
            });
            team.restart();
        }
        // Another grant in the middle of this one, and a row that goes.
        join(&team, "q");
        team.run("DELETE FROM tasks WHERE id = 'row-1-of-the-project'; UPDATE tasks SET project = 'r' WHERE id = 'row-3-of-another-one'");
        answers(&team, &mut alice, 2);
        alice.device.replica.reset_sync().unwrap();
        team.assert_settled(&mut [&mut alice]);
        assert_eq!(alice.device.column::<String>("SELECT id FROM tasks").len(), 10);
        leave(&team, "q");
        team.assert_settled(&mut [&mut alice]);
        assert_eq!(alice.device.column::<String>("SELECT id FROM tasks").len(), 5);
    }
}

/// After some chunks a question is given up for a walk through the table: what came of the row stays of use.
#[test]
fn a_row_of_many_pieces_that_a_membership_shows_is_not_begun_anew() {
    let team = projects(true);
    put(&team, "a-row-of-q", "q", 10);
    put(&team, "large-row", "p", 11 * MIB);
    put(&team, "small-row", "p", 10);
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    join(&team, "p");
    team.sync(&mut alice);
    assert!(alice.pieces <= 12 && alice.turns <= 13, "{} pieces in {} turns", alice.pieces, alice.turns);
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM tasks"), ["'large-row'", "'small-row'"]);
}

/// Larger than any payload may be.
#[test]
fn a_row_larger_than_a_payload_goes_from_user_to_user() {
    let mut team = Team::new("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body BLOB);");
    team.sees("notes", "owner = auth_userid()");
    let (mut alice, mut second) = (team.member(1, "alice"), team.member(2, "alice"));
    let mut bob = team.member(3, "bob");
    team.assert_settled(&mut [&mut alice, &mut second, &mut bob]);
    alice.run(&format!("INSERT INTO notes VALUES('n', 'alice', zeroblob({}))", 34 * MIB));
    alice.run(&format!("UPDATE notes SET body = CAST(zeroblob({}) || randomblob(9) AS BLOB)", 33 * MIB));
    team.sync(&mut alice);
    team.sync(&mut second);
    team.sync(&mut bob);
    let sum = "SELECT length(body), hex(substr(body, -9)) FROM notes";
    assert_eq!(second.rows(sum), alice.rows(sum));
    assert_eq!(alice.rows("SELECT length(body) FROM notes"), [format!("{}", 33 * MIB + 9)]);
    assert_eq!(bob.rows(sum), [""; 0]);
}

#[test]
fn what_users_send_in_pieces_is_judged_when_it_is_whole() {
    let mut team = Team::new("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body BLOB);");
    team.sees("notes", "owner = auth_userid() AND substr(body, -1) <> x'00'");
    let (mut alice, mut bob) = (team.member(1, "alice"), team.member(2, "bob"));
    let value = |end: &str| format!("CAST(randomblob({}) || x'{end}' AS BLOB)", 3 * MIB);
    alice.run(&format!("INSERT INTO notes VALUES('good', 'alice', {})", value("01")));
    alice.run(&format!("INSERT INTO notes VALUES('of bob', 'bob', {})", value("01")));
    // What decides is in the last piece.
    alice.run(&format!("INSERT INTO notes VALUES('bad', 'alice', {})", value("00")));
    // Between two chunks of the round nothing of it is anywhere.
    answers(&team, &mut alice, 2);
    team.sync(&mut bob);
    assert_eq!((bob.pieces, team.server.rows("SELECT id FROM notes").len()), (0, 0));
    team.assert_settled(&mut [&mut alice, &mut bob]);
    assert_eq!(team.server.rows("SELECT id FROM notes"), ["'good'"]);
    assert_eq!(alice.rows("SELECT tbl, length(change) > 3000000 FROM cloudsync_rejected").len(), 2);
    // An edit of a row that was taken away meanwhile.
    alice.run(&format!("UPDATE notes SET body = {}", value("02")));
    answers(&team, &mut alice, 2);
    team.run("UPDATE notes SET owner = 'bob'");
    team.assert_settled(&mut [&mut alice, &mut bob]);
    assert_eq!(bob.rows("SELECT hex(substr(body, -1)) FROM notes"), ["'01'"]);
    assert_eq!(alice.device.dump("notes"), [""; 0]);
}
