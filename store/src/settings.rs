//! How the store reaches Postgres: read once, checked together, refused with a sentence.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use url::Url;

use crate::tls;

/// What other clients understand and sqlx does not. They all ask for what the store does always: only
/// the simple protocol, nothing prepared, nothing cached. Left in, sqlx would warn about them.
const POOLER_SWITCHES: [&str; 3] = ["raw_sql", "no_prepare", "pgbouncer"];
const POOLER_CACHE: &str = "statement_cache_size";

/// What sqlx understands; anything else it would log, its value too. Besides these there is
/// `options[…]`.
const UNDERSTOOD: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

const EXAMPLE: &str = "postgres://user:password@host:port/database";

/// Postgres itself allows 100 unless told otherwise; a pool that wants more than this is a typing
/// error.
const CONNECTIONS_MAX: u32 = 1_000;

/// A longer limit holds one of the pooler's few server connections for everybody else.
const STATEMENT_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// How to reach Postgres, and how much of it to use. [`new`](Self::new) fills in the defaults.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `DATABASE_URL`: `postgres://user:password@host:port/database`. The parameters `raw_sql`,
    /// `no_prepare`, `pgbouncer` (`true`, `false`) and `statement_cache_size` (a number), which others
    /// need behind a pooler, are read and change nothing: what they ask for is always done. `sslmode`
    /// is one of `disable`, `prefer` (the default: TLS where the server offers it), `require`,
    /// `verify-ca`, `verify-full`; with `sslrootcert`, a file, `require` means `verify-ca`. Parameters
    /// of other clients are passed over.
    pub url: SecretString,
    /// `DATABASE_MAX_CONNECTIONS`: the most connections at a time. Default 10.
    pub max_connections: u32,
    /// `DATABASE_MIN_CONNECTIONS`: how many are kept open when idle. Default 0.
    pub min_connections: u32,
    /// `DATABASE_ACQUIRE_TIMEOUT`: how long a call waits for a connection before it is told that
    /// Postgres is unavailable. Default 10 s.
    pub acquire_timeout: Duration,
    /// `DATABASE_STATEMENT_TIMEOUT`: how long Postgres may work on one statement. Default 30 s.
    pub statement_timeout: Duration,
}

/// A setting that cannot be used; the text names it and says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub(crate) String);

impl StoreSettings {
    /// Default of [`max_connections`](Self::max_connections).
    pub const MAX_CONNECTIONS: u32 = 10;
    /// Default of [`acquire_timeout`](Self::acquire_timeout).
    pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
    /// Default of [`statement_timeout`](Self::statement_timeout).
    pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

    /// The defaults, for this address.
    pub fn new(url: impl Into<SecretString>) -> Self {
        Self {
            url: url.into(),
            max_connections: Self::MAX_CONNECTIONS,
            min_connections: 0,
            acquire_timeout: Self::ACQUIRE_TIMEOUT,
            statement_timeout: Self::STATEMENT_TIMEOUT,
        }
    }

