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

use crate::buried;
use crate::capture;
use crate::changes::{ChangeWriter, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::conflicts::{Conflicts, outdone};
use crate::error::{Error, Result};
use crate::filter::Privacy;
use crate::guard::{Guard, Guards, has_user_triggers};
use crate::kept;
use crate::quarantine::{Quarantine, RETRY_ROWS_MAX, Waiting};
use crate::rebuilt;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use crate::value::from_sqlite;
use crate::write::{Refused, Row, Writer};
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, Time};
use cloudsync_core::merge::{Action, Algorithm, Travelled, decide, received};
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::payload::{Group, Opened, Payload};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// The latest time that any change bore.
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
        self.with_apply_settings(|replica| {
            replica.transact(|replica| {
                replica.fold_in_transaction()?;
                if replica.has_ready_pieces()? {
                    replica.apply_pieces()?;
                }
                let bound = replica.server_now_ms()?.saturating_add(CLOCK_AHEAD_MS_MAX);
                let base = storage::get_u64(&replica.db, "cursor")?;
                let source = Source { origin: Origin::File, time_max: Some(Time(bound)), base };
                Ok(replica.apply_in_transaction(&[decoded], source)?.rows)
            })
        })
    }

    /// Runs `act` with foreign keys and, where nobody needs them, triggers off; where triggers of the app run, they are
    /// guarded. All is put back afterwards. Inside the app's transaction foreign keys and triggers stay as they are.
    ///
    /// # Errors
    /// Those of `act`, and when triggers cannot be guarded.
    pub fn with_apply_settings<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let settings = if self.db.is_autocommit() { Some(ApplySettings::set(self.db)?) } else { None };
        self.checks_parents = settings.as_ref().is_some_and(|settings| settings.foreign_keys);
        let guards = self.guards()?;
        self.guard = guards.as_ref().map(|guards| Rc::clone(&guards.guard));
        let outcome = act(self);
        self.guard = None;
        self.checks_parents = false;
        outcome
    }

    /// Guards from what triggers of the app would write, if any run.
    fn guards(&mut self) -> Result<Option<Guards>> {
        if !storage::exists(&self.db)? || !has_user_triggers(&self.db)? {
            return Ok(None);
        }
        self.catalog.load(&self.db)?;
        Guards::set(self.db, &self.catalog)
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
        self.follow_schema()?;
        self.catalog.require_settled()?;
        self.sites.refresh(&self.db)?;
        let mut applier = Applier::open(self, source)?;
        applier.payload(self, payload)?;
        applier.finish(self)
    }
}

/// The connection's settings while an apply runs.
struct ApplySettings {
    db: Connection,
    foreign_keys: bool,
    triggers: bool,
}

impl ApplySettings {
    fn set(db: Connection) -> Result<Self> {
        let foreign_keys = db.set_foreign_keys_enabled(false)?;
        let mut settings = Self { db, foreign_keys, triggers: true };
        if !has_user_triggers(&db)? {
            settings.triggers = db.set_triggers_enabled(false)?;
        }
        Ok(settings)
    }
}

impl Drop for ApplySettings {
    fn drop(&mut self) {
        // These calls fail only on a connection that is not open.
        let _ = self.db.set_foreign_keys_enabled(self.foreign_keys);
        let _ = self.db.set_triggers_enabled(self.triggers);
    }
}

/// A row that was refused: its group, its place in it, and the reason.
type Waits = (usize, usize, String);

/// Rows that may exchange their UNIQUE values at once; bounds the time that the attempts take.
const SWAP_ROWS_MAX: usize = 10_000;
/// How often one apply goes through the rows that were refused.
const WAIT_PASSES_MAX: usize = 64;
/// How often one apply goes through the quarantine: a row that gets in may let in another one.
const RETRY_PASSES_MAX: usize = 16;
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
    /// Files never move the floor.
    raises_floor: bool,
    /// Set while changes are tried again that were let in before, when the clock here may have been another one.
    retries: bool,
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
    /// The edits that were found.
    edits: Vec<(Rc<Table>, Vec<u8>, ColumnSet)>,
    dropped_before: i64,
}

