//! What a worker counts of its runs, by task and queue.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use nix::time::{ClockId, clock_gettime};
use umbel_broker::{
    Delivery, Verdict,
    meters::{OTHER, Series, is_on},
};
use umbel_proto::{Outcome, QueueName, TaskName, TaskState};

/// Runs that began.
const STARTED: &str = "umbel_task_runs_started_total";

/// Runs by what became of their task.
const ENDED: &str = "umbel_task_runs_ended_total";

/// Runs that did not succeed, by what went wrong.
const FAILED: &str = "umbel_task_failures_total";

/// How long runs took.
const SECONDS: &str = "umbel_task_run_seconds";

/// How long a task waited in its queue before it was started.
const WAIT: &str = "umbel_task_wait_seconds";

/// What runs used of the processor.
const CPU: &str = "umbel_task_cpu_seconds";

/// What tasks have fetched over the network.
const FETCHED: &str = "umbel_task_fetched_bytes_total";

/// The largest single thing that was fetched.
const LARGEST: &str = "umbel_task_fetched_largest_bytes";

/// Tasks in the hands of this process.
const IN_FLIGHT: &str = "umbel_tasks_in_flight";

const VERDICTS: [&str; 8] =
    ["succeeded", "retried", "snoozed", "parked", "failed", "cancelled", "expired", "released"];

/// The series of all tasks of a worker; `None` where nothing is counted.
#[derive(Debug, Clone)]
pub(crate) struct Meters(Option<Arc<All>>);

#[derive(Debug)]
struct All {
    series: Series<Meter>,
    in_flight: Gauge,
}

/// The series of one task in one queue.
pub(crate) struct Meter {
    task: String,
    started: Counter,
    ended: [Counter; VERDICTS.len()],
    seconds: Histogram,
    wait: Histogram,
    cpu: Histogram,
    fetched: Counter,
    largest: Gauge,
    largest_yet: AtomicU64,
}

impl Meter {
    fn new(task: &str, queue: &str) -> Self {
        let both = || [("task", task.to_owned()), ("queue", queue.to_owned())];
        let one = || [("task", task.to_owned())];
        Self {
            task: task.to_owned(),
            started: counter!(STARTED, &both()),
            ended: VERDICTS.map(|outcome| {
                let [task, queue] = both();
                counter!(ENDED, &[task, queue, ("outcome", outcome.to_owned())])
            }),
            seconds: histogram!(SECONDS, &both()),
            wait: histogram!(WAIT, &both()),
            cpu: histogram!(CPU, &one()),
            fetched: counter!(FETCHED, &one()),
            largest: gauge!(LARGEST, &one()),
            largest_yet: AtomicU64::new(0),
        }
    }

    fn fetched(&self, bytes: u64) {
        self.fetched.increment(bytes);
        if bytes > self.largest_yet.fetch_max(bytes, Ordering::Relaxed) {
            self.largest.set(bytes as f64);
        }
    }
}

impl Meters {
    pub fn new() -> Self {
        let all = || All { series: Series::new(Meter::new), in_flight: gauge!(IN_FLIGHT) };
        Self(is_on().then(|| Arc::new(all())))
    }

    /// Counts an entry that is no task.
    pub fn unreadable(&self) {
        if self.0.is_some() {
            counter!(FAILED, "task" => OTHER, "kind" => "unreadable").increment(1);
        }
    }

    /// Counts a run from now on. A name that nobody here registered is no label.
    pub fn begin(
        &self,
        task: &TaskName,
        queue: &QueueName,
        is_known: bool,
        wait: Duration,
    ) -> Metered {
        let Some(all) = &self.0 else { return Metered(None) };
        let meter = if is_known { all.series.of(task, queue) } else { all.series.other() };
        meter.started.increment(1);
        meter.wait.record(wait);
        all.in_flight.increment(1.0);
        Metered(Some(Begun { all: all.clone(), meter }))
    }
}

/// A run that is counted.
pub(crate) struct Metered(Option<Begun>);

struct Begun {
    all: Arc<All>,
    meter: Arc<Meter>,
}

impl Metered {
    /// Counts what a handler uses while it runs.
    pub async fn handler<T>(&self, run: impl Future<Output = T> + Unpin) -> T {
        match &self.0 {
            Some(Begun { meter, .. }) => {
                Counted { run, meter: meter.clone(), cpu: Duration::ZERO }.await
            }
            None => run.await,
        }
    }

