//! Twins of tables: in a schema of their own, in memory, an empty table of the same definition. A row that is put there
//! has the affinities, collations and generated columns that it has in its table, and no other row of the table can be
//! mistaken for it.
//!
//! Values that are bound as parameters would have neither: `n = '5'` is true for 5 in an INTEGER column, and false for
//! the parameter 5.

use cloudsync_replica::quote_identifier;
use rusqlite::{Connection, OptionalExtension as _};

use super::words;

/// The name of the schema. Expressions may not name it.
pub(crate) const SCHEMA: &str = "cloudsync_twins";

/// Gives a connection the schema for twins. Not within a transaction.
///
/// # Errors
/// When SQLite does not take it.
pub fn attach(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("ATTACH ':memory:' AS {SCHEMA}"))
}

/// Makes sure that a table has its twin, of its present definition; gives the table's name as its schema writes it, or
/// `None` if there is no such table.
pub(super) fn ensure(connection: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    // language=SQLite
    let sql = "SELECT name, sql FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let found = connection
        .prepare_cached(sql)?
        .query_row([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((name, created)) = found else { return Ok(None) };
    let Some(definition) = words::after_table_name(&created) else { return Ok(None) };
    let twin = format!("CREATE TABLE {}{definition}", quote_identifier(&name));
    let sql = format!(
        "SELECT sql = ?2 FROM {SCHEMA}.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE"
    );
    let same: Option<bool> =
        connection.prepare_cached(&sql)?.query_row([&name, &twin], |row| row.get(0)).optional()?;
    if same == Some(true) {
        return Ok(Some(name));
    }
    let quoted = quote_identifier(&name);
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {SCHEMA}.{quoted}"))?;
    connection.execute_batch(&format!("CREATE TABLE {SCHEMA}.{quoted}{definition}"))?;
    Ok(Some(name))
}
