//! A table that changes its names: an app that comes to later versions, on each device when it likes.
//!
//! In the end everybody has the last version, and all must have the same rows in it, under the same clocks.

use crate::disk::disks;
use crate::host;
use crate::oracle::{self, NamedClock, RowName, Rows, Written};
use crate::random::Dice;
use crate::users;
use crate::workload;
use crate::world::{Outcome, World};
use anyhow::{Context, Result, bail};
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::value::ValueRef;
use cloudsync_replica::Replica;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::{change_policies, enable_table};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// Whether this world has such a table. There is one world at a time.
static HAS_RENAMES: AtomicBool = AtomicBool::new(false);

const FIRST: &str = "CREATE TABLE books(id TEXT PRIMARY KEY NOT NULL, title TEXT, pages INTEGER, extra)";
const LAST: &str = "CREATE TABLE volumes(id TEXT PRIMARY KEY NOT NULL, rating, headline TEXT, pages INTEGER)";
/// How rows are named, whatever their table is called just now.
const NAME: &str = "volumes";
pub(crate) const NAMES: [&str; 2] = ["books", NAME];

/// The steps from one version of the app to the next one; some need the bracket, in the others it may be.
const STEPS: [(&str, Bracket); 5] = [
    ("ALTER TABLE books RENAME COLUMN title TO headline", Bracket::Perhaps),
    ("ALTER TABLE books DROP COLUMN extra", Bracket::Needed),
    ("ALTER TABLE books ADD COLUMN rating", Bracket::Perhaps),
    ("ALTER TABLE books RENAME TO volumes", Bracket::Perhaps),
    (
        "CREATE TABLE fresh(id TEXT PRIMARY KEY NOT NULL, rating, headline TEXT, pages INTEGER);
         INSERT INTO fresh SELECT id, rating, headline, pages FROM volumes;
         DROP TABLE volumes; ALTER TABLE fresh RENAME TO volumes",
        Bracket::Needed,
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Needed,
    Perhaps,
}

/// SELECT policies of the two names of the table: users see the same rows under both, as far as what they name is the same.
const POLICIES: [[&str; 2]; 3] = [
    ["1", "1"],
    ["pages IS NULL OR pages > 300", "pages IS NULL OR pages > 300"],
    ["title IS NULL OR title < 't6'", "headline IS NULL OR headline < 't6'"],
];

/// Says whether the world that begins has such a table.
pub(crate) fn begin(has_renames: bool) {
    HAS_RENAMES.store(has_renames, Ordering::Relaxed);
}

fn is_part() -> bool {
    HAS_RENAMES.load(Ordering::Relaxed)
}

/// Makes the table where it is missing; some are installed with the last version.
pub(crate) fn set_up(db: &Connection, replica: &mut Replica, machine: &str) -> Result<()> {
    if !is_part() {
        return Ok(());
    }
    if Version::read(db)?.is_none() {
        let is_new = xxh3_64(machine.as_bytes()).is_multiple_of(3);
        db.execute_batch(if is_new { LAST } else { FIRST })?;
    }
    let version = Version::read(db)?.context("the table is not there")?;
    if replica.is_enabled(version.table()).is_err() {
        replica.init(version.table(), "cls", 0)?;
    }
    Ok(())
}

/// A version of the app, as its table shows it.
#[derive(Debug, Clone, Copy)]
struct Version {
    steps: usize,
}

impl Version {
    fn read(db: &Connection) -> Result<Option<Self>> {
        let sql = "SELECT m.name, c.name FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c \
                   WHERE m.name IN ('books', 'volumes') ORDER BY c.cid";
        let columns: Vec<(String, String)> = host::kept(db, sql)?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let has = |name: &str| columns.iter().any(|(_, column)| column == name);
        let Some((table, _)) = columns.first() else { return Ok(None) };
        let steps = match columns.get(1).map(|(_, second)| second.as_str()) {
            Some("rating") => 5,
            _ if table == NAME => 4,
            _ if has("rating") => 3,
            _ if !has("extra") => 2,
            _ if has("headline") => 1,
            _ => 0,
        };
        Ok(Some(Self { steps }))
    }

    const fn table(self) -> &'static str {
        if self.steps >= 4 { NAME } else { "books" }
    }

    /// Title, pages and rating as they are called.
    const fn cells(self) -> [&'static str; 3] {
        [
            if self.steps >= 1 { "headline" } else { "title" },
            "pages",
            if self.steps >= 3 { "rating" } else { "NULL" },
        ]
    }
}

