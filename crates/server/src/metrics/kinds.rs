//! Counters, families of counters by their labels, and histograms.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bounds of a histogram at most.
const BOUNDS_MAX: usize = 16;
/// What is counted under labels for which there is no room.
const OTHER: &str = "other";
/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 128;

/// A number that only grows.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, help, "counter");
        let _ = writeln!(out, "cloudsync_{name} {}", self.0.load(Ordering::Relaxed));
    }
}

/// Counters of one name, told apart by the values of their labels. An empty value is a label that is left out.
pub(super) struct Family<const N: usize> {
    room: usize,
    counts: Mutex<BTreeMap<[String; N], u64>>,
}

impl<const N: usize> Family<N> {
    /// A family of at most so many members.
    pub(super) const fn new(room: usize) -> Self {
        Self { room, counts: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn add(&self, labels: [&str; N], count: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = labels.map(bounded);
        if counts.len() >= self.room && !counts.contains_key(&labels) {
            labels = std::array::from_fn(|_| OTHER.to_owned());
        }
        *counts.entry(labels).or_default() += count;
    }

    pub(super) fn write(&self, out: &mut String, name: &str, help: &str, labels: [&str; N]) {
        head(out, name, help, "counter");
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, count) in counts.iter() {
            let pairs = labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
            let pairs: Vec<_> =
                pairs.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let pairs = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
            let _ = writeln!(out, "cloudsync_{name}{pairs} {count}");
        }
    }
}

/// How often a measure was in which range.
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// By bound, and one beyond the last.
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(super) const fn new(bounds: &'static [f64]) -> Self {
        assert!(bounds.len() <= BOUNDS_MAX, "a histogram has room for its bounds");
        Self { bounds, counts: [const { AtomicU64::new(0) }; BOUNDS_MAX + 1], sum_micros: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, seconds: f64) {
        let at = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
    }

    pub(super) fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, help, "histogram");
        let mut total = 0;
        for (at, count) in self.counts.iter().enumerate().take(self.bounds.len() + 1) {
            total += count.load(Ordering::Relaxed);
            let bound = self.bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "cloudsync_{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "cloudsync_{name}_sum {sum}\ncloudsync_{name}_count {total}");
    }
}

/// The lines before a metric.
pub(super) fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(out, "# HELP cloudsync_{name} {help}\n# TYPE cloudsync_{name} {kind}");
}

fn bounded(label: &str) -> String {
    label
        .chars()
        .scan(0, |bytes, character| {
            *bytes += character.len_utf8();
            (*bytes <= LABEL_BYTES_MAX).then_some(character)
        })
        .collect()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_in_number_and_length_and_cannot_break_a_line() {
        let family = Family::<1>::new(3);
        for label in ["a", "b", "c\"\n\\", "d", "e", "a"] {
            family.add([label], 1);
        }
        let mut out = String::new();
        family.write(&mut out, "x_total", "Text.", ["table"]);
        let lines: Vec<_> = out.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "cloudsync_x_total{table=\"a\"} 2",
                "cloudsync_x_total{table=\"b\"} 1",
                "cloudsync_x_total{table=\"c\\\"\\n\\\\\"} 1",
                "cloudsync_x_total{table=\"other\"} 2",
            ]
        );
        assert_eq!(bounded(&"\u{e4}".repeat(100)).len(), LABEL_BYTES_MAX);
    }
}
