//! What a key may do, as words.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// One thing that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Receive rows, and listen for news.
    Read,
    /// Send changes.
    Write,
    /// Bring tables and columns that the server does not have.
    Schema,
    /// All of it, and mint tokens.
    Admin,
}

impl Scope {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Schema, Self::Admin];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Schema => "schema",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a key may do. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Everything.
    pub const ADMIN: Self = Self(Scope::Admin.bit());

    /// Whether `scope` is among them; `admin` holds all others.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }
}

impl FromStr for Scopes {
    type Err = Error;

    /// Reads words with commas or spaces between them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let scopes = words.map(|word| {
            Scope::ALL
                .into_iter()
                .find(|scope| scope.name() == word)
                .ok_or_else(|| Error::Scope(word.to_owned()))
        });
        let bits =
            scopes.collect::<Result<Vec<_>, _>>()?.into_iter().fold(0, |bits, scope| bits | scope.bit());
        if bits == 0 { Err(Error::Scope(String::new())) } else { Ok(Self(bits)) }
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Scope::ALL.into_iter().filter(|scope| self.0 & scope.bit() != 0).map(Scope::name);
        formatter.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        for (text, written) in
            [("read", "read"), ("write,read", "read write"), (" schema  write ", "write schema")]
        {
            assert_eq!(text.parse::<Scopes>().unwrap().to_string(), written);
        }
        for text in ["", " ", "root", "read,all", "READ"] {
            assert!(text.parse::<Scopes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn admin_holds_all_others_and_nobody_else_does() {
        let scopes = |text: &str| text.parse::<Scopes>().unwrap();
        for scope in Scope::ALL {
            assert!(Scopes::ADMIN.has(scope));
            assert_eq!(scopes("read").has(scope), scope == Scope::Read);
            assert!(!Scopes::default().has(scope));
        }
    }
}
