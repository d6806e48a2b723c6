//! `cargo xtask sim`: hands its arguments to `cloudsync-sim`.

use anyhow::Result;

use crate::process;
use crate::project::Project;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-sim", "--"]).args(args);
    process::run(&mut command)
}
