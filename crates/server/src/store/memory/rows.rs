//! The rows of the model, and how changes become part of them.

use super::{Stop, damaged, refuse};
use cloudsync_core::clock::{Clock, ColumnNumber, RowClock, SiteOrdinal, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::key::{self, KeyCollation};
use cloudsync_core::merge::rebase::rebase;
use cloudsync_core::merge::{Action, Algorithm, Travelled, decide, received};
use cloudsync_core::value::Value;
use cloudsync_protocol::message::{Reason, Request};
use cloudsync_protocol::payload::{Encoder, Group, Header, Opened};
use cloudsync_protocol::range::{Check, Checked, Digester, Finding, Range, RangeDigest, column_order, shape};
use cloudsync_protocol::schema::{Schema, TableSchema, key_names};
use cloudsync_protocol::verdict::{State, Verdict, Verdicts};
use cloudsync_replica::{NOT_ALLOWED, Zstd};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// The name of a table and a packed key.
type RowId = (String, Vec<u8>);

#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub(super) version: u64,
    /// Indexed by the ordinals in clocks.
    sites: Vec<SiteId>,
    /// Sites of which others brought values.
    relayed: BTreeSet<SiteId>,
    rows: BTreeMap<RowId, Row>,
    /// Which version changed which row, and from which site the change came.
    changes: Vec<(u64, SiteId, RowId)>,
    /// Changes that are not in, and why; an empty reason says that only a part of the row came.
    waiting: Vec<(Change, String)>,
    time_max: Time,
}

#[derive(Debug, Clone)]
struct Row {
    clock: RowClock,
    values: BTreeMap<ColumnNumber, Value>,
}

#[derive(Debug, Clone, PartialEq)]
struct Change {
    id: RowId,
    from: SiteId,
    algorithm: Algorithm,
    whole: bool,
    inserted: bool,
    clock: RowClock,
    values: BTreeMap<ColumnNumber, Value>,
}

impl Rows {
    /// No rows; the first version is 1, for a cursor of 0 asks for everything.
    pub(super) fn new() -> Self {
        Self { version: 1, ..Self::default() }
    }

    /// Takes a payload in, all of it or nothing. `time_max` is the latest time that a change may bear.
    pub(super) fn apply(
        &mut self,
        schema: &Schema,
        from: SiteId,
        payload: &[u8],
        time_max: Time,
    ) -> Result<(), Stop> {
        let opened = Opened::open(payload, &Zstd).map_err(damaged)?;
        let payload = opened.payload().map_err(damaged)?;
        let ordinals: Vec<_> = payload.sites().iter().map(|site| self.ordinal(*site)).collect();
        let mut changes = Vec::new();
        for group in payload.groups() {
            for row in 0..group.rows() {
                changes.push(self.read(schema, group, row, &ordinals, from)?);
            }
        }
        // What was accepted once must stay acceptable when it is replaced.
        let bound = time_max.max(Time(self.time_max.0 + 1_000));
        if changes.iter().any(|change| change.clock.time_max() > bound) {
            return refuse(Reason::ClockSkew, "clock_ahead: a change is stamped too far in the future");
        }
        self.version += 1;
        let known = |change: &Change| self.waiting.iter().any(|(waiting, _)| waiting == change);
        changes.retain(|change| !known(change));
        self.waiting.extend(changes.into_iter().map(|change| (change, String::new())));
        self.merge_waiting(schema);
        Ok(())
    }

    /// The changes of a site that wait.
    pub(super) fn waiting_of(&self, site: SiteId) -> u64 {
        self.waiting.iter().filter(|(change, _)| change.from == site).count() as u64
    }

    /// Refuses what of a site's changes a constraint does not let in; gives the verdicts, encoded.
    pub(super) fn judge(&mut self, schema: &Schema, site: SiteId) -> Vec<u8> {
        let waiting = self.waiting.iter().filter(|(change, _)| change.from == site);
        let reasons: BTreeMap<RowId, String> =
            waiting.fold(BTreeMap::new(), |mut reasons, (change, reason)| {
                let known: &mut String = reasons.entry(change.id.clone()).or_default();
                *known = std::mem::take(known).max(reason.clone());
                reasons
            });
        let is_refused = |id: &RowId| reasons.get(id).is_some_and(|reason| !reason.is_empty());
        self.waiting.retain(|(change, _)| change.from != site || !is_refused(&change.id));
        let mut encoder = Encoder::new();
        let mut list = Vec::new();
        for (id, reason) in &reasons {
            let state = match (reason.as_str(), self.rows.get(id), schema.table(&id.0)) {
                ("", ..) => State::Wanted,
                (_, Some(row), Some(table)) => {
                    self.write(&mut encoder, table, &id.1, row);
                    State::Given
                }
                _ => State::Absent,
            };
            list.push(Verdict { table: &id.0, key: &id.1, reason, state });
        }
        if list.is_empty() {
            return Vec::new();
        }
        let payload = if encoder.is_empty() { Vec::new() } else { encoder.finish(Header::default(), &Zstd) };
        Verdicts { list, payload: &payload, more: false }.encode()
    }

