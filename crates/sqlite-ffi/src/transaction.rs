//! Guards that take back what was not committed.

use std::mem::ManuallyDrop;

use crate::connection::Connection;
use crate::error::Result;

/// A transaction of our own; rolled back on drop unless committed.
#[derive(Debug)]
#[must_use = "a dropped transaction is rolled back"]
pub struct Transaction {
    connection: Connection,
}

/// A savepoint; taken back on drop unless committed.
#[derive(Debug)]
#[must_use = "a dropped savepoint is rolled back"]
pub struct Savepoint {
    connection: Connection,
    name: String,
}

impl Connection {
    /// Begins a transaction that holds the write lock from the start.
    ///
    /// # Errors
    /// `SQLITE_BUSY` if another connection writes; `SQLITE_ERROR` inside a transaction.
    pub fn begin_immediate(&self) -> Result<Transaction> {
        self.execute("BEGIN IMMEDIATE")?;
        Ok(Transaction { connection: *self })
    }

    /// Sets a savepoint: inside a transaction a nested one, outside of one the start of a deferred transaction.
    /// Savepoints may nest, also under the same name.
    ///
    /// # Errors
    /// `SQLITE_BUSY` while a statement of this connection is writing, as in a function called from an INSERT.
    pub fn savepoint(&self, name: &str) -> Result<Savepoint> {
        let name = format!("\"{}\"", name.replace('"', "\"\""));
        self.execute(&format!("SAVEPOINT {name}"))?;
        Ok(Savepoint { connection: *self, name })
    }
}

impl Transaction {
    /// Makes the changes permanent.
    ///
    /// # Errors
    /// SQLite's own, for example `SQLITE_CONSTRAINT_FOREIGNKEY` for deferred keys; the transaction is then rolled
    /// back.
    pub fn commit(self) -> Result<()> {
        self.connection.execute("COMMIT")?;
        let _committed = ManuallyDrop::new(self);
        Ok(())
    }

    /// Takes the changes back.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn rollback(self) -> Result<()> {
        let transaction = ManuallyDrop::new(self);
        // SQLite rolls back by itself on some errors (full disk, failed read), and then no transaction is left.
        if transaction.connection.is_autocommit() {
            return Ok(());
        }
        transaction.connection.execute("ROLLBACK")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
            // A destructor cannot report; a failed rollback leaves the journal, and SQLite recovers from it.
            let _ = self.connection.execute("ROLLBACK");
        }
    }
}

impl Savepoint {
    /// Keeps the changes: part of the surrounding transaction, or permanent if there is none.
    ///
    /// # Errors
    /// SQLite's own; the changes are then taken back.
    pub fn commit(mut self) -> Result<()> {
        self.connection.execute(&format!("RELEASE {}", self.name))?;
        // Taken, not leaked: the destructor would find an outer savepoint of the same name.
        self.name = String::new();
        Ok(())
    }

    /// Takes the changes back.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn rollback(mut self) -> Result<()> {
        let name = std::mem::take(&mut self.name);
        undo(self.connection, &name)
    }
}

impl Drop for Savepoint {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // A destructor cannot report.
            let _ = undo(self.connection, &self.name);
        }
    }
}

/// ROLLBACK TO keeps the savepoint open, so it is released as well. If SQLite has rolled back by itself, no savepoint
/// is left.
fn undo(connection: Connection, name: &str) -> Result<()> {
    if connection.is_autocommit() {
        return Ok(());
    }
    connection.execute(&format!("ROLLBACK TO {name}; RELEASE {name}"))
}
