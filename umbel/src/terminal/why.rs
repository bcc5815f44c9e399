//! Why a task is not running, in one sentence.

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde::Serialize;
use umbel_broker::{
    Client, Pause, TaskRecord,
    limit::of_no_room,
    limits::LimitStatus,
    peek::{LOOKED_AT_MOST, OpenTask, Place},
    roster::WorkerStatus,
    whereabouts::{Death, Whereabouts},
};
use umbel_proto::{TaskId, TaskState};

use super::{
    Output,
    table::{moment, plain, relative, span},
};

/// Who has said nothing for so long may be dead: it tells of itself every 3 s.
pub(super) const SILENT_AFTER: TimeDelta = TimeDelta::seconds(15);

/// So late something may be without anybody being at fault: workers look every 3 s.
const LATE: TimeDelta = TimeDelta::seconds(5);

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The id of the task
    id: TaskId,
    #[command(flatten)]
    output: Output,
}

/// The answer.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Why {
    pub id: TaskId,
    /// One word for programs.
    pub reason: &'static str,
    pub sentence: String,
}

pub(super) async fn run(client: &Client, args: &WhyArgs, crash_limit: u32) -> anyhow::Result<()> {
    let found = client.whereabouts(&args.id).await?;
    let (reason, sentence) = explain(&found, crash_limit);
    let sentence = plain(&sentence);
    let why = Why { id: args.id.clone(), reason, sentence };
    args.output.print(&why, || why.sentence.clone())
}

/// The reason as a word, and as a sentence.
pub(super) fn explain(found: &Whereabouts, crash_limit: u32) -> (&'static str, String) {
    let now = found.redis_now;
    match (&found.record, &found.open) {
        (Some(record), _) if record.state.has_ended() => ended(record, now),
        (None, None) => (
            "unknown",
            format!(
                "nothing is known of {}: it never existed, its record has expired, or it is \
                 untracked and has ended",
                found.id
            ),
        ),
        (Some(record), None) => (
            "missing",
            format!(
                "its record says {}, and it is nowhere: it is just being moved, or waits behind more \
                 than {LOOKED_AT_MOST} tasks, or redis has lost it",
                record.state
            ),
        ),
        (_, Some(open)) => match &open.place {
            Place::Delayed { due } => delayed(found, open, *due),
            Place::Parked { name, until } => (
                "parked",
                format!(
                    "no worker knows `{name}`: it is parked for one that does{}",
                    until.map_or(String::new(), |until| format!(
                        ", and becomes a dead letter {} ({})",
                        relative(Some(until), now),
                        moment(until)
                    ))
                ),
            ),
            Place::Held { worker, .. } => held(found, open, worker, crash_limit),
            Place::Ready { .. } => ready(found, open, crash_limit),
        },
    }
}

fn ended(record: &TaskRecord, now: DateTime<Utc>) -> (&'static str, String) {
    let when = relative(record.finished, now);
    let error = record.error.as_deref().unwrap_or("nobody said why");
    let attempt = format!("attempt {} of {}", record.attempt, record.max_attempts);
    match record.state {
        TaskState::Succeeded => ("succeeded", format!("it has succeeded, {when}, in {attempt}")),
        TaskState::Failed => (
            "failed",
            format!(
                "it has failed for good, {when}, in {attempt}: {error}; `redrive {}` runs it again",
                record.id
            ),
        ),
        TaskState::Cancelled => {
            let by = record.cancelled_by.as_deref();
            let by = by.map_or(error.to_owned(), |by| format!("by {by}"));
            ("cancelled", format!("it was cancelled, {when}: {by}"))
        }
        _ => ("expired", format!("it has expired, {when}: {error}")),
    }
}

fn delayed(
    found: &Whereabouts,
    open: &OpenTask,
    due: Option<DateTime<Utc>>,
) -> (&'static str, String) {
    let now = found.redis_now;
    let Some(due) = due else { return ("due", "it waits for its time".to_owned()) };
    let at = format!("{} ({})", relative(Some(due), now), moment(due));
    let reason = found.record.as_ref().and_then(|record| record.error.as_deref());
    if now - due > LATE {
        return match server_of(found) {
            Err(nobody) => ("no-worker", format!("it was due {at}, and {nobody}")),
            Ok(_) => (
                "overdue",
                format!(
                    "it was due {at}, and no worker has moved it: their clocks may differ from that of redis"
                ),
            ),
        };
    }
    let paused = found
        .pause
        .as_ref()
        .map_or(String::new(), |pause| format!("; then {}", paused(pause, now)));
    if let Some((name, key)) = reason.and_then(of_no_room) {
        let holds = found.limit.as_ref().and_then(|limit| holds(limit, now));
        let holds = holds.unwrap_or_else(|| "which was full when it asked".to_owned());
        return (
            "limit",
            format!(
                "it waits for room under limit {name}:{key}, {holds}; it asks again {at}{paused}"
            ),
        );
    }
    if open.attempt.is_some_and(|attempt| attempt > 1) {
        let failed = reason.map_or(String::new(), |error| format!(": {error}"));
        let of = found.record.as_ref().map_or(String::new(), |r| format!(" of {}", r.max_attempts));
        let attempt = open.attempt.unwrap_or_default();
        return (
            "retrying",
            format!("it has failed{failed}; attempt {attempt}{of} comes {at}{paused}"),
        );
    }
    match reason {
        Some(reason) => ("snoozed", format!("it asked to be run later ({reason}): {at}{paused}")),
        None => ("due", format!("it is due {at}{paused}")),
    }
}

