//! The device's side of a sync, as steps on the database: make the next request, take in an answer, do what a refusal
//! asks for. No write lock is held between them.
//!
//! What is being sent is stored before it is sent: a round has an id, the version up to which it goes, and the place
//! reached in it. Whoever opens the file next, after a crash or in another process, goes on from there under the same
//! id. Before anything of an answer is stored, round and place are compared with the file again, so that of two
//! processes that sync one file the slower one's answer is void and harmless.

use crate::apply::Source;
use crate::changes::{self, Origin};
use crate::check::Asked;
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::kept;
use crate::position::Position;
use crate::quarantine;
use crate::rebuilt;
use crate::repair;
use crate::replica::Replica;
use crate::scrub;
use crate::storage;
use crate::upload::{Outgoing, Round};
use cloudsync_protocol::client::{Absorbed, Goal};
use cloudsync_protocol::message::{Reason, Refusal, Request, Turn};
use cloudsync_protocol::payload::Opened;
use cloudsync_protocol::range::Check;
use cloudsync_sqlite_ffi::{Shelf, Value};

/// Chunks of one download that are staged at most; more of them come only from a server that goes round in circles.
const INBOX_CHUNKS_MAX: i64 = 1 << 16;

/// What the last request said, for the comparison with the file when its answer comes.
#[derive(Debug, Clone)]
pub struct Sent {
    epoch: u64,
    pub(crate) nonce: u64,
    cursor: u64,
    position: Vec<u8>,
    fingerprint: u64,
    /// The round as it was sent, and where it goes on after this chunk; `None` at its end.
    pub(crate) round: Option<(Round, Option<Position>, u64)>,
    /// Bytes of the payload that was sent.
    pub(crate) upload_bytes: u64,
    goal: Goal,
    pub(crate) sent_at_ms: u64,
    /// How far the local clock was thought to be off, in milliseconds.
    pub(crate) offset: i64,
    /// No clock in the request is later.
    pub(crate) floor: u64,
    /// No clock in the requests before it is later that were not answered and may have been taken.
    pub(crate) offered: u64,
    /// How often the file had been logged out.
    logouts: u64,
    /// The ranges that it wanted to have checked.
    pub(crate) asked: Option<Asked>,
}

