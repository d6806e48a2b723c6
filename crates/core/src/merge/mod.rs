//! The rule: what a replica does with a change of a row. `docs/merge.md` proves that it forms a join.
//!
//! [`decide`] takes the row's stored clock and the incoming one and gives the action on the base table and the clock
//! that the row has afterwards. It looks at values only through `tie`, and only where two clocks are equal. This module
//! is the one place where the rule of each [`Algorithm`] is written: replicas, the server and the simulator all call
//! it. [`local`] says what local writes make of a clock.

mod algorithm;
mod aws;
mod dws;
pub mod local;
pub mod rebase;

pub use algorithm::Algorithm;

use crate::clock::{Clock, ColumnNumber, ColumnSet, LIFE_JUMP_MAX, RowClock};
use crate::id::SiteId;
use crate::marks::Marks;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// What to do with the base row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Leave it as it is.
    Keep,
    /// It does not exist: insert it with the incoming values.
    Insert,
    /// It exists in an older life: remove it and insert the incoming values.
    Replace,
    /// It exists: write these columns.
    Update(ColumnSet),
    /// It exists: delete it.
    Delete,
    /// It is dead from here on and keeps its values: those of these columns come in, the others stay what they are,
    /// in the base row if there is one (`aws`).
    Bury(ColumnSet),
    /// It was dead and comes back with the values that it kept, but for those of these columns, which come in (`aws`).
    Revive(ColumnSet),
    /// The change carries a part of a row that this replica does not have; it must wait for the whole row.
    NeedWhole,
    /// The change raises the causal length by more than [`LIFE_JUMP_MAX`]; no replica makes such a change.
    RefuseJump,
}

/// The outcome of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do with the base row.
    pub action: Action,
    /// The row's clock afterwards; `None` when it stays what it is.
    pub clock: Option<RowClock>,
}

impl Decision {
    const fn unchanged(action: Action) -> Self {
        Self { action, clock: None }
    }

    fn adopt(action: Action, incoming: &RowClock) -> Self {
        Self { action, clock: Some(incoming.clone()) }
    }
}

/// Decides what a change does to a row of a table that merges by `algorithm`.
///
/// `stored` is the row's clock here, `None` if this replica never knew the row. `incoming` holds the clocks that the
/// change carries, by this replica's column numbers and site ordinals; `whole` says that it carries every cell of
/// the row that its sender knew. `sites` is indexed by site ordinal. `tie` answers, for a cell whose two clocks are
/// equal, whether the incoming value is the larger one ([`crate::value::ValueRef::tie_order`]); only clones and
/// forgers make such cells, so a caller that trusts its source answers `false` without looking.
#[must_use]
pub fn decide(
    algorithm: Algorithm,
    stored: Option<&RowClock>,
    incoming: &RowClock,
    whole: bool,
    sites: &[SiteId],
    tie: &mut dyn FnMut(ColumnNumber) -> bool,
) -> Decision {
    match algorithm {
        Algorithm::Cls => decide_cls(stored, incoming, whole, sites, tie),
        Algorithm::Dws => dws::decide(stored, incoming, whole, sites, tie),
        Algorithm::Aws => aws::decide(stored, incoming, whole, sites, tie),
        Algorithm::Gos if !incoming.is_alive() => Decision::unchanged(Action::Keep),
        Algorithm::Gos => match stored {
            Some(stored) => join_cells(stored, incoming, sites, tie),
            None => begin_life(None, incoming, whole),
        },
    }
}

fn decide_cls(
    stored: Option<&RowClock>,
    incoming: &RowClock,
    whole: bool,
    sites: &[SiteId],
    tie: &mut dyn FnMut(ColumnNumber) -> bool,
) -> Decision {
    let stored_life = stored.map_or(0, |row| row.life);
    if incoming.life > stored_life.saturating_add(LIFE_JUMP_MAX) {
        return Decision::unchanged(Action::RefuseJump);
    }
    match (stored, incoming.life.cmp(&stored_life)) {
        (_, Ordering::Less) => Decision::unchanged(Action::Keep),
        (Some(stored), Ordering::Equal) if stored.is_alive() => join_cells(stored, incoming, sites, tie),
        (Some(stored), Ordering::Equal) => join_tombstones(stored, incoming, sites),
        _ => begin_life(stored, incoming, whole),
    }
}

