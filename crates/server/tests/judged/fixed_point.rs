//! A round is judged as a least fixed point.

use crate::place::{NOT_ALLOWED, Place};
use crate::server;
use cloudsync_server::policy::Verb::{Delete, Insert, Select, Update};

// language=SQLite
const SCHEMA: &str = "
CREATE TABLE a_tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, title TEXT);
CREATE TABLE m_members(project TEXT NOT NULL, user TEXT NOT NULL, role TEXT, PRIMARY KEY(project, user));
CREATE TABLE p_projects(id TEXT PRIMARY KEY NOT NULL, owner TEXT);
";

/// Members of a project see and write its tasks; its admins and its owner manage the members.
fn projects() -> Place {
    let place = Place::new(SCHEMA);
    let member =
        "EXISTS(SELECT 1 FROM m_members AS m WHERE m.project = a_tasks.project AND m.user = auth_userid())";
    for verb in [Select, Insert, Update, Delete] {
        place.set("a_tasks", verb, member);
    }
    let admin = "EXISTS(SELECT 1 FROM m_members AS m WHERE m.project = m_members.project AND m.user = auth_userid() AND m.role = 'admin')";
    let owner =
        "EXISTS(SELECT 1 FROM p_projects AS p WHERE p.id = m_members.project AND p.owner = auth_userid())";
    place.set("m_members", Select, &format!("user = auth_userid() OR {admin} OR {owner}"));
    for verb in [Insert, Update] {
        place.set("m_members", verb, &format!("{admin} OR {owner}"));
    }
    place.set("m_members", Delete, &format!("user = auth_userid() OR {admin}"));
    for verb in [Select, Insert] {
        place.set("p_projects", verb, "owner = auth_userid()");
    }
    place
}

#[test]
fn no_row_vouches_for_itself() {
    let place = projects();
    place.server.run("INSERT INTO p_projects VALUES('P', 'alice')");
    let mut eve = place.device(1);
    eve.run("INSERT INTO m_members VALUES('P', 'eve', 'admin')");
    assert_eq!(place.verdicts(&mut eve, "eve"), [(NOT_ALLOWED.to_owned(), None)]);
    // Nor do two of them for each other.
    eve.run("INSERT INTO m_members VALUES('P', 'eve', 'admin'), ('P', 'eva', 'admin')");
    assert_eq!(place.verdicts(&mut eve, "eve").len(), 2);
    assert!(place.server.rows("SELECT * FROM m_members").is_empty());
}

#[test]
fn what_was_granted_grants_what_follows_from_it_in_any_order() {
    let place = projects();
    let mut alice = place.device(1);
    // Tasks travel before members, and members before projects.
    alice.run(
        "INSERT INTO a_tasks VALUES('t1', 'P', 'x'), ('t2', 'P', 'y'), ('t3', 'Q', 'not hers');
         INSERT INTO m_members VALUES('P', 'alice', 'admin'), ('P', 'bob', 'member');
         INSERT INTO p_projects VALUES('P', 'alice'), ('R', 'bob')",
    );
    assert_eq!(place.send(&mut alice, "alice").rejected, 2);
    assert_eq!(place.server.rows("SELECT id FROM a_tasks"), ["'t1'", "'t2'"]);
    assert_eq!(place.server.rows("SELECT * FROM m_members").len(), 2);
    assert_eq!(place.server.rows("SELECT id FROM p_projects"), ["'P'"]);
}

#[test]
fn a_right_may_be_used_and_given_up_in_one_round() {
    let place = projects();
    place.server.run(
        "INSERT INTO p_projects VALUES('P', 'alice'); INSERT INTO m_members VALUES('P', 'bob', 'member');
         INSERT INTO a_tasks VALUES('t1', 'P', 'x'), ('t2', 'P', 'y')",
    );
    let mut bob = place.device(1);
    server::sync(&mut bob, &place.server);
    bob.run("DELETE FROM m_members; DELETE FROM a_tasks WHERE id = 't1'; UPDATE a_tasks SET title = 'z' WHERE id = 't2'");
    assert_eq!(place.send(&mut bob, "bob").rejected, 0);
    assert!(place.server.rows("SELECT * FROM m_members").is_empty());
    assert_eq!(place.server.rows("SELECT * FROM a_tasks"), ["'t2','P','z'"]);
    // And then it is gone.
    bob.run("UPDATE a_tasks SET title = 'again' WHERE id = 't2'");
    assert_eq!(place.verdicts(&mut bob, "bob"), [(NOT_ALLOWED.to_owned(), None)]);
}

