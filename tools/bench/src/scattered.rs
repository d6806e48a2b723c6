//! Random keys into a large table: the fold must not write out of proportion to what the app wrote.

use crate::case::Case;
use crate::data::{Keys, Rows};
use crate::measure::timed;
use crate::report::{Report, bytes_text};
use crate::subject::{Contest, Implementation, Sample};
use crate::writes::fill_table;
use anyhow::Result;

/// One row is added to so many that are there.
const ADDED_PART: usize = 10;

/// Measures the insertion of a tenth more rows, all in one transaction, and the fold of them. The bytes are those of
/// the WAL, which is not checkpointed in between. The large tables are made once; each round adds to them.
pub(crate) fn run(report: &mut Report, contest: &Contest, case: &Case) -> Result<()> {
    let mut case = case.clone();
    case.shape.keys = Keys::Random;
    let mut samples = Vec::new();
    for implementation in contest.entrants() {
        // A peer that writes a row for each cell needs minutes to fill the table.
        if matches!(implementation, Implementation::Peer(_)) {
            continue;
        }
        let mut sample = case.sample(contest, implementation)?;
        fill_table(&mut sample, case.shape)?;
        sample.database.execute("PRAGMA wal_autocheckpoint=0")?;
        samples.push((implementation, sample));
    }
    let added = case.shape.rows / ADDED_PART;
    for round in 0..case.rounds {
        let first = case.shape.rows + round * added;
        let rows = Rows::part(case.shape, first..first + added, 1);
        let count = samples.len();
        samples.rotate_left(usize::from(round > 0) % count);
        for (implementation, sample) in &mut samples {
            measure(report, &case, *implementation, sample, &rows, round == 0)?;
        }
    }
    Ok(())
}

fn measure(
    report: &mut Report,
    case: &Case,
    implementation: Implementation,
    sample: &mut Sample,
    rows: &Rows,
    noted: bool,
) -> Result<()> {
    sample.mark()?;
    let insert = || sample.database.run_with_rows(&case.shape.insert_sql(), rows);
    let (written, ()) = timed(|| sample.database.in_transaction(insert))?;
    let insert_bytes = sample.database.wal_bytes();
    let (settled, ()) = timed(|| sample.settle())?;
    let bytes = sample.database.wal_bytes();
    sample.database.checkpoint()?;

    let work = ("insert", "");
    case.add_cost(report, work, implementation, written, rows.cell_count());
    case.add_bytes(report, work, implementation, insert_bytes as f64);
    let work = ("insert_and_fold", "");
    case.add_cost(report, work, implementation, written.plus(settled), rows.cell_count());
    case.add_bytes(report, work, implementation, bytes as f64);
    if noted && implementation != Implementation::Session {
        let [insert, fold] = [insert_bytes, bytes - insert_bytes].map(|bytes| bytes_text(bytes as f64));
        let name = implementation.name();
        report.note(&case.work(work, implementation), format!("WAL of {name}: {insert}, by the fold {fold}"));
    }
    Ok(())
}
