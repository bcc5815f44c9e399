//! How things stand: one table, or one JSON, a question.

mod dead;
mod tasks;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use umbel_broker::{
    Client, QueueStatus, limits::LimitStatus, roster::WorkerStatus, schedules::ScheduleStatus,
};
use umbel_proto::QueueName;

pub(crate) use self::tasks::{record_json, unknown};
use self::{
    dead::DeadArgs,
    tasks::{TaskArgs, TasksArgs},
};
use super::{
    Output, known_queue,
    table::{Table, bytes, relative, span},
    why::SILENT_AFTER,
};

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How every queue stands, and who paused it
    Queues(Output),
    /// Tasks that have not ended: what runs, what is next, what waits for its time or a worker
    Tasks(TasksArgs),
    /// All that is known of one task
    Task(TaskArgs),
    /// Who works, and at what
    Workers(Output),
    /// What is scheduled, when it is due next, and what has fired
    Schedules(Output),
    /// What failed for good; one letter with its arguments
    Dead(DeadArgs),
    /// Which limits by key bite
    Limits(LimitsArgs),
    /// How the Redis stands
    Redis(Output),
}

#[derive(Debug, Args)]
struct LimitsArgs {
    /// Only of this limit
    name: Option<String>,
    /// How many keys at most
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(client: &Client, args: &InspectArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Queues(output) => {
            let queues = client.queues().await?;
            output.print(&queues, || queue_table(&queues, Utc::now()))
        }
        What::Tasks(args) => tasks::tasks(client, args).await,
        What::Task(args) => tasks::task(client, args).await,
        What::Workers(output) => {
            let (workers, now) = (client.living_workers().await?, Utc::now());
            let shown: Vec<Value> = workers.iter().map(|worker| worker_json(worker, now)).collect();
            output.print(&shown, || worker_table(&workers, now))
        }
        What::Schedules(output) => {
            let now = Utc::now();
            let schedules = client.schedules(now).await?;
            let shown: Vec<Value> = schedules.iter().map(schedule_json).collect();
            output.print(&shown, || schedule_table(&schedules, now))
        }
        What::Dead(args) => dead::dead(client, args).await,
        What::Limits(args) => {
            let limits = client.limits(args.name.as_deref(), args.limit).await.context(
                "the limits are looked for among all keys, which the access list must allow (`scan`)",
            )?;
            args.output.print(&limits, || limit_table(&limits, Utc::now()))
        }
        What::Redis(output) => redis(client, *output).await,
    }
}

pub(super) fn queue_table(queues: &[QueueStatus], now: DateTime<Utc>) -> String {
    let head = ["queue", "queued", "running", "delayed", "parked", "dead", "paused"];
    let mut table = Table::new(head);
    for queue in queues {
        let paused = queue.paused.as_ref().map_or(String::new(), |pause| {
            let since = relative(Some(pause.since), now);
            format!("by {}, {since}: {}", pause.by, pause.why)
        });
        table.row([
            queue.name.to_string(),
            queue.queued.to_string(),
            queue.running.to_string(),
            queue.delayed.to_string(),
            queue.parked.to_string(),
            queue.dead.to_string(),
            paused,
        ]);
    }
    table.or("no queue was ever used")
}

fn worker_json(worker: &WorkerStatus, now: DateTime<Utc>) -> Value {
    let mut shown = json!(worker.info);
    shown["id"] = json!(worker.id);
    shown["silent"] = json!(is_silent(worker, now));
    shown
}

pub(super) fn is_silent(worker: &WorkerStatus, now: DateTime<Utc>) -> bool {
    worker.info.beat.is_none_or(|beat| now - beat > SILENT_AFTER)
}

fn worker_table(workers: &[WorkerStatus], now: DateTime<Utc>) -> String {
    let mut table = Table::new(["worker", "queues", "runs", "started", "beat", "longest"]);
    for worker in workers {
        let info = &worker.info;
        let longest = info
            .running
            .first()
            .map_or(String::new(), |task| format!("{} for {}", task.task, span(now - task.since)));
        let silent = if is_silent(worker, now) { " (silent)" } else { "" };
        table.row([
            worker.id.clone(),
            info.queues.join(","),
            format!("{} of {}", info.running_count, info.concurrency),
            relative(info.started, now),
            relative(info.beat, now) + silent,
            longest,
        ]);
    }
    table.or("nobody works")
}

