//! Random schedules: whatever happens in whatever order, all devices and all stores end with the same rows and clocks.

use crate::device::{BODY, Device, TITLE, assert_converged, snapshot_by};
use crate::subject::{Memory, Sqlite, Subject, ask};
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::message::Request;

const SITES: usize = 4;
const KEYS: usize = 5;
const STEPS: usize = 120;
const SCHEDULES: u64 = 24;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// One step of one device.
fn step(algorithm: Algorithm, subject: &dyn Subject, device: &mut Device, random: &mut Random, label: &str) {
    let id = format!("key {}", random.below(KEYS));
    let column = if random.below(2) == 0 { TITLE } else { BODY };
    match random.below(10) {
        0..=1 if device.is_alive(&id) && algorithm != Algorithm::Gos => device.delete(&id),
        0..=4 if device.is_alive(&id) => device.update(&id, column, label),
        0..=4 => device.insert(&id, label, label),
        5 => device.time += random.below(50) as u64,
        // The answer is lost; the round is repeated at the next turn.
        6 => drop(ask(subject.store(), &device.round()).took()),
        // Everything is fetched again.
        7 => {
            (device.cursor, device.echo) = (0, true);
            device.sync(subject);
        }
        // Only sends.
        8 => {
            let took = ask(subject.store(), &Request { pull: false, ..device.round() }).took();
            let cursor = device.cursor;
            device.absorb(&took);
            device.cursor = cursor;
        }
        _ => {
            device.sync(subject);
        }
    }
}

fn run(algorithm: Algorithm, subject: &dyn Subject, seed: u64) -> Vec<Device> {
    let mut random = Random(seed);
    let mut devices: Vec<_> = (1..=SITES as u8).map(|site| Device::merging_by(algorithm, site)).collect();
    for device in &mut devices {
        device.sync(subject);
    }
    for at in 0..STEPS {
        let site = random.below(SITES);
        step(algorithm, subject, &mut devices[site], &mut random, &format!("{site} at {at}"));
    }
    assert_converged(subject, &mut devices.iter_mut().collect::<Vec<_>>());
    devices
}

#[test]
fn all_stores_end_the_same() {
    for seed in 0..SCHEDULES {
        let algorithm = Algorithm::ALL[seed as usize % Algorithm::ALL.len()];
        let (memory, sqlite) = (Memory::new(), Sqlite::new());
        let left = run(algorithm, &memory, seed);
        let right = run(algorithm, &sqlite, seed);
        for (left, right) in left.iter().zip(&right) {
            assert_eq!(left.show(), right.show(), "seed {seed}");
            assert_eq!(left.nonce, right.nonce, "seed {seed}");
        }
        assert_eq!(snapshot_by(algorithm, &memory).0, snapshot_by(algorithm, &sqlite).0, "seed {seed}");
        let sqlite = sqlite.reopen();
        assert_eq!(snapshot_by(algorithm, &memory).0, snapshot_by(algorithm, &sqlite).0, "seed {seed}");
    }
}
