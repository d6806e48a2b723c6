//! The figures: gathered per work, printed as one table, written as JSON.

use crate::measure::{Cost, median};
use crate::subject::Implementation;
use crate::target::{self, Verdict};
use anyhow::Result;
use serde_json::{Value as Json, json};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// Empty for the stated set-up, else how this differs, with commas between.
    pub(crate) variant: String,
    /// Value columns.
    pub(crate) columns: usize,
    pub(crate) implementation: Implementation,
}

/// The figures of one work.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// One for each round.
    costs: Vec<Cost>,
    /// One for each round.
    bytes: Vec<f64>,
    instructions: Option<f64>,
    cells: usize,
}

impl Figures {
    pub(crate) fn cpu_s(&self) -> Option<f64> {
        median(self.costs.iter().map(|cost| cost.cpu_s).collect())
    }

    fn wall_s(&self) -> Option<f64> {
        median(self.costs.iter().map(|cost| cost.wall_s).collect())
    }

    pub(crate) fn bytes(&self) -> Option<f64> {
        median(self.bytes.clone())
    }

    /// Cells in a second of CPU time.
    pub(crate) fn cells_per_s(&self) -> Option<f64> {
        self.cpu_s().filter(|cpu_s| *cpu_s > 0.0 && self.cells > 0).map(|cpu_s| self.cells as f64 / cpu_s)
    }

    /// The multiple of plain SQLite's figures: CPU time, else instructions, else bytes. Of CPU time it is the middle of
    /// the ratios of each round: what slows the machine down for a while slows both down.
    fn ratio_to(&self, plain: &Self) -> Option<f64> {
        let rounds = |ours: &[f64], plain: &[f64]| {
            let pairs = ours.iter().zip(plain).filter(|(_, plain)| **plain > 0.0);
            median(pairs.map(|(ours, plain)| ours / plain).collect())
        };
        let cpu = |figures: &Self| figures.costs.iter().map(|cost| cost.cpu_s).collect::<Vec<_>>();
        rounds(&cpu(self), &cpu(plain))
            .or_else(|| rounds(self.instructions.as_slice(), plain.instructions.as_slice()))
            .or_else(|| rounds(&self.bytes, &plain.bytes))
    }
}

/// All figures, in the order in which their works were first met.
#[derive(Debug, Default)]
pub(crate) struct Report {
    entries: Vec<(Work, Figures)>,
    /// What a reader of a line has to know.
    notes: Vec<(Work, String)>,
}

impl Report {
    /// Adds one round of a work that touched `cells` cells.
    pub(crate) fn add_cost(&mut self, work: Work, cost: Cost, cells: usize) {
        let figures = self.figures_mut(work);
        figures.costs.push(cost);
        figures.cells = cells;
    }

    /// Adds a number of bytes, of one round.
    pub(crate) fn add_bytes(&mut self, work: Work, bytes: f64) {
        self.figures_mut(work).bytes.push(bytes);
    }

    /// Sets the instructions per row.
    pub(crate) fn set_instructions(&mut self, work: Work, instructions: f64) {
        self.figures_mut(work).instructions = Some(instructions);
    }

