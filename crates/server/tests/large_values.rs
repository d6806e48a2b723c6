//! Rows whose values are larger than a chunk: they travel in pieces, go on where they stopped, and never mix versions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;

use bench::{Device, Folder, NOW};
use cloudsync_protocol::limits::{CHUNK_BYTES_TARGET, PIECES_MS_MAX, ROW_BYTES_MAX, TURN_CHUNK_BYTES_MAX};
use cloudsync_protocol::message::{Answer, Request};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::{Replica, Zstd};
use cloudsync_server::store::Store;
use rusqlite::types::Value;
use server::{BOTH, KEY, Server, sync, sync_losing};

const FILES: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v);";
const MIB: usize = 1 << 20;

/// Bytes that do not compress, and differ from seed to seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next()).collect();
    out.truncate(bytes);
    out
}

/// Text of several scripts, with NUL in it.
fn text(seed: u64, bytes: usize) -> String {
    let signs = ['a', '\u{e4}', '\u{20ac}', '\u{1f600}', '\0', 'z'];
    let mut text = String::new();
    noise(seed, bytes).iter().for_each(|byte| text.push(signs[usize::from(*byte) % signs.len()]));
    text
}

fn content(sql: &rusqlite::Connection, table: &str) -> Vec<Vec<Value>> {
    let mut select = sql.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
    let columns = select.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|i| row.get(i)).collect();
    select.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn put(device: &Device, id: &str, value: impl Into<Value>) {
    let sql = "INSERT INTO t(id, v) VALUES(?1, ?2) ON CONFLICT(id) DO UPDATE SET v = excluded.v";
    device.sql.execute(sql, (id, value.into())).unwrap();
}

/// Everybody has the same rows, nothing waits, and no pieces are left over.
#[track_caller]
fn assert_even(server: &Server, devices: &mut [&mut Device], table: &str) {
    for _ in 0..2 {
        for device in &mut *devices {
            sync(device, server);
        }
    }
    let expected = content(&server.shell(), table);
    let sums = |rows: &[Vec<Value>]| -> Vec<String> {
        rows.iter().map(|row| format!("{:.80}", format!("{row:?}"))).collect()
    };
    for device in devices {
        let found = content(&device.sql, table);
        assert!(found == expected, "{:?} is not {:?}", sums(&found), sums(&expected));
        assert!(!device.replica.has_unsent().unwrap());
        assert_eq!(pieces(&device.sql), 0);
        assert_eq!(device.quarantine(), 0);
        device.check();
    }
    assert_eq!(pieces(&server.shell()), 0);
}

fn pieces(sql: &rusqlite::Connection) -> i64 {
    let count = "SELECT (SELECT count(*) FROM cloudsync_pieces) + (SELECT count(*) FROM cloudsync_held)";
    sql.query_row(count, [], |row| row.get(0)).unwrap()
}

/// One turn of a sync that is broken off after it.
fn turn(device: &mut Device, server: &Server) -> bool {
    let request = device.replica.prepare(BOTH, false).unwrap();
    let request = Request::decode(&request).unwrap();
    assert!(request.upload.as_ref().is_none_or(|upload| upload.payload.len() <= TURN_CHUNK_BYTES_MAX));
    let answer = server.store.turn(&request, &KEY, device.world.now.get()).unwrap();
    match Answer::decode(&answer).unwrap() {
        Answer::Turn(turn) => {
            assert!(turn.payload.len() <= TURN_CHUNK_BYTES_MAX);
            device.replica.absorb(&turn).unwrap().more
        }
        Answer::Refusal(refusal) => {
            device.replica.mend(&refusal).unwrap();
            true
        }
    }
}

