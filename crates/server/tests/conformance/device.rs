//! A device as small as one can be: rows in a map, merged by the rule that all replicas share.

mod receive;

use crate::subject::{NOW, Reply, Subject, ask};
use cloudsync_core::clock::{Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, Time};
use cloudsync_core::id::SiteId;
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::merge::{Algorithm, local, overlay};
use cloudsync_core::value::{Value, ValueRef};
use cloudsync_protocol::message::{Reason, Request, RoundId, Upload};
use cloudsync_protocol::payload::{Encoder, Header};
use cloudsync_protocol::range::Check;
use cloudsync_protocol::schema::{ColumnSchema, Schema, TableSchema};
use cloudsync_replica::Zstd;
use std::collections::BTreeMap;

/// `notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)`
pub(crate) fn notes() -> TableSchema {
    TableSchema {
        name: "notes".into(),
        algorithm: "cls".into(),
        strict: false,
        without_rowid: false,
        columns: vec![column("id", "TEXT", 1), column("title", "TEXT", 0), column("body", "TEXT", 0)],
        uniques: Vec::new(),
    }
}

pub(crate) fn column(name: &str, declared_type: &str, key_place: u16) -> ColumnSchema {
    ColumnSchema {
        name: name.into(),
        declared_type: declared_type.into(),
        not_null: key_place > 0,
        key_place,
        collation: "BINARY".into(),
        default: None,
    }
}

pub(crate) fn key(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    pack_part(&mut key, ValueRef::Text(text.as_bytes()), KeyCollation::Binary, true).unwrap();
    key
}

pub(crate) const TITLE: ColumnNumber = ColumnNumber(1);
pub(crate) const BODY: ColumnNumber = ColumnNumber(2);

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) clock: RowClock,
    pub(crate) values: BTreeMap<ColumnNumber, Value>,
}

/// What changed of a row.
#[derive(Debug, Clone)]
enum Part {
    /// It was inserted, and nothing was known of it.
    Inserted,
    /// All of it.
    Whole,
    Cells(ColumnSet),
}

/// One device with the first table of `schema`.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) site: SiteId,
    pub(crate) epoch: u64,
    pub(crate) nonce: u64,
    pub(crate) cursor: u64,
    pub(crate) position: Vec<u8>,
    pub(crate) echo: bool,
    pub(crate) schema: Schema,
    algorithm: Algorithm,
    /// The time of the last stamp, given or seen.
    pub(crate) time: u64,
    pub(crate) sites: Vec<SiteId>,
    pub(crate) rows: BTreeMap<Vec<u8>, Row>,
    waiting: Vec<(Vec<u8>, Row, bool)>,
    unsent: BTreeMap<Vec<u8>, Part>,
    round: Option<(RoundId, Vec<u8>)>,
    /// What the round on its way is made of.
    offered: BTreeMap<Vec<u8>, Part>,
    rounds: u8,
    /// Key and reason of what the server refused.
    pub(crate) rejected: Vec<(Vec<u8>, String)>,
}

/// What a sync brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Synced {
    pub(crate) turns: usize,
    pub(crate) rows: usize,
    pub(crate) quarantined: u64,
}

/// A row in a form that devices can compare: life, its own clock if no cell has one, value and clock by column, marks.
pub(crate) type Shown = (u64, Option<(u64, SiteId)>, BTreeMap<u16, (Value, u64, SiteId)>, Vec<(u64, SiteId)>);

impl Device {
    pub(crate) fn new(number: u8) -> Self {
        Self::merging_by(Algorithm::Cls, number)
    }

    /// A device whose table merges by this algorithm.
    pub(crate) fn merging_by(algorithm: Algorithm, number: u8) -> Self {
        let site = SiteId([number; 16]);
        Self {
            site,
            epoch: 0,
            nonce: 0,
            cursor: 0,
            position: Vec::new(),
            echo: false,
            schema: Schema { tables: vec![TableSchema { algorithm: algorithm.name().into(), ..notes() }] },
            algorithm,
            time: NOW,
            sites: vec![site],
            rows: BTreeMap::new(),
            waiting: Vec::new(),
            unsent: BTreeMap::new(),
            round: None,
            offered: BTreeMap::new(),
            rounds: 0,
            rejected: Vec::new(),
        }
    }

