//! How often all rows are looked at to find out what a device may see is counted. In a program of its own, since the
//! counters are those of the process.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;
#[path = "ledger/team.rs"]
mod team;

use cloudsync_server::metrics::{Gauges, METRICS};
use cloudsync_server::store::Store as _;
use team::Team;

fn counted() -> u64 {
    let text = METRICS.to_text(Gauges { listeners: 0, open_databases: 0 });
    let name = "cloudsync_visibility_recomputations_total ";
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

#[test]
fn recomputations_are_counted_once_and_only_where_single_rows_cannot_be_asked_about() {
    let mut team = Team::new(
        "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, user TEXT);
         CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);",
    );
    let of = "SELECT project FROM members WHERE user = auth_userid()";
    team.sees("tasks", &format!("project IN ({of})"));
    // Enough for several chunks: each of them goes on with the same look at everything.
    team.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO tasks SELECT printf('t%d', i), 'p' || (i % 2), hex(randomblob(60000)) FROM n",
    );
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("INSERT INTO members VALUES('m', 'p1', 'alice'); UPDATE tasks SET body = body || '.'");
    team.assert_settled(&mut [&mut alice]);
    assert_eq!((counted(), alice.device.dump("tasks").len()), (0, 20), "a membership is asked about");
    team.shows("tasks", Some(&format!("project NOT IN ({of})")));
    team.sync(&mut alice);
    assert!(alice.turns > 1, "{}", alice.turns);
    assert_eq!((counted(), alice.device.dump("tasks").len()), (1, 20), "a policy is another one");
    team.run("DELETE FROM members");
    team.sync(&mut alice);
    assert_eq!(
        (counted(), alice.device.dump("tasks").len()),
        (2, 40),
        "nothing says which rows that concerns"
    );
    team.assert_settled(&mut [&mut alice]);
    assert_eq!(counted(), 2, "an idle poll looks at nothing");
    assert_eq!(team.server.store.recomputations(), 2);
}
