//! Settings from flags and environment, checked together.

pub(crate) mod database;
#[cfg(test)]
mod documented;
mod limits;
mod listed;
mod trust;
pub(crate) mod unknown;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use umbel_api::{ApiSettings, JwksSettings, JwtSettings, RoleScopes, Scopes};
use umbel_broker::BrokerSettings;
use umbel_proto::QueueName;
use umbel_worker::WorkerSettings;
use url::Url;
use uuid::Uuid;

pub use self::listed::Setting;
pub(crate) use self::listed::{OTHERS, names};
use self::{database::DatabaseArgs, limits::LimitSettings};
use crate::{env::milliseconds, quota, roles::Role, telemetry::Format};

/// A setting that is missing or wrong; the sentence names it. The process ends with 2, and its
/// supervisor with it: starting again would not mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub(crate) String);

impl SettingsError {
    /// For the settings of an application, found wrong where its state or its timetable is made.
    /// `sentence` names the setting and says what it may be, and repeats no secret.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// What every role may be told. A flag goes before the environment.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// Where Redis is: redis://host:6379, rediss://user:password@host:6380 or unix:/path
    #[arg(long, env = "REDIS_URL", global = true, hide_env_values = true, value_parser = secret)]
    pub redis_url: Option<SecretString>,

    #[command(flatten)]
    pub database: DatabaseArgs,

    /// The address that the API listens on
    #[arg(long, env = "HOST", global = true, default_value = "127.0.0.1")]
    // Read where it is used: other programs keep other things in HOST.
    pub host: String,

    /// The port that the API listens on; 0 takes a free one
    #[arg(long, env = "PORT", global = true, default_value_t = 8000)]
    pub port: u16,

    /// What tokens of HS256 are signed with: 32 bytes or more
    #[arg(long, env = "JWT_SECRET", global = true, hide_env_values = true, value_parser = secret)]
    pub jwt_secret: Option<SecretString>,

    /// The issuer that tokens must name; without it any
    #[arg(long, env = "JWT_ISSUER", global = true)]
    pub jwt_issuer: Option<String>,

    /// The audience that tokens must name; without it any
    #[arg(long, env = "JWT_AUDIENCE", global = true)]
    pub jwt_audience: Option<String>,

    /// Where an identity provider publishes the keys of its RS256 and ES256 tokens: https://…
    // What it is asked with may be nobody else's business.
    #[arg(long, env = "JWKS_URL", global = true, hide_env_values = true)]
    pub jwks_url: Option<Url>,

    /// How long the last good keys are believed while no newer ones can be had
    #[arg(long, env = "JWKS_MAX_AGE", global = true, default_value = "24h", value_parser = crate::env::duration)]
    pub jwks_max_age: Duration,

    /// What a role stands for in tokens without scopes: service_role=admin,authenticated=tasks:read
    #[arg(long, env = "JWT_ROLE_SCOPES", global = true)]
    pub jwt_role_scopes: Option<RoleScopes>,

    /// What a token may do that names neither scopes nor a known role: tasks:enqueue tasks:read
    #[arg(long, env = "JWT_DEFAULT_SCOPES", global = true)]
    pub jwt_default_scopes: Option<Scopes>,

    #[command(flatten)]
    pub limits: LimitSettings,

    /// The queues that a worker serves; without it those of the application's tasks
    #[arg(short = 'Q', long, env = "QUEUES", global = true, value_delimiter = ',')]
    pub queues: Vec<QueueName>,

    /// How many tasks a worker runs at once; without it by the processors and the connections to the
    /// database that it may use
    #[arg(short, long, env = "CONCURRENCY", global = true)]
    pub concurrency: Option<usize>,

    /// How long a worker may be silent before the others take its tasks
    #[arg(long, env = "LEASE", global = true, default_value = "15s", value_parser = crate::env::duration)]
    pub lease: Duration,

    /// What is logged: error, warn, info, debug, trace, or a filter like info,umbel_worker=debug
    #[arg(long, env = "LOG_LEVEL", global = true, default_value = "info")]
    pub log_level: String,

    /// How it is logged
    #[arg(long, env = "LOG_FORMAT", global = true, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,

    /// Whether metrics are counted
    #[arg(long, env = "METRICS", global = true, default_value_t = true, action = clap::ArgAction::Set)]
    pub metrics: bool,

