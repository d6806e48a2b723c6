//! The tests that are asked about mistakes: their programs, which functions each of them enters, and what it says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::plant;
use crate::process;

/// Of the time that a test takes without a mistake; beyond it, it does not end. Others may be busy meanwhile: what counts is
/// the time that the processor gave it, and only of what waits that of the clock.
const TIMEOUT_FACTOR: u32 = 8;
const TIMEOUT_MIN: Duration = Duration::from_secs(300);
const CPU_SECONDS_MIN: u64 = 5;
/// How much longer a test may take than another one, and come first, for each mistake that it caught.
const CAUGHT_WORTH: u32 = 20;
/// For the first run of each test; where only quick ones are asked, those that need more are not.
const CPU_SECONDS_FIRST: u64 = 900;
const CPU_SECONDS_QUICK: u64 = 2;
/// A mistake may ask for memory or write files without end.
const MEMORY_KIB_MAX: u64 = 4 << 20;
const FILE_BLOCKS_MAX: u64 = 4 << 20;
/// What limits a test and then becomes it. At the hard limit of time it would be killed as by anything else.
const SHELL: &str = r#"ulimit -S -t "$1"; ulimit -v "$2"; ulimit -f "$3"; shift 3; exec "$@""#;
/// A debug build keeps room for each copy of a function on the stack.
const STACK_BYTES: &str = "33554432";
const SIGNAL_CPU: i32 = 24;

/// One test, in a process of its own.
pub(super) struct Test {
    program: PathBuf,
    pub(super) name: String,
    took: Duration,
    /// The functions with mistakes that it enters, each with how many mistakes of it this test has caught.
    reaches: BTreeMap<u32, AtomicU32>,
}

/// How long a test may take.
#[derive(Clone, Copy)]
struct Limits {
    timeout: Duration,
    cpu_seconds: u64,
}

impl Limits {
    /// Of a test that was run.
    fn of(test: &Test) -> Self {
        Self {
            timeout: (test.took * TIMEOUT_FACTOR).max(TIMEOUT_MIN),
            cpu_seconds: (u64::from(TIMEOUT_FACTOR) * test.took.as_secs()).max(CPU_SECONDS_MIN),
        }
    }

    /// Of one that was not.
    fn first(cpu_seconds: u64) -> Self {
        let timeout = Duration::from_secs(CPU_SECONDS_FIRST * u64::from(TIMEOUT_FACTOR));
        Self { timeout, cpu_seconds }
    }
}

/// What a test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Passed,
    Failed,
    Endless,
}

/// All tests of an area.
pub(super) struct Tests {
    tests: Vec<Test>,
    folder: PathBuf,
    scratch: PathBuf,
}

