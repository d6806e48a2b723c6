//! Rows of a copy of a user's file of which nobody can say whether the user may still see them.
//!
//! A copy takes a site of its own, of which the ledger of the server knows nothing, so nobody tells it what is to go. Mostly
//! the check finds that (`check`). Where a table cannot be compared, as under other columns, everything is fetched, and
//! brings all that the user sees: what is not in that download is taken out with it, as by an eviction.
//!
//! A row that this site wrote by itself stays: downloads leave it out, and the ledger knows it since it was uploaded. So do
//! rows with unsent changes, which the server judges, and what no check looks at: rows that wait in the quarantine or are
//! outside of their table's filter, tables in doubt, and those that were written while they were disabled.

use crate::audience::wrote_all;
use crate::clocks::{self, split_pk};
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::pick::RowKey;
use crate::ranges::{ClockWalk, Held, RowReader};
use crate::rebuilt::doubtful_tables;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use cloudsync_protocol::payload::Opened;
use cloudsync_sqlite_ffi::Value;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use xxhash_rust::xxh3::xxh3_64;

/// Set from the moment at which a copy parts until everything was compared, or fetched.
const UNCONFIRMED: &str = "unconfirmed";
/// Rows that are taken out at once.
const BATCH_ROWS: usize = 4_096;

/// What a download brought: hashes of keys as the tree of clocks has them. A row that shares its hash stays.
pub(crate) type Confirmed = HashSet<u64>;

/// What is not taken out though no download brings it.
struct Kept {
    unsent: HashSet<Vec<u8>>,
    skipped: BTreeSet<Vec<u8>>,
}

impl Replica {
    /// Takes note that the rows here are those of another site, which may see a part only.
    pub(crate) fn doubt_rows(&self) -> Result<()> {
        if !self.is_part()? || self.is_empty()? {
            return Ok(());
        }
        // What this download brings is known at its end only if all of it lies staged until then.
        storage::unset(&self.db, "progressive")?;
        storage::set(&self.db, UNCONFIRMED, Value::Integer(1))
    }

    /// Everything was compared.
    pub(crate) fn trust_rows(&self) -> Result<()> {
        storage::unset(&self.db, UNCONFIRMED)
    }

    /// Whether a download that began at that cursor takes out what it does not bring.
    pub(crate) fn is_confirming(&self, cursor: u64) -> Result<bool> {
        Ok(cursor == 0 && storage::is_set(&self.db, UNCONFIRMED)?)
    }

    /// The rows in the staged chunks of a download and in its last one.
    pub(crate) fn confirmed(&self, last: &[u8]) -> Result<Confirmed> {
        let mut confirmed = Confirmed::new();
        let mut add = |payload: &[u8]| -> Result<()> {
            let opened = Opened::open(payload, &Zstd)?;
            for group in opened.payload()?.groups() {
                if let Some(table) = self.catalog.table_named(group.table()) {
                    let pk = |row| clocks::pk(table.id, group.key(row));
                    confirmed.extend((0..group.rows()).map(|row| xxh3_64(&pk(row))));
                }
            }
            Ok(())
        };
        let mut select = self.db.prepare("SELECT payload FROM main.cloudsync_inbox ORDER BY seq")?;
        while select.step()? {
            add(select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_inbox"))?)?;
        }
        if !last.is_empty() {
            add(last)?;
        }
        Ok(confirmed)
    }

    /// Takes out what a download of everything did not bring; gives the number of rows. The caller has applied the download,
    /// in the same transaction, under [`with_apply_settings`](Self::with_apply_settings).
    pub(crate) fn drop_unconfirmed(&mut self, confirmed: &Confirmed) -> Result<u64> {
        self.trust_rows()?;
        let kept = Kept { unsent: self.unsent_keys()?, skipped: self.uncomparable()? };
        let doubtful = doubtful_tables(&self.db)?;
        let mut dropped = 0;
        for table in self.catalog.tables() {
            if doubtful.contains(&table.id) || !self.is_checked(&table)? {
                continue;
            }
            let mut after = Some(Vec::new());
            while let Some(from) = after {
                let rows = self.unconfirmed(&table, &from, confirmed, &kept)?;
                after = rows.last().filter(|_| rows.len() == BATCH_ROWS).map(|(_, key)| key.clone());
                dropped += rows.len() as u64;
                if !rows.is_empty() {
                    cloudsync_core::reached!("unconfirmed: rows of a copy are taken out");
                    self.evict(&rows)?;
                }
            }
        }
        self.count_repairs(dropped)?;
        Ok(dropped)
    }

    /// Living rows of a table behind a key that no download confirmed, a batch at most.
    fn unconfirmed(
        &self,
        table: &Rc<Table>,
        after: &[u8],
        confirmed: &Confirmed,
        kept: &Kept,
    ) -> Result<Vec<RowKey>> {
        let own = self.own_site()?;
        let mut reader = table.filter.is_some().then(|| RowReader::open(&self.db, table)).transpose()?;
        let mut rows = Vec::new();
        let mut walk = ClockWalk::open(&self.db, table.id, after, &[])?;
        while rows.len() < BATCH_ROWS
            && let Some((pk, clock)) = walk.next()?
        {
            let stays = !clock.is_alive()
                || wrote_all(&clock, own)
                || confirmed.contains(&xxh3_64(pk))
                || kept.unsent.contains(pk)
                || kept.skipped.contains(pk);
            if stays {
                continue;
            }
            let (_, key) = split_pk(pk)?;
            let is_outside = match &mut reader {
                Some(reader) => reader.row(key, &clock, self.sites.ids())? == Held::Outside,
                None => false,
            };
            if !is_outside {
                rows.push((Rc::clone(table), key.to_vec()));
            }
        }
        Ok(rows)
    }
}
