//! One set-up in which works are measured.

use crate::data::Shape;
use crate::measure::Cost;
use crate::report::{Report, Work};
use crate::subject::{Contest, Implementation, Sample};
use anyhow::Result;

/// Rows of the stated set-up.
pub(crate) const STATED_ROWS: usize = 50_000;

/// A table, the settings of its connections, and how often everything is done.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    /// Empty for the stated set-up.
    pub(crate) variant: &'static str,
    /// `PRAGMA temp_store=MEMORY`, for all.
    pub(crate) temp_store_memory: bool,
    pub(crate) rounds: usize,
    /// How many rows the stated set-up has; another number is noted in the table.
    pub(crate) stated_rows: usize,
}

impl Case {
    /// A fresh file with the empty table.
    pub(crate) fn sample(&self, contest: &Contest, implementation: Implementation) -> Result<Sample> {
        Sample::create(contest, implementation, self.shape, self.temp_store_memory)
    }

    /// The full name of a work, given its name and what is particular to it within this case.
    pub(crate) fn work(&self, work: (&'static str, &str), implementation: Implementation) -> Work {
        let (name, own) = work;
        let parts: Vec<_> = [own, self.variant].into_iter().filter(|part| !part.is_empty()).collect();
        Work { name, variant: parts.join(","), columns: self.shape.columns, implementation }
    }

    pub(crate) fn add_cost(
        &self,
        report: &mut Report,
        work: (&'static str, &str),
        implementation: Implementation,
        cost: Cost,
        cells: usize,
    ) {
        let work = self.work(work, implementation);
        self.note_rows(report, &work);
        report.add_cost(work, cost, cells);
    }

    pub(crate) fn add_bytes(
        &self,
        report: &mut Report,
        work: (&'static str, &str),
        implementation: Implementation,
        bytes: f64,
    ) {
        let work = self.work(work, implementation);
        self.note_rows(report, &work);
        report.add_bytes(work, bytes);
    }

    /// Says in the table that there were fewer rows than the set-up states.
    fn note_rows(&self, report: &mut Report, work: &Work) {
        if self.shape.rows != self.stated_rows {
            report.note(work, format!("{} rows", self.shape.rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_joins_what_differs() {
        let mut case = Case {
            shape: Shape::new(10, 3),
            variant: "",
            temp_store_memory: false,
            rounds: 1,
            stated_rows: STATED_ROWS,
        };
        let variant = |case: &Case, own| case.work(("insert", own), Implementation::Plain).variant;
        assert_eq!(variant(&case, ""), "");
        assert_eq!(variant(&case, "local_wins"), "local_wins");
        case.variant = "temp_store";
        assert_eq!(variant(&case, ""), "temp_store");
        assert_eq!(variant(&case, "local_wins"), "local_wins,temp_store");
    }

    #[test]
    fn fewer_rows_are_noted() {
        let mut case = Case {
            shape: Shape::new(10, 3),
            variant: "",
            temp_store_memory: false,
            rounds: 1,
            stated_rows: STATED_ROWS,
        };
        let table = |case: &Case| {
            let mut report = Report::default();
            case.add_bytes(&mut report, ("file_size", ""), Implementation::Cloudsync, 1.0);
            report.table()
        };
        assert!(table(&case).contains("10 rows"), "{}", table(&case));
        case.stated_rows = 10;
        assert!(!table(&case).contains("10 rows"), "{}", table(&case));
    }
}
