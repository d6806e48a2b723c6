//! Foreign keys on devices: parents and children that come in any order, from servers that know of no foreign keys.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;

use bench::{Device, NOW};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Request};
use cloudsync_server::store::Store;
use server::{KEY, Server, assert_settled, sync, sync_as};

/// Tables travel in the order in which they began to sync: children first.
const TREE: &str = "CREATE TABLE a_children(id INTEGER PRIMARY KEY NOT NULL, p REFERENCES z_parents, v);
    CREATE TABLE z_parents(id INTEGER PRIMARY KEY NOT NULL, p REFERENCES z_parents);";
const ON: &str = "PRAGMA foreign_keys = ON";

/// The same tables without foreign keys, as a server has them whose tables were made from a device's.
fn plain(schema: &str) -> String {
    let mut plain = schema.to_owned();
    while let Some(at) = plain.find("REFERENCES") {
        let end = plain[at..].find([',', ')']).map(|end| at + end).unwrap();
        plain.replace_range(at..end, "");
    }
    plain
}

fn waiting(device: &Device) -> Vec<String> {
    device.rows("SELECT tbl, reason FROM cloudsync_quarantine ORDER BY tbl, pk")
}

#[test]
fn more_children_than_the_quarantine_holds_may_come_before_their_parents() {
    let server = Server::in_memory(&plain(TREE));
    let mut a = Device::new(1, TREE);
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 101000)
         INSERT INTO a_children SELECT i, i % 100 + 1, printf('%020d', i) FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
         INSERT INTO z_parents SELECT i, nullif(i + 1, 101) FROM n;
         INSERT INTO a_children VALUES(-1, -1, 'orphan')",
    );
    sync(&mut a, &server);
    // One device fetches into empty tables and shows progress, the other one at once.
    for own in ["", "INSERT INTO z_parents VALUES(1000, NULL)"] {
        let mut b = Device::new(2, TREE);
        b.run(ON);
        b.run(own);
        assert!(sync(&mut b, &server).turns > 3);
        assert_eq!(b.get::<i64>("SELECT count(*) FROM a_children"), 101_000);
        assert_eq!(waiting(&b).len(), 1, "{:?}", &waiting(&b)[..3]);
        assert!(waiting(&b)[0].contains("FOREIGN KEY constraint failed"));
        assert_eq!(b.rows("PRAGMA foreign_key_check").len(), 0);
        // The parent of the last one comes.
        server.run("INSERT INTO z_parents VALUES(-1, NULL)");
        sync(&mut b, &server);
        assert_eq!(waiting(&b).len(), 0);
        assert_eq!(b.dump("a_children"), server.rows("SELECT * FROM a_children"));
        assert_eq!(b.dump("z_parents").len(), server.rows("SELECT * FROM z_parents").len());
        assert!(!b.replica.has_unsent().unwrap());
        server.run("DELETE FROM z_parents WHERE id = -1");
    }
}

#[test]
fn children_of_orphans_wait_with_them_and_rows_of_this_device_stay() {
    let schema = "CREATE TABLE a(id TEXT PRIMARY KEY NOT NULL, b REFERENCES b ON DELETE CASCADE);
        CREATE TABLE b(id TEXT PRIMARY KEY NOT NULL, c REFERENCES c DEFERRABLE INITIALLY DEFERRED, up REFERENCES b);
        CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL);";
    let server = Server::new(&plain(schema));
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    b.run(ON);
    b.run("INSERT INTO c VALUES('own'); INSERT INTO b VALUES('own', 'own', 'own'); INSERT INTO a VALUES('own', 'own')");
    sync(&mut b, &server);
    a.run(
        "INSERT INTO a VALUES('1', 'x'), ('2', 'y'), ('3', 'good'), ('4', NULL);
           INSERT INTO b VALUES('x', 'none', NULL), ('y', NULL, 'x'), ('good', 'c', 'good');
           INSERT INTO c VALUES('c')",
    );
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!(waiting(&b).len(), 4, "{:?}", waiting(&b));
    assert_eq!(b.dump("a"), ["'3','good'", "'4',NULL", "'own','own'"]);
    assert_eq!(b.dump("b"), ["'good','c','good'", "'own','own','own'"]);
    assert_eq!(b.rows("PRAGMA foreign_key_check").len(), 0);
    a.run("INSERT INTO c VALUES('none')");
    sync(&mut a, &server);
    assert_settled(&server, &mut [&mut a, &mut b], &["a", "b", "c"]);
}

