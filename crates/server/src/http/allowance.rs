//! How much one caller may ask for: so many requests a second, and so many listeners at one time.
//!
//! A caller is an API key, or a user of a database with all tokens and devices together. Each has a bucket that fills
//! evenly and holds ten seconds' worth; a request takes one from it. Where the owner wishes it, an address has such a bucket
//! for keys and tokens that were refused. Buckets that are full say nothing that a missing one
//! would not, so they are forgotten when there are many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::Client;
use super::error::HttpError;
use crate::auth::{By, Principal};
use crate::config::{Config, Shares};
use crate::folder::DatabaseName;

/// For how many seconds of silence a caller has a reserve.
const RESERVE_S: u64 = 10;
/// Parts of a request that buckets count in: the rate is then exact in whole milliseconds.
const PARTS: u64 = 1000;
/// Callers that are remembered.
const CALLERS_MAX: usize = 100_000;
/// When a caller with too many listeners may ask again: one of them must end first.
const LISTENER_RETRY_S: u64 = 30;

/// What each caller has left.
pub(super) struct Allowances {
    key: Shares,
    user: Shares,
    /// Refused keys and tokens a second of one address; 0 stands for any number.
    refusals_per_s: u64,
    callers: Arc<Mutex<HashMap<Caller, Left>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Caller {
    Key(i64),
    User(DatabaseName, String),
    /// Somebody whose key or token was refused.
    Stranger(IpAddr),
}

#[derive(Debug)]
struct Left {
    /// Of requests, in [`PARTS`].
    parts: u64,
    at: Instant,
    listeners: u64,
}

/// A listener that is counted, until it is dropped.
pub(super) struct Counted {
    callers: Arc<Mutex<HashMap<Caller, Left>>>,
    caller: Caller,
}

impl Allowances {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            key: config.key,
            user: config.user,
            refusals_per_s: config.refusals_per_s,
            callers: Arc::default(),
        }
    }

    /// Takes one request from what the caller has left.
    ///
    /// # Errors
    /// [`HttpError::TooMany`] with the time until there is one again.
    pub(super) fn take(
        &self,
        who: &Principal,
        database: &DatabaseName,
        now: Instant,
    ) -> Result<(), HttpError> {
        let (caller, shares) = self.caller(who, database);
        let rate = shares.requests_per_s;
        if rate == 0 {
            return Ok(());
        }
        let mut callers = lock(&self.callers);
        let left = entry(&mut callers, caller, rate, now);
        left.check(rate, now)?;
        left.parts -= PARTS;
        Ok(())
    }

    /// Turns an address away from which too many keys and tokens were refused, before anything is judged.
    ///
    /// # Errors
    /// [`HttpError::TooMany`] with the time until it may try again.
    pub(super) fn may_try(&self, client: Client, now: Instant) -> Result<(), HttpError> {
        let rate = self.refusals_per_s;
        if rate == 0 {
            return Ok(());
        }
        let mut callers = lock(&self.callers);
        // Most addresses were never refused anything, and nothing is kept of them.
        match callers.get_mut(&Caller::Stranger(client.network())) {
            Some(left) => left.check(rate, now),
            None => Ok(()),
        }
    }

    /// Takes one try from what an address has left, since its key or token was refused.
    pub(super) fn note_refused(&self, client: Client, now: Instant) {
        let rate = self.refusals_per_s;
        if rate > 0 {
            let mut callers = lock(&self.callers);
            let left = entry(&mut callers, Caller::Stranger(client.network()), rate, now);
            left.refill(rate, now);
            left.parts = left.parts.saturating_sub(PARTS);
        }
    }

    /// Counts one more listener.
    ///
    /// # Errors
    /// [`HttpError::TooMany`] when the caller has as many as it may.
    pub(super) fn listen(
        &self,
        who: &Principal,
        database: &DatabaseName,
        now: Instant,
    ) -> Result<Counted, HttpError> {
        let (caller, shares) = self.caller(who, database);
        let mut callers = lock(&self.callers);
        let left = entry(&mut callers, caller.clone(), shares.requests_per_s, now);
        if shares.listeners > 0 && left.listeners >= shares.listeners {
            return Err(HttpError::TooMany(LISTENER_RETRY_S));
        }
        left.listeners += 1;
        Ok(Counted { callers: Arc::clone(&self.callers), caller })
    }

    fn caller(&self, who: &Principal, database: &DatabaseName) -> (Caller, Shares) {
        match (&who.user, who.by) {
            (Some(user), _) => (Caller::User(database.clone(), user.id.clone()), self.user),
            (None, By::Key(id)) => (Caller::Key(id.0), self.key),
            // Neither comes without a user.
            (None, By::Token(_) | By::Jwt(_)) => (Caller::User(database.clone(), String::new()), self.user),
        }
    }
}

impl Left {
    /// Whether there is one request left.
    fn check(&mut self, rate: u64, now: Instant) -> Result<(), HttpError> {
        self.refill(rate, now);
        match PARTS.saturating_sub(self.parts) {
            0 => Ok(()),
            missing => Err(HttpError::TooMany(missing.div_ceil(rate * PARTS).max(1))),
        }
    }

