//! Watches the other workers, declares the silent ones dead, and gives their tasks to the living.
//!
//! No wall clock decides who is dead: a counter that did not change over a whole lease of this worker's own
//! monotonic time, in enough answers, is silent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use umbel_broker::{
    BrokerError, Client,
    keys::Shard,
    liveness::{Beat, Beats, Cause},
};

use crate::heartbeat::Pulse;

/// Fewer answers than this say too little: an outage of Redis must not look like silence.
const ANSWERS_MIN: u32 = 4;

/// After a pause of this worker itself, all that it saw before is worthless.
const OWN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a tombstone stays, so that a worker that wakes up late still finds it.
const TOMBSTONE_KEPT: chrono::Duration = chrono::Duration::hours(24);

/// So many workers look after all queues in a beat, however many there are.
const LOOKERS: f64 = 3.0;

/// How often a worker looks while the others neither come nor go: a queue that is new, or a consumer
/// that never beat, is noticed this late.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// How long it looks with each beat once one has come, died or gone: longer than what can still be
/// taken under a dead name takes to show.
const STIRRED_FOR: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Reaper {
    client: Client,
    worker: String,
    pulse: Pulse,
    observations: Observations,
    looks: Looks,
    /// Of every queue, its own or not, when this worker last looked.
    readers: Readers,
}

/// The queues, and who reads them.
#[derive(Debug, Default)]
struct Readers {
    shards: Vec<Shard>,
    names: BTreeSet<String>,
}

impl Reaper {
    pub fn new(client: Client, worker: String, pulse: Pulse, lease: Duration) -> Self {
        let observations = Observations::new(lease);
        let (looks, readers) = (Looks::default(), Readers::default());
        Self { client, worker, pulse, observations, looks, readers }
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
            // What is left half way others find as it was.
            let step = self.step(at, &beats, rand::random());
            if let Some(Err(error)) = stop.run_until_cancelled(step).await {
                warn!(%error, "could not look after the other workers; trying again at the next beat");
            }
        }
    }

    /// `chance` is drawn from `0.0 .. 1.0`.
    async fn step(&mut self, at: Instant, beats: &Beats, chance: f64) -> Result<(), BrokerError> {
        let alive = beats.of.values().filter(|beat| matches!(beat, Beat::Count(_))).count();
        let looked =
            self.looks.are_due(at, beats, &self.worker) && chance * (alive as f64) < LOOKERS;
        if looked {
            self.look().await?;
            self.looks.last = Some(at);
        }
        for (worker, observed) in
            self.observations.note(at, beats, &self.readers.names, &self.worker)
        {
            let (cause, now) = (Cause::Silent, Utc::now());
            if self.client.declare_dead(&worker, &observed, &cause, now).await? {
                error!(worker, "declared dead: silent for a lease; its tasks are run again");
                self.recover(&worker, &cause).await;
            }
        }
        // A level, not an edge: a read that was still blocked when its consumer was deleted makes
        // the consumer again and takes an entry.
        for (worker, beat) in beats.of.iter().filter(|_| looked) {
            if let Beat::Dead { at, cause } = beat {
                if self.readers.names.contains(worker) {
                    self.recover(worker, cause).await;
                } else if Utc::now() - *at > TOMBSTONE_KEPT {
                    self.client.forget_worker(worker).await?;
                }
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), BrokerError> {
        let queues = self.client.queue_names().await?;
        self.readers.shards = queues.iter().map(Shard::first).collect();
        self.readers.names.clear();
        for shard in &self.readers.shards {
            self.readers.names.extend(self.client.consumers(shard).await?);
        }
        self.readers.names.remove(&self.worker);
        Ok(())
    }

    async fn recover(&self, worker: &str, cause: &Cause) {
        for shard in &self.readers.shards {
            // The other queues must not wait for this one.
            if let Err(error) = self.client.recover_all(shard, worker, cause.is_charged()).await {
                warn!(worker, queue.name = %shard.queue(), %error, "could not recover; trying again at the next look");
            }
        }
    }
}

/// When the queues are looked after: with each beat while something happens among the workers.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    /// The other workers as the last beat had them, and which of them are dead.
    others: BTreeMap<String, bool>,
    /// When that changed last.
    stirred: Option<Instant>,
}