fn schedule_json(schedule: &ScheduleStatus) -> Value {
    let fires: Vec<Value> = schedule
        .fires
        .iter()
        .map(|fire| {
            json!({"slot": fire.slot, "task": fire.task, "late_ms": fire.late.num_milliseconds(), "outcome": fire.outcome})
        })
        .collect();
    let mut shown = json!(schedule.entry);
    shown["name"] = json!(schedule.entry.name);
    shown["live"] = json!(schedule.live);
    shown["next"] = json!(schedule.next);
    shown["fires"] = json!(fires);
    shown
}

fn schedule_table(schedules: &[ScheduleStatus], now: DateTime<Utc>) -> String {
    let mut table =
        Table::new(["schedule", "when", "task", "queue", "next", "last slot", "outcome"]);
    for schedule in schedules {
        let entry = &schedule.entry;
        let zone = entry.zone.as_ref().map_or(String::new(), |zone| format!(" ({zone})"));
        let last = schedule.fires.first();
        let outcome = last
            .map_or(String::new(), |fire| format!("{}, {} late", fire.outcome, span(fire.late)));
        let next = match schedule.live {
            true => relative(schedule.next, now),
            false => "in no timetable".to_owned(),
        };
        table.row([
            entry.name.clone(),
            entry.schedule.clone() + &zone,
            entry.task.to_string(),
            entry.queue.to_string(),
            next,
            relative(last.map(|fire| fire.slot), now),
            outcome,
        ]);
    }
    table.or("nothing is scheduled")
}

fn limit_table(limits: &[LimitStatus], now: DateTime<Utc>) -> String {
    let mut table =
        Table::new(["limit", "key", "held", "lease ends", "paused", "next", "last turn"]);
    for limit in limits {
        table.row([
            limit.name.clone(),
            limit.key.clone(),
            limit.held.to_string(),
            relative(limit.first_lease_ends, now),
            relative(limit.paused_until, now),
            relative(limit.next, now),
            relative(limit.last_turn, now),
        ]);
    }
    table.or("no limit was asked for lately")
}

async fn redis(client: &Client, output: Output) -> anyhow::Result<()> {
    let status = client.server_status().await?;
    output.print(&status, || {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".to_owned());
        let size = |value: Option<u64>| value.map_or("not told".to_owned(), bytes);
        let number = |value: Option<u64>| value.map_or("not told".to_owned(), |n| n.to_string());
        let limit = match status.maxmemory {
            Some(0) => "no limit".to_owned(),
            limit => size(limit),
        };
        let aof = match status.aof_enabled {
            Some(true) => format!("yes, last write {}", text(&status.aof_last_write)),
            Some(false) => "no".to_owned(),
            None => "not told".to_owned(),
        };
        let up = status.uptime_s.and_then(|s| chrono::TimeDelta::try_seconds(s as i64));
        let lines = [
            ("server", format!("{} {}", text(&status.server), text(&status.version))),
            ("role", text(&status.role)),
            ("up for", up.map_or("not told".to_owned(), span)),
            ("memory", format!("{} of {limit}", size(status.used_memory))),
            ("when full", text(&status.maxmemory_policy)),
            ("append-only", aof),
            (
                "clients",
                format!("{} of {}", number(status.connected_clients), number(status.maxclients)),
            ),
            ("commands/s", number(status.commands_per_second)),
            ("keys", number(status.keys)),
            ("evicted", number(status.evicted_keys)),
        ];
        lines.iter().map(|(name, value)| format!("{name:<13}{value}\n")).collect()
    })
}

async fn queues(client: &Client, only: Option<&str>) -> anyhow::Result<Vec<QueueName>> {
    match only {
        Some(name) => Ok(vec![known_queue(client, name).await?]),
        None => Ok(client.queue_names().await?),
    }
}
