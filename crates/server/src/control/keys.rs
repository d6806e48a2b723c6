//! API keys.

use rusqlite::params;
use serde::Serialize;

use super::credentials::Table;
use super::{Control, iso};
use crate::auth::credential::{Credential, Kind};
use crate::auth::{By, Principal, Scopes};
use crate::error::Result;
use crate::folder::DatabaseName;

// language=SQLite
const SELECT_KEYS: &str = concat!(
    "SELECT id, prefix, name, database, scopes, ",
    iso!("created_ms"),
    ", ",
    iso!("last_used_ms"),
    ", ",
    iso!("expires_ms"),
    ", ",
    iso!("revoked_ms"),
    " FROM keys ORDER BY id"
);

// language=SQLite
const SELECT_KEY: &str = "
SELECT hash, id, last_used_ms, expires_ms, database, scopes FROM keys WHERE hash = ?1 AND revoked_ms IS NULL";

// language=SQLite
const INSERT_KEY: &str = "
INSERT INTO keys (prefix, name, hash, database, scopes, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// The number by which commands name a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct KeyId(pub i64);

/// One key as lists show it, which is not enough to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Its number.
    pub id: KeyId,
    /// Its first characters.
    pub prefix: String,
    /// What its owner calls it, or nothing.
    pub name: String,
    /// The one database that it opens; `None` if it opens all.
    pub database: Option<String>,
    /// What it may do, as words.
    pub scopes: String,
    /// When it was created, as ISO 8601 in UTC.
    pub created: String,
    /// When it was last used, at most an hour too early.
    pub last_used: Option<String>,
    /// When it is over.
    pub expires: Option<String>,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// A key to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    /// The one database that it opens; `None` for all.
    pub database: Option<&'a DatabaseName>,
    /// What its owner calls it.
    pub name: &'a str,
    /// What it may do.
    pub scopes: Scopes,
    /// When it is over, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl NewKey<'static> {
    /// A key that may do everything, everywhere and for ever.
    #[must_use]
    pub const fn for_all(name: &'static str) -> Self {
        Self { database: None, name, scopes: Scopes::ADMIN, expires_ms: None }
    }
}

