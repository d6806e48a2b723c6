//! The driver of a sync: carries out what the session says, on the replica and the transport.

use crate::error::Result;
use crate::net::{NetError, RETRY_AFTER_MS_MAX, Reply, Status, Transport};
use cloudsync_protocol::client::{Action, Event, Goal, Retry, Session, Totals};
use cloudsync_protocol::message::{Answer, MessageError, Refusal};
use cloudsync_replica::{Environment, Replica};

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
    let mut driver = Driver {
        replica,
        transport,
        environment,
        session: Session::new(goal, retry),
        round: Round::default(),
        request: Vec::new(),
        answer: Vec::new(),
        refusal: None,
        failure: None,
    };
    let outcome = driver.run(goal);
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
    fn run(&mut self, goal: Goal) -> Result<()> {
        let mut event = Event::Start;
        loop {
            event = match self.session.step(event) {
                Action::Prepare { schema } => {
                    self.request = self.replica.prepare(goal, schema)?;
                    Event::Prepared
                }
                Action::Send => self.send()?,
                Action::Absorb => self.absorb()?,
                Action::Mend(_) => self.mend()?,
                Action::Pause { pause_ms } => self.pause(pause_ms)?,
                Action::Done(_) => return Ok(()),
                Action::Fail => {
                    let unknown = || NetError::Foreign(self.transport.address().server());
                    return Err(self.failure.take().unwrap_or_else(unknown).into());
                }
            };
        }
    }

    fn send(&mut self) -> Result<Event> {
        self.check_interrupt()?;
        let reply = self.transport.exchange(&self.request);
        if !matches!(reply, Reply::Unreachable(_)) {
            self.round.bytes_sent += self.request.len() as u64;
        }
        let server = self.transport.address().server();
        match reply {
            Reply::Answered(answer) => {
                self.round.bytes_received += answer.len() as u64;
                self.answer = answer;
                self.judge(server)
            }
            Reply::Status(status) => self.status(status, server),
            Reply::Foreign => Err(NetError::Foreign(server).into()),
            Reply::Broken(reason) => Ok(self.again(NetError::Broken { server, reason }, 0)),
            Reply::Unreachable(reason) => Ok(self.again(NetError::Unreachable { server, reason }, 0)),
        }
    }

    /// Tells turns and refusals apart. Bytes that are damaged may come whole the next time.
    fn judge(&mut self, server: String) -> Result<Event> {
        match Answer::decode(&self.answer) {
            Ok(Answer::Turn(_)) => Ok(Event::Answered),
            Ok(Answer::Refusal(refusal)) => {
                let (reason, text) = (refusal.reason, refusal.text.clone());
                self.failure = Some(NetError::Refused { server, reason, text });
                self.refusal = Some(refusal);
                Ok(Event::Refused(reason))
            }
            Err(MessageError::NotCloudsync) => Err(NetError::Foreign(server).into()),
            Err(error @ MessageError::Version(_)) => {
                Err(NetError::Version { server, reason: error.to_string() }.into())
            }
            Err(error) => Ok(self.again(NetError::Broken { server, reason: error.to_string() }, 0)),
        }
    }

    fn status(&mut self, answer: Status, server: String) -> Result<Event> {
        let Status { status, message, .. } = answer;
        let error = match (status, answer.code.as_str()) {
            (401 | 403, _) if !answer.had_key => NetError::NoKey(server),
            (401 | 403, _) => NetError::RefusedKey(server),
            (404, "CLOUDSYNC_UNKNOWN_DATABASE") => {
                let database = self.transport.address().database().to_owned();
                NetError::UnknownDatabase { server, database }
            }
            (429, _) | (503, "CLOUDSYNC_BUSY") => {
                return Ok(self.again(NetError::Busy(server), answer.retry_after_ms));
            }
            (408 | 500.., _) => {
                return Ok(self.again(NetError::Status { server, status, message }, answer.retry_after_ms));
            }
            _ => NetError::Status { server, status, message },
        };
        Err(error.into())
    }

    /// Keeps the failure, and leaves it to the session whether it is tried again.
    fn again(&mut self, failure: NetError, retry_after_ms: u64) -> Event {
        self.failure = Some(failure);
        Event::Unreachable { retry_after_ms: retry_after_ms.min(RETRY_AFTER_MS_MAX) }
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
        let mut left_ms = pause_ms;
        while left_ms > 0 {
            let slice_ms = left_ms.min(PAUSE_SLICE_MS);
            self.environment.pause(slice_ms);
            left_ms -= slice_ms;
            self.check_interrupt()?;
        }
        Ok(Event::Resumed)
    }

    /// `sqlite3_interrupt` stops whatever statement runs next on the connection, so the smallest one tells.
    fn check_interrupt(&self) -> Result<()> {
        match self.replica.connection().query_i64("SELECT 1", &[]) {
            Err(error) if error.is_interrupt() => Err(NetError::Interrupted.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
