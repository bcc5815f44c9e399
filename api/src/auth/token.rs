//! Tokens: what is believed, and what is refused.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::ExposeSecret;

use super::{
    claims::{Claims, Unsaid, Written},
    jwks::Jwks,
    ring_provider,
};
use crate::{ApiError, JwtSettings};

/// Why a token is not believed. For the log; the caller is told none of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("no single bearer token")]
    Absent,
    #[error("longer than {TOKEN_LONGEST} bytes")]
    Long,
    #[error("critical extensions are not understood")]
    Critical,
    #[error("subject empty, too long or with characters that mislead")]
    Subject,
    #[error("issuer or audience empty")]
    Nameless,
    #[error("its algorithm is not one of those that are believed here")]
    Algorithm,
    #[error("it does not say which published key it is signed with")]
    NoKid,
    #[error("the key that it is signed with is not published")]
    UnknownKid,
    /// No judgement of the token: it may well be good.
    #[error("the published keys cannot be had")]
    NoKeys,
    #[error(transparent)]
    Refused(#[from] jsonwebtoken::errors::Error),
}

/// How far the clocks of issuer and API may be apart.
const LEEWAY: Duration = Duration::from_secs(30);

/// Far more than any identity provider issues; keeps a hostile header from costing work.
pub(crate) const TOKEN_LONGEST: usize = 8 * 1024;

/// Believes or refuses tokens. The key decides the algorithm, never the token.
#[derive(Debug)]
pub(crate) struct Verifier {
    secret: Option<DecodingKey>,
    jwks: Option<Jwks>,
    /// Of any algorithm; each use sets the one of its key.
    validation: Validation,
    unsaid: Unsaid,
}

