//! Definitions of tables, asked of SQLite once for each text of a CREATE statement.
//!
//! To be told of a table's columns, collations, keys and indexes takes a handful of statements. What they tell follows from
//! the texts of CREATE TABLE and CREATE INDEX alone, so a thread keeps it by those texts: a change of one table does not have
//! all others asked about again, nor does each connection that is opened. Texts are compared, never versions: those come again
//! with other definitions when a transaction is rolled back.

use crate::error::Result;
use crate::table::{Definition, define};
use cloudsync_sqlite_ffi::{Api, Connection, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Definitions that a thread keeps. One more, and all are forgotten.
const KEPT_MAX: usize = 512;
/// Longest texts by which a definition is kept, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 10;

thread_local! {
    static KEPT: RefCell<HashMap<(Api, String), Rc<Definition>>> = RefCell::default();
}

/// A table as the schema has it.
#[derive(Debug)]
pub(crate) struct Created {
    /// As it is written there.
    pub(crate) name: String,
    /// Its CREATE statement.
    pub(crate) sql: String,
    /// The statements of its indexes, by their names.
    indexes: Vec<(String, String)>,
}

impl Created {
    /// All by which a definition is kept.
    fn texts(&self) -> String {
        let mut texts = format!("{}\0{}", self.name, self.sql);
        for (name, sql) in &self.indexes {
            texts.extend(["\0", name, "\0", sql]);
        }
        texts
    }

    /// The definition, and whether SQLite had to be asked.
    fn definition(&self, db: &Connection) -> Result<(Rc<Definition>, Option<String>)> {
        let key = (db.api(), self.texts());
        if let Some(known) = KEPT.with_borrow(|kept| kept.get(&key).cloned()) {
            return Ok((known, None));
        }
        Ok((Rc::new(define(db, &self.name, &self.sql)?), Some(key.1)))
    }
}

/// Reads the definition of an ordinary table of the main database; `None` if there is none of that name.
pub(crate) fn read_definition(db: &Connection, table: &str) -> Result<Option<Definition>> {
    // language=SQLite
    let sql = "SELECT type, name, tbl_name, sql FROM main.sqlite_master \
               WHERE type IN ('table', 'index') AND tbl_name = ?1 COLLATE NOCASE";
    let mut schema = SchemaTexts::default();
    schema.read(db, sql, &[Value::from(table)])?;
    let Some(created) = schema.table(table) else { return Ok(None) };
    let (definition, asked) = created.definition(db)?;
    // Outside of a transaction the schema may have changed between the two looks at it.
    if let Some(texts) = asked.filter(|_| !db.is_autocommit()) {
        keep(db, texts, &definition);
    }
    Ok(Some(Definition::clone(&definition)))
}

/// Forgets all definitions that this thread keeps, so that what is asked next does not depend on what was asked before.
pub fn forget_definitions() {
    KEPT.take();
}

fn keep(db: &Connection, texts: String, definition: &Rc<Definition>) {
    if texts.len() > KEPT_BYTES_MAX {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert((db.api(), texts), Rc::clone(definition));
    });
}

/// The tables of the main database. SQLite has no index of its schema: to find many tables one by one costs the square of
/// their number.
#[derive(Debug, Default)]
pub(crate) struct SchemaTexts {
    /// By their names in lower case.
    tables: HashMap<String, Created>,
    indexes: HashMap<String, Vec<(String, String)>>,
    asked: Vec<(String, Rc<Definition>)>,
}

impl SchemaTexts {
    /// Reads all of them.
    pub(crate) fn of(db: &Connection) -> Result<Self> {
        let mut schema = Self::default();
        let sql = "SELECT type, name, tbl_name, sql FROM main.sqlite_master WHERE type IN ('table', 'index')";
        schema.read(db, sql, &[])?;
        Ok(schema)
    }

    fn read(&mut self, db: &Connection, sql: &str, values: &[Value<'_>]) -> Result<()> {
        db.prepare(sql)?.for_each(values, |row| -> Result<()> {
            let text = |i| row.column(i).as_str().unwrap_or_default().to_owned();
            let table = text(2).to_ascii_lowercase();
            if row.column(0).as_str() == Some("table") {
                self.tables.insert(table, Created { name: text(1), sql: text(3), indexes: Vec::new() });
            } else if !row.column(3).is_null() {
                self.indexes.entry(table).or_default().push((text(1), text(3)));
            }
            Ok(())
        })?;
        for (table, mut indexes) in self.indexes.drain() {
            indexes.sort_unstable();
            if let Some(table) = self.tables.get_mut(&table) {
                table.indexes = indexes;
            }
        }
        Ok(())
    }

    /// True when there is a table of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tables.contains_key(&name.to_ascii_lowercase())
    }

    fn table(&self, name: &str) -> Option<&Created> {
        self.tables.get(&name.to_ascii_lowercase())
    }

    /// The definition of the table of that name, if there is one.
    pub(crate) fn definition(&mut self, db: &Connection, name: &str) -> Result<Option<Rc<Definition>>> {
        let Some(created) = self.table(name) else { return Ok(None) };
        let (definition, asked) = created.definition(db)?;
        self.asked.extend(asked.map(|texts| (texts, Rc::clone(&definition))));
        Ok(Some(definition))
    }

    /// Keeps what SQLite was asked for, which nothing changed since the texts were read.
    pub(crate) fn keep(self, db: &Connection) {
        for (texts, definition) in self.asked {
            keep(db, texts, &definition);
        }
    }
}
