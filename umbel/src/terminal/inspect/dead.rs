//! What failed for good: the letters of all queues, or one with its arguments.

use anyhow::Context;
use chrono::Utc;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use umbel_broker::{
    Client, Why,
    dead::{DeadLetter, LetterFilter, LetterId, OpenedLetter, PAGE_LONGEST},
};
use umbel_proto::{QueueName, TaskName, codec};

use super::queues;
use crate::terminal::{
    Output, act,
    table::{Table, number, plain, relative},
};

#[derive(Debug, Args)]
pub(super) struct DeadArgs {
    /// Only of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only of this task
    #[arg(long)]
    task: Option<TaskName>,
    /// Only those that failed so: attempts, fatal, args, crash, unknown, unreadable
    #[arg(long, value_parser = act::why)]
    why: Option<Why>,
    /// One letter of the queue, with its arguments
    #[arg(long, requires = "queue")]
    letter: Option<LetterId>,
    /// How many of each queue, 1 to 100
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn dead(client: &Client, args: &DeadArgs) -> anyhow::Result<()> {
    let filter = LetterFilter { task: args.task.clone(), why: args.why };
    let queues = queues(client, args.queue.as_deref()).await?;
    if let (Some(letter), [queue]) = (args.letter, queues.as_slice()) {
        let opened = client.dead_letter(queue, letter).await?;
        return opened_letter(opened.context("there is no such dead letter")?, queue, args.output);
    }
    let limit = args.limit.clamp(1, PAGE_LONGEST);
    let mut all: Vec<(QueueName, DeadLetter)> = Vec::new();
    for queue in queues {
        let (mut before, mut found) = (None, Vec::new());
        // With a filter a page may be empty, and yet not be the last one.
        while found.len() < limit {
            let page = client.dead_letters(&queue, &filter, before, PAGE_LONGEST).await?;
            found.extend(page.letters);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        found.truncate(limit);
        all.extend(found.into_iter().map(|letter| (queue.clone(), letter)));
    }
    #[derive(Serialize)]
    struct Row<'a> {
        queue: &'a QueueName,
        #[serde(flatten)]
        letter: &'a DeadLetter,
    }
    let rows: Vec<Row> = all.iter().map(|(queue, letter)| Row { queue, letter }).collect();
    args.output.print(&rows, || {
        let now = Utc::now();
        let mut table = Table::new(["queue", "letter", "why", "task", "attempt", "died", "error"]);
        for (queue, letter) in &all {
            table.row([
                queue.to_string(),
                letter.letter.to_string(),
                letter.why.clone(),
                letter.task.clone().unwrap_or_default(),
                number(letter.attempt),
                relative(letter.died, now),
                letter.error.clone(),
            ]);
        }
        table.or("nothing has failed for good")
    })
}

fn opened_letter(opened: OpenedLetter, queue: &QueueName, output: Output) -> anyhow::Result<()> {
    let OpenedLetter { letter, args } = opened;
    let mut shown = json!(letter);
    shown["queue"] = json!(queue);
    match args.map_err(|error| error.to_string()).and_then(|packed| {
        codec::decode::<Value>(&packed).map_err(|_| "the arguments are not JSON".to_owned())
    }) {
        Ok(args) => shown["args"] = args,
        Err(why) => shown["unreadable"] = json!(why),
    }
    output.print(&shown, || {
        let fields = shown.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        fields
            .map(|(name, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), plain);
                format!("{name:<13}{text}\n")
            })
            .collect()
    })
}
