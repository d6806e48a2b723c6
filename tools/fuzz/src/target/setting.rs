use std::cell::RefCell;

use rusqlite::{Connection, OptionalExtension as _};

use crate::{device, host, input};

const KEYS: [&str; 8] = [
    "busy_ms",
    "history_ms",
    "scrub_bytes_max",
    "network_connect_ms",
    "network_request_ms",
    "network_total_ms",
    "network_keep_key",
    "network_ca",
];
/// Executions on one device before another one takes its place.
const EXECUTIONS: u32 = 500;

thread_local! {
    static USED: RefCell<(u32, Option<Connection>)> = const { RefCell::new((0, None)) };
}

/// The choices: which setting, or what else takes a text.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let text = String::from_utf8_lossy(rest);
    USED.with_borrow_mut(|(executions, used)| {
        let db = used.get_or_insert_with(|| device::of_kind(1));
        match usize::from(choices & 15) {
            at if at < KEYS.len() => {
                if device::call(db, &format!("SELECT cloudsync_set('{}', ?1)", KEYS[at]), &&*text).is_ok() {
                    let sql = format!("SELECT cloudsync_get('{}')", KEYS[at]);
                    let given: Option<Option<String>> = db
                        .query_row(&format!("SELECT CAST(({sql}) AS TEXT)"), [], |row| row.get(0))
                        .optional()
                        .unwrap();
                    assert!(given.is_some());
                }
            }
            8 => drop(device::call(db, "SELECT cloudsync_set(?1, 1)", &&*text)),
            9 => drop(device::call(db, "SELECT cloudsync_get(?1)", &&*text)),
            10 => drop(device::call(db, "SELECT cloudsync_pk_decode(?1, 0)", &rest)),
            11 => drop(device::call(db, "SELECT cloudsync_is_enabled(?1)", &&*text)),
            12 => drop(device::call(db, "SELECT cloudsync_init('notes', ?1)", &&*text)),
            13 => drop(device::call(db, "SELECT cloudsync_begin_alter(?1)", &&*text)),
            14 => drop(device::call(db, "SELECT cloudsync_session_answer(?1, x'00')", &&*text)),
            _ => drop(device::call(db, "SELECT cloudsync_network_auto(?1)", &&*text)),
        }
        *executions += 1;
        if executions.is_multiple_of(EXECUTIONS) {
            let _ = host::try_show(db, "SELECT cloudsync_network_auto(0)");
            device::judge(used.as_ref().unwrap());
            *used = None;
        }
    });
}
