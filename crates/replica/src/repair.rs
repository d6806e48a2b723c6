//! Repairing what a check has found: rows that are not here what they are on the server, and that nobody changed since.
//!
//! The server's row takes the place of ours, clocks included, laid by the same means as the rows of verdicts. A row that
//! the server does not have goes without a tombstone, and is kept in `cloudsync_rejected`; where it may be a row that is
//! only hidden from whoever syncs, it is kept if it was written here as a whole. A row that exists though no
//! clock says so, and that the server does not have either, was written behind the triggers' back: it is noted as
//! inserted. Of a table of which the server knows nothing at all, everything is sent.

mod list;

use self::list::Damage;
pub(crate) use self::list::{exhausted, forget, forget_row};
use crate::audience::wrote_all;
use crate::capture;
use crate::changes::Mask;
use crate::check::{Asked, AskedRange};
use crate::clocks::{self, ClockStore, pk_range, split_pk};
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::pick::RowKey;
use crate::ranges::{ClockWalk, Filled, Held, RowReader, Unclocked};
use crate::rebuilt::vanished;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use crate::verdicts::Refusal;
use crate::write::Row;
use cloudsync_core::clock::{ColumnSet, RowClock, SiteOrdinal};
use cloudsync_protocol::client::Absorbed;
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_protocol::range::{Checked, Finding};
use cloudsync_sqlite_ffi::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

/// Rows after which one sync repairs no further range of a slice.
const REPAIRS_TARGET: usize = 1_000;
/// Rows that are noted of one range at most.
const NOTED_ROWS_MAX: usize = 10_000;

/// Whether findings ask for anything to be written.
pub(crate) fn is_needed(checked: &[u8]) -> bool {
    let idle = |finding: &Finding<'_>| matches!(finding, Finding::Equal | Finding::Unknown | Finding::Later);
    !checked.is_empty() && Checked::decode(checked).map_or(true, |checked| !checked.findings.iter().all(idle))
}

/// A key up to which the server has told of a range. The next check begins behind it, so it must be one, and in the range.
fn within<'k>(range: &AskedRange, key: &'k [u8]) -> Result<&'k [u8]> {
    let is_within = key > range.after.as_slice() && (range.until.is_empty() || key <= range.until.as_slice());
    if is_within && range.table.is_key(key) {
        return Ok(key);
    }
    let name = &range.table.name;
    Err(Error::Protocol(format!(
        "findings refused: a key of table \"{name}\" is damaged or outside of its range"
    )))
}

/// What the findings of one answer make necessary.
#[derive(Default)]
struct Plan {
    /// Rows that the server's take the place of, and what was wrong with them.
    rows: BTreeMap<Vec<u8>, (Refusal, Damage)>,
    /// Rows that are noted as inserted.
    notes: Vec<RowKey>,
    /// Cells that are noted as written.
    filled: Vec<(RowKey, ColumnSet)>,
    /// Rows that are sent because the server has lost their table.
    lost: Vec<RowKey>,
    /// Everything must be fetched.
    fetches: bool,
}

impl Plan {
    /// Has the server's row, which is `given` in the payload if it has one, take the place of ours.
    fn replace(&mut self, table: &Rc<Table>, pk: &[u8], given: Option<Place>, damage: Damage) -> Result<()> {
        let row = (Rc::clone(table), split_pk(pk)?.1.to_vec());
        let refusal = Refusal::damaged(row, pk.to_vec(), given, damage == Damage::Gone);
        self.rows.insert(pk.to_vec(), (refusal, damage));
        Ok(())
    }
}

/// Where a row stands in a payload: its group, and which row of that.
type Place = (usize, usize);

/// What is needed to find out what is damaged.
struct Finder<'p> {
    payload: Option<&'p Payload<'p>>,
    sites: Vec<SiteOrdinal>,
    /// The places of the server's rows in the payload, by their keys in the tree of clocks.
    given: BTreeMap<Vec<u8>, Place>,
    unsent: HashSet<Vec<u8>>,
    skipped: BTreeSet<Vec<u8>>,
    /// Rows of which a change waits that came by file, if that is to stay where the server has no such row.
    wanted: BTreeSet<Vec<u8>>,
    /// Deleted rows are not compared.
    living_only: bool,
}