    /// Whether these settings can be used together. Does not connect.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse = |sentence: String| Err(SettingsError(sentence));
        self.connect_options()?;
        if !(1..=CONNECTIONS_MAX).contains(&self.max_connections) {
            return refuse(format!(
                "DATABASE_MAX_CONNECTIONS ({}) must be from 1 to {CONNECTIONS_MAX}",
                self.max_connections
            ));
        }
        if self.min_connections > self.max_connections {
            return refuse(format!(
                "DATABASE_MIN_CONNECTIONS ({}) must not be more than DATABASE_MAX_CONNECTIONS ({})",
                self.min_connections, self.max_connections
            ));
        }
        if self.acquire_timeout.is_zero() {
            return refuse(
                "DATABASE_ACQUIRE_TIMEOUT must be more than 0: nobody would get a connection"
                    .into(),
            );
        }
        // Postgres counts in milliseconds and reads 0 as "no limit".
        if self.statement_timeout < Duration::from_millis(1)
            || self.statement_timeout > STATEMENT_TIMEOUT_MAX
        {
            return refuse(format!(
                "DATABASE_STATEMENT_TIMEOUT ({:?}) must be from 1ms to {STATEMENT_TIMEOUT_MAX:?}",
                self.statement_timeout
            ));
        }
        Ok(())
    }

    /// Where Postgres is, for people and logs: `host:port/database`, never the user or the
    /// password.
    pub fn address(&self) -> Result<String, SettingsError> {
        let options = self.connect_options()?;
        let host = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let database = options.get_database().unwrap_or(options.get_username());
        Ok(format!("{host}:{}/{database}", options.get_port()))
    }

    /// The host and port that are dialled; `None` where it is a socket in a folder.
    pub fn host_and_port(&self) -> Result<Option<(String, u16)>, SettingsError> {
        let options = self.connect_options()?;
        let is_tcp = options.get_socket().is_none();
        Ok(is_tcp.then(|| (options.get_host().to_owned(), options.get_port())))
    }

    /// What the address asks for its sessions by `options[name]=value`: names and values.
    pub fn session_options(&self) -> Result<Vec<(String, String)>, SettingsError> {
        let Read { url, .. } = Read::of(self.url.expose_secret())?;
        let name = |key: &str| Some(key.strip_prefix("options[")?.strip_suffix(']')?.to_owned());
        let pairs = url.query_pairs();
        Ok(pairs.filter_map(|(key, value)| Some((name(&key)?, value.into_owned()))).collect())
    }

    /// The parameters of the address that mean nothing here, for a log; never their values.
    pub(crate) fn passed_over(&self) -> Option<String> {
        let names = Read::of(self.url.expose_secret()).ok()?.passed_over;
        (!names.is_empty()).then(|| names.join(", "))
    }

    pub(crate) fn connect_options(&self) -> Result<PgConnectOptions, SettingsError> {
        let Read { url, root, .. } = Read::of(self.url.expose_secret())?;
        let options = PgConnectOptions::from_str(url.as_str())
            .map_err(|error| SettingsError(format!("DATABASE_URL cannot be used: {error}")))?;
        Ok(tls::checked(options, root.as_deref())?
            // A named statement lives in one server connection, and the pooler gives the next
            // question to another.
            .statement_cache_capacity(0)
            // PgBouncer refuses connections that set it.
            .extra_float_digits(None)
            // The text of a statement contains its parameters.
            .disable_statement_logging())
    }
}

/// The address, taken apart.
struct Read {
    /// With those parameters alone that sqlx understands.
    url: Url,
    /// The file of `sslrootcert`.
    root: Option<String>,
    /// Parameters that mean nothing here, by their names.
    passed_over: Vec<String>,
}

impl Read {
    fn of(url: &str) -> Result<Self, SettingsError> {
        // The parser's own words name no part of the address; the address is never repeated here:
        // it holds the password.
        let mut url = Url::parse(url).map_err(|error| {
            SettingsError(format!("DATABASE_URL is not an address like {EXAMPLE}: {error}"))
        })?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(SettingsError(
                "DATABASE_URL must begin with postgres:// or postgresql://".into(),
            ));
        }
        let mut kept: Vec<(String, String)> = Vec::new();
        let (mut root, mut passed_over) = (None, Vec::new());
        for (key, value) in url.query_pairs() {
            let key = key.as_ref();
            if POOLER_SWITCHES.contains(&key) {
                if value.parse::<bool>().is_err() {
                    return Err(SettingsError(format!("`{key}` in DATABASE_URL is true or false")));
                }
            } else if key == POOLER_CACHE {
                if value.parse::<u32>().is_err() {
                    return Err(SettingsError(format!("`{key}` in DATABASE_URL is a number")));
                }
            } else if UNDERSTOOD.contains(&key) || key.starts_with("options[") {
                if tls::ROOT_CERT.contains(&key) {
                    root = Some(value.to_string());
                }
                kept.push((key.to_owned(), value.into_owned()));
            } else {
                passed_over.push(shown(key));
            }
        }
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
        Ok(Self { url, root, passed_over })
    }
}

