//! Which changes were made without having seen what a site uploaded.
//!
//! Each version says at which cursor it was made, so of two changes of a row neither author had seen the other's if each
//! was made at a cursor before the other's version. The server looks that up when it extracts for a site: the rows of
//! its uploads are read back from the list of changes as far as the changes to be sent reach, newest first and up to a
//! bound. Beyond the bound nothing is marked.

use crate::changes::{Entry, Mask, Origin, read_row};
use crate::clocks;
use crate::error::{Error, Result};
use cloudsync_core::bytes::Reader;
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashMap;

/// Versions that are looked through for those of the site.
const VERSIONS_MAX: i64 = 10_000;
/// Rows of the site's uploads that are kept in memory.
const ROWS_MAX: usize = 100_000;

/// One change of a row that the site uploaded.
#[derive(Debug)]
struct Upload {
    version: u64,
    base: u64,
    mask: Mask,
}

/// What a site uploaded lately.
pub(crate) struct Uploads {
    db: Connection,
    site: SiteOrdinal,
    /// Versions after this one were read.
    since: u64,
    rows: HashMap<Vec<u8>, Vec<Upload>>,
    count: usize,
}

impl Uploads {
    /// Of the versions up to `last`; nothing is read yet.
    pub(crate) fn new(db: Connection, site: SiteOrdinal, last: u64) -> Self {
        Self { db, site, since: last, rows: HashMap::new(), count: 0 }
    }

    /// Splits what an entry says of a row: the part whose author had not seen an upload of the site, and the rest.
    pub(crate) fn split(
        &mut self,
        entry: &Entry,
        key: &[u8],
        mask: Mask,
    ) -> Result<(Option<Mask>, Option<Mask>)> {
        let Some(base) = self.base_of(entry) else { return Ok((None, Some(mask))) };
        if base < self.since && self.count < ROWS_MAX {
            self.read_back_to(base)?;
        }
        if self.rows.is_empty() {
            return Ok((None, Some(mask)));
        }
        let uploads = self.rows.get(&clocks::pk(entry.table, key)).map_or(&[][..], Vec::as_slice);
        let unseen = uploads.iter().filter(|upload| {
            base < upload.version && upload.base < entry.version && upload.version != entry.version
        });
        Ok(split(mask, unseen.map(|upload| &upload.mask)))
    }

    /// The version up to which the author of an entry had seen everything; `None` if that is not known, or the author is
    /// the site itself.
    fn base_of(&self, entry: &Entry) -> Option<u64> {
        match Origin::from_code(entry.origin) {
            // Written right here, by someone who sees all versions there are.
            Ok(Origin::Local) => Some(entry.version.saturating_sub(1)),
            Ok(Origin::Site(site)) if site != self.site => Some(entry.base),
            Ok(Origin::Site(_) | Origin::File | Origin::Server) | Err(_) => None,
        }
    }

    fn read_back_to(&mut self, base: u64) -> Result<()> {
        // A limit that is bound would have SQLite compile the statement anew for each use.
        // language=SQLite
        let versions = format!(
            "SELECT version, base, first_entry FROM (SELECT version, origin, base, first_entry \
            FROM main.cloudsync_versions WHERE version > ?1 AND version <= ?2 ORDER BY version DESC LIMIT {VERSIONS_MAX}) \
            WHERE origin = ?3"
        );
        // language=SQLite
        let entries = "SELECT version, table_id, keys FROM main.cloudsync_entries WHERE id >= ?1 ORDER BY id";
        let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let (since, site) = (self.since, Value::Integer(Origin::Site(self.site).code()));
        self.since = base;
        let mut entries = self.db.prepare(entries)?;
        let mut versions = self.db.prepare(&versions)?;
        let bounds = [number(base), number(since), site];
        bounds.into_iter().enumerate().try_for_each(|(i, value)| versions.bind(i + 1, value))?;
        while self.count < ROWS_MAX && versions.step()? {
            let (version, base) = (versions.column_i64(0), versions.column_i64(1) as u64);
            entries.bind(1, Value::Integer(versions.column_i64(2)))?;
            while entries.step()? && entries.column_i64(0) == version {
                let keys = entries.column(2).as_blob().ok_or_else(|| Error::corrupt("cloudsync_entries"))?;
                let mut reader = Reader::new(keys);
                while !reader.is_empty() {
                    let (key, mask) = read_row(&mut reader)?;
                    let pk = clocks::pk(entries.column_i64(1), key);
                    self.rows.entry(pk).or_default().push(Upload { version: version as u64, base, mask });
                    self.count += 1;
                }
            }
            entries.reset()?;
        }
        Ok(())
    }
}

