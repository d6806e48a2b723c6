//! A device: a machine with a clock of its own, a file, and the processes that use it.

use crate::disk::{Content, disks};
use crate::family;
use crate::filters::Own;
use crate::host::{self, Machine};
use crate::pace::Activity;
use crate::random::Dice;
use crate::renames;
use crate::rights;
use crate::users::Holder;
use crate::workload;
use anyhow::{Context, Result, bail};
use cloudsync_protocol::client::{Action, Event, Goal, Moment, Retry, Session, Totals};
use cloudsync_protocol::message::Answer;
use cloudsync_replica::{Environment, ForeignKeys, Replica};
use cloudsync_sqlite_ffi::{OpenShelf, Shelf};
use std::ops::Deref;
use std::rc::Rc;
use xxhash_rust::xxh3::xxh3_64;

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

/// How an app opens its file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    settings: &'static str,
    /// What was committed is there after a loss of power.
    pub(crate) is_durable: bool,
    /// The power of such a machine never goes: the app has asked for no safety.
    pub(crate) keeps_power: bool,
}

const OPENINGS: &[Opening] = &[
    Opening {
        settings: "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF",
        is_durable: true,
        keeps_power: true,
    },
    Opening {
        settings: "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
        is_durable: true,
        keeps_power: false,
    },
    Opening {
        settings: "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        is_durable: false,
        keeps_power: false,
    },
    Opening {
        settings: "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA",
        is_durable: true,
        keeps_power: false,
    },
    Opening {
        settings: "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL",
        is_durable: false,
        keeps_power: false,
    },
    Opening {
        settings: "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL",
        is_durable: true,
        keeps_power: false,
    },
    Opening {
        settings: "PRAGMA journal_mode = PERSIST; PRAGMA synchronous = FULL; PRAGMA cache_size = 20",
        is_durable: true,
        keeps_power: false,
    },
];

/// One process: a connection and perhaps a session on its way.
pub(crate) struct Process {
    pub(crate) replica: Replica,
    machine: Rc<Machine>,
    session: Option<Session>,
    /// The attempt whose answer, timeout or wake-up the session waits for.
    pub(crate) attempt: Option<u64>,
    /// What the server refused last, in words.
    pub(crate) refused: String,
    /// Its name on the machine.
    pub(crate) name: String,
    /// Syncs, if this process has it done on a connection of its own.
    syncer: Option<Syncer>,
    // Closed last.
    pub(crate) db: rusqlite::Connection,
}

/// A connection that the app does not use, as automatic sync has one: its settings and statements stay.
struct Syncer {
    replica: Replica,
    _shelf: OpenShelf,
    // Closed last.
    db: rusqlite::Connection,
}

impl Syncer {
    fn open(path: &str, machine: &Rc<Machine>, opening: Opening) -> Result<Self> {
        let db = host::open(path, opening.settings)?;
        // SAFETY: the replica and the shelf are dropped before the connection, all by this value.
        #[allow(unsafe_code)]
        let connection = unsafe { host::wrap(&db)? };
        let replica = Replica::open(connection, Rc::clone(machine) as Rc<dyn Environment>)?;
        Ok(Self { replica, _shelf: Shelf::new(connection).open(), db })
    }
}

impl Process {
    fn open(
        path: &str,
        name: String,
        machine: &Rc<Machine>,
        opening: Opening,
        syncs_apart: bool,
    ) -> Result<Self> {
        machine.enter();
        let db = host::open(path, opening.settings)?;
        // SAFETY: the replica is dropped before the connection, both by this value.
        #[allow(unsafe_code)]
        let connection = unsafe { host::wrap(&db)? };
        let replica = Replica::open(connection, Rc::clone(machine) as Rc<dyn Environment>)?;
        let syncer = syncs_apart.then(|| Syncer::open(path, machine, opening)).transpose()?;
        Ok(Self {
            syncer,
            replica,
            machine: Rc::clone(machine),
            session: None,
            attempt: None,
            refused: String::new(),
            name,
            db,
        })
    }

