//! `cargo xtask crash`: real processes that are killed in every phase, on both sides; builds what users get before.

use std::process::Command;

use anyhow::Result;

use crate::build;
use crate::install;
use crate::project::Project;
use crate::python;
use crate::trust::Totals;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    build::compile(project)?;
    build::place(project)?;
    install::ensure_program("sqlite3", "sqlite3")?;
    let environment = python::environment(project)?;
    let mut command = Command::new(environment.join("bin").join("python"));
    command.args(["-m", "crash"]).args(args).current_dir(project.root().join("tests/py"));
    command.env("CLOUDSYNC_DIST", project.dist());
    let mut totals = Totals::begin("crash", args);
    let outcome = totals.run(&mut command);
    totals.end(project, outcome)
}
