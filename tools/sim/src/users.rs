//! Users: who has a token of whom, what the policies show them, and how that changes.

use crate::disk::disks;
use crate::family;
use crate::host;
use crate::oracle::{self, RowName, Rows, Written};
use crate::random::Dice;
use crate::renames;
use crate::workload::{self, TABLES, TableSpec};
use crate::world::{Outcome, World};
use anyhow::{Result, bail};
use cloudsync_server::auth::User;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::change_policies;
use memchr::memmem;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// Users, and others who are nobody's.
pub(crate) const NAMES: &[&str] = &["alice", "bob", "carol", "nobody"];
/// How many of them have devices.
const WITH_DEVICES: u64 = 3;
/// What the claims of a user may name.
pub(crate) const TEAMS: &[&str] = &["red", "blue"];

/// Policies that a table may get.
const TASKS: &[&str] = &[
    "EXISTS (SELECT 1 FROM members WHERE members.project = tasks.project AND members.member = auth_userid())",
    "project IN (SELECT project FROM members WHERE member = auth_userid())",
    "project IN (SELECT project FROM projects WHERE owner = auth_userid()) OR \
     EXISTS (SELECT 1 FROM members m WHERE m.project = tasks.project AND m.member = auth_userid())",
    "EXISTS (SELECT 1 FROM members m JOIN projects p ON p.project = m.project \
     WHERE p.project = tasks.project AND m.member = auth_userid())",
    "project IN (SELECT project FROM members WHERE member = auth_userid()) \
     AND NOT EXISTS (SELECT 1 FROM projects WHERE project = tasks.project AND owner = 'nobody')",
];
const DIARIES: &[&str] = &[
    "owner = auth_userid()",
    "owner = auth_userid() OR owner = 'nobody'",
    "team = json_extract(auth_json(), '$.team')",
    "owner = auth_userid() OR team = json_extract(auth_json(), '$.team')",
];
const MEMBERS: &[&str] = &["member = auth_userid()", "1"];
const PROJECTS: &[&str] = &[
    "owner = auth_userid()",
    "EXISTS (SELECT 1 FROM members m WHERE m.project = projects.project AND m.member = auth_userid())",
];

/// Policies of tables with foreign keys: by the row, by its parent, by its children. The parent of a row that is seen may be
/// hidden, and the other way round.
const FAMILIES: &[(&str, &[&str])] = &[
    ("houses", &["1", "secret < 'secret 8'", "EXISTS (SELECT 1 FROM rooms r WHERE r.house = houses.id)"]),
    ("rooms", &["1", "house IN (SELECT id FROM houses WHERE secret < 'secret a')", "secret < 'secret 8'"]),
    ("lamps", &["1", "secret > 'secret 4'", "EXISTS (SELECT 1 FROM rooms r WHERE r.id = lamps.room)"]),
    ("locks", &["1", "house IS NULL OR house > 'houses-shared-2'"]),
    ("trees", &["1", "parent IS NULL", "secret < 'secret c'"]),
];

/// What a user may have come to know: tables and keys as they are shown.
pub(crate) type Known = Rc<RefCell<BTreeSet<RowName>>>;
/// SELECT policies by table.
pub(crate) type Policies = BTreeMap<&'static str, String>;

/// Whose token a device has, and which rows ever were on it: on it, its copies, and what it is a copy of.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) user: usize,
    pub(crate) knew: Known,
    /// The secrets that the user's own app wrote first, on it, its copies, and what it is a copy of.
    wrote: Rc<RefCell<BTreeSet<String>>>,
    /// Every secret that was ever on them, with the rows in which it was.
    pub(crate) had: Rc<RefCell<BTreeMap<String, BTreeSet<RowName>>>>,
}

impl Holder {
    /// Somebody whose device is empty.
    pub(crate) fn new(user: usize) -> Self {
        Self { user, knew: Known::default(), wrote: Rc::default(), had: Rc::default() }
    }

    /// The same device with the token of somebody else.
    pub(crate) fn into_another(self) -> Self {
        Self { user: (self.user + 1) % WITH_DEVICES as usize, ..self }
    }
}

/// Everybody as their tokens name them.
pub(crate) struct Users(Vec<User>);

impl Users {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let users = NAMES.iter().take(WITH_DEVICES as usize);
        Self(users.map(|name| User { id: (*name).to_owned(), claims: claims(dice) }).collect())
    }

    pub(crate) fn of(&self, holder: &Holder) -> &User {
        &self.0[holder.user]
    }
}

