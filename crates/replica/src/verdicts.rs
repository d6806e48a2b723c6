//! Verdicts of the server: rows that it did not let in are undone here.
//!
//! The server's row takes the place of ours, clocks included, also where ours are later: nobody else ever saw those.
//! It is laid *under* what the app changed since: those cells keep their values, are stamped later than the server's
//! row, and are sent again. Our row as it was found goes into `cloudsync_rejected`.

use crate::apply::{Applier, Source, Target};
use crate::changes::{ChangeWriter, Mask, Origin};
use crate::clocks;
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::filter::{self, PrivateRows};
use crate::kept;
use crate::pick::RowKey;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use crate::write::{Refused, Row};
use cloudsync_core::clock::{Clock, ColumnSet, RowClock, SiteOrdinal, TIME_MAX, Time};
use cloudsync_core::merge::{Action, Algorithm, local};
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_protocol::verdict::{State, Verdict, Verdicts};
use cloudsync_sqlite_ffi::Value;
use std::collections::HashMap;

/// The setting that says that the server has more verdicts for us.
pub(crate) const VERDICTS_LEFT: &str = "verdicts_left";

/// What the app changed of a row since it was sent.
#[derive(Debug, Clone, Default)]
struct Later {
    /// It was deleted, or written anew.
    whole: bool,
    columns: ColumnSet,
}

/// One refused row.
pub(crate) struct Refusal {
    row: RowKey,
    pk: Vec<u8>,
    /// The place of the server's row in the payload: its group, and the row in it.
    given: Option<(usize, usize)>,
    later: Option<Later>,
    /// Nothing was refused: what is here is damaged, and is replaced by what the server has.
    repairs: bool,
    /// Our row is gone, whatever our clock says.
    gone: bool,
}

impl Refusal {
    /// A damaged row, which nobody has changed since the server gave it; `gone` if it does not exist though it should.
    pub(crate) const fn damaged(row: RowKey, pk: Vec<u8>, given: Option<(usize, usize)>, gone: bool) -> Self {
        Self { row, pk, given, later: None, repairs: true, gone }
    }

    /// The row.
    pub(crate) const fn row(&self) -> &RowKey {
        &self.row
    }
}

/// What is to be done with a refused row.
struct Undoing {
    action: Action,
    /// The row's clock afterwards; `None` if it has none.
    clock: Option<RowClock>,
    /// What is sent again.
    kept: Option<Mask>,
}

