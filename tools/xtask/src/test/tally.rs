//! Counting passed, failed and skipped tests, also those that other programs report.

use std::fmt;
use std::ops::AddAssign;
use std::process::ExitStatus;

/// How the tests of one suite ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) fn passed(passed: u64) -> Self {
        Self { passed, ..Self::default() }
    }

    pub(crate) fn failed(failed: u64) -> Self {
        Self { failed, ..Self::default() }
    }

    /// Reads `5 passed; 1 failed; 2 ignored` (cargo) and `5 passed, 1 failed, 2 skipped in 3s` (pytest).
    /// What is neither passed nor left out counts as failed, so that nothing unknown looks well.
    pub(crate) fn parse(line: &str) -> Self {
        let mut tally = Self::default();
        let words: Vec<&str> = line.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match *what {
                "passed" => tally.passed += number,
                "failed" | "error" | "errors" | "xpassed" => tally.failed += number,
                "skipped" | "ignored" | "xfailed" => tally.skipped += number,
                _ => {}
            }
        }
        tally
    }

    /// A program that ended badly has failed, whatever it counted, and so has one that ran no test.
    pub(crate) fn judged_by(mut self, status: ExitStatus) -> Self {
        if self.failed == 0 && (!status.success() || self.passed == 0) {
            eprintln!("error: {} tests passed, and the program ended with {status}", self.passed);
            self.failed = 1;
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn lines_of_every_runner_are_read() {
        let cargo =
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s";
        assert_eq!(Tally::parse(cargo), Tally { passed: 5, failed: 0, skipped: 1 });
        let pytest = "=== 2 failed, 30 passed, 1 skipped, 1 xfailed, 3 errors in 4.20s ===";
        assert_eq!(Tally::parse(pytest), Tally { passed: 30, failed: 5, skipped: 2 });
        assert_eq!(Tally::parse("12 passed, 0 failed"), Tally::passed(12));
    }

    #[test]
    fn a_program_that_counts_no_failure_can_still_fail() {
        let success = ExitStatus::from_raw(0);
        let failure = ExitStatus::from_raw(1 << 8);
        assert_eq!(Tally::passed(3).judged_by(success), Tally::passed(3));
        assert_eq!(Tally::passed(3).judged_by(failure).failed, 1);
        assert_eq!(Tally::default().judged_by(success).failed, 1);
        assert_eq!(Tally::failed(2).judged_by(failure), Tally::failed(2));
    }
}
