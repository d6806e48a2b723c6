//! What is uploaded reaches the others, merged by the rule of all replicas.

use crate::device::{BODY, Device, TITLE, assert_converged, notes, snapshot};
use crate::subject::{Subject, ask};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::{Reason, Request, Upload};
use cloudsync_protocol::schema::TableSchema;
use std::thread;

for_every_store!(
    a_new_site_polls_an_empty_store,
    an_upload_reaches_others_and_not_its_author,
    a_site_that_asks_gets_its_own_rows_back,
    what_others_brought_of_a_site_comes_back_to_it,
    a_turn_that_does_not_pull_gets_nothing,
    parts_of_rows_are_merged_by_column,
    of_an_unknown_row_of_which_a_part_comes_the_rest_is_asked_for,
    the_later_edit_of_a_cell_wins,
    of_edits_at_one_time_the_larger_site_wins,
    a_deleted_row_is_deleted_everywhere_and_can_come_again,
    a_delete_beats_an_edit_that_did_not_know_it,
    sites_that_upload_at_once_lose_nothing,
);

fn a_new_site_polls_an_empty_store(subject: &dyn Subject) {
    let mut device = Device::new(1);
    let took = ask(subject.store(), &device.introduction()).took();
    assert!(took.drained && took.payload.is_empty() && took.accepted.is_none());
    assert_eq!((took.nonce, took.rows_total), (0, 0));
    assert!(took.cursor > 0 && took.epoch > 0);
    device.absorb(&took);
    assert_eq!(ask(subject.store(), &device.request()).took(), took);
}

fn an_upload_reaches_others_and_not_its_author(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    b.sync(subject);
    a.insert("k", "title", "body");
    let took = ask(subject.store(), &a.round()).took();
    let accepted = took.accepted.unwrap();
    assert!(accepted.committed && accepted.quarantined == 0);
    assert_eq!((took.nonce, took.payload.as_slice()), (1, [].as_slice()));
    a.absorb(&took);
    assert_eq!(a.sync(subject).rows, 0);
    assert_eq!(b.sync(subject).rows, 1);
    assert_eq!((b.show(), b.sync(subject).rows), (a.show(), 0));
    b.update("k", TITLE, "another");
    assert_eq!((b.sync(subject).rows, b.sync(subject).rows), (0, 0));
    assert_eq!(a.sync(subject).rows, 1);
    assert_eq!(a.text("k", TITLE), "another");
    assert_eq!(snapshot(subject).0, a.show());
}

fn a_site_that_asks_gets_its_own_rows_back(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.insert("gone", "", "");
    a.delete("gone");
    a.sync(subject);
    let before = a.show();
    let mut forgetful = Device::new(1);
    (forgetful.epoch, forgetful.nonce) = (a.epoch, a.nonce);
    assert_eq!(forgetful.clone().sync(subject).rows, 0);
    forgetful.echo = true;
    assert_eq!(forgetful.sync(subject).rows, 2);
    assert_eq!(forgetful.show(), before);
}

fn what_others_brought_of_a_site_comes_back_to_it(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.insert("gone", "", "");
    a.delete("gone");
    // It gave them away by file, and lost its power before its first sync.
    ask(subject.store(), &Request { site: SiteId([2; 16]), ..a.round() }).took();
    let mut back = Device::new(1);
    back.insert("l", "title", "body");
    back.sync(subject);
    assert_eq!(back.text("k", TITLE), "title");
    assert_converged(subject, &mut [&mut back]);
}

fn a_turn_that_does_not_pull_gets_nothing(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    b.sync(subject);
    a.insert("k", "title", "body");
    a.sync(subject);
    b.insert("l", "title", "body");
    let took = ask(subject.store(), &Request { pull: false, ..b.round() }).took();
    assert!(took.accepted.unwrap().committed && took.payload.is_empty() && took.drained);
    let took = ask(subject.store(), &Request { pull: false, nonce: took.nonce, ..b.request() }).took();
    assert!(took.payload.is_empty() && took.drained);
    assert!(took.cursor <= b.cursor, "a cursor passes nothing that was not sent");
    b.nonce = took.nonce;
    assert_converged(subject, &mut [&mut a]);
}

fn parts_of_rows_are_merged_by_column(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    a.update("k", TITLE, "by a");
    b.update("k", BODY, "by b");
    a.sync(subject);
    assert_eq!(b.sync(subject).rows, 1);
    assert_eq!(a.sync(subject).rows, 1);
    for device in [&a, &b] {
        assert_eq!((device.text("k", TITLE), device.text("k", BODY)), ("by a".into(), "by b".into()));
    }
    assert_converged(subject, &mut [&mut a, &mut b]);
}