impl Replica {
    /// Undoes what the server refused, and keeps it aside. Gives the number of refused rows.
    ///
    /// # Errors
    /// When the verdicts break the rules or the file cannot be written.
    pub(crate) fn lay_verdicts(&mut self, bytes: &[u8]) -> Result<u64> {
        if bytes.is_empty() {
            storage::unset(&self.db, VERDICTS_LEFT)?;
            return Ok(0);
        }
        let damaged = |error| Error::Protocol(format!("the server's verdicts are damaged: {error}"));
        let verdicts = Verdicts::decode(bytes).map_err(damaged)?;
        if verdicts.more {
            storage::set(&self.db, VERDICTS_LEFT, Value::Integer(1))?;
        } else {
            storage::unset(&self.db, VERDICTS_LEFT)?;
        }
        let mut rows = Vec::new();
        for verdict in &verdicts.list {
            // A table may have stopped to sync since its rows were sent.
            if let Some(table) = self.catalog.table_named(verdict.table) {
                if !table.is_key(verdict.key) {
                    return Err(Error::Protocol(format!(
                        "verdict refused: a key of table \"{}\" is damaged",
                        table.name
                    )));
                }
                rows.push((verdict, (table, verdict.key.to_vec())));
            }
        }
        let (wanted, refused): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(verdict, _)| verdict.state == State::Wanted);
        let mut lost = 0;
        for (verdict, row) in &refused {
            // Whoever deleted a row that the server does not have, or does not show, has what they wanted.
            if verdict.state != State::Absent || self.is_alive(row)? {
                self.reject(row, verdict.reason)?;
                lost += 1;
            }
            if verdict.state == State::Fetch {
                storage::set(&self.db, "refetch", Value::Integer(1))?;
            }
        }
        if !refused.is_empty() {
            self.trim_rejected()?;
        }
        let mut again = self.undo(&refused, verdicts.payload)?;
        for (_, row) in wanted {
            if self.can_be_sent(&row)? {
                cloudsync_core::reached!("verdicts: the server wants a row whole");
                again.push((row, Mask::Whole));
            }
        }
        self.note_again(again)?;
        Ok(lost)
    }

    /// Whether a row lives here.
    fn is_alive(&self, (table, key): &RowKey) -> Result<bool> {
        let clock = clocks::ClockStore::open(&self.db)?.read(&clocks::pk(table.id, key))?;
        Ok(clock.is_some_and(|clock| clock.is_alive()))
    }

    /// Undoes refused rows; gives what of them must be sent again.
    fn undo(&mut self, refused: &[(&Verdict<'_>, RowKey)], payload: &[u8]) -> Result<Vec<(RowKey, Mask)>> {
        if refused.is_empty() {
            return Ok(Vec::new());
        }
        let opened = if payload.is_empty() { None } else { Some(Opened::open(payload, &Zstd)?) };
        let payload = opened.as_ref().map(Opened::payload).transpose()?;
        if payload.as_ref().is_some_and(Payload::has_references) {
            return Err(Error::Protocol("verdict refused: a row's values are not with it".into()));
        }
        let places = payload.as_ref().map(|payload| self.places(payload)).unwrap_or_default();
        let mut rows = Vec::new();
        for (verdict, row) in refused {
            let pk = clocks::pk(row.0.id, &row.1);
            let given = places.get(&pk).copied();
            if (verdict.state == State::Given) != given.is_some() {
                let text = "verdict refused: the server's row is missing, or was not announced";
                return Err(Error::Protocol(text.into()));
            }
            rows.push(Refusal { row: row.clone(), pk, given, later: None, repairs: false, gone: false });
        }
        self.find_later_edits(&mut rows)?;
        self.lay_refusals(&rows, payload.as_ref())
    }

    /// Lays what the server has in place of rows that are here; gives what of them must be sent again.
    pub(crate) fn lay_refusals(
        &mut self,
        rows: &[Refusal],
        payload: Option<&Payload<'_>>,
    ) -> Result<Vec<(RowKey, Mask)>> {
        let base = storage::get_u64(&self.db, "cursor")?;
        cloudsync_core::reached!("verdicts: refused rows are undone");
        let source = Source { origin: Origin::Server, time_max: None, base };
        let mut laying = Laying {
            applier: Applier::open(self, source)?,
            own: self.own_site()?,
            payload,
            sites: Vec::new(),
            again: Vec::new(),
        };
        if let Some(payload) = payload {
            kept::keep(&self.db, &self.catalog, payload, source)?;
            let sites = payload.sites().iter().map(|site| self.sites.ordinal(&self.db, *site));
            laying.sites = sites.collect::<Result<_>>()?;
        }
        laying.lay_all(self, rows)?;
        let Laying { mut applier, again, .. } = laying;
        // What a refused row stood in the way of may come in.
        applier.settle(self)?;
        let settled = applier.finish(self)?.time_max;
        self.part_families()?;
        self.raise_settled(settled.0)?;
        Ok(again)
    }

    /// Where each row of the payload stands.
    pub(crate) fn places(&self, payload: &Payload<'_>) -> HashMap<Vec<u8>, (usize, usize)> {
        let mut places = HashMap::new();
        for (at, group) in payload.groups().iter().enumerate() {
            if let Some(table) = self.catalog.table_named(group.table()).filter(|_| group.whole()) {
                let rows = 0..group.rows();
                places.extend(rows.map(|row| (clocks::pk(table.id, group.key(row)), (at, row))));
            }
        }
        places
    }

    /// Finds what of the rows is unsent: the app changed it after the round was made.
    fn find_later_edits(&self, rows: &mut [Refusal]) -> Result<()> {
        let mut later: HashMap<Vec<u8>, Later> = HashMap::new();
        self.each_unsent(|table, key, mask| {
            if !mask.is_edit() {
                return;
            }
            let later = later.entry(clocks::pk(table, key)).or_default();
            match mask.columns() {
                None => later.whole = true,
                Some(columns) => later.columns.union_with(columns),
            }
        })?;
        for row in rows {
            row.later = later.remove(&row.pk);
            // Of a row that was deleted outside of a filter since, nothing is here that could be kept.
            if row.later.is_some() && !self.has_its_values(&row.row, &row.pk)? {
                row.later = None;
            }
        }
        Ok(())
    }

    /// True when the whole of a row could be sent: it is here, alive or deleted.
    fn can_be_sent(&self, row: &RowKey) -> Result<bool> {
        let (table, key) = row;
        let pk = clocks::pk(table.id, key);
        // What was written outside of the filter is not for others.
        Ok(!PrivateRows::open(&self.db)?.contains(&pk)? && self.has_its_values(row, &pk)?)
    }

    /// True for a row that its clock says is deleted, or that exists.
    fn has_its_values(&self, (table, key): &RowKey, pk: &[u8]) -> Result<bool> {
        let Some(clock) = clocks::ClockStore::open(&self.db)?.read(pk)? else { return Ok(false) };
        if !clock.is_alive() {
            return Ok(true);
        }
        let sql = format!("SELECT 1 FROM {} WHERE {}", table.quoted(), table.key_condition(1));
        let mut select = self.db.prepare(&sql)?;
        clocks::bind_key(&mut select, 1, key)?;
        Ok(select.step()?)
    }

    /// Puts rows into the list of what is unsent.
    pub(crate) fn note_again(&self, mut rows: Vec<(RowKey, Mask)>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by(|(a, _), (b, _)| (a.0.id, &a.1).cmp(&(b.0.id, &b.1)));
        let mut writer = ChangeWriter::begin(&self.db, self.now_ms())?;
        for ((table, key), mask) in &rows {
            writer.push(table.id, key, mask)?;
        }
        writer.finish(&self.db, Origin::Local, storage::get_u64(&self.db, "cursor")?)?;
        Ok(())
    }
}

/// Refused rows on their way to what the server has.
struct Laying<'p> {
    applier: Applier,
    own: SiteOrdinal,
    payload: Option<&'p Payload<'p>>,
    sites: Vec<SiteOrdinal>,
    again: Vec<(RowKey, Mask)>,
}

