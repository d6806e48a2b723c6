//! Syncing with a server.

use crate::calendar::utc;
use crate::connection_string::{Address, ConnectionString, Secret};
use crate::error::{Error, Result};
use crate::functions::{Call, auto, credentials, information};
use crate::net::{Round, Transport, drive};
use cloudsync_protocol::client::{Goal, Retry, Session};
use cloudsync_replica::Replica;
use cloudsync_sqlite_ffi::{Output, bindings};
use serde_json::{Value as Json, json};

/// Longest pause between attempts, in milliseconds.
const WAIT_MS_MAX: u64 = 600_000;
/// Most further attempts.
const RETRIES_MAX: u64 = 1_000;

const BOTH: Goal = Goal { push: true, pull: true };
const PUSH: Goal = Goal { push: true, pull: false };
const PULL: Goal = Goal { push: false, pull: true };

pub(super) fn init(call: &Call<'_>) -> Result<Output> {
    let text = call.text(0, "a connection string as text: 'cloudsync://HOST/DATABASE'")?;
    let ConnectionString { address, apikey } = ConnectionString::parse(text)?;
    let mut replica = call.replica()?;
    replica.set_server(&address.to_string())?;
    if let Some(apikey) = apikey {
        call.state().keep_secret(apikey, Some(&address));
    }
    // A key that came before the server is this server's from now on.
    credentials::store(call, &mut replica)?;
    if credentials::find(call, &replica, &address)?.is_some() {
        auto::resume(call, &replica)?;
    }
    Ok(Output::Null)
}

pub(super) fn set_apikey(call: &Call<'_>) -> Result<Output> {
    keep_secret(call, "the key as text")
}

pub(super) fn set_token(call: &Call<'_>) -> Result<Output> {
    keep_secret(call, "the token as text")
}

fn keep_secret(call: &Call<'_>, wanted: &str) -> Result<Output> {
    let secret = Secret::new(call.text(0, wanted)?)?;
    let mut replica = call.replica()?;
    let address = known_address(&replica)?;
    credentials::set(call, &mut replica, secret, address.as_ref())?;
    auto::resume(call, &replica)?;
    Ok(Output::Null)
}

pub(super) fn sync_changes(call: &Call<'_>) -> Result<Output> {
    let pause_ms = if call.has(0) { call.count(0, WAIT_MS_MAX)? } else { 0 };
    let attempts = match (call.has(0), call.has(1)) {
        (_, true) => call.count(1, RETRIES_MAX)?,
        (true, false) => 1,
        (false, false) => 0,
    };
    let attempts_max = u32::try_from(attempts).unwrap_or(u32::MAX);
    count(
        run(call, BOTH, Retry { attempts_max, pause_ms, awaits_news: true, ..Retry::none() })?
            .totals
            .rows_received,
    )
}

pub(super) fn send_changes(call: &Call<'_>) -> Result<Output> {
    count(run(call, PUSH, Retry::none())?.totals.rows_sent)
}

pub(super) fn check_changes(call: &Call<'_>) -> Result<Output> {
    count(run(call, PULL, Retry::none())?.totals.rows_received)
}

fn count(rows: u64) -> Result<Output> {
    Ok(Output::Integer(i64::try_from(rows).unwrap_or(i64::MAX)))
}

pub(super) fn status(call: &Call<'_>) -> Result<Output> {
    let replica = call.replica()?;
    let server = replica.server()?;
    let read = |text: Option<String>| {
        text.and_then(|text| serde_json::from_str::<Json>(&text).ok()).filter(Json::is_object)
    };
    let (own, stored) = (read(call.state().last_report()), read(replica.last_round()?));
    // This connection's syncs that moved nothing are known to it alone; those of others are in the file.
    let finished = |report: &Json| report["finished_at"].as_str().unwrap_or_default().to_owned();
    let automatic = read(auto::last_report(call));
    let report = own.into_iter().chain(automatic).chain(stored).max_by_key(finished);
    let never = || json!({ "server": server, "finished_at": null, "error": null, "note": "no sync yet" });
    let mut report = report.unwrap_or_else(never);
    report["waiting"] = waiting(call, &replica, report["finished_at"].as_str())?;
    report["auto"] = auto::describe(call, &replica)?;
    report["progress"] = progress(&replica)?;
    report["repairs"] = replica.repairs()?;
    report["warnings"] = json!(information::warnings(server.as_deref()));
    Ok(Output::from(report.to_string()))
}

