//! Extraction: what changed since a position, as payload chunks.
//!
//! A [`Position`] is a place in the change list, or in the tree of clocks when everything is wanted. A chunk is read
//! from there in one transaction, and ends when it is large enough; the next one goes on where it ended. Each row is
//! sent as it is now: its present values under its present clocks. So a row that changes while chunks travel is sent
//! again by the entry of that change, and nothing is missed.

use crate::changes::{self, EntryReader, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use cloudsync_core::clock::{Clock, ColumnSet, RowClock, SiteOrdinal};
use cloudsync_core::id::SiteId;
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_protocol::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_TARGET};
use cloudsync_protocol::payload::{Encoder, GroupId, Header};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Where an extraction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In the tree of clocks, behind this key; the list follows behind version `head`.
    Scan {
        /// The last version when the scan began.
        head: u64,
        /// The key of the last row that was sent.
        after: Vec<u8>,
    },
    /// In the change list, behind the entry `after`, and behind `skip` keys of the next one.
    List {
        /// The last entry that was sent whole.
        after: i64,
        /// Keys of the next entry that were sent.
        skip: u64,
    },
}

impl Position {
    /// The position as bytes that its receiver hands back unread.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Scan { head, after } => {
                out.push(1);
                put_varint(&mut out, *head);
                put_bytes(&mut out, after);
            }
            Self::List { after, skip } => {
                out.push(2);
                put_varint(&mut out, *after as u64);
                put_varint(&mut out, *skip);
            }
        }
        out
    }

    /// Reads what [`Position::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let position = match reader.byte().ok()? {
            1 => Self::Scan {
                head: reader.varint().ok()?,
                after: reader.bytes(KEY_BYTES_MAX as u64 + 16, "position").ok()?.to_vec(),
            },
            2 => Self::List {
                after: reader.varint_max(i64::MAX as u64, "position").ok()? as i64,
                skip: reader.varint().ok()?,
            },
            _ => return None,
        };
        reader.is_empty().then_some(position)
    }
}

/// Which changes an extraction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    Everything,
    /// Those the server has not sent: local ones, and those that came by file.
    Unsent,
    /// What a site does not know: not the changes that it uploaded, and in a scan not the rows that it alone wrote,
    /// unless it asks for those too.
    ForSite {
        /// The site.
        site: SiteOrdinal,
        /// True when it wants its own rows back.
        echo: bool,
    },
    /// Cells written by this site.
    BySite(SiteOrdinal),
}

impl Filter {
    /// Whether a scan takes a row.
    fn takes_row(self, clock: &RowClock) -> bool {
        let Self::ForSite { site, echo: false } = self else { return true };
        clock.common.site != site || clock.exceptions.iter().any(|(_, clock)| clock.site != site)
    }

    fn takes_table(self, table: &Table) -> bool {
        table.enabled || !matches!(self, Self::ForSite { .. })
    }

    fn takes(self, origin: i64) -> bool {
        match self {
            Self::Everything | Self::BySite(_) => true,
            Self::Unsent => origin == Origin::Local.code() || origin == Origin::File.code(),
            Self::ForSite { site, .. } => origin != Origin::Site(site).code(),
        }
    }
}

/// A part of what changed.
#[derive(Debug)]
pub struct Chunk {
    /// The payload, empty when there was nothing.
    pub payload: Vec<u8>,
    /// Rows in it.
    pub rows: u64,
    /// Where to go on; `None` when everything up to `last` was taken.
    pub next: Option<Position>,
    /// The smallest server cursor at which any of the changes was made.
    pub base: u64,
}

/// What to extract.
#[derive(Debug, Clone)]
pub struct Extraction {
    /// Where to begin.
    pub from: Position,
    /// The last version to take.
    pub last: u64,
    /// Which changes to take.
    pub filter: Filter,
    /// Bytes at which a chunk ends.
    pub bytes_target: usize,
}

