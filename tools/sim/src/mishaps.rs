//! What goes wrong: with machines, their files, clocks and disks; and how one recovers.

use crate::disk::faults::Fault;
use crate::disk::{self, disks};
use crate::host::Machine;
use crate::oracle;
use crate::random::Dice;
use crate::renames;
use crate::server::SERVER;
use crate::sound;
use crate::workload;
use crate::world::{Outcome, World};
use anyhow::{Context, Result};
use cloudsync_protocol::limits::STAGED_MS_MAX;
use std::collections::BTreeSet;

/// How far a wrong clock that machines share is ahead.
const WRONG_MS: i64 = 3_600_000;

impl World {
    /// Draws what befalls a device in this step.
    pub(crate) fn mishap(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let plan = self.plan;
        let name = self.devices[at].name.clone();
        let room = self.devices.len() < plan.devices_max;
        if dice.chance(plan.crashes) {
            self.note(|| format!("{name} crashes"));
            self.stats.fault("crash");
            disks().disarm(&self.devices[at].place);
            self.devices[at].crash()?;
            self.recovered(at, false)?;
        }
        if dice.chance(plan.power_losses) && !self.devices[at].opening.keeps_power {
            self.note(|| format!("{name} loses its power"));
            self.stats.fault("power cut");
            disks().disarm(&self.devices[at].place);
            self.devices[at].lose_power()?;
            self.recovered(at, true)?;
        }
        if dice.chance(plan.clock_jumps) {
            let skew = self.skew(dice);
            self.note(|| format!("{name} jumps to skew {skew}"));
            self.stats.fault("clock jump");
            self.devices[at].machine.skew_ms.set(skew);
        }
        if room && dice.chance(plan.copies) {
            self.copy(at, dice)?;
        }
        if dice.chance(plan.restores) {
            self.restore(at, dice)?;
        }
        if room && dice.chance(plan.joins) {
            self.join(dice)?;
        }
        if dice.chance(plan.processes) && self.devices[at].processes.len() < 2 {
            self.note(|| format!("{name} has a second process"));
            self.second_process(at)?;
        }
        self.disk_fault(at, dice);
        if dice.chance(plan.alterations.max(plan.rebuilds)) {
            self.alter(at, dice)?;
        }
        if dice.chance(plan.couriers) {
            self.carry(at, dice)?;
        }
        if dice.chance(plan.user_changes) {
            self.change_user(at, dice)?;
        }
        Ok(())
    }

    /// Everybody sleeps for longer than the server keeps what was begun, mostly while something is.
    pub(crate) fn sleep(&mut self, dice: &mut Dice) -> Result<()> {
        let sql = "SELECT count(*) FROM cloudsync_server_staging";
        let staged: i64 = self.server.eye()?.query_row(sql, [], |row| row.get(0))?;
        if staged == 0 && !dice.chance(50) {
            return Ok(());
        }
        let nap_ms = STAGED_MS_MAX + 1 + dice.below(STAGED_MS_MAX / 4);
        self.note(|| format!("everybody sleeps for {nap_ms} ms"));
        self.stats.fault("long sleep");
        self.stats.slept_ms += nap_ms;
        disk::set_now_ms(self.now() + nap_ms);
        Ok(())
    }

    /// The app of a device comes to a later version, or makes a table anew.
    fn alter(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let name = self.devices[at].name.clone();
        let rebuilds = dice.chance(500);
        let is_unseen = rebuilds && self.plan.rebuilds > 0;
        self.note(|| {
            format!("{name} alters its schema, by rebuilding: {rebuilds}, without the bracket: {is_unseen}")
        });
        self.stats.fault("schema change");
        let outcome = self.guarded(at, 0, |process| {
            if rebuilds && is_unseen {
                workload::rebuild(&process.db)?;
                // What is written without triggers would not be noted. A look for what is unsent may end before it sees that.
                Ok(process.replica.fold().map(drop)?)
            } else if rebuilds {
                process.replica.begin_alter("notes")?;
                workload::rebuild(&process.db)?;
                Ok(process.replica.commit_alter("notes")?)
            } else if workload::TABLES[0].has_later(&process.db)? {
                Ok(())
            } else {
                Ok(process.db.execute_batch(workload::ADD_LATER)?)
            }
        })?;
        match outcome {
            Outcome::Done(()) => Ok(()),
            Outcome::Died => self.recovers(at),
            Outcome::Failed => self.restart_app(at),
        }
    }

    /// A bracket may be open and must be closed: the app starts again.
    pub(crate) fn restart_app(&mut self, at: usize) -> Result<()> {
        disks().disarm(&self.devices[at].place);
        self.devices[at].crash()?;
        self.recovered(at, false)
    }

