//! What a long command did, in numbers, kept for the page.
//!
//! A command begins [`Totals`], counts, and records one line of JSON at its end, whether it went well or not:
//!
//! ```json
//! {"at":1790000000,"commit":"0a1b2c3","command":"cargo xtask torture --minutes 5","seconds":301,"failed":0,
//!  "counts":{"seeds":120,"statements":9312}}
//! ```
//!
//! Lines are appended to `target/trust/KIND.jsonl`; `KIND` is that of a section in `page.rs`. A program that xtask starts says
//! its counts in a line of its output, `totals {"seeds":120,"statements":9312}`: numbers without a sign or a fraction, by any
//! name. Several such lines, also of several programs, are added up. [`Totals::run`] looks for them.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process;
use crate::project::Project;

/// How a line of counts begins.
const MARK: &str = "totals ";
/// Where the lines are, below the build folder.
pub(super) const FOLDER: &str = "trust";

/// The numbers of one run of a command.
pub(crate) struct Totals {
    kind: &'static str,
    command: String,
    start: Instant,
    failed: u64,
    counts: BTreeMap<String, u64>,
}

impl Totals {
    /// Begins to count for `cargo xtask KIND ARGS`.
    pub(crate) fn begin(kind: &'static str, args: &[String]) -> Self {
        let words = args.iter().map(|word| process::quote(word));
        let command = ["cargo", "xtask", kind].map(str::to_owned).into_iter().chain(words);
        let command = command.collect::<Vec<_>>().join(" ");
        Self { kind, command, start: Instant::now(), failed: 0, counts: BTreeMap::new() }
    }

    /// Counts so many more of something.
    pub(crate) fn add(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_owned()).or_default() += count;
    }

    /// Counts so many failures: of seeds, tests, cycles, whatever the command tries.
    pub(crate) fn add_failed(&mut self, count: u64) {
        self.failed += count;
    }

    /// Takes in a line of output, if it is one of counts.
    pub(crate) fn read_line(&mut self, line: &str) {
        let counts = line.strip_prefix(MARK).and_then(|json| serde_json::from_str::<Value>(json).ok());
        let counts = counts.as_ref().and_then(Value::as_object).into_iter().flatten();
        for (name, count) in counts {
            self.add(name, count.as_u64().unwrap_or_default());
        }
    }

    /// Runs a program that says its counts; all that it prints goes to the terminal.
    ///
    /// # Errors
    /// It cannot be started, or does not exit with 0, which counts as a failure.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        self.run_reading(command, |_, _| ())
    }

    /// The same for a program that says what it did in words of its own: `read` is given each line.
    ///
    /// # Errors
    /// As of [`Self::run`].
    pub(crate) fn run_reading(
        &mut self,
        command: &mut Command,
        mut read: impl FnMut(&mut Self, &str),
    ) -> Result<()> {
        let status = process::run_lines(command, |line| {
            self.read_line(line);
            read(self, line);
        });
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                self.failed += 1;
                bail!("{} failed: {status}", process::display(command))
            }
            Err(error) => {
                self.failed += 1;
                Err(error)
            }
        }
    }

    /// Writes the line, also of a run that failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn record(&self, project: &Project) -> Result<()> {
        // As when only `--help` was asked for.
        if self.counts.is_empty() && self.failed == 0 {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = json!({
            "at": now.as_secs(),
            "commit": commit(project),
            "command": self.command,
            "seconds": self.start.elapsed().as_secs(),
            "failed": self.failed,
            "counts": self.counts,
        });
        let folder = project.target().join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{}.jsonl", self.kind));
        let mut file = OpenOptions::new().create(true).append(true).open(&path);
        // One write, so that commands that end at the same time do not mix their lines.
        file.as_mut()
            .map_err(|error| std::io::Error::new(error.kind(), error.to_string()))
            .and_then(|file| file.write_all(format!("{line}\n").as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Records what there is, and hands on how the command ended.
    ///
    /// # Errors
    /// Those of `outcome`, and of [`Self::record`].
    pub(crate) fn end(&self, project: &Project, outcome: Result<()>) -> Result<()> {
        self.record(project)?;
        outcome
    }
}

/// What was tested, as git names it; with a plus where the tree has other changes.
fn commit(project: &Project) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty=+", "--exclude=*"]).current_dir(project.root());
    let output = git.output().ok().filter(|output| output.status.success());
    let name = output.and_then(|output| String::from_utf8(output.stdout).ok());
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_lines_and_added_up() {
        let mut totals = Totals::begin("sim", &["--minutes".to_owned(), "a b".to_owned()]);
        assert_eq!(totals.command, "cargo xtask sim --minutes 'a b'");
        totals.read_line("first seed: 7");
        totals.read_line("totals {\"seeds\":2,\"fault: lost\":40}");
        totals.read_line("totals {\"seeds\":1,\"odd\":-1}");
        totals.read_line("totals are not always JSON");
        let counts: Vec<_> = totals.counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(counts, [("fault: lost", 40), ("odd", 0), ("seeds", 3)]);
    }
}
