//! The journal of rows that the server refused.
//!
//! It is bounded by [`REJECTED_ROWS_MAX`] and [`REJECTED_AGE_MS_MAX`]; what goes is counted.
//!
//! It outlives the rows, also those that may no longer be here: so of somebody who does not see everything it has what this
//! device wrote, and no value of anybody else.

use crate::clocks::{self, ClockStore};
use crate::error::Result;
use crate::extract::Filter;
use crate::filter::PrivateRows;
use crate::pick::RowKey;
use crate::replica::Replica;
use crate::storage::{self, quote_identifier};
use cloudsync_core::clock::ColumnSet;
use cloudsync_core::key::{self, KeyPart};
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::limits::CHUNK_BYTES_MAX;
use cloudsync_sqlite_ffi::Value;
use serde_json::{Map, Value as Json, json};

/// Rows that the journal holds at most; the oldest go first.
pub(crate) const REJECTED_ROWS_MAX: u64 = 10_000;
/// How long a row stays in the journal, in milliseconds: 90 days.
pub(crate) const REJECTED_AGE_MS_MAX: u64 = 90 * 24 * 3_600_000;
/// The reason of what a repair took away. It may hold what others wrote, and goes with its row.
const DAMAGED: &str = "repaired: the server has another row";
/// The setting that counts rows which the journal had no room for any more.
pub(crate) const REJECTED_DROPPED: &str = "rejected_dropped";
/// Longest text or BLOB that the readable form of a row shows, in bytes.
const SHOWN_BYTES_MAX: usize = 4_096;

impl Replica {
    /// Keeps what this device wrote of a row as it is now, with the reason for which the server did not take it. Where
    /// everything may be seen that is the whole row.
    pub(crate) fn reject(&mut self, row: &RowKey, reason: &str) -> Result<()> {
        let own = self.written_here(row)?;
        self.keep_rejected(row, reason, own.as_ref())
    }

    /// Keeps a damaged row, if there is one, until it is evicted.
    pub(crate) fn keep_damaged(&mut self, row: &RowKey) -> Result<()> {
        if self.show(row, None)?.is_some() { self.keep_rejected(row, DAMAGED, None) } else { Ok(()) }
    }

    /// Forgets a damaged row.
    pub(crate) fn forget_damaged(&self, (table, key): &RowKey) -> Result<()> {
        let sql =
            "DELETE FROM main.cloudsync_rejected WHERE tbl = ?1 COLLATE NOCASE AND pk = ?2 AND reason = ?3";
        let values = [Value::from(table.name.as_str()), Value::Blob(key), Value::from(DAMAGED)];
        Ok(self.db.prepare(sql)?.run(&values)?)
    }

    /// The columns of a row that this device wrote; `None` if all of it may be kept. Of rows outside of their filter nobody
    /// knows who wrote what.
    fn written_here(&self, (table, key): &RowKey) -> Result<Option<ColumnSet>> {
        let pk = clocks::pk(table.id, key);
        if !self.is_part()? || PrivateRows::open(&self.db)?.contains(&pk)? {
            return Ok(None);
        }
        let own = self.own_site()?;
        let clock = ClockStore::open(&self.db)?.read(&pk)?;
        let cells = clock.iter().flat_map(|clock| clock.cells());
        Ok(Some(cells.filter(|(_, cell)| cell.site == own).map(|(column, _)| column).collect()))
    }

    fn keep_rejected(&mut self, row: &RowKey, reason: &str, own: Option<&ColumnSet>) -> Result<()> {
        let (table, key) = row;
        let filter = match own {
            Some(_) => Filter::BySite(self.own_site()?),
            None => Filter::Everything,
        };
        let shown = self.show(row, own)?;
        // A deleted row of these tables has its values with it.
        let has_others = own.is_some() && shown.is_none() && table.algorithm == Algorithm::Aws;
        let rows = if has_others { &[] } else { std::slice::from_ref(row) };
        let change = self.pick_of(rows, CHUNK_BYTES_MAX / 2, CHUNK_BYTES_MAX, filter)?.payload;
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_rejected(tbl, pk, reason, at, change, \"row\") VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
        let now = self.server_now_ms()? as i64;
        Ok(self.db.prepare(sql)?.run(&[
            Value::from(table.name.as_str()),
            Value::Blob(key),
            Value::from(reason),
            now.into(),
            Value::Blob(&change),
            shown.as_deref().map_or(Value::Null, Value::from),
        ])?)
    }

    /// Makes the oldest rows go that the journal has no room for.
    pub(crate) fn trim_rejected(&self) -> Result<()> {
        let oldest = self.server_now_ms()?.saturating_sub(REJECTED_AGE_MS_MAX);
        let dropped = storage::trim_journal(&self.db, "cloudsync_rejected", REJECTED_ROWS_MAX, oldest)?;
        storage::count_up(&self.db, REJECTED_DROPPED, dropped)
    }

    /// The row as a JSON object, for people to read, or its key and some columns; `None` if there is no such row.
    fn show(&self, (table, packed): &RowKey, columns: Option<&ColumnSet>) -> Result<Option<String>> {
        let is_shown = |number| columns.is_none_or(|columns| columns.contains(number));
        let cells =
            table.cells.iter().filter(|cell| cell.column.schema.key_place == 0 && is_shown(cell.number));
        let mut names: Vec<_> = cells.clone().map(|cell| quote_identifier(cell.column.name())).collect();
        names.push("1".to_owned());
        let sql =
            format!("SELECT {} FROM {} WHERE {}", names.join(", "), table.quoted(), table.key_condition(1));
        let mut select = self.db.prepare(&sql)?;
        clocks::bind_key(&mut select, 1, packed)?;
        if !select.step()? {
            return Ok(None);
        }
        let mut row = Map::new();
        for (part, column) in key::unpack(packed).zip(&table.key) {
            let mut buffer = [0; 36];
            let shown = match part? {
                KeyPart::Integer(integer) => json!(integer),
                part => shown(crate::value::to_sqlite(part.value(&mut buffer))),
            };
            row.insert(column.name.clone(), shown);
        }
        for (i, cell) in cells.enumerate() {
            row.insert(cell.column.name().to_owned(), shown(select.column(i)));
        }
        Ok(Some(Json::Object(row).to_string()))
    }
}

/// A value in JSON: BLOBs as SQL writes them, long ones by their size only.
fn shown(value: Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(integer) => json!(integer),
        Value::Real(real) => json!(real),
        Value::Text(bytes) | Value::Blob(bytes) if bytes.len() > SHOWN_BYTES_MAX => {
            json!(format!("({} bytes)", bytes.len()))
        }
        Value::Text(text) => json!(String::from_utf8_lossy(text)),
        Value::Blob(blob) => json!(format!("x'{}'", cloudsync_core::id::hex(blob))),
    }
}
