//! CPU and wall time of an act.

use anyhow::Result;
use std::ffi::c_long;
use std::time::Instant;

unsafe extern "C" {
    /// Processor time of this process, in units of [`CLOCKS_PER_SECOND`].
    safe fn clock() -> c_long;
}

/// Fixed by POSIX whatever the clock's real resolution.
const CLOCKS_PER_SECOND: f64 = 1_000_000.0;

/// What an act took, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Processor time, user and system.
    pub(crate) cpu_s: f64,
    /// Elapsed time.
    pub(crate) wall_s: f64,
}

impl Cost {
    /// The cost of one of `count` equal acts.
    pub(crate) fn divided_by(self, count: usize) -> Self {
        Self { cpu_s: self.cpu_s / count as f64, wall_s: self.wall_s / count as f64 }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { cpu_s: self.cpu_s + other.cpu_s, wall_s: self.wall_s + other.wall_s }
    }
}

/// Runs an act and gives what it took with what it gave.
pub(crate) fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
    let (cpu, wall) = (clock(), Instant::now());
    let outcome = act()?;
    let cost =
        Cost { cpu_s: (clock() - cpu) as f64 / CLOCKS_PER_SECOND, wall_s: wall.elapsed().as_secs_f64() };
    Ok((cost, outcome))
}

/// The middle value, 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
