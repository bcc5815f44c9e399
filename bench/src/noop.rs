//! The task that does nothing but tell that it was started.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::timeout};
use umbel_proto::{Task, TaskOptions};
use umbel_worker::{Context, Endpoints, Handler, Registry, RegistryError, TaskError, TaskResult};

/// The queue of every task here.
pub const QUEUE: &str = "bench";

/// The size of the one argument.
pub const ARGUMENT_BYTES: usize = 100;

/// Where a place is read from, however long the argument: its end.
const PLACE_DIGITS: usize = 19;

/// A no-op with a 100-byte argument. Its result is kept where `KEPT`; if not, nothing is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct NoOp<const KEPT: bool> {
    /// Its place among the tasks of a run, with leading zeros.
    text: String,
}

impl<const KEPT: bool> NoOp<KEPT> {
    pub fn new(place: usize) -> Self {
        Self::sized(place, ARGUMENT_BYTES)
    }

    /// With an argument of so many bytes.
    pub fn sized(place: usize, bytes: usize) -> Self {
        // A width of the formatter ends at 65,535.
        let digits = format!("{place:0PLACE_DIGITS$}");
        Self { text: "0".repeat(bytes.saturating_sub(digits.len())) + &digits }
    }
}

impl<const KEPT: bool> Task for NoOp<KEPT> {
    const NAME: &'static str = if KEPT { "bench.kept" } else { "bench.noop" };
    const OPTIONS: TaskOptions = {
        let options = TaskOptions::DEFAULT.queue(QUEUE);
        if KEPT { options } else { options.result_ttl(Duration::ZERO) }
    };
    /// Its place.
    type Output = usize;
}

impl<const KEPT: bool> Handler<Board> for NoOp<KEPT> {
    async fn run(self, ctx: &Context<Board>) -> TaskResult<usize> {
        let digits = self.text.len().saturating_sub(PLACE_DIGITS);
        let place = self.text[digits..].parse()?;
        ctx.app().start(place).ok_or_else(|| TaskError::fatal("there is no such place"))?;
        Ok(place)
    }
}

/// Both kinds of no-op.
pub fn registry() -> Result<Registry<Board>, RegistryError> {
    Registry::builder().register::<NoOp<false>>().register::<NoOp<true>>().build()
}

/// The same, with where they tell of themselves.
pub fn endpoints(board: &Board) -> Result<Endpoints, RegistryError> {
    Ok(registry()?.bind(board.clone()))
}

/// When each task of a run was started.
#[derive(Debug, Clone)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// Nanoseconds after the origin; zero where it was not started yet.
    starts: Vec<AtomicU64>,
    left: AtomicUsize,
    repeated: AtomicUsize,
    all: Notify,
}

impl Board {
    /// For this many tasks, one at least.
    pub fn new(tasks: usize) -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            starts: (0..tasks).map(|_| AtomicU64::new(0)).collect(),
            left: AtomicUsize::new(tasks),
            repeated: AtomicUsize::new(0),
            all: Notify::new(),
        }))
    }

    /// `None` where there is no such place.
    fn start(&self, place: usize) -> Option<()> {
        let start = self.0.starts.get(place)?;
        let now = (self.0.origin.elapsed().as_nanos() as u64).max(1);
        if start.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.0.repeated.fetch_add(1, Ordering::Relaxed);
        } else if self.0.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all.notify_one();
        }
        Some(())
    }

    /// Waits, once, until every task was started, and tells when each was, by place.
    pub async fn all(&self, longest: Duration) -> anyhow::Result<Vec<Instant>> {
        let ended = timeout(longest, self.0.all.notified()).await;
        let left = self.0.left.load(Ordering::Acquire);
        ensure!(ended.is_ok(), "{left} tasks were not started within {longest:?}");
        let starts = self.0.starts.iter().map(|start| start.load(Ordering::Relaxed));
        Ok(starts.map(|nanos| self.0.origin + Duration::from_nanos(nanos)).collect())
    }

    /// How many starts were of a task that had been started before.
    pub fn repeated(&self) -> usize {
        self.0.repeated.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_has_its_size_and_tells_its_place() {
        let task = NoOp::<true>::new(1_234);
        assert_eq!(task.text.len(), ARGUMENT_BYTES);
        assert_eq!(task.text.parse(), Ok(1_234));
    }

    #[tokio::test]
    async fn a_task_that_was_not_started_and_one_that_was_twice_are_noticed() {
        let board = Board::new(2);
        assert_eq!(board.start(2), None);
        assert_eq!((board.start(0), board.start(0)), (Some(()), Some(())));
        assert_eq!(board.repeated(), 1);
        let error = board.all(Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.starts_with("1 tasks were not started"), "{error}");
        board.start(1).unwrap();
        assert_eq!(board.all(Duration::from_secs(30)).await.unwrap().len(), 2);
    }
}
