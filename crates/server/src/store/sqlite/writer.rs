//! The one thread that writes a database: it takes in uploads and folds what others wrote.
//!
//! Turns that arrive while it commits wait in a queue and are taken together in the next transaction, each in a
//! savepoint of its own. Nobody is answered before that transaction is on disk.

use super::connection::Wrapped;
use super::{CREATE, refusal, schema};
use crate::store::{Rights, StoreError};
use cloudsync_core::clock::Time;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::{CLOCK_AHEAD_MS_MAX, UPLOAD_CHUNKS_MAX};
use cloudsync_protocol::message::{Accepted, Reason, Refusal, Request, RoundId, Upload};
use cloudsync_protocol::payload::Opened;
use cloudsync_protocol::server::{SiteRecord, Standing, is_skewed, standing};
use cloudsync_replica::{Error, Origin, Source, Zstd};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Turns that are taken in one transaction at most.
const GROUP_TURNS_MAX: usize = 64;

/// What became of a turn in the writer.
pub(super) enum Outcome {
    /// It changed nothing.
    Refused(Refusal),
    /// It is on disk.
    Taken(Taken),
}

/// A turn that was taken.
pub(super) struct Taken {
    pub(super) epoch: u64,
    pub(super) nonce: u64,
    pub(super) accepted: Option<Accepted>,
}

enum Job {
    Turn {
        request: Vec<u8>,
        rights: Rights,
        now_ms: u64,
        reply: Sender<Result<Outcome, StoreError>>,
    },
    Fold {
        reply: Sender<Result<(), StoreError>>,
    },
    #[cfg(test)]
    Panic,
}

/// The handle of the thread; the thread ends when it is dropped.
pub(super) struct Writer {
    jobs: Sender<Job>,
}

impl Writer {
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let (opened, outcome) = channel();
        let path = path.to_owned();
        let name = format!("writer {}", path.file_stem().unwrap_or_default().to_string_lossy());
        thread::Builder::new()
            .name(name)
            .spawn(move || {
                let mut file = match open(&path) {
                    Ok(file) => file,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                // The opener may have given up; then there are no jobs either.
                drop(opened.send(Ok(())));
                // A panic costs the turns of its group: their transaction is undone when the file is closed.
                while catch_unwind(AssertUnwindSafe(|| run(file, &queue))).is_err() {
                    file = match open(&path) {
                        Ok(file) => file,
                        Err(_) => return,
                    };
                }
            })
            .map_err(|error| StoreError::Failed(format!("cannot start a thread: {error}")))?;
        outcome.recv().map_err(|_| gone())??;
        Ok(Self { jobs })
    }

    /// Takes a turn; returns when it is on disk.
    pub(super) fn turn(&self, request: Vec<u8>, rights: Rights, now_ms: u64) -> Result<Outcome, StoreError> {
        let (reply, outcome) = channel();
        self.jobs.send(Job::Turn { request, rights, now_ms, reply }).map_err(|_| gone())?;
        outcome.recv().map_err(|_| broken_off())?
    }

    /// Folds what other processes wrote.
    pub(super) fn fold(&self) -> Result<(), StoreError> {
        let (reply, outcome) = channel();
        self.jobs.send(Job::Fold { reply }).map_err(|_| gone())?;
        outcome.recv().map_err(|_| broken_off())?
    }
}

fn gone() -> StoreError {
    StoreError::Failed("the writer of the database has stopped; restart the server".to_owned())
}

fn broken_off() -> StoreError {
    StoreError::Failed("the turn was broken off by a mistake in the server; its log has more".to_owned())
}

fn open(path: &Path) -> Result<Wrapped, StoreError> {
    let mut file = Wrapped::open(path)?;
    file.replica.create()?;
    file.replica.transact(|replica| {
        let db = replica.connection();
        db.execute(CREATE)?;
        replica.give_ordinals()?;
        if replica.state_number("epoch")?.is_none() {
            replica.set_state_number("epoch", replica.now())?;
        }
        Ok(())
    })?;
    file.set_impatient()?;
    Ok(file)
}

