//! What holds for every row: on its way from replica to replica, when its stamps are made anew, and without cells.

use super::local::restamp;
use super::*;
use crate::clock::tests::{SITES, any_clock, any_marked_row, any_row};
use crate::clock::{SiteOrdinal, Time};
use crate::marks::Deletion;
use proptest::prelude::*;

fn clock(time: u64, site: u32) -> Clock {
    Clock::new(Time(time), SiteOrdinal(site))
}

fn never(_: ColumnNumber) -> bool {
    false
}

/// A row as its sender puts it on its way.
fn arrive(algorithm: Algorithm, row: &RowClock) -> Option<RowClock> {
    let cells: Vec<_> = row.cells().collect();
    let last = cells.iter().map(|(_, clock)| *clock).reduce(|one, other| one.latest(other, &SITES));
    let travelled = Travelled {
        life: row.life,
        row: row.common,
        cells: &cells,
        last: last.unwrap_or(row.common),
        marks: row.marks.as_deref().copied(),
    };
    received(algorithm, &travelled, &SITES)
}

fn later(clock: Clock) -> Clock {
    Clock::new(Time(clock.time.0 + 100), clock.site)
}

proptest! {
    #[test]
    fn a_row_arrives_as_it_was(row in any_row(), marked in any_marked_row()) {
        prop_assert_eq!(arrive(Algorithm::Cls, &row), Some(row.clone()));
        // The others do not count lives.
        let uncounted = RowClock { life: if row.is_alive() { 1 } else { 2 }, ..row.clone() };
        prop_assert_eq!(arrive(Algorithm::Gos, &row), Some(uncounted.clone()));
        prop_assert_eq!(arrive(Algorithm::Dws, &row), Some(uncounted));
        let (own, other) = if marked.boundary().is_some() {
            (Algorithm::Dws, Algorithm::Aws)
        } else {
            (Algorithm::Aws, Algorithm::Dws)
        };
        prop_assert_eq!(arrive(own, &marked), Some(marked.clone()));
        if marked.marks.is_some() {
            for algorithm in [other, Algorithm::Cls, Algorithm::Gos] {
                prop_assert_eq!(arrive(algorithm, &marked), None);
            }
        }
    }

    #[test]
    fn stamps_made_anew_are_all_anew(row in any_marked_row()) {
        prop_assert_eq!(&restamp(&row, |_| false, &SITES, |_, clock| clock, |clock| clock), &row);
        let moved = restamp(&row, |_| true, &SITES, |_, clock| later(clock), later);
        prop_assert_eq!(&moved.columns, &row.columns);
        prop_assert!(moved.cells().eq(row.cells().map(|(column, clock)| (column, later(clock)))));
        prop_assert_eq!(moved.boundary(), row.boundary().map(later));
        prop_assert_eq!(moved.life, row.life);
        prop_assert_eq!(moved.last_write(&SITES), later(row.last_write(&SITES)));
        let deletion = row.deletion().map(|deletion| Deletion {
            seen: moved.last_write(&SITES),
            clock: later(deletion.clock),
        });
        prop_assert_eq!(moved.deletion(), deletion);
    }

    /// A write on top leaves the row in its one form: marks that say less than the cells are gone.
    #[test]
    fn what_is_written_on_top_leaves_one_form(row in any_marked_row(), column in 0..5u16, time in 1..9u64) {
        let algorithm = if row.boundary().is_some() { Algorithm::Dws } else { Algorithm::Aws };
        let at = clock(time, 1).after(row.cell(ColumnNumber(column)));
        let written = overlay(&row, &[(ColumnNumber(column), at)], &SITES);
        prop_assert_eq!(written.cell(ColumnNumber(column)), Some(at));
        prop_assert_eq!(written.boundary(), row.boundary());
        prop_assert_eq!(arrive(algorithm, &written), Some(written.clone()));
    }

    #[test]
    fn every_mark_is_mapped(row in any_marked_row()) {
        let marks = row.marks.as_deref().copied().unwrap_or_default();
        prop_assert!(marks.map(later).clocks().eq(marks.clocks().map(later)));
        prop_assert_eq!(marks.try_map(|clock| Ok::<_, ()>(later(clock))), Ok(marks.map(later)));
        prop_assert_eq!(marks.try_map(|_| Err(())).is_err(), !marks.is_empty());
        prop_assert_eq!(marks.is_empty(), marks.clocks().count() == 0);
    }

    /// The latest of all, not the earliest, in whatever order they come.
    #[test]
    fn of_rows_without_cells_the_latest_stays(clocks in prop::collection::vec(any_clock(), 1..6), life in 1..3u64) {
        let row = |clock| RowClock { life, ..RowClock::alive(1, clock, ColumnSet::new()) };
        let mut stored = row(clocks[0]);
        for clock in &clocks {
            let decision = decide(Algorithm::Cls, Some(&stored), &row(*clock), true, &SITES, &mut never);
            prop_assert_eq!(decision.action, Action::Keep);
            stored = decision.clock.unwrap_or(stored);
        }
        let latest = clocks.iter().copied().reduce(|one, other| one.latest(other, &SITES));
        prop_assert_eq!(Some(stored.common), latest);
    }
}

