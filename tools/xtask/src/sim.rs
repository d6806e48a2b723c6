//! `cargo xtask sim`: hands its arguments to `cloudsync-sim`, optimised where it runs for long; then it has to be told to count
//! the rare branches.

use anyhow::Result;

use crate::project::Project;
use crate::trust::Totals;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-sim"]);
    if args.iter().any(|arg| arg == "--minutes") {
        command.arg("--release");
        if args.iter().any(|arg| arg == "--marks" || arg == "--common") {
            command.args(["--features", "coverage"]);
        }
    }
    // To give memory back to the system and take it again costs a thirtieth of a run.
    command.env("MIMALLOC_PURGE_DELAY", "-1");
    command.args(["--", "--totals"]).args(args);
    let mut totals = Totals::begin("sim", args);
    let outcome = totals.run(&mut command);
    totals.end(project, outcome)
}
