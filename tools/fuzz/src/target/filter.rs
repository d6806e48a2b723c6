use std::cell::RefCell;

use rusqlite::Connection;

use crate::{device, host};

/// Filters that one device takes before another one takes its place.
const FILTERS: u32 = 200;

thread_local! {
    static USED: RefCell<(u32, Option<Connection>)> = const { RefCell::new((0, None)) };
}

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    USED.with_borrow_mut(|(filters, used)| {
        let db = used.get_or_insert_with(|| device::of_kind(1));
        let before = host::show(db, "SELECT count(*) FROM notes");
        let taken = device::call(db, "SELECT cloudsync_set_filter('notes', ?1)", &&*text);
        // Whatever holds now, the app may write.
        let wrote = "INSERT INTO notes VALUES('new', 'n', 7, NULL); UPDATE notes SET place = place + 10, title = title || 'x' WHERE id <> '1'; DELETE FROM notes WHERE id = 'new'";
        db.execute_batch(wrote).unwrap_or_else(|error| panic!("{text:?} ({taken:?}): {error}"));
        let after = host::show(db, "SELECT count(*) FROM notes");
        assert_eq!(before, after, "a filter takes no rows");
        db.execute_batch("UPDATE notes SET place = rowid, title = substr(title, 1, 5)").unwrap();
        device::encoded(db);
        *filters += 1;
        if filters.is_multiple_of(FILTERS) {
            device::judge(db);
            host::show(db, "SELECT cloudsync_clear_filter('notes')");
            device::takes_what_is_right(db);
            *used = None;
        }
    });
}
