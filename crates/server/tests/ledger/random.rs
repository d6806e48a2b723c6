//! Somebody who knows everything beside a random run of writes, memberships, policies and faults.

use crate::bench::Folder;
use crate::checks::LOSE_LEDGER;
use crate::copies::copy;
use crate::team::{Fate, Member, Team};

// language=SQLite
const SCHEMA: &str = "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, user TEXT);
    CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT);
    CREATE TABLE projects(id TEXT PRIMARY KEY NOT NULL, owner TEXT, name TEXT);
    CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);
    CREATE INDEX tasks_of ON tasks(project);
    CREATE VIEW named AS SELECT id AS project FROM projects;";
const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// Policies that a table may get.
const TASKS: [&str; 9] = [
    "EXISTS (SELECT 1 FROM members WHERE members.project = tasks.project AND members.user = auth_userid())",
    "project IN (SELECT project FROM members WHERE user = auth_userid())",
    "project IN (SELECT id FROM projects WHERE owner = auth_userid()) OR \
     EXISTS (SELECT 1 FROM members m WHERE m.project = tasks.project AND m.user = auth_userid())",
    "EXISTS (SELECT 1 FROM members m JOIN projects p ON p.id = m.project WHERE p.id = tasks.project AND m.user = auth_userid())",
    "project IN (SELECT project FROM members WHERE user = auth_userid()) \
     AND NOT EXISTS (SELECT 1 FROM projects WHERE id = tasks.project AND owner = 'nobody')",
    "body <> 'x' AND EXISTS (SELECT 1 FROM members WHERE project = tasks.project AND user = auth_userid())",
    "project IN (SELECT id FROM projects WHERE EXISTS \
     (SELECT 1 FROM members m WHERE m.project = projects.id AND m.user = auth_userid()))",
    "EXISTS (SELECT 1 FROM tasks AS t JOIN members USING(project) WHERE t.id = tasks.id AND user = auth_userid())",
    "EXISTS (SELECT 1 FROM named NATURAL JOIN members WHERE named.project = tasks.project AND user = auth_userid())",
];
const NOTES: [&str; 2] = ["owner = auth_userid()", "owner = auth_userid() OR owner = 'public'"];

pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub(crate) fn of<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list[self.below(list.len() as u64) as usize]
    }
}

fn user(chance: &mut Chance) -> &'static str {
    chance.of(&["alice", "bob", "carol", "nobody", "public"])
}

fn write(chance: &mut Chance, step: u64) -> String {
    let (project, id, who) = (format!("p{}", chance.below(4)), chance.below(12), user(chance));
    match chance.below(12) {
        0 => format!("INSERT OR IGNORE INTO members VALUES('m{id}', '{project}', '{who}')"),
        1 => format!("DELETE FROM members WHERE id = 'm{id}'"),
        2 => format!("UPDATE members SET project = '{project}' WHERE id = 'm{id}'"),
        3 => format!("UPDATE members SET user = '{who}' WHERE id = 'm{id}'"),
        4 => format!("INSERT OR IGNORE INTO tasks VALUES('t{id}', '{project}', 'body {step}')"),
        5 => format!("UPDATE tasks SET body = 'edit {step}' WHERE id = 't{id}'"),
        6 => format!("UPDATE tasks SET project = '{project}' WHERE id = 't{id}'"),
        7 => format!("DELETE FROM tasks WHERE id = 't{id}'"),
        8 => format!("INSERT OR IGNORE INTO notes VALUES('n{id}', '{who}', 'note {step}')"),
        9 => format!("UPDATE notes SET owner = '{who}', body = 'note {step}' WHERE id = 'n{id}'"),
        10 => format!("DELETE FROM notes WHERE id = 'n{id}'"),
        _ => format!(
            "INSERT INTO projects VALUES('{project}', '{who}', 'x') ON CONFLICT(id) DO UPDATE SET owner = excluded.owner"
        ),
    }
}

/// Devices that are not woken by the news would have got nothing.
fn assert_whoever_sleeps_misses_nothing(team: &Team, members: &mut [Member]) {
    let woken: Vec<_> = members.iter().map(|member| team.concerns(member)).collect();
    for (member, woken) in members.iter_mut().zip(woken) {
        team.sync(member);
        assert!(woken || member.got == [0; 3], "{} sleeps", member.user);
    }
}

/// Downloads alone bring what is seen and take what is not: a check that finds something hides a mistake of the ledger.
#[track_caller]
fn assert_nothing_was_to_be_repaired(members: &[Member]) {
    for member in members {
        let ever = member.rows("SELECT value FROM cloudsync_settings WHERE key = 'repaired_rows'");
        assert_eq!(ever, [""; 0], "at {}", member.user);
    }
}

/// What happens to files and disks.
struct Harm {
    folder: Folder,
    copies: u64,
    backup: Option<(usize, Member)>,
}

impl Harm {
    fn new() -> Self {
        Self { folder: Folder::new(), copies: 0, backup: None }
    }

    fn copy(&mut self, team: &Team, member: &Member, seed: u64) -> Member {
        self.copies += 1;
        copy(team, member, &self.folder, &format!("{}.db", self.copies), seed * 1_000 + self.copies)
    }

