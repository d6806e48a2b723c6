//! Automatic sync, as SQL switches it and is told of it.

use crate::auto::{self, FileKey, Handle, INTERVAL};
use crate::connection_string::ConnectionString;
use crate::error::{Error, Result};
use crate::functions::{Call, credentials};
use cloudsync_replica::Replica;
use cloudsync_sqlite_ffi::Output;
use serde_json::Value as Json;

/// Longest interval, in milliseconds: a day.
const INTERVAL_MS_MAX: u64 = 86_400_000;

/// `cloudsync_network_auto(interval_ms)`.
pub(super) fn switch(call: &Call<'_>) -> Result<Output> {
    let interval_ms = call.count(0, INTERVAL_MS_MAX)?;
    let mut replica = call.replica()?;
    replica.require_no_transaction()?;
    if interval_ms == 0 {
        keep_interval(&mut replica, 0)?;
        end(call);
        return Ok(Output::Null);
    }
    let file = FileKey::of(call.connection())?;
    if replica.server()?.is_none() {
        return Err(Error::usage(
            "no server is known: call cloudsync_network_init('cloudsync://HOST/DATABASE') first",
        ));
    }
    auto::check(&file, call.connection())?;
    keep_interval(&mut replica, interval_ms)?;
    join(call, &replica, &file)?;
    Ok(Output::Null)
}

/// Goes on with automatic sync when this connection has a key, if the file is to sync by itself.
pub(super) fn resume(call: &Call<'_>, replica: &Replica) -> Result<()> {
    if interval_ms(replica)? == 0 {
        return Ok(());
    }
    join(call, replica, &FileKey::of(call.connection())?)
}

/// What the status says of it.
pub(super) fn describe(call: &Call<'_>, replica: &Replica) -> Result<Json> {
    Ok(auto::describe(call.connection(), interval_ms(replica)?))
}

/// The report of the last automatic sync in this process.
pub(super) fn last_report(call: &Call<'_>) -> Option<String> {
    auto::last_report(call.connection())
}

/// Switches it off for good, without a word if it was not on.
pub(super) fn forget(call: &Call<'_>, replica: &mut Replica) -> Result<()> {
    keep_interval(replica, 0)?;
    end(call);
    Ok(())
}

/// Gives up this connection's wish. Others of this process go on.
pub(super) fn release(call: &Call<'_>) {
    drop(call.state().auto.take());
}

/// Ends it in this process, for all connections. Other processes see it in the file.
pub(super) fn end(call: &Call<'_>) {
    release(call);
    if let Some(engine) = FileKey::of(call.connection()).ok().and_then(|file| auto::find(&file)) {
        engine.stop();
    }
}

/// Makes sure that the threads run, and know this connection's key.
fn join(call: &Call<'_>, replica: &Replica, file: &FileKey) -> Result<()> {
    let mut wish = call.state().auto.borrow_mut();
    let joined = wish.as_ref().is_some_and(Handle::is_good);
    if !joined {
        // language=SQLite
        let foreign_keys = call.connection().query_i64("PRAGMA foreign_keys", &[])? == Some(1);
        *wish = Some(auto::attach(file, foreign_keys)?);
    }
    let Some(server) = replica.server()? else { return Ok(()) };
    let address = ConnectionString::parse(&server)?.address;
    if let (Some(handle), Some(secret)) = (wish.as_ref(), credentials::find(call, replica, &address)?) {
        handle.set_secret(secret, address.origin());
    }
    Ok(())
}

fn interval_ms(replica: &Replica) -> Result<u64> {
    let stored = if replica.exists()? { replica.state_number(INTERVAL)? } else { None };
    Ok(stored.unwrap_or(0).unsigned_abs())
}

fn keep_interval(replica: &mut Replica, ms: u64) -> Result<()> {
    if interval_ms(replica)? == ms {
        return Ok(());
    }
    Ok(replica.transact(|replica| replica.set_state_number(INTERVAL, ms))?)
}
