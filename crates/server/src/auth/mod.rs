//! Who asks: what comes in `Authorization: Bearer ...`, and what it is good for.
//!
//! An API key ([`credential`]) stands for a program of the owner and has [`Scopes`]. A token stands for one [`User`] of
//! the app: an opaque one was minted here and is looked up by its hash, a JWT ([`jwt`]) was signed by an issuer that the
//! owner has named, whose public keys may lie elsewhere ([`jwks`]).

pub mod credential;
pub mod jwks;
pub mod jwt;
mod principal;
mod scopes;

pub use principal::{By, CLAIMS_BYTES_MAX, Principal, USER_ID_BYTES_MAX, User, check_user};
pub use scopes::{Scope, Scopes};

use std::sync::Arc;

use self::credential::{Credential, Kind};
use self::jwks::KeySets;
use self::jwt::Jwt;
use crate::control::Control;
use crate::error::Result;
use crate::folder::DatabaseName;

/// What came as a bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// A key or a token of which the hash is stored here.
    Stored(Credential),
    /// A signed token.
    Signed(Jwt),
}

impl Bearer {
    /// The bearer in `text`, if that has the form of one. The form says nothing about whether it is good.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Credential::parse(text).map(Self::Stored).or_else(|| Jwt::parse(text).map(Self::Signed))
    }
}

/// Who presents this bearer for this database; `None` if it is not good for it.
///
/// # Errors
/// [`Error::Control`](crate::Error::Control) when SQLite fails.
pub fn admit(
    control: &Control,
    sets: &KeySets,
    bearer: &Bearer,
    database: Option<&DatabaseName>,
    now_ms: u64,
) -> Result<Option<Principal>> {
    let jwt = match bearer {
        Bearer::Stored(credential) => {
            return match credential.kind() {
                Kind::Key => control.key_principal(credential, database, now_ms),
                Kind::Token => control.token_principal(credential, database, now_ms),
            };
        }
        Bearer::Signed(jwt) => jwt,
    };
    let Some(database) = database else { return Ok(None) };
    let issuers = control.issuers(database)?;
    match jwt.verify(&issuers, sets, now_ms) {
        Ok((at, verified)) => Ok(Some(Principal {
            by: By::Jwt(issuers[at].id),
            is_for_all: false,
            scopes: Scopes::default(),
            user: Some(Arc::new(verified.user)),
            expires_ms: Some(verified.expires_ms),
        })),
        Err(refused) => {
            tracing::info!(db = %database, why = %refused, "a signed token was refused");
            Ok(None)
        }
    }
}
