//! When to look, when to try again, and whether the machine has slept. Pure: time and chance are handed in.

use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at, by the time since anything happened: at once while an app is being used, and seldom
/// enough to cost nothing where nobody has written for minutes.
const LOOK: [(Duration, Duration); 2] = [
    (Duration::from_secs(4), Duration::from_millis(10)),
    (Duration::from_secs(300), Duration::from_millis(40)),
];
const LOOK_IDLE: Duration = Duration::from_millis(250);
/// How far the two clocks may run apart between two looks before the machine must have slept, or its clock was set.
const JUMP: Duration = Duration::from_secs(5);

/// How long to sleep until the next look, when nothing has happened for so long.
pub(super) fn look_pause(quiet: Duration) -> Duration {
    LOOK.iter().find(|(within, _)| quiet < *within).map_or(LOOK_IDLE, |(_, pause)| *pause)
}

/// Growing pauses, of random length so that devices that lost the same server do not come back as one.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: random, below a bound that begins with `first_ms`, doubles with each failure and
    /// ends with `max_ms`.
    pub(super) fn pause(&mut self, first_ms: u64, max_ms: u64, draw: u64) -> Duration {
        let bound_ms = first_ms.saturating_mul(1 << self.failures.min(20)).min(max_ms);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(5 + draw % bound_ms.max(1))
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The clock on the wall and the one that only runs while the machine does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    pub(super) wall: SystemTime,
    pub(super) running: Instant,
}

impl Clocks {
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), running: Instant::now() }
    }

    /// Whether the machine slept between these two, or its clock was set: then connections are dead and what was waited
    /// for may be over.
    pub(super) fn jumped_until(&self, later: &Self) -> bool {
        let ran = later.running.duration_since(self.running);
        match later.wall.duration_since(self.wall) {
            Ok(passed) => passed.abs_diff(ran) > JUMP,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_again() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..9).map(|_| backoff.pause(500, 30_000, u64::MAX - 1).as_millis()).collect();
        assert!(longest.iter().all(|ms| (5..30_005).contains(ms)), "{longest:?}");
        let mut bounds = Backoff::default();
        let most: Vec<_> =
            [500, 1000, 2000].map(|bound| bounds.pause(500, 30_000, bound - 1).as_millis()).into();
        assert_eq!(most, [504, 1004, 2004]);
        for _ in 0..100 {
            assert!(backoff.pause(500, 30_000, 29_999) <= Duration::from_millis(30_004));
        }
        assert_eq!(backoff.failures(), 109);
        backoff.reset();
        assert_eq!(backoff.pause(500, 30_000, 499), Duration::from_millis(504));
    }

    #[test]
    fn looking_gets_rarer() {
        let pauses: Vec<_> = [0, 3, 5, 299, 301, 99_999]
            .map(|quiet| look_pause(Duration::from_secs(quiet)).as_millis())
            .into();
        assert_eq!(pauses, [10, 10, 40, 40, 250, 250]);
    }

    #[test]
    fn a_sleep_or_a_set_clock_is_noticed() {
        let before = Clocks::now();
        let after = |wall: i64, running: u64| {
            let wall_later = Duration::from_secs(wall.unsigned_abs());
            let wall = if wall < 0 { before.wall - wall_later } else { before.wall + wall_later };
            before.jumped_until(&Clocks { wall, running: before.running + Duration::from_secs(running) })
        };
        assert!(!after(0, 0) && !after(300, 300) && !after(4, 0));
        assert!(after(3600, 1) && after(-10, 1) && after(0, 60));
    }
}
