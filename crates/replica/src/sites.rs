//! The sites that a replica has met, by small local numbers.

use crate::error::{Error, Result};
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_core::id::SiteId;
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::{HashMap, HashSet};

/// All known sites; the index is the ordinal. A site is only ever added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sites {
    ids: Vec<SiteId>,
    ordinals: HashMap<SiteId, SiteOrdinal>,
    /// Those of which it is stored that [others brought values](crate::relayed), as far as that is known.
    relayed: HashSet<SiteOrdinal>,
}

impl Sites {
    /// Reads what is stored beyond what is known. Another connection may have added sites, and a rollback removed
    /// some: then all are read again.
    pub(crate) fn refresh(&mut self, db: &Connection) -> Result<()> {
        let last = db.query_i64("SELECT max(ordinal) FROM main.cloudsync_sites", &[])?;
        let stored = last.map_or(0, |last| last as usize + 1);
        if stored < self.ids.len() || self.last_differs(db)? {
            self.clear();
        }
        if stored == self.ids.len() {
            return Ok(());
        }
        let sql = "SELECT ordinal, site_id FROM main.cloudsync_sites WHERE ordinal >= ?1 ORDER BY ordinal";
        let mut statement = db.prepare(sql)?;
        statement.bind(1, Value::Integer(self.ids.len() as i64))?;
        while statement.step()? {
            let id = statement.column(1).as_blob().and_then(SiteId::from_slice);
            let id = id.ok_or_else(|| Error::corrupt("cloudsync_sites"))?;
            if statement.column_i64(0) != self.ids.len() as i64 {
                return Err(Error::corrupt("cloudsync_sites"));
            }
            self.push(id);
        }
        Ok(())
    }

    /// True when the last known site is stored no more under its ordinal: it was rolled back, and another one came.
    fn last_differs(&self, db: &Connection) -> Result<bool> {
        let Some(last) = self.ids.last() else { return Ok(false) };
        let sql = "SELECT 1 FROM main.cloudsync_sites WHERE ordinal = ?1 AND site_id = ?2";
        let ordinal = Value::Integer(self.ids.len() as i64 - 1);
        Ok(db.query_i64(sql, &[ordinal, Value::Blob(&last.0)])?.is_none())
    }

    /// Forgets everything, after a rollback that may have taken sites away.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.ordinals.clear();
        self.relayed.clear();
    }

    fn push(&mut self, id: SiteId) -> SiteOrdinal {
        let ordinal = SiteOrdinal(self.ids.len() as u32);
        self.ids.push(id);
        self.ordinals.insert(id, ordinal);
        ordinal
    }

    /// Takes note that it is stored of a site that others brought values. True unless that was known.
    pub(crate) fn note_relayed(&mut self, site: SiteOrdinal) -> bool {
        self.relayed.insert(site)
    }

    /// The ids, indexed by ordinal.
    pub(crate) fn ids(&self) -> &[SiteId] {
        &self.ids
    }

    /// The id of a site.
    pub(crate) fn id(&self, site: SiteOrdinal) -> Result<SiteId> {
        self.ids.get(site.0 as usize).copied().ok_or_else(|| Error::corrupt("a clock names an unknown site"))
    }

    /// The ordinal of a site, stored now if it is new.
    pub(crate) fn ordinal(&mut self, db: &Connection, id: SiteId) -> Result<SiteOrdinal> {
        if let Some(at) = self.find(id) {
            return Ok(at);
        }
        let ordinal = self.ids.len();
        let sql = "INSERT INTO main.cloudsync_sites(ordinal, site_id) VALUES(?1, ?2)";
        db.prepare(sql)?.run(&[Value::Integer(ordinal as i64), Value::Blob(&id.0)])?;
        Ok(self.push(id))
    }

    /// The ordinal of a known site.
    pub(crate) fn find(&self, id: SiteId) -> Option<SiteOrdinal> {
        self.ordinals.get(&id).copied()
    }
}
