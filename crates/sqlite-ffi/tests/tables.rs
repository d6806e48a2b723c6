//! Tables that are computed when they are read.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use std::cell::Cell;
use std::ffi::CStr;
use std::rc::Rc;

use cloudsync_sqlite_ffi::{
    Args, Connection, FunctionError, FunctionFlags, Operator, Plan, Query, Sink, Statement, TableCursor,
    TableFunction, Use, Value, bindings,
};
use host::{Host, memory};

type Outcome<T = ()> = Result<T, FunctionError>;

/// Where a table fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Plan,
    Open,
    Filter,
    Next,
    End,
    Column,
    Rowid,
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Error,
    Panic,
}

/// `series(start, stop)`: the integers between. Counts what is alive of it, and the rows it gave.
#[derive(Clone)]
struct Series {
    place: Place,
    manner: Manner,
    alive: Rc<Cell<i32>>,
    rows: Rc<Cell<i64>>,
}

impl Series {
    fn new() -> Self {
        Self::failing(Place::Nowhere, Manner::Error)
    }

    fn failing(place: Place, manner: Manner) -> Self {
        Self { place, manner, alive: Rc::default(), rows: Rc::default() }
    }

    fn at(&self, place: Place) -> Outcome {
        match self.manner {
            _ if place != self.place => Ok(()),
            Manner::Error => {
                Err(FunctionError::new(bindings::SQLITE_CONSTRAINT_CHECK, format!("failed at {place:?}")))
            }
            Manner::Panic => panic!("fell at {place:?}"),
        }
    }

    fn register(&self, host: &Host, flags: FunctionFlags) {
        host.ours.create_table_function("series", flags, self.clone()).unwrap();
    }
}

struct Numbers {
    series: Series,
    connection: Connection,
    /// A cursor's own statement must not keep the host from closing.
    own: Statement,
    start: i64,
    at: i64,
    stop: i64,
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.series.alive.set(self.series.alive.get() - 1);
    }
}

impl TableFunction for Series {
    type Cursor = Numbers;

    const SCHEMA: &'static CStr = c"CREATE TABLE x(value INTEGER, start HIDDEN, stop HIDDEN)";

    fn plan(&self, query: &Query<'_>) -> Outcome<Option<Plan>> {
        self.at(Place::Plan)?;
        let mut uses = Vec::new();
        for column in [1, 2] {
            let named = |(_, constraint): &(usize, cloudsync_sqlite_ffi::Constraint)| {
                constraint.column == Some(column) && constraint.operator == Operator::Equal
            };
            let found: Vec<_> = query.constraints().enumerate().filter(named).collect();
            match found.iter().find(|(_, constraint)| constraint.usable) {
                Some((constraint, _)) => uses.push(Use { constraint: *constraint, exact: true }),
                None if found.is_empty() => return Err(FunctionError::from("series() takes 2 arguments")),
                None => return Ok(None),
            }
        }
        let ordered = query.order().all(|term| term.column == Some(0) && !term.descending);
        let text = if query.reads_column(0) { "with values" } else { "without values" };
        Ok(Some(Plan { number: 7, text: text.to_owned(), uses, cost: 10.0, rows: 10, ordered }))
    }

    fn open(&self, connection: Connection) -> Outcome<Numbers> {
        self.at(Place::Open)?;
        self.alive.set(self.alive.get() + 1);
        let own = connection.prepare("SELECT 1 UNION ALL SELECT 2")?;
        Ok(Numbers { series: self.clone(), connection, own, start: 0, at: 1, stop: 0 })
    }
}

impl TableCursor for Numbers {
    fn filter(&mut self, plan: i32, args: &Args<'_>) -> Outcome {
        assert_eq!((plan, args.len()), (7, 2));
        self.series.at(Place::Filter)?;
        let wanted = || FunctionError::from("series() wants integers");
        self.start = args.get(0).as_i64().ok_or_else(wanted)?;
        self.stop = args.get(1).as_i64().ok_or_else(wanted)?;
        self.at = self.start;
        self.own.reset()?;
        assert!(self.own.step()?, "left in the midst of its rows");
        // A cursor's SQL may use the table itself.
        if self.stop == 99 {
            let sum = self.connection.query_i64("SELECT sum(value) FROM series(1, 3)", &[])?;
            assert_eq!(sum, Some(6));
        }
        Ok(())
    }

    fn next(&mut self) -> Outcome {
        self.series.at(Place::Next)?;
        self.at += 1;
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        let _ = self.series.at(Place::End);
        self.at > self.stop
    }

