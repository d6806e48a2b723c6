//! What listeners are told of turns.

use crate::device::Device;
use crate::subject::{Sqlite, Subject};

for_every_store![each_commit_is_told_with_who_brought_it];

fn each_commit_is_told_with_who_brought_it(subject: &dyn Subject) {
    let store = subject.store();
    let (mut one, mut two) = (Device::new(1), Device::new(2));
    let news = || *store.feed().listen().borrow();
    let before = news();
    one.insert("a", "t", "b");
    one.sync(subject);
    let after = news();
    assert!(after.version_for(Some(two.site)) > before.version_for(Some(two.site)));
    assert_eq!(after.version_for(Some(one.site)), before.version_for(Some(one.site)));
    assert_eq!(after.version_for(Some(two.site)), one.cursor, "what is told is a cursor");
    // Turns without changes tell nothing.
    two.sync(subject);
    one.sync(subject);
    assert_eq!(news(), after);
    two.insert("b", "t", "b");
    two.sync(subject);
    assert_eq!(news().version_for(Some(one.site)), two.cursor);
}

#[test]
fn what_a_shell_writes_is_told_when_the_file_is_looked_at() {
    let subject = Sqlite::new();
    let store = subject.store();
    let mut one = Device::new(1);
    one.insert("a", "t", "b");
    one.sync(&subject);
    while store.refresh().unwrap() {}
    let before = store.feed().newest();
    subject.shell().execute("UPDATE notes SET title = 'x'", []).unwrap();
    assert!(store.refresh().unwrap());
    assert!(store.feed().newest() > before);
    assert_eq!(store.feed().listen().borrow().version_for(Some(one.site)), store.feed().newest());
}
