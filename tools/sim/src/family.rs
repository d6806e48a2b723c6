//! Tables whose rows belong together: parents and children by foreign keys, which some devices enforce and others do not.

use crate::host;
use crate::oracle::{Rows, Written};
use crate::random::Dice;
use crate::workload::{self, KeyKind, TableSpec, Touched};
use anyhow::{Context, Result, bail};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::sync::atomic::{AtomicBool, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// Whether this world has such tables. There is one world at a time.
static HAS_FAMILIES: AtomicBool = AtomicBool::new(false);

/// Parents, children and their children, by every action that a deletion may have. A row here comes and goes by more than
/// what writers say of it: with its parent, and where it has none.
const TABLES: &[TableSpec] = &[
    table("houses", "CREATE TABLE houses(id TEXT PRIMARY KEY NOT NULL, secret TEXT)", &["secret"]),
    table(
        "rooms",
        "CREATE TABLE rooms(id TEXT PRIMARY KEY NOT NULL, house TEXT REFERENCES houses(id) ON DELETE CASCADE, secret TEXT)",
        &["house", "secret"],
    ),
    table(
        "lamps",
        "CREATE TABLE lamps(id TEXT PRIMARY KEY NOT NULL, room TEXT REFERENCES rooms(id) ON DELETE SET NULL \
         DEFERRABLE INITIALLY DEFERRED, secret TEXT)",
        &["room", "secret"],
    ),
    table(
        "locks",
        "CREATE TABLE locks(id TEXT PRIMARY KEY NOT NULL, house TEXT REFERENCES houses(id) ON DELETE RESTRICT, secret TEXT)",
        &["house", "secret"],
    ),
    table(
        "trees",
        "CREATE TABLE trees(id TEXT PRIMARY KEY NOT NULL, parent TEXT REFERENCES trees(id) ON DELETE CASCADE \
         DEFERRABLE INITIALLY DEFERRED, secret TEXT)",
        &["parent", "secret"],
    ),
];

const fn table(name: &'static str, create: &'static str, cells: &'static [&'static str]) -> TableSpec {
    TableSpec {
        name,
        create,
        algorithm: "cls",
        key: &["id"],
        cells,
        later: None,
        collides: true,
        kind: KeyKind::Named,
    }
}

/// Says whether the world that begins has such tables.
pub(crate) fn begin(has_families: bool) {
    HAS_FAMILIES.store(has_families, Ordering::Relaxed);
}

/// The tables that this world has.
pub(crate) fn tables() -> &'static [TableSpec] {
    if HAS_FAMILIES.load(Ordering::Relaxed) { TABLES } else { &[] }
}

/// The column by which a row names its parent, and the parent's table.
fn parent_of(table: &str) -> Option<(&'static str, &'static str)> {
    match table {
        "rooms" | "locks" => Some(("house", "houses")),
        "lamps" => Some(("room", "rooms")),
        "trees" => Some(("parent", "trees")),
        _ => None,
    }
}

/// True for a cell that loses its value with the row that it names.
pub(crate) fn may_be_cleared(table: &str, cell: &str) -> bool {
    parent_of(table).is_some_and(|(column, _)| column == cell)
}

/// Has SQLite enforce foreign keys on the connections of every other machine.
pub(crate) fn set_up(db: &Connection, machine: &str) -> Result<()> {
    if !tables().is_empty() && xxh3_64(machine.as_bytes()).is_multiple_of(2) {
        db.execute_batch("PRAGMA foreign_keys = ON")?;
    }
    Ok(())
}

fn enforces(db: &Connection) -> Result<bool> {
    Ok(db.query_row("PRAGMA foreign_keys", [], |row| row.get(0))?)
}

/// Writes a few statements in one transaction, as [`workload::write`] does.
pub(crate) fn write(db: &Connection, dice: &mut Dice, writer: &str, written: &mut Written) -> Result<bool> {
    workload::transact(db, dice, written, |dice, touched, _| {
        for _ in 0..1 + dice.below(4) {
            statement(db, dice, writer, touched)?;
        }
        Ok(())
    })
}

