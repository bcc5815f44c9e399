//! Logs: one line an event, on standard error. Beside them traces, where they are wanted.

pub(crate) mod census;
pub(crate) mod exposition;
pub(crate) mod metrics;
pub(crate) mod names;
mod outgoing;
mod process;
pub(crate) mod traces;

pub use outgoing::{Fetch, fetch, traceparent};

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter,
    filter::{Directive, Targets, filter_fn},
    fmt,
    prelude::*,
};
use umbel_proto::trace;

use crate::{one_line::OneLine, roles::Role, settings::SettingsError};
use traces::Collector;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For machines
    Json,
}

impl Format {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What is not logged in detail, whatever is asked for: the library that speaks HTTP/2 to others
/// writes down all heads of requests and answers, with the keys that are in them.
const MUTED: &str = "h2";

/// Starts logging, and in a role the traces. `RUST_LOG` goes before `level`.
pub(crate) fn init(
    name: &'static str,
    role: Option<Role>,
    level: &str,
    format: Format,
) -> Result<Option<Collector>, SettingsError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let wrong =
        |error: &dyn std::error::Error| SettingsError(format!("LOG_LEVEL or RUST_LOG: {error}"));
    let off: Directive = format!("{}=off", trace::TARGET).parse().map_err(|error| wrong(&error))?;
    let filter = EnvFilter::try_new(&directives).map_err(|error| wrong(&error))?.add_directive(off);
    // JSON is for machines, which a terminal is not.
    let colours = format == Format::Text && std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(OneLine { colours }).with_ansi(colours);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let unmuted = filter_fn(|event| !is_muted(event.target(), *event.level()));
    let started = role.map(|role| traces::start(name, role)).transpose()?.flatten();
    let Some((collector, tracer)) = started else {
        // One filter for all: spans of traces are switched off where they are made.
        tracing_subscriber::registry().with(lines).with(filter).with(unmuted).init();
        return Ok(None);
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(trace::TARGET, Level::INFO));
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).with(unmuted).init();
    Ok(Some(collector))
}

fn is_muted(target: &str, level: Level) -> bool {
    target.split("::").next() == Some(MUTED) && level > Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_requests_are_not_logged() {
        for level in [Level::TRACE, Level::DEBUG] {
            assert!(is_muted("h2::codec::framed_read", level) && is_muted("h2", level));
            assert!(!is_muted("umbel_api::edge", level) && !is_muted("h2o", level));
        }
        assert!(!is_muted("h2::server", Level::WARN));
    }
}
