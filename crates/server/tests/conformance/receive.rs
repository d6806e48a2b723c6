//! A device takes answers in.

use super::{Device, Part, Row};
use crate::subject::Took;
use cloudsync_core::clock::{Clock, ColumnNumber, RowClock, SiteOrdinal};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::rebase::{Unsent, keep_unsent};
use cloudsync_core::merge::{Action, Algorithm, Decision, Travelled, decide, received};
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_protocol::verdict::{State, Verdicts};
use cloudsync_replica::Zstd;
use std::collections::BTreeMap;

impl Device {
    /// Takes an answer in; gives the rows that came.
    pub(crate) fn absorb(&mut self, took: &Took) -> usize {
        (self.epoch, self.nonce) = (took.epoch, took.nonce);
        if took.accepted.is_some_and(|accepted| accepted.committed) {
            self.round = None;
        }
        let is_answered = self.round.is_none();
        self.lay(&took.verdicts);
        let mut rows = 0;
        if !took.payload.is_empty() {
            let opened = Opened::open(&took.payload, &Zstd).unwrap();
            let payload = opened.payload().unwrap();
            rows = payload.rows();
            self.merge(&payload);
        }
        if is_answered {
            self.offered.clear();
        }
        self.position.clone_from(&took.position);
        if took.drained {
            self.cursor = took.cursor;
            self.echo = false;
            assert!(self.waiting.is_empty(), "a device got parts of rows without the rest");
        }
        rows
    }

    /// Takes back what the server refused, and notes why; what it asks for is sent again.
    fn lay(&mut self, verdicts: &[u8]) {
        if verdicts.is_empty() {
            return;
        }
        let verdicts = Verdicts::decode(verdicts).unwrap();
        for verdict in &verdicts.list {
            if verdict.state == State::Wanted {
                if self.rows.contains_key(verdict.key) {
                    self.unsent.insert(verdict.key.to_vec(), Part::Whole);
                }
                continue;
            }
            self.rows.remove(verdict.key).unwrap();
            self.unsent.remove(verdict.key);
            self.rejected.push((verdict.key.to_vec(), verdict.reason.to_owned()));
        }
        if !verdicts.payload.is_empty() {
            let opened = Opened::open(verdicts.payload, &Zstd).unwrap();
            self.merge(&opened.payload().unwrap());
        }
    }

    /// Merges the rows of a payload. A part of a row may come before the rest of it; all of a download fits together.
    fn merge(&mut self, payload: &Payload<'_>) {
        self.read(payload);
        loop {
            let before = std::mem::take(&mut self.waiting);
            let count = before.len();
            for incoming in before {
                if !self.merge_row(&incoming) {
                    self.waiting.push(incoming);
                }
            }
            if self.waiting.len() == count {
                return;
            }
        }
    }

    fn read(&mut self, payload: &Payload<'_>) {
        let ordinals: Vec<_> = payload.sites().iter().map(|site| self.ordinal(*site)).collect();
        let wire = |clock: Clock| Clock::new(clock.time, ordinals[clock.site.0 as usize]);
        for group in payload.groups() {
            let table = &self.schema.tables[0];
            assert_eq!(group.table(), table.name);
            let number = |name: &&str| {
                ColumnNumber(table.columns.iter().position(|c| c.name == **name).unwrap() as u16)
            };
            let numbers: Vec<_> = group.columns().iter().map(number).collect();
            for row in 0..group.rows() {
                let common = wire(group.clock(row));
                let mut cells: BTreeMap<_, _> = numbers.iter().map(|number| (*number, common)).collect();
                cells.extend(
                    group.exceptions(row).iter().map(|(at, clock)| (numbers[usize::from(*at)], wire(*clock))),
                );
                let cells: Vec<_> = cells.into_iter().collect();
                let last = cells.iter().fold(common, |last, (_, cell)| last.latest(*cell, &self.sites));
                let marks = group.marks(row).map(|marks| marks.map(wire));
                let travelled = Travelled { life: group.life(row), row: common, cells: &cells, last, marks };
                let clock = received(self.algorithm, &travelled, &self.sites).unwrap();
                self.time = self.time.max(clock.time_max().0);
                let values =
                    numbers.iter().enumerate().map(|(at, n)| (*n, group.value(row, at).to_value())).collect();
                self.waiting.push((group.key(row).to_vec(), Row { clock, values }, group.whole()));
            }
        }
    }

    fn ordinal(&mut self, site: SiteId) -> SiteOrdinal {
        let at = self.sites.iter().position(|known| *known == site).unwrap_or(self.sites.len());
        if at == self.sites.len() {
            self.sites.push(site);
        }
        SiteOrdinal(at as u32)
    }

    /// What becomes of a row of a later life in which the device has written what the server does not know.
    fn keep_unsent(&self, key: &[u8], incoming: &RowClock, whole: bool) -> Option<Decision> {
        let stored = &self.rows.get(key)?.clock;
        if self.algorithm != Algorithm::Cls || stored.life >= incoming.life || !whole {
            return None;
        }
        let unsent = match (self.offered.get(key), self.unsent.get(key)) {
            (Some(Part::Inserted), _) => Unsent::Offered,
            (_, Some(Part::Inserted)) => Unsent::Inserted,
            (Some(Part::Whole), _) | (_, Some(Part::Whole)) => Unsent::Whole,
            (_, Some(Part::Cells(cells))) | (Some(Part::Cells(cells)), _) => Unsent::Cells(cells),
            (None, None) => return None,
        };
        keep_unsent(stored, incoming, unsent, SiteOrdinal(0), &self.sites)
    }

    /// Merges a row; false if it must wait for the rest of it.
    fn merge_row(&mut self, (key, incoming, whole): &(Vec<u8>, Row, bool)) -> bool {
        let stored = self.rows.get(key).map(|row| &row.clock);
        let decision = self.keep_unsent(key, &incoming.clock, *whole).unwrap_or_else(|| {
            decide(self.algorithm, stored, &incoming.clock, *whole, &self.sites, &mut |_| false)
        });
        let mut values = self.rows.get(key).map(|row| row.values.clone()).unwrap_or_default();
        match decision.action {
            Action::Keep => {}
            Action::Delete => values.clear(),
            Action::Insert | Action::Replace => values = incoming.values.clone(),
            Action::Update(columns) | Action::Bury(columns) | Action::Revive(columns) => {
                let written = incoming.values.iter().filter(|(column, _)| columns.contains(**column));
                values.extend(written.map(|(column, value)| (*column, value.clone())));
            }
            Action::NeedWhole => return false,
            Action::RefuseJump => panic!("a device got what nobody sent"),
        }
        if let Some(clock) = decision.clock {
            self.rows.insert(key.clone(), Row { clock, values });
        }
        true
    }
}
