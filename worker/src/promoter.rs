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

/// Due times are whole milliseconds, and what is due within one is moved by one tick.
const TICK_SOONEST: Duration = Duration::from_millis(1);

/// Others move what is due here as well: many of them must not all come for each task.
const TICK_SOONEST_IN_VAIN: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Promoter {
    client: Client,
    shards: Vec<Shard>,
    endpoints: Endpoints,
    pauses: Pauses,
}

/// What one round over all queues came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Step {
    next_due: Option<DateTime<Utc>>,
    /// Something was there to be moved.
    has_moved: bool,
}

impl Promoter {
    pub fn new(client: Client, shards: Vec<Shard>, endpoints: Endpoints, pauses: Pauses) -> Self {
        Self { client, shards, endpoints, pauses }
    }

    pub async fn run(self, stop: CancellationToken) {
        let mut pause = Duration::ZERO;
        while stop.run_until_cancelled(sleep(pause)).await.is_some() {
            // A step that is left half way is done by others, or by the next worker here.
            let Some(step) = stop.run_until_cancelled(self.step(Utc::now)).await else { return };
            pause = step.pause(Utc::now());
        }
    }

    /// Moves all that is due. `clock` is asked before each call of Redis, which compares it with its
    /// own: a backlog may take longer than the two may differ.
    pub async fn step(&self, clock: fn() -> DateTime<Utc>) -> Step {
        let mut step = Step::default();
        for shard in &self.shards {
            match self.move_due(shard, clock).await {
                Ok(of_shard) => step = step.and(of_shard),
                // The other queues' tasks must not wait for this one.
                Err(error) => {
                    warn!(queue.name = %shard.queue(), %error, "could not move due tasks; trying again in {TICK_EVERY:?}");
                }
            }
        }
        step
    }

    async fn move_due(
        &self,
        shard: &Shard,
        clock: fn() -> DateTime<Utc>,
    ) -> Result<Step, BrokerError> {
        let mut has_moved = false;
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
                Tick::Moved { moved, gone, next_due, parked, .. } => {
                    has_moved |= moved > 0;
                    if gone > 0 {
                        error!(queue.name = %shard.queue(), gone, "delayed tasks had no body; redis lost data");
                    }
                    self.unpark(shard, &parked).await?;
                    if !is_full {
                        return Ok(Step { next_due, has_moved });
                    }
                }
                Tick::Skewed { redis, .. } => {
                    error!(queue.name = %shard.queue(), %redis, here = %now, "the clocks here and of redis differ by more than 5 s; delayed tasks wait");
                    return Ok(Step::default());
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

impl Step {
    fn and(self, other: Self) -> Self {
        Self {
            next_due: self.next_due.into_iter().chain(other.next_due).min(),
            has_moved: self.has_moved || other.has_moved,
        }
    }

    fn pause(self, now: DateTime<Utc>) -> Duration {
        let soonest = if self.has_moved { TICK_SOONEST } else { TICK_SOONEST_IN_VAIN };
        self.next_due
            .map(|due| (due - now).to_std().unwrap_or_default())
            .unwrap_or(TICK_EVERY)
            .clamp(soonest, TICK_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_when_the_next_task_is_due() {
        let now = DateTime::from_timestamp_millis(1_790_000_000_000).unwrap();
        let pause = |ms, in_vain: bool| {
            let next_due = Some(now + chrono::Duration::milliseconds(ms));
            Step { next_due, has_moved: !in_vain }.pause(now)
        };
        assert_eq!(pause(800, true), Duration::from_millis(800));
        assert_eq!(pause(-10, false), TICK_SOONEST);
        assert_eq!(pause(60_000, false), TICK_EVERY);
        assert_eq!(Step::default().pause(now), TICK_EVERY);
    }

    #[test]
    fn who_comes_after_others_have_moved_all_lets_them_go_first_next_time() {
        let now = DateTime::from_timestamp_millis(1_790_000_000_000).unwrap();
        let of = |in_vain: bool| Step { next_due: Some(now), has_moved: !in_vain };
        assert_eq!(of(true).pause(now), TICK_SOONEST_IN_VAIN);
        assert_eq!(of(true).and(of(false)).pause(now), TICK_SOONEST);
    }
}
