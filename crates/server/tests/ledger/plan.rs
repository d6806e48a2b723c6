//! What `policy plan` says of a change, and what happens when it is made.

use crate::random::Chance;
use crate::team::{Member, Team};
use cloudsync_server::auth::User;
use cloudsync_server::policy::Plan;
use cloudsync_server::store::sqlite::plan_policy;
use serde_json::json;

// language=SQLite
const SCHEMA: &str = "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, user TEXT);
    CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, owner TEXT, n INTEGER);
    CREATE INDEX tasks_of ON tasks(project);";

/// A policy of parts, of which each is true for some rows and some users.
fn policy(chance: &mut Chance, depth: u64) -> String {
    let part = |chance: &mut Chance| policy(chance, depth - 1);
    match chance.below(if depth == 0 { 8 } else { 12 }) {
        0 => "tasks.owner = auth_userid()".to_owned(),
        1 => "project = auth_json() ->> '$.project'".to_owned(),
        2 => format!("n < {}", chance.below(10)),
        3 => "EXISTS (SELECT 1 FROM members AS m WHERE m.project = tasks.project AND m.user = auth_userid())"
            .to_owned(),
        4 => "project IN (SELECT project FROM members WHERE user = auth_userid())".to_owned(),
        5 => "(SELECT count(*) FROM members AS m WHERE m.project = tasks.project) > 1".to_owned(),
        6 => chance.of(&["1", "0", "NULL"]).to_owned(),
        7 => "owner IS NULL".to_owned(),
        8 | 9 => format!("({} AND {})", part(chance), part(chance)),
        10 => format!("({} OR {})", part(chance), part(chance)),
        _ => format!("NOT {}", part(chance)),
    }
}

fn fill(team: &Team, chance: &mut Chance) {
    for _ in 0..6 {
        let (id, project, who) = (chance.below(12), chance.below(4), chance.of(&["alice", "bob", "carol"]));
        team.run(&format!("INSERT OR REPLACE INTO members VALUES('m{id}', 'p{project}', '{who}')"));
    }
    for _ in 0..12 {
        let (id, project, n) = (chance.below(30), chance.below(4), chance.below(10));
        let who = chance.of(&["'alice'", "'bob'", "'carol'", "NULL"]);
        team.run(&format!("INSERT OR REPLACE INTO tasks VALUES('t{id}', 'p{project}', {who}, {n})"));
    }
}

/// What a plan says of a user: rows that come and rows that go.
fn told(plan: &Plan, user: &str) -> (u64, u64) {
    let shift = plan.shifts.iter().find(|shift| shift.user == user);
    shift.map_or((0, 0), |shift| (shift.gains, shift.loses))
}

#[test]
fn a_plan_says_what_happens_to_each_device() {
    let mut chance = Chance(7);
    let mut team = Team::new(SCHEMA);
    let people =
        [("alice", json!({ "project": "p1" })), ("bob", json!({ "project": "p2" })), ("carol", json!({}))];
    let mut members: Vec<Member> = [0, 0, 1, 2]
        .iter()
        .enumerate()
        .map(|(seed, at): (usize, &usize)| {
            let mut member = team.member(seed as u64 + 1, people[*at].0);
            member.claims = people[*at].1.clone();
            member
        })
        .collect();
    let users = || {
        people
            .iter()
            .map(|(id, claims)| User { id: (*id).to_owned(), claims: claims.as_object().unwrap().clone() })
    };
    team.sees("members", "user = auth_userid()");
    let (mut came, mut went) = (0, 0);
    for step in 0..40 {
        fill(&team, &mut chance);
        team.assert_settled(&mut members.iter_mut().collect::<Vec<_>>());
        // Now and then it is taken away.
        let text = (step % 8 != 7).then(|| policy(&mut chance, 3));
        let plan = plan_policy(&team.server.path, ("tasks", text.as_deref()), users().collect()).unwrap();
        team.shows("tasks", text.as_deref());
        let (mut devices, mut sums) = (0, (0, 0));
        for member in &mut members {
            team.sync(member);
            let (gains, loses) = told(&plan, &member.user);
            let place = format!("step {step}: {} under {text:?}", member.user);
            assert_eq!(member.got, [gains as usize, 0, loses as usize], "{place}");
            devices += u64::from(gains + loses > 0);
            sums = (sums.0 + gains, sums.1 + loses);
        }
        assert_eq!(plan.devices, devices, "step {step}: {text:?}");
        (came, went) = (came + sums.0, went + sums.1);
        assert_eq!((plan.looked_at, plan.more_users), (3, false));
    }
    assert!(came > 100 && went > 100, "{came} {went}");
}
