//! The settings of the fetcher.

use std::{ops::RangeInclusive, time::Duration};

use reqwest::header::HeaderValue;

use super::guard::AllowedPrivate;

/// A page that takes minutes would hold a worker's place that others wait for.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
/// Less holds no head of a page; more is no page.
const SIZES: RangeInclusive<usize> = 1024..=64 << 20;
/// Browsers give up after 20.
const MAX_REDIRECTS: usize = 20;
/// More than the web uses: 80, 443 and their usual stand-ins such as 8080.
const MAX_PORTS: usize = 16;
/// A whole page at the lowest rate takes longer than any time-out; above the highest there would
/// be pages that no line brings.
const RATES: RangeInclusive<u32> = 1..=1 << 20;

/// How pages are fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchSettings {
    /// How we name ourselves to the hosts. Default `umbel/` and the version.
    pub user_agent: String,
    /// The limit for a whole page, redirects included: 100 ms to 5 min, default 20 s.
    pub timeout: Duration,
    /// How much of a page is read, in bytes after decompression; the rest is cut off.
    /// 1 KiB to 64 MiB, default 2 MiB.
    pub max_bytes: usize,
    /// How many redirects are followed: at most 20, default 5.
    pub max_redirects: usize,
    /// The ports that are fetched from: 1 to 16 of them, default 80 and 443. Others belong to
    /// other services, which a request could disturb.
    pub ports: Vec<u16>,
    /// The slowest body that is waited for, in bytes a second after decompression, on average
    /// and after the first quarter of `timeout`: 1 to 1 Mi, default 256. A host that drips would
    /// otherwise hold a worker's place for all of `timeout`.
    pub min_rate: u32,
    /// Hosts that may be fetched though they are not public or not on one of `ports`, such as
    /// `127.0.0.1:8123`. For development only. Default none.
    pub allowed_private: Vec<AllowedPrivate>,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            user_agent: concat!("umbel/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeout: Duration::from_secs(20),
            max_bytes: 2 << 20,
            max_redirects: 5,
            ports: vec![80, 443],
            min_rate: 256,
            allowed_private: Vec::new(),
        }
    }
}

impl FetchSettings {
    /// Says which setting is wrong, if one is.
    pub fn check(&self) -> Result<(), FetchSettingsError> {
        if self.user_agent.trim().is_empty() || HeaderValue::from_str(&self.user_agent).is_err() {
            return Err(FetchSettingsError::UserAgent);
        }
        if !TIMEOUTS.contains(&self.timeout) {
            return Err(FetchSettingsError::Timeout(self.timeout));
        }
        if !SIZES.contains(&self.max_bytes) {
            return Err(FetchSettingsError::MaxBytes(self.max_bytes));
        }
        if self.max_redirects > MAX_REDIRECTS {
            return Err(FetchSettingsError::MaxRedirects(self.max_redirects));
        }
        if !(1..=MAX_PORTS).contains(&self.ports.len()) || self.ports.contains(&0) {
            return Err(FetchSettingsError::Ports);
        }
        if !RATES.contains(&self.min_rate) {
            return Err(FetchSettingsError::MinRate(self.min_rate));
        }
        Ok(())
    }
}

/// A setting that cannot work; the text names it as the environment does.
#[derive(Debug, thiserror::Error)]
pub enum FetchSettingsError {
    /// See [`FetchSettings::user_agent`].
    #[error("SCRAPE_USER_AGENT is empty or holds a character that no header may hold")]
    UserAgent,
    /// See [`FetchSettings::timeout`].
    #[error("SCRAPE_TIMEOUT ({0:?}) must be from {start:?} to {end:?}", start = TIMEOUTS.start(), end = TIMEOUTS.end())]
    Timeout(Duration),
    /// See [`FetchSettings::max_bytes`].
    #[error("SCRAPE_MAX_BYTES ({0}) must be from {start} to {end}", start = SIZES.start(), end = SIZES.end())]
    MaxBytes(usize),
    /// See [`FetchSettings::max_redirects`].
    #[error("SCRAPE_MAX_REDIRECTS ({0}) must not be above {MAX_REDIRECTS}")]
    MaxRedirects(usize),
    /// See [`FetchSettings::ports`].
    #[error("SCRAPE_PORTS must name 1 to {MAX_PORTS} ports, each from 1 to 65535")]
    Ports,
    /// See [`FetchSettings::min_rate`].
    #[error("SCRAPE_MIN_RATE ({0}) must be from {start} to {end}", start = RATES.start(), end = RATES.end())]
    MinRate(u32),
    /// The HTTP client cannot be made, for example because the system has no certificates.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good_and_what_cannot_work_is_refused_with_a_sentence() {
        let good = FetchSettings::default();
        good.check().unwrap();
        let refused = |settings: FetchSettings| settings.check().unwrap_err().to_string();

        for user_agent in ["", " ", "a\r\nX-Evil: 1"] {
            let settings = FetchSettings { user_agent: user_agent.to_owned(), ..good.clone() };
            assert!(refused(settings).starts_with("SCRAPE_USER_AGENT"));
        }
        let settings = FetchSettings { timeout: Duration::ZERO, ..good.clone() };
        assert_eq!(refused(settings), "SCRAPE_TIMEOUT (0ns) must be from 100ms to 300s");
        let settings = FetchSettings { max_bytes: 0, ..good.clone() };
        assert_eq!(refused(settings), "SCRAPE_MAX_BYTES (0) must be from 1024 to 67108864");
        let settings = FetchSettings { max_redirects: 21, ..good.clone() };
        assert_eq!(refused(settings), "SCRAPE_MAX_REDIRECTS (21) must not be above 20");
        for ports in [vec![], vec![0], vec![80; 17]] {
            let settings = FetchSettings { ports, ..good.clone() };
            assert!(refused(settings).starts_with("SCRAPE_PORTS"));
        }
        let settings = FetchSettings { min_rate: 0, ..good };
        assert_eq!(refused(settings), "SCRAPE_MIN_RATE (0) must be from 1 to 1048576");
    }
}
