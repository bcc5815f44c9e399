//! The same protocol where the list of the worker has `info` and where it has not: settles are
//! fenced by the server's run_id, or else by the ids of tasks.

use std::time::Duration;

use chrono::Utc;
use umbel_broker::{
    Delivery, Held, Settlement, Settler, Verdict,
    keys::{self, Stream},
    liveness::{Beats, Cause, Heartbeat},
};
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::{House, terms},
    probe::{Act, Probe, shard},
    services::RedisServer,
};

const LONG: Duration = Duration::from_secs(20);

/// How late settles are told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fence {
    RunId,
    TaskId,
}

impl Fence {
    async fn house(self) -> House {
        let house = House::on(RedisServer::start_restricted());
        if self == Self::TaskId {
            house.redis.cli(&["ACL", "SETUSER", "worker", "-info"]);
            house.redis.cli(&["ACL", "SAVE"]);
        }
        let beat = house.client.heartbeat("first", "{}").await.unwrap();
        let Heartbeat::Alive(Beats { server, .. }) = beat else { panic!("{beat:?}") };
        assert_eq!(server.is_empty(), self == Self::TaskId, "{self:?}: `{server}`");
        house
    }

    /// Nothing but `info` may have been denied.
    fn check(self, house: &House) {
        let denied = house.redis.denied();
        match self {
            Self::RunId => assert_eq!(denied, [] as [&str; 0]),
            Self::TaskId => {
                assert!(denied.iter().all(|line| line == "worker command info"), "{denied:?}");
            }
        }
    }
}

/// Settles as a worker `w` that is late; how many settles were refused.
async fn settle_late(house: &House, held: &Held, delivery: Delivery) -> u64 {
    let (settler, settling) = Settler::start(house.client.clone(), "w".to_owned(), held.clone());
    let verdict = Verdict::Complete { output: vec![0x2a] };
    settler.settle(Settlement { delivery, verdict, terms: terms() }).await;
    let counts = settler.clone();
    drop(settler);
    eventually_eq("it is answered", 0, async || held.len()).await;
    let stale = counts.stale();
    drop(counts);
    settling.await.unwrap();
    stale
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_their_whole_way_under_both() {
    for fence in [Fence::RunId, Fence::TaskId] {
        let house = fence.house().await;
        let worker = house.worker(4);
        let mut handles = Vec::new();
        for (n, act) in [Act::Ok, Act::FailFirst(2), Act::Snooze(5)].into_iter().enumerate() {
            let probe = house.client.enqueue(Probe::new(&format!("n{n}"), act));
            handles.push(probe.delay(Duration::from_millis(n as u64)).await.unwrap());
        }
        for (handle, attempt) in handles.iter().zip([1, 3, 1]) {
            assert_eq!(handle.wait(LONG).await.unwrap(), attempt, "{fence:?}");
        }
        let fatal = house.client.enqueue(Probe::new("fatal", Act::Fatal("no".into())));
        assert_eq!(house.ended(fatal.await.unwrap().id()).await.state, TaskState::Failed);
        // What runs while Redis is started anew is settled there, once.
        let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
        eventually("it runs", async || {
            house.record.order().contains(&"held".to_owned()).then_some(())
        })
        .await;
        fence.check(&house);
        house.redis.kill9();
        house.redis.restart();
        house.record.open("held");
        assert_eq!(held.wait(LONG).await.unwrap(), 1, "{fence:?}");
        assert_eq!(house.record.attempts_of("held"), [1], "{fence:?}");
        let stopped = worker.stop().await.unwrap();
        assert_eq!((stopped.given_back, stopped.unsettled), (0, 0), "{fence:?}");
        let queue = house.queue().await;
        assert_eq!((queue.queued, queue.running, queue.delayed), (0, 0, 0), "{fence:?}");
        fence.check(&house);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_held_is_run_by_another_and_its_late_settle_refused_under_both() {
    for fence in [Fence::RunId, Fence::TaskId] {
        let house = fence.house().await;
        let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
        let held = Held::default();
        let [taken] =
            <[_; 1]>::try_from(house.consumer("w", &held).fetch(1).await.unwrap()).unwrap();
        assert!(house.client.declare_dead("w", "", &Cause::Silent, Utc::now()).await.unwrap());
        house.client.recover_all(&shard(), "w", true).await.unwrap();
        assert_eq!(settle_late(&house, &held, taken).await, 1, "{fence:?}");
        assert_eq!(handle.record().await.unwrap().unwrap().state, TaskState::Queued, "{fence:?}");
        let worker = house.worker(1);
        assert_eq!(handle.wait(LONG).await.unwrap(), 1, "{fence:?}");
        worker.stop().await.unwrap();
        fence.check(&house);
    }
}

/// After a flush an entry's id can come again, for another task, under the same run_id.
#[tokio::test(flavor = "multi_thread")]
async fn a_settle_from_before_a_flush_ends_no_other_task_under_both() {
    for fence in [Fence::RunId, Fence::TaskId] {
        let house = fence.house().await;
        let key = shard().ready(Stream::Normal);
        house.client.enqueue(Probe::new("old", Act::Ok)).await.unwrap();
        let held = Held::default();
        let [old] = <[_; 1]>::try_from(house.consumer("w", &held).fetch(1).await.unwrap()).unwrap();
        house.redis.cli(&["FLUSHALL"]);
        let other = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
        house.redis.cli(&["XADD", &key, old.entry(), "id", other, "task", "probe"]);
        let again = house.consumer("w", &Held::default()).fetch(1).await.unwrap();
        assert_eq!(again[0].entry(), old.entry(), "the same entry is pending for the same worker");
        settle_late(&house, &held, old).await;
        assert!(house.redis.cli(&["XRANGE", &key, "-", "+"]).contains(other), "{fence:?}");
        let pending = house.redis.cli(&["XPENDING", &key, keys::GROUP]);
        assert!(pending.starts_with('1'), "{fence:?}: {pending}");
        fence.check(&house);
    }
}