#[test]
fn every_kind_of_table_takes_large_values() {
    let schemas = [
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v)",
        "CREATE TABLE t(v, n DEFAULT 7, w, id TEXT PRIMARY KEY NOT NULL)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY NOT NULL, v BLOB, n)",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v) WITHOUT ROWID",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v CHECK(typeof(v) <> 'blob' OR length(v) = 0 OR v <> zeroblob(length(v))))",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v UNIQUE)",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v, l INTEGER AS (length(v)) STORED)",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, rowid, _rowid_, oid, v)",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, rowid, n, v)",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n TEXT, v TEXT)",
    ];
    for schema in schemas {
        let server = Server::new(schema);
        let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
        for (id, bytes) in [("1", 3 * MIB + 5), ("2", ROW_BYTES_MAX + 1), ("3", ROW_BYTES_MAX), ("4", 0)] {
            put(&a, id, noise(bytes as u64 + 1, bytes));
        }
        put(&a, "5", text(5, 400_000));
        assert!(sync(&mut a, &server).turns > 4, "{schema}");
        sync(&mut b, &server);
        assert_eq!(content(&b.sql, "t"), content(&a.sql, "t"), "{schema}");
        put(&b, "1", text(6, 600_000));
        put(&b, "5", noise(7, 2 * MIB));
        put(&b, "3", Value::Null);
        put(&a, "2", noise(8, 2 * MIB));
        sync(&mut b, &server);
        assert_even(&server, &mut [&mut a, &mut b], "t");
        assert_eq!(a.clocks("t"), b.clocks("t"));
    }
}

#[test]
fn a_row_of_several_large_values_comes_whole() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b, c, d, e, v)";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    let values: (Vec<u8>, String, i64, Vec<u8>, String) =
        (noise(1, MIB + 3), text(2, 300_000), 5, noise(3, 200_000), text(4, 10));
    a.sql
        .execute("INSERT INTO t(id, a, b, c, d, e) VALUES('x', ?1, ?2, ?3, ?4, ?5)", values.clone())
        .unwrap();
    // Together too large, though each alone is small.
    let many: Vec<_> = (0..5).map(|seed| noise(seed, 150_000)).collect();
    a.sql
        .execute("INSERT INTO t VALUES('y', ?1, ?2, ?3, ?4, ?5, 1)", rusqlite::params_from_iter(&many))
        .unwrap();
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_even(&server, &mut [&mut a, &mut b], "t");
    assert_eq!(b.get::<Vec<u8>>("SELECT a FROM t WHERE id = 'x'"), values.0);
    // One of them changes: the others do not travel again.
    b.sql.execute("UPDATE t SET d = ?1 WHERE id = 'x'", [noise(9, 100_000)]).unwrap();
    assert_eq!(sync(&mut b, &server).turns, 1);
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn both_sides_may_be_killed_at_any_chunk() {
    let folder = Folder::new();
    let mut server = Server::new(FILES);
    let (a, b) = (folder.file("a.db"), folder.file("b.db"));
    for (seed, path) in [(1, &a), (2, &b)] {
        let mut device = Device::open(path, seed);
        device.run(FILES);
        device.init_all();
        sync(&mut device, &server);
    }
    let value = noise(1, 5 * MIB + 77);
    put(&Device::open(&a, 1), "x", value.clone());
    for (path, seed) in [(&a, 10), (&b, 20)] {
        let mut turns = 0;
        // Opened anew for each turn, and so is the server.
        loop {
            let mut device = Device::open(path, seed + turns);
            turns += 1;
            let more = turn(&mut device, &server);
            server.restart();
            if !more {
                break;
            }
        }
        assert!(turns <= 7, "each chunk travels once, and a round may end behind the row: {turns}");
    }
    let (mut a, mut b) = (Device::open(&a, 3), Device::open(&b, 4));
    assert_eq!(b.get::<Vec<u8>>("SELECT v FROM t"), value);
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn lost_answers_cost_one_chunk_each() {
    let server = Server::new(FILES);
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, FILES));
    put(&a, "x", noise(1, 4 * MIB));
    put(&a, "y", noise(2, 10));
    assert!(sync_losing(&mut a, &server, &mut |turn| turn % 2 == 0 && turn < 8).turns <= 6);
    assert!(sync_losing(&mut b, &server, &mut |turn| turn % 2 == 0 && turn < 8).turns <= 6);
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn a_value_that_changes_on_its_way_begins_anew_and_is_never_mixed() {
    let server = Server::new(FILES);
    let (mut a, mut b, mut c) = (Device::new(1, FILES), Device::new(2, FILES), Device::new(3, FILES));
    put(&b, "w", noise(1, 10));
    sync(&mut b, &server);
    sync(&mut c, &server);
    sync(&mut a, &server);
    for (seed, bytes) in [(3, 3 * MIB), (4, 2 * MIB + 1), (5, 30)] {
        put(&a, "x", noise(2, 3 * MIB));
        // Upwards.
        assert!(turn(&mut a, &server) && turn(&mut a, &server));
        let newer = noise(seed, bytes);
        put(&a, "x", newer.clone());
        sync(&mut a, &server);
        // Downwards: b is on its way when the value changes on the server.
        if bytes > MIB {
            assert!(turn(&mut b, &server));
        }
        let newest = noise(seed + 10, bytes);
        sync(&mut c, &server);
        assert_eq!(c.get::<Vec<u8>>("SELECT v FROM t WHERE id = 'x'"), newer);
        put(&c, "x", newest.clone());
        sync(&mut c, &server);
        sync(&mut b, &server);
        assert_eq!(b.get::<Vec<u8>>("SELECT v FROM t WHERE id = 'x'"), newest);
        assert_even(&server, &mut [&mut a, &mut b, &mut c], "t");
        a.world.now.set(a.world.now.get() + 1_000);
        c.world.now.set(a.world.now.get() + 500);
        b.world.now.set(a.world.now.get());
    }
}

