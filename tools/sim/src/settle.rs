//! The end of a run: faults are over, everybody comes to rest, and what is left is checked.

use crate::checker;
use crate::damage::{self, HEALING_SYNCS_MAX};
use crate::device::Wish;
use crate::disk::{self, disks};
use crate::family;
use crate::host;
use crate::oracle::{self, Rows};
use crate::renames;
use crate::server::SERVER;
use crate::sound;
use crate::workload;
use crate::world::{BOTH, Outcome, World};
use anyhow::{Context, Result, bail, ensure};
use cloudsync_protocol::client::{Goal, Retry};

/// Sweeps of syncs in which everybody must come to rest.
const SWEEPS_MAX: usize = 12;
/// Sweeps in which compaction must come to its end: a fold does a little of it, of a list as long as the history.
const COMPACTION_SWEEPS_MAX: usize = 300;
/// Turns that one sync may take.
const TURNS_MAX: usize = 500;

impl World {
    /// Faults are over: everybody syncs until nothing moves any more; then nobody writes anything any more.
    pub(crate) fn settle(&mut self) -> Result<()> {
        disks().disarm(SERVER);
        let awake_ms = self.awake_ms();
        for device in &mut self.devices {
            disks().disarm(&device.place);
            self.stats.device_ms += awake_ms;
            device.processes.iter_mut().for_each(crate::device::Process::give_up);
        }
        self.switch_all_on()?;
        self.give_rights_back()?;
        let mut later = self.later_dice();
        self.migrate_server(&mut later)?;
        self.agree_on_schema()?;
        self.finish_renames()?;
        self.drop_old_name()?;
        self.rest()?;
        for sweep in 1..=SWEEPS_MAX {
            if self.sweep()? == 0 {
                self.stats.sweeps_max = self.stats.sweeps_max.max(sweep);
                let mut dice = self.dice_of_tick();
                if self.damage_and_heal(&mut dice)? {
                    self.sweep_until_rest()?;
                }
                self.check_hollow_clocks()?;
                // Repairs have an end. So has compaction, which waits until a change is history by its replica's own clock.
                let all_is_history = host::HISTORY_MS + 2 * self.plan.skew_ms_max.unsigned_abs();
                disk::set_now_ms(self.now() + all_is_history);
                for _ in 0..COMPACTION_SWEEPS_MAX {
                    let before = disks().writes;
                    let moved = self.sweep()?;
                    if moved > 0 {
                        let repairs =
                            self.devices.iter().map(damage::last_repair).collect::<Result<Vec<_>>>()?;
                        bail!("{moved} rows moved or were repaired after all were sound: {repairs:?}");
                    }
                    if disks().writes == before {
                        break;
                    }
                }
                return self.check_idle();
            }
        }
        bail!("still moving after {SWEEPS_MAX} sweeps of syncs");
    }

    /// Clocks of rows of which nobody else knows anything go when a check comes past them, which needs some syncs. Whether they
    /// are gone is compared at the end.
    fn check_hollow_clocks(&mut self) -> Result<()> {
        for at in 0..self.devices.len() {
            for _ in 0..HEALING_SYNCS_MAX {
                let known = oracle::clocks(self.server.eye()?)?;
                let clocks = oracle::clocks(&self.devices[at].processes[0].db)?;
                if !clocks.iter().any(|(row, clock)| clock.is_hollow(row) && !known.contains_key(row)) {
                    break;
                }
                disk::set_now_ms(self.now() + 50);
                self.sync(at)?;
            }
        }
        Ok(())
    }

    /// In the end everybody has the latest version of the app that anybody has.
    fn agree_on_schema(&mut self) -> Result<()> {
        let spec = &workload::TABLES[0];
        let mut is_later = self.server.has_tables()? && spec.has_later(self.server.eye()?)?;
        for device in &self.devices {
            is_later |= spec.has_later(&device.processes[0].db)?;
        }
        for device in &mut self.devices {
            let db = &device.processes[0].db;
            if is_later && !spec.has_later(db)? {
                db.execute_batch(workload::ADD_LATER)?;
            }
        }
        if !is_later || self.server.has_tables()? && spec.has_later(self.server.eye()?)? {
            return Ok(());
        }
        for at in 0..self.devices.len() {
            if self.devices[at].holder.is_some() {
                self.come_early(at)?;
            }
        }
        // Users bring no columns: somebody with a key does, or a migration on the server.
        match self.devices.iter().position(|device| device.holder.is_none()) {
            Some(trusted) => self.sync(trusted).map(drop),
            None => {
                let outcome =
                    self.server.write(|db| Ok(db.execute_batch(workload::ADD_LATER).map(|()| true)?))?;
                ensure!(matches!(outcome, Outcome::Done(true)), "a migration on the server: {outcome:?}");
                Ok(())
            }
        }
    }

