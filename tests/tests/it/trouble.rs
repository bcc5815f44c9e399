//! Redis in trouble: each kind is made real, is told to callers for what it is, and passes by the
//! worker, which goes on by itself and loses nothing that was accepted.

mod gone;
mod mistyped;
mod refused;
mod silent;
mod unsuitable;

use std::time::{Duration, Instant};

use umbel_broker::TaskHandle;
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::{House, Running},
    probe::{Act, Probe},
    process::send,
    services::RedisServer,
};

/// More than anything here takes; who waits longer waits for ever.
const LONG: Duration = Duration::from_secs(30);

/// How many tasks come due while there is trouble.
const DUE: usize = 20;

/// A house with a worker that runs one task, which waits at its gate, and has room for more; others
/// are accepted and come due soon.
struct AtWork {
    house: House,
    worker: Running,
    held: TaskHandle<u32>,
    due: Vec<TaskHandle<u32>>,
}

impl AtWork {
    async fn start() -> Self {
        Self::on(House::start()).await
    }

    async fn on(house: House) -> Self {
        let worker = house.worker(3);
        let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
        eventually("it runs", async || (house.record.order() == ["held"]).then_some(())).await;
        let mut due = Vec::new();
        for n in 0..DUE {
            let task = house.client.enqueue(Probe::new(&format!("due-{n}"), Act::Ok));
            due.push(task.delay(Duration::from_secs(1)).await.unwrap());
        }
        Self { house, worker, held, due }
    }

    fn redis(&self) -> &RedisServer {
        &self.house.redis
    }

    async fn held_is(&self, state: TaskState) -> bool {
        self.held.record().await.unwrap().unwrap().state == state
    }

    /// Tasks that are enqueued now run, and are tried again, by the same worker as ever.
    async fn works(&self, what: &str) {
        let began = Instant::now();
        for (name, act, attempt) in [("next", Act::Ok, 1), ("again", Act::FailFirst(1), 2)] {
            let task = self.house.client.enqueue(Probe::new(name, act)).await.unwrap();
            assert_eq!(task.wait(LONG).await.unwrap(), attempt, "{what}: {name}");
            println!("{what}: `{name}` succeeded after {:.1?}", began.elapsed());
            let record = task.record().await.unwrap().unwrap();
            assert_eq!(record.worker.as_ref(), Some(&self.worker.id), "{what}: {name}");
        }
    }

    /// What was accepted before the trouble is run, once.
    async fn due_ones_end(&self, what: &str) {
        for (n, task) in self.due.iter().enumerate() {
            assert_eq!(task.wait(LONG).await.unwrap(), 1, "{what}");
            assert_eq!(self.house.record.attempts_of(&format!("due-{n}")), [1], "{what}");
        }
    }

    /// The trouble is over: what ran meanwhile is settled as the run that it was, what comes runs,
    /// all by the same worker, and nothing is left.
    async fn goes_on(self, what: &str) {
        let over = Instant::now();
        assert_eq!(self.held.wait(LONG).await.unwrap(), 1, "{what}");
        println!("{what}: what ran was settled after {:.1?}", over.elapsed());
        self.due_ones_end(what).await;
        self.works(what).await;
        assert_eq!(self.house.record.attempts_of("held"), [1], "{what}: it ran once");
        self.leaves_nothing(what).await;
    }

    async fn leaves_nothing(self, what: &str) {
        let stopped = self.worker.stop().await.unwrap();
        assert_eq!((stopped.given_back, stopped.unsettled), (0, 0), "{what}");
        eventually_eq(&format!("nothing is left after {what}"), (0, 0, 0, 0), async || {
            let queue = self.house.queue().await;
            (queue.queued, queue.running, queue.delayed, queue.dead)
        })
        .await;
    }
}
