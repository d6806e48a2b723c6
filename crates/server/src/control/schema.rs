//! The tables of the control database, and how older ones are brought up to date.

use rusqlite::{Connection, TransactionBehavior};

/// What leads from each format to the next one, from an empty file on. Steps are only ever added.
const STEPS: [&str; 3] = [
    // language=SQLite
    "
CREATE TABLE databases (name TEXT PRIMARY KEY NOT NULL, created_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX databases_file ON databases (name COLLATE NOCASE);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    database TEXT REFERENCES databases (name),
    scopes TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    last_used_ms INTEGER,
    revoked_ms INTEGER
) STRICT;
",
    // language=SQLite
    "
ALTER TABLE keys ADD COLUMN expires_ms INTEGER;
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    prefix TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    database TEXT NOT NULL REFERENCES databases (name),
    user TEXT NOT NULL,
    claims TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    last_used_ms INTEGER,
    revoked_ms INTEGER
) STRICT;
CREATE INDEX tokens_database ON tokens (database, user);
CREATE TABLE issuers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    database TEXT NOT NULL REFERENCES databases (name),
    issuer TEXT NOT NULL,
    audiences TEXT NOT NULL,
    user_claim TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('secret', 'keys', 'url')),
    trust BLOB NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX issuers_database ON issuers (database);
",
    // language=SQLite
    "ALTER TABLE databases ADD COLUMN paused_ms INTEGER;",
];

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: i64 = STEPS.len() as i64;

/// The format of a file, 0 of an empty one.
pub(super) fn format_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the file up to date unless another process has just done so; false if it holds something else.
pub(super) fn bring_up_to_date(connection: &mut Connection) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = format_of(&transaction)?;
    if found == 0 {
        // language=SQLite
        let sql = "SELECT count(*) FROM sqlite_master";
        if transaction.query_row(sql, [], |row| row.get::<_, i64>(0))? != 0 {
            return Ok(false);
        }
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Control;
    use crate::folder::Folder;

    #[test]
    fn a_file_of_the_first_format_keeps_its_keys() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        let old = Connection::open(folder.control_path()).unwrap();
        old.execute_batch(STEPS[0]).unwrap();
        old.execute_batch(
            "INSERT INTO databases VALUES ('notes', 5); PRAGMA user_version = 1;
             INSERT INTO keys (prefix, name, hash, scopes, created_ms) VALUES ('csk_AAAAAAAA', 'mine', x'00', 'admin', 5)",
        )
        .unwrap();
        drop(old);
        let control = Control::open(&folder).unwrap();
        let keys = control.keys().unwrap();
        assert_eq!((keys[0].name.as_str(), &keys[0].expires), ("mine", &None));
        assert_eq!(control.tokens(None).unwrap(), []);
        assert_eq!(format_of(&Connection::open(folder.control_path()).unwrap()).unwrap(), FORMAT);
    }
}
