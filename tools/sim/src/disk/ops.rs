//! What SQLite asks of a disk.

use super::faults::{Call, Course};
use super::file::File;
use super::{Disks, Handle, ProcessName, parse};
use rusqlite::ffi;
use std::ffi::c_int;

/// A file that is synced together with the folder it lies in, the first time that this is done through a handle.
const SYNCS_FOLDER: c_int =
    ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;

type Outcome<T> = Result<T, c_int>;

impl Disks {
    fn owner(&self, handle: u64) -> Option<ProcessName> {
        self.handles.get(&handle)?.owner.clone()
    }

    fn file(&mut self, handle: u64) -> Outcome<&mut File> {
        let number = self.handles.get(&handle).ok_or(ffi::SQLITE_IOERR)?.file;
        self.files.get_mut(&number).ok_or(ffi::SQLITE_IOERR)
    }

    /// Opens a file; `None` opens one without a name.
    pub(super) fn open(&mut self, path: Option<&str>, flags: c_int) -> Outcome<u64> {
        let place = match path {
            Some(path) => Some(parse(path).ok_or(ffi::SQLITE_CANTOPEN)?),
            None => None,
        };
        let owner = place.as_ref().map(|(owner, _)| owner.clone());
        match self.course(owner.as_ref(), Call::Open) {
            Course::Well => {}
            Course::Fails(_) => return Err(ffi::SQLITE_CANTOPEN),
            Course::Ends(fault) => return Err(self.end(owner.as_ref(), fault)),
        }
        let known = place.as_ref().and_then(|(_, name)| self.names.get(name).copied());
        let (file, is_new) = match known {
            Some(_) if flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0 => return Err(ffi::SQLITE_CANTOPEN),
            Some(file) => (file, false),
            None if place.is_some() && flags & ffi::SQLITE_OPEN_CREATE == 0 => {
                return Err(ffi::SQLITE_CANTOPEN);
            }
            None => {
                self.next += 1;
                (self.next, true)
            }
        };
        if is_new {
            let tracks = owner.as_ref().is_some_and(|owner| self.drive(&owner.0).tracks);
            self.files.insert(file, File::new(tracks));
            if let Some((_, name)) = place {
                self.names.insert(name, file);
            }
        }
        self.next += 1;
        let handle = self.next;
        if let Some(file) = self.files.get_mut(&file) {
            file.handles.push(handle);
        }
        let is_temporary = owner.is_none() || flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0;
        let is_safe =
            owner.as_ref().and_then(|owner| self.drives.get(&owner.0)).is_none_or(|drive| drive.is_safe);
        let syncs_folder = flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & SYNCS_FOLDER != 0;
        self.handles.insert(
            handle,
            Handle { file, owner, lock: 0, shared: 0, exclusive: 0, is_temporary, syncs_folder, is_safe },
        );
        Ok(handle)
    }

    pub(super) fn close(&mut self, handle: u64) {
        self.unmap(handle);
        let Some(closed) = self.handles.remove(&handle) else { return };
        let Some(file) = self.files.get_mut(&closed.file) else { return };
        file.handles.retain(|other| *other != handle);
        let is_unused = file.handles.is_empty();
        if closed.is_temporary {
            self.names.retain(|_, file| *file != closed.file);
        }
        if is_unused && (closed.is_temporary || !self.names.values().any(|file| *file == closed.file)) {
            self.files.remove(&closed.file);
        }
    }

    /// Fills the buffer; false when the file ends before, and the rest is zero.
    pub(super) fn read(&mut self, handle: u64, buffer: &mut [u8], at: usize) -> Outcome<bool> {
        let owner = self.owner(handle);
        match self.course(owner.as_ref(), Call::Read) {
            Course::Well => {}
            Course::Fails(code) => return Err(code),
            Course::Ends(fault) => return Err(self.end(owner.as_ref(), fault)),
        }
        let file = self.file(handle)?;
        let length = file.content.read(at, buffer);
        buffer[length..].fill(0);
        Ok(length == buffer.len())
    }

