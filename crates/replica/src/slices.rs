//! Long work in short transactions, so that an app beside us never finds the file locked for long.
//!
//! Two things may be cut at any place, because nobody sees a half that means something else: a fold, whose slices are
//! versions of their own, and the first download into empty tables, which shows its progress anyway. A slice is as large
//! as the last ones were fast. Between two of them the lock is free for a moment, for apps that do not wait their turn.
//!
//! What must appear in one commit, as a later download, holds the lock for as long as it takes (`docs/auto.md`).

use crate::apply::{Applier, Source, in_order};
use crate::changes::Origin;
use crate::codec::Zstd;
use crate::device::Sent;
use crate::error::Result;
use crate::replica::Replica;
use crate::storage;
use cloudsync_protocol::message::Turn;
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_sqlite_ffi::Value;

/// For how long a slice shall hold the write lock, in milliseconds; one that finds slower rows than the last takes up to
/// twice as long.
const LOCK_MS_TARGET: u64 = 100;
/// Rows of the smallest and of the largest slice, and of the first one.
const SLICE_ROWS: (usize, usize, usize) = (256, 1 << 17, 1 << 13);
/// Longest time for which the lock is left alone between two slices, in milliseconds.
const GAP_MS_MAX: u64 = 10;

/// How many rows a slice may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    rows: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: SLICE_ROWS.2 }
    }
}

impl Pace {
    /// After a slice of full size that took so long.
    const fn learn(self, took_ms: u64) -> Self {
        let rows = if took_ms > LOCK_MS_TARGET {
            self.rows / 2
        } else if took_ms < LOCK_MS_TARGET / 3 {
            self.rows * 2
        } else {
            self.rows
        };
        let (least, most, _) = SLICE_ROWS;
        Self {
            rows: if rows < least {
                least
            } else if rows > most {
                most
            } else {
                rows
            },
        }
    }
}

impl Replica {
    /// Folds in slices until at most one is left. Inside the app's transaction there is nothing to gain.
    pub(crate) fn fold_ahead(&mut self) -> Result<()> {
        while self.db.is_autocommit() && self.notes()? > self.fold_pace.rows {
            let notes = self.fold_pace.rows as i64;
            let took_ms = self.timed(|replica| replica.transact(|replica| replica.fold_up_to(notes)))?.1;
            self.fold_pace = self.fold_pace.learn(took_ms);
        }
        Ok(())
    }

    /// About how many notes there are.
    fn notes(&self) -> Result<usize> {
        // language=SQLite
        let sql = "SELECT 1 + (SELECT max(rowid) FROM main.cloudsync_log) - (SELECT min(rowid) FROM main.cloudsync_log)";
        Ok(self.db.query_i64(sql, &[])?.and_then(|notes| usize::try_from(notes).ok()).unwrap_or(0))
    }

    /// Applies the chunk of a first download but for its last slice. Gives the rows that were applied, of which the rest
    /// of the answer is not to be told again, and those that changed.
    ///
    /// The answer is not taken in by that: if anything breaks off, the same chunk comes again and changes nothing.
    pub(crate) fn apply_ahead(&mut self, sent: &Sent, turn: &Turn<'_>) -> Result<(usize, u64)> {
        let none = Ok((0, 0));
        // Verdicts and what was accepted go before the rows of the same answer.
        if turn.payload.is_empty() || turn.accepted.is_some() || !self.db.is_autocommit() {
            return none;
        }
        if !self.is_progressive(sent, turn)? {
            return none;
        }
        let opened = Opened::open(turn.payload, &Zstd)?;
        let payload = opened.payload()?;
        if payload.has_references() || !payload.pieces().is_empty() || !payload.evicted().is_empty() {
            return none;
        }
        let order = in_order(&payload);
        let (mut at, mut rows) = (0, 0);
        while order.len() - at > self.apply_pace.rows {
            let slice = &order[at..at + self.apply_pace.rows];
            let (changed, took_ms) = self.timed(|replica| {
                replica.outlasting_rollbacks(|replica| {
                    replica.with_apply_settings(|replica| {
                        replica.transact(|replica| replica.apply_slice(sent, &payload, slice))
                    })
                })
            })?;
            // Another process has been faster.
            let Some(changed) = changed else { break };
            self.apply_pace = self.apply_pace.learn(took_ms);
            at += slice.len();
            rows += changed;
        }
        Ok((at, rows))
    }

    fn apply_slice(
        &mut self,
        sent: &Sent,
        payload: &Payload<'_>,
        rows: &[(usize, usize)],
    ) -> Result<Option<u64>> {
        self.require_same_user(sent)?;
        if !self.is_at(sent)? {
            return Ok(None);
        }
        storage::set(&self.db, "progressive", Value::Integer(1))?;
        self.fold_in_transaction()?;
        let base = storage::get_u64(&self.db, "cursor")?;
        let source = Source { origin: Origin::Server, time_max: None, base };
        let mut applier = Applier::begin(self, source)?;
        applier.slice(self, payload, rows)?;
        let applied = applier.finish(self)?;
        self.raise_settled(applied.time_max.0)?;
        Ok(Some(applied.rows))
    }

    /// Runs a slice, gives how long that took in milliseconds, and leaves the lock alone for a moment.
    fn timed<T>(&mut self, slice: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, u64)> {
        let began = self.now_ms();
        let outcome = slice(self)?;
        // A clock that is set meanwhile costs a slice of another size.
        let took_ms = self.now_ms().saturating_sub(began);
        self.environment.pause((took_ms / 8).clamp(1, GAP_MS_MAX));
        Ok((outcome, took_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_as_large_as_the_last_ones_were_fast() {
        let (least, most, first) = SLICE_ROWS;
        let after = |times: &[u64]| times.iter().fold(Pace::default(), |pace, took| pace.learn(*took)).rows;
        assert_eq!(after(&[LOCK_MS_TARGET]), first);
        assert_eq!(after(&[LOCK_MS_TARGET + 1]), first / 2);
        assert_eq!(after(&[0]), first * 2);
        assert_eq!(after(&[0; 60]), most);
        assert_eq!(after(&[u64::MAX; 60]), least);
    }
}
