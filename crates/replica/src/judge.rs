//! The server's judgement at the end of a round: what of it was not let in, row by row.
//!
//! When a round is applied and everything that could help was tried, what a constraint still refuses leaves the
//! quarantine, and the device is told: the reason, and what the server has in the row's place. A change of which only a
//! part came goes on waiting, and the device is asked for the whole row.

use crate::apply::WAITS_FOR_REST;
use crate::changes::Origin;
use crate::denial::Denial;
use crate::error::{Error, Result};
use crate::judged::{RowJudge, Sight, told};
use crate::pick::{Picked, Picking, RowKey};
use crate::quarantine::QUARANTINE_ROWS_MAX;
use crate::replica::Replica;
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_protocol::limits::{
    VERDICT_LIST_BYTES_TARGET, VERDICT_REASON_BYTES_MAX, VERDICT_ROWS_BYTES_TARGET, VERDICTS_MAX,
};
use cloudsync_protocol::verdict::{State, Verdict, Verdicts};
use cloudsync_sqlite_ffi::Value;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What became of a round's changes that were not let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Encoded verdicts, empty when there are none.
    pub verdicts: Vec<u8>,
    /// Changes of the site that go on waiting.
    pub waiting: u64,
    /// How many rows of which table were refused why.
    pub denied: BTreeMap<(String, Denial), u64>,
}

/// A row of which changes wait, and why.
struct Case {
    row: RowKey,
    /// Empty while it waits for the rest of the row only.
    reason: String,
    /// It is not its sender's to see.
    hidden: bool,
}

impl Case {
    fn verdict<'c>(&'c self, reason: &'c str, state: State) -> Verdict<'c> {
        Verdict { table: &self.row.0.name, key: &self.row.1, reason, state }
    }
}

/// Rows to be judged, at most as many as an answer has room for; first those that a constraint refuses.
#[derive(Default)]
struct Cases {
    refused: Vec<Case>,
    parts: Vec<Case>,
    /// True when more rows are refused than there is room for.
    more: bool,
}

