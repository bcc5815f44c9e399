//! What the tasks and routes share, and the settings it is made from.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use anyhow::Context;
use umbel::{Client, Db, Env, SettingsError, Setup};

use crate::{
    fetch::{FetchSettings, Fetcher},
    ledger::Ledger,
    pages::Pages,
    politeness::Politeness,
    scrape::TIME_LIMIT,
    scraperapi::{ScraperApi, ScraperApiSettings, TIMEOUT},
    sites::Sites,
};

/// The state of the application. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    pub db: Db,
    pub sites: Sites,
    pub pages: Pages,
    pub fetcher: Fetcher,
    pub(crate) scraperapi: Option<ScraperApi>,
    pub ledger: Ledger,
    pub(crate) politeness: Politeness,
    pub client: Client,
    pub settings: Settings,
}

impl App {
    /// Opens the application with what the framework hands it.
    pub async fn open(setup: Setup) -> anyhow::Result<Self> {
        let db = setup.db()?;
        Self::new(&setup.env, setup.client, db)
    }

    /// Puts the application together, or says which setting is wrong. A rustls crypto provider
    /// must have been installed for the process.
    pub fn new(env: &Env, client: Client, db: Db) -> anyhow::Result<Self> {
        let settings = Settings::read(env)?;
        let fetcher = Fetcher::new(settings.fetch.clone()).context("pages could not be fetched")?;
        let scraperapi = ScraperApi::new(settings.scraperapi.clone())
            .context("scraperapi could not be asked")?;
        let ledger = Ledger::new(db.clone());
        let politeness = Politeness { every: settings.host_every };
        let (sites, pages) = (Sites::new(db.clone()), Pages::new(db.clone()));
        Ok(Self { db, sites, pages, fetcher, scraperapi, ledger, politeness, client, settings })
    }
}

/// What is left of a task's time limit for its turn and the database when a fetch took all of its own.
const TIME_TO_STORE: Duration = Duration::from_secs(15);
const _: () = assert!(TIMEOUT.as_secs() + TIME_TO_STORE.as_secs() <= TIME_LIMIT.as_secs());

/// How often a site may be due: not so often that one run meets the next, and not so rarely that
/// nobody remembers it. In seconds.
pub(crate) const EVERY_S: RangeInclusive<u32> = 60..=30 * 24 * 60 * 60;

const PAGES_KEPT: Duration = Duration::from_hours(90 * 24);
/// Shorter than an hour would forget pages between two runs.
const PAGES_KEPT_RANGE: RangeInclusive<Duration> =
    Duration::from_hours(1)..=Duration::from_hours(3650 * 24);

/// What is rarer is a schedule.
const HOST_EVERY_LONGEST: Duration = Duration::from_hours(1);

/// How the scraper works.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// SCRAPE_USER_AGENT, SCRAPE_TIMEOUT, SCRAPE_MAX_BYTES, SCRAPE_MAX_REDIRECTS, SCRAPE_MIN_RATE,
    /// and SCRAPE_PORTS and SCRAPE_ALLOW_PRIVATE, which are lists with commas.
    pub fetch: FetchSettings,
    /// SITE_EVERY: how often a site is due that does not say so itself, in seconds. Default 1 h.
    pub site_every_s: u32,
    /// SCRAPERAPI_KEY, SCRAPERAPI_URL and SCRAPERAPI_DAILY_CREDITS.
    pub scraperapi: ScraperApiSettings,
    /// HOST_EVERY: how long from one visit of a host to the next, over all workers, at most 1 h.
    /// Default 1 s, and nothing for hosts that SCRAPE_ALLOW_PRIVATE names.
    pub host_every: Option<Duration>,
    /// PAGES_KEPT: how long a page is kept that no run finds any more. Default 90 days.
    pub pages_kept: Duration,
}

