//! What a change means.
//!
//! This crate holds the facts and the rule that every replica shares: what a value, a key and a clock are, and
//! what two replicas do with two of them ([`merge::decide`]). It knows neither databases nor networks, takes no
//! time and no randomness of its own, and never panics on data from outside.
//!
//! ```
//! use cloudsync_core::clock::{Clock, ColumnSet, RowClock, SiteOrdinal, Time};
//! use cloudsync_core::id::SiteId;
//! use cloudsync_core::merge::{decide, Action, Algorithm};
//!
//! let sites = [SiteId([1; 16]), SiteId([2; 16])];
//! let row = |time, site| RowClock::alive(1, Clock::new(Time(time), SiteOrdinal(site)), ColumnSet::first(2));
//! let ours = row(10, 0);
//! let theirs = row(20, 1);
//! let decision = decide(Algorithm::Cls, Some(&ours), &theirs, true, &sites, &mut |_| false);
//! assert_eq!(decision.action, Action::Update(ColumnSet::first(2)));
//! assert_eq!(decision.clock.as_ref(), Some(&theirs));
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod bytes;
pub mod clock;
pub mod coverage;
pub mod id;
pub mod key;
pub mod marks;
pub mod merge;
pub mod value;
