use std::cell::RefCell;

use cloudsync::connection_string::{ConnectionString, Secret};
use rusqlite::Connection;

use crate::device;

/// Part of a secret that must not be repeated, in bytes; shorter ones may be there by chance.
const TELLING_BYTES: usize = 12;

thread_local! {
    static DEVICE: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let parsed = ConnectionString::parse(&text);
    match &parsed {
        Ok(ConnectionString { address, apikey }) => {
            let again = ConnectionString::parse(&address.to_string()).unwrap();
            assert_eq!((&again.address, &again.apikey), (address, &None));
            for url in [address.sync_url(), address.events_url()] {
                let uri: axum::http::Uri = url.parse().unwrap();
                assert_eq!(uri.host(), Some(&*bracketed(address.host())));
                assert_eq!(uri.port_u16(), Some(address.port()));
                assert!(uri.path().starts_with(&format!("/v1/databases/{}/", address.database())));
                assert_eq!(uri.scheme_str(), Some(if address.is_plain() { "http" } else { "https" }));
            }
            assert!(!address.is_exposed() || address.to_string().ends_with("?insecure=1"));
            if let Some(key) = apikey {
                assert!(
                    !format!("{parsed:?} {address}").contains(key.expose())
                        || key.expose().len() < TELLING_BYTES
                );
                assert_eq!(Secret::new(key.expose()).as_ref(), Ok(key));
            }
        }
        Err(error) => tells_nothing(&error.to_string(), &text),
    }
    if text.len() > 200 || text.bytes().next().is_some_and(|byte| byte.is_multiple_of(16)) {
        return;
    }
    DEVICE.with_borrow_mut(|db| {
        let db = db.get_or_insert_with(device::empty);
        let taken = device::call(db, "SELECT cloudsync_network_init(?1)", &&*text);
        assert!(parsed.is_ok() || taken.is_err(), "{text:?} is taken by SQL alone");
        if let Err(error) = taken {
            tells_nothing(&error, &text);
        }
        let _ = device::call(db, "SELECT cloudsync_network_set_apikey(?1)", &&*text);
        let _ = device::call(db, "SELECT cloudsync_network_set_token(?1)", &&*text);
    });
}

/// What stands behind '?' may be a key, and is not repeated.
fn tells_nothing(error: &str, text: &str) {
    assert!(!error.is_empty());
    let Some((_, query)) = text.split_once('?') else { return };
    // How a connection string begins, the error says by itself.
    let is_known = |part: &&str| ["cloudsync://", "sqlitecloud://", "https://", "http://"].contains(part);
    let parts = query.split(['&', '=', '#']).filter(|part| part.len() >= TELLING_BYTES && !is_known(part));
    for part in parts {
        assert!(!error.contains(part), "{error:?} repeats a part of {query:?}");
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
