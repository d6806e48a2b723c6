//! Measures writes, extraction and apply as ratios to plain SQLite.
//!
//! Every work runs several times, plain SQLite and ours alternating, each time on fresh files in a temporary folder:
//! WAL, `synchronous=NORMAL`, a UUIDv7 text as the key, statements prepared once and bound without copies. Ratios are
//! of the medians of CPU time, since the machines are shared. One file per group of works.

mod data;
mod database;
mod measure;
mod payload;
mod report;
mod sync;
mod writes;

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const HELP: &str = "usage: cloudsync-bench [--quick] [--json FILE] [--rows N]
  --quick      20,000 rows of 10 columns, medians of 3 runs; else 50,000 rows of 1, 3, 10 and 30 columns, of 5
  --json FILE  writes the figures as a list of JSON objects as well
  --rows N     another number of rows";

/// What the command line asks for.
pub(crate) struct Options {
    /// Rows per table.
    pub(crate) rows: usize,
    /// Numbers of value columns to measure.
    pub(crate) columns: &'static [usize],
    /// Runs of which the median is taken.
    pub(crate) runs: usize,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self { rows: 50_000, columns: &[1, 3, 10, 30], runs: 5, json: None };
        let mut rows = None;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value\n{HELP}"));
            match arg.as_str() {
                "--quick" => (options.rows, options.columns, options.runs) = (20_000, &[10], 3),
                "--json" => options.json = Some(value()?.into()),
                "--rows" => rows = Some(value()?.parse::<usize>().context("--rows wants a number")?),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n{HELP}"),
            }
        }
        options.rows = rows.unwrap_or(options.rows);
        if options.rows < sync::DELTA_ROWS {
            bail!("--rows must be at least {}", sync::DELTA_ROWS);
        }
        Ok(Some(options))
    }
}

fn main() -> Result<()> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(());
    };
    let mut report = report::Report::default();
    for columns in options.columns {
        writes::run(&mut report, &options, *columns)?;
        sync::run(&mut report, &options, *columns)?;
        payload::run(&mut report, &options, *columns)?;
    }
    print!("{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
