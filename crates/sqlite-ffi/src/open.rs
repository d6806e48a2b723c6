//! A connection of our own, opened through the host's library.

use std::ptr;

use crate::api::Api;
use crate::bindings::{self, sqlite3};
use crate::connection::{Connection, c_text};
use crate::error::{Error, Result};

impl Api {
    /// Opens a file that exists, for reading and writing, gives the connection to `act`, and closes it. The connection
    /// waits for no lock. It is for this thread, and so are copies of it and what is made with it, all of which must be
    /// gone when `act` returns.
    ///
    /// Entry points that the host registered with `sqlite3_auto_extension` run on it, as on every connection.
    ///
    /// # Errors
    /// SQLite's own when the file cannot be opened; `SQLITE_MISUSE` if the path holds a NUL.
    pub fn with_connection<T>(self, path: &str, act: impl FnOnce(Connection) -> T) -> Result<T> {
        /// Closes also when `act` panics.
        struct Opened(Api, *mut sqlite3);
        impl Drop for Opened {
            fn drop(&mut self) {
                // SAFETY: null or opened by us, and closed only here.
                unsafe { call!(self.0, close_v2(self.1)) };
            }
        }

        let name = c_text(path)?;
        let flags = bindings::SQLITE_OPEN_READWRITE
            | bindings::SQLITE_OPEN_NOMUTEX
            | bindings::SQLITE_OPEN_PRIVATECACHE;
        let mut db: *mut sqlite3 = ptr::null_mut();
        // SAFETY: the name is terminated, the output ours, and null stands for the usual VFS.
        let rc = unsafe { call!(self, open_v2(name.as_ptr(), &mut db, flags, ptr::null())) };
        let opened = Opened(self, db);
        // SAFETY: open until `opened` is dropped, which is after `act`; only this thread knows it.
        let connection = unsafe { Connection::from_raw(opened.1, self) };
        match connection {
            Some(connection) => {
                connection.check(rc)?;
                Ok(act(connection))
            }
            None => Err(Error::new(rc, "SQLite had no memory for a connection")),
        }
    }
}