impl Replica {
    /// Where the changes after `version` begin; from 0 that is everything there is, in order of keys.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn position_after(&self, version: u64) -> Result<Position> {
        if version == 0 {
            let head = changes::last_version(&self.db)?;
            return Ok(Position::Scan { head, after: Vec::new() });
        }
        Ok(Position::List { after: changes::entry_before(&self.db, version)?, skip: 0 })
    }

    /// Rows that a scan from 0 will send, for progress; 0 when it is not known.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rows_after(&self, version: u64) -> Result<u64> {
        if version > 0 {
            return Ok(0);
        }
        Ok(self.db.query_i64("SELECT count(*) FROM main.cloudsync_clocks", &[])?.unwrap_or(0) as u64)
    }

    /// This replica's ordinal for a site, if it has met it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn site_ordinal(&mut self, site: SiteId) -> Result<Option<SiteOrdinal>> {
        self.sites.refresh(&self.db)?;
        Ok(self.sites.find(site))
    }

    /// The same, giving the site an ordinal if it has none. The caller holds the transaction.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn meet_site(&mut self, site: SiteId) -> Result<SiteOrdinal> {
        self.sites.refresh(&self.db)?;
        self.sites.ordinal(&self.db, site)
    }

    /// Extracts one chunk. The caller holds a transaction in which everything is folded.
    ///
    /// # Errors
    /// When the file cannot be read, or a single row is larger than a chunk may be.
    pub fn extract_in_transaction(&mut self, extraction: &Extraction) -> Result<Chunk> {
        self.catalog.load(&self.db)?;
        self.sites.refresh(&self.db)?;
        let mut builder = Builder::new(self, extraction)?;
        let mut from = extraction.from.clone();
        if let Position::Scan { head, after } = &from {
            match builder.scan(*head, after)? {
                Some(next) => return Ok(builder.finish(Some(next))),
                None => from = Position::List { after: changes::entry_before(&self.db, *head)?, skip: 0 },
            }
        }
        let Position::List { after, skip } = from else { return Err(Error::corrupt("position")) };
        let next = builder.list(after, skip)?;
        Ok(builder.finish(next))
    }

    /// Everything that changed after `since`, or only the cells written by `site`, as one payload.
    ///
    /// # Errors
    /// Inside a transaction that wrote, and when the changes do not fit one payload.
    pub fn payload_encode(&mut self, since: u64, site: Option<SiteId>) -> Result<Vec<u8>> {
        self.require()?;
        self.require_no_transaction("cloudsync_payload_encode")?;
        self.transact(|replica| {
            replica.fold_in_transaction()?;
            let filter = match site {
                None => Filter::Everything,
                Some(site) => match replica.sites.find(site) {
                    Some(site) => Filter::BySite(site),
                    None => return Err(Error::usage(format!("no change of site {site} is known here"))),
                },
            };
            let last = changes::last_version(&replica.db)?;
            let from = replica.position_after(since)?;
            let chunk = replica.extract_in_transaction(&Extraction { from, last, filter, bytes_target: CHUNK_BYTES_MAX / 2 })?;
            if chunk.next.is_some() {
                return Err(Error::Limit(format!(
                    "the changes since version {since} do not fit one payload of {CHUNK_BYTES_MAX} bytes: encode them since a later version, or in parts with cloudsync_payload_chunks"
                )));
            }
            if chunk.rows == 0 {
                // No bytes at all could not be told from a file that was lost.
                let header = Header { first_version: 0, last_version: last, is_final: true };
                return Ok(Encoder::new().finish(header, &Zstd));
            }
            if chunk.rows == 0 {
                let header = Header { first_version: 0, last_version: last, is_final: true };
                return Ok(Encoder::new().finish(header, &Zstd));
            }
            Ok(chunk.payload)
        })
    }
}

/// The rows of one table with one set of columns.
struct Open {
    id: GroupId,
    select: Statement,
    columns: Vec<cloudsync_core::clock::ColumnNumber>,
}

struct Builder<'r> {
    db: Connection,
    replica: &'r Replica,
    extraction: &'r Extraction,
    encoder: Encoder,
    clocks: ClockStore,
    groups: HashMap<(i64, Option<ColumnSet>, bool), Open>,
    wire_sites: Vec<Option<SiteOrdinal>>,
    /// Rows of this chunk whose entries came more than once: what was sent of them.
    sent: HashMap<Vec<u8>, Mask>,
    base: u64,
}

impl<'r> Builder<'r> {
    fn new(replica: &'r Replica, extraction: &'r Extraction) -> Result<Self> {
        Ok(Self {
            db: replica.db,
            replica,
            extraction,
            encoder: Encoder::new(),
            clocks: ClockStore::open(&replica.db)?,
            groups: HashMap::new(),
            wire_sites: vec![None; replica.sites.ids().len()],
            sent: HashMap::new(),
            base: u64::MAX,
        })
    }

