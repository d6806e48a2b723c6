//! A naive store in memory: slow, and obviously right. The conformance suite holds the others against it.
//!
//! A turn works on a copy of everything, which takes the place of the original when the turn was taken. Each download
//! is one chunk of whole rows. There are no policies, so what users send is denied, and they see nothing: policies are
//! SQL, of which a model would be no simpler than SQLite. What users send and receive is held against models of its
//! own, in `tests/judged` and `tests/ledger`. Of the schema only names, types and UNIQUE constraints count, and rows
//! that exchange their UNIQUE values are refused.

mod rows;

use self::rows::{Rows, number};
use super::{Asker, Rights, Store, StoreError};
use crate::events::Feed;
use cloudsync_core::clock::Time;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::message::{Accepted, Answer, Reason, Refusal, Request, RoundId, Turn, Upload};
use cloudsync_protocol::payload::{Opened, PayloadError};
use cloudsync_protocol::range::{Check, Checked, Finding};
use cloudsync_protocol::schema::{Schema, TableSchema, compare};
use cloudsync_protocol::server::{self, Knowledge, SiteRecord, Standing, begins_epoch, is_skewed, standing};
use cloudsync_replica::Zstd;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// A store that lasts as long as the value.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    feed: Feed,
}

#[derive(Debug, Clone, Default)]
struct State {
    epoch: u64,
    schema: Schema,
    disabled: BTreeSet<String>,
    /// Fingerprints of devices and of this schema that were found to fit.
    fits: BTreeSet<(u64, u64)>,
    uploads: BTreeMap<SiteId, LastRound>,
    /// The user of each site that uploaded; `None` for a key.
    users: BTreeMap<SiteId, Option<String>>,
    staged: BTreeMap<SiteId, (RoundId, BTreeMap<u32, Vec<u8>>)>,
    rows: Rows,
}

/// The last round of a site.
#[derive(Debug, Clone)]
struct LastRound {
    record: SiteRecord,
    told: Told,
}

/// What an upload is told: whether it was taken, and the verdicts, encoded.
type Told = (Accepted, Vec<u8>);

/// Why a turn is refused, and in words.
type Stop = (Reason, String);

fn refuse<T>(reason: Reason, text: impl Into<String>) -> Result<T, Stop> {
    Err((reason, text.into()))
}

fn check_may_pull(request: &Request<'_>, rights: Rights) -> Result<(), Stop> {
    if request.pull && !rights.read { refuse(Reason::Denied, server::MAY_NOT_READ) } else { Ok(()) }
}

fn all_unknown(check: &Check<'_>) -> Vec<u8> {
    Checked { findings: vec![Finding::Unknown; check.ranges.len()], payload: &[] }.encode()
}

fn damaged(error: PayloadError) -> Stop {
    (Reason::BadPayload, error.to_string())
}

impl MemoryStore {
    /// A store without tables.
    #[must_use]
    pub fn new() -> Self {
        let state = State { epoch: 1, rows: Rows::new(), ..State::default() };
        Self { state: Mutex::new(state), feed: Feed::default() }
    }

