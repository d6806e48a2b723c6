//! The sections of `docs/trust.md`, and how they are written.

use std::fmt::Write as _;

use super::figures::{Figure, Runs};

/// One kind of test.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// The name of its file, and of its command.
    pub(super) kind: &'static str,
    /// What is asked, in prose.
    about: &'static str,
    /// The command that gives the figures; a longer one than the suite's.
    command: &'static str,
    figures: &'static [(&'static str, Figure)],
}

pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: "Simulation",
        kind: "sim",
        about: "Real replicas, sessions and store over a network, disks and clocks that are simulated, everything drawn \
                from one seed. After each history everybody must be in step, and nothing may be lost.",
        command: "cargo xtask sim --minutes 10",
        figures: &[
            ("device-years", Figure::Years("device_ms")),
            ("device-hours", Figure::Hours("device_ms")),
            ("simulated hours", Figure::Hours("simulated_ms")),
            ("simulated hours in a minute of one core", Figure::HoursPerMinute("simulated_ms", "core_ms")),
            ("seeds", Figure::Sum("seeds")),
            ("seeds that failed", Figure::Sum("seeds failed")),
            ("syncs begun", Figure::Sum("rounds")),
            ("rows written", Figure::Sum("rows")),
            ("events", Figure::Sum("events")),
            ("sweeps of syncs until everybody was at rest, at most", Figure::Max("sweeps")),
            ("rare branches in the source", Figure::Last("marks")),
            ("rare branches that were reached", Figure::Last("marks reached")),
            ("fault: ", Figure::Each("fault: ")),
        ],
    },
    Section {
        title: "Crashes",
        kind: "crash",
        about: "Real processes are ended by `kill -9`: a device in the midst of writes, folds, syncs, applies, brackets \
                around schema changes and automatic sync, the server in the midst of commits, downloads, recomputations \
                and backups. Each cycle ends with every file whole, nothing lost that was acknowledged, and all in step \
                within three rounds.",
        command: "cargo xtask crash --cycles 500",
        figures: &[
            ("cycles", Figure::Sum("cycles")),
            ("cycles that failed", Figure::Sum("cycles failed")),
            ("rows written", Figure::Sum("rows")),
            ("killed: ", Figure::Each("phase: ")),
        ],
    },
    Section {
        title: "SQL torture",
        kind: "torture",
        about: "Random schemas and statements of the whole language, with and without tracking, over the shipped \
                library. Results must be equal, and so must a replica that is built from the changes alone.",
        command: "cargo xtask torture --minutes 10 --every-sqlite",
        figures: &[
            ("seeds", Figure::Sum("seeds")),
            ("seeds that failed", Figure::Sum("seeds failed")),
            ("schemas that SQLite itself refuses", Figure::Sum("unusable")),
            ("statements in SQLite ", Figure::Each("statements in ")),
        ],
    },
    Section {
        title: "Fuzzing",
        kind: "fuzz",
        about: "Bytes and texts from outside. Nothing may panic, hang, take memory without bounds or damage a file.",
        command: "cargo xtask fuzz --minutes 10",
        figures: &[("executions: ", Figure::Each("executions: ")), ("crashers", Figure::Sum("crashers"))],
    },
    Section {
        title: "Fault loops",
        kind: "faults",
        about: "Everything that a device does, with memory or files that fail at the first call, the second, and so on \
                for every call until a run completes. No memory may be lost, the file stays whole, and the same run \
                gives what it always gives afterwards.",
        command: "cargo xtask faults",
        figures: &[
            ("loops", Figure::Sum("loops")),
            ("calls of SQLite that could fail", Figure::Last("calls")),
            ("faults injected", Figure::Sum("faults")),
        ],
    },
    Section {
        title: "Memory",
        kind: "sanitize",
        about: "The shipped library under valgrind in the `sqlite3` shell, and one with AddressSanitizer under the \
                black-box tests.",
        command: "cargo xtask sanitize",
        figures: &[
            ("lines of SQL under valgrind", Figure::Sum("valgrind lines")),
            ("errors and definite leaks that valgrind found", Figure::Sum("valgrind errors")),
            ("black-box tests passed with AddressSanitizer", Figure::Last("address passed")),
            ("black-box tests failed with AddressSanitizer", Figure::Last("address failed")),
        ],
    },
    Section {
        title: "Miri",
        kind: "miri",
        about: "The tests of `core` and `protocol` in an interpreter that finds undefined behaviour. Properties draw two small \
                cases each, and tests that are about amounts are left out, which the command names.",
        command: "cargo xtask miri",
        figures: &[("tests passed", Figure::Last("passed")), ("tests failed", Figure::Last("failed"))],
    },
    Section {
        title: "Coverage",
        kind: "coverage",
        about: "What of the source is run by the tests of all product crates, the kept inputs of the fuzz targets, and six \
                seeds of the simulator. Merge and fold are meant to be covered whole.",
        command: "cargo xtask coverage",
        figures: &[
            ("branches of core", Figure::Share("core branches covered", "core branches")),
            ("branches of protocol", Figure::Share("protocol branches covered", "protocol branches")),
            ("branches of replica", Figure::Share("replica branches covered", "replica branches")),
            ("branches of merge", Figure::Share("merge branches covered", "merge branches")),
            ("branches of fold", Figure::Share("fold branches covered", "fold branches")),
            ("lines of core", Figure::Share("core lines covered", "core lines")),
            ("lines of protocol", Figure::Share("protocol lines covered", "protocol lines")),
            ("lines of replica", Figure::Share("replica lines covered", "replica lines")),
        ],
    },
    Section {
        title: "Planted bugs",
        kind: "mutants",
        about: "Mistakes planted one by one into merge, fold and ledger: does a test fail? A mutant that no test can tell \
                from the original is listed in `tools/xtask/src/mutants/equivalent.txt` with the reason, and does not count.",
        command: "cargo xtask mutants",
        figures: &[
            ("score: caught of those that were tried and count", Figure::Share("caught", "counted")),
            ("planted", Figure::Last("tried")),
            ("caught by a test", Figure::Last("caught by a test")),
            ("caught because a test did not end", Figure::Last("caught by time")),
            ("refused by the compiler", Figure::Last("unviable")),
            ("equivalent, by a reason that is written down", Figure::Last("equivalent")),
            ("survived", Figure::Last("survived")),
            ("not tried yet", Figure::Last("left")),
            ("score of merge", Figure::Share("merge caught", "merge counted")),
            ("score of merge: not tried yet", Figure::Last("merge left")),
            ("score of fold", Figure::Share("fold caught", "fold counted")),
            ("score of fold: not tried yet", Figure::Last("fold left")),
            ("score of ledger", Figure::Share("ledger caught", "ledger counted")),
            ("score of ledger: not tried yet", Figure::Last("ledger left")),
        ],
    },
    Section {
        title: "The suite",
        kind: "test",
        about: "What everybody runs before a change goes in.",
        command: "cargo xtask test",
        figures: &[
            ("tests passed", Figure::Last("passed")),
            ("tests failed", Figure::Last("failed")),
            ("tests skipped", Figure::Last("skipped")),
        ],
    },
];

