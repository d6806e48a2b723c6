//! Places in a download as a device of a user holds them: sealed, because they name keys and counts of rows that the user
//! may not see.
//!
//! ```text
//! 3, nonce 12 bytes, the place encrypted (ChaCha20-Poly1305), tag 16 bytes
//! ```
//! The key is the database's own (`place_secret` in its settings), the site is authenticated with the place. The nonce is
//! made from what is sealed, so one place is sealed in one way, and no counter is needed. The place is filled up to a
//! multiple of 64 bytes: its length would tell that of a key.

use cloudsync_core::id::SiteId;
use cloudsync_replica::Error;
use cloudsync_sqlite_ffi::Connection;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

/// Told apart from the kinds of [`Position`](cloudsync_replica::Position) by this.
const KIND: u8 = 3;
/// What the length of a place is a multiple of, in bytes.
const STEP_BYTES: usize = 64;
/// Bytes of the secret: of the cipher's key, and of the one that nonces are made with.
const KEY_BYTES: usize = 32;

// language=SQLite
const SECRET: &str = "SELECT value FROM main.cloudsync_settings WHERE key = 'place_secret'";

/// Draws the secret of a file that has none. The caller holds the transaction.
pub(crate) fn prepare(db: &Connection) -> Result<(), Error> {
    // language=SQLite
    let sql =
        "INSERT OR IGNORE INTO main.cloudsync_settings(key, value) VALUES('place_secret', randomblob(64))";
    Ok(db.execute(sql)?)
}

/// Seals the places of one site.
pub(super) struct Seal {
    cipher: LessSafeKey,
    nonces: hmac::Key,
    site: SiteId,
}

impl Seal {
    pub(super) fn of(db: &Connection, site: SiteId) -> Result<Self, Error> {
        let secret = db.query_blob(SECRET, &[])?.unwrap_or_default();
        let (cipher, nonces) = secret.split_at_checked(KEY_BYTES).ok_or_else(damaged)?;
        let cipher = UnboundKey::new(&CHACHA20_POLY1305, cipher).map_err(|_| damaged())?;
        let nonces = hmac::Key::new(hmac::HMAC_SHA256, nonces);
        Ok(Self { cipher: LessSafeKey::new(cipher), nonces, site })
    }

    pub(super) fn close(&self, place: &[u8]) -> Result<Vec<u8>, Error> {
        let mut sealed = place.to_vec();
        sealed.push(1);
        sealed.resize(sealed.len().next_multiple_of(STEP_BYTES), 0);
        let mut context = hmac::Context::with_key(&self.nonces);
        context.update(&self.site.0);
        context.update(&sealed);
        let nonce = context.sign().as_ref().first_chunk::<NONCE_LEN>().copied().ok_or_else(damaged)?;
        let with = Nonce::assume_unique_for_key(nonce);
        self.cipher
            .seal_in_place_append_tag(with, Aad::from(self.site.0), &mut sealed)
            .map_err(|_| damaged())?;
        Ok([&[KIND], &nonce[..], &sealed].concat())
    }

    /// What was sealed for this site; `None` for anything else.
    pub(super) fn open(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = bytes.strip_prefix(&[KIND])?.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let with = Nonce::assume_unique_for_key(*nonce);
        let place = self.cipher.open_in_place(with, Aad::from(self.site.0), &mut sealed).ok()?;
        let end = place.iter().rposition(|byte| *byte != 0)?;
        Some(place[..end].to_vec())
    }
}

fn damaged() -> Error {
    Error::State("the secret by which places of users are sealed is missing or damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(site: u8) -> Seal {
        let cipher = UnboundKey::new(&CHACHA20_POLY1305, &[7; KEY_BYTES]).unwrap();
        let nonces = hmac::Key::new(hmac::HMAC_SHA256, &[8; KEY_BYTES]);
        Seal { cipher: LessSafeKey::new(cipher), nonces, site: SiteId([site; 16]) }
    }

    #[test]
    fn places_are_opened_by_their_site_alone_and_tell_nothing() {
        for bytes in [0, 1, 62, 63, 64, 1000] {
            let place = vec![b'x'; bytes];
            let sealed = seal(1).close(&place).unwrap();
            assert_eq!(sealed, seal(1).close(&place).unwrap(), "the same place is the same bytes");
            assert_eq!(seal(1).open(&sealed), Some(place.clone()));
            assert_eq!(seal(2).open(&sealed), None);
            assert!(bytes < 8 || !sealed.windows(8).any(|window| window == b"xxxxxxxx"));
            for at in [1, NONCE_LEN, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(seal(1).open(&changed), None);
            }
            assert!((0..sealed.len()).all(|end| seal(1).open(&sealed[..end]).is_none()));
        }
        let lengths = [1, 40, 62].map(|bytes| seal(1).close(&vec![0; bytes]).unwrap().len());
        assert_eq!(lengths, [lengths[0]; 3]);
    }
}