    fn refill(&mut self, rate: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.parts = self.parts.saturating_add(elapsed_ms.saturating_mul(rate)).min(full(rate));
        // What is less than a millisecond counts the next time.
        self.at += Duration::from_millis(elapsed_ms);
    }
}

const fn full(rate: u64) -> u64 {
    rate.saturating_mul(RESERVE_S * PARTS)
}

/// What a caller has left; all of it if nothing is known.
fn entry(callers: &mut HashMap<Caller, Left>, caller: Caller, rate: u64, now: Instant) -> &mut Left {
    if callers.len() >= CALLERS_MAX && !callers.contains_key(&caller) {
        let reserve = Duration::from_secs(RESERVE_S);
        callers.retain(|_, left| left.listeners > 0 || now.saturating_duration_since(left.at) < reserve);
        if callers.len() >= CALLERS_MAX {
            // So many at one time are better served than remembered.
            callers.retain(|_, left| left.listeners > 0);
        }
    }
    callers.entry(caller).or_insert_with(|| Left { parts: full(rate), at: now, listeners: 0 })
}

fn lock(callers: &Mutex<HashMap<Caller, Left>>) -> MutexGuard<'_, HashMap<Caller, Left>> {
    callers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(left) = lock(&self.callers).get_mut(&self.caller) {
            left.listeners = left.listeners.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Scopes, User};
    use crate::control::{KeyId, TokenId};

    fn allowances() -> Allowances {
        let shares = |requests_per_s, listeners| Shares { requests_per_s, listeners };
        Allowances { key: shares(0, 0), user: shares(2, 1), refusals_per_s: 1, callers: Arc::default() }
    }

    fn user(id: &str, token: i64) -> Principal {
        let user = Arc::new(User { id: id.to_owned(), claims: serde_json::Map::new() });
        let by = By::Token(TokenId(token));
        Principal { by, is_for_all: false, scopes: Scopes::default(), user: Some(user), expires_ms: None }
    }

    #[test]
    fn a_user_has_a_reserve_and_then_so_many_requests_a_second_with_all_tokens_together() {
        let (allowances, database, mut now) = (allowances(), DatabaseName::new("d").unwrap(), Instant::now());
        let take = |id, token, now| allowances.take(&user(id, token), &database, now);
        for token in 0..20 {
            take("alice", token, now).unwrap();
        }
        assert_eq!(take("alice", 99, now), Err(HttpError::TooMany(1)));
        take("bob", 1, now).unwrap();
        for _ in 0..10 {
            now += Duration::from_millis(499);
            assert!(take("alice", 1, now).is_err());
            now += Duration::from_millis(1);
            take("alice", 1, now).unwrap();
        }
        now += Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| take("alice", 1, now).is_ok()).count(), 20);
        let other = DatabaseName::new("other").unwrap();
        allowances.take(&user("alice", 1), &other, now).unwrap();
    }

    #[test]
    fn an_address_that_is_refused_too_often_waits() {
        let (allowances, mut now) = (allowances(), Instant::now());
        let client = |text: &str| Client(text.parse().unwrap());
        for _ in 0..RESERVE_S {
            allowances.may_try(client("5.6.7.8"), now).unwrap();
            allowances.note_refused(client("5.6.7.8"), now);
        }
        assert_eq!(allowances.may_try(client("5.6.7.8"), now), Err(HttpError::TooMany(1)));
        allowances.may_try(client("5.6.7.9"), now).unwrap();
        now += Duration::from_secs(1);
        allowances.may_try(client("5.6.7.8"), now).unwrap();
        // Whoever has an IPv6 address has many.
        (0..RESERVE_S).for_each(|at| allowances.note_refused(client(&format!("2001:db8::{at:x}")), now));
        assert!(allowances.may_try(client("2001:db8::ffff"), now).is_err());
        assert!(allowances.may_try(client("2001:db8:0:1::"), now).is_ok());
    }

    #[test]
    fn listeners_are_counted_while_they_last() {
        let (allowances, database, now) = (allowances(), DatabaseName::new("d").unwrap(), Instant::now());
        let listen = |id| allowances.listen(&user(id, 1), &database, now);
        let first = listen("alice").unwrap();
        assert_eq!(listen("alice").err(), Some(HttpError::TooMany(LISTENER_RETRY_S)));
        let _other = listen("bob").unwrap();
        drop(first);
        listen("alice").unwrap();
        let key = Principal { by: By::Key(KeyId(1)), user: None, ..user("", 1) };
        let many: Vec<_> = (0..1000).map(|_| allowances.listen(&key, &database, now).unwrap()).collect();
        assert_eq!(many.len(), 1000);
    }

    #[test]
    fn the_memory_of_callers_is_bounded() {
        let (allowances, database, now) = (allowances(), DatabaseName::new("d").unwrap(), Instant::now());
        let _listening = allowances.listen(&user("first", 1), &database, now).unwrap();
        for id in 0..CALLERS_MAX + 10 {
            allowances.take(&user(&id.to_string(), 1), &database, now).unwrap();
        }
        assert!(lock(&allowances.callers).len() <= CALLERS_MAX);
        assert!(allowances.listen(&user("first", 1), &database, now).is_err());
    }
}
