//! What an app's own writes cost, the fold that follows them, and the file that they leave.

use crate::case::Case;
use crate::data::{Rows, Shape};
use crate::database::Database;
use crate::measure::timed;
use crate::report::Report;
use crate::subject::{Contest, Implementation, Sample};
use anyhow::Result;

/// One row in so many is written in a transaction of its own.
const SINGLE_PART: usize = 10;

/// A write to every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Insert,
    UpdateOne,
    UpdateAll,
    Delete,
}

impl Write {
    /// In the order in which they can follow each other.
    pub(crate) const ALL: [Self; 4] = [Self::Insert, Self::UpdateOne, Self::UpdateAll, Self::Delete];

    /// The name of the work.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::UpdateOne => "update_one",
            Self::UpdateAll => "update_all",
            Self::Delete => "delete",
        }
    }

    /// Writes every row, by key. Updates take their values from `others`, each kind other ones.
    pub(crate) fn run(self, database: &Database, data: &Data) -> Result<()> {
        let shape = data.rows.shape;
        let all = 0..data.rows.count();
        match self {
            Self::Insert => database.run_with_rows(&shape.insert_sql(), &data.rows),
            Self::UpdateOne => database
                .run_per_row(&shape.update_one_sql(), all, |row, buffer| data.others.fill_one(row, buffer)),
            Self::UpdateAll => database.run_with_rows(&shape.update_all_sql(), &data.third),
            Self::Delete => {
                database.run_per_row(&shape.delete_sql(), all, |row, buffer| data.rows.fill_key(row, buffer))
            }
        }
    }

    fn cells(self, data: &Data) -> usize {
        match self {
            Self::UpdateOne => data.rows.count(),
            Self::Insert | Self::UpdateAll | Self::Delete => data.rows.cell_count(),
        }
    }
}

/// Rows with the same keys and other values.
pub(crate) struct Data {
    pub(crate) rows: Rows,
    pub(crate) others: Rows,
    pub(crate) third: Rows,
}

impl Data {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { rows: Rows::new(shape, 1), others: Rows::new(shape, 2), third: Rows::new(shape, 3) }
    }
}

/// Rows that are made at once when a large table is filled: few, since they count where memory is measured.
pub(crate) const BATCH: usize = 1_000;

/// Puts all rows of a shape into the table, a part at a time, and settles.
pub(crate) fn fill_table(sample: &mut Sample, shape: Shape) -> Result<()> {
    sample.mark()?;
    for first in (0..shape.rows).step_by(BATCH) {
        let rows = Rows::part(shape, first..shape.rows.min(first + BATCH), 1);
        sample.database.in_transaction(|| sample.database.run_with_rows(&shape.insert_sql(), &rows))?;
    }
    sample.settle()?;
    sample.database.checkpoint()
}

/// Measures all works of this group.
pub(crate) fn run(report: &mut Report, contest: &Contest, case: &Case) -> Result<()> {
    let data = Data::new(case.shape);
    let single = Rows::new(Shape { rows: case.shape.rows.div_ceil(SINGLE_PART), ..case.shape }, 1);
    for round in 0..case.rounds {
        for implementation in contest.in_round(round) {
            writes(report, contest, case, implementation, &data)?;
            single_transactions(report, contest, case, implementation, &single)?;
        }
    }
    metadata(report, contest, case);
    Ok(())
}

fn writes(
    report: &mut Report,
    contest: &Contest,
    case: &Case,
    implementation: Implementation,
    data: &Data,
) -> Result<()> {
    let mut sample = case.sample(contest, implementation)?;
    for write in Write::ALL {
        sample.mark()?;
        let (written, ()) = timed(|| sample.database.in_transaction(|| write.run(&sample.database, data)))?;
        case.add_cost(report, (write.name(), ""), implementation, written, write.cells(data));
        let (settled, ()) = timed(|| sample.settle())?;
        sample.database.checkpoint()?;
        if write == Write::Insert {
            let both = written.plus(settled);
            case.add_cost(report, ("insert_and_fold", ""), implementation, both, write.cells(data));
            let bytes = sample.database.file_bytes()?;
            case.add_bytes(report, ("file_size", ""), implementation, bytes as f64);
        }
    }
    Ok(())
}

fn single_transactions(
    report: &mut Report,
    contest: &Contest,
    case: &Case,
    implementation: Implementation,
    rows: &Rows,
) -> Result<()> {
    let sample: Sample = case.sample(contest, implementation)?;
    let (cost, ()) = timed(|| sample.database.run_with_rows(&rows.shape.insert_sql(), rows))?;
    case.add_cost(report, ("insert_single_tx", ""), implementation, cost, rows.cell_count());
    Ok(())
}

/// What a row takes in the file beyond what it takes in a plain one.
fn metadata(report: &mut Report, contest: &Contest, case: &Case) {
    let bytes = |report: &Report, implementation| {
        report.figures(&case.work(("file_size", ""), implementation)).and_then(|figures| figures.bytes())
    };
    let Some(plain) = bytes(report, Implementation::Plain) else { return };
    for implementation in contest.entrants() {
        if implementation == Implementation::Plain {
            continue;
        }
        if let Some(ours) = bytes(report, implementation) {
            let more = (ours - plain) / case.shape.rows as f64;
            case.add_bytes(report, ("file_size", "metadata_per_row"), implementation, more);
        }
    }
}
