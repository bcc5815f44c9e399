//! The benchmark: what Redis itself can do, and Umbel beside it in the same run.
//!
//! | figure | measured |
//! |---|---|
//! | `enqueue_bulk` | tasks a second by one `enqueue_many` |
//! | `enqueue_singly` | tasks a second, one awaited at a time, untracked |
//! | `enqueue_singly_tracked` | the same, with every state written |
//! | `drain` | tasks a second by one worker from a full queue, nothing kept of them |
//! | `drain_results` | the same, with results |
//! | `hand_over_p50`, `_p99` | from just before a task is enqueued to its start, on an idle system |
//!
//! Each has its limit, `raw.…`, by the client of [`raw`]. Redis keeps nothing on disk.

pub mod figures;
pub mod head;
mod noop;
pub mod raw;
mod resp;
mod umbel;

use std::time::Duration;

use anyhow::ensure;
use tokio::runtime::Runtime;
use umbel_tests::services::RedisServer;

use crate::{
    figures::{Figures, Kind, percentile},
    raw::Raw,
    umbel::Umbel,
};

pub use noop::ARGUMENT_BYTES;

/// The distance of the tasks whose hand-over is measured: 200 a second.
pub const HAND_OVER_EVERY: Duration = Duration::from_millis(5);

/// One at a time is so much slower that fewer tasks tell the rate.
const SINGLY_SHARE: usize = 5;

const RATE: &str = "tasks/s";
const RAW_BULK: Kind = Kind::raw("raw.enqueue_bulk", RATE);
const RAW_SINGLY: Kind = Kind::raw("raw.enqueue_singly", RATE);
const RAW_DRAIN: Kind = Kind::raw("raw.drain", RATE);
const RAW_DRAIN_RESULTS: Kind = Kind::raw("raw.drain_results", RATE);
const RAW_P50: Kind = Kind::raw("raw.hand_over_p50", "ms");
const RAW_P99: Kind = Kind::raw("raw.hand_over_p99", "ms");
const BULK: Kind = Kind::against(RAW_BULK, "enqueue_bulk");
const SINGLY: Kind = Kind::against(RAW_SINGLY, "enqueue_singly");
const SINGLY_TRACKED: Kind = Kind::against(RAW_SINGLY, "enqueue_singly_tracked");
const DRAIN: Kind = Kind::against(RAW_DRAIN, "drain");
const DRAIN_RESULTS: Kind = Kind::against(RAW_DRAIN_RESULTS, "drain_results");
const P50: Kind = Kind::against(RAW_P50, "hand_over_p50");
const P99: Kind = Kind::against(RAW_P99, "hand_over_p99");

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Tasks of a bulk enqueue and of a drain; a fifth of them is enqueued one at a time.
    pub tasks: usize,
    /// How many tasks the worker runs at once.
    pub concurrency: usize,
    /// Tasks of a hand-over, at 200 a second.
    pub hand_overs: usize,
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
        let answer = redis.cli(&["config", "set", "appendonly", "no"]);
        ensure!(answer == "OK", "redis keeps its append-only file: {answer}");
        let runtime = Runtime::new()?;
        Ok(Self { plan, redis, runtime, figures: Figures::default() })
    }

    /// Measures every figure once, the raw limit first. An error where a task was lost, failed or
    /// ran twice.
    pub fn run(&mut self) -> anyhow::Result<()> {
        self.run_raw()?;
        self.run_umbel()
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    fn run_raw(&mut self) -> anyhow::Result<()> {
        let Plan { tasks, hand_overs, .. } = self.plan;
        let mut raw = self.raw()?;
        let enqueued = raw.enqueue_bulk(tasks)?;
        let drained = raw.drain(tasks, false)?;
        let mut raw = self.raw()?;
        raw.enqueue_bulk(tasks)?;
        let drained_results = raw.drain(tasks, true)?;
        let singly = self.raw()?.enqueue_singly(self.singly())?;
        let handed_over = self.raw()?.hand_overs(hand_overs, HAND_OVER_EVERY)?;

        self.rate(RAW_BULK, tasks, enqueued);
        self.rate(RAW_DRAIN, tasks, drained);
        self.rate(RAW_DRAIN_RESULTS, tasks, drained_results);
        self.rate(RAW_SINGLY, self.singly(), singly);
        self.latency([RAW_P50, RAW_P99], &handed_over);
        Ok(())
    }

    fn run_umbel(&mut self) -> anyhow::Result<()> {
        let Plan { tasks, hand_overs: hands, .. } = self.plan;
        let few = self.singly();
        let (enqueued, drained) = self.umbel(move |umbel| async move {
            let (took, handles) = umbel.enqueue_bulk::<false>(tasks).await?;
            Ok((took, umbel.drain(&handles, false).await?))
        })?;
        let drained_results = self.umbel(move |umbel| async move {
            let (_, handles) = umbel.enqueue_bulk::<true>(tasks).await?;
            umbel.drain(&handles, true).await
        })?;
        let singly =
            self.umbel(move |umbel| async move { umbel.enqueue_singly(few, false).await })?;
        let singly_tracked =
            self.umbel(move |umbel| async move { umbel.enqueue_singly(few, true).await })?;
        let handed_over =
            self.umbel(move |umbel| async move { umbel.hand_overs(hands, HAND_OVER_EVERY).await })?;

        self.rate(BULK, tasks, enqueued);
        self.rate(DRAIN, tasks, drained);
        self.rate(DRAIN_RESULTS, tasks, drained_results);
        self.rate(SINGLY, few, singly);
        self.rate(SINGLY_TRACKED, few, singly_tracked);
        self.latency([P50, P99], &handed_over);
        Ok(())
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

    fn singly(&self) -> usize {
        self.plan.tasks.div_ceil(SINGLY_SHARE)
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

    #[test]
    fn every_workload_runs_all_of_its_tasks_and_gives_its_figure() {
        let mut bench = Bench::start(Plan { tasks: 250, concurrency: 8, hand_overs: 20 }).unwrap();
        // Fails by itself where a task was not run, or not once.
        bench.run().unwrap();
        let figures: Vec<_> = bench.figures().iter().collect();
        let names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
        for kind in [BULK, SINGLY, SINGLY_TRACKED, DRAIN, DRAIN_RESULTS, P50, P99] {
            assert!(names.contains(&kind.name), "{names:?}");
        }
        for figure in figures {
            assert!(figure.min > 0.0 && figure.runs == 1, "{figure:?}");
        }
    }
}
