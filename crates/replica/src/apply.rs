//! Apply: takes a payload in. Fetch, decide, write, never interleaved for a row: its clock is read, the pure rule
//! decides, then base row and clock are written.
//!
//! While we write in a transaction of our own, foreign keys are not enforced by SQLite, so that cascades do not act
//! behind the clocks' back; where the app has them on, the parents of every written row are looked up by us. If no
//! trigger but ours watches a synced table, triggers are off; otherwise they run, so that the app's search index
//! stays right, `guard` cancels what they write to synced tables, and our own notes of the rows we wrote are taken back.
//!
//! A row that a constraint does not let in waits in the quarantine, with its reason, and is tried again after every
//! apply. All others go on.

mod refused;
mod row;
mod settings;
mod target;

use self::refused::Waits;
pub(crate) use self::settings::{Applying, SEES_PART};
pub(crate) use self::target::Target;
use crate::buried;
use crate::capture;
use crate::changes::{ChangeWriter, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::conflicts::Conflicts;
use crate::error::Result;
use crate::filter::Privacy;
use crate::guard::Guard;
use crate::kept;
use crate::pieces;
use crate::quarantine::Quarantine;
use crate::rebuilt;
use crate::relayed::Relayed;
use crate::replica::Replica;
use crate::scrub;
use crate::storage;
use crate::table::Table;
use crate::value::from_sqlite;
use crate::write::{Row, Writer};
use cloudsync_core::clock::{ColumnSet, RowClock, SiteOrdinal, Time};
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Where a payload comes from, and how far it is trusted.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Who the changes are from.
    pub origin: Origin,
    /// The latest time that a change may bear; `None` if the sender has checked that.
    pub time_max: Option<Time>,
    /// The smallest server cursor at which any of the changes was made.
    pub base: u64,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows that changed here.
    pub rows: u64,
    /// Rows that wait in the quarantine.
    pub quarantined: u64,
    /// Rows of which only a part came, while the rest is not known here.
    pub parts: u64,
    /// The latest time that any change bore, those that came by file aside.
    pub time_max: Time,
}

impl Replica {
    /// Applies a payload that travelled by hand: all of it or nothing. Gives the number of rows that changed.
    ///
    /// # Errors
    /// When the payload is damaged or breaks the rules.
    pub fn payload_apply(&mut self, payload: &[u8]) -> Result<u64> {
        self.require()?;
        let opened = Opened::open(payload, &crate::codec::Zstd)?;
        let decoded = opened.payload()?;
        self.outlasting_rollbacks(|replica| replica.apply_opened(&decoded))
    }

    fn apply_opened(&mut self, decoded: &Payload<'_>) -> Result<u64> {
        self.with_apply_settings(|replica| {
            replica.transact(|replica| {
                replica.fold_in_transaction()?;
                if replica.has_ready_pieces()? {
                    replica.apply_pieces()?;
                }
                let bound = replica.server_now_ms()?.saturating_add(CLOCK_AHEAD_MS_MAX);
                let base = storage::get_u64(&replica.db, "cursor")?;
                let source = Source { origin: Origin::File, time_max: Some(Time(bound)), base };
                let rows = replica.apply_in_transaction(std::slice::from_ref(decoded), source)?.rows;
                replica.forget_used_pieces(true)?;
                Ok(rows)
            })
        })
    }

