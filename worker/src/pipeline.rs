//! Fetch, and hand each task to an execution of its own: permits first, then fetch.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};
use umbel_broker::{
    BrokerError, Client, Consumer, Delivery, Held, Pauses, Settlement, Settler, Terms, Verdict,
};
use umbel_proto::TaskOptions;

use crate::{execute::Executor, heartbeat::Pulse};

/// After a failed fetch; Redis is asked again until it answers, and goes on being asked often
/// enough that work begins within a second or two of its return.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// How often a worker that has no free permit looks for what it was given and never saw: others
/// may have room for it.
const BUSY_LOOK: Duration = Duration::from_secs(10);

/// How often a worker whose heartbeat is not answered looks whether it may start tasks again.
const STALE_PULSE_LOOK: Duration = Duration::from_millis(100);

/// How often a worker looks whether the end of a task that ran alone is written down, and how long it
/// looks: a queue that Redis refuses must not keep the others from running.
const SETTLED_LOOK: Duration = Duration::from_millis(10);
const SETTLED_LIMIT: Duration = Duration::from_secs(30);

/// How many permits are enough for a read: as many tasks as one read brings.
const GATHERED: usize = 64;

#[derive(Debug)]
pub(crate) struct Pipeline {
    pub client: Client,
    pub consumer: Consumer,
    pub executor: Arc<Executor>,
    pub settler: Settler,
    pub held: Held,
    pub pauses: Pauses,
    pub pulse: Pulse,
    pub worker: String,
    pub permits: Arc<Semaphore>,
    /// How many permits there are in all.
    pub concurrency: u32,
    pub running: TaskTracker,
}

