use crate::{device, host, input, memory};

/// What one payload of at most 64 KiB may hold beside SQLite's own memory.
const HELD_BYTES_MAX: usize = 96 << 20;
const APPLY: &str = "SELECT cloudsync_payload_apply(?1)";

/// The choices: bits 0 and 1 the kind of device, bit 2 whether it is asked within a transaction of the app.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let payload = input::payload(choices, rest);
    let db = device::of_kind(choices & 3);
    // Each copy of a file has a schema of its own number, which is followed whatever comes.
    host::show(&db, "SELECT count(*) FROM cloudsync_changes");
    let before = device::all_rows(&db);
    let in_transaction = choices & 4 != 0;
    if in_transaction {
        db.execute_batch("BEGIN").unwrap();
    }
    let applied = memory::within(HELD_BYTES_MAX, || device::call(&db, APPLY, &payload));
    if in_transaction {
        assert!(!db.is_autocommit(), "the app's transaction is the app's to end");
        db.execute_batch("COMMIT").unwrap();
    }
    match applied {
        Err(text) => assert_eq!(device::all_rows(&db), before, "refused, and left something: {text}"),
        Ok(()) => {
            let own = device::own_rows(&db);
            device::call(&db, APPLY, &payload).unwrap();
            assert_eq!(device::own_rows(&db), own, "the same again changes nothing");
        }
    }
    device::judge(&db);
    device::takes_what_is_right(&db);
}
