//! Range checks of devices, within what they may cost.

use super::connection::{UnderPolicies, Wrapped};
use crate::ledger::{self, Posting};
use crate::metrics::METRICS;
use crate::store::{Asker, StoreError};
use cloudsync_protocol::message::Request;
use cloudsync_protocol::range::{Check, Checked, Finding};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Checks that run at one time in one database. Whoever comes beyond them is told to come later: a check is never
/// urgent, and the other readers are there for those who wait for rows.
const CHECKS_MAX: usize = 1;

/// How many checks run.
#[derive(Default)]
pub(super) struct Checks {
    running: AtomicUsize,
}

/// The right to run a check, until it is dropped.
struct Running<'c>(&'c AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Checks {
    /// The findings, encoded. What goes with them to a device of a user is entered in `posting`.
    pub(super) fn answer(
        &self,
        file: &mut Wrapped,
        request: &Request<'_>,
        asker: &Asker,
        posting: &mut Option<Posting>,
    ) -> Result<Vec<u8>, StoreError> {
        let check = &request.check;
        let running = self.running.fetch_add(1, Ordering::Acquire);
        let _running = Running(&self.running);
        if running >= CHECKS_MAX {
            METRICS.checks_put_off.add(1);
            return Ok(all(check, Finding::Later));
        }
        let begun = Instant::now();
        let answer = match &asker.user {
            None => file.replica.answer_check(check, asker.rights.write)?,
            Some(user) => {
                let site = file.replica.site_ordinal(request.site)?;
                let work = file.law.work().clone();
                let (Some(ordinal), Some(under)) = (site, file.watched()?) else {
                    return Ok(all(check, Finding::Unknown));
                };
                let UnderPolicies { replica, policies, identity, .. } = under;
                let _assumed = identity.assume(user);
                ledger::check(replica, (policies, &work), check, (request.site, ordinal), posting)?
            }
        };
        if let Some(table) = &answer.damaged {
            tracing::warn!(%table, "a row of the table is gone without a deletion: devices cannot check it");
        }
        let elapsed = begun.elapsed();
        METRICS.checked(elapsed, answer.rows);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(
            ranges = check.ranges.len(),
            different = answer.different,
            rows = answer.rows,
            elapsed_ms,
            "ranges checked"
        );
        Ok(answer.checked)
    }
}

fn all(check: &Check<'_>, finding: Finding<'_>) -> Vec<u8> {
    Checked { findings: vec![finding; check.ranges.len()], payload: &[] }.encode()
}
