//! An audience: somebody who may not see everything, and of whom it is known what they hold.
//!
//! An extraction asks it about each row that would be sent. It may also name rows of its own accord, of which nothing
//! changed but who may see them; those come first. What an audience remembers of its answers is its own matter; each is asked
//! for one chunk.

use crate::changes::{self, ChangeWriter, EntryReader, Mask};
use crate::clocks::{self, bind_key};
use crate::error::{Error, Result};
use crate::extract::{Builder, Chunk, Extraction};
use crate::position::Position;
use crate::replica::Replica;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::clock::{Clock, RowClock, SiteOrdinal};
use cloudsync_core::merge::Algorithm;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::rc::Rc;

/// A row that may be sent.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'c> {
    /// Its table, by its number here.
    pub table: i64,
    /// The table's name.
    pub table_name: &'c str,
    /// Its packed key.
    pub key: &'c [u8],
    /// The number that stands for it.
    pub ordinal: u64,
    /// False for a row that was deleted.
    pub alive: bool,
    /// True for a deleted row of which values travel.
    pub has_values: bool,
    /// Why it is looked at.
    pub cause: Cause,
}

/// Why a row is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Everything is sent; the receiver itself wrote all of the row, or not.
    Scan {
        /// True when it wrote every cell.
        own: bool,
    },
    /// It changed; by the receiver itself, or not.
    Change {
        /// True when the receiver brought this change.
        own: bool,
    },
    /// The audience named it.
    Named,
}

/// What is sent of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Nothing.
    Nothing,
    /// What changed of it.
    Changes,
    /// All of it.
    Whole,
    /// That it may no longer be held.
    Eviction,
}

/// Whoever receives an extraction.
pub trait Audience {
    /// The next row that it wants looked at, table and packed key; `None` when there are no more for now.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn next(&mut self) -> Result<Option<(i64, Vec<u8>)>>;

    /// True when it has looked at so much that the chunk shall end, however little is in it.
    fn is_tired(&self) -> bool;

    /// What is to be sent of a row. It is sent.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn judge(&mut self, row: &Candidate<'_>) -> Result<Sending>;

    /// Of the row that was judged last only pieces of its large values are sent; it is judged again before more of them
    /// are.
    fn cut_short(&mut self);
}

impl Replica {
    /// Extracts one chunk for somebody. The caller holds a transaction in which everything is folded. Where the chunk is
    /// full before the rows that the audience named are through, it goes on where it began.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn extract_for(&mut self, extraction: &Extraction, audience: &mut dyn Audience) -> Result<Chunk> {
        self.extract_with(extraction, None, false, Some(audience))
    }

    /// Begins a version without changes, so that whoever waits for news asks. The caller holds the transaction.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin_version(&mut self) -> Result<u64> {
        ChangeWriter::begin(&self.db, self.now_ms())?.finish_empty(&self.db)
    }

    /// Calls `each` with the table, ordinal, whether it lives, and whether `site` wrote every cell, of the rows that
    /// `site` changed after `version`.
    ///
    /// # Errors
    /// When the file cannot be read, and what `each` gives.
    pub fn each_changed_by(
        &mut self,
        site: SiteOrdinal,
        version: u64,
        mut each: impl FnMut(u64, bool, bool) -> Result<()>,
    ) -> Result<()> {
        let last = changes::last_version(&self.db)?;
        if last <= version {
            return Ok(());
        }
        let mut entries = EntryReader::open(&self.db, changes::entry_before(&self.db, version)?, last)?;
        let mut read = OrdinalReader::open(&self.db)?;
        while let Some(entry) = entries.next()? {
            if entry.origin != crate::changes::Origin::Site(site).code() {
                continue;
            }
            for row in entry.rows() {
                if let Some((clock, ordinal)) = read.read(&clocks::pk(entry.table, row?.0))? {
                    each(ordinal, clock.is_alive(), wrote_all(&clock, site))?;
                }
            }
        }
        Ok(())
    }

    /// The number that stands for a row, by its table and packed key; `None` if it was never known.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ordinal_of(&mut self, table: &str, key: &[u8]) -> Result<Option<u64>> {
        self.catalog.load(&self.db)?;
        let Some(table) = self.catalog.table_named(table) else { return Ok(None) };
        let known = OrdinalReader::open(&self.db)?.read(&clocks::pk(table.id, key))?;
        Ok(known.map(|(_, ordinal)| ordinal))
    }

    /// The keys that are known of some tables, in order, after one of them; alive or deleted.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn known_keys(&self) -> Result<KnownKeys> {
        let sql = "SELECT pk FROM main.cloudsync_clocks WHERE pk > ?1 AND pk < ?2 ORDER BY pk";
        Ok(KnownKeys { select: self.db.prepare(sql)?, runs: None })
    }

    /// The tables that sync.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn table_rows(&mut self) -> Result<Vec<TableRows>> {
        self.catalog.load(&self.db)?;
        let tables = self.catalog.tables().into_iter().filter(|table| table.enabled);
        Ok(tables.map(|table| TableRows { db: self.db, table }).collect())
    }
}