/// What a sync of any connection waits for between two attempts; null if none does. `finished` is when the last sync
/// ended of which this connection knows.
fn waiting(call: &Call<'_>, replica: &Replica, finished: Option<&str>) -> Result<Json> {
    let Some(text) = replica.waiting()? else { return Ok(Json::Null) };
    let noted: Json = serde_json::from_str(&text).unwrap_or_default();
    let time_ms = |name: &str| noted[name].as_u64().unwrap_or(0);
    let time = |name: &str| utc(time_ms(name));
    // An interrupted connection can write no more, nor can a process that was killed: what they left is over.
    let over_ms = time_ms("next_try_at_ms").saturating_add(replica.setting_number("network_request_ms")?);
    let over = call.state().environment.now_ms() > over_ms;
    if over
        || finished
            .is_some_and(|finished| time("failed_at_ms").is_some_and(|failed| failed.as_str() < finished))
    {
        return Ok(Json::Null);
    }
    Ok(json!({
        "attempts": noted["attempts"],
        "error": noted["error"],
        "failed_at": time("failed_at_ms"),
        "next_try_at": time("next_try_at_ms"),
    }))
}

/// How far a transfer of several requests has come; null if there is none.
fn progress(replica: &Replica) -> Result<Json> {
    let Some(progress) = replica.progress()? else { return Ok(Json::Null) };
    Ok(json!({
        "sent": progress.rows_sent,
        "bytes_sent": progress.bytes_sent,
        "received": progress.rows_received,
        "bytes_received": progress.bytes_received,
        "total": (progress.rows_total > 0).then_some(progress.rows_total),
        "at": utc(progress.at_ms),
    }))
}

pub(super) fn has_unsent_changes(call: &Call<'_>) -> Result<Output> {
    Ok(Output::Integer(i64::from(call.replica()?.has_unsent()?)))
}

pub(super) fn reset_sync_version(call: &Call<'_>) -> Result<Output> {
    call.replica()?.reset_sync()?;
    Ok(Output::Null)
}

pub(super) fn cleanup(call: &Call<'_>) -> Result<Output> {
    let mut replica = call.replica()?;
    if replica.exists()? {
        auto::forget(call, &mut replica)?;
        replica.forget_credential()?;
        replica.forget_server()?;
    }
    call.state().forget_secret();
    Ok(Output::Null)
}

pub(super) fn logout(call: &Call<'_>) -> Result<Output> {
    let force = call.has(0) && call.count(0, 1)? == 1;
    let mut replica = call.replica()?;
    if !replica.exists()? {
        call.state().log_out();
        return count(0);
    }
    if force || !replica.has_unsent()? {
        // It would go on with the key of this user.
        auto::end(call);
    }
    let rows = match replica.logout(force) {
        Ok(rows) => rows,
        Err(error) => {
            auto::resume(call, &replica)?;
            return Err(error.into());
        }
    };
    call.state().log_out();
    count(rows)
}

/// The server that the file remembers.
pub(super) fn known_address(replica: &Replica) -> Result<Option<Address>> {
    match replica.server()? {
        Some(text) => Ok(Some(ConnectionString::parse(&text)?.address)),
        None => Ok(None),
    }
}

/// Syncs, and leaves a report of it in the file, whether it succeeded or not.
fn run(call: &Call<'_>, goal: Goal, retry: Retry) -> Result<Round> {
    let mut replica = call.replica()?;
    replica.require_no_transaction()?;
    replica.scrub_if_due()?;
    let Some(address) = known_address(&replica)? else {
        return Err(Error::usage(
            "no server is known: call cloudsync_network_init('cloudsync://HOST/DATABASE') first",
        ));
    };
    let retry = Retry { total_ms: replica.setting_number("network_total_ms")?, ..retry };
    let mut transport = connect(call, &mut replica, address.clone())?;
    let environment = &call.state().environment;
    let started_ms = environment.now_ms();
    let last_conflict = replica.last_conflict()?;
    let session = Session::new(goal, retry);
    let session = if goal == BOTH { session.checking() } else { session };
    replica.put_rolling(call.state().rolling.take());
    let (round, outcome) = drive(&mut replica, transport.as_mut(), environment.as_ref(), session);
    call.state().rolling.replace(replica.take_rolling());
    let begun = Begun { server: Some(address.to_string()), started_ms, last_conflict };
    conclude(call, &mut replica, &begun, &round, outcome.as_ref().copied());
    if outcome.is_ok() && replica.scrub_wait_ms()? == Some(0) {
        crate::auto::scrub(call.connection(), environment);
    }
    outcome.map(|()| round)
}