impl Applier {
    pub(crate) fn open(replica: &mut Replica, source: Source) -> Result<Self> {
        let db = replica.db;
        let floor = Time(storage::get_u64(&db, "floor")?);
        let triggers = db.set_triggers_enabled(false)?;
        db.set_triggers_enabled(triggers)?;
        Ok(Self {
            db,
            source,
            clocks: ClockStore::open(&db)?,
            changes: ChangeWriter::begin(&db, replica.now_ms())?,
            writers: HashMap::new(),
            quarantine: Quarantine::open(&db)?,
            conflicts: Conflicts::new(db, replica.own_site()?, replica.unseen_from(source)?),
            applied: Applied::default(),
            floor,
            floor_before: floor,
            raises_floor: source.origin != Origin::File,
            retries: false,
            settles: false,
            written: triggers.then(HashSet::new),
            privacy: None,
            doubtful: rebuilt::doubtful_tables(&db)?,
            edits: Vec::new(),
            own: replica.own_site()?,
            clone_seen: false,
            log_before: db.query_i64("SELECT max(rowid) FROM main.cloudsync_log", &[])?.unwrap_or(0),
            dropped_before: buried::last_copy(&db)?,
        })
    }

    pub(crate) fn payload(&mut self, replica: &mut Replica, payload: &Payload<'_>) -> Result<()> {
        if !self.settles {
            kept::keep(&self.db, &replica.catalog, payload, self.source)?;
        }
        let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&self.db, *site));
        let sites = sites.collect::<Result<Vec<_>>>()?;
        let mut waiting = Vec::new();
        let groups = payload.groups().iter().enumerate();
        let (concurrent, others): (Vec<_>, Vec<_>) = groups.partition(|(_, group)| group.concurrent());
        for (at, group) in concurrent.into_iter().chain(others) {
            let Some(target) = Target::of(replica, group, &sites) else { continue };
            let mut order: Vec<_> = (0..group.rows()).collect();
            if !order.windows(2).all(|pair| group.key(pair[0]) <= group.key(pair[1])) {
                order.sort_by(|a, b| group.key(*a).cmp(group.key(*b)));
            }
            for row in order {
                if let Some(refused) = self.row(replica, group, &target, row)? {
                    waiting.push((at, row, refused));
                }
            }
        }
        for (at, row, reason) in self.wait(replica, payload, &sites, waiting)? {
            self.defer(replica, payload, &payload.groups()[at], row, &reason)?;
        }
        Ok(())
    }

    /// Rows that were refused are tried again while that brings any of them in: a parent or the loser of a UNIQUE
    /// value may have come after them. Gives the rest.
    fn wait(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        mut waiting: Vec<Waits>,
    ) -> Result<Vec<Waits>> {
        for _ in 0..WAIT_PASSES_MAX {
            let before = waiting.len();
            let mut still = Vec::new();
            // Forth and back, so that a long chain in the wrong order comes in at once.
            for (at, row, _) in waiting.into_iter().rev() {
                let group = &payload.groups()[at];
                let Some(target) = Target::of(replica, group, sites) else { continue };
                if let Some(refused) = self.row(replica, group, &target, row)? {
                    still.push((at, row, refused));
                }
            }
            waiting = still;
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        self.swap(replica, payload, sites, waiting)
    }

    /// Puts a row of a payload into the quarantine.
    pub(crate) fn put_aside(
        &mut self,
        replica: &Replica,
        payload: &Payload<'_>,
        group: &Group<'_>,
        row: usize,
        reason: &str,
    ) -> Result<()> {
        let now = replica.server_now_ms()?;
        self.quarantine.add(now, payload, group, row, reason, self.source.origin.code())?;
        self.applied.quarantined += 1;
        self.applied.parts += u64::from(reason == WAITS_FOR_REST);
        Ok(())
    }

    /// Rows that exchange UNIQUE values, as in a list that was put into another order, stand in one another's way. They
    /// are all taken out and put back with their new values. Gives the rows that still must wait.
    fn swap(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        waiting: Vec<Waits>,
    ) -> Result<Vec<Waits>> {
        let collides = |waits: &Waits| waits.2.contains("UNIQUE constraint failed");
        let (mut chosen, mut others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(collides);
        let cascades = self.db.query_i64("PRAGMA foreign_keys", &[])? == Some(1);
        while chosen.len() > 1 && chosen.len() <= SWAP_ROWS_MAX && !cascades {
            self.changes.flush()?;
            let (rows, savepoint) = (self.applied.rows, self.db.savepoint("cloudsync_swap")?);
            let failed = self.swap_all(replica, payload, sites, &chosen)?;
            self.writers.values_mut().for_each(Writer::forget_lifted);
            if failed.is_empty() {
                savepoint.commit()?;
                return Ok(others);
            }
            savepoint.rollback()?;
            self.applied.rows = rows;
            // These collide with rows that stay where they are.
            for (at, reason) in failed.into_iter().rev() {
                let (group, row, _) = chosen.remove(at);
                others.push((group, row, reason));
            }
        }
        others.append(&mut chosen);
        Ok(others)
    }

    /// Takes the rows out and puts them back; gives those that do not fit, by their place among the chosen.
    fn swap_all(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        chosen: &[Waits],
    ) -> Result<Vec<(usize, String)>> {
        for (at, row, _) in chosen {
            let group = &payload.groups()[*at];
            let Some(target) = Target::of(replica, group, sites) else { continue };
            let row = Row { group, target: &target, packed: group.key(*row), at: *row };
            if let Some(writer) = self.writers.get_mut(&target.table.id) {
                match writer.lift(&row) {
                    Ok(()) | Err(Refused::Constraint(_) | Refused::Part) => {}
                    Err(Refused::Error(error)) => return Err(error),
                }
            }
        }
        let mut failed = Vec::new();
        for (place, (at, row, _)) in chosen.iter().enumerate() {
            let group = &payload.groups()[*at];
            let Some(target) = Target::of(replica, group, sites) else { continue };
            if let Some(reason) = self.row(replica, group, &target, *row)? {
                failed.push((place, reason));
            }
        }
        Ok(failed)
    }

    /// Takes in one row; gives the reason when it must wait.
    fn row(
        &mut self,
        replica: &mut Replica,
        group: &Group<'_>,
        target: &Target,
        row: usize,
    ) -> Result<Option<String>> {
        let packed = group.key(row);
        if !target.table.is_key(packed) {
            let table = &target.table.name;
            return Err(Error::Protocol(format!("payload refused: a key of table \"{table}\" is damaged")));
        }
        let incoming = target.clock(group, row, replica)?;
        if !self.retries {
            self.check_time(&incoming, &target.table)?;
        }
        let pk = clocks::pk(target.table.id, packed);
        let stored = self.clocks.read(&pk)?;
        self.clone_seen |= self.is_of_clone(&incoming);
        let row = Row { group, target, packed, at: row };
        let guard = replica.guard.as_ref();
        let writer = writer(&mut self.writers, self.db, &target.table, replica.checks_parents, guard)?;
        let mut privacy = match target.table.filter {
            None => None,
            Some(_) => Some(Privacy::of(&mut self.privacy, self.db, replica)?),
        };
        let marked = match &mut privacy {
            Some(privacy) => privacy.is_marked(&pk)?,
            None => false,
        };
        let in_doubt = self.doubtful.contains(&target.table.id);
        let (mut failed, mut edited) = (None, ColumnSet::new());
        // What is private was never written under the clock.
        let mut tie = |column: ColumnNumber| match writer.compare(&row, column) {
            _ if marked => false,
            Ok(Ordering::Equal) => false,
            Ok(order) if !in_doubt => order == Ordering::Greater,
            Ok(_) => {
                edited.insert(column);
                false
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        let algorithm = target.table.algorithm;
        let sites = replica.sites.ids();
        let decision = decide(algorithm, stored.as_ref(), &incoming, group.whole(), sites, &mut tie);
        writer.end_ties()?;
        if let Some(error) = failed {
            return Err(error);
        }
        let yielded = match privacy {
            Some(privacy) => {
                let winner = (incoming.common.time, replica.sites.id(incoming.common.site)?);
                privacy.make_way(&row, &pk, marked, &decision.action, winner)?
            }
            None => None,
        };
        let losses = match (&yielded, &stored) {
            (None, Some(stored)) => {
                self.conflicts.losses(&row, stored, &incoming, &decision.action, writer)?
            }
            // A private row is journaled as it makes way.
            (Some(_), _) | (None, None) => None,
        };
        let action = yielded.as_ref().map_or(&decision.action, |yielded| &yielded.action);
        let outcome = if replica.checks_parents {
            let (family, lax) = (&mut replica.unsettled.family, !self.settles && !self.retries);
            family.carry_out(writer, &row, action, (stored.as_ref(), decision.clock.as_ref()), lax)
        } else {
            writer.carry_out(&row, action, decision.clock.as_ref())
        };
        match outcome {
            Ok(()) => {}
            Err(Refused::Constraint(reason)) if self.db.is_autocommit() => {
                // A trigger with RAISE(ROLLBACK) leaves nothing that the other rows could be added to.
                return Err(Error::State(format!("the apply was rolled back by the database: {reason}")));
            }
            Err(Refused::Constraint(reason)) => return Ok(Some(reason)),
            Err(Refused::Part) => return Ok(Some(WAITS_FOR_REST.to_owned())),
            Err(Refused::Error(error)) => return Err(error),
        }
        if let Some(yielded) = yielded {
            yielded.commit()?;
            self.conflicts.grew();
        }
        if !edited.is_empty() {
            self.edits.push((Rc::clone(&target.table), packed.to_vec(), edited));
        }
        self.floor = self.floor.max(incoming.time_max());
        self.applied.time_max = self.applied.time_max.max(incoming.time_max());
        if let Some(losses) = losses {
            self.conflicts.note(&row, &losses, &replica.sites, replica.server_now_ms()?)?;
        }
        if let Some(mask) = self.outdone(replica, stored.as_ref(), &incoming, &decision.action) {
            self.changes.push(target.table.id, packed, &mask)?;
        }
        let mask = match (&decision.action, &decision.clock) {
            (Action::Keep, None) | (Action::NeedWhole | Action::RefuseJump, _) => return Ok(None),
            (Action::Update(columns), _) => Mask::Columns(columns.clone()),
            _ => Mask::Whole,
        };
        if let Some(clock) = &decision.clock {
            self.clocks.write(&pk, clock, stored.is_none())?;
        }
        self.changes.push(target.table.id, packed, &mask)?;
        self.applied.rows += 1;
        if let Some(written) = &mut self.written {
            written.insert(pk);
        }
        Ok(None)
    }

    /// True unless this is the server, where what cannot get in is refused by verdicts.
    pub(crate) fn is_devices(&self) -> bool {
        !matches!(self.source.origin, Origin::Site(_))
    }

    /// The writer of a table.
    pub(crate) fn writer(&mut self, replica: &Replica, table: &Table) -> Result<&mut Writer> {
        writer(&mut self.writers, self.db, table, replica.checks_parents, replica.guard.as_ref())
    }

    /// True for a change that bears this very site and is later than all that was stamped here.
    fn is_of_clone(&self, incoming: &RowClock) -> bool {
        let foreign = |clock: &Clock| clock.site == self.own && clock.time > self.floor_before;
        foreign(&incoming.common) || incoming.exceptions.iter().any(|(_, clock)| foreign(clock))
    }

    /// On the server: what of an upload lost here.
    fn outdone(
        &self,
        replica: &Replica,
        stored: Option<&RowClock>,
        incoming: &RowClock,
        action: &Action,
    ) -> Option<Mask> {
        let Origin::Site(site) = self.source.origin else { return None };
        let lost = match action {
            Action::Keep => true,
            Action::Update(columns) => columns.len() < incoming.columns.len(),
            _ => false,
        };
        stored.filter(|_| lost).and_then(|stored| outdone(site, stored, incoming, replica.sites.ids()))
    }

    fn check_time(&self, incoming: &RowClock, table: &Table) -> Result<()> {
        // What was accepted once must stay acceptable when it is replaced (S4 of the pitfalls: no livelock).
        let bound = self.source.time_max.map(|max| max.max(Time(self.floor_before.0.saturating_add(1_000))));
        if bound.is_some_and(|bound| incoming.time_max() > bound) {
            return Err(Error::ClockAhead(format!(
                "a change of table \"{}\" is stamped {} ms since 1970, more than {CLOCK_AHEAD_MS_MAX} ms ahead of the clock here: set the clocks right and encode again",
                table.name,
                incoming.time_max().0
            )));
        }
        Ok(())
    }

    /// Tries the rows that wait, oldest first, while that lets any of them in; what gets in leaves the quarantine.
    pub(crate) fn retry_quarantine(&mut self, replica: &mut Replica) -> Result<()> {
        self.retries = true;
        loop {
            let mut waiting = self.quarantine.read()?;
            let all = waiting.len();
            for _ in 0..RETRY_PASSES_MAX {
                let before = waiting.len();
                self.retry(replica, &mut waiting)?;
                if waiting.is_empty() || waiting.len() == before {
                    break;
                }
            }
            // Whatever let these in may let in the next ones.
            if waiting.len() == all || (all as i64) < RETRY_ROWS_MAX {
                break;
            }
        }
        self.retries = false;
        Ok(())
    }

    /// Changes that come in late are of the origin that they came from, and thus of a version of their own.
    pub(crate) fn turn_to(&mut self, replica: &Replica, origin: Origin) -> Result<()> {
        if origin == self.source.origin {
            return Ok(());
        }
        let next = ChangeWriter::begin(&self.db, replica.now_ms())?;
        let Source { origin: finished, base, .. } = self.source;
        std::mem::replace(&mut self.changes, next).finish(&self.db, finished, base)?;
        // The version that was just finished took the number.
        self.changes = ChangeWriter::begin(&self.db, replica.now_ms())?;
        self.source = Source { origin, time_max: None, base };
        Ok(())
    }

    fn retry(&mut self, replica: &mut Replica, all: &mut Vec<Waiting>) -> Result<()> {
        let mut still = Vec::new();
        for waiting in all.drain(..) {
            self.turn_to(replica, Origin::from_code(waiting.origin)?)?;
            let opened = Opened::open(&waiting.change, &crate::codec::Zstd)?;
            let payload = opened.payload()?;
            let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&self.db, *site));
            let sites = sites.collect::<Result<Vec<_>>>()?;
            let mut refused = None;
            for group in payload.groups() {
                let Some(target) = Target::of(replica, group, &sites) else { continue };
                for row in 0..group.rows() {
                    refused = self.row(replica, group, &target, row)?.or(refused);
                }
            }
            match refused {
                None => self.quarantine.remove(waiting.id)?,
                Some(reason) => {
                    self.quarantine.keep(waiting.id, &reason)?;
                    still.push(waiting);
                }
            }
        }
        *all = still;
        Ok(())
    }

    pub(crate) fn finish(self, replica: &mut Replica) -> Result<Applied> {
        self.changes.finish(&self.db, self.source.origin, self.source.base)?;
        self.clocks.finish(&self.db)?;
        if self.raises_floor {
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
        if let Some(privacy) = self.privacy {
            privacy.finish()?;
        }
        for (table, key, columns) in &self.edits {
            let layout: Vec<_> = table.cells.iter().map(|cell| cell.number).collect();
            let mask = capture::mask_of(&layout, columns);
            let mut noting = capture::Noting::open(&self.db, &table.definition, table.layout)?;
            if table.filter.is_some() {
                noting.write(replica.now_ms(), Value::Integer(capture::NOTE_ALTERED), key)?;
            }
            noting.write(replica.now_ms(), mask.value(), key)?;
        }
        let (mut applied, waiting) = (self.applied, self.quarantine.count()?);
        applied.quarantined = applied.quarantined.min(waiting);
        Ok(applied)
    }
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

/// What a group of the payload means here.
pub(crate) struct Target {
    pub(crate) table: Rc<Table>,
    /// The group's columns by our numbers; `None` for those that this table does not have.
    pub(crate) columns: Vec<Option<ColumnNumber>>,
    pub(crate) numbers: ColumnSet,
    sites: Vec<SiteOrdinal>,
}

impl Target {
    /// `None` for a table that does not sync here: its rows come when it does.
    pub(crate) fn of(replica: &Replica, group: &Group<'_>, sites: &[SiteOrdinal]) -> Option<Self> {
        let table = replica.catalog.table_named(group.table())?;
        let columns: Vec<_> =
            group.columns().iter().map(|name| table.cell_named(name).map(|cell| cell.number)).collect();
        let numbers = columns.iter().flatten().copied().collect();
        Some(Self { table, columns, numbers, sites: sites.to_vec() })
    }

    /// The clock of a row, by our numbers and ordinals.
    pub(crate) fn clock(&self, group: &Group<'_>, row: usize, replica: &Replica) -> Result<RowClock> {
        let map = |clock: Clock| -> Result<Clock> {
            let site = self.sites.get(clock.site.0 as usize).copied();
            let site =
                site.ok_or_else(|| Error::Protocol("payload refused: a clock names an unknown site".into()))?;
            Ok(Clock::new(clock.time, site))
        };
        let (life, common) = (group.life(row), map(group.clock(row))?);
        if self.table.algorithm != Algorithm::Cls {
            return self.marked_clock(group, row, common, replica, map);
        }
        if group.marks(row).is_some() {
            return Err(self.foreign_marks());
        }
        if life % 2 == 0 {
            return Ok(RowClock::tombstone(life, common));
        }
        let wire = group.exceptions(row);
        if wire.is_empty() {
            return Ok(RowClock::alive(life, common, self.numbers.clone()));
        }
        let mut exceptions: HashMap<ColumnNumber, Clock> = HashMap::new();
        for (at, clock) in wire {
            if let Some(Some(column)) = self.columns.get(usize::from(*at)) {
                exceptions.insert(*column, map(*clock)?);
            }
        }
        let cells: Vec<_> = self
            .numbers
            .iter()
            .map(|column| (column, exceptions.get(&column).copied().unwrap_or(common)))
            .collect();
        Ok(RowClock::from_cells(life, common, &cells, replica.sites.ids()))
    }

    /// The same in a table whose rows may have marks.
    fn marked_clock(
        &self,
        group: &Group<'_>,
        row: usize,
        common: Clock,
        replica: &Replica,
        map: impl Fn(Clock) -> Result<Clock>,
    ) -> Result<RowClock> {
        let sites = replica.sites.ids();
        let mut cells: BTreeMap<ColumnNumber, Clock> =
            self.numbers.iter().map(|column| (column, common)).collect();
        let mut last = common;
        for (at, clock) in group.exceptions(row) {
            let clock = map(*clock)?;
            last = last.latest(clock, sites);
            if let Some(Some(column)) = self.columns.get(usize::from(*at)) {
                cells.insert(*column, clock);
            }
        }
        let cells: Vec<_> = cells.into_iter().collect();
        let marks = group.marks(row).map(|marks| marks.try_map(&map)).transpose()?;
        let life = group.life(row);
        let travelled = Travelled { life, row: common, cells: &cells, last, marks };
        received(self.table.algorithm, &travelled, sites).ok_or_else(|| self.foreign_marks())
    }

    fn foreign_marks(&self) -> Error {
        let Table { name, algorithm, .. } = &*self.table;
        Error::Protocol(format!(
            "payload refused: a row of table \"{name}\" does not merge by the algorithm {algorithm}"
        ))
    }
}
