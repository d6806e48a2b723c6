//! Signed tokens (RFC 7519, RFC 7515): read, and verified against the issuers that the owner has named.
//!
//! What a token says of itself decides nothing: the issuer's own kind of key says which algorithm is taken. A secret
//! verifies HS256 and nothing else, a public key the one algorithm of its type, so that neither `none` nor a public key
//! used as a secret gets in (RFC 8725, section 3.1).

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::jwks::{Algorithm, KeySets, PublicKey};
use super::principal::{User, check_user};
use crate::control::{Issuer, Trust};

/// Longest token, in bytes. Headers of requests are bounded at about twice that.
pub const JWT_BYTES_MAX: usize = 8 << 10;
/// How far the clocks of an issuer and this server may differ, in seconds.
const LEEWAY_S: f64 = 60.0;

/// A token of the right form, of which nothing is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwt {
    text: String,
    algorithm: String,
    key_id: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that whoever verifies must know (RFC 7515, section 4.1.11). None is known here.
    crit: Option<Value>,
}

/// Why a token is not taken. For the log: the caller is told nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No issuer of the database uses this kind of signature.
    #[error("no issuer of this database signs with {0}")]
    Algorithm(String),
    /// The issuer has no such key.
    #[error("the issuer has no key that fits")]
    UnknownKey,
    /// The keys cannot be had.
    #[error("the issuer's keys cannot be read: {0}")]
    Keys(String),
    /// The signature is another one.
    #[error("the signature is wrong")]
    Signature,
    /// A claim is missing or wrong.
    #[error("the claim {0} is missing or wrong")]
    Claim(&'static str),
    /// It is over.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet.
    #[error("it is not valid yet")]
    Early,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose token it is.
    pub user: User,
    /// When it is over, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Jwt {
    /// The token in `text`, if that has the form of one: three parts, the first of which is a header that can be read.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > JWT_BYTES_MAX || text.split('.').count() != 3 {
            return None;
        }
        let header = URL_SAFE_NO_PAD.decode(text.split('.').next()?).ok()?;
        let Header { alg, kid, crit } = serde_json::from_slice(&header).ok()?;
        crit.is_none().then(|| Self { text: text.to_owned(), algorithm: alg, key_id: kid })
    }

    /// Verifies the token by one of the issuers.
    ///
    /// # Errors
    /// [`Refused`], of the issuer that came nearest.
    pub fn verify(
        &self,
        issuers: &[Arc<Issuer>],
        sets: &KeySets,
        now_ms: u64,
    ) -> Result<(usize, Verified), Refused> {
        let mut refused = Refused::Algorithm(self.algorithm.clone());
        for (at, issuer) in issuers.iter().enumerate() {
            let verified = self
                .verify_signature(&issuer.trust, sets, now_ms)
                .and_then(|()| self.judge_claims(issuer, now_ms));
            match verified {
                Ok(verified) => return Ok((at, verified)),
                Err(Refused::Algorithm(_)) => {}
                Err(other) => refused = other,
            }
        }
        Err(refused)
    }

    fn verify_signature(&self, trust: &Trust, sets: &KeySets, now_ms: u64) -> Result<(), Refused> {
        let (signed, signature) = self.text.rsplit_once('.').ok_or(Refused::Signature)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Signature)?;
        let signed = signed.as_bytes();
        if let Trust::Secret(secret) = trust {
            if self.algorithm != "HS256" {
                return Err(Refused::Algorithm(self.algorithm.clone()));
            }
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
            return hmac::verify(&key, signed, &signature).map_err(|_| Refused::Signature);
        }
        let Some(algorithm) = Algorithm::named(&self.algorithm) else {
            return Err(Refused::Algorithm(self.algorithm.clone()));
        };
        let keys = match trust {
            Trust::Keys(json) => Arc::new(PublicKey::read_set(json.as_bytes()).map_err(Refused::Keys)?),
            Trust::Url(url) => sets.keys(url, self.key_id.as_deref(), now_ms).map_err(Refused::Keys)?,
            Trust::Secret(_) => return Err(Refused::UnknownKey),
        };
        let mut fitting = keys.iter().filter(|key| key.algorithm() == algorithm);
        let key = match &self.key_id {
            Some(id) => fitting.find(|key| key.id() == Some(id)),
            // Without a name there must be no choice.
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        match key.ok_or(Refused::UnknownKey)?.verifies(signed, &signature) {
            true => Ok(()),
            false => Err(Refused::Signature),
        }
    }

    /// Judges what a token with a good signature says.
    fn judge_claims(&self, issuer: &Issuer, now_ms: u64) -> Result<Verified, Refused> {
        let payload = self.text.split('.').nth(1).unwrap_or_default();
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refused::Claim("set"))?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&payload).map_err(|_| Refused::Claim("set"))?;
        if claims.get("iss").and_then(Value::as_str) != Some(&issuer.issuer) {
            return Err(Refused::Claim("iss"));
        }
        let is_meant =
            |value: &Value| value.as_str().is_some_and(|to| issuer.audiences.iter().any(|ours| ours == to));
        let is_for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_meant),
            Some(one) => is_meant(one),
            None => false,
        };
        if !is_for_us {
            return Err(Refused::Claim("aud"));
        }
        let now_s = now_ms as f64 / 1000.0;
        let time = |name: &'static str| match claims.get(name) {
            Some(value) => value.as_f64().map(Some).ok_or(Refused::Claim(name)),
            None => Ok(None),
        };
        let expires_s = time("exp")?.ok_or(Refused::Claim("exp"))? + LEEWAY_S;
        if now_s >= expires_s {
            return Err(Refused::Expired);
        }
        if time("nbf")?.is_some_and(|from_s| now_s < from_s - LEEWAY_S) {
            return Err(Refused::Early);
        }
        let id =
            claims.get(&issuer.user_claim).and_then(Value::as_str).ok_or(Refused::Claim("user"))?.to_owned();
        let user = User { id, claims };
        check_user(&user).map_err(|_| Refused::Claim("user"))?;
        // What lies beyond the range of the type is as good as never.
        Ok(Verified { user, expires_ms: (expires_s * 1000.0) as u64 })
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Jwt({}, {:?}, ...)", self.algorithm, self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{IssuerId, Secret};
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair,
    };
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of at least 32 bytes, really";
    const NOW_MS: u64 = 1_790_000_000_000;
    const NOW_S: u64 = NOW_MS / 1000;

    fn encode(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn sign_with(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Jwt {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
        Jwt::parse(&format!("{signed}.{signature}")).unwrap()
    }

    fn hs256(secret: &[u8], claims: &Value) -> Jwt {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        sign_with(&json!({"alg": "HS256", "typ": "JWT"}), claims, |signed| {
            hmac::sign(&key, signed).as_ref().to_vec()
        })
    }

    fn claims() -> Value {
        json!({"iss": "https://id.example", "aud": ["other", "notes"], "sub": "alice", "exp": NOW_S + 600, "team": 7})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    fn issuer(trust: Trust) -> Arc<Issuer> {
        Arc::new(Issuer {
            id: IssuerId(1),
            issuer: "https://id.example".into(),
            audiences: vec!["notes".into()],
            user_claim: "sub".into(),
            trust,
        })
    }

    fn by_secret() -> Arc<Issuer> {
        issuer(Trust::Secret(Secret(SECRET.to_vec())))
    }

    fn judge(jwt: &Jwt, issuers: &[Arc<Issuer>]) -> Result<Verified, Refused> {
        let sets = KeySets::new(Box::new(|_| Err("no network".into())));
        jwt.verify(issuers, &sets, NOW_MS).map(|(_, verified)| verified)
    }

    #[test]
    fn a_good_token_says_who_its_user_is() {
        let verified = judge(&hs256(SECRET, &claims()), &[by_secret()]).unwrap();
        assert_eq!(verified.user.id, "alice");
        assert_eq!(verified.user.claims["team"], 7);
        assert_eq!(verified.expires_ms, (NOW_S + 660) * 1000);
        assert!(judge(&hs256(SECRET, &with("aud", json!("notes"))), &[by_secret()]).is_ok());
    }

    #[test]
    fn every_claim_that_decides_is_required() {
        let refused = |claims: &Value| judge(&hs256(SECRET, claims), &[by_secret()]).unwrap_err();
        for name in ["iss", "aud", "exp"] {
            assert_eq!(refused(&without(name)), Refused::Claim(name));
        }
        assert_eq!(refused(&without("sub")), Refused::Claim("user"));
        for (name, value) in [
            ("iss", json!("https://id.example/")),
            ("aud", json!("NOTES")),
            ("aud", json!([])),
            ("aud", json!({"notes": true})),
            ("exp", json!("tomorrow")),
            ("exp", json!(null)),
        ] {
            assert_eq!(refused(&with(name, value)), Refused::Claim(name));
        }
        for id in [json!(""), json!(7), json!("x".repeat(300)), json!("a\u{0}b")] {
            assert_eq!(refused(&with("sub", id)), Refused::Claim("user"));
        }
    }

    #[test]
    fn times_count_with_a_minute_of_leeway() {
        let refused = |claims: &Value| judge(&hs256(SECRET, claims), &[by_secret()]).err();
        assert_eq!(refused(&with("exp", json!(NOW_S - 59))), None);
        assert_eq!(refused(&with("exp", json!(NOW_S - 60))), Some(Refused::Expired));
        assert_eq!(refused(&with("exp", json!(-1e300))), Some(Refused::Expired));
        assert_eq!(refused(&with("exp", json!(1e300))), None);
        assert_eq!(refused(&with("nbf", json!(NOW_S + 60))), None);
        assert_eq!(refused(&with("nbf", json!(NOW_S + 61))), Some(Refused::Early));
        assert_eq!(refused(&with("nbf", json!("soon"))), Some(Refused::Claim("nbf")));
    }

    #[test]
    fn nothing_but_the_issuers_own_algorithm_is_taken() {
        let none = sign_with(&json!({"alg": "none"}), &claims(), |_| Vec::new());
        assert_eq!(judge(&none, &[by_secret()]), Err(Refused::Algorithm("none".into())));
        assert_eq!(
            judge(&hs256(b"another secret, also of 32 bytes", &claims()), &[by_secret()]),
            Err(Refused::Signature)
        );
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "a"}]}).to_string();
        // The public key is known to everybody: as a secret it must be worth nothing.
        for secret in [set.as_bytes(), x.as_bytes(), pair.public_key().as_ref()] {
            let forged = hs256(secret, &claims());
            assert_eq!(
                judge(&forged, &[issuer(Trust::Keys(set.clone()))]),
                Err(Refused::Algorithm("HS256".into()))
            );
        }
        assert_eq!(judge(&hs256(SECRET, &claims()), &[]), Err(Refused::Algorithm("HS256".into())));
    }

    #[test]
    fn public_keys_are_found_by_their_id() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p256 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let point = p256.public_key().as_ref();
        let [x, y, d] =
            [&point[1..33], &point[33..], ed.public_key().as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let set = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "ec", "use": "sig"},
            {"kty": "OKP", "crv": "Ed25519", "x": d, "kid": "ed", "alg": "EdDSA"},
            {"kty": "oct", "k": "AAAA", "kid": "oct"},
            {"kty": "future", "kid": "next"},
        ]});
        let trust = [issuer(Trust::Keys(set.to_string()))];
        let es256 = |kid: Value| {
            sign_with(&json!({"alg": "ES256", "kid": kid}), &claims(), |signed| {
                p256.sign(&random, signed).unwrap().as_ref().to_vec()
            })
        };
        let eddsa = |kid: &str| {
            let header = json!({"alg": "EdDSA", "kid": kid});
            sign_with(&header, &claims(), |signed| ed.sign(signed).as_ref().to_vec())
        };
        assert_eq!(judge(&es256(json!("ec")), &trust).unwrap().user.id, "alice");
        assert_eq!(judge(&es256(Value::Null), &trust).unwrap().user.id, "alice");
        assert_eq!(judge(&eddsa("ed"), &trust).unwrap().user.id, "alice");
        assert_eq!(judge(&eddsa("ec"), &trust), Err(Refused::UnknownKey));
        assert_eq!(judge(&es256(json!("oct")), &trust), Err(Refused::UnknownKey));
        assert_eq!(judge(&es256(json!("gone")), &trust), Err(Refused::UnknownKey));
        let mut damaged = eddsa("ed");
        damaged.text.truncate(damaged.text.len() - 2);
        assert_eq!(judge(&damaged, &trust), Err(Refused::Signature));
    }

    #[test]
    fn keys_of_rsa_verify_and_no_kind_of_key_stands_for_another() {
        use base64::engine::general_purpose::STANDARD;
        let random = SystemRandom::new();
        // Made for this test.
        let der = include_str!("../../tests/keys/rsa.txt").split_whitespace().collect::<String>();
        let rsa = RsaKeyPair::from_pkcs8(&STANDARD.decode(der).unwrap()).unwrap();
        let public: ring::rsa::PublicKeyComponents<Vec<u8>> = rsa.public().into();
        let [n, e] = [&public.n, &public.e].map(|part| URL_SAFE_NO_PAD.encode(part));
        let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = URL_SAFE_NO_PAD.encode(ed.public_key().as_ref());
        let set = json!({"keys": [
            {"kty": "RSA", "n": n, "e": e, "kid": "rsa"},
            {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "ed"},
        ]});
        let trust = [issuer(Trust::Keys(set.to_string()))];
        let by_rsa = |alg: &str, kid: Value| {
            sign_with(&json!({"alg": alg, "kid": kid}), &claims(), |signed| {
                let mut signature = vec![0; rsa.public().modulus_len()];
                rsa.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).unwrap();
                signature
            })
        };
        assert_eq!(judge(&by_rsa("RS256", json!("rsa")), &trust).unwrap().user.id, "alice");
        assert_eq!(judge(&by_rsa("RS256", Value::Null), &trust).unwrap().user.id, "alice");
        let others = claims().to_string().replace("alice", "mallory");
        let (head, tail) = (by_rsa("RS256", json!("rsa")), URL_SAFE_NO_PAD.encode(others));
        let parts: Vec<_> = head.text.split('.').collect();
        let forged = Jwt::parse(&format!("{}.{tail}.{}", parts[0], parts[2])).unwrap();
        assert_eq!(judge(&forged, &trust), Err(Refused::Signature));
        // The header names what another key would have to verify, or nothing that is known.
        for (alg, kid) in [
            ("EdDSA", "ed"),
            ("EdDSA", "rsa"),
            ("ES256", "rsa"),
            ("RS256", "ed"),
            ("PS256", "rsa"),
            ("rs256", "rsa"),
        ] {
            assert!(judge(&by_rsa(alg, json!(kid)), &trust).is_err(), "{alg} {kid}");
        }
        // A public key is no secret, in whatever form it is written.
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&public.n));
        for secret in [pem.as_bytes(), n.as_bytes(), &public.n, set.to_string().as_bytes()] {
            for issuers in [&trust[..], &[by_secret(), Arc::clone(&trust[0])]] {
                assert!(judge(&hs256(secret, &claims()), issuers).is_err());
            }
        }
    }

    #[test]
    fn the_first_issuer_that_verifies_counts_and_a_refusal_names_the_nearest() {
        let other = issuer(Trust::Secret(Secret(vec![1; 32])));
        let jwt = hs256(SECRET, &claims());
        let sets = KeySets::new(Box::new(|_| Err("no network".into())));
        assert_eq!(jwt.verify(&[Arc::clone(&other), by_secret()], &sets, NOW_MS).unwrap().0, 1);
        assert_eq!(judge(&jwt, &[other]), Err(Refused::Signature));
    }

    #[test]
    fn texts_of_another_form_are_no_tokens() {
        let good = hs256(SECRET, &claims()).text;
        assert!(Jwt::parse(&good).is_some());
        let critical = format!("{}.e30.AAAA", encode(&json!({"alg": "HS256", "crit": ["b64"]})));
        let long = format!("{good}{}", "A".repeat(JWT_BYTES_MAX));
        for text in ["", "..", "a.b.c", "e30.e30.", &critical, &long, &format!("{good}.AAAA"), &good[1..]] {
            assert!(Jwt::parse(text).is_none(), "{text:?}");
        }
        assert!(!format!("{:?}", Jwt::parse(&good).unwrap()).contains(&good[40..60]));
    }
}
