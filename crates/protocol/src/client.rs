//! The device's side of a sync: a state machine that takes events and says what to do next.
//!
//! The driver owns the database and the network. It carries out each [`Action`] and feeds the outcome back as an
//! [`Event`], until the action is [`Action::Done`] or [`Action::Fail`]:
//!
//! ```text
//! Prepare --Prepared--> Send --Answered--> Absorb --Absorbed--> Prepare ... or Done
//!                        | `--Refused----> Mend ----Mended----> Prepare
//!                        `----Unreachable-> Pause --Resumed---> Prepare
//! Check ---Prepared--> Send ...; or Unchecked, where nothing is to be checked
//! ```
//! In the common case that is one request: the first answer takes the changes and says that nothing more is there.
//!
//! The machine holds neither clock nor random source: each step brings the [`Moment`] at which it is taken.
//!
//! ```
//! use cloudsync_protocol::client::{Absorbed, Action, Event, Goal, Moment, Retry, Session};
//!
//! let mut session = Session::new(Goal { push: true, pull: true }, Retry::none());
//! let moment = Moment { now_ms: 0, draw: 0 };
//! assert_eq!(session.step(Event::Start, moment), Action::Prepare { schema: false });
//! assert_eq!(session.step(Event::Prepared, moment), Action::Send);
//! assert_eq!(session.step(Event::Answered, moment), Action::Absorb);
//! let absorbed = Absorbed { rows_received: 3, rows_sent: 1, ..Absorbed::default() };
//! assert_eq!(session.step(Event::Absorbed(absorbed), moment), Action::Done(session.totals()));
//! ```
//!
//! # Checks
//!
//! A turn that moved nothing may be followed by one that checks a part of what is held, once in a session and only if the
//! caller wants that ([`Session::checking`]). It is an extra: if it fails, the sync has succeeded nevertheless. Where the
//! device says that it must check all it has, the session goes on until that is done.
//!
//! # Pauses
//!
//! After the n-th failure in a row the pause is drawn evenly from 0 to `pause_ms * 2^(n-1)`, and that bound stops growing
//! at 30 s: devices that failed together come back apart. What the server asks for with Retry-After is waited first, and
//! the draw comes on top of it; its bound is then at least half of what was asked, so that those who were sent away
//! together do not return together. A pull that brought nothing is no failure; it is repeated after `pause_ms * 2^(n-1)`
//! as the caller said.

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
    /// Attempts after the first that did not reach the server, or that brought nothing if news is awaited.
    pub attempts_max: u32,
    /// Longest pause before the first further attempt, in milliseconds; it doubles with each one that follows.
    pub pause_ms: u64,
    /// Whether a pull that brings nothing is repeated while attempts are left.
    pub awaits_news: bool,
    /// Milliseconds after the start of the session at which it gives up, pauses included.
    pub total_ms: u64,
}

impl Retry {
    /// One attempt only.
    #[must_use]
    pub const fn none() -> Self {
        Self { attempts_max: 0, pause_ms: 0, awaits_news: false, total_ms: u64::MAX }
    }
}

/// When a step is taken, and a draw of chance for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds by any clock. One that is set back costs the session no more than it was set back by.
    pub now_ms: u64,
    /// Any number of 64 random bits.
    pub draw: u64,
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
    /// There is nothing to check.
    Unchecked,
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
    /// Rows that were damaged here and were repaired, or that were not the server's any more.
    pub rows_repaired: u64,
    /// True when there is more to send or to receive.
    pub more: bool,
    /// True when nothing moved in either direction, and nothing waits to.
    pub idle: bool,
    /// True when there are ranges that must be checked, and the last ones were.
    pub unchecked: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the next request; with the schema if `schema`.
    Prepare {
        /// Whether the server needs the schema.
        schema: bool,
    },
    /// Make a request that has ranges checked.
    Check,
    /// Send the request and wait for the answer.
    Send,
    /// Apply the answer.
    Absorb,
    /// Do what the refusal asks for.
    Mend(Reason),
    /// Wait that long.
    Pause {
        /// Milliseconds.
        pause_ms: u64,
    },
    /// The sync is complete.
    Done(Totals),
    /// The sync ended without success; the last failure tells why.
    Fail,
    /// The sync ended without success because its time is over. What was taken stays, and the next one goes on.
    OutOfTime,
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
    /// Rows that were repaired.
    pub rows_repaired: u64,
    /// Requests answered.
    pub turns: u64,
}

