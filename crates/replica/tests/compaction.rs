//! The change list does not grow with the number of changes, and nobody misses one.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, assert_same, pair};
use cloudsync_replica::{Extraction, Filter};
use cloudsync_sqlite_ffi::Value;

const SCHEMA: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b, c)";
const HISTORY_MS: u64 = 60_000;
/// Entries that come together before a run begins.
const RUN: i64 = 256;

/// Writes and folds, a second later.
fn write(device: &mut Device, sql: &str) {
    device.world.now.set(device.world.now.get() + 1_000);
    device.run_at(device.world.now.get(), sql);
    device.replica.fold().unwrap();
}

fn pass_history(device: &mut Device) {
    device.world.now.set(device.world.now.get() + 2 * HISTORY_MS);
}

fn device(seed: u64) -> Device {
    let mut device = Device::new(seed, SCHEMA);
    device.replica.set_setting("history_ms", Value::Integer(HISTORY_MS as i64)).unwrap();
    device
}

fn entries(device: &Device) -> i64 {
    device.get("SELECT count(*) FROM cloudsync_entries")
}

#[test]
fn a_row_that_changes_again_and_again_leaves_one_entry() {
    let mut a = device(1);
    write(&mut a, "INSERT INTO t VALUES('1', 0, 0, 0), ('2', 0, 0, 0)");
    for number in 0..700 {
        write(&mut a, &format!("UPDATE t SET a = {number} WHERE id = '1'"));
        if number == 500 {
            write(&mut a, "UPDATE t SET b = 'once' WHERE id = '1'");
        }
    }
    pass_history(&mut a);
    write(&mut a, "UPDATE t SET c = 1 WHERE id = '2'");
    assert!(entries(&a) < RUN + 10, "{}", entries(&a));
    assert!(a.get::<i64>("SELECT count(*) FROM cloudsync_versions") < RUN + 10);
    let mut b = Device::new(2, SCHEMA);
    b.world.now.set(a.world.now.get());
    b.apply(&a.encode()).unwrap();
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn what_is_younger_than_the_horizon_is_told_one_by_one() {
    let mut a = device(1);
    write(&mut a, "INSERT INTO t VALUES('1', 0, 0, 0)");
    let before = entries(&a);
    for number in 1..=40 {
        write(&mut a, &format!("UPDATE t SET a = {number}"));
    }
    assert_eq!(entries(&a), before + 40);
}

#[test]
fn whoever_asks_from_any_version_still_gets_everything_since() {
    let (mut a, mut readers) = (device(1), Vec::new());
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..1_000 {
        let id = draw(40);
        let sql = match draw(5) {
            0 => format!("DELETE FROM t WHERE id = '{id}'"),
            1 => format!("INSERT OR REPLACE INTO t VALUES('{id}', {round}, {round}, {round})"),
            column => {
                format!("UPDATE t SET {} = {round} WHERE id = '{id}'", ["a", "b", "c"][column as usize - 2])
            }
        };
        write(&mut a, &sql);
        if round % 200 == 50 {
            let mut reader = Device::new(100 + round, SCHEMA);
            reader.world.now.set(a.world.now.get());
            reader.apply(&a.encode()).unwrap();
            readers.push((a.replica.version().unwrap(), reader));
        }
    }
    pass_history(&mut a);
    write(&mut a, "UPDATE t SET a = 'last'");
    assert!(entries(&a) < 2 * RUN, "{}", entries(&a));
    for (version, reader) in &mut readers {
        reader.world.now.set(a.world.now.get());
        reader.apply(&a.replica.payload_encode(*version, None).unwrap()).unwrap();
        assert_same(&mut a, reader, "t");
    }
}

#[test]
fn unsent_changes_are_never_touched() {
    let (mut a, _) = pair(SCHEMA);
    a.replica.set_setting("history_ms", Value::Integer(1)).unwrap();
    write(&mut a, "INSERT INTO t VALUES('1', 0, 0, 0)");
    let sent = a.replica.version().unwrap();
    a.replica.set_state_number("sent_version", sent).unwrap();
    for number in 0..300 {
        write(&mut a, &format!("UPDATE t SET a = {number}"));
    }
    assert!(entries(&a) >= 300);
    a.replica.set_state_number("sent_version", a.replica.version().unwrap()).unwrap();
    write(&mut a, "UPDATE t SET b = 1");
    assert!(entries(&a) < 10, "{}", entries(&a));
}

#[test]
fn a_download_on_its_way_goes_on_after_a_run() {
    let mut a = Device::new(1, SCHEMA);
    a.replica.set_setting("history_ms", Value::Integer(1)).unwrap();
    write(&mut a, "INSERT INTO t SELECT value, 0, 0, 0 FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12]')");
    for number in 0..300 {
        write(&mut a, &format!("UPDATE t SET a = {number} WHERE id = '{}'", number % 12));
    }
    // Values so large that every row is a chunk, all in one entry.
    write(&mut a, "UPDATE t SET b = randomblob(300000)");
    let mut b = Device::new(2, SCHEMA);
    b.world.now.set(a.world.now.get() + 10_000_000);
    let mut from = a.replica.position_after(1).unwrap();
    for chunk in 0..100 {
        let last = a.replica.version().unwrap();
        let extraction = Extraction { from, last, filter: Filter::Everything, bytes_target: 200_000 };
        let sent = a.replica.transact(|replica| replica.extract_in_transaction(&extraction)).unwrap();
        if !sent.payload.is_empty() {
            b.apply(&sent.payload).unwrap();
        }
        match sent.next {
            Some(next) => from = next,
            None => {
                assert_same(&mut a, &mut b, "t");
                return;
            }
        }
        if chunk == 3 {
            // Rewrites the entry in which the reader stands.
            for number in 0..600 {
                write(&mut a, &format!("UPDATE t SET b = {number} WHERE id = '3'"));
            }
            b.world.now.set(a.world.now.get() + 10_000_000);
        }
    }
    panic!("the download does not end");
}
