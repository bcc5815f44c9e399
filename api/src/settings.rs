//! What the API is told at start, checked together.

use std::{net::SocketAddr, num::NonZeroU32, ops::RangeInclusive, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::{ApiError, RoleScopes, Scopes};

/// The settings of the API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The application's name: the title of its API description.
    pub title: String,
    /// Where to listen (HOST, PORT); the caller binds it for [`serve`](crate::serve).
    pub addr: SocketAddr,
    pub jwt: JwtSettings,
    pub limits: Limits,
    /// Whether `/metrics` is served elsewhere (METRICS_PORT), by
    /// [`metrics_router`](crate::Api::metrics_router); else it is one of the API's routes, for
    /// admins. Default: no.
    pub metrics_elsewhere: bool,
}

/// Whose tokens are believed: HS256 with one secret, RS256 and ES256 with published keys, or both.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// JWT_SECRET: at least 32 bytes, used as they stand. Default: no token of HS256 is believed.
    pub secret: Option<SecretString>,
    /// Published keys. Default: no token of RS256 or ES256 is believed.
    pub jwks: Option<JwksSettings>,
    /// JWT_ISSUER: the `iss` that a token must carry. Must be set with `jwks`. Default: any, but one.
    pub issuer: Option<String>,
    /// JWT_AUDIENCE: the `aud` that a token must carry, alone or among others. Must be set with
    /// `jwks`. Default: any, but one.
    pub audience: Option<String>,
    /// JWT_ROLE_SCOPES: what a token may do that carries no `scope` or `scopes`, by its `role` and
    /// `app_metadata.role`. Default: nothing.
    pub role_scopes: RoleScopes,
    /// JWT_DEFAULT_SCOPES: what a token may do that carries neither, nor a role that is known.
    /// Default: nothing but those routes of the application that ask for no scope.
    pub default_scopes: Scopes,
}

/// Where the keys of an identity provider are published.
#[derive(Debug, Clone)]
pub struct JwksSettings {
    /// JWKS_URL: `https`, or `http` at a loopback address.
    pub url: Url,
    /// JWKS_MAX_AGE: how long the last good keys are believed while no newer ones can be had.
    /// Default 24 h, at least 10 min.
    pub max_age: Duration,
    /// How far fetches are apart at least. Default 1 min; tests alone make it shorter.
    pub refresh_apart: Duration,
}

/// How much may come in. What is over a limit is told so, and told when to come again.
#[derive(Debug, Clone)]
pub struct Limits {
    /// BODY_LIMIT: the largest body in bytes. Default 1 MiB: four times what a task may carry, for
    /// JSON is wordier. 1 KiB to 16 MiB.
    pub body_bytes: usize,
    /// HEADER_TIMEOUT: how long a connection may take to send the head of a request. Default 15 s.
    pub header_timeout: Duration,
    /// KEEP_ALIVE: how long a connection is kept between two requests. Longer than a proxy keeps it, or
    /// requests are lost that are sent at the moment of its end. Default 75 s: many proxies have 60.
    pub keep_alive: Duration,
    /// BODY_TIMEOUT: how long a body may take in all. Default 15 s; shorter than the 30 s that a
    /// request has.
    pub body_timeout: Duration,
    /// MAX_IN_FLIGHT: how many requests are worked on at once. Default 256: even if each carries
    /// the largest body, half of a small container is left.
    pub in_flight: usize,
    /// SUBJECT_MAX_IN_FLIGHT: how many requests of one subject are worked on at once, and how many tasks
    /// it follows. Default 64, a quarter of all: one that waits with each of its requests leaves room
    /// for others.
    pub subject_in_flight: usize,
    /// MAX_CONNECTIONS: how many connections are open at once; further ones wait to be accepted.
    /// Default 1024.
    pub connections: usize,
    /// RATE_LIMIT: requests a second of one subject; for a moment twice as many. Default 100, off
    /// with `None`.
    pub per_subject: Option<NonZeroU32>,
    /// PEER_RATE_LIMIT: requests a second of one address, whoever asks; for a moment twice as many.
    /// Of IPv6 a /64 counts as one. Default 200, off with `None`.
    pub per_peer: Option<NonZeroU32>,
    /// PROXY_HOPS: how many proxies of one's own stand before the API, each of which adds to
    /// X-Forwarded-For. Default 0: the address is that of the connection.
    pub proxy_hops: usize,
}

/// RFC 7518, 3.2: a key for HS256 is as long as its hash or longer.
const SECRET_SHORTEST: usize = 32;

const BODY_BYTES: RangeInclusive<usize> = 1024..=16 * 1024 * 1024;
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(25);
const KEEP_ALIVE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const IN_FLIGHT: RangeInclusive<usize> = 1..=65_536;
const PROXY_HOPS: RangeInclusive<usize> = 0..=10;

impl ApiSettings {
    /// With the limits that are default.
    pub fn new(title: impl Into<String>, addr: SocketAddr, jwt: JwtSettings) -> Self {
        let (title, limits) = (title.into(), Limits::default());
        Self { title, addr, jwt, limits, metrics_elsewhere: false }
    }

    pub fn check(&self) -> Result<(), ApiError> {
        self.jwt.check()?;
        self.limits.check()
    }
}

impl JwtSettings {
    /// One secret for tokens of any issuer, for any audience.
    pub fn new(secret: SecretString) -> Self {
        Self { secret: Some(secret), ..Self::nobody() }
    }

