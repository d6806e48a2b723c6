//! `auth_userid()` and `auth_json()`: who asks, for the expressions that are evaluated on a connection.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use crate::auth::User;

/// The functions of one connection. They know a user only while an [`Assumed`] of it lives, and fail at all other times:
/// an expression that is evaluated for nobody must not be true for NULL.
#[derive(Clone, Default)]
pub struct Identity(Arc<Mutex<Option<Present>>>);

struct Present {
    id: String,
    /// As JSON.
    claims: String,
}

impl Identity {
    /// Registers the functions on a connection.
    ///
    /// # Errors
    /// When SQLite does not take them.
    pub fn register(connection: &Connection) -> rusqlite::Result<Self> {
        let identity = Self::default();
        // Within a statement they do not change. Schemas, views and triggers may not call them.
        let flags = FunctionFlags::SQLITE_UTF8
            | FunctionFlags::SQLITE_DETERMINISTIC
            | FunctionFlags::SQLITE_DIRECTONLY;
        let id = identity.clone();
        connection
            .create_scalar_function("auth_userid", 0, flags, move |_| id.read(|user| user.id.clone()))?;
        let claims = identity.clone();
        connection.create_scalar_function("auth_json", 0, flags, move |_| {
            claims.read(|user| user.claims.clone())
        })?;
        Ok(identity)
    }

    /// Makes the functions speak of this user until the value that is given goes.
    #[must_use = "the user is gone with it"]
    pub fn assume(&self, user: &User) -> Assumed {
        let claims = serde_json::Value::Object(user.claims.clone()).to_string();
        self.set(Some(Present { id: user.id.clone(), claims }));
        Assumed(self.clone())
    }

    fn set(&self, present: Option<Present>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = present;
    }

    fn read(&self, act: impl FnOnce(&Present) -> String) -> rusqlite::Result<String> {
        let present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody = || rusqlite::Error::UserFunctionError("no user asks here".into());
        present.as_ref().map(act).ok_or_else(nobody)
    }
}

/// While it lives, the functions of a connection speak of one user. Goes also when a panic unwinds.
pub struct Assumed(Identity);

impl Drop for Assumed {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn alice() -> User {
        let claims = serde_json::json!({ "team": 7 });
        User { id: "alice".to_owned(), claims: claims.as_object().unwrap().clone() }
    }

    fn who(connection: &Connection) -> rusqlite::Result<String> {
        connection.query_row("SELECT auth_userid() || (auth_json() ->> '$.team')", [], |row| row.get(0))
    }

    #[test]
    fn nobody_is_left_behind_by_an_error_or_a_panic() {
        let connection = Connection::open_in_memory().unwrap();
        let identity = Identity::register(&connection).unwrap();
        assert!(who(&connection).is_err());
        {
            let _assumed = identity.assume(&alice());
            assert_eq!(who(&connection).as_deref(), Ok("alice7"));
            assert!(connection.query_row("SELECT abs(-9223372036854775808)", [], |_| Ok(())).is_err());
        }
        assert!(who(&connection).is_err());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _assumed = identity.assume(&alice());
            panic!("as the test wants");
        }));
        assert!(panicked.is_err() && who(&connection).is_err());
    }

    #[test]
    fn the_schema_cannot_call_them() {
        let connection = Connection::open_in_memory().unwrap();
        let identity = Identity::register(&connection).unwrap();
        let _assumed = identity.assume(&alice());
        connection.execute_batch("CREATE VIEW v AS SELECT auth_userid() AS u").unwrap();
        assert!(connection.query_row("SELECT u FROM v", [], |_| Ok(())).is_err());
        assert!(connection.execute_batch("CREATE TABLE t(a, b AS (auth_userid()))").is_err());
    }
}
