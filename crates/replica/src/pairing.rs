//! Which column of a table became which while it was altered.
//!
//! Columns of one name are the same. A name that is gone and one that is new are a renamed column if their type and
//! collation are the same, and
//! - the table was altered in place, and the new one stands where no added column can stand: before others that were
//!   there; or
//! - no row that is still there has another value in it than it had in the old one.
//!
//! Anything else is a dropped column and an added one; what looks like a bit of both is refused.

use crate::error::{Error, Result};
use crate::snapshot::{Scan, Snapshot};
use crate::storage::quote_identifier;
use crate::table::Table;
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::schema::{Affinity, ColumnSchema, TableSchema};
use cloudsync_sqlite_ffi::Connection;

/// A column before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Its place in the description from before.
    pub(crate) before: usize,
    /// Its name now.
    pub(crate) after: String,
}

/// A pair of columns that may be one, and what the rows say to that.
struct Candidate {
    before: usize,
    after: usize,
    /// Values that are equal, and not NULL.
    equal: u64,
    different: u64,
}

/// Pairs the columns of a table with those that it had. `in_place`: it was not made again.
pub(crate) fn pair(
    db: &Connection,
    table: &Table,
    before: &TableSchema,
    in_place: bool,
) -> Result<Vec<Pair>> {
    let after = table.schema().columns;
    let mut found = pair_keys(table, &before.columns, &after)?;
    for (i, column) in before.columns.iter().enumerate().filter(|(_, column)| column.key_place == 0) {
        let same = |other: &ColumnSchema| other.key_place == 0 && is_named(other, &column.name);
        found.extend(after.iter().position(same).map(|j| (i, j)));
    }
    let mut gone: Vec<_> = (0..before.columns.len()).filter(|i| found.iter().all(|(b, _)| b != i)).collect();
    let mut fresh: Vec<_> = (0..after.len()).filter(|j| found.iter().all(|(_, a)| a != j)).collect();
    if in_place && !pair_places(&mut found, &mut gone, &mut fresh, before.columns.len()) {
        return Err(Error::usage(format!(
            "a column of table \"{}\" got the name that another one had in the same bracket, so that they cannot be told apart: use two brackets",
            table.name
        )));
    }
    let mut candidates = Vec::new();
    for (before_at, after_at) in gone.iter().flat_map(|i| fresh.iter().map(move |j| (*i, *j))) {
        if is_alike(&before.columns[before_at], &after[after_at]) {
            candidates.push(Candidate { before: before_at, after: after_at, equal: 0, different: 0 });
        }
    }
    count(db, table, &after, &mut candidates)?;
    found.extend(choose(table, &before.columns, &after, &candidates, &found)?);
    let named = |(before, after_at): (usize, usize)| Pair { before, after: after[after_at].name.clone() };
    Ok(found.into_iter().map(named).collect())
}

fn is_named(column: &ColumnSchema, name: &str) -> bool {
    column.name.eq_ignore_ascii_case(name)
}

fn is_alike(a: &ColumnSchema, b: &ColumnSchema) -> bool {
    a.declared_type.eq_ignore_ascii_case(&b.declared_type) && a.collation.eq_ignore_ascii_case(&b.collation)
}

/// Key columns are told by their places in the key.
fn pair_keys(table: &Table, before: &[ColumnSchema], after: &[ColumnSchema]) -> Result<Vec<(usize, usize)>> {
    let key = |columns: &[ColumnSchema]| {
        let mut key: Vec<_> = (0..columns.len()).filter(|i| columns[*i].key_place > 0).collect();
        key.sort_by_key(|i| columns[*i].key_place);
        key
    };
    let (old, new) = (key(before), key(after));
    let same = |(i, j): (&usize, &usize)| {
        let (a, b) = (&before[*i], &after[*j]);
        let elsewhere = before.iter().any(|other| is_named(other, &b.name)) && !is_named(a, &b.name);
        Affinity::of(&a.declared_type) == Affinity::of(&b.declared_type)
            && a.collation.eq_ignore_ascii_case(&b.collation)
            && !elsewhere
    };
    if old.len() != new.len() || !old.iter().zip(&new).all(same) {
        let names = |columns: &[ColumnSchema], key: &[usize]| {
            key.iter().map(|i| columns[*i].definition()).collect::<Vec<_>>().join(", ")
        };
        return Err(Error::usage(format!(
            "the primary key of table \"{0}\" became another one (before: {1}; now: {2}), so that its rows are other rows: put it back, or call cloudsync_cleanup('{0}') and cloudsync_init('{0}')",
            table.name,
            names(before, &old),
            names(after, &new),
        )));
    }
    Ok(old.into_iter().zip(new).collect())
}

