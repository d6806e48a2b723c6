//! The definitions of `docs/merge.md`, word by word: a set of events, and what follows from it.

use cloudsync_core::clock::{Clock, TIME_INITIAL};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::Algorithm;
use std::collections::BTreeMap;

/// One write or deletion, and what its author knew.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Some cells were written at these clocks; of what the author said of the row: `life` (cls), and the greatest
    /// deletion behind the row's insertion (dws).
    Write { cells: BTreeMap<u16, (Clock, u8)>, life: u64, boundary: Option<Clock> },
    /// `life` (cls) begins, and `seen` is the greatest write that was known (aws).
    Delete { clock: Clock, life: u64, seen: Clock },
}

/// What there is of the row: the value and the clock of each cell; `None` if it is dead or nobody knows it.
pub(crate) type Row = Option<BTreeMap<u16, (Clock, u8)>>;

fn max(clocks: impl Iterator<Item = Clock>, sites: &[SiteId]) -> Option<Clock> {
    clocks.max_by(|a, b| a.order(b, sites))
}

fn is_before(a: Clock, b: Clock, sites: &[SiteId]) -> bool {
    a.order(&b, sites) == std::cmp::Ordering::Less
}

/// D: the greatest clock of a deletion.
pub(crate) fn last_deletion(events: &[&Event], sites: &[SiteId]) -> Option<Clock> {
    let clocks = events.iter().filter_map(|event| match event {
        Event::Delete { clock, .. } => Some(*clock),
        Event::Write { .. } => None,
    });
    max(clocks, sites)
}

/// W: the greatest clock of a write.
pub(crate) fn last_write(events: &[&Event], sites: &[SiteId]) -> Option<Clock> {
    let clocks = events.iter().flat_map(|event| match event {
        Event::Write { cells, .. } => cells.values().map(|(clock, _)| *clock).collect(),
        Event::Delete { .. } => Vec::new(),
    });
    max(clocks, sites)
}

/// For each column the latest of the writes that count.
fn cells(
    events: &[&Event],
    sites: &[SiteId],
    counts: impl Fn(u64, Option<Clock>) -> bool,
) -> BTreeMap<u16, (Clock, u8)> {
    let mut latest: BTreeMap<u16, (Clock, u8)> = BTreeMap::new();
    for event in events {
        let Event::Write { cells, life, boundary } = event else { continue };
        for (column, cell) in cells.iter().filter(|_| counts(*life, *boundary)) {
            let known = latest.entry(*column).or_insert(*cell);
            if is_before(known.0, cell.0, sites) {
                *known = *cell;
            }
        }
    }
    latest
}

/// What somebody who knows these events has.
pub(crate) fn row(algorithm: Algorithm, events: &[&Event], sites: &[SiteId]) -> Row {
    let w = last_write(events, sites)?;
    let d = last_deletion(events, sites);
    match algorithm {
        Algorithm::Gos => Some(cells(events, sites, |_, _| true)),
        Algorithm::Cls => {
            let lives = events.iter().map(|event| match event {
                Event::Write { life, .. } | Event::Delete { life, .. } => *life,
            });
            let last = lives.max()?;
            (last % 2 == 1).then(|| cells(events, sites, |life, _| life == last))
        }
        Algorithm::Dws => {
            // Rb: the greatest deletion that an insertion had seen.
            let seen = events.iter().filter_map(|event| match event {
                Event::Write { boundary, .. } => *boundary,
                Event::Delete { .. } => None,
            });
            let rb = max(seen, sites);
            let alive = match (rb, d) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(rb), Some(d)) => !is_before(rb, d, sites),
            };
            alive.then(|| cells(events, sites, |_, boundary| boundary == rb))
        }
        Algorithm::Aws => {
            let seen = events.iter().filter_map(|event| match event {
                Event::Delete { seen, .. } => Some(*seen),
                Event::Write { .. } => None,
            });
            let dw = max(seen, sites);
            let alive = dw.is_none_or(|dw| w.time > TIME_INITIAL && is_before(dw, w, sites));
            alive.then(|| cells(events, sites, |_, _| true))
        }
    }
}