    fn column(&self, index: usize, sink: Sink<'_>) -> Outcome {
        self.series.at(Place::Column)?;
        self.series.rows.set(self.series.rows.get() + 1);
        match index {
            0 => sink.set(Value::Integer(self.at)),
            1 => sink.set(Value::Integer(self.start)),
            // The last is left alone.
            _ => {}
        }
        Ok(())
    }

    fn rowid(&self) -> Outcome<i64> {
        self.series.at(Place::Rowid)?;
        Ok(self.at)
    }
}

fn list(host: &Host, sql: &str) -> String {
    let sql = format!("SELECT coalesce(group_concat(v), '') FROM ({sql})");
    host.ours.query_text(&sql, &[]).unwrap().unwrap()
}

#[test]
fn a_table_appears_in_from() {
    let host = memory();
    let series = Series::new();
    series.register(&host, FunctionFlags::default());
    assert_eq!(list(&host, "SELECT value AS v FROM series(3, 6)"), "3,4,5,6");
    assert_eq!(list(&host, "SELECT value AS v FROM series WHERE stop = 2 AND start = 1"), "1,2");
    assert_eq!(list(&host, "SELECT value AS v FROM series(5, 4)"), "");
    assert_eq!(list(&host, "SELECT typeof(stop) AS v FROM series(1, 1)"), "null");
    assert_eq!(list(&host, "SELECT rowid AS v FROM series(8, 9)"), "8,9");
    assert_eq!(list(&host, "SELECT value AS v FROM series(1, 99) LIMIT 2 OFFSET 3"), "4,5");
    assert_eq!(
        list(&host, "SELECT value AS v FROM series(1, 9) WHERE value = 2 OR value > 8 ORDER BY value DESC"),
        "9,2"
    );
    for sql in ["INSERT INTO series VALUES (1)", "DELETE FROM series", "CREATE VIRTUAL TABLE s USING series"]
    {
        assert!(host.ours.execute(sql).is_err(), "{sql}");
    }
    assert_eq!(series.alive.get(), 0);
}

#[test]
fn a_scan_ends_where_nobody_wants_more() {
    let host = memory();
    let series = Series::new();
    series.register(&host, FunctionFlags::default());
    assert_eq!(list(&host, "SELECT value AS v FROM series(1, 1000000000) LIMIT 3"), "1,2,3");
    assert!(series.rows.get() <= 4, "{}", series.rows.get());
    let mut statement = host.ours.prepare("SELECT value FROM series(1, 10)").unwrap();
    assert!(statement.step().unwrap());
    assert_eq!(series.alive.get(), 1);
    statement.reset().unwrap();
    drop(statement);
    assert_eq!(series.alive.get(), 0, "closed with its statement");
}

#[test]
fn tables_join_and_take_arguments_from_outer_loops() {
    let host = memory();
    let series = Series::new();
    series.register(&host, FunctionFlags::default());
    host.ours.execute("CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2), (5, 6), (9, 8)").unwrap();
    assert_eq!(list(&host, "SELECT value AS v FROM t, series(t.a, t.b)"), "1,2,5,6");
    assert_eq!(list(&host, "SELECT value AS v FROM series(t.a, t.b) JOIN t"), "1,2,5,6", "in another order");
    assert_eq!(
        list(&host, "SELECT x.value * 10 + y.value AS v FROM series(1, 3) x JOIN series(x.value, 3) y"),
        "11,12,13,22,23,33"
    );
    assert_eq!(
        list(
            &host,
            "SELECT a.value AS v FROM series(1, 5) a WHERE value IN (SELECT value FROM series(4, 9))"
        ),
        "4,5"
    );
    let plan = |sql: &str| {
        host.ours.query_row(sql, &[], |row| Outcome::Ok(row.column(3).as_str().unwrap().to_owned()))
    };
    let words = plan("EXPLAIN QUERY PLAN SELECT count(*) FROM series(1, 2)").unwrap().unwrap();
    assert!(words.contains("VIRTUAL TABLE INDEX 7:without values"), "{words}");
    assert_eq!(series.alive.get(), 0);
}

#[test]
fn many_cursors_are_open_at_once() {
    let host = memory();
    let series = Series::new();
    series.register(&host, FunctionFlags::default());
    let mut statements: Vec<_> = (0..200)
        .map(|i| host.ours.prepare(&format!("SELECT value FROM series({i}, {})", i + 3)).unwrap())
        .collect();
    for round in 0..4 {
        for (i, statement) in statements.iter_mut().enumerate() {
            assert!(statement.step().unwrap());
            assert_eq!(statement.column_i64(0), i as i64 + round);
        }
    }
    assert_eq!(series.alive.get(), 200);
    drop(statements);
    assert_eq!(series.alive.get(), 0);
}