    /// Switches a table off; its rows stay.
    pub fn disable_table(&self, table: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).disabled.insert(table.to_owned());
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn turn(&self, request: &Request<'_>, asker: &Asker, now_ms: u64) -> Result<Vec<u8>, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = state.clone();
        let (reason, text) = match next.take(request, asker, now_ms) {
            Ok(told) => {
                if next.rows.version > state.rows.version {
                    self.feed.tell(Some(request.site), next.rows.version);
                }
                *state = next;
                let repeated = told.as_ref().is_some_and(|(accepted, _)| accepted.repeated);
                let request = Request { echo: request.echo || repeated, ..request.clone() };
                return Ok(state.answer(&request, told, asker, now_ms));
            }
            Err(stop) => stop,
        };
        if reason == Reason::Restored && begins_epoch(state.epoch, request, asker.rights.write) {
            state.epoch = now_ms.max(state.epoch + 1);
        }
        let (epoch, nonce) = (state.epoch, state.nonce(request.site));
        Ok(Answer::Refusal(Refusal { reason, epoch, nonce, now: now_ms, text }).encode())
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Nobody else can write to it.
    fn refresh(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

impl State {
    fn nonce(&self, site: SiteId) -> u64 {
        self.uploads.get(&site).map_or(0, |last| last.record.nonce)
    }

    fn take(&mut self, request: &Request<'_>, asker: &Asker, now_ms: u64) -> Result<Option<Told>, Stop> {
        let user = asker.user_id().map(str::to_owned);
        if self.users.get(&request.site).is_some_and(|known| *known != user) {
            return refuse(Reason::PrincipalChanged, "this device has synced as somebody else");
        }
        let rights = asker.rights;
        if is_skewed(request, now_ms) {
            return refuse(Reason::ClockSkew, "the clocks of device and server are too far apart");
        }
        let last = self.uploads.get(&request.site).cloned();
        let record = last.as_ref().map(|last| last.record);
        let gave_cursor = request.cursor <= self.rows.version;
        match standing(&Knowledge { epoch: self.epoch, record, gave_cursor, went_back: false }, request) {
            Standing::New | Standing::Current => {}
            Standing::Repeated => {
                check_may_pull(request, rights)?;
                let is_off = |table: &TableSchema| self.disabled.contains(&table.name);
                match &request.schema {
                    Some(schema) if schema.tables.iter().any(is_off) => {
                        return refuse(Reason::Denied, format!("{:?} is switched off", self.disabled));
                    }
                    None if request.pull && !self.disabled.is_empty() && !self.fits(request.fingerprint) => {
                        return refuse(Reason::NeedSchema, "a table is switched off");
                    }
                    _ => {}
                }
                if let Some(schema) = request.schema.as_ref().filter(|_| rights.schema) {
                    schema.tables.iter().try_for_each(|table| self.adopt(table, rights))?;
                    self.fits.insert((schema.fingerprint(), self.enabled().fingerprint()));
                }
                let differs =
                    record.zip(request.upload.as_ref()).is_some_and(|(last, now)| last.differs(now));
                return Ok(last.map(|LastRound { told: (told, verdicts), .. }| {
                    let verdicts = if differs { Vec::new() } else { verdicts };
                    (Accepted { repeated: true, differs, ..told }, verdicts)
                }));
            }
            Standing::Clone => {
                return refuse(Reason::Clone, "a copy of this file has synced under its site id");
            }
            Standing::Restored => return refuse(Reason::Restored, "turns of this device were lost"),
        }
        if let Some(schema) = &request.schema {
            schema.tables.iter().try_for_each(|table| self.adopt(table, rights))?;
            self.fits.insert((schema.fingerprint(), self.enabled().fingerprint()));
        } else if !self.fits(request.fingerprint) {
            return refuse(Reason::NeedSchema, "the server does not know this schema");
        }
        check_may_pull(request, rights)?;
        if user.is_some() {
            self.users.insert(request.site, user.clone());
        }
        match &request.upload {
            None => Ok(None),
            Some(_) if !rights.write => refuse(Reason::Denied, server::MAY_NOT_WRITE),
            Some(upload) => {
                let told = self.upload(request.site, upload, user.is_some(), now_ms)?;
                if upload.is_final {
                    self.users.insert(request.site, user);
                }
                Ok(Some(told))
            }
        }
    }

    fn enabled(&self) -> Schema {
        let mut schema = self.schema.clone();
        schema.tables.retain(|table| !self.disabled.contains(&table.name));
        schema
    }

    fn fits(&self, device: u64) -> bool {
        self.fits.contains(&(device, self.enabled().fingerprint()))
    }

    fn adopt(&mut self, table: &TableSchema, rights: Rights) -> Result<(), Stop> {
        let name = &table.name;
        if self.disabled.contains(name) {
            return refuse(Reason::Denied, format!("table \"{name}\" is switched off"));
        }
        let Some(known) = self.schema.tables.iter_mut().find(|known| known.name == *name) else {
            if !rights.schema {
                return refuse(Reason::Denied, format!("table \"{name}\" does not sync here"));
            }
            self.schema.tables.push(table.clone());
            return Ok(());
        };
        compare(table, known).map_err(|conflict| (Reason::SchemaConflict, conflict.to_string()))?;
        for column in &table.columns {
            if number(known, &column.name).is_some() {
                continue;
            }
            if !rights.schema {
                return refuse(
                    Reason::Denied,
                    format!("table \"{name}\" has no column \"{}\" here", column.name),
                );
            }
            known.columns.push(column.clone());
        }
        Ok(())
    }

    fn upload(&mut self, site: SiteId, upload: &Upload<'_>, denies: bool, now_ms: u64) -> Result<Told, Stop> {
        let (round, chunks) = self.staged.entry(site).or_insert((upload.round, BTreeMap::new()));
        chunks.retain(|chunk, _| *chunk < upload.chunk && *round == upload.round);
        *round = upload.round;
        chunks.insert(upload.chunk, upload.payload.to_vec());
        let mut accepted = upload.acceptance();
        if !upload.is_final {
            Opened::open(upload.payload, &Zstd).map_err(damaged)?;
            return Ok((accepted, Vec::new()));
        }
        let chunks = self.staged.remove(&site).map(|(_, chunks)| chunks).unwrap_or_default();
        if !chunks.keys().copied().eq(0..=upload.chunk) {
            return refuse(Reason::LostChunks, "chunks of the round are missing");
        }
        let time_max = Time(now_ms.saturating_add(CLOCK_AHEAD_MS_MAX));
        let before = self.rows.clone();
        for payload in chunks.values().filter(|payload| !payload.is_empty()) {
            self.rows.apply(&self.enabled(), site, payload, time_max)?;
        }
        let verdicts = if denies {
            self.rows = before;
            rows::denials(chunks.values().map(Vec::as_slice))?
        } else {
            self.rows.judge(&self.enabled(), site)
        };
        accepted.quarantined = self.rows.waiting_of(site);
        let record = SiteRecord {
            nonce: self.nonce(site) + 1,
            round: Some(upload.round),
            content: Some(upload.content()),
        };
        self.uploads.insert(site, LastRound { record, told: (accepted, verdicts.clone()) });
        Ok((accepted, verdicts))
    }

    fn answer(&self, request: &Request<'_>, told: Option<Told>, asker: &Asker, now: u64) -> Vec<u8> {
        let (accepted, verdicts) =
            told.map_or((None, Vec::new()), |(accepted, verdicts)| (Some(accepted), verdicts));
        // It has no policies, so a user sees nothing.
        let is_users = matches!(self.users.get(&request.site), Some(Some(_)));
        let sends = request.pull && !is_users;
        let payload = if sends { self.rows.extract(&self.enabled(), request) } else { Vec::new() };
        let checked = match (request.pull && !request.check.ranges.is_empty(), &asker.user) {
            (false, _) => Vec::new(),
            (true, Some(_)) => all_unknown(&request.check),
            (true, None) => self.rows.check(&self.enabled(), &request.check, asker.rights.write),
        };
        let turn = Turn {
            epoch: self.epoch,
            nonce: self.nonce(request.site),
            now,
            accepted,
            drained: true,
            cursor: if request.pull { self.rows.version } else { request.cursor },
            position: &[],
            rows_total: 0,
            verdicts: &verdicts,
            checked: &checked,
            payload: &payload,
        };
        Answer::Turn(turn).encode()
    }
}
