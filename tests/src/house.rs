//! A Redis of its own with workers in this process.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use chrono::Utc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use umbel_broker::{BrokerSettings, Client, Consumer, Held, QueueStatus, TaskRecord, Terms};
use umbel_proto::{Priority, TaskId};
use umbel_worker::{Registry, Stopped, Worker, WorkerError, WorkerSettings};

use crate::{
    eventually::eventually,
    probe::{self, Record, shard},
    services::RedisServer,
};

/// Redis, a client, and the record of what probes did.
#[derive(Debug)]
pub struct House {
    pub redis: RedisServer,
    pub client: Client,
    pub record: Record,
    boots: AtomicU32,
}

/// A worker that runs in this process.
#[derive(Debug)]
pub struct Running {
    pub id: String,
    stop: CancellationToken,
    ended: JoinHandle<Result<Stopped, WorkerError>>,
}

impl House {
    /// Without a worker yet.
    pub fn start() -> Self {
        Self::on(RedisServer::start())
    }

    /// On a Redis that runs; the client and the workers are its user `worker` where it has users.
    pub fn on(redis: RedisServer) -> Self {
        show_logs();
        let client = Client::open(&BrokerSettings::new(redis.url_as("worker")), "test").unwrap();
        Self { redis, client, record: Record::default(), boots: AtomicU32::new(1) }
    }

    /// Starts a worker that runs `concurrency` tasks at once.
    pub fn worker(&self, concurrency: usize) -> Running {
        self.worker_with(|settings| settings.concurrency = concurrency)
    }

    fn settings(&self) -> WorkerSettings {
        let boot = format!("{:016x}", self.boots.fetch_add(1, Ordering::Relaxed));
        let mut settings = WorkerSettings::new("test", &boot);
        settings.grace = Duration::from_millis(500);
        settings
    }

    /// Starts a worker with settings of its own.
    pub fn worker_with(&self, change: impl FnOnce(&mut WorkerSettings)) -> Running {
        let mut settings = self.settings();
        change(&mut settings);
        self.serve(probe::registry(), settings)
    }

    /// Starts a worker of the next release, which knows more tasks.
    pub fn newer_worker(&self, concurrency: usize) -> Running {
        let mut settings = self.settings();
        settings.concurrency = concurrency;
        self.serve(probe::newer_registry(), settings)
    }

    fn serve(&self, registry: Registry<Record>, settings: WorkerSettings) -> Running {
        let endpoints = registry.bind(self.record.clone());
        let client = self.client.separate().unwrap();
        let worker = Worker::new(client, endpoints, settings).unwrap();
        let id = worker.id();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(worker.run(stop.clone()));
        Running { id, stop, ended }
    }

    /// What reads for a worker that is none: a test has what it read in its own hands.
    pub fn consumer(&self, worker: &str, held: &Held) -> Consumer {
        Consumer::new(self.client.clone(), worker.to_owned(), vec![shard()], held.clone())
    }

    /// What is known of a task once it has ended.
    pub async fn ended(&self, id: &TaskId) -> TaskRecord {
        eventually(&format!("the end of {id}"), async || {
            self.client.task(id).await.unwrap().filter(|record| record.state.has_ended())
        })
        .await
    }

    /// How the queue of the probes stands; it must have been used.
    pub async fn queue(&self) -> QueueStatus {
        let queues = self.client.queues().await.unwrap();
        queues.into_iter().find(|queue| queue.name.as_str() == "default").expect("the queue")
    }

    /// The fields of each dead letter, as redis-cli shows them.
    pub fn dead_letters(&self) -> String {
        self.redis.cli(&["XRANGE", "umbel:{default}:dead", "-", "+"])
    }
}

/// What tests settle with.
pub fn terms() -> Terms {
    Terms {
        priority: Priority::Normal,
        max_attempts: 3,
        result_ttl: Duration::from_secs(60),
        started: Some(Utc::now()),
    }
}

impl Running {
    /// Waits until the worker ends by itself.
    pub async fn ended(self) -> Result<Stopped, WorkerError> {
        self.ended.await.unwrap()
    }

    /// Asks the worker to stop and waits until it has.
    pub async fn stop(self) -> Result<Stopped, WorkerError> {
        self.stop.cancel();
        self.ended.await.unwrap()
    }
}

/// Logs go where the test's output goes: shown when it fails. `RUST_LOG` sets the level.
fn show_logs() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    // Another test of this process may have done it.
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
}
