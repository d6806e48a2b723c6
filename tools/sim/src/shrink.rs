//! Looks for a shorter history that fails in the same way.

use crate::options::{Case, KINDS};
use std::time::{Duration, Instant};

/// Most steps that a plan has.
const TICKS_MAX: u64 = crate::plan::CALM_TICKS;

/// What the search has found so far.
struct Search<'r> {
    best: Case,
    kind: String,
    end: Instant,
    run: &'r mut dyn FnMut(&Case) -> Result<u64, String>,
}

/// Leaves out of a failing case what makes no difference to its failure, for as long as `patience`.
pub(crate) fn shrink(
    case: &Case,
    what: &str,
    patience: Duration,
    run: &mut dyn FnMut(&Case) -> Result<u64, String>,
) -> Case {
    let best = Case { trace: false, hashes: false, watched: None, ..case.clone() };
    let mut search = Search { best, kind: kind(what), end: Instant::now() + patience, run };
    search.shorten();
    for kind in KINDS {
        search.attempt(|case| {
            case.without.insert(kind);
        });
    }
    for devices in 1..8 {
        if search.attempt(|case| case.devices = Some(devices)) {
            break;
        }
    }
    search.skip();
    search.shorten();
    search.best
}

/// A failure without its numbers and names.
fn kind(what: &str) -> String {
    what.chars().take(60).filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(40).collect()
}

impl Search<'_> {
    /// Tries a change; keeps it if the case still fails in the same way.
    fn attempt(&mut self, change: impl FnOnce(&mut Case)) -> bool {
        let mut case = self.best.clone();
        change(&mut case);
        if case == self.best || Instant::now() > self.end {
            return false;
        }
        let fails = (self.run)(&case).is_err_and(|what| kind(&what) == self.kind);
        if fails {
            self.best = case;
        }
        fails
    }

    /// Ends earlier.
    fn shorten(&mut self) {
        let mut low = 0;
        let mut high = self.best.until.unwrap_or(TICKS_MAX);
        while low + 1 < high {
            let middle = u64::midpoint(low, high);
            if self.attempt(|case| case.until = Some(middle)) {
                high = middle;
            } else {
                low = middle;
            }
        }
    }

    /// Leaves out steps, many at once first.
    fn skip(&mut self) {
        let until = self.best.until.unwrap_or(TICKS_MAX);
        let mut length = until.div_ceil(2);
        while length > 0 {
            let mut first = 1;
            while first <= until {
                let last = (first + length - 1).min(until);
                if !(first..=last).all(|tick| self.best.is_skipped(tick)) {
                    self.attempt(|case| case.skip(first, last));
                }
                first = last + 1;
            }
            length /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_difference_is_left_out() {
        let case = Case { seed: 7, ..Case::default() };
        let mut runs = 0;
        let mut run = |case: &Case| {
            runs += 1;
            let has = |tick| !case.is_skipped(tick) && case.until.is_none_or(|until| tick <= until);
            let fails =
                has(100) && has(311) && !case.without.contains("disks") && case.devices.is_none_or(|d| d > 2);
            if fails { Err(format!("lost: row {runs}")) } else { Ok(0) }
        };
        let best = shrink(&case, "lost: row 0", Duration::from_secs(60), &mut run);
        let shown =
            "--seed 7 --devices 3 --until 311 --skip 1-99,101-310 --without alterations --without claims";
        assert!(best.to_string().starts_with(shown), "{best}");
        assert!(!best.without.contains("disks"));
        assert!(runs < 200, "{runs}");
    }
}
