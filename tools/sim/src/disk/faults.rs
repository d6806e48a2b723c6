//! What goes wrong with a disk, and when.

use super::{Disks, ProcessName};
use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::c_int;

/// How often each kind of fault happened.
pub(crate) type Injected = BTreeMap<&'static str, u64>;

/// What befalls a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process that calls ends within the call.
    Kill,
    /// The machine loses its power within the call, and with it some of what was not synced.
    PowerLoss,
    /// So many writes fail.
    WriteError(u64),
    /// So many syncs fail.
    SyncError(u64),
    /// So many reads fail.
    ReadError(u64),
    /// So many files cannot be opened.
    OpenError(u64),
    /// There is no room for anything that makes a file longer.
    Full,
}

impl Fault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power loss",
            Self::WriteError(_) => "write error",
            Self::SyncError(_) => "sync error",
            Self::ReadError(_) => "read error",
            Self::OpenError(_) => "open error",
            Self::Full => "full disk",
        }
    }
}

/// A fault, and the calls until it happens.
pub(super) struct Armed {
    pub(super) fault: Fault,
    pub(super) after: u64,
}

/// What a call does to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    Open,
    Write { grows: bool },
    Sync,
    Change,
}

/// How a call goes.
pub(super) enum Course {
    Well,
    /// It fails with this code and does nothing.
    Fails(c_int),
    /// Its process ends: a part of a write may have happened.
    Ends(Fault),
}

impl Disks {
    /// How this call of a process goes.
    pub(super) fn course(&mut self, owner: Option<&ProcessName>, call: Call) -> Course {
        let Some(owner) = owner else { return Course::Well };
        if !self.dead.is_empty() && self.dead.contains(owner) {
            return Course::Fails(ffi::SQLITE_IOERR);
        }
        // Who only looks on is spared.
        if owner.1 == super::faults::EYE {
            return Course::Well;
        }
        let Some(drive) = self.drives.get_mut(&owner.0) else { return Course::Well };
        if drive.is_spared {
            return Course::Well;
        }
        if drive.is_full && call == (Call::Write { grows: true }) {
            drive.injected += 1;
            *self.injected.entry("full disk").or_default() += 1;
            return Course::Fails(ffi::SQLITE_FULL);
        }
        let Some(armed) = &mut drive.armed else { return Course::Well };
        let (code, times) = match (armed.fault, call) {
            (Fault::Kill | Fault::PowerLoss, Call::Write { .. } | Call::Sync | Call::Change) => (0, 1),
            (Fault::WriteError(times), Call::Write { .. }) => (ffi::SQLITE_IOERR_WRITE, times),
            (Fault::SyncError(times), Call::Sync) => (ffi::SQLITE_IOERR_FSYNC, times),
            (Fault::ReadError(times), Call::Read) => (ffi::SQLITE_IOERR_READ, times),
            (Fault::OpenError(times), Call::Open) => (ffi::SQLITE_CANTOPEN, times),
            (Fault::Full, Call::Write { grows: true }) => (ffi::SQLITE_FULL, 1),
            _ => return Course::Well,
        };
        if armed.after > 0 {
            armed.after -= 1;
            return Course::Well;
        }
        let fault = armed.fault;
        drive.injected += 1;
        drive.is_full |= fault == Fault::Full;
        drive.armed = match fault {
            Fault::WriteError(_) if times > 1 => {
                Some(Armed { fault: Fault::WriteError(times - 1), after: 0 })
            }
            Fault::SyncError(_) if times > 1 => Some(Armed { fault: Fault::SyncError(times - 1), after: 0 }),
            Fault::ReadError(_) if times > 1 => Some(Armed { fault: Fault::ReadError(times - 1), after: 0 }),
            Fault::OpenError(_) if times > 1 => Some(Armed { fault: Fault::OpenError(times - 1), after: 0 }),
            _ => None,
        };
        *self.injected.entry(fault.name()).or_default() += 1;
        if code == 0 { Course::Ends(fault) } else { Course::Fails(code) }
    }

    /// Ends whoever called, and says so.
    pub(super) fn end(&mut self, owner: Option<&ProcessName>, fault: Fault) -> c_int {
        if let Some((machine, process)) = owner.map(|owner| (**owner).clone()) {
            match fault {
                Fault::PowerLoss => self.cut_power(&machine),
                _ => self.kill(&machine, &process),
            }
        }
        ffi::SQLITE_IOERR
    }
}

/// The process that checks what is left; nothing befalls it.
pub(crate) const EYE: &str = "eye";
