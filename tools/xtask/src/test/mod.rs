//! `cargo xtask test`: every suite, one after the other, and one line that counts them all.
//!
//! A suite that fails does not stop the others; what it said of its failures is said again at the end. The last line is the plain `N passed, 0 failed, 0 skipped`
//! that people and machines read alike.

mod failures;
mod suites;
mod tally;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::progress::{Progress, format_seconds};
use crate::project::Project;
use crate::trust::Totals;
use suites::{Outcome, SUITES, Suite};
pub(crate) use tally::Tally;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if args.iter().any(|argument| argument == "--list") {
        for suite in SUITES {
            println!("{:<10}{}", suite.name, suite.about);
        }
        return Ok(());
    }
    let suites = select(args)?;
    let mut progress = Progress::new(suites.len());
    let mut rows = Vec::new();
    for suite in suites {
        progress.step(&format!("{}: {}", suite.name, suite.about));
        let start = Instant::now();
        let outcome = (suite.run)(project).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Outcome::failed(&error)
        });
        rows.push(Row { name: suite.name, outcome, seconds: start.elapsed().as_secs() });
    }
    let mut total = Tally::default();
    rows.iter().for_each(|row| total += row.outcome.tally);
    if args.is_empty() {
        let mut totals = Totals::begin("test", args);
        totals.add("passed", total.passed);
        totals.add("failed", total.failed);
        totals.add("skipped", total.skipped);
        totals.add_failed(total.failed);
        totals.record(project)?;
    }
    report(&rows, total, &progress)
}

/// The named suites in the order of the table, or all of them.
fn select(names: &[String]) -> Result<Vec<&'static Suite>> {
    if let Some(name) = names.iter().find(|name| SUITES.iter().all(|suite| suite.name != name.as_str())) {
        bail!("`{name}` is not a suite; `cargo xtask test --list` lists them");
    }
    let selected = |suite: &&Suite| names.is_empty() || names.iter().any(|name| name == suite.name);
    Ok(SUITES.iter().filter(selected).collect())
}

/// A line of the report.
struct Row {
    name: &'static str,
    outcome: Outcome,
    seconds: u64,
}

fn report(rows: &[Row], total: Tally, progress: &Progress) -> Result<()> {
    for row in rows.iter().filter(|row| !row.outcome.failures.is_empty()) {
        println!("\nfailed in {}:", row.name);
        row.outcome.failures.iter().for_each(|line| println!("{line}"));
    }
    println!("\n{:<10}{:>8}{:>8}{:>8}{:>9}", "suite", "passed", "failed", "skipped", "elapsed");
    for Row { name, outcome, seconds } in rows {
        let Tally { passed, failed, skipped } = outcome.tally;
        println!("{name:<10}{passed:>8}{failed:>8}{skipped:>8}{:>9}", format_seconds(*seconds));
    }
    println!("total time {}\n", progress.elapsed());
    println!("{total}");
    if total.failed > 0 {
        // The line above says it, and nothing may follow that line.
        std::process::exit(1);
    }
    Ok(())
}
