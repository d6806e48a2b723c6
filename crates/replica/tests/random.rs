//! Three devices write at random and exchange payloads at random; in the end all agree.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, sync_by_payload};
use proptest::prelude::*;

const SCHEMA: &str =
    "CREATE TABLE plain(k COLLATE NOCASE, l, a, b TEXT COLLATE NOCASE, c, PRIMARY KEY(l, k));
    CREATE TABLE strict_one(id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT) STRICT;
    PRAGMA recursive_triggers = OFF";

#[derive(Debug, Clone)]
enum Step {
    Write {
        device: usize,
        sql: String,
    },
    Send {
        from: usize,
        to: usize,
    },
    SendSince {
        from: usize,
        to: usize,
        back: u64,
    },
    InTransaction {
        device: usize,
        sql: String,
        commit: bool,
    },
    Fold {
        device: usize,
    },
    /// The column comes behind our back, on each device at another time.
    Grow {
        device: usize,
    },
    WriteGrown {
        device: usize,
        sql: String,
    },
}

fn literal() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["1", "1.0", "'a'", "'A'", "x'61'", "NULL", "''", "0.5", "'b'", "-9"])
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["1", "1.0", "'a'", "'A'", "'b'"])
}

fn plain() -> impl Strategy<Value = String> {
    let verb = prop::sample::select(vec!["INSERT OR IGNORE", "INSERT OR REPLACE", "REPLACE"]);
    let or = prop::sample::select(vec!["OR IGNORE", "OR REPLACE"]);
    prop_oneof![
        (verb, key(), literal(), literal())
            .prop_map(|(verb, k, a, b)| format!("{verb} INTO plain(k, l, a, b) VALUES({k}, 1, {a}, {b})")),
        (key(), literal()).prop_map(|(k, v)| format!("UPDATE plain SET a = {v} WHERE k = {k}")),
        (key(), literal()).prop_map(|(k, v)| format!("UPDATE plain SET b = {v}, c = {v} WHERE k = {k}")),
        literal().prop_map(|v| format!("UPDATE plain SET c = {v}")),
        key().prop_map(|k| format!("DELETE FROM plain WHERE k = {k}")),
        (or, key(), key())
            .prop_map(|(or, from, to)| format!("UPDATE {or} plain SET k = {to} WHERE k = {from}")),
        key()
            .prop_map(|k| format!("DELETE FROM plain WHERE k = {k}; INSERT INTO plain(k, l) VALUES({k}, 1)")),
    ]
}

fn grown() -> impl Strategy<Value = String> {
    prop_oneof![
        (key(), literal()).prop_map(|(k, v)| format!("UPDATE plain SET e = {v} WHERE k = {k}")),
        (key(), literal()).prop_map(|(k, v)| format!("UPDATE plain SET e = {v}, a = {v} WHERE k = {k}")),
        (key(), literal())
            .prop_map(|(k, v)| format!("INSERT OR REPLACE INTO plain(k, l, e) VALUES({k}, 1, {v})")),
    ]
}

