//! The policies of a database, for commands. A server that has the file open obeys a change at its next turn.

use super::connection::Wrapped;
use crate::auth::User;
use crate::policy::{Change, Policy, PolicyError, change};
use crate::store::StoreError;
use cloudsync_replica::quote_identifier;
use std::path::Path;

/// The rows of a table that a user sees.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Visible {
    /// How many there are.
    pub rows: u64,
    /// All rows of the table.
    pub of: u64,
}

/// Changes policies, all or none. Gives the policies that were set.
///
/// # Errors
/// [`PolicyError`] when one of them is refused, or the file cannot be written.
pub fn change_policies(
    path: &Path,
    changes: &[Change<'_>],
) -> Result<Result<Vec<Policy>, PolicyError>, StoreError> {
    let mut file = Wrapped::open(path)?;
    let (_, _, connection) = file.policies()?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let changed: Result<Vec<_>, _> = changes.iter().map(|wanted| change(connection, wanted)).collect();
    connection.execute_batch(if changed.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    Ok(changed.map(|policies| policies.into_iter().flatten().collect()))
}

/// The policies that hold.
///
/// # Errors
/// [`StoreError`] when the file cannot be read.
pub fn policies(path: &Path) -> Result<Vec<Policy>, StoreError> {
    Ok(Wrapped::open(path)?.policies()?.0.iter().cloned().collect())
}

/// Counts the rows of a table that a user sees.
///
/// # Errors
/// [`StoreError`] when the file cannot be read, or the policy cannot be evaluated.
pub fn visible(path: &Path, table: &str, user: &User) -> Result<Visible, StoreError> {
    let mut file = Wrapped::open(path)?;
    let (policies, identity, connection) = file.policies()?;
    let condition = policies.select_of(table).map_or("0", Policy::condition);
    let table = quote_identifier(table);
    let sql =
        format!("SELECT count(*), (SELECT count(*) FROM main.{table}) FROM main.{table} WHERE {condition}");
    let _assumed = identity.assume(user);
    Ok(connection.query_row(&sql, [], |row| {
        Ok(Visible { rows: row.get::<_, i64>(0)? as u64, of: row.get::<_, i64>(1)? as u64 })
    })?)
}
