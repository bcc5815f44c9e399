//! What is done by hand: pause, resume, cancel, redrive, purge. Each says what it did.

use anyhow::{Context, bail};
use chrono::Utc;
use clap::{Args, ValueEnum};
use serde_json::json;
use umbel_broker::{
    Cancel, Client, PurgeKind, Why,
    dead::{LetterFilter, LetterId, PAGE_LONGEST},
};
use umbel_proto::{QueueName, TaskId, TaskName};

use super::{Output, Progress, ask::consent, inspect::unknown, known_queue, who};

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    queue: String,
    /// For whoever finds it paused
    #[arg(long)]
    why: String,
    /// Who pauses it; without it the user of this machine
    #[arg(long)]
    by: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    queue: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The id of the task
    id: TaskId,
    /// Who asks; without it the user of this machine
    #[arg(long)]
    by: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// A queue, of which all dead letters are meant, or the id of one task
    target: String,
    /// One letter of the queue
    #[arg(long)]
    letter: Option<LetterId>,
    /// Only of this task
    #[arg(long)]
    task: Option<TaskName>,
    /// Only those that failed so: attempts, fatal, args, crash, unknown, unreadable
    #[arg(long, value_parser = why)]
    why: Option<Why>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    queue: String,
    /// What of it
    #[arg(long, value_enum, value_delimiter = ',', default_value = "queued")]
    what: Vec<Kind>,
    /// Of dead letters: only of this task
    #[arg(long)]
    task: Option<TaskName>,
    /// Of dead letters: only those that failed so
    #[arg(long, value_parser = why)]
    why: Option<Why>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Ready, and in no worker's hands
    Queued,
    /// Waits for its time, retries included
    Delayed,
    /// Waits for a worker that knows it
    Parked,
    /// Dead letters
    Dead,
}

pub(super) fn why(text: &str) -> Result<Why, String> {
    Why::of(text)
        .ok_or_else(|| format!("`{text}` is none of: {}", Why::ALL.map(Why::as_str).join(", ")))
}

pub(super) async fn pause(client: &Client, args: &PauseArgs) -> anyhow::Result<()> {
    let queue = known_queue(client, &args.queue).await?;
    let by = who(args.by.as_deref());
    let changed = client.pause(&queue, &by, &args.why, Utc::now()).await?;
    args.output.print(
        &json!({"queue": queue, "paused": true, "changed": changed}),
        || match changed {
            true => format!("queue {queue} is paused: what runs goes on, nothing more is started"),
            false => format!("queue {queue} was paused already; the first word stands"),
        },
    )
}

pub(super) async fn resume(client: &Client, args: &ResumeArgs) -> anyhow::Result<()> {
    let queue = known_queue(client, &args.queue).await?;
    let changed = client.resume(&queue).await?;
    args.output.print(&json!({"queue": queue, "paused": false, "changed": changed}), || {
        match changed {
            true => format!("queue {queue} goes on"),
            false => format!("queue {queue} was not paused"),
        }
    })
}

pub(super) async fn cancel(client: &Client, args: &CancelArgs) -> anyhow::Result<()> {
    let id = &args.id;
    let met = client.cancel(id, &who(args.by.as_deref())).await?.with_context(|| unknown(id))?;
    let (word, sentence) = match met {
        Cancel::Waiting => ("waiting", format!("{id} waits, and will not be started any more")),
        Cancel::Running => ("running", format!("{id} runs; its worker is told to end it")),
        Cancel::Ended(state) => ("ended", format!("{id} had ended before: {state}")),
    };
    args.output.print(&json!({"id": id, "met": word}), || sentence)
}

pub(super) async fn redrive(client: &Client, args: &RedriveArgs) -> anyhow::Result<()> {
    if let Ok(id) = args.target.parse::<TaskId>() {
        let letter = letter_of(client, &id).await?;
        return redrive_one(client, &id.queue(), letter, args.output).await;
    }
    let queue = known_queue(client, &args.target).await?;
    if let Some(letter) = args.letter {
        return redrive_one(client, &queue, letter, args.output).await;
    }
    let filter = LetterFilter { task: args.task.clone(), why: args.why };
    let bar = Progress::new("redriving", client.queue_status(&queue).await?.dead);
    let (mut done, mut refused, mut after) = (0, 0, None);
    loop {
        let swept = client
            .redrive_all(&queue, &filter, after)
            .await
            .with_context(|| format!("{done} of queue {queue} were run again before this"))?;
        bar.done(swept.done + swept.refused);
        done += swept.done;
        refused += swept.refused;
        after = swept.next;
        if after.is_none() {
            break;
        }
    }
    drop(bar);
    args.output.print(&json!({"queue": queue, "done": done, "refused": refused}), || {
        let stay = match refused {
            0 => String::new(),
            refused => format!("; {refused} cannot be run again, and stay"),
        };
        format!("{done} dead letters of queue {queue} run again{stay}")
    })
}

