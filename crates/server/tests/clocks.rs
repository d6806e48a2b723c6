//! Devices whose clock is a year ahead or behind, with a real store: they lose nothing and steal nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../replica/tests/bench/mod.rs"]
mod bench;
#[path = "constraints/server.rs"]
mod server;

use bench::{Device, NOW};
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_server::store::Store as _;
use server::{BOTH, KEY, Server};

const SCHEMA: &str = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v);";
const SECOND_MS: u64 = 1_000;
const YEAR_MS: i64 = 365 * 24 * 3_600_000;

/// A device, and how far its clock is off.
struct Wrong {
    device: Device,
    off_ms: i64,
}

impl Wrong {
    fn new(number: u64, off_ms: i64) -> Self {
        Self { device: Device::new(number, SCHEMA), off_ms }
    }

    /// Writes at a true time, under what its clock shows then.
    fn write(&self, seconds: u64, sql: &str) {
        self.device.run_at((NOW + seconds * SECOND_MS).saturating_add_signed(self.off_ms), sql);
    }

    /// Syncs at a true time with a server whose clock is right. Gives the reasons for which turns were refused.
    fn sync(&mut self, seconds: u64, server: &Server) -> Vec<Reason> {
        let now_ms = NOW + seconds * SECOND_MS;
        self.device.world.now.set(now_ms.saturating_add_signed(self.off_ms));
        let mut refused = Vec::new();
        for _ in 0..20 {
            let request =
                self.device.replica.prepare(BOTH, refused.last() == Some(&Reason::NeedSchema)).unwrap();
            let answer = server.store.turn(&Request::decode(&request).unwrap(), &KEY, now_ms).unwrap();
            match Answer::decode(&answer).unwrap() {
                Answer::Turn(turn) if !self.device.replica.absorb(&turn).unwrap().more => return refused,
                Answer::Turn(_) => {}
                Answer::Refusal(refusal) => {
                    refused.push(refusal.reason);
                    if refusal.reason != Reason::NeedSchema {
                        self.device.replica.mend(&refusal).unwrap();
                    }
                }
            }
        }
        panic!("the sync does not come to an end: {refused:?}");
    }
}

#[test]
fn a_clock_that_is_a_year_off_loses_nothing_and_steals_nothing() {
    for off_ms in [YEAR_MS, -YEAR_MS] {
        let server = Server::in_memory(SCHEMA);
        let (mut right, mut wrong) = (Wrong::new(1, 0), Wrong::new(2, off_ms));
        right.write(0, "INSERT INTO t VALUES('early', 'old'), ('late', 'old'), ('gone', 'old')");
        right.sync(1, &server);
        // The first contact of the wrong one brings a row that was written before anybody told it the time.
        wrong.write(2, "INSERT INTO t VALUES('own', 'wrong')");
        assert!(wrong.sync(3, &server).contains(&Reason::ClockSkew), "{off_ms}");
        // Both offline: in one row the right one is later, in the other the wrong one.
        wrong.write(10, "UPDATE t SET v = 'wrong' WHERE id = 'early'");
        right.write(20, "UPDATE t SET v = 'right' WHERE id = 'early'");
        right.write(20, "UPDATE t SET v = 'right' WHERE id = 'late'");
        wrong.write(30, "UPDATE t SET v = 'wrong' WHERE id = 'late'");
        wrong.write(30, "DELETE FROM t WHERE id = 'gone'");
        assert_eq!(wrong.sync(40, &server), [], "it knows by now how far it is off");
        right.sync(41, &server);
        wrong.sync(42, &server);
        let expected = ["'early','right'", "'late','wrong'", "'own','wrong'"];
        for device in [&right.device, &wrong.device] {
            assert_eq!(device.dump("t"), expected, "{off_ms}");
            device.check();
        }
        assert_eq!(server.rows("SELECT * FROM t"), expected);
        // It goes on like any other, also after its clock was put right.
        wrong.off_ms = 0;
        wrong.write(50, "UPDATE t SET v = 'again' WHERE id = 'early'");
        wrong.sync(51, &server);
        right.sync(52, &server);
        assert_eq!(right.device.dump("t")[0], "'early','again'", "{off_ms}");
    }
}
