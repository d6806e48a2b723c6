//! Range checks for a device of a user: what it sees is compared with what it holds.
//!
//! The policy of a table is evaluated for all of its rows, whatever the ranges are: neither what is found nor how long it takes
//! tells of parts of the table that the user does not see. Where that takes too many steps nothing is told of the table. The
//! ledger is not asked which rows are to be compared, so what it has wrong is found, too; rows that go with the findings are
//! entered in it.

use super::holdings::Pieces;
use super::record::{Posting, Record};
use super::regard::is_wrong;
use crate::policy::{Policies, Work};
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::range::Check;
use cloudsync_replica::{CheckAnswer, Error, Replica, Rows, TableRows, TableSight, Viewer};
use std::collections::HashSet;

/// Compares ranges for a device of a user. What the answer brings is entered in `posting`. The caller holds a transaction in
/// which everything is folded, and has assumed the user.
pub(crate) fn check(
    replica: &mut Replica,
    (policies, work): (&Policies, &Work),
    asked: &Check<'_>,
    (site, ordinal): (SiteId, SiteOrdinal),
    posting: &mut Option<Posting>,
) -> Result<CheckAnswer, Error> {
    let db = replica.connection();
    let mut device = Device { policies, work, looks: work.of_check(), pieces: Pieces::new(db, ordinal) };
    let answer = replica.answer_check_for(asked, &mut device)?;
    if answer.given.is_empty() {
        return Ok(answer);
    }
    let evicted = Record::read(&db, ordinal)?.unwrap_or_default().evicted;
    let mut rows = HashSet::new();
    for row in &answer.given {
        if evicted.contains(*row) || !device.pieces.may_hold(*row)? {
            rows.insert(*row);
        }
    }
    if !rows.is_empty() {
        posting.get_or_insert_with(|| Posting::of(site)).enter(rows);
    }
    Ok(answer)
}

/// A device of a user, as its ranges are compared.
struct Device<'p> {
    policies: &'p Policies,
    work: &'p Work,
    looks: i64,
    pieces: Pieces,
}

impl Viewer for Device<'_> {
    fn each_seen(&mut self, rows: &TableRows, each: &mut dyn FnMut(Vec<u8>)) -> Result<TableSight, Error> {
        let Some(policy) = self.policies.select_of(rows.name()) else { return Ok(TableSight::Told) };
        let Self { work, looks, .. } = self;
        if *looks <= 0 {
            return Ok(TableSight::Later);
        }
        let mut all = || -> Result<(), Error> {
            // Where it may fail each row is asked about by itself: of one that it fails for nothing is shown.
            let mut test = policy.may_fail().then(|| rows.test(policy.condition())).transpose()?;
            let condition = if test.is_some() { "1" } else { policy.condition() };
            let mut keys = rows.keys(&Rows { with: "", beside: "", condition, repeats: false })?;
            while let Some(key) = work.within(looks, || keys.next_key())? {
                let is_seen = match &mut test {
                    None => true,
                    Some(test) => match work.within(looks, || test.holds(&key)) {
                        Err(error) if is_wrong(&error) => false,
                        outcome => outcome?,
                    },
                };
                if is_seen {
                    each(key);
                }
            }
            Ok(())
        };
        match all() {
            Ok(()) => Ok(TableSight::Told),
            Err(Error::Sqlite(error)) if error.is_interrupt() => Ok(TableSight::Unknown),
            Err(error) if is_wrong(&error) => Ok(TableSight::Unknown),
            Err(error) => Err(error),
        }
    }

    fn may_hold(&mut self, ordinal: u64) -> Result<bool, Error> {
        self.pieces.may_hold(ordinal)
    }
}