    /// Applies payloads as one version. The caller holds the transaction, and everything is folded.
    ///
    /// # Errors
    /// When a payload breaks the rules or the file cannot be written; the transaction must then be undone.
    pub fn apply_in_transaction(&mut self, payloads: &[Payload<'_>], source: Source) -> Result<Applied> {
        self.follow_schema()?;
        self.catalog.require_settled()?;
        self.sites.refresh(&self.db)?;
        let mut applier = Applier::open(self, source)?;
        for payload in payloads {
            applier.payload(self, payload)?;
        }
        applier.settle(self)?;
        let applied = applier.finish(self)?;
        self.part_families()?;
        Ok(applied)
    }

    /// The same for one of several payloads of one transaction. [`settle`](Self::settle) must follow the last of them:
    /// until then a row that is refused waits in memory for one that lets it in.
    ///
    /// # Errors
    /// When the payload breaks the rules or the file cannot be written; the transaction must then be undone.
    pub fn apply_part(&mut self, payload: &Payload<'_>, source: Source) -> Result<Applied> {
        self.apply_rest(payload, 0, source)
    }

    /// The same without the first rows of the payload, in its order, which were applied before.
    pub(crate) fn apply_rest(
        &mut self,
        payload: &Payload<'_>,
        from: usize,
        source: Source,
    ) -> Result<Applied> {
        let mut applier = Applier::begin(self, source)?;
        applier.payload_from(self, payload, from)?;
        applier.finish(self)
    }
}

/// The reason of a row of which only a part came.
pub(crate) const WAITS_FOR_REST: &str = "waits for the rest of the row";

pub(crate) struct Applier {
    pub(crate) db: Connection,
    pub(crate) source: Source,
    pub(crate) clocks: ClockStore,
    pub(crate) changes: ChangeWriter,
    writers: HashMap<i64, Writer>,
    pub(crate) quarantine: Quarantine,
    conflicts: Conflicts,
    pub(crate) applied: Applied,
    pub(crate) floor: Time,
    /// Set while changes are tried again that were let in before, when the clock here may have been another one.
    retries: bool,
    /// Set where each row is judged: none is let in before its parent, for others would be judged by it.
    pub(crate) judged: bool,
    /// Set at the end of the apply: what is refused now must wait.
    pub(crate) settles: bool,
    /// The floor when the apply began: rows of one payload must not raise the bound for one another.
    floor_before: Time,
    /// Rows written while the app's triggers run: our own notes of them are taken back.
    pub(crate) written: Option<HashSet<Vec<u8>>>,
    log_before: i64,
    /// This replica's own site, and whether a change of it came that was not made here.
    own: SiteOrdinal,
    clone_seen: bool,
    /// Set once a row of a filtered table comes.
    privacy: Option<Privacy>,
    /// Tables that were written unseen, so that other values under equal clocks are edits of this replica.
    doubtful: HashSet<i64>,
    /// Set once the server tells of a row that is dead.
    told_of_deletion: bool,
    /// Rows of which the other side is to hear: it does not know them in the life into which they were moved.
    moved: Vec<(i64, Vec<u8>)>,
    /// The edits that were found.
    edits: Vec<(Rc<Table>, Vec<u8>, ColumnSet)>,
    dropped_before: i64,
    /// On the server: whose values others sent.
    relayed: Relayed,
}

impl Applier {
    /// Opens an apply in a transaction that has just begun.
    pub(crate) fn begin(replica: &mut Replica, source: Source) -> Result<Self> {
        replica.follow_schema()?;
        replica.catalog.require_settled()?;
        replica.sites.refresh(&replica.db)?;
        Self::open(replica, source)
    }

    pub(crate) fn open(replica: &mut Replica, source: Source) -> Result<Self> {
        let db = replica.db;
        let floor = Time(storage::get_u64(&db, "floor")?);
        let triggers = db.triggers_enabled()?;
        Ok(Self {
            db,
            source,
            clocks: ClockStore::open(&db)?,
            changes: ChangeWriter::begin(&db, replica.now_ms())?,
            writers: HashMap::new(),
            quarantine: Quarantine::open(&db)?,
            conflicts: Conflicts::new(
                db,
                replica.own_site()?,
                replica.unseen_from(source)?,
                replica.server_now_ms()?,
            ),
            applied: Applied::default(),
            floor,
            floor_before: floor,
            retries: false,
            judged: false,
            settles: false,
            written: triggers.then(HashSet::new),
            privacy: None,
            doubtful: rebuilt::doubtful_tables(&db)?,
            edits: Vec::new(),
            moved: Vec::new(),
            told_of_deletion: false,
            own: replica.own_site()?,
            clone_seen: false,
            log_before: db.query_i64("SELECT max(rowid) FROM main.cloudsync_log", &[])?.unwrap_or(0),
            dropped_before: buried::last_copy(&db)?,
            relayed: Relayed::default(),
        })
    }