    /// Scrubs the file, as what syncs it does. Gives true if it was due and is done.
    pub(crate) fn scrub(&mut self) -> Result<bool> {
        let replica = self.syncing();
        Ok(replica.scrub_wait_ms()? == Some(0) && replica.scrub()?)
    }

    /// What syncs the file.
    fn syncing(&mut self) -> &mut Replica {
        self.syncer.as_mut().map_or(&mut self.replica, |syncer| &mut syncer.replica)
    }

    /// The sync takes foreign keys as the app has them.
    fn sync_as_the_app(&mut self) -> Result<()> {
        let Some(syncer) = &mut self.syncer else { return Ok(()) };
        let enforces = self.db.query_row("PRAGMA foreign_keys", [], |row| row.get(0))?;
        let foreign_keys = if enforces { ForeignKeys::Enforced } else { ForeignKeys::Ignored };
        syncer.replica.own_connection(foreign_keys);
        Ok(())
    }

    /// Nothing may be open between two calls.
    pub(crate) fn check_closed(&self) -> Result<()> {
        if let Some(syncer) = &self.syncer {
            host::check_closed(&syncer.db, true).context("of the sync")?;
        }
        host::check_closed(&self.db, false)
    }

    /// True when no session is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.session.is_none()
    }

    /// Ends the session, as an error of the database does.
    pub(crate) fn give_up(&mut self) {
        (self.session, self.attempt) = (None, None);
    }

    /// Begins a session.
    pub(crate) fn start(&mut self, goal: Goal, retry: Retry, checks: bool) -> Result<Wish> {
        let session = Session::new(goal, retry);
        self.session = Some(if checks { session.checking() } else { session });
        self.step(Event::Start)
    }

    /// Takes an answer.
    pub(crate) fn answered(&mut self, bytes: &[u8]) -> Result<Wish> {
        self.machine.enter();
        if bytes == rights::REFUSED_KEY {
            self.not_let_in();
            return Ok(Wish::Over { received: 0, sent: 0, failed: true });
        }
        match Answer::decode(bytes)? {
            Answer::Turn(turn) => {
                let action = self.take(Event::Answered)?;
                if action != Action::Absorb {
                    bail!("an answer led to {action:?}");
                }
                let absorbed = self.syncing().absorb(&turn).context("absorb")?;
                self.step(Event::Absorbed(absorbed))
            }
            Answer::Refusal(refusal) => {
                self.refused = format!("{:?}: {}", refusal.reason, refusal.text);
                // Users wait until somebody else has brought a column.
                if !Self::may_be_refused(refusal.reason, &refusal.text) {
                    bail!("the server refused for {:?}: {}", refusal.reason, refusal.text);
                }
                match self.take(Event::Refused(refusal.reason))? {
                    Action::Mend(_) => {
                        self.syncing().mend(&refusal).context("mend")?;
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
        self.machine.enter();
        self.attempt = None;
        let over = |totals: Totals, failed| Wish::Over {
            received: totals.rows_received + totals.rows_repaired,
            sent: totals.rows_sent,
            failed,
        };
        match action {
            Action::Prepare { schema } => {
                let goal = self.session()?.goal();
                let bytes = self.syncing().prepare(goal, schema).context("prepare")?;
                match self.take(Event::Prepared)? {
                    Action::Send => Ok(Wish::Send(bytes)),
                    action => bail!("a request led to {action:?}"),
                }
            }
            Action::Check => {
                let goal = self.session()?.goal();
                let Some(bytes) = self.syncing().prepare_check(goal).context("prepare a check")? else {
                    return self.step(Event::Unchecked);
                };
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
    /// The name of the machine, which stays.
    pub(crate) place: String,
    pub(crate) machine: Rc<Machine>,
    pub(crate) opening: Opening,
    begun: usize,
    has_triggers: bool,
    pub(crate) processes: Vec<Process>,
    /// Whose token it has; `None` has a key, which sees all.
    pub(crate) holder: Option<Holder>,
    /// Its file is a copy, was copied or went back, so that it may have taken a site of which the server knows nothing.
    pub(crate) parted: bool,
    /// What its filters may keep from others.
    pub(crate) own: Own,
    /// What it did so far.
    pub(crate) activity: Activity,
    /// What the file was at some time.
    backup: Option<Vec<(&'static str, Content)>>,
}

impl Device {
    /// A machine without any file.
    fn empty(name: String, machine: Rc<Machine>, dice: &mut Dice) -> Self {
        let opening = *dice.pick(OPENINGS);
        disks().equip(&name, !opening.keeps_power, dice.chance(700));
        let has_triggers = dice.chance(300);
        Self {
            place: name.clone(),
            name,
            machine,
            opening,
            begun: 0,
            has_triggers,
            processes: Vec::new(),
            holder: None,
            parted: false,
            own: Own::default(),
            activity: Activity::default(),
            backup: None,
        }
    }

    /// What a user may see no longer is taken from a copy only where it is checked.
    pub(crate) const fn must_check(&self) -> bool {
        self.parted && self.holder.is_some()
    }

    /// It is to check everything that it holds, as after a copy was recognised: no plain sync brings what it lacks.
    pub(crate) fn reconciles(&self) -> Result<bool> {
        let sql = "SELECT 1 FROM cloudsync_settings WHERE key = 'reconcile'";
        Ok(self.eye().prepare_cached(sql)?.exists([])?)
    }

    /// A device with empty tables that sync.
    pub(crate) fn create(
        name: String,
        machine: Rc<Machine>,
        dice: &mut Dice,
        holder: Option<Holder>,
    ) -> Result<Self> {
        let mut device = Self { holder, ..Self::empty(name, machine, dice) };
        device.add_process()?;
        device.set_up()?;
        Ok(device)
    }

    /// Makes what is missing of the tables, as apps do when they start: the power may have gone right after.
    fn set_up(&mut self) -> Result<()> {
        let process = &mut self.processes[0];
        // Nothing else goes on until the bracket is closed.
        let sql = "SELECT 1 FROM sqlite_schema WHERE name = 'cloudsync_alters'";
        if process.db.prepare(sql)?.exists([])? {
            let sql =
                "SELECT t.name FROM cloudsync_alters AS a JOIN cloudsync_tables AS t ON t.id = a.table_id";
            let open: Vec<String> =
                process.db.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            for table in open {
                process.replica.commit_alter(&table)?;
            }
        }
        let names: Vec<String> = process
            .db
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut fresh = Vec::new();
        for table in workload::tables() {
            if !names.iter().any(|name| name == table.name) {
                process.db.execute_batch(table.create)?;
            }
            if process.replica.is_enabled(table.name).is_err() {
                fresh.push((table.name, table.algorithm));
            }
        }
        // Some apps name each table by itself, most all at once.
        for tables in fresh.chunks(if self.has_triggers { 1 } else { fresh.len().max(1) }) {
            process.replica.init_each(tables, 0)?;
        }
        renames::set_up(&process.db, &mut process.replica, &self.place)?;
        if self.has_triggers {
            process.db.execute_batch(workload::TRIGGERS)?;
        }
        process.replica.set_sees_part(self.holder.is_some())?;
        host::compact_often(&process.db)
    }

    fn path(&self, process: &str) -> String {
        format!("/sim/{}/{process}/app.db", self.place)
    }

    /// Another machine with a copy of this device's file, which goes on under the same site id.
    pub(crate) fn copy(&self, name: String, machine: Rc<Machine>, dice: &mut Dice) -> Result<Self> {
        let mut copy = Self {
            holder: self.holder.clone(),
            own: self.own.clone(),
            parted: true,
            ..Self::empty(name, machine, dice)
        };
        copy.put(&self.files());
        copy.add_process()?;
        copy.set_up()?;
        Ok(copy)
    }

    /// The user goes, and another one comes: everything of the first one leaves the file. Gives true unless another process
    /// keeps what is left of it from being removed.
    pub(crate) fn change_user(&mut self) -> Result<bool> {
        // What is on its way is not waited for.
        self.processes.iter_mut().for_each(Process::give_up);
        self.backup = None;
        let replica = &mut self.processes[0].replica;
        replica.logout(true)?;
        // The extension says so before each sync with a token.
        replica.set_sees_part(true)?;
        replica.scrub_if_due()?;
        Ok(!replica.is_scrub_due()?)
    }

    /// Everything that lies on the disk of this device's file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.files().iter().for_each(|(_, content)| content.append_to(&mut bytes));
        bytes
    }

    /// The file and what belongs to it, as they are.
    fn files(&self) -> Vec<(&'static str, Content)> {
        let suffixes = ["", "-wal", "-journal"].into_iter();
        let disks = disks();
        suffixes
            .filter_map(|suffix| Some((suffix, disks.content(&format!("{}{suffix}", self.path("any")))?)))
            .collect()
    }

    fn put(&self, files: &[(&'static str, Content)]) {
        let mut disks = disks();
        let path = self.path("any");
        for suffix in ["", "-wal", "-journal", "-shm"] {
            disks.remove(&format!("{path}{suffix}"));
        }
        for (suffix, content) in files {
            disks.place(&format!("{path}{suffix}"), content.clone());
        }
    }

    /// Keeps a copy of the file.
    pub(crate) fn back_up(&mut self) {
        self.backup = Some(self.files());
    }

    /// True when a copy of the file was kept.
    pub(crate) const fn can_restore(&self) -> bool {
        self.backup.is_some()
    }

    /// Puts the copy in the place of the file, if there is one.
    pub(crate) fn restore(&mut self) -> Result<()> {
        let Some(backup) = self.backup.take() else { return Ok(()) };
        self.processes.clear();
        self.put(&backup);
        self.add_process()?;
        self.set_up()
    }

    /// Opens the file in a further process.
    pub(crate) fn add_process(&mut self) -> Result<()> {
        self.begun += 1;
        let name = format!("p{}", self.begun);
        // Three of four devices; not drawn, so that it is the same for each seed that has the device. On the connection of an app
        // no statement may be kept, so that compiling them is half of what a sync there costs.
        let syncs_apart = !xxh3_64(self.place.as_bytes()).is_multiple_of(4);
        let mut process = Process::open(&self.path(&name), name, &self.machine, self.opening, syncs_apart)?;
        family::set_up(&process.db, &self.place)?;
        process.sync_as_the_app()?;
        self.processes.push(process);
        Ok(())
    }

    /// All processes end where they are; one begins anew.
    pub(crate) fn crash(&mut self) -> Result<()> {
        {
            let mut disks = disks();
            for process in &self.processes {
                disks.kill(&self.place, &process.name);
            }
        }
        self.recover()
    }

    /// The power goes and comes back.
    pub(crate) fn lose_power(&mut self) -> Result<()> {
        disks().cut_power(&self.place);
        self.recover()
    }

    /// Closes processes that are dead, and sees to it that there is one that lives.
    pub(crate) fn recover(&mut self) -> Result<()> {
        self.processes.retain(|process| !disks().is_dead(&self.place, &process.name));
        disks().restart(&self.place);
        if self.processes.is_empty() {
            self.add_process()?;
        }
        self.set_up()
    }

    /// A look at the file that nothing befalls.
    pub(crate) fn eye(&self) -> Eye<'_> {
        disks().spare(&self.place, true);
        Eye { db: &self.processes[0].db, place: &self.place }
    }
}

/// A look at the file of a device, through a connection that it has: to open one for each look would be most of its costs.
/// Nothing befalls the disk of the machine meanwhile, and nothing comes nearer that will.
pub(crate) struct Eye<'d> {
    db: &'d rusqlite::Connection,
    place: &'d str,
}

impl Deref for Eye<'_> {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        self.db
    }
}

impl Drop for Eye<'_> {
    fn drop(&mut self) {
        disks().spare(self.place, false);
    }
}
