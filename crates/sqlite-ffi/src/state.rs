//! What a connection tells of its state and schema, and the options it lets us switch.

use std::ffi::{c_char, c_int};
use std::ptr;

use crate::bindings;
use crate::connection::{Connection, c_text, text};
use crate::error::{Error, Result};

/// How far the open transaction has gone in a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionState {
    /// Nothing was read or written yet (also while `BEGIN` alone has run), or there is no such schema.
    None,
    /// A read lock is held.
    Read,
    /// The write lock is held.
    Write,
}

/// What SQLite knows of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMetadata {
    /// The type as declared, `None` if none was.
    pub declared_type: Option<String>,
    /// The name of the collating sequence, `BINARY` unless declared otherwise.
    pub collation: String,
    /// Whether the column is declared NOT NULL.
    pub not_null: bool,
    /// Whether the column is part of the primary key.
    pub primary_key: bool,
    /// Whether the column is AUTOINCREMENT.
    pub autoincrement: bool,
}

impl Connection {
    /// Gives the rows changed by the last INSERT, UPDATE or DELETE, not counting triggers and foreign key actions.
    pub fn changes(&self) -> i64 {
        // SAFETY: the connection is open.
        i64::from(unsafe { call!(self.api(), changes(self.as_ptr())) })
    }

    /// Gives the rows changed since the connection was opened, triggers included. A 32-bit count that wraps around:
    /// compare for equality only.
    pub fn total_changes(&self) -> i32 {
        // SAFETY: the connection is open.
        unsafe { call!(self.api(), total_changes(self.as_ptr())) }
    }

    /// Gives the rowid of the last successful INSERT into a rowid table by this connection, 0 if there was none.
    pub fn last_insert_rowid(&self) -> i64 {
        // SAFETY: the connection is open.
        unsafe { call!(self.api(), last_insert_rowid(self.as_ptr())) }
    }

    /// Makes [`last_insert_rowid`](Self::last_insert_rowid) say what it said before: for one who writes behind the
    /// host's back, in a statement that seems to read only.
    pub fn set_last_insert_rowid(&self, rowid: i64) {
        // SAFETY: the connection is open.
        unsafe { call!(self.api(), set_last_insert_rowid(self.as_ptr(), rowid)) }
    }

    /// Tells whether no transaction is open (by BEGIN or an outermost SAVEPOINT).
    pub fn is_autocommit(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { call!(self.api(), get_autocommit(self.as_ptr())) != 0 }
    }

    /// Gives the state of the transaction in a schema such as `"main"`, or the highest of all schemas for `None`.
    ///
    /// # Errors
    /// `SQLITE_MISUSE` if the name holds a NUL.
    pub fn transaction_state(&self, schema: Option<&str>) -> Result<TransactionState> {
        let schema = schema.map(c_text).transpose()?;
        let name = schema.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: the connection is open, the name terminated or null.
        Ok(match unsafe { call!(self.api(), txn_state(self.as_ptr(), name)) } {
            bindings::SQLITE_TXN_WRITE => TransactionState::Write,
            bindings::SQLITE_TXN_READ => TransactionState::Read,
            _ => TransactionState::None,
        })
    }