fn claims(dice: &mut Dice) -> serde_json::Map<String, serde_json::Value> {
    if dice.chance(200) {
        return serde_json::Map::new();
    }
    std::iter::once(("team".to_owned(), (*dice.pick(TEAMS)).into())).collect()
}

/// For whom the functions of policies speak.
#[derive(Default, Clone)]
pub(crate) struct Asking(Arc<Mutex<(String, String)>>);

impl Asking {
    pub(crate) fn register(&self, db: &Connection) -> Result<()> {
        let flags = FunctionFlags::SQLITE_UTF8;
        let (id, claims) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let read =
            |asking: &Mutex<(String, String)>| asking.lock().unwrap_or_else(PoisonError::into_inner).clone();
        db.create_scalar_function("auth_userid", 0, flags, move |_| Ok(read(&id).0))?;
        db.create_scalar_function("auth_json", 0, flags, move |_| Ok(read(&claims).1))?;
        Ok(())
    }

    pub(crate) fn speak_of(&self, user: &User) {
        let claims = serde_json::Value::Object(user.claims.clone()).to_string();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (user.id.clone(), claims);
    }
}

/// The SELECT policies that the server's file has.
pub(crate) fn policies(db: &Connection) -> Result<Policies> {
    let mut policies = Policies::new();
    for table in workload::tables().map(|table| table.name).chain(renames::NAMES) {
        let sql = "SELECT expression FROM cloudsync_server_policies \
                   WHERE tbl = ?1 AND verb = 'SELECT' ORDER BY id DESC LIMIT 1";
        let mut select = host::kept(db, sql)?;
        let text: Option<Option<String>> = select.query_map([table], |row| row.get(0))?.next().transpose()?;
        if let Some(text) = text.flatten() {
            policies.insert(table, text);
        }
    }
    Ok(policies)
}

/// The tables of which policies say who sees which rows.
pub(crate) fn guarded() -> impl Iterator<Item = &'static TableSpec> {
    workload::tables().filter(|table| table.is_guarded())
}

