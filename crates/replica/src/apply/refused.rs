//! Rows that a constraint does not let in: tried again with the rest of their payload, exchanged with one another, and
//! tried again from the quarantine.

use super::{Applier, Source, Target, WAITS_FOR_REST};
use crate::changes::{ChangeWriter, Origin};
use crate::error::Result;
use crate::pieces;
use crate::quarantine::{self, QUARANTINE_DROPPED, RETRY_ROWS_MAX, Waiting};
use crate::replica::Replica;
use crate::storage;
use crate::write::{Refused, Row, Writer};
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_protocol::payload::{Group, Opened, Payload};

/// A row that was refused: its group, its place in it, and the reason.
pub(super) type Waits = (usize, usize, String);

/// Rows that may exchange their UNIQUE values at once; bounds the time that the attempts take.
const SWAP_ROWS_MAX: usize = 10_000;
/// How often one apply goes through the rows that were refused.
const WAIT_PASSES_MAX: usize = 64;
/// How often one apply goes through the quarantine: a row that gets in may let in another one.
const RETRY_PASSES_MAX: usize = 16;

impl Applier {
    /// Rows that were refused are tried again while that brings any of them in: a parent or the loser of a UNIQUE
    /// value may have come after them. Gives the rest.
    pub(crate) fn wait(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        mut waiting: Vec<Waits>,
    ) -> Result<Vec<Waits>> {
        for _ in 0..WAIT_PASSES_MAX {
            let before = waiting.len();
            let mut still = Vec::new();
            // Forth and back, so that a long chain in the wrong order comes in at once.
            for (at, row, _) in waiting.into_iter().rev() {
                let group = &payload.groups()[at];
                let Some(target) = Target::of(replica, group, sites) else { continue };
                if let Some(refused) = self.row(replica, group, &target, row)? {
                    still.push((at, row, refused));
                }
            }
            waiting = still;
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        self.swap(replica, payload, sites, waiting)
    }

    /// Rows that exchange UNIQUE values, as in a list that was put into another order, stand in one another's way. They
    /// are all taken out and put back with their new values. Gives the rows that still must wait.
    fn swap(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        waiting: Vec<Waits>,
    ) -> Result<Vec<Waits>> {
        let collides = |waits: &Waits| waits.2.contains("UNIQUE constraint failed");
        let (mut chosen, mut others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(collides);
        let cascades = self.db.query_i64("PRAGMA foreign_keys", &[])? == Some(1);
        while chosen.len() > 1 && chosen.len() <= SWAP_ROWS_MAX && !cascades {
            self.changes.flush()?;
            let (rows, savepoint) = (self.applied.rows, self.db.savepoint("cloudsync_swap")?);
            let failed = self.swap_all(replica, payload, sites, &chosen)?;
            self.writers.values_mut().for_each(Writer::forget_lifted);
            if failed.is_empty() {
                savepoint.commit()?;
                return Ok(others);
            }
            savepoint.rollback()?;
            self.applied.rows = rows;
            // These collide with rows that stay where they are.
            for (at, reason) in failed.into_iter().rev() {
                let (group, row, _) = chosen.remove(at);
                others.push((group, row, reason));
            }
        }
        others.append(&mut chosen);
        Ok(others)
    }

    /// Takes the rows out and puts them back; gives those that do not fit, by their place among the chosen.
    fn swap_all(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        chosen: &[Waits],
    ) -> Result<Vec<(usize, String)>> {
        for (at, row, _) in chosen {
            let group = &payload.groups()[*at];
            let Some(target) = Target::of(replica, group, sites) else { continue };
            let row = Row::new(self.db, group, &target, group.key(*row), *row);
            if let Some(writer) = self.writers.get_mut(&target.table.id) {
                match writer.lift(&row) {
                    Ok(()) | Err(Refused::Constraint(_) | Refused::Part) => {}
                    Err(Refused::Error(error)) => return Err(error),
                }
            }
        }
        let mut failed = Vec::new();
        for (place, (at, row, _)) in chosen.iter().enumerate() {
            let group = &payload.groups()[*at];
            let Some(target) = Target::of(replica, group, sites) else { continue };
            if let Some(reason) = self.row(replica, group, &target, *row)? {
                failed.push((place, reason));
            }
        }
        Ok(failed)
    }

    /// Puts a row of a payload into the quarantine.
    pub(crate) fn put_aside(
        &mut self,
        replica: &Replica,
        payload: &Payload<'_>,
        group: &Group<'_>,
        row: usize,
        reason: &str,
    ) -> Result<()> {
        let now = replica.server_now_ms()?;
        let id = self.quarantine.add(now, payload, group, row, reason, self.source.origin.code())?;
        let sets = pieces::sets(group, row);
        if !pieces::hold(&self.db, &sets, id)? {
            if self.is_devices() {
                self.quarantine.remove(id)?;
                return storage::count_up(&self.db, QUARANTINE_DROPPED, 1);
            }
            // It is refused at the end of the round.
            self.quarantine.keep(id, "there is no room for its large values")?;
        }
        self.applied.quarantined += 1;
        self.applied.parts += u64::from(reason == WAITS_FOR_REST);
        Ok(())
    }

    /// Keeps of a refused row only that it was, for its sender to be told.
    pub(crate) fn refuse(
        &mut self,
        replica: &Replica,
        group: &Group<'_>,
        row: usize,
        reason: &str,
    ) -> Result<()> {
        let now = replica.server_now_ms()?;
        self.applied.quarantined += 1;
        self.quarantine.refuse(now, group.table(), group.key(row), reason, self.source.origin.code())
    }

    /// Tries the rows that wait, oldest first, while that lets any of them in; what gets in leaves the quarantine.
    pub(crate) fn retry_quarantine(&mut self, replica: &mut Replica) -> Result<()> {
        self.retries = true;
        loop {
            let mut waiting = self.quarantine.read()?;
            let all = waiting.len();
            for _ in 0..RETRY_PASSES_MAX {
                let before = waiting.len();
                self.retry(replica, &mut waiting)?;
                if waiting.is_empty() || waiting.len() == before {
                    break;
                }
            }
            // Whatever let these in may let in the next ones.
            if waiting.len() == all || (all as i64) < RETRY_ROWS_MAX {
                break;
            }
        }
        self.retries = false;
        quarantine::answer(&self.db)
    }

    /// Changes that come in late are of the origin that they came from, and thus of a version of their own.
    pub(crate) fn turn_to(&mut self, replica: &Replica, origin: Origin) -> Result<()> {
        if origin == self.source.origin {
            return Ok(());
        }
        let next = ChangeWriter::begin(&self.db, replica.now_ms())?;
        let Source { origin: finished, base, .. } = self.source;
        std::mem::replace(&mut self.changes, next).finish(&self.db, finished, base)?;
        // The version that was just finished took the number.
        self.changes = ChangeWriter::begin(&self.db, replica.now_ms())?;
        self.source = Source { origin, time_max: None, base };
        Ok(())
    }

    fn retry(&mut self, replica: &mut Replica, all: &mut Vec<Waiting>) -> Result<()> {
        let mut still = Vec::new();
        for waiting in all.drain(..) {
            if waiting.rests {
                still.push(waiting);
                continue;
            }
            self.turn_to(replica, Origin::from_code(waiting.origin)?)?;
            let opened = Opened::open(&waiting.change, &crate::codec::Zstd)?;
            let payload = opened.payload()?;
            let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&self.db, *site));
            let sites = sites.collect::<Result<Vec<_>>>()?;
            let mut refused = None;
            for group in payload.groups() {
                let Some(target) = Target::of(replica, group, &sites) else { continue };
                for row in 0..group.rows() {
                    if !pieces::are_complete(&self.db, &pieces::sets(group, row))? {
                        refused = Some(waiting.reason.clone());
                        continue;
                    }
                    refused = self.row(replica, group, &target, row)?.or(refused);
                }
            }
            match refused {
                None => self.quarantine.remove(waiting.id)?,
                Some(reason) => {
                    self.quarantine.keep(waiting.id, &reason)?;
                    still.push(waiting);
                }
            }
        }
        *all = still;
        Ok(())
    }
}
