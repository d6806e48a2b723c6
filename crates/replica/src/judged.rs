//! An apply in which somebody else says row by row what is let in: the server, under policies.
//!
//! What a round wants is judged as a *least fixed point*. Every row is judged on the state before the round; those that
//! are granted are written; the rest is judged again on what there is then, until nothing more is granted. So no row
//! ever vouches for itself, nor two for each other, and a deletion does not take away the right to the deletions beside
//! it. Of several changes of one row one is granted at a time, and the next one is judged on what that left.
//!
//! A row as it would be is put into its table's *twin*, an empty table of the same definition in another schema: there
//! it has its columns' affinities, collations and generated values, and is not among the rows that policies look at.
//!
//! What can be told of a refused row must not depend on whether there is a row that its sender does not see. So of a
//! row that is not there and of one that is hidden the same things are worked out, and the same reason is given.

use crate::apply::{Applied, Applier, Source, Target, WAITS_FOR_REST, in_order};
use crate::audience::OrdinalReader;
use crate::clocks;
use crate::codec::Zstd;
use crate::error::Result;
use crate::pieces;
use crate::quarantine;
use crate::replica::Replica;
use crate::settle::Gathered;
use crate::twin::Twins;
use crate::write::{Refused, Row};
use cloudsync_core::clock::{ColumnSet, SiteOrdinal};
use cloudsync_core::merge::Action;
use cloudsync_protocol::payload::{Group, Opened, Payload};
use std::collections::{HashMap, HashSet};
use xxhash_rust::xxh3::xxh3_64;

/// The reason of every refusal that could tell of rows which its reader may not see.
pub const NOT_ALLOWED: &str = "not allowed, or no such row";

/// How often the rows of a round are judged. Each time the grants of the last one count.
const GENERATIONS_MAX: usize = 64;

/// What a change would do with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    /// Bring the row in the twin to life.
    Insert,
    /// Make the row in the table the one in the twin.
    Update,
    /// Delete the row in the table.
    Delete,
}

/// How a row of the table stands to whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// There is none.
    Absent,
    /// There is one that is not theirs to see.
    Hidden,
    /// There is one that they see.
    Seen,
}

/// Says what is let in. Keys are packed.
pub trait RowJudge {
    /// The schema of the twins.
    fn twins(&self) -> &'static str;

    /// Makes sure that a table has its twin.
    ///
    /// # Errors
    /// When that fails.
    fn prepare(&mut self, table: &str) -> Result<()>;

    /// How the row of that key stands to whoever asks.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn sight(&mut self, table: &str, key: &[u8]) -> Result<Sight>;

    /// Whether they would see the row in the twin.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn sees_twin(&mut self, table: &str) -> Result<bool>;

    /// Whether they may do that.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn allows(&mut self, deed: Deed, table: &str, key: &[u8]) -> Result<bool>;
}

/// Where the rows of a round are.
pub trait Chunks {
    /// How many chunks there are.
    fn count(&self) -> usize;

    /// One of them.
    ///
    /// # Errors
    /// When it cannot be read.
    fn payload(&mut self, at: usize) -> Result<Vec<u8>>;
}

/// What became of a round under a judge.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What was written.
    pub applied: Applied,
    /// The rows, alive and seen by their sender, of which nothing new came, by the numbers that stand for them: their sender
    /// has them, though nothing that is written here tells so.
    pub known: Vec<u64>,
}

/// What is said of one row.
enum Opinion {
    Granted,
    Denied,
    /// A constraint on the row itself.
    Refused(String),
}

/// A row of a payload: its group, and its place in it.
type Position = (usize, usize);

/// The rows of one chunk that are not in yet, and the reasons of constraints.
#[derive(Default)]
struct Pending {
    rows: Vec<Position>,
    reasons: HashMap<Position, String>,
}

