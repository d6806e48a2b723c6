//! Kept aside: what came for tables and columns that do not exist here yet.
//!
//! The unknown part of each payload is stored as one payload more, with its rows' clocks. When names come, by ALTER TABLE
//! or `cloudsync_init`, the pieces are applied like anything that arrives, and what is unknown even then is kept again.
//! Merging makes stale pieces harmless. Beyond a bound all pieces are dropped, and the names, when they come, are fetched
//! again with everything else.

use crate::apply::Source;
use crate::catalog::Catalog;
use crate::changes::Origin;
use crate::codec::Zstd;
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::storage;
use cloudsync_core::clock::{Clock, SiteOrdinal};
use cloudsync_protocol::limits::KEPT_BYTES_MAX;
use cloudsync_protocol::payload::{Encoder, Group, Header, Opened, Payload, Stored};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashMap;

/// Set while there are pieces that names may have come for.
const READY: &str = "kept_ready";
/// Set once pieces were dropped, until everything is fetched again.
const LOST: &str = "kept_lost";

/// Keeps what a payload has for names that do not exist here.
pub(crate) fn keep(db: &Connection, catalog: &Catalog, payload: &Payload<'_>, source: Source) -> Result<()> {
    let Some((piece, refers)) = unknown_part(catalog, payload) else { return Ok(()) };
    if storage::is_set(db, LOST)? {
        return Ok(());
    }
    // Large values are fetched again rather than kept.
    if refers || bytes(db)? + piece.len() as u64 > KEPT_BYTES_MAX {
        return lose(db);
    }
    cloudsync_core::reached!("kept: cells of an unknown column");
    let sql = "INSERT INTO main.cloudsync_kept(origin, base, payload) VALUES(?1, ?2, ?3)";
    let (origin, base) = (Value::Integer(source.origin.code()), Value::Integer(source.base as i64));
    Ok(db.prepare(sql)?.run(&[origin, base, Value::Blob(&piece)])?)
}

/// Bytes that are kept.
pub(crate) fn bytes(db: &Connection) -> Result<u64> {
    let sql = "SELECT coalesce(sum(length(payload)), 0) FROM main.cloudsync_kept";
    Ok(db.query_i64(sql, &[])?.unwrap_or(0) as u64)
}

/// True when pieces were dropped, so that names that come must be fetched.
pub(crate) fn is_lost(db: &Connection) -> Result<bool> {
    storage::is_set(db, LOST)
}

/// Drops all pieces; names that come are fetched again.
pub(crate) fn lose(db: &Connection) -> Result<()> {
    db.execute("DELETE FROM main.cloudsync_kept")?;
    storage::set(db, LOST, Value::Integer(1))
}

/// Drops what the server sends once more, from now on.
pub(crate) fn begin_again(db: &Connection) -> Result<()> {
    let sql = "DELETE FROM main.cloudsync_kept WHERE origin = ?1";
    db.prepare(sql)?.run(&[Value::Integer(Origin::Server.code())])?;
    storage::unset(db, LOST)
}

impl Replica {
    /// Takes note of `names` that others may have sent changes of before they existed here.
    pub(crate) fn names_came(&mut self, names: bool) -> Result<()> {
        if !names {
            return Ok(());
        }
        if storage::is_set(&self.db, LOST)? {
            storage::set(&self.db, "refetch", Value::Integer(1))?;
        }
        if self.db.query_i64("SELECT 1 FROM main.cloudsync_kept LIMIT 1", &[])?.is_some() {
            storage::set(&self.db, READY, Value::Integer(1))?;
        }
        Ok(())
    }

    /// True when names came that there are pieces for.
    pub(crate) fn has_ready_pieces(&self) -> Result<bool> {
        storage::is_set(&self.db, READY)
    }

    /// Applies the pieces that names came for, if there are any, in a transaction of their own.
    pub(crate) fn apply_ready_pieces(&mut self) -> Result<()> {
        if !self.has_ready_pieces()? {
            return Ok(());
        }
        self.with_apply_settings(|replica| {
            replica.transact(|replica| {
                replica.fold_in_transaction()?;
                replica.apply_pieces()
            })
        })
    }

    /// Applies all pieces. The caller holds the transaction, and everything is folded.
    pub(crate) fn apply_pieces(&mut self) -> Result<()> {
        let db = self.db;
        storage::unset(&db, READY)?;
        let mut ids = Vec::new();
        db.prepare("SELECT id FROM main.cloudsync_kept ORDER BY id")?.for_each(&[], |row| -> Result<()> {
            ids.push(row.column_i64(0));
            Ok(())
        })?;
        for id in ids {
            // language=SQLite
            let sql = "SELECT origin, base, payload FROM main.cloudsync_kept WHERE id = ?1";
            let piece = db.query_row(sql, &[Value::Integer(id)], |row| -> Result<_> {
                let payload = row.column(2).as_blob().ok_or_else(|| Error::corrupt("cloudsync_kept"))?;
                Ok((row.column_i64(0), row.column_i64(1), payload.to_vec()))
            })?;
            let Some((origin, base, payload)) = piece else { continue };
            cloudsync_core::reached!("kept: what was kept comes in");
            db.prepare("DELETE FROM main.cloudsync_kept WHERE id = ?1")?.run(&[Value::Integer(id)])?;
            // Its stamps were checked when it came.
            let source = Source { origin: Origin::from_code(origin)?, time_max: None, base: base as u64 };
            let opened = Opened::open(&payload, &Zstd)?;
            let applied = self.apply_in_transaction(&[opened.payload()?], source)?;
            if source.origin == Origin::Server {
                self.raise_settled(applied.time_max.0)?;
            }
            if applied.parts > 0 {
                storage::set(&db, "refetch", Value::Integer(1))?;
            }
        }
        Ok(())
    }
}