    /// Adds what a reader of a line has to know; once.
    pub(crate) fn note(&mut self, work: &Work, note: String) {
        let note = (line_of(work), note);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn figures_mut(&mut self, work: Work) -> &mut Figures {
        let at = self.entries.iter().position(|(known, _)| *known == work).unwrap_or_else(|| {
            self.entries.push((work, Figures::default()));
            self.entries.len() - 1
        });
        &mut self.entries[at].1
    }

    /// The figures of a work, if it was measured.
    pub(crate) fn figures(&self, work: &Work) -> Option<&Figures> {
        self.entries.iter().find(|(known, _)| known == work).map(|(_, figures)| figures)
    }

    /// The multiple of what plain SQLite needs for the same work in the same run and variant.
    pub(crate) fn ratio(&self, work: &Work) -> Option<f64> {
        self.figures(work)?.ratio_to(self.figures(&line_of(work))?)
    }

    /// The works of one implementation or another, each once.
    fn lines(&self) -> Vec<Work> {
        let mut lines: Vec<Work> = Vec::new();
        for (work, _) in &self.entries {
            let line = line_of(work);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.sort_by_key(|line| (order(line.name), line.variant.clone(), line.columns));
        lines
    }

    /// The table: Markdown whose columns are as wide as what stands in them, so that it reads well in a terminal too.
    pub(crate) fn table(&self) -> String {
        let implementations = Implementation::all();
        let mut rows = vec![vec!["work".to_owned(), "C".to_owned(), "variant".to_owned()]];
        rows[0].extend(implementations.iter().map(|implementation| implementation.name().to_owned()));
        rows[0].extend(["cloudsync cells/s", "target", "note"].map(str::to_owned));
        for line in self.lines() {
            let mut row = vec![line.name.to_owned(), line.columns.to_string(), line.variant.clone()];
            let of = |implementation| Work { implementation, ..line.clone() };
            row.extend(implementations.iter().map(|implementation| self.cell(&of(*implementation))));
            let ours = self.figures(&of(Implementation::Cloudsync));
            row.push(ours.and_then(Figures::cells_per_s).map_or_else(dash, rate_text));
            row.push(target::verdict(self, &line).map_or_else(String::new, |verdict| verdict.to_string()));
            let notes = self.notes.iter().filter(|(known, _)| *known == line).map(|(_, note)| note.as_str());
            row.push(notes.collect::<Vec<_>>().join("; "));
            rows.push(row);
        }
        align(&rows)
    }

    /// The ratio, with the figures behind it.
    fn cell(&self, work: &Work) -> String {
        let Some(figures) = self.figures(work) else {
            return dash();
        };
        let ratio = self.ratio(work).map_or_else(dash, |ratio| format!("{ratio:.2}"));
        if let (Some(cpu_s), Some(wall_s)) = (figures.cpu_s(), figures.wall_s()) {
            format!("{ratio} ({} / {} ms)", milliseconds(cpu_s), milliseconds(wall_s))
        } else if let Some(instructions) = figures.instructions {
            format!("{ratio} ({instructions:.0} i)")
        } else if let Some(bytes) = figures.bytes() {
            format!("{ratio} ({})", bytes_text(bytes))
        } else {
            dash()
        }
    }

    /// The targets that were missed.
    pub(crate) fn missed(&self) -> Vec<Verdict> {
        self.lines()
            .iter()
            .filter_map(|line| target::verdict(self, line))
            .filter(|verdict| !verdict.met)
            .collect()
    }

    /// The figures for programs.
    pub(crate) fn json(&self) -> Result<String> {
        let list: Vec<Json> = self
            .entries
            .iter()
            .map(|(work, figures)| {
                json!({
                    "work": work.name,
                    "c": work.columns,
                    "impl": work.implementation.name(),
                    "variant": work.variant,
                    "ratio": self.ratio(work),
                    "cpu_s": figures.cpu_s(),
                    "wall_s": figures.wall_s(),
                    "cells_per_s": figures.cells_per_s(),
                    "bytes": figures.bytes(),
                })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&list)?)
    }
}

/// The line of the table that a work is on, which is named like the work of plain SQLite.
fn line_of(work: &Work) -> Work {
    Work { implementation: Implementation::Plain, ..work.clone() }
}

/// Where a work stands in the table.
fn order(name: &str) -> usize {
    const NAMES: [&str; 14] = [
        "insert",
        "update_one",
        "update_all",
        "delete",
        "insert_single_tx",
        "insert_and_fold",
        "file_size",
        "extract_all",
        "extract_100",
        "apply_empty",
        "apply_same",
        "apply_conflict",
        "payload_bytes",
        "peak_memory",
    ];
    NAMES.iter().position(|known| *known == name).unwrap_or(NAMES.len())
}

fn dash() -> String {
    "-".to_owned()
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// Three digits or so, in thousands or millions a second.
pub(crate) fn rate_text(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.1} M", rate / 1e6) } else { format!("{:.0} k", rate / 1e3) }
}

/// Three digits or so, in the fitting unit.
pub(crate) fn bytes_text(bytes: f64) -> String {
    const KIB: f64 = 1024.0;
    match bytes {
        bytes if bytes >= KIB * KIB => format!("{:.1} MiB", bytes / KIB / KIB),
        bytes if bytes >= 10.0 * KIB => format!("{:.1} KiB", bytes / KIB),
        bytes => format!("{bytes:.1} B"),
    }
}

/// A table of cells, its first row the titles.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(3);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let head = [line(&rows[0]), line(&rule)];
    head.into_iter().chain(rows[1..].iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(implementation: Implementation) -> Work {
        Work { name: "insert", variant: String::new(), columns: 10, implementation }
    }

    fn cost(cpu_s: f64) -> Cost {
        Cost { cpu_s, wall_s: cpu_s + 1.0 }
    }

    fn sample() -> Report {
        let mut report = Report::default();
        // The machine is three times as slow in the last round, for both.
        for (plain, ours) in [(1.0, 1.5), (1.0, 1.5), (1.0, 1.5), (3.0, 4.5), (3.0, 4.5)] {
            report.add_cost(work(Implementation::Plain), cost(plain), 10);
            report.add_cost(work(Implementation::Cloudsync), cost(ours), 10);
        }
        report
    }

    #[test]
    fn ratios_are_to_plain_sqlite_of_the_same_round() {
        let mut report = sample();
        assert_eq!(report.ratio(&work(Implementation::Cloudsync)), Some(1.5));
        let other = |implementation| Work { variant: "synthetic".to_owned(), ..work(implementation) };
        report.add_cost(other(Implementation::Cloudsync), cost(8.0), 10);
        assert_eq!(
            report.ratio(&other(Implementation::Cloudsync)),
            None,
            "plain of another variant was taken"
        );
        report.add_cost(other(Implementation::Plain), cost(2.0), 10);
        assert_eq!(report.ratio(&other(Implementation::Cloudsync)), Some(4.0));
    }

    #[test]
    fn the_list_for_programs_has_every_field() {
        let mut report = sample();
        let size = Work { name: "file_size", ..work(Implementation::Cloudsync) };
        report.add_bytes(size, 7.0);
        let list: Json = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(
            list[1],
            json!({
                "work": "insert", "c": 10, "impl": "cloudsync", "variant": "", "ratio": 1.5, "cpu_s": 1.5,
                "wall_s": 2.5, "cells_per_s": 10.0 / 1.5, "bytes": null,
            })
        );
        assert_eq!(
            (&list[2]["bytes"], &list[2]["cpu_s"], &list[2]["ratio"]),
            (&json!(7.0), &json!(null), &json!(null))
        );
    }

    #[test]
    fn the_table_has_a_dash_for_who_was_not_there_and_names_the_target() {
        let table = sample().table();
        let line = table.lines().nth(2).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(
            cells[1..8],
            ["insert", "10", "", "1.00 (1000 / 2000 ms)", "-", "1.50 (1500 / 2500 ms)", "-"]
        );
        assert_eq!(cells[9], "<= 1.8");
        let widths: Vec<_> = table.lines().map(str::len).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }

    #[test]
    fn a_miss_is_listed() {
        let mut report = sample();
        assert!(report.missed().is_empty());
        let delete = |implementation| Work { name: "delete", ..work(implementation) };
        report.add_cost(delete(Implementation::Plain), cost(1.0), 10);
        report.add_cost(delete(Implementation::Cloudsync), cost(2.5), 10);
        let missed = report.missed();
        assert_eq!(missed.len(), 1);
        assert!(report.table().contains("<= 2.0 MISSED"), "{}", report.table());
    }
}