/// Rows as the last version shows them.
fn rows(db: &Connection, version: Version, condition: &str, values: &[Value]) -> Result<Rows> {
    let [title, pages, rating] = version.cells();
    let sql =
        format!("SELECT quote(id), {title}, {pages}, {rating} FROM {} WHERE {condition}", version.table());
    let mut select = host::kept(db, &sql)?;
    let rows = select.query_map(params_from_iter(values), |row| {
        let cells = (1..4).map(|i| Ok(oracle::show(row.get_ref(i)?)));
        Ok(((NAME, row.get(0)?), cells.collect::<rusqlite::Result<Vec<_>>>()?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn write(db: &Connection, dice: &mut Dice, writer: &str, written: &mut Written) -> Result<bool> {
    let version = Version::read(db)?.context("the table is not there")?;
    let (id, sql) = statement(dice, version, writer);
    let outcome = (|| {
        db.execute_batch("BEGIN IMMEDIATE")?;
        host::kept(db, &sql.0)?.execute(params_from_iter(sql.1))?;
        let name: RowName = (NAME, format!("'{id}'"));
        let found = rows(db, version, "id = ?1", &[Value::Text(id)])?;
        written.push((name.clone(), found.get(&name).cloned()));
        db.execute_batch("COMMIT")?;
        anyhow::Ok(true)
    })();
    if !db.is_autocommit() {
        // SQLite may be unable to; then it undoes it when the file is opened next.
        let _ = db.execute_batch("ROLLBACK");
    }
    outcome
}

/// A row's key, and what is done to it.
fn statement(dice: &mut Dice, version: Version, writer: &str) -> (String, (String, Vec<Value>)) {
    let id = match dice.chance(600) {
        true => format!("shared-{}", dice.below(6)),
        false => format!("{writer}-{}", dice.below(3)),
    };
    let key = Value::Text(id.clone());
    let (table, [title, pages, rating]) = (version.table(), version.cells());
    let sql = match dice.below(8) {
        0 => (format!("DELETE FROM {table} WHERE id = ?1"), vec![key]),
        1 | 2 => {
            (format!("UPDATE {table} SET {pages} = ?2 WHERE id = ?1"), vec![key, dice.between(1, 900).into()])
        }
        3 | 4 => (format!("UPDATE {table} SET {title} = ?2 WHERE id = ?1"), vec![key, title_of(dice)]),
        5 if version.steps >= 3 => {
            let value = workload::value_of(dice, "rating");
            (format!("UPDATE {table} SET {rating} = ?2 WHERE id = ?1"), vec![key, value])
        }
        _ => (
            format!("INSERT OR REPLACE INTO {table}(id, {title}, {pages}) VALUES(?1, ?2, ?3)"),
            vec![key, title_of(dice), dice.between(1, 900).into()],
        ),
    };
    (id, sql)
}

fn title_of(dice: &mut Dice) -> Value {
    Value::Text(format!("t{}", dice.below(1 << 40)))
}

/// Takes steps of the app's migration.
fn migrate(db: &Connection, replica: &mut Replica, steps: usize, in_bracket: bool) -> Result<()> {
    for _ in 0..steps {
        let Some(version) = Version::read(db)?.filter(|version| version.steps < STEPS.len()) else {
            return Ok(());
        };
        let (sql, bracket) = STEPS[version.steps];
        let has_bracket = bracket == Bracket::Needed || in_bracket;
        if has_bracket {
            replica.begin_alter(version.table())?;
        }
        let outcome = db.execute_batch(&format!("BEGIN IMMEDIATE; {sql}; COMMIT"));
        if !db.is_autocommit() {
            // SQLite may be unable to; then it undoes it when the file is opened next.
            let _ = db.execute_batch("ROLLBACK");
        }
        outcome?;
        if has_bracket {
            replica.commit_alter(version.table())?;
        }
    }
    Ok(())
}

impl World {
    /// What a device does with the table that changes its names.
    pub(crate) fn use_books(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        if self.plan.renames == 0 {
            return Ok(());
        }
        if dice.chance(self.plan.renames) {
            self.migrate(at, dice)?;
        }
        if dice.chance(200) {
            self.write_book(at, dice)?;
        }
        Ok(())
    }

    fn migrate(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let (steps, in_bracket) = (1 + dice.below(2) as usize, dice.chance(500));
        let name = self.devices[at].name.clone();
        self.note(|| format!("{name} takes {steps} steps of its migration, in the bracket: {in_bracket}"));
        self.stats.fault("rename");
        let outcome =
            self.guarded(at, 0, |process| migrate(&process.db, &mut process.replica, steps, in_bracket))?;
        match outcome {
            Outcome::Done(()) => Ok(()),
            Outcome::Died => self.recovers(at),
            Outcome::Failed => self.restart_app(at),
        }
    }

    fn write_book(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let (name, mut written) = (self.devices[at].name.clone(), Written::new());
        let outcome = self.guarded(at, 0, |process| write(&process.db, dice, &name, &mut written))?;
        self.note(|| format!("{name} writes {written:?}: {outcome:?}"));
        self.stats.rows += written.len() as u64;
        self.devices[at].activity.rows += written.len() as u64;
        // What users write may be refused.
        let is_certain = matches!(outcome, Outcome::Done(true)) && self.devices[at].holder.is_none();
        self.model.wrote(&name, written, is_certain);
        if matches!(outcome, Outcome::Died) { self.recovers(at) } else { Ok(()) }
    }

    /// Where there are users, somebody sees to it that the server has the new names with policies, sooner or later.
    pub(crate) fn migrate_server(&mut self, dice: &mut Dice) -> Result<()> {
        if self.plan.users == 0 || !is_part() || self.has_migrated || !self.server.has_tables()? {
            return Ok(());
        }
        let sql = lacking(self.server.eye()?)?;
        let outcome = self.server.write(|db| Ok(db.execute_batch(&sql).map(|()| true)?))?;
        if !matches!(outcome, Outcome::Done(true)) {
            return if matches!(outcome, Outcome::Died) { self.server_recovers() } else { Ok(()) };
        }
        let (policies, now_ms) = (dice.pick(&POLICIES), self.now());
        let mut wanted = Vec::new();
        for (table, select) in NAMES.into_iter().zip(policies) {
            let change = |verb, text| Change { table, verb, text: Some(text), by: "sim", now_ms };
            wanted.push(change(Verb::Select, *select));
            wanted.extend([Verb::Insert, Verb::Update, Verb::Delete].map(|verb| change(verb, "1")));
        }
        let outcome = self.server.administer(|file| {
            enable_table(file, NAME, "cls")?;
            Ok(change_policies(file, &wanted).map(drop)?)
        })?;
        self.note(|| format!("the server gets the new names: {outcome:?}, {policies:?}"));
        match outcome {
            Outcome::Done(()) => self.has_migrated = true,
            Outcome::Failed => {}
            Outcome::Died => self.server_recovers()?,
        }
        Ok(())
    }

    /// In the end everybody has the last version of the app.
    pub(crate) fn finish_renames(&mut self) -> Result<()> {
        if self.plan.renames == 0 {
            return Ok(());
        }
        for device in &mut self.devices {
            disks().disarm(&device.place);
            let process = &mut device.processes[0];
            migrate(&process.db, &mut process.replica, STEPS.len(), false)
                .with_context(|| format!("device {} migrates", device.name))?;
        }
        Ok(())
    }

    /// All have the same rows of the last version, under the same clocks. The server keeps the old names, too.
    pub(crate) fn check_renames(&self) -> Result<()> {
        for at in 0..self.devices.len() {
            if let Some(difference) = self.renamed_difference(at)? {
                bail!("server and {} differ in {difference}", self.devices[at].name);
            }
        }
        Ok(())
    }

    /// How a device differs from the server in the last version; `None` if it does not.
    pub(crate) fn renamed_difference(&self, at: usize) -> Result<Option<String>> {
        if self.plan.renames == 0 {
            return Ok(None);
        }
        let (eye, last, device) = (self.server.eye()?, Version { steps: STEPS.len() }, &self.devices[at]);
        let db = &device.processes[0].db;
        let found = rows(db, last, "1", &[])?;
        let (mut wanted, mut known, mut ours) = (rows(eye, last, "1", &[])?, clocks(eye)?, clocks(db)?);
        if let Some(holder) = &device.holder {
            let policies = users::policies(eye)?;
            self.server.speak_of(self.users.of(holder));
            wanted = rows(eye, last, policies.get(NAME).map_or("0", |text| text), &[])?;
            // Of what is deleted or hidden a user may have heard, or not.
            let shown: BTreeSet<_> = wanted.keys().map(clock_of).collect();
            known.retain(|row, _| shown.contains(row));
            ours.retain(|row, clock| !clock.is_dead() || shown.contains(row));
        }
        if let Some(difference) = oracle::difference(&known, &ours) {
            return Ok(Some(format!("a clock of a renamed table: {difference}")));
        }
        let difference = oracle::difference(&wanted, &found);
        Ok(difference.map(|difference| format!("a row of a renamed table: {difference}")))
    }
}

/// The clock of a row is named so.
fn clock_of((_, key): &RowName) -> String {
    let mut packed = Vec::new();
    // No key here is too long.
    let _ =
        pack_part(&mut packed, ValueRef::Text(key.trim_matches('\'').as_bytes()), KeyCollation::Binary, true);
    oracle::clock_name(NAME, &packed)
}

/// The clocks of the last version's columns.
fn clocks(db: &Connection) -> Result<BTreeMap<String, NamedClock>> {
    let mut clocks = oracle::clocks(db)?;
    clocks.retain(|row, _| row.split(':').next() == Some(NAME));
    for clock in clocks.values_mut() {
        clock.keep(&["headline", "pages", "rating"]);
    }
    Ok(clocks)
}

/// Makes the first version on a server that has users, who bring no tables.
pub(crate) fn create_on_server(db: &Connection, replica: &mut Replica) -> Result<()> {
    if is_part() {
        db.execute_batch(FIRST)?;
        replica.init(NAMES[0], "cls", 0)?;
    }
    Ok(())
}

/// What a server lacks of the last version.
fn lacking(db: &Connection) -> Result<String> {
    let mut sql = String::new();
    for (column, definition) in [("headline", "headline TEXT"), ("rating", "rating")] {
        let known = "SELECT 1 FROM pragma_table_info('books') WHERE name = ?1";
        if !db.prepare(known)?.exists([column])? {
            sql += &format!("ALTER TABLE books ADD COLUMN {definition};");
        }
    }
    if !has_table(db, NAME)? {
        sql += LAST;
    }
    Ok(sql)
}

fn has_table(db: &Connection, table: &str) -> Result<bool> {
    Ok(host::kept(db, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([table])?)
}

/// The names that the table has in a file.
pub(crate) fn tables(db: &Connection) -> Result<Vec<&'static str>> {
    let mut tables = Vec::new();
    for name in NAMES.into_iter().filter(|_| is_part()) {
        if has_table(db, name)? {
            tables.push(name);
        }
    }
    Ok(tables)
}

/// Keys and titles of the rows of one of these tables for which a condition holds.
pub(crate) fn titles(db: &Connection, table: &str, condition: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut titles = Vec::new();
    for title in ["title", "headline"] {
        let known = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
        if db.prepare_cached(known)?.exists([table, title])? {
            let sql = format!("SELECT id, {title} FROM {table} WHERE {condition}");
            let mut select = db.prepare_cached(&sql)?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            titles.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
        }
    }
    Ok(titles)
}

/// True when a refusal is about a name that a server does not have.
pub(crate) fn is_lacking(db: &Connection, refusal: &str) -> Result<bool> {
    let lacking = lacking(db)?;
    let column = ["headline", "rating"].into_iter().find(|column| refusal.contains(&format!("\"{column}\"")));
    Ok(match column {
        Some(column) => lacking.contains(&format!("ADD COLUMN {column}")),
        // The table may be there, and the command that has it sync may have failed.
        None => {
            let syncs = "SELECT 1 FROM cloudsync_tables WHERE name = ?1";
            refusal.contains("\"volumes\"") && !db.prepare(syncs)?.exists([NAME])?
        }
    })
}

/// The rows of a device's file that one writer has for itself.
pub(crate) fn own_rows(db: &Connection, writer: &str) -> Result<Rows> {
    match Version::read(db)?.filter(|_| is_part()) {
        Some(version) => rows(db, version, &format!("id LIKE '{writer}-%'"), &[]),
        None => Ok(Rows::new()),
    }
}

/// The rows of the last version on the server, in the end.
pub(crate) fn last_rows(db: &Connection) -> Result<Rows> {
    if is_part() { rows(db, Version { steps: STEPS.len() }, "1", &[]) } else { Ok(Rows::new()) }
}

/// The names of all rows, under any of these names of the table, added to those that are there.
pub(crate) fn add_names(db: &Connection, tables: &[&str], names: &mut BTreeSet<RowName>) -> Result<()> {
    for table in tables.iter().filter(|_| is_part()) {
        let sql = "SELECT 1 FROM sqlite_schema WHERE name = ?1";
        if db.prepare(sql)?.exists([table])? {
            let mut select = db.prepare(&format!("SELECT quote(id) FROM {table}"))?;
            let mut keys = select.query([])?;
            while let Some(row) = keys.next()? {
                names.insert((NAME, row.get(0)?));
            }
        }
    }
    Ok(())
}