#[test]
fn a_small_value_of_the_row_that_changes_does_not_stop_the_large_one() {
    let server = Server::new(FILES);
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, FILES));
    put(&a, "x", noise(1, 4 * MIB));
    for n in 0..4 {
        assert!(turn(&mut a, &server));
        a.sql.execute("UPDATE t SET n = ?1", [n]).unwrap();
    }
    // The last chunk, and the changes since.
    assert!(sync(&mut a, &server).turns <= 2);
    let mut turns = 0;
    while turn(&mut b, &server) {
        turns += 1;
        a.sql.execute("UPDATE t SET n = n + 1", []).unwrap();
        sync(&mut a, &server);
    }
    assert!(turns <= 5, "{turns}");
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn values_that_changed_behind_the_triggers_make_no_mixture() {
    let server = Server::new(FILES);
    let mut a = Device::new(1, FILES);
    put(&a, "x", noise(1, 3 * MIB));
    assert!(turn(&mut a, &server) && turn(&mut a, &server));
    // Under the clock that it has.
    let other = noise(2, 3 * MIB);
    a.replica.connection().set_triggers_enabled(false).unwrap();
    put(&a, "x", other.clone());
    a.replica.connection().set_triggers_enabled(true).unwrap();
    sync(&mut a, &server);
    assert_even(&server, &mut [&mut a], "t");
    assert_eq!(a.get::<Vec<u8>>("SELECT v FROM t"), other);
}

#[test]
fn equal_values_and_repeated_downloads_change_nothing() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, n)";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    for id in ["1", "2", "3"] {
        put(&a, id, noise(1, 2 * MIB - 9));
    }
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_even(&server, &mut [&mut a, &mut b], "t");
    for device in [&mut a, &mut b] {
        let before = device.clocks("t");
        device.replica.reset_sync().unwrap();
        sync(device, &server);
        assert_eq!(device.clocks("t"), before);
    }
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

