//! The disks of all machines, in memory, with everything that can go wrong with a disk.
//!
//! A path is `/sim/{machine}/{process}/{file}`. The process is no part of the file's name: it tells whose handle it is, so
//! that one process can be killed while others go on with the same file. What a machine has not synced may be kept, lost
//! or torn when its power goes. `vfs` is the door through which SQLite comes in.
//!
//! There is one set of disks, since SQLite knows its file systems by name; one world uses it at a time.

mod content;
pub(crate) mod faults;
mod file;
mod locks;
mod ops;
#[cfg(test)]
mod tests;
mod vfs;

use self::faults::{Armed, Fault, Injected};
use self::file::File;
use crate::random::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use content::Content;
pub(crate) use vfs::register;

/// Milliseconds since 1970 in the world.
static WORLD_MS: AtomicU64 = AtomicU64::new(0);
/// How far the clock of the machine that runs just now is ahead.
static SKEW_MS: AtomicI64 = AtomicI64::new(0);
static DISKS: Mutex<Option<Disks>> = Mutex::new(None);

/// The world's time.
pub(crate) fn now_ms() -> u64 {
    WORLD_MS.load(Ordering::Relaxed)
}

/// Sets the world's time.
pub(crate) fn set_now_ms(now_ms: u64) {
    WORLD_MS.store(now_ms, Ordering::Relaxed);
}

/// Has SQLite tell the time of a machine whose clock is this far ahead.
pub(crate) fn run_with_skew(skew_ms: i64) {
    SKEW_MS.store(skew_ms, Ordering::Relaxed);
}

