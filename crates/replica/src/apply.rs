//! Apply: takes a payload in. Fetch, decide, write, never interleaved for a row: its clock is read, the pure rule
//! decides, then base row and clock are written.
//!
//! While we write in a transaction of our own, foreign keys are not enforced by SQLite, so that cascades do not act
//! behind the clocks' back; where the app has them on, the parents of every written row are looked up by us. If no
//! trigger but ours watches a synced table, triggers are off; otherwise they run, so that the app's search index
//! stays right, and our own notes of the rows we wrote are taken back.
//!
//! A row that a constraint does not let in waits in the quarantine, with its reason, and is tried again after every
//! apply. All others go on.

use crate::changes::{ChangeWriter, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::error::{Error, Result};
use crate::quarantine::Quarantine;
use crate::replica::Replica;
use crate::storage::{self, quote_identifier};
use crate::table::Table;
use crate::value::{from_sqlite, to_sqlite};
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, Time};
use cloudsync_core::key;
use cloudsync_core::merge::{Action, decide};
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::limits::CLOCK_AHEAD_MS_MAX;
use cloudsync_protocol::payload::{Group, Opened, Payload};
use cloudsync_sqlite_ffi::{Connection, Statement, Value, bindings};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Where a payload comes from, and how far it is trusted.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Who the changes are from.
    pub origin: Origin,
    /// The latest time that a change may bear; `None` if the sender has checked that.
    pub time_max: Option<Time>,
    /// Whether cells with equal clocks and different values may exist: they do only where clones are not detected.
    pub ties: bool,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows that changed here.
    pub rows: u64,
    /// Rows that wait in the quarantine.
    pub quarantined: u64,
    /// Rows of which only a part came, while the rest is not known here.
    pub parts: u64,
}

impl Replica {
    /// Applies a payload that travelled by hand: all of it or nothing. Gives the number of rows that changed.
    ///
    /// # Errors
    /// When the payload is damaged or breaks the rules.
    pub fn payload_apply(&mut self, payload: &[u8]) -> Result<u64> {
        self.require()?;
        let opened = Opened::open(payload, &crate::codec::Zstd)?;
        let decoded = opened.payload()?;
        self.with_apply_settings(|replica| {
            replica.transact(|replica| {
                replica.fold_in_transaction()?;
                let bound = replica.server_now_ms()?.saturating_add(CLOCK_AHEAD_MS_MAX);
                let source = Source { origin: Origin::File, time_max: Some(Time(bound)), ties: true };
                Ok(replica.apply_in_transaction(&[decoded], source)?.rows)
            })
        })
    }

    /// Runs `act` with foreign keys and, where nobody needs them, triggers off; both are put back afterwards.
    /// Inside the app's transaction nothing is changed.
    pub fn with_apply_settings<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if !self.db.is_autocommit() {
            return act(self);
        }
        let settings = ApplySettings::set(self.db)?;
        self.checks_parents = settings.foreign_keys;
        let outcome = act(self);
        self.checks_parents = false;
        outcome
    }

    /// Applies payloads as one version. The caller holds the transaction, and everything is folded.
    ///
    /// # Errors
    /// When a payload breaks the rules or the file cannot be written; the transaction must then be undone.
    pub fn apply_in_transaction(&mut self, payloads: &[Payload<'_>], source: Source) -> Result<Applied> {
        self.catalog.follow_schema(&self.db)?;
        self.sites.refresh(&self.db)?;
        let mut applier = Applier::open(self, source)?;
        for payload in payloads {
            applier.payload(self, payload)?;
        }
        // Parts that wait already have asked for their rows.
        let parts = applier.applied.parts;
        applier.retry_quarantine(self)?;
        applier.applied.parts = parts;
        applier.finish(self)
    }
}

/// The connection's settings while an apply runs.
struct ApplySettings {
    db: Connection,
    foreign_keys: bool,
    triggers: bool,
}

impl ApplySettings {
    fn set(db: Connection) -> Result<Self> {
        let foreign_keys = db.set_foreign_keys_enabled(false)?;
        let mut settings = Self { db, foreign_keys, triggers: true };
        if !has_user_triggers(&db)? {
            settings.triggers = db.set_triggers_enabled(false)?;
        }
        Ok(settings)
    }
}

