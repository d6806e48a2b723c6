//! Parents and children in an apply of our own, where SQLite does not enforce foreign keys: for an app that has them on
//! we do what SQLite would do, with every change known to the clocks.
//!
//! A child may come long before its parent, so it is let in, and only at the end of the apply those that are orphans
//! still are taken out into the quarantine, with their children. A row that was here before must not go with them: while it is
//! open who stays, such a row is given no other parent. A parent that another replica deleted took its children along there, and
//! their deletions come as changes; a child that its author did not know is treated as this table's foreign key says.

use crate::apply::Applier;
use crate::clocks;
use crate::codec::Zstd;
use crate::error::Result;
use crate::foreign_keys::{OnDelete, Reference, children_query, orphans_query};
use crate::guard::Verb;
use crate::pick::{Picked, Picking};
use crate::quarantine::QUARANTINE_DROPPED;
use crate::replica::Replica;
use crate::rollback::rolled_back;
use crate::storage::{self, quote_identifier};
use crate::table::Table;
use crate::value::{from_sqlite, to_sqlite};
use crate::write::{Refused, Row, Writer};
use cloudsync_core::bytes::{Reader, put_bytes};
use cloudsync_core::clock::{RowClock, SiteOrdinal};
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_core::merge::{Action, Algorithm};
use cloudsync_core::value::Value as Owned;
use cloudsync_protocol::limits::CHUNK_BYTES_MAX;
use cloudsync_protocol::payload::Opened;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of the longest key in the tree of clocks: a table's id and a packed key.
const PK_BYTES_MAX: u64 = KEY_BYTES_MAX as u64 + 10;

/// Why a row that exists keeps its parents until the end of an apply.
pub(crate) const HANGS: &str = "FOREIGN KEY constraint failed: the parent itself may be without one";

/// What is known of parents and children until the end of an apply.
#[derive(Default)]
pub(crate) struct Family {
    /// Keys of rows that were let in without their parent, each with its length before it.
    orphans: Vec<u8>,
    /// Such rows, and those let in while there were any, with the clocks that they had before: those of deletions mostly.
    /// Who had none is here only if it bears this replica's own clock, which rows that were here before may bear as well.
    let_in: HashMap<Vec<u8>, Option<RowClock>>,
    gone: Vec<Gone>,
    /// A row that exists was given no other parent, since it was open who stays.
    held: bool,
}

/// A deleted parent with children that SQLite would delete or change.
struct Gone {
    parent: Rc<Table>,
    parent_columns: Vec<String>,
    child: String,
    columns: Vec<String>,
    is_child: String,
    on_delete: OnDelete,
    /// The parent's columns.
    values: Vec<Owned>,
}

impl Family {
    /// Gives who was let in without a parent, and forgets them.
    pub(crate) fn take_orphans(&mut self) -> Self {
        let (orphans, let_in) = (std::mem::take(&mut self.orphans), std::mem::take(&mut self.let_in));
        Self { orphans, let_in, gone: Vec::new(), held: std::mem::take(&mut self.held) }
    }

    /// True when a row is to be tried again once the orphans are gone.
    pub(crate) const fn has_held(&self) -> bool {
        self.held
    }

