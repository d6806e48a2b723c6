//! Trying policies as a user: which rows they see, and whether they might write something. Nothing is written.

use rusqlite::types::{Value as Stored, ValueRef};
use rusqlite::{Connection, params_from_iter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use cloudsync_replica::{Deed, quote_identifier};

use super::judge::{Question, sql};
use super::{Identity, Policies, PolicyError, Verb, twin};
use crate::auth::User;

/// Rows that are shown at most.
pub const SHOWN_ROWS_MAX: usize = 1_000;

/// What somebody would write: columns and values.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attempt {
    /// This row.
    Insert(Map<String, Value>),
    /// To the row of this key these columns.
    Update(Map<String, Value>),
    /// The row of this key.
    Delete(Map<String, Value>),
}

/// What a user may.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probed {
    /// How many rows they see.
    pub sees: u64,
    /// How many there are.
    pub of: u64,
    /// Some of those that they see.
    pub rows: Vec<Map<String, Value>>,
    /// Whether what they would write is let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

struct Column {
    name: String,
    is_key: bool,
}

/// Who tries, and what.
#[derive(Debug, Clone)]
pub struct Probe<'p> {
    /// The table.
    pub table: &'p str,
    /// The user.
    pub user: &'p User,
    /// Rows to be shown.
    pub rows: usize,
    /// What they would write.
    pub attempt: Option<&'p Attempt>,
}

/// Tries.
///
/// # Errors
/// [`PolicyError`] when there is no such table, the attempt names no columns of it, or SQLite fails.
pub fn probe(
    connection: &Connection,
    policies: &Policies,
    identity: &Identity,
    probe: &Probe<'_>,
) -> Result<Probed, PolicyError> {
    let Some(table) = twin::ensure(connection, probe.table)? else {
        return Err(PolicyError::Usage(format!("the database has no table \"{}\"", probe.table)));
    };
    let columns = columns(connection, &table)?;
    let _assumed = identity.assume(probe.user);
    let condition = policies.select_of(&table).map_or("0", super::Policy::condition);
    let name = quote_identifier(&table);
    let count = format!("SELECT count(*) FILTER (WHERE {condition}), count(*) FROM main.{name}");
    let (sees, of): (i64, i64) = connection.query_row(&count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows =
        if probe.rows == 0 { Vec::new() } else { shown(connection, &name, &columns, condition, probe.rows)? };
    let why = match probe.attempt {
        None => None,
        Some(attempt) => {
            let tried = Trial { connection, policies, table: &table, columns: &columns }.attempt(attempt);
            connection.execute_batch(&format!("DELETE FROM {}.{name}", twin::SCHEMA))?;
            Some(tried?)
        }
    };
    let allowed = why.as_ref().map(Option::is_none);
    Ok(Probed { sees: sees as u64, of: of as u64, rows, allowed, why: why.flatten() })
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    // language=SQLite
    let sql = "SELECT name, pk > 0 FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 ORDER BY pk, cid";
    let mut select = connection.prepare(sql)?;
    let columns = select.query_map([table], |row| Ok(Column { name: row.get(0)?, is_key: row.get(1)? }))?;
    columns.collect()
}

fn shown(
    connection: &Connection,
    name: &str,
    columns: &[Column],
    condition: &str,
    most: usize,
) -> rusqlite::Result<Vec<Map<String, Value>>> {
    let names: Vec<_> = columns.iter().map(|column| quote_identifier(&column.name)).collect();
    let limit = most.min(SHOWN_ROWS_MAX);
    let sql = format!("SELECT {} FROM main.{name} WHERE {condition} LIMIT {limit}", names.join(", "));
    let mut select = connection.prepare(&sql)?;
    let rows = select.query_map([], |row| {
        let cells = columns.iter().enumerate();
        cells.map(|(at, column)| Ok((column.name.clone(), json(row.get_ref(at)?)))).collect()
    })?;
    rows.collect()
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => format!("({} bytes)", bytes.len()).into(),
    }
}

struct Trial<'t> {
    connection: &'t Connection,
    policies: &'t Policies,
    table: &'t str,
    columns: &'t [Column],
}

