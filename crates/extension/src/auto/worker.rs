//! The thread that syncs a file: looks, syncs, sleeps.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cloudsync_protocol::client::{Goal, Retry, Session};
use cloudsync_replica::{Class, Environment, ForeignKeys, KeptGuards, Replica, Rolling};
use cloudsync_sqlite_ffi::{Connection, Shelf};

use crate::auto::FileKey;
use crate::auto::engine::{Doing, Engine, Target};
use crate::auto::pace::{Backoff, Clocks, look_pause};
use crate::auto::watch::Watch;
use crate::connection_string::{Address, ConnectionString, Secret};
use crate::error::{Error, Result};
use crate::functions;
use crate::net::{Http, NetError, Patience, Reply, Round, Timeouts, Transport, drive};
use crate::state::fill_random;

/// The setting that makes a file sync by itself: the interval in milliseconds, 0 or nothing for off.
pub(crate) const INTERVAL: &str = "auto_interval_ms";

const BOTH: Goal = Goal { push: true, pull: true };
/// Shortest time between the end of a sync and the next one: what the app commits meanwhile goes together.
const GAP: Duration = Duration::from_millis(20);
/// Shortest interval of polls.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// While the server's events are listened to, it is asked anyway after so long.
const LISTENING_INTERVAL: Duration = Duration::from_secs(600);
/// First bound of the pauses between tries.
const PAUSE_MS_FIRST: u64 = 500;
/// Longest pause while the server cannot be reached.
const OFFLINE_MS_MAX: u64 = 30_000;
/// Longest pause while something is wrong that time may not mend.
const FAILING_MS_MAX: u64 = 300_000;
/// First and last bound of the pauses while another connection holds the file.
const BUSY_MS: (u64, u64) = (10, 1_000);
/// A file that is held for so many tries is worth saying.
const BUSY_TRIES_MAX: u32 = 10;
/// A scrub is made once nothing has happened for so long, and tried again after so long.
const SCRUB_IDLE: Duration = Duration::from_secs(2);
const SCRUB_AGAIN: Duration = Duration::from_secs(30);
/// For how long the first look of a second connection waits: without a WAL a commit of anybody keeps readers out, also
/// one of a sync that has begun already.
// language=SQLite
const LOOK_PATIENCE: &str = "PRAGMA busy_timeout = 2000";
/// How often it is looked whether the file is still in its place.
const PLACE_LOOK: Duration = Duration::from_secs(5);
/// When the first slice of rows is checked against the server, if there is nothing else to do, and how often after that. A
/// slice costs some milliseconds of a core on both sides.
const CHECK_FIRST: Duration = Duration::from_secs(60);
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

pub(super) fn start(engine: Arc<Engine>, foreign_keys: bool) -> io::Result<()> {
    let work = move || {
        // A panic is our mistake. It must end this thread and nothing else.
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&engine, foreign_keys)));
        engine.say(|shared| {
            (shared.stop, shared.ended) = (true, true);
            shared.end_listening();
            if let Ok(Err(error)) = outcome {
                shared.progress.last_error = Some(error.to_string());
            }
        });
    };
    thread::Builder::new().name("cloudsync-auto".to_owned()).spawn(work).map(drop)
}

/// Looks whether a second connection can use the file, as automatic sync has to.
///
/// # Errors
/// With the remedy, when it cannot.
pub(crate) fn check(file: &FileKey, connection: Connection) -> Result<()> {
    // language=SQLite
    let threads = "SELECT 1 FROM pragma_compile_options WHERE compile_options = 'THREADSAFE=0'";
    if connection.query_i64(threads, &[])?.is_some() {
        return Err(Error::usage(
            "this SQLite was built without threads: call cloudsync_network_sync() instead",
        ));
    }
    // language=SQLite
    let sql = "SELECT group_concat(hex(site_id)) FROM main.cloudsync_sites";
    let ours = connection.query_text(sql, &[])?;
    let theirs = open(file, |second| {
        second.execute(LOOK_PATIENCE)?;
        Ok(second.query_text(sql, &[])?)
    });
    let advice = match theirs {
        Ok(theirs) if theirs == ours => return Ok(()),
        Ok(_) => "another file is at its path",
        Err(Error::Sqlite(error)) if error.is_busy() => {
            "the file is locked: end transactions, and use PRAGMA locking_mode = NORMAL"
        }
        Err(_) => "the file cannot be opened a second time, as automatic sync has to: is it encrypted?",
    };
    Err(Error::usage(format!("{advice}; or call cloudsync_network_sync() instead")))
}

