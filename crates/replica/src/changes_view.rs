//! The change list as people read it: one row for each cell that was ever changed, under the last version in which
//! it was.
//!
//! The list is walked from its end, so the first time that a cell is met is the last time that it changed; what was
//! met is remembered, and passed over further down. A row that was inserted or deleted also has a *sentinel*, a change
//! without a column. A deleted row has nothing but its sentinel. Values and clocks are not in the list: they are read
//! from where they are kept now.
//!
//! A lower bound on versions therefore costs what changed since, an upper bound also what changed later, without
//! reading values.

use crate::changes::{self, Mask};
use crate::clocks;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::storage::quote_identifier;
use crate::table::Table;
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal};
use cloudsync_core::id::SiteId;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Statements that are kept for rows of other tables, or with other columns.
const SELECTS_MAX: usize = 64;
/// Bits of a number for the column, one more than the column's own number.
const COLUMN_BITS: u32 = 16;
/// Bits for the place in an entry, whose size bounds it.
const PLACE_BITS: u32 = 11;

/// Which changes to give.
#[derive(Debug, Clone, Copy)]
pub struct ChangesQuery<'q> {
    /// Only those of later versions.
    pub after: u64,
    /// Only those of this version and earlier ones.
    pub last: u64,
    /// Only those of a table; in names case does not count.
    pub table: Option<&'q str>,
    /// Only those written by a site.
    pub site: Option<SiteId>,
    /// Whether [`Change::value`] will be asked for.
    pub values: bool,
}

/// The changes of a query, the latest version first.
pub struct Changes {
    db: Connection,
    source: Option<Source>,
    tables: HashMap<i64, Rc<Table>>,
    sites: Vec<SiteId>,
    last: u64,
    site: Option<SiteOrdinal>,
    values: bool,
    /// By key in the tree of clocks: the columns that were met, `None` for all and the sentinel.
    met: HashMap<Box<[u8]>, Option<Box<ColumnSet>>>,
    selects: Vec<Select>,
    entry: Entry,
    row: Option<Row>,
}

struct Source {
    entries: Statement,
    clock: Statement,
}

/// Reads some columns of a row by its key.
struct Select {
    table: i64,
    columns: ColumnSet,
    statement: Statement,
}

/// The entry that is being read.
#[derive(Default)]
struct Entry {
    number: i64,
    version: u64,
    table: i64,
    first_of_version: i64,
    keys: Vec<u8>,
    /// Where the next key begins, and which one it is.
    offset: usize,
    place: i64,
}

/// A change of a row: its column (`None` for the sentinel), which value of the select it is, and its clock.
type ChangeAt = (Option<ColumnNumber>, usize, Clock);

/// What of a mask was not met in later versions.
enum Fresh {
    Only(ColumnSet),
    /// All but these, and the sentinel.
    AllBut(ColumnSet),
}

/// The row whose changes are being given.
struct Row {
    table: Rc<Table>,
    key: Vec<u8>,
    life: u64,
    place: i64,
    changes: Vec<ChangeAt>,
    at: usize,
    select: Option<usize>,
}

/// One change.
#[derive(Clone, Copy)]
pub struct Change<'c> {
    changes: &'c Changes,
    row: &'c Row,
    column: Option<ColumnNumber>,
    value: usize,
    clock: Clock,
}

impl Replica {
    /// The changes that a query asks for, as far as they are folded. Nothing is written; before the first table syncs
    /// there are none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn changes(&mut self, query: &ChangesQuery<'_>) -> Result<Changes> {
        let mut changes = Changes {
            db: self.db,
            source: None,
            tables: HashMap::new(),
            sites: Vec::new(),
            last: query.last,
            site: None,
            values: query.values,
            met: HashMap::new(),
            selects: Vec::new(),
            entry: Entry::default(),
            row: None,
        };
        if query.after >= query.last || !self.exists()? {
            return Ok(changes);
        }
        self.catalog.load(&self.db)?;
        self.sites.refresh(&self.db)?;
        changes.sites = self.sites.ids().to_vec();
        let tables = self.catalog.tables().into_iter().filter(|table| !table.is_withheld());
        changes.tables = tables.map(|table| (table.id, table)).collect();
        if let Some(site) = query.site {
            let Some(site) = self.sites.find(site) else { return Ok(changes) };
            changes.site = Some(site);
        }
        let table = match query.table.map(|name| self.catalog.table_named(name)) {
            Some(None) => return Ok(changes),
            Some(Some(table)) => Value::Integer(table.id),
            None => Value::Null,
        };
        // language=SQLite
        let sql = "SELECT e.id, e.version, e.table_id, v.first_entry, e.keys FROM main.cloudsync_entries AS e \
                   JOIN main.cloudsync_versions AS v ON v.version = e.version \
                   WHERE e.id > ?1 AND (?2 IS NULL OR e.table_id = ?2) ORDER BY e.id DESC";
        let mut entries = self.db.prepare(sql)?;
        entries.bind(1, Value::Integer(changes::entry_before(&self.db, query.after)?))?;
        entries.bind(2, table)?;
        let clock = self.db.prepare("SELECT clock FROM main.cloudsync_clocks WHERE pk = ?1")?;
        changes.source = Some(Source { entries, clock });
        Ok(changes)
    }
}

