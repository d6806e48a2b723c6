//! `cargo xtask bench`: hands its arguments to `cloudsync-bench`.

use anyhow::Result;

use crate::process;
use crate::project::Project;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--release", "--package", "cloudsync-bench", "--"]).args(args);
    process::run(&mut command)
}
