//! What a run must not leave behind: the processes that it started, and its folder.
//!
//! Both go when their owners are dropped, and also when a signal ends the program, or its parent is gone.

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// What a shell gives for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
/// How often it is looked whether the parent is gone.
const PARENT_LOOK: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Charges {
    children: Vec<u32>,
    folder: Option<PathBuf>,
}

static CHARGES: Mutex<Charges> = Mutex::new(Charges { children: Vec::new(), folder: None });

fn charges() -> MutexGuard<'static, Charges> {
    CHARGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program with all that it started, and removes its folder. The lock is kept, so nothing new begins.
fn abandon(why: &str) -> ! {
    let charges = charges();
    for id in &charges.children {
        end(*id);
    }
    if let Some(folder) = &charges.folder {
        // A process that is just ending may still make a file.
        for _ in 0..20 {
            if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    eprintln!("ended by {why}");
    std::process::exit(INTERRUPTED)
}

fn end(id: u32) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It fails only when the process has ended already.
        let _ = kill_process(id, Signal::KILL);
    }
}

/// The folder of a run, from when on a signal ends everything that is in custody.
pub(super) struct Custody(TempDir);

impl Custody {
    pub(super) fn begin() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
        let folder = tempfile::Builder::new().prefix("cloudsync-bench-").tempdir()?;
        charges().folder = Some(folder.path().to_owned());
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                abandon("a signal");
            }
        });
        let parent = parent_id();
        thread::spawn(move || {
            while parent_id() == parent {
                thread::sleep(PARENT_LOOK);
            }
            abandon("the end of its parent");
        });
        Ok(Self(folder))
    }

    /// An empty folder for one step.
    pub(super) fn folder(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(self.0.path())?)
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        charges().folder = None;
    }
}

/// A process that ends when this is dropped.
pub(super) struct Charge(Child);

impl Charge {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut charges = charges();
        let child = command.spawn().map_err(|error| {
            anyhow!("cannot start {}: {error}", Path::new(command.get_program()).display())
        })?;
        charges.children.push(child.id());
        Ok(Self(child))
    }

    pub(super) fn process(&mut self) -> &mut Child {
        &mut self.0
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // Both fail only when the process has ended already. Not before it is waited for may another one get its id.
        let _ = self.0.kill();
        charges().children.retain(|id| *id != self.0.id());
        let _ = self.0.wait();
    }
}
