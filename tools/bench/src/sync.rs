//! What extraction and apply cost. Plain SQLite reads the rows, or upserts them in one transaction.

use crate::Options;
use crate::data::{Keys, Rows};
use crate::database::{Database, insert_sql, update_all_sql, upsert_sql};
use crate::measure::{Cost, timed};
use crate::report::{Implementation, Report, Work};
use anyhow::Result;

/// Rows in a small set of changes.
pub(crate) const DELTA_ROWS: usize = 100;
/// Small works are repeated, so that a run takes long enough to be measured.
const DELTAS: usize = 20;

/// What an author made, and its changes as chunks.
struct Author {
    database: Database,
    inserted: Vec<Vec<u8>>,
    /// Every cell updated, before the receivers do the same.
    earlier: Vec<Vec<u8>>,
    /// Every cell updated, after the receivers did.
    later: Vec<Vec<u8>>,
    /// One cell in each of [`DELTA_ROWS`] rows, several times.
    deltas: Vec<Vec<Vec<u8>>>,
    /// The version before the last delta.
    before_delta: u64,
}

struct Data {
    rows: Rows,
    others: Rows,
    third: Rows,
}

/// Measures all works of this group with `columns` value columns.
pub(crate) fn run(report: &mut Report, options: &Options, columns: usize) -> Result<()> {
    let make = |seed| Rows::new(options.rows, columns, Keys::Ordered, seed);
    let data = Data { rows: make(1), others: make(2), third: make(3) };
    let mut author = Author::new(columns, &data)?;
    for run in 1..=options.runs {
        eprintln!("sync, {columns} columns: run {run} of {}", options.runs);
        plain(report, columns, &data)?;
        ours(report, columns, &data, &mut author)?;
    }
    Ok(())
}

fn changed_row(delta: usize, row: usize, rows: &Rows) -> usize {
    (row * (rows.count() / DELTA_ROWS) + delta) % rows.count()
}

impl Author {
    fn new(columns: usize, data: &Data) -> Result<Self> {
        let mut database = Database::create(columns, Implementation::Cloudsync)?;
        let write = |database: &mut Database, sql: &str, rows: &Rows| -> Result<u64> {
            let before = database.replica()?.version()?;
            database.in_transaction(|| database.run_per_row(sql, rows))?;
            Ok(before)
        };
        let before = write(&mut database, &insert_sql(columns), &data.rows)?;
        database.fold()?;
        let inserted = database.extract(before)?;
        let before = write(&mut database, &update_all_sql(columns), &data.others)?;
        database.fold()?;
        let earlier = database.extract(before)?;
        let before = write(&mut database, &update_all_sql(columns), &data.third)?;
        database.execute("UPDATE cloudsync_log SET at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + 3600000")?;
        database.fold()?;
        let later = database.extract(before)?;
        let mut deltas = Vec::new();
        let mut before_delta = 0;
        for delta in 0..DELTAS {
            before_delta = database.replica()?.version()?;
            let mut update = database.prepare("UPDATE t SET c0 = c0 - 1 WHERE id = ?1")?;
            for row in 0..DELTA_ROWS {
                let row = changed_row(delta, row, &data.rows);
                update.run(&[data.rows.key(row)])?;
            }
            drop(update);
            database.fold()?;
            deltas.push(database.extract(before_delta)?);
        }
        Ok(Self { database, inserted, earlier, later, deltas, before_delta })
    }
}

/// Where one implementation's runs are noted.
struct Notes<'r> {
    report: &'r mut Report,
    columns: usize,
    implementation: Implementation,
}

impl Notes<'_> {
    fn add(&mut self, name: &'static str, variant: &'static str, cost: Cost, cells: usize) {
        let work = Work { name, variant, columns: self.columns, implementation: self.implementation };
        self.report.add_cost(work, cost, cells);
    }
}

fn plain(report: &mut Report, columns: usize, data: &Data) -> Result<()> {
    let mut notes = Notes { report, columns, implementation: Implementation::Plain };
    let database = Database::create(columns, Implementation::Plain)?;
    let upsert = |rows: &Rows| -> Result<Cost> {
        let (cost, ()) =
            timed(|| database.in_transaction(|| database.run_per_row(&upsert_sql(columns), rows)))?;
        database.checkpoint()?;
        Ok(cost)
    };
    let cells = data.rows.cell_count();
    notes.add("apply_empty", "", upsert(&data.rows)?, cells);
    notes.add("apply_same", "", upsert(&data.rows)?, cells);
    notes.add("apply_conflict", "local wins", upsert(&data.others)?, cells);
    notes.add("apply_conflict", "remote wins", upsert(&data.third)?, cells);
    let (cost, _) = timed(|| database.read("SELECT * FROM t", &[]))?;
    notes.add("extract_all", "", cost, cells);
    let (cost, ()) = timed(|| {
        let mut select = database.prepare("SELECT c0 FROM t WHERE id = ?1")?;
        for delta in 0..DELTAS {
            for row in 0..DELTA_ROWS {
                let key = data.rows.key(changed_row(delta, row, &data.rows));
                select.query_row(&[key], |row| -> Result<i64> { Ok(row.column_i64(0)) })?;
            }
        }
        Ok(())
    })?;
    notes.add("extract_100", "", cost.divided_by(DELTAS), DELTA_ROWS);
    let (cost, ()) = timed(|| {
        let mut update = database.prepare("UPDATE t SET c0 = c0 - 1 WHERE id = ?1")?;
        (0..DELTAS).try_for_each(|delta| {
            database.in_transaction(|| {
                (0..DELTA_ROWS).try_for_each(|row| {
                    let row = changed_row(delta, row, &data.rows);
                    Ok(update.run(&[data.rows.key(row)])?)
                })
            })
        })
    })?;
    notes.add("apply_100", "", cost.divided_by(DELTAS), DELTA_ROWS);
    Ok(())
}

fn ours(report: &mut Report, columns: usize, data: &Data, author: &mut Author) -> Result<()> {
    let mut notes = Notes { report, columns, implementation: Implementation::Cloudsync };
    let cells = data.rows.cell_count();
    let mut database = Database::create(columns, Implementation::Cloudsync)?;
    let apply = |database: &mut Database, chunks: &[Vec<u8>]| -> Result<Cost> {
        let (cost, ()) = timed(|| database.apply(chunks))?;
        database.checkpoint()?;
        Ok(cost)
    };
    notes.add("apply_empty", "", apply(&mut database, &author.inserted)?, cells);
    notes.add("apply_same", "", apply(&mut database, &author.inserted)?, cells);
    database.in_transaction(|| database.run_per_row(&update_all_sql(columns), &data.third))?;
    database.fold()?;
    database.checkpoint()?;
    notes.add("apply_conflict", "local wins", apply(&mut database, &author.earlier)?, cells);
    notes.add("apply_conflict", "remote wins", apply(&mut database, &author.later)?, cells);
    let (cost, ()) = timed(|| author.deltas.iter().try_for_each(|delta| database.apply(delta)))?;
    notes.add("apply_100", "", cost.divided_by(DELTAS), DELTA_ROWS);

    let (cost, _) = timed(|| author.database.extract(0))?;
    notes.add("extract_all", "", cost, cells);
    let before = author.before_delta;
    let (cost, ()) = timed(|| (0..DELTAS).try_for_each(|_| author.database.extract(before).map(drop)))?;
    notes.add("extract_100", "", cost.divided_by(DELTAS), DELTA_ROWS);
    Ok(())
}
