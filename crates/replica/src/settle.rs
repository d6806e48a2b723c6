//! The end of an apply: changes that its payloads left open are tried once more, together, and what still does not fit
//! waits in the quarantine.
//!
//! A change that is refused may be let in by another one, in whatever chunk that comes: a parent, the rest of a row, or
//! the row with which it exchanges a UNIQUE value. So refused changes are kept in memory until the last chunk is
//! applied, as a payload of our own, and only then have to wait.

use crate::apply::{Applied, Applier, Source};
use crate::codec::Zstd;
use crate::error::Result;
use crate::family::{Family, HANGS};
use crate::pick::RowKey;
use crate::replica::Replica;
use cloudsync_core::clock::Clock;
use cloudsync_protocol::payload::{Encoder, Group, GroupId, Header, Opened, Payload, SetId, Stored};
use std::collections::{HashMap, HashSet};

/// Bytes of changes that are kept until the end of an apply; further ones go into the quarantine at once.
const DEFERRED_BYTES_MAX: usize = 32 << 20;

/// Table, columns and completeness of the rows of a group, which marks they have, and whether they are concurrent and
/// inserted.
type Shape = (String, Vec<String>, bool, [bool; 3], [bool; 2]);

/// Rows of payloads, gathered into one payload of our own.
#[derive(Default)]
pub(crate) struct Gathered {
    encoder: Encoder,
    groups: HashMap<Shape, GroupId>,
}

impl Gathered {
    pub(crate) fn push(&mut self, payload: &Payload<'_>, group: &Group<'_>, row: usize) {
        let columns = group.columns().iter().map(|name| (*name).to_owned()).collect();
        let like = group.marks(row);
        let kinds = like.map_or([false; 3], |marks| marks.kinds());
        let shape =
            (group.table().to_owned(), columns, group.whole(), kinds, [group.concurrent(), group.inserted()]);
        let encoder = &mut self.encoder;
        let id = self.groups.entry(shape).or_insert_with(|| {
            let id = encoder.marked_group(group.table(), group.columns(), group.whole(), like.as_ref());
            if group.concurrent() {
                encoder.mark_concurrent(id);
            }
            if group.inserted() {
                encoder.mark_inserted(id);
            }
            id
        });
        // A payload that was read names no site beyond its own.
        let mut site = |clock: Clock| match payload.sites().get(clock.site.0 as usize) {
            Some(site) => Clock::new(clock.time, encoder.site(site)),
            None => clock,
        };
        let common = site(group.clock(row));
        let exceptions: Vec<_> =
            group.exceptions(row).iter().map(|(column, clock)| (*column, site(*clock))).collect();
        let marks = like.map(|marks| marks.map(site));
        let values = (0..group.columns().len()).map(|column| group.value(row, column));
        let (key, life) = (group.key(row), group.life(row));
        encoder.push_marked(*id, key, life, common, marks.as_ref(), &exceptions, values);
        if group.has_references() {
            for column in 0..group.columns().len() {
                if let Some(reference) = group.reference(row, column) {
                    encoder.refer(*id, column as u16, &reference);
                }
            }
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.encoder.is_full_at(DEFERRED_BYTES_MAX)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.encoder.finish(Header::default(), &Stored)
    }
}

/// What the applies of one transaction leave to its end.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// Sets of large values of rows that were applied, whose pieces nothing asks for any more.
    pub(crate) used: Vec<SetId>,
    deferred: Gathered,
    /// Rows that are given no other parents before the orphans are gone.
    held: Gathered,
    pub(crate) family: Family,
}

impl Unsettled {
    /// Drops what was left open of these rows.
    pub(crate) fn leave_out(&mut self, rows: &[RowKey]) -> Result<()> {
        let named = |table: &str, key: &[u8]| (table.to_ascii_lowercase(), key.to_vec());
        let dropped: HashSet<_> = rows.iter().map(|(table, key)| named(&table.name, key)).collect();
        for gathered in [&mut self.deferred, &mut self.held] {
            if gathered.encoder.is_empty() {
                continue;
            }
            let bytes = std::mem::take(gathered).finish();
            let opened = Opened::open(&bytes, &Zstd)?;
            let payload = opened.payload()?;
            for group in payload.groups() {
                let stays = |row: &usize| !dropped.contains(&named(group.table(), group.key(*row)));
                (0..group.rows()).filter(stays).for_each(|row| gathered.push(&payload, group, row));
            }
        }
        Ok(())
    }
}

impl Replica {
    /// Ends a series of [`apply_part`](Self::apply_part): what was refused is tried again, and waits if it must. The
    /// caller holds the transaction of all of them.
    ///
    /// # Errors
    /// When the file cannot be written; the transaction must then be undone.
    pub fn settle(&mut self, source: Source) -> Result<Applied> {
        let mut applier = Applier::open(self, source)?;
        applier.settle(self)?;
        let applied = applier.finish(self)?;
        self.part_families()?;
        Ok(applied)
    }
}

impl Applier {
    /// Keeps a change that was refused until the end of the apply.
    pub(crate) fn defer(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        group: &Group<'_>,
        row: usize,
        reason: &str,
    ) -> Result<()> {
        if reason == HANGS && !replica.unsettled.held.is_full() {
            replica.unsettled.held.push(payload, group, row);
            return Ok(());
        }
        if self.settles || replica.unsettled.deferred.is_full() {
            return self.put_aside(replica, payload, group, row, reason);
        }
        cloudsync_core::reached!("settle: a refused row is tried at the end");
        replica.unsettled.deferred.push(payload, group, row);
        Ok(())
    }

    /// Applies rows that were kept until now.
    fn apply_gathered(&mut self, replica: &mut Replica, gathered: Gathered) -> Result<()> {
        if gathered.encoder.is_empty() {
            return Ok(());
        }
        let bytes = gathered.finish();
        let opened = Opened::open(&bytes, &Zstd)?;
        self.payload(replica, &opened.payload()?)
    }

    /// Tries everything again that was left open, and what waits since earlier applies.
    pub(crate) fn settle(&mut self, replica: &mut Replica) -> Result<()> {
        let (deferred, origin) = (std::mem::take(&mut replica.unsettled.deferred), self.source.origin);
        self.settles = true;
        self.apply_gathered(replica, deferred)?;
        self.retry_quarantine(replica)?;
        self.turn_to(replica, origin)?;
        let family = replica.unsettled.family.take_orphans();
        self.take_out_orphans(replica, &family)?;
        // A first download forgets its orphans at each chunk, but not what was held for their sake.
        let held = std::mem::take(&mut replica.unsettled.held);
        if family.has_held() || !held.encoder.is_empty() {
            self.apply_gathered(replica, held)?;
            self.retry_quarantine(replica)?;
            self.turn_to(replica, origin)?;
        }
        if self.applied.quarantined > 0 && self.is_devices() {
            self.quarantine.trim(replica.server_now_ms()?)?;
        }
        Ok(())
    }
}