impl Replica {
    /// Applies a round as far as the judge lets it in. What is refused waits in the quarantine for
    /// [`judge_for`](Self::judge_for). While the batch `continues`, rows that miss a parent are kept for its next round.
    /// [`settle`](Self::settle) must follow.
    ///
    /// # Errors
    /// When a payload breaks the rules or the file cannot be written; the transaction must then be undone.
    pub fn apply_judged(
        &mut self,
        chunks: &mut dyn Chunks,
        source: Source,
        judge: &mut dyn RowJudge,
        continues: bool,
    ) -> Result<Judged> {
        self.follow_schema()?;
        self.catalog.require_settled()?;
        self.sites.refresh(&self.db)?;
        let held = quarantine::take_held(&self.db, source.origin.code())?;
        let mut round = Round {
            chunks,
            pending: Vec::new(),
            twins: Twins::new(self.db, judge.twins()),
            judge,
            continues,
            held,
            ordinals: OrdinalReader::open(&self.db)?,
            known: Vec::new(),
        };
        let mut applier = Applier::open(self, source)?;
        applier.judged = true;
        round.begin(self)?;
        for _ in 0..GENERATIONS_MAX {
            if !round.advance(self, &mut applier)? {
                break;
            }
            cloudsync_core::reached!("judged: the rest of a round is judged again");
        }
        round.refuse(self, &mut applier)?;
        round.twins.clear_all()?;
        let known = std::mem::take(&mut round.known);
        Ok(Judged { applied: applier.finish(self)?, known })
    }
}

/// Table and key of a row of a payload.
fn name(payload: &Payload<'_>, (group, row): Position) -> (String, Vec<u8>) {
    let group = &payload.groups()[group];
    (group.table().to_owned(), group.key(row).to_vec())
}

/// Rows that were granted and that a constraint did not let in, of all chunks, and where they are from.
#[derive(Default)]
struct Stuck {
    rows: Gathered,
    places: HashMap<(String, Vec<u8>), (usize, Position)>,
}

impl Stuck {
    fn push(&mut self, payload: &Payload<'_>, chunk: usize, position: Position) {
        // What there is no room for is tried with the next generation.
        if !self.rows.is_full() {
            self.rows.push(payload, &payload.groups()[position.0], position.1);
            self.places.insert(name(payload, position), (chunk, position));
        }
    }
}

struct Round<'r> {
    chunks: &'r mut dyn Chunks,
    /// For each chunk, and behind them for what was held.
    pending: Vec<Pending>,
    twins: Twins,
    judge: &'r mut dyn RowJudge,
    continues: bool,
    /// Rows of earlier rounds of the batch that missed their parents, as a payload.
    held: Vec<u8>,
    ordinals: OrdinalReader,
    /// Of which rows nothing new came.
    known: Vec<u64>,
}