/// Removes what rows that went left in a file, over a connection of our own: on the caller's a statement runs. Where the
/// file cannot be opened twice, or others are in the way, it stays due.
pub(crate) fn scrub(connection: Connection, environment: &Rc<dyn Environment>) {
    let scrubbed = FileKey::of(connection)
        .and_then(|file| open(&file, |second| Ok(Replica::open(second, Rc::clone(environment))?.scrub()?)));
    if let Err(error) = scrubbed {
        connection.log(cloudsync_sqlite_ffi::bindings::SQLITE_NOTICE, &format!("cloudsync: {error}"));
    }
}

/// Opens a connection of our own to a file of the host's.
fn open<T>(file: &FileKey, act: impl FnOnce(Connection) -> Result<T>) -> Result<T> {
    let path = file.path.to_str().ok_or_else(|| {
        Error::usage("the path of the file is no UTF-8: call cloudsync_network_sync() instead")
    })?;
    file.api.with_connection(path, act)?
}

fn run(engine: &Arc<Engine>, foreign_keys: bool) -> Result<()> {
    open(&engine.file, |connection| {
        functions::register(connection).map_err(Error::usage)?;
        // As the app has it, so that its parents are looked up here too.
        connection.set_foreign_keys_enabled(foreign_keys)?;
        // The connection is ours, so its statements may stay. They go before it is closed.
        let _open = Shelf::new(connection).open();
        let now = Instant::now();
        let mut worker = Worker {
            engine,
            connection,
            foreign_keys: if foreign_keys { ForeignKeys::Enforced } else { ForeignKeys::Ignored },
            environment: Rc::new(Pausing(Arc::clone(engine))),
            watch: Watch::new(&engine.file.path),
            file: None,
            http: None,
            due: true,
            secrets: 0,
            told: 0,
            was_listening: false,
            backoff: Backoff::default(),
            busy: Backoff::default(),
            not_before: now,
            poll_at: now,
            place_at: now + PLACE_LOOK,
            scrub_at: now,
            active_at: now,
            clocks: Clocks::now(),
            rolling: Rolling::default(),
            guards: KeptGuards::default(),
            check_at: now + CHECK_FIRST,
        };
        while worker.step()? {}
        Ok(())
    })
}

/// What the file says.
struct FileState {
    interval: Duration,
    way: Way,
    site: String,
    cursor: u64,
    unsent: bool,
    /// From when on a scrub is due.
    scrub_from: Option<Instant>,
}

/// How to come to the server.
#[derive(Clone, PartialEq, Eq)]
struct Way {
    address: Address,
    authority: Option<String>,
    timeouts: Timeouts,
}

struct Worker<'e> {
    engine: &'e Engine,
    connection: Connection,
    /// As the app has it.
    foreign_keys: ForeignKeys,
    environment: Rc<dyn Environment>,
    watch: Watch,
    /// As it was when the file last changed.
    file: Option<FileState>,
    /// Kept with its connection, as long as server and key stay.
    http: Option<(Way, Secret, Http)>,
    /// There is something to sync, as soon as that may be tried.
    due: bool,
    /// Keys that were seen.
    secrets: u64,
    /// The version told by the server for which a sync was made.
    told: u64,
    was_listening: bool,
    backoff: Backoff,
    /// For a file that others hold.
    busy: Backoff,
    /// Nothing is tried before.
    not_before: Instant,
    /// When the server is asked even if nobody told of anything.
    poll_at: Instant,
    place_at: Instant,
    /// No scrub is tried before.
    scrub_at: Instant,
    /// When anything last happened here or there.
    active_at: Instant,
    clocks: Clocks,
    /// Where the next slice of rows is checked, and when.
    rolling: Rolling,
    /// They go before the connection is closed.
    guards: KeptGuards,
    check_at: Instant,
}

