//! cr-sqlite, as its own documentation uses it: a row of `crsql_changes` for each cell.

use super::{Adapter, Subject, Wins};
use crate::database::Database;
use anyhow::{Context, Result, bail};
use cloudsync_sqlite_ffi::Value;
use std::path::Path;

pub(crate) const ADAPTER: Adapter = Adapter { name: "cr-sqlite", open };

/// Where a piece ends and the next begins, as ours.
const PIECE_BYTES: usize = 1 << 20;

// language=SQLite
const SELECT: &str = "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes \
     WHERE db_version > ?1";
// language=SQLite
const INSERT: &str = "INSERT INTO crsql_changes(\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq) \
     VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
const COLUMNS: usize = 9;

struct CrSqlite {
    connection: cloudsync_sqlite_ffi::Connection,
    mark: i64,
}

fn open(database: &Database, path: &Path) -> Result<Box<dyn Subject>> {
    let owner = database.owner();
    // SAFETY: the user named this library to be loaded into the process.
    unsafe {
        let _allowed = rusqlite::LoadExtensionGuard::new(owner)?;
        owner
            .load_extension(path, None::<&str>)
            .with_context(|| format!("cr-sqlite cannot be loaded from {}", path.display()))?;
    }
    // With the schema: alone, the name of the table is passed on beside a "main" without its terminating zero.
    database.execute("SELECT crsql_as_crr('main', 't')")?;
    Ok(Box::new(CrSqlite { connection: database.connection(), mark: 0 }))
}

impl Drop for CrSqlite {
    fn drop(&mut self) {
        // It keeps statements, with which the connection would not close.
        let _ = self.connection.execute("SELECT crsql_finalize()");
    }
}

impl Subject for CrSqlite {
    fn mark(&mut self, database: &Database) -> Result<()> {
        let version = database.connection().query_i64("SELECT crsql_db_version()", &[])?;
        self.mark = version.context("crsql_db_version() is NULL")?;
        Ok(())
    }

    fn extract(&mut self, database: &Database, take: &mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let mut piece = Vec::new();
        database.prepare(SELECT)?.for_each(&[Value::Integer(self.mark)], |row| -> Result<()> {
            (0..COLUMNS).for_each(|column| push(row.column(column), &mut piece));
            if piece.len() >= PIECE_BYTES {
                take(std::mem::take(&mut piece))?;
            }
            Ok(())
        })?;
        if piece.is_empty() { Ok(()) } else { take(piece) }
    }

    fn apply(&mut self, database: &Database, piece: &[u8], _wins: Wins) -> Result<()> {
        let mut rest = piece;
        database.in_transaction(|| {
            let mut insert = database.prepare(INSERT)?;
            let mut values = [Value::Null; COLUMNS];
            while !rest.is_empty() {
                for value in &mut values {
                    *value = pull(&mut rest)?;
                }
                insert.run(&values)?;
            }
            Ok(())
        })
    }
}

/// Appends a value: its kind, and its bytes with their length. Small integers are short, since any transport would
/// make them so.
fn push(value: Value<'_>, out: &mut Vec<u8>) {
    let mut with = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Null => out.push(0),
        Value::Integer(integer) => {
            out.push(1);
            varint(integer.cast_unsigned(), out);
        }
        Value::Real(real) => {
            out.push(2);
            out.extend_from_slice(&real.to_le_bytes());
        }
        Value::Text(bytes) => with(3, bytes),
        Value::Blob(bytes) => with(4, bytes),
    }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes the next value off the front.
fn pull<'p>(rest: &mut &'p [u8]) -> Result<Value<'p>> {
    const SHORT: &str = "a piece ends inside a value";
    let number = |rest: &mut &'p [u8]| -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, tail) = rest.split_first().context(SHORT)?;
            *rest = tail;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        bail!("a number is too long")
    };
    let (kind, tail) = rest.split_first().context(SHORT)?;
    *rest = tail;
    Ok(match kind {
        0 => Value::Null,
        1 => Value::Integer(number(rest)?.cast_signed()),
        2 => {
            let (bytes, tail) = rest.split_first_chunk().context(SHORT)?;
            *rest = tail;
            Value::Real(f64::from_le_bytes(*bytes))
        }
        3 | 4 => {
            let length = usize::try_from(number(rest)?)?;
            let (bytes, tail) = rest.split_at_checked(length).context(SHORT)?;
            *rest = tail;
            if *kind == 3 { Value::Text(bytes) } else { Value::Blob(bytes) }
        }
        other => bail!("{other} is no kind of value"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_as_they_went_in() {
        let values = [
            Value::Null,
            Value::Integer(-1),
            Value::Integer(300),
            Value::Real(0.25),
            Value::Text(b"abc"),
            Value::Blob(&[0; 200]),
        ];
        let mut piece = Vec::new();
        values.iter().for_each(|value| push(*value, &mut piece));
        let mut rest = &piece[..];
        for value in values {
            assert_eq!(pull(&mut rest).unwrap(), value);
        }
        assert!(rest.is_empty());
        let mut short = &piece[..piece.len() - 1];
        assert!((0..values.len()).map(|_| pull(&mut short)).any(|value| value.is_err()));
    }
}