/// The disks, until the guard is dropped. No SQLite function may be called meanwhile.
pub(crate) struct Guard(MutexGuard<'static, Option<Disks>>);

/// Takes the disks.
pub(crate) fn disks() -> Guard {
    Guard(DISKS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Keeps other tests away from the disks, which are one for all.
#[cfg(test)]
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts new and empty disks in the place of all.
pub(crate) fn renew(dice: Dice) {
    *disks().0 = Some(Disks::new(dice));
    vfs::reseed();
}

impl std::ops::Deref for Guard {
    type Target = Disks;
    #[allow(clippy::expect_used)]
    fn deref(&self) -> &Disks {
        self.0.as_ref().expect("a world is running")
    }
}

impl std::ops::DerefMut for Guard {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut Disks {
        self.0.as_mut().expect("a world is running")
    }
}

/// The name of a process on a machine.
type ProcessName = Arc<(String, String)>;

/// What a machine's disk is like, and what will befall it.
#[derive(Default)]
struct Drive {
    armed: Option<Armed>,
    /// Files that were removed without a sync of their folder: they may be back after a power loss.
    removed: Vec<(String, File)>,
    is_full: bool,
    /// Somebody looks on, whom nothing befalls.
    is_spared: bool,
    /// Writes that are not synced are remembered, so that the power may go.
    tracks: bool,
    /// Writes never harm the bytes beside them, even in one sector.
    is_safe: bool,
    injected: u64,
}

/// All disks.
pub(crate) struct Disks {
    dice: Dice,
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    handles: BTreeMap<u64, Handle>,
    next: u64,
    drives: BTreeMap<String, Drive>,
    dead: BTreeSet<ProcessName>,
    powerless: BTreeSet<String>,
    shadows: Vec<locks::Shadow>,
    /// How often each kind of fault happened.
    pub(crate) injected: Injected,
    /// Calls of SQLite that changed a disk.
    pub(crate) writes: u64,
    hash: u64,
}

/// An open file.
struct Handle {
    file: u64,
    owner: Option<ProcessName>,
    lock: locks::Level,
    shared: u16,
    exclusive: u16,
    /// Removed when it is closed.
    is_temporary: bool,
    syncs_folder: bool,
    /// A write leaves the bytes beside it alone.
    is_safe: bool,
}

/// Machine, process, and the name of the file on its disk.
fn parse(path: &str) -> Option<(ProcessName, String)> {
    let mut parts = path.strip_prefix("/sim/")?.splitn(3, '/');
    let (machine, process, file) = (parts.next()?, parts.next()?, parts.next()?);
    Some((Arc::new((machine.to_owned(), process.to_owned())), format!("{machine}/{file}")))
}

impl Disks {
    fn new(dice: Dice) -> Self {
        Self {
            dice,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            handles: BTreeMap::new(),
            next: 1,
            drives: BTreeMap::new(),
            dead: BTreeSet::new(),
            powerless: BTreeSet::new(),
            shadows: Vec::new(),
            injected: Injected::default(),
            writes: 0,
            hash: 0,
        }
    }

    fn drive(&mut self, machine: &str) -> &mut Drive {
        self.drives.entry(machine.to_owned()).or_default()
    }

    /// Says what the disk of a machine is like: whether its power may go, and whether writes leave their surroundings alone.
    pub(crate) fn equip(&mut self, machine: &str, tracks: bool, is_safe: bool) {
        let drive = self.drive(machine);
        (drive.tracks, drive.is_safe) = (tracks, is_safe);
    }

    /// Lets a fault happen at the `after`-th call that it can befall.
    pub(crate) fn arm(&mut self, machine: &str, fault: Fault, after: u64) {
        self.drive(machine).armed = Some(Armed { fault, after });
    }

    /// Takes back what was armed and did not happen; a full disk has room again.
    pub(crate) fn disarm(&mut self, machine: &str) {
        let drive = self.drive(machine);
        drive.armed = None;
        drive.is_full = false;
    }

    /// Lets nothing befall the disk of a machine, and nothing that will come nearer, until this is taken back.
    pub(crate) fn spare(&mut self, machine: &str, is_spared: bool) {
        self.drive(machine).is_spared = is_spared;
    }

    /// True while something is bound to happen to a machine's disk, or it is full.
    pub(crate) fn is_armed(&self, machine: &str) -> bool {
        self.drives.get(machine).is_some_and(|drive| drive.armed.is_some() || drive.is_full)
    }

    /// How many calls of this machine failed by a fault.
    pub(crate) fn failures(&self, machine: &str) -> u64 {
        self.drives.get(machine).map_or(0, |drive| drive.injected)
    }

    /// True once a fault has ended this process.
    pub(crate) fn is_dead(&self, machine: &str, process: &str) -> bool {
        self.dead.iter().any(|name| name.0 == machine && name.1 == process)
    }

    /// True when a fault has ended a process of this machine.
    pub(crate) fn has_dead(&self, machine: &str) -> bool {
        self.dead.iter().any(|name| name.0 == machine)
    }

    /// Ends all processes of a machine between two calls; their handles are to be closed next.
    pub(crate) fn cut_power(&mut self, machine: &str) {
        self.powerless.insert(machine.to_owned());
        self.die(machine, None);
        self.lose(machine);
    }

    /// True when the power of this machine was lost since this was last asked.
    pub(crate) fn lost_power(&mut self, machine: &str) -> bool {
        self.powerless.remove(machine)
    }

    /// Ends one process between two calls.
    pub(crate) fn kill(&mut self, machine: &str, process: &str) {
        self.die(machine, Some(process));
    }

    fn die(&mut self, machine: &str, process: Option<&str>) {
        let is_hit = |owner: &ProcessName| owner.0 == machine && process.is_none_or(|name| name == owner.1);
        let owners: BTreeSet<_> =
            self.handles.values().filter_map(|handle| handle.owner.clone()).filter(is_hit).collect();
        self.remember_shared_memory(&owners);
        self.dead.extend(owners);
        if let Some(process) = process {
            self.dead.insert(Arc::new((machine.to_owned(), process.to_owned())));
        }
    }

    /// After all handles of the dead processes are closed: they may begin anew.
    pub(crate) fn restart(&mut self, machine: &str) {
        self.bring_shared_memory_back(machine);
        self.dead.retain(|name| name.0 != machine);
    }

    /// Handles that are open on files of a machine.
    pub(crate) fn handles(&self, machine: &str) -> usize {
        self.handles
            .values()
            .filter(|handle| handle.owner.as_ref().is_some_and(|owner| owner.0 == machine))
            .count()
    }

    /// What is in a file, as its readers see it.
    pub(crate) fn content(&self, path: &str) -> Option<Content> {
        let (_, name) = parse(path)?;
        Some(self.files[self.names.get(&name)?].content.clone())
    }

    /// Puts a file in the place of another one, on disk for good. Nobody has either open.
    pub(crate) fn place(&mut self, path: &str, content: Content) {
        let Some((_, name)) = parse(path) else { return };
        self.remove(path);
        self.next += 1;
        self.names.insert(name, self.next);
        self.files.insert(self.next, File::durable(content));
    }

    /// Removes a file for good.
    pub(crate) fn remove(&mut self, path: &str) {
        if let Some((_, name)) = parse(path)
            && let Some(file) = self.names.remove(&name)
        {
            self.files.remove(&file);
        }
    }

    /// The number of a file, which no other file ever has.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        let (_, name) = parse(path)?;
        self.names.get(&name).copied()
    }

    /// A hash of all calls that changed a disk: which file, where, how much. What was in the bytes is no part of it, since SQLite
    /// leaves in unused parts of a page whatever was in its memory.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    fn record(&mut self, handle: u64, at: usize, length: usize) {
        self.writes += 1;
        let file = self.handles.get(&handle).map_or(0, |handle| handle.file);
        for number in [file, at as u64, length as u64] {
            self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
    }
}
