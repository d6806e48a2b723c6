//! Public keys of issuers (RFC 7517, RFC 7518), and sets of them that lie at a URL.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;
use ureq::http::Uri;

/// Largest set of keys, in bytes.
pub const SET_BYTES_MAX: usize = 256 << 10;
/// Most keys of a set that are looked at.
const KEYS_MAX: usize = 100;
/// How long to wait for a set.
const FETCH_MAX: Duration = Duration::from_secs(5);
/// After this a set is fetched again, so that a key that its issuer took back ends.
const FRESH_MS: u64 = 10 * 60_000;
/// How soon a set is asked for again at the earliest: tokens with invented names of keys must not make this server
/// knock at another one.
const TRY_MS: u64 = 30_000;
/// How long a set is still good when it cannot be fetched again.
const STALE_MS: u64 = 24 * 3_600_000;

/// How tokens may be signed by a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, keys of 2,048 to 8,192 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The algorithm of that name in RFC 7518 or RFC 8037.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// The key, unless it is of a kind that is not known here or not meant for signatures.
    fn into_key(self) -> Option<PublicKey> {
        if self.r#use.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: bytes(self.n)?, e: bytes(self.e)? },
            ("EC", Some("P-256")) => Material::P256([vec![4], bytes(self.x)?, bytes(self.y)?].concat()),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(self.x)?),
            _ => return None,
        };
        let key = PublicKey { id: self.kid, material };
        let fits = self.alg.is_none_or(|name| Algorithm::named(&name) == Some(key.algorithm()));
        fits.then_some(key)
    }
}

impl PublicKey {
    /// Reads a set of keys. Keys of a kind that is not known here are passed over, as RFC 7517 asks for.
    ///
    /// # Errors
    /// When it is no set, is too large, or holds no key that can be used, in words for the owner.
    pub fn read_set(json: &[u8]) -> Result<Vec<Self>, String> {
        if json.len() > SET_BYTES_MAX {
            return Err(format!("the set of keys is larger than {SET_BYTES_MAX} bytes"));
        }
        let set: Set =
            serde_json::from_slice(json).map_err(|error| format!("no set of keys (JWKS): {error}"))?;
        let jwks =
            set.keys.into_iter().take(KEYS_MAX).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<_> = jwks.filter_map(Jwk::into_key).collect();
        if keys.is_empty() {
            return Err("there is no key for RS256, ES256 or EdDSA in the set".into());
        }
        Ok(keys)
    }

    /// Its name in the set.
    #[must_use]
    pub fn id(&self) -> Option<&String> {
        self.id.as_ref()
    }

    /// The only algorithm for which it is taken.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether the owner of the key has signed that.
    #[must_use]
    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature),
        };
        verified.is_ok()
    }
}

/// Gets what lies at a URL.
pub type Fetch = dyn Fn(&str) -> Result<Vec<u8>, String> + Send + Sync;

/// Sets of keys that lie at URLs, fetched when they are needed and kept for a while.
pub struct KeySets {
    fetch: Box<Fetch>,
    slots: Mutex<HashMap<String, Arc<Mutex<Slot>>>>,
}

#[derive(Default)]
struct Slot {
    keys: Option<Arc<Vec<PublicKey>>>,
    fetched_ms: u64,
    tried_ms: Option<u64>,
    failure: String,
}

impl KeySets {
    /// No set yet.
    #[must_use]
    pub fn new(fetch: Box<Fetch>) -> Self {
        Self { fetch, slots: Mutex::default() }
    }

    /// The keys at `url`, by HTTPS. They are fetched when there are none, when they are ten minutes old, or when
    /// `wanted` is not among them, but not more than twice a minute. What was fetched before stays good for a day if
    /// the issuer cannot be reached. May wait for the network.
    ///
    /// # Errors
    /// Why there are no keys.
    pub fn keys(&self, url: &str, wanted: Option<&str>, now_ms: u64) -> Result<Arc<Vec<PublicKey>>, String> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(url.to_owned()).or_default())
        };
        // Others that want this set wait here while it is fetched.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = now_ms.saturating_sub(slot.fetched_ms) < FRESH_MS;
        let has_wanted = |keys: &Arc<Vec<PublicKey>>| {
            wanted.is_none_or(|id| keys.iter().any(|key| key.id().is_some_and(|known| known == id)))
        };
        let is_enough = is_fresh && slot.keys.as_ref().is_some_and(has_wanted);
        let may_try = slot.tried_ms.is_none_or(|tried_ms| now_ms.abs_diff(tried_ms) >= TRY_MS);
        if !is_enough && may_try {
            slot.tried_ms = Some(now_ms);
            match (self.fetch)(url).and_then(|json| PublicKey::read_set(&json)) {
                Ok(keys) => {
                    slot.keys = Some(Arc::new(keys));
                    slot.fetched_ms = now_ms;
                }
                Err(failure) => {
                    tracing::warn!(url, failure, "the keys of an issuer cannot be fetched");
                    slot.failure = failure;
                }
            }
        }
        let is_good = now_ms.saturating_sub(slot.fetched_ms) < STALE_MS;
        slot.keys.clone().filter(|_| is_good).ok_or_else(|| slot.failure.clone())
    }
}

