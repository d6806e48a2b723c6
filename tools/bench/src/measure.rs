//! CPU and wall time of an act, and the middle of several.

use anyhow::{Result, anyhow};
use std::ffi::c_long;
use std::time::Instant;

unsafe extern "C" {
    /// Processor time of this process, in units of [`CLOCKS_PER_SECOND`].
    safe fn clock() -> c_long;
}

/// Fixed by POSIX whatever the clock's real resolution.
const CLOCKS_PER_SECOND: f64 = 1_000_000.0;

/// The function whose instructions callgrind counts, by the name that it has in the binary.
pub(crate) const COUNTED_FUNCTION: &str = "cloudsync_bench_counted";

/// What an act took, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// Processor time, user and system.
    pub(crate) cpu_s: f64,
    /// Elapsed time.
    pub(crate) wall_s: f64,
}

impl Cost {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { cpu_s: self.cpu_s + other.cpu_s, wall_s: self.wall_s + other.wall_s }
    }
}

/// Runs an act and gives what it took with what it gave.
pub(crate) fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
    let (mut act, mut outcome) = (Some(act), None);
    let (cpu, wall) = (clock(), Instant::now());
    cloudsync_bench_counted(&mut || outcome = act.take().map(|act| act()));
    let cost =
        Cost { cpu_s: (clock() - cpu) as f64 / CLOCKS_PER_SECOND, wall_s: wall.elapsed().as_secs_f64() };
    Ok((cost, outcome.ok_or_else(|| anyhow!("the measured act did not run"))??))
}

/// Calls `act`. Callgrind counts only while it is inside this function, so it must stay one, with this name.
#[unsafe(no_mangle)]
#[inline(never)]
fn cloudsync_bench_counted(act: &mut dyn FnMut()) {
    act();
}

/// The middle value; `None` of none.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some((values[n / 2 - 1] + values[n / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn an_act_gives_its_outcome_and_its_error() {
        assert_eq!(timed(|| Ok(7)).unwrap().1, 7);
        assert!(timed(|| Err::<(), _>(anyhow!("no"))).is_err());
    }
}
