//! The record of a site's download: what was sent since the ledger was last sure, and the place that it was given.

use super::audience::Standing;
use super::holdings::{Pieces, decode_rows, encode_rows};
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_core::id::SiteId;
use cloudsync_replica::{Error, Replica};
use cloudsync_sqlite_ffi::{Connection, Value};
use roaring::RoaringTreemap;

/// What is stored of a site's last download that brought or took rows.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Record {
    /// The cursor with which the site asked: the ledger was sure up to there.
    pub(super) base: u64,
    /// The cursor that it was given, 0 before the end of the download.
    pub(super) cursor: u64,
    /// The position that it was given, empty at its end.
    pub(super) position: Vec<u8>,
    /// Rows that it got in the download, and rows that were taken from it. No row is in both.
    pub(super) granted: RoaringTreemap,
    pub(super) evicted: RoaringTreemap,
    /// Under which policies and claims that was so.
    pub(super) stamp: i64,
    /// The same of what the site had at `base`. It differs where the download took new ones into account: if its end does not
    /// arrive, all rows must be looked at once more.
    pub(super) base_stamp: i64,
}

/// Whether a site has asked with a later cursor than this one, and so has acknowledged what it was told up to there: what was
/// taken from it is not in the ledger any more. Or it has asked for everything since, and been given a later cursor. A file
/// without a cursor asks for everything itself, and checks what else it has.
pub(crate) fn has_gone_on(
    db: &Connection,
    site: SiteId,
    cursor: u64,
) -> Result<bool, cloudsync_sqlite_ffi::Error> {
    // language=SQLite
    let sql = "SELECT 1 FROM main.cloudsync_server_downloads WHERE (base > ?2 OR base = 0 AND cursor > ?2) \
               AND site = (SELECT ordinal FROM main.cloudsync_sites WHERE site_id = ?1)";
    Ok(cursor > 0 && db.query_i64(sql, &[Value::Blob(&site.0), Value::Integer(cursor as i64)])?.is_some())
}

impl Record {
    pub(super) fn read(db: &Connection, site: SiteOrdinal) -> Result<Option<Self>, Error> {
        // language=SQLite
        let sql = "SELECT base, cursor, position, granted, evicted, stamp FROM main.cloudsync_server_downloads WHERE site = ?1";
        db.query_row(sql, &[Value::Integer(i64::from(site.0))], |row| {
            let blob = |at| row.column(at).as_blob().unwrap_or_default();
            let (stamp, base_stamp) = decode_stamps(row.column(5));
            Ok(Self {
                base: row.column_i64(0) as u64,
                cursor: row.column_i64(1) as u64,
                position: blob(2).to_vec(),
                granted: decode_rows(blob(3))?,
                evicted: decode_rows(blob(4))?,
                stamp,
                base_stamp,
            })
        })
    }

    /// Whether a device that asks with this cursor, at the beginning of a download, has taken in the last answer. A later
    /// cursor comes from an answer to a device that had: else that answer would have brought the rows again, and be here.
    pub(super) const fn is_taken_by(&self, cursor: u64) -> bool {
        self.position.is_empty() && self.cursor != 0 && cursor >= self.cursor
    }

    fn write(&self, db: &Connection, site: SiteOrdinal) -> Result<(), Error> {
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_server_downloads(site, base, cursor, position, granted, evicted, stamp) \
                   VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(site) DO UPDATE SET \
                   base = ?2, cursor = ?3, position = ?4, granted = ?5, evicted = ?6, stamp = ?7";
        let (granted, evicted) = (encode_rows(&self.granted)?, encode_rows(&self.evicted)?);
        let both = encode_stamps(self.stamp, self.base_stamp);
        let stamps =
            if self.stamp == self.base_stamp { Value::Integer(self.stamp) } else { Value::Blob(&both) };
        Ok(db.prepare(sql)?.run(&[
            Value::Integer(i64::from(site.0)),
            Value::Integer(self.base as i64),
            Value::Integer(self.cursor as i64),
            Value::Blob(&self.position),
            Value::Blob(&granted),
            Value::Blob(&evicted),
            stamps,
        ])?)
    }

