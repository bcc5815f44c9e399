//! `umbel config`: every setting as it would be used here, and where it comes from.

use std::ffi::OsStr;

use clap::{Arg, ArgMatches, CommandFactory, parser::ValueSource};
use serde::Serialize;
use url::Url;

use crate::{
    Env, Setting,
    cli::Cli,
    quota,
    settings::{OTHERS, Settings, database::Environment},
};

/// In the place of what nobody is to see.
const MASK: &str = "***";

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    Flag,
    Environment,
    Default,
    /// By the processors that this container may use, and by the size of the pool.
    Quota,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Default => "default",
            Self::Quota => "quota",
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Effective {
    name: String,
    /// None where there is none; a secret is masked.
    value: Option<String>,
    source: Source,
    /// What is documented of it, where that stands with its declaration.
    #[serde(flatten)]
    documented: Option<Documented>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Documented {
    what: String,
    unit: String,
    default: String,
    limits: String,
}

impl From<&Setting> for Documented {
    fn from(setting: &Setting) -> Self {
        Self {
            what: setting.what.to_owned(),
            unit: setting.unit.to_owned(),
            default: setting.told_default(),
            limits: setting.limits.to_owned(),
        }
    }
}

/// All settings, by their groups: flags, those that are none, those of the application.
pub(crate) fn effective(
    matches: &ArgMatches,
    settings: &Settings,
    env: &Env,
    application: &[Setting],
) -> Vec<Effective> {
    let command = Cli::command();
    let flags = command.get_arguments().filter_map(|arg| flag(arg, matches, settings));
    flags.chain(OTHERS.iter().chain(application).map(|setting| variable(setting, env))).collect()
}

fn flag(arg: &Arg, matches: &ArgMatches, settings: &Settings) -> Option<Effective> {
    let name = arg.get_env().and_then(OsStr::to_str)?.to_owned();
    let id = arg.get_id().as_str();
    let given = matches.get_raw(id).map(|values| {
        let values: Vec<_> = values.map(OsStr::to_string_lossy).collect();
        values.join(",")
    });
    let source = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Source::Flag,
        Some(ValueSource::EnvVariable) => Source::Environment,
        _ => Source::Default,
    };
    let (value, source) = match given {
        Some(given) if arg.is_hide_env_values_set() => (Some(masked(&given)), source),
        Some(given) => (Some(given), source),
        None => reckoned(&name, settings),
    };
    Some(Effective { name, value, source, documented: None })
}

/// What goes by other settings, or by the machine, where nobody sets it.
fn reckoned(name: &str, settings: &Settings) -> (Option<String>, Source) {
    let (least, most) = settings.database.connections();
    let environment = settings.database.environment.unwrap_or(Environment::Production);
    let value = match name {
        "CONCURRENCY" => return (Some(settings.concurrency().to_string()), Source::Quota),
        "DATABASE_MAX_CONNECTIONS" => Some(most.to_string()),
        "DATABASE_MIN_CONNECTIONS" => Some(least.to_string()),
        "ENVIRONMENT" => Some(environment.as_str().to_owned()),
        _ => None,
    };
    (value, Source::Default)
}

fn variable(setting: &Setting, env: &Env) -> Effective {
    let (value, source) = match env.get(setting.name) {
        Some(given) if setting.is_secret => (Some(masked(given)), Source::Environment),
        Some(given) => (Some(given.to_owned()), Source::Environment),
        None if setting.name == "TOKIO_WORKER_THREADS" => {
            (Some(quota::worker_threads(quota::cpus()).to_string()), Source::Quota)
        }
        None => (setting.default.map(str::to_owned), Source::Default),
    };
    Effective { name: setting.name.to_owned(), value, source, documented: Some(setting.into()) }
}

/// A secret, of which an address leaves as much as one needs to see which it is: no user, because some
/// put their password there, and no parameters.
fn masked(secret: &str) -> String {
    let Ok(url) = Url::parse(secret) else { return MASK.to_owned() };
    let shows_path = match url.scheme() {
        "redis" | "rediss" | "unix" | "postgres" | "postgresql" => true,
        "https" | "http" => false,
        _ => return MASK.to_owned(),
    };
    let user = if url.has_authority() && (!url.username().is_empty() || url.password().is_some()) {
        format!("{MASK}@")
    } else {
        String::new()
    };
    let authority = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("//{user}{host}:{port}"),
        (Some(host), None) => format!("//{user}{host}"),
        (None, _) => String::new(),
    };
    let rest = match (shows_path, url.query()) {
        (false, _) => "/…",
        (true, Some(_)) => "?…",
        (true, None) => "",
    };
    let path = if shows_path { url.path() } else { "" };
    format!("{}:{authority}{path}{rest}", url.scheme())
}

/// For people: a line a setting.
pub(crate) fn table(all: &[Effective]) -> String {
    let width = |of: &dyn Fn(&Effective) -> &str| {
        all.iter().map(|one| of(one).chars().count()).max().unwrap_or_default()
    };
    let value = |one: &Effective| one.value.clone().unwrap_or_else(|| "–".to_owned());
    let (names, sources) = (width(&|one| &one.name), width(&|one| one.source.as_str()));
    all.iter()
        .map(|one| {
            let source = one.source.as_str();
            format!("{:<names$}  {source:<sources$}  {}\n", one.name, value(one))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_secret_an_address_is_left_and_nothing_that_lets_anybody_in() {
        for (secret, shown) in [
            ("0123456789abcdef0123456789abcdef", "***"),
            ("redis://h:6379", "redis://h:6379"),
            ("rediss://u:s3cret@h:6380", "rediss://***@h:6380"),
            ("redis://s3cret@h", "redis://***@h"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
            ("postgres://u:s3cret@h:5432/d?sslmode=require", "postgres://***@h:5432/d?…"),
            ("postgresql://h/d", "postgresql://h/d"),
            ("https://id.example/s3cret?key=s3cret", "https://id.example/…"),
            ("s3cret://h", "***"),
            ("redis://:s3cret@h:port", "***"),
            ("s3:cret", "***"),
        ] {
            assert_eq!(masked(secret), shown);
        }
    }

    #[test]
    fn people_get_a_line_a_setting() {
        let one = |name: &str, value: Option<&str>, source| Effective {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            source,
            documented: None,
        };
        let shown = table(&[one("A", Some("1"), Source::Flag), one("LONG", None, Source::Default)]);
        assert_eq!(shown, "A     flag     1\nLONG  default  –\n");
    }
}
