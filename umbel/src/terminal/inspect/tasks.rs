//! Tasks that have not ended, and all that is known of one.

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use umbel_broker::{
    Client, TaskRecord,
    peek::{OpenTask, Place},
};
use umbel_proto::{QueueName, TaskId, TaskName, codec};

use super::queues;
use crate::terminal::{
    Output,
    table::{Table, moment, number, plain, relative, span},
};

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    /// Only of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only those that stand like this
    #[arg(long, value_enum)]
    state: Option<Standing>,
    /// Only of this name
    #[arg(long)]
    task: Option<TaskName>,
    /// How many of each queue and standing are looked at
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Standing {
    /// In a worker's hands
    Running,
    /// Ready
    Queued,
    /// Waits for its time, retries included
    Delayed,
    /// Waits for a worker that knows it
    Parked,
}

#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// The id of the task
    id: TaskId,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn tasks(client: &Client, args: &TasksArgs) -> anyhow::Result<()> {
    let mut all: Vec<(QueueName, OpenTask)> = Vec::new();
    for queue in queues(client, args.queue.as_deref()).await? {
        let wanted = |standing| args.state.is_none_or(|only| only == standing);
        let mut found = Vec::new();
        if wanted(Standing::Running) {
            found.extend(client.held_tasks(&queue, args.limit).await?);
        }
        if wanted(Standing::Queued) {
            found.extend(client.ready_tasks(&queue, args.limit).await?);
        }
        if wanted(Standing::Delayed) {
            found.extend(client.delayed_tasks(&queue, args.limit).await?);
        }
        if wanted(Standing::Parked) {
            found.extend(client.parked_tasks(&queue, args.limit).await?);
        }
        let meant =
            |task: &OpenTask| args.task.as_ref().is_none_or(|name| name.as_str() == task.task);
        all.extend(found.into_iter().filter(meant).map(|task| (queue.clone(), task)));
    }
    #[derive(Serialize)]
    struct Row<'a> {
        queue: &'a QueueName,
        #[serde(flatten)]
        task: &'a OpenTask,
    }
    let rows: Vec<Row> = all.iter().map(|(queue, task)| Row { queue, task }).collect();
    args.output.print(&rows, || task_table(&all, Utc::now()))
}

fn task_table(all: &[(QueueName, OpenTask)], now: DateTime<Utc>) -> String {
    let mut table = Table::new(["state", "id", "task", "attempt", "enqueued", "where"]);
    for (_, task) in all {
        let (state, place) = match &task.place {
            Place::Held { worker, .. } => {
                let held = task.place.held_for().unwrap_or_default();
                let held = chrono::TimeDelta::from_std(held).unwrap_or_default();
                ("running", format!("{worker} for {}", span(held)))
            }
            Place::Ready { stream } => ("queued", (*stream).to_owned()),
            Place::Delayed { due } => ("delayed", relative(*due, now)),
            Place::Parked { until, .. } => {
                ("parked", format!("given up {}", relative(*until, now)))
            }
        };
        table.row([
            state.to_owned(),
            task.id.clone(),
            task.task.clone(),
            number(task.attempt),
            relative(task.enqueued, now),
            place,
        ]);
    }
    table.or("no task waits or runs")
}

pub(super) async fn task(client: &Client, args: &TaskArgs) -> anyhow::Result<()> {
    let record = client.task(&args.id).await?.with_context(|| unknown(&args.id))?;
    let shown = record_json(&record)?;
    args.output.print(&shown, || record_text(&record, &shown, Utc::now()))
}

pub(crate) fn unknown(id: &TaskId) -> String {
    format!(
        "nothing is known of {id}: it never existed, its record has expired, or it is untracked and \
         has not ended (`why` looks for that)"
    )
}

/// What is known of a task, as JSON.
pub(crate) fn record_json(record: &TaskRecord) -> anyhow::Result<Value> {
    let result: Value = match &record.result {
        Some(packed) => codec::decode(packed)?,
        None => Value::Null,
    };
    let mut shown = serde_json::to_value(record)?;
    shown["result"] = result;
    Ok(shown)
}

fn record_text(record: &TaskRecord, shown: &Value, now: DateTime<Utc>) -> String {
    let mut lines = vec![
        ("id", record.id.to_string()),
        ("task", record.task.to_string()),
        ("state", record.state.to_string()),
        ("queue", record.queue.to_string()),
        ("attempt", format!("{} of {}", record.attempt, record.max_attempts)),
    ];
    let times =
        [("enqueued", record.enqueued), ("started", record.started), ("finished", record.finished)];
    for (name, at) in times {
        if let Some(at) = at {
            lines.push((name, format!("{} ({})", moment(at), relative(Some(at), now))));
        }
    }
    let texts = [
        ("worker", &record.worker),
        ("error", &record.error),
        ("cancelled by", &record.cancelled_by),
        ("owner", &record.owner),
    ];
    for (name, text) in texts {
        lines.extend(text.as_ref().map(|text| (name, plain(text))));
    }
    if let Some(progress) = &record.progress {
        lines.push(("progress", progress.to_string()));
    }
    if record.result.is_some() {
        lines.push(("result", shown["result"].to_string()));
    }
    for run in &record.past {
        let told =
            format!("attempt {}, {}: {}", run.attempt, relative(run.finished, now), run.error);
        lines.push(("failed", plain(&told)));
    }
    lines.iter().map(|(name, value)| format!("{name:<13}{value}\n")).collect()
}