impl Changes {
    /// Goes to the next change, at first to the first: true if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn advance(&mut self) -> Result<bool> {
        if let Some(row) = &mut self.row {
            row.at += 1;
            if row.at < row.changes.len() {
                return Ok(true);
            }
        }
        loop {
            self.close_row()?;
            while self.entry.offset == self.entry.keys.len() {
                if !self.next_entry()? {
                    return Ok(false);
                }
            }
            if self.next_row()? {
                return Ok(true);
            }
        }
    }

    /// The change at which [`Changes::advance`] stands.
    #[must_use]
    pub fn current(&self) -> Option<Change<'_>> {
        let row = self.row.as_ref()?;
        let (column, value, clock) = *row.changes.get(row.at)?;
        Some(Change { changes: self, row, column, value, clock })
    }

    fn close_row(&mut self) -> Result<()> {
        if let Some(select) = self.row.take().and_then(|row| self.selects.get_mut(row.select?)) {
            select.statement.reset()?;
        }
        Ok(())
    }

    fn next_entry(&mut self) -> Result<bool> {
        let Some(source) = &mut self.source else { return Ok(false) };
        let entries = &mut source.entries;
        if !entries.step()? {
            // Another step would begin anew.
            self.source = None;
            return Ok(false);
        }
        self.entry = Entry {
            number: entries.column_i64(0),
            version: entries.column_i64(1) as u64,
            table: entries.column_i64(2),
            first_of_version: entries.column_i64(3),
            keys: entries.column(4).as_blob().ok_or_else(|| Error::corrupt("cloudsync_entries"))?.to_vec(),
            offset: 0,
            place: -1,
        };
        Ok(true)
    }

    /// Reads the next row of the entry; true when there is a change of it to give.
    fn next_row(&mut self) -> Result<bool> {
        let entry = &mut self.entry;
        let mut reader = Reader::new(&entry.keys[entry.offset..]);
        let (key, mask) = changes::read_row(&mut reader)?;
        let key = key.to_vec();
        entry.offset = entry.keys.len() - reader.remaining();
        entry.place += 1;
        let Some(table) = self.tables.get(&entry.table).map(Rc::clone) else { return Ok(false) };
        let pk = clocks::pk(table.id, &key);
        let Some(fresh) = self.meet(&pk, &mask) else { return Ok(false) };
        if self.entry.version > self.last {
            return Ok(false);
        }
        let Some(clock) = self.clock(&pk)? else { return Ok(false) };
        let (changes, columns) = self.changes_of(&table, &clock, &fresh);
        if changes.is_empty() {
            return Ok(false);
        }
        let select = if clock.is_alive() {
            let columns = if self.values { columns } else { ColumnSet::new() };
            // A row that was deleted meanwhile has its change when that is folded.
            let Some(select) = self.select(&table, columns, &key)? else { return Ok(false) };
            Some(select)
        } else {
            None
        };
        let place = self.entry.place;
        self.row = Some(Row { table, key, life: clock.life, place, changes, at: 0, select });
        Ok(true)
    }

    /// Remembers what is met, and gives what of it was not met before.
    fn meet(&mut self, pk: &[u8], mask: &Mask) -> Option<Fresh> {
        let Some(met) = self.met.get_mut(pk) else {
            let (columns, fresh) = match mask.columns() {
                None => (None, Fresh::AllBut(ColumnSet::new())),
                Some(columns) => (Some(Box::new(columns.clone())), Fresh::Only(columns.clone())),
            };
            self.met.insert(pk.into(), columns);
            return Some(fresh);
        };
        let before = met.as_mut()?;
        match mask.columns() {
            Some(columns) => {
                let fresh = columns.iter().filter(|column| !before.contains(*column)).collect();
                before.union_with(columns);
                Some(Fresh::Only(fresh))
            }
            None => met.take().map(|before| Fresh::AllBut(*before)),
        }
    }

    /// The changes to give of a row, and the columns of those that are cells.
    fn changes_of(&self, table: &Table, clock: &RowClock, fresh: &Fresh) -> (Vec<ChangeAt>, ColumnSet) {
        let by_site = |clock: &Clock| self.site.is_none_or(|site| clock.site == site);
        let mut changes = Vec::new();
        if matches!(fresh, Fresh::AllBut(_)) && by_site(&clock.row()) {
            changes.push((None, 0, clock.row()));
        }
        // A dead row may keep cells, but shows none.
        let cells = clock.cells().filter(|_| clock.is_alive()).filter(|(column, clock)| {
            let is_fresh = match fresh {
                Fresh::Only(columns) => columns.contains(*column),
                Fresh::AllBut(columns) => !columns.contains(*column),
            };
            is_fresh && table.numbers.contains(*column) && by_site(clock)
        });
        let cells: Vec<_> = cells.collect();
        changes.extend(cells.iter().enumerate().map(|(at, (column, clock))| (Some(*column), at, *clock)));
        (changes, cells.into_iter().map(|(column, _)| column).collect())
    }

    /// The place of a select that stands on the row; `None` if the row does not exist.
    fn select(&mut self, table: &Table, columns: ColumnSet, key: &[u8]) -> Result<Option<usize>> {
        let is_it = |select: &Select| select.table == table.id && select.columns == columns;
        let at = match self.selects.iter().position(is_it) {
            Some(at) => at,
            None => {
                if self.selects.len() == SELECTS_MAX {
                    self.selects.clear();
                }
                let names = columns.iter().filter_map(|column| table.cell(column));
                let mut names: Vec<_> = names.map(|cell| quote_identifier(cell.column.name())).collect();
                if names.is_empty() {
                    names.push("1".to_owned());
                }
                let (names, condition, inside) =
                    (names.join(", "), table.key_condition(1), table.and_inside());
                let sql = format!("SELECT {names} FROM {} WHERE {condition}{inside}", table.quoted());
                let statement = self.db.prepare(&sql)?;
                self.selects.push(Select { table: table.id, columns, statement });
                self.selects.len() - 1
            }
        };
        let select = &mut self.selects[at].statement;
        clocks::bind_key(select, 1, key)?;
        let exists = select.step()?;
        if !exists {
            select.reset()?;
        }
        Ok(exists.then_some(at))
    }

    fn clock(&mut self, pk: &[u8]) -> Result<Option<RowClock>> {
        let Some(source) = &mut self.source else { return Ok(None) };
        source.clock.bind(1, Value::Blob(pk))?;
        let clock = if source.clock.step()? {
            let bytes = source.clock.column(0).as_blob().ok_or_else(|| Error::corrupt("cloudsync_clocks"))?;
            Some(RowClock::decode(bytes)?)
        } else {
            None
        };
        source.clock.reset()?;
        Ok(clock)
    }
}

