//! A worker from its start to its drain, under one id after the other.

use std::sync::Arc;

use chrono::Utc;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use umbel_broker::{Client, keys::Shard, roster::WorkerInfo};

use crate::{
    Endpoints, SettingsError, WorkerSettings,
    hang::Longest,
    heartbeat::HeartError,
    life::{Body, Life, Over},
    meters::Meters,
};

/// Serves queues.
#[derive(Debug)]
pub struct Worker {
    body: Body,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
        let permits = Arc::new(Semaphore::new(settings.concurrency));
        let longest = Longest::default();
        let meters = Meters::new();
        Ok(Self { body: Body { client, endpoints, settings, shards, permits, longest, meters } })
    }

    /// Its first id as Redis has it, `<host>-<boot>-<n>`; n grows should it be declared dead.
    pub fn id(&self) -> String {
        self.body.settings.worker_id(1)
    }

    /// Works until `shutdown`, then drains: no further fetch, the grace time for what runs, then
    /// it is asked to end, and what does not end is given back.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Stopped, WorkerError> {
        // Lives that were declared dead, until what they ran has ended.
        let former = TaskTracker::new();
        let mut n = 1;
        let (life, result) = loop {
            let id = self.body.settings.worker_id(n);
            let mut life = Life::begin(&self.body, id.clone(), self.info(), &shutdown).await?;
            info!(worker = id, concurrency = self.body.settings.concurrency, queues = ?self.queue_names(), "worker is ready");
            match life.over().await {
                Over::Asked => break (life, Ok(())),
                Over::Broken(part) => break (life, Err(WorkerError::Broken(part))),
                Over::Fenced => {
                    warn!(worker = id, "going on under a new id");
                    former.spawn(life.end());
                    n += 1;
                }
            }
        };
        let stopped = life.end().await;
        former.close();
        former.wait().await;
        result.map(|()| stopped)
    }

    fn queue_names(&self) -> Vec<&str> {
        self.body.shards.iter().map(|shard| shard.queue().as_str()).collect()
    }

    /// What stays of what a person sees in `umbel:{workers}:info`.
    fn info(&self) -> WorkerInfo {
        WorkerInfo {
            host: self.body.settings.host.clone(),
            pid: std::process::id(),
            boot: self.body.settings.boot.clone(),
            queues: self.queue_names().into_iter().map(str::to_owned).collect(),
            concurrency: self.body.settings.concurrency,
            started: Some(Utc::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..WorkerInfo::default()
        }
    }
}
