//! Issuers of signed tokens whom the owner of a database trusts.

use std::fmt;
use std::sync::Arc;

use rusqlite::{Row, params};
use serde::Serialize;

use super::{Control, iso};
use crate::auth::jwks::{PublicKey, is_safe_url};
use crate::error::{Error, Result};
use crate::folder::DatabaseName;

// language=SQLite
const SELECT_ISSUERS: &str = concat!(
    "SELECT id, issuer, audiences, user_claim, kind, trust, database, ",
    iso!("created_ms"),
    " FROM issuers WHERE ?1 IS NULL OR database = ?1 ORDER BY id"
);

// language=SQLite
const INSERT_ISSUER: &str = "
INSERT INTO issuers (database, issuer, audiences, user_claim, kind, trust, created_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// Shortest secret, in bytes: as long as the hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Longest secret and longest other text of an issuer, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Most audiences of one issuer.
const AUDIENCES_MAX: usize = 16;
/// Most issuers of one database: each of them may be tried for a token.
const ISSUERS_MAX: usize = 16;

/// The number by which commands name an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct IssuerId(pub i64);

/// A secret that an issuer shares with this server. Printing it for debugging shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(...)")
    }
}

/// By what an issuer's signatures are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A shared secret, for HS256.
    Secret(Secret),
    /// A set of public keys (JWKS), as JSON.
    Keys(String),
    /// The URL of such a set.
    Url(String),
}

impl Trust {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::Keys(_) => "keys",
            Self::Url(_) => "url",
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Secret(secret) => &secret.0,
            Self::Keys(text) | Self::Url(text) => text.as_bytes(),
        }
    }

    fn read(kind: &str, bytes: Vec<u8>) -> Self {
        match kind {
            "secret" => Self::Secret(Secret(bytes)),
            "url" => Self::Url(String::from_utf8_lossy(&bytes).into_owned()),
            _ => Self::Keys(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        match self {
            Self::Secret(Secret(bytes)) if bytes.len() < SECRET_BYTES_MIN || bytes.len() > TEXT_BYTES_MAX => {
                Err(format!("the secret must have {SECRET_BYTES_MIN} to {TEXT_BYTES_MAX} bytes"))
            }
            Self::Secret(_) => Ok(()),
            Self::Keys(json) => PublicKey::read_set(json.as_bytes()).map(drop),
            Self::Url(url) if url.len() > TEXT_BYTES_MAX || !is_safe_url(url) => {
                Err("the keys must be at an https URL".into())
            }
            Self::Url(_) => Ok(()),
        }
    }
}

/// An issuer as its tokens are judged by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its number.
    pub id: IssuerId,
    /// What `iss` must be.
    pub issuer: String,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// By what its signatures are verified.
    pub trust: Trust,
}

/// An issuer as lists show it, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssuerRecord {
    /// Its number.
    pub id: IssuerId,
    /// The database.
    pub database: String,
    /// What `iss` must be.
    pub issuer: String,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// `secret`, `keys`, or the URL of the keys.
    pub trust: String,
    /// When it was added, as ISO 8601 in UTC.
    pub created: String,
}

/// An issuer to be added.
#[derive(Debug, Clone)]
pub struct NewIssuer<'a> {
    /// The database.
    pub database: &'a DatabaseName,
    /// What `iss` must be.
    pub issuer: &'a str,
    /// One of these must be in `aud`.
    pub audiences: &'a [String],
    /// The claim that names the user.
    pub user_claim: &'a str,
    /// By what its signatures are verified.
    pub trust: Trust,
}

impl NewIssuer<'_> {
    fn check(&self) -> Result<()> {
        let fail = |why: String| Err(Error::Issuer(why));
        let is_text = |text: &str| !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
        if !is_text(self.issuer) || !is_text(self.user_claim) {
            return fail(format!("issuer and claim must have 1 to {TEXT_BYTES_MAX} bytes"));
        }
        let (count, is_good) = (self.audiences.len(), self.audiences.iter().all(|text| is_text(text)));
        if count == 0 || count > AUDIENCES_MAX || !is_good {
            return fail(format!(
                "name 1 to {AUDIENCES_MAX} audiences, so that tokens for other programs do not fit"
            ));
        }
        self.trust.check().or_else(fail)
    }
}

