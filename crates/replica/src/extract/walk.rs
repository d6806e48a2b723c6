//! The two ways in which rows come to be sent: through the tree of clocks, or by the change list.

use super::{Builder, Filter};
use crate::changes::{Entry, EntryReader, Mask, Origin};
use crate::clocks;
use crate::concurrent::Sent;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::row_scan::RowScan;
use crate::table::Table;
use cloudsync_core::clock::RowClock;
use cloudsync_sqlite_ffi::Value;
use std::rc::Rc;

impl Builder<'_> {
    /// Sends rows in order of keys; gives where to go on when the chunk is full.
    pub(super) fn scan(&mut self, head: u64, after: &[u8]) -> Result<Option<Position>> {
        let mut select = self
            .db
            .prepare("SELECT pk, clock, ordinal FROM main.cloudsync_clocks WHERE pk > ?1 ORDER BY pk")?;
        select.bind(1, Value::Blob(after))?;
        let mut scanned = None;
        self.scans = Some(head);
        while select.step()? {
            let pk = select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            let clock = select.column(1).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            let clock = RowClock::decode(clock)?;
            let (table, key) = clocks::split_pk(pk)?;
            let filter = self.extraction.filter;
            let table = self.replica.catalog.table(table).filter(|table| filter.takes_table(table));
            let is_judged = self.audience.is_some();
            if let Some(table) = table.filter(|_| is_judged || filter.takes_row(&clock)) {
                if scanned != Some(table.id) {
                    self.scan = RowScan::open(&self.db, &table)?;
                    scanned = Some(table.id);
                }
                if is_judged {
                    let ordinal = select.column_i64(2) as u64;
                    self.scanned(&table, key, &clock, ordinal)?;
                } else {
                    self.row(&table, key, &clock, &Mask::Whole)?;
                }
                if self.set.take().is_some() && self.ends_rows {
                    return Ok(Some(Position::Scan { head, after: pk.to_vec() }));
                }
                if let Some(inside) = self.take_inside() {
                    return Ok(Some(inside));
                }
            }
            if self.may_end() {
                let position = Position::Scan { head, after: pk.to_vec() };
                if self.ends_at(&position) {
                    return Ok(Some(position));
                }
            }
        }
        self.scan = None;
        self.scans = None;
        Ok(None)
    }

    pub(super) const fn place(&self, after: i64, skip: u64) -> Position {
        Position::List { after, skip, compactions: self.compactions }
    }

    /// Sends the rows of the change list.
    pub(super) fn list(&mut self, mut after: i64, mut skip: u64) -> Result<Option<Position>> {
        let mut entries = EntryReader::open(&self.db, after, self.extraction.last)?;
        while let Some(entry) = entries.next()? {
            let table = self.replica.catalog.table(entry.table);
            let filter = self.extraction.filter;
            let takes = self.audience.is_some() || filter.takes(entry.origin);
            if let Some(table) = table.filter(|table| takes && filter.takes_table(table)) {
                self.base = self.base.min(entry.base);
                self.by_file = entry.origin == Origin::File.code();
                for (at, row) in entry.rows().enumerate().skip(skip as usize) {
                    let (key, mask) = row?;
                    self.listed_at = (after, at as u64);
                    let mask = self.told(&entry, mask);
                    if let Some(mask) = self.changed(&table, key, entry.origin, mask)? {
                        self.entry_row(&entry, &table, key, mask)?;
                    }
                    let is_end = self.set.take().is_some() && self.ends_rows;
                    if let Some(inside) = self.take_inside() {
                        return Ok(Some(inside));
                    }
                    let position = self.place(after, at as u64 + 1);
                    if is_end || self.ends_at(&position) {
                        return Ok(Some(position));
                    }
                }
            }
            (after, skip) = (entry.id, 0);
            // A table that synced when the chunk ended in its rows may be gone.
            let position = self.place(after, skip);
            if self.until.is_some_and(|until| position.reaches(until)) {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Only the server is told of insertions as such, and only of those that cannot have gone another way.
    fn told(&self, entry: &Entry, mask: Mask) -> Mask {
        let is_first = self.extraction.filter == Filter::Unsent && entry.version > self.given;
        if mask == Mask::Inserted && !is_first { Mask::Whole } else { mask }
    }

    /// What an entry says of a row, in two parts if the receiver wrote there, too.
    fn entry_row(&mut self, entry: &Entry, table: &Rc<Table>, key: &[u8], mask: Mask) -> Result<()> {
        let Some(uploads) = &mut self.uploads else { return self.listed(table, key, mask) };
        let (concurrent, rest) = uploads.split(entry, key, mask.clone())?;
        if concurrent.is_some() && rest.is_some() {
            self.listed_mask = Some(mask);
        }
        if let Some(mask) = concurrent {
            self.concurrent = true;
            let listed = self.listed(table, key, mask);
            self.concurrent = false;
            listed?;
        }
        if let Some(mask) = rest.filter(|_| self.inside.is_none()) {
            self.listed(table, key, mask)?;
        }
        self.listed_mask = None;
        Ok(())
    }

    pub(crate) fn listed(&mut self, table: &Rc<Table>, key: &[u8], mask: Mask) -> Result<()> {
        let pk = clocks::pk(table.id, key);
        let sent = self.sent.get(&pk);
        if sent.is_some_and(|sent| sent.covers(&mask, self.concurrent)) {
            return Ok(());
        }
        let Some(clock) = self.clocks.read(&pk)? else { return Ok(()) };
        self.offered = self.by_file || !mask.is_edit();
        self.passed = false;
        self.row(table, key, &clock, &mask)?;
        self.offered = false;
        // Of one that was passed over another entry may tell an edit.
        if self.inside.is_some() || self.passed {
            return Ok(());
        }
        match self.sent.get_mut(&pk) {
            Some(sent) => sent.add(mask, self.concurrent),
            None => drop(self.sent.insert(pk, Sent::new(mask, self.concurrent))),
        }
        Ok(())
    }
}
