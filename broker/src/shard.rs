//! What every worker does for a queue as a whole: groups, due tasks, recovery.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use redis::{aio::ConnectionLike, cmd};
use uuid::Uuid;

use crate::{
    BrokerError, Client,
    delivery::Epoch,
    keys::{self, Shard, Stream},
    script,
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
    },
    /// The caller's clock and that of Redis differ too much; nothing was moved.
    Skewed { redis: DateTime<Utc> },
}

impl Tick {
    /// Whether there may be more that is due.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Moved { moved, gone, .. } if moved + gone >= TICK_BATCH as u64)
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
    shard: &Shard,
    connection: &mut impl ConnectionLike,
) -> Result<Epoch, BrokerError> {
    let mut call = script::of_shard(&script::GROUPS, shard);
    call.arg(Uuid::new_v4().simple().to_string()).arg(keys::LAYOUT);
    let [run_id, generation]: [String; 2] = script::run(&call, connection).await?;
    if run_id == "LAYOUT" {
        return Err(BrokerError::NewerLayout { found: generation });
    }
    if run_id.is_empty() {
        return Err(BrokerError::Denied(
            "INFO does not tell the run_id of the server, which fences settles".to_owned(),
        ));
    }
    Ok(Epoch { run_id, generation })
}

impl Client {
    /// Moves due tasks of a queue to their streams; any number of workers may do it at once.
    pub async fn tick(&self, shard: &Shard, now: DateTime<Utc>) -> Result<Tick, BrokerError> {
        let mut call = script::of_shard(&script::TICK, shard);
        call.key(shard.delayed())
            .key(shard.waiting())
            .arg(shard.prefix())
            .arg(now.timestamp_millis())
            .arg(TICK_BATCH)
            .arg(CLOCK_SKEW_MS);
        let answer: Vec<String> = self.call(&call).await?;
        let unexpected = || BrokerError::Unexpected(format!("tick answered {answer:?}"));
        let millis = |text: &str| text.parse::<f64>().ok().map(|ms| ms as i64);
        match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["SKEW", redis] => Ok(Tick::Skewed {
                redis: millis(redis)
                    .and_then(DateTime::from_timestamp_millis)
                    .ok_or_else(unexpected)?,
            }),
            [moved, gone, next] => Ok(Tick::Moved {
                moved: moved.parse().map_err(|_| unexpected())?,
                gone: gone.parse().map_err(|_| unexpected())?,
                next_due: millis(next).and_then(DateTime::from_timestamp_millis),
            }),
            _ => Err(unexpected()),
        }
    }

    /// The workers that Redis thinks are reading a queue, or ever held something of it.
    pub async fn consumers(&self, shard: &Shard) -> Result<BTreeSet<String>, BrokerError> {
        let mut names = BTreeSet::new();
        for stream in Stream::IN_ORDER {
            let info: Result<redis::streams::StreamInfoConsumersReply, _> = self
                .query(cmd("XINFO").arg("CONSUMERS").arg(shard.ready(stream)).arg(keys::GROUP))
                .await;
            match info {
                Ok(info) => names.extend(info.consumers.into_iter().map(|consumer| consumer.name)),
                // Nobody has read the queue yet: no stream, or no group on it.
                Err(BrokerError::GroupGone(_)) => {}
                Err(BrokerError::Unexpected(text)) if text.contains("no such key") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    /// Adds what a dead worker held of a queue again, a batch a call. The caller has seen that the
    /// worker is declared dead. `charged`: whether the death counts against what it held.
    pub async fn recover(
        &self,
        shard: &Shard,
        worker: &str,
        charged: bool,
    ) -> Result<Recovered, BrokerError> {
        let mut call = script::of_shard(&script::RECOVER, shard);
        call.arg(shard.prefix()).arg(worker).arg(u8::from(charged)).arg(RECOVER_BATCH);
        let (added, gone, more): (u64, u64, u8) = self.call(&call).await?;
        Ok(Recovered { added, gone, more: more != 0 })
    }
}
