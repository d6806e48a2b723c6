//! Logout: takes everything out of the file that came from or belongs to the user who synced it, and sends no deletion.
//!
//! The rows go as an apply would take them out: foreign keys are off, triggers of the app run beside the guard so that
//! a search index stays right, and what our own triggers note is thrown away. What a trigger refuses goes nevertheless,
//! without triggers. Clocks, changes and journals go with the rows, and the next sync is that of a new site which knows
//! nothing. Tables, filters, settings and the server's address stay.
//!
//! All of it is deleted with `secure_delete`, and pages that were free before are filled with zeros, so that no value is
//! left in the main file but in the gaps of pages in use, which VACUUM alone cleans. The WAL is emptied after the commit;
//! where a reader is in the way that stays due, and the next sync tries again.

use crate::buried;
use crate::capture::MAY_DELETE;
use crate::catalog;
use crate::clocks;
use crate::clocks::NEXT_ORDINAL;
use crate::compaction::{ENTRIES_MIN_SETTING, WINDOW_SETTING};
use crate::error::{Error, Result};
use crate::filter::{self, WITHHELD};
use crate::guard;
use crate::pieces;
use crate::repair;
use crate::replica::Replica;
use crate::scrub::SCRUB_DUE;
use crate::snapshot::Scan;
use crate::status::{SETTINGS, TEXT_SETTINGS};
use crate::storage;
use crate::table::Table;
use crate::value::{from_sqlite, to_sqlite};
use crate::write::{Refused, Writer};
use cloudsync_core::value::Value as Owned;
use cloudsync_sqlite_ffi::{Connection, Value};

/// The setting that counts the logouts of a file.
const LOGOUTS: &str = "logouts";

/// The state that stays, besides the settings that people make.
const STAYS: [&str; 14] = [
    "format",
    "site",
    "file",
    "tables",
    "layouts",
    "catalog",
    "schema_version",
    "version",
    "server",
    "met_server",
    "clock_offset",
    LOGOUTS,
    ENTRIES_MIN_SETTING,
    WINDOW_SETTING,
];

/// Our tables that hold keys, values or clocks; those of `aws` tables may not exist.
const FORGOTTEN: [&str; 13] = [
    "cloudsync_log",
    "cloudsync_clocks",
    "cloudsync_private",
    "cloudsync_versions",
    "cloudsync_entries",
    "cloudsync_inbox",
    "cloudsync_pieces",
    "cloudsync_held",
    "cloudsync_kept",
    "cloudsync_quarantine",
    "cloudsync_conflicts",
    "cloudsync_rejected",
    "cloudsync_alter_rows",
];
const FORGOTTEN_BURIED: [&str; 2] = ["cloudsync_buried", "cloudsync_dropped"];

/// Pages that one value of zeros fills: far below the longest value that SQLite takes.
const ZERO_PAGES: i64 = 256;

/// The connection's `secure_delete` for the main database, put back when dropped.
pub(crate) struct SecureDelete {
    db: Connection,
    before: i64,
}

impl SecureDelete {
    pub(crate) fn set(db: Connection) -> Result<Self> {
        let before = db.query_i64("PRAGMA main.secure_delete", &[])?.unwrap_or(0);
        db.execute("PRAGMA main.secure_delete = 1")?;
        Ok(Self { db, before })
    }
}

impl Drop for SecureDelete {
    fn drop(&mut self) {
        let before = if self.before == 2 { "fast".to_owned() } else { self.before.to_string() };
        // It fails only on a connection that is not open.
        let _ = self.db.execute(&format!("PRAGMA main.secure_delete = {before}"));
    }
}

impl Replica {
    /// Removes all rows of synced tables and everything that is known of them, without a deletion that would be sent,
    /// and takes another site id. The tables go on syncing. Gives the number of rows that went.
    ///
    /// # Errors
    /// While changes are unsent, unless `force` gives them up; in a transaction; while a table is being altered; when
    /// the file cannot be written. Then nothing is changed.
    pub fn logout(&mut self, force: bool) -> Result<u64> {
        self.require()?;
        self.require_no_transaction()?;
        let secure = SecureDelete::set(self.db)?;
        let mut undone = false;
        let mut outcome = self.log_out(force, Some(&mut undone));
        if undone {
            // A trigger of the app has rolled everything back: it is not asked again.
            outcome = self.log_out(force, None);
        }
        let rows = outcome?;
        self.clean_first_pages()?;
        drop(secure);
        self.scrub_if_due()?;
        Ok(rows)
    }

