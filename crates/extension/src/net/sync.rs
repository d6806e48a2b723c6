//! The driver of a sync: carries out what the session says, on the replica and the transport.

use crate::error::Result;
use crate::net::reply::Judged;
use crate::net::{NetError, Patience, Reply, Transport};
use cloudsync_protocol::client::{Action, Event, Goal, Moment, Retry, Session, Totals};
use cloudsync_protocol::message::{Answer, Refusal};
use cloudsync_replica::{Environment, Replica};
use cloudsync_sqlite_ffi::{Connection, Shelf};
use serde_json::json;

/// Longest single wait, in milliseconds, after which the host's wish to interrupt is looked for.
const PAUSE_SLICE_MS: u64 = 50;

/// What a sync did, also when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Rows and turns.
    pub totals: Totals,
    /// Bytes of all requests, without HTTP's own.
    pub bytes_sent: u64,
    /// Bytes of all answers, without HTTP's own.
    pub bytes_received: u64,
    /// Requests that were made, answered or not.
    pub attempts: u64,
}

/// Syncs once: sends and receives as `goal` says, until nothing is left or it fails. Blocks; no write lock is held
/// while it waits for the server.
///
/// # Errors
/// [`Error::Net`](crate::Error::Net) for what the server or the way there did, [`Error::Replica`](crate::Error::Replica) for the database. What was committed
/// before stays, and the next sync goes on from there.
pub fn sync(
    replica: &mut Replica,
    transport: &mut dyn Transport,
    environment: &dyn Environment,
    goal: Goal,
    retry: Retry,
) -> (Round, Result<()>) {
    drive(replica, transport, environment, Session::new(goal, retry))
}

/// The same with a session that the caller has made.
///
/// # Errors
/// As [`sync`].
pub fn drive(
    replica: &mut Replica,
    transport: &mut dyn Transport,
    environment: &dyn Environment,
    session: Session,
) -> (Round, Result<()>) {
    // Nobody else uses the connection until the session is over.
    let _open = Shelf::new(replica.connection()).open();
    let mut driver = Driver {
        replica,
        transport,
        environment,
        session,
        round: Round::default(),
        request: Vec::new(),
        answer: Vec::new(),
        refusal: None,
        failure: None,
    };
    let outcome = driver.run();
    driver.round.totals = driver.session.totals();
    (driver.round, outcome)
}

struct Driver<'d> {
    replica: &'d mut Replica,
    transport: &'d mut dyn Transport,
    environment: &'d dyn Environment,
    session: Session,
    round: Round,
    request: Vec<u8>,
    answer: Vec<u8>,
    refusal: Option<Refusal>,
    /// What the last attempt failed of; the error if the session gives up.
    failure: Option<NetError>,
}

impl Driver<'_> {
    fn run(&mut self) -> Result<()> {
        let goal = self.session.goal();
        let mut event = Event::Start;
        loop {
            event = match self.session.step(event, moment(self.environment)) {
                Action::Prepare { schema } => {
                    self.request = self.replica.prepare(goal, schema)?;
                    Event::Prepared
                }
                Action::Check => match self.replica.prepare_check(goal)? {
                    Some(request) => {
                        self.request = request;
                        Event::Prepared
                    }
                    None => Event::Unchecked,
                },
                Action::Send => self.send()?,
                Action::Absorb => self.absorb()?,
                Action::Mend(_) => self.mend()?,
                Action::Pause { pause_ms } => self.pause(pause_ms)?,
                Action::Done(_) => return Ok(()),
                Action::Fail => {
                    let unknown = || NetError::Foreign(self.transport.address().server());
                    return Err(self.failure.take().unwrap_or_else(unknown).into());
                }
                Action::OutOfTime => {
                    return Err(NetError::OutOfTime(self.transport.address().server()).into());
                }
            };
        }
    }

    fn send(&mut self) -> Result<Event> {
        self.check_interrupt()?;
        let connection = self.replica.connection();
        let is_interrupted = || is_interrupted(connection);
        let patience = Patience { left_ms: self.session.left_ms(), is_interrupted: &is_interrupted };
        self.round.attempts += 1;
        let reply = self.transport.exchange(&self.request, patience);
        if !matches!(reply, Reply::Unreachable(_)) {
            self.round.bytes_sent += self.request.len() as u64;
        }
        if let Reply::Answered(answer) = &reply {
            self.round.bytes_received += answer.len() as u64;
        }
        let address = self.transport.address();
        match reply.judge(address.server(), address.database())? {
            Judged::Turn(answer) => {
                self.answer = answer;
                self.failure = None;
                Ok(Event::Answered)
            }
            Judged::Refusal(refusal) => {
                let (server, reason) = (self.transport.address().server(), refusal.reason);
                self.failure = Some(NetError::Refused { server, reason, text: refusal.text.clone() });
                self.refusal = Some(refusal);
                Ok(Event::Refused(reason))
            }
            Judged::Passing { failure, retry_after_ms } => {
                self.failure = Some(failure);
                Ok(Event::Unreachable { retry_after_ms })
            }
        }
    }

    fn absorb(&mut self) -> Result<Event> {
        match Answer::decode(&self.answer).map_err(cloudsync_replica::Error::from)? {
            Answer::Turn(turn) => Ok(Event::Absorbed(self.replica.absorb(&turn)?)),
            Answer::Refusal(_) => Err(NetError::Foreign(self.transport.address().server()).into()),
        }
    }

    fn mend(&mut self) -> Result<Event> {
        if let Some(refusal) = self.refusal.take() {
            self.replica.mend(&refusal)?;
        }
        Ok(Event::Mended)
    }

    fn pause(&mut self, pause_ms: u64) -> Result<Event> {
        self.note_waiting(pause_ms);
        let mut left_ms = pause_ms;
        while left_ms > 0 {
            let slice_ms = left_ms.min(PAUSE_SLICE_MS);
            self.environment.pause(slice_ms);
            left_ms -= slice_ms;
            self.check_interrupt()?;
        }
        Ok(Event::Resumed)
    }

    /// Lets other connections see what failed and when the next attempt comes. A file that cannot be written just then
    /// is no reason to give up.
    fn note_waiting(&mut self, pause_ms: u64) {
        let Some(failure) = &self.failure else { return };
        let now_ms = self.environment.now_ms();
        let waiting = json!({
            "attempts": self.round.attempts,
            "error": failure.to_string(),
            "failed_at_ms": now_ms,
            "next_try_at_ms": now_ms.saturating_add(pause_ms),
        });
        let _ = self.replica.note_waiting(Some(&waiting.to_string()));
    }

    fn check_interrupt(&self) -> Result<()> {
        if is_interrupted(self.replica.connection()) { Err(NetError::Interrupted.into()) } else { Ok(()) }
    }
}

/// `sqlite3_interrupt` stops whatever statement runs next on the connection, so the smallest one tells.
fn is_interrupted(connection: Connection) -> bool {
    connection.query_i64("SELECT 1", &[]).is_err_and(|error| error.is_interrupt())
}

/// The time of a step, and chance for it.
pub(crate) fn moment(environment: &dyn Environment) -> Moment {
    let mut draw = [0; 8];
    environment.random(&mut draw);
    Moment { now_ms: environment.now_ms(), draw: u64::from_le_bytes(draw) }
}
