//! Somebody who knows everything and reads each answer to a user: no byte of a row, nor its key, may be in it that the user
//! may not see.

use crate::oracle::RowName;
use crate::renames;
use crate::server::Server;
use crate::users::{self, Holder, Known, Policies, contains};
use crate::workload::{TABLES, TableSpec};
use anyhow::{Context, Result, bail, ensure};
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::message::{Answer, Request, Turn};
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_protocol::range::{Checked, Finding};
use cloudsync_protocol::verdict::Verdicts;
use cloudsync_replica::Zstd;
use cloudsync_server::auth::User;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What there is in guarded tables, as it is when an answer is made.
struct Guarded {
    policies: Rc<Policies>,
    /// Rows that the user sees, by table and packed key.
    shown: BTreeSet<(&'static str, Vec<u8>)>,
    /// Texts of rows that the user does not see, each with its row.
    hidden: BTreeMap<String, RowName>,
}

impl Guarded {
    fn read(server: &mut Server, user: &User) -> Result<Self> {
        let policies = server.policies()?;
        server.speak_of(user);
        let eye = server.eye()?;
        let (mut shown, mut hidden, mut told) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        for table in users::guarded() {
            for (key, secret) in secrets(eye, table, policies.get(table.name).map_or("0", |text| text))? {
                shown.insert((table.name, pack(&key)?));
                told.insert(secret);
            }
        }
        for table in users::guarded() {
            for (key, secret) in secrets(eye, table, "1")? {
                let is_shown = shown.contains(&(table.name, pack(&key)?));
                if let Some(secret) = secret.filter(|_| !is_shown) {
                    hidden.insert(secret, (table.name, key));
                }
            }
        }
        let policy = |table: &str| policies.get(table).map_or("0", |text| text);
        for table in renames::tables(eye)? {
            for (key, title) in renames::titles(eye, table, policy(table))? {
                shown.insert((table, pack(&key)?));
                told.insert(title);
            }
        }
        for table in renames::tables(eye)? {
            for (key, title) in renames::titles(eye, table, "1")? {
                let is_shown = shown.contains(&(table, pack(&key)?));
                if let Some(title) = title.filter(|_| !is_shown) {
                    hidden.insert(title, (table, key));
                }
            }
        }
        hidden.retain(|secret, _| !told.contains(&Some(secret.clone())));
        Ok(Self { policies, shown, hidden })
    }

    fn shows(&self, table: &str, key: &[u8]) -> bool {
        let renamed = renames::NAMES.into_iter().find(|name| *name == table);
        match guarded(table).map(|table| table.name).or(renamed) {
            Some(table) => self.shown.contains(&(table, key.to_vec())),
            None => self.policies.get(table).is_some_and(|text| text == "1"),
        }
    }
}

fn secrets(db: &Connection, table: &TableSpec, condition: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut select =
        db.prepare_cached(&format!("SELECT id, secret FROM {} WHERE {condition}", table.name))?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn pack(key: &str) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    pack_part(&mut packed, ValueRef::Text(key.as_bytes()), KeyCollation::Binary, true)?;
    Ok(packed)
}

fn guarded(table: &str) -> Option<&'static TableSpec> {
    users::guarded().find(|known| known.name == table)
}

/// Rows of guarded tables that a device's own app wrote are no secret to it.
pub(crate) fn know(knew: &Known, names: impl IntoIterator<Item = RowName>) {
    knew.borrow_mut().extend(names.into_iter().filter(crate::oracle::is_guarded));
}

/// True when a refusal says that the app came to a version with another name before the server did. Nothing but that name
/// helps.
pub(crate) fn is_early(refusal: &str) -> bool {
    refusal.contains("may not add it") || refusal.contains("may not bring it")
}

/// Reads an answer to a user.
pub(crate) fn check(
    server: &mut Server,
    user: &User,
    holder: &Holder,
    request: &[u8],
    answer: &[u8],
) -> Result<()> {
    let turn = match Answer::decode(answer)? {
        Answer::Turn(turn) => turn,
        Answer::Refusal(refusal) if is_early(&refusal.text) => {
            let eye = server.eye()?;
            let is_true = match refusal.text.contains("\"notes\"") {
                true => !TABLES[0].has_later(eye)?,
                false => renames::is_lacking(eye, &refusal.text)?,
            };
            ensure!(is_true, "{} is refused for a name that the server has: {}", user.id, refusal.text);
            return Ok(());
        }
        Answer::Refusal(_) => return Ok(()),
    };
    let checker = Checker { guarded: Guarded::read(server, user)?, holder };
    checker.check(&Request::decode(request)?, &turn).with_context(|| format!("in an answer to {}", user.id))
}

