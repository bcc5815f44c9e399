//! How things stand: one table, or one JSON, a question.

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use umbel_broker::{
    Client, QueueStatus, TaskRecord, Why,
    dead::{DeadLetter, LetterFilter, LetterId, OpenedLetter, PAGE_LONGEST},
    limits::LimitStatus,
    peek::{OpenTask, Place},
    roster::WorkerStatus,
    schedules::ScheduleStatus,
};
use umbel_proto::{QueueName, TaskId, TaskName, codec};

use super::{
    Output, known_queue,
    table::{Table, bytes, moment, number, plain, relative, span},
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
struct TasksArgs {
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
struct TaskArgs {
    /// The id of the task
    id: TaskId,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct DeadArgs {
    /// Only of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only of this task
    #[arg(long)]
    task: Option<TaskName>,
    /// Only those that failed so: attempts, fatal, args, crash, unknown, unreadable
    #[arg(long, value_parser = super::act::why)]
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
        What::Tasks(args) => tasks(client, args).await,
        What::Task(args) => task(client, args).await,
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
        What::Dead(args) => dead(client, args).await,
        What::Limits(args) => {
            let limits = client.limits(args.name.as_deref(), args.limit).await.context(
                "the limits are looked for among all keys, which the access list must allow (`scan`)",
            )?;
            args.output.print(&limits, || limit_table(&limits, Utc::now()))
        }
        What::Redis(output) => redis(client, *output).await,
    }
}

async fn tasks(client: &Client, args: &TasksArgs) -> anyhow::Result<()> {
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

async fn task(client: &Client, args: &TaskArgs) -> anyhow::Result<()> {
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

async fn dead(client: &Client, args: &DeadArgs) -> anyhow::Result<()> {
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