impl Worker<'_> {
    /// One look, and what follows from it. False at the end.
    fn step(&mut self) -> Result<bool> {
        let calls = match self.hear() {
            Some(calls) => calls,
            None => return Ok(false),
        };
        let now = Instant::now();
        if now >= self.place_at {
            self.place_at = now + PLACE_LOOK;
            if !self.engine.file.is_in_place() {
                return Err(Error::usage("the file was moved or removed: automatic sync of it has ended"));
            }
        }
        if !self.look() {
            return Ok(false);
        }
        self.due |= now >= self.poll_at;
        if self.due && now >= self.not_before && self.file.is_some() {
            self.sync();
        }
        self.scrub();
        self.sleep(calls);
        Ok(true)
    }

    /// Takes in what was said. Gives the count of calls until now; `None` to end.
    fn hear(&mut self) -> Option<u64> {
        let now = Clocks::now();
        let jumped = self.clocks.jumped_until(&now);
        self.clocks = now;
        let mut shared = self.engine.shared();
        if shared.stop {
            return None;
        }
        if jumped {
            // A connection from before the sleep may look alive for minutes.
            shared.targets += 1;
            shared.end_listening();
            self.http = None;
        }
        let (new_secret, connected) =
            (shared.secrets != self.secrets, shared.listening && !self.was_listening);
        self.secrets = shared.secrets;
        self.was_listening = shared.listening;
        if new_secret || connected || jumped {
            // What stood in the way may be gone.
            self.not_before = now.running;
            self.backoff.reset();
            self.due = true;
        }
        if shared.told > self.told {
            self.due = true;
            self.active_at = now.running;
        }
        Some(shared.calls)
    }

    /// Looks at the file. False when it shall not sync by itself any more.
    fn look(&mut self) -> bool {
        let changed = self.watch.changed(self.connection);
        if matches!(changed, Ok(false)) && self.file.is_some() {
            return true;
        }
        match changed.and_then(|_| self.read()) {
            Ok(Some(file)) => {
                self.busy.reset();
                self.poll_at = self.poll_at.min(Instant::now() + file.interval);
                if file.unsent {
                    self.due = true;
                    self.active_at = Instant::now();
                }
                self.file = Some(file);
                true
            }
            Ok(None) => false,
            Err(error) => {
                // Most often somebody holds the file just now.
                self.watch.forget();
                // After any other error a sync shows that all is well again.
                self.due |= !is_busy(&error);
                self.fail(&error);
                true
            }
        }
    }

    /// What the file says; `None` when it says that it shall not sync by itself.
    fn read(&self) -> Result<Option<FileState>> {
        let mut replica = Replica::open(self.connection, Rc::clone(&self.environment))?;
        if !replica.exists()? {
            return Ok(None);
        }
        let interval_ms = replica.state_number(INTERVAL)?.unwrap_or(0);
        let Some(server) = replica.server()?.filter(|_| interval_ms > 0) else { return Ok(None) };
        let site = replica.site_id()?.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Some(FileState {
            interval: Duration::from_millis(interval_ms.unsigned_abs()).max(INTERVAL_MIN),
            way: Way {
                address: ConnectionString::parse(&server)?.address,
                authority: replica.setting("network_ca")?,
                timeouts: functions::timeouts(&replica)?,
            },
            site,
            cursor: replica.state_number("cursor")?.unwrap_or(0).unsigned_abs(),
            unsent: replica.has_unsent()?,
            scrub_from: replica
                .scrub_wait_ms()?
                .map(|wait_ms| Instant::now() + Duration::from_millis(wait_ms)),
        }))
    }

    /// Sleeps until something is said, or until the next look.
    fn sleep(&self, calls: u64) {
        let now = Instant::now();
        let look = now + look_pause(now.duration_since(self.active_at));
        let until =
            if self.due { look.min(self.not_before.max(now)) } else { look.min(self.poll_at.max(now)) };
        // Never without any sleep, whatever the times are.
        let until = until.max(now + Duration::from_millis(1));
        self.engine.wait(Some(until), |shared| (shared.stop || shared.calls != calls).then_some(()));
    }

    fn sync(&mut self) {
        let Some(way) = self.file.as_ref().map(|file| file.way.clone()) else { return };
        self.due = false;
        let (secret, told) = {
            let shared = self.engine.shared();
            let origin = way.address.origin();
            let secret = shared.secret.as_ref().filter(|(_, server)| *server == origin);
            (secret.map(|(secret, _)| secret.clone()), shared.told)
        };
        let Some(secret) = secret else {
            self.wait_for_credentials();
            return;
        };
        self.say(Doing::Syncing);
        let outcome = self.exchange(&way, &secret);
        let now = Instant::now();
        match outcome {
            Ok(round) => {
                self.told = told;
                self.backoff.reset();
                self.busy.reset();
                self.not_before = now + GAP;
                self.poll_at = now + self.interval();
                if round.totals.rows_sent + round.totals.rows_received > 0 {
                    self.active_at = now;
                }
                self.engine.say(|shared| {
                    shared.progress.doing = Doing::Idle;
                    shared.progress.last_error = None;
                    shared.progress.syncs += 1;
                });
                self.settle(&secret, round.totals.rows_sent > 0);
            }
            Err(error) => {
                self.due = true;
                self.fail(&error);
            }
        }
    }

    /// Looks at the file after a sync, and tells the listener where it stands.
    fn settle(&mut self, secret: &Secret, sent: bool) {
        // Our own writes need no second look. What the app wrote meanwhile is seen here.
        let Ok(Some(file)) = self.watch.changed(self.connection).and_then(|_| self.read()) else {
            self.watch.forget();
            return;
        };
        // What cannot be sent must not be tried again and again.
        self.due |= file.unsent && sent;
        let Way { address, authority, .. } = file.way.clone();
        let (secret, site) = (secret.clone(), file.site.clone());
        let target = Target { address, authority, secret, site, cursor: file.cursor };
        self.engine.set_target(Some(target));
        self.file = Some(file);
    }

    /// Removes what rows that went left in the file, while the app does nothing.
    fn scrub(&mut self) {
        let now = Instant::now();
        let idle = !self.due && now >= self.active_at + SCRUB_IDLE && now >= self.scrub_at;
        let due = self.file.as_ref().and_then(|file| file.scrub_from).is_some_and(|from| now >= from);
        if !idle || !due {
            return;
        }
        self.scrub_at = now + SCRUB_AGAIN;
        let scrubbed = Replica::open(self.connection, Rc::clone(&self.environment))
            .and_then(|mut replica| replica.scrub());
        if let (Ok(true), Some(file)) = (scrubbed, &mut self.file) {
            file.scrub_from = None;
        }
    }

    fn interval(&self) -> Duration {
        let interval = self.file.as_ref().map_or(INTERVAL_MIN, |file| file.interval);
        let interval = if self.was_listening { interval.max(LISTENING_INTERVAL) } else { interval };
        // A tenth earlier or later, so that devices do not fall into step.
        let part = draw() % 2001;
        interval.mul_f64(0.9 + part as f64 / 10_000.0)
    }

    fn exchange(&mut self, way: &Way, secret: &Secret) -> Result<Round> {
        let kept = self.http.take().filter(|(by, with, _)| by == way && with == secret);
        let http = match kept {
            Some((_, _, http)) => http,
            None => {
                let (address, secret) = (way.address.clone(), Some(secret.clone()));
                Http::new(address, secret, way.timeouts, way.authority.as_deref())?
            }
        };
        let mut replica = Replica::open(self.connection, Rc::clone(&self.environment))?;
        replica.own_connection(self.foreign_keys);
        replica.set_sees_part(!secret.is_key())?;
        let (started_ms, last_conflict) = (self.environment.now_ms(), replica.last_conflict()?);
        let checks = Instant::now() >= self.check_at;
        let session = Session::new(BOTH, Retry::none());
        let session = if checks { session.checking() } else { session };
        replica.put_rolling(std::mem::take(&mut self.rolling));
        replica.put_guards(std::mem::take(&mut self.guards));
        let mut transport = Ending { http, engine: self.engine };
        let (round, outcome) = drive(&mut replica, &mut transport, self.environment.as_ref(), session);
        self.rolling = replica.take_rolling();
        self.guards = replica.take_guards();
        if checks && outcome.is_ok() {
            self.check_at = Instant::now() + CHECK_INTERVAL.mul_f64(0.9 + (draw() % 2001) as f64 / 10_000.0);
        }
        let times = (started_ms, self.environment.now_ms());
        let server = way.address.to_string();
        let failed = outcome.as_ref().copied();
        let mut report = functions::report(Some(&server), times, &round, failed);
        report["conflicts"] = replica.conflicts_after(last_conflict).ok().into();
        self.engine.say(|shared| shared.progress.report = Some(report.to_string()));
        if outcome.is_ok() {
            self.http = Some((way.clone(), secret.clone(), transport.http));
        }
        outcome.map(|()| round)
    }

    fn wait_for_credentials(&mut self) {
        self.engine.set_target(None);
        self.say(Doing::WaitingForCredentials);
        // A key that is set wakes us.
        self.not_before = Instant::now() + Duration::from_millis(FAILING_MS_MAX);
        self.poll_at = self.not_before;
    }

    /// Puts off the next try, for as long as fits the error.
    fn fail(&mut self, error: &Error) {
        if is_busy(error) {
            self.not_before = Instant::now() + self.busy.pause(BUSY_MS.0, BUSY_MS.1, draw());
            if self.busy.failures() > BUSY_TRIES_MAX {
                self.engine.say(|shared| shared.progress.last_error = Some(error.to_string()));
            }
            return;
        }
        let refused = matches!(error, Error::Net(NetError::NoKey(_) | NetError::RefusedKey(_)));
        let (max_ms, offline) = match error {
            Error::Net(
                NetError::Unreachable { .. }
                | NetError::Broken { .. }
                | NetError::Busy(_)
                | NetError::Status { .. }
                | NetError::Foreign(_)
                | NetError::Moved { .. }
                | NetError::OutOfTime(_),
            ) => (OFFLINE_MS_MAX, true),
            _ => (FAILING_MS_MAX, false),
        };
        let pause = self.backoff.pause(PAUSE_MS_FIRST, max_ms, draw());
        self.not_before = Instant::now() + pause;
        self.poll_at = self.not_before.max(self.poll_at);
        let until_ms = unix_ms(SystemTime::now() + pause);
        let text = error.to_string();
        self.engine.say(|shared| {
            shared.progress.last_error = Some(text);
            shared.progress.doing =
                if offline { Doing::Offline { until_ms } } else { Doing::Failing { until_ms } };
        });
        if refused {
            self.wait_for_credentials();
        }
    }

    fn say(&self, doing: Doing) {
        self.engine.say(|shared| shared.progress.doing = doing);
    }
}