#[test]
fn an_orphan_outside_of_a_filter_waits_as_any_other() {
    let schema = "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES parents);";
    let server = Server::new(&plain(schema));
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    b.run(ON);
    b.replica.set_filter("children", "id = 'inside'").unwrap();
    sync(&mut b, &server);
    a.run("INSERT INTO children VALUES('inside', 'late'), ('outside', 'late')");
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!((waiting(&b).len(), b.dump("children").len()), (2, 0), "{:?}", waiting(&b));
    a.run("INSERT INTO parents VALUES('late')");
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!(waiting(&b), [""; 0]);
    assert_eq!(b.dump("children"), ["'inside','late'", "'outside','late'"]);
}

/// A cascade takes a row out that is outside of a filter, which nobody hears of. Others bring it again, under the clock that it
/// got here.
#[test]
fn an_orphan_that_was_written_here_and_comes_again_waits_as_any_other() {
    let schema = "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES parents ON DELETE CASCADE, v, w);
        CREATE TABLE toys(id TEXT PRIMARY KEY NOT NULL, child TEXT REFERENCES children ON DELETE CASCADE, v, w);";
    let server = Server::new(&plain(schema));
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    b.run(ON);
    b.run(
        "INSERT INTO parents VALUES('p'); INSERT INTO children VALUES('c', 'p', 1, 1);
         INSERT INTO toys VALUES('t', 'c', 1, 1)",
    );
    assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children", "toys"]);
    b.replica.set_filter("children", "0").unwrap();
    b.replica.set_filter("toys", "0").unwrap();
    a.run("DELETE FROM parents");
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!((b.dump("children"), b.dump("toys")), (vec![], vec![]));
    let clocks = "SELECT count(*) FROM cloudsync_clocks";
    let orphans = "SELECT count(*) FROM cloudsync_quarantine WHERE reason LIKE '%the parent in%'";
    let known: i64 = b.get(clocks);
    a.run("UPDATE children SET v = 2; UPDATE toys SET v = 2");
    sync(&mut a, &server);
    for step in 0..3 {
        // What changed comes first, and then the rest of the rows.
        sync(&mut b, &server);
        sync(&mut b, &server);
        assert_eq!((b.dump("children"), b.dump("toys")), (vec![], vec![]), "{:?}", waiting(&b));
        assert_eq!(b.get::<i64>(orphans), 2, "{:?}", waiting(&b));
        assert_eq!(b.get::<i64>(clocks), if step < 2 { known } else { known - 2 });
        match step {
            0 => {
                b.replica.clear_filter("children").unwrap();
                b.replica.clear_filter("toys").unwrap();
            }
            // Nothing is known of the rows of tables that are made again.
            1 => {
                b.run("DROP TABLE toys; DROP TABLE children");
                b.run(schema.split_once(';').unwrap().1);
            }
            _ => {}
        }
    }
    a.run("INSERT INTO parents VALUES('p')");
    assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children", "toys"]);
    assert_eq!((waiting(&b), b.dump("toys")), (vec![], vec!["'t','c',2,1".to_owned()]));
}

