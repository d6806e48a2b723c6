//! Compiled policies, kept for all connections of the process.
//!
//! What a policy is compiled to follows from its text and from the tables and views that there are. SQLite is asked once for
//! each combination of those texts: not again by each connection that is opened, and not after a change of the schema that
//! comes back to what was there before. Texts are compared, by a digest that nobody can make collide; versions come again with
//! other definitions when a transaction is rolled back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use super::Verb;
use super::compile::Policy;

/// Policies that are kept. One more, and all are forgotten.
const KEPT_MAX: usize = 4_096;

static KEPT: Mutex<Option<HashMap<Key, Policy>>> = Mutex::new(None);

/// What a policy was compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// The tables and views of a database, as their texts.
pub(super) struct Schema(Sha256);

impl Schema {
    /// Reads them.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        // language=SQLite
        let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type IN ('table', 'view') ORDER BY rowid";
        let mut digest = Sha256::new();
        let mut texts = connection.prepare_cached(sql)?;
        let mut rows = texts.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..2 {
                add(&mut digest, row.get_ref(column)?.as_str_or_null()?.unwrap_or_default());
            }
        }
        Ok(Self(digest))
    }

    /// By what a policy is kept.
    pub(super) fn key(&self, table: &str, verb: Verb, text: &str) -> Key {
        let mut digest = self.0.clone();
        for part in [table, verb.name(), text] {
            add(&mut digest, part);
        }
        Key(digest.finalize().into())
    }
}

fn add(digest: &mut Sha256, text: &str) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text);
}

/// The policy that was compiled from the same.
pub(super) fn find(key: &Key) -> Option<Policy> {
    kept().as_ref()?.get(key).cloned()
}

/// Keeps a policy. One with a fault is not kept: what SQLite said may have had another reason.
pub(super) fn keep(key: Key, policy: &Policy) {
    if policy.fault().is_some() {
        return;
    }
    let mut kept = kept();
    let kept = kept.get_or_insert_default();
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(key, policy.clone());
}

/// Forgets all compiled policies, so that what is asked of SQLite next does not depend on what was asked before.
pub fn forget_compiled() {
    *kept() = None;
}

fn kept() -> MutexGuard<'static, Option<HashMap<Key, Policy>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Law, change, prepare_file};
    use super::*;

    fn key(connection: &Connection, text: &str) -> Key {
        Schema::read(connection).unwrap().key("notes", Verb::Select, text)
    }

    #[test]
    fn a_policy_is_kept_for_as_long_as_its_text_and_the_tables_are_the_same() {
        let connection = Connection::open_in_memory().unwrap();
        // language=SQLite
        connection.execute_batch("CREATE TABLE notes(id TEXT PRIMARY KEY, owner_of_the_note)").unwrap();
        prepare_file(&connection).unwrap();
        let mut law = Law::new(connection).unwrap();
        let good = "owner_of_the_note = 'ann'";
        let wanted = Change { table: "notes", verb: Verb::Select, text: Some(good), by: "test", now_ms: 1 };
        change(law.now().unwrap().2, &wanted).unwrap();
        assert!(law.now().unwrap().0.select_of("notes").is_some());
        let before = key(law.connection(), good);
        assert!(find(&before).is_some());
        assert!(find(&key(law.connection(), "owner_of_the_note = 'bob'")).is_none());

        law.connection().execute_batch("CREATE INDEX owners ON notes(owner_of_the_note)").unwrap();
        assert_eq!(key(law.connection(), good), before);

        law.connection().execute_batch("ALTER TABLE notes RENAME COLUMN owner_of_the_note TO owner").unwrap();
        assert!(law.now().unwrap().0.of_table("notes").all(|policy| policy.fault().is_some()));
        assert!(find(&key(law.connection(), good)).is_none(), "one with a fault is kept");

        law.connection().execute_batch("ALTER TABLE notes RENAME COLUMN owner TO owner_of_the_note").unwrap();
        assert!(law.now().unwrap().0.select_of("notes").is_some());
    }
}
