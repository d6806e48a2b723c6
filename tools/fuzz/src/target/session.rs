use cloudsync_protocol::client::{Absorbed, Action, Event, Goal, Moment, Retry, Session, Totals};
use cloudsync_protocol::message::{Answer, MessageError, Reason};

/// Steps after which a session that is told that there is nothing more must have ended.
const STEPS_MAX: u32 = 400;
const REASONS: [Reason; 9] = [
    Reason::NeedSchema,
    Reason::SchemaConflict,
    Reason::ClockSkew,
    Reason::Clone,
    Reason::Restored,
    Reason::LostChunks,
    Reason::BadPayload,
    Reason::Denied,
    Reason::PrincipalChanged,
];

/// What the input says, byte after byte; zeros behind its end.
struct Script<'s>(std::slice::Iter<'s, u8>);

impl Script<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        let size = self.next();
        let bytes = [self.next(), self.next(), self.next()];
        u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])) << (size % 42)
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

pub(super) fn run(bytes: &[u8]) {
    let mut script = Script(bytes.iter());
    let choices = script.next();
    let goal = Goal { push: choices & 1 == 0, pull: choices & 2 == 0 };
    let retry = Retry {
        attempts_max: u32::from(script.next() % 12),
        pause_ms: script.number(),
        awaits_news: choices & 4 != 0,
        total_ms: if choices & 8 == 0 { u64::MAX } else { script.number() },
    };
    let session = Session::new(goal, retry);
    let session = if choices & 16 == 0 { session } else { session.checking() };
    if choices & 32 == 0 { driven(session, retry, &mut script) } else { undriven(session, &mut script) }
}

/// A driver that does what it is told, with any answers.
fn driven(mut session: Session, retry: Retry, script: &mut Script<'_>) {
    let (mut now_ms, mut steps_left, mut turns) = (script.number(), STEPS_MAX, 0);
    let mut sums = Totals::default();
    let mut event = Event::Start;
    loop {
        let left_ms = session.left_ms();
        let action = session.step(event, Moment { now_ms, draw: script.number() });
        assert!(session.left_ms() <= left_ms, "time does not come back");
        assert_eq!(session.totals(), Totals { turns, ..sums });
        event = match action {
            Action::Prepare { .. } => {
                assert!(session.left_ms() > 0 || event == Event::Start);
                Event::Prepared
            }
            Action::Check if script.next().is_multiple_of(3) => Event::Unchecked,
            Action::Check => Event::Prepared,
            Action::Send => answered(script),
            Action::Absorb => Event::Absorbed(absorbed(script)),
            Action::Mend(_) => Event::Mended,
            Action::Pause { pause_ms } => {
                assert!(pause_ms < session.left_ms(), "a pause ends while there is time");
                assert!(session.attempts() <= retry.attempts_max);
                now_ms = now_ms.saturating_add(pause_ms);
                Event::Resumed
            }
            Action::Done(totals) => return assert_eq!(totals, session.totals()),
            Action::Fail => return,
            Action::OutOfTime => return assert_eq!(session.left_ms(), 0),
        };
        turns += u64::from(event == Event::Answered);
        if let Event::Absorbed(absorbed) = event {
            sums.rows_received += absorbed.rows_received;
            sums.rows_sent += absorbed.rows_sent;
            sums.rows_rejected += absorbed.rows_rejected;
            sums.rows_repaired += absorbed.rows_repaired;
        }
        now_ms = match script.next() {
            0..=199 => now_ms,
            200..=249 => now_ms.saturating_add(script.number()),
            // The clock is set back.
            _ => now_ms.saturating_sub(script.number()),
        };
        steps_left -= u32::from(script.is_over());
        assert!(steps_left > 0, "it ends");
    }
}

/// Events in any order: there is an action for each.
fn undriven(mut session: Session, script: &mut Script<'_>) {
    while !script.is_over() {
        let event = match script.next() % 9 {
            0 => Event::Start,
            1 => Event::Prepared,
            2 => Event::Answered,
            3 => Event::Absorbed(absorbed(script)),
            4 => Event::Refused(REASONS[usize::from(script.next()) % REASONS.len()]),
            5 => Event::Mended,
            6 => Event::Unchecked,
            7 => Event::Unreachable { retry_after_ms: script.number() },
            _ => Event::Resumed,
        };
        let moment = Moment { now_ms: script.number(), draw: script.number() };
        if let Action::Pause { pause_ms } = session.step(event, moment) {
            assert!(pause_ms < session.left_ms());
        }
    }
}

/// What came for a request: nothing, or bytes that are looked at as a driver does.
fn answered(script: &mut Script<'_>) -> Event {
    let reason = REASONS[usize::from(script.next()) % REASONS.len()];
    match script.next() % 4 {
        0 => Event::Answered,
        1 => Event::Refused(reason),
        2 => Event::Unreachable { retry_after_ms: script.number() },
        _ => {
            let bytes: Vec<u8> = (0..script.next()).map(|_| script.next()).collect();
            match Answer::decode(&crate::input::answer(0, &bytes)) {
                Ok(Answer::Turn(_)) => Event::Answered,
                Ok(Answer::Refusal(refusal)) => Event::Refused(refusal.reason),
                Err(MessageError::Version(_)) => Event::Refused(Reason::BadPayload),
                Err(_) => Event::Unreachable { retry_after_ms: 0 },
            }
        }
    }
}

fn absorbed(script: &mut Script<'_>) -> Absorbed {
    let flags = script.next();
    Absorbed {
        rows_received: u64::from(script.next()),
        rows_sent: u64::from(script.next()),
        rows_rejected: u64::from(flags >> 4),
        rows_repaired: u64::from(flags >> 6),
        more: flags & 1 != 0,
        idle: flags & 2 != 0,
        unchecked: flags & 4 != 0,
    }
}