    /// Somebody carries what changed on a device to another one, as files.
    fn carry(&mut self, from: usize, dice: &mut Dice) -> Result<()> {
        let to = dice.below(self.devices.len() as u64) as usize;
        self.carry_to(from, to, dice)
    }

    fn carry_to(&mut self, from: usize, to: usize, dice: &mut Dice) -> Result<()> {
        // A file knows nothing of who may see what.
        if self.devices[from].holder.is_some() || self.devices[to].holder.is_some() {
            return Ok(());
        }
        let since = if dice.chance(500) { 0 } else { self.now().saturating_sub(dice.below(600_000)) };
        self.stats.fault("payload file");
        let outcome = self.guarded(from, 0, |process| {
            let mut payloads = Vec::new();
            let mut chunks = process.replica.chunks_after(since)?;
            while let Some(chunk) = chunks.next(&mut process.replica)? {
                payloads.push(chunk.payload);
            }
            Ok(payloads)
        })?;
        let payloads = match outcome {
            Outcome::Done(payloads) => payloads,
            Outcome::Failed => return Ok(()),
            Outcome::Died => return self.recovers(from),
        };
        let (author, reader) = (self.devices[from].name.clone(), self.devices[to].name.clone());
        self.note(|| format!("{} files go from {author} to {reader}", payloads.len()));
        let mut names = BTreeSet::new();
        oracle::add_names(&self.devices[from].eye(), &mut names)?;
        self.devices[to].own.got(names);
        let outcome = self.guarded(to, 0, |process| {
            for payload in &payloads {
                match process.replica.payload_apply(payload) {
                    // Written under a clock that is far ahead of this one.
                    Err(cloudsync_replica::Error::ClockAhead(_)) => break,
                    applied => drop(applied?),
                }
            }
            Ok(())
        })?;
        if matches!(outcome, Outcome::Died) { self.recovers(to) } else { Ok(()) }
    }

    /// Two machines have one wrong clock, as where nobody set it, and what one of them writes is carried to the other.
    pub(crate) fn share_wrong_clock(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let to = dice.below(self.devices.len() as u64) as usize;
        // Copies that do not know that they are take what comes from one another for their own (docs/merge.md).
        let may_be_twins = self.devices.iter().any(|device| device.parted);
        if self.plan.skew_ms_max < WRONG_MS || self.plan.couriers == 0 || to == at || may_be_twins {
            return Ok(());
        }
        for device in [at, to] {
            self.devices[device].machine.skew_ms.set(WRONG_MS);
        }
        self.stats.fault("shared wrong clock");
        self.write(at, 0, dice)?;
        self.carry_to(at, to, dice)
    }

    fn second_process(&mut self, at: usize) -> Result<()> {
        let device = &mut self.devices[at];
        let before = disks().failures(&device.place);
        let opened = device.add_process();
        if disks().failures(&device.place) == before {
            return opened;
        }
        if disks().has_dead(&device.place) { self.recovers(at) } else { Ok(()) }
    }

    fn disk_fault(&mut self, at: usize, dice: &mut Dice) {
        let place = self.devices[at].place.clone();
        if disks().is_armed(&place) {
            if dice.chance(300) {
                disks().disarm(&place);
            }
            return;
        }
        if dice.chance(self.plan.disk_faults) {
            let (fault, after) = draw_fault(dice, self.devices[at].opening.keeps_power);
            self.note(|| format!("{place} will meet {fault:?} after {after} calls"));
            disks().arm(&place, fault, after);
        }
    }

    fn copy(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let name = self.name();
        let skew_ms = self.devices[at].machine.skew_ms.get();
        let machine = Machine::with_files(skew_ms, dice.fork(), !self.plan.twins);
        let original = self.devices[at].name.clone();
        self.note(|| format!("{name} is a copy of {original}"));
        self.stats.fault("copied file");
        let copy = self.devices[at].copy(name, machine, dice)?;
        // What the copy holds unsent is its own from here on.
        self.rename(at);
        self.add(copy, dice);
        self.permits.copied(at, self.devices.len() - 1);
        if self.plan.twins {
            let copy = self.devices.len() - 1;
            self.write(copy, 0, dice)?;
            self.carry_to(copy, at, dice)?;
        }
        Ok(())
    }

    /// The rows that only this device wrote are nobody's own from here on.
    fn rename(&mut self, at: usize) {
        let fresh = self.name();
        let old = std::mem::replace(&mut self.devices[at].name, fresh.clone());
        self.note(|| format!("{old} goes on as {fresh}"));
        self.devices[at].parted = true;
        self.model.share(&old);
    }