/// A name, and not the half of a password with a question mark in it.
fn shown(key: &str) -> String {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match key.bytes().all(is_name) {
        true => format!("`{key}`"),
        false => "one that is no name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "postgres://scraper:s3cr3t@db.example.com:6543/postgres";

    fn refusal(change: impl FnOnce(&mut StoreSettings)) -> String {
        let mut settings = StoreSettings::new(URL);
        change(&mut settings);
        settings.check().expect_err("must be refused").to_string()
    }

    #[test]
    fn the_defaults_are_accepted() {
        StoreSettings::new(URL).check().expect("defaults");
    }

    #[test]
    fn the_parameters_that_other_clients_need_behind_a_pooler_are_stripped() {
        let all =
            "raw_sql=true&sslmode=require&no_prepare=true&statement_cache_size=0&pgbouncer=true";
        let read = |url: String| Read::of(&url).expect("a good address");
        assert_eq!(read(format!("{URL}?{all}")).url.query(), Some("sslmode=require"));
        assert_eq!(read(format!("{URL}?no_prepare=true")).url.as_str(), URL);
    }

    #[test]
    fn parameters_of_other_clients_are_passed_over_by_name_and_never_by_value() {
        let mut settings = StoreSettings::new(format!(
            "{URL}?supa=base-pooler.x&pasword=s3cr3t&ss@h/d=s3cr3t&application_name=a&options[x]=y"
        ));
        settings.check().expect("good settings");
        let told = settings.passed_over().expect("some are");
        assert_eq!(told, "`supa`, `pasword`, one that is no name");
        settings.url = URL.into();
        assert_eq!(settings.passed_over(), None);
    }

    #[test]
    fn a_bad_setting_is_refused_with_a_sentence_that_names_it() {
        assert!(refusal(|s| s.url = "".into()).starts_with("DATABASE_URL is not an address"));
        assert!(
            refusal(|s| s.url = "mysql://root@db/shop".into())
                .starts_with("DATABASE_URL must begin with")
        );
        assert!(
            refusal(|s| s.url = format!("{URL}?sslmode=perhaps").into())
                .starts_with("DATABASE_URL cannot be used")
        );
        for wrong in ["raw_sql=perhaps", "no_prepare=", "statement_cache_size=none"] {
            let name = wrong.split('=').next().expect("a name");
            let told = refusal(|s| s.url = format!("{URL}?{wrong}").into());
            assert!(told.contains(&format!("`{name}` in DATABASE_URL")), "{told}");
        }
        assert!(refusal(|s| s.max_connections = 0).starts_with("DATABASE_MAX_CONNECTIONS"));
        assert!(refusal(|s| s.min_connections = 11).starts_with("DATABASE_MIN_CONNECTIONS"));
        assert!(
            refusal(|s| s.acquire_timeout = Duration::ZERO).starts_with("DATABASE_ACQUIRE_TIMEOUT")
        );
        assert!(
            refusal(|s| s.statement_timeout = Duration::ZERO)
                .starts_with("DATABASE_STATEMENT_TIMEOUT")
        );
    }

    #[test]
    fn the_address_for_people_names_the_place_and_no_person() {
        let address = |url: &str| StoreSettings::new(url).address().expect("a good address");
        assert_eq!(address(URL), "db.example.com:6543/postgres");
        assert_eq!(address("postgres://scraper:s3cr3t@%2Frun%2Fpg:5433/shop"), "/run/pg:5433/shop");
        assert_eq!(address("postgres:///shop?host=/run/pg"), "/run/pg:5432/shop");
    }

    #[test]
    fn where_it_leads_and_what_it_asks_of_a_session_can_be_asked() {
        let settings = |url: &str| StoreSettings::new(url);
        let dialled = settings(URL).host_and_port().expect("a good address");
        assert_eq!(dialled, Some(("db.example.com".to_owned(), 6543)));
        let socket = settings("postgres:///shop?host=/run/pg").host_and_port();
        assert_eq!(socket.expect("a good address"), None);
        let url = format!("{URL}?sslmode=disable&options[search_path]=a,b&options[x.y]=1");
        let asked = settings(&url).session_options().expect("a good address");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(asked, [pair("search_path", "a,b"), pair("x.y", "1")]);
    }

    #[test]
    fn the_password_is_in_no_error_and_no_debug_output() {
        assert!(!format!("{:?}", StoreSettings::new(URL)).contains("s3cr3t"));
        for bad in [
            "postgres://u:s3cr3t@[half/db",
            "postgres://u:s3cr3t@host:99999/db",
            "postgres://u:s3cr3t@host/db?port=s3cr3t",
        ] {
            let error = StoreSettings::new(bad).check().expect_err("must be refused");
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
        }
    }
}
