//! What is measured, workload by workload: the raw limit first where there is one, then Umbel.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    ARGUMENT_BYTES, Bench, HAND_OVER_EVERY, Plan,
    apart::{self, Part, Process},
    figures::Kind,
};

/// One at a time is so much slower that fewer tasks tell the rate.
const SINGLY_SHARE: usize = 5;

const CALLERS: usize = 64;

/// Tasks that are due at once, and those that are due one after the other, at 500 a second.
const DUE_AT_ONCE: usize = 10_000;
const DUE_ONE_BY_ONE: usize = 5_000;
const DUE_EVERY: Duration = Duration::from_millis(2);

/// How long a worker is left alone before it is at rest.
pub(crate) const REST_AFTER: Duration = Duration::from_secs(4);

/// Tasks of two runs whose difference is counted: what a start costs falls away.
const COUNTED: [usize; 2] = [500, 2_500];

/// What differs only by how much of a processor it takes is drained for seconds, not for a moment; of
/// so many times the tasks, and not of more than a process has places for.
const LONGER: usize = 8;
pub(crate) const PLACES: usize = 1_000_000;

pub(crate) const RATE: &str = "tasks/s";
const RAW_BULK: Kind = Kind::raw("raw.enqueue_bulk", RATE);
const RAW_SINGLY: Kind = Kind::raw("raw.enqueue_singly", RATE);
const RAW_DRAIN: Kind = Kind::raw("raw.drain", RATE);
const RAW_DRAIN_RESULTS: Kind = Kind::raw("raw.drain_results", RATE);
const RAW_CYCLE: Kind = Kind::raw("raw.cycle", RATE);
const RAW_HAND_OVER: [Kind; 2] =
    [Kind::raw("raw.hand_over_p50", "ms"), Kind::raw("raw.hand_over_p99", "ms")];
const RAW_BULK_AOF: Kind = Kind::raw("raw.enqueue_bulk_aof", RATE);
const RAW_DRAIN_AOF: Kind = Kind::raw("raw.drain_aof", RATE);
const DRAIN: Kind = Kind::against(RAW_DRAIN, "drain");

impl Bench {
    pub(crate) fn enqueue(&mut self) -> anyhow::Result<()> {
        let tasks = self.plan.tasks;
        let few = tasks.div_ceil(SINGLY_SHARE);
        let took = self.raw()?.enqueue_bulk(tasks)?;
        self.rate(RAW_BULK, tasks, took);
        let took = self.raw()?.enqueue_singly(few)?;
        self.rate(RAW_SINGLY, few, took);

        let busy = self.redis_busy()?;
        let (took, _) =
            self.umbel(move |umbel| async move { umbel.enqueue_bulk::<false>(tasks).await })?;
        let busy = self.redis_busy()? - busy;
        self.rate(Kind::against(RAW_BULK, "enqueue_bulk"), tasks, took);
        self.add(Kind::own("enqueue_bulk_redis", "µs/task"), busy * 1e6 / tasks as f64);
        let took = self
            .umbel(move |umbel| async move { umbel.enqueue_concurrently(tasks, CALLERS).await })?;
        self.rate(Kind::against(RAW_BULK, "enqueue_64_callers"), tasks, took);
        for (name, tracked) in [("enqueue_singly", false), ("enqueue_singly_tracked", true)] {
            let took =
                self.umbel(move |umbel| async move { umbel.enqueue_singly(few, tracked).await })?;
            self.rate(Kind::against(RAW_SINGLY, name), few, took);
        }
        Ok(())
    }

    pub(crate) fn drain(&mut self) -> anyhow::Result<()> {
        let tasks = self.plan.tasks;
        for (kind, results) in [(RAW_DRAIN, false), (RAW_DRAIN_RESULTS, true)] {
            let mut raw = self.raw()?;
            raw.enqueue_bulk(tasks)?;
            let took = raw.drain(tasks, results)?;
            self.rate(kind, tasks, took);
        }
        self.drained::<false>(DRAIN, "drain_redis", tasks, ARGUMENT_BYTES, false)?;
        let results = Kind::against(RAW_DRAIN_RESULTS, "drain_results");
        self.drained::<true>(results, "drain_results_redis", tasks, ARGUMENT_BYTES, false)?;
        let tracked = Kind::against(RAW_DRAIN_RESULTS, "drain_tracked");
        self.drained::<true>(tracked, "drain_tracked_redis", tasks, ARGUMENT_BYTES, true)
    }

