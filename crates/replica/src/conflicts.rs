//! The journal of conflicts: values that were written here and lost against a change whose author had not seen them.
//!
//! That is certain of what had not been sent, or had been sent in the very round whose answer brings the change; on the
//! server, of what was written there after the cursor at which the change was made. Of what was sent before, the server
//! says it, by marking rows as concurrent. A payload by hand says nothing, so there only unsent values count.
//!
//! The question costs nothing where no cell of ours is replaced: the row's stored clock names its writers.

use crate::apply::Source;
use crate::changes::{Mask, Origin, entry_before, read_row};
use crate::clocks;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::sites::Sites;
use crate::storage;
use crate::value::to_sqlite;
use crate::write::{Row, Writer};
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::Action;
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::cmp::Ordering;
use std::collections::HashMap;

/// Values that the journal holds at most; the oldest go.
pub const CONFLICTS_MAX: u64 = 10_000;
/// How long the journal holds a value, in milliseconds: 90 days.
pub const CONFLICT_AGE_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1_000;
/// Within this time, in milliseconds, the journal is filled once; a sync is many applies.
const FLOOD_MS: u64 = 60_000;
/// The setting that counts values which the journal had no room for any more.
pub(crate) const CONFLICTS_DROPPED: &str = "conflicts_dropped";
/// Rows not seen by others that are kept in memory. With more of them, every value of ours counts as not seen.
const UNSEEN_ROWS_MAX: usize = 200_000;

// language=SQLite
const INSERT: &str = "INSERT INTO main.cloudsync_conflicts(tbl, pk, col_name, col_value, time, site_id, at, kind, winner_time, winner_site_id) \
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Another one took its place.
    Overwritten,
    /// Its row went.
    Deleted,
    /// The row was damaged, and the server's took its place.
    Repaired,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::Deleted => "deleted",
            Self::Repaired => "repaired",
        }
    }
}

/// A value that is about to be lost; without a column, a row that has none.
struct Lost {
    column: Option<(ColumnNumber, Owned)>,
    /// The clock of its cell; `None` for a value that was written here and never stamped.
    loser: Option<Clock>,
    winner: Clock,
}

/// The values that one row is about to lose.
pub(crate) struct Losses {
    kind: Kind,
    lost: Vec<Lost>,
}

/// Where the own writes begin that the authors of a payload's changes have not seen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum UnseenFrom {
    /// Behind this entry, and behind so many keys of the next one.
    Entry(i64, u64),
    /// Behind this version.
    Version(u64),
}

impl UnseenFrom {
    /// The last entry before it, and keys of the next one that are to be skipped.
    pub(crate) fn entry(self, db: &Connection) -> Result<(i64, u64)> {
        match self {
            Self::Entry(after, skip) => Ok((after, skip)),
            Self::Version(version) => Ok((entry_before(db, version)?, 0)),
        }
    }
}

impl Replica {
    /// Where the own writes begin that the authors of changes from `source` have not seen.
    pub(crate) fn unseen_from(&self, source: Source) -> Result<UnseenFrom> {
        match (source.origin, self.unseen_from) {
            (Origin::Site(_), _) => Ok(UnseenFrom::Version(source.base)),
            (Origin::Server, Some(from)) => Ok(from),
            _ => self.first_unsent(),
        }
    }

    /// The number of the last value in the journal of conflicts, 0 if there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn last_conflict(&self) -> Result<i64> {
        Ok(self.db.query_i64("SELECT max(id) FROM main.cloudsync_conflicts", &[])?.unwrap_or(0))
    }

    /// How many values the journal of conflicts has after that number.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn conflicts_after(&self, number: i64) -> Result<u64> {
        let sql = "SELECT count(*) FROM main.cloudsync_conflicts WHERE id > ?1";
        Ok(self.db.query_i64(sql, &[Value::Integer(number)])?.unwrap_or(0) as u64)
    }
}

/// What was written to a row that nobody has seen, and the first version in which it was.
pub(crate) struct Unseen {
    pub(crate) mask: Mask,
    pub(crate) version: u64,
}

/// Finds and notes what an apply makes us lose.
pub(crate) struct Conflicts {
    db: Connection,
    own: SiteOrdinal,
    from: UnseenFrom,
    /// Own writes that nobody has seen, read when first asked for; `None` inside if there are too many.
    unseen: Option<Option<HashMap<Vec<u8>, Unseen>>>,
    insert: Option<Statement>,
    /// Set when the journal grew.
    grew: bool,
    /// Values that may still be noted, once that was asked, and about how many there was no room for.
    room: Option<u64>,
    dropped: u64,
    now_ms: u64,
}

