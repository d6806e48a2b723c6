//! An interpreter for the black-box tests, with what they need, below the build folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install;
use crate::process;
use crate::project::Project;

/// What the tests import, beside the standard library.
const REQUIREMENTS: &str = "tests/py/requirements.txt";

/// Makes the environment of the tests ready and gives its folder; what is there already is kept.
///
/// # Errors
/// No interpreter that can load extensions is there or can be installed, or the packages cannot be.
pub(crate) fn environment(project: &Project) -> Result<PathBuf> {
    let folder = project.target().join("venv");
    let python = folder.join("bin").join("python");
    let wanted = fs::read_to_string(project.root().join(REQUIREMENTS))
        .with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let stamp = folder.join("installed.txt");
    let ready = fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);
    if ready && loads_extensions(&python) {
        return Ok(folder);
    }
    create(project, &interpreter()?, &folder)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    process::run(pip.arg(project.root().join(REQUIREMENTS)))?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(folder)
}

/// An interpreter whose `sqlite3` module can load extensions: many are built without.
fn interpreter() -> Result<PathBuf> {
    let find = || {
        let on_path = process::find_program("python3");
        let candidates = on_path.into_iter().chain([PathBuf::from("/usr/bin/python3")]);
        candidates.into_iter().find(|python| loads_extensions(python))
    };
    if let Some(python) = find() {
        return Ok(python);
    }
    println!("no python3 here can load SQLite extensions");
    install::install_package("python3-venv")?;
    find().context("the system's python3 cannot load SQLite extensions: install one that can")
}

fn loads_extensions(python: &Path) -> bool {
    let test = "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)";
    process::succeeds(Command::new(python).args(["-c", test]))
}

/// Creates an environment with `venv`, installing what Debian keeps apart from python3, or with
/// `virtualenv` where that is not possible.
fn create(project: &Project, python: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let venv = || {
        let mut command = Command::new(python);
        command.args(["-m", "venv", "--clear"]).arg(folder);
        process::run(&mut command)
    };
    if venv().is_ok() {
        return Ok(());
    }
    if install::install_package("python3-venv").is_ok() && venv().is_ok() {
        return Ok(());
    }
    let tools = project.target().join("tools").join("virtualenv");
    for pip in [python, Path::new("python3")] {
        let mut install = Command::new(pip);
        install.args(["-m", "pip", "install", "--quiet", "virtualenv", "--target"]).arg(&tools);
        let mut create = Command::new(pip);
        create.args(["-m", "virtualenv", "--clear", "--python"]).args([python, folder]);
        create.env("PYTHONPATH", &tools);
        if process::run(&mut install).is_ok() && process::run(&mut create).is_ok() {
            return Ok(());
        }
    }
    bail!("cannot create a Python environment: install the package `python3-venv` and try again")
}
