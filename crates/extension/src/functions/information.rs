//! What is going on.

use crate::connection_string::ConnectionString;
use crate::error::Result;
use crate::functions::{Call, auto};
use cloudsync_sqlite_ffi::Output;
use serde_json::{Value as Json, json};

pub(super) fn version(_call: &Call<'_>) -> Result<Output> {
    Ok(Output::from(env!("CARGO_PKG_VERSION")))
}

pub(super) fn siteid(call: &Call<'_>) -> Result<Output> {
    Ok(Output::from(call.replica()?.site_id()?.0.to_vec()))
}

pub(super) fn db_version(call: &Call<'_>) -> Result<Output> {
    // Versions are bounded far below the largest integer of SQL.
    Ok(Output::Integer(i64::try_from(call.replica()?.version()?).unwrap_or(i64::MAX)))
}

pub(super) fn uuid(call: &Call<'_>) -> Result<Output> {
    Ok(Output::from(call.state().next_uuid()))
}

pub(super) fn status(call: &Call<'_>) -> Result<Output> {
    let mut replica = call.replica()?;
    let mut status = replica.status()?;
    if let Json::Object(fields) = &mut status {
        fields.insert("library_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        fields.insert("auto".to_owned(), auto::describe(call, &replica)?);
        fields.insert("warnings".to_owned(), json!(warnings(replica.server()?.as_deref())));
    }
    Ok(Output::from(status.to_string()))
}

pub(super) fn pk_decode(call: &Call<'_>) -> Result<Output> {
    let pk = call.blob(0, "a key as BLOB, such as cloudsync_quarantine.pk")?;
    let index = usize::try_from(call.count(1, u64::from(u16::MAX))?).unwrap_or(usize::MAX);
    Ok(cloudsync_replica::pk_decode(pk, index)?.unwrap_or(Output::Null))
}

/// What is dangerous in the settings of the network.
pub(super) fn warnings(server: Option<&str>) -> Vec<String> {
    let address = server.and_then(|server| ConnectionString::parse(server).ok()).map(|parsed| parsed.address);
    let exposed = address.filter(|address| address.is_exposed()).map(|address| {
        format!("plain HTTP to {} shows the key and the data to the network: use https://", address.server())
    });
    exposed.into_iter().collect()
}
