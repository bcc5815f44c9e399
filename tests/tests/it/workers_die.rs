//! What a worker held is run by another; what a worker that was thought dead says is refused.

use std::time::Duration;

use chrono::Utc;
use umbel_broker::{
    Held, Settlement, Settler, Verdict,
    keys::Stream,
    liveness::{Cause, Heartbeat},
};
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::{eventually, eventually_eq, within},
    house::{House, terms},
    probe::{Act, Probe, shard},
};

const LONG: Duration = Duration::from_secs(20);

/// Declares a worker dead that was never seen to beat, and adds what it held again.
async fn bury_worker(house: &House, worker: &str) {
    assert!(house.client.declare_dead(worker, "", &Cause::Silent, Utc::now()).await.unwrap());
    house.client.recover(&shard(), worker, true).await.unwrap();
}

/// As its peers would, at a moment when it has not beaten in between.
async fn declare_dead(house: &House, worker: &str) {
    eventually("it is declared dead", async || {
        let beat = house.redis.cli(&["HGET", "umbel:{workers}:heartbeat", worker]);
        let beat = beat.trim().trim_matches('"');
        let declared = house.client.declare_dead(worker, beat, &Cause::Silent, Utc::now());
        (!beat.is_empty() && declared.await.unwrap()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_workers_tasks_are_run_by_another() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    // A worker that reads and is never heard of again.
    let taken = house.consumer("gone", &Held::default()).fetch(1).await.unwrap();
    assert_eq!(taken.len(), 1);
    let worker = house.worker_with(|settings| settings.lease = Duration::from_secs(12));
    // One missed answer of Redis begins the lease again.
    let a_lease_and_more = Duration::from_secs(45);
    within(a_lease_and_more, "the task ends", async || {
        let record = handle.record().await.unwrap()?;
        (record.state == TaskState::Succeeded).then_some(())
    })
    .await;
    assert_eq!(house.record.attempts_of("a"), [1], "a death burns no attempt");
    eventually("its consumer is gone", async || {
        (!house.client.consumers(&shard()).await.unwrap().contains("gone")).then_some(())
    })
    .await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_of_what_was_given_to_another_is_refused() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let held = Held::default();
    let mut zombie = house.consumer("zombie", &held);
    let [taken] = <[_; 1]>::try_from(zombie.fetch(1).await.unwrap()).unwrap();
    bury_worker(&house, "zombie").await;

    let (settler, settling) =
        Settler::start(house.client.clone(), "zombie".to_owned(), held.clone());
    let verdict = Verdict::Complete { output: vec![0x2a] };
    settler.settle(Settlement { delivery: taken, verdict, terms: terms() }).await;
    let refused = settler.clone();
    drop(settler);
    eventually_eq("the settle is refused", 1, async || refused.stale()).await;
    drop(refused);
    settling.await.unwrap();
    // Nothing was written, and the task still waits.
    assert_eq!(handle.record().await.unwrap().unwrap().state, TaskState::Queued);
    assert_eq!(house.queue().await.queued, 1);

    let worker = house.worker(1);
    assert_eq!(handle.wait(LONG).await.unwrap(), 1, "the result of the rightful run");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_recovered_entry_does_not_spoil_the_settle_of_the_others() {
    let house = House::start();
    let probes = (0..5).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    let answers = house.client.enqueue_many(probes).tracked().await.unwrap();
    let handles: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let held = Held::default();
    let taken = house.consumer("w", &held).fetch(5).await.unwrap();
    // Two of five are given to others, as a recovery would.
    for delivery in [&taken[1], &taken[3]] {
        let key = shard().ready(Stream::Normal);
        house.redis.cli(&["XACK", &key, "workers", delivery.entry()]);
        house.redis.cli(&["XDEL", &key, delivery.entry()]);
    }
    let (settler, settling) = Settler::start(house.client.clone(), "w".to_owned(), held.clone());
    for delivery in taken {
        let verdict = Verdict::Complete { output: vec![1] };
        settler.settle(Settlement { delivery, verdict, terms: terms() }).await;
    }
    let counts = settler.clone();
    drop(settler);
    eventually_eq("two are stale", 2, async || counts.stale()).await;
    drop(counts);
    settling.await.unwrap();
    let mut states = Vec::new();
    for handle in &handles {
        states.push(handle.record().await.unwrap().unwrap().state);
    }
    use TaskState::{Queued, Succeeded};
    assert_eq!(states, [Succeeded, Queued, Succeeded, Queued, Succeeded]);
    assert!(held.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_declared_dead_is_fenced() {
    let house = House::start();
    assert!(matches!(house.client.heartbeat("w", "{}").await.unwrap(), Heartbeat::Alive(_)));
    // Judged by the beat that was seen: a worker that beats in between lives.
    assert!(!house.client.declare_dead("w", "0", &Cause::Silent, Utc::now()).await.unwrap());
    assert!(house.client.declare_dead("w", "1", &Cause::Silent, Utc::now()).await.unwrap());
    assert_eq!(house.client.heartbeat("w", "{}").await.unwrap(), Heartbeat::Fenced);
    assert!(!house.client.declare_dead("w", "1", &Cause::Silent, Utc::now()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_declared_dead_goes_on_under_a_new_id() {
    let house = House::start();
    let worker = house.worker(2);
    let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    declare_dead(&house, &worker.id).await;
    let id = worker.id.replace("-1", "-2");
    eventually("it beats under a new id", async || {
        house.client.workers().await.unwrap().contains_key(&id).then_some(())
    })
    .await;
    // It recovers its own former self, and runs the task again beside the run that nobody wants
    // any more; that one is asked to end, and what it says is refused.
    eventually("it runs again", async || (house.record.order().len() == 2).then_some(())).await;
    house.record.open("held");
    house.record.open("held");
    assert_eq!(held.wait(LONG).await.unwrap(), 1);
    let after = house.client.enqueue(Probe::new("after", Act::Ok)).await.unwrap();
    after.wait(LONG).await.unwrap();
    assert_eq!(after.record().await.unwrap().unwrap().worker, Some(id));
    let stopped = worker.stop().await.unwrap();
    assert_eq!((stopped.given_back, stopped.unsettled), (0, 0));
    assert_eq!(house.queue().await.queued + house.queue().await.running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_tasks_end_and_gives_back_what_does_not() {
    let house = House::start();
    let quick = house.client.enqueue(Probe::new("quick", Act::Hold)).await.unwrap();
    let slow = house.client.enqueue(Probe::new("slow", Act::Hold)).await.unwrap();
    let worker = house.worker(2);
    eventually("both run", async || (house.record.order().len() == 2).then_some(())).await;
    let stopping = tokio::spawn(worker.stop());
    house.record.open("quick");
    let stopped = stopping.await.unwrap().unwrap();
    assert_eq!((stopped.given_back, stopped.unsettled), (1, 0));
    assert_eq!(quick.record().await.unwrap().unwrap().state, TaskState::Succeeded);
    let back = slow.record().await.unwrap().unwrap();
    assert_eq!((back.state, back.attempt), (TaskState::Queued, 1));
    assert!(house.redis.cli(&["XLEN", &shard().ready(Stream::Recovered)]).contains('1'));
    // It is run at once by the next worker, as the same attempt.
    house.record.open("slow");
    let next = house.worker(1);
    assert_eq!(slow.wait(LONG).await.unwrap(), 1);
    next.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_stops_at_once_and_leaves_no_consumer_that_holds_tasks() {
    let house = House::start();
    let worker = house.worker(1);
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    handle.wait(LONG).await.unwrap();
    let began = std::time::Instant::now();
    worker.stop().await.unwrap();
    // A blocked read lasts five seconds; the stop ends it.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(house.queue().await.running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_drained_by_a_worker_that_comes_late() {
    let house = House::start();
    let probes = (0..20).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).await.unwrap();
    house.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = house.client.enqueue(Probe::new("more", Act::Ok)).await;
    assert!(matches!(refused, Err(umbel_broker::BrokerError::Refused(_))), "{refused:?}");
    let worker = house.worker(4);
    eventually("all run", async || (house.record.order().len() == 20).then_some(())).await;
    eventually_eq("all are settled", 0, async || house.queue().await.running).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_put_right_lets_the_same_client_in() {
    let house = House::start();
    house.redis.cli(&["CONFIG", "SET", "requirepass", "another"]);
    let url = house.redis.url().replace("redis://", "redis://:s3cret@");
    let settings = umbel_broker::BrokerSettings::new(url);
    let client = umbel_broker::Client::open(&settings, "test").unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, umbel_broker::BrokerError::Denied(_)), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    house.redis.cli(&["-a", "another", "CONFIG", "SET", "requirepass", "s3cret"]);
    client.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_while_redis_is_away() {
    let house = House::start();
    let worker = house.worker(1);
    house.client.enqueue(Probe::new("a", Act::Hold)).await.unwrap();
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    house.redis.kill9();
    let began = std::time::Instant::now();
    let stopped = worker.stop().await.unwrap();
    assert_eq!(stopped.unsettled, 1);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    house.redis.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_id_that_was_used_before_gets_the_next_number() {
    let house = House::start();
    let same = |settings: &mut umbel_worker::WorkerSettings| "same".clone_into(&mut settings.boot);
    let first = house.worker_with(same);
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    handle.wait(LONG).await.unwrap();
    first.stop().await.unwrap();
    let second = house.worker_with(same);
    let handle = house.client.enqueue(Probe::new("b", Act::Ok)).await.unwrap();
    handle.wait(LONG).await.unwrap();
    let worker = handle.record().await.unwrap().unwrap().worker.unwrap();
    assert!(worker.ends_with("-2"), "{worker}");
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_killed_and_restarted_is_found_again() {
    let house = House::start();
    // A slow disk lets `everysec` hold back the last two seconds, and with them the delivery.
    house.redis.cli(&["CONFIG", "SET", "appendfsync", "always"]);
    let worker = house.worker(2);
    let before = house.client.enqueue(Probe::new("before", Act::Hold)).await.unwrap();
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    house.redis.kill9();
    house.record.open("before");
    assert!(house.client.enqueue(Probe::new("away", Act::Ok)).await.is_err());
    house.redis.restart();
    // What ended while Redis was away is settled once it is back: same entry, another run_id.
    assert_eq!(before.wait(LONG).await.unwrap(), 1);
    let after = house.client.enqueue(Probe::new("after", Act::Ok)).await.unwrap();
    assert_eq!(after.wait(LONG).await.unwrap(), 1);
    assert_eq!(house.record.attempts_of("before"), [1]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_makes_the_groups_again_after_everything_was_flushed() {
    let house = House::start();
    let worker = house.worker(2);
    let before = house.client.enqueue(Probe::new("before", Act::Ok)).await.unwrap();
    before.wait(LONG).await.unwrap();
    house.redis.cli(&["FLUSHALL"]);
    let after = house.client.enqueue(Probe::new("after", Act::Ok)).await.unwrap();
    assert_eq!(after.wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_from_before_a_flush_ends_no_other_task() {
    let house = House::start();
    let key = shard().ready(Stream::Normal);
    house.client.enqueue(Probe::new("old", Act::Ok)).await.unwrap();
    let held = Held::default();
    let [old] = <[_; 1]>::try_from(house.consumer("w", &held).fetch(1).await.unwrap()).unwrap();
    let dumped = house.client.enqueue(Probe::new("new", Act::Ok)).await.unwrap();
    let shown = house.redis.cli(&["XRANGE", &key, "-", "+"]);
    assert!(shown.contains(dumped.id().as_str()));
    // The same entry id comes again for another task, under the same run_id.
    house.redis.cli(&["FLUSHALL"]);
    house.redis.cli(&["XADD", &key, old.entry(), "id", dumped.id().as_str(), "task", "probe"]);
    let other = Held::default();
    let again = house.consumer("w", &other).fetch(1).await.unwrap();
    assert_eq!(again[0].entry(), old.entry());

    let (settler, settling) = Settler::start(house.client.clone(), "w".to_owned(), held.clone());
    let verdict = Verdict::Complete { output: vec![1] };
    settler.settle(Settlement { delivery: old, verdict, terms: terms() }).await;
    drop(settler);
    settling.await.unwrap();
    assert!(house.redis.cli(&["XLEN", &key]).contains('1'), "the other task is still there");
    assert!(held.is_empty());
}
