//! Notices a runtime that does not turn any more: tasks that never give their thread back block
//! all of it, and a worker that beats on but runs nothing would keep what it holds for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the runtime shows that it turns.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// What one look may count: longer, and the whole process was stopped, not its runtime.
const LOOK_LONGEST: Duration = Duration::from_secs(10);

/// Counts the turns of the runtime that it runs on, until `stop`.
pub(crate) async fn turn(turns: Arc<AtomicU64>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(TURN_EVERY)).await.is_some() {
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// The longest time limit of the tasks that a worker has run: a runtime that is blocked for less
/// may only be at work.
#[derive(Debug, Clone, Default)]
pub(crate) struct Longest(Arc<AtomicU64>);

impl Longest {
    pub fn note(&self, limit: Duration) {
        let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_max(ms, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Watches a runtime from a thread outside of it.
#[derive(Debug)]
pub(crate) struct HangWatch {
    turns: Arc<AtomicU64>,
    seen: u64,
    still: Duration,
    limit: Duration,
    longest: Longest,
}

impl HangWatch {
    pub fn new(turns: Arc<AtomicU64>, limit: Duration, longest: Longest) -> Self {
        Self { turns, seen: 0, still: Duration::ZERO, limit, longest }
    }

    /// A look, `passed` after the one before. For how long nothing has turned, where that is too
    /// long.
    pub fn look(&mut self, passed: Duration) -> Option<Duration> {
        let turns = self.turns.load(Ordering::Relaxed);
        if turns != self.seen {
            self.seen = turns;
            self.still = Duration::ZERO;
            return None;
        }
        self.still += passed.min(LOOK_LONGEST);
        (self.still > self.limit.max(self.longest.get())).then_some(self.still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const BEAT: Duration = Duration::from_secs(3);

    fn watch() -> (Arc<AtomicU64>, Longest, HangWatch) {
        let (turns, longest) = (Arc::new(AtomicU64::new(7)), Longest::default());
        let mut watch = HangWatch::new(turns.clone(), LIMIT, longest.clone());
        assert_eq!(watch.look(BEAT), None);
        (turns, longest, watch)
    }

    #[test]
    fn a_runtime_that_stands_still_longer_than_the_limit_hangs() {
        let (_, _, mut watch) = watch();
        for _ in 0..10 {
            assert_eq!(watch.look(BEAT), None);
        }
        assert_eq!(watch.look(BEAT), Some(Duration::from_secs(33)));
    }

    #[test]
    fn one_turn_begins_the_count_again() {
        let (turns, _, mut watch) = watch();
        for n in 0..100 {
            if n % 10 == 0 {
                turns.fetch_add(1, Ordering::Relaxed);
            }
            assert_eq!(watch.look(BEAT), None);
        }
    }

    #[test]
    fn a_task_that_may_run_longer_than_the_limit_is_given_its_time() {
        let (_, longest, mut watch) = watch();
        longest.note(Duration::from_secs(60));
        longest.note(Duration::from_secs(5));
        for _ in 0..20 {
            assert_eq!(watch.look(BEAT), None);
        }
        assert!(watch.look(BEAT).is_some());
    }

    #[test]
    fn a_process_that_was_stopped_as_a_whole_does_not_hang() {
        let (_, _, mut watch) = watch();
        assert_eq!(watch.look(Duration::from_secs(3600)), None);
    }
}
