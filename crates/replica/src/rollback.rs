//! Triggers that roll back.
//!
//! `RAISE(ROLLBACK)` in a trigger of the app undoes the whole transaction, and with it all other rows of an apply. The row
//! at which that happened is remembered, and the apply is run again from its start without writing that row: it waits in
//! the quarantine, or is refused, like any other that a constraint does not let in.

use crate::error::{Error, Result};
use crate::replica::Replica;
use std::collections::HashMap;

/// What the reason of such a row begins with. It is tried again only when something changed here, since a try costs
/// another run.
pub(crate) const REASON: &str = "a trigger rolls back: ";
/// Rows that one call leaves out at most, each after a run of its own.
const ROWS_MAX: usize = 1_000;

/// The rows that are left out, with their reasons, by their keys in the tree of clocks.
#[derive(Debug, Default)]
pub(crate) struct RollingBack(HashMap<Vec<u8>, String>);

impl RollingBack {
    /// Why a row is left out.
    pub(crate) fn reason(&self, pk: &[u8]) -> Option<String> {
        // Mostly there are none.
        if self.0.is_empty() { None } else { self.0.get(pk).cloned() }
    }

    /// Remembers a row, and gives the error that ends the run.
    pub(crate) fn leave_out(&mut self, pk: &[u8], reason: &str) -> Error {
        self.0.insert(pk.to_vec(), format!("{REASON}{reason}"));
        rolled_back(reason)
    }
}

/// The error of a run that a trigger undid.
pub(crate) fn rolled_back(reason: &str) -> Error {
    Error::RolledBack(format!("the apply was rolled back by the database: {reason}"))
}

impl Replica {
    /// Runs an apply, and runs it again without the row at which a trigger rolled it back. Inside a transaction of the
    /// app there is nothing to run again: it is gone.
    ///
    /// # Errors
    /// What `act` gives.
    pub fn outlasting_rollbacks<T>(&mut self, mut act: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let is_ours = self.db.is_autocommit();
        self.rolling_back = RollingBack::default();
        loop {
            let known = self.rolling_back.0.len();
            let outcome = act(self);
            let again = is_ours
                && matches!(outcome, Err(Error::RolledBack(_)))
                && (known + 1..=ROWS_MAX).contains(&self.rolling_back.0.len());
            if !again {
                self.rolling_back = RollingBack::default();
                return outcome;
            }
        }
    }

    /// Fails when a trigger has rolled back the transaction in which the caller is.
    ///
    /// # Errors
    /// Then.
    pub fn require_transaction(&self) -> Result<()> {
        if self.db.is_autocommit() { Err(rolled_back("by a trigger")) } else { Ok(()) }
    }
}
