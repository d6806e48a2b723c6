//! A site belongs to the user whose token it synced with, and everybody does what they may.

use crate::device::{Device, TITLE, snapshot};
use crate::subject::{READER, Subject, WRITER, ask, ask_as};
use cloudsync_protocol::message::{Reason, Request};
use cloudsync_server::auth::User;
use cloudsync_server::store::{Asker, Rights};
use std::sync::Arc;

for_every_store!(
    a_site_stays_with_its_user_until_it_logs_out,
    a_key_and_a_token_do_not_take_each_others_sites,
    a_change_of_user_is_seen_before_anything_else,
    who_may_not_read_may_still_send,
    who_may_not_read_receives_nothing_for_a_round_that_comes_again,
);

pub(crate) fn user(id: &str) -> Asker {
    let user = User { id: id.to_owned(), claims: serde_json::Map::new() };
    Asker { rights: Rights { read: true, write: true, schema: true }, user: Some(Arc::new(user)) }
}

fn a_site_stays_with_its_user_until_it_logs_out(subject: &dyn Subject) {
    let mut device = Device::new(1);
    device.insert("k", "title", "body");
    device.absorb(&ask_as(subject.store(), &device.introduction(), user("alice")).took());
    device.update("k", TITLE, "of alice, unsent");
    let before = snapshot(subject);
    ask_as(subject.store(), &device.round(), user("bob")).refused(Reason::PrincipalChanged);
    ask_as(subject.store(), &device.request(), user("bob")).refused(Reason::PrincipalChanged);
    assert_eq!(snapshot(subject), before);
    // Other claims of the same user are no change of user.
    let took = ask_as(subject.store(), &device.round(), user("alice")).took();
    device.absorb(&took);
    // Who has logged out has another site id.
    let mut after = Device::new(2);
    after.insert("l", "title", "body");
    ask_as(subject.store(), &after.introduction(), user("bob")).took();
}

fn a_key_and_a_token_do_not_take_each_others_sites(subject: &dyn Subject) {
    let (mut by_key, mut by_token) = (Device::new(1), Device::new(2));
    by_key.insert("k", "title", "body");
    by_token.insert("l", "title", "body");
    by_key.absorb(&ask(subject.store(), &by_key.introduction()).took());
    by_key.sync(subject);
    by_token.absorb(&ask_as(subject.store(), &by_token.introduction(), user("alice")).took());
    ask_as(subject.store(), &by_key.request(), user("alice")).refused(Reason::PrincipalChanged);
    ask(subject.store(), &by_token.request()).refused(Reason::PrincipalChanged);
    // Two keys are one owner.
    ask_as(subject.store(), &by_key.request(), READER).took();
}

fn a_change_of_user_is_seen_before_anything_else(subject: &dyn Subject) {
    let mut device = Device::new(1);
    device.insert("k", "title", "body");
    device.absorb(&ask_as(subject.store(), &device.introduction(), user("alice")).took());
    // Whatever else is wrong with the request, and whatever it holds.
    let round = device.round();
    for request in [
        Request { now: 0, ..round.clone() },
        Request { nonce: round.nonce + 7, ..round.clone() },
        Request { cursor: 77, ..round.clone() },
        Request { fingerprint: 7, ..round },
    ] {
        ask_as(subject.store(), &request, user("bob")).refused(Reason::PrincipalChanged);
    }
}

fn who_may_not_read_may_still_send(subject: &dyn Subject) {
    let sender = Rights { read: false, write: true, schema: true };
    let mut device = Device::new(1);
    device.insert("k", "title", "body");
    let introduction = device.introduction();
    ask_as(subject.store(), &introduction, sender).refused(Reason::Denied);
    let greeted = ask_as(subject.store(), &Request { pull: false, ..introduction }, sender).took();
    assert!(greeted.payload.is_empty());
    let pushed = ask_as(subject.store(), &Request { pull: false, ..device.round() }, sender).took();
    assert!(pushed.accepted.unwrap().committed && pushed.payload.is_empty());
    let mut reader = Device::new(2);
    reader.absorb(&ask_as(subject.store(), &reader.introduction(), WRITER).took());
    assert_eq!(reader.show(), device.show());
}

fn who_may_not_read_receives_nothing_for_a_round_that_comes_again(subject: &dyn Subject) {
    let sender = Rights { read: false, write: true, schema: true };
    let (mut owner, mut device) = (Device::new(1), Device::new(2));
    owner.insert("k", "title", "body");
    owner.sync(subject);
    device.insert("l", "title", "body");
    let round = device.round();
    ask_as(subject.store(), &Request { pull: false, ..round.clone() }, sender).took();
    ask_as(subject.store(), &round, sender).refused(Reason::Denied);
    let again = ask_as(subject.store(), &Request { pull: false, ..round }, sender).took();
    assert!(again.is_repeated() && again.payload.is_empty());
}
