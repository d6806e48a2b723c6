//! One turn in the writer: judged, then taken as a whole or refused without a trace.

use super::{refusal, schema, staging, standing};
use crate::ledger;
use crate::metrics::METRICS;
use crate::policy::Law;
use crate::store::{Asker, Rights, StoreError};
use cloudsync_core::clock::Time;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::message::{Accepted, Reason, Refusal, Request, Upload};
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_protocol::server::{self, Knowledge, SiteRecord, Standing, begins_epoch, is_skewed};
use cloudsync_replica::{Error, Judgement, Origin, Replica, RoundChunks, Source, Zstd};
use cloudsync_sqlite_ffi::Connection;

/// What became of a turn.
pub(super) enum Outcome {
    /// It changed nothing.
    Refused(Refusal),
    /// It is on disk, once the transaction around it is.
    Taken(Taken),
}

/// A turn that was taken.
pub(super) struct Taken {
    pub(super) epoch: u64,
    pub(super) nonce: u64,
    pub(super) accepted: Option<Accepted>,
    /// What became of rows that were not let in, encoded.
    pub(super) verdicts: Vec<u8>,
}

impl Taken {
    const fn without_upload(epoch: u64, nonce: u64) -> Self {
        Self { epoch, nonce, accepted: None, verdicts: Vec::new() }
    }
}

/// Takes one turn in a savepoint of its own. Everything is folded.
pub(super) fn turn(
    replica: &mut Replica,
    law: &mut Law,
    request: &Request<'_>,
    asker: &Asker,
    now_ms: u64,
) -> Result<Outcome, StoreError> {
    let known = standing::knowledge(&replica.connection(), request)?;
    let mut refused = None;
    let taken = replica.transact(|replica| {
        take(replica, law, request, &known, asker, now_ms).map_err(|stop| match stop {
            Stop::Refused(refusal) => {
                refused = Some(refusal);
                // Undoes the savepoint; the text is not used.
                Error::State(String::new())
            }
            Stop::Failed(error) => error,
        })
    });
    let refusal = match (taken, refused) {
        (Ok(taken), _) => return Ok(Outcome::Taken(taken)),
        (Err(error), None) => return Err(error.into()),
        (Err(_), Some(refusal)) => refusal,
    };
    let mut epoch = known.epoch;
    if refusal.reason == Reason::Restored && begins_epoch(epoch, request, asker.rights.write) {
        cloudsync_core::reached!("server: it finds that it was restored");
        epoch = now_ms.max(epoch + 1);
        replica.transact(|replica| replica.set_state_number("epoch", epoch))?;
    }
    let nonce = known.record.map_or(0, |record| record.nonce);
    Ok(Outcome::Refused(Refusal { epoch, nonce, now: now_ms, ..refusal }))
}

/// Why a turn is not taken.
enum Stop {
    Refused(Refusal),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let reason = match &error {
            // The stamps were made while the device's clock was wrong, even if it is right by now.
            Error::ClockAhead(_) => Reason::ClockSkew,
            // The device's fault, not ours.
            Error::Payload(_) | Error::Protocol(_) => Reason::BadPayload,
            // Copies of chunks came in another order: the device sends all of them again.
            Error::Incomplete(_) => Reason::LostChunks,
            // A bound of this server: whoever syncs must hear which one, for trying again does not help.
            Error::Limit(_) => Reason::Denied,
            _ => return Self::Failed(error),
        };
        Self::Refused(refusal(reason, error.to_string()))
    }
}