    /// Writes a row, or deletes it, as [`Writer::carry_out`] does, with regard to its parents and children. `lax` lets a
    /// row in whose parent may yet come. The clocks are those that the row has before and after; `own` is this replica's site.
    pub(crate) fn carry_out(
        &mut self,
        writer: &mut Writer,
        row: &Row<'_>,
        action: &Action,
        (before, after): (Option<&RowClock>, Option<&RowClock>),
        lax: bool,
        own: SiteOrdinal,
    ) -> Result<(), Refused> {
        let is_open = !self.orphans.is_empty();
        if is_open && writer.gives_parents(&row.target.table, action)? {
            cloudsync_core::reached!("family: a row keeps its parents until it is known who stays");
            self.held = true;
            return Err(Refused::Constraint(HANGS.to_owned()));
        }
        match action {
            Action::Insert if lax || is_open => {
                let is_orphan = lax && writer.insert_orphan(row)?;
                if !lax {
                    writer.carry_out(row, action, after)?;
                }
                let pk = clocks::pk(row.target.table.id, row.packed);
                if is_orphan {
                    put_bytes(&mut self.orphans, &pk);
                }
                // It may go with its parent.
                let is_own = after.is_some_and(|after| after.common.site == own);
                if (is_orphan || is_open) && (before.is_some() || is_own) {
                    self.let_in.insert(pk, before.cloned());
                }
                Ok(())
            }
            Action::Delete | Action::Bury(_) => {
                let known = self.gone.len();
                let refused = self.part(writer, &row.target.table, row.packed)?;
                let outcome = match refused {
                    Some(reason) => Err(Refused::Constraint(reason)),
                    None => writer.carry_out(row, action, after),
                };
                if outcome.is_err() {
                    self.gone.truncate(known);
                }
                outcome
            }
            _ => writer.carry_out(row, action, after),
        }
    }

    /// Notes the children of a row that is about to be deleted; gives the reason where a foreign key refuses that.
    pub(crate) fn part(
        &mut self,
        writer: &mut Writer,
        table: &Rc<Table>,
        packed: &[u8],
    ) -> Result<Option<String>> {
        let mut refused = None;
        for reference in writer.references(table)? {
            let Some(values) = values_of(&mut reference.parent, packed)? else { continue };
            if reference.on_delete == OnDelete::Refuse {
                refused = Some(format!(
                    "FOREIGN KEY constraint failed: rows of \"{}\" refer to it",
                    reference.child
                ));
                continue;
            }
            self.gone.push(Gone::of(table, reference, values));
        }
        Ok(refused)
    }
}

impl Gone {
    fn of(parent: &Rc<Table>, reference: &Reference, values: Vec<Owned>) -> Self {
        Self {
            parent: Rc::clone(parent),
            parent_columns: reference.parent_columns.clone(),
            child: reference.child.clone(),
            columns: reference.columns.clone(),
            is_child: reference.is_child.clone(),
            on_delete: reference.on_delete,
            values,
        }
    }

    fn bound(&self) -> Vec<Value<'_>> {
        self.values.iter().map(|value| to_sqlite(value.borrow())).collect()
    }

    /// True when a parent with these values is there again.
    fn is_back(&self, db: &Connection) -> Result<bool> {
        let equal = self.parent_columns.iter().enumerate();
        let equal: Vec<_> =
            equal.map(|(i, name)| format!("{} = ?{}", quote_identifier(name), i + 1)).collect();
        let sql = format!("SELECT 1 FROM {} WHERE {}", self.parent.quoted(), equal.join(" AND "));
        Ok(db.query_i64(&sql, &self.bound())?.is_some())
    }

    /// The statement that takes the children's reference away, before its WHERE.
    fn action(&self, child: Option<&Table>) -> String {
        let table = format!("main.{}", quote_identifier(&self.child));
        if self.on_delete == OnDelete::Cascade {
            return format!("DELETE FROM {table}");
        }
        let value = |name: &String| {
            let columns = child.map(|child| &child.definition.columns).into_iter().flatten();
            let mut default = columns.filter(|column| column.name().eq_ignore_ascii_case(name));
            let default = default.next().and_then(|column| column.schema.default.clone());
            match self.on_delete {
                OnDelete::SetDefault => default.map_or("NULL".to_owned(), |default| format!("({default})")),
                OnDelete::Refuse | OnDelete::Cascade | OnDelete::SetNull => "NULL".to_owned(),
            }
        };
        let sets: Vec<_> =
            self.columns.iter().map(|name| format!("{} = {}", quote_identifier(name), value(name))).collect();
        format!("UPDATE {table} SET {}", sets.join(", "))
    }
}

