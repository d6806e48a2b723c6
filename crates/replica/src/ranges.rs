//! Digests of what a table holds in a range of keys, for both sides of a check (`cloudsync_protocol::range`).

use crate::clocks::{self, pk_range};
use crate::error::{Error, Result};
use crate::row_scan::RowScan;
use crate::storage::quote_identifier;
use crate::table::Table;
use crate::value::from_sqlite;
use cloudsync_core::clock::{ColumnNumber, ColumnSet, RowClock};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::range::{Digester, column_order};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::rc::Rc;

/// What there is of a row whose clock is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// The row, alive or deleted; its digest.
    Row(u64),
    /// The clock says alive, and there is no row.
    Missing,
    /// A row that exists outside of its table's filter.
    Outside,
}

/// Works out the digests of a table's rows.
pub(crate) struct RowReader {
    table: Rc<Table>,
    /// Walks along where the table can be read in order of its keys.
    scan: Option<RowScan>,
    select: Statement,
    /// The table's cells in the order in which digests number them, which have the numbers, and their places here.
    cells: Vec<(usize, ColumnNumber, usize)>,
    digester: Digester,
}

impl RowReader {
    pub(crate) fn open(db: &Connection, table: &Rc<Table>) -> Result<Self> {
        let schema = table.schema();
        let cell = |place: usize| {
            let name = &schema.columns[place].name;
            table.cells.iter().position(|cell| cell.column.name() == name)
        };
        let order = column_order(&schema).into_iter().enumerate();
        let cells: Vec<_> = order
            .filter_map(|(at, place)| cell(place).map(|cell| (at, table.cells[cell].number, cell)))
            .collect();
        let mut names: Vec<_> = table.cells.iter().map(|cell| quote_identifier(cell.column.name())).collect();
        names.push(match &table.filter {
            Some(filter) => format!("CASE WHEN {} THEN 1 ELSE 0 END", filter.condition()),
            None => "1".to_owned(),
        });
        let sql =
            format!("SELECT {} FROM {} WHERE {}", names.join(", "), table.quoted(), table.key_condition(1));
        Ok(Self {
            table: Rc::clone(table),
            scan: RowScan::open(db, table)?,
            select: db.prepare(&sql)?,
            cells,
            digester: Digester::default(),
        })
    }

    /// The row of a clock.
    pub(crate) fn row(&mut self, key: &[u8], clock: &RowClock, sites: &[SiteId]) -> Result<Held> {
        let Self { scan, select, cells, digester, table } = self;
        if !clock.is_alive() {
            if table.filter.is_some() {
                clocks::bind_key(select, 1, key)?;
                let exists = select.step()?;
                select.reset()?;
                if exists {
                    return Ok(Held::Outside);
                }
            }
            let cells = cells.iter().map(|(at, number, _)| (*at, *number, None));
            return Ok(Held::Row(digester.row(key, clock, sites, cells)));
        }
        if let Some(scan) = scan {
            if !scan.find(key)? {
                return Ok(Held::Missing);
            }
            let cells = cells.iter().map(|(at, number, place)| (*at, *number, Some(scan.cell(*place))));
            return Ok(Held::Row(digester.row(key, clock, sites, cells)));
        }
        clocks::bind_key(select, 1, key)?;
        let held = if !select.step()? {
            Held::Missing
        } else if select.column_i64(table.cells.len()) == 0 {
            Held::Outside
        } else {
            let cells = cells
                .iter()
                .map(|(at, number, place)| (*at, *number, Some(from_sqlite(select.column(*place)))));
            Held::Row(digester.row(key, clock, sites, cells))
        };
        select.reset()?;
        Ok(held)
    }

    /// The digest of a row that comes from elsewhere, whose cells are found by their numbers.
    pub(crate) fn incoming(
        &mut self,
        row: &crate::write::Row<'_>,
        clock: &RowClock,
        sites: &[SiteId],
    ) -> u64 {
        let alive = clock.is_alive();
        let cells = self
            .cells
            .iter()
            .map(|(at, number, _)| (*at, *number, if alive { row.value(*number) } else { None }));
        self.digester.row(row.packed, clock, sites, cells)
    }

    /// Bytes that the last row took.
    pub(crate) const fn row_bytes(&self) -> usize {
        self.digester.row_bytes()
    }
}

/// Finds cells that hold something though no clock says who wrote it: a column that came later, written behind the
/// triggers. Digests leave such cells out.
pub(crate) struct Filled {
    /// Tells of each of the cells whether it holds something else than its default.
    select: Option<Statement>,
    cells: Vec<ColumnNumber>,
}

impl Filled {
    pub(crate) fn open(db: &Connection, table: &Table) -> Result<Self> {
        let told =
            table.cells.iter().filter_map(|cell| Some((cell.number, cell.column.differs_from_constant()?)));
        let (cells, tests): (Vec<_>, Vec<_>) = told.unzip();
        let sql = || {
            format!("SELECT {} FROM {} WHERE {}", tests.join(", "), table.quoted(), table.key_condition(1))
        };
        let select = if cells.is_empty() { None } else { Some(db.prepare(&sql())?) };
        Ok(Self { select, cells })
    }

