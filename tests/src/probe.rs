//! A task that does as its arguments say, so that every scenario is data.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use umbel_broker::{LimitRules, keys::Shard};
use umbel_proto::{RetryPolicy, Task, TaskOptions};
use umbel_worker::{Context, End, Handler, Registry, TaskError, TaskResult};

/// Where its tasks wait.
pub fn shard() -> Shard {
    Shard::first(&"default".parse().unwrap())
}

/// What a probe does when it is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    Ok,
    /// Fails in every attempt.
    Fail(String),
    /// Fails in this many attempts, then succeeds.
    FailFirst(u32),
    Fatal(String),
    Panic(String),
    /// Never ends by itself, and panics when it is ended.
    PanicWhenDropped,
    /// Never ends by itself.
    Hang,
    /// Snoozes in its first run for so many milliseconds, then succeeds.
    Snooze(u64),
    /// Waits at its gate, then succeeds.
    Hold,
    /// Tells how far it is, waits at its gate, then succeeds.
    Tell,
    /// Takes the one place of the limit `probe` under this key, waits at its gate, then succeeds.
    Room(String),
    /// Fails as soon as it should come to its end.
    UntilCancelled,
}

/// The task; `name` tells it apart in the [`Record`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    pub name: String,
    pub act: Act,
}

impl Probe {
    pub fn new(name: &str, act: Act) -> Self {
        Self { name: name.to_owned(), act }
    }
}

impl Task for Probe {
    const NAME: &'static str = "probe";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT
        .max_attempts(3)
        .retry(RetryPolicy::exponential(Duration::from_millis(10), Duration::from_millis(40)))
        .over_http();
    /// The attempt that succeeded.
    type Output = u32;
}

/// What probes have done in this process, and the gates that hold them.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    runs: Mutex<Vec<(String, u32)>>,
    ends: Mutex<Vec<(String, End)>>,
    gates: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Record {
    /// The attempts that were started of a probe, in order.
    pub fn attempts_of(&self, name: &str) -> Vec<u32> {
        let runs = self.0.runs.lock().unwrap();
        runs.iter().filter(|(run, _)| run == name).map(|(_, attempt)| *attempt).collect()
    }

    /// The names of the probes in the order in which they were started.
    pub fn order(&self) -> Vec<String> {
        self.0.runs.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }

    /// How a probe was told that it ended.
    pub fn ends_of(&self, name: &str) -> Vec<End> {
        let ends = self.0.ends.lock().unwrap();
        ends.iter().filter(|(end, _)| end == name).map(|(_, end)| end.clone()).collect()
    }

    /// Opens the gate of a probe that holds, now or when it comes.
    pub fn open(&self, name: &str) {
        self.gate(name).add_permits(1);
    }

    fn gate(&self, name: &str) -> Arc<Semaphore> {
        self.0
            .gates
            .lock()
            .unwrap()
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(0)))
            .clone()
    }
}

/// The name of a probe that only workers of the next release know.
pub const LATER: &str = "probe.later";

/// A probe of the next release.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Later(Probe);

impl Task for Later {
    const NAME: &'static str = LATER;
    const OPTIONS: TaskOptions = Probe::OPTIONS;
    type Output = u32;
}

impl Handler<Record> for Later {
    async fn run(self, ctx: &Context<Record>) -> TaskResult<u32> {
        self.0.run(ctx).await
    }
}

impl Handler<Record> for Probe {
    async fn run(self, ctx: &Context<Record>) -> TaskResult<u32> {
        let attempt = ctx.run().attempt;
        let runs_before = ctx.app().attempts_of(&self.name).len();
        ctx.app().0.runs.lock().unwrap().push((self.name.clone(), attempt));
        match self.act {
            Act::Ok => {}
            Act::Fail(error) => return Err(error.into()),
            Act::FailFirst(times) if attempt <= times => return Err("not yet".into()),
            Act::FailFirst(_) => {}
            Act::Fatal(error) => return Err(TaskError::fatal(error)),
            Act::Panic(message) => panic!("{message}"),
            Act::PanicWhenDropped => {
                let _bomb = Bomb;
                std::future::pending().await
            }
            Act::Hang => std::future::pending().await,
            Act::Snooze(ms) if runs_before == 0 => {
                return Err(TaskError::snooze(Duration::from_millis(ms)));
            }
            Act::Snooze(_) => {}
            Act::Hold => ctx.app().gate(&self.name).acquire().await?.forget(),
            Act::Tell => {
                ctx.progress(&serde_json::json!({"done": 1, "of": 2})).await?;
                ctx.app().gate(&self.name).acquire().await?.forget();
            }
            Act::Room(key) => {
                let rules = LimitRules::new().at_once(1);
                let _permit = ctx.limit("probe", &key, &rules).await?;
                ctx.app().gate(&self.name).acquire().await?.forget();
            }
            Act::UntilCancelled => {
                ctx.cancelled().cancelled().await;
                return Err("was asked to end".into());
            }
        }
        Ok(attempt)
    }

    async fn ended(self, end: &End, ctx: &Context<Record>) -> TaskResult<()> {
        ctx.app().0.ends.lock().unwrap().push((self.name, end.clone()));
        Ok(())
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// The registry of the probe application.
pub fn registry() -> Registry<Record> {
    Registry::builder().register::<Probe>().build().expect("the probe's names are right")
}

/// That of its next release.
pub fn newer_registry() -> Registry<Record> {
    let builder = Registry::builder().register::<Probe>().register::<Later>();
    builder.build().expect("the probe's names are right")
}