impl From<cloudsync_sqlite_ffi::Error> for Stop {
    fn from(error: cloudsync_sqlite_ffi::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<schema::Stop> for Stop {
    fn from(stop: schema::Stop) -> Self {
        match stop {
            schema::Stop::Conflict(text) => Self::Refused(refusal(Reason::SchemaConflict, text)),
            schema::Stop::Denied(text) => Self::Refused(refusal(Reason::Denied, text)),
            schema::Stop::Failed(error) => Self::Failed(error),
        }
    }
}

fn refuse<T>(reason: Reason, text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(refusal(reason, text)))
}

fn check_may_pull(request: &Request<'_>, rights: Rights) -> Result<(), Stop> {
    if request.pull && !rights.read { refuse(Reason::Denied, server::MAY_NOT_READ) } else { Ok(()) }
}

/// Takes a turn if its sender is who it was before, and stands where the server knows it.
fn take(
    replica: &mut Replica,
    law: &mut Law,
    request: &Request<'_>,
    known: &Knowledge,
    asker: &Asker,
    now_ms: u64,
) -> Result<Taken, Stop> {
    replica.require_settled()?;
    if !standing::is_same_user(&replica.connection(), request.site, asker)? {
        cloudsync_core::reached!("server: another user asks");
        return refuse(Reason::PrincipalChanged, "this device has synced as somebody else");
    }
    if is_skewed(request, now_ms) {
        return refuse(Reason::ClockSkew, "the clocks of device and server are too far apart");
    }
    match server::standing(known, request) {
        Standing::New | Standing::Current => take_next(replica, law, request, known, asker, now_ms),
        Standing::Repeated => {
            check_may_repeat(replica, request, asker.rights)?;
            repeated(replica, law, request, known, asker)
        }
        Standing::Clone => {
            cloudsync_core::reached!("server: a copy asks");
            refuse(Reason::Clone, "a copy of this file has synced under its site id")
        }
        Standing::Restored => {
            refuse(Reason::Restored, "the server does not know what this device has sent or received")
        }
    }
}

/// Takes the turn that comes next from its site. What it sends and is sent is read by its schema, so that is agreed on first.
fn take_next(
    replica: &mut Replica,
    law: &mut Law,
    request: &Request<'_>,
    known: &Knowledge,
    asker: &Asker,
    now_ms: u64,
) -> Result<Taken, Stop> {
    let Knowledge { epoch, record, .. } = *known;
    let nonce = record.map_or(0, |record| record.nonce);
    agree_on_schema(replica, request, asker.rights)?;
    check_may_pull(request, asker.rights)?;
    if record.is_none() && asker.user.is_some() {
        standing::bind(&replica.connection(), request.site, asker, now_ms)?;
    }
    if asker.user.is_some() {
        // By this number the ledger knows it.
        replica.meet_site(request.site)?;
    }
    let Some(upload) = &request.upload else { return Ok(Taken::without_upload(epoch, nonce)) };
    if !asker.rights.write {
        cloudsync_core::reached!("server: who may not write sends changes");
        return refuse(Reason::Denied, server::MAY_NOT_WRITE);
    }
    let mut accepted = upload.acceptance();
    if !upload.is_final {
        // Damage is found now, while the device can send the chunk again, and not at the end of the round.
        Opened::open(upload.payload, &Zstd).map_err(Error::from)?;
        staging::keep(&replica.connection(), request.site, upload, now_ms)?;
        return Ok(Taken { accepted: Some(accepted), ..Taken::without_upload(epoch, nonce) });
    }
    let record = SiteRecord { nonce: nonce + 1, round: Some(upload.round), content: Some(upload.content()) };
    let judgement = finish_round(replica, law, (request.site, upload), record, asker, now_ms)?;
    accepted.quarantined = judgement.waiting;
    Ok(Taken { epoch, nonce: record.nonce, accepted: Some(accepted), verdicts: judgement.verdicts })
}

/// Adopts the schema that the device tells; where it tells none, the server must know it already.
fn agree_on_schema(replica: &mut Replica, request: &Request<'_>, rights: Rights) -> Result<(), Stop> {
    if let Some(device) = &request.schema {
        schema::adopt(replica, device, rights)?;
        schema::remember(replica, device)?;
    } else if !schema::fits(replica, request.fingerprint)? {
        return refuse(Reason::NeedSchema, "the server does not know this schema");
    }
    Ok(())
}

/// Refuses to answer a round once more where the device may pull no longer, or what it would get is not what its tables are
/// now. What the device has become since the round was made is not asked for once more.
fn check_may_repeat(replica: &mut Replica, request: &Request<'_>, rights: Rights) -> Result<(), Stop> {
    check_may_pull(request, rights)?;
    if let Some(device) = &request.schema {
        schema::check_switched_on(replica, device)?;
    } else if request.pull && schema::may_hide(replica, request)? {
        return refuse(Reason::NeedSchema, "the server does not know this schema");
    }
    if let Some(device) = request.schema.as_ref().filter(|_| rights.schema) {
        schema::adopt(replica, device, rights)?;
        schema::remember(replica, device)?;
    }
    Ok(())
}

/// Takes in a round with its last chunk. What became of it is stored beside it, to be answered again if the answer is lost.
fn finish_round(
    replica: &mut Replica,
    law: &mut Law,
    (site, upload): (SiteId, &Upload<'_>),
    record: SiteRecord,
    asker: &Asker,
    now_ms: u64,
) -> Result<Judgement, Stop> {
    let before = replica.version()?;
    let judgement = commit(replica, law, (site, upload), asker, now_ms)?;
    if asker.user.is_some() {
        let ordinal = replica.meet_site(site)?;
        ledger::note_upload(replica, ordinal, before)?;
        ledger::note_verdicts(replica, ordinal, &judgement.verdicts)?;
    }
    standing::write_record(&replica.connection(), site, asker, record, &judgement, now_ms)?;
    Ok(judgement)
}

/// The answer that the round got when it was committed; a user does not get rows again that are hidden by now.
fn repeated(
    replica: &mut Replica,
    law: &mut Law,
    request: &Request<'_>,
    known: &Knowledge,
    asker: &Asker,
) -> Result<Taken, Stop> {
    cloudsync_core::reached!("server: a round comes again");
    let db = replica.connection();
    let upload = request.upload.as_ref();
    let differs = upload.zip(known.record).is_some_and(|(upload, record)| record.differs(upload));
    let Judgement { mut verdicts, waiting, .. } = standing::judgement(&db, request.site)?;
    if differs {
        cloudsync_core::reached!("server: a round comes again with something else in it");
        // They are about other rows. What the device sends once more is judged then.
        verdicts.clear();
    } else if let Some(user) = &asker.user {
        let (mut judge, _assumed) = law.judge(user, db).map_err(Error::from)?;
        verdicts = replica.judge_again(&verdicts, &mut judge)?;
        let site = replica.meet_site(request.site)?;
        ledger::note_verdicts(replica, site, &verdicts)?;
    }
    let accepted = upload.map(|upload| Accepted {
        round: upload.round,
        committed: true,
        repeated: true,
        differs,
        quarantined: waiting,
    });
    let nonce = known.record.map_or(0, |record| record.nonce);
    Ok(Taken { epoch: known.epoch, nonce, accepted, verdicts })
}

/// Applies the staged chunks of a round and its last one, and judges what was not let in. What a user sends is judged by
/// the policies, row by row.
fn commit(
    replica: &mut Replica,
    law: &mut Law,
    (site, upload): (SiteId, &Upload<'_>),
    asker: &Asker,
    now_ms: u64,
) -> Result<Judgement, Stop> {
    let db = replica.connection();
    let ordinal = replica.meet_site(site)?;
    let source = Source {
        origin: Origin::Site(ordinal),
        time_max: Some(Time(now_ms.saturating_add(CLOCK_AHEAD_MS_MAX))),
        base: upload.base,
    };
    let mut round = Round { db, site, upload };
    let judgement = match &asker.user {
        None => {
            for at in 0..round.count() {
                apply(replica, &round.chunk(at)?, source)?;
            }
            replica.settle(source)?;
            replica.judge(ordinal, upload.continues)?
        }
        Some(user) => {
            for at in 0..round.count() {
                let opened = Opened::open(&round.chunk(at)?, &Zstd).map_err(Error::from)?;
                check_names(replica, &opened.payload().map_err(Error::from)?)?;
            }
            let (mut judge, _assumed) = law.judge(user, db).map_err(Error::from)?;
            let judged = replica.apply_judged(&mut round, source, &mut judge, upload.continues)?;
            METRICS.apply_rows.add(judged.applied.rows);
            ledger::note_known(replica, ordinal, &judged.known)?;
            replica.settle(source)?;
            replica.judge_for(ordinal, upload.continues, &mut judge)?
        }
    };
    METRICS.denied(&judgement.denied);
    staging::forget(&db, site)?;
    staging::forget_abandoned(&db, now_ms)?;
    replica.forget_pieces()?;
    Ok(judgement)
}

/// The chunks of a round: those that are staged, and the last one.
struct Round<'u> {
    db: Connection,
    site: SiteId,
    upload: &'u Upload<'u>,
}

impl Round<'_> {
    fn chunk(&self, at: usize) -> Result<Vec<u8>, Stop> {
        let Self { db, site, upload } = self;
        if at == upload.chunk as usize {
            return Ok(upload.payload.to_vec());
        }
        match staging::payload(db, *site, upload.round, at as u32)? {
            Some(payload) => Ok(payload),
            None => refuse(Reason::LostChunks, format!("chunk {at} of the round is missing")),
        }
    }
}

impl RoundChunks for Round<'_> {
    fn count(&self) -> usize {
        self.upload.chunk as usize + usize::from(!self.upload.payload.is_empty())
    }

    fn payload(&mut self, at: usize) -> cloudsync_replica::Result<Vec<u8>> {
        self.chunk(at).map_err(|stop| match stop {
            Stop::Failed(error) => error,
            Stop::Refused(refusal) => Error::State(refusal.text),
        })
    }
}

fn apply(replica: &mut Replica, payload: &[u8], source: Source) -> Result<(), Stop> {
    let opened = Opened::open(payload, &Zstd).map_err(Error::from)?;
    let payload = opened.payload().map_err(Error::from)?;
    check_names(replica, &payload)?;
    METRICS.apply_rows.add(replica.apply_part(&payload, source)?.rows);
    Ok(())
}

fn check_names(replica: &mut Replica, payload: &Payload<'_>) -> Result<(), Stop> {
    match replica.unknown_name(payload)? {
        Some(unknown) => refuse(Reason::NeedSchema, format!("{unknown} does not sync on the server")),
        None => Ok(()),
    }
}
