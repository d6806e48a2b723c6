//! Extraction: what changed since a position, as payload chunks.
//!
//! A [`Position`] is a place in the change list, or in the tree of clocks when everything is wanted. A chunk is read
//! from there in one transaction, and ends when it is large enough; the next one goes on where it ended. Each row is
//! sent as it is now: its present values under its present clocks. So a row that changes while chunks travel is sent
//! again by the entry of that change, and nothing is missed.

mod dead;
mod groups;
mod large;
mod walk;

use self::groups::{Open, Shape};
pub(crate) use self::large::{LengthLimit, is_too_long};
use self::large::{Outline, Set};
use crate::audience::{Audience, OrdinalReader, wrote_all};
use crate::buried::Buried;
use crate::changes::{self, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::codec::Zstd;
use crate::compaction::COMPACTIONS;
use crate::concurrent::{Sent, Uploads};
use crate::error::{Error, Result};
use crate::filter;
use crate::given::GIVEN_VERSION;
use crate::position::{Inside, Position};
use crate::replica::Replica;
use crate::row_scan::RowScan;
use crate::storage;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::clock::{Clock, ColumnSet, RowClock, SiteOrdinal};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::limits::{CHUNK_BYTES_MAX, ROW_BYTES_MAX, TURN_CHUNK_BYTES_MAX};
use cloudsync_protocol::payload::{Encoder, Header};
use cloudsync_sqlite_ffi::Connection;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Which changes an extraction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    Everything,
    /// Those the server has not sent: local ones, and those that came by file.
    Unsent,
    /// All of them, for a server that lost what it had.
    Resend,
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
    pub(crate) fn takes_row(self, clock: &RowClock) -> bool {
        let Self::ForSite { site, echo: false } = self else { return true };
        !wrote_all(clock, site)
    }

    fn takes_table(self, table: &Table) -> bool {
        (table.enabled || !matches!(self, Self::ForSite { .. })) && !table.is_withheld()
    }

    pub(crate) fn takes(self, origin: i64) -> bool {
        match self {
            Self::Everything | Self::Resend | Self::BySite(_) => true,
            Self::Unsent => origin == Origin::Local.code() || origin == Origin::File.code(),
            Self::ForSite { site, echo } => echo || origin != Origin::Site(site).code(),
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
        Ok(Position::List { after: changes::entry_before(&self.db, version)?, skip: 0, compactions: 0 })
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
    /// When the file cannot be read.
    pub fn extract_in_transaction(&mut self, extraction: &Extraction) -> Result<Chunk> {
        self.extract_until(extraction, None, false)
    }

    /// The same, but ends where an earlier extraction from there ended, whatever the size; only a chunk that would
    /// grow too large ends before. If it `ends_rows` it ends behind the first row of which pieces were sent.
    pub(crate) fn extract_until(
        &mut self,
        extraction: &Extraction,
        until: Option<&Position>,
        ends_rows: bool,
    ) -> Result<Chunk> {
        self.extract_with(extraction, until, ends_rows, None)
    }

    /// The same for an audience, if there is one.
    pub(crate) fn extract_with(
        &mut self,
        extraction: &Extraction,
        until: Option<&Position>,
        ends_rows: bool,
        audience: Option<&mut dyn Audience>,
    ) -> Result<Chunk> {
        self.catalog.load(&self.db)?;
        self.catalog.require_settled()?;
        self.sites.refresh(&self.db)?;
        let mut builder = Builder::new(self, extraction, until)?;
        builder.ends_rows = ends_rows;
        if let Some(audience) = audience {
            builder.audience = Some(audience);
        }
        let next = builder.run()?;
        Ok(builder.finish(next))
    }

    /// Everything that changed after `since`, or only the cells written by `site`, as one payload.
    ///
    /// # Errors
    /// Inside a transaction that wrote, and when the changes do not fit one payload.
    pub fn payload_encode(&mut self, since: u64, site: Option<SiteId>) -> Result<Vec<u8>> {
        self.require()?;
        self.require_no_transaction()?;
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
            replica.note_given(last)?;
            let from = replica.position_after(since)?;
            let chunk = replica.extract_in_transaction(&Extraction { from, last, filter, bytes_target: CHUNK_BYTES_MAX / 2 })?;
            if chunk.next.is_some() {
                return Err(Error::Limit(format!(
                    "the changes since version {since} do not fit one payload of {CHUNK_BYTES_MAX} bytes: encode them since a later version, or in parts with cloudsync_payload_chunks"
                )));
            }
            if chunk.payload.is_empty() {
                // No bytes at all could not be told from a file that was lost.
                let header = Header { first_version: 0, last_version: last, is_final: true };
                return Ok(Encoder::new().finish(header, &Zstd));
            }
            Ok(chunk.payload)
        })
    }
}

