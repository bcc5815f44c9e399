//! A task that nobody wants any more does not start; one that runs comes to its end; what ran shows
//! how far it is, and each of its runs.

use std::time::Duration;

use chrono::Utc;
use umbel_broker::{Cancel, Held, NewTask, Settlement, Settler, TaskHandle, Verdict};
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::{House, terms},
    probe::{Act, LATER, Probe, shard},
};
use umbel_worker::End;

const LONG: Duration = Duration::from_secs(30);

async fn state(handle: &TaskHandle<u32>) -> Option<TaskState> {
    handle.record().await.unwrap().map(|record| record.state)
}

async fn cancel(house: &House, handle: &TaskHandle<u32>) -> Option<Cancel> {
    house.client.cancel(handle.id(), "ann").await.unwrap()
}

fn cancelled() -> [End; 1] {
    [End::Cancelled { by: "ann".to_owned() }]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_ends_as_cancelled_without_being_started_and_is_told() {
    let house = House::start();
    let queued = house.client.enqueue(Probe::new("queued", Act::Ok)).await.unwrap();
    let delayed = house.client.enqueue(Probe::new("delayed", Act::Ok));
    let delayed = delayed.delay(Duration::from_hours(1)).await.unwrap();
    for handle in [&queued, &delayed] {
        assert_eq!(cancel(&house, handle).await, Some(Cancel::Waiting));
    }
    // The mark survives whatever happens to Redis until a worker comes.
    house.redis.kill9();
    house.redis.restart();
    eventually("it is back", async || house.client.ping().await.ok()).await;
    let worker = house.worker(2);
    for (handle, name) in [(&queued, "queued"), (&delayed, "delayed")] {
        let record = house.ended(handle.id()).await;
        assert_eq!(record.state, TaskState::Cancelled);
        assert_eq!(record.cancelled_by.as_deref(), Some("ann"));
        assert_eq!((record.started, record.error.as_deref()), (None, Some("ann")));
        assert_eq!(house.record.ends_of(name), cancelled());
        assert_eq!(cancel(&house, handle).await, Some(Cancel::Ended(TaskState::Cancelled)));
    }
    assert!(house.record.order().is_empty(), "none was started");
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.delayed, queue.dead), (0, 0, 0));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_asked_to_end_and_its_task_is_not_tried_again() {
    let house = House::start();
    let worker = house.worker(2);
    let handle = house.client.enqueue(Probe::new("a", Act::UntilCancelled)).await.unwrap();
    eventually_eq("runs", Some(TaskState::Running), async || state(&handle).await).await;
    assert_eq!(cancel(&house, &handle).await, Some(Cancel::Running));
    let record = house.ended(handle.id()).await;
    assert_eq!(record.state, TaskState::Cancelled);
    assert!(record.started.is_some());
    assert_eq!(house.record.attempts_of("a"), [1]);
    assert_eq!(house.record.ends_of("a"), cancelled());
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_heed_it_is_ended_and_one_that_succeeds_before_has_succeeded() {
    let house = House::start();
    let worker = house.worker(2);
    let deaf = house.client.enqueue(Probe::new("deaf", Act::Hang)).await.unwrap();
    let done = house.client.enqueue(Probe::new("done", Act::Hold)).await.unwrap();
    for handle in [&deaf, &done] {
        eventually_eq("runs", Some(TaskState::Running), async || state(handle).await).await;
        assert_eq!(cancel(&house, handle).await, Some(Cancel::Running));
    }
    house.record.open("done");
    assert_eq!(done.wait(LONG).await.unwrap(), 1);
    assert_eq!(house.ended(deaf.id()).await.state, TaskState::Cancelled);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_next_attempt_or_for_a_newer_worker_is_cancelled_at_once() {
    let house = House::start();
    let worker = house.worker(2);
    let snoozing = house.client.enqueue(Probe::new("a", Act::Snooze(3_600_000))).await.unwrap();
    eventually_eq("snoozes", Some(TaskState::Scheduled), async || state(&snoozing).await).await;
    let mut new = NewTask::of(&Probe::new("b", Act::Ok)).unwrap();
    new.task = LATER.parse().unwrap();
    new.call.tracked = true;
    let parked = house.client.submit(new).await.unwrap();
    let parked: TaskHandle<u32> = TaskHandle::new(house.client.clone(), parked.id);
    eventually_eq("is parked", Some(TaskState::Parked), async || state(&parked).await).await;
    for handle in [&snoozing, &parked] {
        assert_eq!(cancel(&house, handle).await, Some(Cancel::Waiting));
        assert_eq!(house.ended(handle.id()).await.state, TaskState::Cancelled);
    }
    let queue = house.queue().await;
    assert_eq!((queue.delayed, queue.parked, queue.dead), (0, 0, 0));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_of_a_dead_worker_is_not_run_again() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let held = Held::default();
    let taken = house.consumer("gone", &held).fetch(1).await.unwrap();
    house.client.start("gone", &held, taken, Utc::now()).await.unwrap();
    assert_eq!(cancel(&house, &handle).await, Some(Cancel::Running));
    house.client.sign_off("gone", Utc::now()).await.unwrap();
    let worker = house.worker(1);
    assert_eq!(house.ended(handle.id()).await.state, TaskState::Cancelled);
    assert!(house.record.attempts_of("a").is_empty());
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_unknown_nothing_is_cancelled() {
    let house = House::start();
    let untracked = house.client.enqueue(Probe::new("a", Act::Ok)).untracked().await.unwrap();
    assert_eq!(cancel(&house, &untracked).await, None);
    let worker = house.worker(1);
    assert_eq!(untracked.wait(LONG).await.unwrap(), 1);
    assert_eq!(cancel(&house, &untracked).await, Some(Cancel::Ended(TaskState::Succeeded)));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_start_comes_too_late_expires_in_whatever_attempt() {
    let house = House::start();
    let soon = Duration::from_millis(300);
    let late = house.client.enqueue(Probe::new("late", Act::Ok)).expires_in(soon).await.unwrap();
    let delayed = house.client.enqueue(Probe::new("delayed", Act::Ok));
    let delayed = delayed.delay(soon * 2).expires_in(soon).await.unwrap();
    let again = house.client.enqueue(Probe::new("again", Act::Snooze(1_000)));
    let again = again.expires_in(Duration::from_millis(900)).await.unwrap();
    let in_time = house.client.enqueue(Probe::new("in time", Act::Ok)).expires_in(LONG * 100);
    let in_time = in_time.await.unwrap();
    eventually("the first has expired", async || {
        let made = late.record().await.unwrap()?.enqueued?;
        (Utc::now() - made > chrono::Duration::milliseconds(301)).then_some(())
    })
    .await;
    let worker = house.worker(2);
    for (handle, name) in [(&late, "late"), (&delayed, "delayed"), (&again, "again")] {
        assert_eq!(house.ended(handle.id()).await.state, TaskState::Expired, "{name}");
        assert_eq!(house.record.ends_of(name), [End::Expired]);
    }
    assert_eq!(in_time.wait(LONG).await.unwrap(), 1);
    let mut started = house.record.order();
    started.retain(|name| name != "again");
    assert_eq!(started, ["in time"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_that_failed_is_kept_with_its_error() {
    let house = House::start();
    let worker = house.worker(1);
    let handle = house.client.enqueue(Probe::new("a", Act::FailFirst(2))).await.unwrap();
    handle.wait(LONG).await.unwrap();
    let record = handle.record().await.unwrap().unwrap();
    let runs: Vec<_> = record
        .past
        .iter()
        .map(|run| (run.attempt, run.error.as_str(), run.worker.as_str()))
        .collect();
    assert_eq!(runs, [(1, "not yet", worker.id.as_str()), (2, "not yet", worker.id.as_str())]);
    assert!(record.past[0].started <= record.past[0].finished);
    assert!(record.past[0].finished <= record.past[1].started);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_task_that_is_tried_very_often_the_last_runs_are_kept() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).max_attempts(40).await.unwrap();
    let held = Held::default();
    let (settler, settling) = Settler::start(house.client.clone(), "w".to_owned(), held.clone());
    let mut consumer = house.consumer("w", &held);
    for _ in 0..30 {
        let taken = eventually("it is due", async || {
            house.client.tick(&shard(), Utc::now()).await.unwrap();
            consumer.fetch(1).await.unwrap().pop()
        })
        .await;
        let verdict = Verdict::Retry { delay: Duration::ZERO, error: "no".to_owned() };
        settler.settle(Settlement { delivery: taken, verdict, terms: terms() }).await;
        eventually("it is settled", async || held.is_empty().then_some(())).await;
    }
    let past = handle.record().await.unwrap().unwrap().past;
    let kept: Vec<u32> = past.iter().map(|run| run.attempt).collect();
    assert_eq!(kept, (11..=30).collect::<Vec<u32>>());
    drop(settler);
    settling.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_run_is_can_be_read_until_it_has_ended() {
    let house = House::start();
    let worker = house.worker(1);
    let handle = house.client.enqueue(Probe::new("a", Act::Tell)).await.unwrap();
    let progress = async || handle.record().await.unwrap().and_then(|record| record.progress);
    eventually_eq("it has told", Some(serde_json::json!({"done": 1, "of": 2})), progress).await;
    house.record.open("a");
    handle.wait(LONG).await.unwrap();
    assert_eq!(handle.record().await.unwrap().unwrap().progress, None);
    worker.stop().await.unwrap();
}