    /// The device of a user whose app came to the later version before the server did: it is told so, and loses nothing. It
    /// goes on by itself once the server has the column, as what follows shows.
    fn come_early(&mut self, at: usize) -> Result<()> {
        // The first sync may do no more than hear that an earlier round had arrived.
        self.try_sync(at, BOTH)?;
        let process = &mut self.devices[at].processes[0];
        let before = (process.replica.has_unsent()?, oracle::rows(&process.db)?);
        let is_through = self.try_sync(at, BOTH)?.is_some();
        let process = &mut self.devices[at].processes[0];
        let after = (process.replica.has_unsent()?, oracle::rows(&process.db)?);
        ensure!(
            !is_through && checker::is_early(&process.refused),
            "a user brings a column, or is told something else: {}",
            process.refused
        );
        ensure!(after == before, "a refusal for a column changes what the device of a user has");
        self.stats.fault("early app");
        Ok(())
    }

    pub(crate) fn sweep(&mut self) -> Result<u64> {
        let mut moved = 0;
        for at in 0..self.devices.len() {
            disk::set_now_ms(self.now() + 50);
            moved += self.sync(at)?;
            self.show_watched()?;
        }
        Ok(moved)
    }

    /// Who has nothing to say writes nothing, on either side.
    fn check_idle(&mut self) -> Result<()> {
        for at in 0..self.devices.len() {
            disk::set_now_ms(self.now() + 50);
            let before = self.internals(at)?;
            let writes = disks().writes;
            self.sync(at)?;
            let written = disks().writes - writes;
            if written > 0 {
                let differences = oracle::differences(&before, &self.internals(at)?).join("\n");
                bail!("an idle sync of {} wrote {written} times:\n{differences}", self.devices[at].name);
            }
        }
        Ok(())
    }

    /// The internal tables of a device and of the server.
    fn internals(&self, at: usize) -> Result<Rows> {
        let mut all = oracle::internals(&self.devices[at].processes[0].db, "device")?;
        all.extend(oracle::internals(self.server.eye()?, "server")?);
        Ok(all)
    }

    /// One whole sync over a perfect network. Gives the rows that moved.
    pub(crate) fn sync(&mut self, at: usize) -> Result<u64> {
        let moved = self.try_sync(at, BOTH)?;
        let device = &self.devices[at];
        let said = &device.processes[0].refused;
        moved.with_context(|| {
            format!("device {} does not get through to the server, which said: {said}", device.name)
        })
    }

    /// The same, perhaps in one direction only; gives `None` where the server refused.
    pub(crate) fn try_sync(&mut self, at: usize, goal: Goal) -> Result<Option<u64>> {
        let device = &mut self.devices[at];
        let name = device.name.clone();
        let holder = device.holder.clone();
        let checks = self.checks || device.must_check() || self.plan.checks && device.reconciles()?;
        let process = &mut device.processes[0];
        let mut wish =
            process.start(goal, Retry::none(), checks).with_context(|| format!("device {name}"))?;
        for _ in 0..TURNS_MAX {
            match wish {
                Wish::Send(request) => {
                    self.check_request(at, &request)?;
                    self.show_sent(at, &request)?;
                    let bearer = self.bearer(at, holder.clone())?;
                    let Some(answer) = self.ask(&request, &bearer)? else {
                        bail!("the server fails though faults are over");
                    };
                    self.show_told(at, &answer)?;
                    let process = &mut self.devices[at].processes[0];
                    wish = process.answered(&answer).with_context(|| format!("device {name}"))?;
                }
                Wish::Pause(_) => wish = self.devices[at].processes[0].resume()?,
                Wish::Over { failed: true, .. } => return Ok(None),
                Wish::Over { received, sent, .. } => {
                    if received + sent > 0 {
                        self.note(|| format!("{name} settles: received {received}, sent {sent}"));
                    }
                    return Ok(Some(received + sent));
                }
            }
        }
        bail!("device {name} does not come to an end of one sync")
    }

    pub(crate) fn check(&mut self) -> Result<()> {
        self.check_renames()?;
        let server = self.server.eye()?;
        let known = oracle::clocks(server)?;
        sound::check_file(server, "the server", &known)?;
        let mut rows = oracle::rows(server)?;
        rows.extend(renames::last_rows(server)?);
        for at in 0..self.devices.len() {
            let name = self.devices[at].name.clone();
            sound::check_at_rest(&mut self.devices[at].processes[0], &name, &known)?;
            if let Some(difference) = self.difference(at)? {
                bail!("server and {name} differ {difference}");
            }
            self.check_disk(at)?;
            let shown = self.rows_for(at)?;
            let db = &self.devices[at].processes[0].db;
            let has_user = self.devices[at].holder.is_some();
            family::check(db, &oracle::rows(db)?, &name, has_user.then_some(&shown))?;
        }
        self.model.check(&rows)
    }
}