pub(crate) struct Builder<'r> {
    pub(crate) db: Connection,
    pub(crate) replica: &'r Replica,
    pub(crate) extraction: &'r Extraction,
    until: Option<&'r Position>,
    pub(crate) encoder: Encoder,
    pub(crate) clocks: ClockStore,
    /// Walks through the table whose rows are all wanted.
    scan: Option<RowScan>,
    groups: Vec<Open>,
    by_shape: HashMap<Shape, usize>,
    /// The group of the last row, which is mostly that of the next.
    last_group: usize,
    wire_sites: Vec<Option<SiteOrdinal>>,
    /// Rows of this chunk whose entries came more than once: what was sent of them.
    sent: HashMap<Vec<u8>, Sent>,
    /// What the receiver uploaded, where it is a site.
    uploads: Option<Uploads>,
    /// Set while rows are added whose authors had not seen what the receiver wrote there.
    concurrent: bool,
    base: u64,
    /// How often the list was compacted.
    compactions: u64,
    /// The last version that was given to others by hand, or may be in a copy of this file.
    given: u64,
    /// Set unless rows must be whole, whatever their size.
    pub(crate) splits: bool,
    /// Set where the chunk ends behind the first row of which pieces were sent.
    ends_rows: bool,
    /// Where the first row of which pieces were sent before goes on.
    resume: Option<Inside>,
    /// Where the pieces ended that filled the chunk.
    pub(crate) inside: Option<Inside>,
    /// The large values of the row at hand, whose pieces are in the stream.
    pub(crate) set: Option<Set>,
    /// While the rows are sent that the audience names.
    names: bool,
    /// While a scan runs: the version at which it began.
    scans: Option<u64>,
    /// The entry before the one at hand, and keys of that one which are behind us; its mask of the row at hand.
    listed_at: (i64, u64),
    listed_mask: Option<Mask>,
    /// The values of dead rows, opened with the first of them.
    buried: Option<Buried>,
    /// Set while a row is listed only because others may lack it; and once it was passed over.
    offered: bool,
    passed: bool,
    /// The entry at hand came by file.
    by_file: bool,
    /// The rows with unsent edits, read once somebody asks.
    unsent: Option<HashSet<Vec<u8>>>,
    /// Who receives the rows, if they may not see all.
    pub(crate) audience: Option<&'r mut dyn Audience>,
    pub(crate) ordinals: Option<OrdinalReader>,
}

impl<'r> Builder<'r> {
    pub(crate) fn new(
        replica: &'r Replica,
        extraction: &'r Extraction,
        until: Option<&'r Position>,
    ) -> Result<Self> {
        Ok(Self {
            db: replica.db,
            replica,
            extraction,
            until,
            encoder: Encoder::new(),
            clocks: ClockStore::open(&replica.db)?,
            scan: None,
            groups: Vec::new(),
            by_shape: HashMap::new(),
            last_group: 0,
            wire_sites: vec![None; replica.sites.ids().len()],
            sent: HashMap::new(),
            uploads: match extraction.filter {
                Filter::ForSite { site, .. } => Some(Uploads::new(replica.db, site, extraction.last)),
                Filter::Everything | Filter::Resend | Filter::Unsent | Filter::BySite(_) => None,
            },
            concurrent: false,
            base: u64::MAX,
            compactions: storage::get_u64(&replica.db, COMPACTIONS)?,
            given: storage::get_u64(&replica.db, GIVEN_VERSION)?,
            splits: true,
            ends_rows: false,
            resume: None,
            inside: None,
            set: None,
            names: false,
            scans: None,
            listed_at: (0, 0),
            listed_mask: None,
            buried: None,
            offered: false,
            passed: false,
            by_file: false,
            unsent: None,
            audience: None,
            ordinals: None,
        })
    }

