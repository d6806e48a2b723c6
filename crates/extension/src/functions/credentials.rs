//! The key or token of a connection: in memory, and in the file too where the app asks for that.

use crate::connection_string::{Address, Secret};
use crate::error::Result;
use crate::functions::{Call, Function, Group, auto, network};
use cloudsync_replica::Replica;

/// Takes a key or token. Without `server` it is for the one that is named next.
pub(super) fn set(
    call: &Call<'_>,
    replica: &mut Replica,
    secret: Secret,
    server: Option<&Address>,
) -> Result<()> {
    call.state().keep_secret(secret, server);
    store(call, replica)
}

/// Writes the key of this connection into the file, if the app asked for it and the server is known.
pub(super) fn store(call: &Call<'_>, replica: &mut Replica) -> Result<()> {
    if !replica.keeps_credential()? {
        return Ok(());
    }
    let Some(address) = network::known_address(replica)? else { return Ok(()) };
    match call.state().secret_for(&address) {
        Some(secret) => Ok(replica.keep_credential(&address.origin(), secret.expose())?),
        None => Ok(()),
    }
}

/// The key for a server: this connection's, or that of the file.
pub(super) fn find(call: &Call<'_>, replica: &Replica, address: &Address) -> Result<Option<Secret>> {
    if let Some(secret) = call.state().secret_for(address) {
        return Ok(Some(secret));
    }
    let Some(text) = replica.credential(&address.origin())? else { return Ok(None) };
    Ok(Some(Secret::new(&text)?))
}

/// Goes on with automatic sync in a new process whose file has its key: at the first call of a function that syncs or
/// tells of it.
pub(super) fn wake(call: &Call<'_>, function: &Function) {
    if !matches!(function.group, Group::Network | Group::Information) || call.state().woken.replace(true) {
        return;
    }
    // Whoever calls has another wish; what is wrong with the file is told by what he calls.
    let _ = resume_if_kept(call);
}

fn resume_if_kept(call: &Call<'_>) -> Result<()> {
    let replica = call.replica()?;
    if !replica.keeps_credential()? {
        return Ok(());
    }
    let Some(address) = network::known_address(&replica)? else { return Ok(()) };
    match find(call, &replica, &address)? {
        Some(_) => auto::resume(call, &replica),
        None => Ok(()),
    }
}
