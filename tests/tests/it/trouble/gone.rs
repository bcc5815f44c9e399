//! What Redis held is gone, while it runs: by FLUSHALL, DEL, XGROUP DESTROY, SCRIPT FLUSH.

use std::time::{Duration, Instant};

use umbel_broker::BrokerError;
use umbel_proto::{Priority::High, TaskState};
use umbel_tests::{
    eventually::{eventually, within},
    house::House,
    probe::{Act, Probe},
};

use super::{AtWork, LONG};

const STREAM: &str = "umbel:{default}:ready:normal";

/// A worker that reads notices at once and makes the groups again; a busy machine takes a little
/// longer.
const BACK: Duration = Duration::from_secs(5);

/// Destroys it, and waits until all four groups are there again.
async fn groups_come_back(at_work: &AtWork, destroy: &[&str]) {
    let groups = || {
        let streams = ["recovered", "high", "normal", "low"];
        streams.iter().all(|stream| {
            let key = format!("umbel:{{default}}:ready:{stream}");
            at_work.redis().cli(&["XINFO", "GROUPS", &key]).contains("workers")
        })
    };
    assert!(groups());
    // A blocked read is what is told at once; without one, the next read is.
    eventually("the worker reads", async || {
        let clients = at_work.redis().cli(&["CLIENT", "LIST"]);
        let reads = |line: &str| line.contains(" flags=b ") && line.contains(" cmd=xreadgroup ");
        clients.lines().any(reads).then_some(())
    })
    .await;
    at_work.redis().cli(destroy);
    let began = Instant::now();
    within(BACK, "the groups are back", async || groups().then_some(())).await;
    println!("{destroy:?}: the groups are back after {:.2?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_what_is_enqueued_runs_and_what_ran_writes_nothing() {
    let at_work = AtWork::start().await;
    groups_come_back(&at_work, &["FLUSHALL"]).await;
    at_work.house.record.open("held");
    at_work.works("FLUSHALL").await;
    assert_eq!(at_work.held.record().await.unwrap(), None, "its end is not that of another task");
    eventually("the worker shows itself again", async || {
        let workers = at_work.house.client.workers().await.unwrap();
        workers.contains_key(&at_work.worker.id).then_some(())
    })
    .await;
    assert_eq!(at_work.house.record.attempts_of("held"), [1]);
    at_work.leaves_nothing("FLUSHALL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_stream_was_deleted_the_others_are_as_they_were() {
    let at_work = AtWork::start().await;
    // It is the stream of those that come due, too: they must have gone through it, or not come.
    at_work.due_ones_end("before DEL").await;
    let other = at_work.house.client.enqueue(Probe::new("other", Act::Hold)).priority(High);
    let other = other.await.unwrap();
    groups_come_back(&at_work, &["DEL", STREAM]).await;
    at_work.house.record.open("other");
    assert_eq!(other.wait(LONG).await.unwrap(), 1);
    at_work.house.record.open("held");
    at_work.works("DEL").await;
    assert!(!at_work.held_is(TaskState::Succeeded).await, "its entry is gone, and its end with it");
    at_work.leaves_nothing("DEL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_group_was_destroyed_all_that_had_not_ended_is_run_again_and_ends_once() {
    let at_work = AtWork::start().await;
    // One that just runs would run again.
    at_work.due_ones_end("before XGROUP DESTROY").await;
    groups_come_back(&at_work, &["XGROUP", "DESTROY", STREAM, "workers"]).await;
    // The new group begins at the start of the stream: nobody knows any more who runs what.
    eventually("it runs again", async || {
        (at_work.house.record.attempts_of("held") == [1, 1]).then_some(())
    })
    .await;
    at_work.house.record.open("held");
    assert_eq!(at_work.held.wait(LONG).await.unwrap(), 1);
    let ended = at_work.held.record().await.unwrap();
    at_work.house.record.open("held");
    at_work.works("XGROUP DESTROY").await;
    assert_eq!(at_work.held.record().await.unwrap(), ended, "the second end wrote nothing");
    at_work.leaves_nothing("XGROUP DESTROY").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_are_forgotten_are_loaded_again_in_the_midst_of_work() {
    const COUNT: usize = 60;
    let house = House::start();
    let worker = house.worker(4);
    let mut handles = Vec::new();
    for n in 0..COUNT {
        let name = format!("n{n}");
        house.redis.cli(&["SCRIPT", "FLUSH"]);
        let handle = eventually("it is accepted", async || {
            match house.client.enqueue(Probe::new(&name, Act::FailFirst(1))).await {
                Ok(handle) => Some(handle),
                // Flushed by the next one between its loading and its run.
                Err(error) => {
                    assert!(matches!(error, BrokerError::Refused(_)), "{error:?}");
                    None
                }
            }
        })
        .await;
        handles.push(handle);
    }
    for handle in handles {
        assert_eq!(handle.wait(LONG).await.unwrap(), 2);
    }
    assert_eq!(house.record.order().len(), 2 * COUNT, "each attempt ran once");
    worker.stop().await.unwrap();
}