impl Control {
    /// Adds an issuer.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], [`Error::Issuer`] with the bound that is broken, or [`Error::Control`] when SQLite fails.
    pub fn add_issuer(&self, new: &NewIssuer<'_>, now_ms: u64) -> Result<IssuerId> {
        self.require_database(new.database)?;
        new.check()?;
        if self.issuers(new.database)?.len() >= ISSUERS_MAX {
            return Err(Error::Issuer(format!("a database has at most {ISSUERS_MAX} issuers: remove one")));
        }
        let audiences =
            serde_json::to_string(new.audiences).map_err(|error| Error::Issuer(error.to_string()))?;
        let (kind, trust) = (new.trust.kind(), new.trust.bytes());
        self.with(|connection| {
            let database = new.database.as_str();
            let values =
                params![database, new.issuer, audiences, new.user_claim, kind, trust, now_ms.cast_signed()];
            connection.execute(INSERT_ISSUER, values)?;
            Ok(IssuerId(connection.last_insert_rowid()))
        })
    }

    /// The issuers of a database, the oldest first.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn issuers(&self, database: &DatabaseName) -> Result<Vec<Arc<Issuer>>> {
        self.select(SELECT_ISSUERS, [Some(database.as_str())], |row| read(row).map(Arc::new))
    }

    /// The issuers of a database, or of all, as lists show them.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn list_issuers(&self, database: Option<&DatabaseName>) -> Result<Vec<IssuerRecord>> {
        self.select(SELECT_ISSUERS, [database.map(DatabaseName::as_str)], |row| {
            let issuer = read(row)?;
            let trust = match issuer.trust {
                Trust::Url(url) => url,
                other => other.kind().to_owned(),
            };
            Ok(IssuerRecord {
                id: issuer.id,
                database: row.get(6)?,
                issuer: issuer.issuer,
                audiences: issuer.audiences,
                user_claim: issuer.user_claim,
                trust,
                created: row.get(7)?,
            })
        })
    }

    /// Removes an issuer: its tokens open nothing from now on.
    ///
    /// # Errors
    /// [`Error::NoIssuer`], or [`Error::Control`] when SQLite fails.
    pub fn remove_issuer(&self, id: IssuerId) -> Result<()> {
        let removed =
            self.with(|connection| connection.execute("DELETE FROM issuers WHERE id = ?1", [id.0]))?;
        if removed == 0 { Err(Error::NoIssuer(id.0)) } else { Ok(()) }
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Issuer> {
    let (audiences, kind): (String, String) = (row.get(2)?, row.get(4)?);
    Ok(Issuer {
        id: IssuerId(row.get(0)?),
        issuer: row.get(1)?,
        // Damaged audiences let nobody in.
        audiences: serde_json::from_str(&audiences).unwrap_or_default(),
        user_claim: row.get(3)?,
        trust: Trust::read(&kind, row.get(5)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{control, name};
    use super::*;

    #[test]
    fn issuers_are_checked_kept_and_removed() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        let audiences = ["notes".to_owned()];
        let secret = Trust::Secret(Secret(vec![1; 32]));
        let new = |trust: Trust| NewIssuer {
            database: &one,
            issuer: "https://id.example",
            audiences: &audiences,
            user_claim: "sub",
            trust,
        };
        let id = control.add_issuer(&new(secret.clone()), 5).unwrap();
        let url = control.add_issuer(&new(Trust::Url("https://id.example/keys".into())), 5).unwrap();
        let issuers = control.issuers(&one).unwrap();
        assert_eq!((issuers[0].id, &issuers[0].trust), (id, &secret));
        let listed = control.list_issuers(None).unwrap();
        assert_eq!([&listed[0].trust, &listed[1].trust], ["secret", "https://id.example/keys"]);
        control.remove_issuer(id).unwrap();
        assert!(matches!(control.remove_issuer(id), Err(Error::NoIssuer(_))));
        assert_eq!(control.issuers(&one).unwrap()[0].id, url);
        assert_eq!(control.issuers(&name("two")).unwrap(), []);
        for trust in [
            Trust::Secret(Secret(vec![1; 31])),
            Trust::Url("http://id.example/keys".into()),
            Trust::Keys("{}".into()),
        ] {
            assert!(matches!(control.add_issuer(&new(trust), 5), Err(Error::Issuer(_))));
        }
        let nobody = NewIssuer { audiences: &[], ..new(secret) };
        assert!(matches!(control.add_issuer(&nobody, 5), Err(Error::Issuer(_))));
    }
}