impl<'c> Change<'c> {
    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &'c str {
        &self.row.table.name
    }

    /// The row's packed key.
    #[must_use]
    pub fn key(&self) -> &'c [u8] {
        &self.row.key
    }

    /// The column's name; `None` for the sentinel.
    #[must_use]
    pub fn column(&self) -> Option<&'c str> {
        Some(self.row.table.cell(self.column?)?.column.name())
    }

    /// The present value; NULL for the sentinel, and if the query did not ask for values.
    #[must_use]
    pub fn value(&self) -> Value<'c> {
        let select = self.row.select.filter(|_| self.column.is_some() && self.changes.values);
        select.map_or(Value::Null, |select| self.changes.selects[select].statement.column(self.value))
    }

    /// The last version in which it changed.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.changes.entry.version
    }

    /// When it was written, in milliseconds since 1970: of the sentinel of a living row when most of its cells were.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.clock.time.0
    }

    /// Who wrote it, as for [`Change::time`].
    #[must_use]
    pub fn site(&self) -> Option<SiteId> {
        self.changes.sites.get(self.clock.site.0 as usize).copied()
    }

    /// The row's causal length: odd while it is alive.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.row.life
    }

    /// The order within its version, with gaps.
    #[must_use]
    pub fn order(&self) -> i64 {
        self.number() - (self.changes.entry.first_of_version << (PLACE_BITS + COLUMN_BITS))
    }

    /// A number that no other change has.
    #[must_use]
    pub fn number(&self) -> i64 {
        let column = self.column.map_or(0, |column| i64::from(column.0) + 1);
        (self.changes.entry.number << (PLACE_BITS + COLUMN_BITS)) | (self.row.place << COLUMN_BITS) | column
    }
}