impl Tests {
    /// Runs each test of the programs once, so many at a time. `folder` is that of their package; `scratch` may be emptied.
    /// With `quick` those are left out that take long.
    pub(super) fn measure(
        programs: &[PathBuf],
        (folder, scratch): (&Path, &Path),
        at_once: usize,
        quick: bool,
    ) -> Result<Self> {
        let mut all = Self { tests: Vec::new(), folder: folder.to_owned(), scratch: scratch.to_owned() };
        let mut waiting = Vec::new();
        for program in programs {
            let listed = process::capture(all.command(program, 0).args(["--list", "--format", "terse"]))?;
            let took = Duration::ZERO;
            let names = listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned);
            let test = |name| Test { program: program.clone(), name, took, reaches: BTreeMap::new() };
            waiting.extend(names.map(test));
        }
        let (next, measured) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let each = at_once_each(at_once, |worker| {
            while let Some(test) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
                let known = all.measure_one(test, worker, quick)?;
                measured.lock().map_err(|_| anyhow!("a worker panicked"))?.extend(known);
            }
            Ok(())
        });
        each?;
        all.tests = measured.into_inner().unwrap_or_default();
        Ok(all)
    }

    /// What a test is like; `None` if it shall be quick and is not.
    fn measure_one(&self, test: &Test, worker: usize, quick: bool) -> Result<Option<Test>> {
        let trace = self.scratch.with_extension(format!("trace{worker}"));
        let _ = fs::remove_file(&trace);
        let start = Instant::now();
        let limits = Limits::first(if quick { CPU_SECONDS_QUICK } else { CPU_SECONDS_FIRST });
        match self.run(test, worker, limits, |command| _ = command.env(plant::TRACE, &trace))? {
            Said::Passed => {}
            Said::Endless if quick => return Ok(None),
            Said::Failed | Said::Endless => {
                bail!("{} fails without a mistake: {}", test.name, test.program.display())
            }
        }
        let entered = fs::read_to_string(&trace).unwrap_or_default();
        let reaches = entered.lines().filter_map(|line| Some((line.parse().ok()?, AtomicU32::new(0))));
        let (program, name) = (test.program.clone(), test.name.clone());
        Ok(Some(Test { program, name, took: start.elapsed(), reaches: reaches.collect() }))
    }

    pub(super) fn len(&self) -> usize {
        self.tests.len()
    }

    /// The test that minds a mistake, of those that reach its function; without a number, of all, since the mistake is
    /// compiled in. Those that caught others of the function come first, and short ones.
    pub(super) fn ask(&self, mistake: Option<(u32, u32)>, worker: usize) -> Result<Option<(&str, Said)>> {
        let caught = |test: &Test| match mistake {
            Some((function, _)) => test.reaches.get(&function).map(|caught| caught.load(Ordering::Relaxed)),
            None => Some(0),
        };
        let mut order: Vec<_> = self.tests.iter().filter_map(|test| Some((caught(test)?, test))).collect();
        order.sort_by_key(|(caught, test)| test.took / (1 + CAUGHT_WORTH * caught));
        for (_, test) in order {
            let said = self.run(test, worker, Limits::of(test), |command| {
                if let Some((_, number)) = mistake {
                    command.env(plant::CHOSEN, number.to_string());
                }
            })?;
            if said != Said::Passed {
                if let Some(caught) = mistake.and_then(|(function, _)| test.reaches.get(&function)) {
                    caught.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(Some((&test.name, said)));
            }
        }
        Ok(None)
    }

    fn run(
        &self,
        test: &Test,
        worker: usize,
        limits: Limits,
        set: impl FnOnce(&mut Command),
    ) -> Result<Said> {
        let scratch = self.scratch(worker);
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let mut command = self.command(Path::new("sh"), worker);
        command.args(["-c", SHELL, "sh"]);
        command.args([limits.cpu_seconds, MEMORY_KIB_MAX, FILE_BLOCKS_MAX].map(|limit| limit.to_string()));
        command.arg(&test.program).args(["--exact", &test.name, "--test-threads", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).process_group(0);
        set(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", test.name))?;
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > limits.timeout {
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        if status.is_none_or(|status| status.signal().is_some()) {
            // Also what the test started.
            process::succeeds(Command::new("sh").args(["-c", &format!("kill -9 -- -{}", child.id())]));
            child.wait()?;
        }
        Ok(status.map_or(Said::Endless, said))
    }

    fn scratch(&self, worker: usize) -> PathBuf {
        self.scratch.join(worker.to_string())
    }

    /// A program as cargo runs it, with what a test writes in a place of its own.
    fn command(&self, program: &Path, worker: usize) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command.env("TMPDIR", self.scratch(worker)).env("RUST_MIN_STACK", STACK_BYTES);
        // A failure is enough: nobody reads the smallest case, or where it was.
        command.env("RUST_BACKTRACE", "0");
        command.env("PROPTEST_FAILURE_PERSISTENCE", "off").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command
    }
}

/// Lets so many workers do the same, each with its number; gives the first error.
pub(super) fn at_once_each(at_once: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once)
            .map(|worker| {
                let work = &work;
                scope.spawn(move || work(worker))
            })
            .collect();
        let ended =
            workers.into_iter().map(|worker| worker.join().unwrap_or(Err(anyhow!("a worker panicked"))));
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

fn said(status: ExitStatus) -> Said {
    match status.signal() {
        Some(SIGNAL_CPU) => Said::Endless,
        _ if status.success() => Said::Passed,
        _ => Said::Failed,
    }
}

/// The programs of tests that cargo says it made.
pub(super) fn programs(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = messages.filter(|message| message["profile"]["test"] == true);
    tests.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The program of this test, with one test of it.
    fn tests(folder: &Path, name: &str) -> Tests {
        let test = Test {
            program: std::env::current_exe().unwrap(),
            name: format!("mutants::asked::tests::{name}"),
            took: Duration::ZERO,
            reaches: BTreeMap::from([(3, AtomicU32::new(0))]),
        };
        Tests { tests: vec![test], folder: folder.to_owned(), scratch: folder.join("scratch") }
    }

    #[test]
    fn chosen_mistake_is_nine() {
        assert_ne!(std::env::var(plant::CHOSEN).as_deref(), Ok("9"));
    }

    /// Mistake 10 has no end.
    #[test]
    fn chosen_mistake_is_ten() {
        while std::env::var(plant::CHOSEN).as_deref() == Ok("10") {}
    }

    #[test]
    fn a_test_without_an_end_is_told_from_one_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let tests = tests(folder.path(), "chosen_mistake_is_ten");
        let limits = Limits::first(1);
        let run = |number: &str| {
            let set = |command: &mut Command| _ = command.env(plant::CHOSEN, number);
            tests.run(&tests.tests[0], 0, limits, set).unwrap()
        };
        assert_eq!((run("9"), run("10")), (Said::Passed, Said::Endless));
    }

    #[test]
    fn a_test_is_asked_if_it_reaches_the_function_and_minds_its_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let tests = tests(folder.path(), "chosen_mistake_is_nine");
        assert!(tests.ask(Some((3, 8)), 0).unwrap().is_none());
        assert_eq!(tests.ask(Some((3, 9)), 0).unwrap().unwrap().1, Said::Failed);
        assert!(tests.ask(Some((4, 9)), 1).unwrap().is_none(), "it does not enter that function");
    }

    #[test]
    fn programs_of_tests_are_told_from_others() {
        let messages = r#"{"profile":{"test":true},"executable":"/a"}
            {"profile":{"test":false},"executable":"/b"}
            {"profile":{"test":true},"executable":null}
            not JSON"#;
        assert_eq!(programs(messages), [PathBuf::from("/a")]);
    }
}