impl Applier {
    /// Takes rows out that are orphans at the end of the apply, and then their children; all wait in the quarantine.
    pub(crate) fn take_out_orphans(&mut self, replica: &mut Replica, family: &Family) -> Result<()> {
        let own = replica.own_site()?;
        let mut pks = Reader::new(&family.orphans);
        let mut children = Vec::new();
        loop {
            let pk = match children.pop() {
                Some(child) => child,
                None if pks.is_empty() => return Ok(()),
                None => pks.bytes(PK_BYTES_MAX, "key")?.to_vec(),
            };
            let (table, key) = clocks::split_pk(&pk)?;
            let Some(table) = replica.catalog.table(table) else { continue };
            let Some(reason) = self.writer(replica, &table)?.missing_parent(key)? else { continue };
            let Some(clock) = self.clocks.read(&pk)? else { continue };
            let let_in = family.let_in.get(&pk);
            // A row that is this replica's own was an orphan before, unless it was gone from here and came again.
            if clock.common.site == own && let_in.is_none() {
                continue;
            }
            let references = self.writer(replica, &table)?.references(&table)?;
            children.extend(children_of(replica, references, key)?);
            self.take_out(replica, &table, key, &reason)?;
            match let_in.and_then(Option::as_ref) {
                Some(before) => self.clocks.write(&pk, before, false)?,
                None => self.clocks.remove(&pk)?,
            }
            self.applied.rows = self.applied.rows.saturating_sub(1);
            if let Some(written) = &mut self.written {
                written.insert(pk);
            }
        }
    }

    fn take_out(&mut self, replica: &mut Replica, table: &Rc<Table>, key: &[u8], reason: &str) -> Result<()> {
        cloudsync_core::reached!("family: an orphan is taken out");
        // What came may be outside of the table's filter, and waits as well.
        let whole = Rc::new(Table { filter: None, ..Table::clone(table) });
        let row = [(whole, key.to_vec())];
        let Picking { found, payload: picked } = replica.pick(&row, CHUNK_BYTES_MAX / 2, CHUNK_BYTES_MAX)?;
        if found.contains(&Picked::Large) {
            // Too large to wait: as when there is no room for a change any more.
            storage::count_up(&self.db, QUARANTINE_DROPPED, 1)?;
        }
        if !picked.is_empty() {
            let opened = Opened::open(&picked, &Zstd)?;
            let payload = opened.payload()?;
            for group in payload.groups() {
                self.put_aside(replica, &payload, group, 0, reason)?;
            }
        }
        match self.writer(replica, table)?.remove(table.id, key) {
            Ok(()) | Err(Refused::Constraint(_) | Refused::Part) => Ok(()),
            Err(Refused::Error(error)) => Err(error),
        }
    }
}

impl Replica {
    /// Notes every row whose parent is missing, for the end of a download that was applied chunk by chunk.
    pub(crate) fn find_orphans(&mut self) -> Result<()> {
        if !self.wants_parents() {
            return Ok(());
        }
        self.catalog.load(&self.db)?;
        for table in self.catalog.tables() {
            let query =
                if table.definition.has_foreign_keys { orphans_query(&self.db, &table)? } else { None };
            for key in query.map(|query| keys_of(query, &table)).transpose()?.unwrap_or_default() {
                put_bytes(&mut self.unsettled.family.orphans, &clocks::pk(table.id, &key));
            }
        }
        Ok(())
    }

    /// Does to the children of deleted parents what their foreign keys say, as writes of this replica. The caller holds
    /// the transaction, and the apply is finished.
    pub(crate) fn part_families(&mut self) -> Result<()> {
        if self.unsettled.family.gone.is_empty() {
            return Ok(());
        }
        let db = self.db;
        // Our own notes are wanted here.
        let triggers = db.set_triggers_enabled(true)?;
        let outcome = self.part_all();
        db.set_triggers_enabled(triggers)?;
        outcome?;
        self.fold_in_transaction().map(drop)
    }

    fn part_all(&mut self) -> Result<()> {
        while let Some(gone) = self.unsettled.family.gone.pop() {
            if gone.is_back(&self.db)? {
                continue;
            }
            match self.catalog.table_named(&gone.child) {
                Some(table) => self.part_children(&gone, &table)?,
                None => self.part_untracked(&gone)?,
            }
        }
        Ok(())
    }

