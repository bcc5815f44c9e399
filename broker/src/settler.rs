//! Sends what ended to Redis: one is sent at once, what ends meanwhile goes in the next batch.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::Utc;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{error, warn};

use crate::{
    Client, Held, Settlement,
    delivery::Epoch,
    enqueue::{BATCH_MAX, batch_of},
    meters,
    settle::Answer,
};

/// How many ended runs may wait for Redis before the worker stops fetching; and how many may be set
/// aside before the others wait for them.
const QUEUE_MAX: usize = 10_000;

/// After a refused or lost settle; Redis is asked again until it answers, and goes on being asked
/// often enough that what ended during an outage is settled soon after it.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// The worker's end of the settle queue.
#[derive(Debug, Clone)]
pub struct Settler {
    queue: mpsc::Sender<Settlement>,
    stale: Arc<AtomicU64>,
}

impl Settler {
    /// Starts settling for `worker`. The task ends when every clone of the settler is dropped and
    /// all that was queued is settled.
    pub fn start(client: Client, worker: String, held: Held) -> (Self, JoinHandle<()>) {
        let (queue, ended) = mpsc::channel(QUEUE_MAX);
        let stale = Arc::new(AtomicU64::new(0));
        let aside = Aside::default();
        let run = Loop { client, worker, held, ended, stale: stale.clone(), aside };
        (Self { queue, stale }, tokio::spawn(run.run()))
    }

    /// Queues the end of a run; waits while the queue is full.
    pub async fn settle(&self, settlement: Settlement) {
        if self.queue.send(settlement).await.is_err() {
            // The entry stays pending, and is recovered once this worker has ended.
            error!("a run ended after its settler had stopped; it will run again");
        }
    }

    /// How many settles were refused, since their entry was somebody else's by then.
    pub fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }
}

struct Loop {
    client: Client,
    worker: String,
    held: Held,
    ended: mpsc::Receiver<Settlement>,
    stale: Arc<AtomicU64>,
    aside: Aside,
}

/// What Redis refuses in a way that somebody must mend: it is tried again and again, and keeps
/// nothing from being settled that has no part in it.
#[derive(Default)]
struct Aside {
    ended: Vec<Settlement>,
    again: Option<(Instant, Duration)>,
}

impl Aside {
    fn put(&mut self, ended: Vec<Settlement>, pause: Duration) {
        self.ended.extend(ended);
        self.again.get_or_insert_with(|| (Instant::now() + pause, pause));
    }

    /// All of it, and the pause after which it is tried again if it is refused again.
    fn take(&mut self) -> (Vec<Settlement>, Duration) {
        let pause = self.again.take().map_or(RETRY_FIRST, |(_, pause)| longer(pause));
        (mem::take(&mut self.ended), pause)
    }
}

impl Loop {
    async fn run(mut self) {
        while let Some((batch, pause)) = self.next().await {
            self.step(batch, pause).await;
        }
    }

    /// What is to be settled next; `None`: nothing is left, and nothing will come.
    async fn next(&mut self) -> Option<(Vec<Settlement>, Duration)> {
        let mut batch = Vec::new();
        match self.aside.again {
            None => {
                self.ended.recv_many(&mut batch, BATCH_MAX).await;
            }
            // However much comes, its turn comes too.
            Some((at, _)) if self.aside.ended.len() >= QUEUE_MAX || at <= Instant::now() => {
                sleep_until(at).await;
            }
            Some((at, _)) => {
                let more = self.ended.recv_many(&mut batch, BATCH_MAX);
                // None will come any more.
                if timeout_at(at, more).await == Ok(0) {
                    sleep_until(at).await;
                }
            }
        }
        if batch.is_empty() && self.aside.again.is_some() {
            return Some(self.aside.take());
        }
        (!batch.is_empty()).then_some((batch, RETRY_FIRST))
    }

    /// Settles a batch, however often Redis must be asked; what it refuses for other reasons than
    /// its own state is set aside for `aside_for`.
    async fn step(&mut self, mut batch: Vec<Settlement>, aside_for: Duration) {
        let mut pause = RETRY_FIRST;
        while let Some(first) = batch.first() {
            let (shard, epoch) = (first.delivery.key.shard.clone(), first.delivery.epoch.clone());
            let (mut group, rest) = split(batch, |settlement| {
                settlement.delivery.key.shard == shard && same(&settlement.delivery.epoch, &epoch)
            });
            batch = rest;
            batch.extend(group.split_off(batch_of(group.iter().map(Settlement::bytes))));
            let answer = self.client.settle(&shard, &epoch, &self.worker, &group, Utc::now()).await;
            let (group, trouble) = match answer {
                Ok(Some(answers)) => {
                    self.note(&group, &answers);
                    pause = RETRY_FIRST;
                    continue;
                }
                Ok(None) => {
                    let valid = self
                        .client
                        .revalidate(&shard, &self.worker, group, |s| &mut s.delivery, &self.held)
                        .await;
                    match valid {
                        Ok(valid) => {
                            batch.extend(valid);
                            continue;
                        }
                        Err(trouble) => trouble,
                    }
                }
                Err(error) => (group, error),
            };
            let waiting = batch.len() + group.len() + self.aside.ended.len();
            if trouble.is_transient() {
                warn!(error = %trouble, waiting, "could not settle; trying again in {pause:?}");
                batch.extend(group);
                sleep(pause).await;
                pause = longer(pause);
            } else {
                error!(error = %trouble, waiting, "cannot settle; trying again in {aside_for:?}");
                self.aside.put(group, aside_for);
            }
        }
    }

    fn note(&self, group: &[Settlement], answers: &[Answer]) {
        // Known until answered: only now may reconciling take such an entry for a ghost.
        self.held.remove(group.iter().map(|settlement| &settlement.delivery));
        let stale = answers.iter().filter(|answer| matches!(answer, Answer::Stale)).count();
        meters::settled(group.len(), stale);
        for (Settlement { delivery, .. }, answer) in group.iter().zip(answers) {
            match answer {
                Answer::Settled => {}
                Answer::Stale => {
                    self.stale.fetch_add(1, Ordering::Relaxed);
                    warn!(
                        task.id = %delivery.id(),
                        entry = delivery.entry(),
                        "refused: the task was given to another worker, or this settle was sent twice"
                    );
                }
                Answer::Gone => {
                    error!(
                        task.id = %delivery.id(),
                        entry = delivery.entry(),
                        "the task lost its body in redis; it is marked failed"
                    );
                }
            }
        }
    }
}

/// Parts those for which something holds from the others; nearly always it holds for all.
fn split(
    batch: Vec<Settlement>,
    holds: impl Fn(&Settlement) -> bool,
) -> (Vec<Settlement>, Vec<Settlement>) {
    if batch.iter().all(&holds) {
        return (batch, Vec::new());
    }
    batch.into_iter().partition(holds)
}

fn same(a: &Arc<Epoch>, b: &Arc<Epoch>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(RETRY_LONGEST)
}
