//! The server: the real store on a file, and somebody who works on that file with plain SQL.

use crate::disk::{self, Content, disks};
use crate::host::{self, Machine, ServerHost};
use crate::oracle::StoredClocks;
use crate::random::Dice;
use crate::renames;
use crate::sound;
use crate::users::{self, Policies};
use crate::workload;
use crate::world::Outcome;
use anyhow::{Context, Result, anyhow};
use cloudsync_protocol::message::Request;
use cloudsync_replica::{Environment, Replica};
use cloudsync_server::auth::User;
use cloudsync_server::store::sqlite::{Located, SqliteStore, epoch};
use cloudsync_server::store::{Asker, Rights, Store};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// The name of its machine.
pub(crate) const SERVER: &str = "server";
const PATH: &str = "/sim/server/main/server.db";
const ADMINS_PATH: &str = "/sim/server/admin/server.db";
const OWNERS_PATH: &str = "/sim/server/owner/server.db";

/// The server of one run.
pub(crate) struct Server {
    store: Option<SqliteStore>,
    host: Arc<ServerHost>,
    /// A connection without any library of ours; `None` between a crash and the restart.
    owner: Option<rusqlite::Connection>,
    /// A connection that nothing befalls.
    eye: Option<rusqlite::Connection>,
    /// For whom the functions of policies speak on that connection.
    asks: users::Asking,
    /// What the policies show; `None` if they may be others by now.
    policies: Option<Rc<Policies>>,
    /// What was acknowledged, as clocks: none of it may ever go back.
    acknowledged: StoredClocks,
    /// True once it was restored from a backup.
    pub(crate) has_lost: bool,
}

/// The disks may be another world's next.
impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The server's file at some time, with what was acknowledged by then.
pub(crate) struct Backup {
    files: Vec<(String, Content)>,
    acknowledged: StoredClocks,
}

/// Opens a file in all ways in which this world will.
pub(crate) fn warm_up(dice: Dice) -> Result<()> {
    drop(host::open(OWNERS_PATH, "")?);
    let file = located(ADMINS_PATH, &ServerHost::new(dice));
    epoch(&file).map(drop).map_err(|error| anyhow!("warming up: {error}"))
}

/// A file of this world, as the product's connections take it.
fn located(path: &str, host: &Arc<ServerHost>) -> Located {
    Located::on(Path::new(path), Arc::clone(host) as Arc<_>)
}

