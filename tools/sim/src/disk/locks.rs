//! Locks of files, and the memory that the processes of a machine share (the index of a WAL).

use super::{Disks, ProcessName};
use rusqlite::ffi;
use std::collections::BTreeSet;
use std::ffi::c_int;

/// A file's lock: none, shared, reserved, pending, exclusive, as SQLite numbers them.
pub(super) type Level = c_int;

/// Words of 8 bytes, so that the memory is aligned.
type Region = Box<[u64]>;

/// The shared memory of a file. SQLite writes it through pointers, so it never moves.
#[derive(Default)]
pub(super) struct SharedMemory {
    regions: Vec<*mut Region>,
    users: BTreeSet<u64>,
}

// SAFETY: the pointers are owned, and used under the lock of the disks, or by SQLite under its own rules.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    fn clear(&mut self) {
        for region in self.regions.drain(..) {
            // SAFETY: it came from `Box::into_raw`, and nobody uses the memory any more.
            drop(unsafe { Box::from_raw(region) });
        }
    }

    fn words(&self) -> Vec<Vec<u64>> {
        // SAFETY: the regions are alive, and no thread runs SQLite meanwhile.
        self.regions.iter().map(|region| unsafe { (**region).to_vec() }).collect()
    }

    fn set_words(&mut self, words: &[Vec<u64>]) {
        for (region, words) in self.regions.iter().zip(words) {
            // SAFETY: as in `words`.
            unsafe { (&mut **region).copy_from_slice(words) };
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What was in a file's shared memory when one of its users was killed. What SQLite does to it while the connections of
/// the dead are closed did not happen.
pub(super) struct Shadow {
    machine: String,
    file: u64,
    words: Vec<Vec<u64>>,
}

impl Disks {
    /// Takes a lock on the whole file.
    pub(super) fn lock(&mut self, handle: u64, level: Level) -> c_int {
        let Some(own) = self.handles.get(&handle) else { return ffi::SQLITE_IOERR_LOCK };
        if own.owner.as_ref().is_some_and(|owner| self.dead.contains(owner)) {
            return ffi::SQLITE_IOERR_LOCK;
        }
        if own.lock >= level {
            return ffi::SQLITE_OK;
        }
        let others = || self.files[&own.file].handles.iter().filter(|other| **other != handle);
        let highest =
            others().filter_map(|other| self.handles.get(other)).map(|other| other.lock).max().unwrap_or(0);
        let (granted, code) = match level {
            ffi::SQLITE_LOCK_SHARED if highest >= ffi::SQLITE_LOCK_PENDING => (own.lock, ffi::SQLITE_BUSY),
            ffi::SQLITE_LOCK_SHARED => (level, ffi::SQLITE_OK),
            _ if highest >= ffi::SQLITE_LOCK_RESERVED => (own.lock, ffi::SQLITE_BUSY),
            ffi::SQLITE_LOCK_EXCLUSIVE if highest >= ffi::SQLITE_LOCK_SHARED => {
                (ffi::SQLITE_LOCK_PENDING, ffi::SQLITE_BUSY)
            }
            _ => (level, ffi::SQLITE_OK),
        };
        if let Some(own) = self.handles.get_mut(&handle) {
            own.lock = granted;
        }
        code
    }

    /// True when anybody is about to write the file.
    pub(super) fn is_reserved(&self, handle: u64) -> bool {
        let Some(own) = self.handles.get(&handle) else { return false };
        let locks = self.files[&own.file].handles.iter().filter_map(|handle| self.handles.get(handle));
        locks.map(|handle| handle.lock).any(|lock| lock >= ffi::SQLITE_LOCK_RESERVED)
    }

    /// A region of the shared memory; null when there is none and none shall be made.
    pub(super) fn map(
        &mut self,
        handle: u64,
        region: usize,
        bytes: usize,
        extends: bool,
    ) -> Result<*mut u64, c_int> {
        let own = self.handles.get(&handle).ok_or(ffi::SQLITE_IOERR_SHMMAP)?;
        if own.owner.as_ref().is_some_and(|owner| self.dead.contains(owner)) {
            return Err(ffi::SQLITE_IOERR_SHMMAP);
        }
        let file = self.files.get_mut(&own.file).ok_or(ffi::SQLITE_IOERR_SHMMAP)?;
        file.memory.users.insert(handle);
        while file.memory.regions.len() <= region {
            if !extends {
                return Ok(std::ptr::null_mut());
            }
            let words: Region = vec![0; bytes / 8].into_boxed_slice();
            file.memory.regions.push(Box::into_raw(Box::new(words)));
        }
        // SAFETY: the region is alive as long as anybody uses the memory.
        Ok(unsafe { (**file.memory.regions[region]).as_mut_ptr() })
    }

    /// Takes or gives back locks on the shared memory.
    pub(super) fn lock_memory(&mut self, handle: u64, offset: c_int, count: c_int, flags: c_int) -> c_int {
        let mask = ((1_u32 << (offset + count)) - (1 << offset)) as u16;
        let Some(own) = self.handles.get(&handle) else { return ffi::SQLITE_IOERR_SHMLOCK };
        let is_dead = own.owner.as_ref().is_some_and(|owner| self.dead.contains(owner));
        let others = self.files[&own.file].handles.iter().filter(|other| **other != handle);
        let (shared, exclusive) = others
            .filter_map(|other| self.handles.get(other))
            .fold((0, 0), |(shared, exclusive), other| (shared | other.shared, exclusive | other.exclusive));
        let Some(own) = self.handles.get_mut(&handle) else { return ffi::SQLITE_IOERR_SHMLOCK };
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            own.shared &= !mask;
            own.exclusive &= !mask;
            return ffi::SQLITE_OK;
        }
        if is_dead {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        let wants_shared = flags & ffi::SQLITE_SHM_SHARED != 0;
        let taken = if wants_shared { exclusive } else { exclusive | shared };
        if taken & mask != 0 {
            return ffi::SQLITE_BUSY;
        }
        if wants_shared {
            own.shared |= mask;
        } else {
            own.exclusive |= mask;
        }
        ffi::SQLITE_OK
    }

    /// Ends the use of the shared memory, which goes with its last user.
    pub(super) fn unmap(&mut self, handle: u64) {
        let Some(own) = self.handles.get_mut(&handle) else { return };
        (own.shared, own.exclusive) = (0, 0);
        if let Some(file) = self.files.get_mut(&own.file) {
            file.memory.users.remove(&handle);
            if file.memory.users.is_empty() {
                file.memory.clear();
            }
        }
    }

    /// Remembers the shared memory of all files that these processes use.
    pub(super) fn remember_shared_memory(&mut self, dying: &BTreeSet<ProcessName>) {
        let of_dying =
            |handle: &&super::Handle| handle.owner.as_ref().is_some_and(|owner| dying.contains(owner));
        let files: BTreeSet<u64> = self.handles.values().filter(of_dying).map(|handle| handle.file).collect();
        for number in files {
            let Some(file) = self.files.get(&number) else { continue };
            let owner =
                file.handles.iter().filter_map(|handle| self.handles.get(handle)?.owner.as_ref()).next();
            if let Some(owner) = owner
                && !file.memory.regions.is_empty()
            {
                self.shadows.push(Shadow {
                    machine: owner.0.clone(),
                    file: number,
                    words: file.memory.words(),
                });
            }
        }
    }

    /// Undoes what happened to shared memory of a machine since a process died there.
    pub(super) fn bring_shared_memory_back(&mut self, machine: &str) {
        for shadow in std::mem::take(&mut self.shadows) {
            if shadow.machine != machine {
                self.shadows.push(shadow);
            } else if let Some(file) = self.files.get_mut(&shadow.file) {
                file.memory.set_words(&shadow.words);
            }
        }
    }
}