    /// Drains so many tasks; notes the rate, and how long Redis was at work for each.
    fn drained<const KEPT: bool>(
        &mut self,
        kind: Kind,
        redis: &'static str,
        tasks: usize,
        bytes: usize,
        tracked: bool,
    ) -> anyhow::Result<()> {
        let (_, handles) = self.umbel(move |umbel| async move {
            umbel.enqueue_sized::<KEPT>(tasks, bytes, tracked).await
        })?;
        let busy = self.redis_busy()?;
        let took = self.umbel_on(move |umbel| async move { umbel.drain(&handles, KEPT).await })?;
        let busy = self.redis_busy()? - busy;
        self.rate(kind, tasks, took);
        self.add(Kind::own(redis, "µs/task"), busy * 1e6 / tasks as f64);
        Ok(())
    }

    pub(crate) fn cycle(&mut self) -> anyhow::Result<()> {
        let tasks = self.plan.tasks;
        let took = self.raw()?.cycle(tasks)?;
        self.rate(RAW_CYCLE, tasks, took);
        let took = self.umbel(move |umbel| async move { umbel.cycle(tasks).await })?;
        self.rate(Kind::against(RAW_CYCLE, "cycle"), tasks, took);
        Ok(())
    }

    pub(crate) fn hand_over(&mut self) -> anyhow::Result<()> {
        let hands = self.plan.hand_overs;
        let took = self.raw()?.hand_overs(hands, HAND_OVER_EVERY)?;
        self.latency(RAW_HAND_OVER, &took);
        let took =
            self.umbel(move |umbel| async move { umbel.hand_overs(hands, HAND_OVER_EVERY).await })?;
        let [p50, p99] = RAW_HAND_OVER;
        let own = [Kind::against(p50, "hand_over_p50"), Kind::against(p99, "hand_over_p99")];
        self.latency(own, &took);
        Ok(())
    }

    pub(crate) fn delayed(&mut self) -> anyhow::Result<()> {
        let at_once = DUE_AT_ONCE.min(self.plan.tasks);
        let late =
            self.umbel(move |umbel| async move { umbel.delayed(at_once, Duration::ZERO).await })?;
        let last = late.iter().max().copied().unwrap_or_default();
        self.rate(Kind::own("due_at_once", RATE), at_once, last);
        let spread = DUE_ONE_BY_ONE.min(self.plan.tasks);
        let late =
            self.umbel(move |umbel| async move { umbel.delayed(spread, DUE_EVERY).await })?;
        self.latency([Kind::own("due_at_500_p50", "ms"), Kind::own("due_at_500_p99", "ms")], &late);
        Ok(())
    }

    pub(crate) fn depth(&mut self) -> anyhow::Result<()> {
        const DEPTHS: [(usize, &str); 4] = [
            (1_000, "drain_of_1k"),
            (10_000, "drain_of_10k"),
            (100_000, "drain_of_100k"),
            (1_000_000, "drain_of_1m"),
        ];
        for (depth, name) in DEPTHS {
            if depth <= self.plan.depth {
                let took = self.umbel(move |umbel| async move {
                    umbel.enqueue_deep(depth).await?;
                    umbel.drain_deep(depth).await
                })?;
                self.rate(Kind::own(name, RATE), depth, took);
            }
        }
        Ok(())
    }

    pub(crate) fn payload(&mut self) -> anyhow::Result<()> {
        const SIZES: [(usize, usize, Kind, &str, &str); 3] = [
            (1_000, 1, Kind::raw("raw.drain_1kb", RATE), "drain_1kb", "drain_1kb_redis"),
            (10_000, 10, Kind::raw("raw.drain_10kb", RATE), "drain_10kb", "drain_10kb_redis"),
            (100_000, 100, Kind::raw("raw.drain_100kb", RATE), "drain_100kb", "drain_100kb_redis"),
        ];
        for (bytes, share, limit, name, redis) in SIZES {
            let tasks = self.plan.tasks.div_ceil(share);
            let mut raw = self.raw()?.with_argument(bytes);
            raw.enqueue_bulk(tasks)?;
            let took = raw.drain(tasks, false)?;
            self.rate(limit, tasks, took);
            self.drained::<false>(Kind::against(limit, name), redis, tasks, bytes, false)?;
        }
        Ok(())
    }

    pub(crate) fn processes(&mut self) -> anyhow::Result<()> {
        const COUNTS: [(usize, &str, &str); 3] = [
            (1, "drain_by_1", "drain_by_1_redis"),
            (2, "drain_by_2", "drain_by_2_redis"),
            (4, "drain_by_4", "drain_by_4_redis"),
        ];
        let Plan { tasks, concurrency, .. } = self.plan;
        for (count, name, redis) in COUNTS {
            let parts = (0..count).map(|n| apart::worker(&self.redis.url(), concurrency, tasks, n));
            let parts: Vec<Part> = parts.collect();
            let start = || parts.iter().map(Process::start).collect();
            let (took, busy) = self.drained_apart(tasks, start)?;
            self.rate(Kind::own(name, RATE), tasks, took);
            self.add(Kind::own(redis, "cores"), busy / took.as_secs_f64());
        }
        Ok(())
    }