const HEAD: &str = "# Figures, so that nobody has to believe us

Written by `cargo xtask trust` from what the commands named below counted. Each of them appends its totals to `target/trust/`
when it ends, runs that failed too, and the sums are shown here. Where nothing is counted on the machine at hand, what the page
said before stays, with its day and its commit. What each danger is tested by is in [dangers.md](dangers.md), speed in
[bench.md](bench.md).
";

const LIMITS: &str = "
## Known limits

- The simulator has one server. Its network and disks misbehave as its authors thought of; a real file system may find
  another way. That is why there are tests with real processes and full disks, too.
- In the simulator a token that is not let in is a mark on an answer, and a user's claims change at once, not with a new token; the
  real ones have tests of their own. The suite's fixed seeds must reach the common ones of the rare branches; all of them take 60
  seeds, and minutes. What a user wrote and was refused is told from what others wrote by the journal alone when the disk of a
  device is searched.
- An hour of a calm day is a sixth as full as one of other histories, so simulated hours of different commands do not compare.
- A killed process is no power cut: the operating system still writes what SQLite handed it. Lost and torn writes are
  simulated.
- A counted failure stays on this page as long as its run is counted, also when the bug is mended by now.
- A planted bug is a small change of one place. Thoughts that are wrong from the beginning are not planted; they are what
  the models and the checker that knows everything are for.
- Coverage tells what was run, not what was checked; the planted bugs tell more.
- Writes by SQLite's incremental blob interface run no trigger, so they are not noted. The check by digests finds them.
- All figures are of Linux on x86-64.
";

/// The whole page. A section of which nothing is recorded keeps the figures that it has on `before`.
pub(super) fn render(
    before: &str,
    mut read: impl FnMut(&str) -> anyhow::Result<Runs>,
) -> anyhow::Result<String> {
    let mut page = HEAD.to_owned();
    for section in SECTIONS {
        let _ = write!(page, "\n{}", section.heading());
        let runs = read(section.kind)?;
        if runs.is_empty() {
            match section.figures_on(before) {
                Some(figures) => page.push_str(figures),
                None => {
                    let command = section.command;
                    let _ = writeln!(
                        page,
                        "Not run: nothing is recorded in `target/trust/`. The command: `{command}`"
                    );
                }
            }
            continue;
        }
        let _ = writeln!(page, "`{}`: {}.\n\n| figure | |\n| --- | ---: |", section.command, runs.summary());
        for (label, figure) in section.figures {
            for (label, value) in runs.rows(label, figure) {
                let _ = writeln!(page, "| {} | {value} |", label.replace('|', "/"));
            }
        }
    }
    page.push_str(LIMITS);
    Ok(page)
}

impl Section {
    /// What a page says of runs of the section, if it says anything.
    fn figures_on<'p>(&self, page: &'p str) -> Option<&'p str> {
        let (_, section) = page.split_once(&format!("\n## {}\n", self.title))?;
        let section = &section[..section.find("\n## ").unwrap_or(section.len())];
        section.find(&format!("\n`{}`: ", self.command)).map(|at| &section[at + 1..])
    }

    /// The title and what is asked, wrapped as the other pages are.
    pub(super) fn heading(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        let mut width = 0;
        for word in self.about.split_whitespace() {
            if width > 0 && width + 1 + word.len() > 120 {
                text.push('\n');
                width = 0;
            } else if width > 0 {
                text.push(' ');
                width += 1;
            }
            text.push_str(word);
            width += word.len();
        }
        text.push_str("\n\n");
        text
    }
}
