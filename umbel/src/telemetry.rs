//! Logs: one line an event, on standard error.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal,
    panic::{self, PanicHookInfo},
    thread,
};

use clap::ValueEnum;
use tracing::{Level, error};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, prelude::*};

use crate::{one_line::OneLine, settings::SettingsError};

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

/// Starts logging. `RUST_LOG` goes before `level`; `role` stands in each line.
pub(crate) fn init(
    level: &str,
    format: Format,
    role: Option<&'static str>,
) -> Result<(), SettingsError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| SettingsError(format!("LOG_LEVEL or RUST_LOG: {error}")))?;
    // JSON is for machines, which a terminal is not.
    let colours = format == Format::Text && std::io::stderr().is_terminal();
    let writer = OneLine { colours, json: format == Format::Json, role };
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let logs = tracing_subscriber::registry()
        .with(filter_fn(|event| !is_muted(event.target(), *event.level())))
        .with(filter);
    match format {
        Format::Text => logs.with(lines).init(),
        Format::Json => logs.with(lines.json().flatten_event(true)).init(),
    }
    panic::set_hook(Box::new(log_panic));
    Ok(())
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