    fn strike(&mut self, chance: &mut Chance, team: &Team, members: &mut Vec<Member>, seed: u64) {
        let (at, id) = (chance.below(members.len() as u64) as usize, chance.below(12));
        let table = chance.of(&["notes", "tasks"]);
        let row = format!("{}{id}", &table[..1]);
        let device = &members[at].device;
        match chance.below(10) {
            0 => device.run_unseen(&format!("UPDATE {table} SET body = 'damaged' WHERE id = '{row}'")),
            1 => device.run_unseen(&format!("DELETE FROM {table} WHERE id = '{row}'")),
            2 => {
                device.run_unseen(&format!("INSERT OR IGNORE INTO {table} VALUES('{row}', 'p1', 'damaged')"))
            }
            3 => device.run_unseen(&format!("DELETE FROM cloudsync_clocks WHERE pk LIKE '%{row}'")),
            4 => device.run_unseen(&format!("DELETE FROM {table}; DELETE FROM cloudsync_clocks")),
            5 => team.run(LOSE_LEDGER),
            6 if members.len() < 7 => {
                let copy = self.copy(team, &members[at], seed);
                members.push(copy);
            }
            6 | 7 => self.backup = Some((at, self.copy(team, &members[at], seed))),
            8 => {
                if let Some((at, member)) = self.backup.take() {
                    members[at] = member;
                }
            }
            _ => {
                let large = format!("UPDATE {table} SET body = hex(randomblob(600000)) WHERE id = '{row}'");
                if chance.below(2) == 0 { team.run(&large) } else { members[at].run(&large) }
            }
        }
    }

    /// Until everybody knows who they are, and what was damaged is repaired: a check goes no further than the first large
    /// row that is damaged.
    fn heal(&self, team: &Team, members: &mut [Member]) {
        for _ in 0..6 {
            for member in &mut *members {
                team.sync(member);
                let sql = "SELECT count(*) FROM sqlite_master WHERE name = 'cloudsync_repairs'";
                if member.device.get::<i64>(sql) == 1 {
                    // Rows that are damaged again and again are left alone.
                    member.run("DELETE FROM cloudsync_repairs");
                }
            }
        }
    }
}

fn run(seed: u64, steps: u64, mut harm: Option<Harm>) {
    let mut chance = Chance(seed);
    let mut team = Team::new(SCHEMA);
    team.sees("tasks", TASKS[0]);
    team.sees("notes", NOTES[0]);
    team.sees("members", "user = auth_userid()");
    let mut members: Vec<Member> =
        (0..4).map(|at| team.member(seed * 10 + at + 1, USERS[at as usize % USERS.len()])).collect();
    for step in 0..steps {
        let at = chance.below(members.len() as u64) as usize;
        match chance.below(20) {
            0..6 => team.run(&write(&mut chance, step)),
            6..11 => members[at].run(&write(&mut chance, step)),
            11..16 => team.sync(&mut members[at]),
            16 => {
                let (last, fate) = (chance.below(3) as usize, chance.of(&["lost", "ends"]));
                let fate = if fate == "lost" { Fate::Lost } else { Fate::Ends };
                team.sync_with(&mut members[at], &mut |turn| if turn == last { fate } else { Fate::Arrives });
            }
            17 => members[at].device.replica.reset_sync().unwrap(),
            18 => {
                let policy = chance.of(&TASKS);
                team.sees("tasks", policy);
                let policy = chance.of(&NOTES);
                team.sees("notes", policy);
            }
            _ if chance.below(3) == 0 => team.restart(),
            _ => {}
        }
        if let Some(harm) = harm.as_mut().filter(|_| step % 3 == 0) {
            harm.strike(&mut chance, &team, &mut members, seed);
        }
        if step % 40 == 39 {
            harm.iter().for_each(|harm| harm.heal(&team, &mut members));
            team.assert_mended(&mut members.iter_mut().collect::<Vec<_>>());
            if harm.is_none() {
                assert_nothing_was_to_be_repaired(&members);
                (0..3).for_each(|_| team.run(&write(&mut chance, step)));
                assert_whoever_sleeps_misses_nothing(&team, &mut members);
            }
        }
    }
    harm.iter().for_each(|harm| harm.heal(&team, &mut members));
    team.assert_mended(&mut members.iter_mut().collect::<Vec<_>>());
    if harm.is_none() {
        assert_nothing_was_to_be_repaired(&members);
    }
}

fn run_all(harms: bool) {
    let (seeds, steps) = match std::env::var("CLOUDSYNC_SEEDS") {
        Ok(seeds) => (seeds.parse().unwrap(), 400),
        Err(_) if harms => (2, 120),
        Err(_) => (4, 160),
    };
    let first = std::env::var("CLOUDSYNC_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    for seed in first..first + seeds {
        println!("seed {seed}");
        run(seed, steps, harms.then(Harm::new));
    }
}

#[test]
fn copies_restored_files_and_damage_bring_nobody_what_they_may_not_see_and_all_end_with_what_they_may() {
    run_all(true);
}

#[test]
fn nobody_is_ever_sent_what_they_may_not_see_and_all_end_with_what_they_may() {
    run_all(false);
}
