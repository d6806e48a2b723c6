//! `cloudsync doctor`: what is wrong, and what to do.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;

use super::Place;
use crate::doctor::{Examination, Report, examine};
use crate::error::{Error, Result};
use crate::schema_check::Finding;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// A server's data folder, or the database file of a server or a device; without it, the data folder
    path: Option<PathBuf>,
    /// Mend what is safe to mend: triggers that do not fit, and what evictions left in the file
    #[arg(long)]
    fix: bool,
    /// Do not read the whole of each file
    #[arg(long)]
    quick: bool,
    /// How many rows of each table are compared with what is known of them
    #[arg(long, value_name = "N", default_value_t = 2000)]
    rows: u64,
}

impl Doctor {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let path = self.path.unwrap_or_else(|| place.data_dir.clone());
        let is_shown = !place.json && std::io::stderr().is_terminal();
        let mut progress = |what: &str| {
            if is_shown {
                eprintln!("looking at {what}");
            }
        };
        let Self { fix, quick, rows: rows_max, .. } = self;
        let mut examination = Examination { fix, quick, rows_max, progress: &mut progress };
        let report = examine(&path, &mut examination)?;
        place.print(&report, text)?;
        match report.wrong() {
            0 => Ok(()),
            count => Err(Error::Found { database: report.path, count }),
        }
    }
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> = report.fixed.iter().map(|text| format!("fixed: {text}")).collect();
    lines.extend(report.findings.iter().map(Finding::to_line));
    if report.findings.is_empty() {
        lines.push("nothing is wrong".to_owned());
    }
    lines.join("\n")
}
