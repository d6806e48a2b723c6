//! The policies of one open connection, and what they need of it.

use cloudsync_sqlite_ffi::Connection as Handle;
use rusqlite::Connection;

use super::judge::{Judge, Prepared};
use super::{Assumed, Identity, Policies, PolicyError, PolicySteps, Work, attach};
use crate::auth::User;

/// A connection with its policies, compiled when they are first needed and whenever they or the schema changed.
pub struct Law {
    // Gone before the connection is closed.
    prepared: Prepared,
    policies: Policies,
    identity: Identity,
    work: Work,
    connection: Connection,
}

impl Law {
    /// Prepares a connection.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn new(connection: Connection) -> rusqlite::Result<Self> {
        Self::within(connection, PolicySteps::default())
    }

    /// The same with other bounds.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn within(mut connection: Connection, steps: PolicySteps) -> rusqlite::Result<Self> {
        attach(&connection)?;
        let identity = Identity::register(&connection)?;
        let work = Work::register(&mut connection, steps)?;
        Ok(Self { prepared: Prepared::default(), policies: Policies::default(), identity, work, connection })
    }

    /// The connection.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The bound of what runs on the connection.
    #[must_use]
    pub const fn work(&self) -> &Work {
        &self.work
    }

    /// The policies as they are now, who asks for them, and the connection.
    ///
    /// # Errors
    /// [`PolicyError`] when SQLite fails.
    pub fn now(&mut self) -> Result<(&Policies, &Identity, &mut Connection), PolicyError> {
        if self.policies.refresh(&mut self.connection)? {
            self.prepared = Prepared::default();
        }
        Ok((&self.policies, &self.identity, &mut self.connection))
    }

    /// A judge of what a user wants, by the policies as they are now. `handle` is that of the connection. The connection's
    /// functions speak of the user as long as the second value lives.
    ///
    /// # Errors
    /// [`PolicyError`] when SQLite fails.
    pub fn judge(&mut self, user: &User, handle: Handle) -> Result<(Judge<'_>, Assumed), PolicyError> {
        if self.policies.refresh(&mut self.connection)? {
            self.prepared = Prepared::default();
        }
        let prepared = &mut self.prepared;
        let judge = Judge::new(&self.connection, handle, &self.policies, &self.work, prepared);
        Ok((judge, self.identity.assume(user)))
    }

    /// Forgets what was compiled in a transaction that was rolled back.
    pub fn forget(&mut self) {
        self.prepared = Prepared::default();
        self.policies.forget();
    }
}
