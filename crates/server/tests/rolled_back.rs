//! A device and a server that both went back in time, as by power losses and backups.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;

use bench::{Device, Folder};
use cloudsync_protocol::message::{Answer, Request};
use cloudsync_server::store::Store as _;
use server::{BOTH, KEY, Server, sync};

const NARROW: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v);";
const WIDE: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, w);";

/// Syncs, and has all that is open checked.
fn sync_and_check(device: &mut Device, server: &Server) {
    for _ in 0..4 {
        sync(device, server);
        let Some(request) = device.replica.prepare_check(BOTH).unwrap() else { return };
        let request = Request::decode(&request).unwrap();
        let answer = server.store.turn(&request, &KEY, device.world.now.get()).unwrap();
        let Answer::Turn(turn) = Answer::decode(&answer).unwrap() else { panic!("the check is refused") };
        device.replica.absorb(&turn).unwrap();
    }
}

/// The server goes back to a copy of its file, and learns so from the other device. The first one has lost its last edit
/// of a row that it alone wrote, which the server has.
fn both_go_back(schema: &str) {
    let folder = Folder::new();
    let (path, kept) = (folder.file("a.db"), folder.file("kept.db"));
    let mut server = Server::new(WIDE);
    let mut a = Device::open(&path, 1);
    a.run(schema);
    a.init_all();
    a.run("INSERT INTO t(id, v) VALUES('x', 'first')");
    sync(&mut a, &server);
    std::fs::copy(&path, &kept).unwrap();
    a.run("UPDATE t SET v = 'second'");
    sync(&mut a, &server);
    drop(a);

    let mut b = Device::new(2, WIDE);
    sync(&mut b, &server);
    let copy = folder.file("server.db");
    server.shell().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    b.run("INSERT INTO t(id, v) VALUES('y', 'of b')");
    sync(&mut b, &server);
    server.path = copy;
    server.restart();
    sync(&mut b, &server);

    std::fs::copy(&kept, &path).unwrap();
    let mut a = Device::open(&path, 3);
    sync_and_check(&mut a, &server);
    assert_eq!(server.rows("SELECT id, v FROM t"), ["'x','second'", "'y','of b'"]);
    assert_eq!(a.rows("SELECT id, v FROM t ORDER BY 1"), ["'x','second'", "'y','of b'"]);
    sync_and_check(&mut b, &server);
    assert_eq!(b.rows("SELECT id, v FROM t ORDER BY 1"), ["'x','second'", "'y','of b'"]);
    a.check();
}

#[test]
fn what_a_device_lost_of_its_own_comes_back_from_a_server_that_was_restored() {
    both_go_back(WIDE);
}

#[test]
fn what_a_device_lost_of_its_own_comes_back_where_tables_cannot_be_compared() {
    both_go_back(NARROW);
}
