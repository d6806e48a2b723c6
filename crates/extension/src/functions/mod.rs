//! The SQL functions: one table of them, and how they are registered and called.
//!
//! [`FUNCTIONS`] is the only list. The implementations stand by group: `configuration`, `information`, `payloads`,
//! `network`, `auto`, `session`, with the `credentials` that the last three use; `changes` and `chunks` are read as
//! tables.

#[cfg_attr(not(feature = "net"), path = "auto_absent.rs")]
mod auto;
mod call;
mod changes;
mod chunks;
mod configuration;
mod credentials;
mod information;
mod network;
mod payloads;
mod session;
mod table;

pub use call::Call;
#[cfg(feature = "net")]
pub(crate) use network::{report, timeouts};
pub(crate) use session::HostSession;
pub use table::FUNCTIONS;

use crate::error::{Error, Result};
use crate::state::State;
use cloudsync_sqlite_ffi::{self as ffi, Args, Connection, Context, FunctionError, FunctionFlags, Output};
use std::ops::RangeInclusive;
use std::rc::Rc;

/// One SQL function.
pub struct Function {
    /// Its name in SQL.
    pub name: &'static str,
    /// Names of the arguments that must be given.
    pub required: &'static [&'static str],
    /// Names of the arguments that may follow.
    pub optional: &'static [&'static str],
    /// The chapter of the documentation.
    pub group: Group,
    /// What it gives, in few words.
    pub gives: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// A call as one would write it.
    pub example: &'static str,
    /// From where it may be called.
    pub reach: Reach,
    /// The implementation.
    pub availability: Availability,
}

/// The chapters of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Which tables sync, and how.
    Configuration,
    /// What is going on.
    Information,
    /// Changes as bytes, for any transport.
    Payloads,
    /// Syncing with a server.
    Network,
}

/// From where a function may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Only from SQL that the host runs: it writes or goes to the network.
    Direct,
    /// From views and triggers too where the host trusts its schema: it reads.
    Trusted,
    /// From everywhere, also from a DEFAULT with `trusted_schema=off`: it is harmless.
    Everywhere,
    /// As [`Reach::Everywhere`], and the same arguments always give the same.
    Pure,
}

/// How a function can be called.
#[derive(Clone, Copy)]
pub enum Availability {
    /// It can; with its implementation.
    Now(fn(&Call<'_>) -> Result<Output>),
    /// It is a table to select from, registered by this; its arguments are given there.
    Table(Registration),
}

/// Registers a table on a connection.
#[derive(Clone, Copy)]
pub struct Registration(fn(&'static Function, Connection, Rc<State>) -> ffi::Result<()>);

impl Function {
    /// How many arguments it takes. Tables take any number where functions
    /// stand.
    #[must_use]
    pub fn arity(&self) -> RangeInclusive<usize> {
        match self.availability {
            Availability::Now(_) => self.required.len()..=self.required.len() + self.optional.len(),
            Availability::Table(_) => 0..=usize::MAX,
        }
    }

    /// The call with the names of its arguments: `cloudsync_init(table [, algorithm [, flags]])`.
    #[must_use]
    pub fn signature(&self) -> String {
        if matches!(self.availability, Availability::Table(_)) && self.required.is_empty() {
            return self.name.to_owned();
        }
        let mut text = format!("{}({}", self.name, self.required.join(", "));
        for (number, name) in self.optional.iter().enumerate() {
            let first = number == 0 && self.required.is_empty();
            text.push_str(if first { "[" } else { " [, " });
            text.push_str(name);
        }
        text.push_str(&"]".repeat(self.optional.len()));
        text.push(')');
        text
    }

    fn flags(&self) -> FunctionFlags {
        match self.reach {
            Reach::Direct => FunctionFlags::DIRECT_ONLY,
            Reach::Trusted => FunctionFlags::default(),
            Reach::Everywhere => FunctionFlags::INNOCUOUS,
            Reach::Pure => FunctionFlags { deterministic: true, ..FunctionFlags::INNOCUOUS },
        }
    }

    fn call(&'static self, context: &Context<'_>, args: &Args<'_>, state: &State) -> Result<Output> {
        let run = match self.availability {
            Availability::Now(run) => run,
            Availability::Table(_) => {
                return Err(Error::usage(format!("it is read as a table: {}", self.example)));
            }
        };
        if !self.arity().contains(&args.len()) {
            return Err(Error::usage(self.describe_arity(args.len())));
        }
        let call = Call::new(self, context.connection(), *args, state);
        credentials::wake(&call, self);
        run(&call)
    }

    /// The failure of a statement, under the function's name.
    fn failure(&self, error: &Error) -> FunctionError {
        FunctionError::new(error.code(), format!("{}: {error}", self.name))
    }

    fn describe_arity(&self, given: usize) -> String {
        let (least, most) = (self.required.len(), self.required.len() + self.optional.len());
        let wanted = match (least, most) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "1 argument".to_owned(),
            _ if least == most => format!("{least} arguments"),
            _ => format!("{least} to {most} arguments"),
        };
        format!("takes {wanted}, not {given}: {}", self.signature())
    }
}

/// Registers all functions on a connection.
///
/// Each name is registered for any number of arguments, so that a wrong number gets a text of ours.
///
/// # Errors
/// SQLite's own, as text.
pub(crate) fn register(connection: Connection) -> Result<(), String> {
    let state = Rc::new(State::new(connection.api()));
    for function in FUNCTIONS {
        let refused = |error| format!("cannot register {}: {error}", function.name);
        if let Availability::Table(Registration(register)) = function.availability {
            register(function, connection, Rc::clone(&state)).map_err(refused)?;
        }
        let state = Rc::clone(&state);
        let run = move |context: &Context<'_>, args: &Args<'_>| {
            function.call(context, args, &state).map_err(|error| function.failure(&error))
        };
        connection.create_function(function.name, -1, function.flags(), run).map_err(refused)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        let mut names: Vec<_> = FUNCTIONS.iter().map(|function| function.name).collect();
        assert!(names.iter().all(|name| name.starts_with("cloudsync_")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FUNCTIONS.len());
        for function in FUNCTIONS {
            assert!(function.doc.len() > 10 && !function.doc.contains('\n'), "{}", function.name);
            assert!(function.example.contains(function.name), "{}", function.name);
        }
    }

    #[test]
    fn signatures_show_what_may_be_left_out() {
        let signature = |name| FUNCTIONS.iter().find(|function| function.name == name).unwrap().signature();
        assert_eq!(signature("cloudsync_init"), "cloudsync_init(table [, algorithm [, flags]])");
        assert_eq!(signature("cloudsync_uuid"), "cloudsync_uuid()");
        assert_eq!(signature("cloudsync_changes"), "cloudsync_changes");
        assert_eq!(signature("cloudsync_payload_chunks"), "cloudsync_payload_chunks(since_version)");
        assert_eq!(signature("cloudsync_network_sync"), "cloudsync_network_sync([wait_ms [, max_retries]])");
    }
}
