//! The session for hosts that bring their own network: a browser's `fetch`, a mobile system's HTTP, a queue, a file.
//!
//! The host asks for a request, carries it to the server in its own way, and hands back what came, until there is no
//! further request. What is sent, judged and taken in is the same as in `cloudsync_network_sync`.

use crate::error::{Error, Result};
use crate::functions::network::Begun;
use crate::functions::{Call, network};
use crate::net::{self, Judged, NetError, Reply, Round, Status};
use cloudsync_protocol::client::{Action, Event, Goal, Retry, Session};
use cloudsync_protocol::message::{Answer, Refusal};
use cloudsync_replica::{Replica, Sent};
use cloudsync_sqlite_ffi::Output;

/// Attempts in a row after which a session gives up, and the bound of the first pause.
const RETRY: Retry = Retry { attempts_max: 10, pause_ms: 1_000, ..Retry::none() };
/// What the server is called in errors when the file knows none.
const SERVER_OF_HOST: &str = "(the host's server)";

/// A session between two calls of the host.
pub(crate) struct HostSession {
    session: Session,
    next: Next,
    server: String,
    database: String,
    begun: Begun,
    round: Round,
    /// What the last request said.
    sent: Option<Sent>,
    /// What the last attempt failed of.
    failure: Option<NetError>,
}

/// Which request comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// One of a sync, with the schema or without.
    Sync { schema: bool },
    /// One that has ranges checked.
    Check,
}

/// What the session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The host asks for the request.
    Request(Wish),
    /// The host hands back what came for a request.
    Answer(Wish),
    /// Nothing: it is over.
    Nothing,
}

pub(super) fn start(call: &Call<'_>) -> Result<Output> {
    let wished = |index| Ok::<_, Error>(!call.has(index) || call.count(index, 1)? == 1);
    let goal = Goal { push: wished(0)?, pull: wished(1)? };
    let replica = call.replica()?;
    replica.require_no_transaction()?;
    if !replica.exists()? {
        return Err(Error::usage(
            "no table of this database syncs yet: call cloudsync_init('<table>') first",
        ));
    }
    let address = network::known_address(&replica)?;
    let retry = Retry { total_ms: replica.setting_number("network_total_ms")?, ..RETRY };
    let session = Session::new(goal, retry);
    let mut session = if goal.push && goal.pull { session.checking() } else { session };
    let environment = &call.state().environment;
    session.step(Event::Start, net::moment(environment.as_ref()));
    let url = address.as_ref().map(|address| address.sync_url());
    *call.state().session.borrow_mut() = Some(HostSession {
        session,
        next: Next::Request(Wish::Sync { schema: false }),
        server: address.as_ref().map_or_else(|| SERVER_OF_HOST.to_owned(), |address| address.server()),
        database: address.as_ref().map(|address| address.database().to_owned()).unwrap_or_default(),
        begun: Begun {
            server: address.as_ref().map(ToString::to_string),
            started_ms: environment.now_ms(),
            last_conflict: replica.last_conflict()?,
        },
        round: Round::default(),
        sent: None,
        failure: None,
    });
    Ok(url.map_or(Output::Null, Output::from))
}

pub(super) fn request(call: &Call<'_>) -> Result<Output> {
    with_session(call, |host, replica| {
        let wish = match host.next {
            Next::Nothing => return Ok(Output::Null),
            // Asked for again, the request is made anew: under the same round id, it is the same one.
            Next::Request(wish) | Next::Answer(wish) => wish,
        };
        let goal = host.session.goal();
        let request = match wish {
            Wish::Sync { schema } => replica.prepare(goal, schema)?,
            Wish::Check => match replica.prepare_check(goal)? {
                Some(request) => request,
                // Something was written since it was found that ranges are to be checked.
                None => replica.prepare(goal, false)?,
            },
        };
        host.session.step(Event::Prepared, net::moment(call.state().environment.as_ref()));
        host.sent = replica.take_sent();
        host.next = Next::Answer(wish);
        host.round.attempts += 1;
        host.round.bytes_sent += request.len() as u64;
        Ok(Output::from(request))
    })
}

