//! Random keys into a large table: the fold must not write out of proportion to what the app wrote.

use crate::case::Case;
use crate::data::{Keys, Rows};
use crate::measure::timed;
use crate::report::{Report, bytes_text};
use crate::subject::{Contest, Implementation};
use crate::writes::fill_table;
use anyhow::Result;

/// One row is added to so many that are there.
const ADDED_PART: usize = 10;

/// Measures the insertion of a tenth more rows, all in one transaction, and the fold of them. The bytes are those of
/// the WAL, which is not checkpointed in between.
pub(crate) fn run(report: &mut Report, contest: &Contest, case: &Case) -> Result<()> {
    let mut shape = case.shape;
    shape.keys = Keys::Random;
    let added = shape.rows / ADDED_PART;
    let rows = Rows::part(shape, shape.rows..shape.rows + added, 1);
    for round in 0..case.rounds {
        let entrants = contest.in_round(round);
        for implementation in
            entrants.into_iter().filter(|entrant| !matches!(entrant, Implementation::Peer(_)))
        {
            let mut sample = case.sample(contest, implementation)?;
            fill_table(&mut sample, shape)?;
            sample.database.execute("PRAGMA wal_autocheckpoint=0")?;
            sample.mark()?;
            let insert = || sample.database.run_with_rows(&shape.insert_sql(), &rows);
            let (written, ()) = timed(|| sample.database.in_transaction(insert))?;
            let insert_bytes = sample.database.wal_bytes();
            let (settled, ()) = timed(|| sample.settle())?;
            let bytes = sample.database.wal_bytes();

            let work = ("insert", "");
            case.add_cost(report, work, implementation, written, rows.cell_count());
            case.add_bytes(report, work, implementation, insert_bytes as f64);
            let work = ("insert_and_fold", "");
            case.add_cost(report, work, implementation, written.plus(settled), rows.cell_count());
            case.add_bytes(report, work, implementation, bytes as f64);
            if round == 0 {
                let [insert, fold] =
                    [insert_bytes, bytes - insert_bytes].map(|bytes| bytes_text(bytes as f64));
                let note =
                    format!("{}: WAL of the insert {insert}, of the fold {fold}", implementation.name());
                report.note(&case.work(work, implementation), note);
            }
        }
    }
    Ok(())
}
