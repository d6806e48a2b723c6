//! Chunks of rounds that are not complete. A site has one round at a time, so what it may leave here is one round: at
//! most `UPLOAD_CHUNKS_MAX` chunks and `STAGED_SITE_BYTES_MAX` bytes; of all sites together `STAGED_BYTES_MAX`. A round whose last chunk came more than `STAGED_MS_MAX` ago is forgotten when any
//! other round is committed; its device is told of lost chunks and begins it again.

use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::{STAGED_BYTES_MAX, STAGED_MS_MAX, STAGED_SITE_BYTES_MAX};
use cloudsync_protocol::message::{RoundId, Upload};
use cloudsync_replica::Error;
use cloudsync_sqlite_ffi::{Connection, Value};

/// Keeps a chunk, in the place of those that it makes void: of other rounds, and behind it.
pub(super) fn keep(db: &Connection, site: SiteId, upload: &Upload<'_>, now_ms: u64) -> Result<(), Error> {
    cloudsync_core::reached!("server: a chunk is staged");
    let (site, round) = (Value::Blob(&site.0), Value::Blob(&upload.round.0));
    let chunk = Value::Integer(i64::from(upload.chunk));
    // language=SQLite
    let void =
        "DELETE FROM main.cloudsync_server_staging WHERE site_id = ?1 AND (round <> ?2 OR chunk >= ?3)";
    db.prepare(void)?.run(&[site, round, chunk])?;
    require_room(db, site, upload.payload.len(), [STAGED_SITE_BYTES_MAX, STAGED_BYTES_MAX])?;
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_server_staging(site_id, round, chunk, staged_at, payload) VALUES(?1, ?2, ?3, ?4, ?5)";
    let values = [site, round, chunk, Value::Integer(now_ms as i64), Value::Blob(upload.payload)];
    Ok(db.prepare(sql)?.run(&values)?)
}

/// Refuses a chunk that makes a site's round too large, and puts off one for which all sites together leave no room:
/// that will be there when their rounds end.
fn require_room(
    db: &Connection,
    site: Value<'_>,
    bytes: usize,
    [site_max, all_max]: [u64; 2],
) -> Result<(), Error> {
    // The length of a BLOB is known without reading it.
    // language=SQLite
    let sql =
        "SELECT sum(length(payload)) FROM main.cloudsync_server_staging WHERE ?1 IS NULL OR site_id = ?1";
    let staged =
        |site| Ok::<_, Error>(db.query_i64(sql, &[site])?.unwrap_or(0).unsigned_abs() + bytes as u64);
    if staged(site)? > site_max {
        return Err(Error::Limit(format!("a round of more than {site_max} bytes cannot be taken")));
    }
    if staged(Value::Null)? > all_max {
        return Err(Error::Busy(format!("{all_max} bytes of unfinished uploads wait on the server")));
    }
    Ok(())
}

/// The payload of a chunk, if it is here.
pub(super) fn payload(
    db: &Connection,
    site: SiteId,
    round: RoundId,
    chunk: u32,
) -> Result<Option<Vec<u8>>, Error> {
    // language=SQLite
    let sql =
        "SELECT payload FROM main.cloudsync_server_staging WHERE site_id = ?1 AND round = ?2 AND chunk = ?3";
    let key = [Value::Blob(&site.0), Value::Blob(&round.0), Value::Integer(i64::from(chunk))];
    Ok(db.query_blob(sql, &key)?)
}

/// Forgets what a site staged, once its round is committed.
pub(super) fn forget(db: &Connection, site: SiteId) -> Result<(), Error> {
    // language=SQLite
    let sql = "DELETE FROM main.cloudsync_server_staging WHERE site_id = ?1";
    Ok(db.prepare(sql)?.run(&[Value::Blob(&site.0)])?)
}

/// Forgets rounds that nobody goes on with.
pub(super) fn forget_abandoned(db: &Connection, now_ms: u64) -> Result<(), Error> {
    // language=SQLite
    let sql = "DELETE FROM main.cloudsync_server_staging WHERE site_id IN \
               (SELECT site_id FROM main.cloudsync_server_staging GROUP BY site_id HAVING max(staged_at) < ?1)";
    Ok(db.prepare(sql)?.run(&[Value::Integer(now_ms.saturating_sub(STAGED_MS_MAX) as i64)])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_staged_is_bounded_for_each_site_and_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let located = super::super::Located::here(&folder.path().join("store.db"));
        let file = super::super::connection::Wrapped::open(&located).unwrap();
        let db = &file.db;
        db.execute(super::super::CREATE).unwrap();
        // language=SQLite
        let sql = "INSERT INTO cloudsync_server_staging VALUES(x'01', x'00', 0, 0, zeroblob(100)),
                   (x'01', x'00', 1, 0, zeroblob(100)), (x'02', x'00', 0, 0, zeroblob(100))";
        db.execute(sql).unwrap();
        let room = |site: &[u8], bytes| require_room(db, Value::Blob(site), bytes, [250, 400]);
        assert!(room(&[1], 50).is_ok());
        assert!(matches!(room(&[1], 51), Err(Error::Limit(_))));
        assert!(room(&[3], 100).is_ok());
        assert!(matches!(room(&[3], 101), Err(error) if error.can_retry()));
    }
}