impl Conflicts {
    pub(crate) fn new(db: Connection, own: SiteOrdinal, from: UnseenFrom, now_ms: u64) -> Self {
        Self { db, own, from, unseen: None, insert: None, grew: false, room: None, dropped: 0, now_ms }
    }

    /// What the row loses by `action`; `None` if nothing of ours that the change's author had not seen. In a table
    /// `in_doubt` any value may be one that was written here unseen.
    pub(crate) fn losses(
        &mut self,
        row: &Row<'_>,
        stored: &RowClock,
        incoming: &RowClock,
        action: &Action,
        writer: &mut Writer,
        in_doubt: bool,
    ) -> Result<Option<Losses>> {
        if in_doubt && stored.is_alive() {
            if !self.has_room(row.target.table.cells.len())? {
                return Ok(None);
            }
            let Some(values) = writer.cells(row)? else { return Ok(None) };
            return Ok(unstamped(row, incoming, action, &values));
        }
        if !self.is_concerned(stored, action) {
            return Ok(None);
        }
        let goes = matches!(action, Action::Delete | Action::Bury(_));
        let is_own = |clock: Clock| clock.site == self.own;
        let winner = |column| if goes { None } else { incoming.cell(column) }.unwrap_or(incoming.row());
        // A later value of our own, as after a restore, is no conflict.
        let own =
            |column: &ColumnNumber| stored.cell(*column).is_some_and(is_own) && !is_own(winner(*column));
        let own: ColumnSet = match action {
            Action::Update(columns) => columns.iter().filter(own).collect(),
            _ => stored.columns.iter().filter(own).collect(),
        };
        let own_row = stored.columns.is_empty() && is_own(stored.common) && !is_own(incoming.row());
        if own.is_empty() && !own_row {
            return Ok(None);
        }
        if !self.has_room(own.len())? {
            return Ok(None);
        }
        let unseen = match self.unseen(row)? {
            None => return Ok(None),
            Some(mask) => match mask.columns() {
                None => own,
                Some(columns) => own.iter().filter(|column| columns.contains(*column)).collect(),
            },
        };
        if unseen.is_empty() && !own_row {
            return Ok(None);
        }
        let Some(values) = writer.cells(row)? else { return Ok(None) };
        let losers = |column| Some(stored.cell(column).unwrap_or(stored.common));
        let losses = if goes {
            removed(row, incoming, losers, &values)
        } else {
            replaced(row, incoming, losers, &unseen, &values)
        };
        Ok(losses)
    }

    /// What a damaged row loses by taking over the server's; `None` if there is nothing that is not the same, or no room.
    pub(crate) fn repaired(
        &mut self,
        row: &Row<'_>,
        stored: Option<&RowClock>,
        theirs: &RowClock,
        values: &[Owned],
    ) -> Result<Option<Losses>> {
        if !self.has_room(values.len())? {
            return Ok(None);
        }
        let loser = |column| stored.and_then(|stored| stored.cell(column));
        let losses = if theirs.is_alive() {
            replaced(row, theirs, loser, &theirs.columns, values)
        } else {
            removed(row, theirs, loser, values)
        };
        Ok(losses.map(|losses| Losses { kind: Kind::Repaired, ..losses }))
    }

    /// Whether the row may lose anything that was written here.
    fn is_concerned(&self, stored: &RowClock, action: &Action) -> bool {
        stored.is_alive()
            && matches!(action, Action::Update(_) | Action::Replace | Action::Delete | Action::Bury(_))
            && (stored.common.site == self.own
                || stored.exceptions.iter().any(|(_, clock)| clock.site == self.own))
    }

    /// What of a row is unsent, or not answered yet; `None` if nothing is, or too much to tell.
    pub(crate) fn unsent(&mut self, pk: &[u8]) -> Result<Option<&Unseen>> {
        Ok(self.read_unseen()?.and_then(|rows| rows.get(pk)))
    }

    /// Own writes that nobody has seen; `None` if there are too many.
    fn read_unseen(&mut self) -> Result<Option<&HashMap<Vec<u8>, Unseen>>> {
        if self.unseen.is_none() {
            self.unseen = Some(read_unseen(&self.db, self.from)?);
        }
        Ok(self.unseen.as_ref().and_then(Option::as_ref))
    }

