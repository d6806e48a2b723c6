//! Tokens that were minted here, each for one user of one database.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::params;
use serde::Serialize;
use serde_json::{Map, Value};

use super::credentials::Table;
use super::{Control, iso};
use crate::auth::credential::{Credential, Kind};
use crate::auth::{By, Principal, Scopes, User, check_user};
use crate::error::{Error, Result};
use crate::folder::DatabaseName;

// language=SQLite
const SELECT_TOKENS: &str = concat!(
    "SELECT id, prefix, database, user, claims, ",
    iso!("created_ms"),
    ", ",
    iso!("last_used_ms"),
    ", ",
    iso!("expires_ms"),
    ", ",
    iso!("revoked_ms"),
    " FROM tokens WHERE ?1 IS NULL OR database = ?1 ORDER BY id"
);

// language=SQLite
const SELECT_TOKEN: &str = "
SELECT hash, id, last_used_ms, expires_ms, database, user, claims FROM tokens WHERE hash = ?1 AND revoked_ms IS NULL";

// language=SQLite
const INSERT_TOKEN: &str = "
INSERT INTO tokens (prefix, hash, database, user, claims, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// Tokens that have been over for so long are forgotten when another one is minted, in milliseconds: nobody could use
/// them, and the register must not grow for ever.
const KEPT_MS: u64 = 30 * 24 * 3_600_000;

/// Longest time for which a token is good, in seconds.
pub const TOKEN_S_MAX: u64 = 366 * 24 * 3_600;

/// The number by which commands name a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TokenId(pub i64);

/// One token as lists show it, which is not enough to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRecord {
    /// Its number.
    pub id: TokenId,
    /// Its first characters.
    pub prefix: String,
    /// The one database that it opens.
    pub database: String,
    /// The user's id.
    pub user: String,
    /// What else is known of the user.
    pub claims: Map<String, Value>,
    /// When it was minted, as ISO 8601 in UTC.
    pub created: String,
    /// When it was last used, at most an hour too early.
    pub last_used: Option<String>,
    /// When it is over.
    pub expires: String,
    /// When it was revoked.
    pub revoked: Option<String>,
}

/// A token to be minted.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    /// The database that it opens.
    pub database: &'a DatabaseName,
    /// Whose it is.
    pub user: User,
    /// When it is over, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Control {
    /// Mints a token. This is the only time that it is known.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], [`Error::User`], [`Error::Random`], or [`Error::Control`] when SQLite fails.
    pub fn mint_token(&self, new: &NewToken<'_>, now_ms: u64) -> Result<(TokenId, Credential)> {
        self.require_database(new.database)?;
        check_user(&new.user)?;
        let token = Credential::generate(Kind::Token)?;
        let claims =
            serde_json::to_string(&new.user.claims).map_err(|error| Error::User(error.to_string()))?;
        let (hash, forgotten_ms) = (token.hash().0, now_ms.saturating_sub(KEPT_MS).cast_signed());
        let (now_ms, expires_ms) = (now_ms.cast_signed(), new.expires_ms.min(i64::MAX as u64).cast_signed());
        let id = self.with(|connection| {
            connection.execute("DELETE FROM tokens WHERE expires_ms < ?1", [forgotten_ms])?;
            let database = new.database.as_str();
            let values = params![token.prefix(), hash, database, new.user.id, claims, now_ms, expires_ms];
            connection.execute(INSERT_TOKEN, values)?;
            Ok(TokenId(connection.last_insert_rowid()))
        })?;
        Ok((id, token))
    }

    /// The tokens of a database, or of all, the oldest first.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn tokens(&self, database: Option<&DatabaseName>) -> Result<Vec<TokenRecord>> {
        self.select(SELECT_TOKENS, [database.map(DatabaseName::as_str)], |row| {
            Ok(TokenRecord {
                id: TokenId(row.get(0)?),
                prefix: row.get(1)?,
                database: row.get(2)?,
                user: row.get(3)?,
                claims: read_claims(&row.get::<_, String>(4)?),
                created: row.get(5)?,
                last_used: row.get(6)?,
                expires: row.get(7)?,
                revoked: row.get(8)?,
            })
        })
    }

    /// The users of a database that have tokens, with the claims of their last ones; those of a revoked one count only where
    /// there is no other.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn known_users(&self, database: &DatabaseName) -> Result<Vec<User>> {
        let mut tokens = self.tokens(Some(database))?;
        tokens.sort_by_key(|token| token.revoked.is_none());
        let users: BTreeMap<_, _> = tokens.into_iter().map(|token| (token.user, token.claims)).collect();
        Ok(users.into_iter().map(|(id, claims)| User { id, claims }).collect())
    }

    /// Revokes the token of this id, of this whole text or with this beginning, and gives its id; with a database only
    /// among its tokens. Revoking again is no error.
    ///
    /// # Errors
    /// [`Error::NoCredential`], [`Error::AmbiguousCredential`], or [`Error::Control`] when SQLite fails.
    pub fn revoke_token(&self, database: Option<&DatabaseName>, which: &str, now_ms: u64) -> Result<TokenId> {
        let all = self.tokens(database)?.into_iter().map(|token| (token.id.0, token.prefix));
        self.revoke(Table::Tokens, which, all, now_ms).map(TokenId)
    }

    /// Who presents this token for this database; `None` for an unknown, expired or revoked one and for one of another
    /// database.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn token_principal(
        &self,
        token: &Credential,
        database: Option<&DatabaseName>,
        now_ms: u64,
    ) -> Result<Option<Principal>> {
        let found = self.find(Table::Tokens, SELECT_TOKEN, token.hash(), now_ms, |row| {
            let (of, id): (String, String) = (row.get(4)?, row.get(5)?);
            Ok((of, User { id, claims: read_claims(&row.get::<_, String>(6)?) }))
        })?;
        let Some(found) = found else { return Ok(None) };
        let (of, user) = found.rest;
        if database.is_none_or(|name| name.as_str() != of) {
            return Ok(None);
        }
        Ok(Some(Principal {
            by: By::Token(TokenId(found.id)),
            is_for_all: false,
            scopes: Scopes::default(),
            user: Some(Arc::new(user)),
            expires_ms: found.expires_ms,
        }))
    }
}

