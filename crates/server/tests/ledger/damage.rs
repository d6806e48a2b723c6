//! Pages that cannot be read are errors. Nobody's rows go because of them, and nothing is said to be in order.

use crate::server::BOTH;
use crate::team::{Member, Team};
use cloudsync_protocol::message::Request;
use cloudsync_server::auth::User;
use cloudsync_server::store::{Store, StoreError};

// language=SQLite
const TASKS: &str = "CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);
    CREATE INDEX tasks_of ON tasks(project)";
const LET_IN: &str = "EXISTS (SELECT 1 FROM guests WHERE user = auth_userid())";

/// A project tool whose policies read two tables that do not sync.
fn team(seen: &str) -> (Team, Member) {
    let mut team = Team::new(TASKS);
    team.run("CREATE TABLE members(project TEXT, user TEXT); CREATE TABLE guests(user TEXT); INSERT INTO guests VALUES('alice')");
    team.run(
        "INSERT INTO members VALUES('p', 'alice'); INSERT INTO tasks VALUES('a', 'p', '1'), ('b', 'q', '2')",
    );
    team.sees("tasks", seen);
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    (team, alice)
}

/// Has a table or an index begin at a page of one of the other kind.
fn damage(team: &Team, what: &str) {
    let other = if what == "tasks_of" { "guests" } else { "sqlite_autoindex_tasks_1" };
    team.run(&format!(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = '{other}')
         WHERE name = '{what}'; PRAGMA writable_schema = RESET"
    ));
    // Whoever has the file open reads its schema anew.
    team.run("CREATE TABLE another(x)");
}

#[track_caller]
fn fails(team: &Team, member: &Member, request: &[u8]) {
    let (request, now) = (Request::decode(request).unwrap(), member.device.world.now.get());
    let error = team.server.store.turn(&request, &member.asker(), now).unwrap_err();
    assert!(error.to_string().contains("malformed"), "{error}");
}

fn concerns(team: &Team, member: &Member) -> Result<bool, StoreError> {
    let cursor: i64 = member.device.get("SELECT value FROM cloudsync_settings WHERE key = 'cursor'");
    let site: Vec<u8> = member.device.get(
        "SELECT site_id FROM cloudsync_sites WHERE ordinal = \
         (SELECT value FROM cloudsync_settings WHERE key = 'site')",
    );
    let user = User { id: member.user.clone(), claims: Default::default() };
    team.server.store.refresh().unwrap();
    team.server.store.concerns(&user, cloudsync_core::id::SiteId(site.try_into().unwrap()), cursor as u64)
}

#[test]
fn a_row_is_not_taken_away_because_its_policy_cannot_be_read() {
    let (team, mut alice) = team(&format!("project = 'p' AND {LET_IN}"));
    damage(&team, "guests");
    team.run("INSERT INTO tasks VALUES('c', 'p', '3')");
    assert!(concerns(&team, &alice).is_err(), "of a row that she does not hold");
    team.run("UPDATE tasks SET body = '3'");
    assert!(concerns(&team, &alice).is_err());
    let request = alice.device.replica.prepare(BOTH, false).unwrap();
    fails(&team, &alice, &request);
}

#[test]
fn a_membership_that_cannot_be_followed_is_an_error() {
    for what in ["guests", "tasks_of"] {
        let seen =
            format!("project IN (SELECT project FROM members WHERE user = auth_userid()) AND {LET_IN}");
        let (team, mut alice) = team(&seen);
        team.run("INSERT INTO members VALUES('q', 'alice')");
        damage(&team, what);
        assert!(concerns(&team, &alice).is_err(), "{what}");
        let request = alice.device.replica.prepare(BOTH, false).unwrap();
        fails(&team, &alice, &request);
    }
}

#[test]
fn a_check_that_cannot_read_is_an_error() {
    for may_fail in ["", " AND length(json_extract('[]', '$')) > 0"] {
        let (team, mut alice) = team(&format!("project = 'p' AND {LET_IN}{may_fail}"));
        let request = alice.device.replica.prepare_check(BOTH).unwrap().unwrap();
        damage(&team, "guests");
        fails(&team, &alice, &request);
    }
}
