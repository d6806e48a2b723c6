//! What the command line asks for.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
usage: cargo xtask bench server [--quick | --full] [OPTIONS]
  --quick       all that has a target, most of it with fewer rounds and rows; 2 minutes on 2 cores; else 10
  --full        more rounds
  --smoke       tiny counts, to see that it works: no figure is held against its target
  --json FILE   writes the figures as JSON
  --docs        puts the tables into docs/bench.md
  --only GROUP  load, ingest, first-sync, latency, listeners, idle or retries
Exits with 1, after the tables, when a target is missed. Needs Linux.";

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    Smoke,
    Quick,
    Normal,
    Full,
}

impl Extent {
    /// The argument for it.
    pub(super) fn argument(self) -> &'static str {
        match self {
            Self::Smoke => " --smoke",
            Self::Quick => " --quick",
            Self::Normal => "",
            Self::Full => " --full",
        }
    }

    /// One of four values.
    pub(super) fn pick<T>(self, [smoke, quick, normal, full]: [T; 4]) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Normal => normal,
            Self::Full => full,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) extent: Extent,
    /// The server's program.
    pub(super) server: PathBuf,
    /// The loadable extension.
    pub(super) library: PathBuf,
    pub(super) json: Option<PathBuf>,
    pub(super) docs: Option<PathBuf>,
    pub(super) only: Option<String>,
}

impl Options {
    /// Reads the arguments; `None` if they ask for help. xtask adds `--server`, `--library`, and a file to `--docs`.
    pub(super) fn parse(args: &[String]) -> Result<Option<Self>> {
        let (mut extent, mut server, mut library) = (Extent::Normal, None, None);
        let (mut json, mut docs, mut only) = (None, None, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().with_context(|| format!("{arg} wants a value\n{HELP}"));
            match arg.as_str() {
                "--smoke" => extent = Extent::Smoke,
                "--quick" => extent = Extent::Quick,
                "--full" => extent = Extent::Full,
                "--server" => server = Some(file(&value()?)?),
                "--library" => library = Some(file(&value()?)?),
                "--json" => json = Some(value()?.into()),
                "--docs" => docs = Some(value()?.into()),
                "--only" => only = Some(value()?),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n{HELP}"),
            }
        }
        let server = server.context("--server wants the server's program")?;
        let library = library.context("--library wants the loadable extension")?;
        Ok(Some(Self { extent, server, library, json, docs, only }))
    }
}

fn file(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    path.canonicalize().with_context(|| format!("there is no file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn arguments_are_read() {
        let options =
            parse("--quick --server /proc/self/exe --library /proc/self/exe --only load").unwrap().unwrap();
        assert_eq!((options.extent, options.only.as_deref()), (Extent::Quick, Some("load")));
        assert_eq!(options.extent.pick([1, 2, 3, 4]), 2);
        assert_eq!(parse("--help").unwrap(), None);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for line in ["", "--server /no/such/file", "--server /proc/self/exe", "--json", "--nonsense"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
