//! What can be said of a setting, and those that are no flags.

use std::collections::BTreeSet;

use clap::CommandFactory;

use crate::cli::Cli;

/// A setting that is read from the environment: what `umbel config` and the documentation say of it.
///
/// ```
/// use umbel::Setting;
///
/// const SETTINGS: &[Setting] = &[
///     Setting::new("SHOP_URL", "where the shop is", "address"),
///     Setting::new("SHOP_KEY", "the key of the shop", "secret").secret(),
///     Setting::new("SHOP_EVERY", "how often its stock is read", "duration")
///         .default("5m")
///         .limits("`1s` to `24h`"),
/// ];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub what: &'static str,
    pub unit: &'static str,
    /// As it would be set, where nobody sets it.
    pub default: Option<&'static str>,
    /// What that means, where it needs words.
    pub otherwise: Option<&'static str>,
    pub limits: &'static str,
    pub is_secret: bool,
}

impl Setting {
    pub const fn new(name: &'static str, what: &'static str, unit: &'static str) -> Self {
        Self { name, what, unit, default: None, otherwise: None, limits: "", is_secret: false }
    }

    /// The value that it has where nobody sets it, as it would be set.
    pub const fn default(self, value: &'static str) -> Self {
        Self { default: Some(value), ..self }
    }

    /// What happens where nobody sets it, in words. Default `–`.
    pub const fn otherwise(self, words: &'static str) -> Self {
        Self { otherwise: Some(words), ..self }
    }

    /// The lowest and the highest value, in words.
    pub const fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    /// Its value is shown to nobody.
    pub const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// The default as documentation has it.
    pub fn told_default(&self) -> String {
        let value = self.default.map(|value| format!("`{value}`"));
        let told: Vec<String> =
            value.into_iter().chain(self.otherwise.map(str::to_owned)).collect();
        if told.is_empty() { "–".to_owned() } else { told.join("; ") }
    }
}

/// Read by the framework or by the libraries below it, and no flags.
pub(crate) const OTHERS: &[Setting] = &[
    Setting::new("OTEL_EXPORTER_OTLP_ENDPOINT", "where traces are sent, by OTLP over HTTP; `/v1/traces` is added", "`http://` or `https://` address").otherwise("none: no traces"),
    Setting::new("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "the same, taken as it is; goes before it", "as there").otherwise("none"),
    Setting::new("OTEL_EXPORTER_OTLP_PROTOCOL", "how traces are sent", "word").default("http/protobuf").limits("no other"),
    Setting::new("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "the same; goes before it", "word").limits("no other"),
    Setting::new("OTEL_EXPORTER_OTLP_HEADERS", "what the collector wants to see in requests, a key for instance", "`name=value`, with commas").otherwise("none").secret(),
    Setting::new("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "the same; goes before it", "as there").otherwise("none").secret(),
    Setting::new("OTEL_RESOURCE_ATTRIBUTES", "what else is said of each process in traces", "`name=value`, with commas").otherwise("none"),
    Setting::new("OTEL_SERVICE_NAME", "the name of the service in traces", "text").otherwise("that of the application"),
    Setting::new("OTEL_TRACES_SAMPLER", "which traces are taken", "one of the six of the specification").default("parentbased_always_on"),
    Setting::new("OTEL_TRACES_SAMPLER_ARG", "the part of traces that is taken, for the samplers by ratio", "number").limits("0 to 1"),
    Setting::new("OTEL_TRACES_EXPORTER", "`none` sends no traces", "word").default("otlp"),
    Setting::new("OTEL_SDK_DISABLED", "`true` sends no traces", "`true` or `false`").default("false"),
    Setting::new("RUST_LOG", "as `LOG_LEVEL`, for those who are used to it; goes before it", "as there"),
    Setting::new(
        "SSL_CERT_FILE",
        "the CAs that are trusted about `rediss://` and `https://` addresses, in the place of the system's",
        "file of certificates in PEM",
    )
    .otherwise("those of the system")
    .limits("must hold one"),
    Setting::new("SSL_CERT_DIR", "more of them", "folders of such files, with colons")
        .otherwise("none")
        .limits("must exist"),
    Setting::new(
        "TOKIO_WORKER_THREADS",
        "how many threads the runtime of a role has",
        "threads",
    )
    .otherwise("one a processor of the quota; a worker two at least, beat one")
    .limits("`1` or more"),
    Setting::new(
        "UMBEL_DATA",
        "where the private Redis and Postgres of `umbel dev` keep their data",
        "folder",
    )
    .default(".umbel")
    .limits("one that only its user can write"),
    Setting::new("UMBEL_REDIS_BIN", "the Redis or Valkey that `umbel dev` starts", "program")
        .otherwise("`redis-server` or `valkey-server` in `PATH`"),
];

/// The names of all settings: of the framework, and of an application.
pub(crate) fn names(application: &[Setting]) -> BTreeSet<String> {
    let command = Cli::command();
    let flags = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
    let others = OTHERS.iter().chain(application).map(|setting| setting.name.to_owned());
    flags.chain(others).collect()
}
