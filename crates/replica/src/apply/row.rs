//! One row on its way in: its clock is read, the pure rule decides, base row and clock are written.

use super::{Applier, Target, WAITS_FOR_REST, writer};
use crate::changes::{Mask, Origin};
use crate::clocks;
use crate::conflicts::{Conflicts, outdone, unstamped};
use crate::error::{Error, Result};
use crate::filter::{Privacy, Yielded, make_way};
use crate::given::GIVEN_VERSION;
use crate::rebuilt::fetch_again;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use crate::write::{Refused, Row, Writer};
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::rebase::{Unsent, keep_unsent, rebase};
use cloudsync_core::merge::{Action, Algorithm, Decision, decide};
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::payload::Group;
use std::cmp::Ordering;
use std::rc::Rc;

/// A row that came, its key in the tree of clocks, the clock that it has here and the one that it brings.
struct Arrival<'p> {
    row: Row<'p>,
    pk: Vec<u8>,
    stored: Option<RowClock>,
    incoming: RowClock,
    /// True when the other side does not know the row in this life.
    is_moved: bool,
}

/// What a row that came would do.
pub(crate) struct Wanted {
    pub(crate) action: Action,
    /// False for a deletion.
    pub(crate) is_alive: bool,
}

impl Arrival<'_> {
    /// What becomes of the row, and the cells whose values here are edits that were written unseen: in a table
    /// `in_doubt` those with another value under an equal clock.
    fn decide(
        &self,
        writer: &mut Writer,
        private: bool,
        in_doubt: bool,
        sites: &[SiteId],
    ) -> Result<(Decision, ColumnSet)> {
        let Self { row, stored, incoming, .. } = self;
        let (mut failed, mut edited) = (None, ColumnSet::new());
        // What is private was never written under the clock.
        let mut tie = |column: ColumnNumber| match writer.compare(row, column) {
            _ if private => false,
            Ok(Ordering::Equal) => false,
            Ok(order) if !in_doubt => order == Ordering::Greater,
            Ok(_) => {
                edited.insert(column);
                false
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        let (algorithm, whole) = (row.target.table.algorithm, row.group.whole());
        let decision = decide(algorithm, stored.as_ref(), incoming, whole, sites, &mut tie);
        writer.end_ties()?;
        failed.map_or(Ok((decision, edited)), Err)
    }

    /// True for a whole row that would be written in part, while it is gone: it was deleted outside of a filter, or behind
    /// the triggers. `private` says that it was marked as written there.
    fn is_gone(&self, writer: &mut Writer, private: bool, action: &Action) -> Result<bool> {
        let (Action::Update(columns), Some(stored)) = (action, &self.stored) else { return Ok(false) };
        let keeps_cells = || stored.columns.iter().any(|column| !columns.contains(column));
        Ok(self.row.group.whole() && (private || keeps_cells()) && !writer.has(&self.row)?)
    }

    /// What becomes of a row that is gone: it comes as if it had never been here. The clocks that are stored of it are later
    /// than some of what comes, and must not stand for values that never bore them.
    fn begin_anew(&self, sites: &[SiteId]) -> Decision {
        decide(self.row.target.table.algorithm, None, &self.incoming, true, sites, &mut |_| false)
    }

    /// What becomes of a row that the server sends in a later life than ours, where we have written to it and the server
    /// does not know. Of what it may have had before it sent this it hears once more, as a change of the row's present life.
    fn keep_unsent(&mut self, conflicts: &mut Conflicts, replica: &Replica) -> Result<Option<Decision>> {
        let Self { row, pk, stored, incoming, .. } = self;
        let is_cls = row.target.table.algorithm == Algorithm::Cls;
        let Some(stored) = stored.as_ref().filter(|stored| is_cls && stored.life < incoming.life) else {
            return Ok(None);
        };
        let Some(unsent) = conflicts.unsent(pk)?.filter(|_| row.group.whole()) else { return Ok(None) };
        let given = storage::get_u64(&replica.db, GIVEN_VERSION)?;
        let may_be_known = unsent.version <= replica.offered_version.max(replica.version_on_its_way()?);
        let what = match (&unsent.mask, unsent.mask.columns()) {
            (_, Some(columns)) => Unsent::Cells(columns),
            (Mask::Inserted, None) if may_be_known || unsent.version <= given => Unsent::Offered,
            (Mask::Inserted, None) => Unsent::Inserted,
            (_, None) => Unsent::Whole,
        };
        let kept = keep_unsent(stored, incoming, what, replica.own_site()?, replica.sites.ids());
        let differs = kept.as_ref().is_some_and(|kept| kept.clock.as_ref() != Some(incoming));
        self.is_moved = may_be_known && differs;
        Ok(kept)
    }
}

impl Applier {
    /// Takes in one row; gives the reason when it must wait.
    pub(super) fn row(
        &mut self,
        replica: &mut Replica,
        group: &Group<'_>,
        target: &Target,
        row: usize,
    ) -> Result<Option<String>> {
        let devices = self.is_devices();
        let mut arrival = self.arrival(replica, group, target, row)?;
        let pk = &arrival.pk;
        if let Some(reason) = replica.rolling_back.reason(pk) {
            return Ok(Some(reason));
        }
        let is_filtered = target.table.filter.is_some();
        let private = is_filtered && Privacy::of(&mut self.privacy, self.db)?.is_marked(pk)?;
        let in_doubt = self.doubtful.contains(&target.table.id);
        let is_servers = self.source.origin == Origin::Server && !private && !in_doubt;
        let kept = if is_servers { arrival.keep_unsent(&mut self.conflicts, replica)? } else { None };
        let guard = replica.guard.as_ref();
        let writer = writer(&mut self.writers, self.db, &target.table, replica.wants_parents(), guard)?;
        let (mut decision, edited) = match kept {
            Some(decision) => (decision, ColumnSet::new()),
            None => arrival.decide(writer, private, in_doubt, replica.sites.ids())?,
        };
        let is_gone = arrival.is_gone(writer, private, &decision.action)?;
        if is_gone {
            decision = arrival.begin_anew(replica.sites.ids());
        }
        let Arrival { row, pk, stored, incoming, .. } = &arrival;
        let yielded = if is_filtered { make_way(row, private, &decision.action, writer)? } else { None };
        let losses = match (&yielded, stored) {
            (Some(Yielded { action, cells }), _) => unstamped(row, incoming, action, cells),
            (None, Some(stored)) => {
                // A server is never out of doubt: it has nobody to compare with.
                let in_doubt = in_doubt && devices;
                self.conflicts.losses(row, stored, incoming, &decision.action, writer, in_doubt)?
            }
            (None, None) => None,
        };
        let action = yielded.as_ref().map_or(&decision.action, |yielded| &yielded.action);
        let outcome = if replica.checks_parents {
            let (family, lax) =
                (&mut replica.unsettled.family, !self.settles && !self.retries && !self.judged);
            family.carry_out(writer, row, action, (stored.as_ref(), decision.clock.as_ref()), lax, self.own)
        } else {
            writer.carry_out(row, action, decision.clock.as_ref())
        };
        match outcome {
            Ok(()) => {}
            // A trigger with RAISE(ROLLBACK) leaves nothing that the other rows could be added to.
            Err(Refused::Constraint(reason)) if self.db.is_autocommit() => {
                return Err(replica.rolling_back.leave_out(pk, &reason));
            }
            Err(Refused::Error(Error::RolledBack(reason))) => {
                return Err(replica.rolling_back.leave_out(pk, &reason));
            }
            Err(Refused::Constraint(reason)) => return Ok(Some(reason)),
            Err(Refused::Part) => return Ok(Some(WAITS_FOR_REST.to_owned())),
            Err(Refused::Error(error)) => return Err(error),
        }
        self.settle_privacy(row, pk, (&decision.action, yielded.as_ref()), is_gone)?;
        if !edited.is_empty() {
            self.edits.push((Rc::clone(&target.table), row.packed.to_vec(), edited));
        }
        if let Some(losses) = losses {
            self.conflicts.note(row, &losses, &replica.sites, replica.server_now_ms()?)?;
        }
        self.note(replica, arrival, &decision)?;
        Ok(None)
    }

    /// What a change was written over that was private here, or gone.
    fn settle_privacy(
        &mut self,
        row: &Row<'_>,
        pk: &[u8],
        (action, yielded): (&Action, Option<&Yielded>),
        is_gone: bool,
    ) -> Result<()> {
        match (&mut self.privacy, yielded) {
            (Some(privacy), Some(yielded)) => privacy.yielded(row, pk, &yielded.action)?,
            (Some(privacy), None) if is_gone => privacy.forget(pk)?,
            (Some(privacy), None) if row.target.table.filter.is_some() => privacy.written(row, pk, action)?,
            _ => {}
        }
        if is_gone && self.source.origin == Origin::File {
            // The server may have what was known of it and did not come again.
            fetch_again(&self.db)?;
        }
        Ok(())
    }

    /// What a row that came would do, without doing it; or the reason for which it is not tried.
    pub(crate) fn wanted(
        &mut self,
        replica: &Replica,
        group: &Group<'_>,
        target: &Target,
        row: usize,
    ) -> Result<Result<Wanted, String>> {
        let arrival = self.arrival(replica, group, target, row)?;
        if let Some(reason) = replica.rolling_back.reason(&arrival.pk) {
            return Ok(Err(reason));
        }
        let in_doubt = self.doubtful.contains(&target.table.id);
        let writer = self.writer(replica, &target.table)?;
        let (decision, _) = arrival.decide(writer, false, in_doubt, replica.sites.ids())?;
        Ok(Ok(Wanted { action: decision.action, is_alive: arrival.incoming.is_alive() }))
    }

    /// Reads and checks what came of a row, and what is stored of it.
    fn arrival<'p>(
        &mut self,
        replica: &Replica,
        group: &'p Group<'p>,
        target: &'p Target,
        at: usize,
    ) -> Result<Arrival<'p>> {
        let packed = group.key(at);
        if !target.table.is_key(packed) {
            let table = &target.table.name;
            return Err(Error::Protocol(format!("payload refused: a key of table \"{table}\" is damaged")));
        }
        let mut incoming = target.clock(group, at, replica)?;
        if !self.retries {
            self.check_time(&incoming, &target.table)?;
        }
        let pk = clocks::pk(target.table.id, packed);
        let stored = self.clocks.read(&pk)?;
        self.clone_seen |= self.is_of_clone(&incoming);
        let mut is_moved = false;
        if let (Origin::Site(sender), Some(stored), Algorithm::Cls) =
            (self.source.origin, &stored, target.table.algorithm)
            && let Some(moved) = rebase(stored, &incoming, group.inserted(), sender, replica.sites.ids())
        {
            (incoming, is_moved) = (moved, group.inserted());
        }
        let row = Row::new(self.db, group, target, packed, at);
        Ok(Arrival { row, pk, stored, incoming, is_moved })
    }

    /// Writes clock and list of changes for a row that was carried out.
    fn note(&mut self, replica: &Replica, arrival: Arrival<'_>, decision: &Decision) -> Result<()> {
        let Arrival { row, pk, stored, incoming, is_moved } = arrival;
        let table = row.target.table.id;
        self.told_of_deletion |= self.source.origin == Origin::Server && !incoming.is_alive();
        // What came by file the server may not have, and never moves the floor, also if it waited in the quarantine.
        if self.source.origin != Origin::File {
            let latest = incoming.time_max();
            self.floor = self.floor.max(latest);
            self.applied.time_max = self.applied.time_max.max(latest);
        }
        if let Origin::Site(sender) = self.source.origin {
            self.relayed.note(sender, &incoming, decision);
        }
        if is_moved {
            self.moved.push((table, row.packed.to_vec()));
        }
        if let Some(mask) = self.outdone(replica, stored.as_ref(), &incoming, &decision.action) {
            self.changes.push(table, row.packed, &mask)?;
        }
        let stays = |clock: &RowClock| stored.as_ref().is_some_and(|stored| stored.life == clock.life);
        let mask = match (&decision.action, &decision.clock) {
            (Action::Keep, None) | (Action::NeedWhole | Action::RefuseJump, _) => return Ok(()),
            (Action::Update(columns), clock) if clock.as_ref().is_none_or(stays) => {
                Mask::Columns(columns.clone())
            }
            _ => Mask::Whole,
        };
        if let Some(clock) = &decision.clock {
            self.clocks.write(&pk, clock, stored.is_none())?;
        }
        self.changes.push(table, row.packed, &mask)?;
        self.applied.rows += 1;
        if let Some(written) = &mut self.written {
            written.insert(pk);
        }
        Ok(())
    }

    /// True for a change that bears this very site and is later than all that was stamped here.
    fn is_of_clone(&self, incoming: &RowClock) -> bool {
        let foreign = |clock: &Clock| clock.site == self.own && clock.time > self.floor_before;
        foreign(&incoming.common) || incoming.exceptions.iter().any(|(_, clock)| foreign(clock))
    }

    /// On the server: what of an upload lost here.
    fn outdone(
        &self,
        replica: &Replica,
        stored: Option<&RowClock>,
        incoming: &RowClock,
        action: &Action,
    ) -> Option<Mask> {
        let Origin::Site(site) = self.source.origin else { return None };
        let lost = match action {
            Action::Keep => true,
            Action::Update(columns) => columns.len() < incoming.columns.len(),
            _ => false,
        };
        stored.filter(|_| lost).and_then(|stored| outdone(site, stored, incoming, replica.sites.ids()))
    }

    fn check_time(&self, incoming: &RowClock, table: &Table) -> Result<()> {
        // What was accepted once must stay acceptable when it is replaced, or a device that sends it again never gets on.
        let bound = self.source.time_max.map(|max| max.max(Time(self.floor_before.0.saturating_add(1_000))));
        if bound.is_some_and(|bound| incoming.time_max() > bound) {
            return Err(Error::ClockAhead(format!(
                "a change of table \"{}\" is stamped {} ms since 1970, more than {CLOCK_AHEAD_MS_MAX} ms ahead of the clock here: set the clocks right and encode again",
                table.name,
                incoming.time_max().0
            )));
        }
        Ok(())
    }
}