#[test]
fn a_row_that_moves_to_an_orphan_stays_where_it_was_until_the_orphan_may_stay() {
    // Tables travel in the order of their names: the child comes before its parent, and after it.
    for child in ["a", "z"] {
        let schema = format!(
            "CREATE TABLE {child}(id TEXT PRIMARY KEY NOT NULL, b REFERENCES b ON DELETE CASCADE, v);
            CREATE TABLE b(id TEXT PRIMARY KEY NOT NULL, c REFERENCES c);
            CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL);"
        );
        let server = Server::new(&plain(&schema));
        let (mut a, mut b) = (Device::new(1, &schema), Device::new(2, &schema));
        b.run(ON);
        a.run(&format!(
            "INSERT INTO c VALUES('c'); INSERT INTO b VALUES('good', 'c');
            INSERT INTO {child} VALUES('moves', 'good', 1), ('dies', 'good', 1), ('stays', 'good', 1)"
        ));
        assert_settled(&server, &mut [&mut a, &mut b], &[child, "b", "c"]);
        a.run(&format!("DELETE FROM {child} WHERE id = 'dies'"));
        assert_settled(&server, &mut [&mut a, &mut b], &[child]);
        let tombstone = "SELECT count(*) FROM cloudsync_clocks";
        let known: i64 = b.get(tombstone);
        a.run(&format!(
            "INSERT INTO b VALUES('x', 'none'); UPDATE {child} SET b = 'x' WHERE id = 'moves';
            INSERT INTO {child} VALUES('dies', 'x', 2); UPDATE {child} SET v = 2 WHERE id = 'stays'"
        ));
        sync(&mut a, &server);
        sync(&mut b, &server);
        assert_eq!(b.dump(child), ["'moves','good',1", "'stays','good',2"], "{child}: {:?}", waiting(&b));
        assert_eq!(waiting(&b).len(), 3, "{child}: {:?}", waiting(&b));
        assert_eq!(b.get::<i64>(tombstone), known, "{child}: a deletion is not forgotten");
        a.run("INSERT INTO c VALUES('none')");
        sync(&mut a, &server);
        assert_settled(&server, &mut [&mut a, &mut b], &[child, "b", "c"]);
        assert_eq!(waiting(&b).len(), 0);
    }
}

/// A parent that `a` deletes has a child on `b` that `a` never saw.
fn deleted_elsewhere(action: &str) -> (Server, Device, Device) {
    let schema = format!(
        "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);
         CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p TEXT DEFAULT 'other' REFERENCES parents {action});"
    );
    let server = Server::new(&plain(&schema));
    let (mut a, mut b) = (Device::new(1, &schema), Device::new(2, &schema));
    a.run(ON);
    b.run(ON);
    a.run("INSERT INTO parents VALUES('p'), ('other'); INSERT INTO children VALUES('seen', 'p')");
    assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children"]);
    a.run("DELETE FROM children; DELETE FROM parents WHERE id = 'p'");
    sync(&mut a, &server);
    b.run("INSERT INTO children VALUES('unseen', 'p')");
    sync(&mut b, &server);
    (server, a, b)
}

#[test]
fn children_that_the_author_of_a_deletion_did_not_know_go_as_their_foreign_key_says() {
    let cases = [
        ("ON DELETE CASCADE", &[][..]),
        ("ON DELETE SET NULL", &["'unseen',NULL"]),
        ("ON DELETE SET DEFAULT", &["'unseen','other'"]),
        ("ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED", &[]),
    ];
    for (action, children) in cases {
        let (server, mut a, mut b) = deleted_elsewhere(action);
        assert_eq!(b.dump("parents"), ["'other'"], "{action}");
        assert_eq!(b.dump("children"), children, "{action}");
        assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children"]);
        assert_eq!(a.dump("children"), children, "it was sent: {action}");
    }
}

#[test]
fn a_deletion_that_a_foreign_key_refuses_waits_until_the_children_are_gone() {
    for action in ["", "ON DELETE RESTRICT", "ON DELETE NO ACTION"] {
        let (server, mut a, mut b) = deleted_elsewhere(action);
        assert_eq!(b.dump("parents"), ["'other'", "'p'"], "{action}");
        assert_eq!(b.dump("children"), ["'unseen','p'"]);
        assert!(waiting(&b)[0].contains("FOREIGN KEY constraint failed: rows of"), "{:?}", waiting(&b));
        b.run("DELETE FROM children");
        sync(&mut b, &server);
        assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children"]);
        assert_eq!(b.dump("parents"), ["'other'"]);
    }
}

