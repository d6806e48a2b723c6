//! What a store takes over from devices, and what it refuses.

use crate::device::{Device, column, key, notes, snapshot};
use crate::subject::{ADMIN, READER, Subject, WRITER, ask, ask_as};
use cloudsync_protocol::message::{Reason, Request};
use cloudsync_protocol::schema::{Schema, TableSchema};

for_every_store!(
    an_unknown_schema_is_asked_for_once,
    a_claimed_fingerprint_is_not_believed,
    a_key_with_the_right_brings_tables,
    a_key_with_the_right_brings_columns,
    a_device_that_repeats_a_round_brings_the_columns_that_it_got_meanwhile,
    a_conflict_names_both_definitions_and_creates_nothing,
    what_differs_but_means_the_same_is_taken,
    a_table_that_is_switched_off_is_refused,
    a_round_that_comes_again_is_refused_while_a_table_is_switched_off,
    a_payload_with_unknown_names_needs_the_schema,
);

fn tasks() -> TableSchema {
    TableSchema { name: "tasks".into(), ..notes() }
}

fn with(device: &Device, tables: Vec<TableSchema>) -> Device {
    let mut device = device.clone();
    device.schema = Schema { tables };
    device
}

/// Whether the table syncs in the store: a key without rights may come with it.
fn has(subject: &dyn Subject, table: TableSchema) -> bool {
    let device = with(&Device::new(0xdd), vec![table]);
    matches!(ask_as(subject.store(), &device.introduction(), READER), crate::subject::Reply::Took(_))
}

fn an_unknown_schema_is_asked_for_once(subject: &dyn Subject) {
    let (mut a, b) = (Device::new(1), Device::new(2));
    ask(subject.store(), &a.request()).refused(Reason::NeedSchema);
    a.insert("k", "title", "body");
    let request = Request { schema: None, ..a.round() };
    ask(subject.store(), &request).refused(Reason::NeedSchema);
    a.sync(subject);
    ask_as(subject.store(), &b.request(), READER).took();
    // When the store learns another table, what it knew of fingerprints is void, not what it has.
    let more = with(&b, vec![notes(), tasks()]);
    ask(subject.store(), &more.introduction()).took();
    ask(subject.store(), &b.request()).refused(Reason::NeedSchema);
    ask_as(subject.store(), &b.introduction(), READER).took();
    ask_as(subject.store(), &b.request(), READER).took();
    ask_as(subject.store(), &more.request(), READER).took();
}

fn a_claimed_fingerprint_is_not_believed(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    let mut other = notes();
    other.columns[2].declared_type = "INTEGER".into();
    let b = with(&Device::new(2), vec![other]);
    // What fits, under the fingerprint of what does not.
    ask(subject.store(), &Request { schema: Some(a.schema.clone()), ..b.request() }).took();
    ask(subject.store(), &b.request()).refused(Reason::NeedSchema);
    ask(subject.store(), &b.introduction()).refused(Reason::SchemaConflict);
}

fn a_key_with_the_right_brings_tables(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    let refusal = ask_as(subject.store(), &a.round(), WRITER).refused(Reason::Denied);
    assert!(refusal.text.contains("notes"), "{}", refusal.text);
    assert!(!has(subject, notes()));
    let took = ask_as(subject.store(), &a.round(), ADMIN).took();
    assert!(took.accepted.unwrap().committed);
    assert!(has(subject, notes()) && !has(subject, tasks()));
    let mut b = Device::new(2);
    b.insert("l", "title", "body");
    assert!(ask_as(subject.store(), &b.round(), WRITER).took().accepted.unwrap().committed);
}

fn a_key_with_the_right_brings_columns(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    let mut wider = notes();
    wider.columns.push(column("colour", "TEXT", 0));
    let b = with(&Device::new(2), vec![wider.clone()]);
    let refusal = ask_as(subject.store(), &b.introduction(), WRITER).refused(Reason::Denied);
    assert!(refusal.text.contains("notes") && refusal.text.contains("colour"), "{}", refusal.text);
    assert!(!has(subject, wider.clone()));
    ask(subject.store(), &b.introduction()).took();
    assert!(has(subject, wider) && has(subject, notes()));
    a.insert("l", "title", "body");
    a.sync(subject);
    assert_eq!(snapshot(subject).0, a.show());
}

fn a_device_that_repeats_a_round_brings_the_columns_that_it_got_meanwhile(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    ask(subject.store(), &a.round()).took();
    // The answer was lost, and the app came to another version before the round was sent again.
    let mut wider = notes();
    wider.columns.push(column("colour", "TEXT", 0));
    let schema = Some(Schema { tables: vec![wider.clone()] });
    let fingerprint = schema.as_ref().unwrap().fingerprint();
    let again = Request { schema, fingerprint, ..a.round() };
    // Who may not bring it hears at least that the round arrived.
    assert!(ask_as(subject.store(), &again, WRITER).took().is_repeated());
    assert!(!has(subject, wider.clone()));
    assert!(ask(subject.store(), &again).took().is_repeated());
    assert!(has(subject, wider));
}

