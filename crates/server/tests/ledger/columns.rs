//! Columns that came later: rows that are older have no clock there, neither here nor on the server.

use crate::bench::Device;
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

/// It came to a device where its table does not sync yet, and is kept there until it does.
#[test]
fn a_row_that_is_taken_away_before_its_table_syncs_does_not_come_with_it() {
    let (notes, papers) = (
        "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT)",
        "CREATE TABLE papers(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT)",
    );
    let mut team = Team::new(&format!("{notes}; {papers}"));
    for table in ["notes", "papers"] {
        team.sees(table, "owner = auth_userid()");
    }
    let mut alice = team.member_on(Device::new(1, notes), "alice");
    alice.device.run(papers);
    team.run("INSERT INTO papers VALUES('a', 'alice', 'hidden soon'), ('b', 'alice', 'shown')");
    team.sync(&mut alice);
    assert_eq!(alice.rows("SELECT count(*) > 0 FROM cloudsync_kept"), ["1"]);
    team.run("UPDATE papers SET owner = 'bob' WHERE id = 'a'");
    team.sync(&mut alice);
    let kept: Vec<Vec<u8>> = alice.device.column("SELECT payload FROM cloudsync_kept");
    assert!(!kept.iter().any(|piece| piece.windows(6).any(|bytes| bytes == b"hidden")), "{kept:?}");
    assert!(alice.device.replica.is_scrub_due().unwrap());
    alice.device.replica.init("papers", "cls", 0).unwrap();
    assert_eq!(alice.rows("SELECT id FROM papers WHERE id = 'a'"), [""; 0]);
    team.sync(&mut alice);
    assert_eq!(alice.rows("SELECT id FROM papers"), ["'b'"]);
}
