//! How much work the policies of a round may cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cloudsync_protocol::limits::{CHECK_STEPS_MAX, POLICY_STEPS_MAX};
use rusqlite::Connection;

/// Steps of SQLite's machine between two looks at the bound.
const LOOK_STEPS: i64 = 10_000;
const UNBOUNDED: i64 = i64::MAX;

/// Most steps of SQLite's machine that policies may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySteps {
    /// For judging one round.
    pub round: u64,
    /// For one range check of a user's device.
    pub check: u64,
}

impl Default for PolicySteps {
    fn default() -> Self {
        Self { round: POLICY_STEPS_MAX, check: CHECK_STEPS_MAX }
    }
}

/// The bound of one connection. Only what runs in [`Work::within`] counts: nothing else is ever broken off.
#[derive(Debug, Clone)]
pub struct Work {
    /// Looks that are left.
    left: Arc<AtomicI64>,
    steps: PolicySteps,
}

impl Work {
    /// Sets the bound up for a connection.
    ///
    /// # Errors
    /// When SQLite does not take it.
    pub fn register(connection: &mut Connection, steps: PolicySteps) -> rusqlite::Result<Self> {
        let left = Arc::new(AtomicI64::new(UNBOUNDED));
        let looked = Arc::clone(&left);
        let look = move || {
            let left = looked.load(Ordering::Relaxed);
            if left != UNBOUNDED {
                looked.store(left - 1, Ordering::Relaxed);
            }
            left <= 0
        };
        connection.progress_handler(LOOK_STEPS as i32, Some(look))?;
        Ok(Self { left, steps })
    }

    /// The looks that a round may cause.
    #[must_use]
    pub const fn of_round(&self) -> i64 {
        self.steps.round as i64 / LOOK_STEPS
    }

    /// Those of a check.
    #[must_use]
    pub const fn of_check(&self) -> i64 {
        self.steps.check as i64 / LOOK_STEPS
    }

    /// Runs `act` with so many looks left, and takes off what it used. What exceeds them is interrupted.
    pub fn within<T>(&self, looks: &mut i64, act: impl FnOnce() -> T) -> T {
        self.left.store(*looks, Ordering::Relaxed);
        let _unbound = Unbound(self);
        let outcome = act();
        *looks = self.left.load(Ordering::Relaxed);
        outcome
    }
}

/// Takes the bound away, also when a panic unwinds.
struct Unbound<'w>(&'w Work);

impl Drop for Unbound<'_> {
    fn drop(&mut self) {
        self.0.left.store(UNBOUNDED, Ordering::Relaxed);
    }
}
