//! One run: a server, devices, a network, and what happens to them.

use crate::device::{Device, Machine, Process, Wish};
use crate::network::{Address, Event, Faults, Network};
use crate::oracle::{self, Model};
use crate::random::Dice;
use crate::server::Server;
use crate::workload;
use anyhow::{Context, Result};
use cloudsync_protocol::client::{Goal, Retry};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

const START_MS: u64 = 1_790_000_000_000;
pub(crate) const BOTH: Goal = Goal { push: true, pull: true };

/// What a run may contain.
#[derive(Debug, Clone, Copy)]
struct Plan {
    ticks: u64,
    devices_max: usize,
    crashes: u64,
    clock_jumps: u64,
    copies: u64,
    joins: u64,
    processes: u64,
    server_writes: bool,
    skew_ms_max: i64,
}

impl Plan {
    fn draw(dice: &mut Dice, devices: usize) -> Self {
        Self {
            ticks: 60 + dice.below(340),
            devices_max: devices + 3,
            crashes: *dice.pick(&[0, 20, 80]),
            clock_jumps: *dice.pick(&[0, 0, 15]),
            copies: *dice.pick(&[0, 0, 10]),
            joins: *dice.pick(&[0, 10]),
            processes: *dice.pick(&[0, 0, 20]),
            server_writes: dice.chance(500),
            skew_ms_max: *dice.pick(&[0, 3_000, 50_000, 4_000_000]),
        }
    }
}

/// The world of one seed.
pub(crate) struct World {
    dice: Dice,
    pub(crate) now_ms: Rc<Cell<u64>>,
    network: Network,
    pub(crate) server: Server,
    pub(crate) devices: Vec<Device>,
    names: usize,
    pub(crate) model: Model,
    plan: Plan,
    ticks: u64,
    trace: bool,
    watched: Option<String>,
    shown: BTreeMap<String, String>,
    // Removed last.
    folder: tempfile::TempDir,
}

impl World {
    /// The world of a seed, before anything happened.
    pub(crate) fn new(seed: u64, devices: Option<usize>, trace: bool) -> Result<Self> {
        let mut dice = Dice::new(seed);
        let count = devices.unwrap_or(1 + dice.below(4) as usize);
        let plan = Plan::draw(&mut dice, count);
        let faults = Faults::draw(&mut dice);
        if trace {
            println!("{plan:?} {faults:?}");
        }
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let now_ms = Rc::new(Cell::new(START_MS));
        let network = Network::new(faults, dice.fork());
        let server = Server::create(folder.path(), Machine::new(Rc::clone(&now_ms), 0, dice.fork()))?;
        let mut world = Self {
            dice,
            now_ms,
            network,
            server,
            plan,
            trace,
            folder,
            watched: None,
            shown: BTreeMap::new(),
            devices: Vec::new(),
            names: 0,
            model: Model::default(),
            ticks: 0,
        };
        for _ in 0..count {
            world.join()?;
        }
        if plan.server_writes {
            world.network.plan(START_MS + 500, Event::ServerTick);
        }
        Ok(world)
    }

    /// Prints the clock of this row, given as `table:key` with the packed key in hexadecimal, whenever it changes anywhere.
    pub(crate) fn watch(&mut self, row: Option<String>) {
        self.watched = row;
    }

    /// Lets everything happen, then checks what is left.
    pub(crate) fn run(&mut self) -> Result<()> {
        while let Some((at, event)) = self.network.next() {
            self.now_ms.set(at.max(self.now_ms.get()));
            self.happen(event)?;
            self.show_watched()?;
        }
        self.note(|| "at rest".to_owned());
        self.settle()?;
        self.check()
    }