/// The claims of a stored token; what is no object gives none.
fn read_claims(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{control, name};
    use super::*;

    fn alice() -> User {
        User { id: "alice".into(), claims: Map::from_iter([("team".to_owned(), Value::from(7))]) }
    }

    #[test]
    fn a_token_stands_for_its_user_in_its_database_until_it_is_over() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        let new = NewToken { database: &one, user: alice(), expires_ms: 1_000 };
        let (id, token) = control.mint_token(&new, 5).unwrap();
        let principal = |database: Option<&str>, now_ms| {
            control.token_principal(&token, database.map(name).as_ref(), now_ms).unwrap()
        };
        let good = principal(Some("one"), 999).unwrap();
        assert_eq!((good.by, good.user.as_deref()), (By::Token(id), Some(&alice())));
        assert_eq!(good.scopes, Scopes::default());
        assert_eq!(principal(Some("one"), 1_000), None);
        assert_eq!(principal(Some("two"), 5), None);
        assert_eq!(principal(None, 5), None);
        let listed = control.tokens(Some(&one)).unwrap().remove(0);
        assert_eq!((listed.user.as_str(), listed.claims["team"].clone()), ("alice", Value::from(7)));
        assert_eq!(control.tokens(Some(&name("two"))).unwrap(), []);
    }

    #[test]
    fn a_token_is_revoked_by_whoever_names_it_in_its_database() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        let new = NewToken { database: &one, user: alice(), expires_ms: 1_000 };
        let (id, token) = control.mint_token(&new, 5).unwrap();
        let other = control.revoke_token(Some(&name("two")), token.prefix(), 6);
        assert!(matches!(other, Err(Error::NoCredential(_))));
        assert_eq!(control.revoke_token(Some(&one), token.prefix(), 6).unwrap(), id);
        assert_eq!(control.token_principal(&token, Some(&one), 7).unwrap(), None);
    }

    #[test]
    fn users_are_known_by_their_last_tokens_that_are_good() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        let mint = |team: i64| {
            let claims = Map::from_iter([("team".to_owned(), Value::from(team))]);
            let user = User { claims, ..alice() };
            control.mint_token(&NewToken { database: &one, user, expires_ms: 1_000 }, 5).unwrap().1
        };
        let team = || control.known_users(&one).unwrap()[0].claims["team"].clone();
        let tokens = [mint(1), mint(2), mint(3)];
        for (token, after) in tokens.iter().rev().zip([2, 1, 3]) {
            control.revoke_token(Some(&one), token.prefix(), 6).unwrap();
            assert_eq!(team(), after);
        }
    }

    #[test]
    fn tokens_that_were_over_long_ago_are_forgotten() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        let mint = |expires_ms, now_ms| {
            control.mint_token(&NewToken { database: &one, user: alice(), expires_ms }, now_ms).unwrap().0
        };
        let (first, second) = (mint(1_000, 5), mint(2_000, 5));
        let third = mint(KEPT_MS * 2, KEPT_MS + 1_001);
        let left: Vec<_> = control.tokens(None).unwrap().into_iter().map(|token| token.id).collect();
        assert_eq!(left, [second, third]);
        assert_ne!(first, third);
    }

    #[test]
    fn users_are_checked_before_anything_is_stored() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        let nobody = User { id: String::new(), ..alice() };
        let new = NewToken { database: &one, user: nobody, expires_ms: 1_000 };
        assert!(matches!(control.mint_token(&new, 5), Err(Error::User(_))));
        assert_eq!(control.tokens(None).unwrap(), []);
    }
}
