//! What a suite's program says of its failures, kept so that it can be shown again at the end of a long run.

use std::collections::VecDeque;

/// Lines that are kept of one failing program.
const LINES_MAX: usize = 60;
/// Lines that are kept of a whole suite.
const SUITE_LINES_MAX: usize = 300;

/// Where in a program's output its failures stand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// From each line that begins with one of the first texts up to one that begins with the second; they may be
    /// framed by equals signs.
    Between(&'static [&'static str], &'static str),
    /// Anywhere: the program prints little.
    Anywhere,
}

/// Reads a program's output line by line, and keeps what it says of failures.
#[derive(Debug)]
pub(super) struct Failures {
    place: Place,
    inside: bool,
    section: VecDeque<String>,
    kept: Vec<String>,
}

impl Failures {
    pub(super) fn at(place: Place) -> Self {
        Self { place, inside: matches!(place, Place::Anywhere), section: VecDeque::new(), kept: Vec::new() }
    }

    pub(super) fn read(&mut self, line: &str) {
        if let Place::Between(begin, end) = self.place {
            let unframed = line.trim_start_matches(['=', ' ']);
            if unframed.starts_with(end) {
                self.inside = false;
                self.kept.extend(self.section.drain(..));
            } else if begin.iter().any(|begin| unframed.starts_with(begin)) {
                self.inside = true;
            }
        }
        if self.inside {
            self.section.push_back(line.to_owned());
            if self.section.len() > LINES_MAX {
                // The names of what failed stand at the end, and so does what a history led to.
                self.section.pop_front();
            }
        }
    }

    /// What a program that failed said of it.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        self.kept.extend(self.section);
        self.kept.truncate(SUITE_LINES_MAX);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(place: Place, lines: &[&str]) -> Vec<String> {
        let mut failures = Failures::at(place);
        lines.iter().for_each(|line| failures.read(line));
        failures.into_lines()
    }

    #[test]
    fn the_failures_of_each_program_are_kept_and_nothing_else() {
        let lines = [
            "test a ... ok",
            "failures:",
            "b panicked",
            "test result: FAILED.",
            "test c ... ok",
            "failures:",
            "d",
        ];
        let place = Place::Between(&["failures:"], "test result:");
        assert_eq!(read(place, &lines), ["failures:", "b panicked", "failures:", "d"]);
    }

    #[test]
    fn a_heading_may_be_framed() {
        let lines = ["a.py ..F", "=== FAILURES ===", "assert 1 == 2", "=== short test summary info ==="];
        assert_eq!(
            read(Place::Between(&["FAILURES"], "short test"), &lines),
            ["=== FAILURES ===", "assert 1 == 2"]
        );
    }

    #[test]
    fn of_a_long_section_the_end_is_kept() {
        let lines: Vec<String> = (0..LINES_MAX + 5).map(|n| n.to_string()).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let kept = read(Place::Anywhere, &lines);
        assert_eq!((kept.len(), kept.last().map(String::as_str)), (LINES_MAX, Some("64")));
    }
}