    fn ordinal(&mut self, site: SiteId) -> SiteOrdinal {
        let at = self.sites.iter().position(|known| *known == site).unwrap_or(self.sites.len());
        if at == self.sites.len() {
            self.sites.push(site);
        }
        SiteOrdinal(at as u32)
    }

    fn read(
        &self,
        schema: &Schema,
        group: &Group<'_>,
        row: usize,
        ordinals: &[SiteOrdinal],
        from: SiteId,
    ) -> Result<Change, Stop> {
        let Some(table) = schema.table(group.table()) else {
            return refuse(
                Reason::NeedSchema,
                format!("table \"{}\" does not sync on the server", group.table()),
            );
        };
        if key::check(group.key(row), key_names(table).len(), |_| KeyCollation::Binary).is_err() {
            return refuse(Reason::BadPayload, format!("a key of table \"{}\" is damaged", table.name));
        }
        let Some(algorithm) = Algorithm::named(&table.algorithm) else {
            return refuse(Reason::SchemaConflict, format!("unknown algorithm {}", table.algorithm));
        };
        let clock = |clock: Clock| Clock::new(clock.time, ordinals[clock.site.0 as usize]);
        let common = clock(group.clock(row));
        let (mut cells, mut values) = (BTreeMap::new(), BTreeMap::new());
        for (at, name) in group.columns().iter().enumerate() {
            let Some(number) = number(table, name) else {
                return refuse(
                    Reason::NeedSchema,
                    format!("column \"{name}\" of table \"{}\" does not sync on the server", table.name),
                );
            };
            let exception = group.exceptions(row).iter().find(|(column, _)| usize::from(*column) == at);
            cells.insert(number, exception.map_or(common, |(_, other)| clock(*other)));
            values.insert(number, group.value(row, at).to_value());
        }
        let cells: Vec<_> = cells.into_iter().collect();
        let last = cells.iter().fold(common, |last, (_, cell)| last.latest(*cell, &self.sites));
        let marks = group.marks(row).map(|marks| marks.map(clock));
        let life = group.life(row);
        let travelled = Travelled { life, row: common, cells: &cells, last, marks };
        let Some(clock) = received(algorithm, &travelled, &self.sites) else {
            return refuse(
                Reason::BadPayload,
                format!("a row of table \"{}\" merges by another algorithm", table.name),
            );
        };
        let id = (table.name.clone(), group.key(row).to_vec());
        let (whole, inserted) = (group.whole(), group.inserted());
        Ok(Change { id, from, algorithm, whole, inserted, clock, values })
    }

    /// Merges what waits while that brings any of it in.
    fn merge_waiting(&mut self, schema: &Schema) {
        loop {
            let before = std::mem::take(&mut self.waiting);
            let count = before.len();
            for (change, _) in before {
                if let Err(reason) = self.merge(schema, &change) {
                    self.waiting.push((change, reason));
                }
            }
            if self.waiting.len() == count {
                return;
            }
        }
    }

