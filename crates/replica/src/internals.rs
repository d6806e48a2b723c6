//! Looking whether what is stored beside the app's tables can be read, without changing anything.

use crate::changes::read_row;
use crate::clocks::split_pk;
use crate::error::Result;
use crate::storage::FORMAT;
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::RowClock;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashSet;

/// Tables without which nothing can be done. Others are made when they are needed.
const TABLES: [&str; 9] = [
    "cloudsync_settings",
    "cloudsync_sites",
    "cloudsync_tables",
    "cloudsync_columns",
    "cloudsync_layouts",
    "cloudsync_log",
    "cloudsync_clocks",
    "cloudsync_versions",
    "cloudsync_entries",
];

/// Whether any of our tables is there, even if others are missing.
///
/// # Errors
/// When the file cannot be read.
pub fn has_internals(db: &Connection) -> Result<bool> {
    Ok(missing(db)?.len() < TABLES.len())
}

/// What is wrong with what is stored beside the app's tables, a line for each kind of damage. Of clocks and of entries in
/// the list of changes up to `rows_max` are read from either end.
///
/// # Errors
/// When the file cannot be read.
pub fn internal_faults(db: &Connection, rows_max: u64) -> Result<Vec<String>> {
    let missing = missing(db)?;
    if !missing.is_empty() {
        return Ok(vec![format!("{} is missing", missing.join(", "))]);
    }
    let mut faults = Vec::new();
    let mut claim = |is_so: bool, fault: &str| faults.extend((!is_so).then(|| fault.to_owned()));
    let holds = |sql: &str| Ok::<_, crate::Error>(db.query_i64(sql, &[])?.unwrap_or(0) != 0);
    // A greater format is another matter: its file is whole.
    // language=SQLite
    let format =
        "SELECT typeof(value) = 'integer' AND value >= 1 FROM main.cloudsync_settings WHERE key = 'format'";
    claim(
        holds(format)?,
        &format!("the number of its format is missing or wrong (this version writes {FORMAT})"),
    );
    // language=SQLite
    let site = "SELECT count(*) = 1 FROM main.cloudsync_settings AS s JOIN main.cloudsync_sites AS o ON o.ordinal = s.value WHERE s.key = 'site'";
    claim(holds(site)?, "its own site id is missing");
    // language=SQLite
    let sites = "SELECT count(*) = 0 FROM main.cloudsync_sites WHERE typeof(site_id) <> 'blob' OR length(site_id) <> 16";
    claim(holds(sites)?, "a site id has not 16 bytes");
    // language=SQLite
    let layouts = "SELECT count(*) = 0 FROM main.cloudsync_tables AS t LEFT JOIN main.cloudsync_layouts AS l ON l.id = t.layout \
                   WHERE t.enabled AND (l.id IS NULL OR length(l.columns) > 0 \
                   AND NOT EXISTS(SELECT 1 FROM main.cloudsync_columns AS c WHERE c.table_id = t.id))";
    claim(holds(layouts)?, "the columns of a table are not known");
    // language=SQLite
    let versions = "SELECT count(*) = 0 FROM main.cloudsync_entries WHERE version NOT IN (SELECT version FROM main.cloudsync_versions)";
    claim(holds(versions)?, "changes belong to a version that is not known");
    let (clocks, entries) = (unreadable_clocks(db, rows_max)?, unreadable_entries(db, rows_max)?);
    claim(
        clocks == 0,
        &format!("{clocks} clocks cannot be read, or are of a site or table that is not known"),
    );
    claim(entries == 0, &format!("{entries} entries in the list of changes cannot be read"));
    Ok(faults)
}

fn missing(db: &Connection) -> Result<Vec<&'static str>> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?1";
    let mut missing = Vec::new();
    for table in TABLES {
        if db.query_i64(sql, &[Value::from(table)])?.is_none() {
            missing.push(table);
        }
    }
    Ok(missing)
}

fn numbers(db: &Connection, sql: &str) -> Result<HashSet<i64>> {
    let mut numbers = HashSet::new();
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        numbers.insert(row.column_i64(0));
        Ok(())
    })?;
    Ok(numbers)
}

fn unreadable_clocks(db: &Connection, rows_max: u64) -> Result<u64> {
    let sites = numbers(db, "SELECT ordinal FROM main.cloudsync_sites")?;
    let tables = numbers(db, "SELECT id FROM main.cloudsync_tables")?;
    let (mut faults, mut seen) = (0, HashSet::new());
    for order in ["ASC", "DESC"] {
        let sql = format!("SELECT pk, clock FROM main.cloudsync_clocks ORDER BY pk {order} LIMIT ?1");
        db.prepare(&sql)?.for_each(&[limit(rows_max)], |row| -> Result<()> {
            let pk = row.column(0).as_blob().unwrap_or_default();
            if !seen.insert(pk.to_vec()) {
                return Ok(());
            }
            let clock = RowClock::decode(row.column(1).as_blob().unwrap_or_default());
            let is_known = split_pk(pk).is_ok_and(|(table, _)| tables.contains(&table))
                && clock.is_ok_and(|clock| {
                    let others = clock.cells().map(|(_, clock)| clock);
                    others.chain([clock.common]).all(|clock| sites.contains(&i64::from(clock.site.0)))
                });
            faults += u64::from(!is_known);
            Ok(())
        })?;
    }
    Ok(faults)
}

fn unreadable_entries(db: &Connection, rows_max: u64) -> Result<u64> {
    let (mut faults, mut seen) = (0, HashSet::new());
    for order in ["ASC", "DESC"] {
        let sql = format!("SELECT id, keys FROM main.cloudsync_entries ORDER BY id {order} LIMIT ?1");
        db.prepare(&sql)?.for_each(&[limit(rows_max)], |row| -> Result<()> {
            if !seen.insert(row.column_i64(0)) {
                return Ok(());
            }
            let mut reader = Reader::new(row.column(1).as_blob().unwrap_or_default());
            let mut is_read = !reader.is_empty();
            while is_read && !reader.is_empty() {
                is_read = read_row(&mut reader).is_ok();
            }
            faults += u64::from(!is_read);
            Ok(())
        })?;
    }
    Ok(faults)
}

fn limit(rows_max: u64) -> Value<'static> {
    Value::Integer(i64::try_from(rows_max.div_ceil(2)).unwrap_or(i64::MAX))
}