#[test]
fn deletions_of_parents_before_those_of_their_children_are_no_writes_of_ours() {
    let schema = "CREATE TABLE a_parents(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE b_children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES a_parents);
        CREATE TABLE c_children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES a_parents ON DELETE CASCADE);";
    let server = Server::new(&plain(schema));
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    a.run(ON);
    b.run(ON);
    a.run(
        "INSERT INTO a_parents VALUES('p'), ('q'); INSERT INTO b_children VALUES('1', 'p'), ('2', 'q');
           INSERT INTO c_children VALUES('1', 'p'), ('moved', 'p')",
    );
    assert_settled(&server, &mut [&mut a, &mut b], &["a_parents", "b_children", "c_children"]);
    a.run(
        "UPDATE c_children SET p = 'q' WHERE id = 'moved'; DELETE FROM b_children WHERE id = '1';
           DELETE FROM a_parents WHERE id = 'p'",
    );
    sync(&mut a, &server);
    let version = b.replica.version().unwrap();
    sync(&mut b, &server);
    assert_eq!(b.dump("c_children"), ["'moved','q'"]);
    let local = format!("SELECT count(*) FROM cloudsync_versions WHERE origin = -1 AND version > {version}");
    assert_eq!(b.get::<i64>(&local), 0);
    assert_settled(&server, &mut [&mut a, &mut b], &["a_parents", "b_children", "c_children"]);
}

#[test]
fn cascades_go_down_the_generations_and_into_tables_that_do_not_sync() {
    let schema = "CREATE TABLE a(id TEXT PRIMARY KEY NOT NULL);
        CREATE TABLE b(id TEXT PRIMARY KEY NOT NULL, a REFERENCES a ON DELETE CASCADE, up REFERENCES b ON DELETE CASCADE);
        CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, b REFERENCES b ON DELETE SET NULL);";
    let server = Server::new(&plain(schema));
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    b.run(ON);
    b.run("CREATE TABLE drafts(text, a REFERENCES a ON DELETE CASCADE)");
    a.run("INSERT INTO a VALUES('1')");
    assert_settled(&server, &mut [&mut a, &mut b], &["a", "b", "c"]);
    a.run("DELETE FROM a");
    sync(&mut a, &server);
    b.run("INSERT INTO b VALUES('1', '1', NULL), ('2', NULL, '1'), ('3', NULL, '2'), ('4', NULL, NULL);
           INSERT INTO c VALUES('1', '3'), ('2', '4'); INSERT INTO drafts VALUES('gone', '1'), ('kept', NULL)");
    // A trigger of the app sees these deletions, as it would see those of SQLite.
    b.run("CREATE TABLE seen(id); CREATE TRIGGER watch AFTER DELETE ON b BEGIN INSERT INTO seen VALUES(OLD.id); END");
    sync(&mut b, &server);
    assert_eq!(b.dump("b"), ["'4',NULL,NULL"]);
    assert_eq!(b.dump("c"), ["'1',NULL", "'2','4'"]);
    assert_eq!(b.dump("drafts"), ["'kept',NULL"]);
    assert_eq!(b.dump("seen"), ["'1'", "'2'", "'3'"]);
    assert_settled(&server, &mut [&mut a, &mut b], &["a", "b", "c"]);
}

#[test]
fn the_server_keeps_the_foreign_keys_of_its_owner() {
    let schema = |action: &str| {
        format!(
            "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);
             CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES parents {action});"
        )
    };
    let device = plain(&schema(""));
    for (action, children, rejected) in
        [("ON DELETE CASCADE", &[][..], 0), ("ON DELETE SET NULL", &["'1',NULL"], 0), ("", &["'1','p'"], 1)]
    {
        let server = Server::new(&schema(action));
        let (mut a, mut b) = (Device::new(1, &device), Device::new(2, &device));
        a.run("INSERT INTO parents VALUES('p')");
        b.run("INSERT INTO parents VALUES('p'); INSERT INTO children VALUES('1', 'p')");
        sync(&mut a, &server);
        sync(&mut b, &server);
        a.run("DELETE FROM parents");
        assert_eq!(sync(&mut a, &server).rejected, rejected, "{action}");
        assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children"]);
        assert_eq!(a.dump("children"), children, "{action}");
        assert_eq!(a.dump("parents").len() as u64, rejected);
        assert_eq!(server.rows("PRAGMA foreign_key_check").len(), 0);
    }
}

