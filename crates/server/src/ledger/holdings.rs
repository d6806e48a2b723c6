//! The sets of rows that a site may hold and surely holds, in pieces of 65,536 ordinals, so that a turn rewrites little.
//!
//! `cloudsync_server_ledger(id, may, surely)`: `id` is the site's ordinal in the upper half and the number of the piece in
//! the lower one. Both sets are roaring bitmaps in their portable form; `surely` is NULL where it is the same as `may`,
//! which it is most of the time.

use super::record;
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_protocol::verdict::{State, Verdicts};
use cloudsync_replica::{Error, Replica};
use cloudsync_sqlite_ffi::{Connection, Value};
use roaring::{RoaringBitmap, RoaringTreemap};
use std::collections::BTreeMap;

/// Ordinals of one piece, as bits.
const PIECE_BITS: u32 = 16;

/// One piece of the two sets.
#[derive(Debug, Default, Clone)]
pub(super) struct Piece {
    pub(super) may: RoaringBitmap,
    pub(super) surely: RoaringBitmap,
}

/// The pieces of one site, read when they are needed.
pub(super) struct Pieces {
    db: Connection,
    site: SiteOrdinal,
    read: BTreeMap<u32, Piece>,
}

const fn split(ordinal: u64) -> (u32, u32) {
    ((ordinal >> PIECE_BITS) as u32, (ordinal & ((1 << PIECE_BITS) - 1)) as u32)
}

fn id(site: SiteOrdinal, piece: u32) -> i64 {
    i64::from(site.0) << 32 | i64::from(piece)
}

impl Pieces {
    pub(super) const fn new(db: Connection, site: SiteOrdinal) -> Self {
        Self { db, site, read: BTreeMap::new() }
    }

    fn piece(&mut self, piece: u32) -> Result<&mut Piece, Error> {
        if !self.read.contains_key(&piece) {
            let sql = "SELECT may, surely FROM main.cloudsync_server_ledger WHERE id = ?1";
            let id = Value::Integer(id(self.site, piece));
            let stored = self.db.query_row(sql, &[id], |row| -> Result<Piece, Error> {
                let may = decode(row.column(0).as_blob())?;
                let surely = match row.column(1) {
                    Value::Null => may.clone(),
                    other => decode(other.as_blob())?,
                };
                Ok(Piece { may, surely })
            })?;
            self.read.insert(piece, stored.unwrap_or_default());
        }
        Ok(self.read.entry(piece).or_default())
    }

    pub(super) fn may_hold(&mut self, ordinal: u64) -> Result<bool, Error> {
        let (piece, bit) = split(ordinal);
        Ok(self.piece(piece)?.may.contains(bit))
    }

    pub(super) fn surely_holds(&mut self, ordinal: u64) -> Result<bool, Error> {
        let (piece, bit) = split(ordinal);
        Ok(self.piece(piece)?.surely.contains(bit))
    }

    /// Changes pieces with what stands in `rows`.
    pub(super) fn change(
        &mut self,
        rows: &RoaringTreemap,
        mut act: impl FnMut(&mut Piece, u32),
    ) -> Result<(), Error> {
        for ordinal in rows {
            let (piece, bit) = split(ordinal);
            act(self.piece(piece)?, bit);
        }
        Ok(())
    }

    /// Nothing is sure any more.
    pub(super) fn doubt_all(&mut self) -> Result<(), Error> {
        let sql = "SELECT id FROM main.cloudsync_server_ledger WHERE id BETWEEN ?1 AND ?2";
        let (first, last) = (id(self.site, 0), id(self.site, u32::MAX));
        let mut pieces = Vec::new();
        self.db.prepare(sql)?.for_each(&[Value::Integer(first), Value::Integer(last)], |row| {
            pieces.push((row.column_i64(0) & i64::from(u32::MAX)) as u32);
            Ok::<_, Error>(())
        })?;
        for piece in pieces {
            self.piece(piece)?.surely.clear();
        }
        Ok(())
    }