impl Laying<'_> {
    /// Lays all rows. Those that stand in one another's way are taken out together and put back; what still collides
    /// with a row of this device waits in the quarantine.
    fn lay_all(&mut self, replica: &mut Replica, rows: &[Refusal]) -> Result<()> {
        let mut failed: Vec<_> = rows.iter().collect();
        loop {
            let before = failed.len();
            let mut still = Vec::new();
            for refusal in failed {
                if self.lay(replica, refusal)?.is_some() {
                    still.push(refusal);
                }
            }
            failed = still;
            if failed.is_empty() || failed.len() == before {
                break;
            }
        }
        for refusal in &failed {
            self.take_out(replica, refusal)?;
        }
        for refusal in failed {
            let bare = Refusal { row: refusal.row.clone(), pk: refusal.pk.clone(), later: None, ..*refusal };
            if let (Some(reason), Some((at, row)), Some(payload)) =
                (self.lay(replica, &bare)?, refusal.given, self.payload)
            {
                self.applier.put_aside(replica, payload, &payload.groups()[at], row, &reason)?;
            }
        }
        Ok(())
    }

    /// Lays one row; gives the reason when a constraint does not let it in.
    fn lay(&mut self, replica: &mut Replica, refusal: &Refusal) -> Result<Option<String>> {
        let Refusal { row: (table, key), pk, given, later, .. } = refusal;
        let ours = self.applier.clocks.read(pk)?;
        let target = match (given, self.payload) {
            (Some((at, row)), Some(payload)) => {
                let group = &payload.groups()[*at];
                let target = Target::of(replica, group, &self.sites);
                target.map(|target| (target, group, *row))
            }
            _ => None,
        };
        let theirs =
            target.as_ref().map(|(target, group, row)| target.clock(group, *row, replica)).transpose()?;
        if let (true, Some((target, group, at)), Some(theirs)) = (refusal.repairs, &target, &theirs) {
            let row = Row::new(self.applier.db, group, target, key, *at);
            self.applier.note_repaired(replica, &row, ours.as_ref(), theirs)?;
        }
        let later = later.as_ref();
        let mut undoing = self.undoing(table, ours.as_ref(), theirs.as_ref(), later, replica);
        if undoing.clock == ours {
            // It is in the list of what is unsent. Noted once more without being another change, it would be refused behind
            // every other copy, and noted again, for ever.
            undoing.kept = None;
        }
        if refusal.gone && matches!(undoing.action, Action::Update(_)) {
            undoing.action = Action::Insert;
        }
        if matches!(undoing.action, Action::Delete | Action::Bury(_)) && replica.checks_parents {
            // Children that their foreign key would protect become orphans: the server has no such parent.
            let mut family = std::mem::take(&mut replica.unsettled.family);
            let refused = family.part(self.applier.writer(replica, table)?, table, key);
            replica.unsettled.family = family;
            refused?;
        }
        match (&undoing.action, &target) {
            (Action::Keep, _) => {}
            // It left its table's filter, and may not leave the server: it stays as it is here, and private.
            (Action::Insert, Some(_)) if filter::stays_private(&self.applier.db, table, key, pk)? => {}
            (action, Some((target, group, at))) => {
                let row = Row::new(self.applier.db, group, target, key, *at);
                let outcome = self.applier.writer(replica, table)?.carry_out(&row, action, None);
                if let Some(reason) = obstacle(outcome)? {
                    return Ok(Some(reason));
                }
            }
            (_, None) => {
                let outcome = self.applier.writer(replica, table)?.remove(table.id, key);
                if let Some(reason) = obstacle(outcome)? {
                    return Ok(Some(reason));
                }
            }
        }
        if undoing.clock.as_ref().is_none_or(RowClock::is_alive) {
            self.applier.writer(replica, table)?.forget_buried(pk)?;
        }
        self.store(refusal, ours.is_none(), theirs.as_ref(), undoing)?;
        Ok(None)
    }

    fn store(
        &mut self,
        refusal: &Refusal,
        is_new: bool,
        theirs: Option<&RowClock>,
        undoing: Undoing,
    ) -> Result<()> {
        let Refusal { row, pk, .. } = refusal;
        match &undoing.clock {
            Some(clock) => {
                self.applier.clocks.write(pk, clock, is_new)?;
                self.applier.floor = self.applier.floor.max(clock.time_max());
                self.applier.changes.push(row.0.id, &row.1, &Mask::Whole)?;
            }
            None => self.applier.clocks.remove(pk)?,
        }
        if let Some(theirs) = theirs {
            self.applier.applied.time_max = self.applier.applied.time_max.max(theirs.time_max());
        }
        if let Some(mask) = undoing.kept {
            self.again.push((row.clone(), mask));
        }
        self.applier.applied.rows += 1;
        if let Some(written) = &mut self.applier.written {
            written.insert(pk.clone());
        }
        Ok(())
    }

    /// Decides what becomes of a row of which the server has `theirs`, or nothing.
    fn undoing(
        &self,
        table: &Table,
        ours: Option<&RowClock>,
        theirs: Option<&RowClock>,
        later: Option<&Later>,
        replica: &Replica,
    ) -> Undoing {
        let (algorithm, numbers, sites) = (table.algorithm, &table.numbers, replica.sites.ids());
        let alive = ours.is_some_and(RowClock::is_alive);
        let anew = later.is_some_and(|later| later.whole);
        let known = theirs.map_or(Time(0), RowClock::time_max);
        let time = ours.map_or(Time(1), RowClock::time_max).max(Time(known.0 + 1)).min(TIME_MAX);
        let stamp = Clock::new(time, self.own);
        let again = |clock| Undoing { action: Action::Keep, clock: Some(clock), kept: Some(Mask::Whole) };
        // A dead row of the server's may have cells that it keeps.
        let dead = |action| match theirs.filter(|theirs| theirs.deletion().is_some()) {
            Some(theirs) => Action::Bury(theirs.columns.clone()),
            None => action,
        };
        let take = |action| Undoing { action, clock: theirs.cloned(), kept: None };
        match (theirs.is_some_and(RowClock::is_alive), alive) {
            // Written anew since, as a whole: a row of its own, whatever became of the one before.
            (false, true) if anew => again(local::insert(algorithm, theirs, stamp, numbers.clone(), sites)),
            (false, true) => take(dead(Action::Delete)),
            (false, false) => take(dead(Action::Keep)),
            (true, false) => match theirs.filter(|_| anew && ours.is_some()) {
                // Deleted since.
                Some(theirs) => {
                    let clock = local::delete(algorithm, theirs, stamp, sites);
                    let buries = clock.deletion().is_some();
                    let action = if buries { Action::Bury(theirs.columns.clone()) } else { Action::Keep };
                    Undoing { action, ..again(clock) }
                }
                None => take(Action::Insert),
            },
            (true, true) => match (ours, theirs) {
                (Some(ours), Some(theirs)) => overlaid(table, ours, theirs, later, stamp, replica),
                _ => take(Action::Keep),
            },
        }
    }

    /// Takes a row and its clock out, whatever the app's triggers say.
    fn take_out(&mut self, replica: &Replica, refusal: &Refusal) -> Result<()> {
        let ((table, key), db) = (&refusal.row, self.applier.db);
        let triggers = db.set_triggers_enabled(false)?;
        let outcome = self.applier.writer(replica, table).map(|writer| writer.remove(table.id, key));
        db.set_triggers_enabled(triggers)?;
        if let Some(reason) = obstacle(outcome?)? {
            return Err(Error::state(reason));
        }
        self.applier.clocks.remove(&refusal.pk)
    }
}

