//! The change list: which cells changed since a version, so that extraction costs what changed and not what exists.
//!
//! Every fold and every apply is one version: `max(last + 1, now)`, so a number is hardly used again even when the
//! file is restored from a backup. `cloudsync_versions` says where a version came from, at which server cursor it was
//! made, and where its entries begin; `cloudsync_entries` holds keys with masks, up to a page together:
//!
//! ```text
//! keys   for each: key (bytes), then 0 for the whole row, 1 and the bitmap of column numbers, or 2 for a row that was
//!        inserted here while nothing was known of it; 3 for the whole row and 4 with a bitmap where nothing was edited
//!        here, and it is offered because others may not have it
//! ```
//! "Whole row" stands for insertions, new lives and deletions alike: what it is says the row's clock.

use crate::clocks;
use crate::error::{Error, Result};
use crate::storage;
use cloudsync_core::bytes::{Reader, put_bytes};
use cloudsync_core::clock::{ColumnSet, RowClock, SiteOrdinal};
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};

/// Entries are closed at this size, so that one fits a page of 4 KiB.
const ENTRY_BYTES_TARGET: usize = 3_600;

/// Where the changes of a version came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The app's own writes in this file.
    Local,
    /// A payload that was applied by hand: the server may not know it.
    File,
    /// The server.
    Server,
    /// On the server: the site that uploaded them.
    Site(SiteOrdinal),
}

impl Origin {
    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Local => -1,
            Self::File => -2,
            Self::Server => -3,
            Self::Site(site) => site.0 as i64,
        }
    }

    pub(crate) fn from_code(code: i64) -> Result<Self> {
        match code {
            -1 => Ok(Self::Local),
            -2 => Ok(Self::File),
            -3 => Ok(Self::Server),
            site => {
                Ok(Self::Site(SiteOrdinal(u32::try_from(site).map_err(|_| Error::corrupt("an origin"))?)))
            }
        }
    }
}

/// The part of a row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mask {
    /// Everything: the row was inserted, deleted, or began a new life.
    Whole,
    /// Everything: the row was inserted here, and nothing was known of it.
    Inserted,
    /// These columns.
    Columns(ColumnSet),
    /// Everything, or these columns, though nothing was edited here: they are offered under the clocks that they have,
    /// because others may lack them. A change of the filter brought the row inside, its table or columns have other names,
    /// or the server has lost it.
    Offered(Option<ColumnSet>),
}

impl Mask {
    /// True for the whole row, however it came.
    pub(crate) const fn is_whole(&self) -> bool {
        self.columns().is_none()
    }

    /// The columns; `None` for the whole row.
    pub(crate) const fn columns(&self) -> Option<&ColumnSet> {
        match self {
            Self::Columns(columns) | Self::Offered(Some(columns)) => Some(columns),
            Self::Whole | Self::Inserted | Self::Offered(None) => None,
        }
    }

    /// False where nothing was edited here.
    pub(crate) const fn is_edit(&self) -> bool {
        !matches!(self, Self::Offered(_))
    }

