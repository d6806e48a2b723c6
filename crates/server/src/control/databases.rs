//! Which databases there are.

use rusqlite::{ErrorCode, params};
use serde::Serialize;

use super::{Control, iso};
use crate::error::{Error, Result};
use crate::folder::DatabaseName;

// language=SQLite
const SELECT_DATABASES: &str = concat!("SELECT name, ", iso!("created_ms"), " FROM databases ORDER BY name");

/// One database of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseRecord {
    /// Its name.
    pub name: String,
    /// When it was created, as ISO 8601 in UTC.
    pub created: String,
}

impl Control {
    /// All databases, by name.
    ///
    /// # Errors
    /// [`Error::Control`] when SQLite fails.
    pub fn databases(&self) -> Result<Vec<DatabaseRecord>> {
        self.select(SELECT_DATABASES, [], |row| {
            Ok(DatabaseRecord { name: row.get(0)?, created: row.get(1)? })
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
    fn databases_are_unique_also_by_case() {
        let (_temp, folder, control) = control();
        assert!(control.create_database(&name("one"), 0).unwrap());
        assert!(!control.create_database(&name("one"), 1).unwrap());
        assert!(matches!(control.create_database(&name("One"), 1), Err(Error::DatabaseExists(_))));
        let other = Control::open(&folder).unwrap();
        assert!(other.has_database(&name("one")).unwrap());
        assert_eq!(
            other.databases().unwrap(),
            [DatabaseRecord { name: "one".into(), created: "1970-01-01T00:00:00Z".into() }]
        );
    }
}
