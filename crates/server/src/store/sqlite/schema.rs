//! Taking over tables from a device: described by it, written by us.
//!
//! The text of a device is never run. A table is put together from its description: names in quotes, types of harmless
//! characters, one of SQLite's own collations, and defaults only of literals and built-in functions; anything else of
//! a default is left out, since rows arrive whole.

use super::standing;
use crate::store::Rights;
use cloudsync_protocol::message::Request;
use cloudsync_protocol::schema::{ColumnSchema, Schema, TableSchema, compare, key_names};
use cloudsync_replica::{Error, FLAG_INTEGER_KEY, Replica, quote_identifier as quote};
use cloudsync_sqlite_ffi::Value;
use cloudsync_sqlite_ffi::bindings::SQLITE_ERROR;

/// Why a device's schema is not taken.
pub(super) enum Stop {
    /// It means other bytes than the server's.
    Conflict(String),
    /// The key may not bring what is missing.
    Denied(String),
    /// The file failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<cloudsync_sqlite_ffi::Error> for Stop {
    fn from(error: cloudsync_sqlite_ffi::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Checks a device's schema against the server's, and creates what is missing if the key may. Tables are brought
/// together and columns after them, so that the server's catalog is loaded a few times and not for each of them.
pub(super) fn adopt(replica: &mut Replica, device: &Schema, rights: Rights) -> Result<(), Stop> {
    let server = replica.schema()?;
    let missing: Vec<_> = device.tables.iter().filter(|table| server.table(&table.name).is_none()).collect();
    if missing.is_empty() {
        return adopt_columns(replica, device, &server, rights);
    }
    check_switched_on(replica, device)?;
    missing.iter().try_for_each(|table| check_may_bring(table, rights))?;
    missing.iter().try_for_each(|table| create_table(replica, table))?;
    let names: Vec<_> = missing.iter().map(|table| (&table.name[..], &table.algorithm[..])).collect();
    replica.init_each(&names, FLAG_INTEGER_KEY).map_err(usage)?;
    // Rows that were there count as older than any edit, also than those that come in this turn.
    standing::fold(replica)?;
    let server = replica.schema()?;
    adopt_columns(replica, device, &server, rights)
}

/// Fingerprints that are remembered at most; beyond it all are forgotten, and devices send their schemas again.
const FINGERPRINTS_MAX: i64 = 10_000;

/// Whether a device's schema was found to fit the present one of the server.
pub(super) fn fits(replica: &mut Replica, device: u64) -> Result<bool, Error> {
    let server = replica.schema()?.fingerprint();
    // language=SQLite
    let sql = "SELECT 1 FROM main.cloudsync_server_schemas WHERE device = ?1 AND server = ?2";
    let pair = [Value::Integer(device as i64), Value::Integer(server as i64)];
    Ok(replica.connection().query_i64(sql, &pair)?.is_some())
}

/// Remembers that a device's schema fits. Its fingerprint is worked out here: under one that is only claimed, a schema
/// that does not fit could pass for one that does.
pub(super) fn remember(replica: &mut Replica, device: &Schema) -> Result<(), Error> {
    let fingerprint = device.fingerprint();
    if fits(replica, fingerprint)? {
        return Ok(());
    }
    let server = Value::Integer(replica.schema()?.fingerprint() as i64);
    // language=SQLite
    let void = "DELETE FROM main.cloudsync_server_schemas WHERE server <> ?1 \
                OR (SELECT count(*) FROM main.cloudsync_server_schemas) >= ?2";
    // language=SQLite
    let sql = "INSERT INTO main.cloudsync_server_schemas(device, server) VALUES(?1, ?2)";
    let db = replica.connection();
    db.prepare(void)?.run(&[server, Value::Integer(FINGERPRINTS_MAX)])?;
    Ok(db.prepare(sql)?.run(&[Value::Integer(fingerprint as i64), server])?)
}

/// Refuses a device that has a table which is switched off here.
pub(super) fn check_switched_on(replica: &mut Replica, device: &Schema) -> Result<(), Stop> {
    let off = device.tables.iter().find(|table| is_switched_off(replica, table));
    let Some(TableSchema { name, .. }) = off else { return Ok(()) };
    cloudsync_core::reached!("server: a table is switched off");
    Err(Stop::Denied(format!(
        "table \"{name}\" is switched off on the server: run `cloudsync table enable <database> {name}` there, or call cloudsync_cleanup('{name}') here"
    )))
}

fn is_switched_off(replica: &mut Replica, table: &TableSchema) -> bool {
    replica.is_enabled(&table.name).is_ok_and(|enabled| !enabled)
}

/// Whether changes may be missing in a download, because the device has a table that is switched off here. Its cursor would go
/// past them, and nothing would bring them when the table is switched on again.
pub(super) fn may_hide(replica: &mut Replica, request: &Request<'_>) -> Result<bool, Error> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.cloudsync_tables WHERE NOT enabled";
    if replica.connection().query_i64(sql, &[])?.is_none() {
        return Ok(false);
    }
    match &request.schema {
        Some(device) => Ok(device.tables.iter().any(|table| is_switched_off(replica, table))),
        None => Ok(!fits(replica, request.fingerprint)?),
    }
}

fn check_may_bring(table: &TableSchema, rights: Rights) -> Result<(), Stop> {
    let name = &table.name;
    if !rights.schema {
        return Err(Stop::Denied(format!(
            "table \"{name}\" does not sync on the server, and this key may not bring it: run `cloudsync table enable <database> {name}` there"
        )));
    }
    Ok(())
}

/// Creates a table that does not sync on the server yet, unless it is there.
fn create_table(replica: &Replica, table: &TableSchema) -> Result<(), Stop> {
    let name = &table.name;
    let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let exists = replica.connection().query_i64(sql, &[Value::from(name.as_str())])?.is_some();
    if !exists {
        let sql = create_table_sql(table).map_err(Stop::Conflict)?;
        replica.connection().execute(&sql).map_err(|error| refused_sql(name, error))?;
    }
    Ok(())
}

/// What SQLite itself finds wrong with a description is the device's to change.
fn refused_sql(table: &str, error: cloudsync_sqlite_ffi::Error) -> Stop {
    if error.primary_code() == SQLITE_ERROR {
        return Stop::Conflict(format!(
            "table \"{table}\" cannot be created on the server: {}",
            error.message
        ));
    }
    error.into()
}

/// What the table's definition makes impossible is the device's to change.
fn usage(error: Error) -> Stop {
    match error {
        Error::Usage(text) => Stop::Conflict(text),
        error => Stop::Failed(error),
    }
}

/// Compares each table with the server's, and adds the columns that only the device has.
fn adopt_columns(
    replica: &mut Replica,
    device: &Schema,
    server: &Schema,
    rights: Rights,
) -> Result<(), Stop> {
    let mut grown = false;
    for table in &device.tables {
        let Some(known) = server.table(&table.name) else { continue };
        compare(table, known).map_err(|conflict| Stop::Conflict(conflict.to_string()))?;
        let is_missing = |column: &&ColumnSchema| {
            !known.columns.iter().any(|other| other.name.eq_ignore_ascii_case(&column.name))
        };
        for column in table.columns.iter().filter(is_missing) {
            add_column(replica, table, column, rights)?;
            grown = true;
        }
    }
    if grown {
        replica.fold_here()?;
    }
    Ok(())
}

fn add_column(
    replica: &mut Replica,
    table: &TableSchema,
    column: &ColumnSchema,
    rights: Rights,
) -> Result<(), Stop> {
    if !rights.schema {
        return Err(Stop::Denied(format!(
            "column \"{}\" of table \"{}\" does not exist on the server, and this key may not add it: add it there, or sync once with a key that may",
            column.name, table.name
        )));
    }
    let definition = added_column(column).map_err(Stop::Conflict)?;
    let sql = format!("ALTER TABLE main.{} ADD COLUMN {definition}", quote(&table.name));
    replica.connection().execute(&sql).map_err(|error| refused_sql(&table.name, error))
}

/// The CREATE statement for a described table.
fn create_table_sql(table: &TableSchema) -> Result<String, String> {
    let mut parts = table.columns.iter().map(column_sql).collect::<Result<Vec<_>, _>>()?;
    let key = key_names(table);
    if key.is_empty() {
        return Err(format!("table \"{}\" has no primary key", table.name));
    }
    parts.push(format!("PRIMARY KEY({})", names(&key)));
    for unique in &table.uniques {
        parts.push(format!("UNIQUE({})", names(unique)));
    }
    let mut options = Vec::new();
    if table.without_rowid {
        options.push("WITHOUT ROWID");
    }
    if table.strict {
        options.push("STRICT");
    }
    Ok(format!("CREATE TABLE main.{}({}) {}", quote(&table.name), parts.join(", "), options.join(", ")))
}

fn column_sql(column: &ColumnSchema) -> Result<String, String> {
    let mut sql = bare_column(column)?;
    if column.not_null {
        sql.push_str(" NOT NULL");
    }
    if let Some(default) = column.default.as_deref().filter(|default| is_harmless(default)) {
        sql.push_str(&format!(" DEFAULT ({default})"));
    }
    Ok(sql)
}

/// ADD COLUMN takes only constant defaults, and NOT NULL only with one.
fn added_column(column: &ColumnSchema) -> Result<String, String> {
    let mut sql = bare_column(column)?;
    if let Some(default) = column.default.as_deref().filter(|default| is_literal(default)) {
        let not_null = column.not_null && !default.eq_ignore_ascii_case("NULL");
        sql.push_str(&format!("{} DEFAULT {default}", if not_null { " NOT NULL" } else { "" }));
    }
    Ok(sql)
}

fn bare_column(column: &ColumnSchema) -> Result<String, String> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || " _(),.".contains(c);
    let balanced = column.declared_type.matches('(').count() == column.declared_type.matches(')').count();
    if !column.declared_type.chars().all(harmless) || !balanced {
        return Err(format!(
            "the type of column \"{}\" has characters that the server does not take",
            column.name
        ));
    }
    let collation = match column.collation.to_ascii_uppercase().as_str() {
        "BINARY" => "",
        "NOCASE" => " COLLATE NOCASE",
        "RTRIM" => " COLLATE RTRIM",
        other => {
            return Err(format!(
                "column \"{}\" uses the collation {other}, which the server does not have",
                column.name
            ));
        }
    };
    Ok(format!("{} {}{collation}", quote(&column.name), column.declared_type))
}

fn names<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|name| quote(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Functions that a default may call.
const FUNCTIONS: [&str; 21] = [
    "abs",
    "coalesce",
    "date",
    "datetime",
    "hex",
    "ifnull",
    "instr",
    "julianday",
    "length",
    "lower",
    "nullif",
    "printf",
    "random",
    "randomblob",
    "replace",
    "round",
    "strftime",
    "substr",
    "time",
    "trim",
    "upper",
];
/// Words that a default may hold.
const WORDS: [&str; 6] = ["NULL", "TRUE", "FALSE", "CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"];

/// One token of a default.
#[derive(Debug, PartialEq)]
enum Token<'a> {
    Literal,
    Word(&'a str),
    Open,
    Close,
    Operator,
}

/// True when a default holds nothing but literals, operators and harmless functions.
fn is_harmless(default: &str) -> bool {
    let Some(tokens) = tokens(default) else { return false };
    let mut depth = 0i32;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Word(word) if tokens.get(at + 1) == Some(&Token::Open) => {
                if !FUNCTIONS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
                    return false;
                }
            }
            Token::Word(word) => {
                if !WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
                    return false;
                }
            }
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Literal | Token::Operator => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0 && !tokens.is_empty()
}