    fn is_full(&self) -> bool {
        self.encoder.is_full_at(self.extraction.bytes_target)
    }

    fn finish(self, next: Option<Position>) -> Chunk {
        let rows = self.encoder.rows() as u64;
        let base = if self.base == u64::MAX { 0 } else { self.base };
        let header =
            Header { first_version: 0, last_version: self.extraction.last, is_final: next.is_none() };
        let payload = if rows == 0 { Vec::new() } else { self.encoder.finish(header, &Zstd) };
        Chunk { payload, rows, next, base }
    }

    /// Sends rows in order of keys; gives where to go on when the chunk is full.
    fn scan(&mut self, head: u64, after: &[u8]) -> Result<Option<Position>> {
        let mut select =
            self.db.prepare("SELECT pk, clock FROM main.cloudsync_clocks WHERE pk > ?1 ORDER BY pk")?;
        select.bind(1, Value::Blob(after))?;
        while select.step()? {
            let pk = select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            let clock = select.column(1).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            let clock = RowClock::decode(clock)?;
            let (table, key) = clocks::split_pk(pk)?;
            let filter = self.extraction.filter;
            let table = self.replica.catalog.table(table).filter(|table| filter.takes_table(table));
            if let Some(table) = table.filter(|_| filter.takes_row(&clock)) {
                self.row(&table, key, &clock, &Mask::Whole)?;
            }
            if self.is_full() {
                return Ok(Some(Position::Scan { head, after: pk.to_vec() }));
            }
        }
        Ok(None)
    }

    /// Sends the rows of the change list.
    fn list(&mut self, mut after: i64, mut skip: u64) -> Result<Option<Position>> {
        let mut entries = EntryReader::open(&self.db, after, self.extraction.last)?;
        while let Some(entry) = entries.next()? {
            let table = self.replica.catalog.table(entry.table);
            let filter = self.extraction.filter;
            if let Some(table) = table.filter(|table| filter.takes(entry.origin) && filter.takes_table(table))
            {
                self.base = self.base.min(entry.base);
                for (at, row) in entry.rows().enumerate().skip(skip as usize) {
                    let (key, mask) = row?;
                    self.listed(&table, key, mask)?;
                    if self.is_full() {
                        return Ok(Some(Position::List { after, skip: at as u64 + 1 }));
                    }
                }
            }
            (after, skip) = (entry.id, 0);
        }
        Ok(None)
    }

    fn listed(&mut self, table: &Rc<Table>, key: &[u8], mask: Mask) -> Result<()> {
        let pk = clocks::pk(table.id, key);
        let mask = match (self.sent.get(&pk), mask) {
            (Some(Mask::Whole), _) => return Ok(()),
            (Some(Mask::Columns(sent)), Mask::Columns(columns)) if columns.is_subset(sent) => return Ok(()),
            (_, mask) => mask,
        };
        let Some(clock) = self.clocks.read(&pk)? else { return Ok(()) };
        self.row(table, key, &clock, &mask)?;
        self.sent
            .entry(pk)
            .and_modify(|sent| match (sent, &mask) {
                (Mask::Columns(sent), Mask::Columns(columns)) => sent.union_with(columns),
                (sent, mask) => *sent = mask.clone(),
            })
            .or_insert(mask);
        Ok(())
    }

    fn row(&mut self, table: &Rc<Table>, key: &[u8], clock: &RowClock, mask: &Mask) -> Result<()> {
        if !clock.is_alive() {
            return self.tombstone(table, key, clock);
        }
        let mut columns = clock.columns.clone();
        columns.intersect_with(&table.numbers);
        if let Mask::Columns(changed) = mask {
            columns.intersect_with(changed);
        }
        let mut whole = *mask == Mask::Whole;
        if let Filter::BySite(site) = self.extraction.filter {
            let own: ColumnSet =
                columns.iter().filter(|c| clock.cell(*c).is_some_and(|c| c.site == site)).collect();
            whole &= own == columns && clock.common.site == site;
            columns = own;
        }
        if columns.is_empty() && !whole {
            return Ok(());
        }
        self.alive(table, key, clock, columns, whole)
    }