fn begin_life(stored: Option<&RowClock>, incoming: &RowClock, whole: bool) -> Decision {
    let exists = stored.is_some_and(RowClock::is_alive);
    match (incoming.is_alive(), exists) {
        (true, _) if !whole => {
            crate::reached!("merge: a part of an unknown row");
            Decision::unchanged(Action::NeedWhole)
        }
        (true, true) => {
            crate::reached!("merge: a later life replaces a living row");
            Decision::adopt(Action::Replace, incoming)
        }
        (true, false) => Decision::adopt(Action::Insert, incoming),
        (false, true) => Decision::adopt(Action::Delete, incoming),
        (false, false) => Decision::adopt(Action::Keep, incoming),
    }
}

fn join_tombstones(stored: &RowClock, incoming: &RowClock, sites: &[SiteId]) -> Decision {
    if incoming.common.order(&stored.common, sites) == Ordering::Greater {
        crate::reached!("merge: two deletions of one life");
        Decision::adopt(Action::Keep, incoming)
    } else {
        Decision::unchanged(Action::Keep)
    }
}

fn join_cells(
    stored: &RowClock,
    incoming: &RowClock,
    sites: &[SiteId],
    tie: &mut dyn FnMut(ColumnNumber) -> bool,
) -> Decision {
    let (written, later) = compare_cells(stored, incoming, sites, tie);
    let row_is_later = stored.columns.is_empty()
        && incoming.columns.is_empty()
        && incoming.common.order(&stored.common, sites) == Ordering::Greater;
    let clock = if row_is_later {
        Some(incoming.clone())
    } else if later.is_empty() {
        None
    } else {
        Some(overlay(stored, &later, sites))
    };
    let action = if written.is_empty() { Action::Keep } else { Action::Update(written) };
    Decision { action, clock }
}

/// The columns whose incoming values win, and those of them whose clocks do, in ascending order.
fn compare_cells(
    stored: &RowClock,
    incoming: &RowClock,
    sites: &[SiteId],
    tie: &mut dyn FnMut(ColumnNumber) -> bool,
) -> (ColumnSet, Vec<(ColumnNumber, Clock)>) {
    let mut written = ColumnSet::new();
    let mut later: Vec<(ColumnNumber, Clock)> = Vec::new();
    for (column, clock) in incoming.cells() {
        let order = match stored.cell(column) {
            None => Ordering::Greater,
            Some(known) => clock.order(&known, sites),
        };
        match order {
            Ordering::Less => {}
            Ordering::Equal => {
                crate::reached!("merge: two values under one clock");
                if tie(column) {
                    written.insert(column);
                }
            }
            Ordering::Greater => {
                written.insert(column);
                later.push((column, clock));
            }
        }
    }
    (written, later)
}

/// A row as it travelled, its clocks by this replica's column numbers and site ordinals.
#[derive(Debug)]
pub struct Travelled<'a> {
    /// Its causal length.
    pub life: u64,
    /// The clock that it has where it has no cells.
    pub row: Clock,
    /// The cells of columns that are known here, in ascending order.
    pub cells: &'a [(ColumnNumber, Clock)],
    /// The last of all the cells that travelled, also of columns that are unknown here; of none, `row`.
    pub last: Clock,
    /// Its marks.
    pub marks: Option<Marks>,
}

