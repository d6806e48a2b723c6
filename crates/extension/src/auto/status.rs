//! What people are told of automatic sync.

use cloudsync_sqlite_ffi::Connection;
use serde_json::{Value as Json, json};

use crate::auto::engine::Doing;
use crate::auto::{FileKey, find};
use crate::calendar::utc;

/// The report, as one object. `interval_ms` is the setting of the file, 0 for off.
pub(crate) fn describe(connection: Connection, interval_ms: u64) -> Json {
    if interval_ms == 0 {
        return json!({ "on": false, "state": "off" });
    }
    let engine = FileKey::of(connection).ok().and_then(|file| find(&file));
    let Some(engine) = engine else {
        return json!({
            "on": true, "interval_ms": interval_ms, "state": "waiting for credentials", "next_try_at": null,
            "last_error": null,
            "remedy": "in this process: set the key with cloudsync_network_set_apikey",
        });
    };
    let (progress, listening) = engine.progress();
    let (state, until_ms) = match progress.doing {
        Doing::Starting => ("starting", None),
        Doing::Idle if listening => ("listening", None),
        Doing::Idle => ("polling", None),
        Doing::Syncing => ("syncing", None),
        Doing::WaitingForCredentials => ("waiting for credentials", None),
        Doing::Offline { until_ms } => ("offline", Some(until_ms)),
        Doing::Failing { until_ms } => ("failing", Some(until_ms)),
    };
    json!({
        "on": true, "interval_ms": interval_ms, "state": state,
        "next_try_at": until_ms.and_then(utc),
        "last_error": progress.last_error, "syncs": progress.syncs,
    })
}

/// The report of the last automatic sync in this process.
pub(crate) fn last_report(connection: Connection) -> Option<String> {
    let engine = FileKey::of(connection).ok().and_then(|file| find(&file))?;
    engine.progress().0.report
}
