//! Who works, and at what: what workers tell of themselves with each heartbeat.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use redis::cmd;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{BrokerError, Client, keys};

/// How many running tasks a worker tells of: what it tells is written with every heartbeat.
pub const RUNNING_TOLD: usize = 64;

/// What a worker tells of itself; as JSON in `umbel:{workers}:info`. A release that tells less leaves
/// out what it does not know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerInfo {
    pub host: String,
    pub pid: u32,
    pub boot: String,
    pub queues: Vec<String>,
    /// How many tasks it runs at once.
    pub concurrency: usize,
    pub started: Option<DateTime<Utc>>,
    pub version: String,
    /// When it told this, by its own clock.
    pub beat: Option<DateTime<Utc>>,
    /// How many tasks it runs.
    pub running_count: usize,
    /// Those that have run the longest, at most [`RUNNING_TOLD`].
    pub running: Vec<RunningTask>,
}

/// A task in a worker's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    pub id: String,
    pub task: String,
    pub attempt: u32,
    /// When this run began, by the worker's clock.
    pub since: DateTime<Utc>,
}

/// A worker that was not declared dead.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerStatus {
    pub id: String,
    pub info: WorkerInfo,
}

impl Client {
    /// The workers that nobody has declared dead, by id, with what they run. What they tell is as old
    /// as their last heartbeat, 3 s or so; older, and they are silent: [`WorkerInfo::beat`].
    pub async fn living_workers(&self) -> Result<Vec<WorkerStatus>, BrokerError> {
        let told = self.workers().await?;
        let beats: HashMap<String, String> =
            self.query(cmd("HGETALL").arg(keys::heartbeat())).await?;
        let lives = |id: &String| beats.get(id).is_some_and(|beat| !beat.starts_with("dead "));
        let mut living: Vec<WorkerStatus> = told
            .into_iter()
            .filter(|(id, _)| lives(id))
            .map(|(id, json)| WorkerStatus { info: read(&id, &json), id })
            .collect();
        living.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(living)
    }
}

/// One that tells nothing readable is there all the same.
fn read(worker: &str, json: &str) -> WorkerInfo {
    serde_json::from_str(json).unwrap_or_else(|error| {
        warn!(worker, %error, "cannot read what a worker tells of itself");
        WorkerInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_another_release_may_tell_less_or_more_or_nonsense() {
        let older = read("w", r#"{"host":"a","pid":7,"started":"2026-03-01T12:00:00Z"}"#);
        assert_eq!((&*older.host, older.pid, older.running_count), ("a", 7, 0));
        assert!(older.started.is_some() && older.beat.is_none());
        assert_eq!(read("w", r#"{"host":"a","mood":"good"}"#).host, "a");
        assert_eq!(read("w", "nonsense"), WorkerInfo::default());
    }
}