    pub(super) fn write(&mut self, handle: u64, bytes: &[u8], at: usize) -> Outcome<()> {
        self.record(handle, at, bytes.len());
        let owner = self.owner(handle);
        let grows = at + bytes.len() > self.file(handle)?.content.len();
        match self.course(owner.as_ref(), Call::Write { grows }) {
            Course::Well => {}
            Course::Fails(code) => return Err(code),
            Course::Ends(fault) => {
                // A part of it is done.
                let done = match self.dice.below(3) {
                    0 => 0,
                    1 => bytes.len(),
                    _ => self.dice.below(bytes.len() as u64 + 1) as usize,
                };
                self.file(handle)?.write(at, &bytes[..done]);
                return Err(self.end(owner.as_ref(), fault));
            }
        }
        self.file(handle)?.write(at, bytes);
        Ok(())
    }

    pub(super) fn truncate(&mut self, handle: u64, length: usize) -> Outcome<()> {
        self.record(handle, length, 0);
        self.change(handle, |file| file.truncate(length))
    }

    fn change(&mut self, handle: u64, act: impl FnOnce(&mut File)) -> Outcome<()> {
        let owner = self.owner(handle);
        match self.course(owner.as_ref(), Call::Change) {
            Course::Well => act(self.file(handle)?),
            Course::Fails(code) => return Err(code),
            Course::Ends(fault) => {
                if self.dice.chance(500) {
                    act(self.file(handle)?);
                }
                return Err(self.end(owner.as_ref(), fault));
            }
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, handle: u64) -> Outcome<()> {
        self.record(handle, usize::MAX, 0);
        let owner = self.owner(handle);
        match self.course(owner.as_ref(), Call::Sync) {
            Course::Well => {}
            Course::Fails(code) => return Err(code),
            Course::Ends(fault) => return Err(self.end(owner.as_ref(), fault)),
        }
        self.file(handle)?.sync();
        let Some(own) = self.handles.get_mut(&handle) else { return Ok(()) };
        if std::mem::take(&mut own.syncs_folder)
            && let Some(owner) = owner
        {
            self.sync_folder(&owner.0);
        }
        Ok(())
    }

    pub(super) fn size(&mut self, handle: u64) -> Outcome<usize> {
        Ok(self.file(handle)?.content.len())
    }

    pub(super) fn delete(&mut self, path: &str, syncs_folder: bool) -> Outcome<()> {
        self.record(0, 0, path.len());
        let (owner, name) = parse(path).ok_or(ffi::SQLITE_IOERR_DELETE)?;
        match self.course(Some(&owner), Call::Change) {
            Course::Well => {}
            Course::Fails(_) => return Err(ffi::SQLITE_IOERR_DELETE),
            Course::Ends(fault) => return Err(self.end(Some(&owner), fault)),
        }
        let Some(number) = self.names.remove(&name) else { return Err(ffi::SQLITE_IOERR_DELETE_NOENT) };
        if self.files.get(&number).is_some_and(|file| file.handles.is_empty())
            && let Some(file) = self.files.remove(&number)
            && file.is_tracked()
        {
            self.drive(&owner.0).removed.push((name, file));
        }
        if syncs_folder {
            self.sync_folder(&owner.0);
        }
        Ok(())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        parse(path).is_some_and(|(_, name)| self.names.contains_key(&name))
    }

    /// True when a write of this file's machine leaves the bytes beside it alone.
    pub(super) fn is_safe(&self, handle: u64) -> bool {
        self.handles.get(&handle).is_none_or(|handle| handle.is_safe)
    }

    pub(super) fn unlock(&mut self, handle: u64, level: c_int) {
        if let Some(own) = self.handles.get_mut(&handle) {
            own.lock = own.lock.min(level);
        }
    }

    /// Random bytes of the world.
    pub(super) fn random(&mut self, buffer: &mut [u8]) {
        self.dice.fill(buffer);
    }
}
