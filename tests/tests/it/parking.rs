//! What no worker here can run is kept for one that can, and not for ever.

use std::time::Duration;

use chrono::Utc;
use umbel_broker::{NewTask, Submitted, TaskHandle};
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::eventually_eq,
    house::House,
    probe::{Act, LATER, Probe, shard},
};

const LONG: Duration = Duration::from_secs(20);

/// A task whose name only workers of the next release know.
async fn enqueue_later(house: &House, name: &str) -> Submitted {
    let mut new = NewTask::of(&Probe::new(name, Act::Ok)).unwrap();
    new.task = LATER.parse().unwrap();
    new.call.tracked = true;
    house.client.submit(new).await.unwrap()
}

async fn parked(house: &House) -> u64 {
    house.queue().await.parked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_unknown_name_is_parked_until_a_worker_knows_it() {
    let house = House::start();
    let submitted = enqueue_later(&house, "a").await;
    let old = house.worker(1);
    eventually_eq("it is parked", 1, async || parked(&house).await).await;
    let record = house.client.task(&submitted.id).await.unwrap().unwrap();
    assert_eq!((record.state, record.attempt), (TaskState::Parked, 1));
    let shown = house.redis.cli(&["ZRANGE", "umbel:{default}:parked", "0", "-1"]);
    assert!(shown.contains(LATER), "{shown}");

    let new = house.newer_worker(1);
    let handle = TaskHandle::<u32>::new(house.client.clone(), submitted.id);
    // The old one may take it first, and park it again.
    assert_eq!(handle.wait(LONG).await.unwrap(), 1, "no attempt was burnt");
    assert_eq!(parked(&house).await, 0);
    assert!(house.redis.cli(&["ZCARD", "umbel:{default}:parked"]).contains('0'));
    old.stop().await.unwrap();
    new.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_nobody_ever_knows_becomes_a_dead_letter_in_the_end() {
    let house = House::start();
    let worker = house.worker_with(|settings| settings.park_limit = Duration::from_millis(1));
    let submitted = enqueue_later(&house, "a").await;
    let record = house.ended(&submitted.id).await;
    assert_eq!(record.state, TaskState::Failed);
    assert!(record.error.unwrap().contains(LATER));
    let letter = house.dead_letters();
    assert!(letter.contains("unknown"), "{letter}");
    assert_eq!((parked(&house).await, house.queue().await.delayed), (0, 0));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_task_is_parked_counts_from_the_first_time() {
    let house = House::start();
    let submitted = enqueue_later(&house, "a").await;
    let worker = house.worker(1);
    eventually_eq("it is parked", 1, async || parked(&house).await).await;
    worker.stop().await.unwrap();
    let first = give_up(&house, &submitted);
    // It comes back, as by a newer worker that dies at once, and is parked again.
    assert_eq!(house.client.unpark(&shard(), LATER).await.unwrap(), 1);
    let again = house.worker(1);
    eventually_eq("it is parked again", 1, async || parked(&house).await).await;
    again.stop().await.unwrap();
    let second = give_up(&house, &submitted);
    assert!((first - second).abs() < 1_000, "{first} and {second}");
}

/// When a parked task is given up, ms.
fn give_up(house: &House, submitted: &Submitted) -> i64 {
    let key = shard().parked_as(LATER);
    let score = house.redis.cli(&["ZSCORE", &key, submitted.id.as_str()]);
    score.trim().trim_matches('"').parse::<f64>().unwrap() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_envelope_waits_for_a_newer_worker_and_comes_back_byte_for_byte() {
    let house = House::start();
    let id = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    let now = Utc::now().timestamp_millis().to_string();
    #[rustfmt::skip]
    house.redis.cli(&[
        "XADD", "umbel:{default}:ready:low", "*",
        "id", id, "task", "probe", "attempt", "1", "crashes", "0", "enqueued", &now,
        "version", "2", "env", "of another shape", "seal", "unknown here",
    ]);
    let worker = house.worker(1);
    let readable = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    readable.wait(LONG).await.unwrap();
    eventually_eq("it is parked", 1, async || parked(&house).await).await;
    assert!(house.dead_letters().trim().is_empty());
    // This worker knows the name, and leaves it alone all the same.
    let shown = house.redis.cli(&["ZRANGE", "umbel:{default}:parked", "0", "-1"]);
    assert!(shown.contains("probe@2"), "{shown}");
    worker.stop().await.unwrap();
    // When it comes back, it is what it was, where it was.
    assert_eq!(house.client.unpark(&shard(), "probe@2").await.unwrap(), 1);
    let back = house.redis.cli(&["XRANGE", "umbel:{default}:ready:low", "-", "+"]);
    for word in ["of another shape", "seal", "unknown here", id] {
        assert!(back.contains(word), "{word} in {back}");
    }
}
