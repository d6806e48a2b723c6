//! What is stored of the sites that upload, and by which a request is judged.

use crate::ledger::{self, inner_position};
use crate::store::{Asker, StoreError};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::{Request, RoundId};
use cloudsync_protocol::server::{Knowledge, SiteRecord};
use cloudsync_replica::{Judgement, Position, Replica};
use cloudsync_sqlite_ffi::{Connection, Error, Value};

/// Reads what a request is judged by.
pub(super) fn knowledge(db: &Connection, request: &Request<'_>) -> Result<Knowledge, StoreError> {
    // language=SQLite
    let sql = "SELECT value FROM main.cloudsync_settings WHERE key = 'epoch'";
    let epoch = db.query_i64(sql, &[])?.unwrap_or(0) as u64;
    Ok(Knowledge {
        epoch,
        record: record(db, request.site)?,
        gave_cursor: gave_cursor(db, request)?,
        went_back: request.pull && ledger::has_gone_on(db, request.site, request.cursor)?,
    })
}

/// Folds what was written to the file by hand. Rows that went with a dropped table are taken as lost, not as deleted:
/// a new epoch makes every device send what it holds, as after a backup was restored.
pub(super) fn fold(replica: &mut Replica) -> Result<(), cloudsync_replica::Error> {
    replica.fold_here()?;
    if replica.state_number("lost_rows")?.unwrap_or(0) == 0 {
        return Ok(());
    }
    replica.set_state_number("lost_rows", 0)?;
    let epoch = replica.state_number("epoch")?.unwrap_or(0) as u64;
    replica.set_state_number("epoch", replica.now().max(epoch + 1))
}

fn record(db: &Connection, site: SiteId) -> Result<Option<SiteRecord>, Error> {
    // language=SQLite
    let sql = "SELECT nonce, round FROM main.cloudsync_server_sites WHERE site_id = ?1";
    db.query_row(sql, &[Value::Blob(&site.0)], |row| {
        let bytes = row.column(1).as_blob().unwrap_or_default();
        let (round, content) =
            bytes.split_first_chunk().map_or((None, bytes), |(id, rest)| (Some(RoundId(*id)), rest));
        let content = content.first_chunk().map(|content| u64::from_le_bytes(*content));
        Ok(SiteRecord { nonce: row.column_i64(0) as u64, round, content })
    })
}

/// Whether this server can have given the cursor and the position. Of a position in the list only the place is known,
/// which a restored server may have filled anew; the cursor of that device is then the better witness.
fn gave_cursor(db: &Connection, request: &Request<'_>) -> Result<bool, StoreError> {
    let gave_position = match inner_position(db, request)?.as_ref().map(Position::place) {
        Some(Position::Scan { head, .. }) => gave_version(db, *head)?,
        Some(Position::List { after, .. }) => {
            // language=SQLite
            let sql = "SELECT 1 FROM main.cloudsync_entries WHERE id = ?1 \
                       UNION ALL SELECT 1 FROM main.cloudsync_settings WHERE key = 'compacted_entry' AND value >= ?1";
            *after == 0 || db.query_i64(sql, &[Value::Integer(*after)])?.is_some()
        }
        Some(Position::Inside(_)) | None => true,
    };
    Ok(gave_position && gave_version(db, request.cursor)?)
}

/// Whether the number is that of a version, or may be that of one which compaction has forgotten; 0 stands for none, and
/// 1 for that of an empty server.
fn gave_version(db: &Connection, version: u64) -> Result<bool, Error> {
    if version <= 1 {
        return Ok(true);
    }
    // language=SQLite
    let sql = "SELECT 1 FROM main.cloudsync_versions WHERE version = ?1 \
               UNION ALL SELECT 1 FROM main.cloudsync_settings WHERE key = 'forgotten_version' AND value >= ?1";
    let Ok(version) = i64::try_from(version) else { return Ok(false) };
    Ok(db.query_i64(sql, &[Value::Integer(version)])?.is_some())
}