/// Two copies of one file went on under the same clocks: the larger value wins everywhere.
#[test]
fn ties_between_large_values_end_in_the_same_one() {
    for (of_a, of_b, winner) in [
        (noise(1, 2 * MIB), noise(2, 2 * MIB), None),
        (vec![5; 2 * MIB], vec![5; 2 * MIB + 1], Some("b")),
        (vec![5; 2 * MIB], vec![9], Some("b")),
        (vec![5; 2 * MIB], vec![], Some("a")),
    ] {
        let devices = [(of_a, 1), (of_b, 1)].map(|(value, seed)| {
            let device = Device::new(seed, FILES);
            device.sql.execute("INSERT INTO t(id, v) VALUES('x', ?1)", [value]).unwrap();
            device.run(&format!("UPDATE cloudsync_log SET at = {NOW}"));
            device
        });
        let [mut a, mut b] = devices;
        let (of_a, of_b) = (all_chunks(&mut a.replica), all_chunks(&mut b.replica));
        for chunk in &of_b {
            a.apply(chunk).unwrap();
        }
        for chunk in &of_a {
            b.apply(chunk).unwrap();
        }
        let found = content(&a.sql, "t");
        assert!(found == content(&b.sql, "t"), "{winner:?}");
        let of = |name| if name == "a" { 2 * MIB } else { found_len(&found) };
        assert!(winner.is_none_or(|name| found_len(&found) == of(name)));
    }
}

fn found_len(rows: &[Vec<Value>]) -> usize {
    match &rows[0][2] {
        Value::Blob(blob) => blob.len(),
        other => panic!("{other:?}"),
    }
}

fn all_chunks(replica: &mut Replica) -> Vec<Vec<u8>> {
    let mut chunks = replica.chunks_after(0).unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next(replica).unwrap() {
        all.push(chunk.payload);
    }
    all
}

#[test]
fn by_hand_chunks_wait_for_their_row_and_nothing_else_is_taken() {
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, FILES));
    put(&a, "1", noise(1, 2 * MIB + 7));
    put(&a, "2", noise(1, 2 * MIB + 7));
    put(&a, "3", text(1, 400_000));
    let chunks = all_chunks(&mut a.replica);
    assert!(chunks.len() >= 4);
    for chunk in &chunks {
        assert!(Opened::open(chunk, &Zstd).unwrap().raw_bytes() <= CHUNK_BYTES_TARGET + ROW_BYTES_MAX);
    }
    let error = chunks.iter().rev().find_map(|chunk| b.apply(chunk).err()).unwrap();
    assert!(error.to_string().contains("pieces of its large values are missing"), "{error}");
    for chunk in &chunks {
        b.apply(chunk).unwrap();
    }
    assert_eq!(content(&b.sql, "t"), content(&a.sql, "t"));
    assert_eq!(pieces(&b.sql), 0);
    // One payload of its own holds it as well, while it fits.
    let mut c = Device::new(3, FILES);
    let whole = a.encode();
    c.apply(&whole).unwrap();
    assert_eq!(content(&c.sql, "t"), content(&a.sql, "t"));
    // What came without its row goes after a while.
    let mut d = Device::new(4, FILES);
    d.apply(&chunks[0]).unwrap();
    assert!(pieces(&d.sql) > 0);
    d.world.now.set(NOW + PIECES_MS_MAX + 1);
    d.replica.forget_pieces().unwrap();
    assert_eq!(pieces(&d.sql), 0);
}

#[test]
fn a_file_with_a_row_leaves_the_pieces_of_a_download_that_has_half_of_it() {
    let server = Server::new(FILES);
    let mut a = Device::new(1, FILES);
    put(&a, "1", noise(1, 2 * MIB + 7));
    sync(&mut a, &server);
    // The first download shows progress, so its pieces are there before their row is.
    let mut b = Device::new(2, FILES);
    assert!(turn(&mut b, &server));
    assert!(pieces(&b.sql) > 0);
    for chunk in all_chunks(&mut a.replica) {
        b.apply(&chunk).unwrap();
    }
    assert_eq!(content(&b.sql, "t"), content(&a.sql, "t"));
    while turn(&mut b, &server) {}
    assert_even(&server, &mut [&mut a, &mut b], "t");
    // And the other way round.
    let mut c = Device::new(3, FILES);
    let chunks = all_chunks(&mut a.replica);
    c.apply(&chunks[0]).unwrap();
    while turn(&mut c, &server) {}
    for chunk in &chunks[1..] {
        c.apply(chunk).unwrap();
    }
    assert_even(&server, &mut [&mut a, &mut c], "t");
}

