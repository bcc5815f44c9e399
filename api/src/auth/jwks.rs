//! The keys that an identity provider publishes at one address: fetched when they are needed, kept
//! while it is away.
//!
//! A token whose key is known never waits. One whose key is not known may have brought the news of
//! a rotation: then the keys are fetched anew, once for all who wait, and once a minute at most, so
//! that made-up keys cost the provider nothing.

use std::{
    error::Error,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{StatusCode, header, redirect};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use super::{
    keys::{Key, KeySet, KeySetError},
    token::TokenError,
};
use crate::{ApiError, JwksSettings};

/// How old keys may be before they are fetched again beside the tokens that they still serve.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// How soon the provider is asked again while there are no keys at all, as after a start without it.
const EMPTY_APART: Duration = Duration::from_secs(5);

/// How long one fetch may take in all: who waits for it is somebody's request.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A hundred keys of 4,096 bits are a third of this.
const ANSWER_LARGEST: usize = 256 * 1024;

/// The published keys, as far as they are known.
#[derive(Debug, Clone)]
pub(super) struct Jwks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: JwksSettings,
    http: reqwest::Client,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last good ones, and when they were asked for.
    keys: Option<(Arc<KeySet>, Instant)>,
    tried: Option<Instant>,
    /// Closed when the fetch under way is over.
    under_way: Option<watch::Receiver<()>>,
}