impl Drop for ApplySettings {
    fn drop(&mut self) {
        // These calls fail only on a connection that is not open.
        let _ = self.db.set_foreign_keys_enabled(self.foreign_keys);
        let _ = self.db.set_triggers_enabled(self.triggers);
    }
}

/// True when a trigger that is not ours watches a synced table.
fn has_user_triggers(db: &Connection) -> Result<bool> {
    if !storage::exists(db)? {
        return Ok(true);
    }
    // language=SQLite
    let sql = "SELECT 1 FROM main.sqlite_master AS m JOIN main.cloudsync_tables AS t ON m.tbl_name = t.name COLLATE NOCASE \
               WHERE m.type = 'trigger' AND m.name NOT LIKE 'cloudsync\\_%' ESCAPE '\\' \
               UNION ALL SELECT 1 FROM temp.sqlite_master WHERE type = 'trigger' LIMIT 1";
    Ok(db.query_i64(sql, &[])?.is_some())
}

/// Why a row could not be written.
enum Refused {
    /// A constraint, in SQLite's words.
    Constraint(String),
    /// Only a part of the row came.
    Part,
    /// The file cannot be written, or the payload breaks the rules.
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<cloudsync_sqlite_ffi::Error> for Refused {
    fn from(error: cloudsync_sqlite_ffi::Error) -> Self {
        if error.is_constraint() { Self::Constraint(error.message) } else { Self::Error(error.into()) }
    }
}

struct Applier {
    db: Connection,
    source: Source,
    clocks: ClockStore,
    changes: ChangeWriter,
    writers: HashMap<i64, Writer>,
    quarantine: Quarantine,
    applied: Applied,
    floor: Time,
    /// Rows written while the app's triggers run: our own notes of them are taken back.
    written: Option<HashSet<Vec<u8>>>,
    log_before: i64,
}

impl Applier {
    fn open(replica: &mut Replica, source: Source) -> Result<Self> {
        let db = replica.db;
        let triggers = db.set_triggers_enabled(false)?;
        db.set_triggers_enabled(triggers)?;
        Ok(Self {
            db,
            source,
            clocks: ClockStore::open(&db)?,
            changes: ChangeWriter::begin(&db, replica.now_ms())?,
            writers: HashMap::new(),
            quarantine: Quarantine::open(&db)?,
            applied: Applied::default(),
            floor: Time(storage::get_u64(&db, "floor")?),
            written: triggers.then(HashSet::new),
            log_before: db.query_i64("SELECT max(rowid) FROM main.cloudsync_log", &[])?.unwrap_or(0),
        })
    }

