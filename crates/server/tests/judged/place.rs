//! A server with policies, and devices of users.
#![allow(dead_code)]

use crate::bench::Device;
use crate::server::{Server, Synced, sync_as};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_protocol::verdict::{State, Verdicts};
use cloudsync_server::auth::User;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::change_policies;
use cloudsync_server::store::{Asker, Rights, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const NOT_ALLOWED: &str = "not allowed, or no such row";
pub(crate) const SEND: Goal = Goal { push: true, pull: false };

/// The reason of a verdict, and the key of the row that came with it.
pub(crate) type Told = (String, Option<Vec<u8>>);

pub(crate) struct Place {
    pub(crate) server: Server,
    schema: String,
}

/// Somebody with a token.
pub(crate) fn asker(user: &str) -> Asker {
    asker_with(user, serde_json::json!({}))
}

pub(crate) fn asker_with(user: &str, claims: serde_json::Value) -> Asker {
    let user = User { id: user.to_owned(), claims: claims.as_object().unwrap().clone() };
    Asker { rights: Rights { read: false, write: true, schema: false }, user: Some(Arc::new(user)) }
}

impl Place {
    pub(crate) fn new(schema: &str) -> Self {
        Self { server: Server::in_memory(schema), schema: schema.to_owned() }
    }

    /// A server whose tables merge by this algorithm.
    pub(crate) fn with(schema: &str, algorithm: &str) -> Self {
        Self { server: Server::with(schema, algorithm), schema: schema.to_owned() }
    }

    pub(crate) fn set(&self, table: &str, verb: Verb, text: &str) {
        let wanted = Change { table, verb, text: Some(text), by: "test", now_ms: 1 };
        change_policies(&self.server.path, &[wanted]).unwrap();
    }

    pub(crate) fn device(&self, seed: u64) -> Device {
        self.device_with(seed, &self.schema)
    }

    pub(crate) fn device_with(&self, seed: u64, schema: &str) -> Device {
        Device::new(seed, schema)
    }

    /// Sends what a device has, as a user.
    pub(crate) fn send(&self, device: &mut Device, user: &str) -> Synced {
        self.send_losing(device, user, &mut |_| false)
    }

    pub(crate) fn send_losing(
        &self,
        device: &mut Device,
        user: &str,
        loses: &mut dyn FnMut(usize) -> bool,
    ) -> Synced {
        sync_as(device, &self.server, &asker(user), SEND, loses)
    }

    /// The same for a round of one turn; gives the verdicts as they travel: reason, and the row if it was given.
    pub(crate) fn verdicts(&self, device: &mut Device, user: &str) -> Vec<Told> {
        self.timed(device, user).0
    }

    /// And how long the server took for it.
    pub(crate) fn timed(&self, device: &mut Device, user: &str) -> (Vec<Told>, Duration) {
        self.ask(device, user, false, false)
    }

    /// The same for a round whose batch `continues`, or whose first answer with verdicts is lost.
    pub(crate) fn ask(
        &self,
        device: &mut Device,
        user: &str,
        continues: bool,
        mut loses: bool,
    ) -> (Vec<Told>, Duration) {
        let mut schema = false;
        loop {
            let request = device.replica.prepare(SEND, schema).unwrap();
            let mut request = Request::decode(&request).unwrap();
            request.upload.iter_mut().for_each(|upload| upload.continues |= continues);
            let begun = Instant::now();
            let answer = self.server.store.turn(&request, &asker(user), device.world.now.get()).unwrap();
            let took = begun.elapsed();
            let turn = match Answer::decode(&answer).unwrap() {
                Answer::Turn(turn) => turn,
                Answer::Refusal(refusal) if refusal.reason == Reason::NeedSchema => {
                    schema = true;
                    continue;
                }
                Answer::Refusal(refusal) => panic!("{refusal:?}"),
            };
            let told = if turn.verdicts.is_empty() {
                Vec::new()
            } else {
                let verdicts = Verdicts::decode(turn.verdicts).unwrap();
                let told = verdicts.list.iter();
                told.map(|verdict| {
                    let given = (verdict.state == State::Given).then(|| verdict.key.to_vec());
                    (verdict.reason.to_owned(), given)
                })
                .collect()
            };
            if loses && !turn.verdicts.is_empty() {
                loses = false;
                self.server.run("DELETE FROM grants");
                continue;
            }
            let more = device.replica.absorb(&turn).unwrap().more;
            if !more || continues || !told.is_empty() {
                return (told, took);
            }
            schema = false;
        }
    }

    /// Why a round is refused as a whole.
    pub(crate) fn refusal(&self, device: &mut Device, user: &str) -> String {
        let mut schema = false;
        loop {
            let request = device.replica.prepare(SEND, schema).unwrap();
            let request = Request::decode(&request).unwrap();
            let answer = self.server.store.turn(&request, &asker(user), device.world.now.get()).unwrap();
            match Answer::decode(&answer).unwrap() {
                Answer::Turn(turn) => assert!(device.replica.absorb(&turn).unwrap().more),
                Answer::Refusal(refusal) if refusal.reason == Reason::NeedSchema => schema = true,
                Answer::Refusal(refusal) => return refusal.text,
            }
        }
    }

    /// Table, key and reason of what a device was refused.
    pub(crate) fn rejected(&self, device: &Device) -> Vec<String> {
        let sql = "SELECT tbl || ' ' || coalesce(json_extract(\"row\", '$.id'), '?') || ': ' || reason FROM cloudsync_rejected ORDER BY 1";
        device.column(sql)
    }
}