impl Server {
    /// A server without tables: the first device brings them.
    pub(crate) fn create(mut dice: Dice, is_safe: bool, has_users: bool) -> Result<Self> {
        disks().equip(SERVER, true, is_safe);
        disk::run_with_skew(0);
        let machine = Machine::new(0, dice.fork());
        let db = host::open(OWNERS_PATH, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
        {
            // SAFETY: the replica ends with this block, the connection later.
            #[allow(unsafe_code)]
            let connection = unsafe { host::wrap(&db)? };
            // So the server's site id comes from the seed.
            let mut replica = Replica::open(connection, machine as Rc<dyn Environment>)?;
            replica.create()?;
            if has_users {
                // Users bring no tables, so the owner has made them.
                for table in workload::tables() {
                    db.execute_batch(table.create)?;
                    replica.init(table.name, table.algorithm, 0)?;
                }
                renames::create_on_server(&db, &mut replica)?;
            }
        }
        host::compact_often(&db)?;
        let (host, acknowledged) = (ServerHost::new(dice), StoredClocks::default());
        let (asks, policies) = (users::Asking::default(), None);
        let mut server = Self {
            store: None,
            host,
            owner: Some(db),
            eye: None,
            asks,
            policies,
            acknowledged,
            has_lost: false,
        };
        server.open_store()?;
        Ok(server)
    }

    fn open_store(&mut self) -> Result<()> {
        disk::run_with_skew(0);
        let store = SqliteStore::open(located(PATH, &self.host));
        self.store = Some(store.map_err(|error| anyhow!("the store does not open: {error}"))?);
        let eye = host::open(&format!("/sim/{SERVER}/{}/server.db", disk::faults::EYE), "")?;
        self.asks.register(&eye)?;
        self.eye = Some(eye);
        self.policies = None;
        Ok(())
    }

    /// What users see of each table: the SELECT policies. Nothing else is seen by users.
    pub(crate) fn policies(&mut self) -> Result<Rc<Policies>> {
        if let Some(policies) = &self.policies {
            return Ok(Rc::clone(policies));
        }
        let policies = Rc::new(users::policies(self.eye()?)?);
        self.policies = Some(Rc::clone(&policies));
        Ok(policies)
    }

    /// From here on policies that are evaluated on the connection that nothing befalls speak of this user.
    pub(crate) fn speak_of(&self, user: &User) {
        self.asks.speak_of(user);
    }

    /// Somebody who administers the server does something on the file, by a connection of the product's.
    pub(crate) fn administer<T>(&mut self, act: impl FnOnce(&Located) -> Result<T>) -> Result<Outcome<T>> {
        disk::run_with_skew(0);
        let before = disks().failures(SERVER);
        let outcome = act(&located(ADMINS_PATH, &self.host));
        self.policies = None;
        if disks().has_dead(SERVER) {
            return Ok(Outcome::Died);
        }
        sound::check_clock(self.eye()?, SERVER)?;
        match outcome {
            Ok(done) => Ok(Outcome::Done(done)),
            Err(_) if disks().failures(SERVER) > before => Ok(Outcome::Failed),
            Err(error) => Err(error).context("the administrator"),
        }
    }

    /// The connection of the owner.
    pub(crate) fn db(&self) -> Result<&rusqlite::Connection> {
        self.owner.as_ref().context("the server is down")
    }

    /// A connection that nothing befalls.
    pub(crate) fn eye(&self) -> Result<&rusqlite::Connection> {
        self.eye.as_ref().context("the server is down")
    }

    /// Takes one request and gives the answer.
    pub(crate) fn turn(
        &mut self,
        request: &[u8],
        user: Option<&User>,
        rights: Rights,
    ) -> Result<Outcome<Vec<u8>>> {
        disk::run_with_skew(0);
        let request = Request::decode(request)?;
        let store = self.store.as_ref().context("no store")?;
        let before = disks().failures(SERVER);
        let asker = Asker { rights, user: user.cloned().map(Arc::new) };
        let answer = store.turn(&request, &asker, disk::now_ms());
        if disks().is_dead(SERVER, "main") {
            return Ok(Outcome::Died);
        }
        match answer {
            Ok(answer) => {
                if request.upload.is_some() {
                    self.remember()?;
                }
                Ok(Outcome::Done(answer))
            }
            Err(_) if disks().failures(SERVER) > before => Ok(Outcome::Failed),
            Err(error) => Err(error).context("the store"),
        }
    }

    /// Lets the owner write.
    pub(crate) fn write(
        &mut self,
        act: impl FnOnce(&rusqlite::Connection) -> Result<bool>,
    ) -> Result<Outcome<bool>> {
        disk::run_with_skew(0);
        let before = disks().failures(SERVER);
        let outcome = act(self.db()?);
        if disks().is_dead(SERVER, "owner") {
            return Ok(Outcome::Died);
        }
        match outcome {
            Ok(committed) => Ok(Outcome::Done(committed)),
            Err(_) if disks().failures(SERVER) > before => Ok(Outcome::Failed),
            Err(error) => Err(error).context("the owner"),
        }
    }

    /// Whatever the server has by now is acknowledged, and not less than what was.
    pub(crate) fn remember(&mut self) -> Result<()> {
        sound::check_clock(self.eye()?, SERVER)?;
        let clocks = StoredClocks::read(self.eye()?)?;
        self.acknowledged.check_kept(&clocks)?;
        self.acknowledged = clocks;
        Ok(())
    }

    /// A table was dropped by the owner: what it had goes.
    pub(crate) fn acknowledge_anew(&mut self) -> Result<()> {
        self.acknowledged = StoredClocks::read(self.eye()?)?;
        Ok(())
    }

    /// Ends what is left of the server and starts it again on what is left of its file.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop();
        disks().restart(SERVER);
        self.start()?;
        sound::check_integrity(self.eye()?, SERVER)?;
        self.acknowledged.check_kept(&StoredClocks::read(self.eye()?)?)
    }

