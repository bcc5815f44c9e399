//! Paused queues: nothing more of them is read until somebody lets them go on. What runs ends, what is
//! enqueued or becomes due waits.
//!
//! The word stands in the queue's `control`, so that it outlives all processes and Redis itself. A
//! worker knows of it when it connects, hears of a change on a channel, and finds with its ticks what
//! it did not hear.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use redis::cmd;
use serde::Serialize;
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};
use tracing::{info, warn};
use umbel_proto::QueueName;

use crate::{BrokerError, Client, Stop, keys::Shard};

/// What the script says on the channel; other words there are for others.
const CONTROL_CHANGED: &str = "control";

/// The longest text that is kept of who paused a queue and why, in bytes.
const WORDS_LONGEST: usize = 500;

/// How often a read that began before a change is asked to end: one ask can come just before it.
const UNBLOCK_EVERY: Duration = Duration::from_millis(20);

/// Who paused a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    pub by: String,
    pub why: String,
    /// By the clock of the process that was told to.
    pub since: DateTime<Utc>,
}

impl Client {
    /// Pauses a queue. Its workers begin no task of it any more, within a second or so; what runs
    /// goes on to its end. Whether this call did it: of a queue that is paused the first word
    /// stands. `by` and `why` are cut at 500 bytes.
    pub async fn pause(
        &self,
        queue: &QueueName,
        by: &str,
        why: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, BrokerError> {
        let shard = Shard::first(queue);
        // What is paused before it was ever used must be found again.
        self.list_queue_once(&shard).await?;
        let mut call = self.scripts().pause.key(shard.control());
        call.arg(shard.wake()).arg("pause").arg(cut(by)).arg(cut(why)).arg(now.timestamp_millis());
        self.call(&call).await
    }

    /// Lets a paused queue go on. Whether this call did it.
    pub async fn resume(&self, queue: &QueueName) -> Result<bool, BrokerError> {
        let shard = Shard::first(queue);
        let mut call = self.scripts().pause.key(shard.control());
        call.arg(shard.wake()).arg("resume");
        self.call(&call).await
    }

    /// Who paused a queue; `None`: it is not paused.
    pub async fn pause_of(&self, queue: &QueueName) -> Result<Option<Pause>, BrokerError> {
        let control: HashMap<String, String> =
            self.query(cmd("HGETALL").arg(Shard::first(queue).control())).await?;
        Ok(read(&control))
    }
}

fn read(control: &HashMap<String, String>) -> Option<Pause> {
    control.get("paused")?;
    let text = |name: &str| control.get(name).cloned().unwrap_or_default();
    // Paused by hand, with redis-cli, it need not say since when.
    let since = text("since").parse().ok().and_then(DateTime::from_timestamp_millis);
    Some(Pause { by: text("by"), why: text("why"), since: since.unwrap_or_default() })
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS_LONGEST)]
}

/// Which queues of a worker are paused, as far as it knows; clones know the same.
#[derive(Debug, Clone)]
pub struct Pauses(Arc<Known>);

#[derive(Debug)]
struct Known {
    client: Client,
    paused: HashMap<Shard, AtomicBool>,
    /// How often what is known has changed.
    changes: watch::Sender<u64>,
    /// One question at a time, so that the last answer is the newest.
    asking: Mutex<()>,
    reading: Stop,
}

impl Pauses {
    pub(crate) fn new(client: Client, shards: &[Shard], reading: Stop) -> Self {
        let paused = shards.iter().map(|shard| (shard.clone(), AtomicBool::new(false))).collect();
        let (changes, _) = watch::channel(0);
        Self(Arc::new(Known { client, paused, changes, asking: Mutex::new(()), reading }))
    }

    /// Whether a queue is paused.
    pub fn holds(&self, shard: &Shard) -> bool {
        self.0.paused.get(shard).is_some_and(|paused| paused.load(Ordering::SeqCst))
    }

    /// How often what is known has changed: asked before [`holds`](Self::holds), it tells
    /// afterwards whether that still is so.
    pub(crate) fn changes(&self) -> u64 {
        *self.0.changes.borrow()
    }

    /// Until what is known is not any more what it was after so many changes.
    pub(crate) async fn changed_since(&self, changes: u64) {
        // The sender is held by ourselves.
        let _ = self.0.changes.subscribe().wait_for(|now| *now != changes).await;
    }

    /// Asks Redis about a queue, and ends a read that began with another answer.
    pub async fn look(&self, shard: &Shard) -> Result<(), BrokerError> {
        self.ask(shard).await?;
        self.end_older_read().await
    }

    /// Hears of changes, until the connection breaks: an error tells how it did. May be cancelled.
    pub async fn follow(&self) -> Result<Infallible, BrokerError> {
        let channels: HashMap<String, &Shard> =
            self.0.paused.keys().map(|shard| (shard.wake(), shard)).collect();
        let names: Vec<&String> = channels.keys().collect();
        let mut heard = self.0.client.connector().subscribed(&names).await?;
        // Listen before looking: a change in between would otherwise wait for the next tick.
        self.ask_all().await?;
        self.end_older_read().await?;
        while let Some(message) = heard.next().await {
            let word: String = message.get_payload().map_err(BrokerError::from)?;
            match channels.get(message.get_channel_name()) {
                Some(shard) if word == CONTROL_CHANGED => self.look(shard).await?,
                _ => {}
            }
        }
        Err(BrokerError::Unavailable("the subscription has ended".to_owned()))
    }

    pub(crate) async fn ask_all(&self) -> Result<(), BrokerError> {
        for shard in self.0.paused.keys() {
            self.ask(shard).await?;
        }
        Ok(())
    }

    async fn ask(&self, shard: &Shard) -> Result<(), BrokerError> {
        let Some(known) = self.0.paused.get(shard) else { return Ok(()) };
        let _one_at_a_time = self.0.asking.lock().await;
        let there: Option<String> =
            self.0.client.query(cmd("HGET").arg(shard.control()).arg("paused")).await?;
        let paused = there.is_some();
        if known.swap(paused, Ordering::SeqCst) != paused {
            self.0.changes.send_modify(|changes| *changes += 1);
            if paused {
                warn!(queue.name = %shard.queue(), "the queue is paused: nothing more of it is started");
            } else {
                info!(queue.name = %shard.queue(), "the queue goes on");
            }
        }
        Ok(())
    }

    /// A read that blocks over what is paused by now would take of it; one that leaves out what
    /// goes on would let it wait. It claims nothing by being ended.
    async fn end_older_read(&self) -> Result<(), BrokerError> {
        let now = self.changes();
        while self.0.reading.blocks_since_before(now) {
            self.0.reading.unblock().await?;
            sleep(UNBLOCK_EVERY).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_tells_who_and_why_and_one_by_hand_need_not() {
        let control = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(read(&control(&[("generation", "g"), ("since", "17")])), None);
        let paused =
            [("paused", "1"), ("by", "ann"), ("why", "the host is down"), ("since", "1700")];
        let pause = read(&control(&paused)).unwrap();
        assert_eq!((&*pause.by, &*pause.why), ("ann", "the host is down"));
        assert_eq!(pause.since.timestamp_millis(), 1700);
        assert_eq!(read(&control(&[("paused", "1")])).unwrap().by, "");
    }

    #[test]
    fn what_is_kept_of_a_reason_is_bounded_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(400)).len(), WORDS_LONGEST);
        assert_eq!(cut(&format!("x{}", "ä".repeat(400))).len(), WORDS_LONGEST - 1);
    }
}
