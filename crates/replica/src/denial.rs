//! Why the server refused a row, in one word: for whoever counts, never for the row's sender.

use crate::apply::WAITS_FOR_REST;
use crate::judged::NOT_ALLOWED;

/// Why a row was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// No policy allows it, or there is no such row for its sender.
    Policy,
    /// Another row has a value that only one may have.
    Unique,
    /// Its parent is missing, or it has children.
    ForeignKey,
    /// A CHECK constraint.
    Check,
    /// A value is missing.
    NotNull,
    /// Only a part of the row came.
    Incomplete,
    /// A trigger that raises, a type that a STRICT table does not take, and what else SQLite refuses.
    Other,
}

/// What stands in SQLite's and our own texts, and what it means. What policies refuse comes last: other reasons stand behind it.
const TEXTS: [(&str, Denial); 6] = [
    ("UNIQUE constraint failed", Denial::Unique),
    ("FOREIGN KEY", Denial::ForeignKey),
    ("CHECK constraint failed", Denial::Check),
    ("NOT NULL constraint failed", Denial::NotNull),
    (WAITS_FOR_REST, Denial::Incomplete),
    (NOT_ALLOWED, Denial::Policy),
];

impl Denial {
    /// What a text of the quarantine means.
    pub(crate) fn of(reason: &str) -> Self {
        let known = TEXTS.iter().find(|(text, _)| reason.contains(text));
        known.map_or(Self::Other, |(_, denial)| *denial)
    }

    /// Its name, as a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Unique => "unique",
            Self::ForeignKey => "foreign_key",
            Self::Check => "check",
            Self::NotNull => "not_null",
            Self::Incomplete => "incomplete",
            Self::Other => "other",
        }
    }
}
