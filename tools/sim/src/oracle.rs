//! What must be true in the end.

use crate::workload::{self, TableSpec};
use crate::{family, host, renames};
use anyhow::{Context, Result, bail};
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{Clock, RowClock};
use cloudsync_core::key::pack_part;
use cloudsync_core::value::ValueRef as PackedRef;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params_from_iter};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};
use xxhash_rust::xxh3::xxh3_128;

/// Differences that are shown of two maps.
const DIFFERENCES_MAX: usize = 12;
/// Longest value that is shown as it is, in bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Rows as a transaction left them; `None` are gone.
pub(crate) type Written = Vec<(RowName, Option<Vec<String>>)>;
/// A row by its table and shown key.
pub(crate) type RowName = (&'static str, String);
/// All rows of a file, with their shown values.
pub(crate) type Rows = BTreeMap<RowName, Vec<String>>;

/// What was written, as far as it bounds what may be there in the end. The two zeros count as one value in it: an update from
/// one to the other is no change (`docs/merge.md`), so either may be there in the end. Replicas are compared by bits.
#[derive(Default)]
pub(crate) struct Model {
    /// Rows that one writer has for itself: what it last saw of them.
    private: Rows,
    private_names: BTreeSet<RowName>,
    /// Every value that any writer ever gave a cell.
    written: BTreeMap<(RowName, usize), BTreeSet<String>>,
    /// Rows that somebody saw alive, and that somebody saw gone after a write.
    alive: BTreeSet<RowName>,
    gone: BTreeSet<RowName>,
}

impl Model {
    /// Takes over what a transaction wrote. If nobody knows whether it was committed, it may or may not be there.
    pub(crate) fn wrote(&mut self, writer: &str, written: Written, is_certain: bool) {
        for (name, values) in written {
            let collides = collides(&name);
            let is_private = is_certain && is_own(&name, writer) && !collides;
            if is_private {
                self.private_names.insert(name.clone());
            } else {
                self.private_names.remove(&name);
                self.private.remove(&name);
            }
            let Some(values) = values.map(with_one_zero) else {
                self.gone.insert(name.clone());
                self.private.remove(&name);
                continue;
            };
            if is_certain && !collides {
                self.alive.insert(name.clone());
            }
            for (cell, value) in values.iter().enumerate() {
                self.written.entry((name.clone(), cell)).or_default().insert(value.clone());
            }
            if is_private {
                self.private.insert(name, values);
            }
        }
    }

    /// The rows of this writer are nobody's own any more.
    pub(crate) fn share(&mut self, writer: &str) {
        let is_own = |name: &RowName| is_own(name, writer);
        self.private_names.retain(|name| !is_own(name));
        self.private.retain(|name, _| !is_own(name));
    }

    /// A file was lost, or became what it was before: what is nowhere else any more is not missed.
    pub(crate) fn forget(&mut self, left: &BTreeSet<RowName>) {
        self.alive.retain(|name| left.contains(name));
    }

    /// The rows that only this writer has are in its file as it left them.
    pub(crate) fn check_own(&self, writer: &str, rows: &Rows) -> Result<()> {
        for name in self.private_names.iter().filter(|name| is_own(name, writer)) {
            self.check_private(name, rows)?;
        }
        Ok(())
    }

    fn check_private(&self, name: &RowName, rows: &Rows) -> Result<()> {
        let (expected, found) = (self.private.get(name), rows.get(name).cloned().map(with_one_zero));
        if expected != found.as_ref() {
            let (expected, found) = (brief(expected), brief(found.as_ref()));
            bail!("lost: only one writer has {name:?} and left it as {expected}, but it is {found}");
        }
        Ok(())
    }

    /// Compares the final rows with what was written.
    pub(crate) fn check(&self, rows: &Rows) -> Result<()> {
        for name in &self.private_names {
            self.check_private(name, rows)?;
        }
        for name in self.alive.difference(&self.gone) {
            if !rows.contains_key(name) {
                bail!("lost: nobody deleted {name:?}");
            }
        }
        for (name, values) in rows {
            for (cell, value) in with_one_zero(values.clone()).iter().enumerate() {
                let is_default = value == "NULL" && comes_without_writer(name, cell);
                if !is_default
                    && !self.written.get(&(name.clone(), cell)).is_some_and(|known| known.contains(value))
                {
                    bail!("invented: nobody wrote {} into cell {cell} of {name:?}", cut(value));
                }
            }
        }
        Ok(())
    }
}

fn with_one_zero(mut values: Vec<String>) -> Vec<String> {
    for value in values.iter_mut().filter(|value| *value == "-0.0") {
        "0.0".clone_into(value);
    }
    values
}

fn spec(name: &RowName) -> Option<&'static TableSpec> {
    workload::tables().find(|table| table.name == name.0)
}