/// True for a single literal, with a sign perhaps.
fn is_literal(default: &str) -> bool {
    match tokens(default).as_deref() {
        Some([Token::Literal] | [Token::Operator, Token::Literal]) => true,
        Some([Token::Word(word)]) => {
            ["NULL", "TRUE", "FALSE"].iter().any(|known| known.eq_ignore_ascii_case(word))
        }
        _ => false,
    }
}

fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' => (Token::Literal, string_length(rest)?),
            '0'..='9' | '.' => (Token::Literal, span(rest, |c| c.is_ascii_alphanumeric() || c == '.')),
            'x' | 'X' if rest[1..].starts_with('\'') => (Token::Literal, 1 + string_length(&rest[1..])?),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '+' | '*' | '/' | '%' | ',' | '|' => (Token::Operator, 1),
            // Two would begin a comment.
            '-' if !rest[1..].starts_with('-') => (Token::Operator, 1),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let length = span(rest, |c| c.is_ascii_alphanumeric() || c == '_');
                (Token::Word(&rest[..length]), length)
            }
            _ => return None,
        };
        if first == '/' && rest[1..].starts_with('*') {
            return None;
        }
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Some(tokens)
}

fn span(text: &str, takes: impl Fn(char) -> bool) -> usize {
    text.find(|c| !takes(c)).unwrap_or(text.len())
}

