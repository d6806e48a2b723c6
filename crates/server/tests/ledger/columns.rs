//! Columns that came later: rows that are older have no clock there, neither here nor on the server.

use crate::journals;
use crate::team::{Member, Team};
use cloudsync_server::policy::Verb;
use rusqlite::config::DbConfig;

/// Alice's notes, which have got another column.
fn later() -> (Team, Member) {
    let team = journals();
    team.run("INSERT INTO notes VALUES('a', 'alice', '1'), ('b', 'alice', '2')");
    let mut alice = team.member(1, "alice");
    team.assert_settled(&mut [&mut alice]);
    team.run("ALTER TABLE notes ADD COLUMN later");
    alice.run("ALTER TABLE notes ADD COLUMN later");
    team.assert_settled(&mut [&mut alice]);
    (team, alice)
}

/// It would differ again after each repair, for ever, and show what nobody else has.
#[test]
fn a_cell_that_the_servers_row_does_not_have_goes_with_the_repair() {
    let (team, mut alice) = later();
    team.run("CREATE TABLE local_clocks AS SELECT pk, clock FROM cloudsync_clocks");
    alice.run("UPDATE notes SET later = 'x' WHERE id = 'a'");
    team.assert_settled(&mut [&mut alice]);
    let shell = team.server.shell();
    shell.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    let sql = "UPDATE notes SET later = NULL; UPDATE cloudsync_clocks SET clock = kept.clock \
               FROM local_clocks AS kept WHERE kept.pk = cloudsync_clocks.pk";
    shell.execute_batch(sql).unwrap();
    team.sync(&mut alice);
    assert_eq!(alice.repaired, 1);
    assert_eq!(alice.rows("SELECT later FROM notes"), ["NULL", "NULL"]);
    team.assert_settled(&mut [&mut alice]);
}

#[test]
fn the_first_value_of_a_cell_is_undone_when_it_is_refused() {
    let (team, mut alice) = later();
    team.set("notes", Verb::Update, Some("NEW.later IS NULL"));
    alice.run("UPDATE notes SET later = 'x' WHERE id = 'a'");
    team.sync(&mut alice);
    assert_eq!(alice.repaired, 0);
    assert_eq!(alice.rows("SELECT later FROM notes"), ["NULL", "NULL"]);
    team.assert_settled(&mut [&mut alice]);
}
