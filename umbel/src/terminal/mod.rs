//! What a person does from a terminal: look, ask why, act, watch, and have the house examined. Each
//! verb prints for people, or with `--json` for programs; what is said beside goes to standard error.

mod act;
mod ask;
mod doctor;
mod inspect;
mod progress;
mod shell;
mod table;
mod tail;
mod top;
mod watch;
mod why;

use std::io::{self, Write};

use clap::{Args, Subcommand};
use nix::unistd::{Uid, User};
use serde::Serialize;
use umbel_broker::Client;
use umbel_proto::QueueName;

use crate::{Application, settings::Settings};

use self::progress::Progress;
pub(crate) use self::{
    inspect::{record_json, unknown},
    progress::{aside, spinning},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how queues, tasks, workers, schedules, dead letters, limits or Redis stand
    Inspect(inspect::InspectArgs),
    /// Say in one sentence why a task is not running
    Why(why::WhyArgs),
    /// Start nothing more of a queue until it is resumed
    Pause(act::PauseArgs),
    /// Let a paused queue go on
    Resume(act::ResumeArgs),
    /// Ask for the end of a task
    Cancel(act::CancelArgs),
    /// Run dead letters again
    Redrive(act::RedriveArgs),
    /// Throw away what waits in a queue, or its dead letters; asks before it does
    Purge(act::PurgeArgs),
    /// Follow what happens, a line an event
    Tail(tail::TailArgs),
    /// Watch and operate queues, workers, running tasks and failures, live
    Top(top::TopArgs),
    /// Examine Redis, Postgres and settings; ends with 1 where something is wrong
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    Man,
}

/// How a verb prints.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Output {
    /// Prints one or the other; `text` is made only where it is wanted.
    pub fn print(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { text() };
        print(&text)
    }
}

/// Whoever reads may have seen enough: that is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

pub(crate) async fn run<S: Clone + Send + Sync + 'static>(
    verb: Verb,
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<()> {
    let client = || -> anyhow::Result<Client> { Ok(Client::open(&settings.broker()?, "cli")?) };
    match verb {
        Verb::Inspect(args) => inspect::run(&client()?, &args).await,
        Verb::Why(args) => why::run(&client()?, &args, settings.crash_limit).await,
        Verb::Pause(args) => act::pause(&client()?, &args).await,
        Verb::Resume(args) => act::resume(&client()?, &args).await,
        Verb::Cancel(args) => act::cancel(&client()?, &args).await,
        Verb::Redrive(args) => act::redrive(&client()?, &args).await,
        Verb::Purge(args) => act::purge(&client()?, &args).await,
        Verb::Tail(args) => tail::run(&client()?, &args).await,
        Verb::Top(args) => top::run(client()?, &args, settings.crash_limit).await,
        Verb::Doctor(args) => doctor::run(application, settings, &args).await,
        Verb::Completions(args) => shell::completions(application.name, &args),
        Verb::Man => shell::man(application.name),
    }
}

/// A queue that was used at least once: a slip of the pen must not pause what does not exist.
async fn known_queue(client: &Client, name: &str) -> anyhow::Result<QueueName> {
    let names = client.queue_names().await?;
    names.iter().find(|known| known.as_str() == name).cloned().ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(QueueName::as_str).collect();
        anyhow::anyhow!("there is no queue `{name}`; there are: {}", known.join(", "))
    })
}

/// Who is at the terminal, as it is written down: by name, or the user that this process is.
fn who(given: Option<&str>) -> String {
    let user = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    given.map(str::to_owned).or_else(user).unwrap_or_else(|| "operator".to_owned())
}
