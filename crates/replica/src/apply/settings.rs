//! The settings of the connection, and the guards, that hold while an apply runs.

use crate::error::Result;
use crate::guard::{self, Guards, KeptGuards, OnGuard};
use crate::quarantine;
use crate::replica::{ForeignKeys, Replica};
use crate::storage;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::rc::Rc;

/// The setting that says that whoever syncs the file may not see everything.
pub(crate) const SEES_PART: &str = "sees_part";

impl Replica {
    /// Says whether whoever syncs this file may see a part of the database only. Then a row whose parent is not here is let in:
    /// the server has seen to foreign keys, and the parent may be hidden.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn set_sees_part(&mut self, sees_part: bool) -> Result<()> {
        if !self.exists()? || storage::is_set(&self.db, SEES_PART)? == sees_part {
            return Ok(());
        }
        self.transact(|replica| {
            if sees_part {
                quarantine::call(&replica.db)?;
                // Of what this file was before it lost everything, the WAL may have kept rows.
                replica.owe_scrub()?;
                storage::set(&replica.db, SEES_PART, Value::Integer(1))
            } else {
                storage::unset(&replica.db, SEES_PART)
            }
        })
    }

    /// Whether whoever syncs this file may see a part of the database only.
    pub(crate) fn is_part(&self) -> Result<bool> {
        storage::is_set(&self.db, SEES_PART)
    }

    /// Whether parents of rows that come are looked up.
    pub(crate) const fn wants_parents(&self) -> bool {
        self.checks_parents && !self.sees_part
    }

    /// Runs `act` with foreign keys and, where nobody needs them, triggers off; where triggers of the app run, they are
    /// guarded. All is put back afterwards, but on a connection that nobody else uses. Inside the app's transaction foreign
    /// keys and triggers stay as they are.
    ///
    /// # Errors
    /// Those of `act`, and when triggers cannot be guarded.
    pub fn with_apply_settings<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.applying.is_some() {
            return act(self);
        }
        self.begin_applying()?;
        let outcome = act(self);
        self.end_applying();
        outcome
    }

    fn begin_applying(&mut self) -> Result<()> {
        self.follow_ahead()?;
        let runs_triggers = self.runs_triggers()?;
        let is_alone = self.db.is_autocommit();
        let settings = is_alone.then(|| ApplySettings::set(self.db, self.owns, runs_triggers)).transpose()?;
        let checks_parents = settings.as_ref().is_some_and(|settings| settings.foreign_keys);
        let sees_part = checks_parents && storage::exists(&self.db)? && storage::is_set(&self.db, SEES_PART)?;
        let kept = std::mem::take(&mut self.kept_guards).0;
        let guards = if runs_triggers { self.guards(kept)? } else { None };
        self.checks_parents = checks_parents;
        self.sees_part = sees_part;
        self.guard = guards.as_ref().map(|guards| Rc::clone(&guards.guard));
        self.applying = Some(Applying {
            on_guard: guards.as_ref().map(Guards::stand),
            guards,
            _settings: settings,
            set_at: self.catalog.loaded_at(),
            // In a transaction they would go with it if it is rolled back.
            may_stay: self.owns.is_some() && is_alone,
        });
        Ok(())
    }

    fn end_applying(&mut self) {
        self.guard = None;
        (self.checks_parents, self.sees_part) = (false, false);
        if let Some(mut applying) = self.applying.take() {
            drop(applying.on_guard.take());
            self.kept_guards.0 = applying.guards.take().filter(|_| applying.may_stay);
        }
    }

    /// Sets everything as an apply needs it that found the schema [changed](Self::applies_as_set).
    pub(crate) fn begin_applying_again(&mut self) -> Result<()> {
        self.end_applying();
        self.begin_applying()
    }

    /// False when the tables or triggers of the file are others than those for which the apply at hand has set everything. So it
    /// may be until it holds the lock, for which it may have waited long: others may change the schema meanwhile, as apps do when
    /// they start, and a trigger of theirs would run unguarded, or not at all.
    pub(crate) fn applies_as_set(&mut self) -> Result<bool> {
        let Some(set_at) = self.applying.as_ref().and_then(|applying| applying.set_at) else {
            return Ok(true);
        };
        self.catalog.load(&self.db)?;
        Ok(self.catalog.loaded_at() == Some(set_at))
    }

    /// Follows changes of the schema before anything is set for it: a table that was renamed is not known by its new name
    /// before, and would not be guarded.
    fn follow_ahead(&mut self) -> Result<()> {
        if storage::exists(&self.db)? && !self.has_followed()? {
            self.transact(Self::follow_in_transaction)?;
        }
        Ok(())
    }

    /// The guards that stay between applies on a connection that [nobody else uses](Self::own_connection), for a host that opens
    /// the replica anew.
    pub fn take_guards(&mut self) -> KeptGuards {
        std::mem::take(&mut self.kept_guards)
    }

    /// Takes back what [`Replica::take_guards`] gave. Only for the same connection.
    pub fn put_guards(&mut self, guards: KeptGuards) {
        self.kept_guards = guards;
    }

    /// True when a trigger must run when others change a synced table.
    fn runs_triggers(&mut self) -> Result<bool> {
        if !storage::exists(&self.db)? {
            return Ok(true);
        }
        self.catalog.load(&self.db)?;
        Ok(self.catalog.is_watched(&self.db)? || guard::has_temporary_triggers(&self.db)?)
    }

    /// Guards from what triggers of the app would write; those of the apply before, where they still stand and fit.
    fn guards(&mut self, kept: Option<Guards>) -> Result<Option<Guards>> {
        if !storage::exists(&self.db)? {
            return Ok(None);
        }
        self.catalog.load(&self.db)?;
        match kept {
            Some(guards) if guards.fit(&self.db, &self.catalog)? => Ok(Some(guards)),
            kept => {
                // They have the names of those that are to be made.
                drop(kept);
                Guards::set(self.db, &self.catalog)
            }
        }
    }
}

/// What holds while an apply runs. It goes in this order.
pub(crate) struct Applying {
    on_guard: Option<OnGuard>,
    guards: Option<Guards>,
    _settings: Option<ApplySettings>,
    /// What the catalog was for which all this was set.
    set_at: Option<(i64, i64)>,
    /// The guards are not dropped at the end.
    may_stay: bool,
}

/// The connection's settings while an apply runs.
struct ApplySettings {
    db: Connection,
    foreign_keys: bool,
    triggers: Option<bool>,
    stay: bool,
}

impl ApplySettings {
    /// Triggers stay on where some of the app `are_needed`.
    fn set(db: Connection, owns: Option<ForeignKeys>, are_needed: bool) -> Result<Self> {
        let before = db.set_foreign_keys_enabled(false)?;
        let foreign_keys = owns.map_or(before, |owns| owns == ForeignKeys::Enforced);
        let mut settings = Self { db, foreign_keys, triggers: None, stay: owns.is_some() };
        if !are_needed || settings.stay {
            settings.triggers = Some(db.set_triggers_enabled(are_needed)?);
        }
        Ok(settings)
    }
}

impl Drop for ApplySettings {
    fn drop(&mut self) {
        if self.stay {
            return;
        }
        // These calls fail only on a connection that is not open.
        let _ = self.db.set_foreign_keys_enabled(self.foreign_keys);
        if let Some(triggers) = self.triggers {
            let _ = self.db.set_triggers_enabled(triggers);
        }
    }
}
