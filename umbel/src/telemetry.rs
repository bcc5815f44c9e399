//! Logs: one line an event, on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::Level;
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

/// Starts logging. `RUST_LOG` goes before `level`.
pub(crate) fn init(level: &str, format: Format) -> Result<(), SettingsError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| SettingsError(format!("LOG_LEVEL or RUST_LOG: {error}")))?;
    // JSON is for machines, which a terminal is not.
    let colours = format == Format::Text && std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(OneLine { colours }).with_ansi(colours);
    let logs = tracing_subscriber::registry()
        .with(filter_fn(|event| !is_muted(event.target(), *event.level())))
        .with(filter);
    match format {
        Format::Text => logs.with(lines).init(),
        Format::Json => logs.with(lines.json().flatten_event(true)).init(),
    }
    Ok(())
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