fn run(mut file: Wrapped, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        jobs.extend(queue.try_iter().take(GROUP_TURNS_MAX - 1));
        let mut outcomes = Vec::with_capacity(jobs.len());
        let committed = file.replica.with_apply_settings(|replica| {
            replica.transact(|replica| {
                replica.fold_here()?;
                for job in &jobs {
                    outcomes.push(match job {
                        Job::Turn { request, rights, now_ms, .. } => {
                            Some(turn(replica, request, *rights, *now_ms))
                        }
                        Job::Fold { .. } => None,
                        #[cfg(test)]
                        Job::Panic => panic!("as the test wants"),
                    });
                }
                Ok(())
            })
        });
        reply(jobs, outcomes, committed.err().as_ref());
    }
}

fn reply(jobs: Vec<Job>, outcomes: Vec<Option<Result<Outcome, StoreError>>>, failure: Option<&Error>) {
    let mut outcomes = outcomes.into_iter();
    for job in jobs {
        let outcome = outcomes.next().flatten();
        let failed = || {
            let text = |error| format!("nothing was stored: {error}");
            failure
                .map(|e| if e.can_retry() { StoreError::Busy(text(e)) } else { StoreError::Failed(text(e)) })
        };
        // Whoever has stopped waiting for the answer asks again.
        match job {
            Job::Turn { reply, .. } => {
                let outcome = failed().map(Err).or(outcome).unwrap_or_else(|| Err(gone()));
                let _ = reply.send(outcome);
            }
            Job::Fold { reply } => {
                let _ = reply.send(failed().map_or(Ok(()), Err));
            }
            #[cfg(test)]
            Job::Panic => {}
        }
    }
}

type Replica = cloudsync_replica::Replica;

/// Takes one turn in a savepoint of its own.
fn turn(replica: &mut Replica, request: &[u8], rights: Rights, now_ms: u64) -> Result<Outcome, StoreError> {
    let request = Request::decode(request).map_err(|error| StoreError::Failed(error.to_string()))?;
    let epoch = epoch(&replica.connection())?;
    let record = read_record(&replica.connection(), request.site)?;
    let mut refused = None;
    let taken = replica.transact(|replica| {
        take(replica, &request, record, epoch, rights, now_ms).map_err(|stop| match stop {
            Stop::Refused(refusal) => {
                refused = Some(refusal);
                // Undoes the savepoint; the text is not used.
                Error::State(String::new())
            }
            Stop::Failed(error) => error,
        })
    });
    match (taken, refused) {
        (Ok(taken), _) => Ok(Outcome::Taken(taken)),
        (Err(_), Some(mut refusal)) => {
            if refusal.reason == Reason::Restored && request.epoch == epoch {
                // This server lost turns that a device remembers: every device must bring what it holds.
                let next = replica.transact(|replica| {
                    let next = now_ms.max(epoch + 1);
                    replica.set_state_number("epoch", next)?;
                    Ok(next)
                })?;
                refusal.epoch = next;
            } else {
                refusal.epoch = epoch;
            }
            refusal.nonce = record.map_or(0, |record| record.nonce);
            refusal.now = now_ms;
            Ok(Outcome::Refused(refusal))
        }
        (Err(error), None) => Err(error.into()),
    }
}

/// Why a turn is not taken.
enum Stop {
    Refused(Refusal),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match &error {
            // The device's fault, not ours.
            Error::Payload(_) | Error::Protocol(_) => {
                Self::Refused(refusal(Reason::BadPayload, error.to_string()))
            }
            _ => Self::Failed(error),
        }
    }
}