fn unique() -> impl Strategy<Value = String> {
    let text = || prop::sample::select(vec!["'x'", "'y'", "'z'", "NULL"]);
    prop_oneof![
        (1..5u8, text())
            .prop_map(|(id, u)| format!("INSERT OR REPLACE INTO strict_one VALUES({id}, {u}, 'v')")),
        (1..5u8, text())
            .prop_map(|(id, u)| format!("UPDATE OR REPLACE strict_one SET u = {u} WHERE id = {id}")),
        (1..5u8, text())
            .prop_map(|(id, u)| format!("UPDATE OR IGNORE strict_one SET u = {u}, v = {u} WHERE id = {id}")),
        (1..5u8).prop_map(|id| format!("DELETE FROM strict_one WHERE id = {id}")),
        (1..5u8, 1..5u8)
            .prop_map(|(id, to)| format!("UPDATE OR REPLACE strict_one SET id = {to} WHERE id = {id}")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sql = || prop_oneof![3 => plain().boxed(), 1 => unique().boxed()];
    prop_oneof![
        6 => (0..3usize, sql()).prop_map(|(device, sql)| Step::Write { device, sql }),
        2 => (0..3usize, 1..3usize).prop_map(|(from, by)| Step::Send { from, to: (from + by) % 3 }),
        1 => (0..3usize, 1..3usize, 0..3u64).prop_map(|(from, by, back)| Step::SendSince { from, to: (from + by) % 3, back }),
        1 => (0..3usize, sql(), any::<bool>()).prop_map(|(device, sql, commit)| Step::InTransaction { device, sql, commit }),
        1 => (0..3usize).prop_map(|device| Step::Fold { device }),
        1 => (0..3usize).prop_map(|device| Step::Grow { device }),
        2 => (0..3usize, grown()).prop_map(|(device, sql)| Step::WriteGrown { device, sql }),
    ]
}

fn has_grown(device: &Device) -> bool {
    device.get("SELECT count(*) FROM pragma_table_info('plain') WHERE name = 'e'")
}

fn grow(device: &Device) {
    if !has_grown(device) {
        device.run("ALTER TABLE plain ADD COLUMN e DEFAULT 'd'");
    }
}

fn perform(devices: &mut [Device; 3], step: &Step, clock: &mut u64) {
    // Few different times, so that many are equal, by clocks that do not agree.
    *clock += 1;
    let time = |device: usize| 1_000 + *clock / 4 + [0, 4, 15][device];
    match step {
        Step::Write { device, sql } => {
            devices[*device].run_at(time(*device), sql);
        }
        Step::InTransaction { device, sql, commit } => {
            devices[*device].run("BEGIN");
            devices[*device].run_at(time(*device), sql);
            devices[*device].replica.fold().unwrap();
            devices[*device].run(if *commit { "COMMIT" } else { "ROLLBACK" });
        }
        Step::Grow { device } => grow(&devices[*device]),
        Step::WriteGrown { device, sql } => {
            if has_grown(&devices[*device]) {
                devices[*device].run_at(time(*device), sql);
            }
        }
        Step::Fold { device } => {
            devices[*device].replica.fold().unwrap();
        }
        Step::Send { from, to } => {
            let payload = devices[*from].encode();
            devices[*to].apply(&payload).unwrap();
        }
        Step::SendSince { from, to, back } => {
            let head = devices[*from].replica.version().unwrap();
            let payload = devices[*from].replica.payload_encode(head.saturating_sub(*back), None).unwrap();
            devices[*to].apply(&payload).unwrap();
        }
    }
}

fn settle(devices: &mut [Device; 3]) {
    for _ in 0..12 {
        let mut came = 0;
        for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
            let [a, b] = devices.get_disjoint_mut([from, to]).unwrap();
            came += sync_by_payload(a, b);
        }
        if came == 0 {
            return;
        }
    }
    panic!("the devices never come to rest");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn devices_that_exchanged_everything_are_equal(
        steps in prop::collection::vec(step(), 1..40),
        algorithm in prop::sample::select(vec!["cls", "cls", "dws", "aws"]),
    ) {
        let mut devices = [1, 2, 3].map(|seed| {
            let mut device = Device::empty(seed);
            device.run(SCHEMA);
            device.init_all_as(algorithm);
            device
        });
        let mut clock = 0;
        steps.iter().for_each(|step| perform(&mut devices, step, &mut clock));
        devices.iter().for_each(grow);
        settle(&mut devices);
        let [a, b, c] = &mut devices;
        for device in [&mut *a, &mut *b, &mut *c] {
            device.check();
            prop_assert_eq!(device.get::<i64>("SELECT count(*) FROM cloudsync_quarantine WHERE tbl = 'plain'"), 0);
            prop_assert_eq!(device.get::<i64>("SELECT count(*) FROM cloudsync_log"), 0);
        }
        prop_assert_eq!(a.dump("plain"), b.dump("plain"));
        prop_assert_eq!(a.dump("plain"), c.dump("plain"));
        prop_assert_eq!(a.clocks("plain"), b.clocks("plain"));
        prop_assert_eq!(a.clocks("plain"), c.clocks("plain"));
        // Of rows that collide in a UNIQUE value each device keeps the one it had; without a collision all are equal.
        if a.quarantine() + b.quarantine() + c.quarantine() == 0 {
            prop_assert_eq!(a.dump("strict_one"), b.dump("strict_one"));
            prop_assert_eq!(a.dump("strict_one"), c.dump("strict_one"));
            prop_assert_eq!(a.clocks("strict_one"), b.clocks("strict_one"));
            prop_assert_eq!(a.clocks("strict_one"), c.clocks("strict_one"));
        }
    }
}