    /// Tells whether the database of a schema can only be read.
    ///
    /// # Errors
    /// `SQLITE_NOTFOUND` if there is no such schema, `SQLITE_MISUSE` if the name holds a NUL.
    pub fn is_readonly(&self, schema: &str) -> Result<bool> {
        let name = c_text(schema)?;
        // SAFETY: the connection is open, the name terminated.
        match unsafe { call!(self.api(), db_readonly(self.as_ptr(), name.as_ptr())) } {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::new(bindings::SQLITE_NOTFOUND, format!("no schema named {schema}"))),
        }
    }

    /// Gives the absolute path of a schema's file; `None` for databases in memory, temporary ones and unknown
    /// schemas. Bytes that are not UTF-8 are replaced.
    pub fn filename(&self, schema: &str) -> Option<String> {
        let name = c_text(schema).ok()?;
        // SAFETY: the connection is open, the name terminated; the result lives until the schema is detached and is
        // copied at once.
        let path = unsafe { text(call!(self.api(), db_filename(self.as_ptr(), name.as_ptr()))) }?;
        (!path.is_empty()).then_some(path)
    }

    /// Describes a column of a table. `schema` is needed because a temporary table may hide the one in `main`.
    ///
    /// # Errors
    /// `SQLITE_ERROR` if there is no such column, or `table` is a view; `SQLITE_MISUSE` if a name holds a NUL.
    pub fn column_metadata(&self, schema: &str, table: &str, column: &str) -> Result<ColumnMetadata> {
        let (schema, table, column) = (c_text(schema)?, c_text(table)?, c_text(column)?);
        let (mut declared_type, mut collation): (*const c_char, *const c_char) = (ptr::null(), ptr::null());
        let (mut not_null, mut primary_key, mut autoincrement) = (0, 0, 0);
        // SAFETY: the connection is open, the names are terminated, the outputs are ours.
        let rc = unsafe {
            call!(
                self.api(),
                table_column_metadata(
                    self.as_ptr(),
                    schema.as_ptr(),
                    table.as_ptr(),
                    column.as_ptr(),
                    &mut declared_type,
                    &mut collation,
                    &mut not_null,
                    &mut primary_key,
                    &mut autoincrement,
                )
            )
        };
        self.check(rc)?;
        // SAFETY: both texts live until the schema changes; they are copied at once.
        let (declared_type, collation) = unsafe { (text(declared_type), text(collation)) };
        Ok(ColumnMetadata {
            declared_type: declared_type.filter(|name| !name.is_empty()),
            collation: collation.unwrap_or_else(|| "BINARY".to_owned()),
            not_null: not_null != 0,
            primary_key: primary_key != 0,
            autoincrement: autoincrement != 0,
        })
    }

    /// Switches the triggers of this connection's databases on or off and gives the previous state. Takes effect at
    /// once, also inside a transaction; prepared statements are compiled again at their next step. Triggers in the
    /// `temp` schema always run.
    ///
    /// # Errors
    /// SQLite's own, if the option is not built in.
    pub fn set_triggers_enabled(&self, enabled: bool) -> Result<bool> {
        self.set_option(bindings::SQLITE_DBCONFIG_ENABLE_TRIGGER, enabled)
    }

    /// Whether triggers run, as [`set_triggers_enabled`](Self::set_triggers_enabled) has it.
    ///
    /// # Errors
    /// SQLite's own, if the option is not built in.
    pub fn triggers_enabled(&self) -> Result<bool> {
        self.option(bindings::SQLITE_DBCONFIG_ENABLE_TRIGGER)
    }

    /// Switches the enforcement of foreign keys on or off and gives the previous state. Unlike
    /// `PRAGMA foreign_keys` it takes effect inside a transaction as well: violations made meanwhile stay unseen.
    ///
    /// # Errors
    /// SQLite's own, if the option is not built in.
    pub fn set_foreign_keys_enabled(&self, enabled: bool) -> Result<bool> {
        self.set_option(bindings::SQLITE_DBCONFIG_ENABLE_FKEY, enabled)
    }

    /// Bounds the bytes of any text, BLOB or row that this connection makes or reads whole, and gives the bound before;
    /// SQLite's own bound is never exceeded. Where a column of a row is longer, reading that column fails with
    /// `SQLITE_TOOBIG`, without its memory being taken.
    pub fn set_length_limit(&self, bytes: usize) -> usize {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: the connection is open; the call has no other precondition.
        let before = unsafe { call!(self.api(), limit(self.as_ptr(), bindings::SQLITE_LIMIT_LENGTH, bytes)) };
        usize::try_from(before).unwrap_or(0)
    }

    fn option(&self, option: c_int) -> Result<bool> {
        // SQLite reports the state after the call; a negative argument asks without changing.
        let mut state: c_int = 0;
        // SAFETY: these options take an int and a pointer to an int; the connection is open.
        let rc = unsafe {
            call!(self.api(), db_config(self.as_ptr(), option, -1 as c_int, ptr::from_mut(&mut state)))
        };
        self.check(rc)?;
        Ok(state != 0)
    }

    fn set_option(&self, option: c_int, enabled: bool) -> Result<bool> {
        let before = self.option(option)?;
        let mut after: c_int = 0;
        // SAFETY: as in `option`.
        let rc = unsafe {
            call!(
                self.api(),
                db_config(self.as_ptr(), option, c_int::from(enabled), ptr::from_mut(&mut after))
            )
        };
        self.check(rc)?;
        Ok(before)
    }
}
