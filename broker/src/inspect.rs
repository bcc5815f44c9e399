//! What is known of tasks and queues.

use std::{collections::HashMap, str::FromStr};

use chrono::{DateTime, Utc};
use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use umbel_proto::{QueueName, TaskId, TaskName, TaskState};

use crate::{
    BrokerError, Client, Pause,
    keys::{GROUP, Shard, Stream},
};

/// What is known of one task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskRecord {
    pub id: TaskId,
    pub task: TaskName,
    pub state: TaskState,
    pub queue: QueueName,
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued: Option<DateTime<Utc>>,
    pub started: Option<DateTime<Utc>>,
    pub finished: Option<DateTime<Utc>>,
    pub worker: Option<String>,
    pub error: Option<String>,
    /// Runs that failed and were tried again, the first one first; at most the last twenty.
    pub past: Vec<PastRun>,
    /// How far its run is, as the handler says it.
    pub progress: Option<Value>,
    /// Who has asked for its end, whether or not it has come to that.
    pub cancelled_by: Option<String>,
    /// Whose it is, where it came in over HTTP.
    pub owner: Option<String>,
    /// The encoded output of a task that succeeded.
    pub result: Option<Vec<u8>>,
}

/// A run that failed and was tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastRun {
    #[serde(default)]
    pub attempt: u32,
    #[serde(with = "chrono::serde::ts_milliseconds_option")]
    pub started: Option<DateTime<Utc>>,
    #[serde(with = "chrono::serde::ts_milliseconds_option")]
    pub finished: Option<DateTime<Utc>>,
    pub worker: String,
    pub error: String,
}

/// How a queue stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    pub name: QueueName,
    /// Ready, and in no worker's hands.
    pub queued: u64,
    /// In the hands of workers.
    pub running: u64,
    /// Waits for its time, retries included.
    pub delayed: u64,
    /// Waits for a worker that can run it.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
    /// Who paused it; `None`: it is not.
    pub paused: Option<Pause>,
}

impl Client {
    /// What is known of a task; `None` where nothing is: it never existed, its record has
    /// expired, or it is untracked and has not ended.
    pub async fn task(&self, id: &TaskId) -> Result<Option<TaskRecord>, BrokerError> {
        let fields: HashMap<String, Vec<u8>> =
            self.query(cmd("HGETALL").arg(Shard::of(id).task(id))).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        record(id, &fields).map(Some).ok_or_else(|| {
            BrokerError::Unexpected(format!("the record of task {id} is not one of ours"))
        })
    }

    /// How every queue stands, by name.
    pub async fn queues(&self) -> Result<Vec<QueueStatus>, BrokerError> {
        let mut all = Vec::new();
        for name in self.queue_names().await? {
            all.push(self.queue_status(&name).await?);
        }
        Ok(all)
    }

    /// How a queue stands; one that was never used is empty.
    pub async fn queue_status(&self, name: &QueueName) -> Result<QueueStatus, BrokerError> {
        let shard = Shard::first(name);
        let mut counts = pipe();
        for stream in Stream::IN_ORDER {
            counts.cmd("XLEN").arg(shard.ready(stream));
        }
        counts.cmd("ZCARD").arg(shard.delayed()).cmd("XLEN").arg(shard.dead());
        let counts: Vec<u64> = self.pipeline(&counts).await?;
        let [ready @ .., delayed, dead] = counts.as_slice() else {
            return Err(BrokerError::Unexpected("a queue's lengths are missing".to_owned()));
        };
        let mut running = 0;
        for stream in Stream::IN_ORDER {
            running += self.pending(&shard.ready(stream)).await?;
        }
        Ok(QueueStatus {
            name: name.clone(),
            // Entries are deleted when they are acknowledged: what is there waits or runs.
            queued: ready.iter().sum::<u64>().saturating_sub(running),
            running,
            delayed: *delayed,
            parked: self.parked(&shard).await?,
            dead: *dead,
            paused: self.pause_of(name).await?,
        })
    }

    async fn parked(&self, shard: &Shard) -> Result<u64, BrokerError> {
        let names: Vec<String> =
            self.query(cmd("ZRANGE").arg(shard.parked()).arg(0).arg(-1)).await?;
        let mut parked = 0;
        for name in names {
            parked += self.query::<u64>(cmd("ZCARD").arg(shard.parked_as(&name))).await?;
        }
        Ok(parked)
    }

    async fn pending(&self, stream: &str) -> Result<u64, BrokerError> {
        let summary: Result<redis::streams::StreamPendingReply, _> =
            self.query(cmd("XPENDING").arg(stream).arg(GROUP)).await;
        match summary {
            Ok(summary) => Ok(summary.count() as u64),
            // No worker has ever read the queue.
            Err(BrokerError::GroupGone(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn past_runs(fields: &HashMap<String, Vec<u8>>) -> Vec<PastRun> {
    let mut past: Vec<PastRun> = fields
        .iter()
        .filter_map(|(name, json)| {
            let attempt = name.strip_prefix("attempt:")?.parse().ok()?;
            let run: PastRun = serde_json::from_slice(json).ok()?;
            Some(PastRun { attempt, ..run })
        })
        .collect();
    past.sort_by_key(|run| run.attempt);
    past
}

fn record(id: &TaskId, fields: &HashMap<String, Vec<u8>>) -> Option<TaskRecord> {
    let text = |name: &str| std::str::from_utf8(fields.get(name)?).ok();
    fn parsed<T: FromStr>(text: Option<&str>) -> Option<T> {
        text?.parse().ok()
    }
    let time = |name: &str| DateTime::from_timestamp_millis(parsed(text(name))?);
    Some(TaskRecord {
        id: id.clone(),
        task: parsed(text("task"))?,
        state: parsed(text("state"))?,
        queue: id.queue(),
        attempt: parsed(text("attempt"))?,
        max_attempts: parsed(text("max"))?,
        enqueued: time("enqueued"),
        started: time("started"),
        finished: time("finished"),
        worker: text("worker").map(str::to_owned),
        error: text("error").map(str::to_owned),
        past: past_runs(fields),
        // Written by hand, it may be anything.
        progress: text("progress").and_then(|json| serde_json::from_str(json).ok()),
        cancelled_by: text("cancel").map(str::to_owned),
        owner: text("owner").map(str::to_owned),
        result: fields.get("result").cloned(),
    })
}
