//! What the product promises, and whether a run bears it out.

use crate::report::{Report, Work, bytes_text, rate_text};
use crate::subject::Implementation;
use std::fmt;

/// A limit of one figure of ours.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The multiple of plain SQLite.
    RatioMax(f64),
    /// Cells in a second of CPU time.
    CellsPerSecondMin(f64),
    /// Milliseconds of CPU time.
    MillisecondsMax(f64),
    /// The same, and no more than so many times those of another variant.
    MillisecondsMaxAndTimes(f64, f64, &'static str),
    /// Bytes.
    BytesMax(f64),
}

struct Target {
    work: &'static str,
    variant: &'static str,
    columns: usize,
    limit: Limit,
}

const fn target(work: &'static str, variant: &'static str, columns: usize, limit: Limit) -> Target {
    Target { work, variant, columns, limit }
}

/// What counts as the same time for a thousand times the rows: deeper trees, and 100 scattered rows of a large table
/// whose pages just fill SQLite's cache, may cost this much. Anything that reads the table costs hundreds of times.
const FLAT: f64 = 4.0;
const MIB: f64 = 1_048_576.0;

const TARGETS: &[Target] = &[
    target("insert", "", 10, Limit::RatioMax(1.8)),
    target("insert", "", 30, Limit::RatioMax(1.8)),
    target("update_one", "", 10, Limit::RatioMax(2.4)),
    target("update_all", "", 10, Limit::RatioMax(2.4)),
    target("delete", "", 10, Limit::RatioMax(2.0)),
    target("insert_single_tx", "", 10, Limit::RatioMax(1.6)),
    target("insert_and_fold", "", 10, Limit::RatioMax(3.5)),
    target("file_size", "", 10, Limit::RatioMax(1.5)),
    target("file_size", "metadata_per_row", 10, Limit::BytesMax(64.0)),
    target("extract_all", "", 10, Limit::RatioMax(4.0)),
    target("extract_100", "", 10, Limit::MillisecondsMaxAndTimes(2.0, FLAT, "of_1000")),
    target("extract_100", "of_1000", 10, Limit::MillisecondsMax(2.0)),
    target("apply_empty", "", 10, Limit::RatioMax(4.5)),
    target("apply_same", "", 10, Limit::CellsPerSecondMin(2e6)),
    target("apply_conflict", "", 10, Limit::CellsPerSecondMin(0.8e6)),
    target("apply_conflict", "local_wins", 10, Limit::CellsPerSecondMin(0.8e6)),
    target("payload_bytes", "", 10, Limit::BytesMax(10.0)),
    target("payload_bytes", "sentences", 10, Limit::BytesMax(10.0)),
    target("payload_bytes", "100_changes", 10, Limit::BytesMax(20.0)),
    target("peak_memory", "", 10, Limit::BytesMax(64.0 * MIB)),
    target("peak_memory", "apply", 10, Limit::BytesMax(64.0 * MIB)),
];

/// What became of a target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) work: Work,
    pub(crate) met: bool,
    wanted: String,
    measured: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.wanted, if self.met { "" } else { " MISSED" })
    }
}

impl Verdict {
    /// One line about a target that was missed.
    pub(crate) fn explain(&self) -> String {
        let Work { name, variant, columns, .. } = &self.work;
        let variant = if variant.is_empty() { String::new() } else { format!(" ({variant})") };
        format!("missed: {name}{variant}, C={columns}: {}, and should be {}", self.measured, self.wanted)
    }
}

