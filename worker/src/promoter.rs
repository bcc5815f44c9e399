//! Moves tasks to their streams: those whose time has come, and the parked that can be run here.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_broker::{BrokerError, Client, Pauses, keys::Shard, parked_task, shard::Tick};

use crate::Endpoints;

/// How late a task may be that was enqueued after the last look.
const TICK_EVERY: Duration = Duration::from_secs(3);

/// Two ticks for one due time are spared by waiting at least this.
const TICK_SOONEST: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Promoter {
    client: Client,
    shards: Vec<Shard>,
    endpoints: Endpoints,
    pauses: Pauses,
}

impl Promoter {
    pub fn new(client: Client, shards: Vec<Shard>, endpoints: Endpoints, pauses: Pauses) -> Self {
        Self { client, shards, endpoints, pauses }
    }

    pub async fn run(self, stop: CancellationToken) {
        let mut pause = Duration::ZERO;
        while stop.run_until_cancelled(sleep(pause)).await.is_some() {
            // A step that is left half way is done by others, or by the next worker here.
            let Some(next) = stop.run_until_cancelled(self.step(Utc::now)).await else { return };
            pause = pause_until(next, Utc::now());
        }
    }

    /// Moves all that is due; tells when the next is. `clock` is asked before each call of Redis, which
    /// compares it with its own: a backlog may take longer than the two may differ.
    pub async fn step(&self, clock: fn() -> DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut next = None;
        for shard in &self.shards {
            match self.move_due(shard, clock).await {
                Ok(next_due) => next = next.into_iter().chain(next_due).min(),
                // The other queues' tasks must not wait for this one.
                Err(error) => {
                    warn!(queue.name = %shard.queue(), %error, "could not move due tasks; trying again in {TICK_EVERY:?}");
                }
            }
        }
        next
    }

    async fn move_due(
        &self,
        shard: &Shard,
        clock: fn() -> DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, BrokerError> {
        loop {
            let now = clock();
            let tick = self.client.tick(shard, now).await?;
            let is_full = tick.is_full();
            if tick.is_paused() != self.pauses.holds(shard) {
                // Not heard of, or just about to be: asked again, for an answer may be older than what
                // was heard since.
                self.pauses.look(shard).await?;
            }
            match tick {
                Tick::Moved { gone, next_due, parked, .. } => {
                    if gone > 0 {
                        error!(queue.name = %shard.queue(), gone, "delayed tasks had no body; redis lost data");
                    }
                    self.unpark(shard, &parked).await?;
                    if !is_full {
                        return Ok(next_due);
                    }
                }
                Tick::Skewed { redis, .. } => {
                    error!(queue.name = %shard.queue(), %redis, here = %now, "the clocks here and of redis differ by more than 5 s; delayed tasks wait");
                    return Ok(None);
                }
            }
        }
    }

    async fn unpark(&self, shard: &Shard, parked: &[String]) -> Result<(), BrokerError> {
        for name in parked {
            if parked_task(name).is_some_and(|task| self.endpoints.knows(&task)) {
                let count = self.client.unpark(shard, name).await?;
                info!(queue.name = %shard.queue(), task.name = name, count, "parked tasks can be run here");
            }
        }
        Ok(())
    }
}

fn pause_until(next_due: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    next_due
        .map(|due| (due - now).to_std().unwrap_or_default())
        .unwrap_or(TICK_EVERY)
        .clamp(TICK_SOONEST, TICK_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_when_the_next_task_is_due() {
        let now = DateTime::from_timestamp_millis(1_790_000_000_000).unwrap();
        let due = |ms| Some(now + chrono::Duration::milliseconds(ms));
        assert_eq!(pause_until(due(800), now), Duration::from_millis(800));
        assert_eq!(pause_until(due(-10), now), TICK_SOONEST);
        assert_eq!(pause_until(due(60_000), now), TICK_EVERY);
        assert_eq!(pause_until(None, now), TICK_EVERY);
    }
}