impl Replica {
    /// Makes the next request: folds, and puts into it what is to be sent. Gives its bytes.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn prepare(&mut self, goal: Goal, schema: bool) -> Result<Vec<u8>> {
        let _open = Shelf::new(self.db).open();
        self.require()?;
        self.fold_ahead()?;
        loop {
            let request = self.transact(|replica| {
                replica.fold_in_transaction()?;
                replica.catalog.require_settled()?;
                if replica.has_ready_pieces()? {
                    return Ok(None);
                }
                replica.request(goal, schema, Check::default()).map(Some)
            })?;
            match request {
                Some(request) => return Ok(request),
                None => self.apply_ready_pieces()?,
            }
        }
    }

    pub(crate) fn request(&mut self, goal: Goal, schema: bool, check: Check<'_>) -> Result<Vec<u8>> {
        if storage::get_i64(&self.db, "refetch")?.is_some() {
            storage::unset(&self.db, "refetch")?;
            self.restart_download()?;
        }
        let (nonce, cursor) = (storage::get_u64(&self.db, "nonce")?, storage::get_u64(&self.db, "cursor")?);
        let epoch = storage::get_u64(&self.db, "epoch")?;
        let position = storage::get_blob(&self.db, "position")?.unwrap_or_default();
        let definition = self.catalog.schema();
        let fingerprint = definition.fingerprint();
        let tell = schema || storage::get_u64(&self.db, "fingerprint")? != fingerprint & i64::MAX as u64;
        let offered = self.offered()?;
        let upload = if goal.push { self.next_chunk()? } else { None };
        let floor = storage::get_u64(&self.db, "floor")?;
        if upload.is_some() {
            storage::set_u64(&self.db, "offered", floor)?;
        }
        let request = Request {
            site: self.site_id()?,
            epoch,
            nonce,
            now: self.server_now_ms()?,
            cursor,
            position: &position,
            pull: goal.pull,
            echo: storage::is_set(&self.db, "echo")?,
            fingerprint,
            schema: tell.then_some(definition),
            upload: upload.as_ref().map(Outgoing::upload),
            check,
        };
        let bytes = request.encode();
        self.sent = Some(Sent {
            epoch,
            nonce,
            cursor,
            position,
            fingerprint,
            upload_bytes: upload.as_ref().map_or(0, |chunk| chunk.upload().payload.len() as u64),
            round: upload.map(|chunk| (chunk.round, chunk.next, chunk.rows)),
            goal,
            sent_at_ms: self.now_ms(),
            offset: self.clock_offset()?,
            floor,
            offered,
            logouts: self.logouts()?,
            asked: None,
        });
        Ok(bytes)
    }

    /// Hands over what the last request said, for a host that closes the replica before the answer comes.
    pub fn take_sent(&mut self) -> Option<Sent> {
        self.sent.take()
    }

    /// Takes back what [`Replica::take_sent`] gave. It need not be true any more: answers are compared with the file.
    pub fn put_sent(&mut self, sent: Sent) {
        self.sent = Some(sent);
    }

    /// True while there are changes that the server has not acknowledged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has_unsent(&mut self) -> Result<bool> {
        self.require()?;
        Ok(self.is_upload_open()? || self.needs_fold()? || self.is_anything_unsent()?)
    }

    /// Takes in the answer to the last request.
    ///
    /// # Errors
    /// When the payload breaks the rules or the file cannot be written; then nothing of the answer is taken in.
    pub fn absorb(&mut self, turn: &Turn<'_>) -> Result<Absorbed> {
        let Some(sent) = self.sent.take() else {
            return Err(Error::state("there is no request to be answered"));
        };
        let _open = Shelf::new(self.db).open();
        self.fold_ahead()?;
        let (applied, changed) = self.apply_ahead(&sent, turn)?;
        let take = |replica: &mut Self| {
            replica.transact(|replica| {
                replica.require_same_user(&sent)?;
                replica.fold_in_transaction()?;
                let mut absorbed = replica.take_answer(&sent, turn, applied)?;
                absorbed.rows_received += changed + replica.retry_waiting()?;
                Ok(absorbed)
            })
        };
        // An idle poll applies nothing, not even what waits.
        let idle = turn.payload.is_empty()
            && sent.position.is_empty()
            && sent.round.is_none()
            && !repair::is_needed(turn.checked)
            && quarantine::is_empty(&self.db)?
            && !quarantine::is_called(&self.db)?
            && !self.is_confirming(sent.cursor)?;
        let absorbed =
            self.outlasting_rollbacks(
                |replica| {
                    if idle { take(replica) } else { replica.with_apply_settings(take) }
                },
            );
        if let Err(Error::Incomplete(_)) = &absorbed {
            // The download begins again with the next request.
            self.transact(|replica| replica.forget_download())?;
        }
        absorbed
    }

    /// Forgets what came of a download that is not complete.
    fn forget_download(&self) -> Result<()> {
        storage::unset(&self.db, "position")?;
        Ok(self.db.execute("DELETE FROM main.cloudsync_inbox")?)
    }

    /// Refuses an answer to a request of a user who has logged out since: it may hold that user's rows.
    pub(crate) fn require_same_user(&self, sent: &Sent) -> Result<()> {
        if self.logouts()? == sent.logouts {
            return Ok(());
        }
        Err(Error::state(
            "the file was logged out while it synced: set the key of the present user, and sync again",
        ))
    }

    fn take_answer(&mut self, sent: &Sent, turn: &Turn<'_>, applied: usize) -> Result<Absorbed> {
        let mut absorbed = Absorbed::default();
        self.learn_offset(turn.now, sent.sent_at_ms)?;
        if storage::get_u64(&self.db, "epoch")? == sent.epoch {
            storage::set_u64(&self.db, "epoch", turn.epoch)?;
        }
        storage::set_u64(&self.db, "fingerprint", sent.fingerprint & i64::MAX as u64)?;
        // What this very answer acknowledges was not seen by the authors of what it brings.
        self.unseen_from = Some(self.first_unsent()?);
        self.offered_version = self.version_on_its_way()?;
        let mut more = self.take_acceptance(sent, turn, &mut absorbed)?;
        if sent.goal.pull {
            let taken = self.is_at(sent)? && turn.drained;
            more |= self.take_download(sent, turn, applied, &mut absorbed)?;
            if let Some(asked) = sent.asked.as_ref().filter(|_| taken) {
                self.take_checked(asked, turn.checked, &mut absorbed)?;
            }
        }
        let unsent = self.is_upload_open()? || self.is_anything_unsent()?;
        if !unsent {
            // What the server sent need not be looked through for unsent changes ever again.
            storage::set_u64(&self.db, "sent_version", changes::last_version(&self.db)?)?;
        }
        absorbed.more |= more || (sent.goal.push || sent.asked.is_some()) && unsent;
        // What a check that did not get on must go on with is a matter of the next sync.
        absorbed.unchecked |= sent.asked.is_none() && !absorbed.more && self.must_check()?;
        absorbed.idle = !absorbed.more
            && turn.payload.is_empty()
            && sent.round.is_none()
            && sent.position.is_empty()
            && absorbed.rows_rejected == 0;
        self.note_progress(sent, turn, &absorbed)?;
        Ok(absorbed)
    }

    /// True when the download is applied chunk by chunk. Nobody reads rows that make no sense yet: the first sync may show
    /// its progress.
    pub(crate) fn is_progressive(&self, sent: &Sent, turn: &Turn<'_>) -> Result<bool> {
        let is_first = sent.cursor == 0 && sent.position.is_empty() && !turn.drained;
        Ok(storage::is_set(&self.db, "progressive")? || is_first && self.is_empty()?)
    }

    /// Applies or stages what came, but for the rows that were `applied` before. Gives true when there is more to receive.
    fn take_download(
        &mut self,
        sent: &Sent,
        turn: &Turn<'_>,
        applied: usize,
        absorbed: &mut Absorbed,
    ) -> Result<bool> {
        if !self.is_at(sent)? {
            // Another process received this meanwhile.
            return Ok(true);
        }
        if self.is_progressive(sent, turn)? {
            storage::set(&self.db, "progressive", Value::Integer(1))?;
        }
        if turn.drained || storage::is_set(&self.db, "progressive")? {
            let confirms = turn.drained && self.is_confirming(sent.cursor)?;
            let confirmed = confirms.then(|| self.confirmed(turn.payload)).transpose()?;
            absorbed.rows_received = self.apply_download(turn.payload, applied, turn.drained)?;
            if let Some(confirmed) = confirmed {
                absorbed.rows_repaired += self.drop_unconfirmed(&confirmed)?;
            }
        } else if !turn.payload.is_empty() {
            cloudsync_core::reached!("device: a download waits for its last chunk");
            let sql = "INSERT INTO main.cloudsync_inbox(payload) VALUES(?1)";
            self.db.prepare(sql)?.run(&[Value::Blob(turn.payload)])?;
            if self.db.last_insert_rowid() > INBOX_CHUNKS_MAX {
                return Err(Error::Protocol("the server's download does not end".into()));
            }
        }
        if !turn.drained {
            if turn.position == sent.position {
                return Err(Error::Protocol("the server's download does not get on".into()));
            }
            storage::set(&self.db, "position", Value::Blob(turn.position))?;
            return Ok(true);
        }
        storage::unset(&self.db, "position")?;
        storage::unset(&self.db, "echo")?;
        rebuilt::end_comparing(&self.db)?;
        storage::set_u64(&self.db, "cursor", turn.cursor)?;
        storage::unset(&self.db, "progressive")?;
        Ok(false)
    }

    /// The last version that the server may have, though it has not said so.
    pub(crate) fn version_on_its_way(&self) -> Result<u64> {
        let round = storage::get_blob(&self.db, "round")?.map(|bytes| Round::decode(&bytes)).transpose()?;
        Ok(round.map_or(0, |round| round.last))
    }

    /// Whether the file stands where it stood when the request was made.
    pub(crate) fn is_at(&self, sent: &Sent) -> Result<bool> {
        let position = storage::get_blob(&self.db, "position")?.unwrap_or_default();
        Ok(position == sent.position && storage::get_u64(&self.db, "cursor")? == sent.cursor)
    }

    /// True when no row of a synced table was ever known here.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        Ok(self.db.query_i64("SELECT 1 FROM main.cloudsync_clocks LIMIT 1", &[])?.is_none())
    }

    /// Applies the staged chunks, and the last one but for the rows that were `applied` before.
    fn apply_download(&mut self, payload: &[u8], applied: usize, is_last: bool) -> Result<u64> {
        let base = storage::get_u64(&self.db, "cursor")?;
        let source = Source { origin: Origin::Server, time_max: None, base };
        let progressive = storage::is_set(&self.db, "progressive")?;
        let mut rows = 0;
        let mut select = self.db.prepare("SELECT payload FROM main.cloudsync_inbox ORDER BY seq")?;
        let mut staged = false;
        while select.step()? {
            staged = true;
            let chunk = select.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_inbox"))?.to_vec();
            rows += self.apply_chunk(&chunk, 0, source)?;
        }
        drop(select);
        if staged {
            self.db.execute("DELETE FROM main.cloudsync_inbox")?;
        }
        if !payload.is_empty() {
            rows += self.apply_chunk(payload, applied, source)?;
        } else if !staged && !progressive && !self.may_let_in()? {
            return Ok(0);
        }
        if progressive {
            cloudsync_core::reached!("device: a first download shows progress");
            // Parents may come in any later chunk.
            self.unsettled.family.take_orphans();
            if is_last {
                self.find_orphans()?;
            }
        }
        let settled = self.settle(source)?;
        self.raise_settled(settled.time_max.0)?;
        self.forget_used_pieces(false)?;
        if is_last {
            self.forget_pieces()?;
        }
        if settled.parts > 0 {
            cloudsync_core::reached!("device: parts of unknown rows are fetched whole");
            storage::set(&self.db, "refetch", Value::Integer(1))?;
        }
        Ok(rows + settled.rows)
    }

    /// True when changes wait in the quarantine, and the app wrote something since they were tried.
    fn may_let_in(&self) -> Result<bool> {
        if quarantine::is_empty(&self.db)? {
            return Ok(false);
        }
        let version = changes::last_version(&self.db)?;
        let tried = storage::get_u64(&self.db, "quarantine_version")?;
        storage::set_u64(&self.db, "quarantine_version", version)?;
        Ok(tried != version)
    }

    fn apply_chunk(&mut self, payload: &[u8], applied: usize, source: Source) -> Result<u64> {
        let opened = Opened::open(payload, &Zstd)?;
        let applied = self.apply_rest(&opened.payload()?, applied, source)?;
        self.raise_settled(applied.time_max.0)?;
        Ok(applied.rows)
    }

    /// Does what a refusal asks for, so that the next request can be taken.
    ///
    /// # Errors
    /// When nothing that this side does can help, or the file cannot be written.
    pub fn mend(&mut self, refusal: &Refusal) -> Result<()> {
        let Some(sent) = self.sent.take() else {
            return Err(Error::state("there is no request to be answered"));
        };
        self.transact(|replica| {
            replica.require_same_user(&sent)?;
            replica.mend_in_transaction(refusal, &sent)
        })
    }

    fn mend_in_transaction(&mut self, refusal: &Refusal, sent: &Sent) -> Result<()> {
        match refusal.reason {
            Reason::ClockSkew => {
                cloudsync_core::reached!("device: its clock was wrong");
                self.correct_clock(refusal.now, sent)
            }
            Reason::Clone => self.part_from_clone(sent),
            Reason::Restored => {
                cloudsync_core::reached!("device: the server was restored");
                let can_check = self.can_reconcile()?;
                self.meet_as_stranger()?;
                storage::set_u64(&self.db, "epoch", refusal.epoch)?;
                storage::set_u64(&self.db, "nonce", refusal.nonce)?;
                if self.is_part()? {
                    // It may have forgotten what it sent to whom.
                    scrub::call(&self.db)?;
                }
                // This file may have gone back as well, which an epoch of the past hides. What this site wrote alone is
                // fetched, too, unless the check would find that it is another: it asks for that itself where it cannot.
                if !can_check {
                    storage::set(&self.db, "echo", Value::Integer(1))?;
                }
                if !self.is_empty()? {
                    self.begin_reconciling(!can_check)?;
                }
                Ok(())
            }
            Reason::LostChunks => {
                cloudsync_core::reached!("device: staged chunks were lost");
                storage::unset(&self.db, "round")?;
                self.forget_download()
            }
            Reason::NeedSchema
            | Reason::SchemaConflict
            | Reason::BadPayload
            | Reason::Denied
            | Reason::PrincipalChanged => Err(Error::Protocol(refusal.text.clone())),
        }
    }

    fn restart_download(&self) -> Result<()> {
        cloudsync_core::reached!("device: everything is fetched again");
        storage::unset(&self.db, "cursor")?;
        self.forget_download()?;
        storage::set(&self.db, "echo", Value::Integer(1))?;
        rebuilt::begin_comparing(&self.db)?;
        if !self.is_empty()? {
            // What the server does not have any more is found when everything is here.
            self.begin_reconciling(true)?;
        }
        kept::begin_again(&self.db)
    }

    /// Makes the next round compare everything with the server, or fetch everything where that cannot be compared. Harmless:
    /// what is the same changes nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reset_sync(&mut self) -> Result<()> {
        self.require()?;
        self.transact(|replica| {
            repair::forget(&replica.db)?;
            if replica.can_reconcile()? {
                replica.begin_reconciling(false)
            } else {
                replica.restart_download()
            }
        })
    }

    /// Remembers the server's address, without secrets. Another server than before is met as a stranger.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_server(&mut self, url: &str) -> Result<()> {
        self.create()?;
        self.transact(|replica| {
            let known = storage::get_text(&replica.db, "server")?;
            if known.as_deref() == Some(url) {
                return Ok(());
            }
            if known.is_some() || storage::get_i64(&replica.db, "met_server")?.is_some() {
                replica.meet_as_stranger()?;
            }
            storage::set(&replica.db, "met_server", Value::Integer(1))?;
            storage::set(&replica.db, "server", Value::from(url))
        })
    }

    /// The server's address.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn server(&self) -> Result<Option<String>> {
        if self.exists()? { storage::get_text(&self.db, "server") } else { Ok(None) }
    }

    /// Forgets the server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_server(&mut self) -> Result<()> {
        self.require()?;
        self.transact(|replica| storage::unset(&replica.db, "server"))
    }

    /// Stores the report of a sync.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record_round(&mut self, report: &str) -> Result<()> {
        self.transact(|replica| storage::set(&replica.db, "last_round", Value::from(report)))
    }

    /// The report of the last sync.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn last_round(&self) -> Result<Option<String>> {
        if self.exists()? { storage::get_text(&self.db, "last_round") } else { Ok(None) }
    }
}