/// What is known of a key.
#[derive(Debug)]
enum Found {
    Key {
        key: Arc<Key>,
        fresh: bool,
    },
    Unknown,
    /// No keys are known, or only such as are too old to be believed.
    NoKeys,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", chain(.0))]
    Http(#[from] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer is longer than {ANSWER_LARGEST} bytes")]
    Large,
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// An error with its sources: a certificate that is not trusted is the last of several.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl Jwks {
    /// Fetches nothing yet: an API starts while its identity provider is away.
    pub fn new(settings: &JwksSettings) -> Result<Self, ApiError> {
        // One crypto library; refused where the process has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            // Nothing but the settings says where keys come from.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .https_only(settings.url.scheme() == "https")
            // What is small when packed may be large.
            .no_gzip()
            .no_brotli()
            .build()
            .map_err(|error| ApiError::HttpClient(chain(&error.without_url())))?;
        let state = Mutex::default();
        Ok(Self(Arc::new(Inner { settings: settings.clone(), http, state })))
    }

    /// The key of this id. Waits for a fetch where it is not known and one may be made.
    pub async fn key(&self, kid: &str) -> Result<Arc<Key>, TokenError> {
        match self.look(kid, Instant::now()) {
            Found::Key { key, fresh: true } => return Ok(key),
            Found::Key { key, fresh: false } => {
                self.refresh(Instant::now());
                return Ok(key);
            }
            Found::Unknown | Found::NoKeys => {}
        }
        if let Some(mut under_way) = self.refresh(Instant::now()) {
            // An error is what is waited for: the other end is gone, the fetch is over.
            while under_way.changed().await.is_ok() {}
        }
        match self.look(kid, Instant::now()) {
            Found::Key { key, .. } => Ok(key),
            Found::Unknown => Err(TokenError::UnknownKid),
            Found::NoKeys => Err(TokenError::NoKeys),
        }
    }

    fn look(&self, kid: &str, now: Instant) -> Found {
        self.locked(|state| state.look(kid, now, self.0.settings.max_age))
    }

    /// The fetch under way; one is begun where it is time for it.
    fn refresh(&self, now: Instant) -> Option<watch::Receiver<()>> {
        self.locked(|state| {
            if let Some(under_way) = &state.under_way
                && under_way.has_changed().is_ok()
            {
                return Some(under_way.clone());
            }
            if !state.may_try(now, &self.0.settings) {
                return None;
            }
            state.tried = Some(now);
            let (over, under_way) = watch::channel(());
            state.under_way = Some(under_way.clone());
            let this = self.clone();
            // On its own, so that it does not end with the request that asked for it.
            tokio::spawn(async move {
                this.fetch_and_keep(now).await;
                drop(over);
            });
            Some(under_way)
        })
    }

    async fn fetch_and_keep(&self, asked: Instant) {
        match self.fetch().await {
            Ok(keys) => {
                debug!(keys = keys.len(), "the published keys were read");
                let first = self.locked(|state| state.keys.replace((Arc::new(keys), asked)));
                if first.is_none() {
                    info!("the published keys of JWKS_URL are known");
                }
            }
            Err(error) => {
                let age = self.locked(|state| state.keys.as_ref().map(|(_, at)| at.elapsed()));
                warn!(
                    %error,
                    age_s = age.map(|age| age.as_secs()),
                    "the published keys of JWKS_URL cannot be read; the last good ones serve on"
                );
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let request = self.0.http.get(self.0.settings.url.clone());
        let request = request.header(header::ACCEPT, "application/json");
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if bytes.len() + chunk.len() > ANSWER_LARGEST {
                return Err(FetchError::Large);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(KeySet::read(&bytes)?)
    }

    fn locked<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn look(&self, kid: &str, now: Instant, max_age: Duration) -> Found {
        let Some((keys, asked)) = &self.keys else { return Found::NoKeys };
        let age = now.saturating_duration_since(*asked);
        if age > max_age {
            return Found::NoKeys;
        }
        match keys.get(kid) {
            Some(key) => Found::Key { key, fresh: age < FRESH },
            None => Found::Unknown,
        }
    }

    fn may_try(&self, now: Instant, settings: &JwksSettings) -> bool {
        let apart = if self.keys.is_none() {
            EMPTY_APART.min(settings.refresh_apart)
        } else {
            settings.refresh_apart
        };
        self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= apart)
    }
}

impl JwksSettings {
    /// Keys over a network that others can write to would be anybody's keys; a loopback address is
    /// not such a network, and lets a sidecar fetch them.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_safe = match self.url.scheme() {
            "https" => true,
            "http" => is_loopback,
            _ => false,
        };
        let bare = self.url.username().is_empty() && self.url.password().is_none();
        if !is_safe || !bare || self.url.fragment().is_some() {
            return Err(ApiError::JwksUrl);
        }
        if self.max_age < FRESH {
            return Err(ApiError::JwksMaxAge { shortest: FRESH });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const MINUTE: Duration = Duration::from_secs(60);

    fn settings(url: &str) -> JwksSettings {
        JwksSettings::new(url.parse().unwrap())
    }

    fn known(asked: Instant) -> State {
        let keys = br#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "a",
            "x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "y": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
        let keys = Arc::new(KeySet::read(keys).unwrap());
        State { keys: Some((keys, asked)), tried: Some(asked), under_way: None }
    }

    #[test]
    fn keys_serve_until_their_greatest_age_and_are_asked_for_anew_before() {
        let start = Instant::now();
        let state = known(start);
        let at = |age: Duration| state.look("a", start + age, DAY);
        let second = Duration::from_secs(1);
        assert!(matches!(at(Duration::ZERO), Found::Key { fresh: true, .. }));
        assert!(matches!(at(FRESH - second), Found::Key { fresh: true, .. }));
        assert!(matches!(at(FRESH), Found::Key { fresh: false, .. }));
        assert!(matches!(at(DAY), Found::Key { fresh: false, .. }));
        assert!(matches!(at(DAY + second), Found::NoKeys));
        assert!(matches!(state.look("b", start, DAY), Found::Unknown));
        assert!(matches!(State::default().look("a", start, DAY), Found::NoKeys));
    }

    #[test]
    fn the_provider_is_asked_once_a_minute_at_most() {
        let (start, settings) = (Instant::now(), settings("https://id.example/keys"));
        let second = Duration::from_secs(1);
        let state = known(start);
        assert!(!state.may_try(start + MINUTE - second, &settings));
        assert!(state.may_try(start + MINUTE, &settings));
        // Without keys nobody gets in: then it is asked sooner.
        let empty = State { tried: Some(start), ..State::default() };
        assert!(!empty.may_try(start + EMPTY_APART - second, &settings));
        assert!(empty.may_try(start + EMPTY_APART, &settings));
        assert!(State::default().may_try(start, &settings));
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for good in [
            "https://id.example/auth/v1/.well-known/jwks.json",
            "https://id.example:8443/keys?tenant=1",
            "http://127.0.0.1:9000/keys",
            "http://[::1]:9000/keys",
        ] {
            assert!(settings(good).check().is_ok(), "{good}");
        }
        for bad in [
            "http://id.example/keys",
            "http://localhost/keys",
            "http://127.0.0.1.evil.example/keys",
            "http://10.0.0.1/keys",
            "ftp://127.0.0.1/keys",
            "file:///etc/keys.json",
            "https://user@id.example/keys",
            "https://user:s3cret@id.example/keys",
            "https://id.example/keys#a",
        ] {
            let error = settings(bad).check().unwrap_err().to_string();
            assert!(error.contains("JWKS_URL") && !error.contains("s3cret"), "{bad}: {error}");
        }
        let mut short = settings("https://id.example/keys");
        short.max_age = MINUTE;
        assert!(short.check().unwrap_err().to_string().contains("JWKS_MAX_AGE"));
    }
}
