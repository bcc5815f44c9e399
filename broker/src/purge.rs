//! Throws away what waits in a queue, for good.

use std::time::Duration;

use chrono::Utc;
use umbel_proto::QueueName;

use crate::{
    BrokerError, Client,
    keys::{Shard, Stream},
    script,
    settle::ttl_s,
};

/// How many tasks one step throws away: a longer script would hold up every other client.
const STEP: usize = 128;

/// How long it is known of a task that it was thrown away: the same as of an end by default.
const END_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What of a queue is thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeKind {
    /// Ready, and in no worker's hands.
    Queued,
    /// Waits for its time, retries included.
    Delayed,
    /// Waits for a worker that knows it.
    Parked,
}

/// A purge, a step at a time.
#[derive(Debug)]
pub struct Purge {
    client: Client,
    shard: Shard,
    by: String,
    /// What is still to be thrown away: names of places as the script knows them, the last first.
    places: Vec<(String, String)>,
}

impl Client {
    /// Begins to throw away what waits in a queue. Tasks that are tracked are known as cancelled by
    /// `by` from then on; unlike with a cancel, nobody is told: no handler hears that its task ended.
    pub async fn purge(
        &self,
        queue: &QueueName,
        kind: PurgeKind,
        by: &str,
    ) -> Result<Purge, BrokerError> {
        let shard = Shard::first(queue);
        let places = match kind {
            PurgeKind::Queued => Stream::IN_ORDER
                .map(|stream| (stream.key_index().to_string(), shard.delayed()))
                .to_vec(),
            PurgeKind::Delayed => vec![("delayed".to_owned(), shard.delayed())],
            PurgeKind::Parked => {
                let names = self.parked_names(&shard).await?.into_iter();
                names.map(|name| (name.clone(), shard.parked_as(&name))).collect()
            }
        };
        Ok(Purge { client: self.clone(), shard, by: by.to_owned(), places })
    }
}

impl Purge {
    /// Throws away a batch. `None`: there is nothing left.
    pub async fn step(&mut self) -> Result<Option<u64>, BrokerError> {
        let Some((place, set)) = self.places.last() else { return Ok(None) };
        let mut call = script::of_shard(&self.client.scripts().purge, &self.shard);
        call.key(set).key(self.shard.waiting()).key(self.shard.parked());
        call.arg(self.shard.prefix())
            .arg(&self.by)
            .arg(Utc::now().timestamp_millis())
            .arg(ttl_s(END_KEPT))
            .arg(STEP)
            .arg(place);
        let done: u64 = self.client.call(&call).await?;
        if done < STEP as u64 {
            self.places.pop();
        }
        Ok(Some(done))
    }
}
