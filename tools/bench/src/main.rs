//! Measures writes, extraction and apply as ratios to plain SQLite.
//!
//! `docs/bench.md` says how and why. A run is a list of steps (`plan`): a group of works in one set-up (`case`). In each
//! round everyone (`subject`) does the same on fresh files; the figures meet in `report` and are held against `target`.

mod case;
mod data;
mod database;
mod delta;
mod document;
mod instructions;
mod measure;
mod memory;
mod options;
mod plan;
mod report;
mod scattered;
#[cfg(target_os = "linux")]
mod server;
mod subject;
mod sync;
mod target;
mod words;
mod writes;

use anyhow::{Context, Result};
use case::STATED_ROWS;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((command, rest)) if command == memory::COMMAND => memory::main(rest).map(|()| ExitCode::SUCCESS),
        Some((command, rest)) if command == instructions::COMMAND => {
            instructions::main(rest).map(|()| ExitCode::SUCCESS)
        }
        #[cfg(target_os = "linux")]
        Some((command, rest)) if command == server::COMMAND => server::main(rest),
        #[cfg(target_os = "linux")]
        Some((command, rest)) if command == server::CHILD_COMMAND => {
            server::child(rest).map(|()| ExitCode::SUCCESS)
        }
        _ => bench(&args),
    }
}

fn bench(args: &[String]) -> Result<ExitCode> {
    let Some(options) = options::Options::parse(args.iter().cloned())? else {
        println!("{}", options::HELP);
        return Ok(ExitCode::SUCCESS);
    };
    let report = plan::run(&options, &plan::steps(&options)?)?;
    let table = report.table();
    print!("{table}");
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.docs {
        let extent = match options.extent {
            options::Extent::Quick => " --quick",
            options::Extent::Normal => "",
            options::Extent::Full => " --full",
        };
        let rows =
            if options.rows == STATED_ROWS { String::new() } else { format!(" --rows {}", options.rows) };
        document::WORKS.write(path, &(document::heading(&format!("{extent}{rows}")) + &table))?;
    }
    let missed = report.missed();
    for verdict in &missed {
        println!("{}", verdict.explain());
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