impl Looks {
    fn are_due(&mut self, now: Instant, beats: &Beats, me: &str) -> bool {
        let others = beats.of.iter().filter(|(worker, _)| *worker != me);
        let others: BTreeMap<String, bool> = others
            .map(|(worker, beat)| (worker.clone(), matches!(beat, Beat::Dead { .. })))
            .collect();
        if others != self.others {
            self.others = others;
            self.stirred = Some(now);
        }
        let within = |since: Option<Instant>, limit| {
            since.is_some_and(|since| now.saturating_duration_since(since) < limit)
        };
        within(self.stirred, STIRRED_FOR) || !within(self.last, LOOK_EVERY)
    }
}

/// What one worker has seen of the others.
#[derive(Debug)]
struct Observations {
    lease: Duration,
    seen: HashMap<String, Seen>,
    last: Option<Instant>,
    /// Which start of the server answered last.
    server: String,
}

#[derive(Debug)]
struct Seen {
    value: String,
    since: Instant,
    answers: u32,
}

impl Observations {
    fn new(lease: Duration) -> Self {
        Self { lease, seen: HashMap::new(), last: None, server: String::new() }
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
        beats: &Beats,
        consumers: &BTreeSet<String>,
        me: &str,
    ) -> Vec<(String, String)> {
        // Another server: the others may still be on their way to it.
        if self.server != beats.server {
            self.forget();
            self.server.clone_from(&beats.server);
        }
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > OWN_PAUSE_MAX) {
            self.forget();
        }
        self.last = Some(now);
        let counting = beats.of.iter().filter_map(|(worker, beat)| match beat {
            Beat::Count(value) => Some((worker.as_str(), value.as_str())),
            Beat::Dead { .. } => None,
        });
        let beatless = consumers
            .iter()
            .filter(|name| !beats.of.contains_key(*name))
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

    fn beats(worker: &str, beat: Beat) -> Beats {
        Beats {
            server: "s1".to_owned(),
            of: HashMap::from([(worker.to_owned(), beat)]),
            ..Beats::default()
        }
    }

    fn count(value: &str) -> Beats {
        beats("other", Beat::Count(value.to_owned()))
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
    fn the_queues_are_looked_after_rarely_while_nobody_comes_or_dies() {
        let mut looks = Looks::default();
        let start = Instant::now();
        let mut due = |second, beats: &Beats| {
            let now = start + Duration::from_secs(second);
            let due = looks.are_due(now, beats, "me");
            if due {
                looks.last = Some(now);
            }
            due
        };
        let alone = beats("me", Beat::Count("1".to_owned()));
        assert!(due(0, &alone));
        assert!(!due(3, &alone) && !due(18, &alone));
        assert!(due(21, &alone));
        for second in [24, 27, 81] {
            assert!(due(second, &count("7")), "another has come");
        }
        assert!(!due(87, &count("8")));
        let dead = beats("other", Beat::Dead { at: Utc::now(), cause: Cause::Silent });
        assert!(due(90, &dead) && due(93, &dead), "it has died");
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
    fn another_server_begins_the_lease_again() {
        let mut observations = Observations::new(LEASE);
        let start = Instant::now();
        for n in 0..11 {
            let server = if n < 5 { "s1" } else { "s2" };
            let seen = Beats { server: server.to_owned(), ..count("7") };
            let now = start + Duration::from_secs(3) * n;
            let silent = observations.note(now, &seen, &BTreeSet::new(), "me");
            assert_eq!(silent.is_empty(), n < 10, "{n}");
        }
    }

    #[test]
    fn a_consumer_that_never_beat_is_watched_too_and_oneself_is_not() {
        let mut observations = Observations::new(LEASE);
        let consumers = BTreeSet::from(["ghost".to_owned()]);
        let me = beats("me", Beat::Count("1".to_owned()));
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
        let dead = beats("other", Beat::Dead { at: Utc::now(), cause: Cause::Silent });
        let mut observations = Observations::new(LEASE);
        let start = Instant::now();
        let consumers = BTreeSet::from(["other".to_owned()]);
        for n in 0..10 {
            let now = start + Duration::from_secs(3) * n;
            assert!(observations.note(now, &dead, &consumers, "me").is_empty());
        }
    }
}
