//! The policies of a database, for commands and for administrators. A server that has the file open obeys a change at
//! its next turn.

use super::connection::Wrapped;
use super::host::Located;
use crate::auth::User;
use crate::policy::{
    Change, Entry, Known, Plan, Policy, PolicyError, Probe, Probed, Verb, change, history, plan, probe,
};
use crate::schema_check::{Finding, Scene, of_policies};
use std::collections::{BTreeMap, BTreeSet};

/// Policies that were set, and what their owner should know of them.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Changed {
    /// The policies of the tables that were changed, as they are now.
    pub policies: Vec<Shown>,
    /// Advice.
    pub warnings: Vec<String>,
}

/// A policy as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The table.
    pub table: String,
    /// What it is a policy of.
    pub policy: Verb,
    /// The expression.
    pub expression: String,
    /// The tables that it reads beside the row.
    pub reads: BTreeSet<String>,
    /// Why it cannot be evaluated, and so denies everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl From<&Policy> for Shown {
    fn from(policy: &Policy) -> Self {
        Self {
            table: policy.table().to_owned(),
            policy: policy.verb(),
            expression: policy.text().to_owned(),
            reads: policy.reads().iter().map(|(table, _)| table.clone()).collect(),
            fault: policy.fault().map(str::to_owned),
        }
    }
}

/// Changes policies, all or none.
///
/// # Errors
/// [`PolicyError`] when one of them is refused or the file fails.
pub fn change_policies(file: impl Into<Located>, changes: &[Change<'_>]) -> Result<Changed, PolicyError> {
    let mut file = open(file)?;
    let (_, _, connection) = file.law.now()?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let changed: Result<Vec<_>, _> = changes.iter().map(|wanted| change(connection, wanted)).collect();
    connection.execute_batch(if changed.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    let set: Vec<_> = changed?.into_iter().flatten().collect();
    let synced = synced(&mut file)?;
    let (policies, _, connection) = file.law.now()?;
    let scene = Scene { connection, synced: &synced, policies };
    let warnings = of_policies(scene, &set.iter().collect::<Vec<_>>())?;
    let warnings = warnings.iter().map(Finding::to_line).collect();
    let tables: BTreeSet<_> = changes.iter().map(|change| change.table.to_ascii_lowercase()).collect();
    let now = tables.iter().flat_map(|table| policies.of_table(table)).map(Shown::from).collect();
    Ok(Changed { policies: now, warnings })
}

fn synced(file: &mut Wrapped) -> Result<Vec<String>, PolicyError> {
    let failed = |error: cloudsync_replica::Error| PolicyError::Store(error.into());
    if !file.replica.exists().map_err(failed)? {
        return Ok(Vec::new());
    }
    Ok(file.replica.schema().map_err(failed)?.tables.into_iter().map(|table| table.name).collect())
}

fn open(file: impl Into<Located>) -> Result<Wrapped, PolicyError> {
    Wrapped::open(&file.into()).map_err(PolicyError::Store)
}

/// The policies that hold, of all tables or one.
///
/// # Errors
/// [`PolicyError`] when the file cannot be read.
pub fn policies(file: impl Into<Located>, table: Option<&str>) -> Result<Vec<Shown>, PolicyError> {
    let mut file = open(file)?;
    let (policies, ..) = file.law.now()?;
    let is_wanted = |policy: &&Policy| table.is_none_or(|table| policy.table().eq_ignore_ascii_case(table));
    Ok(policies.iter().filter(is_wanted).map(Shown::from).collect())
}

/// Every change of policies, the latest first.
///
/// # Errors
/// [`PolicyError`] when the file cannot be read.
pub fn policy_history(file: impl Into<Located>, table: Option<&str>) -> Result<Vec<Entry>, PolicyError> {
    Ok(history(open(file)?.law.connection(), table)?)
}

/// Tries the policies of a table as a user.
///
/// # Errors
/// [`PolicyError`] when what is tried makes no sense, or the file cannot be read.
pub fn probe_policies(file: impl Into<Located>, wanted: &Probe<'_>) -> Result<Probed, PolicyError> {
    let mut file = open(file)?;
    let (policies, identity, connection) = file.law.now()?;
    // As for turns: foreign keys are not SQLite's to look at, least of all those of a twin.
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.execute_batch("BEGIN")?;
    let probed = probe(connection, policies, identity, wanted);
    connection.execute_batch("ROLLBACK")?;
    probed
}

/// What another SELECT policy of a table would change, for the users whose devices are known and those given.
///
/// # Errors
/// [`PolicyError`] when the expression is refused, or the file cannot be read.
pub fn plan_policy(
    file: impl Into<Located>,
    (table, text): (&str, Option<&str>),
    users: Vec<User>,
) -> Result<Plan, PolicyError> {
    let mut file = open(file)?;
    // A policy over claims is asked with those that are known of each user.
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for user in users {
        known.insert(user.id.clone(), Known { user, claims_known: true, devices: 0 });
    }
    let (policies, identity, connection) = file.law.now()?;
    for (id, devices) in devices(connection)? {
        let user = User { id: id.clone(), claims: serde_json::Map::new() };
        known.entry(id).or_insert(Known { user, claims_known: false, devices: 0 }).devices = devices;
    }
    let known: Vec<_> = known.into_values().collect();
    plan(connection, policies, identity, (table, text), &known)
}

/// Users and the number of their devices.
fn devices(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    // language=SQLite
    let exists = "SELECT count(*) FROM main.sqlite_master WHERE name = 'cloudsync_server_sites'";
    if connection.query_row(exists, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    // language=SQLite
    let sql = "SELECT user, count(*) FROM main.cloudsync_server_sites WHERE user IS NOT NULL GROUP BY user";
    let mut select = connection.prepare(sql)?;
    let users = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
    users.collect()
}