fn of_an_unknown_row_of_which_a_part_comes_the_rest_is_asked_for(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    // It came to b some other way, and a has not synced yet.
    let mut first = Device::new(1);
    first.insert("k", "title", "body");
    let other = crate::subject::Memory::new();
    first.sync(&other);
    b.sync(&other);
    (b.epoch, b.nonce, b.cursor) = (0, 0, 0);
    b.update("k", BODY, "by b");
    b.insert("l", "whole", "row");
    let first = ask(subject.store(), &Request { schema: Some(b.schema.clone()), ..b.round() }).took();
    assert_eq!(first.accepted.unwrap().quarantined, 1);
    assert_eq!(snapshot(subject).0.len(), 1);
    b.absorb(&first);
    assert_eq!(b.sync(subject).quarantined, 0);
    assert_eq!(snapshot(subject).0.len(), 2);
    assert!(b.rejected.is_empty());
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!(a.text("k", BODY), "by b");
}

fn the_later_edit_of_a_cell_wins(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    a.update("k", TITLE, "earlier");
    b.time += 10;
    b.update("k", TITLE, "later");
    b.sync(subject);
    a.sync(subject);
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!(a.text("k", TITLE), "later");
}

fn of_edits_at_one_time_the_larger_site_wins(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.insert("l", "title", "body");
    a.sync(subject);
    b.sync(subject);
    assert_eq!(a.time, b.time);
    a.update("k", TITLE, "smaller");
    b.update("k", TITLE, "larger");
    a.sync(subject);
    b.sync(subject);
    assert_eq!(a.time, b.time);
    a.update("l", TITLE, "smaller");
    b.update("l", TITLE, "larger");
    b.sync(subject);
    a.sync(subject);
    assert_converged(subject, &mut [&mut a, &mut b]);
    assert_eq!((a.text("k", TITLE), a.text("l", TITLE)), ("larger".into(), "larger".into()));
}

fn a_deleted_row_is_deleted_everywhere_and_can_come_again(subject: &dyn Subject) {
    let (mut a, mut b, mut late) = (Device::new(1), Device::new(2), Device::new(3));
    a.insert("k", "title", "body");
    a.sync(subject);
    b.sync(subject);
    b.delete("k");
    b.sync(subject);
    assert_eq!(a.sync(subject).rows, 1);
    assert!(!a.is_alive("k"));
    assert_eq!(
        late.sync(subject).rows,
        1,
        "a tombstone is sent, so that an old copy of the row does not return"
    );
    a.insert("k", "again", "body");
    a.sync(subject);
    b.sync(subject);
    assert_eq!(b.text("k", TITLE), "again");
    b.update("k", BODY, "edited");
    assert_converged(subject, &mut [&mut a, &mut b, &mut late]);
    assert_eq!(late.text("k", BODY), "edited");
}

fn a_delete_beats_an_edit_that_did_not_know_it(subject: &dyn Subject) {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    a.insert("k", "title", "body");
    a.insert("l", "title", "body");
    a.sync(subject);
    b.sync(subject);
    a.delete("k");
    a.delete("l");
    b.time += 100;
    b.update("k", TITLE, "too late");
    a.sync(subject);
    b.sync(subject);
    // Both delete: one tombstone remains, whoever is first.
    let mut c = Device::new(3);
    c.sync(subject);
    assert_converged(subject, &mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.rows(), 0);
}

fn sites_that_upload_at_once_lose_nothing(subject: &dyn Subject) {
    const ROUNDS: usize = 15;
    let run = |number: u8| {
        let mut device = Device::new(number);
        for round in 0..ROUNDS {
            let id = format!("{number}-{round}");
            device.insert(&id, "title", "body");
            if device.is_alive("shared") {
                device.update("shared", TITLE, &id);
            }
            device.sync(subject);
            // Turns that are refused undo nothing of those that are taken beside them.
            let round = device.new_round();
            let upload =
                Upload { round, chunk: 1, is_final: true, continues: false, base: 0, payload: b"damaged" };
            ask(subject.store(), &Request { upload: Some(upload), ..device.request() })
                .refused(Reason::LostChunks);
            let upload =
                Upload { round, chunk: 0, is_final: true, continues: false, base: 0, payload: b"damaged" };
            ask(subject.store(), &Request { upload: Some(upload), ..device.request() })
                .refused(Reason::BadPayload);
            let mut schema = device.schema.clone();
            schema.tables.insert(0, TableSchema { name: format!("before {id}"), ..notes() });
            schema.tables[1].columns[1].declared_type = "INTEGER".into();
            ask(subject.store(), &Request { schema: Some(schema), ..device.request() })
                .refused(Reason::SchemaConflict);
        }
        device
    };
    let mut first = Device::new(9);
    first.insert("shared", "", "");
    first.sync(subject);
    let run = &run;
    let mut devices: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_converged(subject, &mut devices.iter_mut().collect::<Vec<_>>());
    assert_eq!(devices[0].rows(), 4 * ROUNDS + 1);
}