    fn tombstone(&mut self, table: &Rc<Table>, key: &[u8], clock: &RowClock) -> Result<()> {
        if matches!(self.extraction.filter, Filter::BySite(site) if site != clock.common.site) {
            return Ok(());
        }
        if !self.groups.contains_key(&(table.id, None, true)) {
            let id = self.encoder.group(&table.name, &[], true);
            let open = Open { id, select: self.db.prepare("SELECT 1")?, columns: Vec::new() };
            self.groups.insert((table.id, None, true), open);
        }
        let common = self.wire_clock(clock.common)?;
        if let Some(open) = self.groups.get(&(table.id, None, true)) {
            self.encoder.push(open.id, key, clock.life, common, &[], std::iter::empty());
        }
        Ok(())
    }

    fn alive(
        &mut self,
        table: &Rc<Table>,
        key: &[u8],
        clock: &RowClock,
        columns: ColumnSet,
        whole: bool,
    ) -> Result<()> {
        let numbers: Vec<_> = columns.iter().collect();
        let cells: Vec<_> =
            numbers.iter().map(|column| clock.cell(*column).unwrap_or(clock.common)).collect();
        // A part is sent under the clock of its first cell, which most of its cells share.
        let common = if whole { clock.common } else { cells.first().copied().unwrap_or(clock.common) };
        let mut exceptions = Vec::new();
        for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| **cell != common) {
            exceptions.push((at as u16, self.wire_clock(*cell)?));
        }
        let common = self.wire_clock(common)?;
        let group = (table.id, Some(columns), whole);
        if !self.groups.contains_key(&group) {
            let open = self.open(table, numbers, whole)?;
            self.groups.insert(group.clone(), open);
        }
        let Some(open) = self.groups.get_mut(&group) else { return Ok(()) };
        clocks::bind_key(&mut open.select, 1, key)?;
        if open.select.step()? {
            let values = (0..open.columns.len()).map(|i| from_sqlite(open.select.column(i)));
            let bytes: usize = values.clone().map(|value| value.size_bytes()).sum();
            if bytes > CHUNK_BYTES_MAX - CHUNK_BYTES_TARGET {
                return Err(too_large(table, bytes));
            }
            self.encoder.push(open.id, key, clock.life, common, &exceptions, values);
        }
        Ok(open.select.reset()?)
    }

    fn open(
        &mut self,
        table: &Table,
        columns: Vec<cloudsync_core::clock::ColumnNumber>,
        whole: bool,
    ) -> Result<Open> {
        let cells: Vec<_> = columns.iter().filter_map(|number| table.cell(*number)).collect();
        let names: Vec<_> = cells.iter().map(|cell| cell.column.name()).collect();
        let mut list: Vec<_> = names.iter().map(|name| quote_identifier(name)).collect();
        if list.is_empty() {
            list.push("1".to_owned());
        }
        let sql =
            format!("SELECT {} FROM {} WHERE {}", list.join(", "), table.quoted(), table.key_condition(1));
        Ok(Open {
            id: self.encoder.group(&table.name, &names, whole),
            select: self.db.prepare(&sql)?,
            columns,
        })
    }

    fn wire_clock(&mut self, clock: Clock) -> Result<Clock> {
        let at = clock.site.0 as usize;
        let known = self
            .wire_sites
            .get(at)
            .copied()
            .ok_or_else(|| Error::corrupt("a clock names an unknown site"))?;
        let site = match known {
            Some(site) => site,
            None => {
                let site = self.encoder.site(&self.replica.sites.id(clock.site)?);
                self.wire_sites[at] = Some(site);
                site
            }
        };
        Ok(Clock::new(clock.time, site))
    }
}

fn too_large(table: &Table, bytes: usize) -> Error {
    Error::Limit(format!(
        "a row of table \"{}\" has {bytes} bytes, more than the {} that can be sent: make its values smaller",
        table.name,
        CHUNK_BYTES_MAX - CHUNK_BYTES_TARGET
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_rubbish_is_refused() {
        for position in
            [Position::Scan { head: 9, after: b"abc".to_vec() }, Position::List { after: 77, skip: 3 }]
        {
            let bytes = position.encode();
            assert_eq!(Position::decode(&bytes), Some(position));
            assert!((0..bytes.len()).all(|end| Position::decode(&bytes[..end]).is_none()));
        }
        assert_eq!(Position::decode(&[3, 0, 0]), None);
    }
}
