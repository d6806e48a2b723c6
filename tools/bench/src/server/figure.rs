//! The figures of a run, the limits that some of them have, and how both are shown.

use super::load::Load;
use crate::report::{align, bytes_text};
use anyhow::Result;
use serde_json::{Value as Json, json};
use std::fmt;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Seconds,
    Bytes,
    /// Cells that the server took in, in a second of its CPU time.
    CellsPerCpuSecond,
    /// Of one core.
    Percent,
    /// Percent of all.
    Share,
    /// How many.
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::CellsPerCpuSecond => "cells/CPU s",
            Self::Percent => "% of a core",
            Self::Share => "%",
            Self::Count => "count",
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Bytes => bytes_text(value),
            Self::Count => format!("{value:.0}"),
            Self::CellsPerCpuSecond => format!("{value:.0} {}", self.name()),
            Self::Milliseconds | Self::Seconds => format!("{value:.1} {}", self.name()),
            Self::Percent | Self::Share => format!("{value:.2} {}", self.name()),
        }
    }
}

/// What a figure must not exceed, or must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    Max(f64),
    Min(f64),
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// In which set-up.
    pub(super) variant: String,
    pub(super) value: f64,
    pub(super) unit: Unit,
    pub(super) limit: Option<Limit>,
}

impl Figure {
    fn is_met(&self) -> bool {
        // A figure that is no number meets nothing.
        match self.limit {
            None => true,
            Some(Limit::Max(limit)) => self.value <= limit,
            Some(Limit::Min(limit)) => self.value >= limit,
        }
    }

    fn target(&self) -> String {
        let text = match self.limit {
            None => return String::new(),
            Some(Limit::Max(limit)) => format!("<= {}", self.unit.text(limit)),
            Some(Limit::Min(limit)) => format!(">= {}", self.unit.text(limit)),
        };
        text + if self.is_met() { "" } else { " MISSED" }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.variant, self.unit.text(self.value))
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) loads: Vec<Load>,
    pub(super) list: Vec<Figure>,
}

impl Figures {
    pub(super) fn add(
        &mut self,
        name: &'static str,
        variant: impl Into<String>,
        (value, unit): (f64, Unit),
        limit: Option<Limit>,
    ) {
        self.list.push(Figure { name, variant: variant.into(), value, unit, limit });
    }

    /// Adds median and p99 of times in milliseconds.
    pub(super) fn add_times(
        &mut self,
        name: &'static str,
        variant: &str,
        mut times_ms: Vec<f64>,
        [median_max, p99_max]: [Option<f64>; 2],
    ) {
        times_ms.sort_by(f64::total_cmp);
        for (which, part, max) in [("median", 0.5, median_max), ("p99", 0.99, p99_max)] {
            let variant = format!("{which}, {variant}, {} samples", times_ms.len());
            self.add(name, variant, (quantile(&times_ms, part), Unit::Milliseconds), max.map(Limit::Max));
        }
    }

    /// The tables, as Markdown that reads well in a terminal, too.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        if !self.loads.is_empty() {
            let mut rows = vec![Load::TITLES.map(str::to_owned).to_vec()];
            rows.extend(self.loads.iter().map(|load| load.cells().to_vec()));
            text = align(&rows) + "\n";
        }
        let mut rows = vec![["figure", "set-up", "value", "target"].map(str::to_owned).to_vec()];
        rows.extend(self.list.iter().map(|figure| {
            let value = figure.unit.text(figure.value);
            vec![figure.name.to_owned(), figure.variant.clone(), value, figure.target()]
        }));
        text + &align(&rows)
    }

    /// One line for each target that was missed.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.list.iter().filter(|figure| !figure.is_met());
        missed.map(|figure| format!("missed: {figure}, and should be {}", figure.target())).collect()
    }

    /// The figures for programs.
    pub(super) fn json(&self) -> Result<String> {
        let loads: Vec<Json> = self.loads.iter().map(Load::json).collect();
        let figures: Vec<Json> = self
            .list
            .iter()
            .map(|figure| {
                json!({
                    "figure": figure.name, "set_up": figure.variant, "value": figure.value,
                    "unit": figure.unit.name(), "target": figure.target(), "met": figure.is_met(),
                })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&json!({ "loads": loads, "figures": figures }))?)
    }
}

/// The value below which this part of all lies; they are in order.
pub(super) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((quantile(&times, 0.5), quantile(&times, 0.99)), (100.0, 198.0));
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn limits_hold_in_both_directions_and_nothing_measured_is_a_miss() {
        let mut figures = Figures::default();
        figures.add("a", "x", (5.0, Unit::Seconds), Some(Limit::Max(5.0)));
        figures.add("b", "x", (5.0, Unit::Seconds), Some(Limit::Min(5.0)));
        figures.add("c", "x", (1e9, Unit::Bytes), None);
        assert_eq!(figures.missed(), Vec::<String>::new());
        figures.add("d", "x", (5.1, Unit::Seconds), Some(Limit::Max(5.0)));
        figures.add("e", "x", (4.9, Unit::Seconds), Some(Limit::Min(5.0)));
        figures.add_times("f", "x", Vec::new(), [Some(1.0), None]);
        assert_eq!(figures.missed().len(), 3);
        assert!(figures.table().contains("<= 5.0 s MISSED"), "{}", figures.table());
        let json: Json = serde_json::from_str(&figures.json().unwrap()).unwrap();
        assert_eq!((&json["figures"][0]["met"], &json["figures"][3]["met"]), (&json!(true), &json!(false)));
    }
}
