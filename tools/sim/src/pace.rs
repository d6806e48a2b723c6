//! What counts as busy, and devices that do as much and hardly more, so that what a simulated hour costs can be compared.

use crate::world::World;

pub(crate) const MS_PER_HOUR: u64 = 3_600_000;
/// Rows that a device of a busy world writes in an hour.
pub(crate) const ROWS: u64 = 60;
/// Syncs that it begins in an hour.
pub(crate) const SYNCS: u64 = 12;
/// What a paced device does more than it must, in percent: the last hour may end before its due is done.
const MARGIN_PERCENT: u64 = 1;

/// What a device did so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Activity {
    pub(crate) rows: u64,
    pub(crate) syncs: u64,
}

/// What a paced device does no more often than it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Write,
    Sync,
}

impl Activity {
    /// True while less was done of it than was due after so many milliseconds.
    pub(crate) const fn is_behind(&self, deed: Deed, elapsed_ms: u64) -> bool {
        let (done, due) = match deed {
            Deed::Write => (self.rows, ROWS),
            Deed::Sync => (self.syncs, SYNCS),
        };
        done * MS_PER_HOUR * 100 < due * elapsed_ms * (100 + MARGIN_PERCENT)
    }
}

impl World {
    /// Whether a device may do that now. Where nobody is paced, always.
    pub(crate) fn may(&self, at: usize, deed: Deed) -> bool {
        !self.plan.is_paced || self.devices[at].activity.is_behind(deed, self.awake_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_paced_does_as_much_as_a_busy_device_must() {
        let mut activity = Activity::default();
        for minute in 0..10 * 60 {
            for deed in [Deed::Write, Deed::Sync] {
                while activity.is_behind(deed, minute * 60_000) {
                    match deed {
                        Deed::Write => activity.rows += 3,
                        Deed::Sync => activity.syncs += 1,
                    }
                }
            }
        }
        assert!((10 * ROWS..=10 * ROWS * 103 / 100).contains(&activity.rows), "{activity:?}");
        assert!((10 * SYNCS..=10 * SYNCS * 103 / 100).contains(&activity.syncs), "{activity:?}");
    }
}