/// The bound of pauses grows up to this, in milliseconds, unless the first one is longer already.
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
    /// Whether an idle turn may be followed by a check; whether one was; and whether it is on its way.
    checks: bool,
    checked: bool,
    checking: bool,
    /// When the last step was taken; `None` before the first.
    stepped_at_ms: Option<u64>,
    elapsed_ms: u64,
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
            totals: Totals { rows_received: 0, rows_sent: 0, rows_rejected: 0, rows_repaired: 0, turns: 0 },
            checks: false,
            checked: false,
            checking: false,
            stepped_at_ms: None,
            elapsed_ms: 0,
        }
    }

    /// The same session, which has a part of what is held checked when it finds that nothing is to be done.
    #[must_use]
    pub const fn checking(self) -> Self {
        Self { checks: true, ..self }
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

    /// How often in a row the session has been told to pause.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Milliseconds that are left of the session's time, as of its last step. A request may take no longer.
    #[must_use]
    pub const fn left_ms(&self) -> u64 {
        self.retry.total_ms.saturating_sub(self.elapsed_ms)
    }

    /// Takes an event and says what to do.
    pub fn step(&mut self, event: Event, moment: Moment) -> Action {
        let before = self.stepped_at_ms.replace(moment.now_ms).unwrap_or(moment.now_ms);
        self.elapsed_ms = self.elapsed_ms.saturating_add(moment.now_ms.saturating_sub(before));
        match event {
            Event::Start => Action::Prepare { schema: false },
            Event::Resumed | Event::Mended => self.prepare(false),
            Event::Prepared => Action::Send,
            Event::Answered => {
                self.totals.turns += 1;
                Action::Absorb
            }
            Event::Absorbed(absorbed) => self.absorbed(absorbed),
            Event::Unchecked => self.finished(),
            // The sync is complete without it.
            Event::Refused(_) | Event::Unreachable { .. } if self.checking => Action::Done(self.totals),
            Event::Refused(reason) => self.refused(reason),
            Event::Unreachable { retry_after_ms } => self.unreachable(retry_after_ms, moment.draw),
        }
    }

    /// The next request, if there is time for one.
    fn prepare(&self, schema: bool) -> Action {
        if self.left_ms() == 0 { Action::OutOfTime } else { Action::Prepare { schema } }
    }

    fn absorbed(&mut self, absorbed: Absorbed) -> Action {
        self.totals.rows_received += absorbed.rows_received;
        self.totals.rows_sent += absorbed.rows_sent;
        self.totals.rows_rejected += absorbed.rows_rejected;
        self.totals.rows_repaired += absorbed.rows_repaired;
        self.checking = false;
        if absorbed.more {
            // A turn that was taken shows that refusals were mended and the server is there.
            (self.attempts, self.refusals) = (0, 0);
            return self.prepare(false);
        }
        if self.goal.pull && self.left_ms() > 0 {
            if absorbed.unchecked {
                (self.attempts, self.refusals) = (0, 0);
                return Action::Check;
            }
            if self.checks && !self.checked && absorbed.idle {
                (self.checked, self.checking) = (true, true);
                return Action::Check;
            }
        }
        self.finished()
    }

    /// The end, or a pause if news is awaited.
    fn finished(&mut self) -> Action {
        self.checking = false;
        let waits = self.retry.awaits_news && self.goal.pull && self.totals.rows_received == 0;
        if waits
            && let Some(pause_ms) = self.next_bound_ms()
            && pause_ms < self.left_ms()
        {
            return Action::Pause { pause_ms };
        }
        Action::Done(self.totals)
    }

    fn refused(&mut self, reason: Reason) -> Action {
        self.refusals += 1;
        if self.refusals > REFUSALS_MAX {
            return Action::Fail;
        }
        match reason {
            Reason::NeedSchema => self.prepare(true),
            Reason::ClockSkew | Reason::Clone | Reason::Restored | Reason::LostChunks => Action::Mend(reason),
            Reason::SchemaConflict | Reason::BadPayload | Reason::Denied | Reason::PrincipalChanged => {
                Action::Fail
            }
        }
    }

    fn unreachable(&mut self, retry_after_ms: u64, draw: u64) -> Action {
        let Some(bound_ms) = self.next_bound_ms() else { return Action::Fail };
        let left_ms = self.left_ms();
        if retry_after_ms >= left_ms {
            // Waiting as long as the server asks is the least, and there is no time for that.
            return Action::Fail;
        }
        let drawn_ms = spread(draw, bound_ms.max(retry_after_ms / 2));
        Action::Pause { pause_ms: retry_after_ms.saturating_add(drawn_ms).min(left_ms - 1) }
    }

    /// Counts an attempt and gives the bound of the pause before it; `None` when all are used up.
    fn next_bound_ms(&mut self) -> Option<u64> {
        if self.attempts >= self.retry.attempts_max {
            return None;
        }
        let doubled = self.retry.pause_ms.saturating_mul(1 << self.attempts.min(16));
        self.attempts += 1;
        Some(doubled.min(PAUSE_MS_MAX.max(self.retry.pause_ms)))
    }
}