/// What a report needs to know of a sync's beginning.
pub(super) struct Begun {
    /// The server as a connection string, if one is known.
    pub(super) server: Option<String>,
    /// Milliseconds since 1970.
    pub(super) started_ms: u64,
    /// The last conflict before it.
    pub(super) last_conflict: i64,
}

/// Leaves a report of a sync that ended.
pub(super) fn conclude(
    call: &Call<'_>,
    replica: &mut Replica,
    begun: &Begun,
    round: &Round,
    outcome: Result<(), &Error>,
) {
    let times = (begun.started_ms, call.state().environment.now_ms());
    let mut report = report(begun.server.as_deref(), times, round, outcome);
    report["conflicts"] = replica.conflicts_after(begun.last_conflict).ok().into();
    record(call, replica, &report, outcome.is_ok() && is_idle(round));
}

/// True when a sync moved nothing.
fn is_idle(round: &Round) -> bool {
    let totals = round.totals;
    totals.rows_sent == 0 && totals.rows_received == 0 && totals.rows_repaired == 0
}

/// Keeps the report of a sync: in the file too, unless it was idle and follows one that did not fail.
fn record(call: &Call<'_>, replica: &mut Replica, report: &Json, idle: bool) {
    call.state().keep_report(report.to_string());
    let stored =
        replica.last_round().ok().flatten().and_then(|text| serde_json::from_str::<Json>(&text).ok());
    // A sync that never paused has left nothing of the kind.
    let waited = matches!(replica.waiting(), Ok(Some(_)));
    if waited && let Err(error) = replica.note_waiting(None) {
        call.connection().log(bindings::SQLITE_WARNING, &format!("cloudsync: {error}"));
    }
    if idle && stored.is_some_and(|stored| stored["error"].is_null()) {
        return;
    }
    if let Err(error) = replica.record_round(&report.to_string()) {
        // The rows are in; only their report is missing.
        call.connection().log(bindings::SQLITE_WARNING, &format!("cloudsync: sync not reported: {error}"));
    }
}

pub(crate) fn report(
    server: Option<&str>,
    (started_ms, finished_ms): (u64, u64),
    round: &Round,
    outcome: Result<(), &Error>,
) -> Json {
    let totals = round.totals;
    json!({
        "server": server,
        "started_at": utc(started_ms),
        "finished_at": utc(finished_ms),
        "elapsed_ms": finished_ms.saturating_sub(started_ms),
        "attempts": round.attempts,
        "turns": totals.turns,
        "sent": totals.rows_sent,
        "received": totals.rows_received,
        "rejected": totals.rows_rejected,
        "repaired": totals.rows_repaired,
        "bytes_sent": round.bytes_sent,
        "bytes_received": round.bytes_received,
        "error": outcome.err().map(ToString::to_string),
    })
}

#[cfg(feature = "net")]
fn connect(call: &Call<'_>, replica: &mut Replica, address: Address) -> Result<Box<dyn Transport>> {
    let (secret, authority) = (credentials::find(call, replica, &address)?, replica.setting("network_ca")?);
    if let Some(secret) = &secret {
        replica.set_sees_part(!secret.is_key())?;
    }
    Ok(Box::new(crate::net::Http::new(address, secret, timeouts(replica)?, authority.as_deref())?))
}

/// The limits of requests, as the file sets them.
#[cfg(feature = "net")]
pub(crate) fn timeouts(replica: &Replica) -> Result<crate::net::Timeouts> {
    let limit = |name| Ok::<_, Error>(std::time::Duration::from_millis(replica.setting_number(name)?));
    Ok(crate::net::Timeouts {
        connect: limit("network_connect_ms")?,
        answer: limit("network_answer_ms")?,
        whole: limit("network_request_ms")?,
    })
}

#[cfg(not(feature = "net"))]
fn connect(_call: &Call<'_>, _replica: &mut Replica, _address: Address) -> Result<Box<dyn Transport>> {
    Err(crate::net::NetError::NotBuilt.into())
}