impl Replica {
    /// Takes in what the server found. The download of the same answer is in, so that the two sides are compared as they
    /// are at one cursor.
    pub(crate) fn take_checked(
        &mut self,
        asked: &Asked,
        checked: &[u8],
        absorbed: &mut Absorbed,
    ) -> Result<()> {
        if checked.is_empty() {
            return self.note_checked(asked, Some(asked.from.clone())).map(drop);
        }
        let damaged = |error| Error::Protocol(format!("the server's findings are damaged: {error}"));
        let checked = Checked::decode(checked).map_err(damaged)?;
        if checked.findings.len() != asked.ranges.len() {
            return Err(Error::Protocol("the server's findings are not those of the ranges".into()));
        }
        let opened =
            if checked.payload.is_empty() { None } else { Some(Opened::open(checked.payload, &Zstd)?) };
        let payload = opened.as_ref().map(Opened::payload).transpose()?;
        if payload.as_ref().is_some_and(Payload::has_references) {
            return Err(Error::Protocol("repair refused: a row's values are not with it".into()));
        }
        let (plan, place) = self.plan(asked, &checked, payload.as_ref())?;
        absorbed.rows_repaired += self.carry_out(plan, payload.as_ref(), absorbed)?;
        absorbed.unchecked = self.note_checked(asked, place)? && self.must_check()?;
        Ok(())
    }