fn a_conflict_names_both_definitions_and_creates_nothing(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    let before = snapshot(subject);
    let mut other = notes();
    other.columns[2].declared_type = "INTEGER".into();
    let mut first = tasks();
    first.name = "before".into();
    let mut b = with(&Device::new(2), vec![first.clone(), other, tasks()]);
    b.insert("l", "title", "body");
    let text = ask(subject.store(), &b.introduction()).refused(Reason::SchemaConflict).text;
    for part in ["notes", "body", "body INTEGER", "body TEXT"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!has(subject, first) && !has(subject, tasks()));
    assert_eq!(snapshot(subject), before);
    let mut other_key = notes();
    (other_key.columns[0].key_place, other_key.columns[1].key_place) = (0, 1);
    let c = with(&Device::new(3), vec![other_key]);
    let text = ask(subject.store(), &c.introduction()).refused(Reason::SchemaConflict).text;
    assert!(text.contains("notes") && text.contains("primary key"), "{text}");
    assert_eq!(a.sync(subject).rows, 0);
}

fn what_differs_but_means_the_same_is_taken(subject: &dyn Subject) {
    Device::new(1).sync(subject);
    let mut same = notes();
    same.columns[1].declared_type = "VARCHAR(20)".into();
    same.columns[2].default = Some("'nothing'".into());
    same.columns.remove(1);
    assert!(has(subject, same));
}

fn a_table_that_is_switched_off_is_refused(subject: &dyn Subject) {
    let mut a = Device::new(1);
    let both = with(&Device::new(2), vec![notes(), tasks()]);
    let only_tasks = with(&Device::new(3), vec![tasks()]);
    a.insert("k", "title", "body");
    a.sync(subject);
    ask(subject.store(), &both.introduction()).took();
    subject.disable("notes");
    ask(subject.store(), &a.request()).refused(Reason::NeedSchema);
    a.update("k", crate::device::TITLE, "unheard");
    for rights in [ADMIN, WRITER, READER] {
        let request = Request { schema: Some(a.schema.clone()), ..a.request() };
        let refusal = ask_as(subject.store(), &request, rights).refused(Reason::Denied);
        assert!(refusal.text.contains("notes"), "{}", refusal.text);
        ask_as(subject.store(), &both.introduction(), rights).refused(Reason::Denied);
    }
    let took = ask(subject.store(), &only_tasks.introduction()).took();
    assert!(took.payload.is_empty(), "rows of a table that is switched off are not sent");
}

/// Its answer brings a download, too: the cursor would go past what the others wrote into the table before.
fn a_round_that_comes_again_is_refused_while_a_table_is_switched_off(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    a.update("k", crate::device::TITLE, "unheard");
    let schema = a.schema.clone();
    let request = a.round();
    ask(subject.store(), &request).took();
    subject.disable("notes");
    ask(subject.store(), &Request { schema: None, ..request.clone() }).refused(Reason::NeedSchema);
    for rights in [ADMIN, WRITER] {
        let request = Request { schema: Some(schema.clone()), ..request.clone() };
        let refusal = ask_as(subject.store(), &request, rights).refused(Reason::Denied);
        assert!(refusal.text.contains("notes"), "{}", refusal.text);
    }
    // Who only wants to know whether it arrived is told.
    let sends = Request { pull: false, schema: None, ..request };
    assert!(ask(subject.store(), &sends).took().accepted.unwrap().repeated);
}

fn a_payload_with_unknown_names_needs_the_schema(subject: &dyn Subject) {
    let mut a = Device::new(1);
    a.insert("k", "title", "body");
    a.sync(subject);
    let before = snapshot(subject);
    // The fingerprint is known, and the payload holds what it does not tell.
    let mut wrong = with(&a, vec![tasks()]);
    wrong.update("k", crate::device::TITLE, "changed");
    let fingerprint = a.schema.fingerprint();
    let text =
        ask(subject.store(), &Request { fingerprint, ..wrong.round() }).refused(Reason::NeedSchema).text;
    assert!(text.contains("tasks"), "{text}");
    let mut wider = notes();
    wider.columns[1].name = "unknown".into();
    let mut wrong = with(&a, vec![wider]);
    wrong.update("k", crate::device::TITLE, "changed");
    let text =
        ask(subject.store(), &Request { fingerprint, ..wrong.round() }).refused(Reason::NeedSchema).text;
    assert!(text.contains("unknown") && text.contains("notes"), "{text}");
    assert_eq!(snapshot(subject), before);
    assert!(before.0.contains_key(&key("k")));
}