/// What stands in a row's way, if anything does.
fn obstacle(outcome: Result<(), Refused>) -> Result<Option<String>> {
    match outcome {
        Ok(()) => Ok(None),
        Err(Refused::Constraint(reason)) => Ok(Some(reason)),
        Err(Refused::Part) => Ok(Some("the row is gone".to_owned())),
        Err(Refused::Error(error)) => Err(error),
    }
}

/// The server's row under cells that the app changed since.
fn overlaid(
    table: &Table,
    ours: &RowClock,
    theirs: &RowClock,
    later: Option<&Later>,
    stamp: Clock,
    replica: &Replica,
) -> Undoing {
    let (numbers, sites) = (&table.numbers, replica.sites.ids());
    let mut kept = match later {
        Some(later) if later.whole => numbers.clone(),
        Some(later) => later.columns.clone(),
        None => ColumnSet::new(),
    };
    kept.intersect_with(&ours.columns);
    let is_beyond = |column| numbers.contains(column) && !theirs.columns.contains(column);
    if kept.is_empty() && ours.columns.iter().any(is_beyond) {
        // Nothing of it is unsent, so the server knows the column. Left here, it would be found and repaired for ever.
        return Undoing { action: Action::Replace, clock: Some(theirs.clone()), kept: None };
    }
    let mut columns = ours.columns.clone();
    columns.union_with(&theirs.columns);
    let cell = |column| match (kept.contains(column), theirs.cell(column)) {
        (true, _) => stamp,
        (false, Some(clock)) => clock,
        // The server does not know the column.
        (false, None) => ours.cell(column).unwrap_or(stamp),
    };
    let cells: Vec<_> = columns.iter().map(|column| (column, cell(column))).collect();
    let written = theirs.columns.iter().filter(|column| numbers.contains(*column) && !kept.contains(*column));
    Undoing {
        action: Action::Update(written.collect()),
        clock: Some(match table.algorithm {
            Algorithm::Aws => RowClock::from_writes(&cells, theirs.last_write(sites), None, sites),
            _ => RowClock {
                marks: theirs.marks.clone(),
                ..RowClock::from_cells(theirs.life, theirs.common, &cells, sites)
            },
        }),
        kept: (!kept.is_empty()).then_some(Mask::Columns(kept)),
    }
}
