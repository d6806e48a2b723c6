//! The settings of the connection, and the guards, that hold while an apply runs.

use crate::error::Result;
use crate::guard::{Guards, has_user_triggers};
use crate::replica::Replica;
use crate::storage;
use cloudsync_sqlite_ffi::Connection;
use std::rc::Rc;

impl Replica {
    /// Runs `act` with foreign keys and, where nobody needs them, triggers off; where triggers of the app run, they are
    /// guarded. All is put back afterwards. Inside the app's transaction foreign keys and triggers stay as they are.
    ///
    /// # Errors
    /// Those of `act`, and when triggers cannot be guarded.
    pub fn with_apply_settings<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let settings = if self.db.is_autocommit() { Some(ApplySettings::set(self.db)?) } else { None };
        self.checks_parents = settings.as_ref().is_some_and(|settings| settings.foreign_keys);
        let guards = self.guards()?;
        self.guard = guards.as_ref().map(|guards| Rc::clone(&guards.guard));
        let outcome = act(self);
        self.guard = None;
        self.checks_parents = false;
        outcome
    }

    /// Guards from what triggers of the app would write, if any run.
    fn guards(&mut self) -> Result<Option<Guards>> {
        if !storage::exists(&self.db)? || !has_user_triggers(&self.db)? {
            return Ok(None);
        }
        self.catalog.load(&self.db)?;
        Guards::set(self.db, &self.catalog)
    }
}

/// The connection's settings while an apply runs.
struct ApplySettings {
    db: Connection,
    foreign_keys: bool,
    triggers: bool,
}

impl ApplySettings {
    fn set(db: Connection) -> Result<Self> {
        let foreign_keys = db.set_foreign_keys_enabled(false)?;
        let mut settings = Self { db, foreign_keys, triggers: true };
        if !has_user_triggers(&db)? {
            settings.triggers = db.set_triggers_enabled(false)?;
        }
        Ok(settings)
    }
}

impl Drop for ApplySettings {
    fn drop(&mut self) {
        // These calls fail only on a connection that is not open.
        let _ = self.db.set_foreign_keys_enabled(self.foreign_keys);
        let _ = self.db.set_triggers_enabled(self.triggers);
    }
}
