//! Watches the other workers, declares the silent ones dead, and gives their tasks to the living.
//!
//! No wall clock decides who is dead: a counter that did not change over a whole lease of this worker's own
//! monotonic time, in enough answers, is silent.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_broker::{
    BrokerError, Client,
    keys::Shard,
    liveness::{Beat, DRAINED},
};

use crate::heartbeat::Pulse;

/// Fewer answers than this say too little: an outage of Redis must not look like silence.
const ANSWERS_MIN: u32 = 4;

/// After a pause of this worker itself, all that it saw before is worthless.
const OWN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a tombstone stays, so that a worker that wakes up late still finds it.
const TOMBSTONE_KEPT: chrono::Duration = chrono::Duration::hours(24);

#[derive(Debug)]
pub(crate) struct Reaper {
    client: Client,
    worker: String,
    shards: Vec<Shard>,
    pulse: Pulse,
    observations: Observations,
}

impl Reaper {
    pub fn new(
        client: Client,
        worker: String,
        shards: Vec<Shard>,
        pulse: Pulse,
        lease: Duration,
    ) -> Self {
        Self { client, worker, shards, pulse, observations: Observations::new(lease) }
    }

    /// Takes a step with each answered heartbeat.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            match stop.run_until_cancelled(self.pulse.beats.changed()).await {
                Some(Ok(())) => {}
                // Stopped, or the heart is.
                Some(Err(_)) | None => return,
            }
            let beats = self.pulse.beats.borrow_and_update().clone();
            let Some((at, beats)) = beats else {
                self.observations.forget();
                continue;
            };
            if let Err(error) = self.step(at, &beats).await {
                warn!(%error, "could not look after the other workers; trying again at the next beat");
            }
        }
    }

    async fn step(
        &mut self,
        at: Instant,
        beats: &HashMap<String, Beat>,
    ) -> Result<(), BrokerError> {
        let mut consumers = BTreeSet::new();
        for shard in &self.shards {
            match self.client.consumers(shard).await {
                Ok(names) => consumers.extend(names),
                // The other queues' dead must not wait for this one.
                Err(error) => {
                    warn!(queue.name = %shard.queue(), %error, "could not see who reads the queue");
                }
            }
        }
        consumers.remove(&self.worker);
        for (worker, observed) in self.observations.note(at, beats, &consumers, &self.worker) {
            let declared =
                self.client.declare_dead(&worker, &observed, "silent", Utc::now()).await?;
            if declared {
                error!(worker, "declared dead: silent for a lease; its tasks are run again");
                self.recover(&worker, true).await;
            }
        }
        // A level, not an edge: a read that was still blocked when its consumer was deleted makes
        // the consumer again and takes an entry.
        for (worker, beat) in beats {
            if let Beat::Dead { at, cause } = beat {
                if consumers.contains(worker) {
                    // Who signed off held nothing that could have killed it.
                    self.recover(worker, cause != DRAINED).await;
                } else if Utc::now() - *at > TOMBSTONE_KEPT {
                    self.client.forget_worker(worker).await?;
                }
            }
        }
        Ok(())
    }

    async fn recover(&self, worker: &str, charged: bool) {
        for shard in &self.shards {
            if let Err(error) = self.recover_shard(shard, worker, charged).await {
                warn!(worker, queue.name = %shard.queue(), %error, "could not recover; trying again at the next beat");
            }
        }
    }

    async fn recover_shard(
        &self,
        shard: &Shard,
        worker: &str,
        charged: bool,
    ) -> Result<(), BrokerError> {
        loop {
            let done = self.client.recover(shard, worker, charged).await?;
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

/// What one worker has seen of the others.
#[derive(Debug)]
struct Observations {
    lease: Duration,
    seen: HashMap<String, Seen>,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    value: String,
    since: Instant,
    answers: u32,
}

impl Observations {
    fn new(lease: Duration) -> Self {
        Self { lease, seen: HashMap::new(), last: None }
    }

    /// All that was seen is worthless: an answer was missed.
    fn forget(&mut self) {
        self.seen.clear();
        self.last = None;
    }

    /// Takes in an answer; returns who has been silent for a lease, with the beat observed.
    /// A consumer without a beat is watched like a worker whose beat is empty.
    fn note(
        &mut self,
        now: Instant,
        beats: &HashMap<String, Beat>,
        consumers: &BTreeSet<String>,
        me: &str,
    ) -> Vec<(String, String)> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > OWN_PAUSE_MAX) {
            self.forget();
        }
        self.last = Some(now);
        let counting = beats.iter().filter_map(|(worker, beat)| match beat {
            Beat::Count(value) => Some((worker.as_str(), value.as_str())),
            Beat::Dead { .. } => None,
        });
        let beatless = consumers
            .iter()
            .filter(|name| !beats.contains_key(*name))
            .map(|name| (name.as_str(), ""));
        let watched: HashMap<&str, &str> =
            counting.chain(beatless).filter(|(worker, _)| *worker != me).collect();
        self.seen.retain(|worker, _| watched.contains_key(worker.as_str()));
        let mut silent = Vec::new();
        for (worker, value) in watched {
            let seen = self.seen.entry(worker.to_owned()).or_insert_with(|| Seen {
                value: value.to_owned(),
                since: now,
                answers: 0,
            });
            if seen.value != value {
                *seen = Seen { value: value.to_owned(), since: now, answers: 0 };
            }
            seen.answers += 1;
            let silence = now.saturating_duration_since(seen.since);
            if silence >= self.lease && seen.answers >= ANSWERS_MIN {
                silent.push((worker.to_owned(), value.to_owned()));
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn count(value: &str) -> HashMap<String, Beat> {
        HashMap::from([("other".to_owned(), Beat::Count(value.to_owned()))])
    }

    /// Answers every three seconds, the beat of `other` as given for each.
    fn silent_after(beats: &[&str]) -> Vec<(String, String)> {
        let mut observations = Observations::new(LEASE);
        let start = Instant::now();
        let mut silent = Vec::new();
        for (n, value) in beats.iter().enumerate() {
            let now = start + Duration::from_secs(3) * n as u32;
            silent = observations.note(now, &count(value), &BTreeSet::new(), "me");
        }
        silent
    }

    #[test]
    fn a_worker_is_silent_after_a_whole_lease_without_a_beat() {
        assert!(silent_after(&["7"; 5]).is_empty());
        assert_eq!(silent_after(&["7"; 6]), [("other".to_owned(), "7".to_owned())]);
    }

    #[test]
    fn one_beat_begins_the_lease_again() {
        assert!(silent_after(&["7", "7", "7", "7", "8", "8"]).is_empty());
    }

    #[test]
    fn a_pause_of_the_watcher_makes_its_sight_worthless() {
        let mut observations = Observations::new(LEASE);
        let start = Instant::now();
        for second in [0, 3, 6, 60, 63, 66, 69] {
            let now = start + Duration::from_secs(second);
            let silent = observations.note(now, &count("7"), &BTreeSet::new(), "me");
            assert!(silent.is_empty(), "after {second} s");
        }
        let now = start + Duration::from_secs(72);
        assert!(observations.note(now, &count("7"), &BTreeSet::new(), "me").is_empty());
        let now = start + Duration::from_secs(75);
        assert_eq!(observations.note(now, &count("7"), &BTreeSet::new(), "me").len(), 1);
    }

    #[test]
    fn a_consumer_that_never_beat_is_watched_too_and_oneself_is_not() {
        let mut observations = Observations::new(LEASE);
        let consumers = BTreeSet::from(["ghost".to_owned()]);
        let me = HashMap::from([("me".to_owned(), Beat::Count("1".to_owned()))]);
        let start = Instant::now();
        let mut silent = Vec::new();
        for n in 0..6 {
            let now = start + Duration::from_secs(3) * n;
            silent = observations.note(now, &me, &consumers, "me");
        }
        assert_eq!(silent, [("ghost".to_owned(), String::new())]);
    }

    #[test]
    fn the_dead_are_not_declared_again() {
        let dead = HashMap::from([(
            "other".to_owned(),
            Beat::Dead { at: Utc::now(), cause: "silent".to_owned() },
        )]);
        let mut observations = Observations::new(LEASE);
        let start = Instant::now();
        let consumers = BTreeSet::from(["other".to_owned()]);
        for n in 0..10 {
            let now = start + Duration::from_secs(3) * n;
            assert!(observations.note(now, &dead, &consumers, "me").is_empty());
        }
    }
}