#[test]
fn failures_and_panics_become_errors_wherever_they_are() {
    let places = [Place::Plan, Place::Open, Place::Filter, Place::Next, Place::Column, Place::Rowid];
    for place in places {
        for manner in [Manner::Error, Manner::Panic] {
            let host = memory();
            let series = Series::failing(place, manner);
            series.register(&host, FunctionFlags::default());
            for _ in 0..2 {
                let error =
                    host.ours.query_i64("SELECT sum(value + rowid) FROM series(1, 3)", &[]).unwrap_err();
                let text = match manner {
                    Manner::Error => format!("failed at {place:?}"),
                    Manner::Panic => format!("internal error: fell at {place:?}"),
                };
                assert!(error.message.contains(&text), "{place:?} {manner:?}: {error}");
                if manner == Manner::Error && place != Place::Plan {
                    assert!(error.is_constraint(), "{place:?}: {error}");
                }
                assert_eq!(series.alive.get(), 0, "{place:?} {manner:?}");
            }
            assert_eq!(host.ours.query_i64("SELECT 1", &[]).unwrap(), Some(1), "the connection goes on");
        }
    }
    let host = memory();
    Series::failing(Place::End, Manner::Panic).register(&host, FunctionFlags::default());
    assert_eq!(list(&host, "SELECT value AS v FROM series(1, 3)"), "", "nothing can be said there");
}

#[test]
fn missing_and_wrong_arguments_have_a_text() {
    let host = memory();
    Series::new().register(&host, FunctionFlags::default());
    for (sql, text) in [
        ("SELECT * FROM series", "series() takes 2 arguments"),
        ("SELECT * FROM series(1)", "series() takes 2 arguments"),
        ("SELECT * FROM series(1, 2, 3)", "too many arguments"),
        ("SELECT * FROM series(1, 'a')", "series() wants integers"),
        ("SELECT * FROM series(b.start, 9) AS a, series(a.start, 9) AS b", "no query solution"),
    ] {
        let error = host.ours.query_i64(sql, &[]).unwrap_err();
        assert!(error.message.contains(text), "{sql}: {error}");
    }
}

#[test]
fn flags_say_where_it_may_stand() {
    for (flags, untrusted, trusted) in [
        (FunctionFlags::INNOCUOUS, true, true),
        (FunctionFlags::default(), false, true),
        (FunctionFlags::DIRECT_ONLY, false, false),
    ] {
        let host = memory();
        Series::new().register(&host, flags);
        host.ours.execute("CREATE VIEW v AS SELECT value FROM series(1, 2)").unwrap();
        for (setting, allowed) in [("OFF", untrusted), ("ON", trusted)] {
            host.ours.execute(&format!("PRAGMA trusted_schema = {setting}")).unwrap();
            assert_eq!(host.ours.execute("SELECT * FROM v").is_ok(), allowed, "{flags:?} {setting}");
            host.ours.execute("SELECT * FROM series(1, 2)").unwrap();
        }
    }
}

#[test]
fn the_table_is_dropped_once() {
    struct Count(Series, Rc<Cell<u32>>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
        }
    }
    impl TableFunction for Count {
        type Cursor = Numbers;
        const SCHEMA: &'static CStr = Series::SCHEMA;
        fn plan(&self, query: &Query<'_>) -> Outcome<Option<Plan>> {
            self.0.plan(query)
        }
        fn open(&self, connection: Connection) -> Outcome<Numbers> {
            self.0.open(connection)
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let host = memory();
    let table = || Count(Series::new(), Rc::clone(&dropped));
    host.ours.create_table_function("series", FunctionFlags::default(), table()).unwrap();
    let mut open = host.ours.prepare("SELECT value FROM series(1, 9)").unwrap();
    assert!(open.step().unwrap());
    host.ours.create_table_function("series", FunctionFlags::default(), table()).unwrap();
    assert!(open.step().unwrap(), "the replaced table lives as long as its cursor");
    assert_eq!(open.column_i64(0), 2);
    drop(open);
    assert_eq!(list(&host, "SELECT value AS v FROM series(1, 2)"), "1,2");
    assert_eq!(dropped.get(), 1, "replaced");
    assert!(host.ours.create_table_function("nul\0", FunctionFlags::default(), table()).is_err());
    assert_eq!(dropped.get(), 2, "refused before SQLite saw it");
    drop(host);
    assert_eq!(dropped.get(), 3, "closed");
}