/// Compares our figures for a work with its target; `None` if it has none or was not measured.
pub(crate) fn verdict(report: &Report, line: &Work) -> Option<Verdict> {
    let target = TARGETS.iter().find(|target| {
        (target.work, target.variant, target.columns) == (line.name, line.variant.as_str(), line.columns)
    })?;
    let work = Work { implementation: Implementation::Cloudsync, ..line.clone() };
    let figures = report.figures(&work)?;
    let (value, met, wanted, measured) = match target.limit {
        Limit::RatioMax(limit) => {
            let value = report.ratio(&work)?;
            (value, value <= limit, format!("<= {limit:.1}"), format!("{value:.2}"))
        }
        Limit::CellsPerSecondMin(limit) => {
            let value = figures.cells_per_s()?;
            let [measured, wanted] = [value, limit].map(|rate| format!("{}cells/s", rate_text(rate)));
            (value, value >= limit, format!(">= {wanted}"), measured)
        }
        Limit::MillisecondsMax(limit) => {
            let value = figures.cpu_s()? * 1e3;
            (value, value <= limit, format!("<= {limit:.1} ms"), format!("{value:.2} ms"))
        }
        Limit::MillisecondsMaxAndTimes(limit, times, variant) => {
            let value = figures.cpu_s()? * 1e3;
            let other = Work { variant: variant.to_owned(), ..work.clone() };
            let other = report.figures(&other)?.cpu_s()? * 1e3;
            let met = value <= limit && value <= times * other;
            (value, met, format!("<= {limit:.1} ms, <= {times:.0}x {variant}"), format!("{value:.2} ms"))
        }
        Limit::BytesMax(limit) => {
            let value = figures.bytes()?;
            (value, value <= limit, format!("<= {}", bytes_text(limit)), bytes_text(value))
        }
    };
    // A figure that is no number meets nothing.
    Some(Verdict { work, met: met && value.is_finite(), wanted, measured })
}

/// The targets that a run did not measure.
#[cfg(test)]
pub(crate) fn unmeasured(report: &Report) -> Vec<String> {
    let missing = TARGETS.iter().filter(|target| {
        let variant = target.variant.to_owned();
        let implementation = Implementation::Plain;
        verdict(report, &Work { name: target.work, variant, columns: target.columns, implementation })
            .is_none()
    });
    missing.map(|target| format!("{} {}", target.work, target.variant).trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Cost;

    fn work(name: &'static str, columns: usize, implementation: Implementation) -> Work {
        Work { name, variant: String::new(), columns, implementation }
    }

    fn rate(cpu_s: f64) -> Option<Verdict> {
        let mut report = Report::default();
        let ours = work("apply_same", 10, Implementation::Cloudsync);
        report.add_cost(ours.clone(), Cost { cpu_s, wall_s: cpu_s }, 1_000_000);
        verdict(&report, &ours)
    }

    #[test]
    fn a_rate_has_to_be_reached() {
        assert!(rate(0.5).unwrap().met);
        let verdict = rate(0.51).unwrap();
        assert!(!verdict.met);
        assert_eq!(verdict.to_string(), ">= 2.0 Mcells/s MISSED");
        assert!(verdict.explain().contains("apply_same, C=10"), "{}", verdict.explain());
    }

    #[test]
    fn bytes_must_not_be_exceeded_and_other_variants_promise_nothing() {
        let mut report = Report::default();
        let mut ours = work("payload_bytes", 10, Implementation::Cloudsync);
        report.add_bytes(ours.clone(), 10.0);
        assert!(verdict(&report, &ours).unwrap().met);
        report.add_bytes(ours.clone(), 10.2);
        assert!(!verdict(&report, &ours).unwrap().met);
        ours.variant = "synthetic".to_owned();
        report.add_bytes(ours.clone(), 100.0);
        assert_eq!(verdict(&report, &ours), None);
    }

    #[test]
    fn a_large_table_must_not_take_much_longer_than_a_small_one() {
        let judge = |large: f64, small: f64| {
            let mut report = Report::default();
            let ours = work("extract_100", 10, Implementation::Cloudsync);
            let of_small = Work { variant: "of_1000".to_owned(), ..ours.clone() };
            for (work, cpu_s) in [(&ours, large), (&of_small, small)] {
                report.add_cost(work.clone(), Cost { cpu_s, wall_s: cpu_s }, 100);
            }
            verdict(&report, &ours).unwrap().met
        };
        assert!(judge(0.0019, 0.0005));
        assert!(!judge(0.0019, 0.0004));
        assert!(!judge(0.0021, 0.0019));
    }

    #[test]
    fn what_was_not_measured_is_no_miss() {
        assert_eq!(verdict(&Report::default(), &work("insert", 10, Implementation::Plain)), None);
    }
}
