//! On the server: sites of which somebody else brought values, as payloads that travelled by hand.
//!
//! A download from the beginning leaves out the rows that its site alone wrote, because a device that joins with a million
//! rows has them. That is so of what it uploaded. What it gave to others by file, and they uploaded, it may have lost since
//! with its power, and a file that went back to before its first sync knows nothing of it. So such a site is sent its own rows.

use crate::error::Result;
use crate::extract::Filter;
use crate::replica::Replica;
use crate::sites::Sites;
use crate::storage;
use cloudsync_core::clock::{Clock, RowClock, SiteOrdinal};
use cloudsync_core::merge::{Action, Decision};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::HashSet;

/// The sites of which an apply took values that another one sent.
#[derive(Debug, Default)]
pub(crate) struct Relayed(HashSet<SiteOrdinal>);

impl Relayed {
    /// Takes note of what `sender` brought, as far as it got in.
    pub(crate) fn note(&mut self, sender: SiteOrdinal, incoming: &RowClock, decision: &Decision) {
        if decision.clock.is_none() {
            return;
        }
        let mut add = |clock: Clock| {
            if clock.site != sender {
                self.0.insert(clock.site);
            }
        };
        match &decision.action {
            Action::Update(columns) => {
                columns.iter().filter_map(|column| incoming.cell(column)).for_each(add);
            }
            _ => {
                add(incoming.common);
                incoming.exceptions.iter().for_each(|(_, clock)| add(*clock));
            }
        }
    }

    /// Stores it of the sites of which it is not stored yet.
    pub(crate) fn finish(self, db: &Connection, sites: &mut Sites) -> Result<()> {
        for site in self.0 {
            if sites.note_relayed(site) {
                storage::set(db, &setting(site), Value::Integer(1))?;
            }
        }
        Ok(())
    }
}

impl Replica {
    /// What a site is sent that asks from `cursor` on. `echo` says that it wants its own rows back.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn filter_for(&self, site: SiteOrdinal, cursor: u64, echo: bool) -> Result<Filter> {
        let echo = echo || (cursor == 0 && storage::is_set(&self.db, &setting(site))?);
        Ok(Filter::ForSite { site, echo })
    }
}

fn setting(site: SiteOrdinal) -> String {
    format!("relayed {}", site.0)
}