impl From<cloudsync_sqlite_ffi::Error> for Stop {
    fn from(error: cloudsync_sqlite_ffi::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn refuse<T>(reason: Reason, text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(refusal(reason, text)))
}

fn take(
    replica: &mut Replica,
    request: &Request<'_>,
    record: Option<SiteRecord>,
    epoch: u64,
    rights: Rights,
    now_ms: u64,
) -> Result<Taken, Stop> {
    if is_skewed(request, now_ms) {
        return refuse(Reason::ClockSkew, "the clocks of device and server are too far apart");
    }
    match standing(record.as_ref(), epoch, request) {
        Standing::New | Standing::Current => {}
        Standing::Repeated => return repeated(replica, request, record, epoch),
        Standing::Clone => return refuse(Reason::Clone, "a copy of this file has synced under its site id"),
        Standing::Restored => {
            return refuse(Reason::Restored, "the server does not know what this device has sent");
        }
    }
    let nonce = record.map_or(0, |record| record.nonce);
    if let Some(device) = &request.schema {
        schema::adopt(replica, device, rights).map_err(schema_stop)?;
        remember_schema(replica, request.fingerprint)?;
    } else if !schema_fits_replica(replica, request.fingerprint)? {
        return refuse(Reason::NeedSchema, "the server does not know this schema");
    }
    let Some(upload) = &request.upload else { return Ok(Taken { epoch, nonce, accepted: None }) };
    if !rights.write {
        return refuse(Reason::Denied, "this key may read and not write");
    }
    if !upload.is_final {
        stage(&replica.connection(), request.site, upload)?;
        let accepted = Accepted { round: upload.round, committed: false, quarantined: 0 };
        return Ok(Taken { epoch, nonce, accepted: Some(accepted) });
    }
    let quarantined = commit(replica, request.site, upload, now_ms)?;
    let record = SiteRecord { nonce: nonce + 1, round: Some(upload.round) };
    write_record(&replica.connection(), request.site, record, quarantined, now_ms)?;
    let accepted = Accepted { round: upload.round, committed: true, quarantined };
    Ok(Taken { epoch, nonce: record.nonce, accepted: Some(accepted) })
}

fn schema_stop(stop: schema::Stop) -> Stop {
    match stop {
        schema::Stop::Conflict(text) => Stop::Refused(refusal(Reason::SchemaConflict, text)),
        schema::Stop::Denied(text) => Stop::Refused(refusal(Reason::Denied, text)),
        schema::Stop::Failed(error) => Stop::Failed(error),
    }
}

/// The answer that the round got when it was committed.
fn repeated(
    replica: &Replica,
    request: &Request<'_>,
    record: Option<SiteRecord>,
    epoch: u64,
) -> Result<Taken, Stop> {
    let sql = "SELECT quarantined FROM main.cloudsync_server_sites WHERE site_id = ?1";
    let quarantined =
        replica.connection().query_i64(sql, &[Value::Blob(&request.site.0)])?.unwrap_or(0) as u64;
    let accepted =
        request.upload.as_ref().map(|upload| Accepted { round: upload.round, committed: true, quarantined });
    Ok(Taken { epoch, nonce: record.map_or(0, |record| record.nonce), accepted })
}

/// Keeps a chunk until its round is complete. A site has one round at a time.
fn stage(db: &Connection, site: SiteId, upload: &Upload<'_>) -> Result<(), Stop> {
    if upload.chunk >= UPLOAD_CHUNKS_MAX {
        return refuse(Reason::BadPayload, format!("a round has {UPLOAD_CHUNKS_MAX} chunks at most"));
    }
    // Damage is found now, while the device can send the chunk again, and not at the end of the round.
    Opened::open(upload.payload, &Zstd).map_err(Error::from)?;
    let (site, round) = (Value::Blob(&site.0), Value::Blob(&upload.round.0));
    let old = "DELETE FROM main.cloudsync_server_staging WHERE site_id = ?1 AND (round <> ?2 OR chunk >= ?3)";
    db.prepare(old)?.run(&[site, round, Value::Integer(i64::from(upload.chunk))])?;
    let sql =
        "INSERT INTO main.cloudsync_server_staging(site_id, round, chunk, payload) VALUES(?1, ?2, ?3, ?4)";
    db.prepare(sql)?.run(&[
        site,
        round,
        Value::Integer(i64::from(upload.chunk)),
        Value::Blob(upload.payload),
    ])?;
    Ok(())
}

/// Applies the staged chunks of a round and its last one. Gives the rows that wait in the quarantine.
fn commit(replica: &mut Replica, site: SiteId, upload: &Upload<'_>, now_ms: u64) -> Result<u64, Stop> {
    let mut quarantined = 0;
    let db = replica.connection();
    for chunk in 0..upload.chunk {
        let sql = "SELECT payload FROM main.cloudsync_server_staging WHERE site_id = ?1 AND round = ?2 AND chunk = ?3";
        let key = [Value::Blob(&site.0), Value::Blob(&upload.round.0), Value::Integer(i64::from(chunk))];
        let Some(payload) = db.query_blob(sql, &key)? else {
            return refuse(Reason::LostChunks, format!("chunk {chunk} of the round is missing"));
        };
        quarantined += apply(replica, site, &payload, upload.base, now_ms)?;
    }
    if !upload.payload.is_empty() {
        quarantined += apply(replica, site, upload.payload, upload.base, now_ms)?;
    }
    let sql = "DELETE FROM main.cloudsync_server_staging WHERE site_id = ?1";
    db.prepare(sql)?.run(&[Value::Blob(&site.0)])?;
    Ok(quarantined)
}

fn apply(replica: &mut Replica, site: SiteId, payload: &[u8], base: u64, now_ms: u64) -> Result<u64, Stop> {
    let opened = Opened::open(payload, &Zstd).map_err(Error::from)?;
    let payload = opened.payload().map_err(Error::from)?;
    if let Some(unknown) = replica.unknown_name(&payload)? {
        return refuse(Reason::NeedSchema, format!("{unknown} does not sync on the server"));
    }
    let source = Source {
        origin: Origin::Site(replica.meet_site(site)?),
        time_max: Some(Time(now_ms.saturating_add(CLOCK_AHEAD_MS_MAX))),
        base,
    };
    Ok(replica.apply_in_transaction(&[payload], source)?.quarantined)
}

/// The server's epoch: it changes when the server finds that it was restored from a backup.
pub(super) fn epoch(db: &Connection) -> Result<u64, StoreError> {
    // language=SQLite
    let sql = "SELECT value FROM main.cloudsync_settings WHERE key = 'epoch'";
    Ok(db.query_i64(sql, &[])?.unwrap_or(0) as u64)
}

pub(super) fn read_record(db: &Connection, site: SiteId) -> Result<Option<SiteRecord>, StoreError> {
    let sql = "SELECT nonce, round FROM main.cloudsync_server_sites WHERE site_id = ?1";
    Ok(db.query_row(sql, &[Value::Blob(&site.0)], |row| -> Result<_, cloudsync_sqlite_ffi::Error> {
        let round = row.column(1).as_blob().and_then(|bytes| bytes.try_into().ok()).map(RoundId);
        Ok(SiteRecord { nonce: row.column_i64(0) as u64, round })
    })?)
}

fn write_record(
    db: &Connection,
    site: SiteId,
    record: SiteRecord,
    quarantined: u64,
    now_ms: u64,
) -> Result<(), Stop> {
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_server_sites(site_id, nonce, round, quarantined, seen_at) VALUES(?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT(site_id) DO UPDATE SET nonce = ?2, round = ?3, quarantined = ?4, seen_at = ?5";
    let round = record.round.map_or([0; 8], |round| round.0);
    let values = [
        Value::Blob(&site.0),
        Value::Integer(record.nonce as i64),
        Value::Blob(&round),
        Value::Integer(quarantined as i64),
        Value::Integer(now_ms as i64),
    ];
    Ok(db.prepare(sql)?.run(&values)?)
}

/// Whether a device's schema was found to fit the present one of the server.
pub(super) fn schema_fits(file: &mut Wrapped, device: u64) -> Result<bool, StoreError> {
    Ok(schema_fits_replica(&mut file.replica, device)?)
}

fn schema_fits_replica(replica: &mut Replica, device: u64) -> Result<bool, Error> {
    let server = replica.schema()?.fingerprint();
    let sql = "SELECT 1 FROM main.cloudsync_server_schemas WHERE device = ?1 AND server = ?2";
    let known = replica
        .connection()
        .query_i64(sql, &[Value::Integer(device as i64), Value::Integer(server as i64)])?;
    Ok(known.is_some())
}

fn remember_schema(replica: &mut Replica, device: u64) -> Result<(), Stop> {
    let server = replica.schema()?.fingerprint();
    let db = replica.connection();
    let pair = [Value::Integer(device as i64), Value::Integer(server as i64)];
    db.prepare("DELETE FROM main.cloudsync_server_schemas WHERE server <> ?1")?.run(&pair[1..])?;
    db.prepare("INSERT OR IGNORE INTO main.cloudsync_server_schemas(device, server) VALUES(?1, ?2)")?
        .run(&pair)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_one_group_of_turns_only() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(&folder.path().join("store.db")).unwrap();
        writer.fold().unwrap();
        writer.jobs.send(Job::Panic).unwrap();
        // This one may have been in the panic's group.
        let _ = writer.fold();
        writer.fold().unwrap();
    }
}