    pub(crate) fn payload(&mut self, replica: &mut Replica, payload: &Payload<'_>) -> Result<()> {
        self.payload_from(replica, payload, 0)
    }

    fn payload_from(&mut self, replica: &mut Replica, payload: &Payload<'_>, from: usize) -> Result<()> {
        let evicted = replica.evicted_of(payload, self.source)?;
        self.evict(replica, &evicted)?;
        replica.forget_unknown(payload)?;
        if !self.settles {
            let by_hand = self.source.origin == Origin::File;
            pieces::keep(&self.db, payload, if by_hand { replica.now_ms() } else { 0 })?;
            replica.unsettled.used.extend(pieces::used(payload));
            kept::keep(&self.db, &replica.catalog, payload, self.source)?;
        }
        let order = in_order(payload);
        self.slice(replica, payload, order.get(from..).unwrap_or_default())
    }

    /// Takes in some rows of a payload.
    pub(crate) fn slice(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        rows: &[(usize, usize)],
    ) -> Result<()> {
        let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&self.db, *site));
        let sites = sites.collect::<Result<Vec<_>>>()?;
        let waiting = self.rows(replica, payload, &sites, rows)?;
        for (at, row, reason) in self.wait(replica, payload, &sites, waiting)? {
            self.defer(replica, payload, &payload.groups()[at], row, &reason)?;
        }
        Ok(())
    }

    /// Takes in rows of a payload; gives those that must wait.
    pub(crate) fn rows(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        rows: &[(usize, usize)],
    ) -> Result<Vec<Waits>> {
        let mut waiting = Vec::new();
        for rows in rows.chunk_by(|(a, _), (b, _)| a == b) {
            let at = rows[0].0;
            let group = &payload.groups()[at];
            let Some(target) = Target::of(replica, group, sites) else { continue };
            for (_, row) in rows {
                if let Some(refused) = self.row(replica, group, &target, *row)? {
                    waiting.push((at, *row, refused));
                }
            }
        }
        Ok(waiting)
    }

    /// True unless this is the server, where what cannot get in is refused by verdicts.
    pub(crate) fn is_devices(&self) -> bool {
        !matches!(self.source.origin, Origin::Site(_))
    }

    /// Keeps the values of a damaged row that the server's row, which is about to be laid, takes the place of.
    pub(crate) fn note_repaired(
        &mut self,
        replica: &Replica,
        row: &Row<'_>,
        stored: Option<&RowClock>,
        theirs: &RowClock,
    ) -> Result<()> {
        let table = &row.target.table;
        let writer =
            writer(&mut self.writers, self.db, table, replica.checks_parents, replica.guard.as_ref())?;
        let Some(values) = writer.cells(row)? else { return Ok(()) };
        match self.conflicts.repaired(row, stored, theirs, &values)? {
            Some(losses) => self.conflicts.note(row, &losses, &replica.sites, replica.server_now_ms()?),
            None => Ok(()),
        }
    }

    /// The writer of a table.
    pub(crate) fn writer(&mut self, replica: &Replica, table: &Table) -> Result<&mut Writer> {
        writer(&mut self.writers, self.db, table, replica.wants_parents(), replica.guard.as_ref())
    }

    pub(crate) fn finish(self, replica: &mut Replica) -> Result<Applied> {
        self.changes.finish(&self.db, self.source.origin, self.source.base)?;
        self.clocks.finish(&self.db)?;
        tell_moved(replica, &self.moved, self.source.base)?;
        self.relayed.finish(&self.db, &mut replica.sites)?;
        if self.floor > self.floor_before {
            storage::set_u64(&self.db, "floor", self.floor.0)?;
        }
        self.conflicts.finish(replica.server_now_ms()?)?;
        if let Some(written) = &self.written {
            take_back_notes(replica, self.log_before, written)?;
            buried::take_back(self.db, &replica.catalog.tables(), self.dropped_before, written)?;
        }
        if self.clone_seen {
            replica.note_clone()?;
        }
        if self.told_of_deletion {
            scrub::note_deletions(&self.db)?;
        }
        if let Some(privacy) = self.privacy {
            privacy.finish()?;
        }
        for (table, key, columns) in &self.edits {
            capture::note_edit(&self.db, table, replica.now_ms(), columns, key)?;
        }
        let (mut applied, waiting) = (self.applied, self.quarantine.count()?);
        applied.quarantined = applied.quarantined.min(waiting);
        Ok(applied)
    }
}

