//! The figures: gathered per work, printed as a table and written as JSON.

use crate::measure::{Cost, median};
use anyhow::Result;
use serde_json::{Value as Json, json};
use std::fmt::Write as _;

/// Who does the work. Peers get their own entries here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// SQLite without anything: what ratios refer to.
    Plain,
    /// Our replica.
    Cloudsync,
}

impl Implementation {
    /// In the order in which they take turns.
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Cloudsync];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Cloudsync => "cloudsync",
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// Empty for the ordinary way.
    pub(crate) variant: &'static str,
    /// Value columns.
    pub(crate) columns: usize,
    pub(crate) implementation: Implementation,
}

#[derive(Debug)]
struct Entry {
    work: Work,
    costs: Vec<Cost>,
    bytes: Vec<f64>,
    cells: usize,
}

impl Entry {
    fn cpu_s(&self) -> Option<f64> {
        (!self.costs.is_empty()).then(|| median(self.costs.iter().map(|cost| cost.cpu_s).collect()))
    }

    fn wall_s(&self) -> Option<f64> {
        (!self.costs.is_empty()).then(|| median(self.costs.iter().map(|cost| cost.wall_s).collect()))
    }

    fn bytes(&self) -> Option<f64> {
        (!self.bytes.is_empty()).then(|| median(self.bytes.clone()))
    }

    fn cells_per_s(&self) -> Option<f64> {
        self.cpu_s().filter(|cpu_s| *cpu_s > 0.0 && self.cells > 0).map(|cpu_s| self.cells as f64 / cpu_s)
    }
}

/// All figures, in the order in which they were first met.
#[derive(Debug, Default)]
pub(crate) struct Report {
    entries: Vec<Entry>,
}

impl Report {
    /// Adds one run of a work that touched `cells` cells.
    pub(crate) fn add_cost(&mut self, work: Work, cost: Cost, cells: usize) {
        let entry = self.entry(work);
        entry.costs.push(cost);
        entry.cells = cells;
    }

    /// Adds a size in bytes.
    pub(crate) fn add_bytes(&mut self, work: Work, bytes: f64) {
        self.entry(work).bytes.push(bytes);
    }

    fn entry(&mut self, work: Work) -> &mut Entry {
        let at = self.entries.iter().position(|entry| entry.work == work).unwrap_or_else(|| {
            self.entries.push(Entry { work, costs: Vec::new(), bytes: Vec::new(), cells: 0 });
            self.entries.len() - 1
        });
        &mut self.entries[at]
    }

    /// What the same work is in plain SQLite: that of the same variant, else the ordinary one.
    fn plain(&self, work: Work) -> Option<&Entry> {
        let find = |variant| {
            let plain = Work { variant, implementation: Implementation::Plain, ..work };
            self.entries.iter().find(|entry| entry.work == plain)
        };
        find(work.variant).or_else(|| find(""))
    }

    /// CPU time as a multiple of plain SQLite's, or bytes where only sizes were taken.
    fn ratio(&self, entry: &Entry) -> Option<f64> {
        let plain = self.plain(entry.work)?;
        let divide =
            |ours: Option<f64>, plain: Option<f64>| Some(ours? / plain.filter(|plain| *plain > 0.0)?);
        divide(entry.cpu_s(), plain.cpu_s()).or_else(|| divide(entry.bytes(), plain.bytes()))
    }

    /// The figures for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "{:<18} {:<14} {:>3}  {:<10} {:>7} {:>10} {:>10} {:>12} {:>14}\n",
            "work", "variant", "C", "impl", "ratio", "cpu ms", "wall ms", "cells/s", "bytes"
        );
        for entry in &self.entries {
            let number = |value: Option<f64>, digits| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let work = entry.work;
            let ms = |seconds: Option<f64>| number(seconds.map(|seconds| seconds * 1e3), 3);
            let fine = entry.bytes().is_some_and(|bytes| bytes < 1_000.0);
            // Writing to a String does not fail.
            let _ = writeln!(
                out,
                "{:<18} {:<14} {:>3}  {:<10} {:>7} {:>10} {:>10} {:>12} {:>14}",
                work.name,
                work.variant,
                work.columns,
                work.implementation.name(),
                number(self.ratio(entry), 2),
                ms(entry.cpu_s()),
                ms(entry.wall_s()),
                number(entry.cells_per_s(), 0),
                number(entry.bytes(), if fine { 2 } else { 0 }),
            );
        }
        out
    }

    /// The figures for programs.
    pub(crate) fn json(&self) -> Result<String> {
        let list: Vec<Json> = self
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "work": entry.work.name,
                    "c": entry.work.columns,
                    "impl": entry.work.implementation.name(),
                    "variant": entry.work.variant,
                    "ratio": self.ratio(entry),
                    "cpu_s": entry.cpu_s(),
                    "wall_s": entry.wall_s(),
                    "cells_per_s": entry.cells_per_s(),
                    "bytes": entry.bytes(),
                })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&list)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_plain_sqlite() {
        let mut report = Report::default();
        let plain = Work { name: "insert", variant: "", columns: 1, implementation: Implementation::Plain };
        let ours = Work { variant: "other", implementation: Implementation::Cloudsync, ..plain };
        report.add_cost(plain, Cost { cpu_s: 2.0, wall_s: 2.0 }, 10);
        report.add_cost(ours, Cost { cpu_s: 3.0, wall_s: 3.0 }, 10);
        assert_eq!(
            report.entries.iter().map(|entry| report.ratio(entry)).collect::<Vec<_>>(),
            [Some(1.0), Some(1.5)]
        );
        assert!(report.json().unwrap().contains("\"ratio\": 1.5"));
        assert!(report.table().lines().count() == 3);
    }
}
