//! The project's own commands: `cargo xtask help` lists them.

mod arrows;
mod bench;
mod build;
mod coverage;
mod crash;
mod demo;
mod docs;
mod faults;
mod fuzz;
mod install;
mod miri;
mod mutants;
mod process;
mod progress;
mod project;
mod python;
mod sanitize;
mod server;
mod sim;
mod test;
mod torture;
mod trust;

use std::process::ExitCode;

use anyhow::{Result, bail};
use project::Project;

/// One command of `cargo xtask`.
struct Command {
    name: &'static str,
    args: &'static str,
    about: &'static str,
    run: fn(&Project, &[String]) -> Result<()>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "build",
        args: "",
        about: "builds dist/lib/cloudsync.so and dist/cloudsync",
        run: build::run,
    },
    Command {
        name: "demo",
        args: "[--once]",
        about: "syncs two devices through a real server; --once ends afterwards",
        run: demo::run,
    },
    Command {
        name: "test",
        args: "[--list | SUITE...]",
        about: "runs every suite, or those named",
        run: test::run,
    },
    Command {
        name: "arrows",
        args: "",
        about: "refuses dependencies between crates that the design does not allow",
        run: arrows::run,
    },
    Command {
        name: "docs",
        args: "[--check]",
        about: "writes docs/sql.md from the table of functions; --check compares",
        run: docs::run,
    },
    Command {
        name: "bench",
        args: "[server] [--quick | --full]",
        about: "measures plain SQLite, its session extension and ours against what is promised; or the server",
        run: bench::run,
    },
    Command {
        name: "sim",
        args: "[ARGS...]",
        about: "runs replicas and server from one seed over a hostile network",
        run: sim::run,
    },
    Command {
        name: "fuzz",
        args: "[--minutes N] [--target T] [--seed S] [--seeded] [--keep]",
        about: "bytes and texts from outside, by libFuzzer, or --seeded by chance alone",
        run: fuzz::run,
    },
    Command {
        name: "coverage",
        args: "[--report] [FILE...]",
        about: "lines, regions and branches of core, protocol and replica that the tests run",
        run: coverage::run,
    },
    Command {
        name: "sanitize",
        args: "[valgrind | address [TEST...] | miri]",
        about: "the library under valgrind and with AddressSanitizer; core and protocol in Miri",
        run: sanitize::run,
    },
    Command {
        name: "miri",
        args: "[ARGS...]",
        about: "the tests of core and protocol in an interpreter that finds undefined behaviour",
        run: miri::run,
    },
    Command {
        name: "torture",
        args: "[--minutes N] [--seed S] [--every-sqlite]",
        about: "random schemas and statements with and without tracking, over the shipped library",
        run: torture::run,
    },
    Command {
        name: "crash",
        args: "[--cycles N] [--seed S] [--phase NAME]",
        about: "kills devices and servers in every phase, and looks that nothing is lost",
        run: crash::run,
    },
    Command {
        name: "faults",
        args: "",
        about: "memory and files that fail at every call of everything that a device does",
        run: faults::run,
    },
    Command {
        name: "mutants",
        args: "[--minutes N] [--jobs N] [--survivors] [--quick] [--list] [AREA...]",
        about: "plants mistakes in merge, fold and ledger, and looks whether a test fails; goes on where it stopped",
        run: mutants::run,
    },
    Command {
        name: "trust",
        args: "",
        about: "writes docs/trust.md from what the long commands counted",
        run: trust::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        print_help();
        bail!("name a command");
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print_help();
        return Ok(());
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        print_help();
        bail!("`{name}` is not a command");
    };
    (command.run)(&Project::open()?, rest)
}

fn print_help() {
    println!("cargo xtask COMMAND\n");
    for command in COMMANDS {
        let usage = format!("{} {}", command.name, command.args);
        println!("  {usage:<28}{}", command.about);
    }
    println!("  {:<28}this list", "help");
}
