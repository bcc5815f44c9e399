//! Logs: one line an event, on standard error. Beside them traces, where they are wanted.

pub(crate) mod census;
pub(crate) mod exposition;
pub(crate) mod metrics;
pub(crate) mod names;
mod outgoing;
mod process;
pub(crate) mod traces;

pub use outgoing::{Fetch, fetch, traceparent};

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal,
    panic::{self, PanicHookInfo},
    thread,
};

use clap::ValueEnum;
use tracing::{Level, error};
use tracing_subscriber::{
    EnvFilter,
    filter::{Directive, Targets, filter_fn},
    fmt,
    prelude::*,
};
use umbel_proto::trace;

use self::traces::Collector;
use crate::{one_line::OneLine, roles::Role, settings::SettingsError};

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

/// Starts logging, and in a role the traces. `RUST_LOG` goes before `level`; `label` stands in each
/// line.
pub(crate) fn init(
    level: &str,
    format: Format,
    label: Option<&'static str>,
    (name, role): (&'static str, Option<Role>),
) -> Result<Option<Collector>, SettingsError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let wrong =
        |error: &dyn std::error::Error| SettingsError(format!("LOG_LEVEL or RUST_LOG: {error}"));
    let off: Directive = format!("{}=off", trace::TARGET).parse().map_err(|error| wrong(&error))?;
    let filter = EnvFilter::try_new(&directives).map_err(|error| wrong(&error))?.add_directive(off);
    // JSON is for machines, which a terminal is not.
    let colours = format == Format::Text && std::io::stderr().is_terminal();
    let writer = OneLine { colours, json: format == Format::Json, role: label };
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let unmuted = filter_fn(|event| !is_muted(event.target(), *event.level()));
    let started = role.map(|role| traces::start(name, role)).transpose()?.flatten();
    let collector = match started {
        // One filter for all: spans of traces are switched off where they are made.
        None => {
            tracing_subscriber::registry().with(lines).with(filter).with(unmuted).init();
            None
        }
        Some((collector, tracer)) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_filter(Targets::new().with_target(trace::TARGET, Level::INFO));
            let lines = lines.with_filter(filter);
            tracing_subscriber::registry().with(lines).with(spans).with(unmuted).init();
            Some(collector)
        }
    };
    panic::set_hook(Box::new(log_panic));
    Ok(collector)
}

/// A panic is an event as any other: one line, with its role. As text of its own it would be several,
/// of nobody, among those of other processes.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let said = panic.payload_as_str().unwrap_or("no words");
    let trace = Backtrace::capture();
    match trace.status() {
        BacktraceStatus::Captured => error!(place, thread, %trace, "panicked: {said}"),
        _ => error!(place, thread, "panicked: {said}"),
    }
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