/// Length of the quoted string at the start of `text`; a doubled quote stands for one inside.
fn string_length(text: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find('\'')? + 1;
        if !text[at..].starts_with('\'') {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, declared_type: &str, key_place: u16, default: Option<&str>) -> ColumnSchema {
        ColumnSchema {
            name: name.into(),
            declared_type: declared_type.into(),
            not_null: true,
            key_place,
            collation: "BINARY".into(),
            default: default.map(str::to_owned),
        }
    }

    fn table(columns: Vec<ColumnSchema>) -> TableSchema {
        TableSchema {
            name: "we\"ird".into(),
            algorithm: "cls".into(),
            strict: false,
            without_rowid: true,
            columns,
            uniques: vec![vec!["b".into()]],
        }
    }

    #[test]
    fn a_described_table_can_be_created() {
        let columns = vec![
            column("a", "VARCHAR(10)", 1, None),
            column("b", "TEXT", 0, Some("strftime('%s','now')")),
            column("c", "INTEGER", 0, Some("load_extension('x')")),
        ];
        let sql = create_table_sql(&table(columns)).unwrap();
        assert!(sql.contains("strftime") && !sql.contains("load_extension"), "{sql}");
        rusqlite::Connection::open_in_memory().unwrap().execute_batch(&sql).unwrap();
    }

    #[test]
    fn no_description_smuggles_sql_in() {
        for declared_type in ["TEXT); DROP TABLE x; --", "TEXT' ", "INT)", "a;b"] {
            assert!(
                create_table_sql(&table(vec![column("a", declared_type, 1, None)])).is_err(),
                "{declared_type}"
            );
        }
        let mut foreign = column("a", "TEXT", 1, None);
        foreign.collation = "x); --".into();
        assert!(create_table_sql(&table(vec![foreign])).is_err());
    }

    #[test]
    fn defaults_are_literals_and_harmless_functions() {
        for default in [
            "''",
            "'it''s'",
            "-1",
            "1.5e3",
            "x'00ff'",
            "NULL",
            "CURRENT_TIMESTAMP",
            "(strftime('%s','now'))",
            "1 + 2",
        ] {
            assert!(is_harmless(default), "{default}");
        }
        for default in [
            "",
            "cloudsync_uuid()",
            "1); DROP TABLE x; --",
            "'open",
            "a",
            "\"a\"",
            "1 -- x",
            "(1",
            "1) + (2",
            "1/*x*/",
            "(SELECT 1)",
        ] {
            assert!(!is_harmless(default), "{default}");
        }
        assert!(
            is_literal("-1") && is_literal("'x'") && !is_literal("CURRENT_TIMESTAMP") && !is_literal("1+1")
        );
    }
}