impl Control {
    /// Makes a key. This is the only time that it is known.
    ///
    /// # Errors
    /// [`Error::NoDatabase`](crate::Error::NoDatabase), [`Error::Random`](crate::Error::Random), or
    /// [`Error::Control`](crate::Error::Control) when SQLite fails.
    pub fn create_key(&self, new: NewKey<'_>, now_ms: u64) -> Result<(KeyId, Credential)> {
        new.database.map_or(Ok(()), |database| self.require_database(database))?;
        let key = Credential::generate(Kind::Key)?;
        let (hash, scopes) = (key.hash().0, new.scopes.to_string());
        let database = new.database.map(DatabaseName::as_str);
        let expires_ms = new.expires_ms.map(u64::cast_signed);
        let id = self.with(|connection| {
            let values =
                params![key.prefix(), new.name, hash, database, scopes, now_ms.cast_signed(), expires_ms];
            connection.execute(INSERT_KEY, values)?;
            Ok(KeyId(connection.last_insert_rowid()))
        })?;
        Ok((id, key))
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    /// [`Error::Control`](crate::Error::Control) when SQLite fails.
    pub fn keys(&self) -> Result<Vec<KeyRecord>> {
        self.select(SELECT_KEYS, [], |row| {
            Ok(KeyRecord {
                id: KeyId(row.get(0)?),
                prefix: row.get(1)?,
                name: row.get(2)?,
                database: row.get(3)?,
                scopes: row.get(4)?,
                created: row.get(5)?,
                last_used: row.get(6)?,
                expires: row.get(7)?,
                revoked: row.get(8)?,
            })
        })
    }

    /// Revokes the key of this id, of this whole text or with this beginning, and gives its id. Revoking again is no
    /// error.
    ///
    /// # Errors
    /// [`Error::NoCredential`](crate::Error::NoCredential),
    /// [`Error::AmbiguousCredential`](crate::Error::AmbiguousCredential), or
    /// [`Error::Control`](crate::Error::Control) when SQLite fails.
    pub fn revoke_key(&self, which: &str, now_ms: u64) -> Result<KeyId> {
        let all = self.keys()?.into_iter().map(|key| (key.id.0, key.prefix));
        self.revoke(Table::Keys, which, all, now_ms).map(KeyId)
    }

    /// Who presents this key for this database; `None` for an unknown, expired or revoked key and for one of another
    /// database. With no database only a key for all of them is good.
    ///
    /// # Errors
    /// [`Error::Control`](crate::Error::Control) when SQLite fails.
    pub fn key_principal(
        &self,
        key: &Credential,
        database: Option<&DatabaseName>,
        now_ms: u64,
    ) -> Result<Option<Principal>> {
        let found = self.find(Table::Keys, SELECT_KEY, key.hash(), now_ms, |row| {
            Ok((row.get::<_, Option<String>>(4)?, row.get::<_, String>(5)?))
        })?;
        let Some(found) = found else { return Ok(None) };
        let (of, scopes) = found.rest;
        if of.as_deref().is_some_and(|of| database.is_none_or(|name| name.as_str() != of)) {
            return Ok(None);
        }
        Ok(Some(Principal {
            by: By::Key(KeyId(found.id)),
            is_for_all: of.is_none(),
            // Words that a later version knows give nothing here.
            scopes: scopes.parse().unwrap_or_default(),
            user: None,
            expires_ms: found.expires_ms,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{control, name};
    use super::*;
    use crate::auth::Scope;
    use crate::error::Error;

    #[test]
    fn a_key_opens_its_database_until_another_process_revokes_it() {
        let (_temp, folder, control) = control();
        control.create_database(&name("one"), 0).unwrap();
        let one = name("one");
        let mine = NewKey { database: Some(&one), name: "mine", ..NewKey::for_all("") };
        let (id, key) = control.create_key(mine, 5).unwrap();
        let (_, all) = control.create_key(NewKey::for_all(""), 5).unwrap();
        let is_good = |key: &Credential, database: Option<&str>| {
            let database = database.map(name);
            control.key_principal(key, database.as_ref(), 9).unwrap().is_some()
        };
        assert!(is_good(&key, Some("one")) && !is_good(&key, Some("two")) && !is_good(&key, None));
        assert!(is_good(&all, Some("one")) && is_good(&all, Some("two")) && is_good(&all, None));
        assert!(!is_good(&Credential::generate(Kind::Key).unwrap(), Some("one")));
        assert_eq!(Control::open(&folder).unwrap().revoke_key(key.prefix(), 10).unwrap(), id);
        assert!(!is_good(&key, Some("one")) && is_good(&all, Some("one")));
        let two = name("two");
        let unknown = NewKey { database: Some(&two), ..NewKey::for_all("") };
        assert!(matches!(control.create_key(unknown, 0), Err(Error::NoDatabase(_))));
    }

    #[test]
    fn a_key_may_do_what_its_scopes_say_until_it_is_over() {
        let (_temp, _folder, control) = control();
        let scopes = "read".parse().unwrap();
        let (_, key) =
            control.create_key(NewKey { scopes, expires_ms: Some(100), ..NewKey::for_all("") }, 5).unwrap();
        let principal = |now_ms| control.key_principal(&key, None, now_ms).unwrap();
        let reader = principal(99).unwrap();
        assert!(reader.scopes.has(Scope::Read) && !reader.scopes.has(Scope::Write));
        assert!(reader.is_good_at(99) && !reader.is_good_at(100));
        assert_eq!(principal(100), None);
        assert_eq!(control.keys().unwrap()[0].expires.as_deref(), Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn keys_are_named_by_id_beginning_or_whole() {
        let (_temp, _folder, control) = control();
        let (one, key) = control.create_key(NewKey::for_all(""), 5).unwrap();
        let (two, _) = control.create_key(NewKey::for_all(""), 5).unwrap();
        assert_eq!(control.revoke_key(key.reveal(), 7_000).unwrap(), one);
        assert_eq!(control.revoke_key(&two.0.to_string(), 7_000).unwrap(), two);
        assert_eq!(control.revoke_key(&two.0.to_string(), 9_000).unwrap(), two);
        assert!(matches!(control.revoke_key("csk_", 7), Err(Error::AmbiguousCredential(_))));
        for unknown in ["", "9", "-1", "csk_?", "x", "cst_"] {
            assert!(matches!(control.revoke_key(unknown, 7), Err(Error::NoCredential(_))), "{unknown:?}");
        }
        let revoked: Vec<_> = control.keys().unwrap().into_iter().filter_map(|key| key.revoked).collect();
        assert_eq!(revoked, ["1970-01-01T00:00:07Z", "1970-01-01T00:00:07Z"]);
    }

    #[test]
    fn use_is_noted_once_an_hour_and_the_secret_never() {
        let (_temp, folder, control) = control();
        let (_, key) = control.create_key(NewKey::for_all(""), 0).unwrap();
        let used = |now_ms| {
            control.key_principal(&key, None, now_ms).unwrap().unwrap();
            control.keys().unwrap().remove(0).last_used.unwrap()
        };
        assert_eq!(used(1_000), "1970-01-01T00:00:01Z");
        assert_eq!(used(3_600_000), "1970-01-01T00:00:01Z");
        assert_eq!(used(3_601_000), "1970-01-01T01:00:01Z");
        control.lock().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let stored = std::fs::read(folder.control_path()).unwrap();
        let secret = &key.reveal().as_bytes()[12..];
        assert!(!stored.windows(secret.len()).any(|bytes| bytes == secret));
    }
}
