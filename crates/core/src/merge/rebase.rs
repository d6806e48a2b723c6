//! Changes that belong to an older life than the one they meet, because their author had not heard of it: the insertion
//! of a key that was deleted elsewhere, and what is written on top of one before its author hears that it was moved.
//!
//! An insertion begins life 1 where its author knew nothing of the row. If others have deleted the row meanwhile, it would
//! lose to a deletion that was never meant for it. So it is moved into the life after the deletion. That is no part of
//! the join, for a second copy of an old insertion would come back to life in the same way: it is done only where the
//! change arrives for the first time ([`rebase`], on the server, in rounds that happen once), and where it has not left
//! yet ([`keep_unsent`], on the device that made it). Stamps stay as they are. `docs/merge.md` has the reasons.

use super::{Action, Algorithm, Decision, decide, merge_cells};
use crate::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal};
use crate::id::SiteId;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// A change of a `cls` row by `author` in the life into which it is moved; `None` when it stays in its own.
///
/// `stored` is what the others know. `change` must not have been merged into it before. `inserted` says that the author
/// inserted the row without knowing anything of it.
///
/// - An insertion goes into the life after a deletion, and into the present life of a row that lives.
/// - Another change of a living row in which the author has cells of a later life than its own: only moving an insertion
///   can have brought them there, so the author has not heard of that yet. It goes the same way.
/// - All other changes stay: a deletion beats concurrent changes of a row that their author knew.
#[must_use]
pub fn rebase(
    stored: &RowClock,
    change: &RowClock,
    inserted: bool,
    author: SiteOrdinal,
    sites: &[SiteId],
) -> Option<RowClock> {
    let is_authors = |clock: Clock| clock.site == author;
    if stored.life <= change.life || !change.clocks().all(is_authors) {
        return None;
    }
    let moved = |life| Some(RowClock { life, ..change.clone() });
    match (stored.is_alive(), change.is_alive()) {
        (false, true) if inserted => moved(stored.life + 1),
        (true, true) if inserted => moved(stored.life),
        (true, alive) => {
            let mut own = shown(stored).filter(|clock| is_authors(*clock)).peekable();
            own.peek()?;
            if alive {
                return moved(stored.life);
            }
            // A deletion is later than all that it deletes; else it is one from before the row was inserted again.
            let is_later = own.all(|clock| change.common.order(&clock, sites) == Ordering::Greater);
            if is_later { moved(stored.life + 1) } else { None }
        }
        (false, _) => None,
    }
}

/// The clocks of a row's cells; of a row without cells, its own.
fn shown(row: &RowClock) -> impl Iterator<Item = Clock> + '_ {
    let own = row.columns.is_empty().then_some(row.common);
    row.cells().map(|(_, clock)| clock).chain(own)
}

/// What of a row has not been sent, or not been answered yet.
#[derive(Debug, Clone, Copy)]
pub enum Unsent<'a> {
    /// The row was inserted here, and nobody has heard of it.
    Inserted,
    /// The same, but the server may have it, though it has not said so.
    Offered,
    /// It was written as a whole, or deleted.
    Whole,
    /// These cells.
    Cells(&'a ColumnSet),
}

