//! Where Redis is.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

use crate::BrokerError;

/// Where Redis is: `redis://[user:password@]host:port`, `rediss://…` for TLS, or
/// `unix:/path/to/socket`. With TLS the certificate of the server is always checked, against the CAs
/// of the system or those that the environment names (`SSL_CERT_FILE`, `SSL_CERT_DIR`).
#[derive(Clone)]
pub struct BrokerSettings {
    pub url: SecretString,
}

impl BrokerSettings {
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: SecretString::from(url.into()) }
    }

    /// Refuses what can never work, with a sentence that names the setting and not its value.
    pub fn check(&self) -> Result<(), BrokerError> {
        self.connection_info().map(|_| ())
    }

    pub(crate) fn connection_info(&self) -> Result<ConnectionInfo, BrokerError> {
        // The parser's own error may repeat the URL, and with it the password.
        let info = self.url.expose_secret().into_connection_info().map_err(|_| {
            BrokerError::Settings(
                "REDIS_URL must look like redis://host:6379, rediss://user:password@host:6380 or \
                 unix:/path/to/socket"
                    .to_owned(),
            )
        })?;
        if info.redis_settings().db() != 0 {
            return Err(BrokerError::Settings(
                "REDIS_URL names a database number; only database 0 is used, because Redis \
                 Cluster knows no other: remove the number"
                    .to_owned(),
            ));
        }
        Ok(info)
    }
}

/// The address without user, password and parameters, for logs.
impl fmt::Display for BrokerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connection_info() {
            Ok(info) => match info.addr() {
                ConnectionAddr::Unix(path) => write!(f, "unix:{}", path.display()),
                other => write!(f, "{other}"),
            },
            Err(_) => f.write_str("(not an address)"),
        }
    }
}

impl fmt::Debug for BrokerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerSettings({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_are_taken_and_shown_without_their_secrets() {
        for (url, shown) in [
            ("redis://127.0.0.1:7000", "127.0.0.1:7000"),
            ("rediss://me:s3cret@redis.example:6380", "redis.example:6380"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
        ] {
            let settings = BrokerSettings::new(url);
            settings.check().unwrap();
            assert_eq!(settings.to_string(), shown);
            assert!(!format!("{settings:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_wrong_address_is_refused_without_repeating_it() {
        for url in ["", "http://:s3cret@x", "redis://:s3cret@host:port", "redis://host:7000/3"] {
            let error = BrokerSettings::new(url).check().unwrap_err().to_string();
            assert!(error.contains("REDIS_URL") && !error.contains("s3cret"), "{error}");
        }
    }
}
