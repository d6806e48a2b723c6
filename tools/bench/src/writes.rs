//! What an app's own writes cost, and the fold that follows them.

use crate::Options;
use crate::data::{Keys, Rows};
use crate::database::{Database, insert_sql, update_all_sql, upsert_sql};
use crate::measure::{Cost, timed};
use crate::report::{Implementation, Report, Work};
use anyhow::Result;

/// Transactions of one row each.
const SINGLE_TRANSACTIONS: usize = 2_000;
/// The number of columns with which random keys are measured as well.
const RANDOM_KEYS_COLUMNS: usize = 10;

/// Measures all works of this group with `columns` value columns.
pub(crate) fn run(report: &mut Report, options: &Options, columns: usize) -> Result<()> {
    let rows = Rows::new(options.rows, columns, Keys::Ordered, 1);
    let others = Rows::new(options.rows, columns, Keys::Ordered, 2);
    let single = Rows::new(SINGLE_TRANSACTIONS, columns, Keys::Ordered, 3);
    let random = Rows::new(options.rows, columns, Keys::Random, 1);
    for run in 1..=options.runs {
        eprintln!("writes, {columns} columns: run {run} of {}", options.runs);
        for implementation in Implementation::ALL {
            let mut sample = Sample { report, columns, implementation };
            sample.writes(&rows, &others)?;
            sample.single_transactions(&single)?;
            if columns == RANDOM_KEYS_COLUMNS {
                sample.random_keys(&random)?;
            }
        }
    }
    Ok(())
}

/// One run of one implementation.
struct Sample<'r> {
    report: &'r mut Report,
    columns: usize,
    implementation: Implementation,
}

impl Sample<'_> {
    fn work(&self, name: &'static str, variant: &'static str) -> Work {
        Work { name, variant, columns: self.columns, implementation: self.implementation }
    }

    /// One work in one transaction, then the fold, measured under its own name.
    fn measure(
        &mut self,
        database: &mut Database,
        (name, variant, cells): (&'static str, &'static str, usize),
        act: impl FnOnce(&Database) -> Result<()>,
    ) -> Result<(Cost, Cost)> {
        let (written, ()) = timed(|| database.in_transaction(|| act(database)))?;
        self.report.add_cost(self.work(name, variant), written, cells);
        let (folded, ()) = timed(|| database.fold())?;
        database.checkpoint()?;
        Ok((written, folded))
    }

    fn writes(&mut self, rows: &Rows, others: &Rows) -> Result<()> {
        let columns = self.columns;
        let mut database = Database::create(columns, self.implementation)?;
        let database = &mut database;
        let cells = rows.cell_count();
        let insert = |database: &Database| database.run_per_row(&insert_sql(columns), rows);
        let (written, folded) = self.measure(database, ("insert", "", cells), insert)?;
        self.report.add_cost(self.work("insert_and_fold", ""), written.plus(folded), cells);
        let (bytes, in_use) = database.size()?;
        self.report.add_bytes(self.work("file_size", "file"), bytes as f64);
        self.report.add_bytes(self.work("file_size", "pages in use"), in_use as f64);
        self.report.add_bytes(self.work("file_size", "per row"), in_use as f64 / rows.count() as f64);

        let update_one = |database: &Database| {
            let mut update = database.prepare("UPDATE t SET c0 = ?2 WHERE id = ?1")?;
            (0..others.count()).try_for_each(|row| Ok(update.run(&[others.key(row), others.value(row, 0)])?))
        };
        let (written, folded) = self.measure(database, ("update_one", "", rows.count()), update_one)?;
        self.report.add_cost(self.work("update_one_and_fold", ""), written.plus(folded), rows.count());
        let update_all = |database: &Database| database.run_per_row(&update_all_sql(columns), others);
        let (written, folded) = self.measure(database, ("update_all", "", cells), update_all)?;
        self.report.add_cost(self.work("update_all_and_fold", ""), written.plus(folded), cells);
        let upsert = |database: &Database| database.run_per_row(&upsert_sql(columns), rows);
        self.measure(database, ("upsert", "", cells), upsert)?;
        let delete = |database: &Database| {
            let mut delete = database.prepare("DELETE FROM t WHERE id = ?1")?;
            (0..rows.count()).try_for_each(|row| Ok(delete.run(&[rows.key(row)])?))
        };
        self.measure(database, ("delete", "", cells), delete)?;
        Ok(())
    }

    fn single_transactions(&mut self, rows: &Rows) -> Result<()> {
        let database = Database::create(self.columns, self.implementation)?;
        let (cost, ()) = timed(|| database.run_per_row(&insert_sql(self.columns), rows))?;
        self.report.add_cost(self.work("insert_single_tx", ""), cost, rows.cell_count());
        Ok(())
    }

    fn random_keys(&mut self, rows: &Rows) -> Result<()> {
        let columns = self.columns;
        let mut database = Database::create(columns, self.implementation)?;
        let insert = |database: &Database| database.run_per_row(&insert_sql(columns), rows);
        let work = ("insert", "random keys", rows.cell_count());
        let (written, folded) = self.measure(&mut database, work, insert)?;
        let work = self.work("insert_and_fold", "random keys");
        self.report.add_cost(work, written.plus(folded), rows.cell_count());
        Ok(())
    }
}
