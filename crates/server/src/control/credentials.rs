//! What keys and tokens have in common: both are found by their hash, used, named by people, and revoked.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{BUSY_MS, Control};
use crate::auth::credential::{Credential, Hash};
use crate::error::{Error, Result};

/// How old the time of last use may become before it is written again. Each write is an `fsync`, and a poll that
/// finds nothing must not cause one.
const LAST_USED_STALE_MS: u64 = 3_600_000;

/// Which of the two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    Keys,
    Tokens,
}

impl Table {
    const fn use_sql(self) -> &'static str {
        match self {
            Self::Keys => "UPDATE keys SET last_used_ms = ?2 WHERE id = ?1",
            Self::Tokens => "UPDATE tokens SET last_used_ms = ?2 WHERE id = ?1",
        }
    }

    const fn revoke_sql(self) -> &'static str {
        match self {
            Self::Keys => "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1",
            Self::Tokens => "UPDATE tokens SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1",
        }
    }
}

/// The columns with which every query for a credential begins: `hash, id, last_used_ms, expires_ms`.
pub(super) struct Found<T> {
    pub(super) id: i64,
    pub(super) expires_ms: Option<u64>,
    pub(super) rest: T,
}

impl Control {
    /// The row of a credential that is neither revoked nor over, by a query that begins with the columns of [`Found`];
    /// notes that it was used.
    pub(super) fn find<T>(
        &self,
        table: Table,
        sql: &str,
        hash: Hash,
        now_ms: u64,
        rest: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<Found<T>>> {
        let connection = self.lock();
        let row = connection.prepare_cached(sql).and_then(|mut statement| {
            let row = statement.query_row([hash.0], |row| {
                let (stored, id): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
                let (last_used_ms, expires_ms): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
                let expires_ms = expires_ms.map(|ms| ms.max(0).cast_unsigned());
                Ok((stored, last_used_ms, Found { id, expires_ms, rest: rest(row)? }))
            });
            row.optional()
        });
        let Some((stored, last_used_ms, found)) = row.map_err(|source| self.fail(source))? else {
            return Ok(None);
        };
        if !hash.is(&stored) {
            return Ok(None);
        }
        if found.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms) {
            cloudsync_core::reached!("server: a key or token that is over comes");
            return Ok(None);
        }
        let age_ms = now_ms.saturating_sub(last_used_ms.unwrap_or(0).max(0).cast_unsigned());
        if last_used_ms.is_none() || age_ms >= LAST_USED_STALE_MS {
            note_use(&connection, table, found.id, now_ms);
        }
        Ok(Some(found))
    }

    /// Revokes the credential of this id, of this whole text or with this beginning, and gives its id. Revoking again
    /// is no error.
    pub(super) fn revoke(
        &self,
        table: Table,
        which: &str,
        all: impl IntoIterator<Item = (i64, String)>,
        now_ms: u64,
    ) -> Result<i64> {
        let whole = Credential::parse(which);
        let start = whole.as_ref().map_or(which, Credential::prefix);
        let fits = |(id, prefix): &(i64, String)| match which.parse::<i64>() {
            Ok(named) => *id == named,
            Err(_) => which.starts_with("cs") && which.contains('_') && prefix.starts_with(start),
        };
        let mut found = all.into_iter().filter(fits);
        let (id, _) = found.next().ok_or_else(|| Error::NoCredential(start.to_owned()))?;
        if found.next().is_some() {
            return Err(Error::AmbiguousCredential(start.to_owned()));
        }
        self.with(|connection| connection.execute(table.revoke_sql(), params![id, now_ms.cast_signed()]))?;
        Ok(id)
    }
}

/// Notes that a credential was used, unless another process writes just then: the request must not wait for a statistic.
fn note_use(connection: &Connection, table: Table, id: i64, now_ms: u64) {
    let noted = connection
        .busy_timeout(Duration::ZERO)
        .and_then(|()| connection.execute(table.use_sql(), params![id, now_ms.cast_signed()]));
    if let Err(error) = noted.and(connection.busy_timeout(Duration::from_millis(BUSY_MS))) {
        tracing::debug!(?table, id, %error, "the time of last use was not noted");
    }
}
