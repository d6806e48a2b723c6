//! What a run measures, in which order, and how far it is.

use crate::case::{Case, STATED_ROWS};
use crate::data::{Keys, Shape, Values};
use crate::options::{Extent, Options};
use crate::report::Report;
use crate::subject::Contest;
use crate::{delta, instructions, memory, scattered, sync, writes};
use anyhow::{Context, Result, bail};
use std::time::Instant;

/// Works that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Writes,
    Sync,
    /// With the name of the table's size.
    Delta(&'static str),
    Scattered,
    Memory,
    Instructions,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Writes => "writes",
            Self::Sync => "sync",
            Self::Delta(_) => "delta",
            Self::Scattered => "scattered",
            Self::Memory => "memory",
            Self::Instructions => "instructions",
        }
    }

    /// About how long one round of everyone takes per row of so many cells, in microseconds: only the ratios matter,
    /// for the progress that is shown.
    fn weight(self, case: &Case) -> f64 {
        let (rows, cells) = (case.shape.rows as f64, (case.shape.columns + 6) as f64);
        match self {
            Self::Writes => rows * cells * case.rounds as f64 * 3.0,
            Self::Sync => rows * cells * case.rounds as f64 * 7.0,
            Self::Delta(_) => rows * cells * 1.5 + case.rounds as f64 * 1e4,
            Self::Scattered => rows * cells * (1.5 + case.rounds as f64 * 0.4),
            Self::Memory => rows * cells * 5.0,
            Self::Instructions => 4e7,
        }
    }
}

/// One group in one set-up.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    group: Group,
    case: Case,
}

const WRITES_AND_SYNC: [Group; 2] = [Group::Writes, Group::Sync];
const ALL_COLUMNS: [usize; 4] = [1, 3, 10, 30];
/// The number of columns for which most targets are stated.
const MAIN_COLUMNS: usize = 10;
/// How many times the ordinary number of rows a large table has.
const LARGE: usize = 20;
/// Long texts fill a file soon.
const LONG_PART: usize = 10;

