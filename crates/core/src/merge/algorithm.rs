//! The algorithms by which a table's rows merge.

use core::fmt;

/// How the rows of a table merge; `docs/merge.md` defines each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// Causal length: a deletion beats concurrent writes, an insertion again begins a new life.
    #[default]
    Cls,
    /// A deletion wins until an insertion again that has seen it.
    Dws,
    /// A write wins over a deletion that has not seen it.
    Aws,
    /// Grow only: nothing is ever deleted.
    Gos,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cls, Self::Dws, Self::Aws, Self::Gos];

    /// The name by which `cloudsync_init` and schema descriptions call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Dws => "dws",
            Self::Aws => "aws",
            Self::Gos => "gos",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn algorithms_have_names_of_their_own() {
        let all = [Algorithm::Cls, Algorithm::Dws, Algorithm::Aws, Algorithm::Gos];
        assert_eq!(all.map(|algorithm| algorithm.to_string()), ["cls", "dws", "aws", "gos"]);
        for algorithm in all {
            assert_eq!(Algorithm::named(&algorithm.to_string()), Some(algorithm));
        }
        assert_eq!(Algorithm::named("lww"), None);
        assert_eq!(Algorithm::named(""), None);
    }
}