    /// The part of a row that the change's author had not seen; `None` if there is none.
    fn unseen(&mut self, row: &Row<'_>) -> Result<Option<Mask>> {
        if row.group.concurrent() {
            return Ok(Some(Mask::Whole));
        }
        let pk = clocks::pk(row.target.table.id, row.packed);
        Ok(match self.read_unseen()? {
            Some(rows) => rows.get(&pk).map(|unseen| unseen.mask.clone()),
            None => Some(Mask::Whole),
        })
    }

    /// False when applies of the last minute have filled the journal: more would only be written to go at once.
    fn has_room(&mut self, values: usize) -> Result<bool> {
        let room = match self.room {
            Some(room) => room,
            None => *self.room.insert(if self.is_flooded()? { 0 } else { CONFLICTS_MAX }),
        };
        if room == 0 {
            self.dropped += values.max(1) as u64;
        }
        Ok(room > 0)
    }

    fn is_flooded(&self) -> Result<bool> {
        let sql = "SELECT at FROM main.cloudsync_conflicts ORDER BY id DESC LIMIT 1 OFFSET ?1";
        let at = self.db.query_i64(sql, &[Value::Integer(CONFLICTS_MAX as i64 - 1)])?;
        let since = self.now_ms.saturating_sub(FLOOD_MS) as i64;
        Ok(at.is_some_and(|at| (since..=self.now_ms as i64).contains(&at)))
    }

    /// Writes into the journal what a row has lost.
    pub(crate) fn note(&mut self, row: &Row<'_>, losses: &Losses, sites: &Sites, now_ms: u64) -> Result<()> {
        cloudsync_core::reached!("conflicts: a value that lost is kept");
        let insert = match &mut self.insert {
            Some(insert) => insert,
            None => self.insert.insert(self.db.prepare(INSERT)?),
        };
        let table = &row.target.table;
        for Lost { column, loser, winner } in &losses.lost {
            let column = match column {
                Some((number, value)) => table.cell(*number).map(|cell| (cell.column.name(), value.borrow())),
                None => None,
            };
            let loser = loser.unwrap_or(Clock::new(Time(now_ms), self.own));
            insert.run(&[
                Value::from(table.name.as_str()),
                Value::Blob(row.packed),
                column.map_or(Value::Null, |(name, _)| Value::from(name)),
                column.map_or(Value::Null, |(_, value)| to_sqlite(value)),
                Value::Integer(loser.time.0 as i64),
                Value::Blob(&sites.id(loser.site)?.0),
                Value::Integer(now_ms as i64),
                Value::from(losses.kind.as_str()),
                Value::Integer(winner.time.0 as i64),
                Value::Blob(&sites.id(winner.site)?.0),
            ])?;
        }
        self.room = self.room.map(|room| room.saturating_sub(losses.lost.len() as u64));
        self.grew = true;
        Ok(())
    }

    /// Keeps the journal in its bounds.
    pub(crate) fn finish(self, now_ms: u64) -> Result<()> {
        let oldest = self.db.query_i64("SELECT at FROM main.cloudsync_conflicts ORDER BY id LIMIT 1", &[])?;
        let since = now_ms.saturating_sub(CONFLICT_AGE_MS_MAX);
        if !self.grew && oldest.is_none_or(|oldest| oldest >= since as i64) {
            return Ok(());
        }
        let dropped = storage::trim_journal(&self.db, "cloudsync_conflicts", CONFLICTS_MAX, since)?;
        storage::count_up(&self.db, CONFLICTS_DROPPED, dropped + self.dropped)
    }
}

/// The cells of a site's upload that lose here to another site's. The list of changes tells of them, too: whether they had
/// been seen is asked when the winners are sent to that site.
pub(crate) fn outdone(
    site: SiteOrdinal,
    stored: &RowClock,
    incoming: &RowClock,
    sites: &[SiteId],
) -> Option<Mask> {
    let of_site = |column: &ColumnNumber| incoming.cell(*column).is_some_and(|clock| clock.site == site);
    if incoming.life < stored.life && incoming.is_alive() {
        if incoming.columns.is_empty() {
            return (incoming.row().site == site).then_some(Mask::Whole);
        }
        let lost: ColumnSet = incoming.columns.iter().filter(of_site).collect();
        return (!lost.is_empty()).then_some(Mask::Columns(lost));
    }
    if incoming.life != stored.life {
        return None;
    }
    let loses = |column: &ColumnNumber| {
        let (new, old) = (incoming.cell(*column), stored.cell(*column));
        new.zip(old).is_some_and(|(new, old)| old.site != site && new.order(&old, sites) == Ordering::Less)
    };
    let lost: ColumnSet = incoming.columns.iter().filter(of_site).filter(loses).collect();
    (!lost.is_empty()).then_some(Mask::Columns(lost))
}

