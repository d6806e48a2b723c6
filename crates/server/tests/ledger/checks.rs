//! What devices of users hold is compared with what their users see, and nothing else is told.

use crate::bench::{Device, Folder};
use crate::copies::copy;
use crate::server::BOTH;
use crate::team::{Fate, Member, Team, key};
use crate::{NOTES, journals, projects};
use cloudsync_protocol::message::{Answer, Request};
use cloudsync_protocol::payload::Opened;
use cloudsync_protocol::range::{Check, Checked, Finding, Range};
use cloudsync_replica::{Environment, Zstd};
use cloudsync_server::policy::{PolicySteps, Verb};
use cloudsync_server::store::Store;
use cloudsync_server::store::sqlite::{FileId, Host, Located, SqliteStore, SystemHost};
use cloudsync_sqlite_ffi::Connection as Handle;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// The server forgets who holds what.
// language=SQLite
pub(crate) const LOSE_LEDGER: &str =
    "DELETE FROM cloudsync_server_ledger; UPDATE cloudsync_server_downloads SET granted = x'', evicted = x''";

/// A device whose file can be looked at.
fn on_disk(path: &Path, schema: &str) -> Device {
    let mut device = Device::open(path, 1);
    device.run(schema);
    device.init_all();
    device
}

/// Notes of alice between those of bob, some of which are gone.
pub(crate) fn notes() -> (Team, Member) {
    let team = journals();
    for number in 0..12 {
        let owner = if number % 3 == 1 { "alice" } else { "bob" };
        team.run(&format!("INSERT INTO notes VALUES('n{number:02}', '{owner}', 'note {number}')"));
    }
    let mut alice = team.member(1, "alice");
    alice.run("INSERT INTO notes VALUES('own', 'alice', 'own'), ('gone', 'alice', 'gone')");
    team.sync(&mut alice);
    alice.run("DELETE FROM notes WHERE id = 'gone'");
    team.run("DELETE FROM notes WHERE id IN ('n00', 'n01')");
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.repaired, 0);
    assert_eq!(alice.device.dump("notes").len(), 4);
    (team, alice)
}

#[test]
fn what_a_user_holds_is_equal_to_what_they_see() {
    let (team, mut alice) = notes();
    let mut bob = team.member(2, "bob");
    team.assert_mended(&mut [&mut alice, &mut bob]);
    for member in [&mut alice, &mut bob] {
        let before = member.device.sql.total_changes();
        for _ in 0..4 {
            team.sync(member);
        }
        assert_eq!((member.repaired, member.device.sql.total_changes()), (0, before), "{}", member.user);
    }
}

#[test]
fn damage_on_a_users_device_is_found_and_repaired() {
    let clock = "DELETE FROM cloudsync_clocks WHERE pk LIKE '%n04'";
    for (damage, repaired) in [
        ("UPDATE notes SET body = 'X' WHERE id = 'n04'".to_owned(), 1),
        ("DELETE FROM notes WHERE id = 'n04'".to_owned(), 1),
        ("DELETE FROM notes".to_owned(), 4),
        (clock.to_owned(), 1),
        (format!("{clock}; DELETE FROM notes WHERE id = 'n04'"), 1),
        ("DELETE FROM cloudsync_clocks; DELETE FROM notes".to_owned(), 4),
        ("INSERT INTO notes VALUES('new', 'alice', 'behind')".to_owned(), 1),
        // Under the key of a row of bob's: refused, as any other insertion of it.
        ("INSERT INTO notes VALUES('n05', 'alice', 'behind')".to_owned(), 1),
        ("UPDATE notes SET id = 'n05' WHERE id = 'n04'".to_owned(), 2),
    ] {
        let (team, mut alice) = notes();
        alice.device.run_unseen(&damage);
        team.sync(&mut alice);
        assert_eq!(alice.repaired, repaired, "{damage}");
        team.assert_mended(&mut [&mut alice]);
        assert_eq!(alice.repaired, 0, "{damage}");
    }
}

/// The bytes of a file and of what SQLite keeps beside it.
fn bytes_of(folder: &Folder, name: &str) -> Vec<u8> {
    let beside = ["", "-wal", "-journal"].map(|end| std::fs::read(folder.file(&format!("{name}{end}"))));
    beside.into_iter().flatten().flatten().collect()
}

