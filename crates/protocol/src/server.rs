//! The server's side of a turn: in what standing a site asks, judged by pure rules.
//!
//! A device stores a random round id before it uploads and repeats the upload under that id until it is answered.
//! The server stores, with the commit of a round, the round's id and the next nonce. So it can tell apart:
//!
//! | nonce sent | round id | meaning |
//! | --- | --- | --- |
//! | the stored one | any | the device goes on: [`Standing::Current`] |
//! | the one before it | the stored one | the answer was lost: [`Standing::Repeated`], the same answer again, unless the round [differs](SiteRecord::differs) |
//! | older, or the one before it | another, or none | a copy of the file goes on under the same id: [`Standing::Clone`] |
//! | any, of a user's device, with a cursor before one that it asked with | any | the same: [`Standing::Clone`] |
//! | newer, or any from an unknown site | any | this server was restored from a backup: [`Standing::Restored`] |
//!
//! A device that only reads has no nonce that could tell. Its cursor does: one that this server never gave comes from a
//! time that the server has forgotten. That the cursor is not beyond the last version is not enough, because versions
//! follow the wall clock: the first write after a restore has a greater one than all that were lost.
//!
//! Turns without an upload change no nonce, so an idle device writes nothing on either side.

use crate::limits::CLOCK_AHEAD_MS_MAX;
use crate::message::{Request, RoundId, Upload};

/// What a caller is told who may not receive rows.
pub const MAY_NOT_READ: &str = "this key or token may not read here";
/// What a caller is told who may not send changes.
pub const MAY_NOT_WRITE: &str = "this key or token may not write here";

/// What the server stores of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteRecord {
    /// The nonce that the site must send next.
    pub nonce: u64,
    /// The last round that was committed.
    pub round: Option<RoundId>,
    /// What its last chunk held, by [`Upload::content`]; `None` where that was not kept.
    pub content: Option<u64>,
}

impl SiteRecord {
    /// True when the round that is repeated was committed with something else in its last chunk. Rows are read anew for
    /// each try: one may have been edited since, and a copy of the file may have other ones.
    #[must_use]
    pub fn differs(&self, upload: &Upload<'_>) -> bool {
        self.content.is_some_and(|content| content != upload.content())
    }
}

/// How a site's request stands to what the server knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The site is new.
    New,
    /// The site goes on from its last answer.
    Current,
    /// The site repeats a round that is committed already.
    Repeated,
    /// The request comes from a copy of a file that has gone on since.
    Clone,
    /// The server has lost turns of the site.
    Restored,
}

/// What the server knows that a request is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knowledge {
    /// The server's own epoch.
    pub epoch: u64,
    /// What is stored of the site; `None` for one that never uploaded.
    pub record: Option<SiteRecord>,
    /// True when the request's cursor and position are such as this server can have given: no cursor, 1 (the cursor of
    /// an empty server), or one of its versions.
    pub gave_cursor: bool,
    /// True when the site has asked with a later cursor before, and was told of rows to take out since: another file took
    /// part under its id, and heard what this one did not. Of sites that may see everything nothing is known of that.
    pub went_back: bool,
}

/// Judges the standing of a request.
#[must_use]
pub fn standing(knowledge: &Knowledge, request: &Request<'_>) -> Standing {
    if request.epoch != 0 && request.epoch != knowledge.epoch || !knowledge.gave_cursor {
        return Standing::Restored;
    }
    if knowledge.went_back {
        return Standing::Clone;
    }
    let record = knowledge.record.as_ref();
    let Some(record) = record else {
        return if request.nonce == 0 { Standing::New } else { Standing::Restored };
    };
    if request.nonce == record.nonce {
        return Standing::Current;
    }
    if request.nonce > record.nonce {
        return Standing::Restored;
    }
    let round = request.upload.as_ref().map(|upload| upload.round);
    if request.nonce + 1 == record.nonce && round.is_some() && round == record.round {
        Standing::Repeated
    } else {
        Standing::Clone
    }
}

