//! Step n of m, with the time since the start.

use std::time::Instant;

/// Counts the steps of one command and prints a line as each begins.
pub(crate) struct Progress {
    steps: usize,
    done: usize,
    start: Instant,
}

impl Progress {
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps, done: 0, start: Instant::now() }
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        println!("\n[{}/{}  {}] {what}", self.done, self.steps, self.elapsed());
    }

    /// The time since the start, as minutes and seconds.
    pub(crate) fn elapsed(&self) -> String {
        format_seconds(self.start.elapsed().as_secs())
    }
}

/// A duration in seconds as `m:ss`.
pub(crate) fn format_seconds(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