    /// What is to be done, and the place up to which everything is known.
    fn plan(
        &mut self,
        asked: &Asked,
        checked: &Checked<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<(Plan, Option<Vec<u8>>)> {
        let mut finder = Finder {
            payload,
            sites: Vec::new(),
            given: BTreeMap::new(),
            unsent: HashSet::new(),
            skipped: BTreeSet::new(),
            wanted: BTreeSet::new(),
            living_only: self.is_part()?,
        };
        if is_needed(&checked.encode()) {
            finder.unsent = self.unsent_keys()?;
            finder.skipped = self.uncomparable()?;
            // Of what their user may not see nothing may stay.
            if !finder.living_only {
                finder.wanted = self.waiting_by_file()?;
            }
        }
        if let Some(payload) = payload {
            let sites = payload.sites().iter().map(|site| self.sites.ordinal(&self.db, *site));
            finder.sites = sites.collect::<Result<_>>()?;
            finder.given = self.places(payload).into_iter().collect();
        }
        let mut plan = Plan::default();
        let mut place = asked.from.clone();
        for (range, finding) in asked.ranges.iter().zip(&checked.findings) {
            let table = self.catalog.table(range.table.id).filter(|table| table.enabled);
            if !asked.reconciles && plan.rows.len() + plan.filled.len() >= REPAIRS_TARGET {
                return Ok((plan, Some(place)));
            }
            let covered: &[u8] = match (finding, table) {
                (Finding::Later, _) => return Ok((plan, Some(place))),
                (Finding::Unknown, _) => {
                    if asked.reconciles {
                        self.fetch_unchecked()?;
                    }
                    &range.until
                }
                (Finding::Equal, _) | (_, None) => &range.until,
                (Finding::Differs { until }, Some(table)) => {
                    let until = if until.is_empty() { &range.until } else { within(range, until)? };
                    finder.differing(self, &mut plan, &table, &range.after, until)?;
                    until
                }
                (Finding::Large { key, digest }, Some(table)) => {
                    let key = within(range, key)?;
                    finder.before(self, &mut plan, &table, &range.after, key)?;
                    finder.large(self, &mut plan, &table, key, *digest)?;
                    key
                }
                (Finding::Empty, Some(table)) => {
                    finder.lost(self, &mut plan, &table, range)?;
                    &range.until
                }
            };
            place = place_behind(range, covered);
            if covered != range.until {
                return Ok((plan, Some(place)));
            }
        }
        Ok((plan, asked.next.clone()))
    }

    /// Does what was planned; gives the number of rows that were damaged.
    fn carry_out(
        &mut self,
        plan: Plan,
        payload: Option<&Payload<'_>>,
        absorbed: &mut Absorbed,
    ) -> Result<u64> {
        let Plan { rows, notes, filled, lost, fetches } = plan;
        let mut unlisted = 0;
        let (mut list, mut refusals, mut surplus) = (Vec::new(), Vec::new(), Vec::new());
        for (refusal, damage) in rows.into_values() {
            match damage {
                Damage::Surplus => {
                    surplus.push(refusal.row().clone());
                    if !self.may_keep(refusal.row())? {
                        unlisted += 1;
                        continue;
                    }
                    self.reject(refusal.row(), "repaired: the server does not have this row any more")?;
                }
                Damage::Large => self.keep_damaged(refusal.row())?,
                _ => {}
            }
            if damage != Damage::Forgotten {
                list.push((refusal.row().clone(), damage));
            }
            if damage != Damage::Surplus {
                refusals.push(refusal);
            }
        }
        if !list.is_empty() {
            self.trim_rejected()?;
        }
        if !surplus.is_empty() {
            self.evict(&surplus)?;
        }
        if !refusals.is_empty() {
            self.lay_refusals(&refusals, payload)?;
        }
        for (table, key) in notes {
            let insert = Value::Integer(capture::NOTE_INSERT);
            capture::note_found(&self.db, &table, self.now_ms(), insert, &key)?;
            absorbed.more = true;
            list.push(((table, key), Damage::Unnoted));
        }
        for ((table, key), columns) in filled {
            cloudsync_core::reached!("repair: a value without a clock is an edit");
            capture::note_edit(&self.db, &table, self.now_ms(), &columns, &key)?;
            absorbed.more = true;
            list.push(((table, key), Damage::Filled));
        }
        if !lost.is_empty() {
            self.note_again(lost.iter().map(|row| (row.clone(), Mask::Offered(None))).collect())?;
            absorbed.more = true;
            list.extend(lost.into_iter().map(|row| (row, Damage::Lost)));
        }
        if fetches {
            storage::set(&self.db, "refetch", Value::Integer(1))?;
            absorbed.more = true;
        }
        self.list_repairs(&list, unlisted)?;
        Ok(list.len() as u64 + unlisted)
    }

    /// Whether a row that the server does not have may be kept aside. To somebody who may not see everything it says so of
    /// rows that are hidden from them, too: of these nothing may stay but what was written here.
    fn may_keep(&self, (table, key): &RowKey) -> Result<bool> {
        if !self.is_part()? {
            return Ok(true);
        }
        let clock = ClockStore::open(&self.db)?.read(&clocks::pk(table.id, key))?;
        let own = self.own_site()?;
        Ok(clock.is_some_and(|clock| wrote_all(&clock, own)))
    }
}

/// The place behind a range that is covered up to a key.
fn place_behind(range: &AskedRange, covered: &[u8]) -> Vec<u8> {
    if covered.is_empty() { pk_range(range.table.id).1 } else { clocks::pk(range.table.id, covered) }
}

/// Takes note of what an undamaged row holds without a clock. The server has no clock for it either, so nothing will ever
/// come in its place: it is an edit of this replica.
fn note_filled(
    plan: &mut Vec<(RowKey, ColumnSet)>,
    filled: &mut Filled,
    table: &Rc<Table>,
    key: &[u8],
    clock: &RowClock,
) -> Result<()> {
    let columns = filled.find(key, clock)?;
    if !columns.is_empty() {
        plan.push(((Rc::clone(table), key.to_vec()), columns));
    }
    Ok(())
}

impl Finder<'_> {
    fn is_left_alone(&self, pk: &[u8]) -> bool {
        self.unsent.contains(pk) || self.skipped.contains(pk)
    }