    /// Merges a change into its row; the reason if it must wait, empty while only a part of the row is there.
    fn merge(&mut self, schema: &Schema, change: &Change) -> Result<(), String> {
        let stored = self.rows.get(&change.id);
        let mut values = stored.map(|row| row.values.clone()).unwrap_or_default();
        let mut tie = |column: ColumnNumber| match (change.values.get(&column), values.get(&column)) {
            (Some(theirs), Some(ours)) => theirs.borrow().tie_order(&ours.borrow()) == Ordering::Greater,
            (theirs, _) => theirs.is_some(),
        };
        let stored = stored.map(|row| row.clock.clone());
        let sender = self.sites.iter().position(|site| *site == change.from);
        let moved = match (&stored, sender, change.algorithm) {
            (Some(stored), Some(sender), Algorithm::Cls) => {
                rebase(stored, &change.clock, change.inserted, SiteOrdinal(sender as u32), &self.sites)
            }
            _ => None,
        };
        let (incoming, whole) = (moved.as_ref().unwrap_or(&change.clock), change.whole);
        let decision = decide(change.algorithm, stored.as_ref(), incoming, whole, &self.sites, &mut tie);
        match &decision.action {
            Action::NeedWhole => return Err(String::new()),
            Action::RefuseJump => return Err("the row's causal length leaps beyond its bound".into()),
            Action::Keep => {}
            Action::Delete => values.clear(),
            Action::Insert | Action::Replace => values = change.values.clone(),
            Action::Update(columns) | Action::Bury(columns) | Action::Revive(columns) => {
                let written = change.values.iter().filter(|(column, _)| columns.contains(**column));
                values.extend(written.map(|(column, value)| (*column, value.clone())));
            }
        }
        self.check_unique(schema, &change.id, &values)?;
        if moved.is_some() && change.inserted {
            // By nobody, so that its author hears of it too.
            self.changes.push((self.version, SiteId([0; 16]), change.id.clone()));
        }
        self.time_max = self.time_max.max(change.clock.time_max());
        if decision.action == Action::Keep && decision.clock.is_none() {
            return Ok(());
        }
        let brought: Vec<_> = match &decision.action {
            Action::Update(columns) => columns.iter().filter_map(|column| incoming.cell(column)).collect(),
            _ => incoming.clocks().collect(),
        };
        let sites = brought.into_iter().map(|clock| self.sites[clock.site.0 as usize]);
        self.relayed.extend(sites.filter(|site| *site != change.from));
        if let Some(clock) = decision.clock.or(stored) {
            self.rows.insert(change.id.clone(), Row { clock, values });
        }
        self.changes.push((self.version, change.from, change.id.clone()));
        Ok(())
    }

    /// Values that another row has already, in SQLite's words.
    fn check_unique(
        &self,
        schema: &Schema,
        id: &RowId,
        values: &BTreeMap<ColumnNumber, Value>,
    ) -> Result<(), String> {
        let Some(table) = schema.table(&id.0) else { return Ok(()) };
        for unique in &table.uniques {
            let of = |values: &BTreeMap<ColumnNumber, Value>| {
                let value = |name: &String| values.get(&number(table, name)?).cloned();
                let values: Option<Vec<_>> = unique.iter().map(value).collect();
                values.filter(|values| !values.contains(&Value::Null))
            };
            let taken = |(other, row): (&RowId, &Row)| {
                other.0 == id.0 && other != id && row.clock.is_alive() && of(&row.values) == of(values)
            };
            if of(values).is_some() && self.rows.iter().any(taken) {
                let names: Vec<_> = unique.iter().map(|name| format!("{}.{name}", table.name)).collect();
                return Err(format!("UNIQUE constraint failed: {}", names.join(", ")));
            }
        }
        Ok(())
    }

    /// Everything that a device does not know yet, as one payload; empty if there is nothing.
    pub(super) fn extract(&self, schema: &Schema, request: &Request<'_>) -> Vec<u8> {
        let mut encoder = Encoder::new();
        for id in self.news(request) {
            if let (Some(row), Some(table)) = (self.rows.get(id), schema.table(&id.0)) {
                self.write(&mut encoder, table, &id.1, row);
            }
        }
        let header = Header { first_version: 0, last_version: self.version, is_final: true };
        if encoder.is_empty() { Vec::new() } else { encoder.finish(header, &Zstd) }
    }

    fn news(&self, request: &Request<'_>) -> BTreeSet<&RowId> {
        if request.cursor > 0 {
            let is_new = |version: u64, from: SiteId| {
                version > request.cursor && (request.echo || from != request.site)
            };
            return self
                .changes
                .iter()
                .filter(|(v, from, _)| is_new(*v, *from))
                .map(|(_, _, id)| id)
                .collect();
        }
        let own = |clock: Clock| self.sites[clock.site.0 as usize] == request.site;
        let in_its_life = |row: &Row| row.clock.life <= 2;
        let only_own =
            |row: &Row| row.clock.clocks().all(own) && row.clock.marks.is_none() && in_its_life(row);
        let echo = request.echo || self.relayed.contains(&request.site);
        self.rows.iter().filter(|(_, row)| echo || !only_own(row)).map(|(id, _)| id).collect()
    }