impl Pipeline {
    /// Until `stop`, which must go with [`umbel_broker::Stop::request`]: a read is never cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = RETRY_FIRST;
        while let Some(free) = stop.run_until_cancelled(timeout(BUSY_LOOK, self.acquire())).await {
            let stepped = match free {
                Ok(Some(permits)) => self.step(permits, &stop).await,
                Ok(None) => return,
                Err(_) => self.give_back_ghosts().await,
            };
            match stepped {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    if error.is_transient() {
                        warn!(%error, "could not fetch; trying again in {pause:?}");
                    } else {
                        error!(%error, "cannot fetch; trying again in {pause:?}");
                    }
                    stop.run_until_cancelled(sleep(pause)).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    /// All permits that are free, one at least. Where the queue is deep, those too that tasks give
    /// back which have only to be let on: a read of many costs little more than one of a few.
    async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        let mut permits = self.permits.clone().acquire_owned().await.ok()?;
        let mut yielded = false;
        loop {
            let before = permits.num_permits();
            let more = self.permits.available_permits() as u32;
            if let Ok(more) = self.permits.clone().try_acquire_many_owned(more) {
                permits.merge(more);
            }
            let now = permits.num_permits();
            if !self.consumer.is_deep() || now >= GATHERED || (yielded && now == before) {
                return Some(permits);
            }
            yield_now().await;
            yielded = true;
        }
    }

    /// Fetches for the permits and starts what came.
    async fn step(
        &mut self,
        mut permits: OwnedSemaphorePermit,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        let mut fetched = self.consumer.fetch(permits.num_permits()).await?;
        let surplus = fetched.split_off(permits.num_permits().min(fetched.len()));
        self.give_back(surplus).await;
        if fetched.is_empty() {
            return Ok(());
        }
        let (alone, together) = split(fetched, |delivery| self.executor.must_run_alone(delivery));
        for delivery in self.started(together, stop).await {
            // As many as were asked for.
            let Some(permit) = permits.split(1) else { break };
            self.spawn(delivery, permit);
        }
        // Held on to, they would be waited for below.
        drop(permits);
        for delivery in alone {
            self.run_alone(delivery, stop).await;
        }
        Ok(())
    }

    /// Starts a task that may be what kills workers once nothing else runs here, and nothing
    /// starts beside it until its end is written down: its next death is its own. Waits as long as
    /// what runs may still take.
    async fn run_alone(&mut self, delivery: Delivery, stop: &CancellationToken) {
        loop {
            let all = self.permits.clone().acquire_many_owned(self.concurrency);
            match stop.run_until_cancelled(timeout(BUSY_LOOK, all)).await {
                Some(Ok(Ok(all))) => {
                    if let Some(delivery) = self.started(vec![delivery], stop).await.pop() {
                        self.spawn_alone(delivery, all);
                    }
                    return;
                }
                Some(Err(_)) => {
                    if let Err(error) = self.give_back_ghosts().await {
                        warn!(%error, "could not look for what was delivered and never came");
                    }
                }
                // A stop; the semaphore is never closed.
                None | Some(Ok(Err(_))) => return self.give_back(vec![delivery]).await,
            }
        }
    }

    async fn give_back_ghosts(&mut self) -> Result<(), BrokerError> {
        let ghosts = self.consumer.ghosts().await?;
        self.give_back(ghosts).await;
        Ok(())
    }

    /// Those that may start now: written down as running where that is wanted, and surely this
    /// worker's. On a stop, and where their queue is paused, they are given back.
    async fn started(&self, deliveries: Vec<Delivery>, stop: &CancellationToken) -> Vec<Delivery> {
        // A read may have been on its way when its queue was paused, and a task may have waited here
        // for room.
        let (paused, deliveries) =
            split(deliveries, |delivery| self.pauses.holds(delivery.shard()));
        self.give_back(paused).await;
        if deliveries.is_empty() {
            return deliveries;
        }
        let started = self.noted(deliveries, stop).await;
        // Without an answered heartbeat these may be another's by now.
        while !self.pulse.is_fresh() && !stop.is_cancelled() && !self.pulse.fenced.is_cancelled() {
            sleep(STALE_PULSE_LOOK).await;
        }
        if self.pulse.fenced.is_cancelled() {
            // They are added again by whoever declared this worker dead.
            return Vec::new();
        }
        if stop.is_cancelled() {
            self.give_back(started).await;
            return Vec::new();
        }
        started
    }

    /// Writes that they run, where that is wanted; Redis is asked again until it answers or a stop
    /// comes.
    async fn noted(
        &self,
        mut deliveries: Vec<Delivery>,
        stop: &CancellationToken,
    ) -> Vec<Delivery> {
        let mut pause = RETRY_FIRST;
        loop {
            let answer = self.client.start(&self.worker, &self.held, deliveries, Utc::now()).await;
            match answer {
                Ok(started) => return started,
                Err((again, _)) if stop.is_cancelled() => return again,
                Err((again, error)) => {
                    warn!(%error, "could not start tasks; trying again in {pause:?}");
                    deliveries = again;
                    stop.run_until_cancelled(sleep(pause)).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    fn spawn(&self, delivery: Delivery, permit: OwnedSemaphorePermit) {
        let (executor, settler) = (self.executor.clone(), self.settler.clone());
        // Pinned where it is made: a run is some kilobytes, and spawning would move it four times.
        self.running.spawn(Box::pin(async move {
            let settlement = executor.execute(delivery, rand::random()).await;
            settler.settle(settlement).await;
            // Queued is enough: what is in the settle queue needs no room to run.
            drop(permit);
        }));
    }

    fn spawn_alone(&self, delivery: Delivery, all: OwnedSemaphorePermit) {
        let (executor, settler, held) =
            (self.executor.clone(), self.settler.clone(), self.held.clone());
        self.running.spawn(async move {
            let as_held = delivery.held_as();
            let settlement = executor.execute(delivery, rand::random()).await;
            settler.settle(settlement).await;
            // What is only queued dies with the process, and would be charged with that death.
            let settled = async {
                while held.has(&as_held) {
                    sleep(SETTLED_LOOK).await;
                }
            };
            if timeout(SETTLED_LIMIT, settled).await.is_err() {
                warn!("the end of a task that ran alone is not written down; others run again");
            }
            drop(all);
        });
    }

    async fn give_back(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            let terms = Terms::not_run(&TaskOptions::DEFAULT);
            self.settler.settle(Settlement { delivery, verdict: Verdict::Release, terms }).await;
        }
    }
}

/// Parts those for which something holds, and that are few, from the others; mostly there are none.
fn split(
    deliveries: Vec<Delivery>,
    holds: impl Fn(&Delivery) -> bool,
) -> (Vec<Delivery>, Vec<Delivery>) {
    if !deliveries.iter().any(&holds) {
        return (Vec::new(), deliveries);
    }
    deliveries.into_iter().partition(holds)
}
