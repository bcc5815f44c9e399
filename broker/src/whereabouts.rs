//! Where a task is and what holds it up: the facts that a sentence of why it does not run is made of.

use chrono::{DateTime, Utc};
use redis::cmd;
use serde::Serialize;
use umbel_proto::TaskId;

use crate::{
    BrokerError, Client, Pause, TaskRecord,
    keys::{self, Shard},
    limit,
    limits::LimitStatus,
    peek::{OpenTask, Place},
    roster::WorkerStatus,
};

/// How many tasks in workers' hands are looked at, a stream: more than all workers together run.
const HELD_LOOKED_AT: usize = 10_000;

/// What is known of a task, its queue and those who may run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Whereabouts {
    pub id: TaskId,
    /// What was written of it; `None`: it is untracked and has not ended, forgotten, or never was.
    pub record: Option<TaskRecord>,
    /// Where it is kept, where it has not ended.
    pub open: Option<OpenTask>,
    /// How many ready tasks are served before it.
    pub behind: u64,
    pub pause: Option<Pause>,
    /// The limit that it waits for, as it stands.
    pub limit: Option<LimitStatus>,
    /// All workers that nobody has declared dead.
    pub workers: Vec<WorkerStatus>,
    /// Where it is held: since when its worker is dead, and of what.
    pub death: Option<Death>,
    /// The clock of Redis, by which limits and leases go.
    pub redis_now: DateTime<Utc>,
}

/// The tombstone of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Death {
    pub at: Option<DateTime<Utc>>,
    pub cause: String,
}

impl Client {
    /// Where a task is, and what may hold it up.
    pub async fn whereabouts(&self, id: &TaskId) -> Result<Whereabouts, BrokerError> {
        let shard = Shard::of(id);
        let record = self.task(id).await?;
        let ended = record.as_ref().is_some_and(|record| record.state.has_ended());
        // One that has ended can be open again only by being redriven, and then its record says so.
        let open = if ended { None } else { self.not_ended(&shard, id.as_str()).await? };
        let (open, behind) = open.unzip();
        let waits_for = record.as_ref().filter(|_| !ended).and_then(|record| record.error.clone());
        let limit = match waits_for.as_deref().and_then(limit::of_no_room) {
            Some((name, key)) => self.limit_status(name, key).await?,
            None => None,
        };
        let death = match open.as_ref().map(|open| &open.place) {
            Some(Place::Held { worker, .. }) => self.death_of(worker).await?,
            _ => None,
        };
        Ok(Whereabouts {
            id: id.clone(),
            record,
            open,
            behind: behind.unwrap_or_default(),
            pause: self.pause_of(shard.queue()).await?,
            limit,
            workers: self.living_workers().await?,
            death,
            redis_now: self.server_time().await?,
        })
    }

    /// Looked for where the look is cheapest first.
    async fn not_ended(
        &self,
        shard: &Shard,
        id: &str,
    ) -> Result<Option<(OpenTask, u64)>, BrokerError> {
        if let Some(delayed) = self.delayed_as(shard, id).await? {
            return Ok(Some((delayed, 0)));
        }
        for name in self.parked_names(shard).await? {
            if let Some(parked) = self.parked_in(shard, &name, 1, id).await?.into_iter().next() {
                return Ok(Some((parked, 0)));
            }
        }
        if let Some(held) = self.held_in(shard, HELD_LOOKED_AT, id).await?.into_iter().next() {
            return Ok(Some((held, 0)));
        }
        self.ready_as(shard, id).await
    }

    async fn death_of(&self, worker: &str) -> Result<Option<Death>, BrokerError> {
        let beat: Option<String> =
            self.query(cmd("HGET").arg(keys::heartbeat()).arg(worker)).await?;
        Ok(match beat {
            None => Some(Death { at: None, cause: "unknown".to_owned() }),
            Some(beat) => beat.strip_prefix("dead ").map(|rest| {
                let (ms, cause) = rest.split_once(' ').unwrap_or((rest, ""));
                let at = ms.parse().ok().and_then(DateTime::from_timestamp_millis);
                Death { at, cause: cause.to_owned() }
            }),
        })
    }
}
