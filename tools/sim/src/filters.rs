//! Filters: which rows sync from a device. Nothing else leaves it, and what comes in is there whatever the filter.

use crate::disk::disks;
use crate::host;
use crate::oracle::{self, RowName};
use crate::random::Dice;
use crate::workload::{self, KeyKind, TableSpec};
use crate::world::{Outcome, World};
use anyhow::{Context, Result, bail};
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_core::value::ValueRef;
use cloudsync_protocol::message::Request;
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::Zstd;
use rusqlite::Connection;
use rusqlite::types::ValueRef as Stored;
use std::collections::{BTreeMap, BTreeSet};

/// What apps set on which table.
const EXPRESSIONS: &[(&str, &[&str])] = &[
    (
        "notes",
        &[
            "stars IS NULL OR stars > 0",
            "length(title) > 8",
            "bytes < 10",
            "body IS NOT NULL AND score IS NULL",
            "0",
        ],
    ),
    ("pairs", &["b = 1", "value > 'v5' OR extra IS NULL"]),
    ("words", &["n IS NULL", "word <> 'SHARED-1'", "n <> 'abc'"]),
    ("marks", &["b = 0"]),
    ("things", &["typeof(k) <> 'real'", "v = 'abc'", "w IS NULL OR v IS NULL"]),
    ("slots", &["slot > 3 OR slot IS NULL"]),
    ("tasks", &["project <> 'p1'"]),
    ("members", &["member <> 'nobody'"]),
];

/// The same for tables with foreign keys: a parent may be outside of what its children are inside of.
const OF_FAMILIES: &[(&str, &[&str])] = &[
    ("houses", &["secret < 'secret 8'", "0"]),
    ("rooms", &["house IS NOT NULL", "secret > 'secret 5'"]),
    ("lamps", &["secret < 'secret a'"]),
    ("trees", &["parent IS NULL", "secret > 'secret 3'"]),
];

/// What a device has for itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    /// True once a filter was set on this file, or on one of which it is a copy.
    pub(crate) is_filtered: bool,
    /// The tables that ever had one. A row that comes inside of a filter is written anew as this device's, whoever wrote its
    /// cells before.
    pub(crate) filtered: BTreeSet<&'static str>,
    /// Rows that its app wrote, and that came by hand. Outside of a filter they may be what only this device knows.
    written: BTreeSet<RowName>,
}

impl Own {
    /// Takes over what came by hand, which goes on to the server as if it were this device's.
    pub(crate) fn got(&mut self, names: BTreeSet<RowName>) {
        self.written.extend(names);
    }

    /// Takes over what the app wrote; gives true if others may not hear of it.
    pub(crate) fn wrote<'r>(&mut self, names: impl Iterator<Item = &'r RowName>) -> bool {
        for name in names {
            self.written.insert(name.clone());
            if name.0 == "dws_notes" {
                // By a trigger of the app.
                self.written.insert(("marks", format!("{},7", name.1)));
            }
        }
        self.is_filtered
    }
}

/// The filters of a file, by table.
fn filters(db: &Connection) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT name, filter FROM cloudsync_tables WHERE filter IS NOT NULL";
    let mut select = host::kept(db, sql)?;
    let found = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn condition(filter: &str) -> String {
    format!("CASE WHEN ({filter}) THEN 1 ELSE 0 END")
}

/// The packed keys of the rows that exist outside of a filter.
fn outside(db: &Connection, table: &TableSpec, filter: &str) -> Result<BTreeSet<Vec<u8>>> {
    let sql = format!("SELECT {} FROM {} WHERE NOT {}", table.key.join(", "), table.name, condition(filter));
    let mut select = host::kept(db, &sql)?;
    let mut rows = select.query([])?;
    let mut keys = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let mut packed = Vec::new();
        for at in 0..table.key.len() {
            let value = match row.get_ref(at)? {
                Stored::Null => ValueRef::Null,
                Stored::Integer(number) => ValueRef::Integer(number),
                Stored::Real(number) => ValueRef::Real(number),
                Stored::Text(text) => ValueRef::Text(text),
                Stored::Blob(bytes) => ValueRef::Blob(bytes),
            };
            let collation =
                if table.kind == KeyKind::NoCase { KeyCollation::NoCase } else { KeyCollation::Binary };
            pack_part(&mut packed, value, collation, at + 1 == table.key.len())?;
        }
        keys.insert(packed);
    }
    Ok(keys)
}