    /// Compares what is here in a range with what the server has there.
    fn differing(
        &mut self,
        replica: &Replica,
        plan: &mut Plan,
        table: &Rc<Table>,
        after: &[u8],
        until: &[u8],
    ) -> Result<()> {
        let mut given = self.given_between(table, after, until);
        // Rows without a living clock first: a dead one must not be taken for deleted.
        let unclocked =
            Unclocked::open(&replica.db, table)?.find(after, until, usize::MAX, NOTED_ROWS_MAX)?;
        self.unclocked(plan, table, &unclocked, &mut given)?;
        let unclocked: HashSet<_> = unclocked.into_iter().collect();
        let walk = ClockWalk::open(&replica.db, table.id, after, until)?;
        self.clocked(replica, plan, table, walk, &unclocked, &mut given)?;
        for (pk, place) in given {
            if !self.is_left_alone(&pk) {
                plan.replace(table, &pk, Some(place), Damage::Missing)?;
            }
        }
        Ok(())
    }

    /// Compares rows that have no living clock here, and takes them out of what is `given`. One that the server has not, or has
    /// as deleted, was inserted behind the triggers' back.
    fn unclocked(
        &self,
        plan: &mut Plan,
        table: &Rc<Table>,
        keys: &[Vec<u8>],
        given: &mut BTreeMap<Vec<u8>, Place>,
    ) -> Result<()> {
        for key in keys {
            let pk = clocks::pk(table.id, key);
            if self.is_left_alone(&pk) {
                continue;
            }
            let theirs = given.remove(&pk);
            if theirs.is_some() {
                plan.replace(table, &pk, theirs, Damage::Unclocked)?;
            }
            if !theirs.is_some_and(|place| self.is_alive(place)) {
                plan.notes.push((Rc::clone(table), key.clone()));
            }
        }
        Ok(())
    }

    /// Compares rows by their clocks, and takes them out of what is `given`.
    fn clocked(
        &self,
        replica: &Replica,
        plan: &mut Plan,
        table: &Rc<Table>,
        mut walk: ClockWalk,
        unclocked: &HashSet<Vec<u8>>,
        given: &mut BTreeMap<Vec<u8>, Place>,
    ) -> Result<()> {
        let db = &replica.db;
        let (mut reader, mut filled) = (RowReader::open(db, table)?, Filled::open(db, table)?);
        while let Some((pk, clock)) = walk.next()? {
            let (_, key) = split_pk(pk)?;
            let theirs = given.remove(pk);
            if self.is_left_alone(pk) || unclocked.contains(key) {
                continue;
            }
            let ours = reader.row(key, &clock, replica.sites.ids())?;
            if let (Held::Row(ours), Some(place)) = (&ours, theirs)
                && self.digest(replica, &mut reader, place, key)? == Some(*ours)
            {
                note_filled(&mut plan.filled, &mut filled, table, key, &clock)?;
            } else if let Some(damage) = self.damage(table, pk, &clock, &ours, theirs.is_some()) {
                plan.replace(table, pk, theirs, damage)?;
            }
        }
        Ok(())
    }

    /// What is wrong with a row that is here what it is not on the server; `None` if it may be so.
    fn damage(
        &self,
        table: &Table,
        pk: &[u8],
        clock: &RowClock,
        ours: &Held,
        is_theirs: bool,
    ) -> Option<Damage> {
        match (ours, is_theirs) {
            (Held::Outside, _) => None,
            // It may have been deleted here only.
            (Held::Missing, _) if table.filter.is_some() => None,
            (Held::Missing, true) => Some(Damage::Gone),
            (Held::Row(_), true) => Some(Damage::Changed),
            (Held::Row(_), false) if self.living_only && !clock.is_alive() => None,
            // With it would go what waits, of which the server has not heard.
            (Held::Row(_), false) if self.wanted.contains(pk) => None,
            (Held::Row(_), false) if clock.is_alive() => Some(Damage::Surplus),
            (Held::Row(_) | Held::Missing, false) => Some(Damage::Forgotten),
        }
    }

    /// The server's rows in a range.
    fn given_between(&self, table: &Table, after: &[u8], until: &[u8]) -> BTreeMap<Vec<u8>, Place> {
        let end = if until.is_empty() { pk_range(table.id).1 } else { clocks::pk(table.id, until) };
        let after = clocks::pk(table.id, after);
        let rows = self.given.iter().filter(|(pk, _)| **pk > after && **pk <= end);
        rows.map(|(pk, place)| (pk.clone(), *place)).collect()
    }

