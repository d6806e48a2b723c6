//! Rows as they were or are, in tables that policies read, and how a question finds one in the place of its table.
//!
//! A row stands in a table of its own in the schema of twins, with the affinity and collation of its columns: values that
//! are bound as parameters would have neither, and `n = '5'` is true for 5 in an INTEGER column, and false for the
//! parameter 5. A WITH clause gives that one row the name of its table.

use crate::policy::twin;
use cloudsync_core::value::Value as Owned;
use cloudsync_replica::{Error, quote_identifier};
use cloudsync_sqlite_ffi::{Connection, Value};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Rows that stay in place on a connection: those that are asked about at one time are the last ones, and fewer.
const KEPT: i64 = 4_096;

/// A row as it was or is, in a table that policies read.
pub(super) struct Line {
    /// Its number in `cloudsync_server_watched`.
    seq: i64,
    /// In small letters.
    pub(super) table: String,
    /// In small letters.
    pub(super) columns: Vec<String>,
    values: Vec<Owned>,
}

impl Line {
    /// The rows that changed in a table after the version `seen` up to `head`, each once.
    pub(super) fn read(db: &Connection, table: &str, (seen, head): (u64, u64)) -> Result<Vec<Self>, Error> {
        // language=SQLite
        let sql = "SELECT * FROM main.cloudsync_server_watched WHERE version > ?1 AND version <= ?2 AND lower(tbl) = ?3 ORDER BY seq";
        let mut select = db.prepare(sql)?;
        select.bind(1, Value::Integer(seen as i64))?;
        select.bind(2, Value::Integer(head as i64))?;
        select.bind(3, Value::from(table))?;
        let (mut lines, mut known) = (Vec::new(), BTreeSet::new());
        while select.step()? {
            let seq = select.column_i64(0);
            let columns: Vec<String> = select
                .column(3)
                .as_str()
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            let values: Vec<_> = (0..columns.len()).map(|at| owned(select.column(4 + at))).collect();
            if known.insert(format!("{columns:?}{values:?}")) {
                lines.push(Self { seq, table: table.to_owned(), columns, values });
            }
        }
        Ok(lines)
    }

    /// Puts the row where the WITH clause that is given finds it under the name of its table.
    pub(super) fn put_in_place(&self, db: &Connection) -> Result<String, Error> {
        let place = self.place(db)?;
        let names: Vec<_> = self.columns.iter().map(|column| quote_identifier(column)).collect();
        let marks: String = (0..names.len()).map(|at| format!(", ?{}", at + 2)).collect();
        let mut values = vec![Value::Integer(self.seq)];
        values.extend(self.values.iter().map(bound));
        db.prepare(&format!("INSERT OR REPLACE INTO {place} VALUES(?1{marks})"))?.run(&values)?;
        let (table, seq) = (quote_identifier(&self.table), self.seq);
        if names.is_empty() {
            return Ok(format!(
                "WITH {table} AS (SELECT 1 AS cloudsync_row FROM {place} WHERE cloudsync_line = {seq})"
            ));
        }
        let names = names.join(", ");
        Ok(format!("WITH {table}({names}) AS (SELECT {names} FROM {place} WHERE cloudsync_line = {seq})"))
    }

    /// The table for rows of this definition, made when it is first needed.
    fn place(&self, db: &Connection) -> Result<String, Error> {
        let mut definition = "cloudsync_line INTEGER PRIMARY KEY".to_owned();
        for column in &self.columns {
            let known = db.column_metadata("main", &self.table, column)?;
            let declared = known.declared_type.unwrap_or_default();
            // As a type name that is quoted the declared one says the same of the affinity.
            let declared = if declared.is_empty() { String::new() } else { quote_identifier(&declared) };
            let (name, collation) = (quote_identifier(column), quote_identifier(&known.collation));
            definition += &format!(", {name} {declared} COLLATE {collation}");
        }
        let digest =
            Sha256::new().chain_update(&self.table).chain_update([0]).chain_update(&definition).finalize();
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let (schema, name) = (twin::SCHEMA, format!("cloudsync_line_{name}"));
        let place = format!("{schema}.{name}");
        // language=SQLite
        let sql = format!("SELECT 1 FROM {schema}.sqlite_master WHERE name = ?1");
        if db.query_i64(&sql, &[Value::from(name.as_str())])?.is_none() {
            db.execute(&format!("CREATE TABLE {place}({definition})"))?;
        }
        db.prepare(&format!("DELETE FROM {place} WHERE cloudsync_line < ?1"))?
            .run(&[Value::Integer(self.seq.saturating_sub(KEPT))])?;
        Ok(place)
    }
}

fn owned(value: Value<'_>) -> Owned {
    match value {
        Value::Null => Owned::Null,
        Value::Integer(integer) => Owned::Integer(integer),
        Value::Real(real) => Owned::Real(real),
        Value::Text(text) => Owned::Text(text.to_vec()),
        Value::Blob(blob) => Owned::Blob(blob.to_vec()),
    }
}

fn bound(value: &Owned) -> Value<'_> {
    match value {
        Owned::Null => Value::Null,
        Owned::Integer(integer) => Value::Integer(*integer),
        Owned::Real(real) => Value::Real(*real),
        Owned::Text(text) => Value::Text(text),
        Owned::Blob(blob) => Value::Blob(blob),
    }
}