    fn payload(&mut self, replica: &mut Replica, payload: &Payload<'_>) -> Result<()> {
        let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&self.db, *site));
        let sites = sites.collect::<Result<Vec<_>>>()?;
        let mut waiting = Vec::new();
        for (at, group) in payload.groups().iter().enumerate() {
            let Some(target) = Target::of(replica, group, &sites) else { continue };
            let mut order: Vec<_> = (0..group.rows()).collect();
            if !order.windows(2).all(|pair| group.key(pair[0]) <= group.key(pair[1])) {
                order.sort_by(|a, b| group.key(*a).cmp(group.key(*b)));
            }
            for row in order {
                if let Some(refused) = self.row(replica, group, &target, row)? {
                    waiting.push((at, row, refused));
                }
            }
        }
        self.wait(replica, payload, &sites, waiting)
    }

    /// Rows that were refused are tried again while that brings any of them in: a parent or the loser of a UNIQUE
    /// value may have come after them. The rest goes into the quarantine.
    fn wait(
        &mut self,
        replica: &mut Replica,
        payload: &Payload<'_>,
        sites: &[SiteOrdinal],
        mut waiting: Vec<(usize, usize, String)>,
    ) -> Result<()> {
        loop {
            let before = waiting.len();
            let mut still = Vec::new();
            for (at, row, _) in waiting {
                let group = &payload.groups()[at];
                let Some(target) = Target::of(replica, group, sites) else { continue };
                if let Some(refused) = self.row(replica, group, &target, row)? {
                    still.push((at, row, refused));
                }
            }
            waiting = still;
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        for (at, row, reason) in waiting {
            let group = &payload.groups()[at];
            self.quarantine.add(replica.server_now_ms()?, payload, group, row, &reason, self.source.origin.code())?;
            self.applied.quarantined += 1;
        }
        Ok(())
    }

    /// Takes in one row; gives the reason when it must wait.
    fn row(&mut self, replica: &mut Replica, group: &Group<'_>, target: &Target, row: usize) -> Result<Option<String>> {
        let packed = group.key(row);
        if key::check(packed, target.table.key.len()).is_err() {
            let table = &target.table.name;
            return Err(Error::Protocol(format!("payload refused: a key of table \"{table}\" is damaged")));
        }
        let incoming = target.clock(group, row, replica)?;
        self.check_time(&incoming, &target.table)?;
        let pk = clocks::pk(target.table.id, packed);
        let stored = self.clocks.read(&pk)?;
        let row = Row { group, target, packed, at: row };
        let writer = match self.writers.get_mut(&target.table.id) {
            Some(writer) => writer,
            None => {
                let writer = Writer::new(self.db, &target.table, replica.checks_parents)?;
                self.writers.entry(target.table.id).or_insert(writer)
            }
        };
        let mut failed = None;
        let ties = self.source.ties;
        let mut tie = |column: ColumnNumber| {
            ties && writer.incoming_is_larger(&row, column).unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        };
        let decision = decide(stored.as_ref(), &incoming, group.whole(), replica.sites.ids(), &mut tie);
        if let Some(error) = failed {
            return Err(error);
        }
        match writer.carry_out(&row, &decision.action) {
            Ok(()) => {}
            Err(Refused::Constraint(reason)) => return Ok(Some(reason)),
            Err(Refused::Part) => {
                self.applied.parts += 1;
                return Ok(Some("waits for the rest of the row".to_owned()));
            }
            Err(Refused::Error(error)) => return Err(error),
        }
        self.floor = self.floor.max(incoming.time_max());
        let mask = match (&decision.action, &decision.clock) {
            (Action::Keep, None) | (Action::NeedWhole | Action::RefuseJump, _) => return Ok(None),
            (Action::Update(columns), _) => Mask::Columns(columns.clone()),
            _ => Mask::Whole,
        };
        if let Some(clock) = &decision.clock {
            self.clocks.write(&pk, clock, stored.is_none())?;
        }
        self.changes.push(target.table.id, packed, &mask)?;
        self.applied.rows += 1;
        if let Some(written) = &mut self.written {
            written.insert(pk);
        }
        Ok(None)
    }

    fn check_time(&self, incoming: &RowClock, table: &Table) -> Result<()> {
        // What was accepted once must stay acceptable when it is replaced (S4 of the pitfalls: no livelock).
        let bound = self.source.time_max.map(|max| max.max(Time(self.floor.0.saturating_add(1_000))));
        if bound.is_some_and(|bound| incoming.time_max() > bound) {
            return Err(Error::Protocol(format!(
                "clock_ahead: a change of table \"{}\" is stamped {} ms since 1970, more than {CLOCK_AHEAD_MS_MAX} ms ahead of the clock here: set the clocks right and encode again",
                table.name,
                incoming.time_max().0
            )));
        }
        Ok(())
    }

    /// Tries the rows that wait, oldest first; what gets in leaves the quarantine.
    fn retry_quarantine(&mut self, replica: &mut Replica) -> Result<()> {
        for waiting in self.quarantine.read()? {
            let opened = Opened::open(&waiting.change, &crate::codec::Zstd)?;
            let payload = opened.payload()?;
            let sites = payload.sites().iter().map(|site| replica.sites.ordinal(&self.db, *site));
            let sites = sites.collect::<Result<Vec<_>>>()?;
            let mut refused = None;
            for group in payload.groups() {
                let Some(target) = Target::of(replica, group, &sites) else { continue };
                for row in 0..group.rows() {
                    refused = self.row(replica, group, &target, row)?.or(refused);
                }
            }
            match refused {
                None => self.quarantine.remove(waiting.id)?,
                Some(reason) => self.quarantine.keep(waiting.id, &reason)?,
            }
        }
        Ok(())
    }

    fn finish(self, replica: &mut Replica) -> Result<Applied> {
        let base = storage::get_u64(&self.db, "cursor")?;
        self.changes.finish(&self.db, self.source.origin, base)?;
        self.clocks.finish(&self.db)?;
        if self.source.origin != Origin::File {
            storage::set_u64(&self.db, "floor", self.floor.0)?;
        }
        if let Some(written) = &self.written {
            take_back_notes(replica, self.log_before, written)?;
        }
        let (mut applied, waiting) = (self.applied, self.quarantine.count()?);
        applied.quarantined = applied.quarantined.min(waiting);
        Ok(applied)
    }
}

