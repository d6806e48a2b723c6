//! The peer that every device meets: databases and keys in one folder, the sync endpoint, and the command line.
//!
//! [`folder`] is the layout on disk, [`config`] what can be set, [`control`] the register of databases, keys and tokens,
//! [`auth`] who asks, [`registry`] the open stores, [`store`] what a store is, [`policy`] who may see and write which rows, [`schema_check`] what stands in the way of a table's syncing,
//! `ledger` what each device of a user holds, [`events`] what its listeners are told, [`http`] the doors to it, [`metrics`] what is counted and [`cli`] the commands. Commands and a running
//! server share nothing but the files: the server asks [`control`] on every request, so what a command changes holds at once.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod error;
pub mod events;
pub mod file_limit;
pub mod folder;
pub mod http;
mod ledger;
pub mod metrics;
pub mod policy;
pub mod registry;
pub mod schema_check;
mod sql_text;
pub mod store;

pub use error::{Error, Result};