impl Round<'_> {
    fn payload(&mut self, at: usize) -> Result<Vec<u8>> {
        if at < self.chunks.count() { self.chunks.payload(at) } else { Ok(self.held.clone()) }
    }

    /// Runs `act` on a chunk's payload, and by our ordinals the sites that it names.
    fn with<T>(
        &mut self,
        replica: &mut Replica,
        at: usize,
        act: impl FnOnce(&mut Self, &mut Replica, &Payload<'_>, &[SiteOrdinal]) -> Result<T>,
    ) -> Result<T> {
        let bytes = self.payload(at)?;
        let opened = Opened::open(&bytes, &Zstd)?;
        let payload = opened.payload()?;
        let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&replica.db, *site));
        let sites = sites.collect::<Result<Vec<_>>>()?;
        act(self, replica, &payload, &sites)
    }

    fn begin(&mut self, replica: &mut Replica) -> Result<()> {
        let count = self.chunks.count() + usize::from(!self.held.is_empty());
        for at in 0..count {
            let rows = self.with(replica, at, |_, replica, payload, _| {
                pieces::keep(&replica.db, payload, 0)?;
                Ok(in_order(payload))
            })?;
            self.pending.push(Pending { rows, ..Pending::default() });
        }
        Ok(())
    }

    /// One generation: judges everything, and writes what was granted. True if that let anything in.
    fn advance(&mut self, replica: &mut Replica, applier: &mut Applier) -> Result<bool> {
        let (mut granted, mut met) = (Vec::with_capacity(self.pending.len()), HashSet::new());
        for at in 0..self.pending.len() {
            let rows = if self.pending[at].rows.is_empty() {
                Vec::new()
            } else {
                self.with(replica, at, |round, replica, payload, sites| {
                    round.judge_chunk(replica, applier, payload, sites, at, &mut met)
                })?
            };
            granted.push(rows);
        }
        let (mut stuck, mut is_any_in) = (Stuck::default(), false);
        for (at, rows) in granted.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            is_any_in |= self.with(replica, at, |round, replica, payload, sites| {
                let count = rows.len();
                let waiting = applier.rows(replica, payload, sites, &rows)?;
                let waiting = applier.wait(replica, payload, sites, waiting)?;
                let is_any_in = waiting.len() < count;
                round.written(payload, at, &rows, waiting, &mut stuck);
                Ok(is_any_in)
            })?;
        }
        // Rows of several chunks may stand in one another's way, as when they exchange UNIQUE values.
        if stuck.places.len() > 1 {
            is_any_in |= self.try_together(replica, applier, stuck)?;
        }
        Ok(is_any_in && self.pending.iter().any(|pending| !pending.rows.is_empty()))
    }

    /// Judges the rows of a chunk that are not in. Of several changes of one row one is granted at a time.
    fn judge_chunk(
        &mut self,
        replica: &mut Replica,
        applier: &mut Applier,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        at: usize,
        met: &mut HashSet<u64>,
    ) -> Result<Vec<Position>> {
        let (rows, mut granted) = (self.pending[at].rows.clone(), Vec::new());
        let mut target: Option<(usize, Target)> = None;
        self.pending[at].reasons.clear();
        for (group_at, row) in rows {
            let group = &payload.groups()[group_at];
            if target.as_ref().is_none_or(|(known, _)| *known != group_at) {
                target = Target::of(replica, group, sites).map(|found| (group_at, found));
            }
            let Some((_, target)) = &target else { continue };
            let pk = xxh3_64(&clocks::pk(target.table.id, group.key(row)));
            if met.contains(&pk) {
                continue;
            }
            match self.consider(replica, applier, group, target, row)? {
                Opinion::Granted => {
                    met.insert(pk);
                    granted.push((group_at, row));
                }
                Opinion::Denied => {}
                Opinion::Refused(reason) => {
                    self.pending[at].reasons.insert((group_at, row), reason);
                }
            }
        }
        Ok(granted)
    }

    /// Takes what got in from what is pending, and notes why the rest of what was granted did not.
    fn written(
        &mut self,
        payload: &Payload<'_>,
        at: usize,
        granted: &[Position],
        waiting: Vec<(usize, usize, String)>,
        stuck: &mut Stuck,
    ) {
        let mut gone: HashSet<Position> = granted.iter().copied().collect();
        for (group_at, row, reason) in waiting {
            gone.remove(&(group_at, row));
            stuck.push(payload, at, (group_at, row));
            self.pending[at].reasons.insert((group_at, row), reason);
        }
        self.pending[at].rows.retain(|row| !gone.contains(row));
    }

    fn try_together(&mut self, replica: &mut Replica, applier: &mut Applier, stuck: Stuck) -> Result<bool> {
        cloudsync_core::reached!("judged: rows are tried together");
        let Stuck { rows, places } = stuck;
        let bytes = rows.finish();
        let opened = Opened::open(&bytes, &Zstd)?;
        let payload = opened.payload()?;
        let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&replica.db, *site));
        let sites = sites.collect::<Result<Vec<_>>>()?;
        let waiting = applier.rows(replica, &payload, &sites, &in_order(&payload))?;
        let waiting = applier.wait(replica, &payload, &sites, waiting)?;
        let still: HashSet<_> = waiting.iter().map(|(at, row, _)| name(&payload, (*at, *row))).collect();
        let mut gone: HashSet<(usize, Position)> = HashSet::new();
        gone.extend(places.iter().filter(|(key, _)| !still.contains(*key)).map(|(_, place)| *place));
        for (at, pending) in self.pending.iter_mut().enumerate() {
            pending.rows.retain(|row| !gone.contains(&(at, *row)));
        }
        Ok(!gone.is_empty())
    }

    /// Puts what did not get in into the quarantine: to be told, or to be judged again with the batch's next round.
    fn refuse(&mut self, replica: &mut Replica, applier: &mut Applier) -> Result<()> {
        for at in 0..self.pending.len() {
            let pending = std::mem::take(&mut self.pending[at]);
            if pending.rows.is_empty() {
                continue;
            }
            self.with(replica, at, |round, replica, payload, _| {
                for position in &pending.rows {
                    let (group, row) = (&payload.groups()[position.0], position.1);
                    let reason = pending.reasons.get(position);
                    let may_pass =
                        |reason: &String| reason.starts_with("FOREIGN KEY") || reason.starts_with("UNIQUE");
                    if round.continues && reason.is_some_and(may_pass) {
                        applier.put_aside(replica, payload, group, row, quarantine::HELD)?;
                    } else {
                        let reason = reason.map_or_else(|| NOT_ALLOWED.to_owned(), |reason| kept(reason));
                        applier.refuse(replica, group, row, &reason)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What is said of one row, on the state as it is.
    fn consider(
        &mut self,
        replica: &mut Replica,
        applier: &mut Applier,
        group: &Group<'_>,
        target: &Target,
        at: usize,
    ) -> Result<Opinion> {
        let name = &target.table.name;
        self.judge.prepare(name)?;
        let wanted = match applier.wanted(replica, group, target, at)? {
            Ok(wanted) => wanted,
            Err(reason) => return Ok(Opinion::Refused(reason)),
        };
        let row = Row::new(replica.db, group, target, group.key(at), at);
        match (self.judge.sight(name, row.packed)?, &wanted.action) {
            (Sight::Seen, Action::Keep) => {
                if wanted.is_alive {
                    let found = self.ordinals.read(&clocks::pk(target.table.id, row.packed))?;
                    self.known.extend(found.map(|(_, ordinal)| ordinal));
                }
                Ok(Opinion::Granted)
            }
            (Sight::Seen, action) => self.consider_seen(&row, action),
            (Sight::Absent, Action::Revive(columns)) => self.consider_revival(&row, columns),
            (sight, action) => self.consider_unseen(&row, action, sight, wanted.is_alive),
        }
    }

    fn consider_seen(&mut self, row: &Row<'_>, action: &Action) -> Result<Opinion> {
        let name = &row.target.table.name;
        let staged = match action {
            Action::Keep | Action::NeedWhole | Action::RefuseJump | Action::Revive(_) => {
                return Ok(Opinion::Denied);
            }
            Action::Delete | Action::Bury(_) => Ok(()),
            Action::Update(columns) => self.twins.put_changed(row, columns),
            Action::Insert | Action::Replace => self.twins.put(row),
        };
        if let Some(reason) = constraint(staged)? {
            return Ok(Opinion::Refused(reason));
        }
        let mut may = |deed| self.judge.allows(deed, name, row.packed);
        Ok(opinion(match action {
            Action::Delete | Action::Bury(_) => may(Deed::Delete)?,
            // Whoever may change the row so may also write it anew; and so may who may delete it, and insert the new one.
            Action::Replace => may(Deed::Update)? || (may(Deed::Delete)? && may(Deed::Insert)?),
            _ => may(Deed::Update)?,
        }))
    }

    /// A row that is not there, or is hidden: the same is worked out, and only a row that is not there can be granted.
    fn consider_unseen(
        &mut self,
        row: &Row<'_>,
        action: &Action,
        sight: Sight,
        is_alive: bool,
    ) -> Result<Opinion> {
        let name = &row.target.table.name;
        let staged = if is_alive { self.twins.put(row) } else { self.twins.clear(&row.target.table) };
        let reason = constraint(staged)?;
        if sight == Sight::Absent {
            // Stands for looking at the hidden row.
            self.judge.sees_twin(name)?;
        }
        let may = self.judge.allows(Deed::Insert, name, row.packed)?;
        if let (Some(reason), true) = (reason, is_alive && row.group.whole()) {
            return Ok(Opinion::Refused(reason));
        }
        Ok(opinion(sight == Sight::Absent && *action == Action::Insert && may))
    }

    /// A dead row that would come back with the values that are kept of it: they must be the sender's to see.
    fn consider_revival(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<Opinion> {
        let name = &row.target.table.name;
        let none = ColumnSet::new();
        if constraint(self.twins.put_buried(row, &none))?.is_some() || !self.judge.sees_twin(name)? {
            return Ok(Opinion::Denied);
        }
        match constraint(self.twins.put_buried(row, columns))? {
            Some(reason) => Ok(Opinion::Refused(reason)),
            None => Ok(opinion(self.judge.allows(Deed::Insert, name, row.packed)?)),
        }
    }
}

const fn opinion(granted: bool) -> Opinion {
    if granted { Opinion::Granted } else { Opinion::Denied }
}

/// The text of a constraint that did not let a row into its twin.
fn constraint(staged: Result<(), Refused>) -> Result<Option<String>> {
    match staged {
        Ok(()) => Ok(None),
        Err(Refused::Constraint(reason)) => Ok(Some(reason)),
        Err(Refused::Part) => Ok(Some(NOT_ALLOWED.to_owned())),
        Err(Refused::Error(error)) => Err(error),
    }
}

/// The reason as it is kept until its sender is told: the true one stands behind what is told, for whoever counts.
fn kept(reason: &str) -> String {
    let told = told(reason);
    if told == reason { told.to_owned() } else { format!("{told} ({reason})") }
}

/// The reason as its sender is told it: what other rows have to do with it is not told.
pub(crate) fn told(reason: &str) -> &str {
    let is_of_others = ["UNIQUE constraint failed", "FOREIGN KEY", WAITS_FOR_REST];
    if is_of_others.iter().any(|text| reason.contains(text)) { NOT_ALLOWED } else { reason }
}