/// What a row loses whose values bear no stamp, because they were written unseen or outside of a filter.
pub(crate) fn unstamped(
    row: &Row<'_>,
    incoming: &RowClock,
    action: &Action,
    values: &[Owned],
) -> Option<Losses> {
    match action {
        Action::Delete | Action::Bury(_) => removed(row, incoming, |_| None, values),
        Action::Update(columns) => replaced(row, incoming, |_| None, columns, values),
        Action::Insert | Action::Replace => {
            let all = row.target.table.cells.iter().map(|cell| cell.number).collect();
            replaced(row, incoming, |_| None, &all, values)
        }
        _ => None,
    }
}

/// The cells that another value replaces, of those that nobody had seen. Equal bytes are no conflict.
fn replaced(
    row: &Row<'_>,
    incoming: &RowClock,
    loser: impl Fn(ColumnNumber) -> Option<Clock>,
    unseen: &ColumnSet,
    values: &[Owned],
) -> Option<Losses> {
    let cells = row.target.table.cells.iter().zip(values);
    let lost: Vec<_> = cells
        .filter(|(cell, old)| unseen.contains(cell.number) && row.differs(cell.number, old))
        .map(|(cell, old)| Lost {
            loser: loser(cell.number),
            winner: incoming.cell(cell.number).unwrap_or(incoming.common),
            column: Some((cell.number, old.clone())),
        })
        .collect();
    (!lost.is_empty()).then_some(Losses { kind: Kind::Overwritten, lost })
}

/// All cells of a row that goes, also those of others: enough to put it back by hand.
fn removed(
    row: &Row<'_>,
    incoming: &RowClock,
    loser: impl Fn(ColumnNumber) -> Option<Clock>,
    values: &[Owned],
) -> Option<Losses> {
    let winner = incoming.row();
    let cells = row.target.table.cells.iter().zip(values);
    let mut lost: Vec<_> = cells
        .map(|(cell, old)| Lost {
            loser: loser(cell.number),
            winner,
            column: Some((cell.number, old.clone())),
        })
        .collect();
    if lost.is_empty() {
        lost.push(Lost { column: None, loser: loser(ColumnNumber(0)), winner });
    }
    Some(Losses { kind: Kind::Deleted, lost })
}

/// The rows of the app's own writes from there on; `None` if there are too many.
fn read_unseen(db: &Connection, from: UnseenFrom) -> Result<Option<HashMap<Vec<u8>, Unseen>>> {
    // language=SQLite
    let sql = "SELECT e.id, e.table_id, e.keys, e.version FROM main.cloudsync_entries AS e \
               JOIN main.cloudsync_versions AS v ON v.version = e.version WHERE e.id > ?1 AND v.origin = ?2 ORDER BY e.id";
    let (after, sent) = from.entry(db)?;
    let mut select = db.prepare(sql)?;
    select.bind(1, Value::Integer(after))?;
    select.bind(2, Value::Integer(Origin::Local.code()))?;
    let mut rows: HashMap<Vec<u8>, Unseen> = HashMap::new();
    while select.step()? {
        let keys = select.column(2).as_blob().ok_or_else(|| Error::corrupt("cloudsync_entries"))?;
        let mut reader = Reader::new(keys);
        // Only the entry that follows was sent in part.
        let mut skip = if select.column_i64(0) == after + 1 { sent } else { 0 };
        while !reader.is_empty() {
            let (key, mask) = read_row(&mut reader)?;
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if !mask.is_edit() {
                continue;
            }
            rows.entry(clocks::pk(select.column_i64(1), key))
                .and_modify(|known| known.mask.union_with(&mask))
                .or_insert(Unseen { mask, version: select.column_i64(3) as u64 });
        }
        if rows.len() > UNSEEN_ROWS_MAX {
            return Ok(None);
        }
    }
    Ok(Some(rows))
}