    /// Such cells of the row of a clock.
    pub(crate) fn find(&mut self, key: &[u8], clock: &RowClock) -> Result<ColumnSet> {
        let mut filled = ColumnSet::new();
        let Some(select) = self.select.as_mut().filter(|_| clock.is_alive()) else { return Ok(filled) };
        if self.cells.iter().all(|cell| clock.columns.contains(*cell)) {
            return Ok(filled);
        }
        clocks::bind_key(select, 1, key)?;
        if select.step()? {
            let cells = self.cells.iter().enumerate();
            let filled_here =
                cells.filter(|(i, cell)| !clock.columns.contains(**cell) && select.column_i64(*i) != 0);
            filled_here.for_each(|(_, cell)| {
                filled.insert(*cell);
            });
        }
        select.reset()?;
        Ok(filled)
    }
}

/// The clocks of a table from behind a key up to another one, in order; empty keys stand for the table's ends.
pub(crate) struct ClockWalk {
    select: Statement,
}

impl ClockWalk {
    pub(crate) fn open(db: &Connection, table: i64, after: &[u8], until: &[u8]) -> Result<Self> {
        // language=SQLite
        let sql =
            "SELECT pk, clock, ordinal FROM main.cloudsync_clocks WHERE pk > ?1 AND pk <= ?2 ORDER BY pk";
        let mut select = db.prepare(sql)?;
        let (_, beyond) = pk_range(table);
        let until = if until.is_empty() { beyond } else { clocks::pk(table, until) };
        select.bind(1, Value::Blob(&clocks::pk(table, after)))?;
        select.bind(2, Value::Blob(&until))?;
        Ok(Self { select })
    }

    /// The next key in the tree, and its clock.
    pub(crate) fn next(&mut self) -> Result<Option<(&[u8], RowClock)>> {
        if !self.select.step()? {
            return Ok(None);
        }
        let damaged = || Error::corrupt("cloudsync_clocks");
        let clock = RowClock::decode(self.select.column(1).as_blob().ok_or_else(damaged)?)?;
        Ok(Some((self.select.column(0).as_blob().ok_or_else(damaged)?, clock)))
    }

    /// The number that stands for the row of the clock at hand, on a server.
    pub(crate) fn ordinal(&self) -> u64 {
        self.select.column_i64(2) as u64
    }
}

/// Finds rows that exist though no clock says so.
pub(crate) struct Unclocked {
    db: Connection,
    table: Rc<Table>,
    clocks: clocks::ClockStore,
    /// By whether the range has a beginning and an end.
    selects: [Option<Statement>; 4],
}

impl Unclocked {
    pub(crate) fn open(db: &Connection, table: &Rc<Table>) -> Result<Self> {
        let clocks = clocks::ClockStore::open(db)?;
        Ok(Self { db: *db, table: Rc::clone(table), clocks, selects: [const { None }; 4] })
    }

    /// The packed keys of such rows in a range, of which `looked_at` are looked at and `found` are found at most. The
    /// range is one of the table's own order, which is mostly that of packed keys: where it is not, a row comes in
    /// another range, and each comes in some.
    pub(crate) fn find(
        &mut self,
        after: &[u8],
        until: &[u8],
        looked_at: usize,
        found: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let Self { db, table, clocks, selects } = self;
        let at = usize::from(!after.is_empty()) + 2 * usize::from(!until.is_empty());
        let select = match &mut selects[at] {
            Some(known) => known,
            unset => unset.insert(db.prepare(&sql(table, !after.is_empty(), !until.is_empty()))?),
        };
        let mut first = 1;
        for key in [after, until].into_iter().filter(|key| !key.is_empty()) {
            clocks::bind_key(select, first, key)?;
            first += table.key.len();
        }
        let mut keys = Vec::new();
        let mut left = looked_at;
        while left > 0 && keys.len() < found && select.step()? {
            left -= 1;
            let mut key = Vec::new();
            // A row with NULL in its key is nobody else's business.
            if table.pack_key(&mut key, |i| from_sqlite(select.column(i))).is_ok()
                && !clocks.read(&clocks::pk(table.id, &key))?.is_some_and(|clock| clock.is_alive())
            {
                keys.push(key);
            }
        }
        select.reset()?;
        Ok(keys)
    }
}

fn sql(table: &Table, after: bool, until: bool) -> String {
    let names: Vec<_> = table.key.iter().map(|key| quote_identifier(&key.name)).collect();
    let names = names.join(", ");
    let mut conditions = Vec::new();
    let mut first = 1;
    for (given, operator) in [(after, ">"), (until, "<=")] {
        if given {
            let places: Vec<_> = (0..table.key.len()).map(|i| format!("?{}", first + i)).collect();
            conditions.push(format!("({names}) {operator} ({})", places.join(", ")));
            first += table.key.len();
        }
    }
    if let Some(filter) = &table.filter {
        conditions.push(format!("({})", filter.condition()));
    }
    let condition = if conditions.is_empty() { "1".to_owned() } else { conditions.join(" AND ") };
    format!("SELECT {names} FROM {} WHERE {condition}", table.quoted())
}