fn statement(db: &Connection, dice: &mut Dice, writer: &str, touched: &mut Touched) -> Result<()> {
    let table: &'static TableSpec = dice.pick(TABLES);
    let id = table.key(dice, writer);
    let secret = workload::value_in(dice, &id, "secret");
    let parent = parent_of(table.name).map(|(column, of)| (column, parent(db, dice, writer, of)));
    let parent = parent.map(|(column, found)| found.map(|value| (column, value))).transpose()?;
    let result = match (dice.below(10), &parent) {
        (0..=2, _) => {
            let sql = format!("DELETE FROM {} WHERE id = ?1", table.name);
            host::kept(db, &sql)?.execute(params_from_iter(&id))
        }
        (3 | 4, Some((column, value))) => {
            let sql = format!("UPDATE {} SET {column} = ?2 WHERE id = ?1", table.name);
            host::kept(db, &sql)?.execute(params_from_iter([&id[0], value]))
        }
        (5, _) => {
            let sql = format!("UPDATE {} SET secret = ?2 WHERE id = ?1", table.name);
            host::kept(db, &sql)?.execute(params_from_iter([&id[0], &secret]))
        }
        (_, Some((column, value))) => {
            let verb = *dice.pick(&["INSERT OR IGNORE", "INSERT OR REPLACE"]);
            let sql = format!("{verb} INTO {}(id, {column}, secret) VALUES(?1, ?2, ?3)", table.name);
            host::kept(db, &sql)?.execute(params_from_iter([&id[0], value, &secret]))
        }
        (_, None) => {
            let verb = *dice.pick(&["INSERT OR IGNORE", "INSERT OR REPLACE"]);
            let sql = format!("{verb} INTO {}(id, secret) VALUES(?1, ?2)", table.name);
            host::kept(db, &sql)?.execute(params_from_iter([&id[0], &secret]))
        }
    };
    match result {
        Ok(_) => touched.push((table, id)),
        Err(error) if workload::is_constraint(&error) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Somebody to belong to: mostly one that is there, else one that may come, or nobody.
fn parent(db: &Connection, dice: &mut Dice, writer: &str, of: &str) -> Result<Value> {
    if dice.chance(100) {
        return Ok(Value::Null);
    }
    let of = TABLES.iter().find(|table| table.name == of).context("a parent without a table")?;
    let any = of.key(dice, writer);
    if dice.chance(150) {
        return Ok(any[0].clone());
    }
    let sql = format!("SELECT id FROM {} WHERE id >= ?1 ORDER BY id LIMIT 1", of.name);
    let found =
        host::kept(db, &sql)?.query_map(params_from_iter(&any), |row| row.get(0))?.next().transpose()?;
    Ok(found.unwrap_or(Value::Null))
}

/// Where foreign keys are enforced, nobody misses a parent in the end. What RESTRICT protects may: the deletion of its
/// parent's parent goes on without it. And so may what a user sees of whose parent they do not see: `shown` is what they do.
pub(crate) fn check(db: &Connection, rows: &Rows, whose: &str, shown: Option<&Rows>) -> Result<()> {
    if tables().is_empty() || !enforces(db)? {
        return Ok(());
    }
    let has = |table: &'static str, key: &str| rows.contains_key(&(table, key.to_owned()));
    for ((table, id), cells) in rows {
        let Some((_, of)) = parent_of(table).filter(|_| *table != "locks") else { continue };
        let named = cells.first().context("a child without cells")?;
        let is_shown = shown.is_none_or(|shown| shown.contains_key(&(of, named.clone())));
        if named != "NULL" && !has(of, named) && is_shown {
            bail!("{whose}: {table} {id} belongs to {named}, which is nowhere, though foreign keys are on");
        }
    }
    Ok(())
}
