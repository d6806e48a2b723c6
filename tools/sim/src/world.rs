//! One run: a server, devices, a network, and what happens to them.

use crate::device::{Device, Process, Wish};
use crate::disk::{self, disks};
use crate::host::Machine;
use crate::network::{Address, Event, Faults, Network};
use crate::options::Case;
use crate::oracle::{self, Model};
use crate::pace::Deed;
use crate::plan::{LATER, Plan};
use crate::random::Dice;
use crate::rights::{self, Bearer, Permits};
use crate::server::{self, Backup, Server};
use crate::stats::Stats;
use crate::telling::Telling;
use crate::users::{Holder, Users};
use crate::{checker, family, renames, workload};
use anyhow::{Context, Result};
use cloudsync_protocol::client::{Goal, Retry};
use cloudsync_protocol::message::{Answer, Request};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) const START_MS: u64 = 1_790_000_000_000;
/// Requests under a wrong token, of a thousand.
const WRONG_TOKENS: u64 = 15;
pub(crate) const BOTH: Goal = Goal { push: true, pull: true };

/// How a call ended that a fault may have met.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// As if there were no faults.
    Done(T),
    /// It failed by a fault; the process goes on.
    Failed,
    /// A fault ended the process.
    Died,
}

/// The world of one seed.
pub(crate) struct World {
    pub(crate) case: Case,
    pub(crate) plan: Plan,
    network: Network,
    pub(crate) server: Server,
    pub(crate) backup: Option<Backup>,
    /// Names the rows that only somebody on the server writes.
    pub(crate) owner: String,
    pub(crate) devices: Vec<Device>,
    names: usize,
    pub(crate) users: Users,
    pub(crate) permits: Permits,
    /// Every secret that anybody wrote.
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) model: Model,
    /// Idle syncs check what is held.
    pub(crate) checks: bool,
    /// The server has the last names of the table that changes them, with policies.
    pub(crate) has_migrated: bool,
    pub(crate) ticks: u64,
    pub(crate) stats: Stats,
    telling: Telling,
    history: u64,
    shown: BTreeMap<String, String>,
}

impl World {
    /// The world of a seed, before anything happened. There is one at a time.
    pub(crate) fn new(case: &Case, telling: Telling) -> Result<Self> {
        let mut dice = Dice::new(case.seed);
        disk::register();
        disk::renew(dice.fork());
        cloudsync_replica::forget_definitions();
        // What a process does at its first use of SQLite draws from its generator, in the first world alone.
        server::warm_up(Dice::new(case.seed))?;
        disk::renew(dice.fork());
        cloudsync_replica::forget_definitions();
        cloudsync_server::policy::forget_compiled();
        disk::set_now_ms(START_MS);
        let plan = Plan::draw(&mut dice, case);
        family::begin(plan.families);
        renames::begin(plan.renames > 0);
        workload::begin(&plan);
        let faults = Faults::draw(&mut dice);
        let network = Network::new(faults, dice.fork());
        let server = Server::create(dice.fork(), dice.chance(700), plan.users > 0)?;
        let users = Users::draw(&mut dice);
        let mut world = Self {
            case: case.clone(),
            network,
            server,
            plan,
            backup: None,
            owner: "server".to_owned(),
            shown: BTreeMap::new(),
            devices: Vec::new(),
            names: 0,
            users,
            permits: Permits::new(case.seed, plan.rights, START_MS)?,
            secrets: BTreeSet::new(),
            model: Model::default(),
            checks: plan.checks,
            has_migrated: false,
            ticks: 0,
            stats: Stats::default(),
            telling,
            history: 0,
        };
        world.note(|| format!("{plan:?} {faults:?}"));
        if plan.users > 0 {
            world.begin_policies(&mut dice)?;
            let mut later = world.later_dice();
            if later.chance(400) {
                world.migrate_server(&mut later)?;
            }
        }
        for _ in 0..plan.devices {
            world.join(&mut dice)?;
        }
        if plan.server_writes || plan.users > 0 {
            world.network.plan(START_MS + 500, Event::ServerTick);
        }
        Ok(world)
    }