    /// Runs the app's triggers where it is told in `undone` that one of them rolled back the transaction.
    fn log_out(&mut self, force: bool, mut undone: Option<&mut bool>) -> Result<u64> {
        self.with_apply_settings(|replica| {
            replica.transact(|replica| {
                if storage::is_set(&replica.db, NEXT_ORDINAL)? {
                    return Err(Error::usage(
                        "this file is the database of a server: nobody is logged in to it",
                    ));
                }
                replica.fold_in_transaction()?;
                replica.catalog.require_settled()?;
                if !force {
                    replica.require_all_sent()?;
                }
                pieces::prepare(&replica.db)?;
                overwrite_free_pages(&replica.db)?;
                let tables = replica.catalog.tables();
                let mut rows = 0;
                for table in &tables {
                    let sql = format!("SELECT count(*) FROM {}", table.quoted());
                    rows += replica.db.query_i64(&sql, &[])?.unwrap_or(0) as u64;
                }
                if let Some(undone) = &mut undone {
                    for table in &tables {
                        replica.remove_rows(table, undone)?;
                    }
                }
                for table in &tables {
                    replica.clear_table(&table.quoted())?;
                }
                replica.forget_user()?;
                Ok(rows)
            })
        })
    }

    fn require_all_sent(&self) -> Result<()> {
        if !self.is_upload_open()? && !self.is_anything_unsent()? {
            return Ok(());
        }
        // language=SQLite
        let sql = "SELECT count(DISTINCT e.table_id) FROM main.cloudsync_entries AS e \
                   JOIN main.cloudsync_versions AS v ON v.version = e.version \
                   JOIN main.cloudsync_tables AS t ON t.id = e.table_id \
                   WHERE v.version > ?1 AND v.origin IN (-1, -2)";
        let sent = storage::get_u64(&self.db, "sent_version")?;
        let what = match self.db.query_i64(sql, &[Value::Integer(sent as i64)])?.unwrap_or(0) {
            0 => "a sync is not complete".to_owned(),
            1 => "1 table has unsent changes".to_owned(),
            tables => format!("{tables} tables have unsent changes"),
        };
        Err(Error::state(format!(
            "{what}: call cloudsync_network_sync() first, or cloudsync_network_logout(1) to lose them"
        )))
    }

    /// Takes the rows of a table out one by one, if a trigger of the app wants to see them go.
    fn remove_rows(&mut self, table: &Table, undone: &mut bool) -> Result<()> {
        if !guard::watches(&self.db, &table.name)? {
            return Ok(());
        }
        let mut keys = Vec::new();
        let mut scan = Scan::open(&self.db, table, &[])?;
        while let Some(pk) = scan.next(table)? {
            keys.push(pk);
        }
        drop(scan);
        let mut writer = Writer::new(self.db, table, false, self.guard.as_ref())?;
        for pk in keys {
            let outcome = writer.remove(table.id, clocks::split_pk(&pk)?.1);
            self.go_on_without(outcome, undone)?;
        }
        drop(writer);
        // Rows whose key cannot travel.
        storage::set(&self.db, MAY_DELETE, Value::Integer(1))?;
        let keyless = |pass| self.guard.iter().for_each(|guard| guard.let_keyless_pass(pass));
        keyless(true);
        let outcome = self.db.execute(&format!("DELETE FROM {}", table.quoted()));
        keyless(false);
        self.go_on_without(outcome.map_err(Refused::from), undone)
    }

    /// What a trigger keeps goes without it, unless the trigger ended the transaction.
    fn go_on_without(&self, outcome: Result<(), Refused>, undone: &mut bool) -> Result<()> {
        if self.db.is_autocommit() {
            *undone = true;
            return Err(Error::state("the logout was rolled back by a trigger"));
        }
        match outcome {
            Ok(()) | Err(Refused::Constraint(_) | Refused::Part) => Ok(()),
            Err(Refused::Error(error)) => Err(error),
        }
    }