    fn restore(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        if dice.chance(500) {
            self.devices[at].back_up();
        } else if self.devices[at].can_restore() {
            disks().disarm(&self.devices[at].place);
            self.devices[at].restore()?;
            let name = self.devices[at].name.clone();
            self.note(|| format!("{name} is restored from a backup"));
            self.stats.fault("restored device");
            self.forget(at)?;
        }
        Ok(())
    }

    /// A device's file is what it was before: what only it had is lost.
    pub(crate) fn forget(&mut self, at: usize) -> Result<()> {
        self.rename(at);
        self.miss_nothing_that_is_nowhere()
    }

    fn miss_nothing_that_is_nowhere(&mut self) -> Result<()> {
        let mut left = BTreeSet::new();
        oracle::add_names(self.server.eye()?, &mut left)?;
        // What only the server has under the old name of a table stays there.
        renames::add_names(self.server.eye()?, &renames::NAMES[1..], &mut left)?;
        // What only users have under a name may be refused.
        for device in self.devices.iter().filter(|device| device.holder.is_none()) {
            let eye = device.eye();
            oracle::add_names(&eye, &mut left)?;
            renames::add_names(&eye, &renames::NAMES, &mut left)?;
        }
        self.model.forget(&left);
        Ok(())
    }

    /// A fault ended a process, or all of a machine.
    pub(crate) fn recovers(&mut self, at: usize) -> Result<()> {
        let device = &mut self.devices[at];
        disks().disarm(&device.place);
        let lost_power = disks().lost_power(&device.place);
        let name = device.name.clone();
        device.recover().with_context(|| format!("device {name}, after its end"))?;
        self.note(|| format!("{name} ended, power lost: {lost_power}"));
        self.recovered(at, lost_power)
    }

    /// Checks the file of a device that begins anew.
    fn recovered(&mut self, at: usize, lost_power: bool) -> Result<()> {
        let device = &self.devices[at];
        let eye = device.eye();
        sound::check_integrity(&eye, &device.name)?;
        if lost_power && !device.opening.is_durable {
            drop(eye);
            return self.forget(at);
        }
        let mut rows = oracle::own_rows(&eye, &device.name)?;
        rows.extend(renames::own_rows(&eye, &device.name)?);
        self.model.check_own(&device.name, &rows).context("after a crash")
    }

    /// Draws what befalls the server.
    pub(crate) fn server_mishap(&mut self, dice: &mut Dice) -> Result<()> {
        if dice.chance(self.plan.server_restarts) {
            self.note(|| "the server restarts".to_owned());
            disks().disarm(SERVER);
            self.server.restart()?;
        }
        if dice.chance(self.plan.power_losses) {
            self.note(|| "the server loses its power".to_owned());
            self.stats.fault("power cut of the server");
            disks().cut_power(SERVER);
            self.server_recovers()?;
        }
        if dice.chance(self.plan.server_restores) {
            match self.backup.take() {
                None => self.backup = Some(self.server.backup()),
                Some(backup) => {
                    self.note(|| "the server is restored from a backup".to_owned());
                    self.stats.fault("restored server");
                    disks().disarm(SERVER);
                    self.server.restore(&backup)?;
                    // The copy may be from before.
                    self.has_migrated = false;
                    // What was written there since the copy may come back from devices, under what is written now.
                    self.model.share(&self.owner);
                    self.owner = format!("server{}", self.ticks);
                    self.miss_nothing_that_is_nowhere()?;
                }
            }
        }
        if disks().is_armed(SERVER) {
            if dice.chance(300) {
                disks().disarm(SERVER);
            }
        } else if dice.chance(self.plan.server_faults) {
            let (fault, after) = draw_fault(dice, false);
            self.note(|| format!("the server will meet {fault:?} after {after} calls"));
            disks().arm(SERVER, fault, after);
        }
        Ok(())
    }

    /// A fault ended the server.
    pub(crate) fn server_recovers(&mut self) -> Result<()> {
        self.note(|| "the server ended".to_owned());
        disks().disarm(SERVER);
        disks().lost_power(SERVER);
        self.server.restart().context("the server, after its end")?;
        self.model
            .check_own(&self.owner, &oracle::own_rows(self.server.eye()?, &self.owner)?)
            .context("the server, after its end")
    }
}

fn draw_fault(dice: &mut Dice, keeps_power: bool) -> (Fault, u64) {
    let times = 1 + dice.below(3);
    let fault = match dice.below(8) {
        0 | 1 if !keeps_power => Fault::PowerLoss,
        0..=2 => Fault::Kill,
        3 => Fault::WriteError(times),
        4 => Fault::SyncError(times),
        5 => Fault::ReadError(times),
        6 => Fault::OpenError(times),
        _ => Fault::Full,
    };
    let reach = *dice.pick(&[4, 30, 300]);
    (fault, dice.below(reach))
}