    /// Says how long the handler took and how it ended.
    pub fn ran(&self, took: Duration, outcome: &Outcome) {
        let Some(Begun { meter, .. }) = &self.0 else { return };
        meter.seconds.record(took);
        if let Some(kind) = kind(outcome) {
            counter!(FAILED, "task" => meter.task.clone(), "kind" => kind).increment(1);
        }
    }

    /// Says what became of the task.
    pub fn ended(&self, verdict: &Verdict) {
        if let Some(Begun { meter, .. }) = &self.0 {
            meter.ended[place(verdict)].increment(1);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.all.in_flight.decrement(1.0);
    }
}

/// How long an entry has waited in its stream, which tells by Redis' clock when it came there.
pub(crate) fn queued_since(delivery: &Delivery) -> Option<SystemTime> {
    let (ms, _) = delivery.entry().split_once('-')?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms.parse().ok()?))
}

/// What a run failed by; `None`: it did not fail.
pub(crate) fn kind(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Failed { .. } => Some("error"),
        Outcome::Fatal { .. } => Some("fatal"),
        Outcome::Panicked { .. } => Some("panic"),
        Outcome::TimedOut { .. } => Some("time_limit"),
        Outcome::Undecodable { .. } => Some("args"),
        Outcome::Unreadable { .. } => Some("unreadable"),
        Outcome::Unknown { .. } => Some("unknown"),
        Outcome::CrashLimit { .. } => Some("crash"),
        Outcome::Succeeded { .. }
        | Outcome::Snoozed { .. }
        | Outcome::Drained
        | Outcome::Cancelled { .. }
        | Outcome::Expired => None,
    }
}

fn place(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Complete { .. } => 0,
        Verdict::Retry { .. } => 1,
        Verdict::Defer { .. } => 2,
        Verdict::Park { .. } => 3,
        Verdict::Bury { .. } => 4,
        Verdict::Discard { state: TaskState::Expired, .. } => 6,
        Verdict::Discard { .. } => 5,
        Verdict::Release => 7,
    }
}

thread_local! {
    /// Whose run this thread is in.
    static RUNNING: RefCell<Option<Arc<Meter>>> = const { RefCell::new(None) };
}

/// Counts bytes that the running task has fetched over the network, for the metrics. Outside of a run
/// it does nothing; so in a thread or task that a handler has started by itself.
pub fn fetched(bytes: u64) {
    RUNNING.with_borrow(|running| {
        if let Some(meter) = running {
            meter.fetched(bytes);
        }
    });
}

/// A run whose use of the processor is added up poll by poll, by the clock of its thread.
struct Counted<F> {
    run: F,
    meter: Arc<Meter>,
    cpu: Duration,
}

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let began = thread_cpu();
        // Put back also when the handler panics.
        let _within = Within(RUNNING.replace(Some(this.meter.clone())));
        let polled = Pin::new(&mut this.run).poll(cx);
        this.cpu += thread_cpu().saturating_sub(began);
        polled
    }
}

impl<F> Drop for Counted<F> {
    fn drop(&mut self) {
        // However it ended: a run that is cut off has used the processor as well.
        self.meter.cpu.record(self.cpu);
    }
}

struct Within(Option<Arc<Meter>>);

impl Drop for Within {
    fn drop(&mut self) {
        RUNNING.set(self.0.take());
    }
}

/// What this thread has used of the processor so far.
fn thread_cpu() -> Duration {
    // It fails on no system that has the clock; then nothing is added.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_processor_is_counted_while_a_run_works_and_not_while_it_waits() {
        let meter = Arc::new(Meter::new("t", "q"));
        let busy = async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let until = thread_cpu() + Duration::from_millis(20);
            while thread_cpu() < until {
                std::hint::spin_loop();
            }
            fetched(7);
            fetched(9);
            tokio::time::sleep(Duration::from_millis(40)).await;
            fetched(3);
        };
        let mut counted =
            Counted { run: Box::pin(busy), meter: meter.clone(), cpu: Duration::ZERO };
        std::future::poll_fn(|cx| Pin::new(&mut counted).poll(cx)).await;
        let used = counted.cpu;
        assert!((20..60).contains(&used.as_millis()), "{used:?}");
        assert_eq!(meter.largest_yet.load(Ordering::Relaxed), 9);
        fetched(100);
        assert_eq!(meter.largest_yet.load(Ordering::Relaxed), 9, "outside of a run it is nobody's");
    }
}