/// Pairs columns that were renamed before others that stayed: no column can have been added there. Gives false if one
/// was all the same, so that what seems to have stayed did not.
fn pair_places(
    found: &mut Vec<(usize, usize)>,
    gone: &mut Vec<usize>,
    fresh: &mut Vec<usize>,
    columns_before: usize,
) -> bool {
    // The nearest column behind that stayed; after the last one there is none.
    let next_before = |i: usize| (i..columns_before).find_map(|i| found.iter().position(|(b, _)| *b == i));
    let next_after = |j: usize| {
        let behind = found.iter().enumerate().filter(|(_, (_, a))| *a > j);
        behind.min_by_key(|(_, (_, a))| *a).map(|(at, _)| at)
    };
    let mut paired = Vec::new();
    for stop in 0..found.len() {
        let run = |all: &[usize], next: &dyn Fn(usize) -> Option<usize>| -> Vec<usize> {
            all.iter().copied().filter(|at| next(*at) == Some(stop)).collect()
        };
        let (old, new) = (run(gone, &next_before), run(fresh, &next_after));
        if old.len() < new.len() {
            return false;
        }
        if old.len() == new.len() {
            paired.extend(old.into_iter().zip(new));
        }
    }
    gone.retain(|i| paired.iter().all(|(b, _)| b != i));
    fresh.retain(|j| paired.iter().all(|(_, a)| a != j));
    found.append(&mut paired);
    true
}

/// Counts what the rows that are still there say of each candidate.
fn count(db: &Connection, table: &Table, after: &[ColumnSchema], candidates: &mut [Candidate]) -> Result<()> {
    if candidates.is_empty() {
        return Ok(());
    }
    let values: Vec<_> = candidates.iter().map(|it| quote_identifier(&after[it.after].name)).collect();
    let mut scan = Scan::open(db, table, &values)?;
    let mut snapshot = Snapshot::open(db)?;
    while let Some(pk) = scan.next(table)? {
        let Some(hashes) = snapshot.read(&pk)? else { continue };
        for (i, candidate) in candidates.iter_mut().enumerate() {
            let value = scan.value(i);
            match hashes.holds(candidate.before, value) {
                true => candidate.equal += u64::from(value != ValueRef::Null),
                false => candidate.different += 1,
            }
        }
    }
    Ok(())
}

fn choose(
    table: &Table,
    before: &[ColumnSchema],
    after: &[ColumnSchema],
    candidates: &[Candidate],
    found: &[(usize, usize)],
) -> Result<Vec<(usize, usize)>> {
    let doubt = |candidate: &Candidate| {
        Error::usage(format!(
            "it is in doubt whether column \"{}\" of table \"{}\" is \"{}\" under another name, or a new one: {} of its values are the same. Rename in one bracket, and change or drop in another",
            after[candidate.after].name, table.name, before[candidate.before].name, candidate.equal
        ))
    };
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    let certain = |it: &&Candidate| it.different == 0 && it.equal > 0;
    for candidate in candidates.iter().filter(certain) {
        if chosen.iter().any(|(b, a)| *b == candidate.before || *a == candidate.after) {
            return Err(doubt(candidate));
        }
        chosen.push((candidate.before, candidate.after));
    }
    for candidate in candidates {
        if chosen.iter().any(|(b, a)| *b == candidate.before || *a == candidate.after) {
            continue;
        }
        if candidate.different > 0 && candidate.equal > 0 {
            return Err(doubt(candidate));
        }
        // Without any value nothing is at stake, and a column in the same place is the likelier guess.
        if candidate.different == 0
            && place(before.len(), candidate.before, found.iter().map(|it| it.0))
                == place(after.len(), candidate.after, found.iter().map(|it| it.1))
        {
            chosen.push((candidate.before, candidate.after));
        }
    }
    Ok(chosen)
}

/// How many columns that stayed stand before one, and how many that did not between it and the last of them.
fn place(columns: usize, at: usize, stayed: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut is_stayed = vec![false; columns];
    stayed.for_each(|i| is_stayed[i] = true);
    let before = is_stayed[..at].iter().filter(|it| **it).count();
    let run = is_stayed[..at].iter().rev().take_while(|it| !**it).count();
    (before, run)
}
