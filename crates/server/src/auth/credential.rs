//! API keys and opaque tokens: 256 random bits as text, of which only the hash is stored.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::error::{Error, Result};

const RANDOM_BYTES: usize = 32;
/// Characters of that many bytes in base64url without padding.
const RANDOM_CHARS: usize = (RANDOM_BYTES * 8).div_ceil(6);
/// Characters before the random ones.
const START_CHARS: usize = 4;
/// Characters that lists show: enough to tell credentials apart, while 208 bits stay secret.
const PREFIX_CHARS: usize = START_CHARS + 8;

/// What a credential stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An API key: a program of the owner, which sees everything.
    Key,
    /// A token: one user of the app, who sees what policies allow.
    Token,
}

impl Kind {
    /// The four characters at the beginning.
    #[must_use]
    pub const fn start(self) -> &'static str {
        match self {
            Self::Key => "csk_",
            Self::Token => "cst_",
        }
    }
}

/// A key or a token. It is printed once, on purpose; [`Debug`](fmt::Debug) shows no more than its prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    kind: Kind,
    text: String,
}

/// What is stored of a credential. It is random, so a fast hash without salt tells nothing about it.
#[derive(Debug, Clone, Copy)]
pub struct Hash(pub [u8; 32]);

impl Credential {
    /// A new one from the system's random numbers.
    ///
    /// # Errors
    /// [`Error::Random`] when the system gives none.
    pub fn generate(kind: Kind) -> Result<Self> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        Ok(Self { kind, text: format!("{}{}", kind.start(), URL_SAFE_NO_PAD.encode(bytes)) })
    }

    /// The credential in `text`, if that has the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind = [Kind::Key, Kind::Token].into_iter().find(|kind| text.starts_with(kind.start()))?;
        let random = text.get(START_CHARS..)?;
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = random.len() == RANDOM_CHARS && random.bytes().all(is_base64url);
        fits.then(|| Self { kind, text: text.to_owned() })
    }

    /// What it stands for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole text, for the one who shall use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The first characters, for lists.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.text[..PREFIX_CHARS]
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash(Sha256::digest(self.text.as_bytes()).into())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}({}...)", self.kind, self.prefix())
    }
}

impl Hash {
    /// Whether the stored bytes are this hash; takes the same time wherever they differ.
    #[must_use]
    pub fn is(&self, stored: &[u8]) -> bool {
        self.0.ct_eq(stored).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_distinct_and_keep_their_form() {
        for kind in [Kind::Key, Kind::Token] {
            let (one, other) = (Credential::generate(kind).unwrap(), Credential::generate(kind).unwrap());
            assert_ne!(one, other);
            assert_eq!(one.reveal().len(), 47);
            assert_eq!(one.kind(), kind);
            assert_eq!(Credential::parse(one.reveal()), Some(one.clone()));
            assert!(one.hash().is(&one.hash().0));
            assert!(!one.hash().is(&other.hash().0));
            assert!(!one.hash().is(&one.hash().0[..31]));
            assert!(!format!("{one:?}").contains(one.reveal()));
        }
    }

    #[test]
    fn texts_of_another_form_are_no_credentials() {
        let random = "A".repeat(43);
        assert!(Credential::parse(&format!("csk_{random}")).is_some());
        assert!(Credential::parse(&format!("csx_{random}")).is_none());
        for text in ["", "csk_", &random, &format!("csk_{random}A"), &format!("csk_{}", "\u{e4}".repeat(22))]
        {
            assert!(Credential::parse(text).is_none(), "{text:?}");
        }
    }
}
