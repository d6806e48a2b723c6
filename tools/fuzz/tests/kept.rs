//! The inputs in the repository; the suite `fuzz` of `cargo xtask test` goes on from them.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn every_input_that_is_kept_holds() {
    // A process for each target, since one of them sets variables of the environment.
    let mut run = Command::new(env!("CARGO_BIN_EXE_cloudsync-fuzz"));
    let output = run.args(["run", "--kept"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("12 passed, 0 failed\n"), "{said}");
}