    /// How many tasks are drained for seconds.
    pub(crate) fn tasks_of_seconds(&self) -> usize {
        (self.plan.tasks * LONGER).min(PLACES)
    }

    /// Has processes of their own, which are there and wait by then, drain so many tasks. How long
    /// that took, and how long Redis was at work meanwhile, in seconds.
    pub(crate) fn drained_apart(
        &self,
        tasks: usize,
        start: impl FnOnce() -> anyhow::Result<Vec<Process>>,
    ) -> anyhow::Result<(Duration, f64)> {
        self.umbel(move |umbel| async move {
            umbel.enqueue_deep(tasks).await?;
            umbel.hold(true).await
        })?;
        let workers = start()?;
        sleep(REST_AFTER);
        let busy = self.redis_busy()?;
        let took = self.umbel_on(|umbel| async move {
            let began = Instant::now();
            umbel.hold(false).await?;
            apart::until_settled(&umbel).await?;
            Ok(began.elapsed())
        })?;
        let busy = self.redis_busy()? - busy;
        drop(workers);
        Ok((took, busy))
    }

    pub(crate) fn memory(&mut self) -> anyhow::Result<()> {
        let tasks = self.plan.tasks;
        for (name, tracked) in [("memory_untracked", false), ("memory_tracked", true)] {
            self.umbel(|umbel| async move { umbel.enqueue_bulk::<false>(1).await.map(drop) })?;
            let before = self.info("memory", "used_memory")?;
            self.umbel(move |umbel| async move {
                umbel.enqueue_sized::<false>(tasks, ARGUMENT_BYTES, tracked).await.map(drop)
            })?;
            let after = self.info("memory", "used_memory")?;
            self.add(Kind::own(name, "B/task"), (after - before) / tasks as f64);
        }
        Ok(())
    }

    pub(crate) fn aof(&mut self) -> anyhow::Result<()> {
        let tasks = self.plan.tasks;
        self.empty()?;
        self.persist(true)?;
        let measured = self.with_aof(tasks);
        self.persist(false)?;
        measured
    }

    fn with_aof(&mut self, tasks: usize) -> anyhow::Result<()> {
        while self.info("persistence", "aof_rewrite_in_progress")? > 0.0 {
            sleep(Duration::from_millis(10));
        }
        let every = self.redis.cli(&["config", "get", "appendfsync"]);
        ensure!(every.ends_with("everysec"), "the append-only file is not written every second");
        let mut raw = self.raw()?;
        let enqueued = raw.enqueue_bulk(tasks)?;
        let drained = raw.drain(tasks, false)?;
        self.rate(RAW_BULK_AOF, tasks, enqueued);
        self.rate(RAW_DRAIN_AOF, tasks, drained);
        let (enqueued, handles) =
            self.umbel(move |umbel| async move { umbel.enqueue_bulk::<false>(tasks).await })?;
        let drained =
            self.umbel_on(move |umbel| async move { umbel.drain(&handles, false).await })?;
        self.rate(Kind::against(RAW_BULK_AOF, "enqueue_bulk_aof"), tasks, enqueued);
        self.rate(Kind::against(RAW_DRAIN_AOF, "drain_aof"), tasks, drained);
        Ok(())
    }

    pub(crate) fn instructions(&mut self) -> anyhow::Result<()> {
        let (url, concurrency) = (self.redis.url(), self.plan.concurrency);
        let (mut enqueued, mut run) = (Vec::new(), Vec::new());
        for tasks in COUNTED {
            self.empty()?;
            let enqueue = Part::Enqueue { url: url.clone(), tasks };
            enqueued.push(apart::instructions(&enqueue)?);
            let worker = Part::Worker {
                url: url.clone(),
                concurrency,
                boot: format!("{:016x}", 1),
                places: tasks,
                once: true,
            };
            run.push(apart::instructions(&worker)?);
        }
        let kinds =
            [Kind::own("enqueue_bulk_cost", "instr/task"), Kind::own("run_cost", "instr/task")];
        for (kind, counts) in kinds.into_iter().zip([enqueued, run]) {
            let [Some(few), Some(many)] = counts[..] else {
                eprintln!("there is no valgrind to count instructions with");
                continue;
            };
            let between = (COUNTED[1] - COUNTED[0]) as f64;
            self.add(kind, (many as f64 - few as f64) / between);
        }
        Ok(())
    }
}
