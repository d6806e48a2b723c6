//! `cargo xtask coverage`: which lines, regions and branches of `core`, `protocol` and `replica` the tests run.
//!
//! The crates of the workspace are compiled with counters, by a wrapper around the compiler, so that dependencies are those of
//! every other build. What the tests of all product crates, the kept inputs of the fuzz targets and some seeds of the simulator
//! count is added up by `llvm-profdata`, and laid over the source by `llvm-cov`: the compiler's own, since the form of the
//! counters changes from version to version.

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::project::Project;
use crate::trust::Totals;
use report::Report;

/// The crates of whose source the page tells.
const CRATES: &[&str] = &["core", "protocol", "replica"];
/// Crates whose tests are run.
const TESTED: &[&str] = &["core", "protocol", "sqlite-ffi", "replica", "extension", "server"];
/// Tools that are run, and how: the simulator's worlds reach what no test draws.
const TOOLS: &[(&str, &[&str])] =
    &[("cloudsync-fuzz", &["run", "--kept"]), ("cloudsync-sim", &["--seed", "1", "--runs", "6"])];
/// Only what is compiled with counters is told that it may use what is not stable: build scripts would run anew.
const WRAPPER: &str =
    "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec \"$@\" -Cinstrument-coverage -Zcoverage-options=branch\n";

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let (mut again, mut listed) = (false, Vec::new());
    for argument in args {
        match argument.as_str() {
            "--report" => again = true,
            file if file.ends_with(".rs") || file.ends_with('/') => listed.push(file.to_owned()),
            other => bail!("`{other}` is neither --report nor a file or folder of source"),
        }
    }
    let mut totals = Totals::begin("coverage", args);
    let tools = Tools::find(project)?;
    let folder = project.target().join("coverage");
    if !again {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        measure(project, &folder)?;
    }
    let exported = tools.export(project, &folder)?;
    let report = Report::read(project.root(), &exported)?;
    for (name, count) in report.print(CRATES, &listed) {
        totals.add(&name, count);
    }
    totals.end(project, Ok(()))
}

/// Compiles with counters and runs everything; leaves what was counted, and a list of the programs.
fn measure(project: &Project, folder: &Path) -> Result<()> {
    let wrapper = folder.join("rustc.sh");
    fs::write(&wrapper, WRAPPER)?;
    let mut executable = Command::new("chmod");
    process::run(executable.arg("+x").arg(&wrapper))?;
    let cargo = |words: &[&str]| {
        let mut command = project.cargo();
        command.args(words).env("RUSTC_WORKSPACE_WRAPPER", &wrapper).env("CARGO_INCREMENTAL", "0");
        // Processes of one program add to the same few files.
        command.env("LLVM_PROFILE_FILE", folder.join("%4m.profraw"));
        command
    };
    let packages = TESTED.iter().flat_map(|name| ["--package".to_owned(), format!("cloudsync-{name}")]);
    let packages: Vec<String> = packages.collect();
    let mut build = cargo(&["test", "--no-run", "--lib", "--bins", "--tests", "--message-format=json"]);
    let mut programs = programs(&process::capture(build.args(&packages))?);
    for (tool, _) in TOOLS {
        let mut build = cargo(&["build", "--package", tool, "--message-format=json"]);
        programs.extend(self::programs(&process::capture(&mut build)?));
    }
    fs::write(folder.join("programs"), programs.join("\n"))?;
    let mut test = cargo(&["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    let mut outcomes = vec![process::run(test.args(&packages))];
    for (tool, args) in TOOLS {
        let mut run = cargo(&["run", "--quiet", "--package", tool, "--"]);
        outcomes.push(process::run(run.args(*args)));
    }
    // What failed has counted, too; it is for the suites to complain.
    for error in outcomes.into_iter().filter_map(Result::err) {
        eprintln!("warning: {error:#}");
    }
    Ok(())
}

/// The programs that cargo says it made.
fn programs(messages: &str) -> Vec<String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| Some(message["executable"].as_str()?.to_owned())).collect()
}

/// The programs of LLVM that come with the compiler.
struct Tools(PathBuf);

impl Tools {
    fn find(project: &Project) -> Result<Self> {
        let mut ask = Command::new("rustc");
        ask.current_dir(project.root()).args(["--print", "target-libdir"]);
        let library = process::capture(&mut ask)?;
        let folder = Path::new(library.trim()).with_file_name("bin");
        let is_there = || folder.join("llvm-cov").is_file() && folder.join("llvm-profdata").is_file();
        if !is_there() {
            // Works where rustup made the compiler and the network has its components.
            let mut add = Command::new("rustup");
            let _ = process::run(add.args(["component", "add", "llvm-tools"]));
        }
        if !is_there() {
            bail!(
                "llvm-cov and llvm-profdata of this compiler are not in {}: `rustup component add llvm-tools`",
                folder.display()
            );
        }
        Ok(Self(folder))
    }

    /// What was counted, over the source, as JSON.
    fn export(&self, project: &Project, folder: &Path) -> Result<Value> {
        let profile = folder.join("all.profdata");
        let mut merge = Command::new(self.0.join("llvm-profdata"));
        merge.args(["merge", "--sparse", "--failure-mode=all", "-o"]).arg(&profile);
        let files =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        merge.args(files.iter().filter(|path| path.extension().is_some_and(|end| end == "profraw")));
        process::run(&mut merge)?;
        let programs = fs::read_to_string(folder.join("programs")).context("nothing was measured yet")?;
        let mut export = Command::new(self.0.join("llvm-cov"));
        export.args(["export", "--format=text", "--skip-functions", "--skip-expansions"]);
        export.arg(format!("--instr-profile={}", profile.display()));
        for (at, program) in programs.lines().enumerate() {
            if at == 0 {
                export.arg(program)
            } else {
                export.args(["-object", program])
            };
        }
        export
            .arg("--sources")
            .args(CRATES.iter().map(|name| project.root().join("crates").join(name).join("src")));
        let output = export.output().context("cannot run llvm-cov")?;
        if !output.status.success() {
            bail!("llvm-cov failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("llvm-cov printed no JSON")
    }
}
