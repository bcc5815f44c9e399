//! A Redis and processes of the probe, without a scenario: for a test that harms one of them.

use std::{env, fs, path::PathBuf};

use umbel_broker::{BrokerSettings, Client};
use umbel_proto::TaskId;

use super::{
    history::{Event, History},
    probe::HISTORY,
};
use crate::{
    process::{Launch, Process},
    services::RedisServer,
};

/// A Redis, and a file that tells which tasks were started.
#[derive(Debug)]
pub struct Site {
    pub redis: RedisServer,
    pub client: Client,
    history: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        // There is none if no task was started.
        fs::remove_file(&self.history).ok();
    }
}

impl Site {
    #[allow(clippy::new_without_default, reason = "it starts a server")]
    pub fn new() -> Self {
        let redis = RedisServer::start();
        let client = Client::open(&BrokerSettings::new(redis.url_as("worker")), "test").unwrap();
        let name = format!("umbel-history-{}", uuid::Uuid::new_v4().simple());
        Self { redis, client, history: env::temp_dir().join(name) }
    }

    /// Starts the probe in a role, with settings of its own.
    pub fn launch(&self, role: &str, env: &[(&str, &str)]) -> Process {
        self.plan(role, env).start()
    }

    /// What [`launch`](Self::launch) starts.
    pub fn plan(&self, role: &str, env: &[(&str, &str)]) -> Launch {
        let mut launch = Launch::new("umbel-probe", &[role])
            .env("REDIS_URL", self.redis.url_as("worker"))
            .env("PORT", 0)
            .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .env("LEASE", "12s")
            .env(HISTORY, self.history.display());
        for (name, value) in env {
            launch = launch.env(name, value);
        }
        launch
    }

    /// What the tasks have said so far.
    pub fn history(&self) -> History {
        History::read(&self.history).unwrap()
    }

    /// The processes that started a task, in order.
    pub fn starts(&self, task: &TaskId) -> Vec<u32> {
        let history = self.history();
        let of_it = history.of(Event::Start).filter(|line| line.task == *task);
        of_it.map(|line| line.pid).collect()
    }
}