#[test]
fn after_the_scrub_nothing_is_left_of_what_a_check_or_a_piece_brought() {
    let folder = Folder::new();
    let (team, mut alice) = notes();
    team.run("INSERT INTO notes VALUES('key-of-damaged', 'alice', 'secret-of-damaged'), ('key-of-ghost', 'alice', 'secret-of-ghost')");
    team.sync(&mut alice);
    let mut other = copy(&team, &alice, &folder, "copy.db", 7);
    drop(alice);
    team.assert_mended(&mut [&mut other]);
    // A row that was repaired before it went, one that the ledger takes away, and one that a check finds.
    other.device.run_unseen("UPDATE notes SET body = 'X' WHERE id = 'key-of-damaged'");
    team.sync(&mut other);
    assert_eq!(other.repaired, 1);
    team.run(LOSE_LEDGER);
    team.run("UPDATE notes SET owner = 'bob' WHERE id = 'key-of-ghost'");
    team.sync(&mut other);
    assert_eq!((other.got, other.repaired), ([0; 3], 1));
    team.run("UPDATE notes SET owner = 'bob' WHERE id = 'key-of-damaged'");
    team.sync(&mut other);
    assert_eq!(other.device.dump("notes").len(), 4);
    // A row of which only pieces came.
    team.run("INSERT INTO notes VALUES('key-of-pieces', 'alice', randomblob(3000000))");
    let part = "SELECT substr(body, 1000, 32) FROM notes WHERE id = 'key-of-pieces'";
    let part: Vec<u8> = team.server.shell().query_row(part, [], |row| row.get(0)).unwrap();
    team.sync_with(&mut other, &mut |turn| if turn == 2 { Fate::Ends } else { Fate::Arrives });
    assert!(other.pieces >= 2);
    let before = bytes_of(&folder, "copy.db");
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|bytes| bytes == part);
    assert!(has(&before, &part));
    team.run("UPDATE notes SET owner = 'bob' WHERE id = 'key-of-pieces'");
    for _ in 0..2 {
        team.sync(&mut other);
    }
    assert!(other.device.replica.scrub().unwrap());
    let after = bytes_of(&folder, "copy.db");
    assert!(!has(&after, &part));
    for id in ["damaged", "ghost", "pieces"] {
        assert!(!has(&after, format!("secret-of-{id}").as_bytes()), "{id}");
        assert!(!has(&after, format!("key-of-{id}").as_bytes()), "{id}");
    }
    other.device.check();
}

#[test]
fn of_a_row_that_was_taken_away_only_what_its_user_wrote_is_kept() {
    let folder = Folder::new();
    let mut team =
        Team::new("CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT, tag TEXT)");
    team.shows("notes", Some("owner = auth_userid()"));
    team.set("notes", Verb::Update, Some("NEW.tag <> 'forbidden'"));
    for id in ["unsent", "refused", "deleted"] {
        team.run(&format!("INSERT INTO notes VALUES('{id}', 'alice', 'words-of-others-{id}', 'tag')"));
    }
    let path = folder.file("device.db");
    let schema = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, owner TEXT, body TEXT, tag TEXT)";
    let mut alice = team.member_on(on_disk(&path, schema), "alice");
    team.sync(&mut alice);
    alice.run(
        "UPDATE notes SET tag = 'forbidden' WHERE id = 'refused'; DELETE FROM notes WHERE id = 'deleted'",
    );
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.device.dump("notes").len(), 3);
    alice.run("UPDATE notes SET tag = 'my own' WHERE id = 'unsent'");
    team.run("UPDATE notes SET owner = 'bob'");
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.device.dump("notes"), [""; 0]);
    let kept =
        alice.device.column::<String>("SELECT ifnull(\"row\", '-') FROM cloudsync_rejected ORDER BY id");
    let expected =
        ["{\"id\":\"refused\",\"tag\":\"forbidden\"}", "-", "{\"id\":\"unsent\",\"tag\":\"my own\"}"];
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(kept), sorted(expected.map(String::from).to_vec()));
    for change in alice.device.column::<Vec<u8>>("SELECT change FROM cloudsync_rejected") {
        let opened = Opened::open(&change, &Zstd).unwrap();
        let columns =
            opened.payload().unwrap().groups().iter().flat_map(|group| group.columns().to_vec()).count();
        assert!(columns <= 1, "{columns} columns");
    }
    assert!(alice.device.replica.scrub().unwrap());
    let left = bytes_of(&folder, "device.db");
    assert!(!left.windows(15).any(|bytes| bytes == b"words-of-others"));
}

