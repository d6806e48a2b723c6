//! The ledger: which rows each device of a user holds, and what follows from that for what it is sent.
//!
//! For each site two sets of rows are stored, by the ordinals of their clocks ([`holdings`]):
//!
//! - *may hold*: every row that was ever sent to it and not taken back for certain. Deletions and evictions go there.
//! - *surely holds*: what it has acknowledged. Of these rows changed cells are enough.
//!
//! | | surely holds | may hold | does not hold |
//! | --- | --- | --- | --- |
//! | visible | changed cells | whole row | whole row: a *grant* |
//! | not visible | *eviction* | *eviction* | nothing |
//! | deleted | deletion | deletion | nothing |
//!
//! A row that is sent is in *may hold* on disk before the answer leaves, and in *surely holds* only once the device asks
//! with the cursor that it was given. In between it is in the record of the site's download ([`record`]), together with
//! the place that the device was given. A download that is begun again forgets that record, and goes by the policies and
//! claims under which the device has what it has; sending a row twice is harmless. Whatever breaks in
//! between, the ledger errs to that side.
//!
//! Which rows are looked at: those that changed, and those whose visibility may have changed ([`regard`]). What policies
//! read beside the row itself is noted by triggers ([`watch`]), in every table that they read. Whoever listens is told of
//! what concerns them only ([`glance`]).

mod audience;
mod check;
mod glance;
mod holdings;
mod join;
mod line;
mod monotone;
mod place;
mod record;
mod regard;
mod seal;
mod watch;

pub(crate) use audience::{Given, pull};
pub(crate) use check::check;
pub(crate) use glance::{Commit, Device, Glance, concerns};
pub(crate) use holdings::{note_known, note_upload, note_verdicts};
pub(crate) use place::inner_position;
pub(crate) use record::{Posting, has_gone_on, post};
pub(crate) use seal::prepare;
pub(crate) use watch::{Watched, has_unstamped, stamp};

// language=SQLite
pub(crate) const CREATE: &str = "
CREATE TABLE IF NOT EXISTS cloudsync_server_ledger(
    id INTEGER PRIMARY KEY, may BLOB NOT NULL, surely BLOB);
CREATE TABLE IF NOT EXISTS cloudsync_server_downloads(
    site INTEGER PRIMARY KEY, base INTEGER NOT NULL, cursor INTEGER NOT NULL, position BLOB NOT NULL,
    granted BLOB NOT NULL, evicted BLOB NOT NULL, stamp INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cloudsync_server_watched(
    seq INTEGER PRIMARY KEY, version INTEGER, tbl TEXT NOT NULL, columns TEXT);
";