    pub(crate) fn now(&self) -> u64 {
        self.now_ms.get()
    }

    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now() - START_MS, text());
        }
    }

    fn machine(&mut self) -> Rc<Machine> {
        let skew = self.skew();
        Machine::new(Rc::clone(&self.now_ms), skew, self.dice.fork())
    }

    fn skew(&mut self) -> i64 {
        self.dice.between(-self.plan.skew_ms_max, self.plan.skew_ms_max)
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("d{}", self.names)
    }

    fn join(&mut self) -> Result<()> {
        let (name, machine) = (self.name(), self.machine());
        self.note(|| format!("{name} joins, skew {}", machine.skew_ms.get()));
        self.devices.push(Device::create(self.folder.path(), name, machine)?);
        self.plan_tick(self.devices.len() - 1);
        Ok(())
    }

    fn plan_tick(&mut self, device: usize) {
        let pause = 1 + self.dice.below(self.pause_ms_max());
        self.network.plan(self.now() + pause, Event::Tick { device });
    }

    /// Bursts and quiet times.
    fn pause_ms_max(&self) -> u64 {
        if self.ticks % 64 < 32 { 300 } else { 20_000 }
    }

    fn happen(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Tick { device } => self.tick(device),
            Event::ServerTick => self.server_tick(),
            Event::Request { from, attempt, bytes, is_copy } => {
                self.note(|| {
                    format!("server takes {from:?} #{attempt}{}", if is_copy { " (a copy)" } else { "" })
                });
                let answer = self.server.turn(&bytes, self.now())?;
                self.network.answer(self.now(), from, attempt, answer);
                Ok(())
            }
            Event::Answer { to, attempt, bytes } => {
                self.wake(to, attempt, |process| process.answered(&bytes))
            }
            Event::Timeout { to, attempt } => self.wake(to, attempt, Process::unreachable),
            Event::Resume { to, attempt } => self.wake(to, attempt, Process::resume),
        }
    }

    /// Hands something to a session that still waits for it.
    fn wake(
        &mut self,
        to: Address,
        attempt: u64,
        act: impl FnOnce(&mut Process) -> Result<Wish>,
    ) -> Result<()> {
        let device = &mut self.devices[to.device];
        let name = device.name.clone();
        let waiting = device.processes.get_mut(to.process).filter(|process| process.attempt == Some(attempt));
        let Some(process) = waiting else { return Ok(()) };
        let wish = act(process).with_context(|| format!("device {name}"))?;
        self.fulfil(to, wish);
        Ok(())
    }

    fn fulfil(&mut self, to: Address, wish: Wish) {
        let now = self.now();
        let attempt = match wish {
            Wish::Send(bytes) => Some(self.network.send(now, to, bytes)),
            Wish::Pause(pause_ms) => Some(self.network.pause(now, to, pause_ms)),
            Wish::Over { received, sent, failed } => {
                self.note(|| format!("{to:?} is done: received {received}, sent {sent}, failed {failed}"));
                None
            }
        };
        self.devices[to.device].processes[to.process].attempt = attempt;
    }

    fn tick(&mut self, at: usize) -> Result<()> {
        self.ticks += 1;
        if self.ticks > self.plan.ticks {
            return Ok(());
        }
        self.chaos(at)?;
        if self.dice.chance(600) {
            self.write(at)?;
        }
        if self.dice.chance(400) {
            self.start(at)?;
        }
        self.plan_tick(at);
        Ok(())
    }

    fn write(&mut self, at: usize) -> Result<()> {
        let device = &self.devices[at];
        let at_ms = cloudsync_replica::Environment::now_ms(&*device.machine);
        let process = &device.processes[self.dice.below(device.processes.len() as u64) as usize];
        workload::write(&process.db, &mut self.dice, &mut self.model, &device.name, at_ms)
            .with_context(|| format!("device {} writes", device.name))?;
        self.note(|| format!("{} writes", self.devices[at].name));
        Ok(())
    }

    fn start(&mut self, device: usize) -> Result<()> {
        let process = self.dice.below(self.devices[device].processes.len() as u64) as usize;
        let goal = *self.dice.pick(&[
            BOTH,
            BOTH,
            BOTH,
            Goal { push: true, pull: false },
            Goal { push: false, pull: true },
        ]);
        let retry = Retry {
            attempts_max: self.dice.below(3) as u32,
            pause_ms: 200,
            awaits_news: true,
            ..Retry::none()
        };
        let name = self.devices[device].name.clone();
        let starting = &mut self.devices[device].processes[process];
        if !starting.is_idle() {
            return Ok(());
        }
        let wish = starting.start(goal, retry).with_context(|| format!("device {name}"))?;
        self.note(|| format!("{name} begins {goal:?}"));
        self.fulfil(Address { device, process }, wish);
        Ok(())
    }

    fn chaos(&mut self, at: usize) -> Result<()> {
        let (plan, room) = (self.plan, self.devices.len() < self.plan.devices_max);
        if self.dice.chance(plan.crashes) {
            self.note(|| format!("{} crashes", self.devices[at].name));
            self.devices[at].crash()?;
        }
        if self.dice.chance(plan.clock_jumps) {
            let skew = self.skew();
            self.note(|| format!("{} jumps to skew {skew}", self.devices[at].name));
            self.devices[at].machine.skew_ms.set(skew);
        }
        if room && self.dice.chance(plan.copies) {
            let name = self.name();
            let skew = self.devices[at].machine.skew_ms.get();
            let machine = Machine::new(Rc::clone(&self.now_ms), skew, self.dice.fork());
            self.note(|| format!("{name} is a copy of {}", self.devices[at].name));
            let copy = self.devices[at].copy(name, machine)?;
            // What the copy holds unsent is its own from here on.
            let fresh = self.name();
            let original = std::mem::replace(&mut self.devices[at].name, fresh);
            self.note(|| format!("{original} goes on as {}", self.devices[at].name));
            self.model.share(&original);
            self.devices.push(copy);
            self.plan_tick(self.devices.len() - 1);
        }
        if room && self.dice.chance(plan.joins) {
            self.join()?;
        }
        if self.dice.chance(plan.processes) && self.devices[at].processes.len() < 2 {
            self.note(|| format!("{} has a second process", self.devices[at].name));
            self.devices[at].add_process()?;
        }
        Ok(())
    }

    fn server_tick(&mut self) -> Result<()> {
        if self.ticks >= self.plan.ticks {
            return Ok(());
        }
        if self.dice.chance(50) {
            self.note(|| "the server restarts".to_owned());
            self.server.restart()?;
        } else if self.server.has_tables()? {
            self.note(|| "somebody writes on the server".to_owned());
            let now = self.now();
            workload::write(&self.server.db, &mut self.dice, &mut self.model, "server", now)?;
        }
        let pause = 1 + self.dice.below(3_000);
        self.network.plan(self.now() + pause, Event::ServerTick);
        Ok(())
    }

    /// Prints the clock of the watched row wherever it changed.
    pub(crate) fn show_watched(&mut self) -> Result<()> {
        let Some(row) = &self.watched else { return Ok(()) };
        let files = self.devices.iter().map(|device| (device.name.as_str(), &device.processes[0].db));
        for (name, db) in files.chain([("server", &self.server.db)]) {
            let shown = oracle::clocks(db)?.get(row).map(|clock| format!("{clock:?}")).unwrap_or_default();
            if self.shown.get(name) != Some(&shown) {
                println!("{:>8} {name}: {shown}", self.now_ms.get() - START_MS);
                self.shown.insert(name.to_owned(), shown);
            }
        }
        Ok(())
    }
}
