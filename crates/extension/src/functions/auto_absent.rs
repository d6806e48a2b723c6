//! Automatic sync in a library that was built without network: there is none.

use crate::error::Result;
use crate::functions::Call;
use crate::net::NetError;
use cloudsync_replica::Replica;
use cloudsync_sqlite_ffi::Output;
use serde_json::{Value as Json, json};

pub(super) fn switch(_call: &Call<'_>) -> Result<Output> {
    Err(NetError::NotBuilt.into())
}

pub(super) fn resume(_call: &Call<'_>, _replica: &Replica) -> Result<()> {
    Ok(())
}

pub(super) fn describe(_call: &Call<'_>, _replica: &Replica) -> Result<Json> {
    Ok(json!({ "on": false, "state": "off" }))
}

pub(super) fn last_report(_call: &Call<'_>) -> Option<String> {
    None
}

pub(super) fn forget(_call: &Call<'_>, _replica: &mut Replica) -> Result<()> {
    Ok(())
}

pub(super) fn release(_call: &Call<'_>) {}

pub(super) fn end(_call: &Call<'_>) {}
