//! Stamps made anew: those of edits that the server has not got, after the clock or the site id proved wrong.
//!
//! A stamp is moved only as far as the rule allows. It must not come to lie behind the value that it replaced, or the
//! edit would be lost everywhere but here; so the latest clock that the server is known to have, or that was handed out
//! by file, `settled`, is kept.
//! And it must not lie ahead of the server's clock, or the server would refuse it for ever. A round that was on its way
//! bears the old stamps, so the edits go on in a round of another id.
//!
//! What came by file may be stamped ahead, too: by another replica whose clock was wrong while the clock here was wrong as
//! well. Nobody can say when that was written, and the server will not take it, so this replica takes it over as written
//! by itself before all that has a known time. Edits that were made here on top of it stay on top.

use crate::changes::{ChangeWriter, EntryReader, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::conflicts::UnseenFrom;
use crate::device::Sent;
use crate::error::Result;
use crate::given::GIVEN_TIME;
use crate::position::Position;
use crate::replica::Replica;
use crate::storage;
use cloudsync_core::clock::{Clock, RowClock, SiteOrdinal, TIME_INITIAL, TIME_MAX, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::local;
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_sqlite_ffi::Value;
use std::cell::Cell;
use std::collections::HashMap;

/// Small differences of the clocks are the network's; they are not worth a write each round.
const OFFSET_TOLERANCE_MS: u64 = 2_000;

impl Replica {
    /// What to add to the local clock to get the server's, in milliseconds, as far as it is known.
    pub(crate) fn clock_offset(&self) -> Result<i64> {
        Ok(storage::get_i64(&self.db, "clock_offset")?.unwrap_or(0))
    }

    /// Notes that the server, or somebody else, has clocks up to `time`.
    pub(crate) fn raise_settled(&self, time: u64) -> Result<()> {
        if time <= storage::get_u64(&self.db, "settled")? {
            return Ok(());
        }
        storage::set_u64(&self.db, "settled", time)
    }

    /// Learns how far the local clock is off, and moves the stamps of what is unsent by as much, in their order. The
    /// clock may be right by now and the stamps be those of a time when it was wrong: none stays in the future.
    pub(crate) fn correct_clock(&mut self, server_now: u64, sent: &Sent) -> Result<()> {
        let before = self.clock_offset()?;
        if before != sent.offset {
            // Another process has corrected it since; moving the stamps twice would put them wrong again.
            return Ok(());
        }
        self.fold_in_transaction()?;
        let offset = server_now as i64 - sent.sent_at_ms as i64;
        storage::set(&self.db, "clock_offset", Value::Integer(offset))?;
        // What was offered before may have been taken, if it was in the server's bounds. The refused request was not.
        self.raise_settled(sent.offered.min(latest_accepted(server_now)))?;
        storage::unset(&self.db, "offered")?;
        // What was handed out goes on under the stamps that it had, and edits on top of it must stay on top. Where those
        // lie ahead, whoever got them takes them over as the earliest there are.
        let given = storage::get_u64(&self.db, GIVEN_TIME)?;
        if given <= latest_accepted(server_now) {
            self.raise_settled(given)?;
        }
        self.move_stamps(server_now, offset - before)
    }

    /// The latest clock in requests whose answers did not come; 0 if there are none.
    pub(crate) fn offered(&self) -> Result<u64> {
        storage::get_u64(&self.db, "offered")
    }

    fn move_stamps(&mut self, server_now: u64, by_ms: i64) -> Result<()> {
        let own = self.own_site()?;
        let settled = storage::get_u64(&self.db, "settled")?;
        let after_settled = settled + 1;
        let own_moved = |time: u64| moved(time, by_ms, server_now, after_settled);
        let sites = self.sites.ids().to_vec();
        let latest = Cell::new(server_now.max(after_settled));
        let took_over = Cell::new(false);
        let changed = self.restamp_unsent(own, Some(latest_accepted(server_now)), |row, clock| {
            if let Some(orders) =
                taken_over(row, own, settled, latest_accepted(server_now), own_moved, &sites)
            {
                let moved =
                    orders.iter().find(|(before, _)| *before == clock).map_or(clock, |(_, after)| *after);
                latest.set(latest.get().max(moved.time.0));
                took_over.set(true);
                return moved;
            }
            if clock.site != own || clock.time.0 <= 1 {
                return clock;
            }
            Clock::new(Time(own_moved(clock.time.0)), own)
        })?;
        if changed {
            storage::unset(&self.db, "round")?;
        }
        if took_over.get() {
            self.miss_what_lost()?;
        }
        storage::set_u64(&self.db, "floor", latest.get())
    }

    /// What the server gave may have lost here to what is taken over now, and does not come again by itself.
    fn miss_what_lost(&mut self) -> Result<()> {
        if self.can_reconcile()? {
            return self.begin_reconciling(false);
        }
        if storage::get_u64(&self.db, "cursor")? > 0 {
            storage::set(&self.db, "refetch", Value::Integer(1))?;
        }
        Ok(())
    }

    /// A copy of this file goes on under the same id. If it was only another process on this very file, the file
    /// shows that by now; else this one takes a new id, also for what it has not sent, and fetches everything again.
    pub(crate) fn part_from_clone(&mut self, sent: &Sent) -> Result<()> {
        let stored = storage::get_blob(&self.db, "round")?;
        let sent_round = sent.round.as_ref().map(|(round, ..)| round.encode());
        let is_where_it_was = storage::get_u64(&self.db, "nonce")? == sent.nonce && stored == sent_round;
        if !is_where_it_was || !self.is_at(sent)? {
            cloudsync_core::reached!("restamp: it was no copy but another process");
            return Ok(());
        }
        self.fold_in_transaction()?;
        self.part("the server met a copy of the file under the same site id")
    }

    /// Learns from an answer how far the local clock is off.
    pub(crate) fn learn_offset(&self, server_now: u64, sent_at_ms: u64) -> Result<()> {
        let now = self.now_ms();
        let offset = server_now as i64 - (sent_at_ms / 2 + now / 2) as i64;
        let known = self.clock_offset()?;
        let offset = if offset.unsigned_abs() < OFFSET_TOLERANCE_MS { 0 } else { offset };
        let difference = offset.abs_diff(known);
        // The request was in bounds: a larger difference means that the clock was set meanwhile, and the next request
        // will be refused and the stamps be moved.
        if (OFFSET_TOLERANCE_MS..CLOCK_AHEAD_MS_MAX).contains(&difference) {
            storage::set(&self.db, "clock_offset", Value::Integer(offset))?;
        }
        Ok(())
    }

    /// Where the changes begin that were not sent, or are on their way.
    pub(crate) fn first_unsent(&self) -> Result<UnseenFrom> {
        let begun = storage::get_blob(&self.db, "unsent_position")?;
        match begun.as_deref().and_then(Position::decode).as_ref().map(Position::place) {
            Some(Position::List { after, skip, .. }) => Ok(UnseenFrom::Entry(*after, *skip)),
            Some(Position::Scan { .. } | Position::Inside(_)) | None => {
                Ok(UnseenFrom::Version(storage::get_u64(&self.db, "sent_version")?))
            }
        }
    }

    /// Gives table, packed key and mask of each row of the list that was changed here and is unsent; a row may come often.
    pub(crate) fn each_unsent(&self, each: impl FnMut(i64, &[u8], Mask)) -> Result<()> {
        self.each_unsent_of(&[Origin::Local], each)
    }

    /// The same of these origins.
    pub(crate) fn each_unsent_of(
        &self,
        origins: &[Origin],
        mut each: impl FnMut(i64, &[u8], Mask),
    ) -> Result<()> {
        let (after, mut skip) = self.first_unsent()?.entry(&self.db)?;
        let mut entries = EntryReader::open(&self.db, after, i64::MAX as u64)?;
        while let Some(entry) = entries.next()? {
            let sent = std::mem::take(&mut skip);
            if !origins.iter().any(|origin| origin.code() == entry.origin) {
                continue;
            }
            for row in entry.rows().skip(sent as usize) {
                let (key, mask) = row?;
                each(entry.table, key, mask);
            }
        }
        Ok(())
    }

    /// Maps the clocks of all cells that wait to be sent; `map` is given their row, too. Those that others wrote are among
    /// them if they are later than `ahead`, which no server has. Gives true when that changed any.
    ///
    /// Rows of which it moves the boundary (`dws`) are put into the list whole: who had them by file under the old one
    /// cannot build a part.
    pub(crate) fn restamp_unsent(
        &mut self,
        own: SiteOrdinal,
        ahead: Option<u64>,
        map: impl Fn(&RowClock, Clock) -> Clock,
    ) -> Result<bool> {
        let settled = storage::get_u64(&self.db, "settled")?;
        let sites = self.sites.ids().to_vec();
        let mut clocks = ClockStore::open(&self.db)?;
        let mut seen: HashMap<Vec<u8>, Vec<Mask>> = HashMap::new();
        // What was offered only has the clocks that others know: moved, it could win over what they wrote since.
        self.each_unsent(|table, key, mask| {
            if mask.is_edit() {
                seen.entry(clocks::pk(table, key)).or_default().push(mask);
            }
        })?;
        if ahead.is_some() {
            self.each_unsent_of(&[Origin::Local, Origin::File], |table, key, _| {
                seen.entry(clocks::pk(table, key)).or_default();
            })?;
        }
        let is_ahead = |at: Clock| ahead.is_some_and(|ahead| at.time.0 > ahead);
        let (mut changed, mut reborn) = (false, Vec::new());
        for (pk, masks) in seen {
            let Some(clock) = clocks.read(&pk)? else { continue };
            let unsent = |column| {
                masks.iter().any(|mask| match (mask.columns(), column) {
                    (None, _) => true,
                    (Some(columns), Some(column)) => columns.contains(column),
                    (Some(_), None) => false,
                })
            };
            // Of marks, and of the cells that a dead row keeps, only those are surely unsent that are later than all that
            // the server is known to have.
            let (keeps, is_late) = (clock.deletion().is_some(), |at: Clock| at.time.0 > settled);
            let is_unsent = |column, at| is_ahead(at) || if keeps { is_late(at) } else { unsent(column) };
            let moved = local::restamp(
                &clock,
                |deletion| deletion.clock.site == own || is_ahead(deletion.clock) || is_ahead(deletion.seen),
                &sites,
                |column, at| if is_unsent(column, at) { map(&clock, at) } else { at },
                |at| if is_late(at) { map(&clock, at) } else { at },
            );
            if moved != clock {
                clocks.write(&pk, &moved, false)?;
                changed = true;
                if moved.boundary() != clock.boundary() {
                    reborn.push(pk);
                }
            }
        }
        clocks.finish(&self.db)?;
        self.offer_whole(reborn)?;
        Ok(changed)
    }

    /// Puts rows into the list once more, whole, as a change of this replica.
    fn offer_whole(&self, mut pks: Vec<Vec<u8>>) -> Result<()> {
        pks.sort_unstable();
        let mut writer = ChangeWriter::begin(&self.db, self.now_ms())?;
        for pk in pks {
            let (table, key) = clocks::split_pk(&pk)?;
            writer.push(table, key, &Mask::Whole)?;
        }
        writer.finish(&self.db, Origin::Local, storage::get_u64(&self.db, "cursor")?)?;
        Ok(())
    }
}

/// The clocks of a row that somebody else stamped later than `ahead`, and of what was written here on top of them, each
/// with the one that takes its place, in their order; `None` if there is no such row. `own_moved` says where a time of
/// this replica goes.
fn taken_over(
    row: &RowClock,
    own: SiteOrdinal,
    settled: u64,
    ahead: u64,
    own_moved: impl Fn(u64) -> u64,
    sites: &[SiteId],
) -> Option<Vec<(Clock, Clock)>> {
    let cells = row.cells().map(|(_, clock)| clock).chain([row.common]);
    let mut clocks: Vec<Clock> = cells.chain(row.marks.iter().flat_map(|marks| marks.clocks())).collect();
    let is_ahead = |clock: &Clock| clock.site != own && clock.time.0 > ahead.max(settled);
    if !clocks.iter().any(is_ahead) {
        return None;
    }
    cloudsync_core::reached!("restamp: what came by file is taken over");
    // A row cannot be older than the deletion that it came back from.
    let boundary = row.marks.as_ref().and_then(|marks| marks.boundary).filter(|at| at.time.0 <= settled);
    let mut least = boundary.map_or(TIME_INITIAL, |at| at.time).0 + 1;
    clocks.retain(|clock| clock.time.0 > settled.max(1));
    clocks.sort_by(|one, other| one.order(other, sites));
    clocks.dedup();
    let orders = clocks.into_iter().map(|clock| {
        let wished = if clock.site == own {
            own_moved(clock.time.0)
        } else if is_ahead(&clock) {
            least
        } else {
            clock.time.0
        };
        let time = wished.max(least).min(TIME_MAX.0);
        least = time + 1;
        (clock, if time == clock.time.0 { clock } else { Clock::new(Time(time), own) })
    });
    Some(orders.collect())
}

/// The latest time that a server accepts, and leaves room to be replaced in the same millisecond.
fn latest_accepted(server_now: u64) -> u64 {
    server_now.saturating_add(CLOCK_AHEAD_MS_MAX - 1)
}

/// Where a stamp goes that is moved by `by_ms`: not ahead of the server's clock, and not so far back that it could lie
/// behind what it replaced. What was settled may itself be a little ahead.
fn moved(time: u64, by_ms: i64, server_now: u64, after_settled: u64) -> u64 {
    let target = time.saturating_add_signed(by_ms).min(server_now.max(2));
    let target = if target < time { target.max(time.min(after_settled)) } else { target };
    target.clamp(2, TIME_MAX.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_stamp_is_neither_ahead_nor_behind_what_it_replaced() {
        let (now, settled) = (10_000, 5_001);
        assert_eq!(moved(8_000, 1_000, now, settled), 9_000);
        assert_eq!(moved(8_000, 9_000, now, settled), 10_000);
        assert_eq!(moved(8_000, -1_000, now, settled), 7_000);
        assert_eq!(moved(8_000, -7_000, now, settled), 5_001);
        assert_eq!(moved(4_000, -3_000, now, settled), 4_000);
        assert_eq!(moved(90_000, 0, now, settled), 10_000);
        assert_eq!(moved(12_000, 0, now, 11_001), 11_001);
    }
}