/// True for a version that no site brought.
pub(super) fn is_own(db: &Connection, version: u64) -> Result<bool, Error> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.cloudsync_versions WHERE version = ?1 AND origin < 0";
    Ok(db.query_i64(sql, &[Value::Integer(version as i64)])?.is_some())
}

/// Adds what files of earlier versions do not have.
pub(super) fn add_user(db: &Connection) -> Result<(), Error> {
    // language=SQLite
    let has = "SELECT 1 FROM pragma_table_info('cloudsync_server_sites') WHERE name = 'user'";
    if db.query_i64(has, &[])?.is_some() {
        return Ok(());
    }
    db.execute("ALTER TABLE main.cloudsync_server_sites ADD COLUMN user TEXT")
}

/// Whether a site asks as the same user as before. A site that is not known is nobody's yet.
///
/// Only logging out makes a device another user's: it takes a new site id then. Until that nothing of the request is
/// looked at, because it may hold what the other one wrote.
pub(super) fn is_same_user(db: &Connection, site: SiteId, asker: &Asker) -> Result<bool, Error> {
    // language=SQLite
    let sql = "SELECT user FROM main.cloudsync_server_sites WHERE site_id = ?1";
    let same =
        db.query_row(sql, &[Value::Blob(&site.0)], |row| Ok(row.column(0).as_str() == asker.user_id()))?;
    Ok(same.unwrap_or(true))
}

/// Stores whose a site is, before it has sent anything. Of sites that only read with a key nothing is stored.
pub(super) fn bind(db: &Connection, site: SiteId, asker: &Asker, now_ms: u64) -> Result<(), Error> {
    let (record, judgement) = (SiteRecord { nonce: 0, round: None, content: None }, Judgement::default());
    write_record(db, site, asker, record, &judgement, now_ms)
}

/// Stores that a round is committed, and what its device is told of it.
pub(super) fn write_record(
    db: &Connection,
    site: SiteId,
    asker: &Asker,
    record: SiteRecord,
    judgement: &Judgement,
    now_ms: u64,
) -> Result<(), Error> {
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_server_sites(site_id, nonce, round, quarantined, seen_at, user) VALUES(?1, ?2, ?3, ?4, ?5, ?6) \
               ON CONFLICT(site_id) DO UPDATE SET nonce = ?2, round = ?3, quarantined = ?4, seen_at = ?5";
    let mut round = record.round.map_or([0; 8], |round| round.0).to_vec();
    round.extend(record.content.iter().flat_map(|content| content.to_le_bytes()));
    let site = Value::Blob(&site.0);
    let values = [
        site,
        Value::Integer(record.nonce as i64),
        Value::Blob(&round),
        Value::Integer(judgement.waiting as i64),
        Value::Integer(now_ms as i64),
        asker.user_id().map_or(Value::Null, Value::from),
    ];
    db.prepare(sql)?.run(&values)?;
    if judgement.verdicts.is_empty() {
        return db.prepare("DELETE FROM main.cloudsync_server_verdicts WHERE site_id = ?1")?.run(&[site]);
    }
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_server_verdicts(site_id, verdicts) VALUES(?1, ?2) \
               ON CONFLICT(site_id) DO UPDATE SET verdicts = ?2";
    db.prepare(sql)?.run(&[site, Value::Blob(&judgement.verdicts)])
}

/// What the site was told of its last committed round.
pub(super) fn judgement(db: &Connection, site: SiteId) -> Result<Judgement, Error> {
    let site = [Value::Blob(&site.0)];
    // language=SQLite
    let waiting = "SELECT quarantined FROM main.cloudsync_server_sites WHERE site_id = ?1";
    // language=SQLite
    let verdicts = "SELECT verdicts FROM main.cloudsync_server_verdicts WHERE site_id = ?1";
    Ok(Judgement {
        waiting: db.query_i64(waiting, &site)?.unwrap_or(0) as u64,
        verdicts: db.query_blob(verdicts, &site)?.unwrap_or_default(),
        ..Judgement::default()
    })
}
