//! The benchmark: what Redis itself can do, and Umbel beside it in the same run.
//!
//! | workload | figures |
//! |---|---|
//! | `enqueue` | tasks a second: one awaited at a time (untracked, tracked), by 64 callers at once, by one `enqueue_many` |
//! | `drain` | by one worker from a full queue: nothing kept, with results, with every state written |
//! | `cycle` | enqueued and run at the same time |
//! | `hand-over` | from just before a task is enqueued to its start, at 200 a second on an idle system |
//! | `delayed` | 10,000 due at once: tasks a second; 5,000 due at 500 a second: how late |
//! | `idle` | a worker process at rest: its memory, what it asks Redis; from exec to its first task |
//! | `depth` | drains of 1,000 to 1,000,000 queued tasks |
//! | `payload` | drains with arguments of 1, 10 and 100 KB |
//! | `processes` | drains by 1, 2 and 4 worker processes, and how busy Redis is meanwhile |
//! | `memory` | what a queued task takes in Redis |
//! | `aof` | enqueue and drain with the append-only file written every second |
//! | `confined` | a drain by a worker with half a core and 512 MB, beside one without limits |
//! | `observed` | drains with metrics, with traces of which none is taken, and while every task is logged |
//! | `instructions` | what a task costs the client and the worker, counted by valgrind |
//!
//! Where Redis alone can do the same, `raw.…` is its limit, by the client of [`raw`]. Redis keeps
//! nothing on disk, but for `aof`.

pub mod apart;
mod confined;
pub mod figures;
pub mod head;
mod idle;
mod noop;
mod observed;
pub mod raw;
mod resp;
mod umbel;
mod workloads;

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use tokio::runtime::Runtime;
use umbel_tests::services::RedisServer;

use crate::{
    figures::{Figures, Kind, percentile},
    raw::Raw,
    umbel::Umbel,
};

pub use noop::ARGUMENT_BYTES;
pub use observed::application;

/// The distance of the tasks whose hand-over is measured: 200 a second.
pub const HAND_OVER_EVERY: Duration = Duration::from_millis(5);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    Enqueue,
    Drain,
    Cycle,
    HandOver,
    Delayed,
    Idle,
    Depth,
    Payload,
    Processes,
    Memory,
    Aof,
    Confined,
    Observed,
    Instructions,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    pub workloads: Vec<Workload>,
    /// Tasks of a bulk enqueue and of a drain; a fifth of them is enqueued one at a time.
    pub tasks: usize,
    /// How many tasks the worker runs at once.
    pub concurrency: usize,
    /// Tasks of a hand-over, at 200 a second.
    pub hand_overs: usize,
    /// How deep the deepest queue is.
    pub depth: usize,
}

/// A Redis of its own and what was measured on it. Ends its Redis when dropped.
#[derive(Debug)]
pub struct Bench {
    plan: Plan,
    redis: RedisServer,
    runtime: Runtime,
    figures: Figures,
}