    /// Adds what `other`, which came later, says changed. What was offered counts as edited with an edit.
    pub(crate) fn union_with(&mut self, other: &Self) {
        if matches!(self, Self::Whole | Self::Inserted) {
            return;
        }
        let is_edit = self.is_edit() || other.is_edit();
        let columns = self.columns().zip(other.columns()).map(|(known, more)| {
            let mut columns = known.clone();
            columns.union_with(more);
            columns
        });
        *self = match columns {
            columns if !is_edit => Self::Offered(columns),
            Some(columns) => Self::Columns(columns),
            None => Self::Whole,
        };
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Whole => out.push(0),
            Self::Columns(columns) => {
                out.push(1);
                columns.encode_bitmap(out);
            }
            Self::Inserted => out.push(2),
            Self::Offered(None) => out.push(3),
            Self::Offered(Some(columns)) => {
                out.push(4);
                columns.encode_bitmap(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.byte()? {
            0 => Ok(Self::Whole),
            1 => Ok(Self::Columns(ColumnSet::decode_bitmap(reader)?)),
            2 => Ok(Self::Inserted),
            3 => Ok(Self::Offered(None)),
            4 => Ok(Self::Offered(Some(ColumnSet::decode_bitmap(reader)?))),
            _ => Err(Error::corrupt("cloudsync_entries")),
        }
    }
}

/// The last version, 0 before the first.
pub(crate) fn last_version(db: &Connection) -> Result<u64> {
    storage::get_u64(db, "version")
}

/// Writes the entries of one version. Nothing is written for a version without entries.
pub(crate) struct ChangeWriter {
    insert: Statement,
    version: u64,
    table: i64,
    keys: Vec<u8>,
    first_entry: Option<i64>,
    rows: u64,
}

impl ChangeWriter {
    /// Begins the next version.
    pub(crate) fn begin(db: &Connection, now_ms: u64) -> Result<Self> {
        let sql = "INSERT INTO main.cloudsync_entries(version, table_id, keys) VALUES(?1, ?2, ?3)";
        Ok(Self {
            insert: db.prepare_persistent(sql)?,
            version: now_ms.max(last_version(db)? + 1),
            table: 0,
            keys: Vec::new(),
            first_entry: None,
            rows: 0,
        })
    }

    /// Adds a changed row.
    pub(crate) fn push(&mut self, table: i64, key: &[u8], mask: &Mask) -> Result<()> {
        if table != self.table || self.keys.len() >= ENTRY_BYTES_TARGET {
            self.flush()?;
            self.table = table;
        }
        put_bytes(&mut self.keys, key);
        mask.encode(&mut self.keys);
        self.rows += 1;
        Ok(())
    }

    /// Writes what was added so far.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let version = Value::Integer(self.version as i64);
        self.insert.run(&[version, Value::Integer(self.table), Value::Blob(&self.keys)])?;
        self.keys.clear();
        if self.first_entry.is_none() {
            self.first_entry = Some(self.insert.connection().last_insert_rowid());
        }
        Ok(())
    }

    /// Closes the version and gives its number and rows; `None` when there was no change.
    pub(crate) fn finish(mut self, db: &Connection, origin: Origin, base: u64) -> Result<Option<(u64, u64)>> {
        self.flush()?;
        let Some(first_entry) = self.first_entry else { return Ok(None) };
        self.store(db, origin, base, first_entry)?;
        Ok(Some((self.version, self.rows)))
    }

    /// Closes a version to which nothing was added, and gives its number.
    pub(crate) fn finish_empty(self, db: &Connection) -> Result<u64> {
        let next = db.query_i64("SELECT max(id) FROM main.cloudsync_entries", &[])?.unwrap_or(0) + 1;
        self.store(db, Origin::Local, 0, next)?;
        Ok(self.version)
    }

    fn store(&self, db: &Connection, origin: Origin, base: u64, first_entry: i64) -> Result<()> {
        // language=SQLite
        let sql =
            "INSERT INTO main.cloudsync_versions(version, origin, base, first_entry) VALUES(?1, ?2, ?3, ?4)";
        db.prepare(sql)?.run(&[
            Value::Integer(self.version as i64),
            Value::Integer(origin.code()),
            Value::Integer(base as i64),
            Value::Integer(first_entry),
        ])?;
        storage::set_u64(db, "version", self.version)
    }
}

/// Offers the rows of a table once more, under the clocks that they have: all that is known of them, or only the cells of
/// these columns.
pub(crate) fn offer_again(
    db: &Connection,
    now_ms: u64,
    table: i64,
    columns: Option<&ColumnSet>,
) -> Result<()> {
    let mut writer = ChangeWriter::begin(db, now_ms)?;
    let (first, beyond) = clocks::pk_range(table);
    let mut select = db.prepare("SELECT pk, clock FROM main.cloudsync_clocks WHERE pk >= ?1 AND pk < ?2")?;
    select.bind(1, Value::Blob(&first))?;
    select.bind(2, Value::Blob(&beyond))?;
    while select.step()? {
        let corrupt = || Error::corrupt("cloudsync_clocks");
        let pk = select.column(0).as_blob().ok_or_else(corrupt)?;
        let clock = RowClock::decode(select.column(1).as_blob().ok_or_else(corrupt)?)?;
        let offered = match columns {
            None => None,
            Some(columns) => {
                let mut offered = clock.columns.clone();
                offered.intersect_with(columns);
                if offered.is_empty() {
                    continue;
                }
                Some(offered)
            }
        };
        writer.push(table, clocks::split_pk(pk)?.1, &Mask::Offered(offered))?;
    }
    drop(select);
    writer.finish(db, Origin::Local, storage::get_u64(db, "cursor")?)?;
    Ok(())
}

/// One stored group of entries.
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) version: u64,
    pub(crate) table: i64,
    pub(crate) origin: i64,
    pub(crate) base: u64,
    keys: Vec<u8>,
}