impl World {
    /// The app of a device sets, changes or clears a filter.
    pub(crate) fn change_filter(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let written: Vec<_> = EXPRESSIONS.iter().filter(|(table, _)| workload::is_written(table)).collect();
        let likes_large = self.plan.large > workload::LARGE_SELDOM && dice.chance(500);
        let of_families = self.plan.families && dice.chance(300);
        let (table, expressions) = match (likes_large, written.is_empty()) {
            _ if of_families => dice.pick(OF_FAMILIES),
            // What is on its way in many chunks must not leave any more.
            (true, _) => &("notes", &["0"][..]),
            (false, true) => dice.pick(EXPRESSIONS),
            (false, false) => *dice.pick::<&(&str, &[&str])>(&written),
        };
        let filter = (!dice.chance(300)).then(|| *dice.pick(expressions));
        let name = self.devices[at].name.clone();
        self.note(|| format!("{name} filters {table} by {filter:?}"));
        self.stats.fault("filter change");
        if filter.is_some() {
            let own = &mut self.devices[at].own;
            own.is_filtered = true;
            own.filtered.insert(*table);
        }
        let outcome = self.guarded(at, 0, |process| {
            let changed = match filter {
                Some(filter) => process.replica.set_filter(table, filter),
                None => process.replica.clear_filter(table),
            };
            Ok(changed?)
        })?;
        if matches!(outcome, Outcome::Died) { self.recovers(at) } else { Ok(()) }
    }

    /// Reads what a device is about to send: no row that is outside of its filter may be in it.
    pub(crate) fn check_request(&self, at: usize, request: &[u8]) -> Result<()> {
        let device = &self.devices[at];
        let Some(upload) = Request::decode(request)?.upload.filter(|_| device.own.is_filtered) else {
            return Ok(());
        };
        if upload.payload.is_empty() {
            return Ok(());
        }
        let eye = device.eye();
        let filters = filters(&eye)?;
        if filters.is_empty() {
            return Ok(());
        }
        let opened = Opened::open(upload.payload, &Zstd)?;
        for group in opened.payload()?.groups() {
            let Some(filter) = filters.get(group.table()) else { continue };
            let table = workload::tables().find(|table| table.name == group.table());
            let outside = outside(&eye, table.context("a table of no spec")?, filter)?;
            for row in (0..group.rows()).filter(|row| !group.life(*row).is_multiple_of(2)) {
                if outside.contains(group.key(row)) {
                    let key = String::from_utf8_lossy(group.key(row));
                    bail!("{}: {} {key:?} is sent, and outside of {filter}", device.name, group.table());
                }
            }
        }
        Ok(())
    }

    /// Rows of a device of which others need not know, or which it keeps as they were: those that its app wrote and that are
    /// outside of a filter, or gone from there. With the tables that have filters.
    pub(crate) fn apart(&self, at: usize) -> Result<(BTreeSet<RowName>, BTreeSet<String>)> {
        let device = &self.devices[at];
        let mut apart = BTreeSet::new();
        if !device.own.is_filtered {
            return Ok((apart, BTreeSet::new()));
        }
        let db = &device.processes[0].db;
        let filters = filters(db)?;
        let conditions: BTreeMap<_, _> =
            filters.iter().map(|(table, filter)| (table.as_str(), condition(filter))).collect();
        let inside = oracle::rows_where(db, |table| conditions.get(table.name).map(String::as_str))?;
        apart.extend(device.own.written.iter().filter(|name| filters.contains_key(name.0)).cloned());
        // Others of these rows go by what REPLACE puts in their place.
        let colliding = |name: &RowName| oracle::collides(name) && filters.contains_key(name.0);
        apart.extend(oracle::rows(db)?.into_keys().filter(colliding));
        apart.extend(oracle::rows(self.server.eye()?)?.into_keys().filter(colliding));
        if device.must_check() || self.server.has_lost {
            // What the server lost of these is not sent again. And a user is told once that a row is gone. Where the file went back since, a check finds it, but outside of a filter
            // it does not look (docs/protocol.md).
            apart.extend(oracle::rows(db)?.into_keys().filter(|name| filters.contains_key(name.0)));
        }
        apart.retain(|name| !inside.contains_key(name));
        Ok((apart, filters.into_keys().collect()))
    }

    /// Clears all filters; gives true if there were any.
    pub(crate) fn clear_filters(&mut self) -> Result<bool> {
        let mut cleared = false;
        for at in 0..self.devices.len() {
            if !std::mem::take(&mut self.devices[at].own.is_filtered) {
                continue;
            }
            disks().disarm(&self.devices[at].place);
            let process = &mut self.devices[at].processes[0];
            for table in filters(&process.db)?.keys() {
                process.replica.clear_filter(table)?;
                cleared = true;
            }
        }
        Ok(cleared)
    }
}
