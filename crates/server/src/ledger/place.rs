//! Where a user's download stands: the place in the list or scan, and how far it is with rows whose visibility may have
//! changed. Devices hold it sealed ([`Seal`]).

use super::seal::Seal;
use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_protocol::limits::{POSITION_BYTES_MAX, SCHEMA_TABLES_MAX};
use cloudsync_protocol::message::Request;
use cloudsync_replica::{Error, Position};
use cloudsync_sqlite_ffi::Connection;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Under which policies and claims it was begun.
    pub(super) stamp: i64,
    /// What policies read was looked at up to this version.
    pub(super) seen: u64,
    /// How many chunks ended while looking at what came after.
    pub(super) tries: u64,
    /// Tables of which all rows are looked at.
    pub(super) walk: Option<Walk>,
    /// Where the changes themselves go on.
    pub(super) then: Position,
}

/// Going through all rows of some tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Walk {
    /// The last version when it began.
    pub(super) head: u64,
    /// The tables, ascending.
    pub(super) tables: Vec<i64>,
    /// The table and key of the row that was looked at last.
    pub(super) after: (i64, Vec<u8>),
}

impl Place {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.stamp.to_le_bytes().to_vec();
        put_varint(&mut out, self.seen);
        put_varint(&mut out, self.tries);
        out.push(u8::from(self.walk.is_some()));
        if let Some(walk) = &self.walk {
            put_varint(&mut out, walk.head);
            put_varint(&mut out, walk.tables.len() as u64);
            walk.tables.iter().for_each(|table| put_varint(&mut out, *table as u64));
            put_varint(&mut out, walk.after.0 as u64);
            put_bytes(&mut out, &walk.after.1);
        }
        put_bytes(&mut out, &self.then.encode());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let stamp = i64::from_le_bytes(reader.take(8).ok()?.try_into().ok()?);
        let (seen, tries) = (reader.varint().ok()?, reader.varint().ok()?);
        let table = |reader: &mut Reader<'_>| Some(reader.varint_max(i64::MAX as u64, "table").ok()? as i64);
        let walk = match reader.byte().ok()? {
            0 => None,
            1 => {
                let head = reader.varint().ok()?;
                let count = reader.varint_max(SCHEMA_TABLES_MAX as u64, "tables").ok()?;
                let tables = (0..count).map(|_| table(&mut reader)).collect::<Option<_>>()?;
                let after = (table(&mut reader)?, reader.bytes(KEY_BYTES_MAX as u64, "key").ok()?.to_vec());
                Some(Walk { head, tables, after })
            }
            _ => return None,
        };
        let then = Position::decode(reader.bytes(POSITION_BYTES_MAX as u64, "position").ok()?)?;
        reader.is_empty().then_some(Self { stamp, seen, tries, walk, then })
    }
}

/// The place in list or scan of the position in a request, whoever it was made for.
pub(crate) fn inner_position(db: &Connection, request: &Request<'_>) -> Result<Option<Position>, Error> {
    if request.position.is_empty() {
        return Ok(None);
    }
    if let Some(position) = Position::decode(request.position) {
        return Ok(Some(position));
    }
    let place = Seal::of(db, request.site)?.open(request.position);
    Ok(place.and_then(|place| Place::decode(&place)).map(|place| place.then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_round_trip_and_rubbish_is_refused() {
        let walk = Walk { head: 7, tables: vec![1, 200], after: (200, vec![1, 2]) };
        for walk in [None, Some(walk)] {
            let then = Position::Scan { head: 9, after: b"abc".to_vec() };
            let place = Place { stamp: -5, seen: 1 << 40, tries: 3, walk, then };
            let bytes = place.encode();
            assert_eq!(Place::decode(&bytes), Some(place));
            assert!((0..bytes.len()).all(|end| Place::decode(&bytes[..end]).is_none()));
        }
        assert_eq!(Place::decode(&[3; 40]), None);
    }
}