    /// How long running tasks may go on after a stop was asked for
    #[arg(long, env = "GRACE", global = true, default_value = "25s", value_parser = crate::env::duration)]
    pub grace: Duration,

    /// How long the API goes on answering, as not ready, after a stop was asked for
    #[arg(long, env = "UNREADY_FOR", global = true, default_value = "0s", value_parser = crate::env::duration)]
    pub unready_for: Duration,

    /// After how many deaths in a row before it was ready once a role of `up` is given up, and all with it
    #[arg(long, env = "RESTART_LIMIT", global = true, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub restart_limit: u32,

    /// How long tasks may block every thread of a worker before its process is ended
    #[arg(long, env = "HANG_LIMIT", global = true, default_value = "5m", value_parser = crate::env::duration)]
    pub hang_limit: Duration,

    /// After how many deaths of workers that count against a task it becomes a dead letter
    #[arg(long, env = "CRASH_LIMIT", global = true, default_value_t = 3)]
    pub crash_limit: u32,

    /// How long a task that no worker knows is parked before it becomes a dead letter
    #[arg(long, env = "PARK_LIMIT", global = true, default_value = "24h", value_parser = crate::env::duration)]
    pub park_limit: Duration,

    /// Take a Redis that keeps no append-only file, and loses tasks when it restarts
    #[arg(long, env = "ALLOW_VOLATILE", global = true)]
    pub allow_volatile: bool,
}

/// What this machine or container calls itself; workers go by it.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "host".to_owned())
}

pub(crate) fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

impl Settings {
    pub fn broker(&self) -> Result<BrokerSettings, SettingsError> {
        let url = given(&self.redis_url).ok_or_else(|| {
            SettingsError(
                "REDIS_URL must be set, for instance redis://127.0.0.1:6379 (`dev` brings a Redis \
                 of its own)"
                    .to_owned(),
            )
        })?;
        trust::check()?;
        let settings = BrokerSettings { url: url.clone() };
        settings.check().map_err(|error| SettingsError(error.to_string()))?;
        Ok(settings)
    }

    pub fn jwt(&self) -> Result<JwtSettings, SettingsError> {
        let jwks = self
            .jwks_url
            .clone()
            .map(|url| JwksSettings { max_age: self.jwks_max_age, ..JwksSettings::new(url) });
        let jwt = JwtSettings {
            secret: given(&self.jwt_secret).cloned(),
            jwks,
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
            role_scopes: self.jwt_role_scopes.clone().unwrap_or_default(),
            default_scopes: self.jwt_default_scopes.clone().unwrap_or_default(),
        };
        jwt.check().map_err(|error| SettingsError(error.to_string()))?;
        Ok(jwt)
    }

    pub fn api(&self, name: &str) -> Result<ApiSettings, SettingsError> {
        let settings = ApiSettings {
            limits: self.limits.limits(),
            metrics_elsewhere: self.limits.metrics_port.is_some(),
            ..ApiSettings::new(name, self.addr()?, self.jwt()?)
        };
        settings.check().map_err(|error| SettingsError(error.to_string()))?;
        self.metrics_addr()?;
        if self.unready_for > self.grace {
            return Err(SettingsError(format!(
                "UNREADY_FOR ({:?}) must not be longer than GRACE ({:?}): all that ends shares that \
                 time",
                self.unready_for, self.grace
            )));
        }
        Ok(settings)
    }

    /// Where metrics are served, where they have a port of their own.
    pub fn metrics_addr(&self) -> Result<Option<SocketAddr>, SettingsError> {
        let Some(port) = self.limits.metrics_port else { return Ok(None) };
        if port == self.port && port != 0 {
            return Err(SettingsError(format!("METRICS_PORT and PORT are both {port}")));
        }
        Ok(Some(SocketAddr::new(self.addr()?.ip(), port)))
    }

    /// Where the API listens.
    pub fn addr(&self) -> Result<SocketAddr, SettingsError> {
        let host: IpAddr = self.host.parse().map_err(|_| {
            SettingsError(format!("HOST must be an IP address to listen on, not `{}`", self.host))
        })?;
        Ok(SocketAddr::new(host, self.port))
    }

