//! A device: a machine with a clock of its own, a file, and the processes that use it.

use crate::host;
use crate::random::Dice;
use crate::workload;
use anyhow::{Context, Result, bail};
use cloudsync_protocol::client::{Action, Event, Goal, Moment, Retry, Session};
use cloudsync_protocol::message::{Answer, Reason};
use cloudsync_replica::{Environment, Replica};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A machine's clock and randomness; both come from the seed.
pub(crate) struct Machine {
    world_ms: Rc<Cell<u64>>,
    /// How far this clock is ahead of the world's, in milliseconds.
    pub(crate) skew_ms: Cell<i64>,
    dice: RefCell<Dice>,
    /// Whether this machine's file system tells files apart, so that copies of them need no server to be found.
    tells_files: bool,
}

impl Machine {
    pub(crate) fn new(world_ms: Rc<Cell<u64>>, skew_ms: i64, mut dice: Dice) -> Rc<Self> {
        let tells_files = dice.chance(600);
        Rc::new(Self { world_ms, skew_ms: Cell::new(skew_ms), dice: RefCell::new(dice), tells_files })
    }
}

impl Environment for Machine {
    fn now_ms(&self) -> u64 {
        self.world_ms.get().saturating_add_signed(self.skew_ms.get())
    }

    fn random(&self, buffer: &mut [u8]) {
        self.dice.borrow_mut().fill(buffer);
    }

    fn pause(&self, pause_ms: u64) {
        self.world_ms.set(self.world_ms.get() + pause_ms);
    }

    fn file_identity(&self, path: &str) -> Option<u64> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let identity =
            name.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(257).wrapping_add(u64::from(byte)));
        self.tells_files.then_some(identity)
    }
}

/// What a session wants next of the world.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Send this request.
    Send(Vec<u8>),
    /// Wake the session later.
    Pause(u64),
    /// Nothing: the session is over. Rows received and sent.
    Over { received: u64, sent: u64, failed: bool },
}

/// One process: a connection and perhaps a session on its way.
pub(crate) struct Process {
    pub(crate) replica: Replica,
    machine: Rc<Machine>,
    session: Option<Session>,
    /// The attempt whose answer, timeout or wake-up the session waits for.
    pub(crate) attempt: Option<u64>,
    // Closed last.
    pub(crate) db: rusqlite::Connection,
}

impl Process {
    fn open(path: &Path, machine: &Rc<Machine>) -> Result<Self> {
        let db = host::open(path)?;
        // SAFETY: the replica is dropped before the connection, both by this value.
        let connection = unsafe { host::wrap(&db)? };
        let replica = Replica::open(connection, Rc::clone(machine) as Rc<dyn Environment>)?;
        Ok(Self { replica, machine: Rc::clone(machine), session: None, attempt: None, db })
    }

    /// True when no session is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.session.is_none()
    }

    /// Begins a session.
    pub(crate) fn start(&mut self, goal: Goal, retry: Retry) -> Result<Wish> {
        self.session = Some(Session::new(goal, retry));
        self.step(Event::Start)
    }

    /// Takes an answer.
    pub(crate) fn answered(&mut self, bytes: &[u8]) -> Result<Wish> {
        match Answer::decode(bytes)? {
            Answer::Turn(turn) => {
                let action = self.take(Event::Answered)?;
                if action != Action::Absorb {
                    bail!("an answer led to {action:?}");
                }
                let absorbed = self.replica.absorb(&turn).context("absorb")?;
                self.step(Event::Absorbed(absorbed))
            }
            Answer::Refusal(refusal) => {
                if matches!(refusal.reason, Reason::SchemaConflict | Reason::BadPayload | Reason::Denied) {
                    bail!("the server refused for {:?}: {}", refusal.reason, refusal.text);
                }
                match self.take(Event::Refused(refusal.reason))? {
                    Action::Mend(_) => {
                        self.replica.mend(&refusal).context("mend")?;
                        self.step(Event::Mended)
                    }
                    action => self.act(action),
                }
            }
        }
    }

    /// No answer came.
    pub(crate) fn unreachable(&mut self) -> Result<Wish> {
        self.step(Event::Unreachable { retry_after_ms: 0 })
    }

    /// The pause is over.
    pub(crate) fn resume(&mut self) -> Result<Wish> {
        self.step(Event::Resumed)
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().context("no session")
    }

    fn step(&mut self, event: Event) -> Result<Wish> {
        let action = self.take(event)?;
        self.act(action)
    }

    /// Hands an event to the session, at the machine's own time and with a draw of its dice.
    fn take(&mut self, event: Event) -> Result<Action> {
        let mut draw = [0; 8];
        self.machine.random(&mut draw);
        let moment = Moment { now_ms: self.machine.now_ms(), draw: u64::from_le_bytes(draw) };
        Ok(self.session()?.step(event, moment))
    }

    fn act(&mut self, action: Action) -> Result<Wish> {
        self.attempt = None;
        let over = |totals: cloudsync_protocol::client::Totals, failed| Wish::Over {
            received: totals.rows_received,
            sent: totals.rows_sent,
            failed,
        };
        match action {
            Action::Prepare { schema } => {
                let goal = self.session()?.goal();
                let bytes = self.replica.prepare(goal, schema).context("prepare")?;
                match self.take(Event::Prepared)? {
                    Action::Send => Ok(Wish::Send(bytes)),
                    action => bail!("a request led to {action:?}"),
                }
            }
            Action::Pause { pause_ms } => Ok(Wish::Pause(pause_ms)),
            Action::Done(totals) => {
                self.session = None;
                Ok(over(totals, false))
            }
            Action::Fail | Action::OutOfTime => {
                let totals = self.session()?.totals();
                self.session = None;
                Ok(over(totals, true))
            }
            Action::Send | Action::Absorb | Action::Mend(_) => bail!("{action:?} out of turn"),
        }
    }
}

/// A machine, its file, and its processes.
pub(crate) struct Device {
    /// Names the rows that only this device writes.
    pub(crate) name: String,
    pub(crate) machine: Rc<Machine>,
    path: PathBuf,
    pub(crate) processes: Vec<Process>,
}

impl Device {
    /// A device with empty tables that sync.
    pub(crate) fn create(folder: &Path, name: String, machine: Rc<Machine>) -> Result<Self> {
        let path = folder.join(format!("{name}.db"));
        let mut process = Process::open(&path, &machine)?;
        for table in workload::TABLES {
            process.db.execute_batch(table.create)?;
            process.replica.init(table.name, table.algorithm, 0)?;
        }
        host::compact_often(&process.db)?;
        Ok(Self { name, machine, path, processes: vec![process] })
    }

    /// Another machine with a copy of this device's file, which goes on under the same site id.
    pub(crate) fn copy(&self, name: String, machine: Rc<Machine>) -> Result<Self> {
        let path = self.path.with_file_name(format!("{name}.db"));
        self.processes[0].db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            let busy: i64 = row.get(0)?;
            Ok(busy)
        })?;
        std::fs::copy(&self.path, &path)?;
        let process = Process::open(&path, &machine)?;
        Ok(Self { name, machine, path, processes: vec![process] })
    }

    /// Opens the file in a further process.
    pub(crate) fn add_process(&mut self) -> Result<()> {
        self.processes.push(Process::open(&self.path, &self.machine)?);
        Ok(())
    }

    /// All processes end where they are; one begins anew.
    pub(crate) fn crash(&mut self) -> Result<()> {
        self.processes.clear();
        self.add_process()
    }
}