    /// Under which policies and claims the site has what it has.
    pub(super) const fn stamp_of(&self, standing: Standing) -> i64 {
        match standing {
            Standing::Taken => self.stamp,
            Standing::New | Standing::Again | Standing::Amid | Standing::Unrecorded | Standing::Back => {
                self.base_stamp
            }
        }
    }
}

fn encode_stamps(stamp: i64, base_stamp: i64) -> [u8; 16] {
    (u128::from(stamp as u64) << 64 | u128::from(base_stamp as u64)).to_le_bytes()
}

/// One number where both are the same.
fn decode_stamps(value: Value<'_>) -> (i64, i64) {
    match value.as_blob().and_then(|bytes| bytes.try_into().ok()).map(u128::from_le_bytes) {
        Some(both) => ((both >> 64) as i64, both as i64),
        None => {
            let stamp = if let Value::Integer(stamp) = value { stamp } else { 0 };
            (stamp, stamp)
        }
    }
}

/// Takes rows from those that the last download took away.
pub(super) fn forget_evictions(
    db: &Connection,
    site: SiteOrdinal,
    rows: &RoaringTreemap,
) -> Result<(), Error> {
    match Record::read(db, site)? {
        Some(mut record) if !record.evicted.is_disjoint(rows) => {
            record.evicted -= rows;
            record.write(db, site)
        }
        _ => Ok(()),
    }
}

/// What must be on disk before an answer leaves.
#[derive(Debug, Clone)]
pub(crate) struct Posting {
    pub(super) site: SiteId,
    /// The record that was found, as far as it was taken in by the device: it becomes sure now.
    pub(super) taken: Option<(u64, Vec<u8>)>,
    /// Nothing that was sure is sure any more.
    pub(super) doubts: bool,
    /// Rows of this very answer.
    pub(super) granted: RoaringTreemap,
    pub(super) evicted: RoaringTreemap,
    /// `None` where the download brings nothing that must be known.
    pub(super) record: Option<Record>,
}

impl Posting {
    /// An answer whose download brings nothing.
    pub(super) fn of(site: SiteId) -> Self {
        let (granted, evicted) = Default::default();
        Self { site, taken: None, doubts: false, granted, evicted, record: None }
    }

    /// Adds rows that the answer brings beside its download.
    pub(super) fn enter(&mut self, rows: impl IntoIterator<Item = u64>) {
        self.granted.extend(rows);
    }
}

/// Enters what an answer brings. The caller holds the transaction.
pub(crate) fn post(replica: &mut Replica, posting: &Posting) -> Result<(), Error> {
    let (site, db) = (replica.meet_site(posting.site)?, replica.connection());
    let mut pieces = Pieces::new(db, site);
    if posting.doubts {
        pieces.doubt_all()?;
    } else if let (Some((cursor, position)), Some(known)) = (&posting.taken, Record::read(&db, site)?)
        && (known.cursor, &known.position) == (*cursor, position)
    {
        pieces.change(&known.granted, |piece, bit| {
            piece.may.insert(bit);
            piece.surely.insert(bit);
        })?;
        pieces.change(&known.evicted, |piece, bit| {
            piece.may.remove(bit);
            piece.surely.remove(bit);
        })?;
    }
    pieces.change(&posting.granted, |piece, bit| {
        piece.may.insert(bit);
    })?;
    pieces.change(&posting.evicted, |piece, bit| {
        piece.surely.remove(bit);
    })?;
    pieces.store()?;
    match &posting.record {
        Some(record) => record.write(&db, site),
        None => forget_evictions(&db, site, &posting.granted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_stamps_come_back() {
        for (stamp, base) in [(1, 2), (-1, 0), (0, -1), (i64::MIN, i64::MAX)] {
            assert_eq!(decode_stamps(Value::Blob(&encode_stamps(stamp, base))), (stamp, base));
        }
        assert_eq!(decode_stamps(Value::Integer(-7)), (-7, -7));
        assert_eq!(decode_stamps(Value::Null), (0, 0));
    }
}