impl Bench {
    /// Starts a Redis without persistence. Panics, and says why, where none can be started.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        ensure!(plan.tasks > 0 && plan.hand_overs > 0, "there is nothing to measure");
        let redis = RedisServer::start();
        let bench = Self { plan, redis, runtime: Runtime::new()?, figures: Figures::default() };
        bench.persist(false)?;
        Ok(bench)
    }

    /// Measures every figure once, the raw limit first. An error where a task was lost, failed or
    /// ran twice.
    pub fn run(&mut self) -> anyhow::Result<()> {
        for workload in self.plan.workloads.clone() {
            eprintln!("{workload:?}");
            match workload {
                Workload::Enqueue => self.enqueue(),
                Workload::Drain => self.drain(),
                Workload::Cycle => self.cycle(),
                Workload::HandOver => self.hand_over(),
                Workload::Delayed => self.delayed(),
                Workload::Idle => self.idle(),
                Workload::Depth => self.depth(),
                Workload::Payload => self.payload(),
                Workload::Processes => self.processes(),
                Workload::Memory => self.memory(),
                Workload::Aof => self.aof(),
                Workload::Confined => self.confined(),
                Workload::Observed => self.observed(),
                Workload::Instructions => self.instructions(),
            }
            .with_context(|| format!("{workload:?}"))?;
        }
        Ok(())
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    fn raw(&self) -> anyhow::Result<Raw<'_>> {
        self.empty()?;
        Raw::connect(&self.redis)
    }

    /// Lets a fresh client do some work on the threads of the runtime, as in an application.
    fn umbel<T, F>(&self, work: impl FnOnce(Umbel) -> F + Send + 'static) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send,
    {
        self.empty()?;
        self.umbel_on(work)
    }

    /// As [`umbel`](Self::umbel), on what is there.
    fn umbel_on<T, F>(&self, work: impl FnOnce(Umbel) -> F + Send + 'static) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send,
    {
        let (url, concurrency) = (self.redis.url(), self.plan.concurrency);
        let working =
            self.runtime.spawn(async move { work(Umbel::connect(url, concurrency).await?).await });
        self.runtime.block_on(working)?
    }

    fn empty(&self) -> anyhow::Result<()> {
        let answer = self.redis.cli(&["flushall", "sync"]);
        ensure!(answer == "OK", "redis cannot be emptied: {answer}");
        Ok(())
    }

    /// Whether Redis writes its append-only file, every second.
    fn persist(&self, persists: bool) -> anyhow::Result<()> {
        let answer =
            self.redis.cli(&["config", "set", "appendonly", if persists { "yes" } else { "no" }]);
        ensure!(answer == "OK", "redis does not change its append-only file: {answer}");
        Ok(())
    }

    /// A number that INFO tells.
    fn info(&self, section: &str, name: &str) -> anyhow::Result<f64> {
        let info = self.redis.cli(&["info", section]);
        let value = head::field(&info, name).with_context(|| format!("INFO has no {name}"))?;
        Ok(value.parse()?)
    }

    /// The seconds that Redis was at work, in all.
    fn redis_busy(&self) -> anyhow::Result<f64> {
        Ok(self.info("cpu", "used_cpu_user")? + self.info("cpu", "used_cpu_sys")?)
    }

    fn add(&mut self, kind: Kind, value: f64) {
        self.figures.add(kind, value);
    }

    fn rate(&mut self, kind: Kind, tasks: usize, took: Duration) {
        self.figures.add(kind, tasks as f64 / took.as_secs_f64());
    }

    fn latency(&mut self, [p50, p99]: [Kind; 2], took: &[Duration]) {
        let ms: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1000.0).collect();
        self.figures.add(p50, percentile(&ms, 0.5));
        self.figures.add(p99, percentile(&ms, 0.99));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(workloads: Vec<Workload>) -> Vec<figures::Figure> {
        let plan = Plan { workloads, tasks: 250, concurrency: 8, hand_overs: 20, depth: 1_000 };
        let mut bench = Bench::start(plan).unwrap();
        // Fails by itself where a task was not run, or not once.
        bench.run().unwrap();
        bench.figures().iter().collect()
    }

    #[test]
    fn every_workload_of_this_process_runs_all_of_its_tasks_and_gives_its_figures() {
        use Workload::{Aof, Cycle, Depth, Drain, Enqueue, HandOver, Memory, Payload};
        let figures = measured(vec![Enqueue, Drain, Cycle, HandOver, Depth, Payload, Memory, Aof]);
        for name in [
            "enqueue_bulk",
            "enqueue_64_callers",
            "enqueue_singly",
            "drain",
            "drain_results",
            "drain_tracked",
            "cycle",
            "hand_over_p99",
            "drain_of_1k",
            "drain_10kb",
            "memory_tracked",
            "drain_aof",
        ] {
            assert!(figures.iter().any(|figure| figure.name == name), "{name}: {figures:?}");
        }
        for figure in figures {
            assert!(figure.min > 0.0, "{figure:?}");
        }
    }

    #[test]
    fn delayed_tasks_are_measured_and_none_is_early() {
        let figures = measured(vec![Workload::Delayed]);
        let names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
        assert_eq!(names, ["due_at_once", "due_at_500_p50", "due_at_500_p99"]);
    }
}
