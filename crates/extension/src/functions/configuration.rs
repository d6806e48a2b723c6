//! Which tables sync, and how.

use crate::error::Result;
use crate::functions::{Call, auto, credentials};
use cloudsync_replica::TEXT_SETTINGS;
use cloudsync_sqlite_ffi::Output;

const TABLE: &str = "the name of a table as text";
const SETTING: &str = "the name of a setting as text";

pub(super) fn init(call: &Call<'_>) -> Result<Output> {
    let table = call.text(0, "the name of a table, or '*', as text")?;
    let algorithm = match call.has(1) {
        true => call.text(1, "'cls', 'dws', 'aws' or 'gos'")?,
        false => "cls",
    };
    let flags = if call.has(2) { call.integer(2, "a sum of the flags 1, 2 and 4")? } else { 0 };
    Ok(Output::from(call.replica()?.init(table, algorithm, flags)?.to_string()))
}

pub(super) fn cleanup(call: &Call<'_>) -> Result<Output> {
    call.replica()?.cleanup(call.text(0, "the name of a table, or '*', as text")?)?;
    Ok(Output::Null)
}

pub(super) fn enable(call: &Call<'_>) -> Result<Output> {
    set_enabled(call, true)
}

pub(super) fn disable(call: &Call<'_>) -> Result<Output> {
    set_enabled(call, false)
}

fn set_enabled(call: &Call<'_>, enabled: bool) -> Result<Output> {
    call.replica()?.set_enabled(call.text(0, TABLE)?, enabled)?;
    Ok(Output::Integer(i64::from(enabled)))
}

pub(super) fn is_enabled(call: &Call<'_>) -> Result<Output> {
    let enabled = call.replica()?.is_enabled(call.text(0, TABLE)?)?;
    Ok(Output::Integer(i64::from(enabled)))
}

pub(super) fn begin_alter(call: &Call<'_>) -> Result<Output> {
    Ok(Output::from(call.replica()?.begin_alter(call.text(0, TABLE)?)?))
}

pub(super) fn commit_alter(call: &Call<'_>) -> Result<Output> {
    call.replica()?.commit_alter(call.text(0, TABLE)?)?;
    Ok(Output::Null)
}

pub(super) fn set_filter(call: &Call<'_>) -> Result<Output> {
    call.replica()?.set_filter(call.text(0, TABLE)?, call.text(1, "an SQL expression as text")?)?;
    Ok(Output::Integer(1))
}

pub(super) fn clear_filter(call: &Call<'_>) -> Result<Output> {
    call.replica()?.clear_filter(call.text(0, TABLE)?)?;
    Ok(Output::Integer(1))
}

pub(super) fn set(call: &Call<'_>) -> Result<Output> {
    let key = call.text(0, SETTING)?;
    let is_text = TEXT_SETTINGS.iter().any(|setting| setting.name == key);
    // NULL takes a text away, and is nothing for a number.
    let value = if is_text { call.any(1) } else { call.value(1, "the new value")? };
    #[cfg(feature = "net")]
    if let (true, Some(text)) = (key == "network_ca", value.as_str()) {
        crate::net::read_trust(text).map_err(crate::net::NetError::Authority)?;
    }
    let mut replica = call.replica()?;
    replica.set_setting(key, value)?;
    credentials::store(call, &mut replica)?;
    Ok(Output::Null)
}

pub(super) fn get(call: &Call<'_>) -> Result<Output> {
    Ok(Output::from(call.replica()?.setting(call.text(0, SETTING)?)?))
}

pub(super) fn terminate(call: &Call<'_>) -> Result<Output> {
    call.state().forget_secret();
    auto::release(call);
    Ok(Output::Null)
}