/// The rows of a payload in the order in which they are taken in: each with its group. Keys of a group in their order.
pub(crate) fn in_order(payload: &Payload<'_>) -> Vec<(usize, usize)> {
    let groups = payload.groups().iter().enumerate();
    let (concurrent, others): (Vec<_>, Vec<_>) = groups.partition(|(_, group)| group.concurrent());
    let mut rows = Vec::new();
    for (at, group) in concurrent.into_iter().chain(others) {
        let mut order: Vec<_> = (0..group.rows()).collect();
        if !order.windows(2).all(|pair| group.key(pair[0]) <= group.key(pair[1])) {
            order.sort_by(|a, b| group.key(*a).cmp(group.key(*b)));
        }
        rows.extend(order.into_iter().map(|row| (at, row)));
    }
    rows
}

/// Puts rows into the list as changes of this replica's own: where they came from is not sent them otherwise.
fn tell_moved(replica: &Replica, moved: &[(i64, Vec<u8>)], base: u64) -> Result<()> {
    if moved.is_empty() {
        return Ok(());
    }
    let mut changes = ChangeWriter::begin(&replica.db, replica.now_ms())?;
    for (table, key) in moved {
        changes.push(*table, key, &Mask::Whole)?;
    }
    changes.finish(&replica.db, Origin::Local, base)?;
    Ok(())
}

/// The writer of a table, made when it is first needed.
fn writer<'w>(
    writers: &'w mut HashMap<i64, Writer>,
    db: Connection,
    table: &Table,
    parents: bool,
    guard: Option<&Rc<Guard>>,
) -> Result<&'w mut Writer> {
    Ok(match writers.entry(table.id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => place.insert(Writer::new(db, table, parents, guard)?),
    })
}

/// Removes our own notes of the rows that the apply wrote. What the app's triggers wrote to other rows stays noted.
fn take_back_notes(replica: &mut Replica, after: i64, written: &HashSet<Vec<u8>>) -> Result<()> {
    let mut select = replica.db.prepare("SELECT rowid, * FROM main.cloudsync_log WHERE rowid > ?1")?;
    select.bind(1, Value::Integer(after))?;
    let mut own = Vec::new();
    while select.step()? {
        let Some(table) = replica.catalog.layout_table(&replica.db, select.column_i64(2))? else { continue };
        let mut key = Vec::new();
        if table.pack_key(&mut key, |i| from_sqlite(select.column(crate::fold::key_column(i)))).is_ok()
            && written.contains(&clocks::pk(table.id, &key))
        {
            own.push(select.column_i64(0));
        }
    }
    drop(select);
    let mut delete = replica.db.prepare("DELETE FROM main.cloudsync_log WHERE rowid = ?1")?;
    own.into_iter().try_for_each(|rowid| Ok(delete.run(&[Value::Integer(rowid)])?))
}