#[test]
fn a_large_row_that_was_lost_and_fetched_is_compared_as_any_other() {
    let folder = Folder::new();
    let team = journals();
    team.run(
        "INSERT INTO notes VALUES('key-of-large', 'alice', hex(randomblob(400000))), ('small', 'alice', 'x')",
    );
    let mut alice = team.member_on(on_disk(&folder.file("device.db"), NOTES), "alice");
    team.assert_mended(&mut [&mut alice]);
    for damage in
        ["DELETE FROM notes WHERE id = 'key-of-large'", "UPDATE notes SET owner = 'X' WHERE body <> 'x'"]
    {
        alice.device.run_unseen(damage);
        (0..2).for_each(|_| team.sync(&mut alice));
        team.assert_mended(&mut [&mut alice]);
    }
    // What was damaged is kept, but for the row that was gone.
    assert_eq!(alice.rows("SELECT json_extract(\"row\", '$.owner') FROM cloudsync_rejected"), ["'X'"]);
    team.run(LOSE_LEDGER);
    team.run("UPDATE notes SET owner = 'bob' WHERE id = 'key-of-large'");
    team.sync(&mut alice);
    assert_eq!(alice.repaired, 1);
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT id FROM notes"), ["'small'"]);
    assert!(alice.device.replica.scrub().unwrap());
    let left = bytes_of(&folder, "device.db");
    assert!(!left.windows(12).any(|bytes| bytes == b"key-of-large"));
}

#[test]
fn a_users_reset_transfers_what_differs_and_nothing_else() {
    let (team, mut alice) = notes();
    alice.device.replica.reset_sync().unwrap();
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.repaired), ([0; 3], 0));
    alice.device.run_unseen("DELETE FROM notes WHERE id = 'n04'");
    alice.device.replica.reset_sync().unwrap();
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.repaired), ([0; 3], 1));
    team.assert_mended(&mut [&mut alice]);
}

/// What the server finds in the ranges of a request.
fn findings(team: &Team, member: &Member, request: &[u8]) -> Vec<u8> {
    let request = Request::decode(request).unwrap();
    let answer = team.server.store.turn(&request, &member.asker(), member.device.world.now.get()).unwrap();
    let Answer::Turn(turn) = Answer::decode(&answer).unwrap() else { panic!("refused") };
    assert!(turn.drained && turn.payload.is_empty());
    turn.checked.to_vec()
}

#[test]
fn findings_are_the_same_whatever_there_is_that_cannot_be_seen() {
    for damage in ["", "DELETE FROM notes", "UPDATE notes SET body = 'X'"] {
        let (team, mut alice) = notes();
        let mut eve = team.member(5, "eve");
        team.assert_mended(&mut [&mut alice, &mut eve]);
        alice.device.run_unseen(damage);
        // She asks about rows that she made up.
        eve.device.run_unseen("INSERT INTO notes VALUES('n00', 'eve', '0'), ('n05', 'eve', '5')");
        let [of_alice, of_eve] =
            [&mut alice, &mut eve].map(|member| member.device.replica.prepare_check(BOTH).unwrap().unwrap());
        let mut before = None;
        // More than a check of somebody who sees everything looks at.
        let many = if damage.is_empty() { 33_000 } else { 100 };
        let many = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})
             INSERT INTO notes SELECT printf('n04-%d', i), 'bob', 'x' FROM n"
        );
        for change in [
            "UPDATE notes SET body = body WHERE 0",
            "UPDATE notes SET body = 'changed' WHERE owner = 'bob'",
            "DELETE FROM notes WHERE owner = 'bob' AND id > 'n04'",
            &many,
            "DELETE FROM notes WHERE owner = 'bob'",
        ] {
            team.run(change);
            let found = [findings(&team, &alice, &of_alice), findings(&team, &eve, &of_eve)];
            let told = Checked::decode(&found[1]).unwrap();
            let is_nothing = |finding: &Finding<'_>| matches!(finding, Finding::Differs { until: b"" });
            assert!(told.payload.is_empty() && told.findings.iter().all(is_nothing), "{:?}", told.findings);
            assert_eq!(before.get_or_insert_with(|| found.clone()), &found, "{damage}: {change}");
        }
    }
}