/// The tables that differ in one thing from the stated set-up.
fn shapes(rows: usize, columns: usize) -> [(&'static str, Shape); 6] {
    let shape = Shape::new(rows, columns);
    [
        ("random_keys", Shape { keys: Keys::Random, ..shape }),
        ("integer_keys", Shape { keys: Keys::Integer, ..shape }),
        ("blob_keys", Shape { keys: Keys::Blob, ..shape }),
        ("composite_keys", Shape { keys: Keys::Composite, ..shape }),
        ("sentences", Shape { values: Values::Sentences, ..shape }),
        ("long_texts", Shape { values: Values::Long, rows: rows / LONG_PART, ..shape }),
    ]
}

/// Collects the steps of a run.
struct Plan {
    steps: Vec<Step>,
    rows: usize,
    rounds: usize,
}

impl Plan {
    fn add(&mut self, groups: &[Group], variant: &'static str, shape: Shape, stated_rows: usize) {
        // Of a few milliseconds it takes more rounds to find the middle.
        let rounds = |group| if matches!(group, Group::Delta(_)) { 4 * self.rounds + 1 } else { self.rounds };
        self.steps.extend(groups.iter().map(|group| Step {
            group: *group,
            case: Case {
                shape,
                variant,
                temp_store_memory: variant.contains("temp_store"),
                rounds: rounds(*group),
                stated_rows,
            },
        }));
    }

    /// The stated set-up, and what "every figure" is to be seen with as well.
    fn add_variants(&mut self, groups: &[Group], rows: usize, columns: usize, both: bool) {
        let shape = Shape::new(rows, columns);
        let synthetic = Shape { values: Values::Synthetic, ..shape };
        self.add(groups, "temp_store", shape, STATED_ROWS);
        self.add(groups, "synthetic", synthetic, STATED_ROWS);
        if both {
            self.add(groups, "synthetic,temp_store", synthetic, STATED_ROWS);
        }
    }

    fn add_large(&mut self, group: Group, variant: &'static str, rows: usize) {
        let mut shape = Shape::new(rows, MAIN_COLUMNS);
        if variant.contains("synthetic") {
            shape.values = Values::Synthetic;
        }
        self.add(&[group], variant, shape, STATED_ROWS * LARGE);
    }

    fn add_small_delta(&mut self, variant: &'static str) {
        let shape = Shape::new(delta::FEW_ROWS, MAIN_COLUMNS);
        let values = if variant.contains("synthetic") { Values::Synthetic } else { Values::Realistic };
        self.add(&[Group::Delta("of_1000")], variant, Shape { values, ..shape }, delta::FEW_ROWS);
    }

    fn quick(&mut self) {
        let rows = self.rows;
        self.add(&WRITES_AND_SYNC, "", Shape::new(rows, MAIN_COLUMNS), STATED_ROWS);
        self.add(&[Group::Writes], "", Shape::new(rows, 30), STATED_ROWS);
        self.add_variants(&WRITES_AND_SYNC, rows / 10, MAIN_COLUMNS, true);
        let sentences = Shape { values: Values::Sentences, ..Shape::new(rows / 10, MAIN_COLUMNS) };
        self.add(&[Group::Sync], "sentences", sentences, STATED_ROWS);
        let large = rows * LARGE / 5;
        self.add_small_delta("");
        self.add_large(Group::Delta(""), "", large);
        self.add_large(Group::Memory, "", large);
        self.add(&[Group::Instructions], "", Shape::new(rows.min(1_000), MAIN_COLUMNS), rows.min(1_000));
    }

    fn normal(&mut self, full: bool) {
        let rows = self.rows;
        for columns in ALL_COLUMNS {
            self.add(&WRITES_AND_SYNC, "", Shape::new(rows, columns), STATED_ROWS);
            self.add_variants(&WRITES_AND_SYNC, rows, columns, full || columns == MAIN_COLUMNS);
            if columns != MAIN_COLUMNS && !full {
                continue;
            }
            for (variant, shape) in shapes(rows, columns) {
                // Payloads of longer texts are promised something too.
                let both = full || variant == "sentences";
                let groups = if both { &WRITES_AND_SYNC[..] } else { &[Group::Writes] };
                let stated = if variant == "long_texts" { STATED_ROWS / LONG_PART } else { STATED_ROWS };
                self.add(groups, variant, shape, stated);
            }
        }
        let large = rows * LARGE;
        let variants = ["temp_store", "synthetic", "synthetic,temp_store"];
        self.add_small_delta("");
        variants.into_iter().for_each(|variant| self.add_small_delta(variant));
        self.add_large(Group::Delta(""), "", large);
        self.add_large(Group::Scattered, "100000_random_into_1000000", large);
        self.add_large(Group::Memory, "", large);
        if full {
            for variant in variants {
                self.add_large(Group::Delta(""), variant, large);
            }
        }
        self.add(&[Group::Instructions], "", Shape::new(rows.min(2_000), MAIN_COLUMNS), rows.min(2_000));
    }
}

/// Gives the steps that the options ask for.
pub(crate) fn steps(options: &Options) -> Result<Vec<Step>> {
    let rounds = if options.extent == Extent::Full { 9 } else { 5 };
    let mut plan = Plan { steps: Vec::new(), rows: options.rows, rounds };
    match options.extent {
        Extent::Quick => plan.quick(),
        Extent::Normal => plan.normal(false),
        Extent::Full => plan.normal(true),
    }
    if let Some(only) = &options.only {
        plan.steps.retain(|step| step.group.name() == only);
        if plan.steps.is_empty() {
            bail!("--only {only}: there is no such group");
        }
    }
    Ok(plan.steps)
}

/// Takes the steps one after the other, and says on standard error where it is.
pub(crate) fn run(options: &Options, steps: &[Step]) -> Result<Report> {
    let contest = Contest { peers: options.peers.clone() };
    let weights: Vec<_> = steps.iter().map(|step| step.group.weight(&step.case)).collect();
    let whole: f64 = weights.iter().sum();
    let (mut report, mut done, start) = (Report::default(), 0.0, Instant::now());
    for (number, (step, weight)) in steps.iter().zip(weights).enumerate() {
        let elapsed = start.elapsed().as_secs_f64();
        let left = if done > 0.0 { clock(elapsed / done * (whole - done)) } else { "?".to_owned() };
        let Case { shape, variant, .. } = &step.case;
        let what = format!("{} of {} rows, C={} {variant}", step.group.name(), shape.rows, shape.columns);
        eprintln!(
            "[{}/{}  {}, about {left} left] {}",
            number + 1,
            steps.len(),
            clock(elapsed),
            what.trim_end()
        );
        take(&mut report, &contest, options, step).with_context(|| what.trim_end().to_owned())?;
        done += weight;
    }
    eprintln!("done in {}", clock(start.elapsed().as_secs_f64()));
    Ok(report)
}

fn take(report: &mut Report, contest: &Contest, options: &Options, step: &Step) -> Result<()> {
    let case = &step.case;
    match step.group {
        Group::Writes => writes::run(report, contest, case),
        Group::Sync => sync::run(report, contest, case),
        Group::Delta(own) => delta::run(report, contest, case, own),
        Group::Scattered => scattered::run(report, contest, case),
        Group::Memory => memory::run(report, contest, case),
        Group::Instructions => instructions::run(report, contest, case.shape, options.callgrind.as_deref()),
    }
}

/// Minutes and seconds.
pub(crate) fn clock(seconds: f64) -> String {
    format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target;

    fn options(line: &str) -> Options {
        Options::parse(line.split_whitespace().map(str::to_owned)).unwrap().unwrap()
    }

    /// Runs a plan on a few rows, without the groups that start processes of this program.
    fn measured(line: &str) -> Report {
        let options = options(line);
        let mut steps = steps(&options).unwrap();
        steps.retain(|step| !matches!(step.group, Group::Memory | Group::Instructions));
        for step in &mut steps {
            step.case.rounds = 1;
            step.case.shape.rows = step.case.shape.rows.min(100);
        }
        run(&options, &steps).unwrap()
    }

    #[test]
    fn every_plan_measures_all_that_has_a_target() {
        for line in ["--quick --rows 100", "--rows 100"] {
            let report = measured(line);
            let missing = target::unmeasured(&report);
            assert_eq!(missing, ["peak_memory", "peak_memory apply"], "{line}");
        }
    }

    #[test]
    fn variants_are_where_they_should_be() {
        let report = measured("--rows 100");
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let has = |work: &str, variant: &str, c: u64| {
            json.as_array()
                .unwrap()
                .iter()
                .any(|entry| entry["work"] == work && entry["variant"] == variant && entry["c"] == c)
        };
        for c in [1, 3, 10, 30] {
            for variant in ["", "temp_store", "synthetic"] {
                assert!(has("update_all", variant, c) && has("apply_same", variant, c), "{variant} {c}");
            }
        }
        for variant in
            ["random_keys", "integer_keys", "blob_keys", "composite_keys", "sentences", "long_texts"]
        {
            assert!(has("insert_and_fold", variant, 10), "{variant}");
        }
        assert!(has("update_all", "synthetic,temp_store", 10));
        assert!(has("insert_and_fold", "100000_random_into_1000000", 10));
    }

    #[test]
    fn one_group_can_be_chosen() {
        let chosen = steps(&options("--only scattered")).unwrap();
        assert!(chosen.len() == 1 && chosen[0].group == Group::Scattered);
        assert!(steps(&options("--only nonsense")).is_err());
    }

    #[test]
    fn time_is_minutes_and_seconds() {
        assert_eq!(clock(125.9), "2:05");
    }
}
