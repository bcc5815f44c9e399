//! A worker from its first heartbeat to its drain.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use umbel_broker::{BrokerError, Client, Consumer, Held, Settler, keys::Shard};

use crate::{
    Endpoints, SettingsError, WorkerSettings,
    execute::Executor,
    heartbeat::{Heart, HeartError},
    pipeline::Pipeline,
    promoter::Promoter,
    reaper::Reaper,
};

/// How long tasks that were asked to end, or were ended, may take to be given back.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// How long the last settles may take once everything has ended.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// A read that blocks at the worst moment, and a little for the release of what it brings.
const FETCH_STOP_LIMIT: Duration = Duration::from_secs(10);

/// How often a blocked read is asked to end; one ask can fall between two reads.
const UNBLOCK_EVERY: Duration = Duration::from_millis(50);

/// How often a worker that waits for its first answered heartbeat looks.
const FIRST_BEAT_LOOK: Duration = Duration::from_millis(50);

/// Serves queues.
#[derive(Debug)]
pub struct Worker {
    client: Client,
    endpoints: Endpoints,
    settings: WorkerSettings,
    shards: Vec<Shard>,
    id: String,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Runs that had not ended within the grace time and were given back.
    pub given_back: usize,
    /// Entries that could not be settled; they are recovered by another worker.
    pub unsettled: usize,
}

