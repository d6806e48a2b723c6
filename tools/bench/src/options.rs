//! What the command line asks for.

use crate::case::STATED_ROWS;
use crate::subject::Peer;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
usage: cargo xtask bench [--quick | --full] [OPTIONS]
  --quick           the figures that have targets, some with fewer rows; 3 minutes on 2 cores; else 20
  --full            every shape with every number of columns, medians of 9 rounds
  --peer NAME=PATH  measures a loadable extension too; NAME is one of the adapters: cr-sqlite
  --json FILE       writes the figures as a list of JSON objects
  --docs            puts the table into docs/bench.md
  --rows N          another number of rows than 50,000, and N * 20 where it is 1,000,000
  --only GROUP      writes, sync, delta, scattered, memory or instructions
  --callgrind DIR   keeps the files of callgrind, for callgrind_annotate
Exits with 1, after the table, when a target is missed.";

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Quick,
    Normal,
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) extent: Extent,
    pub(crate) rows: usize,
    pub(crate) peers: Vec<Peer>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) docs: Option<PathBuf>,
    pub(crate) only: Option<String>,
    pub(crate) callgrind: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments; `None` if they ask for help. Here `--docs` wants a file, which xtask adds.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            extent: Extent::Normal,
            rows: STATED_ROWS,
            peers: Vec::new(),
            json: None,
            docs: None,
            only: None,
            callgrind: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value\n{HELP}"));
            match arg.as_str() {
                "--quick" => options.extent = Extent::Quick,
                "--full" => options.extent = Extent::Full,
                "--peer" => options.peers.push(Peer::parse(&value()?)?),
                "--json" => options.json = Some(value()?.into()),
                "--docs" => options.docs = Some(value()?.into()),
                "--rows" => options.rows = value()?.parse().context("--rows wants a number")?,
                "--only" => options.only = Some(value()?),
                "--callgrind" => options.callgrind = Some(value()?.into()),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n{HELP}"),
            }
        }
        if !(100..=STATED_ROWS).contains(&options.rows) {
            bail!("--rows must be between 100 and {STATED_ROWS}");
        }
        for peer in &options.peers {
            if !peer.path.is_file() {
                bail!("--peer: there is no file {}", peer.path.display());
            }
        }
        Ok(Some(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read() {
        let options = parse("--quick --rows 2000 --json out.json --only sync").unwrap().unwrap();
        assert_eq!((options.extent, options.rows), (Extent::Quick, 2_000));
        assert_eq!(options.json, Some(PathBuf::from("out.json")));
        assert_eq!(options.only.as_deref(), Some("sync"));
        assert_eq!(parse("--help").unwrap(), None);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for line in
            ["--rows", "--rows x", "--rows 1", "--nonsense", "--peer cr-sqlite=/no/such/file", "--peer x=y"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
