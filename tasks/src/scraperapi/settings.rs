//! The settings of ScraperAPI.

use secrecy::{ExposeSecret, SecretString};
use umbel::{Env, SettingsError};
use url::{Host, Url};

/// How ScraperAPI is used.
#[derive(Debug, Clone)]
pub struct ScraperApiSettings {
    /// SCRAPERAPI_KEY. Without it no site can be fetched so.
    pub key: Option<SecretString>,
    /// SCRAPERAPI_URL: where it is. https, or http on this machine. Default its own address.
    pub url: Url,
    /// SCRAPERAPI_DAILY_CREDITS: how much may be spent in one day of UTC. Default no limit.
    pub daily_credits: Option<u32>,
}

impl ScraperApiSettings {
    /// Reads and checks the settings; the error names the one that is wrong.
    pub fn read(env: &Env) -> Result<Self, SettingsError> {
        let key = env.get("SCRAPERAPI_KEY").map(SecretString::from);
        let default = "https://api.scraperapi.com/".parse().expect("an address");
        let url: Url = env.parse_or("SCRAPERAPI_URL", default)?;
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        // The key would be there for everybody on the way to read.
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err(SettingsError::new(
                "SCRAPERAPI_URL must begin with https://, or be of this machine",
            ));
        }
        let daily_credits = match env.get("SCRAPERAPI_DAILY_CREDITS") {
            None => None,
            Some(text) => Some(text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                SettingsError::new(format!(
                    "SCRAPERAPI_DAILY_CREDITS must be a number from 1, and is `{text}`"
                ))
            })?),
        };
        Ok(Self { key, url, daily_credits })
    }
}

impl PartialEq for ScraperApiSettings {
    fn eq(&self, other: &Self) -> bool {
        let key = |it: &Self| it.key.as_ref().map(|key| key.expose_secret().to_owned());
        (key(self), &self.url, self.daily_credits) == (key(other), &other.url, other.daily_credits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> Result<ScraperApiSettings, SettingsError> {
        ScraperApiSettings::read(&Env::from_iter(env.iter().copied()))
    }

    #[test]
    fn a_key_is_kept_to_itself_and_goes_over_no_open_wire() {
        let settings = read(&[("SCRAPERAPI_KEY", "hush")]).unwrap();
        assert_eq!(settings.url.as_str(), "https://api.scraperapi.com/");
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(read(&[("SCRAPERAPI_URL", "http://127.0.0.1:1/")]).is_ok());
        for (name, wrong) in [
            ("SCRAPERAPI_URL", "http://api.scraperapi.com/"),
            ("SCRAPERAPI_URL", "ftp://127.0.0.1/"),
            ("SCRAPERAPI_URL", "nowhere"),
            ("SCRAPERAPI_DAILY_CREDITS", "0"),
            ("SCRAPERAPI_DAILY_CREDITS", "many"),
        ] {
            assert!(read(&[(name, wrong)]).unwrap_err().to_string().starts_with(name), "{wrong}");
        }
    }
}