impl Verifier {
    pub fn new(settings: &JwtSettings) -> Result<Self, ApiError> {
        ring_provider::install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
        }
        match &settings.audience {
            Some(audience) => validation.set_audience(&[audience]),
            // jsonwebtoken would refuse every audience where it is told of none.
            None => validation.validate_aud = false,
        }
        let secret = settings.secret.as_ref();
        Ok(Self {
            secret: secret.map(|text| DecodingKey::from_secret(text.expose_secret().as_bytes())),
            jwks: settings.jwks.as_ref().map(Jwks::new).transpose()?,
            validation,
            unsaid: Unsaid {
                default: settings.default_scopes.clone(),
                roles: settings.role_scopes.clone(),
            },
        })
    }

    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_LONGEST {
            return Err(TokenError::Long);
        }
        // Of the header two fields are used, `alg` and `kid`, and both only to choose among what is
        // here: `jku`, `jwk`, `x5u` and `x5c` would have the token bring its own key.
        let header = jsonwebtoken::decode_header(token)?;
        // RFC 7515, 4.1.11: what is marked critical and not understood makes the token invalid.
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        match (header.alg, &self.secret, &self.jwks) {
            (Algorithm::HS256, Some(secret), _) => self.read(token, Algorithm::HS256, secret),
            (Algorithm::RS256 | Algorithm::ES256, _, Some(jwks)) => {
                let kid = header.kid.ok_or(TokenError::NoKid)?;
                let key = jwks.key(&kid).await?;
                self.read(token, key.algorithm, &key.key)
            }
            _ => Err(TokenError::Algorithm),
        }
    }

    fn read(&self, token: &str, of: Algorithm, key: &DecodingKey) -> Result<Claims, TokenError> {
        let validation = Validation { algorithms: vec![of], ..self.validation.clone() };
        let written = jsonwebtoken::decode::<Written>(token, key, &validation)?.claims;
        written.read(&self.unsaid)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    use chrono::Utc;
    use ring::hmac;
    use serde_json::{Value, json};

    use super::*;
    use crate::issue_token;

    pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

    pub(crate) fn settings() -> JwtSettings {
        JwtSettings {
            issuer: Some("https://issuer.example".into()),
            audience: Some("umbel".into()),
            ..JwtSettings::new(SECRET.into())
        }
    }

    /// Signs anything, as a forger would who knows the secret.
    fn signed(algorithm: hmac::Algorithm, secret: &str, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let tag = hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), message.as_bytes());
        format!("{message}.{}", BASE64.encode(tag))
    }

    fn with_claims(claims: Value) -> String {
        signed(hmac::HMAC_SHA256, SECRET, br#"{"alg":"HS256"}"#, claims.to_string().as_bytes())
    }

    fn with_header(header: Value) -> String {
        let claims = claims().to_string();
        signed(hmac::HMAC_SHA256, SECRET, header.to_string().as_bytes(), claims.as_bytes())
    }

    /// Good claims, an hour from their end.
    fn claims() -> Value {
        let now = Utc::now().timestamp();
        json!({"sub": "ann", "exp": now + 3600, "iss": "https://issuer.example", "aud": "umbel"})
    }

    fn but(field: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[field] = value;
        claims
    }

    fn without(field: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(field);
        claims
    }

    /// What no API may believe under [`settings`], each with its reason.
    pub(crate) fn forged() -> Vec<(&'static str, String)> {
        let now = Utc::now().timestamp();
        let good = with_claims(claims());
        let parts: Vec<&str> = good.split('.').collect();
        let (header, body, tag) = (parts[0], parts[1], parts[2]);
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        let hs = |algorithm, name: &str| {
            let header = json!({"alg": name}).to_string();
            signed(algorithm, SECRET, header.as_bytes(), claims().to_string().as_bytes())
        };
        let raw = |claims: &str| {
            signed(hmac::HMAC_SHA256, SECRET, br#"{"alg":"HS256"}"#, claims.as_bytes())
        };
        vec![
            ("empty", String::new()),
            ("garbage", "garbage".into()),
            ("dots only", "..".into()),
            ("two parts", format!("{header}.{body}")),
            ("four parts", format!("{good}.{tag}")),
            ("five parts, as if encrypted", format!("{header}.{body}.{body}.{body}.{tag}")),
            ("alg none without signature", format!("{none}.{body}.")),
            ("alg none with the good signature", format!("{none}.{body}.{tag}")),
            ("alg None", with_header(json!({"alg": "None"}))),
            ("alg nOnE", with_header(json!({"alg": "nOnE"}))),
            ("alg in small letters", with_header(json!({"alg": "hs256"}))),
            ("alg absent", with_header(json!({"typ": "JWT"}))),
            ("alg null", with_header(json!({"alg": null}))),
            ("alg a list", with_header(json!({"alg": ["HS256"]}))),
            ("HS384", hs(hmac::HMAC_SHA384, "HS384")),
            ("HS512", hs(hmac::HMAC_SHA512, "HS512")),
            ("HS512 said, HS256 done", hs(hmac::HMAC_SHA256, "HS512")),
            ("HS256 said, HS512 done", hs(hmac::HMAC_SHA512, "HS256")),
            ("RS256 signed by the secret", hs(hmac::HMAC_SHA256, "RS256")),
            ("ES256 signed by the secret", hs(hmac::HMAC_SHA256, "ES256")),
            ("EdDSA signed by the secret", hs(hmac::HMAC_SHA256, "EdDSA")),
            (
                "the key of the token itself",
                signed(
                    hmac::HMAC_SHA256,
                    "own",
                    br#"{"alg":"HS256","jwk":{"kty":"oct","k":"b3du"},"jku":"https://evil.example"}"#,
                    claims().to_string().as_bytes(),
                ),
            ),
            (
                "a key id that points elsewhere",
                signed(
                    hmac::HMAC_SHA256,
                    "",
                    br#"{"alg":"HS256","kid":"../../dev/null"}"#,
                    claims().to_string().as_bytes(),
                ),
            ),
            ("critical extension", with_header(json!({"alg": "HS256", "crit": ["exp"]}))),
            ("header no object", with_header(json!("HS256"))),
            (
                "alg twice",
                signed(
                    hmac::HMAC_SHA256,
                    SECRET,
                    br#"{"alg":"none","alg":"HS256"}"#,
                    claims().to_string().as_bytes(),
                ),
            ),
            (
                "another secret",
                signed(
                    hmac::HMAC_SHA256,
                    "another",
                    br#"{"alg":"HS256"}"#,
                    claims().to_string().as_bytes(),
                ),
            ),
            ("no signature", format!("{header}.{body}.")),
            ("cut signature", format!("{header}.{body}.{}", &tag[..tag.len() - 4])),
            (
                "claims swapped",
                format!("{header}.{}.{tag}", BASE64.encode(but("sub", json!("eve")).to_string())),
            ),
            ("padded signature", format!("{good}=")),
            ("line end after it", format!("{good}\n")),
            ("expired", with_claims(but("exp", json!(now - 31 - 60)))),
            ("expired just beyond the leeway", with_claims(but("exp", json!(now - 32)))),
            ("exp absent", with_claims(without("exp"))),
            ("exp null", with_claims(but("exp", Value::Null))),
            ("exp a text", with_claims(but("exp", json!((now + 3600).to_string())))),
            ("exp negative", with_claims(but("exp", json!(-1)))),
            ("exp a list", with_claims(but("exp", json!([now + 3600])))),
            ("exp beyond all numbers", raw(r#"{"sub":"ann","exp":1e400}"#)),
            (
                "exp twice",
                raw(&format!(
                    r#"{{"sub":"ann","exp":1,"exp":{},"iss":"https://issuer.example","aud":"umbel"}}"#,
                    now + 3600
                )),
            ),
            ("nbf to come", with_claims(but("nbf", json!(now + 600)))),
            ("nbf a text", with_claims(but("nbf", json!("0")))),
            ("sub absent", with_claims(without("sub"))),
            ("sub empty", with_claims(but("sub", json!("")))),
            ("sub a number", with_claims(but("sub", json!(7)))),
            ("sub null", with_claims(but("sub", Value::Null))),
            ("sub breaks the log line", with_claims(but("sub", json!("ann\nroot")))),
            ("sub breaks the line beyond ASCII", with_claims(but("sub", json!("ann\u{2028}root")))),
            ("sub turns the line around", with_claims(but("sub", json!("ann\u{202e}toor")))),
            ("scope a list", with_claims(but("scope", json!(["admin"])))),
            ("scope a number", with_claims(but("scope", json!(7)))),
            ("scopes a text", with_claims(but("scopes", json!("admin")))),
            ("scopes of numbers", with_claims(but("scopes", json!([7])))),
            ("tasks a text", with_claims(but("tasks", json!("pages.scrape")))),
            ("sub endless", with_claims(but("sub", json!("a".repeat(256))))),
            ("iss absent", with_claims(without("iss"))),
            ("iss another", with_claims(but("iss", json!("https://evil.example")))),
            ("iss a number", with_claims(but("iss", json!(7)))),
            ("aud absent", with_claims(without("aud"))),
            ("aud another", with_claims(but("aud", json!("other")))),
            ("aud others", with_claims(but("aud", json!(["other", "umbel2"])))),
            ("iss null", with_claims(but("iss", Value::Null))),
            ("iss empty", with_claims(but("iss", json!("")))),
            ("iss a list", with_claims(but("iss", json!(["https://issuer.example"])))),
            ("aud null", with_claims(but("aud", Value::Null))),
            ("aud empty", with_claims(but("aud", json!("")))),
            ("aud an empty list", with_claims(but("aud", json!([])))),
            ("aud a number", with_claims(but("aud", json!(7)))),
            ("aud of numbers", with_claims(but("aud", json!(["umbel", 7])))),
            ("aud an object", with_claims(but("aud", json!({"umbel": true})))),
            ("claims no object", with_claims(json!(["sub", "exp"]))),
            ("claims no JSON", raw("sub=ann")),
            ("longer than any token", with_claims(but("more", json!("x".repeat(TOKEN_LONGEST))))),
        ]
    }

    #[tokio::test]
    async fn no_forged_token_is_believed() {
        let verifier = Verifier::new(&settings()).unwrap();
        for (why, token) in forged() {
            assert!(verifier.verify(&token).await.is_err(), "believed: {why}");
        }
    }

    #[tokio::test]
    async fn good_tokens_are_believed_within_the_leeway() {
        let now = Utc::now().timestamp();
        let verifier = Verifier::new(&settings()).unwrap();
        for good in [
            claims(),
            but("exp", json!(now - 20)),
            but("exp", json!(now as f64 + 60.5)),
            but("nbf", json!(now + 20)),
            but("aud", json!(["other", "umbel"])),
            but("role", json!("admin")),
        ] {
            let claims = verifier.verify(&with_claims(good.clone())).await.unwrap();
            assert_eq!(claims.sub, "ann", "{good}");
        }
    }

    #[tokio::test]
    async fn an_issued_token_is_believed_until_its_end() {
        let hour = Duration::from_secs(3600);
        for settings in [settings(), JwtSettings::new(SECRET.into())] {
            let verifier = Verifier::new(&settings).unwrap();
            let token = issue_token(&settings, "ann", hour, Utc::now()).unwrap();
            assert_eq!(verifier.verify(&token).await.unwrap().sub, "ann");
            let old = issue_token(&settings, "ann", hour, Utc::now() - 2 * hour).unwrap();
            assert!(verifier.verify(&old).await.is_err());
        }
    }

    #[tokio::test]
    async fn where_no_issuer_or_audience_is_set_any_will_do_but_each_token_must_name_them() {
        let verifier = Verifier::new(&JwtSettings::new(SECRET.into())).unwrap();
        for good in [
            claims(),
            but("iss", json!("https://project.supabase.co/auth/v1")),
            but("aud", json!("authenticated")),
            but("aud", json!(["a", "b"])),
        ] {
            assert!(verifier.verify(&with_claims(good.clone())).await.is_ok(), "{good}");
        }
        for claim in ["exp", "iss", "aud", "sub"] {
            let mut bad = vec![without(claim)];
            let values = [json!(null), json!(""), json!([]), json!([""]), json!({}), json!(true)];
            bad.extend(values.map(|value| but(claim, value)));
            for bad in bad {
                assert!(verifier.verify(&with_claims(bad.clone())).await.is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn no_token_is_issued_that_would_be_refused() {
        let hour = Duration::from_secs(3600);
        for subject in ["", "a\nb", &"a".repeat(256)] {
            assert!(issue_token(&settings(), subject, hour, Utc::now()).is_err(), "{subject:?}");
        }
        let weak = JwtSettings::new("short".into());
        assert!(issue_token(&weak, "ann", hour, Utc::now()).is_err());
    }
}
