//! The device's side of a sync: a state machine that takes events and says what to do next.
//!
//! The driver owns the database and the network. It carries out each [`Action`] and feeds the outcome back as an
//! [`Event`], until the action is [`Action::Done`] or [`Action::Fail`]:
//!
//! ```text
//! Prepare --Prepared--> Send --Answered--> Absorb --Absorbed--> Prepare ... or Done
//!                        | `--Refused----> Mend ----Mended----> Prepare
//!                        `----Unreachable-> Pause --Resumed---> Prepare
//! ```
//! In the common case that is one request: the first answer takes the changes and says that nothing more is there.
//!
//! ```
//! use cloudsync_protocol::client::{Absorbed, Action, Event, Goal, Retry, Session};
//!
//! let mut session = Session::new(Goal { push: true, pull: true }, Retry::none());
//! assert_eq!(session.step(Event::Start), Action::Prepare { schema: false });
//! assert_eq!(session.step(Event::Prepared), Action::Send);
//! assert_eq!(session.step(Event::Answered), Action::Absorb);
//! let absorbed = Absorbed { rows_received: 3, rows_sent: 1, ..Absorbed::default() };
//! assert_eq!(session.step(Event::Absorbed(absorbed)), Action::Done(session.totals()));
//! ```

use crate::message::Reason;

/// Which directions a sync takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Send the device's changes.
    pub push: bool,
    /// Receive what is new.
    pub pull: bool,
}

/// How often and how long to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first that did not reach the server, or, with a pull, after the first that brought nothing.
    pub attempts_max: u32,
    /// Pause before the first further attempt, in milliseconds.
    pub pause_ms: u64,
}

impl Retry {
    /// One attempt only.
    #[must_use]
    pub const fn none() -> Self {
        Self { attempts_max: 0, pause_ms: 0 }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The sync begins.
    Start,
    /// The request is ready.
    Prepared,
    /// An answer came and is a turn.
    Answered,
    /// The answer was applied.
    Absorbed(Absorbed),
    /// An answer came and refuses the turn.
    Refused(Reason),
    /// What the refusal asked for was done.
    Mended,
    /// The server could not be reached, or asked for patience. `retry_after_ms` is its wish, 0 without one.
    Unreachable {
        /// Milliseconds that the server asks to wait.
        retry_after_ms: u64,
    },
    /// The pause is over.
    Resumed,
}

/// What applying an answer brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Absorbed {
    /// Rows received and applied.
    pub rows_received: u64,
    /// Rows sent that the server has committed, or refused.
    pub rows_sent: u64,
    /// Rows that the server refused.
    pub rows_rejected: u64,
    /// True when there is more to send or to receive.
    pub more: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the next request; with the schema if `schema`.
    Prepare {
        /// Whether the server needs the schema.
        schema: bool,
    },
    /// Send the request and wait for the answer.
    Send,
    /// Apply the answer.
    Absorb,
    /// Do what the refusal asks for.
    Mend(Reason),
    /// Wait that long.
    Pause {
        /// Milliseconds; the driver may shorten it at random.
        pause_ms: u64,
    },
    /// The sync is complete.
    Done(Totals),
    /// The sync ended without success; the last failure tells why.
    Fail,
}

/// What a sync brought so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Rows received and applied.
    pub rows_received: u64,
    /// Rows sent, and committed or refused by the server.
    pub rows_sent: u64,
    /// Rows that the server refused.
    pub rows_rejected: u64,
    /// Requests answered.
    pub turns: u64,
}

/// Pauses grow up to this, in milliseconds.
const PAUSE_MS_MAX: u64 = 30_000;
/// A refusal that comes back this often in one sync is not going to be mended.
const REFUSALS_MAX: u32 = 4;

/// One sync from start to end.
#[derive(Debug, Clone)]
pub struct Session {
    goal: Goal,
    retry: Retry,
    attempts: u32,
    refusals: u32,
    totals: Totals,
}

impl Session {
    /// A session that has not begun.
    #[must_use]
    pub const fn new(goal: Goal, retry: Retry) -> Self {
        Self {
            goal,
            retry,
            attempts: 0,
            refusals: 0,
            totals: Totals { rows_received: 0, rows_sent: 0, rows_rejected: 0, turns: 0 },
        }
    }

    /// The directions of the session.
    #[must_use]
    pub const fn goal(&self) -> Goal {
        self.goal
    }

