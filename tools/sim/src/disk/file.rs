//! A file: what its readers see, and what would be left of it without power.

use super::locks::SharedMemory;
use super::{Content, Disks};
use crate::random::Dice;

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// Something that was done to a file and not synced.
enum Step {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// A file.
#[derive(Default)]
pub(super) struct File {
    pub(super) content: Content,
    /// What is left without the steps that were not synced.
    synced: Content,
    unsynced: Vec<Step>,
    /// Its name is on disk.
    pub(super) is_linked: bool,
    pub(super) memory: SharedMemory,
    pub(super) handles: Vec<u64>,
    tracks: bool,
}

impl File {
    pub(super) fn new(tracks: bool) -> Self {
        Self { tracks, ..Self::default() }
    }

    pub(super) fn durable(content: Content) -> Self {
        Self { synced: content.clone(), content, is_linked: true, tracks: true, ..Self::default() }
    }

    /// True when its name or the lack of it is not on disk yet.
    pub(super) fn may_vanish(&self) -> bool {
        self.tracks && !self.is_linked
    }

    /// True when the power may go.
    pub(super) const fn is_tracked(&self) -> bool {
        self.tracks
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.content.write(at, bytes);
        if self.tracks {
            self.unsynced.push(Step::Write { at, bytes: bytes.to_owned() });
        }
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.content.truncate(length);
        if self.tracks {
            self.unsynced.push(Step::Truncate(length));
        }
    }

    pub(super) fn sync(&mut self) {
        for step in self.unsynced.drain(..) {
            match step {
                Step::Write { at, bytes } => self.synced.take_over(&self.content, at, bytes.len()),
                Step::Truncate(length) => self.synced.truncate(length),
            }
        }
    }

    /// The power goes: of what was not synced anything may be left. `mood` is how much of it, of a thousand.
    fn lose(&mut self, mood: u64, dice: &mut Dice) {
        if !self.tracks {
            return;
        }
        for step in std::mem::take(&mut self.unsynced) {
            match step {
                Step::Write { at, bytes } if mood < 1_000 && dice.chance(300) => {
                    // Torn: each sector has its own fate.
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
                        if dice.chance(mood) {
                            self.synced.write(at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
                Step::Write { at, bytes } if dice.chance(mood) => self.synced.write(at, &bytes),
                Step::Truncate(length) if dice.chance(mood) => self.synced.truncate(length),
                Step::Write { .. } | Step::Truncate(_) => {}
            }
        }
        self.content = self.synced.clone();
    }
}

impl Disks {
    /// What the loss of power makes of the files of a machine.
    pub(super) fn lose(&mut self, machine: &str) {
        let mood = *self.dice.pick(&[0, 300, 500, 800, 1_000]);
        let prefix = format!("{machine}/");
        let names: Vec<_> =
            self.names.range(prefix.clone()..).map(|(name, file)| (name.clone(), *file)).collect();
        for (name, number) in names.into_iter().take_while(|(name, _)| name.starts_with(&prefix)) {
            let Some(file) = self.files.get_mut(&number) else { continue };
            file.lose(mood, &mut self.dice);
            if file.may_vanish() && !self.dice.chance(mood) {
                // Whoever has it open does so in vain, and closes it.
                self.names.remove(&name);
            }
            if let Some(file) = self.files.get_mut(&number) {
                file.is_linked = true;
            }
        }
        for (name, mut file) in std::mem::take(&mut self.drive(machine).removed) {
            if !self.names.contains_key(&name) && !self.dice.chance(mood) {
                file.lose(mood, &mut self.dice);
                self.next += 1;
                self.names.insert(name, self.next);
                self.files.insert(self.next, file);
            }
        }
    }

    /// The names in a machine's folder are on disk.
    pub(super) fn sync_folder(&mut self, machine: &str) {
        self.drive(machine).removed.clear();
        let prefix = format!("{machine}/");
        let names = self.names.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        for (_, number) in names {
            if let Some(file) = self.files.get_mut(number) {
                file.is_linked = true;
            }
        }
    }
}