/// A device that speaks the protocol in a way of its own is told the same as any other.
#[test]
fn ranges_that_overlap_are_found_as_if_each_came_alone() {
    let (team, mut alice) = notes();
    let bytes = alice.device.replica.prepare_check(BOTH).unwrap().unwrap();
    let request = Request::decode(&bytes).unwrap();
    let range = request.check.ranges[0];
    let (n04, n07, odd) = (key("n04"), key("n07"), [0xff, 0xff]);
    let bounds: [(&[u8], &[u8]); 8] = [
        (b"", b""),
        (b"", &n04),
        (b"", &n07),
        (&n04, &n07),
        (&n04, b""),
        (&n07, &n07),
        (&n07, b""),
        (b"", &odd),
    ];
    for (rows, digest) in [(0, 0), (9, 1), (range.rows, range.digest)] {
        let ranges = bounds.map(|(after, until)| Range { after, until, rows, digest, ..range });
        let found = |ranges: &[Range<'_>]| {
            let check = Check { ranges: ranges.to_vec() };
            let bytes = findings(&team, &alice, &Request { check, ..request.clone() }.encode());
            let checked = Checked::decode(&bytes).unwrap();
            checked.findings.iter().map(|finding| format!("{finding:?}")).collect::<Vec<_>>()
        };
        let alone: Vec<_> = ranges.iter().flat_map(|range| found(&[*range])).collect();
        assert_eq!(found(&ranges), alone);
        assert_eq!(alone.last().unwrap(), "Unknown");
    }
}

#[test]
fn rows_that_come_with_findings_are_in_the_ledger() {
    let (team, mut alice) = notes();
    team.run(LOSE_LEDGER);
    alice.device.run_unseen("DELETE FROM notes WHERE id = 'n04'");
    team.sync(&mut alice);
    assert_eq!(alice.repaired, 1);
    team.run("UPDATE notes SET owner = 'bob' WHERE id = 'n04'");
    team.sync_with(&mut alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    assert_eq!(alice.got, [0, 0, 1]);
    team.assert_mended(&mut [&mut alice]);
}

#[test]
fn a_device_that_begins_again_with_a_lost_ledger_does_not_get_what_it_wrote_and_loses_it_like_the_rest() {
    let (team, mut alice) = notes();
    team.run(&format!("{LOSE_LEDGER}; DELETE FROM cloudsync_server_downloads"));
    alice.run("DELETE FROM cloudsync_settings WHERE key = 'cursor'");
    let unchecked = |alice: &mut Member| {
        team.sync_with(alice, &mut |turn| if turn == 1 { Fate::Ends } else { Fate::Arrives });
    };
    unchecked(&mut alice);
    assert_eq!(alice.got, [3, 0, 0]);
    team.run("UPDATE notes SET owner = 'bob' WHERE id IN ('own', 'n04')");
    unchecked(&mut alice);
    assert_eq!(alice.got, [0, 0, 2]);
    team.assert_mended(&mut [&mut alice]);
}

#[test]
fn what_a_lost_ledger_does_not_take_away_is_found() {
    let (team, mut alice) = notes();
    team.run(LOSE_LEDGER);
    team.run("UPDATE notes SET owner = 'bob' WHERE id = 'n07'");
    team.sync(&mut alice);
    assert_eq!((alice.got, alice.repaired, alice.device.dump("notes").len()), ([0; 3], 1, 3));
    team.assert_mended(&mut [&mut alice]);
}

#[test]
fn a_row_that_is_gone_on_the_server_without_a_deletion_stays_with_its_users() {
    let (team, mut alice) = notes();
    let server = Device::on(team.server.shell(), 0);
    server.run_unseen("DELETE FROM notes WHERE id = 'n04'");
    alice.device.run_unseen("UPDATE notes SET body = 'X' WHERE id = 'own'");
    for _ in 0..3 {
        team.sync(&mut alice);
        assert_eq!(alice.repaired, 0);
    }
    assert_eq!(alice.device.dump("notes").len(), 4);
    // Bob's range is not concerned.
    let mut bob = team.member(2, "bob");
    team.sync(&mut bob);
    bob.device.run_unseen("DELETE FROM notes WHERE id = 'n05'");
    team.sync(&mut bob);
    assert_eq!(bob.repaired, 1);
}

#[test]
fn a_policy_that_fails_for_a_row_does_not_keep_the_others_from_being_checked() {
    let mut team = journals();
    team.run("INSERT INTO notes VALUES('a', 'alice', '{\"to\":\"alice\"}'), ('b', 'bob', 'no json')");
    team.shows("notes", Some("json_extract(body, '$.to') = auth_userid()"));
    team.policies.insert("notes".to_owned(), "id = 'a'".to_owned());
    let mut alice = team.member(1, "alice");
    team.assert_mended(&mut [&mut alice]);
    alice.device.run_unseen("DELETE FROM notes; INSERT INTO notes VALUES('b', 'alice', 'ghost')");
    team.sync(&mut alice);
    assert_eq!(alice.repaired, 2);
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.device.dump("notes").len(), 1);
}