    fn tick(&mut self) -> Clock {
        self.time += 1;
        Clock::new(Time(self.time), SiteOrdinal(0))
    }

    pub(crate) fn is_alive(&self, id: &str) -> bool {
        self.rows.get(&key(id)).is_some_and(|row| row.clock.is_alive())
    }

    /// Inserts a row that does not exist.
    pub(crate) fn insert(&mut self, id: &str, title: &str, body: &str) {
        assert!(!self.is_alive(id));
        let (at, columns) = (self.tick(), [TITLE, BODY].into_iter().collect());
        let stored = self.rows.get(&key(id)).map(|row| &row.clock);
        let clock = local::insert(self.algorithm, stored, at, columns, &self.sites);
        let values = [(TITLE, text(title)), (BODY, text(body))].into();
        let part = if stored.is_none() { Part::Inserted } else { Part::Whole };
        self.rows.insert(key(id), Row { clock, values });
        self.unsent.entry(key(id)).and_modify(|known| *known = Part::Whole).or_insert(part);
    }

    /// Writes one cell of a row that exists.
    pub(crate) fn update(&mut self, id: &str, column: ColumnNumber, value: &str) {
        let now = self.tick();
        let row = self.rows.get_mut(&key(id)).unwrap();
        assert!(row.clock.is_alive());
        row.clock = overlay(&row.clock, &[(column, now)], &self.sites);
        row.values.insert(column, text(value));
        let part = self.unsent.entry(key(id)).or_insert_with(|| Part::Cells(ColumnSet::new()));
        if let Part::Cells(part) = part {
            part.insert(column);
        }
    }

    /// Deletes a row that exists.
    pub(crate) fn delete(&mut self, id: &str) {
        let now = self.tick();
        let row = self.rows.get_mut(&key(id)).unwrap();
        assert!(row.clock.is_alive());
        row.clock = local::delete(self.algorithm, &row.clock, now, &self.sites);
        if row.clock.columns.is_empty() {
            row.values.clear();
        }
        self.unsent.insert(key(id), Part::Whole);
    }

    /// Everything that the device has, for comparison.
    pub(crate) fn show(&self) -> BTreeMap<Vec<u8>, Shown> {
        let wire = |clock: Clock| (clock.time.0, self.sites[clock.site.0 as usize]);
        let show = |row: &Row| {
            let cells = row.clock.cells().map(|(column, clock)| {
                let (time, site) = wire(clock);
                (column.0, (row.values[&column].clone(), time, site))
            });
            let cells: BTreeMap<_, _> = cells.collect();
            let marks = row.clock.marks.iter().flat_map(|marks| marks.clocks()).map(wire).collect();
            (row.clock.life, cells.is_empty().then(|| wire(row.clock.common)), cells, marks)
        };
        self.rows.iter().map(|(key, row)| (key.clone(), show(row))).collect()
    }