/// True when rows of this table go by more than what writers say.
pub(crate) fn collides(name: &RowName) -> bool {
    spec(name).is_some_and(|table| table.collides)
}

/// True for a cell that may be NULL though nobody wrote that: older versions of the app do not have it, or it named a row that
/// is gone.
fn comes_without_writer(name: &RowName, cell: usize) -> bool {
    // A renamed column comes when its author renames it.
    spec(name).map_or(renames::NAMES.contains(&name.0), |table| {
        let column = table.cells[cell];
        table.later == Some(column) || family::may_be_cleared(table.name, column)
    })
}

/// What a row is for this connection.
pub(crate) fn look(
    db: &Connection,
    table: &'static TableSpec,
    key: &[Value],
) -> Result<(RowName, Option<Vec<String>>)> {
    let placed = (1..=table.key.len()).map(|i| format!("?{i} AS {}", table.key[i - 1]));
    let sql = format!("SELECT {} FROM (SELECT {})", table.show_key(), placed.collect::<Vec<_>>().join(", "));
    let shown: String = host::kept(db, &sql)?.query_row(params_from_iter(key), |row| row.get(0))?;
    let found = read_rows(db, table, &format!("{} AND 1", table.key_condition(1)), key)?;
    Ok(((table.name, shown), found.into_iter().next().map(|(_, values)| values)))
}

/// True when the row's key says that only this writer uses it.
fn is_own(name: &RowName, writer: &str) -> bool {
    name.1.to_ascii_lowercase().starts_with(&format!("'{writer}-"))
}

fn cut(value: &str) -> &str {
    value.get(..60).unwrap_or(value)
}

fn brief(row: Option<&Vec<String>>) -> String {
    row.map_or_else(
        || "absent".to_owned(),
        |values| format!("{:?}", values.iter().map(|v| cut(v)).collect::<Vec<_>>()),
    )
}

