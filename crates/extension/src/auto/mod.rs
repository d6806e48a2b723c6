//! Automatic sync: a thread of this process that syncs one file while the app does something else.
//!
//! There is one [`engine`] per process and file, whatever the number of connections that asked for it ([`registry`]). Its
//! `worker` thread has a connection of its own, opened through the host's own SQLite, and takes no hook. It finds commits
//! of any process by looking ([`watch`]), syncs, and sleeps ([`pace`] says for how long). Its `listener` thread holds one
//! connection to the server, which tells when there is something to fetch.
//!
//! Nothing of it is ever waited for without a bound: a host that closes its connection or exits goes on at once, and a
//! thread that is in the middle of a request then ends by itself, without touching the file again.

mod engine;
mod listener;
mod pace;
mod registry;
mod status;
mod watch;
mod worker;

pub(crate) use engine::Handle;
pub(crate) use registry::{FileKey, attach, find};
pub(crate) use status::{describe, last_report};
pub(crate) use worker::{INTERVAL, check, scrub};
