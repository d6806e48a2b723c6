//! What a change of a SELECT policy would do, before it is made.

use rusqlite::Connection;
use serde::Serialize;

use cloudsync_replica::quote_identifier;

use super::{Identity, Policies, Policy, PolicyError, Verb, compile};
use crate::auth::User;

/// Users that are looked at, at most.
pub const PLANNED_USERS_MAX: usize = 1_000;

/// A user of the database, as far as they are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Who.
    pub user: User,
    /// False if their claims are not known here: they came with signed tokens.
    pub claims_known: bool,
    /// Their devices.
    pub devices: u64,
}

/// What would change for one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shift {
    /// The user's id.
    pub user: String,
    /// Devices that would be told.
    pub devices: u64,
    /// Rows that they would come to see.
    pub gains: u64,
    /// Rows that they would see no more.
    pub loses: u64,
    /// Whether their claims are known here; if not, they are taken to have none.
    pub claims_known: bool,
}

/// What would change for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Users for whom anything changes.
    pub users: u64,
    /// Their devices.
    pub devices: u64,
    /// Rows that come to be seen, of all users together.
    pub gains: u64,
    /// Rows that are seen no more.
    pub loses: u64,
    /// Users that were looked at.
    pub looked_at: u64,
    /// True if there are more users than were looked at.
    pub more_users: bool,
    /// Each of them, those with most rows first.
    pub shifts: Vec<Shift>,
}

/// Compares the SELECT policy of a table with another one; `None` takes it away.
///
/// # Errors
/// [`PolicyError`] when the expression is refused, cannot be evaluated, or SQLite fails.
pub fn plan(
    connection: &mut Connection,
    policies: &Policies,
    identity: &Identity,
    (table, text): (&str, Option<&str>),
    known: &[Known],
) -> Result<Plan, PolicyError> {
    let wanted = text.map(|text| compile::compile(connection, table, Verb::Select, text)).transpose()?;
    if let Some(why) = wanted.as_ref().and_then(Policy::fault) {
        return Err(PolicyError::Refused {
            table: table.to_owned(),
            verb: Verb::Select,
            why: why.to_owned(),
        });
    }
    let before = policies.select_of(table).map_or("0", Policy::condition);
    let after = wanted.as_ref().map_or("0", Policy::condition);
    let sql = format!(
        "SELECT count(*) FILTER (WHERE after AND NOT before), count(*) FILTER (WHERE before AND NOT after) \
         FROM (SELECT {before} IS TRUE AS before, {after} IS TRUE AS after FROM main.{})",
        quote_identifier(table)
    );
    let mut count = connection.prepare(&sql)?;
    let mut shifts = Vec::new();
    for Known { user, claims_known, devices } in known.iter().take(PLANNED_USERS_MAX) {
        let _assumed = identity.assume(user);
        let (gains, loses) =
            count.query_row([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))?;
        if gains + loses > 0 {
            let (claims_known, devices) = (*claims_known, *devices);
            shifts.push(Shift { user: user.id.clone(), devices, gains, loses, claims_known });
        }
    }
    shifts.sort_by_key(|shift| std::cmp::Reverse(shift.gains + shift.loses));
    let sum = |of: fn(&Shift) -> u64| shifts.iter().map(of).sum();
    Ok(Plan {
        users: shifts.len() as u64,
        devices: sum(|shift| shift.devices),
        gains: sum(|shift| shift.gains),
        loses: sum(|shift| shift.loses),
        looked_at: known.len().min(PLANNED_USERS_MAX) as u64,
        more_users: known.len() > PLANNED_USERS_MAX,
        shifts,
    })
}
