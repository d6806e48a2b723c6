//! One SQLite database that syncs: capture, fold, clocks, extract, apply.
//!
//! Local writes are noted by triggers (`capture`), the notes are turned into clocks and a version in bulk (`fold`),
//! what changed since a version becomes a payload (`extract`), and a payload is taken in under the rule of
//! `cloudsync_core::merge` (`apply`). Devices and the server run the same code; `device` is what only a device does:
//! the steps of a sync with the server.
//!
//! Everything is kept in the database itself (`storage`), so it commits and rolls back with the app's own writes.
#![deny(unsafe_code)]

mod alter;
mod apply;
mod audience;
mod buried;
mod capture;
mod catalog;
mod changes;
mod changes_view;
mod check;
mod checkup;
mod chunks;
mod clocks;
mod codec;
mod columns;
mod compaction;
mod concurrent;
mod conflicts;
mod credential;
mod definitions;
mod denial;
mod device;
mod environment;
mod error;
mod evict;
mod extract;
mod family;
mod filter;
mod fold;
mod follow;
mod foreign_keys;
mod given;
mod guard;
mod identity;
mod index_text;
mod init;
mod internals;
mod judge;
mod judged;
mod kept;
mod logout;
mod pairing;
mod parts;
mod pick;
mod pieces;
mod position;
mod progress;
mod quarantine;
mod range_answer;
mod ranges;
mod rebuilt;
mod rejected;
mod relayed;
mod repair;
mod replica;
mod restamp;
mod rollback;
mod row_scan;
mod scrub;
mod settle;
mod sites;
mod slices;
mod snapshot;
mod status;
mod storage;
mod table;
mod twin;
mod unconfirmed;
mod upload;
mod uuid;
mod value;
mod verdicts;
mod write;

pub use apply::{Applied, Source};
pub use audience::{Audience, Candidate, Cause, KnownKeys, RowKeys, RowTest, Rows, Sending, TableRows};
pub use changes::Origin;
pub use changes_view::{Change, Changes, ChangesQuery};
pub use check::Rolling;
pub use checkup::Checkup;
pub use chunks::{Chunks, PayloadChunk};
pub use clocks::bind_key;
pub use cloudsync_core::id::SiteId;
pub use codec::Zstd;
pub use conflicts::{CONFLICT_AGE_MS_MAX, CONFLICTS_MAX};
pub use definitions::forget_definitions;
pub use denial::Denial;
pub use device::Sent;
pub use environment::{Environment, SystemEnvironment};
pub use error::{Class, Error, Result};
pub use extract::{Chunk, Extraction, Filter};
pub use fold::Folded;
pub use guard::KeptGuards;
pub use init::{FLAG_INTEGER_KEY, FLAGS};
pub use internals::{has_internals, internal_faults};
pub use judge::Judgement;
pub use judged::{Chunks as RoundChunks, Deed, Judged, NOT_ALLOWED, RowJudge, Sight};
pub use position::{Inside, Position};
pub use progress::Progress;
pub use range_answer::{CheckAnswer, Sight as TableSight, Viewer};
pub use replica::{ForeignKeys, Replica};
pub use status::{SETTINGS, Setting, TEXT_SETTINGS, TextSetting};
pub use storage::quote_identifier;
pub use uuid::UuidSource;

use cloudsync_sqlite_ffi::Output;

/// Part `index`, from 0, of a packed key; `None` beyond its end.
///
/// # Errors
/// When the bytes are no packed key.
pub fn pk_decode(pk: &[u8], index: usize) -> Result<Option<Output>> {
    let damaged =
        |_| Error::Usage("the BLOB is no packed key, as cloudsync_quarantine.pk holds them".to_owned());
    let parts: Vec<_> = cloudsync_core::key::unpack(pk).collect::<Result<_, _>>().map_err(damaged)?;
    Ok(parts.get(index).map(|part| match part {
        cloudsync_core::key::KeyPart::Integer(integer) => Output::Integer(*integer),
        cloudsync_core::key::KeyPart::Real(real) => Output::Real(*real),
        cloudsync_core::key::KeyPart::Blob(blob) => Output::Blob(blob.to_vec()),
        text => match text.to_value() {
            cloudsync_core::value::Value::Text(text) => {
                Output::Text(String::from_utf8_lossy(&text).into_owned())
            }
            _ => Output::Null,
        },
    }))
}