/// Spreads 64 random bits evenly over 0 to `bound`, both included.
fn spread(draw: u64, bound: u64) -> u64 {
    ((u128::from(draw) * (u128::from(bound) + 1)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Goal = Goal { push: true, pull: true };
    const GONE: Event = Event::Unreachable { retry_after_ms: 0 };

    fn at(now_ms: u64, draw: u64) -> Moment {
        Moment { now_ms, draw }
    }

    fn retry(attempts_max: u32, pause_ms: u64) -> Retry {
        Retry { attempts_max, pause_ms, ..Retry::none() }
    }

    #[test]
    fn more_to_do_means_another_turn() {
        let mut session = Session::new(BOTH, Retry::none());
        let more = Absorbed { rows_received: 1, rows_rejected: 2, more: true, ..Absorbed::default() };
        assert_eq!(session.step(Event::Absorbed(more), at(0, 0)), Action::Prepare { schema: false });
        let last = Absorbed { more: false, ..more };
        assert_eq!(session.step(Event::Absorbed(last), at(0, 0)), Action::Done(session.totals()));
        assert_eq!((session.totals().rows_received, session.totals().rows_rejected), (2, 4));
    }

    #[test]
    fn an_idle_turn_is_followed_by_one_check_if_that_is_wanted() {
        let idle = Event::Absorbed(Absorbed { idle: true, ..Absorbed::default() });
        let mut session = Session::new(BOTH, Retry::none());
        assert_eq!(session.step(idle, at(0, 0)), Action::Done(Totals::default()));
        let mut session = Session::new(BOTH, Retry::none()).checking();
        assert_eq!(
            session.step(Event::Absorbed(Absorbed::default()), at(0, 0)),
            Action::Done(Totals::default())
        );
        assert_eq!(session.step(idle, at(0, 0)), Action::Check);
        assert_eq!(session.step(Event::Prepared, at(0, 0)), Action::Send);
        let repaired = Absorbed { rows_repaired: 2, idle: true, ..Absorbed::default() };
        let totals = Totals { rows_repaired: 2, ..Totals::default() };
        assert_eq!(session.step(Event::Absorbed(repaired), at(0, 0)), Action::Done(totals));
    }

    #[test]
    fn a_check_that_fails_or_has_nothing_to_do_fails_no_sync() {
        let idle = Event::Absorbed(Absorbed { idle: true, ..Absorbed::default() });
        for event in [GONE, Event::Refused(Reason::Denied), Event::Refused(Reason::Clone), Event::Unchecked] {
            let mut session = Session::new(BOTH, retry(3, 10)).checking();
            assert_eq!(session.step(idle, at(0, 0)), Action::Check);
            assert_eq!(session.step(event, at(0, 0)), Action::Done(Totals::default()));
        }
        // What comes of it is taken as any news: the check has found rows to send.
        let mut session = Session::new(BOTH, Retry::none()).checking();
        session.step(idle, at(0, 0));
        let more = Absorbed { more: true, ..Absorbed::default() };
        assert_eq!(session.step(Event::Absorbed(more), at(0, 0)), Action::Prepare { schema: false });
        assert_eq!(session.step(GONE, at(0, 0)), Action::Fail, "but then it is a sync again");
    }

    #[test]
    fn all_that_must_be_checked_is_checked_in_time_and_a_failure_is_one() {
        let rest = Event::Absorbed(Absorbed { unchecked: true, ..Absorbed::default() });
        let mut session = Session::new(BOTH, Retry { total_ms: 1_000, ..retry(1, 0) });
        session.step(Event::Start, at(0, 0));
        for now_ms in [0, 500, 999] {
            assert_eq!(session.step(rest, at(now_ms, 0)), Action::Check);
        }
        assert_eq!(session.step(rest, at(1_000, 0)), Action::Done(Totals::default()), "the next one goes on");
        let mut session = Session::new(BOTH, retry(1, 0));
        assert_eq!(session.step(rest, at(0, 0)), Action::Check);
        assert_eq!(session.step(GONE, at(0, 0)), Action::Pause { pause_ms: 0 });
        assert_eq!(session.step(Event::Resumed, at(0, 0)), Action::Prepare { schema: false });
        assert_eq!(session.step(GONE, at(0, 0)), Action::Fail);
        let mut session = Session::new(Goal { push: true, pull: false }, Retry::none());
        assert_eq!(session.step(rest, at(0, 0)), Action::Done(Totals::default()));
    }

    #[test]
    fn refusals_are_mended_but_not_for_ever() {
        let mut session = Session::new(BOTH, Retry::none());
        let mut refuse = |reason| session.step(Event::Refused(reason), at(0, 0));
        assert_eq!(refuse(Reason::NeedSchema), Action::Prepare { schema: true });
        for _ in 1..REFUSALS_MAX {
            assert_eq!(refuse(Reason::Clone), Action::Mend(Reason::Clone));
        }
        assert_eq!(refuse(Reason::Clone), Action::Fail);
        let mut session = Session::new(BOTH, Retry::none());
        assert_eq!(session.step(Event::Refused(Reason::SchemaConflict), at(0, 0)), Action::Fail);
    }

    #[test]
    fn unreachable_servers_are_tried_again_after_pauses_of_growing_bounds() {
        for (draw, expected) in [(u64::MAX, [100, 200, 400]), (1 << 63, [50, 100, 200]), (0, [0, 0, 0])] {
            let mut session = Session::new(BOTH, retry(3, 100));
            for pause_ms in expected {
                assert_eq!(session.step(GONE, at(0, draw)), Action::Pause { pause_ms });
                assert_eq!(session.step(Event::Resumed, at(0, draw)), Action::Prepare { schema: false });
            }
            assert_eq!(session.step(GONE, at(0, draw)), Action::Fail);
        }
    }

    #[test]
    fn bounds_stop_growing() {
        let longest = |pause_ms| {
            let mut session = Session::new(BOTH, retry(100, pause_ms));
            (0..100).map(|_| session.step(GONE, at(0, u64::MAX))).last()
        };
        assert_eq!(longest(7), Some(Action::Pause { pause_ms: PAUSE_MS_MAX }));
        assert_eq!(longest(90_000), Some(Action::Pause { pause_ms: 90_000 }), "the caller may say more");
        assert_eq!(longest(u64::MAX), Some(Action::Pause { pause_ms: u64::MAX - 1 }), "nothing overflows");
    }

    #[test]
    fn what_the_server_asks_for_is_the_least() {
        let busy = Event::Unreachable { retry_after_ms: 4_000 };
        for (draw, expected) in [(0, 4_000), (u64::MAX, 6_000)] {
            let mut session = Session::new(BOTH, retry(1, 10));
            assert_eq!(session.step(busy, at(0, draw)), Action::Pause { pause_ms: expected });
        }
        let mut session = Session::new(BOTH, retry(1, 30_000));
        assert_eq!(session.step(busy, at(0, u64::MAX)), Action::Pause { pause_ms: 34_000 });
    }

    #[test]
    fn the_total_time_ends_a_session_and_no_pause_reaches_beyond_it() {
        let limited = Retry { total_ms: 1_000, ..retry(9, 600) };
        let mut session = Session::new(BOTH, limited);
        session.step(Event::Start, at(5_000, 0));
        assert_eq!(session.step(GONE, at(5_500, u64::MAX)), Action::Pause { pause_ms: 499 });
        assert_eq!(session.step(Event::Resumed, at(5_999, 0)), Action::Prepare { schema: false });
        assert_eq!(session.left_ms(), 1);
        assert_eq!(session.step(GONE, at(6_000, u64::MAX)), Action::Fail);
        // With answers that never end, too.
        let mut session = Session::new(BOTH, limited);
        session.step(Event::Start, at(0, 0));
        let more = Event::Absorbed(Absorbed { more: true, ..Absorbed::default() });
        assert_eq!(session.step(more, at(999, 0)), Action::Prepare { schema: false });
        assert_eq!(session.step(more, at(1_000, 0)), Action::OutOfTime);
        // A server that asks for more than is left is not waited for at all.
        let mut session = Session::new(BOTH, limited);
        session.step(Event::Start, at(0, 0));
        assert_eq!(session.step(Event::Unreachable { retry_after_ms: 1_000 }, at(0, 0)), Action::Fail);
    }

    #[test]
    fn a_clock_that_jumps_back_neither_ends_a_session_nor_makes_it_endless() {
        let mut session = Session::new(BOTH, Retry { total_ms: 1_000, ..retry(9, 10) });
        session.step(Event::Start, at(1 << 40, 0));
        session.step(GONE, at((1 << 40) + 400, 0));
        assert_eq!(session.step(Event::Resumed, at(0, 0)), Action::Prepare { schema: false });
        assert_eq!(session.left_ms(), 600);
        assert_eq!(session.step(GONE, at(600, 0)), Action::Fail);
    }

    #[test]
    fn a_pull_that_brings_nothing_is_repeated_while_attempts_are_left() {
        let mut session = Session::new(BOTH, Retry { awaits_news: true, ..retry(1, 50) });
        let nothing = Event::Absorbed(Absorbed::default());
        // The caller's own wish to wait is no failure: chance does not shorten it.
        assert_eq!(session.step(nothing, at(0, 0)), Action::Pause { pause_ms: 50 });
        assert_eq!(session.step(nothing, at(0, 0)), Action::Done(Totals::default()));
        let mut session = Session::new(BOTH, retry(1, 50));
        assert_eq!(
            session.step(nothing, at(0, 0)),
            Action::Done(Totals::default()),
            "unless no news is awaited"
        );
    }

    /// After a storm of 503 a thousand devices that were sent away at the same moment return apart: in no tenth of a
    /// second more than a few times as many as there would be if they were spread evenly.
    #[test]
    fn a_storm_does_not_make_sessions_keep_step() {
        for retry_after_ms in [0, 1_000, 20_000] {
            let mut draw = 0x9E37_79B9_7F4A_7C15_u64;
            let mut sessions: alloc::vec::Vec<_> =
                (0..1_000).map(|_| Session::new(BOTH, retry(20, 500))).collect();
            let mut due_ms = alloc::vec![0_u64; sessions.len()];
            for round in 1..=4_u32 {
                for (session, due_ms) in sessions.iter_mut().zip(&mut due_ms) {
                    // xorshift64: any source that has nothing to do with the sessions.
                    draw ^= draw << 13;
                    draw ^= draw >> 7;
                    draw ^= draw << 17;
                    let moment = at(*due_ms, draw);
                    let Action::Pause { pause_ms } =
                        session.step(Event::Unreachable { retry_after_ms }, moment)
                    else {
                        panic!("attempts are left")
                    };
                    assert!(pause_ms >= retry_after_ms);
                    *due_ms += pause_ms;
                }
                let (first, last) =
                    (due_ms.iter().min().copied().unwrap_or(0), due_ms.iter().max().copied().unwrap_or(0));
                let slots = (last - first) / 100 + 1;
                let busiest = (0..slots)
                    .map(|slot| due_ms.iter().filter(|due| (**due - first) / 100 == slot).count() as u64)
                    .max()
                    .unwrap_or(0);
                assert!(
                    slots >= 5 << (round - 1),
                    "round {round}: all are back within {slots} tenths of a second"
                );
                assert!(
                    busiest <= 4 * (1_000 / slots) + 20,
                    "round {round}: {busiest} at once in {slots} slots"
                );
            }
        }
    }
}
