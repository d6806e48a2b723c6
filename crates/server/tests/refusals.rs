//! Random writes of several devices against a server whose table refuses some: all end alike, whatever is refused, lost
//! on the way, or edited meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;

use bench::Device;
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_server::store::Store;
use server::{BOTH, KEY, Server, assert_settled};

const OWNERS: &str = "CREATE TABLE lists(id TEXT PRIMARY KEY NOT NULL, pos INT UNIQUE, n INT CHECK(n < 8));
    CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists, n INT NOT NULL, UNIQUE(list, n));
    CREATE TRIGGER kept BEFORE DELETE ON lists WHEN OLD.n = 7 BEGIN SELECT RAISE(ABORT, 'sevens are kept'); END;";
const APPS: &str = "CREATE TABLE items(id TEXT PRIMARY KEY NOT NULL, list TEXT, n INT);
    CREATE TABLE lists(id TEXT PRIMARY KEY NOT NULL, pos INT, n INT);";
const SEEDS: u64 = 25;

/// A small generator, so that a seed names a run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn write(dice: &mut Dice, device: &Device) {
    for _ in 0..=dice.below(3) {
        let (id, other, n, pos) = (dice.below(5), dice.below(5), dice.below(10), dice.below(6));
        let sql = match dice.below(9) {
            0 => format!("INSERT OR IGNORE INTO lists VALUES('l{id}', {pos}, {n})"),
            1 => format!("REPLACE INTO lists VALUES('l{id}', {pos}, {n})"),
            2 => format!("UPDATE lists SET n = {n} WHERE id = 'l{id}'"),
            3 => format!("UPDATE lists SET pos = {pos} WHERE id = 'l{id}'"),
            4 => format!("DELETE FROM lists WHERE id = 'l{id}'"),
            5 => format!("INSERT OR IGNORE INTO items VALUES('i{id}', 'l{other}', {n})"),
            6 => format!("UPDATE items SET list = 'l{other}', n = nullif({n}, 9) WHERE id = 'i{id}'"),
            7 => format!("DELETE FROM items WHERE id = 'i{id}'"),
            _ => format!("UPDATE lists SET pos = {pos} - pos WHERE pos <= {pos}"),
        };
        device.run(&sql);
    }
}

/// A few turns, of which some answers are lost, and with writes between question and answer.
fn turns(dice: &mut Dice, device: &mut Device, server: &Server) {
    let mut schema = false;
    for _ in 0..=dice.below(3) {
        device.world.now.set(device.world.now.get() + 1 + dice.below(50));
        let request = device.replica.prepare(BOTH, schema).unwrap();
        let request = Request::decode(&request).unwrap();
        let answer = server.store.turn(&request, &KEY, device.world.now.get()).unwrap();
        if dice.below(3) == 0 {
            write(dice, device);
        }
        if dice.below(4) == 0 {
            continue;
        }
        match Answer::decode(&answer).unwrap() {
            Answer::Turn(turn) => {
                device.replica.absorb(&turn).unwrap();
                schema = false;
            }
            Answer::Refusal(refusal) => {
                schema = refusal.reason == Reason::NeedSchema;
                if !schema {
                    device.replica.mend(&refusal).unwrap();
                }
            }
        }
    }
}

/// Gives the number of rows that were refused.
fn run(seed: u64) -> i64 {
    let mut dice = Dice(seed);
    let server = Server::new(OWNERS);
    let mut devices: Vec<_> = (1..=3).map(|number| Device::new(seed * 8 + number, APPS)).collect();
    for _ in 0..12 {
        let at = dice.below(3) as usize;
        write(&mut dice, &devices[at]);
        turns(&mut dice, &mut devices[at], &server);
    }
    let latest = devices.iter().map(|device| device.world.now.get()).max().unwrap();
    devices.iter().for_each(|device| device.world.now.set(latest));
    let [a, b, c] = devices.as_mut_slice() else { unreachable!() };
    assert_settled(&server, &mut [a, b, c], &["lists", "items"]);
    for table in ["lists", "items"] {
        assert_eq!(a.clocks(table), b.clocks(table), "seed {seed}");
        assert_eq!(b.clocks(table), c.clocks(table), "seed {seed}");
    }
    assert_eq!(server.rows("PRAGMA foreign_key_check").len(), 0);
    [a, b, c].iter().map(|device| device.get::<i64>("SELECT count(*) FROM cloudsync_rejected")).sum()
}

#[test]
fn whatever_is_refused_all_end_alike() {
    let mut refused = 0;
    for seed in 1..=SEEDS {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(rows) => refused += rows,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(refused > SEEDS as i64, "{refused} rows were refused");
}
