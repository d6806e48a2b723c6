//! What the page says of one kind: all lines that there are, made into rows.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::totals::FOLDER;
use crate::project::Project;

/// All runs of one kind of command, the oldest first.
pub(super) struct Runs(Vec<Value>);

/// How a figure comes from counts of runs.
pub(super) enum Figure {
    /// The sum over all runs.
    Sum(&'static str),
    /// The greatest of all runs.
    Max(&'static str),
    /// Of the last run that counted it.
    Last(&'static str),
    /// A sum of milliseconds, in hours.
    Hours(&'static str),
    /// A sum of milliseconds, in years.
    Years(&'static str),
    /// A sum of milliseconds in each minute of another, in hours: what a minute of one core gives.
    HoursPerMinute(&'static str, &'static str),
    /// In percent of another, in the last run that counted both.
    Share(&'static str, &'static str),
    /// The sums of all whose names begin so, each in a row of its own.
    Each(&'static str),
}

const MS_PER_HOUR: f64 = 3_600_000.0;
const MS_PER_MINUTE: f64 = 60_000.0;
const HOURS_PER_YEAR: f64 = 24.0 * 365.25;

impl Runs {
    /// Reads `target/trust/KIND.jsonl`; what is no line of ours is an error.
    pub(super) fn read(project: &Project, kind: &str) -> Result<Self> {
        let path = project.target().join(FOLDER).join(format!("{kind}.jsonl"));
        if !path.is_file() {
            return Ok(Self(Vec::new()));
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let runs: Result<Vec<Value>> = lines
            .map(|(number, line)| serde_json::from_str(line).with_context(|| format!("line {}", number + 1)))
            .collect();
        let mut runs = runs?;
        runs.sort_by_key(|run| run["at"].as_u64());
        Ok(Self(runs))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When, how long, on which state of the source, and how it ended.
    pub(super) fn summary(&self) -> String {
        let seconds: u64 = self.0.iter().filter_map(|run| run["seconds"].as_u64()).sum();
        let failed: u64 = self.0.iter().filter_map(|run| run["failed"].as_u64()).sum();
        let Some((first, last)) = self.0.first().zip(self.0.last()) else { return String::new() };
        let day = |run: &Value| date(run["at"].as_u64().unwrap_or_default());
        let days = match (day(first), day(last)) {
            (first, last) if first == last => format!("on {first}"),
            (first, last) => format!("from {first} to {last}"),
        };
        let runs = if self.0.len() == 1 { "run" } else { "runs" };
        let commit = last["commit"].as_str().unwrap_or("unknown");
        format!(
            "{} {runs} {days}, {} together, the last at {commit}; {failed} failed",
            self.0.len(),
            length(seconds)
        )
    }

    /// The rows of a figure: what it is called, and what it is. None when no run has counted it.
    pub(super) fn rows(&self, label: &str, figure: &Figure) -> Vec<(String, String)> {
        let one = |value: Option<String>| value.map(|value| (label.to_owned(), value)).into_iter().collect();
        match *figure {
            Figure::Sum(name) => one(self.sum(name).map(grouped)),
            Figure::Max(name) => one(self.all(name).max().map(grouped)),
            Figure::Last(name) => one(self.all(name).last().map(grouped)),
            Figure::Hours(name) => one(self.sum(name).map(|ms| decimal(ms as f64 / MS_PER_HOUR))),
            Figure::Years(name) => {
                one(self.sum(name).map(|ms| decimal(ms as f64 / MS_PER_HOUR / HOURS_PER_YEAR)))
            }
            Figure::HoursPerMinute(of, each) => {
                let both = self.sum(of).zip(self.sum(each)).filter(|(_, each)| *each > 0);
                one(both.map(|(of, each)| decimal(of as f64 / MS_PER_HOUR / (each as f64 / MS_PER_MINUTE))))
            }
            Figure::Share(part, whole) => one(self.share(part, whole)),
            Figure::Each(prefix) => {
                let counts = self.0.iter().filter_map(|run| run["counts"].as_object()).flatten();
                let mut names: Vec<&str> =
                    counts.map(|(name, _)| name.as_str()).filter(|name| name.starts_with(prefix)).collect();
                names.sort_unstable();
                names.dedup();
                let row = |name: &str| {
                    let count = self.sum(name).unwrap_or_default();
                    (format!("{label}{}", &name[prefix.len()..]), grouped(count))
                };
                names.into_iter().map(row).collect()
            }
        }
    }

    fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = u64> {
        self.0.iter().filter_map(move |run| run["counts"][name].as_u64())
    }

    fn sum(&self, name: &str) -> Option<u64> {
        self.all(name).reduce(|sum, count| sum + count)
    }

    fn share(&self, part: &str, whole: &str) -> Option<String> {
        self.0.iter().rev().find_map(|run| {
            let (part, whole) = (run["counts"][part].as_u64()?, run["counts"][whole].as_u64()?);
            // Of nothing there is no share.
            let share = (whole > 0).then(|| part as f64 / whole as f64 * 100.0)?;
            // Rounded down: what is not whole never looks so.
            Some(format!("{:.1} % ({} of {})", (share * 10.0).floor() / 10.0, grouped(part), grouped(whole)))
        })
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A fraction with as many digits as mean something.
fn decimal(number: f64) -> String {
    match number {
        number if number >= 100.0 => grouped(number.round() as u64),
        number if number >= 1.0 => format!("{number:.1}"),
        number => format!("{number:.3}"),
    }
}

fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}

/// The day of a time in seconds since 1970, in UTC (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const RUNS: &str = r#"
{"at":951868800,"commit":"bbb","seconds":300,"failed":1,"counts":{"ms":7200000,"core":60000,"seen":2,"all":3,"none":0,"f: b":1}}
{"at":951782400,"commit":"aaa","seconds":90,"failed":0,"counts":{"ms":3600000,"core":60000,"seen":9,"all":9,"f: a":1200,"f: b":4}}
"#;

    fn rows(figure: &Figure) -> Vec<(String, String)> {
        Runs::parse(RUNS).unwrap().rows("x ", figure)
    }

    #[test]
    fn figures_come_from_all_runs_or_the_last() {
        let one = |figure| rows(&figure).pop().unwrap().1;
        assert_eq!(one(Figure::Sum("seen")), "11");
        assert_eq!(one(Figure::Max("seen")), "9");
        assert_eq!(one(Figure::Last("seen")), "2");
        assert_eq!(one(Figure::Hours("ms")), "3.0");
        assert_eq!(one(Figure::HoursPerMinute("ms", "core")), "1.5");
        assert_eq!(one(Figure::Share("seen", "all")), "66.6 % (2 of 3)");
        let each = rows(&Figure::Each("f: "));
        assert_eq!(each, [("x a".to_owned(), "1,200".to_owned()), ("x b".to_owned(), "5".to_owned())]);
        assert!(rows(&Figure::Sum("never counted")).is_empty());
        assert!(rows(&Figure::Share("none", "none")).is_empty(), "a share of nothing");
    }

    #[test]
    fn a_summary_tells_of_failures_too() {
        let summary = Runs::parse(RUNS).unwrap().summary();
        assert_eq!(
            summary,
            "2 runs from 2000-02-29 to 2000-03-01, 6 min together, the last at bbb; 1 failed"
        );
        assert!(Runs::parse("{\"at\":1}\nno JSON").is_err());
    }
}
