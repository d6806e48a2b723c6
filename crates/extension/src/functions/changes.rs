//! The table `cloudsync_changes`: one row for each changed cell.

use crate::error::{Error, Result};
use crate::functions::Function;
use crate::state::State;
use cloudsync_replica::{Changes, ChangesQuery, Replica, SiteId};
use cloudsync_sqlite_ffi::{
    self as ffi, Args, Connection, FunctionError, Operator, Plan, Query, Sink, TableCursor, TableFunction,
    Use, Value,
};
use std::ffi::CStr;
use std::rc::Rc;

const TBL: usize = 0;
const COL_VALUE: usize = 3;
const VERSION: usize = 4;
const SITE_ID: usize = 6;

/// What a plan can make use of, by its bit in the plan's number, in the order of the arguments.
const TERMS: &[(&str, usize, Operator)] = &[
    ("version=", VERSION, Operator::Equal),
    ("version>", VERSION, Operator::Greater),
    ("version>=", VERSION, Operator::GreaterOrEqual),
    ("version<", VERSION, Operator::Less),
    ("version<=", VERSION, Operator::LessOrEqual),
    ("tbl=", TBL, Operator::Equal),
    ("site_id=", SITE_ID, Operator::Equal),
];
/// The bit that says that values will be read.
const VALUES: i32 = 1 << TERMS.len();

/// Rows that a plan without any condition is thought to give.
const ROWS_ALL: i64 = 1_000_000;

struct ChangesTable {
    function: &'static Function,
    state: Rc<State>,
}

struct Cursor {
    function: &'static Function,
    replica: Replica,
    folded: bool,
    changes: Option<Changes>,
    is_at_end: bool,
}

pub(super) fn register(
    function: &'static Function,
    connection: Connection,
    state: Rc<State>,
) -> ffi::Result<()> {
    let table = ChangesTable { function, state };
    connection.create_table_function(function.name, function.flags(), table)
}

impl TableFunction for ChangesTable {
    type Cursor = Cursor;

    const SCHEMA: &'static CStr =
        c"CREATE TABLE x(tbl TEXT, pk BLOB, col_name TEXT, col_value, version INTEGER, \
                                    time INTEGER, site_id BLOB, cl INTEGER, seq INTEGER)";

    fn plan(&self, query: &Query<'_>) -> Result<Option<Plan>, FunctionError> {
        let constraints: Vec<_> = query.constraints().collect();
        let mut plan = Plan {
            number: 0,
            text: String::new(),
            uses: Vec::new(),
            cost: 0.0,
            rows: ROWS_ALL,
            ordered: false,
        };
        for (bit, (text, column, operator)) in TERMS.iter().enumerate() {
            let is_it = |(place, constraint): &(usize, &ffi::Constraint)| {
                let found = constraint.column == Some(*column) && constraint.operator == *operator;
                // Names are compared as SQL compares names, which gives too much at most; other collations might
                // want yet more.
                found && constraint.usable && (*column != TBL || query.compares_bytes(*place))
            };
            let Some((constraint, _)) = constraints.iter().enumerate().find(is_it) else { continue };
            // SQLite looks at each row again: its rules for comparing an integer to anything else stay its own.
            plan.uses.push(Use { constraint, exact: false });
            plan.number |= 1 << bit;
            plan.text.push_str(if plan.text.is_empty() { "" } else { " " });
            plan.text.push_str(text);
            plan.rows /= match operator {
                Operator::Equal if *column == VERSION => 10_000,
                Operator::Greater | Operator::GreaterOrEqual => 1_000,
                _ => 4,
            };
        }
        if query.reads_column(COL_VALUE) {
            plan.number |= VALUES;
        }
        let order: Vec<_> = query.order().collect();
        plan.ordered = matches!(&order[..], [term] if term.column == Some(VERSION) && term.descending);
        plan.rows = plan.rows.max(1);
        plan.cost = 100.0 + plan.rows as f64 * 2.0;
        Ok(Some(plan))
    }

