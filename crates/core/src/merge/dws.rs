//! `dws`: a deletion wins until an insertion again that has seen it.
//!
//! The row goes through *eras*. An era is bounded by the clock of the deletion that ended the one before; the first
//! one has no boundary. Of two eras the one with the later boundary is later, and with one boundary the dead one comes
//! before the living one, whose insertion has seen that deletion. Cells belong to a living era and go with it.

use super::{Decision, begin_life, join_cells};
use crate::clock::{Clock, ColumnNumber, RowClock};
use crate::id::SiteId;
use core::cmp::Ordering;

/// The boundary of the row's era.
pub(super) fn boundary(row: &RowClock) -> Option<Clock> {
    if row.is_alive() { row.marks.as_ref().and_then(|marks| marks.boundary) } else { Some(row.common) }
}

fn order_eras(a: &RowClock, b: &RowClock, sites: &[SiteId]) -> Ordering {
    let boundaries = match (boundary(a), boundary(b)) {
        (Some(a), Some(b)) => a.order(&b, sites),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    boundaries.then_with(|| a.is_alive().cmp(&b.is_alive()))
}

pub(super) fn decide(
    stored: Option<&RowClock>,
    incoming: &RowClock,
    whole: bool,
    sites: &[SiteId],
    tie: &mut dyn FnMut(ColumnNumber) -> bool,
) -> Decision {
    let Some(known) = stored else { return begin_life(stored, incoming, whole) };
    match order_eras(incoming, known, sites) {
        Ordering::Less => Decision::unchanged(super::Action::Keep),
        Ordering::Equal if known.is_alive() => join_cells(known, incoming, sites, tie),
        Ordering::Equal => Decision::unchanged(super::Action::Keep),
        Ordering::Greater => begin_life(stored, incoming, whole),
    }
}