/// Why a worker ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("there is no queue to serve: no task is registered, and QUEUES names none")]
    NoQueues,
    /// The others thought it dead and took its tasks; start a new one.
    #[error("worker {0} was declared dead by the others while it was silent")]
    Fenced(String),
    /// A loop of the worker ended by itself: a defect here.
    #[error("{0} has ended by itself")]
    Broken(&'static str),
    #[error("the heartbeat cannot be started")]
    Heart(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<HeartError> for WorkerError {
    fn from(error: HeartError) -> Self {
        Self::Heart(error.into())
    }
}

impl Worker {
    pub fn new(
        client: Client,
        endpoints: Endpoints,
        settings: WorkerSettings,
    ) -> Result<Self, WorkerError> {
        settings.check()?;
        let queues =
            if settings.queues.is_empty() { endpoints.queues() } else { settings.queues.clone() };
        if queues.is_empty() {
            return Err(WorkerError::NoQueues);
        }
        let shards = queues.iter().map(Shard::first).collect();
        let id = settings.worker_id(1);
        Ok(Self { client, endpoints, settings, shards, id })
    }

    /// `<host>-<boot>-<n>`, as Redis has it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Works until `shutdown`, then drains: no further fetch, the grace time for what runs, then
    /// it is asked to end, and what does not end is given back.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Stopped, WorkerError> {
        let beating = CancellationToken::new();
        let (pulse, heart) =
            Heart::start(&self.client, self.id.clone(), self.info(), beating.clone())?;
        // A worker beats before its first read: who holds tasks can be seen to live.
        while !pulse.is_fresh() && !shutdown.is_cancelled() && !pulse.ended.is_cancelled() {
            sleep(FIRST_BEAT_LOOK).await;
        }
        info!(worker = self.id, concurrency = self.settings.concurrency, queues = ?self.queue_names(), "worker is ready");

        let held = Held::default();
        let (settler, mut settling) =
            Settler::start(self.client.clone(), self.id.clone(), held.clone());
        let executor = Executor {
            client: self.client.clone(),
            endpoints: self.endpoints.clone(),
            cancelled: CancellationToken::new(),
            aborted: CancellationToken::new(),
        };
        let running = TaskTracker::new();
        let consumer =
            Consumer::new(self.client.clone(), self.id.clone(), self.shards.clone(), held.clone());
        let reading = consumer.stop();
        let pipeline = Pipeline {
            client: self.client.clone(),
            consumer,
            executor: executor.clone(),
            settler,
            held: held.clone(),
            pulse: pulse.clone(),
            worker: self.id.clone(),
            permits: Arc::new(Semaphore::new(self.settings.concurrency)),
            running: running.clone(),
        };

        // Ends by the caller's wish, or because the others think this worker dead.
        let stop = shutdown.child_token();
        let mut fetching = tokio::spawn(pipeline.run(stop.clone()));
        let others = TaskTracker::new();
        others.spawn(Promoter::new(self.client.clone(), self.shards.clone()).run(stop.clone()));
        let reaper = Reaper::new(
            self.client.clone(),
            self.id.clone(),
            self.shards.clone(),
            pulse.clone(),
            self.settings.lease,
        );
        others.spawn(reaper.run(stop.clone()));
        others.close();

        let end = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            () = pulse.fenced.cancelled() => Err(WorkerError::Fenced(self.id.clone())),
            // None of these ends by itself; a worker without one of them only looks alive.
            () = pulse.ended.cancelled() => Err(WorkerError::Broken("the heartbeat")),
            _ = &mut fetching => Err(WorkerError::Broken("the fetch loop")),
            _ = &mut settling => Err(WorkerError::Broken("the settler")),
        };
        stop.cancel();
        info!(
            worker = self.id,
            running = running.len(),
            "worker stops: no further task is fetched"
        );
        let unblocking = async {
            while !fetching.is_finished() {
                if let Err(error) = reading.request().await {
                    warn!(%error, "could not end the blocked read; waiting for it");
                }
                sleep(UNBLOCK_EVERY).await;
            }
        };
        if timeout(FETCH_STOP_LIMIT, unblocking).await.is_err() {
            // With its connection; what was on its way there is recovered by others.
            error!("the fetch loop did not end within {FETCH_STOP_LIMIT:?} and is given up");
            fetching.abort();
        }
        let given_back = drain(&running, &executor, self.settings.grace).await;
        others.wait().await;

        if !settling.is_finished() && timeout(FLUSH_LIMIT, settling).await.is_err() {
            warn!("redis did not take the last settles within {FLUSH_LIMIT:?}");
        }
        let unsettled = held.len();
        // The last beat comes before the last word, or it would find its own tombstone.
        let was_fresh = pulse.is_fresh();
        beating.cancel();
        if !matches!(tokio::task::spawn_blocking(|| heart.join()).await, Ok(Ok(()))) {
            error!("the heartbeat thread ended badly");
        }
        // Otherwise the others may have declared this worker dead meanwhile, and their word counts.
        if was_fresh {
            self.sign_off().await;
        }
        info!(worker = self.id, given_back, unsettled, "worker has stopped");
        end.map(|()| Stopped { given_back, unsettled })
    }

    async fn sign_off(&self) {
        let said: Result<(), BrokerError> = self.client.sign_off(&self.id, Utc::now()).await;
        if let Err(error) = said {
            warn!(%error, "could not sign off; the others will notice after a lease");
        }
    }

    fn queue_names(&self) -> Vec<&str> {
        self.shards.iter().map(|shard| shard.queue().as_str()).collect()
    }

    /// What a person sees in `umbel:{workers}:info`.
    fn info(&self) -> String {
        serde_json::json!({
            "host": self.settings.host,
            "pid": std::process::id(),
            "boot": self.settings.boot,
            "queues": self.queue_names(),
            "concurrency": self.settings.concurrency,
            "started": Utc::now().to_rfc3339(),
            "version": env!("CARGO_PKG_VERSION"),
        })
        .to_string()
    }
}

/// Waits for what runs, asks it to end, ends it. Returns how many did not end by themselves.
async fn drain(running: &TaskTracker, executor: &Executor, grace: Duration) -> usize {
    running.close();
    if timeout(grace, running.wait()).await.is_ok() {
        return 0;
    }
    executor.cancelled.cancel();
    if timeout(CANCEL_GRACE, running.wait()).await.is_ok() {
        return 0;
    }
    let left = running.len();
    warn!(count = left, "tasks did not end within the grace time; they are given back");
    executor.aborted.cancel();
    if timeout(CANCEL_GRACE, running.wait()).await.is_err() {
        error!(
            count = running.len(),
            "tasks block their thread and cannot be ended; they run again elsewhere, and this process must end now"
        );
    }
    left
}
