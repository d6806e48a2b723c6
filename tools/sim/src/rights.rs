//! Keys that may only read, and tokens that run out and are minted anew: what a device shows the server, and what it may do
//! by that.
//!
//! Who is let in is judged by the product's own register of keys and tokens, at the world's time. What was refused must not be
//! lost, and arrives when the right comes back; what is written under a key that may only read, or asked for with a token
//! that is over, leaves nothing on the server.

use crate::checker;
use crate::device::Process;
use crate::oracle;
use crate::random::Dice;
use crate::switches;
use crate::users::Holder;
use crate::world::{BOTH, World};
use anyhow::{Context, Result, bail, ensure};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_protocol::server::MAY_NOT_WRITE;
use cloudsync_server::auth::credential::{Credential, Kind};
use cloudsync_server::auth::{Principal, Scopes, User};
use cloudsync_server::control::{Control, NewKey, NewToken};
use cloudsync_server::folder::DatabaseName;
use cloudsync_server::store::Rights;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The stream of rights, so that worlds in which everybody may do everything keep all of their draws.
const STREAM: u64 = 0x7269_6768_7473_2121;
/// Worlds in which rights are missing at times, of a thousand.
const OFTEN: u64 = 350;
/// Keys that may only read at the beginning, of a thousand.
const READERS: u64 = 300;
/// Steps of a device in which its key is exchanged for one of other rights, of a thousand.
const KEY_CHANGES: u64 = 25;
/// Steps of a device in which its app gets a token in place of one that is over, of a thousand.
const RENEWALS: u64 = 250;
/// How long tokens are good, in milliseconds.
const TOKEN_MS: [u64; 3] = [5_000, 60_000, 600_000];
/// Apps whose key may only read know it and only receive, in so many of a thousand syncs.
const RECEIVE_ONLY: u64 = 700;
/// What stands on this network for the HTTP status 401. No message of the protocol begins so.
pub(crate) const REFUSED_KEY: &[u8] = b"401";
/// What a device is told by it.
const REFUSED: &str = "the key or token is not good";
const PULL: Goal = Goal { push: false, pull: true };
/// A token that never ends.
const FOR_EVER_MS: u64 = u64::MAX >> 2;

/// What a request bears.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    /// The user whose token it is; `None` for a key.
    pub(crate) holder: Option<Holder>,
    /// `None` in worlds in which everybody may do everything.
    shown: Option<Shown>,
}

#[derive(Debug, Clone)]
struct Shown {
    credential: Rc<Credential>,
    good_until_ms: u64,
    reads_only: bool,
}

/// What a device has to show.
#[derive(Default, Clone)]
struct Pass {
    reads_only: bool,
    token: Option<Token>,
}

#[derive(Clone)]
struct Token {
    user: usize,
    shown: Shown,
}

/// Who may do what in a world.
pub(crate) struct Permits {
    seed: u64,
    /// `None` where everybody may do everything.
    gate: Option<Gate>,
}

struct Gate {
    control: Control,
    database: DatabaseName,
    /// A key that may do everything, and one that may only read.
    keys: [Shown; 2],
    passes: BTreeMap<usize, Pass>,
    /// Faults are over: all rights are there.
    is_over: bool,
}

/// Whether rights are missing at times in the world of a seed.
pub(crate) fn are_drawn(seed: u64) -> bool {
    Dice::new(seed ^ STREAM).chance(OFTEN)
}

/// True for what a device is told whose key may not write.
pub(crate) fn is_refusal(text: &str) -> bool {
    text == MAY_NOT_WRITE
}

impl Gate {
    fn open(now_ms: u64) -> Result<Self> {
        // Its secrets come from the system, and go nowhere but into this file in memory.
        let control = Control::open_at(":memory:".into())?;
        let database = DatabaseName::new("sim")?;
        control.create_database(&database, now_ms)?;
        let key = |reads_only, scopes| -> Result<Shown> {
            let new = NewKey { database: Some(&database), name: "", scopes, expires_ms: None };
            let credential = Rc::new(control.create_key(new, now_ms)?.1);
            Ok(Shown { credential, good_until_ms: FOR_EVER_MS, reads_only })
        };
        let keys = [key(false, Scopes::ADMIN)?, key(true, "read".parse()?)?];
        Ok(Self { control, database, keys, passes: BTreeMap::new(), is_over: false })
    }

