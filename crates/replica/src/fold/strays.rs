//! Notes whose key their table cannot hold.
//!
//! In some versions of SQLite, 3.40 among them, the triggers of a parent row see its key as a number where its column is
//! of text, once SQLite has looked for children by an index of a numeric column: of a row `'07'` that was deleted 7 is
//! noted. Which rows can be meant is found by comparing the table's keys, those that are there and those that have
//! clocks, as numbers. That reads the table once for all such notes of a slice.

use super::notes::What;
use crate::clocks;
use crate::error::{Error, Result};
use crate::rebuilt::select_range;
use crate::replica::Replica;
use crate::snapshot::Scan;
use crate::table::{Table, is_number};
use crate::value::from_sqlite;
use cloudsync_core::key::{self, KeyCollation, KeyPart};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::{HashMap, HashSet};

/// A note that names no row.
pub(super) struct Stray {
    pub(super) table: i64,
    pub(super) key: Vec<u8>,
    pub(super) at: u64,
    pub(super) layout: i64,
    pub(super) what: What,
}

/// Gives each note together with every row that it can mean, in the order of the notes.
pub(super) fn find(
    replica: &Replica,
    mut strays: Vec<Stray>,
    mut give: impl FnMut(&[u8], &Stray) -> Result<()>,
) -> Result<()> {
    if strays.is_empty() {
        return Ok(());
    }
    let mut numbers = Numbers::open(&replica.db)?;
    let mut meant: HashMap<(i64, Vec<u8>), HashSet<Vec<u8>>> = HashMap::new();
    for stray in &mut strays {
        stray.key = numbers.of(&stray.key)?;
        meant.entry((stray.table, stray.key.clone())).or_default();
        if matches!(stray.what, What::Delete) {
            // Other rows may look the same as numbers: whether one is gone is seen.
            stray.what = What::Look;
        }
    }
    let tables: HashSet<i64> = strays.iter().map(|stray| stray.table).collect();
    for table in replica.catalog.tables().iter().filter(|table| tables.contains(&table.id)) {
        each_key(&replica.db, table, |pk| {
            let (id, key) = clocks::split_pk(pk)?;
            if let Some(rows) = meant.get_mut(&(id, numbers.of(key)?)) {
                rows.insert(pk.to_vec());
            }
            Ok(())
        })?;
    }
    for stray in strays {
        let rows = &meant[&(stray.table, stray.key.clone())];
        rows.iter().try_for_each(|pk| give(pk, &stray))?;
    }
    Ok(())
}

/// All keys of a table that have a clock or a row; many come twice.
fn each_key(db: &Connection, table: &Table, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut clocks = select_range(db, table, "SELECT pk FROM main.cloudsync_clocks")?;
    while clocks.step()? {
        each(clocks.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?)?;
    }
    let mut rows = Scan::open(db, table, &[])?;
    while let Some(pk) = rows.next(table)? {
        each(&pk)?;
    }
    Ok(())
}

/// Turns texts into numbers as a numeric column of SQLite does.
struct Numbers(Statement);

impl Numbers {
    fn open(db: &Connection) -> Result<Self> {
        Ok(Self(db.prepare("SELECT CAST(?1 AS NUMERIC)")?))
    }

    /// The packed key with every part that looks like a number as one.
    fn of(&mut self, packed: &[u8]) -> Result<Vec<u8>> {
        let parts = key::unpack(packed).collect::<std::result::Result<Vec<_>, _>>();
        let parts = parts.map_err(|_| Error::corrupt("cloudsync_clocks"))?;
        let mut out = Vec::with_capacity(packed.len());
        for (place, part) in parts.iter().enumerate() {
            let is_last = place + 1 == parts.len();
            let number = match part {
                KeyPart::Text(text) if is_number(text) => {
                    self.0.bind(1, Value::Text(text))?;
                    self.0.step()?;
                    Some(from_sqlite(self.0.column(0)).to_value())
                }
                _ => None,
            };
            self.0.reset()?;
            let value = number.unwrap_or_else(|| part.to_value());
            // A number may be longer than its text, and the whole longer than a key may be, which matters to nobody here.
            let _ = key::pack_part(&mut out, value.borrow(), KeyCollation::Binary, is_last);
        }
        Ok(out)
    }
}