fn read_rows(
    db: &Connection,
    table: &'static TableSpec,
    condition: &str,
    values: &[Value],
) -> Result<Vec<(String, Vec<String>)>> {
    let is_there = table.has_later(db)?;
    let column = |cell: &&'static str| if is_there || table.later != Some(*cell) { *cell } else { "NULL" };
    let columns: Vec<_> = table.cells.iter().map(column).collect();
    let columns = std::iter::once(&*table.show_key()).chain(columns).collect::<Vec<_>>().join(", ");
    let mut select = host::kept(db, &format!("SELECT {columns} FROM {} WHERE {condition}", table.name))?;
    let rows = select.query_map(params_from_iter(values), |row| {
        let cells = (0..table.cells.len()).map(|i| Ok(show(row.get_ref(i + 1)?)));
        Ok((row.get(0)?, cells.collect::<rusqlite::Result<Vec<_>>>()?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A value with its type and every bit: two are shown alike only if they are the same. Of long ones a hash is shown.
pub(crate) fn show(value: ValueRef<'_>) -> String {
    let long = |kind, bytes: &[u8]| format!("{kind} of {} bytes, {:032x}", bytes.len(), xxh3_128(bytes));
    let hex = |kind, bytes: &[u8]| {
        bytes.iter().fold(format!("{kind}'"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }) + "'"
    };
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        // With a point or an exponent, and enough digits to give the same bits back.
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(bytes) if bytes.len() > SHOWN_BYTES_MAX => long("text", bytes),
        ValueRef::Text(bytes) if bytes.is_ascii() && !bytes.contains(&b'\'') && !bytes.contains(&0) => {
            format!("'{}'", String::from_utf8_lossy(bytes))
        }
        ValueRef::Text(bytes) => hex("T", bytes),
        ValueRef::Blob(bytes) if bytes.len() > SHOWN_BYTES_MAX => long("blob", bytes),
        ValueRef::Blob(bytes) => hex("X", bytes),
    }
}

/// True when the file has the tables.
fn has_tables(db: &Connection) -> Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'diaries'";
    let there: i64 = db.query_row(sql, [], |row| row.get(0))?;
    Ok(there > 0)
}

/// The rows whose keys say that only this writer uses them, or none in a file that has no tables yet.
pub(crate) fn own_rows(db: &Connection, writer: &str) -> Result<Rows> {
    let mut all = Rows::new();
    if has_tables(db)? {
        for table in workload::tables() {
            let rows = read_rows(db, table, &format!("{} LIKE '{writer}-%'", table.key[0]), &[])?;
            all.extend(rows.into_iter().map(|(key, values)| ((table.name, key), values)));
        }
    }
    Ok(all)
}

/// The names of all rows, added to those that are there.
pub(crate) fn add_names(db: &Connection, names: &mut BTreeSet<RowName>) -> Result<()> {
    if has_tables(db)? {
        for table in workload::tables() {
            let mut select = db.prepare(&format!("SELECT {} FROM {}", table.show_key(), table.name))?;
            let mut keys = select.query([])?;
            while let Some(row) = keys.next()? {
                names.insert((table.name, row.get(0)?));
            }
        }
    }
    Ok(())
}

/// All rows of the synced tables.
pub(crate) fn rows(db: &Connection) -> Result<Rows> {
    rows_where(db, |_| Some("1"))
}

/// The rows for which a condition holds, which each table has for itself; none where there is no condition.
pub(crate) fn rows_where<'c>(
    db: &Connection,
    condition: impl Fn(&'static TableSpec) -> Option<&'c str>,
) -> Result<Rows> {
    let mut all = Rows::new();
    for table in workload::tables() {
        let Some(condition) = condition(table) else { continue };
        let rows = read_rows(db, table, condition, &[])?;
        all.extend(rows.into_iter().map(|(key, values)| ((table.name, key), values)));
    }
    Ok(all)
}

/// The rows for which a condition holds, as [`Clocks`] names them.
pub(crate) fn keys_where<'c>(
    db: &Connection,
    condition: impl Fn(&'static TableSpec) -> Option<&'c str>,
) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for table in workload::tables() {
        let Some(condition) = condition(table) else { continue };
        let columns = table.key.join(", ");
        let mut select = host::kept(db, &format!("SELECT {columns} FROM {} WHERE {condition}", table.name))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mut packed = Vec::new();
            for part in 0..table.key.len() {
                let is_last = part + 1 == table.key.len();
                pack_part(&mut packed, value(row.get_ref(part)?), table.key_collation(), is_last)?;
            }
            all.insert(clock_name(table.name, &packed));
        }
    }
    Ok(all)
}

const fn value(value: ValueRef<'_>) -> PackedRef<'_> {
    match value {
        ValueRef::Null => PackedRef::Null,
        ValueRef::Integer(number) => PackedRef::Integer(number),
        ValueRef::Real(number) => PackedRef::Real(number),
        ValueRef::Text(bytes) => PackedRef::Text(bytes),
        ValueRef::Blob(bytes) => PackedRef::Blob(bytes),
    }
}

pub(crate) fn clock_name(table: &str, packed: &[u8]) -> String {
    packed.iter().fold(format!("{table}:"), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// True when policies say who sees which rows of the table.
pub(crate) fn is_guarded(name: &RowName) -> bool {
    spec(name).is_some_and(TableSpec::is_guarded)
}

/// Clocks by table and packed key in hexadecimal, as `--watch` takes it.
pub(crate) type Clocks = BTreeMap<String, NamedClock>;

/// The clock of a row with names instead of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedClock {
    life: u64,
    /// Of a tombstone, or a row without cells.
    row: Option<(u64, String)>,
    cells: BTreeMap<String, (u64, String)>,
    marks: Vec<(u64, String)>,
}

impl NamedClock {
    /// True for a living clock of no cells, in a table that has some: it stays of a row that was deleted outside of a filter which
    /// was cleared since, so that whatever others have of the row comes again. If they have none, nothing comes.
    pub(crate) fn is_hollow(&self, row: &str) -> bool {
        !self.is_dead()
            && self.cells.is_empty()
            && !row.starts_with("marks:")
            && !row.starts_with("aws_marks:")
    }

    /// What a site has stamped: cells, or the row itself.
    pub(crate) fn stamps_of<'c>(&'c self, site: &'c str) -> impl Iterator<Item = (&'c str, u64)> {
        let own = self.row.iter().map(|clock| ("", clock));
        let all = own.chain(self.cells.iter().map(|(cell, clock)| (cell.as_str(), clock)));
        all.filter(move |(_, (_, by))| by == site).map(|(cell, (time, _))| (cell, *time))
    }

    /// Leaves out what other columns have.
    pub(crate) fn keep(&mut self, columns: &[&str]) {
        self.cells.retain(|name, _| columns.contains(&name.as_str()));
    }

    /// True for the clock of a deleted row.
    pub(crate) const fn is_dead(&self) -> bool {
        self.life.is_multiple_of(2)
    }

    /// True when nothing of the other clock, of the same row and earlier, is lost in this one: the rule of each algorithm in
    /// the plainest words.
    pub(crate) fn is_at_least(&self, table: &str, before: &Self) -> bool {
        let has_cells = || {
            let mut cells = before.cells.iter();
            before.row <= self.row.clone().or(before.row.clone())
                && cells.all(|(name, clock)| self.cells.get(name).is_some_and(|now| now >= clock))
        };
        match table.get(..3) {
            Some("dws") => {
                // Where the era of the row began.
                let boundary = |clock: &Self| {
                    if clock.life.is_multiple_of(2) {
                        clock.row.clone()
                    } else {
                        clock.marks.first().cloned()
                    }
                };
                match boundary(self).cmp(&boundary(before)) {
                    Ordering::Greater => true,
                    Ordering::Less => false,
                    Ordering::Equal => {
                        before.life.is_multiple_of(2) || (!self.life.is_multiple_of(2) && has_cells())
                    }
                }
            }
            Some("aws" | "gos") => has_cells(),
            _ if self.life == before.life && self.life.is_multiple_of(2) => self.row >= before.row,
            _ => self.life > before.life || (self.life == before.life && has_cells()),
        }
    }
}

/// What the numbers in stored clocks stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    tables: BTreeMap<i64, String>,
    sites: BTreeMap<i64, String>,
    columns: BTreeMap<i64, String>,
}

impl Names {
    fn read(db: &Connection) -> Result<Self> {
        let pairs = |sql: &str| -> Result<BTreeMap<i64, String>> {
            let mut select = db.prepare_cached(sql)?;
            let pairs = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(pairs.collect::<rusqlite::Result<_>>()?)
        };
        Ok(Self {
            tables: pairs("SELECT id, name FROM cloudsync_tables")?,
            sites: pairs("SELECT ordinal, hex(site_id) FROM cloudsync_sites")?,
            columns: pairs("SELECT table_id * 65536 + number, name FROM cloudsync_columns")?,
        })
    }

    /// A stored clock, and whose it is.
    fn decode(&self, pk: &[u8], clock: &[u8]) -> Result<(String, NamedClock)> {
        let mut reader = Reader::new(pk);
        let table = reader.varint()? as i64;
        let clock = RowClock::decode(clock)?;
        let named = |clock: Clock| -> Result<(u64, String)> {
            let site = self.sites.get(&i64::from(clock.site.0)).context("a clock names an unknown site")?;
            Ok((clock.time.0, site.clone()))
        };
        let mut cells = BTreeMap::new();
        for (column, clock) in clock.cells() {
            let name = self.columns.get(&(table * 65536 + i64::from(column.0)));
            cells.insert(name.context("a clock names an unknown column")?.clone(), named(clock)?);
        }
        let row = if cells.is_empty() { Some(named(clock.common)?) } else { None };
        let marks = clock.marks.iter().flat_map(|marks| marks.clocks()).map(named);
        let marks = marks.collect::<Result<_>>()?;
        let name = self.tables.get(&table).context("a clock names an unknown table")?;
        let key = &pk[pk.len() - reader.remaining()..];
        Ok((clock_name(name, key), NamedClock { life: clock.life, row, cells, marks }))
    }
}

/// All clocks as a file has them: read after each upload, and so without a piece of memory for each row.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredClocks {
    names: Names,
    /// The keys and clocks of all rows, one after the other.
    bytes: Vec<u8>,
    /// Where the key of each row ends, and where its clock does. Keys ascend.
    ends: Vec<(usize, usize)>,
}