/// The clock of a row that travelled, for [`decide`]; `None` when its life and its marks are not of the algorithm.
#[must_use]
pub fn received(algorithm: Algorithm, travelled: &Travelled<'_>, sites: &[SiteId]) -> Option<RowClock> {
    let Travelled { life, row, cells, last, marks } = *travelled;
    let is_alive = life % 2 == 1;
    let marks = marks.unwrap_or_default();
    let life = if algorithm == Algorithm::Cls { life } else { 2 - life % 2 };
    let is_fitting = match algorithm {
        Algorithm::Cls | Algorithm::Gos => marks.is_empty(),
        Algorithm::Dws => marks.write.is_none() && marks.deletion.is_none() && (is_alive || marks.is_empty()),
        Algorithm::Aws => marks.boundary.is_none() && is_alive == marks.deletion.is_none(),
    };
    is_fitting.then(|| match algorithm {
        Algorithm::Aws => {
            let write = marks.write.map_or(last, |write| write.latest(last, sites));
            RowClock::from_writes(cells, write, marks.deletion, sites)
        }
        _ => RowClock::from_cells(life, row, cells, sites).with_marks(marks),
    })
}

/// The row clock with the `later` cells, in ascending order, in place of its own.
#[must_use]
pub fn overlay(stored: &RowClock, later: &[(ColumnNumber, Clock)], sites: &[SiteId]) -> RowClock {
    let cells = merge_cells(stored, later);
    match stored.marks.as_deref() {
        None => RowClock::from_cells(stored.life, stored.common, &cells, sites),
        Some(marks) if marks.boundary.is_some() => {
            RowClock::from_cells(stored.life, stored.common, &cells, sites).with_marks(*marks)
        }
        Some(marks) => RowClock::from_writes(&cells, stored.last_write(sites), marks.deletion, sites),
    }
}