/// What a device does with a row of a later life that the server sends, while it has written to that row itself: what
/// is unsent is moved as the server will move it, and the two are merged. `None` when nothing is moved.
///
/// `incoming` is the whole row, `stored` what the device, which is `own`, has of it.
#[must_use]
pub fn keep_unsent(
    stored: &RowClock,
    incoming: &RowClock,
    unsent: Unsent<'_>,
    own: SiteOrdinal,
    sites: &[SiteId],
) -> Option<Decision> {
    let change = match unsent {
        Unsent::Cells(columns) if stored.is_alive() => {
            let cells: Vec<_> = stored.cells().filter(|(column, _)| columns.contains(*column)).collect();
            let (_, first) = cells.first()?;
            RowClock::from_cells(stored.life, *first, &cells, sites)
        }
        Unsent::Cells(_) | Unsent::Inserted | Unsent::Offered | Unsent::Whole => stored.clone(),
    };
    let inserted = match unsent {
        Unsent::Inserted => true,
        // A deletion that had seen it would be later.
        Unsent::Offered => {
            incoming.is_alive()
                || change.clocks().all(|clock| clock.order(&incoming.common, sites) == Ordering::Greater)
        }
        Unsent::Whole | Unsent::Cells(_) => false,
    };
    let moved = rebase(incoming, &change, inserted, own, sites)?;
    crate::reached!("merge: a change is rebased");
    let merged = decide(Algorithm::Cls, Some(incoming), &moved, true, sites, &mut |_| false);
    let merged = merged.clock.unwrap_or_else(|| incoming.clone());
    if !(merged.is_alive() && incoming.is_alive()) {
        return Some(Decision::adopt(Action::Keep, &merged));
    }
    let is_new = |column: &ColumnNumber| {
        merged.cell(*column) == incoming.cell(*column) && merged.cell(*column) != stored.cell(*column)
    };
    let written: ColumnSet = incoming.columns.iter().filter(is_new).collect();
    // Columns that the server does not know.
    let others: Vec<_> = stored.cells().filter(|(column, _)| merged.cell(*column).is_none()).collect();
    let cells = merge_cells(&merged, &others);
    let clock = RowClock::from_cells(merged.life, merged.common, &cells, sites);
    let action = if written.is_empty() { Action::Keep } else { Action::Update(written) };
    Some(Decision { action, clock: Some(clock) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::clock::tests::SITES;
    use proptest::prelude::*;

    const OWN: SiteOrdinal = SiteOrdinal(0);
    const OTHER: SiteOrdinal = SiteOrdinal(1);

    fn at(time: u64, site: SiteOrdinal) -> Clock {
        Clock::new(Time(time), site)
    }

    fn row(life: u64, cells: &[(u16, u64, SiteOrdinal)]) -> RowClock {
        let cells: Vec<_> =
            cells.iter().map(|(column, time, site)| (ColumnNumber(*column), at(*time, *site))).collect();
        RowClock::from_cells(life, cells[0].1, &cells, &SITES)
    }

    fn moved(stored: &RowClock, change: &RowClock, inserted: bool) -> Option<RowClock> {
        rebase(stored, change, inserted, OWN, &SITES)
    }

    #[test]
    fn an_insertion_goes_into_the_life_after_a_deletion_that_its_author_never_heard_of() {
        let inserted = row(1, &[(0, 5, OWN), (1, 7, OWN)]);
        for deleted_at in [1, 100] {
            let dead = RowClock::tombstone(2, at(deleted_at, OTHER));
            assert_eq!(moved(&dead, &inserted, true), Some(RowClock { life: 3, ..inserted.clone() }));
            // An edit of a row that its author knew, and a copy of what somebody else wrote.
            assert_eq!(moved(&dead, &inserted, false), None);
            assert_eq!(rebase(&dead, &inserted, true, OTHER, &SITES), None);
            assert_eq!(moved(&dead, &row(1, &[(0, 5, OWN), (1, 7, OTHER)]), true), None);
        }
        let again = row(3, &[(0, 5, OWN), (1, 7, OWN)]);
        assert_eq!(moved(&RowClock::tombstone(2, at(9, OTHER)), &again, true), None, "it knew");
        // Somebody else was faster: the two insertions merge.
        let living = row(5, &[(0, 6, OTHER), (1, 6, OTHER)]);
        assert_eq!(moved(&living, &inserted, true), Some(RowClock { life: 5, ..inserted }));
    }

    #[test]
    fn what_its_author_writes_before_it_hears_of_that_goes_the_same_way() {
        let living = row(3, &[(0, 5, OWN), (1, 6, OTHER)]);
        let edit = row(1, &[(1, 8, OWN)]);
        assert_eq!(moved(&living, &edit, false).map(|row| row.life), Some(3));
        let deletion = RowClock::tombstone(2, at(9, OWN));
        assert_eq!(moved(&living, &deletion, false), Some(RowClock::tombstone(4, at(9, OWN))));
        // A deletion from before the author inserted it again.
        assert_eq!(moved(&living, &RowClock::tombstone(2, at(4, OWN)), false), None);
        let of_others = row(3, &[(0, 5, OTHER), (1, 6, OTHER)]);
        assert_eq!(moved(&of_others, &edit, false), None);
        assert_eq!(moved(&of_others, &deletion, false), None);
        assert_eq!(moved(&RowClock::tombstone(4, at(7, OTHER)), &edit, false), None, "a deletion wins");
    }

    #[test]
    fn rows_without_cells_are_moved_too() {
        let inserted = RowClock::alive(1, at(5, OWN), ColumnSet::new());
        let living = moved(&RowClock::tombstone(2, at(9, OTHER)), &inserted, true).unwrap();
        assert_eq!((living.life, living.common), (3, at(5, OWN)));
        let deletion = RowClock::tombstone(2, at(8, OWN));
        assert_eq!(moved(&living, &deletion, false).map(|row| row.life), Some(4));
    }

    #[test]
    fn a_device_keeps_what_it_wrote_since_under_the_row_that_comes_back() {
        // It inserted the row at 5, and wrote column 1 at 8; the server has moved the insertion, another wrote column 0.
        let stored = row(1, &[(0, 5, OWN), (1, 8, OWN)]);
        let incoming = row(3, &[(0, 7, OTHER), (1, 5, OWN)]);
        let later = [ColumnNumber(1)].into_iter().collect();
        let decision = keep_unsent(&stored, &incoming, Unsent::Cells(&later), OWN, &SITES).unwrap();
        assert_eq!(decision.action, Action::Update([ColumnNumber(0)].into_iter().collect()));
        assert_eq!(decision.clock, Some(row(3, &[(0, 7, OTHER), (1, 8, OWN)])));
        // What it has by file of somebody else is not its own to move; the server will have that from its author.
        let mixed = row(1, &[(0, 6, OTHER), (1, 8, OWN)]);
        let own = row(3, &[(0, 5, OWN), (1, 5, OWN)]);
        let decision = keep_unsent(&mixed, &own, Unsent::Cells(&later), OWN, &SITES).unwrap();
        assert_eq!(decision.clock, Some(row(3, &[(0, 5, OWN), (1, 8, OWN)])));
        assert_eq!(decision.action, Action::Update([ColumnNumber(0)].into_iter().collect()));
        // It has deleted the row since.
        let deleted = RowClock::tombstone(2, at(9, OWN));
        let decision = keep_unsent(&deleted, &incoming, Unsent::Whole, OWN, &SITES).unwrap();
        assert_eq!(decision, Decision::adopt(Action::Keep, &RowClock::tombstone(4, at(9, OWN))));
        // A deletion is whole, whatever was noted of it.
        assert_eq!(keep_unsent(&deleted, &incoming, Unsent::Cells(&later), OWN, &SITES), Some(decision));
        // It hears of the deletion before it has sent the insertion.
        let dead = RowClock::tombstone(2, at(9, OTHER));
        let decision = keep_unsent(&stored, &dead, Unsent::Inserted, OWN, &SITES).unwrap();
        assert_eq!(decision, Decision::adopt(Action::Keep, &RowClock { life: 3, ..stored.clone() }));
        assert_eq!(keep_unsent(&stored, &dead, Unsent::Whole, OWN, &SITES), None);
        assert_eq!(keep_unsent(&stored, &dead, Unsent::Cells(&later), OWN, &SITES), None);
    }

    #[test]
    fn only_what_is_new_is_written() {
        // Column 0 is as it was, 1 was written here since, 2 comes from somebody else, 3 is unknown to the server.
        let stored = row(1, &[(0, 5, OWN), (1, 8, OWN), (2, 5, OWN), (3, 5, OWN)]);
        let incoming = row(3, &[(0, 5, OWN), (1, 5, OWN), (2, 6, OTHER)]);
        let later = [ColumnNumber(1)].into_iter().collect();
        let decision = keep_unsent(&stored, &incoming, Unsent::Cells(&later), OWN, &SITES).unwrap();
        assert_eq!(decision.action, Action::Update([ColumnNumber(2)].into_iter().collect()));
        assert_eq!(decision.clock, Some(row(3, &[(0, 5, OWN), (1, 8, OWN), (2, 6, OTHER), (3, 5, OWN)])));
    }

    #[test]
    fn an_insertion_that_may_have_arrived_is_moved_unless_the_deletion_may_have_seen_it() {
        let stored = row(1, &[(0, 5, OWN), (1, 7, OWN)]);
        let kept = |incoming: &RowClock| {
            keep_unsent(&stored, incoming, Unsent::Offered, OWN, &SITES)?.clock.map(|row| row.life)
        };
        assert_eq!(kept(&RowClock::tombstone(2, at(4, OTHER))), Some(3), "older than all of it");
        for seen in [6, 9] {
            assert_eq!(kept(&RowClock::tombstone(2, at(seen, OTHER))), None, "it may have seen a part");
        }
        assert_eq!(kept(&row(3, &[(0, 9, OTHER), (1, 9, OTHER)])), Some(3), "a row that lives takes it in");
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_who_moves_an_insertion(
            times in prop::collection::vec(1..40u64, 2),
            later in 40..60u64,
            dead in any::<bool>(),
            life in 1..4u64,
            theirs in prop::collection::vec(1..60u64, 2),
        ) {
            let inserted = row(1, &[(0, times[0], OWN), (1, times[1], OWN)]);
            let server = if dead {
                RowClock::tombstone(2 * life, at(theirs[0], OTHER))
            } else {
                row(2 * life + 1, &[(0, theirs[0], OTHER), (1, theirs[1], OTHER)])
            };
            let merge = |stored: &RowClock, change: &RowClock| {
                let decision = decide(Algorithm::Cls, Some(stored), change, true, &SITES, &mut |_| false);
                decision.clock.unwrap_or_else(|| stored.clone())
            };
            // The server moves it, and the device has written on top of it when it hears of that.
            let there = merge(&server, &moved(&server, &inserted, true).unwrap());
            let edited = row(1, &[(0, times[0], OWN), (1, later, OWN)]);
            let columns = [ColumnNumber(1)].into_iter().collect();
            let kept = keep_unsent(&edited, &there, Unsent::Cells(&columns), OWN, &SITES);
            let one = kept.map(|decision| merge(&there, &decision.clock.unwrap()));
            // The device hears of the server's row before it sends anything.
            let own = keep_unsent(&edited, &server, Unsent::Inserted, OWN, &SITES).unwrap().clock.unwrap();
            let other = merge(&server, &own);
            // Where nothing of the insertion is left its author cannot tell that it was moved.
            if shown(&there).any(|clock| clock.site == OWN) {
                prop_assert_eq!(one, Some(other));
            }
        }
    }
}