async fn redrive_one(
    client: &Client,
    queue: &QueueName,
    letter: LetterId,
    output: Output,
) -> anyhow::Result<()> {
    let redriven = client.redrive(queue, letter).await?;
    let id = redriven.context("there is no such dead letter (any more)")?;
    output
        .print(&json!({"id": id, "queue": queue, "letter": letter}), || format!("{id} runs again"))
}

/// The newest dead letter of a task.
async fn letter_of(client: &Client, id: &TaskId) -> anyhow::Result<LetterId> {
    let (queue, filter) = (id.queue(), LetterFilter::default());
    let mut before = None;
    loop {
        let page = client.dead_letters(&queue, &filter, before, PAGE_LONGEST).await?;
        let found = page.letters.iter().find(|letter| letter.id.as_deref() == Some(id.as_str()));
        if let Some(letter) = found {
            return Ok(letter.letter);
        }
        before = page.next;
        if before.is_none() {
            bail!("there is no dead letter of {id}; `why {id}` tells how it stands");
        }
    }
}

pub(super) async fn purge(client: &Client, args: &PurgeArgs) -> anyhow::Result<()> {
    let queue = known_queue(client, &args.queue).await?;
    let status = client.queue_status(&queue).await?;
    let count = |kind: Kind| match kind {
        Kind::Queued => (status.queued, "that are ready"),
        Kind::Delayed => (status.delayed, "that wait for their time"),
        Kind::Parked => (status.parked, "that wait for a worker that knows them"),
        Kind::Dead => (status.dead, "that failed for good"),
    };
    let meant: Vec<String> = args
        .what
        .iter()
        .map(|kind| count(*kind))
        .map(|(count, which)| format!("{count} tasks {which}"))
        .collect();
    let filtered = args.task.is_some() || args.why.is_some();
    if filtered && args.what != [Kind::Dead] {
        bail!("--task and --why are for `--what dead`: what waits is purged as a whole");
    }
    let some = if filtered { "some of " } else { "" };
    consent(&format!("queue {queue}: throws away {some}{}", meant.join(", ")), args.yes)?;
    let filter = LetterFilter { task: args.task.clone(), why: args.why };
    let mut done = serde_json::Map::new();
    let mut told = Vec::new();
    for kind in &args.what {
        let (all, which) = count(*kind);
        let bar = Progress::new("purging", all);
        let gone = throw_away(client, &queue, *kind, &filter, &bar).await.with_context(|| {
            format!("before this there went: {}", serde_json::Value::Object(done.clone()))
        })?;
        done.insert(format!("{kind:?}").to_lowercase(), json!(gone));
        told.push(format!("{gone} {which}"));
    }
    args.output.print(&json!({"queue": queue, "purged": done}), || {
        format!("of queue {queue} were thrown away: {}", told.join(", "))
    })
}

async fn throw_away(
    client: &Client,
    queue: &QueueName,
    kind: Kind,
    filter: &LetterFilter,
    bar: &Progress,
) -> anyhow::Result<u64> {
    let mut gone = 0;
    let kind = match kind {
        Kind::Queued => PurgeKind::Queued,
        Kind::Delayed => PurgeKind::Delayed,
        Kind::Parked => PurgeKind::Parked,
        Kind::Dead => {
            let mut after = None;
            loop {
                let swept = client.delete_letters(queue, filter, after).await?;
                bar.done(swept.done);
                gone += swept.done;
                after = swept.next;
                if after.is_none() {
                    return Ok(gone);
                }
            }
        }
    };
    let mut purge = client.purge(queue, kind, &who(None)).await?;
    while let Some(more) = purge.step().await? {
        bar.done(more);
        gone += more;
    }
    Ok(gone)
}
