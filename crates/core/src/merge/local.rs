//! What local writes make of a row's clock: the part of the fold that differs between the algorithms.

use super::{Algorithm, dws, merge_cells};
use crate::clock::{Clock, ColumnNumber, ColumnSet, RowClock};
use crate::id::SiteId;
use crate::marks::{Deletion, Marks};
use alloc::vec::Vec;

/// The clock that every stamp of a write to the row must be later than, beside that of the cell it replaces: in an
/// `aws` table all that was written or deleted before has been seen.
#[must_use]
pub fn seen(algorithm: Algorithm, stored: Option<&RowClock>, sites: &[SiteId]) -> Option<Clock> {
    let stored = stored.filter(|_| algorithm == Algorithm::Aws)?;
    let write = stored.last_write(sites);
    Some(stored.deletion().map_or(write, |deletion| write.latest(deletion.seen, sites)))
}

/// The clock of a living row once it was deleted at `at`; a `gos` row stays what it is.
#[must_use]
pub fn delete(algorithm: Algorithm, stored: &RowClock, at: Clock, sites: &[SiteId]) -> RowClock {
    match algorithm {
        Algorithm::Cls => RowClock::tombstone(stored.life + 1, at),
        Algorithm::Dws => RowClock::tombstone(2, at.after(dws::boundary(stored))),
        Algorithm::Aws => {
            let (cells, write) = (stored.cells().collect::<Vec<_>>(), stored.last_write(sites));
            RowClock::from_writes(&cells, write, Some(Deletion { seen: write, clock: at }), sites)
        }
        Algorithm::Gos => stored.clone(),
    }
}

/// The clock of a row all of whose `columns` were written by an insertion at `at`; `stored` is that of the dead row, if
/// there was one.
#[must_use]
pub fn insert(
    algorithm: Algorithm,
    stored: Option<&RowClock>,
    at: Clock,
    columns: ColumnSet,
    sites: &[SiteId],
) -> RowClock {
    match (algorithm, stored) {
        (_, None) | (Algorithm::Gos, _) => RowClock::alive(1, at, columns),
        (Algorithm::Cls, Some(dead)) => RowClock::alive(dead.life + 1, at, columns),
        (Algorithm::Dws, Some(dead)) => RowClock::alive(1, at, columns)
            .with_marks(Marks { boundary: dws::boundary(dead), ..Marks::default() }),
        (Algorithm::Aws, Some(dead)) => {
            let at = at.after(seen(algorithm, stored, sites));
            let later: Vec<(ColumnNumber, Clock)> = columns.iter().map(|column| (column, at)).collect();
            RowClock::from_writes(&merge_cells(dead, &later), at, dead.deletion(), sites)
        }
    }
}

/// The row with stamps made anew: `map` gives those of its cells, and of a row without cells (column `None`), as
/// [`RowClock::map_clocks`] does; `map_mark` those of marks. What a deletion has seen that is `anew` is the last write of
/// the row as it is then.
#[must_use]
pub fn restamp(
    stored: &RowClock,
    anew: impl Fn(&Deletion) -> bool,
    sites: &[SiteId],
    map: impl FnMut(Option<ColumnNumber>, Clock) -> Clock,
    mut map_mark: impl FnMut(Clock) -> Clock,
) -> RowClock {
    let row = stored.map_clocks(sites, map);
    let Some(marks) = stored.marks.as_deref().copied() else { return row };
    if let Some(boundary) = marks.boundary {
        return row.with_marks(Marks { boundary: Some(map_mark(boundary)), ..marks });
    }
    let cells: Vec<_> = row.cells().collect();
    let write = marks.write.map_or(row.common, &mut map_mark);
    let write = cells.iter().fold(write, |last, (_, clock)| last.latest(*clock, sites));
    let deletion = marks.deletion.map(|deletion| Deletion {
        seen: if anew(&deletion) { write } else { deletion.seen },
        clock: map_mark(deletion.clock),
    });
    RowClock::from_writes(&cells, write, deletion, sites)
}