    fn part_children(&mut self, gone: &Gone, table: &Rc<Table>) -> Result<()> {
        let mut query = children_query(&self.db, table, &gone.is_child)?;
        for (i, value) in gone.bound().into_iter().enumerate() {
            query.bind(i + 1, value)?;
        }
        let mut writer = Writer::new(self.db, table, false, self.guard.as_ref())?;
        let sql = format!("{} WHERE {}", gone.action(Some(table)), table.key_condition(1));
        let mut act = self.db.prepare(&sql)?;
        for key in keys_of(query, table)? {
            cloudsync_core::reached!("family: a child that its parent's author did not know");
            let outcome = if gone.on_delete == OnDelete::Cascade {
                if table.algorithm == Algorithm::Gos {
                    // Such rows are never deleted.
                    continue;
                }
                let family = &mut self.unsettled.family;
                match family.part(&mut writer, table, &key)? {
                    // SQLite would refuse the deletion of the parent, too, which is not ours to refuse: it stays.
                    Some(_) => Ok(()),
                    None => writer.remove(table.id, &key),
                }
            } else {
                clocks::bind_key(&mut act, 1, &key)?;
                if let Some(guard) = &self.guard {
                    guard.announce(table.id, Verb::Update, &key);
                }
                let outcome = act.step().map(drop);
                act.reset()?;
                if let Some(guard) = &self.guard {
                    guard.settle();
                }
                outcome.map_err(Refused::from)
            };
            self.tolerate(outcome)?;
        }
        Ok(())
    }

    /// Children in a table that does not sync.
    fn part_untracked(&self, gone: &Gone) -> Result<()> {
        let definition = crate::definitions::read_definition(&self.db, &gone.child)?;
        let Some(_) = definition else { return Ok(()) };
        let sql = format!("{} WHERE {}", gone.action(None), gone.is_child);
        let outcome = self.db.prepare(&sql)?.run(&gone.bound());
        self.tolerate(outcome.map_err(Refused::from))
    }

    /// A child that a constraint keeps as it is stays an orphan.
    fn tolerate(&self, outcome: Result<(), Refused>) -> Result<()> {
        match outcome {
            Err(Refused::Constraint(reason)) if self.db.is_autocommit() => Err(rolled_back(&reason)),
            Ok(()) | Err(Refused::Constraint(_) | Refused::Part) => Ok(()),
            Err(Refused::Error(error)) => Err(error),
        }
    }
}

/// The columns that a statement gives for a packed key; `None` if it gives no row.
fn values_of(statement: &mut Statement, packed: &[u8]) -> Result<Option<Vec<Owned>>> {
    clocks::bind_key(statement, 1, packed)?;
    let found = statement.step()?;
    let values = found.then(|| {
        (0..statement.column_count()).map(|i| from_sqlite(statement.column(i)).to_value()).collect()
    });
    statement.reset()?;
    Ok(values)
}

/// The packed keys that a query gives; keys with NULL are left out, for such rows never sync.
fn keys_of(mut query: Statement, table: &Table) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    while query.step()? {
        let mut key = Vec::new();
        if table.pack_key(&mut key, |i| from_sqlite(query.column(i))).is_ok() {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The keys in the tree of clocks of the children of a row.
fn children_of(replica: &Replica, references: &mut [Reference], packed: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut children = Vec::new();
    for reference in references {
        let Some(table) = replica.catalog.table_named(&reference.child) else { continue };
        let Some(values) = values_of(&mut reference.parent, packed)? else { continue };
        let mut query = children_query(&replica.db, &table, &reference.is_child)?;
        for (i, value) in values.iter().enumerate() {
            query.bind(i + 1, to_sqlite(value.borrow()))?;
        }
        children.extend(keys_of(query, &table)?.iter().map(|key| clocks::pk(table.id, key)));
    }
    Ok(children)
}