impl StoredClocks {
    pub(crate) fn read(db: &Connection) -> Result<Self> {
        let mut clocks = Self { names: Names::read(db)?, ..Self::default() };
        let mut select = db.prepare_cached("SELECT pk, clock FROM cloudsync_clocks ORDER BY pk")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            clocks.bytes.extend_from_slice(row.get_ref(0)?.as_blob()?);
            let key_end = clocks.bytes.len();
            clocks.bytes.extend_from_slice(row.get_ref(1)?.as_blob()?);
            clocks.ends.push((key_end, clocks.bytes.len()));
        }
        Ok(clocks)
    }

    /// The stored key and clock of each row.
    fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let rows = starts.zip(&self.ends);
        rows.map(|(start, (key_end, end))| (&self.bytes[start..*key_end], &self.bytes[*key_end..*end]))
    }

    /// Fails when something of these clocks is lost in later ones. What has the same bytes under the same names is the same.
    pub(crate) fn check_kept(&self, later: &Self) -> Result<()> {
        if self.names != later.names {
            let (before, now) = (self.decode()?, later.decode()?);
            return before.iter().try_for_each(|(row, before)| check_kept(row, before, now.get(row)));
        }
        let mut rows = later.rows().peekable();
        for (pk, before) in self.rows() {
            while rows.next_if(|(other, _)| *other < pk).is_some() {}
            let now = rows.next_if(|(other, _)| *other == pk).map(|(_, clock)| clock);
            if now != Some(before) {
                let (row, before) = self.names.decode(pk, before)?;
                let now = now.map(|now| self.names.decode(pk, now)).transpose()?.map(|(_, now)| now);
                check_kept(&row, &before, now.as_ref())?;
            }
        }
        Ok(())
    }

    fn decode(&self) -> Result<Clocks> {
        self.rows().map(|(pk, clock)| self.names.decode(pk, clock)).collect()
    }
}