/// What holds a limit, by the longest.
fn holds(limit: &LimitStatus, now: DateTime<Utc>) -> Option<String> {
    let until = |at| format!("until {} ({})", moment(at), relative(Some(at), now));
    if let Some(at) = limit.paused_until {
        return Some(format!("which is paused {}", until(at)));
    }
    if let Some(at) = limit.first_lease_ends {
        let held = match limit.held {
            1 => "whose place is held by another task".to_owned(),
            held => format!("of which {held} places are held"),
        };
        return Some(format!("{held}, leased {}", until(at)));
    }
    limit.next.map(|at| format!("which grants nobody {}", until(at)))
}

fn held(
    found: &Whereabouts,
    open: &OpenTask,
    worker: &str,
    crash_limit: u32,
) -> (&'static str, String) {
    let now = found.redis_now;
    let successor = match server_of(found) {
        Ok(_) => "within seconds".to_owned(),
        Err(nobody) => format!("once a worker is there: {nobody}"),
    };
    if let Some(Death { at, cause }) = &found.death {
        let since = at.map_or(String::new(), |at| format!(" since {}", span(now - at)));
        return (
            "worker-lost",
            format!(
                "worker {worker}, which holds it, is dead{since} ({cause}): it is recovered {successor}"
            ),
        );
    }
    let status = found.workers.iter().find(|status| status.id == worker);
    let silence = status.and_then(|status| Some(now - status.info.beat?));
    if let Some(silence) = silence.filter(|silence| *silence > SILENT_AFTER) {
        return (
            "worker-lost",
            format!(
                "worker {worker}, which holds it, has said nothing for {}: it is declared dead after \
                 its lease, and the task recovered {successor}",
                span(silence)
            ),
        );
    }
    let run =
        status.and_then(|status| status.info.running.iter().find(|running| running.id == open.id));
    let started = run.map(|run| run.since).or_else(|| {
        let record = found.record.as_ref()?;
        (record.state == TaskState::Running).then_some(record.started)?
    });
    if let Some(since) = started {
        let attempt = open.attempt.unwrap_or(1);
        let asked = found.record.as_ref().and_then(|record| record.cancelled_by.as_deref());
        let asked = asked.map_or(String::new(), |by| format!("; {by} has asked for its end"));
        return (
            "running",
            format!(
                "it is running on {worker} since {}, in attempt {attempt}{asked}",
                span(now - since)
            ),
        );
    }
    if is_suspect(open, crash_limit) {
        let others = status.map_or(0, |status| status.info.running_count);
        return (
            "quarantined",
            format!(
                "{}: it waits in {worker} to run alone, until the {others} beside it have ended",
                died_over(open)
            ),
        );
    }
    let for_how_long = open.place.held_for().unwrap_or_default();
    let for_how_long = span(TimeDelta::from_std(for_how_long).unwrap_or_default());
    (
        "starting",
        format!("worker {worker} has taken it {for_how_long} ago and is about to start it"),
    )
}

fn ready(found: &Whereabouts, open: &OpenTask, crash_limit: u32) -> (&'static str, String) {
    let now = found.redis_now;
    if let Some(pause) = &found.pause {
        return ("paused", paused(pause, now));
    }
    let serving = match server_of(found) {
        Ok(serving) => serving,
        Err(nobody) => return ("no-worker", nobody),
    };
    if let Some(by) = found.record.as_ref().and_then(|record| record.cancelled_by.as_deref()) {
        return (
            "cancelling",
            format!("{by} has asked for its end: the worker that takes it next ends it"),
        );
    }
    let runs: usize = serving.iter().map(|status| status.info.running_count).sum();
    let room: usize = serving.iter().map(|status| status.info.concurrency).sum();
    let busy = format!("the workers of queue {} run {runs} of {room} at once", found.id.queue());
    if is_suspect(open, crash_limit) {
        return (
            "quarantined",
            format!("{}: it starts only where nothing else runs; {busy}", died_over(open)),
        );
    }
    match found.behind {
        0 => ("next", format!("it is next: {busy}")),
        behind => ("waiting", format!("it waits behind {behind} others: {busy}")),
    }
}

/// The live workers that serve the queue of the task, or that there are none.
fn server_of(found: &Whereabouts) -> Result<Vec<&WorkerStatus>, String> {
    let queue = found.id.queue();
    let live: Vec<&WorkerStatus> = found
        .workers
        .iter()
        .filter(|status| {
            status.info.beat.is_some_and(|beat| found.redis_now - beat <= SILENT_AFTER)
        })
        .collect();
    let serving: Vec<&WorkerStatus> = live
        .iter()
        .filter(|status| status.info.queues.iter().any(|served| served == queue.as_str()))
        .copied()
        .collect();
    if !serving.is_empty() {
        return Ok(serving);
    }
    Err(match live.len() {
        0 => format!("no live worker serves queue {queue}: there is none at all"),
        others => {
            let mut queues: Vec<&str> =
                live.iter().flat_map(|status| &status.info.queues).map(String::as_str).collect();
            queues.sort_unstable();
            queues.dedup();
            format!(
                "no live worker serves queue {queue}: the {others} there are serve {}",
                queues.join(", ")
            )
        }
    })
}

fn paused(pause: &Pause, now: DateTime<Utc>) -> String {
    let by = if pause.by.is_empty() { "somebody, by hand" } else { &pause.by };
    let why = if pause.why.is_empty() { String::new() } else { format!(": {}", pause.why) };
    // One by hand need not say since when.
    match pause.since == DateTime::UNIX_EPOCH {
        true => format!("its queue is paused by {by}{why}"),
        false => {
            let since = relative(Some(pause.since), now);
            format!("its queue was paused by {by}, {since}{why}")
        }
    }
}

fn is_suspect(open: &OpenTask, crash_limit: u32) -> bool {
    open.crashes > 0 && open.crashes + 1 >= crash_limit
}

fn died_over(open: &OpenTask) -> String {
    format!("{} workers died while they held it", open.crashes)
}
