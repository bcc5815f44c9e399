//! How a token is made, where there is a secret to sign it with.

use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{
    claims::{SUBJECT_LONGEST, subject_fits},
    ring_provider,
    scope::Scopes,
};
use crate::{ApiError, JwtSettings};

/// What a token is made to say. Default: the three scopes of tasks, for all tasks, for an hour.
#[derive(Debug, Clone)]
pub struct Grant {
    subject: String,
    scopes: Scopes,
    tasks: Option<Vec<String>>,
    ttl: Duration,
}

/// Who made a token and for whom, where the settings name nobody: each token must say it.
const OURSELVES: &str = "umbel";

impl Grant {
    pub fn new(subject: impl Into<String>) -> Self {
        let ttl = Duration::from_secs(60 * 60);
        Self { subject: subject.into(), scopes: Scopes::TASKS, tasks: None, ttl }
    }

    pub fn scopes(self, scopes: impl Into<Scopes>) -> Self {
        Self { scopes: scopes.into(), ..self }
    }

    /// Narrows the scopes of tasks to these names.
    pub fn tasks<T: Into<String>>(self, names: impl IntoIterator<Item = T>) -> Self {
        Self { tasks: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Counted in whole seconds.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// Makes the token, which is believed under `settings` from `now` on. There must be a secret to
    /// sign it with.
    pub fn sign(&self, settings: &JwtSettings, now: DateTime<Utc>) -> Result<String, ApiError> {
        #[derive(Serialize)]
        struct Issued<'a> {
            sub: &'a str,
            iat: i64,
            exp: i64,
            scope: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            tasks: Option<&'a [String]>,
            iss: &'a str,
            aud: &'a str,
        }

        settings.check()?;
        let secret = settings.secret.as_ref().ok_or(ApiError::NoSecret)?;
        if !subject_fits(&self.subject) {
            return Err(ApiError::Subject { longest: SUBJECT_LONGEST });
        }
        ring_provider::install();
        let iat = now.timestamp();
        let claims = Issued {
            sub: &self.subject,
            iat,
            exp: iat.saturating_add(i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX)),
            scope: self.scopes.to_string(),
            tasks: self.tasks.as_deref(),
            iss: settings.issuer.as_deref().unwrap_or(OURSELVES),
            aud: settings.audience.as_deref().unwrap_or(OURSELVES),
        };
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            .expect("a flat map of texts and numbers is JSON, and HS256 takes any key"))
    }
}

/// Makes a token for `subject` that is believed under `settings` from `now` on for `ttl`, with the
/// three scopes of tasks; a [`Grant`] makes others.
pub fn issue_token(
    settings: &JwtSettings,
    subject: &str,
    ttl: Duration,
    now: DateTime<Utc>,
) -> Result<String, ApiError> {
    Grant::new(subject).ttl(ttl).sign(settings, now)
}
