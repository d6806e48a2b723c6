//! API keys: 256 random bits as text, of which only the hash is stored.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::error::{Error, Result};

const START: &str = "csk_";
const RANDOM_BYTES: usize = 32;
/// Characters of a key: `csk_` and 32 bytes in base64url without padding.
const CHARS: usize = START.len() + (RANDOM_BYTES * 8).div_ceil(6);
/// Characters of a key that lists show: enough to tell keys apart, while 208 bits stay secret.
const PREFIX_CHARS: usize = START.len() + 8;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An API key. It is printed once, on purpose; [`Debug`](fmt::Debug) shows no more than its prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// What is stored of a key. The key is random, so a fast hash without salt tells nothing about it.
#[derive(Debug, Clone, Copy)]
pub struct KeyHash(pub [u8; 32]);

impl Key {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// [`Error::Random`] when the system gives none.
    pub fn generate() -> Result<Self> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        Ok(Self(format!("{START}{}", base64url(&bytes))))
    }

    /// The key in `text`, if that has a key's form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let random = text.strip_prefix(START)?;
        let fits = text.len() == CHARS && random.bytes().all(|byte| ALPHABET.contains(&byte));
        fits.then(|| Self(text.to_owned()))
    }

    /// The whole key, for the one who shall use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first characters, for lists.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0[..PREFIX_CHARS]
    }

    /// What is stored of the key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({}...)", self.prefix())
    }
}

impl KeyHash {
    /// Whether the stored bytes are this hash; takes the same time wherever they differ.
    #[must_use]
    pub fn is(&self, stored: &[u8]) -> bool {
        self.0.ct_eq(stored).into()
    }
}

fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(6));
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for at in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_that_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xFB, 0xFF, 0xFE]), "-__-");
    }

    #[test]
    fn keys_are_distinct_and_keep_their_form() {
        let (one, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.reveal().len(), 47);
        assert_eq!(Key::parse(one.reveal()), Some(one.clone()));
        assert!(one.hash().is(&one.hash().0));
        assert!(!one.hash().is(&other.hash().0));
        assert!(!one.hash().is(&one.hash().0[..31]));
        assert!(!format!("{one:?}").contains(one.reveal()));
    }

    #[test]
    fn texts_of_another_form_are_no_keys() {
        let random = "A".repeat(43);
        assert!(Key::parse(&format!("csk_{random}")).is_some());
        for text in ["", "csk_", &random, &format!("csk_{random}A"), &format!("csk_{}", "\u{e4}".repeat(22))]
        {
            assert!(Key::parse(text).is_none(), "{text:?}");
        }
    }
}