#[test]
fn children_of_a_row_that_is_taken_back_go_as_their_foreign_key_says() {
    let device = "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL, v);
        CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p REFERENCES parents ON DELETE CASCADE);";
    // The server knows nothing of the foreign key, and takes the child.
    let server = Server::new(
        "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL, v CHECK(v > 0));
         CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p);",
    );
    let (mut a, mut b) = (Device::new(1, device), Device::new(2, device));
    a.run(ON);
    a.run("INSERT INTO parents VALUES('bad', -1); INSERT INTO children VALUES('1', 'bad')");
    assert_eq!(sync(&mut a, &server).rejected, 1);
    assert_eq!((a.dump("parents").len(), a.dump("children").len()), (0, 0));
    assert_settled(&server, &mut [&mut a, &mut b], &["parents", "children"]);
}

/// A turn that brings nothing tries what waits, too, and SQLite's own foreign keys must not meet it.
#[test]
fn what_waits_is_tried_again_by_a_turn_that_brings_nothing() {
    const PULL: Goal = Goal { push: false, pull: true };
    let schema = TREE.replace("z_parents, v", "z_parents DEFERRABLE INITIALLY DEFERRED, v");
    let server = Server::new(&plain(&schema));
    let (mut a, mut b) = (Device::new(1, &schema), Device::new(2, &schema));
    b.run(ON);
    a.run("INSERT INTO a_children VALUES(1, 1, 'orphan')");
    sync(&mut a, &server);
    sync(&mut b, &server);
    sync_as(&mut b, &server, &KEY, PULL, &mut |_| false);
    assert_eq!(waiting(&b).len(), 1);
    b.run("INSERT INTO z_parents VALUES(2, NULL)");
    sync_as(&mut b, &server, &KEY, PULL, &mut |_| false);
    assert_eq!(waiting(&b).len(), 1);
    b.run("INSERT INTO z_parents VALUES(1, NULL)");
    sync_as(&mut b, &server, &KEY, PULL, &mut |_| false);
    assert_settled(&server, &mut [&mut a, &mut b], &["a_children", "z_parents"]);
    assert_eq!(b.dump("a_children"), ["1,1,'orphan'"]);
}

/// What an app writes between the chunks of its first download exists when the next chunk comes: it is given no other parent
/// while it is open who stays, and a first download forgets at each chunk who was an orphan.
#[test]
fn a_row_that_an_app_writes_between_the_chunks_of_a_first_download_gets_its_later_parent() {
    const PULL: Goal = Goal { push: false, pull: true };
    // Tables travel in the order in which they were made; large values fill a chunk.
    let large = |name: &str| format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY NOT NULL, v);");
    let families = "CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES parents, v);";
    let parents = "CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);";
    // The parent comes with its child, in the last chunk or in one before it; or in a later one.
    let orders = [
        [&*large("first"), families, parents, &large("later")],
        [&large("first"), &large("later"), families, parents],
        [&large("first"), families, &large("later"), parents],
    ];
    for schema in orders.map(|order| order.concat()) {
        let server = Server::new(&plain(&schema));
        let (mut a, mut b) = (Device::new(1, &schema), Device::new(2, &schema));
        b.run(ON);
        let fill = "SELECT value, randomblob(300000) FROM json_each('[1, 2, 3, 4, 5]')";
        a.run(&format!(
            "INSERT INTO first {fill}; INSERT INTO later {fill};
             INSERT INTO parents VALUES('x'); INSERT INTO children VALUES('a child', 'x', 1)"
        ));
        sync(&mut a, &server);
        let request = b.replica.prepare(PULL, false).unwrap();
        let request = Request::decode(&request).unwrap();
        let answer = server.store.turn(&request, &KEY, b.world.now.get()).unwrap();
        let Answer::Turn(turn) = Answer::decode(&answer).unwrap() else { panic!("refused") };
        assert!(b.replica.absorb(&turn).unwrap().more);
        assert_eq!(b.get::<i64>("SELECT (SELECT count(*) FROM first) BETWEEN 1 AND 4"), 1);
        b.run_at(NOW, "INSERT INTO parents VALUES('own'); INSERT INTO children VALUES('moves', 'own', 1)");
        a.run_at(NOW + 1_000, "INSERT INTO children VALUES('moves', 'x', 2)");
        sync(&mut a, &server);
        sync_as(&mut b, &server, &KEY, PULL, &mut |_| false);
        assert_eq!(b.dump("children"), ["'a child','x',1", "'moves','x',2"], "{schema}");
        assert_settled(&server, &mut [&mut a, &mut b], &["children", "parents"]);
    }
}