    /// Empties a table without triggers. Without a condition SQLite frees whole pages, and fills them with zeros.
    fn clear_table(&self, quoted: &str) -> Result<()> {
        let triggers = self.db.set_triggers_enabled(false)?;
        let open = |open| self.guard.iter().for_each(|guard| guard.set_open(open));
        open(true);
        let outcome = self.db.execute(&format!("DELETE FROM {quoted}"));
        open(false);
        self.db.set_triggers_enabled(triggers)?;
        outcome?;
        // Temporary triggers run nevertheless.
        if self.db.query_i64(&format!("SELECT 1 FROM {quoted} LIMIT 1"), &[])?.is_some() {
            return Err(Error::state(format!(
                "a temporary trigger keeps rows of {quoted}: drop it, and call cloudsync_network_logout again"
            )));
        }
        Ok(())
    }

    /// Beside the guard rows go one by one, and the gaps of a table's first page keep what was there before. Empty
    /// tables are therefore cleared once more.
    fn clean_first_pages(&mut self) -> Result<()> {
        let foreign_keys = self.db.set_foreign_keys_enabled(false)?;
        let outcome = self.transact(|replica| {
            replica.catalog.load(&replica.db)?;
            for table in replica.catalog.tables() {
                let sql = format!("SELECT 1 FROM {} LIMIT 1", table.quoted());
                // Another connection may have gone on already.
                if replica.db.query_i64(&sql, &[])?.is_none() {
                    replica.clear_table(&table.quoted())?;
                }
            }
            Ok(())
        });
        self.db.set_foreign_keys_enabled(foreign_keys)?;
        outcome
    }

    /// Forgets what is stored about the rows, and what was agreed with the server.
    fn forget_user(&mut self) -> Result<()> {
        let buried = if buried::exists(&self.db)? { &FORGOTTEN_BURIED[..] } else { &[] };
        let owed = if filter::has_owed(&self.db)? { &["cloudsync_owed"][..] } else { &[] };
        for name in FORGOTTEN.iter().chain(buried).chain(owed) {
            self.clear_table(&format!("main.{name}"))?;
        }
        repair::forget(&self.db)?;
        self.drop_credential()?;
        forget_state(&self.db)?;
        self.take_new_site()?;
        storage::count_up(&self.db, LOGOUTS, 1)?;
        catalog::bump(&self.db)?;
        self.owe_scrub()
    }

    /// Notes that the WAL may hold what must not be left.
    pub(crate) fn owe_scrub(&self) -> Result<()> {
        storage::set(&self.db, SCRUB_DUE, Value::Integer(1))
    }

    /// How often this file was logged out: an answer to a request of before is void.
    pub(crate) fn logouts(&self) -> Result<u64> {
        storage::get_u64(&self.db, LOGOUTS)
    }
}

/// Fills the pages that nothing uses with zeros: those that were freed before a logout still hold what was on them.
fn overwrite_free_pages(db: &Connection) -> Result<()> {
    let number = |sql| db.query_i64(sql, &[]).map(|number| number.unwrap_or(0));
    let page_bytes = number("PRAGMA main.page_size")?;
    // The size of a value that spills: its pages are taken from the free ones.
    let mut insert = db.prepare("INSERT INTO main.cloudsync_inbox(payload) VALUES(zeroblob(?1))")?;
    loop {
        let free = number("PRAGMA main.freelist_count")?;
        if free == 0 {
            // Emptying the table frees them again, and secure_delete then cleans their last bytes.
            return Ok(db.execute("DELETE FROM main.cloudsync_inbox")?);
        }
        insert.run(&[Value::Integer(free.min(ZERO_PAGES) * page_bytes)])?;
    }
}

/// Leaves of the settings what stays; the others are written anew on clean pages.
fn forget_state(db: &Connection) -> Result<()> {
    let is_setting = |key: &str| {
        let mut names = SETTINGS.iter().map(|it| it.name).chain(TEXT_SETTINGS.iter().map(|it| it.name));
        names.any(|name| name == key)
    };
    let mut stays: Vec<(String, Owned)> = Vec::new();
    db.prepare("SELECT key, value FROM main.cloudsync_settings")?.for_each(&[], |row| -> Result<()> {
        let key = row.column(0).as_str().unwrap_or_default();
        if STAYS.contains(&key) || key.starts_with(WITHHELD) || is_setting(key) {
            stays.push((key.to_owned(), from_sqlite(row.column(1)).to_value()));
        }
        Ok(())
    })?;
    db.execute("DELETE FROM main.cloudsync_settings")?;
    stays.iter().try_for_each(|(key, value)| storage::set(db, key, to_sqlite(value.borrow())))
}
