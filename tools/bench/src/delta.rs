//! Extraction of a few changes: it must not depend on how many rows there are.

use crate::case::Case;
use crate::data::{Rows, Shape};
use crate::database::Database;
use crate::measure::timed;
use crate::report::Report;
use crate::subject::{Contest, Implementation, Sample};
use crate::writes::fill_table;
use anyhow::Result;

/// Rows that change.
const CHANGED: usize = 100;
/// Rows of the small table.
pub(crate) const FEW_ROWS: usize = 1_000;

/// One cell in each of some rows that are spread over the table.
pub(crate) struct Changed {
    rows: Rows,
    numbers: Vec<usize>,
}

impl Changed {
    /// Other rows and other values in each round.
    pub(crate) fn new(shape: Shape, round: usize) -> Self {
        let count = CHANGED.min(shape.rows);
        let step = shape.rows / count;
        let numbers = (0..count).map(|row| row * step + round % step);
        Self { rows: Rows::part(shape, numbers, 100 + round as u64), numbers: (0..count).collect() }
    }

    /// Number of rows, and of cells.
    pub(crate) fn count(&self) -> usize {
        self.numbers.len()
    }

    /// Updates the cells.
    pub(crate) fn write(&self, database: &Database) -> Result<()> {
        let numbers = self.numbers.iter().copied();
        database.run_per_row(&self.rows.shape.update_one_sql(), numbers, |row, buffer| {
            self.rows.fill_one(row, buffer);
        })
    }

    /// Reads them by key, and gives the bytes.
    pub(crate) fn read(&self, database: &Database) -> Result<usize> {
        database.read_by_key(&self.rows, &self.numbers)
    }
}

/// Measures `extract_100` in one table; `own` is its name within the case.
pub(crate) fn run(report: &mut Report, contest: &Contest, case: &Case, own: &str) -> Result<()> {
    // A peer that writes a row for each cell needs minutes for the large table.
    let peers = case.shape.rows <= FEW_ROWS;
    let takes_part =
        |implementation: &Implementation| peers || !matches!(implementation, Implementation::Peer(_));
    let mut samples = Vec::new();
    for implementation in contest.entrants().into_iter().filter(takes_part) {
        let mut sample = case.sample(contest, implementation)?;
        fill_table(&mut sample, case.shape)?;
        samples.push((implementation, sample));
    }
    for round in 0..case.rounds {
        let changed = Changed::new(case.shape, round);
        let count = samples.len();
        samples.rotate_left(usize::from(round > 0) % count);
        for (implementation, sample) in &mut samples {
            measure(report, case, own, *implementation, sample, &changed)?;
        }
    }
    Ok(())
}

fn measure(
    report: &mut Report,
    case: &Case,
    own: &str,
    implementation: Implementation,
    sample: &mut Sample,
    changed: &Changed,
) -> Result<()> {
    sample.mark()?;
    sample.database.in_transaction(|| changed.write(&sample.database))?;
    let (settled, ()) = timed(|| sample.settle())?;
    let (extracted, _) = timed(|| sample.extract(|database| changed.read(database), |_| Ok(())))?;
    case.add_cost(report, ("extract_100", own), implementation, extracted, changed.count());
    let with_fold = if own.is_empty() { "with_fold".to_owned() } else { format!("{own},with_fold") };
    case.add_cost(
        report,
        ("extract_100", &with_fold),
        implementation,
        extracted.plus(settled),
        changed.count(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changed_rows_are_spread_and_differ_in_each_round() {
        let shape = Shape::new(1_000, 2);
        let key = |changed: &Changed, row| {
            let mut buffer = Vec::new();
            changed.rows.fill_key(row, &mut buffer);
            format!("{buffer:?}")
        };
        let (one, two) = (Changed::new(shape, 0), Changed::new(shape, 1));
        assert_eq!((one.count(), two.count()), (100, 100));
        assert_ne!(key(&one, 0), key(&two, 0));
        assert_eq!(Changed::new(Shape::new(20, 2), 3).count(), 20);
    }
}
