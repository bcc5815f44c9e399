//! The command line.

use std::{ffi::OsStr, time::Duration};

use chrono::{DateTime, Utc};
use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable,
};
use umbel_api::Scopes;
use umbel_proto::{Priority, QueueName, TaskId};

use crate::{
    roles::Role,
    settings::Settings,
    terminal::{Output, Verb},
};

/// Typed tasks over Redis Streams: an API, workers and a scheduler.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run API, worker and beat under one supervisor
    Up,
    /// As `up`, with a Redis and a Postgres of its own, for development
    Dev(DevArgs),
    /// Run the HTTP API alone
    Api,
    /// Run a worker alone
    Worker,
    /// Run the scheduler alone; several are safe
    Beat,
    /// Make or change the tables
    Migrate(Output),
    /// Ask a role whether it is well, as platforms do by a command; ends with 0 if it is
    Health {
        /// Which role; `api` is also what `up` is asked by
        #[arg(default_value = "api")]
        role: Role,
        #[command(flatten)]
        output: Output,
    },
    /// Enqueue a task
    Enqueue(EnqueueArgs),
    /// Show what is known of a task, as JSON
    Status {
        /// The id that enqueueing answered
        id: TaskId,
        // Nothing else is printed; who writes it everywhere need not leave it out.
        #[arg(long, hide = true)]
        json: bool,
    },
    /// Make a token for the API
    Token(TokenArgs),
    /// Show every setting as it is used here, and where it comes from; secrets are masked
    Config(ConfigArgs),
    #[command(flatten)]
    Terminal(Verb),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where the private Redis and Postgres keep their data
    #[arg(long, env = "UMBEL_DATA", default_value = ".umbel")]
    pub data: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// The name of the task
    pub task: String,
    /// Its arguments, JSON
    #[arg(default_value = "{}")]
    pub args: String,
    /// Start no earlier than this from now
    #[arg(long, value_parser = crate::env::duration)]
    pub delay: Option<Duration>,
    /// Start no earlier than at this moment: 2026-03-01T12:00:00Z
    #[arg(long, conflicts_with = "delay")]
    pub at: Option<DateTime<Utc>>,
    /// Start no attempt later than this from now
    #[arg(long, value_parser = crate::env::duration)]
    pub expires: Option<Duration>,
    /// Another queue than the task's own
    #[arg(long)]
    pub queue: Option<QueueName>,
    /// high, normal or low; without it the task's own
    #[arg(long, value_parser = priority)]
    pub priority: Option<Priority>,
    /// Wait so long for its end, and print its result; ends with 1 where it does not succeed
    #[arg(long, value_parser = crate::env::duration)]
    pub wait: Option<Duration>,
    /// The same key and arguments within 24 h are the same task
    #[arg(long)]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Whom the token is for
    #[arg(long, default_value = "operator")]
    pub subject: String,
    /// What it may do: tasks:enqueue, tasks:read, tasks:cancel, admin, or a scope of the
    /// application, with spaces between them
    #[arg(long, default_value_t = Scopes::TASKS)]
    pub scopes: Scopes,
    /// The tasks that it is for, with commas; without it all
    #[arg(long, value_delimiter = ',')]
    pub tasks: Option<Vec<String>>,
    /// How long it is valid
    #[arg(long, default_value = "1h", value_parser = crate::env::duration)]
    pub ttl: Duration,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// As JSON, with what is documented of each
    #[arg(long)]
    pub json: bool,
}

fn priority(text: &str) -> Result<Priority, String> {
    [Priority::High, Priority::Normal, Priority::Low]
        .into_iter()
        .find(|priority| priority.as_str() == text)
        .ok_or_else(|| format!("`{text}` is not high, normal or low"))
}

impl Command {
    /// The role that this process is, where it is one.
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Api => Some(Role::Api),
            Self::Worker => Some(Role::Worker),
            Self::Beat => Some(Role::Beat),
            _ => None,
        }
    }

    /// What the lines of its log are labelled with; a verb of the terminal needs no label.
    pub fn label(&self) -> Option<&'static str> {
        match self {
            Self::Up | Self::Dev(_) => Some("supervisor"),
            _ => self.role().map(Role::as_str),
        }
    }
}

/// The command line of an application called `name`.
pub(crate) fn command(name: &'static str) -> clap::Command {
    Cli::command().name(name)
}

/// Reads the command line of an application called `name`.
pub(crate) fn parse(name: &'static str) -> Result<(Cli, ArgMatches), clap::Error> {
    let matches = without_empty_variables(command(name)).try_get_matches()?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

/// A variable that is set to nothing counts as not set, as in compose files and dashboards.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
            true => arg.env(Resettable::Reset),
            false => arg,
        })
        .mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_priority_is_one_of_three_words() {
        assert_eq!(priority("high"), Ok(Priority::High));
        assert!(priority("urgent").is_err());
    }
}