/// Removes our own notes of the rows that the apply wrote. What the app's triggers wrote to other rows stays noted.
fn take_back_notes(replica: &mut Replica, after: i64, written: &HashSet<Vec<u8>>) -> Result<()> {
    let mut select = replica.db.prepare("SELECT rowid, * FROM main.cloudsync_log WHERE rowid > ?1")?;
    select.bind(1, Value::Integer(after))?;
    let mut own = Vec::new();
    while select.step()? {
        let Some(table) = replica.catalog.layout_table(&replica.db, select.column_i64(2))? else { continue };
        let mut key = Vec::new();
        if table.pack_key(&mut key, |i| from_sqlite(select.column(4 + i))).is_ok()
            && written.contains(&clocks::pk(table.id, &key))
        {
            own.push(select.column_i64(0));
        }
    }
    drop(select);
    let mut delete = replica.db.prepare("DELETE FROM main.cloudsync_log WHERE rowid = ?1")?;
    own.into_iter().try_for_each(|rowid| Ok(delete.run(&[Value::Integer(rowid)])?))
}

/// What a group of the payload means here.
struct Target {
    table: Rc<Table>,
    /// The group's columns by our numbers; `None` for those that this table does not have.
    columns: Vec<Option<ColumnNumber>>,
    numbers: ColumnSet,
    sites: Vec<SiteOrdinal>,
}

impl Target {
    /// `None` for a table that does not sync here: its rows come when it does.
    fn of(replica: &Replica, group: &Group<'_>, sites: &[SiteOrdinal]) -> Option<Self> {
        let table = replica.catalog.table_named(group.table())?;
        let columns: Vec<_> =
            group.columns().iter().map(|name| table.cell_named(name).map(|cell| cell.number)).collect();
        let numbers = columns.iter().flatten().copied().collect();
        Some(Self { table, columns, numbers, sites: sites.to_vec() })
    }

    /// The clock of a row, by our numbers and ordinals.
    fn clock(&self, group: &Group<'_>, row: usize, replica: &Replica) -> Result<RowClock> {
        let map = |clock: Clock| -> Result<Clock> {
            let site = self.sites.get(clock.site.0 as usize).copied();
            let site = site.ok_or_else(|| Error::Protocol("payload refused: a clock names an unknown site".into()))?;
            Ok(Clock::new(clock.time, site))
        };
        let (life, common) = (group.life(row), map(group.clock(row))?);
        if life % 2 == 0 {
            return Ok(RowClock::tombstone(life, common));
        }
        let wire = group.exceptions(row);
        if wire.is_empty() {
            return Ok(RowClock::alive(life, common, self.numbers.clone()));
        }
        let mut exceptions: HashMap<ColumnNumber, Clock> = HashMap::new();
        for (at, clock) in wire {
            if let Some(Some(column)) = self.columns.get(usize::from(*at)) {
                exceptions.insert(*column, map(*clock)?);
            }
        }
        let cells: Vec<_> =
            self.numbers.iter().map(|column| (column, exceptions.get(&column).copied().unwrap_or(common))).collect();
        Ok(RowClock::from_cells(life, common, &cells, replica.sites.ids()))
    }
}

/// One row of a payload on its way in.
struct Row<'p> {
    group: &'p Group<'p>,
    target: &'p Target,
    packed: &'p [u8],
    at: usize,
}

impl Row<'_> {
    fn value(&self, column: ColumnNumber) -> Option<ValueRef<'_>> {
        let at = self.target.columns.iter().position(|known| *known == Some(column))?;
        Some(self.group.value(self.at, at))
    }
}

/// Writes base rows of one table, with statements prepared once per set of columns.
struct Writer {
    db: Connection,
    inserts: HashMap<ColumnSet, Statement>,
    updates: HashMap<ColumnSet, Statement>,
    delete: Statement,
    /// Finds a parent that is missing, where the app enforces foreign keys.
    orphan: Option<Statement>,
}

impl Writer {
    fn new(db: Connection, table: &Table, parents: bool) -> Result<Self> {
        let sql = format!("DELETE FROM {} WHERE {}", table.quoted(), table.key_condition(1));
        Ok(Self {
            db,
            inserts: HashMap::new(),
            updates: HashMap::new(),
            delete: db.prepare(&sql)?,
            orphan: if parents { orphan_query(&db, table)? } else { None },
        })
    }