    /// Published keys of one issuer, for one audience.
    pub fn published(jwks: JwksSettings, issuer: &str, audience: &str) -> Self {
        let (issuer, audience) = (Some(issuer.to_owned()), Some(audience.to_owned()));
        Self { jwks: Some(jwks), issuer, audience, ..Self::nobody() }
    }

    fn nobody() -> Self {
        Self {
            secret: None,
            jwks: None,
            issuer: None,
            audience: None,
            role_scopes: RoleScopes::default(),
            default_scopes: Scopes::NONE,
        }
    }

    pub fn check(&self) -> Result<(), ApiError> {
        if self.secret.is_none() && self.jwks.is_none() {
            return Err(ApiError::NoKeys);
        }
        if let Some(secret) = &self.secret {
            let bytes = secret.expose_secret().len();
            if bytes < SECRET_SHORTEST {
                return Err(ApiError::ShortSecret { bytes, shortest: SECRET_SHORTEST });
            }
        }
        for (variable, value) in [("JWT_ISSUER", &self.issuer), ("JWT_AUDIENCE", &self.audience)] {
            match value {
                Some(text) if text.is_empty() => return Err(ApiError::EmptySetting { variable }),
                // One provider publishes the same keys for all of its customers' services.
                None if self.jwks.is_some() => return Err(ApiError::NeededByJwks { variable }),
                _ => {}
            }
        }
        self.jwks.as_ref().map_or(Ok(()), JwksSettings::check)
    }
}

impl JwksSettings {
    pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
    const REFRESH_APART: Duration = Duration::from_secs(60);

    pub fn new(url: Url) -> Self {
        Self { url, max_age: Self::MAX_AGE, refresh_apart: Self::REFRESH_APART }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1024 * 1024,
            header_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            body_timeout: Duration::from_secs(15),
            in_flight: 256,
            subject_in_flight: 64,
            connections: 1024,
            per_subject: NonZeroU32::new(100),
            per_peer: NonZeroU32::new(200),
            proxy_hops: 0,
        }
    }
}

impl Limits {
    pub fn check(&self) -> Result<(), ApiError> {
        fn within<T: PartialOrd + std::fmt::Debug>(
            variable: &'static str,
            value: T,
            range: RangeInclusive<T>,
        ) -> Result<(), ApiError> {
            if range.contains(&value) {
                return Ok(());
            }
            let (least, most) = (format!("{:?}", range.start()), format!("{:?}", range.end()));
            Err(ApiError::OutOfRange { variable, value: format!("{value:?}"), least, most })
        }
        within("BODY_LIMIT", self.body_bytes, BODY_BYTES)?;
        within("HEADER_TIMEOUT", self.header_timeout, TIMEOUTS)?;
        within("KEEP_ALIVE", self.keep_alive, KEEP_ALIVE)?;
        within("BODY_TIMEOUT", self.body_timeout, TIMEOUTS)?;
        within("MAX_IN_FLIGHT", self.in_flight, IN_FLIGHT)?;
        within("SUBJECT_MAX_IN_FLIGHT", self.subject_in_flight, IN_FLIGHT)?;
        within("MAX_CONNECTIONS", self.connections, IN_FLIGHT)?;
        within("PROXY_HOPS", self.proxy_hops, PROXY_HOPS)
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

    #[test]
    fn published_keys_need_an_issuer_and_an_audience() {
        let jwks = JwksSettings::new("https://id.example/keys".parse().unwrap());
        let settings = JwtSettings::published(jwks, "https://id.example", "umbel");
        assert!(settings.check().is_ok());
        for (settings, variable) in [
            (JwtSettings { issuer: None, ..settings.clone() }, "JWT_ISSUER"),
            (JwtSettings { audience: None, ..settings.clone() }, "JWT_AUDIENCE"),
            (JwtSettings { jwks: None, ..settings }, "JWT_SECRET"),
        ] {
            let refusal = settings.check().unwrap_err().to_string();
            assert!(refusal.contains(variable), "{refusal}");
        }
    }

    #[test]
    fn a_limit_that_is_none_is_refused_by_name() {
        let default = Limits::default;
        assert!(default().check().is_ok());
        let second = Duration::from_secs(1);
        for (limits, variable) in [
            (Limits { body_bytes: 1023, ..default() }, "BODY_LIMIT"),
            (Limits { body_bytes: 16 * 1024 * 1024 + 1, ..default() }, "BODY_LIMIT"),
            (Limits { header_timeout: Duration::ZERO, ..default() }, "HEADER_TIMEOUT"),
            (Limits { keep_alive: 3601 * second, ..default() }, "KEEP_ALIVE"),
            (Limits { body_timeout: 26 * second, ..default() }, "BODY_TIMEOUT"),
            (Limits { in_flight: 0, ..default() }, "MAX_IN_FLIGHT"),
            (Limits { subject_in_flight: 0, ..default() }, "SUBJECT_MAX_IN_FLIGHT"),
            (Limits { connections: 0, ..default() }, "MAX_CONNECTIONS"),
            (Limits { proxy_hops: 11, ..default() }, "PROXY_HOPS"),
        ] {
            let refusal = limits.check().unwrap_err().to_string();
            assert!(refusal.starts_with(variable), "{refusal}");
        }
    }
}
