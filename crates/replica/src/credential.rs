//! The key or token in the file, for apps that ask for it: nobody is there to set it when a machine starts again.
//!
//! It has a table of its own that exists while there is one. Dropped with `secure_delete` it leaves nothing on its
//! page, where a row among the settings could leave copies in the gaps of pages that were split.

use crate::catalog;
use crate::error::Result;
use crate::logout::SecureDelete;
use crate::replica::Replica;
use crate::status::number_setting;
use cloudsync_sqlite_ffi::Value;

/// The setting by which an app asks for it.
pub(crate) const KEEP_KEY: &str = "network_keep_key";

// language=SQLite
const CREATE: &str = "CREATE TABLE IF NOT EXISTS main.cloudsync_credential(server TEXT, secret TEXT)";
// language=SQLite
const DROP: &str = "DROP TABLE IF EXISTS main.cloudsync_credential";

impl Replica {
    /// True when the app wants its key or token in the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn keeps_credential(&self) -> Result<bool> {
        Ok(self.exists()? && number_setting(&self.db, KEEP_KEY)? == 1)
    }

    /// Writes the key or token for a server into the file, in the place of the one before; only where the app asked
    /// for it. The text is stored as it is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_credential(&mut self, server: &str, secret: &str) -> Result<()> {
        if !self.keeps_credential()? || self.credential(server)?.as_deref() == Some(secret) {
            return Ok(());
        }
        self.forget_credential()?;
        self.transact(|replica| {
            catalog::create_own(&replica.db, CREATE)?;
            // language=SQLite
            let sql = "INSERT INTO main.cloudsync_credential(server, secret) VALUES(?1, ?2)";
            Ok(replica.db.prepare(sql)?.run(&[Value::from(server), Value::from(secret)])?)
        })
    }

    /// The key or token for a server that the file holds.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn credential(&self, server: &str) -> Result<Option<String>> {
        if !self.holds_credential()? {
            return Ok(None);
        }
        // language=SQLite
        let sql = "SELECT secret FROM main.cloudsync_credential WHERE server = ?1";
        Ok(self.db.query_text(sql, &[Value::from(server)])?)
    }

    fn holds_credential(&self) -> Result<bool> {
        // language=SQLite
        let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'cloudsync_credential'";
        Ok(self.db.query_i64(sql, &[])?.is_some())
    }

    /// Takes the key or token out of the file. What the WAL has of it goes when nobody reads there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_credential(&mut self) -> Result<()> {
        if !self.holds_credential()? {
            return Ok(());
        }
        let secure = SecureDelete::set(self.db)?;
        self.transact(|replica| replica.drop_credential())?;
        drop(secure);
        if self.db.is_autocommit() { self.scrub_if_due() } else { Ok(()) }
    }

    /// The same inside a transaction, under `secure_delete`.
    pub(crate) fn drop_credential(&self) -> Result<()> {
        if !self.holds_credential()? {
            return Ok(());
        }
        self.db.execute(DROP)?;
        self.owe_scrub()
    }
}
