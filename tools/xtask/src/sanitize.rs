//! `cargo xtask sanitize`: the shipped library under valgrind, and an instrumented one under the black-box tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::install;
use crate::miri;
use crate::process;
use crate::project::Project;
use crate::python;
use crate::test::Tally;
use crate::trust::Totals;

/// What the shell runs under valgrind.
const SCRIPT: &str = "tests/sanitize/shell.sql";
/// Connections that are opened and closed under valgrind.
const OPENS: usize = 60;
/// The host's kind of machine; named, so that build scripts and macros are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The black-box tests that spend their time in the library.
const TESTS: &[&str] = &[
    "test_functions.py",
    "test_tables.py",
    "test_algorithms.py",
    "test_triggers.py",
    "test_constraints.py",
    "test_filters.py",
    "test_schema.py",
    "test_conflicts.py",
    "test_torture.py",
    "test_compat.py",
];

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if args.first().is_some_and(|what| what == "miri") {
        return miri::run(project, &args[1..]);
    }
    let mut totals = Totals::begin("sanitize", args);
    let outcome = match args.first().map(String::as_str) {
        Some("valgrind") => valgrind(project, &mut totals),
        Some("address") => address(project, &args[1..], &mut totals),
        None => valgrind(project, &mut totals).and_then(|()| address(project, &[], &mut totals)),
        Some(other) => bail!("`{other}` is not valgrind, address or miri"),
    };
    totals.end(project, outcome)
}

/// The script in the `sqlite3` shell, and many connections one after the other.
fn valgrind(project: &Project, totals: &mut Totals) -> Result<()> {
    install::ensure_program("valgrind", "valgrind")?;
    install::ensure_program("sqlite3", "sqlite3")?;
    let folder = project.target().join("sanitize");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let script =
        fs::read_to_string(project.root().join(SCRIPT)).with_context(|| format!("cannot read {SCRIPT}"))?;
    let library = project.library().with_extension("");
    let place = |text: &str| {
        text.replace("LIBRARY", &library.to_string_lossy()).replace("FOLDER", &folder.to_string_lossy())
    };
    let open =
        ".open FOLDER/many.db\n.load LIBRARY\nSELECT length(cloudsync_uuid()), length(cloudsync_status());\n";
    let many = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL);\nSELECT length(cloudsync_init('t'));\n";
    let many = format!("{}{}{}", place(open), many, place(open).repeat(OPENS));
    for (name, text) in [("calls of every kind", place(&script)), ("connections opened and closed", many)] {
        let input = folder.join("input.sql");
        fs::write(&input, &text).with_context(|| format!("cannot write {}", input.display()))?;
        let errors = watch(&folder, &input)?;
        let statements = text.lines().filter(|line| line.contains(';') || line.starts_with(".open")).count();
        println!("valgrind: {name}: {statements} lines, {errors} errors, nothing lost");
        totals.add("valgrind lines", statements as u64);
        totals.add("valgrind errors", errors as u64);
        if errors > 0 {
            totals.add_failed(1);
            bail!("valgrind found errors: {}", folder.join("valgrind.txt").display());
        }
    }
    Ok(())
}

/// Runs the shell on the input; gives the number of errors, definite leaks among them.
fn watch(folder: &Path, input: &Path) -> Result<usize> {
    let report = folder.join("valgrind.txt");
    let mut command = Command::new("valgrind");
    command.args(["--leak-check=full", "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]);
    command.arg(format!("--log-file={}", report.display())).arg("sqlite3").arg(folder.join("one.db"));
    println!("$ {} < {}", process::display(&command), input.display());
    let file = fs::File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
    command.stdin(file).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().context("cannot run valgrind")?;
    let report = fs::read_to_string(&report).context("valgrind wrote no report")?;
    let line = report.lines().rev().find(|line| line.contains("ERROR SUMMARY:"));
    let count = line.and_then(|line| line.split("SUMMARY: ").nth(1)?.split(' ').next()?.parse().ok());
    count.context("valgrind's report has no summary")
}

/// Builds the library with AddressSanitizer and runs the black-box tests over it, with the ordinary server.
fn address(project: &Project, tests: &[String], totals: &mut Totals) -> Result<()> {
    let runtime = runtime()?;
    // The server must be of the same version.
    build::compile(project)?;
    build::place(project)?;
    let target = project.target().join("asan");
    let mut build = project.cargo();
    build.args(["build", "--package", "cloudsync-extension", "--lib", "--target", TARGET]);
    build
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_TARGET_DIR", &target);
    process::run(&mut build)?;
    let dist = target.join("dist");
    fs::create_dir_all(dist.join("lib")).with_context(|| format!("cannot make {}", dist.display()))?;
    let built = target.join(TARGET).join("debug").join("libcloudsync.so");
    for (from, to) in
        [(built, dist.join("lib").join("cloudsync.so")), (project.server(), dist.join("cloudsync"))]
    {
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let environment = python::environment(project)?;
    let mut command = Command::new(environment.join("bin").join("python"));
    command.args(["-m", "pytest", "--color=no", "-q", "-p", "no:cacheprovider"]);
    let named: Vec<&str> = tests.iter().map(String::as_str).collect();
    let files = if named.is_empty() { TESTS } else { &named };
    command.args(files.iter().map(|file| format!("tests/py/{file}")));
    command.current_dir(project.root()).env("CLOUDSYNC_DIST", &dist).env("LD_PRELOAD", runtime);
    // The interpreter keeps what it took; an error in the library ends the process at once.
    command.env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1").env("PYTHONMALLOC", "malloc");
    let mut tally = Tally::default();
    let outcome = totals.run_reading(&mut command, |_, line| {
        if line.contains(" passed") && line.contains(" in ") {
            tally = Tally::parse(line.trim_matches('='));
        }
    });
    totals.add("address passed", tally.passed);
    totals.add("address failed", tally.failed);
    outcome?;
    println!("address: no error in the library under these tests");
    Ok(())
}

/// The runtime that must be loaded before anything else; that of gcc has the same interface as rustc's own.
fn runtime() -> Result<PathBuf> {
    let mut ask = Command::new("cc");
    let printed = process::capture(ask.arg("-print-file-name=libasan.so"))?;
    let path = PathBuf::from(printed.trim());
    if !path.is_absolute() {
        bail!("libasan.so is missing: install gcc's runtime (in Debian it comes with `gcc`)");
    }
    Ok(path)
}