    fn carry_out(&mut self, row: &Row<'_>, action: &Action) -> Result<(), Refused> {
        match action {
            Action::Keep => Ok(()),
            Action::NeedWhole => Err(Refused::Part),
            Action::RefuseJump => Err(Refused::Constraint("the row's causal length leaps beyond its bound".into())),
            Action::Delete => self.delete(row),
            Action::Insert | Action::Update(_) if self.orphan.is_none() => self.write(row, action),
            Action::Insert | Action::Update(_) | Action::Replace => {
                let savepoint = self.db.savepoint("cloudsync_row")?;
                if *action == Action::Replace {
                    self.delete(row)?;
                    self.write(row, &Action::Insert)?;
                } else {
                    self.write(row, action)?;
                }
                self.check_parents(row)?;
                Ok(savepoint.commit()?)
            }
        }
    }

    fn write(&mut self, row: &Row<'_>, action: &Action) -> Result<(), Refused> {
        match action {
            Action::Update(columns) => {
                if self.update(row, columns)? {
                    return Ok(());
                }
                // The clock says alive and the row is gone: it was removed while nobody tracked.
                Err(Refused::Part)
            }
            _ => self.insert(row),
        }
    }

    fn delete(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        clocks::bind_key(&mut self.delete, 1, row.packed)?;
        self.delete.step()?;
        Ok(self.delete.reset()?)
    }

