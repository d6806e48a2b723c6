//! Evictions: rows that this device may no longer hold go out of its file.
//!
//! A row goes as an apply would take it out, and without a trace: no tombstone, nothing to send. Triggers of the app run
//! beside the guard, so that a search index stays right; what one of them refuses goes without triggers. Children of the
//! row stay as orphans, whatever their foreign keys say: whether they may stay is told of each row by itself.
//!
//! With the row go its clock, its values as a dead row, what waits of it in the quarantine, what it lost in conflicts and
//! what was kept of it for columns or a table that are not there yet. A row with edits that were never sent is kept in
//! `cloudsync_rejected`, and so is what was refused before: the user wrote it. The same holds for what this device wrote and
//! the server had and may have lost: it is to be sent again, or is owed. Its key in the list of changes, and what
//! is left of it on free pages and in the gaps of others, goes when the file is scrubbed (`scrub`).

use crate::apply::{Applier, Source};
use crate::changes::Origin;
use crate::clocks::{self, ClockStore};
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::filter::{OwedRows, PrivateRows};
use crate::kept;
use crate::pick::RowKey;
use crate::repair;
use crate::replica::Replica;
use crate::scrub;
use crate::storage;
use crate::write::Refused;
use cloudsync_protocol::payload::{Evicted, Group, Opened, Payload};
use cloudsync_sqlite_ffi::Value;
use std::collections::HashSet;

/// What is said of edits of a row that went.
pub(crate) const REASON: &str = "the row may no longer be seen here";

impl Replica {
    /// Takes rows out. Gives how many were there. The caller holds the transaction, runs under
    /// [`with_apply_settings`](Self::with_apply_settings), and has folded everything.
    pub(crate) fn evict(&mut self, rows: &[RowKey]) -> Result<u64> {
        let base = storage::get_u64(&self.db, "cursor")?;
        let mut applier = Applier::open(self, Source { origin: Origin::Server, time_max: None, base })?;
        applier.evict(self, rows)?;
        // What such a row stood in the way of may come in.
        applier.settle(self)?;
        Ok(applier.finish(self)?.rows)
    }

    /// The rows of a payload that the sender says may no longer be here.
    pub(crate) fn evicted_of(&self, payload: &Payload<'_>, source: Source) -> Result<Vec<RowKey>> {
        let mut rows = Vec::new();
        for evicted in payload.evicted() {
            if source.origin != Origin::Server {
                let text = "payload refused: only a server says which rows may no longer be held";
                return Err(Error::Protocol(text.into()));
            }
            // Of what does not exist here yet something may be kept.
            let Some(table) = self.catalog.table_named(evicted.table()) else { continue };
            for row in 0..evicted.rows() {
                let key = evicted.key(row);
                if !table.is_key(key) {
                    let table = &table.name;
                    return Err(Error::Protocol(format!(
                        "payload refused: a key of table \"{table}\" is damaged"
                    )));
                }
                rows.push((table.clone(), key.to_vec()));
            }
        }
        rows.sort_by(|(a, x), (b, y)| (a.id, x).cmp(&(b.id, y)));
        Ok(rows)
    }

    /// Forgets what is kept of rows that the sender says may no longer be here, of tables that do not exist here yet.
    pub(crate) fn forget_unknown(&self, payload: &Payload<'_>) -> Result<()> {
        let unknown =
            payload.evicted().iter().filter(|gone| self.catalog.table_named(gone.table()).is_none());
        let named = |gone: &Evicted<'_>| {
            (0..gone.rows()).map(|row| named(gone.table(), gone.key(row))).collect::<Vec<_>>()
        };
        let rows: HashSet<_> = unknown.flat_map(named).collect();
        if !rows.is_empty() && forget_kept(self.db, &rows)? {
            cloudsync_core::reached!("evict: what is kept of a table that is not here is forgotten");
            scrub::call(&self.db)?;
        }
        Ok(())
    }

    /// Of the rows those with edits of this device that no server knows, or has lost and did not get again.
    fn edited(&self, rows: &[RowKey]) -> Result<HashSet<Vec<u8>>> {
        let pks: HashSet<_> = rows.iter().map(|(table, key)| clocks::pk(table.id, key)).collect();
        let mut edited = HashSet::new();
        self.each_unsent(|table, key, mask| {
            let pk = clocks::pk(table, key);
            if mask.is_edit() && pks.contains(&pk) {
                edited.insert(pk);
            }
        })?;
        let (mut private, mut owed) = (PrivateRows::open(&self.db)?, OwedRows::open(&self.db)?);
        let resent_behind = self.resent_behind()?;
        for pk in pks {
            let is_private = private.remove(&pk)?;
            let may_be_lost = owed.remove(&pk)? || resent_behind.as_ref().is_some_and(|after| pk > *after);
            if is_private || may_be_lost && self.has_own_cells(&pk)? {
                edited.insert(pk);
            }
        }
        Ok(edited)
    }

    /// Whether this device wrote anything of a row.
    fn has_own_cells(&self, pk: &[u8]) -> Result<bool> {
        let own = self.own_site()?;
        let clock = ClockStore::open(&self.db)?.read(pk)?;
        Ok(clock.is_some_and(|clock| clock.is_alive() && clock.clocks().any(|clock| clock.site == own)))
    }
}