/// The rows of a table that syncs, by conditions in SQL.
pub struct TableRows {
    db: Connection,
    table: Rc<Table>,
}

impl TableRows {
    pub(crate) const fn new(db: Connection, table: Rc<Table>) -> Self {
        Self { db, table }
    }

    /// The table's number here.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.table.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Rows for which a condition is true, one by one, by their keys.
    ///
    /// # Errors
    /// When SQLite does not take the condition.
    pub fn test(&self, condition: &str) -> Result<RowTest> {
        let (key, name) = (self.table.key_condition(1), quote_identifier(&self.table.name));
        // language=SQLite
        let sql = format!("SELECT 1 FROM main.{name} WHERE {key} AND {condition}");
        Ok(RowTest { select: self.db.prepare(&sql)? })
    }

    /// The keys of some rows.
    ///
    /// # Errors
    /// When SQLite does not take the condition.
    pub fn keys(&self, rows: &Rows<'_>) -> Result<RowKeys> {
        let Rows { with, beside, condition, repeats } = rows;
        let name = quote_identifier(&self.table.name);
        let key = self.table.key.iter().map(|key| format!("{name}.{}", quote_identifier(&key.name)));
        let key = key.collect::<Vec<_>>().join(", ");
        let before = if beside.is_empty() { String::new() } else { format!("{beside} CROSS JOIN ") };
        let distinct = if *repeats { "DISTINCT " } else { "" };
        let sql = format!("{with} SELECT {distinct}{key} FROM {before}main.{name} WHERE {condition}");
        Ok(RowKeys { select: self.db.prepare(&sql)?, table: Rc::clone(&self.table) })
    }
}

/// Which rows of a table are meant.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'s> {
    /// A WITH clause or nothing.
    pub with: &'s str,
    /// Tables that are gone through first, or none.
    pub beside: &'s str,
    /// What is true for the rows, and for those beside them.
    pub condition: &'s str,
    /// True where a row may be found more often than once; each is given once then.
    pub repeats: bool,
}

/// Tells for single rows whether a condition is true.
pub struct RowTest {
    select: Statement,
}

impl RowTest {
    /// Whether the row exists, and the condition is true for it.
    ///
    /// # Errors
    /// When it cannot be evaluated.
    pub fn holds(&mut self, key: &[u8]) -> Result<bool> {
        bind_key(&mut self.select, 1, key)?;
        let holds = self.select.step();
        self.select.reset()?;
        Ok(holds?)
    }
}

/// Packed keys of rows.
pub struct RowKeys {
    select: Statement,
    table: Rc<Table>,
}

impl RowKeys {
    /// Whether there is any such row at present. Begins anew each time.
    ///
    /// # Errors
    /// When the condition cannot be evaluated.
    pub fn any(&mut self) -> Result<bool> {
        let found = self.select.step();
        self.select.reset()?;
        Ok(found?)
    }

    /// The next one; rows whose key cannot travel are passed over.
    ///
    /// # Errors
    /// When the condition cannot be evaluated.
    pub fn next_key(&mut self) -> Result<Option<Vec<u8>>> {
        while self.select.step()? {
            let mut key = Vec::new();
            if self.table.pack_key(&mut key, |i| from_sqlite(self.select.column(i))).is_ok() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

/// All keys that are known of a table.
pub struct KnownKeys {
    select: Statement,
    runs: Option<i64>,
}

impl KnownKeys {
    /// The next key of a table after this one, empty for the first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_key(&mut self, table: i64, after: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.runs != Some(table) {
            self.select.reset()?;
            let (_, beyond) = clocks::pk_range(table);
            self.select.bind(1, Value::Blob(&clocks::pk(table, after)))?;
            self.select.bind(2, Value::Blob(&beyond))?;
            self.runs = Some(table);
        }
        if !self.select.step()? {
            self.runs = None;
            return Ok(None);
        }
        let pk = self.select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
        Ok(Some(clocks::split_pk(pk)?.1.to_vec()))
    }
}

/// Reads clocks and ordinals.
pub(crate) struct OrdinalReader {
    read: Statement,
}

impl OrdinalReader {
    pub(crate) fn open(db: &Connection) -> Result<Self> {
        Ok(Self { read: db.prepare("SELECT clock, ordinal FROM main.cloudsync_clocks WHERE pk = ?1")? })
    }

