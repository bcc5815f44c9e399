//! What the broker counts. Nothing is counted until [`switch_on`]: a look at one flag is all that it
//! costs then.
//!
//! Series are made once and held on to; the names of tasks and queues make at most [`SERIES_MOST`] of
//! them, whatever callers send.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use umbel_proto::{QueueName, TaskName};

use crate::BrokerError;

static ON: AtomicBool = AtomicBool::new(false);

/// Begins to count. The recorder of the process must be there by now: series that were made before
/// it stay without effect.
pub fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// How many pairs of task and queue have series of their own in one process: ten times what large
/// applications register, and with their buckets some megabytes.
pub const SERIES_MOST: usize = 300;

/// What all further pairs are counted under.
pub const OTHER: &str = "other";

/// Series by task and queue.
pub struct Series<T> {
    make: fn(task: &str, queue: &str) -> T,
    known: Mutex<Known<T>>,
}

struct Known<T> {
    pairs: HashMap<TaskName, HashMap<QueueName, Arc<T>>>,
    count: usize,
    other: Option<Arc<T>>,
}

impl<T> Series<T> {
    pub fn new(make: fn(task: &str, queue: &str) -> T) -> Self {
        let known = Known { pairs: HashMap::new(), count: 0, other: None };
        Self { make, known: Mutex::new(known) }
    }

    /// The series of a pair, or those of all others once there are too many.
    pub fn of(&self, task: &TaskName, queue: &QueueName) -> Arc<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.pairs.get(task).and_then(|queues| queues.get(queue)) {
            return series.clone();
        }
        if known.count >= SERIES_MOST {
            return self.other_of(&mut known);
        }
        known.count += 1;
        let series = Arc::new((self.make)(task.as_str(), queue.as_str()));
        known.pairs.entry(task.clone()).or_default().insert(queue.clone(), series.clone());
        series
    }

    /// The series of what is not named here.
    pub fn other(&self) -> Arc<T> {
        self.other_of(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn other_of(&self, known: &mut Known<T>) -> Arc<T> {
        known.other.get_or_insert_with(|| Arc::new((self.make)(OTHER, OTHER))).clone()
    }
}

impl<T> fmt::Debug for Series<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Series")
    }
}

/// Tasks that were put into Redis, by whoever this process is.
pub const ENQUEUED: &str = "umbel_tasks_enqueued_total";

/// How long Redis took to answer the commands of the shared connection.
pub const CALL_SECONDS: &str = "umbel_redis_call_seconds";

/// Commands that wait for their answer.
pub const CALLS_IN_FLIGHT: &str = "umbel_redis_calls_in_flight";

/// Commands that failed.
pub const ERRORS: &str = "umbel_redis_errors_total";

/// How many ended runs one call settled.
pub const SETTLE_BATCH: &str = "umbel_settle_batch_tasks";

/// Ends that were refused, since the task was another worker's by then.
pub const SETTLES_REFUSED: &str = "umbel_settles_refused_total";

static ENQUEUED_OF: LazyLock<Series<Counter>> = LazyLock::new(|| {
    Series::new(
        |task, queue| counter!(ENQUEUED, "task" => task.to_owned(), "queue" => queue.to_owned()),
    )
});

static CALLS: LazyLock<(Histogram, Gauge)> =
    LazyLock::new(|| (histogram!(CALL_SECONDS), gauge!(CALLS_IN_FLIGHT)));

static SETTLES: LazyLock<(Histogram, Counter)> =
    LazyLock::new(|| (histogram!(SETTLE_BATCH), counter!(SETTLES_REFUSED)));

pub(crate) fn enqueued(task: &TaskName, queue: &QueueName) {
    if is_on() {
        ENQUEUED_OF.of(task, queue).increment(1);
    }
}

pub(crate) fn settled(tasks: usize, refused: usize) {
    if is_on() {
        SETTLES.0.record(tasks as f64);
        SETTLES.1.increment(refused as u64);
    }
}

/// A call that is under way.
pub(crate) struct Call(Option<Instant>);

impl Call {
    pub fn begin() -> Self {
        Self(is_on().then(|| {
            CALLS.1.increment(1.0);
            Instant::now()
        }))
    }

    pub fn failed(&self, error: &BrokerError) {
        if self.0.is_some() {
            counter!(ERRORS, "kind" => error.kind()).increment(1);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(began) = self.0 {
            CALLS.1.decrement(1.0);
            CALLS.0.record(began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_names_make_a_bounded_number_of_series() {
        let series = Series::new(|task, queue| format!("{task} {queue}"));
        let queue: QueueName = "default".parse().unwrap();
        let made = (0..10_000).map(|n| {
            let task = format!("task.n{n}").parse().unwrap();
            (*series.of(&task, &queue)).clone()
        });
        let made: Vec<String> = made.collect();
        let distinct: std::collections::HashSet<_> = made.iter().collect();
        assert_eq!(distinct.len(), SERIES_MOST + 1);
        assert_eq!(made[9_999], "other other");
        assert_eq!(made[7], "task.n7 default");
        let again = series.of(&"task.n7".parse().unwrap(), &queue);
        assert_eq!(*again, "task.n7 default", "who has its own keeps it");
    }
}