impl Entry {
    /// The keys and masks of the entry.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<(&[u8], Mask)>> {
        let mut reader = Reader::new(&self.keys);
        std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            Some(read_row(&mut reader))
        })
    }
}

/// Reads the next key and mask of an entry's `keys`.
pub(crate) fn read_row<'k>(reader: &mut Reader<'k>) -> Result<(&'k [u8], Mask)> {
    Ok((reader.bytes(KEY_BYTES_MAX as u64, "key")?, Mask::decode(reader)?))
}

/// Reads entries in order of their ids.
pub(crate) struct EntryReader {
    select: Statement,
}

impl EntryReader {
    /// Starts after the entry `after`, and ends with the version `last`.
    pub(crate) fn open(db: &Connection, after: i64, last: u64) -> Result<Self> {
        // language=SQLite
        let sql = "SELECT e.id, e.table_id, v.origin, v.base, e.keys, e.version FROM main.cloudsync_entries AS e \
                   JOIN main.cloudsync_versions AS v ON v.version = e.version \
                   WHERE e.id > ?1 AND e.version <= ?2 ORDER BY e.id";
        let mut select = db.prepare(sql)?;
        select.bind(1, Value::Integer(after))?;
        select.bind(2, Value::Integer(i64::try_from(last).unwrap_or(i64::MAX)))?;
        Ok(Self { select })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        if !self.select.step()? {
            return Ok(None);
        }
        let keys = self.select.column(4).as_blob().ok_or_else(|| Error::corrupt("cloudsync_entries"))?;
        Ok(Some(Entry {
            id: self.select.column_i64(0),
            table: self.select.column_i64(1),
            origin: self.select.column_i64(2),
            base: self.select.column_i64(3) as u64,
            version: self.select.column_i64(5) as u64,
            keys: keys.to_vec(),
        }))
    }
}

/// The id of the last entry that belongs to `version` or an earlier one: reading on begins after it.
pub(crate) fn entry_before(db: &Connection, version: u64) -> Result<i64> {
    // language=SQLite
    let sql = "SELECT first_entry FROM main.cloudsync_versions WHERE version > ?1 ORDER BY version LIMIT 1";
    if let Some(first) = db.query_i64(sql, &[Value::Integer(i64::try_from(version).unwrap_or(i64::MAX))])? {
        return Ok(first - 1);
    }
    Ok(db.query_i64("SELECT max(id) FROM main.cloudsync_entries", &[])?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloudsync_core::clock::ColumnNumber;

    fn columns(numbers: &[u16]) -> ColumnSet {
        numbers.iter().map(|number| ColumnNumber(*number)).collect()
    }

    #[test]
    fn masks_come_back_from_their_bytes() {
        let (whole, part) = (Mask::Offered(None), Mask::Offered(Some(columns(&[0, 9]))));
        for mask in [Mask::Whole, Mask::Inserted, Mask::Columns(columns(&[3])), whole, part] {
            let mut bytes = Vec::new();
            put_bytes(&mut bytes, b"key");
            mask.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(read_row(&mut reader).unwrap(), (&b"key"[..], mask));
            assert!(reader.is_empty());
        }
        assert!(read_row(&mut Reader::new(b"\x01k\x05")).is_err());
    }

    #[test]
    fn an_edit_makes_an_edit_of_what_was_offered() {
        let with = |mut mask: Mask, other: Mask| {
            mask.union_with(&other);
            mask
        };
        let (edit, offer) = (|at| Mask::Columns(columns(&[at])), |at| Mask::Offered(Some(columns(&[at]))));
        assert_eq!(with(edit(1), edit(2)), Mask::Columns(columns(&[1, 2])));
        assert_eq!(with(offer(1), offer(2)), Mask::Offered(Some(columns(&[1, 2]))));
        assert_eq!(with(offer(1), edit(2)), Mask::Columns(columns(&[1, 2])));
        assert_eq!(with(edit(1), offer(2)), Mask::Columns(columns(&[1, 2])));
        assert_eq!(with(offer(1), Mask::Offered(None)), Mask::Offered(None));
        assert_eq!(with(Mask::Offered(None), offer(1)), Mask::Offered(None));
        assert_eq!(with(Mask::Offered(None), edit(1)), Mask::Whole);
        assert_eq!(with(edit(1), Mask::Offered(None)), Mask::Whole);
        assert_eq!(with(Mask::Inserted, edit(1)), Mask::Inserted);
        assert_eq!(with(edit(1), Mask::Inserted), Mask::Whole);
    }
}
