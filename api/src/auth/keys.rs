//! The published keys of an identity provider (RFC 7517), as far as they are used here.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// One key, and the one algorithm that it is for.
#[derive(Debug)]
pub(super) struct Key {
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// Keys by their `kid`, which is never anything but the key of this map.
#[derive(Debug, Default)]
pub(super) struct KeySet(HashMap<String, Arc<Key>>);

/// Why an answer holds no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("the answer is no set of keys: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the answer has {0} keys; at most {KEYS_MOST} are taken")]
    Many(usize),
    #[error("none of the {0} keys can be used: RSA of 2048 to 4096 bits and P-256 can, with a kid")]
    None(usize),
}

/// Providers publish two or three; each token looks one up.
const KEYS_MOST: usize = 100;

const KID_LONGEST: usize = 256;

/// Shorter moduli can be factored; longer ones make each check slow.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// The bytes of a coordinate of P-256.
const P256_BYTES: usize = 32;

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Keys that cannot be used here are passed over: a provider may publish others beside them.
    pub fn read(json: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(json)?;
        let published = keys.len();
        if published > KEYS_MOST {
            return Err(KeySetError::Many(published));
        }
        let mut usable = HashMap::new();
        for jwk in keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()) {
            if let Some(key) = jwk.usable() {
                // Of two with the same kid the first counts.
                usable.entry(jwk.kid).or_insert_with(|| Arc::new(key));
            }
        }
        if usable.is_empty() { Err(KeySetError::None(published)) } else { Ok(Self(usable)) }
    }

    pub fn get(&self, kid: &str) -> Option<Arc<Key>> {
        self.0.get(kid).cloned()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Jwk {
    fn usable(&self) -> Option<Key> {
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let (algorithm, name, key) = match self.kty.as_str() {
            "RSA" => (Algorithm::RS256, "RS256", self.rsa()?),
            "EC" if self.crv.as_deref() == Some("P-256") => {
                (Algorithm::ES256, "ES256", self.p256()?)
            }
            // Above all `oct`: a secret is not published.
            _ => return None,
        };
        let named_so = self.alg.as_deref().is_none_or(|alg| alg == name);
        let kid_fits = (1..=KID_LONGEST).contains(&self.kid.len());
        (signs && named_so && kid_fits).then_some(Key { algorithm, key })
    }

    fn rsa(&self) -> Option<DecodingKey> {
        let (n, e) = (decoded(&self.n)?, decoded(&self.e)?);
        let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
        RSA_BYTES.contains(&n.len()).then(|| DecodingKey::from_rsa_raw_components(n, &e))
    }

    fn p256(&self) -> Option<DecodingKey> {
        let (x, y) = (decoded(&self.x)?, decoded(&self.y)?);
        let fits = x.len() == P256_BYTES && y.len() == P256_BYTES;
        // An uncompressed point, as ring takes it.
        fits.then(|| DecodingKey::from_ec_der(&[&[4], x.as_slice(), &y].concat()))
    }
}

fn decoded(part: &Option<String>) -> Option<Vec<u8>> {
    BASE64.decode(part.as_ref()?.trim_end_matches('=')).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rsa(bytes: usize) -> Value {
        json!({"kty": "RSA", "kid": "r", "n": BASE64.encode(vec![0xff; bytes]), "e": "AQAB"})
    }

    fn p256() -> Value {
        let coordinate = BASE64.encode([7; 32]);
        json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": coordinate, "y": coordinate})
    }

    fn but(mut key: Value, field: &str, value: Value) -> Value {
        key[field] = value;
        key
    }

    fn read(keys: Value) -> Result<KeySet, KeySetError> {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_key_is_bound_to_the_algorithm_of_its_kind() {
        let keys = read(json!([rsa(256), p256()])).unwrap();
        assert_eq!(keys.get("r").unwrap().algorithm, Algorithm::RS256);
        assert_eq!(keys.get("e").unwrap().algorithm, Algorithm::ES256);
        assert!(keys.get("../r").is_none());
        for good in [
            but(rsa(512), "alg", json!("RS256")),
            but(p256(), "use", json!("sig")),
            but(p256(), "key_ops", json!(["verify"])),
        ] {
            assert!(read(json!([good])).is_ok(), "{good}");
        }
    }

    #[test]
    fn keys_that_must_not_be_used_are_passed_over() {
        let short = BASE64.encode([7; 31]);
        for unfit in [
            json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "c2VjcmV0"}),
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "o", "x": short}),
            rsa(128),
            rsa(513),
            but(rsa(256), "alg", json!("RS512")),
            but(rsa(256), "alg", json!("HS256")),
            but(rsa(256), "use", json!("enc")),
            but(rsa(256), "key_ops", json!(["encrypt"])),
            but(rsa(256), "kid", json!("")),
            but(rsa(256), "kid", json!("k".repeat(257))),
            but(rsa(256), "kid", Value::Null),
            but(rsa(256), "n", json!("!!")),
            but(p256(), "crv", json!("P-384")),
            but(p256(), "x", json!(short)),
            but(p256(), "alg", json!("RS256")),
        ] {
            assert!(matches!(read(json!([unfit])), Err(KeySetError::None(1))), "{unfit}");
            assert!(read(json!([unfit, p256()])).is_ok(), "another stays usable beside {unfit}");
        }
    }

    #[test]
    fn an_answer_that_is_no_set_of_keys_is_told() {
        assert!(matches!(KeySet::read(b"<html>"), Err(KeySetError::Json(_))));
        assert!(matches!(KeySet::read(b"[]"), Err(KeySetError::Json(_))));
        assert!(matches!(read(json!([])), Err(KeySetError::None(0))));
        assert!(matches!(read(json!(vec![rsa(256); 101])), Err(KeySetError::Many(101))));
    }
}