#[test]
fn several_changes_of_one_row_are_judged_one_after_the_other() {
    let place = projects();
    place.server.run("INSERT INTO p_projects VALUES('P', 'alice')");
    let mut alice = place.device(1);
    server::sync(&mut alice, &place.server);
    alice.run("INSERT INTO m_members VALUES('P', 'alice', 'member')");
    alice.replica.fold().unwrap();
    alice.run("UPDATE m_members SET role = 'admin'");
    alice.replica.fold().unwrap();
    alice.run("INSERT INTO a_tasks VALUES('t', 'P', 'x')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    assert_eq!(place.server.rows("SELECT * FROM m_members"), ["'P','alice','admin'"]);
}

#[test]
fn rows_that_depend_on_a_refused_one_are_refused() {
    let schema =
        format!("{SCHEMA} CREATE UNIQUE INDEX one_admin ON m_members(project) WHERE role = 'admin';");
    let place = Place::new(&schema);
    place.set(
        "a_tasks",
        Insert,
        "EXISTS(SELECT 1 FROM m_members AS m WHERE m.project = NEW.project AND m.user = auth_userid())",
    );
    place.set("m_members", Insert, "user = auth_userid()");
    place.server.run("INSERT INTO m_members VALUES('P', 'alice', 'admin')");
    let mut eve = place.device(1);
    eve.run("INSERT INTO a_tasks VALUES('t', 'P', 'x'); INSERT INTO m_members VALUES('P', 'eve', 'admin')");
    // Her membership is allowed, but its constraint is not met; so her task has no membership either.
    assert_eq!(place.send(&mut eve, "eve").rejected, 2);
    assert!(place.server.rows("SELECT * FROM a_tasks").is_empty());
}

#[test]
fn children_of_later_rounds_and_exchanged_values_get_in_under_policies() {
    let schema = "CREATE TABLE a(id TEXT PRIMARY KEY NOT NULL, pos INTEGER UNIQUE, parent TEXT REFERENCES b, owner TEXT);
        CREATE TABLE b(id TEXT PRIMARY KEY NOT NULL, owner TEXT);";
    let place = Place::new(schema);
    for table in ["a", "b"] {
        for verb in [Select, Insert, Update, Delete] {
            place.set(table, verb, "owner = auth_userid()");
        }
    }
    let mut alice = place.device(1);
    alice.run("INSERT INTO a VALUES('1', 1, 'x', 'alice'), ('2', 2, 'x', 'alice'); INSERT INTO b VALUES('x', 'alice')");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    alice.run("UPDATE a SET pos = -pos; UPDATE a SET pos = 3 + pos");
    assert_eq!(place.send(&mut alice, "alice").rejected, 0);
    assert_eq!(place.server.rows("SELECT id, pos FROM a"), ["'1',2", "'2',1"]);
}

#[test]
fn a_child_waits_for_a_parent_of_the_batch_s_next_round_and_is_judged_then() {
    let schema = "CREATE TABLE a(id TEXT PRIMARY KEY NOT NULL, parent TEXT REFERENCES b, owner TEXT);
        CREATE TABLE b(id TEXT PRIMARY KEY NOT NULL, owner TEXT);";
    for comes in [true, false] {
        let place = Place::new(schema);
        for table in ["a", "b"] {
            place.set(table, Insert, "owner = auth_userid()");
        }
        let mut alice = place.device(1);
        alice.run("INSERT INTO a VALUES('1', 'x', 'alice'), ('2', 'x', 'alice'), ('3', 'x', 'eve')");
        // One of the turns introduces the device.
        let (mut told, _) = place.ask(&mut alice, "alice", true, false);
        told.extend(place.ask(&mut alice, "alice", true, false).0);
        assert_eq!(told, [(NOT_ALLOWED.to_owned(), None)]);
        assert_eq!(place.server.waiting(), 2);
        // Others write meanwhile: what waits is not let in by them.
        place.server.run("INSERT INTO b VALUES('y', 'bob')");
        let mut owner = place.device(2);
        owner.run("INSERT INTO b VALUES('z', 'bob')");
        server::sync(&mut owner, &place.server);
        assert!(place.server.rows("SELECT * FROM a").is_empty());
        if comes {
            place.set("a", Insert, "id = '1'");
            alice.run("INSERT INTO b VALUES('x', 'alice')");
        } else {
            alice.run("INSERT INTO b VALUES('w', 'alice')");
        }
        let (told, _) = place.ask(&mut alice, "alice", false, false);
        assert_eq!(told.len(), if comes { 1 } else { 2 });
        assert_eq!(place.server.rows("SELECT id FROM a").len(), usize::from(comes));
        assert_eq!(place.server.waiting(), 0);
        assert_eq!(alice.rows("SELECT id FROM a").len(), usize::from(comes));
    }
}

#[test]
fn a_repeated_answer_gives_no_row_that_is_hidden_by_now() {
    let schema = "CREATE TABLE grants(user TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT);";
    for loses in [false, true] {
        let place = Place::new(schema);
        place.set("t", Select, "EXISTS(SELECT 1 FROM grants WHERE user = auth_userid())");
        place.server.run("INSERT INTO grants VALUES('bob'); INSERT INTO t VALUES('a', 'secret')");
        let mut bob = place.device(1);
        server::sync(&mut bob, &place.server);
        bob.run("UPDATE t SET v = 'x'");
        // While the answer is lost, the grant is taken back.
        let (told, _) = place.ask(&mut bob, "bob", false, loses);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].0.as_str(), told[0].1.is_none()), (NOT_ALLOWED, loses));
    }
}