    /// Lets everything happen, then checks what is left. Gives a hash of all that happened: every
    /// message, and every change of a disk.
    pub(crate) fn run(&mut self) -> Result<u64> {
        while let Some((at, event)) = self.network.next() {
            disk::set_now_ms(at.max(disk::now_ms()));
            self.stats.events += 1;
            self.happen(event)?;
            self.show_watched()?;
        }
        self.stats.simulated_ms += self.awake_ms();
        self.note(|| "at rest".to_owned());
        self.settle()?;
        self.check()?;
        self.stats.take_faults(&disks().injected);
        Ok(self.history ^ disks().hash())
    }

    pub(crate) fn now(&self) -> u64 {
        disk::now_ms()
    }

    /// How long this world has been, but for long sleeps, in milliseconds.
    pub(crate) fn awake_ms(&self) -> u64 {
        (self.now() - START_MS).saturating_sub(self.stats.slept_ms)
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.telling.is_heard() || self.case.hashes {
            let text = text();
            self.remember(text.as_bytes());
            self.telling.tell(self.now() - START_MS, &text);
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.history = xxh3_64_with_seed(bytes, self.history);
    }

    /// The choices of one step, whatever other steps there are.
    pub(crate) fn dice_of_tick(&self) -> Dice {
        Dice::new(self.case.seed ^ self.ticks.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The choices of one step that were added once seeds were known: the others stay as they were.
    pub(crate) fn later_dice(&self) -> Dice {
        Dice::new(self.case.seed ^ LATER ^ self.ticks.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn name(&mut self) -> String {
        self.names += 1;
        format!("d{}", self.names)
    }

    pub(crate) fn skew(&self, dice: &mut Dice) -> i64 {
        dice.between(-self.plan.skew_ms_max, self.plan.skew_ms_max)
    }

    pub(crate) fn join(&mut self, dice: &mut Dice) -> Result<()> {
        let name = self.name();
        let machine = Machine::new(self.skew(dice), dice.fork());
        // The first devices are those of users; of later ones, some.
        let is_users = match self.devices.len() < self.plan.devices {
            true => (self.devices.len() as u64) < self.plan.users,
            false => self.plan.users > 0 && dice.chance(300),
        };
        let holder = is_users.then(|| Holder::new(self.devices.len() % 3));
        self.note(|| format!("{name} joins, skew {}, as {holder:?}", machine.skew_ms.get()));
        let device = Device::create(name, machine, dice, holder)?;
        self.add(device, dice);
        Ok(())
    }

    pub(crate) fn add(&mut self, device: Device, dice: &mut Dice) {
        self.note(|| format!("{}: {:?}", device.name, device.opening));
        self.devices.push(device);
        self.plan_tick(self.devices.len() - 1, dice);
    }

    fn plan_tick(&mut self, device: usize, dice: &mut Dice) {
        // Bursts and quiet times.
        let pause_max = if self.ticks % 64 < 32 { 300 } else { self.plan.pause_ms_max };
        self.network.plan(self.now() + 1 + dice.below(pause_max), Event::Tick { device });
    }

    fn happen(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Tick { device } => self.tick(device),
            Event::ServerTick => self.server_tick(),
            Event::Request { from, attempt, bytes, bearer, is_copy } => {
                self.remember(&bytes);
                self.note(|| format!("server takes {from:?} #{attempt}, copy: {is_copy}"));
                if let Some(answer) = self.ask(&bytes, &bearer)? {
                    self.remember(&answer);
                    self.network.answer(self.now(), from, attempt, answer);
                }
                Ok(())
            }
            Event::Answer { to, attempt, bytes } => {
                self.show_told(to.device, &bytes)?;
                self.wake(to, attempt, |process| process.answered(&bytes))
            }
            Event::Timeout { to, attempt } => self.wake(to, attempt, Process::unreachable),
            Event::Resume { to, attempt } => self.wake(to, attempt, Process::resume),
        }
    }

    /// Under whose token a request is sent. Some apps take that of another user who has signed in meanwhile, without logging
    /// the file out; only where the server knows whose the file is, or it would be that user's from then on.
    fn holder_of(&self, at: usize, request: &[u8]) -> Result<Option<Holder>> {
        let holder = self.devices[at].holder.clone();
        let mut later = self.later_dice();
        let Some(own) = holder.clone().filter(|_| later.chance(WRONG_TOKENS)) else { return Ok(holder) };
        let sql = "SELECT 1 FROM cloudsync_server_sites WHERE site_id = ?1 AND user IS NOT NULL";
        let is_known = self.server.eye()?.prepare(sql)?.exists([Request::decode(request)?.site.0])?;
        Ok(if is_known { Some(own.into_another()) } else { holder })
    }

    /// Asks the server, which may come to harm by it.
    pub(crate) fn ask(&mut self, request: &[u8], bearer: &Bearer) -> Result<Option<Vec<u8>>> {
        let Some(rights) = self.admit(bearer)? else { return Ok(Some(rights::REFUSED_KEY.to_vec())) };
        let before = self.traces(request, rights)?;
        let holder = bearer.holder.as_ref();
        let user = holder.map(|holder| self.users.of(holder));
        match self.server.turn(request, user, rights)? {
            Outcome::Done(answer) => {
                if let (Some(holder), Some(user)) = (holder, user) {
                    checker::check(&mut self.server, user, holder, request, &answer)?;
                    self.stats.answers_to_users += 1;
                }
                self.check_traces(before, &answer)?;
                self.check_switches(&answer)?;
                Ok(Some(answer))
            }
            Outcome::Failed => {
                self.note(|| "the server fails".to_owned());
                Ok(None)
            }
            Outcome::Died => {
                self.server_recovers()?;
                Ok(None)
            }
        }
    }

    /// Hands something to a session that still waits for it.
    fn wake(
        &mut self,
        to: Address,
        attempt: u64,
        act: impl FnOnce(&mut Process) -> Result<Wish>,
    ) -> Result<()> {
        let waiting =
            self.devices[to.device].processes.iter().position(|process| process.attempt == Some(attempt));
        let Some(process) = waiting else { return Ok(()) };
        self.step(to.device, process, act)
    }

    /// Lets a session take a step, and sees to what it wants next.
    fn step(
        &mut self,
        at: usize,
        process: usize,
        act: impl FnOnce(&mut Process) -> Result<Wish>,
    ) -> Result<()> {
        self.stats.steps += 1;
        let address = Address { device: at };
        let now = self.now();
        match self.guarded(at, process, act)? {
            Outcome::Done(wish) => {
                let is_done = matches!(wish, Wish::Over { failed: false, .. });
                let attempt = match wish {
                    Wish::Send(bytes) => {
                        self.check_request(at, &bytes)?;
                        self.show_sent(at, &bytes)?;
                        let holder = self.holder_of(at, &bytes)?;
                        let bearer = self.bearer(at, holder)?;
                        Some(self.network.send(now, address, bytes, bearer))
                    }
                    Wish::Pause(pause_ms) => Some(self.network.pause(now, address, pause_ms)),
                    Wish::Over { received, sent, failed } => {
                        self.note(|| {
                            format!("{address:?} is done: received {received}, sent {sent}, failed {failed}")
                        });
                        None
                    }
                };
                self.devices[at].processes[process].attempt = attempt;
                if is_done { self.scrub(at, process) } else { Ok(()) }
            }
            Outcome::Failed => Ok(()),
            Outcome::Died => self.recovers(at),
        }
    }

    /// After a sync that succeeded the library scrubs the file if that need not wait, and faults may meet it there.
    fn scrub(&mut self, at: usize, process: usize) -> Result<()> {
        match self.guarded(at, process, Process::scrub)? {
            Outcome::Done(true) => self.stats.fault("scrub"),
            Outcome::Done(false) | Outcome::Failed => {}
            Outcome::Died => return self.recovers(at),
        }
        Ok(())
    }

    /// Runs something in a process that a fault may meet. Whatever else goes wrong is an error.
    pub(crate) fn guarded<T>(
        &mut self,
        at: usize,
        process: usize,
        act: impl FnOnce(&mut Process) -> Result<T>,
    ) -> Result<Outcome<T>> {
        let device = &mut self.devices[at];
        device.machine.enter();
        let before = disks().failures(&device.place);
        let running = &mut device.processes[process];
        let outcome = act(running);
        if disks().is_dead(&device.place, &running.name) {
            return Ok(Outcome::Died);
        }
        running
            .check_closed()
            .with_context(|| format!("device {}, after {:?}", device.name, outcome.is_ok()))?;
        let error = match outcome {
            Ok(value) => return Ok(Outcome::Done(value)),
            Err(error) => error,
        };
        if disks().failures(&device.place) == before {
            return Err(error).with_context(|| format!("device {}", device.name));
        }
        running.give_up();
        let name = device.name.clone();
        self.note(|| format!("{name} fails: {error:#}"));
        Ok(Outcome::Failed)
    }

    fn tick(&mut self, at: usize) -> Result<()> {
        self.ticks += 1;
        if self.ticks > self.plan.ticks {
            return Ok(());
        }
        let mut dice = self.dice_of_tick();
        self.plan_tick(at, &mut dice);
        if self.case.is_skipped(self.ticks) {
            return Ok(());
        }
        self.mishap(at, &mut dice)?;
        self.change_pass(at)?;
        let mut later = self.later_dice();
        if later.chance(self.plan.filters) {
            self.change_filter(at, &mut later)?;
        }
        self.use_books(at, &mut later)?;
        if later.chance(self.plan.naps) {
            self.sleep(&mut later)?;
        }
        if later.chance(20) && !self.case.without.contains("unchecked") {
            self.share_wrong_clock(at, &mut later)?;
        }
        let process = dice.below(self.devices[at].processes.len() as u64) as usize;
        if dice.chance(600) && self.may(at, Deed::Write) {
            self.write(at, process, &mut dice)?;
        }
        let process = dice.below(self.devices[at].processes.len() as u64) as usize;
        if dice.chance(self.plan.syncs) && self.may(at, Deed::Sync) {
            self.start(at, process, &mut dice)?;
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, at: usize, process: usize, dice: &mut Dice) -> Result<()> {
        let name = self.devices[at].name.clone();
        let mut written = Vec::new();
        let write = if self.plan.families && dice.chance(300) { family::write } else { workload::write };
        let outcome = self.guarded(at, process, |process| write(&process.db, dice, &name, &mut written))?;
        self.note(|| format!("{name} writes: {outcome:?}"));
        self.stats.rows += written.len() as u64;
        self.devices[at].activity.rows += written.len() as u64;
        self.sign(Some(at), &written);
        let holder = &self.devices[at].holder;
        if let Some(holder) = holder {
            checker::know(&holder.knew, written.iter().map(|(name, _)| name.clone()));
        }
        // What users write may be refused, and what is outside of a filter stays here.
        let is_trusted = holder.is_none();
        let is_trusted = !self.devices[at].own.wrote(written.iter().map(|(name, _)| name)) && is_trusted;
        match outcome {
            Outcome::Done(true) => self.model.wrote(&name, written, is_trusted),
            Outcome::Done(false) => {}
            Outcome::Failed => self.model.wrote(&name, written, false),
            Outcome::Died => {
                self.model.wrote(&name, written, false);
                self.recovers(at)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, at: usize, process: usize, dice: &mut Dice) -> Result<()> {
        let goal = *dice.pick(&[
            BOTH,
            BOTH,
            BOTH,
            Goal { push: true, pull: false },
            Goal { push: false, pull: true },
        ]);
        let goal = self.goal_of(at, goal);
        let retry =
            Retry { attempts_max: dice.below(3) as u32, pause_ms: 200, awaits_news: true, ..Retry::none() };
        if !self.devices[at].processes[process].is_idle() {
            return Ok(());
        }
        let name = self.devices[at].name.clone();
        self.note(|| format!("{name} begins {goal:?}"));
        self.stats.rounds += 1;
        self.devices[at].activity.syncs += 1;
        let checks = self.checks || self.devices[at].must_check();
        self.step(at, process, |process| process.start(goal, retry, checks))
    }

    fn server_tick(&mut self) -> Result<()> {
        self.ticks += 1;
        if self.ticks > self.plan.ticks {
            return Ok(());
        }
        let mut dice = self.dice_of_tick();
        self.network.plan(self.now() + 1 + dice.below(self.plan.pause_ms_max), Event::ServerTick);
        if self.case.is_skipped(self.ticks) {
            return Ok(());
        }
        self.server_mishap(&mut dice)?;
        self.change_rights(&mut dice)?;
        self.switch_tables()?;
        let mut later = self.later_dice();
        if later.chance(100) {
            self.migrate_server(&mut later)?;
        }
        // What is written into a table that is switched off would stay there.
        if self.plan.server_writes && self.server.has_tables()? && self.switched_off()?.is_none() {
            self.owner_writes(&mut dice)?;
        }
        Ok(())
    }

    fn owner_writes(&mut self, dice: &mut Dice) -> Result<()> {
        let (owner, mut written) = (self.owner.clone(), Vec::new());
        let write = if self.plan.families && dice.chance(300) { family::write } else { workload::write };
        let outcome = self.server.write(|db| write(db, dice, &owner, &mut written))?;
        self.note(|| format!("somebody writes on the server: {outcome:?}"));
        self.stats.rows += written.len() as u64;
        self.sign(None, &written);
        match outcome {
            Outcome::Done(true) => self.model.wrote(&owner, written, true),
            Outcome::Done(false) => {}
            Outcome::Failed => self.model.wrote(&owner, written, false),
            Outcome::Died => {
                self.model.wrote(&owner, written, false);
                self.server_recovers()?;
            }
        }
        Ok(())
    }

    /// Prints what a request says of the watched row.
    pub(crate) fn show_sent(&self, at: usize, request: &[u8]) -> Result<()> {
        if self.case.watched.is_none() {
            return Ok(());
        }
        match Request::decode(request)?.upload {
            Some(upload) => self.show_said(at, "sends", upload.payload),
            None => Ok(()),
        }
    }

    /// Prints what an answer says of it.
    pub(crate) fn show_told(&self, at: usize, answer: &[u8]) -> Result<()> {
        if self.case.watched.is_none() || answer == rights::REFUSED_KEY {
            return Ok(());
        }
        match Answer::decode(answer)? {
            Answer::Turn(turn) => self.show_said(at, "is told", turn.payload),
            Answer::Refusal(_) => Ok(()),
        }
    }

    fn show_said(&self, at: usize, verb: &str, payload: &[u8]) -> Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        let opened = Opened::open(payload, &Zstd)?;
        for group in opened.payload()?.groups() {
            for row in 0..group.rows() {
                let key: String = group.key(row).iter().map(|byte| format!("{byte:02x}")).collect();
                if Some(format!("{}:{key}", group.table())) == self.case.watched {
                    let (name, life, now) = (&self.devices[at].name, group.life(row), self.now() - START_MS);
                    println!("{now:>8} {name} {verb} life {life} of the watched row, {:?}", group.columns());
                }
            }
        }
        Ok(())
    }

    /// Prints the clock of the watched row wherever it changed.
    pub(crate) fn show_watched(&mut self) -> Result<()> {
        let Some(row) = self.case.watched.clone() else { return Ok(()) };
        let mut files = Vec::new();
        for device in &self.devices {
            files.push((device.name.as_str(), oracle::clocks(&device.eye())?));
            // It is a connection of the app, on which nothing may stay open.
            device.eye().flush_prepared_statement_cache();
        }
        files.push(("server", oracle::clocks(self.server.eye()?)?));
        for (name, clocks) in files {
            let shown = clocks.get(&row).map(|clock| format!("{clock:?}")).unwrap_or_default();
            if self.shown.get(name) != Some(&shown) {
                println!("{:>8} {name}: {shown}", disk::now_ms() - START_MS);
                self.shown.insert(name.to_owned(), shown);
            }
        }
        Ok(())
    }
}
