//! `cargo xtask sim`: hands its arguments to `cloudsync-sim`, optimised where it runs for long, and counting the rare branches
//! for `--marks`.

use anyhow::Result;

use crate::process;
use crate::project::Project;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-sim"]);
    if args.iter().any(|arg| arg == "--minutes") {
        command.arg("--release");
    }
    if args.iter().any(|arg| arg == "--marks") {
        command.args(["--features", "coverage"]);
    }
    command.arg("--").args(args);
    process::run(&mut command)
}