    /// Fills the chunk; gives where to go on when it is full.
    fn run(&mut self) -> Result<Option<Position>> {
        if let Position::Inside(inside) = &self.extraction.from {
            self.resume = Some(Inside::clone(inside));
        }
        self.names = true;
        if let Some(next) = self.named()? {
            return Ok(Some(next));
        }
        self.names = false;
        let (after, skip) = match self.extraction.from.place() {
            Position::Scan { head, after } => match self.scan(*head, after)? {
                Some(next) => return Ok(Some(next)),
                None => (changes::entry_before(&self.db, *head)?, 0),
            },
            // In an entry that was rewritten meanwhile the keys cannot be counted: it is sent from its start.
            Position::List { after, compactions, .. } if *compactions != self.compactions => (*after, 0),
            Position::List { after, skip, .. } => (*after, *skip),
            Position::Inside(_) => return Err(Error::corrupt("a position stands inside of another")),
        };
        self.list(after, skip)
    }

    /// False while a look at the position is not worth its price.
    fn may_end(&self) -> bool {
        self.until.is_some() || self.encoder.is_full_at(self.extraction.bytes_target) || self.is_tired()
    }

    /// True when the chunk ends at `position`.
    fn ends_at(&self, position: &Position) -> bool {
        match self.until {
            Some(until) => position.reaches(until) || self.encoder.is_full_at(TURN_CHUNK_BYTES_MAX / 2),
            None => self.encoder.is_full_at(self.extraction.bytes_target) || self.is_tired(),
        }
    }

    pub(crate) fn finish(self, next: Option<Position>) -> Chunk {
        let rows = self.encoder.rows() as u64;
        let base = if self.base == u64::MAX { 0 } else { self.base };
        let header =
            Header { first_version: 0, last_version: self.extraction.last, is_final: next.is_none() };
        let payload = if self.encoder.is_empty() { Vec::new() } else { self.encoder.finish(header, &Zstd) };
        Chunk { payload, rows, next, base }
    }

    pub(crate) fn row(&mut self, table: &Rc<Table>, key: &[u8], clock: &RowClock, mask: &Mask) -> Result<()> {
        if !clock.is_alive() {
            return match clock.deletion() {
                None => self.tombstone(table, key, clock),
                Some(deletion) => self.dead(table, key, clock, deletion),
            };
        }
        let mut columns = clock.columns.clone();
        columns.intersect_with(&table.numbers);
        if let Some(changed) = mask.columns() {
            columns.intersect_with(changed);
        }
        let mut whole = mask.is_whole();
        if let Filter::BySite(site) = self.extraction.filter {
            let own: ColumnSet =
                columns.iter().filter(|c| clock.cell(*c).is_some_and(|c| c.site == site)).collect();
            whole &= own == columns && clock.common.site == site;
            columns = own;
        }
        if columns.is_empty() && !whole {
            return Ok(());
        }
        let inserted = *mask == Mask::Inserted && table.algorithm == Algorithm::Cls;
        self.alive(table, key, clock, columns, (whole, inserted))
    }

    fn tombstone(&mut self, table: &Rc<Table>, key: &[u8], clock: &RowClock) -> Result<()> {
        if matches!(self.extraction.filter, Filter::BySite(site) if site != clock.common.site) {
            return Ok(());
        }
        let shape = Shape {
            table: table.id,
            columns: ColumnSet::new(),
            whole: true,
            alive: false,
            marks: [false; 3],
            concurrent: self.concurrent,
            inserted: false,
        };
        let group = self.group(table, shape, None)?;
        let common = self.wire_clock(clock.common)?;
        let id = self.groups[group].id;
        self.encoder.push(id, key, clock.life, common, &[], std::iter::empty());
        Ok(())
    }