    /// Compares ranges of a device with what is here, and gives all of those that differ.
    pub(super) fn check(&self, schema: &Schema, check: &Check<'_>, may_write: bool) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut findings = Vec::new();
        for range in &check.ranges {
            findings.push(match schema.table(range.table).filter(|table| shape(table) == range.shape) {
                None => Finding::Unknown,
                Some(table) => self.compare(&mut encoder, table, range, may_write),
            });
        }
        let payload = if encoder.is_empty() { Vec::new() } else { encoder.finish(Header::default(), &Zstd) };
        Checked { findings, payload: &payload }.encode()
    }

    fn compare(
        &self,
        encoder: &mut Encoder,
        table: &TableSchema,
        range: &Range<'_>,
        may_write: bool,
    ) -> Finding<'static> {
        let of_table = self.rows.iter().filter(|((name, _), _)| *name == table.name);
        if range.rows > 0 && of_table.clone().next().is_none() {
            return if may_write { Finding::Empty } else { Finding::Unknown };
        }
        let is_inside = |key: &[u8]| key > range.after && (range.until.is_empty() || key <= range.until);
        let rows: Vec<_> = of_table.filter(|((_, key), _)| is_inside(key)).collect();
        let mut digest = RangeDigest::default();
        for ((_, key), row) in &rows {
            let cells = column_order(table).into_iter().enumerate().map(|(at, place)| {
                let number = ColumnNumber(place as u16);
                let value = row.values.get(&number).filter(|_| row.clock.is_alive());
                (at, number, value.map(Value::borrow))
            });
            digest.push(Digester::default().row(key, &row.clock, &self.sites, cells));
        }
        if digest == (RangeDigest { rows: range.rows, digest: range.digest }) {
            return Finding::Equal;
        }
        for ((_, key), row) in rows {
            self.write(encoder, table, key, row);
        }
        Finding::Differs { until: &[] }
    }

    fn write(&self, encoder: &mut Encoder, table: &TableSchema, key: &[u8], row: &Row) {
        let sites: Vec<_> = self.sites.iter().map(|site| encoder.site(site)).collect();
        let sent = |clock: Clock| Clock::new(clock.time, sites[clock.site.0 as usize]);
        let common = sent(row.clock.common);
        let cells = row.clock.cells().map(|(_, clock)| sent(clock));
        let exceptions: Vec<_> = (0..).zip(cells).filter(|(_, clock)| *clock != common).collect();
        let columns: Vec<_> = row.clock.columns.iter().collect();
        let names: Vec<_> =
            columns.iter().map(|column| table.columns[usize::from(column.0)].name.as_str()).collect();
        let marks = row.clock.marks.as_deref().copied();
        let marks = marks.map(|marks| marks.map(sent));
        let values = columns.iter().map(|column| row.values[column].borrow());
        let group = encoder.marked_group(&table.name, &names, true, marks.as_ref());
        let life = row.clock.life;
        encoder.push_marked(group, key, life, common, marks.as_ref(), &exceptions, values);
    }
}

/// The verdicts on rows of which nobody may write any, encoded.
pub(super) fn denials<'p>(payloads: impl Iterator<Item = &'p [u8]>) -> Result<Vec<u8>, Stop> {
    let mut denied = BTreeSet::new();
    for payload in payloads.filter(|payload| !payload.is_empty()) {
        let opened = Opened::open(payload, &Zstd).map_err(damaged)?;
        for group in opened.payload().map_err(damaged)?.groups() {
            denied.extend((0..group.rows()).map(|row| (group.table().to_owned(), group.key(row).to_vec())));
        }
    }
    let list: Vec<_> = denied
        .iter()
        .map(|(table, key)| Verdict { table, key, reason: NOT_ALLOWED, state: State::Absent })
        .collect();
    if list.is_empty() { Ok(Vec::new()) } else { Ok(Verdicts { list, payload: &[], more: false }.encode()) }
}

/// A column's number is its place: columns are only ever added, at the end.
pub(super) fn number(table: &TableSchema, column: &str) -> Option<ColumnNumber> {
    let at = table.columns.iter().position(|known| known.name.eq_ignore_ascii_case(column))?;
    Some(ColumnNumber(at as u16))
}
