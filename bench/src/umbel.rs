//! The same work by Umbel: a client that enqueues, and one worker in this process.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DurationRound, TimeDelta, Utc};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;
use umbel_broker::{BrokerError, BrokerSettings, Client, NewTask, QueueStatus, TaskHandle, When};
use umbel_proto::TaskState;
use umbel_worker::{Stopped, Worker, WorkerError, WorkerSettings};

use crate::noop::{ARGUMENT_BYTES, Board, NoOp, QUEUE, endpoints};

/// Far longer than the largest run takes: what is not done by then never will be.
const DONE_MAX: Duration = Duration::from_secs(300);

/// How long after now the first delayed task is due.
const DELAY: Duration = Duration::from_secs(3);

/// Clocks are told in whole milliseconds.
const EARLY_MAX: Duration = Duration::from_millis(1);

/// How many of very many tasks are made at once.
const DEEP_STEP: usize = 50_000;

/// How often it is asked whether the last tasks are settled; each look costs Redis something, and
/// a drain is measured no finer.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Which tasks are looked at after a drain: all would take longer than the drain, and a prime
/// number falls on every part of a batch.
const CHECK_EACH: usize = 97;

/// A client of a Redis that was emptied.
#[derive(Debug)]
pub struct Umbel {
    client: Client,
    concurrency: usize,
}

#[derive(Debug)]
struct Running {
    board: Board,
    stop: CancellationToken,
    ended: JoinHandle<Result<Stopped, WorkerError>>,
}

impl Umbel {
    pub async fn connect(url: String, concurrency: usize) -> anyhow::Result<Self> {
        let client = Client::open(&BrokerSettings::new(url), "bench")?;
        // It connects at its first call, which is not what is measured.
        client.ping().await?;
        Ok(Self { client, concurrency })
    }

    /// Enqueues so many tasks by one call, untracked.
    pub async fn enqueue_bulk<const KEPT: bool>(
        &self,
        tasks: usize,
    ) -> anyhow::Result<(Duration, Vec<TaskHandle<usize>>)> {
        self.enqueue_sized::<KEPT>(tasks, ARGUMENT_BYTES, false).await
    }

    /// As [`enqueue_bulk`](Self::enqueue_bulk), with arguments of so many bytes, or tracked.
    pub async fn enqueue_sized<const KEPT: bool>(
        &self,
        tasks: usize,
        bytes: usize,
        tracked: bool,
    ) -> anyhow::Result<(Duration, Vec<TaskHandle<usize>>)> {
        let new: Vec<NoOp<KEPT>> = (0..tasks).map(|place| NoOp::sized(place, bytes)).collect();
        let began = Instant::now();
        let call = self.client.enqueue_many(new);
        let answers = if tracked { call.tracked() } else { call }.await?;
        let took = began.elapsed();
        let handles = answers.into_iter().collect::<Result<_, _>>()?;
        self.check_queued(tasks).await?;
        Ok((took, handles))
    }

    /// Enqueues very many tasks, and keeps none of them in mind.
    pub async fn enqueue_deep(&self, tasks: usize) -> anyhow::Result<()> {
        for first in (0..tasks).step_by(DEEP_STEP) {
            let some = (first..tasks.min(first + DEEP_STEP)).map(NoOp::<false>::new);
            for answer in self.client.enqueue_many(some).await? {
                answer?;
            }
        }
        self.check_queued(tasks).await
    }

    /// As [`drain`](Self::drain), of what [`enqueue_deep`](Self::enqueue_deep) has enqueued.
    pub async fn drain_deep(&self, tasks: usize) -> anyhow::Result<Duration> {
        let worker = self.worker(tasks)?;
        let starts = worker.board.all(DONE_MAX).await?;
        let first = starts.iter().min().context("there are no tasks")?;
        self.settled().await?;
        let took = first.elapsed();
        worker.stop().await?;
        Ok(took)
    }

