//! Tables that lost their triggers: dropped and made again, or rebuilt, outside of our bracket.
//!
//! What was written meanwhile is found by comparing. Rows that came count as inserted, with the earliest time there
//! is. Rows that went are fetched again instead of being deleted for everybody. Clocks hold no values, so that changed
//! values are found only beside those of others: the table is in *doubt* until everything was fetched once more, and
//! where clocks are equal and values are not, the value here is an edit of this replica.

use crate::capture;
use crate::clocks::{self, pk_range};
use crate::error::Result;
use crate::fold::key_column;
use crate::snapshot::Scan;
use crate::storage;
use crate::table::{Cell, Table};
use crate::value::from_sqlite;
use cloudsync_core::clock::{ColumnNumber, ColumnSet, RowClock};
use cloudsync_core::value::ValueRef;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::{HashMap, HashSet};

/// Begins the names of the settings that say which tables are in doubt; the id follows.
const DOUBT: &str = "doubtful ";
const DOUBT_RANGE: [&str; 2] = ["doubtful ", "doubtful!"];
/// The download that will end the doubt has not begun.
const UNFETCHED: i64 = 1;
/// It has.
const COMPARED: i64 = 2;

/// Looks a table through that has lost its triggers; `layout` is what the bits of its present layout mean.
pub(crate) fn look_through(db: &Connection, table: &Table, layout: &[ColumnNumber]) -> Result<()> {
    cloudsync_core::reached!("rebuilt: a table lost its triggers");
    // A note of the layout before makes the fold look at newer columns, too.
    capture::note_all(db, &table.definition, table.layout, "0", 0, "")?;
    note_filled(db, table, layout)?;
    forget_vanished(db, table)?;
    if select_range(db, table, "SELECT 1 FROM main.cloudsync_clocks")?.step()? {
        storage::set(db, &format!("{DOUBT}{}", table.id), Value::Integer(UNFETCHED))?;
        fetch_again(db)?;
    }
    Ok(())
}

/// Notes the cells that have no clock and something else than their default. No value of others will ever come under
/// their clocks, so they must be found here.
fn note_filled(db: &Connection, table: &Table, layout: &[ColumnNumber]) -> Result<()> {
    let tests: Vec<_> = table.cells.iter().map(|cell| cell.column.differs_from_default()).collect();
    let mut clocks = clocks::ClockStore::open(db)?;
    let mut noting = capture::Noting::open(db, &table.definition, table.layout)?;
    let mut scan = Scan::open(db, table, &tests)?;
    while let Some(pk) = scan.next(table)? {
        let Some(clock) = clocks.read(&pk)?.filter(RowClock::is_alive) else { continue };
        let is_filled = |(i, cell): &(usize, &Cell)| {
            clock.cell(cell.number).is_none() && scan.value(*i) == ValueRef::Integer(1)
        };
        let filled: ColumnSet =
            table.cells.iter().enumerate().filter(is_filled).map(|(_, cell)| cell.number).collect();
        if !filled.is_empty() {
            noting.write(0, capture::mask_of(layout, &filled).value(), clocks::split_pk(&pk)?.1)?;
        }
    }
    Ok(())
}

/// The tables that are in doubt.
pub(crate) fn doubtful_tables(db: &Connection) -> Result<HashSet<i64>> {
    let mut tables = HashSet::new();
    let sql = "SELECT substr(key, ?3) FROM main.cloudsync_settings WHERE key >= ?1 AND key < ?2";
    let [first, beyond] = DOUBT_RANGE.map(Value::from);
    let from = Value::Integer(DOUBT.len() as i64 + 1);
    db.prepare(sql)?.for_each(&[first, beyond, from], |row| -> Result<()> {
        tables.extend(row.column(0).as_str().and_then(|id| id.parse::<i64>().ok()));
        Ok(())
    })?;
    Ok(tables)
}

/// Everything is fetched from now on: when it is here, nothing is in doubt any more.
pub(crate) fn begin_comparing(db: &Connection) -> Result<()> {
    let sql = "UPDATE main.cloudsync_settings SET value = ?3 WHERE key >= ?1 AND key < ?2";
    let [first, beyond] = DOUBT_RANGE.map(Value::from);
    Ok(db.prepare(sql)?.run(&[first, beyond, Value::Integer(COMPARED)])?)
}

/// A download is complete.
pub(crate) fn end_comparing(db: &Connection) -> Result<()> {
    let sql = "DELETE FROM main.cloudsync_settings WHERE key >= ?1 AND key < ?2 AND value = ?3";
    let [first, beyond] = DOUBT_RANGE.map(Value::from);
    Ok(db.prepare(sql)?.run(&[first, beyond, Value::Integer(COMPARED)])?)
}

/// Forgets the rows that went while there were no triggers: the table may have been dropped and made again, which
/// must not delete its rows for everybody. They come again. Those that were deleted before are for the fold to delete.
pub(crate) fn forget_vanished(db: &Connection, table: &Table) -> Result<()> {
    let mut vanished = vanished(db, table)?;
    if !vanished.is_empty() {
        let deleted = noted_deletions(db, table)?;
        vanished.retain(|(pk, _)| !deleted.contains(pk));
    }
    if vanished.is_empty() {
        return Ok(());
    }
    let mut delete = db.prepare("DELETE FROM main.cloudsync_clocks WHERE pk = ?1")?;
    vanished.iter().try_for_each(|(pk, _)| delete.run(&[Value::Blob(pk)]))?;
    fetch_again(db)
}