/// The groups and columns of a payload whose names do not exist here, as a payload, and whether any value of them travels
/// in pieces; `None` if all names do exist.
fn unknown_part(catalog: &Catalog, payload: &Payload<'_>) -> Option<(Vec<u8>, bool)> {
    let mut copy = Copy { encoder: Encoder::new(), payload, sites: HashMap::new(), refers: false };
    for group in payload.groups() {
        let Some(table) = catalog.table_named(group.table()) else {
            let all: Vec<_> = group.columns().iter().copied().enumerate().collect();
            copy.group(group, group.table(), &all, group.whole());
            continue;
        };
        let is_unknown = |name: &str| {
            let mut columns = table.definition.columns.iter();
            !columns.any(|column| column.name().eq_ignore_ascii_case(name))
        };
        let columns = group.columns().iter().copied().enumerate();
        let unknown: Vec<_> = columns.filter(|(_, name)| is_unknown(name)).collect();
        if !unknown.is_empty() {
            copy.group(group, group.table(), &unknown, false);
        }
    }
    let refers = copy.refers;
    if copy.encoder.rows() == 0 {
        None
    } else {
        Some((copy.encoder.finish(Header::default(), &Zstd), refers))
    }
}

/// The same payload under the names that a table and its columns, by their names before, have now.
pub(crate) fn renamed(payload: &Payload<'_>, table: &str, columns: &[(String, String)]) -> Vec<u8> {
    let mut copy = Copy { encoder: Encoder::new(), payload, sites: HashMap::new(), refers: false };
    for group in payload.groups() {
        let now = |name| {
            let pair = columns.iter().find(|(before, _)| before.eq_ignore_ascii_case(name));
            pair.map_or(name, |(_, now)| &now[..])
        };
        let all: Vec<_> = group.columns().iter().map(|name| now(name)).enumerate().collect();
        copy.group(group, table, &all, group.whole());
    }
    copy.encoder.finish(Header::default(), &Stored)
}

/// A payload on its way into another one.
struct Copy<'p> {
    encoder: Encoder,
    payload: &'p Payload<'p>,
    sites: HashMap<SiteOrdinal, SiteOrdinal>,
    /// Set once a value is copied that travels in pieces.
    refers: bool,
}

impl Copy<'_> {
    /// Copies these columns of a group, by their places in it, under other names.
    fn group(&mut self, group: &Group<'_>, table: &str, columns: &[(usize, &str)], whole: bool) {
        let names: Vec<_> = columns.iter().map(|(_, name)| *name).collect();
        let like = group.marks(0);
        // Of a dead row with cells no part travels; merged into what came of it, this is one all the same.
        let whole = whole || like.is_some_and(|marks| marks.deletion.is_some());
        let id = self.encoder.marked_group(table, &names, whole, like.as_ref());
        for row in 0..group.rows() {
            let all = group.exceptions(row);
            let clock_of = |column: usize| {
                let exception = all.iter().find(|(at, _)| usize::from(*at) == column);
                exception.map_or_else(|| group.clock(row), |(_, clock)| *clock)
            };
            // A part goes under the clock of its first cell.
            let common = match columns.first() {
                Some((first, _)) if !whole => clock_of(*first),
                _ => group.clock(row),
            };
            let mut exceptions = Vec::new();
            for (at, (column, _)) in columns.iter().enumerate() {
                let clock = clock_of(*column);
                if clock != common {
                    exceptions.push((at as u16, self.clock(clock)));
                }
            }
            let common = self.clock(common);
            let marks = group.marks(row).map(|marks| marks.map(|clock| self.clock(clock)));
            let values = columns.iter().map(|(column, _)| group.value(row, *column));
            let (key, life) = (group.key(row), group.life(row));
            self.encoder.push_marked(id, key, life, common, marks.as_ref(), &exceptions, values);
            for (at, (column, _)) in columns.iter().enumerate() {
                if let Some(reference) = group.reference(row, *column) {
                    self.encoder.refer(id, at as u16, &reference);
                    self.refers = true;
                }
            }
        }
    }

    fn clock(&mut self, clock: Clock) -> Clock {
        let known = self.sites.get(&clock.site).copied();
        let site = known.or_else(|| {
            let id = self.payload.sites().get(clock.site.0 as usize)?;
            let site = self.encoder.site(id);
            self.sites.insert(clock.site, site);
            Some(site)
        });
        Clock::new(clock.time, site.unwrap_or(clock.site))
    }
}
