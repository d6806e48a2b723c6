//! `aws`: a write wins over a deletion that has not seen it.
//!
//! The state of a row is what is known of its cells, the last write of any of them, and the deletion that has seen the
//! most. Cells go on being joined while the row is dead. It is alive exactly if the last write is later than all that
//! the deletion has seen; a write at the earliest time there is, of a row from before its table synced, revives nothing.
//!
//! A deletion that has seen less than the last write says nothing any more and is forgotten, so a row that was never
//! deleted, or came back, is stored like any other.

use super::{Action, Decision, compare_cells, merge_cells};
use crate::clock::{Clock, ColumnNumber, RowClock, TIME_INITIAL};
use crate::id::SiteId;
use crate::marks::{Deletion, Marks};
use alloc::vec::Vec;
use core::cmp::Ordering;

fn is_outlived(deletion: &Deletion, write: Clock, sites: &[SiteId]) -> bool {
    write.time > TIME_INITIAL && write.order(&deletion.seen, sites) == Ordering::Greater
}

impl RowClock {
    /// Makes the canonical clock of a row of an `aws` table: from the clocks of its cells, in ascending order, from
    /// that of the last write that is known (of a cell or of a column that is unknown here), and from its deletion.
    #[must_use]
    pub fn from_writes(
        cells: &[(ColumnNumber, Clock)],
        write: Clock,
        deletion: Option<Deletion>,
        sites: &[SiteId],
    ) -> Self {
        let last = cells.iter().map(|(_, clock)| *clock).reduce(|last, clock| last.latest(clock, sites));
        let write = last.map_or(write, |last| write.latest(last, sites));
        let deletion = deletion.filter(|deletion| !is_outlived(deletion, write, sites));
        let life = if deletion.is_some() { 2 } else { 1 };
        let is_of_cell = last.is_none_or(|last| last == write);
        let marks = Marks { boundary: None, write: (!is_of_cell).then_some(write), deletion };
        Self::from_cells(life, write, cells, sites).with_marks(marks)
    }

    /// The last write of a row of an `aws` table.
    #[must_use]
    pub fn last_write(&self, sites: &[SiteId]) -> Clock {
        let marked = self.marks.as_ref().and_then(|marks| marks.write);
        let cells = self.exceptions.iter().map(|(_, clock)| *clock);
        cells.chain(marked).fold(self.common, |last, clock| last.latest(clock, sites))
    }
}

pub(super) fn decide(
    stored: Option<&RowClock>,
    incoming: &RowClock,
    whole: bool,
    sites: &[SiteId],
    tie: &mut dyn FnMut(ColumnNumber) -> bool,
) -> Decision {
    let Some(stored) = stored else {
        return match (whole, incoming.is_alive()) {
            (false, _) => Decision::unchanged(Action::NeedWhole),
            (true, true) => Decision::adopt(Action::Insert, incoming),
            (true, false) => Decision::adopt(Action::Bury(incoming.columns.clone()), incoming),
        };
    };
    let (written, later) = compare_cells(stored, incoming, sites, tie);
    let joined = join(stored, incoming, &later, sites);
    let action = match (stored.is_alive(), joined.is_alive()) {
        (true, true) | (false, false) if written.is_empty() => Action::Keep,
        (true, true) => Action::Update(written),
        (_, false) => Action::Bury(written),
        (false, true) => Action::Revive(written),
    };
    Decision { action, clock: (joined != *stored).then_some(joined) }
}

fn join(
    stored: &RowClock,
    incoming: &RowClock,
    later: &[(ColumnNumber, Clock)],
    sites: &[SiteId],
) -> RowClock {
    let cells = merge_cells(stored, later);
    let write = stored.last_write(sites).latest(incoming.last_write(sites), sites);
    let deletions: Vec<_> = stored.deletion().into_iter().chain(incoming.deletion()).collect();
    let deletion = deletions.into_iter().max_by(|a, b| a.order(b, sites));
    RowClock::from_writes(&cells, write, deletion, sites)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::SITES;
    use crate::clock::{ColumnSet, SiteOrdinal, Time};
    use crate::merge::{Algorithm, local};

    fn clock(time: u64, site: u32) -> Clock {
        Clock::new(Time(time), SiteOrdinal(site))
    }

    fn merge(stored: &RowClock, incoming: &RowClock) -> Decision {
        super::decide(Some(stored), incoming, true, &SITES, &mut |_| false)
    }

    /// X writes at 5, Y at 7 without having seen that, and Z deletes having seen one of the two.
    #[test]
    fn a_write_that_the_deletion_had_not_seen_brings_the_row_back_if_it_is_later() {
        let first = RowClock::alive(1, clock(1, 0), ColumnSet::first(2));
        let at = |time, site| super::super::overlay(&first, &[(ColumnNumber(0), clock(time, site))], &SITES);
        let (x, y) = (at(5, 0), at(7, 1));
        let deleted = |seen| local::delete(Algorithm::Aws, seen, clock(9, 2), &SITES);
        let revived = merge(&deleted(&x), &y);
        assert_eq!(revived.action, Action::Revive([ColumnNumber(0)].into_iter().collect()));
        assert_eq!(revived.clock, merge(&y, &deleted(&x)).clock.or(Some(y.clone())));
        // The earlier write counts as seen, whatever the order.
        assert_eq!(merge(&deleted(&y), &x), Decision::unchanged(Action::Keep));
        let both = merge(&x, &y).clock.unwrap();
        assert_eq!(merge(&both, &deleted(&y)).clock, Some(deleted(&y)));
    }

    #[test]
    fn rows_from_before_their_table_synced_revive_nothing() {
        let initial =
            |site| RowClock::alive(1, Clock::new(TIME_INITIAL, SiteOrdinal(site)), ColumnSet::first(1));
        let dead = local::delete(Algorithm::Aws, &initial(1), clock(5, 1), &SITES);
        for site in 0..3 {
            let joined = merge(&dead, &initial(site)).clock.unwrap_or_else(|| dead.clone());
            assert!(!joined.is_alive());
            assert!(!merge(&initial(site), &dead).clock.unwrap().is_alive());
        }
    }
}