struct Checker<'c> {
    guarded: Guarded,
    holder: &'c Holder,
}

impl Checker<'_> {
    fn check(&self, request: &Request<'_>, turn: &Turn<'_>) -> Result<()> {
        ensure!(turn.rows_total == 0, "it is told how many rows there are");
        for (secret, row) in &self.guarded.hidden {
            let place = turn.position;
            let is_told = contains(place, secret.as_bytes()) || contains(place, row.1.as_bytes());
            ensure!(!is_told, "the place of the download tells of {row:?}");
        }
        self.read(turn.payload)?;
        if !turn.verdicts.is_empty() {
            let verdicts = Verdicts::decode(turn.verdicts)?;
            for verdict in &verdicts.list {
                self.check_known(verdict.table, verdict.key, "judged")?;
                let tells = self.guarded.hidden.keys().find(|secret| verdict.reason.contains(*secret));
                ensure!(tells.is_none(), "a reason tells {tells:?}");
            }
            self.read(verdicts.payload)?;
        }
        if !turn.checked.is_empty() {
            self.check_findings(request, &Checked::decode(turn.checked)?)?;
        }
        Ok(())
    }

    fn read(&self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.check_payload(&Opened::open(bytes, &Zstd)?.payload()?)
    }

    fn check_payload(&self, payload: &Payload<'_>) -> Result<()> {
        for evicted in payload.evicted() {
            for row in 0..evicted.rows() {
                self.check_known(evicted.table(), evicted.key(row), "taken away")?;
            }
        }
        for piece in payload.pieces() {
            let tells =
                self.guarded.hidden.iter().find(|(secret, _)| contains(piece.bytes, secret.as_bytes()));
            ensure!(tells.is_none(), "a piece of a value tells {tells:?}");
        }
        for group in payload.groups() {
            for row in 0..group.rows() {
                let key = group.key(row);
                if group.life(row).is_multiple_of(2) {
                    self.check_known(group.table(), key, "told to be dead")?;
                } else if self.guarded.shows(group.table(), key) {
                    self.learn(group.table(), key);
                } else {
                    bail!("a row of {} is sent: {:?}", group.table(), String::from_utf8_lossy(key));
                }
                for column in 0..group.columns().len() {
                    let ValueRef::Text(text) = group.value(row, column) else { continue };
                    let Ok(text) = std::str::from_utf8(text) else { continue };
                    let secret = self.guarded.hidden.get(text);
                    ensure!(secret.is_none(), "a value of {secret:?} is sent");
                    if let Some(name) = name(group.table(), key).filter(|_| text.starts_with("secret ")) {
                        self.holder.had.borrow_mut().entry(text.to_owned()).or_default().insert(name);
                    }
                }
            }
        }
        Ok(())
    }

    /// A key is told of only to those who have it from before.
    fn check_known(&self, table: &str, key: &[u8], what: &str) -> Result<()> {
        let Some(name) = name(table, key) else { return Ok(()) };
        ensure!(
            self.holder.knew.borrow().contains(&name) || self.guarded.shows(table, key),
            "{name:?} is {what}, of which the device never knew"
        );
        Ok(())
    }

    fn learn(&self, table: &str, key: &[u8]) {
        self.holder.knew.borrow_mut().extend(name(table, key));
    }

    fn check_findings(&self, request: &Request<'_>, checked: &Checked<'_>) -> Result<()> {
        for (finding, range) in checked.findings.iter().zip(&request.check.ranges) {
            let told = match finding {
                Finding::Differs { until } => until,
                Finding::Large { key, .. } => key,
                Finding::Equal | Finding::Unknown | Finding::Later => continue,
                Finding::Empty => bail!("it is told that {} is empty", range.table),
            };
            let is_shown = told.is_empty() || self.guarded.shows(range.table, told);
            ensure!(is_shown, "a finding of {} tells a key", range.table);
        }
        self.read(checked.payload)
    }
}

/// The row of a guarded table with this packed key, as rows are named: the key ends with its text.
fn name(table: &str, key: &[u8]) -> Option<RowName> {
    let table = guarded(table)?;
    let text = String::from_utf8_lossy(key);
    let at = text.find(&format!("{}-", table.name))?;
    Some((table.name, format!("'{}'", &text[at..])))
}