#[test]
fn a_round_that_had_arrived_before_its_row_grew_leaves_nothing_in_the_middle_of_it() {
    let server = Server::new(FILES);
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, FILES));
    put(&a, "1", "small".to_owned());
    sync(&mut a, &server);
    put(&a, "1", "still small".to_owned());
    let request = a.replica.prepare(BOTH, false).unwrap();
    // The answer is lost.
    server.store.turn(&Request::decode(&request).unwrap(), &KEY, a.world.now.get()).unwrap();
    put(&a, "1", noise(1, 2 * MIB + 7));
    sync(&mut a, &server);
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

/// Checks a slice, if there is anything to check; gives the rows that were damaged.
fn check(device: &mut Device, server: &Server) -> Option<u64> {
    let request = device.replica.prepare_check(BOTH).unwrap()?;
    let request = Request::decode(&request).unwrap();
    let answer = server.store.turn(&request, &KEY, device.world.now.get()).unwrap();
    match Answer::decode(&answer).unwrap() {
        Answer::Turn(turn) => Some(device.replica.absorb(&turn).unwrap().rows_repaired),
        Answer::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

#[test]
fn a_table_of_large_rows_that_was_emptied_unseen_is_fetched_once() {
    let server = Server::new(FILES);
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, FILES));
    (0..5).for_each(|i| put(&a, &i.to_string(), noise(i, ROW_BYTES_MAX + 1)));
    put(&a, "small", "text".to_owned());
    sync(&mut a, &server);
    sync(&mut b, &server);
    b.run_unseen("DELETE FROM t");
    // The first of the large ones asks for all of them.
    assert_eq!(check(&mut b, &server), Some(6));
    while turn(&mut b, &server) {}
    assert_eq!(check(&mut b, &server), Some(0));
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn a_large_row_that_waits_keeps_its_pieces() {
    let server = Server::new(FILES);
    let strict = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n UNIQUE, v);";
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, strict));
    b.run("INSERT INTO t VALUES('own', 1, 'b')");
    a.sql.execute("INSERT INTO t VALUES('x', 1, ?1)", [noise(1, 2 * MIB)]).unwrap();
    a.sql.execute("INSERT INTO t VALUES('y', 2, ?1)", [noise(2, 2 * MIB)]).unwrap();
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!(b.quarantine(), 1);
    assert!(pieces(&b.sql) > 0);
    assert_eq!(b.get::<i64>("SELECT count(*) FROM t"), 2);
    sync(&mut b, &server);
    b.run("UPDATE t SET n = 3 WHERE id = 'own'");
    sync(&mut b, &server);
    assert_even(&server, &mut [&mut a, &mut b], "t");
    // After a logout nothing is left of either.
    b.run("UPDATE t SET n = 5 WHERE id = 'x'; UPDATE t SET n = 1 WHERE id = 'own'");
    sync(&mut b, &server);
    a.sql.execute("UPDATE t SET n = 1, v = ?1 WHERE id = 'y'", [noise(3, 2 * MIB)]).unwrap();
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!(b.quarantine(), 1);
    b.replica.logout(true).unwrap();
    assert_eq!(pieces(&b.sql), 0);
}