    pub fn worker(&self) -> Result<WorkerSettings, SettingsError> {
        let boot = match std::env::var(BOOT_ID) {
            Ok(boot) if is_boot_id(&boot) => boot,
            Ok(_) => return Err(SettingsError(format!("{BOOT_ID} must be 16 hex digits"))),
            Err(_) => boot_id(),
        };
        let settings = WorkerSettings {
            queues: self.queues.clone(),
            concurrency: self.concurrency(),
            lease: self.lease,
            grace: self.grace,
            hang_limit: self.hang_limit,
            crash_limit: self.crash_limit,
            park_limit: self.park_limit,
            ..WorkerSettings::new(&host_name(), &boot)
        };
        settings.check().map_err(|error| SettingsError(error.to_string()))?;
        Ok(settings)
    }

    /// How many tasks a worker of this process runs at once.
    pub fn concurrency(&self) -> usize {
        let by_budget = || quota::concurrency(quota::cpus(), self.database.most());
        self.concurrency.unwrap_or_else(by_budget)
    }

    /// What `up` needs, together: one wrong setting stops all roles before one has started.
    pub fn check_all(&self, name: &str, has_tables: bool) -> Result<(), SettingsError> {
        self.broker()?;
        if self.database.store()?.is_none() && has_tables {
            return Err(SettingsError(NO_DATABASE.to_owned()));
        }
        self.database.store_direct()?;
        self.database.check_shared()?;
        self.api(name)?;
        self.worker()?;
        Ok(())
    }

    /// These settings as environment, for the process of a role: secrets must not stand on a
    /// command line.
    pub fn as_env(&self, role: Role) -> Vec<(&'static str, String)> {
        let secret =
            |text: &Option<SecretString>| text.as_ref().map(|t| t.expose_secret().to_owned());
        let queues: Vec<&str> = self.queues.iter().map(QueueName::as_str).collect();
        let optional = [
            ("REDIS_URL", secret(&self.redis_url)),
            ("DATABASE_URL", secret(&self.database.database_url)),
            ("DATABASE_DIRECT_URL", secret(&self.database.database_direct_url)),
            ("JWT_SECRET", secret(&self.jwt_secret)),
            ("JWT_ISSUER", self.jwt_issuer.clone()),
            ("JWT_AUDIENCE", self.jwt_audience.clone()),
            ("JWKS_URL", self.jwks_url.as_ref().map(Url::to_string)),
            ("JWT_ROLE_SCOPES", self.jwt_role_scopes.as_ref().map(RoleScopes::to_string)),
            ("JWT_DEFAULT_SCOPES", self.jwt_default_scopes.as_ref().map(Scopes::to_string)),
            ("METRICS_PORT", self.limits.metrics_port.map(|port| port.to_string())),
            ("QUEUES", (!queues.is_empty()).then(|| queues.join(","))),
            ("CONCURRENCY", self.concurrency.map(|count| count.to_string())),
        ];
        let fixed = [
            ("HOST", self.host.clone()),
            ("LOG_LEVEL", self.log_level.clone()),
            ("LOG_FORMAT", self.log_format.as_str().to_owned()),
            ("PORT", self.port.to_string()),
            ("LEASE", milliseconds(self.lease)),
            ("GRACE", milliseconds(self.grace)),
            ("UNREADY_FOR", milliseconds(self.unready_for)),
            ("RESTART_LIMIT", self.restart_limit.to_string()),
            ("HANG_LIMIT", milliseconds(self.hang_limit)),
            ("CRASH_LIMIT", self.crash_limit.to_string()),
            ("PARK_LIMIT", milliseconds(self.park_limit)),
            ("JWKS_MAX_AGE", milliseconds(self.jwks_max_age)),
            ("METRICS", self.metrics.to_string()),
            ("ALLOW_VOLATILE", self.allow_volatile.to_string()),
        ];
        let named = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let of_parts = self.limits.as_env().into_iter().chain(self.database.as_env(role));
        named.chain(fixed).chain(of_parts).collect()
    }
}

/// Said before a role starts, and by the application that asks for its database.
pub(crate) const NO_DATABASE: &str =
    "DATABASE_URL must be set: this application keeps tables in Postgres";

/// A variable that is set to nothing counts as not set, as in compose files and dashboards.
pub(crate) fn given(secret: &Option<SecretString>) -> Option<&SecretString> {
    secret.as_ref().filter(|text| !text.expose_secret().is_empty())
}