impl Settings {
    /// Reads and checks the settings; the error names the one that is wrong.
    pub fn read(env: &Env) -> Result<Self, SettingsError> {
        let default = FetchSettings::default();
        let fetch = FetchSettings {
            user_agent: env.parse_or("SCRAPE_USER_AGENT", default.user_agent)?,
            timeout: env.duration_or("SCRAPE_TIMEOUT", default.timeout)?,
            max_bytes: env.parse_or("SCRAPE_MAX_BYTES", default.max_bytes)?,
            max_redirects: env.parse_or("SCRAPE_MAX_REDIRECTS", default.max_redirects)?,
            ports: env.parse_or("SCRAPE_PORTS", Listed(default.ports))?.0,
            min_rate: env.parse_or("SCRAPE_MIN_RATE", default.min_rate)?,
            allowed_private: env.parse_or("SCRAPE_ALLOW_PRIVATE", Listed(Vec::new()))?.0,
        };
        fetch.check().map_err(|error| SettingsError::new(error.to_string()))?;
        let longest = TIME_LIMIT - TIME_TO_STORE;
        if fetch.timeout > longest {
            return Err(SettingsError::new(format!(
                "SCRAPE_TIMEOUT must be at most {longest:?}, and is {:?}: the task that fetches has \
                 {TIME_LIMIT:?} in all, and stores the page in what is left",
                fetch.timeout,
            )));
        }
        let site_every = env.duration_or("SITE_EVERY", Duration::from_hours(1))?;
        let site_every_s = u32::try_from(site_every.as_secs()).ok().filter(|s| EVERY_S.contains(s));
        let site_every_s = site_every_s.ok_or_else(|| {
            SettingsError::new(format!(
                "SITE_EVERY must be from 60 s to 30 days, and is {site_every:?}"
            ))
        })?;
        let pages_kept = env.duration_or("PAGES_KEPT", PAGES_KEPT)?;
        if !PAGES_KEPT_RANGE.contains(&pages_kept) {
            return Err(SettingsError::new(format!(
                "PAGES_KEPT must be from 1 h to 3650 days, and is {pages_kept:?}"
            )));
        }
        let host_every = match env.get("HOST_EVERY") {
            Some(_) => Some(env.duration_or("HOST_EVERY", Duration::ZERO)?),
            None => None,
        };
        if host_every.is_some_and(|every| every > HOST_EVERY_LONGEST) {
            return Err(SettingsError::new(format!(
                "HOST_EVERY must be at most {HOST_EVERY_LONGEST:?}"
            )));
        }
        let scraperapi = ScraperApiSettings::read(env)?;
        Ok(Self { fetch, site_every_s, scraperapi, host_every, pages_kept })
    }
}

/// A list with commas.
struct Listed<T>(Vec<T>);

impl<T: FromStr> FromStr for Listed<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(&Env::from_iter(env.iter().copied()))
    }

    #[test]
    fn without_settings_the_defaults_hold_and_nothing_private_is_fetched() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.fetch, FetchSettings::default());
        assert_eq!(settings.site_every_s, 3600);
        assert!(settings.fetch.allowed_private.is_empty());
    }

    #[test]
    fn settings_are_read() {
        let settings = read(&[
            ("SCRAPE_ALLOW_PRIVATE", "127.0.0.1:8123, localhost,"),
            ("SCRAPE_USER_AGENT", "shop/1"),
            ("SCRAPE_TIMEOUT", "45s"),
            ("SCRAPE_MAX_BYTES", "4096"),
            ("SCRAPE_PORTS", "80, 8080"),
            ("SCRAPE_MIN_RATE", "1000"),
            ("SITE_EVERY", "30d"),
        ])
        .unwrap();
        let allowed = ["127.0.0.1:8123", "localhost"].map(|host| host.parse().unwrap());
        assert_eq!(settings.fetch.allowed_private, allowed);
        assert_eq!(settings.fetch.user_agent, "shop/1");
        assert_eq!(settings.fetch.timeout, Duration::from_secs(45));
        assert_eq!(settings.fetch.max_bytes, 4096);
        assert_eq!((settings.fetch.ports, settings.fetch.min_rate), (vec![80, 8080], 1000));
        assert_eq!(settings.site_every_s, 30 * 24 * 60 * 60);
    }

    #[test]
    fn a_setting_that_cannot_be_is_named() {
        for (name, value) in [
            ("SCRAPE_ALLOW_PRIVATE", "127.0.0.1:8123,*"),
            ("SCRAPE_TIMEOUT", "76s"),
            ("SCRAPE_TIMEOUT", "soon"),
            ("SCRAPE_TIMEOUT", "99ms"),
            ("SCRAPE_MAX_BYTES", "many"),
            ("SCRAPE_MAX_BYTES", "1"),
            ("SCRAPE_MAX_REDIRECTS", "21"),
            ("SCRAPE_USER_AGENT", " "),
            ("SCRAPE_PORTS", "80,http"),
            ("SCRAPE_PORTS", "0"),
            ("SCRAPE_PORTS", ","),
            ("SCRAPE_MIN_RATE", "0"),
            ("PAGES_KEPT", "59m"),
            ("HOST_EVERY", "2h"),
            ("HOST_EVERY", "often"),
            ("SITE_EVERY", "59s"),
            ("SITE_EVERY", "31d"),
            ("SITE_EVERY", "9999999d"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }
}
