//! Variables that look like settings of ours and are none: a name that is misspelt would otherwise be
//! passed over without a word, and the default taken.

use std::{collections::BTreeSet, fmt};

use super::{Setting, names};
use crate::Env;

/// What the same thing is called elsewhere. Only told where ours is not set: others on this machine
/// may need theirs.
const ELSEWHERE: [(&str, &str); 12] = [
    ("BROKER_URL", "REDIS_URL"),
    ("CELERY_BROKER_URL", "REDIS_URL"),
    ("REDIS_TLS_URL", "REDIS_URL"),
    ("REDIS_ADDR", "REDIS_URL"),
    ("REDIS_HOST", "REDIS_URL"),
    ("POSTGRES_URL", "DATABASE_URL"),
    ("POSTGRESQL_URL", "DATABASE_URL"),
    ("SUPABASE_DB_URL", "DATABASE_URL"),
    ("SQLALCHEMY_DATABASE_URI", "DATABASE_URL"),
    ("DIRECT_URL", "DATABASE_DIRECT_URL"),
    ("JWT_SECRET_KEY", "JWT_SECRET"),
    ("SUPABASE_JWT_SECRET", "JWT_SECRET"),
];

const OURS: &str = "UMBEL_";

/// Set by the supervisor for its roles.
const INTERNAL: [&str; 2] = [crate::settings::BOOT_ID, crate::lifeline::SUPERVISED];

/// Names shorter than this are like too many words to be compared.
const COMPARED_FROM: usize = 6;

/// From this length on a name may differ in two places, else in one.
const LONG_FROM: usize = 8;

/// A variable that nobody here reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub name: String,
    /// The setting that may be meant.
    pub meant: Option<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is set, and no setting", self.name)?;
        match &self.meant {
            Some(meant) => write!(f, ": {meant} may be meant"),
            None => Ok(()),
        }
    }
}

/// The variables of `env` that look like settings and are none, by name. `application`: the settings
/// that it declares. Pure: `doctor` and the start of each process ask it with their own environment,
/// as `unknown(&Env::of_process(), application.settings)`.
pub(crate) fn unknown(env: &Env, application: &[Setting]) -> Vec<Unknown> {
    let known = names(application);
    let mut found: Vec<Unknown> = env
        .names()
        .filter(|name| !known.contains(*name) && !INTERNAL.contains(name))
        .filter(|name| !is_of_a_service(name, env.get(name).unwrap_or_default()))
        .filter_map(|name| {
            let meant = meant(name, env, &known);
            (name.starts_with(OURS) || meant.is_some())
                .then(|| Unknown { name: name.to_owned(), meant })
        })
        .collect();
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found
}

fn meant(name: &str, env: &Env, known: &BTreeSet<String>) -> Option<String> {
    let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == name);
    if let Some((_, ours)) = elsewhere {
        return env.get(ours).is_none().then(|| (*ours).to_owned());
    }
    let bare = name.strip_prefix(OURS).unwrap_or(name);
    if known.contains(bare) {
        return Some(bare.to_owned());
    }
    let nearest = known
        .iter()
        .map(|ours| {
            let distance = |name| strsim::osa_distance(name, ours);
            (distance(bare).min(distance(name)), ours)
        })
        .min_by_key(|(distance, _)| *distance);
    nearest.filter(|(distance, ours)| *distance <= tolerance(ours)).map(|(_, ours)| ours.clone())
}

fn tolerance(name: &str) -> usize {
    match name.len() {
        ..COMPARED_FROM => 0,
        COMPARED_FROM..LONG_FROM => 1,
        LONG_FROM.. => 2,
    }
}

/// Kubernetes tells every process where services are; one called `umbel` would look like a setting.
fn is_of_a_service(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT") && value.contains("://")
        || name.split_once("_PORT_").is_some_and(|(_, port)| port.starts_with(char::is_numeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[Setting] = &[Setting::new("SCRAPERAPI_KEY", "the key", "secret").secret()];

    fn found(variables: &[&str]) -> Vec<(String, Option<String>)> {
        let env = Env::from_iter(variables.iter().map(|name| (*name, "s3cret")));
        let found = unknown(&env, OWN);
        assert!(!found.iter().any(|one| one.to_string().contains("s3cret")));
        found.into_iter().map(|Unknown { name, meant }| (name, meant)).collect()
    }

    #[test]
    fn names_that_are_misspelt_are_found_with_what_is_meant() {
        for (wrong, meant) in [
            ("REDIS_URI", "REDIS_URL"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("CONCURENCY", "CONCURRENCY"),
            ("CONCURRENCT", "CONCURRENCY"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("JWT_SECERT", "JWT_SECRET"),
            ("QUEUE", "QUEUES"),
            ("SCRAPER_API_KEY", "SCRAPERAPI_KEY"),
            ("UMBEL_REDIS_URL", "REDIS_URL"),
            ("UMBEL_CONCURENCY", "CONCURRENCY"),
            ("UMBEL_PORT", "PORT"),
            ("UMBEL_DATE", "UMBEL_DATA"),
            ("SQLALCHEMY_DATABASE_URI", "DATABASE_URL"),
            ("CELERY_BROKER_URL", "REDIS_URL"),
        ] {
            assert_eq!(found(&[wrong]), [(wrong.to_owned(), Some(meant.to_owned()))]);
        }
        assert_eq!(found(&["UMBEL_COLOUR"]), [("UMBEL_COLOUR".to_owned(), None)]);
    }

    #[test]
    fn what_is_ours_or_somebody_elses_is_passed_over() {
        for known in [
            "REDIS_URL",
            "SCRAPERAPI_KEY",
            "RUST_LOG",
            "UMBEL_DATA",
            "UMBEL_BOOT_ID",
            "UMBEL_SUPERVISED",
            // Kubernetes' word for a service called `umbel`.
            "UMBEL_SERVICE_HOST",
            "UMBEL_SERVICE_PORT_HTTP",
            "UMBEL_PORT_8000_TCP_ADDR",
            "UMBEL_REDIS_PORT_6379_TCP",
            "REDIS_PORT",
            "HOME",
            "PATH",
            "HOSTNAME",
            "TRACE",
            "RELEASE",
            "WEB_CONCURRENCY",
            "RENDER_INSTANCE_ID",
            "DATABASE_NAME",
        ] {
            assert_eq!(found(&[known]), [], "{known}");
        }
        let service = Env::from_iter([("UMBEL_PORT", "tcp://10.0.0.7:8000")]);
        assert_eq!(unknown(&service, OWN), []);
        assert_eq!(found(&["REDIS_URL", "CELERY_BROKER_URL"]), [], "it is set as ours too");
    }

    #[test]
    fn it_is_told_as_a_sentence() {
        let of = |meant: Option<&str>| {
            Unknown { name: "REDIS_URI".to_owned(), meant: meant.map(str::to_owned) }.to_string()
        };
        assert_eq!(
            of(Some("REDIS_URL")),
            "REDIS_URI is set, and no setting: REDIS_URL may be meant"
        );
        assert_eq!(of(None), "REDIS_URI is set, and no setting");
    }
}