    fn mint(&self, user: &User, now_ms: u64, good_until_ms: u64) -> Result<Shown> {
        let new = NewToken { database: &self.database, user: user.clone(), expires_ms: good_until_ms };
        let credential = Rc::new(self.control.mint_token(&new, now_ms)?.1);
        Ok(Shown { credential, good_until_ms, reads_only: false })
    }

    fn admit(&self, shown: &Shown, now_ms: u64) -> Result<Option<Principal>> {
        let (credential, database) = (&shown.credential, Some(&self.database));
        Ok(match credential.kind() {
            Kind::Key => self.control.key_principal(credential, database, now_ms)?,
            Kind::Token => self.control.token_principal(credential, database, now_ms)?,
        })
    }
}

impl Permits {
    pub(crate) fn new(seed: u64, is_part: bool, now_ms: u64) -> Result<Self> {
        Ok(Self { seed, gate: if is_part { Some(Gate::open(now_ms)?) } else { None } })
    }

    /// What a device has; drawn when it is first asked for.
    fn pass(&mut self, at: usize) -> Option<&mut Pass> {
        let gate = self.gate.as_mut()?;
        let mut dice = Dice::new(self.seed ^ STREAM ^ (at as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let reads_only = !gate.is_over && dice.chance(READERS);
        Some(gate.passes.entry(at).or_insert(Pass { reads_only, token: None }))
    }

    /// A copy of a device's file has the key or token that the device has.
    pub(crate) fn copied(&mut self, from: usize, to: usize) {
        let pass = self.pass(from).cloned();
        if let (Some(gate), Some(pass)) = (&mut self.gate, pass) {
            gate.passes.insert(to, pass);
        }
    }

    fn reads_only(&mut self, at: usize) -> bool {
        self.pass(at).is_some_and(|pass| pass.reads_only)
    }
}

/// What the server has of a site.
#[derive(PartialEq, Eq)]
struct Traces {
    stamps: BTreeMap<(String, String), u64>,
    records: i64,
    epoch: Option<i64>,
}

impl World {
    /// The choices of rights in one step.
    fn dice_of_rights(&self) -> Dice {
        Dice::new(self.case.seed ^ STREAM ^ self.ticks.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A device's key is exchanged for another one, or its app gets a token in place of one that is over.
    pub(crate) fn change_pass(&mut self, at: usize) -> Result<()> {
        let (mut dice, now) = (self.dice_of_rights(), self.now());
        let has_user = self.devices[at].holder.is_some();
        let Some(pass) = self.permits.pass(at) else { return Ok(()) };
        let name = self.devices[at].name.clone();
        if has_user {
            let is_over = pass.token.as_ref().is_some_and(|token| token.shown.good_until_ms <= now);
            if is_over && dice.chance(RENEWALS) {
                pass.token = None;
                self.note(|| format!("{name} gets another token"));
            }
        } else if dice.chance(KEY_CHANGES) {
            pass.reads_only = !pass.reads_only;
            let reads_only = pass.reads_only;
            self.note(|| format!("{name} gets another key, for reading only: {reads_only}"));
        }
        Ok(())
    }

    /// In which direction an app syncs that may only read.
    pub(crate) fn goal_of(&mut self, at: usize, goal: Goal) -> Goal {
        let is_reader = self.devices[at].holder.is_none() && self.permits.reads_only(at);
        if is_reader && self.dice_of_rights().chance(RECEIVE_ONLY) { PULL } else { goal }
    }

    /// What a request of a device bears, under the token of this user.
    pub(crate) fn bearer(&mut self, at: usize, holder: Option<Holder>) -> Result<Bearer> {
        let (mut dice, now) = (self.dice_of_rights(), self.now());
        let is_own = holder.as_ref().map(|holder| holder.user)
            == self.devices[at].holder.as_ref().map(|holder| holder.user);
        let pass = self.permits.pass(at).cloned();
        let (Some(gate), Some(pass)) = (&mut self.permits.gate, pass) else {
            return Ok(Bearer { holder, shown: None });
        };
        let Some(asks) = &holder else {
            let shown = gate.keys[usize::from(pass.reads_only)].clone();
            return Ok(Bearer { holder, shown: Some(shown) });
        };
        let known = pass.token.filter(|token| is_own && token.user == asks.user);
        let shown = match known {
            Some(token) => token.shown,
            None => {
                let most_ms = *dice.pick(&TOKEN_MS);
                let until_ms = if gate.is_over { FOR_EVER_MS } else { now + 1 + dice.below(most_ms) };
                let shown = gate.mint(self.users.of(asks), now, until_ms)?;
                if is_own {
                    let token = Some(Token { user: asks.user, shown: shown.clone() });
                    gate.passes.entry(at).or_default().token = token;
                }
                shown
            }
        };
        Ok(Bearer { holder, shown: Some(shown) })
    }

    /// What the server lets somebody do; `None` if it does not let them in.
    pub(crate) fn admit(&mut self, bearer: &Bearer) -> Result<Option<Rights>> {
        let (Some(gate), Some(shown)) = (&self.permits.gate, &bearer.shown) else {
            return Ok(Some(Rights { read: true, write: true, schema: bearer.holder.is_none() }));
        };
        let now = self.now();
        let principal = gate.admit(shown, now)?;
        ensure!(principal.is_some() == (now < shown.good_until_ms), "who is let in: {principal:?} at {now}");
        let Some(principal) = principal else {
            self.stats.fault("expired token");
            self.note(|| "who asks has a token that is over".to_owned());
            return Ok(None);
        };
        let user = bearer.holder.as_ref().map(|holder| self.users.of(holder).id.as_str());
        ensure!(principal.user.as_ref().map(|user| user.id.as_str()) == user, "let in as {principal:?}");
        let rights = principal.rights();
        ensure!(rights.write != shown.reads_only, "{rights:?} of a key that may only read");
        Ok(Some(rights))
    }

    /// Who may only read leaves nothing on the server: what it has of their site before a request.
    pub(crate) fn traces(&self, request: &[u8], rights: Rights) -> Result<Option<BeforeTurn>> {
        if rights.write {
            return Ok(None);
        }
        let request = Request::decode(request)?;
        let (site, uploads) = (request.site.0, request.upload.is_some());
        Ok(Some(BeforeTurn { site, uploads, traces: self.traces_of(site)? }))
    }

    fn traces_of(&self, site: [u8; 16]) -> Result<Traces> {
        let eye = self.server.eye()?;
        let name: String = site.iter().map(|byte| format!("{byte:02X}")).collect();
        let mut stamps = BTreeMap::new();
        for (row, clock) in oracle::clocks(eye)? {
            stamps.extend(clock.stamps_of(&name).map(|(cell, time)| ((row.clone(), cell.to_owned()), time)));
        }
        let sql = "SELECT (SELECT count(*) FROM cloudsync_server_sites WHERE site_id = ?1) \
                   + (SELECT count(*) FROM cloudsync_server_staging WHERE site_id = ?1), \
                   (SELECT value FROM cloudsync_settings WHERE key = 'epoch')";
        let (records, epoch) = eye.query_row(sql, [site], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Traces { stamps, records, epoch })
    }

    /// The same after it, and what was answered.
    pub(crate) fn check_traces(&mut self, before: Option<BeforeTurn>, answer: &[u8]) -> Result<()> {
        let answer = Answer::decode(answer)?;
        let is_refusal = matches!(&answer, Answer::Refusal(refusal) if is_refusal(&refusal.text));
        let Some(BeforeTurn { site, uploads, traces }) = before else {
            ensure!(!is_refusal, "who may write is told that they may not");
            return Ok(());
        };
        if let Answer::Turn(turn) = &answer {
            // A round that came under a key that may write is acknowledged again.
            let is_repeated = turn.accepted.as_ref().is_some_and(|accepted| accepted.repeated);
            ensure!(!uploads || is_repeated, "changes are taken under a key that may only read");
        }
        let after = self.traces_of(site)?;
        // Others may have written on top of it meanwhile.
        let fresh = after.stamps.iter().find(|(cell, time)| traces.stamps.get(*cell) != Some(*time));
        ensure!(fresh.is_none(), "written under a key that may only read: {fresh:?}");
        ensure!(after.records == traces.records, "a key that may only read leaves a site on the server");
        ensure!(after.epoch == traces.epoch, "a key that may only read begins an epoch");
        if is_refusal {
            self.stats.fault("read-only key");
        }
        Ok(())
    }

    /// Faults are over. Who lacks a right is told so and loses nothing; then everybody gets all rights.
    pub(crate) fn give_rights_back(&mut self) -> Result<()> {
        if self.permits.gate.is_none() {
            return Ok(());
        }
        for at in 0..self.devices.len() {
            let name = self.devices[at].name.clone();
            match self.devices[at].holder.clone() {
                Some(holder) => self.sync_too_late(at, &holder).context(name)?,
                None if self.permits.reads_only(at) => self.sync_without_writing(at).context(name)?,
                None => {}
            }
        }
        if let Some(gate) = &mut self.permits.gate {
            gate.is_over = true;
            gate.passes.clear();
        }
        Ok(())
    }

    /// A sync with a token that is over changes nothing.
    fn sync_too_late(&mut self, at: usize, holder: &Holder) -> Result<()> {
        let (now, user) = (self.now(), self.users.of(holder).clone());
        if let Some(gate) = &mut self.permits.gate {
            let token = Token { user: holder.user, shown: gate.mint(&user, now, now)? };
            gate.passes.entry(at).or_default().token = Some(token);
        }
        let before = self.devices[at].processes[0].state()?;
        let is_through = self.try_sync(at, BOTH)?.is_some();
        let process = &mut self.devices[at].processes[0];
        ensure!(!is_through && process.was_not_let_in(), "a token that is over is let in");
        ensure!(process.state()? == before, "a refused token changes what a device has");
        Ok(())
    }

    /// A sync under a key that may only read: what is new comes, what was written stays unsent.
    fn sync_without_writing(&mut self, at: usize) -> Result<()> {
        let (had_unsent, _) = self.devices[at].processes[0].state()?;
        let mut is_through = self.try_sync(at, BOTH)?.is_some();
        if is_through && self.devices[at].processes[0].state()?.0 {
            // What came may have brought a row inside of a filter of which something is private, or owed.
            is_through = self.try_sync(at, BOTH)?.is_some();
        }
        let process = &mut self.devices[at].processes[0];
        let (has_unsent, said) = (process.replica.has_unsent()?, process.refused.clone());
        match is_through {
            // What was on its way may have arrived while the key could write.
            true => ensure!(
                !has_unsent,
                "a sync succeeds under a key that may not write, and leaves changes unsent"
            ),
            false if said.contains(MAY_NOT_WRITE) || checker::is_early(&said) => {
                ensure!(has_unsent || !had_unsent, "what was refused is unsent no longer");
            }
            false => bail!("a key that may only read is told: {said}"),
        }
        let is_through = self.try_sync(at, PULL)?.is_some();
        let said = &self.devices[at].processes[0].refused;
        ensure!(is_through || checker::is_early(said), "a key that may read does not receive: {said}");
        Ok(())
    }
}

/// Somebody who may only read, before a request.
pub(crate) struct BeforeTurn {
    site: [u8; 16],
    uploads: bool,
    traces: Traces,
}

impl Process {
    /// What a device has, and whether some of it is unsent. Notes alone may be of what changed nothing.
    pub(crate) fn state(&mut self) -> Result<(bool, oracle::Rows)> {
        self.replica.fold()?;
        Ok((self.replica.has_unsent()?, oracle::rows(&self.db)?))
    }

    /// The server did not let the request in: the sync ends there, whatever it was at.
    pub(crate) fn not_let_in(&mut self) {
        self.refused = REFUSED.to_owned();
        self.give_up();
    }

    /// Whether that was the last it heard.
    pub(crate) fn was_not_let_in(&self) -> bool {
        self.refused == REFUSED
    }

    /// Whether a refusal is one that a device may meet: others show a mistake.
    pub(crate) fn may_be_refused(reason: Reason, text: &str) -> bool {
        let is_known = checker::is_early(text) || is_refusal(text) || switches::is_refusal(text);
        is_known || !matches!(reason, Reason::SchemaConflict | Reason::BadPayload | Reason::Denied)
    }
}
