//! What every worker does for a queue as a whole: groups, due tasks, recovery.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use redis::aio::ConnectionLike;
use tracing::{error, info};
use uuid::Uuid;

use crate::{
    BrokerError, Client,
    delivery::Epoch,
    keys::{self, Shard},
    script::{self, Scripts},
};

/// How many due tasks one tick moves: a longer script would hold up every other client.
const TICK_BATCH: usize = 128;

/// How far a caller's clock may be from that of Redis before it moves nothing: late, never early.
const CLOCK_SKEW_MS: u32 = 5_000;

/// How many entries one recovery adds again; the next call does the rest.
const RECOVER_BATCH: usize = 64;

/// What a tick did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tick {
    Moved {
        moved: u64,
        /// Due ids without a body: must be none unless Redis lost data.
        gone: u64,
        next_due: Option<DateTime<Utc>>,
        /// The names under which tasks are parked.
        parked: Vec<String>,
        /// Somebody paused the queue: what is due waits in its stream.
        paused: bool,
    },
    /// The caller's clock and that of Redis differ too much; nothing was moved.
    Skewed { redis: DateTime<Utc>, paused: bool },
}

impl Tick {
    /// Whether there may be more that is due.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Moved { moved, gone, .. } if moved + gone >= TICK_BATCH as u64)
    }

    /// Whether the queue is paused.
    pub fn is_paused(&self) -> bool {
        let (Self::Moved { paused, .. } | Self::Skewed { paused, .. }) = self;
        *paused
    }
}

/// What a recovery did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    pub added: u64,
    /// Held entries without a body: must be none unless Redis lost data.
    pub gone: u64,
    /// There is more to recover.
    pub more: bool,
}

/// Makes the groups of a queue where they are missing, over a given connection: what is read on
/// it afterwards is of this epoch.
pub(crate) async fn ensure_groups(
    scripts: &Scripts,
    shard: &Shard,
    connection: &mut impl ConnectionLike,
) -> Result<Epoch, BrokerError> {
    let mut call = script::of_shard(&scripts.groups, shard);
    call.arg(Uuid::new_v4().simple().to_string()).arg(keys::LAYOUT);
    let [run_id, generation]: [String; 2] = script::run(&call, connection).await?;
    if run_id == "LAYOUT" {
        return Err(BrokerError::NewerLayout { found: generation });
    }
    Ok(Epoch { run_id, generation })
}

impl Client {
    /// Moves due tasks of a queue to their streams; any number of workers may do it at once.
    pub async fn tick(&self, shard: &Shard, now: DateTime<Utc>) -> Result<Tick, BrokerError> {
        let mut call = script::of_shard(&self.scripts().tick, shard);
        call.key(shard.delayed())
            .key(shard.waiting())
            .key(shard.parked())
            .arg(shard.prefix())
            .arg(now.timestamp_millis())
            .arg(TICK_BATCH)
            .arg(CLOCK_SKEW_MS);
        let answer: Vec<String> = self.call(&call).await?;
        let unexpected = || BrokerError::Unexpected(format!("tick answered {answer:?}"));
        let millis = |text: &str| text.parse::<f64>().ok().map(|ms| ms as i64);
        match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["SKEW", redis, paused] => Ok(Tick::Skewed {
                redis: millis(redis)
                    .and_then(DateTime::from_timestamp_millis)
                    .ok_or_else(unexpected)?,
                paused: *paused == "1",
            }),
            [moved, gone, next, paused, parked @ ..] => Ok(Tick::Moved {
                moved: moved.parse().map_err(|_| unexpected())?,
                gone: gone.parse().map_err(|_| unexpected())?,
                next_due: millis(next).and_then(DateTime::from_timestamp_millis),
                parked: parked.iter().map(|name| (*name).to_owned()).collect(),
                paused: *paused == "1",
            }),
            _ => Err(unexpected()),
        }
    }

    /// Adds what is parked under a name to its streams, for a worker that can run it is here.
    /// Returns how many were added.
    pub async fn unpark(&self, shard: &Shard, name: &str) -> Result<u64, BrokerError> {
        let mut all = 0;
        loop {
            let mut call = script::of_shard(&self.scripts().unpark, shard);
            call.key(shard.waiting()).key(shard.parked());
            call.arg(shard.prefix()).arg(name).arg(TICK_BATCH);
            let (moved, gone): (u64, u64) = self.call(&call).await?;
            if gone > 0 {
                error!(queue.name = %shard.queue(), gone, "parked tasks had no body; redis lost data");
            }
            all += moved;
            if moved + gone < TICK_BATCH as u64 {
                return Ok(all);
            }
        }
    }

    /// The workers that Redis thinks are reading a queue, or ever held something of it.
    pub async fn consumers(&self, shard: &Shard) -> Result<BTreeSet<String>, BrokerError> {
        self.call(&script::of_shard(&self.scripts().consumers, shard)).await
    }

    /// Adds what a dead worker held of a queue again, a batch a call. The caller has seen that the
    /// worker is declared dead. `charged`: whether the death counts against what it held.
    pub async fn recover(
        &self,
        shard: &Shard,
        worker: &str,
        charged: bool,
    ) -> Result<Recovered, BrokerError> {
        let mut call = script::of_shard(&self.scripts().recover, shard);
        call.key(shard.suspects());
        call.arg(shard.prefix()).arg(worker).arg(u8::from(charged)).arg(RECOVER_BATCH);
        let (added, gone, more): (u64, u64, u8) = self.call(&call).await?;
        Ok(Recovered { added, gone, more: more != 0 })
    }

    /// Adds all that a dead worker held of a queue again, and says so.
    pub async fn recover_all(
        &self,
        shard: &Shard,
        worker: &str,
        charged: bool,
    ) -> Result<(), BrokerError> {
        loop {
            let done = self.recover(shard, worker, charged).await?;
            if done.added > 0 {
                info!(worker, queue.name = %shard.queue(), count = done.added, "tasks of a dead worker wait again");
            }
            if done.gone > 0 {
                error!(worker, queue.name = %shard.queue(), gone = done.gone, "held tasks had no body; redis lost data");
            }
            if !done.more {
                return Ok(());
            }
        }
    }
}