    /// Enqueues so many tasks by so many callers at once, each its next when its last is answered.
    pub async fn enqueue_concurrently(
        &self,
        tasks: usize,
        callers: usize,
    ) -> anyhow::Result<Duration> {
        let each = tasks.div_ceil(callers);
        let began = Instant::now();
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let client = self.client.clone();
            calling.spawn(async move {
                for place in caller * each..tasks.min((caller + 1) * each) {
                    client.enqueue(NoOp::<false>::new(place)).untracked().await?;
                }
                Ok::<_, BrokerError>(())
            });
        }
        while let Some(called) = calling.join_next().await {
            called??;
        }
        let took = began.elapsed();
        self.check_queued(tasks).await?;
        Ok(took)
    }

    /// Enqueues so many tasks while a worker runs them: from the first call until all are settled.
    pub async fn cycle(&self, tasks: usize) -> anyhow::Result<Duration> {
        let worker = self.waiting_worker(tasks).await?;
        let new: Vec<NoOp<false>> = (0..tasks).map(NoOp::new).collect();
        let began = Instant::now();
        let answers = self.client.enqueue_many(new).await?;
        worker.board.all(DONE_MAX).await?;
        self.settled().await?;
        let took = began.elapsed();
        for answer in answers {
            answer?;
        }
        worker.stop().await?;
        Ok(took)
    }

    /// Has so many tasks become due, the first in a moment and each so much after the one before;
    /// tells how late each was started. An error where one came early.
    pub async fn delayed(&self, tasks: usize, apart: Duration) -> anyhow::Result<Vec<Duration>> {
        let worker = self.waiting_worker(tasks).await?;
        // Far enough that all are enqueued by then; a due time has whole milliseconds.
        let (origin, now) = (Instant::now(), Utc::now());
        let first = (now + DELAY).duration_trunc(TimeDelta::milliseconds(1))?;
        let due = |place: usize| apart * u32::try_from(place).unwrap_or(u32::MAX);
        let new = (0..tasks).map(|place| {
            let mut new = NewTask::of(&NoOp::<false>::new(place))?;
            new.call.when = Some(When::At(first + due(place)));
            Ok::<_, BrokerError>(new)
        });
        for answer in self.client.submit_many(&new.collect::<Result<Vec<_>, _>>()?).await? {
            answer?;
        }
        ensure!(origin.elapsed() < DELAY, "enqueueing took longer than the tasks were delayed");
        let starts = worker.board.all(DONE_MAX).await?;
        self.settled().await?;
        worker.stop().await?;
        let first = origin + (first - now).to_std()?;
        starts
            .into_iter()
            // Behind them is the one that showed that the worker is there.
            .take(tasks)
            .enumerate()
            .map(|(place, start)| {
                let due = first + due(place);
                ensure!(start + EARLY_MAX >= due, "a task was started {:?} early", due - start);
                Ok(start.saturating_duration_since(due))
            })
            .collect()
    }

    /// Enqueues so many tasks, each when the one before is answered.
    pub async fn enqueue_singly(&self, tasks: usize, tracked: bool) -> anyhow::Result<Duration> {
        let new: Vec<NoOp<false>> = (0..tasks).map(NoOp::new).collect();
        let began = Instant::now();
        for task in new {
            let call = self.client.enqueue(task);
            let call = if tracked { call } else { call.untracked() };
            call.await?;
        }
        let took = began.elapsed();
        self.check_queued(tasks).await?;
        Ok(took)
    }

    /// Has a worker, which starts now, run what was enqueued: from the first start of a task until
    /// all are settled.
    pub async fn drain(
        &self,
        tasks: &[TaskHandle<usize>],
        results: bool,
    ) -> anyhow::Result<Duration> {
        let took = self.drain_deep(tasks.len()).await?;
        let expected = results.then_some(TaskState::Succeeded);
        for task in tasks.iter().step_by(CHECK_EACH) {
            let state = task.record().await?.map(|record| record.state);
            ensure!(state == expected, "{} is {state:?}, not {expected:?}", task.id());
        }
        Ok(took)
    }

    /// Enqueues so many tasks, one each `every`, untracked, while a worker waits for them: from
    /// just before each is enqueued to its start.
    pub async fn hand_overs(&self, tasks: usize, every: Duration) -> anyhow::Result<Vec<Duration>> {
        let worker = self.waiting_worker(tasks).await?;
        let mut sent = Vec::with_capacity(tasks);
        let mut due = interval(every);
        for place in 0..tasks {
            due.tick().await;
            let task = NoOp::<false>::new(place);
            sent.push(Instant::now());
            self.client.enqueue(task).untracked().await?;
        }
        let starts = worker.board.all(DONE_MAX).await?;
        self.settled().await?;
        worker.stop().await?;
        Ok(starts.into_iter().zip(sent).map(|(start, sent)| start - sent).collect())
    }

    /// A worker that waits for so many tasks: it has run one more, which is not counted.
    async fn waiting_worker(&self, tasks: usize) -> anyhow::Result<Running> {
        let worker = self.worker(tasks + 1)?;
        self.client.enqueue(NoOp::<false>::new(tasks)).untracked().await?;
        self.settled().await?;
        Ok(worker)
    }

    fn worker(&self, tasks: usize) -> anyhow::Result<Running> {
        let board = Board::new(tasks);
        let mut settings = WorkerSettings::new("bench", "0000000000000001");
        settings.concurrency = self.concurrency;
        let worker = Worker::new(self.client.separate()?, endpoints(&board)?, settings)?;
        let stop = CancellationToken::new();
        let ended = tokio::spawn(worker.run(stop.clone()));
        Ok(Running { board, stop, ended })
    }

    /// How many tasks wait or run.
    pub async fn left(&self) -> anyhow::Result<u64> {
        let QueueStatus { queued, running, .. } = self.queue().await?;
        Ok(queued + running)
    }

    /// Holds every worker back, or lets all begin.
    pub async fn hold(&self, held: bool) -> anyhow::Result<()> {
        let queue = QUEUE.parse()?;
        if held {
            self.client.pause(&queue, "bench", "until all workers are here", Utc::now()).await?;
        } else {
            self.client.resume(&queue).await?;
        }
        Ok(())
    }

    async fn check_queued(&self, tasks: usize) -> anyhow::Result<()> {
        let QueueStatus { queued, .. } = self.queue().await?;
        ensure!(queued == tasks as u64, "{queued} of {tasks} tasks were enqueued");
        Ok(())
    }

    /// Waits until every task has ended well.
    async fn settled(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let QueueStatus { queued, running, delayed, dead, .. } = self.queue().await?;
            ensure!(delayed + dead == 0, "a task failed that does nothing");
            if queued + running == 0 {
                return Ok(());
            }
            ensure!(began.elapsed() < DONE_MAX, "{running} tasks were not settled in {DONE_MAX:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    async fn queue(&self) -> anyhow::Result<QueueStatus> {
        let queues = self.client.queues().await?;
        queues.into_iter().find(|queue| queue.name.as_str() == QUEUE).context("there is no queue")
    }
}

impl Running {
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let Stopped { given_back, unsettled } = self.ended.await??;
        ensure!(given_back + unsettled == 0, "the worker left tasks behind");
        let repeated = self.board.repeated();
        ensure!(repeated == 0, "{repeated} tasks were started twice");
        Ok(())
    }
}
