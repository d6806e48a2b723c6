//! `cargo xtask sim`: hands its arguments to `cloudsync-sim`, compiled for this machine where it runs for long; then it has to be
//! told to count the rare branches.

use std::process::Command;

use anyhow::Result;

use crate::project::Project;
use crate::trust::Totals;

/// What the host's calls cost in SQLite for the sake of hosts that misuse it, for a planner that knows more than a table of a
/// simulated device has, and for names that nobody asks for. The histories are the same without.
const SQLITE_FLAGS: &str = "-USQLITE_ENABLE_API_ARMOR -USQLITE_ENABLE_STAT4 -USQLITE_ENABLE_COLUMN_METADATA";

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-sim"]);
    if args.iter().any(|arg| arg == "--minutes") {
        for_this_machine(project, &mut command);
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

/// Compiles for the processor at hand, in a folder of its own: a tenth more hours for some minutes of compiling.
fn for_this_machine(project: &Project, command: &mut Command) {
    command.args(["--profile", "sim", "--target-dir"]).arg(project.target().join("sim"));
    command.env("RUSTFLAGS", "-C target-cpu=native").env("CFLAGS", "-O3 -march=native");
    command.env("LIBSQLITE3_FLAGS", SQLITE_FLAGS);
}