    /// Writes the pieces that were read, and are not as they were.
    pub(super) fn store(&mut self) -> Result<(), Error> {
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_server_ledger(id, may, surely) VALUES(?1, ?2, ?3) \
                   ON CONFLICT(id) DO UPDATE SET may = ?2, surely = ?3 WHERE may IS NOT ?2 OR surely IS NOT ?3";
        let mut write = self.db.prepare(sql)?;
        let mut delete = self.db.prepare("DELETE FROM main.cloudsync_server_ledger WHERE id = ?1")?;
        for (piece, Piece { may, surely }) in &mut self.read {
            let id = Value::Integer(id(self.site, *piece));
            if may.is_empty() {
                delete.run(&[id])?;
                continue;
            }
            let held = encode(may)?;
            let sure = if surely == may { None } else { Some(encode(surely)?) };
            write.run(&[id, Value::Blob(&held), sure.as_deref().map_or(Value::Null, Value::Blob)])?;
        }
        Ok(())
    }
}

fn encode(rows: &mut RoaringBitmap) -> Result<Vec<u8>, Error> {
    rows.optimize();
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes).map_err(|error| Error::State(format!("the ledger: {error}")))?;
    Ok(bytes)
}

fn decode(bytes: Option<&[u8]>) -> Result<RoaringBitmap, Error> {
    let damaged = || Error::State("the stored ledger is damaged".to_owned());
    RoaringBitmap::deserialize_from(bytes.ok_or_else(damaged)?).map_err(|_| damaged())
}

/// Sets of any ordinals, as bytes; nothing for an empty one.
pub(super) fn encode_rows(rows: &RoaringTreemap) -> Result<Vec<u8>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes).map_err(|error| Error::State(format!("the ledger: {error}")))?;
    Ok(bytes)
}

pub(super) fn decode_rows(bytes: &[u8]) -> Result<RoaringTreemap, Error> {
    if bytes.is_empty() {
        return Ok(RoaringTreemap::new());
    }
    let damaged = |_| Error::State("the stored ledger is damaged".to_owned());
    RoaringTreemap::deserialize_from(bytes).map_err(damaged)
}

/// Enters what a device of a user has just brought: it may hold those rows, and surely has them whole where it wrote every
/// cell. The caller holds the transaction of the upload; `before` is the last version before it.
pub(crate) fn note_upload(replica: &mut Replica, site: SiteOrdinal, before: u64) -> Result<(), Error> {
    let mut rows = Vec::new();
    replica.each_changed_by(site, before, |ordinal, alive, wrote_all| {
        rows.extend(alive.then_some((ordinal, wrote_all)));
        Ok(())
    })?;
    enter(replica, site, &rows)
}

/// Enters rows that a device of a user has brought though nothing of them was new: it holds them, which a ledger that was
/// restored, or whose device got them by hand, does not know. The caller holds the transaction of the upload.
pub(crate) fn note_known(replica: &Replica, site: SiteOrdinal, known: &[u64]) -> Result<(), Error> {
    let rows: Vec<_> = known.iter().map(|ordinal| (*ordinal, false)).collect();
    enter(replica, site, &rows)
}

/// Enters the rows that go to a device of a user with verdicts. The caller holds the transaction.
pub(crate) fn note_verdicts(replica: &mut Replica, site: SiteOrdinal, verdicts: &[u8]) -> Result<(), Error> {
    if verdicts.is_empty() {
        return Ok(());
    }
    let damaged = |_| Error::State("verdicts are damaged".to_owned());
    let mut rows = Vec::new();
    for verdict in Verdicts::decode(verdicts).map_err(damaged)?.list {
        if verdict.state == State::Given {
            let ordinal = replica.ordinal_of(verdict.table, verdict.key)?;
            rows.extend(ordinal.map(|ordinal| (ordinal, false)));
        }
    }
    enter(replica, site, &rows)
}

/// Enters rows that a device may hold from now on, and whether it surely has them whole.
pub(super) fn enter(replica: &Replica, site: SiteOrdinal, rows: &[(u64, bool)]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let db = replica.connection();
    let mut pieces = Pieces::new(db, site);
    for (ordinal, is_whole) in rows {
        let (piece, bit) = split(*ordinal);
        let piece = pieces.piece(piece)?;
        if piece.may.insert(bit) && *is_whole {
            piece.surely.insert(bit);
        }
    }
    pieces.store()?;
    // An eviction that is still to be acknowledged was of an earlier copy.
    record::forget_evictions(&db, site, &rows.iter().map(|(ordinal, _)| *ordinal).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_of_any_size_have_their_place() {
        for ordinal in [0, 1, 65_535, 65_536, (1 << 40) + 5] {
            let (piece, bit) = split(ordinal);
            assert_eq!((u64::from(piece) << PIECE_BITS) + u64::from(bit), ordinal);
        }
        assert!(id(SiteOrdinal(1), u32::MAX) < id(SiteOrdinal(2), 0));
    }
}