impl std::fmt::Debug for KeySets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KeySets").finish_non_exhaustive()
    }
}

/// Whether keys may be fetched from there: by HTTPS, or from this machine.
#[must_use]
pub fn is_safe_url(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_local,
        _ => false,
    }
}

/// Fetches a set of keys by HTTP(S). Redirects are not followed: the URL that the owner has named is the one to trust.
///
/// # Errors
/// When the answer is not there within five seconds, is no success, or is too large.
pub fn fetch(url: &str) -> Result<Vec<u8>, String> {
    if !is_safe_url(url) {
        return Err("keys are fetched by https only".into());
    }
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(FETCH_MAX))
        .max_redirects(0)
        .user_agent(concat!("cloudsync/", env!("CARGO_PKG_VERSION")))
        .tls_config(
            ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build(),
        )
        .build()
        .new_agent();
    let response = agent.get(url).call().map_err(|error| error.to_string())?;
    if response.status() != 200 {
        return Err(format!("the answer has status {}", response.status()));
    }
    let mut json = Vec::new();
    let mut body = response.into_body().into_reader().take(SET_BYTES_MAX as u64 + 1);
    body.read_to_end(&mut json).map_err(|error| error.to_string())?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn set(ids: &[&str]) -> String {
        let key =
            |id: &&str| format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}","kid":"{id}"}}"#, "A".repeat(43));
        format!(r#"{{"keys":[{}]}}"#, ids.iter().map(key).collect::<Vec<_>>().join(","))
    }

    fn ids(keys: &[PublicKey]) -> Vec<&str> {
        keys.iter().filter_map(|key| key.id().map(String::as_str)).collect()
    }

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let json = r#"{"keys":[
            {"kty":"oct","k":"AAAA","kid":"secret"},
            {"kty":"RSA","n":"AQAB","e":"AQAB","kid":"for encryption","use":"enc"},
            {"kty":"RSA","n":"AQAB","e":"AQAB","kid":"for another algorithm","alg":"RS512"},
            {"kty":"EC","crv":"P-521","x":"AAAA","y":"AAAA","kid":"large"},
            {"kty":"RSA","n":"not base64!","e":"AQAB","kid":"damaged"},
            {"kid":"without a type"}, 7,
            {"kty":"RSA","n":"AQAB","e":"AQAB","kid":"good","use":"sig","alg":"RS256"}]}"#;
        assert_eq!(ids(&PublicKey::read_set(json.as_bytes()).unwrap()), ["good"]);
        for json in ["", "[]", "{}", r#"{"keys":7}"#, r#"{"keys":[]}"#, &" ".repeat(SET_BYTES_MAX + 1)] {
            assert!(PublicKey::read_set(json.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_set_is_fetched_again_for_an_unknown_key_but_not_at_every_call() {
        let fetched = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fetched);
        let sets = KeySets::new(Box::new(move |_| {
            Ok(match count.fetch_add(1, Ordering::Relaxed) {
                0 => set(&["old"]),
                1 | 2 => set(&["old", "new"]),
                _ => set(&["new"]),
            }
            .into_bytes())
        }));
        let known = |id, now_ms| ids(&sets.keys("u", Some(id), now_ms).unwrap()).len();
        let begin = 1_000_000;
        assert_eq!((known("old", begin), fetched.load(Ordering::Relaxed)), (1, 1));
        assert_eq!((known("new", begin + TRY_MS - 1), fetched.load(Ordering::Relaxed)), (1, 1));
        assert_eq!((known("new", begin + TRY_MS), fetched.load(Ordering::Relaxed)), (2, 2));
        assert_eq!((known("old", begin + TRY_MS + FRESH_MS - 1), fetched.load(Ordering::Relaxed)), (2, 2));
        assert_eq!((known("old", begin + TRY_MS + FRESH_MS), fetched.load(Ordering::Relaxed)), (2, 3));
        // A key that its issuer has taken back ends.
        let keys = sets.keys("u", Some("old"), begin + TRY_MS + 2 * FRESH_MS).unwrap();
        assert_eq!((ids(&keys), fetched.load(Ordering::Relaxed)), (vec!["new"], 4));
    }

    #[test]
    fn an_issuer_that_is_away_locks_nobody_out_for_a_day() {
        let fetched = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fetched);
        let sets = KeySets::new(Box::new(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(set(&["a"]).into_bytes()),
            _ => Err("away".into()),
        }));
        assert!(sets.keys("u", None, 1).is_ok());
        assert!(sets.keys("u", None, STALE_MS).is_ok());
        assert_eq!(sets.keys("u", None, STALE_MS + 1).unwrap_err(), "away");
        assert!(sets.keys("other", None, 1).is_err());
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for url in
            ["https://id.example/keys", "http://127.0.0.1:9/k", "http://localhost/k", "http://[::1]:8/k"]
        {
            assert!(is_safe_url(url), "{url}");
        }
        for url in
            ["", "http://id.example/keys", "ftp://localhost/k", "file:///etc/passwd", "https:", "keys.json"]
        {
            assert!(!is_safe_url(url), "{url}");
        }
        assert!(fetch("http://id.example/keys").is_err());
    }
}