/// Tells the processes of one start apart; the supervisor gives one to each child.
pub(crate) const BOOT_ID: &str = "UMBEL_BOOT_ID";

const BOOT_DIGITS: usize = 16;

pub(crate) fn boot_id() -> String {
    Uuid::new_v4().simple().to_string()[..BOOT_DIGITS].to_owned()
}

fn is_boot_id(text: &str) -> bool {
    text.len() == BOOT_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(flags: &[&str]) -> Settings {
        Line::parse_from(std::iter::once(&"umbel").chain(flags)).settings
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_and_no_secret_is_repeated() {
        let redis = "--redis-url=redis://:s3cret@127.0.0.1:7000";
        let jwt = "--jwt-secret=0123456789abcdef0123456789abcdef";
        for (flags, name) in [
            (vec![jwt], "REDIS_URL"),
            (vec![redis], "JWT_SECRET"),
            (vec![redis, "--jwt-secret=s3cret"], "JWT_SECRET"),
            (vec![redis, jwt, "--database-url=mysql://:s3cret@h/d"], "DATABASE_URL"),
            (vec![redis, jwt, "--concurrency=0"], "CONCURRENCY"),
            (vec![redis, jwt, "--lease=1s"], "LEASE"),
            (vec![redis, jwt, "--unready-for=26s"], "UNREADY_FOR"),
            (
                vec![redis, jwt, "--database-url=postgres://h/d", "--database-max-connections=1"],
                "DATABASE_MAX_CONNECTIONS",
            ),
            (vec!["--redis-url=redis://:s3cret@h:port", jwt], "REDIS_URL"),
            (vec![redis, jwt, "--jwks-url=http://id.example/keys"], "JWT_ISSUER"),
            (vec![redis, jwt, "--body-limit=1"], "BODY_LIMIT"),
            (vec![redis, jwt, "--header-timeout=1m"], "HEADER_TIMEOUT"),
            (vec![redis, jwt, "--port=9000", "--metrics-port=9000"], "METRICS_PORT"),
            (
                vec![
                    redis,
                    "--jwt-issuer=i",
                    "--jwt-audience=a",
                    "--jwks-url=https://u:s3cret@id.example/keys",
                ],
                "JWKS_URL",
            ),
        ] {
            let error = settings(&flags).check_all("test", false).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("s3cret"), "{flags:?}: {error}");
        }
        settings(&[redis, jwt]).check_all("test", false).unwrap();
        let error = settings(&[redis, jwt]).check_all("test", true).unwrap_err().to_string();
        assert!(error.contains("DATABASE_URL"), "{error}");
    }

    #[test]
    fn a_child_gets_the_same_settings_by_its_environment() {
        let parent = settings(&[
            "--redis-url=redis://h:7000",
            "--queues=a,b",
            "--lease=20s",
            "--port=0",
            "--jwks-url=https://id.example/keys",
            "--jwt-role-scopes=staff=tasks:read tasks:cancel,root=admin",
            "--jwt-default-scopes=tasks:read",
            "--metrics-port=9100",
            "--rate-limit=0",
            "--header-timeout=2s",
        ]);
        let env = parent.as_env(Role::Worker);
        let value = |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("REDIS_URL"), Some("redis://h:7000"));
        assert_eq!(value("QUEUES"), Some("a,b"));
        assert_eq!(value("LEASE"), Some("20000ms"));
        assert_eq!(value("PORT"), Some("0"));
        assert_eq!(value("DATABASE_URL"), None);
        // Read again it is the same: of what is flag and variable none is left out.
        let flags: Vec<String> = env
            .iter()
            .map(|(name, value)| (name.to_lowercase().replace('_', "-"), value))
            .filter(|(_, value)| *value != "false")
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut again = settings(&flags);
        // Of the connections it gets its part.
        again.database = parent.database.clone();
        assert_eq!(format!("{again:?}"), format!("{parent:?}"));
    }

    #[test]
    fn secrets_do_not_show() {
        let shown =
            format!("{:?}", settings(&["--redis-url=redis://:s3cret@h", "--jwt-secret=s3cret"]));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_boot_id_is_sixteen_hex_digits() {
        assert!(is_boot_id(&boot_id()));
        assert!(!is_boot_id("0123") && !is_boot_id("0123456789abcdeg"));
    }
}