#[test]
fn a_large_row_that_the_server_refuses_is_undone_and_kept_aside() {
    let server = Server::new("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n CHECK(n IS NOT 13), v);");
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, FILES));
    let value = noise(1, 2 * MIB);
    a.sql.execute("INSERT INTO t VALUES('x', 1, ?1)", [&value]).unwrap();
    sync(&mut a, &server);
    a.sql.execute("UPDATE t SET n = 13, v = ?1 WHERE id = 'x'", [noise(2, 3 * MIB)]).unwrap();
    a.sql.execute("INSERT INTO t VALUES('y', 13, ?1)", [noise(3, 3 * MIB)]).unwrap();
    assert_eq!(sync(&mut a, &server).rejected, 2);
    assert_eq!(a.get::<i64>("SELECT count(*) FROM cloudsync_rejected WHERE length(change) > 3000000"), 2);
    sync(&mut a, &server);
    assert_eq!(a.get::<Vec<u8>>("SELECT v FROM t"), value, "what the server has came back");
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn the_larger_part_of_a_row_may_have_been_written_elsewhere_meanwhile() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, w, n)";
    let server = Server::new(schema);
    let (mut a, mut b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES('x', 1, 2, 3)");
    sync(&mut a, &server);
    sync(&mut b, &server);
    // Neither has seen the other's v; w is of b alone.
    a.sql.execute("UPDATE t SET v = ?1, n = 4", [noise(1, 2 * MIB)]).unwrap();
    let (v, w) = (noise(2, 2 * MIB), noise(3, MIB));
    b.sql.execute("UPDATE t SET v = ?1, w = ?2", (&v, &w)).unwrap();
    b.run(&format!("UPDATE cloudsync_log SET at = {}", NOW + 1_000));
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_even(&server, &mut [&mut a, &mut b], "t");
    assert_eq!((a.get::<Vec<u8>>("SELECT v FROM t"), a.get::<Vec<u8>>("SELECT w FROM t")), (v, w));
    let lost =
        "SELECT count(*) FROM cloudsync_conflicts WHERE col_name = 'v' AND length(col_value) = 2097152";
    assert_eq!(a.get::<i64>(lost), 1);
}

#[test]
fn large_values_of_rows_that_died_come_back_with_them() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v)";
    let (mut a, mut b) = (Device::empty(1), Device::empty(2));
    for device in [&mut a, &mut b] {
        device.run(schema);
        device.init_all_as("aws");
    }
    let value = noise(1, 2 * MIB);
    put(&a, "x", value.clone());
    for chunk in all_chunks(&mut a.replica) {
        b.apply(&chunk).unwrap();
    }
    // Deleted on one device, written on the other one at the same time.
    a.run("DELETE FROM t");
    b.world.now.set(NOW + 1_000);
    b.run("UPDATE t SET n = 1");
    b.run(&format!("UPDATE cloudsync_log SET at = {}", NOW + 1_000));
    let (of_a, of_b) = (all_chunks(&mut a.replica), all_chunks(&mut b.replica));
    let mut c = Device::empty(3);
    c.run(schema);
    c.init_all_as("aws");
    let take = |device: &mut Device, chunks: &[Vec<u8>]| {
        for chunk in chunks {
            device.apply(chunk).unwrap();
        }
    };
    take(&mut c, &of_a);
    take(&mut c, &of_b);
    take(&mut b, &of_a);
    take(&mut a, &of_b);
    for device in [&a, &b, &c] {
        assert_eq!(content(&device.sql, "t").len(), 1);
        assert_eq!(device.get::<Vec<u8>>("SELECT v FROM t"), value);
    }
}

#[test]
fn a_search_index_of_the_app_sees_the_whole_text() {
    let watched = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n, v); CREATE TABLE seen(bytes, sum);
        CREATE TRIGGER see AFTER INSERT ON t BEGIN
            INSERT INTO seen VALUES(length(NEW.v), instr(NEW.v, x'616263'));
        END;";
    let server = Server::new(FILES);
    let (mut a, mut b) = (Device::new(1, FILES), Device::new(2, watched));
    let mut value = vec![0; 2 * MIB];
    value.extend(b"abc");
    put(&a, "x", value);
    sync(&mut a, &server);
    sync(&mut b, &server);
    assert_eq!(b.rows("SELECT * FROM seen"), [format!("{},{}", 2 * MIB + 3, 2 * MIB + 1)]);
    assert_even(&server, &mut [&mut a, &mut b], "t");
}

#[test]
fn a_utf16_database_sends_and_takes_the_same_text() {
    let server = Server::new(FILES);
    let (mut a, mut b) = (Device::empty(1), Device::new(2, FILES));
    a.run("PRAGMA encoding = 'UTF-16le'");
    a.run(FILES);
    a.init_all();
    put(&a, "x", text(1, 700_000).replace('\0', "-"));
    put(&b, "y", text(2, 700_000).replace('\0', "-"));
    for _ in 0..2 {
        sync(&mut a, &server);
        sync(&mut b, &server);
    }
    assert_even(&server, &mut [&mut a, &mut b], "t");
}