/// True when a refusal as [`Standing::Restored`] begins a new epoch: the device remembers turns of this very epoch that
/// the server has lost, so all devices must bring what they hold. Only a device that may write is believed: a new epoch
/// makes every device send everything.
#[must_use]
pub const fn begins_epoch(epoch: u64, request: &Request<'_>, may_write: bool) -> bool {
    may_write && request.epoch == epoch
}

/// True when the device's clock is too far from the server's for its stamps to be merged.
#[must_use]
pub const fn is_skewed(request: &Request<'_>, now_ms: u64) -> bool {
    request.now.abs_diff(now_ms) > CLOCK_AHEAD_MS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Upload;
    use crate::range::Check;
    use cloudsync_core::id::SiteId;

    const EPOCH: u64 = 4;

    fn request(nonce: u64, round: Option<u8>) -> Request<'static> {
        let upload = |id| Upload {
            round: RoundId([id; 8]),
            chunk: 0,
            is_final: true,
            continues: false,
            base: 0,
            payload: &[],
        };
        Request {
            site: SiteId([1; 16]),
            epoch: EPOCH,
            nonce,
            now: 0,
            cursor: 0,
            position: &[],
            pull: true,
            echo: false,
            fingerprint: 0,
            schema: None,
            upload: round.map(upload),
            check: Check::default(),
        }
    }

    fn judge(record: Option<(u64, u8)>, nonce: u64, round: Option<u8>) -> Standing {
        let record = record.map(|(nonce, round)| SiteRecord {
            nonce,
            round: Some(RoundId([round; 8])),
            content: None,
        });
        standing(
            &Knowledge { epoch: EPOCH, record, gave_cursor: true, went_back: false },
            &request(nonce, round),
        )
    }

    #[test]
    fn a_file_that_asks_from_before_where_its_site_was_is_a_copy() {
        for record in [None, Some(SiteRecord { nonce: 3, round: None, content: None })] {
            let known = Knowledge { epoch: EPOCH, record, gave_cursor: true, went_back: true };
            let nonce = record.map_or(0, |record| record.nonce);
            assert_eq!(standing(&known, &request(nonce, None)), Standing::Clone);
            // A server that lost turns cannot say so.
            assert_eq!(
                standing(&Knowledge { gave_cursor: false, ..known }, &request(nonce, None)),
                Standing::Restored
            );
        }
    }

    #[test]
    fn a_lost_answer_is_told_from_a_clone() {
        assert_eq!(judge(None, 0, Some(1)), Standing::New);
        assert_eq!(judge(Some((5, 1)), 5, Some(2)), Standing::Current);
        assert_eq!(judge(Some((5, 1)), 5, None), Standing::Current);
        assert_eq!(judge(Some((5, 1)), 4, Some(1)), Standing::Repeated);
        assert_eq!(judge(Some((5, 1)), 4, Some(2)), Standing::Clone);
        assert_eq!(judge(Some((5, 1)), 4, None), Standing::Clone);
        assert_eq!(judge(Some((5, 1)), 3, Some(1)), Standing::Clone);
    }

    #[test]
    fn a_restored_server_is_told_from_a_restored_device() {
        assert_eq!(judge(Some((5, 1)), 6, None), Standing::Restored);
        assert_eq!(judge(None, 1, None), Standing::Restored);
        let nothing = Knowledge { epoch: EPOCH, record: None, gave_cursor: true, went_back: false };
        let other_epoch = Request { epoch: EPOCH + 1, ..request(5, None) };
        assert_eq!(standing(&nothing, &other_epoch), Standing::Restored);
    }

    #[test]
    fn a_cursor_that_was_never_given_shows_a_restored_server_to_readers_too() {
        let record = Some(SiteRecord { nonce: 5, round: None, content: None });
        for (record, nonce) in [(None, 0), (record, 5)] {
            let lost = Knowledge { epoch: EPOCH, record, gave_cursor: false, went_back: false };
            assert_eq!(standing(&lost, &request(nonce, None)), Standing::Restored);
        }
    }

    #[test]
    fn only_who_may_write_and_knows_this_epoch_begins_another() {
        assert!(begins_epoch(EPOCH, &request(5, None), true));
        assert!(!begins_epoch(EPOCH, &request(5, None), false));
        assert!(!begins_epoch(EPOCH + 1, &request(5, None), true));
    }
}