impl Applier {
    pub(crate) fn evict(&mut self, replica: &mut Replica, rows: &[RowKey]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let edited = replica.edited(rows)?;
        let mut rejected = false;
        for row in rows {
            let pk = clocks::pk(row.0.id, &row.1);
            if edited.contains(&pk) {
                cloudsync_core::reached!("evict: a row with an unsent edit is taken out");
                replica.reject(row, REASON)?;
                rejected = true;
            }
            self.evict_row(replica, row, &pk)?;
        }
        if rejected {
            replica.trim_rejected()?;
        }
        replica.unsettled.leave_out(rows)?;
        forget_kept(self.db, &rows.iter().map(|(table, key)| named(&table.name, key)).collect())?;
        scrub::call(&self.db)
    }

    fn evict_row(&mut self, replica: &mut Replica, row: &RowKey, pk: &[u8]) -> Result<()> {
        let (table, key) = row;
        let was_here = self.clocks.read(pk)?.is_some_and(|clock| clock.is_alive());
        // A trigger that rolled back everything at this row is not asked again.
        if replica.rolling_back.reason(pk).is_some() {
            self.take_out_unasked(replica, row)?;
        } else {
            match self.writer(replica, table)?.remove(table.id, key) {
                Ok(()) => {}
                Err(Refused::Constraint(reason)) if self.db.is_autocommit() => {
                    return Err(replica.rolling_back.leave_out(pk, &reason));
                }
                Err(Refused::Error(Error::RolledBack(reason))) => {
                    return Err(replica.rolling_back.leave_out(pk, &reason));
                }
                Err(Refused::Constraint(_) | Refused::Part) => self.take_out_unasked(replica, row)?,
                Err(Refused::Error(error)) => return Err(error),
            }
        }
        self.writer(replica, table)?.forget_buried(pk)?;
        self.clocks.remove(pk)?;
        for journal in ["cloudsync_conflicts", "cloudsync_quarantine"] {
            let sql = format!("DELETE FROM main.{journal} WHERE tbl = ?1 COLLATE NOCASE AND pk = ?2");
            self.db.prepare(&sql)?.run(&[Value::from(table.name.as_str()), Value::Blob(key)])?;
        }
        repair::forget_row(&self.db, row)?;
        replica.forget_damaged(row)?;
        self.applied.rows += u64::from(was_here);
        if let Some(written) = &mut self.written {
            written.insert(pk.to_vec());
        }
        Ok(())
    }

    /// Takes a row out without asking triggers.
    fn take_out_unasked(&mut self, replica: &Replica, (table, key): &RowKey) -> Result<()> {
        let triggers = self.db.set_triggers_enabled(false)?;
        let open = |open| replica.guard.iter().for_each(|guard| guard.set_open(open));
        open(true);
        let outcome = self.writer(replica, table).map(|writer| writer.remove(table.id, key));
        open(false);
        self.db.set_triggers_enabled(triggers)?;
        match outcome? {
            Ok(()) | Err(Refused::Part) => {}
            Err(Refused::Constraint(reason)) => return Err(Error::state(reason)),
            Err(Refused::Error(error)) => return Err(error),
        }
        let sql = format!("SELECT 1 FROM {} WHERE {}", table.quoted(), table.key_condition(1));
        let mut select = self.db.prepare(&sql)?;
        clocks::bind_key(&mut select, 1, key)?;
        if !select.step()? {
            return Ok(());
        }
        // Temporary triggers run nevertheless.
        Err(Error::state(format!(
            "a temporary trigger keeps a row of \"{}\" that may no longer be here: drop it, and sync again",
            table.name
        )))
    }
}

/// A row by its table's name, however that is written, and its packed key.
fn named(table: &str, key: &[u8]) -> (String, Vec<u8>) {
    (table.to_ascii_lowercase(), key.to_vec())
}

/// Drops what is kept for unknown names if any of it belongs to these rows: the names are fetched when they come. Gives
/// true if so.
fn forget_kept(db: cloudsync_sqlite_ffi::Connection, evicted: &HashSet<(String, Vec<u8>)>) -> Result<bool> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    db.prepare("SELECT payload FROM main.cloudsync_kept")?.for_each(&[], |row| -> Result<()> {
        pieces.push(row.column(0).as_blob().unwrap_or_default().to_vec());
        Ok(())
    })?;
    for piece in pieces {
        let opened = Opened::open(&piece, &Zstd)?;
        let payload = opened.payload()?;
        let mut groups = payload.groups().iter();
        let is_evicted = |group: &Group<'_>, row| evicted.contains(&named(group.table(), group.key(row)));
        if groups.any(|group| (0..group.rows()).any(|row| is_evicted(group, row))) {
            kept::lose(&db)?;
            return Ok(true);
        }
    }
    Ok(false)
}