/// The cells of a row with the `later` ones, both in ascending order, in place of its own.
fn merge_cells(stored: &RowClock, later: &[(ColumnNumber, Clock)]) -> Vec<(ColumnNumber, Clock)> {
    let mut cells = Vec::with_capacity(stored.columns.len() + later.len());
    let mut later = later.iter().copied().peekable();
    for (column, clock) in stored.cells() {
        while let Some(earlier) = later.next_if(|(c, _)| *c < column) {
            cells.push(earlier);
        }
        match later.next_if(|(c, _)| *c == column) {
            Some(replaced) => cells.push(replaced),
            None => cells.push((column, clock)),
        }
    }
    cells.extend(later);
    cells
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::{SITES, any_row};
    use crate::clock::{SiteOrdinal, Time};
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    /// A row as a naive model keeps it: life, clock of deletion or of a row without cells, and cells with values.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    struct Model {
        clock: Option<RowClock>,
        values: BTreeMap<u16, u8>,
    }

    impl Model {
        fn apply(&mut self, incoming: &RowClock, values: &BTreeMap<u16, u8>) {
            let own = self.values.clone();
            let mut tie = |column: ColumnNumber| values.get(&column.0) > own.get(&column.0);
            let decision = decide(Algorithm::Cls, self.clock.as_ref(), incoming, true, &SITES, &mut tie);
            match decision.action {
                Action::Keep | Action::NeedWhole | Action::RefuseJump => {}
                Action::Insert | Action::Replace => self.values = values.clone(),
                Action::Update(columns) => {
                    for column in columns.iter() {
                        self.values.insert(column.0, values[&column.0]);
                    }
                }
                Action::Delete | Action::Bury(_) | Action::Revive(_) => self.values.clear(),
            }
            if let Some(clock) = decision.clock {
                self.clock = Some(clock);
            }
        }
    }

    fn any_change() -> impl Strategy<Value = (RowClock, BTreeMap<u16, u8>)> {
        (any_row(), 0..3u8).prop_map(|(row, seed)| {
            let values = row.columns.iter().map(|c| (c.0, seed.wrapping_add(c.0 as u8))).collect();
            (row, values)
        })
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_one_result(
            changes in prop::collection::vec(any_change(), 1..8),
            shuffle in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        ) {
            let mut forward = Model::default();
            changes.iter().for_each(|(row, values)| forward.apply(row, values));
            let mut other = Model::default();
            for index in &shuffle {
                let (row, values) = index.get(&changes);
                other.apply(row, values);
            }
            changes.iter().rev().for_each(|(row, values)| other.apply(row, values));
            prop_assert_eq!(forward, other);
        }

        #[test]
        fn merging_a_merged_state_is_the_same_as_merging_its_parts(
            left in prop::collection::vec(any_change(), 1..5),
            right in prop::collection::vec(any_change(), 1..5),
        ) {
            let mut a = Model::default();
            left.iter().for_each(|(row, values)| a.apply(row, values));
            let mut b = Model::default();
            right.iter().for_each(|(row, values)| b.apply(row, values));
            let mut one_by_one = a.clone();
            right.iter().for_each(|(row, values)| one_by_one.apply(row, values));
            a.apply(b.clock.as_ref().unwrap(), &b.values);
            prop_assert_eq!(a, one_by_one);
        }
    }

    fn clock(time: u64, site: u32) -> Clock {
        Clock::new(Time(time), SiteOrdinal(site))
    }

    fn never(_: ColumnNumber) -> bool {
        false
    }

    #[test]
    fn a_delete_beats_concurrent_updates() {
        let alive = RowClock::alive(1, clock(9, 0), ColumnSet::first(2));
        let dead = RowClock::tombstone(2, clock(3, 1));
        assert_eq!(
            decide(Algorithm::Cls, Some(&alive), &dead, true, &SITES, &mut never).action,
            Action::Delete
        );
        assert_eq!(
            decide(Algorithm::Cls, Some(&dead), &alive, true, &SITES, &mut never).action,
            Action::Keep
        );
    }

    #[test]
    fn equal_values_still_take_the_later_clock() {
        let stored = RowClock::alive(1, clock(1, 0), ColumnSet::first(1));
        let incoming = RowClock::alive(1, clock(3, 0), ColumnSet::first(1));
        let decision = decide(Algorithm::Cls, Some(&stored), &incoming, false, &SITES, &mut never);
        assert_eq!(decision.clock, Some(incoming));
    }

    #[test]
    fn a_part_of_an_unknown_row_waits() {
        let part = RowClock::alive(1, clock(3, 0), ColumnSet::first(1));
        assert_eq!(decide(Algorithm::Cls, None, &part, false, &SITES, &mut never).action, Action::NeedWhole);
        let next_life = RowClock::alive(3, clock(3, 0), ColumnSet::first(1));
        assert_eq!(
            decide(Algorithm::Cls, Some(&part), &next_life, false, &SITES, &mut never).action,
            Action::NeedWhole
        );
    }

    #[test]
    fn a_column_outside_the_common_set_loses_to_anything() {
        let stored = RowClock::alive(1, clock(100, 0), ColumnSet::first(1));
        let added = ColumnNumber(1);
        let incoming = RowClock::alive(1, clock(90, 1), [added].into_iter().collect());
        let decision = decide(Algorithm::Cls, Some(&stored), &incoming, false, &SITES, &mut never);
        assert_eq!(decision.action, Action::Update([added].into_iter().collect()));
        assert_eq!(decision.clock.unwrap().cell(added), Some(clock(90, 1)));
    }

    #[test]
    fn a_leap_of_lives_is_refused() {
        let incoming = RowClock::alive(LIFE_JUMP_MAX + 1, clock(1, 0), ColumnSet::first(1));
        assert_eq!(
            decide(Algorithm::Cls, None, &incoming, true, &SITES, &mut never).action,
            Action::RefuseJump
        );
        // The longest step that one change may take, and one that is longer.
        let stored = RowClock::alive(1, clock(1, 0), ColumnSet::first(1));
        for (step, action) in [(LIFE_JUMP_MAX, Action::Replace), (LIFE_JUMP_MAX + 2, Action::RefuseJump)] {
            let incoming = RowClock::alive(1 + step, clock(1, 0), ColumnSet::first(1));
            let decision = decide(Algorithm::Cls, Some(&stored), &incoming, true, &SITES, &mut never);
            assert_eq!(decision.action, action);
        }
    }
}
