//! HS256, RS256 and ES256 for `jsonwebtoken` on ring, the crypto library that the rest of the house
//! uses. Tokens are signed with HS256 alone.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Signer, Verifier},
};
use ring::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
        UnparsedPublicKey,
    },
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key: &EncodingKey| {
        Ok(Box::new(Hs256::new(*algorithm, key.family(), key.as_bytes())?) as Box<dyn JwtSigner>)
    },
    verifier_factory: |algorithm, key: &DecodingKey| match (algorithm, key.family(), key.kind()) {
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Ok(Box::new(Rs256(RsaPublicKeyComponents { n: n.clone(), e: e.clone() })))
        }
        (Algorithm::ES256, AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => {
            Ok(Box::new(Es256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.clone()))))
        }
        (_, family, DecodingKeyKind::SecretOrDer(secret)) => {
            Ok(Box::new(Hs256::new(*algorithm, family, secret)?))
        }
        _ => Err(ErrorKind::InvalidKeyFormat.into()),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this the provider of the process; a second call changes nothing.
pub(super) fn install() {
    // Refused where the process has a provider: ours from an earlier call, or the application's
    // own, which knows these algorithms too. Both will do.
    let _ = PROVIDER.install_default();
}

struct Hs256(hmac::Key);

struct Rs256(RsaPublicKeyComponents<Vec<u8>>);

struct Es256(UnparsedPublicKey<Vec<u8>>);

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

impl Verifier<Vec<u8>> for Rs256 {
    fn verify(&self, text: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.0
            .verify(&RSA_PKCS1_2048_8192_SHA256, text, signature)
            .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

impl Verifier<Vec<u8>> for Es256 {
    fn verify(&self, text: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.0.verify(text, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Es256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
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
        let verifier = |algorithm, key: &DecodingKey| (PROVIDER.verifier_factory)(&algorithm, key);
        let rsa = DecodingKey::from_rsa_raw_components(&[0xff; 256], &[1, 0, 1]);
        let (ec, secret) = (DecodingKey::from_ec_der(&[4; 65]), DecodingKey::from_secret(b"k"));
        for (key, own) in
            [(&rsa, Algorithm::RS256), (&ec, Algorithm::ES256), (&secret, Algorithm::HS256)]
        {
            for algorithm in [
                Algorithm::HS256,
                Algorithm::HS384,
                Algorithm::RS256,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::ES256,
                Algorithm::ES384,
                Algorithm::EdDSA,
            ] {
                assert_eq!(verifier(algorithm, key).is_ok(), algorithm == own, "{algorithm:?}");
            }
        }
    }
}
