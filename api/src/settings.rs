//! What the API is told at start, checked together.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use crate::ApiError;

/// The settings of the API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The application's name: the title of its API description.
    pub title: String,
    /// Where to listen (HOST, PORT); the caller binds it for [`serve`](crate::serve).
    pub addr: SocketAddr,
    pub jwt: JwtSettings,
}

/// Whose tokens are believed: HS256 with one secret.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// JWT_SECRET: at least 32 bytes, used as they stand.
    pub secret: SecretString,
    /// JWT_ISSUER: the `iss` that a token must carry. Default: any or none.
    pub issuer: Option<String>,
    /// JWT_AUDIENCE: the `aud` that a token must carry, alone or among others. Without it a token
    /// that names an audience is refused, for it was made for somebody else (RFC 7519, 4.1.3).
    pub audience: Option<String>,
}

/// RFC 7518, 3.2: a key for HS256 is as long as its hash or longer.
const SECRET_SHORTEST: usize = 32;

impl ApiSettings {
    pub fn check(&self) -> Result<(), ApiError> {
        self.jwt.check()
    }
}

impl JwtSettings {
    /// One secret for tokens of any issuer, without an audience.
    pub fn new(secret: SecretString) -> Self {
        Self { secret, issuer: None, audience: None }
    }

    pub fn check(&self) -> Result<(), ApiError> {
        let bytes = self.secret.expose_secret().len();
        if bytes < SECRET_SHORTEST {
            return Err(ApiError::ShortSecret { bytes, shortest: SECRET_SHORTEST });
        }
        for (variable, value) in [("JWT_ISSUER", &self.issuer), ("JWT_AUDIENCE", &self.audience)] {
            if value.as_ref().is_some_and(String::is_empty) {
                return Err(ApiError::EmptySetting { variable });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_can_be_guessed_is_refused_by_name() {
        let short = JwtSettings::new("x".repeat(31).into());
        let refusal = short.check().unwrap_err().to_string();
        assert!(refusal.contains("JWT_SECRET") && refusal.contains("32"), "{refusal}");
        assert!(!refusal.contains("xxx"), "{refusal}");
        assert!(JwtSettings::new("x".repeat(32).into()).check().is_ok());
    }

    #[test]
    fn an_empty_issuer_or_audience_is_refused_by_name() {
        let mut settings = JwtSettings::new("x".repeat(32).into());
        settings.issuer = Some(String::new());
        assert!(settings.check().unwrap_err().to_string().contains("JWT_ISSUER"));
        settings.issuer = None;
        settings.audience = Some(String::new());
        assert!(settings.check().unwrap_err().to_string().contains("JWT_AUDIENCE"));
    }

    #[test]
    fn the_secret_is_not_in_the_debug_form() {
        let settings = JwtSettings::new("canary-canary-canary-canary-canary".into());
        assert!(!format!("{settings:?}").contains("canary"));
    }
}
