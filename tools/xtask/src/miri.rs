//! `cargo xtask miri`, a part of `cargo xtask sanitize`: the tests of `core` and `protocol` in an interpreter that finds undefined behaviour.
//!
//! Both crates forbid unsafe code, so what is left to find is in what they depend on, and in the compiler.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::project::Project;
use crate::test::Tally;
use crate::trust::Totals;

const PACKAGES: &[&str] = &["cloudsync-core", "cloudsync-protocol"];
/// Tests may look at the time and their folder. Alignment and origin of pointers are checked strictly.
const FLAGS: &str = "-Zmiri-disable-isolation -Zmiri-strict-provenance -Zmiri-symbolic-alignment-check";
/// Draws of each property: an interpreter takes some hundred times as long.
const CASES: &str = "2";
/// Tests that are about amounts: thousands of sessions, rows or columns, for which an interpreter takes hours. What they call is
/// called by the others, too.
const LEFT_OUT: &[&str] = &[
    "a_storm_does_not_make_sessions_keep_step",
    "a_short_message_does_not_unfold_to_a_vast_schema",
    "a_lot_of_rows_from_few_bytes_costs_little",
    "texts_unfold_to_no_more_than_a_chunk",
    "counts_are_bounded",
    "no_more_verdicts_are_taken_than_there_may_be",
    "every_flipped_bit_is_refused",
    "the_size_is_known_from_above_while_encoding",
    "columns_are_small_even_stored",
    "keys_and_clocks_are_small_even_stored",
];

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let mut totals = Totals::begin("miri", args);
    let toolchain = find(project)?;
    let mut command = project.cargo();
    command.arg(toolchain).args(["miri", "test", "--no-fail-fast"]);
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package])).args(args);
    command.env("MIRIFLAGS", FLAGS).env("PROPTEST_CASES", CASES);
    command.env("CARGO_TARGET_DIR", project.target().join("miri"));
    command.arg("--").args(LEFT_OUT.iter().flat_map(|test| ["--skip", test]));
    println!("left out, since they are about amounts: {}", LEFT_OUT.join(", "));
    let mut tally = Tally::default();
    let outcome = totals.run_reading(&mut command, |_, line| {
        if line.starts_with("test result:") {
            tally += Tally::parse(line);
        }
    });
    totals.add("passed", tally.passed);
    totals.add("failed", tally.failed);
    totals.end(project, outcome)
}

/// The toolchain that has Miri, as cargo is told of it.
fn find(project: &Project) -> Result<&'static str> {
    const NIGHTLY: &str = "+nightly";
    let has_miri = || process::succeeds(project.cargo().args([NIGHTLY, "miri", "--version"]));
    if !has_miri() {
        // Works where rustup has a nightly compiler, and the network its components.
        let mut add = Command::new("rustup");
        let _ = process::run(add.args(["component", "add", "miri", "rust-src", "--toolchain", "nightly"]));
    }
    if has_miri() {
        return Ok(NIGHTLY);
    }
    bail!(
        "Miri did not run: it comes with nightly compilers only, and there is none here that has it. \
         `rustup toolchain install nightly --component miri,rust-src` brings one where the network has it"
    )
}