    pub(crate) fn read(&mut self, pk: &[u8]) -> Result<Option<(RowClock, u64)>> {
        self.read.bind(1, Value::Blob(pk))?;
        let found = if self.read.step()? {
            let clock = self.read.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            Some((RowClock::decode(clock)?, self.read.column_i64(1) as u64))
        } else {
            None
        };
        self.read.reset()?;
        Ok(found)
    }
}

/// Whether a site wrote every cell of a row, so that it has it whole.
pub(crate) fn wrote_all(clock: &RowClock, site: SiteOrdinal) -> bool {
    let is_foreign = |(_, clock): &(_, Clock)| clock.site != site;
    // Of a later life than the first, the site may not know that its row was moved there.
    let may_be_moved = clock.life > 2;
    clock.common.site == site
        && !clock.exceptions.iter().any(is_foreign)
        && clock.marks.is_none()
        && !may_be_moved
}

impl Builder<'_> {
    /// Sends the rows that the audience names. Where the chunk is full before they are through, it goes on where it began,
    /// or inside the row that filled it.
    pub(crate) fn named(&mut self) -> Result<Option<Position>> {
        loop {
            if self.encoder.is_full_at(self.extraction.bytes_target) || self.is_tired() {
                return Ok(Some(self.extraction.from.clone()));
            }
            let Some(audience) = self.audience.as_deref_mut() else { return Ok(None) };
            let Some((table, key)) = audience.next()? else { return Ok(None) };
            let table = self.replica.catalog.table(table).filter(|table| table.enabled);
            let Some(table) = table else { continue };
            let Some((clock, ordinal)) = self.ordinals()?.read(&clocks::pk(table.id, &key))? else {
                continue;
            };
            if self.sending(&table, &key, &clock, ordinal, Cause::Named)? == Sending::Whole {
                self.listed(&table, &key, Mask::Whole)?;
            }
            self.set = None;
            if let Some(inside) = self.take_inside() {
                return Ok(Some(inside));
            }
        }
    }

    pub(crate) fn is_tired(&self) -> bool {
        self.audience.as_ref().is_some_and(|audience| audience.is_tired())
    }

    /// A row of a scan.
    pub(crate) fn scanned(
        &mut self,
        table: &Rc<Table>,
        key: &[u8],
        clock: &RowClock,
        ordinal: u64,
    ) -> Result<()> {
        let own = !self.extraction.filter.takes_row(clock);
        match self.sending(table, key, clock, ordinal, Cause::Scan { own })? {
            Sending::Nothing | Sending::Eviction => Ok(()),
            Sending::Changes | Sending::Whole => self.row(table, key, clock, &Mask::Whole),
        }
    }

    /// A row of the list of changes. Gives the mask with which it goes the usual way, if it does.
    pub(crate) fn changed(
        &mut self,
        table: &Rc<Table>,
        key: &[u8],
        origin: i64,
        mask: Mask,
    ) -> Result<Option<Mask>> {
        if self.audience.is_none() {
            return Ok(Some(mask));
        }
        let Some((clock, ordinal)) = self.ordinals()?.read(&clocks::pk(table.id, key))? else {
            return Ok(None);
        };
        let own = !self.extraction.filter.takes(origin);
        match self.sending(table, key, &clock, ordinal, Cause::Change { own })? {
            Sending::Nothing | Sending::Eviction => Ok(None),
            Sending::Changes => Ok(Some(mask)),
            Sending::Whole => {
                self.listed(table, key, Mask::Whole)?;
                Ok(None)
            }
        }
    }

    fn sending(
        &mut self,
        table: &Rc<Table>,
        key: &[u8],
        clock: &RowClock,
        ordinal: u64,
        cause: Cause,
    ) -> Result<Sending> {
        let Some(audience) = self.audience.as_deref_mut() else { return Ok(Sending::Changes) };
        let alive = clock.is_alive();
        let has_values = !alive && table.algorithm == Algorithm::Aws;
        let row =
            Candidate { table: table.id, table_name: &table.name, key, ordinal, alive, has_values, cause };
        let sending = audience.judge(&row)?;
        if sending == Sending::Eviction {
            self.encoder.evict(&table.name, key);
        }
        Ok(sending)
    }

    fn ordinals(&mut self) -> Result<&mut OrdinalReader> {
        if self.ordinals.is_none() {
            self.ordinals = Some(OrdinalReader::open(&self.db)?);
        }
        self.ordinals.as_mut().ok_or_else(|| Error::state("no reader of ordinals"))
    }

    /// Where the chunk ends that the pieces of the row at hand have filled.
    pub(crate) fn take_inside(&mut self) -> Option<Position> {
        let inside = self.inside.take()?;
        if let Some(audience) = self.audience.as_deref_mut() {
            audience.cut_short();
        }
        Some(Position::Inside(Box::new(inside)))
    }
}
