//! What Redis knows of queues and workers, asked for when somebody reads the metrics of the API, and
//! at most every few seconds.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use chrono::Utc;
use metrics::{Gauge, gauge};
use tokio::time::timeout;
use tracing::warn;
use umbel_broker::{BrokerError, Client, meters::OTHER};

use super::names;

/// How old an answer may be. Several who look, or one who looks often, cost Redis no more.
const FRESH: Duration = Duration::from_secs(3);

/// How long Redis may take. Who reads metrics gives up after ten seconds, and should hear that Redis
/// does not answer rather than nothing.
const LIMIT: Duration = Duration::from_secs(2);

/// How many queues have series of their own; the others are added up.
const QUEUES_MOST: usize = 100;

#[derive(Debug)]
pub(crate) struct Census {
    client: Client,
    taken: Mutex<Option<Instant>>,
}

impl Census {
    pub fn new(client: Client) -> Self {
        Self { client, taken: Mutex::new(None) }
    }

    /// Brings the gauges up to date.
    pub async fn take(&self) {
        {
            let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if taken.is_some_and(|taken| taken.elapsed() < FRESH) {
                return;
            }
            *taken = Some(Instant::now());
        }
        let error = match timeout(LIMIT, self.ask()).await {
            Ok(Ok(())) => {
                gauge!(names::REDIS_UP).set(1.0);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LIMIT:?}"),
        };
        gauge!(names::REDIS_UP).set(0.0);
        warn!(error, "the metrics of queues and workers are as old as the last answer of redis");
    }

    async fn ask(&self) -> Result<(), BrokerError> {
        let now = self.client.server_time().await?;
        let mut other = Sum::default();
        for (n, queue) in self.client.queues().await?.into_iter().enumerate() {
            let oldest = self.client.oldest_wait(&queue.name, now).await?;
            let sum = Sum {
                depth: queue.queued,
                running: queue.running,
                delayed: queue.delayed,
                parked: queue.parked,
                dead: queue.dead,
                paused: u64::from(queue.paused.is_some()),
                oldest: oldest.unwrap_or_default(),
            };
            if n < QUEUES_MOST { sum.tell(queue.name.as_str()) } else { other.add(&sum) }
        }
        if other != Sum::default() {
            other.tell(OTHER);
        }
        let workers = self.client.living_workers().await?;
        gauge!(names::WORKERS).set(workers.len() as f64);
        let slots: usize = workers.iter().map(|worker| worker.info.concurrency).sum();
        gauge!(names::WORKER_SLOTS).set(slots as f64);
        let ages =
            workers.iter().filter_map(|worker| (Utc::now() - worker.info.beat?).to_std().ok());
        gauge!(names::HEARTBEAT_AGE).set(ages.max().unwrap_or_default().as_secs_f64());
        let told = self.client.server_use().await?;
        for (name, value) in [
            (names::REDIS_CLIENTS, told.clients),
            (names::REDIS_CLIENTS_MOST, told.clients_most),
            (names::REDIS_MEMORY, told.memory),
            (names::REDIS_MEMORY_MOST, told.memory_most),
        ] {
            if let Some(value) = value {
                gauge!(name).set(value as f64);
            }
        }
        Ok(())
    }
}

/// How a queue stands, or several together.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    depth: u64,
    running: u64,
    delayed: u64,
    parked: u64,
    dead: u64,
    paused: u64,
    oldest: Duration,
}

impl Sum {
    fn add(&mut self, more: &Self) {
        self.depth += more.depth;
        self.running += more.running;
        self.delayed += more.delayed;
        self.parked += more.parked;
        self.dead += more.dead;
        self.paused += more.paused;
        self.oldest = self.oldest.max(more.oldest);
    }

    fn tell(&self, queue: &str) {
        let of = |name: &'static str| -> Gauge { gauge!(name, "queue" => queue.to_owned()) };
        for (name, value) in [
            (names::QUEUE_DEPTH, self.depth),
            (names::QUEUE_RUNNING, self.running),
            (names::QUEUE_DELAYED, self.delayed),
            (names::QUEUE_PARKED, self.parked),
            (names::QUEUE_DEAD, self.dead),
            (names::QUEUE_PAUSED, self.paused),
        ] {
            of(name).set(value as f64);
        }
        of(names::QUEUE_OLDEST).set(self.oldest.as_secs_f64());
    }
}