    fn open(&self, connection: Connection) -> Result<Cursor, FunctionError> {
        let opened = Replica::open(connection, Rc::clone(&self.state.environment));
        let replica = opened.map_err(|error| self.function.failure(&error.into()))?;
        Ok(Cursor { function: self.function, replica, folded: false, changes: None, is_at_end: true })
    }
}

impl Cursor {
    fn begin(&mut self, plan: i32, args: &Args<'_>) -> Result<()> {
        self.changes = None;
        // In a join there is a scan for each row of the outer table.
        if !self.folded {
            self.replica.fold_if_free()?;
            self.folded = true;
        }
        let mut query =
            ChangesQuery { after: 0, last: u64::MAX, table: None, site: None, values: plan & VALUES != 0 };
        let terms = TERMS.iter().enumerate().filter(|(bit, _)| plan & (1 << bit) != 0);
        let mut is_possible = true;
        for (value, (_, (_, column, operator))) in args.iter().zip(terms) {
            is_possible &= match *column {
                TBL => {
                    query.table = value.as_str();
                    !value.is_null()
                }
                SITE_ID => {
                    query.site = value.as_blob().and_then(|id| id.try_into().ok()).map(SiteId);
                    query.site.is_some()
                }
                _ => bound(&mut query, *operator, value),
            };
        }
        if !is_possible {
            query.last = 0;
        }
        self.changes = Some(self.replica.changes(&query)?);
        self.advance()
    }

    fn advance(&mut self) -> Result<()> {
        self.is_at_end = match &mut self.changes {
            Some(changes) => !changes.advance()?,
            None => true,
        };
        Ok(())
    }
}

/// Narrows the versions of a query, never by too much; false when none is left.
fn bound(query: &mut ChangesQuery<'_>, operator: Operator, value: Value<'_>) -> bool {
    // The greatest integer that is not above the value, and the smallest that is not below it.
    let (floor, ceiling) = match value {
        Value::Integer(integer) => (integer, integer),
        Value::Real(real) => (real.floor() as i64, real.ceil() as i64),
        Value::Null => return false,
        // Text may be a number, and what else there is SQLite compares itself.
        Value::Text(_) | Value::Blob(_) => return true,
    };
    let after = match operator {
        Operator::Greater => Some(floor),
        Operator::Equal | Operator::GreaterOrEqual => Some(floor.saturating_sub(1)),
        _ => None,
    };
    let last = match operator {
        Operator::Less if floor == ceiling => Some(ceiling.saturating_sub(1)),
        Operator::Less | Operator::LessOrEqual | Operator::Equal => Some(ceiling),
        _ => None,
    };
    if let Some(after) = after {
        query.after = query.after.max(u64::try_from(after).unwrap_or(0));
    }
    if let Some(last) = last {
        query.last = query.last.min(u64::try_from(last).unwrap_or(0));
    }
    true
}

impl TableCursor for Cursor {
    fn filter(&mut self, plan: i32, args: &Args<'_>) -> Result<(), FunctionError> {
        self.begin(plan, args).map_err(|error| self.function.failure(&error))
    }

    fn next(&mut self) -> Result<(), FunctionError> {
        self.advance().map_err(|error| self.function.failure(&error))
    }

    fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    fn column(&self, index: usize, sink: Sink<'_>) -> Result<(), FunctionError> {
        let Some(change) = self.changes.as_ref().and_then(Changes::current) else { return Ok(()) };
        let integer = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let site;
        sink.set(match index {
            TBL => Value::from(change.table()),
            1 => Value::Blob(change.key()),
            2 => Value::from(change.column()),
            COL_VALUE => change.value(),
            VERSION => integer(change.version()),
            5 => integer(change.time()),
            SITE_ID => {
                site = change.site();
                site.as_ref().map_or(Value::Null, |site| Value::Blob(&site.0))
            }
            7 => integer(change.life()),
            _ => Value::Integer(change.order()),
        });
        Ok(())
    }

    fn rowid(&self) -> Result<i64, FunctionError> {
        let change = self.changes.as_ref().and_then(Changes::current);
        let change = change.ok_or_else(|| self.function.failure(&Error::usage("there is no current row")))?;
        Ok(change.number())
    }
}
