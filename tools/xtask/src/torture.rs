//! `cargo xtask torture`: random schemas and statements over the shipped library, which it builds, from seeds.
//!
//! Each SQLite is a process of its own: the system's and the newest one share the first, the others are the oldest one,
//! compiled from its source, and versions between them that are packaged for Python.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::process;
use crate::project::Project;
use crate::python;
use crate::trust::Totals;

/// The source of the oldest supported SQLite, as its crate carries it.
const OLDEST_CRATE: &str = "libsqlite3-sys";
const OLDEST_CRATE_VERSION: &str = "0.22.2";
/// Versions of apsw, each with the SQLite of its name.
const BETWEEN: &[&str] = &["3.39.3.0", "3.42.0.1", "3.46.1.0"];

/// What `cargo xtask torture` was asked for.
struct Wanted {
    minutes: f64,
    rest: Vec<String>,
    every: bool,
}

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let wanted = parse(args)?;
    build::compile(project)?;
    build::place(project)?;
    let environment = python::environment(project)?;
    let python = environment.join("bin").join("python");
    let mut runs = vec![("the system's SQLite and the newest", command(project, &python))];
    if wanted.every {
        let mut oldest = command(project, &python);
        oldest.args(["--binding", "sqlite3"]).env("LD_LIBRARY_PATH", oldest_sqlite(project)?);
        runs.push(("the oldest SQLite", oldest));
        for version in BETWEEN {
            let mut between = command(project, &python);
            let packages = packaged(project, &python, version)?;
            between.args(["--binding", "apsw"]).env("PYTHONPATH", packages);
            runs.push((version, between));
        }
    }
    let minutes = wanted.minutes / runs.len() as f64;
    let mut totals = Totals::begin("torture", args);
    let mut failed = Vec::new();
    for (name, mut run) in runs {
        run.args(["--minutes", &minutes.to_string()]).args(&wanted.rest);
        if totals.run(&mut run).is_err() {
            failed.push(name);
        }
    }
    totals.record(project)?;
    if failed.is_empty() { Ok(()) } else { bail!("a seed failed in {}", failed.join(", ")) }
}

fn parse(args: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted { minutes: 1.0, rest: Vec::new(), every: false };
    let mut args = args.iter();
    while let Some(argument) = args.next() {
        match argument.as_str() {
            "--minutes" => {
                let minutes = args.next().context("--minutes wants a number")?;
                wanted.minutes = minutes.parse().with_context(|| format!("{minutes} is no number"))?;
            }
            "--every-sqlite" => wanted.every = true,
            other => wanted.rest.push(other.to_owned()),
        }
    }
    Ok(wanted)
}

fn command(project: &Project, python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "torture"]).current_dir(project.root().join("tests/py"));
    command.env("CLOUDSYNC_DIST", project.dist());
    command
}

/// A folder with the oldest supported SQLite in the place of the system's, for Python's own module.
fn oldest_sqlite(project: &Project) -> Result<PathBuf> {
    let folder = project.target().join("oldest-libsqlite");
    let library = folder.join("libsqlite3.so.0");
    if library.is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let source = crate_source(project)?.join("sqlite3").join("sqlite3.c");
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-shared", "-fPIC", "-DSQLITE_ENABLE_COLUMN_METADATA", "-DSQLITE_THREADSAFE=1"]);
    compile.args([
        "-DSQLITE_ENABLE_LOAD_EXTENSION",
        "-DSQLITE_ENABLE_FTS5",
        "-DSQLITE_ENABLE_JSON1",
        "-DSQLITE_ENABLE_DESERIALIZE",
    ]);
    compile.arg("-o").arg(&library).arg(source).args(["-lpthread", "-ldl", "-lm"]);
    process::run(&mut compile)?;
    Ok(folder)
}

/// Where cargo unpacked the crate that brings the oldest SQLite; the suite `oldest` depends on it.
fn crate_source(project: &Project) -> Result<PathBuf> {
    let mut metadata = project.cargo();
    metadata.args(["metadata", "--format-version", "1", "--manifest-path", "tests/oldest-sqlite/Cargo.toml"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&process::capture(&mut metadata)?).context("cargo metadata printed no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let oldest = packages
        .iter()
        .find(|package| package["name"] == OLDEST_CRATE && package["version"] == OLDEST_CRATE_VERSION);
    let manifest = oldest.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.with_context(|| format!("{OLDEST_CRATE} {OLDEST_CRATE_VERSION} is not there"))?;
    Ok(Path::new(manifest).parent().context("a manifest without a folder")?.to_owned())
}

/// A folder with that version of apsw.
fn packaged(project: &Project, python: &Path, version: &str) -> Result<PathBuf> {
    let folder = project.target().join(format!("apsw-{version}"));
    if !folder.join("apsw").is_dir() {
        let mut pip = Command::new(python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        ]);
        process::run(pip.arg("--target").arg(&folder).arg(format!("apsw=={version}")))?;
    }
    Ok(folder)
}
