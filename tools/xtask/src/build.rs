//! `cargo xtask build`: the extension and the server, as users get them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::progress::Progress;
use crate::project::Project;

/// What the build makes: cargo's name for it, and where it goes below `dist`.
const PRODUCTS: &[(&str, &str)] = &[("libcloudsync.so", "lib/cloudsync.so"), ("cloudsync", "cloudsync")];

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if let Some(argument) = args.first() {
        bail!("build takes no argument, and got `{argument}`");
    }
    let mut progress = Progress::new(2);
    progress.step("building the extension and the server (release)");
    compile(project)?;
    progress.step("placing them in dist");
    place(project)?;
    println!("\ndone in {}", progress.elapsed());
    Ok(())
}

/// Compiles in release mode. One call for both, so that they share what they have in common.
pub(crate) fn compile(project: &Project) -> Result<()> {
    let mut command = project.cargo();
    command.args(["build", "--release", "--package", "cloudsync-extension", "--package", "cloudsync-server"]);
    process::run(&mut command)
}

/// Copies what was compiled to `dist`.
pub(crate) fn place(project: &Project) -> Result<()> {
    for (from, to) in PRODUCTS {
        replace(&project.target().join("release").join(from), &project.dist().join(to))?;
        println!("dist/{to}");
    }
    Ok(())
}

/// Puts a copy at `to` by renaming: a process that runs the old file keeps it, where overwriting would
/// change code under its feet.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a product has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let copy = to.with_extension(format!("{}.part", std::process::id()));
    fs::copy(from, &copy).with_context(|| format!("cannot copy {} to {}", from.display(), copy.display()))?;
    fs::rename(&copy, to).with_context(|| format!("cannot move {} to {}", copy.display(), to.display()))
}
