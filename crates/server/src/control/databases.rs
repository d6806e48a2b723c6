//! Which databases there are.

use rusqlite::{ErrorCode, OptionalExtension as _, params};
use serde::Serialize;

use super::{Control, iso};
use crate::error::{Error, Result};
use crate::folder::DatabaseName;

// language=SQLite
const SELECT_DATABASES: &str =
    concat!("SELECT name, ", iso!("created_ms"), ", ", iso!("paused_ms"), " FROM databases ORDER BY name");

/// One database of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseRecord {
    /// Its name.
    pub name: String,
    /// When it was created, as ISO 8601 in UTC.
    pub created: String,
    /// Since when the server leaves it alone, if it does.
    pub paused: Option<String>,
}

impl Control {
    /// All databases, by name.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn databases(&self) -> Result<Vec<DatabaseRecord>> {
        self.select(SELECT_DATABASES, [], |row| {
            Ok(DatabaseRecord { name: row.get(0)?, created: row.get(1)?, paused: row.get(2)? })
        })
    }

    /// Whether there is such a database.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn has_database(&self, name: &DatabaseName) -> Result<bool> {
        // language=SQLite
        let sql = "SELECT EXISTS (SELECT 1 FROM databases WHERE name = ?1)";
        self.with(|connection| connection.prepare_cached(sql)?.query_row([name.as_str()], |row| row.get(0)))
    }

    /// Whether the server shall leave the database alone; `None` if there is no such database.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn is_paused(&self, name: &DatabaseName) -> Result<Option<bool>> {
        // language=SQLite
        let sql = "SELECT paused_ms IS NOT NULL FROM databases WHERE name = ?1";
        self.with(|connection| {
            connection.prepare_cached(sql)?.query_row([name.as_str()], |row| row.get(0)).optional()
        })
    }

    /// Tells a server to leave a database alone from `since_ms` on, or to serve it again. A running one obeys within a
    /// second: it refuses turns as a busy server does, ends its listeners and closes the file.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], or [`Error::Control`] when SQLite fails.
    pub fn set_paused(&self, name: &DatabaseName, since_ms: Option<u64>) -> Result<()> {
        // language=SQLite
        let sql = "UPDATE databases SET paused_ms = ?2 WHERE name = ?1";
        let since_ms = since_ms.map(u64::cast_signed);
        let changed = self.with(|connection| connection.execute(sql, params![name.as_str(), since_ms]))?;
        if changed == 0 { Err(Error::NoDatabase(name.to_string())) } else { Ok(()) }
    }

    /// Forgets a database, with its keys, tokens and issuers.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], or [`Error::Control`] when SQLite fails.
    pub fn delete_database(&self, name: &DatabaseName) -> Result<()> {
        let deleted = (|| {
            let mut connection = self.lock();
            let transaction = connection.transaction()?;
            // language=SQLite
            for sql in [
                "DELETE FROM keys WHERE database = ?1",
                "DELETE FROM tokens WHERE database = ?1",
                "DELETE FROM issuers WHERE database = ?1",
            ] {
                transaction.execute(sql, [name.as_str()])?;
            }
            let deleted = transaction.execute("DELETE FROM databases WHERE name = ?1", [name.as_str()])?;
            transaction.commit()?;
            Ok(deleted)
        })();
        match deleted.map_err(|source| self.fail(source))? {
            0 => Err(Error::NoDatabase(name.to_string())),
            _ => Ok(()),
        }
    }

    /// Registers a database, whose file must exist. False if it was registered already.
    ///
    /// # Errors
    /// [`Error::DatabaseExists`] when another one differs by case only; their files would be one on some systems.
    pub fn create_database(&self, name: &DatabaseName, now_ms: u64) -> Result<bool> {
        if self.has_database(name)? {
            return Ok(false);
        }
        // language=SQLite
        let sql = "INSERT INTO databases (name, created_ms) VALUES (?1, ?2)";
        let inserted = self.lock().execute(sql, params![name.as_str(), now_ms.cast_signed()]);
        match inserted {
            Ok(_) => Ok(true),
            Err(source) if source.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(Error::DatabaseExists(name.to_string()))
            }
            Err(source) => Err(self.fail(source)),
        }
    }

    /// As [`Control::has_database`], as an error if there is none.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], or [`Error::Control`] when SQLite fails.
    pub(super) fn require_database(&self, name: &DatabaseName) -> Result<()> {
        if self.has_database(name)? { Ok(()) } else { Err(Error::NoDatabase(name.to_string())) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{control, name};
    use super::*;

    #[test]
    fn a_database_is_paused_and_deleted_with_what_opens_it() {
        let (_temp, _folder, control) = control();
        let one = name("one");
        control.create_database(&one, 0).unwrap();
        control
            .create_key(
                crate::control::NewKey { database: Some(&one), ..crate::control::NewKey::for_all("") },
                1,
            )
            .unwrap();
        control.create_key(crate::control::NewKey::for_all(""), 1).unwrap();
        assert_eq!(control.is_paused(&one).unwrap(), Some(false));
        control.set_paused(&one, Some(5)).unwrap();
        assert_eq!(
            (control.is_paused(&one).unwrap(), control.databases().unwrap()[0].paused.is_some()),
            (Some(true), true)
        );
        control.set_paused(&one, None).unwrap();
        assert_eq!(control.is_paused(&one).unwrap(), Some(false));
        control.delete_database(&one).unwrap();
        assert_eq!((control.is_paused(&one).unwrap(), control.keys().unwrap().len()), (None, 1));
        assert!(control.delete_database(&one).is_err() && control.set_paused(&one, None).is_err());
        control.create_database(&one, 0).unwrap();
    }

    #[test]
    fn databases_are_unique_also_by_case() {
        let (_temp, folder, control) = control();
        assert!(control.create_database(&name("one"), 0).unwrap());
        assert!(!control.create_database(&name("one"), 1).unwrap());
        assert!(matches!(control.create_database(&name("One"), 1), Err(Error::DatabaseExists(_))));
        let other = Control::open(&folder).unwrap();
        assert!(other.has_database(&name("one")).unwrap());
        assert_eq!(
            other.databases().unwrap(),
            [DatabaseRecord { name: "one".into(), created: "1970-01-01T00:00:00Z".into(), paused: None }]
        );
    }
}