impl Replica {
    /// Judges what of a site's changes is not in, at the end of a round. While the round's batch goes on, changes
    /// that miss a parent are not judged.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn judge(&mut self, site: SiteOrdinal, continues: bool) -> Result<Judgement> {
        self.judge_as(site, continues, &mut Sender::Trusted)
    }

    /// The same after [`apply_judged`](Self::apply_judged): what the sender does not see is neither given nor told of.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn judge_for(
        &mut self,
        site: SiteOrdinal,
        continues: bool,
        judge: &mut dyn RowJudge,
    ) -> Result<Judgement> {
        self.judge_as(site, continues, &mut Sender::Judged(judge))
    }

    /// Verdicts that were given before, as their sender may have them now: rows that it does not see any more go without.
    ///
    /// # Errors
    /// When the verdicts are damaged, or the file cannot be read.
    pub fn judge_again(&mut self, verdicts_before: &[u8], judge: &mut dyn RowJudge) -> Result<Vec<u8>> {
        if verdicts_before.is_empty() {
            return Ok(Vec::new());
        }
        self.catalog.load(&self.db)?;
        let damaged = |_| Error::corrupt("cloudsync_server_verdicts");
        let before = Verdicts::decode(verdicts_before).map_err(damaged)?;
        let (mut cases, mut shown) = (Cases { more: before.more, ..Cases::default() }, Vec::new());
        for verdict in &before.list {
            let Some(table) = self.catalog.table_named(verdict.table) else { continue };
            let row = (table, verdict.key.to_vec());
            let hidden = judge.sight(&row.0.name, &row.1)? != Sight::Seen;
            shown.extend((!hidden).then(|| row.clone()));
            cases.refused.push(Case { row, reason: verdict.reason.to_owned(), hidden });
        }
        let picking = self.pick(&shown, VERDICT_ROWS_BYTES_TARGET, VERDICT_ROWS_BYTES_TARGET)?;
        let mut states = states(&cases, &picking);
        // All are told at once; rows for which there is no room any more are fetched.
        let rest = cases.refused[states.len()..].iter();
        states.extend(rest.map(|case| if case.hidden { State::Absent } else { State::Fetch }));
        Ok(verdicts(&cases, &states, &picking))
    }

    fn judge_as(&mut self, site: SiteOrdinal, continues: bool, sender: &mut Sender<'_>) -> Result<Judgement> {
        let origin = Origin::Site(site).code();
        let waiting = self.waiting_of(origin)?;
        if waiting == 0 {
            return Ok(Judgement::default());
        }
        // A batch without end must not fill the disk either.
        let mut cases = self.cases(origin, continues && waiting <= QUARANTINE_ROWS_MAX)?;
        let mut shown = Vec::new();
        let denials: Vec<_> = cases.refused.iter().map(|case| Denial::of(&case.reason)).collect();
        for case in &mut cases.refused {
            case.hidden = !sender.sees(&case.row)?;
            if let Sender::Judged(_) = sender {
                case.reason = told(&case.reason).to_owned();
            }
            shown.extend((!case.hidden).then(|| case.row.clone()));
        }
        if let Sender::Judged(_) = sender {
            // Nobody is asked for more of a row that may not be his.
            cases.parts.clear();
        }
        let picking = self.pick(&shown, VERDICT_ROWS_BYTES_TARGET, VERDICT_ROWS_BYTES_TARGET)?;
        let states = states(&cases, &picking);
        let mut denied = BTreeMap::new();
        for (case, denial) in cases.refused[..states.len()].iter().zip(denials) {
            self.forget_waiting(origin, &case.row.0.name, &case.row.1)?;
            *denied.entry((case.row.0.name.clone(), denial)).or_default() += 1;
        }
        let verdicts = verdicts(&cases, &states, &picking);
        Ok(Judgement { verdicts, waiting: self.waiting_of(origin)?, denied })
    }

    fn waiting_of(&self, origin: i64) -> Result<u64> {
        // language=SQLite
        let sql = "SELECT count(*) FROM main.cloudsync_quarantine WHERE origin = ?1";
        Ok(self.db.query_i64(sql, &[Value::Integer(origin)])?.unwrap_or(0) as u64)
    }

    fn forget_waiting(&self, origin: i64, table: &str, key: &[u8]) -> Result<()> {
        // language=SQLite
        let sql =
            "DELETE FROM main.cloudsync_quarantine WHERE tbl = ?2 COLLATE NOCASE AND pk = ?3 AND origin = ?1";
        Ok(self.db.prepare(sql)?.run(&[Value::Integer(origin), Value::from(table), Value::Blob(key)])?)
    }

    fn cases(&self, origin: i64, spares_children: bool) -> Result<Cases> {
        // What a later round of the batch may let in: a parent may come, or the row go that has a UNIQUE value. Reasons
        // begin alike in SQLite's words and in ours.
        // language=SQLite
        let sql = "SELECT tbl, pk, max(CASE reason WHEN ?2 THEN '' ELSE reason END) AS why \
                   FROM main.cloudsync_quarantine WHERE origin = ?1 GROUP BY tbl, pk \
                   HAVING NOT (?3 AND (substr(why, 1, 11) = 'FOREIGN KEY' OR substr(why, 1, 6) = 'UNIQUE')) ORDER BY why = '', min(id)";
        let mut select = self.db.prepare(sql)?;
        select.bind(1, Value::Integer(origin))?;
        select.bind(2, Value::from(WAITS_FOR_REST))?;
        select.bind(3, Value::Integer(i64::from(spares_children)))?;
        let (mut cases, mut gone, mut bytes) = (Cases::default(), Vec::new(), 0);
        while select.step()? {
            let text = |i| select.column(i).as_str().unwrap_or_default().to_owned();
            let key = select.column(1).as_blob().ok_or_else(|| Error::corrupt("cloudsync_quarantine"))?;
            let (name, reason) = (text(0), text(2));
            let Some(table) = self.catalog.table_named(&name) else {
                gone.push((name, key.to_vec()));
                continue;
            };
            bytes += name.len() + key.len() + reason.len().min(VERDICT_REASON_BYTES_MAX);
            let is_part = reason.is_empty();
            if cases.refused.len() + cases.parts.len() >= VERDICTS_MAX || bytes > VERDICT_LIST_BYTES_TARGET {
                cases.more = !is_part;
                break;
            }
            let case = Case { row: (Rc::clone(&table), key.to_vec()), reason, hidden: false };
            if is_part { cases.parts.push(case) } else { cases.refused.push(case) }
        }
        drop(select);
        // Nobody can be told of a row whose table does not sync any more.
        gone.iter().try_for_each(|(name, key)| self.forget_waiting(origin, name, key))?;
        Ok(cases)
    }
}

/// Whose round is judged.
enum Sender<'j> {
    /// They see everything.
    Trusted,
    Judged(&'j mut dyn RowJudge),
}

impl Sender<'_> {
    fn sees(&mut self, (table, key): &RowKey) -> Result<bool> {
        match self {
            Self::Trusted => Ok(true),
            Self::Judged(judge) => Ok(judge.sight(&table.name, key)? == Sight::Seen),
        }
    }
}

/// What the server has in the place of each refused row that there was room for.
fn states(cases: &Cases, picking: &Picking) -> Vec<State> {
    let mut picked = picking.found.iter();
    let states = cases.refused.iter().map_while(|case| {
        let picked = if case.hidden { Some(&Picked::Absent) } else { picked.next() };
        picked.map(|picked| match picked {
            Picked::Absent => State::Absent,
            Picked::Given => State::Given,
            Picked::Large => State::Fetch,
        })
    });
    states.collect()
}

fn verdicts(cases: &Cases, states: &[State], picking: &Picking) -> Vec<u8> {
    let judged = cases.refused.iter().zip(states);
    let mut list: Vec<_> = judged.map(|(case, state)| case.verdict(&case.reason, *state)).collect();
    let more = cases.more || list.len() < cases.refused.len();
    list.extend(cases.parts.iter().map(|case| case.verdict(WAITS_FOR_REST, State::Wanted)));
    if list.is_empty() { Vec::new() } else { Verdicts { list, payload: &picking.payload, more }.encode() }
}