    fn insert(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        let columns = &row.target.numbers;
        if !self.inserts.contains_key(columns) {
            let sql = insert_sql(&row.target.table, columns);
            self.inserts.insert(columns.clone(), self.db.prepare(&sql)?);
        }
        let Some(insert) = self.inserts.get_mut(columns) else { return Ok(()) };
        bind_row(insert, row, columns)?;
        let outcome = insert.step();
        insert.reset()?;
        match outcome {
            Ok(_) => Ok(()),
            Err(error) if is_key_taken(&error) => {
                // The row exists without a clock: it was written while nobody tracked.
                self.update(row, columns)?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// False when there is no such row.
    fn update(&mut self, row: &Row<'_>, columns: &ColumnSet) -> Result<bool, Refused> {
        if columns.is_empty() {
            return Ok(true);
        }
        if !self.updates.contains_key(columns) {
            let sql = update_sql(&row.target.table, columns);
            self.updates.insert(columns.clone(), self.db.prepare(&sql)?);
        }
        let Some(update) = self.updates.get_mut(columns) else { return Ok(true) };
        bind_row(update, row, columns)?;
        let outcome = update.step();
        update.reset()?;
        outcome?;
        Ok(self.db.changes() > 0)
    }

    fn check_parents(&mut self, row: &Row<'_>) -> Result<(), Refused> {
        let Some(orphan) = &mut self.orphan else { return Ok(()) };
        clocks::bind_key(orphan, 1, row.packed)?;
        let missing = orphan.step()?.then(|| orphan.column(0).as_str().unwrap_or_default().to_owned());
        orphan.reset()?;
        match missing {
            None => Ok(()),
            Some(parent) => Err(Refused::Constraint(format!("FOREIGN KEY constraint failed: the parent in \"{parent}\" is missing"))),
        }
    }

    /// Whether the incoming value of a cell is larger than the stored one, for clocks that are equal.
    fn incoming_is_larger(&mut self, row: &Row<'_>, column: ColumnNumber) -> Result<bool> {
        let Some(incoming) = row.value(column) else { return Ok(false) };
        let table = &row.target.table;
        let Some(cell) = table.cell(column) else { return Ok(false) };
        let name = quote_identifier(cell.column.name());
        let mut select =
            self.db.prepare(&format!("SELECT {name} FROM {} WHERE {}", table.quoted(), table.key_condition(1)))?;
        clocks::bind_key(&mut select, 1, row.packed)?;
        if !select.step()? {
            return Ok(true);
        }
        Ok(incoming.tie_order(&from_sqlite(select.column(0))) == Ordering::Greater)
    }
}

/// Key parts first, then the cells; a key column that travels as a cell takes the cell's value.
fn bind_row(statement: &mut Statement, row: &Row<'_>, columns: &ColumnSet) -> Result<(), Refused> {
    clocks::bind_key(statement, 1, row.packed)?;
    let first = row.target.table.key.len() + 1;
    for (i, column) in columns.iter().enumerate() {
        let value = row.value(column).map_or(Value::Null, to_sqlite);
        statement.bind(first + i, value)?;
    }
    Ok(())
}

fn insert_sql(table: &Table, columns: &ColumnSet) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let literal = |cell: Option<usize>| cell.is_some_and(|cell| columns.contains(table.cells[cell].number));
    for (i, key) in table.key.iter().enumerate().filter(|(_, key)| !literal(key.cell)) {
        names.push(quote_identifier(&key.name));
        values.push(format!("?{}", i + 1));
    }
    for (i, cell) in columns.iter().filter_map(|number| table.cell(number)).enumerate() {
        names.push(quote_identifier(cell.column.name()));
        values.push(format!("?{}", table.key.len() + 1 + i));
    }
    // The last parameter may be unused when a key column travels as a cell; naming all keeps the numbers fixed.
    format!("INSERT INTO {}({}) VALUES({})", table.quoted(), names.join(", "), values.join(", "))
}

fn update_sql(table: &Table, columns: &ColumnSet) -> String {
    let cells = columns.iter().filter_map(|number| table.cell(number)).enumerate();
    let sets: Vec<_> = cells
        .map(|(i, cell)| format!("{} = ?{}", quote_identifier(cell.column.name()), table.key.len() + 1 + i))
        .collect();
    format!("UPDATE {} SET {} WHERE {}", table.quoted(), sets.join(", "), table.key_condition(1))
}

fn is_key_taken(error: &cloudsync_sqlite_ffi::Error) -> bool {
    matches!(error.code, bindings::SQLITE_CONSTRAINT_PRIMARYKEY | bindings::SQLITE_CONSTRAINT_ROWID)
}

/// A query that gives the name of a parent table in which the row's parent is missing; `None` when the table has no
/// foreign keys.
fn orphan_query(db: &Connection, table: &Table) -> Result<Option<Statement>> {
    if !table.definition.has_foreign_keys {
        return Ok(None);
    }
    // language=SQLite
    let sql = "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq";
    let mut keys: Vec<(i64, String, Vec<(String, Option<String>)>)> = Vec::new();
    db.prepare(sql)?.for_each(&[Value::from(table.name.as_str())], |row| -> Result<()> {
        let text = |i| row.column(i).as_str().map(str::to_owned);
        let pair = (text(2).unwrap_or_default(), text(3));
        match keys.last_mut() {
            Some((id, _, pairs)) if *id == row.column_i64(0) => pairs.push(pair),
            _ => keys.push((row.column_i64(0), text(1).unwrap_or_default(), vec![pair])),
        }
        Ok(())
    })?;
    let mut queries = Vec::new();
    for (_, parent, pairs) in keys {
        queries.extend(orphan_sql(db, table, &parent, &pairs)?);
    }
    if queries.is_empty() {
        return Ok(None);
    }
    Ok(Some(db.prepare(&queries.join(" UNION ALL "))?))
}

fn orphan_sql(db: &Connection, table: &Table, parent: &str, pairs: &[(String, Option<String>)]) -> Result<Option<String>> {
    let Some(definition) = crate::table::read_definition(db, parent)? else { return Ok(None) };
    let key = Table::key_columns(&definition);
    let mut equal = Vec::new();
    let mut given = Vec::new();
    for (i, (from, to)) in pairs.iter().enumerate() {
        let to = to.clone().or_else(|| key.get(i).map(|column| column.name().to_owned()));
        let Some(to) = to else { return Ok(None) };
        equal.push(format!("p.{} = c.{}", quote_identifier(&to), quote_identifier(from)));
        given.push(format!("c.{} IS NOT NULL", quote_identifier(from)));
    }
    let of_row = table.key.iter().enumerate().map(|(i, key)| format!("c.{} = ?{}", quote_identifier(&key.name), i + 1));
    Ok(Some(format!(
        "SELECT {} FROM {} AS c WHERE {} AND {} AND NOT EXISTS(SELECT 1 FROM main.{} AS p WHERE {})",
        storage::quote_text(&definition.name),
        table.quoted(),
        of_row.collect::<Vec<_>>().join(" AND "),
        given.join(" AND "),
        quote_identifier(&definition.name),
        equal.join(" AND "),
    )))
}