/// Whether another connection holds the file, which passes.
fn is_busy(error: &Error) -> bool {
    match error {
        Error::Sqlite(error) | Error::Replica(cloudsync_replica::Error::Sqlite(error)) => error.is_busy(),
        Error::Replica(error) => error.class() == Class::Transient,
        _ => false,
    }
}

fn draw() -> u64 {
    // Keys of a new state are random; nothing secret hangs on it.
    RandomState::new().hash_one(0)
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A transport that asks nothing more once the threads shall end.
struct Ending<'e> {
    http: Http,
    engine: &'e Engine,
}

impl Transport for Ending<'_> {
    fn address(&self) -> &Address {
        self.http.address()
    }

    fn exchange(&mut self, request: &[u8], patience: Patience<'_>) -> Reply {
        let stopped = || Reply::Broken("automatic sync was stopped".to_owned());
        if self.engine.is_stopping() {
            return stopped();
        }
        let engine = self.engine;
        let is_interrupted = || engine.is_stopping();
        let reply = self.http.exchange(request, Patience { is_interrupted: &is_interrupted, ..patience });
        // The app has closed its connection meanwhile: its file is left alone.
        if self.engine.is_stopping() { stopped() } else { reply }
    }
}

/// The environment of the worker: its pauses end when the threads shall end.
struct Pausing(Arc<Engine>);

impl Environment for Pausing {
    fn now_ms(&self) -> u64 {
        unix_ms(SystemTime::now())
    }

    fn random(&self, buffer: &mut [u8]) {
        fill_random(self.0.file.api, buffer);
    }

    fn pause(&self, pause_ms: u64) {
        let until = Instant::now() + Duration::from_millis(pause_ms);
        self.0.wait(Some(until), |shared| shared.stop.then_some(()));
    }
}
