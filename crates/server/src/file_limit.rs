//! How many files and connections the system lets this process have open.

use std::fmt;

/// Of this many parts of the limit one is kept for databases and for requests; the rest is for listeners.
const PARTS: u64 = 4;
/// Listeners for which the limit should leave room.
const LISTENERS_WANTED: u64 = 10_000;

/// The limit on open files. As text it says what to do when it is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimit(Option<u64>);

impl FileLimit {
    /// The limit as it is told; `None` for none.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Self(limit)
    }

    /// Raises the limit as far as this process may, and gives what it then is. Where the system has no such limit, or
    /// does not tell, there is none.
    #[must_use]
    pub fn raise() -> Self {
        Self(raise())
    }

    /// The limit up to which a process started here could raise its own.
    #[must_use]
    pub fn look() -> Self {
        Self(look())
    }

    /// How many listeners there may be.
    #[must_use]
    pub fn listeners_max(self) -> usize {
        self.0.map_or(usize::MAX, |limit| usize::try_from(limit - limit / PARTS).unwrap_or(usize::MAX))
    }

    /// True when the limit leaves less room than a server of this kind may need.
    #[must_use]
    pub fn is_short(self) -> bool {
        self.0.is_some_and(|limit| limit - limit / PARTS < LISTENERS_WANTED)
    }
}

impl fmt::Display for FileLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => write!(
                formatter,
                "the limit on open files is {limit}, which is enough for {} listeners: raise it with `ulimit -n` or LimitNOFILE",
                self.listeners_max()
            ),
            None => write!(formatter, "there is no limit on open files"),
        }
    }
}

#[cfg(unix)]
fn raise() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if before.current != before.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(unix)]
fn look() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

#[cfg(not(unix))]
fn look() -> Option<u64> {
    None
}

#[cfg(not(unix))]
fn raise() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_kept_for_requests() {
        let limit = FileLimit(Some(1024));
        assert_eq!((limit.listeners_max(), limit.is_short()), (768, true));
        assert!(limit.to_string().contains("1024") && limit.to_string().contains("768 listeners"));
        assert!(!FileLimit(Some(20_000)).is_short() && !FileLimit(None).is_short());
    }
}
