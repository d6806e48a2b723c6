//! Statements that are kept between their uses.
//!
//! To compile a statement takes SQLite longer than to run most of ours. While a [`Shelf`] is open, statements of its connection
//! go back to it when they are dropped, and [`Connection::prepare`] takes them from there.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::connection::Connection;
use crate::statement::Statement;

/// Statements that one shelf keeps. One more, and the half of them goes that was not used for longest.
const KEPT_MAX: usize = 256;
/// Longest text of a statement that is kept, in bytes.
const KEPT_BYTES_MAX: usize = 4 << 10;

thread_local! {
    /// The shelves that are open in this thread.
    static OPEN: RefCell<Vec<Rc<Shelf>>> = const { RefCell::new(Vec::new()) };
}

/// Statements of one connection, by their texts. A host cannot close a connection that still has statements: the shelf must be
/// dropped before.
pub struct Shelf {
    connection: Connection,
    kept: RefCell<HashMap<Box<str>, Kept>>,
    /// Counts the uses.
    uses: Cell<u64>,
}

struct Kept {
    statement: Statement,
    last_use: u64,
}

impl Shelf {
    /// An empty shelf.
    #[must_use]
    pub fn new(connection: Connection) -> Rc<Self> {
        Rc::new(Self { connection, kept: RefCell::default(), uses: Cell::new(0) })
    }

    /// Opens the shelf in this thread, until the guard is dropped. If the connection has an open shelf already, that one is used
    /// and this one stays as it is.
    #[must_use]
    pub fn open(self: &Rc<Self>) -> OpenShelf {
        let is_first = OPEN.with_borrow_mut(|open| {
            let is_first = open.iter().all(|shelf| shelf.connection != self.connection);
            if is_first {
                open.push(Rc::clone(self));
            }
            is_first
        });
        OpenShelf { shelf: is_first.then(|| Rc::clone(self)), here: PhantomData }
    }

    fn of(connection: Connection) -> Option<Rc<Self>> {
        // A thread that ends has no shelves any more.
        OPEN.try_with(|open| open.borrow().iter().find(|shelf| shelf.connection == connection).map(Rc::clone))
            .ok()
            .flatten()
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shelf").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// While it lives, the shelf is open in this thread.
#[derive(Debug)]
pub struct OpenShelf {
    /// `None` where the connection had an open shelf before.
    shelf: Option<Rc<Shelf>>,
    /// It stays in its thread.
    here: PhantomData<*const ()>,
}

impl Drop for OpenShelf {
    fn drop(&mut self) {
        let Some(shelf) = self.shelf.take() else { return };
        let _ = OPEN.try_with(|open| open.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shelf)));
    }
}

/// True when a shelf is open where statements of this text can be kept. The others are cheap to compile, or act while they are:
/// most of what PRAGMA does is done then, and not done again.
pub(crate) fn can_keep(connection: Connection, sql: &str) -> bool {
    let is_plain = ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "EXPLAIN"]
        .iter()
        .any(|verb| sql.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb)));
    (is_plain || matches!(sql, "PRAGMA main.schema_version" | "PRAGMA temp.schema_version"))
        && sql.len() <= KEPT_BYTES_MAX
        && Shelf::of(connection).is_some()
}

/// Takes a statement from the open shelf of its connection.
pub(crate) fn take(connection: Connection, sql: &str) -> Option<Statement> {
    Some(Shelf::of(connection)?.kept.borrow_mut().remove(sql)?.statement)
}

/// Puts a statement back that stands before its first row and has nothing bound. Without an open shelf it is finalized.
pub(crate) fn put(sql: Box<str>, statement: Statement) {
    let Some(shelf) = Shelf::of(statement.connection()) else { return };
    let mut kept = shelf.kept.borrow_mut();
    if kept.len() >= KEPT_MAX {
        let mut uses: Vec<_> = kept.values().map(|kept| kept.last_use).collect();
        let (_, middle, _) = uses.select_nth_unstable(KEPT_MAX / 2);
        kept.retain(|_, kept| kept.last_use >= *middle);
    }
    let last_use = shelf.uses.get() + 1;
    shelf.uses.set(last_use);
    kept.insert(sql, Kept { statement, last_use });
}
