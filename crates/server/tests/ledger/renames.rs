//! Names that change on devices of users, where the server has both.

use crate::bench::Device;
use crate::team::Team;

// language=SQLite
const OLD: &str = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT);";
const RENAME: &str = "ALTER TABLE notes RENAME COLUMN body TO text";

#[test]
fn users_whose_app_renames_a_column_go_on_under_policies_that_name_both() {
    let mut team = Team::new(OLD);
    team.sees("notes", "owner = auth_userid() AND body IS NOT 'hidden'");
    let (mut alice, mut second) = (team.member(1, "alice"), team.member(2, "alice"));
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'one'), ('b', 'alice', 'two')");
    team.sync(&mut alice);
    team.sync(&mut second);
    // The server first, policies and all; then one of the devices.
    team.run("ALTER TABLE notes ADD COLUMN text TEXT");
    team.sees("notes", "owner = auth_userid() AND coalesce(text, body) IS NOT 'hidden'");
    alice.run(RENAME);
    team.sync(&mut alice);
    assert_eq!(
        team.server.rows("SELECT * FROM notes"),
        ["'a','alice','one','one'", "'b','alice','two','two'"]
    );
    // Whoever has not renamed yet goes on with the old name, and their edits are there once they have.
    second.device.world.now.set(second.device.world.now.get() + 10);
    second.run("UPDATE notes SET body = 'later' WHERE id = 'a'");
    alice.run("UPDATE notes SET text = 'hidden' WHERE id = 'b'");
    for _ in 0..2 {
        team.sync(&mut second);
        team.sync(&mut alice);
    }
    assert_eq!(alice.rows("SELECT * FROM notes"), ["'a','alice','one'"]);
    assert_eq!(second.rows("SELECT * FROM notes"), ["'a','alice','later'"]);
    second.run(RENAME);
    for _ in 0..2 {
        team.sync(&mut second);
        team.sync(&mut alice);
    }
    for member in [&alice, &second] {
        assert_eq!(member.rows("SELECT * FROM notes"), ["'a','alice','later'"]);
        assert_eq!(member.device.quarantine(), 0);
        assert_eq!(member.rows("SELECT * FROM cloudsync_rejected"), [""; 0]);
    }
}

#[test]
fn a_user_whose_app_renames_before_the_server_does_waits_and_loses_nothing() {
    let mut team = Team::new(OLD);
    team.sees("notes", "owner = auth_userid()");
    let mut alice = team.member_on(Device::new(1, OLD), "alice");
    alice.run("INSERT INTO notes VALUES('a', 'alice', 'one')");
    team.sync(&mut alice);
    alice.run(RENAME);
    alice.run("UPDATE notes SET text = 'two'");
    let refused = team.refusal(&mut alice);
    assert!(refused.contains("column \"text\" of table \"notes\" does not exist on the server"), "{refused}");
    assert!(alice.device.replica.has_unsent().unwrap());
    team.run("ALTER TABLE notes ADD COLUMN text TEXT");
    team.sync(&mut alice);
    assert_eq!(team.server.rows("SELECT * FROM notes"), ["'a','alice','one','two'"]);
    assert_eq!(alice.rows("SELECT * FROM notes"), ["'a','alice','two'"]);
}
