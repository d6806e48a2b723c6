//! What a table held when an alteration began: a hash of each value, by key.
//!
//! That takes 8 bytes for each stored column of a row, and the row's key, until the alteration is committed; taking it
//! and comparing with it each read the table once.

use crate::clocks;
use crate::error::{Error, Result};
use crate::rebuilt::select_range;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::key::KeyError;
use cloudsync_core::value::ValueRef;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const HASH_BYTES: usize = 8;

/// Remembers the present values of a table's columns.
pub(crate) fn take(db: &Connection, table: &Table, columns: &[&str]) -> Result<()> {
    let names: Vec<_> = columns.iter().map(|name| quote_identifier(name)).collect();
    let mut scan = Scan::open(db, table, &names)?;
    let sql = "INSERT INTO main.cloudsync_alter_rows(pk, hashes) VALUES(?1, ?2)";
    let mut insert = db.prepare(sql)?;
    let mut hashes = Vec::new();
    while let Some(pk) = scan.next(table)? {
        hashes.clear();
        (0..columns.len()).for_each(|i| hashes.extend_from_slice(&hash(scan.value(i))));
        insert.run(&[Value::Blob(&pk), Value::Blob(&hashes)])?;
    }
    Ok(())
}

/// Forgets what was remembered of a table.
pub(crate) fn forget(db: &Connection, table: i64) -> Result<()> {
    let (first, beyond) = clocks::pk_range(table);
    let sql = "DELETE FROM main.cloudsync_alter_rows WHERE pk >= ?1 AND pk < ?2";
    Ok(db.prepare(sql)?.run(&[Value::Blob(&first), Value::Blob(&beyond)])?)
}

/// A hash that tells kinds of values and their bytes apart.
pub(crate) fn hash(value: ValueRef<'_>) -> [u8; HASH_BYTES] {
    let hash = match value {
        ValueRef::Null => 0,
        ValueRef::Integer(integer) => xxh3_64_with_seed(&integer.to_le_bytes(), 1),
        ValueRef::Real(real) => xxh3_64_with_seed(&real.to_bits().to_le_bytes(), 2),
        ValueRef::Text(text) => xxh3_64_with_seed(text, 3),
        ValueRef::Blob(blob) => xxh3_64_with_seed(blob, 4),
    };
    hash.to_le_bytes()
}

/// The hashes that were remembered of one row.
pub(crate) struct Hashes(Vec<u8>);

impl Hashes {
    /// True when the column's value was this one.
    pub(crate) fn holds(&self, column: usize, value: ValueRef<'_>) -> bool {
        self.0.get(column * HASH_BYTES..(column + 1) * HASH_BYTES) == Some(&hash(value)[..])
    }
}

/// Reads what was remembered.
pub(crate) struct Snapshot {
    select: Statement,
}

impl Snapshot {
    pub(crate) fn open(db: &Connection) -> Result<Self> {
        Ok(Self { select: db.prepare("SELECT hashes FROM main.cloudsync_alter_rows WHERE pk = ?1")? })
    }

    /// What was remembered of a row; `None` if it was not there.
    pub(crate) fn read(&mut self, pk: &[u8]) -> Result<Option<Hashes>> {
        self.select.bind(1, Value::Blob(pk))?;
        let found = self.select.step()?;
        let hashes = found.then(|| self.select.column(0).as_blob().map(<[u8]>::to_vec));
        self.select.reset()?;
        match hashes {
            None => Ok(None),
            Some(Some(hashes)) => Ok(Some(Hashes(hashes))),
            Some(None) => Err(Error::corrupt("cloudsync_alter_rows")),
        }
    }

    /// A statement that gives the keys of all rows that were remembered of a table.
    pub(crate) fn keys(db: &Connection, table: &Table) -> Result<Statement> {
        select_range(db, table, "SELECT pk FROM main.cloudsync_alter_rows")
    }
}

/// Reads the rows of a table, with some expressions of them.
pub(crate) struct Scan {
    select: Statement,
    keys: usize,
}

impl Scan {
    pub(crate) fn open(db: &Connection, table: &Table, expressions: &[String]) -> Result<Self> {
        let mut list: Vec<_> = table.key.iter().map(|key| quote_identifier(&key.name)).collect();
        list.extend_from_slice(expressions);
        let select = db.prepare(&format!("SELECT {} FROM {}", list.join(", "), table.quoted()))?;
        Ok(Self { select, keys: table.key.len() })
    }

    /// Goes on to the next row, and gives its key in the tree; rows whose key cannot travel are left out.
    pub(crate) fn next(&mut self, table: &Table) -> Result<Option<Vec<u8>>> {
        while self.select.step()? {
            let mut key = Vec::new();
            match table.pack_key(&mut key, |i| from_sqlite(self.select.column(i))) {
                Ok(()) => return Ok(Some(clocks::pk(table.id, &key))),
                Err(KeyError::Null | KeyError::TooLong) => {}
                Err(error) => return Err(Error::Limit(format!("table \"{}\": {error}", table.name))),
            }
        }
        Ok(None)
    }

    /// The value of an expression in the present row.
    pub(crate) fn value(&self, expression: usize) -> ValueRef<'_> {
        from_sqlite(self.select.column(self.keys + expression))
    }
}