pub(super) fn answer(call: &Call<'_>) -> Result<Output> {
    let status = call.count(0, 999)? as u16;
    let body =
        if call.is_null(1) { &[][..] } else { call.blob(1, "the body of the answer as BLOB, or NULL")? };
    let asked_ms = if call.has(2) && !call.is_null(2) {
        let text = call.text(2, "the header Retry-After as text, or NULL")?;
        net::retry_after_ms(text, None, call.state().environment.now_ms())
    } else {
        0
    };
    with_session(call, |host, replica| {
        host.round.bytes_received += body.len() as u64;
        let reply = match status {
            200..=299 => Reply::Answered(body.to_vec()),
            300..=399 => Reply::Moved("another place".to_owned()),
            _ => Reply::Status(Status::read(status, body, asked_ms, true)),
        };
        host.take(call, replica, reply)
    })
}

pub(super) fn unreachable(call: &Call<'_>) -> Result<Output> {
    with_session(call, |host, replica| {
        host.take(call, replica, Reply::Unreachable("the host has no connection".to_owned()))
    })
}

fn with_session(
    call: &Call<'_>,
    act: impl FnOnce(&mut HostSession, &mut Replica) -> Result<Output>,
) -> Result<Output> {
    let mut replica = call.replica()?;
    replica.require_no_transaction()?;
    let mut kept = call.state().session.borrow_mut();
    let none = || Error::usage("there is no session: call cloudsync_session_start first");
    act(kept.as_mut().ok_or_else(none)?, &mut replica)
}

impl HostSession {
    /// Takes what came. Gives the milliseconds to wait before the next request, NULL at the end.
    fn take(&mut self, call: &Call<'_>, replica: &mut Replica, reply: Reply) -> Result<Output> {
        if !matches!(self.next, Next::Answer(_)) {
            return Err(Error::usage(
                "no request is on its way: call cloudsync_session_request first, and hand over one answer for each",
            ));
        }
        let outcome = self.judge(call, replica, reply);
        if !matches!(outcome, Ok(Some(_))) {
            self.next = Next::Nothing;
            self.round.totals = self.session.totals();
            let outcome = outcome.as_ref().map(|_| ());
            network::conclude(call, replica, &self.begun, &self.round, outcome);
        }
        let pause_ms = outcome?;
        Ok(pause_ms.map_or(Output::Null, |ms| Output::Integer(i64::try_from(ms).unwrap_or(i64::MAX))))
    }

    fn judge(&mut self, call: &Call<'_>, replica: &mut Replica, reply: Reply) -> Result<Option<u64>> {
        if let Some(sent) = self.sent.take() {
            replica.put_sent(sent);
        }
        let mut refused: Option<Refusal> = None;
        let mut turn = Vec::new();
        let mut event = match reply.judge(self.server.clone(), &self.database)? {
            Judged::Turn(answer) => {
                turn = answer;
                Event::Answered
            }
            Judged::Refusal(refusal) => {
                let (server, reason) = (self.server.clone(), refusal.reason);
                self.failure = Some(NetError::Refused { server, reason, text: refusal.text.clone() });
                refused = Some(refusal);
                Event::Refused(reason)
            }
            Judged::Passing { failure, retry_after_ms } => {
                self.failure = Some(failure);
                Event::Unreachable { retry_after_ms }
            }
        };
        loop {
            event = match self.session.step(event, net::moment(call.state().environment.as_ref())) {
                Action::Absorb => match Answer::decode(&turn).map_err(cloudsync_replica::Error::from)? {
                    Answer::Turn(turn) => Event::Absorbed(replica.absorb(&turn)?),
                    Answer::Refusal(_) => return Err(NetError::Foreign(self.server.clone()).into()),
                },
                Action::Mend(_) => {
                    if let Some(refusal) = refused.take() {
                        replica.mend(&refusal)?;
                    }
                    Event::Mended
                }
                Action::Prepare { schema } => {
                    self.next = Next::Request(Wish::Sync { schema });
                    return Ok(Some(0));
                }
                Action::Pause { pause_ms } => {
                    self.next = Next::Request(Wish::Sync { schema: false });
                    return Ok(Some(pause_ms));
                }
                Action::Check => {
                    self.next = Next::Request(Wish::Check);
                    return Ok(Some(0));
                }
                Action::Done(_) => return Ok(None),
                Action::Send => Event::Prepared,
                Action::Fail => {
                    let unknown = || NetError::Foreign(self.server.clone());
                    return Err(self.failure.take().unwrap_or_else(unknown).into());
                }
                Action::OutOfTime => return Err(NetError::OutOfTime(self.server.clone()).into()),
            };
        }
    }
}
