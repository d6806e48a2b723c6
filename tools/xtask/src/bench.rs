//! `cargo xtask bench`: builds `cloudsync-bench` with the SQLite that it needs, and runs it. For `bench server` it builds
//! what users get, too, and `bench rls` is an example of the server.

use anyhow::Result;

use crate::build;
use crate::process;
use crate::project::Project;

/// The session extension is compiled into the SQLite of all who are measured. The flags reach that build only, which
/// has a folder of its own: cargo's features would reach the SQLite of the server too.
const SQLITE_FLAGS: &str = "-DSQLITE_ENABLE_PREUPDATE_HOOK -DSQLITE_ENABLE_SESSION";

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if args.first().is_some_and(|arg| arg == "rls") {
        let mut measure = project.cargo();
        measure.args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "cloudsync-server",
            "--example",
            "rls",
            "--",
        ]);
        return process::run(measure.args(&args[1..]));
    }
    let is_server = args.first().is_some_and(|arg| arg == "server");
    if is_server {
        build::compile(project)?;
    }
    let folder = project.target().join("bench");
    let mut build = project.cargo();
    build.env("LIBSQLITE3_FLAGS", SQLITE_FLAGS);
    // Names and lines of functions, for callgrind; they change nothing about the code.
    build.env("CARGO_PROFILE_RELEASE_STRIP", "none").env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only");
    build.args([
        "build",
        "--release",
        "--package",
        "cloudsync-bench",
        "--features",
        "session",
        "--target-dir",
    ]);
    process::run(build.arg(&folder))?;

    let mut bench = std::process::Command::new(folder.join("release").join("cloudsync-bench"));
    for arg in args {
        bench.arg(arg);
        if arg == "--docs" {
            bench.arg(project.root().join("docs").join("bench.md"));
        }
    }
    if is_server {
        let release = project.target().join("release");
        bench.arg("--server").arg(release.join("cloudsync"));
        bench.arg("--library").arg(release.join("libcloudsync.so"));
    }
    process::run(&mut bench)
}
