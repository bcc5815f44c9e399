//! HS256 for `jsonwebtoken` on ring, the crypto library that the rest of the house uses.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Signer, Verifier},
};
use ring::hmac;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key: &EncodingKey| {
        Ok(Box::new(Hs256::new(*algorithm, key.family(), key.as_bytes())?) as Box<dyn JwtSigner>)
    },
    verifier_factory: |algorithm, key: &DecodingKey| {
        let secret = key.try_get_as_bytes()?;
        Ok(Box::new(Hs256::new(*algorithm, key.family(), secret)?) as Box<dyn JwtVerifier>)
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this the provider of the process; a second call changes nothing.
pub(super) fn install() {
    // Refused where the process has a provider: ours from an earlier call, or the application's
    // own, which knows HS256 too. Both will do.
    let _ = PROVIDER.install_default();
}

struct Hs256(hmac::Key);

impl Hs256 {
    fn new(algorithm: Algorithm, family: AlgorithmFamily, secret: &[u8]) -> Result<Self, Error> {
        if algorithm != Algorithm::HS256 {
            return Err(ErrorKind::UnsupportedAlgorithm.into());
        }
        if family != AlgorithmFamily::Hmac {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, text: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, text).as_ref().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// In constant time.
    fn verify(&self, text: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        hmac::verify(&self.0, text, tag).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hs256(secret: &[u8]) -> Hs256 {
        Hs256::new(Algorithm::HS256, AlgorithmFamily::Hmac, secret).unwrap()
    }

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        let tag = hs256(b"Jefe").try_sign(b"what do ya want for nothing?").unwrap();
        let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn every_changed_bit_of_a_signature_is_noticed() {
        let key = hs256(b"a secret");
        let tag = key.try_sign(b"text").unwrap();
        assert!(key.verify(b"text", &tag).is_ok());
        assert!(key.verify(b"texT", &tag).is_err());
        assert!(hs256(b"another").verify(b"text", &tag).is_err());
        assert!(key.verify(b"text", &tag[..31].to_vec()).is_err());
        assert!(key.verify(b"text", &Vec::new()).is_err());
        for bit in 0..tag.len() * 8 {
            let mut changed = tag.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.verify(b"text", &changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_other_algorithm_is_offered() {
        for algorithm in [Algorithm::HS384, Algorithm::HS512, Algorithm::RS256, Algorithm::ES256] {
            assert!(Hs256::new(algorithm, AlgorithmFamily::Hmac, b"k").is_err());
        }
        assert!(Hs256::new(Algorithm::HS256, AlgorithmFamily::Rsa, b"k").is_err());
    }
}