fn check_kept(row: &str, before: &NamedClock, now: Option<&NamedClock>) -> Result<()> {
    if now.is_some_and(|now| now.is_at_least(row, before)) {
        return Ok(());
    }
    bail!("the server lost what it had acknowledged of {row}: {before:?} became {now:?}")
}

/// All clocks.
pub(crate) fn clocks(db: &Connection) -> Result<Clocks> {
    StoredClocks::read(db)?.decode()
}

/// The first difference of two maps, in words.
pub(crate) fn difference<K: Ord + Debug, V: PartialEq + Debug>(
    one: &BTreeMap<K, V>,
    other: &BTreeMap<K, V>,
) -> Option<String> {
    differences(one, other).into_iter().next()
}

/// The differences of two maps, each in words; the first few if there are many.
pub(crate) fn differences<K: Ord + Debug, V: PartialEq + Debug>(
    one: &BTreeMap<K, V>,
    other: &BTreeMap<K, V>,
) -> Vec<String> {
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let keys = keys.into_iter().filter(|key| one.get(key) != other.get(key)).take(DIFFERENCES_MAX);
    let show = |map: &BTreeMap<K, V>, key| {
        map.get(key)
            .map_or_else(|| "absent".to_owned(), |value| format!("{value:?}").chars().take(600).collect())
    };
    keys.map(|key| format!("{key:?}: {} | {}", show(one, key), show(other, key))).collect()
}

/// The rows of our internal tables in a file, which is called `whose`, each as its own key.
pub(crate) fn internals(db: &Connection, whose: &'static str) -> Result<Rows> {
    // language=SQLite
    let tables =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'cloudsync\\_%' ESCAPE '\\'";
    let tables: Vec<String> =
        db.prepare(tables)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut all = Rows::new();
    for table in tables {
        let mut rows = db.prepare(&format!("SELECT * FROM {table}"))?;
        let width = rows.column_count();
        let rows = rows.query_map([], |row| {
            (0..width)
                .map(|at| Ok(format!("{:?}", row.get::<_, Value>(at)?)))
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        for row in rows {
            all.insert((whose, format!("{table} {}", row?.join(" "))), Vec::new());
        }
    }
    Ok(all)
}
