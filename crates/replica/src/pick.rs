//! Rows that are asked for by their keys, as a payload.

use crate::changes::Mask;
use crate::clocks;
use crate::error::Result;
use crate::extract::{Builder, Extraction, Filter, LengthLimit, is_too_long};
use crate::position::Position;
use crate::replica::Replica;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_sqlite_ffi::{Statement, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// A table and a packed key.
pub(crate) type RowKey = (Rc<Table>, Vec<u8>);

/// What there is under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Picked {
    /// Nothing.
    Absent,
    /// The row, alive or deleted; the payload has it.
    Given,
    /// A row that is larger than was asked for.
    Large,
}

/// Rows, and what there was under each key; keys behind the place at which the payload was full are left out.
pub(crate) struct Picking {
    pub(crate) found: Vec<Picked>,
    pub(crate) payload: Vec<u8>,
}

impl Replica {
    /// Picks rows: each whole, with its clocks, as it is now. Rows of more than `row_bytes_max` bytes are only named,
    /// and the payload is full at `bytes_target` bytes.
    pub(crate) fn pick(
        &mut self,
        keys: &[RowKey],
        row_bytes_max: usize,
        bytes_target: usize,
    ) -> Result<Picking> {
        self.pick_of(keys, row_bytes_max, bytes_target, Filter::Everything)
    }

    /// The same, but of each row only what the filter lets through.
    pub(crate) fn pick_of(
        &mut self,
        keys: &[RowKey],
        row_bytes_max: usize,
        bytes_target: usize,
        filter: Filter,
    ) -> Result<Picking> {
        let extraction = Extraction {
            from: Position::List { after: 0, skip: 0, compactions: 0 },
            last: 0,
            filter,
            bytes_target,
        };
        let db = self.db;
        let mut builder = Builder::new(self, &extraction, None)?;
        builder.splits = false;
        let mut sizes: HashMap<i64, Statement> = HashMap::new();
        let mut found = Vec::new();
        for (table, key) in keys {
            if builder.encoder.is_full_at(bytes_target) {
                break;
            }
            let Some(clock) = builder.clocks.read(&clocks::pk(table.id, key))? else {
                found.push(Picked::Absent);
                continue;
            };
            if clock.deletion().is_some() {
                let kept = "SELECT length(cells) FROM main.cloudsync_buried WHERE pk = ?1";
                let bytes = db.query_i64(kept, &[Value::Blob(&clocks::pk(table.id, key))])?.unwrap_or(0);
                if bytes as usize > row_bytes_max {
                    found.push(Picked::Large);
                    continue;
                }
            } else if clock.is_alive() {
                let select = match sizes.entry(table.id) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(db.prepare(&cells_sql(table))?)
                    }
                };
                if row_bytes(select, table, key, row_bytes_max)? > row_bytes_max {
                    found.push(Picked::Large);
                    continue;
                }
            }
            let before = builder.encoder.rows();
            builder.row(table, key, &clock, &Mask::Whole)?;
            // The clock may say alive of a row that was removed while nobody tracked.
            found.push(if builder.encoder.rows() > before { Picked::Given } else { Picked::Absent });
        }
        Ok(Picking { found, payload: builder.finish(None).payload })
    }
}

fn cells_sql(table: &Table) -> String {
    let mut names: Vec<_> = table.cells.iter().map(|cell| quote_identifier(cell.column.name())).collect();
    names.push("1".to_owned());
    format!("SELECT {} FROM {} WHERE {}", names.join(", "), table.quoted(), table.key_condition(1))
}

/// Bytes of a row's values; beyond `most` only that they are more.
fn row_bytes(select: &mut Statement, table: &Table, key: &[u8], most: usize) -> Result<usize> {
    clocks::bind_key(select, 1, key)?;
    let limit = LengthLimit::set(select.connection(), most);
    let exists = select.step();
    drop(limit);
    let exists = match exists {
        Err(error) if is_too_long(&error) => {
            select.reset()?;
            return Ok(usize::MAX);
        }
        exists => exists?,
    };
    let cells = 0..if exists { table.cells.len() } else { 0 };
    let bytes = cells.map(|i| from_sqlite(select.column(i)).size_bytes()).sum();
    select.reset()?;
    Ok(bytes)
}