    /// The text of a cell of a row that exists.
    pub(crate) fn text(&self, id: &str, column: ColumnNumber) -> String {
        match &self.rows[&key(id)].values[&column] {
            Value::Text(text) => String::from_utf8(text.clone()).unwrap(),
            other => panic!("no text: {other:?}"),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.values().filter(|row| row.clock.is_alive()).count()
    }

    /// A request without upload.
    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            site: self.site,
            epoch: self.epoch,
            nonce: self.nonce,
            now: NOW,
            cursor: self.cursor,
            position: &self.position,
            pull: true,
            echo: self.echo,
            fingerprint: self.schema.fingerprint(),
            schema: None,
            upload: None,
            check: Check::default(),
        }
    }

    /// The same with the schema.
    pub(crate) fn introduction(&self) -> Request<'_> {
        Request { schema: Some(self.schema.clone()), ..self.request() }
    }

    /// The next request of a sync: with what is unsent, under the id of the round that was not answered if there is one.
    pub(crate) fn round(&mut self) -> Request<'_> {
        if self.round.is_none() && !self.unsent.is_empty() {
            let payload = self.payload();
            self.round = Some((self.new_round(), payload));
            self.offered = std::mem::take(&mut self.unsent);
        }
        let upload = self.round.as_ref();
        let upload = upload.map(|(round, payload)| Upload {
            round: *round,
            chunk: 0,
            is_final: true,
            continues: false,
            base: 0,
            payload,
        });
        let schema = (self.epoch == 0).then(|| self.schema.clone());
        Request { schema, upload, ..self.request() }
    }

    pub(crate) fn new_round(&mut self) -> RoundId {
        self.rounds += 1;
        RoundId([self.rounds; 8])
    }

    /// What is unsent, as a payload.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let table = &self.schema.tables[0];
        for (key, part) in &self.unsent {
            let row = &self.rows[key];
            let mut columns = row.clock.columns.clone();
            if let (Part::Cells(part), true) = (part, row.clock.is_alive()) {
                columns.intersect_with(part);
            }
            let numbers: Vec<_> = columns.iter().collect();
            let names: Vec<_> =
                numbers.iter().map(|number| &*table.columns[usize::from(number.0)].name).collect();
            let mut wire =
                |clock: Clock| Clock::new(clock.time, encoder.site(&self.sites[clock.site.0 as usize]));
            let common = wire(row.clock.common);
            let clocks: Vec<_> =
                numbers.iter().map(|number| wire(row.clock.cell(*number).unwrap())).collect();
            let exceptions: Vec<_> = (0..).zip(clocks).filter(|(_, clock)| *clock != common).collect();
            // Somebody else may have deleted it meanwhile; a tombstone is always whole.
            let whole = !matches!(part, Part::Cells(_)) || !row.clock.is_alive();
            let marks = row.clock.marks.as_deref().map(|marks| marks.map(&mut wire));
            let group = encoder.marked_group(&table.name, &names, whole, marks.as_ref());
            if matches!(part, Part::Inserted) && row.clock.is_alive() && self.algorithm == Algorithm::Cls {
                encoder.mark_inserted(group);
            }
            let values = numbers.iter().map(|number| row.values[number].borrow());
            encoder.push_marked(group, key, row.clock.life, common, marks.as_ref(), &exceptions, values);
        }
        encoder.finish(Header::default(), &Zstd)
    }

    /// What is unsent, as a payload, and nothing is unsent any more.
    pub(crate) fn take_payload(&mut self) -> Vec<u8> {
        let payload = self.payload();
        self.unsent.clear();
        payload
    }

    /// Sends what is unsent and receives what is new, in as many turns as that takes.
    pub(crate) fn sync(&mut self, subject: &dyn Subject) -> Synced {
        let mut synced = Synced::default();
        loop {
            let took = match ask(subject.store(), &self.round()) {
                Reply::Refused(refusal) if refusal.reason == Reason::NeedSchema => {
                    let schema = Some(self.schema.clone());
                    ask(subject.store(), &Request { schema, ..self.round() }).took()
                }
                reply => reply.took(),
            };
            synced.turns += 1;
            synced.quarantined += took.accepted.map_or(0, |accepted| accepted.quarantined);
            synced.rows += self.absorb(&took);
            if took.drained && self.unsent.is_empty() && self.round.is_none() {
                return synced;
            }
        }
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.as_bytes().to_vec())
}

/// What a stranger finds in the store, and the cursor that it gets. Looking changes nothing.
pub(crate) fn snapshot(subject: &dyn Subject) -> (BTreeMap<Vec<u8>, Shown>, u64) {
    snapshot_by(Algorithm::Cls, subject)
}

/// The same of a table that merges by this algorithm.
pub(crate) fn snapshot_by(algorithm: Algorithm, subject: &dyn Subject) -> (BTreeMap<Vec<u8>, Shown>, u64) {
    let mut stranger = Device::merging_by(algorithm, 0xee);
    stranger.sync(subject);
    (stranger.show(), stranger.cursor)
}

/// Syncs all devices until each has everything, and checks that all have the same as the store.
pub(crate) fn assert_converged(subject: &dyn Subject, devices: &mut [&mut Device]) {
    for _ in 0..2 {
        for device in &mut *devices {
            device.sync(subject);
        }
    }
    let (rows, _) = snapshot_by(devices[0].algorithm, subject);
    for device in devices {
        assert_eq!(device.show(), rows, "site {}", device.site);
    }
}