/// The rows of which the log says last that they were deleted, or left their filter, by their keys in the tree of clocks. A
/// deletion in a filtered table is noted as a look at the row, as a REPLACE that may not have happened is: what such notes tell of
/// is rather fetched again than deleted for everybody.
fn noted_deletions(db: &Connection, table: &Table) -> Result<HashSet<Vec<u8>>> {
    // language=SQLite
    let sql = "SELECT rowid, * FROM main.cloudsync_log WHERE layout IN \
               (SELECT id FROM main.cloudsync_layouts WHERE table_id = ?1) ORDER BY rowid";
    let mut select = db.prepare(sql)?;
    select.bind(1, Value::Integer(table.id))?;
    // Whether the first note says that the row was outside of its filter, and whether the last one says that it went.
    let mut rows: HashMap<Vec<u8>, (bool, bool)> = HashMap::new();
    let mut note = |pk: Option<Vec<u8>>, outside: bool, gone: bool| {
        if let Some(pk) = pk {
            rows.entry(pk).or_insert((outside, gone)).1 = gone;
        }
    };
    while select.step()? {
        let key = |old: usize| {
            let mut key = Vec::new();
            let value = |part| from_sqlite(select.column(key_column(part) + old));
            table.pack_key(&mut key, value).ok().map(|()| clocks::pk(table.id, &key))
        };
        let what = select.column_i64(3);
        if matches!(what, capture::NOTE_REKEY | capture::NOTE_LEAVE_REKEY) {
            note(key(1), false, true);
        }
        let gone = matches!(what, capture::NOTE_DELETE | capture::NOTE_LEAVE);
        note(key(0), what == capture::NOTE_LOCAL, gone);
    }
    let deleted = rows.into_iter().filter(|(_, (outside, gone))| *gone && !outside);
    Ok(deleted.map(|(pk, _)| pk).collect())
}

/// The rows that have a living clock and do not exist: their keys in the tree of clocks, and their clocks.
pub(crate) fn vanished(db: &Connection, table: &Table) -> Result<Vec<(Vec<u8>, RowClock)>> {
    let mut vanished = Vec::new();
    let mut exists = exists_statement(db, table)?;
    let mut select = select_range(db, table, "SELECT pk, clock FROM main.cloudsync_clocks")?;
    while select.step()? {
        let (Some(pk), Some(clock)) = (select.column(0).as_blob(), select.column(1).as_blob()) else {
            continue;
        };
        let clock = RowClock::decode(clock)?;
        if clock.is_alive() && !is_there(&mut exists, pk)? {
            vanished.push((pk.to_vec(), clock));
        }
    }
    Ok(vanished)
}

/// Asks for everything once more. A server has nobody to fetch from: it asks its devices.
pub(crate) fn fetch_again(db: &Connection) -> Result<()> {
    let is_server = storage::is_set(db, clocks::NEXT_ORDINAL)?;
    storage::set(db, if is_server { "lost_rows" } else { "refetch" }, Value::Integer(1))
}

/// Notes for a look every row that has a clock: some may have been thrown out by REPLACE, unseen.
pub(crate) fn note_vanished(db: &Connection, table: &Table, layout: i64) -> Result<()> {
    if table.filter.is_some() {
        // Rows may be gone that were deleted here only.
        return Ok(());
    }
    let mut note = capture::Noting::open(db, &table.definition, layout)?;
    let mut select = select_range(db, table, "SELECT pk FROM main.cloudsync_clocks")?;
    while select.step()? {
        let Some(pk) = select.column(0).as_blob() else { continue };
        let (_, key) = clocks::split_pk(pk)?;
        note.write(0, Value::Integer(capture::NOTE_LOOK), key)?;
    }
    Ok(())
}

/// Notes all rows that came or went unseen. Of those that changed nothing tells.
pub(crate) fn note_strangers(db: &Connection, table: &Table, layout: i64) -> Result<()> {
    capture::note_all(db, &table.definition, layout, "0", 0, "")?;
    note_vanished(db, table, layout)
}

/// A statement over the rows of one table, by their keys in the tree.
pub(crate) fn select_range(db: &Connection, table: &Table, select: &str) -> Result<Statement> {
    let (first, beyond) = pk_range(table.id);
    let mut select = db.prepare(&format!("{select} WHERE pk >= ?1 AND pk < ?2"))?;
    select.bind(1, Value::Blob(&first))?;
    select.bind(2, Value::Blob(&beyond))?;
    Ok(select)
}

/// A statement for [`is_there`].
pub(crate) fn exists_statement(db: &Connection, table: &Table) -> Result<Statement> {
    Ok(db.prepare(&format!("SELECT 1 FROM {} WHERE {}", table.quoted(), table.key_condition(1)))?)
}

/// Whether the row of a key in the tree exists.
pub(crate) fn is_there(exists: &mut Statement, pk: &[u8]) -> Result<bool> {
    let (_, key) = clocks::split_pk(pk)?;
    clocks::bind_key(exists, 1, key)?;
    let found = exists.step()?;
    exists.reset()?;
    Ok(found)
}