/// This machine, with less patience.
struct Bounded(PolicySteps);

impl Host for Bounded {
    fn environment(&self, db: Handle) -> Rc<dyn Environment> {
        SystemHost.environment(db)
    }

    fn file_id(&self, path: &Path) -> std::io::Result<FileId> {
        SystemHost.file_id(path)
    }

    fn policy_steps(&self) -> PolicySteps {
        self.0
    }
}

/// A policy that takes some 20,000 steps for each row.
// language=SQLite
const SLOW: &str = "owner = auth_userid() AND (SELECT count(*) FROM many WHERE n > length(notes.body)) > 0";

fn bound(team: &mut Team, round: u64, check: u64) {
    let host = Arc::new(Bounded(PolicySteps { round, check }));
    team.server.store = SqliteStore::open(Located::on(&team.server.path, host)).unwrap();
}

/// Makes the policy of notes too much work for checks.
pub(crate) fn make_slow(team: &mut Team) {
    team.run(
        "CREATE TABLE many(n);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO many SELECT i FROM n",
    );
    team.sees("notes", SLOW);
    bound(team, 10_000_000, 50_000);
}

#[test]
fn a_policy_that_takes_too_much_work_is_not_evaluated_for_checks_and_refuses_rounds() {
    let (mut team, mut alice) = notes();
    make_slow(&mut team);
    team.assert_mended(&mut [&mut alice]);
    alice.device.run_unseen("UPDATE notes SET body = 'X' WHERE id = 'own'");
    for _ in 0..2 {
        team.sync(&mut alice);
        assert_eq!(alice.repaired, 0);
    }
    alice.run("UPDATE notes SET body = 'y' WHERE id = 'n04'");
    team.sync(&mut alice);
    assert_eq!(team.server.rows("SELECT body FROM notes WHERE id = 'n04'"), ["'y'"]);
    bound(&mut team, 50_000, 10_000_000);
    team.sync(&mut alice);
    assert_eq!(alice.repaired, 1);
    alice.run("UPDATE notes SET body = body || '!'");
    let request = alice.device.replica.prepare(BOTH, false).unwrap();
    let now = alice.device.world.now.get();
    let answer = team.server.store.turn(&Request::decode(&request).unwrap(), &alice.asker(), now).unwrap();
    let Answer::Refusal(refusal) = Answer::decode(&answer).unwrap() else { panic!("it was taken") };
    assert!(refusal.text.contains("\"notes\" take more work"), "{}", refusal.text);
    assert!(alice.device.replica.mend(&refusal).is_err());
    assert_eq!(team.server.rows("SELECT count(*) FROM notes WHERE body LIKE '%!'"), ["0"]);
    // Nothing of it is lost.
    bound(&mut team, 10_000_000, 10_000_000);
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(team.server.rows("SELECT count(*) FROM notes WHERE body LIKE '%!'"), ["4"]);
}

#[test]
fn a_large_row_of_a_user_that_is_damaged_is_fetched() {
    let (team, mut alice) = notes();
    team.run("UPDATE notes SET body = hex(randomblob(400000)) WHERE id = 'n04'");
    team.assert_mended(&mut [&mut alice]);
    alice.device.run_unseen("UPDATE notes SET owner = 'X' WHERE id = 'n04'");
    for _ in 0..2 {
        team.sync(&mut alice);
    }
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.rows("SELECT owner FROM notes WHERE id = 'n04'"), ["'alice'"]);
}

#[test]
fn many_rows_of_a_user_are_checked_in_parts() {
    let team = projects();
    let fill = |project: &str, count: usize| {
        team.run(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO tasks SELECT printf('%05d-{project}', i), '{project}', 'body' FROM n"
        ));
    };
    fill("mine", 6_000);
    fill("other", 6_000);
    team.run("INSERT INTO members VALUES('m', 'mine', 'alice')");
    let mut alice = team.member(1, "alice");
    team.sync(&mut alice);
    // More than one answer has room for.
    alice.device.run_unseen(
        "DELETE FROM tasks WHERE id > '00100'; DELETE FROM cloudsync_clocks WHERE substr(pk, 3, 5) > '00100'",
    );
    for _ in 0..12 {
        team.sync(&mut alice);
    }
    team.assert_mended(&mut [&mut alice]);
    assert_eq!(alice.device.dump("tasks").len(), 6_000);
}