    /// What the session brought so far.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Takes an event and says what to do.
    pub fn step(&mut self, event: Event) -> Action {
        match event {
            Event::Start | Event::Resumed => Action::Prepare { schema: false },
            Event::Prepared => Action::Send,
            Event::Answered => {
                self.totals.turns += 1;
                Action::Absorb
            }
            Event::Absorbed(absorbed) => self.absorbed(absorbed),
            Event::Refused(reason) => self.refused(reason),
            Event::Mended => Action::Prepare { schema: false },
            Event::Unreachable { retry_after_ms } => self.again(retry_after_ms).unwrap_or(Action::Fail),
        }
    }

    fn absorbed(&mut self, absorbed: Absorbed) -> Action {
        self.totals.rows_received += absorbed.rows_received;
        self.totals.rows_sent += absorbed.rows_sent;
        self.totals.rows_rejected += absorbed.rows_rejected;
        if absorbed.more {
            // A turn that was taken shows that refusals were mended and the server is there.
            (self.attempts, self.refusals) = (0, 0);
            return Action::Prepare { schema: false };
        }
        let waits = self.goal.pull && self.totals.rows_received == 0;
        let again = if waits { self.again(0) } else { None };
        again.unwrap_or(Action::Done(self.totals))
    }

    fn refused(&mut self, reason: Reason) -> Action {
        self.refusals += 1;
        if self.refusals > REFUSALS_MAX {
            return Action::Fail;
        }
        match reason {
            Reason::NeedSchema => Action::Prepare { schema: true },
            Reason::ClockSkew | Reason::Clone | Reason::Restored | Reason::LostChunks => Action::Mend(reason),
            Reason::SchemaConflict | Reason::BadPayload | Reason::Denied => Action::Fail,
        }
    }

    fn again(&mut self, retry_after_ms: u64) -> Option<Action> {
        if self.attempts >= self.retry.attempts_max {
            return None;
        }
        let doubled = self.retry.pause_ms.saturating_mul(1 << self.attempts.min(16));
        self.attempts += 1;
        Some(Action::Pause { pause_ms: doubled.min(PAUSE_MS_MAX).max(retry_after_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Goal = Goal { push: true, pull: true };

    #[test]
    fn more_to_do_means_another_turn() {
        let mut session = Session::new(BOTH, Retry::none());
        let more = Absorbed { rows_received: 1, rows_rejected: 2, more: true, ..Absorbed::default() };
        assert_eq!(session.step(Event::Absorbed(more)), Action::Prepare { schema: false });
        let last = Absorbed { more: false, ..more };
        assert_eq!(session.step(Event::Absorbed(last)), Action::Done(session.totals()));
        assert_eq!((session.totals().rows_received, session.totals().rows_rejected), (2, 4));
    }

    #[test]
    fn refusals_are_mended_but_not_for_ever() {
        let mut session = Session::new(BOTH, Retry::none());
        assert_eq!(session.step(Event::Refused(Reason::NeedSchema)), Action::Prepare { schema: true });
        for _ in 1..REFUSALS_MAX {
            assert_eq!(session.step(Event::Refused(Reason::Clone)), Action::Mend(Reason::Clone));
        }
        assert_eq!(session.step(Event::Refused(Reason::Clone)), Action::Fail);
        let mut session = Session::new(BOTH, Retry::none());
        assert_eq!(session.step(Event::Refused(Reason::SchemaConflict)), Action::Fail);
    }

    #[test]
    fn unreachable_servers_are_tried_again_with_growing_pauses() {
        let mut session = Session::new(BOTH, Retry { attempts_max: 2, pause_ms: 100 });
        let gone = Event::Unreachable { retry_after_ms: 0 };
        assert_eq!(session.step(gone), Action::Pause { pause_ms: 100 });
        assert_eq!(session.step(gone), Action::Pause { pause_ms: 200 });
        assert_eq!(session.step(gone), Action::Fail);
    }

    #[test]
    fn a_pull_that_brings_nothing_is_repeated_while_attempts_are_left() {
        let mut session = Session::new(BOTH, Retry { attempts_max: 1, pause_ms: 50 });
        let nothing = Event::Absorbed(Absorbed::default());
        assert_eq!(session.step(nothing), Action::Pause { pause_ms: 50 });
        assert_eq!(session.step(nothing), Action::Done(Totals::default()));
    }
}