impl Trial<'_> {
    /// Why an attempt fails, if it does.
    fn attempt(&self, attempt: &Attempt) -> Result<Option<String>, PolicyError> {
        let (verb, deed, values) = match attempt {
            Attempt::Insert(values) => (Verb::Insert, Deed::Insert, values),
            Attempt::Update(values) => (Verb::Update, Deed::Update, values),
            Attempt::Delete(values) => (Verb::Delete, Deed::Delete, values),
        };
        let key = self.key(values)?;
        match (self.ask(Question::Seen, &key)?, verb) {
            (Some(_), Verb::Insert) => return Ok(Some("a row of this key exists".to_owned())),
            (None, Verb::Update | Verb::Delete) => return Ok(Some("there is no row of this key".to_owned())),
            (Some(false), _) => return Ok(Some("the user does not see the row".to_owned())),
            _ => {}
        }
        if let Err(error) = self.put(verb, values, &key) {
            return match error {
                rusqlite::Error::SqliteFailure(failure, text)
                    if failure.code == rusqlite::ErrorCode::ConstraintViolation =>
                {
                    Ok(Some(text.unwrap_or_else(|| failure.to_string())))
                }
                error => Err(error.into()),
            };
        }
        if self.ask(Question::May(deed), &key)? == Some(true) {
            return Ok(None);
        }
        let exists = self.policies.of(self.table, verb).is_some();
        let name = verb.name();
        Ok(Some(if exists {
            format!("the {name} policy does not allow it")
        } else {
            format!("there is no {name} policy")
        }))
    }

    fn key(&self, values: &Map<String, Value>) -> Result<Vec<Stored>, PolicyError> {
        let known = |name: &str| self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if let Some(name) = values.keys().find(|name| !known(name)) {
            return Err(PolicyError::Usage(format!(
                "table \"{}\" has no column \"{name}\" that can be written",
                self.table
            )));
        }
        let keys = self.columns.iter().filter(|column| column.is_key);
        keys.map(|column| match value_of(values, &column.name) {
            Some(value) => stored(value),
            None => Err(PolicyError::Usage(format!("the key \"{}\" of the row is wanted", column.name))),
        })
        .collect()
    }

    fn ask(&self, question: Question, key: &[Stored]) -> Result<Option<bool>, PolicyError> {
        let names: Vec<_> =
            self.columns.iter().filter(|column| column.is_key).map(|column| column.name.clone()).collect();
        let mut statement = self.connection.prepare(&sql(self.policies, self.table, question, &names))?;
        let count = statement.parameter_count();
        let mut rows = statement.query(params_from_iter(&key[..count.min(key.len())]))?;
        let found = rows.next()?.map(|row| row.get(0)).transpose()?;
        Ok(found)
    }

    /// Puts the row as it would be into the twin.
    fn put(&self, verb: Verb, values: &Map<String, Value>, key: &[Stored]) -> rusqlite::Result<()> {
        let name = quote_identifier(self.table);
        let twin = format!("{}.{name}", twin::SCHEMA);
        let given: Vec<_> = self
            .columns
            .iter()
            .filter_map(|column| Some((column, value_of(values, &column.name)?)))
            .collect();
        let given: Vec<(String, Stored)> = given
            .into_iter()
            .filter_map(|(column, value)| Some((quote_identifier(&column.name), stored(value).ok()?)))
            .collect();
        self.connection.execute_batch(&format!("DELETE FROM {twin}"))?;
        match verb {
            Verb::Select | Verb::Delete => {}
            Verb::Insert => {
                let names: Vec<_> = given.iter().map(|(name, _)| name.as_str()).collect();
                let places = vec!["?"; names.len()].join(", ");
                let sql = format!("INSERT OR ABORT INTO {twin}({}) VALUES({places})", names.join(", "));
                self.connection.execute(&sql, params_from_iter(given.iter().map(|(_, value)| value)))?;
            }
            Verb::Update => {
                let names: Vec<_> =
                    self.columns.iter().map(|column| quote_identifier(&column.name)).collect();
                let names = names.join(", ");
                let keys = self.columns.iter().filter(|column| column.is_key);
                let equal: Vec<_> =
                    keys.map(|column| format!("{} = ?", quote_identifier(&column.name))).collect();
                let sql = format!(
                    "INSERT OR ABORT INTO {twin}({names}) SELECT {names} FROM main.{name} WHERE {}",
                    equal.join(" AND ")
                );
                self.connection.execute(&sql, params_from_iter(key))?;
                let sets: Vec<_> = given.iter().map(|(name, _)| format!("{name} = ?")).collect();
                let sql = format!("UPDATE OR ABORT {twin} SET {}", sets.join(", "));
                self.connection.execute(&sql, params_from_iter(given.iter().map(|(_, value)| value)))?;
            }
        }
        Ok(())
    }
}

fn value_of<'v>(values: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    values.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn stored(value: &Value) -> Result<Stored, PolicyError> {
    Ok(match value {
        Value::Null => Stored::Null,
        Value::Bool(truth) => Stored::Integer(i64::from(*truth)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Stored::Integer(number),
            None => Stored::Real(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Stored::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => {
            return Err(PolicyError::Usage("a value is a number, a text, true, false or null".to_owned()));
        }
    })
}