fn changes(dice: &mut Dice, table: &'static TableSpec, now_ms: u64) -> Vec<Change<'static>> {
    let (select, free) = match table.name {
        "members" => (*dice.pick(MEMBERS), true),
        "projects" => (*dice.pick(PROJECTS), true),
        "tasks" => (*dice.pick(TASKS), false),
        "diaries" => (*dice.pick(DIARIES), false),
        _ => match FAMILIES.iter().find(|(name, _)| *name == table.name) {
            Some((_, policies)) => (*dice.pick(policies), dice.chance(500)),
            None => ("1", true),
        },
    };
    let change = |verb, text| Change { table: table.name, verb, text: Some(text), by: "sim", now_ms };
    let writes = if free || dice.chance(300) { "1" } else { select };
    vec![
        change(Verb::Select, select),
        change(Verb::Insert, writes),
        change(Verb::Update, if dice.chance(500) { "1" } else { "OLD.id = NEW.id" }),
        change(Verb::Delete, writes),
    ]
}

impl World {
    /// Gives every table its policies; some are seen by nobody.
    pub(crate) fn begin_policies(&mut self, dice: &mut Dice) -> Result<()> {
        let now = self.now();
        let tables = TABLES.iter().filter(|table| table.is_guarded() || dice.chance(800));
        let tables: Vec<_> = tables.chain(family::tables()).collect();
        let wanted: Vec<_> = tables.into_iter().flat_map(|table| changes(dice, table, now)).collect();
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|change| match guarded().any(|table| table.name == change.table) {
                true => change,
                false => Change { text: Some("1"), ..change },
            })
            .collect();
        match self.server.administer(|file| Ok(change_policies(file, &wanted)?))? {
            Outcome::Done(_) => Ok(()),
            outcome => bail!("policies before any fault: {outcome:?}"),
        }
    }

    /// What may become of policies, claims and devices of users at a step of the server.
    pub(crate) fn change_rights(&mut self, dice: &mut Dice) -> Result<()> {
        if self.plan.users == 0 {
            return Ok(());
        }
        if dice.chance(self.plan.claim_changes) {
            let user = dice.below(WITH_DEVICES) as usize;
            self.users.0[user].claims = claims(dice);
            let user = self.users.0[user].clone();
            self.note(|| format!("{} has other claims: {:?}", user.id, user.claims));
            self.stats.fault("claim change");
        }
        if dice.chance(self.plan.policy_changes) {
            let guarded: Vec<_> = guarded().collect();
            let table: &'static TableSpec = dice.pick::<&TableSpec>(&guarded);
            let wanted = changes(dice, table, self.now());
            self.stats.fault("policy change");
            let outcome = self.server.administer(|file| Ok(change_policies(file, &wanted)?))?;
            self.note(|| format!("policies of {}: {:?}, {outcome:?}", table.name, wanted[0].text));
            if matches!(outcome, Outcome::Died) {
                self.server_recovers()?;
            }
        }
        Ok(())
    }

    /// The device of a user gets another one.
    pub(crate) fn change_user(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        if self.devices[at].holder.is_none() {
            return Ok(());
        }
        let (secrets, user) = (self.secrets_on(at)?, dice.below(WITH_DEVICES) as usize);
        let name = self.devices[at].name.clone();
        self.stats.fault("change of user");
        disks().disarm(&self.devices[at].place);
        let is_clean = self.devices[at].change_user()?;
        self.devices[at].holder = Some(Holder::new(user));
        self.note(|| format!("{name} goes to {}, clean: {is_clean}", NAMES[user]));
        if is_clean {
            let bytes = self.devices[at].bytes();
            if let Some(secret) = secrets.iter().find(|secret| contains(&bytes, secret.as_bytes())) {
                bail!("device {name}: {secret:?} of the user before is still on the disk after a logout");
            }
        }
        self.forget(at)
    }

    /// The texts by which rows of guarded tables are recognised that a device has.
    fn secrets_on(&self, at: usize) -> Result<BTreeSet<String>> {
        let mut secrets = BTreeSet::new();
        let eye = self.devices[at].eye();
        for table in guarded() {
            let mut select = eye.prepare(&format!("SELECT secret FROM {}", table.name))?;
            let found = select.query_map([], |row| row.get::<_, Option<String>>(0))?;
            secrets.extend(found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten());
        }
        Ok(secrets)
    }

    /// The rows that a device must have in the end.
    pub(crate) fn rows_for(&mut self, at: usize) -> Result<Rows> {
        let Some(holder) = self.devices[at].holder.clone() else { return oracle::rows(self.server.eye()?) };
        let policies = self.server.policies()?;
        self.server.speak_of(self.users.of(&holder));
        oracle::rows_where(self.server.eye()?, |table| policies.get(table.name).map(String::as_str))
    }

    /// The rows that the user of a device sees, as clocks are named; `None` for who sees all.
    fn keys_for(&mut self, at: usize) -> Result<Option<BTreeSet<String>>> {
        let Some(holder) = self.devices[at].holder.clone() else { return Ok(None) };
        let policies = self.server.policies()?;
        self.server.speak_of(self.users.of(&holder));
        let seen = |table: &TableSpec| policies.get(table.name).map(String::as_str);
        oracle::keys_where(self.server.eye()?, seen).map(Some)
    }

    /// How a device differs from what it must have; `None` if it does not.
    ///
    /// Of what is alive the user of a device must have what they see, and no other row or clock. Of a deleted row a device has
    /// the server's clock or none, with one exception: of rows that a device holds nothing of, its user hears no more (the ledger
    /// has them no longer), so its tombstone may be older than what the server knows, where the row came back out of sight, or was
    /// deleted once more by somebody else. That is no loss, and no loss is hidden by it:
    /// - What is seen is compared exactly, whatever the device knew of it before.
    /// - What the device told is not lost: what the server has must be at least that. A deletion that never arrived, or
    ///   that the server forgot, is later or longer than what the server has, and counts.
    /// - Whatever becomes of the row next is decided by the greater clock, which all who hear of it take over.
    pub(crate) fn difference(&mut self, at: usize) -> Result<Option<String>> {
        let mut rows = self.rows_for(at)?;
        let shown = self.keys_for(at)?;
        let device = &self.devices[at];
        let db = &device.processes[0].db;
        let (mut known, mut clocks) = (oracle::clocks(self.server.eye()?)?, oracle::clocks(db)?);
        let excuses = self.excuses(at)?;
        known.retain(|row, _| !excuses.clock(row));
        // A check takes hollow ones away.
        let may_be_hollow = !self.checks;
        let is_left_over = |row: &String, clock: &oracle::NamedClock| {
            may_be_hollow && clock.is_hollow(row) && !known.contains_key(row)
        };
        clocks.retain(|row, clock| !excuses.clock(row) && !is_left_over(row, clock));
        if let Some(shown) = shown {
            if let Some((row, clock)) =
                clocks.iter().find(|(row, clock)| !clock.is_dead() && !shown.contains(*row))
            {
                return Ok(Some(format!("in a clock of what its user does not see, {row}: {clock:?}")));
            }
            known.retain(|row, _| shown.contains(row) || clocks.contains_key(row));
            clocks.retain(|row, ours| {
                let is_after = |theirs: &oracle::NamedClock| theirs.is_at_least(row, ours);
                let is_unheard = !shown.contains(row) && known.get(row).is_some_and(is_after);
                if is_unheard {
                    known.remove(row);
                }
                !is_unheard
            });
        }
        if let Some(difference) = oracle::difference(&known, &clocks) {
            return Ok(Some(format!("in a clock: {difference}")));
        }
        let mut held = oracle::rows(db)?;
        rows.retain(|row, _| !excuses.row(row));
        held.retain(|row, _| !excuses.row(row));
        let Some(difference) = oracle::difference(&rows, &held) else { return Ok(None) };
        let name = rows.keys().chain(held.keys()).find(|name| rows.get(*name) != held.get(*name));
        let more = name.map(|name| self.explain(at, name)).transpose()?.unwrap_or_default();
        Ok(Some(format!("in a row: {difference}{more}")))
    }

    /// Takes note of who made up a secret: no two are alike, so it is whoever wrote it first. And of where it is: who gives a row
    /// another key writes all of that row anew, and so what others had made up, too.
    pub(crate) fn sign(&mut self, at: Option<usize>, written: &Written) {
        let rows = written.iter().filter(|(name, _)| oracle::is_guarded(name));
        for (name, secret) in rows.filter_map(|(name, cells)| Some((name, secret_of(cells.as_deref()?)?))) {
            let holder = at.and_then(|at| self.devices[at].holder.as_ref());
            let is_first = self.secrets.insert(secret.clone());
            let Some(holder) = holder else { continue };
            let is_moved = holder.had.borrow_mut().entry(secret.clone()).or_default().insert(name.clone());
            if is_first || is_moved {
                holder.wrote.borrow_mut().insert(secret);
            }
        }
    }

    /// After evictions and the scrub nothing is left on the disk of what its user may not see, but what the user wrote
    /// and lost: it was refused, or a deletion or another value won over it. Such a value may be in a row that the user does not
    /// see, which came back after a deletion that the user was told of, say. Who wrote it is known here, whatever the
    /// journals say of it, but of rows that came inside of a filter.
    pub(crate) fn check_disk(&mut self, at: usize) -> Result<()> {
        if self.devices[at].holder.is_none() {
            return Ok(());
        }
        let hidden = self.hidden_from(at)?;
        let device = &mut self.devices[at];
        device.processes.truncate(1);
        let process = &mut device.processes[0];
        process.replica.scrub()?;
        if process.replica.is_scrub_due()? {
            return Ok(());
        }
        // language=SQLite
        let sql = "SELECT 1 FROM cloudsync_rejected WHERE instr(\"row\", ?1) OR instr(change, CAST(?1 AS BLOB)) \
                   UNION ALL SELECT 1 FROM cloudsync_conflicts WHERE col_value = ?1";
        let bytes = device.bytes();
        let Some(holder) = &device.holder else { return Ok(()) };
        let db = &device.processes[0].db;
        let wrote = holder.wrote.borrow();
        // language=SQLite
        let refused = "SELECT tbl FROM cloudsync_rejected WHERE instr(\"row\", ?1)";
        let is_of_filtered = |text: &String| -> Result<bool> {
            let mut select = db.prepare(refused)?;
            let tables =
                select.query_map([text], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
            Ok(tables.iter().any(|table| device.own.filtered.contains(&**table)))
        };
        for text in hidden.iter().filter(|text| contains(&bytes, text.as_bytes())) {
            if !(wrote.contains(text) || is_of_filtered(text)?) || !db.prepare(sql)?.exists([text])? {
                bail!("device {}: {text:?} may not be seen and is on the disk after the scrub", device.name);
            }
        }
        Ok(())
    }

    /// Secrets of rows that the user of a device may not see, and that are in no row which they see.
    fn hidden_from(&mut self, at: usize) -> Result<BTreeSet<String>> {
        let shown = self.rows_for(at)?;
        let all = oracle::rows(self.server.eye()?)?;
        let secrets = |rows: &Rows| -> BTreeSet<String> {
            let guarded = rows.iter().filter(|(name, _)| oracle::is_guarded(name));
            guarded.filter_map(|(_, cells)| secret_of(cells)).collect()
        };
        Ok(secrets(&all).difference(&secrets(&shown)).cloned().collect())
    }
}

/// The secret among the shown cells of a row.
fn secret_of(cells: &[String]) -> Option<String> {
    let text = cells.last()?.strip_prefix('\'')?.split('\'').next()?;
    text.starts_with("secret ").then(|| text.to_owned())
}

pub(crate) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    memmem::find(bytes, text).is_some()
}