    fn stop(&mut self) {
        (self.owner, self.eye, self.store) = (None, None, None);
        // The writer is a thread, which closes its connection by itself.
        while disks().handles(SERVER) > 0 {
            std::thread::yield_now();
        }
    }

    fn start(&mut self) -> Result<()> {
        // Opened by the owner first, so that the order in which the store's threads close theirs makes no difference.
        let db = host::open(OWNERS_PATH, "PRAGMA synchronous = FULL; SELECT count(*) FROM sqlite_schema")?;
        self.owner = Some(db);
        self.open_store()
    }

    /// A copy of the file, as a backup makes it.
    pub(crate) fn backup(&self) -> Backup {
        let files = ["", "-wal"].iter().filter_map(|suffix| {
            let path = format!("{PATH}{suffix}");
            disks().content(&path).map(|bytes| (path, bytes))
        });
        Backup { files: files.collect(), acknowledged: self.acknowledged.clone() }
    }

    /// Puts a backup in the place of the file.
    pub(crate) fn restore(&mut self, backup: &Backup) -> Result<()> {
        self.stop();
        for suffix in ["", "-wal", "-journal", "-shm"] {
            disks().remove(&format!("{PATH}{suffix}"));
        }
        for (path, bytes) in &backup.files {
            disks().place(path, bytes.clone());
        }
        self.acknowledged.clone_from(&backup.acknowledged);
        self.has_lost = true;
        self.start()
    }

    /// True once a device has brought the tables.
    pub(crate) fn has_tables(&self) -> Result<bool> {
        let sql = "SELECT count(*) FROM cloudsync_tables";
        let count: i64 = self.eye()?.query_row(sql, [], |row| row.get(0))?;
        Ok(count >= workload::tables().count() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::START_MS;
    use cloudsync_server::store::sqlite::{disable_table, enable_table};

    /// A server with a row in a table that somebody switched on and off again, by connections to `file` if that is given.
    fn switched(file: Option<&Path>) -> (Server, Result<Outcome<()>>) {
        disk::register();
        disk::renew(Dice::new(1));
        disk::set_now_ms(START_MS);
        let mut server = Server::create(Dice::new(2), true, false).unwrap();
        let sql = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v TEXT); INSERT INTO t VALUES('1', 'one')";
        server.write(|db| Ok(db.execute_batch(sql).map(|()| true)?)).unwrap();
        let outcome = server.administer(|here| {
            let file = file.map_or_else(|| here.clone(), Located::from);
            enable_table(&file, "t", "cls")?;
            Ok(disable_table(&file, "t")?)
        });
        (server, outcome)
    }

    #[test]
    fn who_administers_has_the_clock_of_the_world() {
        let _guard = disk::alone();
        let (server, outcome) = switched(None);
        assert!(matches!(outcome.unwrap(), Outcome::Done(())));
        let latest = sound::latest_time(server.eye().unwrap()).unwrap();
        assert_eq!(latest, START_MS as i64);
    }

    #[test]
    fn a_stamp_by_the_clock_of_this_machine_is_found() {
        let _guard = disk::alone();
        let (_server, outcome) = switched(Some(Path::new(ADMINS_PATH)));
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("has a stamp or version of"), "{error}");
    }
}