    fn alive(
        &mut self,
        table: &Rc<Table>,
        key: &[u8],
        clock: &RowClock,
        columns: ColumnSet,
        (whole, inserted): (bool, bool),
    ) -> Result<()> {
        let (mut common, mut exceptions) = (clock.common, Vec::new());
        if !clock.exceptions.is_empty() {
            let cells: Vec<_> = columns.iter().map(|column| clock.cell(column).unwrap_or(common)).collect();
            // A part is sent under the clock of its first cell, which most of its cells share.
            common = if whole { common } else { cells.first().copied().unwrap_or(common) };
            for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| **cell != common) {
                exceptions.push((at as u16, self.wire_clock(*cell)?));
            }
        }
        let common = self.wire_clock(common)?;
        let marks = if clock.marks.is_none() && table.algorithm != Algorithm::Aws {
            None
        } else {
            self.wire_marks(table, clock)?
        };
        let kinds = marks.map_or([false; 3], |marks| marks.kinds());
        let concurrent = self.concurrent;
        let shape = Shape {
            table: table.id,
            columns: columns.clone(),
            whole,
            alive: true,
            marks: kinds,
            concurrent,
            inserted,
        };
        let group = self.group(table, shape, marks.as_ref())?;
        let row = Outline {
            group: self.groups[group].id,
            key,
            life: clock.life,
            clock: common,
            marks: marks.as_ref(),
            exceptions: &exceptions,
        };
        if self.set.is_none() && self.push_small(group, table, &row)? {
            return Ok(());
        }
        self.push_large(table, &row, clock, &columns)
    }

    /// Adds a row unless it is too large, and then gives false.
    fn push_small(&mut self, group: usize, table: &Table, row: &Outline<'_>) -> Result<bool> {
        let Outline { group: id, key, life, clock, marks, exceptions } = *row;
        let most = if self.splits { ROW_BYTES_MAX } else { CHUNK_BYTES_MAX / 2 };
        let limit = LengthLimit::set(self.db, most);
        let open = &mut self.groups[group];
        let found = match self.scan.as_mut().filter(|scan| scan.table().id == table.id) {
            Some(scan) => {
                let found = scan.find(key);
                if matches!(found, Ok(true)) {
                    let values = open.places.iter().map(|place| scan.cell(*place));
                    self.encoder.push_marked(id, key, life, clock, marks, exceptions, values);
                }
                found
            }
            None => {
                clocks::bind_key(&mut open.select, 1, key)?;
                let found = open.select.step();
                if matches!(found, Ok(true)) {
                    let values = (0..open.places.len()).map(|i| from_sqlite(open.select.column(i)));
                    self.encoder.push_marked(id, key, life, clock, marks, exceptions, values);
                }
                open.select.reset()?;
                found.map_err(Error::from)
            }
        };
        drop(limit);
        match found {
            // Where rows must be whole, one that does not fit is left out: it must not keep all others from being sent.
            Err(Error::Sqlite(error)) if is_too_long(&error) => Ok(!self.splits),
            Err(error) => Err(error),
            Ok(true) if self.encoder.last_row_bytes() > most => {
                self.encoder.pop(id);
                Ok(!self.splits)
            }
            Ok(true) => Ok(true),
            Ok(false) => {
                self.pass_over(table, key)?;
                Ok(true)
            }
        }
    }

    /// Nothing of a row that is outside of its filter is sent, and what is unsent of it counts as sent. Whoever else's change may
    /// take the row there, and bring it back: what was edited is private meanwhile, and stamped anew when it is sent then. What
    /// was only offered is owed, as is what came by file, and everything that a server has lost: stamped anew it would win over
    /// real edits.
    fn pass_over(&mut self, table: &Table, key: &[u8]) -> Result<()> {
        if table.filter.is_none() {
            return Ok(());
        }
        let pk = clocks::pk(table.id, key);
        let is_edited = match self.extraction.filter {
            Filter::Unsent => !self.offered,
            Filter::Resend => self.is_unsent(&pk)?,
            Filter::Everything | Filter::ForSite { .. } | Filter::BySite(_) => return Ok(()),
        };
        self.passed = self.offered;
        if is_edited {
            cloudsync_core::reached!("filter: an unsent edit is outside");
            filter::stays_private(&self.db, table, key, &pk)?;
        } else if filter::is_outside(&self.db, table, key)? {
            cloudsync_core::reached!("filter: what others may lack is outside");
            filter::owe(&self.db, &pk)?;
        }
        Ok(())
    }

    /// Whether a row has an unsent edit of this replica's. The list is read for the first row that is asked about.
    fn is_unsent(&mut self, pk: &[u8]) -> Result<bool> {
        let unsent = match self.unsent.take() {
            Some(unsent) => unsent,
            None => {
                let mut unsent = HashSet::new();
                let each = |table, key: &[u8], mask: Mask| {
                    if mask.is_edit() {
                        unsent.insert(clocks::pk(table, key));
                    }
                };
                self.replica.each_unsent(each)?;
                unsent
            }
        };
        Ok(self.unsent.insert(unsent).contains(pk))
    }

    /// The columns of which the entry at hand tells, where it does so in two parts.
    fn entry_columns(&self, clock: &RowClock, table: &Table) -> Option<ColumnSet> {
        let mask = self.listed_mask.as_ref()?;
        let mut columns = clock.columns.clone();
        columns.intersect_with(&table.numbers);
        if let Some(changed) = mask.columns() {
            columns.intersect_with(changed);
        }
        Some(columns)
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
