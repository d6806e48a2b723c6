//! `cloudsync db sql`: a text of statements on the file of a database, as any SQLite tool would run it.

use std::path::Path;
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, OpenFlags, Statement};
use serde_json::{Map, Value};

use super::{Place, print_line};
use crate::error::{Error, Result};
use crate::sql_text::token_bytes;

/// How long the text waits for a server or another tool that writes.
pub(super) const BUSY: Duration = Duration::from_secs(30);
/// What a statement begins with that takes transactions into its own hands, or cannot run within one.
const OWN_TRANSACTION: [&str; 5] = ["BEGIN", "SAVEPOINT", "VACUUM", "ATTACH", "DETACH"];
/// What a statement begins with that only reads.
const READING: [&str; 4] = ["SELECT", "VALUES", "EXPLAIN", "PRAGMA"];

/// Runs the text: in one transaction, unless it has its own. What a failed text had not committed is rolled back.
pub(super) fn run(place: &Place, database: &str, path: &Path, text: &str) -> Result<()> {
    let connection = open(path).map_err(|source| Error::DatabaseFile { path: path.to_owned(), source })?;
    let begin = begin_of(text);
    let mut statement = 0;
    let fail = |statement, source| Error::Sql { database: database.to_owned(), statement, source };
    let mut batch = Batch::new(&connection, text);
    loop {
        if let Some((before, sql)) = begin
            && before == statement
        {
            connection.execute_batch(sql).map_err(|source| fail(statement, source))?;
        }
        statement += 1;
        match batch.next().map_err(|source| fail(statement, source))? {
            Some(mut next) => print_rows(place, &mut next, |source| fail(statement, source))?,
            None => break,
        }
    }
    match (begin.is_some(), connection.is_autocommit()) {
        (true, false) => connection.execute_batch("COMMIT").map_err(|source| fail(statement, source)),
        (false, false) => Err(Error::OpenTransaction(database.to_owned())),
        (_, true) => Ok(()),
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // A file that is missing is an error of the folder, and must not become an empty database.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// How the transaction around the text begins, and after how many statements; `None` if the text has its own.
fn begin_of(text: &str) -> Option<(usize, &'static str)> {
    let is_one_of = |word: &str, list: &[&str]| list.iter().any(|other| word.eq_ignore_ascii_case(other));
    if first_words(text).any(|word| is_one_of(word, &OWN_TRANSACTION)) {
        return None;
    }
    // Many a PRAGMA does nothing inside a transaction, and some fail there.
    let before = first_words(text).take_while(|word| word.eq_ignore_ascii_case("PRAGMA")).count();
    // A transaction that reads first and then writes fails, without waiting, when a server has written in between.
    let is_reading = first_words(text).all(|word| is_one_of(word, &READING));
    Some((before, if is_reading { "BEGIN" } else { "BEGIN IMMEDIATE" }))
}

fn print_rows(
    place: &Place,
    statement: &mut Statement<'_>,
    fail: impl Fn(rusqlite::Error) -> Error,
) -> Result<()> {
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(&fail)? {
        let mut cells = Vec::with_capacity(names.len());
        for at in 0..names.len() {
            cells.push(row.get_ref(at).map_err(&fail)?);
        }
        if place.json {
            let object: Map<String, Value> =
                names.iter().cloned().zip(cells.into_iter().map(to_json)).collect();
            print_line(&Value::Object(object).to_string())?;
        } else {
            print_line(&cells.into_iter().map(to_text).collect::<Vec<_>>().join("|"))?;
        }
    }
    Ok(())
}

fn to_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => hex(bytes),
    }
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(_) | ValueRef::Blob(_) => to_text(value).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02X}"));
    format!("X'{}'", digits.collect::<String>())
}

/// The first word of each statement. The body of a trigger counts as statements too, none of which can begin with a
/// word that we look for.
fn first_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    let mut is_first = true;
    std::iter::from_fn(move || {
        while let Some(character) = rest.chars().next() {
            let length = token_bytes(rest, character);
            let (token, after) = rest.split_at(length);
            rest = after;
            match character {
                ';' => is_first = true,
                character if character.is_alphabetic() && is_first => {
                    is_first = false;
                    return Some(token);
                }
                '-' | '/' if length > 1 => {}
                character if character.is_whitespace() => {}
                _ => is_first = false,
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        first_words(text).collect()
    }

    #[test]
    fn the_first_word_of_each_statement_is_found() {
        assert_eq!(words("SELECT 1; insert into t values ('; BEGIN');"), ["SELECT", "insert"]);
        assert_eq!(words("-- BEGIN\n/* ; SAVEPOINT */ begin; commit"), ["begin", "commit"]);
        assert_eq!(words("SELECT 'it''s; BEGIN', \"; BEGIN\", [; BEGIN], `; BEGIN`"), ["SELECT"]);
        assert_eq!(words("(BEGIN); 1 BEGIN"), Vec::<&str>::new());
        assert_eq!(words(""), Vec::<&str>::new());
        assert_eq!(words("'unterminated"), Vec::<&str>::new());
        assert_eq!(
            words("CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM u; END; SELECT 1"),
            ["CREATE", "END", "SELECT"]
        );
    }

    #[test]
    fn the_transaction_begins_after_pragmas_and_fits_the_text() {
        assert_eq!(begin_of("SELECT 1; SELECT 2"), Some((0, "BEGIN")));
        assert_eq!(begin_of("PRAGMA a; pragma b; DELETE FROM t; PRAGMA c"), Some((2, "BEGIN IMMEDIATE")));
        assert_eq!(begin_of("PRAGMA foreign_keys = off; BEGIN; COMMIT;"), None);
        assert_eq!(begin_of("VACUUM"), None);
        assert_eq!(begin_of(""), Some((0, "BEGIN")));
    }

    #[test]
    fn values_print_simply() {
        assert_eq!(to_text(ValueRef::Blob(&[0, 255])), "X'00FF'");
        assert_eq!(to_text(ValueRef::Real(1.0)), "1.0");
        assert_eq!(to_json(ValueRef::Integer(i64::MIN)).to_string(), "-9223372036854775808");
        assert_eq!(to_json(ValueRef::Real(f64::INFINITY)), Value::Null);
    }
}