#[test]
fn the_kinds_of_marks_are_told_apart() {
    let at = clock(3, 1);
    let boundary = Marks { boundary: Some(at), ..Marks::default() };
    let write = Marks { write: Some(at), ..Marks::default() };
    let deletion = Marks { deletion: Some(Deletion { seen: at, clock: at }), ..Marks::default() };
    assert_eq!(Marks::default().kinds(), [false; 3]);
    assert_eq!(boundary.kinds(), [true, false, false]);
    assert_eq!(write.kinds(), [false, true, false]);
    assert_eq!(deletion.kinds(), [false, false, true]);
    for marks in [boundary, write, deletion] {
        assert!(!marks.is_empty());
    }
}

/// What was written last may be a column that is unknown here, and then nothing here shows it but a mark.
#[test]
fn a_later_write_of_an_unknown_column_is_kept_as_a_mark() {
    let cells = [(ColumnNumber(0), clock(4, 0))];
    let travelled = |marks| Travelled { life: 1, row: clock(4, 0), cells: &cells, last: clock(7, 1), marks };
    let arrived =
        |marks| received(Algorithm::Aws, &travelled(marks), &SITES).map(|row| row.last_write(&SITES));
    assert_eq!(arrived(None), Some(clock(7, 1)));
    let write = |time| Some(Marks { write: Some(clock(time, 2)), ..Marks::default() });
    assert_eq!(arrived(write(9)), Some(clock(9, 2)));
    assert_eq!(arrived(write(5)), Some(clock(7, 1)));
}

/// A row is dead by its life and by a deletion, or by neither.
#[test]
fn a_row_whose_life_and_marks_contradict_each_other_is_not_taken() {
    let at = clock(4, 0);
    let deletion = Some(Marks { deletion: Some(Deletion { seen: at, clock: at }), ..Marks::default() });
    let boundary = Some(Marks { boundary: Some(at), ..Marks::default() });
    let takes = |algorithm, life, marks| {
        received(algorithm, &Travelled { life, row: at, cells: &[], last: at, marks }, &SITES).is_some()
    };
    assert!(takes(Algorithm::Aws, 1, None) && takes(Algorithm::Aws, 2, deletion));
    assert!(!takes(Algorithm::Aws, 2, None) && !takes(Algorithm::Aws, 1, deletion));
    assert!(!takes(Algorithm::Aws, 1, boundary));
    assert!(takes(Algorithm::Dws, 1, boundary) && takes(Algorithm::Dws, 2, None));
    assert!(!takes(Algorithm::Dws, 2, boundary) && !takes(Algorithm::Dws, 1, deletion));
    let write = Some(Marks { write: Some(at), ..Marks::default() });
    assert!(!takes(Algorithm::Dws, 1, write) && takes(Algorithm::Aws, 1, write));
    assert!(!takes(Algorithm::Cls, 1, boundary) && !takes(Algorithm::Gos, 1, boundary));
}

#[test]
fn a_row_of_a_gos_table_takes_no_deletion() {
    let (alive, dead) =
        (RowClock::alive(1, clock(3, 0), ColumnSet::first(2)), RowClock::tombstone(2, clock(9, 1)));
    for stored in [None, Some(&alive)] {
        let decision = decide(Algorithm::Gos, stored, &dead, true, &SITES, &mut never);
        assert_eq!(decision, Decision::unchanged(Action::Keep));
    }
    let later = RowClock::alive(1, clock(5, 1), ColumnSet::first(2));
    let decision = decide(Algorithm::Gos, Some(&alive), &later, false, &SITES, &mut never);
    assert_eq!(decision, Decision { action: Action::Update(ColumnSet::first(2)), clock: Some(later) });
}