    fn is_alive(&self, (group, row): Place) -> bool {
        self.payload.is_some_and(|payload| payload.groups()[group].life(row) % 2 == 1)
    }

    /// The digest of one of the server's rows; `None` if its table or a column of it is not known here.
    fn digest(
        &self,
        replica: &Replica,
        reader: &mut RowReader,
        (group, at): Place,
        key: &[u8],
    ) -> Result<Option<u64>> {
        let Some(payload) = self.payload else { return Ok(None) };
        let group = &payload.groups()[group];
        let Some(target) = crate::apply::Target::of(replica, group, &self.sites) else { return Ok(None) };
        let clock = target.clock(group, at, replica)?;
        let row = Row::new(replica.db, group, &target, key, at);
        Ok(Some(reader.incoming(&row, &clock, replica.sites.ids())))
    }

    /// Compares what is here before a row that the server has there as the first one.
    fn before(
        &mut self,
        replica: &Replica,
        plan: &mut Plan,
        table: &Rc<Table>,
        after: &[u8],
        key: &[u8],
    ) -> Result<()> {
        if !table.is_key(key) {
            return Ok(());
        }
        let pk = clocks::pk(table.id, key);
        let is_added = self.skipped.insert(pk.clone());
        self.differing(replica, plan, table, after, key)?;
        if is_added {
            self.skipped.remove(&pk);
        }
        Ok(())
    }

    /// Looks whether a row that is too large to come is here what it is there.
    fn large(
        &self,
        replica: &Replica,
        plan: &mut Plan,
        table: &Rc<Table>,
        key: &[u8],
        digest: u64,
    ) -> Result<()> {
        let pk = clocks::pk(table.id, key);
        if self.is_left_alone(&pk) || !table.is_key(key) {
            return Ok(());
        }
        let clock = ClockStore::open(&replica.db)?.read(&pk)?;
        let ours = match &clock {
            Some(clock) => RowReader::open(&replica.db, table)?.row(key, clock, replica.sites.ids())?,
            None => Held::Missing,
        };
        let is_gone_here = ours == Held::Missing && clock.is_some() && table.filter.is_some();
        let is_local = is_gone_here || ours == Held::Outside;
        if let Some(clock) = clock.filter(|_| ours == Held::Row(digest)) {
            return note_filled(&mut plan.filled, &mut Filled::open(&replica.db, table)?, table, key, &clock);
        }
        if !is_local && ours != Held::Row(digest) {
            // Without row and clock here, it comes whole.
            let row = Refusal::damaged((Rc::clone(table), key.to_vec()), pk.clone(), None, false);
            plan.rows.insert(pk, (row, Damage::Large));
            plan.fetches = true;
            cloudsync_core::reached!("repair: a row is too large to come");
            self.gone_too(replica, plan, table)?;
        }
        Ok(())
    }

    /// Everything is fetched: what else of the table is gone comes with it, instead of with another download for each row.
    /// Behind a filter, rows may be gone that were deleted here only.
    fn gone_too(&self, replica: &Replica, plan: &mut Plan, table: &Rc<Table>) -> Result<()> {
        if table.filter.is_some() {
            return Ok(());
        }
        for (pk, _) in vanished(&replica.db, table)? {
            if plan.rows.contains_key(&pk) || self.is_left_alone(&pk) {
                continue;
            }
            let row = (Rc::clone(table), split_pk(&pk)?.1.to_vec());
            plan.rows.insert(pk.clone(), (Refusal::damaged(row, pk, None, false), Damage::Gone));
        }
        Ok(())
    }

    /// Takes what is here in a range of a table that the server has lost.
    fn lost(&self, replica: &Replica, plan: &mut Plan, table: &Rc<Table>, range: &AskedRange) -> Result<()> {
        let mut walk = ClockWalk::open(&replica.db, table.id, &range.after, &range.until)?;
        while let Some((pk, _)) = walk.next()? {
            if !self.is_left_alone(pk) {
                plan.lost.push((Rc::clone(table), split_pk(pk)?.1.to_vec()));
            }
        }
        Ok(())
    }
}