/// What a chunk holds of a row.
pub(crate) struct Sent {
    mask: Mask,
    /// What of it is marked as concurrent.
    concurrent: Option<Mask>,
}

impl Sent {
    pub(crate) fn new(mask: Mask, concurrent: bool) -> Self {
        Self { concurrent: concurrent.then(|| mask.clone()), mask }
    }

    /// True when nothing is missing. What was sent unmarked goes once more when it turns out to be concurrent; marked
    /// groups are applied first.
    pub(crate) fn covers(&self, mask: &Mask, concurrent: bool) -> bool {
        let sent = if concurrent { self.concurrent.as_ref() } else { Some(&self.mask) };
        let Some(sent) = sent else { return false };
        sent.columns().is_none_or(|sent| mask.columns().is_some_and(|columns| columns.is_subset(sent)))
    }

    pub(crate) fn add(&mut self, mask: Mask, concurrent: bool) {
        self.mask.union_with(&mask);
        match &mut self.concurrent {
            Some(known) if concurrent => known.union_with(&mask),
            known if concurrent => *known = Some(mask),
            _ => {}
        }
    }
}

/// The part of a mask that any of the others overlaps, and the rest.
fn split<'m>(mask: Mask, others: impl Iterator<Item = &'m Mask>) -> (Option<Mask>, Option<Mask>) {
    let Mask::Columns(columns) = mask else {
        return if others.count() == 0 { (None, Some(mask)) } else { (Some(mask), None) };
    };
    let mut unseen = cloudsync_core::clock::ColumnSet::new();
    for other in others {
        match other.columns() {
            None => return (Some(Mask::Columns(columns)), None),
            Some(other) => unseen.union_with(other),
        }
    }
    unseen.intersect_with(&columns);
    let seen: cloudsync_core::clock::ColumnSet =
        columns.iter().filter(|column| !unseen.contains(*column)).collect();
    let part =
        |columns: cloudsync_core::clock::ColumnSet| (!columns.is_empty()).then_some(Mask::Columns(columns));
    if unseen.is_empty() { (None, Some(Mask::Columns(seen))) } else { (part(unseen), part(seen)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloudsync_core::clock::ColumnNumber;

    fn columns(numbers: &[u16]) -> Mask {
        Mask::Columns(numbers.iter().map(|number| ColumnNumber(*number)).collect())
    }

    #[test]
    fn a_mask_is_split_where_others_overlap_it() {
        let with = |mask: Mask, others: &[Mask]| split(mask, others.iter());
        assert_eq!(with(columns(&[1, 2]), &[]), (None, Some(columns(&[1, 2]))));
        assert_eq!(with(columns(&[1, 2]), &[columns(&[3])]), (None, Some(columns(&[1, 2]))));
        assert_eq!(
            with(columns(&[1, 2, 3]), &[columns(&[3, 4]), columns(&[1])]),
            (Some(columns(&[1, 3])), Some(columns(&[2])))
        );
        assert_eq!(with(columns(&[1]), &[Mask::Whole]), (Some(columns(&[1])), None));
        assert_eq!(with(Mask::Whole, &[columns(&[1])]), (Some(Mask::Whole), None));
        assert_eq!(with(Mask::Whole, &[]), (None, Some(Mask::Whole)));
    }
}
