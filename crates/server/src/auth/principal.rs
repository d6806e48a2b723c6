//! Who asks, once the bearer has been found good.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Scope, Scopes};
use crate::control::{IssuerId, KeyId, TokenId};
use crate::error::{Error, Result};
use crate::store::Rights;

/// Longest id of a user, in bytes.
pub const USER_ID_BYTES_MAX: usize = 255;
/// Longest claims of a user, in bytes of JSON.
pub const CLAIMS_BYTES_MAX: usize = 8 << 10;

/// One user of the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id, 1 to [`USER_ID_BYTES_MAX`] bytes.
    pub id: String,
    /// What else is known of the user, for policies.
    pub claims: Map<String, Value>,
}

/// Checks a user that comes from outside.
///
/// # Errors
/// [`Error::User`] with the bound that is broken.
pub fn check_user(user: &User) -> Result<()> {
    let fail = |why: String| Err(Error::User(why));
    if user.id.is_empty() || user.id.len() > USER_ID_BYTES_MAX {
        return fail(format!("a user's id has 1 to {USER_ID_BYTES_MAX} bytes"));
    }
    if user.id.chars().any(char::is_control) {
        return fail("a user's id has no control characters".into());
    }
    let claims = serde_json::to_vec(&user.claims).map_or(usize::MAX, |json| json.len());
    if claims > CLAIMS_BYTES_MAX {
        return fail(format!("a user's claims have at most {CLAIMS_BYTES_MAX} bytes of JSON"));
    }
    Ok(())
}

/// By what somebody was let in, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// An API key.
    Key(KeyId),
    /// A token that was minted here.
    Token(TokenId),
    /// A token that an issuer has signed.
    Jwt(IssuerId),
}

impl fmt::Display for By {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(formatter, "key {}", id.0),
            Self::Token(id) => write!(formatter, "token {}", id.0),
            Self::Jwt(id) => write!(formatter, "issuer {}", id.0),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// By what they were let in.
    pub by: By,
    /// True when the key opens every database, so that its owner may learn which ones exist.
    pub is_for_all: bool,
    /// What a key may do. Of a user policies say it.
    pub scopes: Scopes,
    /// The user, if a token came and not a key.
    pub user: Option<Arc<User>>,
    /// When it is over, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl Principal {
    /// What a store lets them do. What a user receives and may send is up to policies.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        Rights {
            read: self.scopes.has(Scope::Read) || self.user.is_some(),
            write: self.scopes.has(Scope::Write) || self.user.is_some(),
            schema: self.scopes.has(Scope::Schema),
        }
    }

    /// Whether they are still good at that time.
    #[must_use]
    pub fn is_good_at(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_bounded() {
        let user = |id: &str| User { id: id.to_owned(), claims: Map::new() };
        assert!(check_user(&user("alice@example.com")).is_ok());
        for id in ["", "a\nb", &"x".repeat(256)] {
            assert!(check_user(&user(id)).is_err(), "{id:?}");
        }
        let claims = Map::from_iter([("team".to_owned(), Value::from("y".repeat(CLAIMS_BYTES_MAX)))]);
        assert!(check_user(&User { claims, ..user("a") }).is_err());
    }
}
