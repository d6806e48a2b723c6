//! `cargo xtask faults`: the tests of `crates/extension/tests/fault_loops.rs`, at every call.

use anyhow::{Result, bail};

use crate::project::Project;
use crate::trust::Totals;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if let Some(argument) = args.first() {
        bail!("faults takes nothing, and there is `{argument}`");
    }
    let mut totals = Totals::begin("faults", args);
    let mut command = project.cargo();
    command.args(["test", "--package", "cloudsync-extension", "--test", "fault_loops", "--", "--nocapture"]);
    project.for_many_runs(&mut command).env("CLOUDSYNC_FAULTS_EVERY", "1");
    let outcome = totals.run_reading(&mut command, |totals, line| {
        if let Some((faults, calls)) = parse(line) {
            totals.add("loops", 1);
            totals.add("faults", faults);
            totals.add("calls", calls);
        }
    });
    totals.end(project, outcome)
}

/// Reads `NAME: 12 faults at 34 calls`, which may stand behind what else is printed in the line.
fn parse(line: &str) -> Option<(u64, u64)> {
    let (faults, calls) = line.split_once(" faults at ")?;
    Some((faults.rsplit(' ').next()?.parse().ok()?, calls.strip_suffix(" calls")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_loops_are_read() {
        assert_eq!(parse("test writes ... writes: 12 faults at 34 calls"), Some((12, 34)));
        assert_eq!(parse("faults at calls"), None);
    }
}
